/*
 * Clients that have finished sending and do not read: each byte for them arrives once they do, and
 * until then they cost neither turns nor threads. io_uring would give a send that waits for such a
 * client to a thread of its own, which blocks (lib/loop/engine_uring_room.c).
 *
 *   the client ends before anything is sent to it, or while a send finds no room
 *   while the loop receives from it, or does not, and so cannot know
 *   over TCP and unix sockets; sends that are copied, or read in place
 *   and then reads, in pieces                                many_who_do_not_read
 *   closed, shut down, aborted, detached, drained            ends_of_one, drained, destroyed
 *   a socket with news for somebody else                     news_that_nobody_reads
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ends.h"

#include <dirent.h>
#include <linux/net_tstamp.h>
#include <poll.h>

#include "berth/loop_cross.h"

#define CLIENTS 50

/** More than the sockets hold. */
#define CLIENT_BYTES (400u << 10)

/** Threads of the kernel that carry out what blocks. */
static unsigned
kernel_threads(void)
{
    unsigned threads = 0;
    DIR *tasks = opendir("/proc/self/task");
    ck_assert_ptr_nonnull(tasks);
    for (const struct dirent *task = readdir(tasks); task != NULL; task = readdir(tasks)) {
        char path[300], name[32] = "";
        (void)snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task->d_name);
        FILE *comm = task->d_name[0] == '.' ? NULL : fopen(path, "re");
        if (comm == NULL) /* or it has gone meanwhile */
            continue;
        (void)fgets(name, sizeof(name), comm);
        ck_assert_int_eq(fclose(comm), 0);
        threads += strncmp(name, "iou-wrk", 7) == 0;
    }
    ck_assert_int_eq(closedir(tasks), 0);
    return threads;
}

/** One turn, after which there must be no such thread. Returns what it handled. */
static int
turn_alone(const struct rig *rig, int timeout_ms)
{
    const int handled = rig_turn(rig, timeout_ms);
    const unsigned threads = kernel_threads();
    ck_assert_msg(threads == 0, "%u threads of the kernel", threads);
    return handled;
}

/** Turns until some in a row found nothing to do, and did nothing but wait. */
static void
turn_until_quiet(const struct rig *rig)
{
    for (unsigned quiet = 0, turns = 0; quiet < 10; turns++) {
        const uint64_t before = rig_stats(rig).syscalls;
        ck_assert_msg(turns < TURNS, "not quiet after %u turns", turns);
        const int handled = turn_alone(rig, RIG_TURN_MS);
        quiet = handled > 0 || rig_stats(rig).syscalls - before > 2 ? 0 : quiet + 1;
    }
}

/* ---- many ----------------------------------------------------------------------------------- */

struct many {
    struct rig rig;
    struct berth_loop_options options;
    int clients[CLIENTS];
    berth_token tokens[CLIENTS];
    size_t read[CLIENTS];
    unsigned opens, eofs, closes;
    uint64_t random;
};

static int
many_open(struct berth_conn *conn, void *ctx)
{
    struct many *many = ctx;
    const int bytes = SOCKET_BYTES;
    const int fd = rig_conn_fd(conn);
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(close(fd), 0);
    many->tokens[many->opens++] = berth_conn_token(conn);
    return 0;
}

static void
many_eof(struct berth_conn *conn)
{
    ((struct many *)berth_conn_context(conn))->eofs++;
}

static void
many_close(struct berth_conn *conn, int reason)
{
    ck_assert_int_eq(reason, 0);
    ((struct many *)berth_conn_context(conn))->closes++;
}

static const struct berth_handlers many_callbacks = {
    .open = many_open, .eof = many_eof, .close = many_close};

/** Kinds of clients, of sends, and of what comes first: bits. */
enum { FIRST = 1, PAUSED = 2, LOCAL = 4, IN_PLACE = 8, KINDS = 16 };

static void
many_begin(struct many *many, const char *engine, unsigned kind)
{
    memset(many, 0, sizeof(*many));
    many->random = test_seed(engine);
    rig_options(&many->options, engine, NULL);
    many->options.send_high_bytes = kind & PAUSED ? 64 * 1024 : 2 * CLIENT_BYTES;
    many->options.send_low_bytes = 32 * 1024;
    many->options.send_max_bytes = 4 * CLIENT_BYTES;
    if (kind & IN_PLACE) {
        many->options.zerocopy_bytes = 16384;
        many->options.features = "+zerocopy";
    }
    rig_begin(&many->rig, &many->options, &many_callbacks, many);
    for (unsigned i = 0; i < CLIENTS; i++) {
        int pair[2];
        if (kind & LOCAL) {
            ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
            ck_assert_int_eq(berth_adopt(many->rig.loop, pair[0], &many_callbacks, many, NULL), 0);
            many->clients[i] = pair[1];
        } else {
            many->clients[i] = rig_client(&many->rig);
        }
        RIG_UNTIL(&many->rig, many->opens == i + 1, TURNS);
    }
}

static void
many_finish(const struct many *many)
{
    for (unsigned i = 0; i < CLIENTS; i++)
        ck_assert_int_eq(shutdown(many->clients[i], SHUT_WR), 0);
}

