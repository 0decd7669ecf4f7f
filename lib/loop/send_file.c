/*
 * Files in the send queues: their pages go to the socket by reference, by sendfile(2), from the
 * thread of the loop.
 *
 * sendfile has no flag that says "do not wait for the socket", only the socket's O_NONBLOCK does
 * (SPLICE_F_NONBLOCK is about pipes). Engines that ask for nothing but DONTWAIT have it set with
 * the first file and left; the others, whose operations are to wait, have it set for the call only:
 * nothing of theirs begins meanwhile. Nor is there a MSG_NOSIGNAL: unless the program ignores
 * SIGPIPE it is blocked during the call, and taken back.
 *
 * The invariants: the descriptor of a file is closed once, when its last byte was taken or the
 * queue is dropped; the bytes of a file are the file's, or the connection ends with a reset; what
 * cannot be sent by reference is read into pool buffers, which go out like any other; a connection
 * for which there is none waits in a list exactly until the next try, or until the file is dropped.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SIGNAL
#define BERTH_SYS_SOCKET
#include "loop/send.h"

#include <string.h>

#include "loop/conn_lists.h"
#include "loop/splice.h"
#include "os/copy.h"
#include "os/sys.h"

/**
 * Shares of a turn (fairness_bytes) that a connection may send of a file: bytes that nobody copies
 * cost a fraction, and in small pieces a multiple of that (docs/design/loop.md).
 */
#define SHARES 16

/** Whoever has waited for so long for a buffer to read a file into, and is the first, gives up. */
#define BUFFER_WAIT_MS_MAX 10000

/** The largest offset that a file can have here. */
#define OFFSET_MAX (sizeof(off_t) == 8 ? (uint64_t)INT64_MAX : (uint64_t)INT32_MAX)

/* ---- queueing ------------------------------------------------------------------------------- */

/** Whether that part of it can be sent: 0 or -errno. */
static int
check_file(struct berth_loop *loop, int fd, uint64_t offset, uint64_t length)
{
    struct stat status;
    if (length == 0 || offset > OFFSET_MAX || length > OFFSET_MAX - offset)
        return -EINVAL;
    loop->stats.syscalls += 2;
    const intptr_t error = sys_fstat(fd, &status);
    if (error < 0)
        return (int)error;
    const intptr_t flags = sys_fcntl(fd, F_GETFL, 0);
    if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY)
        return -EBADF;
    if (S_ISBLK(status.st_mode))
        return 0; /* how long it is shows at its end */
    if (!S_ISREG(status.st_mode))
        return -EINVAL;
    return offset + length > (uint64_t)status.st_size ? -ERANGE : 0;
}

int
send_file_ignores_sigpipe(struct berth_loop *loop)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    loop->stats.syscalls++;
    return sys_sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

int
berth_send_file(struct berth_conn *conn, int fd, uint64_t offset, uint64_t length)
{
    struct berth_slot *slot = sendable(conn);
    if (slot == NULL)
        return -EINVAL;
    struct berth_loop *loop = slot_loop(slot);
    int error = send_check(loop, slot, 0);
    if (!error && queue_bytes(loop, slot) == loop->options.send_max_bytes)
        error = -ENOBUFS;
    if (!error)
        error = check_file(loop, fd, offset, length);
    if (error) {
        loop->stats.send_refused += error == -ENOBUFS;
        return error;
    }
    uint32_t counted = UINT32_MAX - queue_bytes(loop, slot);
    if (counted > loop->options.send_high_bytes)
        counted = loop->options.send_high_bytes;
    if (counted > length)
        counted = (uint32_t)length;
    const uint32_t index = node_get(&loop->nodes);
    error = index == 0 ? -ENOBUFS : send_append_file(loop, slot, index, counted);
    if (error) {
        if (index != 0)
            node_put(&loop->nodes, index);
        loop->stats.send_refused++;
        return error;
    }
    struct send_file *file = (struct send_file *)(void *)&loop->nodes.at[index];
    *file = (struct send_file){.offset = offset,
                               .left = length,
                               .fd = fd,
                               .counted = counted,
                               .guarded = (uint8_t)!send_file_ignores_sigpipe(loop)};
    return 0;
}

