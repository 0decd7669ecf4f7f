/*
 * Lanes: a connection that keeps receiving in bulk gets a ring of buffers to itself, which the
 * kernel fills incrementally. Its bytes lie one behind the other in 2 MiB of memory, a completion
 * brings up to a whole share of them as one span, and it takes no buffer from anybody else. When it
 * goes quiet it returns to the ring that all share, and an idle connection holds nothing again.
 *
 * The invariants: a buffer is over by our own count of its bytes, never by the kernel's flags
 * alone; a lane is made and given up only while its connection has no receive posted.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_URING
#include "loop/engine_uring.h"

#include <string.h>

#include "loop/mapped.h"
#include "os/memory.h"
#include "os/sys.h"

/** How long a connection may be quiet before it loses its lane. */
#define LANE_QUIET_MS 500

/** Slabs that a lane must leave to others. */
#define LANE_LEAVES_SLABS 8

static struct uring_lane *
lane_of(const struct berth_loop *loop, const struct berth_slot *slot)
{
    BERTH_ASSERT(slot->flags & SLOT_LANE);
    struct uring_lane *lane = &uring_state(loop)->lanes[slot_cold(loop, slot)->lane - 1];
    BERTH_ASSERT(lane->owner == slot->index + 1);
    return lane;
}

uint16_t
uring_lane_group(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return (uint16_t)(LANE_GROUP_FIRST + slot_cold(loop, slot)->lane - 1);
}

/* ---- buffers -------------------------------------------------------------------------------- */

static void
post(struct uring_lane *lane, uint16_t id)
{
    io_uring_buf_ring_add(lane->ring, lane->at[id].data, berth_class_bytes(LANE_CLASS), id,
                          LANE_BUFFERS - 1, 0);
    io_uring_buf_ring_advance(lane->ring, 1);
}

/** The kernel is done with the buffer: posts it again, or another if somebody kept of it. */
static void
retire(struct berth_loop *loop, struct uring_lane *lane, uint16_t id)
{
    struct lane_buffer *at = &lane->at[id];
    const int ours =
        at->data != NULL && (!at->lent || berth_pool_filled(loop->pool, at->buffer) == 1);
    lane->current = (uint16_t)((id + 1) % LANE_BUFFERS);
    at->filled = 0;
    at->lent = 0;
    if (!ours &&
        berth_pool_post(loop->pool, LANE_CLASS, BERTH_FOR_NEW, &at->buffer, &at->data) != 0) {
        at->data = NULL; /* with none left the receive ends with ENOBUFS, and the lane with it */
        return;
    }
    post(lane, id);
}

void
uring_lane_take(struct berth_loop *loop, struct berth_slot *slot, int32_t result, uint16_t id)
{
    struct uring_lane *lane = lane_of(loop, slot);
    const uint32_t size = berth_class_bytes(LANE_CLASS);
    BERTH_ASSERT(id < LANE_BUFFERS && lane->at[id].data != NULL);
    if (result <= 0)
        return;
    if (BERTH_UNLIKELY(id != lane->current))
        retire(loop, lane, lane->current); /* the kernel gave it up before it was full */
    struct lane_buffer *at = &lane->at[id];
    struct berth_span span;
    BERTH_ASSERT((uint32_t)result <= size - at->filled);
    lane->received++;
    if (BERTH_LIKELY(conn_wants_data(slot)) &&
        berth_pool_lend_part(loop->pool, at->buffer, at->filled, (uint32_t)result, &span) == 0) {
        at->lent = 1;
        conn_deliver(loop, slot, &span, 1, (size_t)result);
        (void)berth_pool_settle_part(loop->pool, &span);
    }
    at->filled += (uint32_t)result;
    if (at->filled >= size)
        retire(loop, lane, id);
}

/** Takes the lane's buffers out of the kernel's hands: the ring is gone. */
static void
take_back(struct berth_loop *loop, struct uring_lane *lane)
{
    for (unsigned id = 0; id < LANE_BUFFERS; id++) {
        struct lane_buffer *at = &lane->at[id];
        if (at->data == NULL)
            continue;
        if (!at->lent || berth_pool_filled(loop->pool, at->buffer) == 1)
            (void)berth_pool_unpost(loop->pool, at->buffer);
        at->data = NULL;
    }
}

/* ---- making and giving up ------------------------------------------------------------------- */

static int
make_ring(struct uring_lane *lane)
{
    void *memory = NULL;
    const size_t bytes = berth_memory_page_bytes();
    const int error = berth_memory_take(&memory, bytes, "berth-lane");
    if (error)
        return error;
    berth_memory_advise(memory, bytes, BERTH_MEMORY_NO_FORK);
    lane->ring = (struct io_uring_buf_ring *)memory;
    io_uring_buf_ring_init(lane->ring);
    return 0;
}

