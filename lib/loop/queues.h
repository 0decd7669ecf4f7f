/*
 * What stands in line in a loop: bytes to be sent, the batch of those that are sent at once, and
 * calls that were posted. Only what it looks like; who moves it is send.c, receive.c and post.c.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_QUEUES_H
#define BERTH_LOOP_QUEUES_H

#include <stdint.h>

#include "berth/cacheline.h"
#include "berth/loop_cross.h"
#include "berth/pool.h"

/** Send-queue nodes: an array, linked by index. Node 0 is never used. */
struct send_node {
    struct berth_lease lease; /**< what is left to send */
    uint32_t next;
    uint32_t tail;      /**< head only: the last node */
    uint32_t bytes;     /**< head only: of the whole queue */
    uint16_t room;      /**< bytes free behind the lease, in a buffer that is the queue's alone */
    uint16_t in_flight; /**< head only: nodes the kernel is reading; and SEND_IN_PLACE */
};
BERTH_STATIC_ASSERT(sizeof(struct send_node) == 32, "two to a cache line");

/** Beside that count: they are read in place, and have an operation of their own. */
#define SEND_IN_PLACE 0x8000u

struct send_nodes {
    struct send_node *at;
    uint32_t free_head;
    uint32_t fresh;     /**< the lowest never used */
    uint32_t committed; /**< nodes in writable memory */
    uint32_t max;
};

/** A posted pool buffer. */
struct receive_buffer {
    void *data;
    uint32_t buffer;
};

/**
 * Engines that send at once receive for up to this many connections, then send for all of them: the
 * kernel's receive path and its send path each stay in the instruction cache for a while.
 * What is known of the gain: docs/design/loop.md.
 */
#define BATCH_MAX 64

/**
 * A connection that has been alone for some turns may have so many shares in one go: nobody seems
 * to wait behind it.
 */
#define SHARES_ALONE 16
#define ALONE_TURNS 8

/** What such a batch holds on to until its sends are done. */
struct batch {
    struct berth_slot *flush[BATCH_MAX];      /**< have something queued to send */
    struct berth_span lent[BATCH_MAX];        /**< still being sent from, without a reference */
    struct receive_buffer at_hand[BATCH_MAX]; /**< posted, to read into next: the warmest last */
    uint32_t flush_count, lent_count, at_hand_count;
    uint64_t receives_before; /**< loop->stats.receives when the last turn was over */
};

/** What other threads posted: a stack, and what the loop has taken of it, oldest first. */
struct mailbox {
    struct berth_post *stack __attribute__((aligned(BERTH_CACHE_LINE))); /**< atomic */
    uint64_t wakes;                                                      /**< atomic */
    uint32_t callers; /**< atomic: threads inside a call that any thread may make */
    struct berth_post *taken __attribute__((aligned(BERTH_CACHE_LINE))); /**< the loop's own */
};

#endif
