/*
 * Direct descriptors: how a loop comes to have them or to do without, what is put into the table
 * before the ring is enabled and after, and what happens when the kernel has no time.
 *
 * SPDX-License-Identifier: MIT
 */
#include <fcntl.h>

#include "loop/direct.h"
#include "support/faults.h"

/* ---- before the first turn, and after ---------------------------------------------------------
 */

/** One adopted, one connected to a listener of its own; each of them echoes. */
static void
come_from_everywhere(const struct rig *rig, int *mine, struct berth_listener **listener)
{
    char address[BERTH_ADDRESS_TEXT_MAX];
    int pair[2];
    ck_assert_int_eq(berth_listen(rig->loop, "tcp://127.0.0.1:0", &echo, NULL, listener), 0);
    ck_assert_int_eq(berth_listener_address(*listener, address, sizeof(address)), 0);
    ck_assert_int_ge(fcntl(berth_listener_fd(*listener), F_GETFD), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    const unsigned before = test_descriptors_open();
    ck_assert_int_eq(berth_adopt(rig->loop, pair[0], &echo, NULL, NULL), 0);
    ck_assert_uint_eq(test_descriptors_open(), before - 1);
    mine[0] = pair[1];
    mine[1] = rig_connect_to(*listener);
    ck_assert_int_ge(mine[1], 0);
}

START_TEST(before_the_first_turn_and_after)
{
    DIRECT_OR_RETURN;
    struct rig rig;
    struct berth_listener *listeners[2];
    char address[BERTH_ADDRESS_TEXT_MAX];
    berth_token token = 0;
    int mine[4];
    static const struct berth_handlers silent = {.close = on_close};
    begin(&rig);
    come_from_everywhere(&rig, &mine[0], &listeners[0]);
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_connect(rig.loop, address, &silent, NULL, &token), 0);
    struct berth_conn *conn = berth_conn_find(rig.loop, token);
    char peer[BERTH_ADDRESS_TEXT_MAX];
    ck_assert_int_eq(berth_conn_fd_install(conn), -EAGAIN);
    /* Two of ours, and both ends of the loop's own; its descriptor goes when it is connected. */
    const unsigned before = test_descriptors_open();
    RIG_UNTIL(&rig, seen.opens == 3 && test_descriptors_open() == before - 1, TURNS);
    ck_assert_int_eq(berth_conn_peer(conn, peer, sizeof(peer)), 0);
    ck_assert_str_eq(peer, address);
    come_from_everywhere(&rig, &mine[2], &listeners[1]);
    RIG_UNTIL(&rig, seen.opens == 5, TURNS);
    for (unsigned i = 0; i < 4; i++) {
        must_echo(&rig, mine[i]);
        ck_assert_int_eq(close(mine[i]), 0);
    }
    ck_assert_int_eq(berth_conn_close(conn), 0);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, TURNS);
    berth_listener_close(listeners[0]);
    berth_listener_close(listeners[1]);
    RIG_UNTIL(&rig, berth_table_live_count(berth_loop_table(rig.loop)) == 2, TURNS);
    rig_end(&rig);
}
END_TEST

/** Nobody turned it: what is in the table, and what stands beside it, goes all the same. */
START_TEST(destroyed_before_the_first_turn)
{
    DIRECT_OR_RETURN;
    struct rig rig;
    struct berth_listener *listener;
    char address[BERTH_ADDRESS_TEXT_MAX], byte;
    int mine[2];
    begin(&rig);
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_connect(rig.loop, address, &echo, NULL, NULL), 0);
    come_from_everywhere(&rig, mine, &listener);
    ck_assert_int_eq(fcntl(mine[0], F_SETFL, O_NONBLOCK), 0);
    ck_assert_int_eq(berth_loop_destroy(rig.loop), 0);
    /* At once, and not when the kernel gets round to the rest of the ring. */
    ck_assert_int_eq(rig_read(mine[0], &byte, 1), 0);
    ck_assert_int_eq(close(mine[0]), 0);
    ck_assert_int_eq(close(mine[1]), 0);
    ck_assert_uint_eq(test_descriptors_open(), rig.descriptors);
}
END_TEST

/* ---- a kernel that has no time ----------------------------------------------------------------
 */

