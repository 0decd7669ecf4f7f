/*
 * The io_uring engine: one multishot accept per listener, one multishot receive per connection into
 * a ring of pool buffers that all share, sends submitted in batches with the wait.
 *
 * The invariants, each of which some server has broken:
 *   a receive is posted again when, and only when, a completion came without F_MORE;
 *   a buffer is ours again when, and only when, a completion carries F_BUFFER, whatever its result;
 *   the slot's in-flight count is the number of operations whose last completion is still to come;
 *   every field of a submission is set; every wait has an end.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#define BERTH_SYS_URING
#include "loop/engine_uring_udp.h"
#include "loop/engine_uring_zcrx.h"
#include "loop/send.h"

#include <poll.h>
#include <string.h>

#include "os/sys.h"

/** How far ahead of a completion its slot is fetched. */
#define PREFETCH_DISTANCE 6

/** So many completions in one turn make a loop busy: see wait_for_completions. */
#define BUSY_COMPLETIONS 8

/** While nobody watches the wake-up descriptor, the loop looks itself so often. */
#define WATCH_AGAIN_MS 5

/* ---- submitting ----------------------------------------------------------------------------- */

/** What has been submitted is described in the kernel's own words: the scratch space is free. */
static void
free_gathers(struct uring_engine *state)
{
    if (io_uring_sq_ready(&state->ring) == 0)
        state->gathers_used = 0;
}

void
uring_run_work(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    (void)sys_uring_run(&state->ring);
    loop->stats.syscalls++;
    free_gathers(state);
}

void
uring_submit(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    (void)sys_uring_submit(&state->ring);
    loop->stats.syscalls++;
    free_gathers(state);
}

/** A submission to fill in, or NULL when the kernel takes none just now. */
struct io_uring_sqe *
uring_get_submission(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    struct io_uring_sqe *submission = io_uring_get_sqe(&state->ring);
    if (BERTH_LIKELY(submission != NULL))
        return submission;
    uring_submit(loop);
    return io_uring_get_sqe(&state->ring);
}

/** The same for an operation of a slot that will be in flight until its last completion. */
struct io_uring_sqe *
uring_begin_operation(struct berth_loop *loop, struct berth_slot *slot)
{
    struct io_uring_sqe *submission = uring_get_submission(loop);
    if (BERTH_UNLIKELY(submission == NULL))
        return NULL;
    const int error = berth_slot_begin(slot);
    BERTH_ASSERT(error == 0); /* a slot has one receive, one send and one connect at most */
    (void)error;
    return submission;
}

/** Cancels a posted receive or accept; its last completion clears CONN_RECEIVING. */
void
uring_stop_posted(struct berth_loop *loop, struct berth_slot *slot, enum loop_op op)
{
    if (!(slot->state & CONN_RECEIVING) || slot->state & CONN_STOPPING)
        return;
    struct io_uring_sqe *submission = uring_get_submission(loop);
    if (submission == NULL) {
        conn_todo(loop, slot);
        return;
    }
    io_uring_prep_cancel64(submission, berth_slot_token(slot, (uint8_t)op), 0);
    uring_set_token(submission, slot, OP_CANCEL);
    slot->state |= CONN_STOPPING;
}

/** The last completion of a posted operation has come. */
void
uring_operation_ended(struct berth_slot *slot)
{
    slot->state &= ~(uint32_t)(CONN_RECEIVING | CONN_STOPPING);
    (void)berth_slot_end(slot);
}

/* ---- sending -------------------------------------------------------------------------------- */

