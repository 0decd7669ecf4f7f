/*
 * Files in the send queue: that their bytes arrive once, in order with everything else; that the
 * queue's marks and limits hold, whatever the length; and that each descriptor is closed once,
 * however the connection ends. What kernels and disks do meanwhile is in test_send_file_faults.c.
 * Every case runs on every engine.
 *
 * The invariant: descriptors are counted before and after each case (rig_end).
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/files.h"

#include "berth/loop_cross.h"

/* ---- order ---------------------------------------------------------------------------------- */

/** Between pieces of every other kind, one after another, and of all lengths. */
START_TEST(in_order_with_everything_else)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    start(&ends, engine);
    const size_t total = test_is_slow() ? 1 << 20 : 8 << 20;
    const int fd = make_file(total);
    size_t of_files = 0;
    while (ends.queued < total) {
        while (ends.queued < total && !ends.over_mark) {
            const unsigned way = (unsigned)(test_random(&ends.random) % (2 * WAY_COUNT));
            size_t length = ways_length(&ends.random, WAYS_BYTES_MAX);
            if (length > total - ends.queued)
                length = total - ends.queued;
            if (way >= WAY_COUNT) {
                send_part(&ends, fd, length);
                of_files += length;
                continue;
            }
            ck_assert_int_eq(ways_send(the_conn(&ends), (enum way)way, KEY_DOWN, ends.queued,
                                       length, &ends.random),
                             0);
            ends.queued += length;
            look_at_marks(&ends, the_conn(&ends));
        }
        read_queued(&ends);
    }
    const struct berth_copies copies = copies_of(&ends);
    ck_assert_uint_eq(copies.sent, total);
    ck_assert_uint_eq(copies.sent_file, of_files);
    ck_assert_uint_eq(copies.sent_kernel + copies.sent_zerocopy, total - of_files);
    ck_assert_uint_eq(rig_stats(&ends.rig).sent_bytes, total);
    finish(&ends, fd);
}
END_TEST

START_TEST(then_shutdown_or_close)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int closes = 0; closes < 2; closes++) {
        struct ends ends;
        start(&ends, engine);
        const int fd = make_file(1 << 20);
        send_copy(&ends, 200);
        send_part(&ends, fd, 700000);
        send_part(&ends, fd, 100000);
        struct berth_conn *conn = the_conn(&ends);
        ck_assert_int_eq(closes ? berth_conn_close(conn) : berth_conn_shutdown(conn), 0);
        ck_assert_int_eq(berth_send_file(conn, fd, 0, 1), -EPIPE);
        read_to_the_end(&ends, WAYS_BYTES_MAX);
        ck_assert_uint_eq(ends.read, 800200);
        finish(&ends, fd);
    }
}
END_TEST

/* ---- refusals ------------------------------------------------------------------------------- */

START_TEST(refusals_leave_the_descriptor)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    int pipe_ends[2];
    prepare(&ends, engine);
    ends.options.send_max_bytes = ends.options.send_high_bytes;
    begin(&ends);
    struct berth_conn *conn = the_conn(&ends);
    const int fd = make_file(1000000);
    ck_assert_int_eq(pipe2(pipe_ends, O_CLOEXEC), 0);
    const int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    const int write_only = open(path, O_WRONLY | O_CLOEXEC);
    ck_assert_int_ge(write_only, 0);

    ck_assert_int_eq(berth_send_file(NULL, fd, 0, 1), -EINVAL);
    ck_assert_int_eq(berth_send_file(conn, fd, 0, 0), -EINVAL);
    ck_assert_int_eq(berth_send_file(conn, fd, UINT64_MAX, 2), -EINVAL);
    ck_assert_int_eq(berth_send_file(conn, fd, 1, UINT64_MAX), -EINVAL);
    ck_assert_int_eq(berth_send_file(conn, fd, 0, (uint64_t)INT64_MAX + 1), -EINVAL);
    ck_assert_int_eq(berth_send_file(conn, pipe_ends[0], 0, 1), -EINVAL);
    ck_assert_int_eq(berth_send_file(conn, ends.client, 0, 1), -EINVAL);
    ck_assert_int_eq(berth_send_file(conn, directory, 0, 1), -EINVAL);
    ck_assert_int_eq(berth_send_file(conn, null_fd, 0, 1), -EINVAL);
    ck_assert_int_eq(berth_send_file(conn, fd, 0, 1000001), -ERANGE);
    ck_assert_int_eq(berth_send_file(conn, fd, 1000000, 1), -ERANGE);
    ck_assert_int_eq(berth_send_file(conn, -1, 0, 1), -EBADF);
    ck_assert_int_eq(berth_send_file(conn, write_only, 0, 1), -EBADF);
    ck_assert_uint_eq(berth_conn_queued(conn), 0);

    /* Its length is no reason to refuse it; what is queued already is. */
    send_copy(&ends, 1);
    send_part(&ends, fd, 900000);
    ck_assert_int_eq(berth_send_file(conn, fd, 0, 1), -ENOBUFS);
    ck_assert_int_eq(berth_send(conn, "x", 1), -ENOBUFS);
    ck_assert_uint_eq(rig_stats(&ends.rig).send_refused, 2);
    read_queued(&ends);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(close(pipe_ends[i]), 0);
    ck_assert_int_eq(close(directory), 0);
    ck_assert_int_eq(close(null_fd), 0);
    ck_assert_int_eq(close(write_only), 0);
    ck_assert_int_eq(berth_conn_abort(conn), 0);
    ck_assert_int_eq(berth_send_file(conn, fd, 0, 1), -EPIPE);
    finish(&ends, fd);
}
END_TEST

