/*
 * One buffer at a time: the leases that a program holds, and the states that a driver of I/O moves
 * a buffer through. These are the calls made per event: on the owner thread each is a handful of
 * instructions, two cache lines (the record and the slab's entry), no lock, no atomic operation.
 *
 *   FREE      --post--> POSTED --lend--> BORROWED --settle--> POSTED, or LEASED if retained
 *   FREE      --get---> LEASED --send_begin--> IN_FLIGHT --send_end--> LEASED --release--> FREE
 *   POSTED    --lend_run--> several as one span: pool_run.c
 *   POSTED    --lend_part--> FILLING, lent --settle_part--> FILLING --filled--> POSTED or LEASED
 *
 * The invariants kept here: references >= sends in flight, because each holds a reference; a FREE
 * or POSTED buffer has neither; and a generation ends with the last right to look at the bytes.
 *
 * SPDX-License-Identifier: MIT
 */
#include "core/pool_internal.h"

#include "os/copy.h"

/** The bytes that a lease may reach into. */
static size_t
root_bytes(const struct berth_pool *pool, uint32_t buffer)
{
    if (BERTH_UNLIKELY(pool_is_wrapped(pool, buffer)))
        return pool_wrapped_of(pool, buffer)->length;
    return (size_t)1 << pool_slab_of(pool, buffer)->shift;
}

static unsigned char *
root_data(const struct berth_pool *pool, uint32_t buffer)
{
    if (BERTH_UNLIKELY(pool_is_wrapped(pool, buffer)))
        return pool_wrapped_of(pool, buffer)->data;
    return pool_slab_data(pool_slab_of(pool, buffer), buffer);
}

/* ---- leases -------------------------------------------------------------------------------- */

static int
lease_take(struct berth_pool *pool, unsigned size_class, unsigned purpose, const void *site,
           struct berth_lease *lease)
{
    uint32_t buffer;
    struct buffer_meta *meta = pool_take(pool, size_class, purpose, &buffer);
    if (BERTH_UNLIKELY(meta == NULL))
        return -ENOBUFS;
    const uint32_t bytes = UINT32_C(1) << berth_pool_shifts[size_class];
    const struct slab *slab = pool_slab_of(pool, buffer);
    unsigned char *data = pool_slab_data(slab, buffer);
    pool_pattern_check(pool, buffer, data);
    if (BERTH_UNLIKELY(slab->wipe))
        berth_delivered(data, bytes); /* its zeroes are promised */
    else
        berth_unpoison(data, bytes);
    meta->stage = STATE_LEASED;
    meta->references = 1;
    meta->length = bytes;
    pool_trace(pool, buffer, site);
    *lease = (struct berth_lease){
        .buffer = buffer, .generation = meta->generation, .offset = 0, .length = bytes};
    return 0;
}

int
berth_pool_get(struct berth_pool *pool, enum berth_class size_class, enum berth_purpose purpose,
               struct berth_lease *lease)
{
    if (pool == NULL || lease == NULL || (unsigned)size_class >= BERTH_CLASS_COUNT ||
        (unsigned)purpose >= POOL_PURPOSES)
        return -EINVAL;
    BERTH_CHECK(pool_is_owner(pool));
    return lease_take(pool, size_class, purpose, __builtin_return_address(0), lease);
}

void *
berth_lease_data(const struct berth_pool *pool, struct berth_lease lease)
{
    if (BERTH_UNLIKELY(pool == NULL) || pool_held(pool, lease) == NULL)
        return NULL;
    const uint64_t end = (uint64_t)lease.offset + lease.length;
    if (BERTH_UNLIKELY(end > root_bytes(pool, lease.buffer)))
        return berth_pool_run_data(pool, lease);
    return root_data(pool, lease.buffer) + lease.offset;
}

/** One more reference to a buffer that has a good one. */
static int
reference_add(struct berth_pool *pool, uint32_t buffer, struct buffer_meta *meta, const void *site)
{
    if (BERTH_UNLIKELY(meta->references == POOL_REFERENCES_MAX))
        return -EOVERFLOW;
    meta->references++;
    pool_trace(pool, buffer, site);
    return 0;
}

