/*
 * The epoll adapter, call by call: what each returns, in which order a connection is closed, and
 * what a walk over a batch does when handlers pull the ground from under it. Storms of all this at
 * once are in test_torture.c.
 *
 * SPDX-License-Identifier: MIT
 */
#include <fcntl.h>
#include <sys/socket.h>

#include "berth/adapt/epoll.h"
#include "table/table_test.h"

#define BATCH 16

static struct berth_table table;
static struct berth_epoll set;
static struct epoll_event batch[BATCH];

static void
begin(void)
{
    test_descriptors_note();
    must_init(&table, NULL);
    ck_assert_int_eq(berth_epoll_init(&set, &table), 0);
}

static void
end(void)
{
    BERTH_TABLE_EACH_LIVE (&table, index)
        ck_assert_int_eq(berth_epoll_close(&set, berth_table_slot(&table, index)), 0);
    berth_epoll_fini(&set);
    berth_epoll_fini(&set);
    must_fini(&table);
    test_descriptors_compare();
}

/** A socket in the table, not in the set; its peer is written to `peer`. */
static struct berth_slot *
open_pair(int *peer)
{
    int pair[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    *peer = pair[1];
    return must_claim(&table, (uint32_t)pair[0]);
}

/** A socket in the set that has something to read. */
static struct berth_slot *
open_ready(int *peer)
{
    struct berth_slot *slot = open_pair(peer);
    ck_assert_int_eq(berth_epoll_add(&set, slot, EPOLLIN), 0);
    ck_assert_int_eq(write(*peer, "x", 1), 1);
    return slot;
}

static int
wait_now(void)
{
    return epoll_wait(set.fd, batch, BATCH, 0);
}

static int
is_open(int fd)
{
    return fcntl(fd, F_GETFD) != -1;
}

/* ---- registering ----------------------------------------------------------------------------- */

START_TEST(add_modify_remove_close)
{
    int peer;
    struct berth_slot *slot = open_ready(&peer);
    const int fd = berth_slot_fd(slot);
    ck_assert_int_eq(wait_now(), 1);
    ck_assert_uint_eq(batch[0].data.u64, berth_slot_token(slot, 0));
    ck_assert_int_eq(berth_epoll_modify(&set, slot, EPOLLOUT), 0);
    ck_assert_int_eq(wait_now(), 1);
    ck_assert_uint_eq(batch[0].events, EPOLLOUT);
    ck_assert_int_eq(berth_epoll_modify(&set, slot, EPOLLOUT), 0);
    ck_assert_int_eq(berth_epoll_modify(&set, slot, 0), 0); /* errors and hang-ups only */
    ck_assert_int_eq(wait_now(), 0);
    ck_assert_uint_ne(slot->state, 0);
    ck_assert_int_eq(berth_epoll_modify(&set, slot, EPOLLIN | EPOLLOUT), 0);
    ck_assert_int_eq(wait_now(), 1);
    ck_assert_uint_eq(batch[0].events, EPOLLIN | EPOLLOUT);
    ck_assert_int_eq(berth_epoll_remove(&set, slot), 0);
    ck_assert_int_eq(wait_now(), 0);
    ck_assert_uint_eq(slot->state, 0);
    ck_assert_int_eq(berth_epoll_remove(&set, slot), 0);
    ck_assert_int_eq(berth_epoll_add(&set, slot, EPOLLIN), 0);
    ck_assert_int_eq(wait_now(), 1);
    ck_assert_int_eq(berth_epoll_close(&set, slot), 0);
    ck_assert(!is_open(fd));
    ck_assert_uint_eq(berth_table_live_count(&table), 0);
    ck_assert_int_eq(wait_now(), 0);
    (void)close(peer);
}
END_TEST

START_TEST(bad_arguments_are_refused)
{
    int peer;
    struct berth_epoll other;
    struct berth_table slots;
    struct berth_slot *slot = open_pair(&peer);
    must_init_mode(&slots, BERTH_INDEX_SLOT);
    ck_assert_int_eq(berth_epoll_init(NULL, &table), -EINVAL);
    ck_assert_int_eq(berth_epoll_init(&other, NULL), -EINVAL);
    berth_epoll_fini(&other); /* harmless after a refusal */
    ck_assert_int_eq(berth_epoll_init(&other, &slots), -EINVAL);
    must_fini(&slots);

    ck_assert_int_eq(berth_epoll_add(NULL, slot, EPOLLIN), -EINVAL);
    ck_assert_int_eq(berth_epoll_add(&set, NULL, EPOLLIN), -EINVAL);
    ck_assert_int_eq(berth_epoll_modify(NULL, slot, EPOLLIN), -EINVAL);
    ck_assert_int_eq(berth_epoll_modify(&set, NULL, EPOLLIN), -EINVAL);
    ck_assert_int_eq(berth_epoll_remove(NULL, slot), -EINVAL);
    ck_assert_int_eq(berth_epoll_remove(&set, NULL), -EINVAL);
    ck_assert_int_eq(berth_epoll_close(NULL, slot), -EINVAL);
    ck_assert_int_eq(berth_epoll_close(&set, NULL), -EINVAL);

    ck_assert_int_eq(berth_epoll_modify(&set, slot, EPOLLIN), -ENOENT);
    ck_assert_int_eq(berth_epoll_add(&set, slot, EPOLLIN), 0);
    ck_assert_int_eq(berth_epoll_add(&set, slot, EPOLLIN), -EEXIST);
    ck_assert_int_eq(berth_epoll_close(&set, slot), 0);
    ck_assert_int_eq(berth_epoll_add(&set, slot, EPOLLIN), -ESTALE);
    ck_assert_int_eq(berth_epoll_modify(&set, slot, EPOLLIN), -ESTALE);
    ck_assert_int_eq(berth_epoll_remove(&set, slot), -ESTALE);
    ck_assert_int_eq(berth_epoll_close(&set, slot), -ESTALE);
    (void)close(peer);
}
END_TEST

START_TEST(what_the_kernel_refuses_is_not_registered)
{
    const int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    const int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    (void)close(file); /* a number that nobody has */
    struct berth_slot *slot = must_claim(&table, (uint32_t)file);
    ck_assert_int_eq(berth_epoll_add(&set, slot, EPOLLIN), -EBADF);
    ck_assert_uint_eq(slot->state, 0);
    must_release(&table, (uint32_t)file);
    slot = must_claim(&table, (uint32_t)directory); /* is always ready, and cannot be waited for */
    ck_assert_int_eq(berth_epoll_add(&set, slot, EPOLLIN), -EPERM);
    ck_assert_uint_eq(slot->state, 0);
}
END_TEST

START_TEST(operations_in_flight_keep_everything_as_it_is)
{
    int peer;
    struct berth_slot *slot = open_ready(&peer);
    const int fd = berth_slot_fd(slot);
    ck_assert_int_eq(berth_slot_begin(slot), 0);
    const struct berth_slot before = *slot;
    ck_assert_int_eq(berth_epoll_close(&set, slot), -EBUSY);
    ck_assert_mem_eq(slot, &before, sizeof(before));
    ck_assert(is_open(fd));
    ck_assert_int_eq(wait_now(), 1); /* still in the set */
    ck_assert_uint_eq(berth_slot_end(slot), 0);
    ck_assert_int_eq(berth_epoll_close(&set, slot), 0);
    ck_assert(!is_open(fd));
    (void)close(peer);
}
END_TEST

START_TEST(descriptors_closed_behind_the_table_are_reported)
{
    int peer;
    struct berth_slot *slot = open_ready(&peer);
    (void)close(berth_slot_fd(slot));
    ck_assert_int_eq(berth_epoll_close(&set, slot), -EBADF);
    ck_assert_uint_eq(berth_table_live_count(&table), 0); /* and yet all is done */
    (void)close(peer);
}
END_TEST

START_TEST(oneshot_is_armed_again_by_modify)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    unsigned seen = 0;
    ck_assert_int_eq(write(peer, "x", 1), 1);
    ck_assert_int_eq(berth_epoll_add(&set, slot, EPOLLIN | EPOLLONESHOT), 0);
    BERTH_EPOLL_EACH (at, &set, batch, wait_now())
        seen++;
    ck_assert_uint_eq(seen, 1);
    ck_assert_int_eq(wait_now(), 0);
    ck_assert_int_eq(berth_epoll_rebuild(&set), 0); /* does not arm it */
    ck_assert_int_eq(wait_now(), 0);
    ck_assert_int_eq(berth_epoll_modify(&set, slot, EPOLLIN | EPOLLONESHOT), 0);
    ck_assert_int_eq(wait_now(), 1);
    ck_assert_int_eq(wait_now(), 0);
    (void)close(peer);
}
END_TEST

