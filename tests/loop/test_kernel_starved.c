/*
 * Buffers run out, in the ring of io_uring, in the pool, or in both; on every engine where it makes
 * sense. Nobody spins meanwhile, whatever can still be told is told, and when buffers return all
 * are served, in the order in which they came, in a bounded number of turns.
 *
 * What test_starvation does with a hoarder is done here to each moment by itself: the pool is taken
 * away by the test, so that exactly so many buffers are left.
 *
 *   posting without polling first fails at once: a spin      bulk_on_an_empty_ring
 *   the end of a stream without a buffer                     end_with_an_empty_pool, and
 *                                                            end_meets_an_empty_ring (receive)
 *   a reset, an abort of who waits for a buffer              starved_ones_leave
 *   a flooder that does not read                             flooder_that_does_not_read
 *   what one connection may have of a turn                   one_share_of_a_turn
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/between.h"
#include "loop/crowd.h"

/** Buffers of 4 KiB that the small pool has. */
#define BUFFERS 512

#define INNOCENTS 100

static struct berth_pool_options small;
static struct berth_lease taken[BUFFERS], kept[BUFFERS];
static unsigned taken_count, kept_count;

static void
prepare_small(const char *engine)
{
    crowd_prepare(engine);
    berth_pool_options_init(&small);
    small.bytes_max = 8u << 20;
    for (int i = 0; i < BERTH_CLASS_COUNT; i++)
        small.class_bytes_max[i] = BUFFERS * 4096;
    crowd.options.pool = &small;
    crowd.options.receive_buffers = 16;
    taken_count = kept_count = 0;
}

/** Takes every buffer that may be had for that purpose. */
static void
take_pool(enum berth_purpose purpose)
{
    while (taken_count < BUFFERS && berth_pool_get(berth_loop_pool(crowd.rig.loop), BERTH_CLASS_4K,
                                                   purpose, &taken[taken_count]) == 0)
        taken_count++;
    ck_assert_uint_gt(taken_count, 0);
}

static void
give_back(void)
{
    while (taken_count > 0)
        ck_assert_int_eq(berth_release(berth_loop_pool(crowd.rig.loop), taken[--taken_count]), 0);
    while (kept_count > 0)
        ck_assert_int_eq(berth_release(berth_loop_pool(crowd.rig.loop), kept[--kept_count]), 0);
}

static unsigned char order[2 * INNOCENTS]; /**< who was served, from 0 */
static unsigned order_count;

static void
note_order(struct berth_conn *conn, struct member *member, const struct berth_span *spans,
           unsigned n)
{
    (void)conn, (void)spans, (void)n;
    if (order_count < 2 * INNOCENTS)
        order[order_count++] = (unsigned char)(member - crowd.members);
}

static void
keep_all(struct berth_conn *conn, struct member *member, const struct berth_span *spans, unsigned n)
{
    (void)member;
    for (unsigned i = 0; i < n; i++) {
        ck_assert_uint_lt(kept_count, BUFFERS);
        ck_assert_int_eq(berth_retain(berth_loop_pool(berth_conn_loop(conn)), &spans[i], 0,
                                      spans[i].length, 0, &kept[kept_count++]),
                         0);
    }
}

/** Nothing can happen: a turn costs its waits (one at a time, and one look for the starved). */
static void
check_quiet(unsigned calls_per_turn)
{
    const unsigned turns = 20;
    const struct berth_loop_stats before = rig_stats(&crowd.rig);
    for (unsigned i = 0; i < turns; i++)
        (void)rig_turn(&crowd.rig, RIG_TURN_MS);
    const struct berth_loop_stats after = rig_stats(&crowd.rig);
    ck_assert_uint_le(after.syscalls - before.syscalls, calls_per_turn * turns);
    ck_assert_uint_le(after.enobufs - before.enobufs, 2);
    ck_assert_uint_le(after.rearms - before.rearms, 2);
}

/* ---- the pool is empty ---------------------------------------------------------------------- */

/** One connection has what was left of the ring, and more to say. */
static struct member *
starve_first(void)
{
    struct member *flooder = &crowd.members[0];
    crowd.on_data = keep_all;
    for (unsigned i = 0; i < 200 && rig_stats(&crowd.rig).starved == 0; i++) {
        (void)crowd_write(flooder, 65536);
        (void)rig_turn(&crowd.rig, 0);
    }
    ck_assert_uint_eq(rig_stats(&crowd.rig).starved, 1);
    ck_assert_uint_lt(flooder->received, flooder->written);
    return flooder;
}

