/*
 * Ways of waiting, for case `waiting`: Linux AIO's IOCB_CMD_POLL. A poll is over when it has told
 * its event, so each one is submitted again; those of one batch with one call. `aio` takes events
 * with io_getevents; `aio-ring` reads them out of the ring that the kernel maps into the process,
 * and asks the kernel only when the ring is empty.
 *
 * By raw system calls: the structures are those of <linux/aio_abi.h>, no library is needed. The
 * layout of the ring is not in that header; it is checked by its magic number before it is used.
 *
 * SPDX-License-Identifier: MIT
 */
#include <linux/aio_abi.h>
#include <linux/time_types.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "wait.h"

#define RING_MAGIC 0xa10a10a1u

/** What the kernel maps where the context's number points to. */
struct aio_ring {
    uint32_t id;
    uint32_t slots;
    uint32_t head; /**< moved by whoever takes events */
    uint32_t tail; /**< moved by the kernel */
    uint32_t magic;
    uint32_t features;
    uint32_t features_incompatible;
    uint32_t header_bytes;
    struct io_event events[];
};

struct aio_state {
    aio_context_t context;
    struct aio_ring *ring; /**< NULL: io_getevents is used */
    struct iocb *polls;    /**< one for each descriptor */
    struct iocb *again[WAIT_BATCH];
    unsigned again_count;
};

static int
aio_open_with(struct wait_run *run, bool with_ring)
{
    struct aio_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return -ENOMEM;
    state->polls = calloc(run->set->count, sizeof *state->polls);
    int error = state->polls == NULL ? -ENOMEM : 0;
    if (error == 0 && syscall(SYS_io_setup, (long)run->set->count, &state->context) != 0)
        error = -errno;
    if (error == 0 && with_ring) {
        state->ring = (struct aio_ring *)state->context;
        if (state->ring->magic != RING_MAGIC || state->ring->features_incompatible != 0 ||
            state->ring->header_bytes != sizeof *state->ring) {
            syscall(SYS_io_destroy, state->context);
            error = -EOPNOTSUPP;
        }
    }
    if (error != 0) {
        free(state->polls);
        free(state);
        return error;
    }
    run->state = state;
    return 0;
}

static int
aio_open(struct wait_run *run)
{
    return aio_open_with(run, false);
}

static int
aio_open_ring(struct wait_run *run)
{
    return aio_open_with(run, true);
}

/** Submits what is to be polled again. 0 or -errno. */
static int
submit(struct wait_run *run)
{
    struct aio_state *state = run->state;
    unsigned done = 0;
    while (done < state->again_count) {
        run->syscalls++;
        const long did = syscall(SYS_io_submit, state->context, (long)(state->again_count - done),
                                 state->again + done);
        if (did < 0 && errno != EINTR)
            return -errno;
        done += did > 0 ? (unsigned)did : 0;
    }
    state->again_count = 0;
    return 0;
}

static int
poll_again(struct wait_run *run, uint32_t index)
{
    struct aio_state *state = run->state;
    state->again[state->again_count++] = &state->polls[index];
    return state->again_count == WAIT_BATCH ? submit(run) : 0;
}

static int
aio_add(struct wait_run *run, uint32_t index)
{
    struct aio_state *state = run->state;
    state->polls[index] = (struct iocb){
        .aio_data = index,
        .aio_lio_opcode = IOCB_CMD_POLL,
        .aio_fildes = (uint32_t)run->set->readers[index],
        .aio_buf = POLLIN,
    };
    return poll_again(run, index);
}

/** Takes up to WAIT_BATCH events out of the ring without a system call; how many. */
static long
ring_take(struct aio_ring *ring, struct io_event *events)
{
    uint32_t head = ring->head;
    const uint32_t tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
    long count = 0;
    while (head != tail && count < (long)WAIT_BATCH) {
        events[count++] = ring->events[head];
        head = head + 1 == ring->slots ? 0 : head + 1;
    }
    __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
    return count;
}

static int
aio_wait(struct wait_run *run)
{
    struct aio_state *state = run->state;
    struct io_event events[WAIT_BATCH];
    struct __kernel_timespec lost = {.tv_sec = WAIT_LOST_MS / 1000};
    long count = state->ring != NULL ? ring_take(state->ring, events) : 0;
    if (count == 0) {
        run->syscalls++;
        count = syscall(SYS_io_getevents, state->context, 1L, (long)WAIT_BATCH, events, &lost);
        if (count <= 0)
            return count == 0 ? -ETIME : wait_failed(errno);
    }
    for (long i = 0; i < count; i++) {
        if (events[i].res < 0)
            return (int)events[i].res;
        const uint32_t index = (uint32_t)events[i].data;
        int error = wait_read(run, index);
        if (error == 0)
            error = poll_again(run, index);
        if (error != 0)
            return error;
    }
    return submit(run);
}

/** The kernel cancels what is under way, and waits for it, before the context is gone. */
static void
aio_close(struct wait_run *run)
{
    struct aio_state *state = run->state;
    syscall(SYS_io_destroy, state->context);
    free(state->polls);
    free(state);
}

const struct wait_way wait_aio = {
    .name = "aio",
    .open = aio_open,
    .add = aio_add,
    .settle = submit,
    .wait = aio_wait,
    .close = aio_close,
};

const struct wait_way wait_aio_ring = {
    .name = "aio-ring",
    .open = aio_open_ring,
    .add = aio_add,
    .settle = submit,
    .wait = aio_wait,
    .close = aio_close,
};
