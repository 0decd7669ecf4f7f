/*
 * What is tried of each feature of the io_uring receive lane. A step says what the engine relies
 * on, and no more: what a kernel may do in several ways is accepted in all of them.
 *
 * The network may cut what is sent into pieces and be late. Where a step counts completions, the
 * bytes are therefore in the socket before the receive is posted.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/engine_uring_selftest.h"

#include <liburing.h>

#define MULTISHOT IORING_RECV_MULTISHOT
#define BUNDLE (IORING_RECV_MULTISHOT | BERTH_URING_RECVSEND_BUNDLE)

/** Pieces of all sizes, and how many. */
#define PIECE_MAX 9000u
#define PIECES 24

/** What the receive posted last has brought. */
static uint32_t
brought(const struct trial *trial)
{
    return (uint32_t)(trial->received - trial->began);
}

/** Everything has arrived, nothing is posted, and all buffers are the kernel's. */
static int
settle(struct trial *trial, uint32_t ioprio)
{
    TRIAL_DO(trial_drain(trial, ioprio));
    if (trial->armed != 0)
        TRIAL_DO(trial_cancel(trial));
    trial_post_all(trial);
    return trial_check_posted(trial);
}

static int
end_stream(struct trial *trial, uint32_t ioprio)
{
    TRIAL_DO(trial_drain(trial, ioprio));
    if (trial->armed == 0)
        TRIAL_DO(trial_arm(trial, ioprio, 0, 0));
    return trial_finish(trial);
}

/** A long stream in pieces that fit nothing, through a ring that is refilled all the time. */
static int
receive_pieces(struct trial *trial, uint32_t ioprio)
{
    uint32_t random = 1;
    for (unsigned i = 0; i < PIECES; i++) {
        random = random * 1664525u + 1013904223u;
        TRIAL_DO(trial_send(trial, 1 + (random >> 8) % PIECE_MAX));
        TRIAL_DO(trial_drain(trial, ioprio));
    }
    return settle(trial, ioprio);
}

/** Sends small pieces while the receive is posted: each must come, and the receive go on. */
static int
receive_as_it_comes(struct trial *trial, const uint32_t *pieces, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        TRIAL_DO(trial_send(trial, pieces[i]));
        TRIAL_DO(trial_receive(trial));
        TRIAL_EXPECT(trial, trial->armed != 0, "a receive ends for no reason");
    }
    return TRIAL_WORKS;
}

/** With fewer buffers than bytes: the receive says so when they are used up, and can go on. */
static int
run_dry(struct trial *trial, uint32_t ioprio)
{
    TRIAL_DO(trial_arm(trial, ioprio, 0, 0));
    TRIAL_DO(trial_receive(trial));
    TRIAL_EXPECT(trial, trial->received < trial->sent, "bytes came without a buffer");
    TRIAL_EXPECT(trial, trial->taken == trial->posted, "a receive ends, but there are buffers");
    TRIAL_EXPECT(trial, trial->result == -ENOBUFS || trial->bundle,
                 "the want of buffers was not told");
    return settle(trial, ioprio);
}

/* ---- one-shot receives ---------------------------------------------------------------------- */

static int
try_receive(struct trial *trial)
{
    trial_post(trial, 4);
    TRIAL_DO(trial_send(trial, 150));
    TRIAL_DO(trial_arm(trial, 0, TRIAL_BUFFER_BYTES, 0));
    TRIAL_DO(trial_receive(trial));
    TRIAL_EXPECT(trial, brought(trial) == 150, "not all that was there came");
    TRIAL_EXPECT(trial, trial->armed == 0, "a receive that was asked for once goes on");
    TRIAL_DO(trial_send(trial, 5000));
    TRIAL_DO(trial_arm(trial, 0, 40, 0));
    TRIAL_DO(trial_receive(trial));
    TRIAL_EXPECT(trial, brought(trial) == 40, "not as much came as was asked for");
    TRIAL_DO(trial_arm(trial, 0, TRIAL_BUFFER_BYTES, 0));
    TRIAL_DO(trial_receive(trial));
    TRIAL_EXPECT(trial, brought(trial) == TRIAL_BUFFER_BYTES, "a buffer was not filled");
    TRIAL_DO(settle(trial, 0));
    TRIAL_DO(trial_arm(trial, 0, TRIAL_BUFFER_BYTES, 0));
    TRIAL_DO(trial_cancel(trial));
    return end_stream(trial, 0);
}