/* ---- marks ---------------------------------------------------------------------------------- */

START_TEST(marks_and_drained)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    start(&ends, engine);
    const size_t high = ends.options.send_high_bytes;
    const int fd = make_file(3 << 20);
    send_part(&ends, fd, 2 << 20);
    ck_assert_uint_eq(berth_conn_queued(the_conn(&ends)), high);
    send_part(&ends, fd, 1000);
    ck_assert_uint_eq(berth_conn_queued(the_conn(&ends)), high + 1000);
    client_writes(&ends, 1000);
    for (int i = 0; i < 20; i++)
        (void)rig_turn(&ends.rig, 1);
    ck_assert_uint_eq(rig_stats(&ends.rig).pauses, 1);
    ck_assert_uint_eq(ends.drained, 0);
    while (ends.drained == 0) {
        const size_t sent = rig_stats(&ends.rig).sent_bytes;
        const size_t of_first = sent < 2 << 20 ? (2 << 20) - sent : 0;
        const size_t of_second = sent < 2 << 20 ? 1000 : (2 << 20) + 1000 - sent;
        ck_assert_uint_eq(berth_conn_queued(the_conn(&ends)),
                          (of_first < high ? of_first : high) + of_second);
        (void)client_reads(&ends, 10000);
        (void)rig_turn(&ends.rig, 0);
    }
    ck_assert_uint_gt(ends.read, 1 << 20);
    read_queued(&ends);
    RIG_UNTIL(&ends.rig, ends.received == ends.written, TURNS);
    ck_assert_uint_eq(ends.drained, 1);
    ck_assert_uint_eq(berth_conn_queued(the_conn(&ends)), 0);
    finish(&ends, fd);
}
END_TEST

/** Lengths that 32 bits do not hold; nobody waits for their end. */
START_TEST(beyond_four_gigabytes)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    static const uint64_t bytes = (UINT64_C(5) << 30) + 12345;
    start(&ends, engine);
    const int fd = make_file(100);
    ck_assert_int_eq(ftruncate(fd, (off_t)bytes), 0);
    struct berth_conn *conn = the_conn(&ends);
    for (unsigned i = 1; i <= 3; i++) {
        ck_assert_int_eq(berth_send_file(conn, copy_of(fd), 0, bytes), 0);
        ck_assert_uint_eq(berth_conn_queued(conn), i * ends.options.send_high_bytes);
    }
    /* The last byte of such a file, too. */
    ck_assert_int_eq(pwrite(fd, ways_bytes(KEY_DOWN, 0, 5), 5, (off_t)bytes - 5), 5);
    ck_assert_int_eq(berth_conn_abort(conn), 0);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_int_eq(close(ends.client), 0);
    ends.client = rig_client(&ends.rig);
    ends.closes = 0;
    RIG_UNTIL(&ends.rig, ends.opens == 2, TURNS);
    ck_assert_int_eq(berth_send_file(the_conn(&ends), copy_of(fd), bytes - 5, 5), 0);
    ends.queued = 5;
    read_queued(&ends);
    finish(&ends, fd);
}
END_TEST

/* ---- turns ---------------------------------------------------------------------------------- */

