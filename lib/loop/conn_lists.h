/*
 * The lists that connections stand in while they wait: see conn_lists.c. Standing in the queue for
 * a buffer is everybody's affair (loop_internal.h); the rest is for conn.c.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_CONN_LISTS_H
#define BERTH_LOOP_CONN_LISTS_H

#include "loop/loop_internal.h"

/** It does not wait for a buffer any more. */
void conn_unstarve(struct berth_loop *loop, struct berth_slot *slot);

/** A connection is in one of the two lists of those that take time to close, or in none. */
void closing_list_enter(struct berth_loop *loop, struct berth_slot *slot);
void closing_list_leave(struct berth_loop *loop, struct berth_slot *slot);

#endif
