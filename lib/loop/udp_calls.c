/*
 * What the user calls to send datagrams, and the queues behind it: nodes that each describe one
 * send, from an array that all sockets of the loop share. No call here enters a callback or sends.
 *
 * The invariants: a send that is refused has queued nothing; a node holds one reference to the
 * bytes that it sends, or none if there are no bytes.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/udp_internal.h"

#include <errno.h>
#include <string.h>

#include "os/copy.h"
#include "os/memory.h"

/** Nodes of all sockets together: 12 MiB of address space, resident as used. */
#define NODES_MAX (UINT32_C(1) << 16)
#define NODES_PER_COMMIT (UINT32_C(1) << 10)
BERTH_STATIC_ASSERT(sizeof(struct udp_node) == 192, "three cache lines: 64 KiB pages hold a whole\n"
                                                    "number of commits");

/* ---- nodes ---------------------------------------------------------------------------------- */

int
udp_nodes_create(struct udp_nodes *nodes)
{
    memset(nodes, 0, sizeof(*nodes));
    void *memory = NULL;
    const int error = berth_memory_reserve(&memory, NODES_MAX * sizeof(struct udp_node),
                                           berth_memory_page_bytes(), "berth-udp");
    if (error)
        return error;
    nodes->at = memory;
    nodes->fresh = 1; /* node 0 is "none" */
    return 0;
}

void
udp_nodes_destroy(struct udp_nodes *nodes)
{
    berth_memory_release(nodes->at, NODES_MAX * sizeof(struct udp_node));
    memset(nodes, 0, sizeof(*nodes));
}

static uint32_t
node_get(struct udp_nodes *nodes)
{
    const uint32_t node = nodes->free_head;
    if (BERTH_LIKELY(node != 0)) {
        nodes->free_head = nodes->at[node].next;
        return node;
    }
    if (nodes->fresh == NODES_MAX)
        return 0;
    if (nodes->fresh >= nodes->committed) {
        if (berth_memory_commit(&nodes->at[nodes->committed],
                                NODES_PER_COMMIT * sizeof(struct udp_node)) != 0)
            return 0;
        nodes->committed += NODES_PER_COMMIT;
    }
    return nodes->fresh++;
}

void
udp_node_free(struct berth_loop *loop, uint32_t node)
{
    struct udp_node *at = udp_node_at(loop, node);
    if (at->lease.generation != 0)
        (void)berth_release(loop->pool, at->lease);
    at->next = loop->udp->nodes.free_head;
    loop->udp->nodes.free_head = node;
}

void
udp_list_append(struct berth_loop *loop, struct udp_list *list, uint32_t node)
{
    udp_node_at(loop, node)->next = 0;
    if (list->tail != 0)
        udp_node_at(loop, list->tail)->next = node;
    else
        list->head = node;
    list->tail = node;
}

uint32_t
udp_list_pop(struct berth_loop *loop, struct udp_list *list)
{
    const uint32_t node = list->head;
    BERTH_ASSERT(node != 0);
    list->head = udp_node_at(loop, node)->next;
    if (list->head == 0)
        list->tail = 0;
    return node;
}

void
udp_list_join(struct berth_loop *loop, struct udp_list *front, struct udp_list *list)
{
    if (front->head == 0)
        return;
    udp_node_at(loop, front->tail)->next = list->head;
    list->head = front->head;
    if (list->tail == 0)
        list->tail = front->tail;
    front->head = front->tail = 0;
}

/** Fills in a node that owns `lease`, or holds none; the address is in it already. */
static void
node_describe(struct berth_loop *loop, struct udp_node *node, struct berth_lease lease,
              uint32_t to_length, uint32_t segment_bytes)
{
    node->lease = lease;
    node->segment_bytes = segment_bytes;
    node->iov.iov_base = lease.generation != 0 ? berth_lease_data(loop->pool, lease) : NULL;
    node->iov.iov_len = lease.length;
    memset(&node->message, 0, sizeof(node->message));
    node->message.msg_name = to_length > 0 ? &node->to : NULL;
    node->message.msg_namelen = to_length;
    node->message.msg_iov = &node->iov;
    node->message.msg_iovlen = 1;
    if (segment_bytes == 0)
        return;
    memset(node->control, 0, sizeof(node->control));
    node->message.msg_control = node->control;
    node->message.msg_controllen = sizeof(node->control);
    struct cmsghdr *header = CMSG_FIRSTHDR(&node->message);
    header->cmsg_level = BERTH_SOL_UDP;
    header->cmsg_type = BERTH_UDP_SEGMENT;
    header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    *(uint16_t *)(void *)CMSG_DATA(header) = (uint16_t)segment_bytes;
}

