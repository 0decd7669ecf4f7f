/*
 * What a loop tells about itself: which engine and why, its parts, its counters. Nothing here
 * changes anything.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/cross.h"
#include "loop/mapped.h"
#include "loop/udp_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *
berth_loop_engine(const struct berth_loop *loop)
{
    return loop == NULL ? "" : loop->engine->name;
}

int
berth_loop_explain(const struct berth_loop *loop, char *text, size_t size)
{
    if (loop == NULL || (text == NULL && size > 0))
        return -EINVAL;
    int used = snprintf(text, size, "engine: %s\n%s", loop->engine->name, loop->refusals);
    size_t at = (size_t)used < size ? (size_t)used : size;
    used += loop->engine->explain(loop, text == NULL ? NULL : text + at, size - at);
    at = (size_t)used < size ? (size_t)used : size;
    used += zerocopy_explain(loop, text == NULL ? NULL : text + at, size - at);
    at = (size_t)used < size ? (size_t)used : size;
    used += udp_explain(loop, text == NULL ? NULL : text + at, size - at);
    at = (size_t)used < size ? (size_t)used : size;
    used += mapped_explain(loop, text == NULL ? NULL : text + at, size - at);
    at = (size_t)used < size ? (size_t)used : size;
    if (*loop->zcrx.interface != '\0' && strcmp(loop->engine->name, "uring") != 0)
        used += snprintf(text == NULL ? NULL : text + at, size - at,
                         "zero-copy receive: not used: only io_uring has it\n");
    if (!loop->options.direct_descriptors || loop->direct)
        return used;
    at = (size_t)used < size ? (size_t)used : size;
    return used + snprintf(text == NULL ? NULL : text + at, size - at,
                           "not direct descriptors: %s\n",
                           *loop->direct_refusal ? loop->direct_refusal : "only io_uring has them");
}

struct berth_table *
berth_loop_table(struct berth_loop *loop)
{
    return loop == NULL ? NULL : loop->table;
}

struct berth_pool *
berth_loop_pool(struct berth_loop *loop)
{
    return loop == NULL ? NULL : loop->pool;
}

uint32_t
berth_loop_conns(const struct berth_loop *loop)
{
    return loop == NULL ? 0 : loop->conns;
}

void
berth_loop_stats_get(const struct berth_loop *loop, struct berth_loop_stats *stats)
{
    if (loop == NULL || stats == NULL)
        return;
    *stats = loop->stats;
    stats->wakes = __atomic_load_n(&loop->mailbox.wakes, __ATOMIC_RELAXED);
    stats->ghosts = loop->table->stats.ghosts;
    stats->rebuilds = loop->table->stats.rebuilds;
}

void
berth_loop_copies_get(const struct berth_loop *loop, struct berth_copies *copies)
{
    if (loop == NULL || copies == NULL)
        return;
    *copies = loop->copies;
    berth_copies_add(copies, berth_pool_copies(loop->pool));
}
