/*
 * Ways of waiting, for case `waiting`: io_uring. `uring-poll` tells readiness (multishot poll), and
 * a read follows. The others are told of completions, the byte is there already: `uring-read` has
 * one read posted on each descriptor and posts it again, together with the next wait;
 * `uring-multi` and `uring-recv` post one multishot read, or receive, that never ends and takes its
 * buffers out of a ring.
 *
 * Whether a request goes on is told by F_MORE, who owns a buffer by F_BUFFER; never by the result.
 * Before a ring is closed everything is cancelled and waited for: closing alone leaves that to a
 * worker of the kernel, and the next way would pay for it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "wait.h"

#define SQ_ENTRIES 1024u

/** Every descriptor may complete at once, and be cancelled at once. At least this many. */
#define CQ_ENTRIES_MIN 4096u

#define BUFFERS 4096u /**< a power of two */
#define BUFFER_GROUP 1

/** IORING_OP_READ_MULTISHOT of kernel 6.7: younger than the oldest liburing that will do. */
#define READ_MULTISHOT 49u

/** user_data of what is no event. */
#define NOT_AN_EVENT UINT64_MAX

/** Waits while cancelling: each takes a batch, so this is for a kernel that never answers. */
#define CANCEL_WAITS_MAX 1000u

struct uring_state {
    struct io_uring ring;
    void (*prepare)(struct wait_run *run, struct io_uring_sqe *sqe, uint32_t index);
    struct io_uring_buf_ring *buffer_ring; /**< and, behind it, the buffers; NULL: not used */
    size_t mapped_bytes;
    unsigned returned;
    uint32_t armed;
    /** Of posted reads: where each puts its byte. */
    unsigned char (*bytes)[WAIT_READ_BYTES];
};

/* ---- what each of them posts -------------------------------------------------------------------
 */

static void
prepare_poll(struct wait_run *run, struct io_uring_sqe *sqe, uint32_t index)
{
    io_uring_prep_poll_multishot(sqe, run->set->readers[index], POLLIN);
}

static void
prepare_read(struct wait_run *run, struct io_uring_sqe *sqe, uint32_t index)
{
    struct uring_state *state = run->state;
    io_uring_prep_read(sqe, run->set->readers[index], state->bytes[index], WAIT_READ_BYTES,
                       (uint64_t)-1);
}

static void
prepare_multi(struct wait_run *run, struct io_uring_sqe *sqe, uint32_t index)
{
    io_uring_prep_rw(READ_MULTISHOT, sqe, run->set->readers[index], NULL, 0, (uint64_t)-1);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
}

static void
prepare_recv(struct wait_run *run, struct io_uring_sqe *sqe, uint32_t index)
{
    io_uring_prep_recv_multishot(sqe, run->set->readers[index], NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
}

/* ---- buffers ----------------------------------------------------------------------------------
 */

static void
buffer_return(struct uring_state *state, unsigned buffer)
{
    unsigned char *buffers =
        (unsigned char *)state->buffer_ring + BUFFERS * sizeof(struct io_uring_buf);
    io_uring_buf_ring_add(state->buffer_ring, buffers + (size_t)buffer * WAIT_READ_BYTES,
                          WAIT_READ_BYTES, (unsigned short)buffer, io_uring_buf_ring_mask(BUFFERS),
                          (int)state->returned++);
}

static void
buffers_publish(struct uring_state *state)
{
    if (state->returned > 0)
        io_uring_buf_ring_advance(state->buffer_ring, (int)state->returned);
    state->returned = 0;
}

static int
buffers_make(struct uring_state *state)
{
    state->mapped_bytes = BUFFERS * (sizeof(struct io_uring_buf) + WAIT_READ_BYTES);
    void *memory =
        mmap(NULL, state->mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)memory,
        .ring_entries = BUFFERS,
        .bgid = BUFFER_GROUP,
    };
    const int error = io_uring_register_buf_ring(&state->ring, &registration, 0);
    if (error != 0) {
        munmap(memory, state->mapped_bytes);
        return error;
    }
    state->buffer_ring = memory;
    io_uring_buf_ring_init(state->buffer_ring);
    for (unsigned i = 0; i < BUFFERS; i++)
        buffer_return(state, i);
    buffers_publish(state);
    return 0;
}

/* ---- opening, registering ----------------------------------------------------------------------
 */

static void
state_free(struct uring_state *state)
{
    io_uring_queue_exit(&state->ring);
    if (state->buffer_ring != NULL)
        munmap(state->buffer_ring, state->mapped_bytes);
    free(state->bytes);
    free(state);
}

static int
open_with(struct wait_run *run,
          void (*prepare)(struct wait_run *run, struct io_uring_sqe *sqe, uint32_t index))
{
    struct uring_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return -ENOMEM;
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = run->set->count < CQ_ENTRIES_MIN ? CQ_ENTRIES_MIN : run->set->count + 1,
    };
    int error = io_uring_queue_init_params(SQ_ENTRIES, &state->ring, &params);
    if (error != 0) {
        free(state);
        return error;
    }
    io_uring_register_ring_fd(&state->ring);
    if (prepare == prepare_read) {
        state->bytes = calloc(run->set->count, sizeof *state->bytes);
        error = state->bytes == NULL ? -ENOMEM : 0;
    } else if (prepare != prepare_poll) {
        error = buffers_make(state);
    }
    if (error != 0) {
        state_free(state);
        return error;
    }
    state->prepare = prepare;
    run->state = state;
    return 0;
}

static int
open_poll(struct wait_run *run)
{
    return open_with(run, prepare_poll);
}

static int
open_read(struct wait_run *run)
{
    return open_with(run, prepare_read);
}

