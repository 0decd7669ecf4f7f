/*
 * The send queues, for those who take from them: see send.c.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_SEND_H
#define BERTH_LOOP_SEND_H

#include "loop/loop_internal.h"

int send_nodes_create(struct send_nodes *nodes);
void send_nodes_destroy(struct send_nodes *nodes);

/** A node that was never used before; 0: there is none. */
BERTH_COLD uint32_t send_node_fresh(struct send_nodes *nodes);

static inline uint32_t
node_get(struct send_nodes *nodes)
{
    const uint32_t node = nodes->free_head;
    if (BERTH_UNLIKELY(node == 0))
        return send_node_fresh(nodes);
    nodes->free_head = nodes->at[node].next;
    return node;
}

static inline void
node_put(struct send_nodes *nodes, uint32_t node)
{
    nodes->at[node].next = nodes->free_head;
    nodes->free_head = node;
}

/** Takes the head out of the queue; its successor inherits what only a head knows. */
static inline uint32_t
send_unlink_head(struct berth_loop *loop, struct berth_slot *slot)
{
    const uint32_t index = slot->buffer;
    const struct send_node *head = &loop->nodes.at[index];
    slot->buffer = head->next;
    if (BERTH_UNLIKELY(head->next != 0)) {
        struct send_node *next = &loop->nodes.at[head->next];
        next->tail = head->tail;
        next->bytes = head->bytes;
        next->in_flight = 0;
    }
    return index;
}

struct iovec;

/**
 * Where a node's bytes are. A node of generation 0 holds no reference: it is part of a span that
 * was lent in this batch, and is gone or retained before that span is taken back.
 */
static inline void *
send_node_data(const struct berth_loop *loop, const struct send_node *node)
{
    if (node->lease.generation == 0)
        return (unsigned char *)loop->batch.lent[node->lease.buffer].data + node->lease.offset;
    return berth_lease_data(loop->pool, node->lease);
}

/** Queues a lent span for another connection, whatever the limits on its queue. 0 or -errno. */
int send_forwarded(struct berth_loop *loop, struct berth_slot *slot, const struct berth_span *span);

/** The head of the queue as iovecs, for sendmsg. */
unsigned send_gather(const struct berth_loop *loop, const struct berth_slot *slot,
                     struct iovec *iov, unsigned count, size_t *bytes);

/** `sent` bytes from the head of the queue are the kernel's: releases what is used up. */
void send_done(struct berth_loop *loop, struct berth_slot *slot, size_t sent);

/** The same for bytes that it reads in place: only counts, the nodes are still in the queue. */
void send_account_zerocopy(struct berth_loop *loop, struct berth_slot *slot, size_t sent);

/** The first `count` nodes are given to the kernel to read, until send_end. */
void send_begin(struct berth_loop *loop, struct berth_slot *slot, unsigned count);

/** What send_begin gave to the kernel came back: `sent` bytes of it were taken. */
void send_end(struct berth_loop *loop, struct berth_slot *slot, size_t sent);

/** Sends for all connections of the batch; retains what did not go out; takes the spans back. */
void send_batch(struct berth_loop *loop);

/** Releases everything queued. Nothing of it may be in flight. */
void send_clear(struct berth_loop *loop, struct berth_slot *slot);

#endif
