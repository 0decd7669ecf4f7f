/*
 * A connection that floods, or drinks as fast as it is poured for, leaves each turn to the others.
 * And however little is taken at a time, nothing that a peer has said is missed.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include <berth/loop_cross.h>

#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>

#define MIB ((size_t)1 << 20)

/* ---- fairness ------------------------------------------------------------------------------- */

/** What a connection may move in a turn beyond its share: one bulk read, or one batch. */
#define SHARE_SLACK ((size_t)512 * 1024)

/** Who is not the flooder is echoed. */
static void
sink_or_echo(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    if (*(const char *)spans->data != 0)
        rig_echo(conn, spans, n, bytes);
}

START_TEST(flood_leaves_the_turn_to_others)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.data = sink_or_echo};
    struct berth_loop_options options;
    struct rig rig;
    rig_options(&options, engine, NULL);
    options.receive_buffers = 64; /* io_uring: what is posted bounds what a turn can bring */
    rig_begin(&rig, &options, &handlers, NULL);
    int clients[2] = {rig_client(&rig), rig_client(&rig)};
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 2, 100);
    for (unsigned i = 0; i < 200; i++) {
        const struct berth_loop_stats before = rig_stats(&rig);
        char byte = (char)(1 + i % 100);
        rig_flood(clients[0]);
        rig_write(clients[1], &byte, 1);
        (void)rig_turn(&rig, RIG_TURN_MS);
        (void)rig_turn(&rig, RIG_TURN_MS);
        byte = 0;
        ck_assert_int_eq(rig_read(clients[1], &byte, 1), 1);
        ck_assert_int_eq(byte, (char)(1 + i % 100));
        ck_assert_uint_le(rig_stats(&rig).received_bytes - before.received_bytes,
                          2 * (options.fairness_bytes + SHARE_SLACK));
    }
    ck_assert_uint_gt(rig_stats(&rig).received_bytes, 200 * 4096);
    rig_close_all(&rig, clients, 2);
    rig_end(&rig);
}
END_TEST

static char stream[256 * 1024];

/* Several floods: with others there, they take turns. */

#define FLOODS 8

static uint64_t flooded[64]; /* by index */

static void
count_or_echo(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    if (*(const char *)spans->data != 0)
        rig_echo(conn, spans, n, bytes);
    else
        flooded[berth_token_index(berth_conn_token(conn)) % 64] += bytes;
}

/** Connects that many floods, and behind them one that will not flood. */
static void
floods_begin(struct rig *rig, const struct berth_loop_options *options,
             const struct berth_handlers *handlers, int *clients, unsigned floods)
{
    rig_begin(rig, options, handlers, NULL);
    for (unsigned i = 0; i <= floods; i++)
        clients[i] = rig_client(rig);
    RIG_UNTIL(rig, berth_loop_conns(rig->loop) == floods + 1, 100);
}

static void
floods_end(struct rig *rig, const int *clients, unsigned floods)
{
    for (unsigned i = 0; i < floods; i++)
        rig_reset(clients[i]); /* the loop need not swallow what they have sent */
    rig_close_all(rig, &clients[floods], 1);
    rig_end(rig);
}

/** One turn with all floods at the door; returns the bytes that it took in. */
static uint64_t
flooded_turn(const struct rig *rig, const int *clients, unsigned floods)
{
    const uint64_t before = rig_stats(rig).received_bytes;
    for (unsigned i = 0; i < floods; i++)
        rig_flood(clients[i]);
    (void)rig_turn(rig, RIG_TURN_MS);
    return rig_stats(rig).received_bytes - before;
}

/** What the flood that received least has, in hundredths of an even part. */
static uint64_t
least_flooded(void)
{
    uint64_t least = UINT64_MAX, all = 0;
    for (unsigned i = 0; i < 64; i++) {
        all += flooded[i];
        if (flooded[i] != 0 && flooded[i] < least)
            least = flooded[i];
    }
    return least * 100 * FLOODS / all;
}

