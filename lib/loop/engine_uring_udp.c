/*
 * Datagrams on io_uring: one multishot recvmsg per socket into a ring of buffers, and each send a
 * submission of its own. The rings themselves are in engine_uring_udp_ring.c.
 *
 * The invariants: a receive is posted again when, and only when, a completion came without F_MORE;
 * a buffer is ours again when, and only when, a completion carries F_BUFFER. An empty datagram ends
 * the receive, and is none the less a datagram. A send never waits in the kernel (MSG_DONTWAIT): so
 * sends complete in the order in which they were submitted, and the first of those taken is it.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_SOCKET
#define BERTH_SYS_URING
#include "loop/engine_uring_udp.h"
#include "loop/send.h"

#include <string.h>

#include "os/sys.h"

/** Sends of one socket that are submitted at a time: half of the submissions there are. */
#define TAKEN_MAX (SUBMISSIONS_MAX / 2)

/** Where the kernel puts things into a buffer: a description, the address, control data, payload.
 *  The payload begins on a cache line. */
#define NAME_BYTES 32
#define NAME_AT sizeof(struct io_uring_recvmsg_out)
#define CONTROL_AT (NAME_AT + NAME_BYTES)
#define CONTROL_BYTES (UDP_HEADER_BYTES - CONTROL_AT)
BERTH_STATIC_ASSERT(sizeof(struct sockaddr_in6) <= NAME_BYTES, "an address fits");
BERTH_STATIC_ASSERT(CONTROL_AT % 8 == 0, "control data is aligned");
BERTH_STATIC_ASSERT(UDP_HEADER_BYTES + BERTH_UDP_SMALL_BYTES == 4096, "a small buffer");
BERTH_STATIC_ASSERT(UDP_HEADER_BYTES + BERTH_UDP_LARGE_BYTES == 65536, "a large buffer");

/* ---- receiving ------------------------------------------------------------------------------ */

int
uring_datagram_start(struct berth_loop *loop, struct berth_slot *slot)
{
    struct datagram_ring *ring = NULL;
    const int error = uring_datagram_ring(loop, udp_of(loop, slot)->large, &ring);
    if (error)
        return error;
    if (!uring_datagram_fill(loop, ring)) {
        udp_starve(loop, udp_of(loop, slot)); /* posted now it would fail at once, for ever */
        return 0;
    }
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL) {
        conn_todo(loop, slot);
        return 0;
    }
    /* It is read when the submission is, and only these two lengths of it are. */
    static struct msghdr shape = {.msg_namelen = NAME_BYTES, .msg_controllen = CONTROL_BYTES};
    io_uring_prep_recvmsg_multishot(submission, berth_slot_fd(slot), &shape, 0);
    uring_set_file(uring_state(loop), submission, slot);
    submission->flags |= IOSQE_BUFFER_SELECT;
    submission->buf_group = ring->group;
    submission->ioprio |= IORING_RECVSEND_POLL_FIRST;
    uring_set_token(submission, slot, uring_datagram_op(loop, slot));
    slot->state |= CONN_RECEIVING;
    return 0;
}

/** A receive has ended without a buffer. */
static void
receive_failed(struct berth_loop *loop, struct berth_slot *slot, struct datagram_ring *ring,
               int32_t result)
{
    if (slot->flags & BERTH_SLOT_CLOSING || !conn_wants_data(slot))
        return;
    if (result == -ENOBUFS) {
        loop->stats.enobufs++;
        uring_datagram_grow(ring);
    } else if (result != -ECANCELED && result != -EINTR && result != -ENOMEM && result != -ENOSPC &&
               result != -EAGAIN) {
        udp_receive_failed(loop, slot, result);
    }
}

void
uring_on_datagram(struct berth_loop *loop, struct berth_slot *slot,
                  const struct io_uring_cqe *completion)
{
    struct uring_udp *udp = uring_state(loop)->udp;
    const int large = berth_token_op(completion->user_data) == OP_DATAGRAM_LARGE;
    if (slot != NULL && !(completion->flags & IORING_CQE_F_MORE)) {
        uring_operation_ended(slot);
        loop->stats.rearms += conn_wants_data(slot);
        conn_todo(loop, slot);
    }
    if (completion->flags & IORING_CQE_F_BUFFER) {
        if (udp->arrived_count == UDP_BATCH_MAX)
            uring_datagram_deliver(loop);
        udp->arrived[udp->arrived_count++] = (struct datagram_arrived){
            .token = completion->user_data,
            .result = completion->res,
            .id = (uint16_t)(completion->flags >> IORING_CQE_BUFFER_SHIFT),
            .large = (uint8_t)large,
        };
    } else if (slot != NULL && completion->res < 0) {
        receive_failed(loop, slot, &udp->rings[large], completion->res);
    }
}

