/*
 * The io_uring adapter: completions find their slots and nothing else does; operations are counted
 * until their last completion; and a connection is closed in the one right order. Skipped, and said
 * so, where the system gives no ring.
 *
 * SPDX-License-Identifier: MIT
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>

#include "berth/adapt/io_uring.h"
#include "table/table_test.h"

#define ENTRIES 16
#define DIRECT_FILES 8

enum op { OP_RECV = 1, OP_POLL, OP_NOP };

static struct io_uring ring;
static struct berth_table table;
static char received[64];

static void
begin_mode(enum berth_index_mode mode)
{
    test_descriptors_note();
    must_init_mode(&table, mode);
    ck_assert_int_eq(io_uring_queue_init(ENTRIES, &ring, 0), 0);
}

static void
begin(void)
{
    begin_mode(BERTH_INDEX_FD);
}

static void
begin_direct(void)
{
    begin_mode(BERTH_INDEX_DIRECT);
    ck_assert_int_eq(io_uring_register_files_sparse(&ring, DIRECT_FILES), 0);
}

/** Tests leave nothing open and nothing in flight. */
static void
end(void)
{
    io_uring_queue_exit(&ring);
    ck_assert_uint_eq(berth_table_live_count(&table), 0);
    must_fini(&table);
    test_descriptors_compare();
}

static struct berth_slot *
open_pair(int *peer)
{
    int pair[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    *peer = pair[1];
    return must_claim(&table, (uint32_t)pair[0]);
}

static struct io_uring_sqe *
next_sqe(void)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    ck_assert_ptr_nonnull(sqe);
    return sqe;
}

static void
start_recv(struct berth_slot *slot)
{
    struct io_uring_sqe *sqe = next_sqe();
    io_uring_prep_recv(sqe, berth_slot_fd(slot), received, sizeof(received), 0);
    if (table.index_mode == BERTH_INDEX_DIRECT)
        sqe->flags |= IOSQE_FIXED_FILE;
    ck_assert_int_eq(berth_uring_set(sqe, slot, OP_RECV), 0);
}

static void
start_nop(struct berth_slot *slot)
{
    struct io_uring_sqe *sqe = next_sqe();
    io_uring_prep_nop(sqe);
    ck_assert_int_eq(berth_uring_set(sqe, slot, OP_NOP), 0);
}

/** A completion with anything at all for its user_data. */
static void
start_foreign(uint64_t user_data)
{
    struct io_uring_sqe *sqe = next_sqe();
    io_uring_prep_nop(sqe);
    sqe->user_data = user_data;
}

static void
submit_and_wait(unsigned count)
{
    ck_assert_int_ge(io_uring_submit_and_wait(&ring, count), 0);
    ck_assert_uint_ge(io_uring_cq_ready(&ring), count);
}

static int
is_open(int fd)
{
    return fcntl(fd, F_GETFD) != -1;
}

/** Goes on with a close that began with -EINPROGRESS until it is done. */
static void
finish_closing(struct berth_slot *slot)
{
    const berth_token token = berth_slot_token(slot, 0);
    while (berth_table_find(&table, token) != NULL) {
        submit_and_wait(1);
        BERTH_URING_EACH (at, &ring, &table) {
            ck_assert(at.slot->flags & BERTH_SLOT_CLOSING);
            const int error = berth_uring_close(&ring, &table, at.slot);
            ck_assert(error == 0 || error == -EINPROGRESS);
        }
    }
}

static void
must_close(struct berth_slot *slot)
{
    if (berth_uring_close(&ring, &table, slot) != 0)
        finish_closing(slot);
}

/* ---- completions ----------------------------------------------------------------------------- */

START_TEST(completions_find_their_slot)
{
    int peers[2];
    struct berth_slot *slots[2];
    for (unsigned i = 0; i < 2; i++) {
        slots[i] = open_pair(&peers[i]);
        start_recv(slots[i]);
        ck_assert_uint_eq(slots[i]->in_flight, 1);
    }
    ck_assert_int_eq(write(peers[1], "ab", 2), 2);
    submit_and_wait(1);
    unsigned seen = 0;
    BERTH_URING_EACH (at, &ring, &table) {
        seen++;
        ck_assert_ptr_eq(at.slot, slots[1]);
        ck_assert_uint_eq(at.op, OP_RECV);
        ck_assert_int_eq(at.res, 2);
        ck_assert_uint_eq(at.token, berth_slot_token(slots[1], OP_RECV));
        ck_assert_ptr_eq(berth_uring_alive(&at), slots[1]);
    }
    ck_assert_uint_eq(seen, 1);
    ck_assert_uint_eq(slots[0]->in_flight, 1);
    ck_assert_uint_eq(slots[1]->in_flight, 0);
    for (unsigned i = 0; i < 2; i++) {
        must_close(slots[i]);
        (void)close(peers[i]);
    }
}
END_TEST

