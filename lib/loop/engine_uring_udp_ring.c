/*
 * The rings of buffers that datagrams are received into: one of 4 KiB buffers, one of 64 KiB
 * buffers, each made when the first socket needs it and shared by all that do. They are not the
 * ring that streams use: a flood of datagrams must not take the streams' buffers.
 *
 * The invariant: every buffer id has a posted pool buffer behind it, or is in the list of idle ids.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_URING
#include "loop/engine_uring_udp.h"

#include <stdlib.h>
#include <string.h>

#include "os/memory.h"
#include "os/sys.h"

/** Buffer groups, beside the streams' own. */
#define GROUP_SMALL 1
#define GROUP_LARGE 2

/** Ids in each ring, and buffers posted to begin with: 256 KiB and 1 MiB. */
#define SMALL_COUNT 1024
#define SMALL_FIRST 64
#define LARGE_COUNT 128
#define LARGE_FIRST 16

static int
ring_create(struct berth_loop *loop, struct datagram_ring *ring, int large)
{
    const uint32_t count = large ? LARGE_COUNT : SMALL_COUNT;
    const size_t bytes = count * sizeof(struct io_uring_buf);
    void *memory = NULL;
    int error = berth_memory_take(&memory, bytes, "berth-udp-ring");
    if (error)
        return error;
    ring->by_id = (struct receive_buffer *)calloc(count, sizeof(*ring->by_id));
    ring->idle_ids = (uint16_t *)calloc(count, sizeof(*ring->idle_ids));
    if (ring->by_id == NULL || ring->idle_ids == NULL)
        error = -ENOMEM;
    if (error == 0) {
        berth_memory_advise(memory, bytes, BERTH_MEMORY_NO_FORK);
        io_uring_buf_ring_init((struct io_uring_buf_ring *)memory);
        struct io_uring_buf_reg registration;
        memset(&registration, 0, sizeof(registration));
        registration.ring_addr = (uint64_t)(uintptr_t)memory;
        registration.ring_entries = count;
        registration.bgid = large ? GROUP_LARGE : GROUP_SMALL;
        error = (int)sys_uring_register_buffers(&uring_state(loop)->ring, &registration);
        loop->stats.syscalls++;
    }
    if (error) {
        free(ring->by_id);
        free(ring->idle_ids);
        memset(ring, 0, sizeof(*ring));
        berth_memory_release(memory, bytes);
        return error;
    }
    ring->entries = (struct io_uring_buf_ring *)memory;
    ring->count = count;
    ring->posted_max = large ? LARGE_FIRST : SMALL_FIRST;
    ring->size_class = large ? BERTH_CLASS_64K : BERTH_CLASS_4K;
    ring->group = large ? GROUP_LARGE : GROUP_SMALL;
    for (uint32_t id = count; id-- > 0;)
        ring->idle_ids[ring->idle_count++] = (uint16_t)id;
    return 0;
}

int
uring_datagram_ring(struct berth_loop *loop, int large, struct datagram_ring **result)
{
    struct uring_engine *state = uring_state(loop);
    if (state->udp == NULL)
        state->udp = (struct uring_udp *)calloc(1, sizeof(*state->udp));
    if (state->udp == NULL)
        return -ENOMEM;
    struct datagram_ring *ring = &state->udp->rings[large];
    *result = ring;
    return ring->entries != NULL ? 0 : ring_create(loop, ring, large);
}

void
uring_datagram_give(struct datagram_ring *ring, uint16_t id)
{
    io_uring_buf_ring_add(ring->entries, ring->by_id[id].data, berth_class_bytes(ring->size_class),
                          id, (int)ring->count - 1, (int)ring->given++);
}

/** Puts a new pool buffer behind an id that has none. 0 when the pool has none either. */
static int
post(struct berth_loop *loop, struct datagram_ring *ring, uint16_t id)
{
    /* With none left at all, one from the reserve: somebody may wait for just this datagram. */
    const enum berth_purpose purpose = ring->posted == 0 ? BERTH_FOR_ACTIVE : BERTH_FOR_NEW;
    struct receive_buffer *buffer = &ring->by_id[id];
    if (berth_pool_post(loop->pool, ring->size_class, purpose, &buffer->buffer, &buffer->data) !=
        0) {
        buffer->data = NULL;
        ring->idle_ids[ring->idle_count++] = id;
        return 0;
    }
    ring->posted++;
    uring_datagram_give(ring, id);
    return 1;
}

void
uring_datagram_settle(struct berth_loop *loop, struct datagram_ring *ring, uint16_t id)
{
    if (berth_pool_settle(loop->pool, ring->by_id[id].buffer) == 1) {
        uring_datagram_give(ring, id);
        return;
    }
    ring->posted--;
    (void)post(loop, ring, id);
}

void
uring_datagram_grow(struct datagram_ring *ring)
{
    if (ring->posted == ring->posted_max && ring->posted_max < ring->count)
        ring->posted_max *= 2;
}

int
uring_datagram_fill(struct berth_loop *loop, struct datagram_ring *ring)
{
    while (ring->posted < ring->posted_max && ring->idle_count > 0 &&
           (ring->posted == 0 || loop->starved.count == 0)) /* connections that wait come first */
        if (!post(loop, ring, ring->idle_ids[--ring->idle_count]))
            break;
    return ring->posted > 0;
}

void
uring_datagram_refill(struct berth_loop *loop)
{
    struct uring_udp *udp = uring_state(loop)->udp;
    for (unsigned i = 0; i < 2; i++) {
        struct datagram_ring *ring = &udp->rings[i];
        if (ring->entries == NULL)
            continue;
        (void)uring_datagram_fill(loop, ring);
        if (ring->given > 0)
            io_uring_buf_ring_advance(ring->entries, (int)ring->given);
        ring->given = 0;
    }
}

void
uring_datagram_destroy(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    if (state->udp == NULL)
        return;
    for (unsigned i = 0; i < 2; i++) {
        struct datagram_ring *ring = &state->udp->rings[i];
        for (uint32_t id = 0; id < ring->count; id++)
            if (ring->by_id[id].data != NULL)
                (void)berth_pool_unpost(loop->pool, ring->by_id[id].buffer);
        berth_memory_release(ring->entries, ring->count * sizeof(struct io_uring_buf));
        free(ring->by_id);
        free(ring->idle_ids);
    }
    free(state->udp);
    state->udp = NULL;
}
