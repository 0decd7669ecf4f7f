/*
 * What a driver of I/O does with buffers: posting, lending, settling, retaining from a callback,
 * and sends in flight; each step also in states where it is illegal.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/pool_test.h"

/* ---- receiving ----------------------------------------------------------------------------- */

START_TEST(borrowed_buffer_goes_back_by_itself)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    uint32_t buffer;
    void *data;
    struct berth_span span;
    ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &buffer, &data), 0);
    for (uint32_t length = 1; length <= 4096; length *= 2) {
        ck_assert_int_eq(berth_pool_expose(pool, buffer), 0);
        memset(data, (int)length, length);
        ck_assert_int_eq(berth_pool_lend(pool, buffer, length, &span), 0);
        ck_assert_ptr_eq(span.data, data);
        ck_assert_uint_eq(span.length, length);
        ck_assert_uint_eq(span.buffer, buffer);
        ck_assert_uint_eq(((unsigned char *)span.data)[length - 1], length & 255);
        ck_assert_int_eq(berth_pool_settle(pool, buffer), 1);
    }
    ck_assert_uint_eq(test_pool_stats(pool).gets, 1);
    ck_assert_int_eq(berth_pool_unpost(pool, buffer), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(lend_checks_the_length)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    uint32_t buffer;
    void *data;
    struct berth_span span;
    ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_512, BERTH_FOR_NEW, &buffer, &data), 0);
    ck_assert_int_eq(berth_pool_lend(pool, buffer, 0, &span), -EINVAL);
    ck_assert_int_eq(berth_pool_lend(pool, buffer, 513, &span), -EINVAL);
    ck_assert_int_eq(berth_pool_lend(pool, buffer, UINT32_MAX, &span), -EINVAL);
    ck_assert_int_eq(berth_pool_unpost(pool, buffer), 0); /* it was posted all the time */
    test_pool_end(pool);
}
END_TEST

