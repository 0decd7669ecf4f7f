/*
 * The flood of berth-bench: it takes back what an echo server sends, and finds out a server that
 * alters, loses, doubles or exchanges bytes, or closes. And the hand-written servers keep the bytes
 * of a connection in order that sends far more than it reads.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "flood.h"
#include "server.h"

#define PAGE 4096u
#define ENOUGH (UINT64_C(4) << 20)

/** After so many pages something is done wrong. */
#define RIGHT_PAGES 25u

/* ---- servers that do one thing wrong -----------------------------------------------------------
 */

enum wrong { NOTHING, ALTERS, LOSES, DOUBLES, EXCHANGES, CLOSES, WRONGS };

struct one_server {
    pthread_t thread;
    int listener;
    uint16_t port;
    enum wrong wrong;
};

/** Sends two pages as they are or otherwise. False: the other side is gone. */
static bool
answer(int fd, unsigned char *pages, enum wrong wrong)
{
    unsigned char first[PAGE];
    size_t bytes = 2 * PAGE;
    if (wrong == ALTERS)
        pages[PAGE + 17] ^= 1;
    if (wrong == LOSES)
        bytes = PAGE; /* what is lost is told by what comes next */
    if (wrong == EXCHANGES) {
        memcpy(first, pages, PAGE);
        memcpy(pages, pages + PAGE, PAGE);
        memcpy(pages + PAGE, first, PAGE);
    }
    if (wrong == DOUBLES && send(fd, pages, PAGE, MSG_NOSIGNAL) != PAGE)
        return false;
    return send(fd, pages, bytes, MSG_NOSIGNAL) == (ssize_t)bytes;
}

static void *
one_serve(void *context)
{
    const struct one_server *server = context;
    unsigned char pages[2 * PAGE];
    const int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
    for (unsigned i = 0; fd >= 0; i++) {
        const enum wrong wrong = i == RIGHT_PAGES ? server->wrong : NOTHING;
        if (wrong == CLOSES || recv(fd, pages, sizeof pages, MSG_WAITALL) != sizeof pages ||
            !answer(fd, pages, wrong))
            break;
    }
    close(fd);
    return NULL;
}

static void
one_start(struct one_server *server, enum wrong wrong)
{
    server->wrong = wrong;
    server->listener = server_listen(&server->port);
    ck_assert_int_ge(server->listener, 0);
    /* It waits in accept, and not in a loop. */
    const int listener = server->listener;
    ck_assert_int_eq(fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) & ~O_NONBLOCK), 0);
    ck_assert_int_eq(pthread_create(&server->thread, NULL, one_serve, server), 0);
}

/** Floods until `bytes` have come back in all. 0 or what went wrong. */
static int
flood_for(struct flood *flood, uint64_t bytes)
{
    int error = 0;
    while (error == 0 && flood_bytes(flood) < bytes) {
        error = flood_step(flood);
        sched_yield();
    }
    return error;
}

START_TEST(what_comes_back_is_checked)
{
    static const int errors[WRONGS] = {
        [NOTHING] = 0,       [ALTERS] = -EPROTO,    [LOSES] = -EPROTO,
        [DOUBLES] = -EPROTO, [EXCHANGES] = -EPROTO, [CLOSES] = -ECONNRESET};
    struct one_server server;
    struct flood *flood;
    one_start(&server, (enum wrong)_i);
    ck_assert_int_eq(flood_open(&flood, 1, server.port), 0);
    ck_assert_uint_eq(flood_bytes(flood), 0);
    ck_assert_int_eq(flood_for(flood, ENOUGH), errors[_i]);
    if (_i != NOTHING)
        ck_assert_uint_le(flood_bytes(flood), (RIGHT_PAGES + 1) * 2 * PAGE);
    flood_close(flood);
    pthread_join(server.thread, NULL);
    close(server.listener);
}
END_TEST

