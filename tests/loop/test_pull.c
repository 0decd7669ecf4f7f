/*
 * Pulled receives: a connection whose bytes are fetched by a call in place of a posted receive is
 * like any other. No byte is lost or reordered when it begins or ends, wherever that falls; credit,
 * holding, pausing, ends, errors, timeouts, leaving the loop and want of buffers are respected; and
 * the puller is told once that it is over.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_SOCKET
#include "loop/loop_rig.h"

#include "loop/loop_internal.h"
#include "loop/pull.h"
#include "os/sys.h"
#include "support/faults.h"

#define TURNS 400

static struct {
    struct rig rig;
    struct berth_conn *conn;
    int client;
    uint64_t sent, received; /**< positions in the sequence */
    uint64_t pulled;         /**< bytes that the puller brought */
    unsigned pulls, overs, ends, closes, timeouts, deliveries;
    int reason;
    size_t most_seen;
    int toggle; /**< start or stop in every so many'th data callback; 0: never */
    int echo;
    struct berth_lease kept[600];
    unsigned kept_count;
    int keep; /**< retain whatever comes */
    int detached_fd;
} w;

/** The byte at a position of the sequence: neighbouring blocks of it differ. */
static unsigned char
byte_at(uint64_t position)
{
    return (unsigned char)(position ^ (position >> 8) ^ (position >> 16));
}

/* ---- the puller ----------------------------------------------------------------------------- */

static size_t
test_pull(struct berth_loop *loop, struct berth_slot *slot, int fd, size_t most, int *emptied)
{
    uint32_t buffer;
    void *data;
    struct berth_span span;
    ck_assert_ptr_eq(slot_cold(loop, slot)->pull_state, &w);
    ck_assert_uint_gt(most, 0);
    ck_assert_int_eq(fd, berth_slot_fd(slot));
    w.pulls++;
    if (berth_pool_post(loop->pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE, &buffer, &data) != 0) {
        receive_starve(loop, slot);
        return 0;
    }
    (void)berth_pool_expose(loop->pool, buffer);
    const intptr_t got = sys_recv(fd, data, most < 4096 ? most : 4096, MSG_DONTWAIT);
    if (got <= 0) {
        ck_assert_int_eq(berth_pool_unpost(loop->pool, buffer), 0);
        if (got == 0)
            conn_eof(loop, slot);
        else if (got != -EAGAIN)
            conn_failed(loop, slot, (int)got);
        return 0;
    }
    *emptied = got < 4096 && (size_t)got < most;
    w.pulled += (uint64_t)got;
    ck_assert_int_eq(berth_pool_lend(loop->pool, buffer, (uint32_t)got, &span), 0);
    CONN_COPIES(loop, slot, received_mapped, (uint64_t)got);
    conn_deliver_pulled(loop, slot, &span, 1, (size_t)got, 0);
    if (berth_pool_settle(loop->pool, buffer) == 1)
        (void)berth_pool_unpost(loop->pool, buffer);
    return (size_t)got;
}

static void
test_over(struct berth_loop *loop, struct berth_slot *slot)
{
    ck_assert_ptr_eq(slot_cold(loop, slot)->pull_state, &w);
    w.overs++;
}

static const struct puller test_puller = {.pull = test_pull, .over = test_over};

static void
start(void)
{
    ck_assert_int_eq(conn_pull_start(w.rig.loop, as_slot(w.conn), &test_puller, &w), 0);
}

static void
stop(void)
{
    conn_pull_stop(w.rig.loop, as_slot(w.conn));
}

/* ---- the connection ------------------------------------------------------------------------- */

