/*
 * Lanes: a connection that goes on receiving in bulk gets a ring of buffers to itself. Its bytes
 * are whole, in order and contiguous; what is kept of them stays; and the lane is given up when the
 * connection goes quiet, closes, or leaves no buffer for it.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ways.h"
#include "support/faults.h"
#include "support/sys_groups.h"

#define KEY 5
#define CHUNK ((size_t)128 * 1024)
#define KEPT_MAX 4096

static struct {
    struct rig rig;
    int client;
    uint64_t written, received;
    size_t span_max; /**< the longest span in a lane */
    unsigned keep_every;
    int keep_in_lane; /**< only spans in a lane */
    unsigned spans;
    struct berth_lease kept[KEPT_MAX];
    uint64_t kept_at[KEPT_MAX];
    unsigned kept_count;
    int eof;
    int any_bytes; /**< what comes is not looked at */
    unsigned closes;
    int reason;
    const char *end; /**< behind the last byte that came */
    uint64_t now_ms;
} lane;

static intptr_t
clock_of_test(uint64_t *now_ms)
{
    *now_ms = lane.now_ms;
    return 0;
}

/** Whether the bytes are in a buffer of the class that lanes use. */
static int
in_lane(const struct berth_span *span)
{
    const struct berth_pool *pool = berth_loop_pool(lane.rig.loop);
    struct berth_slab slab;
    for (unsigned i = 0; berth_pool_slab(pool, i, &slab) == 0; i++) {
        if ((uintptr_t)span->data - (uintptr_t)slab.data < slab.bytes)
            return slab.size_class == BERTH_CLASS_2M;
    }
    ck_abort_msg("a span that is in no slab");
    return 0;
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)conn, (void)bytes;
    for (unsigned i = 0; i < n; i++) {
        ck_assert(lane.any_bytes || ways_same(spans[i].data, spans[i].length, KEY, lane.received));
        if (spans[i].length > lane.span_max && in_lane(&spans[i]))
            lane.span_max = spans[i].length;
        if (lane.keep_every != 0 && (!lane.keep_in_lane || in_lane(&spans[i])) &&
            lane.spans++ % lane.keep_every == 0 && lane.kept_count < KEPT_MAX) {
            lane.kept_at[lane.kept_count] = lane.received;
            ck_assert_int_eq(berth_retain(berth_loop_pool(lane.rig.loop), &spans[i], 0,
                                          spans[i].length, 0, &lane.kept[lane.kept_count++]),
                             0);
        }
        lane.received += spans[i].length;
        lane.end = (const char *)spans[i].data + spans[i].length;
    }
}

static void
on_close(struct berth_conn *conn, int reason)
{
    (void)conn;
    lane.closes++;
    lane.reason = reason;
}

static void
on_eof(struct berth_conn *conn)
{
    lane.eof = 1;
    ck_assert_int_eq(berth_conn_close(conn), 0);
}

static const struct berth_handlers handlers = {.data = on_data, .eof = on_eof, .close = on_close};

