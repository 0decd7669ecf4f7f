/*
 * Running low: reserves, waiters, watermarks, budgets. What happens when the source of slabs
 * refuses is in test_source.c.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/pool_test.h"

#define PER_SLAB_4K 512u

static struct berth_lease leases[5000];

START_TEST(reserves_are_kept)
{
    struct berth_pool *pool = test_pool_make(2 * SLAB_BYTES);
    const uint32_t all = 2 * PER_SLAB_4K;
    ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_4K, BERTH_FOR_NEW), all - all / 16);
    ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE), all - 1);
    ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_4K, BERTH_FOR_LAST), all);
    uint32_t n = test_take_all(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, leases, 5000);
    ck_assert_uint_eq(n, all - all / 16);
    ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_4K, BERTH_FOR_NEW), 0);
    n += test_take_all(pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE, leases + n, 5000 - n);
    ck_assert_uint_eq(n, all - 1);
    n += test_take_all(pool, BERTH_CLASS_4K, BERTH_FOR_LAST, leases + n, 5000 - n);
    ck_assert_uint_eq(n, all);
    ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_4K, BERTH_FOR_LAST), 0);
    ck_assert_uint_eq(test_pool_stats(pool).refused, 3);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding_max, all);
    test_release_all(pool, leases, n);
    test_pool_end(pool);
}
END_TEST

START_TEST(classes_too_small_for_reserves_have_none)
{
    struct berth_pool *pool = test_pool_make(2 * SLAB_BYTES);
    ck_assert_uint_eq(test_take_all(pool, BERTH_CLASS_2M, BERTH_FOR_NEW, leases, 100), 2);
    test_release_all(pool, leases, 2);
    test_pool_end(pool);
}
END_TEST

START_TEST(availability_is_exact)
{
    for (unsigned slabs = 1; slabs < 20; slabs++) {
        for (int purpose = BERTH_FOR_NEW; purpose <= BERTH_FOR_LAST; purpose++) {
            struct berth_pool *pool = test_pool_make(slabs * SLAB_BYTES);
            const uint32_t said = berth_pool_available(pool, BERTH_CLASS_64K, purpose);
            const uint32_t n = test_take_all(pool, BERTH_CLASS_64K, purpose, leases, 5000);
            ck_assert_uint_eq(n, said);
            test_release_all(pool, leases, n);
            ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_64K, purpose), said);
            const uint32_t big = berth_pool_available(pool, BERTH_CLASS_2M, purpose);
            (void)berth_pool_trim(pool);
            ck_assert_uint_ge(berth_pool_available(pool, BERTH_CLASS_2M, purpose), big);
            test_pool_end(pool);
        }
    }
    struct berth_pool *pool = test_pool_make(SLAB_BYTES);
    ck_assert_uint_eq(berth_pool_available(NULL, BERTH_CLASS_4K, BERTH_FOR_NEW), 0);
    ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_COUNT, BERTH_FOR_NEW), 0);
    ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_4K, (enum berth_purpose)3), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(class_limits_hold)
{
    struct berth_pool_options options;
    berth_pool_options_init(&options);
    options.class_bytes_max[BERTH_CLASS_64K] = SLAB_BYTES + MIB; /* one slab and a half: one */
    struct berth_pool *pool;
    ck_assert_int_eq(berth_pool_create(&pool, &options), 0);
    const uint32_t n = test_take_all(pool, BERTH_CLASS_64K, BERTH_FOR_LAST, leases, 100);
    ck_assert_uint_eq(n, 32);
    leases[n] = test_pool_get(pool, BERTH_CLASS_4K); /* the others are not touched by it */
    test_release_all(pool, leases, n + 1);
    test_pool_end(pool);
}
END_TEST

/* ---- waiters ------------------------------------------------------------------------------- */

#define WAITERS 4

struct scene {
    struct berth_pool *pool;
    struct berth_waiter waiters[WAITERS];
    struct berth_lease got[WAITERS];
    int order[16];
    unsigned woken;
    int again;      /* the waiter to queue again from its callback */
    int abort_next; /* a waiter to abort from the first callback */
    int take;       /* whether each takes one buffer when woken */
};

static struct scene scene;

static void
note_ready(struct berth_waiter *waiter, void *context)
{
    struct scene *s = context;
    const int index = (int)(waiter - s->waiters);
    ck_assert_uint_lt(s->woken, 16);
    s->order[s->woken++] = index;
    ck_assert_ptr_null(waiter->pool);
    ck_assert_uint_ge(berth_pool_available(s->pool, waiter->size_class, waiter->purpose),
                      waiter->count);
    ck_assert_uint_eq(berth_pool_turn(s->pool), 0);
    ck_assert_int_eq(berth_pool_destroy(s->pool), -EBUSY);
    if (s->take)
        ck_assert_int_eq(
            berth_pool_get(s->pool, waiter->size_class, waiter->purpose, &s->got[index]), 0);
    if (s->again == index)
        ck_assert_int_eq(berth_pool_wait(s->pool, waiter), 0);
    if (s->abort_next >= 0) {
        ck_assert_int_eq(berth_pool_wait_abort(&s->waiters[s->abort_next]), 0);
        s->abort_next = -1;
    }
}

