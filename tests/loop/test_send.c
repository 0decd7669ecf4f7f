/*
 * Sending: that every byte arrives once and in order, in whatever way it was queued and however
 * slowly it is read; that the marks, the limit and the time to close are kept; and whose memory it
 * is, and until when. Every case runs on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ways.h"

#include <signal.h>

#define TURNS 2000

/** Small, so that sends fall short; not so small that TCP waits for its timers. */
#define SOCKET_BYTES 32768

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
static intptr_t
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
static void
client_writes(struct ends *ends, size_t at_most)
{
    const size_t length = at_most < WAYS_BYTES_MAX ? at_most : WAYS_BYTES_MAX;
    const ssize_t sent = send(ends->client, ways_bytes(KEY_UP, ends->written, length), length,
                              MSG_NOSIGNAL | MSG_DONTWAIT);
    ck_assert_msg(sent > 0 || errno == EAGAIN, "send: %s", strerror(errno));
    if (sent > 0)
        ends->written += (size_t)sent;
}

static struct berth_conn *
the_conn(const struct ends *ends)
{
    return berth_conn_find(ends->rig.loop, ends->token);
}

/* ---- the server's callbacks ----------------------------------------------------------------- */

static int
ends_open(struct berth_conn *conn, void *ctx)
{
    struct ends *ends = ctx;
    const int bytes = SOCKET_BYTES;
    ck_assert_int_eq(setsockopt(berth_conn_fd(conn), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)),
                     0);
    ends->token = berth_conn_token(conn);
    ends->opens++;
    return 0;
}

static void
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
static void
look_at_marks(struct ends *ends, const struct berth_conn *conn)
{
    if (berth_conn_queued(conn) >= ends->options.send_high_bytes)
        ends->over_mark = 1;
}

/** Queues until the high mark is passed or all is queued; then ends the sending side. */
static void
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

static void
ends_drained(struct berth_conn *conn)
{
    struct ends *ends = berth_conn_context(conn);
    ck_assert_uint_eq(ends->over_mark, 1);
    ck_assert_uint_le(berth_conn_queued(conn), ends->options.send_low_bytes);
    ends->over_mark = 0;
    ends->drained++;
    push(ends, conn);
}

static void
ends_eof(struct berth_conn *conn)
{
    struct ends *ends = berth_conn_context(conn);
    ends->eofs++;
    ck_assert_uint_eq(ends->received, ends->written);
}

static void
ends_close(struct berth_conn *conn, int reason)
{
    struct ends *ends = berth_conn_context(conn);
    ends->closes++;
    ends->reason = reason;
}

static const struct berth_handlers callbacks = {.open = ends_open,
                                                .data = ends_data,
                                                .drained = ends_drained,
                                                .eof = ends_eof,
                                                .close = ends_close};

/* ---- beginning and end ---------------------------------------------------------------------- */

static void
prepare(struct ends *ends, const char *engine)
{
    memset(ends, 0, sizeof(*ends));
    ends->random = test_seed(engine);
    rig_options(&ends->options, engine, NULL);
    ends->options.send_high_bytes = 128 * 1024;
    ends->options.send_low_bytes = 32 * 1024;
}

