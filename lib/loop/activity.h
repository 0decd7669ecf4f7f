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

/**
 * For how many milliseconds, at least, no bytes have come, as far as anybody who looked can tell:
 * 0 if some came since the last look of anybody. Where another looked meanwhile, the answer is up
 * to a tick short; it is never too long. `now_ms` is the loop's time.
 */
static inline uint32_t
activity_read_idle_ms(struct berth_loop *loop, struct berth_slot *slot, uint64_t now_ms)
{
    struct berth_table *table = loop->table;
    berth_table_tick_set(table, (uint16_t)(now_ms >> ACTIVITY_TICK_SHIFT));
    if (slot->state & CONN_READ_ACTIVE) {
        slot->state &= ~(uint32_t)CONN_READ_ACTIVE;
        berth_table_touch(table, slot->index);
        return 0;
    }
    const uint16_t age = (uint16_t)(table->tick_now - table->ticks[slot->index]);
    if (age == 0)
        return 0;
    if (age >= BERTH_TABLE_IDLE_TICKS_MAX) { /* stays there, or it would seem young again */
        table->ticks[slot->index] = (uint16_t)(table->tick_now - BERTH_TABLE_IDLE_TICKS_MAX);
        return ACTIVITY_LONG_AGO;
    }
    const uint32_t tick_ms = 1u << ACTIVITY_TICK_SHIFT;
    return age * tick_ms + (uint32_t)(now_ms % tick_ms) - (tick_ms - 1);
}

#endif
