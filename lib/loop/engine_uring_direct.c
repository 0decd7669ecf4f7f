/*
 * Direct descriptors: a table of files that belongs to the ring. What is accepted goes there
 * straight, under a number that the kernel picks, and never becomes a descriptor of the process.
 *
 * Listeners, the wake-up descriptor and connected or adopted sockets are put into the same table,
 * so that every operation of the ring means a place in it. The kernel picks their places as well,
 * and so there is one allocator, and one limit, for all. Before the ring is enabled it cannot: but
 * then nobody else takes places either, and they are taken from the lowest on.
 *
 * The invariant: an operation whose result is waited for is alone in its submission, so that what
 * it says is among the last completions.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#define BERTH_SYS_URING
#include "loop/engine_uring.h"

#include <stdio.h>
#include <string.h>

#include "os/sys.h"

/** The largest table that kernels register. */
#define FILES_MAX (1u << 20)

/* ---- what this kernel can do ---------------------------------------------------------------- */

static void
prepare_install(struct io_uring_sqe *submission, int index)
{
    memset(submission, 0, sizeof(*submission));
    submission->opcode = BERTH_URING_OP_FIXED_FD_INSTALL;
    submission->fd = index;
    submission->flags = IOSQE_FIXED_FILE;
}

static int
submit_one(struct io_uring *ring, const struct io_uring_sqe *request)
{
    struct io_uring_sqe *submission = io_uring_get_sqe(ring);
    if (submission == NULL)
        return -EAGAIN;
    *submission = *request;
    const intptr_t submitted = sys_uring_submit(ring);
    return submitted == 1 ? 0 : submitted < 0 ? (int)submitted : -EAGAIN;
}

/** Submits it to the ring of the trial, where all others wait for ever, and takes its result. */
static int
try_one(struct io_uring *ring, const struct io_uring_sqe *request)
{
    const int error = submit_one(ring, request);
    if (error)
        return error;
    if (io_uring_cq_ready(ring) == 0)
        return -EAGAIN;
    const int result = uring_completion(ring, *ring->cq.khead)->res;
    io_uring_cq_advance(ring, 1);
    return result;
}

/**
 * Puts both ends of a pair into the table of a ring, waits for data on the one, and closes the
 * other. Kernels before 6.13 let go of a file only when everything is over that was
 * submitted earlier: on a server, that is never.
 */
static int
try_steps(struct io_uring *ring, int *pair, const char **why)
{
    static char never;
    struct io_uring_sqe request;
    *why = "registering a table (Linux 5.19)";
    int result = (int)sys_uring_register_files(ring, 2);
    for (int i = 0; i < 2 && result >= 0; i++)
        result = (int)sys_uring_set_file(ring, i, pair[i]);
    if (result < 0)
        return result;
    (void)sys_close(pair[1]);
    pair[1] = -1;
    memset(&request, 0, sizeof(request));
    io_uring_prep_recv(&request, 0, &never, sizeof(never), 0);
    request.flags |= IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS;
    result = submit_one(ring, &request);
    if (result)
        return result;
    *why = "IORING_OP_FIXED_FD_INSTALL (Linux 6.8)";
    prepare_install(&request, 1);
    result = try_one(ring, &request);
    if (result < 0)
        return result;
    (void)sys_close(result);
    *why = "closing while others wait (Linux 6.13)";
    memset(&request, 0, sizeof(request));
    io_uring_prep_close_direct(&request, 1);
    result = try_one(ring, &request);
    if (result < 0)
        return result;
    char byte;
    const intptr_t got = sys_recv(pair[0], &byte, sizeof(byte), MSG_DONTWAIT);
    return got == 0 ? 0 : got < 0 && got != -EAGAIN ? (int)got : -EOPNOTSUPP;
}

static int
try_direct(const char **why)
{
    struct io_uring ring;
    struct io_uring_params params;
    int pair[2] = {-1, -1};
    memset(&params, 0, sizeof(params));
    *why = "a pair of sockets, for a trial";
    int result = (int)sys_socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
    if (result < 0)
        return result;
    *why = "a ring, for a trial";
    result = (int)sys_uring_init(4, &ring, &params);
    if (result == 0) {
        result = try_steps(&ring, pair, why);
        (void)sys_uring_exit(&ring);
    }
    for (int i = 0; i < 2; i++)
        if (pair[i] >= 0)
            (void)sys_close(pair[i]);
    return result;
}

/** Places in the table: the kernel grants as many as the process may have descriptors. */
static int
register_table(struct berth_loop *loop, const char **why)
{
    struct uring_engine *state = uring_state(loop);
    struct rlimit limit;
    *why = "RLIMIT_NOFILE";
    int error = (int)sys_getrlimit(RLIMIT_NOFILE, &limit);
    if (error)
        return error;
    uint32_t files = loop->options.conns_max < FILES_MAX ? loop->options.conns_max : FILES_MAX;
    if (limit.rlim_cur < files)
        files = (uint32_t)limit.rlim_cur;
    *why = "registering a table";
    error = (int)sys_uring_register_files(&state->ring, files);
    if (error)
        return error;
    state->files = files;
    state->file_flag = IOSQE_FIXED_FILE;
    loop->direct = 1;
    return 0;
}

