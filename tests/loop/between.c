/*
 * See between.h. The engine is given a completion queue of ours in place of the kernel's: each wait
 * takes the kernel's completions, shows them to the test, and puts what the test lets through into
 * ours.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/between.h"

#ifdef BERTH_HAVE_LIBURING

#include "support/sys_groups.h"

#define QUEUE 65536u
#define IDS 65536u
#define ANSWERS 64u

/** The ring of buffers that all share; others belong to one connection, and are not watched. */
#define SHARED 0

/** No wait of the loop's may be longer. */
#define WAIT_S_MAX 1

struct between between;

/** What the kernel is to have answered to submissions that it was not given. */
struct answer {
    uint64_t user_data;
    int32_t result;
    int silent;
};

static struct {
    struct io_uring_cq kernels;           /**< while the engine has ours */
    struct io_uring_cqe queue[2 * QUEUE]; /* they have one place each, or two */
    unsigned head, tail, mask, entries, flags, overflow;
    unsigned seen; /**< submissions looked at */
    struct answer answers[ANSWERS];
    unsigned answer_count;
    uint8_t opcodes[256]; /**< what each operation byte of a token stands for */
    uint8_t groups[256];  /**< and, of a receive, which ring of buffers it takes from */
    /* the ring of buffers: how far the engine has given and the kernel taken, and what is in it */
    struct io_uring_buf *buffers;
    unsigned buffer_count;
    uint16_t buffer_head, buffer_tail;
    unsigned char in_ring[IDS], known[IDS];
    unsigned out;
    uint64_t clock_ahead_ms, frozen_at_ms;
} own;

static struct io_uring_cqe *
completion_at(struct io_uring_cqe *queue, unsigned place)
{
    return &queue[between.init_flags & IORING_SETUP_CQE32 ? 2 * (size_t)place : place];
}

static void
swap_in_ours(struct io_uring *ring)
{
    own.kernels = ring->cq;
    own.mask = QUEUE - 1;
    own.entries = QUEUE;
    ring->cq.khead = &own.head;
    ring->cq.ktail = &own.tail;
    ring->cq.kring_mask = &own.mask;
    ring->cq.kring_entries = &own.entries;
    ring->cq.kflags = &own.flags;
    ring->cq.koverflow = &own.overflow;
    ring->cq.cqes = own.queue;
    ring->cq.ring_mask = own.mask;
    ring->cq.ring_entries = own.entries;
}

/* ---- the books on buffers ------------------------------------------------------------------- */

/** The engine has put buffers into the ring: none that is in it, and each of them whole. */
static void
look_at_given(void)
{
    if (own.buffers == NULL)
        return;
    const uint16_t tail = ((struct io_uring_buf_ring *)(void *)own.buffers)->tail;
    for (; own.buffer_tail != tail; own.buffer_tail++) {
        const struct io_uring_buf *entry = &own.buffers[own.buffer_tail & (own.buffer_count - 1)];
        ck_assert_msg(!own.in_ring[entry->bid], "buffer %u given twice", entry->bid);
        ck_assert_msg(entry->addr != 0 && entry->addr % 4096 == 0 && entry->len == 4096,
                      "buffer %u given as %#llx, %u bytes", entry->bid,
                      (unsigned long long)entry->addr, entry->len);
        own.out -= own.known[entry->bid];
        own.in_ring[entry->bid] = own.known[entry->bid] = 1;
        between.given++;
    }
    ck_assert_uint_le((uint16_t)(own.buffer_tail - own.buffer_head), own.buffer_count);
}

/** The kernel has taken buffers out, in their order, for a completion of so many bytes. */
static void
look_at_taken(uint16_t id, int32_t result)
{
    const unsigned count = result > 4096 ? ((unsigned)result + 4095) / 4096 : 1;
    for (unsigned i = 0; i < count; i++, own.buffer_head++) {
        ck_assert(own.buffer_head != own.buffer_tail);
        struct io_uring_buf *entry = &own.buffers[own.buffer_head & (own.buffer_count - 1)];
        if (i == 0)
            ck_assert_uint_eq(entry->bid, id);
        ck_assert(own.in_ring[entry->bid]);
        own.in_ring[entry->bid] = 0;
        between.taken++;
        if (++own.out > between.out_max)
            between.out_max = own.out;
        entry->addr = 0xeeeeeeeeeeeeeeeeu; /* the tail lies in another field */
        entry->len = 0xeeeeeeeeu;
        entry->bid = 0xeeee;
    }
}

