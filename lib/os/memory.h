/*
 * Reserving address space, committing it, advising the kernel about it, and giving it back: the
 * only place where the library asks for memory. One file per kind of operating system implements
 * this: memory_posix.c.
 *
 * A reservation may be read from the first moment (as zeroes) and is charged to nobody; writing
 * needs a commit. That is why a table can look up any slot without asking whether it was ever used.
 * Every call returns 0 or -errno.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_OS_MEMORY_H
#define BERTH_OS_MEMORY_H

#include <stddef.h>

#include "berth/attr.h"

/** Bytes in a huge page on the systems we know, and the alignment of every reservation that big. */
#define BERTH_HUGE_PAGE_BYTES ((size_t)2 << 20)

/**
 * Reserves `size` bytes (rounded up to pages) of readable, zero address space, aligned to
 * `alignment`, a power of two of at least a page. `name` labels it in /proc/PID/maps: letters,
 * digits, '-'.
 */
int berth_memory_reserve(void **memory, size_t size, size_t alignment, const char *name);

/** Makes whole pages of a reservation writable. Safe to repeat. -ENOMEM when over the limits. */
int berth_memory_commit(void *memory, size_t size);

/** Reserves and commits at once: writable, zero, aligned to a page. On an error there is nothing.
 */
int berth_memory_take(void **memory, size_t size, const char *name);

/** What berth_memory_advise can ask for. A refusal is not an error: these are wishes. */
enum berth_memory_advice {
    BERTH_MEMORY_HUGE,    /**< back it with huge pages */
    BERTH_MEMORY_SMALL,   /**< do not */
    BERTH_MEMORY_NO_FORK, /**< a child of fork(2) must not inherit it */
    BERTH_MEMORY_DISCARD  /**< contents are not needed any more: give the pages back */
};
void berth_memory_advise(void *memory, size_t size, enum berth_memory_advice advice);

/** Gives a reservation back, committed or not. */
void berth_memory_release(void *memory, size_t size);

/** Bytes in a page. */
size_t berth_memory_page_bytes(void);

#endif
