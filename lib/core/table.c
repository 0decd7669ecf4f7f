/*
 * The connection table: making one, claiming and releasing slots. Lookup is inline in the header;
 * everything that walks over slots is in table_side.c.
 *
 * The invariants kept here: a slot never moves; memory never written is an empty slot; a generation
 * is given out once per 2^32 - 1 reuses; a slot with operations in flight is never released; and a
 * released slot is all zero but for its generation (and its place in the free list, in slot mode).
 *
 * One reservation holds all arrays, in this order, each starting on a page:
 *     hot | cold | ticks | deadlines | owners | live bitmap | summary, committed chunks
 * The last part is writable from the start; the others become writable chunk by chunk, which is
 * looked into only where it matters: a slot that has a generation was written to before.
 *
 * SPDX-License-Identifier: MIT
 */
#include "core/table_internal.h"

#include <string.h>

#include "os/memory.h"
#include "os/sanitize.h"

BERTH_STATIC_ASSERT(sizeof(struct berth_table) == 3 * BERTH_CACHE_LINE,
                    "the first line is read per event, the second counts, the third is set-up");
BERTH_STATIC_ASSERT(offsetof(struct berth_table, stats) == BERTH_CACHE_LINE,
                    "what every event reads fits the first line");

/**
 * Where each array begins in the reservation, and how long the whole is: in 64 bits, because 16 M
 * slots with large cold records do not fit the address space of every system.
 */
struct layout {
    uint64_t cold, ticks, deadlines, owners, live, summary, committed, cold_committed, end;
};

static uint64_t
pages(uint64_t bytes)
{
    const uint64_t page = berth_memory_page_bytes();
    return (bytes + page - 1) & ~(page - 1);
}

/** Bytes of a bitmap with that many bits. */
static uint64_t
bitmap_bytes(uint64_t bits)
{
    return (bits + WORD_BITS - 1) / WORD_BITS * sizeof(uint64_t);
}

/** Records up to a line never straddle one; bigger ones start on one. */
static uint32_t
cold_stride_for(uint32_t bytes)
{
    if (bytes == 0)
        return 0;
    if (bytes > BERTH_CACHE_LINE)
        return (bytes + BERTH_CACHE_LINE - 1) & ~(uint32_t)(BERTH_CACHE_LINE - 1);
    uint32_t stride = 8;
    while (stride < bytes)
        stride *= 2;
    return stride;
}

static struct layout
layout_for(const struct berth_table *table, const struct berth_table_options *options)
{
    const uint64_t n = table->slots_max;
    struct layout at;
    at.cold = pages(n << table->slot_shift);
    at.ticks = at.cold + pages(n * table->cold_stride);
    at.deadlines = at.ticks + pages(n * sizeof(uint16_t));
    at.owners = at.deadlines + (options->deadlines ? pages(n * sizeof(uint16_t)) : 0);
    at.live = at.owners + (options->shared ? pages(n) : 0);
    at.summary = at.live + pages(n / 8);
    at.committed = at.summary + bitmap_bytes(n / WORD_BITS);
    at.cold_committed = at.committed + bitmap_bytes((at.cold >> CHUNK_SHIFT) + 1);
    at.end = at.cold_committed + bitmap_bytes(((at.ticks - at.cold) >> CHUNK_SHIFT) + 1);
    return at;
}

static int
options_check(const struct berth_table_options *options)
{
    if (options->abi != BERTH_TABLE_ABI)
        return -EPROTO;
    if (options->slots_max < BERTH_TABLE_SLOTS_MIN || options->slots_max > BERTH_TOKEN_SLOTS_MAX)
        return -EINVAL;
    if (options->slot_bytes != 64 && options->slot_bytes != 128 && options->slot_bytes != 256)
        return -EINVAL;
    if (options->cold_bytes > BERTH_TABLE_COLD_BYTES_MAX)
        return -EINVAL;
    if ((unsigned)options->index_mode > BERTH_INDEX_SLOT ||
        (unsigned)options->huge_pages > BERTH_HUGE_NEVER)
        return -EINVAL;
    /* The free list of slot mode is one thread's; threads that share need a number from outside. */
    if (options->shared && options->index_mode == BERTH_INDEX_SLOT)
        return -EINVAL;
    return 0;
}

