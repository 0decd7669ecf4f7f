/*
 * Receiving by mapping: what a peer sends in whole pages comes as mapped pages, all of it and in
 * order, on every engine; leases of them outlive everything; whoever's bytes cannot be mapped is
 * copied for; and credit, pauses and ends are respected.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/mapping.h"

static void
report(const char *engine, const struct berth_copies *now)
{
    const struct berth_loop_stats stats = rig_stats(&w.rig);
    printf("%s: %.2f %% of %llu KiB mapped, %llu calls, %llu unmappings\n", engine,
           100.0 * (double)now->received_mapped / (double)now->received,
           (unsigned long long)(now->received >> 10), (unsigned long long)stats.mapped,
           (unsigned long long)stats.unmaps);
}

START_TEST(pages_are_mapped)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, SEGMENT_PAGES, 1))
        return;
    pass(64 * MIB);
    const struct berth_copies now = copies();
    report(engine, &now);
    ck_assert_uint_ge(now.received_mapped * 100, now.received * 99);
    ck_assert_uint_gt(rig_stats(&w.rig).unmaps, 0);
    ck_assert(berth_copy_factor(&now, BERTH_COPY_RECEIVE, BERTH_COPY_HIGH) < 0.01);
    finish();
}
END_TEST

START_TEST(bulk_connections_are_mapped_by_themselves)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, SEGMENT_PAGES, 0))
        return;
    ck_assert(!conn_pulls(w.rig.loop, as_slot(w.conn)));
    pass(64 * MIB);
    const struct berth_copies now = copies();
    report(engine, &now);
    ck_assert_uint_ge(now.received_mapped * 100, now.received * 95);
    ck_assert(conn_pulls(w.rig.loop, as_slot(w.conn)));
    char text[4096];
    (void)berth_loop_explain(w.rig.loop, text, sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "mapped receives: of 1 connections now"));
    finish();
}
END_TEST

START_TEST(not_without_the_option)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    begin_with(&options, SEGMENT_PAGES, 0);
    pass(8 * MIB);
    ck_assert_uint_eq(copies().received_mapped, 0);
    ck_assert_ptr_null(w.rig.loop->mapper);
    finish();
}
END_TEST

START_TEST(who_does_not_send_pages_is_copied_for)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, 0, 0))
        return;
    w.plain = 1;
    const struct conn_cold *cold = slot_cold(w.rig.loop, as_slot(w.conn));
    for (unsigned turns = 0; cold->map_failures == 0; turns++) {
        ck_assert_uint_lt(turns, 10000);
        pass(w.received + MIB);
    }
    ck_assert(!conn_pulls(w.rig.loop, as_slot(w.conn)));
    ck_assert_uint_gt(cold->map_wait_kib, 60 << 10);
    const uint64_t mapped = rig_stats(&w.rig).mapped;
    pass(w.received + 16 * MIB);
    ck_assert_uint_eq(rig_stats(&w.rig).mapped, mapped);
    ck_assert_uint_eq(cold->map_failures, 1);
    /* And again when its time has come. */
    slot_cold(w.rig.loop, as_slot(w.conn))->map_wait_kib = 1;
    for (unsigned turns = 0; cold->map_failures == 1; turns++) {
        ck_assert_uint_lt(turns, 10000);
        pass(w.received + MIB);
    }
    ck_assert_uint_gt(cold->map_wait_kib, 100 << 10);
    finish();
}
END_TEST

START_TEST(small_segments_are_not_tried)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, 1460, 0))
        return;
    pass(16 * MIB);
    ck_assert_ptr_null(w.rig.loop->mapper);
    ck_assert_uint_gt(slot_cold(w.rig.loop, as_slot(w.conn))->map_wait_kib, 0);
    finish();
}
END_TEST

START_TEST(mixed_senders_lose_nothing)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int segment = 0; segment <= SEGMENT_PAGES; segment += SEGMENT_PAGES) {
        uint64_t random = 7;
        if (!begin(engine, segment, 1))
            return;
        for (unsigned i = 0; i < 3000; i++) {
            const uint64_t roll = test_random(&random);
            w.plain = roll & 1;
            feed(w.sent + (roll >> 8) % (roll & 2 ? 200 : 100000));
            if (roll & 4)
                (void)rig_turn(&w.rig, 0);
        }
        pass(w.sent);
        const struct berth_copies now = copies();
        ck_assert_uint_gt(now.received_kernel, 0);
        ck_assert_uint_gt(now.received_mapped, 0);
        ck_assert_int_eq(shutdown(w.client, SHUT_WR), 0);
        RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
        ck_assert_int_eq(w.reason, 0);
        ck_assert_uint_eq(w.ends, 1);
        finish();
    }
}
END_TEST

START_TEST(small_messages_are_copied)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, 0, 1))
        return;
    for (unsigned i = 1; i < 200; i++)
        pass(w.received + 7 * i);
    ck_assert_uint_eq(copies().received_mapped, 0);
    finish();
}
END_TEST

START_TEST(switching_loses_nothing)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, SEGMENT_PAGES, 0))
        return;
    uint64_t random = 11;
    for (unsigned i = 0; i < 600; i++) {
        const uint64_t roll = test_random(&random);
        ck_assert_int_eq(berth_conn_map(w.conn, (int)(roll % 3) - 1), 0);
        feed(w.sent + (roll >> 8) % 300000);
        turn_some(roll >> 40 & 3);
    }
    pass(w.sent);
    ck_assert_int_eq(berth_conn_map(w.conn, 0), 0);
    const uint64_t mapped = copies().received_mapped;
    ck_assert_uint_gt(mapped, 0);
    turn_some(2);
    pass(w.sent + 8 * MIB);
    ck_assert_uint_eq(copies().received_mapped, mapped);
    finish();
}
END_TEST

