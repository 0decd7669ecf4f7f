/*
 * What the loop knows of its timers: a hierarchical wheel. See timers.c.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_TIMERS_H
#define BERTH_LOOP_TIMERS_H

#include "berth/timer.h"

/** 64 buckets per level, so that a word of bits tells which of them may hold something. */
#define WHEEL_BITS 6
#define WHEEL_BUCKETS (1u << WHEEL_BITS)

/** Enough for every time that 64 bits can say, so that none needs a special case. */
#define WHEEL_LEVELS 11

/** Timers that are moved from level to level in one turn: some 100 us of work. */
#define WHEEL_MOVES_MAX 4096

/**
 * A timer stands on the level of the highest six bits in which its time differs from `at_ms`, in
 * the bucket that these bits of its time name. So all in a bucket agree in everything above; the
 * first bucket of the lowest level that has one is the earliest; and timers of one time stand in
 * one bucket.
 */
struct timer_wheel {
    uint64_t at_ms;                  /**< what begins up to here has been taken out */
    uint32_t levels;                 /**< levels with a bit in `occupied` */
    uint32_t forgetting;             /**< the loop is being destroyed: none runs */
    uint64_t occupied[WHEEL_LEVELS]; /**< a bucket without its bit is empty, not the reverse */
    struct berth_timer_link due;     /**< to run, in order */
    struct berth_timer_link moving;  /**< out of one bucket, on their way to lower levels */
    struct berth_timer_link buckets[WHEEL_LEVELS][WHEEL_BUCKETS];
};

void wheel_init(struct timer_wheel *wheel, uint64_t now_ms);

/** How long the loop may wait for its timers: ms, or -1 if there are none. */
int timers_wait_ms(struct berth_loop *loop);

/** Runs those that are due, as many as one turn may. Returns how many. */
unsigned timers_run(struct berth_loop *loop);

/** Forgets all of them: none is running any more, and none will run. */
void timers_forget(struct berth_loop *loop);

#endif
