/*
 * Waiting for room in a full socket, by a kernel in between (between.h) that answers the poll
 * requests in place of the real one. That no send waits in the kernel is in its books.
 *
 *   one request, not multishot, and room                     room_comes
 *   the peer has finished: a multishot one, told once        multishot_once_the_peer_has_finished
 *   ... whose cancel is lost                                 lost_cancels_are_repeated
 *   ... which ends by itself, with room or without           multishot_ends
 *   errors                                                   refused
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/between.h"
#include "loop/ends.h"

#ifdef BERTH_HAVE_LIBURING

#include <poll.h>

#define URING_OR_RETURN()                                                                          \
    if (!rig_has("uring"))                                                                         \
    return

static struct {
    int answers;       /**< poll requests and their cancels are for the test to answer */
    uint64_t posted;   /**< the one that is posted; 0: none is */
    int multishot;     /**< it is */
    unsigned requests; /**< of both kinds, in all */
    unsigned cancels;  /**< of those */
    unsigned sends;
} own;

static void
look_at_submission(struct io_uring_sqe *submission)
{
    const int is_send =
        submission->opcode == IORING_OP_SEND || submission->opcode == IORING_OP_SENDMSG;
    own.sends += is_send;
    if (!own.answers)
        return;
    if (submission->opcode == IORING_OP_POLL_ADD && submission->poll32_events == POLLOUT) {
        ck_assert_uint_eq(own.posted, 0);
        own.posted = submission->user_data;
        own.multishot = (submission->len & IORING_POLL_ADD_MULTI) != 0;
        own.requests++;
        between_swallow(submission);
    } else if (submission->opcode == IORING_OP_ASYNC_CANCEL && own.posted != 0 &&
               submission->addr == own.posted) {
        own.cancels++;
        between_swallow(submission);
    }
}

/** The request is told that. `more`: it goes on. */
static void
tell(const struct ends *ends, int32_t result, int more)
{
    const uint64_t posted = own.posted;
    ck_assert_uint_ne(posted, 0);
    if (!more)
        own.posted = 0;
    between_post(posted, result, more ? IORING_CQE_F_MORE : 0);
    for (unsigned i = 0; i < 3; i++)
        (void)rig_turn(&ends->rig, 0);
}

/** More is queued than there is room for. `finished`: by the peer. */
static void
begin_full(struct ends *ends, int finished)
{
    memset(&own, 0, sizeof(own));
    memset(&ways_wrapped, 0, sizeof(ways_wrapped));
    between_begin();
    between.on_submission = look_at_submission;
    between.lax = 1;
    prepare(ends, "uring");
    ends->options.zerocopy_bytes = BERTH_ZEROCOPY_NEVER;
    begin(ends);
    if (finished) {
        ck_assert_int_eq(shutdown(ends->client, SHUT_WR), 0);
        RIG_UNTIL(&ends->rig, ends->eofs == 1, TURNS);
    }
    own.answers = 1;
    queue_wrapped(ends, 5, 100 << 10);
    RIG_UNTIL(&ends->rig, own.posted != 0, TURNS);
    ck_assert_int_eq(own.multishot, finished);
    ck_assert_uint_eq(own.requests, 1);
    ck_assert_uint_gt(berth_conn_queued(the_conn(ends)), 0);
}

/** Reads what was queued; whatever is waited for comes at once. */
static void
end_full(struct ends *ends)
{
    for (unsigned idle = 0; ends->read < ends->queued && idle < TURNS; idle++) {
        const intptr_t got = client_reads(ends, WAYS_BYTES_MAX);
        ck_assert_msg(got > 0 || got == -EAGAIN, "read: %s", strerror((int)-got));
        idle = got > 0 ? 0 : idle;
        (void)rig_turn(&ends->rig, got > 0 ? 0 : 1);
        if (own.posted != 0)
            tell(ends, own.multishot ? -ECANCELED : POLLOUT, 0);
    }
    ck_assert_uint_eq(ends->read, ends->queued);
    own.answers = 0;
    ck_assert_uint_eq(own.posted, 0);
    end(ends);
    faults_reset();
}

