/*
 * What goes wrong with a loop inside another one: refusals of the kernel, and a set of the engine's
 * that had to be built anew.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/nested.h"

static intptr_t
refuse_timer(int clock, int flags)
{
    (void)clock, (void)flags;
    return -EMFILE;
}

static intptr_t
refuse_set(int flags)
{
    (void)flags;
    return -EMFILE;
}

static int ctl_failures; /**< so many adds work before one fails */

static intptr_t
refuse_add(int set, int op, int fd, struct epoll_event *event)
{
    if (op == EPOLL_CTL_ADD && ctl_failures-- == 0)
        return -ENOSPC;
    return sys_direct_epoll_ctl(set, op, fd, event);
}

START_TEST(refusals_leave_nothing)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &hosted, NULL);
    (void)rig_turn(&rig, 0);
    if (berth_loop_fd(rig.loop) == -EOPNOTSUPP) {
        rig_end(&rig);
        return;
    }
    rig_end(&rig);
    for (int which = 0; which < 5; which++) {
        rig_begin(&rig, &options, &hosted, NULL);
        (void)rig_turn(&rig, 0);
        if (which == 0)
            berth_sys_timerfd_create = refuse_timer;
        else if (which == 1)
            berth_sys_epoll_create1 = refuse_set;
        else
            berth_sys_epoll_ctl = refuse_add;
        ctl_failures = which - 2;
        ck_assert_int_eq(berth_loop_fd(rig.loop), which < 2 ? -EMFILE : -ENOSPC);
        berth_sys_timerfd_create = sys_direct_timerfd_create;
        berth_sys_epoll_create1 = sys_direct_epoll_create1;
        berth_sys_epoll_ctl = sys_direct_epoll_ctl;
        rig_try_echo(&rig);
        ck_assert_int_ge(berth_loop_fd(rig.loop), 0);
        rig_try_echo(&rig);
        rig_end(&rig); /* compares descriptors */
    }
}
END_TEST

static intptr_t
keep_registrations(int set, int op, int fd, struct epoll_event *event)
{
    return op == EPOLL_CTL_DEL ? -EIO : sys_direct_epoll_ctl(set, op, fd, event);
}

/** The poller builds its set anew when ghosts do not go: the host must hear of the new one. */
START_TEST(rebuilt_set_is_heard_of)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    char text[8];
    if (strcmp(engine, "epoll") != 0 || !host_begin(&rig, engine))
        return;
    const int ghost = rig_client(&rig);
    HOST_UNTIL(&rig, host.opens == 1);
    const int number = (int)berth_token_index(host.last);
    const int copy = dup(number); /* keeps the registration when the loop has closed its own */
    ck_assert_int_ge(copy, 0);
    berth_sys_epoll_ctl = keep_registrations;
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, host.last)), 0);
    HOST_UNTIL(&rig, host.closes == 1);
    berth_sys_epoll_ctl = sys_direct_epoll_ctl;
    const int client = rig_client(&rig);
    HOST_UNTIL(&rig, host.opens == 2);
    int newcomers[2] = {client, -1};
    if ((int)berth_token_index(host.last) != number) { /* the client's own took that number */
        newcomers[1] = rig_client(&rig);
        HOST_UNTIL(&rig, host.opens == 3);
    }
    for (int i = 0; i < 100 && berth_loop_table(rig.loop)->stats.rebuilds == 0; i++) {
        rig_write(ghost, "boo", 3);
        if (host_waits(100) == 1)
            (void)rig_turn(&rig, 0);
    }
    ck_assert_uint_eq(berth_loop_table(rig.loop)->stats.rebuilds, 1);
    host_settles(&rig);
    rig_write(ghost, "boo", 3);
    ck_assert_int_eq(host_waits(0), 0); /* nobody hears the ghost any more */
    rig_write(client, "hello", 5);
    HOST_UNTIL(&rig, rig_read(client, text, sizeof(text)) == 5);
    ck_assert_int_eq(close(copy), 0);
    ck_assert_int_eq(close(ghost), 0);
    for (int i = 0; i < 2; i++)
        if (newcomers[i] >= 0)
            ck_assert_int_eq(close(newcomers[i]), 0);
    host_end(&rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("nested faults");
    RIG_ADD(suite, refusals_leave_nothing);
    RIG_ADD(suite, rebuilt_set_is_heard_of);
    return test_run(suite);
}
