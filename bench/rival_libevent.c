/*
 * Two rivals on libevent, as somebody who knows it writes them.
 *
 * `libevent`: a bufferevent per connection, whose input is moved to its output without a copy. What
 * it reads, writes and changes in epoll is the library's affair: its system calls are not told.
 * (strace shows five for a message: ioctl, readv, writev, and two epoll_ctl.)
 *
 * `libevent-event`: a struct event inside each connection, with recv and send made here; the rest
 * of a short send waits until there is room. Its system calls are known exactly: a turn waits once,
 * and event_add is one epoll_ctl.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/listener.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server.h"

/** With more than this unsent, a bufferevent reads no more. */
#define OUTPUT_BYTES_MAX ((size_t)64 << 10)

struct echo {
    struct server_counters counters;
    struct event_base *base;
    struct event *wake;
    unsigned char data[SERVER_RECEIVE_BYTES];
};

static struct echo echo;

/* ---- what both share ---------------------------------------------------------------------------
 */

static void
on_wake(evutil_socket_t fd, short events, void *context)
{
    (void)fd;
    (void)events;
    (void)context;
}

static int
begin(int listener, evconnlistener_cb accepted)
{
    const struct timeval period = {.tv_usec = SERVER_WAIT_MS * 1000};
    echo.base = event_base_new();
    if (echo.base == NULL)
        return -ENOMEM;
    if (evconnlistener_new(echo.base, accepted, NULL, LEV_OPT_CLOSE_ON_EXEC, 0, listener) == NULL)
        return -ENOMEM;
    echo.wake = event_new(echo.base, -1, EV_PERSIST, on_wake, NULL);
    if (echo.wake == NULL || event_add(echo.wake, &period) != 0)
        return -ENOMEM;
    return 0;
}

static int
serve(struct server_control *control, evconnlistener_cb accepted, bool tells_syscalls)
{
    uint16_t port = 0;
    /* Another library with symbols of these names, taken for this one, would pass unnoticed. */
    if (event_get_version_number() >> 16 != LIBEVENT_VERSION_NUMBER >> 16)
        return -ELIBBAD;
    const int listener = server_listen(&port);
    if (listener < 0)
        return listener;
    signal(SIGPIPE, SIG_IGN);
    echo.counters = server_counters_begin();
    const int error = begin(listener, accepted);
    if (error != 0)
        return error;
    snprintf(control->explain, sizeof control->explain, "libevent %s on %s", event_get_version(),
             event_base_get_method(echo.base));
    server_ready(control, port);
    while (server_running(control)) {
        struct server_counters told = echo.counters;
        told.syscalls = tells_syscalls ? told.syscalls + told.turns : SERVER_COUNT_UNKNOWN;
        if (server_asked(control))
            server_answer(control, &told);
        echo.counters.turns++;
        event_base_loop(echo.base, EVLOOP_ONCE);
    }
    return 0;
}

/* ---- on bufferevents ---------------------------------------------------------------------------
 */

static void on_buffer_read(struct bufferevent *conn, void *context);

static void
on_buffer_event(struct bufferevent *conn, short events, void *context)
{
    (void)context;
    if (events & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) {
        bufferevent_free(conn);
        echo.counters.conns--;
    }
}

static void
on_buffer_written(struct bufferevent *conn, void *context)
{
    bufferevent_setcb(conn, on_buffer_read, NULL, on_buffer_event, context);
    bufferevent_enable(conn, EV_READ);
}

static void
on_buffer_read(struct bufferevent *conn, void *context)
{
    struct evbuffer *input = bufferevent_get_input(conn);
    struct evbuffer *output = bufferevent_get_output(conn);
    echo.counters.received_bytes += evbuffer_get_length(input);
    evbuffer_add_buffer(output, input);
    if (evbuffer_get_length(output) > OUTPUT_BYTES_MAX) {
        bufferevent_disable(conn, EV_READ);
        bufferevent_setcb(conn, on_buffer_read, on_buffer_written, on_buffer_event, context);
    }
}

