/*
 * Closing, and what the kernel does about it, each habit forced by the real kernel or by one in
 * between (between.h). In every test here a descriptor that is closed while the kernel still has an
 * operation on it fails the test.
 *
 * The facts, and the tests that force them:
 *   close(2) cancels nothing: shutdown, cancel, wait, close  closing_waits_for_the_last_completion
 *   no end is sent to the peer while an operation is posted  peer_sees_the_end
 *   a cancel's own answer means nothing                      answers_of_a_cancel_do_not_matter
 *   ... but that it has been asked                           an_answer_is_not_asked_for_twice
 *   ... it may come before or after what it cancelled        answers_come_in_any_order
 *   ... or never, or what it cancels does not end            lost_cancels_are_repeated
 *   ... or does not end at all                               never_let_go
 *   what is pending stays in the socket                      stopping_loses_nothing
 *   ... and when the loop is destroyed meanwhile             destroy_waits_once
 *   whatever ends last lets a connection leave               a_look_that_ends_last_lets_it_leave
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/between.h"
#include "loop/crowd.h"

#ifdef BERTH_HAVE_LIBURING

#include "berth/loop_cross.h"

#define URING_OR_RETURN()                                                                          \
    if (!rig_has("uring"))                                                                         \
    return

#define MEMBERS 8

/* ---- what stands in between ----------------------------------------------------------------- */

/** What has been held back, in its order. */
static struct io_uring_cqe held[256];
static unsigned held_count;

/** The operation bytes of cancels and receives, once they have been seen. */
static unsigned cancel_op, receive_op;

static void
note_operations(struct io_uring_sqe *submission)
{
    if (submission->opcode == IORING_OP_ASYNC_CANCEL)
        cancel_op = berth_token_op(submission->user_data);
    else if (submission->opcode == IORING_OP_RECV)
        receive_op = berth_token_op(submission->user_data);
}

static int
is_cancel(const struct io_uring_cqe *completion)
{
    return cancel_op != 0 && berth_token_op(completion->user_data) == cancel_op;
}

static void
hold(const struct io_uring_cqe *completion)
{
    ck_assert_uint_lt(held_count, 256);
    memcpy(&held[held_count++], completion, sizeof(*completion));
}

static void
let_go(void)
{
    for (unsigned i = 0; i < held_count; i++)
        between_post(held[i].user_data, held[i].res, held[i].flags);
    held_count = 0;
}

static void
pass(const struct io_uring_cqe *completion)
{
    between_post(completion->user_data, completion->res, completion->flags);
}

/** Receives do not end. */
static void
hold_ends(const struct io_uring_cqe *completion)
{
    if (berth_token_op(completion->user_data) != receive_op ||
        completion->flags & IORING_CQE_F_MORE)
        pass(completion);
    else
        hold(completion);
}

static void
begin_between(unsigned count)
{
    between_begin();
    between.on_submission = note_operations;
    held_count = cancel_op = receive_op = 0;
    crowd_prepare("uring");
    crowd.options.receive_buffers = 64;
    crowd_begin(count);
    (void)rig_turn(&crowd.rig, 0);
}

static void
end_between(void)
{
    between.on_completion = NULL;
    between.on_submission = NULL;
    (void)rig_turn(&crowd.rig, 0);
    ck_assert_uint_eq(between_out(), 0);
    crowd_end();
    faults_reset();
}

/** Closes this one, in the first of two ways or the second. */
static void
close_member(const struct member *member, unsigned way)
{
    struct berth_conn *conn = crowd_conn(member);
    ck_assert_int_eq(way == 0 ? berth_conn_close(conn) : berth_conn_abort(conn), 0);
}

/* ---- the order of things -------------------------------------------------------------------- */

