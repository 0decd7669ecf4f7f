/*
 * Runs of buffers: what is refused of them, what is left in them, and in which order buffers are
 * handed out, on which runs depend.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/run_test.h"

/* ---- what is refused ------------------------------------------------------------------------ */

START_TEST(lend_run_checks_its_arguments)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_span span;
    const uint32_t per_slab = SLAB_BYTES / SIZE;
    const uint32_t first = run_post(pool, BERTH_CLASS_4K, per_slab - 32); /* the others: reserves */
    ck_assert_int_eq(berth_pool_lend_run(NULL, first, 1, &span), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_run(pool, first, 1, NULL), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_run(pool, first, 0, &span), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_run(pool, first, BERTH_RUN_MAX * SIZE + 1, &span), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_run(pool, first, UINT32_MAX, &span), -EINVAL);
    const uint32_t last = first + per_slab - 33;
    ck_assert_int_eq(berth_pool_lend_run(pool, last, 34 * SIZE, &span), -EINVAL); /* two slabs */
    TEST_ILLEGAL(pool, berth_pool_lend_run(pool, last, SIZE + 1, &span));
    TEST_ILLEGAL(pool, berth_pool_lend_run(pool, last + 1, 1, &span));
    TEST_ILLEGAL(pool, berth_pool_lend_run(pool, UINT32_MAX, 1, &span));
    test_pool_verify(pool);
    ck_assert_int_eq(berth_pool_lend_run(pool, first, BERTH_RUN_MAX * SIZE, &span), 0);
    TEST_ILLEGAL(pool, berth_pool_lend_run(pool, first, 1, &span));
    TEST_ILLEGAL(pool, berth_pool_lend_run(pool, first + BERTH_RUN_MAX - 1, SIZE + 1, &span));
    for (uint32_t i = 0; i < BERTH_RUN_MAX; i++)
        ck_assert_int_eq(berth_pool_settle(pool, first + i), 1);
    ck_assert_int_eq(berth_pool_lend_run(pool, first, 1, &span), 0); /* a run of one */
    ck_assert_int_eq(berth_pool_settle(pool, first), 1);
    for (uint32_t i = 0; i < per_slab - 32; i++)
        ck_assert_int_eq(berth_pool_unpost(pool, first + i), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(steps_of_other_states_are_refused)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    struct berth_span other = span;
    struct berth_lease lease = run_retain(pool, &span, 0, 2 * SIZE);
    for (uint32_t i = 0; i < 3; i++) {
        other.buffer = span.buffer + i;
        TEST_ILLEGAL(pool, berth_pool_unpost(pool, span.buffer + i));
        TEST_ILLEGAL(pool, berth_pool_expose(pool, span.buffer + i));
        TEST_ILLEGAL(pool, berth_pool_lend(pool, span.buffer + i, 1, &other));
        TEST_ILLEGAL(pool, berth_pool_lend_part(pool, span.buffer + i, 0, 1, &other));
        TEST_ILLEGAL(pool, berth_pool_settle_part(pool, &other));
        TEST_ILLEGAL(pool, berth_pool_filled(pool, span.buffer + i));
    }
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xfc);
    for (uint32_t i = 0; i < 3; i++) {
        TEST_ILLEGAL(pool, berth_pool_settle(pool, span.buffer + i));
        if (i < 2)
            TEST_ILLEGAL(pool, berth_pool_unpost(pool, span.buffer + i));
    }
    TEST_ILLEGAL(pool, berth_retain(pool, &span, 0, 1, 0, &lease));
    run_unpost(pool, span.buffer, 0xfc);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(retain_checks_the_span)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    struct berth_span other = span;
    struct berth_lease lease;
    ck_assert_int_eq(berth_retain(pool, &span, 0, span.length + 1, 0, &lease), -EINVAL);
    other.length++; /* more than has come */
    ck_assert_int_eq(berth_retain(pool, &other, 0, 1, 0, &lease), -EINVAL);
    other.length = UINT32_MAX;
    ck_assert_int_eq(berth_retain(pool, &other, 0, 1, 0, &lease), -EINVAL);
    other = span;
    other.data = (char *)span.data - 1;
    ck_assert_int_eq(berth_retain(pool, &other, 0, 1, 0, &lease), -EINVAL);
    other.data = &other;
    ck_assert_int_eq(berth_retain(pool, &other, 0, 1, 0, &lease), -EINVAL);
    other = span;
    other.buffer++; /* a further buffer is not the span's */
    TEST_ILLEGAL(pool, berth_retain(pool, &other, 0, 1, 0, &lease));
    other = span;
    other.data = (char *)span.data + 2 * SIZE + 10; /* part of a span is a span */
    other.length = 2 * SIZE;
    ck_assert_int_eq(berth_retain(pool, &other, SIZE, 5, 0, &lease), 0);
    ck_assert_uint_eq(lease.buffer, span.buffer + 3);
    ck_assert_uint_eq(lease.offset, 10);
    run_check(pool, lease, 3 * SIZE + 10);
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xf7);
    run_unpost(pool, span.buffer, 0xf7);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(leases_of_an_earlier_delivery_are_stale)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    const struct berth_lease head = run_retain(pool, &span, 0, 2 * SIZE);
    const struct berth_lease rest = run_retain(pool, &span, 4 * SIZE, SIZE);
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xec);
    ck_assert_int_eq(berth_release(pool, head), 0);
    ck_assert_int_eq(berth_release(pool, rest), 0);
    run_unpost(pool, span.buffer, 0xec);
    (void)berth_pool_tidy(pool, BERTH_CLASS_4K);
    ck_assert_uint_eq(run_post(pool, BERTH_CLASS_4K, RUN), span.buffer);
    const struct berth_span next = run_lend(pool, span.buffer, RUN * SIZE);
    const struct berth_lease all = run_retain(pool, &next, 0, RUN * SIZE);
    ck_assert_ptr_null(berth_lease_data(pool, head));
    ck_assert_ptr_null(berth_lease_data(pool, rest));
    TEST_ILLEGAL(pool, berth_release(pool, head));
    TEST_ILLEGAL(pool, berth_release(pool, rest));
    TEST_ILLEGAL(pool, berth_lease_share(pool, rest));
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0);
    ck_assert_int_eq(berth_release(pool, all), 0);
    test_pool_end(pool);
}
END_TEST

