/*
 * What io_uring says of sends that it reads in place, in every order and with every error, by a
 * kernel in between (between.h). Each piece of memory says when it was given back.
 *
 *   late, and in any order                              notifications_in_any_order
 *   before the bytes were taken                         notification_before_the_bytes
 *   of another operation                                another_operation_than_was_asked_for
 *   none, as there was no F_MORE                        bytes_without_more
 *   none, though there was                              never_a_notification
 *   twice, or for nobody                                notifications_for_nobody
 *   errors, with F_MORE and without                     refusals_are_copied
 *   no such flag (before Linux 6.2)                     kernels_without_reports
 *   "in place", which loopback never says               in_place_goes_on
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/between.h"
#include "loop/in_place.h"

#ifdef BERTH_HAVE_LIBURING

#define REPORT_USAGE (1u << 3)
#define COPIED ((int32_t)(1u << 31))

/** What is done with a completion of such a send: of its bytes, and of its notification. */
enum treatment { PASS, HOLD, WITHOUT_MORE, IN_PLACE };
static struct {
    enum treatment bytes, notifications;
    struct io_uring_cqe held[PIECES_MAX];
    unsigned held_count;
    int32_t error;     /**< the next submission is answered with that */
    uint32_t flags;    /**< and these */
    int again;         /**< and those after it likewise */
    uint64_t answered; /**< the last one that was */
    unsigned submissions, with_reports;
} own;

static int
is_in_place(const struct io_uring_sqe *submission)
{
    return submission->opcode == IORING_OP_SEND_ZC || submission->opcode == IORING_OP_SENDMSG_ZC;
}

static void
look_at_submission(struct io_uring_sqe *submission)
{
    if (!is_in_place(submission))
        return;
    own.submissions++;
    own.with_reports += (submission->ioprio & REPORT_USAGE) != 0;
    if (own.error == 0)
        return;
    own.answered = submission->user_data;
    between_swallow(submission);
    between_post(own.answered, own.error, own.flags);
    if (!own.again)
        own.error = 0;
}

static void
look_at_completion(const struct io_uring_cqe *completion)
{
    const unsigned op = berth_token_op(completion->user_data);
    const int notification = (completion->flags & IORING_CQE_F_NOTIF) != 0;
    const enum treatment treatment = notification ? own.notifications : own.bytes;
    if (op < 0x40 || treatment == PASS) {
        between_post(completion->user_data, completion->res, completion->flags);
    } else if (treatment == HOLD) {
        ck_assert_uint_lt(own.held_count, PIECES_MAX);
        memcpy(&own.held[own.held_count++], completion, sizeof(*completion));
    } else if (treatment == WITHOUT_MORE) {
        between_post(completion->user_data, completion->res,
                     completion->flags & ~(uint32_t)IORING_CQE_F_MORE);
    } else {
        between_post(completion->user_data, 0, completion->flags);
    }
}

static void
let_go(struct ends *ends, unsigned i)
{
    between_post(own.held[i].user_data, own.held[i].res, own.held[i].flags);
    (void)rig_turn(&ends->rig, 0);
}

static void
begin_own(struct ends *ends, int insists)
{
    memset(&own, 0, sizeof(own));
    pieces_begin();
    between_begin();
    between.on_submission = look_at_submission;
    between.on_completion = look_at_completion;
    prepare(ends, "uring");
    ends->options.features = insists ? "+zerocopy" : NULL;
    begin(ends);
    widen(ends);
}

static void
end_own(struct ends *ends)
{
    const struct rig *rig = &ends->rig;
    own.bytes = own.notifications = PASS;
    RIG_UNTIL(rig, pieces.freed_count == pieces.count, TURNS);
    end(ends);
    faults_reset();
}

#define URING_OR_RETURN()                                                                          \
    if (!rig_has("uring"))                                                                         \
    return

/* ---- order ---------------------------------------------------------------------------------- */

START_TEST(notifications_in_any_order)
{
    static const unsigned order[] = {2, 0, 4, 3, 1};
    URING_OR_RETURN();
    struct ends ends;
    begin_own(&ends, 1);
    own.notifications = HOLD;
    for (unsigned i = 0; i < 5; i++)
        (void)piece_through(&ends);
    RIG_UNTIL(&ends.rig, own.held_count == 5, TURNS);
    ck_assert_uint_eq(pieces.freed_count, 0);
    for (unsigned i = 0; i < 5; i++) {
        ck_assert_int_eq(pieces.freed[order[i]], 0);
        let_go(&ends, order[i]);
        ck_assert_int_eq(pieces.freed[order[i]], 1);
        ck_assert_uint_eq(pieces.freed_count, i + 1);
    }
    ck_assert_uint_eq(copies_of(&ends).sent_copied_anyway, ends.queued);
    end_own(&ends);
}
END_TEST

