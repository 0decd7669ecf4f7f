/*
 * Everything that walks over slots or looks beside them: the live bitmap, idle ticks, deadlines,
 * owners, and the checker. Nothing here is on the way of an event.
 *
 * The invariant: an index is listed if and only if its slot is live, and walking costs as much as
 * there are live slots, not as much as there is room.
 *
 * SPDX-License-Identifier: MIT
 */
#include "core/table_internal.h"

#include <string.h>

#include "os/errors.h"

/** Ages are compared in 16 bits: older than half the range cannot be told from the future. */
#define AGE_MAX BERTH_TABLE_IDLE_TICKS_MAX

static uint32_t
live_words(const struct berth_table *table)
{
    return table->slots_max / WORD_BITS;
}

/** The first word of the live bitmap, from `word` on, that has a bit set; live_words() if none. */
static uint32_t
next_live_word(const struct berth_table *table, uint32_t word)
{
    const uint32_t words = live_words(table);
    const uint32_t groups = summary_words(table);
    uint32_t group = word / WORD_BITS;
    if (group >= groups)
        return words;
    uint64_t bits = bitmap_word(table->live_summary, group);
    bits &= ~UINT64_C(0) << (word % WORD_BITS);
    while (bits == 0) {
        if (++group == groups)
            return words;
        bits = bitmap_word(table->live_summary, group);
    }
    return group * WORD_BITS + (uint32_t)__builtin_ctzll(bits);
}

uint32_t
berth_table_next_live(const struct berth_table *table, uint32_t from)
{
    if (table == NULL || from >= table->slots_max)
        return BERTH_TABLE_INDEX_NONE;
    uint32_t word = next_live_word(table, from / WORD_BITS);
    if (word == from / WORD_BITS) {
        const uint64_t bits = bitmap_word(table->live, word) & (~UINT64_C(0) << (from % WORD_BITS));
        if (bits != 0)
            return word * WORD_BITS + (uint32_t)__builtin_ctzll(bits);
        word = next_live_word(table, word + 1);
    }
    /* In a shared table a word may empty between summary and word: go on to the next. */
    for (; word < live_words(table); word = next_live_word(table, word + 1)) {
        const uint64_t bits = bitmap_word(table->live, word);
        if (bits != 0)
            return word * WORD_BITS + (uint32_t)__builtin_ctzll(bits);
    }
    return BERTH_TABLE_INDEX_NONE;
}

/* ---- idle ticks ---------------------------------------------------------------------------- */

static uint16_t
age_of(const struct berth_table *table, uint32_t index)
{
    return (uint16_t)(table->tick_now - table->ticks[index]);
}

/*
 * Sixty-four 16-bit values are looked at in eight vectors of eight, whatever vectors the machine
 * has (the compiler makes scalar code where there are none). What a vector j finds goes into bit j
 * of its lane, so that one result collects all eight.
 */
#define LANES 8
#define VECTORS (WORD_BITS / LANES)
typedef uint16_t lanes __attribute__((vector_size(2 * LANES), may_alias));
typedef int16_t signed_lanes __attribute__((vector_size(2 * LANES), may_alias));
typedef uint64_t halves __attribute__((vector_size(2 * LANES), may_alias));

/** Bit j of lane l becomes bit 8 j + l: an 8 x 8 transposition, in three steps of swapping. */
static uint64_t
transpose(lanes found)
{
    uint64_t bits = 0;
    for (unsigned lane = 0; lane < LANES; lane++)
        bits |= (uint64_t)found[lane] << (8 * lane);
    uint64_t swap = (bits ^ (bits >> 7)) & UINT64_C(0x00aa00aa00aa00aa);
    bits ^= swap ^ (swap << 7);
    swap = (bits ^ (bits >> 14)) & UINT64_C(0x0000cccc0000cccc);
    bits ^= swap ^ (swap << 14);
    swap = (bits ^ (bits >> 28)) & UINT64_C(0x00000000f0f0f0f0);
    return bits ^ swap ^ (swap << 28);
}

