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
#include "loop/loop_internal.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os/memory.h"
#include "os/sys.h"

/**
 * Submissions prepared before they must be handed over: 32 KiB of them, which stay in the first
 * level of the cache, and one system call for so many is as good as none.
 */
#define SUBMISSIONS_MAX 512

/** Completions that fit: four for each submission (multishot), and one for each posted buffer. */
#define COMPLETIONS_MIN (4 * SUBMISSIONS_MAX)

/** So many completions in one turn make a loop busy: see wait_for_completions. */
#define BUSY_COMPLETIONS 8

#define BUFFER_GROUP 0
#define BUFFER_CLASS BERTH_CLASS_4K

/** Buffers posted to begin with: 1 MiB, which a quiet server never exceeds. */
#define POSTED_FIRST 256

/** How far ahead of a completion its slot is fetched. */
#define PREFETCH_DISTANCE 6

/** Leases sent by one operation. */
#define SEND_IOVECS_MAX 32

/** A gathered send's description must last until it has been submitted: this many at a time. */
#define GATHERS_MAX 64

/** Aliases, in this engine, of bits that only readiness engines use. */
#define CONN_STOPPING CONN_WATCHED /**< the posted receive (or accept) has been cancelled */

struct posted_buffer {
    void *data;
    uint32_t buffer;
    uint32_t unused;
};

struct gather {
    struct msghdr message;
    struct iovec iov[SEND_IOVECS_MAX];
};

struct uring_engine {
    struct io_uring ring;
    struct io_uring_buf_ring *buffers;
    struct posted_buffer *by_id; /**< what each buffer id stands for now */
    uint16_t *idle_ids;          /**< ids with no buffer behind them: the pool had none */
    uint32_t idle_count;
    uint32_t buffer_count;      /**< ids in all: a power of two */
    uint32_t given;             /**< buffers put into the ring since it was last advanced */
    uint32_t posted_max;        /**< buffers to post now: doubled whenever they did not suffice */
    uint32_t posted;            /**< ids with a buffer behind them */
    uint32_t receive_bytes_max; /**< per go of a multishot receive; 0: the kernel cannot */
    uint32_t setup_flags;
    uint32_t gathers_used;
    uint32_t reaped; /**< completions of the last turn */
    int ring_fd_registered;
    struct gather gathers[GATHERS_MAX];
};

static struct uring_engine *
state_of(const struct berth_loop *loop)
{
    return (struct uring_engine *)loop->engine_state;
}

/* ---- submitting ----------------------------------------------------------------------------- */

static void
submit(struct berth_loop *loop)
{
    struct uring_engine *state = state_of(loop);
    const intptr_t submitted = sys_uring_submit(&state->ring);
    loop->stats.syscalls++;
    if (submitted >= 0)
        state->gathers_used = 0;
}

/** A submission to fill in, or NULL when the kernel takes none just now. */
static struct io_uring_sqe *
get_submission(struct berth_loop *loop)
{
    struct uring_engine *state = state_of(loop);
    struct io_uring_sqe *submission = io_uring_get_sqe(&state->ring);
    if (BERTH_LIKELY(submission != NULL))
        return submission;
    submit(loop);
    return io_uring_get_sqe(&state->ring);
}

/** The same for an operation of a slot that will be in flight until its last completion. */
static struct io_uring_sqe *
begin_operation(struct berth_loop *loop, struct berth_slot *slot)
{
    struct io_uring_sqe *submission = get_submission(loop);
    if (BERTH_UNLIKELY(submission == NULL))
        return NULL;
    const int error = berth_slot_begin(slot);
    BERTH_ASSERT(error == 0); /* a slot has one receive, one send and one connect at most */
    (void)error;
    return submission;
}

static inline void
set_token(struct io_uring_sqe *submission, const struct berth_slot *slot, enum loop_op op)
{
    submission->user_data = berth_slot_token(slot, (uint8_t)op);
}

/* ---- the ring of buffers -------------------------------------------------------------------- */

