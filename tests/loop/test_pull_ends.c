/*
 * Pulled receives: resets, aborts, leaving the loop and its destruction end them, and the puller is
 * told once that it is over; want of buffers, timeouts and parking are as with any connection.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/pulling.h"

START_TEST(resets_and_aborts_end_it)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned way = 0; way < 4; way++) {
        if (!begin(engine))
            return;
        if (way % 2 == 0)
            turn_some(2);
        start();
        if (way % 2 == 0)
            turn_some(2);
        feed(2000);
        if (way < 2) {
            rig_reset(w.client);
            w.client = -1;
        } else {
            ck_assert_int_eq(berth_conn_abort(w.conn), 0);
        }
        RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
        ck_assert_int_eq(w.reason, way < 2 ? -ECONNRESET : -ECANCELED);
        ck_assert_uint_eq(w.overs, 1);
        finish();
    }
}
END_TEST

START_TEST(a_reset_while_held_is_no_busy_loop)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    start();
    turn_some(2);
    conn_pull_hold(w.rig.loop, as_slot(w.conn), 1);
    turn_some(2);
    rig_reset(w.client);
    w.client = -1;
    turn_some(20);
    const uint64_t before = rig_stats(&w.rig).syscalls;
    (void)rig_turn(&w.rig, RIG_TURN_MS);
    (void)rig_turn(&w.rig, RIG_TURN_MS);
    ck_assert_uint_le(rig_stats(&w.rig).syscalls - before, 8);
    if (w.conn != NULL) {
        conn_pull_hold(w.rig.loop, as_slot(w.conn), 0);
        RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
    }
    ck_assert_int_eq(w.reason, -ECONNRESET);
    finish();
}
END_TEST

static void
on_detached(struct berth_conn *conn, int fd, void *arg)
{
    (void)conn, (void)arg;
    ck_assert_int_ge(fd, 0);
    w.detached_fd = fd;
    w.conn = NULL;
}

START_TEST(a_connection_leaves_while_pulled)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    start();
    pass(10000);
    w.detached_fd = -1;
    ck_assert_int_eq(berth_conn_detach(w.conn, on_detached, NULL), 0);
    RIG_UNTIL(&w.rig, w.detached_fd >= 0, TURNS);
    ck_assert_uint_eq(w.overs, 1);
    feed(10100);
    unsigned char rest[200];
    ck_assert_int_eq(recv(w.detached_fd, rest, sizeof(rest), 0), 100);
    for (unsigned i = 0; i < 100; i++)
        ck_assert_uint_eq(rest[i], byte_at(10000 + i));
    ck_assert_int_eq(close(w.detached_fd), 0);
    finish();
}
END_TEST

/* ---- in the data callback, while the span is lent -------------------------------------------- */

enum deed { CLOSE, ABORT, DETACH, MOVE, STOP };

static struct {
    enum deed deed;
    uint64_t received; /**< when it was done; 0: not yet */
    struct berth_loop *to;
    unsigned moves;
    int error;
} plan;

static void
on_moved(struct berth_loop *to, berth_token token, int error, void *ctx)
{
    (void)to, (void)token, (void)ctx;
    plan.moves++;
    plan.error = error;
}

static void
do_it(struct berth_conn *conn)
{
    if (plan.received > 0 && plan.deed <= ABORT)
        ck_abort_msg("called again");
    if (plan.received > 0 || w.received < 10000)
        return;
    plan.received = w.received;
    if (plan.deed == CLOSE)
        ck_assert_int_eq(berth_conn_close(conn), 0);
    if (plan.deed == ABORT)
        ck_assert_int_eq(berth_conn_abort(conn), 0);
    if (plan.deed == DETACH)
        ck_assert_int_eq(berth_conn_detach(conn, on_detached, NULL), 0);
    if (plan.deed == MOVE)
        ck_assert_int_eq(berth_conn_move(conn, plan.to, &handlers, NULL, on_moved), 0);
    if (plan.deed == STOP)
        stop();
}