/**
 * Whether any of 64 ticks is old: three instructions for eight of them where a machine has vectors.
 * A signed comparison is one instruction everywhere, an unsigned one is not: so `now` and `limit`
 * come shifted by half the range, which turns one into the other.
 */
static inline int
any_aged(const lanes *ticks, lanes now, signed_lanes limit)
{
    signed_lanes found = {0};
#pragma GCC unroll 8
    for (unsigned i = 0; i < VECTORS; i++)
        found |= (signed_lanes)(now - ticks[i]) > limit;
    const halves any = (halves)found;
    return (any[0] | any[1]) != 0;
}

/** Which of 64 ticks are `age` or more behind `now`. */
static uint64_t
aged_bits(const uint16_t *ticks, uint16_t now, uint16_t age)
{
    const lanes *vectors = (const lanes *)(const void *)ticks;
    lanes found = {0};
    lanes bit = {1, 1, 1, 1, 1, 1, 1, 1};
    for (unsigned i = 0; i < VECTORS; i++, bit += bit)
        found |= (lanes)((lanes)(now - vectors[i]) >= age) & bit;
    return transpose(found);
}

/** Which of 64 deadlines are set and not after `now`. */
static inline uint64_t
passed_bits(const uint16_t *deadlines, uint16_t now)
{
    const lanes *vectors = (const lanes *)(const void *)deadlines;
    lanes found = {0};
    lanes bit = {1, 1, 1, 1, 1, 1, 1, 1};
#pragma GCC unroll 8
    for (unsigned i = 0; i < VECTORS; i++, bit += bit) {
        const lanes passed = (lanes)((lanes)(now - vectors[i]) <= AGE_MAX);
        found |= passed & (lanes)(vectors[i] != 0) & bit;
    }
    return transpose(found);
}

/** In a shared table: this view's slots among `bits`. Nothing of the others is looked at. */
static BERTH_COLD uint64_t
own_bits(const struct berth_table *table, uint32_t word, uint64_t bits)
{
    uint64_t own = 0;
    for (; bits != 0; bits &= bits - 1) {
        const uint32_t index = word * WORD_BITS + (uint32_t)__builtin_ctzll(bits);
        if (__atomic_load_n(&table->owners[index], __ATOMIC_ACQUIRE) == table->owner_id)
            own |= bits & -bits;
    }
    return own;
}

/** Those of this view's live slots in a word that `selected` says are due, one after the other. */
static uint64_t
due_one_by_one(const struct berth_table *table, uint32_t word, uint16_t idle_ticks)
{
    uint64_t due = 0;
    for (uint64_t own = own_bits(table, word, bitmap_word(table->live, word)); own != 0;
         own &= own - 1) {
        const uint32_t index = word * WORD_BITS + (uint32_t)__builtin_ctzll(own);
        const uint16_t deadline = idle_ticks == 0 ? table->deadlines[index] : 0;
        if (idle_ticks != 0 ? age_of(table, index) >= idle_ticks
                            : deadline != 0 && (uint16_t)(table->tick_now - deadline) <= AGE_MAX)
            due |= own & -own;
    }
    return due;
}

/** Ages past the largest one are set back to it, before they wrap round and look young. */
static void
clamp_ages(struct berth_table *table, uint32_t word, uint64_t bits)
{
    for (; bits != 0; bits &= bits - 1) {
        const uint32_t index = word * WORD_BITS + (uint32_t)__builtin_ctzll(bits);
        if (age_of(table, index) > AGE_MAX)
            table->ticks[index] = (uint16_t)(table->tick_now - AGE_MAX);
    }
}

/** What is looked for: copied out of the table, so that it can stay in registers. */
struct due_query {
    const uint16_t *values; /* ticks or deadlines */
    uint16_t now;
    uint16_t idle_ticks; /* 0: deadlines */
    int shared;
    lanes now_shifted;
    signed_lanes limit_shifted;
};

