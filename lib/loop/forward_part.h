/*
 * A connection's part in forwarding, and what forward.c does for forward_handlers.c.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_FORWARD_PART_H
#define BERTH_LOOP_FORWARD_PART_H

#include "loop/forward.h"
#include "loop/pull.h"

/** The part that a connection has in forwarding. */
struct forward {
    const struct berth_handlers *handlers; /**< the user's */
    berth_token to;                        /**< where its bytes go, or none */
    berth_token from;                      /**< whose bytes come here, or none */
    uint64_t credit;                       /**< the user's, while it is held */
    struct forward *next;                  /**< of those that nobody uses */
    uint32_t pieces;     /**< in the queue of `to`, or fewer: counted when they seem too many */
    uint32_t full_bytes; /**< in that queue when its pipe took no more; 0: it does */
    uint32_t flags;
    uint8_t class_id; /**< that it would have without */
    uint8_t held;     /**< it receives nothing until the queue of `to` is short */
    uint8_t spliced;  /**< its bytes are pulled through a pipe */
};

/** In place of the handlers of whoever takes part; and who pulls for those that splice. */
extern const struct berth_handlers forward_handlers;
extern const struct puller forward_puller;

/** The part of a connection, or NULL: it has none. */
struct forward *forward_part(const struct berth_loop *loop, const struct berth_slot *slot);

/** The live connection that a record names, or NULL for none. */
struct berth_slot *forward_other(const struct berth_loop *loop, berth_token token);

/** It receives nothing until the queue of the one that it forwards to is short. */
void forward_hold(struct berth_loop *loop, struct berth_slot *slot);

/** Whoever waits for the queue is told when it is short again. */
void forward_mark_high(struct berth_loop *loop, struct berth_slot *to);

/** Holds `from` if the queue of `to`, which has just got `added` pieces more, is long. */
void forward_look_at_queue(struct berth_loop *loop, struct berth_slot *from, struct berth_slot *to,
                           uint32_t added);

/** From now on it receives as others do. */
void forward_splice_stop(struct berth_loop *loop, struct berth_slot *from);

/** `from` forwards no more. */
void forward_unlink(struct berth_loop *loop, struct berth_slot *from);

/** The other one is over, so this one is to end as well. */
void forward_follow(struct berth_loop *loop, struct berth_slot *slot, int reset);

static inline int
forward_takes_no_more(const struct berth_slot *slot)
{
    return slot->state & CONN_NO_SEND || slot->flags & BERTH_SLOT_CLOSING;
}

#endif
