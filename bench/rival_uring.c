/*
 * The other floor: an echo server as a careful person writes it by hand over io_uring. One
 * multishot receive per connection out of one ring of provided buffers, the answer sent from the
 * very buffer the bytes arrived in, everything submitted in batches together with the wait. No
 * library above liburing, no general purpose.
 *
 * A buffer is out of the ring from its receive's completion until its send's. MSG_WAITALL makes the
 * kernel resume short sends, and of two that are under way on a socket the second may get in
 * between: so there is one, and what comes meanwhile waits for it, and then goes out together. Only
 * who sends more than he was answered ever gets there.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server.h"

#define BUFFERS 4096u /**< a power of two */
#define BUFFER_GROUP 1
#define SQ_ENTRIES 4096u
#define CQ_ENTRIES 32768u
#define CONNS_MAX 65536
#define BUSY_COMPLETIONS 8u
#define BATCH_MAX 32u

enum operation { OP_ACCEPT = 1, OP_RECEIVE, OP_SEND, OP_SEND_BATCH };

/** user_data: operation, buffer (for sends), descriptor. */
#define USER_DATA(operation, buffer, fd)                                                           \
    (((uint64_t)(operation) << 56) | ((uint64_t)(buffer) << 32) | (uint32_t)(fd))

struct conn {
    uint16_t waiting;       /**< buffers that wait for the send in flight */
    uint16_t waiting_first; /**< ... in the order of `waiting` below */
    uint16_t waiting_last;
    uint8_t sending;   /**< there is a send in flight */
    uint8_t receiving; /**< the multishot receive is armed */
    uint8_t starving;  /**< waits for a buffer to arm it again */
    uint8_t closing;
};

/** A buffer that waits to be sent: what is in it, and which one comes next. */
struct waiting {
    uint16_t bytes;
    uint16_t next;
};

/** Several of them as one send. */
struct batch {
    struct msghdr message;
    struct iovec parts[BATCH_MAX];
};

struct echo {
    struct io_uring ring;
    struct io_uring_buf_ring *buffer_ring;
    unsigned char *buffers;
    int listener;
    unsigned returned;  /**< buffers added to the ring in this turn, not yet published */
    unsigned completed; /**< in the last turn */
    unsigned starved;   /**< connections in `starving` */
    int starving[CONNS_MAX];
    struct conn conns[CONNS_MAX];
    struct waiting waiting[BUFFERS];
    struct batch *batches[CONNS_MAX]; /**< of those who have needed one */
    struct server_counters counters;
};

static struct echo echo;

static struct io_uring_sqe *
sqe_get(uint64_t user_data)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&echo.ring);
    while (sqe == NULL) {
        io_uring_submit(&echo.ring);
        echo.counters.syscalls++;
        sqe = io_uring_get_sqe(&echo.ring);
    }
    io_uring_prep_nop(sqe);
    sqe->user_data = user_data;
    return sqe;
}

static void
arm_accept(void)
{
    const uint64_t user_data = USER_DATA(OP_ACCEPT, 0, echo.listener);
    struct io_uring_sqe *sqe = sqe_get(user_data);
    io_uring_prep_multishot_accept(sqe, echo.listener, NULL, NULL, SOCK_CLOEXEC);
    sqe->user_data = user_data;
}

static void
arm_receive(int fd)
{
    const uint64_t user_data = USER_DATA(OP_RECEIVE, 0, fd);
    struct io_uring_sqe *sqe = sqe_get(user_data);
    io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    sqe->user_data = user_data;
    echo.conns[fd].receiving = 1;
}

static void
send_back(int fd, unsigned buffer, unsigned bytes)
{
    const uint64_t user_data = USER_DATA(OP_SEND, buffer, fd);
    struct io_uring_sqe *sqe = sqe_get(user_data);
    io_uring_prep_send(sqe, fd, echo.buffers + (size_t)buffer * SERVER_RECEIVE_BYTES, bytes,
                       MSG_WAITALL | MSG_NOSIGNAL);
    sqe->user_data = user_data;
    echo.conns[fd].sending = 1;
}

static void
buffer_return(unsigned buffer)
{
    io_uring_buf_ring_add(echo.buffer_ring, echo.buffers + (size_t)buffer * SERVER_RECEIVE_BYTES,
                          SERVER_RECEIVE_BYTES, (unsigned short)buffer,
                          io_uring_buf_ring_mask(BUFFERS), (int)echo.returned++);
}

