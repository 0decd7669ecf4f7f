/*
 * One hot path of the table, so many times: table_paths OPERATION COUNT. It measures nothing
 * itself; table.sh runs it under a tool that counts, with two counts, so that what comes before and
 * after cancels out. "suited" says why this build's counts mean nothing, with status 1, or nothing.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <berth.h>

#define FIRST_INDEX 16u

/** 16 KiB of slots: they fit any first-level cache, those simulated in any case. */
#define WARM_SLOTS 256u

/** Claimed and released between as many that stay. */
#define CHURN_SLOTS (WARM_SLOTS / 2)

/** 8 MiB of slots: none of them is in the simulated last level when its turn comes again. */
#define COLD_SLOTS (UINT32_C(1) << 17)

/** Of a full cycle through COLD_SLOTS numbers, in an order without pattern: no list to read. */
#define CYCLE_MULTIPLIER UINT32_C(1664525)
#define CYCLE_INCREMENT UINT32_C(1013904223)

/** Makes the compiler believe that `value` is used. */
#define USED(value) __asm__ volatile("" : : "r"(value))

static struct berth_table table;
static berth_token tokens[WARM_SLOTS];

/** Claims `count` slots from number `from`, `step` apart, and keeps the tokens of the first. */
static void
fill(uint32_t from, uint32_t count, uint32_t step)
{
    if (berth_table_init(&table, NULL) != 0)
        abort();
    for (uint32_t i = 0; i < count; i++) {
        struct berth_slot *slot = NULL;
        if (berth_table_claim(&table, from + i * step, &slot) != 0)
            abort();
        if (i < WARM_SLOTS)
            tokens[i] = berth_slot_token(slot, 0);
    }
}

static void
set_up_warm(void)
{
    fill(FIRST_INDEX, WARM_SLOTS, 1);
}

static void
set_up_churn(void)
{
    fill(FIRST_INDEX, CHURN_SLOTS, 2);
}

static void
set_up_cold(void)
{
    fill(0, COLD_SLOTS, 1);
}

static void
run_floor(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        USED(tokens[i % WARM_SLOTS]);
}

static void
run_find(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        USED(berth_table_find(&table, tokens[i % WARM_SLOTS]));
}

static void
run_touch(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        berth_table_touch(&table, berth_token_index(tokens[i % WARM_SLOTS]));
}

/** Of slots between live ones, as they are when connections come and go. */
static void
run_claim_release(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct berth_slot *slot = NULL;
        if (berth_table_claim(&table, FIRST_INDEX + 1 + 2 * (uint32_t)(i % CHURN_SLOTS), &slot) !=
            0)
            abort();
        if (berth_table_release(&table, berth_slot_token(slot, 0)) != 0)
            abort();
    }
}

static void
run_walk(uint64_t count)
{
    for (uint64_t walked = 0; walked < count; walked += COLD_SLOTS) {
        BERTH_TABLE_EACH_LIVE (&table, index)
            USED(index);
    }
}

/** Everything is idle for two ticks, so that all of it is found. */
static void
run_sweep(uint64_t count)
{
    uint32_t found[256];
    berth_table_tick_set(&table, 2);
    for (uint64_t swept = 0; swept < count; swept += COLD_SLOTS) {
        uint32_t cursor = 0;
        while (cursor != BERTH_TABLE_INDEX_NONE)
            USED(berth_table_sweep(&table, 1, &cursor, found, 256));
    }
}

static void
run_cold_floor(uint64_t count)
{
    uint32_t at = 1;
    for (uint64_t i = 0; i < count; i++) {
        at = at * CYCLE_MULTIPLIER + CYCLE_INCREMENT;
        USED(berth_token_make(at % COLD_SLOTS, berth_token_generation(tokens[0]), 0));
    }
}

static void
run_cold_find(uint64_t count)
{
    uint32_t at = 1;
    for (uint64_t i = 0; i < count; i++) {
        at = at * CYCLE_MULTIPLIER + CYCLE_INCREMENT;
        struct berth_slot *slot = berth_table_find(
            &table, berth_token_make(at % COLD_SLOTS, berth_token_generation(tokens[0]), 0));
        if (slot == NULL)
            abort();
    }
}

static const struct {
    const char *name;
    void (*set_up)(void);
    void (*run)(uint64_t count);
} operations[] = {
    {"floor", set_up_warm, run_floor},
    {"find", set_up_warm, run_find},
    {"touch", set_up_warm, run_touch},
    {"claim-release", set_up_churn, run_claim_release},
    {"walk", set_up_cold, run_walk},
    {"sweep", set_up_cold, run_sweep},
    {"cold-floor", set_up_cold, run_cold_floor},
    {"cold-find", set_up_cold, run_cold_find},
};

/** Why the counts of this build are not those that users get; NULL when they are. */
static const char *
unsuited(void)
{
#ifndef __OPTIMIZE__
    return "it is compiled without optimisation";
#elif defined(__OPTIMIZE_SIZE__)
    return "it is compiled to be small";
#elif defined(BERTH_CHECKS)
    return "it is built with --enable-checks";
#elif !defined(__x86_64__)
    return "the budgets are those of x86-64";
#else
    return NULL;
#endif
}

int
main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "suited") == 0) {
        if (unsuited() != NULL)
            puts(unsuited());
        return unsuited() != NULL;
    }
    for (size_t i = 0; argc == 3 && i < sizeof operations / sizeof operations[0]; i++) {
        if (strcmp(operations[i].name, argv[1]) == 0) {
            operations[i].set_up();
            operations[i].run(strtoull(argv[2], NULL, 10));
            berth_table_fini(&table);
            return 0;
        }
    }
    fputs("usage: table_paths OPERATION COUNT | suited\n", stderr);
    return 2;
}
