/*
 * Slabs from jemalloc: a struct berth_alloc over an arena of its own, so that buffers and the rest
 * of the program never share pages, and the arena's figures are the pool's. In libberth-jemalloc,
 * the only library of berth that needs jemalloc; this header does not.
 *
 *     struct berth_alloc *source;
 *     int error = berth_alloc_jemalloc_create(&source);
 *     options.alloc = source;
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_JEMALLOC_H
#define BERTH_JEMALLOC_H

#include <stdint.h>

#include "berth/alloc.h"
#include "berth/attr.h"

BERTH_BEGIN_DECLS

/**
 * Makes a source with a new arena. One source serves the pools of one thread.
 * Returns 0; -EINVAL: NULL; -ENOMEM: no memory, or jemalloc makes no more arenas. Since 0.1.
 */
BERTH_API BERTH_NODISCARD int berth_alloc_jemalloc_create(struct berth_alloc **source);

/**
 * Destroys the source and its arena. Returns 0 (also for NULL); -EBUSY, changing nothing, while a
 * slab is out: destroy the pools first; -EINVAL: not such a source. Since 0.1.
 */
BERTH_API int berth_alloc_jemalloc_destroy(struct berth_alloc *source);

/** What a source says about itself. Since 0.1. */
struct berth_alloc_jemalloc_info {
    unsigned arena;   /**< its number, for mallctl(3): "stats.arenas.<arena>.resident" and others */
    unsigned slabs;   /**< out now */
    unsigned pinned;  /**< of those, pinned now */
    unsigned blocks;  /**< allocations that slabs are carved from, now */
    uint64_t refused; /**< times jemalloc wanted to purge or unmap while a slab was pinned */
};

/** Fills `info`. Returns 0; -EINVAL: NULL, or not such a source. Since 0.1. */
BERTH_API int berth_alloc_jemalloc_info_get(const struct berth_alloc *source,
                                            struct berth_alloc_jemalloc_info *info);

BERTH_END_DECLS

#endif