/** The loop, with one connection that is open. */
static void
begin(struct ends *ends)
{
    const int bytes = SOCKET_BYTES;
    rig_begin(&ends->rig, &ends->options, &callbacks, ends);
    ends->client = rig_client(&ends->rig);
    ck_assert_int_eq(setsockopt(ends->client, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)), 0);
    ck_assert_int_eq(setsockopt(ends->client, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    RIG_UNTIL(&ends->rig, ends->opens == 1, TURNS);
}

static void
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
static void
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

/* ---- content -------------------------------------------------------------------------------- */

/** What came goes back as the server's next bytes, sometimes in two pieces. */
static void
answer_with_span(struct ends *ends, struct berth_conn *conn, const struct berth_span *span)
{
    const uint32_t first = (uint32_t)(test_random(&ends->random) % (span->length + 1));
    const uint32_t parts[2] = {first, span->length - first};
    uint32_t offset = 0;
    for (unsigned i = 0; i < 2; i++) {
        if (parts[i] == 0 || ends->total - ends->queued < parts[i])
            continue;
        ck_assert_int_eq(ways_send_span(conn, span, offset, parts[i], KEY_DOWN, ends->queued), 0);
        ends->queued += parts[i];
        offset += parts[i];
        look_at_marks(ends, conn);
    }
    push(ends, conn);
}

START_TEST(every_way_at_once)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare(&ends, engine);
    ends.options.keep_receiving = 1; /* spans go on coming while the queue is long */
    ends.on_data = answer_with_span;
    ends.total = test_is_slow() ? 1 << 20 : 6 << 20;
    begin(&ends);
    client_writes(&ends, 1);
    intptr_t got = -EAGAIN;
    for (unsigned idle = 0; got != 0 && idle < TURNS; idle++) {
        if (ends.queued < ends.total)
            client_writes(&ends, ways_length(&ends.random, 8192));
        got = client_reads(&ends, ways_length(&ends.random, WAYS_BYTES_MAX));
        ck_assert_msg(got >= 0 || got == -EAGAIN, "read: %s", strerror((int)-got));
        if (got > 0)
            idle = 0;
        (void)rig_turn(&ends.rig, got > 0 ? 0 : RIG_TURN_MS);
    }
    ck_assert_int_eq(got, 0);
    ck_assert_uint_eq(ends.queued, ends.total);
    ck_assert_uint_eq(ends.read, ends.total);
    ck_assert_uint_ge(ends.drained, 2);
    ck_assert_uint_eq(rig_stats(&ends.rig).sent_bytes, ends.total);
    if (strcmp(engine, "uring") != 0) /* there the kernel resumes them unseen */
        ck_assert_uint_ge(rig_stats(&ends.rig).sends_short, 1);
    end(&ends);
}
END_TEST

static void
send_span_back(struct ends *ends, struct berth_conn *conn, const struct berth_span *span)
{
    ck_assert_int_eq(ways_send_span(conn, span, 0, span->length, KEY_DOWN, ends->queued), 0);
    ends->queued += span->length;
    look_at_marks(ends, conn);
}

START_TEST(echo_to_one_who_does_not_read)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare(&ends, engine);
    ends.on_data = send_span_back;
    begin(&ends);
    /* Until nothing moves any more: sockets full, queue over its mark, receiving paused. */
    for (unsigned quiet = 0; quiet < 100; quiet++) {
        const size_t before = ends.written + ends.received;
        client_writes(&ends, ways_length(&ends.random, WAYS_BYTES_MAX));
        (void)rig_turn(&ends.rig, 1);
        if (ends.written + ends.received != before)
            quiet = 0;
    }
    const struct berth_conn *conn = the_conn(&ends);
    ck_assert_ptr_nonnull(conn);
    const size_t high = ends.options.send_high_bytes;
    ck_assert_uint_ge(berth_conn_queued(conn), high);
    /* Past the mark only by what the kernel had for it already, or its share of a turn. */
    ck_assert_uint_le(berth_conn_queued(conn), high + 1024 * 1024);
    ck_assert_uint_lt(ends.received, ends.written);
    ck_assert_uint_eq(rig_stats(&ends.rig).pauses, 1);
    ck_assert_uint_eq(ends.drained, 0);

    /* Now it reads, and by that alone receiving resumes. */
    for (unsigned idle = 0; ends.read < ends.written && idle < TURNS; idle++) {
        if (client_reads(&ends, WAYS_BYTES_MAX) > 0)
            idle = 0;
        (void)rig_turn(&ends.rig, 1);
    }
    ck_assert_uint_eq(ends.read, ends.written);
    ck_assert_uint_eq(ends.received, ends.written);
    ck_assert_uint_ge(ends.drained, 1);
    ck_assert_uint_eq(ends.over_mark, 0);
    end(&ends);
}
END_TEST

/* ---- marks ---------------------------------------------------------------------------------- */

