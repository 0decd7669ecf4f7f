/*
 * See faulty_kernel.h. A ring that has buffers of the group TRIAL_GROUP is a trial's, any other a
 * loop's, where all groups but the first are incremental.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/faulty_kernel.h"

#include <check.h>
#include <string.h>

#include "loop/engine_uring_selftest.h"
#include "support/faults.h"
#include "support/sys_groups.h"

/** Submissions that are remembered: more than are under way at a time. */
#define CONCERNED_MAX 1024

const char *const faulty_way_names[FAULTY_WAYS] = {"a wrong byte", "a wrong id", "a wrong end",
                                                   "silence",      "ignored",    "refused"};

static struct {
    uint32_t feature;
    enum faulty_way way;
    int only_tcp;
    unsigned trials, uses;
    uint64_t concerned[CONCERNED_MAX];
    unsigned concerned_count;
    const struct io_uring *trial; /**< the ring of the trial that runs, if any */
    const struct io_uring_buf *buffers;
    unsigned buffer_count;
    int incremental;
    unsigned seen; /**< completions of the trial's ring that have been looked at */
} faulty;

/** Whether a submission uses the feature that has the fault. */
static int
uses_feature(const struct io_uring *ring, const struct io_uring_sqe *submission)
{
    const int multishot = (submission->ioprio & IORING_RECV_MULTISHOT) != 0;
    const int bundle = (submission->ioprio & BERTH_URING_RECVSEND_BUNDLE) != 0;
    const int incremental =
        ring == faulty.trial ? faulty.incremental : submission->buf_group != BUFFER_GROUP;
    if (submission->opcode != IORING_OP_RECV)
        return 0;
    switch (faulty.feature) {
    case FEATURE_MULTISHOT:
        return multishot;
    case FEATURE_POLL_FIRST:
        return (submission->ioprio & IORING_RECVSEND_POLL_FIRST) != 0;
    case FEATURE_LIMITS:
        return multishot && (submission->len != 0 || submission->file_index != 0);
    case FEATURE_BUNDLES:
        return bundle;
    case FEATURE_INCREMENTAL:
        return incremental;
    case FEATURE_INCREMENTAL_BUNDLES:
        return incremental && bundle;
    default:
        return 1; /* whatever receives */
    }
}

/** The kernel takes the submission as if it had never heard of the feature. */
static void
strip_feature(struct io_uring_sqe *submission)
{
    switch (faulty.feature) {
    case FEATURE_MULTISHOT:
        submission->ioprio &= (uint16_t)~IORING_RECV_MULTISHOT;
        break;
    case FEATURE_POLL_FIRST:
        submission->ioprio &= (uint16_t)~IORING_RECVSEND_POLL_FIRST;
        break;
    case FEATURE_LIMITS:
        submission->len = submission->file_index = 0;
        break;
    case FEATURE_BUNDLES:
    case FEATURE_INCREMENTAL_BUNDLES:
        submission->ioprio &= (uint16_t)~BERTH_URING_RECVSEND_BUNDLE;
        break;
    default:
        break;
    }
}

static int
is_tcp(int fd)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    return address.ss_family != AF_UNIX;
}

static void
tamper_with_submission(struct io_uring *ring, struct io_uring_sqe *submission)
{
    if (!uses_feature(ring, submission) || (faulty.only_tcp && !is_tcp(submission->fd)))
        return;
    if (ring == faulty.trial)
        faulty.trials++;
    else
        faulty.uses++;
    ck_assert_uint_lt(faulty.concerned_count, CONCERNED_MAX);
    faulty.concerned[faulty.concerned_count++] = submission->user_data;
    if (faulty.way == FAULTY_IGNORED)
        strip_feature(submission);
    if (faulty.way == FAULTY_REFUSED)
        submission->ioprio = 0xffff;
    if (faulty.way == FAULTY_SILENT) {
        submission->opcode = IORING_OP_NOP;
        submission->ioprio = 0;
        submission->flags = IOSQE_CQE_SKIP_SUCCESS;
        submission->len = submission->file_index = 0;
    }
}

static void
tamper_with_submissions(struct io_uring *ring)
{
    const unsigned mask = *ring->sq.kring_mask;
    for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; i++)
        tamper_with_submission(ring, &ring->sq.sqes[i & mask]);
}

static int
concerns(uint64_t user_data)
{
    for (unsigned i = 0; i < faulty.concerned_count; i++)
        if (faulty.concerned[i] == user_data)
            return 1;
    return 0;
}