static void
waiting_add(struct conn *conn, unsigned buffer, unsigned bytes)
{
    echo.waiting[buffer].bytes = (uint16_t)bytes;
    if (conn->waiting++ == 0)
        conn->waiting_first = (uint16_t)buffer;
    else
        echo.waiting[conn->waiting_last].next = (uint16_t)buffer;
    conn->waiting_last = (uint16_t)buffer;
}

static unsigned
waiting_take(struct conn *conn)
{
    const unsigned buffer = conn->waiting_first;
    conn->waiting--;
    conn->waiting_first = echo.waiting[buffer].next;
    return buffer;
}

/** Sends what has waited: as many buffers at once as a batch holds. */
static void
send_waiting(int fd)
{
    struct conn *conn = &echo.conns[fd];
    struct batch *batch = echo.batches[fd];
    if (batch == NULL && conn->waiting > 1)
        batch = echo.batches[fd] = calloc(1, sizeof *batch);
    if (batch == NULL || conn->waiting == 1) {
        const unsigned buffer = waiting_take(conn);
        send_back(fd, buffer, echo.waiting[buffer].bytes);
        return;
    }
    unsigned count = 0;
    while (conn->waiting > 0 && count < BATCH_MAX) {
        const unsigned buffer = waiting_take(conn);
        batch->parts[count++] = (struct iovec){echo.buffers + (size_t)buffer * SERVER_RECEIVE_BYTES,
                                               echo.waiting[buffer].bytes};
    }
    batch->message.msg_iov = batch->parts;
    batch->message.msg_iovlen = count;
    const uint64_t user_data = USER_DATA(OP_SEND_BATCH, 0, fd);
    struct io_uring_sqe *sqe = sqe_get(user_data);
    io_uring_prep_sendmsg(sqe, fd, &batch->message, MSG_WAITALL | MSG_NOSIGNAL);
    sqe->user_data = user_data;
    conn->sending = 1;
}

static void
batch_return(const struct batch *batch)
{
    for (size_t i = 0; i < batch->message.msg_iovlen; i++) {
        const unsigned char *from = batch->parts[i].iov_base;
        buffer_return((unsigned)((size_t)(from - echo.buffers) / SERVER_RECEIVE_BYTES));
    }
}

/** Closes when nothing of the connection is left in the kernel. */
static void
conn_end(int fd)
{
    struct conn *conn = &echo.conns[fd];
    if (!conn->closing) {
        conn->closing = 1;
        if (conn->receiving)
            shutdown(fd, SHUT_RDWR);
    }
    if (conn->receiving || conn->sending || conn->starving)
        return;
    memset(conn, 0, sizeof *conn);
    echo.counters.conns--;
    echo.counters.syscalls++;
    close(fd);
}

static void
on_accept(const struct io_uring_cqe *cqe)
{
    if (cqe->res >= 0 && cqe->res < CONNS_MAX) {
        echo.counters.conns++;
        arm_receive(cqe->res);
    } else if (cqe->res >= 0) {
        close(cqe->res);
    }
    if (!(cqe->flags & IORING_CQE_F_MORE))
        arm_accept();
}

static void
on_receive(const struct io_uring_cqe *cqe, int fd)
{
    struct conn *conn = &echo.conns[fd];
    if (!(cqe->flags & IORING_CQE_F_MORE))
        conn->receiving = 0;
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        const unsigned buffer = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        if (cqe->res > 0 && !conn->closing) {
            echo.counters.received_bytes += (uint64_t)cqe->res;
            if (conn->sending)
                waiting_add(conn, buffer, (unsigned)cqe->res);
            else
                send_back(fd, buffer, (unsigned)cqe->res);
        } else {
            buffer_return(buffer);
        }
    }
    if (cqe->res == -ENOBUFS && !conn->closing) {
        echo.counters.enobufs++;
        conn->starving = 1;
        echo.starving[echo.starved++] = fd;
    } else if (cqe->res <= 0 || conn->closing) {
        conn_end(fd);
    } else if (!conn->receiving) {
        arm_receive(fd);
    }
}

/** Its buffers have been returned. */
static void
on_send(const struct io_uring_cqe *cqe, int fd)
{
    struct conn *conn = &echo.conns[fd];
    conn->sending = 0;
    while (cqe->res < 0 && conn->waiting > 0)
        buffer_return(waiting_take(conn));
    if (conn->waiting > 0)
        send_waiting(fd);
    else if (cqe->res < 0 || conn->closing)
        conn_end(fd);
}

