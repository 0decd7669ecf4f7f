/*
 * Mapped receives that are forwarded to another connection: what is mapped is queued as it is, held
 * until it was sent (or the kernel has read it in place), and given back then, however the two
 * connections end. Every case runs on every engine that maps.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/mapping.h"

#include "berth/forward.h"
#include "loop/mapped_parts.h"

#define TOTAL (16 * MIB)

/** Beside the connection that is mapped: the one that it is forwarded to, and its client. */
static struct {
    struct berth_conn *conn;
    int client;    /**< -1: closed */
    uint64_t read; /**< bytes, all of them right */
} sink;

/** 1 if it can be tried. `features`: NULL, or "+zerocopy". */
static int
begin_forwarding(const char *engine, int force, const char *features, unsigned flags)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.map_receive = 1;
    options.map_bytes_max = 8 * MIB;
    options.send_high_bytes = 512 * 1024;
    options.send_low_bytes = 128 * 1024;
    options.close_timeout_ms = 60000;
    options.features = features;
    if (features != NULL)
        options.zerocopy_bytes = 16384;
    if (options.direct_descriptors)
        return 0;
    begin_with(&options, SEGMENT_PAGES, force);
    struct berth_conn *from = w.conn;
    w.force = 0;
    w.conn = NULL;
    memset(&sink, 0, sizeof(sink));
    sink.client = rig_client(&w.rig);
    RIG_UNTIL(&w.rig, w.conn != NULL, TURNS);
    sink.conn = w.conn;
    w.conn = from;
    ck_assert_int_eq(berth_forward(from, sink.conn, flags), 0);
    return 1;
}

/** The other client reads, and what it reads is the sequence. As rig_read. */
static intptr_t
sink_reads(size_t at_most)
{
    static unsigned char data[MIB];
    const intptr_t got =
        rig_read(sink.client, data, at_most < sizeof(data) ? at_most : sizeof(data));
    if (got <= 0)
        return got;
    ck_assert_msg(is_sequence(data, sink.read, (size_t)got), "wrong bytes behind %llu",
                  (unsigned long long)sink.read);
    sink.read += (uint64_t)got;
    return got;
}

/** Feeds, turns and reads until all of it has come. */
static void
pass_on(uint64_t up_to)
{
    for (unsigned idle = 0; sink.read < up_to; idle++) {
        ck_assert_uint_lt(idle, 4000);
        feed(up_to - sink.read < ON_THE_WAY ? up_to : sink.read + ON_THE_WAY);
        (void)rig_turn(&w.rig, 1);
        if (sink_reads(up_to - sink.read) > 0)
            idle = 0;
    }
    ck_assert_uint_eq(w.received, 0);
}

/** Nobody reads: feeds until nothing moves any more. Returns what waits in the queue. */
static size_t
fill_up(void)
{
    for (unsigned quiet = 0, turns = 0; quiet < 5; turns++) {
        ck_assert_uint_lt(turns, 20000);
        const uint64_t before = w.sent;
        feed(w.sent + MIB);
        quiet = rig_turn(&w.rig, 2) > 0 || w.sent > before ? 0 : quiet + 1;
    }
    return berth_conn_queued(sink.conn);
}

static struct berth_copies
ledger(void)
{
    struct berth_copies copies;
    berth_loop_copies_get(w.rig.loop, &copies);
    return copies;
}

/** Bytes of windows in use. */
static size_t
windows_used(void)
{
    struct windows_state state;
    windows_look(w.rig.loop->mapper->windows, &state);
    return state.used_bytes;
}

/** But for the one to be filled next, in which nothing is mapped. */
static void
all_windows_are_back(void)
{
    struct windows *windows = w.rig.loop->mapper->windows;
    RIG_UNTIL(&w.rig, windows_used() <= WINDOW_BYTES && windows_dirty(windows) == 0, TURNS);
}

static void
finish_forwarding(void)
{
    const int clients[] = {w.client, sink.client};
    for (unsigned i = 0; i < 2; i++)
        if (clients[i] >= 0)
            ck_assert_int_eq(close(clients[i]), 0);
    RIG_UNTIL(&w.rig, berth_loop_conns(w.rig.loop) == 0, TURNS);
    all_windows_are_back();
    ck_assert_uint_eq(w.closes, 2);
    ck_assert_uint_eq(w.rig.loop->pulling, 0);
    ck_assert_uint_eq(w.rig.loop->mapper->conns, 0);
    rig_end(&w.rig);
}

