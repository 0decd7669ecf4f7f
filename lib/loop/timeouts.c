/*
 * Timeouts of connections. Traffic costs them nothing: receiving and sending set a bit each in the
 * line that they hold anyway, and one timer in the cold record comes by from time to time, eight
 * times in the shortest period, to look at the bits, clear them and note when it saw them set.
 *
 * The invariants: a connection has a timer running only while it has a period, and never once it is
 * being taken down; what is noted as the time of an event is never before it, so that no timeout is
 * early; and it is at most one look after it, so that none is late by more than that.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/timeouts.h"

#include <errno.h>

#include "loop/activity.h"
#include "loop/loop_internal.h"

/** Looks in a period: a timeout is late by an eighth at most. */
#define LOOKS_PER_PERIOD 8

/** What makes a connection's timeouts pointless: close_timeout_ms rules then. */
#define CONN_OVER (CONN_CLOSE_WANTED | CONN_FAILED)

/** Not open yet: only what counts from the beginning counts. */
#define CONN_NOT_YET (CONN_CONNECTING | CONN_OPEN_DUE)

/** Whether this kind counts from what happens, and not from the beginning. */
static inline int
is_of_activity(enum berth_timeout kind)
{
    return kind <= BERTH_TIMEOUT_WRITE;
}

static inline int
is_counting(const struct berth_slot *slot, const struct conn_timeouts *timeouts,
            enum berth_timeout kind)
{
    if (timeouts->period_ms[kind] == 0)
        return 0;
    return !is_of_activity(kind) || !(slot->state & CONN_NOT_YET);
}

/** What is left of a period; 0 when it is over. */
static uint32_t
left_ms(const struct conn_timeouts *timeouts, enum berth_timeout kind, uint32_t now_ms)
{
    const uint32_t age_ms = now_ms - timeouts->from_ms[kind];
    return age_ms < timeouts->period_ms[kind] ? timeouts->period_ms[kind] - age_ms : 0;
}

/** That happened, as far as we know: `now_ms`, or later than what we knew. */
static inline void
note(struct conn_timeouts *timeouts, enum berth_timeout kind, uint32_t when_ms)
{
    if ((int32_t)(when_ms - timeouts->from_ms[kind]) > 0)
        timeouts->from_ms[kind] = when_ms;
}

/* ---- when to look ---------------------------------------------------------------------------- */

static void on_look(struct berth_loop *loop, struct berth_timer *timer, void *context);

void
timeouts_stop(struct berth_loop *loop, struct berth_slot *slot)
{
    loop->timed -= (uint32_t)berth_timer_stop(&slot_cold(loop, slot)->timeouts.look);
}

/** Looks next when something may be over, and often enough to know well when bytes moved. */
static void
look_again(struct berth_loop *loop, struct berth_slot *slot)
{
    struct conn_timeouts *timeouts = &slot_cold(loop, slot)->timeouts;
    const uint32_t now_ms = (uint32_t)loop_time(loop);
    uint32_t next_ms = UINT32_MAX;
    timeouts_stop(loop, slot);
    for (enum berth_timeout kind = 0; kind < BERTH_TIMEOUT_KINDS; kind++) {
        if (!is_counting(slot, timeouts, kind))
            continue;
        const uint32_t step_ms = 1 + (timeouts->period_ms[kind] - 1) / LOOKS_PER_PERIOD;
        uint32_t look_ms = left_ms(timeouts, kind, now_ms);
        if (is_of_activity(kind) && look_ms > step_ms)
            look_ms = step_ms;
        if (look_ms < next_ms)
            next_ms = look_ms;
    }
    if (next_ms == UINT32_MAX)
        return;
    if (next_ms > ACTIVITY_LOOK_MS_MAX)
        next_ms = ACTIVITY_LOOK_MS_MAX;
    berth_timer_init(&timeouts->look, on_look, slot);
    (void)berth_timer_start(loop, &timeouts->look, next_ms, 0);
    loop->timed++;
}

/* ---- looking --------------------------------------------------------------------------------- */

static void
look_at_receiving(struct berth_loop *loop, struct berth_slot *slot, uint64_t now_ms)
{
    struct conn_timeouts *timeouts = &slot_cold(loop, slot)->timeouts;
    const uint32_t idle_ms = activity_read_idle_ms_exact(loop, slot, now_ms);
    if (idle_ms != ACTIVITY_LONG_AGO) {
        note(timeouts, BERTH_TIMEOUT_IDLE, (uint32_t)now_ms - idle_ms);
        note(timeouts, BERTH_TIMEOUT_READ, (uint32_t)now_ms - idle_ms);
    }
    /* Not asked for, or come and waiting for a buffer: not the peer's fault. */
    if (slot->state & CONN_STARVED)
        timeouts->from_ms[BERTH_TIMEOUT_IDLE] = (uint32_t)now_ms;
    if (slot->state & CONN_STARVED || !conn_may_receive(loop, slot))
        timeouts->from_ms[BERTH_TIMEOUT_READ] = (uint32_t)now_ms;
}