static uint32_t
power_of_two_from(uint32_t n)
{
    return n <= 1 ? 1 : UINT32_C(1) << (32 - __builtin_clz(n - 1));
}

/** Reserves one layout and makes its last part writable. Returns 0 or -ENOMEM. */
static int
reserve_layout(struct berth_table *table, const struct berth_table_options *options)
{
    const struct layout at = layout_for(table, options);
    if (at.end > SIZE_MAX / 2)
        return -ENOMEM;
    void *memory = NULL;
    if (berth_memory_reserve(&memory, (size_t)at.end, BERTH_HUGE_PAGE_BYTES, "berth-table") != 0)
        return -ENOMEM;
    unsigned char *base = memory;
    if (berth_memory_commit(base + at.summary, (size_t)(at.end - at.summary)) != 0) {
        berth_memory_release(memory, (size_t)at.end);
        return -ENOMEM;
    }
    table->hot = base;
    table->cold = table->cold_stride != 0 ? base + at.cold : NULL;
    table->ticks = (uint16_t *)(void *)(base + at.ticks);
    table->deadlines = options->deadlines ? (uint16_t *)(void *)(base + at.deadlines) : NULL;
    table->owners = options->shared ? base + at.owners : NULL;
    table->live = (uint64_t *)(void *)(base + at.live);
    table->live_summary = (uint64_t *)(void *)(base + at.summary);
    table->committed = (uint64_t *)(void *)(base + at.committed);
    table->cold_committed = (uint64_t *)(void *)(base + at.cold_committed);
    table->reserved_bytes = (size_t)at.end;
    return 0;
}

/** Reserves for table->slots_max slots, or for half as many, and so on. */
static int
reserve(struct berth_table *table, const struct berth_table_options *options)
{
    for (;;) {
        const int error = reserve_layout(table, options);
        if (error == 0 || table->slots_max / 2 < BERTH_TABLE_SLOTS_MIN)
            return error;
        table->slots_max /= 2;
    }
}

int
berth_table_init(struct berth_table *table, const struct berth_table_options *given)
{
    if (table == NULL)
        return -EINVAL;
    struct berth_table_options options;
    if (given != NULL)
        options = *given;
    else
        berth_table_options_init(&options);
    memset(table, 0, sizeof(*table));
    const int invalid = options_check(&options);
    if (invalid)
        return invalid;

    table->slots_max = power_of_two_from(options.slots_max);
    table->slot_shift = (uint8_t)__builtin_ctz(options.slot_bytes);
    table->index_mode = (uint8_t)options.index_mode;
    table->huge_pages = (uint8_t)options.huge_pages;
    table->cold_stride = cold_stride_for(options.cold_bytes);
    table->owner_id = options.shared ? 1 : 0;
    const int error = reserve(table, &options);
    if (error)
        memset(table, 0, sizeof(*table));
    else
        table->plain = !options.shared && !options.deadlines && options.slot_bytes == 64 &&
                       options.index_mode != BERTH_INDEX_SLOT;
    return error;
}

void
berth_table_fini(struct berth_table *table)
{
    if (table == NULL)
        return;
    if (!table->is_view)
        berth_memory_release(table->hot, table->reserved_bytes);
    memset(table, 0, sizeof(*table));
}

int
berth_table_attach(struct berth_table *view, const struct berth_table *shared, uint8_t owner_id)
{
    if (view == NULL || shared == NULL || shared->owners == NULL || owner_id < 2)
        return -EINVAL;
    *view = *shared;
    memset(&view->stats, 0, sizeof(view->stats));
    view->owner_id = owner_id;
    view->is_view = 1;
    return 0;
}

/* ---- committing -------------------------------------------------------------------------- */

/** Makes elements [first, first + count) of a side array writable; whole pages, neighbours too. */
static int
commit_elements(void *array, size_t element_bytes, uint32_t first, uint32_t count)
{
    if (array == NULL)
        return 0;
    const uintptr_t page = berth_memory_page_bytes();
    const uintptr_t start = (uintptr_t)array + first * element_bytes;
    const uintptr_t end = start + count * element_bytes;
    const uintptr_t aligned = start & ~(page - 1);
    return berth_memory_commit((void *)aligned, end - aligned);
}