START_TEST(retained_part_outlives_the_callback)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_span span = test_pool_receive(pool, BERTH_CLASS_4K, 1000, 7);
    struct berth_lease lease;
    ck_assert_int_eq(berth_retain(pool, &span, 100, 800, 0, &lease), 0);
    ck_assert_uint_eq(lease.offset, 100);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 0);
    const unsigned char *data = berth_lease_data(pool, lease);
    for (unsigned i = 0; i < 800; i++)
        ck_assert_uint_eq(data[i], (7 + 100 + i) & 255);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(retain_checks_the_span)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_span span = test_pool_receive(pool, BERTH_CLASS_4K, 1000, 0);
    struct berth_lease lease;
    ck_assert_int_eq(berth_retain(pool, &span, 0, 0, 0, &lease), -EINVAL);
    ck_assert_int_eq(berth_retain(pool, &span, 0, 1001, 0, &lease), -EINVAL);
    ck_assert_int_eq(berth_retain(pool, &span, 1000, 1, 0, &lease), -EINVAL);
    ck_assert_int_eq(berth_retain(pool, &span, UINT32_MAX, 2, 0, &lease), -EINVAL);
    ck_assert_int_eq(berth_retain(pool, &span, 0, 1, 2, &lease), -EINVAL);
    struct berth_span other = span;
    other.length = 1001; /* more than has come */
    ck_assert_int_eq(berth_retain(pool, &other, 0, 1, 0, &lease), -EINVAL);
    other = span;
    other.data = &other;
    ck_assert_int_eq(berth_retain(pool, &other, 0, 1, 0, &lease), -EINVAL);
    other = span;
    other.data = (char *)span.data + 10; /* part of a span is a span */
    other.length -= 10;
    ck_assert_int_eq(berth_retain(pool, &other, 1, 5, 0, &lease), 0);
    ck_assert_uint_eq(lease.offset, 11);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 1);
    TEST_ILLEGAL(pool, berth_retain(pool, &span, 0, 1, 0, &lease));
    other = span;
    other.buffer = UINT32_MAX;
    TEST_ILLEGAL(pool, berth_retain(pool, &other, 0, 1, 0, &lease));
    ck_assert_int_eq(berth_pool_unpost(pool, span.buffer), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(lease_of_an_earlier_delivery_is_stale)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_span span = test_pool_receive(pool, BERTH_CLASS_4K, 10, 0);
    struct berth_span next;
    struct berth_lease old, lease;
    ck_assert_int_eq(berth_retain(pool, &span, 0, 10, 0, &old), 0);
    ck_assert_int_eq(berth_release(pool, old), 0); /* before the callback has returned */
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 1);
    ck_assert_int_eq(berth_pool_lend(pool, span.buffer, 10, &next), 0);
    ck_assert_int_eq(berth_retain(pool, &next, 0, 10, 0, &lease), 0);
    ck_assert_ptr_null(berth_lease_data(pool, old));
    TEST_ILLEGAL(pool, berth_release(pool, old));
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(small_pieces_may_move)
{
    struct berth_pool *pool = test_pool_make(16 * MIB);
    const struct berth_span span = test_pool_receive(pool, BERTH_CLASS_64K, 20000, 1);
    struct berth_lease small, big, plain;
    ck_assert_int_eq(berth_retain(pool, &span, 30, 20, BERTH_MAY_COPY, &small), 0);
    ck_assert_uint_ne(small.buffer, span.buffer);
    ck_assert_uint_eq(small.length, 20);
    ck_assert_int_eq(berth_retain(pool, &span, 0, 8192, BERTH_MAY_COPY, &big), 0);
    ck_assert_uint_eq(big.buffer, span.buffer); /* 1/8 is not less than 1/8 */
    ck_assert_int_eq(berth_retain(pool, &span, 30, 20, 0, &plain), 0);
    ck_assert_uint_eq(plain.buffer, span.buffer);
    ck_assert_uint_eq(berth_pool_copies(pool)->received_compact, 20);
    ck_assert_mem_eq(berth_lease_data(pool, small), berth_lease_data(pool, plain), 20);
    ck_assert_int_eq(berth_release(pool, big), 0);
    ck_assert_int_eq(berth_release(pool, plain), 0);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 1); /* the copy does not hold it */
    ck_assert_int_eq(berth_pool_unpost(pool, span.buffer), 0);
    ck_assert_int_eq(berth_release(pool, small), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(pieces_stay_when_no_small_buffer_is_free)
{
    struct berth_pool *pool = test_pool_make(SLAB_BYTES); /* the one slab is for 4 KiB */
    const struct berth_span span = test_pool_receive(pool, BERTH_CLASS_4K, 1000, 1);
    struct berth_lease lease;
    ck_assert_int_eq(berth_retain(pool, &span, 5, 20, BERTH_MAY_COPY, &lease), 0);
    ck_assert_uint_eq(lease.buffer, span.buffer);
    ck_assert_uint_eq(berth_pool_copies(pool)->received_compact, 0);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(driver_steps_in_the_wrong_state_are_refused)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_span span;
    struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_4K);
    uint32_t posted;
    void *data;
    ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &posted, &data), 0);
    const uint32_t not_posted[] = {lease.buffer, posted + 1, UINT32_MAX, 3u << 12, 4u << 12};
    for (size_t i = 0; i < sizeof(not_posted) / sizeof(not_posted[0]); i++) {
        TEST_ILLEGAL(pool, berth_pool_unpost(pool, not_posted[i]));
        TEST_ILLEGAL(pool, berth_pool_expose(pool, not_posted[i]));
        TEST_ILLEGAL(pool, berth_pool_lend(pool, not_posted[i], 1, &span));
        TEST_ILLEGAL(pool, berth_pool_settle(pool, not_posted[i]));
    }
    TEST_ILLEGAL(pool, berth_pool_settle(pool, posted));
    ck_assert_int_eq(berth_pool_lend(pool, posted, 1, &span), 0);
    TEST_ILLEGAL(pool, berth_pool_lend(pool, posted, 1, &span));
    TEST_ILLEGAL(pool, berth_pool_unpost(pool, posted));
    ck_assert_int_eq(berth_pool_settle(pool, posted), 1);
    TEST_ILLEGAL(pool, berth_pool_settle(pool, posted));
    ck_assert_int_eq(berth_pool_unpost(pool, posted), 0);
    TEST_ILLEGAL(pool, berth_pool_unpost(pool, posted));
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

/* ---- sends --------------------------------------------------------------------------------- */

