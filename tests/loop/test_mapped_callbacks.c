/*
 * What a data callback may do while it is lent mapped memory: close, abort, detach or move its
 * connection, stop mapping it, or forget how long the span is. The memory stays until the callback
 * has returned, or for as long as a lease is held; nothing is delivered twice or lost.
 * Every case runs on every engine that maps.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/mapping.h"

#include "berth/loop_cross.h"
#include "loop/mapped_parts.h"

#define TOTAL (2 * MIB)

/** What the callback does, once, with the first span that is mapped behind so many bytes. */
enum deed { CLOSE, ABORT, DETACH, MOVE, UNMAP, CREDIT };

static struct {
    enum deed deed;
    uint64_t behind;
    unsigned done;
    uint64_t received; /**< when it was done */
    int lease_kept;
    struct berth_lease lease;
    struct berth_pool *pool;
    uint64_t position; /**< of the lease */
    struct berth_loop *to;
    unsigned told; /**< detached, or moved */
    int fd;        /**< or -errno */
} plan;

static int
is_mapped(const struct berth_span *span)
{
    return span->length >= 4096 && ((uintptr_t)span->data & 4095) == 0 &&
           w.rig.loop->stats.mapped > 0;
}

static void
has_left(struct berth_conn *conn, int fd, void *arg)
{
    (void)conn, (void)arg;
    plan.told++;
    plan.fd = fd;
}

static void
has_moved(struct berth_loop *to, berth_token token, int error, void *ctx)
{
    (void)to, (void)token, (void)ctx;
    plan.told++;
    plan.fd = error;
}

static void
do_it(struct berth_conn *conn)
{
    if (plan.deed == CLOSE)
        ck_assert_int_eq(berth_conn_close(conn), 0);
    if (plan.deed == ABORT)
        ck_assert_int_eq(berth_conn_abort(conn), 0);
    if (plan.deed == DETACH)
        ck_assert_int_eq(berth_conn_detach(conn, has_left, NULL), 0);
    if (plan.deed == MOVE)
        ck_assert_int_eq(berth_conn_move(conn, plan.to, &handlers, NULL, has_moved), 0);
    if (plan.deed == UNMAP)
        ck_assert_int_eq(berth_conn_map(conn, 0), 0);
    if (plan.deed == CREDIT)
        ck_assert_int_eq(berth_conn_credit(conn, 0), 0);
}

static void
act(struct berth_conn *conn, const struct berth_span *spans, unsigned n)
{
    uint64_t position = w.received;
    if (plan.done > 0 && plan.deed <= ABORT)
        ck_abort_msg("called again");
    for (unsigned i = 0; i < n; i++)
        position -= spans[i].length;
    for (unsigned i = 0; i < n && plan.done == 0; i++) {
        if (is_mapped(&spans[i]) && w.received > plan.behind) {
            plan.done++;
            plan.received = w.received;
            plan.position = position;
            plan.pool = berth_loop_pool(berth_conn_loop(conn));
            if (plan.lease_kept)
                ck_assert_int_eq(
                    berth_retain(plan.pool, &spans[i], 0, spans[i].length, 0, &plan.lease), 0);
            do_it(conn);
            /* The memory is still there, whatever was done. */
            ck_assert(is_sequence(spans[i].data, position, spans[i].length));
        }
        position += spans[i].length;
    }
}

/** 1 if it can be tried; then it has been done. */
static int
begin_deed(const char *engine, enum deed deed, uint64_t behind, int keep_lease)
{
    memset(&plan, 0, sizeof(plan));
    if (!begin(engine, SEGMENT_PAGES, 1))
        return 0;
    plan.deed = deed;
    plan.behind = behind;
    plan.lease_kept = keep_lease;
    w.act = act;
    return 1;
}

/** Feeds until the callback has done it; some more is on the way. */
static void
until_done(void)
{
    for (unsigned turns = 0; plan.done == 0; turns++) {
        ck_assert_uint_lt(turns, 4000);
        feed(w.received + ON_THE_WAY);
        (void)rig_turn(&w.rig, RIG_TURN_MS);
    }
}

/** The lease, if one was kept, holds its bytes; then everything is given back. */
static void
finish_deed(void)
{
    if (plan.lease_kept) {
        ck_assert(
            is_sequence(berth_lease_data(plan.pool, plan.lease), plan.position, plan.lease.length));
        ck_assert_int_eq(berth_release(plan.pool, plan.lease), 0);
    }
    struct windows *windows = w.rig.loop->mapper->windows;
    struct windows_state state;
    RIG_UNTIL(&w.rig,
              (windows_look(windows, &state), state.used_bytes <= WINDOW_BYTES) &&
                  windows_dirty(windows) == 0,
              TURNS);
    w.act = NULL;
    finish();
    ck_assert_uint_le(plan.told, 1);
}

