/*
 * The ends of forwarding: half closes, resets, one of the two that goes first, callbacks that do
 * whatever they like meanwhile, connections that are not there yet or leave, a loop that is
 * destroyed. Every case runs on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/forwarding.h"

#include "berth/loop_cross.h"

/* ---- ends of streams ------------------------------------------------------------------------ */

TWICE(half_closes_are_passed_on)
{
    struct forwarding all;
    prepare(&all, engine, splice);
    begin(&all, 2);
    forward_both(&all, BERTH_FORWARD_CLOSE);
    (void)client_writes(&all, 0, 20000);
    ck_assert_int_eq(shutdown(all.sides[0].client, SHUT_WR), 0);
    read_to_the_end(&all, 1, 0, 0);
    ck_assert_uint_eq(all.sides[1].read, all.sides[0].written);
    ck_assert_uint_eq(all.sides[0].eofs, 1);
    turn_until_quiet(&all);
    ck_assert_uint_eq(all.sides[0].closes + all.sides[1].closes, 0);

    /* The answer comes when the question is long over. */
    for (unsigned i = 0; i < 5; i++) {
        ck_assert_uint_gt(client_writes(&all, 1, 10000), 0);
        read_until(&all, 0, 1, all.sides[1].written);
    }
    client_closes(&all, 1);
    read_to_the_end(&all, 0, 1, 0);
    RIG_UNTIL(&all.rig, all.sides[0].closes + all.sides[1].closes == 2, TURNS);
    ck_assert_uint_eq(all.sides[1].eofs, 1);
    ck_assert_int_eq(all.sides[0].reason, 0);
    ck_assert_int_eq(all.sides[1].reason, 0);
    end(&all);
}

TWICE(an_end_behind_a_long_queue)
{
    struct forwarding all;
    prepare(&all, engine, splice);
    begin_with(&all, &side_callbacks_plain, 2);
    forward(&all, 0, 1, 0); /* one way: then there is nothing to wait for behind it */
    for (unsigned i = 0; i < 100; i++)
        (void)(client_writes(&all, 0, WAYS_BYTES_MAX), rig_turn(&all.rig, 0));
    client_closes(&all, 0);
    turn_until_quiet(&all);
    ck_assert_uint_gt(berth_conn_queued(conn_of(&all, 1)), 0);
    read_to_the_end(&all, 1, 0, 0);
    ck_assert_uint_eq(all.sides[1].read, all.sides[0].written);
    RIG_UNTIL(&all.rig, all.sides[0].closes == 1, TURNS);
    ck_assert_int_eq(all.sides[0].reason, 0);
    ck_assert_uint_eq(all.sides[1].closes, 0);
    end(&all);
}

TWICE(one_way_without_a_handler_for_the_end)
{
    struct forwarding all;
    prepare(&all, engine, splice);
    begin_with(&all, &side_callbacks_plain, 2);
    forward_both(&all, 0);
    ck_assert_int_eq(shutdown(all.sides[0].client, SHUT_WR), 0);
    read_to_the_end(&all, 1, 0, 0);
    ck_assert_uint_eq(all.sides[0].closes, 0);
    /* What kept it open goes away: it is closed as it would have been. */
    ck_assert_int_eq(berth_forward(conn_of(&all, 1), NULL, 0), 0);
    RIG_UNTIL(&all.rig, all.sides[0].closes == 1, TURNS);
    ck_assert_int_eq(all.sides[0].reason, 0);
    ck_assert_uint_eq(all.sides[1].closes, 0);
    end(&all);
}

/* ---- resets --------------------------------------------------------------------------------- */