START_TEST(sends_hold_their_buffer)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_int_eq(berth_lease_send_begin(pool, lease), 0);
    TEST_ILLEGAL(pool, berth_release(pool, lease));          /* the kernel still reads it */
    TEST_ILLEGAL(pool, berth_lease_send_begin(pool, lease)); /* one send per reference */
    ck_assert_int_eq(berth_lease_share(pool, lease), 0);
    ck_assert_int_eq(berth_lease_send_begin(pool, lease), 0);
    ck_assert_int_eq(berth_lease_send_end(pool, lease), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    TEST_ILLEGAL(pool, berth_release(pool, lease));
    ck_assert_int_eq(berth_lease_send_end(pool, lease), 0);
    TEST_ILLEGAL(pool, berth_lease_send_end(pool, lease));
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(echo_sends_what_is_still_borrowed)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_span span = test_pool_receive(pool, BERTH_CLASS_4K, 100, 3);
    struct berth_lease lease;
    ck_assert_int_eq(berth_retain(pool, &span, 0, 100, 0, &lease), 0);
    ck_assert_int_eq(berth_lease_send_begin(pool, lease), 0);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 0);
    test_pool_verify(pool);
    ck_assert_int_eq(berth_lease_send_end(pool, lease), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);

    /* And the same with a send that is over before the callback returns. */
    const struct berth_span again = test_pool_receive(pool, BERTH_CLASS_4K, 100, 3);
    ck_assert_int_eq(berth_retain(pool, &again, 0, 100, 0, &lease), 0);
    ck_assert_int_eq(berth_lease_send_begin(pool, lease), 0);
    ck_assert_int_eq(berth_lease_send_end(pool, lease), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    ck_assert_int_eq(berth_pool_settle(pool, again.buffer), 1);
    ck_assert_int_eq(berth_pool_unpost(pool, again.buffer), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(one_lease_to_very_many)
{
    enum { MEMBERS = 100000 };
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_4K);
    for (int i = 0; i < MEMBERS; i++) {
        ck_assert_int_eq(berth_lease_share(pool, lease), 0);
        ck_assert_int_eq(berth_lease_send_begin(pool, lease), 0);
    }
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_verify(pool);
    for (int i = 0; i < MEMBERS; i++) {
        ck_assert_ptr_nonnull(berth_lease_data(pool, lease));
        ck_assert_int_eq(berth_lease_send_end(pool, lease), 0);
        ck_assert_int_eq(berth_release(pool, lease), 0);
    }
    ck_assert_ptr_null(berth_lease_data(pool, lease));
    test_pool_end(pool);
}
END_TEST

START_TEST(references_have_a_limit)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_4K);
    const uint32_t most = (UINT32_C(1) << 24) - 1;
    for (uint32_t i = 1; i < most; i++)
        if (berth_lease_share(pool, lease) != 0)
            ck_abort_msg("refused at %u", i);
    struct berth_lease slice;
    ck_assert_int_eq(berth_lease_share(pool, lease), -EOVERFLOW);
    ck_assert_int_eq(berth_slice(pool, lease, 0, 1, &slice), -EOVERFLOW);
    for (uint32_t i = 0; i < most; i++)
        if (berth_release(pool, lease) != 0)
            ck_abort_msg("not held at %u", i);
    test_pool_end(pool);
}
END_TEST

START_TEST(parts_are_lent_while_the_kernel_goes_on)
{
    struct berth_pool *pool = test_pool_make(16 * MIB);
    struct berth_span first, second;
    struct berth_lease kept, dropped;
    uint32_t buffer;
    void *data;
    ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_64K, BERTH_FOR_NEW, &buffer, &data), 0);
    ck_assert_int_eq(berth_pool_lend_part(pool, buffer, 0, 0, &first), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_part(pool, buffer, 0, 65537, &first), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_part(pool, buffer, 0, 100, &first), 0);
    ck_assert_ptr_eq(first.data, data);
    memset(data, 'a', 100);
    TEST_ILLEGAL(pool, berth_pool_lend_part(pool, buffer, 100, 1, &second));
    TEST_ILLEGAL(pool, berth_pool_filled(pool, buffer));
    TEST_ILLEGAL(pool, berth_pool_unpost(pool, buffer));
    ck_assert_int_eq(berth_retain(pool, &first, 10, 20, 0, &kept), 0);
    ck_assert_int_eq(berth_retain(pool, &first, 0, 5, 0, &dropped), 0);
    ck_assert_int_eq(berth_pool_settle_part(pool, &first), 0);
    ck_assert_int_eq(berth_release(pool, dropped), 0);
    TEST_ILLEGAL(pool, berth_retain(pool, &first, 0, 5, 0, &dropped));
    ck_assert_int_eq(berth_pool_lend_part(pool, buffer, 99, 1, &second), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_part(pool, buffer, 100, 65436, &second), 0);
    ck_assert_ptr_eq(second.data, (char *)data + 100);
    memset(second.data, 'b', second.length);
    ck_assert_int_eq(berth_pool_settle_part(pool, &second), 0);
    ck_assert_int_eq(berth_pool_verify(pool, NULL), 0);
    ck_assert_int_eq(berth_pool_filled(pool, buffer), 0); /* somebody has kept of it */
    ck_assert_int_eq(*(char *)berth_lease_data(pool, kept), 'a');
    ck_assert_int_eq(berth_release(pool, kept), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(parts_that_nobody_kept_are_posted_again)
{
    struct berth_pool *pool = test_pool_make(16 * MIB);
    struct berth_span span;
    struct berth_lease kept;
    uint32_t buffer;
    void *data;
    ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_64K, BERTH_FOR_NEW, &buffer, &data), 0);
    ck_assert_int_eq(berth_pool_lend_part(pool, buffer, 0, 100, &span), 0);
    ck_assert_int_eq(berth_retain(pool, &span, 0, 5, 0, &kept), 0);
    ck_assert_int_eq(berth_pool_settle_part(pool, &span), 0);
    ck_assert_int_eq(berth_release(pool, kept), 0); /* does not free it: the kernel writes on */
    ck_assert_int_eq(berth_pool_filled(pool, buffer), 1);
    ck_assert_ptr_null(berth_lease_data(pool, kept));
    ck_assert_int_eq(berth_pool_lend_part(pool, buffer, 0, 100, &span), 0); /* from its start */
    ck_assert_int_eq(berth_pool_settle_part(pool, &span), 0);
    TEST_ILLEGAL(pool, berth_pool_settle_part(pool, &span));
    ck_assert_int_eq(berth_pool_filled(pool, buffer), 1);
    ck_assert_int_eq(berth_pool_unpost(pool, buffer), 0);
    test_pool_end(pool);
}
END_TEST