static void
scene_begin(struct berth_pool *pool)
{
    scene = (struct scene){.pool = pool, .again = -1, .abort_next = -1};
    for (int i = 0; i < WAITERS; i++)
        scene.waiters[i] = (struct berth_waiter){
            .ready = note_ready, .context = &scene, .size_class = BERTH_CLASS_4K, .count = 1};
}

START_TEST(waiters_are_served_in_order)
{
    struct berth_pool *pool = test_pool_make(SLAB_BYTES);
    scene_begin(pool);
    scene.take = 1;
    const uint32_t n = test_take_all(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, leases, 5000);
    for (int i = 0; i < WAITERS; i++)
        ck_assert_int_eq(berth_pool_wait(pool, &scene.waiters[i]), 0);
    test_pool_verify(pool);
    ck_assert_int_eq(berth_pool_destroy(pool), -EBUSY);
    (void)berth_pool_turn(pool);
    ck_assert_uint_eq(scene.woken, 0);
    test_release_all(pool, leases, 2);
    ck_assert_uint_eq(scene.woken, 0); /* not before the turn */
    (void)berth_pool_turn(pool);
    ck_assert_uint_eq(scene.woken, 2);
    ck_assert_int_eq(scene.order[0], 0);
    ck_assert_int_eq(scene.order[1], 1);
    test_release_all(pool, leases + 2, n - 2);
    (void)berth_pool_turn(pool);
    ck_assert_uint_eq(scene.woken, 4);
    ck_assert_int_eq(scene.order[3], 3);
    ck_assert_uint_eq(test_pool_stats(pool).waits, 4);
    test_release_all(pool, scene.got, WAITERS);
    test_pool_end(pool);
}
END_TEST

START_TEST(those_who_can_finish_go_first)
{
    struct berth_pool *pool = test_pool_make(SLAB_BYTES);
    scene_begin(pool);
    scene.take = 1;
    const uint32_t n = test_take_all(pool, BERTH_CLASS_4K, BERTH_FOR_LAST, leases, 5000);
    scene.waiters[1].purpose = BERTH_FOR_ACTIVE;
    scene.waiters[2].purpose = BERTH_FOR_LAST;
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(berth_pool_wait(pool, &scene.waiters[i]), 0);
    test_release_all(pool, leases, 1);
    (void)berth_pool_turn(pool);
    ck_assert_uint_eq(scene.woken, 1);
    ck_assert_int_eq(scene.order[0], 2);
    test_release_all(pool, leases + 1, 2);
    (void)berth_pool_turn(pool); /* two are free: one for a request begun, none for a newcomer */
    ck_assert_uint_eq(scene.woken, 2);
    ck_assert_int_eq(scene.order[1], 1);
    test_release_all(pool, leases + 3, n - 3);
    (void)berth_pool_turn(pool);
    ck_assert_int_eq(scene.order[2], 0);
    test_release_all(pool, scene.got, 3);
    test_pool_end(pool);
}
END_TEST

START_TEST(callbacks_may_wait_again_and_abort_others)
{
    struct berth_pool *pool = test_pool_make(SLAB_BYTES);
    scene_begin(pool);
    scene.again = 0;
    scene.abort_next = 1;
    for (int i = 0; i < WAITERS; i++)
        ck_assert_int_eq(berth_pool_wait(pool, &scene.waiters[i]), 0);
    (void)berth_pool_turn(pool);
    ck_assert_uint_ge(scene.woken, 3);
    ck_assert_int_eq(scene.order[0], 0);
    ck_assert_int_eq(scene.order[1], 2);
    ck_assert_int_eq(scene.order[2], 3);
    for (unsigned i = 0; i < scene.woken; i++)
        ck_assert_int_ne(scene.order[i], 1);
    ck_assert_uint_le(scene.woken, WAITERS); /* one who waits again does not spin */
    test_pool_verify(pool);
    scene.again = -1;
    (void)berth_pool_turn(pool);
    (void)berth_pool_turn(pool);
    ck_assert_int_eq(berth_pool_wait_abort(&scene.waiters[0]), -ENOENT);
    test_pool_end(pool);
}
END_TEST

