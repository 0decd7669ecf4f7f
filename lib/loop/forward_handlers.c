/*
 * What is told to connections that take part in forwarding: bytes go on, ends are passed on, and
 * the rest is handed to the handlers that are the connection's own. See forward.c.
 *
 * The invariant: after a user's handler has been called the record is not looked at again, for the
 * handler may have ended the forwarding.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/forward_part.h"

#include <errno.h>

#include "berth/forward.h"
#include "loop/send.h"
#include "loop/splice.h"

/**
 * Shares of a turn that are spliced at once: a byte that nobody copies costs a fraction of one, and
 * a system call the same whatever its length.
 */
#define SPLICE_SHARES ((size_t)16)

static int
forward_open(struct berth_conn *conn, void *ctx)
{
    const struct berth_slot *slot = as_slot(conn);
    const struct berth_handlers *handlers = forward_part(slot_loop(slot), slot)->handlers;
    return handlers->open == NULL ? 0 : handlers->open(conn, ctx);
}

/** Nothing can be sent to `to` any more: whose affair are the bytes of `from`? 1: its user's. */
static int
lose(struct berth_loop *loop, struct berth_slot *from, const struct berth_slot *to)
{
    const uint32_t flags = slot_cold(loop, from)->forward->flags;
    const uint32_t state = to->state;
    const int over = state & (CONN_CLOSE_WANTED | CONN_FAILED) || to->flags & BERTH_SLOT_CLOSING;
    forward_unlink(loop, from);
    if (!over || !(flags & BERTH_FORWARD_CLOSE))
        return 1;
    forward_follow(loop, from, (state & (CONN_FAILED | CONN_RESET)) != 0);
    return 0;
}

static void
forward_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct berth_slot *slot = as_slot(conn);
    struct berth_loop *loop = slot_loop(slot);
    struct forward *forward = slot_cold(loop, slot)->forward;
    const struct berth_handlers *handlers = forward->handlers;
    struct berth_slot *to = forward_other(loop, forward->to);
    if (to != NULL && forward_takes_no_more(to)) {
        if (!lose(loop, slot, to))
            return;
        to = NULL;
    }
    if (to == NULL) {
        if (handlers->data != NULL)
            handlers->data(conn, spans, n, bytes);
        return;
    }
    /* It came although receiving is to stop: the user's credit pays for it all the same. */
    if (forward->held && forward->credit != UINT64_MAX)
        forward->credit -= bytes < forward->credit ? bytes : forward->credit;
    if (to->buffer == 0)
        forward->pieces = 0;
    for (unsigned i = 0; i < n; i++) {
        const int error = send_forwarded(loop, to, &spans[i]);
        if (error) { /* a stream with a hole is worse than none */
            slot->state |= CONN_RESET;
            conn_failed(loop, slot, error);
            return;
        }
    }
    forward_look_at_queue(loop, slot, to, n);
}

/** A pipe that stands alone in the queue goes on at once, and is free for the next connection. */
static void
send_pipe(struct berth_loop *loop, struct berth_slot *to)
{
    const uint32_t not_now = CONN_SENDING | CONN_CONNECTING | CONN_FAILED;
    if (!(to->state & not_now) && queue_head(loop, to)->next == 0)
        loop->engine->send(loop, to);
}

/** The socket of one that splices has something. */
static size_t
forward_pull(struct berth_loop *loop, struct berth_slot *from, int fd, size_t most, int *emptied)
{
    struct forward *forward = slot_cold(loop, from)->forward;
    struct berth_slot *to = forward_other(loop, forward->to);
    size_t moved = 0;
    (void)emptied;
    if (forward_takes_no_more(to)) {
        (void)lose(loop, from, to);
        return 0;
    }
    if (!(from->state & CONN_CREDIT) && most < SPLICE_SHARES * loop->options.fairness_bytes)
        most = SPLICE_SHARES * loop->options.fairness_bytes;
    switch (splice_receive(loop, from, fd, to, most, &moved)) {
    case SPLICED_SOME:
        send_pipe(loop, to);
        forward_look_at_queue(loop, from, to, 0);
        break;
    case SPLICED_FULL:
        forward_mark_high(loop, to);
        forward_hold(loop, from);
        forward->full_bytes = queue_bytes(loop, to);
        break;
    case SPLICED_NEVER:
        forward_splice_stop(loop, from);
        break;
    case SPLICED_NONE:
        break;
    }
    return moved;
}

const struct puller forward_puller = {.pull = forward_pull};

static void
forward_drained_told(struct berth_conn *conn)
{
    const struct berth_slot *slot = as_slot(conn);
    const struct berth_handlers *handlers = forward_part(slot_loop(slot), slot)->handlers;
    if (handlers->drained != NULL)
        handlers->drained(conn);
}

static void
forward_eof(struct berth_conn *conn)
{
    struct berth_slot *slot = as_slot(conn);
    const struct berth_loop *loop = slot_loop(slot);
    const struct forward *forward = forward_part(loop, slot);
    const struct berth_handlers *handlers = forward->handlers;
    struct berth_slot *to = forward_other(loop, forward->to);
    if (to != NULL)
        (void)berth_conn_shutdown(as_conn(to));
    if (handlers->eof != NULL)
        handlers->eof(conn);
    else if (forward->from == BERTH_TOKEN_NONE)
        slot->state |= CONN_CLOSE_WANTED;
}

static void
forward_timeout(struct berth_conn *conn, enum berth_timeout kind)
{
    struct berth_slot *slot = as_slot(conn);
    struct berth_loop *loop = slot_loop(slot);
    const struct berth_handlers *handlers = forward_part(loop, slot)->handlers;
    if (handlers->timeout != NULL) {
        handlers->timeout(conn, kind);
    } else {
        slot->state |= CONN_RESET;
        conn_failed(loop, slot, -ETIMEDOUT);
    }
}

static void
forward_close(struct berth_conn *conn, int reason)
{
    struct berth_slot *slot = as_slot(conn);
    struct berth_loop *loop = slot_loop(slot);
    const struct berth_handlers *handlers = forward_part(loop, slot)->handlers;
    forward_over(loop, slot, reason != 0);
    if (handlers->close != NULL)
        handlers->close(conn, reason);
}

const struct berth_handlers forward_handlers = {.open = forward_open,
                                                .data = forward_data,
                                                .drained = forward_drained_told,
                                                .eof = forward_eof,
                                                .timeout = forward_timeout,
                                                .close = forward_close};
