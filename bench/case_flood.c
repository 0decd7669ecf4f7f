/*
 * Case `flood`: what becomes of many light connections when a few others on the same server send as
 * fast as they are let. Every contestant is measured on its own and beside the flood, each time
 * with a new server; the two follow each other, in the opposite order every other round, and the
 * ratio of their 99th percentiles is taken round by round.
 *
 * The light connections are an open loop at a rate that is fixed, so that runs can be compared, and
 * low: a latency counts from when its message was due, and without the flood the server is idle
 * most of the time. The flood is echoed too, and taken back as fast as it comes: a server that
 * pauses connections which do not read has no reason to pause these. So all servers are plain echo
 * servers here as in case `echo`; how much of one connection they take before they look at the next
 * is what tells them apart.
 *
 * Both are sent by one process, on one CPU. Two processes would take turns of milliseconds there,
 * and percentiles would show the scheduler; with a step of 16 KiB between two looks at the light
 * connections, the load is late by no more than `load_turn_p99_us` and says so.
 *
 * What it cannot show: floods faster than one CPU sends and checks (a note says whose server still
 * had time to spare), or from a network. And a server that is kept busy never sleeps: on its own,
 * waking up is in most of its latencies, and in no flooded one. A ratio may so be kinder than it
 * is.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "contestants.h"
#include "flood.h"
#include "machine.h"
#include "slice.h"

#define RATIO_P99_MAX 2.0

/** Of all light connections together. */
#define LIGHT_PER_SECOND 20000.0

/** Those who are compared unless --variants names others, or all are asked for. */
#define USUAL "plain-epoll,berth-epoll,berth-uring,plain-uring,libuv,libevent"

/** With less of what was offered answered in time, the server (or the load) did not keep up. */
#define ACHIEVED_MIN 0.98

/** Without the flood, a server that is busier is not lightly loaded. */
#define ALONE_BUSY_MAX 0.5

/** With it, one that is less busy could have taken more. */
#define FLOODED_BUSY_MIN 0.95

/** When the load's own share of a p99 may be larger than this, the report says so. */
#define OWN_SHARE_MAX 0.25

enum metric {
    P50_US,
    P99_US,
    P999_US,
    BUSY,
    ACHIEVED, /**< share of what was offered */
    FLOOD_MB,
    SERVER_TURN_US, /**< from one wait of the server to its next */
    LATE_P99_US,
    TURN_P99_US,
    OWN_SHARE, /**< of the p99: of the two before */
    METRICS
};
_Static_assert(METRICS <= BENCH_METRICS_MAX, "all are kept");

static const struct report_column columns[] = {
    {"connections", "connections", 0},
    {"floods", "floods", 0},
    {"p50_us", "p50 us", 0},
    {"p99_us", "p99 us", 0},
    {"p999_us", "p99.9 us", 0},
    {"flooded_p50_us", "p50 us\nflooded", 0},
    {"flooded_p99_us", "p99 us\nflooded", 0},
    {"flooded_p999_us", "p99.9 us\nflooded", 0},
    {"p99_ratio", "p99 ratio\nto alone", 2},
    {"server_busy", "server\nbusy", 2},
    {"flooded_server_busy", "flooded\nbusy", 2},
    {"flood_mb_per_second", "flood\nMB/s", 0},
    {"achieved_share", NULL, 3},
    {"flooded_achieved_share", NULL, 3},
    {"load_late_p99_us", NULL, 1},
    {"flooded_load_late_p99_us", NULL, 1},
    {"load_turn_p99_us", NULL, 1},
    {"flooded_load_turn_p99_us", NULL, 1},
    {"flooded_server_turn_us", NULL, 1},
};
#define COLUMNS (sizeof columns / sizeof columns[0])
_Static_assert(COLUMNS <= REPORT_COLUMNS_MAX, "all are kept");

enum side { ALONE, FLOODED, SIDES };

/** One contestant: two subjects that follow each other. */
struct contestant {
    char names[SIDES][REPORT_NAME_BYTES];
};

