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

#include "os/sys.h"

/** Lends what was read, and puts the buffer back unless it was retained. */
static void
lend(struct berth_loop *loop, struct berth_slot *slot, uint32_t buffer, uint32_t length)
{
    struct berth_span span;
    if (berth_pool_lend(loop->pool, buffer, length, &span) == 0)
        conn_deliver(loop, slot, &span, 1, length);
    if (berth_pool_settle(loop->pool, buffer) == 1)
        (void)berth_pool_unpost(loop->pool, buffer);
}

size_t
receive_now(struct berth_loop *loop, struct berth_slot *slot, enum berth_class size_class)
{
    uint32_t buffer;
    void *data;
    BERTH_ASSERT(conn_wants_data(slot));
    if (berth_pool_post(loop->pool, size_class, BERTH_FOR_ACTIVE, &buffer, &data) != 0) {
        conn_starve(loop, slot);
        return 0;
    }
    (void)berth_pool_expose(loop->pool, buffer);
    size_t size = berth_class_bytes(size_class);
    if (BERTH_UNLIKELY(slot->state & CONN_CREDIT) && slot_cold(loop, slot)->credit < size)
        size = slot_cold(loop, slot)->credit;
    const intptr_t got = sys_recv(berth_slot_fd(slot), data, size, MSG_DONTWAIT);
    loop->stats.syscalls++;
    if (BERTH_LIKELY(got > 0)) {
        lend(loop, slot, buffer, (uint32_t)got);
        return (size_t)got;
    }
    (void)berth_pool_unpost(loop->pool, buffer);
    if (got == 0)
        conn_eof(loop, slot);
    else if (got != -EAGAIN && got != -EINTR)
        conn_failed(loop, slot, (int)got);
    return 0;
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
        loop->current = slot;
        slot->state |= CONN_TODO; /* afterwards it receives in the ordinary way again */
        (void)receive_now(loop, slot, BERTH_CLASS_4K);
        conn_after_event(loop, slot);
    }
    return served;
}
