/*
 * Connections and loops that end while names are being looked up: at once, although nobody can
 * interrupt the resolver, and nothing of the late answers reaches anybody. And many at once. Every
 * case runs on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/names.h"

/* ---- closing meanwhile ----------------------------------------------------------------------- */

START_TEST(close_while_resolving)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine, other;
    begin(&rig, &record, &mine, engine);
    memset(&other, 0, sizeof(other));
    other.rig = &rig;
    add_address("127.0.0.1", 0);
    const berth_token token = connect_to(&rig, &mine, "slow.example");
    listen_to(names.asked, 1);
    ck_assert_int_eq(_i % 2 ? berth_conn_abort(berth_conn_find(rig.loop, token))
                            : berth_conn_close(berth_conn_find(rig.loop, token)),
                     0);
    RIG_UNTIL(&rig, mine.closes == 1, 3); /* at once, although nobody has answered */
    ck_assert_int_eq(mine.reason, -ECANCELED);
    ck_assert_str_eq(mine.events, "c");

    /* Its number is somebody else's now, who must not get the answer that comes. */
    const berth_token next = connect_to(&rig, &other, "tardy.example");
    if (strcmp(engine, "uring-direct") != 0) /* its numbers come back a little later */
        ck_assert_uint_eq(berth_token_index(next), berth_token_index(token));
    listen_to(names.asked, 1);
    open_gate(1);
    RIG_UNTIL(&rig, told(names.woken) == 1, TURNS);
    (void)rig_turn(&rig, 1);
    listen_to(names.freed, 1);
    ck_assert_uint_eq(other.length, 0);
    tell(names.tardy_gate);
    RIG_UNTIL(&rig, other.opens == 1 && record.opens == 1, TURNS);
    listen_to(names.freed, 1);
    close_both(&rig, &record, &other, next);
    ck_assert_str_eq(mine.events, "c");
    ck_assert_uint_eq(record.opens, 1);
    end(&rig, &record);
}
END_TEST

/** One that neither answers nor refuses: its queue is full, and stays so while both are open. */
static void
add_silent(int *holder, int *client)
{
    add_refusing(holder);
    const struct sockaddr *address = (const struct sockaddr *)&names.addresses[names.count - 1];
    *client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(*client, 0);
    ck_assert_int_eq(listen(*holder, 0), 0);
    ck_assert_int_eq(connect(*client, address, sizeof(struct sockaddr_in)), 0);
}

START_TEST(abort_between_two_addresses)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    int holders[2], client;
    begin(&rig, &record, &mine, engine);
    add_refusing(&holders[0]);
    add_silent(&holders[1], &client);
    add_address("127.0.0.1", 0);
    const berth_token token = connect_to(&rig, &mine, "silent.example");
    faults_count("dup3");
    RIG_UNTIL(&rig, faults_calls("dup3") == 2, TURNS); /* the second is being tried */
    for (unsigned i = 0; i < 3; i++)
        (void)rig_turn(&rig, 1);
    ck_assert_uint_eq(mine.length, 0);
    ck_assert_uint_eq(told(names.freed), 0);
    ck_assert_int_eq(berth_conn_abort(berth_conn_find(rig.loop, token)), 0);
    RIG_UNTIL(&rig, mine.closes == 1, TURNS);
    ck_assert_int_eq(mine.reason, -ECANCELED);
    ck_assert_uint_eq(faults_calls("dup3"), 2); /* and the third is not */
    listen_to(names.freed, 1);
    ck_assert_int_eq(close(client), 0);
    ck_assert_int_eq(close(holders[0]), 0);
    ck_assert_int_eq(close(holders[1]), 0);
    ck_assert_str_eq(mine.events, "c");
    end(&rig, &record);
}
END_TEST

/** Destroys while a look-up is under way, and others wait behind it. */
START_TEST(destroy_while_resolving)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    begin(&rig, &record, &mine, engine);
    add_address("127.0.0.1", 0);
    for (unsigned i = 0; i < HELPERS + 3; i++)
        (void)connect_to(&rig, &mine, "slow.example");
    listen_to(names.asked, HELPERS);
    ck_assert_int_eq(berth_loop_destroy(rig.loop), 0); /* although nobody has answered */
    ck_assert_uint_eq(mine.closes, HELPERS + 3);
    ck_assert_int_eq(mine.reason, -ECANCELED);
    ck_assert_uint_eq(record.opens, record.closes);
    ck_assert_uint_eq(test_descriptors_open(), rig.descriptors);
    open_gate(HELPERS);
    listen_to(names.freed, HELPERS); /* by the helpers themselves */
    ck_assert_uint_eq(told(names.woken), 0);
    ck_assert_uint_eq(told(names.asked), 0); /* nobody has begun with the others */
    close_pipes();
}
END_TEST