START_TEST(notification_before_the_bytes)
{
    URING_OR_RETURN();
    struct ends ends;
    begin_own(&ends, 1);
    own.bytes = HOLD;
    const unsigned i = piece_through(&ends);
    RIG_UNTIL(&ends.rig, own.held_count == 1, TURNS);
    for (unsigned more = 0; more < 5; more++)
        (void)rig_turn(&ends.rig, 1);
    ck_assert_int_eq(pieces.freed[i], 0);
    ck_assert_uint_eq(berth_conn_queued(the_conn(&ends)), PIECE_BYTES);
    let_go(&ends, 0);
    ck_assert_int_eq(pieces.freed[i], 1);
    ck_assert_uint_eq(berth_conn_queued(the_conn(&ends)), 0);
    end_own(&ends);
}
END_TEST

START_TEST(bytes_without_more)
{
    URING_OR_RETURN();
    struct ends ends;
    begin_own(&ends, 1);
    own.bytes = WITHOUT_MORE;
    own.notifications = HOLD;
    between.lax = 1; /* the books take the kernel by its word as well */
    const unsigned i = piece_send(&ends);
    RIG_UNTIL(&ends.rig, berth_conn_queued(the_conn(&ends)) == 0, TURNS);
    ck_assert_int_eq(pieces.freed[i], 1);
    ck_assert_uint_eq(copies_of(&ends).sent_zerocopy, PIECE_BYTES);
    pieces_read(&ends);
    RIG_UNTIL(&ends.rig, own.held_count == 1, TURNS);
    own.bytes = own.notifications = PASS;
    (void)piece_through(&ends);
    end_own(&ends);
}
END_TEST

START_TEST(notifications_for_nobody)
{
    URING_OR_RETURN();
    struct ends ends;
    begin_own(&ends, 1);
    between.lax = 1;
    own.notifications = HOLD;
    const unsigned i = piece_through(&ends);
    RIG_UNTIL(&ends.rig, own.held_count == 1, TURNS);
    const uint64_t stale = rig_stats(&ends.rig).stale;
    /* Of a send that was never made; and the bytes once more. */
    const uint64_t token = own.held[0].user_data;
    between_post(token ^ (UINT64_C(1) << 56), COPIED, IORING_CQE_F_NOTIF);
    between_post(token, 4096, IORING_CQE_F_MORE);
    (void)rig_turn(&ends.rig, 0);
    ck_assert_uint_eq(rig_stats(&ends.rig).stale, stale + 2);
    ck_assert_int_eq(pieces.freed[i], 0);
    let_go(&ends, 0);
    ck_assert_int_eq(pieces.freed[i], 1);
    let_go(&ends, 0); /* again */
    ck_assert_uint_eq(rig_stats(&ends.rig).stale, stale + 3);
    own.notifications = PASS;
    (void)piece_through(&ends);
    end_own(&ends);
}
END_TEST

START_TEST(another_operation_than_was_asked_for)
{
    URING_OR_RETURN();
    struct ends ends;
    begin_own(&ends, 1);
    between.lax = 1;
    own.bytes = HOLD;
    const unsigned i = piece_through(&ends);
    RIG_UNTIL(&ends.rig, own.held_count == 1, TURNS);
    const uint64_t stale = rig_stats(&ends.rig).stale;
    /* An ordinary send's, though none was made. */
    const struct berth_slot *slot = (const struct berth_slot *)(const void *)the_conn(&ends);
    between_post(berth_slot_token(slot, 4), PIECE_BYTES, 0);
    (void)rig_turn(&ends.rig, 0);
    ck_assert_uint_eq(rig_stats(&ends.rig).stale, stale + 1);
    ck_assert_uint_eq(berth_conn_queued(the_conn(&ends)), PIECE_BYTES);
    ck_assert_int_eq(pieces.freed[i], 0);
    let_go(&ends, 0);
    own.bytes = PASS;
    (void)piece_through(&ends);
    end_own(&ends);
}
END_TEST

START_TEST(never_a_notification)
{
    URING_OR_RETURN();
    for (unsigned way = 0; way < 2; way++) {
        struct ends ends;
        begin_own(&ends, 1);
        own.notifications = HOLD;
        const unsigned i = piece_through(&ends);
        RIG_UNTIL(&ends.rig, own.held_count == 1, TURNS);
        if (way == 0)
            ck_assert_int_eq(berth_conn_abort(the_conn(&ends)), 0);
        else
            ck_assert_int_eq(berth_conn_close(the_conn(&ends)), 0);
        between.ms_per_wait = 100;
        RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
        ck_assert_uint_eq(rig_stats(&ends.rig).zombies, 1);
        ck_assert_int_eq(pieces.freed[i], 0); /* nor ever, as far as anybody knows */
        let_go(&ends, 0);
        ck_assert_int_eq(pieces.freed[i], 1);
        RIG_UNTIL(&ends.rig, berth_loop_conns(ends.rig.loop) == 0, TURNS);
        ck_assert_uint_eq(ends.closes, 1);
        end_own(&ends);
    }
}
END_TEST

