/*
 * Much data on few connections: whole, in order and nobody else's, however many buffers come at
 * once, whatever the callbacks keep of them, however few buffers there are.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ways.h"
#include "support/faults.h"
#include "support/sys_groups.h"

#define CONNS 3
#define BYTES_EACH (UINT64_C(6) << 20)
#define KEPT_MAX 64
#define TURNS_MAX 400000u

struct kept {
    struct berth_lease lease;
    uint32_t key;
    uint64_t position;
};

/** One stream: what its client has sent, what of it has arrived, and what has come back. */
struct bulk_stream {
    int client;
    uint32_t key;
    uint64_t written, received, returned;
};

static struct {
    struct rig rig;
    struct bulk_stream streams[CONNS];
    unsigned opened;
    struct kept kept[KEPT_MAX];
    unsigned kept_count;
    unsigned keep_one_in;               /**< spans; 0: none is kept */
    int echoes;                         /**< what comes is sent back */
    unsigned spans_max;                 /**< that came in one callback */
    size_t bytes_max;                   /**< the same */
    uint64_t callbacks, spans, buffers; /**< buffers: those that bytes came in */
    uint64_t random;
} bulk;

/** Looks at a kept span again: nobody else may have written to it meanwhile. */
static void
let_go(unsigned at)
{
    const struct kept *kept = &bulk.kept[at];
    struct berth_pool *pool = berth_loop_pool(bulk.rig.loop);
    ck_assert(ways_same(berth_lease_data(pool, kept->lease), kept->lease.length, kept->key,
                        kept->position));
    ck_assert_int_eq(berth_release(pool, kept->lease), 0);
    bulk.kept[at] = bulk.kept[--bulk.kept_count];
}

static uint32_t
below(uint32_t bound)
{
    return (uint32_t)(test_random(&bulk.random) % bound);
}

/** Keeps all of a span, or a piece of it. */
static void
keep(const struct berth_span *span, uint32_t key, uint64_t position)
{
    if (bulk.kept_count == KEPT_MAX)
        let_go(below(KEPT_MAX));
    struct kept *kept = &bulk.kept[bulk.kept_count++];
    const uint32_t offset = below(2) ? 0 : below(span->length);
    const uint32_t length = below(2) ? span->length - offset : 1 + below(span->length - offset);
    kept->key = key;
    kept->position = position + offset;
    ck_assert_int_eq(berth_retain(berth_loop_pool(bulk.rig.loop), span, offset, length,
                                  below(2) ? BERTH_MAY_COPY : 0, &kept->lease),
                     0);
}

static int
on_open(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    struct bulk_stream **stream = berth_conn_payload(conn);
    *stream = &bulk.streams[bulk.opened++];
    return 0;
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct bulk_stream *stream = *(struct bulk_stream **)berth_conn_payload(conn);
    size_t sum = 0;
    bulk.callbacks++;
    bulk.spans += n;
    if (n > bulk.spans_max)
        bulk.spans_max = n;
    if (bytes > bulk.bytes_max)
        bulk.bytes_max = bytes;
    for (unsigned i = 0; i < n; i++) {
        ck_assert(ways_same(spans[i].data, spans[i].length, stream->key, stream->received));
        if (bulk.keep_one_in != 0 && test_random(&bulk.random) % bulk.keep_one_in == 0)
            keep(&spans[i], stream->key, stream->received);
        if (bulk.echoes)
            ck_assert_int_eq(berth_send_span(conn, &spans[i]), 0);
        stream->received += spans[i].length;
        bulk.buffers += (spans[i].length + 4095) / 4096;
        sum += spans[i].length;
    }
    ck_assert_uint_eq(sum, bytes);
}

static const struct berth_handlers handlers = {.open = on_open, .data = on_data};

static void
client_writes(struct bulk_stream *stream)
{
    const uint64_t left = BYTES_EACH - stream->written;
    const size_t length = left < WAYS_BYTES_MAX ? (size_t)left : WAYS_BYTES_MAX;
    const ssize_t sent =
        length == 0 ? 0
                    : send(stream->client, ways_bytes(stream->key, stream->written, length), length,
                           MSG_NOSIGNAL | MSG_DONTWAIT);
    ck_assert_msg(sent >= 0 || errno == EAGAIN, "send: %s", strerror(errno));
    stream->written += sent > 0 ? (uint64_t)sent : 0;
}