START_TEST(edge_triggered_modify_reports_anew)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    ck_assert_int_eq(write(peer, "x", 1), 1);
    ck_assert_int_eq(berth_epoll_add(&set, slot, EPOLLIN | EPOLLET), 0);
    ck_assert_int_eq(wait_now(), 1);
    ck_assert_int_eq(wait_now(), 0);
    ck_assert_int_eq(berth_epoll_modify(&set, slot, EPOLLIN | EPOLLET), 0);
    ck_assert_int_eq(wait_now(), 1);
    (void)close(peer);
}
END_TEST

/* ---- batches --------------------------------------------------------------------------------- */

START_TEST(events_of_the_closed_do_not_reach_the_successor)
{
    int peer, peer_after;
    struct berth_slot *slot = open_ready(&peer);
    const int fd = berth_slot_fd(slot);
    ck_assert_int_eq(wait_now(), 1);
    ck_assert_int_eq(berth_epoll_close(&set, slot), 0);
    struct berth_slot *after = open_ready(&peer_after);
    ck_assert_int_eq(berth_slot_fd(after), fd); /* the kernel gives the lowest number */
    BERTH_EPOLL_EACH (at, &set, batch, 1)
        ck_abort_msg("an event of the closed connection was delivered");
    ck_assert_uint_eq(stats_of(&table).stale, 1);
    ck_assert_uint_eq(set.strikes, 1); /* closed before the walk: it might have been a ghost */
    unsigned seen = 0;
    BERTH_EPOLL_EACH (at, &set, batch, wait_now()) {
        seen++;
        ck_assert_ptr_eq(at.slot, after);
        ck_assert_int_eq(at.fd, fd);
        ck_assert_uint_eq(at.events, EPOLLIN);
        ck_assert_uint_eq(at.token, berth_slot_token(after, 0));
    }
    ck_assert_uint_eq(seen, 1);
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
    BERTH_EPOLL_EACH (at, &set, batch, count) {
        if (seen++ > 0)
            continue;
        for (unsigned i = 0; i < 6; i++) /* all others but one */
            if (slots[i] != at.slot && i != 3)
                ck_assert_int_eq(berth_epoll_close(&set, slots[i]), 0);
        ck_assert_ptr_nonnull(berth_epoll_alive(&at));
        ck_assert_int_eq(berth_epoll_close(&set, at.slot), 0);
        ck_assert_ptr_null(berth_epoll_alive(&at));
    }
    ck_assert_uint_eq(seen, 2);
    ck_assert_uint_eq(berth_table_live_count(&table), 1);
    /* The rest are leftovers, as many as were closed: no ghosts. (Asking `alive` counted one.) */
    ck_assert_uint_eq(stats_of(&table).stale, 4 + 1);
    ck_assert_uint_eq(set.strikes, 0);
    for (unsigned i = 0; i < 6; i++)
        (void)close(peers[i]);
}
END_TEST