/* ---- ends ----------------------------------------------------------------------------------- */

START_TEST(it_is_ended)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned way = 0; way < 8; way++) {
        const enum deed deed = way % 2 ? ABORT : CLOSE;
        if (!begin_deed(engine, deed, way & 4 ? MIB : 0, way & 2))
            return;
        until_done();
        RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
        ck_assert_uint_eq(w.received, plan.received); /* nothing came behind it */
        ck_assert_int_eq(w.reason, deed == ABORT ? -ECANCELED : 0);
        ck_assert_uint_eq(w.ends, 0);
        finish_deed();
    }
}
END_TEST

/** With its last bytes, and the end behind them. */
START_TEST(it_is_ended_at_its_end)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned way = 0; way < 4; way++) {
        const enum deed deed = way % 2 ? ABORT : CLOSE;
        if (!begin_deed(engine, deed, 0, way & 2))
            return;
        feed(65536);
        ck_assert_int_eq(close(w.client), 0);
        w.client = -1;
        RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
        ck_assert_uint_eq(plan.done, 1);
        ck_assert_uint_eq(w.ends, 0);
        finish_deed();
    }
}
END_TEST

/* ---- leaving -------------------------------------------------------------------------------- */

/** What was not delivered is in the socket. */
START_TEST(it_is_detached)
{
    RIG_ENGINE_OR_RETURN(engine);
    static unsigned char rest[MIB];
    for (unsigned way = 0; way < 4; way++) {
        if (!begin_deed(engine, DETACH, way & 2 ? MIB : 0, way & 1))
            return;
        until_done();
        RIG_UNTIL(&w.rig, plan.told == 1, TURNS);
        ck_assert_int_ge(plan.fd, 0);
        ck_assert_uint_eq(w.received, plan.received);
        feed(w.sent + 5000);
        ck_assert_int_eq(shutdown(w.client, SHUT_WR), 0);
        uint64_t position = w.received;
        for (ssize_t got; (got = recv(plan.fd, rest, sizeof(rest), 0)) > 0;) {
            ck_assert(is_sequence(rest, position, (size_t)got));
            position += (uint64_t)got;
        }
        ck_assert_uint_eq(position, w.sent);
        ck_assert_int_eq(close(plan.fd), 0);
        ck_assert_uint_eq(w.closes, 0);
        finish_deed();
    }
}
END_TEST

/** The stream goes on in a loop of any engine, and is mapped there where it can be. */
static void
moves_to(const char *engine, const char *to, int keep_lease)
{
    struct berth_loop_options options;
    if (!begin_deed(engine, MOVE, MIB / 2, keep_lease))
        return;
    rig_options(&options, to, NULL);
    ck_assert_int_eq(berth_loop_create(&plan.to, &options), 0);
    until_done();
    for (unsigned turns = 0; w.received < TOTAL; turns++) {
        ck_assert_uint_lt(turns, 4000);
        feed(w.received + ON_THE_WAY < TOTAL ? w.received + ON_THE_WAY : TOTAL);
        (void)rig_turn(&w.rig, 0);
        ck_assert_int_ge(berth_loop_turn(plan.to, 1), 0);
    }
    ck_assert_uint_eq(plan.told, 1);
    ck_assert_int_eq(plan.fd, 0);
    ck_assert_uint_eq(w.received, w.sent);
    struct berth_copies there;
    berth_loop_copies_get(plan.to, &there);
    ck_assert_uint_eq(there.received, TOTAL - plan.received);
    if (options.direct_descriptors)
        ck_assert_int_eq(w.force_to, -EOPNOTSUPP);
    else
        ck_assert_uint_gt(there.received_mapped, there.received / 2);
    ck_assert_int_eq(close(w.client), 0);
    w.client = -1;
    for (unsigned turns = 0; w.closes == 0; turns++) {
        ck_assert_uint_lt(turns, TURNS);
        ck_assert_int_ge(berth_loop_turn(plan.to, RIG_TURN_MS), 0);
    }
    ck_assert_int_eq(berth_loop_destroy(plan.to), 0);
    finish_deed();
}

START_TEST(it_is_moved)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int to = 0; to < 2 * RIG_ENGINES; to++)
        if (rig_has(rig_engines[to / 2]))
            moves_to(engine, rig_engines[to / 2], to % 2);
}
END_TEST

