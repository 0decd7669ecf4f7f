/*
 * Case `pool`: what a buffer costs, by size: berth's pool against the C library's malloc, jemalloc,
 * and a bare list of free indices. Taken and given back at once, in batches given back in either
 * order, at random among many held (churn), and by another thread. Besides, what only the pool has:
 * the cycle of a buffer that is posted to the kernel, lent to a callback and settled (`receive`);
 * the same with the data kept and released later (`receive-keep`); a second reference (`share`).
 *
 * Each buffer's first byte is written whenever it has been taken. An operation is taking one buffer
 * and giving one back. The pool's references and checks of every handle are in its figures; malloc
 * and the free list have neither.
 *
 * What it cannot show: with nothing in between, everything is warm. What it costs to have the
 * buffers themselves in and out of the caches is the same for all, and much more than any of this.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <string.h>

#include "bench.h"
#include "machine.h"
#include "pool_remote.h"
#include "pool_ways.h"

/** The sizes: small replies, the usual receive buffer, bulk. */
static const enum berth_class classes[] = {BERTH_CLASS_512, BERTH_CLASS_4K, BERTH_CLASS_64K};
#define CLASSES (sizeof classes / sizeof classes[0])

#define PASSES_AT_ONCE 64u

/** Passes of the pool's own, compared with malloc's simplest. */
static const struct {
    const char *name;
    void (*pass)(void *context);
} own_passes[] = {
    {"berth receive", pool_pass_receive},
    {"berth receive-keep", pool_pass_receive_keep},
    {"berth share", pool_pass_share},
};
#define OWN_PASSES (sizeof own_passes / sizeof own_passes[0])

static const char *
variant(unsigned at)
{
    return at < pool_ways_count ? pool_ways[at].name : NULL;
}

#define NO_SUBJECT UINT32_MAX

/** malloc's pair and berth's: every ratio rests on the one, and its state on who came before. */
#define CONTROLS_MAX 2u

struct subjects {
    unsigned count;
    unsigned controls;                      /**< how many are measured once more: the last ones */
    unsigned controlled[CONTROLS_MAX];      /**< and what they repeat */
    unsigned baselines[BENCH_SUBJECTS_MAX]; /**< the number of malloc's; NO_SUBJECT */
    char names[BENCH_SUBJECTS_MAX][REPORT_NAME_BYTES];
    struct bench_work works[BENCH_SUBJECTS_MAX];
    struct bench_subject list[BENCH_SUBJECTS_MAX];
};

/** malloc is always measured, as the others are compared with it. */
static bool
is_measured(const struct bench *bench, unsigned way)
{
    return !pool_ways[way].absent &&
           (way == POOL_WAY_MALLOC || bench_wants(bench, pool_ways[way].name));
}

/* ---- on one thread ------------------------------------------------------------------------------
 */

static const struct report_column columns[] = {
    {"class_bytes", "bytes", 0},
    {"ns_per_operation", "CPU ns\nper operation", 2},
    {"ratio", "ratio to\nmalloc", 3},
    BENCH_WORK_COLUMNS,
};
#define COLUMNS (sizeof columns / sizeof columns[0])
#define COLUMNS_OWN (COLUMNS - (BENCH_WORK_METRICS - 1u))

static int
measure_pass(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const struct pool_way *way = &pool_ways[subject->parameter];
    if (way->prepare != NULL)
        way->prepare();
    return bench_work_measure(bench, subject, metrics);
}

static unsigned
add_pass(struct subjects *subjects, unsigned way, void (*pass)(void *context), unsigned baseline)
{
    const unsigned at = subjects->count++;
    subjects->works[at] = (struct bench_work){pass, NULL, POOL_BATCH, PASSES_AT_ONCE};
    subjects->baselines[at] = baseline;
    subjects->list[at] = (struct bench_subject){.name = subjects->names[at],
                                                .measure = measure_pass,
                                                .context = &subjects->works[at],
                                                .parameter = way};
    return at;
}

