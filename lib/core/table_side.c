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
    return table->slots_max / BERTH_WORD_BITS;
}

/** The first word of the live bitmap, from `word` on, that has a bit set; live_words() if none. */
static uint32_t
next_live_word(const struct berth_table *table, uint32_t word)
{
    const uint32_t words = live_words(table);
    uint32_t group = word / BERTH_WORD_BITS;
    const uint32_t groups = (words + BERTH_WORD_BITS - 1) / BERTH_WORD_BITS;
    if (group >= groups)
        return words;
    uint64_t bits = bitmap_word(table->live_summary, group);
    bits &= ~UINT64_C(0) << (word % BERTH_WORD_BITS);
    while (bits == 0) {
        if (++group == groups)
            return words;
        bits = bitmap_word(table->live_summary, group);
    }
    return group * BERTH_WORD_BITS + (uint32_t)__builtin_ctzll(bits);
}

uint32_t
berth_table_next_live(const struct berth_table *table, uint32_t from)
{
    if (table == NULL || from >= table->slots_max)
        return BERTH_TABLE_INDEX_NONE;
    uint32_t word = next_live_word(table, from / BERTH_WORD_BITS);
    if (word == from / BERTH_WORD_BITS) {
        const uint64_t bits =
            bitmap_word(table->live, word) & (~UINT64_C(0) << (from % BERTH_WORD_BITS));
        if (bits != 0)
            return word * BERTH_WORD_BITS + (uint32_t)__builtin_ctzll(bits);
        word = next_live_word(table, word + 1);
    }
    /* In a shared table a word may empty between summary and word: go on to the next. */
    for (; word < live_words(table); word = next_live_word(table, word + 1)) {
        const uint64_t bits = bitmap_word(table->live, word);
        if (bits != 0)
            return word * BERTH_WORD_BITS + (uint32_t)__builtin_ctzll(bits);
    }
    return BERTH_TABLE_INDEX_NONE;
}

/* ---- idle ticks ---------------------------------------------------------------------------- */

static uint16_t
age_of(const struct berth_table *table, uint32_t index)
{
    return (uint16_t)(table->tick_now - table->ticks[index]);
}

/** Whether any of the 64 slots of a word is that old: a loop that compilers turn into vectors. */
static int
block_has_age(const uint16_t *ticks, uint16_t now, uint16_t age)
{
    uint16_t found = 0;
    for (unsigned i = 0; i < BERTH_WORD_BITS; i++)
        found |= (uint16_t)((uint16_t)(now - ticks[i]) >= age);
    return found != 0;
}

/** The live slots of one word whose age is at least `idle_ticks`, as bits; clamps their ages. */
static uint64_t
idle_bits(struct berth_table *table, uint32_t word, uint16_t idle_ticks)
{
    const uint32_t base = word * BERTH_WORD_BITS;
    uint64_t idle = 0;
    if (!block_has_age(&table->ticks[base], table->tick_now, idle_ticks))
        return 0;
    for (uint64_t bits = bitmap_word(table->live, word); bits != 0; bits &= bits - 1) {
        const uint32_t index = base + (uint32_t)__builtin_ctzll(bits);
        if (age_of(table, index) < idle_ticks)
            continue;
        if (age_of(table, index) > AGE_MAX)
            table->ticks[index] = (uint16_t)(table->tick_now - AGE_MAX);
        idle |= bits & -bits;
    }
    return idle;
}

/** The live slots of one word whose deadline has passed, as bits. */
static uint64_t
expired_bits(struct berth_table *table, uint32_t word, uint16_t unused)
{
    (void)unused;
    const uint32_t base = word * BERTH_WORD_BITS;
    uint64_t expired = 0;
    for (uint64_t bits = bitmap_word(table->live, word); bits != 0; bits &= bits - 1) {
        const uint32_t index = base + (uint32_t)__builtin_ctzll(bits);
        const uint16_t deadline = table->deadlines[index];
        if (deadline != 0 && (uint16_t)(table->tick_now - deadline) <= AGE_MAX)
            expired |= bits & -bits;
    }
    return expired;
}

/** Lists, from *cursor on, the slots that `select` picks from each word. */
static uint32_t
list_selected(struct berth_table *table, uint16_t argument, uint32_t *cursor, uint32_t *indices,
              uint32_t count,
              uint64_t (*select)(struct berth_table *, uint32_t word, uint16_t argument))
{
    uint32_t written = 0;
    uint32_t word = next_live_word(table, *cursor / BERTH_WORD_BITS);
    uint64_t mask = ~UINT64_C(0);
    if (word == *cursor / BERTH_WORD_BITS)
        mask <<= *cursor % BERTH_WORD_BITS;
    for (; word < live_words(table); word = next_live_word(table, word + 1)) {
        for (uint64_t bits = select(table, word, argument) & mask; bits != 0; bits &= bits - 1) {
            const uint32_t index = word * BERTH_WORD_BITS + (uint32_t)__builtin_ctzll(bits);
            if (written == count) {
                *cursor = index;
                return written;
            }
            indices[written++] = index;
        }
        mask = ~UINT64_C(0);
    }
    *cursor = BERTH_TABLE_INDEX_NONE;
    return written;
}

uint32_t
berth_table_sweep(struct berth_table *table, uint16_t idle_ticks, uint32_t *cursor,
                  uint32_t *indices, uint32_t count)
{
    if (table == NULL || table->hot == NULL || cursor == NULL || indices == NULL ||
        idle_ticks == 0 || idle_ticks > AGE_MAX || *cursor >= table->slots_max)
        return 0;
    return list_selected(table, idle_ticks, cursor, indices, count, idle_bits);
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
    if (table == NULL || table->deadlines == NULL || index >= table->slots_max ||
        ticks > AGE_MAX || !(berth_table_slot(table, index)->flags & BERTH_SLOT_LIVE))
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
        return 0;
    const uint32_t written = list_selected(table, 0, cursor, indices, count, expired_bits);
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
    if (slot->in_flight != 0)
        return -EBUSY;
    table->stats.live--;
    __atomic_store_n(&table->owners[slot->index], owner_id, __ATOMIC_RELEASE);
    return 0;
}

int
berth_table_take(struct berth_table *table, berth_token token)
{
    if (table == NULL || table->owners == NULL)
        return -EINVAL;
    if (berth_table_find(table, token) == NULL)
        return -ESTALE;
    if (++table->stats.live > table->stats.live_max)
        table->stats.live_max = table->stats.live;
    return 0;
}

/* ---- the checker ----------------------------------------------------------------------------- */

static const char *
check_live_slot(const struct berth_table *table, uint32_t index)
{
    const struct berth_slot *slot = berth_table_slot(table, index);
    if (!bitmap_get(table->committed, index / chunk_slots(table)))
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
    for (unsigned i = 0; i < sizeof(slot->payload); i++)
        if (slot->payload[i] != 0)
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
    for (uint32_t bit = 0; bit < BERTH_WORD_BITS; bit++) {
        const uint32_t index = word * BERTH_WORD_BITS + bit;
        const char *why = (bits >> bit) & 1 ? check_live_slot(table, index)
                                            : check_empty_slot(table, index);
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