static void
uring_send(struct berth_loop *loop, struct berth_slot *slot)
{
    struct uring_engine *state = uring_state(loop);
    const struct send_node *head = queue_head(loop, slot);
    if (BERTH_UNLIKELY(send_file_is_next(loop, slot)) && uring_send_file(loop, slot))
        return;
    if (BERTH_UNLIKELY(head->bytes >= loop->zerocopy_from) && uring_zerocopy_send(loop, slot))
        return;
    const int many = head->next != 0;
    if (many && state->gathers_used == GATHERS_MAX)
        uring_submit(loop);
    if (many && state->gathers_used == GATHERS_MAX) {
        conn_todo(loop, slot);
        return;
    }
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL) {
        conn_todo(loop, slot);
        return;
    }
    const int fd = berth_slot_fd(slot);
    const int flags = MSG_NOSIGNAL | MSG_DONTWAIT; /* see engine_uring_room.c */
    if (many) {
        size_t bytes;
        struct gather *gather = &state->gathers[state->gathers_used++];
        memset(&gather->message, 0, sizeof(gather->message));
        gather->message.msg_iov = gather->iov;
        gather->message.msg_iovlen = send_gather(loop, slot, gather->iov, SEND_IOVECS_MAX, &bytes);
        io_uring_prep_sendmsg(submission, fd, &gather->message, flags);
        send_begin(loop, slot, (unsigned)gather->message.msg_iovlen);
    } else {
        io_uring_prep_send(submission, fd, send_node_data(loop, head), head->lease.length, flags);
        send_begin(loop, slot, 1);
    }
    uring_set_file(state, submission, slot);
    uring_set_token(submission, slot, OP_SEND);
    slot->state |= CONN_SENDING;
}

static void
on_send(struct berth_loop *loop, struct berth_slot *slot, int32_t result, uint32_t flags)
{
    const unsigned nodes = queue_head(loop, slot)->in_flight;
    if (BERTH_UNLIKELY(nodes - 1 >= SEND_IN_PLACE - 1)) { /* none, or not by this operation */
        uring_on_other_send(loop, slot, result, nodes, !(flags & IORING_CQE_F_MORE));
        return;
    }
    (void)berth_slot_end(slot);
    slot->state &= ~(uint32_t)CONN_SENDING;
    send_end(loop, slot, result > 0 ? (size_t)result : 0);
    if (BERTH_UNLIKELY(result <= 0))
        uring_send_refused(loop, slot, result);
    if (slot->buffer != 0)
        slot->state |= CONN_TODO; /* more has been queued meanwhile */
    loop->current = slot;
}

/* ---- accepting and connecting --------------------------------------------------------------- */

static int
uring_accept_start(struct berth_loop *loop, struct berth_slot *slot)
{
    if (slot->state & CONN_RECEIVING)
        return 0; /* if it is being stopped, its last completion starts it again */
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL)
        return -EAGAIN;
    if (loop->direct)
        io_uring_prep_multishot_accept_direct(submission, berth_slot_fd(slot), NULL, NULL, 0);
    else
        io_uring_prep_multishot_accept(submission, berth_slot_fd(slot), NULL, NULL, SOCK_CLOEXEC);
    uring_set_file(uring_state(loop), submission, slot);
    uring_set_token(submission, slot, OP_ACCEPT);
    slot->state |= CONN_RECEIVING;
    return 0;
}

static void
uring_accept_stop(struct berth_loop *loop, struct berth_slot *slot)
{
    uring_stop_posted(loop, slot, OP_ACCEPT);
}

static void
on_accept(struct berth_loop *loop, struct berth_slot *slot, int32_t result, uint32_t flags)
{
    const berth_token token = berth_slot_token(slot, OP_ACCEPT);
    const int unwanted = slot->flags & BERTH_SLOT_CLOSING || slot->state & CONN_FAILED;
    const int ended = !(flags & IORING_CQE_F_MORE);
    if (ended)
        uring_operation_ended(slot);
    if (result == -ENFILE && loop->direct)
        loop->stats.refused_limit++; /* no place in the table: the kernel has hung up on it */
    if (result >= 0 && unwanted)
        descriptor_close(loop, result, -1);
    else if (result >= 0)
        listener_accepted(loop, slot, result);
    else if (!unwanted && result != -ECANCELED)
        listener_accept_failed(loop, slot, result);

    slot = berth_table_find(loop->table, token);
    if (slot == NULL || !ended)
        return;
    struct berth_listener *listener = loop->classes[slot->class_id].listener;
    if (listener != NULL && !listener->backing_off && !(slot->flags & BERTH_SLOT_CLOSING) &&
        uring_accept_start(loop, slot) != 0)
        listener_accept_failed(loop, slot, -ENOBUFS);
    conn_after_event(loop, slot);
}

int
uring_poll_writable(struct berth_loop *loop, struct berth_slot *slot, enum loop_op op)
{
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL)
        return -EAGAIN;
    io_uring_prep_poll_add(submission, berth_slot_fd(slot), POLLOUT);
    uring_set_file(uring_state(loop), submission, slot);
    uring_set_token(submission, slot, op);
    return 0;
}

