/*
 * An echo server on a plain epoll loop, with an allocated struct and a pointer per connection,
 * which is the usual way. It uses berth's pool for its buffers. epoll_server.c is the same server
 * with berth's table for its connections: compare the two.
 *
 * Level-triggered. A connection is read only while nothing waits to be sent to it, so it holds at
 * most one buffer, and none while it is idle.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <berth.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "epoll_net.h"

#define EVENTS_MAX 256
#define ACCEPTS_MAX 64 /* per turn, so that a rush of newcomers cannot starve the others */

/* What is kept per connection: allocated, found from a pointer in the event. */
struct conn {
    int fd;
    uint32_t events;         /* what it waits for */
    struct berth_lease rest; /* what the kernel would not take yet; all-zero: nothing */
};

static int set_fd;
static struct berth_pool *pool;
static struct berth_copies *ledger; /* the pool's; what the kernel copies is entered here */

static int
conn_fd(struct conn *conn)
{
    return conn->fd;
}

static int
conn_wait(struct conn *conn, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = conn};

    if (conn->events == events)
        return 0;
    conn->events = events;
    return epoll_ctl(set_fd, EPOLL_CTL_MOD, conn->fd, &event);
}

static void
conn_close(struct conn *conn)
{
    if (conn->rest.generation != 0)
        berth_release(pool, conn->rest);
    close(conn->fd);
    free(conn);
}

/* Takes over the descriptor, whatever comes of it. Returns NULL if there is no room for it. */
static struct conn *
conn_open(int fd)
{
    struct conn *conn = calloc(1, sizeof(*conn));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};

    if (conn == NULL) {
        close(fd);
        return NULL;
    }
    conn->fd = fd;
    conn->events = EPOLLIN;
    if (epoll_ctl(set_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        conn_close(conn);
        return NULL;
    }
    return conn;
}

/* Sends; what the kernel does not take waits for EPOLLOUT. Returns -1 if the connection is over. */
static int
conn_send(struct conn *conn, struct berth_lease lease)
{
    ssize_t sent = send(conn_fd(conn), berth_lease_data(pool, lease), lease.length, MSG_NOSIGNAL);

    conn->rest = lease;
    if (sent < 0 && errno != EAGAIN && errno != EINTR)
        return -1;
    if (sent > 0) {
        conn->rest.offset += (uint32_t)sent;
        conn->rest.length -= (uint32_t)sent;
        ledger->sent += (uint64_t)sent;
        ledger->sent_kernel += (uint64_t)sent;
    }
    if (conn->rest.length == 0) {
        berth_release(pool, conn->rest);
        conn->rest = (struct berth_lease){0};
    }
    return 0;
}

/* Receives once. Returns -1 if the connection is over, or if there is no buffer for it. */
static int
conn_receive(struct conn *conn)
{
    struct berth_lease lease;

    if (berth_pool_get(pool, BERTH_CLASS_16K, BERTH_FOR_ACTIVE, &lease) != 0)
        return -1;
    ssize_t got = recv(conn_fd(conn), berth_lease_data(pool, lease), lease.length, 0);
    if (got > 0) {
        lease.length = (uint32_t)got;
        ledger->received += (uint64_t)got;
        ledger->received_kernel += (uint64_t)got;
        return conn_send(conn, lease);
    }
    const int error = got < 0 ? errno : 0;
    berth_release(pool, lease);
    return error == EAGAIN || error == EINTR ? 0 : -1;
}

static void
conn_serve(struct conn *conn)
{
    const int waiting = conn->rest.generation != 0;

    if ((waiting ? conn_send(conn, conn->rest) : conn_receive(conn)) != 0 ||
        conn_wait(conn, conn->rest.generation != 0 ? EPOLLOUT : EPOLLIN) != 0)
        conn_close(conn);
}

static void
accept_some(struct conn *listener)
{
    for (int i = 0; i < ACCEPTS_MAX; i++) { /* NOLINT: the event set has the pointer to it */
        const int fd = net_accept(conn_fd(listener));
        if (fd < 0)
            break;
        conn_open(fd);
    }
}

int
main(int argc, char **argv)
{
    struct epoll_event events[EVENTS_MAX];
    struct conn *listener = NULL;
    sigset_t waiting;

    if (berth_pool_create(&pool, NULL) != 0 || (set_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        return EXIT_FAILURE;
    ledger = berth_pool_copies(pool);
    listener = conn_open(net_listen(argc, argv, &waiting)); /* which says that we are ready */
    if (listener == NULL)
        return EXIT_FAILURE;
    while (!net_stopping) {
        const int n = epoll_pwait(set_fd, events, EVENTS_MAX, -1, &waiting);
        for (int i = 0; i < n; i++) {
            struct conn *conn = events[i].data.ptr;
            if (conn == listener)
                accept_some(listener);
            else
                conn_serve(conn);
        }
        net_report(ledger);
    }
    conn_close(listener);
    close(set_fd);
    berth_pool_destroy(pool);
    return EXIT_SUCCESS;
}
