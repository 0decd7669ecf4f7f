/*
 * Connections that forward to each other, seen from outside: clients write bytes that say where
 * they belong, and other clients must read just those. Clients are numbered in the order in which
 * they connect, and so are the loop's connections.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_FORWARDING_H
#define BERTH_TESTS_LOOP_FORWARDING_H

#include "berth/forward.h"
#include "loop/ways.h"

#define TURNS 2000
#define SIDES_MAX 4

/** Small, so that queues form in the loop and not in the kernel. */
#define SOCKET_BYTES 32768

/** A client, and the loop's connection to it. */
struct side {
    int client; /**< -1: closed */
    berth_token token;
    size_t written;  /**< bytes that the client has sent */
    size_t read;     /**< bytes that the client has read, all of them right */
    size_t received; /**< bytes that the data callback got */
    unsigned opens, eofs, drained, closes;
    int reason; /**< of the close */
};

struct forwarding {
    struct rig rig;
    struct berth_loop_options options;
    struct side sides[SIDES_MAX];
    unsigned count;
    unsigned splice; /**< BERTH_FORWARD_SPLICE, or 0: among the flags of every forwarding */
    uint64_t random;
    void (*on_data)(struct forwarding *, unsigned side, struct berth_conn *);
    void (*on_eof)(struct forwarding *, unsigned side, struct berth_conn *);
    void (*on_drained)(struct forwarding *, unsigned side, struct berth_conn *);
    void (*on_close)(struct forwarding *, unsigned side, struct berth_conn *);
};

static inline struct berth_conn *
conn_of(const struct forwarding *all, unsigned side)
{
    return berth_conn_find(all->rig.loop, all->sides[side].token);
}

/** The number of a connection: what its payload says. */
static inline unsigned
side_of(struct berth_conn *conn)
{
    return *(unsigned *)berth_conn_payload(conn);
}

/* ---- the loop's side ------------------------------------------------------------------------- */

static inline int
side_open(struct berth_conn *conn, void *ctx)
{
    struct forwarding *all = ctx;
    const unsigned number = all->count;
    const int bytes = SOCKET_BYTES, fd = rig_conn_fd(conn);
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(close(fd), 0);
    *(unsigned *)berth_conn_payload(conn) = number;
    all->sides[number].token = berth_conn_token(conn);
    all->sides[number].opens++;
    return 0;
}

static inline void
side_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct forwarding *all = berth_conn_context(conn);
    (void)spans, (void)n;
    all->sides[side_of(conn)].received += bytes;
    if (all->on_data != NULL)
        all->on_data(all, side_of(conn), conn);
}

static inline void
side_drained(struct berth_conn *conn)
{
    struct forwarding *all = berth_conn_context(conn);
    all->sides[side_of(conn)].drained++;
    if (all->on_drained != NULL)
        all->on_drained(all, side_of(conn), conn);
}

static inline void
side_eof(struct berth_conn *conn)
{
    struct forwarding *all = berth_conn_context(conn);
    all->sides[side_of(conn)].eofs++;
    if (all->on_eof != NULL)
        all->on_eof(all, side_of(conn), conn);
}

static inline void
side_close(struct berth_conn *conn, int reason)
{
    struct forwarding *all = berth_conn_context(conn);
    const unsigned side = side_of(conn);
    ck_assert_uint_eq(all->sides[side].closes, 0);
    all->sides[side].closes++;
    all->sides[side].reason = reason;
    if (all->on_close != NULL)
        all->on_close(all, side, conn);
}

static const struct berth_handlers side_callbacks = {.open = side_open,
                                                     .data = side_data,
                                                     .drained = side_drained,
                                                     .eof = side_eof,
                                                     .close = side_close};

/** The same without a handler for the end of the stream. */
static const struct berth_handlers side_callbacks_plain = {
    .open = side_open, .data = side_data, .close = side_close};

/* ---- the clients ----------------------------------------------------------------------------- */

