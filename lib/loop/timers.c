/*
 * Timers: a hierarchical wheel of eleven levels with 64 buckets each, in the loop itself. No
 * connection, no engine: who wants to be told of time gives a struct berth_timer.
 *
 * The invariants: a timer is in exactly one list, or in none and not running; the wheel never looks
 * at time tick by tick, but goes from one bucket that may hold something to the next; a bucket is
 * emptied when the time enters it, and its timers then stand on a lower level, or are due. So a
 * timer is moved at most once per level, however long it waits or the loop was suspended.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_TIME
#include "loop/timers.h"

#include <limits.h>

#include "loop/loop_internal.h"
#include "os/sys.h"

/* ---- time ------------------------------------------------------------------------------------ */

uint64_t
loop_now_ms(void)
{
    uint64_t now_ms = 0;
    (void)sys_clock_ms(&now_ms);
    return now_ms;
}

void
loop_time_read(struct berth_loop *loop)
{
    const uint64_t now_ms = loop_now_ms();
    if (now_ms > loop->now_ms)
        loop->now_ms = now_ms;
    loop->now_fresh = loop->in_turn;
}

uint64_t
berth_loop_now_ms(struct berth_loop *loop)
{
    return loop == NULL ? 0 : loop_time(loop);
}

/* ---- lists ----------------------------------------------------------------------------------- */

static inline void
list_init(struct berth_timer_link *list)
{
    list->next = list->previous = list;
}

static inline int
list_empty(const struct berth_timer_link *list)
{
    return list->next == list;
}

static inline void
list_add(struct berth_timer_link *list, struct berth_timer_link *link)
{
    link->next = list;
    link->previous = list->previous;
    list->previous->next = link;
    list->previous = link;
}

static inline void
list_take(struct berth_timer_link *link)
{
    BERTH_ASSERT(link->next != NULL);
    link->next->previous = link->previous;
    link->previous->next = link->next;
    link->next = link->previous = NULL;
}

/** Everything in `from`, behind what is in `to` already. */
static inline void
list_move(struct berth_timer_link *to, struct berth_timer_link *from)
{
    if (list_empty(from))
        return;
    from->next->previous = to->previous;
    to->previous->next = from->next;
    from->previous->next = to;
    to->previous = from->previous;
    list_init(from);
}

static inline struct berth_timer *
timer_of(struct berth_timer_link *link)
{
    return (struct berth_timer *)(void *)link;
}
BERTH_STATIC_ASSERT(offsetof(struct berth_timer, link) == 0, "a link is its timer");

/* ---- the wheel ------------------------------------------------------------------------------- */

void
wheel_init(struct timer_wheel *wheel, uint64_t now_ms)
{
    wheel->at_ms = now_ms;
    list_init(&wheel->due);
    list_init(&wheel->moving);
    for (unsigned level = 0; level < WHEEL_LEVELS; level++)
        for (unsigned bucket = 0; bucket < WHEEL_BUCKETS; bucket++)
            list_init(&wheel->buckets[level][bucket]);
}

/** Puts a timer where its time belongs. */
static void
wheel_put(struct timer_wheel *wheel, struct berth_timer *timer)
{
    if (timer->due_ms <= wheel->at_ms) {
        /* Those on the move that are due now were there before. */
        list_add(list_empty(&wheel->moving) ? &wheel->due : &wheel->moving, &timer->link);
        return;
    }
    const unsigned highest = 63u - (unsigned)__builtin_clzll(timer->due_ms ^ wheel->at_ms);
    const unsigned level = highest / WHEEL_BITS;
    const unsigned bucket = (timer->due_ms >> (level * WHEEL_BITS)) % WHEEL_BUCKETS;
    list_add(&wheel->buckets[level][bucket], &timer->link);
    wheel->occupied[level] |= UINT64_C(1) << bucket;
    wheel->levels |= 1u << level;
}

/** The earliest bucket with a timer in it. Stopping leaves bits behind: they go here. */
static int
wheel_first(struct timer_wheel *wheel, unsigned *level, unsigned *bucket)
{
    while (wheel->levels != 0) {
        *level = (unsigned)__builtin_ctz(wheel->levels);
        while (wheel->occupied[*level] != 0) {
            *bucket = (unsigned)__builtin_ctzll(wheel->occupied[*level]);
            if (!list_empty(&wheel->buckets[*level][*bucket]))
                return 1;
            wheel->occupied[*level] &= wheel->occupied[*level] - 1;
        }
        wheel->levels &= wheel->levels - 1;
    }
    return 0;
}

/** The first millisecond of a bucket. */
static uint64_t
bucket_begins_ms(const struct timer_wheel *wheel, unsigned level, unsigned bucket)
{
    const unsigned shift = level * WHEEL_BITS, above = shift + WHEEL_BITS;
    const uint64_t base_ms = above < 64 ? wheel->at_ms >> above << above : 0;
    return base_ms | (uint64_t)bucket << shift;
}

/** Lets those on the move find their places, up to `moves` of them. Returns what is left of that.
 */
