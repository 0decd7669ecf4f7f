/*
 * The floor: an echo server as a careful person writes it by hand over epoll, with no library and
 * nothing general in it. State in a static array indexed by descriptor; one receive buffer for all;
 * one recv and one send per message; a short send keeps its rest until the socket is writable.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server.h"

#define CONNS_MAX 65536

/** What could not be sent yet; nothing in the usual case, so that all-zero is a fresh connection.
 */
struct conn {
    unsigned char *rest;
    uint32_t rest_bytes;
    uint32_t rest_sent;
};

struct echo {
    int epoll;
    int listener;
    struct server_counters counters;
};

static struct conn conns[CONNS_MAX];

static void
conn_close(struct echo *echo, int fd)
{
    free(conns[fd].rest);
    memset(&conns[fd], 0, sizeof conns[fd]);
    echo->counters.conns--;
    echo->counters.syscalls++;
    close(fd);
}

static void
conn_watch(struct echo *echo, int fd, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    echo->counters.syscalls++;
    epoll_ctl(echo->epoll, operation, fd, &event);
}

static void
accept_all(struct echo *echo)
{
    for (;;) {
        const int fd = accept4(echo->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        echo->counters.syscalls++;
        if (fd < 0)
            return;
        if (fd >= CONNS_MAX) {
            close(fd);
            continue;
        }
        echo->counters.conns++;
        conn_watch(echo, fd, EPOLLIN, EPOLL_CTL_ADD);
    }
}

/** Keeps what the socket did not take, and listens for room instead of for more input. */
static void
conn_keep_rest(struct echo *echo, int fd, const unsigned char *data, size_t bytes)
{
    conns[fd].rest = malloc(bytes);
    if (conns[fd].rest == NULL) {
        conn_close(echo, fd);
        return;
    }
    memcpy(conns[fd].rest, data, bytes);
    conns[fd].rest_bytes = (uint32_t)bytes;
    conns[fd].rest_sent = 0;
    conn_watch(echo, fd, EPOLLOUT, EPOLL_CTL_MOD);
}

static void
conn_writable(struct echo *echo, int fd)
{
    struct conn *conn = &conns[fd];
    const ssize_t sent =
        send(fd, conn->rest + conn->rest_sent, conn->rest_bytes - conn->rest_sent, MSG_NOSIGNAL);
    echo->counters.syscalls++;
    if (sent < 0) {
        if (errno != EAGAIN)
            conn_close(echo, fd);
        return;
    }
    conn->rest_sent += (uint32_t)sent;
    if (conn->rest_sent < conn->rest_bytes)
        return;
    free(conn->rest);
    memset(conn, 0, sizeof *conn);
    conn_watch(echo, fd, EPOLLIN, EPOLL_CTL_MOD);
}

static void
conn_readable(struct echo *echo, int fd)
{
    unsigned char data[SERVER_RECEIVE_BYTES];
    const ssize_t got = recv(fd, data, sizeof data, 0);
    echo->counters.syscalls++;
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            conn_close(echo, fd);
        return;
    }
    echo->counters.received_bytes += (uint64_t)got;
    const ssize_t sent = send(fd, data, (size_t)got, MSG_NOSIGNAL);
    echo->counters.syscalls++;
    if (sent == got)
        return;
    if (sent < 0 && errno != EAGAIN) {
        conn_close(echo, fd);
        return;
    }
    const size_t done = sent < 0 ? 0 : (size_t)sent;
    conn_keep_rest(echo, fd, data + done, (size_t)got - done);
}

static void
turn(struct echo *echo)
{
    struct epoll_event events[SERVER_EVENTS_MAX];
    const int count = epoll_wait(echo->epoll, events, SERVER_EVENTS_MAX, SERVER_WAIT_MS);
    echo->counters.syscalls++;
    echo->counters.turns++;
    for (int i = 0; i < count; i++) {
        const int fd = events[i].data.fd;
        if (fd == echo->listener)
            accept_all(echo);
        else if (conns[fd].rest != NULL)
            conn_writable(echo, fd);
        else
            conn_readable(echo, fd);
    }
}

int
rival_epoll_serve(struct server_control *control, const struct server_kind *kind)
{
    (void)kind;
    uint16_t port = 0;
    struct echo echo = {.epoll = epoll_create1(EPOLL_CLOEXEC)};
    if (echo.epoll < 0)
        return -errno;
    echo.counters = server_counters_begin();
    echo.listener = server_listen(&port);
    if (echo.listener < 0)
        return echo.listener;
    conn_watch(&echo, echo.listener, EPOLLIN, EPOLL_CTL_ADD);
    server_ready(control, port);
    while (server_running(control)) {
        if (server_asked(control))
            server_answer(control, &echo.counters);
        turn(&echo);
    }
    return 0;
}