int
berth_pool_piece_move(struct berth_pool *pool, const unsigned char *piece, uint32_t length,
                      size_t held, const void *site, struct berth_lease *lease)
{
    const int smaller = berth_class_for(length);
    if (length >= held / 8 || smaller < 0 || (size_t)1 << berth_pool_shifts[smaller] >= held)
        return -EMSGSIZE;
    const int error = lease_take(pool, (unsigned)smaller, BERTH_FOR_NEW, site, lease);
    if (error != 0)
        return error;
    berth_copy(&pool->copies.received_compact, root_data(pool, lease->buffer), piece, length);
    lease->length = length;
    return 0;
}

int
berth_retain(struct berth_pool *pool, const struct berth_span *span, uint32_t offset,
             uint32_t length, unsigned flags, struct berth_lease *lease)
{
    if (pool == NULL || span == NULL || lease == NULL || length == 0 ||
        (flags & ~BERTH_MAY_COPY) != 0 || (uint64_t)offset + length > span->length)
        return -EINVAL;
    BERTH_CHECK(pool_is_owner(pool));
    const void *site = __builtin_return_address(0);
    if (BERTH_UNLIKELY(span->buffer >= pool->ids || !meta_is_lent(&pool->metas[span->buffer])))
        return berth_pool_run_retain(pool, span, offset, length, flags, site, lease);

    struct buffer_meta *meta = &pool->metas[span->buffer];
    const uintptr_t start = (uintptr_t)root_data(pool, span->buffer);
    const uintptr_t begin = (uintptr_t)span->data;
    if (begin < start || begin + span->length > start + meta->length)
        return -EINVAL;
    const unsigned char *piece = (const unsigned char *)span->data + offset;
    if ((flags & BERTH_MAY_COPY) != 0 &&
        berth_pool_piece_move(pool, piece, length, root_bytes(pool, span->buffer), site, lease) ==
            0)
        return 0;

    const int error = reference_add(pool, span->buffer, meta, site);
    if (error != 0)
        return error;
    *lease = (struct berth_lease){.buffer = span->buffer,
                                  .generation = meta->generation,
                                  .offset = (uint32_t)(begin - start) + offset,
                                  .length = length};
    return 0;
}

int
berth_lease_share(struct berth_pool *pool, struct berth_lease lease)
{
    if (pool == NULL)
        return -EINVAL;
    BERTH_CHECK(pool_is_owner(pool));
    struct buffer_meta *meta = pool_held(pool, lease);
    if (meta == NULL)
        return berth_pool_illegal(pool);
    return reference_add(pool, lease.buffer, meta, __builtin_return_address(0));
}

int
berth_slice(struct berth_pool *pool, struct berth_lease lease, uint32_t offset, uint32_t length,
            struct berth_lease *slice)
{
    if (pool == NULL || slice == NULL || length == 0 || (uint64_t)offset + length > lease.length)
        return -EINVAL;
    BERTH_CHECK(pool_is_owner(pool));
    struct buffer_meta *meta = pool_held(pool, lease);
    if (meta == NULL)
        return berth_pool_illegal(pool);
    const void *site = __builtin_return_address(0);
    if (BERTH_UNLIKELY((uint64_t)lease.offset + lease.length > root_bytes(pool, lease.buffer)))
        return berth_pool_run_slice(pool, lease, offset, length, site, slice);
    const int error = reference_add(pool, lease.buffer, meta, site);
    if (error != 0)
        return error;
    *slice = lease;
    slice->offset += offset;
    slice->length = length;
    return 0;
}

int
berth_release(struct berth_pool *pool, struct berth_lease lease)
{
    if (BERTH_UNLIKELY(pool == NULL))
        return -EINVAL;
    if (BERTH_UNLIKELY(!pool_is_owner(pool)))
        return berth_pool_release_remote(pool, lease);
    struct buffer_meta *meta = pool_held(pool, lease);
    if (BERTH_UNLIKELY(meta == NULL || meta->references == meta_sends(meta)))
        return berth_pool_illegal(pool);
    if (--meta->references == 0) {
        if (BERTH_LIKELY(meta_state(meta) == STATE_LEASED))
            pool_free(pool, lease.buffer, meta);
        else if (meta_state(meta) == STATE_FILLING)
            pool_generation_advance(meta); /* nobody has a right to what has been lent of it */
        else if (meta_is_run(meta))
            (void)berth_pool_run_over(pool, lease.buffer);
    }
    return 0;
}

