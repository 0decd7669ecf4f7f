/*
 * The callback contract: which callback comes when, that close comes exactly once per open and
 * nothing after it, and that a callback may do anything to any connection. Every case runs on every
 * engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#define TURNS 400
#define MANY 64

/** What happened, in order: o(pen) d(ata) e(of) c(lose) r(drained). */
struct record {
    char events[256];
    unsigned length;
    unsigned opens, closes, datas;
    int reason;       /**< of the last close */
    berth_token last; /**< the connection last opened */
    int (*on_open)(struct record *, struct berth_conn *);
    void (*on_data)(struct record *, struct berth_conn *);
    void (*on_eof)(struct record *, struct berth_conn *);
    struct rig *rig;
};

static void
note(struct record *record, char event)
{
    if (record->length < sizeof(record->events) - 1)
        record->events[record->length++] = event;
}

static int
record_open(struct berth_conn *conn, void *ctx)
{
    struct record *record = ctx;
    ck_assert_ptr_eq(berth_conn_context(conn), ctx);
    note(record, 'o');
    record->last = berth_conn_token(conn);
    const int refused = record->on_open != NULL ? record->on_open(record, conn) : 0;
    record->opens += refused == 0;
    return refused;
}

static void
record_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct record *record = berth_conn_context(conn);
    size_t sum = 0;
    for (unsigned i = 0; i < n; i++)
        sum += spans[i].length;
    ck_assert_uint_eq(sum, bytes);
    note(record, 'd');
    record->datas++;
    if (record->on_data != NULL)
        record->on_data(record, conn);
}

static void
record_eof(struct berth_conn *conn)
{
    struct record *record = berth_conn_context(conn);
    note(record, 'e');
    if (record->on_eof != NULL)
        record->on_eof(record, conn);
}

static void
record_close(struct berth_conn *conn, int reason)
{
    struct record *record = berth_conn_context(conn);
    note(record, 'c');
    record->closes++;
    record->reason = reason;
    /* Too late for everything. */
    ck_assert_int_eq(berth_send(conn, "x", 1), -EPIPE);
    ck_assert_int_eq(berth_conn_close(conn), -EALREADY);
    ck_assert_int_eq(berth_conn_abort(conn), -EALREADY);
    ck_assert_int_eq(berth_conn_shutdown(conn), -EPIPE);
    ck_assert_int_eq(berth_conn_credit(conn, 1), -EPIPE);
    ck_assert_ptr_null(berth_conn_find(record->rig->loop, berth_conn_token(conn)));
}

static const struct berth_handlers recording = {
    .open = record_open, .data = record_data, .eof = record_eof, .close = record_close};

static void
begin(struct rig *rig, struct record *record, const char *engine)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    memset(record, 0, sizeof(*record));
    record->rig = rig;
    rig_begin(rig, &options, &recording, record);
}

static void
end(struct rig *rig, struct record *record)
{
    RIG_UNTIL(rig, berth_loop_conns(rig->loop) == 0, TURNS);
    ck_assert_uint_eq(record->opens, record->closes);
    rig_end(rig);
}

/* ---- order ------------------------------------------------------------------------------------
 */

START_TEST(orderly_life)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    begin(&rig, &record, engine);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    rig_write(client, "hello", 5);
    RIG_UNTIL(&rig, record.datas == 1, TURNS);
    ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
    RIG_UNTIL(&rig, strcmp(record.events, "ode") == 0, TURNS);
    struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
    ck_assert_ptr_nonnull(conn); /* the peer has finished, we have not */
    ck_assert_int_eq(berth_send(conn, "bye", 3), 0);
    ck_assert_int_eq(berth_conn_shutdown(conn), 0);
    ck_assert_int_eq(berth_send(conn, "late", 4), -EPIPE);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_str_eq(record.events, "odec");
    ck_assert_int_eq(record.reason, 0);
    char text[8];
    ck_assert_int_eq(rig_read(client, text, sizeof(text)), 3);
    ck_assert_int_eq(rig_read(client, text, sizeof(text)), 0);
    ck_assert_ptr_null(berth_conn_find(rig.loop, record.last));
    ck_assert_int_eq(close(client), 0);
    end(&rig, &record);
}
END_TEST

