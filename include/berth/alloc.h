/*
 * Where slabs of memory come from: an interface of three functions that a program may replace.
 * The default maps anonymous memory; libberth-jemalloc offers a dedicated jemalloc arena.
 * Only big, rare requests go through here (a slab is 2 MiB): never anything per event.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_ALLOC_H
#define BERTH_ALLOC_H

#include <stddef.h>

#include "berth/attr.h"

BERTH_BEGIN_DECLS

/**
 * A source of slabs. Fill in every member except `pin`, which may be NULL.
 * The functions are called by the thread that owns the pool, one call at a time.
 * Since 0.1.
 */
struct berth_alloc {
    /**
     * Returns `size` bytes of zeroed memory aligned to `alignment` (both are powers of two and at
     * least one page), or NULL when there is none. May be slow.
     */
    void *(*allocate)(void *context, size_t size, size_t alignment);

    /** Takes back what `allocate` returned, with the same size. Never called while pinned. */
    void (*release)(void *context, void *memory, size_t size);

    /**
     * `pinned` 1: the kernel has been given this memory (registered buffers, a buffer ring), so
     * its pages must not be purged, decommitted or unmapped: MADV_DONTNEED on registered memory
     * loses received data without an error. 0: it has been taken back from the kernel.
     * Returns 0, or -errno to refuse (the pool then refuses the registration).
     */
    int (*pin)(void *context, void *memory, size_t size, int pinned);

    /** Passed to each function as it is. Must outlive the pool. */
    void *context;

    /** A short name for diagnostics, such as "mmap". Static storage. */
    const char *name;
};

/**
 * The default source: anonymous private mappings, aligned, on huge pages where the system grants
 * them, not inherited by fork(2) (MADV_DONTFORK: a child must never share memory that the kernel
 * writes into for its parent). Static storage; any thread. Since 0.1.
 */
BERTH_API const struct berth_alloc *berth_alloc_default(void);

BERTH_END_DECLS

#endif
