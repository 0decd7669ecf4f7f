/*
 * The parts of a table that are chosen when it is made: cold records, index modes, and the typed
 * wrappers over both.
 *
 * SPDX-License-Identifier: MIT
 */
#include "table/table_test.h"

/* ---- cold records ---------------------------------------------------------------------------- */

/** Fills the cold records of some slots, and looks whether any two share a byte. */
static void
fill_cold(struct berth_table *table, const uint32_t *indices, unsigned count, uint32_t bytes)
{
    for (unsigned i = 0; i < count; i++) {
        (void)must_claim(table, indices[i]);
        unsigned char *cold = berth_table_cold(table, indices[i]);
        ck_assert(all_zero(cold, bytes));
        if (bytes <= 64)
            ck_assert_uint_le((uintptr_t)cold % 64 + bytes, 64); /* within one line */
        else
            ck_assert_uint_eq((uintptr_t)cold % 64, 0);
        memset(cold, 0x50 + (int)i, bytes);
    }
    for (unsigned i = 0; i < count; i++) {
        const unsigned char *cold = berth_table_cold(table, indices[i]);
        ck_assert_uint_eq(cold[0], 0x50 + i);
        ck_assert_uint_eq(cold[bytes - 1], 0x50 + i);
    }
}

START_TEST(cold_records_begin_and_end_as_zero)
{
    static const uint32_t sizes[] = {1, 8, 9, 40, 64, 65, 192, 4095, 4096};
    static const uint32_t indices[] = {0, 1, 2, 511, 512, 10922, 10923, 65535};
    for (unsigned i = 0; i < 9; i++) {
        struct berth_table table;
        struct berth_table_options options;
        berth_table_options_init(&options);
        options.cold_bytes = sizes[i];
        options.slots_max = 65536;
        must_init(&table, &options);
        fill_cold(&table, indices, 8, sizes[i]);
        must_release(&table, 511);
        ck_assert_ptr_null(berth_table_cold(&table, 511)); /* not live */
        (void)must_claim(&table, 511);
        ck_assert(all_zero(berth_table_cold(&table, 511), sizes[i]));
        must_fini(&table);
    }
}
END_TEST

START_TEST(cold_refuses_what_is_not_there)
{
    struct berth_table table;
    must_init(&table, NULL);
    (void)must_claim(&table, 5);
    ck_assert_ptr_null(berth_table_cold(&table, 5)); /* no cold array */
    must_fini(&table);

    struct berth_table_options options;
    berth_table_options_init(&options);
    options.cold_bytes = 16;
    must_init(&table, &options);
    ck_assert_ptr_null(berth_table_cold(&table, 5)); /* not live */
    ck_assert_ptr_null(berth_table_cold(&table, berth_table_slots_max(&table)));
    ck_assert_ptr_null(berth_table_cold(&table, UINT32_MAX));
    must_fini(&table);
}
END_TEST

/* ---- index modes ----------------------------------------------------------------------------- */

START_TEST(direct_mode_works_as_descriptor_mode)
{
    struct berth_table table;
    struct berth_slot *slot = NULL;
    must_init_mode(&table, BERTH_INDEX_DIRECT);
    ck_assert_uint_eq(must_claim(&table, 6)->index, 6);
    ck_assert_int_eq(berth_table_claim_any(&table, &slot), -EINVAL);
    must_fini(&table);
}
END_TEST

START_TEST(slot_mode_picks_the_last_released_then_the_lowest)
{
    struct berth_table table;
    struct berth_slot *slot = NULL;
    must_init_mode(&table, BERTH_INDEX_SLOT);
    ck_assert_int_eq(berth_table_claim(&table, 0, &slot), -EINVAL);
    for (uint32_t i = 0; i < 5; i++) {
        ck_assert_int_eq(berth_table_claim_any(&table, &slot), 0);
        ck_assert_uint_eq(slot->index, i);
    }
    must_release(&table, 1);
    must_release(&table, 3);
    must_verify(&table);
    static const uint32_t expected[] = {3, 1, 5};
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_int_eq(berth_table_claim_any(&table, &slot), 0);
        ck_assert_uint_eq(slot->index, expected[i]);
        ck_assert_uint_eq(slot->queue, 0);
    }
    ck_assert_int_eq(berth_table_claim_any(&table, NULL), -EINVAL);
    ck_assert_int_eq(berth_table_claim_any(NULL, &slot), -EINVAL);
    must_fini(&table);
}
END_TEST