/** Bytes follow at once, which nobody must be told twice, or not at all. */
static int
begin_deed(const char *engine, enum deed deed, int keep)
{
    if (!begin(engine))
        return 0;
    memset(&plan, 0, sizeof(plan));
    plan.deed = deed;
    start();
    w.keep = keep;
    w.act = do_it;
    w.detached_fd = -1;
    feed(60000);
    RIG_UNTIL(&w.rig, plan.received > 0, TURNS);
    return 1;
}

static void
release_kept(void)
{
    struct berth_pool *pool = berth_loop_pool(w.rig.loop);
    uint64_t position = 0;
    for (unsigned i = 0; i < w.kept_count; i++) {
        const unsigned char *data = berth_lease_data(pool, w.kept[i]);
        for (uint32_t b = 0; b < w.kept[i].length; b++)
            ck_assert_uint_eq(data[b], byte_at(position++));
        ck_assert_int_eq(berth_release(pool, w.kept[i]), 0);
    }
    w.kept_count = 0;
}

START_TEST(ended_in_its_callback)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int way = 0; way < 4; way++) {
        if (!begin_deed(engine, way % 2 ? ABORT : CLOSE, way / 2))
            return;
        RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
        ck_assert_int_eq(w.reason, way % 2 ? -ECANCELED : 0);
        ck_assert_uint_eq(w.received, plan.received);
        ck_assert_uint_eq(w.overs, 1);
        release_kept();
        finish();
    }
}
END_TEST

START_TEST(detached_in_its_callback)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int keep = 0; keep < 2; keep++) {
        if (!begin_deed(engine, DETACH, keep))
            return;
        RIG_UNTIL(&w.rig, w.detached_fd >= 0, TURNS);
        ck_assert_uint_eq(w.overs, 1);
        ck_assert_uint_eq(w.received, plan.received);
        static unsigned char rest[60000];
        uint64_t position = plan.received;
        while (position < w.sent) {
            const ssize_t got = recv(w.detached_fd, rest, sizeof(rest), 0);
            ck_assert_int_gt(got, 0);
            for (ssize_t b = 0; b < got; b++)
                ck_assert_uint_eq(rest[b], byte_at(position++));
        }
        ck_assert_int_eq(close(w.detached_fd), 0);
        ck_assert_uint_eq(w.closes, 0);
        release_kept();
        finish();
    }
}
END_TEST

/** To a loop that may have been made for direct descriptors, too: there it is not pulled. */
START_TEST(moved_in_its_callback)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int to = 0; to < RIG_ENGINES; to++) {
        struct berth_loop_options options;
        struct berth_loop *other = NULL;
        if (!rig_has(rig_engines[to]))
            continue;
        if (!begin(engine))
            return;
        rig_options(&options, rig_engines[to], NULL);
        ck_assert_int_eq(berth_loop_create(&other, &options), 0);
        memset(&plan, 0, sizeof(plan));
        plan.deed = MOVE;
        plan.to = other;
        start();
        w.act = do_it;
        feed(60000);
        for (unsigned turns = 0; w.received < 100000; turns++) {
            ck_assert_uint_lt(turns, 20000);
            feed(100000);
            (void)rig_turn(&w.rig, 0);
            ck_assert_int_ge(berth_loop_turn(other, 1), 0);
        }
        ck_assert_uint_eq(plan.moves, 1);
        ck_assert_int_eq(plan.error, 0);
        ck_assert_uint_eq(w.overs, 1);
        ck_assert_uint_eq(w.pulled, plan.received); /* and not a byte more */
        ck_assert_uint_eq(berth_loop_conns(w.rig.loop), 0);
        ck_assert_int_eq(close(w.client), 0);
        w.client = -1;
        for (unsigned turns = 0; w.closes == 0; turns++) {
            ck_assert_uint_lt(turns, TURNS);
            ck_assert_int_ge(berth_loop_turn(other, RIG_TURN_MS), 0);
        }
        ck_assert_int_eq(berth_loop_destroy(other), 0);
        finish();
    }
}
END_TEST