static void
give_buffer(struct uring_engine *state, uint16_t id)
{
    io_uring_buf_ring_add(state->buffers, state->by_id[id].data, berth_class_bytes(BUFFER_CLASS),
                          id, (int)state->buffer_count - 1, (int)state->given++);
}

/** Puts a new pool buffer behind an id that has none. 0 when the pool has none either. */
static int
post_buffer(struct berth_loop *loop, uint16_t id)
{
    struct uring_engine *state = state_of(loop);
    struct posted_buffer *posted = &state->by_id[id];
    if (BERTH_UNLIKELY(berth_pool_post(loop->pool, BUFFER_CLASS, BERTH_FOR_NEW, &posted->buffer,
                                       &posted->data) != 0)) {
        posted->data = NULL;
        state->idle_ids[state->idle_count++] = id;
        state->posted--;
        return 0;
    }
    give_buffer(state, id);
    return 1;
}

/**
 * Posts buffers behind idle ids, as many as the load has shown to be needed. Those who starve come
 * first: what they leave goes into the ring.
 */
static void
refill(struct berth_loop *loop)
{
    struct uring_engine *state = state_of(loop);
    while (state->posted < state->posted_max && state->idle_count > 0 && loop->starved.count == 0) {
        state->posted++;
        if (!post_buffer(loop, state->idle_ids[--state->idle_count]))
            return;
    }
}

/** A receive found the ring empty: next time there will be twice as many buffers in it. */
static void
grow_ring(struct uring_engine *state)
{
    if (state->posted == state->posted_max && state->posted_max < state->buffer_count)
        state->posted_max *= 2;
}

static void
publish_buffers(struct uring_engine *state)
{
    if (state->given == 0)
        return;
    io_uring_buf_ring_advance(state->buffers, (int)state->given);
    state->given = 0;
}

/* ---- receiving ------------------------------------------------------------------------------ */

static int
uring_receive_start(struct berth_loop *loop, struct berth_slot *slot)
{
    struct uring_engine *state = state_of(loop);
    struct io_uring_sqe *submission = begin_operation(loop, slot);
    if (submission == NULL) {
        conn_todo(loop, slot);
        return 0;
    }
    const int limited = (slot->state & CONN_CREDIT) != 0;
    io_uring_prep_recv(submission, berth_slot_fd(slot), NULL, 0, 0);
    submission->flags |= IOSQE_BUFFER_SELECT;
    submission->buf_group = BUFFER_GROUP;
    submission->ioprio = IORING_RECVSEND_POLL_FIRST;
    if (limited) {
        const uint64_t credit = slot_cold(loop, slot)->credit;
        const uint32_t size = berth_class_bytes(BUFFER_CLASS);
        submission->len = credit < size ? (uint32_t)credit : size;
    } else {
        submission->ioprio |= IORING_RECV_MULTISHOT;
        submission->len = state->receive_bytes_max;
    }
    set_token(submission, slot, OP_RECEIVE);
    slot->state |= CONN_RECEIVING;
    return 0;
}

/** Cancels a posted receive or accept; its last completion clears CONN_RECEIVING. */
static void
stop_posted(struct berth_loop *loop, struct berth_slot *slot, enum loop_op op)
{
    if (!(slot->state & CONN_RECEIVING) || slot->state & CONN_STOPPING)
        return;
    struct io_uring_sqe *submission = get_submission(loop);
    if (submission == NULL) {
        conn_todo(loop, slot);
        return;
    }
    io_uring_prep_cancel64(submission, berth_slot_token(slot, (uint8_t)op), 0);
    submission->user_data = berth_token_with_op(loop->wake_token, OP_CANCEL);
    slot->state |= CONN_STOPPING;
}

static void
uring_receive_stop(struct berth_loop *loop, struct berth_slot *slot)
{
    stop_posted(loop, slot, OP_RECEIVE);
}

/** The last completion of a posted operation has come. */
static void
operation_ended(struct berth_slot *slot)
{
    slot->state &= ~(uint32_t)(CONN_RECEIVING | CONN_STOPPING);
    (void)berth_slot_end(slot);
}

/** Takes the buffer that a completion brought, whatever else it says, and delivers what is in it.
 */
