/*
 * A child of fork(2) cannot harm its parent's loop, whatever it calls and however it ends; and it
 * can have a loop of its own.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include <signal.h>

#include "berth/loop_cross.h"
#include "berth/udp.h"

#define CLIENTS 4

static int
keep_open(struct berth_conn *conn, void *ctx)
{
    *(berth_token *)ctx = berth_conn_token(conn);
    return 0;
}

static const struct berth_handlers echo = {.open = keep_open, .data = rig_echo};

static void
nothing(struct berth_loop *loop, void *arg)
{
    (void)loop, (void)arg;
}

static void
no_signal(struct berth_loop *loop, int signo, void *ctx)
{
    (void)loop, (void)signo, (void)ctx;
}

static void
no_detached(struct berth_conn *conn, int fd, void *arg)
{
    (void)conn, (void)fd, (void)arg;
}

/** In the child: nothing that belongs to the parent can be used. */
static void
use_everything(struct berth_loop *loop, struct berth_listener *listener, struct berth_conn *conn,
               berth_token token)
{
    static const struct berth_handlers none;
    static const struct berth_udp_handlers no_udp;
    struct berth_drain_progress progress;
    struct berth_post post = {.fn = nothing};
    struct berth_span span = {.data = NULL, .length = 1};
    struct berth_chain chain;
    memset(&chain, 0, sizeof(chain));
    RIG_MUST(berth_loop_turn(loop, 0) == -ECHILD);
    RIG_MUST(berth_loop_run(loop) == -ECHILD);
    RIG_MUST(berth_loop_stop(loop) == -ECHILD);
    RIG_MUST(berth_loop_fd(loop) == -ECHILD);
    RIG_MUST(berth_loop_post(loop, nothing, NULL) == -ECHILD);
    RIG_MUST(berth_loop_post_node(loop, &post) == -ECHILD);
    RIG_MUST(berth_loop_signal(loop, SIGUSR2, no_signal, NULL) == -ECHILD);
    RIG_MUST(berth_loop_signal(loop, SIGUSR2, NULL, NULL) == -ECHILD);
    RIG_MUST(berth_listen(loop, "tcp://127.0.0.1:0", &none, NULL, NULL) == -ECHILD);
    RIG_MUST(berth_connect(loop, "tcp://127.0.0.1:1", &none, NULL, NULL) == -ECHILD);
    RIG_MUST(berth_adopt(loop, 0, &none, NULL, NULL) == -ECHILD);
    RIG_MUST(berth_udp_open(loop, "udp://127.0.0.1:0", &no_udp, NULL, NULL, NULL) == -ECHILD);
    RIG_MUST(berth_loop_drain(loop, 0) == -ECHILD);
    RIG_MUST(berth_loop_drain_progress(loop, &progress) == -ECHILD);
    RIG_MUST(berth_loop_park_idle(loop, 0) == -ECHILD);
    RIG_MUST(berth_conn_find(loop, token) == NULL);
    RIG_MUST(berth_send(conn, "x", 1) == -EINVAL);
    RIG_MUST(berth_send_span(conn, &span) == -EINVAL);
    RIG_MUST(berth_send_chain(conn, &chain) == -EINVAL);
    RIG_MUST(berth_conn_close(conn) == -EINVAL);
    RIG_MUST(berth_conn_abort(conn) == -EINVAL);
    RIG_MUST(berth_conn_shutdown(conn) == -EINVAL);
    RIG_MUST(berth_conn_credit(conn, 1) == -EINVAL);
    RIG_MUST(berth_conn_detach(conn, no_detached, NULL) == -EINVAL);
    RIG_MUST(berth_conn_move(conn, loop, &none, NULL, NULL) == -EINVAL);
    RIG_MUST(berth_conn_cold(conn) == NULL);
    RIG_MUST(berth_conn_loop(conn) == NULL);
    berth_listener_close(listener);
    RIG_MUST(berth_loop_destroy(loop) == -ECHILD);
}

/** In the child: a loop of its own serves. */
static void
serve_oneself(const char *engine)
{
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    struct berth_listener *listener = NULL;
    berth_token token;
    char text[8];
    rig_options(&options, engine, NULL);
    RIG_MUST(berth_loop_create(&loop, &options) == 0);
    RIG_MUST(berth_listen(loop, "tcp://127.0.0.1:0", &echo, &token, &listener) == 0);
    const int client = rig_connect_to(listener);
    RIG_MUST(client >= 0);
    RIG_MUST(send(client, "child", 5, MSG_NOSIGNAL) == 5);
    intptr_t got = -EAGAIN;
    for (int i = 0; i < 1000 && got == -EAGAIN; i++) {
        RIG_MUST(berth_loop_turn(loop, RIG_TURN_MS) >= 0);
        got = rig_read(client, text, sizeof(text));
    }
    RIG_MUST(got == 5);
    RIG_MUST(berth_loop_post(loop, nothing, NULL) == 0);
    RIG_MUST(berth_loop_turn(loop, -1) >= 1);
    (void)close(client);
    RIG_MUST(berth_loop_destroy(loop) == 0);
}

static void
check_clients(const struct rig *rig, const int *clients)
{
    char text[8];
    for (unsigned i = 0; i < CLIENTS; i++) {
        rig_write(clients[i], "hello", 5);
        RIG_UNTIL(rig, rig_read(clients[i], text, sizeof(text)) == 5, 100);
    }
}

