/*
 * A clock that stands still until a test moves it, and waits that are written down: nothing here
 * depends on how fast the machine is. One thread; clock_begin replaces, clock_end puts back.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_CLOCK_H
#define BERTH_TESTS_LOOP_CLOCK_H

#include "support/sys_groups.h"

/** A wait takes this long at most, however long it was to be. */
#define CLOCK_WAIT_MS_MAX 10

static uint64_t clock_now_ms;
static unsigned clock_readings;
static int clock_wait_ms;  /**< how long the last wait was to be */
static int clock_sleeping; /**< nothing happens: every wait takes its time, and no real one */

static inline intptr_t
clock_read(uint64_t *now_ms)
{
    *now_ms = clock_now_ms;
    clock_readings++;
    return 0;
}

static inline int
clock_shorten(int timeout_ms)
{
    clock_wait_ms = timeout_ms;
    if (clock_sleeping) {
        clock_now_ms += (uint64_t)timeout_ms;
        return 0;
    }
    return timeout_ms < 0 || timeout_ms > CLOCK_WAIT_MS_MAX ? CLOCK_WAIT_MS_MAX : timeout_ms;
}

static inline intptr_t
clock_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    return sys_direct_poll(fds, count, clock_shorten(timeout_ms));
}

#ifdef BERTH_SYS_EPOLL
static inline intptr_t
clock_epoll_wait(int set, struct epoll_event *events, int count, int timeout_ms)
{
    return sys_direct_epoll_wait(set, events, count, clock_shorten(timeout_ms));
}
#endif

#ifdef BERTH_SYS_URING
static inline intptr_t
clock_uring_wait(struct io_uring *ring, struct io_uring_cqe **completion, unsigned count,
                 struct __kernel_timespec *timeout)
{
    const int wait_ms = clock_shorten((int)(timeout->tv_sec * 1000 + timeout->tv_nsec / 1000000));
    struct __kernel_timespec shortened = {.tv_sec = 0, .tv_nsec = wait_ms * 1000000L};
    return sys_direct_uring_wait(ring, completion, count, &shortened);
}
#endif

static inline void
clock_begin(uint64_t now_ms)
{
    clock_now_ms = now_ms;
    clock_readings = 0;
    berth_sys_clock_ms = clock_read;
    berth_sys_poll = clock_poll;
#ifdef BERTH_SYS_EPOLL
    berth_sys_epoll_wait = clock_epoll_wait;
#endif
#ifdef BERTH_SYS_URING
    berth_sys_uring_wait = clock_uring_wait;
#endif
}

static inline void
clock_end(void)
{
    berth_sys_clock_ms = sys_direct_clock_ms;
    berth_sys_poll = sys_direct_poll;
#ifdef BERTH_SYS_EPOLL
    berth_sys_epoll_wait = sys_direct_epoll_wait;
#endif
#ifdef BERTH_SYS_URING
    berth_sys_uring_wait = sys_direct_uring_wait;
#endif
}

#endif
