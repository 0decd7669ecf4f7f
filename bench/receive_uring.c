/*
 * Receiving by io_uring, by hand: one multishot receive that takes its buffers out of a ring of
 * posted ones. As bundle it may fill several of them for one completion; with an incremental ring
 * it goes on in a buffer where the last receive stopped.
 *
 * The invariant: a receive is armed again only when its last completion lacked F_MORE, and buffers
 * go back in the order of their addresses, in which the kernel takes them.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <liburing.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stream.h"

/** In all buffers together: a slab of berth's pool. */
#define BUFFERS_BYTES ((size_t)2 << 20)
#define BUFFERS_MAX (BUFFERS_BYTES / 4096)
#define BUFFER_GROUP 1
#define SQ_ENTRIES 8u
#define CQ_ENTRIES 4096u
#define COMPLETIONS_AT_ONCE 256u

/* What newer kernels know and liburing 2.3 does not: names of our own, so that newer headers do not
 * clash. */
#define BENCH_RECVSEND_BUNDLE (1u << 4)
#define BENCH_FEAT_RECVSEND_BUNDLE (1u << 14)
#define BENCH_PBUF_RING_INCREMENTAL 2u

/** struct io_uring_buf_reg, with the flags that liburing 2.3 takes for padding. */
struct bench_buffer_registration {
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t bgid;
    uint16_t flags;
    uint64_t unused[3];
};

struct receiver {
    struct stream_side *side;
    struct io_uring ring;
    struct io_uring_buf_ring *buffer_ring;
    unsigned char *buffers;
    uint32_t bytes; /**< of one buffer */
    unsigned count; /**< of buffers; a power of two */
    unsigned returned;
    bool armed;
    int ended;                    /**< 1: the peer is gone; or -errno */
    uint32_t filled[BUFFERS_MAX]; /**< of incremental buffers */
};

static void
buffer_return(struct receiver *receiver, unsigned buffer)
{
    io_uring_buf_ring_add(receiver->buffer_ring,
                          receiver->buffers + (size_t)buffer * receiver->bytes, receiver->bytes,
                          (unsigned short)buffer, (int)(receiver->count - 1),
                          (int)receiver->returned++);
}

static void
buffers_publish(struct receiver *receiver)
{
    if (receiver->returned > 0)
        io_uring_buf_ring_advance(receiver->buffer_ring, (int)receiver->returned);
    receiver->returned = 0;
}

static int
arm(struct receiver *receiver)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&receiver->ring);
    if (sqe == NULL)
        return -EBUSY;
    io_uring_prep_recv_multishot(sqe, receiver->side->fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    if (receiver->side->path->mode == STREAM_BUNDLE)
        sqe->ioprio |= BENCH_RECVSEND_BUNDLE;
    sqe->user_data = 1;
    receiver->armed = true;
    return 0;
}

/* ---- what a completion brings ------------------------------------------------------------------
 */

/** One buffer, and done with it. */
static void
take_buffer(struct receiver *receiver, unsigned buffer, size_t bytes)
{
    stream_received(receiver->side, receiver->buffers + (size_t)buffer * receiver->bytes, bytes);
    buffer_return(receiver, buffer);
}

/** As many buffers as the bytes need, in ring order; what lies together is looked at together. */
static void
take_bundle(struct receiver *receiver, unsigned buffer, size_t bytes)
{
    while (bytes > 0) {
        const size_t to_end = (size_t)(receiver->count - buffer) * receiver->bytes;
        const size_t here = bytes < to_end ? bytes : to_end;
        stream_received(receiver->side, receiver->buffers + (size_t)buffer * receiver->bytes, here);
        for (size_t at = 0; at < here; at += receiver->bytes)
            buffer_return(receiver, buffer++);
        buffer = 0;
        bytes -= here;
    }
}

/** The next part of a buffer. It is over by our own count: what the kernel says is but a hint. */
static void
take_part(struct receiver *receiver, unsigned buffer, size_t bytes)
{
    uint32_t *filled = &receiver->filled[buffer];
    stream_received(receiver->side, receiver->buffers + (size_t)buffer * receiver->bytes + *filled,
                    bytes);
    *filled += (uint32_t)bytes;
    if (*filled >= receiver->bytes) {
        *filled = 0;
        buffer_return(receiver, buffer);
    }
}

