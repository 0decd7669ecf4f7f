/*
 * Reading from a socket by an ordinary recv(2) that does not wait: how readiness engines receive,
 * and how every engine serves connections that had to wait for a buffer.
 *
 * The invariant: a buffer is held only from just before the read until the callback has returned,
 * and those who starved are served in the order in which they came.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_SOCKET
#include "loop/loop_internal.h"
#include "loop/pull.h"
#include "loop/send.h"

#include "os/sanitize.h"
#include "os/probes.h"
#include "os/sys.h"

/** With so many buffers left in the pool, a busy loop may keep those at hand for its next turn. */
#define PLENTY (16 * BATCH_MAX)

/** A buffer to read into: one at hand from an earlier read of this turn, or one from the pool. */
static inline int
take_buffer(struct berth_loop *loop, enum berth_class size_class, struct receive_buffer *taken)
{
    struct batch *batch = &loop->batch;
    if (size_class == BERTH_CLASS_4K && batch->at_hand_count > 0) {
        *taken = batch->at_hand[--batch->at_hand_count];
        return 0;
    }
    return berth_pool_post(loop->pool, size_class, BERTH_FOR_ACTIVE, &taken->buffer, &taken->data);
}

void
receive_keep(struct berth_loop *loop, const struct receive_buffer *kept)
{
    struct batch *batch = &loop->batch;
    if (batch->at_hand_count < BATCH_MAX)
        batch->at_hand[batch->at_hand_count++] = *kept;
    else
        (void)berth_pool_unpost(loop->pool, kept->buffer);
}

void
receive_turn_over(struct berth_loop *loop)
{
    struct batch *batch = &loop->batch;
    const uint64_t reads = loop->stats.receives - batch->receives_before;
    batch->receives_before = loop->stats.receives;
    if (batch->at_hand_count <= reads &&
        berth_pool_available(loop->pool, BERTH_CLASS_4K, BERTH_FOR_NEW) >= PLENTY)
        return;
    while (batch->at_hand_count > 0)
        (void)berth_pool_unpost(loop->pool, batch->at_hand[--batch->at_hand_count].buffer);
}

/** Takes a buffer back that nobody looks at or sends from any more, unless it was retained. */
static inline void
settle(struct berth_loop *loop, enum berth_class size_class, const struct receive_buffer *taken)
{
    if (berth_pool_settle(loop->pool, taken->buffer) != 1)
        return;
    if (size_class == BERTH_CLASS_4K)
        receive_keep(loop, taken);
    else
        (void)berth_pool_unpost(loop->pool, taken->buffer);
}

/** Lends what was read, in a place where it can stay until the batch is sent. */
static void
lend(struct berth_loop *loop, struct berth_slot *slot, enum berth_class size_class,
     const struct receive_buffer *taken, uint32_t length)
{
    struct batch *batch = &loop->batch;
    struct berth_span *span = &batch->lent[batch->lent_count];
    if (BERTH_UNLIKELY(berth_pool_lend(loop->pool, taken->buffer, length, span) != 0))
        return;
    loop->lent = loop->engine->sends_at_once && size_class == BERTH_CLASS_4K ? span : NULL;
    loop->lent_used = 0;
    conn_deliver(loop, slot, span, 1, length);
    loop->lent = NULL;
    if (loop->lent_used)
        batch->lent_count++;
    else
        settle(loop, size_class, taken);
}

/** Nothing was read: why? */
static void
nothing_read(struct berth_loop *loop, struct berth_slot *slot, intptr_t error)
{
    if (error == 0)
        conn_eof(loop, slot);
    else if (error != -EAGAIN)
        conn_failed(loop, slot, (int)error);
}

static int
receive_has_ended(struct berth_loop *loop, struct berth_slot *slot)
{
    char byte;
    const int fd = descriptor_borrow(loop, slot);
    const intptr_t got =
        fd < 0 ? -EAGAIN : sys_recv(fd, &byte, sizeof(byte), MSG_DONTWAIT | MSG_PEEK);
    descriptor_return(loop, slot, fd);
    loop->stats.syscalls++;
    if (got > 0 || got == -EAGAIN || got == -EINTR)
        return 0;
    nothing_read(loop, slot, got);
    return 1;
}

void
receive_starve(struct berth_loop *loop, struct berth_slot *slot)
{
    /* Whoever holds the buffers may be waiting for just this connection to end. */
    if (berth_pool_available(loop->pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE) == 0 &&
        receive_has_ended(loop, slot))
        return;
    conn_starve(loop, slot);
}

size_t
receive_now(struct berth_loop *loop, struct berth_slot *slot, int fd, enum berth_class size_class)
{
    struct receive_buffer taken;
    BERTH_ASSERT(conn_wants_data(slot));
    if (BERTH_UNLIKELY(loop->batch.lent_count == BATCH_MAX))
        send_batch(loop);
    if (BERTH_UNLIKELY(take_buffer(loop, size_class, &taken) != 0)) {
        receive_starve(loop, slot);
        return 0;
    }
#ifdef BERTH_POISONS
    (void)berth_pool_expose(loop->pool, taken.buffer);
#endif
    size_t size =
        BERTH_LIKELY(size_class == BERTH_CLASS_4K) ? RECEIVE_BYTES : berth_class_bytes(size_class);
    if (BERTH_UNLIKELY(slot->state & CONN_CREDIT) && slot_cold(loop, slot)->credit < size)
        size = slot_cold(loop, slot)->credit;
    intptr_t got;
    do
        got = sys_recv(fd, taken.data, size, MSG_DONTWAIT);
    while (BERTH_UNLIKELY(got == -EINTR)); /* an edge tells of the bytes only once */
    loop->stats.syscalls++;
    if (BERTH_LIKELY(got > 0)) {
        lend(loop, slot, size_class, &taken, (uint32_t)got);
        return (size_t)got;
    }
    if (size_class == BERTH_CLASS_4K)
        receive_keep(loop, &taken);
    else
        (void)berth_pool_unpost(loop->pool, taken.buffer);
    nothing_read(loop, slot, got);
    return 0;
}

/** The same by a borrowed descriptor, or whatever the connection is read from by. */
static void
receive_borrowing(struct berth_loop *loop, struct berth_slot *slot)
{
    if (BERTH_UNLIKELY(conn_pulls(loop, slot))) {
        (void)pull_turn(loop, slot, loop->options.fairness_bytes, 0);
        return;
    }
    const int fd = descriptor_borrow(loop, slot);
    if (fd >= 0)
        (void)receive_now(loop, slot, fd, BERTH_CLASS_4K);
    descriptor_return(loop, slot, fd);
}

unsigned
receive_starved(struct berth_loop *loop)
{
    unsigned served = 0;
    for (uint32_t waiting = loop->starved.count; waiting > 0; waiting--) {
        if (berth_pool_available(loop->pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE) == 0)
            break;
        struct berth_slot *slot = conn_next_starved(loop);
        if (slot == NULL)
            break;
        served++;
        loop->stats.rearms++;
        CONN_COUNT(loop, slot, rearms, 1);
        BERTH_PROBE_CONN_WITH(rearm, slot, 0);
        loop->current = slot;
        slot->state |= CONN_TODO;         /* afterwards it receives in the ordinary way again */
        if (conn_may_receive(loop, slot)) /* an earlier one's callback may have changed that */
            receive_borrowing(loop, slot);
        conn_after_event(loop, slot);
    }
    return served;
}
