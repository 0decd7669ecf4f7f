/*
 * Sends that the kernel reads in place: that the bytes are right, that their memory is kept for as
 * long as the kernel may read it and no longer, whatever becomes of the connection; that budgets
 * are kept without refusing or waiting; and what is learned from a kernel that copies after all,
 * which on loopback it always does. Every case runs on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/stalled.h"

#include <sys/un.h>
#include <time.h>

#include "loop/loop_internal.h"
#include "support/sys_groups.h"

/** Sends after which a connection that is copied sends copies, and how much it copies then. */
#define TRIES 8
#define REST_BYTES (64u << 20)

static uint64_t
milliseconds(void)
{
    struct timespec now;
    ck_assert_int_eq(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/** The client reads all that was queued. */
static void
read_all(struct ends *ends)
{
    for (unsigned idle = 0; ends->read < ends->queued && idle < TURNS; idle++) {
        if (client_reads(ends, WAYS_BYTES_MAX) > 0)
            idle = 0;
        (void)rig_turn(&ends->rig, 0);
    }
    ck_assert_uint_eq(ends->read, ends->queued);
}

/** One piece there, and the kernel is done with it. */
static void
send_one(struct ends *ends, size_t length)
{
    queue_wrapped(ends, 1, length);
    read_all(ends);
    RIG_UNTIL(&ends->rig, ways_wrapped.freed == ways_wrapped.made, TURNS);
}

/* ---- bytes ---------------------------------------------------------------------------------- */

START_TEST(sizes_around_the_threshold)
{
    static const size_t lengths[] = {1,
                                     THRESHOLD - 1,
                                     THRESHOLD,
                                     THRESHOLD + 1,
                                     3 * THRESHOLD,
                                     THRESHOLD - 4096,
                                     WAYS_BYTES_MAX};
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    uint64_t in_place = 0, sends = 0;
    prepare_in_place(&ends, engine, 1);
    begin(&ends);
    for (unsigned i = 0; i < 2 * sizeof(lengths) / sizeof(lengths[0]); i++) {
        const size_t length = lengths[i / 2];
        const uint64_t before = rig_stats(&ends.rig).zerocopy_sends;
        send_one(&ends, length);
        const uint64_t after = rig_stats(&ends.rig).zerocopy_sends;
        if (length < THRESHOLD)
            ck_assert_uint_eq(after, before);
        else
            ck_assert_uint_gt(after, before);
        sends = after;
        in_place += length >= THRESHOLD ? length : 0;
    }
    const struct berth_copies copies = copies_of(&ends);
    ck_assert_uint_eq(copies.sent, ends.queued);
    ck_assert_uint_eq(copies.sent, copies.sent_kernel + copies.sent_zerocopy);
    /* What is left of a piece that was taken in part may be too short to be worth it. */
    ck_assert_uint_le(copies.sent_zerocopy, in_place);
    ck_assert_uint_gt(copies.sent_zerocopy, in_place / 2);
    ck_assert_uint_eq(copies.sent_copied_anyway, copies.sent_zerocopy);
    ck_assert_uint_eq(copies.sent_in_place, 0);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_notifications, sends);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_refused, 0);
    end(&ends);
}
END_TEST

/** Everything that can be queued, in pieces of all lengths, and a reader that is slow. */
static void
stream_all_ways(const char *engine, uint32_t from, uint32_t pinned_max)
{
    struct ends ends;
    prepare_in_place(&ends, engine, 1);
    ends.options.zerocopy_bytes = from;
    ends.options.zerocopy_pinned_max = pinned_max;
    ends.total = test_is_slow() ? 1 << 20 : 8 << 20;
    begin(&ends);
    push(&ends, the_conn(&ends));
    read_to_the_end(&ends, 30000);
    ck_assert_uint_eq(ends.read, ends.total);
    ck_assert_uint_gt(rig_stats(&ends.rig).zerocopy_sends, test_is_slow() ? 1 : 10);
    const struct berth_copies copies = copies_of(&ends);
    ck_assert_uint_eq(copies.sent, ends.total);
    ck_assert_uint_eq(copies.sent, copies.sent_kernel + copies.sent_zerocopy);
    end(&ends);
}

START_TEST(streams_in_place)
{
    RIG_ENGINE_OR_RETURN(engine);
    stream_all_ways(engine, 1, 64 << 20);
    stream_all_ways(engine, THRESHOLD, 64 << 20);
    stream_all_ways(engine, 4096, 128 << 10); /* 32 KiB for one connection */
}
END_TEST

