/*
 * What may happen to connections that are parked, are being parked, or are just coming back: ends
 * and resets are told at once, and closing, sending and pausing work as ever, whoever asks for it.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/parking.h"

/* ---- ending --------------------------------------------------------------------------------- */

/** How a client leaves a parked connection. */
enum leave { LEAVE_END, LEAVE_END_AND_BYTE, LEAVE_RESET, LEAVE_RESET_AND_BYTE, LEAVE_COUNT };

START_TEST(ends_are_told)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int leave = 0; leave < LEAVE_COUNT; leave++) {
        struct rig rig;
        struct record record;
        record_begin(&rig, &record, engine);
        const int client = rig_client(&rig);
        RIG_UNTIL(&rig, record.opens == 1, TURNS);
        turn_some(&rig, 2);
        park(&rig, 1);
        if (leave == LEAVE_END_AND_BYTE || leave == LEAVE_RESET_AND_BYTE)
            rig_write(client, "x", 1);
        if (leave == LEAVE_RESET || leave == LEAVE_RESET_AND_BYTE) {
            rig_reset(client);
            RIG_UNTIL(&rig, record.closes == 1, 5);
            ck_assert_int_eq(record.reason, -ECONNRESET);
            ck_assert_str_eq(record.events, leave == LEAVE_RESET ? "oc" : "odc");
        } else {
            ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
            RIG_UNTIL(&rig, strchr(record.events, 'e') != NULL, 5);
            ck_assert_str_eq(record.events, leave == LEAVE_END ? "oe" : "ode");
            check_quiet(&rig); /* behind an end nothing is posted any more, nor parked */
            ck_assert_int_eq(berth_loop_park_idle(rig.loop, 0), 0);
            ck_assert_int_eq(berth_conn_shutdown(berth_conn_find(rig.loop, record.last)), 0);
            RIG_UNTIL(&rig, record.closes == 1, TURNS);
            ck_assert_int_eq(record.reason, 0);
            ck_assert_int_eq(close(client), 0);
        }
        record_end(&rig, &record);
    }
}
END_TEST

/** What may be done to a connection that is parked, or for which that has just been asked. */
enum deed { DEED_CLOSE, DEED_ABORT, DEED_SHUTDOWN, DEED_SEND, DEED_COUNT };

static void
do_deed(enum deed deed, struct berth_conn *conn)
{
    switch (deed) {
    case DEED_CLOSE:
        ck_assert_int_eq(berth_conn_close(conn), 0);
        break;
    case DEED_ABORT:
        ck_assert_int_eq(berth_conn_abort(conn), 0);
        break;
    case DEED_SHUTDOWN:
        ck_assert_int_eq(berth_conn_shutdown(conn), 0);
        break;
    default:
        ck_assert_int_eq(berth_send(conn, "hello", 5), 0);
        break;
    }
}

static void
check_deed(enum deed deed, const struct rig *rig, struct record *record, int client)
{
    char text[8] = "";
    if (deed == DEED_CLOSE || deed == DEED_ABORT) {
        RIG_UNTIL(rig, record->closes == 1, 10);
        ck_assert_int_eq(record->reason, deed == DEED_CLOSE ? 0 : -ECANCELED);
        const intptr_t expected = deed == DEED_CLOSE ? 0 : -ECONNRESET;
        RIG_UNTIL(rig, rig_read(client, text, 1) == expected, 10); /* direct: a wait later */
    } else {
        const intptr_t expected = deed == DEED_SHUTDOWN ? 0 : 5;
        RIG_UNTIL(rig, rig_read(client, text, sizeof(text)) == expected, TURNS);
        rig_write(client, "x", 1);
        RIG_UNTIL(rig, record->datas == 1, TURNS);
        ck_assert_uint_eq(record->closes, 0);
    }
}

static void
close_too(struct record *record, struct berth_conn *conn)
{
    (void)record;
    (void)berth_conn_close(conn);
}

START_TEST(deeds)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned turns = 0; turns < 4; turns++) /* between parking and the deed */
        for (int deed = 0; deed < DEED_COUNT; deed++) {
            struct rig rig;
            struct record record;
            record_begin(&rig, &record, engine);
            record.on_eof = close_too;
            const int client = rig_client(&rig);
            RIG_UNTIL(&rig, record.opens == 1, TURNS);
            turn_some(&rig, 2);
            ck_assert_int_eq(berth_loop_park_idle(rig.loop, 0), can_park(&rig));
            turn_some(&rig, turns);
            do_deed((enum deed)deed, berth_conn_find(rig.loop, record.last));
            check_deed((enum deed)deed, &rig, &record, client);
            ck_assert_int_eq(close(client), 0);
            record_end(&rig, &record);
        }
}
END_TEST

/** All come back in one batch, and the first decides for the others. */
static struct {
    struct berth_conn *conns[CONNS];
    unsigned opened, closed, served;
    enum deed deed;
} bully;

static int
bully_open(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    bully.conns[bully.opened++] = conn;
    return 0;
}

static void
bully_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)spans, (void)n, (void)bytes;
    if (bully.served++ > 0)
        return;
    for (unsigned i = 0; i < bully.opened; i++) {
        if (bully.conns[i] == conn)
            continue;
        if (bully.deed == DEED_CLOSE || bully.deed == DEED_ABORT)
            do_deed(bully.deed, bully.conns[i]);
        else
            ck_assert_int_eq(berth_conn_credit(bully.conns[i], 0), 0);
    }
}

