/*
 * Random numbers that are the same in every run, and the two ways of shuffling that measurements of
 * memory need. Header only; nothing here is fit for secrets.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_RANDOM_H
#define BENCH_RANDOM_H

#include <stdint.h>

/** Any number but 0 will do: the one that every measurement begins with. */
#define RANDOM_SEED UINT64_C(0x9e3779b97f4a7c15)

/** The next of xorshift64*: `state` must not be 0. */
static inline uint64_t
random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

/** From 0 to limit - 1, by the upper bits, which are the better ones. */
static inline uint32_t
random_below(uint64_t *state, uint32_t limit)
{
    return (uint32_t)(((random_next(state) >> 32) * limit) >> 32);
}

/** Fills `order` with 0 to count - 1 in random order (Fisher and Yates, from the inside out). */
static inline void
random_order(uint32_t *order, uint32_t count, uint64_t *state)
{
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t j = random_below(state, i + 1);
        order[i] = i;
        order[i] = order[j];
        order[j] = i;
    }
}

/**
 * Fills `next` so that at -> next[at] runs through all of 0 to count - 1 before it comes back
 * (Sattolo). A mere shuffle falls apart into short circles that fit the cache.
 */
static inline void
random_cycle(uint32_t *next, uint32_t count, uint64_t *state)
{
    for (uint32_t i = 0; i < count; i++)
        next[i] = i;
    for (uint32_t i = count; i > 1; i--) {
        const uint32_t j = random_below(state, i - 1);
        const uint32_t swapped = next[i - 1];
        next[i - 1] = next[j];
        next[j] = swapped;
    }
}

#endif
