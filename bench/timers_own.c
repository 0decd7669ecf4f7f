/*
 * Timeouts without a timer each: berth's two kinds of side arrays, and the two lists that programs
 * keep by hand. `lru` is ordered by the last activity, as each activity moves its connection to the
 * end: only the head need be looked at. `swept` is a list in any order, where an activity is a
 * store into the connection itself and every sweep looks at all of them.
 *
 * SPDX-License-Identifier: MIT
 */
#include "timers.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/queue.h>

#include <berth/table.h>

#include "random.h"

/** Indices that a sweep asks for at a time. */
#define FOUND_MAX 256u

/* ---- berth's table ------------------------------------------------------------------------------
 */

/** Ticks count on from here: far from 0, where a deadline would mean none. */
#define TICK_FIRST 5000u

static void
table_close(void *state)
{
    berth_table_fini(state);
    free(state);
}

static int
table_open(uint32_t count, bool deadlines, void **state)
{
    struct berth_table *table = aligned_alloc(_Alignof(struct berth_table), sizeof *table);
    struct berth_table_options options;
    struct berth_slot *slot = NULL;
    if (table == NULL)
        return -ENOMEM;
    berth_table_options_init(&options);
    options.deadlines = deadlines;
    if (count > options.slots_max)
        options.slots_max = count;
    int error = berth_table_init(table, &options);
    if (error != 0) {
        free(table);
        return error;
    }
    berth_table_tick_set(table, TICK_FIRST);
    for (uint32_t i = 0; i < count && error == 0; i++) {
        error = berth_table_claim(table, i, &slot);
        if (error == 0 && deadlines)
            error = berth_table_deadline_set(table, i, TIMERS_IDLE);
    }
    if (error != 0) {
        table_close(table);
        return error;
    }
    *state = table;
    return 0;
}

static int
ticks_open(uint32_t count, void **state)
{
    return table_open(count, false, state);
}

static void
ticks_arm(void *state, const uint32_t *which, uint32_t count)
{
    struct berth_table *table = state;
    for (uint32_t i = 0; i < count; i++)
        berth_table_touch(table, which[i]);
}

/** As if the last activity had been that long ago. */
static void
ticks_age(void *state, const uint32_t *which, uint32_t count)
{
    struct berth_table *table = state;
    berth_table_tick_set(table, TICK_FIRST - TIMERS_IDLE);
    for (uint32_t i = 0; i < count; i++)
        berth_table_touch(table, which[i]);
    berth_table_tick_set(table, TICK_FIRST);
}

static void
ticks_sweep(void *state)
{
    uint32_t found[FOUND_MAX], cursor = 0;
    while (cursor != BERTH_TABLE_INDEX_NONE) {
        const uint32_t count = berth_table_sweep(state, TIMERS_IDLE, &cursor, found, FOUND_MAX);
        for (uint32_t i = 0; i < count; i++)
            timers_expired(found[i]);
    }
}

/** Those who would be idle for too long, if no more happened for that time. */
static uint32_t
ticks_armed(void *state)
{
    struct berth_table *table = state;
    uint32_t found[FOUND_MAX], cursor = 0, armed = 0;
    berth_table_tick_set(table, TICK_FIRST + TIMERS_IDLE);
    while (cursor != BERTH_TABLE_INDEX_NONE)
        armed += berth_table_sweep(table, TIMERS_IDLE, &cursor, found, FOUND_MAX);
    berth_table_tick_set(table, TICK_FIRST);
    return armed;
}

const struct timers_way timers_ticks = {
    .name = "ticks",
    .open = ticks_open,
    .close = table_close,
    .arm = ticks_arm,
    .age = ticks_age,
    .sweep = ticks_sweep,
    .armed = ticks_armed,
};

static int
deadlines_open(uint32_t count, void **state)
{
    return table_open(count, true, state);
}

static void
deadlines_arm(void *state, const uint32_t *which, uint32_t count)
{
    struct berth_table *table = state;
    for (uint32_t i = 0; i < count; i++)
        (void)berth_table_deadline_set(table, which[i], TIMERS_IDLE);
}

static void
deadlines_age(void *state, const uint32_t *which, uint32_t count)
{
    struct berth_table *table = state;
    berth_table_tick_set(table, TICK_FIRST - 2);
    for (uint32_t i = 0; i < count; i++)
        (void)berth_table_deadline_set(table, which[i], 1);
    berth_table_tick_set(table, TICK_FIRST);
}

static void
deadlines_sweep(void *state)
{
    uint32_t found[FOUND_MAX], cursor = 0;
    while (cursor != BERTH_TABLE_INDEX_NONE) {
        const uint32_t count = berth_table_expired(state, &cursor, found, FOUND_MAX);
        for (uint32_t i = 0; i < count; i++)
            timers_expired(found[i]);
    }
}