START_TEST(end_with_an_empty_pool)
{
    RIG_ENGINE_OR_RETURN(engine);
    prepare_small(engine);
    crowd_begin(1 + 30);
    take_pool(BERTH_FOR_ACTIVE);
    (void)starve_first();
    check_quiet(4);
    for (unsigned i = 1; i <= 20; i++) {
        if (i % 2 == 0) {
            crowd_leave(&crowd.members[i]);
        } else {
            rig_reset(crowd.members[i].client);
            crowd.members[i].client = -1;
        }
    }
    RIG_UNTIL(&crowd.rig, crowd.closed == 20, 5);
    for (unsigned i = 1; i <= 20; i++) {
        ck_assert_uint_eq(crowd.members[i].eofs, i % 2 == 0);
        ck_assert_int_eq(crowd.members[i].reason, i % 2 == 0 ? 0 : -ECONNRESET);
    }
    /* Of ten others the end stands behind data, which comes first, when it can. */
    for (unsigned i = 21; i <= 30; i++) {
        (void)crowd_write(&crowd.members[i], 100);
        crowd_leave(&crowd.members[i]);
    }
    for (unsigned i = 0; i < 5; i++)
        (void)rig_turn(&crowd.rig, 1);
    ck_assert_uint_eq(crowd.closed, 20);
    check_quiet(4);
    crowd.on_data = NULL;
    give_back();
    RIG_UNTIL(&crowd.rig, crowd.closed == 30, 10);
    for (unsigned i = 21; i <= 30; i++)
        ck_assert_uint_eq(crowd.members[i].received, 100);
    RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    crowd_end();
}
END_TEST

/** Those who wait for a buffer are reset by their peers, aborted, or closed. Others are served. */
START_TEST(starved_ones_leave)
{
    RIG_ENGINE_OR_RETURN(engine);
    prepare_small(engine);
    crowd_begin(1 + 40);
    take_pool(BERTH_FOR_ACTIVE);
    (void)starve_first();
    for (unsigned i = 1; i <= 40; i++) {
        (void)crowd_write(&crowd.members[i], 100);
        RIG_UNTIL(&crowd.rig, rig_stats(&crowd.rig).starved == 1 + i, 10);
    }
    for (unsigned i = 1; i <= 40; i++) {
        struct member *member = &crowd.members[i];
        if (i % 4 == 0) {
            rig_reset(member->client);
            member->client = -1;
        } else if (i % 4 == 1) {
            ck_assert_int_eq(berth_conn_abort(crowd_conn(member)), 0);
        } else if (i % 4 == 2) {
            ck_assert_int_eq(berth_conn_close(crowd_conn(member)), 0);
        }
    }
    RIG_UNTIL(&crowd.rig, crowd.closed >= 20, 5); /* what the program wants needs no buffer */
    check_quiet(4);
    rig_verify(&crowd.rig);
    order_count = 0;
    crowd.on_data = note_order;
    give_back();
    RIG_UNTIL(&crowd.rig, crowd.closed == 30, 10);
    RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    unsigned last = 0;
    for (unsigned i = 0; i < order_count; i++) {
        if (order[i] == 0)
            continue;
        ck_assert_uint_gt(order[i], last);
        last = order[i];
        ck_assert(last % 4 == 3 || last % 4 == 0);
    }
    for (unsigned i = 1; i <= 40; i++)
        ck_assert_uint_eq(crowd.members[i].received,
                          i % 4 == 3 || crowd.members[i].received ? 100 : 0);
    for (unsigned i = 4; i <= 40; i += 4)
        ck_assert_int_eq(crowd.members[i].reason, -ECONNRESET);
    crowd_end();
}
END_TEST

/* ---- an echo to somebody who does not read -------------------------------------------------- */

static void
echo_and_note(struct berth_conn *conn, struct member *member, const struct berth_span *spans,
              unsigned n)
{
    note_order(conn, member, spans, n);
    for (unsigned i = 0; i < n; i++)
        if (berth_send_span(conn, &spans[i]) != 0)
            ck_assert_int_eq(berth_conn_abort(conn), 0);
}