static void
complete(struct receiver *receiver, const struct io_uring_cqe *cqe)
{
    const unsigned buffer = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
    if (!(cqe->flags & IORING_CQE_F_MORE))
        receiver->armed = false;
    if ((cqe->flags & IORING_CQE_F_BUFFER) && cqe->res > 0) {
        const size_t bytes = (size_t)cqe->res;
        if (receiver->side->path->mode == STREAM_POSTED)
            take_buffer(receiver, buffer, bytes);
        else if (receiver->side->path->mode == STREAM_BUNDLE)
            take_bundle(receiver, buffer, bytes);
        else
            take_part(receiver, buffer, bytes);
        stream_settled(receiver->side, bytes, bytes);
    } else if (cqe->res == -ENOBUFS) {
        receiver->side->counters.enobufs++;
    } else if (cqe->res == 0) {
        receiver->ended = 1;
    } else {
        receiver->ended = stream_call_failed(cqe->res);
    }
}

static int
turn(struct receiver *receiver)
{
    struct __kernel_timespec timeout = {.tv_nsec = SERVER_WAIT_MS * 1000000L};
    struct io_uring_cqe *cqes[COMPLETIONS_AT_ONCE];
    unsigned count;
    int error = receiver->armed ? 0 : arm(receiver);
    if (error == 0)
        error = io_uring_submit_and_wait_timeout(&receiver->ring, cqes, 1, &timeout, NULL);
    receiver->side->counters.syscalls++;
    if (error < 0 && error != -ETIME && error != -EINTR && error != -EBUSY)
        return error;
    while ((count = io_uring_peek_batch_cqe(&receiver->ring, cqes, COMPLETIONS_AT_ONCE)) > 0) {
        for (unsigned i = 0; i < count; i++)
            complete(receiver, cqes[i]);
        io_uring_cq_advance(&receiver->ring, count);
    }
    buffers_publish(receiver);
    return receiver->ended;
}

/* ---- setting up --------------------------------------------------------------------------------
 */

static int
buffers_make(struct receiver *receiver)
{
    const bool incremental = receiver->side->path->mode == STREAM_INCREMENTAL;
    receiver->bytes = receiver->side->path->bytes;
    receiver->count = (unsigned)(BUFFERS_BYTES / receiver->bytes);
    receiver->buffers = stream_memory(BUFFERS_BYTES);
    receiver->buffer_ring = (struct io_uring_buf_ring *)(void *)stream_memory(
        receiver->count * sizeof(struct io_uring_buf));
    if (receiver->buffers == NULL || receiver->buffer_ring == NULL)
        return -ENOMEM;
    struct bench_buffer_registration registration = {
        .ring_addr = (uint64_t)(uintptr_t)receiver->buffer_ring,
        .ring_entries = receiver->count,
        .bgid = BUFFER_GROUP,
        .flags = incremental ? BENCH_PBUF_RING_INCREMENTAL : 0,
    };
    if (syscall(__NR_io_uring_register, receiver->ring.ring_fd, IORING_REGISTER_PBUF_RING,
                &registration, 1) != 0)
        return -errno;
    io_uring_buf_ring_init(receiver->buffer_ring);
    for (unsigned i = 0; i < receiver->count; i++)
        buffer_return(receiver, i);
    buffers_publish(receiver);
    return 0;
}

static int
set_up(struct receiver *receiver)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = CQ_ENTRIES,
    };
    int error = io_uring_queue_init_params(SQ_ENTRIES, &receiver->ring, &params);
    if (error == 0 && receiver->side->path->mode == STREAM_BUNDLE &&
        !(params.features & BENCH_FEAT_RECVSEND_BUNDLE))
        error = -EOPNOTSUPP;
    if (error == 0)
        error = buffers_make(receiver);
    if (error == 0)
        (void)io_uring_register_ring_fd(&receiver->ring); /* only an optimisation */
    return error;
}

int
receive_uring_run(struct stream_side *side)
{
    static struct receiver receiver;
    receiver.side = side;
    int error = set_up(&receiver);
    if (error != 0)
        return error;
    stream_ready(side);
    while (error == 0 && stream_goes_on(side))
        error = turn(&receiver);
    return error > 0 ? 0 : error;
}
