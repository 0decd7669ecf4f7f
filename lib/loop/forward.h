/*
 * Forwarding, for those who ask whether a connection takes part: see forward.c. Each is asked only
 * where something unusual has been seen already: a long queue, a limit on receiving, an end.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_FORWARD_H
#define BERTH_LOOP_FORWARD_H

#include "loop/loop_internal.h"

/** Whether a connection forwards, or is forwarded to. */
static inline int
forward_has_part(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return slot->class_id == CLASS_OWN && slot_kind(slot) == KIND_CONN &&
           slot_cold(loop, slot)->forward != NULL;
}

/**
 * The queue is below its low mark. 0: it has too many small pieces yet; otherwise whoever forwards
 * to this connection receives again.
 */
int forward_drained(struct berth_loop *loop, const struct berth_slot *slot);

/** The user's wish for credit of one that receives nothing at present: 1 if it is kept for later.
 */
int forward_keep_credit(struct berth_loop *loop, const struct berth_slot *slot, uint64_t credit);

/** The connection leaves its loop: it takes no part any more. Whoever does goes on without it. */
void forward_leave(struct berth_loop *loop, struct berth_slot *slot);

/** The connection is over, by a reset or in the ordinary way. */
void forward_over(struct berth_loop *loop, struct berth_slot *slot, int reset);

/** Frees what forwarding has allocated: the connections are gone. */
void forward_destroy(struct berth_loop *loop);

#endif
