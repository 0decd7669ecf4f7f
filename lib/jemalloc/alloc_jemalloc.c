/*
 * Slabs from a jemalloc arena of their own. Nothing else is allocated in it, and nothing here is
 * called per event.
 *
 * jemalloc pads every large allocation by a page (opt.cache_oblivious), so that slabs asked for one
 * by one, each aligned to its own size, take up twice their address space. Therefore slabs are
 * carved from blocks of 16, each aligned as one slab: the padding is then paid once per block.
 *
 * The invariants kept here: while any slab is pinned, the arena purges, decommits and unmaps
 * nothing, because MADV_DONTNEED on memory that is registered with the kernel loses received data
 * without an error; a slab that is handed out reads as zero; a slab that was given back holds no
 * memory, whatever jemalloc's decay does later.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_MEMORY
#include "berth/jemalloc.h"

#include <errno.h>
#include <string.h>

#include <jemalloc/jemalloc.h>

#include "os/sys.h"

/** The size this source is made for: POOL_SLAB_BYTES. Other sizes get an allocation each. */
#define SLAB_BYTES ((size_t)2 << 20)

/** Slabs in a block: one page of padding in 32 MiB, and a bit each in `used`. */
#define BLOCK_SLABS 16

/**
 * Slabs that come on small pages, before huge ones are asked for: about one for each size class, so
 * that a program with a few buffers is not charged 2 MiB at the first touch of each.
 */
#define SMALL_PAGE_SLABS 5

#define NAME "jemalloc"

/** One allocation from the arena, and which of its slabs are out. */
struct block {
    struct block *next;
    unsigned char *data;
    unsigned slabs; /* BLOCK_SLABS, or fewer when there was no room for so many */
    uint32_t used;  /* bit i: slab i is out */
};

struct source {
    extent_hooks_t hooks; /* first: jemalloc hands the hooks their own address */
    extent_hooks_t *originals;
    struct berth_alloc alloc;
    struct block *blocks;
    unsigned arena;
    unsigned slabs;
    unsigned block_count;
    int destroying;   /* the arena is going, and takes its books with it */
    unsigned pinned;  /* atomic: the hooks run on whatever thread jemalloc works */
    uint64_t refused; /* atomic */
};

/* ---- the arena's hooks --------------------------------------------------------------------- */

static struct source *
source_of_hooks(extent_hooks_t *hooks)
{
    return (struct source *)(void *)hooks;
}

/** Whether jemalloc must leave the pages alone. */
static int
is_pinned(struct source *source)
{
    if (__atomic_load_n(&source->pinned, __ATOMIC_ACQUIRE) == 0)
        return 0;
    __atomic_fetch_add(&source->refused, 1, __ATOMIC_RELAXED);
    return 1;
}

/* To jemalloc, true means "not done". */

static bool
hook_dalloc(extent_hooks_t *hooks, void *data, size_t size, bool committed, unsigned arena)
{
    struct source *source = source_of_hooks(hooks);
    if (is_pinned(source))
        return true;
    if (source->destroying && source->originals->destroy != NULL) {
        /* jemalloc's own dalloc keeps address space for later (opt.retain): there is no later. */
        source->originals->destroy(source->originals, data, size, committed, arena);
        return false;
    }
    if (source->originals->dalloc == NULL)
        return true;
    return source->originals->dalloc(source->originals, data, size, committed, arena);
}

static bool
hook_decommit(extent_hooks_t *hooks, void *data, size_t size, size_t offset, size_t length,
              unsigned arena)
{
    struct source *source = source_of_hooks(hooks);
    if (is_pinned(source) || source->originals->decommit == NULL)
        return true;
    return source->originals->decommit(source->originals, data, size, offset, length, arena);
}

static bool
hook_purge_lazy(extent_hooks_t *hooks, void *data, size_t size, size_t offset, size_t length,
                unsigned arena)
{
    struct source *source = source_of_hooks(hooks);
    if (is_pinned(source) || source->originals->purge_lazy == NULL)
        return true;
    return source->originals->purge_lazy(source->originals, data, size, offset, length, arena);
}

