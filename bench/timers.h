/*
 * The contestants of case `timers`: whatever can tell which connections have been idle for too
 * long. All of them are asked the same through one interface, batch by batch, so that what the
 * interface costs is small and the same for all.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_TIMERS_H
#define BENCH_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

/** Activities between two looks at the clock, as in one turn of a loop: a batch of events. */
#define TIMERS_BATCH 64u

/** A timeout, in seconds or ticks, that nobody reaches while measuring. */
#define TIMERS_IDLE 1000u

/** What a library's loop may open for itself: queues, pipes and the like, 4 to 6 of them. */
#define TIMERS_LOOP_DESCRIPTORS 16u

struct timers_way {
    const char *name;

    /** Makes `count` connections, each with its timeout armed. `*state` is for the other calls. */
    int (*open)(uint32_t count, void **state);
    void (*close)(void *state);

    /**
     * `count` activities, of the connections in `which`: each has its timeout start afresh. The
     * clock is looked at after every TIMERS_BATCH of them, by those that need one.
     */
    void (*arm)(void *state, const uint32_t *which, uint32_t count);

    /** Makes these connections overdue. They are armed again with `arm` afterwards. */
    void (*age)(void *state, const uint32_t *which, uint32_t count);

    /** Finds what is overdue, and calls timers_expired for each. */
    void (*sweep)(void *state);

    /** How many connections have a timeout armed. */
    uint32_t (*armed)(void *state);

    uint32_t descriptors; /**< that must be free to open it: libraries end the program without */
    bool at_head;         /**< a sweep looks at the first ones only, however many there are */

    /** Why it cannot be measured, for the report; NULL: it can. */
    const char *missing;
};

extern const struct timers_way timers_ticks, timers_deadlines, timers_lru, timers_swept,
    timers_libev, timers_libuv, timers_libevent, timers_libevent_common;

/** Every connection that was found overdue: how many, and the sum of their numbers. */
struct timers_found {
    uint64_t count, sum;
};

extern struct timers_found timers_found;

/** The program's callback: it is never inlined, so that all pay for a call. */
void timers_expired(uint32_t connection);

#endif