/** A client sends as much as fits, up to that. Returns how much. */
static inline size_t
client_writes(struct forwarding *all, unsigned number, size_t at_most)
{
    struct side *side = &all->sides[number];
    const size_t length = at_most < WAYS_BYTES_MAX ? at_most : WAYS_BYTES_MAX;
    const ssize_t sent = send(side->client, ways_bytes(number + 1, side->written, length), length,
                              MSG_NOSIGNAL | MSG_DONTWAIT);
    ck_assert_msg(sent > 0 || errno == EAGAIN, "send: %s", strerror(errno));
    side->written += sent > 0 ? (size_t)sent : 0;
    return sent > 0 ? (size_t)sent : 0;
}

/**
 * A client reads at most so much, which must be what another one has sent, from where it stands.
 * Returns its bytes, 0 at the end of the stream, or -errno.
 */
static inline intptr_t
client_reads(struct forwarding *all, unsigned number, unsigned sender, size_t at_most)
{
    static unsigned char data[WAYS_BYTES_MAX];
    struct side *side = &all->sides[number];
    const intptr_t got =
        rig_read(side->client, data, at_most < sizeof(data) ? at_most : sizeof(data));
    if (got <= 0)
        return got;
    ck_assert_msg(ways_same(data, (size_t)got, sender + 1, side->read),
                  "%u: wrong bytes between %zu and %zu", number, side->read,
                  side->read + (size_t)got);
    side->read += (size_t)got;
    return got;
}

