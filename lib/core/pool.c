/*
 * The life of a pool: making it, its owner, its turn, its end; and releases that come from other
 * threads.
 *
 * All of a pool but its slabs is one reservation of address space, made writable part by part:
 *     struct berth_pool | slab directory | wrapped memory | chain nodes | records | remote | traces
 * The records can be read everywhere from the start: a buffer that never was reads as free and of
 * generation 0, which no lease has. So looking up a lease needs no question but "is it in range".
 *
 * SPDX-License-Identifier: MIT
 */
#include "core/pool_internal.h"

BERTH_STATIC_ASSERT(offsetof(struct berth_pool, classes) == BERTH_CACHE_LINE,
                    "what other threads read is a line that nobody writes");
BERTH_STATIC_ASSERT(sizeof(struct pool_class) == BERTH_CACHE_LINE, "a class is one line");
BERTH_STATIC_ASSERT(offsetof(struct berth_pool, stats) ==
                        offsetof(struct berth_pool, remote) + BERTH_CACHE_LINE_PAIR,
                    "what other threads write shares no line with anything");

/* The only table of sizes: bytes of each class, as a power of two. */
const uint8_t berth_pool_shifts[BERTH_CLASS_COUNT] = {[BERTH_CLASS_512] = 9,
                                                      [BERTH_CLASS_4K] = 12,
                                                      [BERTH_CLASS_16K] = 14,
                                                      [BERTH_CLASS_64K] = 16,
                                                      [BERTH_CLASS_2M] = 21};

__thread char berth_pool_thread_mark;

uint32_t
berth_class_bytes(enum berth_class size_class)
{
    if ((unsigned)size_class >= BERTH_CLASS_COUNT)
        return 0;
    return UINT32_C(1) << berth_pool_shifts[size_class];
}

int
berth_class_for(size_t bytes)
{
    for (int size_class = 0; size_class < BERTH_CLASS_COUNT; size_class++)
        if (bytes <= (size_t)1 << berth_pool_shifts[size_class])
            return size_class;
    return -EMSGSIZE;
}

/* ---- making a pool ------------------------------------------------------------------------- */

/** Where each part begins in the reservation, and how long the whole is. */
struct layout {
    size_t slabs, wraps, nodes, metas, remotes, traces, end;
};

static size_t
pages(size_t bytes)
{
    const size_t page = berth_memory_page_bytes();
    return (bytes + page - 1) & ~(page - 1);
}

static struct layout
layout_for(uint32_t slabs_max)
{
    const size_t numbers = (size_t)slabs_max + POOL_WRAP_SLABS;
    const size_t ids = numbers << POOL_SLAB_ID_BITS;
    struct layout at;
    at.slabs = pages(sizeof(struct berth_pool));
    at.wraps = at.slabs + pages(numbers * sizeof(struct slab));
    at.nodes = at.wraps + pages(POOL_WRAPS_MAX * sizeof(struct wrapped));
    at.metas = at.nodes + pages(POOL_NODES_MAX * sizeof(struct chain_node));
    at.remotes = at.metas + pages(ids * sizeof(struct buffer_meta));
    at.traces = at.remotes + pages(ids * sizeof(struct buffer_remote));
    at.end = at.traces;
#ifdef BERTH_CHECKS
    at.end += pages(ids * sizeof(struct buffer_trace));
#endif
    return at;
}

static int
options_check(const struct berth_pool_options *options)
{
    if (options->abi != BERTH_POOL_ABI)
        return -EPROTO;
    if (options->bytes_max < POOL_SLAB_BYTES ||
        options->bytes_max / POOL_SLAB_BYTES > POOL_SLABS_MAX)
        return -EINVAL;
    if (options->zero_on_release >> BERTH_CLASS_COUNT != 0)
        return -EINVAL;
    for (int i = 0; i < BERTH_CLASS_COUNT; i++)
        if (options->class_bytes_max[i] != 0 && options->class_bytes_max[i] < POOL_SLAB_BYTES)
            return -EINVAL;
    const struct berth_alloc *alloc = options->alloc;
    if (alloc != NULL && (alloc->allocate == NULL || alloc->release == NULL))
        return -EINVAL;
    return 0;
}