TWICE(resets_are_passed_on)
{
    for (unsigned first = 0; first < 2; first++) {
        struct forwarding all;
        prepare(&all, engine, splice);
        begin(&all, 2);
        forward_both(&all, BERTH_FORWARD_CLOSE);
        (void)client_writes(&all, first, 1000);
        read_until(&all, !first, first, 1000);
        client_resets(&all, first);
        read_to_the_end(&all, !first, first, -ECONNRESET);
        RIG_UNTIL(&all.rig, all.sides[0].closes + all.sides[1].closes == 2, TURNS);
        ck_assert_int_eq(all.sides[first].reason, -ECONNRESET);
        ck_assert_int_eq(all.sides[!first].reason, -ECONNRESET);
        ck_assert_uint_eq(all.sides[0].eofs + all.sides[1].eofs, 0);
        end(&all);
    }
}

TWICE(a_reset_behind_a_long_queue)
{
    struct forwarding all;
    prepare(&all, engine, splice);
    begin(&all, 2);
    forward(&all, 0, 1, BERTH_FORWARD_CLOSE);
    for (unsigned i = 0; i < 100; i++)
        (void)(client_writes(&all, 0, WAYS_BYTES_MAX), rig_turn(&all.rig, 0));
    turn_until_quiet(&all);
    const size_t queued = berth_conn_queued(conn_of(&all, 1));
    ck_assert_uint_gt(queued, 0);
    ck_assert_int_eq(berth_conn_abort(conn_of(&all, 0)), 0);
    RIG_UNTIL(&all.rig, all.sides[0].closes == 1, TURNS);
    ck_assert_int_eq(all.sides[0].reason, -ECANCELED);
    ck_assert_uint_eq(all.sides[1].closes, 0);
    /* What is queued is sent before; a part may be in the kernel's hands, which a reset empties. */
    intptr_t got = 0;
    for (unsigned idle = 0; (got >= 0 || got == -EAGAIN) && idle < TURNS; idle++) {
        got = client_reads(&all, 1, 0, 20000);
        idle = got > 0 ? 0 : idle;
        (void)rig_turn(&all.rig, 1);
    }
    ck_assert_int_eq(got, -ECONNRESET);
    RIG_UNTIL(&all.rig, all.sides[1].closes == 1, TURNS);
    ck_assert_int_eq(all.sides[1].reason, -ECONNRESET);
    struct berth_loop_stats stats = rig_stats(&all.rig);
    ck_assert_uint_eq(stats.sent_bytes, stats.received_bytes);
    end(&all);
}

TWICE(a_chain_goes_with_its_middle)
{
    struct forwarding all;
    prepare(&all, engine, splice);
    begin(&all, 3);
    forward(&all, 0, 1, BERTH_FORWARD_CLOSE);
    forward(&all, 1, 2, BERTH_FORWARD_CLOSE);
    for (unsigned i = 0; i < 100; i++)
        (void)(client_writes(&all, 0, WAYS_BYTES_MAX), client_writes(&all, 1, WAYS_BYTES_MAX),
               rig_turn(&all.rig, 0));
    turn_until_quiet(&all);
    ck_assert_uint_gt(berth_conn_queued(conn_of(&all, 1)), 0);
    ck_assert_uint_gt(berth_conn_queued(conn_of(&all, 2)), 0);
    client_resets(&all, 1);
    RIG_UNTIL(&all.rig, all.sides[0].closes + all.sides[1].closes == 2, TURNS);
    ck_assert_uint_eq(all.sides[2].closes, 0); /* its queue first */
    read_to_the_end(&all, 2, 1, -ECONNRESET);
    RIG_UNTIL(&all.rig, all.sides[2].closes == 1, TURNS);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_msg(all.sides[i].reason == -ECONNRESET || all.sides[i].reason == -EPIPE, "%d",
                      all.sides[i].reason);
    end_with_copies(&all);
}