/** The cancel has been answered; the receive has not ended yet: the descriptor stays. */
START_TEST(closing_waits_for_the_last_completion)
{
    URING_OR_RETURN();
    begin_between(MEMBERS);
    const unsigned descriptors = test_descriptors_open();
    between.on_completion = hold_ends;
    for (unsigned i = 0; i < MEMBERS; i++)
        close_member(&crowd.members[i], i % 2);
    for (unsigned turn = 0; turn < 10; turn++)
        (void)rig_turn(&crowd.rig, 1);
    ck_assert_uint_gt(between.cancels, 0);
    ck_assert_uint_ge(held_count, MEMBERS);
    ck_assert_uint_eq(crowd.closed, 0);
    ck_assert_uint_eq(test_descriptors_open(), descriptors);
    let_go();
    between.on_completion = NULL;
    RIG_UNTIL(&crowd.rig, crowd.closed == MEMBERS, 10);
    ck_assert_uint_eq(test_descriptors_open(), descriptors - MEMBERS);
    end_between();
}
END_TEST

/** The peer goes on writing meanwhile, and is told that it is over. */
START_TEST(peer_sees_the_end)
{
    URING_OR_RETURN();
    begin_between(MEMBERS);
    for (unsigned i = 0; i < MEMBERS; i++) {
        ck_assert_int_eq(berth_send(crowd_conn(&crowd.members[i]), "bye", 3), 0);
        close_member(&crowd.members[i], 0);
    }
    RIG_UNTIL(&crowd.rig, crowd.closed == MEMBERS, 10);
    ck_assert_uint_eq(berth_loop_conns(crowd.rig.loop), 0);
    for (unsigned i = 0; i < MEMBERS; i++) {
        char text[8];
        intptr_t got = rig_read(crowd.members[i].client, text, sizeof(text));
        ck_assert_int_eq(got, 3);
        RIG_UNTIL(&crowd.rig,
                  (got = rig_read(crowd.members[i].client, text, sizeof(text))) != -EAGAIN, 100);
        ck_assert_int_eq(got, 0);
    }
    end_between();
}
END_TEST

/* ---- answers -------------------------------------------------------------------------------- */

static const int32_t answers[] = {0, 1, 7, -ENOENT, -EALREADY, -EINVAL, -ECANCELED, -EBADF};
#define ANSWERS (sizeof(answers) / sizeof(answers[0]))
#define ENOUGH_ANSWERS 5 /**< the first: it has been, or will be, cancelled; or it has ended */
static int32_t answer;

static void
answer_so(const struct io_uring_cqe *completion)
{
    between_post(completion->user_data, is_cancel(completion) ? answer : completion->res,
                 completion->flags);
}

/** Whatever it says: only what it cancelled counts. For closing, and for credit taken back. */
START_TEST(answers_of_a_cancel_do_not_matter)
{
    URING_OR_RETURN();
    answer = answers[_i];
    begin_between(MEMBERS);
    between.on_completion = answer_so;
    for (unsigned i = 0; i < MEMBERS; i++) {
        ck_assert_int_eq(berth_conn_credit(crowd_conn(&crowd.members[i]), 0), 0);
        (void)crowd_write(&crowd.members[i], 10000);
    }
    for (unsigned turn = 0; turn < 10; turn++)
        (void)rig_turn(&crowd.rig, 0);
    const struct berth_loop_stats before = rig_stats(&crowd.rig);
    for (unsigned turn = 0; turn < 10; turn++) /* nor does it make anybody spin */
        (void)rig_turn(&crowd.rig, 1);
    ck_assert_uint_le(rig_stats(&crowd.rig).syscalls - before.syscalls, 20);
    for (unsigned i = 0; i < MEMBERS; i++)
        ck_assert_int_eq(berth_conn_credit(crowd_conn(&crowd.members[i]), BERTH_CREDIT_UNLIMITED),
                         0);
    RIG_UNTIL(&crowd.rig, crowd_settled(), 20);
    const unsigned descriptors = test_descriptors_open();
    for (unsigned i = 0; i < MEMBERS; i++)
        close_member(&crowd.members[i], i % 2);
    RIG_UNTIL(&crowd.rig, crowd.closed == MEMBERS, 10);
    ck_assert_uint_eq(test_descriptors_open(), descriptors - MEMBERS);
    end_between();
}
END_TEST

static void
hold_answers(const struct io_uring_cqe *completion)
{
    if (is_cancel(completion))
        hold(completion);
    else
        pass(completion);
}

