/*
 * Slabs: getting them from the allocator, handing out their buffers for the first time, giving
 * them back, and pinning them for the kernel. Only slow paths live here; the common way of taking
 * and giving a buffer is inline in pool_internal.h.
 *
 * The invariants kept here: a slab's records are writable before any of its buffers has an id; a
 * buffer that was never handed out was never touched, so resident memory follows use and not
 * capacity; a slab number that comes back keeps its buffers' generations; a pinned slab stays.
 *
 * SPDX-License-Identifier: MIT
 */
#include "core/pool_internal.h"

/** A class of fewer buffers than this has no reserves: they would leave it unusable. */
#define CAPACITY_WITH_RESERVES_MIN 16

uint64_t
berth_pool_floor(uint64_t capacity, unsigned purpose)
{
    if (capacity < CAPACITY_WITH_RESERVES_MIN || purpose == BERTH_FOR_LAST)
        return 0;
    return purpose == BERTH_FOR_ACTIVE ? 1 : capacity / 16;
}

static void
class_capacity_set(struct pool_class *class, uint32_t capacity)
{
    class->capacity = capacity;
    for (unsigned purpose = 0; purpose < POOL_PURPOSES; purpose++)
        class->floors[purpose] = (uint32_t)berth_pool_floor(capacity, purpose);
}

int
berth_pool_commit_records(struct berth_pool *pool, uint32_t number)
{
    const size_t first = (size_t)number << POOL_SLAB_ID_BITS;
    int error = berth_memory_commit(pool->metas + first, POOL_SLAB_IDS * sizeof(*pool->metas));
    if (error == 0)
        error = berth_memory_commit(pool->remotes + first, POOL_SLAB_IDS * sizeof(*pool->remotes));
    if (error == 0 && pool->traces != NULL)
        error = berth_memory_commit(pool->traces + first, POOL_SLAB_IDS * sizeof(*pool->traces));
    return error;
}

/** The lowest slab number that is free. The caller knows that there is one. */
static uint32_t
slab_number_find(const struct berth_pool *pool)
{
    uint32_t number = 0;
    while (pool->slabs[number].data != NULL)
        number++;
    BERTH_ASSERT(number < pool->slabs_max);
    return number;
}

/**
 * Huge pages spare address translations, but the first touch of one costs 2 MiB of memory: a
 * program with ten buffers must not pay that for each class. So a class gets them from its second
 * slab on. An allocator other than the default decides about its pages itself.
 */
static void
slab_advise(const struct berth_pool *pool, const struct slab *slab)
{
    if (!pool->alloc_is_default)
        return;
    const int first = pool->classes[slab->size_class].slabs == 0;
    berth_memory_advise(slab->data, POOL_SLAB_BYTES,
                        first ? BERTH_MEMORY_SMALL : BERTH_MEMORY_HUGE);
}

/** Puts a slab at the end of its class's list of slabs with untouched buffers. */
static void
carve_list_append(struct berth_pool *pool, struct pool_class *class, uint32_t number)
{
    pool->slabs[number].next = 0;
    if (class->carve_tail != 0)
        pool->slabs[class->carve_tail - 1].next = number + 1;
    else
        class->carve_head = number + 1;
    class->carve_tail = number + 1;
}

static int
slab_add(struct berth_pool *pool, unsigned size_class)
{
    struct pool_class *class = &pool->classes[size_class];
    const uint32_t number = slab_number_find(pool);
    struct slab *slab = &pool->slabs[number];

    const int error = berth_pool_commit_records(pool, number);
    if (error != 0)
        return error;
    unsigned char *data =
        pool->alloc.allocate(pool->alloc.context, POOL_SLAB_BYTES, POOL_SLAB_BYTES);
    if (data == NULL)
        return -ENOMEM;
    BERTH_ASSERT(((uintptr_t)data & (POOL_SLAB_BYTES - 1)) == 0);

    *slab = (struct slab){.data = data,
                          .size_class = (uint8_t)size_class,
                          .shift = berth_pool_shifts[size_class],
                          .wipe = (pool->zero_on_release >> size_class) & 1};
    slab_advise(pool, slab);
    berth_poison(data, POOL_SLAB_BYTES);
    carve_list_append(pool, class, number);
    class->slabs++;
    class->free_count += pool_per_slab(size_class);
    class_capacity_set(class, class->capacity + pool_per_slab(size_class));
    pool->slabs_used++;
    if (pool->slabs_top <= number)
        pool->slabs_top = number + 1;
    return 0;
}

