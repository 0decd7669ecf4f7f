/*
 * Looking inside a pool: its counters, the report of what is not free, and the checker. Nothing
 * here changes anything.
 *
 * SPDX-License-Identifier: MIT
 */
#include "core/pool_internal.h"

#include "os/errors.h"

void
berth_pool_stats_get(const struct berth_pool *pool, struct berth_pool_stats *stats)
{
    if (pool == NULL || stats == NULL)
        return;
    *stats = pool->stats;
    stats->illegal += __atomic_load_n(&pool->remote.illegal, __ATOMIC_RELAXED);
    stats->slabs = pool->slabs_used;
    stats->slab_bytes = (uint64_t)pool->slabs_used * POOL_SLAB_BYTES;
}

struct berth_copies *
berth_pool_copies(struct berth_pool *pool)
{
    return pool == NULL ? NULL : &pool->copies;
}

/* ---- the report ---------------------------------------------------------------------------- */

static void
holding_describe(const struct berth_pool *pool, uint32_t buffer, struct berth_holding *holding)
{
    static const char *const names[] = {
        [STATE_FREE] = "free",     [STATE_POSTED] = "posted",     [STATE_BORROWED] = "borrowed",
        [STATE_LEASED] = "leased", [STATE_FILLING] = "posted",    [STATE_FILLING_LENT] = "borrowed",
        [STATE_RUN] = "borrowed",  [STATE_RUN_REST] = "borrowed", [STATE_LEASED_RUN] = "leased"};
    const struct buffer_meta *meta = &pool->metas[buffer];
    const struct slab *slab = pool_slab_of(pool, buffer);
    const int leased = meta_state(meta) == STATE_LEASED || meta_state(meta) == STATE_LEASED_RUN;
    const int sending = leased && meta_sends(meta) > 0;
    *holding = (struct berth_holding){.buffer = buffer,
                                      .size_class = (enum berth_class)slab->size_class,
                                      .state = sending ? "in flight" : names[meta_state(meta)],
                                      .references = meta->references};
    if (meta_is_run(meta))
        holding->references += run_holders(meta);
#ifdef BERTH_CHECKS
    holding->site = pool->traces[buffer].site;
    holding->age_turns = pool->turns - pool->traces[buffer].turn;
#endif
}

unsigned
berth_pool_report(const struct berth_pool *pool,
                  void (*fn)(const struct berth_holding *, void *context), void *context)
{
    if (pool == NULL)
        return 0;
    unsigned found = 0;
    const uint32_t numbers = pool->ids >> POOL_SLAB_ID_BITS;
    for (uint32_t number = 0; number < numbers; number++) {
        for (uint32_t i = 0; i < pool->slabs[number].carved; i++) {
            const uint32_t buffer = (number << POOL_SLAB_ID_BITS) + i;
            if (meta_state(&pool->metas[buffer]) == STATE_FREE)
                continue;
            found++;
            if (fn == NULL)
                continue;
            struct berth_holding holding;
            holding_describe(pool, buffer, &holding);
            fn(&holding, context);
        }
    }
    return found;
}

/* ---- the checker --------------------------------------------------------------------------- */

/** One record by itself. NULL, or what is wrong with it. */
static const char *
meta_fault(const struct buffer_meta *meta)
{
    const enum buffer_state state = meta_state(meta);
    if (state > STATE_LEASED_RUN)
        return "a buffer is in no state";
    if (meta->generation == 0)
        return "a buffer that was used has no generation";
    if (meta->references < meta_sends(meta))
        return "more sends in flight than references";
    if (state <= STATE_POSTED && meta->references != 0)
        return "a free or posted buffer has references";
    if (state == STATE_LEASED && meta->references == 0)
        return "a leased buffer has no references";
    return NULL;
}

/** How many records before that one of a slab reach into it. */
static uint32_t
holders_count(const struct slab *slab, const struct buffer_meta *meta, uint32_t at)
{
    uint32_t count = 0;
    for (uint32_t i = 1; i <= at && i < BERTH_RUN_MAX; i++)
        count += meta_is_run(meta - i) && run_reached(meta - i, slab->shift) >= i;
    return count;
}

/** One record of a slab, against those that it reaches into and that reach into it. */
static const char *
run_fault(const struct slab *slab, const struct buffer_meta *meta, uint32_t at)
{
    if (slab->size_class == CLASS_WRAPPED)
        return meta_is_run(meta) ? "wrapped memory is part of a run" : NULL;
    const uint32_t size = UINT32_C(1) << slab->shift;
    if (!meta_is_run(meta))
        return meta_state(meta) != STATE_FREE && meta->length > size ? "a buffer holds too much"
                                                                     : NULL;
    if (run_bytes(meta) == 0)
        return "a buffer of a run holds nothing";
    const uint32_t more = run_reached(meta, slab->shift);
    if (more > 0 && meta->references == 0)
        return "a buffer reaches beyond itself, and has no leases that could";
    if (more >= BERTH_RUN_MAX || at + more >= slab->carved)
        return "a buffer reaches out of its slab";
    for (uint32_t i = 1; i <= more; i++)
        if (!meta_is_run(&meta[i]))
            return "a buffer is not held by what reaches into it";
    if (meta_state(meta) == STATE_LEASED_RUN && meta->length <= size)
        return "a buffer is said to be part of a run, and is not";
    if (run_holders(meta) != holders_count(slab, meta, at))
        return "a buffer has lost count of what reaches into it";
    return NULL;
}

