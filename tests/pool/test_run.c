/*
 * Runs: buffers that lie one behind the other and are lent as one span. What of it is kept, by whom
 * it is used, and until when.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/run_test.h"

#include <pthread.h>

/* ---- what is kept -------------------------------------------------------------------------- */

START_TEST(what_nobody_keeps_is_posted_again)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    for (unsigned round = 0; round < 3; round++) {
        ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xff);
        (void)run_lend(pool, span.buffer, RUN * SIZE - 100);
    }
    for (uint32_t i = RUN; i-- > 0;) /* in any order */
        ck_assert_int_eq(berth_pool_settle(pool, span.buffer + i), 1);
    run_unpost(pool, span.buffer, 0xff);
    test_pool_end(pool);
}
END_TEST

START_TEST(a_lease_of_all_holds_all)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    struct berth_lease lease = run_retain(pool, &span, 0, span.length);
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0);
    run_check(pool, lease, 0);
    struct berth_lease longer = lease;
    longer.length++;
    ck_assert_ptr_null(berth_lease_data(pool, longer));
    ck_assert_uint_eq(berth_pool_report(pool, NULL, NULL), RUN);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    ck_assert_ptr_null(berth_lease_data(pool, lease));
    TEST_ILLEGAL(pool, berth_release(pool, lease));
    test_pool_verify(pool);
    /* And they are handed out in order of addresses again. */
    ck_assert_uint_eq(run_post(pool, BERTH_CLASS_4K, RUN), span.buffer);
    run_unpost(pool, span.buffer, 0xff);
    test_pool_end(pool);
}
END_TEST

START_TEST(a_lease_holds_what_it_lies_in)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    const struct berth_lease one = run_retain(pool, &span, SIZE + 10, 20);
    const struct berth_lease two = run_retain(pool, &span, 4 * SIZE - 1, 2);
    const struct berth_lease end = run_retain(pool, &span, span.length - 50, 50);
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0x65); /* all but 1, 3, 4 and 7 */
    run_unpost(pool, span.buffer, 0x65);
    run_check(pool, one, SIZE + 10);
    run_check(pool, two, 4 * SIZE - 1);
    run_check(pool, end, span.length - 50);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, 4);
    ck_assert_int_eq(berth_release(pool, two), 0);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, 2);
    ck_assert_int_eq(berth_release(pool, one), 0);
    ck_assert_int_eq(berth_release(pool, end), 0);
    test_pool_end(pool);
}
END_TEST