int
berth_pool_grow(struct berth_pool *pool, unsigned size_class, unsigned purpose, uint32_t count)
{
    const struct pool_class *class = &pool->classes[size_class];
    while (class->free_count < (uint64_t) class->floors[purpose] + count) {
        if (pool_slabs_left(pool, size_class) == 0)
            return 0;
        if (pool->grow_wait > 0) {
            pool->grow_wait--;
            return 0;
        }
        if (slab_add(pool, size_class) != 0) {
            pool->grow_wait = POOL_GROW_WAIT;
            return 0;
        }
    }
    return 1;
}

uint32_t
berth_pool_carve(struct berth_pool *pool, unsigned size_class)
{
    struct pool_class *class = &pool->classes[size_class];
    BERTH_ASSERT(class->carve_head != 0);
    const uint32_t number = class->carve_head - 1;
    struct slab *slab = &pool->slabs[number];
    const uint32_t buffer = (number << POOL_SLAB_ID_BITS) + slab->carved++;
    if (slab->carved == pool_per_slab(size_class)) {
        class->carve_head = slab->next;
        if (class->carve_head == 0)
            class->carve_tail = 0;
    }
    struct buffer_meta *meta = &pool->metas[buffer];
    if (meta->generation == 0)
        __atomic_store_n(&meta->generation, pool->generation_first, __ATOMIC_RELAXED);
#ifdef BERTH_CHECKS
    pool->traces[buffer].patterned = 0;
#endif
    return buffer;
}

/** Free buffers one behind the other that berth_pool_tidy puts in front: a run worth having. */
#define TIDY_RUN_MIN 16

/** A part of a free list: where its next buffer's link goes. */
struct free_tail {
    uint32_t head; /* id + 1 */
    uint32_t *link;
};

/** Puts the buffers from `first` up to `end` at the end of the list. */
static void
free_tail_append(struct berth_pool *pool, struct free_tail *list, uint32_t first, uint32_t end)
{
    for (; first < end; first++) {
        *list->link = first + 1;
        list->link = &pool->metas[first].next;
    }
}

/** Sorts the free buffers of a slab into those in long runs and the others. */
static void
slab_tidy(struct berth_pool *pool, uint32_t number, struct free_tail *runs, struct free_tail *rest)
{
    const uint32_t end = (number << POOL_SLAB_ID_BITS) + pool->slabs[number].carved;
    uint32_t buffer = number << POOL_SLAB_ID_BITS;
    while (buffer < end) {
        const uint32_t first = buffer;
        while (buffer < end && pool->metas[buffer].stage == STATE_FREE)
            buffer++;
        free_tail_append(pool, buffer - first >= TIDY_RUN_MIN ? runs : rest, first, buffer);
        buffer++; /* this one is not free */
    }
}

uint32_t
berth_pool_tidy(struct berth_pool *pool, enum berth_class size_class)
{
    if (pool == NULL || (unsigned)size_class >= BERTH_CLASS_COUNT)
        return 0;
    struct free_tail runs = {.link = &runs.head}, rest = {.link = &rest.head};
    uint32_t looked = 0;
    for (uint32_t number = 0; number < pool->slabs_top; number++) {
        const struct slab *slab = &pool->slabs[number];
        if (slab->data == NULL || slab->size_class != (unsigned)size_class)
            continue;
        looked += slab->carved;
        slab_tidy(pool, number, &runs, &rest);
    }
    *rest.link = 0;
    *runs.link = rest.head;
    pool->classes[size_class].free_head = runs.head;
    return looked;
}

/* ---- giving slabs back --------------------------------------------------------------------- */

/** Takes the buffers of slabs marked `discard` out of the class's free list. */
static void
free_list_filter(struct berth_pool *pool, struct pool_class *class)
{
    uint32_t *link = &class->free_head;
    while (*link != 0) {
        struct buffer_meta *meta = &pool->metas[*link - 1];
        if (pool_slab_of(pool, *link - 1)->discard)
            *link = meta->next;
        else
            link = &meta->next;
    }
}