static struct berth_conn *
begin(struct rig *rig, const char *engine, berth_token *token, int *clients)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.cold_bytes = 8;
    rig_begin(rig, &options, &echo, token);
    for (unsigned i = 0; i < CLIENTS; i++)
        clients[i] = rig_client(rig);
    RIG_UNTIL(rig, berth_loop_conns(rig->loop) == CLIENTS, 100);
    check_clients(rig, clients);
    return berth_conn_find(rig->loop, *token);
}

static void
newcomer_is_served(const struct rig *rig)
{
    const uint32_t before = berth_loop_conns(rig->loop);
    char text[8];
    const int client = rig_client(rig);
    rig_write(client, "new", 3);
    RIG_UNTIL(rig, rig_read(client, text, sizeof(text)) == 3, 100);
    ck_assert_int_eq(close(client), 0);
    RIG_UNTIL(rig, berth_loop_conns(rig->loop) == before, 100);
}

START_TEST(parent_is_not_disturbed)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    berth_token token;
    int clients[CLIENTS], skipped;
    struct berth_conn *conn = begin(&rig, engine, &token, clients);
    rig_write(clients[0], "before", 6); /* on its way while the child lives */
    RIG_IN_CHILD(skipped, {
        use_everything(rig.loop, rig.listener, conn, token);
        for (int i = 0; i < RIG_ENGINES; i++)
            if (rig_has(rig_engines[i]))
                serve_oneself(rig_engines[i]);
    });
    ck_assert_int_eq(skipped, 0);
    char text[8];
    RIG_UNTIL(&rig, rig_read(clients[0], text, sizeof(text)) == 6, 100);
    check_clients(&rig, clients);
    newcomer_is_served(&rig);
    ck_assert_int_eq(berth_loop_post(rig.loop, nothing, NULL), 0);
    (void)rig_turn(&rig, -1);
    ck_assert_uint_eq(rig_stats(&rig).posts, 1);
    rig_close_all(&rig, clients, CLIENTS);
    rig_end(&rig);
}
END_TEST

/** The child lives on, with every descriptor of its parent, while the parent works and ends. */
START_TEST(child_that_stays)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    berth_token token;
    int clients[CLIENTS], gate[2];
    char byte;
    struct berth_conn *conn = begin(&rig, engine, &token, clients);
    const berth_token one = token; /* newcomers overwrite it */
    ck_assert_int_eq(pipe(gate), 0);
    (void)fflush(NULL);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        (void)close(gate[1]);
        use_everything(rig.loop, rig.listener, conn, token);
        RIG_MUST(read(gate[0], &byte, 1) == 0); /* until the parent is done */
        use_everything(rig.loop, rig.listener, conn, token);
        _exit(0);
    }
    ck_assert_int_eq(close(gate[0]), 0);
    check_clients(&rig, clients);
    newcomer_is_served(&rig);
    /* A connection that the parent ends is gone from its set, though the child has it open. */
    ck_assert_int_eq(berth_conn_abort(berth_conn_find(rig.loop, one)), 0);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == CLIENTS - 1, 100);
    BERTH_TABLE_EACH_LIVE (berth_loop_table(rig.loop), index) {
        struct berth_slot *slot = berth_table_slot(berth_loop_table(rig.loop), index);
        (void)berth_conn_abort((struct berth_conn *)(void *)slot);
    }
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, 100);
    for (unsigned i = 0; i < CLIENTS; i++)
        ck_assert_int_eq(close(clients[i]), 0);
    for (int i = 0; i < 10; i++)
        (void)rig_turn(&rig, 0);
    const struct berth_loop_stats before = rig_stats(&rig);
    for (int i = 0; i < 10; i++)
        (void)rig_turn(&rig, 0);
    ck_assert_uint_eq(rig_stats(&rig).stale, before.stale); /* no ghosts */
    ck_assert_int_eq(close(gate[1]), 0);
    rig_end(&rig);
    int status = -1;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}
END_TEST

/** A signal of the parent's loop does in the child what it did before anybody watched it. */
START_TEST(signals_in_a_child)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    berth_token token;
    int clients[CLIENTS], status = 0;
    (void)begin(&rig, engine, &token, clients);
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR2, no_signal, NULL), 0);
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, no_signal, NULL), 0);
    (void)fflush(NULL);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        struct berth_loop_options options;
        struct berth_loop *own = NULL;
        rig_options(&options, engine, NULL);
        RIG_MUST(berth_loop_create(&own, &options) == 0);
        RIG_MUST(berth_loop_signal(own, SIGUSR1, no_signal, NULL) == 0); /* its own now */
        RIG_MUST(berth_loop_turn(own, 0) >= 0);
        (void)raise(SIGUSR1);
        RIG_MUST(berth_loop_turn(own, 1000) >= 1);
        RIG_MUST(berth_loop_destroy(own) == 0);
        (void)raise(SIGUSR2);
        _exit(1); /* not reached: that ends it */
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR2, "%#x", (unsigned)status);
    check_clients(&rig, clients);
    rig_close_all(&rig, clients, CLIENTS);
    rig_end(&rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("fork");
    RIG_ADD(suite, parent_is_not_disturbed);
    RIG_ADD(suite, child_that_stays);
    RIG_ADD(suite, signals_in_a_child);
    return test_run(suite);
}