static int
register_ring(struct berth_loop *loop, struct uring_lane *lane)
{
    struct uring_engine *state = uring_state(loop);
    struct berth_uring_buf_reg registration;
    memset(&registration, 0, sizeof(registration));
    registration.ring_addr = (uint64_t)(uintptr_t)lane->ring;
    registration.ring_entries = LANE_BUFFERS;
    registration.group = (uint16_t)(LANE_GROUP_FIRST + (lane - state->lanes));
    registration.flags = BERTH_URING_BUF_RING_INCREMENTAL;
    loop->stats.syscalls++;
    return (int)sys_uring_register_buffers(&state->ring,
                                           (struct io_uring_buf_reg *)(void *)&registration);
}

static int
fill(struct berth_loop *loop, struct uring_lane *lane)
{
    for (uint16_t id = 0; id < LANE_BUFFERS; id++) {
        struct lane_buffer *at = &lane->at[id];
        const int error =
            berth_pool_post(loop->pool, LANE_CLASS, BERTH_FOR_NEW, &at->buffer, &at->data);
        if (error) {
            at->data = NULL;
            return error;
        }
        at->filled = 0;
        at->lent = 0;
        post(lane, id);
    }
    return 0;
}

static void
destroy(struct berth_loop *loop, struct uring_lane *lane, int registered)
{
    struct uring_engine *state = uring_state(loop);
    if (registered) {
        (void)sys_uring_unregister_buffers(&state->ring,
                                           LANE_GROUP_FIRST + (int)(lane - state->lanes));
        loop->stats.syscalls++;
    }
    take_back(loop, lane);
    berth_memory_release(lane->ring, berth_memory_page_bytes());
    memset(lane, 0, sizeof(*lane));
}

static void
lane_open(struct berth_loop *loop, struct berth_slot *slot)
{
    struct uring_engine *state = uring_state(loop);
    struct uring_lane *lane = state->lanes;
    if (state->lanes_used == LANES_MAX ||
        berth_pool_available(loop->pool, LANE_CLASS, BERTH_FOR_NEW) <
            LANE_BUFFERS + LANE_LEAVES_SLABS)
        return;
    while (lane->owner != 0)
        lane++;
    if (make_ring(lane) != 0)
        return;
    int error = register_ring(loop, lane);
    const int registered = error == 0;
    if (!error)
        error = fill(loop, lane);
    if (error) {
        destroy(loop, lane, registered);
        if (error != -ENOBUFS) /* what is refused once is not asked for again */
            state->features &= ~(uint32_t)FEATURE_INCREMENTAL;
        return;
    }
    lane->owner = slot->index + 1;
    lane->active_ms = loop_time(loop);
    slot_cold(loop, slot)->lane = (uint32_t)(lane - state->lanes) + 1;
    slot->flags |= SLOT_LANE;
    state->lanes_used++;
    loop->stats.lanes++;
}

void
uring_lane_close(struct berth_loop *loop, struct berth_slot *slot)
{
    struct uring_lane *lane = lane_of(loop, slot);
    destroy(loop, lane, 1);
    struct conn_cold *cold = slot_cold(loop, slot);
    cold->lane = 0;
    cold->bulk_score = 0;
    slot->flags &= (uint8_t)~SLOT_LANE;
    uring_state(loop)->lanes_used--;
}

void
uring_lane_consider(struct berth_loop *loop, struct berth_slot *slot)
{
    if (slot->flags & SLOT_PARKED)
        return; /* it is pulled from now on */
    if (bulk_again(loop, slot) >= BULK_SHARES && uring_has(uring_state(loop), FEATURE_INCREMENTAL))
        lane_open(loop, slot);
}

void
uring_lane_ended(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    /* Whoever is pulled from now on has no use for it. */
    if (lane_of(loop, slot)->leaving || result == -ENOBUFS || slot->flags & SLOT_PARKED)
        uring_lane_close(loop, slot);
}

void
uring_lanes_destroy(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    for (unsigned i = 0; i < LANES_MAX; i++)
        if (state->lanes[i].owner != 0)
            destroy(loop, &state->lanes[i], 0); /* the kernel's side went with the big ring */
}

void
uring_lane_tick(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    const uint64_t now_ms = loop_time(loop);
    for (unsigned i = 0; i < LANES_MAX; i++) {
        struct uring_lane *lane = &state->lanes[i];
        if (lane->owner == 0)
            continue;
        if (lane->leaving) { /* asked for already, if the kernel took the request */
            uring_stop_posted(loop, loop_slot(loop, lane->owner), OP_RECEIVE_LANE);
        } else if (lane->received > 0) {
            lane->received = 0;
            lane->active_ms = now_ms;
        } else if (now_ms - lane->active_ms >= LANE_QUIET_MS) {
            struct berth_slot *slot = loop_slot(loop, lane->owner);
            if (slot->state & CONN_RECEIVING) {
                lane->leaving = 1;
                uring_stop_posted(loop, slot, OP_RECEIVE_LANE);
            } else {
                uring_lane_close(loop, slot);
            }
        }
    }
}
