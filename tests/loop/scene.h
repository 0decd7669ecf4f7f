/*
 * A loop whose connections have timeouts, a client, and a clock that stands still but for what a
 * test lets pass: what tests of timeouts share.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_SCENE_H
#define BERTH_TESTS_LOOP_SCENE_H

#include "loop/loop_rig.h"

#include "loop/activity.h"
#include "loop/clock.h"

#define BEGIN_MS UINT64_C(987654321)
#define TURNS 200

/** The usual period, how far the clock moves at a time, and how late a timeout may be then. */
#define PERIOD_MS 8000
#define STEP_MS 50
#define LATE_MS(period_ms) ((period_ms) / 8 + 2)

/** What a slow reader's socket and the server's hold together at most, on loopback. */
#define SOCKET_BYTES 32768
#define QUEUED_BYTES (4u << 20)

struct scene {
    struct rig rig;
    struct berth_loop_options options;
    int client;
    berth_token token; /**< of the connection opened last */
    unsigned opens, closes, timeouts, received;
    int reason;
    enum berth_timeout kind; /**< that came last, and when */
    uint64_t at_ms;
    void (*on_open)(struct scene *, struct berth_conn *);
    void (*on_timeout)(struct scene *, struct berth_conn *);
};

static inline int
scene_open(struct berth_conn *conn, void *ctx)
{
    struct scene *scene = ctx;
    const int bytes = SOCKET_BYTES;
    (void)setsockopt(berth_conn_fd(conn), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    scene->opens++;
    scene->token = berth_conn_token(conn);
    if (scene->on_open != NULL)
        scene->on_open(scene, conn);
    return 0;
}

static inline void
scene_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct scene *scene = berth_conn_context(conn);
    (void)spans, (void)n;
    scene->received += (unsigned)bytes;
}

static inline void
scene_timeout(struct berth_conn *conn, enum berth_timeout kind)
{
    struct scene *scene = berth_conn_context(conn);
    ck_assert_ptr_eq(berth_conn_find(scene->rig.loop, berth_conn_token(conn)), conn);
    scene->timeouts++;
    scene->kind = kind;
    scene->at_ms = clock_now_ms;
    if (scene->on_timeout != NULL)
        scene->on_timeout(scene, conn);
}

static inline void
scene_close(struct berth_conn *conn, int reason)
{
    struct scene *scene = berth_conn_context(conn);
    ck_assert_int_eq(berth_conn_timeout(conn, BERTH_TIMEOUT_IDLE, 1), -EPIPE);
    scene->closes++;
    scene->reason = reason;
}

static const struct berth_handlers __attribute__((unused)) with_timeout = {
    .open = scene_open, .data = scene_data, .timeout = scene_timeout, .close = scene_close};
static const struct berth_handlers __attribute__((unused))
without_timeout = {.open = scene_open, .data = scene_data, .close = scene_close};

static inline void
prepare(struct scene *scene, const char *engine)
{
    memset(scene, 0, sizeof(*scene));
    rig_options(&scene->options, engine, NULL);
    scene->client = -1;
    clock_begin(BEGIN_MS);
}

static inline void
begin(struct scene *scene, const struct berth_handlers *handlers)
{
    const int bytes = SOCKET_BYTES;
    rig_begin(&scene->rig, &scene->options, handlers, scene);
    scene->client = rig_client(&scene->rig);
    ck_assert_int_eq(setsockopt(scene->client, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)), 0);
    RIG_UNTIL(&scene->rig, scene->opens == 1, TURNS);
}