START_TEST(what_is_no_token_is_dropped_and_counted)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    const uint32_t index = slot->index;
    const berth_token over = berth_slot_token(slot, OP_NOP);
    must_release(&table, index);
    slot = must_claim(&table, index);
    ck_assert_int_eq(berth_slot_begin(slot), 0);

    start_foreign(BERTH_TOKEN_NONE);
    start_foreign(UINT64_MAX); /* liburing's own mark for time-outs */
    start_foreign(index);      /* a bare descriptor */
    start_foreign((uintptr_t)slot);
    start_foreign(berth_token_make(BERTH_TOKEN_SLOTS_MAX - 1, 1, OP_NOP));
    start_foreign(over);
    start_foreign(berth_token_make(index + 1, 1, OP_NOP)); /* nobody yet */
    submit_and_wait(7);
    BERTH_URING_EACH (at, &ring, &table)
        ck_abort_msg("0x%llx was taken for a token", (unsigned long long)at.token);
    const struct berth_table_stats stats = stats_of(&table);
    ck_assert_uint_eq(stats.malformed + stats.stale, 7);
    ck_assert_uint_ge(stats.malformed, 4);
    ck_assert_uint_ge(stats.stale, 2);
    ck_assert_uint_eq(slot->in_flight, 1); /* nobody else's end was taken for ours */
    ck_assert_uint_eq(io_uring_cq_ready(&ring), 0);
    ck_assert_uint_eq(berth_slot_end(slot), 0);
    must_close(slot);
    (void)close(peer);
}
END_TEST

START_TEST(set_refuses_what_cannot_be_counted)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    struct io_uring_sqe *sqe = next_sqe();
    io_uring_prep_recv(sqe, berth_slot_fd(slot), received, sizeof(received), 0);
    ck_assert_int_eq(berth_uring_set(NULL, slot, OP_RECV), -EINVAL);
    ck_assert_int_eq(berth_uring_set(sqe, NULL, OP_RECV), -EINVAL);
    slot->in_flight = UINT16_MAX;
    ck_assert_int_eq(berth_uring_set(sqe, slot, OP_RECV), -EOVERFLOW);
    ck_assert_uint_eq(slot->in_flight, UINT16_MAX);
    slot->in_flight = 0;
    must_close(slot);
    sqe = next_sqe();
    io_uring_prep_recv(sqe, peer, received, sizeof(received), 0);
    ck_assert_int_eq(berth_uring_set(sqe, slot, OP_RECV), -ESTALE);
    submit_and_wait(2); /* both are no-ops now: they end at once, and belong to nobody */
    BERTH_URING_EACH (at, &ring, &table)
        ck_abort_msg("a refused operation was delivered");
    ck_assert_uint_eq(stats_of(&table).malformed, 2);
    (void)close(peer);
}
END_TEST

START_TEST(multishot_is_in_flight_until_its_last)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    struct io_uring_sqe *sqe = next_sqe();
    io_uring_prep_poll_multishot(sqe, berth_slot_fd(slot), POLLIN);
    ck_assert_int_eq(berth_uring_set(sqe, slot, OP_POLL), 0);
    const berth_token token = berth_slot_token(slot, 0);
    for (unsigned round = 0; round < 5; round++) {
        ck_assert_int_eq(write(peer, "x", 1), 1);
        submit_and_wait(1);
        BERTH_URING_EACH (at, &ring, &table) {
            ck_assert_uint_eq(at.op, OP_POLL);
            ck_assert(at.flags & IORING_CQE_F_MORE);
            ck_assert_uint_eq(slot->in_flight, 1);
        }
        ck_assert_int_eq(berth_table_release(&table, token), -EBUSY);
        ck_assert_int_eq(read(berth_slot_fd(slot), received, 1), 1);
    }
    unsigned last = 0;
    ck_assert_int_eq(berth_uring_close(&ring, &table, slot), -EINPROGRESS);
    while (slot->in_flight > 0) {
        submit_and_wait(1);
        BERTH_URING_EACH (at, &ring, &table)
            last += at.op == OP_POLL && !(at.flags & IORING_CQE_F_MORE);
    }
    ck_assert_uint_eq(last, 1);
    ck_assert_int_eq(berth_uring_close(&ring, &table, slot), 0);
    (void)close(peer);
}
END_TEST

