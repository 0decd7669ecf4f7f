/*
 * Draining: a loop that goes out of service. No newcomers from the first moment; those who are
 * inside finish, until their time is over. Datagram sockets serve them to the end, and are waited
 * for only as long as they have something to send.
 *
 * The invariant: it ends. A loop that drains has no way back, its deadline only comes nearer, and
 * after it no connection is begun.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>

#include "loop/udp_internal.h"

int
loop_drained(const struct berth_loop *loop)
{
    /* Whom the kernel does not let go of is told of its end, and nobody waits for it any more. */
    if (loop->drain.state == DRAIN_NOT || loop->conns != loop->zombies)
        return 0;
    return loop->drain.state == DRAIN_OVER || !udp_queued_any(loop);
}

/** Those who are still there have had their time. */
static void
on_deadline(struct berth_loop *loop, struct berth_timer *timer, void *context)
{
    (void)timer, (void)context;
    loop->drain.state = DRAIN_OVER;
    BERTH_TABLE_EACH_LIVE (loop->table, index) {
        struct berth_slot *slot = berth_table_slot(loop->table, index);
        if (slot_kind(slot) != KIND_CONN || slot->state & CONN_FAILED ||
            slot->flags & BERTH_SLOT_CLOSING)
            continue;
        slot->state |= CONN_RESET;
        conn_failed(loop, slot, -ETIMEDOUT);
    }
}

int
berth_loop_drain(struct berth_loop *loop, uint32_t deadline_ms)
{
    if (loop == NULL)
        return -EINVAL;
    if (loop_is_child(loop))
        return -ECHILD;
    struct drain *drain = &loop->drain;
    const uint64_t until_ms = loop_time(loop) + deadline_ms;
    if (drain->state == DRAIN_NOT) {
        drain->state = DRAIN_ON;
        drain->until_ms = UINT64_MAX;
        berth_timer_init(&drain->timer, on_deadline, NULL);
        listener_stop_all(loop);
    }
    if (drain->state == DRAIN_OVER || until_ms >= drain->until_ms)
        return 0;
    drain->until_ms = until_ms;
    return berth_timer_start(loop, &drain->timer, deadline_ms, 0);
}

int
berth_loop_draining(const struct berth_loop *loop)
{
    return loop != NULL && loop->drain.state != DRAIN_NOT;
}

int
berth_loop_drain_progress(struct berth_loop *loop, struct berth_drain_progress *progress)
{
    if (loop == NULL || progress == NULL)
        return -EINVAL;
    if (loop_is_child(loop))
        return -ECHILD;
    const uint64_t now_ms = loop_time(loop);
    progress->conns = loop->conns;
    progress->left_ms = UINT32_MAX;
    progress->queued_bytes = 0;
    if (loop->drain.state != DRAIN_NOT)
        progress->left_ms =
            loop->drain.until_ms > now_ms ? (uint32_t)(loop->drain.until_ms - now_ms) : 0;
    BERTH_TABLE_EACH_LIVE (loop->table, index) {
        const struct berth_slot *slot = berth_table_slot(loop->table, index);
        if (slot_kind(slot) == KIND_CONN)
            progress->queued_bytes += queue_bytes(loop, slot);
    }
    return 0;
}
