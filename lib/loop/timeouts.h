/*
 * What is kept of a connection's timeouts, in its cold record. See timeouts.c.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_TIMEOUTS_H
#define BERTH_LOOP_TIMEOUTS_H

#include "berth/loop.h"

/** All zero: none. Times are the low 32 bits of the loop's: no period is longer than half of that.
 */
struct conn_timeouts {
    struct berth_timer look;                 /**< when to look next; runs if there is any period */
    uint32_t period_ms[BERTH_TIMEOUT_KINDS]; /**< 0: none */
    uint32_t from_ms[BERTH_TIMEOUT_KINDS];   /**< since when nothing has happened, or since when it
                                                  is to last */
    uint32_t queue_was_empty;                /**< at the last look */
};

/** Sets or clears one. What the arguments may be has been checked. */
void timeouts_set(struct berth_loop *loop, struct berth_slot *slot, enum berth_timeout kind,
                  uint32_t ms);

/** Connected or adopted, and about to be opened: what was set before begins. */
void timeouts_opened(struct berth_loop *loop, struct berth_slot *slot);

/** Receiving is wanted again. */
void timeouts_receive_resumed(struct berth_loop *loop, struct berth_slot *slot);

/** It is being closed. */
void timeouts_stop(struct berth_loop *loop, struct berth_slot *slot);

#endif