static inline struct due_query
due_query_make(const struct berth_table *table, const uint16_t *values, uint16_t idle_ticks)
{
    const lanes zero = {0};
    const struct due_query query = {values,
                                    table->tick_now,
                                    idle_ticks,
                                    table->owners != NULL,
                                    zero + (uint16_t)(table->tick_now + 0x8000u),
                                    (signed_lanes)(zero + (uint16_t)(idle_ticks + 0x7fffu))};
    return query;
}

/** The live slots of one word that are due: idle for that long, or past their deadline. */
static inline uint64_t
due_bits(struct berth_table *table, uint32_t word, const struct due_query query)
{
    const uint16_t *values = &query.values[word * WORD_BITS];
    if (BERTH_LIKELY(!query.shared) && query.idle_ticks != 0 &&
        BERTH_LIKELY(
            !any_aged((const lanes *)(const void *)values, query.now_shifted, query.limit_shifted)))
        return 0;
    uint64_t due;
    if (query.shared)
        due = due_one_by_one(table, word, query.idle_ticks);
    else if (query.idle_ticks != 0)
        due = aged_bits(values, query.now, query.idle_ticks);
    else
        due = passed_bits(values, query.now);
    due &= bitmap_word(table->live, word);
    if (query.idle_ticks != 0)
        clamp_ages(table, word, due);
    return due;
}

/** Writes the indices of `bits` to `indices`, up to `count` in all; nonzero and *cursor if full. */
static int
list_bits(uint32_t word, uint64_t bits, uint32_t *cursor, uint32_t *indices, uint32_t count,
          uint32_t *written)
{
    for (; bits != 0; bits &= bits - 1) {
        const uint32_t index = word * WORD_BITS + (uint32_t)__builtin_ctzll(bits);
        if (*written == count) {
            *cursor = index;
            return 1;
        }
        indices[(*written)++] = index;
    }
    return 0;
}

/** Lists what is due from *cursor on. Inlined twice, each time for one kind. */
BERTH_INLINE uint32_t
list_due(struct berth_table *table, const struct due_query query, uint32_t *cursor,
         uint32_t *indices, uint32_t count)
{
    const uint32_t groups = summary_words(table);
    const uint32_t first = *cursor / WORD_BITS;
    uint32_t written = 0;
    uint64_t mask = ~UINT64_C(0) << (first % WORD_BITS);
    for (uint32_t group = first / WORD_BITS; group < groups; group++) {
        uint64_t words = bitmap_word(table->live_summary, group) & mask;
        mask = ~UINT64_C(0);
        for (; words != 0; words &= words - 1) {
            const uint32_t word = group * WORD_BITS + (uint32_t)__builtin_ctzll(words);
            uint64_t due = due_bits(table, word, query);
            if (BERTH_LIKELY(due == 0))
                continue;
            if (word == first)
                due &= ~UINT64_C(0) << (*cursor % WORD_BITS);
            if (list_bits(word, due, cursor, indices, count, &written))
                return written;
        }
    }
    *cursor = BERTH_TABLE_INDEX_NONE;
    return written;
}

/** Nonsense is refused with an empty list that ends at once: a caller that pages would go on. */
static uint32_t
refuse_list(uint32_t *cursor)
{
    if (cursor != NULL)
        *cursor = BERTH_TABLE_INDEX_NONE;
    return 0;
}

uint32_t
berth_table_sweep(struct berth_table *table, uint16_t idle_ticks, uint32_t *cursor,
                  uint32_t *indices, uint32_t count)
{
    if (table == NULL || table->hot == NULL || cursor == NULL || indices == NULL ||
        idle_ticks == 0 || idle_ticks > AGE_MAX || *cursor >= table->slots_max)
        return refuse_list(cursor);
    return list_due(table, due_query_make(table, table->ticks, idle_ticks), cursor, indices, count);
}