START_TEST(waiting_for_many_adds_slabs)
{
    struct berth_pool *pool = test_pool_make(4 * SLAB_BYTES);
    scene_begin(pool);
    scene.waiters[0].count = 3 * PER_SLAB_4K;
    ck_assert_int_eq(berth_pool_wait(pool, &scene.waiters[0]), 0);
    (void)berth_pool_turn(pool);
    ck_assert_uint_eq(scene.woken, 1);
    ck_assert_uint_eq(test_pool_stats(pool).slabs, 4); /* the reserves stay untouched */
    test_pool_end(pool);
}
END_TEST

START_TEST(wait_refuses_bad_arguments)
{
    struct berth_pool *pool = test_pool_make(SLAB_BYTES);
    scene_begin(pool);
    struct berth_waiter *waiter = &scene.waiters[0];
    ck_assert_int_eq(berth_pool_wait(NULL, waiter), -EINVAL);
    ck_assert_int_eq(berth_pool_wait(pool, NULL), -EINVAL);
    waiter->count = 0;
    ck_assert_int_eq(berth_pool_wait(pool, waiter), -EINVAL);
    waiter->count = PER_SLAB_4K - PER_SLAB_4K / 16 + 1; /* could never be met */
    ck_assert_int_eq(berth_pool_wait(pool, waiter), -EINVAL);
    waiter->purpose = BERTH_FOR_LAST;
    ck_assert_int_eq(berth_pool_wait(pool, waiter), 0);
    ck_assert_int_eq(berth_pool_wait(pool, waiter), -EALREADY);
    ck_assert_int_eq(berth_pool_wait_abort(waiter), 0);
    ck_assert_int_eq(berth_pool_wait_abort(waiter), -ENOENT);
    ck_assert_int_eq(berth_pool_wait_abort(NULL), -EINVAL);
    waiter->count = PER_SLAB_4K + 1;
    ck_assert_int_eq(berth_pool_wait(pool, waiter), -EINVAL);
    waiter->count = 1;
    waiter->purpose = (enum berth_purpose)3;
    ck_assert_int_eq(berth_pool_wait(pool, waiter), -EINVAL);
    waiter->purpose = BERTH_FOR_NEW;
    waiter->size_class = BERTH_CLASS_COUNT;
    ck_assert_int_eq(berth_pool_wait(pool, waiter), -EINVAL);
    waiter->size_class = BERTH_CLASS_4K;
    waiter->ready = NULL;
    ck_assert_int_eq(berth_pool_wait(pool, waiter), -EINVAL);
    test_pool_end(pool);
}
END_TEST

START_TEST(abort_keeps_the_order)
{
    for (int aborted = 0; aborted < WAITERS; aborted++) {
        struct berth_pool *pool = test_pool_make(SLAB_BYTES);
        scene_begin(pool);
        for (int i = 0; i < WAITERS; i++)
            ck_assert_int_eq(berth_pool_wait(pool, &scene.waiters[i]), 0);
        ck_assert_int_eq(berth_pool_wait_abort(&scene.waiters[aborted]), 0);
        test_pool_verify(pool);
        (void)berth_pool_turn(pool);
        ck_assert_uint_eq(scene.woken, WAITERS - 1);
        for (int i = 0; i < WAITERS - 1; i++)
            ck_assert_int_eq(scene.order[i], i < aborted ? i : i + 1);
        test_pool_end(pool);
    }
}
END_TEST

/* ---- watermarks ---------------------------------------------------------------------------- */

struct marks {
    int calls;
    int low;
    enum berth_class size_class;
};

static void
note_mark(struct berth_pool *pool, enum berth_class size_class, int low, void *context)
{
    struct marks *marks = context;
    ck_assert_ptr_nonnull(pool);
    ck_assert_int_eq(berth_pool_destroy(pool), -EBUSY);
    marks->calls++;
    marks->low = low;
    marks->size_class = size_class;
}

START_TEST(watermarks_warn_once_each_way)
{
    struct berth_pool *pool = test_pool_make(SLAB_BYTES);
    struct marks marks = {0};
    ck_assert_int_eq(berth_pool_watermark(pool, BERTH_CLASS_4K, 10, 100, note_mark, &marks), 0);
    const uint32_t n = test_take_all(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, leases, 5000);
    ck_assert_int_eq(marks.calls, 0);
    (void)berth_pool_turn(pool);
    (void)berth_pool_turn(pool);
    ck_assert_int_eq(marks.calls, 1);
    ck_assert_int_eq(marks.low, 1);
    ck_assert_int_eq(marks.size_class, BERTH_CLASS_4K);
    test_release_all(pool, leases, 99);
    (void)berth_pool_turn(pool);
    ck_assert_int_eq(marks.calls, 1); /* between the marks nothing is said */
    test_release_all(pool, leases + 99, 1);
    (void)berth_pool_turn(pool);
    (void)berth_pool_turn(pool);
    ck_assert_int_eq(marks.calls, 2);
    ck_assert_int_eq(marks.low, 0);
    ck_assert_int_eq(berth_pool_watermark(pool, BERTH_CLASS_4K, 0, 0, NULL, NULL), 0);
    test_release_all(pool, leases + 100, n - 100);
    (void)berth_pool_turn(pool);
    ck_assert_int_eq(marks.calls, 2);

    ck_assert_int_eq(berth_pool_watermark(NULL, BERTH_CLASS_4K, 1, 2, note_mark, NULL), -EINVAL);
    ck_assert_int_eq(berth_pool_watermark(pool, BERTH_CLASS_COUNT, 1, 2, note_mark, NULL), -EINVAL);
    ck_assert_int_eq(berth_pool_watermark(pool, BERTH_CLASS_4K, 2, 2, note_mark, NULL), -EINVAL);
    test_pool_end(pool);
}
END_TEST