START_TEST(resolve_counts_as_a_walk_does)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    const berth_token token = berth_slot_token(slot, OP_POLL);
    ck_assert_int_eq(berth_slot_begin(slot), 0);
    ck_assert_ptr_eq(berth_uring_resolve(&table, token, IORING_CQE_F_MORE), slot);
    ck_assert_uint_eq(slot->in_flight, 1);
    ck_assert_ptr_null(berth_uring_resolve(&table, BERTH_TOKEN_NONE, 0));
    ck_assert_uint_eq(slot->in_flight, 1);
    ck_assert_ptr_eq(berth_uring_resolve(&table, token, 0), slot);
    ck_assert_uint_eq(slot->in_flight, 0);
    must_close(slot);
    (void)close(peer);
}
END_TEST

/* ---- walks ----------------------------------------------------------------------------------- */

START_TEST(walks_nest_and_may_be_left)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    for (unsigned i = 0; i < 6; i++)
        start_nop(slot);
    submit_and_wait(6);
    unsigned seen = 0;
    BERTH_URING_EACH (at, &ring, &table)
        if (++seen == 2)
            break;
    ck_assert_uint_eq(io_uring_cq_ready(&ring), 4);
    ck_assert_uint_eq(slot->in_flight, 4);
    BERTH_URING_EACH (at, &ring, &table) {
        seen++;
        BERTH_URING_EACH (nested, &ring, &table)
            seen++;
    }
    ck_assert_uint_eq(seen, 6);
    ck_assert_uint_eq(slot->in_flight, 0);
    must_close(slot);
    (void)close(peer);
}
END_TEST

START_TEST(what_comes_meanwhile_is_for_the_next_walk)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    unsigned seen = 0;
    start_nop(slot);
    submit_and_wait(1);
    BERTH_URING_EACH (at, &ring, &table) {
        seen++;
        start_nop(slot);
        submit_and_wait(1); /* or a program whose handlers submit would never come out */
    }
    ck_assert_uint_eq(seen, 1);
    BERTH_URING_EACH (at, &ring, &table)
        seen++;
    ck_assert_uint_eq(seen, 2);
    must_close(slot);
    (void)close(peer);
}
END_TEST

START_TEST(handlers_may_close_others_of_the_batch)
{
    int peers[2];
    struct berth_slot *slots[2];
    for (unsigned i = 0; i < 2; i++) {
        slots[i] = open_pair(&peers[i]);
        start_nop(slots[i]);
    }
    submit_and_wait(2);
    const int fd = berth_slot_fd(slots[1]);
    unsigned seen = 0;
    BERTH_URING_EACH (at, &ring, &table) {
        if (seen++ == 0) {
            /* Its completion stands in the queue behind this one: the number must not be free. */
            ck_assert_ptr_eq(at.slot, slots[0]);
            ck_assert_int_eq(berth_uring_close(&ring, &table, slots[1]), -EINPROGRESS);
            ck_assert_int_eq(berth_uring_close(&ring, &table, at.slot), 0);
            ck_assert_ptr_null(berth_uring_alive(&at));
            ck_assert(is_open(fd));
        } else {
            ck_assert_ptr_eq(at.slot, slots[1]);
            ck_assert(at.slot->flags & BERTH_SLOT_CLOSING);
        }
    }
    ck_assert_uint_eq(seen, 2);
    finish_closing(slots[1]);
    ck_assert(!is_open(fd));
    (void)close(peers[0]);
    (void)close(peers[1]);
}
END_TEST

/* ---- closing --------------------------------------------------------------------------------- */

START_TEST(close_waits_for_the_last_completion)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    const int fd = berth_slot_fd(slot);
    const berth_token token = berth_slot_token(slot, 0);
    start_recv(slot);
    ck_assert_int_ge(io_uring_submit(&ring), 1);
    ck_assert_int_eq(berth_uring_close(&ring, &table, slot), -EINPROGRESS);
    ck_assert(slot->flags & BERTH_SLOT_CLOSING);
    ck_assert_uint_eq(slot->in_flight, 2); /* the receive, and the request to stop it */
    ck_assert_int_eq(berth_uring_close(&ring, &table, slot), -EINPROGRESS);
    ck_assert_uint_eq(slot->in_flight, 2); /* which is made once */
    ck_assert_int_eq(berth_table_release(&table, token), -EBUSY);
    ck_assert(is_open(fd));
    finish_closing(slot);
    ck_assert(!is_open(fd));
    ck_assert_ptr_null(berth_table_find(&table, token));
    char byte;
    ck_assert_int_eq(read(peer, &byte, 1), 0); /* the peer has seen the end */
    (void)close(peer);
}
END_TEST

