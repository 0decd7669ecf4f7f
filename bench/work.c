/*
 * Measuring work that this process does itself: processor time, so that being interrupted for a
 * while does not count, and hardware counters where there are any.
 *
 * SPDX-License-Identifier: MIT
 */
#include "bench.h"
#include "counters.h"
#include "machine.h"

_Static_assert(BENCH_WORK_METRICS == 1 + COUNTERS && BENCH_WORK_METRICS <= BENCH_METRICS_MAX,
               "one metric for the time and one for each counter");

int
bench_work_measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const struct bench_work *work = subject->context;
    const uint64_t slice_ns = (uint64_t)(bench->options.seconds * 1e9);
    const unsigned at_once = work->passes_at_once > 0 ? work->passes_at_once : 1;
    struct counters counters;
    uint64_t passes = 0, elapsed = 0;
    work->pass(work->context); /* whatever it touches is where it will be */
    counters_begin();
    const uint64_t begin = machine_cpu_ns();
    do {
        for (unsigned i = 0; i < at_once; i++)
            work->pass(work->context);
        passes += at_once;
        elapsed = machine_cpu_ns() - begin;
    } while (elapsed < slice_ns && !machine_interrupted);
    counters_end(&counters);
    const double operations = (double)passes * (double)work->operations;
    metrics[BENCH_WORK_NS] = (double)elapsed / operations;
    for (unsigned i = 0; i < COUNTERS; i++)
        metrics[BENCH_WORK_CYCLES + i] = counters.values[i] / operations;
    return 0;
}

void
bench_work_estimates(const struct bench_samples *samples, unsigned subject, struct estimate *values)
{
    for (unsigned i = BENCH_WORK_CYCLES; i < BENCH_WORK_METRICS; i++)
        *values++ = bench_median(samples, subject, i);
}
