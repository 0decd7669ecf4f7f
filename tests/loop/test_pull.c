/*
 * Pulled receives: a connection whose bytes are fetched by a call in place of a posted receive is
 * like any other. No byte is lost or reordered when it begins or ends, wherever that falls; and
 * credit, holding and pausing are respected.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/pulling.h"

START_TEST(everything_goes_through_the_puller)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    turn_some(2);
    start();
    ck_assert_int_eq(conn_pull_start(w.rig.loop, as_slot(w.conn), &test_puller, &w), -EALREADY);
    pass(300000);
    ck_assert_uint_eq(w.pulled, 300000);
    struct berth_copies copies;
    berth_loop_copies_get(w.rig.loop, &copies);
    ck_assert_uint_eq(copies.received, 300000);
    ck_assert_uint_eq(copies.received_mapped, 300000);
    ck_assert_uint_eq(copies.received_kernel, 0);
    ck_assert_int_eq(shutdown(w.client, SHUT_WR), 0);
    RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
    ck_assert_uint_eq(w.ends, 1);
    ck_assert_uint_eq(w.overs, 1);
    finish();
}
END_TEST

START_TEST(an_end_behind_bytes_is_told)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    turn_some(2);
    start();
    turn_some(2);
    feed(100);
    ck_assert_int_eq(shutdown(w.client, SHUT_WR), 0);
    RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
    ck_assert_uint_eq(w.received, 100);
    ck_assert_uint_eq(w.ends, 1);
    ck_assert_int_eq(w.reason, 0);
    finish();
}
END_TEST

START_TEST(switching_loses_and_reorders_nothing)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    /* From inside callbacks, at every distance. */
    for (w.toggle = 1; w.toggle < 8; w.toggle++)
        pass(w.received + 1500000);
    w.toggle = 0;
    const uint64_t by_pull = w.pulled;
    ck_assert_uint_gt(by_pull, 0);
    ck_assert_uint_lt(by_pull, w.received);
    /* And between turns, with and without bytes waiting. */
    for (unsigned i = 0; i < 300; i++) {
        if (conn_pulls(w.rig.loop, as_slot(w.conn)))
            stop();
        else
            start();
        feed(w.sent + i * 97 % 20000);
        for (unsigned turns = i % 4; turns > 0; turns--)
            (void)rig_turn(&w.rig, 0);
    }
    pass(w.sent);
    stop();
    turn_some(2);
    const uint64_t pulled = w.pulled;
    pass(w.sent + 200000);
    ck_assert_uint_eq(w.pulled, pulled);
    ck_assert_uint_eq(w.overs, 0);
    finish();
}
END_TEST

START_TEST(starting_and_stopping_at_once_changes_nothing)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    for (unsigned i = 0; i < 20; i++) {
        start();
        stop();
        if (i % 3 == 0)
            turn_some(1);
        start();
        turn_some(i % 2);
        stop();
        pass(w.received + 5000);
    }
    finish();
}
END_TEST

START_TEST(credit_is_kept_exactly)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    start();
    turn_some(2);
    ck_assert_int_eq(berth_conn_credit(w.conn, 1000), 0);
    feed(100000);
    turn_some(10);
    ck_assert_uint_eq(w.received, 1000);
    ck_assert_int_eq(berth_conn_credit(w.conn, 5000), 0);
    turn_some(10);
    ck_assert_uint_eq(w.received, 6000);
    ck_assert_int_eq(berth_conn_credit(w.conn, BERTH_CREDIT_UNLIMITED), 0);
    pass(100000);
    ck_assert_uint_eq(w.pulled, 100000);
    finish();
}
END_TEST

START_TEST(nothing_is_pulled_while_held)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    struct berth_loop *loop = w.rig.loop;
    start();
    turn_some(2);
    conn_pull_hold(loop, as_slot(w.conn), 1);
    feed(50000);
    turn_some(10);
    ck_assert_uint_eq(w.pulls, 0);
    /* Credit does not override it, and it does not override credit. */
    ck_assert_int_eq(berth_conn_credit(w.conn, BERTH_CREDIT_UNLIMITED), 0);
    turn_some(10);
    ck_assert_uint_eq(w.pulls, 0);
    ck_assert_int_eq(berth_conn_credit(w.conn, 700), 0);
    conn_pull_hold(loop, as_slot(w.conn), 0);
    turn_some(10);
    ck_assert_uint_eq(w.received, 700);
    conn_pull_hold(loop, as_slot(w.conn), 1);
    ck_assert_int_eq(berth_conn_credit(w.conn, BERTH_CREDIT_UNLIMITED), 0);
    conn_pull_hold(loop, as_slot(w.conn), 0);
    ck_assert_uint_eq(as_slot(w.conn)->state & CONN_CREDIT, 0);
    pass(50000);
    /* Whoever stops pulling is not held any more. */
    conn_pull_hold(loop, as_slot(w.conn), 1);
    stop();
    pass(60000);
    ck_assert_uint_eq(w.pulled, 50000);
    finish();
}
END_TEST

START_TEST(a_full_send_queue_pauses_it)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.send_high_bytes = 40000;
    options.send_low_bytes = 10000;
    if (options.direct_descriptors)
        return;
    begin_with(&options);
    w.echo = 1;
    start();
    /* Until the client's socket, which nobody reads, is full, and the queue with it. */
    unsigned pulls = 0, quiet = 0;
    for (unsigned i = 0; i < 4000 && quiet < 20; i++) {
        feed(w.sent + 100000);
        (void)rig_turn(&w.rig, 1);
        quiet = w.pulls == pulls ? quiet + 1 : 0;
        pulls = w.pulls;
    }
    ck_assert_uint_eq(quiet, 20);
    ck_assert(as_slot(w.conn)->state & CONN_HIGH);
    ck_assert_int_gt(berth_conn_queued(w.conn), 0);
    unsigned char piece[65536];
    uint64_t read = 0;
    for (unsigned turns = 0; read < w.sent; turns++) {
        ck_assert_uint_lt(turns, 20000);
        const intptr_t got = rig_read(w.client, piece, sizeof(piece));
        unsigned wrong = 0;
        for (intptr_t i = 0; i < got; i++)
            wrong += piece[i] != byte_at(read++);
        ck_assert_uint_eq(wrong, 0);
        (void)rig_turn(&w.rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    ck_assert_uint_eq(w.pulled, w.sent);
    finish();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pull");
    RIG_ADD(suite, everything_goes_through_the_puller);
    RIG_ADD(suite, an_end_behind_bytes_is_told);
    RIG_ADD(suite, switching_loses_and_reorders_nothing);
    RIG_ADD(suite, starting_and_stopping_at_once_changes_nothing);
    RIG_ADD(suite, credit_is_kept_exactly);
    RIG_ADD(suite, nothing_is_pulled_while_held);
    RIG_ADD(suite, a_full_send_queue_pauses_it);
    return test_run(suite);
}