/** Moves the mark below which every slot is writable past the chunks that are. */
static void
raise_committed_below(struct berth_table *table, uint32_t per_chunk)
{
    if (table->owners != NULL)
        return; /* views would each have their own, and only the bitmap is shared */
    while (table->committed_below < table->slots_max &&
           bitmap_get(table->committed, table->committed_below / per_chunk))
        table->committed_below += table->slots_max - table->committed_below < per_chunk
                                      ? table->slots_max - table->committed_below
                                      : per_chunk;
}

static int
commit_hot_chunk(struct berth_table *table, uint32_t chunk)
{
    const uint32_t per_chunk = UINT32_C(1) << chunk_slots_shift(table);
    const uint32_t first = chunk * per_chunk;
    const uint32_t count =
        table->slots_max - first < per_chunk ? table->slots_max - first : per_chunk;
    int error = commit_elements(table->live, 1, first / 8, count / 8);
    if (!error)
        error = commit_elements(table->ticks, sizeof(uint16_t), first, count);
    if (!error)
        error = commit_elements(table->deadlines, sizeof(uint16_t), first, count);
    if (!error)
        error = commit_elements(table->owners, 1, first, count);
    if (error)
        return -ENOMEM;

    unsigned char *hot = table->hot + ((size_t)first << table->slot_shift);
    const int huge = table->huge_pages == BERTH_HUGE_ALWAYS ||
                     (table->huge_pages == BERTH_HUGE_AUTO && chunk > 0);
    /* The wish comes first: under mlockall(2) pages come with the permission to write. */
    berth_memory_advise(hot, (size_t)count << table->slot_shift,
                        huge ? BERTH_MEMORY_HUGE : BERTH_MEMORY_SMALL);
    if (berth_memory_commit(hot, (size_t)count << table->slot_shift) != 0)
        return -ENOMEM;
    /*
     * A huge page comes with the first access to its chunk or never, and on kernels before 6.14
     * only if that is a write. Atomic, because another thread may have claimed a slot here
     * meanwhile.
     */
    if (huge)
        (void)__atomic_fetch_or((uint32_t *)(void *)hot, 0, __ATOMIC_RELAXED);
    (void)bitmap_set(table->committed, chunk, table->owners != NULL);
    raise_committed_below(table, per_chunk);
    return 0;
}

/**
 * Cold records have chunks of their own: with records of 4 KiB, those that belong to one chunk of
 * slots would be 128 MiB, all charged (and, under mlockall, filled) for the first connection.
 */
static int
commit_cold_chunk(struct berth_table *table, uint32_t chunk)
{
    const size_t all = (size_t)table->slots_max * table->cold_stride;
    const size_t start = (size_t)chunk << CHUNK_SHIFT;
    const size_t left = all - start;
    if (commit_elements(table->cold + start, 1, 0,
                        left < BERTH_TABLE_CHUNK_BYTES ? (uint32_t)left : BERTH_TABLE_CHUNK_BYTES))
        return -ENOMEM;
    (void)bitmap_set(table->cold_committed, chunk, table->owners != NULL);
    return 0;
}

/** Makes everything that belongs to the slot writable. Returns 0 or -ENOMEM. */
static BERTH_COLD int
commit_slot(struct berth_table *table, uint32_t index)
{
    const uint32_t chunk = index >> chunk_slots_shift(table);
    if (!bitmap_get(table->committed, chunk)) {
        const int error = commit_hot_chunk(table, chunk);
        if (error)
            return error;
    }
    if (table->cold == NULL)
        return 0;
    const size_t start = (size_t)index * table->cold_stride;
    const uint32_t last = (uint32_t)((start + table->cold_stride - 1) >> CHUNK_SHIFT);
    for (uint32_t cold = (uint32_t)(start >> CHUNK_SHIFT); cold <= last; cold++) {
        if (bitmap_get(table->cold_committed, cold))
            continue;
        const int error = commit_cold_chunk(table, cold);
        if (error)
            return error;
    }
    return 0;
}

/* ---- claim and release ------------------------------------------------------------------- */

static uint32_t
generation_after(uint32_t generation)
{
    return generation + 1 == 0 ? 1 : generation + 1;
}

/** The slot of a plain table: its size is known to the compiler. */
static inline struct berth_slot *
plain_slot(const struct berth_table *table, uint32_t index)
{
    BERTH_ASSERT(table->plain && table->slot_shift == SLOT_SHIFT);
    return (struct berth_slot *)(void *)table->hot + index;
}