/* ---- budget -------------------------------------------------------------------------------- */

/** What the budget accepts can be held, and what it refuses cannot. */
START_TEST(budget_tells_the_truth)
{
    for (unsigned slabs = 1; slabs <= 20; slabs += 3) {
        struct berth_pool *pool = test_pool_make(slabs * SLAB_BYTES);
        struct berth_consumer consumer = {.name = "all", .size_class = BERTH_CLASS_64K};
        uint64_t missing = 99;
        consumer.buffers = berth_pool_available(pool, BERTH_CLASS_64K, BERTH_FOR_NEW);
        ck_assert_int_eq(berth_pool_budget(pool, &consumer, 1, &missing), 0);
        ck_assert_uint_eq(missing, 0);
        consumer.buffers++;
        ck_assert_int_eq(berth_pool_budget(pool, &consumer, 1, &missing), -ENOSPC);
        ck_assert_uint_eq(missing, SLAB_BYTES);
        ck_assert_int_eq(berth_pool_budget(pool, &consumer, 1, NULL), -ENOSPC);
        test_pool_end(pool);
    }
}
END_TEST

START_TEST(budget_adds_consumers_and_classes)
{
    struct berth_pool_options options;
    berth_pool_options_init(&options);
    options.bytes_max = 10 * SLAB_BYTES;
    options.class_bytes_max[BERTH_CLASS_2M] = 3 * SLAB_BYTES;
    struct berth_pool *pool;
    ck_assert_int_eq(berth_pool_create(&pool, &options), 0);
    uint64_t missing = 99;
    struct berth_consumer some[] = {{"posted", BERTH_CLASS_4K, 1000},
                                    {"parsed", BERTH_CLASS_4K, 800},
                                    {"sent", BERTH_CLASS_512, 3000},
                                    {"files", BERTH_CLASS_2M, 3}};
    ck_assert_int_eq(berth_pool_budget(pool, NULL, 0, &missing), 0);
    ck_assert_uint_eq(missing, 0);
    ck_assert_int_eq(berth_pool_budget(pool, some, 4, &missing), 0); /* 4 + 1 + 3 slabs */
    some[3].buffers = 5; /* 10 in all, but 2 more than the class may have */
    ck_assert_int_eq(berth_pool_budget(pool, some, 4, &missing), -ENOSPC);
    ck_assert_uint_eq(missing, 2 * SLAB_BYTES);
    some[0].buffers = UINT64_MAX; /* sums do not wrap */
    some[1].buffers = UINT64_MAX;
    ck_assert_int_eq(berth_pool_budget(pool, some, 4, &missing), -ENOSPC);
    ck_assert_uint_gt(missing, UINT64_C(1) << 48);
    ck_assert_int_eq(berth_pool_budget(NULL, some, 4, &missing), -EINVAL);
    ck_assert_int_eq(berth_pool_budget(pool, NULL, 1, &missing), -EINVAL);
    some[1].size_class = BERTH_CLASS_COUNT;
    ck_assert_int_eq(berth_pool_budget(pool, some, 4, &missing), -EINVAL);
    test_pool_end(pool);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pressure");
    TEST_ADD(suite, reserves_are_kept);
    TEST_ADD(suite, classes_too_small_for_reserves_have_none);
    TEST_ADD(suite, availability_is_exact);
    TEST_ADD(suite, class_limits_hold);
    TEST_ADD(suite, waiters_are_served_in_order);
    TEST_ADD(suite, those_who_can_finish_go_first);
    TEST_ADD(suite, callbacks_may_wait_again_and_abort_others);
    TEST_ADD(suite, waiting_for_many_adds_slabs);
    TEST_ADD(suite, wait_refuses_bad_arguments);
    TEST_ADD(suite, abort_keeps_the_order);
    TEST_ADD(suite, watermarks_warn_once_each_way);
    TEST_ADD(suite, budget_tells_the_truth);
    TEST_ADD(suite, budget_adds_consumers_and_classes);
    return test_run(suite);
}
