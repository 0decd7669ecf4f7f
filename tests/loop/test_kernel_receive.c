/*
 * What io_uring's receives do that programs trip over, each forced, by the real kernel where it can
 * be made to do it and otherwise by one that stands in between (between.h, which also keeps the
 * books on buffers, posted receives and descriptors in every test here).
 *
 * The facts, and the tests that force them:
 *   without a buffer even the end of a stream is -ENOBUFS     end_meets_an_empty_ring,
 * test_starvation a multishot receive ends on an error refusals_are_asked_again
 *   ... on an ordinary completion without F_MORE              each_completion_may_be_the_last,
 * test_bulk
 *   ... when the completion queue overflows                   queue_of_completions_overflows
 *   a buffer belongs to F_BUFFER, whatever the result         buffers_come_back_with_errors
 *   posting on an empty ring fails at once                    test_kernel_starved
 *   a limit may be refused, or not be known                   limits_are_refused,
 * limits_are_ignored bundles may not be known                                  bulk_without_bundles
 * (test_bulk) entries of the ring of buffers do not last                every test (between.c
 * scribbles) buffers are never waited for whole                        every test (between.c looks)
 *   two receives on one descriptor see two ends               never_two_receives, every test
 *   data comes with the end behind it, or a reset             end_in_the_same_wait
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/between.h"
#include "loop/crowd.h"

#ifdef BERTH_HAVE_LIBURING

/** For the first line: there may be no io_uring here. */
#define URING_OR_RETURN()                                                                          \
    if (!rig_has("uring"))                                                                         \
    return

/** A loop with `count` connections, over the kernel in between. */
static void
begin_between(unsigned count, uint32_t receive_buffers)
{
    crowd_prepare("uring");
    crowd.options.receive_buffers = receive_buffers;
    crowd_begin(count);
}

/** All go; every buffer is where it was. */
static void
end_between(void)
{
    (void)rig_turn(&crowd.rig, 0);
    (void)rig_turn(&crowd.rig, 0);
    ck_assert_uint_eq(between_out(), 0);
    crowd_end();
    ck_assert_uint_le(between.flying_max, 2);
    faults_reset();
}

/* ---- the ring is empty ---------------------------------------------------------------------- */

static struct {
    unsigned enobufs;
    uint32_t victim; /**< index */
    unsigned victim_enobufs;
} empty;

static void
count_enobufs(const struct io_uring_cqe *completion)
{
    if (completion->res == -ENOBUFS) {
        empty.enobufs++;
        empty.victim_enobufs += berth_token_index(completion->user_data) == empty.victim;
    }
    between_post(completion->user_data, completion->res, completion->flags);
}

/** Two flooders take the whole ring; the others end, or are reset, in the same wait. */
START_TEST(end_meets_an_empty_ring)
{
    URING_OR_RETURN();
    memset(&empty, 0, sizeof(empty));
    between_begin();
    begin_between(3, 16);
    struct member *leaving = &crowd.members[2];
    empty.victim = berth_token_index(leaving->token);
    between.on_completion = count_enobufs;
    for (unsigned i = 0; i < 2; i++)
        while (crowd_write(&crowd.members[i], 65536) > 0)
            ;
    const uint64_t starved = rig_stats(&crowd.rig).enobufs;
    if (_i == 0) {
        crowd_leave(leaving);
    } else {
        rig_reset(leaving->client);
        leaving->client = -1;
    }
    RIG_UNTIL(&crowd.rig, leaving->closes == 1, 20);
    ck_assert_uint_gt(rig_stats(&crowd.rig).enobufs, starved);
    if (_i == 0) {
        ck_assert_uint_eq(empty.victim_enobufs, 1); /* or nothing was forced */
        ck_assert_uint_eq(leaving->eofs, 1);
        ck_assert_int_eq(leaving->reason, 0);
    } else {
        ck_assert_int_eq(leaving->reason, -ECONNRESET);
    }
    RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    end_between();
}
END_TEST

/* ---- how a receive ends --------------------------------------------------------------------- */

/** Whatever is posted to come again and again comes once. */
static void
make_single_shot(struct io_uring_sqe *submission)
{
    if (submission->opcode == IORING_OP_RECV) {
        submission->ioprio &= (uint16_t) ~(IORING_RECV_MULTISHOT | BETWEEN_RECVSEND_BUNDLE);
        submission->file_index = 0; /* a limit in all is for multishot only */
    } else if (submission->opcode == IORING_OP_ACCEPT) {
        submission->ioprio &= (uint16_t)~IORING_ACCEPT_MULTISHOT;
    } else if (submission->opcode == IORING_OP_POLL_ADD) {
        submission->len &= ~IORING_POLL_ADD_MULTI;
    }
}