/** The bit of the slot, and the summary bit when its word comes to life. */
static inline void
mark_live(struct berth_table *table, uint32_t index, int shared)
{
    if (bitmap_set(table->live, index, shared))
        (void)bitmap_set(table->live_summary, index / WORD_BITS, shared);
}

static inline void
mark_dead(struct berth_table *table, uint32_t index, int shared)
{
    const uint32_t word = index / WORD_BITS;
    if (!bitmap_clear(table->live, index, shared))
        return;
    (void)bitmap_clear(table->live_summary, word, shared);
    /* Another thread may have set a bit of the word in between: then its summary bit is due. */
    if (shared && __atomic_load_n(&table->live[word], __ATOMIC_ACQUIRE) != 0)
        (void)bitmap_set(table->live_summary, word, 1);
}

/** A slot that is this thread's to claim comes to life. */
static inline struct berth_slot *
begin_incarnation(struct berth_table *table, struct berth_slot *slot, uint32_t index, int shared)
{
    BERTH_ASSERT(slot->in_flight == 0);
    if (slot->generation == 0)
        slot->generation = 1; /* the first incarnation ever: 0 is in no token */
    slot->flags = BERTH_SLOT_LIVE;
    slot->index = index;
    slot->queue = 0;
    table->ticks[index] = table->tick_now;
    mark_live(table, index, shared);

    table->stats.claimed++;
    if (++table->stats.live > table->stats.live_max)
        table->stats.live_max = table->stats.live;
    return slot;
}