START_TEST(close_makes_room_in_a_full_queue)
{
    int peer;
    struct berth_slot *slot = open_pair(&peer);
    start_recv(slot);
    while (io_uring_sq_space_left(&ring) > 0)
        start_foreign(BERTH_TOKEN_NONE);
    ck_assert_int_eq(berth_uring_close(&ring, &table, slot), -EINPROGRESS);
    finish_closing(slot);
    (void)close(peer);
}
END_TEST

START_TEST(close_refuses_and_reports)
{
    int peer;
    struct berth_table slots;
    struct berth_slot *handle = NULL;
    struct berth_slot *slot = open_pair(&peer);
    ck_assert_int_eq(berth_uring_close(NULL, &table, slot), -EINVAL);
    ck_assert_int_eq(berth_uring_close(&ring, NULL, slot), -EINVAL);
    ck_assert_int_eq(berth_uring_close(&ring, &table, NULL), -EINVAL);
    must_init_mode(&slots, BERTH_INDEX_SLOT);
    ck_assert_int_eq(berth_table_claim_any(&slots, &handle), 0);
    ck_assert_int_eq(berth_uring_close(&ring, &slots, handle), -EINVAL);
    must_fini(&slots);

    (void)close(berth_slot_fd(slot)); /* behind the table's back */
    ck_assert_int_eq(berth_uring_close(&ring, &table, slot), -EBADF);
    ck_assert_int_eq(berth_uring_close(&ring, &table, slot), -ESTALE);
    (void)close(peer);
}
END_TEST

START_TEST(direct_descriptors_are_closed_alike)
{
    int pair[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ck_assert_int_eq(io_uring_register_files_update(&ring, 3, &pair[0], 1), 1);
    (void)close(pair[0]); /* from here on only the ring has it */
    struct berth_slot *slot = must_claim(&table, 3);
    start_recv(slot);
    ck_assert_int_eq(write(pair[1], "abc", 3), 3);
    submit_and_wait(1);
    unsigned seen = 0;
    BERTH_URING_EACH (at, &ring, &table) {
        seen++;
        ck_assert_int_eq(at.res, 3);
        ck_assert_uint_eq(berth_token_index(at.token), 3);
    }
    ck_assert_uint_eq(seen, 1);
    start_recv(slot);
    ck_assert_int_ge(io_uring_submit(&ring), 1);
    ck_assert_int_eq(berth_uring_close(&ring, &table, slot), -EINPROGRESS);
    finish_closing(slot);

    slot = must_claim(&table, 3); /* the number is free, in table and ring */
    start_recv(slot);
    submit_and_wait(1);
    BERTH_URING_EACH (at, &ring, &table)
        ck_assert_int_eq(at.res, -EBADF);
    must_release(&table, 3);
    (void)close(pair[1]);
}
END_TEST

static void
add_tests(Suite *suite)
{
    TCase *tests = tcase_create("descriptors");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, begin, end);
    tcase_add_test(tests, completions_find_their_slot);
    tcase_add_test(tests, what_is_no_token_is_dropped_and_counted);
    tcase_add_test(tests, set_refuses_what_cannot_be_counted);
    tcase_add_test(tests, multishot_is_in_flight_until_its_last);
    tcase_add_test(tests, resolve_counts_as_a_walk_does);
    tcase_add_test(tests, walks_nest_and_may_be_left);
    tcase_add_test(tests, what_comes_meanwhile_is_for_the_next_walk);
    tcase_add_test(tests, handlers_may_close_others_of_the_batch);
    tcase_add_test(tests, close_waits_for_the_last_completion);
    tcase_add_test(tests, close_makes_room_in_a_full_queue);
    tcase_add_test(tests, close_refuses_and_reports);
    suite_add_tcase(suite, tests);
    tests = tcase_create("direct");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, begin_direct, end);
    tcase_add_test(tests, direct_descriptors_are_closed_alike);
    suite_add_tcase(suite, tests);
}

int
main(void)
{
    struct io_uring probe;
    const int error = io_uring_queue_init(ENTRIES, &probe, 0);
    if (error != 0) {
        printf("skipped: this system gives no io_uring (%s)\n", strerror(-error));
        return 77;
    }
    io_uring_queue_exit(&probe);
    Suite *suite = suite_create("io_uring adapter");
    add_tests(suite);
    return test_run(suite);
}
