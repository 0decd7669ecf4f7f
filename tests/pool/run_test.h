/*
 * What the tests of runs share: a run of posted buffers, a span over it with bytes that can be told
 * apart, and the steps after which every record is looked at.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_RUN_TEST_H
#define BERTH_TESTS_RUN_TEST_H

#include "pool/pool_test.h"

#define SIZE 4096u
#define RUN 8u

/** What byte `at` of a run is. */
static inline unsigned char
run_byte(size_t at)
{
    return (unsigned char)(at * 7 + (at >> 12) * 31);
}

/** Posts `count` buffers of a pool that has handed out none, which therefore lie in order. */
static inline uint32_t
run_post(struct berth_pool *pool, enum berth_class size_class, uint32_t count)
{
    uint32_t first = 0, buffer;
    void *data, *start = NULL;
    for (uint32_t i = 0; i < count; i++) {
        ck_assert_int_eq(berth_pool_post(pool, size_class, BERTH_FOR_NEW, &buffer, &data), 0);
        if (i == 0) {
            first = buffer;
            start = data;
        }
        ck_assert_uint_eq(buffer, first + i);
        ck_assert_ptr_eq(data, (char *)start + (size_t)i * berth_class_bytes(size_class));
    }
    return first;
}

/** Buffers `first` and so on are lent as a span of `length` bytes. */
static inline struct berth_span
run_lend(struct berth_pool *pool, uint32_t first, uint32_t length)
{
    struct berth_span span = {0};
    for (uint32_t i = 0; i * SIZE < length; i++)
        ck_assert_int_eq(berth_pool_expose(pool, first + i), 0);
    ck_assert_int_eq(berth_pool_lend_run(pool, first, length, &span), 0);
    ck_assert_uint_eq(span.buffer, first);
    ck_assert_uint_eq(span.length, length);
    for (uint32_t i = 0; i < length; i++)
        ((unsigned char *)span.data)[i] = run_byte(i);
    return span;
}

/** A pool, and a span of RUN buffers of it, the last of which is not full. */
static inline struct berth_span
run_begin(struct berth_pool **pool)
{
    *pool = test_pool_make(8 * MIB);
    const uint32_t first = run_post(*pool, BERTH_CLASS_4K, RUN);
    return run_lend(*pool, first, RUN * SIZE - 100);
}

/** Settles all; returns a bit for each that is posted again. */
static inline unsigned
run_settle(struct berth_pool *pool, uint32_t first, uint32_t count)
{
    unsigned posted = 0;
    for (uint32_t i = 0; i < count; i++) {
        const int answer = berth_pool_settle(pool, first + i);
        ck_assert_int_ge(answer, 0);
        posted |= (unsigned)answer << i;
        test_pool_verify(pool);
    }
    return posted;
}

static inline void
run_unpost(struct berth_pool *pool, uint32_t first, unsigned posted)
{
    for (uint32_t i = 0; posted >> i != 0; i++)
        if (posted >> i & 1)
            ck_assert_int_eq(berth_pool_unpost(pool, first + i), 0);
}

static inline struct berth_lease
run_retain(struct berth_pool *pool, const struct berth_span *span, uint32_t offset, uint32_t length)
{
    struct berth_lease lease = {0};
    ck_assert_int_eq(berth_retain(pool, span, offset, length, 0, &lease), 0);
    ck_assert_uint_eq(lease.length, length);
    ck_assert_uint_eq(lease.buffer, span->buffer + offset / SIZE);
    ck_assert_uint_eq(lease.offset, offset % SIZE);
    ck_assert_ptr_eq(berth_lease_data(pool, lease), (char *)span->data + offset);
    test_pool_verify(pool);
    return lease;
}

/** The lease reads what the run had from `offset` on. */
static inline void
run_check(const struct berth_pool *pool, struct berth_lease lease, size_t offset)
{
    const unsigned char *data = berth_lease_data(pool, lease);
    ck_assert_ptr_nonnull(data);
    uint32_t same = 0;
    while (same < lease.length && data[same] == run_byte(offset + same))
        same++;
    ck_assert_uint_eq(same, lease.length);
}

#endif
