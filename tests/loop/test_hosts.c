/*
 * A loop inside other people's loops: libev and libuv, as far as this build has them. Each turns
 * ours when its descriptor is readable, and for no other reason.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include <fcntl.h>
#include <pthread.h>

#ifdef BERTH_HAVE_LIBEV
#include <ev.h>
#endif
#ifdef BERTH_HAVE_LIBUV
#include <uv.h>
#endif

#include "berth/loop_cross.h"

#define MESSAGES 300
#define HOST_TIMEOUT_S 60

#if defined(BERTH_HAVE_LIBEV) || defined(BERTH_HAVE_LIBUV)
static struct {
    unsigned closes;
    int timed_out;
    struct berth_loop *loop;
    void (*stop)(void);
} guest;

static void
guest_close(struct berth_conn *conn, int reason)
{
    (void)conn, (void)reason;
    guest.closes++;
    guest.stop();
}

static const struct berth_handlers guest_handlers = {.data = rig_echo, .close = guest_close};

static void
guest_turns(void)
{
    ck_assert_int_ge(berth_loop_turn(guest.loop, 0), 0);
}

/** Sends and waits for each answer, in a thread of its own. */
static void *
client_main(void *arg)
{
    const int client = *(int *)arg;
    char text[64];
    const struct timeval patience = {.tv_sec = HOST_TIMEOUT_S};
    (void)setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    for (unsigned i = 0; i < MESSAGES; i++) {
        const int length = snprintf(text, sizeof(text), "message %u", i);
        char back[64];
        if (send(client, text, (size_t)length, MSG_NOSIGNAL) != length ||
            recv(client, back, (size_t)length, MSG_WAITALL) != length ||
            memcmp(text, back, (size_t)length) != 0)
            abort();
    }
    (void)close(client);
    return NULL;
}

/** `run` runs the host until guest.stop. */
static void
be_a_guest(const char *engine, void (*run)(int fd))
{
    struct rig rig;
    struct berth_loop_options options;
    pthread_t thread;
    memset(&guest, 0, sizeof(guest));
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &guest_handlers, NULL);
    guest.loop = rig.loop;
    const int fd = berth_loop_fd(rig.loop);
    if (fd < 0) {
        ck_assert_int_eq(fd, -EOPNOTSUPP);
        ck_assert_str_eq(engine, "poll");
        rig_end(&rig);
        return;
    }
    int client = rig_client(&rig);
    const int flags = fcntl(client, F_GETFL, 0);
    ck_assert_int_eq(fcntl(client, F_SETFL, flags & ~O_NONBLOCK), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, client_main, &client), 0);
    run(fd);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(guest.timed_out, 0);
    ck_assert_uint_eq(guest.closes, 1);
    ck_assert_uint_ge(rig_stats(&rig).receives, MESSAGES);
    rig_end(&rig);
}
#endif

#ifdef BERTH_HAVE_LIBEV
static struct ev_loop *ev_host;

static void
ev_readable(struct ev_loop *host, ev_io *watcher, int events)
{
    (void)host, (void)watcher, (void)events;
    guest_turns();
}

static void
ev_too_long(struct ev_loop *host, ev_timer *watcher, int events)
{
    (void)watcher, (void)events;
    guest.timed_out = 1;
    ev_break(host, EVBREAK_ALL);
}

static void
ev_stop(void)
{
    ev_break(ev_host, EVBREAK_ALL);
}

static void
ev_runs(int fd)
{
    ev_io io;
    ev_timer timer;
    guest.stop = ev_stop;
    ev_host = ev_loop_new(EVFLAG_AUTO);
    ck_assert_ptr_nonnull(ev_host);
    ev_io_init(&io, ev_readable, fd, EV_READ);
    ev_timer_init(&timer, ev_too_long, HOST_TIMEOUT_S, 0);
    ev_io_start(ev_host, &io);
    ev_timer_start(ev_host, &timer);
    (void)ev_run(ev_host, 0);
    ev_io_stop(ev_host, &io);
    ev_timer_stop(ev_host, &timer);
    ev_loop_destroy(ev_host);
}

START_TEST(inside_libev)
{
    RIG_ENGINE_OR_RETURN(engine);
    be_a_guest(engine, ev_runs);
}
END_TEST
#endif

#ifdef BERTH_HAVE_LIBUV
static uv_loop_t uv_host;

static void
uv_readable(uv_poll_t *handle, int status, int events)
{
    (void)handle, (void)events;
    ck_assert_int_eq(status, 0);
    guest_turns();
}

static void
uv_too_long(uv_timer_t *timer)
{
    (void)timer;
    guest.timed_out = 1;
    uv_stop(&uv_host);
}

static void
uv_stop_it(void)
{
    uv_stop(&uv_host);
}

static void
uv_runs(int fd)
{
    uv_poll_t io;
    uv_timer_t timer;
    guest.stop = uv_stop_it;
    ck_assert_int_eq(uv_loop_init(&uv_host), 0);
    ck_assert_int_eq(uv_poll_init(&uv_host, &io, fd), 0);
    ck_assert_int_eq(uv_timer_init(&uv_host, &timer), 0);
    ck_assert_int_eq(uv_poll_start(&io, UV_READABLE, uv_readable), 0);
    ck_assert_int_eq(uv_timer_start(&timer, uv_too_long, HOST_TIMEOUT_S * 1000, 0), 0);
    (void)uv_run(&uv_host, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&io, NULL);
    uv_close((uv_handle_t *)&timer, NULL);
    (void)uv_run(&uv_host, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&uv_host), 0);
}

START_TEST(inside_libuv)
{
    RIG_ENGINE_OR_RETURN(engine);
    be_a_guest(engine, uv_runs);
}
END_TEST
#endif

int
main(void)
{
    Suite *suite = suite_create("hosts");
#ifdef BERTH_HAVE_LIBEV
    RIG_ADD(suite, inside_libev);
#else
    printf("skipped: libev is not installed\n");
#endif
#ifdef BERTH_HAVE_LIBUV
    /* The descriptors that libuv opens once and keeps are open before anybody counts. */
    if (uv_loop_init(&uv_host) != 0 || uv_loop_close(&uv_host) != 0)
        return EXIT_FAILURE;
    RIG_ADD(suite, inside_libuv);
#else
    printf("skipped: libuv is not installed\n");
#endif
    return test_run(suite);
}
