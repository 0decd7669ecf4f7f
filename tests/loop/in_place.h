/*
 * Pieces of memory that are sent in place, each of which says when it was given back: what tests
 * share in which the kernel's words about them are not its own.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_IN_PLACE_H
#define BERTH_TESTS_LOOP_IN_PLACE_H

#include "loop/ends.h"

#define PIECES_MAX 32
#define PIECE_BYTES 32768u

/** One for each that is queued in a test, in its order. */
struct pieces {
    unsigned count, freed_count;
    int freed[PIECES_MAX];
    unsigned char data[PIECES_MAX][PIECE_BYTES];
};
static struct pieces pieces;

static inline void
piece_freed(void *data, size_t length, void *context)
{
    int *freed = context;
    (void)data;
    ck_assert_uint_eq(length, PIECE_BYTES);
    ck_assert_int_eq(*freed, 0);
    *freed = 1;
    pieces.freed_count++;
}

static inline void
pieces_begin(void)
{
    memset(&pieces, 0, sizeof(pieces));
}

/** Queues the next one, and waits until the kernel has taken all of it. Returns its number. */
static inline unsigned
piece_send(struct ends *ends)
{
    const unsigned i = pieces.count++;
    struct berth_lease lease;
    ck_assert_uint_lt(i, PIECES_MAX);
    ways_fill(pieces.data[i], PIECE_BYTES, KEY_DOWN, ends->queued);
    ck_assert_int_eq(berth_wrap(berth_loop_pool(ends->rig.loop), pieces.data[i], PIECE_BYTES,
                                piece_freed, &pieces.freed[i], &lease),
                     0);
    ck_assert_int_eq(berth_send_lease(the_conn(ends), lease), 0);
    ends->queued += PIECE_BYTES;
    return i;
}

/** The client reads so far that it has had everything. */
static inline void
pieces_read(struct ends *ends)
{
    RIG_UNTIL(&ends->rig, (client_reads(ends, WAYS_BYTES_MAX), ends->read == ends->queued), TURNS);
}

/** Queued, taken and read; whether the kernel has said that it is done is another matter. */
static inline unsigned
piece_through(struct ends *ends)
{
    const unsigned i = piece_send(ends);
    pieces_read(ends);
    return i;
}

static inline struct berth_copies
copies_of(const struct ends *ends)
{
    struct berth_copies copies;
    berth_loop_copies_get(ends->rig.loop, &copies);
    return copies;
}

/** A socket that takes a piece at once. */
static inline void
widen(const struct ends *ends)
{
    const int bytes = 1 << 20;
    const int fd = rig_conn_fd(the_conn(ends));
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(close(fd), 0);
}

#endif