START_TEST(walks_nest)
{
    int peers[4];
    struct berth_slot *slots[4];
    for (unsigned i = 0; i < 4; i++)
        slots[i] = open_ready(&peers[i]);
    const int count = wait_now();
    ck_assert_int_eq(count, 4);
    unsigned outer = 0, inner = 0;
    BERTH_EPOLL_EACH (at, &set, batch, count) {
        if (outer++ > 0)
            continue;
        struct epoll_event more[BATCH];
        const int again = epoll_wait(set.fd, more, BATCH, 0);
        ck_assert_int_eq(again, 4); /* level-triggered: all of them once more */
        const berth_token kept = at.token;
        BERTH_EPOLL_EACH (nested, &set, more, again) {
            inner++;
            if (!berth_token_same(nested.token, kept) && nested.slot != slots[2])
                ck_assert_int_eq(berth_epoll_close(&set, nested.slot), 0);
        }
        ck_assert_ptr_nonnull(berth_epoll_alive(&at));
    }
    ck_assert_uint_eq(inner, 4);
    ck_assert_uint_eq(outer, 2);
    for (unsigned i = 0; i < 4; i++)
        (void)close(peers[i]);
}
END_TEST

START_TEST(empty_batches_are_walked_over)
{
    BERTH_EPOLL_EACH (at, &set, batch, 0)
        ck_abort_msg("an event out of nothing");
    BERTH_EPOLL_EACH (at, &set, batch, -1)
        ck_abort_msg("an event out of an error");
}
END_TEST

START_TEST(settle_finds_who_owns_the_number_now)
{
    int peer, peer_after;
    struct berth_slot *slot = open_ready(&peer);
    const int fd = berth_slot_fd(slot);
    char byte;
    ck_assert_int_eq(wait_now(), 1);
    BERTH_EPOLL_EACH_FD (at, &set, batch, 1) {
        ck_assert_ptr_null(at.slot);
        ck_assert_int_eq(recv(at.fd, &byte, 1, MSG_DONTWAIT), 1);
        ck_assert_ptr_eq(berth_epoll_settle(&at), slot);
        ck_assert_uint_eq(at.events, EPOLLIN);
    }
    ck_assert_int_eq(berth_epoll_close(&set, slot), 0);
    BERTH_EPOLL_EACH_FD (at, &set, batch, 1)
        ck_assert_ptr_null(berth_epoll_settle(&at)); /* nobody */
    struct berth_slot *after = open_ready(&peer_after);
    ck_assert_int_eq(berth_slot_fd(after), fd);
    BERTH_EPOLL_EACH_FD (at, &set, batch, 1) {
        ck_assert_int_eq(recv(at.fd, &byte, 1, MSG_DONTWAIT), 1); /* the successor's byte */
        ck_assert_ptr_eq(berth_epoll_settle(&at), after);
        ck_assert_uint_eq(at.events, 0);
        ck_assert_uint_eq(at.token, berth_slot_token(after, 0));
    }
    (void)close(peer);
    (void)close(peer_after);
}
END_TEST

