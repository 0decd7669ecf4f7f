/*
 * Files on io_uring: sent by system calls, as the ring would have a thread of its own wait for the
 * disk and the socket; only to learn that the socket has room again a poll request is posted.
 *
 * The invariant: while it is posted CONN_SENDING is set, as for a send, and nothing of the queue is
 * in flight, as for no send. It has a send's token, and is cancelled like one.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_URING
#include "loop/engine_uring.h"

#include "loop/send.h"

int
uring_send_file(struct berth_loop *loop, struct berth_slot *slot)
{
    const enum send_file_result result = send_file_now(loop, slot);
    if (result == SEND_FILE_REST)
        return 1;
    if (result == SEND_FILE_FULL && uring_poll_writable(loop, slot, OP_SEND) == 0)
        slot->state |= CONN_SENDING;
    else
        conn_todo(loop, slot);
    return 1;
}

void
uring_on_other_send(struct berth_loop *loop, struct berth_slot *slot, int32_t result,
                    unsigned nodes)
{
    if (nodes != 0) { /* what is sent completes as something else: nobody asked for this */
        loop->stats.stale++;
        return;
    }
    (void)berth_slot_end(slot);
    slot->state &= ~(uint32_t)CONN_SENDING;
    if (result < 0 && result != -ECANCELED)
        conn_failed(loop, slot, result);
    slot->state |= CONN_TODO;
    loop->current = slot;
}