START_TEST(floods_take_turns_beside_others)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.data = count_or_echo};
    struct berth_loop_options options;
    struct rig rig;
    int clients[FLOODS + 1];
    rig_options(&options, engine, NULL);
    floods_begin(&rig, &options, &handlers, clients, FLOODS);
    const uint64_t share = options.fairness_bytes;
    uint64_t most = 0;
    for (unsigned i = 0; i < 400; i++) {
        if (i == 20) { /* by now all are known for what they are */
            memset(flooded, 0, sizeof(flooded));
            most = 0;
        }
        char byte = 'x';
        rig_write(clients[FLOODS], &byte, 1);
        for (unsigned k = 0; k < 2; k++) {
            const uint64_t bytes = flooded_turn(&rig, clients, FLOODS);
            most = bytes > most ? bytes : most;
        }
        ck_assert_int_eq(rig_read(clients[FLOODS], &byte, 1), 1);
    }
    /* A share, one more for every four, and what one began may come a turn later. */
    const uint64_t bound = 4 * share + share / 2;
    ck_assert_uint_le(most, bound);
    ck_assert_uint_ge(least_flooded(), 25);
    unsigned turns = 0; /* when nobody else is there any more, all go */
    while (flooded_turn(&rig, clients, FLOODS) <= bound)
        ck_assert_uint_lt(++turns, 3000);
    floods_end(&rig, clients, FLOODS);
}
END_TEST

/* Three floods, one at a time: none of them is alone. And the same when their pages are mapped. */

static void
map_or_echo(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    if (*(const char *)spans->data == 0)
        (void)berth_conn_map(conn, 1);
    count_or_echo(conn, spans, n, bytes);
}

static void
few_floods(const char *engine, const struct berth_handlers *handlers)
{
    struct berth_loop_options options;
    struct rig rig;
    enum { FEW = 3 };
    int clients[FEW + 1];
    rig_options(&options, engine, NULL);
    floods_begin(&rig, &options, handlers, clients, FEW);
    for (unsigned i = 0; i < 400; i++) {
        char byte = 'x';
        if (i % 20 == 0)
            rig_write(clients[FEW], &byte, 1);
        const uint64_t bytes = flooded_turn(&rig, clients, FEW);
        if (i > 60) /* a lane brings its limit twice */
            ck_assert_uint_le(bytes, 5 * (uint64_t)options.fairness_bytes);
        if (i % 20 == 2)
            ck_assert_int_eq(rig_read(clients[FEW], &byte, 1), 1);
    }
    floods_end(&rig, clients, FEW);
}

START_TEST(few_floods_are_not_alone)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.data = count_or_echo};
    static const struct berth_handlers mapping = {.data = map_or_echo};
    few_floods(engine, &handlers);
    few_floods(engine, &mapping);
}
END_TEST

/* What a peer said before it went is read, though its event was put by and nobody takes our bytes.
 */

struct last_words {
    size_t received;
    unsigned closes;
};

static void
hear(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct last_words *words = berth_conn_context(conn);
    (void)spans, (void)n;
    words->received += bytes;
}

static void
heard(struct berth_conn *conn, int reason)
{
    struct last_words *words = berth_conn_context(conn);
    (void)reason;
    words->closes++;
}

START_TEST(last_words_are_heard)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.data = count_or_echo};
    static const struct berth_handlers hearing = {.data = hear, .close = heard};
    struct berth_loop_options options;
    struct last_words words = {0};
    struct rig rig;
    berth_token token;
    int pair[2];
    rig_options(&options, engine, NULL);
    if (options.direct_descriptors)
        return; /* it adopts no descriptor */
    rig_begin(&rig, &options, &handlers, NULL);
    const int client = rig_client(&rig);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &hearing, &words, &token), 0);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 2, 100);
    const int small = 32768;
    ck_assert_int_eq(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    ck_assert_int_eq(berth_send(berth_conn_find(rig.loop, token), stream, 200000), 0);
    RIG_UNTIL(&rig, rig_stats(&rig).sent_bytes > 0, 100);
    char byte = 'x';
    rig_write(client, &byte, 1); /* somebody else is there */
    RIG_UNTIL(&rig, rig_read(client, &byte, 1) == 1, 100);
    rig_write(pair[1], stream, 32768); /* and this one is known for a flood */
    RIG_UNTIL(&rig, words.received == 32768, 100);
    rig_write(pair[1], stream, 20000);
    ck_assert_int_eq(close(pair[1]), 0);
    RIG_UNTIL(&rig, words.closes == 1, 100);
    ck_assert_uint_eq(words.received, 52768);
    rig_close_all(&rig, &client, 1);
    rig_end(&rig);
}
END_TEST

