/*
 * One connection seen from both ends: the server's side queues bytes that say where they belong, in
 * every way there is, and the client's side reads and compares; and the other way round.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_ENDS_H
#define BERTH_TESTS_LOOP_ENDS_H

#include "loop/ways.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#define TURNS 2000

/** Small, so that sends fall short; not so small that TCP waits for its timers. */
#define SOCKET_BYTES 32768

/** Smaller than what is left of that as a window, which TCP would take for none otherwise. */
#define SEGMENT_BYTES 4096

#define KEY_UP 1
#define KEY_DOWN 2

/** One connection, from both ends. */
struct ends {
    struct rig rig;
    struct berth_loop_options options;
    int client;
    berth_token token;
    uint64_t random;
    size_t total;    /**< bytes that the server means to send */
    size_t queued;   /**< of those, queued */
    size_t written;  /**< bytes that the client has sent */
    size_t received; /**< of those, seen by the server */
    size_t read;     /**< bytes that the client has read, all of them right */
    unsigned drained;
    unsigned over_mark; /**< drained callbacks owed */
    unsigned opens, eofs, closes;
    int reason; /**< of the close */
    void (*on_data)(struct ends *, struct berth_conn *, const struct berth_span *);
};

/** The client reads at most so much. Returns its bytes, 0 at the end of the stream, or -errno. */
static inline intptr_t
client_reads(struct ends *ends, size_t at_most)
{
    static unsigned char data[WAYS_BYTES_MAX];
    const intptr_t got =
        rig_read(ends->client, data, at_most < sizeof(data) ? at_most : sizeof(data));
    if (got <= 0)
        return got;
    ck_assert_msg(ways_same(data, (size_t)got, KEY_DOWN, ends->read),
                  "wrong bytes between %zu and %zu", ends->read, ends->read + (size_t)got);
    ends->read += (size_t)got;
    return got;
}

/** The client sends as much as fits, up to that. */
static inline void
client_writes(struct ends *ends, size_t at_most)
{
    const size_t length = at_most < WAYS_BYTES_MAX ? at_most : WAYS_BYTES_MAX;
    const ssize_t sent = send(ends->client, ways_bytes(KEY_UP, ends->written, length), length,
                              MSG_NOSIGNAL | MSG_DONTWAIT);
    ck_assert_msg(sent > 0 || errno == EAGAIN, "send: %s", strerror(errno));
    if (sent > 0)
        ends->written += (size_t)sent;
}

static inline struct berth_conn *
the_conn(const struct ends *ends)
{
    return berth_conn_find(ends->rig.loop, ends->token);
}

/* ---- the server's callbacks ----------------------------------------------------------------- */

static inline int
ends_open(struct berth_conn *conn, void *ctx)
{
    struct ends *ends = ctx;
    const int bytes = SOCKET_BYTES;
    const int fd = rig_conn_fd(conn);
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(close(fd), 0);
    ends->token = berth_conn_token(conn);
    ends->opens++;
    return 0;
}

static inline void
ends_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct ends *ends = berth_conn_context(conn);
    (void)bytes;
    for (unsigned i = 0; i < n; i++) {
        ck_assert(ways_same(spans[i].data, spans[i].length, KEY_UP, ends->received));
        ends->received += spans[i].length;
        if (ends->on_data != NULL)
            ends->on_data(ends, conn, &spans[i]);
    }
}

/** Notes that drained is owed, if what has just been queued passed the mark. */
static inline void
look_at_marks(struct ends *ends, const struct berth_conn *conn)
{
    if (berth_conn_queued(conn) >= ends->options.send_high_bytes)
        ends->over_mark = 1;
}

