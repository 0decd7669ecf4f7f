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
#include "loop/engine_uring_udp.h"
#include "loop/engine_uring_zcrx.h"

#include "loop/mapped.h"
#include "os/probes.h"
#include "os/sys.h"

/** Of slot->flags: the posted receive has limits that kernels before 6.17 refuse. */
#define SLOT_LIMITED BERTH_SLOT_DRIVER_1

uint32_t
uring_receive_limit(const struct berth_loop *loop, const struct berth_slot *slot, uint64_t bytes)
{
    const struct uring_engine *state = uring_state(loop);
    if (slot->flags & SLOT_BULK)
        bytes = share_of_turn(bytes, state->alone);
    if (bytes > BUNDLE_MAX * RECEIVE_BYTES)
        bytes = BUNDLE_MAX * RECEIVE_BYTES;
    if (slot->state & CONN_CREDIT && slot_cold(loop, slot)->credit < bytes)
        bytes = slot_cold(loop, slot)->credit;
    return (uint32_t)bytes;
}

/**
 * A multishot receive. It ends with a data completion when the limit is reached, which only a
 * bundle keeps exactly: any other may pass it by what one go brings.
 */
static void
post_multishot(const struct berth_loop *loop, struct berth_slot *slot,
               struct io_uring_sqe *submission)
{
    const struct uring_engine *state = uring_state(loop);
    submission->ioprio |= IORING_RECV_MULTISHOT;
    if (state->receive_bytes_max == 0)
        return;
    slot->flags |= SLOT_LIMITED;
    submission->len = uring_receive_limit(loop, slot, state->receive_bytes_max);
    submission->file_index = submission->len; /* `optlen` of newer headers */
    if (uring_has(state, FEATURE_BUNDLES) && !(slot->flags & SLOT_LANE) &&
        (slot->flags & SLOT_BULK || slot->state & CONN_CREDIT))
        submission->ioprio |= BERTH_URING_RECVSEND_BUNDLE;
}

/** One receive of no more than the credit, for when nothing else would keep to it, or can be had.
 */
static void
post_single(const struct berth_loop *loop, const struct berth_slot *slot,
            struct io_uring_sqe *submission)
{
    uint32_t most = slot->flags & SLOT_LANE ? BUNDLE_MAX * RECEIVE_BYTES : RECEIVE_BYTES;
    if (slot->state & CONN_CREDIT && slot_cold(loop, slot)->credit < most)
        most = (uint32_t)slot_cold(loop, slot)->credit;
    submission->len = most;
}

/**
 * A receive of a lot, posted now, comes with the next wait, before which others may be heard. Who
 * has waited for longest in the list of things to do goes first.
 */
static int
is_put_off(struct berth_loop *loop)
{
    struct bulk_turns *bulk = &uring_state(loop)->bulk;
    if (bulk->company == 0 || (loop->todo_runs && bulk_may_go(bulk)))
        return 0;
    bulk->waiting += loop->todo_runs != 0;
    return 1;
}

int
uring_receive_start(struct berth_loop *loop, struct berth_slot *slot)
{
    struct uring_engine *state = uring_state(loop);
    const int bulk = slot->flags & SLOT_BULK;
    if (BERTH_UNLIKELY(bulk) && is_put_off(loop)) {
        loop->put_off = 1;
        conn_todo(loop, slot);
        return 0;
    }
    if (BERTH_UNLIKELY(slot->flags & SLOT_PARKED)) {
        if (bulk)
            bulk_went(&state->bulk, loop->options.fairness_bytes);
        return uring_pull_post(loop, slot);
    }
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL) {
        conn_todo(loop, slot);
        return 0;
    }
    if (BERTH_UNLIKELY(state->zcrx != NULL) && uring_zcrx_post(loop, slot, submission)) {
        if (bulk)
            bulk_went(&state->bulk, loop->options.fairness_bytes);
        slot->state |= CONN_RECEIVING | CONN_UNPROVEN;
        return 0;
    }
    const int lane = slot->flags & SLOT_LANE;
    io_uring_prep_recv(submission, berth_slot_fd(slot), NULL, 0, 0);
    uring_set_file(state, submission, slot);
    submission->flags |= IOSQE_BUFFER_SELECT;
    submission->buf_group = lane ? uring_lane_group(loop, slot) : BUFFER_GROUP;
    /* Also for whoever is known to have more: it is looked at as soon as it is submitted, and a
     * connection with SO_RCVLOWAT says what is worth being woken for. */
    if (uring_has(state, FEATURE_POLL_FIRST))
        submission->ioprio = IORING_RECVSEND_POLL_FIRST;
    slot->flags &= (uint8_t)~SLOT_LIMITED;
    const int exact = uring_has(state, FEATURE_BUNDLES) && state->receive_bytes_max != 0 && !lane;
    const int once = state->zcrx != NULL && uring_zcrx_single(loop, slot);
    if (once || (slot->state & CONN_CREDIT && !exact) || !uring_has(state, FEATURE_MULTISHOT))
        post_single(loop, slot, submission);
    else
        post_multishot(loop, slot, submission);
    if (BERTH_UNLIKELY(bulk)) /* what it may bring: little credit is no flood */
        bulk_went(&state->bulk,
                  submission->len != 0 ? submission->len : loop->options.fairness_bytes);
    uring_set_token(submission, slot, lane ? OP_RECEIVE_LANE : OP_RECEIVE);
    slot->state |= CONN_RECEIVING | CONN_UNPROVEN;
    return 0;
}