/* ---- multishot ------------------------------------------------------------------------------ */

static int
try_multishot(struct trial *trial)
{
    static const uint32_t pieces[] = {1, 5000, 77};
    trial_post_all(trial);
    TRIAL_DO(trial_arm(trial, MULTISHOT, 0, 0));
    TRIAL_DO(trial_send(trial, 100));
    TRIAL_DO(trial_receive(trial));
    TRIAL_DO(receive_as_it_comes(trial, pieces, 3));
    TRIAL_DO(trial_cancel(trial));
    TRIAL_DO(trial_send(trial, TRIAL_UNDER_WAY_MAX));
    TRIAL_DO(run_dry(trial, MULTISHOT));
    return end_stream(trial, MULTISHOT);
}

static int
try_poll_first(struct trial *trial)
{
    static const uint32_t pieces[] = {100};
    const uint32_t ioprio = MULTISHOT | IORING_RECVSEND_POLL_FIRST;
    TRIAL_DO(trial_arm(trial, ioprio, 0, 0));
    TRIAL_DO(trial_expect_silence(trial, "a buffer is asked for before there are bytes"));
    trial_post_all(trial);
    TRIAL_DO(receive_as_it_comes(trial, pieces, 1));
    TRIAL_DO(trial_cancel(trial));
    TRIAL_DO(trial_send(trial, 300));
    TRIAL_DO(trial_arm(trial, ioprio, 0, 0));
    TRIAL_DO(trial_receive(trial));
    TRIAL_EXPECT(trial, brought(trial) == 300, "what was there already did not come");
    return end_stream(trial, ioprio);
}

/* ---- limits --------------------------------------------------------------------------------- */

/** Posts it upon more bytes than it may bring: it ends in time, at most `over` bytes too late. */
static int
end_at_total(struct trial *trial, uint32_t ioprio, uint32_t length, uint32_t total, uint32_t over)
{
    TRIAL_DO(trial_send(trial, total + 2 * TRIAL_BUFFER_BYTES));
    TRIAL_DO(trial_arm(trial, ioprio, length, total));
    TRIAL_DO(trial_receive(trial));
    TRIAL_EXPECT(trial, trial->armed == 0, "a receive goes on past its limit");
    TRIAL_EXPECT(trial, brought(trial) >= total, "a receive ends before its limit");
    TRIAL_EXPECT(trial, brought(trial) <= total + over, "more bytes than the limit");
    return settle(trial, ioprio);
}

static int
try_limits(struct trial *trial)
{
    static const uint32_t pieces[] = {100, 200};
    trial_post_all(trial);
    TRIAL_DO(end_at_total(trial, MULTISHOT, 0, 10000, TRIAL_BUFFER_BYTES));
    TRIAL_DO(end_at_total(trial, MULTISHOT, 8192, 8192, TRIAL_BUFFER_BYTES));
    TRIAL_DO(trial_send(trial, 9000));
    TRIAL_DO(trial_arm(trial, MULTISHOT, 3000, 0));
    TRIAL_DO(trial_receive(trial));
    TRIAL_EXPECT(trial, trial->armed != 0 && brought(trial) == 9000,
                 "a limit for one completion ends the receive");
    TRIAL_DO(settle(trial, MULTISHOT));
    TRIAL_DO(trial_arm(trial, MULTISHOT, 5000, 5000));
    TRIAL_DO(receive_as_it_comes(trial, pieces, 2));
    return end_stream(trial, MULTISHOT);
}

/* ---- bundles -------------------------------------------------------------------------------- */

/** Bundles whose size is limited, as the engine posts them. */
static int
try_limited_bundles(struct trial *trial)
{
    static const uint32_t pieces[] = {100};
    TRIAL_DO(end_at_total(trial, BUNDLE, 10000, 10000, 0));
    TRIAL_DO(end_at_total(trial, BUNDLE, 5000, 12000, 0));
    /* Two buffers looked up, the second only in part, and one used. */
    TRIAL_DO(trial_arm(trial, BUNDLE, 6000, 6000));
    TRIAL_DO(receive_as_it_comes(trial, pieces, 1));
    TRIAL_DO(trial_cancel(trial));
    TRIAL_DO(trial_check_posted(trial));
    /* One looked up in part, and none used. */
    TRIAL_DO(trial_arm(trial, BUNDLE, 32, 32));
    TRIAL_DO(trial_expect_silence(trial, "something came out of nothing"));
    TRIAL_DO(trial_cancel(trial));
    return trial_check_posted(trial);
}