static bool
hook_purge_forced(extent_hooks_t *hooks, void *data, size_t size, size_t offset, size_t length,
                  unsigned arena)
{
    struct source *source = source_of_hooks(hooks);
    if (is_pinned(source) || source->originals->purge_forced == NULL)
        return true;
    return source->originals->purge_forced(source->originals, data, size, offset, length, arena);
}

/* ---- blocks -------------------------------------------------------------------------------- */

static int
arena_flags(const struct source *source)
{
    return MALLOCX_ARENA(source->arena) | MALLOCX_TCACHE_NONE;
}

/** A new block of up to BLOCK_SLABS slabs: as many as there is room for. */
static struct block *
block_add(struct source *source)
{
    struct block *block = mallocx(sizeof(*block), MALLOCX_ZERO);
    if (block == NULL)
        return NULL;
    const int flags = arena_flags(source) | MALLOCX_ALIGN(SLAB_BYTES);
    for (block->slabs = BLOCK_SLABS; block->slabs > 0; block->slabs /= 2) {
        block->data = mallocx(block->slabs * SLAB_BYTES, flags);
        if (block->data != NULL)
            break;
    }
    if (block->data == NULL) {
        sdallocx(block, sizeof(*block), 0);
        return NULL;
    }
    block->next = source->blocks;
    source->blocks = block;
    source->block_count++;
    return block;
}

static void
block_remove(struct source *source, struct block *block)
{
    BERTH_ASSERT(block->used == 0);
    struct block **link = &source->blocks;
    while (*link != block)
        link = &(*link)->next;
    *link = block->next;
    source->block_count--;
    sdallocx(block->data, block->slabs * SLAB_BYTES, arena_flags(source));
    sdallocx(block, sizeof(*block), 0);
}

static struct block *
block_with_room(struct source *source)
{
    for (struct block *block = source->blocks; block != NULL; block = block->next)
        if (block->used != (UINT32_C(1) << block->slabs) - 1)
            return block;
    return block_add(source);
}

static struct block *
block_holding(const struct source *source, const void *slab)
{
    for (struct block *block = source->blocks; block != NULL; block = block->next)
        if ((uintptr_t)slab - (uintptr_t)block->data < block->slabs * SLAB_BYTES)
            return block;
    return NULL;
}

/* ---- slabs --------------------------------------------------------------------------------- */

/** The arena may have given us pages that were used before. */
static void
slab_clear(void *slab, size_t size)
{
    if (sys_madvise(slab, size, MADV_DONTNEED) != 0)
        memset(slab, 0, size); /* locked memory cannot be dropped */
}

