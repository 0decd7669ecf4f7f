/*
 * The calls that receive by mapping: a puller (pull.h). Pages go into windows (window.h).
 *
 * One call of the kernel maps what lies in whole pages. What it says has to be received otherwise
 * is read before the next call, and no byte more, so that pages stay whole. It would copy up to a
 * page itself, and does if none came lately: who sends little is served by one call.
 * With pages about it is not asked to, for behind what it was asked to map it copies pages, too.
 *
 * The invariants: spans are in the order of the stream; a part of a window is held before anything
 * is mapped there.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_SOCKET
#include "loop/mapped_parts.h"

#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>

#include "os/sys.h"

/** After so many bytes it is seen whether mapping pays: half of them must have been mapped. */
#define TRIAL_BYTES ((size_t)1 << 20)

/** "The part of the window is not mapped": the kernel need not unmap it first. */
#define BERTH_TCP_ZEROCOPY_CLEAN 1u

#define BERTH_TCP_ZEROCOPY_RECEIVE 35

/** The kernel's struct tcp_zerocopy_receive, of which the C library has only the first half. */
struct berth_tcp_zerocopy {
    uint64_t address;
    uint32_t length;         /**< in: of the part of the window; out: mapped */
    uint32_t recv_skip_hint; /**< out: to be received otherwise before more can be mapped */
    uint32_t inq;            /**< out: bytes left in the socket; 1 also for an end */
    int32_t err;             /**< out: the socket's error, which it has no longer */
    uint64_t copy_address;
    int32_t copy_length; /**< in: room; out: copied there, behind what was mapped */
    uint32_t flags;
    uint64_t control;
    uint64_t control_length;
    uint32_t control_flags;
    uint32_t reserved;
};

/** Counts, and ends the trial if it is time: 1 if mapping has not paid. */
static int
judge(struct mapped *mapped, size_t bytes, size_t by_mapping)
{
    mapped->trial_bytes += bytes;
    mapped->trial_mapped += by_mapping;
    if (mapped->trial_bytes < TRIAL_BYTES)
        return 0;
    const int failed = mapped->trial_mapped < mapped->trial_bytes / 2;
    mapped->trial_bytes = mapped->trial_mapped = 0;
    return failed && !mapped->always;
}

/** Nothing is left to read. */
static void
nothing_left(struct berth_loop *loop, struct berth_slot *slot, const struct mapped *mapped,
             intptr_t result)
{
    if (mapped->error)
        conn_failed(loop, slot, mapped->error);
    else if (result == 0)
        conn_eof(loop, slot);
    else if (result != -EAGAIN)
        conn_failed(loop, slot, (int)result);
}

/** A buffer for so many bytes, or for less: 0, or -ENOBUFS. */
static int
buffer_for(struct berth_loop *loop, size_t bytes, enum berth_class *size_class,
           struct receive_buffer *taken)
{
    for (int class = BERTH_CLASS_64K; class > BERTH_CLASS_4K; class --) {
        *size_class = (enum berth_class) class;
        if (bytes > berth_class_bytes((enum berth_class)(class - 1)) &&
            berth_pool_post(loop->pool, *size_class, BERTH_FOR_NEW, &taken->buffer, &taken->data) ==
                0)
            return 0;
    }
    *size_class = BERTH_CLASS_4K;
    return berth_pool_post(loop->pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE, &taken->buffer,
                           &taken->data);
}

/** Reads up to so many bytes in the ordinary way, and delivers them. */
static size_t
copy_some(struct berth_loop *loop, struct berth_slot *slot, int fd, size_t most)
{
    struct mapped *mapped = mapped_of(loop, slot);
    enum berth_class size_class;
    struct receive_buffer taken;
    struct berth_span span;
    if (buffer_for(loop, most, &size_class, &taken) != 0) {
        receive_starve(loop, slot);
        return 0;
    }
    (void)berth_pool_expose(loop->pool, taken.buffer);
    if (most > berth_class_bytes(size_class))
        most = berth_class_bytes(size_class);
    intptr_t got;
    do
        got = sys_recv(fd, taken.data, most, MSG_DONTWAIT);
    while (got == -EINTR);
    loop->stats.syscalls++;
    if (got <= 0 || berth_pool_lend(loop->pool, taken.buffer, (uint32_t)got, &span) != 0) {
        (void)berth_pool_unpost(loop->pool, taken.buffer);
        nothing_left(loop, slot, mapped, got);
        return 0;
    }
    mapped->skip -= (size_t)got < mapped->skip ? (size_t)got : mapped->skip;
    const int failed = judge(mapped, (size_t)got, 0);
    conn_deliver_pulled(loop, slot, &span, 1, (size_t)got, (size_t)got);
    if (berth_pool_settle(loop->pool, taken.buffer) == 1)
        (void)berth_pool_unpost(loop->pool, taken.buffer);
    if (failed)
        mapped_give_up(loop, slot);
    return (size_t)got;
}

/** What one call of the kernel is made with. */
struct request {
    struct berth_tcp_zerocopy call;
    struct berth_span part;       /**< of a window */
    struct receive_buffer copied; /**< data is NULL: no room for bytes behind the pages */
};