/* ---- content -------------------------------------------------------------------------------- */

static void
goes_through(const char *engine, int force, const char *features)
{
    if (!begin_forwarding(engine, force, features, 0))
        return;
    pass_on(TOTAL);
    const struct berth_copies copies = ledger();
    ck_assert_uint_eq(copies.received, TOTAL);
    ck_assert_uint_gt(copies.received_mapped, TOTAL / 2);
    ck_assert_uint_eq(copies.received_mapped + copies.received_kernel, TOTAL);
    ck_assert_uint_eq(copies.sent, TOTAL);
    ck_assert_uint_eq(copies.received_compact + copies.received_pullup + copies.sent_gather, 0);
    all_windows_are_back();
    finish_forwarding();
}

START_TEST(mapped_bytes_go_through)
{
    RIG_ENGINE_OR_RETURN(engine);
    goes_through(engine, 1, NULL);
}
END_TEST

START_TEST(those_mapped_by_themselves_too)
{
    RIG_ENGINE_OR_RETURN(engine);
    goes_through(engine, 0, NULL);
}
END_TEST

/** The kernel reads the windows where they are: they are held until it says that it is done. */
START_TEST(read_in_place_from_windows)
{
    RIG_ENGINE_OR_RETURN(engine);
    goes_through(engine, 1, "+zerocopy");
}
END_TEST

/** There and back by one connection. */
START_TEST(an_echo_of_windows)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin_forwarding(engine, 1, NULL, 0))
        return;
    ck_assert_int_eq(berth_forward(w.conn, w.conn, 0), 0);
    const int other = sink.client;
    sink.client = w.client;
    pass_on(TOTAL);
    ck_assert_uint_gt(ledger().received_mapped, TOTAL / 2);
    sink.client = other;
    finish_forwarding();
}
END_TEST

/* ---- slow readers --------------------------------------------------------------------------- */

START_TEST(a_slow_reader_holds_few_windows)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int in_place = 0; in_place < 2; in_place++) {
        if (!begin_forwarding(engine, 1, in_place ? "+zerocopy" : NULL, 0))
            return;
        for (unsigned round = 0; round < 4; round++) {
            const size_t queued = fill_up();
            ck_assert_uint_ge(queued, 128 * 1024);
            ck_assert_uint_gt(windows_used(), 0);
            ck_assert_uint_le(windows_used(), 8 * MIB);
            pass_on(w.sent);
            all_windows_are_back();
        }
        finish_forwarding();
    }
}
END_TEST

/** By a pipe nothing is mapped; who is mapped already goes on so, as leases. */
START_TEST(pipes_and_windows_do_not_meet)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin_forwarding(engine, 1, NULL, 0))
        return;
    pass_on(MIB);
    ck_assert_int_eq(berth_forward(w.conn, sink.conn, BERTH_FORWARD_SPLICE), 0);
    pass_on(4 * MIB);
    ck_assert_uint_eq(ledger().received_spliced, 0);
    ck_assert_int_eq(berth_conn_map(w.conn, 0), 0);
    ck_assert_int_eq(berth_forward(w.conn, sink.conn, BERTH_FORWARD_SPLICE), 0);
    const uint64_t mapped = ledger().received_mapped;
    pass_on(8 * MIB);
    ck_assert_uint_gt(ledger().received_spliced, 2 * MIB);
    ck_assert_int_eq(berth_conn_map(w.conn, 1), -EBUSY);
    ck_assert_uint_eq(ledger().received_mapped, mapped);
    /* And the other way round: with leases again, it may be mapped. */
    ck_assert_int_eq(berth_forward(w.conn, sink.conn, 0), 0);
    ck_assert_int_eq(berth_conn_map(w.conn, 1), 0);
    pass_on(12 * MIB);
    ck_assert_uint_gt(ledger().received_mapped, mapped + 2 * MIB);
    finish_forwarding();
}
END_TEST

/* ---- ends ----------------------------------------------------------------------------------- */

