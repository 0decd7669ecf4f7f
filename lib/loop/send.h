/*
 * The send queues, for those who take from them: see send.c.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_SEND_H
#define BERTH_LOOP_SEND_H

#include "loop/loop_internal.h"
#include "os/probes.h"

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

/** The live slot behind a connection's pointer, or NULL. */
static inline struct berth_slot *
sendable(const struct berth_conn *conn)
{
    struct berth_slot *slot = as_slot(conn);
    return slot == NULL || !(slot->flags & BERTH_SLOT_LIVE) ? NULL : slot;
}

/** Whether `bytes` more may be queued: 0 or -errno. */
int send_check(const struct berth_loop *loop, const struct berth_slot *slot, size_t bytes);

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

/** The head of the queue as iovecs, for sendmsg: up to the first file. */
unsigned send_gather(const struct berth_loop *loop, const struct berth_slot *slot,
                     struct iovec *iov, unsigned count, size_t *bytes);

/** Who copied what was sent, as the place of its counter in the ledger. */
enum send_way {
    SEND_COPIED = offsetof(struct berth_copies, sent_kernel),
    SEND_FILE = offsetof(struct berth_copies, sent_file),
    SEND_SPLICED = offsetof(struct berth_copies, sent_spliced),
    SEND_ZEROCOPY = offsetof(struct berth_copies, sent_zerocopy)
};

static inline void
send_count_copies(struct berth_copies *copies, size_t sent, enum send_way way)
{
    copies->sent += sent;
    *(uint64_t *)(void *)((unsigned char *)copies + way) += sent;
}

BERTH_COLD void send_count_conn(const struct berth_loop *loop, const struct berth_slot *slot,
                                size_t sent, enum send_way way);

/** Counts a send. */
static inline void
send_count(struct berth_loop *loop, struct berth_slot *slot, size_t sent, enum send_way way)
{
    slot->state |= CONN_WRITE_ACTIVE;
    loop->stats.sends++;
    BERTH_PROBE_CONN_WITH(send, slot, sent);
    loop->stats.sent_bytes += sent;
    send_count_copies(&loop->copies, sent, way);
    if (BERTH_UNLIKELY(loop->counts_at != 0))
        send_count_conn(loop, slot, sent, way);
}

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

/** Removes the head of the queue, and releases what it held. */
void send_pop_head(struct berth_loop *loop, struct berth_slot *slot);

/** So many bytes more are in what the queue ends with. */
void send_grew(struct berth_loop *loop, struct berth_slot *slot, uint32_t bytes);

/* ---- files: send_file.c ----------------------------------------------------------------------
 * A file in a queue is two nodes: one in its place, of length 0 as no other is, whose lease names
 * the second, which is a struct send_file. The queue counts no more of it than send_high_bytes. A
 * pipe (splice.c) stands there likewise; its bytes are all counted.
 */

struct send_file {
    uint64_t offset;  /**< of a pipe: the descriptor of its other end */
    uint64_t left;    /**< bytes */
    int32_t fd;       /**< ours */
    int32_t socket;   /**< 1 + a descriptor of the connection's direct one; 0: none */
    uint32_t counted; /**< bytes of it in the queue's count */
    uint8_t copies;   /**< the kernel does not send it by reference: it is read into buffers */
    uint8_t guarded;  /**< a SIGPIPE would be heard of: the program does not ignore it */
    uint8_t is_pipe;
};
BERTH_STATIC_ASSERT(sizeof(struct send_file) == sizeof(struct send_node), "it fits a node's place");

static inline int
send_node_is_file(const struct send_node *node)
{
    return node->lease.length == 0;
}

/** Of a node that is one. */
static inline struct send_file *
send_node_file(const struct berth_loop *loop, const struct send_node *node)
{
    return (struct send_file *)(void *)&loop->nodes.at[node->lease.buffer];
}

/** A piece no longer than this goes out together with the file behind it. */
#define SEND_FILE_LEAD_BYTES 4096

/** Whether send_file_now is to send from the head of the queue, which is not empty. */
static inline int
send_file_is_next(const struct berth_loop *loop, const struct berth_slot *slot)
{
    const struct send_node *head = queue_head(loop, slot);
    if (BERTH_UNLIKELY(send_node_is_file(head)))
        return 1;
    if (BERTH_LIKELY(head->next == 0))
        return 0;
    const struct send_node *next = &loop->nodes.at[head->next];
    return BERTH_UNLIKELY(send_node_is_file(next)) && head->lease.length <= SEND_FILE_LEAD_BYTES &&
           !send_node_file(loop, next)->copies;
}

/** Whether nobody would hear of a SIGPIPE. */
int send_file_ignores_sigpipe(struct berth_loop *loop);

/** Queues a file, of which the queue counts so many bytes. 0, or -ENOBUFS: no node. */
int send_append_file(struct berth_loop *loop, struct berth_slot *slot, uint32_t file,
                     uint32_t counted);

enum send_file_result {
    SEND_FILE_MORE, /**< look at the queue again */
    SEND_FILE_REST, /**< no more in this turn: CONN_TODO is set if there is anything left to do */
    SEND_FILE_FULL  /**< no more before the socket is writable */
};

/** Sends from the head of a queue for which send_file_is_next, without waiting for the socket. */
enum send_file_result send_file_now(struct berth_loop *loop, struct berth_slot *slot);

/** Serves those whose file waits for a buffer, as far as there are any. Returns how many. */
unsigned send_files_waiting(struct berth_loop *loop);

/** Gives up the file at the head of the queue. */
void send_file_drop(struct berth_loop *loop, struct berth_slot *slot);

#endif
