/*
 * Bytes that say where they belong, and every way to send them: what tests of long streams share.
 *
 * A stream has a key; the byte at each position of it is known, so that a byte lost, doubled,
 * changed or delivered to somebody else is seen wherever it arrives.
 *
 * The invariant: a send either queued exactly its bytes or nothing, and leaves nothing behind in
 * the pool but what the queue holds.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_WAYS_H
#define BERTH_TESTS_LOOP_WAYS_H

#include "loop/loop_rig.h"

/** No piece that is sent or compared at once is longer. */
#define WAYS_BYTES_MAX (200 * 1024)

/** Writes the bytes of that stream from `position` on. */
void ways_fill(void *data, size_t length, uint32_t key, uint64_t position);

/** Whether these are the bytes of that stream from `position` on. */
int ways_same(const void *data, size_t length, uint32_t key, uint64_t position);

/** Where those bytes stand already, to be read only. */
const void *ways_bytes(uint32_t key, uint64_t position, size_t length);

enum way {
    WAY_COPY,    /**< berth_send */
    WAY_LEASE,   /**< berth_send_lease of a pool buffer */
    WAY_WRAPPED, /**< berth_send_lease of foreign memory */
    WAY_CHAIN,   /**< berth_send_chain: pool buffers, slices and foreign memory */
    WAY_COUNT
};

/**
 * Sends the bytes of a stream from `position` on, in that way. Returns what the call said, or
 * -ENOBUFS if the pool had nothing to put them in.
 */
int ways_send(struct berth_conn *conn, enum way way, uint32_t key, uint64_t position, size_t length,
              uint64_t *random);

/** Writes the bytes into `length` bytes of the lent span, from `offset` on, and sends those. */
int ways_send_span(struct berth_conn *conn, const struct berth_span *span, uint32_t offset,
                   uint32_t length, uint32_t key, uint64_t position);

/** A length from 1 to `max`: each order of magnitude is as likely as the next. */
size_t ways_length(uint64_t *random, size_t max);

/** Pieces of foreign memory made, and given back: each must come back once. */
struct ways_count {
    unsigned made, freed;
};
extern struct ways_count ways_wrapped;

/** Foreign memory with bytes of a stream in it, as a lease. 0 or -ENOBUFS. */
int ways_wrap(struct berth_pool *pool, uint32_t key, uint64_t position, size_t length,
              struct berth_lease *lease);

/** Buffers that somebody holds: those that wait for data to come are not counted. */
unsigned ways_held(struct rig *rig);

/** Nobody is connected, nothing is held, all foreign memory came back; then rig_end. */
void ways_end(struct rig *rig);

#endif
