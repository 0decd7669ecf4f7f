/*
 * The send queues: one ordered sequence of leases per connection, linked through an array of nodes
 * that all connections of the loop share. What a turn queues goes out together.
 *
 * The invariants: the head node knows the queue's last node and its bytes; the first `in_flight`
 * nodes are being read by the kernel and are not released before it says so; a send that is refused
 * has queued nothing. A node of no bytes stands for a file: see send_file.c.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_internal.h"
#include "loop/send.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "os/copy.h"

/** A piece no longer than this is copied rather than left to wait in a buffer eight times as big.
 */
#define SMALL_BYTES 512

/** The longest single send: lengths are 32 bits, and nobody means more. */
#define SEND_BYTES_MAX ((size_t)1 << 30)

/* ---- adding --------------------------------------------------------------------------------- */

int
send_check(const struct berth_loop *loop, const struct berth_slot *slot, size_t bytes)
{
    if (slot->state & CONN_NO_SEND || slot->flags & BERTH_SLOT_CLOSING)
        return -EPIPE;
    return queue_bytes(loop, slot) + bytes > loop->options.send_max_bytes ? -ENOBUFS : 0;
}

static int
refuse(struct berth_loop *loop, int error)
{
    if (error == -ENOBUFS)
        loop->stats.send_refused++;
    return error;
}

/** Links a node at the end of the queue. */
static void
append_node(struct berth_loop *loop, struct berth_slot *slot, uint32_t index,
            struct berth_lease lease, uint32_t room)
{
    struct send_node *node = &loop->nodes.at[index];
    node->lease = lease;
    node->next = 0;
    node->room = room > UINT16_MAX ? UINT16_MAX : (uint16_t)room;
    node->in_flight = 0;
    if (slot->buffer == 0) {
        slot->buffer = index;
        node->bytes = 0;
    } else {
        struct send_node *head = &loop->nodes.at[slot->buffer];
        loop->nodes.at[head->tail].next = index;
    }
    struct send_node *head = &loop->nodes.at[slot->buffer];
    head->tail = index;
    head->bytes += lease.length;
}

/** Something was queued: see to it that it goes out, and that the queue stays within its marks. */
static inline void
queued(struct berth_loop *loop, struct berth_slot *slot)
{
    if (queue_bytes(loop, slot) >= loop->options.send_high_bytes && !(slot->state & CONN_HIGH)) {
        slot->state |= CONN_HIGH | CONN_TODO;
        loop->stats.pauses++;
        CONN_COUNT(loop, slot, pauses, 1);
    }
    if (slot == loop->current && slot->buffer != 0)
        loop->flush_due = 1;
    else
        conn_todo(loop, slot);
}

int
send_append_file(struct berth_loop *loop, struct berth_slot *slot, uint32_t file, uint32_t counted)
{
    const uint32_t node = node_get(&loop->nodes);
    if (node == 0)
        return -ENOBUFS;
    append_node(loop, slot, node, (struct berth_lease){.buffer = file}, 0);
    queue_head(loop, slot)->bytes += counted;
    conn_todo(loop, slot); /* and not at the end of the event: a file has one share of a turn */
    queued(loop, slot);
    return 0;
}

void
send_grew(struct berth_loop *loop, struct berth_slot *slot, uint32_t bytes)
{
    queue_head(loop, slot)->bytes += bytes;
    conn_todo(loop, slot);
    queued(loop, slot);
}

/** A small piece that has to wait is copied: it must not hold a big buffer meanwhile. */
static inline int
better_copied(const struct berth_slot *slot, uint32_t length)
{
    return slot->buffer != 0 && length <= SMALL_BYTES;
}

int
berth_send_lease(struct berth_conn *conn, struct berth_lease lease)
{
    struct berth_slot *slot = sendable(conn);
    if (slot == NULL)
        return -EINVAL;
    struct berth_loop *loop = slot_loop(slot);
    const int error = send_check(loop, slot, lease.length);
    if (error)
        return refuse(loop, error);
    const void *data = berth_lease_data(loop->pool, lease);
    if (data == NULL || lease.length == 0 || lease.length > SEND_BYTES_MAX)
        return -EINVAL;
    if (BERTH_UNLIKELY(better_copied(slot, lease.length)) &&
        berth_send(conn, data, lease.length) == 0) {
        (void)berth_release(loop->pool, lease);
        return 0;
    }
    const uint32_t node = node_get(&loop->nodes);
    if (node == 0)
        return refuse(loop, -ENOBUFS);
    append_node(loop, slot, node, lease, 0);
    queued(loop, slot);
    return 0;
}