START_TEST(drained_after_the_peers_half_close)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare(&ends, engine);
    ends.total = 2 << 20;
    begin(&ends);
    push(&ends, the_conn(&ends));
    ck_assert_uint_eq(ends.over_mark, 1);
    ck_assert_int_eq(shutdown(ends.client, SHUT_WR), 0);
    ck_assert_uint_eq(ends.drained, 0);
    read_to_the_end(&ends, 10000);
    ck_assert_uint_eq(ends.read, ends.total);
    ck_assert_uint_ge(ends.drained, 2);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_uint_eq(ends.eofs, 1);
    ck_assert_int_eq(ends.reason, 0);
    end(&ends);
}
END_TEST

/* ---- refusals ------------------------------------------------------------------------------- */

/** Sends in every way until each is refused; what was refused must not have been queued. */
static void
send_until_refused(struct ends *ends, struct berth_conn *conn)
{
    unsigned refused = 0;
    for (size_t length = WAYS_BYTES_MAX; length > 0; length /= 3) {
        for (unsigned way = 0; way < WAY_COUNT; way++) {
            int error;
            do {
                error =
                    ways_send(conn, (enum way)way, KEY_DOWN, ends->queued, length, &ends->random);
                ends->queued += error ? 0 : length;
            } while (error == 0);
            ck_assert_int_eq(error, -ENOBUFS);
            refused++;
        }
    }
    ck_assert_uint_gt(refused, WAY_COUNT);
    look_at_marks(ends, conn);
}

START_TEST(limit_of_bytes)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare(&ends, engine);
    ends.options.send_max_bytes = 1 << 20;
    begin(&ends);
    for (unsigned round = 0; round < 3; round++) {
        struct berth_conn *conn = the_conn(&ends);
        send_until_refused(&ends, conn);
        ck_assert_uint_eq(berth_conn_queued(conn), 1 << 20);
        RIG_UNTIL(&ends.rig, (client_reads(&ends, WAYS_BYTES_MAX), ends.read == ends.queued),
                  TURNS);
    }
    ck_assert_uint_ge(rig_stats(&ends.rig).send_refused, 1);
    end(&ends);
}
END_TEST

START_TEST(pool_runs_out)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_pool_options pool;
    berth_pool_options_init(&pool);
    pool.bytes_max = 8 << 20;
    struct ends ends;
    prepare(&ends, engine);
    ends.options.pool = &pool;
    ends.options.receive_buffers = 16;
    begin(&ends);
    struct berth_conn *conn = the_conn(&ends);
    int error = 0;
    while (error == 0) {
        const size_t length = 1 + test_random(&ends.random) % WAYS_BYTES_MAX;
        error = ways_send(conn, WAY_COPY, KEY_DOWN, ends.queued, length, &ends.random);
        ends.queued += error ? 0 : length;
    }
    look_at_marks(&ends, conn);
    ck_assert_int_eq(error, -ENOBUFS);
    ck_assert_uint_lt(berth_conn_queued(conn), 8 << 20);
    ck_assert_int_eq(berth_conn_close(conn), 0);
    read_to_the_end(&ends, WAYS_BYTES_MAX);
    ck_assert_uint_eq(ends.read, ends.queued);
    end(&ends);
}
END_TEST

/* ---- whose memory it is --------------------------------------------------------------------- */

/** Queues so many pieces of foreign memory. */
static void
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

START_TEST(foreign_memory_comes_back_once)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    unsigned freed = ways_wrapped.freed;
    /* Some sent and the rest dropped by: 0 the peer's reset, 1 an abort, 2 the loop's end. */
    for (unsigned how = 0; how < 3; how++) {
        prepare(&ends, engine);
        begin(&ends);
        queue_wrapped(&ends, 40, 20000);
        ck_assert_uint_eq(ways_wrapped.freed, freed); /* not before the kernel has it */
        RIG_UNTIL(&ends.rig, (client_reads(&ends, WAYS_BYTES_MAX), ends.read >= 100000), TURNS);
        if (how == 0)
            rig_reset(ends.client);
        else
            ck_assert_int_eq(close(ends.client), 0);
        if (how == 1)
            ck_assert_int_eq(berth_conn_abort(the_conn(&ends)), 0);
        if (how < 2)
            ways_end(&ends.rig);
        else
            rig_end(&ends.rig);
        ck_assert_uint_eq(ends.closes, 1);
        ck_assert_uint_eq(ways_wrapped.freed, freed + 40);
        freed = ways_wrapped.freed;
    }
}
END_TEST

