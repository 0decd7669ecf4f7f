/*
 * The table when the system refuses memory: each system call of each operation fails once, and
 * always. Whatever comes back, nothing is leaked, nothing is half done, and the next try succeeds.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/faults.h"
#include "table/table_test.h"

/* Two chunks of slots: few enough for a checking tool, which keeps accounts of what is reserved. */
#define SLOTS 65536u

/** What was mapped in between is gone; a checking tool maps and unmaps things of its own. */
static void
must_have_mappings(unsigned before)
{
    if (!test_is_slow())
        ck_assert_uint_eq(test_mappings(), before);
}

static void
full_options(struct berth_table_options *options)
{
    berth_table_options_init(options);
    options->slots_max = SLOTS;
    options->cold_bytes = 4096; /* a record may begin a chunk of its own */
    options->deadlines = 1;
    options->shared = 1;
}

START_TEST(one_refusal_halves_the_table)
{
    static const struct {
        const char *call;
        unsigned nth;
    } refusals[] = {{"mmap", 1}, {"mprotect", 1}, {"mprotect", 2}};
    for (unsigned i = 0; i < 3; i++) {
        struct berth_table table;
        struct berth_table_options options;
        full_options(&options);
        const unsigned mappings = test_mappings();
        faults_fail(refusals[i].call, refusals[i].nth, 1, -ENOMEM);
        must_init(&table, &options);
        ck_assert_uint_eq(faults_hit(refusals[i].call), 1);
        faults_reset();
        ck_assert_uint_eq(berth_table_slots_max(&table), SLOTS / 2);
        (void)must_claim(&table, SLOTS / 2 - 1);
        must_fini(&table);
        must_have_mappings(mappings);
    }
}
END_TEST

START_TEST(refusals_for_ever_are_an_error)
{
    static const char *const calls[] = {"mmap", "mprotect"};
    for (unsigned i = 0; i < 2; i++) {
        struct berth_table table;
        const unsigned mappings = test_mappings();
        faults_fail(calls[i], 1, FAULTS_FOR_EVER, -ENOMEM);
        ck_assert_int_eq(berth_table_init(&table, NULL), -ENOMEM);
        ck_assert_uint_eq(faults_hit(calls[i]), 11); /* from 2^20 down to 2^10 */
        faults_reset();
        berth_table_fini(&table); /* harmless */
        must_have_mappings(mappings);
    }
}
END_TEST

START_TEST(wishes_may_be_refused)
{
    struct berth_table table;
    faults_fail("madvise", 1, FAULTS_FOR_EVER, -EINVAL);
    faults_fail("name_memory", 1, FAULTS_FOR_EVER, -EINVAL);
    must_init(&table, NULL);
    (void)must_claim(&table, 40000); /* of the second chunk: it asks for huge pages */
    ck_assert_uint_gt(faults_hit("madvise"), 0);
    ck_assert_uint_gt(faults_hit("name_memory"), 0);
    faults_reset();
    must_fini(&table);
}
END_TEST

/** Claims slot 40,000 with the nth commit refused; whether there was an nth. */
static int
claim_with_refusal(unsigned nth)
{
    struct berth_table table;
    struct berth_table_options options;
    struct berth_slot *slot = NULL;
    full_options(&options);
    must_init(&table, &options);
    faults_fail("mprotect", nth, 1, -ENOMEM);
    const int error = berth_table_claim(&table, 40000, &slot);
    const unsigned hit = faults_hit("mprotect");
    faults_reset();
    ck_assert_int_eq(error, hit > 0 ? -ENOMEM : 0);
    if (error != 0) {
        ck_assert_ptr_null(slot);
        ck_assert_uint_eq(berth_table_live_count(&table), 0);
        ck_assert_uint_eq(berth_table_owner(&table, 40000), 0);
        ck_assert_uint_eq(berth_table_next_live(&table, 0), BERTH_TABLE_INDEX_NONE);
        must_verify(&table);
        slot = must_claim(&table, 40000);
    }
    memset(berth_slot_payload(slot), 1, BERTH_SLOT_PAYLOAD_BYTES);
    memset(berth_table_cold(&table, 40000), 1, options.cold_bytes);
    ck_assert_int_eq(berth_table_deadline_set(&table, 40000, 5), 0);
    must_release(&table, 40000);
    must_fini(&table);
    return hit > 0;
}

START_TEST(claims_leave_nothing_behind)
{
    const unsigned mappings = test_mappings();
    unsigned nth = 1;
    while (claim_with_refusal(nth))
        nth++;
    ck_assert_uint_ge(nth, 1 + 6); /* hot, live bits, ticks, deadlines, owners, cold */
    must_have_mappings(mappings);
}
END_TEST

START_TEST(numbers_are_not_lost_to_a_refusal)
{
    struct berth_table table;
    struct berth_slot *slot = NULL;
    must_init_mode(&table, BERTH_INDEX_SLOT);
    faults_fail("mprotect", 1, 1, -ENOMEM);
    ck_assert_int_eq(berth_table_claim_any(&table, &slot), -ENOMEM);
    ck_assert_uint_eq(faults_hit("mprotect"), 1);
    faults_reset();
    ck_assert_int_eq(berth_table_claim_any(&table, &slot), 0);
    ck_assert_uint_eq(slot->index, 0);
    ck_assert_uint_eq(stats_of(&table).claimed, 1);
    must_fini(&table);
}
END_TEST

int
main(void)
{
    TCase *tests = tcase_create("faults");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, one_refusal_halves_the_table);
    tcase_add_test(tests, refusals_for_ever_are_an_error);
    tcase_add_test(tests, wishes_may_be_refused);
    tcase_add_test(tests, claims_leave_nothing_behind);
    tcase_add_test(tests, numbers_are_not_lost_to_a_refusal);
    Suite *suite = suite_create("table faults");
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
