/*
 * The sums over the copy ledger: copies per byte with their bounds, and ledgers added up.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/pool_test.h"

START_TEST(copies_per_byte_have_bounds)
{
    struct berth_copies copies = {0};
    ck_assert_double_eq(berth_copy_factor(&copies, BERTH_COPY_RECEIVE, BERTH_COPY_HIGH), 0.0);
    copies.received = 1000;
    copies.received_kernel = 1000;
    copies.received_pullup = 250;
    copies.received_compact = 150;
    berth_copies_declare(&copies, BERTH_COPY_RECEIVE, 100);
    ck_assert_double_eq(berth_copy_factor(&copies, BERTH_COPY_RECEIVE, BERTH_COPY_HIGH), 1.5);
    ck_assert_double_eq(berth_copy_factor(&copies, BERTH_COPY_SEND, BERTH_COPY_LOW), 0.0);
    copies.sent = 100;
    copies.sent_kernel = 50;
    copies.sent_gather = 25;
    berth_copies_declare(&copies, BERTH_COPY_SEND, 50);
    ck_assert_double_eq(berth_copy_factor(&copies, BERTH_COPY_SEND, BERTH_COPY_LOW), 1.25);
    ck_assert_uint_eq(copies.received_application, 100);
    copies.received = 2000; /* the second thousand by a card, or so it seems */
    copies.received_direct = 1000;
    ck_assert_double_eq(berth_copy_factor(&copies, BERTH_COPY_RECEIVE, BERTH_COPY_LOW), 0.75);
    ck_assert_double_eq(berth_copy_factor(&copies, BERTH_COPY_RECEIVE, BERTH_COPY_HIGH), 1.25);
    copies.sent = 200; /* the second hundred was to be read in place, and 30 of it surely was */
    copies.sent_zerocopy = 100;
    copies.sent_in_place = 30;
    ck_assert_double_eq(berth_copy_factor(&copies, BERTH_COPY_SEND, BERTH_COPY_LOW), 0.625);
    ck_assert_double_eq(berth_copy_factor(&copies, BERTH_COPY_SEND, BERTH_COPY_HIGH), 0.975);
}
END_TEST

START_TEST(ledgers_add_up)
{
    struct berth_copies copies, sum;
    uint64_t *counter = &copies.received;
    for (unsigned i = 0; i < sizeof(copies) / sizeof(*counter); i++)
        counter[i] = 1000 + i;
    sum = copies;
    berth_copies_add(&sum, &copies);
    counter = &sum.received;
    for (unsigned i = 0; i < sizeof(sum) / sizeof(*counter); i++)
        ck_assert_uint_eq(counter[i], 2 * (1000 + i));
    ck_assert_uint_eq(sum.sent_application, 2 * copies.sent_application);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pool copies");
    TEST_ADD(suite, copies_per_byte_have_bounds);
    TEST_ADD(suite, ledgers_add_up);
    return test_run(suite);
}
