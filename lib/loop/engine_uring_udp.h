/*
 * What the files of the io_uring engine share about datagrams.
 *
 *   engine_uring_udp.c       operations: what is posted and submitted, what its completions mean
 *   engine_uring_udp_ring.c  the rings of buffers that datagrams are received into
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_ENGINE_URING_UDP_H
#define BERTH_LOOP_ENGINE_URING_UDP_H

#include "loop/engine_uring.h"
#include "loop/udp_internal.h"

/** A ring of buffers of one class, for all sockets that receive into that class. */
struct datagram_ring {
    struct io_uring_buf_ring *entries; /**< NULL before it is needed */
    struct receive_buffer *by_id;      /**< what each buffer id stands for now */
    uint16_t *idle_ids;                /**< ids with no buffer behind them */
    uint32_t idle_count;
    uint32_t count;      /**< ids in all: a power of two */
    uint32_t given;      /**< buffers put into the ring since it was last advanced */
    uint32_t posted_max; /**< buffers to post now: doubled whenever they did not suffice */
    uint32_t posted;     /**< ids with a buffer behind them */
    enum berth_class size_class;
    uint16_t group;
};

/** A datagram that came, and waits to be handed over together with its neighbours. */
struct datagram_arrived {
    berth_token token;
    int32_t result;
    uint16_t id;
    uint8_t large;
};

struct uring_udp {
    struct datagram_ring rings[2]; /**< small, large */
    struct datagram_arrived arrived[UDP_BATCH_MAX];
    uint32_t arrived_count;
};

static inline int
uring_is_datagram(berth_token token)
{
    return berth_token_op(token) == OP_DATAGRAM || berth_token_op(token) == OP_DATAGRAM_LARGE;
}

static inline enum loop_op
uring_datagram_op(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return udp_of(loop, slot)->large ? OP_DATAGRAM_LARGE : OP_DATAGRAM;
}

/* ---- engine_uring_udp.c -----------------------------------------------------------------------
 */

int uring_datagram_start(struct berth_loop *loop, struct berth_slot *slot);
void uring_datagram_send(struct berth_loop *loop, struct berth_slot *slot);

/** A completion of a posted receive; `slot` is NULL when nobody waits for it any more. */
void uring_on_datagram(struct berth_loop *loop, struct berth_slot *slot,
                       const struct io_uring_cqe *completion);
void uring_on_datagram_sent(struct berth_loop *loop, struct berth_slot *slot, int32_t result);
void uring_on_datagram_poll(struct berth_loop *loop, struct berth_slot *slot);

/** Hands over what has arrived: once all completions at hand have been looked at. */
void uring_datagram_deliver(struct berth_loop *loop);

/* ---- engine_uring_udp_ring.c ------------------------------------------------------------------
 */

/** Makes the rings' state, and the ring of that size, unless they are there. 0 or -errno. */
int uring_datagram_ring(struct berth_loop *loop, int large, struct datagram_ring **ring);

/** Puts the buffer behind an id back into the ring; the kernel sees it after a refill. */
void uring_datagram_give(struct datagram_ring *ring, uint16_t id);

/** The buffer behind an id has been lent: gives it back, or a new one if it was retained. */
void uring_datagram_settle(struct berth_loop *loop, struct datagram_ring *ring, uint16_t id);

/** A receive found the ring empty: next time there will be twice as many buffers in it. */
void uring_datagram_grow(struct datagram_ring *ring);

/** Posts buffers as far as they are needed and to be had, in one ring; whether there is any. */
int uring_datagram_fill(struct berth_loop *loop, struct datagram_ring *ring);

/** The same for all rings, and shows the kernel what was given. */
void uring_datagram_refill(struct berth_loop *loop);

/** After the kernel's ring is gone. */
void uring_datagram_destroy(struct berth_loop *loop);

#endif