/** What is compared with one number of connections and of floods. */
struct flood_run {
    uint32_t conns;
    uint32_t floods;
    unsigned count; /**< of contestants, the control among them */
    struct contestant contestants[BENCH_SUBJECTS_MAX / SIDES];
    struct bench_subject subjects[BENCH_SUBJECTS_MAX];
};

static unsigned
subject_of(unsigned contestant, enum side side)
{
    return contestant * SIDES + side;
}

/* ---- measuring ---------------------------------------------------------------------------------
 */

static int
measure(struct bench *bench, const struct bench_subject *subject, unsigned floods, double *metrics)
{
    static struct slice_result result;
    static const double rate = LIGHT_PER_SECOND;
    struct slice_options options = bench_slice_options(bench, subject);
    options.floods = floods;
    const int error = slice_offer(&options, &rate, 1, &result);
    if (machine_interrupted)
        return error;
    if (error == -EPROTO)
        report_doubt(&bench->report, "%s echoed other bytes than it was sent", subject->name);
    if (error != 0)
        return error;
    contestants_heard(subject->context, result.explain);
    const struct load_result *load = &result.load;
    metrics[P50_US] = histogram_percentile(&load->latency, 0.50) / 1e3;
    metrics[P99_US] = histogram_percentile(&load->latency, 0.99) / 1e3;
    metrics[P999_US] = histogram_percentile(&load->latency, 0.999) / 1e3;
    metrics[BUSY] = result.server_busy;
    metrics[ACHIEVED] = (double)load->messages / (double)load->wall_ns * 1e9 / rate;
    metrics[FLOOD_MB] = result.flood_bytes_per_second / 1e6;
    metrics[SERVER_TURN_US] = result.messages_per_turn / result.messages_per_second * 1e6;
    metrics[LATE_P99_US] = histogram_percentile(&load->late, 0.99) / 1e3;
    metrics[TURN_P99_US] = histogram_percentile(&load->turns, 0.99) / 1e3;
    metrics[OWN_SHARE] = (metrics[LATE_P99_US] + metrics[TURN_P99_US]) / metrics[P99_US];
    return 0;
}

static int
measure_alone(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    return measure(bench, subject, 0, metrics);
}

/** How many floods there are now. */
static uint32_t floods_now;

static int
measure_flooded(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    return measure(bench, subject, floods_now, metrics);
}

/** The servers wanted, and the first of them once more as the control. */
static void
choose(struct bench *bench, struct flood_run *run)
{
    static struct bench_subject chosen[BENCH_SUBJECTS_MAX];
    const struct bench_subject like = {.parameter = run->conns};
    const unsigned kinds = contestants_choose(bench, &like, false, chosen);
    run->count = kinds > 0 ? kinds + 1 : 0;
    for (unsigned i = 0; i < run->count; i++) {
        const struct bench_subject *from = &chosen[i < kinds ? i : 0];
        struct contestant *contestant = &run->contestants[i];
        for (enum side side = ALONE; side < SIDES; side++) {
            struct bench_subject *subject = &run->subjects[subject_of(i, side)];
            char *name = contestant->names[side];
            snprintf(name, REPORT_NAME_BYTES, "%s%s%s", from->name, i < kinds ? "" : " again",
                     side == FLOODED ? ", flooded" : "");
            *subject = *from;
            subject->name = name;
            subject->measure = side == FLOODED ? measure_flooded : measure_alone;
        }
    }
}

/* ---- telling -----------------------------------------------------------------------------------
 */

static struct estimate
median_of(const struct bench_samples *samples, unsigned contestant, enum side side,
          enum metric metric)
{
    return bench_median(samples, subject_of(contestant, side), metric);
}

static struct estimate
p99_ratio(const struct bench_samples *samples, unsigned contestant)
{
    return bench_ratio(samples, subject_of(contestant, FLOODED), subject_of(contestant, ALONE),
                       P99_US);
}