static int
on_open(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    w.conn = conn;
    return 0;
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct berth_loop *loop = berth_conn_loop(conn);
    size_t total = 0;
    for (unsigned i = 0; i < n; i++) {
        unsigned wrong = 0;
        for (uint32_t b = 0; b < spans[i].length; b++)
            wrong += ((const unsigned char *)spans[i].data)[b] != byte_at(w.received++);
        ck_assert_uint_eq(wrong, 0);
        total += spans[i].length;
        if (w.echo)
            ck_assert_int_eq(berth_send_span(conn, &spans[i]), 0);
        if (w.keep) {
            ck_assert_uint_lt(w.kept_count, sizeof(w.kept) / sizeof(w.kept[0]));
            ck_assert_int_eq(berth_retain(berth_loop_pool(loop), &spans[i], 0, spans[i].length, 0,
                                          &w.kept[w.kept_count++]),
                             0);
        }
    }
    ck_assert_uint_eq(total, bytes);
    if (bytes > w.most_seen)
        w.most_seen = bytes;
    if (w.toggle > 0 && ++w.deliveries % (unsigned)w.toggle == 0) {
        if (conn_pulls(loop, as_slot(conn)))
            stop();
        else
            start();
    }
}

static void
on_eof(struct berth_conn *conn)
{
    w.ends++;
    (void)berth_conn_close(conn);
}

static void
on_close(struct berth_conn *conn, int reason)
{
    (void)conn;
    w.closes++;
    w.reason = reason;
    w.conn = NULL;
}

static void
on_timeout(struct berth_conn *conn, enum berth_timeout kind)
{
    (void)conn, (void)kind;
    w.timeouts++;
}

static const struct berth_handlers handlers = {
    .open = on_open, .data = on_data, .eof = on_eof, .close = on_close, .timeout = on_timeout};

static void
begin_with(const struct berth_loop_options *options)
{
    memset(&w, 0, sizeof(w));
    rig_begin(&w.rig, options, &handlers, NULL);
    w.client = rig_client(&w.rig);
    RIG_UNTIL(&w.rig, w.conn != NULL, TURNS);
}

/** 1 if it can be tried on that engine. */
static int
begin(const char *engine)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    if (options.direct_descriptors)
        return 0;
    begin_with(&options);
    return 1;
}

static void
finish(void)
{
    if (w.client >= 0)
        rig_close_all(&w.rig, &w.client, 1);
    RIG_UNTIL(&w.rig, berth_loop_conns(w.rig.loop) == 0, TURNS);
    ck_assert_uint_eq(w.rig.loop->pulling, 0);
    ck_assert_uint_eq(w.rig.loop->parked, 0);
    ck_assert_uint_eq(rig_stats(&w.rig).zombies, 0);
    rig_end(&w.rig);
}

/** Sends as much of the sequence as the socket takes, up to that position. */
static void
feed(uint64_t up_to)
{
    unsigned char piece[8192];
    while (w.sent < up_to) {
        size_t length = sizeof(piece);
        if (up_to - w.sent < length)
            length = (size_t)(up_to - w.sent);
        for (size_t i = 0; i < length; i++)
            piece[i] = byte_at(w.sent + i);
        const ssize_t sent = send(w.client, piece, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        w.sent += (uint64_t)sent;
    }
}

/** Feeds and turns until all of it has come. */
static void
pass(uint64_t up_to)
{
    for (unsigned turns = 0; w.received < up_to; turns++) {
        ck_assert_uint_lt(turns, 20000);
        feed(up_to);
        (void)rig_turn(&w.rig, RIG_TURN_MS);
    }
    ck_assert_uint_eq(w.received, up_to);
}

static void
turn_some(unsigned turns)
{
    while (turns-- > 0)
        (void)rig_turn(&w.rig, 0);
}

/* ---- cases ---------------------------------------------------------------------------------- */

START_TEST(everything_goes_through_the_puller)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    turn_some(2);
    start();
    ck_assert_int_eq(conn_pull_start(w.rig.loop, as_slot(w.conn), &test_puller, &w), -EALREADY);
    pass(300000);
    ck_assert_uint_eq(w.pulled, 300000);
    struct berth_copies copies;
    berth_loop_copies_get(w.rig.loop, &copies);
    ck_assert_uint_eq(copies.received, 300000);
    ck_assert_uint_eq(copies.received_mapped, 300000);
    ck_assert_uint_eq(copies.received_kernel, 0);
    ck_assert_int_eq(shutdown(w.client, SHUT_WR), 0);
    RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
    ck_assert_uint_eq(w.ends, 1);
    ck_assert_uint_eq(w.overs, 1);
    finish();
}
END_TEST