int
berth_lease_send_begin(struct berth_pool *pool, struct berth_lease lease)
{
    if (BERTH_UNLIKELY(pool == NULL))
        return -EINVAL;
    struct buffer_meta *meta = pool_held(pool, lease);
    if (BERTH_UNLIKELY(meta == NULL || meta->references == meta_sends(meta)))
        return berth_pool_illegal(pool);
    meta->stage += STAGE_SEND;
    return 0;
}

int
berth_lease_send_end(struct berth_pool *pool, struct berth_lease lease)
{
    if (BERTH_UNLIKELY(pool == NULL))
        return -EINVAL;
    struct buffer_meta *meta = pool_held(pool, lease);
    if (BERTH_UNLIKELY(meta == NULL || meta_sends(meta) == 0))
        return berth_pool_illegal(pool);
    meta->stage -= STAGE_SEND;
    return 0;
}

/* ---- for those who drive I/O --------------------------------------------------------------- */

int
berth_pool_post(struct berth_pool *pool, enum berth_class size_class, enum berth_purpose purpose,
                uint32_t *buffer, void **data)
{
    if (pool == NULL || buffer == NULL || data == NULL ||
        (unsigned)size_class >= BERTH_CLASS_COUNT || (unsigned)purpose >= POOL_PURPOSES)
        return -EINVAL;
    BERTH_CHECK(pool_is_owner(pool));
    struct buffer_meta *meta = pool_take(pool, size_class, purpose, buffer);
    if (BERTH_UNLIKELY(meta == NULL))
        return -ENOBUFS;
    unsigned char *start = pool_slab_data(pool_slab_of(pool, *buffer), *buffer);
    pool_pattern_check(pool, *buffer, start); /* and it stays poisoned: it is the kernel's now */
    meta->stage = STATE_POSTED;
    meta->length = 0;
    pool_trace(pool, *buffer, __builtin_return_address(0));
    *data = start;
    return 0;
}

/** The record of a buffer in that state, or NULL. */
static struct buffer_meta *
in_state(const struct berth_pool *pool, uint32_t buffer, enum buffer_state state)
{
    if (BERTH_UNLIKELY(buffer >= pool->ids))
        return NULL;
    struct buffer_meta *meta = &pool->metas[buffer];
    return BERTH_LIKELY(meta_state(meta) == state) ? meta : NULL;
}

int
berth_pool_expose(struct berth_pool *pool, uint32_t buffer)
{
    if (BERTH_UNLIKELY(pool == NULL))
        return -EINVAL;
    if (BERTH_UNLIKELY(in_state(pool, buffer, STATE_POSTED) == NULL))
        return berth_pool_illegal(pool);
    const struct slab *slab = pool_slab_of(pool, buffer);
    berth_unpoison(pool_slab_data(slab, buffer), (size_t)1 << slab->shift);
    return 0;
}

int
berth_pool_unpost(struct berth_pool *pool, uint32_t buffer)
{
    if (BERTH_UNLIKELY(pool == NULL))
        return -EINVAL;
    struct buffer_meta *meta = in_state(pool, buffer, STATE_POSTED);
    if (BERTH_UNLIKELY(meta == NULL))
        return berth_pool_illegal(pool);
    const struct slab *slab = pool_slab_of(pool, buffer);
    unsigned char *data = pool_slab_data(slab, buffer);
    const size_t bytes = (size_t)1 << slab->shift;
    if (BERTH_UNLIKELY(slab->wipe))
        pool_wipe(data, bytes); /* nobody knows how much the kernel wrote */
    berth_poison(data, bytes);
    pool_give(pool, buffer, meta);
    return 0;
}

int
berth_pool_lend(struct berth_pool *pool, uint32_t buffer, uint32_t length, struct berth_span *span)
{
    if (BERTH_UNLIKELY(pool == NULL || span == NULL || length == 0))
        return -EINVAL;
    struct buffer_meta *meta = in_state(pool, buffer, STATE_POSTED);
    if (BERTH_UNLIKELY(meta == NULL))
        return berth_pool_illegal(pool);
    const struct slab *slab = pool_slab_of(pool, buffer);
    if (BERTH_UNLIKELY(length > UINT32_C(1) << slab->shift))
        return -EINVAL;
    unsigned char *data = pool_slab_data(slab, buffer);
    berth_poison(data, (size_t)1 << slab->shift); /* an exposed one: exactly `length` from here */
    berth_delivered(data, length);
    meta->stage = STATE_BORROWED;
    meta->length = length;
    *span = (struct berth_span){.data = data, .length = length, .buffer = buffer};
    return 0;
}

