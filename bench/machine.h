/*
 * The machine as a benchmark sees it: its clock, its processors, the memory of a process, and the
 * user's wish to stop. Nothing here knows what is being measured.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <signal.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

/** Set by the first SIGINT or SIGTERM: finish the measurement at hand, then report what there is.
 */
extern volatile sig_atomic_t machine_interrupted;

/** Catches SIGINT and SIGTERM; one that comes half a second after the first ends the program. */
void machine_catch_interrupts(void);

/** Nanoseconds of the monotonic clock. */
static inline uint64_t
machine_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/** User and system time of this process, in nanoseconds. */
uint64_t machine_cpu_ns(void);

/** Sleeps; ends early when a signal arrives. */
void machine_sleep_ms(unsigned ms);

/** How many CPUs this process may run on. */
int machine_cpus(void);

/** The CPU that is number `rank` among those this process may run on, or -1. */
int machine_cpu_ranked(int rank);

/** Binds the calling thread to `cpu`. 0 or -errno. */
int machine_pin(int cpu);

/** Whether machine_pin would bind to `cpu`: 0 or -errno. */
int machine_pin_try(int cpu);

/** Raises RLIMIT_NOFILE as far as allowed; how many descriptors this process may still open. */
uint32_t machine_descriptors_free(void);

/** Memory of one process that is in RAM now. */
struct machine_memory {
    uint64_t resident_bytes;   /**< all of it */
    uint64_t anonymous_bytes;  /**< heap, stacks, anonymous mappings: no code, no files */
    uint64_t huge_bytes;       /**< those of them in huge pages */
    uint64_t page_table_bytes; /**< what the kernel spends on mapping it */
};

/** Reads it exactly (smaps_rollup, not the rounded counters of statm). `pid` 0: self. 0, -errno. */
int machine_memory_get(pid_t pid, struct machine_memory *memory);

/**
 * Bytes that may be used without anybody having to go short: what the kernel says is available, or
 * what the control groups of this process leave it, if that is less. 0 when it cannot be read.
 */
uint64_t machine_memory_available_bytes(void);

/** Bytes in the kernel's slab caches, whole machine; 0 when it cannot be read. */
uint64_t machine_slab_bytes(void);

/**
 * Bytes of the objects in them, without what caches keep in reserve (but for their reserve for each
 * CPU). Waits until it has settled: sockets and rings that are closed are freed late. It may change
 * by no more than a little from one look to the next, unless others never let it come to rest.
 * 0 when it cannot be read, which takes privilege. Takes 0.15 seconds or more.
 */
uint64_t machine_slab_settle(void);

#endif