/** In a shared table the owner byte decides who may look at the line at all: take it first. */
static BERTH_COLD int
claim_shared(struct berth_table *table, uint32_t index, struct berth_slot **result)
{
    const int error = commit_slot(table, index);
    if (error)
        return error;
    uint8_t nobody = 0;
    if (!__atomic_compare_exchange_n(&table->owners[index], &nobody, table->owner_id, 0,
                                     __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return -EEXIST;
    struct berth_slot *slot = berth_table_slot(table, index);
    BERTH_ASSERT(!(slot->flags & BERTH_SLOT_LIVE));
    *result = begin_incarnation(table, slot, index, 1);
    return 0;
}

static inline int
claim_index(struct berth_table *table, uint32_t index, struct berth_slot **result)
{
    if (BERTH_UNLIKELY(table->owners != NULL))
        return claim_shared(table, index, result);
    /*
     * Before the slot is looked at: reading memory that nobody has written maps a small page of
     * zeroes, and where one is mapped no huge page comes any more.
     */
    int error = index < table->committed_below ? 0 : commit_slot(table, index);
    if (error)
        return error;
    struct berth_slot *slot = berth_table_slot(table, index);
    if (BERTH_UNLIKELY(slot->flags & BERTH_SLOT_LIVE))
        return -EEXIST;
    if (BERTH_UNLIKELY(slot->generation == 0)) {
        error = commit_slot(table, index); /* its cold record, too */
        if (error)
            return error;
    }
    *result = begin_incarnation(table, slot, index, 0);
    return 0;
}

static BERTH_COLD int
refuse_full(struct berth_table *table)
{
    table->stats.refused_full++;
    return -EMFILE;
}

/** Everything that a plain table's claim of a slot once used is not. */
static __attribute__((noinline)) int
claim_general(struct berth_table *table, uint32_t index, struct berth_slot **slot)
{
    if (table == NULL || slot == NULL || table->hot == NULL ||
        table->index_mode == BERTH_INDEX_SLOT)
        return -EINVAL;
    if (index >= table->slots_max)
        return refuse_full(table);
    return claim_index(table, index, slot);
}

int
berth_table_claim(struct berth_table *table, uint32_t index, struct berth_slot **result)
{
    if (BERTH_UNLIKELY(table == NULL || result == NULL || !table->plain ||
                       index >= table->committed_below))
        return claim_general(table, index, result);
    struct berth_slot *slot = plain_slot(table, index);
    if (BERTH_UNLIKELY(slot->flags != 0 || slot->generation == 0))
        return claim_general(table, index, result);
    *result = begin_incarnation(table, slot, index, 0);
    return 0;
}

int
berth_table_claim_any(struct berth_table *table, struct berth_slot **slot)
{
    if (table == NULL || slot == NULL || table->hot == NULL ||
        table->index_mode != BERTH_INDEX_SLOT)
        return -EINVAL;
    if (table->free_head != 0) {
        const uint32_t index = table->free_head - 1;
        const uint32_t next = berth_table_slot(table, index)->queue;
        const int error = claim_index(table, index, slot);
        if (!error)
            table->free_head = next;
        return error;
    }
    if (table->fresh_index >= table->slots_max)
        return refuse_full(table);
    const int error = claim_index(table, table->fresh_index, slot);
    if (!error)
        table->fresh_index++;
    return error;
}

/** A whole slot becomes zero: in the usual size with four stores, not with a call. */
static inline void
clear_slot(const struct berth_table *table, struct berth_slot *slot)
{
    if (BERTH_LIKELY(table->slot_shift == SLOT_SHIFT))
        memset(slot, 0, sizeof(*slot));
    else
        memset(slot, 0, (size_t)1 << table->slot_shift);
}

/** What happens last in a shared table: from the store on, any thread may claim the slot. */
static BERTH_COLD void
finish_release_shared(struct berth_table *table, uint32_t index)
{
    mark_dead(table, index, 1);
    __atomic_store_n(&table->owners[index], 0, __ATOMIC_RELEASE);
}

/** Releases of all kinds, and those that must be refused. */
static __attribute__((noinline)) int
release_general(struct berth_table *table, berth_token token)
{
    if (table == NULL || table->hot == NULL)
        return -EINVAL;
    struct berth_slot *slot = berth_table_find(table, token);
    if (BERTH_UNLIKELY(slot == NULL || (slot->flags & BERTH_SLOT_GIVEN)))
        return -ESTALE;
    if (BERTH_UNLIKELY(slot->in_flight != 0))
        return -EBUSY;

    const uint32_t index = berth_token_index(token);
    const uint32_t generation = berth_token_generation(token);
    BERTH_ASSERT(index == slot->index && generation == slot->generation);
    if (slot->flags & BERTH_SLOT_COLD_USED)
        memset(table->cold + (size_t)index * table->cold_stride, 0, table->cold_stride);
    if (table->deadlines != NULL)
        table->deadlines[index] = 0;

    clear_slot(table, slot);
    slot->generation = generation_after(generation);
    BERTH_ASSERT(table->stats.live > 0);
    table->stats.live--;
    if (BERTH_UNLIKELY(table->owners != NULL)) {
        finish_release_shared(table, index);
        return 0;
    }
    if (table->index_mode == BERTH_INDEX_SLOT) {
        slot->queue = table->free_head;
        table->free_head = index + 1;
    }
    mark_dead(table, index, 0);
    return 0;
}

int
berth_table_release(struct berth_table *table, berth_token token)
{
    const uint32_t index = berth_token_index(token);
    const uint32_t generation = berth_token_generation(token);
    if (BERTH_UNLIKELY(table == NULL || !table->plain || index >= table->slots_max))
        return release_general(table, token);
    struct berth_slot *slot = plain_slot(table, index);
    const unsigned special = BERTH_SLOT_LIVE | BERTH_SLOT_GIVEN | BERTH_SLOT_COLD_USED;
    if (BERTH_UNLIKELY(slot->generation != generation ||
                       (slot->flags & special) != BERTH_SLOT_LIVE || slot->in_flight != 0))
        return release_general(table, token);
    memset(slot, 0, sizeof(*slot));
    slot->generation = generation_after(generation);
    table->stats.live--;
    mark_dead(table, index, 0);
    return 0;
}

/* ---- why a lookup failed ------------------------------------------------------------------ */

BERTH_COLD struct berth_slot *
berth_table_find_failed(struct berth_table *table, berth_token token)
{
    const uint32_t index = berth_token_index(token);
    uint8_t owner = table->owner_id;
    if (index < table->slots_max && table->owners != NULL)
        owner = __atomic_load_n(&table->owners[index], __ATOMIC_RELAXED);
    const int foreign = owner != table->owner_id && owner != 0;
    if (berth_token_generation(token) == 0 || index >= table->slots_max || foreign)
        table->stats.malformed++;
    else
        table->stats.stale++;
    return NULL;
}

void
berth_table_stats_get(const struct berth_table *table, struct berth_table_stats *stats)
{
    *stats = table->stats;
}
