/*
 * What the files of the readiness engine share.
 *
 *   engine_ready.c           the poller, turns, sending, accepting
 *   engine_ready_receive.c   receiving
 *   engine_ready_udp.c       datagrams
 *   engine_ready_zerocopy.c  sends that the kernel reads in place
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_ENGINE_READY_H
#define BERTH_LOOP_ENGINE_READY_H

#include "loop/loop_internal.h"
#include "loop/poller.h"

struct ready_engine {
    struct poller *poller;
    uint32_t events_max;
    uint32_t alone; /**< turns in a row with one event, and no more */
    int company;    /**< somebody received in this turn who does not receive a lot */
    uint32_t held;  /**< events put by until the others have been seen to: first in `ready` */
    int held_go;    /**< they have */
    struct bulk_turns bulk; /**< how many of them may go in a turn */
    struct poller_ready ready[];
};

/** Of slot->flags: one of the events put by is this connection's. */
#define SLOT_HELD BERTH_SLOT_DRIVER_1

/** And it tells of the end of the stream, behind whatever there is. */
#define SLOT_HELD_END BERTH_SLOT_DRIVER_4

static inline struct ready_engine *
ready_state(const struct berth_loop *loop)
{
    return (struct ready_engine *)loop->engine_state;
}

/** Tells the poller what the bits of the slot say: CONN_RECEIVING, CONN_WRITABLE. */
int ready_update_interest(struct berth_loop *loop, struct berth_slot *slot);

int ready_receive_start(struct berth_loop *loop, struct berth_slot *slot);
void ready_receive_stop(struct berth_loop *loop, struct berth_slot *slot);

/** An event of a connection: receives, sends, and does what follows. */
void ready_conn_event(struct berth_loop *loop, struct berth_slot *slot, uint32_t events);

/* ---- engine_ready_receive.c --------------------------------------------------------------------
 */

/** Reads what there is, as far as a turn's share goes; `to_the_end`: the end may stand behind it.
 */
void ready_receive(struct berth_loop *loop, struct berth_slot *slot, int to_the_end);

/**
 * The others have been seen to, who received so much: now those whose events were put by. Returns
 * how many of them went.
 */
unsigned ready_receive_held(struct berth_loop *loop, uint64_t received);

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