static unsigned signals;

static void
count_signal(int number)
{
    (void)number;
    signals++;
}

START_TEST(no_signal_for_a_broken_pipe)
{
    RIG_ENGINE_OR_RETURN(engine);
    void (*const before)(int) = signal(SIGPIPE, count_signal);
    struct ends ends;
    prepare(&ends, engine);
    ends.options.keep_receiving = 1;
    begin(&ends);
    signals = 0;
    rig_reset(ends.client);
    /* Queued by the time the loop hears of the reset. */
    queue_wrapped(&ends, 3, 1000);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_msg(ends.reason == -ECONNRESET || ends.reason == -EPIPE, "%d", ends.reason);
    ck_assert_uint_eq(signals, 0);
    ways_end(&ends.rig);
    ck_assert_ptr_eq((void *)(uintptr_t)signal(SIGPIPE, before), (void *)(uintptr_t)count_signal);
}
END_TEST

#define CROWD 40

/** Everybody who has come. */
struct crowd {
    struct berth_conn *conns[CROWD];
    unsigned count;
};

static int
join_crowd(struct berth_conn *conn, void *ctx)
{
    struct crowd *crowd = ctx;
    crowd->conns[crowd->count++] = conn;
    return 0;
}

START_TEST(one_lease_to_many)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.open = join_crowd};
    enum { LENGTH = 60000 };
    struct crowd crowd = {{NULL}, 0};
    struct berth_loop_options options;
    struct rig rig;
    struct berth_lease lease;
    struct ends clients[CROWD];
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &handlers, &crowd);
    memset(clients, 0, sizeof(clients));
    for (unsigned i = 0; i < CROWD; i++)
        clients[i].client = rig_client(&rig);
    RIG_UNTIL(&rig, crowd.count == CROWD, TURNS);
    struct berth_pool *pool = berth_loop_pool(rig.loop);
    const unsigned freed = ways_wrapped.freed;
    ck_assert_int_eq(ways_wrap(pool, KEY_DOWN, 0, LENGTH, &lease), 0);
    for (unsigned i = 0; i < CROWD; i++) {
        ck_assert_int_eq(berth_lease_share(pool, lease), 0);
        ck_assert_int_eq(berth_send_lease(crowd.conns[i], lease), 0);
    }
    ck_assert_int_eq(berth_release(pool, lease), 0);
    ck_assert_uint_eq(ways_wrapped.freed, freed); /* the queues hold it */
    for (unsigned i = 0; i < CROWD; i++) {
        RIG_UNTIL(&rig, (client_reads(&clients[i], WAYS_BYTES_MAX), clients[i].read >= LENGTH),
                  TURNS);
        ck_assert_uint_eq(clients[i].read, LENGTH);
    }
    RIG_UNTIL(&rig, ways_wrapped.freed == freed + 1, TURNS);
    for (unsigned i = 0; i < CROWD; i++)
        ck_assert_int_eq(close(clients[i].client), 0);
    ways_end(&rig);
}
END_TEST

/* ---- closing -------------------------------------------------------------------------------- */

START_TEST(close_delivers_what_is_queued)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare(&ends, engine);
    begin(&ends);
    for (unsigned i = 0; i < 12; i++) {
        const size_t length = 1 + test_random(&ends.random) % WAYS_BYTES_MAX;
        ck_assert_int_eq(ways_send(the_conn(&ends), (enum way)(i % WAY_COUNT), KEY_DOWN,
                                   ends.queued, length, &ends.random),
                         0);
        ends.queued += length;
    }
    look_at_marks(&ends, the_conn(&ends));
    ck_assert_int_eq(berth_conn_close(the_conn(&ends)), 0);
    ck_assert_int_eq(berth_send(the_conn(&ends), "late", 4), -EPIPE);
    read_to_the_end(&ends, 30000);
    ck_assert_uint_eq(ends.read, ends.queued);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_int_eq(ends.reason, 0);
    ck_assert_uint_eq(ends.drained, 0); /* nobody may send any more */
    end(&ends);
}
END_TEST

