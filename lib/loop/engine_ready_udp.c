/*
 * Datagrams over readiness: recvmmsg(2) into pool buffers when the poller says that there is
 * something, sendmmsg(2) at the end of the event. Nothing is in flight when a call has returned.
 *
 * The invariants: buffers are held only from just before a read until the callback has returned; an
 * event and a send take a bounded number of calls, and the level-triggered poller tells of the
 * rest.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_SOCKET
#include "loop/engine_ready.h"

#include <string.h>

#include "loop/poller.h"
#include "loop/udp_internal.h"
#include "os/sanitize.h"
#include "os/sys.h"

/** Calls per event, and per go of a send: the others must have their turn too. */
#define BATCHES_MAX 4

/** Big buffers are had in smaller numbers: half a slab of them. */
#define LARGE_BATCH_MAX 16

/** Room for what the kernel says besides the payload. */
#define CONTROL_BYTES 64

/** One call's worth of datagrams. */
struct batch_in {
    struct mmsghdr messages[UDP_BATCH_MAX];
    struct iovec iov[UDP_BATCH_MAX];
    struct sockaddr_in6 from[UDP_BATCH_MAX]; /* of either family */
    unsigned char control[UDP_BATCH_MAX][CONTROL_BYTES] __attribute__((aligned(8)));
    struct receive_buffer buffers[UDP_BATCH_MAX];
    struct berth_datagram list[UDP_BATCH_MAX];
};

/* ---- receiving ------------------------------------------------------------------------------ */

int
ready_datagram_start(struct berth_loop *loop, struct berth_slot *slot)
{
    struct udp_socket *udp = udp_of(loop, slot);
    if (berth_pool_available(loop->pool, udp_class(udp), BERTH_FOR_ACTIVE) == 0) {
        udp_starve(loop, udp); /* it would be told again and again that there is something */
        return 0;
    }
    return ready_receive_start(loop, slot);
}

/** Takes buffers to read into: as many as asked for, or as there are. */
static unsigned
take_buffers(struct berth_loop *loop, const struct udp_socket *udp, struct batch_in *batch,
             unsigned wanted)
{
    unsigned count = 0;
    for (; count < wanted; count++) {
        struct receive_buffer *taken = &batch->buffers[count];
        /* The last of them are for those who have begun something; but one is needed. */
        if (berth_pool_post(loop->pool, udp_class(udp),
                            count == 0 ? BERTH_FOR_ACTIVE : BERTH_FOR_NEW, &taken->buffer,
                            &taken->data) != 0)
            break;
#ifdef BERTH_POISONS
        (void)berth_pool_expose(loop->pool, taken->buffer);
#endif
        batch->iov[count] = (struct iovec){taken->data, udp_payload_max(udp)};
        struct msghdr *message = &batch->messages[count].msg_hdr;
        memset(message, 0, sizeof(*message));
        message->msg_name = &batch->from[count];
        message->msg_namelen = sizeof(batch->from[count]);
        message->msg_iov = &batch->iov[count];
        message->msg_iovlen = 1;
        if (udp->merges) {
            message->msg_control = batch->control[count];
            message->msg_controllen = CONTROL_BYTES;
        }
        batch->messages[count].msg_len = 0;
    }
    return count;
}

/** Lends the buffers that were filled. */
static void
lend(struct berth_loop *loop, struct batch_in *batch, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct berth_datagram *datagram = &batch->list[i];
        const struct msghdr *message = &batch->messages[i].msg_hdr;
        const uint32_t length = batch->messages[i].msg_len;
        /* There is no lending of nothing, but the callback must get something to look at. */
        const int error = berth_pool_lend(loop->pool, batch->buffers[i].buffer,
                                          length > 0 ? length : 1, &datagram->span);
        BERTH_ASSERT(error == 0); /* it was posted, and the length fits */
        (void)error;
        datagram->span.length = length;
        datagram->from = (const struct sockaddr *)&batch->from[i];
        datagram->from_length = message->msg_namelen;
        udp_describe(datagram, message);
    }
}

/**
 * One call. Returns how many datagrams came, or -errno; `*asked` says how many could have. Without
 * a buffer it starves.
 */