/** Leases that begin in several buffers and reach into each other's; released in every order. */
START_TEST(leases_that_overlap)
{
    static const struct {
        uint32_t offset, length;
    } parts[] = {{0, 3 * SIZE}, {SIZE + 1, SIZE}, {2 * SIZE, 4 * SIZE}, {SIZE + 5, 5 * SIZE}};
    static const unsigned char orders[24][4] = {
        {0, 1, 2, 3}, {0, 1, 3, 2}, {0, 2, 1, 3}, {0, 2, 3, 1}, {0, 3, 1, 2}, {0, 3, 2, 1},
        {1, 0, 2, 3}, {1, 0, 3, 2}, {1, 2, 0, 3}, {1, 2, 3, 0}, {1, 3, 0, 2}, {1, 3, 2, 0},
        {2, 0, 1, 3}, {2, 0, 3, 1}, {2, 1, 0, 3}, {2, 1, 3, 0}, {2, 3, 0, 1}, {2, 3, 1, 0},
        {3, 0, 1, 2}, {3, 0, 2, 1}, {3, 1, 0, 2}, {3, 1, 2, 0}, {3, 2, 0, 1}, {3, 2, 1, 0}};
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const uint32_t first = run_post(pool, BERTH_CLASS_4K, RUN);
    for (unsigned before = 0; before <= 4; before++) { /* so many are released while it is lent */
        for (unsigned order = 0; order < 24; order++) {
            const struct berth_span span = run_lend(pool, first, RUN * SIZE - 100);
            struct berth_lease leases[4];
            unsigned posted = 0, expected = 0xff;
            for (unsigned i = 0; i < 4; i++)
                leases[i] = run_retain(pool, &span, parts[i].offset, parts[i].length);
            for (unsigned i = before; i < 4; i++) {
                const unsigned kept = orders[order][i];
                /* 1 and 3 begin in one buffer: until both are over it holds what either reaches. */
                const unsigned longer = kept == 1 ? 3 : kept;
                const uint32_t last = (parts[longer].offset + parts[longer].length - 1) / SIZE;
                for (uint32_t at = parts[kept].offset / SIZE; at <= last; at++)
                    expected &= ~(1u << at);
            }
            for (unsigned i = 0; i <= 4; i++) {
                if (i == before)
                    posted = run_settle(pool, span.buffer, RUN);
                for (unsigned j = i; j < 4; j++)
                    run_check(pool, leases[orders[order][j]], parts[orders[order][j]].offset);
                if (i < 4)
                    ck_assert_int_eq(berth_release(pool, leases[orders[order][i]]), 0);
                test_pool_verify(pool);
            }
            ck_assert_uint_eq(posted, expected);
            (void)berth_pool_tidy(pool, BERTH_CLASS_4K);
            for (uint32_t i = 0; i < RUN; i++) /* what was kept is posted again */
                if (!(posted >> i & 1))
                    ck_assert_uint_eq(run_post(pool, BERTH_CLASS_4K, 1), first + i);
        }
    }
    run_unpost(pool, first, 0xff);
    test_pool_end(pool);
}
END_TEST

START_TEST(released_before_it_is_settled)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    const struct berth_lease gone = run_retain(pool, &span, 100, 3 * SIZE);
    const struct berth_lease kept = run_retain(pool, &span, 2 * SIZE, 10);
    ck_assert_int_eq(berth_release(pool, gone), 0);
    test_pool_verify(pool);
    ck_assert_ptr_null(berth_lease_data(pool, gone));
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xfb);
    run_unpost(pool, span.buffer, 0xfb);
    ck_assert_int_eq(berth_release(pool, kept), 0);
    test_pool_end(pool);
}
END_TEST

/** In the middle of settling: what comes first is over, what follows is still lent. */
START_TEST(released_while_it_is_settled)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    const struct berth_lease lease = run_retain(pool, &span, 0, span.length);
    ck_assert_uint_eq(run_settle(pool, span.buffer, 3), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_verify(pool);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, RUN - 3);
    ck_assert_uint_eq(run_settle(pool, span.buffer + 3, RUN - 3), 0x1f);
    run_unpost(pool, span.buffer + 3, 0x1f);
    test_pool_end(pool);
}
END_TEST

START_TEST(slices_hold_what_they_lie_in)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    const struct berth_lease all = run_retain(pool, &span, 0, span.length);
    struct berth_lease slice, part, lent;
    ck_assert_int_eq(berth_slice(pool, all, 5 * SIZE, 1, &lent), 0); /* while it is lent, too */
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0);
    ck_assert_int_eq(berth_slice(pool, all, 2 * SIZE + 7, SIZE, &slice), 0);
    ck_assert_int_eq(berth_slice(pool, slice, SIZE - 10, 10, &part), 0);
    ck_assert_int_eq(berth_slice(pool, slice, SIZE - 10, 11, &part), -EINVAL);
    ck_assert_int_eq(berth_lease_share(pool, slice), 0);
    ck_assert_int_eq(berth_release(pool, all), 0);
    test_pool_verify(pool);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, 3); /* 2, 3 and 5 */
    run_check(pool, slice, 2 * SIZE + 7);
    run_check(pool, part, 3 * SIZE - 3);
    run_check(pool, lent, 5 * SIZE);
    ck_assert_int_eq(berth_release(pool, slice), 0);
    ck_assert_int_eq(berth_release(pool, slice), 0);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, 3);
    ck_assert_int_eq(berth_release(pool, lent), 0);
    ck_assert_int_eq(berth_release(pool, part), 0);
    test_pool_end(pool);
}
END_TEST