/* ---- what was left behind -------------------------------------------------------------------- */

START_TEST(released_but_open_descriptors_are_taken_out)
{
    int peer;
    struct berth_slot *slot = open_ready(&peer);
    const int fd = berth_slot_fd(slot);
    must_release(&table, (uint32_t)fd); /* against the rules: neither removed nor closed */
    BERTH_EPOLL_EACH (at, &set, batch, wait_now())
        ck_abort_msg("a released slot was delivered");
    ck_assert_uint_eq(stats_of(&table).ghosts, 1);
    ck_assert_uint_eq(stats_of(&table).rebuilds, 0);
    ck_assert_int_eq(wait_now(), 0);
    (void)close(fd);
    (void)close(peer);
}
END_TEST

START_TEST(add_takes_over_an_old_registration)
{
    int peer;
    struct berth_slot *slot = open_ready(&peer);
    const uint32_t index = slot->index;
    must_release(&table, index);
    slot = must_claim(&table, index);
    ck_assert_int_eq(berth_epoll_add(&set, slot, EPOLLIN), 0);
    ck_assert_int_eq(wait_now(), 1);
    ck_assert_uint_eq(batch[0].data.u64, berth_slot_token(slot, 0));
    (void)close(peer);
}
END_TEST

START_TEST(foreign_events_are_dropped_and_left_alone)
{
    int peer;
    struct berth_slot *slot = open_ready(&peer);
    struct epoll_event foreign = {.events = EPOLLOUT, .data.u64 = 0};
    ck_assert_int_eq(epoll_ctl(set.fd, EPOLL_CTL_ADD, peer, &foreign), 0);
    unsigned seen = 0;
    for (unsigned i = 0; i < 50; i++)
        BERTH_EPOLL_EACH (at, &set, batch, wait_now()) {
            seen++;
            ck_assert_ptr_eq(at.slot, slot);
        }
    ck_assert_uint_eq(seen, 50);
    ck_assert_uint_eq(stats_of(&table).malformed, 50);
    ck_assert_uint_eq(stats_of(&table).ghosts + stats_of(&table).rebuilds, 0);
    (void)close(peer);
}
END_TEST

START_TEST(rebuilt_sets_are_the_same_to_their_user)
{
    int peers[3];
    struct berth_slot *slots[3];
    for (unsigned i = 0; i < 3; i++)
        slots[i] = open_ready(&peers[i]);
    ck_assert_int_eq(berth_epoll_remove(&set, slots[1]), 0);
    const int number = set.fd;
    const unsigned before = test_descriptors_open();
    ck_assert_int_eq(berth_epoll_rebuild(&set), 0);
    ck_assert_int_eq(set.fd, number);
    ck_assert_uint_eq(test_descriptors_open(), before);
    ck_assert(fcntl(set.fd, F_GETFD) & FD_CLOEXEC);
    ck_assert_uint_eq(stats_of(&table).rebuilds, 1);
    ck_assert_int_eq(wait_now(), 2);
    BERTH_EPOLL_EACH (at, &set, batch, 2)
        ck_assert(at.slot == slots[0] || at.slot == slots[2]);
    for (unsigned i = 0; i < 3; i++)
        (void)close(peers[i]);
}
END_TEST

int
main(void)
{
    TCase *tests = tcase_create("epoll");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, begin, end);
    tcase_add_test(tests, add_modify_remove_close);
    tcase_add_test(tests, bad_arguments_are_refused);
    tcase_add_test(tests, what_the_kernel_refuses_is_not_registered);
    tcase_add_test(tests, operations_in_flight_keep_everything_as_it_is);
    tcase_add_test(tests, descriptors_closed_behind_the_table_are_reported);
    tcase_add_test(tests, oneshot_is_armed_again_by_modify);
    tcase_add_test(tests, edge_triggered_modify_reports_anew);
    tcase_add_test(tests, events_of_the_closed_do_not_reach_the_successor);
    tcase_add_test(tests, handlers_may_close_any_connection);
    tcase_add_test(tests, walks_nest);
    tcase_add_test(tests, empty_batches_are_walked_over);
    tcase_add_test(tests, settle_finds_who_owns_the_number_now);
    tcase_add_test(tests, released_but_open_descriptors_are_taken_out);
    tcase_add_test(tests, add_takes_over_an_old_registration);
    tcase_add_test(tests, foreign_events_are_dropped_and_left_alone);
    tcase_add_test(tests, rebuilt_sets_are_the_same_to_their_user);
    Suite *suite = suite_create("epoll adapter");
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
