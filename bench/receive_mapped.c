/*
 * Receiving without copying: TCP_ZEROCOPY_RECEIVE maps the pages that arrived into a window of
 * address space. Only whole pages can be mapped; the rest is copied, and both are counted from what
 * the kernel says about each call.
 *
 * The window belongs to no connection (a socket that is closed again lent it), and is filled part
 * by part: what has been looked at is unmapped all at once, when the window is full. Unmapping for
 * each call costs more than copying.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stream.h"

#define WINDOW_BYTES ((size_t)2 << 20)
/** Asked for at once, at most. */
#define PART_BYTES ((size_t)512 << 10)
/** What cannot be mapped is copied to here. */
#define COPY_BYTES ((size_t)64 << 10)
/** So much of it may be copied by the mapping call itself: with more room it would copy whatever
 *  fits there instead of mapping it. */
#define STRAGGLER_BYTES 4096

/** "The part of the window is not mapped": the kernel need not unmap it first. */
#define BENCH_TCP_ZEROCOPY_CLEAN 1u

/** The kernel's struct tcp_zerocopy_receive, of which the C library has only the first half. */
struct bench_tcp_zerocopy {
    uint64_t address;
    uint32_t length;         /**< in: of the part of the window; out: mapped */
    uint32_t recv_skip_hint; /**< out: to be received otherwise before more can be mapped */
    uint32_t inq;
    int32_t err;
    uint64_t copy_address;
    int32_t copy_length; /**< in: room; out: copied there, after what was mapped */
    uint32_t flags;
    uint64_t control;
    uint64_t control_length;
    uint32_t control_flags;
    uint32_t reserved;
};

struct receiver {
    struct stream_side *side;
    unsigned char *window;
    size_t used; /**< of the window: mapped, and looked at */
    unsigned char *copy;
};

/** The window, lent by a socket that is gone afterwards. NULL: errno says why not. */
static unsigned char *
window_make(void)
{
    const int lender = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (lender < 0)
        return NULL;
    void *window = mmap(NULL, WINDOW_BYTES, PROT_READ, MAP_SHARED, lender, 0);
    close(lender);
    return window != MAP_FAILED ? window : NULL;
}

static void
window_clean(struct receiver *receiver)
{
    madvise(receiver->window, receiver->used, MADV_DONTNEED);
    receiver->side->counters.syscalls++;
    receiver->used = 0;
}

static void
received_copy(struct receiver *receiver, size_t bytes)
{
    stream_received(receiver->side, receiver->copy, bytes);
    stream_settled(receiver->side, bytes, bytes);
}

/** Receives what the kernel says it cannot map. 0 go on, 1 the peer is gone, or -errno. */
static int
receive_unmappable(struct receiver *receiver, size_t bytes)
{
    const ssize_t got = recv(receiver->side->fd, receiver->copy,
                             bytes < COPY_BYTES ? bytes : COPY_BYTES, MSG_DONTWAIT);
    receiver->side->counters.syscalls++;
    if (got < 0)
        return stream_call_failed(-errno);
    received_copy(receiver, (size_t)got);
    return got == 0;
}

static int
wait_for_more(struct receiver *receiver)
{
    struct pollfd waiting = {.fd = receiver->side->fd, .events = POLLIN};
    receiver->side->counters.syscalls++;
    return poll(&waiting, 1, STREAM_BLOCK_MS) < 0 ? stream_call_failed(-errno) : 0;
}

/** One request. 0 go on, 1 the peer is gone, or -errno. */
static int
receive(struct receiver *receiver)
{
    if (receiver->used + PART_BYTES > WINDOW_BYTES)
        window_clean(receiver);
    unsigned char *part = receiver->window + receiver->used;
    struct bench_tcp_zerocopy request = {
        .address = (uint64_t)(uintptr_t)part,
        .length = PART_BYTES,
        .copy_address = (uint64_t)(uintptr_t)receiver->copy,
        .copy_length = STRAGGLER_BYTES,
        .flags = BENCH_TCP_ZEROCOPY_CLEAN,
    };
    socklen_t size = sizeof request;
    receiver->side->counters.syscalls++;
    if (getsockopt(receiver->side->fd, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &request, &size) != 0)
        return errno == EIO ? 1 : stream_call_failed(-errno); /* EIO: the end of the stream */
    if (request.err != 0)
        return stream_call_failed(request.err);
    if (request.length > 0) {
        stream_received(receiver->side, part, request.length);
        stream_settled(receiver->side, request.length, 0);
        receiver->used += request.length;
    }
    if (request.copy_length > 0)
        received_copy(receiver, (size_t)request.copy_length);
    if (request.recv_skip_hint > 0)
        return receive_unmappable(receiver, request.recv_skip_hint);
    return request.length > 0 || request.copy_length > 0 ? 0 : wait_for_more(receiver);
}

int
receive_mapped_run(struct stream_side *side)
{
    struct receiver receiver = {.side = side, .copy = stream_memory(COPY_BYTES)};
    if (receiver.copy == NULL)
        return -ENOMEM;
    receiver.window = window_make();
    if (receiver.window == NULL)
        return -errno;
    int error = 0;
    stream_ready(side);
    while (error == 0 && stream_goes_on(side))
        error = receive(&receiver);
    return error > 0 ? 0 : error;
}
