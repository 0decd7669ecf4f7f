/*
 * Releases from other threads, while the owner goes on working: nothing is lost, nothing is freed
 * twice, and what the releasing thread did with the bytes is done before the buffer is used again.
 * Meant to be run under ThreadSanitizer as well.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/pool_test.h"

#include <pthread.h>
#include <sched.h>

#define RELEASERS 2
#define QUEUE_MAX 256
#define ROUNDS 60000

/** Leases on their way to a thread that will release them. */
struct queue {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct berth_lease leases[QUEUE_MAX];
    unsigned count;
    int closed;
};

struct releaser {
    pthread_t thread;
    struct berth_pool *pool;
    struct queue *queue;
    uint64_t released;
};

static void
queue_put(struct queue *queue, struct berth_lease lease)
{
    ck_assert_int_eq(pthread_mutex_lock(&queue->lock), 0);
    while (queue->count == QUEUE_MAX)
        (void)pthread_cond_wait(&queue->changed, &queue->lock);
    queue->leases[queue->count++] = lease;
    (void)pthread_cond_broadcast(&queue->changed);
    ck_assert_int_eq(pthread_mutex_unlock(&queue->lock), 0);
}

static int
queue_take(struct queue *queue, struct berth_lease *lease)
{
    (void)pthread_mutex_lock(&queue->lock);
    while (queue->count == 0 && !queue->closed)
        (void)pthread_cond_wait(&queue->changed, &queue->lock);
    const int found = queue->count > 0;
    if (found)
        *lease = queue->leases[--queue->count];
    (void)pthread_cond_broadcast(&queue->changed);
    (void)pthread_mutex_unlock(&queue->lock);
    return found;
}

static void
queue_close(struct queue *queue)
{
    (void)pthread_mutex_lock(&queue->lock);
    queue->closed = 1;
    (void)pthread_cond_broadcast(&queue->changed);
    (void)pthread_mutex_unlock(&queue->lock);
}

/** Of the one slab in use, from which ids count: berth_lease_data is the owner's call. */
static unsigned char *slab_base;

static void *
release_all(void *argument)
{
    struct releaser *self = argument;
    struct berth_lease lease;
    while (queue_take(self->queue, &lease)) {
        unsigned char *mark = slab_base + (size_t)lease.buffer * 4096 + lease.offset;
        if (*mark != (unsigned char)lease.generation)
            abort();
        *mark = 0; /* the owner looks for this when it has the buffer again */
        if (berth_release(self->pool, lease) != 0)
            abort();
        self->released++;
    }
    return NULL;
}

/** The owner's side of one round: a buffer, with a share for each releaser. */
static void
hand_out(struct berth_pool *pool, struct queue *queues)
{
    struct berth_lease whole;
    while (berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &whole) != 0) {
        (void)berth_pool_turn(pool);
        (void)sched_yield();
    }
    unsigned char *data = berth_lease_data(pool, whole);
    for (unsigned i = 0; i < RELEASERS; i++) {
        struct berth_lease part;
        ck_assert_int_eq(berth_slice(pool, whole, i * 64, 1, &part), 0);
        data[i * 64] = (unsigned char)whole.generation;
        queue_put(&queues[i], part);
    }
    ck_assert_int_eq(berth_release(pool, whole), 0);
}