static void
take_buffer(struct berth_loop *loop, struct berth_slot *slot, int32_t result, uint16_t id)
{
    struct uring_engine *state = state_of(loop);
    BERTH_ASSERT(id < state->buffer_count && state->by_id[id].data != NULL);
    const uint32_t buffer = state->by_id[id].buffer;
    struct berth_span span;
    if (BERTH_UNLIKELY(result <= 0 || slot == NULL || !conn_wants_data(slot) ||
                       berth_pool_lend(loop->pool, buffer, (uint32_t)result, &span) != 0)) {
        give_buffer(state, id);
        return;
    }
    conn_deliver(loop, slot, &span, 1, (size_t)result);
    if (berth_pool_settle(loop->pool, buffer) == 1)
        give_buffer(state, id);
    else
        (void)post_buffer(loop, id);
}

/** A receive has ended without data. */
static void
receive_failed(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    struct uring_engine *state = state_of(loop);
    if (slot->flags & BERTH_SLOT_CLOSING)
        return;
    if (result == 0) {
        conn_eof(loop, slot);
    } else if (result == -ENOBUFS) {
        grow_ring(state);
        if (conn_wants_data(slot))
            conn_starve(loop, slot);
    } else if (result == -EINVAL && state->receive_bytes_max != 0) {
        state->receive_bytes_max =
            0; /* a kernel before 6.17: no limit per go. Post again without. */
    } else if (result != -ECANCELED && result != -EINTR && result != -ENOMEM && result != -ENOSPC &&
               result != -EAGAIN) {
        conn_failed(loop, slot, result);
    }
}

static void
on_receive(struct berth_loop *loop, struct berth_slot *slot, int32_t result, uint32_t flags)
{
    if (BERTH_UNLIKELY(!(flags & IORING_CQE_F_MORE))) {
        operation_ended(slot);
        slot->state |= CONN_TODO;
        loop->current = slot;
        loop->stats.rearms++;
    }
    if (BERTH_LIKELY(flags & IORING_CQE_F_BUFFER))
        take_buffer(loop, slot, result, (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT));
    if (BERTH_UNLIKELY(result <= 0))
        receive_failed(loop, slot, result);
}

/* ---- sending -------------------------------------------------------------------------------- */

static void
uring_send(struct berth_loop *loop, struct berth_slot *slot)
{
    struct uring_engine *state = state_of(loop);
    const int many = loop->nodes.at[slot->buffer].next != 0;
    if (many && state->gathers_used == GATHERS_MAX)
        submit(loop);
    if (many && state->gathers_used == GATHERS_MAX) {
        conn_todo(loop, slot);
        return;
    }
    struct io_uring_sqe *submission = begin_operation(loop, slot);
    if (submission == NULL) {
        conn_todo(loop, slot);
        return;
    }
    const int flags = MSG_NOSIGNAL | MSG_WAITALL; /* the kernel resumes short sends by itself */
    if (many) {
        size_t bytes;
        struct gather *gather = &state->gathers[state->gathers_used++];
        memset(&gather->message, 0, sizeof(gather->message));
        gather->message.msg_iov = gather->iov;
        gather->message.msg_iovlen = send_gather(loop, slot, gather->iov, SEND_IOVECS_MAX, &bytes);
        io_uring_prep_sendmsg(submission, berth_slot_fd(slot), &gather->message, flags);
        send_begin(loop, slot, (unsigned)gather->message.msg_iovlen);
    } else {
        const struct send_node *head = queue_head(loop, slot);
        io_uring_prep_send(submission, berth_slot_fd(slot), send_node_data(loop, head),
                           head->lease.length, flags);
        send_begin(loop, slot, 1);
    }
    set_token(submission, slot, OP_SEND);
    slot->state |= CONN_SENDING;
}