START_TEST(without_eof_handler_it_closes)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    static const struct berth_handlers echo = {.data = rig_echo};
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &echo, NULL);
    const int client = rig_client(&rig);
    rig_write(client, "abc", 3);
    ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
    char text[8];
    intptr_t got = -EAGAIN;
    RIG_UNTIL(&rig, (got = rig_read(client, text, sizeof(text))) != -EAGAIN, TURNS);
    ck_assert_int_eq(got, 3); /* what was queued is delivered before the end */
    RIG_UNTIL(&rig, rig_read(client, text, sizeof(text)) == 0, TURNS);
    ck_assert_int_eq(close(client), 0);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, TURNS);
    rig_end(&rig);
}
END_TEST

START_TEST(reset_by_the_peer)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    begin(&rig, &record, engine);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    rig_reset(client);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_int_eq(record.reason, -ECONNRESET);
    ck_assert_str_eq(record.events, "oc");
    end(&rig, &record);
}
END_TEST

static int
refuse(struct record *record, struct berth_conn *conn)
{
    (void)record, (void)conn;
    return 1;
}

START_TEST(open_refuses)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    begin(&rig, &record, engine);
    record.on_open = refuse;
    const int client = rig_client(&rig);
    char byte;
    RIG_UNTIL(&rig, rig_read(client, &byte, 1) == 0, TURNS);
    ck_assert_str_eq(record.events, "o"); /* and no close */
    ck_assert_uint_eq(rig_stats(&rig).refused_open, 1);
    ck_assert_int_eq(close(client), 0);
    end(&rig, &record);
}
END_TEST

/* ---- callbacks that do things
 * --------------------------------------------------------------------- */

static int
close_in_open(struct record *record, struct berth_conn *conn)
{
    (void)record;
    ck_assert_int_eq(berth_send(conn, "full", 4), 0);
    ck_assert_int_eq(berth_conn_close(conn), 0);
    return 0;
}

START_TEST(close_inside_open)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    begin(&rig, &record, engine);
    record.on_open = close_in_open;
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    char text[8];
    ck_assert_int_eq(rig_read(client, text, sizeof(text)), 4);
    ck_assert_int_eq(rig_read(client, text, sizeof(text)), 0);
    ck_assert_str_eq(record.events, "oc");
    ck_assert_int_eq(close(client), 0);
    end(&rig, &record);
}
END_TEST

static void
abort_self(struct record *record, struct berth_conn *conn)
{
    (void)record;
    ck_assert_int_eq(berth_send(conn, "dropped", 7), 0);
    ck_assert_int_eq(berth_conn_abort(conn), 0);
    ck_assert_int_eq(berth_conn_abort(conn), -EALREADY);
    ck_assert_int_eq(berth_send(conn, "x", 1), -EPIPE);
    ck_assert_int_eq(berth_loop_turn(record->rig->loop, 0), -EBUSY);
    ck_assert_int_eq(berth_loop_run(record->rig->loop), -EBUSY);
    ck_assert_int_eq(berth_loop_destroy(record->rig->loop), -EBUSY);
}

START_TEST(abort_inside_data)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    begin(&rig, &record, engine);
    record.on_data = abort_self;
    const int client = rig_client(&rig);
    rig_write(client, "x", 1);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_int_eq(record.reason, -ECANCELED);
    char byte;
    intptr_t got = -EAGAIN;
    RIG_UNTIL(&rig, (got = rig_read(client, &byte, 1)) != -EAGAIN, TURNS);
    ck_assert_int_eq(got, -ECONNRESET);
    ck_assert_int_eq(close(client), 0);
    end(&rig, &record);
}
END_TEST

/** Closes every connection of the loop, one way or the other, its own included. */
static void
close_all(struct record *record, struct berth_conn *conn)
{
    struct berth_table *table = berth_loop_table(record->rig->loop);
    (void)conn;
    BERTH_TABLE_EACH_LIVE (table, index) {
        const berth_token token = berth_slot_token(berth_table_slot(table, index), 0);
        struct berth_conn *other = berth_conn_find(record->rig->loop, token);
        if (other == NULL)
            continue;
        const int error = index % 2 ? berth_conn_close(other) : berth_conn_abort(other);
        ck_assert(error == 0 || error == -EALREADY);
    }
    berth_listener_close(record->rig->listener);
    record->rig->listener = NULL;
    record->on_data = NULL;
}

