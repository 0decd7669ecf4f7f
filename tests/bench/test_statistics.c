/*
 * What berth-bench makes of its samples: intervals against sums of binomials computed another way,
 * what a missing sample does, and percentiles against the values themselves.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/support.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "statistics.h"

#define SUSPICION 1e-9 /* what sums of doubles may differ by */

/** The chance that the median of `count` rounds lies between the `low`th and its counterpart. */
static double
coverage(unsigned count, unsigned low)
{
    long double sum = 0;
    for (unsigned k = low; k <= count - low; k++)
        sum += expl(lgammal(count + 1.0L) - lgammal(k + 1.0L) - lgammal(count - k + 1.0L) -
                    count * logl(2.0L));
    return (double)sum;
}

/** 1 to `count`, in an order that is none. */
static void
fill_shuffled(double *values, unsigned count, uint64_t *state)
{
    for (unsigned i = 0; i < count; i++)
        values[i] = i + 1;
    for (unsigned i = count - 1; i > 0; i--) {
        const unsigned j = (unsigned)(test_random(state) % (i + 1));
        const double value = values[i];
        values[i] = values[j];
        values[j] = value;
    }
}

START_TEST(intervals_are_the_narrowest_of_95_per_cent)
{
    static double values[STATISTICS_ROUNDS_MAX];
    uint64_t state = test_seed("intervals");
    for (unsigned count = 1; count <= STATISTICS_ROUNDS_MAX; count += count < 200 ? 1 : 37) {
        fill_shuffled(values, count, &state);
        const struct estimate estimate = estimate_of(values, count);
        const unsigned low = (unsigned)estimate.low;
        ck_assert_uint_eq(estimate.rounds, count);
        ck_assert_double_eq(estimate.median, (count + 1) / 2.0);
        ck_assert_double_eq(estimate.high, count + 1 - estimate.low);
        if (count < 6) {
            ck_assert_uint_eq(low, 1);
            ck_assert_double_eq_tol(estimate.confidence, 1 - pow(0.5, count - 1), SUSPICION);
            continue;
        }
        ck_assert_double_eq_tol(estimate.confidence, coverage(count, low), SUSPICION);
        ck_assert_double_ge(estimate.confidence, 0.95);
        ck_assert_msg(coverage(count, low + 1) < 0.95, "%u rounds: %u would do", count, low + 1);
    }
}
END_TEST

/* As printed in tables of the sign test, so that not everything rests on our own arithmetic. */
START_TEST(intervals_are_those_of_the_tables)
{
    static const struct {
        unsigned count, low;
    } known[] = {{6, 1}, {8, 1}, {9, 2}, {12, 3}, {15, 4}, {20, 6}, {25, 8}, {51, 19}, {100, 40}};
    static double values[100];
    uint64_t state = 1;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        fill_shuffled(values, known[i].count, &state);
        const struct estimate estimate = estimate_of(values, known[i].count);
        ck_assert_double_eq(estimate.low, known[i].low);
    }
}
END_TEST

START_TEST(missing_samples_are_left_out)
{
    const double nothing[] = {NAN, NAN};
    struct estimate estimate = estimate_of(nothing, 2);
    ck_assert_double_nan(estimate.median);
    ck_assert_double_nan(estimate.low);
    ck_assert_uint_eq(estimate.rounds, 0);
    ck_assert_double_nan(estimate_of(nothing, 0).median);

    const double some[] = {NAN, 3, NAN, 1, 2, NAN};
    estimate = estimate_of(some, 6);
    ck_assert_double_eq(estimate.median, 2);
    ck_assert_double_eq(estimate.low, 1);
    ck_assert_double_eq(estimate.high, 3);
    ck_assert_uint_eq(estimate.rounds, 3);

    const double even[] = {4, 1, 3, 2};
    ck_assert_double_eq(estimate_of(even, 4).median, 2.5);
    const double one[] = {7};
    estimate = estimate_of(one, 1);
    ck_assert_double_eq(estimate.low, 7);
    ck_assert_double_eq(estimate.high, 7);
    ck_assert_double_eq(estimate.confidence, 0);
}
END_TEST