/** Restores the heap below `at`: the youngest of those kept stands at indices[0]. */
static void
sift_down(const struct berth_table *table, uint32_t *indices, uint32_t count, uint32_t at)
{
    for (;;) {
        uint32_t youngest = at;
        for (uint32_t child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++)
            if (age_of(table, indices[child]) < age_of(table, indices[youngest]))
                youngest = child;
        if (youngest == at)
            return;
        const uint32_t swapped = indices[at];
        indices[at] = indices[youngest];
        indices[youngest] = swapped;
        at = youngest;
    }
}

uint32_t
berth_table_oldest(const struct berth_table *table, uint32_t *indices, uint32_t count)
{
    if (table == NULL || table->hot == NULL || indices == NULL || count == 0)
        return 0;
    uint32_t kept = 0;
    BERTH_TABLE_EACH_LIVE (table, index) {
        if (table->owners != NULL && berth_table_owner(table, index) != table->owner_id)
            continue;
        if (kept < count) {
            indices[kept++] = index;
            if (kept == count)
                for (uint32_t at = kept / 2; at-- > 0;)
                    sift_down(table, indices, kept, at);
        } else if (age_of(table, index) > age_of(table, indices[0])) {
            indices[0] = index;
            sift_down(table, indices, kept, 0);
        }
    }
    if (kept < count)
        for (uint32_t at = kept / 2; at-- > 0;)
            sift_down(table, indices, kept, at);
    for (uint32_t left = kept; left > 1; left--) { /* the youngest goes to the end, and so on */
        const uint32_t youngest = indices[0];
        indices[0] = indices[left - 1];
        indices[left - 1] = youngest;
        sift_down(table, indices, left - 1, 0);
    }
    return kept;
}

/* ---- deadlines ------------------------------------------------------------------------------ */

int
berth_table_deadline_set(struct berth_table *table, uint32_t index, uint16_t ticks)
{
    if (table == NULL || table->deadlines == NULL || index >= table->slots_max || ticks > AGE_MAX ||
        !(berth_table_slot(table, index)->flags & BERTH_SLOT_LIVE))
        return -EINVAL;
    uint16_t deadline = (uint16_t)(table->tick_now + ticks);
    if (deadline == 0)
        deadline = 1; /* 0 means none: one tick late is the lesser evil */
    table->deadlines[index] = ticks == 0 ? 0 : deadline;
    return 0;
}

uint32_t
berth_table_expired(struct berth_table *table, uint32_t *cursor, uint32_t *indices, uint32_t count)
{
    if (table == NULL || table->deadlines == NULL || cursor == NULL || indices == NULL ||
        *cursor >= table->slots_max)
        return refuse_list(cursor);
    const struct due_query query = due_query_make(table, table->deadlines, 0);
    const uint32_t written = list_due(table, query, cursor, indices, count);
    for (uint32_t i = 0; i < written; i++)
        table->deadlines[indices[i]] = 0;
    return written;
}

/* ---- owners --------------------------------------------------------------------------------- */

uint8_t
berth_table_owner(const struct berth_table *table, uint32_t index)
{
    if (table == NULL || table->owners == NULL || index >= table->slots_max)
        return 0;
    return __atomic_load_n(&table->owners[index], __ATOMIC_ACQUIRE);
}

int
berth_table_give(struct berth_table *table, berth_token token, uint8_t owner_id)
{
    if (table == NULL || table->owners == NULL || owner_id == 0 || owner_id == table->owner_id)
        return -EINVAL;
    struct berth_slot *slot = berth_table_find(table, token);
    if (slot == NULL)
        return -ESTALE;
    if (slot->flags & BERTH_SLOT_GIVEN)
        return -ESTALE; /* given to this view, and not taken yet */
    if (slot->in_flight != 0)
        return -EBUSY;
    slot->flags |= BERTH_SLOT_GIVEN;
    table->stats.live--;
    __atomic_store_n(&table->owners[slot->index], owner_id, __ATOMIC_RELEASE);
    return 0;
}

