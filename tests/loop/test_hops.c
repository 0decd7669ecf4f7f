/*
 * Connections that hop between two loops in two threads while both sides send: no byte is lost,
 * doubled or out of order, and what the user keeps with a connection travels along. And moves that
 * do not succeed.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ways.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>

#include "berth/loop_cross.h"

/* In the loops' threads Check's assertions do not work. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, #condition);             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#define CONNS 12
#define STREAM_BYTES (1 << 20)
#define COLD_BYTES 64

/** Of one connection: its payload, which is all that travels. */
struct traveller {
    uint64_t received; /**< bytes of the up stream seen, as many of the down stream queued */
    uint64_t next_hop; /**< at which it moves again */
    uint64_t random;
    uint32_t hops, number;
};
BERTH_STATIC_ASSERT(sizeof(struct traveller) <= BERTH_CONN_PAYLOAD_BYTES, "it fits");

static struct world {
    struct berth_loop *loops[2];
    uint32_t opened, hops, moved, closed; /**< atomic */
    int running;                          /**< atomic: threads that have not stopped */
} world;

static const struct berth_handlers travelling;

static struct traveller *
traveller_of(struct berth_conn *conn)
{
    return berth_conn_payload(conn);
}

static void
has_moved(struct berth_loop *to, berth_token token, int error, void *ctx)
{
    MUST(error == 0 && to != NULL && token != BERTH_TOKEN_NONE && ctx == &world);
    struct berth_conn *conn = berth_conn_find(to, token);
    MUST(conn != NULL && traveller_of(conn)->hops > 0); /* the payload is there before open */
    __atomic_fetch_add(&world.moved, 1, __ATOMIC_RELAXED);
}

static void
hop(struct berth_conn *conn)
{
    struct traveller *traveller = traveller_of(conn);
    struct berth_loop *from = berth_conn_loop(conn);
    const int error =
        berth_conn_move(conn, world.loops[from == world.loops[0]], &travelling, &world, has_moved);
    if (error == -EALREADY)
        return; /* more came while it was leaving */
    MUST(error == 0);
    traveller->next_hop = traveller->received + 1 + test_random(&traveller->random) % 60000;
    traveller->hops++;
    __atomic_fetch_add(&world.hops, 1, __ATOMIC_RELAXED);
}

static int
traveller_open(struct berth_conn *conn, void *ctx)
{
    struct traveller *traveller = traveller_of(conn);
    MUST(ctx == &world);
    char *cold = berth_conn_cold(conn);
    if (traveller->hops > 0) {
        MUST((uint32_t)cold[COLD_BYTES - 1] == traveller->number);
        return 0;
    }
    traveller->number = __atomic_fetch_add(&world.opened, 1, __ATOMIC_RELAXED) + 1;
    traveller->random = traveller->number;
    cold[COLD_BYTES - 1] = (char)traveller->number;
    hop(conn); /* at once, before anything has been received */
    return 0;
}

static void
traveller_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct traveller *traveller = traveller_of(conn);
    for (unsigned i = 0; i < n; i++) {
        MUST(ways_same(spans[i].data, spans[i].length, 1, traveller->received));
        MUST(berth_send(conn, ways_bytes(2, traveller->received, spans[i].length),
                        spans[i].length) == 0);
        traveller->received += spans[i].length;
    }
    (void)bytes;
    if (traveller->received >= traveller->next_hop)
        hop(conn);
}

static void
traveller_eof(struct berth_conn *conn)
{
    MUST(traveller_of(conn)->received == STREAM_BYTES);
    MUST(berth_conn_close(conn) == 0);
}

static void
traveller_close(struct berth_conn *conn, int reason)
{
    MUST(reason == 0 && traveller_of(conn)->received == STREAM_BYTES);
    __atomic_fetch_add(&world.closed, 1, __ATOMIC_RELAXED);
}