static void
carve_list_filter(struct berth_pool *pool, struct pool_class *class)
{
    uint32_t *link = &class->carve_head;
    class->carve_tail = 0;
    while (*link != 0) {
        struct slab *slab = &pool->slabs[*link - 1];
        if (slab->discard) {
            *link = slab->next;
        } else {
            class->carve_tail = *link;
            link = &slab->next;
        }
    }
}

/** Marks what the class can spare. Returns how many slabs. */
static unsigned
slabs_mark(struct berth_pool *pool, unsigned size_class)
{
    unsigned marked = 0;
    for (uint32_t i = 0; i < pool->slabs_top; i++) {
        struct slab *slab = &pool->slabs[i];
        if (slab->data == NULL || slab->size_class != size_class)
            continue;
        slab->discard = slab->outstanding == 0 && slab->pins == 0;
        marked += slab->discard;
    }
    return marked;
}

static void
slab_remove(struct berth_pool *pool, struct slab *slab)
{
    struct pool_class *class = &pool->classes[slab->size_class];
    const uint32_t buffers = pool_per_slab(slab->size_class);
    BERTH_ASSERT(slab->outstanding == 0 && slab->pins == 0 && class->free_count >= buffers);
    class->slabs--;
    class->free_count -= buffers;
    class_capacity_set(class, class->capacity - buffers);
    pool->slabs_used--;
    void *data = slab->data;
    *slab = (struct slab){.data = NULL};
    berth_unpoison(data, POOL_SLAB_BYTES); /* whoever is given these addresses next may use them */
    pool->alloc.release(pool->alloc.context, data, POOL_SLAB_BYTES);
}

size_t
berth_pool_trim(struct berth_pool *pool)
{
    if (pool == NULL)
        return 0;
    size_t removed = 0;
    for (unsigned size_class = 0; size_class < BERTH_CLASS_COUNT; size_class++) {
        if (slabs_mark(pool, size_class) == 0)
            continue;
        free_list_filter(pool, &pool->classes[size_class]);
        carve_list_filter(pool, &pool->classes[size_class]);
        for (uint32_t i = 0; i < pool->slabs_top; i++) {
            if (pool->slabs[i].discard) {
                slab_remove(pool, &pool->slabs[i]);
                removed++;
            }
        }
    }
    while (pool->slabs_top > 0 && pool->slabs[pool->slabs_top - 1].data == NULL)
        pool->slabs_top--;
    if (removed > 0)
        pool->grow_wait = 0;
    return removed * POOL_SLAB_BYTES;
}

/* ---- slabs and the kernel ------------------------------------------------------------------ */

int
berth_pool_slab(const struct berth_pool *pool, unsigned index, struct berth_slab *described)
{
    if (pool == NULL || described == NULL)
        return -EINVAL;
    if (index >= pool->slabs_top)
        return -ENOENT;
    const struct slab *slab = &pool->slabs[index];
    *described = (struct berth_slab){.data = slab->data,
                                     .bytes = slab->data != NULL ? POOL_SLAB_BYTES : 0,
                                     .size_class = (enum berth_class)slab->size_class,
                                     .pins = slab->pins,
                                     .outstanding = slab->outstanding};
    return 0;
}

int
berth_pool_pin(struct berth_pool *pool, unsigned index, int pinned)
{
    if (pool == NULL || (pinned != 0 && pinned != 1))
        return -EINVAL;
    if (index >= pool->slabs_top || pool->slabs[index].data == NULL)
        return -ENOENT;
    struct slab *slab = &pool->slabs[index];
    if (slab->pins == (pinned ? UINT32_MAX : 0))
        return -EINVAL;
    if (slab->pins == (pinned ? 0 : 1) && pool->alloc.pin != NULL) {
        const int error = pool->alloc.pin(pool->alloc.context, slab->data, POOL_SLAB_BYTES, pinned);
        if (error != 0)
            return error;
    }
    slab->pins += pinned ? 1 : -1u;
    return 0;
}