START_TEST(leases_outlive_everything)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, SEGMENT_PAGES, 1))
        return;
    w.keep = 60;
    pass(16 * MIB);
    ck_assert_uint_gt(w.kept_count, 0);
    rig_close_all(&w.rig, &w.client, 1);
    w.client = -1;
    ck_assert_uint_eq(berth_loop_conns(w.rig.loop), 0);
    berth_listener_close(w.rig.listener);
    w.rig.listener = NULL;
    turn_some(10);
    /* Releasing some does not touch the others, in the same window perhaps. */
    unsigned mapped = 0, left = 0;
    for (unsigned i = 0; i < w.kept_count; i++) {
        if (i % 2 == 0)
            ck_assert_int_eq(berth_release(berth_loop_pool(w.rig.loop), w.kept[i].lease), 0);
        else
            w.kept[left++] = w.kept[i];
    }
    w.kept_count = left;
    turn_some(4);
    for (unsigned i = 0; i < w.kept_count; i++) {
        const unsigned char *data = berth_lease_data(berth_loop_pool(w.rig.loop), w.kept[i].lease);
        ck_assert_ptr_eq(data, w.kept[i].data);
        ck_assert(is_sequence(data, w.kept[i].position, w.kept[i].lease.length));
        mapped += w.kept[i].lease.length > 4096;
    }
    ck_assert_uint_gt(mapped, 0);
    finish();
}
END_TEST

START_TEST(leases_can_be_sent_on)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, SEGMENT_PAGES, 1))
        return;
    w.echo = 1;
    unsigned char *piece = malloc(MIB);
    uint64_t read = 0;
    ck_assert_ptr_nonnull(piece);
    for (unsigned turns = 0; read < 24 * MIB; turns++) {
        ck_assert_uint_lt(turns, 40000);
        feed(24 * MIB);
        (void)rig_turn(&w.rig, 1);
        const intptr_t got = rig_read(w.client, piece, MIB);
        if (got <= 0)
            continue;
        ck_assert(is_sequence(piece, read, (size_t)got));
        read += (uint64_t)got;
    }
    free(piece);
    const struct berth_copies now = copies();
    ck_assert_uint_ge(now.received_mapped * 10, now.received * 9);
    finish();
}
END_TEST

START_TEST(credit_is_kept_exactly)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, SEGMENT_PAGES, 1))
        return;
    static const size_t credits[] = {4097, 1, 100, 4095, 4096, 4097, 10000, 70000, 300001};
    uint64_t due = 0;
    ck_assert_int_eq(berth_conn_credit(w.conn, 0), 0);
    for (unsigned i = 0; i < sizeof(credits) / sizeof(credits[0]); i++) {
        feed(due + credits[i] + 100000);
        turn_some(3);
        ck_assert_uint_eq(w.received, due);
        ck_assert_int_eq(berth_conn_credit(w.conn, credits[i]), 0);
        due += credits[i];
        for (unsigned turns = 0; w.received < due; turns++) {
            ck_assert_uint_lt(turns, TURNS);
            (void)rig_turn(&w.rig, RIG_TURN_MS);
        }
        turn_some(3);
        ck_assert_uint_eq(w.received, due);
    }
    ck_assert_int_eq(berth_conn_credit(w.conn, BERTH_CREDIT_UNLIMITED), 0);
    pass(w.sent + MIB);
    ck_assert_uint_gt(copies().received_mapped, 0);
    finish();
}
END_TEST

START_TEST(an_end_behind_pages_is_told)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const size_t lengths[] = {0, 1, 4096, 5000, 65536, 200001};
    for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        if (!begin(engine, SEGMENT_PAGES, 1))
            return;
        feed(lengths[i]);
        ck_assert_int_eq(shutdown(w.client, SHUT_WR), 0);
        RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
        ck_assert_uint_eq(w.received, lengths[i]);
        ck_assert_uint_eq(w.ends, 1);
        ck_assert_int_eq(w.reason, 0);
        finish();
    }
}
END_TEST

START_TEST(a_reset_is_told_while_pages_are_held)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned late = 0; late < 2; late++) {
        if (!begin(engine, SEGMENT_PAGES, 1))
            return;
        w.keep = 1000;
        pass(2 * MIB);
        if (late)
            feed(2 * MIB + 50000); /* bytes and the reset behind them, at once */
        rig_reset(w.client);
        w.client = -1;
        RIG_UNTIL(&w.rig, w.closes == 1, TURNS);
        ck_assert_int_eq(w.reason, -ECONNRESET);
        ck_assert_uint_eq(w.ends, 0);
        turn_some(4);
        for (unsigned i = 0; i < w.kept_count; i++)
            ck_assert(is_sequence(w.kept[i].data, w.kept[i].position, w.kept[i].lease.length));
        finish();
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("mapped");
    RIG_ADD(suite, pages_are_mapped);
    RIG_ADD(suite, bulk_connections_are_mapped_by_themselves);
    RIG_ADD(suite, not_without_the_option);
    RIG_ADD(suite, who_does_not_send_pages_is_copied_for);
    RIG_ADD(suite, small_segments_are_not_tried);
    RIG_ADD(suite, mixed_senders_lose_nothing);
    RIG_ADD(suite, small_messages_are_copied);
    RIG_ADD(suite, switching_loses_nothing);
    RIG_ADD(suite, leases_outlive_everything);
    RIG_ADD(suite, leases_can_be_sent_on);
    RIG_ADD(suite, credit_is_kept_exactly);
    RIG_ADD(suite, an_end_behind_pages_is_told);
    RIG_ADD(suite, a_reset_is_told_while_pages_are_held);
    return test_run(suite);
}