START_TEST(ratios_are_taken_round_by_round)
{
    /* The machine became ten times as slow on the way: the ratio does not notice. */
    const double slower[] = {2, 20, 200}, faster[] = {1, 10, 100};
    const struct estimate ratio = estimate_of_ratio(slower, faster, 3);
    ck_assert_double_eq(ratio.median, 2);
    ck_assert_double_eq(ratio.low, 2);
    ck_assert_double_eq(ratio.high, 2);

    const double gaps[] = {NAN, 3, 3, 3}, holes[] = {1, NAN, 0, 2};
    const struct estimate rest = estimate_of_ratio(gaps, holes, 4);
    ck_assert_double_eq(rest.median, 1.5);
    ck_assert_uint_eq(rest.rounds, 1);
}
END_TEST

START_TEST(only_an_interval_covers)
{
    const struct estimate some = {1.0, 0.9, 1.1, 0.95, 9};
    ck_assert(estimate_covers(&some, 1.0));
    ck_assert(estimate_covers(&some, 0.9));
    ck_assert(estimate_covers(&some, 1.1));
    ck_assert(!estimate_covers(&some, 0.8999));
    ck_assert(!estimate_covers(&some, 1.1001));
    ck_assert(!estimate_covers(&some, NAN));
    const struct estimate exact = estimate_exact(1.0), none = estimate_none();
    ck_assert(!estimate_covers(&exact, 1.0));
    ck_assert(!estimate_covers(&none, 1.0));
}
END_TEST

static int
compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

START_TEST(percentiles_are_exact_to_1_6_per_cent)
{
    enum { COUNT = 20000 };
    static struct histogram histogram;
    static uint64_t values[COUNT];
    static const double fractions[] = {0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1};
    uint64_t state = test_seed("percentiles");
    memset(&histogram, 0, sizeof histogram);
    for (unsigned i = 0; i < COUNT; i++) {
        values[i] = test_random(&state) >> (20 + test_random(&state) % 44);
        histogram_add(&histogram, values[i]);
    }
    qsort(values, COUNT, sizeof values[0], compare);
    ck_assert_uint_eq(histogram.count, COUNT);
    for (size_t i = 0; i < sizeof fractions / sizeof fractions[0]; i++) {
        const double at = ceil(fractions[i] * COUNT);
        const double value = (double)values[at > 0 ? (unsigned)at - 1 : 0];
        const double told = histogram_percentile(&histogram, fractions[i]);
        ck_assert_msg(fabs(told - value) <= value * 0.016, "%g: %g is told, %g it is", fractions[i],
                      told, value);
    }
}
END_TEST

/** What comes back of one value. */
static double
there_and_back(uint64_t ns)
{
    static struct histogram histogram;
    memset(&histogram, 0, sizeof histogram);
    histogram_add(&histogram, ns);
    return histogram_percentile(&histogram, 0.5);
}

START_TEST(percentiles_at_the_edges)
{
    static const struct histogram empty;
    ck_assert_double_nan(histogram_percentile(&empty, 0.5));
    for (unsigned ns = 0; ns < 64; ns++)
        ck_assert_double_eq(there_and_back(ns), ns);
    double last = 63;
    for (unsigned doubling = 6; doubling < 44; doubling++) {
        const uint64_t power = UINT64_C(1) << doubling;
        const double at = there_and_back(power), before = there_and_back(2 * power - 1);
        ck_assert_double_ge(at, last);
        ck_assert_double_ge(at, (double)power);
        ck_assert_double_le(at, (double)power * 1.016);
        ck_assert_double_le(before, 2 * (double)power);
        ck_assert_double_ge(before, 2 * (double)power * (1 - 0.016));
        last = before;
    }
    /* Five hours and more are all the same, and spoil nothing. */
    ck_assert_double_gt(there_and_back(UINT64_MAX), 1.7e13);
    ck_assert_double_eq(there_and_back(UINT64_MAX), there_and_back(UINT64_C(1) << 60));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("bench/statistics");
    TCase *tcase = tcase_create("statistics");
    tcase_add_checked_fixture(tcase, test_descriptors_note, test_descriptors_compare);
    tcase_add_test(tcase, intervals_are_the_narrowest_of_95_per_cent);
    tcase_add_test(tcase, intervals_are_those_of_the_tables);
    tcase_add_test(tcase, missing_samples_are_left_out);
    tcase_add_test(tcase, ratios_are_taken_round_by_round);
    tcase_add_test(tcase, only_an_interval_covers);
    tcase_add_test(tcase, percentiles_are_exact_to_1_6_per_cent);
    tcase_add_test(tcase, percentiles_at_the_edges);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
