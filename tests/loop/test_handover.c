/*
 * Connections that leave a loop: each ends in one place, with its bytes in order, told once.
 * Moving between threads is in test_hops.c.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/record.h"

#include <fcntl.h>

#include "berth/loop_cross.h"

/** What a detachment came to. */
static struct {
    struct record *record;
    unsigned count;
    int fd;
    unsigned closes; /**< already told then */
} gone;

static void
detached(struct berth_conn *conn, int fd, void *arg)
{
    ck_assert_ptr_eq(arg, &gone);
    gone.count++;
    gone.fd = fd;
    gone.closes = gone.record->closes;
    ck_assert_int_eq(berth_send(conn, "x", 1), -EPIPE);
    ck_assert_int_eq(berth_conn_detach(conn, detached, &gone), -EPIPE);
}

static struct berth_conn *
begin(struct rig *rig, struct record *record, const char *engine, int *client)
{
    record_begin(rig, record, engine);
    memset(&gone, 0, sizeof(gone));
    gone.record = record;
    *client = rig_client(rig);
    RIG_UNTIL(rig, record->opens == 1, TURNS);
    return berth_conn_find(rig->loop, record->last);
}

/** It has left: its descriptor, which must be told to close. */
static int
left(struct rig *rig, const struct record *record)
{
    RIG_UNTIL(rig, gone.count == 1, TURNS);
    ck_assert_int_ge(gone.fd, 0);
    ck_assert_uint_eq(record->closes, 0);
    ck_assert_uint_eq(berth_loop_conns(rig->loop), 0);
    ck_assert_ptr_null(berth_conn_find(rig->loop, record->last));
    ck_assert_uint_eq(rig_stats(rig).detached, 1);
    ck_assert_uint_eq(rig_stats(rig).closed, 0);
    return gone.fd;
}

START_TEST(leaves_with_its_descriptor)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int client;
    char text[16];
    struct berth_conn *conn = begin(&rig, &record, engine, &client);
    ck_assert_int_eq(berth_conn_detach(conn, NULL, &gone), -EINVAL);
    ck_assert_int_eq(berth_conn_detach(NULL, detached, &gone), -EINVAL);
    ck_assert_int_eq(berth_conn_detach(conn, detached, &gone), 0);
    ck_assert_int_eq(berth_conn_detach(conn, detached, &gone), -EALREADY);
    ck_assert_int_eq(berth_conn_credit(conn, 1), -EALREADY);
    ck_assert_int_eq(berth_send(conn, "before", 6), 0); /* still allowed */
    const int fd = left(&rig, &record);
    ck_assert_int_eq(rig_read(client, text, sizeof(text)), 6);

    /* It is the caller's, and works both ways. The loop hears nothing of it. */
    rig_write(client, "to you", 6);
    for (int i = 0; i < 3; i++)
        (void)rig_turn(&rig, 0);
    ck_assert_int_eq(rig_read(fd, text, sizeof(text)), 6);
    rig_write(fd, "to me", 5);
    ck_assert_int_eq(rig_read(client, text, sizeof(text)), 5);
    ck_assert_int_eq(fcntl(fd, F_GETFL, 0) & O_NONBLOCK, 0);
    ck_assert_str_eq(record.events, "o");

    /* And it can come back. */
    ck_assert_int_eq(berth_adopt(rig.loop, fd, &recording, &record, NULL), 0);
    rig_write(client, "again", 5);
    RIG_UNTIL(&rig, record.datas == 1, TURNS);
    rig_reset(client);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    record.opens--; /* one of the two never closed */
    record_end(&rig, &record);
}
END_TEST

/* ---- bytes on their way --------------------------------------------------------------------- */

static struct {
    char text[65536];
    size_t length;
    size_t after; /**< bytes of that which came while it was leaving */
    int leaving;
} told;

static void
tell(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    for (unsigned i = 0; i < n; i++) {
        ck_assert_uint_le(told.length + spans[i].length, sizeof(told.text));
        memcpy(told.text + told.length, spans[i].data, spans[i].length);
        told.length += spans[i].length;
    }
    if (told.leaving) {
        told.after += bytes;
        ck_assert_int_eq(berth_send(conn, "y", bytes > 0), 0); /* who is asked may answer */
    }
}

