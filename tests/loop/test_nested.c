/*
 * A loop inside another one, on a host that turns it when, and only when, its descriptor is
 * readable: nested.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/nested.h"

#include "loop/clock.h"

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include "berth/udp.h"

START_TEST(events_are_told)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    char text[16];
    if (!host_begin(&rig, engine))
        return;
    const int client = rig_client(&rig);
    HOST_UNTIL(&rig, host.opens == 1);
    host_settles(&rig);
    const struct berth_loop_stats before = rig_stats(&rig);
    for (int i = 0; i < 100; i++) {
        rig_write(client, "hello", 5);
        HOST_UNTIL(&rig, rig_read(client, text, sizeof(text)) == 5);
        host_settles(&rig);
    }
    const struct berth_loop_stats after = rig_stats(&rig);
    printf("%s: 100 messages: %llu turns, %llu system calls of the loop\n", engine,
           (unsigned long long)(after.turns - before.turns),
           (unsigned long long)(after.syscalls - before.syscalls));
    ck_assert_int_eq(close(client), 0);
    HOST_UNTIL(&rig, host.closes == 1);
    host_end(&rig);
}
END_TEST

static void
on_timer(struct berth_loop *loop, struct berth_timer *timer, void *context)
{
    (void)loop, (void)timer, (void)context;
    ck_abort_msg("too early");
}

/** The loop's time goes on between asking for its descriptor and its first turn. */
START_TEST(time_goes_on_before_the_first_turn)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    clock_begin(UINT64_C(1000000));
    rig_begin(&rig, &options, &hosted, NULL);
    struct berth_timer far, near;
    berth_timer_init(&far, on_timer, NULL);
    berth_timer_init(&near, on_timer, NULL);
    ck_assert_int_eq(berth_timer_start(rig.loop, &far, 60000, 0), 0);
    (void)berth_loop_fd(rig.loop);
    clock_now_ms += 5000;
    ck_assert_int_eq(berth_timer_start(rig.loop, &near, 1000, 0), 0);
    ck_assert_uint_eq(berth_loop_now_ms(rig.loop), clock_now_ms);
    for (unsigned i = 0; i < 3; i++)
        (void)rig_turn(&rig, 0);
    rig_end(&rig);
    clock_end();
}
END_TEST

/** What the host calls between turns is done when it has turned, without any event. */
START_TEST(calls_between_turns)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    char text[16], address[BERTH_ADDRESS_TEXT_MAX];
    if (!host_begin(&rig, engine))
        return;
    const int client = rig_client(&rig);
    HOST_UNTIL(&rig, host.opens == 1);
    host_settles(&rig);
    struct berth_conn *conn = berth_conn_find(rig.loop, host.last);
    ck_assert_int_eq(berth_send(conn, "host", 4), 0);
    HOST_UNTIL(&rig, rig_read(client, text, sizeof(text)) == 4);
    host_settles(&rig);

    ck_assert_int_eq(berth_conn_credit(conn, 0), 0);
    HOST_UNTIL(&rig, host_waits(0) == 0);
    rig_write(client, "x", 1);
    host_settles(&rig);
    ck_assert_int_eq(berth_conn_credit(conn, 100), 0);
    HOST_UNTIL(&rig, rig_read(client, text, sizeof(text)) == 1);

    int pair[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &hosted, NULL, NULL), 0);
    HOST_UNTIL(&rig, host.opens == 2);
    ck_assert_int_eq(close(pair[1]), 0);
    HOST_UNTIL(&rig, host.closes == 1);

    struct berth_listener *second = NULL;
    ck_assert_int_eq(berth_listen(rig.loop, "tcp://127.0.0.1:0", &hosted, NULL, &second), 0);
    ck_assert_int_eq(berth_listener_address(second, address, sizeof(address)), 0);
    const int to_second = rig_connect_to(second);
    ck_assert_int_ge(to_second, 0);
    HOST_UNTIL(&rig, host.opens == 3);
    ck_assert_int_eq(berth_connect(rig.loop, address, &hosted, NULL, NULL), 0);
    HOST_UNTIL(&rig, host.opens == 5);
    berth_listener_close(second);
    ck_assert_int_eq(close(to_second), 0);
    BERTH_TABLE_EACH_LIVE (berth_loop_table(rig.loop), index) {
        struct berth_slot *slot = berth_table_slot(berth_loop_table(rig.loop), index);
        (void)berth_conn_abort((struct berth_conn *)(void *)slot);
    }
    HOST_UNTIL(&rig, host.closes == 5);
    ck_assert_int_eq(close(client), 0);
    host_end(&rig);
}
END_TEST

static struct {
    unsigned datagrams;
} heard;

static void
hear(struct berth_udp *udp, const struct berth_datagram *list, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        (void)berth_udp_reply(udp, &list[i], list[i].span.data, list[i].span.length);
    heard.datagrams += n;
}