static int
open_multi(struct wait_run *run)
{
    return open_with(run, prepare_multi);
}

static int
open_recv(struct wait_run *run)
{
    return open_with(run, prepare_recv);
}

static int
submit(struct wait_run *run)
{
    struct uring_state *state = run->state;
    run->syscalls++;
    const int did = io_uring_submit(&state->ring);
    return did < 0 ? did : 0;
}

static int
arm(struct wait_run *run, uint32_t index)
{
    struct uring_state *state = run->state;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&state->ring);
    if (sqe == NULL) {
        const int error = submit(run);
        sqe = io_uring_get_sqe(&state->ring);
        if (error != 0 || sqe == NULL)
            return error != 0 ? error : -EBUSY;
    }
    state->prepare(run, sqe, index);
    sqe->user_data = index;
    state->armed++;
    return 0;
}

/* ---- waiting ----------------------------------------------------------------------------------
 */

/** The byte of a completion, or the read that follows a readiness. */
static int
take(struct wait_run *run, const struct io_uring_cqe *cqe, uint32_t index)
{
    const struct uring_state *state = run->state;
    if (cqe->res == -ENOBUFS) { /* the byte stays where it is, and comes when it is armed again */
        run->overflows++;
        return 0;
    }
    if (cqe->res < 0)
        return cqe->res;
    return state->prepare == prepare_poll ? wait_read(run, index)
                                          : wait_account(run, index, cqe->res);
}

static int
complete(struct wait_run *run, const struct io_uring_cqe *cqe)
{
    struct uring_state *state = run->state;
    const uint32_t index = (uint32_t)cqe->user_data;
    const bool more = cqe->flags & IORING_CQE_F_MORE;
    if (cqe->flags & IORING_CQE_F_BUFFER)
        buffer_return(state, cqe->flags >> IORING_CQE_BUFFER_SHIFT);
    state->armed -= !more;
    const int error = take(run, cqe, index);
    return error != 0 || more ? error : arm(run, index);
}

static int
uring_wait(struct wait_run *run)
{
    struct uring_state *state = run->state;
    struct __kernel_timespec lost = {.tv_sec = WAIT_LOST_MS / 1000};
    struct io_uring_cqe *cqes[WAIT_BATCH];
    int error = 0;
    if (io_uring_cq_ready(&state->ring) == 0) {
        run->syscalls++;
        error = io_uring_submit_and_wait_timeout(&state->ring, cqes, 1, &lost, NULL);
        if (error < 0 && error != -EBUSY)
            return error == -EINTR ? 0 : error;
        error = 0;
    }
    const unsigned count = io_uring_peek_batch_cqe(&state->ring, cqes, WAIT_BATCH);
    for (unsigned i = 0; i < count && error == 0; i++)
        error = complete(run, cqes[i]);
    io_uring_cq_advance(&state->ring, count);
    if (state->buffer_ring != NULL)
        buffers_publish(state);
    return error;
}

/** Takes what has completed, at least one; nothing here is an event any more. */
static int
reap(struct uring_state *state)
{
    struct io_uring_cqe *cqes[WAIT_BATCH];
    struct __kernel_timespec lost = {.tv_sec = WAIT_LOST_MS / 1000};
    const int did = io_uring_submit_and_wait_timeout(&state->ring, cqes, 1, &lost, NULL);
    if (did < 0 && did != -EINTR && did != -EBUSY)
        return did;
    unsigned count;
    while ((count = io_uring_peek_batch_cqe(&state->ring, cqes, WAIT_BATCH)) > 0) {
        for (unsigned i = 0; i < count; i++) {
            if (cqes[i]->user_data != NOT_AN_EVENT && !(cqes[i]->flags & IORING_CQE_F_MORE))
                state->armed--;
        }
        io_uring_cq_advance(&state->ring, count);
    }
    return 0;
}

/**
 * One by one, each found by its number. To cancel all with one request looks shorter, but the
 * kernel then walks over those it has cancelled already, for each one: seconds for 16,000.
 */
static void
cancel_all(const struct wait_run *run)
{
    struct uring_state *state = run->state;
    int error = 0;
    for (uint32_t i = 0; i < run->registered && error == 0; i++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&state->ring);
        if (sqe == NULL) {
            error = reap(state);
            sqe = io_uring_get_sqe(&state->ring);
            if (sqe == NULL)
                return;
        }
        io_uring_prep_cancel64(sqe, run->set->order[i], 0);
        sqe->user_data = NOT_AN_EVENT;
    }
    for (unsigned i = 0; state->armed > 0 && error == 0 && i < CANCEL_WAITS_MAX; i++)
        error = reap(state);
}

static void
uring_close(struct wait_run *run)
{
    struct uring_state *state = run->state;
    cancel_all(run);
    state_free(state);
}

const struct wait_way wait_uring_poll = {
    .name = "uring-poll",
    .open = open_poll,
    .add = arm,
    .settle = submit,
    .wait = uring_wait,
    .close = uring_close,
};

const struct wait_way wait_uring_read = {
    .name = "uring-read",
    .options = WAIT_BLOCKING,
    .open = open_read,
    .add = arm,
    .settle = submit,
    .wait = uring_wait,
    .close = uring_close,
};

const struct wait_way wait_uring_multi = {
    .name = "uring-multi",
    .options = WAIT_BLOCKING,
    .open = open_multi,
    .add = arm,
    .settle = submit,
    .wait = uring_wait,
    .close = uring_close,
};

const struct wait_way wait_uring_recv = {
    .name = "uring-recv",
    .options = WAIT_BLOCKING | WAIT_SOCKETS_ONLY,
    .open = open_recv,
    .add = arm,
    .settle = submit,
    .wait = uring_wait,
    .close = uring_close,
};