void
uring_direct_create(struct berth_loop *loop)
{
    const char *why = NULL;
    if (!loop->options.direct_descriptors)
        return;
    int error = try_direct(&why);
    if (error == 0)
        error = register_table(loop, &why);
    if (error)
        (void)snprintf(loop->direct_refusal, sizeof(loop->direct_refusal), "%s: %s", why,
                       strerror(-error));
}

void
uring_direct_destroy(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    if (state->files == 0)
        return;
    /* The ring itself ends some time after it is let go of: nobody should wait for that. */
    if (io_uring_sq_ready(&state->ring) > 0 && state->enabled)
        (void)sys_uring_submit(&state->ring);
    (void)sys_uring_unregister_files(&state->ring);
}

/* ---- operations on the table ---------------------------------------------------------------- */

/**
 * Has the kernel do, now, what never waits, and returns its result. Two system calls, or one if
 * nothing else is to be submitted. -EAGAIN when the kernel takes nothing just now.
 */
static int
run_now(struct berth_loop *loop, const struct io_uring_sqe *request)
{
    struct io_uring *ring = &uring_state(loop)->ring;
    if (io_uring_sq_ready(ring) > 0)
        uring_submit(loop);
    const unsigned before = io_uring_cq_ready(ring);
    if (!uring_state(loop)->enabled || io_uring_sq_ready(ring) > 0 ||
        before >= *ring->cq.kring_entries ||
        IO_URING_READ_ONCE(*ring->sq.kflags) & IORING_SQ_CQ_OVERFLOW)
        return -EAGAIN;
    struct io_uring_sqe *submission = io_uring_get_sqe(ring);
    const berth_token token = berth_token_with_op(loop->wake_token, OP_TABLE);
    *submission = *request;
    submission->user_data = token;
    uring_submit(loop);
    if (io_uring_sq_ready(ring) > 0) {
        submission->opcode = IORING_OP_NOP; /* it will be submitted, but not after its time */
        submission->flags = 0;
        return -EAGAIN;
    }
    for (unsigned i = io_uring_cq_ready(ring); i > before; i--) {
        const struct io_uring_cqe *completion = uring_completion(ring, *ring->cq.khead + i - 1);
        if (completion->user_data == token)
            return completion->res;
    }
    return -EAGAIN; /* an operation that never waits has waited: no kernel does that */
}

int
uring_direct_enter(struct berth_loop *loop, int fd)
{
    struct uring_engine *state = uring_state(loop);
    if (!state->enabled) {
        if (state->files_taken == state->files)
            return -ENFILE;
        const int index = (int)state->files_taken;
        const int error = (int)sys_uring_set_file(&state->ring, index, fd);
        if (error < 0)
            return error;
        state->files_taken++;
        return index;
    }
    int place = fd; /* and the kernel writes here which one it picked */
    struct io_uring_sqe request;
    memset(&request, 0, sizeof(request));
    io_uring_prep_files_update(&request, &place, 1, (int)IORING_FILE_INDEX_ALLOC);
    const int result = run_now(loop, &request);
    return result == 1 ? place : result < 0 ? result : -ENFILE;
}

int
uring_direct_replace(struct berth_loop *loop, int index, int fd)
{
    const int result = (int)sys_uring_set_file(&uring_state(loop)->ring, index, fd);
    loop->stats.syscalls++;
    return result < 0 ? result : 0;
}

int
uring_direct_install(struct berth_loop *loop, int index)
{
    struct io_uring_sqe request;
    prepare_install(&request, index);
    return run_now(loop, &request);
}

/**
 * A worker thread does it, and looks the file up when it does: so it counts as in flight, or the
 * place might be somebody else's by then.
 */
int
uring_direct_shutdown(struct berth_loop *loop, struct berth_slot *slot, int how)
{
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL)
        return -EAGAIN;
    io_uring_prep_shutdown(submission, berth_slot_fd(slot), how);
    uring_set_file(uring_state(loop), submission, slot);
    uring_set_token(submission, slot, OP_SHUTDOWN);
    return 0;
}

void
uring_direct_close(struct berth_loop *loop, int index)
{
    struct uring_engine *state = uring_state(loop);
    struct io_uring_sqe *submission = state->enabled ? uring_get_submission(loop) : NULL;
    if (submission == NULL) {
        (void)sys_uring_set_file(&state->ring, index, -1);
        loop->stats.syscalls++;
        return;
    }
    io_uring_prep_close_direct(submission, (unsigned)index);
    submission->flags |= IOSQE_CQE_SKIP_SUCCESS;
    submission->user_data = berth_token_with_op(loop->wake_token, OP_TABLE);
}

int
uring_direct_explain(const struct berth_loop *loop, char *text, size_t size)
{
    const struct uring_engine *state = uring_state(loop);
    if (!loop->direct)
        return 0;
    return snprintf(text, size,
                    "descriptors: direct, %u places in the ring's table (conns_max, and at most "
                    "RLIMIT_NOFILE)\n",
                    state->files);
}
