/*
 * When bytes last came for a connection, for all who want to know: idle and read timeouts, and
 * whoever looks through all connections for quiet ones. Receiving only sets CONN_READ_ACTIVE, in
 * the line that it holds anyway; when that was is noted here, by whoever looks.
 *
 * The invariant: nobody else clears CONN_READ_ACTIVE, and who clears it notes the time in the
 * table's idle ticks, two bytes beside the slots. So two who look do not take each other's news.
 * A connection is born with the bit set: its first look says "now".
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_ACTIVITY_H
#define BERTH_LOOP_ACTIVITY_H

#include "loop/loop_internal.h"

/** The table's tick, in bits of milliseconds: 128 ms, so that 16 bits reach back 70 minutes. */
#define ACTIVITY_TICK_SHIFT 7

/** "Longer than can be told", which is after BERTH_TABLE_IDLE_TICKS_MAX ticks: 4,194 s. */
#define ACTIVITY_LONG_AGO UINT32_MAX

/** A connection that is looked at at all must be looked at this often: ticks would wrap round. */
#define ACTIVITY_LOOK_MS_MAX (60u * 60 * 1000)

/** Clears the bit, and notes the tick that is `earlier` ticks ago. */
static inline uint32_t
activity_look(struct berth_loop *loop, struct berth_slot *slot, uint64_t now_ms, uint16_t earlier)
{
    struct berth_table *table = loop->table;
    const uint16_t tick = (uint16_t)(now_ms >> ACTIVITY_TICK_SHIFT);
    berth_table_tick_set(table, tick);
    uint16_t *noted = &table->ticks[slot->index];
    if (slot->state & CONN_READ_ACTIVE) {
        slot->state &= ~(uint32_t)CONN_READ_ACTIVE;
        *noted = (uint16_t)(tick - earlier);
        return 0;
    }
    const uint16_t age = (uint16_t)(tick - *noted);
    if (age == 0)
        return 0;
    if (age >= BERTH_TABLE_IDLE_TICKS_MAX) { /* stays there, or it would seem young again */
        *noted = (uint16_t)(tick - BERTH_TABLE_IDLE_TICKS_MAX);
        return ACTIVITY_LONG_AGO;
    }
    const uint32_t tick_ms = 1u << ACTIVITY_TICK_SHIFT;
    return age * tick_ms + (uint32_t)(now_ms % tick_ms) - (tick_ms - 1);
}

/**
 * For how many milliseconds, at least, no bytes have come, as far as anybody who looked can tell:
 * 0 if some came since the last look of anybody. It may be a tick short; it is never too long.
 * `now_ms` is the loop's time. For whoever looks through all connections.
 */
static inline uint32_t
activity_read_idle_ms(struct berth_loop *loop, struct berth_slot *slot, uint64_t now_ms)
{
    return activity_look(loop, slot, now_ms, 0);
}

/**
 * The same for one who remembers by himself, to the millisecond, when his own looks found some, and
 * wants to hear of others' only: his own are noted a tick too early, before all that he remembers.
 * (To the others a connection seems quiet for a tick more than it is.)
 */
static inline uint32_t
activity_read_idle_ms_exact(struct berth_loop *loop, struct berth_slot *slot, uint64_t now_ms)
{
    return activity_look(loop, slot, now_ms, 1);
}

#endif