static const struct berth_handlers travelling = {
    .open = traveller_open, .data = traveller_data, .eof = traveller_eof, .close = traveller_close};

/* ---- the two threads, and the clients between them ------------------------------------------ */

static void *
loop_main(void *arg)
{
    struct berth_loop *loop = arg;
    const char *why = NULL;
    MUST(berth_loop_run(loop) == 0);
    MUST(berth_table_verify(berth_loop_table(loop), &why) == 0);
    MUST(berth_pool_verify(berth_loop_pool(loop), &why) == 0);
    /* Both have stopped before either goes: nothing is between them. */
    __atomic_fetch_sub(&world.running, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&world.running, __ATOMIC_ACQUIRE) > 0)
        (void)poll(NULL, 0, 1);
    MUST(berth_loop_destroy(loop) == 0);
    return NULL;
}

struct client {
    int fd;
    size_t written, read;
};

/** Sends and reads what can be now. */
static void
client_moves(struct client *client)
{
    static unsigned char data[65536];
    if (client->written < STREAM_BYTES) {
        size_t length = STREAM_BYTES - client->written;
        length = length < 9000 ? length : 9000;
        const ssize_t sent = send(client->fd, ways_bytes(1, client->written, length), length,
                                  MSG_NOSIGNAL | MSG_DONTWAIT);
        client->written += sent > 0 ? (size_t)sent : 0;
        if (client->written == STREAM_BYTES)
            ck_assert_int_eq(shutdown(client->fd, SHUT_WR), 0);
    }
    for (intptr_t got; (got = rig_read(client->fd, data, sizeof(data))) > 0;) {
        ck_assert(ways_same(data, (size_t)got, 2, client->read));
        client->read += (size_t)got;
    }
}

static void
clients_run(struct client *clients)
{
    for (unsigned waits = 0, left = CONNS; left > 0 && waits < 1000000; waits++) {
        struct pollfd polls[CONNS];
        left = 0;
        for (unsigned i = 0; i < CONNS; i++) {
            client_moves(&clients[i]);
            if (clients[i].read == STREAM_BYTES)
                continue;
            polls[left++] = (struct pollfd){
                .fd = clients[i].fd,
                .events = (short)(POLLIN | (clients[i].written < STREAM_BYTES ? POLLOUT : 0))};
        }
        if (left > 0)
            ck_assert_msg(poll(polls, left, 20000) > 0, "nothing moves any more");
    }
    char byte;
    for (unsigned i = 0; i < CONNS; i++) {
        struct pollfd last = {.fd = clients[i].fd, .events = POLLIN};
        ck_assert_int_eq(poll(&last, 1, 20000), 1);
        ck_assert_int_eq(rig_read(clients[i].fd, &byte, 1), 0);
        ck_assert_int_eq(close(clients[i].fd), 0);
    }
}

static void
hop_between(const char *first, const char *second)
{
    const char *engines[2] = {first, second};
    struct berth_loop_options options;
    struct berth_listener *listener = NULL;
    struct client clients[CONNS];
    pthread_t threads[2];
    memset(&world, 0, sizeof(world));
    (void)ways_bytes(1, 0, 1); /* made once, before there are threads */
    for (int i = 0; i < 2; i++) {
        rig_options(&options, engines[i], NULL);
        options.cold_bytes = COLD_BYTES * (1 + (uint32_t)i);
        ck_assert_int_eq(berth_loop_create(&world.loops[i], &options), 0);
    }
    ck_assert_int_eq(
        berth_listen(world.loops[0], "tcp://127.0.0.1:0", &travelling, &world, &listener), 0);
    memset(clients, 0, sizeof(clients));
    for (unsigned i = 0; i < CONNS; i++) {
        clients[i].fd = rig_connect_to(listener);
        ck_assert_int_ge(clients[i].fd, 0);
    }
    world.running = 2;
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, loop_main, world.loops[i]), 0);
    clients_run(clients);
    for (unsigned waits = 0; __atomic_load_n(&world.closed, __ATOMIC_RELAXED) < CONNS; waits++) {
        ck_assert_uint_lt(waits, 20000);
        (void)poll(NULL, 0, 1);
    }
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(berth_loop_stop(world.loops[i]), 0);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    ck_assert_uint_eq(world.opened, CONNS);
    ck_assert_uint_eq(world.moved, world.hops);
    ck_assert_uint_ge(world.hops, CONNS * 10);
    printf("%s and %s: %u hops of %u connections\n", first, second, world.hops, CONNS);
}