/** A socket that is opened between turns receives at once, and buffers are never missing. */
START_TEST(datagrams_are_told)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_udp_handlers hearing = {.datagrams = hear};
    struct rig rig;
    struct berth_udp *udp = NULL;
    struct sockaddr_in6 to;
    uint32_t length = 0;
    char text[BERTH_ADDRESS_TEXT_MAX];
    if (!host_begin(&rig, engine))
        return;
    memset(&heard, 0, sizeof(heard));
    ck_assert_int_eq(berth_udp_open(rig.loop, "udp://127.0.0.1:0", &hearing, NULL, NULL, &udp), 0);
    ck_assert_int_eq(berth_udp_address(udp, text, sizeof(text)), 0);
    ck_assert_int_eq(berth_udp_address_parse(text, &to, &length), 0);
    const int client = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ck_assert_int_eq(connect(client, (struct sockaddr *)&to, length), 0);
    for (unsigned i = 1; i <= 200; i++) {
        rig_write(client, "hello", 5);
        HOST_UNTIL(&rig, heard.datagrams == i);
        HOST_UNTIL(&rig, rig_read(client, text, sizeof(text)) == 5);
    }
    host_settles(&rig);
    ck_assert_uint_eq(rig_stats(&rig).enobufs, 0);
    ck_assert_int_eq(berth_udp_close(udp), 0);
    HOST_UNTIL(&rig, host_waits(0) == 0);
    ck_assert_int_eq(close(client), 0);
    host_end(&rig);
}
END_TEST

/** More than one turn takes is told again, as often as it needs. */
START_TEST(what_is_left_is_told_again)
{
    RIG_ENGINE_OR_RETURN(engine);
    static char data[1 << 20];
    struct rig rig;
    struct berth_loop_options options;
    int clients[60];
    rig_options(&options, engine, NULL);
    options.events_max = 16;
    options.fairness_bytes = 4096;
    if (!host_begin_with(&rig, &options, &hosted))
        return;
    for (unsigned i = 0; i < 60; i++)
        clients[i] = rig_client(&rig);
    HOST_UNTIL(&rig, host.opens == 60);
    for (unsigned i = 0; i < 60; i++)
        rig_write(clients[i], "x", 1);
    HOST_UNTIL(&rig, host.received == 60);
    const ssize_t sent = send(clients[0], data, sizeof(data), MSG_DONTWAIT | MSG_NOSIGNAL);
    ck_assert_int_gt(sent, 100000);
    HOST_UNTIL(&rig, host.received == 60 + (size_t)sent);
    for (unsigned i = 0; i < 60; i++)
        rig_reset(clients[i]);
    host_end(&rig);
}
END_TEST

/** Streams that fill the sockets in both directions. */
START_TEST(streams_keep_flowing)
{
    RIG_ENGINE_OR_RETURN(engine);
    const size_t total = 8 << 20;
    static unsigned char data[65536];
    struct rig rig;
    size_t written = 0, back = 0;
    if (!host_begin(&rig, engine))
        return;
    const int client = rig_client(&rig);
    while (back < total) {
        size_t length = total - written < 50000 ? total - written : 50000;
        const ssize_t sent =
            send(client, ways_bytes(1, written, length), length, MSG_NOSIGNAL | MSG_DONTWAIT);
        written += sent > 0 ? (size_t)sent : 0;
        const intptr_t got = rig_read(client, data, sizeof(data));
        if (got > 0) {
            ck_assert(ways_same(data, (size_t)got, 1, back));
            back += (size_t)got;
        }
        if (sent > 0 || got > 0) {
            if (host_waits(0) == 1)
                (void)rig_turn(&rig, 0);
            continue;
        }
        /* The client is stuck: either the loop has something to do, or the network has. */
        struct pollfd polls[2] = {{.fd = client, .events = POLLIN},
                                  {.fd = host.set, .events = POLLIN}};
        if (written < total)
            polls[0].events |= POLLOUT;
        int ready;
        do
            ready = poll(polls, 2, HOST_WAIT_MS);
        while (ready < 0 && errno == EINTR);
        ck_assert_msg(ready > 0, "stuck at %zu of %zu", back, written);
        if (polls[1].revents)
            (void)rig_turn(&rig, 0);
    }
    ck_assert_int_eq(close(client), 0);
    host_end(&rig);
}
END_TEST

static unsigned posted;

static void
on_post(struct berth_loop *loop, void *arg)
{
    (void)arg;
    if (++posted < 3 && loop != NULL) /* from inside the turn, after the mailbox was emptied */
        ck_assert_int_eq(berth_loop_post(loop, on_post, NULL), 0);
}

static void *
post_main(void *arg)
{
    if (berth_loop_post(arg, on_post, NULL) != 0)
        abort();
    return NULL;
}

static void
on_signal_event(struct berth_loop *loop, int signo, void *ctx)
{
    (void)loop, (void)signo;
    (*(unsigned *)ctx)++;
}

