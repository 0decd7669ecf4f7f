/*
 * Case `echo`: the same small message there and back on every connection at once, served by berth's
 * loop on each engine and by two hand-written loops; what one message costs the server.
 *
 * The load keeps one message in flight per connection (a closed loop). That is right for processor
 * time and system calls per message. The latencies are those of a system kept full: compare them
 * within one run, do not quote them.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "machine.h"
#include "slice.h"

#define RATIO_EPOLL_MAX 1.00
#define RATIO_URING_MAX 0.90
#define SYSCALLS_URING_MAX 0.05

enum metric {
    CPU_NS,
    RATE,
    SYSCALLS,
    P50_US,
    P99_US,
    P999_US,
    BUSY,
    LOAD_CPU_NS,
    PER_TURN,
    STARVED,
    METRICS
};

static const struct report_column columns[] = {
    {"connections", "connections", 0},
    {"cpu_ns_per_message", "CPU ns\nper message", 0},
    {"cpu_ratio", "ratio to\nplain epoll", 3},
    {"messages_per_second", "messages\nper second", 0},
    {"syscalls_per_message", "system calls\nper message", 4},
    {"closed_loop_p50_us", "p50 us\nclosed loop", 0},
    {"closed_loop_p99_us", "p99 us\nclosed loop", 0},
    {"server_busy", "server\nbusy", 2},
    {"closed_loop_p999_us", NULL, 0},
    {"load_cpu_ns_per_message", NULL, 0},
    {"messages_per_turn", NULL, 1},
    {"enobufs", NULL, 0},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    static struct slice_result result;
    const double warm_s = bench->options.seconds * 0.3;
    const struct slice_options options = {
        .kind = subject->context,
        .cpu_server = bench->environment.cpu_server,
        .conns = subject->parameter,
        .bytes = bench->options.bytes,
        .load = bench->options.load,
        .warm_ns = (uint64_t)((warm_s < 0.5 ? warm_s : 0.5) * 1e9),
        .run_ns = (uint64_t)(bench->options.seconds * 1e9),
    };
    const int error = slice_measure(&options, &result);
    if (error == -EPROTO)
        report_doubt(&bench->report, "%s echoed other bytes than it was sent", subject->name);
    if (error != 0)
        return error;
    metrics[CPU_NS] = result.cpu_ns_per_message;
    metrics[RATE] = result.messages_per_second;
    metrics[SYSCALLS] = result.syscalls_per_message;
    metrics[P50_US] = histogram_percentile(&result.load.latency, 0.50) / 1e3;
    metrics[P99_US] = histogram_percentile(&result.load.latency, 0.99) / 1e3;
    metrics[P999_US] = histogram_percentile(&result.load.latency, 0.999) / 1e3;
    metrics[BUSY] = result.server_busy;
    metrics[LOAD_CPU_NS] = result.load_cpu_ns_per_message;
    metrics[PER_TURN] = result.messages_per_turn;
    metrics[STARVED] = result.enobufs;
    return 0;
}

static void
add_row(struct bench *bench, const struct bench_samples *samples, unsigned at, const char *name,
        uint32_t conns)
{
    const struct estimate values[COLUMNS] = {
        estimate_exact(conns),
        bench_estimate(samples, at, CPU_NS),
        bench_ratio(samples, at, 0, CPU_NS),
        bench_median(samples, at, RATE),
        bench_median(samples, at, SYSCALLS),
        bench_median(samples, at, P50_US),
        bench_median(samples, at, P99_US),
        bench_median(samples, at, BUSY),
        bench_median(samples, at, P999_US),
        bench_median(samples, at, LOAD_CPU_NS),
        bench_median(samples, at, PER_TURN),
        bench_median(samples, at, STARVED),
    };
    report_row(&bench->report, name, values);
}

/** What has been promised for this server with this many connections, if anything. */
static void
add_figures(struct bench *bench, const struct bench_samples *samples, unsigned at, const char *name,
            uint32_t conns)
{
    char figure[64], text[96];
    const bool epoll = strcmp(name, "berth-epoll") == 0, uring = strcmp(name, "berth-uring") == 0;
    if (bench->options.bytes != 64)
        return;
    if ((epoll && (conns == 1000 || conns == 10000)) || (uring && conns == 10000)) {
        snprintf(figure, sizeof figure, "%s_cpu_ratio_%u", epoll ? "epoll" : "uring", conns);
        snprintf(text, sizeof text, "CPU per message, %s to plain epoll, %u conns", name, conns);
        report_figure(&bench->report, figure, text, "", bench_ratio(samples, at, 0, CPU_NS), false,
                      epoll ? RATIO_EPOLL_MAX : RATIO_URING_MAX);
    }
    if (uring && conns == 1000)
        report_figure(&bench->report, "uring_syscalls_per_message_1000",
                      "system calls per message, berth-uring, 1000 conns", "",
                      bench_estimate(samples, at, SYSCALLS), false, SYSCALLS_URING_MAX);
}