/** Queues a span that some callback has been lent. 0 or -errno. */
static inline __attribute__((always_inline)) int
queue_span(struct berth_loop *loop, struct berth_slot *slot, const struct berth_span *span)
{
    /* The callback's own span, back to where it came from: it will be sent before it is taken
     * back, so it needs no reference. Otherwise it is retained like any other. */
    struct berth_lease lease = {.buffer = span->buffer, .length = span->length};
    const struct berth_span *lent = slot == loop->current ? loop->lent : NULL;
    if (lent != NULL && lent->buffer == span->buffer) {
        const uintptr_t offset = (uintptr_t)span->data - (uintptr_t)lent->data;
        if (offset > lent->length || span->length > lent->length - offset)
            return -EINVAL;
        lease.offset = (uint32_t)offset;
        lease.buffer = loop->batch.lent_count;
        loop->lent_used = 1;
    } else {
        const int error = berth_retain(loop->pool, span, 0, span->length, 0, &lease);
        if (error)
            return error;
    }
    const uint32_t node = node_get(&loop->nodes);
    if (node == 0) {
        if (lease.generation != 0)
            (void)berth_release(loop->pool, lease);
        return refuse(loop, -ENOBUFS);
    }
    append_node(loop, slot, node, lease, 0);
    queued(loop, slot);
    return 0;
}

int
berth_send_span(struct berth_conn *conn, const struct berth_span *span)
{
    struct berth_slot *slot = sendable(conn);
    if (slot == NULL || span == NULL || span->length == 0)
        return -EINVAL;
    struct berth_loop *loop = slot_loop(slot);
    const int error = send_check(loop, slot, span->length);
    if (error)
        return refuse(loop, error);
    if (BERTH_UNLIKELY(better_copied(slot, span->length)))
        return berth_send(conn, span->data, span->length);
    return queue_span(loop, slot, span);
}

int
send_forwarded(struct berth_loop *loop, struct berth_slot *slot, const struct berth_span *span)
{
    if (span->length > UINT32_MAX - queue_bytes(loop, slot))
        return -ENOBUFS; /* queues are counted in 32 bits */
    return queue_span(loop, slot, span);
}

int
berth_send_chain(struct berth_conn *conn, struct berth_chain *chain)
{
    struct berth_slot *slot = sendable(conn);
    if (slot == NULL || chain == NULL)
        return -EINVAL;
    struct berth_loop *loop = slot_loop(slot);
    const int error = send_check(loop, slot, chain->bytes);
    if (error)
        return refuse(loop, error);

    uint32_t reserved = 0; /* all nodes first: all or nothing */
    for (uint32_t i = 0; i < chain->count; i++) {
        const uint32_t node = node_get(&loop->nodes);
        if (node == 0) {
            while (reserved != 0) {
                const uint32_t next = loop->nodes.at[reserved].next;
                node_put(&loop->nodes, reserved);
                reserved = next;
            }
            return refuse(loop, -ENOBUFS);
        }
        loop->nodes.at[node].next = reserved;
        reserved = node;
    }
    struct berth_lease lease;
    while (berth_chain_pop(loop->pool, chain, &lease) == 0) {
        const uint32_t node = reserved;
        reserved = loop->nodes.at[node].next;
        append_node(loop, slot, node, lease, 0);
    }
    BERTH_ASSERT(reserved == 0);
    if (slot->buffer != 0)
        queued(loop, slot);
    return 0;
}

/** Copies into a buffer of the queue, and says so in the ledger. */
static void
gather(struct berth_loop *loop, const struct berth_slot *slot, void *to, const void *from,
       size_t bytes)
{
    berth_copy(&loop->copies.sent_gather, to, from, bytes);
    if (BERTH_UNLIKELY(loop->counts_at != 0))
        conn_counts(loop, slot)->copies.sent_gather += bytes;
}

/** Copies what fits behind the last lease, if its buffer is the queue's own. Returns how much. */
static size_t
fill_tail(struct berth_loop *loop, struct berth_slot *slot, const void *data, size_t length)
{
    struct send_node *head = queue_head(loop, slot);
    if (head == NULL)
        return 0;
    struct send_node *tail = &loop->nodes.at[head->tail];
    const size_t copied = length < tail->room ? length : tail->room;
    if (copied == 0)
        return 0;
    unsigned char *end = (unsigned char *)berth_lease_data(loop->pool, tail->lease);
    BERTH_ASSERT(end != NULL);
    gather(loop, slot, end + tail->lease.length, data, copied);
    tail->lease.length += (uint32_t)copied;
    tail->room = (uint16_t)(tail->room - copied);
    head->bytes += (uint32_t)copied;
    return copied;
}

/** The class for what is still to be copied: a second buffer is at least 4 KiB, to gather in. */
static enum berth_class
class_to_gather(const struct berth_slot *slot, size_t left)
{
    const int fitting = left > 65536 ? BERTH_CLASS_64K : berth_class_for(left);
    return slot->buffer != 0 && fitting < BERTH_CLASS_4K ? BERTH_CLASS_4K
                                                         : (enum berth_class)fitting;
}

