/*
 * Receiving on io_uring: posting a receive, and what its completions mean. The ring of buffers
 * itself is in engine_uring_setup.c.
 *
 * The invariants: a receive is posted again when, and only when, a completion came without F_MORE;
 * a buffer is ours again when, and only when, a completion carries F_BUFFER, whatever its result.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_SOCKET
#define BERTH_SYS_URING
#include "loop/engine_uring.h"

#include "os/sys.h"

/** Of slot->flags: the posted receive has limits that kernels before 6.17 refuse. */
#define SLOT_LIMITED BERTH_SLOT_DRIVER_1

/** A multishot receive, limited in all and per go where the kernel can. */
static void
limit_receive(const struct uring_engine *state, struct berth_slot *slot,
              struct io_uring_sqe *submission)
{
    uint32_t bytes = state->receive_bytes_max;
    submission->ioprio |= IORING_RECV_MULTISHOT;
    slot->state |= CONN_UNPROVEN;
    slot->flags &= (uint8_t)~SLOT_LIMITED;
    if (bytes == 0)
        return;
    slot->flags |= SLOT_LIMITED;
    /* Bundles only with a limit in all: it bounds the buffers that one completion may bring. There
     * is more to come, so there is no need to poll first. */
    if (slot->flags & SLOT_BULK && state->bundles) {
        submission->ioprio = IORING_RECV_MULTISHOT | BERTH_URING_RECVSEND_BUNDLE;
        if (bytes > BUNDLE_MAX * RECEIVE_BYTES)
            bytes = BUNDLE_MAX * RECEIVE_BYTES;
    }
    /* After its share of a turn the receive ends with a data completion and is posted again for the
     * next one. `optlen` of newer headers is this field. */
    submission->len = bytes;
    submission->file_index = bytes;
}

int
uring_receive_start(struct berth_loop *loop, struct berth_slot *slot)
{
    struct uring_engine *state = uring_state(loop);
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL) {
        conn_todo(loop, slot);
        return 0;
    }
    const int limited = (slot->state & CONN_CREDIT) != 0;
    io_uring_prep_recv(submission, berth_slot_fd(slot), NULL, 0, 0);
    submission->flags |= IOSQE_BUFFER_SELECT;
    submission->buf_group = BUFFER_GROUP;
    submission->ioprio = IORING_RECVSEND_POLL_FIRST;
    if (limited) {
        const uint64_t credit = slot_cold(loop, slot)->credit;
        const uint32_t size = berth_class_bytes(BUFFER_CLASS);
        submission->len = credit < size ? (uint32_t)credit : size;
    } else {
        limit_receive(state, slot, submission);
    }
    uring_set_token(submission, slot, OP_RECEIVE);
    slot->state |= CONN_RECEIVING;
    return 0;
}

void
uring_receive_stop(struct berth_loop *loop, struct berth_slot *slot)
{
    uring_stop_posted(loop, slot, OP_RECEIVE);
}

/** The buffer behind an id is ours again; the connection has seen it, or will not. */
static void
settle_buffer(struct berth_loop *loop, uint16_t id)
{
    struct uring_engine *state = uring_state(loop);
    if (berth_pool_settle(loop->pool, state->by_id[id].buffer) == 1)
        uring_give_buffer(state, id);
    else
        (void)uring_post_buffer(loop, id);
}

/**
 * Lists the buffers that a completion of `bytes` filled, the first being `id`: those that were put
 * into the ring behind it. What is noted of an id holds until that id is put back, so it does not
 * matter in which order completions are looked at.
 */
static unsigned
bundle_ids(const struct uring_engine *state, uint16_t id, uint32_t bytes, uint16_t *ids)
{
    const uint32_t size = berth_class_bytes(BUFFER_CLASS);
    const unsigned count = (bytes + size - 1) / size;
    BERTH_ASSERT(count > 0 && count <= BUNDLE_MAX);
    ids[0] = id;
    for (unsigned i = 1; i < count; i++)
        ids[i] = (uint16_t)state->by_id[ids[i - 1]].next;
    return count;
}

