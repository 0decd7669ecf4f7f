/*
 * Zero-copy receives of io_uring over a simulated card (card.h): that bytes come in their order,
 * pages go back once, and receives are posted again when they have ended. No hardware is involved:
 * what a real card and driver do, this does not show.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/card.h"

#include "berth/explain.h"
#include "loop/crowd.h"
#include "loop/pull.h"

#ifdef BERTH_HAVE_LIBURING

/** For the first line: there may be no io_uring here. */
#define URING_OR_RETURN()                                                                          \
    if (!rig_has("uring"))                                                                         \
    return

static struct berth_copies
copies(void)
{
    struct berth_copies sum;
    memset(&sum, 0, sizeof(sum));
    berth_loop_copies_get(crowd.rig.loop, &sum);
    return sum;
}

static const char *
explained(void)
{
    static char text[4096];
    ck_assert_int_lt(berth_loop_explain(crowd.rig.loop, text, sizeof(text)), sizeof(text));
    return text;
}

/** A loop with `count` connections that receive from the card, into 1 MiB: 256 pages. */
static void
begin_card(unsigned count)
{
    crowd_prepare("uring");
    card_options(&crowd.options, 1);
    crowd_begin(count);
    ck_assert_uint_eq(card.registered, 1);
    ck_assert_uint_eq(card.pages, 256);
}

/** All go; every page and every buffer is where it was. */
static void
end_card(void)
{
    card.sated = 0;
    (void)rig_turn(&crowd.rig, 0);
    (void)rig_turn(&crowd.rig, 0);
    ck_assert_uint_eq(between_out(), 0);
    card_collect();
    ck_assert_uint_eq(card.out, 0);
    crowd_end();
    ck_assert_uint_eq(card.ended, card.posted);
    ck_assert_uint_eq(zcrx_areas_left(), 0);
    faults_reset();
}

/* ---- bytes ------------------------------------------------------------------------------------
 */

/** Whole pages; pages in three pieces; small packets that fill little of a page. */
START_TEST(streams_arrive)
{
    static const unsigned pieces[] = {1, 3, 2}, bytes[] = {0, 0, 1448};
    URING_OR_RETURN();
    card_begin();
    card.pieces = pieces[_i];
    card.piece_bytes = bytes[_i];
    card.napi = 8193;
    begin_card(4);
    crowd_stream(400000);
    const struct berth_copies now = copies();
    ck_assert_uint_eq(now.received, card.bytes);
    ck_assert_uint_eq(now.received_direct, card.bytes);
    ck_assert_uint_eq(now.received_kernel + now.received_compact, 0);
    ck_assert_uint_ge(card.completions, card.bytes / 4096);
    ck_assert_ptr_nonnull(strstr(explained(), "zero-copy receive: from queue 3 of card0"));
    struct berth_slot *slot = as_slot(crowd_conn(&crowd.members[0]));
    ck_assert_int_eq(conn_pull_start(crowd.rig.loop, slot, NULL, NULL), -EOPNOTSUPP);
    ck_assert_uint_eq(between.receives, 0);
    end_card();
}
END_TEST

/**
 * What comes by no card has been copied, whatever kind of receive brought it; the ledgers of loop
 * and connection agree.
 */
START_TEST(what_comes_by_no_card_was_copied)
{
    struct berth_copies one;
    URING_OR_RETURN();
    card_begin();
    card.napi = _i == 0 ? 0 : 8193;
    crowd_prepare("uring");
    card_options(&crowd.options, 1);
    crowd.options.conn_stats = 1;
    crowd_begin(2);
    crowd_stream(100000);
    const struct berth_copies now = copies();
    ck_assert_uint_eq(now.received, card.bytes);
    ck_assert_uint_eq(_i == 0 ? now.received_kernel : now.received_direct, card.bytes);
    ck_assert_uint_eq(_i == 0 ? now.received_direct : now.received_kernel, 0);
    ck_assert_int_eq(berth_conn_copies_get(crowd_conn(&crowd.members[0]), &one), 0);
    ck_assert_uint_eq(one.received, crowd.members[0].received);
    ck_assert_uint_eq(_i == 0 ? one.received_kernel : one.received_direct, one.received);
    ck_assert_uint_eq(_i == 0 ? one.received_direct : one.received_kernel, 0);
    end_card();
}
END_TEST