/** Behind the last part that was lent the kernel may have written more, which nobody was told. */
START_TEST(what_nobody_saw_of_a_part_is_wiped)
{
    struct berth_pool_options options;
    struct berth_pool *pool = NULL;
    uint32_t buffer;
    void *data;
    struct berth_span span;
    struct berth_lease lease;
    berth_pool_options_init(&options);
    options.bytes_max = 8 * MIB;
    options.zero_on_release = 1u << BERTH_CLASS_4K;
    ck_assert_int_eq(berth_pool_create(&pool, &options), 0);
    ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &buffer, &data), 0);
    ck_assert_int_eq(berth_pool_expose(pool, buffer), 0);
    memset(data, 7, 4096);
    ck_assert_int_eq(berth_pool_lend_part(pool, buffer, 0, 100, &span), 0);
    ck_assert_int_eq(berth_retain(pool, &span, 0, 100, 0, &lease), 0);
    ck_assert_int_eq(berth_pool_settle_part(pool, &span), 0);
    ck_assert_int_eq(berth_pool_filled(pool, buffer), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    ck_assert_int_eq(berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &lease), 0);
    ck_assert_uint_eq(lease.buffer, buffer);
    const unsigned char *bytes = berth_lease_data(pool, lease);
    unsigned at = 0;
    while (at < 4096 && bytes[at] == 0)
        at++;
    ck_assert_uint_eq(at, 4096);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

/* ---- memory that is not the pool's ---------------------------------------------------------- */

struct freed {
    void *data;
    size_t length;
    unsigned count;
};

static void
note_freed(void *data, size_t length, void *context)
{
    struct freed *freed = (struct freed *)context;
    *freed = (struct freed){data, length, freed->count + 1};
}

START_TEST(lent_foreign_memory_goes_when_nobody_holds_it)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    static unsigned char memory[64 * 1024];
    struct freed freed = {0};
    struct berth_span span;
    struct berth_lease kept, copied, slice;
    for (size_t i = 0; i < sizeof(memory); i++)
        memory[i] = (unsigned char)i;

    ck_assert_int_eq(
        berth_pool_lend_wrapped(pool, memory, sizeof(memory), note_freed, &freed, &span), 0);
    ck_assert_ptr_eq(span.data, memory);
    ck_assert_uint_eq(freed.count, 0);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 0); /* nobody wanted it */
    ck_assert_uint_eq(freed.count, 1);
    ck_assert_ptr_eq(freed.data, memory);
    ck_assert_uint_eq(freed.length, sizeof(memory));

    ck_assert_int_eq(
        berth_pool_lend_wrapped(pool, memory, sizeof(memory), note_freed, &freed, &span), 0);
    ck_assert_int_eq(berth_retain(pool, &span, 5000, 3000, 0, &kept), 0);
    ck_assert_int_eq(berth_retain(pool, &span, 17, 30, BERTH_MAY_COPY, &copied), 0);
    ck_assert_uint_eq(berth_pool_copies(pool)->received_compact, 30);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 0);
    ck_assert_uint_eq(freed.count, 1);
    ck_assert_ptr_eq(berth_lease_data(pool, kept), memory + 5000);
    ck_assert_int_eq(memcmp(berth_lease_data(pool, copied), memory + 17, 30), 0);
    ck_assert_int_eq(berth_slice(pool, kept, 1000, 2000, &slice), 0);
    ck_assert_int_eq(berth_release(pool, kept), 0);
    ck_assert_uint_eq(freed.count, 1);
    ck_assert_int_eq(berth_release(pool, slice), 0);
    ck_assert_uint_eq(freed.count, 2);
    ck_assert_ptr_null(berth_lease_data(pool, slice));
    ck_assert_int_eq(berth_release(pool, copied), 0);

    ck_assert_int_eq(berth_pool_lend_wrapped(pool, NULL, 1, NULL, NULL, &span), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_wrapped(pool, memory, 0, NULL, NULL, &span), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_wrapped(pool, memory, 1, NULL, NULL, NULL), -EINVAL);
    test_pool_end(pool);
}
END_TEST