static void
send_span_back(struct ends *ends, struct berth_conn *conn, const struct berth_span *span)
{
    ck_assert_int_eq(ways_send_span(conn, span, 0, span->length, KEY_DOWN, ends->queued), 0);
    ends->queued += span->length;
    look_at_marks(ends, conn);
}

START_TEST(spans_are_sent_back)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare_in_place(&ends, engine, 1);
    ends.options.zerocopy_bytes = 1000;
    ends.on_data = send_span_back;
    begin(&ends);
    for (unsigned i = 0; i < 3000; i++) {
        if (ends.written < 2 << 20)
            client_writes(&ends, ways_length(&ends.random, 20000));
        (void)client_reads(&ends, ways_length(&ends.random, 50000));
        (void)rig_turn(&ends.rig, 0);
    }
    RIG_UNTIL(&ends.rig, (client_reads(&ends, WAYS_BYTES_MAX), ends.read == ends.written), TURNS);
    ck_assert_uint_gt(rig_stats(&ends.rig).zerocopy_sends, 10);
    end(&ends);
}
END_TEST

/* ---- how long memory is kept ---------------------------------------------------------------- */

START_TEST(memory_is_kept_until_it_was_read)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    begin_stalled(&ends, engine, 300);
    const struct berth_loop_stats stats = rig_stats(&ends.rig);
    ck_assert_uint_lt(stats.zerocopy_notifications, stats.zerocopy_sends);
    ck_assert_uint_eq(copies_of(&ends).sent, ends.queued);
    read_all(&ends);
    RIG_UNTIL(&ends.rig, ways_wrapped.freed == ways_wrapped.made, TURNS);
    end(&ends);
}
END_TEST

START_TEST(a_stopped_reader_and_the_budget)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare_in_place(&ends, engine, 1);
    ends.options.zerocopy_pinned_max = 1 << 20; /* 256 KiB for one connection */
    begin(&ends);
    take_much(&ends);
    queue_wrapped(&ends, 24, 64 << 10);
    /* All of it is taken from us, though nobody reads. */
    RIG_UNTIL(&ends.rig, berth_conn_queued(the_conn(&ends)) == 0, TURNS);
    ck_assert_uint_gt(rig_stats(&ends.rig).zerocopy_refused, 0);
    ck_assert_uint_gt(copies_of(&ends).sent_kernel, 1 << 20);
    ck_assert_uint_gt(copies_of(&ends).sent_zerocopy, 128 << 10);
    ck_assert_uint_le((ways_wrapped.made - ways_wrapped.freed) * (64 << 10), (256 + 64) << 10);
    read_all(&ends);
    RIG_UNTIL(&ends.rig, ways_wrapped.freed == ways_wrapped.made, TURNS);
    /* And up to the limit of the queue, as ever. */
    int error = 0;
    while (error == 0) {
        error =
            ways_send(the_conn(&ends), WAY_WRAPPED, KEY_DOWN, ends.queued, 64 << 10, &ends.random);
        ends.queued += error == 0 ? 64 << 10 : 0;
        look_at_marks(&ends, the_conn(&ends));
    }
    ck_assert_int_eq(error, -ENOBUFS);
    read_all(&ends);
    end(&ends);
}
END_TEST

/* ---- ends ----------------------------------------------------------------------------------- */

START_TEST(abort_brings_all_home)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    begin_stalled(&ends, engine, 300);
    ck_assert_int_eq(berth_conn_abort(the_conn(&ends)), 0);
    RIG_UNTIL(&ends.rig, ends.closes == 1, 20);
    ck_assert_uint_eq(ways_wrapped.freed, ways_wrapped.made);
    ck_assert_int_eq(ends.reason, -ECANCELED);
    ck_assert_int_eq(read_what_is_left(&ends), -ECONNRESET);
    /* What was dropped was neither read in place nor copied, as far as anybody knows. */
    const struct berth_copies copies = copies_of(&ends);
    ck_assert_uint_lt(copies.sent_in_place + copies.sent_copied_anyway, copies.sent_zerocopy);
    ck_assert_uint_eq(rig_stats(&ends.rig).zombies, 0);
    end(&ends);
}
END_TEST

