/*
 * A source of slabs that refuses: it is not asked all the time, its refusal does not last, and
 * nobody is told of buffers that are not there. And what it hears of pins.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/pool_test.h"

#define PER_SLAB_4K 512u

static struct berth_lease leases[5000];

struct source {
    unsigned asked;
    unsigned granted_max;
    unsigned out;
    int pins;
    int pin_error;
};

static void *
source_allocate(void *context, size_t size, size_t alignment)
{
    struct source *source = context;
    source->asked++;
    if (source->out == source->granted_max)
        return NULL;
    void *memory = berth_alloc_default()->allocate(NULL, size, alignment);
    source->out += memory != NULL;
    return memory;
}

static void
source_release(void *context, void *memory, size_t size)
{
    struct source *source = context;
    ck_assert_uint_gt(source->out, 0);
    source->out--;
    berth_alloc_default()->release(NULL, memory, size);
}

static int
source_pin(void *context, void *memory, size_t size, int pinned)
{
    struct source *source = context;
    ck_assert_ptr_nonnull(memory);
    ck_assert_uint_eq(size, SLAB_BYTES);
    if (source->pin_error != 0)
        return source->pin_error;
    source->pins += pinned ? 1 : -1;
    return 0;
}

static struct berth_pool *
pool_on(struct source *source)
{
    const struct berth_alloc alloc = {.allocate = source_allocate,
                                      .release = source_release,
                                      .pin = source_pin,
                                      .context = source,
                                      .name = "test"};
    struct berth_pool_options options;
    berth_pool_options_init(&options);
    options.alloc = &alloc; /* copied: it does not outlive this function */
    struct berth_pool *pool = NULL;
    ck_assert_int_eq(berth_pool_create(&pool, &options), 0);
    return pool;
}

START_TEST(refusing_source_is_not_asked_all_the_time)
{
    struct source source = {.granted_max = 1};
    struct berth_pool *pool = pool_on(&source);
    const uint32_t n = test_take_all(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, leases, 5000);
    ck_assert_uint_eq(n, PER_SLAB_4K - PER_SLAB_4K / 16); /* the reserves are kept here too */
    ck_assert_uint_eq(source.asked, 2);
    ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_4K, BERTH_FOR_NEW), 0);
    for (int i = 0; i < 64; i++)
        ck_assert_int_eq(berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &leases[n]), -ENOBUFS);
    ck_assert_uint_eq(source.asked, 2);
    source.granted_max = 2;
    leases[n] = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_uint_eq(source.asked, 3);
    test_release_all(pool, leases, n + 1);
    test_pool_end(pool);
    ck_assert_uint_eq(source.out, 0);
}
END_TEST

START_TEST(turns_let_the_source_be_asked_again)
{
    struct source source = {.granted_max = 0};
    struct berth_pool *pool = pool_on(&source);
    struct berth_lease lease;
    ck_assert_int_eq(berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_LAST, &lease), -ENOBUFS);
    source.granted_max = 1;
    for (int i = 0; i < 64; i++)
        (void)berth_pool_turn(pool);
    ck_assert_int_eq(berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_LAST, &lease), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

static void
note_ready(struct berth_waiter *waiter, void *context)
{
    ck_assert_ptr_null(waiter->pool);
    ++*(int *)context;
}

START_TEST(waiters_wait_for_real_buffers)
{
    struct source source = {.granted_max = 1};
    struct berth_pool *pool = pool_on(&source);
    int woken = 0;
    struct berth_waiter waiter = {
        .ready = note_ready, .context = &woken, .size_class = BERTH_CLASS_4K, .count = 1};
    const uint32_t n = test_take_all(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, leases, 5000);
    ck_assert_int_eq(berth_pool_wait(pool, &waiter), 0);
    for (int i = 0; i < 200; i++)
        (void)berth_pool_turn(pool);
    ck_assert_int_eq(woken, 0); /* although there could be a new slab, as far as limits go */
    ck_assert_uint_le(source.asked, 6);
    ck_assert_int_eq(berth_release(pool, leases[0]), 0);
    (void)berth_pool_turn(pool);
    ck_assert_int_eq(woken, 1);
    test_release_all(pool, leases + 1, n - 1);
    test_pool_end(pool);
}
END_TEST

START_TEST(pins_reach_the_source)
{
    struct source source = {.granted_max = 1};
    struct berth_pool *pool = pool_on(&source);
    ck_assert_int_eq(berth_release(pool, test_pool_get(pool, BERTH_CLASS_4K)), 0);
    source.pin_error = -EPERM;
    ck_assert_int_eq(berth_pool_pin(pool, 0, 1), -EPERM);
    source.pin_error = 0;
    ck_assert_int_eq(berth_pool_pin(pool, 0, 0), -EINVAL); /* the refused one did not count */
    ck_assert_int_eq(berth_pool_pin(pool, 0, 1), 0);
    ck_assert_int_eq(berth_pool_pin(pool, 0, 1), 0);
    ck_assert_int_eq(source.pins, 1); /* told once, however often */
    ck_assert_int_eq(berth_pool_pin(pool, 0, 0), 0);
    ck_assert_int_eq(source.pins, 1);
    ck_assert_int_eq(berth_pool_pin(pool, 0, 0), 0);
    ck_assert_int_eq(source.pins, 0);
    test_pool_end(pool);
    ck_assert_uint_eq(source.out, 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pool source");
    TEST_ADD(suite, refusing_source_is_not_asked_all_the_time);
    TEST_ADD(suite, turns_let_the_source_be_asked_again);
    TEST_ADD(suite, waiters_wait_for_real_buffers);
    TEST_ADD(suite, pins_reach_the_source);
    return test_run(suite);
}