START_TEST(one_closes_all_and_the_listener)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int clients[MANY];
    begin(&rig, &record, engine);
    for (unsigned i = 0; i < MANY; i++)
        clients[i] = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == MANY, TURNS);
    record.on_data = close_all;
    for (unsigned i = 0; i < MANY; i++)
        rig_write(clients[i], "all of you", 10); /* all are ready in the same batch */
    RIG_UNTIL(&rig, record.closes == MANY, TURNS);
    ck_assert_uint_eq(record.datas, 1); /* nothing was delivered to a closed one */
    for (unsigned i = 0; i < MANY; i++)
        ck_assert_int_eq(close(clients[i]), 0);
    end(&rig, &record);
}
END_TEST

START_TEST(payload_and_cold_are_new_each_time)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.cold_bytes = 200;
    memset(&record, 0, sizeof(record));
    record.rig = &rig;
    rig_begin(&rig, &options, &recording, &record);
    static const unsigned char zeroes[200];
    for (unsigned round = 1; round <= 5; round++) {
        const int client = rig_client(&rig);
        RIG_UNTIL(&rig, record.opens == round, TURNS);
        struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
        ck_assert_mem_eq(berth_conn_payload(conn), zeroes, BERTH_CONN_PAYLOAD_BYTES);
        ck_assert_mem_eq(berth_conn_cold(conn), zeroes, 200);
        memset(berth_conn_payload(conn), 0xee, BERTH_CONN_PAYLOAD_BYTES);
        memset(berth_conn_cold(conn), 0xee, 200);
        ck_assert_int_eq(close(client), 0);
        RIG_UNTIL(&rig, record.events[record.length - 1] == 'e', TURNS);
        ck_assert_int_eq(berth_conn_close(conn), 0);
        RIG_UNTIL(&rig, record.closes == round, TURNS);
    }
    end(&rig, &record);
}
END_TEST

/* ---- stopping and destroying
 * ---------------------------------------------------------------------- */

static struct berth_loop *to_stop;

static void
on_alarm(int number)
{
    (void)number;
    (void)berth_loop_stop(to_stop);
}

static void *
stop_it(void *loop)
{
    (void)berth_loop_stop(loop);
    return NULL;
}

START_TEST(stop_from_a_signal_and_a_thread)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    begin(&rig, &record, engine);
    ck_assert_int_eq(berth_loop_stop(rig.loop), 0);
    ck_assert_int_eq(berth_loop_run(rig.loop), 0); /* before it runs: it returns at once */

    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, stop_it, rig.loop), 0);
    ck_assert_int_eq(berth_loop_run(rig.loop), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);

    to_stop = rig.loop;
    const struct sigaction action = {.sa_handler = on_alarm};
    const struct itimerval soon = {.it_value = {.tv_usec = 20000}};
    ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
    ck_assert_int_eq(setitimer(ITIMER_REAL, &soon, NULL), 0);
    ck_assert_int_eq(berth_loop_run(rig.loop), 0);
    end(&rig, &record);
}
END_TEST

START_TEST(destroy_at_every_stage)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const char filler[200000];
    for (int stage = 0; stage < 5; stage++) {
        struct rig rig;
        struct record record;
        begin(&rig, &record, engine);
        int client = -1;
        if (stage >= 1)
            client = rig_client(&rig);  /* waiting to be accepted */
        rig.descriptors += client >= 0; /* it outlives the loop */
        if (stage >= 2)
            RIG_UNTIL(&rig, record.opens == 1, TURNS);
        if (stage >= 3) {
            struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
            for (unsigned i = 0; i < 20; i++)
                (void)berth_send(conn, filler, sizeof(filler)); /* more than the socket takes */
        }
        if (stage >= 4)
            (void)rig_turn(&rig, 0);
        rig_end(&rig);
        ck_assert_uint_eq(record.opens, record.closes);
        if (record.closes > 0)
            ck_assert_int_eq(record.reason, -ECANCELED);
        if (client >= 0)
            ck_assert_int_eq(close(client), 0);
    }
}
END_TEST