START_TEST(lent_foreign_memory_may_be_less)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    static unsigned char memory[64 * 1024];
    struct freed freed = {0};
    struct berth_span span, longer;
    struct berth_lease lease, piece;
    uint32_t buffer;
    void *data;
    ck_assert_int_eq(
        berth_pool_lend_wrapped(pool, memory, sizeof(memory), note_freed, &freed, &span), 0);
    ck_assert_int_eq(berth_pool_lend_shorten(NULL, &span, 1), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_shorten(pool, NULL, 1), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_shorten(pool, &span, 0), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_shorten(pool, &span, sizeof(memory) + 1), -EINVAL);
    ck_assert_int_eq(berth_pool_lend_shorten(pool, &span, 5000), 0);
    ck_assert_uint_eq(span.length, 5000);
    longer = span;
    longer.length = 5001;
    ck_assert_int_eq(berth_pool_lend_shorten(pool, &longer, 5001), -EINVAL);
    ck_assert_int_eq(berth_retain(pool, &longer, 0, 5001, 0, &lease), -EINVAL);
    ck_assert_int_eq(berth_retain(pool, &longer, 0, 1, 0, &lease), -EINVAL);
    ck_assert_int_eq(berth_retain(pool, &span, 4000, 1000, 0, &lease), 0);
    ck_assert_int_eq(berth_pool_lend_shorten(pool, &span, 4500), -EINVAL); /* it is held */
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 0);
    ck_assert_int_eq(berth_pool_lend_shorten(pool, &span, 4500), -EINVAL); /* and not lent */
    lease.length++;
    ck_assert_ptr_null(berth_lease_data(pool, lease));
    lease.length--;
    ck_assert_int_eq(berth_slice(pool, lease, 999, 1, &piece), 0);
    ck_assert_int_eq(berth_release(pool, piece), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    ck_assert_uint_eq(freed.count, 1);
    ck_assert_uint_eq(freed.length, 5000);
    /* Not for buffers of the pool. */
    ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &buffer, &data), 0);
    ck_assert_int_eq(berth_pool_lend(pool, buffer, 100, &span), 0);
    ck_assert_int_eq(berth_pool_lend_shorten(pool, &span, 50), -EINVAL);
    ck_assert_int_eq(berth_pool_settle(pool, buffer), 1);
    ck_assert_int_eq(berth_pool_unpost(pool, buffer), 0);
    test_pool_end(pool);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pool driver");
    TEST_ADD(suite, borrowed_buffer_goes_back_by_itself);
    TEST_ADD(suite, lend_checks_the_length);
    TEST_ADD(suite, retained_part_outlives_the_callback);
    TEST_ADD(suite, retain_checks_the_span);
    TEST_ADD(suite, lease_of_an_earlier_delivery_is_stale);
    TEST_ADD(suite, small_pieces_may_move);
    TEST_ADD(suite, pieces_stay_when_no_small_buffer_is_free);
    TEST_ADD(suite, driver_steps_in_the_wrong_state_are_refused);
    TEST_ADD(suite, parts_are_lent_while_the_kernel_goes_on);
    TEST_ADD(suite, parts_that_nobody_kept_are_posted_again);
    TEST_ADD(suite, what_nobody_saw_of_a_part_is_wiped);
    TEST_ADD(suite, lent_foreign_memory_goes_when_nobody_holds_it);
    TEST_ADD(suite, lent_foreign_memory_may_be_less);
    TEST_ADD(suite, sends_hold_their_buffer);
    TEST_ADD(suite, echo_sends_what_is_still_borrowed);
    TEST_ADD(suite, one_lease_to_very_many);
    TEST_ADD(suite, references_have_a_limit);
    return test_run(suite);
}