START_TEST(stopped_in_its_callback)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int keep = 0; keep < 2; keep++) {
        if (!begin_deed(engine, STOP, keep))
            return;
        pass(60000);
        ck_assert_uint_eq(w.pulled, plan.received);
        ck_assert_uint_eq(w.overs, 0);
        release_kept();
        finish();
    }
}
END_TEST

START_TEST(it_waits_for_a_buffer_like_others)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_pool_options pool;
    struct berth_loop_options options;
    berth_pool_options_init(&pool);
    pool.bytes_max = 8u << 20;
    for (int i = 0; i < BERTH_CLASS_COUNT; i++)
        pool.class_bytes_max[i] = 2u << 20;
    rig_options(&options, engine, &pool);
    options.receive_buffers = 16;
    if (options.direct_descriptors)
        return;
    begin_with(&options);
    start();
    w.keep = 1;
    feed(4u << 20);
    for (unsigned i = 0; i < 4000 && !(as_slot(w.conn)->state & CONN_STARVED); i++) {
        feed(4u << 20);
        turn_some(1);
    }
    ck_assert(as_slot(w.conn)->state & CONN_STARVED);
    w.keep = 0;
    while (w.kept_count > 0)
        ck_assert_int_eq(berth_release(berth_loop_pool(w.rig.loop), w.kept[--w.kept_count]), 0);
    pass(4u << 20);
    ck_assert_uint_eq(w.pulled, w.received);
    finish();
}
END_TEST

START_TEST(timeouts_and_parking_go_on)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    /* Parked before, and while it is pulled. */
    turn_some(2);
    ck_assert_int_ge(berth_loop_park_idle(w.rig.loop, 0), 0);
    turn_some(3);
    start();
    ck_assert_int_eq(berth_loop_park_idle(w.rig.loop, 0), 0);
    turn_some(3);
    pass(5000);
    ck_assert_uint_eq(w.pulled, 5000);
    ck_assert_int_eq(berth_conn_timeout(w.conn, BERTH_TIMEOUT_READ, 20), 0);
    RIG_UNTIL(&w.rig, w.timeouts > 0, TURNS);
    /* Stopped, it is as one that was parked. */
    stop();
    pass(9000);
    ck_assert_uint_eq(w.pulled, 5000);
    finish();
}
END_TEST

START_TEST(a_loop_is_destroyed_with_it)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    start();
    turn_some(_i % 2);
    ck_assert_int_eq(close(w.client), 0);
    rig_end(&w.rig);
    ck_assert_uint_eq(w.overs, 1);
    ck_assert_uint_eq(w.closes, 1);
}
END_TEST

START_TEST(direct_descriptors_cannot)
{
    struct berth_loop_options options;
    if (!rig_has("uring-direct"))
        return;
    rig_options(&options, "uring-direct", NULL);
    begin_with(&options);
    if (w.rig.loop->direct)
        ck_assert_int_eq(conn_pull_start(w.rig.loop, as_slot(w.conn), &test_puller, &w),
                         -EOPNOTSUPP);
    finish();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pull ends");
    RIG_ADD(suite, resets_and_aborts_end_it);
    RIG_ADD(suite, a_reset_while_held_is_no_busy_loop);
    RIG_ADD(suite, a_connection_leaves_while_pulled);
    RIG_ADD(suite, ended_in_its_callback);
    RIG_ADD(suite, detached_in_its_callback);
    RIG_ADD(suite, moved_in_its_callback);
    RIG_ADD(suite, stopped_in_its_callback);
    RIG_ADD(suite, it_waits_for_a_buffer_like_others);
    RIG_ADD(suite, timeouts_and_parking_go_on);
    RIG_ADD(suite, a_loop_is_destroyed_with_it);
    RIG_ADD_COUNTED(suite, direct_descriptors_cannot, 1);
    return test_run(suite);
}