static void
read_some(struct ends *ends)
{
    for (size_t before = ends->read; ends->read == before;)
        (void)client_reads(ends, WAYS_BYTES_MAX);
}

START_TEST(room_comes)
{
    URING_OR_RETURN();
    struct ends ends;
    begin_full(&ends, 0);
    const unsigned sends = own.sends;
    read_some(&ends);
    for (unsigned i = 0; i < 5; i++)
        (void)rig_turn(&ends.rig, 1);
    ck_assert_uint_eq(own.sends, sends); /* nothing is tried meanwhile */
    tell(&ends, POLLOUT, 0);
    ck_assert_uint_gt(own.sends, sends);
    ck_assert_uint_eq(own.cancels, 0);
    end_full(&ends);
}
END_TEST

/** The peer finishes while one is waited for. */
START_TEST(multishot_once_the_peer_has_finished)
{
    URING_OR_RETURN();
    static const int32_t masks[] = {POLLRDHUP, POLLERR, POLLRDHUP | POLLERR};
    for (unsigned i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
        struct ends ends;
        begin_full(&ends, 0);
        const unsigned sends = own.sends;
        tell(&ends, masks[i], 0);
        ck_assert_uint_ne(own.posted, 0);
        ck_assert_int_eq(own.multishot, 1);
        tell(&ends, masks[i], 1);
        ck_assert_uint_eq(own.requests, 2);
        ck_assert_uint_eq(own.sends + own.cancels, sends);
        read_some(&ends);
        tell(&ends, masks[i] | POLLOUT, 1);
        ck_assert_uint_eq(own.cancels, 1);
        ck_assert_uint_eq(own.sends, sends); /* not while it is posted */
        tell(&ends, -ECANCELED, 0);
        ck_assert_uint_gt(own.sends, sends);
        end_full(&ends);
    }
}
END_TEST

START_TEST(lost_cancels_are_repeated)
{
    URING_OR_RETURN();
    struct ends ends;
    begin_full(&ends, 1);
    for (unsigned i = 1; i < 4; i++) {
        tell(&ends, POLLRDHUP | POLLOUT, 1);
        ck_assert_uint_eq(own.cancels, i);
    }
    tell(&ends, -ECANCELED, 0);
    end_full(&ends);
}
END_TEST

START_TEST(multishot_ends)
{
    URING_OR_RETURN();
    struct ends ends;
    begin_full(&ends, 1);
    const unsigned sends = own.sends;
    tell(&ends, POLLRDHUP, 0); /* there was no room in the queue of completions */
    ck_assert_uint_ne(own.posted, 0);
    ck_assert_int_eq(own.multishot, 1);
    ck_assert_uint_eq(own.sends, sends);
    read_some(&ends);
    tell(&ends, POLLRDHUP | POLLOUT, 0);
    ck_assert_uint_gt(own.sends, sends);
    ck_assert_uint_eq(own.cancels, 0);
    end_full(&ends);
}
END_TEST

START_TEST(refused)
{
    URING_OR_RETURN();
    for (int finished = 0; finished < 2; finished++) {
        struct ends ends;
        begin_full(&ends, finished);
        tell(&ends, -EINVAL, 0);
        RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
        ck_assert_int_eq(ends.reason, -EINVAL);
        end(&ends);
        faults_reset();
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("kernel_room");
    RIG_ADD_COUNTED(suite, room_comes, 1);
    RIG_ADD_COUNTED(suite, multishot_once_the_peer_has_finished, 1);
    RIG_ADD_COUNTED(suite, lost_cancels_are_repeated, 1);
    RIG_ADD_COUNTED(suite, multishot_ends, 1);
    RIG_ADD_COUNTED(suite, refused, 1);
    return test_run(suite);
}

#else

int
main(void)
{
    return 77;
}

#endif
