/*
 * The load over io_uring: multishot receives out of one ring of provided buffers, so that waiting
 * and receiving cost the load as little as possible, and the server is what limits the rate. Sends
 * are plain send(2): cheaper than submitted ones, and over when they return.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "load_internal.h"

#define BUFFERS 2048u /**< a power of two */
#define BUFFER_BYTES 4096u
#define BUFFER_GROUP 1
#define SQ_ENTRIES 1024u
#define CQ_ENTRIES 16384u
#define BATCH 512u

struct io_state {
    struct io_uring ring;
    struct io_uring_buf_ring *buffer_ring; /**< and, behind it, the buffers */
    unsigned char *buffers;
    size_t mapped_bytes;
    unsigned returned;
};

static void
buffer_return(struct io_state *io, unsigned buffer)
{
    io_uring_buf_ring_add(io->buffer_ring, io->buffers + (size_t)buffer * BUFFER_BYTES,
                          BUFFER_BYTES, (unsigned short)buffer, io_uring_buf_ring_mask(BUFFERS),
                          (int)io->returned++);
}

static void
buffers_publish(struct io_state *io)
{
    io_uring_buf_ring_advance(io->buffer_ring, (int)io->returned);
    io->returned = 0;
}

static int
buffers_make(struct io_state *io)
{
    const size_t ring_bytes = BUFFERS * sizeof(struct io_uring_buf);
    io->mapped_bytes = ring_bytes + (size_t)BUFFERS * BUFFER_BYTES;
    unsigned char *memory =
        mmap(NULL, io->mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    io->buffer_ring = (struct io_uring_buf_ring *)(void *)memory;
    io->buffers = memory + ring_bytes;
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)memory,
        .ring_entries = BUFFERS,
        .bgid = BUFFER_GROUP,
    };
    const int error = io_uring_register_buf_ring(&io->ring, &registration, 0);
    if (error != 0) {
        munmap(memory, io->mapped_bytes);
        return error;
    }
    io_uring_buf_ring_init(io->buffer_ring);
    for (unsigned i = 0; i < BUFFERS; i++)
        buffer_return(io, i);
    buffers_publish(io);
    return 0;
}

static int
io_open(struct load *load)
{
    struct io_state *io = calloc(1, sizeof *io);
    if (io == NULL)
        return -ENOMEM;
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = CQ_ENTRIES,
    };
    int error = io_uring_queue_init_params(SQ_ENTRIES, &io->ring, &params);
    if (error == 0) {
        error = buffers_make(io);
        if (error != 0)
            io_uring_queue_exit(&io->ring);
    }
    if (error != 0) {
        free(io);
        return error;
    }
    io_uring_register_ring_fd(&io->ring);
    load->io_state = io;
    return 0;
}

static int
io_add(struct load *load, uint32_t index)
{
    struct io_state *io = load->io_state;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);
    if (sqe == NULL) {
        io_uring_submit(&io->ring);
        sqe = io_uring_get_sqe(&io->ring);
        if (sqe == NULL)
            return -EBUSY;
    }
    io_uring_prep_recv_multishot(sqe, load->conns[index].fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    sqe->user_data = index;
    return 0;
}

/** Ownership of the buffer is told by F_BUFFER, arming by F_MORE, and neither by the result. */
static int
complete(struct load *load, const struct io_uring_cqe *cqe)
{
    struct io_state *io = load->io_state;
    const uint32_t index = (uint32_t)cqe->user_data;
    int error = 0;
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        const unsigned buffer = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        if (cqe->res > 0)
            error = load_received(load, index, io->buffers + (size_t)buffer * BUFFER_BYTES,
                                  (size_t)cqe->res);
        buffer_return(io, buffer);
    }
    if (error != 0)
        return error;
    if (cqe->res == 0)
        return -ECONNRESET;
    if (cqe->res < 0 && cqe->res != -ENOBUFS)
        return cqe->res;
    return cqe->flags & IORING_CQE_F_MORE ? 0 : io_add(load, index);
}

static int
io_wait(struct load *load, int timeout_ms)
{
    struct io_state *io = load->io_state;
    struct __kernel_timespec wait = {.tv_nsec = timeout_ms * 1000000L};
    struct io_uring_cqe *cqes[BATCH];
    int error = timeout_ms > 0 ? io_uring_submit_and_wait_timeout(&io->ring, cqes, 1, &wait, NULL)
                               : io_uring_submit_and_get_events(&io->ring);
    if (error < 0 && error != -ETIME && error != -EINTR && error != -EBUSY)
        return error;
    const unsigned count = io_uring_peek_batch_cqe(&io->ring, cqes, BATCH);
    error = 0;
    for (unsigned i = 0; i < count && error == 0; i++)
        error = complete(load, cqes[i]);
    io_uring_cq_advance(&io->ring, count);
    buffers_publish(io);
    return error != 0 ? error : (int)count;
}

/** An armed receive keeps its socket alive past close(2): the server would see no end. */
static void
io_disarm(struct load *load)
{
    struct io_state *io = load->io_state;
    struct io_uring_sync_cancel_reg all = {
        .flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL,
        .timeout = {.tv_sec = 1},
    };
    io_uring_register_sync_cancel(&io->ring, &all);
}

static void
io_close(struct load *load)
{
    struct io_state *io = load->io_state;
    io_uring_queue_exit(&io->ring);
    munmap(io->buffer_ring, io->mapped_bytes);
    free(io);
}

const struct load_io load_io_uring = {"uring", io_open, io_add, io_wait, io_disarm, io_close};
