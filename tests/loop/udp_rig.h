/*
 * What the tests of datagrams share: a socket of the loop that notes what it is told, and plain
 * sockets as its peers.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_UDP_RIG_H
#define BERTH_TESTS_UDP_RIG_H

#include "loop/loop_rig.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include "berth/udp.h"

/** What one socket was told, and what it does then. */
struct seen {
    unsigned datagrams, callbacks, empty, truncated;
    uint64_t bytes;
    uint32_t longest;       /**< bytes in one span */
    uint32_t segment_bytes; /**< of the last merged one */
    unsigned merged;        /**< datagrams that came in merged ones */
    unsigned errors, lost;
    int error; /**< the last one */
    unsigned drained, closes;
    int reason;
    int echo;                 /**< send everything back */
    int close_in_callback;    /**< 1: itself */
    struct berth_udp *victim; /**< to be closed by the first datagram */
    unsigned retain_max;      /**< keep so many of what comes */
    struct berth_lease *leases;
    unsigned retained;
    void (*look)(struct berth_udp *udp, const struct berth_datagram *datagram);
};

static inline void
seen_datagram(struct berth_udp *udp, struct seen *seen, const struct berth_datagram *datagram)
{
    struct berth_pool *pool = berth_loop_pool(berth_udp_loop(udp));
    const uint32_t length = datagram->span.length;
    seen->datagrams++;
    seen->bytes += length;
    seen->empty += length == 0;
    seen->truncated += datagram->truncated;
    if (length > seen->longest)
        seen->longest = length;
    if (datagram->segment_bytes != 0) {
        seen->segment_bytes = datagram->segment_bytes;
        seen->merged += (length + datagram->segment_bytes - 1) / datagram->segment_bytes;
    }
    ck_assert_ptr_nonnull(datagram->span.data);
    ck_assert(datagram->from->sa_family == AF_INET || datagram->from->sa_family == AF_INET6);
    if (seen->look != NULL)
        seen->look(udp, datagram);
    if (seen->retained < seen->retain_max && length > 0) {
        ck_assert_int_eq(
            berth_retain(pool, &datagram->span, 0, length, 0, &seen->leases[seen->retained]), 0);
        seen->retained++;
    }
    if (seen->echo)
        ck_assert_int_eq(berth_udp_reply(udp, datagram, datagram->span.data, length), 0);
}

static inline void
seen_datagrams(struct berth_udp *udp, const struct berth_datagram *list, unsigned n)
{
    struct seen *seen = (struct seen *)berth_udp_context(udp);
    ck_assert_uint_eq(seen->closes, 0);
    ck_assert_uint_gt(n, 0);
    seen->callbacks++;
    for (unsigned i = 0; i < n; i++)
        seen_datagram(udp, seen, &list[i]);
    if (seen->close_in_callback) {
        ck_assert_int_eq(berth_udp_close(udp), 0);
        ck_assert_int_eq(berth_udp_close(udp), -EALREADY);
        ck_assert_int_eq(berth_udp_reply(udp, &list[0], "x", 1), -EPIPE);
    }
    if (seen->victim != NULL)
        ck_assert_int_eq(berth_udp_close(seen->victim), 0);
    seen->victim = NULL;
}

static inline void
seen_drained(struct berth_udp *udp)
{
    ((struct seen *)berth_udp_context(udp))->drained++;
}

static inline void
seen_error(struct berth_udp *udp, int error, unsigned lost)
{
    struct seen *seen = (struct seen *)berth_udp_context(udp);
    ck_assert_uint_eq(seen->closes, 0);
    ck_assert_int_lt(error, 0);
    seen->errors++;
    seen->lost += lost;
    seen->error = error;
}

static inline void
seen_close(struct berth_udp *udp, int reason)
{
    struct seen *seen = (struct seen *)berth_udp_context(udp);
    seen->closes++;
    seen->reason = reason;
}

static const struct berth_udp_handlers seen_handlers = {
    .datagrams = seen_datagrams,
    .drained = seen_drained,
    .error = seen_error,
    .close = seen_close,
};

static const struct berth_handlers no_handlers = {.open = NULL};

/** A loop on that engine; a pool of `pool_bytes` (0: the default). */
static inline void
udp_rig_begin(struct rig *rig, const char *engine, size_t pool_bytes)
{
    struct berth_pool_options pool;
    struct berth_loop_options options;
    berth_pool_options_init(&pool);
    if (pool_bytes > 0)
        pool.bytes_max = pool_bytes;
    rig_options(&options, engine, &pool);
    rig_begin(rig, &options, &no_handlers, NULL);
}

/** A socket on loopback that notes into `seen`. */
static inline struct berth_udp *
udp_open(const struct rig *rig, struct seen *seen, const struct berth_udp_options *options)
{
    struct berth_udp *udp = NULL;
    ck_assert_int_eq(
        berth_udp_open(rig->loop, "udp://127.0.0.1:0", &seen_handlers, seen, options, &udp), 0);
    ck_assert_ptr_nonnull(udp);
    return udp;
}

/** Where the socket is bound. */
static inline uint32_t
udp_where(const struct berth_udp *udp, struct sockaddr_in6 *address)
{
    char text[BERTH_ADDRESS_TEXT_MAX];
    uint32_t length = 0;
    ck_assert_int_eq(berth_udp_address(udp, text, sizeof(text)), 0);
    ck_assert_int_eq(berth_udp_address_parse(text, address, &length), 0);
    return length;
}

/** A plain socket on loopback, bound, and connected to `udp` unless that is NULL. */
static inline int
udp_client(const struct berth_udp *udp)
{
    struct sockaddr_in any = {.sin_family = AF_INET};
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0);
    if (udp != NULL) {
        struct sockaddr_in6 to;
        const uint32_t length = udp_where(udp, &to);
        ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, length), 0);
    }
    return fd;
}

/** Where a plain socket is bound. */
static inline struct sockaddr_in
udp_client_where(int fd)
{
    struct sockaddr_in address;
    socklen_t length = sizeof(address);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    return address;
}

/** Sends from the loop's socket to a plain one. */
static inline int
udp_send_to(struct berth_udp *udp, const struct sockaddr_in *to, const void *data, size_t length)
{
    return berth_udp_send(udp, (const struct sockaddr *)to, sizeof(*to), data, length);
}

/** Reads what has come for a plain socket; how many datagrams. */
static inline unsigned
udp_count(int client)
{
    char data[65536];
    unsigned count = 0;
    while (rig_read(client, data, sizeof(data)) >= 0)
        count++;
    return count;
}

/** Closes it, and turns until it has said so. */
static inline void
udp_close(const struct rig *rig, struct berth_udp *udp, const struct seen *seen)
{
    const berth_token token = berth_udp_token(udp);
    ck_assert_int_eq(berth_udp_close(udp), 0);
    RIG_UNTIL(rig, seen->closes == 1, 200);
    ck_assert_int_eq(seen->reason, 0);
    ck_assert_ptr_null(berth_udp_find(rig->loop, token));
}

#endif
