/*
 * A loop inside another: one descriptor that is readable whenever a turn has something to do. It is
 * an epoll set with what the engine waits for, the wake-up descriptor, and a timer for what becomes
 * due.
 *
 * The invariant: when no turn runs, everything that is to be done is either told to the kernel, so
 * that the engine's descriptor will say when it has happened, or the timer is armed for it.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_EPOLL
#define BERTH_SYS_FILE
#define BERTH_SYS_TIMER
#include "loop/cross.h"

#include <stdlib.h>
#include <string.h>

#include "os/sys.h"

/** How soon a set that could not be put in place is tried again, and looked into meanwhile. */
#define RETRY_MS 10

struct nested {
    int set_fd, timer_fd;
    int engine_fd;     /**< what the engine waits for, under a number of our own */
    uint64_t armed_ms; /**< when the timer goes off */
    uint64_t rebuilds; /**< of the engine's own set: it is another file since */
};

static int
add(const struct nested *nested, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    return (int)sys_epoll_ctl(nested->set_fd, EPOLL_CTL_ADD, fd, &event);
}

/**
 * Puts what the engine waits for into the set, in place of what was there before. Under a duplicate
 * of its descriptor: a set that the engine has replaced may live on in a child, and could not be
 * taken out any more.
 */
static int
add_engine(struct berth_loop *loop, struct nested *nested)
{
    if (nested->engine_fd >= 0) {
        (void)sys_epoll_ctl(nested->set_fd, EPOLL_CTL_DEL, nested->engine_fd, NULL);
        (void)sys_close(nested->engine_fd);
    }
    nested->rebuilds = loop->table->stats.rebuilds;
    const int fd = loop->engine->nest(loop);
    nested->engine_fd = fd < 0 ? fd : (int)sys_fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return nested->engine_fd < 0 ? nested->engine_fd : add(nested, nested->engine_fd);
}

/** Goes off in so many milliseconds; now, if they are none. Forgets that it went off before. */
static void
arm(struct berth_loop *loop, uint64_t now_ms, int wait_ms)
{
    struct itimerspec when;
    memset(&when, 0, sizeof(when));
    when.it_value.tv_sec = wait_ms / 1000;
    when.it_value.tv_nsec = wait_ms == 0 ? 1 : (long)(wait_ms % 1000) * 1000000;
    (void)sys_timerfd_settime(loop->nested->timer_fd, 0, &when);
    loop->nested->armed_ms = now_ms + (uint64_t)wait_ms;
    loop->stats.syscalls++;
}

void
nested_due(struct berth_loop *loop)
{
    loop->resting = 0; /* once is enough: the next turn will look at everything */
    arm(loop, loop_now_ms(), 0);
}

void
nested_rest(struct berth_loop *loop, int wait_ms)
{
    struct nested *nested = loop->nested;
    if (BERTH_UNLIKELY(nested->rebuilds != loop->table->stats.rebuilds || nested->engine_fd < 0)) {
        loop->stats.syscalls += 4;
        if (add_engine(loop, nested) < 0)
            wait_ms = wait_ms < 0 || wait_ms > RETRY_MS ? RETRY_MS : wait_ms; /* no descriptor */
    }
    if (loop->engine->rest(loop))
        wait_ms = 0;
    /* A timer that goes off too early costs a turn; arming it anew each time costs more. */
    const uint64_t now_ms = loop_now_ms();
    if (wait_ms == 0 || nested->armed_ms <= now_ms || nested->armed_ms > now_ms + (uint64_t)wait_ms)
        arm(loop, now_ms, wait_ms);
    loop->resting = 1;
}

void
nested_close(struct berth_loop *loop)
{
    struct nested *nested = loop->nested;
    if (nested == NULL)
        return;
    if (nested->set_fd >= 0)
        (void)sys_close(nested->set_fd);
    if (nested->timer_fd >= 0)
        (void)sys_close(nested->timer_fd);
    if (nested->engine_fd >= 0)
        (void)sys_close(nested->engine_fd);
    free(nested);
    loop->nested = NULL;
    loop->resting = 0;
}

static int
fill(struct berth_loop *loop, struct nested *nested)
{
    nested->timer_fd = (int)sys_timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (nested->timer_fd < 0)
        return nested->timer_fd;
    nested->set_fd = (int)sys_epoll_create1(EPOLL_CLOEXEC);
    if (nested->set_fd < 0)
        return nested->set_fd;
    int error = add_engine(loop, nested);
    if (!error)
        error = add(nested, nested->timer_fd);
    /* The engine watches it too. But an eventfd that is written to because another one was (the
     * ring's, when the wake-up's poll completes) is told of by Linux 6.18 only the first time. */
    return error ? error : add(nested, loop->wake_fd);
}

int
berth_loop_fd(struct berth_loop *loop)
{
    if (loop == NULL)
        return -EINVAL;
    if (loop_is_child(loop))
        return -ECHILD;
    if (loop->nested != NULL)
        return loop->nested->set_fd;
    int error = loop_start(loop);
    if (error)
        return error;
    struct nested *nested = (struct nested *)calloc(1, sizeof(*nested));
    if (nested == NULL)
        return -ENOMEM;
    nested->set_fd = nested->timer_fd = nested->engine_fd = -1;
    loop->nested = nested;
    error = fill(loop, nested);
    if (error) {
        nested_close(loop);
        return error;
    }
    loop_rest(loop);
    return nested->set_fd;
}