/** Lends the buffer, and reads what the kernel wrote before the payload. */
static void
describe(struct berth_loop *loop, const struct receive_buffer *buffer, uint32_t length,
         struct berth_datagram *datagram)
{
    const int error = berth_pool_lend(loop->pool, buffer->buffer, length, &datagram->span);
    BERTH_ASSERT(error == 0); /* it was posted, and the length fits */
    (void)error;
    unsigned char *start = (unsigned char *)datagram->span.data;
    const struct io_uring_recvmsg_out *out = (const struct io_uring_recvmsg_out *)(void *)start;
    datagram->from = (const struct sockaddr *)(void *)(start + NAME_AT);
    datagram->from_length = out->namelen <= NAME_BYTES ? out->namelen : NAME_BYTES;
    datagram->span.data = start + UDP_HEADER_BYTES;
    datagram->span.length = length - UDP_HEADER_BYTES;
    struct msghdr message;
    memset(&message, 0, sizeof(message));
    message.msg_flags = (int)out->flags;
    message.msg_control = start + CONTROL_AT;
    message.msg_controllen = out->controllen <= CONTROL_BYTES ? out->controllen : CONTROL_BYTES;
    udp_describe(datagram, &message);
}

/** Hands over `n` datagrams of one socket, or nobody's. */
static void
deliver_run(struct berth_loop *loop, const struct datagram_arrived *arrived, unsigned n)
{
    struct datagram_ring *ring = &uring_state(loop)->udp->rings[arrived[0].large];
    struct berth_slot *slot = berth_table_find(loop->table, arrived[0].token);
    const int wanted = slot != NULL && !(slot->flags & BERTH_SLOT_CLOSING) && conn_wants_data(slot);
    struct berth_datagram list[UDP_BATCH_MAX];
    unsigned listed = 0;
    uint16_t lent[UDP_BATCH_MAX];
    for (unsigned i = 0; i < n; i++) {
        BERTH_ASSERT(arrived[i].id < ring->count && ring->by_id[arrived[i].id].data != NULL);
        if (wanted && arrived[i].result >= UDP_HEADER_BYTES) {
            describe(loop, &ring->by_id[arrived[i].id], (uint32_t)arrived[i].result, &list[listed]);
            lent[listed++] = arrived[i].id;
        } else {
            uring_datagram_give(ring, arrived[i].id);
        }
    }
    if (listed == 0)
        return;
    udp_deliver(loop, slot, list, listed);
    for (unsigned i = 0; i < listed; i++)
        uring_datagram_settle(loop, ring, lent[i]);
    conn_after_event(loop, slot);
}

void
uring_datagram_deliver(struct berth_loop *loop)
{
    struct uring_udp *udp = uring_state(loop)->udp;
    unsigned from = 0;
    for (unsigned i = 1; i <= udp->arrived_count; i++) {
        if (i < udp->arrived_count && udp->arrived[i].token == udp->arrived[from].token)
            continue;
        deliver_run(loop, &udp->arrived[from], i - from);
        from = i;
    }
    udp->arrived_count = 0;
}

/* ---- sending -------------------------------------------------------------------------------- */

void
uring_datagram_send(struct berth_loop *loop, struct berth_slot *slot)
{
    struct udp_socket *udp = udp_of(loop, slot);
    const unsigned others = slot->state & CONN_RECEIVING ? 1 : 0; /* operations in flight */
    while (udp->waiting.head != 0 && udp->again.head == 0 && slot->in_flight < TAKEN_MAX + others) {
        struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
        if (submission == NULL) {
            slot->state |= CONN_TODO;
            return;
        }
        const uint32_t index = udp_list_pop(loop, &udp->waiting);
        struct udp_node *node = udp_node_at(loop, index);
        udp_list_append(loop, &udp->taken, index);
        if (node->lease.generation != 0)
            (void)berth_lease_send_begin(loop->pool, node->lease);
        io_uring_prep_sendmsg(submission, berth_slot_fd(slot), &node->message,
                              MSG_NOSIGNAL | MSG_DONTWAIT);
        uring_set_file(uring_state(loop), submission, slot);
        uring_set_token(submission, slot, OP_DATAGRAM_SEND);
    }
}

/** The kernel was full: waits until it is not, if it can be asked, or asks the next turn. */
static void
wait_writable(struct berth_loop *loop, struct berth_slot *slot)
{
    if (uring_poll_writable(loop, slot, OP_DATAGRAM_POLL) == 0)
        slot->state |= CONN_SENDING;
}

void
uring_on_datagram_sent(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    struct udp_socket *udp = udp_of(loop, slot);
    (void)berth_slot_end(slot);
    const uint32_t index = udp_list_pop(loop, &udp->taken);
    const struct udp_node *node = udp_node_at(loop, index);
    if (node->lease.generation != 0)
        (void)berth_lease_send_end(loop->pool, node->lease);
    if (result >= 0)
        udp_sent(loop, slot, index);
    else if (result == -EAGAIN || result == -EINTR || result == -ECANCELED)
        udp_list_append(loop, &udp->again, index);
    else
        udp_send_failed(loop, slot, index, result);
    if (udp->taken.head == 0 && udp->again.head != 0) {
        udp_list_join(loop, &udp->again, &udp->waiting);
        if (!(slot->flags & BERTH_SLOT_CLOSING))
            wait_writable(loop, slot);
    }
    if (udp->waiting.head != 0 && udp->again.head == 0)
        slot->state |= CONN_TODO;
    loop->current = slot;
}

void
uring_on_datagram_poll(struct berth_loop *loop, struct berth_slot *slot)
{
    (void)berth_slot_end(slot);
    slot->state &= ~(uint32_t)CONN_SENDING;
    slot->state |= CONN_TODO;
    loop->current = slot;
}
