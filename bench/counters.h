/*
 * The processor's own counters, of this thread in user mode, where the system has and grants them.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_COUNTERS_H
#define BENCH_COUNTERS_H

#include <stdint.h>

enum counter {
    COUNTER_CYCLES,
    COUNTER_INSTRUCTIONS,
    COUNTER_L1_MISSES,
    COUNTER_LL_MISSES,
    COUNTER_TLB_MISSES,
    COUNTERS
};

/** What was counted since counters_begin; NAN for what cannot be counted here. */
struct counters {
    double values[COUNTERS];
};

/** Starts counting: cheap after the first call of a process, which opens what can be opened. */
void counters_begin(void);

/** Stops, and reads. A counter that shared the hardware with others is scaled up. */
void counters_end(struct counters *counters);

#endif
