/*
 * Case `idle`: what a connection costs while nothing happens on it. Real TCP connections, each of
 * which has exchanged one message, are held open; the growth of the server's memory is divided by
 * their number. What the server needs before the first of them (its buffers, its rings) is shown
 * apart: it does not depend on how many come.
 *
 * What waits on a connection for its next byte costs the kernel something too: a receive of
 * io_uring most, an item of an epoll set least, a poll request little more, and for that berth
 * exchanges the receives of idle connections ("parked"). Sockets are the same for all, so what a
 * server's connections cost more than those of plain-epoll, of which it is known what they cost
 * beyond the socket, tells what its own do.
 *
 * A connection's user bytes are the server's own and its library's, as far as they have touched new
 * pages: plain-epoll, whose table is all-zero for an idle connection, may well show none.
 *
 * What it cannot show: the kernel's share is read for the whole machine, so it counts both ends of
 * each connection, and whatever else the kernel allocates meanwhile.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "contestants.h"
#include "load.h"
#include "machine.h"
#include "server.h"

#define USER_BYTES_MAX 96
#define MESSAGE_BYTES 64u

/** Connections that warm a server up, if as many fit. */
#define WARM_CONNS 64u

/** An item of an epoll set and its place in the socket's wait queue: 128 and 64 bytes. */
#define EPOLL_ITEM_BYTES 192
#define WAITING_BYTES_MAX 300

/** With fewer connections, what else the kernel allocates is more than what they do. */
#define WAITING_CONNS_MIN 1000

/** Until the server has parked all, and how often it is asked. */
#define PARK_TRIES 200
#define PARK_TRY_MS 10

#define PARKED_NAME "berth-uring parked"

enum metric { USER_BYTES, RESIDENT_BYTES, KERNEL_BYTES, OBJECT_BYTES, START_KIB, HELD, METRICS };

static const struct report_column columns[] = {
    {"connections", "connections", 0},
    {"user_bytes_per_connection", "user bytes\nper connection", 1},
    {"kernel_bytes_per_connection", "kernel bytes\nboth ends", 0},
    {"kernel_object_bytes_per_connection", "of objects\nin use", 0},
    {"waiting_bytes_per_connection", "to wait\nfor data", 0},
    {"buffers_held", "buffers\nheld", 0},
    {"start_kib", "KiB before\nthe first", 0},
    {"resident_bytes_per_connection", NULL, 1},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

struct reading {
    struct machine_memory memory;
    struct server_counters counters;
    uint64_t slab_bytes, object_bytes;
};

static int
read_server(struct server *server, struct reading *reading)
{
    reading->object_bytes = machine_slab_settle();
    int error = server_counters_get(server, &reading->counters);
    if (error == 0)
        error = machine_memory_get(server->pid, &reading->memory);
    reading->slab_bytes = machine_slab_bytes();
    return error;
}

/**
 * A few connections that talk for a while touch everything that is made once: code, the heap's
 * first pages, every posted buffer.
 */
static int
warm(const struct server *server, uint32_t conns, uint64_t ns)
{
    struct load *load = NULL;
    const struct load_options options = {.conns = conns < WARM_CONNS ? conns : WARM_CONNS,
                                         .bytes = MESSAGE_BYTES,
                                         .port = server->control->port};
    int error = load_open(&load, &options);
    if (error == 0)
        error = load_run(load, ns, NULL);
    load_close(load);
    return error;
}

/** Has all connections parked. They are not before: none has been idle for long enough yet. */
static int
park_all(struct server *server, uint32_t conns)
{
    struct server_counters counters;
    int error = server_counters_get(server, &counters);
    if (error == 0 && counters.parked > 0)
        error = -EAGAIN;
    atomic_store(&server->control->park, 1);
    for (unsigned tries = 0; error == 0 && counters.parked < conns; tries++) {
        if (tries == PARK_TRIES)
            return -ETIMEDOUT;
        machine_sleep_ms(PARK_TRY_MS);
        error = server_counters_get(server, &counters);
    }
    return error;
}

static int
measure_on(struct server *server, uint32_t conns, bool park, uint64_t warm_ns, double *metrics)
{
    struct load *load = NULL;
    struct reading before = {0}, after = {0};
    const struct load_options options = {
        .conns = conns, .bytes = MESSAGE_BYTES, .port = server->control->port};
    int error = warm(server, conns, warm_ns);
    if (error == 0)
        error = read_server(server, &before);
    if (error == 0)
        error = load_open(&load, &options);
    if (error == 0 && park)
        error = park_all(server, conns);
    if (error == 0)
        error = read_server(server, &after);
    if (error == 0 && !park && after.counters.parked > 0)
        error = -EAGAIN; /* so slow a machine that some have become idle */
    if (error == 0 && after.counters.conns < conns)
        error = -ECONNRESET;
    load_close(load);
    if (error != 0)
        return error;
    const double user =
        (double)after.memory.anonymous_bytes - (double)before.memory.anonymous_bytes;
    const double all = (double)after.memory.resident_bytes - (double)before.memory.resident_bytes;
    const double slab = (double)after.slab_bytes - (double)before.slab_bytes;
    const double objects = (double)after.object_bytes - (double)before.object_bytes;
    metrics[USER_BYTES] = user / conns;
    metrics[RESIDENT_BYTES] = all / conns;
    metrics[KERNEL_BYTES] = after.slab_bytes > 0 ? slab / conns : NAN;
    metrics[OBJECT_BYTES] = after.object_bytes > 0 ? objects / conns : NAN;
    metrics[START_KIB] = (double)before.memory.anonymous_bytes / 1024;
    metrics[HELD] = after.counters.buffers_held >= 0 ? (double)after.counters.buffers_held : NAN;
    return 0;
}

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    struct server server;
    int error = server_start(&server, subject->context, bench->environment.cpu_server);
    if (error != 0)
        return error;
    contestants_heard(server.kind, server.control->explain);
    error = measure_on(&server, subject->parameter, strcmp(subject->name, PARKED_NAME) == 0,
                       (uint64_t)(bench->options.seconds * 1e9), metrics);
    server_stop(&server);
    return error;
}