static void
wait_until_acknowledged(int client)
{
    int bytes = 1;
    while (bytes > 0) {
        ck_assert_int_eq(ioctl(client, SIOCOUTQ, &bytes), 0);
        (void)sched_yield();
    }
}

START_TEST(outer_loop_hears_of_floods_put_off)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.data = count_or_echo};
    struct berth_loop_options options;
    struct rig rig;
    int clients[FLOODS + 1];
    rig_options(&options, engine, NULL);
    options.fairness_bytes = 16 * 1024;
    floods_begin(&rig, &options, &handlers, clients, FLOODS);
    struct pollfd outer = {.fd = berth_loop_fd(rig.loop), .events = POLLIN};
    const int nests = strcmp(engine, "poll") != 0; /* that has no descriptor: it just turns */
    ck_assert_int_eq(outer.fd >= 0, nests);
    uint64_t sent = 0;
    for (unsigned round = 0; round < 30; round++) {
        rig_write(clients[FLOODS], "x", 1);
        for (unsigned i = 0; i < FLOODS; i++)
            rig_write(clients[i], stream, options.fairness_bytes); /* then nothing is left ready */
        for (unsigned i = 0; i <= FLOODS; i++)
            wait_until_acknowledged(clients[i]);
        sent += 1 + FLOODS * (uint64_t)options.fairness_bytes;
        while (rig_stats(&rig).received_bytes < sent) {
            ck_assert_int_eq(poll(&outer, (nfds_t)nests, 0), nests);
            (void)rig_turn(&rig, 0);
        }
    }
    rig_close_all(&rig, clients, FLOODS + 1);
    rig_end(&rig);
}
END_TEST

/* A stream without an end, to a reader of its own thread that keeps up. */

/** Twice that is queued at a time: by an event, behind it, and from the list of things to do. */
#define POURS_PER_TURN_MAX 4

static void
pour(struct berth_conn *conn)
{
    ck_assert_int_eq(berth_send(conn, stream, sizeof(stream)), 0);
    (void)berth_send(conn, stream, sizeof(stream));
}

static void
pour_or_echo(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    if (*(const char *)spans->data == 0)
        pour(conn);
    else
        rig_echo(conn, spans, n, bytes);
}

struct reader {
    int client;
    uint64_t bytes;
};

static void *
read_all(void *context)
{
    struct reader *reader = context;
    static char data[1 << 20];
    ssize_t got;
    while ((got = recv(reader->client, data, sizeof(data), 0)) > 0)
        __atomic_add_fetch(&reader->bytes, (uint64_t)got, __ATOMIC_RELAXED);
    return NULL;
}