START_TEST(child_of_fork_is_refused)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int skipped;
    begin(&rig, &record, engine);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    RIG_IN_CHILD(skipped, {
        RIG_MUST(berth_loop_turn(rig.loop, 0) == -ECHILD);
        RIG_MUST(berth_loop_run(rig.loop) == -ECHILD);
        RIG_MUST(berth_loop_destroy(rig.loop) == -ECHILD);
    });
    ck_assert(!skipped);
    rig_write(client, "still here", 10);
    RIG_UNTIL(&rig, record.datas == 1, TURNS);
    ck_assert_int_eq(close(client), 0);
    RIG_UNTIL(&rig, strchr(record.events, 'e') != NULL, TURNS);
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, record.last)), 0);
    end(&rig, &record);
}
END_TEST

/* ---- ghosts
 * ---------------------------------------------------------------------------------------- */

START_TEST(duplicate_of_a_closed_descriptor_does_not_spin)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    begin(&rig, &record, engine);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
    const int ghost = dup(berth_conn_fd(conn)); /* keeps the socket open behind the loop's back */
    ck_assert_int_ge(ghost, 0);
    ck_assert_int_eq(berth_conn_close(conn), 0);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    (void)send(client, "into the void", 13, MSG_NOSIGNAL);
    unsigned handled = 0;
    for (unsigned i = 0; i < 50; i++)
        handled += (unsigned)rig_turn(&rig, 1);
    ck_assert_uint_lt(handled, 25);
    ck_assert_uint_eq(record.datas, 0);
    ck_assert_int_eq(close(ghost), 0);
    ck_assert_int_eq(close(client), 0);
    end(&rig, &record);
}
END_TEST

/* ---- where connections come from
 * -------------------------------------------------------------------- */

START_TEST(adopt_checks_what_it_is_given)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int pair[2];
    berth_token token;
    begin(&rig, &record, engine);
    ck_assert_int_eq(berth_adopt(rig.loop, -1, &recording, &record, NULL), -EBADF);
    ck_assert_int_eq(berth_adopt(NULL, 0, &recording, &record, NULL), -EINVAL);
    ck_assert_int_eq(berth_adopt(rig.loop, STDIN_FILENO, NULL, &record, NULL), -EINVAL);
    ck_assert_int_eq(pipe(pair), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &recording, &record, NULL), -ENOTSOCK);
    ck_assert_int_eq(close(pair[0]), 0);
    ck_assert_int_eq(close(pair[1]), 0);
    const int datagram = socket(AF_INET, SOCK_DGRAM, 0);
    ck_assert_int_eq(berth_adopt(rig.loop, datagram, &recording, &record, NULL), -EPROTOTYPE);
    ck_assert_int_eq(close(datagram), 0);
    const int lonely = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(berth_adopt(rig.loop, lonely, &recording, &record, NULL), -ENOTCONN);
    ck_assert_int_eq(close(lonely), 0);

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &recording, &record, &token), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &recording, &record, NULL), -EEXIST);
    ck_assert_uint_eq(record.opens, 0); /* open comes from a turn, not from the call */
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    rig_write(pair[1], "over", 4);
    RIG_UNTIL(&rig, record.datas == 1, TURNS);
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, token)), 0);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_int_eq(close(pair[1]), 0);
    end(&rig, &record);
}
END_TEST

START_TEST(connect_succeeds_and_fails)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    char address[BERTH_ADDRESS_TEXT_MAX];
    berth_token token = 0;
    begin(&rig, &record, engine);
    memset(&mine, 0, sizeof(mine));
    mine.rig = &rig;
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_connect(rig.loop, address, &recording, &mine, &token), 0);
    ck_assert_int_eq(berth_send(berth_conn_find(rig.loop, token), "early", 5), 0);
    RIG_UNTIL(&rig, mine.opens == 1 && record.datas == 1, TURNS);
    char peer[BERTH_ADDRESS_TEXT_MAX];
    ck_assert_int_eq(berth_conn_peer(berth_conn_find(rig.loop, token), peer, sizeof(peer)), 0);
    ck_assert_str_eq(peer, address);
    ck_assert_int_eq(berth_conn_peer(berth_conn_find(rig.loop, token), peer, 5), -ENOSPC);
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, token)), 0);
    RIG_UNTIL(&rig, mine.closes == 1 && strchr(record.events, 'e') != NULL, TURNS);
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, record.last)), 0);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);

    berth_listener_close(rig.listener); /* nobody is there any more */
    RIG_UNTIL(&rig, berth_table_live_count(berth_loop_table(rig.loop)) == 1, TURNS);
    const int error = berth_connect(rig.loop, address, &recording, &mine, &token);
    ck_assert(error == 0 || error == -ECONNREFUSED);
    if (error == 0) {
        RIG_UNTIL(&rig, mine.closes == 2, TURNS);
        ck_assert_int_eq(mine.reason, -ECONNREFUSED);
        ck_assert_str_eq(mine.events, "occ"); /* close without open */
        mine.opens++;
    }
    ck_assert_int_eq(berth_connect(rig.loop, "unix:/nonexistent/socket", &recording, &mine, NULL),
                     -ENOENT);
    ck_assert_uint_eq(mine.opens, mine.closes);
    end(&rig, &record);
}
END_TEST

