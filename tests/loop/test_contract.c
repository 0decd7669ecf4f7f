/*
 * The callback contract: which callback comes when, that close comes exactly once per open and
 * nothing after it, and that a callback may do anything to any connection. Every case runs on every
 * engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/record.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#define MANY 64

/* ---- order ------------------------------------------------------------------------------------
 */

START_TEST(orderly_life)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    record_begin(&rig, &record, engine);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    rig_write(client, "hello", 5);
    RIG_UNTIL(&rig, record.datas == 1, TURNS);
    ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
    RIG_UNTIL(&rig, strcmp(record.events, "ode") == 0, TURNS);
    struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
    ck_assert_ptr_nonnull(conn); /* the peer has finished, we have not */
    ck_assert_int_eq(berth_send(conn, "bye", 3), 0);
    ck_assert_int_eq(berth_conn_shutdown(conn), 0);
    ck_assert_int_eq(berth_send(conn, "late", 4), -EPIPE);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_str_eq(record.events, "odec");
    ck_assert_int_eq(record.reason, 0);
    char text[8];
    ck_assert_int_eq(rig_read(client, text, sizeof(text)), 3);
    ck_assert_int_eq(rig_read(client, text, sizeof(text)), 0);
    ck_assert_ptr_null(berth_conn_find(rig.loop, record.last));
    ck_assert_int_eq(close(client), 0);
    record_end(&rig, &record);
}
END_TEST

/** We finish first: the peer sees the end of our stream, and we go on hearing it until its own. */
START_TEST(we_finish_first)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    char text[8];
    record_begin(&rig, &record, engine);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
    ck_assert_int_eq(berth_send(conn, "that", 4), 0);
    ck_assert_int_eq(berth_conn_shutdown(conn), 0);
    ck_assert_int_eq(berth_conn_shutdown(conn), -EPIPE);
    RIG_UNTIL(&rig, rig_read(client, text, 4) == 4, TURNS);
    RIG_UNTIL(&rig, rig_read(client, text, sizeof(text)) == 0, TURNS);
    for (unsigned i = 1; i <= 3; i++) {
        rig_write(client, "more", 4);
        RIG_UNTIL(&rig, record.datas == i, TURNS);
    }
    ck_assert_ptr_eq(berth_conn_find(rig.loop, record.last), conn);
    ck_assert_int_eq(close(client), 0);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_str_eq(record.events, "odddec");
    ck_assert_int_eq(record.reason, 0);
    record_end(&rig, &record);
}
END_TEST

START_TEST(without_eof_handler_it_closes)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    static const struct berth_handlers echo = {.data = rig_echo};
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &echo, NULL);
    const int client = rig_client(&rig);
    rig_write(client, "abc", 3);
    ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
    char text[8];
    intptr_t got = -EAGAIN;
    RIG_UNTIL(&rig, (got = rig_read(client, text, sizeof(text))) != -EAGAIN, TURNS);
    ck_assert_int_eq(got, 3); /* what was queued is delivered before the end */
    RIG_UNTIL(&rig, rig_read(client, text, sizeof(text)) == 0, TURNS);
    ck_assert_int_eq(close(client), 0);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, TURNS);
    rig_end(&rig);
}
END_TEST

START_TEST(reset_by_the_peer)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    record_begin(&rig, &record, engine);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    rig_reset(client);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_int_eq(record.reason, -ECONNRESET);
    ck_assert_str_eq(record.events, "oc");
    record_end(&rig, &record);
}
END_TEST

static int
refuse(struct record *record, struct berth_conn *conn)
{
    (void)record, (void)conn;
    return 1;
}

START_TEST(open_refuses)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    record_begin(&rig, &record, engine);
    record.on_open = refuse;
    const int client = rig_client(&rig);
    char byte;
    RIG_UNTIL(&rig, rig_read(client, &byte, 1) == 0, TURNS);
    ck_assert_str_eq(record.events, "o"); /* and no close */
    ck_assert_uint_eq(rig_stats(&rig).refused_open, 1);
    ck_assert_int_eq(close(client), 0);
    record_end(&rig, &record);
}
END_TEST

/* ---- callbacks that do things
 * --------------------------------------------------------------------- */

static int
close_in_open(struct record *record, struct berth_conn *conn)
{
    (void)record;
    ck_assert_int_eq(berth_send(conn, "full", 4), 0);
    ck_assert_int_eq(berth_conn_close(conn), 0);
    return 0;
}

START_TEST(close_inside_open)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    record_begin(&rig, &record, engine);
    record.on_open = close_in_open;
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    char text[8];
    ck_assert_int_eq(rig_read(client, text, sizeof(text)), 4);
    RIG_UNTIL(&rig, rig_read(client, text, sizeof(text)) == 0, 1);
    ck_assert_str_eq(record.events, "oc");
    ck_assert_int_eq(close(client), 0);
    record_end(&rig, &record);
}
END_TEST

