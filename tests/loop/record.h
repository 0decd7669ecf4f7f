/*
 * A set of handlers that writes down what it is told, and checks on the way what must hold in every
 * callback: for tests about which callback comes when.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_RECORD_H
#define BERTH_TESTS_LOOP_RECORD_H

#include "loop/loop_rig.h"

#define TURNS 400

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

static inline void
note(struct record *record, char event)
{
    if (record->length < sizeof(record->events) - 1)
        record->events[record->length++] = event;
}

static inline int
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

static inline void
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

static inline void
record_eof(struct berth_conn *conn)
{
    struct record *record = berth_conn_context(conn);
    note(record, 'e');
    if (record->on_eof != NULL)
        record->on_eof(record, conn);
}

static inline void
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

static const struct berth_handlers recording __attribute__((unused)) = {
    .open = record_open, .data = record_data, .eof = record_eof, .close = record_close};

static inline void
record_begin(struct rig *rig, struct record *record, const char *engine)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    memset(record, 0, sizeof(*record));
    record->rig = rig;
    rig_begin(rig, &options, &recording, record);
}

static inline void
record_end(struct rig *rig, struct record *record)
{
    RIG_UNTIL(rig, berth_loop_conns(rig->loop) == 0, TURNS);
    ck_assert_uint_eq(record->opens, record->closes);
    rig_end(rig);
}

#endif