/** A buffer that is still held, but only from another one. */
START_TEST(leases_are_stale_though_their_buffer_is_held)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    const struct berth_lease holder = run_retain(pool, &span, 0, 3 * SIZE);
    const struct berth_lease early = run_retain(pool, &span, SIZE, 10);
    const struct berth_lease late = run_retain(pool, &span, 2 * SIZE, 10);
    struct berth_lease slice, last;
    ck_assert_int_eq(berth_release(pool, early), 0);
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xf8);
    run_unpost(pool, span.buffer, 0xf8);
    ck_assert_int_eq(berth_release(pool, late), 0);
    ck_assert_ptr_null(berth_lease_data(pool, early));
    ck_assert_ptr_null(berth_lease_data(pool, late));
    TEST_ILLEGAL(pool, berth_release(pool, early));
    TEST_ILLEGAL(pool, berth_release(pool, late));
    /* Nor when a new lease begins there. */
    ck_assert_int_eq(berth_slice(pool, holder, SIZE + 5, 2 * SIZE - 5, &slice), 0);
    ck_assert_ptr_null(berth_lease_data(pool, early));
    ck_assert_ptr_null(berth_lease_data(pool, late));
    TEST_ILLEGAL(pool, berth_lease_send_begin(pool, early));
    ck_assert_int_eq(berth_slice(pool, holder, 2 * SIZE, SIZE, &last), 0);
    ck_assert_ptr_null(berth_lease_data(pool, late));
    TEST_ILLEGAL(pool, berth_lease_share(pool, late));
    ck_assert_int_eq(berth_release(pool, holder), 0);
    run_check(pool, slice, SIZE + 5);
    run_check(pool, last, 2 * SIZE);
    ck_assert_int_eq(berth_release(pool, last), 0);
    ck_assert_int_eq(berth_release(pool, slice), 0);
    test_pool_end(pool);
}
END_TEST

/* ---- contents, and order -------------------------------------------------------------------- */

