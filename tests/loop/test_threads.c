/*
 * Loops in threads: buffers that come back from elsewhere while a loop runs, and one address for
 * several loops.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ways.h"

#include <poll.h>
#include <pthread.h>

#include "berth/loop_cross.h"

/* In other threads Check's assertions do not work. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, #condition);             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* ---- leases released by another thread ------------------------------------------------------ */

#define STREAM_BYTES (8u << 20)
#define KEPT_MAX 4096

/** The loop's thread keeps everything that comes; the other one compares it and gives it back. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t more;
    struct berth_lease leases[KEPT_MAX];
    unsigned first, count;
    struct berth_pool *pool;
    uint64_t compared;
    int done;
} kept = {.mutex = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

static void
keep(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)bytes;
    MUST(pthread_mutex_lock(&kept.mutex) == 0);
    for (unsigned i = 0; i < n; i++) {
        struct berth_lease lease;
        MUST(kept.count < KEPT_MAX);
        MUST(berth_retain(berth_loop_pool(berth_conn_loop(conn)), &spans[i], 0, spans[i].length, 0,
                          &lease) == 0);
        kept.leases[(kept.first + kept.count++) % KEPT_MAX] = lease;
    }
    MUST(pthread_cond_signal(&kept.more) == 0);
    MUST(pthread_mutex_unlock(&kept.mutex) == 0);
}

static void
keep_close(struct berth_conn *conn, int reason)
{
    MUST(reason == 0);
    MUST(berth_loop_stop(berth_conn_loop(conn)) == 0);
}

static void *
give_back(void *arg)
{
    (void)arg;
    for (;;) {
        MUST(pthread_mutex_lock(&kept.mutex) == 0);
        while (kept.count == 0 && !kept.done)
            MUST(pthread_cond_wait(&kept.more, &kept.mutex) == 0);
        if (kept.count == 0) {
            MUST(pthread_mutex_unlock(&kept.mutex) == 0);
            return NULL;
        }
        const struct berth_lease lease = kept.leases[kept.first];
        kept.first = (kept.first + 1) % KEPT_MAX;
        kept.count--;
        MUST(pthread_mutex_unlock(&kept.mutex) == 0);
        MUST(ways_same(berth_lease_data(kept.pool, lease), lease.length, 1, kept.compared));
        kept.compared += lease.length;
        MUST(berth_release(kept.pool, lease) == 0);
    }
}

static void *
send_stream(void *arg)
{
    const int client = *(int *)arg;
    for (size_t sent = 0; sent < STREAM_BYTES;) {
        const size_t left = STREAM_BYTES - sent, length = left < 50000 ? left : 50000;
        struct pollfd room = {.fd = client, .events = POLLOUT};
        MUST(poll(&room, 1, 60000) == 1);
        const ssize_t now =
            send(client, ways_bytes(1, sent, length), length, MSG_NOSIGNAL | MSG_DONTWAIT);
        MUST(now > 0 || errno == EAGAIN);
        sent += now > 0 ? (size_t)now : 0;
    }
    MUST(close(client) == 0);
    return NULL;
}

START_TEST(leases_come_back_from_another_thread)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers keeping = {.data = keep, .close = keep_close};
    struct rig rig;
    struct berth_loop_options options;
    struct berth_pool_options pool;
    pthread_t releaser, sender;
    /* Less than a tenth of the stream: it cannot end unless buffers come back. */
    berth_pool_options_init(&pool);
    pool.bytes_max = 8 << 20;
    for (int i = 0; i < BERTH_CLASS_COUNT; i++)
        pool.class_bytes_max[i] = 2 << 20;
    pool.class_bytes_max[BERTH_CLASS_64K] = 0;
    rig_options(&options, engine, &pool);
    options.receive_buffers = 64;
    rig_begin(&rig, &options, &keeping, NULL);
    (void)ways_bytes(1, 0, 1);
    kept.pool = berth_loop_pool(rig.loop);
    kept.first = kept.count = 0;
    kept.compared = 0;
    kept.done = 0;
    int client = rig_client(&rig);
    ck_assert_int_eq(pthread_create(&releaser, NULL, give_back, NULL), 0);
    ck_assert_int_eq(pthread_create(&sender, NULL, send_stream, &client), 0);
    ck_assert_int_eq(berth_loop_run(rig.loop), 0);
    ck_assert_int_eq(pthread_join(sender, NULL), 0);
    ck_assert_int_eq(pthread_mutex_lock(&kept.mutex), 0);
    kept.done = 1;
    ck_assert_int_eq(pthread_cond_signal(&kept.more), 0);
    ck_assert_int_eq(pthread_mutex_unlock(&kept.mutex), 0);
    ck_assert_int_eq(pthread_join(releaser, NULL), 0);
    ck_assert_uint_eq(kept.compared, STREAM_BYTES);
    (void)rig_turn(&rig, 0); /* takes the last of them in */
    struct berth_pool_stats stats;
    berth_pool_stats_get(kept.pool, &stats);
    ck_assert_uint_gt(stats.remote_releases, 0);
    ck_assert_uint_eq(stats.illegal, 0);
    ck_assert_uint_eq(ways_held(&rig), 0);
    rig_end(&rig);
}
END_TEST