START_TEST(impossible_floods_are_refused)
{
    struct flood *flood;
    uint16_t port;
    ck_assert_int_eq(flood_open(&flood, 0, 1), -EINVAL);
    ck_assert_int_eq(flood_open(&flood, FLOOD_CONNS_MAX + 1, 1), -EINVAL);
    ck_assert_ptr_null(flood);
    const int listener = server_listen(&port);
    ck_assert_int_ge(listener, 0);
    close(listener);
    ck_assert_int_eq(flood_open(&flood, 4, port), -ECONNREFUSED);
    ck_assert_ptr_null(flood);
    flood_close(NULL);
}
END_TEST

/* ---- the hand-written servers ------------------------------------------------------------------
 */

static const struct server_kind kinds[] = {
    {.name = "plain-epoll", .serve = rival_epoll_serve},
#ifdef BERTH_HAVE_LIBURING
    {.name = "plain-uring", .serve = rival_uring_serve},
#endif
};
#define KINDS ((int)(sizeof kinds / sizeof kinds[0]))

/** Starts one, or says that this system does not let it. */
static bool
kind_start(struct server *server, const struct server_kind *kind)
{
    const int error = server_start(server, kind, -1);
    if (error == -ENOSYS || error == -EPERM || error == -EINVAL) {
        printf("skipped: %s: %s\n", kind->name, strerror(-error));
        return false;
    }
    ck_assert_int_eq(error, 0);
    return true;
}

START_TEST(hand_written_servers_bear_a_flood)
{
    struct server server;
    struct flood *flood;
    if (!kind_start(&server, &kinds[_i]))
        return;
    ck_assert_int_eq(flood_open(&flood, 4, server.control->port), 0);
    ck_assert_int_eq(flood_for(flood, 4 * ENOUGH), 0);
    flood_close(flood);
    server_stop(&server);
}
END_TEST

/** Byte number `at` of what a greedy one sends. */
static unsigned char
byte_at(uint64_t at)
{
    return (unsigned char)(at ^ at >> 8 ^ at >> 16);
}

static void
greedy_send(int fd, uint64_t *sent)
{
    unsigned char data[16 * PAGE];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = byte_at(*sent + i);
    const ssize_t taken = send(fd, data, sizeof data, MSG_DONTWAIT | MSG_NOSIGNAL);
    ck_assert(taken >= 0 || errno == EAGAIN);
    *sent += taken < 0 ? 0 : (uint64_t)taken;
}

static void
greedy_receive(int fd, uint64_t *received)
{
    static unsigned char data[16 * PAGE], expected[16 * PAGE];
    const ssize_t got = recv(fd, data, sizeof data, MSG_DONTWAIT);
    ck_assert(got > 0 || (got < 0 && errno == EAGAIN));
    for (ssize_t i = 0; i < got; i++)
        expected[i] = byte_at(*received + (uint64_t)i);
    ck_assert(got < 0 || memcmp(data, expected, (size_t)got) == 0);
    *received += got < 0 ? 0 : (uint64_t)got;
}

/** Reads only when it cannot send: so the server's sends fall short all the time. */
START_TEST(hand_written_servers_keep_the_order)
{
    struct server server;
    uint64_t sent = 0, received = 0;
    const int bytes = 256 << 10; /* some segments of loopback: with less, it is all probes */
    if (!kind_start(&server, &kinds[_i]))
        return;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(server.control->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    while (received < sent || sent < 8 * ENOUGH) {
        const bool more = sent < 8 * ENOUGH;
        struct pollfd ready = {.fd = fd, .events = (short)(POLLIN | (more ? POLLOUT : 0))};
        ck_assert_int_eq(poll(&ready, 1, -1), 1);
        if (more && ready.revents & POLLOUT)
            greedy_send(fd, &sent);
        else
            greedy_receive(fd, &received);
    }
    close(fd);
    server_stop(&server);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("bench/flood");
    TCase *tcase = tcase_create("flood");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, test_descriptors_note, test_descriptors_compare);
    tcase_add_loop_test(tcase, what_comes_back_is_checked, NOTHING, WRONGS);
    tcase_add_test(tcase, impossible_floods_are_refused);
    tcase_add_loop_test(tcase, hand_written_servers_bear_a_flood, 0, KINDS);
    tcase_add_loop_test(tcase, hand_written_servers_keep_the_order, 0, KINDS);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