void
send_file_drop(struct berth_loop *loop, struct berth_slot *slot)
{
    struct send_node *head = queue_head(loop, slot);
    const uint32_t index = head->lease.buffer;
    const struct send_file *file = send_node_file(loop, head);
    conn_file_unwait(loop, slot);
    if (file->is_pipe) {
        splice_pipe_put(loop, file->fd, (int)file->offset, file->left == 0);
    } else {
        (void)sys_close(file->fd);
        loop->stats.syscalls++;
    }
    if (file->socket > 0)
        (void)sys_close(file->socket - 1);
    loop->stats.syscalls += file->socket > 0;
    head->bytes -= file->counted;
    node_put(&loop->nodes, index);
    send_pop_head(loop, slot);
}

/* ---- sending -------------------------------------------------------------------------------- */

/** What was promised does not come: the peer must not take what it has for the whole. */
static enum send_file_result
fail(struct berth_loop *loop, struct berth_slot *slot, int error)
{
    slot->state |= CONN_RESET;
    conn_failed(loop, slot, error);
    return SEND_FILE_REST;
}

static enum send_file_result
go_on_later(struct berth_loop *loop, struct berth_slot *slot)
{
    loop->stats.fairness_stops++;
    conn_todo(loop, slot);
    return SEND_FILE_REST;
}

/** So many bytes less of it are to come. */
static void
advance(struct berth_loop *loop, struct berth_slot *slot, struct send_file *file, size_t bytes)
{
    if (!file->is_pipe)
        file->offset += bytes;
    file->left -= bytes;
    if (file->left < file->counted) {
        queue_head(loop, slot)->bytes -= file->counted - (uint32_t)file->left;
        file->counted = (uint32_t)file->left;
    }
}

static int
socket_of(const struct berth_slot *slot, const struct send_file *file)
{
    return file->socket > 0 ? file->socket - 1 : berth_slot_fd(slot);
}

