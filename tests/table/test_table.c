/*
 * What every user of the table relies on: layout, options, tokens, claiming and releasing, stale
 * tokens, and the gate for operations in flight. Bad input included.
 *
 * SPDX-License-Identifier: MIT
 */
#include "table/table_test.h"

/* ---- layout ---------------------------------------------------------------------------------- */

START_TEST(layout_is_the_promised_one)
{
    ck_assert_uint_eq(sizeof(struct berth_slot), 64);
    ck_assert_uint_eq(_Alignof(struct berth_slot), 64);
    ck_assert_uint_eq(offsetof(struct berth_slot, generation), 0);
    ck_assert_uint_eq(offsetof(struct berth_slot, flags), 4);
    ck_assert_uint_eq(offsetof(struct berth_slot, class_id), 5);
    ck_assert_uint_eq(offsetof(struct berth_slot, in_flight), 6);
    ck_assert_uint_eq(offsetof(struct berth_slot, index), 8);
    ck_assert_uint_eq(offsetof(struct berth_slot, state), 12);
    ck_assert_uint_eq(offsetof(struct berth_slot, buffer), 16);
    ck_assert_uint_eq(offsetof(struct berth_slot, queue), 20);
    ck_assert_uint_eq(offsetof(struct berth_slot, payload), 24);
    ck_assert_uint_eq(BERTH_SLOT_PAYLOAD_BYTES, 40);
    ck_assert_uint_eq(sizeof(struct berth_table), 192);
    ck_assert_uint_eq(offsetof(struct berth_table, stats), 64);
    ck_assert_uint_eq(sizeof(struct berth_table_stats), 64);
    ck_assert_uint_eq(sizeof(berth_token), 8);
}
END_TEST

START_TEST(slots_never_move_and_never_share_a_line)
{
    struct berth_table table;
    static const uint32_t indices[] = {0, 1, 63, 64, 32767, 32768, 500000, 1048575};
    struct berth_slot *slots[8];
    must_init(&table, NULL);
    for (unsigned i = 0; i < 8; i++) {
        slots[i] = must_claim(&table, indices[i]);
        ck_assert_uint_eq((uintptr_t)slots[i] % 64, 0);
        ck_assert_ptr_eq(slots[i], table.hot + (size_t)indices[i] * 64);
        ck_assert_uint_eq((uintptr_t)berth_slot_payload(slots[i]) % 8, 0);
    }
    for (uint32_t i = 2000; i < 40000; i++) /* growth: nothing moves */
        if (i != 32767 && i != 32768)
            (void)must_claim(&table, i);
    for (unsigned i = 0; i < 8; i++)
        ck_assert_ptr_eq(berth_table_slot(&table, indices[i]), slots[i]);
    must_fini(&table);
}
END_TEST

START_TEST(wide_slots_have_wide_payloads)
{
    for (uint32_t bytes = 64; bytes <= 256; bytes *= 2) {
        struct berth_table table;
        struct berth_table_options options;
        berth_table_options_init(&options);
        options.slot_bytes = bytes;
        options.slots_max = 16384;
        must_init(&table, &options);
        for (uint32_t i = 0; i < 3; i++)
            memset(berth_slot_payload(must_claim(&table, i)), 0xa0 + (int)i, bytes - 24);
        ck_assert_uint_eq(
            (uintptr_t)berth_table_slot(&table, 1) - (uintptr_t)berth_table_slot(&table, 0), bytes);
        must_release(&table, 1);
        ck_assert(all_zero(berth_slot_payload(berth_table_slot(&table, 1)), bytes - 24));
        const unsigned char *kept = berth_slot_payload(berth_table_slot(&table, 2));
        ck_assert_uint_eq(kept[0], 0xa2);
        ck_assert_uint_eq(kept[bytes - 25], 0xa2);
        must_fini(&table);
    }
}
END_TEST

/* ---- options --------------------------------------------------------------------------------- */

