/*
 * Sending by the ordinary calls, which wait until the socket has room: send(2) of one piece, a
 * vector of pieces, and the calls that hand the kernel pages instead of bytes: sendfile(2),
 * splice(2), vmsplice(2). Of those the kernel keeps references until the peer has acknowledged
 * them: nothing is copied, and nobody says when the pages may be changed.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "stream.h"

#define PIECES_MAX 16u

/** Counts what a call has sent, `copies` times copied. 0 go on, 1 the peer is gone, or -errno. */
static inline int
count(struct stream_side *side, ssize_t sent, unsigned copies)
{
    side->counters.syscalls++;
    if (sent < 0)
        return stream_call_failed(-errno);
    stream_sent(side, (size_t)sent);
    stream_settled(side, (size_t)sent, (size_t)sent * copies);
    return 0;
}

int
send_write_run(struct stream_side *side)
{
    int error = stream_source_make(side);
    if (error != 0)
        return error;
    stream_ready(side);
    while (error == 0 && stream_goes_on(side)) {
        const size_t bytes = stream_source_piece(side, side->path->bytes);
        error = count(side, send(side->fd, side->source + side->source_at, bytes, MSG_NOSIGNAL), 1);
    }
    return error > 0 ? 0 : error;
}

int
send_writev_run(struct stream_side *side)
{
    struct iovec pieces[PIECES_MAX];
    int error = stream_source_make(side);
    if (error != 0)
        return error;
    stream_ready(side);
    while (error == 0 && stream_goes_on(side)) {
        const size_t bytes = stream_source_piece(side, (size_t)side->path->bytes * PIECES_MAX);
        int pieces_count = 0;
        for (size_t at = 0; at < bytes; at += side->path->bytes) {
            pieces[pieces_count++] = (struct iovec){
                side->source + side->source_at + at,
                bytes - at < side->path->bytes ? bytes - at : side->path->bytes,
            };
        }
        error = count(side, writev(side->fd, pieces, pieces_count), 1);
    }
    return error > 0 ? 0 : error;
}

/** What sending a file costs when the program reads it: into a buffer, and out of it. */
int
send_read_run(struct stream_side *side)
{
    const int file = stream_source_file(side);
    unsigned char *buffer = file >= 0 ? stream_memory(side->path->bytes) : NULL;
    if (buffer == NULL)
        return file < 0 ? file : -ENOMEM;
    int error = 0;
    stream_ready(side);
    while (error == 0 && stream_goes_on(side)) {
        const size_t bytes = stream_source_piece(side, side->path->bytes);
        const ssize_t got = pread(file, buffer, bytes, (off_t)side->source_at);
        side->counters.syscalls++;
        if (got <= 0)
            error = got == 0 ? -EIO : stream_call_failed(-errno);
        else
            error = count(side, send(side->fd, buffer, (size_t)got, MSG_NOSIGNAL), 2);
    }
    close(file);
    return error > 0 ? 0 : error;
}

int
send_sendfile_run(struct stream_side *side)
{
    const int file = stream_source_file(side);
    if (file < 0)
        return file;
    int error = 0;
    stream_ready(side);
    while (error == 0 && stream_goes_on(side)) {
        off_t from = (off_t)side->source_at;
        const size_t bytes = stream_source_piece(side, STREAM_SOURCE_BYTES);
        error = count(side, sendfile(side->fd, file, &from, bytes), 0);
    }
    close(file);
    return error > 0 ? 0 : error;
}

/* ---- through a pipe ----------------------------------------------------------------------------
 */

/** Moves what is in the pipe on to the socket. 0 go on, 1 the peer is gone, or -errno. */
static int
pipe_empty(struct stream_side *side, int from, size_t bytes)
{
    int error = 0;
    while (bytes > 0 && error == 0 && stream_goes_on(side)) {
        const ssize_t sent = splice(from, NULL, side->fd, NULL, bytes, SPLICE_F_MOVE);
        error = count(side, sent, 0);
        if (sent > 0)
            bytes -= (size_t)sent;
    }
    return error;
}

/** `fill` puts up to path->bytes of the source into the pipe and returns how many it were. */
static int
run_through_pipe(struct stream_side *side, int file,
                 ssize_t (*fill)(struct stream_side *side, int file, int to))
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -errno;
    int error = 0;
    stream_ready(side);
    while (error == 0 && stream_goes_on(side)) {
        const ssize_t filled = fill(side, file, ends[1]);
        side->counters.syscalls++;
        error = filled < 0 ? stream_call_failed(-errno) : 0;
        if (filled > 0)
            error = pipe_empty(side, ends[0], (size_t)filled);
    }
    close(ends[0]);
    close(ends[1]);
    return error > 0 ? 0 : error;
}

static ssize_t
fill_from_file(struct stream_side *side, int file, int to)
{
    loff_t from = (loff_t)side->source_at;
    return splice(file, &from, to, NULL, stream_source_piece(side, side->path->bytes),
                  SPLICE_F_MOVE);
}

int
send_splice_run(struct stream_side *side)
{
    const int file = stream_source_file(side);
    if (file < 0)
        return file;
    const int error = run_through_pipe(side, file, fill_from_file);
    close(file);
    return error;
}

static ssize_t
fill_from_memory(struct stream_side *side, int file, int to)
{
    const struct iovec piece = {side->source + side->source_at,
                                stream_source_piece(side, side->path->bytes)};
    (void)file;
    return vmsplice(to, &piece, 1, 0);
}

int
send_vmsplice_run(struct stream_side *side)
{
    const int error = stream_source_make(side);
    return error != 0 ? error : run_through_pipe(side, -1, fill_from_memory);
}