START_TEST(an_end_behind_bytes_is_told)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    turn_some(2);
    start();
    turn_some(2);
    feed(100);
    ck_assert_int_eq(shutdown(w.client, SHUT_WR), 0);
    RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
    ck_assert_uint_eq(w.received, 100);
    ck_assert_uint_eq(w.ends, 1);
    ck_assert_int_eq(w.reason, 0);
    finish();
}
END_TEST

START_TEST(switching_loses_and_reorders_nothing)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    /* From inside callbacks, at every distance. */
    for (w.toggle = 1; w.toggle < 8; w.toggle++)
        pass(w.received + 1500000);
    w.toggle = 0;
    const uint64_t by_pull = w.pulled;
    ck_assert_uint_gt(by_pull, 0);
    ck_assert_uint_lt(by_pull, w.received);
    /* And between turns, with and without bytes waiting. */
    for (unsigned i = 0; i < 300; i++) {
        if (conn_pulls(w.rig.loop, as_slot(w.conn)))
            stop();
        else
            start();
        feed(w.sent + i * 97 % 20000);
        for (unsigned turns = i % 4; turns > 0; turns--)
            (void)rig_turn(&w.rig, 0);
    }
    pass(w.sent);
    stop();
    turn_some(2);
    const uint64_t pulled = w.pulled;
    pass(w.sent + 200000);
    ck_assert_uint_eq(w.pulled, pulled);
    ck_assert_uint_eq(w.overs, 0);
    finish();
}
END_TEST

START_TEST(starting_and_stopping_at_once_changes_nothing)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    for (unsigned i = 0; i < 20; i++) {
        start();
        stop();
        if (i % 3 == 0)
            turn_some(1);
        start();
        turn_some(i % 2);
        stop();
        pass(w.received + 5000);
    }
    finish();
}
END_TEST

START_TEST(credit_is_kept_exactly)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    start();
    turn_some(2);
    ck_assert_int_eq(berth_conn_credit(w.conn, 1000), 0);
    feed(100000);
    turn_some(10);
    ck_assert_uint_eq(w.received, 1000);
    ck_assert_int_eq(berth_conn_credit(w.conn, 5000), 0);
    turn_some(10);
    ck_assert_uint_eq(w.received, 6000);
    ck_assert_int_eq(berth_conn_credit(w.conn, BERTH_CREDIT_UNLIMITED), 0);
    pass(100000);
    ck_assert_uint_eq(w.pulled, 100000);
    finish();
}
END_TEST

START_TEST(nothing_is_pulled_while_held)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    struct berth_loop *loop = w.rig.loop;
    start();
    turn_some(2);
    conn_pull_hold(loop, as_slot(w.conn), 1);
    feed(50000);
    turn_some(10);
    ck_assert_uint_eq(w.pulls, 0);
    /* Credit does not override it, and it does not override credit. */
    ck_assert_int_eq(berth_conn_credit(w.conn, BERTH_CREDIT_UNLIMITED), 0);
    turn_some(10);
    ck_assert_uint_eq(w.pulls, 0);
    ck_assert_int_eq(berth_conn_credit(w.conn, 700), 0);
    conn_pull_hold(loop, as_slot(w.conn), 0);
    turn_some(10);
    ck_assert_uint_eq(w.received, 700);
    conn_pull_hold(loop, as_slot(w.conn), 1);
    ck_assert_int_eq(berth_conn_credit(w.conn, BERTH_CREDIT_UNLIMITED), 0);
    conn_pull_hold(loop, as_slot(w.conn), 0);
    ck_assert_uint_eq(as_slot(w.conn)->state & CONN_CREDIT, 0);
    pass(50000);
    /* Whoever stops pulling is not held any more. */
    conn_pull_hold(loop, as_slot(w.conn), 1);
    stop();
    pass(60000);
    ck_assert_uint_eq(w.pulled, 50000);
    finish();
}
END_TEST

