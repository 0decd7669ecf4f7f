/*
 * Trials of what the kernel's receives do: the ring, the bytes and the account. See
 * engine_uring_selftest.h.
 *
 * The invariant: trial->taken, trial->used and trial->received say what the kernel has done, from
 * its completions alone; each of them is checked against what it may do before it is believed.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_SOCKET
#define BERTH_SYS_URING
#include "loop/engine_uring_selftest.h"

#include <string.h>

#include "os/memory.h"
#include "os/sys.h"

#define TRIAL_ENTRIES 8

/** Waits that a signal may cut short. */
#define INTERRUPTIONS_MAX 64

/** Who a completion is for. */
enum { FOR_RECEIVE = 1, FOR_CANCEL = 2 };
#define NUMBER_SHIFT 8

/* ---- the stream ----------------------------------------------------------------------------- */

/** The byte at a position: no two pieces of a stream are alike. */
static unsigned char
byte_at(uint64_t position)
{
    return (unsigned char)(((uint32_t)position * 0x9e3779b1u) >> 24);
}

static int
bytes_right(const unsigned char *data, uint32_t count, uint64_t position)
{
    for (uint32_t i = 0; i < count; i++) {
        if (data[i] != byte_at(position + i))
            return 0;
    }
    return 1;
}

/** Until everything sent is in the receiver's socket: the network may take its time. */
static int
await_arrival(struct trial *trial)
{
    const size_t due = (size_t)(trial->sent - trial->received);
    for (unsigned tries = 0; tries < INTERRUPTIONS_MAX; tries++) {
        const intptr_t there =
            sys_recv(trial->pair.receiver, trial->scratch, due, MSG_PEEK | MSG_WAITALL);
        if (there == (intptr_t)due)
            return TRIAL_WORKS;
        if (there < 0 && there != -EINTR)
            return (int)there;
    }
    return -ETIMEDOUT;
}

/** With a receive posted the bytes are gone as soon as they come: then nobody waits for them. */
int
trial_send(struct trial *trial, uint32_t bytes)
{
    BERTH_ASSERT(bytes > 0 && trial->sent - trial->received + bytes <= TRIAL_UNDER_WAY_MAX);
    for (uint32_t i = 0; i < bytes; i++)
        trial->scratch[i] = byte_at(trial->sent + i);
    intptr_t sent = -EINTR;
    for (unsigned tries = 0; tries < INTERRUPTIONS_MAX && sent == -EINTR; tries++)
        sent = sys_send(trial->pair.sender, trial->scratch, bytes, MSG_NOSIGNAL);
    if (sent != (intptr_t)bytes)
        return sent < 0 ? (int)sent : -ENOBUFS;
    trial->sent += bytes;
    return trial->armed ? TRIAL_WORKS : await_arrival(trial);
}

/* ---- buffers -------------------------------------------------------------------------------- */

/** The id of the buffer at a place of the ring. */
static uint16_t
id_at(uint32_t place)
{
    return (uint16_t)((place % TRIAL_BUFFERS) ^ 5);
}

static unsigned char *
data_of(const struct trial *trial, uint16_t id)
{
    return trial->data + (size_t)id * TRIAL_BUFFER_BYTES;
}

void
trial_post(struct trial *trial, uint32_t count)
{
    BERTH_ASSERT(trial->posted - trial->taken + count <= TRIAL_BUFFERS);
    for (uint32_t i = 0; i < count; i++) {
        const uint16_t id = id_at(trial->posted);
        io_uring_buf_ring_add(trial->buffers, data_of(trial, id), TRIAL_BUFFER_BYTES, id,
                              TRIAL_BUFFERS - 1, (int)i);
        trial->posted++;
    }
    io_uring_buf_ring_advance(trial->buffers, (int)count);
}

void
trial_post_all(struct trial *trial)
{
    trial_post(trial, TRIAL_BUFFERS - (trial->posted - trial->taken));
}