/** Takes what the call needs, for `most` bytes in all: 0, or -ENOBUFS. */
static int
prepare(struct berth_loop *loop, const struct berth_slot *slot, size_t most, int in_pages,
        struct request *request)
{
    struct windows *windows = loop->mapper->windows;
    unsigned char *part;
    size_t room;
    memset(request, 0, sizeof(*request));
    if (windows_room(windows, &part, &room) != 0)
        return -ENOBUFS;
    if (room > whole_pages(most))
        room = whole_pages(most);
    /* Some bytes more than the share matter to nobody; credit is kept to the byte. */
    size_t copy_most = slot->state & CONN_CREDIT ? most - room : RECEIVE_BYTES;
    if (in_pages)
        copy_most = 0;
    if (room == 0 || berth_pool_lend_wrapped(loop->pool, part, room, windows_release, windows,
                                             &request->part) != 0)
        return -ENOBUFS;
    windows_hold(windows);
    request->call.address = (uint64_t)(uintptr_t)part;
    request->call.length = (uint32_t)room;
    request->call.flags = BERTH_TCP_ZEROCOPY_CLEAN;
    if (copy_most == 0 || berth_pool_post(loop->pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE,
                                          &request->copied.buffer, &request->copied.data) != 0) {
        request->copied.data = NULL;
        return 0;
    }
    (void)berth_pool_expose(loop->pool, request->copied.buffer);
    request->call.copy_address = (uint64_t)(uintptr_t)request->copied.data;
    request->call.copy_length =
        (int32_t)(copy_most < RECEIVE_BYTES ? copy_most : (size_t)RECEIVE_BYTES);
    return 0;
}

/** Gives back what nobody has kept. */
static void
settle(struct berth_loop *loop, const struct request *request, int lent)
{
    (void)berth_pool_settle(loop->pool, request->part.buffer);
    if (request->copied.data == NULL)
        return;
    if (!lent || berth_pool_settle(loop->pool, request->copied.buffer) == 1)
        (void)berth_pool_unpost(loop->pool, request->copied.buffer);
}

/** Delivers what the call has brought. */
static size_t
deliver(struct berth_loop *loop, struct berth_slot *slot, struct mapped *mapped,
        struct request *request)
{
    struct berth_span spans[2];
    unsigned n = 0;
    const size_t pages = request->call.length;
    size_t copied = request->call.copy_length > 0 ? (size_t)request->call.copy_length : 0;
    if (pages > 0) {
        windows_filled(loop->mapper->windows, pages);
        loop->stats.mapped++;
        CONN_COPIES(loop, slot, received_mapped, pages);
        /* So that a span which somebody has made longer is refused: there is no page behind. */
        const int error = berth_pool_lend_shorten(loop->pool, &request->part, (uint32_t)pages);
        BERTH_ASSERT(error == 0);
        (void)error;
        spans[n++] = request->part;
    }
    if (copied > 0 &&
        berth_pool_lend(loop->pool, request->copied.buffer, (uint32_t)copied, &spans[n]) == 0)
        n++;
    else
        copied = 0;
    const int failed = judge(mapped, pages + copied, pages);
    conn_deliver_pulled(loop, slot, spans, n, pages + copied, copied);
    settle(loop, request, copied > 0);
    if (failed)
        mapped_give_up(loop, slot);
    return pages + copied;
}

/** The kernel maps nothing of this connection. */
static void
refused(struct berth_loop *loop, struct berth_slot *slot, int error)
{
    loop->mapper->refusal = error; /* for whoever asks */
    mapped_give_up(loop, slot);
}

/** Older kernels (before 5.11, before 4.20) know less of the structure, and say how much. */
static void
trust(struct berth_tcp_zerocopy *call, socklen_t size)
{
    if (size < offsetof(struct berth_tcp_zerocopy, flags))
        call->copy_length = 0;
    if (size < offsetof(struct berth_tcp_zerocopy, copy_address)) {
        call->err = 0;
        call->inq = UINT32_MAX; /* nobody knows */
    }
}

size_t
mapped_pull(struct berth_loop *loop, struct berth_slot *slot, int fd, size_t most, int *emptied)
{
    struct mapped *mapped = mapped_of(loop, slot);
    struct request request;
    socklen_t size = sizeof(request.call);
    if (mapped->skip > 0)
        return copy_some(loop, slot, fd, mapped->skip < most ? mapped->skip : most);
    /* The share is not worth a broken page. */
    if (!(slot->state & CONN_CREDIT))
        most = whole_pages(most + berth_memory_page_bytes() - 1);
    if (prepare(loop, slot, most, mapped->in_pages, &request) != 0)
        return copy_some(loop, slot, fd, most);
    loop->stats.syscalls++;
    const int error =
        (int)sys_getsockopt(fd, IPPROTO_TCP, BERTH_TCP_ZEROCOPY_RECEIVE, &request.call, &size);
    if (error) {
        settle(loop, &request, 0);
        if (error == -EIO) /* the end of the stream */
            nothing_left(loop, slot, mapped, 0);
        else if (error != -EINTR && error != -EAGAIN)
            refused(loop, slot, error);
        return 0;
    }
    trust(&request.call, size);
    if (request.call.err != 0)
        mapped->error = request.call.err;
    mapped->skip = request.call.recv_skip_hint;
    if (request.call.length > 0)
        mapped->in_pages = 1;
    else if (request.call.inq <= request.call.recv_skip_hint)
        mapped->in_pages = 0; /* all that was there is less than a page, or in none */
    *emptied = request.call.inq == 0 && mapped->error == 0;
    if (request.call.length > 0 || request.call.copy_length > 0)
        return deliver(loop, slot, mapped, &request);
    settle(loop, &request, 0);
    *emptied = 0;
    /* Nothing there? Whoever reads is told why. */
    return copy_some(loop, slot, fd, mapped->skip > 0 && mapped->skip < most ? mapped->skip : most);
}
