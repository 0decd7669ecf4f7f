/*
 * The shadow of a table: plain arrays that say what every answer of the table must be. Shared by
 * test_model.c, which holds the shadow and its single steps, and model_time.c, which holds what
 * concerns clocks and order. No step here may ask the table for what the shadow should know.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_TABLE_MODEL_H
#define BERTH_TESTS_TABLE_MODEL_H

#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "berth/table.h"
#include "support/support.h"

/** Slots that take part: enough to fill a small table, few enough to compare all of them. */
#define BERTHS 1024u

/** Views of a shared table; other tables have one. */
#define VIEWS 2u

/** Tokens of incarnations that are over, kept to be tried again. */
#define OLD_TOKENS 4096u

/*
 * Check notes every assertion of its own that holds, with a system call: too dear millions of times
 * over. These say nothing until one fails.
 */
#define must(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s", #condition);                                                        \
    } while (0)
#define must_eq(actual, expected)                                                                  \
    do {                                                                                           \
        const int64_t must_got = (int64_t)(actual), must_want = (int64_t)(expected);               \
        if (must_got != must_want)                                                                 \
            ck_abort_msg("%s is %" PRId64 ", not %" PRId64, #actual, must_got, must_want);         \
    } while (0)

/** What must be true of one slot. */
struct shadow {
    uint32_t index;
    uint32_t generation; /* of the incarnation that lives, or the last one; 0: never used */
    uint32_t in_flight;
    uint8_t live;
    uint8_t view;  /* who owns it, while live */
    uint8_t given; /* to `view`, which has not taken it */
    uint8_t cold_written;
    uint64_t stamp;    /* what its payload and its cold record repeat */
    uint64_t touched;  /* on a clock that never wraps */
    uint64_t deadline; /* likewise; 0: none */
};

/** One table and all that is known about it. */
struct model {
    struct berth_table tables[VIEWS];
    struct berth_table_stats stats[VIEWS];
    struct berth_table_options options;
    uint32_t views;
    uint64_t random;
    uint64_t now;
    uint64_t swept;                /* when every age and every deadline was last looked at */
    struct shadow shadows[BERTHS]; /* by rising index, so that order can be compared */
    berth_token old[OLD_TOKENS];
    uint64_t old_count;
    uint32_t freed[BERTHS]; /* slot mode: what the table must hand out next, last first */
    uint32_t freed_count;
    uint32_t fresh;
};

extern struct model m;

uint32_t random_below(uint32_t bound);

/** The shadow of that index, or NULL if it takes no part. */
struct shadow *shadow_of(uint32_t index);

/** The steps that concern time and order; each does one random thing and checks it. */
void op_tick(void);
void op_touch(void);
void op_sweep(void);
void op_oldest(void);
void op_deadline(void);
void op_expired(void);
void op_next_live(void);
void op_walk(void);

#endif