START_TEST(submission_refused)
{
    DIRECT_OR_RETURN;
    struct rig rig;
    begin(&rig);
    int client = client_inside(&rig);
    must_echo(&rig, client);
    const unsigned before = test_descriptors_open();
    for (unsigned nth = 1; nth <= 2; nth++) {
        faults_fail("uring_submit", nth, 1, -EBUSY);
        (void)berth_send(seen.last, "!", 1); /* so that there is something to be submitted first */
        const int fd = berth_conn_fd_install(seen.last);
        ck_assert(fd == -EAGAIN || (fd >= 0 && faults_hit("uring_submit") == 0));
        faults_reset();
        if (fd >= 0)
            ck_assert_int_eq(close(fd), 0);
        /* What was refused is not done later either. */
        char byte = 0;
        RIG_UNTIL(&rig, rig_read(client, &byte, 1) == 1, TURNS);
        ck_assert_uint_eq(test_descriptors_open(), before);
    }
    const int fd = rig_conn_fd(seen.last);
    ck_assert_int_eq(close(fd), 0);
    rig_close_all(&rig, &client, 1);
    rig_end(&rig);
}
END_TEST

/* ---- loops that do without --------------------------------------------------------------------
 */

/** A call of the trial that a kernel without the feature refuses, and what is said about it. */
static const struct {
    const char *call;
    unsigned nth;
    int error;
    const char *why;
} refusals[] = {
    {"socketpair", 1, -EMFILE, "a pair of sockets"},
    {"uring_init", 2, -ENOMEM, "a ring, for a trial"},
    {"uring_register_files", 1, -EINVAL, "registering a table (Linux 5.19)"},
    {"uring_set_file", 1, -EINVAL, "registering a table (Linux 5.19)"},
    {"uring_submit", 1, -EINVAL, "registering a table (Linux 5.19)"},
    {"uring_submit", 2, -EINVAL, "IORING_OP_FIXED_FD_INSTALL (Linux 6.8)"},
    {"uring_submit", 3, -EINVAL, "closing while others wait (Linux 6.13)"},
    {"recv", 1, -EAGAIN, "closing while others wait (Linux 6.13)"},
    {"getrlimit", 1, -EPERM, "RLIMIT_NOFILE"},
    {"uring_register_files", 2, -ENOMEM, "registering a table"},
};

/** The loop is as good as one that was not asked to, and says why. */
static void
must_do_without(const char *engine, const char *why, int error)
{
    struct berth_loop_options options;
    struct rig rig;
    char text[2048];
    memset(&seen, 0, sizeof(seen));
    rig_options(&options, engine, NULL);
    options.direct_descriptors = 1;
    static const struct berth_handlers plain = {.data = rig_echo};
    rig_begin(&rig, &options, &plain, NULL);
    faults_reset();
    const int needed = berth_loop_explain(rig.loop, text, sizeof(text));
    ck_assert_int_eq(needed, (int)strlen(text));
    ck_assert_int_eq(berth_loop_explain(rig.loop, NULL, 0), needed);
    ck_assert_msg(strstr(text, "descriptors: direct") == NULL, "%s", text);
    const char *said = strstr(text, "not direct descriptors: ");
    ck_assert_msg(said != NULL && strstr(said, why) != NULL, "no %s in:\n%s", why, text);
    ck_assert_msg(error == 0 || strstr(said, strerror(-error)) != NULL, "%s", text);
    rig_try_echo(&rig);
    rig_end(&rig);
}

START_TEST(refused_features)
{
    DIRECT_OR_RETURN;
    faults_fail(refusals[_i].call, refusals[_i].nth, 1, refusals[_i].error);
    const int said = strcmp(refusals[_i].call, "recv") == 0 ? -EOPNOTSUPP : refusals[_i].error;
    must_do_without("uring", refusals[_i].why, said);
}
END_TEST

START_TEST(readiness_engines_have_none)
{
    if (rig_has("epoll"))
        must_do_without("epoll", "only io_uring has them", 0);
    must_do_without("poll", "only io_uring has them", 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("direct descriptors: start");
    ADD(suite, before_the_first_turn_and_after, 1);
    ADD(suite, destroyed_before_the_first_turn, 1);
    ADD(suite, submission_refused, 1);
    ADD(suite, refused_features, (int)(sizeof(refusals) / sizeof(refusals[0])));
    ADD(suite, readiness_engines_have_none, 1);
    return test_run(suite);
}