/* ---- one address ---------------------------------------------------------------------------- */

static int
count_open(struct berth_conn *conn, void *ctx)
{
    (void)conn;
    ++*(unsigned *)ctx;
    return 0;
}

START_TEST(loops_share_an_address)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers counting = {.open = count_open, .data = rig_echo};
    struct rig rigs[2];
    struct berth_loop_options options;
    char address[BERTH_ADDRESS_TEXT_MAX];
    unsigned opened[2] = {0, 0};
    int clients[64];
    rig_options(&options, engine, NULL);
    options.reuse_port = 1;
    rig_begin(&rigs[0], &options, &counting, &opened[0]);
    ck_assert_int_eq(berth_listener_address(rigs[0].listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_loop_create(&rigs[1].loop, &options), 0);
    ck_assert_int_eq(berth_listen(rigs[1].loop, address, &counting, &opened[1], &rigs[1].listener),
                     0);
    for (unsigned i = 0; i < 64; i++) {
        clients[i] = rig_client(&rigs[i % 2]); /* the same address */
        for (int turn = 0; turn < 100 && opened[0] + opened[1] <= i; turn++)
            for (int r = 0; r < 2; r++)
                (void)rig_turn(&rigs[r], 0);
    }
    ck_assert_uint_eq(opened[0] + opened[1], 64);
    ck_assert_uint_gt(opened[0], 0); /* the kernel deals by a hash: 64 times the same is 2^-63 */
    ck_assert_uint_gt(opened[1], 0);
    for (unsigned i = 0; i < 64; i++)
        ck_assert_int_eq(close(clients[i]), 0);
    RIG_UNTIL(&rigs[1], berth_loop_conns(rigs[1].loop) == 0, 200);
    ck_assert_int_eq(berth_loop_destroy(rigs[1].loop), 0);
    RIG_UNTIL(&rigs[0], berth_loop_conns(rigs[0].loop) == 0, 200);

    /* Both must say so. */
    options.reuse_port = 0;
    ck_assert_int_eq(berth_loop_create(&rigs[1].loop, &options), 0);
    ck_assert_int_eq(berth_listen(rigs[1].loop, address, &counting, NULL, NULL), -EADDRINUSE);
    ck_assert_int_eq(berth_loop_destroy(rigs[1].loop), 0);
    rig_end(&rigs[0]);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loops in threads");
    RIG_ADD(suite, leases_come_back_from_another_thread);
    RIG_ADD(suite, loops_share_an_address);
    return test_run(suite);
}