static void
bully_close(struct berth_conn *conn, int reason)
{
    (void)conn, (void)reason;
    bully.closed++;
}

START_TEST(batch_mates_are_obeyed)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {
        .open = bully_open, .data = bully_data, .close = bully_close};
    for (int deed = 0; deed <= DEED_SHUTDOWN; deed++) {
        struct berth_loop_options options;
        struct rig rig;
        int clients[CONNS];
        memset(&bully, 0, sizeof(bully));
        bully.deed = (enum deed)deed;
        rig_options(&options, engine, NULL);
        rig_begin(&rig, &options, &handlers, NULL);
        for (unsigned i = 0; i < CONNS; i++)
            clients[i] = rig_client(&rig);
        RIG_UNTIL(&rig, bully.opened == CONNS, TURNS);
        turn_some(&rig, 2);
        park(&rig, CONNS);
        for (unsigned i = 0; i < CONNS; i++)
            rig_write(clients[i], "x", 1);
        turn_some(&rig, 10);
        if (deed == DEED_SHUTDOWN) { /* no credit, that is: what is on its way may come */
            ck_assert_uint_ge(bully.served, 1);
            for (unsigned i = 0; i < CONNS; i++)
                ck_assert_int_eq(berth_conn_credit(bully.conns[i], BERTH_CREDIT_UNLIMITED), 0);
            RIG_UNTIL(&rig, bully.served == CONNS, TURNS);
        } else {
            ck_assert_uint_eq(bully.served, 1);
            ck_assert_uint_eq(bully.closed, CONNS - 1);
        }
        rig_close_all(&rig, clients, CONNS);
        ck_assert_uint_eq(bully.closed, CONNS);
        ck_assert_uint_eq(rig_stats(&rig).stale, 0);
        rig_end(&rig);
    }
}
END_TEST

/* ---- pausing -------------------------------------------------------------------------------- */

START_TEST(pauses)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned turns = 0; turns < 4; turns++) { /* between parking and the pause */
        struct rig rig;
        struct record record;
        record_begin(&rig, &record, engine);
        const int client = rig_client(&rig);
        RIG_UNTIL(&rig, record.opens == 1, TURNS);
        turn_some(&rig, 2);
        struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
        ck_assert_int_eq(berth_loop_park_idle(rig.loop, 0), can_park(&rig));
        turn_some(&rig, turns);
        ck_assert_int_eq(berth_conn_credit(conn, 0), 0);
        if (turns > 0)
            check_quiet(&rig);
        rig_write(client, "abc", 3);
        if (turns > 0) /* nothing is posted that could tell of it */
            ck_assert_int_eq(rig_turn(&rig, RIG_TURN_MS), 0);
        turn_some(&rig, 5);
        ck_assert_uint_eq(record.datas, 0);
        check_quiet(&rig);
        if (turns == 0) /* paused before it could be parked */
            ck_assert_uint_eq(rig_stats(&rig).demotions, 0);
        ck_assert_int_eq(berth_loop_park_idle(rig.loop, 0),
                         0); /* a paused one has nothing posted */
        ck_assert_int_eq(berth_conn_credit(conn, 1), 0);
        ck_assert_int_eq(berth_loop_park_idle(rig.loop, 0), 0); /* not yet */
        RIG_UNTIL(&rig, record.datas == 1, TURNS);
        check_quiet(&rig);
        ck_assert_int_eq(berth_conn_credit(conn, BERTH_CREDIT_UNLIMITED), 0);
        RIG_UNTIL(&rig, record.datas == 2, TURNS);

        /* Paused and resumed before the loop has turned: as if nothing had been, and no flapping.
         */
        ck_assert_int_eq(berth_loop_park_idle(rig.loop, 0), can_park(&rig));
        ck_assert_int_eq(berth_conn_credit(conn, 0), 0);
        ck_assert_int_eq(berth_conn_credit(conn, BERTH_CREDIT_UNLIMITED), 0);
        check_quiet(&rig);
        rig_write(client, "x", 1);
        RIG_UNTIL(&rig, record.datas == 3, TURNS);

        /* Paused when its poll request has just completed. */
        check_quiet(&rig);
        park(&rig, 1);
        rig_write(client, "y", 1);
        ck_assert_int_eq(berth_conn_credit(conn, 0), 0);
        turn_some(&rig, 5);
        ck_assert_uint_eq(record.datas, 3);
        ck_assert_int_eq(berth_conn_credit(conn, BERTH_CREDIT_UNLIMITED), 0);
        RIG_UNTIL(&rig, record.datas == 4, TURNS);
        ck_assert_int_eq(close(client), 0);
        RIG_UNTIL(&rig, strchr(record.events, 'e') != NULL, TURNS);
        (void)berth_conn_close(conn);
        record_end(&rig, &record);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop parking ends");
    RIG_ADD(suite, ends_are_told);
    RIG_ADD(suite, deeds);
    RIG_ADD(suite, batch_mates_are_obeyed);
    RIG_ADD(suite, pauses);
    return test_run(suite);
}
