/*
 * What the test that switches everything knows: its links, each of two ends that send to each
 * other, the leases it keeps, the pools it takes from, and the loops. One file uses it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_SWITCHING_H
#define BERTH_TESTS_LOOP_SWITCHING_H

#include "loop/ways.h"

#define LOOPS 2
#define LINKS_MAX 12
#define HELD_MAX 400
#define HOGGED_MAX 600

/** Steps after which nothing is switched any more, and everything comes to its end. */
#define CALM_AFTER 600

/** Steps without a byte moved, each a turn of a millisecond: more than TCP's timers take. */
#define IDLE_MAX 8000

static uint64_t seed;

/** As ck_assert, which makes a system call each time, even when it holds. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("BERTH_SEED=%#llx: " #condition, (unsigned long long)seed);               \
    } while (0)

/** One end of a link: a plain socket, or a connection. */
struct end {
    struct end *peer;
    unsigned at;       /**< the loop that has it, or that it is on the way to; LOOPS: none */
    int fd;            /**< of a plain socket; -1: closed, or a connection */
    berth_token token; /**< of a connection */
    char name[BERTH_ADDRESS_TEXT_MAX]; /**< what the other side sees as its peer */
    uint32_t key;                      /**< of what it sends */
    uint64_t total, sent, got;
    unsigned paused_until; /**< credit is to be lifted then; 0: not paused */
    unsigned opened : 1, eof : 1, shut : 1, closed : 1;
};

struct held {
    struct berth_pool *pool;
    struct berth_lease lease;
    uint32_t key;
    uint64_t position;
};

static struct {
    struct rig rigs[LOOPS];
    struct berth_loop_options options[LOOPS];
    struct berth_pool_options pools[LOOPS];
    const char *engines[LOOPS];
    uint64_t random;
    struct end ends[LINKS_MAX][2];
    unsigned links;
    struct held held[HELD_MAX];
    unsigned held_count;
    struct berth_lease hogged[LOOPS][HOGGED_MAX];
    unsigned hogged_count[LOOPS];
    unsigned step;
    int calm;
    uint64_t moved; /**< bytes, and whatever else is progress */
    /* what is switched */
    unsigned hold_one_in; /**< spans; 0: none is kept */
    size_t bytes_max;     /**< of a send */
    unsigned ways;        /**< a bit for each that is used */
    unsigned readers_rest_until;
} w;

/** Of all rounds. */
static struct {
    uint64_t bytes, starved, enobufs, rearms, fairness_stops, pauses, lanes;
} sum;

static inline uint64_t
roll(uint64_t below)
{
    return test_random(&w.random) % below;
}

static inline struct berth_conn *
conn_of(const struct end *end)
{
    if (end->at == LOOPS || !end->opened || end->closed)
        return NULL;
    return berth_conn_find(w.rigs[end->at].loop, end->token);
}

/* ---- sending -------------------------------------------------------------------------------- */

static inline size_t
next_length(const struct end *end)
{
    const size_t length = ways_length(&w.random, w.bytes_max);
    const uint64_t left = end->total - end->sent;
    return left < length ? (size_t)left : length;
}

static inline enum way
next_way(void)
{
    for (;;) {
        const enum way way = (enum way)roll(WAY_COUNT);
        if (w.ways & (1u << way))
            return way;
    }
}

/** A connection sends something, or ends its side when there is nothing more. */
static inline void
conn_sends(struct end *end, struct berth_conn *conn)
{
    if (end->shut)
        return;
    if (end->sent == end->total) {
        MUST(berth_conn_shutdown(conn) == 0);
        end->shut = 1;
        w.moved++;
        return;
    }
    const size_t length = next_length(end);
    const int error = ways_send(conn, next_way(), end->key, end->sent, length, &w.random);
    MUST(error == 0 || error == -ENOBUFS);
    if (error == 0) {
        end->sent += length;
        w.moved += length;
    }
}

/** Sends its own bytes in a span that it has been lent. */
static inline void
conn_sends_span(struct end *end, struct berth_conn *conn, const struct berth_span *span)
{
    const uint64_t left = end->total - end->sent;
    const uint32_t length = left < span->length ? (uint32_t)left : span->length;
    if (end->shut || length == 0)
        return;
    const int error = ways_send_span(conn, span, 0, length, end->key, end->sent);
    MUST(error == 0 || error == -ENOBUFS);
    if (error == 0) {
        end->sent += length;
        w.moved += length;
    }
}

static inline void
socket_sends(struct end *end)
{
    if (end->shut)
        return;
    if (end->sent == end->total) {
        MUST(shutdown(end->fd, SHUT_WR) == 0);
        end->shut = 1;
        w.moved++;
        return;
    }
    const size_t length = next_length(end);
    const ssize_t sent =
        send(end->fd, ways_bytes(end->key, end->sent, length), length, MSG_NOSIGNAL | MSG_DONTWAIT);
    MUST(sent > 0 || errno == EAGAIN);
    end->sent += sent > 0 ? (uint64_t)sent : 0;
    w.moved += sent > 0 ? (uint64_t)sent : 0;
}

/* ---- receiving ------------------------------------------------------------------------------ */

static inline void
receive(struct end *end, const void *data, size_t length)
{
    MUST(!end->eof && ways_same(data, length, end->peer->key, end->got));
    end->got += length;
    MUST(end->got <= end->peer->sent);
    w.moved += length;
}

static inline void
receive_end(struct end *end)
{
    MUST(!end->eof && end->peer->shut);
    MUST(end->got == end->peer->total);
    end->eof = 1;
    w.moved++;
}

static inline void
socket_receives(struct end *end)
{
    static unsigned char data[WAYS_BYTES_MAX];
    if (end->eof || w.step < w.readers_rest_until)
        return;
    const intptr_t got = rig_read(end->fd, data, ways_length(&w.random, sizeof(data)));
    MUST(got >= 0 || got == -EAGAIN);
    if (got > 0)
        receive(end, data, (size_t)got);
    else if (got == 0)
        receive_end(end);
}

static inline void
let_go(unsigned i)
{
    const struct held held = w.held[i];
    w.held[i] = w.held[--w.held_count];
    const void *data = berth_lease_data(held.pool, held.lease);
    MUST(data != NULL && ways_same(data, held.lease.length, held.key, held.position));
    MUST(berth_release(held.pool, held.lease) == 0);
}

static inline void
hold(const struct end *end, const struct berth_span *span)
{
    if (w.held_count == HELD_MAX)
        let_go((unsigned)roll(HELD_MAX));
    struct held *held = &w.held[w.held_count++];
    held->pool = berth_loop_pool(w.rigs[end->at].loop);
    held->key = end->peer->key;
    held->position = end->got;
    MUST(berth_retain(held->pool, span, 0, 1 + (uint32_t)roll(span->length), 0, &held->lease) == 0);
}

#endif
