/*
 * A host for a loop inside another one: plain epoll, which turns the loop when, and only when, its
 * descriptor is readable. The timer's harmless tick is taken away here, so that whatever the
 * descriptor does not tell of is missed for good.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_NESTED_H
#define BERTH_TESTS_LOOP_NESTED_H

#include "loop/ways.h"

#include <sys/epoll.h>

#include "berth/loop_cross.h"
#include "support/sys_groups.h"

/** Turns that may come for nothing before the loop must be quiet. */
#define SPURIOUS_MAX 8

/** No event of these tests takes so long. */
#define HOST_WAIT_MS 20000

static struct {
    int set; /**< the host's epoll set */
    uint64_t turns;
    unsigned opens, closes;
    size_t received;
    int reason;
    berth_token last;
} host;

/** The tick of a second is not set. */
static inline intptr_t
settime_without_tick(int fd, int flags, const struct itimerspec *when)
{
    const struct itimerspec never = {{0, 0}, {0, 0}};
    return sys_direct_timerfd_settime(fd, flags, when->it_value.tv_sec > 0 ? &never : when);
}

static inline int
host_open(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    host.opens++;
    host.last = berth_conn_token(conn);
    return 0;
}

static inline void
host_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    host.received += bytes;
    rig_echo(conn, spans, n, bytes);
}

static inline void
host_close(struct berth_conn *conn, int reason)
{
    (void)conn;
    host.closes++;
    host.reason = reason;
}

static const struct berth_handlers hosted
    __attribute__((unused)) = {.open = host_open, .data = host_data, .close = host_close};

/** Whether the descriptor is readable within that time. */
static inline int
host_waits(int timeout_ms)
{
    struct epoll_event event;
    int ready;
    do
        ready = epoll_wait(host.set, &event, 1, timeout_ms);
    while (ready < 0 && errno == EINTR);
    return ready;
}

/** What a host does, until the condition holds. */
#define HOST_UNTIL(rig, condition)                                                                 \
    while (!(condition)) {                                                                         \
        ck_assert_msg(host_waits(HOST_WAIT_MS) == 1, "nothing tells of: " #condition);             \
        host.turns++;                                                                              \
        (void)rig_turn((rig), 0);                                                                  \
    }

/** It becomes quiet: no spinning. */
static inline void
host_settles(const struct rig *rig)
{
    unsigned turns = 0;
    while (host_waits(0) == 1) {
        ck_assert_uint_lt(turns++, SPURIOUS_MAX);
        (void)rig_turn(rig, 0);
    }
}

/** 0 if the engine cannot. */
static inline int
host_begin_with(struct rig *rig, const struct berth_loop_options *options,
                const struct berth_handlers *handlers)
{
    memset(&host, 0, sizeof(host));
    berth_sys_timerfd_settime = settime_without_tick;
    rig_begin(rig, options, handlers, NULL);
    const int fd = berth_loop_fd(rig->loop);
    if (strcmp(options->engine, "poll") == 0) {
        ck_assert_int_eq(fd, -EOPNOTSUPP);
        (void)rig_turn(rig, 0); /* no harm was done */
        rig_end(rig);
        return 0;
    }
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(berth_loop_fd(rig->loop), fd);
    host.set = epoll_create1(EPOLL_CLOEXEC);
    ck_assert_int_ge(host.set, 0);
    struct epoll_event event = {.events = EPOLLIN};
    ck_assert_int_eq(epoll_ctl(host.set, EPOLL_CTL_ADD, fd, &event), 0);
    host_settles(rig);
    return 1;
}

static inline int
host_begin(struct rig *rig, const char *engine)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    return host_begin_with(rig, &options, &hosted);
}

static inline void
host_end(struct rig *rig)
{
    HOST_UNTIL(rig, berth_loop_conns(rig->loop) == 0);
    host_settles(rig);
    ck_assert_int_eq(close(host.set), 0);
    rig_end(rig);
    berth_sys_timerfd_settime = sys_direct_timerfd_settime;
}

#endif
