/*
 * A resolver that says what a test wants, when the test lets it: in the helper's thread, behind
 * berth_sys_getaddrinfo. And a rig whose loop asks it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_NAMES_H
#define BERTH_TESTS_LOOP_NAMES_H

#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#define BERTH_SYS_RESOLVE

#include "loop/record.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#include "os/sys.h"
#include "support/faults.h"

/** More than are tried of one name. */
#define ADDRESSES_MAX 40

/** As many look-ups as are under way at a time: HELPERS_MAX in resolve.c. */
#define HELPERS 4

/** What this file's resolver says, and what it has been asked. */
static struct {
    int error;
    unsigned count;
    struct sockaddr_in addresses[ADDRESSES_MAX];
    int gate[2];       /**< a name that begins with "slow" takes a byte from here */
    int tardy_gate[2]; /**< and one that begins with "tardy" from here */
    int freed[2];      /**< a byte for every answer that was freed */
    int asked[2];      /**< and for every question */
    int woken[2];      /**< and for every time that the loop was woken */
} names;

static inline __attribute__((unused)) void
tell(const int *pair)
{
    if (write(pair[1], "", 1) != 1)
        abort(); /* no assertion of Check's: this may be a helper's thread */
}

/** Waits until so many have told. */
static inline __attribute__((unused)) void
listen_to(const int *pair, unsigned count)
{
    char byte;
    while (count-- > 0)
        ck_assert_int_eq(read(pair[0], &byte, 1), 1);
}

/** How many have told and nobody has listened to. */
static inline __attribute__((unused)) unsigned
told(const int *pair)
{
    int bytes = 0;
    ck_assert_int_eq(ioctl(pair[0], FIONREAD, &bytes), 0);
    return (unsigned)bytes;
}

static inline __attribute__((unused)) intptr_t
answer_names(const char *host, const char *port, struct addrinfo **addresses)
{
    char byte;
    tell(names.asked);
    const int *gate = strncmp(host, "slow", 4) == 0    ? names.gate
                      : strncmp(host, "tardy", 5) == 0 ? names.tardy_gate
                                                       : NULL;
    while (gate != NULL && read(gate[0], &byte, 1) != 1)
        ;
    *addresses = NULL;
    if (names.error != 0)
        return names.error;
    struct addrinfo **end = addresses;
    for (unsigned i = 0; i < names.count; i++) {
        struct addrinfo *info = calloc(1, sizeof(*info) + sizeof(names.addresses[i]));
        if (info == NULL)
            abort();
        info->ai_family = AF_INET;
        info->ai_addr = (struct sockaddr *)(void *)(info + 1);
        info->ai_addrlen = sizeof(names.addresses[i]);
        memcpy(info->ai_addr, &names.addresses[i], sizeof(names.addresses[i]));
        if (names.addresses[i].sin_port == 0)
            ((struct sockaddr_in *)(void *)info->ai_addr)->sin_port = htons((uint16_t)atoi(port));
        *end = info;
        end = &info->ai_next;
    }
    return 0;
}

static inline __attribute__((unused)) intptr_t
free_names(struct addrinfo *addresses)
{
    while (addresses != NULL) {
        struct addrinfo *next = addresses->ai_next;
        free(addresses);
        addresses = next;
    }
    tell(names.freed);
    return 0;
}

static inline __attribute__((unused)) intptr_t
count_writes(int fd, const void *data, size_t size)
{
    const intptr_t result = sys_direct_write(fd, data, size);
    tell(names.woken);
    return result;
}

static inline __attribute__((unused)) void
add_address(const char *host, unsigned port)
{
    struct sockaddr_in *address = &names.addresses[names.count++];
    memset(address, 0, sizeof(*address));
    address->sin_family = AF_INET;
    address->sin_port = htons((uint16_t)port);
    ck_assert_int_eq(inet_pton(AF_INET, host, &address->sin_addr), 1);
}

