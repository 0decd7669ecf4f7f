/*
 * What a handful of repeated measurements says: medians, intervals that assume no distribution, and
 * latency percentiles. Pure functions of numbers; no clock and no output.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_STATISTICS_H
#define BENCH_STATISTICS_H

#include <math.h>
#include <stdint.h>

/** More rounds than this are refused on the command line: the binomial tail is summed in doubles.
 */
#define STATISTICS_ROUNDS_MAX 1000u

/** A median and where the true one lies. Without an interval, low and high are NAN. */
struct estimate {
    double median;    /**< NAN: not measured */
    double low, high; /**< order statistics of the rounds */
    double
        confidence; /**< that [low, high] covers the true median: 0.95 or more, if rounds allow */
    unsigned rounds;
};

/** A single number that needs no interval, such as an exact count. */
static inline struct estimate
estimate_exact(double value)
{
    return (struct estimate){value, NAN, NAN, NAN, 1};
}

static inline struct estimate
estimate_none(void)
{
    return (struct estimate){NAN, NAN, NAN, NAN, 0};
}

/** The same in another unit. */
static inline struct estimate
estimate_scaled(struct estimate estimate, double factor)
{
    estimate.median *= factor;
    estimate.low *= factor;
    estimate.high *= factor;
    return estimate;
}

/**
 * The median of `values` with the narrowest interval of order statistics whose coverage is at least
 * 95 %: the sign test turned round, true for any distribution. With fewer than six rounds no such
 * interval exists; then it is the whole range, and `confidence` says how little that is worth.
 * NANs are left out.
 */
struct estimate estimate_of(const double *values, unsigned count);

/** The same for numerator[i] / denominator[i], round by round: what the two had in common cancels.
 */
struct estimate estimate_of_ratio(const double *numerator, const double *denominator,
                                  unsigned count);

/** Whether the interval covers `value`; an estimate without an interval covers nothing. */
int estimate_covers(const struct estimate *estimate, double value);

#define HISTOGRAM_STEPS 64u /**< per doubling: a percentile is exact to 1.6 % */
#define HISTOGRAM_DOUBLINGS 40u

/** Latencies in nanoseconds, in buckets that grow with the value. All-zero is empty. */
struct histogram {
    uint64_t count;
    uint32_t buckets[HISTOGRAM_DOUBLINGS * HISTOGRAM_STEPS];
};

static inline void
histogram_add(struct histogram *histogram, uint64_t ns)
{
    unsigned at = (unsigned)ns;
    if (ns >= HISTOGRAM_STEPS) {
        const unsigned doubling = 63u - (unsigned)__builtin_clzll(ns);
        at = (doubling - 5u) * HISTOGRAM_STEPS +
             ((unsigned)(ns >> (doubling - 6u)) & (HISTOGRAM_STEPS - 1u));
    }
    const unsigned last = HISTOGRAM_DOUBLINGS * HISTOGRAM_STEPS - 1u;
    histogram->buckets[at < last ? at : last]++;
    histogram->count++;
}

/** The value below which `fraction` (0 to 1) of all are, in nanoseconds; NAN when empty. */
double histogram_percentile(const struct histogram *histogram, double fraction);

#endif
