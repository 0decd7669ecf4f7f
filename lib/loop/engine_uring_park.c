/*
 * Idle connections on io_uring. A posted multishot receive costs the kernel some 870 bytes, a poll
 * request some 260: whoever receives nothing for long has its receive exchanged for a poll request,
 * and back when there is something to receive. Who is idle is not decided here: see idle.c.
 *
 *   receive posted --uring_park--> being cancelled --ended--> poll request posted
 *        ^                              |                            |
 *        +------ something came --------+         readable, ended ---+
 *
 * A connection that is pulled (pull.h) has the same poll request, for as long as it is pulled; what
 * comes is fetched by its puller when the request has ended, and then the request is posted again.
 *
 * The invariants: a connection has a receive or a poll request in flight, never both; whatever ends
 * one of them, conn_progress or this file posts the next if data is wanted; bytes are never taken
 * by a receive that is being cancelled without being delivered, since it delivers like any other.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_URING
#include "loop/engine_uring.h"

#include <poll.h>

#include "loop/pull.h"
#include "os/probes.h"

/** Withdraws the posted receive, without hearing of it unless that fails. 0: not now. */
static int
withdraw(struct berth_loop *loop, struct berth_slot *slot, enum loop_op op)
{
    struct io_uring_sqe *submission = uring_get_submission(loop);
    if (submission == NULL)
        return 0;
    io_uring_prep_cancel64(submission, berth_slot_token(slot, (uint8_t)op), 0);
    submission->flags |= IOSQE_CQE_SKIP_SUCCESS; /* the end of the receive says it all */
    uring_set_token(submission, slot, OP_PARK);
    slot->state |= CONN_STOPPING;
    return 1;
}

int
uring_park(struct berth_loop *loop, struct berth_slot *slot)
{
    BERTH_ASSERT(slot->state & CONN_RECEIVING && slot_kind(slot) == KIND_CONN);
    /* A lane is taken back from whoever goes quiet, and then its connection comes by again. */
    if (slot->state & CONN_STOPPING || slot->flags & (SLOT_PARKED | SLOT_LANE))
        return 0;
    if (!withdraw(loop, slot, OP_RECEIVE))
        return 0;
    slot->flags |= SLOT_PARKED;
    return 1;
}

void
uring_on_park_failed(const struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    /* Not found: the receive has ended by itself, and its last completion says how. */
    if (result >= 0 || result == -ENOENT || !(slot->state & CONN_STOPPING))
        return;
    slot->state &= ~(uint32_t)CONN_STOPPING;
    if (!conn_pulls(loop, slot))
        slot->flags &= (uint8_t)~SLOT_PARKED; /* the receive is still posted: so be it */
    slot->state |= CONN_TODO;                 /* meanwhile it may have become unwelcome */
}

/** The poll request itself. POLLHUP and POLLERR need no asking for. */
static int
post_poll(struct berth_loop *loop, struct berth_slot *slot)
{
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL)
        return 0;
    io_uring_prep_poll_add(submission, berth_slot_fd(slot), POLLIN | POLLRDHUP);
    uring_set_file(uring_state(loop), submission, slot);
    uring_set_token(submission, slot, OP_PARKED);
    slot->state |= CONN_RECEIVING;
    slot->flags |= SLOT_PARKED;
    loop->parked++;
    return 1;
}

int
uring_park_or_not(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    BERTH_ASSERT(!(slot->state & CONN_RECEIVING));
    if (conn_pulls(loop, slot))
        return 0; /* conn_progress posts what is due now */
    slot->flags &= (uint8_t)~SLOT_PARKED;
    /* Anything but the cancel's own effect means that it is not idle, or not wanted any more: it
     * goes on as if nothing had been tried. Bytes that came meanwhile and are still in the socket
     * are no obstacle: the poll request will say so at once. */
    if (result != -ECANCELED || slot->state & CONN_READ_ACTIVE || !conn_may_receive(loop, slot))
        return 0;
    if (!post_poll(loop, slot))
        return 0;
    loop->stats.demotions++;
    BERTH_PROBE_CONN(park, slot);
    return 1;
}

/** Something came for a connection that is pulled. */
static void
pull(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    struct uring_engine *state = uring_state(loop);
    slot_cold(loop, slot)->pull_polls = 0;
    slot->state |= CONN_TODO; /* the poll request is posted again, or a receive */
    if (result < 0) {
        if (result != -ECANCELED && result != -EINTR && result != -EAGAIN && result != -ENOMEM)
            conn_failed(loop, slot, result);
        return;
    }
    uring_count_receiver(state, slot);
    const uint64_t share = share_of_turn(loop->options.fairness_bytes, state->alone);
    /* What is left makes the next poll request end at once: no need to look for the end now. */
    const uint64_t before = loop->stats.received_bytes;
    (void)pull_turn(loop, slot, (size_t)share, 0);
    if (loop->stats.received_bytes - before >= BULK_BYTES)
        slot->flags |= SLOT_BULK;
    else
        slot->flags &= (uint8_t)~SLOT_BULK;
}

int
uring_pull_post(struct berth_loop *loop, struct berth_slot *slot)
{
    BERTH_ASSERT(conn_pulls(loop, slot) && !(slot->state & CONN_RECEIVING));
    if (slot->flags & SLOT_LANE)
        uring_lane_close(loop, slot);
    if (post_poll(loop, slot))
        slot_cold(loop, slot)->pull_polls = 1;
    else
        conn_todo(loop, slot);
    return 0;
}

int
uring_is_polled(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return !conn_pulls(loop, slot) || slot_cold(loop, slot)->pull_polls;
}

void
uring_pull_start(struct berth_loop *loop, struct berth_slot *slot)
{
    if (!(slot->state & CONN_RECEIVING) || slot->state & CONN_STOPPING)
        return; /* whatever is posted next is a poll request */
    if (slot->flags & SLOT_PARKED)
        slot_cold(loop, slot)->pull_polls = 1;
    else
        (void)withdraw(loop, slot, slot->flags & SLOT_LANE ? OP_RECEIVE_LANE : OP_RECEIVE);
}

void
uring_pull_stop(struct berth_loop *loop, struct berth_slot *slot)
{
    /* With a poll request posted it is as one that was parked: what comes first promotes it. */
    const int posted = slot->state & CONN_RECEIVING;
    if (!posted || !(slot->state & CONN_STOPPING || slot_cold(loop, slot)->pull_polls))
        slot->flags &= (uint8_t)~SLOT_PARKED;
    slot_cold(loop, slot)->pull_polls = 0;
}

void
uring_on_parked(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    BERTH_ASSERT(slot->flags & SLOT_PARKED && loop->parked > 0);
    uring_operation_ended(slot);
    loop->parked--;
    loop->current = slot;
    if (conn_pulls(loop, slot)) {
        pull(loop, slot, result);
        return;
    }
    slot->flags &= (uint8_t)~SLOT_PARKED;
    if (result < 0 || !conn_may_receive(loop, slot)) {
        slot->state |= CONN_TODO; /* cancelled or failed: a receive is posted if one is wanted */
        return;
    }
    loop->stats.promotions++;
    BERTH_PROBE_CONN(promote, slot);
    (void)uring_receive_start(loop, slot);
}