/** Changes one byte of what has just been put into a buffer. */
static void
spoil_byte(uint16_t id)
{
    for (unsigned i = 0; i < faulty.buffer_count; i++) {
        if (faulty.buffers[i].bid != id)
            continue;
        unsigned char *data = (unsigned char *)(uintptr_t)faulty.buffers[i].addr;
        /* Of a buffer that is being filled the kernel writes down where it goes on. */
        data -= faulty.incremental && faulty.buffers[i].len != 0;
        *data ^= 0x10;
        return;
    }
    ck_abort_msg("no such buffer");
}

static void
tamper_with_completion(struct io_uring_cqe *completion)
{
    if (!concerns(completion->user_data) || completion->res <= 0)
        return;
    const uint16_t id = (uint16_t)(completion->flags >> IORING_CQE_BUFFER_SHIFT);
    if (faulty.way == FAULTY_BYTE)
        spoil_byte(id);
    if (faulty.way == FAULTY_ID)
        completion->flags ^= 1u << IORING_CQE_BUFFER_SHIFT;
    if (faulty.way == FAULTY_END)
        completion->flags &= ~(uint32_t)IORING_CQE_F_MORE;
}

/** The loop's own ring is left alone: that it is used with the feature is fault enough. */
static intptr_t
faulty_wait(struct io_uring *ring, struct io_uring_cqe **completion, unsigned count,
            struct __kernel_timespec *timeout)
{
    struct __kernel_timespec soon = {.tv_nsec = 1000000};
    tamper_with_submissions(ring);
    if (ring != faulty.trial)
        return sys_direct_uring_wait(ring, completion, count, timeout);
    if (faulty.way == FAULTY_SILENT)
        timeout = &soon;
    const intptr_t result = sys_direct_uring_wait(ring, completion, count, timeout);
    for (; faulty.seen != *ring->cq.ktail; faulty.seen++)
        tamper_with_completion(&ring->cq.cqes[(size_t)(faulty.seen & *ring->cq.kring_mask)
                                              << io_uring_cqe_shift(ring)]);
    return result;
}

static intptr_t
faulty_submit(struct io_uring *ring)
{
    tamper_with_submissions(ring);
    return sys_direct_uring_submit(ring);
}

static intptr_t
faulty_register_buffers(struct io_uring *ring, struct io_uring_buf_reg *registration)
{
    struct berth_uring_buf_reg *buffers = (struct berth_uring_buf_reg *)(void *)registration;
    const uint16_t flags = buffers->flags;
    if (registration->bgid != TRIAL_GROUP)
        return sys_direct_uring_register_buffers(ring, registration);
    faulty.trial = ring;
    faulty.seen = 0;
    faulty.concerned_count = 0;
    faulty.incremental = flags == BERTH_URING_BUF_RING_INCREMENTAL;
    faulty.buffers = (const struct io_uring_buf *)(uintptr_t)registration->ring_addr;
    faulty.buffer_count = registration->ring_entries;
    if (flags != 0 && faulty.feature == FEATURE_INCREMENTAL && faulty.way == FAULTY_REFUSED) {
        faulty.trials++;
        return -EINVAL;
    }
    if (faulty.feature == FEATURE_INCREMENTAL && faulty.way == FAULTY_IGNORED)
        buffers->flags = 0;
    return sys_direct_uring_register_buffers(ring, registration);
}

static intptr_t
faulty_exit(struct io_uring *ring)
{
    if (ring == faulty.trial)
        faulty.trial = NULL;
    return sys_direct_uring_exit(ring);
}

void
faulty_kernel_install(uint32_t feature, enum faulty_way way)
{
    uring_selftest_forget();
    memset(&faulty, 0, sizeof faulty);
    faulty.feature = feature;
    faulty.way = way;
    berth_sys_uring_wait = faulty_wait;
    berth_sys_uring_submit = faulty_submit;
    berth_sys_uring_register_buffers = faulty_register_buffers;
    berth_sys_uring_exit = faulty_exit;
}

void
faulty_kernel_only_tcp(void)
{
    faulty.only_tcp = 1;
}

void
faulty_kernel_remove(void)
{
    uring_selftest_forget();
    faults_reset();
}

unsigned
faulty_kernel_trials(void)
{
    return faulty.trials;
}

unsigned
faulty_kernel_uses(void)
{
    return faulty.uses;
}
