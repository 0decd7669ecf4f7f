/*
 * A datagram socket's life between open and close: making it, delivering what arrives, and what
 * becomes of sends. How datagrams move is an engine's affair; how they queue, udp_calls.c's.
 *
 * The invariants: nothing that one datagram does ends the socket; what is lost is counted, and told
 * if it was ours to send; close is called exactly once, by the close protocol of connections.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#include "loop/udp_internal.h"
#include "loop/send.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os/sys.h"

/** Datagrams that a readiness engine asks for at first: a quiet socket has one. */
#define BURST_FIRST 2

static struct berth_udp *
as_udp(struct berth_slot *slot)
{
    return (struct berth_udp *)(void *)slot;
}

/* ---- opening -------------------------------------------------------------------------------- */

static int
options_check(const struct berth_udp_options *options)
{
    if (options->abi != BERTH_UDP_ABI)
        return -EPROTO;
    return options->queue_max == 0 || options->queue_max > 32768 ? -EINVAL : 0;
}

static int
state_create(struct berth_loop *loop)
{
    if (loop->udp != NULL)
        return 0;
    struct udp_state *state = (struct udp_state *)calloc(1, sizeof(*state));
    if (state == NULL)
        return -ENOMEM;
    const int error = udp_nodes_create(&state->nodes);
    if (error) {
        free(state);
        return error;
    }
    loop->udp = state;
    return 0;
}

void
udp_state_destroy(struct berth_loop *loop)
{
    if (loop->udp == NULL)
        return;
    BERTH_ASSERT(loop->udp->sockets == NULL);
    udp_nodes_destroy(&loop->udp->nodes);
    free(loop->udp);
    loop->udp = NULL;
}

static int
set_size(int fd, int name, uint32_t bytes)
{
    const int size = bytes > INT32_MAX ? INT32_MAX : (int)bytes;
    return bytes == 0 ? 0 : (int)sys_setsockopt(fd, SOL_SOCKET, name, &size, sizeof(size));
}

static int
set_options(int fd, struct udp_socket *udp, const struct berth_udp_options *options)
{
    const int on = 1, off = 0;
    int error = 0;
    if (udp->address.to.base.sa_family == AF_INET6)
        (void)sys_setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (options->reuse_port)
        error = (int)sys_setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    if (error == 0)
        error = set_size(fd, SO_RCVBUF, options->kernel_receive_bytes);
    if (error == 0)
        error = set_size(fd, SO_SNDBUF, options->kernel_send_bytes);
    if (error)
        return error;
    /* What a kernel lacks here is made up for, and told by udp_explain. */
    if (options->receive_merged)
        udp->merges = sys_setsockopt(fd, BERTH_SOL_UDP, BERTH_UDP_GRO, &on, sizeof(on)) == 0;
    int segment_bytes = 0;
    socklen_t size = sizeof(segment_bytes);
    udp->segments =
        sys_getsockopt(fd, BERTH_SOL_UDP, BERTH_UDP_SEGMENT, &segment_bytes, &size) == 0;
    return 0;
}

static int
bind_and_connect(int fd, struct udp_socket *udp, const struct address *bound,
                 const struct address *peer)
{
    int error = 0;
    if (bound != NULL)
        error = (int)sys_bind(fd, &bound->to.base, bound->length);
    if (error == 0 && peer != NULL)
        error = (int)sys_connect(fd, &peer->to.base, peer->length);
    if (error)
        return error;
    udp->connected = peer != NULL;
    udp->address.length = sizeof(udp->address.to);
    return (int)sys_getsockname(fd, &udp->address.to.base, &udp->address.length);
}