/** Pattern by pattern, malloc first. */
static void
choose(const struct bench *bench, struct subjects *subjects)
{
    const bool has_malloc = !pool_ways[POOL_WAY_MALLOC].absent;
    subjects->count = 0;
    for (unsigned pattern = 0; pattern < POOL_PATTERNS; pattern++) {
        const unsigned baseline = has_malloc ? subjects->count : NO_SUBJECT;
        for (unsigned i = 0; i < pool_ways_count; i++) {
            /* The two that come first change places, so that the baseline is first. */
            const unsigned way = i < 2 ? 1 - i : i;
            if (!is_measured(bench, way))
                continue;
            const unsigned at = add_pass(subjects, way, pool_ways[way].passes[pattern], baseline);
            snprintf(subjects->names[at], REPORT_NAME_BYTES, "%s %s", pool_ways[way].name,
                     pool_pattern_names[pattern]);
        }
    }
    for (unsigned i = 0; is_measured(bench, POOL_WAY_BERTH) && i < OWN_PASSES; i++) {
        const unsigned at =
            add_pass(subjects, POOL_WAY_BERTH, own_passes[i].pass, has_malloc ? 0 : NO_SUBJECT);
        snprintf(subjects->names[at], REPORT_NAME_BYTES, "%s", own_passes[i].name);
    }
    /* The first ones are malloc's pair and berth's, of those that are measured. */
    subjects->controls = subjects->count < CONTROLS_MAX ? subjects->count : CONTROLS_MAX;
    for (unsigned i = 0; i < subjects->controls; i++) {
        subjects->controlled[i] = i;
        const unsigned at =
            add_pass(subjects, subjects->list[i].parameter, subjects->works[i].pass, NO_SUBJECT);
        snprintf(subjects->names[at], REPORT_NAME_BYTES, "once more");
    }
}

static struct estimate
ratio_to_baseline(const struct bench_samples *samples, const struct subjects *subjects, unsigned at,
                  unsigned metric)
{
    const unsigned baseline = subjects->baselines[at];
    return baseline != NO_SUBJECT ? bench_ratio(samples, at, baseline, metric) : estimate_none();
}

/** How many there are without the controls. */
static unsigned
contestants(const struct subjects *subjects)
{
    return subjects->count - subjects->controls;
}

static void
add_controls(struct bench *bench, const struct bench_samples *samples,
             const struct subjects *subjects, const char *where, uint32_t bytes)
{
    for (unsigned i = 0; i < subjects->controls; i++) {
        char name[REPORT_NAME_BYTES + 48];
        const unsigned what = subjects->controlled[i];
        snprintf(name, sizeof name, "%s%s, %u bytes", subjects->names[what], where, bytes);
        report_control(&bench->report, name,
                       bench_ratio(samples, contestants(subjects) + i, what, 0));
    }
}

static void
measure_here(struct bench *bench, struct bench_samples *samples, uint32_t bytes)
{
    static struct subjects subjects;
    choose(bench, &subjects);
    bench_rounds(bench, subjects.list, subjects.count, samples);
    for (unsigned i = 0; i < contestants(&subjects); i++) {
        struct estimate values[COLUMNS] = {
            estimate_exact(bytes),
            bench_estimate(samples, i, BENCH_WORK_NS),
            ratio_to_baseline(samples, &subjects, i, BENCH_WORK_NS),
        };
        bench_work_estimates(samples, i, values + COLUMNS_OWN);
        if (!isnan(values[1].median)) /* left out, or interrupted before its turn came */
            report_row(&bench->report, subjects.names[i], values);
    }
    add_controls(bench, samples, &subjects, "", bytes);
}

/* ---- on two threads -----------------------------------------------------------------------------
 */

static const struct report_column remote_columns[] = {
    {"class_bytes", "bytes", 0},
    {"ns_per_operation", "ns per\noperation", 2},
    {"ratio", "ratio to\nmalloc", 3},
    {"take_ns", "of which\ntaking", 2},
    {"give_ns", "giving back\nelsewhere", 2},
    {"turn_ns", "the owner's\nturn", 2},
};
#define REMOTE_COLUMNS (sizeof remote_columns / sizeof remote_columns[0])

static unsigned
add_way(struct subjects *subjects, const struct pool_way *way, const char *name)
{
    const unsigned at = subjects->count++;
    subjects->baselines[at] = pool_ways[POOL_WAY_MALLOC].absent ? NO_SUBJECT : 0;
    snprintf(subjects->names[at], REPORT_NAME_BYTES, "%s", name);
    subjects->list[at] = (struct bench_subject){
        .name = subjects->names[at], .measure = pool_remote_measure, .context = way};
    return at;
}