/** Queues, in every way: in few pieces for some, for others in many. */
static void
many_queue(struct many *many, unsigned kind)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct berth_conn *conn = berth_conn_find(many->rig.loop, many->tokens[i]);
        ck_assert_ptr_nonnull(conn);
        for (size_t queued = 0; queued < CLIENT_BYTES;) {
            const enum way way =
                kind & IN_PLACE ? WAY_WRAPPED : (enum way)(test_random(&many->random) % WAY_COUNT);
            size_t length = i % 2 == 0 ? 100 << 10 : 10 << 10;
            if (length > CLIENT_BYTES - queued)
                length = CLIENT_BYTES - queued;
            ck_assert_int_eq(ways_send(conn, way, i, queued, length, &many->random), 0);
            queued += length;
        }
    }
}

static unsigned
many_waiting(const struct many *many)
{
    unsigned waiting = 0;
    for (unsigned i = 0; i < CLIENTS; i++)
        waiting += berth_conn_queued(berth_conn_find(many->rig.loop, many->tokens[i])) > 0;
    return waiting;
}

/** Everybody reads what is there, now and then, until each has all of it. In little pieces TCP
 * would wait for its timers. */
static void
many_read(struct many *many)
{
    static unsigned char data[WAYS_BYTES_MAX];
    unsigned idle = 0;
    for (unsigned left = CLIENTS; left > 0 && idle < TURNS; idle++) {
        left = 0;
        for (unsigned i = 0; i < CLIENTS; i++) {
            const intptr_t got = test_random(&many->random) % 4 != 0
                                     ? -EAGAIN
                                     : rig_read(many->clients[i], data, sizeof(data));
            ck_assert_msg(got > 0 || got == -EAGAIN, "read: %s", strerror((int)-got));
            if (got > 0) {
                ck_assert(ways_same(data, (size_t)got, i, many->read[i]));
                many->read[i] += (size_t)got;
                idle = 0;
            }
            left += many->read[i] < CLIENT_BYTES;
        }
        (void)turn_alone(&many->rig, idle == 0 ? 0 : RIG_TURN_MS);
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        ck_assert_uint_eq(many->read[i], CLIENT_BYTES);
}

/** Our side ends too: everybody is told once, and gone. */
static void
many_end(struct many *many)
{
    char byte;
    RIG_UNTIL(&many->rig, many_waiting(many) == 0 && many->eofs == CLIENTS, TURNS);
    for (unsigned i = 0; i < CLIENTS; i++)
        (void)berth_conn_shutdown(berth_conn_find(many->rig.loop, many->tokens[i]));
    RIG_UNTIL(&many->rig, many->closes == CLIENTS, TURNS);
    for (unsigned i = 0; i < CLIENTS; i++) {
        ck_assert_int_eq(rig_read(many->clients[i], &byte, 1), 0);
        ck_assert_int_eq(close(many->clients[i]), 0);
    }
    ways_end(&many->rig);
}

START_TEST(many_who_do_not_read)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned kind = 0; kind < KINDS; kind++) {
        struct many many;
        many_begin(&many, engine, kind);
        if (kind & FIRST) {
            many_finish(&many);
            RIG_UNTIL(&many.rig, many.eofs == CLIENTS, TURNS);
        }
        many_queue(&many, kind);
        turn_until_quiet(&many.rig);
        ck_assert_uint_eq(many_waiting(&many), CLIENTS);
        if (!(kind & FIRST)) {
            many_finish(&many);
            turn_until_quiet(&many.rig);
        }
        ck_assert_uint_eq(many_waiting(&many), CLIENTS);
        if (!(kind & PAUSED))
            ck_assert_uint_eq(many.eofs, CLIENTS);
        many_read(&many);
        many_end(&many);
    }
}
END_TEST

/* ---- one, and its end ----------------------------------------------------------------------- */

/** One that has finished, before or after `pieces` of 100 KiB found no room. */
static void
begin_one(struct ends *ends, const char *engine, int first, unsigned pieces)
{
    memset(&ways_wrapped, 0, sizeof(ways_wrapped));
    prepare(ends, engine);
    begin(ends);
    if (first) {
        ck_assert_int_eq(shutdown(ends->client, SHUT_WR), 0);
        RIG_UNTIL(&ends->rig, ends->eofs == 1, TURNS);
    }
    queue_wrapped(ends, pieces, 100 << 10);
    turn_until_quiet(&ends->rig);
    if (!first)
        ck_assert_int_eq(shutdown(ends->client, SHUT_WR), 0);
    turn_until_quiet(&ends->rig);
    ck_assert_uint_gt(berth_conn_queued(the_conn(ends)), 0);
}

