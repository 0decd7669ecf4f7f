/*
 * Passing on what one connection receives to another on berth's loop: by berth_forward, or by hand,
 * when the spans that the callback is lent go into the other's send queue as they are, and the
 * sender gets no more credit while that queue is long. Copied in and out; or through a pipe; or
 * mapped in and read in place.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>

#include <berth.h>
#include <berth/forward.h>
#include <berth/loop.h>

#include "stream_berth.h"

struct relay {
    struct berth_conn *from, *onward; /**< NULL: not open yet, or gone */
    size_t high_bytes;                /**< of the send queue: `drained` comes after it */
    bool forwards;                    /**< berth_forward does it */
    unsigned flags;                   /**< of it */
    int error;
};

/** Has berth do it, as soon as there are both. */
static void
forward(struct relay *relay)
{
    if (relay->forwards && relay->from != NULL && relay->onward != NULL)
        relay->error = berth_forward(relay->from, relay->onward, relay->flags);
}

static void
pass_on(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct relay *relay = berth_conn_context(conn);
    (void)bytes;
    for (unsigned i = 0; i < n && relay->onward != NULL && relay->error == 0; i++)
        relay->error = berth_send_span(relay->onward, &spans[i]);
    if (relay->onward != NULL && berth_conn_queued(relay->onward) > relay->high_bytes)
        (void)berth_conn_credit(conn, 0);
}

static int
from_open(struct berth_conn *conn, void *context)
{
    struct relay *relay = context;
    relay->from = conn;
    forward(relay);
    /* Nothing is received that could not be passed on. */
    return relay->onward != NULL ? 0 : berth_conn_credit(conn, 0);
}

static void
from_close(struct berth_conn *conn, int reason)
{
    struct relay *relay = berth_conn_context(conn);
    (void)reason;
    relay->from = NULL;
}

static void
onward_drained(struct berth_conn *conn)
{
    struct relay *relay = berth_conn_context(conn);
    if (relay->from != NULL && !relay->forwards)
        (void)berth_conn_credit(relay->from, BERTH_CREDIT_UNLIMITED);
}

static int
onward_open(struct berth_conn *conn, void *context)
{
    struct relay *relay = context;
    relay->onward = conn;
    forward(relay);
    if (relay->from != NULL)
        (void)berth_conn_credit(relay->from, BERTH_CREDIT_UNLIMITED);
    return relay->error;
}

static void
onward_close(struct berth_conn *conn, int reason)
{
    struct relay *relay = berth_conn_context(conn);
    (void)reason;
    relay->onward = NULL;
    if (relay->from != NULL)
        (void)berth_conn_abort(relay->from);
}

static const struct berth_handlers from_handlers = {
    .open = from_open, .data = pass_on, .close = from_close};
static const struct berth_handlers onward_handlers = {
    .open = onward_open, .drained = onward_drained, .close = onward_close};

int
relay_berth_run(struct stream_side *side)
{
    struct relay relay = {.forwards = side->path->mode != STREAM_RELAY_SPANS};
    const bool pages = side->path->mode == STREAM_RELAY_PAGES;
    if (side->path->mode == STREAM_RELAY_SPLICE)
        relay.flags = BERTH_FORWARD_SPLICE;
    struct berth_loop *loop = NULL;
    struct berth_loop_options options;
    berth_loop_options_init(&options);
    options.engine = side->path->engine;
    options.map_receive = pages;
    if (pages)
        options.features = "+zerocopy"; /* though loopback copies after all */
    else
        options.zerocopy_bytes = BERTH_ZEROCOPY_NEVER;
    relay.high_bytes = options.send_high_bytes;
    int error = berth_loop_create(&loop, &options);
    if (error == 0)
        error = berth_adopt(loop, side->fd_onward, &onward_handlers, &relay, NULL);
    if (error == 0)
        error = berth_adopt(loop, side->fd, &from_handlers, &relay, NULL);
    if (error == 0)
        error = stream_berth_turn(side, loop);
    berth_loop_destroy(loop);
    return error != 0 ? error : relay.error;
}