START_TEST(hung_up_on_both_sides_and_not_received_from)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    begin_stalled(&ends, engine, 300);
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), 0), 0);
    ck_assert_int_eq(berth_conn_shutdown(the_conn(&ends)), 0);
    (void)rig_turn(&ends.rig, 1);
    ck_assert_int_eq(shutdown(ends.client, SHUT_WR), 0);
    for (unsigned i = 0; i < 5; i++)
        (void)rig_turn(&ends.rig, 1);
    /* No event tells of it any more, or it would tell all the time: */
    const uint64_t before = rig_stats(&ends.rig).syscalls;
    for (unsigned i = 0; i < 10; i++)
        (void)rig_turn(&ends.rig, 1);
    ck_assert_uint_le(rig_stats(&ends.rig).syscalls - before, 20);
    RIG_UNTIL(&ends.rig, client_reads(&ends, WAYS_BYTES_MAX) == 0, TURNS);
    ck_assert_uint_eq(ends.read, ends.queued);
    RIG_UNTIL(&ends.rig, ways_wrapped.freed == ways_wrapped.made, TURNS);
    ck_assert_uint_eq(ends.closes, 0);
    end(&ends);
}
END_TEST

START_TEST(a_peer_that_vanishes)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    begin_stalled(&ends, engine, 300);
    rig_reset(ends.client);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_uint_eq(ways_wrapped.freed, ways_wrapped.made);
    ck_assert_msg(ends.reason == -ECONNRESET || ends.reason == -EPIPE, "reason %d", ends.reason);
    ends.client = rig_client(&ends.rig); /* for end() to close */
    RIG_UNTIL(&ends.rig, ends.opens == 2, TURNS);
    ends.closes = 0;
    end(&ends);
}
END_TEST

START_TEST(destroy_with_memory_being_read)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned way = 0; way < 3; way++) {
        struct ends ends;
        begin_stalled(&ends, engine, 300);
        const uint64_t begin_ms = milliseconds();
        if (way == 1)
            ck_assert_int_eq(berth_conn_abort(the_conn(&ends)), 0);
        if (way == 2)
            ck_assert_int_eq(berth_conn_close(the_conn(&ends)), 0);
        ck_assert_int_eq(berth_loop_destroy(ends.rig.loop), 0);
        ck_assert_uint_eq(ends.closes, 1);
        ck_assert_uint_eq(ways_wrapped.freed, ways_wrapped.made);
        ck_assert_uint_lt(milliseconds() - begin_ms, 5000);
        ck_assert_int_eq(close(ends.client), 0);
        ck_assert_uint_eq(test_descriptors_open(), ends.rig.descriptors);
    }
}
END_TEST

/** Little may be locked: no more than half of it is pinned. */
static intptr_t
may_not_lock(void)
{
    return 0;
}

static intptr_t
little_memory_to_lock(int resource, struct rlimit *limit)
{
    const intptr_t error = sys_direct_getrlimit(resource, limit);
    if (resource == RLIMIT_MEMLOCK)
        *limit = (struct rlimit){2 * STALLED_BYTES, 2 * STALLED_BYTES};
    return error;
}

static void
send_in_a_child(const char *engine)
{
    struct ends ends;
    berth_sys_may_lock_memory = may_not_lock;
    berth_sys_getrlimit = little_memory_to_lock;
    prepare_in_place(&ends, engine, 1);
    begin(&ends);
    take_much(&ends);
    send_one(&ends, THRESHOLD);
    RIG_MUST(rig_stats(&ends.rig).zerocopy_sends > 0);
    RIG_MUST(rig_stats(&ends.rig).zerocopy_refused == 0);
    RIG_MUST(ends.rig.loop->zerocopy.pinned == 0);
    end(&ends);
}

/** What the parent has pinned, and the child never unpins, does not count in the child. */
START_TEST(a_child_has_budgets_of_its_own)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    int skipped;
    begin_stalled(&ends, engine, 300);
    ck_assert_uint_gt(ends.rig.loop->zerocopy.pinned, STALLED_BYTES);
    RIG_IN_CHILD(skipped, send_in_a_child(engine));
    ck_assert(!skipped);
    read_all(&ends);
    RIG_UNTIL(&ends.rig, ways_wrapped.freed == ways_wrapped.made, TURNS);
    ck_assert_uint_eq(ends.rig.loop->zerocopy.pinned, 0);
    end(&ends);
}
END_TEST

/* ---- what is learned ------------------------------------------------------------------------ */