/** A long file leaves the others their part of each turn. */
START_TEST(others_have_their_turn)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    const int bytes = 8 << 20;
    prepare(&ends, engine);
    ends.options.fairness_bytes = 4096;
    begin(&ends);
    const int socket = rig_conn_fd(the_conn(&ends));
    ck_assert_int_eq(setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(setsockopt(ends.client, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(close(socket), 0);
    const int fd = make_file(8 << 20);
    send_part(&ends, fd, 8 << 20);
    uint64_t before = 0;
    while (ends.read < ends.queued) {
        (void)rig_turn(&ends.rig, 0);
        const uint64_t sent = rig_stats(&ends.rig).sent_bytes;
        /* Once for what it has still to do, once for each event: the socket has room, and on
         * io_uring its paused receive has ended. */
        ck_assert_uint_le(sent - before, 3 * 16 * 4096);
        before = sent;
        (void)client_reads(&ends, WAYS_BYTES_MAX);
    }
    ck_assert_uint_ge(rig_stats(&ends.rig).fairness_stops, 10);
    finish(&ends, fd);
}
END_TEST

/** A peer that has finished sending, and does not read: nobody is woken for it again and again. */
START_TEST(half_closed_peer_does_not_read)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    start(&ends, engine);
    const int fd = make_file(2 << 20);
    ck_assert_int_eq(shutdown(ends.client, SHUT_WR), 0);
    RIG_UNTIL(&ends.rig, ends.eofs == 1, TURNS);
    send_part(&ends, fd, 2 << 20);
    for (unsigned quiet = 0, turns = 0; quiet < 5; turns++) {
        ck_assert_uint_lt(turns, TURNS);
        quiet = rig_turn(&ends.rig, 20) > 0 ? 0 : quiet + 1;
    }
    ck_assert_uint_gt(berth_conn_queued(the_conn(&ends)), 0);
    read_queued(&ends);
    ck_assert_uint_eq(rig_stats(&ends.rig).sent_bytes, 2 << 20);
    finish(&ends, fd);
}
END_TEST

/* ---- ends ----------------------------------------------------------------------------------- */

START_TEST(abort_in_the_middle)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    start(&ends, engine);
    const int fd = make_file(2 << 20);
    const unsigned descriptors = test_descriptors_open();
    send_part(&ends, fd, 1 << 20);
    send_copy(&ends, 100);
    send_part(&ends, fd, 100000);
    while (ends.read < 100000) {
        (void)client_reads(&ends, 10000);
        (void)rig_turn(&ends.rig, 0);
    }
    ck_assert_int_eq(berth_conn_abort(the_conn(&ends)), 0);
    RIG_UNTIL(&ends.rig, ends.closes == 1 && berth_loop_conns(ends.rig.loop) == 0, TURNS);
    ck_assert_uint_le(test_descriptors_open(), descriptors);
    finish(&ends, fd);
}
END_TEST

START_TEST(peer_goes_in_the_middle)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    start(&ends, engine);
    const int fd = make_file(2 << 20);
    send_part(&ends, fd, 2 << 20);
    for (int i = 0; i < 10; i++)
        (void)rig_turn(&ends.rig, 1);
    rig_reset(ends.client);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_msg(ends.reason == -ECONNRESET || ends.reason == -EPIPE, "%d", ends.reason);
    ck_assert_int_eq(close(fd), 0);
    RIG_UNTIL(&ends.rig, berth_loop_conns(ends.rig.loop) == 0, TURNS);
    ways_end(&ends.rig);
}
END_TEST

START_TEST(loop_is_destroyed)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    start(&ends, engine);
    const int fd = make_file(2 << 20);
    send_part(&ends, fd, 1 << 20);
    send_part(&ends, fd, 1 << 20);
    (void)rig_turn(&ends.rig, 0);
    ck_assert_int_eq(close(fd), 0);
    ck_assert_int_eq(berth_loop_destroy(ends.rig.loop), 0);
    ck_assert_uint_eq(ends.closes, 1);
    ck_assert_int_eq(close(ends.client), 0);
    ck_assert_uint_eq(test_descriptors_open(), ends.rig.descriptors);
}
END_TEST

static int left_fd;

static void
on_left(struct berth_conn *conn, int fd, void *arg)
{
    (void)conn, (void)arg;
    left_fd = fd;
}

/** It goes when the file has gone, and waits in reading and writing as it did before. */
START_TEST(leaves_behind_its_file)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    char byte;
    start(&ends, engine);
    const int fd = make_file(1 << 20);
    send_part(&ends, fd, 1 << 20);
    left_fd = -1;
    ck_assert_int_eq(berth_conn_detach(the_conn(&ends), on_left, NULL), 0);
    for (int i = 0; i < 20; i++)
        (void)rig_turn(&ends.rig, 1);
    ck_assert_int_eq(left_fd, -1);
    while (ends.read < ends.queued) {
        (void)client_reads(&ends, WAYS_BYTES_MAX);
        (void)rig_turn(&ends.rig, 0);
    }
    RIG_UNTIL(&ends.rig, left_fd >= 0, TURNS);
    ck_assert_int_eq(fcntl(left_fd, F_GETFL, 0) & O_NONBLOCK, 0);
    ck_assert_int_eq(close(left_fd), 0);
    RIG_UNTIL(&ends.rig, rig_read(ends.client, &byte, 1) == 0, TURNS);
    ck_assert_int_eq(close(ends.client), 0);
    ck_assert_int_eq(close(fd), 0);
    ck_assert_uint_eq(ends.closes, 0);
    ways_end(&ends.rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop send_file");
    RIG_ADD(suite, in_order_with_everything_else);
    RIG_ADD(suite, then_shutdown_or_close);
    RIG_ADD(suite, refusals_leave_the_descriptor);
    RIG_ADD(suite, marks_and_drained);
    RIG_ADD(suite, beyond_four_gigabytes);
    RIG_ADD(suite, others_have_their_turn);
    RIG_ADD(suite, half_closed_peer_does_not_read);
    RIG_ADD(suite, abort_in_the_middle);
    RIG_ADD(suite, peer_goes_in_the_middle);
    RIG_ADD(suite, loop_is_destroyed);
    RIG_ADD(suite, leaves_behind_its_file);
    return test_run(suite);
}