/**
 * Where the generations of a pool's buffers start. Pools start far apart (the golden ratio spreads
 * any number of them evenly over 32 bits), so that a lease handed to the wrong pool is refused.
 */
static uint32_t
generation_first_choose(void)
{
    static uint32_t pools_made;
    const uint32_t serial = __atomic_add_fetch(&pools_made, 1, __ATOMIC_RELAXED);
    const uint32_t generation = serial * UINT32_C(0x9e3779b1);
    return generation != 0 ? generation : 1;
}

static void
classes_init(struct berth_pool *pool, const struct berth_pool_options *options)
{
    for (int i = 0; i < BERTH_CLASS_COUNT; i++) {
        const size_t slabs = options->class_bytes_max[i] / POOL_SLAB_BYTES;
        const int limited = slabs != 0 && slabs < pool->slabs_max;
        pool->classes[i].slabs_max = limited ? (uint32_t)slabs : pool->slabs_max;
    }
}

static void
pool_init(struct berth_pool *pool, const struct berth_pool_options *options,
          const struct layout *at, uint32_t slabs_max)
{
    unsigned char *base = (unsigned char *)pool;
    pool->slabs = (struct slab *)(void *)(base + at->slabs);
    pool->wraps = (struct wrapped *)(void *)(base + at->wraps);
    pool->nodes = (struct chain_node *)(void *)(base + at->nodes);
    pool->metas = (struct buffer_meta *)(void *)(base + at->metas);
    pool->remotes = (struct buffer_remote *)(void *)(base + at->remotes);
    if (at->end > at->traces)
        pool->traces = (struct buffer_trace *)(void *)(base + at->traces);
    pool->reserved_bytes = at->end;
    pool->slabs_max = slabs_max;
    pool->ids = (slabs_max + POOL_WRAP_SLABS) << POOL_SLAB_ID_BITS;
    pool->zero_on_release = options->zero_on_release;
    pool->generation_first = generation_first_choose();
    pool->alloc = options->alloc != NULL ? *options->alloc : *berth_alloc_default();
    pool->alloc_is_default = pool->alloc.allocate == berth_alloc_default()->allocate;
    for (uint32_t i = 0; i < POOL_WRAP_SLABS; i++)
        pool->slabs[slabs_max + i].size_class = CLASS_WRAPPED;
    classes_init(pool, options);
    berth_pool_adopt(pool);
}

int
berth_pool_create(struct berth_pool **created, const struct berth_pool_options *given)
{
    if (created == NULL)
        return -EINVAL;
    *created = NULL;
    struct berth_pool_options options;
    berth_pool_options_init(&options);
    if (given != NULL)
        options = *given;
    const int error = options_check(&options);
    if (error != 0)
        return error;

    const uint32_t slabs_max = (uint32_t)(options.bytes_max / POOL_SLAB_BYTES);
    const struct layout at = layout_for(slabs_max);
    void *base = NULL;
    if (berth_memory_reserve(&base, at.end, berth_memory_page_bytes(), "berth-pool") != 0)
        return -ENOMEM; /* also for the EAGAIN that mlockall(2) causes past RLIMIT_MEMLOCK */
    if (berth_memory_commit(base, at.wraps) != 0) {
        berth_memory_release(base, at.end);
        return -ENOMEM;
    }
    pool_init(base, &options, &at, slabs_max);
    *created = base;
    return 0;
}

void
berth_pool_adopt(struct berth_pool *pool)
{
    if (pool != NULL)
        __atomic_store_n(&pool->owner, &berth_pool_thread_mark, __ATOMIC_RELAXED);
}

static int
any_slab_pinned(const struct berth_pool *pool)
{
    for (uint32_t i = 0; i < pool->slabs_top; i++)
        if (pool->slabs[i].pins > 0)
            return 1;
    return 0;
}

int
berth_pool_destroy(struct berth_pool *pool)
{
    if (pool == NULL)
        return 0;
    if (pool->callbacks > 0)
        return -EBUSY;
    (void)berth_pool_drain(pool);
    if (pool->stats.outstanding > 0 || pool->waiting > 0 || any_slab_pinned(pool))
        return -EBUSY;
    (void)berth_pool_trim(pool);
    BERTH_ASSERT(pool->slabs_used == 0);
    berth_memory_release(pool, pool->reserved_bytes);
    return 0;
}

