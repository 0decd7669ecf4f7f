/*
 * Measuring one server once. Everything is made anew for each slice, so that no contestant lives on
 * another's memory layout or on the state of its sockets.
 *
 * SPDX-License-Identifier: MIT
 */
#include "slice.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "flood.h"
#include "machine.h"

#define PROGRESS_NS UINT64_C(100000000)

static double
grown(uint64_t before, uint64_t after)
{
    return after == SERVER_COUNT_UNKNOWN ? NAN : (double)(after - before);
}

/** `counted`: the messages between the two, for servers that do not count them, or not apart. */
static void
compute(const struct slice_options *options, const struct server_counters *before,
        const struct server_counters *after, double counted, struct slice_result *result)
{
    const double wall_ns = (double)(after->wall_ns - before->wall_ns);
    /* Processes of a user's server may have ended, and taken their time along. */
    const double cpu_ns =
        after->cpu_ns < before->cpu_ns ? NAN : (double)(after->cpu_ns - before->cpu_ns);
    double messages = grown(before->received_bytes, after->received_bytes) / (double)options->bytes;
    if (isnan(messages) || options->floods > 0)
        messages = counted;
    result->cpu_ns_per_message = cpu_ns / messages;
    result->messages_per_second = messages / wall_ns * 1e9;
    result->syscalls_per_message = grown(before->syscalls, after->syscalls) / messages;
    result->messages_per_turn = messages / grown(before->turns, after->turns);
    result->server_busy = cpu_ns / wall_ns;
    result->load_cpu_ns_per_message = (double)result->load.cpu_ns / (double)result->load.messages;
    result->enobufs = grown(before->enobufs, after->enobufs);
    result->last = *after;
}

/** Loads for the length of the slice, in pieces if somebody wants to watch. */
static int
run(const struct slice_options *options, struct load *load, struct slice_result *result)
{
    if (options->progress == NULL)
        return load_run(load, options->run_ns, &result->load);
    const uint64_t begin = machine_now_ns();
    int error = 0;
    for (uint64_t done = 0; error == 0 && done < options->run_ns && !machine_interrupted;) {
        const uint64_t left = options->run_ns - done;
        error = load_run(load, left < PROGRESS_NS ? left : PROGRESS_NS, &result->load);
        options->progress(options->context, &result->load);
        done = machine_now_ns() - begin;
    }
    return error;
}

static int
warm(const struct slice_options *options, struct load *load, double rate)
{
    return rate > 0 ? load_offer(load, rate, options->warm_ns, NULL)
                    : load_run(load, options->warm_ns, NULL);
}

/** Who does not count messages is looked at only when none is under way. */
static int
read_counters(struct server *server, struct load *load, struct server_counters *counters)
{
    const int error = server->kind->command != NULL ? load_settle(load) : 0;
    return error != 0 ? error : server_counters_get(server, counters);
}

/** What is at work beside each other. */
struct parts {
    struct server server;
    struct load *load;
    struct flood *flood; /**< NULL: none */
};

/** In an open loop, and what came back of the flood meanwhile. */
static int
offer(const struct slice_options *options, struct parts *parts, double rate,
      struct slice_result *result)
{
    const uint64_t begin_ns = machine_now_ns();
    const uint64_t bytes = parts->flood != NULL ? flood_bytes(parts->flood) : 0;
    const int error = load_offer(parts->load, rate, options->run_ns, &result->load);
    if (parts->flood != NULL)
        result->flood_bytes_per_second = (double)(flood_bytes(parts->flood) - bytes) /
                                         (double)(machine_now_ns() - begin_ns) * 1e9;
    return error;
}

/** At `rate` messages a second, or (0) in a closed loop. */
static int
measure_at(const struct slice_options *options, struct parts *parts, double rate,
           struct slice_result *result)
{
    struct server_counters before, after;
    struct load *load = parts->load;
    int error = warm(options, load, rate);
    if (error == 0)
        error = read_counters(&parts->server, load, &before);
    const uint64_t answered = load_answered(load);
    if (error == 0)
        error = rate > 0 ? offer(options, parts, rate, result) : run(options, load, result);
    if (error == 0)
        error = read_counters(&parts->server, load, &after);
    if (error == 0 && result->load.messages == 0)
        error = -ETIMEDOUT;
    if (error == 0)
        compute(options, &before, &after, (double)(load_answered(load) - answered), result);
    return error;
}

/** The flood is connected, and begins with the load. */
static int
connect_parts(const struct slice_options *options, struct parts *parts)
{
    struct load_options load_options = {
        .engine = options->load,
        .conns = options->conns,
        .bytes = options->bytes,
        .port = parts->server.control->port,
        .yields = options->cpu_shared,
    };
    if (options->floods > 0) {
        const int error = flood_open(&parts->flood, options->floods, load_options.port);
        if (error != 0)
            return error;
        load_options.beside = flood_step;
        load_options.context = parts->flood;
    }
    return load_open(&parts->load, &load_options);
}

/** Measures at each of the rates in turn, on one server. */
static int
measure(const struct slice_options *options, const double *rates, unsigned count,
        struct slice_result *results)
{
    struct parts parts = {.load = NULL};
    memset(results, 0, count * sizeof results[0]);
    int error = server_start(&parts.server, options->kind, options->cpu_server);
    if (error != 0)
        return machine_interrupted ? -ECANCELED : error;
    memcpy(results[0].explain, parts.server.control->explain, sizeof results[0].explain);
    error = connect_parts(options, &parts);
    for (unsigned i = 0; error == 0 && i < count; i++) {
        error = measure_at(options, &parts, rates[i], &results[i]);
    }
    load_close(parts.load);
    flood_close(parts.flood);
    server_stop(&parts.server);
    return machine_interrupted ? -ECANCELED : error;
}

int
slice_measure(const struct slice_options *options, struct slice_result *result)
{
    static const double closed = 0;
    return measure(options, &closed, 1, result);
}

int
slice_offer(const struct slice_options *options, const double *rates, unsigned count,
            struct slice_result *results)
{
    return measure(options, rates, count, results);
}
