/*
 * Files that must be read into buffers when there is none: the connection waits, and neither ends
 * nor keeps its loop busy; it goes on when buffers come back, from whatever thread; and while it
 * waits it can be closed, aborted, handed over and destroyed. Every case runs on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/files.h"

#include "loop/clock.h"

#include <pthread.h>
#include <time.h>

#include "berth/loop_cross.h"
#include "support/faults.h"

#define FILE_BYTES 300000u
#define SHORT_BYTES 100000u /* below the mark */
#define LEASES_MAX 100000

static struct berth_lease leases[LEASES_MAX];
static unsigned leases_count;

/** A connection in a loop whose pool is small, and a kernel that sends no file by reference. */
static int
begin_small(struct ends *ends, const char *engine)
{
    struct berth_pool_options pool;
    prepare(ends, engine);
    berth_pool_options_init(&pool);
    pool.bytes_max = 16 << 20;
    ends->options.pool = &pool;
    ends->options.receive_buffers = 64;
    ends->options.close_timeout_ms = 200;
    begin(ends);
    faults_fail("sendfile", 1, FAULTS_FOR_EVER, -EINVAL);
    return make_file(2 * FILE_BYTES);
}

/** Takes whatever the pool has left of those that files are read into. */
static void
empty_pool(const struct ends *ends)
{
    struct berth_pool *pool = berth_loop_pool(ends->rig.loop);
    for (int size_class = BERTH_CLASS_64K; size_class >= BERTH_CLASS_512; size_class--)
        while (leases_count < LEASES_MAX &&
               berth_pool_get(pool, (enum berth_class)size_class, BERTH_FOR_ACTIVE,
                              &leases[leases_count]) == 0)
            leases_count++;
    ck_assert_uint_lt(leases_count, LEASES_MAX);
}

static void
give_back(const struct ends *ends, unsigned down_to)
{
    while (leases_count > down_to)
        ck_assert_int_eq(berth_release(berth_loop_pool(ends->rig.loop), leases[--leases_count]), 0);
}

/** Nothing can be done: nobody is asked again and again. */
static void
must_rest(struct ends *ends)
{
    unsigned busy = 0;
    for (int i = 0; i < 5; i++) /* what is under way comes to rest */
        (void)rig_turn(&ends->rig, 0);
    const uint64_t before = rig_stats(&ends->rig).syscalls;
    for (int i = 0; i < 40; i++)
        busy += rig_turn(&ends->rig, 2) > 0;
    ck_assert_uint_eq(busy, 0);
    ck_assert_uint_le(rig_stats(&ends->rig).syscalls - before, 3 * 40); /* its waits */
    ck_assert_uint_eq(ends->closes, 0);
}

/** A file waits, of which nothing has been read. */
static int
begin_waiting(struct ends *ends, const char *engine)
{
    const int fd = begin_small(ends, engine);
    empty_pool(ends);
    send_part(ends, fd, FILE_BYTES);
    must_rest(ends);
    ck_assert_uint_eq(rig_stats(&ends->rig).sent_bytes, 0);
    return fd;
}

static void
finish_waiting(struct ends *ends, int fd)
{
    give_back(ends, 0);
    faults_reset();
    finish(ends, fd);
}

/* ---- going on ------------------------------------------------------------------------------- */

START_TEST(it_waits_and_goes_on)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    const int fd = begin_waiting(&ends, engine);
    give_back(&ends, 0);
    read_queued(&ends);
    ck_assert_uint_eq(copies_of(&ends).sent_gather, FILE_BYTES);
    /* And again. */
    empty_pool(&ends);
    send_part(&ends, fd, FILE_BYTES);
    must_rest(&ends);
    give_back(&ends, 0);
    read_queued(&ends);
    finish_waiting(&ends, fd);
}
END_TEST

/** One buffer comes back at a time: that is enough, and the bytes behind it keep their place. */
START_TEST(with_one_buffer)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    const int fd = begin_small(&ends, engine);
    send_copy(&ends, 1000);
    empty_pool(&ends);
    send_part(&ends, fd, FILE_BYTES);
    give_back(&ends, leases_count - 1);
    read_queued(&ends);
    finish_waiting(&ends, fd);
}
END_TEST