unsigned
berth_pool_turn(struct berth_pool *pool)
{
    if (pool == NULL || pool->callbacks > 0)
        return 0;
    BERTH_CHECK(pool_is_owner(pool));
    pool->turns++;
    if (pool->grow_wait > 0)
        pool->grow_wait--;
    const unsigned freed = berth_pool_drain(pool);
    if (pool->waiting > 0 || pool->watched > 0)
        berth_pool_serve(pool);
    return freed;
}

/* ---- mistakes ------------------------------------------------------------------------------ */

int
berth_pool_illegal(struct berth_pool *pool)
{
#ifdef BERTH_CHECKS
    abort();
#endif
    pool->stats.illegal++;
    return -ESTALE;
}

/* ---- releases from other threads --------------------------------------------------------------
 *
 * pending counts the releases that the owner has not taken in. Whoever raises it from 0 pushes the
 * buffer on the list; everybody else has only counted. The owner takes the whole list with one
 * exchange, and per buffer reads `next` before it exchanges pending for 0: from that moment another
 * thread may push the buffer again, and write `next`.
 *
 * Nobody else ever removes from the list, so a push that loses a race merely repeats (no ABA).
 */

static void
remote_push(struct berth_pool *pool, uint32_t buffer)
{
    struct buffer_remote *remote = &pool->remotes[buffer];
    uint32_t head = __atomic_load_n(&pool->remote.head, __ATOMIC_RELAXED);
    do {
        remote->next = head;
    } while (!__atomic_compare_exchange_n(&pool->remote.head, &head, buffer + 1, 1,
                                          __ATOMIC_RELEASE, __ATOMIC_RELAXED));
}

int
berth_pool_release_remote(struct berth_pool *pool, struct berth_lease lease)
{
    /*
     * The generation is all that may be read here. Whoever holds a reference finds it unchanged;
     * whoever holds none is refused, or, when the buffer is released and taken again in this very
     * moment, found out when the owner counts.
     */
    const int held = lease.buffer < pool->ids && lease.generation != 0 &&
                     __atomic_load_n(&pool->metas[lease.buffer].generation, __ATOMIC_RELAXED) ==
                         lease.generation;
    BERTH_CHECK(held);
    if (!held) {
        __atomic_fetch_add(&pool->remote.illegal, 1, __ATOMIC_RELAXED);
        return -ESTALE;
    }
    /* Release: what this thread did with the bytes comes before whatever the owner does next. */
    if (__atomic_fetch_add(&pool->remotes[lease.buffer].pending, 1, __ATOMIC_ACQ_REL) == 0)
        remote_push(pool, lease.buffer);
    return 0;
}

/** Ends `count` references of a buffer. Returns how many buffers became free. */
static unsigned
remote_apply(struct berth_pool *pool, uint32_t buffer, uint32_t count)
{
    struct buffer_meta *meta = &pool->metas[buffer];
    const uint32_t held = meta->references - meta_sends(meta);
    pool->stats.remote_releases += count;
    for (; count > held; count--)
        (void)berth_pool_illegal(pool);
    meta->references -= count;
    if (count == 0 || meta->references > 0)
        return 0;
    if (BERTH_UNLIKELY(meta_is_run(meta)))
        return berth_pool_run_over(pool, buffer);
    if (meta_state(meta) != STATE_LEASED)
        return 0;
    pool_free(pool, buffer, meta);
    return 1;
}

unsigned
berth_pool_drain(struct berth_pool *pool)
{
    if (__atomic_load_n(&pool->remote.head, __ATOMIC_RELAXED) == 0)
        return 0;
    uint32_t link = __atomic_exchange_n(&pool->remote.head, 0, __ATOMIC_ACQUIRE);
    unsigned freed = 0;
    while (link != 0) {
        const uint32_t buffer = link - 1;
        struct buffer_remote *remote = &pool->remotes[buffer];
        link = remote->next;
        const uint32_t count = __atomic_exchange_n(&remote->pending, 0, __ATOMIC_ACQ_REL);
        BERTH_ASSERT(count > 0);
        freed += remote_apply(pool, buffer, count);
    }
    return freed;
}
