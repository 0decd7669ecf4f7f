/*
 * What both sides of a stream on berth's loop share: turning until the measurer or the peer has had
 * enough, and what the loop says of the bytes it moved.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_STREAM_BERTH_H
#define BENCH_STREAM_BERTH_H

#include <berth/loop.h>

#include "stream.h"

/** Fills in what the loop and its ledger know of the bytes received, or sent. */
static inline void
stream_berth_count(struct berth_loop *loop, enum berth_copy_direction direction,
                   struct server_counters *counters)
{
    struct berth_loop_stats stats;
    struct berth_copies copies;
    berth_loop_stats_get(loop, &stats);
    berth_loop_copies_get(loop, &copies);
    const bool receives = direction == BERTH_COPY_RECEIVE;
    counters->syscalls = stats.syscalls;
    counters->turns = stats.turns;
    counters->enobufs = stats.enobufs;
    counters->settled_bytes = receives ? copies.received : copies.sent;
    counters->copied_bytes = (uint64_t)(berth_copy_factor(&copies, direction, BERTH_COPY_HIGH) *
                                            (double)counters->settled_bytes +
                                        0.5);
    if (!receives)
        counters->received_bytes = stats.sent_bytes; /* of the side that is measured */
}

/** Says that all is set up, and turns. 0, or the loop's -errno. */
static inline int
stream_berth_turn(struct stream_side *side, struct berth_loop *loop,
                  enum berth_copy_direction direction)
{
    int error = 0;
    stream_ready(side);
    while (error >= 0 && server_running(side->control) && berth_loop_conns(loop) > 0) {
        if (server_asked(side->control)) {
            stream_berth_count(loop, direction, &side->counters);
            server_answer(side->control, &side->counters);
        }
        error = berth_loop_turn(loop, SERVER_WAIT_MS);
    }
    return error < 0 ? error : 0;
}

#endif