int
trial_check_posted(struct trial *trial)
{
    for (uint32_t place = trial->taken; place != trial->posted; place++) {
        const struct io_uring_buf *entry = &trial->buffers->bufs[place % TRIAL_BUFFERS];
        const uint32_t used = place == trial->taken ? trial->used : 0;
        TRIAL_EXPECT(trial, entry->bid == id_at(place), "a posted buffer has another id");
        TRIAL_EXPECT(trial, entry->len == TRIAL_BUFFER_BYTES - used,
                     "a posted buffer has another length");
        TRIAL_EXPECT(trial,
                     entry->addr == (uint64_t)(uintptr_t)(data_of(trial, id_at(place)) + used),
                     "a posted buffer has another address");
    }
    return TRIAL_WORKS;
}

/** Goes through the buffers that `bytes` bytes must be in, the first having been named. */
static int
take_bytes(struct trial *trial, uint32_t bytes)
{
    while (bytes > 0) {
        TRIAL_EXPECT(trial, trial->taken != trial->posted, "more bytes than there are buffers");
        const uint32_t room = TRIAL_BUFFER_BYTES - trial->used;
        const uint32_t count = bytes < room ? bytes : room;
        TRIAL_EXPECT(
            trial,
            bytes_right(data_of(trial, id_at(trial->taken)) + trial->used, count, trial->received),
            "bytes are not those that were sent");
        trial->received += count;
        bytes -= count;
        trial->used += count;
        if (!trial->incremental || trial->used == TRIAL_BUFFER_BYTES) {
            trial->taken++;
            trial->used = 0;
        }
    }
    return TRIAL_WORKS;
}

/* ---- receives ------------------------------------------------------------------------------- */

static struct io_uring_sqe *
submission_for(struct trial *trial, unsigned whom, uint32_t number)
{
    struct io_uring_sqe *submission = io_uring_get_sqe(&trial->ring);
    if (submission == NULL)
        return NULL;
    memset(submission, 0, sizeof(*submission));
    submission->user_data = (uint64_t)number << NUMBER_SHIFT | whom;
    return submission;
}

int
trial_arm(struct trial *trial, uint32_t ioprio, uint32_t length, uint32_t total)
{
    BERTH_ASSERT(trial->armed == 0);
    const uint32_t number = ++trial->numbers;
    struct io_uring_sqe *submission = submission_for(trial, FOR_RECEIVE, number);
    if (submission == NULL)
        return -EBUSY;
    submission->opcode = IORING_OP_RECV;
    submission->fd = trial->pair.receiver;
    submission->flags = IOSQE_BUFFER_SELECT;
    submission->buf_group = TRIAL_GROUP;
    submission->ioprio = (uint16_t)ioprio;
    submission->len = length;
    submission->file_index = total;
    trial->armed = number;
    trial->length_max = length;
    trial->began = trial->received;
    trial->bundle = (ioprio & BERTH_URING_RECVSEND_BUNDLE) != 0;
    trial->biggest = 0;
    return TRIAL_WORKS;
}

/** Submits, and waits for a completion: 1 there is one, 0 there is none, or -errno. */
static int
wait_for_one(struct trial *trial, unsigned timeout_ms)
{
    struct __kernel_timespec timeout = {.tv_sec = timeout_ms / 1000,
                                        .tv_nsec = (long long)(timeout_ms % 1000) * 1000000};
    struct io_uring_cqe *first = NULL;
    for (unsigned tries = 0; tries < INTERRUPTIONS_MAX; tries++) {
        const intptr_t result = sys_uring_wait(&trial->ring, &first, 1, &timeout);
        if (io_uring_cq_ready(&trial->ring) > 0)
            return 1;
        if (result == -ETIME && timeout.tv_sec == 0 && timeout.tv_nsec == 0)
            return 0;
        if (result == -ETIME) /* this thread may not have run meanwhile: look again */
            memset(&timeout, 0, sizeof(timeout));
        if (result < 0 && result != -ETIME && result != -EINTR && result != -EAGAIN &&
            result != -EBUSY)
            return (int)result;
    }
    return 0;
}

int
trial_expect_silence(struct trial *trial, const char *what)
{
    const int there = wait_for_one(trial, 0);
    if (there < 0)
        return there;
    TRIAL_EXPECT(trial, !there, what);
    return TRIAL_WORKS;
}