/** A share of a turn is kept to; its end is not the end of the stream, even where both meet. */
START_TEST(limits_are_not_ends)
{
    URING_OR_RETURN();
    card_begin();
    begin_card(1);
    struct member *member = &crowd.members[0];
    while (member->written < 3 * 65536)
        (void)crowd_write(member, 65536);
    RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    ck_assert_uint_eq(card.limit_max, 65536);
    ck_assert_uint_eq(rig_stats(&crowd.rig).fairness_stops, 3);
    ck_assert_uint_eq(rig_stats(&crowd.rig).rearms, 3);
    ck_assert_uint_eq(member->eofs, 0);
    (void)crowd_write(member, 65536);
    crowd_leave(member);
    RIG_UNTIL(&crowd.rig, member->closes == 1, CROWD_TURNS);
    ck_assert_uint_eq(member->eofs, 1);
    ck_assert_uint_eq(member->received, 4 * 65536);
    ck_assert_int_eq(member->reason, 0);
    end_card();
}
END_TEST

/** Credit is kept to the byte. */
START_TEST(credit_is_kept)
{
    URING_OR_RETURN();
    card_begin();
    begin_card(1);
    struct member *member = &crowd.members[0];
    ck_assert_int_eq(berth_conn_credit(crowd_conn(member), 0), 0);
    (void)rig_turn(&crowd.rig, 0);
    (void)crowd_write(member, 30000);
    for (uint64_t due = 0; due < 30000; due += 5000) {
        for (unsigned i = 0; i < 5; i++)
            (void)rig_turn(&crowd.rig, 0);
        ck_assert_uint_eq(member->received, due);
        ck_assert_int_eq(berth_conn_credit(crowd_conn(member), 5000), 0);
        RIG_UNTIL(&crowd.rig, member->received == due + 5000, 20);
    }
    ck_assert_int_eq(berth_conn_credit(crowd_conn(member), 1000), 0);
    end_card();
}
END_TEST

/* ---- pages ------------------------------------------------------------------------------------
 */

#define KEPT_MAX 300
static struct {
    struct berth_lease leases[KEPT_MAX];
    uint64_t at[KEPT_MAX];
    uint32_t keys[KEPT_MAX];
    unsigned count, most;
} kept;

static void
keep(struct berth_conn *conn, struct member *member, const struct berth_span *spans, unsigned n)
{
    struct berth_pool *pool = berth_loop_pool(crowd.rig.loop);
    uint64_t at = member->received;
    (void)conn;
    for (unsigned i = 0; i < n; i++)
        at -= spans[i].length;
    for (unsigned i = 0; i < n && kept.count < kept.most; i++) {
        ck_assert_int_eq(
            berth_retain(pool, &spans[i], 0, spans[i].length, 0, &kept.leases[kept.count]), 0);
        kept.at[kept.count] = at;
        kept.keys[kept.count++] = member->key;
        at += spans[i].length;
    }
}

static void
check_kept(struct berth_pool *pool)
{
    for (unsigned i = 0; i < kept.count; i++)
        ck_assert(ways_same(berth_lease_data(pool, kept.leases[i]), kept.leases[i].length,
                            kept.keys[i], kept.at[i]));
}

static void
release_kept(void)
{
    struct berth_pool *pool = berth_loop_pool(crowd.rig.loop);
    check_kept(pool);
    kept.most = 0;
    while (kept.count > 0)
        ck_assert_int_eq(berth_release(pool, kept.leases[--kept.count]), 0);
}

/** The whole area is kept: what comes then comes in the ordinary way, and stays in its order. */
START_TEST(kept_area_is_done_without)
{
    URING_OR_RETURN();
    card_begin();
    card.napi = 8193;
    memset(&kept, 0, sizeof(kept));
    kept.most = KEPT_MAX;
    begin_card(2);
    crowd.on_data = keep;
    while (kept.count < 256)
        crowd_stream(100000);
    kept.most = kept.count;
    ck_assert_uint_eq(card.out, 256);
    const uint64_t direct = copies().received_direct;
    crowd_stream(200000);
    ck_assert_uint_gt(card.shortages, 0);
    ck_assert_uint_eq(copies().received_direct, direct);
    ck_assert_uint_gt(copies().received_kernel, 0);
    ck_assert_uint_eq(copies().received_direct + copies().received_kernel, copies().received);
    release_kept();
    crowd_stream(200000);
    ck_assert_uint_gt(copies().received_direct, direct);
    end_card();
}
END_TEST

/**
 * The area is kept, and packets are such that recv(2) cannot have them either: the connections
 * wait, without keeping the loop busy, until there are pages; and one that is closed meanwhile
 * goes.
 */