/** Queues until the high mark is passed or all is queued; then ends the sending side. */
static inline void
push(struct ends *ends, struct berth_conn *conn)
{
    while (ends->queued < ends->total && !ends->over_mark) {
        size_t length = ways_length(&ends->random, WAYS_BYTES_MAX);
        if (test_random(&ends->random) % 16 == 0)
            length = WAYS_BYTES_MAX - length % 1000;
        if (length > ends->total - ends->queued)
            length = ends->total - ends->queued;
        const enum way way = (enum way)(test_random(&ends->random) % WAY_COUNT);
        ck_assert_int_eq(ways_send(conn, way, KEY_DOWN, ends->queued, length, &ends->random), 0);
        ends->queued += length;
        look_at_marks(ends, conn);
    }
    if (ends->queued == ends->total && ends->total > 0)
        (void)berth_conn_shutdown(conn);
}

static inline void
ends_drained(struct berth_conn *conn)
{
    struct ends *ends = berth_conn_context(conn);
    ck_assert_uint_eq(ends->over_mark, 1);
    ck_assert_uint_le(berth_conn_queued(conn), ends->options.send_low_bytes);
    ends->over_mark = 0;
    ends->drained++;
    push(ends, conn);
}

static inline void
ends_eof(struct berth_conn *conn)
{
    struct ends *ends = berth_conn_context(conn);
    ends->eofs++;
    ck_assert_uint_eq(ends->received, ends->written);
}

static inline void
ends_close(struct berth_conn *conn, int reason)
{
    struct ends *ends = berth_conn_context(conn);
    ends->closes++;
    ends->reason = reason;
}

static const struct berth_handlers ends_callbacks = {.open = ends_open,
                                                     .data = ends_data,
                                                     .drained = ends_drained,
                                                     .eof = ends_eof,
                                                     .close = ends_close};

/* ---- beginning and end ---------------------------------------------------------------------- */

static inline void
prepare(struct ends *ends, const char *engine)
{
    memset(ends, 0, sizeof(*ends));
    ends->random = test_seed(engine);
    rig_options(&ends->options, engine, NULL);
    ends->options.send_high_bytes = 128 * 1024;
    ends->options.send_low_bytes = 32 * 1024;
}

/** The loop, with one connection that is open. */
static inline void
begin(struct ends *ends)
{
    const int bytes = SOCKET_BYTES, segment = SEGMENT_BYTES;
    rig_begin(&ends->rig, &ends->options, &ends_callbacks, ends);
    ck_assert_int_eq(setsockopt(berth_listener_fd(ends->rig.listener), IPPROTO_TCP, TCP_MAXSEG,
                                &segment, sizeof(segment)),
                     0);
    ends->client = rig_client(&ends->rig);
    ck_assert_int_eq(setsockopt(ends->client, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(setsockopt(ends->client, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    RIG_UNTIL(&ends->rig, ends->opens == 1, TURNS);
}

static inline void
end(struct ends *ends)
{
    struct berth_conn *conn = the_conn(ends);
    if (conn != NULL) /* an end of the stream alone would leave our side open */
        ck_assert_int_eq(berth_conn_abort(conn), 0);
    ck_assert_int_eq(close(ends->client), 0);
    RIG_UNTIL(&ends->rig, ends->closes == 1, TURNS);
    ways_end(&ends->rig);
    ck_assert_uint_eq(ends->closes, 1);
}

/** Turns until the client has met the end of the stream: bounded by turns without a byte. */
static inline void
read_to_the_end(struct ends *ends, size_t at_a_time)
{
    intptr_t got = -EAGAIN;
    for (unsigned idle = 0; got != 0 && idle < TURNS; idle++) {
        got = client_reads(ends, at_a_time);
        ck_assert_msg(got >= 0 || got == -EAGAIN, "read: %s", strerror((int)-got));
        if (got > 0)
            idle = 0;
        (void)rig_turn(&ends->rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    ck_assert_int_eq(got, 0);
}

/** Queues so many pieces of foreign memory. */
static inline void
queue_wrapped(struct ends *ends, unsigned pieces, size_t length)
{
    for (unsigned i = 0; i < pieces; i++) {
        ck_assert_int_eq(
            ways_send(the_conn(ends), WAY_WRAPPED, KEY_DOWN, ends->queued, length, &ends->random),
            0);
        ends->queued += length;
    }
    look_at_marks(ends, the_conn(ends));
}

#endif
