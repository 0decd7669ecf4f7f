/*
 * Timeouts of connections: what a handler may do when one is over, what happens without a handler,
 * and that closing ends them.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/scene.h"

/* ---- what handlers do ----------------------------------------------------------------------- */

START_TEST(nobody_listens)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    char byte;
    prepare(&scene, engine);
    begin(&scene, &without_timeout);
    limit(&scene, BERTH_TIMEOUT_IDLE, PERIOD_MS);
    must_be_quiet(&scene, PERIOD_MS - STEP_MS);
    pass(&scene, LATE_MS(PERIOD_MS) + 2 * STEP_MS, STEP_MS);
    RIG_UNTIL(&scene.rig, scene.closes == 1, TURNS);
    ck_assert_int_eq(scene.reason, -ETIMEDOUT);
    RIG_UNTIL(&scene.rig, rig_read(scene.client, &byte, 1) == -ECONNRESET, TURNS);
    end(&scene);
}
END_TEST

static void
say_goodbye(struct scene *scene, struct berth_conn *conn)
{
    (void)scene;
    ck_assert_int_eq(berth_send(conn, "bye", 3), 0);
    ck_assert_int_eq(berth_conn_close(conn), 0);
    ck_assert_int_eq(berth_conn_timeout(conn, BERTH_TIMEOUT_IDLE, 1), -EPIPE);
}

START_TEST(goodbye)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    char text[8];
    prepare(&scene, engine);
    scene.on_timeout = say_goodbye;
    begin(&scene, &with_timeout);
    for (enum berth_timeout kind = 0; kind <= BERTH_TIMEOUT_TOTAL; kind++)
        limit(&scene, kind, PERIOD_MS); /* of those that are over, one is told */
    pass(&scene, 2 * PERIOD_MS, STEP_MS);
    RIG_UNTIL(&scene.rig, scene.closes == 1, TURNS);
    ck_assert_uint_eq(scene.timeouts, 1);
    ck_assert_int_eq(scene.reason, 0);
    ck_assert_int_eq(rig_read(scene.client, text, sizeof(text)), 3);
    ck_assert_mem_eq(text, "bye", 3);
    ck_assert_int_eq(rig_read(scene.client, text, sizeof(text)), 0);
    end(&scene);
}
END_TEST

static void
limit_in_open(struct scene *scene, struct berth_conn *conn)
{
    (void)scene;
    ck_assert_int_eq(berth_conn_timeout(conn, BERTH_TIMEOUT_IDLE, PERIOD_MS), 0);
    ck_assert_int_eq(berth_conn_timeout(conn, BERTH_TIMEOUT_TOTAL, PERIOD_MS), 0);
}

/** All are due in the same turn; the first that hears of it aborts all. */
static void
abort_everybody(struct scene *scene, struct berth_conn *conn)
{
    struct berth_table *table = berth_loop_table(scene->rig.loop);
    BERTH_TABLE_EACH_LIVE (table, index) {
        struct berth_slot *slot = berth_table_slot(table, index);
        if (slot_kind(slot) == KIND_CONN)
            (void)berth_conn_abort(as_conn(slot));
    }
    ck_assert_int_eq(berth_conn_abort(conn), -EALREADY);
}

START_TEST(one_closes_all)
{
    RIG_ENGINE_OR_RETURN(engine);
    enum { CLIENTS = 8 };
    struct scene scene;
    int clients[CLIENTS];
    prepare(&scene, engine);
    scene.on_open = limit_in_open;
    scene.on_timeout = abort_everybody;
    rig_begin(&scene.rig, &scene.options, &with_timeout, &scene);
    for (unsigned round = 1; round <= 3; round++) {
        for (unsigned i = 0; i < CLIENTS; i++)
            clients[i] = rig_client(&scene.rig);
        RIG_UNTIL(&scene.rig, scene.opens == round * CLIENTS, TURNS);
        pass(&scene, 2 * PERIOD_MS, 2 * PERIOD_MS);
        RIG_UNTIL(&scene.rig, scene.closes == round * CLIENTS, TURNS);
        ck_assert_uint_eq(scene.timeouts, round);
        for (unsigned i = 0; i < CLIENTS; i++)
            ck_assert_int_eq(close(clients[i]), 0);
    }
    end(&scene);
}
END_TEST

static void
change_kinds(struct scene *scene, struct berth_conn *conn)
{
    ck_assert_int_eq(berth_conn_timeout(conn, scene->kind, 0), 0);
    if (scene->kind < BERTH_TIMEOUT_TOTAL)
        ck_assert_int_eq(berth_conn_timeout(conn, BERTH_TIMEOUT_TOTAL, 3 * PERIOD_MS), 0);
}

