/*
 * The checker itself: each invariant of the pool is broken by hand, which berth_pool_verify must
 * see, and mended again. The one test of the pool that looks inside it.
 *
 * SPDX-License-Identifier: MIT
 */
#include "core/pool_internal.h"
#include "pool/pool_test.h"

/** A pool with a buffer in every state, one wrapped, one waiting, and free ones. */
static struct scene {
    struct berth_pool *pool;
    uint32_t posted;
    struct berth_span borrowed;
    struct berth_lease leased, sent, freed, wrapped;
    uint32_t run; /* the first of a run of four */
    struct berth_lease reaching;
    struct berth_waiter waiters[2];
} scene;

static char text[] = "text";

static void
ready_ignore(struct berth_waiter *waiter, void *context)
{
    (void)waiter, (void)context;
}

/** Four buffers that were lent as one; the middle two are leased. */
static void
run_begin(void)
{
    struct berth_span span;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t buffer;
        void *data;
        ck_assert_int_eq(
            berth_pool_post(scene.pool, BERTH_CLASS_16K, BERTH_FOR_NEW, &buffer, &data), 0);
        if (i == 0)
            scene.run = buffer;
        ck_assert_uint_eq(buffer, scene.run + i);
    }
    ck_assert_int_eq(berth_pool_lend_run(scene.pool, scene.run, 4 << 14, &span), 0);
    ck_assert_int_eq(berth_retain(scene.pool, &span, 1 << 14, 2 << 14, 0, &scene.reaching), 0);
    ck_assert_int_eq(berth_pool_settle(scene.pool, scene.run + 1), 0);
    ck_assert_int_eq(berth_pool_settle(scene.pool, scene.run + 2), 0);
}

static void
run_end(void)
{
    ck_assert_int_eq(berth_pool_settle(scene.pool, scene.run), 1);
    ck_assert_int_eq(berth_pool_settle(scene.pool, scene.run + 3), 1);
    ck_assert_int_eq(berth_pool_unpost(scene.pool, scene.run), 0);
    ck_assert_int_eq(berth_pool_unpost(scene.pool, scene.run + 3), 0);
    ck_assert_int_eq(berth_release(scene.pool, scene.reaching), 0);
}

static void
scene_begin(void)
{
    void *data;
    memset(&scene, 0, sizeof(scene));
    scene.pool = test_pool_make(8 * MIB);
    ck_assert_int_eq(
        berth_pool_post(scene.pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &scene.posted, &data), 0);
    scene.borrowed = test_pool_receive(scene.pool, BERTH_CLASS_4K, 10, 0);
    scene.leased = test_pool_get(scene.pool, BERTH_CLASS_4K);
    scene.sent = test_pool_get(scene.pool, BERTH_CLASS_4K);
    ck_assert_int_eq(berth_lease_send_begin(scene.pool, scene.sent), 0);
    scene.freed = test_pool_get(scene.pool, BERTH_CLASS_4K);
    ck_assert_int_eq(berth_release(scene.pool, scene.freed), 0);
    ck_assert_int_eq(berth_wrap(scene.pool, text, 4, NULL, NULL, &scene.wrapped), 0);
    run_begin();
    for (int i = 0; i < 2; i++) {
        scene.waiters[i] =
            (struct berth_waiter){.ready = ready_ignore, .size_class = BERTH_CLASS_64K, .count = 1};
        ck_assert_int_eq(berth_pool_wait(scene.pool, &scene.waiters[i]), 0);
    }
    test_pool_verify(scene.pool);
}

static void
scene_end(void)
{
    struct berth_pool *pool = scene.pool;
    test_pool_verify(pool);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(berth_pool_wait_abort(&scene.waiters[i]), 0);
    ck_assert_int_eq(berth_pool_unpost(pool, scene.posted), 0);
    ck_assert_int_eq(berth_pool_settle(pool, scene.borrowed.buffer), 1);
    ck_assert_int_eq(berth_pool_unpost(pool, scene.borrowed.buffer), 0);
    ck_assert_int_eq(berth_lease_send_end(pool, scene.sent), 0);
    ck_assert_int_eq(berth_release(pool, scene.sent), 0);
    ck_assert_int_eq(berth_release(pool, scene.leased), 0);
    ck_assert_int_eq(berth_release(pool, scene.wrapped), 0);
    run_end();
    test_pool_end(pool);
}