static void
abort_self(struct record *record, struct berth_conn *conn)
{
    (void)record;
    ck_assert_int_eq(berth_send(conn, "dropped", 7), 0);
    ck_assert_int_eq(berth_conn_abort(conn), 0);
    ck_assert_int_eq(berth_conn_abort(conn), -EALREADY);
    ck_assert_int_eq(berth_send(conn, "x", 1), -EPIPE);
    ck_assert_int_eq(berth_loop_turn(record->rig->loop, 0), -EBUSY);
    ck_assert_int_eq(berth_loop_run(record->rig->loop), -EBUSY);
    ck_assert_int_eq(berth_loop_destroy(record->rig->loop), -EBUSY);
}

START_TEST(abort_inside_data)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    record_begin(&rig, &record, engine);
    record.on_data = abort_self;
    const int client = rig_client(&rig);
    rig_write(client, "x", 1);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_int_eq(record.reason, -ECANCELED);
    char byte;
    intptr_t got = -EAGAIN;
    RIG_UNTIL(&rig, (got = rig_read(client, &byte, 1)) != -EAGAIN, TURNS);
    ck_assert_int_eq(got, -ECONNRESET);
    ck_assert_int_eq(close(client), 0);
    record_end(&rig, &record);
}
END_TEST

/** Closes every connection of the loop, one way or the other, its own included. */
static void
close_all(struct record *record, struct berth_conn *conn)
{
    struct berth_table *table = berth_loop_table(record->rig->loop);
    (void)conn;
    BERTH_TABLE_EACH_LIVE (table, index) {
        const berth_token token = berth_slot_token(berth_table_slot(table, index), 0);
        struct berth_conn *other = berth_conn_find(record->rig->loop, token);
        if (other == NULL)
            continue;
        const int error = index % 2 ? berth_conn_close(other) : berth_conn_abort(other);
        ck_assert(error == 0 || error == -EALREADY);
    }
    berth_listener_close(record->rig->listener);
    record->rig->listener = NULL;
    record->on_data = NULL;
}

START_TEST(one_closes_all_and_the_listener)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int clients[MANY];
    record_begin(&rig, &record, engine);
    for (unsigned i = 0; i < MANY; i++)
        clients[i] = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == MANY, TURNS);
    record.on_data = close_all;
    for (unsigned i = 0; i < MANY; i++)
        rig_write(clients[i], "all of you", 10); /* all are ready in the same batch */
    RIG_UNTIL(&rig, record.closes == MANY, TURNS);
    ck_assert_uint_eq(record.datas, 1); /* nothing was delivered to a closed one */
    for (unsigned i = 0; i < MANY; i++)
        ck_assert_int_eq(close(clients[i]), 0);
    record_end(&rig, &record);
}
END_TEST

START_TEST(payload_and_cold_are_new_each_time)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.cold_bytes = 200;
    memset(&record, 0, sizeof(record));
    record.rig = &rig;
    rig_begin(&rig, &options, &recording, &record);
    static const unsigned char zeroes[200];
    for (unsigned round = 1; round <= 5; round++) {
        const int client = rig_client(&rig);
        RIG_UNTIL(&rig, record.opens == round, TURNS);
        struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
        ck_assert_mem_eq(berth_conn_payload(conn), zeroes, BERTH_CONN_PAYLOAD_BYTES);
        ck_assert_mem_eq(berth_conn_cold(conn), zeroes, 200);
        memset(berth_conn_payload(conn), 0xee, BERTH_CONN_PAYLOAD_BYTES);
        memset(berth_conn_cold(conn), 0xee, 200);
        ck_assert_int_eq(close(client), 0);
        RIG_UNTIL(&rig, record.events[record.length - 1] == 'e', TURNS);
        ck_assert_int_eq(berth_conn_close(conn), 0);
        RIG_UNTIL(&rig, record.closes == round, TURNS);
    }
    record_end(&rig, &record);
}
END_TEST

/* ---- stopping and destroying
 * ---------------------------------------------------------------------- */

static struct berth_loop *to_stop;

static void
on_alarm(int number)
{
    (void)number;
    (void)berth_loop_stop(to_stop);
}

static void *
stop_it(void *loop)
{
    (void)berth_loop_stop(loop);
    return NULL;
}

