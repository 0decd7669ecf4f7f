/*
 * Sending: that every byte arrives once and in order, in whatever way it was queued and however
 * slowly it is read; and that the marks, the limits and the time to close are kept. Every case runs
 * on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ends.h"

#include <signal.h>

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
    RIG_UNTIL(&ends.rig, (client_writes(&ends, WAYS_BYTES_MAX), ends.over_mark), TURNS);
    /* Receiving pauses, so the sockets fill. */
    for (unsigned i = 0; i < 50; i++) {
        client_writes(&ends, WAYS_BYTES_MAX);
        (void)rig_turn(&ends.rig, 1);
    }
    const struct berth_conn *conn = the_conn(&ends);
    ck_assert_ptr_nonnull(conn);
    const size_t high = ends.options.send_high_bytes;
    /* Between the marks at least: the sockets may have taken a send that was begun at the mark. */
    ck_assert_uint_gt(berth_conn_queued(conn), ends.options.send_low_bytes);
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
    unsigned last_turns = 1; /* a direct descriptor is closed ahead of the next wait */
    intptr_t got;
    do
        got = client_reads(&ends, WAYS_BYTES_MAX);
    while (got > 0 || (got == -EAGAIN && last_turns-- > 0 && rig_turn(&ends.rig, 0) >= 0));
    ck_assert_int_eq(got, -ECONNRESET); /* it must not take this for the end of the stream */
    ck_assert_uint_lt(ends.read, ends.queued);
    end(&ends);
}
END_TEST

/* ---- broken pipes --------------------------------------------------------------------------- */

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

int
main(void)
{
    Suite *suite = suite_create("loop send");
    RIG_ADD(suite, every_way_at_once);
    RIG_ADD(suite, echo_to_one_who_does_not_read);
    RIG_ADD(suite, drained_after_the_peers_half_close);
    RIG_ADD(suite, limit_of_bytes);
    RIG_ADD(suite, pool_runs_out);
    RIG_ADD(suite, close_delivers_what_is_queued);
    RIG_ADD(suite, close_does_not_wait_for_ever);
    RIG_ADD(suite, no_signal_for_a_broken_pipe);
    return test_run(suite);
}