static int
uring_connect_wait(struct berth_loop *loop, struct berth_slot *slot)
{
    return uring_poll_writable(loop, slot, OP_CONNECT);
}

static void
on_connect(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    (void)berth_slot_end(slot);
    if (result < 0 && result != -ECANCELED)
        conn_failed(loop, slot, result);
    else if (result >= 0 && !(slot->flags & BERTH_SLOT_CLOSING))
        conn_connected(loop, slot);
}

/* ---- waking up ------------------------------------------------------------------------------ */

static int
uring_watch(struct berth_loop *loop, struct berth_slot *slot)
{
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL)
        return -EAGAIN;
    io_uring_prep_poll_multishot(submission, berth_slot_fd(slot), POLLIN);
    uring_set_file(uring_state(loop), submission, slot);
    uring_set_token(submission, slot, OP_WAKE);
    return 0;
}

static void
on_wake(struct berth_loop *loop, struct berth_slot *slot, uint32_t flags)
{
    uint64_t count;
    (void)sys_read(loop->wake_fd, &count, sizeof(count));
    loop->stats.syscalls++;
    if (flags & IORING_CQE_F_MORE)
        return;
    (void)berth_slot_end(slot);
    uring_state(loop)->watch_due = uring_watch(loop, slot) != 0;
}

/** Watches it again after all; if that is refused again, the wait must be short. */
static BERTH_COLD int
watch_again(struct berth_loop *loop, int timeout_ms)
{
    struct berth_slot *slot = berth_table_slot(loop->table, berth_token_index(loop->wake_token));
    uring_state(loop)->watch_due = uring_watch(loop, slot) != 0;
    if (!uring_state(loop)->watch_due || (timeout_ms >= 0 && timeout_ms < WATCH_AGAIN_MS))
        return timeout_ms;
    return WATCH_AGAIN_MS;
}

/* ---- turning -------------------------------------------------------------------------------- */

/**
 * A cancel's own answer matters only if it says that nothing was cancelled: ask again then. Not if
 * the operation is being carried out (-EALREADY): it ends soon, and asking would be all that the
 * loop does until then.
 */
static void
on_cancel(struct berth_slot *slot, int32_t result)
{
    if (result >= 0 || result == -ENOENT || result == -EALREADY || !(slot->state & CONN_STOPPING))
        return;
    slot->state &= ~(uint32_t)CONN_STOPPING;
    if (slot_kind(slot) == KIND_CONN || slot_kind(slot) == KIND_DATAGRAM)
        slot->state |= CONN_TODO;
}

/** A completion for a slot that is gone: only what it carries matters. */
static BERTH_COLD void
on_stale(struct berth_loop *loop, const struct io_uring_cqe *completion)
{
    const unsigned op = berth_token_op(completion->user_data);
    if (op != OP_CANCEL && op != OP_PARK)
        loop->stats.stale++; /* a cancel may be answered after what it cancelled */
    if (uring_is_datagram(completion->user_data))
        uring_on_datagram(loop, NULL, completion);
    else if (completion->flags & IORING_CQE_F_BUFFER &&
             berth_token_op(completion->user_data) != OP_RECEIVE_LANE)
        uring_take_buffer(loop, NULL, completion->res > 0 ? completion->res : 0,
                          (uint16_t)(completion->flags >> IORING_CQE_BUFFER_SHIFT));
    else if (op == OP_RECEIVE && completion->res > 0 && uring_state(loop)->zcrx != NULL)
        uring_zcrx_take(loop, NULL, completion);
}

/**
 * Whether the kernel owes this completion. One that nobody asked for (a kernel that tells an end
 * twice) must not end an operation that is still in flight.
 */