START_TEST(abort_while_connecting)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    char address[BERTH_ADDRESS_TEXT_MAX];
    berth_token token = 0;
    begin(&rig, &record, engine);
    memset(&mine, 0, sizeof(mine));
    mine.rig = &rig;
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_connect(rig.loop, address, &recording, &mine, &token), 0);
    ck_assert_int_eq(berth_conn_abort(berth_conn_find(rig.loop, token)), 0);
    RIG_UNTIL(&rig, mine.closes == 1, TURNS);
    ck_assert_str_eq(mine.events, "c");
    ck_assert_int_eq(mine.reason, -ECANCELED);
    RIG_UNTIL(&rig, record.closes == 1 || record.opens == 0, TURNS);
    end(&rig, &record);
}
END_TEST

/** Listens there, echoes once through it, and closes. */
static void
try_address(const char *engine, const char *address, const char *expected)
{
    struct rig rig;
    struct record record, mine;
    struct berth_listener *listener = NULL;
    char text[BERTH_ADDRESS_TEXT_MAX];
    berth_token token = 0;
    begin(&rig, &record, engine);
    memset(&mine, 0, sizeof(mine));
    mine.rig = &rig;
    const int error = berth_listen(rig.loop, address, &recording, &record, &listener);
    if (error == -EAFNOSUPPORT || error == -EADDRNOTAVAIL) {
        printf("skipped: %s: %s\n", address, strerror(-error));
        rig_end(&rig);
        return;
    }
    ck_assert_msg(error == 0, "%s: %s", address, strerror(-error));
    ck_assert_int_eq(berth_listener_address(listener, text, sizeof(text)), 0);
    ck_assert_msg(strncmp(text, expected, strlen(expected)) == 0, "%s is not %s", text, expected);
    const int everywhere = strncmp(text, "tcp://[::]:", 11) == 0;
    if (everywhere) { /* this address too, of the other family */
        const long port = strtol(text + 11, NULL, 10);
        (void)snprintf(text, sizeof(text), "tcp://127.0.0.1:%ld", port);
    }
    ck_assert_int_eq(berth_connect(rig.loop, text, &recording, &mine, &token), 0);
    RIG_UNTIL(&rig, record.opens == 1 && mine.opens == 1, TURNS);
    rig_end(&rig);
    ck_assert_uint_eq(record.closes + mine.closes, 2);
}

START_TEST(addresses_that_work)
{
    RIG_ENGINE_OR_RETURN(engine);
    char path[96];
    (void)snprintf(path, sizeof(path), "unix:/tmp/berth-test-%ld-%s", (long)getpid(), engine);
    char name[96];
    (void)snprintf(name, sizeof(name), "unix:@berth-test-%ld-%s", (long)getpid(), engine);
    try_address(engine, "tcp://127.0.0.1:0", "tcp://127.0.0.1:");
    try_address(engine, "tcp://localhost:0", "tcp://127.0.0.1:");
    try_address(engine, "tcp://[::1]:0", "tcp://[::1]:");
    try_address(engine, "tcp://*:0", "tcp://[::]:");
    try_address(engine, path, path);
    try_address(engine, name, name);
    struct stat status;
    ck_assert_int_ne(stat(path + 5, &status), 0); /* the file goes with the listener */
}
END_TEST