static void
measure_across(struct bench *bench, struct bench_samples *samples, uint32_t bytes)
{
    static struct subjects subjects;
    subjects.count = 0;
    for (unsigned i = 0; i < pool_ways_count; i++) {
        const unsigned way = i < 2 ? 1 - i : i;
        if (is_measured(bench, way))
            add_way(&subjects, &pool_ways[way], pool_ways[way].name);
    }
    subjects.controls = subjects.count < CONTROLS_MAX ? subjects.count : CONTROLS_MAX;
    for (unsigned i = 0; i < subjects.controls; i++) {
        subjects.controlled[i] = i;
        add_way(&subjects, subjects.list[i].context, "once more");
    }
    bench_rounds(bench, subjects.list, subjects.count, samples);
    for (unsigned i = 0; i < contestants(&subjects); i++) {
        const struct estimate values[REMOTE_COLUMNS] = {
            estimate_exact(bytes),
            bench_estimate(samples, i, POOL_REMOTE_NS),
            ratio_to_baseline(samples, &subjects, i, POOL_REMOTE_NS),
            bench_median(samples, i, POOL_REMOTE_TAKE_NS),
            bench_median(samples, i, POOL_REMOTE_GIVE_NS),
            bench_median(samples, i, POOL_REMOTE_TURN_NS),
        };
        if (!isnan(values[1].median)) /* left out, or interrupted before its turn came */
            report_row(&bench->report, subjects.names[i], values);
    }
    add_controls(bench, samples, &subjects, " remote", bytes);
}

/* ---- the case -----------------------------------------------------------------------------------
 */

/** Begins, measures and ends with each size; `measure` adds the rows. 0 or the last -errno. */
static int
with_each_class(struct bench *bench,
                void (*measure)(struct bench *, struct bench_samples *, uint32_t bytes))
{
    static struct bench_samples samples;
    int error = 0;
    for (unsigned i = 0; i < CLASSES && !machine_interrupted; i++) {
        const uint32_t bytes = berth_class_bytes(classes[i]);
        error = pool_ways_begin(classes[i]);
        if (error == 0)
            measure(bench, &samples, bytes);
        else
            report_note(&bench->report, "%u bytes were left out: %s", bytes, strerror(-error));
        const int ended = pool_ways_end();
        if (error == 0 && ended != 0)
            report_doubt(&bench->report, "%u bytes: not every buffer came back once: %s", bytes,
                         strerror(-ended));
    }
    return error;
}

static int
run(struct bench *bench)
{
    const int here = bench->environment.cpu_load, there = bench->environment.cpu_server;
    pool_ways_find(bench);
    report_table_begin(&bench->report, "pool", columns, COLUMNS);
    int error = with_each_class(bench, measure_here);
    /* Afterwards: with a second thread the C library takes locks that it did without before. */
    if (here >= 0 && there >= 0 && here != there && !machine_interrupted) {
        report_table_begin(&bench->report, "pool-remote", remote_columns, REMOTE_COLUMNS);
        error = with_each_class(bench, measure_across);
    } else if (!machine_interrupted) {
        report_note(&bench->report, "releases from another thread need two CPUs to be bound to");
    }
    report_note(&bench->report,
                "an operation takes a buffer, writes its first byte, and gives one back; batches "
                "of %u; churn holds %u; berth's own three are compared with malloc pair; malloc "
                "keeps its heap (mallopt), malloc-trim is malloc as it comes",
                POOL_BATCH, POOL_HELD);
    return bench->report.tables[0].rows_count > 0 || machine_interrupted ? 0 : error;
}

static const struct report_plot plots[] = {
    {
        .name = "pool",
        .title = "Taking a buffer of 4 KiB and giving it back: lower is better",
        .table = "pool",
        .y = "ns_per_operation",
        .y_title = "ns per operation",
        .options = REPORT_PLOT_LOG_Y,
        .only = "class_bytes",
        .only_value = 4096,
    },
    {
        .name = "pool-churn",
        .title = "The same by size, some of many held, in random order: lower is better",
        .table = "pool",
        .x = "class_bytes",
        .y = "ns_per_operation",
        .x_title = "bytes of a buffer",
        .y_title = "ns per operation",
        .variants = "berth churn,malloc churn,malloc-trim churn,jemalloc churn,"
                    "free-list churn",
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,
    },
    {
        .name = "pool-remote",
        .title = "Taken by one thread, given back by another: lower is better",
        .table = "pool-remote",
        .x = "class_bytes",
        .y = "ns_per_operation",
        .x_title = "bytes of a buffer",
        .y_title = "ns per operation",
        .options = REPORT_PLOT_LOG_X,
    },
    {.name = NULL},
};

const struct bench_case bench_case_pool = {
    .name = "pool",
    .summary = "buffers: berth's pool, malloc, jemalloc, and a bare free list as the floor",
    .run = run,
    .variant = variant,
    .normal = {.rounds = 15, .seconds = 0.02},
    .quick = {.rounds = 9, .seconds = 0.003},
    .full = {.rounds = 51, .seconds = 0.03},
    .plots = plots,
};