static inline int
is_owed(const struct berth_loop *loop, const struct berth_slot *slot, unsigned op)
{
    switch (op) {
    case OP_RECEIVE:
        return (slot->state & CONN_RECEIVING) != 0 && !(slot->flags & SLOT_LANE);
    case OP_RECEIVE_LANE:
        return (slot->state & CONN_RECEIVING) != 0 && (slot->flags & SLOT_LANE) != 0;
    case OP_SEND:
        return (slot->state & CONN_SENDING) != 0;
    case OP_ACCEPT:
        return (slot->state & CONN_RECEIVING) != 0 && slot_kind(slot) == KIND_LISTENER;
    case OP_CONNECT: /* it may come when the connection has been given up */
        return slot->in_flight > 0 &&
               (slot->state & CONN_CONNECTING || slot->flags & BERTH_SLOT_CLOSING);
    case OP_WAKE:
        return slot->in_flight > 0 && slot_kind(slot) == KIND_WAKE;
    case OP_PARKED:
        return (slot->state & CONN_RECEIVING) != 0 && (slot->flags & SLOT_PARKED) != 0;
    case OP_DATAGRAM:
    case OP_DATAGRAM_LARGE:
        return (slot->state & CONN_RECEIVING) != 0 && slot_kind(slot) == KIND_DATAGRAM;
    case OP_DATAGRAM_SEND:
        return slot_kind(slot) == KIND_DATAGRAM && udp_of(loop, slot)->taken.head != 0;
    case OP_DATAGRAM_POLL:
        return (slot->state & CONN_SENDING) != 0 && slot_kind(slot) == KIND_DATAGRAM;
    default:
        return slot->in_flight > 0 || op == OP_CANCEL || op == OP_TABLE || op == OP_PARK;
    }
}

static void
dispatch(struct berth_loop *loop, const struct io_uring_cqe *completion)
{
    const berth_token token = completion->user_data;
    const int32_t result = completion->res;
    const uint32_t flags = completion->flags;
    struct berth_slot *slot = berth_table_find(loop->table, token);
    if (BERTH_UNLIKELY(slot == NULL || !is_owed(loop, slot, berth_token_op(token)))) {
        on_stale(loop, completion);
        return;
    }
    switch (berth_token_op(token)) {
    case OP_RECEIVE:
    case OP_RECEIVE_LANE:
        uring_on_receive(loop, slot, completion);
        break;
    case OP_SEND:
        on_send(loop, slot, result, flags);
        break;
    case OP_ACCEPT:
        on_accept(loop, slot, result, flags);
        return; /* it looks after the listener itself, which may be gone */
    case OP_CONNECT:
        on_connect(loop, slot, result);
        break;
    case OP_WAKE:
        on_wake(loop, slot, flags);
        return;
    case OP_CANCEL:
        on_cancel(slot, result);
        break;
    case OP_SHUTDOWN:
        (void)berth_slot_end(slot);
        break;
    case OP_PROVE:
        uring_on_prove(loop, slot, result);
        break;
    case OP_TABLE:
        return; /* whoever wanted to know has looked already */
    case OP_PARKED:
        uring_on_parked(loop, slot, result);
        break;
    case OP_PARK:
        uring_on_park_failed(loop, slot, result);
        break;
    case OP_DATAGRAM:
    case OP_DATAGRAM_LARGE:
        uring_on_datagram(loop, slot, completion);
        break;
    case OP_DATAGRAM_SEND:
        uring_on_datagram_sent(loop, slot, result);
        break;
    case OP_DATAGRAM_POLL:
        uring_on_datagram_poll(loop, slot);
        break;
    default:
        if (uring_on_zerocopy(loop, slot, completion))
            break;
        on_stale(loop, completion);
        return;
    }
    /* It may have been all that kept the connection from leaving. */
    if (BERTH_UNLIKELY(slot->state & CONN_CREDIT) && slot->in_flight == 0)
        slot->state |= CONN_TODO;
    conn_after_event(loop, slot);
}

/** Handles the completions that are there now, at most events_max of them. */
static unsigned
reap(struct berth_loop *loop)
{
    struct io_uring *ring = &uring_state(loop)->ring;
    const unsigned ready = io_uring_cq_ready(ring);
    const unsigned count =
        ready < loop->options.events_max ? ready : (unsigned)loop->options.events_max;
    /* In bytes, so that it costs nothing that they may have either size. */
    const uint32_t size = (uint32_t)sizeof(struct io_uring_cqe) << io_uring_cqe_shift(ring);
    const uint32_t mask = *ring->cq.kring_mask * size;
    const unsigned char *completions = (const unsigned char *)ring->cq.cqes;
    uint32_t at = *ring->cq.khead * size;
    for (unsigned i = 0; i < count; i++, at += size) {
        const void *ahead = completions + ((at + PREFETCH_DISTANCE * size) & mask);
        berth_table_prefetch(loop->table, ((const struct io_uring_cqe *)ahead)->user_data);
        const void *completion = completions + (at & mask);
        dispatch(loop, (const struct io_uring_cqe *)completion);
    }
    io_uring_cq_advance(ring, count);
    return count;
}

