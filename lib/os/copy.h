/*
 * The one way in which this library copies payload: a memcpy that is entered in the ledger.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_OS_COPY_H
#define BERTH_OS_COPY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/** Copies, and adds `size` to one of the counters of a struct berth_copies. */
static inline void
berth_copy(uint64_t *ledger, void *to, const void *from, size_t size)
{
    *ledger += size;
    memcpy(to, from, size);
}

#endif