START_TEST(slot_mode_says_when_it_is_full)
{
    struct berth_table table;
    struct berth_table_options options;
    struct berth_slot *slot = NULL;
    berth_table_options_init(&options);
    options.index_mode = BERTH_INDEX_SLOT;
    options.slots_max = 1024;
    must_init(&table, &options);
    for (uint32_t i = 0; i < 1024; i++)
        ck_assert_int_eq(berth_table_claim_any(&table, &slot), 0);
    ck_assert_int_eq(berth_table_claim_any(&table, &slot), -EMFILE);
    ck_assert_uint_eq(stats_of(&table).refused_full, 1);
    must_release(&table, 700);
    ck_assert_int_eq(berth_table_claim_any(&table, &slot), 0);
    ck_assert_uint_eq(slot->index, 700);
    ck_assert_int_eq(berth_table_claim_any(&table, &slot), -EMFILE);
    ck_assert_uint_eq(berth_table_live_count(&table), 1024);
    must_fini(&table);
}
END_TEST

/* ---- typed wrappers -------------------------------------------------------------------------- */

struct small_hot {
    uint64_t bytes;
    uint32_t state;
};
struct full_hot {
    unsigned char state[40];
};
struct wide_hot {
    unsigned char state[41];
};
struct widest_hot {
    unsigned char state[232];
};
struct peer {
    char name[100];
};
BERTH_TABLE_TYPE(small, struct small_hot, struct peer);
BERTH_TABLE_TYPE_HOT(full, struct full_hot, 0);
BERTH_TABLE_TYPE_HOT(wide, struct wide_hot, 0);
BERTH_TABLE_TYPE_HOT(widest, struct widest_hot, 0);

START_TEST(typed_wrappers_do_what_the_plain_calls_do)
{
    struct berth_table table;
    struct small_hot *hot = NULL, *again = NULL;
    ck_assert_int_eq(small_table_init(&table, NULL), 0);
    ck_assert_int_eq(small_claim(&table, 30, &hot), 0);
    hot->bytes = 7;
    ck_assert_int_eq(small_claim(&table, 30, &again), -EEXIST);
    ck_assert_ptr_null(again);
    const berth_token token = small_token(hot, 4);
    ck_assert_uint_eq(berth_token_op(token), 4);
    ck_assert_uint_eq(berth_token_index(token), 30);
    ck_assert_ptr_eq(small_find(&table, token), hot);
    struct peer *peer = small_cold(&table, hot);
    ck_assert_ptr_eq(peer, berth_table_cold(&table, 30));
    memset(peer, 'x', sizeof(*peer));
    ck_assert_int_eq(small_release(&table, hot), 0);
    ck_assert_ptr_null(small_find(&table, token));
    must_fini(&table);
}
END_TEST

START_TEST(typed_tables_take_the_smallest_slot_that_fits)
{
    struct berth_table table;
    struct berth_table_options options;
    berth_table_options_init(&options);
    options.slots_max = 2048;
    ck_assert_int_eq(small_table_init(&table, &options), 0);
    ck_assert_uint_eq(table.slot_shift, 6);
    ck_assert_uint_eq(berth_table_slots_max(&table), 2048); /* the rest of the options is kept */
    must_fini(&table);
    ck_assert_int_eq(full_table_init(&table, NULL), 0);
    ck_assert_uint_eq(table.slot_shift, 6);
    ck_assert_ptr_null(table.cold);
    must_fini(&table);
    ck_assert_int_eq(wide_table_init(&table, NULL), 0);
    ck_assert_uint_eq(table.slot_shift, 7);
    must_fini(&table);
    ck_assert_int_eq(widest_table_init(&table, NULL), 0);
    ck_assert_uint_eq(table.slot_shift, 8);
    must_fini(&table);
}
END_TEST

int
main(void)
{
    TCase *tests = tcase_create("modes");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, cold_records_begin_and_end_as_zero);
    tcase_add_test(tests, cold_refuses_what_is_not_there);
    tcase_add_test(tests, direct_mode_works_as_descriptor_mode);
    tcase_add_test(tests, slot_mode_picks_the_last_released_then_the_lowest);
    tcase_add_test(tests, slot_mode_says_when_it_is_full);
    tcase_add_test(tests, typed_wrappers_do_what_the_plain_calls_do);
    tcase_add_test(tests, typed_tables_take_the_smallest_slot_that_fits);
    Suite *suite = suite_create("modes");
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
