/*
 * Parts of a file as one connection's bytes, in the midst of others: what the tests of
 * berth_send_file share.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_FILES_H
#define BERTH_TESTS_LOOP_FILES_H

#include "loop/ends.h"

#include <fcntl.h>
#include <sys/mman.h>

/** A file with the stream's bytes, each where it belongs: a part of it can be sent from anywhere.
 */
static inline int
make_file(size_t bytes)
{
    const int fd = memfd_create("stream", MFD_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    for (size_t at = 0; at < bytes;) {
        const size_t length = bytes - at < WAYS_BYTES_MAX ? bytes - at : WAYS_BYTES_MAX;
        ck_assert_int_eq(write(fd, ways_bytes(KEY_DOWN, at, length), length), (ssize_t)length);
        at += length;
    }
    return fd;
}

static inline int
copy_of(int fd)
{
    const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    ck_assert_int_ge(copy, 0);
    return copy;
}

/** Queues the next bytes of the stream, from a descriptor that the loop gets. */
static inline void
send_part(struct ends *ends, int fd, size_t length)
{
    const int copy = copy_of(fd);
    ck_assert_int_eq(berth_send_file(the_conn(ends), copy, ends->queued, length), 0);
    ends->queued += length;
    look_at_marks(ends, the_conn(ends));
}

static inline void
send_copy(struct ends *ends, size_t length)
{
    ck_assert_int_eq(
        ways_send(the_conn(ends), WAY_COPY, KEY_DOWN, ends->queued, length, &ends->random), 0);
    ends->queued += length;
    look_at_marks(ends, the_conn(ends));
}

static inline struct berth_copies
copies_of(const struct ends *ends)
{
    struct berth_copies copies;
    berth_loop_copies_get(ends->rig.loop, &copies);
    return copies;
}

/** Reads what was queued, all of it and no more. */
static inline void
read_queued(struct ends *ends)
{
    for (unsigned idle = 0; ends->read < ends->queued && idle < TURNS; idle++) {
        const intptr_t got = client_reads(ends, WAYS_BYTES_MAX);
        ck_assert_msg(got > 0 || got == -EAGAIN, "read: %s", strerror((int)-got));
        if (got > 0)
            idle = 0;
        (void)rig_turn(&ends->rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    ck_assert_uint_eq(ends->read, ends->queued);
}

/** Reads until the connection is over. Returns -ECONNRESET, or 0 if it ended in good order. */
static inline intptr_t
read_until_over(struct ends *ends)
{
    intptr_t got = -EAGAIN;
    for (unsigned idle = 0; (got > 0 || got == -EAGAIN) && idle < TURNS; idle++) {
        got = client_reads(ends, WAYS_BYTES_MAX);
        if (got > 0)
            idle = 0;
        (void)rig_turn(&ends->rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    return got;
}

/** That connection is over, for that reason, with a reset. */
static inline void
must_be_reset(struct ends *ends, int reason)
{
    ck_assert_int_eq(read_until_over(ends), -ECONNRESET);
    RIG_UNTIL(&ends->rig, ends->closes == 1, TURNS);
    ck_assert_int_eq(ends->reason, reason);
}

static inline void
finish(struct ends *ends, int fd)
{
    ck_assert_int_eq(close(fd), 0);
    end(ends);
}

static inline void
start(struct ends *ends, const char *engine)
{
    prepare(ends, engine);
    begin(ends);
}

#endif