/**
 * Data has arrived, and (on io_uring) has been received for the connection, when it is asked to
 * leave: what was received is delivered first, the rest is in the socket.
 */
START_TEST(bytes_on_their_way_are_not_lost)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers telling = {.data = tell};
    struct rig rig;
    struct berth_loop_options options;
    char sent[8192];
    uint64_t random = test_seed(engine);
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &telling, NULL);
    for (unsigned round = 0; round < 50; round++) {
        memset(&told, 0, sizeof(told));
        memset(&gone, 0, sizeof(gone));
        struct record none = {.closes = 0};
        gone.record = &none;
        const int client = rig_client(&rig);
        RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 1, TURNS);
        for (size_t i = 0; i < sizeof(sent); i++)
            sent[i] = (char)test_random(&random);
        const size_t first = test_random(&random) % 3000, second = test_random(&random) % 3000;
        if (first > 0)
            rig_write(client, sent, first);
        if (test_random(&random) % 2)
            (void)rig_turn(&rig, 0);
        if (second > 0)
            rig_write(client, sent + first, second);
        BERTH_TABLE_EACH_LIVE (berth_loop_table(rig.loop), index) {
            struct berth_slot *slot = berth_table_slot(berth_loop_table(rig.loop), index);
            if (berth_conn_detach((struct berth_conn *)(void *)slot, detached, &gone) == 0)
                told.leaving = 1;
        }
        ck_assert_int_eq(told.leaving, 1);
        RIG_UNTIL(&rig, gone.count == 1, TURNS);
        ck_assert_int_ge(gone.fd, 0);
        const intptr_t rest = rig_read(gone.fd, told.text + told.length, 8192);
        if (rest > 0)
            told.length += (size_t)rest;
        ck_assert_uint_eq(told.length, first + second);
        ck_assert_mem_eq(told.text, sent, first + second);
        char answers[64];
        const intptr_t answered = rig_read(client, answers, sizeof(answers));
        ck_assert(told.after > 0 ? answered > 0 : answered == -EAGAIN);
        ck_assert_int_eq(close(gone.fd), 0);
        ck_assert_int_eq(close(client), 0);
    }
    rig_end(&rig);
}
END_TEST

START_TEST(waits_until_all_is_sent)
{
    RIG_ENGINE_OR_RETURN(engine);
    static char data[8 << 20];
    struct rig rig;
    struct record record;
    int client;
    struct berth_conn *conn = begin(&rig, &record, engine, &client);
    memset(data, 'd', sizeof(data));
    ck_assert_int_eq(berth_send(conn, data, sizeof(data)), 0);
    ck_assert_int_eq(berth_conn_detach(conn, detached, &gone), 0);
    for (int i = 0; i < 10; i++)
        (void)rig_turn(&rig, 1);
    ck_assert_uint_eq(gone.count, 0);
    ck_assert_int_eq(berth_send(conn, "last", 4), 0);
    size_t got = 0;
    char text[65536], end = 0;
    for (unsigned turn = 0; gone.count == 0 && turn < 10000; turn++) {
        for (intptr_t n; (n = rig_read(client, text, sizeof(text))) > 0; end = text[n - 1])
            got += (size_t)n;
        (void)rig_turn(&rig, 1);
    }
    const int fd = left(&rig, &record);
    for (intptr_t n; (n = rig_read(client, text, sizeof(text))) > 0; end = text[n - 1])
        got += (size_t)n;
    ck_assert_uint_eq(got, sizeof(data) + 4);
    ck_assert_int_eq(end, 't');
    ck_assert_int_eq(close(fd), 0);
    ck_assert_int_eq(close(client), 0);
    record.closes = 1; /* for the count */
    record_end(&rig, &record);
}
END_TEST

START_TEST(end_is_left_to_the_next_owner)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int client;
    char text[8];
    struct berth_conn *conn = begin(&rig, &record, engine, &client);
    rig_write(client, "end", 3);
    ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
    ck_assert_int_eq(berth_conn_detach(conn, detached, &gone), 0);
    const int fd = left(&rig, &record);
    if (record.datas == 0)
        ck_assert_int_eq(rig_read(fd, text, sizeof(text)), 3);
    ck_assert_int_eq(rig_read(fd, text, sizeof(text)), 0);
    ck_assert_ptr_null(strchr(record.events, 'e'));
    ck_assert_int_eq(close(fd), 0);
    ck_assert_int_eq(close(client), 0);
    record.closes = 1;
    record_end(&rig, &record);
}
END_TEST