START_TEST(what_a_run_held_is_wiped)
{
    struct berth_pool_options options;
    struct berth_pool *pool = NULL;
    berth_pool_options_init(&options);
    options.bytes_max = 8 * MIB;
    options.zero_on_release = 1u << BERTH_CLASS_4K;
    ck_assert_int_eq(berth_pool_create(&pool, &options), 0);
    const uint32_t first = run_post(pool, BERTH_CLASS_4K, RUN);
    const struct berth_span span = run_lend(pool, first, RUN * SIZE - 100);
    const struct berth_lease kept = run_retain(pool, &span, 100, 2 * SIZE);
    ck_assert_uint_eq(run_settle(pool, first, RUN), 0xf8);
    ck_assert_int_eq(berth_release(pool, kept), 0);
    for (uint32_t i = 0; i < RUN; i++) { /* those kept, and those that went back to the kernel */
        if (i < 3) {
            uint32_t again;
            void *data;
            ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &again, &data),
                             0);
            ck_assert_uint_eq(again, first + i);
        }
        struct berth_span seen;
        ck_assert_int_eq(berth_pool_lend(pool, first + i, SIZE, &seen), 0);
        uint32_t zeroes = 0;
        while (zeroes < SIZE && ((const unsigned char *)seen.data)[zeroes] == 0)
            zeroes++;
        ck_assert_uint_eq(zeroes, SIZE);
        ck_assert_int_eq(berth_pool_settle(pool, first + i), 1);
    }
    run_unpost(pool, first, 0xff);
    test_pool_end(pool);
}
END_TEST

/** Buffers that were given back in any order are handed out in order of addresses, runs first. */
START_TEST(tidy_puts_free_buffers_in_order)
{
    enum { COUNT = 200 };
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_lease leases[COUNT];
    uint64_t random = test_seed("run");
    const uint32_t first = run_post(pool, BERTH_CLASS_4K, 1);
    ck_assert_int_eq(berth_pool_unpost(pool, first), 0);
    for (unsigned i = 0; i < COUNT; i++)
        leases[i] = test_pool_get(pool, BERTH_CLASS_4K);
    for (unsigned i = COUNT; i > 1; i--) {
        const unsigned other = (unsigned)(test_random(&random) % i);
        const struct berth_lease lease = leases[i - 1];
        leases[i - 1] = leases[other];
        leases[other] = lease;
    }
    /* Of the first 40 every other one stays, and so the rest of those is in no long run. */
    unsigned kept = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        if (leases[i].buffer - first < 40 && (leases[i].buffer - first) % 2 == 0)
            leases[kept++] = leases[i];
        else
            ck_assert_int_eq(berth_release(pool, leases[i]), 0);
    }
    ck_assert_uint_eq(berth_pool_tidy(pool, BERTH_CLASS_4K), COUNT);
    test_pool_verify(pool);
    ck_assert_uint_eq(berth_pool_tidy(pool, BERTH_CLASS_64K), 0);
    ck_assert_uint_eq(berth_pool_tidy(pool, BERTH_CLASS_COUNT), 0);
    ck_assert_uint_eq(berth_pool_tidy(NULL, BERTH_CLASS_4K), 0);
    ck_assert_uint_eq(run_post(pool, BERTH_CLASS_4K, COUNT - 39), first + 39);
    for (uint32_t i = 1; i < 39; i += 2)
        ck_assert_uint_eq(run_post(pool, BERTH_CLASS_4K, 1), first + i);
    ck_assert_uint_eq(run_post(pool, BERTH_CLASS_4K, 1), first + COUNT); /* never used before */
    for (uint32_t i = 0; i < COUNT + 1; i++)
        if (i >= 39 || i % 2 == 1)
            ck_assert_int_eq(berth_pool_unpost(pool, first + i), 0);
    test_release_all(pool, leases, kept);
    test_pool_end(pool);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pool run steps");
    TEST_ADD(suite, lend_run_checks_its_arguments);
    TEST_ADD(suite, steps_of_other_states_are_refused);
    TEST_ADD(suite, retain_checks_the_span);
    TEST_ADD(suite, leases_of_an_earlier_delivery_are_stale);
    TEST_ADD(suite, leases_are_stale_though_their_buffer_is_held);
    TEST_ADD(suite, what_a_run_held_is_wiped);
    TEST_ADD(suite, tidy_puts_free_buffers_in_order);
    return test_run(suite);
}