/** Submits, and waits for `count` completions or until the time is up. */
static intptr_t
enter(struct berth_loop *loop, unsigned count, int timeout_ms)
{
    struct uring_engine *state = uring_state(loop);
    struct __kernel_timespec timeout = {.tv_sec = timeout_ms / 1000,
                                        .tv_nsec = (long long)(timeout_ms % 1000) * 1000000};
    struct io_uring_cqe *first = NULL;
    const intptr_t result = sys_uring_wait(&state->ring, &first, count, &timeout);
    loop->stats.syscalls++;
    free_gathers(state);
    return result;
}

/**
 * One wait does at most max(20, count) pieces of deferred work, so asking for one completion yields
 * small batches just when there is much to do. A busy loop therefore asks for all it could handle,
 * with no time to wait: that takes everything there is, and never sleeps.
 *
 * And liburing does not ask the kernel to do deferred work if as many completions as it is to wait
 * for are there already: then one more is waited for, or whoever borrows a descriptor in each turn
 * would keep all others from being heard.
 */
static intptr_t
wait_for_completions(struct berth_loop *loop, int timeout_ms)
{
    struct uring_engine *state = uring_state(loop);
    const unsigned left = io_uring_cq_ready(&state->ring);
    if (BERTH_UNLIKELY(left > 0 && state->reaped < BUSY_COMPLETIONS))
        return enter(loop, left + 1, 0);
    if (state->reaped >= BUSY_COMPLETIONS) {
        const intptr_t result = enter(loop, loop->options.events_max, 0);
        if (io_uring_cq_ready(&state->ring) > 0 || timeout_ms == 0)
            return result;
    }
    return enter(loop, 1, timeout_ms);
}

static int
uring_turn(struct berth_loop *loop, int timeout_ms)
{
    struct uring_engine *state = uring_state(loop);
    uring_refill(loop);
    uring_publish_buffers(state);
    if (state->udp != NULL)
        uring_datagram_refill(loop);
    if (BERTH_UNLIKELY(state->watch_due))
        timeout_ms = watch_again(loop, timeout_ms);
    if (BERTH_UNLIKELY(state->zcrx != NULL))
        (void)zcrx_area_retry(state->zcrx->area);
    const intptr_t result = wait_for_completions(loop, timeout_ms);
    loop_has_waited(loop);
    if (BERTH_UNLIKELY(result < 0 && result != -ETIME && result != -EINTR && result != -EBUSY &&
                       result != -EAGAIN))
        return (int)result;
    if (BERTH_UNLIKELY(IO_URING_READ_ONCE(*state->ring.sq.kflags) & IORING_SQ_CQ_OVERFLOW))
        loop->stats.overflows++;
    const uint64_t before = loop->stats.received_bytes;
    state->reaped = reap(loop);
    uring_receive_turn_over(loop, loop->stats.received_bytes - before);
    if (BERTH_UNLIKELY(state->lanes_used > 0))
        uring_lane_tick(loop);
    if (state->udp != NULL)
        uring_datagram_deliver(loop);
    return (int)state->reaped;
}

const struct engine berth_engine_uring = {
    .name = "uring",
    .listener_nonblocking = 0,
    .posts_limits = 1,
    .create = uring_create,
    .destroy = uring_destroy,
    .start = uring_start,
    .turn = uring_turn,
    .watch = uring_watch,
    .accept_start = uring_accept_start,
    .accept_stop = uring_accept_stop,
    .receive_start = uring_receive_start,
    .receive_stop = uring_receive_stop,
    .park = uring_park,
    .pull_start = uring_pull_start,
    .pull_stop = uring_pull_stop,
    .send = uring_send,
    .connect_wait = uring_connect_wait,
    .cancel = uring_cancel,
    .forget = uring_forget,
    .direct_enter = uring_direct_enter,
    .direct_replace = uring_direct_replace,
    .direct_install = uring_direct_install,
    .direct_shutdown = uring_direct_shutdown,
    .direct_close = uring_direct_close,
    .nest = uring_nest,
    .rest = uring_rest,
    .datagram_start = uring_datagram_start,
    .datagram_send = uring_datagram_send,
    .explain = uring_explain,
};