/** What came back, if anything is to. */
static void
client_reads(struct bulk_stream *stream)
{
    static unsigned char back[WAYS_BYTES_MAX];
    ssize_t got;
    while ((got = recv(stream->client, back, WAYS_BYTES_MAX, MSG_DONTWAIT)) > 0) {
        ck_assert(ways_same(back, (size_t)got, stream->key, stream->returned));
        stream->returned += (uint64_t)got;
    }
}

static int
all_arrived(void)
{
    for (unsigned i = 0; i < CONNS; i++) {
        if (bulk.streams[i].received < BYTES_EACH ||
            (bulk.echoes && bulk.streams[i].returned < BYTES_EACH))
            return 0;
    }
    return 1;
}

/** One at a time, so that the first that opens is the first that was made. */
static void
connect_all(void)
{
    for (unsigned i = 0; i < CONNS; i++) {
        bulk.streams[i].key = 10 + i;
        bulk.streams[i].client = rig_client(&bulk.rig);
        RIG_UNTIL(&bulk.rig, bulk.opened == i + 1, 1000);
    }
}

static void
begin_bulk(const struct berth_loop_options *options, unsigned keep_one_in)
{
    memset(&bulk, 0, sizeof bulk);
    bulk.random = test_seed("bulk");
    bulk.keep_one_in = keep_one_in;
    rig_begin(&bulk.rig, options, &handlers, NULL);
    connect_all();
}

/** Everything, to the last byte, on all connections. */
static void
stream_all(void)
{
    for (unsigned turns = 0; !all_arrived(); turns++) {
        ck_assert_uint_lt(turns, TURNS_MAX);
        for (unsigned i = 0; i < CONNS; i++) {
            client_writes(&bulk.streams[i]);
            if (bulk.echoes)
                client_reads(&bulk.streams[i]);
        }
        (void)rig_turn(&bulk.rig, RIG_TURN_MS);
        if (bulk.kept_count > 0 && test_random(&bulk.random) % 2 == 0)
            let_go(0);
    }
    while (bulk.kept_count > 0)
        let_go(0);
}

static void
end_bulk(void)
{
    int clients[CONNS];
    for (unsigned i = 0; i < CONNS; i++) {
        ck_assert_uint_eq(bulk.streams[i].received, BYTES_EACH);
        clients[i] = bulk.streams[i].client;
    }
    rig_close_all(&bulk.rig, clients, CONNS);
    ways_end(&bulk.rig);
}

static void
run_bulk(const struct berth_loop_options *options, unsigned keep_one_in)
{
    begin_bulk(options, keep_one_in);
    stream_all();
    end_bulk();
}

/** Whether an io_uring loop uses bundles; says why not. */
static int
has_bundles(const struct berth_loop_options *options)
{
    struct berth_loop *loop = NULL;
    ck_assert_int_eq(berth_loop_create(&loop, options), 0);
    const int has = rig_uses(loop, "bundles");
    ck_assert_int_eq(berth_loop_destroy(loop), 0);
    return has;
}

START_TEST(bulk_arrives_whole)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    run_bulk(&options, 0);
}
END_TEST

/**
 * Not a callback for each 4 KiB, on engines that read by themselves. (How much a completion brings
 * is a matter of when it is looked for: see bundles_are_used.)
 */
START_TEST(bulk_comes_in_big_pieces)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    if (rig_is_uring(engine))
        return;
    rig_options(&options, engine, NULL);
    run_bulk(&options, 0);
    printf("%s: %llu bytes in a callback\n", engine,
           (unsigned long long)(CONNS * BYTES_EACH / bulk.callbacks));
    ck_assert_uint_gt(CONNS * BYTES_EACH / bulk.callbacks, 16384);
}
END_TEST

START_TEST(what_is_kept_stays_as_it_was)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    run_bulk(&options, 5);
}
END_TEST

/** Fewer buffers than a connection's share of a turn: bundles end where the ring does. */
START_TEST(few_buffers_are_enough)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.receive_buffers = 16;
    run_bulk(&options, 7);
}
END_TEST