static void *
give_back_elsewhere(void *arg)
{
    give_back((const struct ends *)arg, 0);
    return NULL;
}

static uint64_t
milliseconds(void)
{
    struct timespec now;
    ck_assert_int_eq(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/** How long a turn waits at most of its own accord: the shortest of some. */
static uint64_t
shortest_wait_ms(const struct ends *ends)
{
    uint64_t shortest_ms = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        const uint64_t begin_ms = milliseconds();
        (void)rig_turn(&ends->rig, -1);
        const uint64_t waited_ms = milliseconds() - begin_ms;
        shortest_ms = waited_ms < shortest_ms ? waited_ms : shortest_ms;
    }
    return shortest_ms;
}

/** Nothing wakes the loop for what another thread gives back: it looks, every 5 ms. */
START_TEST(buffers_from_another_thread)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    pthread_t thread;
    const int fd = begin_waiting(&ends, engine);
    ck_assert_uint_lt(shortest_wait_ms(&ends), 500);
    ck_assert_int_eq(pthread_create(&thread, NULL, give_back_elsewhere, &ends), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    read_queued(&ends);
    finish_waiting(&ends, fd);
}
END_TEST

/** They share the only buffer, piece by piece, and one of them is ended meanwhile. */
START_TEST(several_wait)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    static unsigned char data[65536];
    int others[3];
    berth_token tokens[3];
    size_t got[3] = {0, SHORT_BYTES, 0};
    const int fd = begin_small(&ends, engine);
    const berth_token first = ends.token;
    for (unsigned i = 0; i < 3; i++) {
        others[i] = rig_client(&ends.rig);
        RIG_UNTIL(&ends.rig, ends.opens == i + 2, TURNS);
        tokens[i] = ends.token;
    }
    ends.token = first;
    empty_pool(&ends);
    send_part(&ends, fd, SHORT_BYTES);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(
            berth_send_file(berth_conn_find(ends.rig.loop, tokens[i]), copy_of(fd), 0, SHORT_BYTES),
            0);
    must_rest(&ends);
    ck_assert_uint_eq(rig_stats(&ends.rig).starved, 4);
    ck_assert_int_eq(berth_conn_abort(berth_conn_find(ends.rig.loop, tokens[1])), 0);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    give_back(&ends, leases_count - 1);
    for (unsigned turns = 0; got[0] < SHORT_BYTES || got[2] < SHORT_BYTES; turns++) {
        ck_assert_uint_lt(turns, 20 * TURNS);
        (void)client_reads(&ends, 10000);
        (void)rig_turn(&ends.rig, 1);
        for (unsigned i = 0; i < 3; i += 2) {
            const intptr_t now = rig_read(others[i], data, sizeof(data));
            ck_assert(now <= 0 || ways_same(data, (size_t)now, KEY_DOWN, got[i]));
            got[i] += now > 0 ? (size_t)now : 0;
        }
    }
    read_queued(&ends);
    for (unsigned i = 0; i < 3; i++) {
        struct berth_conn *conn = berth_conn_find(ends.rig.loop, tokens[i]);
        ck_assert_int_eq(conn == NULL ? 0 : berth_conn_abort(conn), 0);
        ck_assert_int_eq(close(others[i]), 0);
    }
    RIG_UNTIL(&ends.rig, ends.closes == 3, TURNS);
    ends.closes = 0;
    finish_waiting(&ends, fd);
}
END_TEST

/* ---- ends while it waits -------------------------------------------------------------------- */

enum ending { BY_ABORT, BY_PEER, BY_CLOSE, BY_WRITE_TIMEOUT, ENDINGS };

