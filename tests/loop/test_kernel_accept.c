/*
 * Accepts that the kernel refuses, with each error that accept(2) knows, for a while or for good.
 * (Descriptors that really run out, and other engines, are in test_limits and test_faults.) Whoever
 * waits outside is served later, or learns at once that there is no room; those inside do not
 * notice; nothing spins; nothing is lost.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/between.h"
#include "loop/crowd.h"

#ifdef BERTH_HAVE_LIBURING

static const struct {
    int error;
    int tells; /**< whoever waits is turned away at once */
    int rests; /**< the listener rests meanwhile */
} refusals[] = {
    {-EMFILE, 1, 1},       {-ENFILE, 1, 1}, {-ENOBUFS, 0, 1}, {-ENOMEM, 0, 1},
    {-EPERM, 0, 1},        {-ENOSPC, 0, 1}, {-EPROTO, 0, 0},  {-ECONNABORTED, 0, 0},
    {-EHOSTUNREACH, 0, 1}, {-EAGAIN, 0, 0}, {-EINTR, 0, 0},
};
#define REFUSALS (sizeof(refusals) / sizeof(refusals[0]))

static unsigned refuse_times;
static int refuse_with;

/** Each accept brings one connection, so that the next one can be refused. */
static void
refuse_accepts(struct io_uring_sqe *submission)
{
    if (submission->opcode != IORING_OP_ACCEPT)
        return;
    submission->ioprio &= (uint16_t)~IORING_ACCEPT_MULTISHOT;
    if (refuse_times > 0) {
        refuse_times--;
        between_refuse(submission, refuse_with);
    }
}

/** Newcomers find the accept of before, and then, for some time, none. */
START_TEST(refused_for_a_while)
{
    if (!rig_has("uring"))
        return;
    between_begin();
    between.on_submission = refuse_accepts;
    refuse_times = 0;
    crowd_prepare("uring");
    crowd.options.receive_buffers = 64;
    crowd_begin(4);
    (void)rig_turn(&crowd.rig, 0); /* the next accept is posted */
    refuse_times = 5;
    refuse_with = refusals[_i].error;
    const int first = rig_client(&crowd.rig), second = rig_client(&crowd.rig);
    crowd.members[4].key = crowd.members[5].key = 1;
    crowd.members[4].client = crowd.members[5].client = -1;
    crowd.count = 6;
    RIG_UNTIL(&crowd.rig, crowd.opened == 5, 100);
    crowd_stream(50000); /* those inside */
    intptr_t got = -EAGAIN;
    char byte;
    if (refusals[_i].tells)
        RIG_UNTIL(&crowd.rig, (got = rig_read(second, &byte, 1)) != -EAGAIN, 100);
    else
        RIG_UNTIL(&crowd.rig, crowd.opened == 6, 100);
    ck_assert(!refusals[_i].tells || got == 0 || got == -ECONNRESET);
    RIG_UNTIL(&crowd.rig, refuse_times == 0, 100);
    ck_assert_int_eq(close(first), 0);
    ck_assert_int_eq(close(second), 0);
    crowd.count = crowd.opened;
    (void)crowd_join();
    crowd_stream(1000);
    crowd_end();
    faults_reset();
}
END_TEST

/** It never gets better: the others go on, and waiting costs little. */
START_TEST(refused_for_good)
{
    if (!rig_has("uring") || !refusals[_i].rests)
        return;
    between_begin();
    between.on_submission = refuse_accepts;
    refuse_times = 0;
    crowd_prepare("uring");
    crowd_begin(4);
    (void)rig_turn(&crowd.rig, 0); /* the next accept is posted */
    refuse_times = UINT32_MAX;
    refuse_with = refusals[_i].error;
    const int last = rig_client(&crowd.rig);
    crowd.members[4].key = 1;
    crowd.members[4].client = -1;
    crowd.count = 5;
    RIG_UNTIL(&crowd.rig, crowd.opened == 5, 100);
    crowd_stream(100000);
    between.frozen = 1; /* it rests for as long as the clock stands */
    between.patience_ms = 1;
    (void)rig_turn(&crowd.rig, 0);
    unsigned refused = between.refused;
    for (unsigned round = 0; round < 5; round++) {
        const unsigned waits = between.waits;
        for (unsigned turn = 0; turn < 10; turn++)
            (void)rig_turn(&crowd.rig, RIG_TURN_MS);
        ck_assert_uint_le(between.waits - waits, 12);
        ck_assert_uint_le(between.refused - refused, 1);
        between_pass(30);
        for (unsigned turn = 0; turn < 3; turn++)
            (void)rig_turn(&crowd.rig, 1);
        ck_assert_uint_gt(between.refused, refused); /* it has asked again */
        refused = between.refused;
    }
    between.frozen = 0;
    ck_assert_int_eq(close(last), 0);
    crowd_end();
    faults_reset();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("kernel: accept");
    RIG_ADD_COUNTED(suite, refused_for_a_while, REFUSALS);
    RIG_ADD_COUNTED(suite, refused_for_good, REFUSALS);
    return test_run(suite);
}
#endif