/** Answers that come when the connection is gone, and its descriptor somebody else's. */
START_TEST(answers_come_in_any_order)
{
    URING_OR_RETURN();
    begin_between(MEMBERS);
    between.on_completion = hold_answers;
    for (unsigned i = 0; i < MEMBERS; i++)
        close_member(&crowd.members[i], i % 2);
    RIG_UNTIL(&crowd.rig, crowd.closed == MEMBERS, 10);
    ck_assert_uint_gt(held_count, 0);
    for (unsigned i = 0; i < MEMBERS; i++)
        crowd_leave(&crowd.members[i]);
    for (unsigned i = 0; i < MEMBERS; i++)
        (void)crowd_join();
    for (unsigned i = 0; i < held_count; i++)
        held[i].res = answers[i % ANSWERS];
    let_go();
    const uint64_t stale = rig_stats(&crowd.rig).stale;
    (void)rig_turn(&crowd.rig, 0);
    ck_assert_uint_eq(rig_stats(&crowd.rig).stale, stale); /* nothing to be alarmed by */
    crowd_stream(50000);
    end_between();
}
END_TEST

static void
hold_ends_and_answer(const struct io_uring_cqe *completion)
{
    if (is_cancel(completion))
        answer_so(completion);
    else
        hold_ends(completion);
}

/** Answered, but not ended yet: it is not asked again and again until then. */
START_TEST(an_answer_is_not_asked_for_twice)
{
    URING_OR_RETURN();
    answer = answers[_i];
    begin_between(MEMBERS);
    between.on_completion = hold_ends_and_answer;
    for (unsigned i = 0; i < MEMBERS; i++)
        ck_assert_int_eq(berth_conn_credit(crowd_conn(&crowd.members[i]), 0), 0);
    for (unsigned turn = 0; turn < 30; turn++)
        (void)rig_turn(&crowd.rig, 1);
    ck_assert_uint_eq(held_count, MEMBERS);
    ck_assert_uint_ge(between.cancels, MEMBERS);
    ck_assert_uint_le(between.cancels, 2 * MEMBERS);
    let_go();
    for (unsigned i = 0; i < MEMBERS; i++) {
        (void)crowd_write(&crowd.members[i], 1000);
        ck_assert_int_eq(berth_conn_credit(crowd_conn(&crowd.members[i]), BERTH_CREDIT_UNLIMITED),
                         0);
    }
    between.on_completion = NULL;
    RIG_UNTIL(&crowd.rig, crowd_settled(), 20);
    end_between();
}
END_TEST

/* ---- no answer ------------------------------------------------------------------------------ */

static unsigned cancels_lost, cancels_lost_max;

/** Neither cancels nor answers, so many times. */
static void
lose_cancels(struct io_uring_sqe *submission)
{
    if (submission->opcode != IORING_OP_ASYNC_CANCEL || cancels_lost == cancels_lost_max)
        return;
    cancels_lost++;
    between_swallow(submission);
}

/** Lost twice, it comes through the third time; shutdown(2) is not there to help a reset. */
START_TEST(lost_cancels_are_repeated)
{
    URING_OR_RETURN();
    cancels_lost = 0;
    cancels_lost_max = 1 + (unsigned)_i;
    begin_between(1);
    between.on_submission = lose_cancels;
    /* Nor does the shutdown that comes with a repeated cancel: the receive ends by cancel alone. */
    faults_fail("shutdown", 1, FAULTS_FOR_EVER, -ENOTCONN);
    close_member(&crowd.members[0], 1);
    for (unsigned turn = 0; turn < 5; turn++)
        (void)rig_turn(&crowd.rig, 1);
    ck_assert_uint_eq(crowd.closed, 0);
    ck_assert_uint_eq(between.cancels, 1);
    between_pass(60);
    RIG_UNTIL(&crowd.rig, between.cancels == 2, 20);
    if (_i == 1) {
        for (unsigned turn = 0; turn < 5; turn++)
            (void)rig_turn(&crowd.rig, 1);
        ck_assert_uint_eq(crowd.closed, 0);
        between_pass(500);
    }
    RIG_UNTIL(&crowd.rig, crowd.closed == 1, 20);
    ck_assert_int_eq(crowd.members[0].reason, -ECANCELED);
    ck_assert_uint_eq(rig_stats(&crowd.rig).zombies, 0);
    end_between();
}
END_TEST