TWICE(without_the_flag_the_other_one_stays)
{
    for (unsigned first = 0; first < 2; first++) {
        const unsigned left = !first;
        struct forwarding all;
        prepare(&all, engine, splice);
        begin(&all, 2);
        forward_both(&all, 0);
        client_resets(&all, first);
        RIG_UNTIL(&all.rig, all.sides[first].closes == 1, TURNS);
        turn_until_quiet(&all);
        ck_assert_uint_eq(all.sides[left].closes, 0);
        /* Its bytes are the program's again, and it can be sent to. */
        (void)client_writes(&all, left, 1000);
        RIG_UNTIL(&all.rig, all.sides[left].received == 1000, TURNS);
        const struct berth_span none = {NULL, 0, 0};
        ck_assert_int_eq(berth_send_span(conn_of(&all, left), &none), -EINVAL);
        forward(&all, left, left, 0);
        (void)client_writes(&all, left, 500);
        all.sides[left].read = 1000; /* the first thousand bytes were not echoed */
        read_until(&all, left, left, 1500);
        end(&all);
    }
}

/* ---- one of the two goes first -------------------------------------------------------------- */

TWICE(closed_by_the_program)
{
    for (unsigned flags = 0; flags <= BERTH_FORWARD_CLOSE; flags++) {
        for (unsigned which = 0; which < 2; which++) {
            struct forwarding all;
            prepare(&all, engine, splice);
            begin(&all, 2);
            forward(&all, 0, 1, flags);
            (void)client_writes(&all, 0, 5000);
            read_until(&all, 1, 0, 5000);
            ck_assert_int_eq(berth_conn_close(conn_of(&all, which)), 0);
            read_to_the_end(&all, which, !which, 0);
            RIG_UNTIL(&all.rig, all.sides[which].closes == 1, TURNS);
            turn_until_quiet(&all);
            ck_assert_uint_eq(all.sides[!which].closes, flags != 0);
            ck_assert_int_eq(all.sides[!which].reason, 0);
            if (flags == 0 && which == 1) {
                (void)client_writes(&all, 0, 1000);
                RIG_UNTIL(&all.rig, all.sides[0].received == 1000, TURNS);
            }
            end(&all);
        }
    }
}

TWICE(closed_while_bytes_come)
{
    for (unsigned flags = 0; flags <= BERTH_FORWARD_CLOSE; flags++) {
        struct forwarding all;
        prepare(&all, engine, splice);
        begin(&all, 2);
        forward(&all, 0, 1, flags);
        for (unsigned i = 0; i < 100; i++)
            (void)(client_writes(&all, 0, WAYS_BYTES_MAX), rig_turn(&all.rig, 0));
        turn_until_quiet(&all);
        ck_assert_int_eq(berth_conn_shutdown(conn_of(&all, 1)), 0);
        read_to_the_end(&all, 1, 0, 0);
        /* Its queue is sent, so more is received, which nobody can be sent any more. */
        RIG_UNTIL(&all.rig, all.sides[1].read + all.sides[0].received == all.sides[0].written,
                  TURNS);
        (void)client_writes(&all, 0, 1000);
        RIG_UNTIL(&all.rig, all.sides[1].read + all.sides[0].received == all.sides[0].written,
                  TURNS);
        ck_assert_uint_ge(all.sides[0].received, 1000);
        ck_assert_uint_eq(all.sides[0].closes, 0);
        end(&all);
    }
}

/* ---- callbacks ------------------------------------------------------------------------------ */

static void
close_both(struct forwarding *all, unsigned side, struct berth_conn *conn)
{
    (void)berth_conn_close(conn);
    if (conn_of(all, !side) != NULL)
        (void)berth_conn_abort(conn_of(all, !side));
    (void)berth_forward(conn, conn_of(all, !side), 0);
}

static void
forward_anew(struct forwarding *all, unsigned side, struct berth_conn *conn)
{
    struct berth_conn *other = conn_of(all, !side);
    (void)berth_forward(conn, other, BERTH_FORWARD_CLOSE);
    (void)berth_forward(other == NULL ? conn : other, conn, 0);
    (void)berth_forward(conn, NULL, 0);
}

static void
forward_back(struct forwarding *all, unsigned side, struct berth_conn *conn)
{
    if (conn_of(all, !side) != NULL)
        (void)berth_forward(conn, conn_of(all, !side), BERTH_FORWARD_CLOSE);
}