START_TEST(streams_survive_hops)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int other = 0; other < RIG_ENGINES; other++)
        if (rig_has(rig_engines[other]))
            hop_between(engine, rig_engines[other]);
}
END_TEST

/* ---- moves that fail ------------------------------------------------------------------------ */

static struct {
    unsigned opens, closes, count;
    int reason, error;
    struct berth_loop *to;
    berth_token token;
} tried;

static int
try_open(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    tried.opens++;
    tried.token = berth_conn_token(conn);
    return 0;
}

static void
try_close(struct berth_conn *conn, int reason)
{
    (void)conn;
    tried.closes++;
    tried.reason = reason;
}

static const struct berth_handlers trying = {.open = try_open, .close = try_close};

static void
try_moved(struct berth_loop *to, berth_token token, int error, void *ctx)
{
    ck_assert_ptr_eq(ctx, &tried);
    ck_assert(error == 0 ? token != BERTH_TOKEN_NONE : token == BERTH_TOKEN_NONE);
    tried.count++;
    tried.error = error;
    tried.to = to;
}

static int
try_begin(struct rig *rig, const char *engine)
{
    struct berth_loop_options options;
    memset(&tried, 0, sizeof(tried));
    rig_options(&options, engine, NULL);
    rig_begin(rig, &options, &trying, NULL);
    const int client = rig_client(rig);
    RIG_UNTIL(rig, tried.opens == 1, 100);
    return client;
}

static int
try_move(const struct rig *rig, struct berth_loop *to)
{
    return berth_conn_move(berth_conn_find(rig->loop, tried.token), to, &trying, &tried, try_moved);
}

START_TEST(new_loop_goes_first)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    struct berth_loop *other = NULL;
    char byte;
    const int client = try_begin(&rig, engine);
    rig_options(&options, engine, NULL);
    ck_assert_int_eq(berth_loop_create(&other, &options), 0);
    ck_assert_int_eq(try_move(&rig, other), 0);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, 100);
    ck_assert_uint_eq(tried.count, 0); /* between the two */
    ck_assert_int_eq(berth_loop_destroy(other), 0);
    ck_assert_uint_eq(tried.count, 1);
    ck_assert_int_eq(tried.error, -ECANCELED);
    ck_assert_ptr_null(tried.to);
    ck_assert_uint_eq(tried.closes, 0);
    (void)rig_turn(&rig, 0); /* a place in a table of direct descriptors is emptied then */
    ck_assert_int_eq(rig_read(client, &byte, 1), 0); /* it was closed, not leaked */
    ck_assert_int_eq(close(client), 0);
    rig_end(&rig);
}
END_TEST

START_TEST(no_room_there)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    struct berth_loop *other = NULL;
    int pair[2];
    berth_token token;
    if (strcmp(engine, "uring-direct") == 0)
        return; /* its connections have no descriptors that could be too high */
    const int client = try_begin(&rig, engine);
    rig_options(&options, engine, NULL);
    options.conns_max = 1024;
    ck_assert_int_eq(berth_loop_create(&other, &options), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    const int high = fcntl(pair[0], F_DUPFD_CLOEXEC, 1500);
    ck_assert_int_ge(high, 1500);
    ck_assert_int_eq(close(pair[0]), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, high, &trying, NULL, &token), 0);
    RIG_UNTIL(&rig, tried.opens == 2, 100);
    ck_assert_int_eq(try_move(&rig, other), -EMFILE);
    ck_assert_int_eq(try_move(&rig, NULL), -EINVAL);
    for (int i = 0; i < 3; i++)
        (void)rig_turn(&rig, 0);
    ck_assert_uint_eq(berth_loop_conns(rig.loop), 2); /* nothing has happened to it */
    ck_assert_uint_eq(tried.count, 0);
    ck_assert_int_eq(berth_loop_destroy(other), 0);
    ck_assert_int_eq(close(pair[1]), 0);
    rig_close_all(&rig, &client, 1);
    rig_end(&rig);
}
END_TEST

