/*
 * A connection whose bytes the kernel reads in place, and whose client does not read: what tests of
 * such sends share.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_STALLED_H
#define BERTH_TESTS_LOOP_STALLED_H

#include "loop/ends.h"

#define THRESHOLD 16384u

/** More than a stopped reader's socket holds, and less than the sender's takes. */
#define STALLED_BYTES (128u * 1024)
#define BIG_SOCKET_BYTES (4 << 20)

static inline struct berth_copies
copies_of(const struct ends *ends)
{
    struct berth_copies copies;
    berth_loop_copies_get(ends->rig.loop, &copies);
    return copies;
}

/** `insists`: goes on in place though loopback copies. */
static inline void
prepare_in_place(struct ends *ends, const char *engine, int insists)
{
    prepare(ends, engine);
    memset(&ways_wrapped, 0, sizeof(ways_wrapped));
    ends->options.zerocopy_bytes = THRESHOLD;
    ends->options.features = insists ? "+zerocopy" : NULL;
}

/** The server's socket takes much, whether or not somebody reads. */
static inline void
take_much(const struct ends *ends)
{
    const int bytes = BIG_SOCKET_BYTES;
    const int fd = rig_conn_fd(the_conn(ends));
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(close(fd), 0);
}

/** Begins with a client that does not read, and much that the kernel has taken from us. */
static inline void
begin_stalled(struct ends *ends, const char *engine, uint32_t close_timeout_ms)
{
    prepare_in_place(ends, engine, 1);
    ends->options.close_timeout_ms = close_timeout_ms;
    begin(ends);
    take_much(ends);
    queue_wrapped(ends, 2, STALLED_BYTES);
    RIG_UNTIL(&ends->rig, berth_conn_queued(the_conn(ends)) == 0, TURNS);
    for (unsigned i = 0; i < 5; i++)
        (void)rig_turn(&ends->rig, 1);
    ck_assert_uint_lt(ways_wrapped.freed, ways_wrapped.made);
}

/** What the client still gets to read, and then: 0 at the end, or -errno. */
static inline intptr_t
read_what_is_left(struct ends *ends)
{
    intptr_t got;
    do {
        got = client_reads(ends, WAYS_BYTES_MAX);
        (void)rig_turn(&ends->rig, 0);
    } while (got > 0);
    return got;
}

#endif