static void
on_buffer_accepted(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from,
                   int length, void *context)
{
    (void)listener;
    (void)from;
    (void)length;
    struct bufferevent *conn = bufferevent_socket_new(echo.base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (conn == NULL) {
        close(fd);
        return;
    }
    echo.counters.conns++;
    bufferevent_set_max_single_read(conn, SERVER_RECEIVE_BYTES);
    bufferevent_setcb(conn, on_buffer_read, NULL, on_buffer_event, context);
    bufferevent_enable(conn, EV_READ | EV_WRITE);
}

int
rival_libevent_serve(struct server_control *control, const struct server_kind *kind)
{
    (void)kind;
    return serve(control, on_buffer_accepted, false);
}

/* ---- on events alone ---------------------------------------------------------------------------
 */

struct conn {
    struct event event;
    unsigned char *rest; /**< what could not be sent yet; NULL in the usual case */
    uint32_t rest_bytes;
    uint32_t rest_sent;
};

static void on_event(evutil_socket_t fd, short events, void *context);

static void
conn_close(struct conn *conn, int fd)
{
    event_del(&conn->event);
    close(fd);
    free(conn->rest);
    free(conn);
    echo.counters.conns--;
    echo.counters.syscalls += 2;
}

/** The first time: `old` is 0. */
static void
conn_watch(struct conn *conn, int fd, short events, short old)
{
    if (old != 0)
        event_del(&conn->event);
    event_assign(&conn->event, echo.base, fd, (short)(events | EV_PERSIST), on_event, conn);
    if (event_add(&conn->event, NULL) != 0)
        conn_close(conn, fd);
    echo.counters.syscalls += old != 0 ? 2 : 1;
}

/** Keeps what the socket did not take, and listens for room instead of for more input. */
static void
conn_keep_rest(struct conn *conn, int fd, const unsigned char *data, size_t bytes)
{
    conn->rest = malloc(bytes);
    if (conn->rest == NULL) {
        conn_close(conn, fd);
        return;
    }
    memcpy(conn->rest, data, bytes);
    conn->rest_bytes = (uint32_t)bytes;
    conn->rest_sent = 0;
    conn_watch(conn, fd, EV_WRITE, EV_READ);
}

static void
conn_writable(struct conn *conn, int fd)
{
    const ssize_t sent =
        send(fd, conn->rest + conn->rest_sent, conn->rest_bytes - conn->rest_sent, MSG_NOSIGNAL);
    echo.counters.syscalls++;
    if (sent < 0) {
        if (errno != EAGAIN)
            conn_close(conn, fd);
        return;
    }
    conn->rest_sent += (uint32_t)sent;
    if (conn->rest_sent < conn->rest_bytes)
        return;
    free(conn->rest);
    conn->rest = NULL;
    conn_watch(conn, fd, EV_READ, EV_WRITE);
}

static void
conn_readable(struct conn *conn, int fd)
{
    const ssize_t got = recv(fd, echo.data, sizeof echo.data, 0);
    echo.counters.syscalls++;
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            conn_close(conn, fd);
        return;
    }
    echo.counters.received_bytes += (uint64_t)got;
    const ssize_t sent = send(fd, echo.data, (size_t)got, MSG_NOSIGNAL);
    echo.counters.syscalls++;
    if (sent == got)
        return;
    if (sent < 0 && errno != EAGAIN) {
        conn_close(conn, fd);
        return;
    }
    const size_t done = sent < 0 ? 0 : (size_t)sent;
    conn_keep_rest(conn, fd, echo.data + done, (size_t)got - done);
}

static void
on_event(evutil_socket_t fd, short events, void *context)
{
    if (events & EV_WRITE)
        conn_writable(context, fd);
    else
        conn_readable(context, fd);
}

static void
on_event_accepted(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from,
                  int length, void *context)
{
    (void)listener;
    (void)from;
    (void)length;
    (void)context;
    struct conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL) {
        close(fd);
        return;
    }
    echo.counters.conns++;
    echo.counters.syscalls++;
    conn_watch(conn, fd, EV_READ, 0);
}

int
rival_libevent_event_serve(struct server_control *control, const struct server_kind *kind)
{
    (void)kind;
    return serve(control, on_event_accepted, true);
}