/** Takes the buffers of a bundle, and delivers what is in them at once. */
static void
take_bundle(struct berth_loop *loop, struct berth_slot *slot, uint32_t bytes, uint16_t id)
{
    struct uring_engine *state = uring_state(loop);
    const uint32_t size = berth_class_bytes(BUFFER_CLASS);
    uint16_t ids[BUNDLE_MAX];
    struct berth_span spans[BUNDLE_MAX];
    const unsigned count = bundle_ids(state, id, bytes, ids);
    const int wanted = slot != NULL && conn_wants_data(slot);
    for (unsigned i = 0; i < count && wanted; i++) {
        const uint32_t length = i + 1 < count ? size : bytes - i * size;
        const int error =
            berth_pool_lend(loop->pool, state->by_id[ids[i]].buffer, length, &spans[i]);
        BERTH_ASSERT(error == 0); /* the length fits, and it was posted */
        (void)error;
    }
    if (wanted)
        conn_deliver(loop, slot, spans, count, bytes);
    for (unsigned i = 0; i < count; i++) {
        if (wanted)
            settle_buffer(loop, ids[i]);
        else
            uring_give_buffer(state, ids[i]);
    }
}

/** Takes the buffer that a completion brought, whatever else it says, and delivers what is in it.
 */
void
uring_take_buffer(struct berth_loop *loop, struct berth_slot *slot, int32_t result, uint16_t id)
{
    struct uring_engine *state = uring_state(loop);
    BERTH_ASSERT(id < state->buffer_count && state->by_id[id].data != NULL);
    struct berth_span span;
    if (BERTH_UNLIKELY(result > (int32_t)berth_class_bytes(BUFFER_CLASS))) {
        take_bundle(loop, slot, (uint32_t)result, id);
        return;
    }
    if (BERTH_UNLIKELY(
            result <= 0 || slot == NULL || !conn_wants_data(slot) ||
            berth_pool_lend(loop->pool, state->by_id[id].buffer, (uint32_t)result, &span) != 0)) {
        uring_give_buffer(state, id);
        return;
    }
    conn_deliver(loop, slot, &span, 1, (size_t)result);
    settle_buffer(loop, id);
}

/** A receive has ended without data. */
static void
receive_failed(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    struct uring_engine *state = uring_state(loop);
    if (slot->flags & BERTH_SLOT_CLOSING)
        return;
    if (result == 0) {
        conn_eof(loop, slot);
    } else if (result == -ENOBUFS) {
        uring_grow_ring(state);
        slot->flags &= (uint8_t)~SLOT_BULK; /* posted without polling first it would fail at once */
        if (conn_wants_data(slot))
            receive_starve(loop, slot);
    } else if (result == -EINVAL && slot->flags & SLOT_LIMITED) {
        state->receive_bytes_max = 0; /* a kernel before 6.17: post again without limits */
    } else if (result != -ECANCELED && result != -EINTR && result != -ENOMEM && result != -ENOSPC &&
               result != -EAGAIN) {
        conn_failed(loop, slot, result);
    }
}

/**
 * A multishot receive that is posted when data and a reset are both there already delivers the data
 * and then waits for an event that has been: the reset would never be told. What comes after the
 * first data wakes it, so looking once is enough. Only an error counts here: an orderly end is told
 * by the receive itself, behind bytes of which completions may still stand in the queue.
 */
static void
prove_receive(struct berth_loop *loop, struct berth_slot *slot)
{
    char byte;
    slot->state &= ~(uint32_t)CONN_UNPROVEN;
    if (!conn_wants_data(slot))
        return;
    const intptr_t got =
        sys_recv(berth_slot_fd(slot), &byte, sizeof(byte), MSG_DONTWAIT | MSG_PEEK);
    loop->stats.syscalls++;
    if (got < 0 && got != -EAGAIN && got != -EINTR)
        conn_failed(loop, slot, (int)got);
}

void
uring_on_receive(struct berth_loop *loop, struct berth_slot *slot, int32_t result, uint32_t flags)
{
    if (BERTH_UNLIKELY(!(flags & IORING_CQE_F_MORE))) {
        uring_operation_ended(slot);
        slot->state |= CONN_TODO;
        if (result >= (int32_t)berth_class_bytes(BUFFER_CLASS))
            slot->flags |= SLOT_BULK;
        else if (result > 0)
            slot->flags &= (uint8_t)~SLOT_BULK;
        loop->current = slot;
        loop->stats.rearms += result != 0 && conn_wants_data(slot);
        loop->stats.fairness_stops +=
            result > 0 && !(slot->state & CONN_CREDIT) && uring_state(loop)->receive_bytes_max != 0;
    }
    if (BERTH_LIKELY(flags & IORING_CQE_F_BUFFER))
        uring_take_buffer(loop, slot, result, (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT));
    if (BERTH_UNLIKELY(result <= 0))
        receive_failed(loop, slot, result);
    else if (BERTH_UNLIKELY(slot->state & CONN_UNPROVEN) && flags & IORING_CQE_F_MORE &&
             !(flags & IORING_CQE_F_SOCK_NONEMPTY))
        prove_receive(loop, slot);
}