/* ---- from callbacks, and when it is too late ------------------------------------------------- */

static int
detach_open(struct record *record, struct berth_conn *conn)
{
    (void)record;
    ck_assert_int_eq(berth_conn_detach(conn, detached, &gone), 0);
    return 0;
}

static int
detach_open_and_refuse(struct record *record, struct berth_conn *conn)
{
    (void)detach_open(record, conn);
    return 1;
}

static void
detach_data(struct record *record, struct berth_conn *conn)
{
    (void)detach_open(record, conn);
}

START_TEST(from_its_callbacks)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    memset(&gone, 0, sizeof(gone));
    record_begin(&rig, &record, engine);
    gone.record = &record;
    record.on_open = detach_open;
    int client = rig_client(&rig);
    RIG_UNTIL(&rig, gone.count == 1, TURNS);
    ck_assert_int_ge(gone.fd, 0);
    ck_assert_int_eq(close(gone.fd), 0);
    ck_assert_int_eq(close(client), 0);

    record.on_open = detach_open_and_refuse;
    client = rig_client(&rig);
    RIG_UNTIL(&rig, gone.count == 2, TURNS);
    ck_assert_int_eq(gone.fd, -ECANCELED);
    ck_assert_int_eq(close(client), 0);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, TURNS);

    record.on_open = NULL;
    record.on_data = detach_data;
    client = rig_client(&rig);
    rig_write(client, "x", 1);
    RIG_UNTIL(&rig, gone.count == 3, TURNS);
    ck_assert_int_ge(gone.fd, 0);
    ck_assert_int_eq(close(gone.fd), 0);
    ck_assert_int_eq(close(client), 0);
    ck_assert_uint_eq(record.closes, 0);
    ck_assert_str_eq(record.events, "oood");
    record.closes = record.opens;
    record_end(&rig, &record);
}
END_TEST

START_TEST(too_late_or_too_early)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int client;
    char address[BERTH_ADDRESS_TEXT_MAX];
    berth_token token;
    struct berth_conn *conn = begin(&rig, &record, engine, &client);
    ck_assert_int_eq(berth_conn_close(conn), 0);
    ck_assert_int_eq(berth_conn_detach(conn, detached, &gone), -EPIPE);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_int_eq(berth_conn_detach(conn, detached, &gone), -EINVAL);
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_connect(rig.loop, address, &recording, &record, &token), 0);
    ck_assert_int_eq(berth_conn_detach(berth_conn_find(rig.loop, token), detached, &gone),
                     -ENOTCONN);
    ck_assert_int_eq(berth_conn_abort(berth_conn_find(rig.loop, token)), 0);
    ck_assert_int_eq(close(client), 0);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, TURNS);
    record.closes = record.opens; /* the connect that was aborted closed without an open */
    record_end(&rig, &record);
    ck_assert_uint_eq(gone.count, 0);
}
END_TEST

/** How a connection that cannot leave, because its peer does not read, ends after all. */
enum ending { END_RESET, END_ABORT, END_CLOSE, END_DESTROY, ENDINGS };