/**
 * The kernel keeps the receive for more than five seconds, and ends it at last: the connection is
 * told long before, its place and its descriptor stay until then, and come free then.
 */
START_TEST(never_let_go)
{
    URING_OR_RETURN();
    begin_between(MEMBERS);
    const unsigned descriptors = test_descriptors_open();
    between.on_completion = hold_ends;
    for (unsigned i = 0; i < MEMBERS; i++)
        close_member(&crowd.members[i], i % 2);
    for (unsigned turn = 0; turn < 10; turn++)
        (void)rig_turn(&crowd.rig, 0);
    ck_assert_uint_eq(crowd.closed, 0);
    between_pass(4900);
    (void)rig_turn(&crowd.rig, 0);
    ck_assert_uint_eq(crowd.closed, 0);
    between_pass(200);
    RIG_UNTIL(&crowd.rig, crowd.closed == MEMBERS, 10);
    ck_assert_uint_eq(rig_stats(&crowd.rig).zombies, MEMBERS);
    ck_assert_uint_eq(test_descriptors_open(), descriptors);
    const unsigned cancels = between.cancels;
    const struct berth_loop_stats before = rig_stats(&crowd.rig);
    for (unsigned turn = 0; turn < 20; turn++)
        (void)rig_turn(&crowd.rig, 1);
    ck_assert_uint_eq(between.cancels, cancels); /* it has been asked often enough */
    ck_assert_uint_le(rig_stats(&crowd.rig).syscalls - before.syscalls, 20);
    rig_verify(&crowd.rig);

    between.on_completion = NULL;
    let_go();
    RIG_UNTIL(&crowd.rig, berth_loop_conns(crowd.rig.loop) == 0, 10);
    ck_assert_uint_eq(crowd.closed, MEMBERS); /* close is not called again */
    ck_assert_uint_eq(test_descriptors_open(), descriptors - MEMBERS);
    for (unsigned i = 0; i < MEMBERS; i++)
        crowd_leave(&crowd.members[i]);
    (void)crowd_write(crowd_join(), 10000); /* perhaps in one of their places */
    RIG_UNTIL(&crowd.rig, crowd_settled(), 20);
    end_between();
}
END_TEST

/**
 * Destroyed while the kernel keeps receives: of connections that were given up before, whose time
 * has passed, and (with `_i`) of others too, for which it waits, all of them together.
 */
START_TEST(destroy_waits_once)
{
    URING_OR_RETURN();
    begin_between(MEMBERS);
    between.lax = 1; /* with its ring the kernel's operations end */
    between.on_completion = hold_ends;
    const unsigned gone = _i == 0 ? MEMBERS : MEMBERS / 2;
    for (unsigned i = 0; i < gone; i++)
        close_member(&crowd.members[i], i % 2);
    for (unsigned turn = 0; turn < 5; turn++)
        (void)rig_turn(&crowd.rig, 0);
    between_pass(5100);
    RIG_UNTIL(&crowd.rig, crowd.closed == gone, 10);
    ck_assert_uint_eq(rig_stats(&crowd.rig).zombies, gone);
    rig_verify(&crowd.rig);
    for (unsigned i = 0; i < MEMBERS; i++) {
        ck_assert_int_eq(close(crowd.members[i].client), 0);
        crowd.members[i].client = -1;
    }
    between.ms_per_wait = 500;
    const uint64_t started_ms = between_clock();
    ck_assert_int_eq(berth_loop_destroy(crowd.rig.loop), 0);
    const uint64_t took_ms = between_clock() - started_ms;
    faults_reset();
    ck_assert_uint_le(took_ms, _i == 0 ? 2000 : 7500);
    ck_assert_uint_eq(crowd.closed, MEMBERS);
    ck_assert_uint_eq(test_descriptors_open(), crowd.rig.descriptors);
}
END_TEST

/* ---- what is pending ------------------------------------------------------------------------ */