/** How many of the innocents have had their byte back. */
static unsigned
count_answered(unsigned char *answered)
{
    unsigned count = 0;
    for (unsigned i = 1; i <= INNOCENTS; i++) {
        char byte;
        answered[i] |= rig_read(crowd.members[i].client, &byte, 1) == 1;
        count += answered[i];
    }
    return count;
}

/**
 * The flooder's echoes fill its socket, then the whole pool. With `keep_receiving` the others have
 * to wait until it reads or goes; without, they do not notice it.
 */
static void
be_flooded(const char *engine, int keep_receiving)
{
    unsigned char answered[INNOCENTS + 1] = {0};
    prepare_small(engine);
    crowd.options.keep_receiving = keep_receiving;
    crowd_begin(1 + INNOCENTS);
    crowd.on_data = echo_and_note;
    struct member *flooder = &crowd.members[0];
    unsigned idle = 0;
    for (unsigned i = 0; i < 3000 && idle < 20; i++) {
        const uint64_t before = flooder->received;
        const size_t sent = crowd_write(flooder, 65536);
        (void)rig_turn(&crowd.rig, 0);
        idle = sent == 0 && flooder->received == before ? idle + 1 : 0;
    }
    ck_assert_uint_eq(idle, 20);
    ck_assert_uint_eq(rig_stats(&crowd.rig).starved > 0, keep_receiving);
    check_quiet(4);
    order_count = 0;
    for (unsigned i = 1; i <= INNOCENTS; i++) {
        const uint64_t waiting = rig_stats(&crowd.rig).starved;
        (void)crowd_write(&crowd.members[i], 1);
        RIG_UNTIL(&crowd.rig,
                  rig_stats(&crowd.rig).starved > waiting || crowd.members[i].received == 1, 3);
    }
    if (keep_receiving) {
        ck_assert_uint_eq(order_count, 0);
        check_quiet(4);
        rig_reset(flooder->client);
        flooder->client = -1;
    }
    RIG_UNTIL(&crowd.rig, count_answered(answered) == INNOCENTS, 5);
    unsigned last = 0;
    for (unsigned i = 0; i < order_count; i++) {
        ck_assert(order[i] == 0 ||
                  order[i] == last + 1); /* the flooder was the first in the queue */
        last = order[i] == 0 ? last : order[i];
    }
    ck_assert_uint_eq(last, INNOCENTS);
    if (!keep_receiving) {
        rig_reset(flooder->client);
        flooder->client = -1;
        RIG_UNTIL(&crowd.rig, flooder->closes == 1, 20);
    }
    crowd.on_data = NULL;
    crowd_end();
}

START_TEST(flooder_that_does_not_read)
{
    RIG_ENGINE_OR_RETURN(engine);
    be_flooded(engine, 0);
    be_flooded(engine, 1);
}
END_TEST

/* ---- one share ------------------------------------------------------------------------------ */

#define POSTED 64

/** What a connection may have that has long been the only one to receive. */
#define SHARES_ALONE 16

/** What one wait brings at most where io_uring cannot limit; and one read when there is no more. */
#define ALL_POSTED ((POSTED + 1) * (size_t)4096)

/** Whether the kernel takes limits: the loop says so no more once it has been refused. */
static int
has_limits(void)
{
    char text[2048];
    ck_assert_int_gt(berth_loop_explain(crowd.rig.loop, text, sizeof(text)), 0);
    return strstr(text, "limited per connection and turn") != NULL;
}

#ifdef BERTH_HAVE_LIBURING
static void
refuse_limits(struct io_uring_sqe *submission)
{
    if (submission->opcode == IORING_OP_RECV && submission->ioprio & IORING_RECV_MULTISHOT &&
        (submission->file_index != 0 || submission->len != 0))
        between_refuse(submission, -EINVAL);
}
#endif

/** The most that a flooder may get in one turn. */
static size_t
share_bound(const char *engine, uint32_t share, int alone)
{
    const size_t limit = alone ? SHARES_ALONE * (size_t)share : share;
    if (!rig_is_uring(engine))
        return limit + 4096; /* what completes the last buffer */
    if (!has_limits())
        return ALL_POSTED;
    /* In a lane the kernel's limit is passed by what one go brings, which is as much again. */
    return rig_stats(&crowd.rig).lanes > 0 ? 2 * limit : limit + 4096;
}