START_TEST(each_completion_may_be_the_last)
{
    URING_OR_RETURN();
    between_begin();
    between.on_submission = make_single_shot;
    begin_between(4, 64);
    crowd_stream(500000);
    ck_assert_uint_ge(between.receives, 4 * 500000 / 65536);
    for (unsigned i = 0; i < 3; i++) { /* the wake-up descriptor is watched as before */
        ck_assert_int_eq(berth_loop_stop(crowd.rig.loop), 0);
        ck_assert_int_eq(berth_loop_run(crowd.rig.loop), 0);
        ck_assert_int_eq(rig_turn(&crowd.rig, RIG_TURN_MS) >= 0, 1);
    }
    end_between();
}
END_TEST

/** A queue of 16 completions, and 64 that have something to say. */
static void
make_tiny(unsigned *entries, struct io_uring_params *params)
{
    *entries = 8;
    params->cq_entries = 16;
}

START_TEST(queue_of_completions_overflows)
{
    URING_OR_RETURN();
    between_begin();
    between.on_init = make_tiny;
    begin_between(64, 256);
    const unsigned receives = between.receives;
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 64; i++)
            (void)crowd_write(&crowd.members[i], 1 + round * 100);
        (void)rig_turn(&crowd.rig, 0);
        for (unsigned i = 0; i < 64; i++)
            (void)crowd_write(&crowd.members[i], 5000);
        RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    }
    ck_assert_uint_gt(rig_stats(&crowd.rig).overflows, 0);
    ck_assert_uint_gt(between.receives, receives); /* it has ended some of them */
    for (unsigned i = 0; i < 64; i++)
        crowd_leave(&crowd.members[i]);
    RIG_UNTIL(&crowd.rig, crowd.closed == 64, CROWD_TURNS);
    end_between();
}
END_TEST

static const int32_t refusals[] = {-ENOBUFS, -ENOMEM, -ENOSPC, -EAGAIN, -EINTR, -ECANCELED};
#define REFUSALS (sizeof(refusals) / sizeof(refusals[0]))
static unsigned refuse_one_in;

static void
refuse_some(struct io_uring_sqe *submission)
{
    static unsigned number;
    if (submission->opcode != IORING_OP_RECV && submission->opcode != IORING_OP_ACCEPT)
        return;
    if (++number % refuse_one_in == 0)
        between_refuse(submission, refusals[number / refuse_one_in % REFUSALS]);
    else
        make_single_shot(submission);
}

/** Errors that pass: the connection does not notice, and nobody spins. */
START_TEST(refusals_are_asked_again)
{
    URING_OR_RETURN();
    between_begin();
    refuse_one_in = 3;
    between.on_submission = refuse_some;
    begin_between(8, 64);
    crowd_stream(200000);
    ck_assert_uint_gt(between.refused, 20);
    for (unsigned i = 0; i < 8; i++)
        ck_assert_uint_eq(crowd.members[i].closes, 0);
    between.on_submission = NULL;
    end_between();
}
END_TEST

/* ---- whose a buffer is ---------------------------------------------------------------------- */

static const int32_t odd_results[] = {-ECONNRESET, 0, -EFAULT, -ENOBUFS, -ECANCELED};
#define ODD_RESULTS (sizeof(odd_results) / sizeof(odd_results[0]))

static struct {
    int32_t result;
    unsigned made;
} odd;

/** The buffer comes with something else than data, and it is the last completion. */
static void
spoil_data(const struct io_uring_cqe *completion)
{
    const int data = (completion->flags & IORING_CQE_F_BUFFER) != 0;
    odd.made += (unsigned)data;
    between_post(completion->user_data, data ? odd.result : completion->res, completion->flags);
}

START_TEST(buffers_come_back_with_errors)
{
    URING_OR_RETURN();
    between_begin();
    between.on_submission = make_single_shot;
    odd.result = odd_results[_i];
    odd.made = 0;
    begin_between(1, 16);
    between.lax = 1;
    for (unsigned i = 0; i < 40; i++) { /* more than there are in the ring */
        struct member *member = crowd_join();
        rig_write(member->client, ways_bytes(member->key, 0, 1000), 1000);
        between.on_completion = spoil_data;
        const unsigned made = odd.made;
        RIG_UNTIL(&crowd.rig, odd.made > made, 20);
        between.on_completion = NULL;
        for (unsigned turn = 0; turn < 3; turn++)
            (void)rig_turn(&crowd.rig, 0);
        ck_assert_uint_eq(member->received, 0);
        rig_reset(member->client);
        member->client = -1;
        RIG_UNTIL(&crowd.rig, member->closes == 1, 20);
        ck_assert_uint_eq(between_out(), 0); /* neither lost, nor (between.c) given twice */
    }
    crowd_stream(100000);
    end_between();
}
END_TEST

