/*
 * What close callbacks do while their loop is being destroyed: whoever begins something new there
 * is told that it is too late, and nothing of it outlives the loop.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include <signal.h>
#include <time.h>

#include "berth/loop_cross.h"
#include "berth/udp.h"

/** Nothing is left to wait for: this is far below what a destruction may wait. */
#define SOON_MS 3000

static struct {
    struct rig rig;
    char address[BERTH_ADDRESS_TEXT_MAX];
    unsigned opens, closes, udp_closes;
    int result; /**< of the call in the close callback */
} end;

static int64_t
now_ms(void)
{
    struct timespec now;
    ck_assert_int_eq(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int
on_open(struct berth_conn *conn, void *ctx)
{
    (void)conn, (void)ctx;
    end.opens++;
    return 0;
}

static void
begin(const char *engine, const struct berth_handlers *handlers, int *client)
{
    struct berth_loop_options options;
    memset(&end, 0, sizeof(end));
    rig_options(&options, engine, NULL);
    options.conns_max = 4096;
    rig_begin(&end.rig, &options, handlers, NULL);
    ck_assert_int_eq(berth_listener_address(end.rig.listener, end.address, sizeof(end.address)), 0);
    *client = rig_client(&end.rig);
    RIG_UNTIL(&end.rig, end.opens == 1, 100);
    end.result = 1;
}

/** The loop is destroyed without waiting for what was begun meanwhile, and one close was told. */
static void
over(int client)
{
    const int64_t began_ms = now_ms();
    ck_assert_int_eq(berth_loop_destroy(end.rig.loop), 0);
    ck_assert_int_lt(now_ms() - began_ms, SOON_MS);
    ck_assert_int_eq(close(client), 0);
    ck_assert_uint_eq(end.opens, 1);
    ck_assert_uint_eq(end.closes, 1);
    ck_assert_uint_eq(test_descriptors_open(), end.rig.descriptors);
}

static const struct berth_handlers connecting, listening, adopting, watching, opening;

static void
connect_again(struct berth_conn *conn, int reason)
{
    (void)reason;
    end.closes++;
    end.result = berth_connect(berth_conn_loop(conn), end.address, &connecting, NULL, NULL);
}
static const struct berth_handlers connecting = {.open = on_open, .close = connect_again};

START_TEST(nobody_connects_again)
{
    RIG_ENGINE_OR_RETURN(engine);
    int client;
    begin(engine, &connecting, &client);
    over(client);
    ck_assert_int_eq(end.result, -ESHUTDOWN);
}
END_TEST

static void
listen_again(struct berth_conn *conn, int reason)
{
    (void)reason;
    end.closes++;
    end.result = berth_listen(berth_conn_loop(conn), "tcp://127.0.0.1:0", &listening, NULL, NULL);
}
static const struct berth_handlers listening = {.open = on_open, .close = listen_again};

START_TEST(nobody_listens_again)
{
    RIG_ENGINE_OR_RETURN(engine);
    int client;
    begin(engine, &listening, &client);
    over(client);
    ck_assert_int_eq(end.result, -ESHUTDOWN);
}
END_TEST

static int pair[2];

static void
adopt_another(struct berth_conn *conn, int reason)
{
    (void)reason;
    end.closes++;
    end.result = berth_adopt(berth_conn_loop(conn), pair[0], &adopting, NULL, NULL);
}
static const struct berth_handlers adopting = {.open = on_open, .close = adopt_another};

START_TEST(nobody_is_adopted)
{
    RIG_ENGINE_OR_RETURN(engine);
    int client;
    begin(engine, &adopting, &client);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    end.rig.descriptors += 2;
    over(client);
    ck_assert_int_eq(end.result, -ESHUTDOWN);
    ck_assert_int_eq(close(pair[0]), 0);
    ck_assert_int_eq(close(pair[1]), 0);
}
END_TEST

static void udp_again(struct berth_udp *udp, int reason);
static const struct berth_udp_handlers udp_handlers = {.close = udp_again};

static void
udp_again(struct berth_udp *udp, int reason)
{
    ck_assert_int_eq(reason, -ECANCELED);
    end.udp_closes++;
    end.result =
        berth_udp_open(berth_udp_loop(udp), "udp://127.0.0.1:0", &udp_handlers, NULL, NULL, NULL);
}

static void
count_close(struct berth_conn *conn, int reason)
{
    (void)conn, (void)reason;
    end.closes++;
}
static const struct berth_handlers opening = {.open = on_open, .close = count_close};

START_TEST(no_datagram_socket_is_opened_again)
{
    RIG_ENGINE_OR_RETURN(engine);
    int client;
    begin(engine, &opening, &client);
    ck_assert_int_eq(
        berth_udp_open(end.rig.loop, "udp://127.0.0.1:0", &udp_handlers, NULL, NULL, NULL), 0);
    over(client);
    ck_assert_uint_eq(end.udp_closes, 1);
    ck_assert_int_eq(end.result, -ESHUTDOWN);
}
END_TEST

static void
no_signal(struct berth_loop *loop, int signo, void *ctx)
{
    (void)loop, (void)signo, (void)ctx;
}

static void
watch_again(struct berth_conn *conn, int reason)
{
    (void)reason;
    end.closes++;
    end.result = berth_loop_signal(berth_conn_loop(conn), SIGUSR1, no_signal, NULL);
}
static const struct berth_handlers watching = {.open = on_open, .close = watch_again};

START_TEST(no_signal_reaches_a_loop_that_is_gone)
{
    RIG_ENGINE_OR_RETURN(engine);
    int client;
    struct sigaction now;
    begin(engine, &watching, &client);
    over(client);
    ck_assert_int_eq(sigaction(SIGUSR1, NULL, &now), 0);
    ck_assert(now.sa_handler == SIG_DFL);
    /* Nor is it taken from the next loop. */
    begin(engine, &opening, &client);
    ck_assert_int_eq(berth_loop_signal(end.rig.loop, SIGUSR1, no_signal, NULL), 0);
    over(client);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("destroy");
    RIG_ADD(suite, nobody_connects_again);
    RIG_ADD(suite, nobody_listens_again);
    RIG_ADD(suite, nobody_is_adopted);
    RIG_ADD(suite, no_datagram_socket_is_opened_again);
    RIG_ADD(suite, no_signal_reaches_a_loop_that_is_gone);
    return test_run(suite);
}
