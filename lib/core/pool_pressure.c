/*
 * Running low: what is still to be had and for whom, who waits for it, whom to warn, and whether a
 * set of consumers fits at all.
 *
 * A reserve is a floor that a purpose may not dig below: 1/16 of a class for requests already
 * begun, so that they can finish and give back what they hold; the very last buffer for noticing
 * ends and errors, because with an empty ring the kernel cannot even report a peer's FIN.
 *
 * The invariant kept here: waiters are woken in order, within their class and purpose, and only
 * when the buffers they wait for are really there.
 *
 * SPDX-License-Identifier: MIT
 */
#include "core/pool_internal.h"

/** Buffers of the class that could be handed out at once if `slabs` more slabs are to be had. */
static uint32_t
available_with(const struct berth_pool *pool, unsigned size_class, unsigned purpose, uint32_t slabs)
{
    const struct pool_class *class = &pool->classes[size_class];
    const uint32_t more = slabs * pool_per_slab(size_class);
    const uint32_t floor = (uint32_t)berth_pool_floor(class->capacity + more, purpose);
    const uint32_t free_count = class->free_count + more;
    return free_count > floor ? free_count - floor : 0;
}

uint32_t
berth_pool_available(const struct berth_pool *pool, enum berth_class size_class,
                     enum berth_purpose purpose)
{
    if (pool == NULL || (unsigned)size_class >= BERTH_CLASS_COUNT ||
        (unsigned)purpose >= POOL_PURPOSES)
        return 0;
    /* While the source of slabs is known to refuse, only what is there counts. */
    const uint32_t slabs = pool->grow_wait > 0 ? 0 : pool_slabs_left(pool, size_class);
    return available_with(pool, size_class, purpose, slabs);
}

/* ---- waiters ------------------------------------------------------------------------------- */

static int
waiter_check(const struct berth_pool *pool, const struct berth_waiter *waiter)
{
    if ((unsigned)waiter->size_class >= BERTH_CLASS_COUNT ||
        (unsigned)waiter->purpose >= POOL_PURPOSES || waiter->ready == NULL || waiter->count == 0)
        return -EINVAL;
    const uint64_t most =
        (uint64_t)pool->classes[waiter->size_class].slabs_max * pool_per_slab(waiter->size_class);
    return waiter->count > most - berth_pool_floor(most, waiter->purpose) ? -EINVAL : 0;
}

int
berth_pool_wait(struct berth_pool *pool, struct berth_waiter *waiter)
{
    if (pool == NULL || waiter == NULL)
        return -EINVAL;
    if (waiter->pool != NULL)
        return -EALREADY;
    const int error = waiter_check(pool, waiter);
    if (error != 0)
        return error;
    struct wait_queue *queue = &pool->queues[waiter->size_class][waiter->purpose];
    waiter->pool = pool;
    waiter->next = NULL;
    waiter->previous = queue->tail;
    if (queue->tail != NULL)
        queue->tail->next = waiter;
    else
        queue->head = waiter;
    queue->tail = waiter;
    queue->count++;
    pool->waiting++;
    pool->stats.waits++;
    return 0;
}

int
berth_pool_wait_abort(struct berth_waiter *waiter)
{
    if (waiter == NULL)
        return -EINVAL;
    struct berth_pool *pool = waiter->pool;
    if (pool == NULL)
        return -ENOENT;
    struct wait_queue *queue = &pool->queues[waiter->size_class][waiter->purpose];
    BERTH_ASSERT(queue->count > 0 && pool->waiting > 0);
    if (waiter->previous != NULL)
        waiter->previous->next = waiter->next;
    else
        queue->head = waiter->next;
    if (waiter->next != NULL)
        waiter->next->previous = waiter->previous;
    else
        queue->tail = waiter->previous;
    queue->count--;
    pool->waiting--;
    waiter->next = NULL;
    waiter->previous = NULL;
    waiter->pool = NULL;
    return 0;
}

/** Whether the buffers are there; adds slabs to make it so, if that can succeed. */
static int
waiter_can_go(struct berth_pool *pool, const struct berth_waiter *waiter)
{
    return berth_pool_available(pool, waiter->size_class, waiter->purpose) >= waiter->count &&
           berth_pool_grow(pool, waiter->size_class, waiter->purpose, waiter->count);
}