START_TEST(options_out_of_range_are_refused)
{
    struct berth_table table;
    struct berth_table_options good, options;
    berth_table_options_init(&good);
#define REFUSED(member, value, error)                                                              \
    do {                                                                                           \
        options = good;                                                                            \
        options.member = (value);                                                                  \
        memset(&table, 0xff, sizeof(table));                                                       \
        ck_assert_int_eq(berth_table_init(&table, &options), (error));                             \
        berth_table_fini(&table); /* harmless after a refusal */                                   \
    } while (0)
    REFUSED(abi, 0, -EPROTO);
    REFUSED(abi, good.abi + 1, -EPROTO);
    REFUSED(slots_max, 0, -EINVAL);
    REFUSED(slots_max, BERTH_TABLE_SLOTS_MIN - 1, -EINVAL);
    REFUSED(slots_max, BERTH_TOKEN_SLOTS_MAX + 1, -EINVAL);
    REFUSED(slots_max, UINT32_MAX, -EINVAL);
    REFUSED(slot_bytes, 0, -EINVAL);
    REFUSED(slot_bytes, 63, -EINVAL);
    REFUSED(slot_bytes, 192, -EINVAL);
    REFUSED(slot_bytes, 512, -EINVAL);
    REFUSED(cold_bytes, BERTH_TABLE_COLD_BYTES_MAX + 1, -EINVAL);
    REFUSED(index_mode, (enum berth_index_mode)3, -EINVAL);
    REFUSED(huge_pages, (enum berth_huge_pages)3, -EINVAL);
    options = good;
    options.shared = 1;
    options.index_mode = BERTH_INDEX_SLOT;
    ck_assert_int_eq(berth_table_init(&table, &options), -EINVAL);
    ck_assert_int_eq(berth_table_init(NULL, NULL), -EINVAL);
}
END_TEST

START_TEST(slots_are_rounded_up_to_a_power_of_two)
{
    static const uint32_t asked[] = {1024, 1025, 65536, 100000, 1u << 24};
    static const uint32_t got[] = {1024, 2048, 65536, 131072, 1u << 24};
    for (unsigned i = 0; i < 5; i++) {
        struct berth_table table;
        struct berth_table_options options;
        struct berth_slot *slot = NULL;
        berth_table_options_init(&options);
        options.slots_max = asked[i];
        must_init(&table, &options);
        ck_assert_uint_eq(berth_table_slots_max(&table), got[i]);
        (void)must_claim(&table, got[i] - 1);
        ck_assert_int_eq(berth_table_claim(&table, got[i], &slot), -EMFILE);
        ck_assert_ptr_null(slot);
        ck_assert_uint_eq(stats_of(&table).refused_full, 1);
        must_fini(&table);
    }
}
END_TEST

START_TEST(finished_tables_refuse_everything)
{
    struct berth_table table;
    struct berth_slot *slot = NULL;
    uint32_t cursor = 0, index;
    must_init(&table, NULL);
    const berth_token token = must_claim_token(&table, 5);
    berth_table_fini(&table);
    berth_table_fini(&table);
    berth_table_fini(NULL);
    ck_assert_ptr_null(berth_table_find(&table, token));
    ck_assert_int_eq(berth_table_claim(&table, 5, &slot), -EINVAL);
    ck_assert_int_eq(berth_table_claim_any(&table, &slot), -EINVAL);
    ck_assert_int_eq(berth_table_release(&table, token), -EINVAL);
    ck_assert_uint_eq(berth_table_next_live(&table, 0), BERTH_TABLE_INDEX_NONE);
    ck_assert_uint_eq(berth_table_sweep(&table, 1, &cursor, &index, 1), 0);
    ck_assert_uint_eq(berth_table_oldest(&table, &index, 1), 0);
    ck_assert_int_eq(berth_table_verify(&table, NULL), -EUCLEAN);
    BERTH_TABLE_EACH_LIVE (&table, unreachable)
        ck_abort_msg("a finished table lists slot %u", unreachable);
    berth_table_prefetch(&table, token); /* must not fault */
}
END_TEST

/* ---- tokens ---------------------------------------------------------------------------------- */

START_TEST(tokens_hold_what_was_put_in)
{
    static const uint32_t indices[] = {0, 1, 0x800000, 0xffffff};
    static const uint32_t generations[] = {1, 2, 0x80000000, UINT32_MAX};
    static const uint8_t ops[] = {0, 1, 0x80, 0xff};
    for (unsigned i = 0; i < 64; i++) {
        const uint32_t index = indices[i % 4], generation = generations[i / 4 % 4];
        const uint8_t op = ops[i / 16];
        const berth_token token = berth_token_make(index, generation, op);
        ck_assert_uint_eq(berth_token_index(token), index);
        ck_assert_uint_eq(berth_token_generation(token), generation);
        ck_assert_uint_eq(berth_token_op(token), op);
        ck_assert_uint_ne(token, BERTH_TOKEN_NONE);
        const berth_token other = berth_token_with_op(token, (uint8_t)~op);
        ck_assert_uint_eq(berth_token_op(other), (uint8_t)~op);
        ck_assert(berth_token_same(token, other));
        ck_assert(!berth_token_same(token, token ^ 1));
        ck_assert(!berth_token_same(token, token ^ (UINT64_C(1) << 55)));
    }
}
END_TEST