/** A pair of local sockets in place of TCP, whose buffers have timers of their own. */
static inline void
begin_pair_with(struct scene *scene, const struct berth_handlers *handlers)
{
    int ends[2];
    rig_begin(&scene->rig, &scene->options, handlers, scene);
    const int bytes = SOCKET_BYTES;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    ck_assert_int_eq(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(berth_adopt(scene->rig.loop, ends[0], handlers, scene, &scene->token), 0);
    scene->client = ends[1];
}

static inline void
begin_pair(struct scene *scene)
{
    begin_pair_with(scene, &with_timeout);
}

static inline struct berth_conn *
the_conn(const struct scene *scene)
{
    return berth_conn_find(scene->rig.loop, scene->token);
}

static inline void
end(struct scene *scene)
{
    if (the_conn(scene) != NULL)
        ck_assert_int_eq(berth_conn_abort(the_conn(scene)), 0);
    if (scene->client >= 0)
        ck_assert_int_eq(close(scene->client), 0);
    RIG_UNTIL(&scene->rig, berth_loop_conns(scene->rig.loop) == 0, TURNS);
    rig_end(&scene->rig);
    clock_end();
}

static inline void
limit(struct scene *scene, enum berth_timeout kind, uint32_t ms)
{
    ck_assert_int_eq(berth_conn_timeout(the_conn(scene), kind, ms), 0);
}

/** Lets time pass: one turn per step. */
static inline void
pass(struct scene *scene, uint64_t ms, uint32_t step_ms)
{
    for (uint64_t passed_ms = 0; passed_ms < ms; passed_ms += step_ms) {
        clock_now_ms += step_ms;
        (void)rig_turn(&scene->rig, 0);
    }
}

static inline void
must_be_quiet(struct scene *scene, uint64_t ms)
{
    const unsigned before = scene->timeouts + scene->closes;
    pass(scene, ms, STEP_MS);
    ck_assert_uint_eq(scene->timeouts + scene->closes, before);
}

/** The next timeout is of that kind, and comes when it may, counted from that. */
static inline void
must_come(struct scene *scene, enum berth_timeout kind, uint64_t from_ms, uint32_t period_ms,
          uint32_t more_ms, uint32_t step_ms)
{
    const unsigned before = scene->timeouts;
    const uint64_t last_ms = from_ms + period_ms + LATE_MS(period_ms) + more_ms + step_ms;
    while (scene->timeouts == before && clock_now_ms <= last_ms)
        pass(scene, step_ms, step_ms);
    ck_assert_uint_eq(scene->timeouts, before + 1);
    ck_assert_int_eq(scene->kind, kind);
    ck_assert_msg(scene->at_ms >= from_ms + period_ms, "early: %llu ms after, not %u",
                  (unsigned long long)(scene->at_ms - from_ms), period_ms);
}

static inline void
client_sends(struct scene *scene)
{
    const unsigned before = scene->received;
    rig_write(scene->client, "x", 1);
    RIG_UNTIL(&scene->rig, scene->received > before, TURNS);
}

static inline void
server_sends(struct scene *scene)
{
    char byte;
    ck_assert_int_eq(berth_send(the_conn(scene), "y", 1), 0);
    RIG_UNTIL(&scene->rig, rig_read(scene->client, &byte, 1) == 1, TURNS);
    RIG_UNTIL(&scene->rig, berth_conn_queued(the_conn(scene)) == 0, TURNS);
}

static inline void
queue_much(struct scene *scene)
{
    static char zeroes[65536];
    for (unsigned queued = 0; queued < QUEUED_BYTES; queued += sizeof(zeroes))
        ck_assert_int_eq(berth_send(the_conn(scene), zeroes, sizeof(zeroes)), 0);
}

/** Reads until there is nothing more, or so much. Returns the bytes. */
static inline size_t
client_reads(struct scene *scene, size_t at_most)
{
    static char data[65536];
    size_t bytes = 0;
    for (unsigned empty = 0; empty < 3 && bytes < at_most;) {
        const size_t wanted = at_most - bytes < sizeof(data) ? at_most - bytes : sizeof(data);
        const intptr_t got = rig_read(scene->client, data, wanted);
        bytes += got > 0 ? (size_t)got : 0;
        empty = got > 0 ? 0 : empty + 1;
        (void)rig_turn(&scene->rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    return bytes;
}

/** Turns until the kernel takes no more: sockets are full. */
static inline void
fill_sockets(struct scene *scene, size_t at_least)
{
    size_t queued = 0;
    for (unsigned same = 0; same < 5;) {
        (void)rig_turn(&scene->rig, RIG_TURN_MS);
        same = berth_conn_queued(the_conn(scene)) == queued ? same + 1 : 0;
        queued = berth_conn_queued(the_conn(scene));
    }
    ck_assert_uint_ge(queued, at_least);
}

#endif
