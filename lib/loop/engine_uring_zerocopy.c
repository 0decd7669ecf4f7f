/*
 * Sends that io_uring reads in place (SEND_ZC, SENDMSG_ZC). Such a send completes twice: first the
 * bytes are taken, and the next send may go; then, if the first completion had F_MORE, a
 * notification says that their memory is read no more. Notifications come in any order, and late.
 *
 * The invariant: memory is given back when, and only when, a notification came, or a first
 * completion without F_MORE.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_URING
#include "loop/engine_uring.h"
#include "loop/send.h"

#include <string.h>

#include "os/sys.h"

/** Newer than liburing 2.3, so named here; the values are the kernel's (Linux 6.2). */
#define BERTH_URING_SEND_ZC_REPORT_USAGE (1u << 3)
#define BERTH_URING_NOTIF_USAGE_ZC_COPIED (1u << 31)

/** Whether it takes that flag. */
enum { REPORTS_MISSING, REPORTS_UNTRIED, REPORTS_WORK };

const char *
uring_zerocopy_create(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    state->reports_usage = REPORTS_UNTRIED;
    return sys_uring_knows(&state->ring, IORING_OP_SENDMSG_ZC) == 1
               ? NULL
               : "this kernel has no SENDMSG_ZC (Linux 6.1)";
}

/** What all such sends have in common. After io_uring_prep_... */
static void
finish_submission(struct berth_loop *loop, struct berth_slot *slot, struct io_uring_sqe *submission,
                  const struct zerocopy_ask *ask)
{
    const struct uring_engine *state = uring_state(loop);
    if (state->reports_usage)
        submission->ioprio |= BERTH_URING_SEND_ZC_REPORT_USAGE;
    uring_set_file(state, submission, slot);
    uring_set_token(submission, slot, (enum loop_op)(OP_ZEROCOPY + ask->send));
    slot->state |= CONN_SENDING;
    zerocopy_submitted(loop, slot, ask);
}

int
uring_zerocopy_send(struct berth_loop *loop, struct berth_slot *slot)
{
    struct uring_engine *state = uring_state(loop);
    struct zerocopy_ask ask;
    if (state->gathers_used == GATHERS_MAX)
        uring_submit(loop);
    if (state->gathers_used == GATHERS_MAX)
        return 0; /* the usual way knows what to do */
    struct gather *gather = &state->gathers[state->gathers_used];
    if (!zerocopy_begin(loop, slot, gather->iov, SEND_IOVECS_MAX, &ask))
        return 0;
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL) {
        zerocopy_undo(loop, slot, &ask);
        conn_todo(loop, slot);
        return 1;
    }
    const int fd = berth_slot_fd(slot);
    const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    if (ask.count > 1) {
        state->gathers_used++;
        memset(&gather->message, 0, sizeof(gather->message));
        gather->message.msg_iov = gather->iov;
        gather->message.msg_iovlen = ask.count;
        io_uring_prep_sendmsg_zc(submission, fd, &gather->message, (unsigned)flags);
    } else {
        io_uring_prep_send_zc(submission, fd, gather->iov[0].iov_base, ask.bytes, flags, 0);
    }
    finish_submission(loop, slot, submission, &ask);
    return 1;
}

/** The kernel does not do what it was asked. 1: it will be asked for less. */
static int
refused(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    struct uring_engine *state = uring_state(loop);
    if (result == -EINVAL && state->reports_usage == REPORTS_UNTRIED) {
        state->reports_usage = REPORTS_MISSING; /* before Linux 6.2: no word on whether it copied */
        return 1;
    }
    return zerocopy_refused(loop, slot, result);
}

/** Bytes were taken, or why not. */
static void
on_taken(struct berth_loop *loop, struct berth_slot *slot, unsigned send, int32_t result, int more)
{
    struct uring_engine *state = uring_state(loop);
    if (result > 0 && state->reports_usage == REPORTS_UNTRIED)
        state->reports_usage = REPORTS_WORK;
    slot->state &= ~(uint32_t)CONN_SENDING;
    zerocopy_taken(loop, slot, send, result > 0 ? (size_t)result : 0, more);
    if (BERTH_UNLIKELY(result <= 0) && !(slot->flags & BERTH_SLOT_CLOSING) &&
        !refused(loop, slot, result))
        uring_send_refused(loop, slot, result);
    if (slot->buffer != 0)
        slot->state |= CONN_TODO;
}

static void
on_notification(struct berth_loop *loop, struct berth_slot *slot, unsigned send, int32_t result)
{
    enum zerocopy_verdict verdict = ZEROCOPY_UNKNOWN;
    if (uring_state(loop)->reports_usage)
        verdict = (uint32_t)result & BERTH_URING_NOTIF_USAGE_ZC_COPIED ? ZEROCOPY_COPIED
                                                                       : ZEROCOPY_IN_PLACE;
    zerocopy_done(loop, slot, send, verdict);
}

int
uring_on_zerocopy(struct berth_loop *loop, struct berth_slot *slot,
                  const struct io_uring_cqe *completion)
{
    const unsigned send = berth_token_op(completion->user_data) - OP_ZEROCOPY;
    if (send >= ZEROCOPY_SENDS_MAX || !zerocopy_holds(loop, slot))
        return 0;
    const unsigned state = slot_cold(loop, slot)->zerocopy.sends->sends[send].state;
    const int notification = (completion->flags & IORING_CQE_F_NOTIF) != 0;
    const int waits = state == ZEROCOPY_SUBMITTED || state == ZEROCOPY_EARLY;
    if (notification && (state == ZEROCOPY_SUBMITTED || state == ZEROCOPY_TAKEN))
        on_notification(loop, slot, send, completion->res);
    else if (!notification && waits)
        on_taken(loop, slot, send, completion->res, (completion->flags & IORING_CQE_F_MORE) != 0);
    else
        return 0; /* nobody is waiting for it */
    loop->current = slot;
    return 1;
}