unsigned
between_out(void)
{
    look_at_given();
    return own.out;
}

/* ---- submissions ---------------------------------------------------------------------------- */

static void
answer_instead(struct io_uring_sqe *submission, int32_t result, int silent)
{
    ck_assert_uint_lt(own.answer_count, ANSWERS);
    struct answer *answer = &own.answers[own.answer_count++];
    answer->user_data = submission->user_data;
    answer->result = result;
    answer->silent = silent;
    memset(submission, 0, sizeof(*submission));
    submission->opcode = IORING_OP_NOP;
    submission->user_data = answer->user_data;
    between.refused++;
}

void
between_refuse(struct io_uring_sqe *submission, int32_t result)
{
    answer_instead(submission, result, 0);
}

void
between_swallow(struct io_uring_sqe *submission)
{
    answer_instead(submission, 0, 1);
}

static void
look_at_submission(const struct io_uring_sqe *submission)
{
    const uint32_t fd = berth_token_index(submission->user_data);
    ck_assert_uint_lt(fd, BETWEEN_FDS);
    ck_assert_uint_ne(berth_token_generation(submission->user_data), 0);
    /* A look takes nothing: it is no receive. */
    const int look = submission->opcode == IORING_OP_RECV && submission->msg_flags & MSG_PEEK;
    own.opcodes[berth_token_op(submission->user_data)] = look ? IORING_OP_NOP : submission->opcode;
    own.groups[berth_token_op(submission->user_data)] =
        submission->buf_group == SHARED ? SHARED : 1;
    if (submission->opcode == IORING_OP_ASYNC_CANCEL) {
        between.cancels++;
        return;
    }
    between.flying[fd]++;
    if (between.flying[fd] > between.flying_max)
        between.flying_max = between.flying[fd];
    if (look)
        ck_assert(!(submission->flags & IOSQE_BUFFER_SELECT));
    const int sends =
        submission->opcode == IORING_OP_SEND || submission->opcode == IORING_OP_SENDMSG ||
        submission->opcode == IORING_OP_SEND_ZC || submission->opcode == IORING_OP_SENDMSG_ZC;
    if (sends) /* nothing waits in the kernel for room */
        ck_assert_uint_eq(submission->msg_flags & (MSG_DONTWAIT | MSG_WAITALL), MSG_DONTWAIT);
    if (look || submission->opcode != IORING_OP_RECV)
        return;
    between.receives++;
    between.receives_unpolled += (submission->ioprio & IORING_RECVSEND_POLL_FIRST) == 0;
    ck_assert_msg(!between.receiving[fd], "two receives on descriptor %u", fd);
    between.receiving[fd] = 1;
    ck_assert(submission->flags & IOSQE_BUFFER_SELECT);
    ck_assert_uint_eq(submission->addr, 0);
    ck_assert_uint_eq(submission->msg_flags & (MSG_WAITALL | MSG_TRUNC), 0);
}

static void
look_at_submissions(struct io_uring *ring)
{
    for (; own.seen != ring->sq.sqe_tail; own.seen++) {
        struct io_uring_sqe *submission = &ring->sq.sqes[own.seen & *ring->sq.kring_mask];
        look_at_submission(submission);
        if (between.on_submission != NULL)
            between.on_submission(submission);
    }
}

/** Fills the submissions that the kernel has taken with what must not stay. */
static void
scribble(struct io_uring *ring)
{
    const unsigned taken = __atomic_load_n(ring->sq.khead, __ATOMIC_ACQUIRE);
    const unsigned count = *ring->sq.kring_entries;
    const unsigned waiting = ring->sq.sqe_tail - taken;
    for (unsigned i = waiting; i < count; i++)
        memset(&ring->sq.sqes[(taken + i) & *ring->sq.kring_mask], 0xee,
               sizeof(struct io_uring_sqe));
}

/* ---- completions ---------------------------------------------------------------------------- */

void
between_post(uint64_t user_data, int32_t result, uint32_t flags)
{
    between_post_large(user_data, result, flags, 0xeeeeeeeeeeeeeeeeu);
}

