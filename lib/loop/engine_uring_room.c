/*
 * Waiting, on io_uring, until a full socket has room again. No send waits in the kernel
 * (MSG_DONTWAIT): it takes what fits, or says -EAGAIN, and then a poll request is posted. Files are
 * sent by system calls, as the ring would have a thread of its own wait for the disk and the
 * socket, and wait for room in the same way.
 *
 * Every poll of io_uring waits for POLLRDHUP too, whether it was asked to or not, also the one that
 * it arms behind a send that would block. When the peer has finished sending that is true for good:
 * such a send would be tried over and over, and given to a thread that blocks. A single poll
 * request would end at once, for as long as the socket is full. So when one ends without room, a
 * multishot one is posted: it tells once what is true already and later only what is new, and is
 * cancelled when there is room.
 *
 * The invariant: while one is posted CONN_SENDING is set, as for a send, and nothing of the queue
 * is in flight, as for no send. It has a send's token, and is cancelled like one.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_URING
#include "loop/engine_uring.h"

#include <poll.h>

#include "loop/send.h"

/** Waits for room in the socket. 0 or -EAGAIN. */
static int
post_poll(struct berth_loop *loop, struct berth_slot *slot, int multishot)
{
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL)
        return -EAGAIN;
    if (multishot)
        io_uring_prep_poll_multishot(submission, berth_slot_fd(slot), POLLOUT);
    else
        io_uring_prep_poll_add(submission, berth_slot_fd(slot), POLLOUT);
    uring_set_file(uring_state(loop), submission, slot);
    uring_set_token(submission, slot, OP_SEND);
    slot->state |= CONN_SENDING;
    return 0;
}

/** The same, in the way that suits the connection. */
static int
wait_for_room(struct berth_loop *loop, struct berth_slot *slot)
{
    return post_poll(loop, slot, (slot->state & CONN_EOF) != 0);
}

/** There is room, which a multishot one tells once: if it cannot be ended now, nothing would be. */
static void
end_poll(struct berth_loop *loop, struct berth_slot *slot)
{
    struct io_uring_sqe *submission = uring_get_submission(loop);
    if (submission == NULL) {
        slot->state |= CONN_RESET;
        conn_failed(loop, slot, -ENOBUFS);
        return;
    }
    io_uring_prep_cancel64(submission, berth_slot_token(slot, OP_SEND), 0);
    uring_set_token(submission, slot, OP_CANCEL);
}

void
uring_send_refused(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    if (slot->flags & BERTH_SLOT_CLOSING || result == -EINTR || result == -ECANCELED)
        return;
    if (result != -EAGAIN) {
        conn_failed(loop, slot, result == 0 ? -EPIPE : result);
        return;
    }
    loop->stats.sends_short++;
    (void)wait_for_room(loop, slot); /* refused: it is sent again, and finds no room again */
}

int
uring_send_file(struct berth_loop *loop, struct berth_slot *slot)
{
    const enum send_file_result result = send_file_now(loop, slot);
    if (result == SEND_FILE_REST)
        return 1;
    if (result != SEND_FILE_FULL || wait_for_room(loop, slot) != 0)
        conn_todo(loop, slot);
    return 1;
}

void
uring_on_other_send(struct berth_loop *loop, struct berth_slot *slot, int32_t result,
                    unsigned nodes, int ended)
{
    /* Not POLLERR, which may be about news that nobody here reads. An error that ends the
     * connection comes with one of these. */
    const int writable = result > 0 && result & (POLLOUT | POLLHUP);
    if (nodes != 0) { /* what is sent completes as something else: nobody asked for this */
        loop->stats.stale++;
        return;
    }
    if (!ended) {
        if (writable)
            end_poll(loop, slot);
        return;
    }
    (void)berth_slot_end(slot);
    slot->state &= ~(uint32_t)CONN_SENDING;
    slot->state |= CONN_TODO;
    loop->current = slot;
    if (result < 0 && result != -ECANCELED)
        conn_failed(loop, slot, result);
    else if (result > 0 && !writable && !(slot->flags & BERTH_SLOT_CLOSING))
        (void)post_poll(loop, slot, 1); /* refused: the queue is looked at again anyway */
}