static void
add_row(struct bench *bench, const struct flood_run *run, const struct bench_samples *samples,
        unsigned at)
{
    const struct estimate values[COLUMNS] = {
        estimate_exact(run->conns),
        estimate_exact(run->floods),
        median_of(samples, at, ALONE, P50_US),
        bench_estimate(samples, subject_of(at, ALONE), P99_US),
        median_of(samples, at, ALONE, P999_US),
        median_of(samples, at, FLOODED, P50_US),
        bench_estimate(samples, subject_of(at, FLOODED), P99_US),
        median_of(samples, at, FLOODED, P999_US),
        p99_ratio(samples, at),
        median_of(samples, at, ALONE, BUSY),
        median_of(samples, at, FLOODED, BUSY),
        median_of(samples, at, FLOODED, FLOOD_MB),
        median_of(samples, at, ALONE, ACHIEVED),
        median_of(samples, at, FLOODED, ACHIEVED),
        median_of(samples, at, ALONE, LATE_P99_US),
        median_of(samples, at, FLOODED, LATE_P99_US),
        median_of(samples, at, ALONE, TURN_P99_US),
        median_of(samples, at, FLOODED, TURN_P99_US),
        median_of(samples, at, FLOODED, SERVER_TURN_US),
    };
    report_row(&bench->report, run->contestants[at].names[ALONE], values);
}

/** What has been promised: for berth, and for as many as this. */
static void
add_figure(struct bench *bench, const struct flood_run *run, const struct bench_samples *samples,
           unsigned at)
{
    char figure[64], text[96];
    const char *name = run->contestants[at].names[ALONE];
    if (bench->options.bytes != 64 || run->conns != 1000 || run->floods != 4)
        return;
    if (strcmp(name, "berth-epoll") != 0 && strcmp(name, "berth-uring") != 0)
        return;
    snprintf(figure, sizeof figure, "%s_flood_p99_ratio", name);
    snprintf(text, sizeof text, "p99 of 1000 conns beside 4 floods to without them, %s", name);
    report_figure(&bench->report, figure, text, "", p99_ratio(samples, at), false, RATIO_P99_MAX);
}

/** Who, on that side, has less than `least` of something, or more than `most`, in per cent. */
static const char *
who(const struct flood_run *run, const struct bench_samples *samples, enum side side,
    enum metric metric, double least, double most)
{
    static char text[320];
    text[0] = '\0';
    for (unsigned i = 0; i < run->count; i++) {
        const double share = median_of(samples, i, side, metric).median;
        const size_t length = strlen(text);
        if (share < least || share > most)
            snprintf(text + length, sizeof text - length, "%s%s (%.1f %%)", length > 0 ? ", " : "",
                     run->contestants[i].names[ALONE], share * 100);
    }
    return text[0] != '\0' ? text : NULL;
}

/** What makes the numbers of some contestants mean something else than they seem to. */
static void
note_limits(struct bench *bench, const struct flood_run *run, const struct bench_samples *samples)
{
    static const char *const sides[SIDES] = {"alone", "flooded"};
    struct report *report = &bench->report;
    const char *names = who(run, samples, ALONE, BUSY, 0, ALONE_BUSY_MAX);
    if (names != NULL)
        report_note(report, "%u connections: %.0f messages a second are not little here; busy: %s",
                    run->conns, LIGHT_PER_SECOND, names);
    names = who(run, samples, FLOODED, BUSY, FLOODED_BUSY_MIN, INFINITY);
    if (names != NULL)
        report_note(report,
                    "%u connections, %u floods: the flood was not all that the server could take, "
                    "which was busy only so long: %s",
                    run->conns, run->floods, names);
    for (enum side side = ALONE; side < SIDES; side++) {
        names = who(run, samples, side, ACHIEVED, ACHIEVED_MIN, INFINITY);
        if (names != NULL)
            report_note(report,
                        "%u connections, %s: server or load did not keep up, so that messages "
                        "waited ever longer; answered in time of what was offered: %s",
                        run->conns, sides[side], names);
        names = who(run, samples, side, OWN_SHARE, 0, OWN_SHARE_MAX);
        if (names != NULL)
            report_note(report,
                        "%u connections, %s: the load's own part of a p99 (late to send, and one "
                        "turn late to look) may be as much as: %s",
                        run->conns, sides[side], names);
    }
}