/** Queues `length` bytes in new buffers; on failure takes back what it queued. */
static int
append_copies(struct berth_loop *loop, struct berth_slot *slot, const unsigned char *data,
              size_t length)
{
    struct berth_chain chain;
    memset(&chain, 0, sizeof(chain));
    while (length > 0) {
        const enum berth_class size_class = class_to_gather(slot, length);
        const uint32_t size = berth_class_bytes(size_class);
        struct berth_lease lease;
        int error = berth_pool_get(loop->pool, size_class, BERTH_FOR_ACTIVE, &lease);
        if (error) {
            berth_chain_clear(loop->pool, &chain);
            return error;
        }
        lease.length = length < size ? (uint32_t)length : size;
        gather(loop, slot, berth_lease_data(loop->pool, lease), data, lease.length);
        data += lease.length;
        length -= lease.length;
        error = berth_chain_append(loop->pool, &chain, lease);
        if (error) {
            (void)berth_release(loop->pool, lease);
            berth_chain_clear(loop->pool, &chain);
            return error;
        }
    }
    const int error = berth_send_chain(as_conn(slot), &chain);
    if (error)
        berth_chain_clear(loop->pool, &chain);
    return error;
}

/** One new buffer holds it all: the usual case. */
static int
append_copy(struct berth_loop *loop, struct berth_slot *slot, const void *data, size_t length)
{
    const enum berth_class size_class = class_to_gather(slot, length);
    struct berth_lease lease;
    const int error = berth_pool_get(loop->pool, size_class, BERTH_FOR_ACTIVE, &lease);
    if (error)
        return error;
    const uint32_t node = node_get(&loop->nodes);
    if (node == 0) {
        (void)berth_release(loop->pool, lease);
        return -ENOBUFS;
    }
    const uint32_t room = lease.length - (uint32_t)length;
    lease.length = (uint32_t)length;
    gather(loop, slot, berth_lease_data(loop->pool, lease), data, length);
    append_node(loop, slot, node, lease, room);
    queued(loop, slot);
    return 0;
}

int
berth_send(struct berth_conn *conn, const void *data, size_t length)
{
    struct berth_slot *slot = sendable(conn);
    if (slot == NULL || (data == NULL && length > 0) || length > SEND_BYTES_MAX)
        return -EINVAL;
    struct berth_loop *loop = slot_loop(slot);
    int error = send_check(loop, slot, length);
    if (error || length == 0)
        return refuse(loop, error);
    struct send_node *head = queue_head(loop, slot);
    const size_t room = head == NULL ? 0 : loop->nodes.at[head->tail].room;
    if (length <= room) {
        (void)fill_tail(loop, slot, data, length);
        queued(loop, slot);
        return 0;
    }
    /* The rest first: if there is no buffer for it, nothing must have been queued. But the tail's
     * room comes before it in the stream, so it is given up: it is less than this send. */
    if (length <= berth_class_bytes(BERTH_CLASS_64K))
        error = append_copy(loop, slot, data, length);
    else
        error = append_copies(loop, slot, data, length);
    return error ? refuse(loop, -ENOBUFS) : 0;
}

/* ---- taking away ---------------------------------------------------------------------------- */

unsigned
send_gather(const struct berth_loop *loop, const struct berth_slot *slot, struct iovec *iov,
            unsigned count, size_t *bytes)
{
    unsigned n = 0;
    *bytes = 0;
    for (uint32_t at = slot->buffer; at != 0 && n < count; at = loop->nodes.at[at].next) {
        const struct send_node *node = &loop->nodes.at[at];
        if (BERTH_UNLIKELY(send_node_is_file(node)))
            break;
        iov[n].iov_base = send_node_data(loop, node);
        iov[n].iov_len = node->lease.length;
        *bytes += node->lease.length;
        n++;
    }
    return n;
}

void
send_begin(struct berth_loop *loop, struct berth_slot *slot, unsigned count)
{
    struct send_node *head = queue_head(loop, slot);
    BERTH_ASSERT(head != NULL && head->in_flight == 0);
    head->in_flight = (uint16_t)count;
    for (uint32_t at = slot->buffer; count > 0; count--, at = loop->nodes.at[at].next)
        (void)berth_lease_send_begin(loop->pool, loop->nodes.at[at].lease);
}

/** The kernel reads none of the queue any more. */
static void
land(struct berth_loop *loop, struct berth_slot *slot)
{
    struct send_node *head = queue_head(loop, slot);
    uint32_t at = slot->buffer;
    for (unsigned i = head->in_flight; i > 0; i--, at = loop->nodes.at[at].next)
        (void)berth_lease_send_end(loop->pool, loop->nodes.at[at].lease);
    head->in_flight = 0;
}