START_TEST(changed_in_the_handler)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    prepare(&scene, engine);
    scene.on_timeout = change_kinds;
    begin(&scene, &with_timeout);
    limit(&scene, BERTH_TIMEOUT_IDLE, PERIOD_MS);
    must_come(&scene, BERTH_TIMEOUT_IDLE, clock_now_ms, PERIOD_MS, 0, STEP_MS);
    must_come(&scene, BERTH_TIMEOUT_TOTAL, clock_now_ms, 3 * PERIOD_MS, 0, STEP_MS);
    must_be_quiet(&scene, 5 * PERIOD_MS);
    end(&scene);
}
END_TEST

/* ---- closing -------------------------------------------------------------------------------- */

/** While the last bytes wait for a peer that does not read, close_timeout_ms rules alone. */
START_TEST(closing_has_its_own)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    prepare(&scene, engine);
    scene.options.close_timeout_ms = 4 * PERIOD_MS;
    begin(&scene, &with_timeout);
    queue_much(&scene);
    fill_sockets(&scene, 1);
    for (enum berth_timeout kind = 0; kind <= BERTH_TIMEOUT_TOTAL; kind++)
        limit(&scene, kind, PERIOD_MS);
    must_be_quiet(&scene, PERIOD_MS - STEP_MS);
    ck_assert_int_eq(berth_conn_close(the_conn(&scene)), 0);
    must_be_quiet(&scene, 4 * PERIOD_MS - STEP_MS);
    pass(&scene, 3 * STEP_MS, STEP_MS);
    RIG_UNTIL(&scene.rig, scene.closes == 1, TURNS);
    ck_assert_int_eq(scene.reason, -ETIMEDOUT);
    ck_assert_uint_eq(scene.timeouts, 0);
    end(&scene);
}
END_TEST

/** The peer goes, a slot is used again: its predecessor's timeouts are not its own. */
START_TEST(slots_are_used_again)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    prepare(&scene, engine);
    begin(&scene, &with_timeout);
    for (unsigned i = 1; i <= 20; i++) {
        limit(&scene, i % 2 ? BERTH_TIMEOUT_TOTAL : BERTH_TIMEOUT_READ, PERIOD_MS);
        const uint32_t index = berth_token_index(scene.token);
        must_be_quiet(&scene, PERIOD_MS / 2);
        rig_reset(scene.client);
        RIG_UNTIL(&scene.rig, scene.closes == i, TURNS);
        scene.client = rig_client(&scene.rig);
        RIG_UNTIL(&scene.rig, scene.opens == i + 1, TURNS);
        ck_assert_uint_eq(berth_token_index(scene.token), index);
        must_be_quiet(&scene, 2 * PERIOD_MS);
    }
    end(&scene);
}
END_TEST

START_TEST(what_is_refused)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    struct berth_loop *none = NULL;
    prepare(&scene, engine);
    begin(&scene, &with_timeout);
    struct berth_conn *conn = the_conn(&scene);
    ck_assert_int_eq(berth_conn_timeout(NULL, BERTH_TIMEOUT_IDLE, 1), -EINVAL);
    ck_assert_int_eq(berth_conn_timeout(conn, (enum berth_timeout)BERTH_TIMEOUT_KINDS, 1), -EINVAL);
    ck_assert_int_eq(berth_conn_timeout(conn, BERTH_TIMEOUT_IDLE, BERTH_TIMEOUT_MS_MAX + 1),
                     -EINVAL);
    ck_assert_int_eq(berth_conn_timeout(conn, BERTH_TIMEOUT_CONNECT, 1), -EISCONN);
    ck_assert_int_eq(berth_conn_timeout(conn, BERTH_TIMEOUT_IDLE, BERTH_TIMEOUT_MS_MAX), 0);
    scene.options.connect_timeout_ms = BERTH_TIMEOUT_MS_MAX + 1;
    ck_assert_int_eq(berth_loop_create(&none, &scene.options), -EINVAL);
    end(&scene);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("timeouts that are over");
    RIG_ADD(suite, nobody_listens);
    RIG_ADD(suite, goodbye);
    RIG_ADD(suite, one_closes_all);
    RIG_ADD(suite, changed_in_the_handler);
    RIG_ADD(suite, closing_has_its_own);
    RIG_ADD(suite, slots_are_used_again);
    RIG_ADD(suite, what_is_refused);
    return test_run(suite);
}
