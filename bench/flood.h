/*
 * Connections that flood an echo server: they send as fast as they are let, and take back what is
 * echoed as fast as it comes, so that the server is never without bytes of theirs, and is never
 * stopped by one that does not read. They share the load's process: see slice.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_FLOOD_H
#define BENCH_FLOOD_H

#include <stdint.h>

#define FLOOD_CONNS_MAX 64u

struct flood;

/** Connects 1 to FLOOD_CONNS_MAX of them to 127.0.0.1, and sends nothing yet. 0 or -errno. */
int flood_open(struct flood **flood, unsigned conns, uint16_t port);

/**
 * One step, on each connection in its turn: takes at most 16 KiB that have come back, or, if none
 * have, sends as many. So what comes back never piles up, and what is sent always does, unless this
 * program is the slower one. Every byte is checked.
 *
 * `flood` is a struct flood, as load_options.beside passes it. 0, -EPROTO: other bytes came back
 * than were sent; -ECONNRESET: the server closed; or another -errno.
 */
int flood_step(void *flood);

/** Bytes that have come back since it was opened. */
uint64_t flood_bytes(const struct flood *flood);

/** Resets every connection. NULL is allowed. */
void flood_close(struct flood *flood);

#endif