START_TEST(addresses_that_do_not)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const char *const bad[] = {
        "",
        "tcp",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:1x",
        "tcp://:80",
        "tcp://[::1]80",
        "tcp://[::1:80",
        "tcp://[127.0.0.1]:80",
        "tcp://999.1.1.1:80",
        "tcp://example.org:80",
        "unix:",
        "unix:@",
        "http://127.0.0.1:80",
        "127.0.0.1:80",
        "tcp://1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17:1",
        "unix:/a-path-that-is-much-too-long-for-a-unix-socket-address-because-it-has-more-than-one-"
        "hundred-and-eight-characters-in-it"};
    struct rig rig;
    struct record record;
    begin(&rig, &record, engine);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const int listening = berth_listen(rig.loop, bad[i], &recording, &record, NULL);
        ck_assert_msg(listening == -EINVAL, "listen on \"%s\": %d", bad[i], listening);
        const int connecting = berth_connect(rig.loop, bad[i], &recording, &record, NULL);
        ck_assert_msg(connecting == -EINVAL, "connect to \"%s\": %d", bad[i], connecting);
    }
    ck_assert_int_eq(berth_listen(rig.loop, NULL, &recording, &record, NULL), -EINVAL);
    char address[BERTH_ADDRESS_TEXT_MAX];
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_listener_address(rig.listener, address, 4), -ENOSPC);
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_listen(rig.loop, address, &recording, &record, NULL), -EADDRINUSE);
    end(&rig, &record);
}
END_TEST

START_TEST(stale_socket_file_is_replaced)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    char address[120];
    (void)snprintf(local.sun_path, sizeof(local.sun_path), "/tmp/berth-stale-%ld-%s",
                   (long)getpid(), engine);
    (void)snprintf(address, sizeof(address), "unix:%s", local.sun_path);
    const int dead = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(dead, (struct sockaddr *)&local, sizeof(local)), 0);
    ck_assert_int_eq(close(dead), 0); /* the file stays, nobody listens */

    struct rig rig;
    struct record record;
    struct berth_listener *listener = NULL;
    begin(&rig, &record, engine);
    ck_assert_int_eq(berth_listen(rig.loop, address, &recording, &record, &listener), 0);
    /* Somebody does listen there now: it is not taken away. */
    ck_assert_int_eq(berth_listen(rig.loop, address, &recording, &record, NULL), -EADDRINUSE);
    end(&rig, &record);
    struct stat status;
    ck_assert_int_ne(stat(local.sun_path, &status), 0);
}
END_TEST

/* ---- arguments
 * ------------------------------------------------------------------------------------------ */