void
uring_receive_stop(struct berth_loop *loop, struct berth_slot *slot)
{
    enum loop_op op = slot->flags & SLOT_LANE ? OP_RECEIVE_LANE : OP_RECEIVE;
    if (slot->flags & SLOT_PARKED && uring_is_polled(loop, slot))
        op = OP_PARKED;
    if (slot_kind(slot) == KIND_DATAGRAM)
        op = uring_datagram_op(loop, slot);
    uring_stop_posted(loop, slot, op);
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

/** Lends what a bundle brought: a span for as many buffers as lie one behind the other. */
static unsigned
lend_bundle(struct berth_loop *loop, const uint16_t *ids, unsigned count, uint32_t bytes,
            struct berth_span *spans)
{
    const struct uring_engine *state = uring_state(loop);
    const uint32_t size = berth_class_bytes(BUFFER_CLASS);
    unsigned n = 0;
    for (unsigned i = 0; i < count; n++) {
        const uint32_t first = state->by_id[ids[i]].buffer;
        unsigned run = 1;
        while (i + run < count && run < BERTH_RUN_MAX &&
               state->by_id[ids[i + run]].buffer == first + run)
            run++;
        const uint32_t length = run * size < bytes ? run * size : bytes;
        const int error = berth_pool_lend_run(loop->pool, first, length, &spans[n]);
        BERTH_ASSERT(error == 0); /* they fit, and they were posted */
        (void)error;
        bytes -= length;
        i += run;
    }
    return n;
}

/** Takes the buffers of a bundle, and delivers what is in them at once. */
static void
take_bundle(struct berth_loop *loop, struct berth_slot *slot, uint32_t bytes, uint16_t id)
{
    struct uring_engine *state = uring_state(loop);
    uint16_t ids[BUNDLE_MAX];
    struct berth_span spans[BUNDLE_MAX];
    const unsigned count = bundle_ids(state, id, bytes, ids);
    unsigned ours = count;
    if (slot != NULL && conn_wants_data(slot)) {
        const unsigned n = lend_bundle(loop, ids, count, bytes, spans);
        conn_deliver(loop, slot, spans, n, bytes);
        ours = 0;
        for (unsigned i = 0; i < count; i++) {
            if (berth_pool_settle(loop->pool, state->by_id[ids[i]].buffer) == 1 ||
                uring_replace_buffer(loop, ids[i]))
                ids[ours++] = ids[i];
        }
    }
    uring_give_buffers(loop, ids, ours);
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

/** A receive has ended without data; `lane`: it was posted in one, which may be gone by now. */
static void
receive_failed(struct berth_loop *loop, struct berth_slot *slot, int32_t result, int lane)
{
    struct uring_engine *state = uring_state(loop);
    if (slot->flags & BERTH_SLOT_CLOSING)
        return;
    if (BERTH_UNLIKELY(state->zcrx != NULL) && uring_zcrx_ended(loop, slot, result))
        return;
    if (result == 0) {
        conn_eof(loop, slot);
    } else if (result == -ENOBUFS && lane) {
        slot->state |= CONN_TODO; /* its lane ran dry: back to the ring that all share */
    } else if (result == -ENOBUFS) {
        uring_grow_ring(state);
        slot->flags &= (uint8_t)~SLOT_BULK; /* posted without polling first it would fail at once */
        /* Reading for those who starve costs a borrowed descriptor: not while it can be helped. */
        if (loop->direct && uring_ring_grows(loop))
            loop->stats.enobufs++;
        else if (conn_wants_data(slot))
            receive_starve(loop, slot);
    } else if (result == -EINVAL && slot->flags & SLOT_LIMITED) {
        state->receive_bytes_max = 0; /* a kernel before 6.17: post again without limits */
    } else if (result != -ECANCELED && result != -EINTR && result != -ENOMEM && result != -ENOSPC &&
               result != -EAGAIN) {
        conn_failed(loop, slot, result);
    }
}

/** What looking said. Bytes that the card put elsewhere are there, but cannot be looked at. */
static void
proven(struct berth_loop *loop, struct berth_slot *slot, intptr_t got)
{
    if (got == 0)
        uring_receive_stop(loop, slot); /* the next one begins with the end, and tells it */
    else if (got < 0 && got != -EAGAIN && got != -EINTR && got != -ECANCELED && got != -EFAULT)
        conn_failed(loop, slot, (int)got);
}

/** Looks by way of the ring, where the connection has no descriptor for a system call. */
static void
prove_by_operation(struct berth_loop *loop, struct berth_slot *slot)
{
    struct uring_engine *state = uring_state(loop);
    struct io_uring_sqe *submission = uring_begin_operation(loop, slot);
    if (submission == NULL) {
        slot->state |= CONN_UNPROVEN; /* the next data are an occasion again */
        return;
    }
    io_uring_prep_recv(submission, berth_slot_fd(slot), &state->proof, sizeof(state->proof),
                       MSG_DONTWAIT | MSG_PEEK);
    uring_set_file(state, submission, slot);
    uring_set_token(submission, slot, OP_PROVE);
}

/**
 * A multishot receive that is posted when data and a reset are both there already delivers the data
 * and then waits for an event that has been: the reset would never be told, nor, by a unix socket,
 * an orderly end (TCP says that there is more until the end has been told). What comes after the
 * first data wakes it, so looking once is enough. An end is told by a receive all the same, behind
 * bytes of which completions may still stand in the queue.
 */
static void
prove_receive(struct berth_loop *loop, struct berth_slot *slot)
{
    char byte;
    slot->state &= ~(uint32_t)CONN_UNPROVEN;
    if (!conn_wants_data(slot))
        return;
    if (loop->direct) {
        prove_by_operation(loop, slot);
        return;
    }
    const intptr_t got =
        sys_recv(berth_slot_fd(slot), &byte, sizeof(byte), MSG_DONTWAIT | MSG_PEEK);
    loop->stats.syscalls++;
    proven(loop, slot, got);
}

void
uring_on_prove(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    (void)berth_slot_end(slot);
    if (conn_wants_data(slot))
        proven(loop, slot, result);
}

/** The last completion of a posted receive, whatever else it says. */
static void
receive_ended(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    struct uring_engine *state = uring_state(loop);
    uring_operation_ended(slot);
    slot->state |= CONN_TODO;
    loop->current = slot;
    const int parked = slot->flags & SLOT_PARKED && uring_park_or_not(loop, slot, result);
    if (result != 0 && !parked && conn_wants_data(slot)) {
        loop->stats.rearms++;
        CONN_COUNT(loop, slot, rearms, 1);
        BERTH_PROBE_CONN_WITH(rearm, slot, result);
    }
    if (result <= 0 || state->receive_bytes_max == 0)
        return;
    if (slot->state & CONN_CREDIT)
        return;
    if (state->zcrx != NULL && slot_cold(loop, slot)->zcrx != ZCRX_REFUSED)
        return; /* a single one between two of another kind */
    loop->stats.fairness_stops++;
    if (!(slot->flags & SLOT_BULK) || !conn_wants_data(slot) ||
        mapped_consider(loop, slot, uring_receive_limit(loop, slot, state->receive_bytes_max)))
        return;
    if (!(slot->flags & SLOT_LANE))
        uring_lane_consider(loop, slot);
}

void
uring_on_receive(struct berth_loop *loop, struct berth_slot *slot,
                 const struct io_uring_cqe *completion)
{
    struct uring_engine *state = uring_state(loop);
    const int32_t result = completion->res;
    const uint32_t flags = completion->flags;
    const uint16_t id = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);
    const int lane = slot->flags & SLOT_LANE;
    const int ended = !(flags & IORING_CQE_F_MORE);
    uring_count_receiver(state, slot);
    if (result >= (int32_t)RECEIVE_BYTES)
        slot->flags |= SLOT_BULK;
    else if (result > 0 && !ended) /* the last one may be small because the limit was reached */
        slot->flags &= (uint8_t)~SLOT_BULK;
    if (BERTH_UNLIKELY(ended))
        receive_ended(loop, slot, result);
    if (BERTH_UNLIKELY(lane)) {
        if (flags & IORING_CQE_F_BUFFER)
            uring_lane_take(loop, slot, result, id);
        if (ended)
            uring_lane_ended(loop, slot, result);
    } else if (BERTH_LIKELY(flags & IORING_CQE_F_BUFFER)) {
        uring_take_buffer(loop, slot, result, id);
    } else if (result > 0) {
        uring_zcrx_take(loop, slot, completion);
    }
    if (BERTH_UNLIKELY(result <= 0))
        receive_failed(loop, slot, result, lane);
    else if (BERTH_UNLIKELY(slot->state & CONN_UNPROVEN) && !ended &&
             !(flags & IORING_CQE_F_SOCK_NONEMPTY))
        prove_receive(loop, slot);
}

void
uring_receive_turn_over(struct berth_loop *loop, uint64_t bytes)
{
    struct uring_engine *state = uring_state(loop);
    /* Floods that take turns are one at a time, too: it must be the same one. */
    if (state->receivers > 0) {
        state->alone = state->receivers > 1                       ? 0
                       : state->receiver == state->alone_receiver ? state->alone + 1
                                                                  : 1;
        state->alone_receiver = state->receiver;
    }
    bulk_turn_over(&state->bulk, state->receivers > state->receivers_of_bulk);
    bulk_turn_begin(&state->bulk, bytes, loop->options.fairness_bytes);
    state->receivers = state->receivers_of_bulk = state->receiver = 0;
}
