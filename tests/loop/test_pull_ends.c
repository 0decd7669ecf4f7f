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
    RIG_ADD(suite, it_waits_for_a_buffer_like_others);
    RIG_ADD(suite, timeouts_and_parking_go_on);
    RIG_ADD(suite, a_loop_is_destroyed_with_it);
    RIG_ADD_COUNTED(suite, direct_descriptors_cannot, 1);
    return test_run(suite);
}
