/*
 * Where and on what a benchmark ran: everything a reader needs to judge a number, captured before
 * and after, and the reasons not to rely on it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_ENVIRONMENT_H
#define BENCH_ENVIRONMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "report.h"

/** Other processes may use this much of one CPU while a benchmark runs, and no more. */
#define ENVIRONMENT_OTHERS_MAX 0.05

/** And the host may keep this share of our time. */
#define ENVIRONMENT_STEAL_MAX 0.01

#define ENVIRONMENT_CACHES_MAX 4u

struct environment_cache {
    unsigned level;
    uint64_t bytes;
    unsigned ways;
};

/** Time of all CPUs since boot, in clock ticks. */
struct environment_ticks {
    uint64_t busy, steal, all;
};

struct environment {
    char kernel[96];
    char cpu[96];
    char caches[96]; /**< "L1d 32 KiB, L2 512 KiB, L3 32 MiB" */
    struct environment_cache cache[ENVIRONMENT_CACHES_MAX]; /**< data caches, smallest first */
    unsigned cache_count;
    char huge_pages[32];   /**< the mode of transparent huge pages */
    char mitigations[192]; /**< what is mitigated, with the names of the kernel */
    char congestion[32];   /**< of the benchmark's sockets */
    char congestion_default[32];
    char compiler[96];
    char flags[160];
    char version[32];
    char commit[48];
    char allocator[24];
    char pmu[64]; /**< "yes", or why there are no hardware counters */
    bool has_pmu;
    bool is_virtual;
    int cpus;
    int cpu_server, cpu_load; /**< -1: not bound */
    char pinning[96];         /**< how it went */
    double load_average;      /**< of the last minute, at the start */
    uint32_t descriptors;     /**< limit of this process */
    double others;            /**< CPUs that other processes used meanwhile */
    double steal;             /**< share of all time that the host kept */
    struct environment_ticks ticks_begin;
    uint64_t wall_begin_ns;
    double own_begin_s; /**< processor time of ours before that */
};

/** How this program was made: in build.c, which the build writes. */
extern const char bench_build_commit[];
extern const char bench_build_flags[];
extern const char bench_build_allocator[];

/** Captures what does not change, and binds this thread to `cpu_load`. */
void environment_begin(struct environment *environment, int cpu_server, int cpu_load);

/** Captures what happened meanwhile, and tells `report` (may be NULL) the doubts that arise from
 * it. */
void environment_end(struct environment *environment, struct report *report);

#endif
