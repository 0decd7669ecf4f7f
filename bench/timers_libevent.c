/*
 * libevent: a timer event in each connection, in its binary heap, and the same with a common
 * timeout, for which libevent keeps a list per duration. An activity is event_add with the timeout.
 * Activities are carried out in a callback of the loop, where they happen in a program: only there
 * does libevent use a time that it has read before. A sweep is a turn of the loop that does not
 * wait.
 *
 * SPDX-License-Identifier: MIT
 */
#include "timers.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#ifdef BERTH_HAVE_LIBEVENT

#include <event2/event.h>
#include <event2/event_struct.h>

#include "machine.h"

/** A common timeout of its own, for those that are to expire. */
#define SOON_US 100

/** libevent's clock is the kernel's coarse one, which moves 100 times a second at the least. */
#define WAITS_MAX 50u

struct libevent {
    struct event_base *base;
    struct event *events;
    struct event runner; /**< its callback does `count` activities, of `which` */
    const struct timeval *idle, *soon;
    struct timeval own_idle, own_soon; /**< where the timeouts are not common */
    const uint32_t *which;
    uint32_t which_count;
    uint32_t count;
    bool is_common;
};

static void
on_timer(evutil_socket_t fd, short events, void *argument)
{
    (void)fd;
    (void)events;
    timers_expired((uint32_t)(uintptr_t)argument);
}

static void
on_activities(evutil_socket_t fd, short events, void *argument)
{
    struct libevent *libevent = argument;
    (void)fd;
    (void)events;
    for (uint32_t i = 0; i < libevent->which_count; i++) {
        if (i % TIMERS_BATCH == 0)
            event_base_update_cache_time(libevent->base);
        event_add(&libevent->events[libevent->which[i]], libevent->idle);
    }
}

static void
libevent_close(void *state)
{
    struct libevent *libevent = state;
    for (uint32_t i = 0; i < libevent->count; i++)
        event_del(&libevent->events[i]);
    if (libevent->base != NULL)
        event_base_free(libevent->base);
    free(libevent->events);
    free(libevent);
}

static int
choose_timeouts(struct libevent *libevent)
{
    libevent->own_idle = (struct timeval){.tv_sec = TIMERS_IDLE};
    libevent->own_soon = (struct timeval){.tv_usec = libevent->is_common ? SOON_US : 0};
    libevent->idle = &libevent->own_idle;
    libevent->soon = &libevent->own_soon;
    if (!libevent->is_common)
        return 0;
    libevent->idle = event_base_init_common_timeout(libevent->base, &libevent->own_idle);
    libevent->soon = event_base_init_common_timeout(libevent->base, &libevent->own_soon);
    return libevent->idle != NULL && libevent->soon != NULL ? 0 : -ENOMEM;
}

static int
add_all(struct libevent *libevent, uint32_t count)
{
    int error = 0;
    for (uint32_t i = 0; i < count && error == 0; i++) {
        error = event_assign(&libevent->events[i], libevent->base, -1, 0, on_timer,
                             (void *)(uintptr_t)i);
        if (error == 0)
            error = event_add(&libevent->events[i], libevent->idle);
        libevent->count += error == 0;
    }
    return error == 0 ? 0 : -ENOMEM;
}

static int
open_with(uint32_t count, bool is_common, void **state)
{
    struct libevent *libevent = calloc(1, sizeof *libevent);
    if (libevent == NULL)
        return -ENOMEM;
    libevent->is_common = is_common;
    libevent->events = calloc(count, sizeof libevent->events[0]);
    libevent->base = event_base_new();
    int error = libevent->events == NULL ? -ENOMEM : libevent->base == NULL ? -EMFILE : 0;
    if (error == 0)
        error = choose_timeouts(libevent);
    if (error == 0 &&
        event_assign(&libevent->runner, libevent->base, -1, 0, on_activities, libevent) != 0)
        error = -ENOMEM;
    if (error == 0)
        error = add_all(libevent, count);
    if (error != 0) {
        libevent_close(libevent);
        return error;
    }
    *state = libevent;
    return 0;
}

static int
libevent_open(uint32_t count, void **state)
{
    return open_with(count, false, state);
}

static int
libevent_common_open(uint32_t count, void **state)
{
    return open_with(count, true, state);
}

static void
libevent_arm(void *state, const uint32_t *which, uint32_t count)
{
    struct libevent *libevent = state;
    libevent->which = which;
    libevent->which_count = count;
    event_active(&libevent->runner, EV_TIMEOUT, 1);
    event_base_loop(libevent->base, EVLOOP_NONBLOCK);
}

static uint64_t
coarse_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/** Until a timeout of SOON_US has passed by that clock. */
static void
wait_for_soon(void)
{
    const uint64_t end = coarse_us() + SOON_US;
    for (unsigned i = 0; i < WAITS_MAX && coarse_us() <= end; i++)
        machine_sleep_ms(1);
}

static void
libevent_age(void *state, const uint32_t *which, uint32_t count)
{
    struct libevent *libevent = state;
    for (uint32_t i = 0; i < count; i++)
        event_add(&libevent->events[which[i]], libevent->soon);
    if (libevent->is_common)
        wait_for_soon();
}

static void
libevent_sweep(void *state)
{
    struct libevent *libevent = state;
    event_base_loop(libevent->base, EVLOOP_NONBLOCK);
}

static uint32_t
libevent_armed(void *state)
{
    const struct libevent *libevent = state;
    uint32_t armed = 0;
    for (uint32_t i = 0; i < libevent->count; i++)
        armed += event_pending(&libevent->events[i], EV_TIMEOUT, NULL) != 0;
    return armed;
}

#define LIBEVENT(opening)                                                                          \
    .open = opening, .close = libevent_close, .arm = libevent_arm, .age = libevent_age,            \
    .sweep = libevent_sweep, .armed = libevent_armed, .descriptors = TIMERS_LOOP_DESCRIPTORS,      \
    .at_head = true
#else
#define LIBEVENT(opening) .missing = "this program was built without libevent"
#endif

const struct timers_way timers_libevent = {.name = "libevent", LIBEVENT(libevent_open)};
const struct timers_way timers_libevent_common = {.name = "libevent-common",
                                                  LIBEVENT(libevent_common_open)};