/** A share of a turn far beyond what a completion may bring at once. */
START_TEST(a_huge_share_comes_in_bounded_bundles)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.fairness_bytes = 16u << 20;
    options.receive_buffers = 4096;
    for (unsigned i = 0; i < 3; i++) {
        run_bulk(&options, 0);
        ck_assert_uint_le(bulk.spans_max, 256);
    }
}
END_TEST

/** Options for bundles and no lanes. 0 where there are none; says why not. */
static int
bundles_only(struct berth_loop_options *options, const char *engine)
{
    if (!rig_is_uring(engine))
        return 0;
    rig_options(options, engine, NULL);
    options->features = "-incremental";
    return has_bundles(options);
}

/**
 * Where the kernel can, several buffers come at once; a test that never saw that proves nothing.
 * They are one span, but where the ring begins anew: it has 256 buffers or more.
 */
START_TEST(bundles_are_used_and_are_one_span)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    if (!bundles_only(&options, engine))
        return;
    run_bulk(&options, 0);
    printf("%llu buffers, %llu callbacks, %llu spans; up to %zu bytes and %u spans at once\n",
           (unsigned long long)bulk.buffers, (unsigned long long)bulk.callbacks,
           (unsigned long long)bulk.spans, bulk.bytes_max, bulk.spans_max);
    ck_assert_uint_gt(bulk.bytes_max, 2 * 4096);
    ck_assert_uint_le(bulk.spans - bulk.callbacks, bulk.buffers / 128 + 2);
}
END_TEST

/**
 * What is kept leaves holes in the order of the ring, and comes back in any order: when nothing is
 * kept any more, that heals.
 */
START_TEST(buffers_are_put_in_order_again)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    if (!bundles_only(&options, engine))
        return;
    begin_bulk(&options, 2);
    for (unsigned round = 0; round < 6; round++) {
        bulk.callbacks = bulk.spans = bulk.buffers = 0;
        for (unsigned i = 0; i < CONNS; i++)
            bulk.streams[i].written = bulk.streams[i].received = 0;
        stream_all();
        printf("round %u: %llu buffers, %llu callbacks, %llu spans\n", round,
               (unsigned long long)bulk.buffers, (unsigned long long)bulk.callbacks,
               (unsigned long long)bulk.spans);
        bulk.keep_one_in = 0;
    }
    ck_assert_uint_le(bulk.spans, 3 * bulk.callbacks);
    ck_assert_uint_ge(bulk.buffers, 4 * bulk.callbacks); /* or it would prove nothing */
    end_bulk();
}
END_TEST

/** Spans of several buffers are sent like any other, while the ring goes on with others. */
START_TEST(bulk_comes_back)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.features = "-incremental";
    begin_bulk(&options, 0);
    bulk.echoes = 1;
    stream_all();
    end_bulk();
}
END_TEST

#ifdef BERTH_HAVE_LIBURING
/** A kernel that has never heard of bundles. */
static intptr_t
init_without_bundles(unsigned entries, struct io_uring *ring, struct io_uring_params *params)
{
    const intptr_t result = sys_direct_uring_init(entries, ring, params);
    params->features &= ~(1u << 14);
    return result;
}

START_TEST(bulk_without_bundles)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    if (!rig_is_uring(engine))
        return;
    rig_options(&options, engine, NULL);
    berth_sys_uring_init = init_without_bundles;
    run_bulk(&options, 5);
    faults_reset();
    ck_assert_uint_eq(bulk.spans_max, 1);
}
END_TEST
#endif

int
main(void)
{
    Suite *suite = suite_create("loop bulk");
    RIG_ADD(suite, bulk_arrives_whole);
    RIG_ADD(suite, bulk_comes_in_big_pieces);
    RIG_ADD(suite, what_is_kept_stays_as_it_was);
    RIG_ADD(suite, few_buffers_are_enough);
    RIG_ADD(suite, a_huge_share_comes_in_bounded_bundles);
    RIG_ADD(suite, bundles_are_used_and_are_one_span);
    RIG_ADD(suite, buffers_are_put_in_order_again);
    RIG_ADD(suite, bulk_comes_back);
#ifdef BERTH_HAVE_LIBURING
    RIG_ADD(suite, bulk_without_bundles);
#endif
    return test_run(suite);
}
