/*
 * Pulling: see pull.h. Here is what all engines share of it.
 *
 * The invariants: a connection that pulls is read from by its puller alone, once what was posted
 * before has ended; the puller is called only while data is wanted; `over` is called once for each
 * start that no stop has undone.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/pull.h"

#include <errno.h>

#include "os/probes.h"

int
conn_pull_start(struct berth_loop *loop, struct berth_slot *slot, const struct puller *puller,
                void *state)
{
    BERTH_ASSERT(slot_kind(slot) == KIND_CONN);
    if (slot->state & (CONN_CLOSE_WANTED | CONN_FAILED) || slot->flags & BERTH_SLOT_CLOSING)
        return -EPIPE;
    if (loop->direct || loop->by_card)
        return -EOPNOTSUPP;
    if (conn_pulls(loop, slot))
        return -EALREADY;
    struct conn_cold *cold = slot_cold(loop, slot);
    cold->puller = puller;
    cold->pull_state = state;
    cold->pull_polls = 0;
    loop->pulling++;
    if (loop->engine->pull_start != NULL)
        loop->engine->pull_start(loop, slot);
    slot->flags |= SLOT_PULLS;
    conn_todo(loop, slot);
    return 0;
}

void
conn_pull_stop(struct berth_loop *loop, struct berth_slot *slot)
{
    if (!conn_pulls(loop, slot))
        return;
    struct conn_cold *cold = slot_cold(loop, slot);
    conn_pull_hold(loop, slot, 0);
    cold->puller = NULL;
    cold->pull_state = NULL;
    loop->pulling--;
    if (loop->engine->pull_stop != NULL)
        loop->engine->pull_stop(loop, slot);
    else
        slot->flags &= (uint8_t)~SLOT_PULLS;
    conn_todo(loop, slot);
}

void
conn_pull_hold(struct berth_loop *loop, struct berth_slot *slot, int on)
{
    struct conn_cold *cold = slot_cold(loop, slot);
    if (cold->pull_held == (on != 0))
        return;
    cold->pull_held = on != 0;
    if (on && !(slot->state & CONN_CREDIT)) {
        slot->state |= CONN_CREDIT; /* so that the cold record is looked at */
        cold->credit = BERTH_CREDIT_UNLIMITED;
    } else if (!on && cold->credit == BERTH_CREDIT_UNLIMITED && !conn_leaving(loop, slot)) {
        slot->state &= ~(uint32_t)CONN_CREDIT;
    }
    if (!on && conn_may_receive(loop, slot))
        timeouts_receive_resumed(loop, slot);
    conn_todo(loop, slot);
}

void
conn_deliver_pulled(struct berth_loop *loop, struct berth_slot *slot,
                    const struct berth_span *spans, unsigned n, size_t bytes, size_t from_kernel)
{
    BERTH_ASSERT(conn_wants_data(slot) && bytes > 0 && from_kernel <= bytes);
    BERTH_PROBE_CONN_WITH(receive, slot, bytes);
    slot->state |= CONN_READ_ACTIVE;
    loop->stats.receives++;
    loop->stats.received_bytes += bytes;
    CONN_COUNT(loop, slot, receives, 1);
    CONN_COUNT(loop, slot, received_bytes, bytes);
    CONN_COPIES(loop, slot, received, bytes);
    CONN_COPIES(loop, slot, received_kernel, from_kernel);
    conn_use_credit(loop, slot, bytes);
    loop->current = slot;
    const struct berth_handlers *handlers = conn_handlers(loop, slot);
    if (n > 0 && handlers->data != NULL)
        handlers->data(as_conn(slot), spans, n, bytes);
}

enum pulled
pull_turn(struct berth_loop *loop, struct berth_slot *slot, size_t share, int to_the_end)
{
    const struct conn_cold *cold = slot_cold(loop, slot);
    size_t total = 0;
    loop->current = slot;
    for (;;) {
        if (!conn_pulls(loop, slot) || !conn_may_receive(loop, slot))
            return PULLED_ENOUGH;
        if (total >= share) {
            loop->stats.fairness_stops++;
            return PULLED_SHARE;
        }
        size_t most = share - total;
        int emptied = 0;
        if (slot->state & CONN_CREDIT && cold->credit < most)
            most = (size_t)cold->credit;
        const size_t got = cold->puller->pull(loop, slot, berth_slot_fd(slot), most, &emptied);
        total += got;
        if (got == 0 || (emptied && !to_the_end))
            return conn_pulls(loop, slot) ? PULLED_ALL : PULLED_ENOUGH;
    }
}

void
pull_over(struct berth_loop *loop, struct berth_slot *slot)
{
    if (!conn_pulls(loop, slot))
        return;
    struct conn_cold *cold = slot_cold(loop, slot);
    const struct puller *puller = cold->puller;
    cold->puller = NULL;
    loop->pulling--;
    if (puller->over != NULL)
        puller->over(loop, slot);
    cold->pull_state = NULL;
}
