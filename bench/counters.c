/*
 * perf_event_open(2): each counter by itself and not as a group, because a group that does not fit
 * the hardware counts nothing at all. What a machine does not have is NAN for ever after.
 *
 * SPDX-License-Identifier: MIT
 */
#include "counters.h"

#include <linux/perf_event.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/** A cache event: which cache, loads, misses. */
#define LOAD_MISSES(cache)                                                                         \
    ((uint64_t)(cache) | ((uint64_t)PERF_COUNT_HW_CACHE_OP_READ << 8) |                            \
     ((uint64_t)PERF_COUNT_HW_CACHE_RESULT_MISS << 16))

static const struct {
    uint32_t type;
    uint64_t config;
} events[COUNTERS] = {
    [COUNTER_CYCLES] = {PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES},
    [COUNTER_INSTRUCTIONS] = {PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS},
    [COUNTER_L1_MISSES] = {PERF_TYPE_HW_CACHE, LOAD_MISSES(PERF_COUNT_HW_CACHE_L1D)},
    [COUNTER_LL_MISSES] = {PERF_TYPE_HW_CACHE, LOAD_MISSES(PERF_COUNT_HW_CACHE_LL)},
    [COUNTER_TLB_MISSES] = {PERF_TYPE_HW_CACHE, LOAD_MISSES(PERF_COUNT_HW_CACHE_DTLB)},
};

/** What a read of one counter gives. The kernel never sets the two times back. */
struct reading {
    uint64_t count, enabled_ns, running_ns;
};

static int fds[COUNTERS];
static struct reading begun[COUNTERS];
static bool opened;

static void
open_all(void)
{
    for (unsigned i = 0; i < COUNTERS; i++) {
        struct perf_event_attr attributes = {
            .type = events[i].type,
            .size = sizeof attributes,
            .config = events[i].config,
            .disabled = 1,
            .exclude_kernel = 1,
            .exclude_hv = 1,
            .read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
        };
        fds[i] = (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    }
    opened = true;
}

static bool
reading_take(int fd, struct reading *reading)
{
    return fd >= 0 && read(fd, reading, sizeof *reading) == sizeof *reading;
}

void
counters_begin(void)
{
    if (!opened)
        open_all();
    for (unsigned i = 0; i < COUNTERS; i++) {
        if (reading_take(fds[i], &begun[i]))
            ioctl(fds[i], PERF_EVENT_IOC_ENABLE, 0);
    }
}

/** Events of one slice, as if the counter had been on the hardware all the time. NAN: it never was.
 */
static double
scaled(const struct reading *begin, const struct reading *end)
{
    const double running = (double)(end->running_ns - begin->running_ns);
    const double enabled = (double)(end->enabled_ns - begin->enabled_ns);
    return running > 0 ? (double)(end->count - begin->count) * (enabled / running) : NAN;
}

void
counters_end(struct counters *counters)
{
    for (unsigned i = 0; i < COUNTERS; i++) {
        struct reading ended;
        counters->values[i] = NAN;
        if (fds[i] < 0)
            continue;
        ioctl(fds[i], PERF_EVENT_IOC_DISABLE, 0);
        if (reading_take(fds[i], &ended))
            counters->values[i] = scaled(&begun[i], &ended);
    }
}