START_TEST(destroy_with_answers_untaken)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    begin(&rig, &record, &mine, engine);
    add_address("127.0.0.1", 0);
    for (unsigned i = 0; i < 10; i++)
        (void)connect_to(&rig, &mine, "y.example");
    listen_to(names.woken, 10);
    ck_assert_int_eq(berth_loop_destroy(rig.loop), 0);
    ck_assert_uint_eq(mine.closes, 10);
    ck_assert_uint_eq(told(names.freed), 10);
    ck_assert_uint_eq(test_descriptors_open(), rig.descriptors);
    close_pipes();
}
END_TEST

/* ---- many ------------------------------------------------------------------------------------ */

START_TEST(slow_names_hold_up_nobody_else)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, slow, quick;
    begin(&rig, &record, &slow, engine);
    memset(&quick, 0, sizeof(quick));
    quick.rig = &rig;
    add_address("127.0.0.1", 0);
    for (unsigned i = 0; i < HELPERS - 1; i++)
        (void)connect_to(&rig, &slow, "slow.example");
    listen_to(names.asked, HELPERS - 1);
    const berth_token token = connect_to(&rig, &quick, "quick.example");
    RIG_UNTIL(&rig, quick.opens == 1 && record.opens == 1, TURNS);
    close_both(&rig, &record, &quick, token);
    ck_assert_uint_eq(slow.length, 0);
    open_gate(HELPERS - 1);
    RIG_UNTIL(&rig, slow.opens == HELPERS - 1, TURNS);
    BERTH_TABLE_EACH_LIVE (berth_loop_table(rig.loop), index) {
        const struct berth_slot *slot = berth_table_slot(berth_loop_table(rig.loop), index);
        struct berth_conn *conn = berth_conn_find(rig.loop, berth_slot_token(slot, 0));
        if (conn != NULL)
            (void)berth_conn_abort(conn);
    }
    end(&rig, &record);
}
END_TEST

#define MANY 60

START_TEST(many_at_once)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    berth_token tokens[MANY];
    begin(&rig, &record, &mine, engine);
    add_address("127.0.0.1", 0);
    for (unsigned i = 0; i < MANY; i++)
        tokens[i] = connect_to(&rig, &mine, "slow.example");
    listen_to(names.asked, HELPERS);
    for (unsigned i = 0; i < MANY; i += 2)
        ck_assert_int_eq(berth_conn_abort(berth_conn_find(rig.loop, tokens[i])), 0);
    RIG_UNTIL(&rig, mine.closes == MANY / 2, TURNS);
    open_gate(MANY);
    RIG_UNTIL(&rig, mine.opens == MANY / 2 && record.opens == MANY / 2, TURNS);
    /* Those that waited when they were closed were never asked for. */
    ck_assert_uint_eq(told(names.asked), MANY / 2 - HELPERS / 2);
    for (unsigned i = 1; i < MANY; i += 2)
        ck_assert_int_eq(berth_conn_abort(berth_conn_find(rig.loop, tokens[i])), 0);
    RIG_UNTIL(&rig, mine.closes == MANY, TURNS);
    /* Of those that nobody wants any more, the last may still be on their way to the loop. */
    RIG_UNTIL(&rig, told(names.freed) == MANY / 2 + HELPERS / 2, TURNS);
    end(&rig, &record);
}
END_TEST

static Suite *
resolve_ends_suite(void)
{
    Suite *suite = suite_create("resolve_ends");
    RIG_ADD(suite, close_while_resolving);
    RIG_ADD(suite, abort_between_two_addresses);
    RIG_ADD(suite, destroy_while_resolving);
    RIG_ADD(suite, destroy_with_answers_untaken);
    RIG_ADD(suite, slow_names_hold_up_nobody_else);
    RIG_ADD(suite, many_at_once);
    return suite;
}

int
main(void)
{
    return test_run(resolve_ends_suite());
}
