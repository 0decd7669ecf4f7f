/*
 * Draining: nobody comes in, those inside finish, run returns when the last has gone, and the
 * deadline ends it for the others.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include <netinet/in.h>

#include "loop/clock.h"

#define BEGIN_MS UINT64_C(5000000)
#define TURNS 200
#define CLIENTS 4

struct drained {
    struct rig rig;
    int clients[CLIENTS];
    unsigned opens, closes, timed_out;
    size_t queue_bytes; /**< to send when a byte comes; 0: an echo */
    unsigned asked;     /**< clients that have said their word */
    struct berth_timer timer;
    int drain_in_data;
};

static int
on_open(struct berth_conn *conn, void *ctx)
{
    (void)conn;
    ((struct drained *)ctx)->opens++;
    return 0;
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    static char zeroes[65536];
    struct drained *drained = berth_conn_context(conn);
    if (drained->queue_bytes == 0)
        rig_echo(conn, spans, n, bytes);
    for (size_t at = 0; at < drained->queue_bytes; at += sizeof(zeroes))
        ck_assert_int_eq(berth_send(conn, zeroes, sizeof(zeroes)), 0);
    if (drained->drain_in_data)
        ck_assert_int_eq(berth_loop_drain(drained->rig.loop, 60000), 0);
    if (berth_loop_draining(drained->rig.loop))
        (void)berth_conn_close(conn); /* as a server says "Connection: close" */
}

static void
on_close(struct berth_conn *conn, int reason)
{
    struct drained *drained = berth_conn_context(conn);
    drained->closes++;
    drained->timed_out += reason == -ETIMEDOUT;
}

static const struct berth_handlers handlers = {.open = on_open, .data = on_data, .close = on_close};

static void
begin(struct drained *drained, const char *engine, unsigned clients)
{
    struct berth_loop_options options;
    memset(drained, 0, sizeof(*drained));
    rig_options(&options, engine, NULL);
    rig_begin(&drained->rig, &options, &handlers, drained);
    for (unsigned i = 0; i < clients; i++)
        drained->clients[i] = rig_client(&drained->rig);
    RIG_UNTIL(&drained->rig, drained->opens == clients, TURNS);
}

/** Newcomers are refused by the kernel: nobody listens. */
static void
must_be_shut(const struct drained *drained, const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    to.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), -1);
    ck_assert_int_eq(errno, ECONNREFUSED);
    ck_assert_int_eq(close(fd), 0);
    struct berth_listener *none = NULL;
    ck_assert_int_eq(berth_listen(drained->rig.loop, "tcp://127.0.0.1:0", &handlers, NULL, &none),
                     -ESHUTDOWN);
    ck_assert_ptr_null(none);
    ck_assert_int_eq(berth_listener_fd(drained->rig.listener), -EBADF);
}

static struct berth_drain_progress
progress(const struct drained *drained)
{
    struct berth_drain_progress progress;
    ck_assert_int_eq(berth_loop_drain_progress(drained->rig.loop, &progress), 0);
    return progress;
}

/* ---- to a good end -------------------------------------------------------------------------- */

/** One client after the other says a word and has its answer: the server closes behind it. */
static void
finish_one(struct berth_loop *loop, struct berth_timer *timer, void *context)
{
    struct drained *drained = context;
    char byte = 0;
    ck_assert(berth_loop_draining(loop));
    if (drained->asked == 0 || rig_read(drained->clients[drained->asked - 1], &byte, 1) == 1) {
        ck_assert(drained->asked == 0 || byte == 'b');
        if (drained->asked < CLIENTS)
            rig_write(drained->clients[drained->asked++], "b", 1);
        else
            (void)berth_timer_stop(timer);
    }
}