static void
ends_otherwise(const char *engine, enum ending ending)
{
    static char data[8 << 20];
    static const int reasons[] = {-ECONNRESET, -ECANCELED, 0, -ECANCELED};
    struct rig rig;
    struct record record;
    int client;
    struct berth_conn *conn = begin(&rig, &record, engine, &client);
    ck_assert_int_eq(berth_send(conn, data, sizeof(data)), 0);
    ck_assert_int_eq(berth_conn_detach(conn, detached, &gone), 0);
    for (int i = 0; i < 3; i++)
        (void)rig_turn(&rig, 1);
    ck_assert_uint_eq(gone.count, 0);
    if (ending == END_DESTROY) {
        rig_verify(&rig);
        ck_assert_int_eq(berth_loop_destroy(rig.loop), 0);
        ck_assert_int_eq(close(client), 0);
    } else if (ending == END_RESET) {
        rig_reset(client);
    } else {
        ck_assert_int_eq(ending == END_ABORT ? berth_conn_abort(conn) : berth_conn_close(conn), 0);
        char text[65536];
        for (unsigned turn = 0; record.closes == 0 && turn < 10000; turn++) {
            while (ending == END_CLOSE && rig_read(client, text, sizeof(text)) > 0)
                ;
            (void)rig_turn(&rig, 1);
        }
        ck_assert_int_eq(close(client), 0);
    }
    if (ending != END_DESTROY)
        RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_uint_eq(gone.count, 1);
    ck_assert_int_eq(gone.fd, record.reason != 0 ? record.reason : -ECANCELED);
    ck_assert_uint_eq(gone.closes, 0); /* first this, then close */
    ck_assert_uint_eq(record.closes, 1);
    if (ending == END_RESET)
        ck_assert(record.reason == -ECONNRESET || record.reason == -EPIPE);
    else
        ck_assert_int_eq(record.reason, reasons[ending]);
    if (ending != END_DESTROY)
        record_end(&rig, &record);
}

START_TEST(what_cannot_leave_closes)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int ending = 0; ending < ENDINGS; ending++)
        ends_otherwise(engine, (enum ending)ending);
}
END_TEST

START_TEST(flags_come_back)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int pair[2];
    record_begin(&rig, &record, engine);
    memset(&gone, 0, sizeof(gone));
    gone.record = &record;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &recording, &record, NULL), 0);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    const int direct = strcmp(engine, "uring-direct") == 0; /* the number is not the loop's there */
    if (!direct)
        ck_assert_int_eq(fcntl(pair[0], F_GETFL, 0) & O_NONBLOCK, 0);
    ck_assert_int_eq(berth_conn_detach(berth_conn_find(rig.loop, record.last), detached, &gone), 0);
    const int fd = left(&rig, &record);
    ck_assert(direct || fd == pair[0]);
    ck_assert_int_ne(fcntl(fd, F_GETFL, 0) & O_NONBLOCK, 0);
    ck_assert_int_ne(fcntl(fd, F_GETFD, 0) & FD_CLOEXEC, 0);
    ck_assert_int_eq(close(fd), 0);
    ck_assert_int_eq(close(pair[1]), 0);
    record.closes = 1;
    record_end(&rig, &record);
}
END_TEST

/** Its timeouts do not outlive it in the loop: whoever gets its place is not ended by them. */
START_TEST(timeouts_stay_behind)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int client;
    struct berth_conn *conn = begin(&rig, &record, engine, &client);
    ck_assert_int_eq(berth_conn_timeout(conn, BERTH_TIMEOUT_IDLE, 50), 0);
    ck_assert_int_eq(berth_conn_detach(conn, detached, &gone), 0);
    ck_assert_int_eq(close(left(&rig, &record)), 0);
    ck_assert_int_eq(close(client), 0);
    const int next = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 2, TURNS);
    for (int i = 0; i < 20; i++) /* longer than the timeout */
        (void)rig_turn(&rig, RIG_TURN_MS);
    ck_assert_uint_eq(record.closes, 0);
    rig_reset(next);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    record.opens--;
    record_end(&rig, &record);
}
END_TEST

/* ---- to another loop, in the same thread ---------------------------------------------------- */

static struct {
    unsigned count;
    int error;
    berth_token token;
} hop;

static void
hopped(struct berth_loop *to, berth_token token, int error, void *ctx)
{
    (void)to, (void)ctx;
    hop.count++;
    hop.error = error;
    hop.token = token;
}

static struct berth_loop *
other_loop(const char *engine)
{
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    rig_options(&options, engine, NULL);
    ck_assert_int_eq(berth_loop_create(&loop, &options), 0);
    memset(&hop, 0, sizeof(hop));
    return loop;
}