static void
complete(const struct io_uring_cqe *cqe)
{
    const int fd = (int)(uint32_t)cqe->user_data;
    switch ((enum operation)(cqe->user_data >> 56)) {
    case OP_ACCEPT:
        on_accept(cqe);
        break;
    case OP_RECEIVE:
        on_receive(cqe, fd);
        break;
    case OP_SEND:
        buffer_return((unsigned)(cqe->user_data >> 32) & 0xffffu);
        on_send(cqe, fd);
        break;
    case OP_SEND_BATCH:
        batch_return(echo.batches[fd]);
        on_send(cqe, fd);
        break;
    }
}

/** Those who found no buffer try again, now that this turn's buffers are back. */
static void
feed_starving(void)
{
    const unsigned count = echo.starved;
    echo.starved = 0;
    for (unsigned i = 0; i < count; i++) {
        const int fd = echo.starving[i];
        echo.conns[fd].starving = 0;
        if (!echo.conns[fd].closing)
            arm_receive(fd);
        else
            conn_end(fd);
    }
}

static int
wait_for(unsigned completions, long timeout_ns)
{
    struct __kernel_timespec timeout = {.tv_nsec = timeout_ns};
    struct io_uring_cqe *cqe;
    const int error =
        io_uring_submit_and_wait_timeout(&echo.ring, &cqe, completions, &timeout, NULL);
    echo.counters.syscalls++;
    return error == -ETIME || error == -EINTR || error == -EBUSY || error > 0 ? 0 : error;
}

/**
 * The kernel runs at most max(20, completions waited for) pieces of deferred work per call. So when
 * the last turn was a busy one, first take everything there is without sleeping.
 */
static int
wait_busy_or_idle(void)
{
    if (echo.completed >= BUSY_COMPLETIONS) {
        const int error = wait_for(SERVER_EVENTS_MAX, 0);
        if (error != 0 || io_uring_cq_ready(&echo.ring) > 0)
            return error;
    }
    return wait_for(1, SERVER_WAIT_MS * 1000000L);
}

static int
turn(void)
{
    const int error = wait_busy_or_idle();
    if (error != 0)
        return error;
    struct io_uring_cqe *cqes[SERVER_EVENTS_MAX];
    unsigned count;
    echo.completed = 0;
    echo.counters.turns++;
    while ((count = io_uring_peek_batch_cqe(&echo.ring, cqes, SERVER_EVENTS_MAX)) > 0) {
        for (unsigned i = 0; i < count; i++)
            complete(cqes[i]);
        io_uring_cq_advance(&echo.ring, count);
        echo.completed += count;
    }
    io_uring_buf_ring_advance(echo.buffer_ring, (int)echo.returned);
    echo.returned = 0;
    if (echo.starved > 0)
        feed_starving();
    return 0;
}

static int
buffers_make(void)
{
    const size_t ring_bytes = BUFFERS * sizeof(struct io_uring_buf);
    unsigned char *memory = mmap(NULL, ring_bytes + (size_t)BUFFERS * SERVER_RECEIVE_BYTES,
                                 PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    echo.buffer_ring = (struct io_uring_buf_ring *)(void *)memory;
    echo.buffers = memory + ring_bytes;
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)memory,
        .ring_entries = BUFFERS,
        .bgid = BUFFER_GROUP,
    };
    const int error = io_uring_register_buf_ring(&echo.ring, &registration, 0);
    if (error != 0)
        return error;
    io_uring_buf_ring_init(echo.buffer_ring);
    for (unsigned i = 0; i < BUFFERS; i++)
        buffer_return(i);
    io_uring_buf_ring_advance(echo.buffer_ring, (int)echo.returned);
    echo.returned = 0;
    return 0;
}

static int
ring_make(void)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = CQ_ENTRIES,
    };
    int error = io_uring_queue_init_params(SQ_ENTRIES, &echo.ring, &params);
    if (error == 0)
        error = buffers_make();
    if (error == 0 && io_uring_register_ring_fd(&echo.ring) < 0)
        echo.counters.turns = 0; /* only an optimisation: without it each enter looks the ring up */
    return error;
}

int
rival_uring_serve(struct server_control *control, const struct server_kind *kind)
{
    (void)kind;
    uint16_t port = 0;
    int error = ring_make();
    if (error != 0)
        return error;
    echo.counters = server_counters_begin();
    echo.listener = server_listen(&port);
    if (echo.listener < 0)
        return echo.listener;
    arm_accept();
    server_ready(control, port);
    while (error == 0 && server_running(control)) {
        if (server_asked(control))
            server_answer(control, &echo.counters);
        error = turn();
    }
    return error;
}
