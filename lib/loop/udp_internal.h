/*
 * What the files of datagrams share: a socket's state, its queue, and the calls between the policy
 * (udp.c, udp_calls.c) and the engines (engine_*_udp.c). Nothing here is known to a stream.
 *
 * A datagram socket is a slot of kind KIND_DATAGRAM; it uses the bits of enum conn_state (but for
 * CONN_STARVED: datagrams starve by themselves) and the close protocol of connections. Its queue is
 * not the slot's: slot->buffer stays 0. The rest of it lies in a struct udp_socket, to which ctx of
 * the slot's cold record points.
 *
 * The invariants: each node is in one list of one socket, or free; a node that an engine has taken
 * is not touched before the engine gives it back; a refused send has queued nothing.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_UDP_INTERNAL_H
#define BERTH_LOOP_UDP_INTERNAL_H

#include "loop/loop_internal.h"

#include "berth/udp.h"

/** Datagrams that engines hand over, or take, at a time. */
#define UDP_BATCH_MAX 32

/** Named here, because not every libc does; the values are Linux's. */
#define BERTH_SOL_UDP 17
#define BERTH_UDP_SEGMENT 103
#define BERTH_UDP_GRO 104

/** What is kept in front of a payload where the kernel writes address and control data itself. */
#define UDP_HEADER_BYTES 128

/** One send that waits: described as the kernel wants it, for as long as it may look at it. */
struct udp_node {
    struct msghdr message;
    struct iovec iov;
    unsigned char control[CMSG_SPACE(sizeof(uint16_t))] __attribute__((aligned(8)));
    union {
        struct sockaddr base;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } to;
    struct berth_lease lease; /**< none (generation 0) for an empty datagram */
    uint32_t next;
    uint32_t segment_bytes; /**< the kernel is to cut it; 0: it is one datagram */
} BERTH_ALIGNED(BERTH_CACHE_LINE);

/** Nodes of all sockets of a loop: an array, linked by index. Node 0 is never used. */
struct udp_nodes {
    struct udp_node *at;
    uint32_t free_head;
    uint32_t fresh;     /**< the lowest never used */
    uint32_t committed; /**< nodes in writable memory */
};

struct udp_list {
    uint32_t head, tail; /**< 0: none */
};

struct udp_socket {
    struct berth_slot *slot;
    const struct berth_udp_handlers *handlers;
    void *ctx;
    struct address address;
    struct udp_socket *next, *previous; /**< all of the loop */
    struct udp_list waiting;            /**< to be sent */
    struct udp_list taken;              /**< the engine has them: see engine_uring_udp.c */
    struct udp_list again;              /**< the kernel was full: to be sent before the waiting */
    uint32_t queued;                    /**< in the three lists together */
    uint32_t queue_max;
    uint16_t burst;    /**< datagrams that a readiness engine asks for next */
    uint8_t connected; /**< sends need no address */
    uint8_t large;     /**< receives into 64 KiB buffers */
    uint8_t merges;    /**< the kernel merges what it receives */
    uint8_t segments;  /**< the kernel cuts what it sends */
    uint8_t starving;  /**< there was no buffer to receive into: see udp_tick */
};

struct udp_state {
    struct udp_nodes nodes;
    struct udp_socket *sockets;
    uint32_t starving; /**< how many of them */
};

static inline struct udp_socket *
udp_of(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return (struct udp_socket *)slot_cold(loop, slot)->ctx;
}

static inline struct udp_node *
udp_node_at(const struct berth_loop *loop, uint32_t node)
{
    return &loop->udp->nodes.at[node];
}

static inline enum berth_class
udp_class(const struct udp_socket *udp)
{
    return udp->large ? BERTH_CLASS_64K : BERTH_CLASS_4K;
}

static inline uint32_t
udp_payload_max(const struct udp_socket *udp)
{
    return udp->large ? BERTH_UDP_LARGE_BYTES : BERTH_UDP_SMALL_BYTES;
}

/* ---- for conn.c and loop.c: udp.c ------------------------------------------------------------ */

/** What is due besides closing and receiving: sending, and telling of a queue that has room. */
void udp_step(struct berth_loop *loop, struct berth_slot *slot);

void udp_call_close(struct berth_loop *loop, struct berth_slot *slot, int reason);

/** The socket's own memory, and what is still queued. Nothing of it may be in flight. */
void udp_free(struct berth_loop *loop, struct berth_slot *slot);

void udp_state_destroy(struct berth_loop *loop);

/** Sockets that starve try again when there are buffers. Returns ms until it is due again, or -1.
 */
int udp_tick(struct berth_loop *loop);

/** Whether any socket has something to send still. */
int udp_queued_any(const struct berth_loop *loop);

/** Lines about datagrams, if there are any; as snprintf. */
int udp_explain(const struct berth_loop *loop, char *text, size_t size);

/* ---- for engines: udp.c -----------------------------------------------------------------------
 */

/**
 * Completes what a receive brought, whose payload `datagram` describes but for what `message` says:
 * truncation, and the size of merged ones.
 */
void udp_describe(struct berth_datagram *datagram, const struct msghdr *message);

/** Calls the program. The engine settles the buffers, and calls conn_after_event, afterwards. */
void udp_deliver(struct berth_loop *loop, struct berth_slot *slot,
                 const struct berth_datagram *list, unsigned n);

/** No buffer to receive into, and so nothing posted: it will be started again when there is one. */
void udp_starve(struct berth_loop *loop, struct udp_socket *udp);

/** A receive brought an error: the program is told, or it was the last one. */
void udp_receive_failed(struct berth_loop *loop, struct berth_slot *slot, int error);

/** A node that has left its list: it was sent, or will not be. It is gone afterwards. */
void udp_sent(struct berth_loop *loop, struct berth_slot *slot, uint32_t node);
void udp_send_failed(struct berth_loop *loop, struct berth_slot *slot, uint32_t node, int error);

/* ---- lists and nodes: udp_calls.c --------------------------------------------------------------
 */

int udp_nodes_create(struct udp_nodes *nodes);
void udp_nodes_destroy(struct udp_nodes *nodes);
void udp_node_free(struct berth_loop *loop, uint32_t node);

void udp_list_append(struct berth_loop *loop, struct udp_list *list, uint32_t node);
uint32_t udp_list_pop(struct berth_loop *loop, struct udp_list *list);

/** Puts all of `front` before what is in `list`. */
void udp_list_join(struct berth_loop *loop, struct udp_list *front, struct udp_list *list);

/** The same bytes as a node for each segment, to the same address; 0 or -ENOBUFS and nothing. */
int udp_split(struct berth_loop *loop, const struct udp_node *whole, struct udp_list *pieces,
              uint32_t *count);

#endif