START_TEST(close_does_not_wait_for_ever)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare(&ends, engine);
    ends.options.close_timeout_ms = 100;
    begin(&ends);
    queue_wrapped(&ends, 50, 40000); /* far more than the sockets hold */
    ck_assert_int_eq(berth_conn_close(the_conn(&ends)), 0);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_int_eq(ends.reason, -ETIMEDOUT);
    ck_assert_uint_eq(rig_stats(&ends.rig).zombies, 0);
    intptr_t got;
    do
        got = client_reads(&ends, WAYS_BYTES_MAX);
    while (got > 0);
    ck_assert_int_eq(got, -ECONNRESET); /* it must not take this for the end of the stream */
    ck_assert_uint_lt(ends.read, ends.queued);
    end(&ends);
}
END_TEST

/* ---- credit --------------------------------------------------------------------------------- */

static int
open_without_credit(struct berth_conn *conn, void *ctx)
{
    ck_assert_int_eq(berth_conn_credit(conn, 0), 0);
    return ends_open(conn, ctx);
}

/** Turns a few times, in which nothing more may come. */
static void
check_nothing_comes(struct ends *ends)
{
    const size_t before = ends->received;
    for (unsigned i = 0; i < 5; i++)
        (void)rig_turn(&ends->rig, RIG_TURN_MS);
    ck_assert_uint_eq(ends->received, before);
    ck_assert_uint_eq(ends->eofs, 0);
}

START_TEST(credit_to_the_byte)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_handlers handlers = callbacks;
    struct ends ends;
    handlers.open = open_without_credit;
    prepare(&ends, engine);
    rig_begin(&ends.rig, &ends.options, &handlers, &ends);
    ends.client = rig_client(&ends.rig);
    client_writes(&ends, 100000);
    RIG_UNTIL(&ends.rig, ends.opens == 1, TURNS);
    check_nothing_comes(&ends);
    static const size_t credits[] = {1, 4095, 4096, 4097, 10, 8192, 13000};
    size_t expected = 0;
    for (unsigned i = 0; i < sizeof(credits) / sizeof(credits[0]); i++) {
        ck_assert_int_eq(berth_conn_credit(the_conn(&ends), credits[i]), 0);
        expected += credits[i];
        RIG_UNTIL(&ends.rig, ends.received >= expected, TURNS);
        check_nothing_comes(&ends);
        ck_assert_uint_eq(ends.received, expected);
    }
    /* Taken back before the loop has turned: as if it had not been given. */
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), BERTH_CREDIT_UNLIMITED), 0);
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), 0), 0);
    check_nothing_comes(&ends);
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), ends.written - expected), 0);
    RIG_UNTIL(&ends.rig, ends.received == ends.written, TURNS);
    /* Without credit not even the end is seen; with it, at once. */
    ck_assert_int_eq(shutdown(ends.client, SHUT_WR), 0);
    check_nothing_comes(&ends);
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), BERTH_CREDIT_UNLIMITED), 0);
    RIG_UNTIL(&ends.rig, ends.eofs == 1, TURNS);
    ck_assert_int_eq(berth_conn_shutdown(the_conn(&ends)), 0);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_int_eq(ends.reason, 0);
    end(&ends);
}
END_TEST

