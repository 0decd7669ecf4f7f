/*
 * Files in the send queue when something goes wrong: the file becomes shorter, the disk or the
 * kernel fails, the socket or the program is out of something. Right bytes or a reset, and never a
 * signal. Every case runs on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/files.h"

#include <signal.h>

#include "loop/loop_internal.h"
#include "support/faults.h"
#include "support/sys_groups.h"

/* ---- what kernels and disks do -------------------------------------------------------------- */

START_TEST(it_becomes_shorter)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int copied = 0; copied < 2; copied++) {
        struct ends ends;
        start(&ends, engine);
        const int fd = make_file(2 << 20);
        if (copied)
            faults_fail("sendfile", 1, FAULTS_FOR_EVER, -EINVAL);
        send_part(&ends, fd, 2 << 20);
        while (ends.read < 100000) {
            (void)client_reads(&ends, 10000);
            (void)rig_turn(&ends.rig, 0);
        }
        /* At the end of a page: what lies behind it in the same page is wiped, whoever has it. */
        ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
        must_be_reset(&ends, -ENODATA);
        ck_assert_uint_le(ends.read, 1 << 20);
        faults_reset();
        finish(&ends, fd);
    }
}
END_TEST

/** The disk fails in the middle, and whatever else sendfile may say. */
START_TEST(errors_end_with_a_reset)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct {
        const char *call;
        int error;
    } errors[] = {{"sendfile", -EIO}, {"sendfile", -ECONNRESET}, {"pread", -EIO}};
    for (unsigned i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        struct ends ends;
        start(&ends, engine);
        const int fd = make_file(2 << 20);
        if (strcmp(errors[i].call, "pread") == 0)
            faults_fail("sendfile", 1, FAULTS_FOR_EVER, -EINVAL);
        faults_fail(errors[i].call, 3, FAULTS_FOR_EVER, errors[i].error);
        send_part(&ends, fd, 2 << 20);
        must_be_reset(&ends, errors[i].error);
        ck_assert_uint_lt(ends.read, 2 << 20);
        faults_reset();
        finish(&ends, fd);
    }
}
END_TEST

static intptr_t
send_few(int to, int from, off_t *offset, size_t size)
{
    return sys_direct_sendfile(to, from, offset, size < 1000 ? size : 1000);
}

static intptr_t
read_few(int fd, void *data, size_t size, off_t offset)
{
    return sys_direct_pread(fd, data, size < 1000 ? size : 1000, offset);
}

/** Less than was asked for, or nothing for now: all of it comes. */
START_TEST(short_and_interrupted)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    start(&ends, engine);
    const int fd = make_file(1 << 20);
    faults_fail("sendfile", 1, 3, -EINTR);
    send_part(&ends, fd, 200000);
    read_queued(&ends);
    faults_fail("sendfile", 1, 5, -EAGAIN);
    send_part(&ends, fd, 200000);
    read_queued(&ends);
    ck_assert_uint_eq(faults_hit("sendfile"), 5);
    faults_reset();
    berth_sys_sendfile = send_few;
    send_part(&ends, fd, 100000);
    read_queued(&ends);
    faults_fail("sendfile", 1, FAULTS_FOR_EVER, -EINVAL);
    berth_sys_pread = read_few;
    send_part(&ends, fd, 100000);
    send_copy(&ends, 10);
    read_queued(&ends);
    faults_fail("pread", 1, 2, -EINTR);
    send_part(&ends, fd, 100000);
    read_queued(&ends);
    faults_reset();
    ck_assert_uint_eq(copies_of(&ends).sent_file, 500000);
    finish(&ends, fd);
}
END_TEST

/** A file that cannot be sent by reference is copied, and the ledger says so. */
START_TEST(copied_where_it_must_be)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const char *const calls[] = {"sendfile", "set_nonblocking"};
    for (unsigned i = 0; i < 2; i++) {
        struct ends ends;
        start(&ends, engine);
        const int fd = make_file(2 << 20);
        faults_fail(calls[i], 1, FAULTS_FOR_EVER, i == 0 ? -EOPNOTSUPP : -EACCES);
        send_copy(&ends, 100);
        send_part(&ends, fd, 1 << 20);
        send_part(&ends, fd, 70000);
        send_copy(&ends, 600);
        read_queued(&ends);
        const struct berth_copies copies = copies_of(&ends);
        ck_assert_uint_eq(copies.sent_file, 0);
        ck_assert_uint_eq(copies.sent_kernel + copies.sent_zerocopy, ends.queued);
        ck_assert_uint_eq(copies.sent_gather, ends.queued);
        faults_reset();
        finish(&ends, fd);
    }
}
END_TEST