START_TEST(a_full_send_queue_pauses_it)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.send_high_bytes = 40000;
    options.send_low_bytes = 10000;
    if (options.direct_descriptors)
        return;
    begin_with(&options);
    w.echo = 1;
    start();
    /* Until the client's socket, which nobody reads, is full, and the queue with it. */
    unsigned pulls = 0, quiet = 0;
    for (unsigned i = 0; i < 4000 && quiet < 20; i++) {
        feed(w.sent + 100000);
        (void)rig_turn(&w.rig, 1);
        quiet = w.pulls == pulls ? quiet + 1 : 0;
        pulls = w.pulls;
    }
    ck_assert_uint_eq(quiet, 20);
    ck_assert(as_slot(w.conn)->state & CONN_HIGH);
    ck_assert_int_gt(berth_conn_queued(w.conn), 0);
    unsigned char piece[65536];
    uint64_t read = 0;
    for (unsigned turns = 0; read < w.sent; turns++) {
        ck_assert_uint_lt(turns, 20000);
        const intptr_t got = rig_read(w.client, piece, sizeof(piece));
        unsigned wrong = 0;
        for (intptr_t i = 0; i < got; i++)
            wrong += piece[i] != byte_at(read++);
        ck_assert_uint_eq(wrong, 0);
        (void)rig_turn(&w.rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    ck_assert_uint_eq(w.pulled, w.sent);
    finish();
}
END_TEST

START_TEST(resets_and_aborts_end_it)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned way = 0; way < 4; way++) {
        if (!begin(engine))
            return;
        if (way % 2 == 0)
            turn_some(2);
        start();
        if (way % 2 == 0)
            turn_some(2);
        feed(2000);
        if (way < 2) {
            rig_reset(w.client);
            w.client = -1;
        } else {
            ck_assert_int_eq(berth_conn_abort(w.conn), 0);
        }
        RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
        ck_assert_int_eq(w.reason, way < 2 ? -ECONNRESET : -ECANCELED);
        ck_assert_uint_eq(w.overs, 1);
        finish();
    }
}
END_TEST

START_TEST(a_reset_while_held_is_no_busy_loop)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    start();
    turn_some(2);
    conn_pull_hold(w.rig.loop, as_slot(w.conn), 1);
    turn_some(2);
    rig_reset(w.client);
    w.client = -1;
    turn_some(20);
    const uint64_t before = rig_stats(&w.rig).syscalls;
    (void)rig_turn(&w.rig, RIG_TURN_MS);
    (void)rig_turn(&w.rig, RIG_TURN_MS);
    ck_assert_uint_le(rig_stats(&w.rig).syscalls - before, 8);
    if (w.conn != NULL) {
        conn_pull_hold(w.rig.loop, as_slot(w.conn), 0);
        RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
    }
    ck_assert_int_eq(w.reason, -ECONNRESET);
    finish();
}
END_TEST

static void
on_detached(struct berth_conn *conn, int fd, void *arg)
{
    (void)conn, (void)arg;
    ck_assert_int_ge(fd, 0);
    w.detached_fd = fd;
    w.conn = NULL;
}

START_TEST(a_connection_leaves_while_pulled)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    start();
    pass(10000);
    w.detached_fd = -1;
    ck_assert_int_eq(berth_conn_detach(w.conn, on_detached, NULL), 0);
    RIG_UNTIL(&w.rig, w.detached_fd >= 0, TURNS);
    ck_assert_uint_eq(w.overs, 1);
    feed(10100);
    unsigned char rest[200];
    ck_assert_int_eq(recv(w.detached_fd, rest, sizeof(rest), 0), 100);
    for (unsigned i = 0; i < 100; i++)
        ck_assert_uint_eq(rest[i], byte_at(10000 + i));
    ck_assert_int_eq(close(w.detached_fd), 0);
    finish();
}
END_TEST