int
berth_pool_settle(struct berth_pool *pool, uint32_t buffer)
{
    if (BERTH_UNLIKELY(pool == NULL))
        return -EINVAL;
    struct buffer_meta *meta = in_state(pool, buffer, STATE_BORROWED);
    if (BERTH_UNLIKELY(meta == NULL))
        return berth_pool_run_settle(pool, buffer);
    if (meta->references > 0) {
        meta->stage += STATE_LEASED - STATE_BORROWED; /* it may have sends already */
        return 0;
    }
    const struct slab *slab = pool_slab_of(pool, buffer);
    if (BERTH_UNLIKELY(slab->size_class == CLASS_WRAPPED)) {
        pool_free(pool, buffer, meta); /* memory that was lent and is nobody's: not ours either */
        return 0;
    }
    unsigned char *data = pool_slab_data(slab, buffer);
    if (BERTH_UNLIKELY(slab->wipe))
        pool_wipe(data, meta->length);
    berth_poison(data, (size_t)1 << slab->shift);
    pool_generation_advance(meta); /* what was retained and released meanwhile is over */
    meta->stage = STATE_POSTED;
    meta->length = 0;
    return 1;
}

/* ---- buffers that are filled part by part -------------------------------------------------- */

int
berth_pool_lend_part(struct berth_pool *pool, uint32_t buffer, uint32_t offset, uint32_t length,
                     struct berth_span *span)
{
    if (BERTH_UNLIKELY(pool == NULL || span == NULL || length == 0))
        return -EINVAL;
    struct buffer_meta *meta = in_state(pool, buffer, STATE_FILLING);
    if (meta == NULL)
        meta = in_state(pool, buffer, STATE_POSTED);
    if (BERTH_UNLIKELY(meta == NULL))
        return berth_pool_illegal(pool);
    const struct slab *slab = pool_slab_of(pool, buffer);
    if (BERTH_UNLIKELY(offset < meta->length || (uint64_t)offset + length > UINT64_C(1)
                                                                                << slab->shift))
        return -EINVAL;
    unsigned char *data = pool_slab_data(slab, buffer) + offset;
    berth_delivered(data, length);
    meta->stage = (meta->stage & ~STAGE_STATE) | STATE_FILLING_LENT;
    meta->length = offset + length;
    *span = (struct berth_span){.data = data, .length = length, .buffer = buffer};
    return 0;
}

int
berth_pool_settle_part(struct berth_pool *pool, const struct berth_span *span)
{
    if (BERTH_UNLIKELY(pool == NULL || span == NULL))
        return -EINVAL;
    struct buffer_meta *meta = in_state(pool, span->buffer, STATE_FILLING_LENT);
    if (BERTH_UNLIKELY(meta == NULL))
        return berth_pool_illegal(pool);
    if (meta->references == 0) {
        berth_poison(span->data, span->length);
        pool_generation_advance(meta); /* what was retained and released meanwhile is over */
    }
    meta->stage = (meta->stage & ~STAGE_STATE) | STATE_FILLING;
    return 0;
}

int
berth_pool_filled(struct berth_pool *pool, uint32_t buffer)
{
    if (BERTH_UNLIKELY(pool == NULL))
        return -EINVAL;
    struct buffer_meta *meta = in_state(pool, buffer, STATE_FILLING);
    if (BERTH_UNLIKELY(meta == NULL))
        return berth_pool_illegal(pool);
    const struct slab *slab = pool_slab_of(pool, buffer);
    if (BERTH_UNLIKELY(slab->wipe))
        meta->length = UINT32_C(1) << slab->shift; /* nobody knows how much the kernel wrote */
    meta->stage = (meta->stage & ~STAGE_STATE) | STATE_BORROWED;
    return berth_pool_settle(pool, buffer);
}