START_TEST(find_refuses_what_names_no_live_slot)
{
    struct berth_table table;
    struct berth_table_options options;
    berth_table_options_init(&options);
    options.slots_max = 1024;
    must_init(&table, &options);
    const berth_token token = must_claim_token(&table, 7);

    const berth_token malformed[] = {
        BERTH_TOKEN_NONE,                 /* zero */
        7,                                /* generation 0: a bare descriptor */
        berth_token_make(1024, 1, 0),     /* out of range by one */
        berth_token_make(0xffffff, 1, 0), /* and by far */
        UINT64_MAX,                       /* all ones */
    };
    for (unsigned i = 0; i < 5; i++) {
        ck_assert_ptr_null(berth_table_find(&table, malformed[i]));
        berth_table_prefetch(&table, malformed[i]); /* must not fault */
    }
    ck_assert_uint_eq(stats_of(&table).malformed, 5);
    ck_assert_uint_eq(stats_of(&table).stale, 0);

    ck_assert_ptr_null(berth_table_find(&table, berth_token_make(7, 2, 0))); /* a later one */
    ck_assert_ptr_null(berth_table_find(&table, berth_token_make(8, 1, 0))); /* never claimed */
    ck_assert_uint_eq(stats_of(&table).stale, 2);
    ck_assert_uint_eq(stats_of(&table).malformed, 5);

    ck_assert_ptr_eq(berth_table_find(&table, token), berth_table_slot(&table, 7));
    ck_assert_ptr_eq(berth_table_find(&table, berth_token_with_op(token, 9)),
                     berth_table_slot(&table, 7));
    must_fini(&table);
}
END_TEST

START_TEST(find_refuses_a_forged_token_of_an_empty_slot)
{
    struct berth_table table;
    must_init(&table, NULL);
    (void)must_claim(&table, 7);
    must_release(&table, 7);
    /* The next incarnation's generation is in the slot already, but it has not begun. */
    const uint32_t next = berth_table_slot(&table, 7)->generation;
    ck_assert_ptr_null(berth_table_find(&table, berth_token_make(7, next, 0)));
    ck_assert_int_eq(berth_table_release(&table, berth_token_make(7, next, 0)), -ESTALE);
    must_fini(&table);
}
END_TEST

/* ---- claim and release ----------------------------------------------------------------------- */

START_TEST(claim_gives_a_clean_slot)
{
    struct berth_table table;
    must_init(&table, NULL);
    for (unsigned round = 0; round < 3; round++) {
        struct berth_slot *slot = must_claim(&table, 42);
        ck_assert_uint_eq(slot->generation, round + 1);
        ck_assert_uint_eq(slot->flags, BERTH_SLOT_LIVE);
        ck_assert_uint_eq(slot->index, 42);
        ck_assert_int_eq(berth_slot_fd(slot), 42);
        ck_assert_uint_eq(slot->class_id | slot->in_flight, 0);
        ck_assert_uint_eq(slot->state | slot->buffer | slot->queue, 0);
        ck_assert(all_zero(berth_slot_payload(slot), BERTH_SLOT_PAYLOAD_BYTES));
        ck_assert_ptr_eq(berth_slot_of(berth_slot_payload(slot)), slot);
        slot->class_id = 0xff;
        slot->state = slot->buffer = slot->queue = UINT32_MAX;
        slot->flags |= BERTH_SLOT_CLOSING;
        memset(berth_slot_payload(slot), 0xee, BERTH_SLOT_PAYLOAD_BYTES);
        must_verify(&table);
        must_release(&table, 42);
    }
    const struct berth_table_stats stats = stats_of(&table);
    ck_assert_uint_eq(stats.claimed, 3);
    ck_assert_uint_eq(stats.live, 0);
    ck_assert_uint_eq(stats.live_max, 1);
    must_fini(&table);
}
END_TEST

