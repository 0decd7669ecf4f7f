/*
 * Sending by io_uring, by hand, one send at a time so that the stream stays in order: an ordinary
 * send, and SEND_ZC out of plain or registered memory. SEND_ZC completes twice: once when the bytes
 * are queued, and once (F_NOTIF) when the kernel is done with the memory, which then says whether
 * it copied after all. The second one is never waited for, unless all slots are taken.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <liburing.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "stream.h"

#define RING_ENTRIES 256u
/** Sends whose memory the kernel has: at most so many, as a program has so many buffers. */
#define SLOTS 64u

/* What liburing 2.3 does not name. */
#define BENCH_SEND_ZC_REPORT_USAGE (1u << 3)
#define BENCH_NOTIF_USAGE_ZC_COPIED (1u << 31)

struct sender {
    struct stream_side *side;
    struct io_uring ring;
    bool zero_copy, fixed;
    bool reports;  /**< the kernel says whether it copied */
    bool sending;  /**< a send has not completed */
    int ended;     /**< 1: the peer is gone; or -errno */
    unsigned free; /**< of `slots` */
    uint32_t slots[SLOTS];
    uint8_t free_slots[SLOTS];
};

static void
slot_free(struct sender *sender, unsigned slot)
{
    sender->free_slots[sender->free++] = (uint8_t)slot;
}

/** The bytes are queued, or an error says why not. */
static void
complete_send(struct sender *sender, const struct io_uring_cqe *cqe)
{
    const unsigned slot = (unsigned)cqe->user_data;
    sender->sending = false;
    sender->slots[slot] = cqe->res > 0 ? (uint32_t)cqe->res : 0;
    if (cqe->res > 0) {
        stream_sent(sender->side, (size_t)cqe->res);
        if (!sender->zero_copy)
            stream_settled(sender->side, (size_t)cqe->res, (size_t)cqe->res);
    } else if (cqe->res == -EINVAL && sender->reports &&
               sender->side->counters.received_bytes == 0) {
        sender->reports = false; /* Linux 6.0 and 6.1 cannot */
    } else {
        sender->ended = stream_call_failed(cqe->res);
    }
    if (!(cqe->flags & IORING_CQE_F_MORE))
        slot_free(sender, slot);
}

/** The kernel is done with the memory. */
static void
complete_memory(struct sender *sender, const struct io_uring_cqe *cqe)
{
    const unsigned slot = (unsigned)cqe->user_data;
    const bool copied = ((uint32_t)cqe->res & BENCH_NOTIF_USAGE_ZC_COPIED) != 0;
    if (sender->reports)
        stream_notified(sender->side, sender->slots[slot], copied);
    slot_free(sender, slot);
}

static void
complete_all(struct sender *sender)
{
    struct io_uring_cqe *cqes[SLOTS];
    unsigned count;
    while ((count = io_uring_peek_batch_cqe(&sender->ring, cqes, SLOTS)) > 0) {
        for (unsigned i = 0; i < count; i++) {
            if (cqes[i]->flags & IORING_CQE_F_NOTIF)
                complete_memory(sender, cqes[i]);
            else
                complete_send(sender, cqes[i]);
        }
        io_uring_cq_advance(&sender->ring, count);
    }
}

static void
send_next(struct sender *sender)
{
    struct stream_side *side = sender->side;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&sender->ring);
    if (sqe == NULL)
        return; /* not with one send at a time; the next turn submits */
    const unsigned slot = sender->free_slots[--sender->free];
    const size_t bytes = stream_source_piece(side, side->path->bytes);
    const void *data = side->source + side->source_at;
    const unsigned flags = sender->reports ? BENCH_SEND_ZC_REPORT_USAGE : 0;
    if (!sender->zero_copy)
        io_uring_prep_send(sqe, side->fd, data, bytes, MSG_WAITALL | MSG_NOSIGNAL);
    else if (!sender->fixed)
        io_uring_prep_send_zc(sqe, side->fd, data, bytes, MSG_WAITALL | MSG_NOSIGNAL, flags);
    else
        io_uring_prep_send_zc_fixed(sqe, side->fd, data, bytes, MSG_WAITALL | MSG_NOSIGNAL, flags,
                                    0);
    sqe->user_data = slot;
    sender->sending = true;
}

static int
turn(struct sender *sender)
{
    struct __kernel_timespec timeout = {.tv_nsec = SERVER_WAIT_MS * 1000000L};
    struct io_uring_cqe *cqe;
    if (!sender->sending && sender->free > 0)
        send_next(sender);
    const int error = io_uring_submit_and_wait_timeout(&sender->ring, &cqe, 1, &timeout, NULL);
    sender->side->counters.syscalls++;
    if (error < 0 && error != -ETIME && error != -EINTR && error != -EBUSY)
        return error;
    complete_all(sender);
    return sender->ended;
}

static int
set_up(struct sender *sender)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
    };
    sender->zero_copy = sender->side->path->mode != STREAM_URING_SEND;
    sender->fixed = sender->side->path->mode == STREAM_URING_ZC_FIXED;
    sender->reports = sender->zero_copy;
    for (unsigned i = 0; i < SLOTS; i++)
        slot_free(sender, i);
    int error = stream_source_make(sender->side);
    if (error == 0)
        error = io_uring_queue_init_params(RING_ENTRIES, &sender->ring, &params);
    if (error == 0 && sender->fixed) {
        const struct iovec all = {sender->side->source, STREAM_SOURCE_BYTES};
        error = io_uring_register_buffers(&sender->ring, &all, 1);
    }
    if (error == 0)
        (void)io_uring_register_ring_fd(&sender->ring); /* only an optimisation */
    return error;
}

int
send_uring_run(struct stream_side *side)
{
    static struct sender sender;
    sender.side = side;
    int error = set_up(&sender);
    if (error != 0)
        return error;
    stream_ready(side);
    while (error == 0 && stream_goes_on(side))
        error = turn(&sender);
    return error > 0 ? 0 : error;
}