START_TEST(releases_from_other_threads_arrive)
{
    struct berth_pool *pool = test_pool_make(SLAB_BYTES);
    struct berth_slab slab;
    ck_assert_int_eq(berth_release(pool, test_pool_get(pool, BERTH_CLASS_4K)), 0);
    ck_assert_int_eq(berth_pool_slab(pool, 0, &slab), 0);
    slab_base = slab.data;

    static struct queue queues[RELEASERS];
    struct releaser releasers[RELEASERS];
    for (unsigned i = 0; i < RELEASERS; i++) {
        ck_assert_int_eq(pthread_mutex_init(&queues[i].lock, NULL), 0);
        ck_assert_int_eq(pthread_cond_init(&queues[i].changed, NULL), 0);
        releasers[i] = (struct releaser){.pool = pool, .queue = &queues[i]};
        ck_assert_int_eq(pthread_create(&releasers[i].thread, NULL, release_all, &releasers[i]), 0);
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        hand_out(pool, queues);
        if (round % 16 == 0)
            (void)berth_pool_turn(pool);
    }
    uint64_t released = 0;
    for (unsigned i = 0; i < RELEASERS; i++) {
        queue_close(&queues[i]);
        ck_assert_int_eq(pthread_join(releasers[i].thread, NULL), 0);
        released += releasers[i].released;
    }
    ck_assert_uint_eq(released, (uint64_t)RELEASERS * ROUNDS);
    (void)berth_pool_turn(pool);
    const struct berth_pool_stats stats = test_pool_stats(pool);
    ck_assert_uint_eq(stats.remote_releases, released);
    ck_assert_uint_eq(stats.illegal, 0);
    if (!TEST_CHECKS) /* there, free buffers hold a pattern, and may not be looked at */
        for (unsigned i = 0; i < 512 * RELEASERS; i++)
            ck_assert_uint_eq(slab_base[i / RELEASERS * 4096 + i % RELEASERS * 64], 0);
    test_pool_end(pool);
}
END_TEST

/* ---- one release at a time, with the answer looked at -------------------------------------- */

struct one {
    struct berth_pool *pool;
    struct berth_lease lease;
    int answer;
};

static void *
release_one(void *argument)
{
    struct one *one = argument;
    one->answer = berth_release(one->pool, one->lease);
    return NULL;
}

static int
release_elsewhere(struct berth_pool *pool, struct berth_lease lease)
{
    struct one one = {.pool = pool, .lease = lease, .answer = 99};
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, release_one, &one), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    return one.answer;
}

START_TEST(buffer_comes_back_in_the_turn)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_int_eq(berth_lease_share(pool, lease), 0);
    ck_assert_int_eq(release_elsewhere(pool, lease), 0);
    ck_assert_int_eq(release_elsewhere(pool, lease), 0);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, 1);
    ck_assert_uint_eq(berth_pool_turn(pool), 1);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, 0);
    ck_assert_uint_eq(test_pool_stats(pool).remote_releases, 2);
    ck_assert_uint_eq(berth_pool_turn(pool), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(destroy_takes_releases_in)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_int_eq(release_elsewhere(pool, lease), 0);
    ck_assert_int_eq(berth_pool_destroy(pool), 0);
}
END_TEST

START_TEST(release_while_borrowed_waits_for_settle)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_span span = test_pool_receive(pool, BERTH_CLASS_4K, 10, 0);
    struct berth_lease lease;
    ck_assert_int_eq(berth_retain(pool, &span, 0, 10, 0, &lease), 0);
    ck_assert_int_eq(release_elsewhere(pool, lease), 0);
    ck_assert_uint_eq(berth_pool_turn(pool), 0);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 1);
    ck_assert_int_eq(berth_pool_unpost(pool, span.buffer), 0);
    test_pool_end(pool);
}
END_TEST

static void
note_free(void *data, size_t length, void *context)
{
    ck_assert_uint_eq(length, 4);
    ck_assert_int_eq(pthread_equal(*(pthread_t *)context, pthread_self()), 1);
    ((char *)data)[0] = 'F';
}

START_TEST(wrapped_memory_is_freed_by_the_owner)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    char text[] = "text";
    pthread_t owner = pthread_self();
    struct berth_lease lease;
    ck_assert_int_eq(berth_wrap(pool, text, 4, note_free, &owner, &lease), 0);
    ck_assert_int_eq(release_elsewhere(pool, lease), 0);
    ck_assert_int_eq(text[0], 't');
    ck_assert_uint_eq(berth_pool_turn(pool), 1);
    ck_assert_int_eq(text[0], 'F');
    test_pool_end(pool);
}
END_TEST