/** A parser that keeps the beginning of what is not complete yet. */
START_TEST(small_pieces_may_move)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    struct berth_lease within, across, stays;
    ck_assert_int_eq(berth_retain(pool, &span, 3 * SIZE, 511, BERTH_MAY_COPY, &within), 0);
    ck_assert_int_eq(berth_retain(pool, &span, 6 * SIZE - 9, 1000, BERTH_MAY_COPY, &across), 0);
    /* Also this one: 4 KiB in place of 8. */
    ck_assert_uint_eq(berth_pool_copies(pool)->received_compact, 1511);
    ck_assert_int_eq(berth_retain(pool, &span, SIZE, 512, BERTH_MAY_COPY, &stays), 0);
    ck_assert_uint_eq(berth_pool_copies(pool)->received_compact, 1511);
    ck_assert_uint_eq(stays.buffer, span.buffer + 1);
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xfd);
    run_unpost(pool, span.buffer, 0xfd);
    run_check(pool, within, 3 * SIZE);
    run_check(pool, across, 6 * SIZE - 9);
    ck_assert_int_eq(berth_release(pool, within), 0);
    ck_assert_int_eq(berth_release(pool, across), 0);
    ck_assert_int_eq(berth_release(pool, stays), 0);
    test_pool_end(pool);
}
END_TEST

/* ---- other ways to use them ----------------------------------------------------------------- */

START_TEST(sends_hold_a_run)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    struct berth_lease lease = run_retain(pool, &span, 10, 3 * SIZE);
    ck_assert_int_eq(berth_lease_send_begin(pool, lease), 0);
    TEST_ILLEGAL(pool, berth_release(pool, lease));
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xf0);
    run_unpost(pool, span.buffer, 0xf0);
    lease.offset += SIZE + 5; /* so much of it has been sent */
    lease.length -= SIZE + 5;
    ck_assert_int_eq(berth_lease_send_end(pool, lease), 0);
    ck_assert_int_eq(berth_lease_send_begin(pool, lease), 0);
    run_check(pool, lease, 10 + SIZE + 5);
    ck_assert_int_eq(berth_lease_send_end(pool, lease), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(chains_of_runs)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    struct berth_chain chain = {0};
    ck_assert_int_eq(berth_chain_append(pool, &chain, run_retain(pool, &span, 0, 3 * SIZE + 5)), 0);
    ck_assert_int_eq(
        berth_chain_append(pool, &chain, run_retain(pool, &span, 3 * SIZE + 5, 2 * SIZE)), 0);
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xc0);
    ck_assert_ptr_eq(berth_chain_pullup(pool, &chain, 5 * SIZE + 5), span.data); /* no copy */
    ck_assert_int_eq(berth_chain_consume(pool, &chain, 2 * SIZE), 0);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, RUN);
    ck_assert_int_eq(berth_chain_consume(pool, &chain, SIZE + 5), 0);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, RUN - 3);
    ck_assert_uint_eq(berth_pool_copies(pool)->received_pullup, 0);
    berth_chain_clear(pool, &chain);
    run_unpost(pool, span.buffer, 0xc0);
    test_pool_end(pool);
}
END_TEST

static struct remote_release {
    struct berth_pool *pool;
    struct berth_lease leases[3];
} elsewhere;

static void *
release_elsewhere(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 3; i++)
        if (berth_release(elsewhere.pool, elsewhere.leases[i]) != 0)
            return &elsewhere;
    return NULL;
}

static void
release_in_a_thread(void)
{
    pthread_t thread;
    void *fault = NULL;
    ck_assert_int_eq(pthread_create(&thread, NULL, release_elsewhere, NULL), 0);
    ck_assert_int_eq(pthread_join(thread, &fault), 0);
    ck_assert_ptr_null(fault);
}