/** The servers wanted; the baseline always comes first, and once more at the end as the control. */
static unsigned
choose(const struct bench *bench, uint32_t conns, struct bench_subject *subjects)
{
    unsigned count = 0;
    for (const struct server_kind *kind = server_kinds; kind->name != NULL; kind++) {
        if (kind == server_kinds || bench_wants(bench, kind->name))
            subjects[count++] = (struct bench_subject){
                .name = kind->name, .measure = measure, .context = kind, .parameter = conns};
    }
    subjects[count] = subjects[0];
    subjects[count++].name = "plain-epoll again";
    return count;
}

static void
run_with(struct bench *bench, uint32_t conns, struct bench_samples *samples)
{
    struct bench_subject subjects[BENCH_SUBJECTS_MAX];
    const unsigned count = choose(bench, conns, subjects);
    bench_rounds(bench, subjects, count, samples);
    for (unsigned i = 0; i < count; i++) {
        if (!subjects[i].left_out)
            add_row(bench, samples, i, subjects[i].name, conns);
    }
    for (unsigned i = 0; i < count; i++)
        add_figures(bench, samples, i, subjects[i].name, conns);
    char name[64];
    snprintf(name, sizeof name, "plain-epoll, %u conns", conns);
    report_control(&bench->report, name, bench_ratio(samples, count - 1, 0, CPU_NS));
}

static int
run(struct bench *bench)
{
    static struct bench_samples samples;
    report_table_begin(&bench->report, "echo", columns, COLUMNS);
    for (unsigned i = 0; i < bench->options.connections.count && !machine_interrupted; i++)
        run_with(bench, bench_descriptors_fit(bench, bench->options.connections.values[i], 1),
                 &samples);
    report_note(&bench->report,
                "messages of %u bytes, one in flight per connection; latencies are "
                "those of a full system: compare, do not quote",
                bench->options.bytes);
    return bench->report.tables[0].rows_count > 0 ? 0 : -EIO;
}

static const struct report_plot plots[] = {
    {
        .name = "echo-cpu",
        .title = "Server's processor time per echoed message: lower is better",
        .table = "echo",
        .x = "connections",
        .y = "cpu_ns_per_message",
        .x_title = "connections",
        .y_title = "ns per message",
        .options = REPORT_PLOT_LOG_X,
    },
    {.name = NULL},
};

const struct bench_case bench_case_echo = {
    .name = "echo",
    .summary = "processor time, system calls and latency per echoed message",
    .run = run,
    .variant = server_kind_name,
    .options = BENCH_OPTION_SIZE | BENCH_OPTION_LOAD,
    .connections_max = LOAD_CONNS_MAX,
    .normal = {.rounds = 9, .seconds = 1.0, .connections = "100,1000,10000"},
    .quick = {.rounds = 3, .seconds = 0.3, .connections = "1000"},
    .full = {.rounds = 15, .seconds = 1.0, .connections = "16,100,1000,10000"},
    .plots = plots,
};