/**
 * The kernel tells of a reset together with the pages before it, and once. Whoever had the socket
 * next would take an end for a good one: so the connection does not leave.
 */
START_TEST(a_reset_is_not_left_behind)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned way = 0; way < 2; way++) {
        struct berth_loop_options options;
        if (!begin_deed(engine, way ? MOVE : DETACH, 0, 0))
            return;
        rig_options(&options, engine, NULL);
        ck_assert_int_eq(berth_loop_create(&plan.to, &options), 0);
        feed(65536);
        rig_reset(w.client);
        w.client = -1;
        for (unsigned turns = 0; plan.told == 0 || w.closes == 0; turns++) {
            ck_assert_uint_lt(turns, TURNS);
            (void)rig_turn(&w.rig, 1);
            ck_assert_int_ge(berth_loop_turn(plan.to, 0), 0);
        }
        ck_assert_int_eq(plan.fd, -ECONNRESET);
        ck_assert_int_eq(w.reason, -ECONNRESET);
        ck_assert_int_eq(berth_loop_destroy(plan.to), 0);
        finish_deed();
    }
}
END_TEST

/* ---- going on otherwise --------------------------------------------------------------------- */

START_TEST(it_is_not_mapped_any_more)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int keep_lease = 0; keep_lease < 2; keep_lease++) {
        if (!begin_deed(engine, UNMAP, 0, keep_lease))
            return;
        until_done();
        const uint64_t mapped = copies().received_mapped;
        pass(TOTAL);
        ck_assert_uint_eq(copies().received_mapped, mapped);
        finish_deed();
    }
}
END_TEST

START_TEST(it_is_paused)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin_deed(engine, CREDIT, 0, 0))
        return;
    until_done();
    feed(w.received + ON_THE_WAY);
    turn_some(5);
    ck_assert_uint_eq(w.received, plan.received);
    ck_assert_int_eq(berth_conn_credit(w.conn, BERTH_CREDIT_UNLIMITED), 0);
    pass(TOTAL);
    ck_assert_uint_gt(copies().received_mapped, TOTAL / 2);
    finish_deed();
}
END_TEST

/* ---- spans that were made longer ------------------------------------------------------------ */

static unsigned lengthened;

/** Behind what was mapped nothing is: touching it would raise SIGBUS. */
static void
lengthen(struct berth_conn *conn, const struct berth_span *spans, unsigned n)
{
    struct berth_pool *pool = berth_loop_pool(berth_conn_loop(conn));
    struct berth_lease lease, slice;
    for (unsigned i = 0; i < n; i++) {
        struct berth_span longer = spans[i];
        if (!is_mapped(&spans[i]) || spans[i].length > 128 * 1024)
            continue; /* the window has to have some room left */
        lengthened++;
        longer.length++;
        ck_assert_int_eq(berth_retain(pool, &longer, 0, longer.length, 0, &lease), -EINVAL);
        ck_assert_int_eq(berth_retain(pool, &longer, 0, 1, 0, &lease), -EINVAL);
        ck_assert_int_eq(berth_send_span(conn, &longer), -EINVAL);
        longer.length += 4096;
        ck_assert_int_eq(berth_send_span(conn, &longer), -EINVAL);
        ck_assert_int_eq(berth_retain(pool, &spans[i], 0, spans[i].length, 0, &lease), 0);
        lease.length++;
        ck_assert_ptr_null(berth_lease_data(pool, lease));
        ck_assert_int_ne(berth_slice(pool, lease, lease.length - 1, 1, &slice), 0);
        ck_assert_int_eq(berth_send_lease(conn, lease), -EINVAL);
        lease.length--;
        ck_assert_ptr_eq(berth_lease_data(pool, lease), spans[i].data);
        ck_assert_int_eq(berth_release(pool, lease), 0);
    }
}

START_TEST(spans_that_were_made_longer)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, SEGMENT_PAGES, 1))
        return;
    lengthened = 0;
    w.act = lengthen;
    for (unsigned i = 1; i <= 20; i++)
        pass(i * 16384);
    ck_assert_uint_gt(lengthened, 0);
    w.act = NULL;
    finish();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("mapped callbacks");
    RIG_ADD(suite, it_is_ended);
    RIG_ADD(suite, it_is_ended_at_its_end);
    RIG_ADD(suite, it_is_detached);
    RIG_ADD(suite, it_is_moved);
    RIG_ADD(suite, a_reset_is_not_left_behind);
    RIG_ADD(suite, it_is_not_mapped_any_more);
    RIG_ADD(suite, it_is_paused);
    RIG_ADD(suite, spans_that_were_made_longer);
    return test_run(suite);
}
