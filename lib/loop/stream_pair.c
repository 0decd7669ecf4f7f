/*
 * See stream_pair.h. Nothing here waits without an end: a packet filter may swallow what goes over
 * loopback.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#include "loop/stream_pair.h"

#include <netinet/tcp.h>
#include <sys/time.h>

#include "loop/address.h"
#include "os/sys.h"

static int
bound_waits(int fd, unsigned timeout_ms)
{
    const struct timeval timeout = {.tv_sec = timeout_ms / 1000,
                                    .tv_usec = (long)(timeout_ms % 1000) * 1000};
    intptr_t error = sys_setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    if (error == 0)
        error = sys_setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    return (int)error;
}

/*
 * Calls that may wait are tried again when they were interrupted: not only by signals, also by what
 * the kernel has still to do for a ring of this thread that was closed.
 */
#define INTERRUPTIONS_MAX 64

static int
connect_to(int fd, const struct address *address)
{
    intptr_t error = -EINTR;
    for (unsigned tries = 0; tries < INTERRUPTIONS_MAX && error == -EINTR; tries++)
        error = sys_connect(fd, &address->to.base, address->length);
    return error == -EISCONN ? 0 : (int)error; /* the first try went on meanwhile */
}

static int
accept_from(int listener, struct address *peer)
{
    intptr_t fd = -EINTR;
    for (unsigned tries = 0; tries < INTERRUPTIONS_MAX && fd == -EINTR; tries++) {
        peer->length = sizeof(peer->to);
        fd = sys_accept4(listener, &peer->to.base, &peer->length, SOCK_CLOEXEC);
    }
    return (int)fd;
}

/** A listening socket on a port of the kernel's choice; `address` becomes the real one. */
static int
open_listener(struct address *address, unsigned timeout_ms)
{
    int error = address_parse(address, "tcp://127.0.0.1:0");
    const int fd = (int)sys_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (error != 0 || fd < 0)
        return error != 0 ? error : fd;
    error = bound_waits(fd, timeout_ms);
    if (error == 0)
        error = (int)sys_bind(fd, &address->to.base, address->length);
    if (error == 0)
        error = (int)sys_listen(fd, 1);
    if (error == 0)
        error = (int)sys_getsockname(fd, &address->to.base, &address->length);
    if (error == 0)
        return fd;
    (void)sys_close(fd);
    return error;
}

/** Connects to that listener and accepts: whoever else connected meanwhile is not taken. */
static int
connect_pair(struct stream_pair *pair, int listener, const struct address *address,
             unsigned timeout_ms)
{
    struct address peer, own;
    const int on = 1;
    pair->sender = (int)sys_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (pair->sender < 0)
        return pair->sender;
    int error = bound_waits(pair->sender, timeout_ms);
    if (error == 0) /* or each small piece waits for the last one's acknowledgement */
        error = (int)sys_setsockopt(pair->sender, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (error == 0)
        error = connect_to(pair->sender, address);
    if (error)
        return error;
    pair->receiver = accept_from(listener, &peer);
    if (pair->receiver < 0)
        return pair->receiver;
    own.length = sizeof(own.to);
    error = (int)sys_getsockname(pair->sender, &own.to.base, &own.length);
    if (error == 0 && peer.to.v4.sin_port != own.to.v4.sin_port)
        error = -ECONNABORTED;
    return error == 0 ? bound_waits(pair->receiver, timeout_ms) : error;
}

static int
open_tcp(struct stream_pair *pair, unsigned timeout_ms)
{
    struct address address;
    const int listener = open_listener(&address, timeout_ms);
    if (listener < 0)
        return listener;
    const int error = connect_pair(pair, listener, &address, timeout_ms);
    (void)sys_close(listener);
    return error;
}

static int
open_unix(struct stream_pair *pair, unsigned timeout_ms)
{
    int ends[2];
    int error = (int)sys_socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
    if (error)
        return error;
    pair->receiver = ends[0];
    pair->sender = ends[1];
    error = bound_waits(pair->receiver, timeout_ms);
    return error == 0 ? bound_waits(pair->sender, timeout_ms) : error;
}

int
stream_pair_open(struct stream_pair *pair, int tcp, unsigned timeout_ms)
{
    pair->receiver = pair->sender = -1;
    const int error = tcp ? open_tcp(pair, timeout_ms) : open_unix(pair, timeout_ms);
    if (error)
        stream_pair_close(pair);
    return error;
}

void
stream_pair_close(struct stream_pair *pair)
{
    if (pair->receiver >= 0)
        (void)sys_close(pair->receiver);
    if (pair->sender >= 0)
        (void)sys_close(pair->sender);
    pair->receiver = pair->sender = -1;
}