/** What a completion says of its buffers must agree with the account. */
static int
check_buffers(struct trial *trial)
{
    if (trial->result <= 0) {
        /* Of an incremental buffer the kernel may say that it goes on with it. */
        TRIAL_EXPECT(trial,
                     !(trial->flags & IORING_CQE_F_BUFFER) ||
                         (trial->incremental && trial->flags & BERTH_URING_CQE_BUF_MORE),
                     "a buffer came without bytes");
        return TRIAL_WORKS;
    }
    TRIAL_EXPECT(trial, trial->flags & IORING_CQE_F_BUFFER, "bytes came without a buffer");
    TRIAL_EXPECT(trial, trial->taken != trial->posted, "bytes came, but there was no buffer");
    TRIAL_EXPECT(trial, trial->flags >> IORING_CQE_BUFFER_SHIFT == id_at(trial->taken),
                 "buffers came out of order");
    const uint32_t room = TRIAL_BUFFER_BYTES - trial->used;
    TRIAL_EXPECT(trial, trial->bundle || (uint32_t)trial->result <= room,
                 "more bytes than the buffer has");
    TRIAL_DO(take_bytes(trial, (uint32_t)trial->result));
    if (trial->incremental)
        TRIAL_EXPECT(trial, (trial->used != 0) == !!(trial->flags & BERTH_URING_CQE_BUF_MORE),
                     "the kernel and the bytes disagree whether a buffer is full");
    return TRIAL_WORKS;
}

/** Looks at the oldest completion. */
static int
take_completion(struct trial *trial)
{
    const unsigned head = *trial->ring.cq.khead;
    const struct io_uring_cqe completion = *uring_completion(&trial->ring, head);
    io_uring_cq_advance(&trial->ring, 1);
    const uint32_t number = (uint32_t)(completion.user_data >> NUMBER_SHIFT);
    if ((completion.user_data & ((1u << NUMBER_SHIFT) - 1)) == FOR_CANCEL) {
        trial->cancelling = 0; /* its own answer differs from kernel to kernel, and says nothing */
        return TRIAL_WORKS;
    }
    TRIAL_EXPECT(trial, trial->armed != 0 && number == trial->armed,
                 "a completion came after the last one");
    trial->result = completion.res;
    trial->flags = completion.flags;
    if (!(completion.flags & IORING_CQE_F_MORE))
        trial->armed = 0;
    if (completion.res > 0 && (uint32_t)completion.res > trial->biggest)
        trial->biggest = (uint32_t)completion.res;
    if (completion.res == -EINVAL && trial->armed == 0)
        return TRIAL_MISSING;
    TRIAL_EXPECT(trial, completion.res > 0 || trial->armed == 0, "a receive goes on after its end");
    TRIAL_EXPECT(trial, trial->length_max == 0 || completion.res <= (int32_t)trial->length_max,
                 "more bytes at once than were allowed");
    return check_buffers(trial);
}

int
trial_next(struct trial *trial)
{
    const int there = wait_for_one(trial, TRIAL_WAIT_MS);
    if (there < 0)
        return there;
    TRIAL_EXPECT(trial, there, "nothing came");
    return take_completion(trial);
}

int
trial_receive(struct trial *trial)
{
    while (trial->armed != 0 && trial->received < trial->sent)
        TRIAL_DO(trial_next(trial));
    return TRIAL_WORKS;
}

int
trial_drain(struct trial *trial, uint32_t ioprio)
{
    /* Each round takes a byte or a buffer, or ends a receive that had none. */
    for (unsigned rounds = 0; trial->received < trial->sent; rounds++) {
        TRIAL_EXPECT(trial, rounds < 4 * TRIAL_BUFFERS, "receives end without having begun");
        trial_post_all(trial);
        if (trial->armed == 0)
            TRIAL_DO(trial_arm(trial, ioprio, 0, 0));
        TRIAL_DO(trial_receive(trial));
        TRIAL_EXPECT(trial, trial->armed != 0 || trial->result > 0 || trial->result == -ENOBUFS,
                     "a receive failed");
    }
    return TRIAL_WORKS;
}

int
trial_cancel(struct trial *trial)
{
    struct io_uring_sqe *submission = submission_for(trial, FOR_CANCEL, 0);
    if (submission == NULL)
        return -EBUSY;
    submission->opcode = IORING_OP_ASYNC_CANCEL;
    submission->fd = -1;
    submission->addr = (uint64_t)trial->armed << NUMBER_SHIFT | FOR_RECEIVE;
    trial->cancelling = 1;
    while (trial->armed != 0 || trial->cancelling)
        TRIAL_DO(trial_next(trial));
    return TRIAL_WORKS;
}