/** All records of one slab number: their states, and that they add up to its count. */
static const char *
slab_fault(const struct berth_pool *pool, uint32_t number)
{
    const struct slab *slab = &pool->slabs[number];
    uint32_t outstanding = 0;
    if (slab->carved > POOL_SLAB_IDS)
        return "a slab has handed out more buffers than it has";
    for (uint32_t i = 0; i < slab->carved; i++) {
        const struct buffer_meta *meta = &pool->metas[(number << POOL_SLAB_ID_BITS) + i];
        const char *fault = meta_fault(meta);
        if (fault == NULL)
            fault = run_fault(slab, meta, i);
        if (fault != NULL)
            return fault;
        outstanding += meta_state(meta) != STATE_FREE;
    }
    return outstanding == slab->outstanding ? NULL : "a slab's count of used buffers is wrong";
}

/** Follows a free list. Its length must be `expected`; each buffer on it free and of that class. */
static const char *
free_list_fault(const struct berth_pool *pool, uint32_t link, unsigned size_class,
                uint32_t expected)
{
    uint32_t length = 0;
    for (; link != 0; link = pool->metas[link - 1].next) {
        if (link > pool->ids || length == expected)
            return "a free list leads astray, or is too long";
        const struct slab *slab = pool_slab_of(pool, link - 1);
        if (pool->metas[link - 1].stage != STATE_FREE || slab->size_class != size_class ||
            ((link - 1) & (POOL_SLAB_IDS - 1)) >= slab->carved)
            return "a free list holds what is not free, or not of its class";
        length++;
    }
    return length == expected ? NULL : "a free list is too short";
}

/** What a class says about itself, against its slabs and lists. */
static const char *
class_fault(const struct berth_pool *pool, unsigned size_class)
{
    const struct pool_class *class = &pool->classes[size_class];
    const uint32_t per_slab = pool_per_slab(size_class);
    uint32_t slabs = 0, uncarved = 0, outstanding = 0;
    for (uint32_t i = 0; i < pool->slabs_top; i++) {
        const struct slab *slab = &pool->slabs[i];
        if (slab->data == NULL || slab->size_class != size_class)
            continue;
        if (slab->carved > per_slab)
            return "a slab has handed out more buffers than it has";
        slabs++;
        uncarved += per_slab - slab->carved;
        outstanding += slab->outstanding;
    }
    if (slabs != class->slabs || class->capacity != slabs * per_slab)
        return "a class has lost count of its slabs";
    if (class->free_count + outstanding != class->capacity || class->free_count < uncarved)
        return "free and used buffers do not add up";
    return free_list_fault(pool, class->free_head, size_class, class->free_count - uncarved);
}

static const char *
queues_fault(const struct berth_pool *pool)
{
    uint32_t waiting = 0;
    for (unsigned i = 0; i < BERTH_CLASS_COUNT * POOL_PURPOSES; i++) {
        const struct wait_queue *queue = &pool->queues[i / POOL_PURPOSES][i % POOL_PURPOSES];
        uint32_t length = 0;
        const struct berth_waiter *previous = NULL;
        for (const struct berth_waiter *w = queue->head; w != NULL; previous = w, w = w->next) {
            if (w->pool != pool || w->previous != previous || ++length > queue->count)
                return "a queue of waiters is broken";
        }
        if (length != queue->count || queue->tail != previous)
            return "a queue of waiters has lost count";
        waiting += length;
    }
    return waiting == pool->waiting ? NULL : "the pool has lost count of its waiters";
}

static const char *
pool_fault(const struct berth_pool *pool)
{
    const char *fault = NULL;
    uint32_t slabs = 0;
    uint64_t outstanding = 0;
    const uint32_t numbers = pool->ids >> POOL_SLAB_ID_BITS;
    for (uint32_t number = 0; fault == NULL && number < numbers; number++) {
        fault = slab_fault(pool, number);
        slabs += pool->slabs[number].data != NULL;
        outstanding += pool->slabs[number].outstanding;
    }
    for (unsigned i = 0; fault == NULL && i < BERTH_CLASS_COUNT; i++)
        fault = class_fault(pool, i);
    if (fault != NULL)
        return fault;
    uint32_t wrapped_out = 0;
    for (uint32_t i = 0; i < POOL_WRAP_SLABS; i++)
        wrapped_out += pool->slabs[pool->slabs_max + i].outstanding;
    if (slabs != pool->slabs_used || outstanding != pool->stats.outstanding)
        return "the pool has lost count of its slabs or buffers";
    fault = free_list_fault(pool, pool->wrap_free, CLASS_WRAPPED, pool->wrap_carved - wrapped_out);
    return fault != NULL ? fault : queues_fault(pool);
}

int
berth_pool_verify(const struct berth_pool *pool, const char **why)
{
    const char *fault = pool == NULL ? "there is no pool" : pool_fault(pool);
    if (why != NULL)
        *why = fault;
    return fault == NULL ? 0 : -EUCLEAN;
}
