/*
 * Timers of a loop. A timer is a struct of yours, anywhere in your own memory: the loop links it,
 * and allocates nothing. Starting and stopping are O(1), whatever the number of timers, and make no
 * system call; a turn costs what is due in it.
 *
 * Time is the loop's, berth_loop_now_ms, in ticks of one millisecond. A timer is late, never early:
 * its whole delay has passed since the loop's time, and up to two ticks more; and then it waits for
 * its turn like every event. At most events_max timers run per turn (berth_loop_options); the
 * others in the next one, which then does not wait.
 *
 * Threads: the loop's own only. Callbacks come from inside a turn only, after its events.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TIMER_H
#define BERTH_TIMER_H

#include <stddef.h>
#include <stdint.h>

#include "berth/attr.h"

BERTH_BEGIN_DECLS

struct berth_loop;
struct berth_timer;

/**
 * The timer is due. It is not running any more, unless it repeats: start it again, stop it, free
 * it; start and stop any other.
 */
typedef void berth_timer_fn(struct berth_loop *loop, struct berth_timer *timer, void *context);

/** A place in a list of timers. */
struct berth_timer_link {
    struct berth_timer_link *next;
    struct berth_timer_link *previous;
};

/**
 * One timer. All zero is a timer that does not run; set `fn` and `context` (berth_timer_init does
 * both) and leave the rest alone. While it runs it must neither move nor go away. Since 0.1.
 */
struct berth_timer {
    struct berth_timer_link link; /**< NULL: not running */
    uint64_t due_ms;              /**< by the loop's time */
    uint32_t repeat_ms;           /**< 0: once */
    berth_timer_fn *fn;
    void *context; /**< yours */
};

/** Makes a timer that does not run. Not for one that does. Since 0.1. */
BERTH_INLINE void
berth_timer_init(struct berth_timer *timer, berth_timer_fn *fn, void *context)
{
    timer->link.next = timer->link.previous = NULL;
    timer->due_ms = 0;
    timer->repeat_ms = 0;
    timer->fn = fn;
    timer->context = context;
}

/** Whether it is still to come. Since 0.1. */
BERTH_INLINE int
berth_timer_running(const struct berth_timer *timer)
{
    return timer->link.next != NULL;
}

/**
 * Starts the timer; one that runs already is moved. Timers of the same millisecond run in the order
 * in which they were started.
 *
 * @param delay_ms   counted from the loop's time; 0: as soon as timers run next, but never in the
 *                   same round of them: a timer that starts itself with 0 runs once per turn.
 * @param repeat_ms  0: once. Otherwise it comes again in this distance, counted from when it was
 *                   due, not from when it ran. What a busy loop has missed is not made up for: it
 *                   comes once, and then at its next regular time.
 * @return 0; -EINVAL: no loop, no timer, or no `fn`; -ECHILD. When the loop is destroyed its timers
 * are forgotten: they do not run, and are not running afterwards. O(1), no system call. Since 0.1.
 */
BERTH_API int berth_timer_start(struct berth_loop *loop, struct berth_timer *timer,
                                uint32_t delay_ms, uint32_t repeat_ms);

/**
 * Stops the timer: it does not come any more, even if it was due in this very turn. Returns 1 if it
 * was running, else 0; NULL is allowed. O(1), no system call. Since 0.1.
 */
BERTH_API int berth_timer_stop(struct berth_timer *timer);

/**
 * The loop's time: milliseconds of a clock that never goes back, with a beginning of its own.
 * Inside a turn it is read once, when it is first asked for: so it stands still while callbacks
 * run, and asking costs nothing. Outside, every call reads the clock (clock_gettime(2), which is no
 * system call on the usual systems). 0 for NULL. Since 0.1.
 */
BERTH_API uint64_t berth_loop_now_ms(struct berth_loop *loop);

BERTH_END_DECLS

#endif