START_TEST(posts_and_signals)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    pthread_t thread;
    unsigned signals = 0;
    if (!host_begin(&rig, engine))
        return;
    posted = 0;
    ck_assert_int_eq(berth_loop_post(rig.loop, on_post, NULL), 0);
    HOST_UNTIL(&rig, posted == 3);
    host_settles(&rig);
    posted = 0;
    ck_assert_int_eq(pthread_create(&thread, NULL, post_main, rig.loop), 0);
    HOST_UNTIL(&rig, posted == 3);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, on_signal_event, &signals), 0);
    host_settles(&rig);
    ck_assert_int_eq(raise(SIGUSR1), 0);
    HOST_UNTIL(&rig, signals == 1);
    host_settles(&rig);
    ck_assert_int_eq(berth_loop_stop(rig.loop), 0);
    ck_assert_int_eq(host_waits(HOST_WAIT_MS), 1);
    host_end(&rig);
}
END_TEST

/** Nothing happens but time. */
START_TEST(what_becomes_due_is_told)
{
    RIG_ENGINE_OR_RETURN(engine);
    static char data[8 << 20];
    struct rig rig;
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.close_timeout_ms = 150;
    if (!host_begin_with(&rig, &options, &hosted))
        return;
    const int client = rig_client(&rig);
    HOST_UNTIL(&rig, host.opens == 1);
    struct berth_conn *conn = berth_conn_find(rig.loop, host.last);
    ck_assert_int_eq(berth_send(conn, data, sizeof(data)), 0);
    ck_assert_int_eq(berth_conn_close(conn), 0); /* and the client does not read */
    const uint64_t turns = host.turns;
    HOST_UNTIL(&rig, host.closes == 1);
    ck_assert_int_eq(host.reason, -ETIMEDOUT);
    ck_assert_uint_lt(host.turns - turns, 100); /* it looks now and then; it does not spin */
    ck_assert_int_eq(close(client), 0);
    host_end(&rig);
}
END_TEST

/* ---- buffers ----------------------------------------------------------------------------------
 */

static struct {
    struct berth_lease leases[2048];
    unsigned count;
} kept;

static void
keep_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct berth_pool *pool = berth_loop_pool(berth_conn_loop(conn));
    for (unsigned i = 0; i < n; i++) {
        ck_assert_uint_lt(kept.count, 2048);
        ck_assert_int_eq(
            berth_retain(pool, &spans[i], 0, spans[i].length, 0, &kept.leases[kept.count++]), 0);
    }
    host.received += bytes;
}

static const struct berth_handlers keeping = {
    .open = host_open, .data = keep_data, .close = host_close};

/** Another thread gives the buffers back: nobody tells the host but the loop's own tick. */
static void *
release_main(void *arg)
{
    for (unsigned i = 0; i < kept.count; i++)
        if (berth_release(arg, kept.leases[i]) != 0)
            abort();
    return NULL;
}

START_TEST(released_buffers_are_used)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    struct berth_pool_options pool;
    pthread_t thread;
    berth_pool_options_init(&pool);
    pool.bytes_max = 8 << 20;
    for (int i = 0; i < BERTH_CLASS_COUNT; i++)
        pool.class_bytes_max[i] = 2 << 20;
    rig_options(&options, engine, &pool);
    options.receive_buffers = 16;
    kept.count = 0;
    if (!host_begin_with(&rig, &options, &keeping))
        return;
    const int client = rig_client(&rig);
    for (unsigned turn = 0; rig_stats(&rig).starved == 0 && turn < 10000; turn++) {
        rig_flood(client);
        ck_assert_int_eq(host_waits(HOST_WAIT_MS), 1);
        (void)rig_turn(&rig, 0);
    }
    ck_assert_uint_gt(rig_stats(&rig).starved, 0);
    for (int i = 0; i < 20 && host_waits(100) == 1; i++)
        (void)rig_turn(&rig, 0);
    const size_t before = host.received;
    const unsigned count = kept.count;
    ck_assert_int_eq(pthread_create(&thread, NULL, release_main, berth_loop_pool(rig.loop)), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    kept.count = 0;
    HOST_UNTIL(&rig, host.received > before);
    ck_assert_uint_gt(count, 0);
    rig_reset(client);
    /* What it still keeps goes back as it comes. */
    while (berth_loop_conns(rig.loop) > 0) {
        while (kept.count > 0)
            ck_assert_int_eq(berth_release(berth_loop_pool(rig.loop), kept.leases[--kept.count]),
                             0);
        ck_assert_int_eq(host_waits(HOST_WAIT_MS), 1);
        (void)rig_turn(&rig, 0);
    }
    while (kept.count > 0)
        ck_assert_int_eq(berth_release(berth_loop_pool(rig.loop), kept.leases[--kept.count]), 0);
    host_end(&rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("nested");
    RIG_ADD(suite, events_are_told);
    RIG_ADD(suite, time_goes_on_before_the_first_turn);
    RIG_ADD(suite, calls_between_turns);
    RIG_ADD(suite, datagrams_are_told);
    RIG_ADD(suite, what_is_left_is_told_again);
    RIG_ADD(suite, streams_keep_flowing);
    RIG_ADD(suite, posts_and_signals);
    RIG_ADD(suite, what_becomes_due_is_told);
    RIG_ADD(suite, released_buffers_are_used);
    return test_run(suite);
}
