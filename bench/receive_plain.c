/*
 * Receiving by recv(2): waiting in the call, or behind epoll, or with MSG_TRUNC, which makes the
 * kernel throw the bytes away: no way of receiving without copying can need less than that. The
 * last of these, with a real receive now and then, is also how the bytes of senders are drained.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stream.h"

/** Receives once. 0 go on, -EAGAIN there is no more, 1 the peer is gone, or -errno. */
static inline int
receive(struct stream_side *side, unsigned char *buffer, size_t bytes, int flags)
{
    const ssize_t got = recv(side->fd, buffer, bytes, flags);
    side->counters.syscalls++;
    if (got <= 0) {
        const int error = got == 0 ? 1 : -errno;
        return error == 1 || error == -EAGAIN ? error : stream_call_failed(error);
    }
    if (flags & MSG_TRUNC) {
        stream_discarded(side, (size_t)got);
    } else {
        stream_received(side, buffer, (size_t)got);
        stream_settled(side, (size_t)got, (size_t)got);
    }
    return 0;
}

static int
run_waiting(struct stream_side *side, unsigned char *buffer)
{
    const size_t bytes = side->path->bytes;
    const bool discard = side->path->mode != STREAM_BLOCKING;
    const bool sample = side->path->mode == STREAM_SAMPLE;
    int error = 0;
    for (unsigned calls = 0; error <= 0 && stream_goes_on(side); calls++) {
        const bool look = !discard || (sample && calls % STREAM_SAMPLE_EVERY == 0);
        error = receive(side, buffer, bytes, look ? 0 : MSG_TRUNC);
        if (error < 0 && error != -EAGAIN)
            return error;
    }
    return 0;
}

static int
run_epoll(struct stream_side *side, unsigned char *buffer)
{
    struct epoll_event event = {.events = EPOLLIN};
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, side->fd, &event) != 0)
        return -errno;
    int error = 0;
    while (error <= 0 && stream_goes_on(side)) {
        const int ready = epoll_wait(epoll, &event, 1, STREAM_BLOCK_MS);
        side->counters.syscalls++;
        error = 0;
        while (ready > 0 && error == 0 && stream_goes_on(side))
            error = receive(side, buffer, side->path->bytes, MSG_DONTWAIT);
        if (error < 0 && error != -EAGAIN)
            break;
    }
    close(epoll);
    return error < 0 && error != -EAGAIN ? error : 0;
}

int
receive_plain_run(struct stream_side *side)
{
    unsigned char *buffer = stream_memory(side->path->bytes);
    if (buffer == NULL)
        return -ENOMEM;
    stream_ready(side);
    return side->path->mode == STREAM_EPOLL ? run_epoll(side, buffer) : run_waiting(side, buffer);
}
