/*
 * What the test that switches everything knows: its links, each of two ends that send to each
 * other, the leases it keeps, the pools it takes from, and the loops. One file uses it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_SWITCHING_H
#define BERTH_TESTS_LOOP_SWITCHING_H

#include "berth/loop_cross.h"
#include "loop/clock.h"
#include "loop/ways.h"

#define LOOPS 2
#define LINKS_MAX 12
#define HELD_MAX 400
#define HOGGED_MAX 600

/** Steps after which nothing is switched any more, and everything comes to its end. */
#define CALM_AFTER 600

/** Steps without a byte moved, each a turn of a millisecond: more than TCP's timers take. */
#define IDLE_MAX 8000

/** No round lasts longer, by the clock that the loops see; and how far that jumps at once. */
#define ROUND_MS_MAX 100000
#define JUMP_MS 600

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
    unsigned to;           /**< where it is going, if it is leaving */
    uint32_t hops;
    unsigned opened : 1, eof : 1, shut : 1, closed : 1;
    unsigned leaving : 1;  /**< from the call until it has arrived */
    unsigned eof_told : 1; /**< by the loop that has it now */
    unsigned lane : 1;     /**< it had one when that was last looked at */
    unsigned modest : 1;   /**< see room */
    unsigned cold : 1;     /**< its cold record says whose it is */
};

/** The payload: it travels. */
struct baggage {
    struct end *end;
    uint32_t hops, key;
};
BERTH_STATIC_ASSERT(sizeof(struct baggage) <= BERTH_CONN_PAYLOAD_BYTES, "it fits");

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
    unsigned engine_numbers[LOOPS];
    char features[LOOPS][256];
    const struct berth_handlers *handlers;
    uint64_t random;
    struct end ends[LINKS_MAX][2];
    unsigned links;
    struct held held[HELD_MAX];
    unsigned held_count;
    struct berth_lease hogged[LOOPS][HOGGED_MAX];
    unsigned hogged_count[LOOPS];
    unsigned step;
    unsigned jumped;   /**< the step in which the clock did, last */
    uint64_t began_ms; /**< by that clock */
    int calm;
    uint64_t moved; /**< bytes, and whatever else is progress */
    /* what is switched */
    unsigned hold_one_in; /**< spans; 0: none is kept */
    size_t bytes_max;     /**< of a send */
    unsigned ways;        /**< a bit for each that is used */
    unsigned readers_rest_until;
    unsigned burst_until;
} w;

/** Of all rounds. */
static struct {
    uint64_t rounds, bytes, starved, enobufs, rearms, fairness_stops, pauses;
    uint64_t held, demotions, promotions;
    uint64_t in_place;                       /**< sends that the kernel read in place */
    uint64_t lanes, lanes_left, lanes_moved; /**< opened; given up by one that lives; left behind */
    uint64_t timeouts_set, timeouts_cleared;
    uint64_t moves[RIG_ENGINES][RIG_ENGINES]; /**< from and to */
    uint64_t moves_paused, moves_ended;       /**< without credit; one side had ended */
    uint64_t moves_outrun, moves_cold;        /**< both had; with a cold record */
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

static inline struct baggage *
baggage_of(struct berth_conn *conn)
{
    return berth_conn_payload(conn);
}

/** The cold record travels if both loops have one: it says whose it is from then on. */
static inline void
cold_arrives(struct end *end, struct berth_conn *conn)
{
    uint32_t *cold = berth_conn_cold(conn);
    if (cold != NULL) {
        MUST(*cold == (end->cold ? end->key : 0));
        sum.moves_cold += end->cold;
        *cold = end->key;
    }
    end->cold = cold != NULL;
}

/** Whether it could: in a round that lasts too long the clock stands still at last. */
static inline int
time_passes(unsigned ms)
{
    if (clock_now_ms + ms - w.began_ms > ROUND_MS_MAX)
        return 0;
    clock_now_ms += ms;
    return 1;
}

/* ---- sending -------------------------------------------------------------------------------- */

/** Less than the kernel takes, whoever reads. */
#define MODEST_BYTES 32768

/**
 * How much an end may send now. Of two connections one is modest: what it sends always leaves its
 * queue, so that it goes on receiving. If both filled their queues, each would wait for the other.
 */
static inline uint64_t
room(const struct end *end)
{
    const uint64_t left = end->total - end->sent;
    const uint64_t on_the_way = end->sent - end->peer->got;
    if (!end->modest || left + on_the_way <= MODEST_BYTES)
        return left;
    return on_the_way < MODEST_BYTES ? MODEST_BYTES - on_the_way : 0;
}

static inline size_t
next_length(const struct end *end)
{
    /* Of a connection not in a burst: its queue may be tiny. */
    const size_t length = end->fd >= 0 && w.step < w.burst_until
                              ? WAYS_BYTES_MAX
                              : ways_length(&w.random, w.bytes_max);
    const uint64_t left = room(end);
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
    if (length == 0)
        return;
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
    const uint64_t left = room(end);
    const uint32_t most = span->length < WAYS_BYTES_MAX ? span->length : WAYS_BYTES_MAX;
    const uint32_t length = left < most ? (uint32_t)left : most; /* those of lanes are longer */
    if (end->shut || length == 0)
        return;
    const int error = ways_send_span(conn, span, 0, length, end->key, end->sent);
    MUST(error == 0 || error == -ENOBUFS);
    if (error == 0) {
        end->sent += length;
        w.moved += length;
    }
}

/** Whether the kernel took anything. */
static inline int
socket_sends(struct end *end)
{
    if (end->shut)
        return 0;
    if (end->sent == end->total) {
        MUST(shutdown(end->fd, SHUT_WR) == 0);
        end->shut = 1;
        w.moved++;
        return 0;
    }
    const size_t length = next_length(end);
    const ssize_t sent =
        send(end->fd, ways_bytes(end->key, end->sent, length), length, MSG_NOSIGNAL | MSG_DONTWAIT);
    MUST(sent > 0 || errno == EAGAIN);
    end->sent += sent > 0 ? (uint64_t)sent : 0;
    w.moved += sent > 0 ? (uint64_t)sent : 0;
    return sent > 0;
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
    MUST(!end->eof_told && end->peer->shut);
    MUST(end->got == end->peer->total);
    end->eof = end->eof_told = 1; /* again where it has moved to */
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
    sum.held++;
    struct held *held = &w.held[w.held_count++];
    held->pool = berth_loop_pool(w.rigs[end->at].loop);
    held->key = end->peer->key;
    held->position = end->got;
    MUST(berth_retain(held->pool, span, 0, 1 + (uint32_t)roll(span->length), 0, &held->lease) == 0);
}

#endif
