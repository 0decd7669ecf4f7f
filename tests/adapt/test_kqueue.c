/*
 * The kqueue adapter, call by call; built twice, the second time as where udata is too narrow for a
 * token. Runs on systems with kqueue(2), and over libkqueue where configure found it; elsewhere it
 * is skipped, and says so.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>

#ifndef BERTH_HAVE_KQUEUE

int
main(void)
{
    printf("skipped: neither sys/event.h nor libkqueue was found by configure\n");
    return 77;
}

#else

#include <fcntl.h>
#include <sys/socket.h>

#include "berth/adapt/kqueue.h"
#include "table/table_test.h"

#define BATCH 16

static struct berth_table table;
static struct berth_kqueue set;
static struct kevent batch[BATCH];

static void
begin(void)
{
    must_init(&table, NULL);
    ck_assert_int_eq(berth_kqueue_init(&set, &table), 0);
}

static void
end(void)
{
    BERTH_TABLE_EACH_LIVE (&table, index)
        ck_assert_int_eq(berth_kqueue_close(&set, berth_table_slot(&table, index)), 0);
    berth_kqueue_fini(&set);
    berth_kqueue_fini(&set);
    must_fini(&table);
}

static struct berth_slot *
open_pair(int *peer)
{
    int pair[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ck_assert_int_eq(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
    *peer = pair[1];
    return must_claim(&table, (uint32_t)pair[0]);
}

static struct berth_slot *
open_ready(int *peer)
{
    struct berth_slot *slot = open_pair(peer);
    ck_assert_int_eq(berth_kqueue_add(&set, slot, BERTH_KQUEUE_READ), 0);
    ck_assert_int_eq(write(*peer, "x", 1), 1);
    return slot;
}

static int
wait_into(struct kevent *events)
{
    const struct timespec now = {0, 0};
    return kevent(set.fd, NULL, 0, events, BATCH, &now);
}

static int
wait_now(void)
{
    return wait_into(batch);
}

static int
is_open(int fd)
{
    return fcntl(fd, F_GETFD) != -1;
}

/** What the events of one wait say about a slot, all filters together. */
static unsigned
events_of(const struct berth_slot *slot)
{
    unsigned events = 0;
    BERTH_KQUEUE_EACH (at, &set, batch, wait_now()) {
        ck_assert_ptr_eq(at.slot, slot);
        ck_assert_uint_eq(at.token, berth_slot_token(slot, 0));
        ck_assert_int_eq((int)at.event->ident, berth_slot_fd(slot));
        events |= at.events;
    }
    return events;
}

START_TEST(add_modify_remove_close)
{
    int peer;
    struct berth_slot *slot = open_ready(&peer);
    const int fd = berth_slot_fd(slot);
    const unsigned both = BERTH_KQUEUE_READ | BERTH_KQUEUE_WRITE;
    ck_assert_uint_eq(events_of(slot), BERTH_KQUEUE_READ);
    ck_assert_int_eq(berth_kqueue_modify(&set, slot, BERTH_KQUEUE_WRITE), 0);
    ck_assert_uint_eq(events_of(slot), BERTH_KQUEUE_WRITE);
    ck_assert_int_eq(berth_kqueue_modify(&set, slot, both), 0);
    ck_assert_uint_eq(events_of(slot), both);
    ck_assert_int_eq(berth_kqueue_modify(&set, slot, 0), 0);
    ck_assert_uint_eq(slot->state, 0);
    ck_assert_uint_eq(events_of(slot), 0);
    ck_assert_int_eq(berth_kqueue_add(&set, slot, BERTH_KQUEUE_READ), 0);
    ck_assert_int_eq(berth_kqueue_remove(&set, slot), 0);
    ck_assert_int_eq(berth_kqueue_remove(&set, slot), 0);
    ck_assert_uint_eq(events_of(slot), 0);
    ck_assert_int_eq(berth_kqueue_add(&set, slot, BERTH_KQUEUE_READ), 0);
    ck_assert_uint_eq(events_of(slot), BERTH_KQUEUE_READ);
    ck_assert_int_eq(berth_kqueue_close(&set, slot), 0);
    ck_assert(!is_open(fd));
    ck_assert_uint_eq(berth_table_live_count(&table), 0);
    (void)close(peer);
}
END_TEST

