/*
 * Case `table`: what the connection table costs when nothing else is in the way. Everything is warm
 * (256 slots, 16 KiB, fit the first-level cache), so this is the price of the code itself; what the
 * cache adds with many connections is another question.
 *
 * What it cannot show: operations here follow each other with nothing in between, so the processor
 * overlaps them. "find, one after the other" forbids that: each token comes out of the slot before.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <berth.h>

#include "bench.h"
#include "machine.h"

#define WARM_SLOTS 256u
#define WALK_SLOTS 10000u
#define FIRST_INDEX 16u
#define CREATIONS 64u

#define CREATE_US_MAX 20
#define CREATE_KIB_MAX 64
#define FIND_NS_MAX 2.5
#define CLAIM_RELEASE_NS_MAX 10

/** Makes the compiler believe that `value` is used. */
#define USED(value) __asm__ volatile("" : : "r"(value))

/** What the passes work on. */
static struct {
    struct berth_table warm;  /**< WARM_SLOTS live */
    struct berth_table walk;  /**< WALK_SLOTS live */
    struct berth_table churn; /**< every other slot live, the others claimed and released */
    berth_token tokens[WARM_SLOTS];
    struct berth_table created[CREATIONS];
} on;

/* ---- passes: each does WARM_SLOTS (or WALK_SLOTS) operations ------------------------------------
 */

static void
pass_floor(void *context)
{
    (void)context;
    for (unsigned i = 0; i < WARM_SLOTS; i++)
        USED(on.tokens[i]);
}

static void
pass_find(void *context)
{
    (void)context;
    for (unsigned i = 0; i < WARM_SLOTS; i++)
        USED(berth_table_find(&on.warm, on.tokens[i]));
}

/** Each slot's payload holds the token of the next one: nothing can be overlapped. */
static void
pass_find_chained(void *context)
{
    (void)context;
    berth_token token = on.tokens[0];
    for (unsigned i = 0; i < WARM_SLOTS; i++) {
        struct berth_slot *slot = berth_table_find(&on.warm, token);
        memcpy(&token, berth_slot_payload(slot), sizeof token);
    }
    USED(token);
}

static void
pass_touch(void *context)
{
    (void)context;
    for (unsigned i = 0; i < WARM_SLOTS; i++)
        berth_table_touch(&on.warm, berth_token_index(on.tokens[i]));
}

static void
pass_claim_release(void *context)
{
    (void)context;
    for (unsigned i = 0; i < WARM_SLOTS; i++) {
        struct berth_slot *slot = NULL;
        if (berth_table_claim(&on.churn, FIRST_INDEX + 2 * i + 1, &slot) != 0)
            abort();
        berth_table_release(&on.churn, berth_slot_token(slot, 0));
    }
}

static void
pass_walk(void *context)
{
    (void)context;
    BERTH_TABLE_EACH_LIVE (&on.walk, index)
        USED(index);
}

static void
pass_sweep(void *context)
{
    (void)context;
    uint32_t found[256], cursor = 0;
    while (cursor != BERTH_TABLE_INDEX_NONE) {
        const uint32_t count = berth_table_sweep(&on.walk, 1, &cursor, found, 256);
        USED(count);
    }
}

/** What creating a table adds to the metrics of work: they come after those. */
enum { CREATE_KIB = BENCH_WORK_METRICS, CREATE_PAGE_TABLE_KIB };

/* ---- creation -----------------------------------------------------------------------------------
 */

/** Claims one slot in each table made: the first connection. */
static int
claim_one_each(unsigned made)
{
    struct berth_slot *slot = NULL;
    int error = 0;
    for (unsigned i = 0; i < made && error == 0; i++)
        error = berth_table_claim(&on.created[i], FIRST_INDEX, &slot);
    return error;
}

/** Nanoseconds, and resident memory with one connection in it, of CREATIONS tables side by side. */
static int
measure_create(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    (void)bench;
    (void)subject;
    struct machine_memory before, after;
    unsigned made = 0;
    int error = machine_memory_get(0, &before); /* once for nothing: it grows the heap itself */
    if (error == 0)
        error = machine_memory_get(0, &before);
    const uint64_t begin = machine_cpu_ns();
    while (made < CREATIONS && error == 0) {
        error = berth_table_init(&on.created[made], NULL);
        made += error == 0;
    }
    const uint64_t end = machine_cpu_ns();
    if (error == 0)
        error = claim_one_each(made);
    if (error == 0)
        error = machine_memory_get(0, &after);
    if (error == 0) {
        metrics[0] = (double)(end - begin) / CREATIONS;
        metrics[CREATE_KIB] =
            (double)(after.resident_bytes - before.resident_bytes) / CREATIONS / 1024.0;
        metrics[CREATE_PAGE_TABLE_KIB] =
            (double)(after.page_table_bytes - before.page_table_bytes) / CREATIONS / 1024.0;
    }
    for (unsigned i = 0; i < made; i++)
        berth_table_fini(&on.created[i]);
    return error;
}

/* ---- the case -----------------------------------------------------------------------------------
 */

/** Claims `count` slots of `table`, `step` apart, and keeps their tokens if asked. */
static int
fill(struct berth_table *table, unsigned count, unsigned step, berth_token *tokens)
{
    int error = berth_table_init(table, NULL);
    for (unsigned i = 0; i < count && error == 0; i++) {
        struct berth_slot *slot = NULL;
        error = berth_table_claim(table, FIRST_INDEX + i * step, &slot);
        if (error == 0 && tokens != NULL)
            tokens[i] = berth_slot_token(slot, 0);
    }
    return error;
}

