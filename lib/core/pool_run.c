/*
 * Runs: buffers that lie one behind the other and are lent as one span. Each stays a buffer by
 * itself, with a record of its own, and is settled by itself; only the span is one.
 *
 *   POSTED --lend_run--> RUN, RUN_REST ... --settle, one by one--> POSTED, LEASED or
 * LEASED_REACHING
 *
 * A lease of a run names the buffer that it begins in. Where it reaches beyond, that buffer's
 * `length` says how far, and it holds a reference to each buffer that it reaches into, once for all
 * leases that begin there. So a lease holds what it touches and not the run, and a buffer of a run
 * is over when its references are, as any other is.
 *
 * The invariants kept here: what a record reaches into lies behind it, was lent in the same run,
 * and is not free; a record without references reaches into nothing beyond its own buffer.
 *
 * SPDX-License-Identifier: MIT
 */
#include "core/pool_internal.h"

/** The buffers behind it that a record's leases reach into. */
static uint32_t
reached(const struct buffer_meta *meta, unsigned shift)
{
    return meta->length > UINT32_C(1) << shift ? (meta->length - 1) >> shift : 0;
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
    if (reached(meta, pool_slab_of(pool, buffer)->shift) > 0) {
        BERTH_ASSERT(meta->references > 0);
        state_set(meta, STATE_LEASED_REACHING);
        return 0;
    }
    state_set(meta, STATE_BORROWED); /* from here on it is a buffer like any other */
    return berth_pool_settle(pool, buffer);
}

/* ---- leases -------------------------------------------------------------------------------- */

/** A lease of the bytes from `offset` of a buffer, holding all buffers that it reaches into. */
static int
lease_reaching(struct berth_pool *pool, uint32_t buffer, uint32_t offset, uint32_t length,
               const void *site, struct berth_lease *lease)
{
    struct buffer_meta *meta = &pool->metas[buffer];
    const unsigned shift = pool_slab_of(pool, buffer)->shift;
    const uint32_t end = offset + length;
    const uint32_t before = reached(meta, shift);
    const uint32_t after = (end - 1) >> shift;
    BERTH_ASSERT(offset < UINT32_C(1) << shift && after < BERTH_RUN_MAX);
    int full = meta->references == POOL_REFERENCES_MAX;
    for (uint32_t i = before + 1; i <= after; i++)
        full |= meta[i].references == POOL_REFERENCES_MAX;
    if (full)
        return -EOVERFLOW;

    for (uint32_t i = before + 1; i <= after; i++) {
        meta[i].references++;
        pool_trace(pool, buffer + i, site);
    }
    if (after > 0 && end > meta->length) {
        meta->length = end;
        if (meta_state(meta) == STATE_LEASED)
            state_set(meta, STATE_LEASED_REACHING);
    }
    meta->references++;
    pool_trace(pool, buffer, site);
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
    return is_lent(meta) && end - (last << slab->shift) <= meta->length;
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

int
berth_pool_run_covers(const struct berth_pool *pool, uint32_t buffer, uint64_t end)
{
    if (pool_is_wrapped(pool, buffer))
        return 0; /* its records hold lengths that mean something else */
    const struct buffer_meta *meta = &pool->metas[buffer];
    return (is_lent(meta) || meta_state(meta) == STATE_LEASED_REACHING) && end <= meta->length;
}

int
berth_pool_run_slice(struct berth_pool *pool, struct berth_lease lease, uint32_t offset,
                     uint32_t length, const void *site, struct berth_lease *slice)
{
    if (!berth_pool_run_covers(pool, lease.buffer, (uint64_t)lease.offset + lease.length))
        return -EINVAL;
    const unsigned shift = pool_slab_of(pool, lease.buffer)->shift;
    const uint32_t at = lease.offset + offset;
    const uint32_t first = at >> shift;
    return lease_reaching(pool, lease.buffer + first, at - (first << shift), length, site, slice);
}

/* ---- the end ------------------------------------------------------------------------------- */

/** Ends so many of the references to a buffer that others hold which reach into it. */
static void
let_go(struct berth_pool *pool, struct buffer_meta *meta, uint32_t count)
{
    const uint32_t held = meta->references - meta_sends(meta);
    for (; BERTH_UNLIKELY(count > held); count--)
        (void)berth_pool_illegal(pool); /* somebody has released a lease of it twice */
    meta->references -= count;
}

unsigned
berth_pool_run_over(struct berth_pool *pool, uint32_t buffer)
{
    struct buffer_meta *metas = &pool->metas[buffer];
    const unsigned shift = pool_slab_of(pool, buffer)->shift;
    int16_t changes[BERTH_RUN_MAX + 1] = {0}; /* of how many that are over reach into a buffer */
    int into = 0;
    uint32_t last = 0;
    /* Forwards: who is over lets go of what it reaches into, which may be over by that. */
    for (uint32_t i = 0; i <= last; i++) {
        struct buffer_meta *meta = &metas[i];
        into += changes[i];
        if (i > 0)
            let_go(pool, meta, (uint32_t)into);
        if (meta->references > 0)
            continue;
        const uint32_t more = reached(meta, shift);
        BERTH_ASSERT(i + more < BERTH_RUN_MAX);
        if (more == 0)
            continue;
        changes[i + 1]++;
        changes[i + more + 1]--;
        if (i + more > last)
            last = i + more;
        meta->length = UINT32_C(1) << shift;
        if (meta_state(meta) == STATE_LEASED_REACHING)
            state_set(meta, STATE_LEASED);
    }
    /* Backwards: the free list hands out what comes last first, and so in order of addresses. */
    unsigned freed = 0;
    for (uint32_t i = last + 1; i-- > 0;) {
        if (metas[i].references == 0 && meta_state(&metas[i]) == STATE_LEASED) {
            pool_free(pool, buffer + i, &metas[i]);
            freed++;
        }
    }
    return freed;
}