START_TEST(until_the_last_has_gone)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct drained drained;
    char address[BERTH_ADDRESS_TEXT_MAX];
    begin(&drained, engine, CLIENTS);
    ck_assert_int_eq(berth_listener_address(drained.rig.listener, address, sizeof(address)), 0);
    ck_assert(!berth_loop_draining(drained.rig.loop));
    ck_assert_uint_eq(progress(&drained).left_ms, UINT32_MAX);
    ck_assert_uint_eq(progress(&drained).conns, CLIENTS);

    ck_assert_int_eq(berth_loop_drain(drained.rig.loop, 3600000), 0);
    ck_assert(berth_loop_draining(drained.rig.loop));
    ck_assert_uint_le(progress(&drained).left_ms, 3600000);
    ck_assert_uint_gt(progress(&drained).left_ms, 3000000);
    for (unsigned i = 0; i < 3; i++)
        (void)rig_turn(&drained.rig, 0);
    must_be_shut(&drained, address);
    ck_assert_uint_eq(drained.closes, 0);

    berth_timer_init(&drained.timer, finish_one, &drained);
    ck_assert_int_eq(berth_timer_start(drained.rig.loop, &drained.timer, 1, 1), 0);
    ck_assert_int_eq(berth_loop_run(drained.rig.loop), 0);
    ck_assert_uint_eq(drained.closes, CLIENTS);
    ck_assert_uint_eq(drained.timed_out, 0);
    ck_assert_uint_eq(progress(&drained).conns, 0);
    ck_assert_int_eq(berth_loop_run(drained.rig.loop), 0); /* at once: nothing has changed */
    ck_assert_uint_eq(drained.asked, CLIENTS);
    for (unsigned i = 0; i < CLIENTS; i++)
        ck_assert_int_eq(close(drained.clients[i]), 0);
    rig_end(&drained.rig);
}
END_TEST

/** Whoever was connected by the kernel, but not accepted yet, is not let in any more. */
START_TEST(at_the_door)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct drained drained;
    char byte;
    begin(&drained, engine, 1);
    const int late = rig_client(&drained.rig);
    ck_assert_int_eq(berth_loop_drain(drained.rig.loop, 3600000), 0);
    RIG_UNTIL(&drained.rig, rig_read(late, &byte, 1) != -EAGAIN, TURNS);
    ck_assert_uint_eq(drained.opens, 1);
    ck_assert_int_eq(close(late), 0);
    ck_assert_int_eq(close(drained.clients[0]), 0);
    ck_assert_int_eq(berth_loop_run(drained.rig.loop), 0);
    rig_end(&drained.rig);
}
END_TEST

START_TEST(with_nobody_inside)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct drained drained;
    begin(&drained, engine, 0);
    ck_assert_int_eq(berth_loop_drain(drained.rig.loop, 3600000), 0);
    ck_assert_int_eq(berth_loop_run(drained.rig.loop), 0);
    rig_end(&drained.rig);
}
END_TEST