START_TEST(mixed_packets_wait_for_pages)
{
    URING_OR_RETURN();
    card_begin();
    memset(&kept, 0, sizeof(kept));
    kept.most = KEPT_MAX;
    card.mixed = 1; /* nor does looking for a reset that went by take it for an error */
    begin_card(3);
    crowd.on_data = keep;
    while (card.out < 256) {
        (void)crowd_write(&crowd.members[0], 30000);
        (void)rig_turn(&crowd.rig, 0);
    }
    (void)crowd_write(&crowd.members[1], 30000);
    (void)crowd_write(&crowd.members[2], 30000);
    RIG_UNTIL(&crowd.rig, card.waits > 6, CROWD_TURNS);
    const uint64_t before = berth_loop_now_ms(crowd.rig.loop);
    const unsigned waits = card.waits;
    for (unsigned i = 0; i < 100; i++)
        (void)rig_turn(&crowd.rig, RIG_TURN_MS);
    /* Each of the three waits for five milliseconds, and then asks twice. */
    const uint64_t passed_ms = berth_loop_now_ms(crowd.rig.loop) - before;
    ck_assert_uint_le(card.waits - waits, 3 * (passed_ms / 5 + 2));
    ck_assert_uint_eq(crowd.closed, 0);
    ck_assert_int_eq(berth_conn_abort(crowd_conn(&crowd.members[2])), 0);
    RIG_UNTIL(&crowd.rig, crowd.members[2].closes == 1, CROWD_TURNS);
    release_kept();
    RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    ck_assert_uint_eq(copies().received, card.bytes);
    end_card();
}
END_TEST

/** The card takes nothing back for long, and the ring is small: it is full, and nothing is lost. */
START_TEST(full_ring_loses_nothing)
{
    URING_OR_RETURN();
    card_begin();
    card.entries_most = 16;
    card.pieces = 4;
    card.sated = 1;
    begin_card(1);
    struct member *member = &crowd.members[0];
    while (member->written < 400000) {
        (void)crowd_write(member, 400000 - member->written);
        (void)rig_turn(&crowd.rig, 0);
    }
    RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    ck_assert_ptr_null(strstr(explained(), " 0 pieces given back late"));
    card.sated = 0;
    RIG_UNTIL(&crowd.rig, card.out == 0, CROWD_TURNS); /* sixteen in each turn */
    ck_assert_ptr_nonnull(strstr(explained(), " 0 pieces given back late"));
    crowd_stream(100000);
    RIG_UNTIL(&crowd.rig, card.out == 0, CROWD_TURNS);
    end_card();
}
END_TEST

/** The pool lends no more foreign memory: bytes are copied out of the area, and none is lost. */
START_TEST(pool_lends_no_more)
{
    static char foreign[1];
    static struct berth_lease leases[65536];
    URING_OR_RETURN();
    card_begin();
    card.napi = 8193;
    begin_card(2);
    struct berth_pool *pool = berth_loop_pool(crowd.rig.loop);
    struct berth_pool_stats before, after;
    berth_pool_stats_get(pool, &before);
    unsigned count = 0;
    while (count < 65536 && berth_wrap(pool, foreign, 1, NULL, NULL, &leases[count]) == 0)
        count++;
    ck_assert_uint_eq(count, 65536);
    crowd_stream(100000);
    ck_assert_uint_eq(copies().received_direct, card.bytes);
    ck_assert_uint_eq(copies().received_compact, card.bytes);
    while (count > 0)
        ck_assert_int_eq(berth_release(pool, leases[--count]), 0);
    berth_pool_stats_get(pool, &after);
    ck_assert_uint_eq(after.outstanding, before.outstanding);
    end_card();
}
END_TEST

/** The loop goes while leases are held: they keep their bytes, and the area is counted. */
START_TEST(leases_outlive_the_loop)
{
    URING_OR_RETURN();
    card_begin();
    memset(&kept, 0, sizeof(kept));
    kept.most = 5;
    begin_card(1);
    crowd.on_data = keep;
    crowd_stream(60000);
    struct berth_pool *pool = berth_loop_pool(crowd.rig.loop);
    crowd_leave(&crowd.members[0]);
    RIG_UNTIL(&crowd.rig, berth_loop_conns(crowd.rig.loop) == 0, CROWD_TURNS);
    ck_assert_int_eq(berth_loop_destroy(crowd.rig.loop), 0);
    ck_assert_uint_eq(zcrx_areas_left(), 1);
    check_kept(pool);
    while (kept.count > 0)
        ck_assert_int_eq(berth_release(pool, kept.leases[--kept.count]), 0);
    ck_assert_uint_eq(zcrx_areas_left(), 0);
    ck_assert_int_eq(berth_pool_destroy(pool), 0); /* the loop could not: it was leaked till now */
    faults_reset();
}
END_TEST

/* ---- ends -------------------------------------------------------------------------------------
 */

/** The queue of completions is full again and again. */
START_TEST(full_queue_is_posted_again)
{
    URING_OR_RETURN();
    card_begin();
    card.full_after = 3;
    begin_card(3);
    crowd_stream(300000);
    ck_assert_uint_gt(card.ended, 20);
    end_card();
}
END_TEST