START_TEST(released_elsewhere)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    elsewhere.pool = pool;
    elsewhere.leases[0] = run_retain(pool, &span, 0, 3 * SIZE);
    elsewhere.leases[1] = run_retain(pool, &span, SIZE, 4 * SIZE);
    elsewhere.leases[2] = run_retain(pool, &span, 4 * SIZE + 1, 5);
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xe0);
    run_unpost(pool, span.buffer, 0xe0);
    release_in_a_thread();
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, 5);
    ck_assert_uint_eq(berth_pool_turn(pool), 5);
    test_pool_verify(pool);

    /* And before it has been settled, where nothing becomes free by it. */
    (void)run_post(pool, BERTH_CLASS_4K, 1);
    test_pool_verify(pool);
    ck_assert_int_eq(berth_pool_unpost(pool, span.buffer), 0);
    (void)berth_pool_tidy(pool, BERTH_CLASS_4K);
    ck_assert_uint_eq(run_post(pool, BERTH_CLASS_4K, RUN), span.buffer);
    const struct berth_span again = run_lend(pool, span.buffer, RUN * SIZE);
    for (unsigned i = 0; i < 3; i++)
        elsewhere.leases[i] = run_retain(pool, &again, i * SIZE, (RUN - i) * SIZE);
    release_in_a_thread();
    ck_assert_uint_eq(berth_pool_turn(pool), 0);
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xff);
    run_unpost(pool, span.buffer, 0xff);
    test_pool_end(pool);
}
END_TEST

static unsigned holdings[3];

static void
count_states(const struct berth_holding *holding, void *context)
{
    (void)context;
    holdings[0] += strcmp(holding->state, "borrowed") == 0;
    holdings[1] += strcmp(holding->state, "leased") == 0;
    holdings[2] += strcmp(holding->state, "in flight") == 0;
    ck_assert_int_eq(holding->size_class, BERTH_CLASS_4K);
}

static void
check_states(const struct berth_pool *pool, unsigned borrowed, unsigned leased, unsigned in_flight)
{
    memset(holdings, 0, sizeof(holdings));
    ck_assert_uint_eq(berth_pool_report(pool, count_states, NULL), borrowed + leased + in_flight);
    ck_assert_uint_eq(holdings[0], borrowed);
    ck_assert_uint_eq(holdings[1], leased);
    ck_assert_uint_eq(holdings[2], in_flight);
}

START_TEST(runs_are_reported)
{
    struct berth_pool *pool;
    const struct berth_span span = run_begin(&pool);
    check_states(pool, RUN, 0, 0);
    const struct berth_lease lease = run_retain(pool, &span, 0, 2 * SIZE);
    ck_assert_uint_eq(run_settle(pool, span.buffer, RUN), 0xfc);
    run_unpost(pool, span.buffer, 0xfc);
    check_states(pool, 0, 2, 0);
    ck_assert_int_eq(berth_lease_send_begin(pool, lease), 0);
    check_states(pool, 0, 1, 1);
    ck_assert_int_eq(berth_lease_send_end(pool, lease), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pool runs");
    TEST_ADD(suite, what_nobody_keeps_is_posted_again);
    TEST_ADD(suite, a_lease_of_all_holds_all);
    TEST_ADD(suite, a_lease_holds_what_it_lies_in);
    TEST_ADD(suite, leases_that_overlap);
    TEST_ADD(suite, released_before_it_is_settled);
    TEST_ADD(suite, released_while_it_is_settled);
    TEST_ADD(suite, slices_hold_what_they_lie_in);
    TEST_ADD(suite, small_pieces_may_move);
    TEST_ADD(suite, sends_hold_a_run);
    TEST_ADD(suite, chains_of_runs);
    TEST_ADD(suite, released_elsewhere);
    TEST_ADD(suite, runs_are_reported);
    return test_run(suite);
}
