/*
 * Differences between snapshots of counters. The structs hold nothing but 64-bit counters, so one
 * function serves them all.
 *
 * SPDX-License-Identifier: MIT
 */
#include "berth/stats.h"

BERTH_STATIC_ASSERT(sizeof(struct berth_table_stats) % sizeof(uint64_t) == 0 &&
                        sizeof(struct berth_pool_stats) % sizeof(uint64_t) == 0 &&
                        sizeof(struct berth_loop_stats) % sizeof(uint64_t) == 0 &&
                        sizeof(struct berth_conn_stats) % sizeof(uint64_t) == 0,
                    "counters only: berth_stats_delta knows nothing else");

void
berth_stats_delta(void *out, const void *before, const void *after, size_t bytes)
{
    BERTH_ASSERT(out != NULL && before != NULL && after != NULL);
    BERTH_ASSERT(bytes % sizeof(uint64_t) == 0);
    uint64_t *difference = out;
    const uint64_t *old = before;
    const uint64_t *new = after;
    for (size_t i = 0; i < bytes / sizeof(uint64_t); i++)
        difference[i] = new[i] - old[i];
}