START_TEST(fails_before_it_left)
{
    RIG_ENGINE_OR_RETURN(engine);
    static char data[8 << 20];
    struct rig rig;
    struct berth_loop_options options;
    struct berth_loop *other = NULL;
    const int client = try_begin(&rig, engine);
    rig_options(&options, engine, NULL);
    ck_assert_int_eq(berth_loop_create(&other, &options), 0);
    ck_assert_int_eq(berth_send(berth_conn_find(rig.loop, tried.token), data, sizeof(data)), 0);
    ck_assert_int_eq(try_move(&rig, other), 0);
    rig_reset(client);
    RIG_UNTIL(&rig, tried.closes == 1, 100);
    ck_assert_uint_eq(tried.count, 1);
    ck_assert_int_eq(tried.error, tried.reason);
    ck_assert_int_lt(tried.error, 0);
    ck_assert_ptr_null(tried.to);
    ck_assert_int_eq(berth_loop_destroy(other), 0);
    rig_end(&rig);
}
END_TEST

/** A side that was ended stays ended, and both ends make it close. */
START_TEST(ended_side_stays_ended)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    char byte;
    const int client = try_begin(&rig, engine);
    struct rig other = {.loop = NULL};
    rig_options(&options, "epoll", NULL);
    ck_assert_int_eq(berth_loop_create(&other.loop, &options), 0);
    ck_assert_int_eq(berth_conn_shutdown(berth_conn_find(rig.loop, tried.token)), 0);
    ck_assert_int_eq(try_move(&rig, other.loop), 0);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, 100);
    RIG_UNTIL(&other, tried.opens == 2, 100);
    ck_assert_int_eq(tried.error, 0);
    ck_assert_ptr_eq(tried.to, other.loop);
    ck_assert_int_eq(berth_send(berth_conn_find(other.loop, tried.token), "x", 1), -EPIPE);
    ck_assert_int_eq(rig_read(client, &byte, 1), 0);
    ck_assert_int_eq(close(client), 0);
    RIG_UNTIL(&other, tried.closes == 1, 100);
    ck_assert_int_eq(tried.reason, 0);
    ck_assert_int_eq(berth_loop_destroy(other.loop), 0);
    rig_end(&rig);
}
END_TEST

/** Its own loop is a loop like any other: that changes who serves a connection. */
START_TEST(to_the_same_loop)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    const int client = try_begin(&rig, engine);
    ck_assert_int_eq(try_move(&rig, rig.loop), 0);
    RIG_UNTIL(&rig, tried.opens == 2, 100);
    ck_assert_int_eq(tried.error, 0);
    ck_assert_uint_eq(berth_loop_conns(rig.loop), 1);
    ck_assert_uint_eq(tried.closes, 0);
    rig_close_all(&rig, &client, 1);
    ck_assert_uint_eq(tried.closes, 1);
    rig_end(&rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("hops");
    RIG_ADD(suite, streams_survive_hops);
    RIG_ADD(suite, new_loop_goes_first);
    RIG_ADD(suite, no_room_there);
    RIG_ADD(suite, fails_before_it_left);
    RIG_ADD(suite, ended_side_stays_ended);
    RIG_ADD(suite, to_the_same_loop);
    return test_run(suite);
}