static void
end_one(struct ends *ends)
{
    ck_assert_int_eq(close(ends->client), 0);
    ways_end(&ends->rig);
    ck_assert_uint_eq(ends->closes, 1);
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
        (void)turn_alone(&ends->rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    ck_assert_uint_eq(ends->read, ends->queued);
}

static struct {
    unsigned count;
    int fd;
} gone;

static void
detached(struct berth_conn *conn, int fd, void *arg)
{
    (void)conn, (void)arg;
    gone.count++;
    gone.fd = fd;
}

static void
leaves(struct ends *ends)
{
    memset(&gone, 0, sizeof(gone));
    ck_assert_int_eq(berth_conn_detach(the_conn(ends), detached, NULL), 0);
    turn_until_quiet(&ends->rig);
    ck_assert_uint_eq(gone.count, 0);
    read_queued(ends);
    RIG_UNTIL(&ends->rig, gone.count == 1, TURNS);
    ck_assert_int_ge(gone.fd, 0);
    rig_write(gone.fd, ways_bytes(KEY_DOWN, ends->queued, 100), 100);
    ck_assert_int_eq(client_reads(ends, 100), 100);
    ck_assert_int_eq(close(gone.fd), 0);
    ck_assert_uint_eq(ends->closes, 0);
    ends->closes++;
}

enum { SHUT_DOWN, CLOSED, ABORTED, DETACHED, MORE, WAYS_TO_END };

START_TEST(ends_of_one)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned i = 0; i < 2 * WAYS_TO_END; i++) {
        struct ends ends;
        begin_one(&ends, engine, i % 2, 5);
        struct berth_conn *conn = the_conn(&ends);
        switch (i / 2) {
        case SHUT_DOWN:
            ck_assert_int_eq(berth_conn_shutdown(conn), 0);
            break;
        case CLOSED:
            ck_assert_int_eq(berth_conn_close(conn), 0);
            break;
        case ABORTED:
            ck_assert_int_eq(berth_conn_abort(conn), 0);
            break;
        case DETACHED:
            leaves(&ends);
            break;
        default: /* it is sent more meanwhile, and the same ends it */
            queue_wrapped(&ends, 3, 100 << 10);
            turn_until_quiet(&ends.rig);
            read_queued(&ends);
            queue_wrapped(&ends, 3, 100 << 10);
            ck_assert_int_eq(berth_conn_shutdown(conn), 0);
        }
        if (i / 2 != DETACHED && i / 2 != ABORTED) {
            turn_until_quiet(&ends.rig);
            ck_assert_uint_eq(ends.closes, 0);
            read_to_the_end(&ends, WAYS_BYTES_MAX);
            ck_assert_uint_eq(ends.read, ends.queued);
        }
        RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
        end_one(&ends);
    }
}
END_TEST

/** It never reads, and the loop drains: the deadline ends it, with what was queued for it. */
START_TEST(drained)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int first = 0; first < 2; first++) {
        struct ends ends;
        begin_one(&ends, engine, first, 5);
        ck_assert_int_eq(berth_loop_drain(ends.rig.loop, 50), 0);
        RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
        ck_assert_int_eq(ends.reason, -ETIMEDOUT);
        RIG_UNTIL(&ends.rig, berth_loop_conns(ends.rig.loop) == 0, TURNS);
        ck_assert_int_eq(close(ends.client), 0);
        rig_end(&ends.rig);
        ck_assert_uint_eq(ends.closes, 1);
        ck_assert_uint_eq(ways_wrapped.made, ways_wrapped.freed);
    }
}
END_TEST

START_TEST(destroyed)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int first = 0; first < 2; first++) {
        struct ends ends;
        begin_one(&ends, engine, first, 5);
        ck_assert_int_eq(close(ends.client), 0);
        rig_end(&ends.rig);
        ck_assert_uint_eq(ends.closes, 1);
        ck_assert_uint_eq(ways_wrapped.made, ways_wrapped.freed);
    }
}
END_TEST

/* ---- news ----------------------------------------------------------------------------------- */

/** Whoever has time stamps made and does not fetch them: there is an "error" all the time. */
START_TEST(news_that_nobody_reads)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!rig_is_uring(engine)) /* the others fetch, and drop, what they find there */
        return;
    const int flags = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
    struct ends ends;
    memset(&ways_wrapped, 0, sizeof(ways_wrapped));
    prepare(&ends, engine);
    begin(&ends);
    const int fd = rig_conn_fd(the_conn(&ends));
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof(flags)), 0);
    queue_wrapped(&ends, 1, 100);
    read_queued(&ends);
    struct pollfd news = {.fd = fd};
    RIG_UNTIL(&ends.rig, poll(&news, 1, 0) == 1, TURNS);
    ck_assert_int_eq(news.revents, POLLERR);
    ck_assert_int_eq(close(fd), 0);
    queue_wrapped(&ends, 5, 100 << 10);
    turn_until_quiet(&ends.rig);
    ck_assert_uint_gt(berth_conn_queued(the_conn(&ends)), 0);
    read_queued(&ends);
    end(&ends);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("half_closed");
    RIG_ADD(suite, many_who_do_not_read);
    RIG_ADD(suite, ends_of_one);
    RIG_ADD(suite, drained);
    RIG_ADD(suite, destroyed);
    RIG_ADD(suite, news_that_nobody_reads);
    return test_run(suite);
}
