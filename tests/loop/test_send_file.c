/*
 * Files in the send queue: that their bytes arrive once, in order with everything else, whatever
 * the socket, the kernel and the disk do meanwhile; that the queue's marks and limits hold; and
 * that each descriptor is closed once. Every case runs on every engine.
 *
 * The invariant: descriptors are counted before and after each case (rig_end).
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ends.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>

#include "berth/loop_cross.h"
#include "support/faults.h"
#include "support/sys_groups.h"

/** A file with the stream's bytes, each where it belongs: a part of it can be sent from anywhere.
 */
static int
make_file(size_t bytes)
{
    const int fd = memfd_create("stream", MFD_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    for (size_t at = 0; at < bytes;) {
        const size_t length = bytes - at < WAYS_BYTES_MAX ? bytes - at : WAYS_BYTES_MAX;
        ck_assert_int_eq(write(fd, ways_bytes(KEY_DOWN, at, length), length), (ssize_t)length);
        at += length;
    }
    return fd;
}

static int
copy_of(int fd)
{
    const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    ck_assert_int_ge(copy, 0);
    return copy;
}

/** Queues the next bytes of the stream, from a descriptor that the loop gets. */
static void
send_part(struct ends *ends, int fd, size_t length)
{
    const int copy = copy_of(fd);
    ck_assert_int_eq(berth_send_file(the_conn(ends), copy, ends->queued, length), 0);
    ends->queued += length;
    look_at_marks(ends, the_conn(ends));
}

static void
send_copy(struct ends *ends, size_t length)
{
    ck_assert_int_eq(
        ways_send(the_conn(ends), WAY_COPY, KEY_DOWN, ends->queued, length, &ends->random), 0);
    ends->queued += length;
    look_at_marks(ends, the_conn(ends));
}

static struct berth_copies
copies_of(const struct ends *ends)
{
    struct berth_copies copies;
    berth_loop_copies_get(ends->rig.loop, &copies);
    return copies;
}

/** Reads what was queued, all of it and no more. */
static void
read_queued(struct ends *ends)
{
    for (unsigned idle = 0; ends->read < ends->queued && idle < TURNS; idle++) {
        const intptr_t got = client_reads(ends, WAYS_BYTES_MAX);
        ck_assert_msg(got > 0 || got == -EAGAIN, "read: %s", strerror((int)-got));
        if (got > 0)
            idle = 0;
        (void)rig_turn(&ends->rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    ck_assert_uint_eq(ends->read, ends->queued);
}

/** Reads until the connection is over. Returns -ECONNRESET, or 0 if it ended in good order. */
static intptr_t
read_until_over(struct ends *ends)
{
    intptr_t got = -EAGAIN;
    for (unsigned idle = 0; (got > 0 || got == -EAGAIN) && idle < TURNS; idle++) {
        got = client_reads(ends, WAYS_BYTES_MAX);
        if (got > 0)
            idle = 0;
        (void)rig_turn(&ends->rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    return got;
}

/** That connection is over, for that reason, with a reset. */
static void
must_be_reset(struct ends *ends, int reason)
{
    ck_assert_int_eq(read_until_over(ends), -ECONNRESET);
    RIG_UNTIL(&ends->rig, ends->closes == 1, TURNS);
    ck_assert_int_eq(ends->reason, reason);
}

static void
finish(struct ends *ends, int fd)
{
    ck_assert_int_eq(close(fd), 0);
    end(ends);
}

static void
start(struct ends *ends, const char *engine)
{
    prepare(ends, engine);
    begin(ends);
}

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
    ck_assert_uint_eq(copies.sent_kernel, total - of_files);
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
        ck_assert_uint_eq(copies.sent_kernel, ends.queued);
        ck_assert_uint_eq(copies.sent_gather, ends.queued);
        faults_reset();
        finish(&ends, fd);
    }
}
END_TEST

/** And if there is no buffer to copy it into, that is the end. */
START_TEST(no_buffer_to_copy_into)
{
    RIG_ENGINE_OR_RETURN(engine);
    static struct berth_lease leases[100000];
    struct berth_pool_options pool;
    struct ends ends;
    unsigned count = 0;
    prepare(&ends, engine);
    berth_pool_options_init(&pool);
    pool.bytes_max = 16 << 20;
    ends.options.pool = &pool;
    begin(&ends);
    const int fd = make_file(100000);
    faults_fail("sendfile", 1, FAULTS_FOR_EVER, -EINVAL);
    send_part(&ends, fd, 100000);
    for (int size_class = BERTH_CLASS_64K; size_class >= BERTH_CLASS_512; size_class--)
        while (count < 100000 &&
               berth_pool_get(berth_loop_pool(ends.rig.loop), (enum berth_class)size_class,
                              BERTH_FOR_ACTIVE, &leases[count]) == 0)
            count++;
    ck_assert_uint_lt(count, 100000);
    must_be_reset(&ends, -ENOBUFS);
    while (count > 0)
        ck_assert_int_eq(berth_release(berth_loop_pool(ends.rig.loop), leases[--count]), 0);
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
    RIG_ADD(suite, abort_in_the_middle);
    RIG_ADD(suite, peer_goes_in_the_middle);
    RIG_ADD(suite, loop_is_destroyed);
    RIG_ADD(suite, leaves_behind_its_file);
    RIG_ADD(suite, it_becomes_shorter);
    RIG_ADD(suite, errors_end_with_a_reset);
    RIG_ADD(suite, short_and_interrupted);
    RIG_ADD(suite, copied_where_it_must_be);
    RIG_ADD(suite, no_buffer_to_copy_into);
    RIG_ADD(suite, out_of_descriptors);
    RIG_ADD(suite, no_sigpipe);
    return test_run(suite);
}
