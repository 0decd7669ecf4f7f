/*
 * Shorthand for the table's tests: the calls that must succeed, and a verified end.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_TABLE_TEST_H
#define BERTH_TESTS_TABLE_TEST_H

#include <check.h>
#include <errno.h>
#include <string.h>

#include "berth/table.h"
#include "support/support.h"

#define MAYBE_UNUSED __attribute__((unused))

/** Bytes that are there, and nothing but zero. */
static MAYBE_UNUSED int
all_zero(const void *memory, size_t size)
{
    const unsigned char *bytes = memory;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return 0;
    return 1;
}

static MAYBE_UNUSED void
must_init(struct berth_table *table, const struct berth_table_options *options)
{
    ck_assert_int_eq(berth_table_init(table, options), 0);
}

/** A table of the defaults, but for its index mode. */
static MAYBE_UNUSED void
must_init_mode(struct berth_table *table, enum berth_index_mode mode)
{
    struct berth_table_options options;
    berth_table_options_init(&options);
    options.index_mode = mode;
    must_init(table, &options);
}

static MAYBE_UNUSED struct berth_slot *
must_claim(struct berth_table *table, uint32_t index)
{
    struct berth_slot *slot = NULL;
    ck_assert_int_eq(berth_table_claim(table, index, &slot), 0);
    ck_assert_ptr_nonnull(slot);
    return slot;
}

/** The same for callers that only want the token. */
static MAYBE_UNUSED berth_token
must_claim_token(struct berth_table *table, uint32_t index)
{
    return berth_slot_token(must_claim(table, index), 0);
}

static MAYBE_UNUSED void
must_release(struct berth_table *table, uint32_t index)
{
    const berth_token token = berth_slot_token(berth_table_slot(table, index), 0);
    ck_assert_int_eq(berth_table_release(table, token), 0);
}

static MAYBE_UNUSED void
must_verify(const struct berth_table *table)
{
    const char *why = "unset";
    const int error = berth_table_verify(table, &why);
    ck_assert_msg(error == 0, "berth_table_verify: %s", why);
    ck_assert_ptr_null(why);
}

/** Every test of a table ends with this. */
static MAYBE_UNUSED void
must_fini(struct berth_table *table)
{
    must_verify(table);
    berth_table_fini(table);
}

static MAYBE_UNUSED struct berth_table_stats
stats_of(const struct berth_table *table)
{
    struct berth_table_stats stats;
    berth_table_stats_get(table, &stats);
    return stats;
}

#endif