/** Puts the tokens into a random order, and links the slots in that order. */
static void
shuffle_and_link(void)
{
    uint32_t state = 12345;
    for (unsigned i = WARM_SLOTS - 1; i > 0; i--) {
        state = state * 1664525u + 1013904223u;
        const unsigned j = (state >> 8) % (i + 1);
        const berth_token token = on.tokens[i];
        on.tokens[i] = on.tokens[j];
        on.tokens[j] = token;
    }
    for (unsigned i = 0; i < WARM_SLOTS; i++) {
        struct berth_slot *slot = berth_table_find(&on.warm, on.tokens[i]);
        memcpy(berth_slot_payload(slot), &on.tokens[(i + 1) % WARM_SLOTS], sizeof on.tokens[0]);
    }
}

static int
set_up(void)
{
    int error = fill(&on.warm, WARM_SLOTS, 1, on.tokens);
    if (error == 0)
        error = fill(&on.walk, WALK_SLOTS, 1, NULL);
    if (error == 0)
        error = fill(&on.churn, WARM_SLOTS, 2, NULL);
    if (error != 0)
        return error;
    shuffle_and_link();
    /* Everything in `walk` has been idle for two ticks: a sweep finds all of it. */
    berth_table_tick_set(&on.walk, 2);
    return 0;
}

enum { CREATE, FLOOR, FIND, FIND_AGAIN, FIND_CHAINED, TOUCH, CLAIM_RELEASE, WALK, SWEEP, SUBJECTS };

static void
add_results(struct bench *bench, const struct bench_samples *samples,
            const struct bench_subject *subjects)
{
    static const struct report_column columns[] = {
        {"ns_per_operation", "CPU ns\nper operation", 2},
        {"resident_kib", "resident KiB\nwith one live", 1},
        {"page_table_kib", "page\ntables KiB", 1},
        BENCH_WORK_COLUMNS,
    };
    report_table_begin(&bench->report, "table", columns, sizeof columns / sizeof columns[0]);
    for (unsigned i = 0; i < SUBJECTS; i++) {
        if (i == FIND_AGAIN)
            continue;
        struct estimate values[3 + BENCH_WORK_METRICS - 1] = {
            bench_estimate(samples, i, 0),
            i == CREATE ? bench_estimate(samples, i, CREATE_KIB) : estimate_none(),
            i == CREATE ? bench_estimate(samples, i, CREATE_PAGE_TABLE_KIB) : estimate_none(),
        };
        bench_work_estimates(samples, i, values + 3);
        report_row(&bench->report, subjects[i].name, values);
    }
    report_figure(&bench->report, "create_us", "create a table of 2^20 slots", "us",
                  estimate_scaled(bench_estimate(samples, CREATE, 0), 1e-3), true, CREATE_US_MAX);
    report_figure(&bench->report, "create_resident_kib",
                  "  and what is resident once it holds a connection", "KiB",
                  bench_estimate(samples, CREATE, CREATE_KIB), true, CREATE_KIB_MAX);
    report_figure(&bench->report, "find_warm_ns", "berth_table_find, warm", "ns",
                  bench_estimate(samples, FIND, 0), false, FIND_NS_MAX);
    report_figure(&bench->report, "claim_release_warm_ns", "claim and release, warm", "ns",
                  bench_estimate(samples, CLAIM_RELEASE, 0), false, CLAIM_RELEASE_NS_MAX);
    report_control(&bench->report, "find", bench_ratio(samples, FIND_AGAIN, FIND, 0));
}

static int
run(struct bench *bench)
{
    static struct bench_samples samples;
    static const struct bench_work floor = {pass_floor, NULL, WARM_SLOTS, 256},
                                   find = {pass_find, NULL, WARM_SLOTS, 256},
                                   chained = {pass_find_chained, NULL, WARM_SLOTS, 256},
                                   touch = {pass_touch, NULL, WARM_SLOTS, 256},
                                   claim = {pass_claim_release, NULL, WARM_SLOTS, 256},
                                   walk = {pass_walk, NULL, WALK_SLOTS, 8},
                                   sweep = {pass_sweep, NULL, WALK_SLOTS, 8};
    struct bench_subject subjects[SUBJECTS] = {
        [CREATE] = {.name = "create", .measure = measure_create},
        [FLOOR] = {.name = "empty loop", .measure = bench_work_measure, .context = &floor},
        [FIND] = {.name = "find", .measure = bench_work_measure, .context = &find},
        [FIND_AGAIN] = {.name = "find again", .measure = bench_work_measure, .context = &find},
        [FIND_CHAINED] = {.name = "find, one after the other",
                          .measure = bench_work_measure,
                          .context = &chained},
        [TOUCH] = {.name = "touch", .measure = bench_work_measure, .context = &touch},
        [CLAIM_RELEASE] = {.name = "claim+release",
                           .measure = bench_work_measure,
                           .context = &claim},
        [WALK] = {.name = "walk, per live slot", .measure = bench_work_measure, .context = &walk},
        [SWEEP] = {.name = "sweep, per live slot",
                   .measure = bench_work_measure,
                   .context = &sweep},
    };
    int error = set_up();
    if (error == 0) {
        bench_rounds(bench, subjects, SUBJECTS, &samples);
        add_results(bench, &samples, subjects);
        report_note(&bench->report, "256 slots in random order for find, touch and claim; 10,000 "
                                    "live of 2^20 for walk and sweep; every other slot stays "
                                    "live beside those claimed");
    }
    berth_table_fini(&on.warm);
    berth_table_fini(&on.walk);
    berth_table_fini(&on.churn);
    return error;
}

const struct bench_case bench_case_table = {
    .name = "table",
    .summary = "the connection table: creating, finding, claiming and releasing, walking",
    .run = run,
    .normal = {.rounds = 21, .seconds = 0.02},
    .quick = {.rounds = 9, .seconds = 0.01},
    .full = {.rounds = 51, .seconds = 0.05},
};