int
trial_finish(struct trial *trial)
{
    BERTH_ASSERT(trial->armed != 0);
    const intptr_t error = sys_shutdown(trial->pair.sender, SHUT_WR);
    if (error)
        return (int)error;
    while (trial->armed != 0)
        TRIAL_DO(trial_next(trial));
    TRIAL_EXPECT(trial, trial->result == 0, "the end of the stream was not told");
    TRIAL_EXPECT(trial, trial->received == trial->sent, "the end of the stream came too early");
    return TRIAL_WORKS;
}

/* ---- beginning and ending ------------------------------------------------------------------- */

static size_t
memory_bytes(void)
{
    return berth_memory_page_bytes() + TRIAL_BYTES + TRIAL_UNDER_WAY_MAX;
}

static int
memory_take(struct trial_memory *memory)
{
    if (memory->start != NULL)
        return 0;
    const int error = berth_memory_take(&memory->start, memory_bytes(), "berth-trial");
    if (error)
        memory->start = NULL;
    else
        berth_memory_advise(memory->start, memory_bytes(), BERTH_MEMORY_NO_FORK);
    return error;
}

void
trial_memory_release(struct trial_memory *memory)
{
    if (memory->start != NULL)
        berth_memory_release(memory->start, memory_bytes());
    memory->start = NULL;
}

/** Outcome TRIAL_MISSING: this kernel has no such ring of buffers. */
static int
register_buffers(struct trial *trial)
{
    struct berth_uring_buf_reg registration;
    memset(&registration, 0, sizeof(registration));
    memset(trial->buffers, 0, TRIAL_BUFFERS * sizeof(struct io_uring_buf));
    io_uring_buf_ring_init(trial->buffers);
    registration.ring_addr = (uint64_t)(uintptr_t)trial->buffers;
    registration.ring_entries = TRIAL_BUFFERS;
    registration.group = TRIAL_GROUP;
    registration.flags = trial->incremental ? BERTH_URING_BUF_RING_INCREMENTAL : 0;
    const int error = (int)sys_uring_register_buffers(
        &trial->ring, (struct io_uring_buf_reg *)(void *)&registration);
    return trial->incremental && error == -EINVAL ? TRIAL_MISSING : error;
}

int
trial_begin(struct trial *trial, struct trial_memory *memory, uint32_t flags, int incremental,
            int tcp)
{
    struct io_uring_params params;
    memset(&params, 0, sizeof(params));
    memset(trial, 0, sizeof(*trial));
    int error = memory_take(memory);
    if (error)
        return error;
    trial->buffers = (struct io_uring_buf_ring *)memory->start;
    trial->data = (unsigned char *)memory->start + berth_memory_page_bytes();
    trial->scratch = trial->data + TRIAL_BYTES;
    trial->incremental = incremental;
    error = stream_pair_open(&trial->pair, tcp, TRIAL_WAIT_MS);
    if (error)
        return error;
    params.flags = flags;
    params.cq_entries = 4 * TRIAL_ENTRIES;
    error = (int)sys_uring_init(TRIAL_ENTRIES, &trial->ring, &params);
    trial->kernel_features = params.features;
    if (error == 0) {
        error = register_buffers(trial);
        if (error)
            (void)sys_uring_exit(&trial->ring);
    }
    if (error)
        stream_pair_close(&trial->pair);
    return error;
}

void
trial_end(struct trial *trial, struct trial_memory *memory, int outcome)
{
    /* A receive that outlives its ring would write where others live by then. */
    (void)sys_shutdown(trial->pair.receiver, SHUT_RDWR);
    if (outcome == TRIAL_WORKS && trial->armed != 0 && trial_cancel(trial) != TRIAL_WORKS)
        outcome = TRIAL_MISBEHAVES;
    if (outcome != TRIAL_WORKS && outcome != TRIAL_MISSING)
        memory->start = NULL; /* lost on purpose: who knows what is still on its way into it */
    (void)sys_uring_exit(&trial->ring);
    stream_pair_close(&trial->pair);
}