int
berth_table_take(struct berth_table *table, berth_token token)
{
    if (table == NULL || table->owners == NULL)
        return -EINVAL;
    struct berth_slot *slot = berth_table_find(table, token);
    if (slot == NULL || !(slot->flags & BERTH_SLOT_GIVEN))
        return -ESTALE;
    slot->flags &= (uint8_t)~BERTH_SLOT_GIVEN;
    if (++table->stats.live > table->stats.live_max)
        table->stats.live_max = table->stats.live;
    return 0;
}

/* ---- the checker ---------------------------------------------------------------------------- */

static const char *
check_live_slot(const struct berth_table *table, uint32_t index)
{
    const struct berth_slot *slot = berth_table_slot(table, index);
    if (!bitmap_get(table->committed, index >> chunk_slots_shift(table)))
        return "a live slot lies in memory that was never committed";
    if (!(slot->flags & BERTH_SLOT_LIVE))
        return "the bitmap says live, the slot says empty";
    if (slot->index != index)
        return "a live slot carries another slot's index";
    if (slot->generation == 0)
        return "a live slot has generation 0";
    return NULL;
}

static const char *
check_empty_slot(const struct berth_table *table, uint32_t index)
{
    const struct berth_slot *slot = berth_table_slot(table, index);
    if (slot->flags != 0)
        return "a slot has flags, the bitmap says empty";
    if (slot->in_flight != 0)
        return "an empty slot has operations in flight";
    if ((slot->class_id | slot->state | slot->buffer) != 0)
        return "an empty slot was written to";
    if (slot->queue != 0 && table->index_mode != BERTH_INDEX_SLOT)
        return "an empty slot was written to";
    const size_t bytes = ((size_t)1 << table->slot_shift) - BERTH_SLOT_HEADER_BYTES;
    const unsigned char *payload = (const unsigned char *)slot + BERTH_SLOT_HEADER_BYTES;
    for (size_t i = 0; i < bytes; i++)
        if (payload[i] != 0)
            return "an empty slot was written to";
    return NULL;
}

/** Walks the free list of slot mode: every member empty, and no more members than slots. */
static const char *
check_free_list(const struct berth_table *table)
{
    uint32_t members = 0;
    for (uint32_t next = table->free_head; next != 0; members++) {
        if (next > table->slots_max || members == table->slots_max)
            return "the free list leaves the table or runs in a circle";
        if (bitmap_get(table->live, next - 1))
            return "the free list holds a live slot";
        next = berth_table_slot(table, next - 1)->queue;
    }
    return NULL;
}

static const char *
check_word(const struct berth_table *table, uint32_t word, uint64_t *live)
{
    const uint64_t bits = bitmap_word(table->live, word);
    if ((bits != 0) != bitmap_get(table->live_summary, word))
        return "the summary of the live bitmap disagrees with it";
    if (bits == 0)
        return NULL;
    *live += (uint64_t)__builtin_popcountll(bits);
    for (uint32_t bit = 0; bit < WORD_BITS; bit++) {
        const uint32_t index = word * WORD_BITS + bit;
        const char *why =
            (bits >> bit) & 1 ? check_live_slot(table, index) : check_empty_slot(table, index);
        if (why != NULL)
            return why;
    }
    return NULL;
}

int
berth_table_verify(const struct berth_table *table, const char **why)
{
    const char *found = NULL;
    uint64_t live = 0;
    if (table == NULL || table->hot == NULL)
        found = "not a table";
    for (uint32_t word = 0; found == NULL && word < live_words(table); word++)
        found = check_word(table, word, &live);
    if (found == NULL && table->owners == NULL && live != table->stats.live)
        found = "the count of live slots is wrong";
    if (found == NULL && table->index_mode == BERTH_INDEX_SLOT)
        found = check_free_list(table);
    if (why != NULL)
        *why = found;
    return found == NULL ? 0 : -EUCLEAN;
}