/** What a slab must be that the kernel writes into. All wishes: see berth_memory_advise. */
static void
slab_advise(const struct source *source, void *slab)
{
#ifdef __linux__
    (void)sys_madvise(slab, SLAB_BYTES, MADV_DONTFORK);
    const int huge = source->slabs >= SMALL_PAGE_SLABS;
    (void)sys_madvise(slab, SLAB_BYTES, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#else
    (void)source, (void)slab;
#endif
}

static void *
source_allocate(void *context, size_t size, size_t alignment)
{
    struct source *source = context;
    if (size != SLAB_BYTES || alignment > SLAB_BYTES) {
        void *memory = mallocx(size, arena_flags(source) | MALLOCX_ALIGN(alignment) | MALLOCX_ZERO);
        source->slabs += memory != NULL;
        return memory;
    }
    struct block *block = block_with_room(source);
    if (block == NULL)
        return NULL;
    const unsigned index = (unsigned)__builtin_ctz(~block->used);
    BERTH_ASSERT(index < block->slabs);
    void *slab = block->data + index * SLAB_BYTES;
    slab_clear(slab, SLAB_BYTES);
    slab_advise(source, slab);
    block->used |= UINT32_C(1) << index;
    source->slabs++;
    return slab;
}

static void
source_release(void *context, void *memory, size_t size)
{
    struct source *source = context;
    BERTH_ASSERT(source->slabs > 0);
    source->slabs--;
    struct block *block = block_holding(source, memory);
    if (block == NULL) {
        sdallocx(memory, size, arena_flags(source));
        return;
    }
    const size_t index = ((uintptr_t)memory - (uintptr_t)block->data) / SLAB_BYTES;
    BERTH_ASSERT((block->used >> index & 1) != 0);
    (void)sys_madvise(memory, SLAB_BYTES, MADV_DONTNEED);
#ifdef __linux__
    /* The arena's memory is the program's again, which a child may inherit. */
    (void)sys_madvise(memory, SLAB_BYTES, MADV_DOFORK);
#endif
    block->used &= ~(UINT32_C(1) << index);
    if (block->used == 0)
        block_remove(source, block);
}

static int
source_pin(void *context, void *memory, size_t size, int pinned)
{
    struct source *source = context;
    (void)memory, (void)size;
    const unsigned before = __atomic_fetch_add(&source->pinned, pinned ? 1 : -1u, __ATOMIC_ACQ_REL);
    BERTH_ASSERT(pinned || before > 0);
    (void)before;
    return 0;
}

/* ---- life ---------------------------------------------------------------------------------- */

/** A source of ours, or NULL. */
static struct source *
source_of(const struct berth_alloc *alloc)
{
    return alloc != NULL && alloc->allocate == source_allocate ? alloc->context : NULL;
}

static int
arena_create(struct source *source)
{
    size_t size = sizeof(void *);
    if (mallctl("arena.0.extent_hooks", &source->originals, &size, NULL, 0) != 0)
        return -ENOMEM;
    source->hooks = *source->originals;
    source->hooks.dalloc = hook_dalloc;
    source->hooks.decommit = hook_decommit;
    source->hooks.purge_lazy = hook_purge_lazy;
    source->hooks.purge_forced = hook_purge_forced;

    extent_hooks_t *hooks = &source->hooks;
    size = sizeof(source->arena);
    if (mallctl("arenas.create", &source->arena, &size, &hooks, sizeof(void *)) != 0)
        return -ENOMEM;
    return 0;
}

int
berth_alloc_jemalloc_create(struct berth_alloc **created)
{
    if (created == NULL)
        return -EINVAL;
    *created = NULL;
    struct source *source = mallocx(sizeof(*source), MALLOCX_ZERO);
    if (source == NULL)
        return -ENOMEM;
    const int error = arena_create(source);
    if (error != 0) {
        sdallocx(source, sizeof(*source), 0);
        return error;
    }
    source->alloc = (struct berth_alloc){.allocate = source_allocate,
                                         .release = source_release,
                                         .pin = source_pin,
                                         .context = source,
                                         .name = NAME};
    *created = &source->alloc;
    return 0;
}

int
berth_alloc_jemalloc_destroy(struct berth_alloc *alloc)
{
    if (alloc == NULL)
        return 0;
    struct source *source = source_of(alloc);
    if (source == NULL)
        return -EINVAL;
    if (source->slabs > 0 || __atomic_load_n(&source->pinned, __ATOMIC_ACQUIRE) > 0)
        return -EBUSY;
    BERTH_ASSERT(source->blocks == NULL);
    size_t mib[3];
    size_t mib_length = 3;
    int error = mallctlnametomib("arena.0.destroy", mib, &mib_length);
    if (error == 0) {
        mib[1] = source->arena;
        source->destroying = 1;
        error = mallctlbymib(mib, mib_length, NULL, NULL, NULL, 0);
    }
    if (error != 0) {
        source->destroying = 0;
        return -error;
    }
    sdallocx(source, sizeof(*source), 0);
    return 0;
}

int
berth_alloc_jemalloc_info_get(const struct berth_alloc *alloc,
                              struct berth_alloc_jemalloc_info *info)
{
    const struct source *source = source_of(alloc);
    if (source == NULL || info == NULL)
        return -EINVAL;
    *info = (struct berth_alloc_jemalloc_info){
        .arena = source->arena,
        .slabs = source->slabs,
        .pinned = __atomic_load_n(&source->pinned, __ATOMIC_ACQUIRE),
        .blocks = source->block_count,
        .refused = __atomic_load_n(&source->refused, __ATOMIC_RELAXED)};
    return 0;
}