static unsigned
wheel_move(struct timer_wheel *wheel, unsigned moves)
{
    struct berth_timer_link *const moving = &wheel->moving;
    struct berth_timer_link rest;
    list_init(&rest);
    list_move(&rest, moving);
    for (; moves > 0 && !list_empty(&rest); moves--) {
        struct berth_timer *timer = timer_of(rest.next);
        list_take(&timer->link);
        wheel_put(wheel, timer);
    }
    list_move(moving, &rest);
    return moves;
}

/** Goes on to `now_ms`, or as far as one turn's moves lead: what has become due is in the list. */
static void
wheel_advance(struct timer_wheel *wheel, uint64_t now_ms)
{
    unsigned level, bucket;
    unsigned moves = wheel_move(wheel, WHEEL_MOVES_MAX);
    while (list_empty(&wheel->moving)) {
        const int found = wheel_first(wheel, &level, &bucket);
        const uint64_t begins_ms = found ? bucket_begins_ms(wheel, level, bucket) : 0;
        if (!found || begins_ms > now_ms) {
            wheel->at_ms = now_ms > wheel->at_ms ? now_ms : wheel->at_ms;
            return;
        }
        BERTH_ASSERT(begins_ms > wheel->at_ms);
        wheel->at_ms = begins_ms;
        wheel->occupied[level] &= ~(UINT64_C(1) << bucket);
        if (level == 0) {
            list_move(&wheel->due, &wheel->buckets[0][bucket]);
        } else {
            list_move(&wheel->moving, &wheel->buckets[level][bucket]);
            moves = wheel_move(wheel, moves);
        }
    }
}

/* ---- what the loop asks ---------------------------------------------------------------------- */

int
timers_wait_ms(struct berth_loop *loop)
{
    struct timer_wheel *wheel = &loop->timers;
    unsigned level, bucket;
    if (!list_empty(&wheel->due) || !list_empty(&wheel->moving))
        return 0;
    if (!wheel_first(wheel, &level, &bucket))
        return -1;
    const uint64_t begins_ms = bucket_begins_ms(wheel, level, bucket);
    const uint64_t now_ms = loop_time(loop);
    if (begins_ms <= now_ms)
        return 0;
    return begins_ms - now_ms > INT_MAX ? INT_MAX : (int)(begins_ms - now_ms);
}

/** The next regular time of a timer that repeats, after what has passed meanwhile. */
static void
repeat(struct timer_wheel *wheel, struct berth_timer *timer, uint64_t now_ms)
{
    const uint64_t missed = (now_ms - timer->due_ms) / timer->repeat_ms;
    timer->due_ms += (missed + 1) * timer->repeat_ms;
    wheel_put(wheel, timer);
}

unsigned
timers_run(struct berth_loop *loop)
{
    struct timer_wheel *wheel = &loop->timers;
    unsigned count = 0;
    if ((wheel->levels == 0 && list_empty(&wheel->due) && list_empty(&wheel->moving)) ||
        wheel->forgetting)
        return 0;
    const uint64_t now_ms = loop_time(loop);
    wheel_advance(wheel, now_ms);

    /* Whoever becomes due by what a callback does waits for the next turn: in the list behind. */
    struct berth_timer_link round;
    list_init(&round);
    list_move(&round, &wheel->due);
    while (!list_empty(&round) && count < loop->options.events_max) {
        struct berth_timer *timer = timer_of(round.next);
        list_take(&timer->link);
        if (timer->repeat_ms != 0)
            repeat(wheel, timer, now_ms);
        count++;
        timer->fn(loop, timer, timer->context);
    }
    list_move(&round, &wheel->due);
    list_move(&wheel->due, &round);
    return count;
}

static void
forget_list(struct berth_timer_link *list)
{
    while (!list_empty(list))
        list_take(list->next);
}

void
timers_forget(struct berth_loop *loop)
{
    struct timer_wheel *wheel = &loop->timers;
    unsigned level, bucket;
    wheel->forgetting = 1;
    forget_list(&wheel->due);
    forget_list(&wheel->moving);
    while (wheel_first(wheel, &level, &bucket))
        forget_list(&wheel->buckets[level][bucket]);
}

/* ---- what a program calls -------------------------------------------------------------------- */

int
berth_timer_start(struct berth_loop *loop, struct berth_timer *timer, uint32_t delay_ms,
                  uint32_t repeat_ms)
{
    if (loop == NULL || timer == NULL || timer->fn == NULL)
        return -EINVAL;
    if (loop_is_child(loop))
        return -ECHILD;
    (void)berth_timer_stop(timer);
    /* The clock may be at the very end of its millisecond: one more, and no timer is early. */
    timer->due_ms = loop_time(loop) + delay_ms + (delay_ms != 0);
    timer->repeat_ms = repeat_ms;
    wheel_put(&loop->timers, timer);
    loop_due(loop);
    return 0;
}

int
berth_timer_stop(struct berth_timer *timer)
{
    if (timer == NULL || !berth_timer_running(timer))
        return 0;
    list_take(&timer->link);
    return 1;
}
