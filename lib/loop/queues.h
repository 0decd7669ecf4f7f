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

/** What a connection may move in a turn that has been alone for so many. */
static inline uint64_t
share_of_turn(uint64_t share, uint32_t alone)
{
    return alone >= ALONE_TURNS ? share * SHARES_ALONE : share;
}

/**
 * Whose turn it is of those who receive a lot, as long as others are there who receive a little:
 * a turn has room for one share, and for one more by every four that wait, so that the others never
 * wait for many. When nobody else is there, all may go.
 */
struct bulk_turns {
    uint32_t company; /**< turns for which others are taken to be there */
    uint32_t waiting; /**< whom the last turn had no room for */
    uint64_t left;    /**< bytes that may still be received in this turn */
};

#define BULK_WAITING_PER_SHARE 4
#define BULK_COMPANY_TURNS 64

/** `bytes` came in already, of whoever did not wait. One may go in any case. */
static inline void
bulk_turn_begin(struct bulk_turns *bulk, uint64_t bytes, uint32_t share)
{
    const uint64_t room = (1 + (uint64_t)bulk->waiting / BULK_WAITING_PER_SHARE) * share;
    bulk->waiting = 0;
    bulk->left = bytes < room ? room - bytes : 1;
}

static inline void
bulk_turn_over(struct bulk_turns *bulk, int others)
{
    bulk->company = others ? BULK_COMPANY_TURNS : bulk->company - (bulk->company > 0);
}

/** Whether one more may go in this turn. */
static inline int
bulk_may_go(const struct bulk_turns *bulk)
{
    return bulk->company == 0 || bulk->left > 0;
}

/** It has received so much, or will. */
static inline void
bulk_went(struct bulk_turns *bulk, uint64_t bytes)
{
    bulk->left -= bytes < bulk->left ? bytes : bulk->left;
}

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
