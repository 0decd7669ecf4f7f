/*
 * What the tests of pulled receives share: a puller that reads in the ordinary way, and one
 * connection that it serves, whose client sends a sequence of bytes.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_PULLING_H
#define BERTH_TESTS_LOOP_PULLING_H

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
    void (*act)(struct berth_conn *conn); /**< in the data callback */
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
    if (w.act != NULL)
        w.act(conn);
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

#endif