START_TEST(eight_copied_then_copies_then_a_try)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare_in_place(&ends, engine, 0);
    begin(&ends);
    take_much(&ends);
    for (unsigned i = 0; i < TRIES + 4; i++) {
        send_one(&ends, 2 * THRESHOLD);
        ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, i < TRIES ? i + 1 : TRIES);
    }
    uint64_t copied = copies_of(&ends).sent_kernel;
    ck_assert_uint_eq(copied, 4 * 2 * THRESHOLD);
    ck_assert_uint_eq(copies_of(&ends).sent_copied_anyway, TRIES * 2 * THRESHOLD);
    while (copied < REST_BYTES) {
        ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, TRIES);
        send_one(&ends, WAYS_BYTES_MAX);
        copied = copies_of(&ends).sent_kernel;
    }
    for (unsigned i = 0; i < 3; i++) {
        send_one(&ends, 2 * THRESHOLD);
        ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, TRIES + 1);
    }
    end(&ends);
}
END_TEST

START_TEST(not_more_tries_at_once)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare_in_place(&ends, engine, 0);
    begin(&ends);
    take_much(&ends);
    for (unsigned i = 0; i < 20; i++) {
        queue_wrapped(&ends, 1, 2 * THRESHOLD);
        RIG_UNTIL(&ends.rig, berth_conn_queued(the_conn(&ends)) == 0, TURNS);
    }
    ck_assert_uint_le(rig_stats(&ends.rig).zerocopy_sends, TRIES);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_refused, 0);
    read_all(&ends);
    end(&ends);
}
END_TEST

START_TEST(unix_sockets_copy)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    int pair[2];
    prepare_in_place(&ends, engine, 1);
    rig_begin(&ends.rig, &ends.options, &ends_callbacks, &ends);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ck_assert_int_eq(berth_adopt(ends.rig.loop, pair[0], &ends_callbacks, &ends, NULL), 0);
    ends.client = pair[1];
    RIG_UNTIL(&ends.rig, ends.opens == 1, TURNS);
    for (unsigned i = 0; i < 5; i++)
        send_one(&ends, 3 * THRESHOLD);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, 0);
    ck_assert_uint_le(rig_stats(&ends.rig).zerocopy_refused, 1);
    ck_assert_uint_eq(copies_of(&ends).sent_kernel, ends.queued);
    end(&ends);
}
END_TEST

/* ---- options -------------------------------------------------------------------------------- */

static void
must_say(const struct berth_loop *loop, const char *what)
{
    char text[4096];
    ck_assert_int_lt(berth_loop_explain(loop, text, sizeof(text)), sizeof(text));
    ck_assert_msg(strstr(text, what) != NULL, "'%s' not in:\n%s", what, text);
}

START_TEST(switched_off)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned way = 0; way < 3; way++) {
        struct ends ends;
        prepare_in_place(&ends, engine, 0);
        if (way == 0)
            ends.options.features = "-zerocopy";
        if (way == 1)
            ends.options.zerocopy_bytes = BERTH_ZEROCOPY_NEVER;
        if (way == 2)
            ends.options.zerocopy_pinned_max = 0;
        begin(&ends);
        must_say(ends.rig.loop, way == 0   ? "send in place: never: switched off by option"
                                : way == 1 ? "send in place: never: zerocopy_bytes says never"
                                           : "send in place: never: no memory may be pinned");
        send_one(&ends, 3 * THRESHOLD);
        ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, 0);
        ck_assert_uint_eq(copies_of(&ends).sent_kernel, ends.queued);
        end(&ends);
    }
}
END_TEST

START_TEST(explained)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &ends_callbacks, NULL);
    must_say(rig.loop, "send in place: from 16384 queued bytes on");
    rig_end(&rig);
    options.zerocopy_bytes = 0;
    ck_assert_int_eq(berth_loop_create(&rig.loop, &options), -EINVAL);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("zerocopy");
    RIG_ADD(suite, sizes_around_the_threshold);
    RIG_ADD(suite, streams_in_place);
    RIG_ADD(suite, spans_are_sent_back);
    RIG_ADD(suite, memory_is_kept_until_it_was_read);
    RIG_ADD(suite, a_stopped_reader_and_the_budget);
    RIG_ADD(suite, abort_brings_all_home);
    RIG_ADD(suite, hung_up_on_both_sides_and_not_received_from);
    RIG_ADD(suite, a_peer_that_vanishes);
    RIG_ADD(suite, destroy_with_memory_being_read);
    RIG_ADD(suite, a_child_has_budgets_of_its_own);
    RIG_ADD(suite, eight_copied_then_copies_then_a_try);
    RIG_ADD(suite, not_more_tries_at_once);
    RIG_ADD(suite, unix_sockets_copy);
    RIG_ADD(suite, switched_off);
    RIG_ADD(suite, explained);
    return test_run(suite);
}
