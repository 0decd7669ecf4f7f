/*
 * Connecting by name: what listen.c, conn.c and loop.c need of connect_name.c, and it of them. No
 * threads and no resolver here: that is resolve.h.
 *
 * The invariant: whoever clears CONN_CONNECTING calls connect_done.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_CONNECT_NAME_H
#define BERTH_LOOP_CONNECT_NAME_H

#include "loop/loop_internal.h"

/** listen.c: a socket that has begun to connect there, or -errno. */
int connect_open(const struct sockaddr *address, socklen_t length);

/** listen.c: it has begun to connect, or to be looked up: its timeout counts, its token is told. */
void connect_begun(struct berth_loop *loop, struct berth_slot *slot, berth_token *token);

/* ---- connect_name.c ---------------------------------------------------------------------------
 */

/** berth_connect, for what is not an address: a name, or -EINVAL. */
int connect_by_name(struct berth_loop *loop, const char *text,
                    const struct berth_handlers *handlers, void *ctx, berth_token *token);

/** The connection could not be made: the next address of its name is tried, or it has failed. */
void connect_failed(struct berth_loop *loop, struct berth_slot *slot, int reason);

/** It has been made, or is over: what is known of its name is not needed any more. */
void connect_done(struct berth_loop *loop, struct berth_slot *slot);

/** Goes on with those whose names have been looked up. Returns how many. */
unsigned connect_answers(struct berth_loop *loop);

#endif
