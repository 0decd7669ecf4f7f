/*
 * Between the two halves of case `echo`: case_echo.c, which drives it and measures in a closed
 * loop, and echo_latency.c, which measures in an open one.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_ECHO_H
#define BENCH_ECHO_H

#include "bench.h"
#include "slice.h"

/** What is compared with one number of connections. */
struct echo_run {
    uint32_t conns;
    unsigned count;
    double rate; /**< messages per second of the first of them, the baseline, in a closed loop */
    /** The baseline first, and once more at the end, as the control. */
    struct bench_subject subjects[BENCH_SUBJECTS_MAX];
};

/** What every slice leads to, whatever it measured: says what went wrong. Returns `error`. */
int echo_slice_done(struct bench *bench, const struct bench_subject *subject, int error,
                    const struct slice_result *result);

/** Measures latencies in all of the runs, and adds their table. `samples` is room to work in. */
void echo_latency(struct bench *bench, struct echo_run *runs, unsigned count,
                  struct bench_samples *samples);

#endif
