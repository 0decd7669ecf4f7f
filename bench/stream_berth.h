/*
 * What the sides of a stream on berth's loop share: turning until the measurer or the peer has had
 * enough, and what the loop says of the bytes it moved.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_STREAM_BERTH_H
#define BENCH_STREAM_BERTH_H

#include <berth/loop.h>

#include "stream.h"

/** Adds what the ledger says of one direction's copies, for the bytes that are counted. */
static inline void
stream_berth_add(const struct berth_copies *copies, enum berth_copy_direction direction,
                 struct server_counters *counters)
{
    const uint64_t moved = counters->settled_bytes;
    const double high = berth_copy_factor(copies, direction, BERTH_COPY_HIGH);
    const double low = berth_copy_factor(copies, direction, BERTH_COPY_LOW);
    counters->copied_bytes += (uint64_t)(high * (double)moved + 0.5);
    counters->copied_least += (uint64_t)(low * (double)moved + 0.5);
}

/** Fills in what the loop and its ledger know of the bytes: of a relay, in both directions. */
static inline void
stream_berth_count(struct berth_loop *loop, enum stream_role role, struct server_counters *counters)
{
    struct berth_loop_stats stats;
    struct berth_copies copies;
    berth_loop_stats_get(loop, &stats);
    berth_loop_copies_get(loop, &copies);
    counters->syscalls = stats.syscalls;
    counters->turns = stats.turns;
    counters->enobufs = stats.enobufs;
    counters->settled_bytes = role == STREAM_RECEIVES ? copies.received : copies.sent;
    counters->copied_bytes = counters->copied_least = 0;
    if (role != STREAM_SENDS)
        stream_berth_add(&copies, BERTH_COPY_RECEIVE, counters);
    if (role != STREAM_RECEIVES)
        stream_berth_add(&copies, BERTH_COPY_SEND, counters);
    if (role != STREAM_RECEIVES)
        counters->received_bytes = stats.sent_bytes; /* of the side that is measured */
}

/** Says that all is set up, and turns. 0, or the loop's -errno. */
static inline int
stream_berth_turn(struct stream_side *side, struct berth_loop *loop)
{
    int error = 0;
    stream_ready(side);
    while (error >= 0 && server_running(side->control) && berth_loop_conns(loop) > 0) {
        if (server_asked(side->control)) {
            stream_berth_count(loop, side->path->role, &side->counters);
            server_answer(side->control, &side->counters);
        }
        error = berth_loop_turn(loop, SERVER_WAIT_MS);
    }
    return error < 0 ? error : 0;
}

#endif
