/*
 * Runs: buffers that lie one behind the other and are lent as one span. Each stays a buffer by
 * itself, with a record of its own, and is settled by itself; only the span is one.
 *
 *   POSTED --lend_run--> RUN, RUN_REST ... --settle, one by one--> POSTED, LEASED or LEASED_RUN
 *
 * A lease of a run names the buffer that it begins in. Where it reaches beyond, the record of that
 * buffer says how far, and counts as one holder of each buffer that it reaches into, for all leases
 * together that begin there. So a lease holds what it lies in and not the run.
 *
 * In the states of this file `length` is two numbers: how many others hold the buffer in that way,
 * and how far its own leases reach (or, if not beyond it, the bytes that may hold something). In
 * all other states the first is 0 and the second at most the buffer's size: nobody else need know.
 *
 * The invariants kept here: what a record reaches into lies behind it, was lent in the same run,
 * and counts it as a holder; a record without references reaches into nothing; and LEASED_RUN is
 * left for LEASED as soon as a buffer neither reaches into others nor is reached into.
 *
 * SPDX-License-Identifier: MIT
 */
#include "core/pool_internal.h"

static uint32_t
size_of(const struct berth_pool *pool, uint32_t buffer)
{
    return UINT32_C(1) << pool_slab_of(pool, buffer)->shift;
}

static void
state_set(struct buffer_meta *meta, enum buffer_state state)
{
    meta->stage = (meta->stage & ~STAGE_STATE) | state;
}

/** Whether a callback is looking at the buffer as part of a run. */
static int
is_lent(const struct buffer_meta *meta)
{
    return meta_state(meta) == STATE_RUN || meta_state(meta) == STATE_RUN_REST;
}

/** Whether it neither reaches into other buffers nor is reached into. */
static int
is_single(const struct buffer_meta *meta, uint32_t size)
{
    return meta->length <= size; /* the holders stand above the bytes */
}

/* ---- lending and settling ------------------------------------------------------------------ */

int
berth_pool_lend_run(struct berth_pool *pool, uint32_t first, uint32_t length,
                    struct berth_span *span)
{
    if (pool == NULL || span == NULL || length == 0)
        return -EINVAL;
    if (first >= pool->ids || meta_state(&pool->metas[first]) != STATE_POSTED)
        return berth_pool_illegal(pool);
    const struct slab *slab = pool_slab_of(pool, first);
    const uint32_t size = UINT32_C(1) << slab->shift;
    const uint32_t count = ((length - 1) >> slab->shift) + 1;
    if (count > BERTH_RUN_MAX ||
        (first & (POOL_SLAB_IDS - 1)) + count > pool_per_slab(slab->size_class))
        return -EINVAL;
    struct buffer_meta *metas = &pool->metas[first];
    for (uint32_t i = 1; i < count; i++)
        if (meta_state(&metas[i]) != STATE_POSTED)
            return berth_pool_illegal(pool);

    unsigned char *data = pool_slab_data(slab, first);
    berth_poison(data, (size_t)count << slab->shift); /* exposed ones: exactly `length` from here */
    berth_delivered(data, length);
    for (uint32_t i = 0; i < count; i++) {
        metas[i].stage = i == 0 ? STATE_RUN : STATE_RUN_REST;
        metas[i].length = i + 1 < count ? size : length - (i << slab->shift);
    }
    *span = (struct berth_span){.data = data, .length = length, .buffer = first};
    return 0;
}

int
berth_pool_run_settle(struct berth_pool *pool, uint32_t buffer)
{
    if (buffer >= pool->ids || !is_lent(&pool->metas[buffer]))
        return berth_pool_illegal(pool);
    struct buffer_meta *meta = &pool->metas[buffer];
    if (!is_single(meta, size_of(pool, buffer))) {
        state_set(meta, STATE_LEASED_RUN);
        if (meta->references == 0)
            pool_generation_advance(meta); /* what was retained and released meanwhile is over */
        return 0;
    }
    state_set(meta, STATE_BORROWED); /* from here on it is a buffer like any other */
    return berth_pool_settle(pool, buffer);
}

/* ---- leases -------------------------------------------------------------------------------- */

/** A lease of the bytes from `offset` of a buffer, which holds all that they lie in. */
static int
lease_reaching(struct berth_pool *pool, uint32_t buffer, uint32_t offset, uint32_t length,
               const void *site, struct berth_lease *lease)
{
    struct buffer_meta *meta = &pool->metas[buffer];
    const unsigned shift = pool_slab_of(pool, buffer)->shift;
    const uint32_t end = offset + length;
    BERTH_ASSERT(offset < UINT32_C(1) << shift && (end - 1) >> shift < BERTH_RUN_MAX);
    if (meta->references == POOL_REFERENCES_MAX)
        return -EOVERFLOW;
    meta->references++;
    pool_trace(pool, buffer, site);
    for (uint32_t i = run_reached(meta, shift) + 1; i <= (end - 1) >> shift; i++) {
        meta[i].length += RUN_HOLDER;
        if (meta_state(&meta[i]) == STATE_LEASED)
            state_set(&meta[i], STATE_LEASED_RUN);
        pool_trace(pool, buffer + i, site);
    }
    if (end > UINT32_C(1) << shift && end > run_bytes(meta)) {
        meta->length += end - run_bytes(meta);
        if (meta_state(meta) == STATE_LEASED)
            state_set(meta, STATE_LEASED_RUN);
    }
    *lease = (struct berth_lease){
        .buffer = buffer, .generation = meta->generation, .offset = offset, .length = length};
    return 0;
}

