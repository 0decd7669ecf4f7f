/*
 * What the test of random streams knows: its streams, each seen from both ends, the leases it
 * keeps, and the loop they are all in. One file uses it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_STREAMS_H
#define BERTH_TESTS_LOOP_STREAMS_H

#include "loop/ways.h"

#define STREAMS_MAX 40
#define HELD_MAX 600

/** From this age, in steps, on a stream is neither paused nor short of credit. */
#define CALM_AGE 300

/** Steps without a byte moved, each a turn of a millisecond: more than TCP's timers take. */
#define IDLE_MAX 8000

/** Rounds on each engine, however slow the machine. */
#define ROUNDS_MIN 4

/** Of all rounds on one engine. */
static uint64_t demotions;

/** The seeds of rounds that follow each other. */
static uint64_t seed;
static const char *engine_name;

#define MUST(condition)                                                                            \
    ck_assert_msg(condition, "%s, BERTH_SEED=%#llx: " #condition, engine_name,                     \
                  (unsigned long long)seed)

/** One connection from both ends. The up stream is what the client sends. */
struct stream {
    int client; /**< -1: closed */
    int port;   /**< of the client; 0: an adopted socket */
    berth_token token;
    uint32_t up, down; /**< keys */
    uint64_t up_total, up_written, up_received;
    uint64_t down_total, down_queued, down_read;
    unsigned age, pause;
    unsigned slowness; /**< the client reads once in so many steps */
    unsigned opened : 1, eof : 1, closed : 1;
    unsigned high : 1;    /**< drained is owed */
    unsigned shut : 1;    /**< the server's side has been ended */
    unsigned limited : 1; /**< its credit is */
    unsigned half : 1;    /**< the client has finished sending */
    unsigned ended : 1;   /**< the server has closed or aborted it */
    unsigned broken : 1;  /**< one side did not wait for the other: bytes may be missing */
    unsigned live : 1;
};

/** A lease that is kept for some turns. */
struct held {
    struct berth_lease lease;
    uint32_t key;
    uint64_t position;
    unsigned due;
};

static struct {
    struct rig rig;
    struct berth_loop_options options;
    struct berth_pool_options pool;
    struct berth_lease hogged[512]; /**< kept all the time: the pool is that much smaller */
    unsigned hogged_count;
    uint64_t random;
    struct stream streams[STREAMS_MAX];
    unsigned count, lives;
    uint32_t next_key;
    struct held held[HELD_MAX];
    unsigned held_count;
    unsigned step;
    unsigned parking; /**< everybody is parked once in so many steps; 0: never */
    uint64_t moved;   /**< bytes, and whatever else is progress */
    size_t bytes_max;
} w;

static uint64_t
roll(uint64_t below)
{
    return test_random(&w.random) % below;
}

#endif