/* ---- errors --------------------------------------------------------------------------------- */

START_TEST(refusals_are_copied)
{
    static const struct {
        int32_t error;
        uint32_t flags;
        int for_good;
    } rows[] = {
        {-ENOMEM, 0, 0},
        {-ENOBUFS, 0, 0},
        {-EOPNOTSUPP, 0, 1},
        {-ENOMEM, IORING_CQE_F_MORE, 0},
        {-EOPNOTSUPP, IORING_CQE_F_MORE, 1},
    };
    URING_OR_RETURN();
    struct ends ends;
    begin_own(&ends, 1);
    between.lax = 1;
    own.error = rows[_i].error;
    own.flags = rows[_i].flags;
    const unsigned i = piece_through(&ends);
    RIG_UNTIL(&ends.rig, pieces.freed[i], TURNS);
    ck_assert_uint_eq(own.submissions, 1);
    ck_assert_uint_eq(copies_of(&ends).sent_kernel, PIECE_BYTES);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, 0);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_refused, 1);
    (void)piece_through(&ends);
    ck_assert_uint_eq(own.submissions, rows[_i].for_good ? 1 : 2);
    if (rows[_i].flags != 0) /* which says "copied", of nothing */
        between_post(own.answered, COPIED, IORING_CQE_F_NOTIF);
    (void)rig_turn(&ends.rig, 0);
    const struct berth_copies copies = copies_of(&ends);
    ck_assert_uint_le(copies.sent_copied_anyway, copies.sent_zerocopy);
    end_own(&ends);
}
END_TEST

START_TEST(other_errors_end_the_connection)
{
    URING_OR_RETURN();
    struct ends ends;
    begin_own(&ends, 1);
    between.lax = 1;
    own.error = -ECONNRESET;
    const unsigned i = piece_send(&ends);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_int_eq(ends.reason, -ECONNRESET);
    ck_assert_int_eq(pieces.freed[i], 1);
    end_own(&ends);
}
END_TEST

START_TEST(kernels_without_reports)
{
    URING_OR_RETURN();
    for (unsigned way = 0; way < 2; way++) {
        struct ends ends;
        begin_own(&ends, 0);
        between.lax = 1;
        own.error = -EINVAL;
        own.again = way == 1; /* it is not the flag that it does not like */
        (void)piece_through(&ends);
        (void)piece_through(&ends);
        ck_assert_uint_eq(own.with_reports, 1);
        ck_assert_uint_eq(own.submissions, way == 0 ? 3 : 2);
        ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, way == 0 ? 2 : 0);
        RIG_UNTIL(&ends.rig, pieces.freed_count == pieces.count, TURNS);
        const struct berth_copies copies = copies_of(&ends);
        ck_assert_uint_eq(copies.sent_zerocopy, way == 0 ? ends.queued : 0);
        ck_assert_uint_eq(copies.sent_in_place + copies.sent_copied_anyway, 0);
        own.error = 0;
        end_own(&ends);
    }
}
END_TEST

/* ---- what is learned ------------------------------------------------------------------------ */

START_TEST(in_place_goes_on)
{
    URING_OR_RETURN();
    struct ends ends;
    begin_own(&ends, 0);
    own.notifications = IN_PLACE;
    for (unsigned i = 0; i < 12; i++) {
        (void)piece_through(&ends);
        RIG_UNTIL(&ends.rig, pieces.freed_count == pieces.count, TURNS);
    }
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, 12);
    ck_assert_uint_eq(copies_of(&ends).sent_in_place, 12 * PIECE_BYTES);
    /* Only eight in a row make it rest. */
    for (unsigned i = 0; i < 16; i++) {
        own.notifications = i == 7 ? IN_PLACE : PASS;
        (void)piece_through(&ends);
        RIG_UNTIL(&ends.rig, pieces.freed_count == pieces.count, TURNS);
    }
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, 28);
    (void)piece_through(&ends);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, 28);
    end_own(&ends);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("kernel_zerocopy");
    RIG_ADD_COUNTED(suite, notifications_in_any_order, 1);
    RIG_ADD_COUNTED(suite, notification_before_the_bytes, 1);
    RIG_ADD_COUNTED(suite, bytes_without_more, 1);
    RIG_ADD_COUNTED(suite, notifications_for_nobody, 1);
    RIG_ADD_COUNTED(suite, another_operation_than_was_asked_for, 1);
    RIG_ADD_COUNTED(suite, never_a_notification, 1);
    RIG_ADD_COUNTED(suite, refusals_are_copied, 5);
    RIG_ADD_COUNTED(suite, other_errors_end_the_connection, 1);
    RIG_ADD_COUNTED(suite, kernels_without_reports, 1);
    RIG_ADD_COUNTED(suite, in_place_goes_on, 1);
    return test_run(suite);
}
#endif