/** Each waiter of the beginning is looked at once: one who waits again has the next turn. */
static void
queue_serve(struct berth_pool *pool, struct wait_queue *queue)
{
    for (uint32_t left = queue->count; left > 0 && queue->head != NULL; left--) {
        struct berth_waiter *waiter = queue->head;
        if (!waiter_can_go(pool, waiter))
            return;
        (void)berth_pool_wait_abort(waiter);
        pool->callbacks++;
        waiter->ready(waiter, waiter->context);
        pool->callbacks--;
    }
}

/* ---- watermarks ---------------------------------------------------------------------------- */

int
berth_pool_watermark(struct berth_pool *pool, enum berth_class size_class, uint32_t low,
                     uint32_t high, berth_watermark_fn fn, void *context)
{
    if (pool == NULL || (unsigned)size_class >= BERTH_CLASS_COUNT || (fn != NULL && low >= high))
        return -EINVAL;
    struct watermark *mark = &pool->watermarks[size_class];
    pool->watched += (fn != NULL) - (mark->fn != NULL);
    *mark = (struct watermark){.fn = fn, .context = context, .low = low, .high = high};
    return 0;
}

static void
watermark_serve(struct berth_pool *pool, unsigned size_class)
{
    struct watermark *mark = &pool->watermarks[size_class];
    if (mark->fn == NULL)
        return;
    const uint32_t available =
        berth_pool_available(pool, (enum berth_class)size_class, BERTH_FOR_NEW);
    const int is_low = mark->is_low ? available < mark->high : available < mark->low;
    if (is_low == mark->is_low)
        return;
    mark->is_low = is_low;
    pool->callbacks++;
    mark->fn(pool, (enum berth_class)size_class, is_low, mark->context);
    pool->callbacks--;
}

void
berth_pool_serve(struct berth_pool *pool)
{
    /* Those who can finish and give buffers back go first. */
    for (unsigned size_class = 0; pool->waiting > 0 && size_class < BERTH_CLASS_COUNT; size_class++)
        for (int purpose = POOL_PURPOSES - 1; purpose >= 0; purpose--)
            queue_serve(pool, &pool->queues[size_class][purpose]);
    for (unsigned size_class = 0; pool->watched > 0 && size_class < BERTH_CLASS_COUNT; size_class++)
        watermark_serve(pool, size_class);
}

/* ---- budget -------------------------------------------------------------------------------- */

/** Far above any pool, far below overflow: more than this counts as this. */
#define BUFFERS_COUNTED_MAX (UINT64_C(1) << 40)

/** Slabs with which `buffers` can be held for BERTH_FOR_NEW, the reserves staying untouched. */
static uint64_t
slabs_needed(unsigned size_class, uint64_t buffers)
{
    if (buffers == 0)
        return 0;
    /* At least 16/15 of the buffers, less the rounding: so the search is a few steps long. */
    const uint64_t per_slab = pool_per_slab(size_class);
    uint64_t slabs = (buffers - 1) / 15 * 16 / per_slab;
    while (slabs * per_slab < buffers + berth_pool_floor(slabs * per_slab, BERTH_FOR_NEW))
        slabs++;
    return slabs;
}

static uint64_t
over(uint64_t wanted, uint64_t limit)
{
    return wanted > limit ? wanted - limit : 0;
}

int
berth_pool_budget(const struct berth_pool *pool, const struct berth_consumer *consumers,
                  unsigned count, uint64_t *missing_bytes)
{
    if (pool == NULL || (consumers == NULL && count > 0))
        return -EINVAL;
    uint64_t buffers[BERTH_CLASS_COUNT] = {0};
    for (unsigned i = 0; i < count; i++) {
        if ((unsigned)consumers[i].size_class >= BERTH_CLASS_COUNT)
            return -EINVAL;
        uint64_t *sum = &buffers[consumers[i].size_class];
        const uint64_t more = consumers[i].buffers;
        *sum = more > BUFFERS_COUNTED_MAX - *sum ? BUFFERS_COUNTED_MAX : *sum + more;
    }
    uint64_t slabs = 0, missing_in_classes = 0;
    for (unsigned size_class = 0; size_class < BERTH_CLASS_COUNT; size_class++) {
        const uint64_t needed = slabs_needed(size_class, buffers[size_class]);
        slabs += needed;
        missing_in_classes += over(needed, pool->classes[size_class].slabs_max);
    }
    const uint64_t missing_in_pool = over(slabs, pool->slabs_max);
    const uint64_t missing =
        missing_in_pool > missing_in_classes ? missing_in_pool : missing_in_classes;
    if (missing_bytes != NULL)
        *missing_bytes = missing * POOL_SLAB_BYTES;
    return missing > 0 ? -ENOSPC : 0;
}
