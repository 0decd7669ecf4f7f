/*
 * Case `echo`: the same small message there and back on every connection, served by berth's loop on
 * each engine, by loops written by hand, and by libev, libuv and libevent as installed; what one
 * message costs the server, and how long it takes. With --server also by a program of the user's.
 *
 * Table `echo`: one message in flight per connection (a closed loop). That is right for processor
 * time and system calls per message; its latencies are those of a system kept full. Table
 * `echo-latency`: messages come at a fixed rate, whoever is behind (an open loop; echo_latency.c).
 *
 * Every contestant is compiled alike (a library: as its distributor did), has the same socket
 * options, receives as many bytes at once, and does the same work; every byte is checked. They do
 * differ in how many events they take per turn (a library decides that itself).
 *
 * What it cannot show: a network. Over loopback the sender's processor does much of the receiver's
 * work, so that both the load's and the server's time hold some of the other's. With few processors
 * the load, which checks every byte, is as busy as the server: a rate is what the two of them reach
 * together, and a ratio of processor times says more. Timers, many listeners, connections that come
 * and go, and what libraries do besides are not in it. Evenly spaced messages are kinder than real
 * ones; and latencies of tens of microseconds are scheduling as much as serving.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "contestants.h"
#include "echo.h"
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

/** The program that --server named, if any. */
static struct server_kind command_kind = {
    .name = "server",
    .summary = "a server of the user's",
};

/** It did not even start: there is no use in waiting for it again. */
static bool command_failed;

/** What was wrong with a user's server, in words: it is theirs to mend. */
static void
explain_command(struct bench *bench, int error, bool started, uint32_t conns)
{
    struct report *report = &bench->report;
    if (!started && error == -ESRCH)
        report_note(report, "--server: the command ended before it accepted a connection");
    else if (!started && error == -ETIMEDOUT)
        report_note(report, "--server: nothing accepted connections on 127.0.0.1:$PORT in time");
    else if (error == -EPROTO)
        report_note(report, "--server: it answered other bytes than it was sent");
    else if (error == -ETIMEDOUT)
        report_note(report, "--server: with %u connections, an answer did not come in time", conns);
    else if (error == -ECONNRESET || error == -EPIPE || error == -ECONNREFUSED)
        report_note(report, "--server: with %u connections, it closed or refused some", conns);
    else if (error == -ESRCH)
        report_note(report, "--server: it ended while it was measured");
}

int
echo_slice_done(struct bench *bench, const struct bench_subject *subject, int error,
                const struct slice_result *result)
{
    const struct server_kind *kind = subject->context;
    if (machine_interrupted)
        return error;
    if (error == 0)
        contestants_heard(kind, result->explain);
    else if (kind->command != NULL)
        explain_command(bench, error, result->explain[0] != '\0', subject->parameter);
    else if (error == -EPROTO)
        report_doubt(&bench->report, "%s echoed other bytes than it was sent", subject->name);
    if (error != 0 && kind->command != NULL && result->explain[0] == '\0')
        command_failed = true;
    return error;
}

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    static struct slice_result result;
    const struct slice_options options = bench_slice_options(bench, subject);
    const int error = slice_measure(&options, &result);
    if (echo_slice_done(bench, subject, error, &result) != 0)
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
static void
choose(struct bench *bench, struct echo_run *run)
{
    const struct bench_subject like = {.measure = measure, .parameter = run->conns};
    struct bench_subject *subjects = run->subjects;
    run->count = contestants_choose(bench, &like, true, subjects);
    if (command_kind.command != NULL && !command_failed) {
        subjects[run->count] = like;
        subjects[run->count].name = command_kind.name;
        subjects[run->count++].context = &command_kind;
    }
    subjects[run->count] = subjects[0];
    subjects[run->count++].name = "plain-epoll again";
}

static void
run_with(struct bench *bench, struct echo_run *run, struct bench_samples *samples)
{
    choose(bench, run);
    bench_rounds(bench, run->subjects, run->count, samples);
    for (unsigned i = 0; i < run->count; i++) {
        if (!run->subjects[i].left_out)
            add_row(bench, samples, i, run->subjects[i].name, run->conns);
    }
    for (unsigned i = 0; i < run->count; i++)
        add_figures(bench, samples, i, run->subjects[i].name, run->conns);
    char name[64];
    snprintf(name, sizeof name, "plain-epoll, %u conns", run->conns);
    report_control(&bench->report, name, bench_ratio(samples, run->count - 1, 0, CPU_NS));
    run->rate = bench_median(samples, 0, RATE).median;
}

static void
add_notes(struct bench *bench)
{
    report_note(&bench->report,
                "messages of %u bytes, one in flight per connection; closed-loop latencies are "
                "those of a full system: compare, do not quote",
                bench->options.bytes);
    if (command_kind.command != NULL)
        report_note(&bench->report,
                    "server is `%s`: its processor time is that of all its processes, its socket "
                    "options are its own, its system calls are not counted",
                    command_kind.command);
    contestants_note(bench);
}

static int
run(struct bench *bench)
{
    static struct bench_samples samples;
    static struct echo_run runs[BENCH_NUMBERS_MAX];
    const struct bench_numbers *conns = &bench->options.connections;
    unsigned count = 0;
    command_kind.command = bench->options.server;
    report_table_begin(&bench->report, "echo", columns, COLUMNS);
    for (; count < conns->count && !machine_interrupted; count++) {
        runs[count].conns = bench_descriptors_fit(bench, conns->values[count], 1);
        run_with(bench, &runs[count], &samples);
    }
    if (!machine_interrupted)
        echo_latency(bench, runs, count, &samples);
    add_notes(bench);
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
    {
        .name = "echo-p99-50",
        .title = "99 of 100 answers came within: at half load; lower is better",
        .table = "echo-latency",
        .x = "connections",
        .y = "p99_us",
        .x_title = "connections",
        .y_title = "us from when the message was due",
        .only = "load_percent",
        .only_value = 50,
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,
    },
    {
        .name = "echo-p99-80",
        .title = "99 of 100 answers came within: at 80 % load; lower is better",
        .table = "echo-latency",
        .x = "connections",
        .y = "p99_us",
        .x_title = "connections",
        .y_title = "us from when the message was due",
        .only = "load_percent",
        .only_value = 80,
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,
    },
    {.name = NULL},
};

const struct bench_case bench_case_echo = {
    .name = "echo",
    .summary = "processor time, system calls and latency per echoed message",
    .run = run,
    .variant = server_kind_name,
    .options = BENCH_OPTION_SIZE | BENCH_OPTION_LOAD | BENCH_OPTION_SERVER,
    .connections_max = LOAD_CONNS_MAX,
    .normal = {.rounds = 9, .seconds = 0.3, .connections = "1000,10000"},
    .quick = {.rounds = 2, .seconds = 0.12, .connections = "1000"},
    .full = {.rounds = 11, .seconds = 0.5, .connections = "16,100,1000,10000"},
    .plots = plots,
};