TWICE(callbacks_do_as_they_like)
{
    void (*const actions[])(struct forwarding *, unsigned,
                            struct berth_conn *) = {close_both, forward_anew, forward_back};
    for (unsigned i = 0; i < 3 * 3 * 2; i++) {
        struct forwarding all;
        prepare(&all, engine, splice);
        begin(&all, 2);
        all.on_eof = actions[i % 3];
        all.on_drained = actions[i % 3];
        all.on_close = actions[(i / 3) % 3];
        all.on_data = actions[(i + 1) % 3];
        forward_both(&all, i / 9 == 0 ? 0 : BERTH_FORWARD_CLOSE);
        for (unsigned j = 0; j < 30; j++) {
            char data[65536];
            (void)send(all.sides[j % 2].client, data, sizeof(data), MSG_NOSIGNAL | MSG_DONTWAIT);
            (void)rig_turn(&all.rig, 0);
        }
        for (unsigned j = 0; j < 200; j++) {
            char data[65536];
            if (all.sides[1].client >= 0)
                (void)rig_read(all.sides[1].client, data, sizeof(data));
            (void)rig_turn(&all.rig, 1);
            if (j == 50)
                (void)shutdown(all.sides[0].client, SHUT_WR);
        }
        all.splice = 0; /* those callbacks do not all forward through pipes */
        end(&all);
    }
}

/* ---- not there yet, or not any more --------------------------------------------------------- */

static void
note_close(struct berth_conn *conn, int reason)
{
    *(int *)berth_conn_context(conn) = reason;
}

START_TEST(to_one_that_is_still_connecting)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers target = {.close = note_close};
    struct forwarding all;
    char address[BERTH_ADDRESS_TEXT_MAX];
    int reason = 1;
    prepare(&all, engine, 0);
    begin(&all, 1);
    ck_assert_int_eq(berth_listener_address(all.rig.listener, address, sizeof(address)), 0);
    /* Back to the same listener: a third connection, which echoes. */
    (void)client_writes(&all, 0, 3000);
    berth_token token;
    all.count = 1;
    ck_assert_int_eq(berth_connect(all.rig.loop, address, &target, &reason, &token), 0);
    struct berth_conn *conn = berth_conn_find(all.rig.loop, token);
    ck_assert_int_eq(berth_forward(conn_of(&all, 0), conn, BERTH_FORWARD_CLOSE), 0);
    ck_assert_int_eq(berth_forward(conn, conn_of(&all, 0), BERTH_FORWARD_CLOSE), 0);
    ck_assert_ptr_eq(berth_conn_context(conn), &reason);
    ck_assert_ptr_eq(berth_conn_context(conn_of(&all, 0)), &all);
    RIG_UNTIL(&all.rig, all.sides[1].opens == 1, TURNS);
    all.sides[1].client = -1;
    all.count = 2;
    forward(&all, 1, 1, 0);
    (void)client_writes(&all, 0, 3000);
    /* What came before the echo was there is in its data callback. */
    RIG_UNTIL(&all.rig, rig_stats(&all.rig).received_bytes >= 6000, TURNS);
    all.sides[0].read = all.sides[1].received;
    read_until(&all, 0, 0, 6000);
    ck_assert_int_eq(shutdown(all.sides[0].client, SHUT_WR), 0);
    read_to_the_end(&all, 0, 0, 0);
    RIG_UNTIL(&all.rig, berth_loop_conns(all.rig.loop) == 0, TURNS);
    ck_assert_int_eq(reason, 0);
    end(&all);
}
END_TEST