/** By reference, from wherever they are. */
static intptr_t
move(const struct send_file *file, int to, size_t bytes)
{
    off_t offset = (off_t)file->offset;
#ifdef __linux__
    if (file->is_pipe)
        return sys_splice(file->fd, to, bytes, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
#endif
    return sys_sendfile(to, file->fd, &offset, bytes);
}

/** sendfile, without a SIGPIPE that anybody would hear of. */
static intptr_t
call_guarded(struct berth_loop *loop, const struct send_file *file, int to, size_t bytes)
{
    const struct timespec no_time = {0, 0};
    sigset_t pipe_only, former, pending;
    (void)sigemptyset(&pipe_only);
    (void)sigaddset(&pipe_only, SIGPIPE);
    (void)sigemptyset(&pending);
    loop->stats.syscalls += 2;
    (void)sys_sigmask(SIG_BLOCK, &pipe_only, &former);
    if (sigismember(&former, SIGPIPE) == 1)
        (void)sys_sigpending(&pending); /* then one that pends already is not ours to take */
    const intptr_t sent = move(file, to, bytes);
    /* What was cut short may have met a reset after its first pages: they are counted, and the
     * signal has been sent all the same. */
    const int cut_short = sent == -EPIPE || (sent > 0 && (size_t)sent < bytes);
    if (cut_short && sigismember(&pending, SIGPIPE) != 1) {
        (void)sys_sigtake(&pipe_only, &no_time);
        loop->stats.syscalls++;
    }
    (void)sys_sigmask(SIG_SETMASK, &former, NULL);
    return sent;
}

/** sendfile, without waiting for the socket. */
static intptr_t
call(struct berth_loop *loop, struct berth_slot *slot, const struct send_file *file, size_t bytes)
{
    const int to = socket_of(slot, file);
    const int for_good = loop->engine->sends_at_once;
    if (!for_good || !slot_cold(loop, slot)->made_nonblocking) {
        const intptr_t error = sys_set_nonblocking(to, 1);
        loop->stats.syscalls++;
        if (error < 0)
            return -EINVAL; /* then not by reference */
        slot_cold(loop, slot)->made_nonblocking = (uint8_t)for_good;
    }
    const intptr_t sent =
        file->guarded ? call_guarded(loop, file, to, bytes) : move(file, to, bytes);
    loop->stats.syscalls++;
    if (!for_good) {
        (void)sys_set_nonblocking(to, 0);
        loop->stats.syscalls++;
    }
    return sent;
}

/** By reference, as much as the socket takes and the connection may have. */
static enum send_file_result
send_by_reference(struct berth_loop *loop, struct berth_slot *slot, struct send_file *file)
{
    const size_t share = (size_t)loop->options.fairness_bytes * SHARES;
    const size_t bytes = file->left < share ? (size_t)file->left : share;
    intptr_t sent;
    do {
        sent = call(loop, slot, file, bytes);
    } while (sent == -EINTR);
    if (sent == -EAGAIN)
        return SEND_FILE_FULL;
    if (sent == 0 || sent == -EINVAL || sent == -ENOSYS || sent == -EOPNOTSUPP) {
        file->copies = 1; /* not from such a file, or this is its end: reading it tells */
        return SEND_FILE_MORE;
    }
    if (sent < 0)
        return fail(loop, slot, (int)sent);
    send_count(loop, slot, (size_t)sent, file->is_pipe ? SEND_SPLICED : SEND_FILE);
    advance(loop, slot, file, (size_t)sent);
    if (slot->state & (CONN_AFTER_SEND | CONN_CREDIT))
        slot->state |= CONN_TODO;
    if (file->left == 0) {
        send_file_drop(loop, slot);
        return SEND_FILE_MORE;
    }
    if ((size_t)sent == bytes)
        return go_on_later(loop, slot);
    loop->stats.sends_short++;
    return SEND_FILE_FULL;
}

/** A pool buffer for a piece of it: the largest that is to be had and of use, or else any. */
static int
get_buffer(struct berth_loop *loop, const struct send_file *file, struct berth_lease *lease)
{
    int of_use = BERTH_CLASS_64K, error = -ENOBUFS;
    while (of_use > BERTH_CLASS_512 &&
           berth_class_bytes((enum berth_class)(of_use - 1)) >= file->left)
        of_use--;
    for (int size_class = of_use; error && size_class >= BERTH_CLASS_512; size_class--)
        error = berth_pool_get(loop->pool, (enum berth_class)size_class, BERTH_FOR_ACTIVE, lease);
    for (int size_class = of_use + 1; error && size_class <= BERTH_CLASS_64K; size_class++)
        error = berth_pool_get(loop->pool, (enum berth_class)size_class, BERTH_FOR_ACTIVE, lease);
    return error;
}

/** Whether get_buffer would find one. */
static int
has_buffer(const struct berth_loop *loop)
{
    for (int size_class = BERTH_CLASS_512; size_class <= BERTH_CLASS_64K; size_class++)
        if (berth_pool_available(loop->pool, (enum berth_class)size_class, BERTH_FOR_ACTIVE) > 0)
            return 1;
    return 0;
}

unsigned
send_files_waiting(struct berth_loop *loop)
{
    unsigned served = 0;
    for (uint32_t waiting = loop->files.count; waiting > 0 && has_buffer(loop); waiting--) {
        struct berth_slot *slot = conn_next_file(loop, 0);
        if (slot == NULL) /* an earlier one's callback has ended it */
            break;
        served++;
        slot->state |= CONN_TODO;
        conn_progress(loop, slot);
    }
    /* All buffers may stand in queues behind files that wait for one: somebody must give way. */
    struct berth_slot *first = has_buffer(loop) ? NULL : conn_next_file(loop, BUFFER_WAIT_MS_MAX);
    if (first != NULL) {
        served++;
        (void)fail(loop, first, -ENOBUFS);
        conn_progress(loop, first);
    }
    return served;
}

/** Puts a lease before the head of the queue. */
static int
prepend(struct berth_loop *loop, struct berth_slot *slot, struct berth_lease lease)
{
    const uint32_t index = node_get(&loop->nodes);
    if (index == 0)
        return -ENOBUFS;
    const struct send_node *head = queue_head(loop, slot);
    loop->nodes.at[index] = (struct send_node){.lease = lease,
                                               .next = slot->buffer,
                                               .tail = head->tail,
                                               .bytes = head->bytes + lease.length};
    slot->buffer = index;
    return 0;
}

/** Reads a piece of it, which goes ahead in the queue. */
static enum send_file_result
send_copied(struct berth_loop *loop, struct berth_slot *slot, struct send_file *file)
{
    struct berth_lease lease;
    if (get_buffer(loop, file, &lease) != 0) {
        conn_file_wait(loop, slot);
        return SEND_FILE_REST;
    }
    conn_file_unwait(loop, slot);
    const size_t bytes = file->left < lease.length ? (size_t)file->left : lease.length;
    intptr_t got;
    do {
        void *data = berth_lease_data(loop->pool, lease);
        got = file->is_pipe ? sys_read(file->fd, data, bytes)
                            : sys_pread(file->fd, data, bytes, (off_t)file->offset);
        loop->stats.syscalls++;
    } while (got == -EINTR);
    if (got <= 0) {
        (void)berth_release(loop->pool, lease);
        return fail(loop, slot, got == 0 ? -ENODATA : (int)got);
    }
    lease.length = (uint32_t)got;
    CONN_COPIES(loop, slot, sent_gather, (size_t)got);
    advance(loop, slot, file, (size_t)got);
    const int error = prepend(loop, slot, lease);
    if (error) {
        (void)berth_release(loop->pool, lease);
        return fail(loop, slot, error);
    }
    conn_todo(loop, slot);
    return SEND_FILE_REST;
}

/** What stands before a file, so that both begin in one segment. */
static enum send_file_result
send_lead(struct berth_loop *loop, struct berth_slot *slot, const struct send_file *file)
{
    const struct send_node *head = queue_head(loop, slot);
    const int to = socket_of(slot, file);
    const size_t length = head->lease.length;
    const intptr_t sent =
        sys_send(to, send_node_data(loop, head), length, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_MORE);
    loop->stats.syscalls++;
    if (sent == -EAGAIN)
        return SEND_FILE_FULL;
    if (sent < 0 && sent != -EINTR) {
        conn_failed(loop, slot, (int)sent);
        return SEND_FILE_REST;
    }
    if (sent > 0)
        send_done(loop, slot, (size_t)sent);
    return SEND_FILE_MORE;
}

enum send_file_result
send_file_now(struct berth_loop *loop, struct berth_slot *slot)
{
    const struct send_node *head = queue_head(loop, slot);
    const int is_first = send_node_is_file(head);
    struct send_file *file = send_node_file(loop, is_first ? head : &loop->nodes.at[head->next]);
    if (BERTH_UNLIKELY(loop->direct) && file->socket == 0 && !file->copies) {
        const int fd = loop->engine->direct_install(loop, (int)slot->index);
        file->copies = fd < 0; /* out of descriptors: the ring's own operations need none */
        file->socket = fd < 0 ? 0 : fd + 1;
        loop->stats.syscalls++;
    }
    if (!is_first)
        return file->copies ? SEND_FILE_MORE : send_lead(loop, slot, file);
    if (file->left == 0) { /* its last piece was copied */
        send_file_drop(loop, slot);
        return SEND_FILE_MORE;
    }
    return file->copies ? send_copied(loop, slot, file) : send_by_reference(loop, slot, file);
}
