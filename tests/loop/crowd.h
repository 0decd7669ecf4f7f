/*
 * Some connections at once, each of which sends a stream whose bytes say where they belong: what
 * the tests of the kernel's habits share. A byte lost, doubled or given to somebody else fails the
 * test wherever it arrives; so does a second end or a second close.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_CROWD_H
#define BERTH_TESTS_LOOP_CROWD_H

#include "loop/ways.h"

#define CROWD_MAX 128
#define CROWD_TURNS 2000

struct member {
    int client; /**< -1: gone */
    uint32_t key;
    uint64_t written, received;
    berth_token token;
    unsigned eofs, closes;
    int reason;
};

static struct {
    struct rig rig;
    struct berth_loop_options options;
    struct member members[CROWD_MAX];
    unsigned count, opened, closed;
    /** What else is to be done with data. NULL: nothing. */
    void (*on_data)(struct berth_conn *conn, struct member *member, const struct berth_span *spans,
                    unsigned n);
} crowd;

static inline struct member *
crowd_member(struct berth_conn *conn)
{
    return *(struct member **)berth_conn_payload(conn);
}

static inline int
crowd_open(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    ck_assert_uint_lt(crowd.opened, crowd.count);
    struct member *member = &crowd.members[crowd.opened++];
    member->token = berth_conn_token(conn);
    *(struct member **)berth_conn_payload(conn) = member;
    return 0;
}

static inline void
crowd_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct member *member = crowd_member(conn);
    size_t sum = 0;
    ck_assert_uint_eq(member->eofs + member->closes, 0);
    for (unsigned i = 0; i < n; i++) {
        ck_assert(ways_same(spans[i].data, spans[i].length, member->key, member->received));
        member->received += spans[i].length;
        sum += spans[i].length;
    }
    ck_assert_uint_eq(sum, bytes);
    if (crowd.on_data != NULL)
        crowd.on_data(conn, member, spans, n);
}

static inline void
crowd_eof(struct berth_conn *conn)
{
    struct member *member = crowd_member(conn);
    ck_assert_uint_eq(member->eofs++, 0);
    ck_assert_uint_eq(member->received, member->written);
    (void)berth_conn_close(conn);
}

static inline void
crowd_close(struct berth_conn *conn, int reason)
{
    struct member *member = crowd_member(conn);
    ck_assert_uint_eq(member->closes++, 0);
    member->reason = reason;
    crowd.closed++;
}

static const struct berth_handlers crowd_handlers = {
    .open = crowd_open, .data = crowd_data, .eof = crowd_eof, .close = crowd_close};

/** Before crowd_begin, options may be changed. */
static inline void
crowd_prepare(const char *engine)
{
    memset(&crowd, 0, sizeof(crowd));
    rig_options(&crowd.options, engine, NULL);
}

/** One more connection, open on both sides. */
static inline struct member *
crowd_join(void)
{
    ck_assert_uint_lt(crowd.count, CROWD_MAX);
    struct member *member = &crowd.members[crowd.count++];
    member->key = 100 + crowd.count;
    member->client = rig_client(&crowd.rig);
    RIG_UNTIL(&crowd.rig, crowd.opened == crowd.count, CROWD_TURNS);
    return member;
}

static inline void
crowd_begin(unsigned count)
{
    rig_begin(&crowd.rig, &crowd.options, &crowd_handlers, NULL);
    while (crowd.count < count)
        (void)crowd_join();
}

/** Sends up to `length` bytes of the member's stream. Returns how many fitted. */
static inline size_t
crowd_write(struct member *member, size_t length)
{
    if (length > WAYS_BYTES_MAX)
        length = WAYS_BYTES_MAX;
    const ssize_t sent = send(member->client, ways_bytes(member->key, member->written, length),
                              length, MSG_NOSIGNAL | MSG_DONTWAIT);
    ck_assert_msg(sent > 0 || errno == EAGAIN, "send: %s", strerror(errno));
    member->written += sent > 0 ? (uint64_t)sent : 0;
    return sent > 0 ? (size_t)sent : 0;
}

static inline struct berth_conn *
crowd_conn(const struct member *member)
{
    return berth_conn_find(crowd.rig.loop, member->token);
}

/** Whether everything that was written has arrived. */
static inline int
crowd_settled(void)
{
    for (unsigned i = 0; i < crowd.count; i++)
        if (crowd.members[i].client >= 0 && crowd.members[i].closes == 0 &&
            crowd.members[i].received != crowd.members[i].written)
            return 0;
    return 1;
}

/** Every member sends about that much, whatever it takes; all of it arrives. */
static inline void
crowd_stream(uint64_t bytes)
{
    const uint64_t target = crowd.members[0].written + bytes;
    for (unsigned turns = 0, going = 1; going || !crowd_settled(); turns++) {
        ck_assert_uint_lt(turns, 100 * CROWD_TURNS);
        going = 0;
        for (unsigned i = 0; i < crowd.count; i++)
            if (crowd.members[i].client >= 0 && crowd.members[i].written < target) {
                (void)crowd_write(&crowd.members[i], 1 + (size_t)(turns * 997 + i) % 30000);
                going = 1;
            }
        (void)rig_turn(&crowd.rig, going ? 0 : RIG_TURN_MS);
    }
}

/** The client finishes; its end is seen, once, behind all its data. */
static inline void
crowd_leave(struct member *member)
{
    ck_assert_int_eq(close(member->client), 0);
    member->client = -1;
}

/** All go, and nothing is left of them. */
static inline void
crowd_end(void)
{
    for (unsigned i = 0; i < crowd.count; i++)
        if (crowd.members[i].client >= 0)
            crowd_leave(&crowd.members[i]);
    RIG_UNTIL(&crowd.rig, berth_loop_conns(crowd.rig.loop) == 0, CROWD_TURNS);
    for (unsigned i = 0; i < crowd.count; i++)
        ck_assert_uint_eq(crowd.members[i].closes, 1);
    ways_end(&crowd.rig);
}

#endif