START_TEST(edges_are_reported_once)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    ck_assert_int_eq(berth_kqueue_add(&set, slot, BERTH_KQUEUE_READ | BERTH_KQUEUE_EDGE), 0);
    ck_assert_int_eq(write(peer, "x", 1), 1);
    ck_assert_uint_eq(events_of(slot), BERTH_KQUEUE_READ);
    ck_assert_uint_eq(events_of(slot), 0);
    ck_assert_int_eq(berth_kqueue_modify(&set, slot, BERTH_KQUEUE_READ), 0);
    ck_assert_uint_eq(events_of(slot), BERTH_KQUEUE_READ);
    ck_assert_uint_eq(events_of(slot), BERTH_KQUEUE_READ);
    (void)close(peer);
}
END_TEST

START_TEST(the_end_of_a_peer_is_seen)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    ck_assert_int_eq(berth_kqueue_add(&set, slot, BERTH_KQUEUE_READ), 0);
    (void)close(peer);
    ck_assert_uint_eq(events_of(slot), BERTH_KQUEUE_READ | BERTH_KQUEUE_EOF);
}
END_TEST

START_TEST(bad_arguments_are_refused)
{
    int peer;
    struct berth_kqueue other;
    struct berth_table slots;
    struct berth_slot *slot = open_pair(&peer);
    must_init_mode(&slots, BERTH_INDEX_SLOT);
    ck_assert_int_eq(berth_kqueue_init(NULL, &table), -EINVAL);
    ck_assert_int_eq(berth_kqueue_init(&other, NULL), -EINVAL);
    ck_assert_int_eq(berth_kqueue_init(&other, &slots), -EINVAL);
    berth_kqueue_fini(&other); /* harmless after a refusal */
    must_fini(&slots);

    ck_assert_int_eq(berth_kqueue_add(NULL, slot, BERTH_KQUEUE_READ), -EINVAL);
    ck_assert_int_eq(berth_kqueue_add(&set, NULL, BERTH_KQUEUE_READ), -EINVAL);
    ck_assert_int_eq(berth_kqueue_add(&set, slot, 0), -EINVAL);
    ck_assert_int_eq(berth_kqueue_add(&set, slot, BERTH_KQUEUE_EDGE), -EINVAL);
    ck_assert_int_eq(berth_kqueue_add(&set, slot, 64), -EINVAL);
    ck_assert_int_eq(berth_kqueue_modify(&set, NULL, 0), -EINVAL);
    ck_assert_int_eq(berth_kqueue_remove(NULL, slot), -EINVAL);
    ck_assert_int_eq(berth_kqueue_close(&set, NULL), -EINVAL);
    ck_assert_int_eq(berth_kqueue_add(&set, slot, BERTH_KQUEUE_READ), 0);
    ck_assert_int_eq(berth_kqueue_add(&set, slot, BERTH_KQUEUE_READ), -EEXIST);
    ck_assert_int_eq(berth_kqueue_close(&set, slot), 0);
    ck_assert_int_eq(berth_kqueue_add(&set, slot, BERTH_KQUEUE_READ), -ESTALE);
    ck_assert_int_eq(berth_kqueue_modify(&set, slot, 0), -ESTALE);
    ck_assert_int_eq(berth_kqueue_remove(&set, slot), -ESTALE);
    ck_assert_int_eq(berth_kqueue_close(&set, slot), -ESTALE);
    (void)close(peer);
}
END_TEST

START_TEST(operations_in_flight_keep_everything_as_it_is)
{
    int peer;
    struct berth_slot *slot = open_ready(&peer);
    ck_assert_int_eq(berth_slot_begin(slot), 0);
    const struct berth_slot before = *slot;
    ck_assert_int_eq(berth_kqueue_close(&set, slot), -EBUSY);
    ck_assert_mem_eq(slot, &before, sizeof(before));
    ck_assert(is_open(berth_slot_fd(slot)));
    ck_assert_uint_eq(events_of(slot), BERTH_KQUEUE_READ);
    ck_assert_uint_eq(berth_slot_end(slot), 0);
    (void)close(peer);
}
END_TEST