/** And if there is no place in the queue for a copy, that is the end. */
START_TEST(no_node_to_copy_into)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    start(&ends, engine);
    const int fd = make_file(100000);
    struct send_nodes *nodes = &ends.rig.loop->nodes;
    const uint32_t max = nodes->max;
    faults_fail("sendfile", 1, FAULTS_FOR_EVER, -EINVAL);
    send_part(&ends, fd, 100000);
    ck_assert_uint_eq(nodes->free_head, 0);
    nodes->max = nodes->fresh;
    must_be_reset(&ends, -ENOBUFS);
    nodes->max = max;
    faults_reset();
    finish(&ends, fd);
}
END_TEST

/** With no descriptor left: direct ones are not borrowed then, and the others need none. */
START_TEST(out_of_descriptors)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    struct rlimit limit, low;
    start(&ends, engine);
    const int fd = make_file(1 << 20);
    const int copy = copy_of(fd);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    low = limit;
    low.rlim_cur = 3;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
    send_copy(&ends, 100);
    ck_assert_int_eq(berth_send_file(the_conn(&ends), copy, 100, 900000), 0);
    ends.queued += 900000;
    look_at_marks(&ends, the_conn(&ends));
    read_queued(&ends);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    const struct berth_copies copies = copies_of(&ends);
    const int direct = strcmp(engine, "uring-direct") == 0;
    ck_assert_uint_eq(copies.sent_file, direct ? 0 : 900000);
    ck_assert_uint_eq(copies.sent_gather, direct ? 900100 : 100);
    finish(&ends, fd);
}
END_TEST

/** A peer that is gone is an error of the connection, and no SIGPIPE. */
START_TEST(no_sigpipe)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int ignored = 0; ignored < 2; ignored++) {
        struct ends ends;
        int pair[2];
        sigset_t pending;
        const int was_nonblocking = ignored;
        start(&ends, engine);
        const int fd = make_file(1 << 20);
        (void)signal(SIGPIPE, ignored ? SIG_IGN : SIG_DFL);
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        if (was_nonblocking)
            ck_assert_int_eq(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
        ck_assert_int_eq(berth_conn_abort(the_conn(&ends)), 0);
        RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
        ck_assert_int_eq(berth_adopt(ends.rig.loop, pair[0], &ends_callbacks, &ends, &ends.token),
                         0);
        ends.closes = 0;
        RIG_UNTIL(&ends.rig, ends.opens == 2, TURNS);
        ck_assert_int_eq(close(pair[1]), 0);
        RIG_UNTIL(&ends.rig, ends.eofs == 1, TURNS);
        ck_assert_int_eq(berth_send_file(the_conn(&ends), copy_of(fd), 0, 1 << 20), 0);
        RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
        ck_assert_int_eq(ends.reason, -EPIPE);
        ck_assert_int_eq(sigpending(&pending), 0);
        ck_assert_int_eq(sigismember(&pending, SIGPIPE), 0);
        (void)signal(SIGPIPE, SIG_DFL);
        finish(&ends, fd);
    }
}
END_TEST

/** Nor when the first pages are sent: it is they that the peer answers with a reset. */
START_TEST(no_sigpipe_after_the_first_pages)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    const int large = 4 << 20;
    start(&ends, engine);
    const int fd = make_file(1 << 20);
    (void)signal(SIGPIPE, SIG_DFL);
    const int socket = rig_conn_fd(the_conn(&ends));
    ck_assert_int_eq(setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &large, sizeof(large)), 0);
    ck_assert_int_eq(close(socket), 0);
    ck_assert_int_eq(close(ends.client), 0);
    RIG_UNTIL(&ends.rig, ends.eofs == 1, TURNS);
    ck_assert_int_eq(berth_send_file(the_conn(&ends), copy_of(fd), 0, 1 << 20), 0);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_msg(ends.reason == -EPIPE || ends.reason == -ECONNRESET, "%d", ends.reason);
    ck_assert_uint_gt(rig_stats(&ends.rig).sent_bytes, 0);
    ck_assert_int_eq(close(fd), 0);
    RIG_UNTIL(&ends.rig, berth_loop_conns(ends.rig.loop) == 0, TURNS);
    ways_end(&ends.rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop send_file faults");
    RIG_ADD(suite, it_becomes_shorter);
    RIG_ADD(suite, errors_end_with_a_reset);
    RIG_ADD(suite, short_and_interrupted);
    RIG_ADD(suite, copied_where_it_must_be);
    RIG_ADD(suite, no_node_to_copy_into);
    RIG_ADD(suite, out_of_descriptors);
    RIG_ADD(suite, no_sigpipe);
    RIG_ADD(suite, no_sigpipe_after_the_first_pages);
    return test_run(suite);
}
