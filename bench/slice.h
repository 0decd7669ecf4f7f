/*
 * One slice of an echo measurement: a fresh server, connections, a warm-up, then load for a while
 * between two looks at the server's counters. Used by case `echo` and by the demo.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_SLICE_H
#define BENCH_SLICE_H

#include <stdint.h>

#include "load.h"
#include "server.h"

struct slice_options {
    const struct server_kind *kind;
    int cpu_server;  /**< -1: anywhere */
    bool cpu_shared; /**< with the load */
    uint32_t conns;
    uint32_t bytes;
    const char *load; /**< engine of the load, or NULL */
    /** Connections that flood beside those of an open loop, from the warm-up on: flood.h. They do
     * so on the load's CPU and between its looks at its own: another process there would keep the
     * load from looking for milliseconds, and that would be all one saw. */
    unsigned floods;
    uint64_t warm_ns;
    uint64_t run_ns;
    /** Called about ten times a second while the load runs; may be NULL. */
    void (*progress)(void *context, const struct load_result *so_far);
    void *context;
};

/** What the slice says about the server; NAN where it does not know. */
struct slice_result {
    double cpu_ns_per_message;
    double messages_per_second;
    double syscalls_per_message;
    double messages_per_turn;
    double server_busy; /**< share of one CPU */
    double load_cpu_ns_per_message;
    double enobufs; /**< in the slice */
    double
        flood_bytes_per_second; /**< sent and come back; what is per message does not count them */
    struct load_result load;
    struct server_counters last; /**< at the end, connections still open */
    char explain[1536];          /**< in the first result; empty: it did not start */
};

/** Measures. 0, or -errno of whatever went wrong; -ECANCELED when interrupted. */
int slice_measure(const struct slice_options *options, struct slice_result *result);

/**
 * The same with an open loop: `count` rates in messages per second, each above 0, one after the
 * other on the same server, with a result for each. What was answered in time is in
 * results[i].load; what the server says of its rate and of being busy covers a longer time.
 */
int slice_offer(const struct slice_options *options, const double *rates, unsigned count,
                struct slice_result *results);

#endif