START_TEST(claim_and_release_refuse_misuse)
{
    struct berth_table table;
    struct berth_slot *slot = NULL;
    must_init(&table, NULL);
    const berth_token token = must_claim_token(&table, 3);
    ck_assert_int_eq(berth_table_claim(&table, 3, &slot), -EEXIST);
    ck_assert_ptr_null(slot);
    ck_assert_int_eq(berth_table_claim(NULL, 3, &slot), -EINVAL);
    ck_assert_int_eq(berth_table_claim(&table, 4, NULL), -EINVAL);
    ck_assert_int_eq(berth_table_claim(&table, UINT32_MAX, &slot), -EMFILE);
    ck_assert_int_eq(berth_table_claim_any(&table, &slot), -EINVAL);
    ck_assert_int_eq(berth_table_release(NULL, token), -EINVAL);
    ck_assert_int_eq(berth_table_release(&table, BERTH_TOKEN_NONE), -ESTALE);
    ck_assert_int_eq(berth_table_release(&table, token), 0);
    ck_assert_int_eq(berth_table_release(&table, token), -ESTALE); /* twice */
    const berth_token next = must_claim_token(&table, 3);
    ck_assert_int_eq(berth_table_release(&table, token), -ESTALE); /* the new one is safe */
    ck_assert_ptr_nonnull(berth_table_find(&table, next));
    must_fini(&table);
}
END_TEST

START_TEST(generations_wrap_past_zero)
{
    struct berth_table table;
    must_init(&table, NULL);
    must_claim(&table, 9)->generation = UINT32_MAX - 1;
    const berth_token first = berth_slot_token(berth_table_slot(&table, 9), 0);
    must_release(&table, 9);
    const berth_token last = must_claim_token(&table, 9);
    ck_assert_uint_eq(berth_token_generation(last), UINT32_MAX);
    must_release(&table, 9);
    const berth_token wrapped = must_claim_token(&table, 9);
    ck_assert_uint_eq(berth_token_generation(wrapped), 1);
    ck_assert_ptr_null(berth_table_find(&table, first));
    ck_assert_ptr_null(berth_table_find(&table, last));
    ck_assert_ptr_nonnull(berth_table_find(&table, wrapped));
    must_fini(&table);
}
END_TEST

START_TEST(operations_in_flight_gate_the_release)
{
    struct berth_table table;
    must_init(&table, NULL);
    struct berth_slot *slot = must_claim(&table, 11);
    const berth_token token = berth_slot_token(slot, 0);
    ck_assert_int_eq(berth_slot_begin(slot), 0);
    ck_assert_int_eq(berth_slot_begin(slot), 0);
    const struct berth_slot before = *slot;
    ck_assert_int_eq(berth_table_release(&table, token), -EBUSY);
    ck_assert_mem_eq(slot, &before, sizeof(before)); /* nothing was changed */
    ck_assert_ptr_eq(berth_table_find(&table, token), slot);
    ck_assert_uint_eq(berth_slot_end(slot), 1);
    ck_assert_int_eq(berth_table_release(&table, token), -EBUSY);
    ck_assert_uint_eq(berth_slot_end(slot), 0);
    ck_assert_int_eq(berth_table_release(&table, token), 0);

    slot = must_claim(&table, 11);
    slot->in_flight = UINT16_MAX - 1;
    ck_assert_int_eq(berth_slot_begin(slot), 0);
    ck_assert_int_eq(berth_slot_begin(slot), -EOVERFLOW);
    ck_assert_uint_eq(slot->in_flight, UINT16_MAX);
    slot->in_flight = 0;
    must_fini(&table);
}
END_TEST

START_TEST(closing_slots_are_still_found)
{
    struct berth_table table;
    must_init(&table, NULL);
    struct berth_slot *slot = must_claim(&table, 12);
    slot->flags |= BERTH_SLOT_CLOSING;
    ck_assert_ptr_eq(berth_table_find(&table, berth_slot_token(slot, 3)), slot);
    must_release(&table, 12);
    ck_assert_uint_eq(must_claim(&table, 12)->flags, BERTH_SLOT_LIVE);
    must_fini(&table);
}
END_TEST

int
main(void)
{
    TCase *tests = tcase_create("table");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, layout_is_the_promised_one);
    tcase_add_test(tests, slots_never_move_and_never_share_a_line);
    tcase_add_test(tests, wide_slots_have_wide_payloads);
    tcase_add_test(tests, options_out_of_range_are_refused);
    tcase_add_test(tests, slots_are_rounded_up_to_a_power_of_two);
    tcase_add_test(tests, finished_tables_refuse_everything);
    tcase_add_test(tests, tokens_hold_what_was_put_in);
    tcase_add_test(tests, find_refuses_what_names_no_live_slot);
    tcase_add_test(tests, find_refuses_a_forged_token_of_an_empty_slot);
    tcase_add_test(tests, claim_gives_a_clean_slot);
    tcase_add_test(tests, claim_and_release_refuse_misuse);
    tcase_add_test(tests, generations_wrap_past_zero);
    tcase_add_test(tests, operations_in_flight_gate_the_release);
    tcase_add_test(tests, closing_slots_are_still_found);
    Suite *suite = suite_create("table");
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