START_TEST(to_one_that_cannot_be_reached)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers target = {.close = note_close};
    struct forwarding all;
    char address[BERTH_ADDRESS_TEXT_MAX];
    int reason = 1;
    prepare(&all, engine, 0);
    begin(&all, 1);
    /* A port that nobody listens on any more. */
    struct berth_listener *gone = NULL;
    ck_assert_int_eq(berth_listen(all.rig.loop, "tcp://127.0.0.1:0", &target, &reason, &gone), 0);
    ck_assert_int_eq(berth_listener_address(gone, address, sizeof(address)), 0);
    berth_listener_close(gone);
    turn_until_quiet(&all);
    berth_token token;
    ck_assert_int_eq(berth_connect(all.rig.loop, address, &target, &reason, &token), 0);
    struct berth_conn *conn = berth_conn_find(all.rig.loop, token);
    ck_assert_int_eq(berth_forward(conn_of(&all, 0), conn, BERTH_FORWARD_CLOSE), 0);
    ck_assert_int_eq(berth_forward(conn, conn_of(&all, 0), BERTH_FORWARD_CLOSE), 0);
    read_to_the_end(&all, 0, 0, -ECONNRESET);
    RIG_UNTIL(&all.rig, berth_loop_conns(all.rig.loop) == 0, TURNS);
    ck_assert_int_eq(reason, -ECONNREFUSED);
    ck_assert_int_eq(all.sides[0].reason, -ECONNRESET);
    end(&all);
}
END_TEST

static void
note_detached(struct berth_conn *conn, int fd, void *arg)
{
    (void)conn;
    *(int *)arg = fd;
}

TWICE(leaving_the_loop)
{
    for (unsigned which = 0; which < 2; which++) {
        struct forwarding all;
        int fd = -1;
        prepare(&all, engine, splice);
        begin(&all, 2);
        forward_both(&all, BERTH_FORWARD_CLOSE);
        for (unsigned i = 0; i < 100; i++)
            (void)(client_writes(&all, 0, WAYS_BYTES_MAX), rig_turn(&all.rig, 0));
        turn_until_quiet(&all);
        const size_t queued = berth_conn_queued(conn_of(&all, 1));
        ck_assert_uint_gt(queued, 0);
        ck_assert_int_eq(berth_conn_detach(conn_of(&all, which), note_detached, &fd), 0);
        ck_assert_int_eq(berth_forward(conn_of(&all, 0), conn_of(&all, 1), 0), -EALREADY);
        ck_assert_int_eq(berth_forward(conn_of(&all, 1), conn_of(&all, 0), 0), -EALREADY);
        /* The one that stays receives for the program; what is queued is sent all the same. */
        for (unsigned i = 0; i < TURNS && fd < 0; i++) {
            (void)client_reads(&all, 1, 0, WAYS_BYTES_MAX);
            (void)rig_turn(&all.rig, 1);
        }
        ck_assert_int_ge(fd, 0);
        ck_assert_uint_eq(all.sides[!which].closes, 0);
        all.sides[which].closes++; /* nobody is told of it */
        ck_assert_int_eq(close(fd), 0);
        end(&all);
    }
}

TWICE(the_loop_is_destroyed)
{
    for (unsigned flags = 0; flags <= BERTH_FORWARD_CLOSE; flags++) {
        struct forwarding all;
        prepare(&all, engine, splice);
        begin(&all, 4);
        forward_both(&all, flags);
        forward(&all, 2, 3, flags);
        for (unsigned i = 0; i < 100; i++)
            (void)(client_writes(&all, 0, WAYS_BYTES_MAX), client_writes(&all, 2, 5000),
                   rig_turn(&all.rig, 0));
        ck_assert_uint_gt(berth_conn_queued(conn_of(&all, 1)), 0);
        rig_verify(&all.rig);
        ck_assert_int_eq(berth_loop_destroy(all.rig.loop), 0);
        for (unsigned i = 0; i < 4; i++) {
            ck_assert_uint_eq(all.sides[i].closes, 1);
            client_closes(&all, i);
        }
    }
}

