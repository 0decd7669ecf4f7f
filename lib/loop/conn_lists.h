/*
 * The lists that connections stand in while they wait: see conn_lists.c. Standing in the queue for
 * a buffer is everybody's affair (loop_internal.h); the rest is for conn.c and send_file.c.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_CONN_LISTS_H
#define BERTH_LOOP_CONN_LISTS_H

#include "loop/loop_internal.h"

/** It does not wait for a buffer any more. */
void conn_unstarve(struct berth_loop *loop, struct berth_slot *slot);

/** It waits for a buffer to read the head of its queue into, which is a file; or does not any more.
 */
void conn_file_wait(struct berth_loop *loop, struct berth_slot *slot);
void conn_file_unwait(struct berth_loop *loop, struct berth_slot *slot);

/** The one that has waited longest, and waits no more; NULL: nobody has waited for so long. */
struct berth_slot *conn_next_file(struct berth_loop *loop, uint32_t least_ms);

/** A connection is in one of the two lists of those that take time to close, or in none. */
void closing_list_enter(struct berth_loop *loop, struct berth_slot *slot);
void closing_list_leave(struct berth_loop *loop, struct berth_slot *slot);

#endif