START_TEST(events_of_the_closed_do_not_reach_the_successor)
{
    int peer, peer_after;
    struct berth_slot *slot = open_ready(&peer);
    const int fd = berth_slot_fd(slot);
    ck_assert_int_eq(wait_now(), 1);
    ck_assert_int_eq(berth_kqueue_close(&set, slot), 0);
    struct berth_slot *after = open_pair(&peer_after);
    ck_assert_int_eq(berth_slot_fd(after), fd);
    BERTH_KQUEUE_EACH (at, &set, batch, 1)
        ck_abort_msg("an event of the closed connection was delivered");
    ck_assert_uint_eq(stats_of(&table).stale, 1);
    (void)close(peer);
    (void)close(peer_after);
}
END_TEST

START_TEST(handlers_may_close_any_connection)
{
    int peers[6];
    struct berth_slot *slots[6];
    for (unsigned i = 0; i < 6; i++)
        slots[i] = open_ready(&peers[i]);
    const int count = wait_now();
    ck_assert_int_eq(count, 6);
    unsigned seen = 0;
    BERTH_KQUEUE_EACH (at, &set, batch, count) {
        if (seen++ > 0)
            continue;
        unsigned spared = slots[3] == at.slot ? 4 : 3;
        for (unsigned i = 0; i < 6; i++)
            if (slots[i] != at.slot && i != spared)
                ck_assert_int_eq(berth_kqueue_close(&set, slots[i]), 0);
        ck_assert_ptr_nonnull(berth_kqueue_alive(&at));
        ck_assert_int_eq(berth_kqueue_close(&set, at.slot), 0);
        ck_assert_ptr_null(berth_kqueue_alive(&at));
    }
    ck_assert_uint_eq(seen, 2);
    ck_assert_uint_eq(berth_table_live_count(&table), 1);
    for (unsigned i = 0; i < 6; i++)
        (void)close(peers[i]);
}
END_TEST

START_TEST(walks_nest)
{
    int peers[3];
    for (unsigned i = 0; i < 3; i++)
        (void)open_ready(&peers[i]);
    const int count = wait_now();
    unsigned outer = 0, inner = 0;
    BERTH_KQUEUE_EACH (at, &set, batch, count) {
        struct kevent more[BATCH];
        outer++;
        const int again = outer == 1 ? wait_into(more) : -1;
        BERTH_KQUEUE_EACH (nested, &set, more, again) {
            inner++;
            if (!berth_token_same(nested.token, at.token))
                ck_assert_int_eq(berth_kqueue_close(&set, nested.slot), 0);
        }
    }
    ck_assert_int_eq(count, 3);
    ck_assert_uint_eq(inner, 3);
    ck_assert_uint_eq(outer, 1);
    for (unsigned i = 0; i < 3; i++)
        (void)close(peers[i]);
}
END_TEST

/** Runs the suite; what main returns. */
static int
run(Suite *suite)
{
#ifdef __linux__
    /* libkqueue keeps descriptors of its own and closes them later, in a thread: not counted. */
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
#else
    return test_run(suite);
#endif
}

int
main(void)
{
    TCase *tests = tcase_create("kqueue");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, begin, end);
    tcase_add_test(tests, add_modify_remove_close);
    tcase_add_test(tests, edges_are_reported_once);
    tcase_add_test(tests, the_end_of_a_peer_is_seen);
    tcase_add_test(tests, bad_arguments_are_refused);
    tcase_add_test(tests, operations_in_flight_keep_everything_as_it_is);
    tcase_add_test(tests, events_of_the_closed_do_not_reach_the_successor);
    tcase_add_test(tests, handlers_may_close_any_connection);
    tcase_add_test(tests, walks_nest);
    Suite *suite = suite_create("kqueue adapter");
    suite_add_tcase(suite, tests);
    return run(suite);
}

#endif
