/*
 * Who receives nothing for long, and is parked for it: the engine then spends less on it. What
 * parking is, is the engine's affair.
 *
 * The loop goes through the live slots a few at a time. It looks at a slot itself only when that
 * slot's tick is old: whoever is active has its tick renewed then, and is left alone for another
 * idle_park_ms; so a busy connection costs one look at two bytes per round and one at its line per
 * idle_park_ms, and an idle one is parked when it was idle for once to twice that time.
 *
 * The invariants: only what waits for data and nothing else is parked; no step looks at more than
 * VISITS_MAX slots or parks more than PARKS_MAX; the loop is not woken up for this unless a step
 * has left something to park.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/activity.h"
#include "loop/loop_internal.h"

/** How often the search goes on, at most. */
#define STEP_MS 25

/**
 * Slots looked at per ms that has passed, and at once: 16,000 a second, some 5 ns each and 100 if
 * its line has to be fetched, are at most 2 ms of every second. A million take a minute.
 */
#define VISITS_PER_MS 16
#define VISITS_MAX 16384

/** Slots parked by one step: as many submissions go into the ring at once. */
#define PARKS_MAX 512

/** A receive is posted, and nothing else is under way. */
static int
may_park(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return slot_kind(slot) == KIND_CONN && !(slot->flags & BERTH_SLOT_CLOSING) &&
           (slot->state & (CONN_RECEIVING | CONN_SENDING | CONN_STARVED)) == CONN_RECEIVING &&
           slot->buffer == 0 && conn_may_receive(loop, slot);
}

/**
 * Parks the connection if nothing has come for so long. 1 if it does. Its line is not touched while
 * its tick is young. What sets CONN_READ_ACTIVE from here on came after the decision.
 */
static uint32_t
visit(struct berth_loop *loop, uint32_t index, uint32_t idle_ms, uint64_t now_ms)
{
    const uint16_t tick = (uint16_t)(now_ms >> ACTIVITY_TICK_SHIFT);
    const uint16_t ticks = (uint16_t)(tick - loop->table->ticks[index]);
    if (ticks < idle_ms >> ACTIVITY_TICK_SHIFT)
        return 0;
    struct berth_slot *slot = berth_table_slot(loop->table, index);
    if (!may_park(loop, slot))
        return 0;
    if (activity_read_idle_ms(loop, slot, now_ms) < idle_ms)
        return 0;
    return loop->engine->park(loop, slot) != 0;
}

int
idle_tick(struct berth_loop *loop)
{
    struct idle_scan *scan = &loop->idle;
    if (loop->options.idle_park_ms == 0 || loop->engine->park == NULL ||
        loop->conns == loop->parked)
        return -1;
    const uint64_t now_ms = loop_time(loop);
    const uint64_t passed_ms = now_ms - scan->stepped_ms;
    if (passed_ms < STEP_MS)
        return scan->more ? (int)(STEP_MS - passed_ms) : -1;
    scan->stepped_ms = now_ms;
    uint32_t visits =
        passed_ms < VISITS_MAX / VISITS_PER_MS ? (uint32_t)passed_ms * VISITS_PER_MS : VISITS_MAX;
    uint32_t parks = 0;
    for (; visits > 0 && parks < PARKS_MAX; visits--) {
        const uint32_t index = berth_table_next_live(loop->table, scan->cursor);
        scan->cursor = index == BERTH_TABLE_INDEX_NONE ? 0 : index + 1;
        if (index == BERTH_TABLE_INDEX_NONE)
            break;
        parks += visit(loop, index, loop->options.idle_park_ms, now_ms);
    }
    scan->more = parks == PARKS_MAX;
    return scan->more ? STEP_MS : -1;
}

int
berth_loop_park_idle(struct berth_loop *loop, uint32_t idle_ms)
{
    uint32_t parks = 0;
    if (loop == NULL || idle_ms > IDLE_MS_MAX)
        return -EINVAL;
    if (loop_is_child(loop))
        return -ECHILD;
    if (loop->engine->park == NULL || !loop->started || loop->wishes.off & FEATURE_DEMOTION)
        return 0;
    const uint64_t now_ms = loop_time(loop);
    BERTH_TABLE_EACH_LIVE (loop->table, index)
        parks += visit(loop, index, idle_ms, now_ms);
    if (parks > 0)
        loop_due(loop); /* to be submitted */
    return (int)parks;
}