/** With much in the queue: what was received still arrives, and the end behind it. */
START_TEST(an_end_behind_windows)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin_forwarding(engine, 1, NULL, BERTH_FORWARD_CLOSE))
        return;
    (void)fill_up();
    ck_assert_int_eq(close(w.client), 0);
    w.client = -1;
    intptr_t got = -EAGAIN;
    for (unsigned idle = 0; got != 0; idle++) {
        ck_assert_uint_lt(idle, 4000);
        got = sink_reads(MIB);
        ck_assert_msg(got >= 0 || got == -EAGAIN, "read: %s", strerror((int)-got));
        if (got > 0)
            idle = 0;
        (void)rig_turn(&w.rig, 1);
    }
    ck_assert_uint_eq(sink.read, w.sent);
    finish_forwarding();
}
END_TEST

/** Either end is reset, or aborted, with windows in the queue: they come back all the same. */
enum ending { SOURCE_RESETS, SINK_RESETS, SOURCE_ABORTED, SINK_ABORTED, ENDINGS };

START_TEST(windows_come_back_whoever_ends)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned way = 0; way < 2 * ENDINGS; way++) {
        const unsigned ending = way % ENDINGS;
        if (!begin_forwarding(engine, 1, way < ENDINGS ? NULL : "+zerocopy", BERTH_FORWARD_CLOSE))
            return;
        (void)fill_up();
        ck_assert_uint_gt(windows_used(), 0);
        if (ending == SOURCE_RESETS)
            rig_reset(w.client);
        if (ending == SINK_RESETS)
            rig_reset(sink.client);
        if (ending == SOURCE_ABORTED)
            ck_assert_int_eq(berth_conn_abort(w.conn), 0);
        if (ending == SINK_ABORTED)
            ck_assert_int_eq(berth_conn_abort(sink.conn), 0);
        w.client = ending == SOURCE_RESETS ? -1 : w.client;
        sink.client = ending == SINK_RESETS ? -1 : sink.client;
        for (unsigned turns = 0; w.closes < 2; turns++) {
            ck_assert_uint_lt(turns, 4000);
            if (sink.client >= 0)
                (void)sink_reads(MIB);
            (void)rig_turn(&w.rig, 1);
        }
        finish_forwarding();
    }
}
END_TEST

static int left_fd;

static void
on_left(struct berth_conn *conn, int fd, void *arg)
{
    (void)conn, (void)arg;
    ck_assert_int_ge(fd, 0);
    left_fd = fd;
}

/** Who is forwarded to leaves the loop: its queue goes first, the rest is the data callback's. */
START_TEST(the_sink_leaves)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin_forwarding(engine, 1, NULL, 0))
        return;
    (void)fill_up();
    const uint64_t passed = rig_stats(&w.rig).received_bytes;
    w.received = passed; /* from here on */
    left_fd = -1;
    ck_assert_int_eq(berth_conn_detach(sink.conn, on_left, NULL), 0);
    for (unsigned idle = 0; sink.read < passed || w.received < w.sent || left_fd < 0; idle++) {
        ck_assert_uint_lt(idle, 4000);
        if (sink_reads(MIB) > 0)
            idle = 0;
        (void)rig_turn(&w.rig, 1);
    }
    ck_assert_uint_eq(sink.read, passed);
    ck_assert_uint_eq(w.received, w.sent);
    ck_assert_uint_eq(w.wrong, 0);
    ck_assert_int_eq(close(left_fd), 0);
    w.closes++;
    finish_forwarding();
}
END_TEST

START_TEST(the_loop_is_destroyed)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin_forwarding(engine, 1, NULL, BERTH_FORWARD_CLOSE))
        return;
    (void)fill_up();
    ck_assert_uint_gt(windows_used(), 0);
    ck_assert_int_eq(berth_loop_destroy(w.rig.loop), 0);
    ck_assert_uint_eq(w.closes, 2);
    ck_assert_int_eq(close(w.client), 0);
    ck_assert_int_eq(close(sink.client), 0);
    ck_assert_uint_eq(test_descriptors_open(), w.rig.descriptors);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("mapped forward");
    RIG_ADD(suite, mapped_bytes_go_through);
    RIG_ADD(suite, those_mapped_by_themselves_too);
    RIG_ADD(suite, read_in_place_from_windows);
    RIG_ADD(suite, an_echo_of_windows);
    RIG_ADD(suite, a_slow_reader_holds_few_windows);
    RIG_ADD(suite, pipes_and_windows_do_not_meet);
    RIG_ADD(suite, an_end_behind_windows);
    RIG_ADD(suite, windows_come_back_whoever_ends);
    RIG_ADD(suite, the_sink_leaves);
    RIG_ADD(suite, the_loop_is_destroyed);
    return test_run(suite);
}
