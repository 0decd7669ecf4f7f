/*
 * What table.c and table_side.c share: the live bitmap, which both keep and read.
 *
 * In a shared table several threads set bits of one word, so the updates are atomic there; a table
 * of one thread pays nothing for that.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_CORE_TABLE_INTERNAL_H
#define BERTH_CORE_TABLE_INTERNAL_H

#include "berth/table.h"

#define WORD_BITS 64u

/** Sets a bit in a bitmap; nonzero if the word was zero before. */
static inline int
bitmap_set(uint64_t *words, uint32_t bit, int shared)
{
    const uint64_t mask = UINT64_C(1) << (bit % WORD_BITS);
    uint64_t *word = &words[bit / WORD_BITS];
    if (shared)
        return __atomic_fetch_or(word, mask, __ATOMIC_ACQ_REL) == 0;
    const uint64_t before = *word;
    *word = before | mask;
    return before == 0;
}

/** Clears a bit; nonzero if the word is zero after. */
static inline int
bitmap_clear(uint64_t *words, uint32_t bit, int shared)
{
    const uint64_t mask = UINT64_C(1) << (bit % WORD_BITS);
    uint64_t *word = &words[bit / WORD_BITS];
    if (shared)
        return (__atomic_and_fetch(word, ~mask, __ATOMIC_ACQ_REL)) == 0;
    *word &= ~mask;
    return *word == 0;
}

static inline uint64_t
bitmap_word(const uint64_t *words, uint32_t word)
{
    return __atomic_load_n(&words[word], __ATOMIC_RELAXED);
}

static inline int
bitmap_get(const uint64_t *words, uint32_t bit)
{
    return (int)(bitmap_word(words, bit / WORD_BITS) >> (bit % WORD_BITS)) & 1;
}

/** Words of the summary: each bit stands for a word of the live bitmap. */
static inline uint32_t
summary_words(const struct berth_table *table)
{
    return (table->slots_max / WORD_BITS + WORD_BITS - 1) / WORD_BITS;
}

/** log2 of BERTH_TABLE_CHUNK_BYTES, and of the bytes in a slot of the usual size. */
#define CHUNK_SHIFT 21
#define SLOT_SHIFT 6
BERTH_STATIC_ASSERT(BERTH_TABLE_CHUNK_BYTES == UINT32_C(1) << CHUNK_SHIFT,
                    "a shift, not a division");
BERTH_STATIC_ASSERT(sizeof(struct berth_slot) == 1 << SLOT_SHIFT, "a shift, not a division");

/** log2 of the slots that share one chunk of hot memory. */
static inline unsigned
chunk_slots_shift(const struct berth_table *table)
{
    return (unsigned)CHUNK_SHIFT - table->slot_shift;
}

#endif
