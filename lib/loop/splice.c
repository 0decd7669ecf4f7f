/*
 * Pipes between sockets. A pipe stands in the send queue like a file (send_file.c), holds what was
 * spliced into it, and is empty when it leaves the queue; only there does a connection have one. So
 * idle connections hold none, and everything about queues (their order, marks, ends) holds for what
 * is in a pipe.
 *
 * Whether a socket has anything is asked for first, by a look that does not wait: splice(2) itself
 * would wait in a TCP socket that has nothing, whatever SPLICE_F_NONBLOCK says.
 *
 * The invariants: bytes are taken from a socket only when there is a place in the queue for them;
 * a pipe with bytes in it is in one queue, and an empty one in none.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#include "loop/splice.h"

#include <errno.h>

#include "loop/pull.h"
#include "loop/send.h"
#include "os/sys.h"

#ifdef __linux__

/** What a pipe is to hold, if the system grants it: as much as one piece of a bulk receive. */
#define PIPE_BYTES (1024 * 1024)

/** An empty pipe, as {where to read, where to write}. 0 or -errno. */
static int
pipe_get(struct berth_loop *loop, int *ends)
{
    struct pipe_stack *stack = &loop->pipes;
    if (stack->count > 0) {
        stack->count--;
        ends[0] = stack->at[stack->count][0];
        ends[1] = stack->at[stack->count][1];
        return 0;
    }
    loop->stats.syscalls += 2;
    const intptr_t error = sys_pipe2(ends, O_NONBLOCK | O_CLOEXEC);
    if (error < 0)
        return (int)error;
    (void)sys_fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES); /* refused: so it holds less */
    return 0;
}

/** The pipe that the queue ends with, or NULL. */
static struct send_file *
pipe_at_end(const struct berth_loop *loop, const struct berth_slot *to)
{
    if (to->buffer == 0)
        return NULL;
    const struct send_node *tail = &loop->nodes.at[queue_head(loop, to)->tail];
    if (!send_node_is_file(tail))
        return NULL;
    struct send_file *file = send_node_file(loop, tail);
    return file->is_pipe ? file : NULL;
}

/** Whether there is anything to splice: 1, or 0 when what there is has been reported. */
static int
look(struct berth_loop *loop, struct berth_slot *from, int fd)
{
    char byte;
    intptr_t got;
    do {
        got = sys_recv(fd, &byte, sizeof(byte), MSG_DONTWAIT | MSG_PEEK);
        loop->stats.syscalls++;
    } while (got == -EINTR);
    if (got == 0)
        conn_eof(loop, from);
    else if (got < 0 && got != -EAGAIN)
        conn_failed(loop, from, (int)got);
    return got > 0;
}

/** Whether the program would hear of a SIGPIPE: asked once in a turn. */
static uint8_t
hears_sigpipe(struct berth_loop *loop)
{
    struct pipe_stack *stack = &loop->pipes;
    if (stack->asked_turn != loop->stats.turns + 1) {
        stack->asked_turn = loop->stats.turns + 1;
        stack->guarded = (uint8_t)!send_file_ignores_sigpipe(loop);
    }
    return stack->guarded;
}

/** Puts a pipe with so many bytes in it at the end of a queue, in two nodes that are free. */
static int
append_pipe(struct berth_loop *loop, struct berth_slot *to, const int *ends, uint32_t bytes)
{
    const uint32_t index = node_get(&loop->nodes);
    if (index == 0)
        return -ENOBUFS;
    *(struct send_file *)(void *)&loop->nodes.at[index] =
        (struct send_file){.offset = (uint64_t)ends[1],
                           .left = bytes,
                           .fd = ends[0],
                           .counted = bytes,
                           .is_pipe = 1,
                           .guarded = hears_sigpipe(loop)};
    const int error = send_append_file(loop, to, index, bytes);
    if (error)
        node_put(&loop->nodes, index);
    return error;
}

static intptr_t
splice_in(struct berth_loop *loop, int fd, int pipe_fd, size_t most)
{
    intptr_t moved;
    do {
        moved = sys_splice(fd, pipe_fd, most, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        loop->stats.syscalls++;
    } while (moved == -EINTR);
    return moved;
}

static void
delivered(struct berth_loop *loop, struct berth_slot *from, size_t bytes)
{
    conn_deliver_pulled(loop, from, NULL, 0, bytes, 0);
    CONN_COPIES(loop, from, received_spliced, bytes);
}

enum spliced
splice_receive(struct berth_loop *loop, struct berth_slot *from, int fd, struct berth_slot *to,
               size_t most, size_t *moved)
{
    *moved = 0;
    if (!look(loop, from, fd))
        return SPLICED_NONE;
    if (most > PIPE_BYTES)
        most = PIPE_BYTES;
    struct send_file *last = pipe_at_end(loop, to);
    if (last != NULL) {
        if (most > UINT32_MAX - queue_bytes(loop, to))
            return SPLICED_FULL;
        const intptr_t more = splice_in(loop, fd, (int)last->offset, most);
        if (more <= 0)
            return SPLICED_FULL; /* or what else there is will be found by the next look */
        last->left += (uint64_t)more;
        last->counted += (uint32_t)more;
        send_grew(loop, to, (uint32_t)more);
        *moved = (size_t)more;
        delivered(loop, from, *moved);
        return SPLICED_SOME;
    }
    int ends[2];
    if (pipe_get(loop, ends) != 0)
        return SPLICED_NEVER;
    const intptr_t first = splice_in(loop, fd, ends[1], most);
    if (first <= 0) {
        splice_pipe_put(loop, ends[0], ends[1], 1);
        return SPLICED_NEVER;
    }
    *moved = (size_t)first;
    const int error = append_pipe(loop, to, ends, (uint32_t)first);
    if (error) { /* they have left the socket, and have nowhere to go */
        splice_pipe_put(loop, ends[0], ends[1], 0);
        from->state |= CONN_RESET;
        conn_failed(loop, from, error);
        return SPLICED_NONE;
    }
    delivered(loop, from, *moved);
    return SPLICED_SOME;
}

void
splice_pipe_put(struct berth_loop *loop, int read_fd, int write_fd, int empty)
{
    struct pipe_stack *stack = &loop->pipes;
    if (empty && stack->count < PIPES_KEPT_MAX) {
        stack->at[stack->count][0] = read_fd;
        stack->at[stack->count][1] = write_fd;
        stack->count++;
        return;
    }
    (void)sys_close(read_fd);
    (void)sys_close(write_fd);
    loop->stats.syscalls += 2;
}

void
splice_destroy(struct berth_loop *loop)
{
    struct pipe_stack *stack = &loop->pipes;
    while (stack->count > 0) {
        stack->count--;
        (void)sys_close(stack->at[stack->count][0]);
        (void)sys_close(stack->at[stack->count][1]);
    }
}

#else

enum spliced
splice_receive(struct berth_loop *loop, struct berth_slot *from, int fd, struct berth_slot *to,
               size_t most, size_t *moved)
{
    (void)loop, (void)from, (void)fd, (void)to, (void)most;
    *moved = 0;
    return SPLICED_NEVER;
}

void
splice_pipe_put(struct berth_loop *loop, int read_fd, int write_fd, int empty)
{
    (void)loop, (void)read_fd, (void)write_fd, (void)empty;
}

void
splice_destroy(struct berth_loop *loop)
{
    (void)loop;
}

#endif