int
udp_split(struct berth_loop *loop, const struct udp_node *whole, struct udp_list *pieces,
          uint32_t *count)
{
    pieces->head = pieces->tail = 0;
    *count = 0;
    for (uint32_t at = 0; at < whole->lease.length; at += whole->segment_bytes) {
        const uint32_t left = whole->lease.length - at;
        struct berth_lease slice;
        const uint32_t index = node_get(&loop->udp->nodes);
        const int error =
            index == 0
                ? -ENOBUFS
                : berth_slice(loop->pool, whole->lease, at,
                              left < whole->segment_bytes ? left : whole->segment_bytes, &slice);
        if (error) {
            if (index != 0) {
                udp_node_at(loop, index)->lease.generation = 0;
                udp_node_free(loop, index);
            }
            while (pieces->head != 0)
                udp_node_free(loop, udp_list_pop(loop, pieces));
            return -ENOBUFS;
        }
        struct udp_node *node = udp_node_at(loop, index);
        node->to = whole->to;
        node_describe(loop, node, slice, whole->message.msg_namelen, 0);
        udp_list_append(loop, pieces, index);
        ++*count;
    }
    return 0;
}

/* ---- sending -------------------------------------------------------------------------------- */

/** The live slot behind a socket pointer, or NULL. */
static struct berth_slot *
checked(const struct berth_udp *udp)
{
    struct berth_slot *slot = (struct berth_slot *)(uintptr_t)udp;
    if (slot == NULL || !(slot->flags & BERTH_SLOT_LIVE) || slot_kind(slot) != KIND_DATAGRAM)
        return NULL;
    return slot;
}

/** Of an address that need not be aligned: callers keep them in buffers of bytes. */
static sa_family_t
family_of(const struct sockaddr *address)
{
    sa_family_t family;
    const unsigned char *bytes = (const unsigned char *)address;
    memcpy(&family, bytes + offsetof(struct sockaddr, sa_family), sizeof(family));
    return family;
}

static int
check_address(const struct udp_socket *udp, const struct sockaddr *to, uint32_t to_length)
{
    if (to == NULL)
        return to_length != 0 ? -EINVAL : udp->connected ? 0 : -EDESTADDRREQ;
    if (to_length < sizeof(sa_family_t))
        return -EINVAL;
    switch (family_of(to)) {
    case AF_INET:
        return to_length == sizeof(struct sockaddr_in) ? 0 : -EINVAL;
    case AF_INET6:
        return to_length == sizeof(struct sockaddr_in6) ? 0 : -EINVAL;
    default:
        return -EAFNOSUPPORT;
    }
}

static int
check_length(size_t length, uint32_t segment_bytes)
{
    if (length > BERTH_UDP_SEND_BYTES_MAX)
        return -EMSGSIZE;
    if (segment_bytes == 0)
        return 0;
    return (length + segment_bytes - 1) / segment_bytes > BERTH_UDP_SEGMENTS_MAX ? -EMSGSIZE : 0;
}

/** Whether a send of that kind can be queued now: 0 or -errno. */
static int
check_send(const struct berth_slot *slot, const struct sockaddr *to, uint32_t to_length,
           size_t length, uint32_t segment_bytes)
{
    struct berth_loop *loop = slot_loop(slot);
    const struct udp_socket *udp = udp_of(loop, slot);
    if (slot->state & (CONN_CLOSE_WANTED | CONN_FAILED) || slot->flags & BERTH_SLOT_CLOSING)
        return -EPIPE;
    const int error = check_address(udp, to, to_length);
    return error ? error : check_length(length, segment_bytes);
}