static int
receive_batch(struct berth_loop *loop, struct berth_slot *slot, unsigned *asked)
{
    struct udp_socket *udp = udp_of(loop, slot);
    struct batch_in batch;
    *asked = take_buffers(loop, udp, &batch, udp->burst);
    if (*asked == 0) {
        udp_starve(loop, udp);
        return -ENOBUFS;
    }
    intptr_t got;
    do
        got = sys_recvmmsg(berth_slot_fd(slot), batch.messages, *asked, MSG_DONTWAIT);
    while (got == -EINTR);
    loop->stats.syscalls++;
    const unsigned n = got > 0 ? (unsigned)got : 0;
    const unsigned burst_max = udp->large ? LARGE_BATCH_MAX : UDP_BATCH_MAX;
    if (n == udp->burst)
        udp->burst = (uint16_t)(2 * n < burst_max ? 2 * n : burst_max);
    else
        udp->burst = (uint16_t)(n + 1 < burst_max ? n + 1 : burst_max);
    lend(loop, &batch, n);
    if (n > 0)
        udp_deliver(loop, slot, batch.list, n);
    for (unsigned i = 0; i < *asked; i++)
        if (i >= n || berth_pool_settle(loop->pool, batch.buffers[i].buffer) == 1)
            (void)berth_pool_unpost(loop->pool, batch.buffers[i].buffer);
    return (int)got;
}

static void
receive(struct berth_loop *loop, struct berth_slot *slot)
{
    const struct udp_socket *udp = udp_of(loop, slot);
    size_t budget = loop->options.fairness_bytes;
    for (unsigned calls = 0; calls < BATCHES_MAX; calls++) {
        if (!conn_may_receive(loop, slot) || udp->starving) {
            ready_receive_stop(loop, slot); /* conn_progress starts it again when it may */
            slot->state |= CONN_TODO;
            return;
        }
        unsigned asked;
        const uint64_t before = loop->stats.received_bytes;
        const int got = receive_batch(loop, slot, &asked);
        if (got < 0 && !udp->starving) {
            if (got != -EAGAIN)
                udp_receive_failed(loop, slot, got);
            return;
        }
        if (got >= 0 && (unsigned)got < asked)
            return; /* that was all */
        const uint64_t bytes = loop->stats.received_bytes - before;
        if (bytes >= budget)
            break;
        budget -= bytes;
    }
    loop->stats.fairness_stops++;
}

/** An error while nobody receives: it is asked for, or it would be reported for ever. */
static void
ask_error(struct berth_loop *loop, struct berth_slot *slot)
{
    const int error = descriptor_error(loop, slot);
    if (error)
        udp_receive_failed(loop, slot, error);
}

/* ---- sending -------------------------------------------------------------------------------- */

/** One call. Returns how many went out, or -errno for the first one. */
static intptr_t
send_batch_of(struct berth_loop *loop, struct berth_slot *slot, const struct udp_socket *udp,
              unsigned *asked)
{
    struct mmsghdr messages[UDP_BATCH_MAX];
    unsigned n = 0;
    for (uint32_t at = udp->waiting.head; at != 0 && n < UDP_BATCH_MAX;
         at = udp_node_at(loop, at)->next) {
        messages[n].msg_hdr = udp_node_at(loop, at)->message;
        messages[n++].msg_len = 0;
    }
    *asked = n;
    loop->stats.syscalls++;
    return sys_sendmmsg(berth_slot_fd(slot), messages, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/** The kernel is full: goes on when it says that it is not. */
static void
wait_writable(struct berth_loop *loop, struct berth_slot *slot)
{
    slot->state |= CONN_SENDING | CONN_WRITABLE;
    const int error = ready_update_interest(loop, slot);
    if (error)
        conn_failed(loop, slot, error);
}

void
ready_datagram_send(struct berth_loop *loop, struct berth_slot *slot)
{
    struct udp_socket *udp = udp_of(loop, slot);
    for (unsigned calls = 0; udp->waiting.head != 0; calls++) {
        if (calls == BATCHES_MAX) {
            slot->state |= CONN_TODO;
            return;
        }
        unsigned asked;
        const intptr_t sent = send_batch_of(loop, slot, udp, &asked);
        if (sent == -EINTR)
            continue;
        if (sent == -EAGAIN) {
            wait_writable(loop, slot);
            return;
        }
        if (sent <= 0) { /* the first one: the others are tried again */
            udp_send_failed(loop, slot, udp_list_pop(loop, &udp->waiting),
                            sent == 0 ? -EIO : (int)sent);
            continue;
        }
        for (intptr_t i = 0; i < sent; i++)
            udp_sent(loop, slot, udp_list_pop(loop, &udp->waiting));
    }
}

/* ---- events --------------------------------------------------------------------------------- */

void
ready_datagram_event(struct berth_loop *loop, struct berth_slot *slot, uint32_t events)
{
    if (slot->state & CONN_RECEIVING) {
        if (events & (POLLER_READABLE | POLLER_FAILED))
            receive(loop, slot);
    } else if (events & POLLER_FAILED) {
        ask_error(loop, slot);
    }
    if (events & POLLER_WRITABLE && slot->state & CONN_WRITABLE) {
        slot->state &= ~(uint32_t)(CONN_SENDING | CONN_WRITABLE);
        const int error = ready_update_interest(loop, slot);
        if (error)
            conn_failed(loop, slot, error);
        slot->state |= CONN_TODO;
    }
    conn_after_event(loop, slot);
}