START_TEST(arguments_of_nonsense)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    struct berth_loop *none = NULL;
    struct berth_loop_options options;
    begin(&rig, &record, engine);
    ck_assert_int_eq(berth_loop_create(NULL, NULL), -EINVAL);
    rig_options(&options, "no such engine", NULL);
    ck_assert_int_eq(berth_loop_create(&none, &options), -EINVAL);
    rig_options(&options, engine, NULL);
    options.abi++;
    ck_assert_int_eq(berth_loop_create(&none, &options), -EPROTO);
    static const size_t offsets[] = {offsetof(struct berth_loop_options, receive_buffers),
                                     offsetof(struct berth_loop_options, fairness_bytes),
                                     offsetof(struct berth_loop_options, send_high_bytes),
                                     offsetof(struct berth_loop_options, events_max)};
    for (unsigned i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        rig_options(&options, engine, NULL);
        *(uint32_t *)(void *)((char *)&options + offsets[i]) = 1;
        ck_assert_int_eq(berth_loop_create(&none, &options), -EINVAL);
    }
    ck_assert_ptr_null(none);
    ck_assert_int_eq(berth_loop_destroy(NULL), 0);
    ck_assert_int_eq(berth_loop_turn(NULL, 0), -EINVAL);
    ck_assert_int_eq(berth_loop_run(NULL), -EINVAL);
    ck_assert_int_eq(berth_loop_stop(NULL), -EINVAL);
    ck_assert_int_eq(berth_loop_explain(NULL, NULL, 0), -EINVAL);
    ck_assert_int_eq(berth_loop_explain(rig.loop, NULL, 5), -EINVAL);
    ck_assert_int_gt(berth_loop_explain(rig.loop, NULL, 0), 10);
    char two[2] = "?";
    ck_assert_int_gt(berth_loop_explain(rig.loop, two, sizeof(two)), 10);
    ck_assert_str_eq(two, "e");
    ck_assert_ptr_null(berth_loop_table(NULL));
    ck_assert_ptr_null(berth_loop_pool(NULL));
    ck_assert_uint_eq(berth_loop_conns(NULL), 0);
    berth_loop_stats_get(NULL, NULL);
    berth_loop_copies_get(NULL, NULL);
    berth_listener_close(NULL);
    ck_assert_int_eq(berth_listener_fd(NULL), -EINVAL);
    ck_assert_int_eq(berth_send(NULL, "x", 1), -EINVAL);
    ck_assert_int_eq(berth_send_span(NULL, NULL), -EINVAL);
    ck_assert_int_eq(berth_send_chain(NULL, NULL), -EINVAL);
    ck_assert_int_eq(berth_conn_close(NULL), -EINVAL);
    ck_assert_int_eq(berth_conn_abort(NULL), -EINVAL);
    ck_assert_int_eq(berth_conn_shutdown(NULL), -EINVAL);
    ck_assert_int_eq(berth_conn_credit(NULL, 0), -EINVAL);
    ck_assert_ptr_null(berth_conn_cold(NULL));
    ck_assert_ptr_null(berth_conn_loop(NULL));
    ck_assert_uint_eq(berth_conn_queued(NULL), 0);
    static const berth_token bad[] = {0, 1, UINT64_MAX, UINT64_C(1) << 24};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_ptr_null(berth_conn_find(rig.loop, bad[i]));

    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
    struct berth_lease foreign = {.buffer = 12345, .generation = 7, .offset = 0, .length = 10};
    struct berth_span fake = {.data = two, .length = 2, .buffer = 99};
    ck_assert_int_eq(berth_send(conn, NULL, 1), -EINVAL);
    ck_assert_int_eq(berth_send(conn, NULL, 0), 0);
    ck_assert_int_eq(berth_send(conn, two, SIZE_MAX), -EINVAL);
    ck_assert_int_eq(berth_send_lease(conn, foreign), -EINVAL);
    ck_assert_int_eq(berth_conn_peer(conn, NULL, 0), -EINVAL);
#ifndef BERTH_CHECKS /* an illegal step of the pool, which aborts there */
    ck_assert_int_eq(berth_send_span(conn, &fake), -ESTALE);
#endif
    (void)fake;
    ck_assert_uint_eq(berth_conn_queued(conn), 0);
    ck_assert_ptr_eq(berth_conn_loop(conn), rig.loop);
    ck_assert_int_eq(berth_conn_close(conn), 0);
    ck_assert_int_eq(close(client), 0);
    end(&rig, &record);
}
END_TEST

static Suite *
contract_suite(void)
{
    Suite *suite = suite_create("contract");
    RIG_ADD(suite, orderly_life);
    RIG_ADD(suite, without_eof_handler_it_closes);
    RIG_ADD(suite, reset_by_the_peer);
    RIG_ADD(suite, open_refuses);
    RIG_ADD(suite, close_inside_open);
    RIG_ADD(suite, abort_inside_data);
    RIG_ADD(suite, one_closes_all_and_the_listener);
    RIG_ADD(suite, payload_and_cold_are_new_each_time);
    RIG_ADD(suite, stop_from_a_signal_and_a_thread);
    RIG_ADD(suite, destroy_at_every_stage);
    RIG_ADD(suite, child_of_fork_is_refused);
    RIG_ADD(suite, duplicate_of_a_closed_descriptor_does_not_spin);
    RIG_ADD(suite, adopt_checks_what_it_is_given);
    RIG_ADD(suite, connect_succeeds_and_fails);
    RIG_ADD(suite, abort_while_connecting);
    RIG_ADD(suite, addresses_that_work);
    RIG_ADD(suite, addresses_that_do_not);
    RIG_ADD(suite, stale_socket_file_is_replaced);
    RIG_ADD(suite, arguments_of_nonsense);
    return suite;
}

int
main(void)
{
    return test_run(contract_suite());
}