/** O_NONBLOCK does not travel: the new loop must not be asked for ever by what cannot wait. */
START_TEST(nonblocking_one_moves)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int pair[2];
    record_begin(&rig, &record, engine);
    memset(&gone, 0, sizeof(gone));
    gone.record = &record;
    struct berth_loop *to = other_loop(engine);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &recording, &record, NULL), 0);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    ck_assert_int_eq(
        berth_conn_move(berth_conn_find(rig.loop, record.last), to, &recording, &record, hopped),
        0);
    for (int i = 0; i < TURNS && record.opens < 2; i++) {
        (void)rig_turn(&rig, 0);
        ck_assert_int_ge(berth_loop_turn(to, RIG_TURN_MS), 0);
    }
    ck_assert_uint_eq(hop.count, 1);
    ck_assert_int_eq(hop.error, 0);
    const int fd = rig_conn_fd(berth_conn_find(to, hop.token));
    ck_assert_int_eq(fcntl(fd, F_GETFL, 0) & O_NONBLOCK, 0);
    ck_assert_int_eq(close(fd), 0);
    /* Nothing comes: nothing to do. */
    for (int i = 0; i < 10; i++)
        ck_assert_int_ge(berth_loop_turn(to, 0), 0);
    int busy = 0;
    for (int i = 0; i < 10; i++)
        busy += berth_loop_turn(to, 1) > 0;
    ck_assert_int_lt(busy, 3);
    rig_write(pair[1], "hello", 5);
    for (int i = 0; i < TURNS && record.datas == 0; i++)
        ck_assert_int_ge(berth_loop_turn(to, RIG_TURN_MS), 0);
    ck_assert_uint_eq(record.datas, 1);
    /* And it has the flag again when it leaves for good. */
    ck_assert_int_eq(berth_conn_detach(berth_conn_find(to, hop.token), detached, &gone), 0);
    for (int i = 0; i < TURNS && gone.count == 0; i++)
        ck_assert_int_ge(berth_loop_turn(to, RIG_TURN_MS), 0);
    ck_assert_int_ge(gone.fd, 0);
    ck_assert_int_ne(fcntl(gone.fd, F_GETFL, 0) & O_NONBLOCK, 0);
    ck_assert_int_eq(close(gone.fd), 0);
    ck_assert_int_eq(close(pair[1]), 0);
    ck_assert_int_eq(berth_loop_destroy(to), 0);
    record.closes = record.opens;
    record_end(&rig, &record);
}
END_TEST

/** A loop that drains takes who comes before the deadline, and nobody after it: it must end. */
START_TEST(nobody_arrives_after_the_deadline)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int client;
    struct berth_conn *conn = begin(&rig, &record, engine, &client);
    struct berth_loop *to = other_loop(engine);
    ck_assert_int_eq(berth_loop_drain(to, 0), 0);
    for (int i = 0; i < 5; i++)
        ck_assert_int_ge(berth_loop_turn(to, 1), 0);
    ck_assert_int_eq(berth_conn_move(conn, to, &recording, &record, hopped), 0);
    for (int i = 0; i < TURNS && hop.count == 0; i++) {
        (void)rig_turn(&rig, 0);
        ck_assert_int_ge(berth_loop_turn(to, RIG_TURN_MS), 0);
    }
    ck_assert_uint_eq(hop.count, 1);
    ck_assert_int_eq(hop.error, -ESHUTDOWN);
    ck_assert_uint_eq(record.opens, 1);
    ck_assert_uint_eq(berth_loop_conns(to), 0);
    ck_assert_int_eq(berth_loop_run(to), 0); /* it returns */
    ck_assert_int_eq(berth_loop_destroy(to), 0);
    ck_assert_int_eq(close(client), 0);
    record.closes = record.opens;
    record_end(&rig, &record);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("handover");
    RIG_ADD(suite, leaves_with_its_descriptor);
    RIG_ADD(suite, bytes_on_their_way_are_not_lost);
    RIG_ADD(suite, waits_until_all_is_sent);
    RIG_ADD(suite, end_is_left_to_the_next_owner);
    RIG_ADD(suite, from_its_callbacks);
    RIG_ADD(suite, too_late_or_too_early);
    RIG_ADD(suite, what_cannot_leave_closes);
    RIG_ADD(suite, flags_come_back);
    RIG_ADD(suite, timeouts_stay_behind);
    RIG_ADD(suite, nonblocking_one_moves);
    RIG_ADD(suite, nobody_arrives_after_the_deadline);
    return test_run(suite);
}
