/*
 * Datagrams over a kernel in between (between.h) that tells things twice: what was told once ends
 * one operation, and no other.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/between.h"
#include "loop/udp_rig.h"

#include <poll.h>

#ifdef BERTH_HAVE_LIBURING

#define SENDS 10u
#define URING_OR_RETURN()                                                                          \
    if (!rig_has("uring"))                                                                         \
    return

/** The operation bytes of sends, of receives and of polls for room, once they have been seen. */
static unsigned send_op, receive_op, poll_op;
static unsigned doubled;

static void
note_operations(struct io_uring_sqe *submission)
{
    const unsigned op = berth_token_op(submission->user_data);
    if (submission->opcode == IORING_OP_SENDMSG)
        send_op = op;
    else if (submission->opcode == IORING_OP_RECVMSG)
        receive_op = op;
    else if (submission->opcode == IORING_OP_POLL_ADD && submission->poll32_events == POLLOUT)
        poll_op = op;
}

/** Sends and polls are told twice, and receives end twice. */
static void
tell_twice(const struct io_uring_cqe *completion)
{
    const unsigned op = berth_token_op(completion->user_data);
    between_post(completion->user_data, completion->res, completion->flags);
    if (op == send_op || op == poll_op ||
        (op == receive_op && !(completion->flags & (IORING_CQE_F_MORE | IORING_CQE_F_BUFFER)))) {
        between_post(completion->user_data, completion->res, completion->flags);
        doubled++;
    }
}

static void
begin(struct rig *rig)
{
    send_op = receive_op = poll_op = UINT32_MAX;
    doubled = 0;
    between_begin();
    between.on_submission = note_operations;
    udp_rig_begin(rig, "uring", 0);
}

static void
end(struct rig *rig)
{
    between.on_completion = NULL;
    between.on_submission = NULL;
    (void)rig_turn(rig, 0);
    rig_end(rig);
    faults_reset();
}

START_TEST(sends_told_twice_are_one)
{
    URING_OR_RETURN();
    struct rig rig;
    struct seen seen = {.echo = 1};
    begin(&rig);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    const int client = udp_client(udp);
    const struct sockaddr_in to = udp_client_where(client);
    (void)rig_turn(&rig, 0);
    between.on_completion = tell_twice;
    for (unsigned i = 0; i < SENDS; i++)
        ck_assert_int_eq(udp_send_to(udp, &to, &i, sizeof(i)), 0);
    RIG_UNTIL(&rig, berth_udp_queued(udp) == 0, 100);
    (void)rig_turn(&rig, 0);
    ck_assert_uint_eq(doubled, SENDS);
    ck_assert_uint_eq(rig_stats(&rig).stale, SENDS);
    ck_assert_uint_eq(rig_stats(&rig).datagrams_sent, SENDS);
    ck_assert_uint_eq(udp_count(client), SENDS);
    /* It receives as before, and answers. */
    rig_write(client, "still", 5);
    RIG_UNTIL(&rig, seen.datagrams == 1, 100);
    RIG_UNTIL(&rig, berth_udp_queued(udp) == 0, 100);
    ck_assert_uint_eq(udp_count(client), 1);
    ck_assert_uint_eq(between.flying[berth_token_index(berth_udp_token(udp))], 1);
    udp_close(&rig, udp, &seen); /* what was posted once is waited for once */
    ck_assert_uint_eq(seen.errors, 0);
    ck_assert_int_eq(close(client), 0);
    end(&rig);
}
END_TEST

static unsigned sends_full;

/** The kernel has no room for some. */
static void
refuse_some(struct io_uring_sqe *submission)
{
    note_operations(submission);
    if (submission->opcode == IORING_OP_SENDMSG && sends_full > 0) {
        sends_full--;
        between_refuse(submission, -EAGAIN);
    }
}

START_TEST(room_told_twice_is_room_once)
{
    URING_OR_RETURN();
    struct rig rig;
    struct seen seen = {.echo = 1};
    begin(&rig);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    const int client = udp_client(udp);
    const struct sockaddr_in to = udp_client_where(client);
    (void)rig_turn(&rig, 0);
    sends_full = 2;
    between.on_submission = refuse_some;
    between.on_completion = tell_twice;
    /* One at a time: of several, nobody can say which a completion is about. */
    for (unsigned i = 0; i < SENDS; i++) {
        ck_assert_int_eq(udp_send_to(udp, &to, &i, sizeof(i)), 0);
        RIG_UNTIL(&rig, berth_udp_queued(udp) == 0, 100);
    }
    ck_assert_uint_eq(sends_full, 0);
    ck_assert_uint_ne(poll_op, UINT32_MAX);
    ck_assert_uint_eq(rig_stats(&rig).datagrams_sent, SENDS);
    ck_assert_uint_eq(rig_stats(&rig).stale, doubled);
    ck_assert_uint_eq(udp_count(client), SENDS);
    rig_write(client, "still", 5);
    RIG_UNTIL(&rig, udp_count(client) == 1, 100);
    udp_close(&rig, udp, &seen);
    ck_assert_int_eq(close(client), 0);
    end(&rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("kernel: datagrams");
    RIG_ADD_COUNTED(suite, sends_told_twice_are_one, 1);
    RIG_ADD_COUNTED(suite, room_told_twice_is_room_once, 1);
    return test_run(suite);
}
#endif