static void
begin(const struct berth_loop_options *options)
{
    memset(&lane, 0, sizeof lane);
    lane.now_ms = 1000;
    berth_sys_clock_ms = clock_of_test;
    rig_begin(&lane.rig, options, &handlers, NULL);
    lane.client = rig_client(&lane.rig);
    const int size = 4 << 20;
    ck_assert_int_eq(setsockopt(lane.client, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    RIG_UNTIL(&lane.rig, berth_loop_conns(lane.rig.loop) == 1, 100);
}

static void
let_go(void)
{
    struct berth_pool *pool = berth_loop_pool(lane.rig.loop);
    for (unsigned i = 0; i < lane.kept_count; i++) {
        ck_assert(ways_same(berth_lease_data(pool, lane.kept[i]), lane.kept[i].length, KEY,
                            lane.kept_at[i]));
        ck_assert_int_eq(berth_release(pool, lane.kept[i]), 0);
    }
    lane.kept_count = 0;
}

static void
end(void)
{
    let_go();
    rig_close_all(&lane.rig, &lane.client, 1);
    rig_end(&lane.rig);
    faults_reset();
}

/** Sends and receives `bytes` more. */
static void
stream(uint64_t bytes)
{
    const uint64_t goal = lane.received + bytes;
    for (unsigned turns = 0; lane.received < goal; turns++) {
        ck_assert_uint_lt(turns, 300);
        ck_assert_msg(lane.closes == 0, "closed: %d", lane.reason);
        while (lane.written < goal) {
            const size_t left = (size_t)(goal - lane.written);
            const ssize_t sent =
                send(lane.client, ways_bytes(KEY, lane.written, left < CHUNK ? left : CHUNK),
                     left < CHUNK ? left : CHUNK, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent <= 0)
                break;
            lane.written += (uint64_t)sent;
        }
        (void)rig_turn(&lane.rig, RIG_TURN_MS);
    }
}

/** A loop of io_uring whose connection has a lane, or 0 where there is none. */
static int
begin_with_lane(const char *engine, const struct berth_pool_options *pool)
{
    struct berth_loop_options options;
    if (strncmp(engine, "uring", 5) != 0 || !rig_has(engine))
        return 0;
    rig_options(&options, engine, pool);
    begin(&options);
    stream(UINT64_C(16) << 20);
    if (rig_stats(&lane.rig).lanes == 1)
        return 1;
    char text[2048];
    (void)berth_loop_explain(lane.rig.loop, text, sizeof text);
    ck_assert_msg(strstr(text, "of its own") == NULL, "no lane after 16 MiB");
    printf("skipped: this kernel has no lanes\n");
    end();
    return 0;
}

/** Buffers of the class that lanes use. */
static unsigned lanes_hold;
static void
count_big(const struct berth_holding *holding, void *context)
{
    (void)context;
    lanes_hold += holding->size_class == BERTH_CLASS_2M;
}

static unsigned
big_buffers(void)
{
    lanes_hold = 0;
    (void)berth_pool_report(berth_loop_pool(lane.rig.loop), count_big, NULL);
    return lanes_hold;
}

START_TEST(bulk_is_contiguous)
{
    if (!begin_with_lane(rig_engines[_i], NULL))
        return;
    lane.span_max = 0;
    stream(UINT64_C(32) << 20);
    printf("the longest span: %zu bytes\n", lane.span_max);
    ck_assert_uint_gt(lane.span_max, 16384);
    ck_assert_uint_eq(rig_stats(&lane.rig).lanes, 1);
    ck_assert_uint_eq(big_buffers(), 2);
    end();
}
END_TEST

START_TEST(quiet_connections_hold_nothing)
{
    if (!begin_with_lane(rig_engines[_i], NULL))
        return;
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_uint_eq(big_buffers(), 2);
        lane.now_ms += 100;
        (void)rig_turn(&lane.rig, 0);
        lane.now_ms += 1000;
        RIG_UNTIL(&lane.rig, big_buffers() == 0, 100);
        stream(100); /* in the ring that all share */
        ck_assert_uint_eq(big_buffers(), 0);
        stream(UINT64_C(16) << 20); /* and a lane again */
        ck_assert_uint_eq(rig_stats(&lane.rig).lanes, i + 2);
    }
    end();
}
END_TEST

START_TEST(what_is_kept_stays)
{
    if (!begin_with_lane(rig_engines[_i], NULL))
        return;
    lane.keep_every = 3;
    stream(UINT64_C(48) << 20);
    let_go();
    stream(UINT64_C(8) << 20);
    end();
}
END_TEST

/** Everything is kept until the pool has no more: what comes after has to wait, and then comes. */
START_TEST(all_is_kept_until_nothing_is_left)
{
    struct berth_pool_options pool;
    berth_pool_options_init(&pool);
    pool.bytes_max = (size_t)32 << 20;
    if (!begin_with_lane(rig_engines[_i], &pool))
        return;
    lane.keep_every = 1;
    const uint64_t before = lane.received;
    for (unsigned turns = 0; turns < 2000; turns++) {
        const ssize_t sent = send(lane.client, ways_bytes(KEY, lane.written, CHUNK), CHUNK,
                                  MSG_DONTWAIT | MSG_NOSIGNAL);
        lane.written += sent > 0 ? (uint64_t)sent : 0;
        (void)rig_turn(&lane.rig, 0);
    }
    ck_assert_uint_gt(lane.received - before, (uint64_t)8 << 20);
    ck_assert_uint_lt(lane.received - before, (uint64_t)40 << 20);
    lane.keep_every = 0;
    let_go();
    const uint64_t goal = lane.written;
    RIG_UNTIL(&lane.rig, lane.received == goal, 10000);
    stream(UINT64_C(4) << 20);
    end();
}
END_TEST

/* ---- when there are no big buffers ----------------------------------------------------------- */

#define BIG_BYTES ((size_t)2 << 20)
#define BIG_MAX 64

static struct berth_lease big[BIG_MAX];
static unsigned big_count;

/** Takes all big buffers that the pool has. */
static void
take_all_big(void)
{
    struct berth_pool *pool = berth_loop_pool(lane.rig.loop);
    big_count = 0;
    while (big_count < BIG_MAX &&
           berth_pool_get(pool, BERTH_CLASS_2M, BERTH_FOR_NEW, &big[big_count]) == 0)
        big_count++;
    ck_assert_uint_gt(big_count, 0);
    ck_assert_uint_lt(big_count, BIG_MAX);
}

static void
give_all_big(void)
{
    while (big_count > 0)
        ck_assert_int_eq(berth_release(berth_loop_pool(lane.rig.loop), big[--big_count]), 0);
}

/** Sends no more than ends with the buffer that is being filled. */
static void
stream_within(void)
{
    const size_t left = BIG_BYTES - (uintptr_t)lane.end % BIG_BYTES;
    stream(left < 65536 ? left : 65536);
    ck_assert_uint_eq(rig_stats(&lane.rig).enobufs, 0);
}

static void
stream_to_the_end_of_a_buffer(void)
{
    do
        stream_within();
    while ((uintptr_t)lane.end % BIG_BYTES != 0);
}

/**
 * A buffer is kept and there is none to replace it: the lane goes on with the other one alone, and
 * with two again when there are some.
 */
START_TEST(one_buffer_is_enough)
{
    struct berth_pool_options pool;
    berth_pool_options_init(&pool);
    pool.bytes_max = (size_t)40 << 20;
    if (!begin_with_lane(rig_engines[_i], &pool))
        return;
    take_all_big();
    lane.keep_every = 1;
    stream_within();
    ck_assert_uint_ge(lane.kept_count, 1);
    lane.keep_every = 0;
    for (unsigned i = 0; i < 4; i++)
        stream_to_the_end_of_a_buffer();
    give_all_big();
    for (unsigned i = 0; i < 4; i++)
        stream_to_the_end_of_a_buffer();
    stream(UINT64_C(16) << 20);
    ck_assert_uint_eq(lane.closes, 0);
    ck_assert_uint_eq(rig_stats(&lane.rig).lanes, 1);
    ck_assert_uint_eq(big_buffers(), 3);
    end();
}
END_TEST

/** A lane that runs dry is given up: that says nothing about the ring that all share. */
START_TEST(dry_lanes_starve_nobody)
{
    struct berth_pool_options pool;
    berth_pool_options_init(&pool);
    pool.bytes_max = (size_t)40 << 20;
    if (!begin_with_lane(rig_engines[_i], &pool))
        return;
    take_all_big();
    const struct berth_loop_stats before = rig_stats(&lane.rig);
    lane.keep_every = 1;
    lane.keep_in_lane = 1;
    stream(UINT64_C(5) << 20);
    lane.keep_every = 0;
    stream(UINT64_C(1) << 20);
    const struct berth_loop_stats after = rig_stats(&lane.rig);
    ck_assert_uint_eq(after.starved, before.starved);
    give_all_big();
    end();
}
END_TEST

START_TEST(the_end_of_a_stream_is_seen)
{
    if (!begin_with_lane(rig_engines[_i], NULL))
        return;
    ck_assert_int_eq(shutdown(lane.client, SHUT_WR), 0);
    RIG_UNTIL(&lane.rig, lane.eof, 100);
    end();
}
END_TEST

START_TEST(closing_gives_the_lane_up)
{
    if (!begin_with_lane(rig_engines[_i], NULL))
        return;
    lane.any_bytes = 1;
    rig_flood(lane.client);
    rig_reset(lane.client);
    RIG_UNTIL(&lane.rig, berth_loop_conns(lane.rig.loop) == 0, 1000);
    ck_assert_uint_eq(big_buffers(), 0);
    rig_end(&lane.rig);
    faults_reset();
}
END_TEST

#ifdef BERTH_HAVE_LIBURING
static unsigned refused;
static intptr_t
refuse_incremental(struct io_uring *ring, struct io_uring_buf_reg *registration)
{
    if (registration->bgid == 0)
        return sys_direct_uring_register_buffers(ring, registration);
    refused++;
    return -EINVAL;
}

/** A kernel without incremental buffers: asked once, and everything comes all the same. */
START_TEST(kernels_without_them)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    if (strncmp(engine, "uring", 5) != 0)
        return;
    rig_options(&options, engine, NULL);
    refused = 0;
    berth_sys_uring_register_buffers = refuse_incremental;
    begin(&options);
    stream(UINT64_C(32) << 20);
    ck_assert_uint_le(refused, 1);
    ck_assert_uint_eq(rig_stats(&lane.rig).lanes, 0);
    ck_assert_uint_eq(big_buffers(), 0);
    end();
}
END_TEST
#endif

int
main(void)
{
    Suite *suite = suite_create("loop lanes");
    RIG_ADD(suite, bulk_is_contiguous);
    RIG_ADD(suite, quiet_connections_hold_nothing);
    RIG_ADD(suite, what_is_kept_stays);
    RIG_ADD(suite, all_is_kept_until_nothing_is_left);
    RIG_ADD(suite, one_buffer_is_enough);
    RIG_ADD(suite, dry_lanes_starve_nobody);
    RIG_ADD(suite, the_end_of_a_stream_is_seen);
    RIG_ADD(suite, closing_gives_the_lane_up);
#ifdef BERTH_HAVE_LIBURING
    RIG_ADD(suite, kernels_without_them);
#endif
    return test_run(suite);
}
