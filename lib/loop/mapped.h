/*
 * Receiving by mapping the pages that have arrived (TCP_ZEROCOPY_RECEIVE) in place of copying them:
 * for connections that receive in bulk, from peers whose segments the kernel keeps in whole pages.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_MAPPED_H
#define BERTH_LOOP_MAPPED_H

#include "loop/loop_internal.h"

/** What berth_conn_map said of a connection: cold->map_wish. */
enum map_wish { MAP_AUTO, MAP_ALWAYS, MAP_NEVER };

/**
 * For engines: the connection has used up its share of a turn again, `bytes` of them. It is mapped
 * from now on if it has done so for long enough, and if that seems to pay: then 1.
 */
int mapped_consider_now(struct berth_loop *loop, struct berth_slot *slot, size_t bytes);

static inline int
mapped_consider(struct berth_loop *loop, struct berth_slot *slot, size_t bytes)
{
    return BERTH_UNLIKELY(loop->options.map_receive) && mapped_consider_now(loop, slot, bytes);
}

/** The turn is over: unmaps what nobody holds, if it is much, or nothing more has come. */
void mapped_turn_over(struct berth_loop *loop);

/** How long that may wait until there is another turn, or -1. */
int mapped_tick(const struct berth_loop *loop);

/** The loop's pool is gone. */
void mapped_destroy(struct berth_loop *loop);

/** Appends a line; as snprintf. */
int mapped_explain(const struct berth_loop *loop, char *text, size_t size);

/** Shares used up in a row, with no more turns than this in between, that earn special service. */
#define BULK_SHARES 4
#define BULK_TURNS_BETWEEN 4

/**
 * How often in a row the connection has used up its share, with few turns in between, this time
 * included.
 */
static inline uint32_t
bulk_again(const struct berth_loop *loop, const struct berth_slot *slot)
{
    struct conn_cold *cold = slot_cold(loop, slot);
    const uint64_t turns = loop->stats.turns;
    if (cold->bulk_turn != turns || cold->bulk_score == 0) {
        cold->bulk_score = turns - cold->bulk_turn <= BULK_TURNS_BETWEEN ? cold->bulk_score + 1 : 1;
        cold->bulk_turn = turns;
    }
    return cold->bulk_score;
}

#endif