START_TEST(credit_on_and_off)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare(&ends, engine);
    begin(&ends);
    for (unsigned i = 0; i < 300; i++) {
        static const size_t credits[] = {0, 1, 5000, BERTH_CREDIT_UNLIMITED};
        ck_assert_int_eq(berth_conn_credit(the_conn(&ends), credits[test_random(&ends.random) % 4]),
                         0);
        client_writes(&ends, ways_length(&ends.random, 50000));
        if (test_random(&ends.random) % 2 == 0)
            (void)rig_turn(&ends.rig, 0);
    }
    /* A receive that was under way when it was withdrawn may still end; then it is quiet. */
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), 0), 0);
    for (unsigned i = 0; i < 5; i++)
        (void)rig_turn(&ends.rig, RIG_TURN_MS);
    client_writes(&ends, 1000);
    check_nothing_comes(&ends);
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), BERTH_CREDIT_UNLIMITED), 0);
    RIG_UNTIL(&ends.rig, ends.received == ends.written, TURNS);
    end(&ends);
}
END_TEST

/* ---- keeping what was received -------------------------------------------------------------- */

#define KEPT_MAX 64

/** What was retained, and where in the stream it stood. */
static struct {
    struct berth_lease leases[KEPT_MAX];
    uint64_t positions[KEPT_MAX];
    unsigned count;
} kept;

static void
keep_some(struct ends *ends, struct berth_conn *conn, const struct berth_span *span)
{
    if (kept.count == KEPT_MAX)
        return;
    const uint32_t offset = (uint32_t)(test_random(&ends->random) % span->length);
    const uint32_t length = 1 + (uint32_t)(test_random(&ends->random) % (span->length - offset));
    const unsigned flags = test_random(&ends->random) % 2 == 0 ? BERTH_MAY_COPY : 0;
    ck_assert_int_eq(berth_retain(berth_loop_pool(berth_conn_loop(conn)), span, offset, length,
                                  flags, &kept.leases[kept.count]),
                     0);
    kept.positions[kept.count++] = ends->received - span->length + offset;
}

static void
check_kept(struct berth_pool *pool)
{
    for (unsigned i = 0; i < kept.count; i++) {
        const void *data = berth_lease_data(pool, kept.leases[i]);
        ck_assert_ptr_nonnull(data);
        ck_assert(ways_same(data, kept.leases[i].length, KEY_UP, kept.positions[i]));
    }
}

START_TEST(kept_beyond_the_connection)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare(&ends, engine);
    ends.options.receive_buffers = 16;
    ends.on_data = keep_some;
    kept.count = 0;
    begin(&ends);
    struct berth_pool *pool = berth_loop_pool(ends.rig.loop);
    for (unsigned i = 0; i < TURNS && kept.count < KEPT_MAX; i++) {
        client_writes(&ends, ways_length(&ends.random, 20000));
        (void)rig_turn(&ends.rig, RIG_TURN_MS);
        check_kept(pool);
    }
    ck_assert_uint_eq(kept.count, KEPT_MAX);
    const size_t kept_until = ends.received;
    client_writes(&ends, 60000); /* what comes later must not be written over it */
    RIG_UNTIL(&ends.rig, ends.received == ends.written && ends.received > kept_until, TURNS);
    ck_assert_int_eq(close(ends.client), 0);
    RIG_UNTIL(&ends.rig, ends.eofs == 1, TURNS);
    ck_assert_int_eq(berth_conn_abort(the_conn(&ends)), 0);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    check_kept(pool);
    for (unsigned i = 0; i < kept.count; i++)
        ck_assert_int_eq(berth_release(pool, kept.leases[i]), 0);
    ways_end(&ends.rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop send");
    RIG_ADD(suite, every_way_at_once);
    RIG_ADD(suite, echo_to_one_who_does_not_read);
    RIG_ADD(suite, drained_after_the_peers_half_close);
    RIG_ADD(suite, limit_of_bytes);
    RIG_ADD(suite, pool_runs_out);
    RIG_ADD(suite, foreign_memory_comes_back_once);
    RIG_ADD(suite, no_signal_for_a_broken_pipe);
    RIG_ADD(suite, one_lease_to_many);
    RIG_ADD(suite, close_delivers_what_is_queued);
    RIG_ADD(suite, close_does_not_wait_for_ever);
    RIG_ADD(suite, credit_to_the_byte);
    RIG_ADD(suite, credit_on_and_off);
    RIG_ADD(suite, kept_beyond_the_connection);
    return test_run(suite);
}