/** Puts another value there, expects the checker to object, and puts the old one back. */
#define BREAK(place, value)                                                                        \
    do {                                                                                           \
        const __typeof__(place) break_saved = (place);                                             \
        const char *break_why = NULL;                                                              \
        (place) = (value);                                                                         \
        ck_assert_msg(berth_pool_verify(scene.pool, &break_why) == -EUCLEAN,                       \
                      "unseen: " #place " = " #value);                                             \
        ck_assert_ptr_nonnull(break_why);                                                          \
        ck_assert_int_eq(berth_pool_verify(scene.pool, NULL), -EUCLEAN);                           \
        (place) = break_saved;                                                                     \
        test_pool_verify(scene.pool);                                                              \
    } while (0)

static struct buffer_meta *
meta_at(uint32_t buffer)
{
    return &scene.pool->metas[buffer];
}

START_TEST(records)
{
    scene_begin();
    BREAK(meta_at(scene.leased.buffer)->stage, 99);
    BREAK(meta_at(scene.leased.buffer)->generation, 0);
    BREAK(meta_at(scene.leased.buffer)->references, 0);
    BREAK(meta_at(scene.leased.buffer)->stage, STATE_FREE);
    BREAK(meta_at(scene.sent.buffer)->stage, STATE_LEASED + 2 * STAGE_SEND);
    BREAK(meta_at(scene.posted)->references, 1);
    BREAK(meta_at(scene.freed.buffer)->references, 1);
    BREAK(meta_at(scene.freed.buffer)->stage, STATE_POSTED);
    BREAK(meta_at(scene.wrapped.buffer)->references, 0);
    scene_end();
}
END_TEST

START_TEST(runs)
{
    scene_begin();
    struct buffer_meta *metas = meta_at(scene.run);
    ck_assert_int_eq(meta_state(&metas[0]), STATE_RUN);
    ck_assert_int_eq(meta_state(&metas[1]), STATE_LEASED_RUN);
    ck_assert_int_eq(meta_state(&metas[2]), STATE_LEASED_RUN);
    ck_assert_int_eq(meta_state(&metas[3]), STATE_RUN_REST);
    BREAK(metas[0].length, 0);
    BREAK(metas[0].length, 2 << 14);       /* it reaches, without leases */
    BREAK(metas[1].references, 0);         /* likewise */
    BREAK(metas[1].length, 1 << 14);       /* it does not reach, but is counted as a holder */
    BREAK(metas[1].length, 4 << 14);       /* it reaches further than it is counted */
    BREAK(metas[1].length, 300 << 14);     /* out of its slab */
    BREAK(metas[1].stage, STATE_LEASED);   /* a buffer by itself does not reach */
    BREAK(metas[2].stage, STATE_BORROWED); /* nor is it reached into */
    BREAK(metas[2].length, metas[2].length + RUN_HOLDER);
    BREAK(metas[2].length, 1 << 14);
    BREAK(metas[3].length, (1 << 14) + RUN_HOLDER);
    BREAK(meta_at(scene.leased.buffer)->stage, STATE_LEASED_RUN);
    BREAK(meta_at(scene.leased.buffer)->length, 4097);
    BREAK(meta_at(scene.wrapped.buffer)->stage, STATE_LEASED_RUN);
    scene_end();
}
END_TEST

START_TEST(lists)
{
    scene_begin();
    struct pool_class *class = &scene.pool->classes[BERTH_CLASS_4K];
    BREAK(class->free_head, 0);
    BREAK(class->free_head, scene.leased.buffer + 1);
    BREAK(class->free_head, UINT32_MAX);
    BREAK(class->free_head, scene.wrapped.buffer + 1);
    BREAK(meta_at(scene.freed.buffer)->next, scene.freed.buffer + 1); /* a circle */
    BREAK(class->free_count, class->free_count + 1);
    BREAK(class->capacity, class->capacity + 1);
    BREAK(class->slabs, 7);
    BREAK(scene.pool->wrap_free, scene.wrapped.buffer + 1);
    BREAK(scene.pool->wrap_carved, 2);
    scene_end();
}
END_TEST

START_TEST(slabs_and_sums)
{
    scene_begin();
    struct slab *slab = &scene.pool->slabs[0];
    BREAK(slab->carved, 513);  /* a slab of 4 KiB buffers has 512 */
    BREAK(slab->carved, 5000); /* and none has more than 4,096 */
    BREAK(slab->outstanding, 0);
    BREAK(slab->size_class, BERTH_CLASS_16K);
    BREAK(scene.pool->slabs_used, 9);
    BREAK(scene.pool->stats.outstanding, 1);
    scene_end();
}
END_TEST

START_TEST(waiters)
{
    scene_begin();
    struct wait_queue *queue = &scene.pool->queues[BERTH_CLASS_64K][BERTH_FOR_NEW];
    BREAK(queue->count, 1);
    BREAK(queue->count, 3);
    BREAK(queue->tail, &scene.waiters[0]);
    BREAK(queue->head, &scene.waiters[1]);
    BREAK(scene.waiters[1].previous, NULL);
    BREAK(scene.waiters[0].pool, NULL);
    BREAK(scene.pool->waiting, 0);
    scene_end();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pool verify");
    TEST_ADD(suite, records);
    TEST_ADD(suite, runs);
    TEST_ADD(suite, lists);
    TEST_ADD(suite, slabs_and_sums);
    TEST_ADD(suite, waiters);
    return test_run(suite);
}