/** Stopped in the middle of a flood, at every turn, and started again: nothing is lost. */
START_TEST(stopping_loses_nothing)
{
    URING_OR_RETURN();
    begin_between(2);
    struct member *member = &crowd.members[0];
    for (unsigned round = 0; round < 100; round++) {
        while (crowd_write(member, 1 + round * 501) > 0 && member->written % 3 != 0)
            ;
        if (round % 2 == 0)
            (void)rig_turn(&crowd.rig, 0);
        ck_assert_int_eq(berth_conn_credit(crowd_conn(member), 0), 0);
        for (unsigned turn = 0; turn < 3; turn++)
            (void)rig_turn(&crowd.rig, 0);
        const uint64_t before = member->received;
        (void)crowd_write(member, 5000);
        for (unsigned turn = 0; turn < 3; turn++)
            (void)rig_turn(&crowd.rig, 0);
        ck_assert_uint_eq(member->received, before);
        ck_assert_int_eq(berth_conn_credit(crowd_conn(member), BERTH_CREDIT_UNLIMITED), 0);
        RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    }
    ck_assert_uint_ge(between.cancels, 90);
    end_between();
}
END_TEST

/* ---- leaving -------------------------------------------------------------------------------- */

/** The operation byte of looks for errors, once one has been seen. */
static unsigned look_op;

static void
note_looks(struct io_uring_sqe *submission)
{
    if (submission->opcode == IORING_OP_RECV && submission->msg_flags & MSG_PEEK)
        look_op = berth_token_op(submission->user_data);
}

static void
hold_looks(const struct io_uring_cqe *completion)
{
    if (look_op != 0 && berth_token_op(completion->user_data) == look_op)
        hold(completion);
    else
        pass(completion);
}

static int detached_fd;

static void
on_detached(struct berth_conn *conn, int fd, void *arg)
{
    struct member *member = arg;
    (void)conn;
    ck_assert_uint_eq(member->closes++, 0); /* this comes in place of it */
    crowd.closed++;
    detached_fd = fd;
}

/** With direct descriptors a look for errors is an operation, and nothing waits for it but this. */
START_TEST(a_look_that_ends_last_lets_it_leave)
{
    if (!rig_has("uring-direct"))
        return;
    between_begin();
    between.on_submission = note_looks;
    between.on_completion = hold_looks;
    held_count = look_op = 0;
    detached_fd = -1;
    crowd_prepare("uring-direct");
    crowd_begin(1);
    struct member *member = &crowd.members[0];
    (void)crowd_write(member, 100);
    RIG_UNTIL(&crowd.rig, held_count == 1, 20);
    ck_assert_int_eq(berth_conn_detach(crowd_conn(member), on_detached, member), 0);
    for (unsigned i = 0; i < 5; i++)
        (void)rig_turn(&crowd.rig, 0);
    ck_assert_int_eq(detached_fd, -1); /* the kernel has something of it still */
    let_go();
    between.on_completion = NULL;
    RIG_UNTIL(&crowd.rig, detached_fd >= 0, 20);
    ck_assert_uint_eq(member->received, 100);
    ck_assert_int_eq(close(detached_fd), 0);
    end_between();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("kernel: cancel");
    RIG_ADD_COUNTED(suite, a_look_that_ends_last_lets_it_leave, 1);
    RIG_ADD_COUNTED(suite, closing_waits_for_the_last_completion, 1);
    RIG_ADD_COUNTED(suite, peer_sees_the_end, 1);
    RIG_ADD_COUNTED(suite, answers_of_a_cancel_do_not_matter, ANSWERS);
    RIG_ADD_COUNTED(suite, an_answer_is_not_asked_for_twice, ENOUGH_ANSWERS);
    RIG_ADD_COUNTED(suite, answers_come_in_any_order, 1);
    RIG_ADD_COUNTED(suite, lost_cancels_are_repeated, 2);
    RIG_ADD_COUNTED(suite, never_let_go, 1);
    RIG_ADD_COUNTED(suite, destroy_waits_once, 2);
    RIG_ADD_COUNTED(suite, stopping_loses_nothing, 1);
    return test_run(suite);
}
#endif
