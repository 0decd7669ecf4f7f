/*
 * A rival: an echo server on libev, as somebody who knows it writes one: an ev_io inside each
 * connection, started once and switched over to writing only while a send was short; one receive
 * buffer for all.
 *
 * Its system calls are known exactly: recv and send are made here, a turn waits once, and a change
 * of what an ev_io watches is one epoll_ctl.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <ev.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server.h"

struct conn {
    ev_io io;
    unsigned char *rest; /**< what could not be sent yet; NULL in the usual case */
    uint32_t rest_bytes;
    uint32_t rest_sent;
};

struct echo {
    struct server_control *control;
    struct server_counters counters;
    ev_io listener;
    ev_prepare turn;
    ev_timer wake;
    unsigned char data[SERVER_RECEIVE_BYTES];
};

static struct conn *
conn_of(ev_io *io)
{
    return (struct conn *)(void *)((char *)io - offsetof(struct conn, io));
}

static struct echo *
echo_of(struct ev_loop *loop)
{
    return ev_userdata(loop);
}

static void
conn_close(struct ev_loop *loop, struct conn *conn)
{
    struct echo *echo = echo_of(loop);
    ev_io_stop(loop, &conn->io);
    close(conn->io.fd);
    free(conn->rest);
    free(conn);
    echo->counters.conns--;
    echo->counters.syscalls++;
}

static void
conn_watch(struct ev_loop *loop, struct conn *conn, int events)
{
    ev_io_stop(loop, &conn->io);
    ev_io_set(&conn->io, conn->io.fd, events);
    ev_io_start(loop, &conn->io);
    echo_of(loop)->counters.syscalls++;
}

/** Keeps what the socket did not take, and listens for room instead of for more input. */
static void
conn_keep_rest(struct ev_loop *loop, struct conn *conn, const unsigned char *data, size_t bytes)
{
    conn->rest = malloc(bytes);
    if (conn->rest == NULL) {
        conn_close(loop, conn);
        return;
    }
    memcpy(conn->rest, data, bytes);
    conn->rest_bytes = (uint32_t)bytes;
    conn->rest_sent = 0;
    conn_watch(loop, conn, EV_WRITE);
}

static void
conn_writable(struct ev_loop *loop, struct conn *conn)
{
    const ssize_t sent = send(conn->io.fd, conn->rest + conn->rest_sent,
                              conn->rest_bytes - conn->rest_sent, MSG_NOSIGNAL);
    echo_of(loop)->counters.syscalls++;
    if (sent < 0) {
        if (errno != EAGAIN)
            conn_close(loop, conn);
        return;
    }
    conn->rest_sent += (uint32_t)sent;
    if (conn->rest_sent < conn->rest_bytes)
        return;
    free(conn->rest);
    conn->rest = NULL;
    conn_watch(loop, conn, EV_READ);
}

static void
conn_readable(struct ev_loop *loop, struct conn *conn)
{
    struct echo *echo = echo_of(loop);
    const ssize_t got = recv(conn->io.fd, echo->data, sizeof echo->data, 0);
    echo->counters.syscalls++;
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            conn_close(loop, conn);
        return;
    }
    echo->counters.received_bytes += (uint64_t)got;
    const ssize_t sent = send(conn->io.fd, echo->data, (size_t)got, MSG_NOSIGNAL);
    echo->counters.syscalls++;
    if (sent == got)
        return;
    if (sent < 0 && errno != EAGAIN) {
        conn_close(loop, conn);
        return;
    }
    const size_t done = sent < 0 ? 0 : (size_t)sent;
    conn_keep_rest(loop, conn, echo->data + done, (size_t)got - done);
}

static void
on_conn(struct ev_loop *loop, ev_io *io, int events)
{
    struct conn *conn = conn_of(io);
    if (events & EV_WRITE)
        conn_writable(loop, conn);
    else
        conn_readable(loop, conn);
}

static void
on_listener(struct ev_loop *loop, ev_io *io, int events)
{
    struct echo *echo = echo_of(loop);
    (void)events;
    for (;;) {
        const int fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        echo->counters.syscalls++;
        if (fd < 0)
            return;
        struct conn *conn = calloc(1, sizeof *conn);
        if (conn == NULL) {
            close(fd);
            continue;
        }
        ev_io_init(&conn->io, on_conn, fd, EV_READ);
        ev_io_start(loop, &conn->io);
        echo->counters.conns++;
        echo->counters.syscalls++;
    }
}

/** Before each wait. */
static void
on_turn(struct ev_loop *loop, ev_prepare *turn, int events)
{
    struct echo *echo = echo_of(loop);
    (void)turn;
    (void)events;
    if (!server_running(echo->control))
        ev_break(loop, EVBREAK_ALL);
    if (server_asked(echo->control))
        server_answer(echo->control, &echo->counters);
    echo->counters.turns++;
    echo->counters.syscalls++;
}

static void
on_wake(struct ev_loop *loop, ev_timer *wake, int events)
{
    (void)loop;
    (void)wake;
    (void)events;
}

static const char *
backend_name(struct ev_loop *loop)
{
    return ev_backend(loop) == EVBACKEND_EPOLL ? "epoll" : "not epoll";
}

int
rival_libev_serve(struct server_control *control, const struct server_kind *kind)
{
    static struct echo echo;
    uint16_t port = 0;
    (void)kind;
    const int listener = server_listen(&port);
    if (listener < 0)
        return listener;
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOENV);
    if (loop == NULL)
        return -ENOMEM;
    echo.control = control;
    echo.counters = server_counters_begin();
    ev_set_userdata(loop, &echo);
    ev_io_init(&echo.listener, on_listener, listener, EV_READ);
    ev_io_start(loop, &echo.listener);
    ev_prepare_init(&echo.turn, on_turn);
    ev_prepare_start(loop, &echo.turn);
    ev_timer_init(&echo.wake, on_wake, SERVER_WAIT_MS / 1e3, SERVER_WAIT_MS / 1e3);
    ev_timer_start(loop, &echo.wake);
    snprintf(control->explain, sizeof control->explain, "libev %d.%d on %s", ev_version_major(),
             ev_version_minor(), backend_name(loop));
    server_ready(control, port);
    ev_run(loop, 0);
    return 0;
}
