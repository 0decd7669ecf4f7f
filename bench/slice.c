/*
 * Measuring one server once. Everything is made anew for each slice, so that no contestant lives on
 * another's memory layout or on the state of its sockets.
 *
 * SPDX-License-Identifier: MIT
 */
#include "slice.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "machine.h"

#define PROGRESS_NS UINT64_C(100000000)

static void
compute(const struct slice_options *options, const struct server_counters *before,
        const struct server_counters *after, struct slice_result *result)
{
    const double messages =
        (double)(after->received_bytes - before->received_bytes) / (double)options->bytes;
    const double wall_ns = (double)(after->wall_ns - before->wall_ns);
    const double cpu_ns = (double)(after->cpu_ns - before->cpu_ns);
    result->cpu_ns_per_message = cpu_ns / messages;
    result->messages_per_second = messages / wall_ns * 1e9;
    result->syscalls_per_message = (double)(after->syscalls - before->syscalls) / messages;
    result->messages_per_turn = messages / (double)(after->turns - before->turns);
    result->server_busy = cpu_ns / wall_ns;
    result->load_cpu_ns_per_message = (double)result->load.cpu_ns / (double)result->load.messages;
    result->enobufs = (double)(after->enobufs - before->enobufs);
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
measure_on(const struct slice_options *options, struct server *server, struct slice_result *result)
{
    struct load *load = NULL;
    struct server_counters before, after;
    const struct load_options load_options = {
        .engine = options->load,
        .conns = options->conns,
        .bytes = options->bytes,
        .port = server->control->port,
    };
    int error = load_open(&load, &load_options);
    if (error == 0)
        error = load_run(load, options->warm_ns, NULL);
    if (error == 0)
        error = server_counters_get(server, &before);
    if (error == 0)
        error = run(options, load, result);
    if (error == 0)
        error = server_counters_get(server, &after);
    if (error == 0 && after.received_bytes == before.received_bytes)
        error = -ETIMEDOUT;
    if (error == 0)
        compute(options, &before, &after, result);
    load_close(load);
    return machine_interrupted ? -ECANCELED : error;
}

int
slice_measure(const struct slice_options *options, struct slice_result *result)
{
    struct server server;
    memset(result, 0, sizeof *result);
    int error = server_start(&server, options->kind, options->cpu_server);
    if (error != 0)
        return error;
    memcpy(result->explain, server.control->explain, sizeof result->explain);
    error = measure_on(options, &server, result);
    server_stop(&server);
    return error;
}
