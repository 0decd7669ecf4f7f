/*
 * Paired and interleaved rounds: the one place where the order of measuring is decided.
 *
 * SPDX-License-Identifier: MIT
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "bench.h"
#include "machine.h"

static void
forget(struct bench_samples *samples, unsigned subjects, unsigned rounds)
{
    samples->rounds = 0;
    for (unsigned s = 0; s < subjects; s++) {
        for (unsigned m = 0; m < BENCH_METRICS_MAX; m++) {
            for (unsigned r = 0; r < rounds; r++)
                samples->values[s][m][r] = NAN;
        }
    }
}

static void
measure_one(struct bench *bench, struct bench_subject *subject, unsigned round,
            double (*values)[STATISTICS_ROUNDS_MAX])
{
    double metrics[BENCH_METRICS_MAX];
    for (unsigned m = 0; m < BENCH_METRICS_MAX; m++)
        metrics[m] = NAN;
    const int error = subject->measure(bench, subject, metrics);
    if (machine_interrupted)
        return; /* a slice cut short measures something else */
    if (error != 0) {
        subject->left_out = true;
        report_note(&bench->report, "%s was left out: %s", subject->name, strerror(-error));
        return;
    }
    for (unsigned m = 0; m < BENCH_METRICS_MAX; m++)
        values[m][round] = metrics[m];
}

void
bench_rounds(struct bench *bench, struct bench_subject *subjects, unsigned count,
             struct bench_samples *samples)
{
    assert(count <= BENCH_SUBJECTS_MAX);
    forget(samples, count, bench->options.rounds);
    for (unsigned round = 0; round < bench->options.rounds && !machine_interrupted; round++) {
        samples->rounds = round + 1;
        if (!bench->progress_line)
            bench_progress(bench, "round %u of %u", round + 1, bench->options.rounds);
        for (unsigned i = 0; i < count && !machine_interrupted; i++) {
            const unsigned at = round % 2 == 0 ? i : count - 1 - i;
            if (subjects[at].left_out)
                continue;
            if (bench->progress_line)
                bench_progress(bench, "round %u of %u: %s", round + 1, bench->options.rounds,
                               subjects[at].name);
            measure_one(bench, &subjects[at], round, samples->values[at]);
        }
    }
    bench_progress_end(bench);
}

struct estimate
bench_estimate(const struct bench_samples *samples, unsigned subject, unsigned metric)
{
    return estimate_of(samples->values[subject][metric], samples->rounds);
}

struct estimate
bench_median(const struct bench_samples *samples, unsigned subject, unsigned metric)
{
    return estimate_exact(bench_estimate(samples, subject, metric).median);
}

struct estimate
bench_ratio(const struct bench_samples *samples, unsigned subject, unsigned baseline,
            unsigned metric)
{
    return estimate_of_ratio(samples->values[subject][metric], samples->values[baseline][metric],
                             samples->rounds);
}