static int
refuse(struct berth_loop *loop, struct berth_slot *slot, int queue_is_full)
{
    loop->stats.datagrams_refused++;
    if (queue_is_full) {
        slot->state |= CONN_HIGH; /* drained is owed */
        if (udp_of(loop, slot)->queued == 0)
            conn_todo(loop, slot); /* the others have all nodes: nothing of its own will tell it */
    }
    return -ENOBUFS;
}

/** Queues what has been checked. On an error the lease is still the caller's. */
static int
enqueue(struct berth_slot *slot, const struct sockaddr *to, uint32_t to_length,
        struct berth_lease lease, uint32_t segment_bytes)
{
    struct berth_loop *loop = slot_loop(slot);
    struct udp_socket *udp = udp_of(loop, slot);
    if (lease.length <= segment_bytes)
        segment_bytes = 0; /* one segment is a datagram */
    const uint32_t index = udp->queued < udp->queue_max ? node_get(&loop->udp->nodes) : 0;
    if (index == 0)
        return refuse(loop, slot, 1);
    struct udp_node *node = udp_node_at(loop, index);
    if (to_length == sizeof(node->to.v4)) /* the caller's may lie anywhere */
        memcpy(&node->to.v4, to, sizeof(node->to.v4));
    else if (to_length == sizeof(node->to.v6))
        memcpy(&node->to.v6, to, sizeof(node->to.v6));
    node_describe(loop, node, lease, to_length, segment_bytes);
    struct udp_list list = {0, 0};
    uint32_t count = 1;
    if (segment_bytes != 0 && !udp->segments) {
        const int error = udp_split(loop, node, &list, &count);
        const int never = error == 0 && count > udp->queue_max;
        const int too_many = error == 0 && count > udp->queue_max - udp->queued;
        while (too_many && list.head != 0)
            udp_node_free(loop, udp_list_pop(loop, &list));
        if (error || too_many)
            node->lease.generation = 0; /* not ours */
        udp_node_free(loop, index);
        if (never)
            return -EMSGSIZE;
        if (error || too_many)
            return refuse(loop, slot, too_many);
    } else {
        udp_list_append(loop, &list, index);
    }
    udp->queued += count;
    udp_list_join(loop, &udp->waiting, &list); /* those that wait, then these */
    udp->waiting = list;
    conn_todo(loop, slot);
    return 0;
}

/** Copies the bytes into a buffer of the pool, and queues that. */
static int
send_copy(struct berth_slot *slot, const struct sockaddr *to, uint32_t to_length, const void *data,
          size_t length, uint32_t segment_bytes)
{
    struct berth_loop *loop = slot_loop(slot);
    const struct udp_socket *udp = udp_of(loop, slot);
    struct berth_lease lease;
    memset(&lease, 0, sizeof(lease));
    int error = check_send(slot, to, to_length, length, segment_bytes);
    if (error)
        return error;
    if (udp->queued >= udp->queue_max)
        return refuse(loop, slot, 1);
    if (length > 0) {
        error = berth_pool_get(loop->pool, (enum berth_class)berth_class_for(length),
                               BERTH_FOR_ACTIVE, &lease);
        if (error)
            return refuse(loop, slot, 0);
        lease.length = (uint32_t)length;
        berth_copy(&loop->copies.sent_gather, berth_lease_data(loop->pool, lease), data, length);
    }
    error = enqueue(slot, to, to_length, lease, segment_bytes);
    if (error && lease.generation != 0)
        (void)berth_release(loop->pool, lease);
    return error;
}

int
berth_udp_send(struct berth_udp *udp, const struct sockaddr *to, uint32_t to_length,
               const void *data, size_t length)
{
    struct berth_slot *slot = checked(udp);
    if (slot == NULL || (data == NULL && length > 0))
        return -EINVAL;
    return send_copy(slot, to, to_length, data, length, 0);
}

int
berth_udp_reply(struct berth_udp *udp, const struct berth_datagram *datagram, const void *data,
                size_t length)
{
    if (datagram == NULL)
        return -EINVAL;
    return berth_udp_send(udp, datagram->from, datagram->from_length, data, length);
}

int
berth_udp_send_segments(struct berth_udp *udp, const struct sockaddr *to, uint32_t to_length,
                        const void *data, size_t length, uint32_t segment_bytes)
{
    struct berth_slot *slot = checked(udp);
    if (slot == NULL || data == NULL || length == 0 || segment_bytes == 0)
        return -EINVAL;
    return send_copy(slot, to, to_length, data, length, segment_bytes);
}

