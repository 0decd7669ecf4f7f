/*
 * libuv: a timer in each connection, in its binary heap; an activity is uv_timer_again. A sweep is
 * a turn of the loop that does not wait: it includes the look at the clock and one epoll_wait.
 *
 * SPDX-License-Identifier: MIT
 */
#include "timers.h"

#include <errno.h>
#include <stdlib.h>

#ifdef BERTH_HAVE_LIBUV

#include <uv.h>

#define IDLE_MS (TIMERS_IDLE * UINT64_C(1000))

struct libuv {
    uv_loop_t loop;
    uv_timer_t *timers;
    uint32_t count;
};

static void
on_timer(uv_timer_t *timer)
{
    const struct libuv *libuv = timer->loop->data;
    /* It repeats so that uv_timer_again can be used; a connection is closed once. */
    uv_timer_stop(timer);
    timers_expired((uint32_t)(timer - libuv->timers));
}

static void
libuv_close(void *state)
{
    struct libuv *libuv = state;
    for (uint32_t i = 0; i < libuv->count; i++)
        uv_close((uv_handle_t *)&libuv->timers[i], NULL);
    uv_run(&libuv->loop, UV_RUN_DEFAULT);
    uv_loop_close(&libuv->loop);
    free(libuv->timers);
    free(libuv);
}

static int
libuv_open(uint32_t count, void **state)
{
    struct libuv *libuv = calloc(1, sizeof *libuv);
    uv_timer_t *timers = calloc(count, sizeof timers[0]);
    int error = libuv == NULL || timers == NULL ? UV_ENOMEM : uv_loop_init(&libuv->loop);
    if (error != 0) {
        free(libuv);
        free(timers);
        return error;
    }
    libuv->timers = timers;
    libuv->loop.data = libuv;
    for (uint32_t i = 0; i < count && error == 0; i++) {
        error = uv_timer_init(&libuv->loop, &timers[i]);
        if (error == 0)
            libuv->count++;
        if (error == 0)
            error = uv_timer_start(&timers[i], on_timer, IDLE_MS, IDLE_MS);
    }
    if (error != 0) {
        libuv_close(libuv);
        return error;
    }
    *state = libuv;
    return 0;
}

static void
libuv_arm(void *state, const uint32_t *which, uint32_t count)
{
    struct libuv *libuv = state;
    for (uint32_t i = 0; i < count; i++) {
        if (i % TIMERS_BATCH == 0)
            uv_update_time(&libuv->loop);
        uv_timer_again(&libuv->timers[which[i]]);
    }
}

static void
libuv_age(void *state, const uint32_t *which, uint32_t count)
{
    struct libuv *libuv = state;
    for (uint32_t i = 0; i < count; i++)
        uv_timer_start(&libuv->timers[which[i]], on_timer, 0, IDLE_MS);
}

static void
libuv_sweep(void *state)
{
    struct libuv *libuv = state;
    uv_run(&libuv->loop, UV_RUN_NOWAIT);
}

static uint32_t
libuv_armed(void *state)
{
    const struct libuv *libuv = state;
    uint32_t armed = 0;
    for (uint32_t i = 0; i < libuv->count; i++)
        armed += uv_is_active((const uv_handle_t *)&libuv->timers[i]) != 0;
    return armed;
}

#endif

const struct timers_way timers_libuv = {
    .name = "libuv",
#ifdef BERTH_HAVE_LIBUV
    .open = libuv_open,
    .close = libuv_close,
    .arm = libuv_arm,
    .age = libuv_age,
    .sweep = libuv_sweep,
    .armed = libuv_armed,
    .descriptors = TIMERS_LOOP_DESCRIPTORS,
    .at_head = true,
#else
    .missing = "this program was built without libuv",
#endif
};
