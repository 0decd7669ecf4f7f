/*
 * What the two files of the readiness engine share.
 *
 *   engine_ready.c      streams, and everything else
 *   engine_ready_udp.c  datagrams
 *   engine_ready_zerocopy.c  sends that the kernel reads in place
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_ENGINE_READY_H
#define BERTH_LOOP_ENGINE_READY_H

#include "loop/loop_internal.h"

/** Tells the poller what the bits of the slot say: CONN_RECEIVING, CONN_WRITABLE. */
int ready_update_interest(struct berth_loop *loop, struct berth_slot *slot);

int ready_receive_start(struct berth_loop *loop, struct berth_slot *slot);
void ready_receive_stop(struct berth_loop *loop, struct berth_slot *slot);

/* ---- engine_ready_zerocopy.c -------------------------------------------------------------------
 */

/** The queue is long: sends its head in place. 1: `result` is the bytes or -errno; 0: copy. */
int ready_zerocopy_send(struct berth_loop *loop, struct berth_slot *slot, size_t *asked,
                        intptr_t *result);

/** Reads what the kernel says of such sends. Returns how many messages there were. */
unsigned ready_zerocopy_news(struct berth_loop *loop, struct berth_slot *slot);

/* ---- engine_ready_udp.c ------------------------------------------------------------------------
 */

/** A socket of datagrams is ready for something. */
void ready_datagram_event(struct berth_loop *loop, struct berth_slot *slot, uint32_t events);

int ready_datagram_start(struct berth_loop *loop, struct berth_slot *slot);
void ready_datagram_send(struct berth_loop *loop, struct berth_slot *slot);

#endif
