/*
 * Receiving on berth's loop, as a user would: a data callback that looks at what it is lent. The
 * rest is reading counters for the measurer.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>

#include <berth.h>
#include <berth/loop.h>

#include "stream_berth.h"

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct stream_side *side = berth_conn_context(conn);
    (void)bytes;
    for (unsigned i = 0; i < n; i++)
        stream_received(side, spans[i].data, spans[i].length);
}

static const struct berth_handlers handlers = {.data = on_data};

int
receive_berth_run(struct stream_side *side)
{
    struct berth_loop *loop = NULL;
    struct berth_loop_options options;
    berth_loop_options_init(&options);
    options.engine = side->path->engine;
    options.map_receive = side->path->mode == STREAM_BERTH_MAPS;
    int error = berth_loop_create(&loop, &options);
    if (error == 0)
        error = berth_adopt(loop, side->fd, &handlers, side, NULL);
    if (error == 0)
        error = stream_berth_turn(side, loop);
    berth_loop_destroy(loop);
    return error;
}