static void
add_controls(struct bench *bench, const struct flood_run *run, const struct bench_samples *samples)
{
    static const char *const words[SIDES] = {"alone", "flooded"};
    for (enum side side = ALONE; side < SIDES; side++) {
        char name[64];
        const struct estimate ratio =
            bench_ratio(samples, subject_of(run->count - 1, side), subject_of(0, side), P99_US);
        snprintf(name, sizeof name, "%s p99 %s, %u conns", run->contestants[0].names[ALONE],
                 words[side], run->conns);
        if (!isnan(ratio.median))
            report_control(&bench->report, name, ratio);
    }
}

static void
run_with(struct bench *bench, struct flood_run *run, struct bench_samples *samples)
{
    floods_now = run->floods;
    choose(bench, run);
    if (run->count == 0)
        return;
    bench_rounds(bench, run->subjects, run->count * SIDES, samples);
    for (unsigned i = 0; i < run->count; i++) {
        /* One that only the flood was too much for has the other half of its row. */
        if (!run->subjects[subject_of(i, ALONE)].left_out)
            add_row(bench, run, samples, i);
    }
    for (unsigned i = 0; i < run->count; i++)
        add_figure(bench, run, samples, i);
    note_limits(bench, run, samples);
    add_controls(bench, run, samples);
}

static int
run(struct bench *bench)
{
    static struct bench_samples samples;
    static struct flood_run one;
    const struct bench_numbers *conns = &bench->options.connections;
    const struct bench_numbers *floods = &bench->options.active;
    if (bench->options.variants == NULL && !bench->options.full)
        bench->options.variants = USUAL;
    report_table_begin(&bench->report, "flood", columns, COLUMNS);
    for (unsigned i = 0; i < conns->count && !machine_interrupted; i++) {
        one.conns = bench_descriptors_fit(bench, conns->values[i], 1);
        for (unsigned j = 0; j < floods->count && !machine_interrupted; j++) {
            one.floods = floods->values[j];
            run_with(bench, &one, &samples);
        }
    }
    report_note(&bench->report,
                "%.0f messages of %u bytes a second in all, evenly spaced; latencies count from "
                "when a message was due",
                LIGHT_PER_SECOND, bench->options.bytes);
    report_note(
        &bench->report,
        "the load's process sends the flood too, a step of 16 KiB at most between two "
        "looks at the light connections; columns load_turn_p99_us tell how long these take");
    contestants_note(bench);
    return bench->report.tables[0].rows_count > 0 ? 0 : -EIO;
}

static const struct report_plot plots[] = {
    {
        .name = "flood-p99",
        .title = "99 of 100 answers beside four floods came within: lower is better",
        .table = "flood",
        .y = "flooded_p99_us",
        .y_title = "us from when the message was due",
        .only = "floods",
        .only_value = 4,
    },
    {.name = NULL},
};

const struct bench_case bench_case_flood = {
    .name = "flood",
    .summary = "latency of many light connections beside a few that send all they can",
    .run = run,
    .variant = server_kind_name,
    .options = BENCH_OPTION_SIZE | BENCH_OPTION_LOAD,
    .connections_max = LOAD_CONNS_MAX,
    .active_max = FLOOD_CONNS_MAX,
    .normal = {.rounds = 9, .seconds = 0.5, .connections = "1000", .active = "4"},
    .quick = {.rounds = 1, .seconds = 0.1, .connections = "1000", .active = "4"},
    .full = {.rounds = 11, .seconds = 0.7, .connections = "1000", .active = "1,4,16"},
    .plots = plots,
};