/* ---- limits --------------------------------------------------------------------------------- */

/** A kernel before 6.17. */
static void
refuse_limits(struct io_uring_sqe *submission)
{
    if (submission->opcode == IORING_OP_RECV && submission->ioprio & IORING_RECV_MULTISHOT &&
        (submission->file_index != 0 || submission->len != 0))
        between_refuse(submission, -EINVAL);
}

static void
ignore_limits(struct io_uring_sqe *submission)
{
    if (submission->opcode != IORING_OP_RECV || !(submission->ioprio & IORING_RECV_MULTISHOT))
        return;
    ck_assert(!(submission->ioprio & BETWEEN_RECVSEND_BUNDLE) || submission->file_index != 0);
    submission->file_index = 0;
    submission->len = 0;
    submission->ioprio &= (uint16_t)~BETWEEN_RECVSEND_BUNDLE;
}

START_TEST(limits_are_refused)
{
    URING_OR_RETURN();
    between_begin();
    between.on_submission = refuse_limits;
    begin_between(8, 64);
    crowd_stream(300000);
    ck_assert_uint_ge(between.refused, 1);
    ck_assert_uint_le(between.refused, 8); /* those that were posted before the answer came */
    const unsigned refused = between.refused;
    (void)crowd_join();
    (void)crowd_write(&crowd.members[8], 100);
    RIG_UNTIL(&crowd.rig, crowd_settled(), 100);
    ck_assert_uint_eq(between.refused, refused); /* asked once */
    end_between();
}
END_TEST

START_TEST(limits_are_ignored)
{
    URING_OR_RETURN();
    between_begin();
    between.on_submission = ignore_limits;
    begin_between(8, 64);
    crowd_stream(300000);
    ck_assert_int_eq(berth_conn_credit(crowd_conn(&crowd.members[0]), 1000), 0);
    const uint64_t before = crowd.members[0].received;
    (void)crowd_write(&crowd.members[0], 50000);
    for (unsigned turn = 0; turn < 10; turn++)
        (void)rig_turn(&crowd.rig, 0);
    ck_assert_uint_le(crowd.members[0].received - before, 65536); /* what was posted before */
    ck_assert_int_eq(berth_conn_credit(crowd_conn(&crowd.members[0]), BERTH_CREDIT_UNLIMITED), 0);
    RIG_UNTIL(&crowd.rig, crowd_settled(), 100);
    end_between();
}
END_TEST

/* ---- one receive, one end ------------------------------------------------------------------- */

static void
credit_at_random(struct berth_conn *conn, struct member *member, const struct berth_span *spans,
                 unsigned n)
{
    static uint64_t random = 1;
    (void)member, (void)spans, (void)n;
    for (unsigned i = 0; i < 3; i++) {
        static const size_t credits[] = {0, 1, 5000, BERTH_CREDIT_UNLIMITED};
        ck_assert_int_eq(berth_conn_credit(conn, credits[test_random(&random) % 4]), 0);
    }
}

/** Stopped, limited and started again within a turn, at any moment (between.c counts). */
START_TEST(never_two_receives)
{
    URING_OR_RETURN();
    between_begin();
    begin_between(8, 64);
    crowd.on_data = credit_at_random;
    uint64_t random = test_seed("never_two_receives");
    for (unsigned step = 0; step < 600; step++) {
        struct member *member = &crowd.members[test_random(&random) % 8];
        (void)crowd_write(member, 1 + test_random(&random) % 20000);
        credit_at_random(crowd_conn(&crowd.members[test_random(&random) % 8]), NULL, NULL, 0);
        (void)rig_turn(&crowd.rig, 0);
    }
    crowd.on_data = NULL;
    for (unsigned i = 0; i < 8; i++)
        ck_assert_int_eq(berth_conn_credit(crowd_conn(&crowd.members[i]), BERTH_CREDIT_UNLIMITED),
                         0);
    RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    ck_assert_uint_gt(between.cancels, 20);
    for (unsigned i = 0; i < 8; i++)
        crowd_leave(&crowd.members[i]);
    RIG_UNTIL(&crowd.rig, crowd.closed == 8, CROWD_TURNS);
    for (unsigned i = 0; i < 8; i++)
        ck_assert_uint_eq(crowd.members[i].eofs, 1);
    end_between();
}
END_TEST

