/*
 * The commands of the kv example. One store per program, so its state is static in kv_commands.c.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KV_COMMANDS_H
#define KV_COMMANDS_H

#include <berth/loop.h>

#include "kv_resp.h"

/** Makes the empty store. 0 or -errno. */
int kv_commands_open(void);

/** Answers a request of at least one argument. Returns 1 if the client asked to be disconnected. */
int kv_run(struct berth_conn *conn, const struct kv_request *request);

/** To be called some times a second: drops keys whose time is over. */
void kv_commands_tick(void);

/** Drops all keys. */
void kv_commands_close(void);

#endif
