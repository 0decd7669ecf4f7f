/*
 * Receiving on berth's loop, as a user would: a data callback that looks at what it is lent. The
 * rest is reading counters for the measurer.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>

#include <berth.h>
#include <berth/loop.h>

#include "stream.h"

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct stream_side *side = berth_conn_context(conn);
    (void)bytes;
    for (unsigned i = 0; i < n; i++)
        stream_received(side, spans[i].data, spans[i].length);
}

static const struct berth_handlers handlers = {.data = on_data};

static void
counters_fill(struct berth_loop *loop, struct server_counters *counters)
{
    struct berth_loop_stats stats;
    struct berth_copies copies;
    berth_loop_stats_get(loop, &stats);
    berth_loop_copies_get(loop, &copies);
    counters->syscalls = stats.syscalls;
    counters->turns = stats.turns;
    counters->enobufs = stats.enobufs;
    counters->settled_bytes = copies.received;
    counters->copied_bytes =
        (uint64_t)(berth_copy_factor(&copies, BERTH_COPY_RECEIVE) * (double)copies.received + 0.5);
}

int
receive_berth_run(struct stream_side *side)
{
    struct berth_loop *loop = NULL;
    struct berth_loop_options options;
    berth_loop_options_init(&options);
    options.engine = side->path->engine;
    int error = berth_loop_create(&loop, &options);
    if (error == 0)
        error = berth_adopt(loop, side->fd, &handlers, side, NULL);
    if (error == 0)
        stream_ready(side);
    while (error >= 0 && server_running(side->control) && berth_loop_conns(loop) > 0) {
        if (server_asked(side->control)) {
            counters_fill(loop, &side->counters);
            server_answer(side->control, &side->counters);
        }
        error = berth_loop_turn(loop, SERVER_WAIT_MS);
    }
    berth_loop_destroy(loop);
    return error < 0 ? error : 0;
}