static void
look_at_sending(struct berth_loop *loop, struct berth_slot *slot, uint32_t now_ms)
{
    struct conn_timeouts *timeouts = &slot_cold(loop, slot)->timeouts;
    if (slot->state & CONN_WRITE_ACTIVE) {
        slot->state &= ~(uint32_t)CONN_WRITE_ACTIVE;
        timeouts->from_ms[BERTH_TIMEOUT_IDLE] = now_ms;
        timeouts->from_ms[BERTH_TIMEOUT_WRITE] = now_ms;
    }
    /* What was queued since the last look cannot be older than this one says. */
    if (slot->buffer == 0 || timeouts->queue_was_empty)
        timeouts->from_ms[BERTH_TIMEOUT_WRITE] = now_ms;
    timeouts->queue_was_empty = slot->buffer == 0;
}

/** Tells the program, whose wish it is what follows; without a handler the connection ends. */
static void
expire(struct berth_loop *loop, struct berth_slot *slot, enum berth_timeout kind)
{
    struct conn_timeouts *timeouts = &slot_cold(loop, slot)->timeouts;
    const struct berth_handlers *handlers = conn_handlers(loop, slot);
    if (is_of_activity(kind))
        timeouts->from_ms[kind] = (uint32_t)loop_time(loop);
    else
        timeouts->period_ms[kind] = 0;
    look_again(loop, slot);
    if (handlers->timeout == NULL) {
        slot->state |= CONN_RESET;
        conn_failed(loop, slot, -ETIMEDOUT);
        return;
    }
    loop->current = slot;
    handlers->timeout(as_conn(slot), kind);
    conn_after_event(loop, slot);
}

static void
on_look(struct berth_loop *loop, struct berth_timer *timer, void *context)
{
    struct berth_slot *slot = (struct berth_slot *)context;
    struct conn_timeouts *timeouts = &slot_cold(loop, slot)->timeouts;
    const uint64_t now_ms = loop_time(loop);
    BERTH_ASSERT(timer == &timeouts->look && slot->flags & BERTH_SLOT_LIVE);
    (void)timer;
    loop->timed--;
    if (slot->state & CONN_OVER || slot->flags & BERTH_SLOT_CLOSING)
        return;
    if (!(slot->state & CONN_NOT_YET)) {
        look_at_receiving(loop, slot, now_ms);
        look_at_sending(loop, slot, (uint32_t)now_ms);
    }
    /* One at a time: a second one that is over too is found by the next look, which is due at once,
     * if there is a connection then. */
    for (enum berth_timeout kind = 0; kind < BERTH_TIMEOUT_KINDS; kind++) {
        if (is_counting(slot, timeouts, kind) && left_ms(timeouts, kind, (uint32_t)now_ms) == 0) {
            expire(loop, slot, kind);
            return;
        }
    }
    look_again(loop, slot);
}

/* ---- what others tell ------------------------------------------------------------------------ */

void
timeouts_set(struct berth_loop *loop, struct berth_slot *slot, enum berth_timeout kind, uint32_t ms)
{
    struct conn_timeouts *timeouts = &slot_cold(loop, slot)->timeouts;
    timeouts->period_ms[kind] = ms;
    timeouts->from_ms[kind] = (uint32_t)loop_time(loop);
    if (kind == BERTH_TIMEOUT_WRITE)
        timeouts->queue_was_empty = slot->buffer == 0;
    look_again(loop, slot);
}

void
timeouts_opened(struct berth_loop *loop, struct berth_slot *slot)
{
    struct conn_timeouts *timeouts = &slot_cold(loop, slot)->timeouts;
    int any = 0;
    timeouts->period_ms[BERTH_TIMEOUT_CONNECT] = 0;
    for (enum berth_timeout kind = 0; kind <= BERTH_TIMEOUT_WRITE; kind++) {
        any |= timeouts->period_ms[kind] != 0;
        if (timeouts->period_ms[kind] != 0)
            timeouts->from_ms[kind] = (uint32_t)loop_time(loop);
    }
    if (any || berth_timer_running(&timeouts->look))
        look_again(loop, slot);
}

void
timeouts_receive_resumed(struct berth_loop *loop, struct berth_slot *slot)
{
    if (loop->timed == 0)
        return;
    struct conn_timeouts *timeouts = &slot_cold(loop, slot)->timeouts;
    if (timeouts->period_ms[BERTH_TIMEOUT_READ] != 0)
        timeouts->from_ms[BERTH_TIMEOUT_READ] = (uint32_t)loop_time(loop);
}