START_TEST(it_ends_while_it_waits)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const int reasons[] = {-ECANCELED, -ECONNRESET, -ETIMEDOUT, -ETIMEDOUT};
    for (int ending = 0; ending < ENDINGS; ending++) {
        struct ends ends;
        const int fd = begin_waiting(&ends, engine);
        struct berth_conn *conn = the_conn(&ends);
        const int client = ends.client;
        if (ending == BY_ABORT)
            ck_assert_int_eq(berth_conn_abort(conn), 0);
        else if (ending == BY_PEER)
            rig_reset(ends.client);
        else if (ending == BY_CLOSE) /* for close_timeout_ms */
            ck_assert_int_eq(berth_conn_close(conn), 0);
        else
            ck_assert_int_eq(berth_conn_timeout(conn, BERTH_TIMEOUT_WRITE, 50), 0);
        if (ending == BY_PEER) { /* its receiving is paused, and so only the next try may tell */
            for (int i = 0; i < 5; i++)
                (void)rig_turn(&ends.rig, 1);
            give_back(&ends, 0);
        }
        RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
        if (ending == BY_PEER && ends.reason == -EPIPE)
            ends.reason = -ECONNRESET;
        ck_assert_int_eq(ends.reason, reasons[ending]);
        give_back(&ends, 0);
        for (int i = 0; i < 5; i++)
            (void)rig_turn(&ends.rig, 0);
        if (ending != BY_PEER)
            ck_assert_int_eq(close(client), 0);
        ck_assert_int_eq(close(fd), 0);
        faults_reset();
        ways_end(&ends.rig);
    }
}
END_TEST

static int left_fd;

static void
on_left(struct berth_conn *conn, int fd, void *arg)
{
    (void)conn, (void)arg;
    left_fd = fd;
}

START_TEST(it_leaves_when_it_has_had_its_buffers)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    const int fd = begin_waiting(&ends, engine);
    left_fd = -1;
    ck_assert_int_eq(berth_conn_detach(the_conn(&ends), on_left, NULL), 0);
    must_rest(&ends);
    ck_assert_int_eq(left_fd, -1);
    give_back(&ends, 0);
    read_queued(&ends);
    RIG_UNTIL(&ends.rig, left_fd >= 0, TURNS);
    ck_assert_int_eq(close(left_fd), 0);
    ck_assert_int_eq(close(ends.client), 0);
    ck_assert_int_eq(close(fd), 0);
    faults_reset();
    ck_assert_uint_eq(ends.closes, 0);
    ways_end(&ends.rig);
}
END_TEST

/** Nobody can give a buffer back: they all stand in the queue, behind the file that waits for one.
 */
START_TEST(behind_it_stand_all_buffers)
{
    RIG_ENGINE_OR_RETURN(engine);
    static char data[65536];
    struct ends ends;
    clock_begin(1000);
    const int fd = begin_waiting(&ends, engine);
    give_back(&ends, 0);
    for (size_t length = sizeof(data); length > 0; length /= 2)
        while (berth_send(the_conn(&ends), data, length) == 0)
            ;
    empty_pool(&ends);
    must_rest(&ends);
    clock_now_ms += 9900;
    must_rest(&ends);
    clock_now_ms += 200;
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_int_eq(ends.reason, -ENOBUFS);
    give_back(&ends, 0);
    clock_end();
    ck_assert_int_eq(close(ends.client), 0);
    ck_assert_int_eq(close(fd), 0);
    faults_reset();
    rig_end(&ends.rig);
}
END_TEST

START_TEST(the_loop_is_destroyed)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    const int fd = begin_waiting(&ends, engine);
    give_back(&ends, 0); /* it has not heard of it yet */
    ck_assert_int_eq(close(fd), 0);
    ck_assert_int_eq(berth_loop_destroy(ends.rig.loop), 0);
    ck_assert_uint_eq(ends.closes, 1);
    ck_assert_int_eq(close(ends.client), 0);
    ck_assert_uint_eq(test_descriptors_open(), ends.rig.descriptors);
    faults_reset();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop send_file waits");
    RIG_ADD(suite, it_waits_and_goes_on);
    RIG_ADD(suite, with_one_buffer);
    RIG_ADD(suite, buffers_from_another_thread);
    RIG_ADD(suite, several_wait);
    RIG_ADD(suite, it_ends_while_it_waits);
    RIG_ADD(suite, it_leaves_when_it_has_had_its_buffers);
    RIG_ADD(suite, behind_it_stand_all_buffers);
    RIG_ADD(suite, the_loop_is_destroyed);
    return test_run(suite);
}