START_TEST(endless_stream_leaves_the_turn_to_others)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.data = pour_or_echo, .drained = pour};
    struct berth_loop_options options;
    struct rig rig;
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &handlers, NULL);
    int clients[2] = {rig_client(&rig), rig_client(&rig)};
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 2, 100);
    const int flags = fcntl(clients[0], F_GETFL);
    ck_assert_int_eq(fcntl(clients[0], F_SETFL, flags & ~O_NONBLOCK), 0);
    rig_write(clients[0], "", 1);
    struct reader reader = {.client = clients[0]};
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, read_all, &reader), 0);
    RIG_UNTIL(&rig, rig_stats(&rig).sent_bytes > 2 * MIB, 2000);
    for (unsigned i = 0; i < 100; i++) {
        const struct berth_loop_stats before = rig_stats(&rig);
        char byte = 'x';
        rig_write(clients[1], &byte, 1);
        (void)rig_turn(&rig, RIG_TURN_MS);
        (void)rig_turn(&rig, RIG_TURN_MS);
        ck_assert_int_eq(rig_read(clients[1], &byte, 1), 1);
        /* What is queued goes out at once, but a turn has room for few answers to that. */
        ck_assert_uint_le(rig_stats(&rig).sent_bytes - before.sent_bytes,
                          2 * POURS_PER_TURN_MAX * 2 * sizeof(stream));
    }
    /* The stream was a real one; its reader may have had little of the processor until now. */
    RIG_UNTIL(&rig, __atomic_load_n(&reader.bytes, __ATOMIC_RELAXED) > MIB, 2000);
    ck_assert_int_eq(shutdown(clients[0], SHUT_RDWR), 0); /* it reads what has come, then ends */
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    /* Who has shut the receiving side opens no window any more: only a reset ends the other end. */
    rig_reset(clients[0]);
    rig_close_all(&rig, clients + 1, 1);
    rig_end(&rig);
}
END_TEST

/* ---- nothing is missed ---------------------------------------------------------------------- */

/** Credit for a few bytes at a time, given in the callback that used up the last. */
static void
sip(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    size_t *seen = berth_conn_context(conn);
    (void)spans, (void)n;
    *seen += bytes;
    ck_assert_int_eq(berth_conn_credit(conn, *seen < 2000 ? 10 : BERTH_CREDIT_UNLIMITED), 0);
}

static int
sip_open(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    return berth_conn_credit(conn, 10);
}

START_TEST(credit_by_sips)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.open = sip_open, .data = sip};
    struct berth_loop_options options;
    struct rig rig;
    size_t seen = 0;
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &handlers, &seen);
    int clients[1] = {rig_client(&rig)};
    rig_write(clients[0], stream, 3000);
    RIG_UNTIL(&rig, seen == 3000, 1000);
    rig_close_all(&rig, clients, 1);
    rig_end(&rig);
}
END_TEST

static void
count_bytes(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)spans, (void)n;
    *(size_t *)berth_conn_context(conn) += bytes;
}

/** Data, and behind it the end or a reset, all there before anybody looks. */
START_TEST(end_behind_data)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.data = count_bytes};
    static const size_t sizes[] = {1, 4096, 16 * 4096, 100000};
    struct berth_loop_options options;
    struct rig rig;
    size_t seen = 0;
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &handlers, &seen);
    for (unsigned i = 0; i < 2 * sizeof(sizes) / sizeof(sizes[0]); i++) {
        const int client = rig_client(&rig);
        const uint64_t closed = rig_stats(&rig).closed;
        seen = 0;
        rig_write(client, stream, sizes[i / 2]);
        if (i % 2 == 0)
            ck_assert_int_eq(close(client), 0);
        else
            rig_reset(client);
        RIG_UNTIL(&rig, rig_stats(&rig).closed == closed + 1, 50);
        ck_assert_uint_eq(berth_loop_conns(rig.loop), 0);
        if (i % 2 == 0)
            ck_assert_uint_eq(seen, sizes[i / 2]);
    }
    rig_end(&rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop fairness");
    RIG_ADD(suite, flood_leaves_the_turn_to_others);
    RIG_ADD(suite, floods_take_turns_beside_others);
    RIG_ADD(suite, few_floods_are_not_alone);
    RIG_ADD(suite, last_words_are_heard);
    RIG_ADD(suite, outer_loop_hears_of_floods_put_off);
    RIG_ADD(suite, endless_stream_leaves_the_turn_to_others);
    RIG_ADD(suite, credit_by_sips);
    RIG_ADD(suite, end_behind_data);
    return test_run(suite);
}