START_TEST(it_waits_for_a_buffer_like_others)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_pool_options pool;
    struct berth_loop_options options;
    berth_pool_options_init(&pool);
    pool.bytes_max = 8u << 20;
    for (int i = 0; i < BERTH_CLASS_COUNT; i++)
        pool.class_bytes_max[i] = 2u << 20;
    rig_options(&options, engine, &pool);
    options.receive_buffers = 16;
    if (options.direct_descriptors)
        return;
    begin_with(&options);
    start();
    w.keep = 1;
    feed(4u << 20);
    for (unsigned i = 0; i < 4000 && !(as_slot(w.conn)->state & CONN_STARVED); i++) {
        feed(4u << 20);
        turn_some(1);
    }
    ck_assert(as_slot(w.conn)->state & CONN_STARVED);
    w.keep = 0;
    while (w.kept_count > 0)
        ck_assert_int_eq(berth_release(berth_loop_pool(w.rig.loop), w.kept[--w.kept_count]), 0);
    pass(4u << 20);
    ck_assert_uint_eq(w.pulled, w.received);
    finish();
}
END_TEST

START_TEST(timeouts_and_parking_go_on)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    /* Parked before, and while it is pulled. */
    turn_some(2);
    ck_assert_int_ge(berth_loop_park_idle(w.rig.loop, 0), 0);
    turn_some(3);
    start();
    ck_assert_int_eq(berth_loop_park_idle(w.rig.loop, 0), 0);
    turn_some(3);
    pass(5000);
    ck_assert_uint_eq(w.pulled, 5000);
    ck_assert_int_eq(berth_conn_timeout(w.conn, BERTH_TIMEOUT_READ, 20), 0);
    RIG_UNTIL(&w.rig, w.timeouts > 0, TURNS);
    /* Stopped, it is as one that was parked. */
    stop();
    pass(9000);
    ck_assert_uint_eq(w.pulled, 5000);
    finish();
}
END_TEST

START_TEST(a_loop_is_destroyed_with_it)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine))
        return;
    start();
    turn_some(_i % 2);
    ck_assert_int_eq(close(w.client), 0);
    rig_end(&w.rig);
    ck_assert_uint_eq(w.overs, 1);
    ck_assert_uint_eq(w.closes, 1);
}
END_TEST

START_TEST(direct_descriptors_cannot)
{
    struct berth_loop_options options;
    if (!rig_has("uring-direct"))
        return;
    rig_options(&options, "uring-direct", NULL);
    begin_with(&options);
    if (w.rig.loop->direct)
        ck_assert_int_eq(conn_pull_start(w.rig.loop, as_slot(w.conn), &test_puller, &w),
                         -EOPNOTSUPP);
    finish();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pull");
    RIG_ADD(suite, everything_goes_through_the_puller);
    RIG_ADD(suite, an_end_behind_bytes_is_told);
    RIG_ADD(suite, switching_loses_and_reorders_nothing);
    RIG_ADD(suite, starting_and_stopping_at_once_changes_nothing);
    RIG_ADD(suite, credit_is_kept_exactly);
    RIG_ADD(suite, nothing_is_pulled_while_held);
    RIG_ADD(suite, a_full_send_queue_pauses_it);
    RIG_ADD(suite, resets_and_aborts_end_it);
    RIG_ADD(suite, a_reset_while_held_is_no_busy_loop);
    RIG_ADD(suite, a_connection_leaves_while_pulled);
    RIG_ADD(suite, it_waits_for_a_buffer_like_others);
    RIG_ADD(suite, timeouts_and_parking_go_on);
    RIG_ADD(suite, a_loop_is_destroyed_with_it);
    RIG_ADD_COUNTED(suite, direct_descriptors_cannot, 1);
    return test_run(suite);
}
