/*
 * libev: a timer in each connection, in its 4-ary heap; an activity is ev_timer_again, as its
 * manual has it for timeouts of inactivity. A sweep is a turn of the loop that does not wait: it
 * includes the look at the clock and one epoll_wait.
 *
 * SPDX-License-Identifier: MIT
 */
#include "timers.h"

#include <errno.h>
#include <stdlib.h>

#ifdef BERTH_HAVE_LIBEV

#include <ev.h>

struct libev {
    struct ev_loop *loop;
    ev_timer *timers;
    uint32_t count;
};

static void
on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
    const struct libev *libev = ev_userdata(loop);
    (void)events;
    /* It repeats so that ev_timer_again can be used; a connection is closed once. */
    ev_timer_stop(loop, timer);
    timers_expired((uint32_t)(timer - libev->timers));
}

static void
libev_close(void *state)
{
    struct libev *libev = state;
    if (libev->loop != NULL)
        ev_loop_destroy(libev->loop);
    free(libev->timers);
    free(libev);
}

static int
libev_open(uint32_t count, void **state)
{
    struct libev *libev = calloc(1, sizeof *libev);
    if (libev == NULL)
        return -ENOMEM;
    libev->count = count;
    libev->timers = calloc(count, sizeof libev->timers[0]);
    libev->loop = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
    if (libev->timers == NULL || libev->loop == NULL) {
        const int error = libev->timers == NULL ? -ENOMEM : -EMFILE;
        libev_close(libev);
        return error;
    }
    ev_set_userdata(libev->loop, libev);
    for (uint32_t i = 0; i < count; i++) {
        ev_timer_init(&libev->timers[i], on_timer, TIMERS_IDLE, TIMERS_IDLE);
        ev_timer_start(libev->loop, &libev->timers[i]);
    }
    *state = libev;
    return 0;
}

static void
libev_arm(void *state, const uint32_t *which, uint32_t count)
{
    struct libev *libev = state;
    for (uint32_t i = 0; i < count; i++) {
        if (i % TIMERS_BATCH == 0)
            ev_now_update(libev->loop);
        ev_timer_again(libev->loop, &libev->timers[which[i]]);
    }
}

static void
libev_age(void *state, const uint32_t *which, uint32_t count)
{
    struct libev *libev = state;
    for (uint32_t i = 0; i < count; i++) {
        ev_timer *timer = &libev->timers[which[i]];
        ev_timer_stop(libev->loop, timer);
        ev_timer_set(timer, -1.0, TIMERS_IDLE);
        ev_timer_start(libev->loop, timer);
    }
}

static void
libev_sweep(void *state)
{
    struct libev *libev = state;
    ev_run(libev->loop, EVRUN_NOWAIT);
}

static uint32_t
libev_armed(void *state)
{
    const struct libev *libev = state;
    uint32_t armed = 0;
    for (uint32_t i = 0; i < libev->count; i++)
        armed += ev_is_active(&libev->timers[i]) != 0;
    return armed;
}

#endif

const struct timers_way timers_libev = {
    .name = "libev",
#ifdef BERTH_HAVE_LIBEV
    .open = libev_open,
    .close = libev_close,
    .arm = libev_arm,
    .age = libev_age,
    .sweep = libev_sweep,
    .armed = libev_armed,
    .descriptors = TIMERS_LOOP_DESCRIPTORS,
    .at_head = true,
#else
    .missing = "this program was built without libev",
#endif
};