/** Bytes of the kernel beyond the socket, of medians; NAN where they cannot be told. */
static double
waiting_bytes(const struct bench_samples *samples, const struct bench_subject *epoll, unsigned at)
{
    if (epoll == NULL || epoll->left_out || epoll->parameter < WAITING_CONNS_MIN)
        return NAN;
    return bench_estimate(samples, at, OBJECT_BYTES).median -
           bench_estimate(samples, 0, OBJECT_BYTES).median + EPOLL_ITEM_BYTES;
}

static void
add_results(struct bench *bench, const struct bench_samples *samples,
            const struct bench_subject *subjects, unsigned at)
{
    const struct bench_subject *subject = &subjects[at];
    const struct bench_subject *epoll = subjects[0].context == server_kinds ? subjects : NULL;
    struct estimate values[COLUMNS] = {
        estimate_exact(subject->parameter),
        bench_estimate(samples, at, USER_BYTES),
        bench_estimate(samples, at, KERNEL_BYTES),
        bench_estimate(samples, at, OBJECT_BYTES),
        estimate_exact(waiting_bytes(samples, epoll, at)),
        estimate_exact(bench_estimate(samples, at, HELD).median),
        estimate_exact(bench_estimate(samples, at, START_KIB).median),
        bench_estimate(samples, at, RESIDENT_BYTES),
    };
    report_row(&bench->report, subject->name, values);
    if (strncmp(subject->name, "berth-", 6) != 0)
        return;
    char name[64], text[96];
    if (strcmp(subject->name, PARKED_NAME) == 0) {
        snprintf(text, sizeof text, "kernel bytes to wait for data, parked, %u conns",
                 subject->parameter);
        report_figure(&bench->report, "berth-uring_parked_waiting_bytes", text, "B", values[4],
                      false, WAITING_BYTES_MAX);
        report_figure(&bench->report, "berth-uring_parked_buffers_held",
                      "  and buffers held by them", "", values[5], false, 0);
        return;
    }
    snprintf(name, sizeof name, "%s_user_bytes", subject->name);
    snprintf(text, sizeof text, "user bytes per idle connection, %s, %u conns", subject->name,
             subject->parameter);
    report_figure(&bench->report, name, text, "B", values[1], false, USER_BYTES_MAX);
    snprintf(name, sizeof name, "%s_buffers_held", subject->name);
    snprintf(text, sizeof text, "  and buffers held by them");
    report_figure(&bench->report, name, text, "", values[5], false, 0);
}

static void
add_control(struct bench *bench, const struct bench_samples *samples, unsigned again,
            uint32_t conns)
{
    char name[64];
    const struct estimate ratio = bench_ratio(samples, again, 0, USER_BYTES);
    snprintf(name, sizeof name, "user bytes of plain-epoll, %u conns", conns);
    if (!isnan(ratio.median)) /* few connections may need no new page at all */
        report_control(&bench->report, name, ratio);
}

static void
run_with(struct bench *bench, uint32_t conns, struct bench_samples *samples)
{
    struct bench_subject subjects[BENCH_SUBJECTS_MAX];
    const struct bench_subject like = {.measure = measure, .parameter = conns};
    unsigned count = contestants_choose(bench, &like, false, subjects);
    const bool control = count > 0 && subjects[0].context == server_kinds;
    for (unsigned s = count; s-- > 0;) {
        if (strcmp(subjects[s].name, "berth-uring") == 0) {
            subjects[count] = subjects[s];
            subjects[count++].name = PARKED_NAME;
        }
    }
    if (control) {
        subjects[count] = subjects[0];
        subjects[count++].name = "plain-epoll again";
    }
    bench_rounds(bench, subjects, count, samples);
    for (unsigned s = 0; s < count; s++) {
        if (!subjects[s].left_out)
            add_results(bench, samples, subjects, s);
    }
    if (control)
        add_control(bench, samples, count - 1, conns);
}

static int
run(struct bench *bench)
{
    static struct bench_samples samples;
    report_table_begin(&bench->report, "idle", columns, COLUMNS);
    for (unsigned i = 0; i < bench->options.connections.count && !machine_interrupted; i++)
        run_with(bench, bench_descriptors_fit(bench, bench->options.connections.values[i], 1),
                 &samples);
    report_note(&bench->report, "kernel bytes: slab growth of the whole machine, both ends");
    report_note(&bench->report,
                "to wait for data: what objects in use exceed plain-epoll's by, and %d for its own",
                EPOLL_ITEM_BYTES);
    contestants_note(bench);
    return bench->report.tables[0].rows_count > 0 ? 0 : -EIO;
}

const struct bench_case bench_case_idle = {
    .name = "idle",
    .summary = "bytes that an idle TCP connection costs, user memory and kernel apart",
    .run = run,
    .variant = server_kind_name,
    .connections_max = LOAD_CONNS_MAX,
    .normal = {.rounds = 3, .seconds = 0.2, .connections = "16000"},
    .quick = {.rounds = 1, .seconds = 0.1, .connections = "2000"},
    .full = {.rounds = 5, .seconds = 0.2, .connections = "1000,16000"},
};
