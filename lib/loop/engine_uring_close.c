/*
 * Closing on io_uring: making what is in flight come back, and letting go of what a connection had.
 *
 * The invariant: a cancel is only a wish. What it asked back is in flight until its own last
 * completion has come.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_URING
#include "loop/engine_uring.h"

static void
cancel_operation(struct berth_loop *loop, const struct berth_slot *slot, enum loop_op op)
{
    struct io_uring_sqe *submission = uring_get_submission(loop);
    if (submission == NULL)
        return; /* it will be asked again */
    io_uring_prep_cancel64(submission, berth_slot_token(slot, (uint8_t)op), 0);
    uring_set_token(submission, slot, OP_CANCEL);
}

/** The send that the kernel has not taken yet, or what waits for room. A notification cannot be
 * cancelled. */
static void
cancel_send(struct berth_loop *loop, const struct berth_slot *slot)
{
    const struct zerocopy *in_place = slot_cold(loop, slot)->zerocopy.sends;
    const unsigned sending = in_place == NULL ? 0 : in_place->sending;
    cancel_operation(loop, slot,
                     sending == 0 ? OP_SEND : (enum loop_op)(OP_ZEROCOPY + sending - 1));
}

/**
 * By token, which the kernel finds at once: for a descriptor it goes through everything that waits
 * in this ring, 0.3 ms for 8,000 connections, and who closes many would do nothing else.
 */
static void
cancel_each(struct berth_loop *loop, const struct berth_slot *slot)
{
    const int parked = slot->flags & SLOT_PARKED, stopping = slot->state & CONN_STOPPING;
    if (slot->state & CONN_RECEIVING && (!parked || stopping || !uring_is_polled(loop, slot)))
        cancel_operation(loop, slot, slot->flags & SLOT_LANE ? OP_RECEIVE_LANE : OP_RECEIVE);
    if (slot->state & CONN_RECEIVING && parked)
        cancel_operation(loop, slot, OP_PARKED);
    if (slot->state & CONN_SENDING)
        cancel_send(loop, slot);
    if (slot->state & CONN_CONNECTING)
        cancel_operation(loop, slot, OP_CONNECT);
}

void
uring_cancel(struct berth_loop *loop, struct berth_slot *slot)
{
    if (slot_kind(slot) == KIND_CONN) {
        cancel_each(loop, slot);
        return;
    }
    /* Few, and datagrams may have many sends in flight. */
    struct io_uring_sqe *submission = uring_get_submission(loop);
    if (submission == NULL)
        return; /* it will be asked again */
    io_uring_prep_cancel_fd(submission, berth_slot_fd(slot), IORING_ASYNC_CANCEL_ALL);
    if (loop->direct) /* not by uring_set_file: the flag of the others is refused here */
        submission->cancel_flags |= IORING_ASYNC_CANCEL_FD_FIXED;
    uring_set_token(submission, slot, OP_CANCEL);
}

void
uring_forget(struct berth_loop *loop, struct berth_slot *slot)
{
    BERTH_ASSERT(slot->in_flight == 0);
    if (slot->flags & SLOT_LANE)
        uring_lane_close(loop, slot);
}