void
between_post_large(uint64_t user_data, int32_t result, uint32_t flags, uint64_t more)
{
    ck_assert_uint_lt(own.tail - own.head, QUEUE);
    struct io_uring_cqe *completion = completion_at(own.queue, own.tail & own.mask);
    completion->user_data = user_data;
    completion->res = result;
    completion->flags = flags;
    if (between.init_flags & IORING_SETUP_CQE32)
        memcpy(completion + 1, &more, sizeof(more));
    __atomic_store_n(&own.tail, own.tail + 1, __ATOMIC_RELEASE);
}

/** Whether the kernel only says that it did nothing: then it says what it was told to. */
static int
answered(struct io_uring_cqe *completion)
{
    for (unsigned i = 0; i < own.answer_count; i++) {
        if (own.answers[i].user_data != completion->user_data)
            continue;
        const struct answer answer = own.answers[i];
        memmove(&own.answers[i], &own.answers[i + 1],
                (--own.answer_count - i) * sizeof(struct answer));
        completion->res = answer.result;
        completion->flags = 0;
        return answer.silent ? -1 : 1;
    }
    return 0;
}

static void
look_at_completion(const struct io_uring_cqe *completion)
{
    const unsigned opcode = own.opcodes[berth_token_op(completion->user_data)];
    const uint32_t fd = berth_token_index(completion->user_data);
    between.completions++;
    ck_assert_uint_lt(fd, BETWEEN_FDS);
    if (completion->flags & IORING_CQE_F_BUFFER &&
        own.groups[berth_token_op(completion->user_data)] == SHARED)
        look_at_taken((uint16_t)(completion->flags >> IORING_CQE_BUFFER_SHIFT), completion->res);
    if (completion->flags & IORING_CQE_F_MORE || opcode == IORING_OP_ASYNC_CANCEL)
        return;
    ck_assert_uint_gt(between.flying[fd], 0);
    between.flying[fd]--;
    /* Several kinds have the token of receives. */
    if (opcode == IORING_OP_RECV || opcode == BETWEEN_OP_RECV_ZC || opcode == IORING_OP_TIMEOUT)
        between.receiving[fd] = 0;
}

/** Takes everything from the kernel's queue, which the ring has now. */
static void
drain(struct io_uring *ring)
{
    const unsigned count = io_uring_cq_ready(ring);
    const unsigned head = *ring->cq.khead;
    for (unsigned i = 0; i < count; i++) {
        struct io_uring_cqe completion;
        memcpy(&completion, completion_at(ring->cq.cqes, (head + i) & *ring->cq.kring_mask),
               sizeof(completion));
        if (answered(&completion) < 0)
            continue; /* for the books it is still flying */
        look_at_completion(&completion);
        if (between.on_completion != NULL)
            between.on_completion(&completion);
        else
            between_post(completion.user_data, completion.res, completion.flags);
    }
    io_uring_cq_advance(ring, count);
}

/** A ring this small beside the loop's own is there to try something on: it is left alone. */
#define TRIAL_ENTRIES_MAX 4

/* ---- the calls ------------------------------------------------------------------------------ */

static intptr_t
between_init(unsigned entries, struct io_uring *ring, struct io_uring_params *params)
{
    if (between.ring != NULL) {
        ck_assert_uint_le(entries, TRIAL_ENTRIES_MAX); /* one on which something is tried */
        return sys_direct_uring_init(entries, ring, params);
    }
    if (params->flags & between.without_setup)
        return -EINVAL;
    between.init_sq = entries;
    between.init_cq = params->cq_entries;
    if (between.on_init != NULL)
        between.on_init(&entries, params);
    const intptr_t result = sys_direct_uring_init(entries, ring, params);
    if (result < 0)
        return result;
    params->features &= ~between.without_features;
    between.init_flags = params->flags;
    between.ring = ring;
    swap_in_ours(ring);
    return result;
}

static intptr_t
between_exit(struct io_uring *ring)
{
    if (ring != between.ring)
        return sys_direct_uring_exit(ring);
    ring->cq = own.kernels;
    const intptr_t result = sys_direct_uring_exit(ring);
    between.ring = NULL;
    memset(between.flying, 0, sizeof(between.flying));
    return result;
}