/** Opens the socket: bound, connected if there is a peer, and blocking like every other. */
static int
open_socket(struct udp_socket *udp, const char *text, const struct berth_udp_options *options)
{
    struct address bound, peer;
    if ((text == NULL && options->peer == NULL) ||
        (text != NULL && address_parse_datagram(&bound, text) != 0) ||
        (options->peer != NULL && address_parse_datagram(&peer, options->peer) != 0))
        return -EINVAL;
    udp->address = text != NULL ? bound : peer; /* the family, for now */
    const int fd = (int)sys_socket(udp->address.to.base.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    int error = set_options(fd, udp, options);
    if (error == 0)
        error = bind_and_connect(fd, udp, text != NULL ? &bound : NULL,
                                 options->peer != NULL ? &peer : NULL);
    if (error) {
        (void)sys_close(fd);
        return error;
    }
    return fd;
}

/** Makes the slot, and begins to receive. The descriptor is the caller's still on an error. */
static int
create_slot(struct berth_loop *loop, int fd, struct udp_socket *udp, struct berth_slot **result)
{
    struct berth_slot *slot = NULL;
    int error = conn_create_keeping(loop, fd, CLASS_OWN, KIND_DATAGRAM | CONN_OPENED, &slot);
    if (error)
        return error;
    slot_cold(loop, slot)->ctx = udp;
    error = loop->engine->datagram_start(loop, slot);
    if (error) {
        BERTH_ASSERT(!udp->starving);
        slot->state &= ~(uint32_t)CONN_OPENED;
        conn_discard(loop, slot, 0);
        return error;
    }
    udp->slot = slot;
    udp->next = loop->udp->sockets;
    if (udp->next != NULL)
        udp->next->previous = udp;
    loop->udp->sockets = udp;
    *result = slot;
    return 0;
}

int
berth_udp_open(struct berth_loop *loop, const char *address,
               const struct berth_udp_handlers *handlers, void *ctx,
               const struct berth_udp_options *given, struct berth_udp **result)
{
    if (loop == NULL || handlers == NULL)
        return -EINVAL;
    if (loop_is_child(loop))
        return -ECHILD;
    if (loop->drain.state == DRAIN_OVER)
        return -ESHUTDOWN;
    struct berth_udp_options options;
    if (given != NULL)
        options = *given;
    else
        berth_udp_options_init(&options);
    int error = options_check(&options);
    if (error == 0)
        error = state_create(loop);
    if (error)
        return error;
    struct udp_socket *udp = (struct udp_socket *)calloc(1, sizeof(*udp));
    if (udp == NULL)
        return -ENOMEM;
    udp->handlers = handlers;
    udp->ctx = ctx;
    udp->queue_max = options.queue_max;
    udp->large = options.large || options.receive_merged;
    udp->burst = BURST_FIRST;
    const int fd = open_socket(udp, address, &options);
    struct berth_slot *slot = NULL;
    error = fd < 0 ? fd : create_slot(loop, fd, udp, &slot);
    if (error) {
        if (fd >= 0)
            (void)sys_close(fd);
        free(udp);
        return error;
    }
    loop_due(loop); /* what has been posted must be submitted */
    if (result != NULL)
        *result = as_udp(slot);
    return 0;
}

/* ---- receiving ------------------------------------------------------------------------------ */

void
udp_describe(struct berth_datagram *datagram, const struct msghdr *message)
{
    datagram->truncated = (message->msg_flags & MSG_TRUNC) != 0;
    datagram->segment_bytes = 0;
    datagram->unused = 0;
    if (message->msg_controllen == 0)
        return;
    struct msghdr *walked = (struct msghdr *)(uintptr_t)message; /* CMSG_NXTHDR knows no const */
    for (struct cmsghdr *header = CMSG_FIRSTHDR(walked); header != NULL;
         header = CMSG_NXTHDR(walked, header)) {
        if (header->cmsg_level != BERTH_SOL_UDP || header->cmsg_type != BERTH_UDP_GRO ||
            header->cmsg_len < CMSG_LEN(sizeof(int)))
            continue;
        const int bytes = *(const int *)(const void *)CMSG_DATA(header);
        if (bytes > 0 && (uint32_t)bytes < datagram->span.length)
            datagram->segment_bytes = (uint32_t)bytes;
    }
}

void
udp_deliver(struct berth_loop *loop, struct berth_slot *slot, const struct berth_datagram *list,
            unsigned n)
{
    BERTH_ASSERT(conn_wants_data(slot) && n > 0);
    slot->state |= CONN_READ_ACTIVE;
    loop->stats.receives++;
    for (unsigned i = 0; i < n; i++) {
        const struct berth_datagram *datagram = &list[i];
        const uint32_t bytes = datagram->span.length, segment = datagram->segment_bytes;
        loop->stats.datagrams_received += segment == 0 ? 1 : (bytes + segment - 1) / segment;
        loop->stats.datagrams_truncated += datagram->truncated;
        loop->stats.received_bytes += bytes;
        loop->copies.received += bytes;
        loop->copies.received_kernel += bytes;
    }
    const struct berth_udp_handlers *handlers = udp_of(loop, slot)->handlers;
    loop->current = slot;
    if (handlers->datagrams != NULL)
        handlers->datagrams(as_udp(slot), list, n);
}

/** Tells the program, unless it has closed the socket. */
static void
tell_error(struct berth_loop *loop, struct berth_slot *slot, int error, unsigned lost)
{
    const struct berth_udp_handlers *handlers = udp_of(loop, slot)->handlers;
    loop->current = slot;
    if (handlers->error != NULL && slot->state & CONN_OPENED &&
        !(slot->state & (CONN_FAILED | CONN_CLOSE_WANTED)) && !(slot->flags & BERTH_SLOT_CLOSING))
        handlers->error(as_udp(slot), error, lost);
}

void
udp_receive_failed(struct berth_loop *loop, struct berth_slot *slot, int error)
{
    switch (error) {
    case -EBADF: /* what would come again at once, for ever */
    case -ENOTSOCK:
    case -EINVAL:
    case -EFAULT:
    case -EOPNOTSUPP:
        conn_failed(loop, slot, error);
        break;
    default:
        tell_error(loop, slot, error, 0);
    }
}

/* ---- running out of buffers ----------------------------------------------------------------- */

void
udp_starve(struct berth_loop *loop, struct udp_socket *udp)
{
    loop->stats.enobufs++;
    if (udp->starving)
        return;
    udp->starving = 1;
    loop->udp->starving++;
    loop->stats.starved++;
}

static void
unstarve(struct berth_loop *loop, struct udp_socket *udp)
{
    loop->udp->starving -= udp->starving;
    udp->starving = 0;
}

int
udp_tick(struct berth_loop *loop)
{
    if (loop->udp == NULL || loop->udp->starving == 0)
        return -1;
    for (struct udp_socket *udp = loop->udp->sockets; udp != NULL; udp = udp->next) {
        if (!udp->starving ||
            berth_pool_available(loop->pool, udp_class(udp), BERTH_FOR_ACTIVE) == 0)
            continue;
        unstarve(loop, udp);
        conn_todo(loop, udp->slot);
    }
    return STARVED_TICK_MS;
}

/* ---- sending -------------------------------------------------------------------------------- */

void
udp_sent(struct berth_loop *loop, struct berth_slot *slot, uint32_t index)
{
    const struct udp_node *node = udp_node_at(loop, index);
    const uint32_t bytes = node->lease.length, segment = node->segment_bytes;
    const uint32_t count = segment == 0 ? 1 : (bytes + segment - 1) / segment;
    slot->state |= CONN_WRITE_ACTIVE;
    loop->stats.sends++;
    loop->stats.sent_bytes += bytes;
    loop->stats.datagrams_sent += count;
    if (segment != 0)
        loop->stats.datagrams_segmented += count;
    loop->copies.sent += bytes;
    loop->copies.sent_kernel += bytes;
    udp_of(loop, slot)->queued--;
    udp_node_free(loop, index);
    if (slot->state & (CONN_HIGH | CONN_CLOSE_WANTED))
        slot->state |= CONN_TODO;
}

/**
 * A kernel that will not cut this: its device cannot (-EIO), or the segments do not fit the path
 * (-EINVAL). They go out one by one then, before everything else.
 */
static int
send_in_pieces(struct berth_loop *loop, struct udp_socket *udp, uint32_t index, int error)
{
    struct udp_list pieces;
    uint32_t count;
    if (udp_node_at(loop, index)->segment_bytes == 0 || (error != -EIO && error != -EINVAL))
        return 0;
    if (error == -EIO)
        udp->segments = 0;
    if (udp_split(loop, udp_node_at(loop, index), &pieces, &count) != 0)
        return 0;
    udp_list_join(loop, &pieces, &udp->waiting);
    udp->queued += count - 1;
    udp_node_free(loop, index);
    return 1;
}

void
udp_send_failed(struct berth_loop *loop, struct berth_slot *slot, uint32_t index, int error)
{
    struct udp_socket *udp = udp_of(loop, slot);
    slot->state |= CONN_TODO;
    if (send_in_pieces(loop, udp, index, error))
        return;
    if (error == -ECONNREFUSED && udp->connected) {
        /* The answer to an earlier one, which the kernel tells whoever comes first. */
        struct udp_list refused = {0, 0};
        udp_list_append(loop, &refused, index);
        udp_list_join(loop, &refused, &udp->waiting);
        tell_error(loop, slot, error, 0);
        return;
    }
    const uint32_t bytes = udp_node_at(loop, index)->lease.length;
    const uint32_t segment = udp_node_at(loop, index)->segment_bytes;
    loop->stats.datagrams_lost += segment == 0 ? 1 : (bytes + segment - 1) / segment;
    udp->queued--;
    udp_node_free(loop, index);
    tell_error(loop, slot, error, 1);
}

void
udp_step(struct berth_loop *loop, struct berth_slot *slot)
{
    struct udp_socket *udp = udp_of(loop, slot);
    if (udp->waiting.head != 0 && !(slot->state & (CONN_SENDING | CONN_FAILED)))
        loop->engine->datagram_send(loop, slot);
    if (!(slot->state & CONN_HIGH) || udp->queued > udp->queue_max / 2)
        return;
    slot->state = (slot->state & ~(uint32_t)CONN_HIGH) | CONN_TODO;
    if (udp->handlers->drained != NULL && !(slot->state & (CONN_CLOSE_WANTED | CONN_FAILED)))
        udp->handlers->drained(as_udp(slot));
}

/* ---- closing -------------------------------------------------------------------------------- */

void
udp_call_close(struct berth_loop *loop, struct berth_slot *slot, int reason)
{
    const struct berth_udp_handlers *handlers = udp_of(loop, slot)->handlers;
    if (handlers->close != NULL)
        handlers->close(as_udp(slot), reason);
}

void
udp_free(struct berth_loop *loop, struct berth_slot *slot)
{
    struct udp_socket *udp = udp_of(loop, slot);
    /* Only when the engine itself is gone: otherwise it has given all of them back. */
    for (uint32_t at = udp->taken.head; at != 0; at = udp_node_at(loop, at)->next)
        if (udp_node_at(loop, at)->lease.generation != 0)
            (void)berth_lease_send_end(loop->pool, udp_node_at(loop, at)->lease);
    udp_list_join(loop, &udp->again, &udp->waiting);
    udp_list_join(loop, &udp->taken, &udp->waiting);
    while (udp->waiting.head != 0)
        udp_node_free(loop, udp_list_pop(loop, &udp->waiting));
    if (udp->previous != NULL)
        udp->previous->next = udp->next;
    else
        loop->udp->sockets = udp->next;
    if (udp->next != NULL)
        udp->next->previous = udp->previous;
    unstarve(loop, udp);
    slot_cold(loop, slot)->ctx = NULL;
    free(udp);
}

int
udp_queued_any(const struct berth_loop *loop)
{
    const struct udp_socket *udp = loop->udp == NULL ? NULL : loop->udp->sockets;
    while (udp != NULL && (udp->queued == 0 || udp->slot->state & CONN_ZOMBIE))
        udp = udp->next;
    return udp != NULL;
}

/* ---- telling about it ----------------------------------------------------------------------- */

int
udp_explain(const struct berth_loop *loop, char *text, size_t size)
{
    unsigned sockets = 0, large = 0, merges = 0, segments = 0;
    const struct udp_socket *first = loop->udp == NULL ? NULL : loop->udp->sockets;
    for (const struct udp_socket *udp = first; udp != NULL; udp = udp->next) {
        sockets++;
        large += udp->large;
        merges += udp->merges;
        segments += udp->segments;
    }
    if (sockets == 0)
        return 0;
    return snprintf(text, size,
                    "datagrams: %u sockets; %u receive into 64 KiB buffers, for %u of them the "
                    "kernel merges (UDP_GRO)\n"
                    "datagrams in segments: cut by the kernel (UDP_SEGMENT) for %u sockets, sent "
                    "one by one for the others\n",
                    sockets, large, merges, segments);
}