/** Everything at once, into more than one buffer. */
static int
receive_at_once(struct trial *trial)
{
    TRIAL_DO(trial_send(trial, 3 * TRIAL_BUFFER_BYTES + TRIAL_BUFFER_BYTES / 2));
    TRIAL_DO(trial_arm(trial, BUNDLE, 0, 0));
    TRIAL_DO(trial_receive(trial));
    TRIAL_EXPECT(trial, trial->biggest > TRIAL_BUFFER_BYTES, "never more than one buffer comes");
    return settle(trial, BUNDLE);
}

static int
try_bundles(struct trial *trial)
{
    if (!(trial->kernel_features & BERTH_URING_FEAT_RECVSEND_BUNDLE))
        return TRIAL_MISSING;
    trial_post(trial, 2);
    TRIAL_DO(trial_send(trial, 2 * TRIAL_BUFFER_BYTES + 100));
    TRIAL_DO(run_dry(trial, BUNDLE));
    TRIAL_DO(receive_at_once(trial));
    TRIAL_DO(receive_pieces(trial, BUNDLE));
    if (trial->features & FEATURE_LIMITS)
        TRIAL_DO(try_limited_bundles(trial));
    return end_stream(trial, BUNDLE);
}

/* ---- incremental buffers -------------------------------------------------------------------- */

static int
try_incremental(struct trial *trial)
{
    static const uint32_t pieces[] = {512, 333, 777, TRIAL_BUFFER_BYTES - 512 - 333 - 777, 100};
    trial_post(trial, 2);
    TRIAL_DO(trial_arm(trial, MULTISHOT, 0, 0));
    TRIAL_DO(receive_as_it_comes(trial, pieces, 5));
    TRIAL_EXPECT(trial, trial->taken == 1 && trial->used == 100, "buffers are not filled up");
    TRIAL_DO(trial_cancel(trial));
    TRIAL_DO(trial_check_posted(trial));
    TRIAL_DO(trial_send(trial, 2 * TRIAL_BUFFER_BYTES));
    TRIAL_DO(run_dry(trial, MULTISHOT));
    TRIAL_DO(receive_pieces(trial, MULTISHOT));
    if (trial->features & FEATURE_LIMITS)
        TRIAL_DO(end_at_total(trial, MULTISHOT, 8192, 10000, TRIAL_BUFFER_BYTES));
    TRIAL_DO(trial_send(trial, 900));
    TRIAL_DO(trial_arm(trial, 0, 70, 0));
    TRIAL_DO(trial_receive(trial));
    TRIAL_EXPECT(trial, brought(trial) == 70, "not as much came as was asked for");
    return end_stream(trial, MULTISHOT);
}

static int
try_incremental_bundles(struct trial *trial)
{
    static const uint32_t pieces[] = {512, 333, 777, 426};
    trial_post_all(trial);
    TRIAL_DO(trial_arm(trial, BUNDLE, 0, 0));
    TRIAL_DO(receive_as_it_comes(trial, pieces, 4));
    TRIAL_DO(trial_cancel(trial));
    TRIAL_DO(trial_check_posted(trial));
    TRIAL_DO(receive_at_once(trial));
    TRIAL_DO(receive_pieces(trial, BUNDLE));
    if (trial->features & FEATURE_LIMITS)
        TRIAL_DO(end_at_total(trial, BUNDLE, 10000, 10000, 0));
    return end_stream(trial, BUNDLE);
}

const struct trial_kind uring_trials[] = {
    {0, 0, 0, try_receive},
    {FEATURE_MULTISHOT, 0, 0, try_multishot},
    {FEATURE_POLL_FIRST, FEATURE_MULTISHOT, 0, try_poll_first},
    {FEATURE_LIMITS, FEATURE_MULTISHOT, 0, try_limits},
    {FEATURE_BUNDLES, FEATURE_MULTISHOT, 0, try_bundles},
    {FEATURE_INCREMENTAL, FEATURE_MULTISHOT, 1, try_incremental},
    {FEATURE_INCREMENTAL_BUNDLES, FEATURE_BUNDLES | FEATURE_INCREMENTAL, 1,
     try_incremental_bundles},
};
const unsigned uring_trial_count = sizeof(uring_trials) / sizeof(uring_trials[0]);