static inline void
pop_head(struct berth_loop *loop, struct berth_slot *slot)
{
    const uint32_t index = send_unlink_head(loop, slot);
    const struct berth_lease lease = loop->nodes.at[index].lease;
    node_put(&loop->nodes, index);
    if (lease.generation != 0)
        (void)berth_release(loop->pool, lease);
}

void
send_pop_head(struct berth_loop *loop, struct berth_slot *slot)
{
    pop_head(loop, slot);
}

void
send_count_conn(const struct berth_loop *loop, const struct berth_slot *slot, size_t sent,
                enum send_way way)
{
    struct conn_counts *counts = conn_counts(loop, slot);
    counts->stats.sends++;
    counts->stats.sent_bytes += sent;
    send_count_copies(&counts->copies, sent, way);
}

/** So many bytes at the head of the queue are the kernel's, however it came by them. */
static inline void
account(struct berth_loop *loop, struct berth_slot *slot, size_t sent, enum send_way way)
{
    struct send_node *head = queue_head(loop, slot);
    BERTH_ASSERT(head != NULL && sent <= head->bytes && head->in_flight == 0);
    send_count(loop, slot, sent, way);
    head->bytes -= (uint32_t)sent;
    if (slot->state & (CONN_AFTER_SEND | CONN_CREDIT)) /* without credit it may be leaving */
        slot->state |= CONN_TODO;
}

void
send_account_zerocopy(struct berth_loop *loop, struct berth_slot *slot, size_t sent)
{
    account(loop, slot, sent, SEND_ZEROCOPY);
}

void
send_done(struct berth_loop *loop, struct berth_slot *slot, size_t sent)
{
    account(loop, slot, sent, SEND_COPIED);
    if (BERTH_UNLIKELY(sent >= loop->zerocopy_from))
        zerocopy_rested(loop, slot, sent);
    while (sent > 0) {
        struct send_node *head = queue_head(loop, slot);
        if (sent < head->lease.length) {
            head->lease.offset += (uint32_t)sent;
            head->lease.length -= (uint32_t)sent;
            break;
        }
        sent -= head->lease.length;
        pop_head(loop, slot);
    }
}

void
send_end(struct berth_loop *loop, struct berth_slot *slot, size_t sent)
{
    land(loop, slot);
    if (sent > 0)
        send_done(loop, slot, sent);
}

void
send_clear(struct berth_loop *loop, struct berth_slot *slot)
{
    if (slot->buffer != 0)
        land(loop, slot);
    while (slot->buffer != 0) {
        if (BERTH_UNLIKELY(send_node_is_file(queue_head(loop, slot))))
            send_file_drop(loop, slot);
        else
            pop_head(loop, slot);
    }
}

/* ---- batches -------------------------------------------------------------------------------- */

void
send_retain_lent(struct berth_loop *loop, const struct berth_slot *slot)
{
    for (uint32_t at = slot->buffer; at != 0; at = loop->nodes.at[at].next) {
        struct berth_lease *lease = &loop->nodes.at[at].lease;
        if (lease->generation != 0 || send_node_is_file(&loop->nodes.at[at]))
            continue;
        const int error = berth_retain(loop->pool, &loop->batch.lent[lease->buffer], lease->offset,
                                       lease->length, 0, lease);
        BERTH_ASSERT(error == 0); /* a borrowed buffer has room for one reference more */
        (void)error;
    }
}

void
send_batch(struct berth_loop *loop)
{
    struct batch *batch = &loop->batch;
    if (loop->flush_due) { /* its event is not over yet, but its bytes must not wait for that */
        loop->flush_due = 0;
        loop->current->state |= CONN_TODO;
        BERTH_ASSERT(batch->flush_count < BATCH_MAX);
        batch->flush[batch->flush_count++] = loop->current;
    }
    for (uint32_t i = 0; i < batch->flush_count; i++) {
        struct berth_slot *slot = batch->flush[i];
        if (slot->buffer != 0 && !(slot->state & (CONN_SENDING | CONN_CONNECTING | CONN_FAILED)))
            loop->engine->send(loop, slot);
        if (BERTH_UNLIKELY(slot->buffer != 0))
            send_retain_lent(loop, slot);
        if (BERTH_UNLIKELY(slot->state & CONN_TODO))
            conn_todo(loop, slot);
    }
    batch->flush_count = 0;
    for (uint32_t i = 0; i < batch->lent_count; i++) {
        const struct receive_buffer taken = {batch->lent[i].data, batch->lent[i].buffer};
        if (berth_pool_settle(loop->pool, taken.buffer) == 1)
            receive_keep(loop, &taken);
    }
    batch->lent_count = 0;
}
