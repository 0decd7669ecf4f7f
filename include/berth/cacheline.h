/*
 * The cache-line sizes that berth's layouts are built for: constants of the ABI, chosen here,
 * never taken from the build machine, -march, or sysconf(3) (which answers 0 on some arm64).
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_CACHELINE_H
#define BERTH_CACHELINE_H

/** Bytes in a cache line. A table slot is one of these (or two, or four, if asked). */
#define BERTH_CACHE_LINE 64

/**
 * Bytes that one thread must own alone so that no other thread's writes disturb it: a pair of
 * lines, because adjacent-line prefetchers on x86-64 fetch lines in pairs.
 */
#define BERTH_CACHE_LINE_PAIR 128

#endif
