/*
 * Passing on what one connection receives to another, by hand: recv(2) and send(2) through a
 * buffer, which copies twice, and splice(2) through a pipe, in which only references to the
 * kernel's pages stand. Calls wait until there are bytes, or room.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stream.h"

/** Counts what a call has passed on, `copies` times copied. 0 go on, 1 it is gone, or -errno. */
static inline int
count(struct stream_side *side, ssize_t sent, unsigned copies)
{
    side->counters.syscalls++;
    if (sent < 0)
        return stream_call_failed(-errno);
    side->counters.received_bytes += (size_t)sent;
    stream_settled(side, (size_t)sent, (size_t)sent * copies);
    return 0;
}

/* ---- through a buffer --------------------------------------------------------------------------
 */

static int
buffer_empty(struct stream_side *side, const unsigned char *buffer, size_t bytes)
{
    int error = 0;
    for (size_t at = 0; at < bytes && error == 0 && stream_goes_on(side);) {
        const ssize_t sent = send(side->fd_onward, buffer + at, bytes - at, MSG_NOSIGNAL);
        error = count(side, sent, 2);
        at += sent > 0 ? (size_t)sent : 0;
    }
    return error;
}

int
relay_copy_run(struct stream_side *side)
{
    unsigned char *buffer = stream_memory(side->path->bytes);
    if (buffer == NULL)
        return -ENOMEM;
    int error = 0;
    stream_ready(side);
    while (error == 0 && stream_goes_on(side)) {
        const ssize_t got = recv(side->fd, buffer, side->path->bytes, 0);
        side->counters.syscalls++;
        if (got <= 0)
            error = got == 0 ? 1 : stream_call_failed(-errno);
        else
            error = buffer_empty(side, buffer, (size_t)got);
    }
    return error > 0 ? 0 : error;
}

/* ---- through a pipe ----------------------------------------------------------------------------
 */

static int
pipe_empty(struct stream_side *side, int from, size_t bytes)
{
    int error = 0;
    while (bytes > 0 && error == 0 && stream_goes_on(side)) {
        const ssize_t sent = splice(from, NULL, side->fd_onward, NULL, bytes, SPLICE_F_MOVE);
        error = count(side, sent, 0);
        bytes -= sent > 0 ? (size_t)sent : 0;
    }
    return error;
}

int
relay_splice_run(struct stream_side *side)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -errno;
    /* As many pages as a call takes, or, where that is refused, what there are: then it takes less.
     */
    (void)fcntl(ends[1], F_SETPIPE_SZ, (int)side->path->bytes);
    int error = 0;
    stream_ready(side);
    while (error == 0 && stream_goes_on(side)) {
        const ssize_t got = splice(side->fd, NULL, ends[1], NULL, side->path->bytes, SPLICE_F_MOVE);
        side->counters.syscalls++;
        if (got <= 0)
            error = got == 0 ? 1 : stream_call_failed(-errno);
        else
            error = pipe_empty(side, ends[0], (size_t)got);
    }
    close(ends[0]);
    close(ends[1]);
    return error > 0 ? 0 : error;
}
