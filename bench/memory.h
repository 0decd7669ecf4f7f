/*
 * The two halves of case `memory`: how long a load takes, and how many bytes a second go through.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_MEMORY_H
#define BENCH_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

struct bench;

/** Whether `bytes` may be taken while others need theirs; the report says so if not. */
bool memory_fits(struct bench *bench, uint64_t bytes, const char *what);

/** Adds the table `memory-bandwidth`, with buffers of up to `bytes_max` (a multiple of 64). */
void memory_bandwidth(struct bench *bench, uint64_t bytes_max);

/** The name of variant number `at` of memory_bandwidth; NULL past the last. */
const char *memory_bandwidth_name(unsigned at);

#endif