START_TEST(listeners_places_come_back)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct forwarding all;
    prepare(&all, engine, 0);
    rig_begin(&all.rig, &all.options, &side_callbacks_plain, &all);
    /* There are 255 of them; each is free again when its last connection has gone. */
    for (unsigned i = 0; i < 300; i++) {
        struct berth_listener *listener = NULL;
        memset(all.sides, 0, sizeof(all.sides));
        ck_assert_int_eq(
            berth_listen(all.rig.loop, "tcp://127.0.0.1:0", &side_callbacks_plain, &all, &listener),
            0);
        const int client = rig_connect_to(listener);
        ck_assert_int_ge(client, 0);
        RIG_UNTIL(&all.rig, all.sides[0].opens == 1, TURNS);
        forward(&all, 0, 0, 0);
        berth_listener_close(listener);
        if (i % 2 == 0) /* with its own handlers again, or without */
            ck_assert_int_eq(berth_forward(conn_of(&all, 0), NULL, 0), 0);
        ck_assert_int_eq(close(client), 0);
        RIG_UNTIL(&all.rig, berth_loop_conns(all.rig.loop) == 0, TURNS);
        ck_assert_uint_eq(all.sides[0].closes, 1);
    }
    turn_until_quiet(&all);
    ways_end(&all.rig);
}
END_TEST

/* ---- refusals ------------------------------------------------------------------------------- */

START_TEST(refusals)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct forwarding all, elsewhere;
    prepare(&all, engine, 0);
    prepare(&elsewhere, engine, 0);
    begin(&all, 3);
    begin(&elsewhere, 1);
    struct berth_conn *const a = conn_of(&all, 0), *const b = conn_of(&all, 1);
    ck_assert_int_eq(berth_forward(NULL, b, 0), -EINVAL);
    ck_assert_int_eq(berth_forward(NULL, NULL, 0), -EINVAL);
    ck_assert_int_eq(berth_forward(a, b, 1u << 31), -EINVAL);
    ck_assert_int_eq(berth_forward(a, conn_of(&elsewhere, 0), 0), -EXDEV);
    end(&elsewhere);
    ck_assert_int_eq(berth_conn_shutdown(b), 0);
    ck_assert_int_eq(berth_forward(a, b, 0), -EPIPE);
    ck_assert_int_eq(shutdown(all.sides[0].client, SHUT_WR), 0);
    RIG_UNTIL(&all.rig, all.sides[0].eofs == 1, TURNS);
    ck_assert_int_eq(berth_forward(a, conn_of(&all, 2), 0), -EPIPE);
    ck_assert_int_eq(berth_forward(conn_of(&all, 2), a, 0), 0);
    ck_assert_int_eq(berth_forward(conn_of(&all, 2), b, 0), -EPIPE);
    (void)client_writes(&all, 2, 1000);
    read_until(&all, 0, 2, 1000); /* it goes on where it went */
    ck_assert_int_eq(berth_conn_abort(a), 0);
    ck_assert_int_eq(berth_forward(conn_of(&all, 2), a, 0), -EPIPE);
    RIG_UNTIL(&all.rig, all.sides[0].closes == 1, TURNS);
    ck_assert_int_eq(berth_forward(a, b, 0), -EINVAL);
    end(&all);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop forward ends");
    ADD_TWICE(suite, half_closes_are_passed_on);
    ADD_TWICE(suite, an_end_behind_a_long_queue);
    ADD_TWICE(suite, one_way_without_a_handler_for_the_end);
    ADD_TWICE(suite, resets_are_passed_on);
    ADD_TWICE(suite, a_reset_behind_a_long_queue);
    ADD_TWICE(suite, a_chain_goes_with_its_middle);
    ADD_TWICE(suite, without_the_flag_the_other_one_stays);
    ADD_TWICE(suite, closed_by_the_program);
    ADD_TWICE(suite, closed_while_bytes_come);
    ADD_TWICE(suite, callbacks_do_as_they_like);
    RIG_ADD(suite, to_one_that_is_still_connecting);
    RIG_ADD(suite, to_one_that_cannot_be_reached);
    ADD_TWICE(suite, leaving_the_loop);
    ADD_TWICE(suite, the_loop_is_destroyed);
    RIG_ADD(suite, listeners_places_come_back);
    RIG_ADD(suite, refusals);
    return test_run(suite);
}