/** From inside a callback; and what is queued is sent to the last byte, however slow the reader. */
START_TEST(what_is_queued_is_sent)
{
    RIG_ENGINE_OR_RETURN(engine);
    static char data[65536];
    struct drained drained;
    const size_t total = 4u << 20;
    size_t have = 0;
    begin(&drained, engine, 1);
    drained.queue_bytes = total;
    drained.drain_in_data = 1;
    rig_write(drained.clients[0], "x", 1);
    RIG_UNTIL(&drained.rig, berth_loop_draining(drained.rig.loop), TURNS);
    ck_assert_uint_gt(progress(&drained).queued_bytes, 0);
    ck_assert_uint_le(progress(&drained).queued_bytes, total);
    intptr_t got = -EAGAIN;
    for (unsigned idle = 0; got != 0 && idle < TURNS; idle++) {
        got = rig_read(drained.clients[0], data, sizeof(data));
        ck_assert_msg(got >= 0 || got == -EAGAIN, "read: %ld", (long)got);
        have += got > 0 ? (size_t)got : 0;
        idle = got > 0 ? 0 : idle;
        (void)rig_turn(&drained.rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    ck_assert_int_eq(got, 0);
    ck_assert_uint_eq(have, total);
    ck_assert_int_eq(berth_loop_run(drained.rig.loop), 0);
    ck_assert_uint_eq(drained.timed_out, 0);
    ck_assert_uint_eq(progress(&drained).queued_bytes, 0);
    ck_assert_int_eq(close(drained.clients[0]), 0);
    rig_end(&drained.rig);
}
END_TEST

/* ---- the deadline --------------------------------------------------------------------------- */

/** Lets time pass, and turns. */
static void
pass(struct drained *drained, uint32_t ms)
{
    clock_now_ms += ms;
    for (unsigned i = 0; i < 3; i++)
        (void)rig_turn(&drained->rig, 0);
}

START_TEST(until_the_deadline)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct drained drained;
    char byte, address[BERTH_ADDRESS_TEXT_MAX];
    berth_token token;
    clock_begin(BEGIN_MS);
    begin(&drained, engine, CLIENTS);
    struct berth_loop *loop = drained.rig.loop;
    ck_assert_int_eq(berth_listener_address(drained.rig.listener, address, sizeof(address)), 0);

    ck_assert_int_eq(berth_loop_drain(loop, 10000), 0);
    ck_assert_uint_eq(progress(&drained).left_ms, 10000);
    pass(&drained, 1000);
    ck_assert_int_eq(berth_loop_drain(loop, 20000), 0); /* not later */
    ck_assert_uint_eq(progress(&drained).left_ms, 9000);
    ck_assert_int_eq(berth_loop_drain(loop, 5000), 0); /* but earlier */
    ck_assert_uint_eq(progress(&drained).left_ms, 5000);
    pass(&drained, 5000);
    ck_assert_uint_eq(drained.closes, 0);
    ck_assert_uint_eq(progress(&drained).conns, CLIENTS);

    pass(&drained, 1);
    RIG_UNTIL(&drained.rig, drained.closes == CLIENTS, TURNS);
    ck_assert_uint_eq(drained.timed_out, CLIENTS);
    for (unsigned i = 0; i < CLIENTS; i++) {
        RIG_UNTIL(&drained.rig, rig_read(drained.clients[i], &byte, 1) == -ECONNRESET, TURNS);
        ck_assert_int_eq(close(drained.clients[i]), 0);
    }
    ck_assert_int_eq(berth_loop_run(loop), 0);
    ck_assert_uint_eq(progress(&drained).left_ms, 0);
    must_be_shut(&drained, address);
    ck_assert_int_eq(berth_loop_drain(loop, 1000), 0); /* nothing is left to do */
    ck_assert_uint_eq(progress(&drained).left_ms, 0);

    /* After it no connection is begun, in whatever way. */
    int ends[2];
    ck_assert_int_eq(berth_connect(loop, address, &handlers, &drained, &token), -ESHUTDOWN);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    ck_assert_int_eq(berth_adopt(loop, ends[0], &handlers, &drained, &token), -ESHUTDOWN);
    ck_assert_int_eq(close(ends[0]), 0);
    ck_assert_int_eq(close(ends[1]), 0);
    rig_end(&drained.rig);
    clock_end();
}
END_TEST

/** Who is on the way in or out at the deadline: connecting, adopted, closing with bytes queued. */
START_TEST(in_between_at_the_deadline)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct drained drained;
    struct berth_listener *other = NULL;
    struct berth_loop *outside = NULL;
    struct berth_loop_options options;
    char address[BERTH_ADDRESS_TEXT_MAX];
    int ends[2];
    clock_begin(BEGIN_MS);
    rig_options(&options, "poll", NULL);
    ck_assert_int_eq(berth_loop_create(&outside, &options), 0);
    ck_assert_int_eq(berth_listen(outside, "tcp://127.0.0.1:0", &handlers, NULL, &other), 0);
    ck_assert_int_eq(berth_listener_address(other, address, sizeof(address)), 0);

    begin(&drained, engine, 1);
    drained.queue_bytes = 8u << 20;
    rig_write(drained.clients[0], "x", 1);
    RIG_UNTIL(&drained.rig, progress(&drained).queued_bytes > 0, TURNS);
    ck_assert_int_eq(berth_loop_drain(drained.rig.loop, 0), 0);
    /* Before the deadline has come a server may still need others. */
    ck_assert_int_eq(berth_connect(drained.rig.loop, address, &handlers, &drained, NULL), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    ck_assert_int_eq(berth_adopt(drained.rig.loop, ends[0], &handlers, &drained, NULL), 0);
    ck_assert_uint_eq(progress(&drained).conns, 3);
    ck_assert_int_eq(berth_loop_run(drained.rig.loop), 0);
    ck_assert_uint_eq(berth_loop_conns(drained.rig.loop), 0);
    ck_assert_uint_ge(drained.timed_out, 2); /* the adopted one may not have been opened */
    ck_assert_int_eq(close(drained.clients[0]), 0);
    ck_assert_int_eq(close(ends[1]), 0);
    rig_end(&drained.rig);
    ck_assert_int_eq(berth_loop_destroy(outside), 0);
    clock_end();
}
END_TEST

/* ---- listeners ------------------------------------------------------------------------------ */

START_TEST(listeners_are_their_owners)
{
    RIG_ENGINE_OR_RETURN(engine);
    enum { LISTENERS = 5 };
    struct berth_listener *listeners[LISTENERS];
    struct drained drained;
    char path[64], address[BERTH_ADDRESS_TEXT_MAX];
    begin(&drained, engine, 1);
    (void)snprintf(path, sizeof(path), "drain-%s-%d", engine, (int)getpid());
    (void)snprintf(address, sizeof(address), "unix:%s", path);
    const unsigned descriptors = test_descriptors_open();
    ck_assert_int_eq(berth_listen(drained.rig.loop, address, &handlers, &drained, &listeners[0]),
                     0);
    for (unsigned i = 1; i < LISTENERS; i++)
        ck_assert_int_eq(
            berth_listen(drained.rig.loop, "tcp://127.0.0.1:0", &handlers, &drained, &listeners[i]),
            0);
    berth_listener_close(listeners[1]);
    ck_assert_int_eq(access(path, F_OK), 0);
    ck_assert_int_eq(berth_loop_drain(drained.rig.loop, 60000), 0);
    ck_assert_int_eq(access(path, F_OK), -1);
    berth_listener_close(listeners[3]); /* in the middle of those stopped */
    ck_assert_int_eq(berth_listener_address(listeners[2], address, sizeof(address)), 0);
    RIG_UNTIL(&drained.rig, test_descriptors_open() == descriptors - 1, TURNS);
    berth_listener_close(listeners[0]);
    berth_listener_close(listeners[2]);
    ck_assert_int_eq(close(drained.clients[0]), 0);
    ck_assert_int_eq(berth_loop_run(drained.rig.loop), 0);
    rig_end(&drained.rig); /* with the rig's own and the last one */
}
END_TEST

static void
drain_in_child(struct berth_loop *loop, int client)
{
    RIG_MUST(berth_loop_drain(loop, 0) == -ECHILD);
    RIG_MUST(!berth_loop_draining(loop));
    RIG_MUST(close(client) == 0);
}

START_TEST(what_is_refused)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct drained drained;
    struct berth_drain_progress none;
    int skipped;
    begin(&drained, engine, 1);
    ck_assert_int_eq(berth_loop_drain(NULL, 0), -EINVAL);
    ck_assert_int_eq(berth_loop_draining(NULL), 0);
    ck_assert_int_eq(berth_loop_drain_progress(NULL, &none), -EINVAL);
    ck_assert_int_eq(berth_loop_drain_progress(drained.rig.loop, NULL), -EINVAL);
    RIG_IN_CHILD(skipped, drain_in_child(drained.rig.loop, drained.clients[0]));
    ck_assert(!skipped);
    ck_assert_int_eq(close(drained.clients[0]), 0);
    RIG_UNTIL(&drained.rig, berth_loop_conns(drained.rig.loop) == 0, TURNS);
    rig_try_echo(&drained.rig); /* the parent's loop has not noticed */
    rig_end(&drained.rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("draining");
    RIG_ADD(suite, until_the_last_has_gone);
    RIG_ADD(suite, at_the_door);
    RIG_ADD(suite, with_nobody_inside);
    RIG_ADD(suite, what_is_queued_is_sent);
    RIG_ADD(suite, until_the_deadline);
    RIG_ADD(suite, in_between_at_the_deadline);
    RIG_ADD(suite, listeners_are_their_owners);
    RIG_ADD(suite, what_is_refused);
    return test_run(suite);
}
