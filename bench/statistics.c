/*
 * Medians with sign-test intervals, and percentiles from a histogram. No mean and no standard
 * deviation anywhere: a benchmark's errors are one-sided and have long tails.
 *
 * SPDX-License-Identifier: MIT
 */
#include "statistics.h"

#include <assert.h>
#include <stdlib.h>

static int
compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/**
 * How many values to cut off at each end: the most for which the chance that the true median lies
 * outside, 2 P(Binomial(count, 1/2) < cut), stays within 5 %. `outside` receives that chance.
 */
static unsigned
order_cut(unsigned count, double *outside)
{
    double chance = pow(0.5, count); /* of exactly `cut` values lying below the median */
    double below = chance;           /* of `cut` or fewer */
    unsigned cut = 0;
    while (cut + 1 < (count + 1) / 2) {
        const double next = chance * (double)(count - cut) / (double)(cut + 1);
        if (2.0 * (below + next) > 0.05)
            break;
        chance = next;
        below += next;
        cut++;
    }
    *outside = 2.0 * below;
    return cut;
}

struct estimate
estimate_of(const double *values, unsigned count)
{
    assert(count <= STATISTICS_ROUNDS_MAX);
    double sorted[STATISTICS_ROUNDS_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < count; i++) {
        if (!isnan(values[i]))
            sorted[n++] = values[i];
    }
    if (n == 0)
        return estimate_none();
    qsort(sorted, n, sizeof sorted[0], compare);
    double outside = 1.0;
    const unsigned cut = order_cut(n, &outside);
    return (struct estimate){
        .median = n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2,
        .low = sorted[cut],
        .high = sorted[n - 1 - cut],
        .confidence = 1.0 - outside,
        .rounds = n,
    };
}

struct estimate
estimate_of_ratio(const double *numerator, const double *denominator, unsigned count)
{
    assert(count <= STATISTICS_ROUNDS_MAX);
    double ratios[STATISTICS_ROUNDS_MAX];
    for (unsigned i = 0; i < count; i++)
        ratios[i] = denominator[i] > 0 ? numerator[i] / denominator[i] : NAN;
    return estimate_of(ratios, count);
}

int
estimate_covers(const struct estimate *estimate, double value)
{
    return estimate->low <= value && value <= estimate->high;
}

double
histogram_percentile(const struct histogram *histogram, double fraction)
{
    if (histogram->count == 0)
        return NAN;
    const double wanted = fraction * (double)histogram->count;
    uint64_t seen = 0;
    unsigned at = 0;
    for (; at < HISTOGRAM_DOUBLINGS * HISTOGRAM_STEPS - 1u; at++) {
        seen += histogram->buckets[at];
        if ((double)seen >= wanted && seen > 0)
            break;
    }
    if (at < HISTOGRAM_STEPS)
        return at;
    const unsigned doubling = at / HISTOGRAM_STEPS + 5u;
    const double step = ldexp(1.0, (int)doubling - 6);
    return ldexp(1.0, (int)doubling) + (at % HISTOGRAM_STEPS + 0.5) * step;
}
