/*
 * What the loop needs of post.c, handover.c, signals.c and nested.c, and they of each other. What
 * the engines and the policies share stands in loop_internal.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_CROSS_INTERNAL_H
#define BERTH_LOOP_CROSS_INTERNAL_H

#include "berth/loop_cross.h"

#include "loop/loop_internal.h"

/** The loop that this thread is turning now, or NULL. */
extern _Thread_local struct berth_loop *loop_turning;

/** Writes to the wake-up descriptor, once. Any thread, and a signal handler. */
void loop_wake(const struct berth_loop *loop);

/* ---- post.c --------------------------------------------------------------------------------- */

/** Whether something was posted that has not been run. The loop's thread. */
int posts_pending(const struct berth_loop *loop);

/** Runs what was posted, up to events_max calls. Returns how many. */
unsigned posts_run(struct berth_loop *loop);

/** Waits until no thread is inside a call: the loop's memory is about to go. */
void posts_settle(const struct berth_loop *loop);

/** Refuses further posts, and reports those that are left with NULL for the loop. */
void posts_close(struct berth_loop *loop);

/* ---- signals.c ------------------------------------------------------------------------------ */

/** Tells of the signals that have come. Returns how many. */
unsigned signals_run(struct berth_loop *loop);

/** Gives all signals back. */
void signals_close(struct berth_loop *loop);

/* ---- nested.c ------------------------------------------------------------------------------- */

/** A turn of a loop with a descriptor is over, and will be wanted in that many milliseconds. */
void nested_rest(struct berth_loop *loop, int wait_ms);

void nested_close(struct berth_loop *loop);

#endif
