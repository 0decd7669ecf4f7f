/*
 * Counters: what happened, for a person who asks why. Plain structs of 64-bit counters that only
 * grow (except where a comment says "now"), owned by one thread and copied on request. Subtract two
 * snapshots with berth_stats_delta.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_STATS_H
#define BERTH_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "berth/attr.h"

BERTH_BEGIN_DECLS

/** Of one table. Since 0.1. */
struct berth_table_stats {
    uint64_t claimed;      /**< slots claimed */
    uint64_t stale;        /**< lookups refused: the incarnation is gone */
    uint64_t malformed;    /**< lookups refused: zero, out of range, or another thread's slot */
    uint64_t ghosts;       /**< stale events whose registration was removed from the event queue */
    uint64_t rebuilds;     /**< event queues rebuilt because a ghost could not be removed */
    uint64_t refused_full; /**< claims refused: index at or past slots_max, or all slots live */
    uint64_t live;         /**< slots live now */
    uint64_t live_max;     /**< the most that were live at once */
};

/** Of one pool; `now` figures are in buffers. Since 0.1. */
struct berth_pool_stats {
    uint64_t gets;            /**< buffers handed out */
    uint64_t refused;         /**< requests refused for want of a buffer */
    uint64_t illegal;         /**< illegal steps refused: double release, foreign buffer, ... */
    uint64_t remote_releases; /**< releases that came from another thread */
    uint64_t waits;           /**< waiters queued */
    uint64_t slabs;           /**< slabs held now */
    uint64_t slab_bytes;      /**< bytes of those slabs now */
    uint64_t outstanding;     /**< buffers not free now */
    uint64_t outstanding_max; /**< the most that were not free at once */
};

/** Of one loop. Since 0.1. */
struct berth_loop_stats {
    uint64_t turns;          /**< times round the loop */
    uint64_t syscalls;       /**< system calls made, liburing's included */
    uint64_t accepted;       /**< connections accepted */
    uint64_t connected;      /**< connections that berth_connect completed */
    uint64_t adopted;        /**< descriptors adopted */
    uint64_t closed;         /**< connections closed, for whatever reason */
    uint64_t receives;       /**< data callbacks */
    uint64_t sends;          /**< send operations that moved bytes */
    uint64_t received_bytes; /**< payload bytes delivered to callbacks */
    uint64_t sent_bytes;     /**< payload bytes the kernel accepted */
    uint64_t sends_short;    /**< sends that moved less than was asked, and were resumed */
    uint64_t rearms;         /**< receives posted again after a multishot one ended */
    uint64_t enobufs;        /**< receives that found no buffer */
    uint64_t starved;        /**< times a connection had to queue for a buffer */
    uint64_t fairness_stops; /**< times a connection reached its share of a turn */
    uint64_t refused_limit;  /**< newcomers refused: out of descriptors, or the table is full */
    uint64_t refused_open;   /**< newcomers refused by the open callback */
    uint64_t accept_errors;  /**< accepts that failed for other reasons */
    uint64_t send_refused;   /**< sends refused: send_max_bytes, or no buffer */
    uint64_t pauses;     /**< times receiving stopped because the send queue was over its mark */
    uint64_t stale;      /**< completions and events whose connection was gone */
    uint64_t overflows;  /**< completion queue overflows */
    uint64_t zombies;    /**< connections set aside because the kernel did not let go */
    uint64_t lanes;      /**< times a bulk connection got a ring of buffers to itself (uring) */
    uint64_t demotions;  /**< receives of idle connections exchanged for a poll request */
    uint64_t promotions; /**< and back, because there was something to receive */
    uint64_t mapped;     /**< receives that the kernel mapped pages for */
    uint64_t unmaps;     /**< calls that unmapped pages which nobody held any more */
    uint64_t posts;      /**< calls that were posted and have been run */
    uint64_t wakes;    /**< wake-ups that posting cost: one write(2) each, by the posting thread */
    uint64_t detached; /**< connections that left without being closed, for another loop or none */
    uint64_t datagrams_received;  /**< datagrams delivered, those in merged ones each counted */
    uint64_t datagrams_truncated; /**< ... of which the end was lost: longer than the buffer */
    uint64_t datagrams_sent;      /**< datagrams that the kernel accepted */
    uint64_t datagrams_segmented; /**< ... as segments of a bigger send, cut by the kernel */
    uint64_t datagrams_refused; /**< sends of datagrams refused: the queue was full, or no buffer */
    uint64_t datagrams_lost;    /**< datagrams that the kernel refused to send */
    uint64_t zerocopy_sends;    /**< sends that the kernel was to read in place */
    uint64_t zerocopy_notifications; /**< of those, done with: it reads their memory no more */
    uint64_t zerocopy_refused; /**< sends copied for want of room: a budget, or the kernel's */
    uint64_t lookups;          /**< names that were looked up, and answered */
    uint64_t ghosts;           /**< as in struct berth_table_stats, of the loop's own table */
    uint64_t rebuilds;         /**< likewise */
};

/** Of one connection, with the option conn_stats of its loop. Since 0.1. */
struct berth_conn_stats {
    uint64_t opened_ms;      /**< when it opened: milliseconds of CLOCK_MONOTONIC */
    uint64_t received_bytes; /**< payload bytes delivered to callbacks */
    uint64_t sent_bytes;     /**< payload bytes the kernel accepted */
    uint64_t receives;       /**< data callbacks */
    uint64_t sends;          /**< send operations that moved bytes */
    uint64_t rearms;         /**< receives posted again */
    uint64_t starved;        /**< times it had to queue for a buffer */
    uint64_t pauses;         /**< times receiving stopped because its queue was over the mark */
};

/**
 * `out = after - before`, counter by counter, for two snapshots of one of these structs. `bytes` is
 * its size, a multiple of 8; `out` may be `after`. Read "now" and "at once" figures from `after`
 * itself: their difference means little. Any thread, on its own snapshots. Since 0.1.
 */
BERTH_API void berth_stats_delta(void *out, const void *before, const void *after, size_t bytes);

BERTH_END_DECLS

#endif
