/*
 * Memory to measure on: mapped for itself, on small pages or on huge ones, and the truth about
 * which of them the kernel gave.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_MEMORY_REGION_H
#define BENCH_MEMORY_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct memory_region {
    unsigned char *data; /**< aligned to 2 MiB; NULL: none */
    size_t bytes;        /**< whole multiples of 2 MiB */
};

/** Maps at least `bytes`, nothing of it touched, and advises for or against huge pages. 0, -errno.
 */
int memory_region_map(struct memory_region *region, size_t bytes, bool huge);

void memory_region_unmap(struct memory_region *region);

/** How much of the region lies on huge pages now; 0 also when the kernel does not tell. */
uint64_t memory_region_huge_bytes(const struct memory_region *region);

#endif