/** Reset by the peer, aborted, closed with bytes under way: pages come back all the same. */
START_TEST(connections_end)
{
    URING_OR_RETURN();
    card_begin();
    begin_card(3);
    for (unsigned i = 0; i < 3; i++)
        (void)crowd_write(&crowd.members[i], 100000);
    (void)rig_turn(&crowd.rig, 0);
    rig_reset(crowd.members[0].client);
    crowd.members[0].client = -1;
    ck_assert_int_eq(berth_conn_abort(crowd_conn(&crowd.members[1])), 0);
    ck_assert_int_eq(berth_conn_close(crowd_conn(&crowd.members[2])), 0);
    RIG_UNTIL(&crowd.rig, crowd.closed == 3, CROWD_TURNS);
    ck_assert_int_eq(crowd.members[0].reason, -ECONNRESET);
    ck_assert_int_eq(crowd.members[1].reason, -ECANCELED);
    end_card();
}
END_TEST

/** A completion for a connection that has gone: its page goes back. */
START_TEST(late_pages_go_back)
{
    URING_OR_RETURN();
    card_begin();
    begin_card(2);
    struct member *member = &crowd.members[0];
    const uint64_t token = card_armed((int)berth_token_index(member->token));
    ck_assert_uint_ne(token, 0);
    crowd_leave(member);
    RIG_UNTIL(&crowd.rig, member->closes == 1, CROWD_TURNS);
    const uint64_t stale = rig_stats(&crowd.rig).stale;
    card_lend_page(token, 1000);
    ck_assert_uint_eq(card.out, 1);
    RIG_UNTIL(&crowd.rig, card.out == 0, 20);
    ck_assert_uint_eq(rig_stats(&crowd.rig).stale, stale + 1);
    end_card();
}
END_TEST

/** Bytes that are said to be where nothing is: the stream has a hole, and ends. */
START_TEST(nonsense_ends_the_connection)
{
    static const uint64_t places[] = {0, UINT64_MAX, CARD_TOKEN | (1 << 20), CARD_TOKEN | 1048575};
    URING_OR_RETURN();
    card_begin();
    begin_card(2);
    struct member *member = &crowd.members[0];
    card_post(card_armed((int)berth_token_index(member->token)), 1000, IORING_CQE_F_MORE,
              places[_i]);
    RIG_UNTIL(&crowd.rig, member->closes == 1, CROWD_TURNS);
    ck_assert_int_eq(member->reason, -EIO);
    ck_assert_uint_eq(member->received, 0);
    (void)crowd_write(&crowd.members[1], 1000);
    RIG_UNTIL(&crowd.rig, crowd.members[1].received == 1000, 20);
    end_card();
}
END_TEST

/** Idle ones are parked and come back; their receive is one without copying again. */
START_TEST(idle_ones_are_parked)
{
    URING_OR_RETURN();
    card_begin();
    begin_card(2);
    crowd_stream(10000);
    const unsigned posted = card.posted;
    for (unsigned i = 0; i < 4; i++)
        (void)rig_turn(&crowd.rig, 0);
    ck_assert_int_eq(berth_loop_park_idle(crowd.rig.loop, 0), 2);
    RIG_UNTIL(&crowd.rig, rig_stats(&crowd.rig).demotions == 2, 50);
    ck_assert_uint_eq(card_armed((int)berth_token_index(crowd.members[0].token)), 0);
    crowd_stream(10000);
    ck_assert_uint_eq(rig_stats(&crowd.rig).promotions, 2);
    ck_assert_uint_ge(card.posted, posted + 2);
    ck_assert_uint_eq(between.receives, 0);
    end_card();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("zcrx");
    RIG_ADD_COUNTED(suite, streams_arrive, 3);
    RIG_ADD_COUNTED(suite, what_comes_by_no_card_was_copied, 2);
    RIG_ADD_COUNTED(suite, limits_are_not_ends, 1);
    RIG_ADD_COUNTED(suite, credit_is_kept, 1);
    RIG_ADD_COUNTED(suite, kept_area_is_done_without, 1);
    RIG_ADD_COUNTED(suite, mixed_packets_wait_for_pages, 1);
    RIG_ADD_COUNTED(suite, full_ring_loses_nothing, 1);
    RIG_ADD_COUNTED(suite, pool_lends_no_more, 1);
    RIG_ADD_COUNTED(suite, leases_outlive_the_loop, 1);
    RIG_ADD_COUNTED(suite, full_queue_is_posted_again, 1);
    RIG_ADD_COUNTED(suite, connections_end, 1);
    RIG_ADD_COUNTED(suite, late_pages_go_back, 1);
    RIG_ADD_COUNTED(suite, nonsense_ends_the_connection, 4);
    RIG_ADD_COUNTED(suite, idle_ones_are_parked, 1);
    return test_run(suite);
}
#endif
