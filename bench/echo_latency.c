/*
 * Latencies of case `echo`, in an open loop: the same number of messages a second is offered to
 * every contestant, at half of what the baseline took in a closed loop in this run, and at four
 * fifths. A message's time counts from when it was due, sent or not.
 *
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "echo.h"
#include "machine.h"

static const unsigned levels[] = {50, 80}; /**< per cent */
#define LEVELS (sizeof levels / sizeof levels[0])

/** Of what was offered: with less, the server (or the load) did not keep up. */
#define ACHIEVED_MIN 0.98

/** When the load's own lateness is more than this much of a p99, the report says so. */
#define LATE_SHARE_MAX 0.25

/** Those of each level, one level after the other. */
enum metric { ACHIEVED, P50_US, P99_US, P999_US, CPU_NS, LATE_P99_US, METRICS };
_Static_assert(METRICS *LEVELS <= BENCH_METRICS_MAX, "every level has its metrics");

static const struct report_column columns[] = {
    {"connections", "connections", 0},
    {"load_percent", "load\n%", 0},
    {"offered_per_second", "offered\nper second", 0},
    {"achieved_per_second", "achieved\nper second", 0},
    {"p50_us", "p50 us", 0},
    {"p99_us", "p99 us", 0},
    {"p99_ratio", "p99 ratio to\nplain epoll", 2},
    {"p999_us", "p99.9 us", 0},
    {"cpu_ns_per_message", "CPU ns\nper message", 0},
    {"load_late_p99_us", NULL, 1},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

/** What is offered now, at each level. */
static double rates[LEVELS];

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    static struct slice_result results[LEVELS];
    struct slice_options options = bench_slice_options(bench, subject);
    options.warm_ns /= LEVELS; /* all levels together are one slice */
    options.run_ns /= LEVELS;
    const int error = slice_offer(&options, rates, LEVELS, results);
    if (echo_slice_done(bench, subject, error, &results[0]) != 0)
        return error;
    for (unsigned level = 0; level < LEVELS; level++) {
        const struct slice_result *result = &results[level];
        double *values = metrics + level * METRICS;
        values[ACHIEVED] = (double)result->load.messages / (double)result->load.wall_ns * 1e9;
        values[P50_US] = histogram_percentile(&result->load.latency, 0.50) / 1e3;
        values[P99_US] = histogram_percentile(&result->load.latency, 0.99) / 1e3;
        values[P999_US] = histogram_percentile(&result->load.latency, 0.999) / 1e3;
        values[CPU_NS] = result->cpu_ns_per_message;
        values[LATE_P99_US] = histogram_percentile(&result->load.late, 0.99) / 1e3;
    }
    return 0;
}

static void
add_row(struct bench *bench, const struct echo_run *run, const struct bench_samples *samples,
        unsigned at, unsigned level)
{
    const unsigned first = level * METRICS;
    const struct estimate values[COLUMNS] = {
        estimate_exact(run->conns),
        estimate_exact(levels[level]),
        estimate_exact(rates[level]),
        bench_median(samples, at, first + ACHIEVED),
        bench_median(samples, at, first + P50_US),
        bench_estimate(samples, at, first + P99_US),
        bench_ratio(samples, at, 0, first + P99_US),
        bench_median(samples, at, first + P999_US),
        bench_median(samples, at, first + CPU_NS),
        bench_median(samples, at, first + LATE_P99_US),
    };
    report_row(&bench->report, run->subjects[at].name, values);
}

/** Says whose figures at this level are not those of somebody who kept up. */
static void
note_behind(struct bench *bench, const struct echo_run *run, const struct bench_samples *samples,
            unsigned level)
{
    char text[320] = "";
    for (unsigned i = 0; i < run->count; i++) {
        const double achieved =
            bench_median(samples, i, level * METRICS + ACHIEVED).median / rates[level];
        const size_t length = strlen(text);
        if (!run->subjects[i].left_out && achieved < ACHIEVED_MIN)
            snprintf(text + length, sizeof text - length, "%s%s (%.1f %%)", length > 0 ? ", " : "",
                     run->subjects[i].name, achieved * 100);
    }
    if (text[0] != '\0')
        report_note(&bench->report,
                    "%u %% load, %u connections: server or load did not keep up, so that messages "
                    "waited ever longer; answered in time of what was offered: %s",
                    levels[level], run->conns, text);
}

/** Says when the load was late itself, so much that latencies are partly its own. */
static void
note_late(struct bench *bench, const struct echo_run *run, const struct bench_samples *samples,
          unsigned level)
{
    double worst = 0, share = 0;
    for (unsigned i = 0; i < run->count; i++) {
        const double late = bench_median(samples, i, level * METRICS + LATE_P99_US).median;
        const double p99 = bench_median(samples, i, level * METRICS + P99_US).median;
        if (run->subjects[i].left_out || !(late / p99 > share))
            continue;
        share = late / p99;
        worst = late;
    }
    if (share > LATE_SHARE_MAX)
        report_note(&bench->report,
                    "%u %% load, %u connections: the load itself sent up to 1 in 100 messages "
                    "%.0f us late or more, which is in the latencies",
                    levels[level], run->conns, worst);
}

static void
measure_run(struct bench *bench, struct echo_run *run, struct bench_samples *samples)
{
    char name[64];
    for (unsigned level = 0; level < LEVELS; level++)
        rates[level] = run->rate * levels[level] / 100;
    for (unsigned i = 0; i < run->count; i++)
        run->subjects[i].measure = measure;
    bench_rounds(bench, run->subjects, run->count, samples);
    for (unsigned level = 0; level < LEVELS; level++) {
        for (unsigned i = 0; i < run->count; i++) {
            if (!run->subjects[i].left_out)
                add_row(bench, run, samples, i, level);
        }
        note_behind(bench, run, samples, level);
        note_late(bench, run, samples, level);
        const struct estimate control =
            bench_ratio(samples, run->count - 1, 0, level * METRICS + P99_US);
        snprintf(name, sizeof name, "plain-epoll p99 at %u %%, %u conns", levels[level],
                 run->conns);
        if (!isnan(control.median))
            report_control(&bench->report, name, control);
    }
}

void
echo_latency(struct bench *bench, struct echo_run *runs, unsigned count,
             struct bench_samples *samples)
{
    report_table_begin(&bench->report, "echo-latency", columns, COLUMNS);
    for (unsigned i = 0; i < count && !machine_interrupted; i++) {
        if (runs[i].rate > 0)
            measure_run(bench, &runs[i], samples);
        else
            report_note(&bench->report,
                        "no latencies with %u connections: the baseline was not measured",
                        runs[i].conns);
    }
    report_note(&bench->report, "echo-latency: an open loop, evenly spaced; latencies count from "
                                "when a message was due; the load spins on its CPU");
}