/** Lets all of them pass, counts, and sets them again. */
static uint32_t
deadlines_armed(void *state)
{
    struct berth_table *table = state;
    uint32_t found[FOUND_MAX], cursor = 0, armed = 0;
    while (cursor != BERTH_TABLE_INDEX_NONE) {
        berth_table_tick_set(table, TICK_FIRST + 2 * TIMERS_IDLE);
        const uint32_t count = berth_table_expired(table, &cursor, found, FOUND_MAX);
        berth_table_tick_set(table, TICK_FIRST);
        deadlines_arm(table, found, count);
        armed += count;
    }
    return armed;
}

const struct timers_way timers_deadlines = {
    .name = "deadlines",
    .open = deadlines_open,
    .close = table_close,
    .arm = deadlines_arm,
    .age = deadlines_age,
    .sweep = deadlines_sweep,
    .armed = deadlines_armed,
};

/* ---- lists by hand ------------------------------------------------------------------------------
 */

/** A connection of one cache line, as it lies on the heap. */
struct conn {
    TAILQ_ENTRY(conn) link;
    uint32_t active; /**< when it last was */
    uint32_t number;
    unsigned char rest[40];
};

/* Walks are written out: analysers that do not see into TAILQ_FOREACH think nothing is set. */
TAILQ_HEAD(conns, conn);

struct lists {
    uint32_t count, now;
    struct conns list;
    struct conn *conns;
};

static void
lists_close(void *state)
{
    struct lists *lists = state;
    free(lists->conns);
    free(lists);
}

/** All of them, linked in random order, active just now. */
static int
lists_open(uint32_t count, void **state)
{
    uint64_t random = RANDOM_SEED;
    struct lists *lists = calloc(1, sizeof *lists);
    uint32_t *order = malloc(count * sizeof order[0]);
    struct conn *conns = aligned_alloc(sizeof conns[0], count * sizeof conns[0]);
    if (lists == NULL || order == NULL || conns == NULL) {
        free(lists);
        free(order);
        free(conns);
        return -ENOMEM;
    }
    *lists = (struct lists){.count = count, .now = TICK_FIRST, .conns = conns};
    TAILQ_INIT(&lists->list);
    random_order(order, count, &random);
    for (uint32_t i = 0; i < count; i++) {
        struct conn *conn = &conns[order[i]];
        *conn = (struct conn){.active = lists->now, .number = order[i]};
        TAILQ_INSERT_TAIL(&lists->list, conn, link);
    }
    free(order);
    *state = lists;
    return 0;
}

static uint32_t
lists_armed(void *state)
{
    const struct lists *lists = state;
    uint32_t armed = 0;
    for (const struct conn *conn = TAILQ_FIRST(&lists->list); conn != NULL;
         conn = TAILQ_NEXT(conn, link))
        armed += lists->now - conn->active < TIMERS_IDLE;
    return armed;
}

static void
lru_arm(void *state, const uint32_t *which, uint32_t count)
{
    struct lists *lists = state;
    for (uint32_t i = 0; i < count; i++) {
        struct conn *conn = &lists->conns[which[i]];
        conn->active = lists->now;
        TAILQ_REMOVE(&lists->list, conn, link);
        TAILQ_INSERT_TAIL(&lists->list, conn, link);
    }
}

static void
lru_age(void *state, const uint32_t *which, uint32_t count)
{
    struct lists *lists = state;
    for (uint32_t i = 0; i < count; i++) {
        struct conn *conn = &lists->conns[which[i]];
        conn->active = lists->now - TIMERS_IDLE;
        TAILQ_REMOVE(&lists->list, conn, link);
        TAILQ_INSERT_HEAD(&lists->list, conn, link);
    }
}

static void
lru_sweep(void *state)
{
    const struct lists *lists = state;
    for (const struct conn *conn = TAILQ_FIRST(&lists->list); conn != NULL;
         conn = TAILQ_NEXT(conn, link)) {
        if (lists->now - conn->active < TIMERS_IDLE)
            return;
        timers_expired(conn->number);
    }
}

const struct timers_way timers_lru = {
    .name = "lru",
    .open = lists_open,
    .close = lists_close,
    .arm = lru_arm,
    .age = lru_age,
    .sweep = lru_sweep,
    .armed = lists_armed,
    .at_head = true,
};

static void
swept_arm(void *state, const uint32_t *which, uint32_t count)
{
    struct lists *lists = state;
    for (uint32_t i = 0; i < count; i++)
        lists->conns[which[i]].active = lists->now;
}

static void
swept_age(void *state, const uint32_t *which, uint32_t count)
{
    struct lists *lists = state;
    for (uint32_t i = 0; i < count; i++)
        lists->conns[which[i]].active = lists->now - TIMERS_IDLE;
}

static void
swept_sweep(void *state)
{
    const struct lists *lists = state;
    for (const struct conn *conn = TAILQ_FIRST(&lists->list); conn != NULL;
         conn = TAILQ_NEXT(conn, link)) {
        if (lists->now - conn->active >= TIMERS_IDLE)
            timers_expired(conn->number);
    }
}

const struct timers_way timers_swept = {
    .name = "swept",
    .open = lists_open,
    .close = lists_close,
    .arm = swept_arm,
    .age = swept_age,
    .sweep = swept_sweep,
    .armed = lists_armed,
};