static intptr_t
between_register_buffers(struct io_uring *ring, struct io_uring_buf_reg *registration)
{
    if (ring != between.ring)
        return sys_direct_uring_register_buffers(ring, registration);
    if (registration->bgid != SHARED)
        return sys_direct_uring_register_buffers(ring, registration);
    own.buffers = (struct io_uring_buf *)(uintptr_t)registration->ring_addr;
    own.buffer_count = registration->ring_entries;
    between.buffers = own.buffers;
    return sys_direct_uring_register_buffers(ring, registration);
}

static intptr_t
between_submit(struct io_uring *ring)
{
    if (ring != between.ring)
        return sys_direct_uring_submit(ring);
    between.submits++;
    look_at_given();
    look_at_submissions(ring);
    const struct io_uring_cq ours = ring->cq;
    ring->cq = own.kernels;
    const intptr_t result = sys_direct_uring_submit(ring);
    scribble(ring);
    drain(ring); /* what completes while it is submitted is there at once */
    own.kernels = ring->cq;
    ring->cq = ours;
    return result;
}

/** How long to wait in earnest. */
static struct __kernel_timespec
patience(const struct __kernel_timespec *asked)
{
    const struct __kernel_timespec none = {0, 0};
    const unsigned asked_ms = (unsigned)(asked->tv_sec * 1000 + asked->tv_nsec / 1000000);
    if (asked_ms > between.asked_ms_max)
        between.asked_ms_max = asked_ms;
    if (own.tail != own.head)
        return none; /* there is something already */
    if (between.patience_ms == 0 || asked_ms <= between.patience_ms)
        return *asked;
    const struct __kernel_timespec shorter = {0, (long long)between.patience_ms * 1000000};
    return shorter;
}

static intptr_t
between_wait(struct io_uring *ring, struct io_uring_cqe **completion, unsigned count,
             struct __kernel_timespec *timeout)
{
    if (ring != between.ring)
        return sys_direct_uring_wait(ring, completion, count, timeout);
    between.waits++;
    between_pass(between.ms_per_wait);
    ck_assert_ptr_nonnull(timeout);
    ck_assert_int_le(timeout->tv_sec, WAIT_S_MAX);
    const int refused = between.on_wait == NULL ? 0 : between.on_wait();
    if (refused != 0)
        return refused;
    struct __kernel_timespec time = patience(timeout);
    look_at_given();
    look_at_submissions(ring);
    const struct io_uring_cq ours = ring->cq;
    ring->cq = own.kernels;
    const intptr_t result = sys_direct_uring_wait(ring, completion, count, &time);
    scribble(ring);
    drain(ring);
    own.kernels = ring->cq;
    ring->cq = ours;
    return own.tail != own.head && result == -ETIME ? 0 : result;
}

static intptr_t
between_close(int fd)
{
    if (!between.lax && fd >= 0 && fd < BETWEEN_FDS)
        ck_assert_msg(!between.flying[fd], "descriptor %d closed with %u operations on it", fd,
                      between.flying[fd]);
    return sys_direct_close(fd);
}

static intptr_t
between_clock_ms(uint64_t *now_ms)
{
    const intptr_t result = sys_direct_clock_ms(now_ms);
    if (between.frozen && own.frozen_at_ms == 0)
        own.frozen_at_ms = *now_ms;
    else if (!between.frozen)
        own.frozen_at_ms = 0;
    *now_ms = (between.frozen ? own.frozen_at_ms : *now_ms) + own.clock_ahead_ms;
    return result;
}

void
between_pass(uint64_t ms)
{
    own.clock_ahead_ms += ms;
}

uint64_t
between_clock(void)
{
    uint64_t now_ms = 0;
    ck_assert_int_eq(between_clock_ms(&now_ms), 0);
    return now_ms;
}

void
between_begin(void)
{
    memset(&between, 0, sizeof(between));
    memset(&own, 0, sizeof(own));
    berth_sys_uring_init = between_init;
    berth_sys_uring_exit = between_exit;
    berth_sys_uring_register_buffers = between_register_buffers;
    berth_sys_uring_submit = between_submit;
    berth_sys_uring_wait = between_wait;
    berth_sys_close = between_close;
    berth_sys_clock_ms = between_clock_ms;
}

#endif