/** Whether the byte before `end`, from the start of a buffer on, was lent in a run. */
static int
is_lent_until(const struct berth_pool *pool, uint32_t buffer, uint64_t end)
{
    const struct slab *slab = pool_slab_of(pool, buffer);
    const uint64_t last = (end - 1) >> slab->shift;
    if (last >= BERTH_RUN_MAX ||
        (buffer & (POOL_SLAB_IDS - 1)) + last >= pool_per_slab(slab->size_class))
        return 0;
    const struct buffer_meta *meta = &pool->metas[buffer + last];
    return is_lent(meta) && end - (last << slab->shift) <= run_bytes(meta);
}

int
berth_pool_run_retain(struct berth_pool *pool, const struct berth_span *span, uint32_t offset,
                      uint32_t length, unsigned flags, const void *site, struct berth_lease *lease)
{
    const uint32_t head = span->buffer;
    if (head >= pool->ids || meta_state(&pool->metas[head]) != STATE_RUN)
        return berth_pool_illegal(pool);
    const struct slab *slab = pool_slab_of(pool, head);
    const uintptr_t start = (uintptr_t)pool_slab_data(slab, head);
    const uintptr_t begin = (uintptr_t)span->data;
    if (begin < start || begin - start > POOL_SLAB_BYTES ||
        !is_lent_until(pool, head, begin - start + span->length))
        return -EINVAL;
    const uint32_t at = (uint32_t)(begin - start) + offset;
    const uint32_t first = at >> slab->shift;
    const uint32_t last = (at + length - 1) >> slab->shift;
    for (uint32_t i = first; i <= last; i++)
        if (!is_lent(&pool->metas[head + i]))
            return -EINVAL;
    const size_t held = (size_t)(last - first + 1) << slab->shift;
    const unsigned char *piece = (const unsigned char *)span->data + offset;
    if ((flags & BERTH_MAY_COPY) != 0 &&
        berth_pool_piece_move(pool, piece, length, held, site, lease) == 0)
        return 0;
    return lease_reaching(pool, head + first, at - (first << slab->shift), length, site, lease);
}

void *
berth_pool_run_data(const struct berth_pool *pool, struct berth_lease lease)
{
    if (pool_is_wrapped(pool, lease.buffer))
        return NULL; /* its records hold lengths that mean something else */
    const struct buffer_meta *meta = &pool->metas[lease.buffer];
    if (!meta_is_run(meta) || (uint64_t)lease.offset + lease.length > run_bytes(meta))
        return NULL;
    return pool_slab_data(pool_slab_of(pool, lease.buffer), lease.buffer) + lease.offset;
}

int
berth_pool_run_slice(struct berth_pool *pool, struct berth_lease lease, uint32_t offset,
                     uint32_t length, const void *site, struct berth_lease *slice)
{
    if (berth_pool_run_data(pool, lease) == NULL)
        return -EINVAL;
    const unsigned shift = pool_slab_of(pool, lease.buffer)->shift;
    const uint32_t at = lease.offset + offset;
    const uint32_t first = at >> shift;
    return lease_reaching(pool, lease.buffer + first, at - (first << shift), length, site, slice);
}

/* ---- the end ------------------------------------------------------------------------------- */

/** Leaves the states of runs if nothing keeps the buffer there. Returns 1 if it became free. */
static unsigned
part(struct berth_pool *pool, uint32_t buffer, struct buffer_meta *meta, uint32_t size)
{
    if (is_lent(meta) || !is_single(meta, size))
        return 0;
    state_set(meta, STATE_LEASED);
    if (meta->references > 0)
        return 0;
    pool_free(pool, buffer, meta);
    return 1;
}

unsigned
berth_pool_run_over(struct berth_pool *pool, uint32_t buffer)
{
    struct buffer_meta *meta = &pool->metas[buffer];
    const unsigned shift = pool_slab_of(pool, buffer)->shift;
    const uint32_t size = UINT32_C(1) << shift;
    unsigned freed = 0;
    /* Backwards: the free list hands out what comes last first, and so in order of addresses. */
    for (uint32_t i = run_reached(meta, shift); i > 0; i--) {
        BERTH_ASSERT(meta_is_run(&meta[i]) && meta[i].length >= RUN_HOLDER);
        meta[i].length -= RUN_HOLDER;
        freed += part(pool, buffer + i, &meta[i], size);
    }
    if (run_reached(meta, shift) > 0)
        meta->length -= run_bytes(meta) - size;
    if (!is_lent(meta) && !is_single(meta, size))
        pool_generation_advance(meta); /* others hold it, but no lease that begins in it is left */
    return freed + part(pool, buffer, meta, size);
}