static void
release_twice_elsewhere(void)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_4K);
    for (int i = 0; i < 2; i++)
        if (release_elsewhere(pool, lease) != 0)
            return;
    (void)berth_pool_turn(pool);
}

START_TEST(stale_releases_from_elsewhere_are_counted)
{
    if (TEST_CHECKS) {
        int status = 0;
        TEST_STATUS_OF(status, release_twice_elsewhere());
        ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        return;
    }
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease old = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_int_eq(berth_release(pool, old), 0);
    ck_assert_int_eq(release_elsewhere(pool, old), -ESTALE);
    struct berth_lease bad = old;
    bad.buffer = UINT32_MAX;
    ck_assert_int_eq(release_elsewhere(pool, bad), -ESTALE);
    ck_assert_int_eq(release_elsewhere(pool, (struct berth_lease){0}), -ESTALE);
    ck_assert_uint_eq(test_pool_stats(pool).illegal, 3);

    /* Twice before the owner has looked: it finds out when it counts. */
    const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_int_eq(release_elsewhere(pool, lease), 0);
    ck_assert_int_eq(release_elsewhere(pool, lease), 0);
    ck_assert_uint_eq(berth_pool_turn(pool), 1);
    ck_assert_uint_eq(test_pool_stats(pool).illegal, 4);
    ck_assert_int_eq(release_elsewhere(pool, lease), -ESTALE);

    /* And one that the kernel still reads is not given away. */
    const struct berth_lease sent = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_int_eq(berth_lease_send_begin(pool, sent), 0);
    ck_assert_int_eq(release_elsewhere(pool, sent), 0);
    ck_assert_uint_eq(berth_pool_turn(pool), 0);
    ck_assert_uint_eq(test_pool_stats(pool).illegal, 6);
    ck_assert_ptr_nonnull(berth_lease_data(pool, sent));
    ck_assert_int_eq(berth_lease_send_end(pool, sent), 0);
    ck_assert_int_eq(berth_release(pool, sent), 0);
    test_pool_end(pool);
}
END_TEST

static void *__attribute__((unused)) get_one(void *argument)
{
    struct one *one = argument;
    one->answer = berth_pool_get(one->pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &one->lease);
    return NULL;
}

static void __attribute__((unused)) get_elsewhere(void)
{
    struct one one = {.pool = test_pool_make(8 * MIB)};
    pthread_t thread;
    if (pthread_create(&thread, NULL, get_one, &one) == 0)
        (void)pthread_join(thread, NULL);
}

START_TEST(checks_see_a_wrong_thread)
{
    int status = 0;
    TEST_STATUS_OF(status, get_elsewhere());
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}
END_TEST

/* ---- a pool that moves --------------------------------------------------------------------- */

static void *
adopt_and_release(void *argument)
{
    struct one *one = argument;
    berth_pool_adopt(one->pool);
    one->answer = berth_release(one->pool, one->lease);
    if (test_pool_stats(one->pool).outstanding != 0)
        one->answer = 1;
    return NULL;
}

START_TEST(adopted_pool_has_a_new_owner)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct one one = {.pool = pool, .lease = test_pool_get(pool, BERTH_CLASS_4K), .answer = 99};
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, adopt_and_release, &one), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(one.answer, 0);
    berth_pool_adopt(pool);
    test_pool_end(pool);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pool threads");
    TEST_ADD(suite, releases_from_other_threads_arrive);
    TEST_ADD(suite, buffer_comes_back_in_the_turn);
    TEST_ADD(suite, destroy_takes_releases_in);
    TEST_ADD(suite, release_while_borrowed_waits_for_settle);
    TEST_ADD(suite, wrapped_memory_is_freed_by_the_owner);
    TEST_ADD(suite, stale_releases_from_elsewhere_are_counted);
    if (TEST_CHECKS)
        TEST_ADD(suite, checks_see_a_wrong_thread);
    TEST_ADD(suite, adopted_pool_has_a_new_owner);
    return test_run(suite);
}
