/*
 * What the test that switches everything switches: a row each, between turns or in the middle of a
 * callback. Whoever adds a way to switch the loop adds a row. A switch says whether it has really
 * changed anything; that is what is counted. One file uses it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_SWITCHES_H
#define BERTH_TESTS_LOOP_SWITCHES_H

#include "loop/switching.h"

/* ---- receiving and memory ------------------------------------------------------------------- */

/** Any end that is a connection now, or NULL. */
static struct berth_conn *
any_conn(struct end **end)
{
    *end = &w.ends[roll(w.links)][roll(2)];
    return conn_of(*end);
}

/** Refused to who is leaving, and to nobody else. */
static int
set_credit(struct end *end, struct berth_conn *conn, size_t credit)
{
    const int error = berth_conn_credit(conn, credit);
    MUST(error == (end->leaving ? -EALREADY : 0));
    if (error)
        return 0;
    end->paused_until =
        credit == BERTH_CREDIT_UNLIMITED ? 0 : w.step + 1 + (unsigned)roll(roll(8) ? 20 : 200);
    return 1;
}

static int
switch_credit(void)
{
    static const size_t credits[] = {1, 10, 1000, 4096, 4097, 30000, 1 << 20};
    struct end *end;
    struct berth_conn *conn = any_conn(&end);
    return conn != NULL && set_credit(end, conn, credits[roll(7)]);
}

static int
switch_pause(void)
{
    int changed = 0;
    struct end *end;
    for (uint64_t i = roll(2 * w.links); i-- > 0;) {
        struct berth_conn *conn = any_conn(&end);
        if (conn != NULL)
            changed |= set_credit(end, conn, roll(3) == 0 ? BERTH_CREDIT_UNLIMITED : 0);
    }
    return changed;
}

static int
switch_holding(void)
{
    static const unsigned one_in[] = {0, 1, 2, 10};
    const unsigned before = w.hold_one_in;
    w.hold_one_in = one_in[roll(4)];
    return w.hold_one_in != before;
}

static void
release_held(void)
{
    while (w.held_count > 0)
        let_go(w.held_count - 1);
}

static int
switch_returning(void)
{
    const int any = w.held_count > 0;
    release_held();
    return any;
}

static void
release_hogged(void)
{
    for (unsigned i = 0; i < LOOPS; i++)
        while (w.hogged_count[i] > 0)
            MUST(berth_release(berth_loop_pool(w.rigs[i].loop), w.hogged[i][--w.hogged_count[i]]) ==
                 0);
}

/** A pool of which few buffers are left, or none; or all come back. */
static int
switch_pool(void)
{
    const unsigned i = (unsigned)roll(LOOPS);
    struct berth_pool *pool = berth_loop_pool(w.rigs[i].loop);
    const unsigned before = w.hogged_count[i];
    if (roll(2) == 0) {
        release_hogged();
        return before > 0;
    }
    const uint32_t left = roll(2) == 0 ? 0 : (uint32_t)roll(60);
    while (w.hogged_count[i] < HOGGED_MAX &&
           berth_pool_available(pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE) > left)
        MUST(berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE,
                            &w.hogged[i][w.hogged_count[i]++]) == 0);
    return w.hogged_count[i] > before;
}

static int
switch_sizes(void)
{
    static const size_t sizes[] = {1, 100, 4096, 5000, 65536, WAYS_BYTES_MAX};
    const size_t before = w.bytes_max;
    w.bytes_max = sizes[roll(6)];
    return w.bytes_max != before;
}

static int
switch_ways(void)
{
    const unsigned before = w.ways;
    w.ways = 1 + (unsigned)roll((1u << WAY_COUNT) - 1);
    return w.ways != before;
}

static int
switch_socket_buffers(void)
{
    const struct end *end = &w.ends[roll(w.links)][1];
    const int bytes = 131072 << roll(4); /* with room for less than a segment TCP uses timers */
    if (end->fd < 0)
        return 0;
    MUST(setsockopt(end->fd, SOL_SOCKET, roll(2) ? SO_SNDBUF : SO_RCVBUF, &bytes, sizeof(bytes)) ==
         0);
    return 1;
}

static int
switch_readers(void)
{
    w.readers_rest_until = w.step + (unsigned)roll(30);
    return w.readers_rest_until > w.step;
}

/** Idle or not: each is parked, and comes back with its next byte. */
static int
switch_parking(void)
{
    const int parked = berth_loop_park_idle(w.rigs[roll(LOOPS)].loop, 0);
    MUST(parked >= 0);
    return parked > 0;
}

/** Sockets send all that the kernel takes: what goes on like that gets a lane. */
static int
switch_bursts(void)
{
    w.burst_until = w.step + (unsigned)roll(100);
    return w.burst_until > w.step;
}

/* ---- time ----------------------------------------------------------------------------------- */

/** A connection quiet meanwhile loses its lane. Once in a step, so that nobody gives up waiting. */
static int
switch_time(void)
{
    if (w.jumped == w.step)
        return 0;
    w.jumped = w.step;
    return time_passes(JUMP_MS);
}