/** An address at which connect(2) fails at once, and what it says. */
static inline __attribute__((unused)) int
add_impossible(void)
{
    add_address("255.255.255.255", 9);
    const struct sockaddr_in *address = &names.addresses[names.count - 1];
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(connect(fd, (const struct sockaddr *)address, sizeof(*address)), -1);
    const int error = -errno;
    ck_assert_int_ne(error, -EINPROGRESS);
    ck_assert_int_eq(close(fd), 0);
    return error;
}

/** An address that refuses: bound by `holder`, which does not listen and must be closed. */
static inline __attribute__((unused)) void
add_refusing(int *holder)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof(address);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *holder = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(*holder, 0);
    ck_assert_int_eq(bind(*holder, (struct sockaddr *)&address, size), 0);
    ck_assert_int_eq(getsockname(*holder, (struct sockaddr *)&address, &size), 0);
    add_address("127.0.0.1", ntohs(address.sin_port));
}

/** Lets so many slow names be answered. */
static inline __attribute__((unused)) void
open_gate(unsigned count)
{
    while (count-- > 0)
        tell(names.gate);
}

/** The listener's end of a connection goes when the other one does. */
static inline __attribute__((unused)) void
close_too(struct record *record, struct berth_conn *conn)
{
    (void)record;
    (void)berth_conn_close(conn);
}

/** A rig whose listener `record` hears of; `mine` is for connections made by name. */
static inline __attribute__((unused)) void
begin(struct rig *rig, struct record *record, struct record *mine, const char *engine)
{
    memset(&names, 0, sizeof(names));
    ck_assert_int_eq(pipe2(names.gate, O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(names.tardy_gate, O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(names.freed, O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(names.asked, O_CLOEXEC), 0);
    ck_assert_int_eq(pipe2(names.woken, O_CLOEXEC), 0);
    berth_sys_getaddrinfo = answer_names;
    berth_sys_freeaddrinfo = free_names;
    berth_sys_write = count_writes;
    record_begin(rig, record, engine);
    record->on_eof = close_too;
    memset(mine, 0, sizeof(*mine));
    mine->rig = rig;
}

static inline __attribute__((unused)) void
close_pipes(void)
{
    for (unsigned i = 0; i < 2; i++) {
        ck_assert_int_eq(close(names.gate[i]), 0);
        ck_assert_int_eq(close(names.tardy_gate[i]), 0);
        ck_assert_int_eq(close(names.freed[i]), 0);
        ck_assert_int_eq(close(names.asked[i]), 0);
        ck_assert_int_eq(close(names.woken[i]), 0);
    }
    faults_reset();
}

static inline __attribute__((unused)) void
end(struct rig *rig, struct record *record)
{
    record_end(rig, record);
    close_pipes();
}

static inline __attribute__((unused)) unsigned
listener_port(const struct rig *rig)
{
    char text[BERTH_ADDRESS_TEXT_MAX];
    ck_assert_int_eq(berth_listener_address(rig->listener, text, sizeof(text)), 0);
    return (unsigned)atoi(strrchr(text, ':') + 1);
}

/** Connects to that name at the listener's port. */
static inline __attribute__((unused)) berth_token
connect_to(struct rig *rig, struct record *mine, const char *host)
{
    char text[BERTH_ADDRESS_TEXT_MAX];
    berth_token token = 0;
    (void)snprintf(text, sizeof(text), "tcp://%s:%u", host, listener_port(rig));
    const int error = berth_connect(rig->loop, text, &recording, mine, &token);
    ck_assert_msg(error == 0, "%s: %s", text, strerror(-error));
    ck_assert_uint_ne(token, 0);
    return token;
}

/** Closes one that opened, and waits until both ends are gone. */
static inline __attribute__((unused)) void
close_both(struct rig *rig, struct record *record, struct record *mine, berth_token token)
{
    const unsigned before = mine->closes;
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig->loop, token)), 0);
    RIG_UNTIL(rig, mine->closes == before + 1 && record->closes == record->opens, TURNS);
}

#endif