/** The end of a stream is told twice, as to who has two receives posted; or a reset behind it. */
static void
double_the_last(const struct io_uring_cqe *completion)
{
    between_post(completion->user_data, completion->res, completion->flags);
    if (completion->res == 0 && !(completion->flags & (IORING_CQE_F_MORE | IORING_CQE_F_BUFFER)))
        for (unsigned i = 0; i < 3; i++)
            between_post(completion->user_data, i == 1 ? -ECONNRESET : 0, 0);
}

START_TEST(an_end_told_twice_is_one)
{
    URING_OR_RETURN();
    between_begin();
    begin_between(8, 64);
    between.on_completion = double_the_last;
    between.lax = 1;
    for (unsigned i = 0; i < 8; i++) {
        (void)crowd_write(&crowd.members[i], 100);
        /* Half of them have a send in flight meanwhile, which must keep its slot. */
        if (i % 2 == 0)
            ck_assert_int_eq(berth_send(crowd_conn(&crowd.members[i]), "x", 1), 0);
        ck_assert_int_eq(shutdown(crowd.members[i].client, SHUT_WR), 0);
    }
    RIG_UNTIL(&crowd.rig, crowd.closed == 8, 200);
    for (unsigned i = 0; i < 8; i++) {
        ck_assert_uint_eq(crowd.members[i].eofs, 1);
        ck_assert_int_eq(crowd.members[i].reason, 0);
    }
    ck_assert_uint_gt(rig_stats(&crowd.rig).stale, 0);
    between.on_completion = NULL;
    end_between();
}
END_TEST

/** Data and its end, or a reset, before anybody looks; and the flags that they come with. */
static struct {
    unsigned ends, ends_with_buffer, resets, resets_with_buffer;
} last;

static void
note_last(const struct io_uring_cqe *completion)
{
    const unsigned buffer = (completion->flags & IORING_CQE_F_BUFFER) != 0;
    if (completion->res == 0) {
        last.ends++;
        last.ends_with_buffer += buffer;
    } else if (completion->res == -ECONNRESET) {
        last.resets++;
        last.resets_with_buffer += buffer;
    }
    between_post(completion->user_data, completion->res, completion->flags);
}

START_TEST(end_in_the_same_wait)
{
    URING_OR_RETURN();
    memset(&last, 0, sizeof(last));
    between_begin();
    begin_between(20, 64);
    (void)rig_turn(&crowd.rig, 0);
    between.on_completion = note_last;
    for (unsigned i = 0; i < 20; i++) {
        (void)crowd_write(&crowd.members[i], 3000);
        if (i % 2 == 0) {
            crowd_leave(&crowd.members[i]);
        } else {
            rig_reset(crowd.members[i].client);
            crowd.members[i].client = -1;
        }
    }
    RIG_UNTIL(&crowd.rig, crowd.closed == 20, 50);
    for (unsigned i = 0; i < 20; i++) {
        const struct member *member = &crowd.members[i];
        ck_assert_uint_eq(member->eofs, i % 2 == 0);
        ck_assert_int_eq(member->reason, i % 2 == 0 ? 0 : -ECONNRESET);
        ck_assert(i % 2 != 0 || member->received == 3000);
    }
    ck_assert_uint_ge(last.ends, 10);
    ck_assert_uint_eq(last.ends_with_buffer + last.resets_with_buffer, 0);
    between.on_completion = NULL;
    end_between();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("kernel: receive");
    RIG_ADD_COUNTED(suite, end_meets_an_empty_ring, 2);
    RIG_ADD_COUNTED(suite, each_completion_may_be_the_last, 1);
    RIG_ADD_COUNTED(suite, queue_of_completions_overflows, 1);
    RIG_ADD_COUNTED(suite, refusals_are_asked_again, 1);
    RIG_ADD_COUNTED(suite, buffers_come_back_with_errors, ODD_RESULTS);
    RIG_ADD_COUNTED(suite, limits_are_refused, 1);
    RIG_ADD_COUNTED(suite, limits_are_ignored, 1);
    RIG_ADD_COUNTED(suite, never_two_receives, 1);
    RIG_ADD_COUNTED(suite, an_end_told_twice_is_one, 1);
    RIG_ADD_COUNTED(suite, end_in_the_same_wait, 1);
    return test_run(suite);
}
#endif