/** Longer than a round lasts, by the clock that the loops see: none is ever over. */
static int
switch_timeouts(void)
{
    struct end *end;
    struct berth_conn *conn = any_conn(&end);
    if (conn == NULL)
        return 0;
    const enum berth_timeout kind = (enum berth_timeout)roll(BERTH_TIMEOUT_KINDS);
    uint32_t ms = 0;
    if (roll(3) != 0)
        ms = ROUND_MS_MAX + 1000 +
             (uint32_t)roll(roll(2) ? 30000 : BERTH_TIMEOUT_MS_MAX - ROUND_MS_MAX - 1000);
    const int error = berth_conn_timeout(conn, kind, ms);
    MUST(error == (kind == BERTH_TIMEOUT_CONNECT ? -EISCONN : 0));
    if (error)
        return 0;
    sum.timeouts_set += ms != 0;
    sum.timeouts_cleared += ms == 0;
    return 1;
}

/* ---- moving --------------------------------------------------------------------------------- */

/** What travels comes first; what the kernel of the old loop had received has been delivered. */
static void
has_moved(struct berth_loop *to, berth_token token, int error, void *ctx)
{
    struct end *end = ctx;
    MUST(end->leaving && end->opened && !end->closed);
    end->leaving = 0;
    w.moved++;
    if (error) {
        /* Both sides finished before it could go, or its peer rested, and it stays. */
        MUST(to == NULL);
        MUST(error == -ETIMEDOUT || (error == -ECANCELED && end->eof && end->shut));
        sum.moves_outrun++;
        return;
    }
    MUST(to == w.rigs[end->to].loop);
    struct berth_conn *conn = berth_conn_find(to, token);
    MUST(conn != NULL);
    struct baggage *baggage = baggage_of(conn);
    MUST(baggage->end == end && baggage->hops == end->hops && baggage->key == end->key);
    cold_arrives(end, conn);
    baggage->hops = ++end->hops;
    sum.moves[w.engine_numbers[end->at]][w.engine_numbers[end->to]]++;
    sum.lanes_moved += end->lane;
    sum.moves_paused += end->paused_until != 0;
    sum.moves_ended += end->eof || end->shut;
    end->at = end->to;
    end->token = token;
    end->paused_until = 0; /* credit stays behind */
    end->lane = end->opened = end->eof_told = 0;
}

/** To the other loop or to its own; whatever is being sent and received goes on there. */
static int
move(struct end *end, struct berth_conn *conn)
{
    const unsigned to = roll(4) == 0 ? end->at : (unsigned)roll(LOOPS);
    const int error = berth_conn_move(conn, w.rigs[to].loop, w.handlers, end, has_moved);
    MUST(error == (end->leaving ? -EALREADY : 0));
    if (error)
        return 0;
    end->leaving = 1;
    end->to = to;
    return 1;
}

static int
switch_loops(void)
{
    struct end *end;
    struct berth_conn *conn = any_conn(&end);
    return conn != NULL && move(end, conn);
}

/* ---- all of them ---------------------------------------------------------------------------- */

static void
calm_sizes(void)
{
    w.bytes_max = WAYS_BYTES_MAX;
}

static void
calm_holding(void)
{
    w.hold_one_in = 0;
    release_held();
}

static void
calm_bursts(void)
{
    w.burst_until = 0;
}

static void
calm_readers(void)
{
    w.readers_rest_until = 0;
}

/** Whatever may be switched at any moment: between turns, and in the middle of a callback. */
static const struct {
    const char *name;
    int (*flip)(void);  /**< whether anything is different now */
    void (*calm)(void); /**< from now on nobody is held up; NULL: nobody is anyway */
} switches[] = {
    {"credit", switch_credit, NULL},
    {"pause", switch_pause, NULL},
    {"leases held", switch_holding, calm_holding},
    {"leases returned", switch_returning, NULL},
    {"pool", switch_pool, release_hogged},
    {"sizes", switch_sizes, calm_sizes},
    {"ways", switch_ways, NULL},
    {"socket buffers", switch_socket_buffers, NULL},
    {"readers", switch_readers, calm_readers},
    {"parking", switch_parking, NULL},
    {"bursts", switch_bursts, calm_bursts},
    {"time", switch_time, NULL},
    {"timeouts", switch_timeouts, NULL},
    {"loops", switch_loops, NULL},
};
#define SWITCHES (sizeof(switches) / sizeof(switches[0]))
static unsigned flips[SWITCHES]; /**< those that changed anything */

static void
switch_something(void)
{
    if (w.calm)
        return;
    const uint64_t i = roll(SWITCHES);
    flips[i] += switches[i].flip() != 0;
}

static void
be_calm(void)
{
    w.calm = 1;
    for (size_t i = 0; i < SWITCHES; i++)
        if (switches[i].calm != NULL)
            switches[i].calm();
}

#endif
