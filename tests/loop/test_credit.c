/*
 * Credit: how much a connection may receive, to the byte, and what happens when it is given, taken
 * back and lifted at any moment. Every case runs on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ends.h"

static int
open_without_credit(struct berth_conn *conn, void *ctx)
{
    ck_assert_int_eq(berth_conn_credit(conn, 0), 0);
    return ends_open(conn, ctx);
}

/** Turns a few times, in which nothing more may come. */
static void
check_nothing_comes(struct ends *ends)
{
    const size_t before = ends->received;
    for (unsigned i = 0; i < 5; i++)
        (void)rig_turn(&ends->rig, RIG_TURN_MS);
    ck_assert_uint_eq(ends->received, before);
    ck_assert_uint_eq(ends->eofs, 0);
}

START_TEST(credit_to_the_byte)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_handlers handlers = ends_callbacks;
    struct ends ends;
    handlers.open = open_without_credit;
    prepare(&ends, engine);
    rig_begin(&ends.rig, &ends.options, &handlers, &ends);
    ends.client = rig_client(&ends.rig);
    client_writes(&ends, 100000);
    RIG_UNTIL(&ends.rig, ends.opens == 1, TURNS);
    check_nothing_comes(&ends);
    static const size_t credits[] = {1, 4095, 4096, 4097, 10, 8192, 13000};
    size_t expected = 0;
    for (unsigned i = 0; i < sizeof(credits) / sizeof(credits[0]); i++) {
        ck_assert_int_eq(berth_conn_credit(the_conn(&ends), credits[i]), 0);
        expected += credits[i];
        RIG_UNTIL(&ends.rig, ends.received >= expected, TURNS);
        check_nothing_comes(&ends);
        ck_assert_uint_eq(ends.received, expected);
    }
    /* Taken back before the loop has turned: as if it had not been given. */
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), BERTH_CREDIT_UNLIMITED), 0);
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), 0), 0);
    check_nothing_comes(&ends);
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), ends.written - expected), 0);
    RIG_UNTIL(&ends.rig, ends.received == ends.written, TURNS);
    /* Without credit not even the end is seen; with it, at once. */
    ck_assert_int_eq(shutdown(ends.client, SHUT_WR), 0);
    check_nothing_comes(&ends);
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), BERTH_CREDIT_UNLIMITED), 0);
    RIG_UNTIL(&ends.rig, ends.eofs == 1, TURNS);
    ck_assert_int_eq(berth_conn_shutdown(the_conn(&ends)), 0);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_int_eq(ends.reason, 0);
    end(&ends);
}
END_TEST

START_TEST(credit_on_and_off)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare(&ends, engine);
    begin(&ends);
    for (unsigned i = 0; i < 300; i++) {
        static const size_t credits[] = {0, 1, 5000, BERTH_CREDIT_UNLIMITED};
        ck_assert_int_eq(berth_conn_credit(the_conn(&ends), credits[test_random(&ends.random) % 4]),
                         0);
        client_writes(&ends, ways_length(&ends.random, 50000));
        if (test_random(&ends.random) % 2 == 0)
            (void)rig_turn(&ends.rig, 0);
    }
    /* A receive that was under way when it was withdrawn may still end; then it is quiet. */
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), 0), 0);
    for (unsigned i = 0; i < 5; i++)
        (void)rig_turn(&ends.rig, RIG_TURN_MS);
    client_writes(&ends, 1000);
    check_nothing_comes(&ends);
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), BERTH_CREDIT_UNLIMITED), 0);
    RIG_UNTIL(&ends.rig, ends.received == ends.written, TURNS);
    end(&ends);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop credit");
    RIG_ADD(suite, credit_to_the_byte);
    RIG_ADD(suite, credit_on_and_off);
    return test_run(suite);
}