/** Turns, while a client reads, until its stream has come to `end` (0, or -errno). */
static inline void
read_to_the_end(struct forwarding *all, unsigned number, unsigned sender, intptr_t end)
{
    intptr_t got = -EAGAIN;
    for (unsigned idle = 0; (got > 0 || got == -EAGAIN) && idle < TURNS; idle++) {
        got = client_reads(all, number, sender, WAYS_BYTES_MAX);
        if (got > 0)
            idle = 0;
        (void)rig_turn(&all->rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    ck_assert_int_eq(got, end);
}

/** Turns, while a client reads, until it has read so much. */
static inline void
read_until(struct forwarding *all, unsigned number, unsigned sender, size_t bytes)
{
    for (unsigned idle = 0; all->sides[number].read < bytes && idle < TURNS; idle++) {
        if (client_reads(all, number, sender, bytes - all->sides[number].read) > 0)
            idle = 0;
        else
            (void)rig_turn(&all->rig, RIG_TURN_MS);
    }
    ck_assert_uint_eq(all->sides[number].read, bytes);
}

/** Turns until nothing more happens. */
static inline void
turn_until_quiet(struct forwarding *all)
{
    for (unsigned quiet = 0, turns = 0; quiet < 5; turns++) {
        ck_assert_uint_lt(turns, 20 * TURNS);
        quiet = rig_turn(&all->rig, 2) > 0 ? 0 : quiet + 1;
    }
}

static inline void
client_closes(struct forwarding *all, unsigned number)
{
    ck_assert_int_eq(close(all->sides[number].client), 0);
    all->sides[number].client = -1;
}

static inline void
client_resets(struct forwarding *all, unsigned number)
{
    rig_reset(all->sides[number].client);
    all->sides[number].client = -1;
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static inline void
prepare(struct forwarding *all, const char *engine, unsigned splice)
{
    memset(all, 0, sizeof(*all));
    all->splice = splice;
    all->random = test_seed(engine);
    rig_options(&all->options, engine, NULL);
    all->options.send_high_bytes = 128 * 1024;
    all->options.send_low_bytes = 32 * 1024;
    all->options.close_timeout_ms = 60000; /* readers here may rest longer than the usual 5 s */
    all->options.conn_stats = 1;
}

static inline void
add_side(struct forwarding *all)
{
    const int bytes = SOCKET_BYTES;
    struct side *side = &all->sides[all->count];
    ck_assert_uint_lt(all->count, SIDES_MAX);
    side->client = rig_client(&all->rig);
    ck_assert_int_eq(setsockopt(side->client, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(setsockopt(side->client, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    RIG_UNTIL(&all->rig, side->opens == 1, TURNS);
    all->count++;
}

/** The loop, and so many clients that are connected. */
static inline void
begin_with(struct forwarding *all, const struct berth_handlers *handlers, unsigned count)
{
    rig_begin(&all->rig, &all->options, handlers, all);
    for (unsigned i = 0; i < count; i++)
        add_side(all);
}

static inline void
begin(struct forwarding *all, unsigned count)
{
    begin_with(all, &side_callbacks, count);
}

static inline void
forward(struct forwarding *all, unsigned from, unsigned to, unsigned flags)
{
    ck_assert_int_eq(berth_forward(conn_of(all, from), conn_of(all, to), flags | all->splice), 0);
}

/** Defines a test that is made twice: with leases, and through pipes. */
#define TWICE(name)                                                                                \
    static void name##_with(const char *engine, unsigned splice);                                  \
    START_TEST(name)                                                                               \
    {                                                                                              \
        RIG_ENGINE_OR_RETURN(engine);                                                              \
        name##_with(engine, 0);                                                                    \
    }                                                                                              \
    END_TEST                                                                                       \
    START_TEST(name##_spliced)                                                                     \
    {                                                                                              \
        RIG_ENGINE_OR_RETURN(engine);                                                              \
        name##_with(engine, BERTH_FORWARD_SPLICE);                                                 \
    }                                                                                              \
    END_TEST                                                                                       \
    static void name##_with(const char *engine, unsigned splice)

#define ADD_TWICE(suite, name)                                                                     \
    do {                                                                                           \
        RIG_ADD(suite, name);                                                                      \
        RIG_ADD(suite, name##_spliced);                                                            \
    } while (0)

/** Both ways between the first two. */
static inline void
forward_both(struct forwarding *all, unsigned flags)
{
    forward(all, 0, 1, flags);
    forward(all, 1, 0, flags);
}

/** What was received of one and not sent to the other: bytes. */
static inline size_t
on_the_way(const struct forwarding *all, unsigned from, unsigned to)
{
    struct berth_conn_stats in, out;
    ck_assert_int_eq(berth_conn_stats_get(conn_of(all, from), &in), 0);
    ck_assert_int_eq(berth_conn_stats_get(conn_of(all, to), &out), 0);
    ck_assert_uint_ge(in.received_bytes, out.sent_bytes);
    return in.received_bytes - out.sent_bytes;
}

/** Nothing was copied in the library; and with pipes, where there can be some, by nobody. */
static inline void
check_no_copies(const struct forwarding *all)
{
    struct berth_copies copies;
    berth_loop_copies_get(all->rig.loop, &copies);
    if (all->splice && !all->options.direct_descriptors) {
        ck_assert_uint_eq(copies.sent_kernel, 0);
        ck_assert_uint_eq(copies.sent_spliced, copies.sent);
    }
    ck_assert_uint_eq(copies.received_pullup, 0);
    ck_assert_uint_eq(copies.received_compact, 0);
    ck_assert_uint_eq(copies.sent_gather, 0);
}

/** Closes what is left, and checks that nothing is held. */
static inline void
end_with_copies(struct forwarding *all)
{
    for (unsigned i = 0; i < all->count; i++) {
        struct berth_conn *conn = conn_of(all, i);
        if (conn != NULL)
            (void)berth_conn_abort(conn);
        if (all->sides[i].client >= 0)
            client_closes(all, i);
    }
    RIG_UNTIL(&all->rig, berth_loop_conns(all->rig.loop) == 0, TURNS);
    for (unsigned i = 0; i < all->count; i++)
        ck_assert_uint_eq(all->sides[i].closes, 1);
    ways_end(&all->rig);
}

/** The same, and that the library has copied nothing. */
static inline void
end(struct forwarding *all)
{
    check_no_copies(all);
    end_with_copies(all);
}

#endif