START_TEST(stop_from_a_signal_and_a_thread)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    record_begin(&rig, &record, engine);
    ck_assert_int_eq(berth_loop_stop(rig.loop), 0);
    ck_assert_int_eq(berth_loop_run(rig.loop), 0); /* before it runs: it returns at once */

    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, stop_it, rig.loop), 0);
    ck_assert_int_eq(berth_loop_run(rig.loop), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);

    to_stop = rig.loop;
    const struct sigaction action = {.sa_handler = on_alarm};
    const struct itimerval soon = {.it_value = {.tv_usec = 20000}};
    ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
    ck_assert_int_eq(setitimer(ITIMER_REAL, &soon, NULL), 0);
    ck_assert_int_eq(berth_loop_run(rig.loop), 0);
    record_end(&rig, &record);
}
END_TEST

START_TEST(destroy_at_every_stage)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const char filler[200000];
    for (int stage = 0; stage < 5; stage++) {
        struct rig rig;
        struct record record;
        record_begin(&rig, &record, engine);
        int client = -1;
        if (stage >= 1)
            client = rig_client(&rig);  /* waiting to be accepted */
        rig.descriptors += client >= 0; /* it outlives the loop */
        if (stage >= 2)
            RIG_UNTIL(&rig, record.opens == 1, TURNS);
        if (stage >= 3) {
            struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
            for (unsigned i = 0; i < 20; i++)
                (void)berth_send(conn, filler, sizeof(filler)); /* more than the socket takes */
        }
        if (stage >= 4)
            (void)rig_turn(&rig, 0);
        rig_end(&rig);
        ck_assert_uint_eq(record.opens, record.closes);
        if (record.closes > 0)
            ck_assert_int_eq(record.reason, -ECANCELED);
        if (client >= 0)
            ck_assert_int_eq(close(client), 0);
    }
}
END_TEST

START_TEST(child_of_fork_is_refused)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int skipped;
    record_begin(&rig, &record, engine);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    RIG_IN_CHILD(skipped, {
        RIG_MUST(berth_loop_turn(rig.loop, 0) == -ECHILD);
        RIG_MUST(berth_loop_run(rig.loop) == -ECHILD);
        RIG_MUST(berth_loop_destroy(rig.loop) == -ECHILD);
    });
    ck_assert(!skipped);
    rig_write(client, "still here", 10);
    RIG_UNTIL(&rig, record.datas == 1, TURNS);
    ck_assert_int_eq(close(client), 0);
    RIG_UNTIL(&rig, strchr(record.events, 'e') != NULL, TURNS);
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, record.last)), 0);
    record_end(&rig, &record);
}
END_TEST

/* ---- ghosts
 * ---------------------------------------------------------------------------------------- */

START_TEST(duplicate_of_a_closed_descriptor_does_not_spin)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    record_begin(&rig, &record, engine);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
    const int ghost = rig_conn_fd(conn); /* keeps the socket open behind the loop's back */
    ck_assert_int_eq(berth_conn_close(conn), 0);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    (void)send(client, "into the void", 13, MSG_NOSIGNAL);
    unsigned handled = 0;
    for (unsigned i = 0; i < 50; i++)
        handled += (unsigned)rig_turn(&rig, 1);
    ck_assert_uint_lt(handled, 25);
    ck_assert_uint_eq(record.datas, 0);
    ck_assert_int_eq(close(ghost), 0);
    ck_assert_int_eq(close(client), 0);
    record_end(&rig, &record);
}
END_TEST

/** Whoever the kernel has connected already is not let in by a listener that has been closed. */
START_TEST(closed_with_someone_at_the_door)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    char byte;
    record_begin(&rig, &record, engine);
    (void)rig_turn(&rig, 0);
    const int late = rig_client(&rig);
    berth_listener_close(rig.listener);
    RIG_UNTIL(&rig, rig_read(late, &byte, 1) != -EAGAIN, TURNS);
    ck_assert_uint_eq(record.length, 0);
    ck_assert_int_eq(close(late), 0);
    record_end(&rig, &record);
}
END_TEST

static Suite *
contract_suite(void)
{
    Suite *suite = suite_create("contract");
    RIG_ADD(suite, orderly_life);
    RIG_ADD(suite, without_eof_handler_it_closes);
    RIG_ADD(suite, reset_by_the_peer);
    RIG_ADD(suite, we_finish_first);
    RIG_ADD(suite, open_refuses);
    RIG_ADD(suite, close_inside_open);
    RIG_ADD(suite, abort_inside_data);
    RIG_ADD(suite, one_closes_all_and_the_listener);
    RIG_ADD(suite, payload_and_cold_are_new_each_time);
    RIG_ADD(suite, stop_from_a_signal_and_a_thread);
    RIG_ADD(suite, destroy_at_every_stage);
    RIG_ADD(suite, child_of_fork_is_refused);
    RIG_ADD(suite, duplicate_of_a_closed_descriptor_does_not_spin);
    RIG_ADD(suite, closed_with_someone_at_the_door);
    return suite;
}

int
main(void)
{
    return test_run(contract_suite());
}