static void
on_send(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    (void)berth_slot_end(slot);
    slot->state &= ~(uint32_t)CONN_SENDING;
    send_end(loop, slot, result > 0 ? (size_t)result : 0);
    if (BERTH_UNLIKELY(result <= 0) && result != -EINTR && result != -EAGAIN &&
        !(slot->flags & BERTH_SLOT_CLOSING))
        conn_failed(loop, slot, result == 0 ? -EPIPE : result);
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
    struct io_uring_sqe *submission = begin_operation(loop, slot);
    if (submission == NULL)
        return -EAGAIN;
    io_uring_prep_multishot_accept(submission, berth_slot_fd(slot), NULL, NULL, SOCK_CLOEXEC);
    set_token(submission, slot, OP_ACCEPT);
    slot->state |= CONN_RECEIVING;
    return 0;
}

static void
uring_accept_stop(struct berth_loop *loop, struct berth_slot *slot)
{
    stop_posted(loop, slot, OP_ACCEPT);
}

static void
on_accept(struct berth_loop *loop, struct berth_slot *slot, int32_t result, uint32_t flags)
{
    const berth_token token = berth_slot_token(slot, OP_ACCEPT);
    const int unwanted = slot->flags & BERTH_SLOT_CLOSING || slot->state & CONN_FAILED;
    const int ended = !(flags & IORING_CQE_F_MORE);
    if (ended)
        operation_ended(slot);
    if (result >= 0 && unwanted)
        (void)sys_close(result);
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

static int
uring_connect_wait(struct berth_loop *loop, struct berth_slot *slot)
{
    struct io_uring_sqe *submission = begin_operation(loop, slot);
    if (submission == NULL)
        return -EAGAIN;
    io_uring_prep_poll_add(submission, berth_slot_fd(slot), POLLOUT);
    set_token(submission, slot, OP_CONNECT);
    return 0;
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
    struct io_uring_sqe *submission = begin_operation(loop, slot);
    if (submission == NULL)
        return -EAGAIN;
    io_uring_prep_poll_multishot(submission, berth_slot_fd(slot), POLLIN);
    set_token(submission, slot, OP_WAKE);
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
    (void)uring_watch(loop, slot);
}

/* ---- turning -------------------------------------------------------------------------------- */

/** A completion for a slot that is gone: only what it carries matters. */
static BERTH_COLD void
on_stale(struct berth_loop *loop, const struct io_uring_cqe *completion)
{
    loop->stats.stale++;
    if (completion->flags & IORING_CQE_F_BUFFER)
        take_buffer(loop, NULL, 0, (uint16_t)(completion->flags >> IORING_CQE_BUFFER_SHIFT));
}

static void
dispatch(struct berth_loop *loop, const struct io_uring_cqe *completion)
{
    const berth_token token = completion->user_data;
    const int32_t result = completion->res;
    const uint32_t flags = completion->flags;
    struct berth_slot *slot = berth_table_find(loop->table, token);
    if (BERTH_UNLIKELY(slot == NULL)) {
        on_stale(loop, completion);
        return;
    }
    switch (berth_token_op(token)) {
    case OP_RECEIVE:
        on_receive(loop, slot, result, flags);
        break;
    case OP_SEND:
        on_send(loop, slot, result);
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
    default: /* OP_CANCEL: only the end of the cancelled operation counts */
        return;
    }
    conn_after_event(loop, slot);
}

/** Handles the completions that are there now, at most events_max of them. */
static unsigned
reap(struct berth_loop *loop)
{
    struct io_uring *ring = &state_of(loop)->ring;
    const unsigned mask = *ring->cq.kring_mask;
    const unsigned head = *ring->cq.khead;
    const unsigned ready = io_uring_cq_ready(ring);
    const unsigned count =
        ready < loop->options.events_max ? ready : (unsigned)loop->options.events_max;
    const struct io_uring_cqe *completions = ring->cq.cqes;
    for (unsigned i = 0; i < count; i++) {
        const struct io_uring_cqe *ahead = &completions[(head + i + PREFETCH_DISTANCE) & mask];
        berth_table_prefetch(loop->table, ahead->user_data);
        dispatch(loop, &completions[(head + i) & mask]);
    }
    io_uring_cq_advance(ring, count);
    return count;
}

/** Submits, and waits for `count` completions or until the time is up. */
static intptr_t
enter(struct berth_loop *loop, unsigned count, int timeout_ms)
{
    struct uring_engine *state = state_of(loop);
    struct __kernel_timespec timeout = {.tv_sec = timeout_ms / 1000,
                                        .tv_nsec = (long long)(timeout_ms % 1000) * 1000000};
    struct io_uring_cqe *first = NULL;
    const intptr_t result = sys_uring_wait(&state->ring, &first, count, &timeout);
    loop->stats.syscalls++;
    state->gathers_used = 0;
    return result;
}

/**
 * One wait does at most max(20, count) pieces of deferred work, so asking for one completion yields
 * small batches just when there is much to do. A busy loop therefore asks for all it could handle,
 * with no time to wait: that takes everything there is, and never sleeps.
 */
static intptr_t
wait_for_completions(struct berth_loop *loop, int timeout_ms)
{
    struct uring_engine *state = state_of(loop);
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
    struct uring_engine *state = state_of(loop);
    refill(loop);
    publish_buffers(state);
    const intptr_t result = wait_for_completions(loop, timeout_ms);
    if (BERTH_UNLIKELY(result < 0 && result != -ETIME && result != -EINTR && result != -EBUSY &&
                       result != -EAGAIN))
        return (int)result;
    if (BERTH_UNLIKELY(IO_URING_READ_ONCE(*state->ring.sq.kflags) & IORING_SQ_CQ_OVERFLOW))
        loop->stats.overflows++;
    state->reaped = reap(loop);
    return (int)state->reaped;
}

/* ---- closing -------------------------------------------------------------------------------- */

static void
uring_cancel(struct berth_loop *loop, struct berth_slot *slot)
{
    struct io_uring_sqe *submission = get_submission(loop);
    if (submission == NULL)
        return; /* it will be asked again */
    io_uring_prep_cancel_fd(submission, berth_slot_fd(slot), IORING_ASYNC_CANCEL_ALL);
    submission->user_data = berth_token_with_op(loop->wake_token, OP_CANCEL);
}

static void
uring_forget(struct berth_loop *loop, struct berth_slot *slot)
{
    (void)loop;
    BERTH_ASSERT(slot->in_flight == 0);
    (void)slot;
}

/* ---- life ----------------------------------------------------------------------------------- */

static void
uring_destroy(struct berth_loop *loop)
{
    struct uring_engine *state = state_of(loop);
    if (state == NULL)
        return;
    (void)sys_uring_exit(&state->ring);
    for (uint32_t id = 0; state->by_id != NULL && id < state->buffer_count; id++)
        if (state->by_id[id].data != NULL)
            (void)berth_pool_unpost(loop->pool, state->by_id[id].buffer);
    berth_memory_release(state->buffers, state->buffer_count * sizeof(struct io_uring_buf));
    free(state->by_id);
    free(state->idle_ids);
    free(state);
    loop->engine_state = NULL;
}

/** Sets the ring up with the best flags this kernel takes. */
static int
init_ring(struct berth_loop *loop, struct uring_engine *state)
{
    static const uint32_t flag_sets[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_R_DISABLED, /* before 6.1 */
    };
    uint32_t completions = COMPLETIONS_MIN;
    while (completions < loop->options.receive_buffers || completions < loop->options.events_max)
        completions *= 2;
    int error = -EINVAL;
    for (size_t i = 0; i < sizeof(flag_sets) / sizeof(flag_sets[0]) && error == -EINVAL; i++) {
        struct io_uring_params params;
        memset(&params, 0, sizeof(params));
        params.flags =
            flag_sets[i] | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP;
        params.cq_entries = completions;
        error = (int)sys_uring_init(SUBMISSIONS_MAX, &state->ring, &params);
        state->setup_flags = params.flags;
    }
    return error;
}

/** The ring of buffers, in memory of our own, and the buffers to begin with. */
static int
init_buffers(struct berth_loop *loop, struct uring_engine *state)
{
    uint32_t count = 16;
    while (count < loop->options.receive_buffers)
        count *= 2;
    const size_t bytes = count * sizeof(struct io_uring_buf);
    void *memory = NULL;
    int error = berth_memory_reserve(&memory, bytes, berth_memory_page_bytes(), "berth-ring");
    if (error)
        return error;
    state->buffers = (struct io_uring_buf_ring *)memory;
    state->buffer_count = count;
    error = berth_memory_commit(memory, bytes);
    if (error)
        return error;
    berth_memory_advise(memory, bytes, BERTH_MEMORY_NO_FORK);
    state->by_id = (struct posted_buffer *)calloc(count, sizeof(*state->by_id));
    state->idle_ids = (uint16_t *)calloc(count, sizeof(*state->idle_ids));
    if (state->by_id == NULL || state->idle_ids == NULL)
        return -ENOMEM;
    io_uring_buf_ring_init(state->buffers);
    struct io_uring_buf_reg registration;
    memset(&registration, 0, sizeof(registration));
    registration.ring_addr = (uint64_t)(uintptr_t)memory;
    registration.ring_entries = count;
    registration.bgid = BUFFER_GROUP;
    error = (int)sys_uring_register_buffers(&state->ring, &registration);
    if (error)
        return error;
    state->posted_max = count < POSTED_FIRST ? count : POSTED_FIRST;
    for (uint32_t id = count; id-- > 0;)
        state->idle_ids[state->idle_count++] = (uint16_t)id;
    return 0;
}

static int
uring_create(struct berth_loop *loop, char *why, size_t why_size)
{
    struct uring_engine *state = (struct uring_engine *)calloc(1, sizeof(*state));
    (void)snprintf(why, why_size, "io_uring_setup");
    if (state == NULL)
        return -ENOMEM;
    int error = init_ring(loop, state);
    if (error) {
        free(state);
        return error;
    }
    loop->engine_state = state;
    state->receive_bytes_max = loop->options.fairness_bytes;
    (void)snprintf(why, why_size, "multishot receive (Linux 6.0)");
    /* Multishot receive cannot be asked for; SEND_ZC came with the same release. */
    error = (int)sys_uring_knows(&state->ring, IORING_OP_SEND_ZC);
    error = error == 0 ? -EOPNOTSUPP : error > 0 ? 0 : error;
    if (!error) {
        (void)snprintf(why, why_size, "registering a ring of buffers");
        error = init_buffers(loop, state);
    }
    if (error)
        uring_destroy(loop);
    return error;
}

static int
uring_start(struct berth_loop *loop)
{
    struct uring_engine *state = state_of(loop);
    const int error = (int)sys_uring_enable(&state->ring);
    if (error)
        return error;
    state->ring_fd_registered = sys_uring_register_ring_fd(&state->ring) == 1;
    loop->stats.syscalls += 2;
    return 0;
}

static int
uring_explain(const struct berth_loop *loop, char *text, size_t size)
{
    const struct uring_engine *state = state_of(loop);
    return snprintf(
        text, size,
        "receive: multishot into a shared ring of %u to %u buffers of %u bytes%s\n"
        "accept: multishot; send: submitted in batches of up to %d with the wait\n"
        "completions: %s%s\n",
        state->posted_max, state->buffer_count, berth_class_bytes(BUFFER_CLASS),
        state->receive_bytes_max ? ", limited per connection and turn where the kernel can" : "",
        SUBMISSIONS_MAX,
        state->setup_flags & IORING_SETUP_DEFER_TASKRUN
            ? "run by the loop's own thread when it waits (DEFER_TASKRUN)"
            : "run at any system call (COOP_TASKRUN; DEFER_TASKRUN needs Linux 6.1)",
        state->ring_fd_registered ? "; ring descriptor registered" : "");
}

const struct engine berth_engine_uring = {
    .name = "uring",
    .listener_nonblocking = 0,
    .create = uring_create,
    .destroy = uring_destroy,
    .start = uring_start,
    .turn = uring_turn,
    .watch = uring_watch,
    .accept_start = uring_accept_start,
    .accept_stop = uring_accept_stop,
    .receive_start = uring_receive_start,
    .receive_stop = uring_receive_stop,
    .send = uring_send,
    .connect_wait = uring_connect_wait,
    .cancel = uring_cancel,
    .forget = uring_forget,
    .explain = uring_explain,
};