int
berth_udp_send_lease(struct berth_udp *udp, const struct sockaddr *to, uint32_t to_length,
                     struct berth_lease lease, uint32_t segment_bytes)
{
    struct berth_slot *slot = checked(udp);
    if (slot == NULL)
        return -EINVAL;
    const int error = check_send(slot, to, to_length, lease.length, segment_bytes);
    if (error)
        return error;
    if (lease.length == 0 || berth_lease_data(slot_loop(slot)->pool, lease) == NULL)
        return -EINVAL;
    return enqueue(slot, to, to_length, lease, segment_bytes);
}

/* ---- about a socket ------------------------------------------------------------------------- */

int
berth_udp_close(struct berth_udp *udp)
{
    struct berth_slot *slot = checked(udp);
    if (slot == NULL)
        return -EINVAL;
    if (slot->state & (CONN_CLOSE_WANTED | CONN_FAILED) || slot->flags & BERTH_SLOT_CLOSING)
        return -EALREADY;
    slot->state |= CONN_CLOSE_WANTED;
    conn_todo(slot_loop(slot), slot);
    return 0;
}

struct berth_udp *
berth_udp_find(struct berth_loop *loop, berth_token token)
{
    if (loop == NULL)
        return NULL;
    struct berth_slot *slot = berth_table_find(loop->table, token);
    if (slot == NULL || slot->flags & BERTH_SLOT_CLOSING || slot->state & CONN_FAILED ||
        slot_kind(slot) != KIND_DATAGRAM)
        return NULL;
    return (struct berth_udp *)(void *)slot;
}

uint32_t
berth_udp_queued(const struct berth_udp *udp)
{
    const struct berth_slot *slot = checked(udp);
    return slot == NULL ? 0 : udp_of(slot_loop(slot), slot)->queued;
}

int
berth_udp_fd(const struct berth_udp *udp)
{
    const struct berth_slot *slot = checked(udp);
    if (slot == NULL)
        return -EINVAL;
    const struct berth_loop *loop = slot_loop(slot);
    return loop->direct ? descriptor_kept(loop, slot) : berth_slot_fd(slot);
}

struct berth_loop *
berth_udp_loop(const struct berth_udp *udp)
{
    const struct berth_slot *slot = checked(udp);
    return slot == NULL ? NULL : slot_loop(slot);
}

void *
berth_udp_context(const struct berth_udp *udp)
{
    const struct berth_slot *slot = checked(udp);
    return slot == NULL ? NULL : udp_of(slot_loop(slot), slot)->ctx;
}

int
berth_udp_address(const struct berth_udp *udp, char *text, size_t size)
{
    const struct berth_slot *slot = checked(udp);
    if (slot == NULL || text == NULL)
        return -EINVAL;
    return address_format(&udp_of(slot_loop(slot), slot)->address, text, size);
}

int
berth_udp_address_format(const struct sockaddr *from, uint32_t length, char *text, size_t size)
{
    if (from == NULL || text == NULL || length < sizeof(sa_family_t))
        return -EINVAL;
    struct address address;
    memset(&address, 0, sizeof(address));
    address.datagram = 1;
    address.length = length;
    const sa_family_t family = family_of(from);
    if (family == AF_INET && length >= sizeof(address.to.v4))
        memcpy(&address.to.v4, from, sizeof(address.to.v4));
    else if (family == AF_INET6 && length >= sizeof(address.to.v6))
        memcpy(&address.to.v6, from, sizeof(address.to.v6));
    else
        return family == AF_INET || family == AF_INET6 ? -EINVAL : -EAFNOSUPPORT;
    return address_format(&address, text, size);
}

int
berth_udp_address_parse(const char *text, void *result, uint32_t *length)
{
    struct address address;
    if (result == NULL || length == NULL || address_parse_datagram(&address, text) != 0)
        return -EINVAL;
    if (address.to.base.sa_family == AF_INET)
        memcpy(result, &address.to.v4, sizeof(address.to.v4));
    else
        memcpy(result, &address.to.v6, sizeof(address.to.v6));
    *length = address.length;
    return 0;
}