/** A flood, while another connection has something to say in each turn; or, alone, has nothing. */
static void
measure_share(const char *engine, uint32_t share, int alone)
{
    crowd_prepare(engine);
    crowd.options.fairness_bytes = share;
    crowd.options.receive_buffers = POSTED;
    crowd_begin(2);
    struct member *flooder = &crowd.members[0];
    uint64_t most = 0;
    for (unsigned turn = 0; turn < 300; turn++) {
        while (crowd_write(flooder, 200000) > 0)
            ;
        if (!alone)
            (void)crowd_write(&crowd.members[1], 1);
        const uint64_t before = flooder->received;
        (void)rig_turn(&crowd.rig, 0);
        if (flooder->received - before > most)
            most = flooder->received - before;
        ck_assert_uint_le(most, share_bound(engine, share, alone));
    }
    ck_assert_uint_ge(most, share); /* or it was no flood */
    printf("%s, share %u%s: %llu bytes in one turn at most, %llu lanes\n", engine, share,
           alone ? ", alone" : "", (unsigned long long)most,
           (unsigned long long)rig_stats(&crowd.rig).lanes);
    RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    crowd_end();
}

START_TEST(one_share_of_a_turn)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const uint32_t shares[] = {4096, 10000, 65536, 100000};
    for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
        measure_share(engine, shares[i], 0);
        measure_share(engine, shares[i], 1);
    }
#ifdef BERTH_HAVE_LIBURING
    if (strcmp(engine, "uring") != 0)
        return;
    between_begin();
    between.on_submission = refuse_limits;
    measure_share(engine, 4096, 0);
    ck_assert_uint_gt(between.refused, 0);
    faults_reset();
#endif
}
END_TEST

/* ---- posted on an empty ring ---------------------------------------------------------------- */

#ifdef BERTH_HAVE_LIBURING
/**
 * A connection in the middle of bulk, all buffers of the ring are kept, and those that are left in
 * the pool are for reading only, not for the ring. A receive that looked for a buffer at once would
 * fail, reading would take what there was, and posting in the same way would fail again: for ever.
 * So none is posted without polling first.
 */
START_TEST(bulk_on_an_empty_ring)
{
    if (!rig_has("uring"))
        return;
    between_begin();
    prepare_small("uring");
    crowd.options.fairness_bytes = 4096; /* each receive ends with a full buffer */
    crowd_begin(1);
    struct member *member = &crowd.members[0];
    (void)rig_turn(&crowd.rig, 0);
    take_pool(BERTH_FOR_NEW);
    ck_assert_uint_gt(
        berth_pool_available(berth_loop_pool(crowd.rig.loop), BERTH_CLASS_4K, BERTH_FOR_ACTIVE), 0);
    crowd.on_data = keep_all;
    ck_assert_uint_eq(crowd_write(member, 17 * 4096), 17 * 4096);
    RIG_UNTIL(&crowd.rig, member->received == 17 * 4096, 100);
    for (unsigned i = 0; i < 3; i++)
        (void)rig_turn(&crowd.rig, 0);
    ck_assert_uint_eq(between.receives_unpolled, 0);
    ck_assert_uint_gt(rig_stats(&crowd.rig).enobufs, 0); /* it found the ring empty */
    ck_assert_uint_eq(between_out(), 16);
    const unsigned receives = between.receives, completions = between.completions;
    check_quiet(2);
    ck_assert_uint_le(between.receives, receives + 1);
    ck_assert_uint_le(between.completions, completions + 1);
    /* Nor is it deaf: there are buffers to read into. */
    (void)crowd_write(member, 5000);
    RIG_UNTIL(&crowd.rig, crowd_settled(), 20);
    crowd.on_data = NULL;
    give_back();
    crowd_stream(100000);
    crowd_end();
    faults_reset();
}
END_TEST
#endif

int
main(void)
{
    Suite *suite = suite_create("kernel: starved");
    RIG_ADD(suite, end_with_an_empty_pool);
    RIG_ADD(suite, starved_ones_leave);
    RIG_ADD(suite, flooder_that_does_not_read);
    RIG_ADD(suite, one_share_of_a_turn);
#ifdef BERTH_HAVE_LIBURING
    RIG_ADD_COUNTED(suite, bulk_on_an_empty_ring, 1);
#endif
    return test_run(suite);
}
