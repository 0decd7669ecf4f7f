/*
 * Typed wrappers over the table: macros that define inline functions, and nothing else. They only
 * put the casts in one place; what each function promises is said in table.h, which includes this.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TABLE_TYPE_H
#define BERTH_TABLE_TYPE_H

#include "berth/table.h"

/**
 * Typed wrappers, so that a program never casts. BERTH_TABLE_TYPE(conn, struct hot, struct cold)
 * defines, as inline functions over a `struct berth_table *`:
 *
 *   int           conn_table_init(table, options)          sizes come from the types
 *   int           conn_claim(table, index, struct hot **)
 *   struct hot   *conn_find(table, token)                  NULL if stale
 *   berth_token   conn_token(struct hot *, op)
 *   struct cold  *conn_cold(table, struct hot *)
 *   int           conn_release(table, struct hot *)
 *
 * `struct hot` is 1 to 232 bytes (40 for one-line slots), aligned to 8 or less.
 */
#define BERTH_TABLE_TYPE(prefix, hot_type, cold_type)                                              \
    BERTH_TABLE_TYPE_HOT(prefix, hot_type, (uint32_t)sizeof(cold_type));                           \
    BERTH_STATIC_ASSERT(sizeof(cold_type) <= BERTH_TABLE_COLD_BYTES_MAX, "cold record too big");   \
    BERTH_INLINE cold_type *prefix##_cold(const struct berth_table *table, hot_type *hot)          \
    {                                                                                              \
        return (cold_type *)berth_table_cold(table, berth_slot_of(hot)->index);                    \
    }                                                                                              \
    BERTH_STATIC_ASSERT(1, "takes a semicolon")

/** The same without a cold record: pass 0 as the last argument. */
#define BERTH_TABLE_TYPE_HOT(prefix, hot_type, cold_size)                                          \
    BERTH_STATIC_ASSERT(sizeof(hot_type) <= 4 * BERTH_CACHE_LINE - BERTH_SLOT_HEADER_BYTES,        \
                        "hot state does not fit the largest slot");                                \
    BERTH_INLINE int prefix##_table_init(struct berth_table *table,                                \
                                         const struct berth_table_options *given)                  \
    {                                                                                              \
        struct berth_table_options options;                                                        \
        if (given != NULL)                                                                         \
            options = *given;                                                                      \
        else                                                                                       \
            berth_table_options_init(&options);                                                    \
        const size_t bytes = sizeof(hot_type) + BERTH_SLOT_HEADER_BYTES;                           \
        options.slot_bytes = bytes <= BERTH_CACHE_LINE       ? BERTH_CACHE_LINE                    \
                             : bytes <= 2 * BERTH_CACHE_LINE ? 2 * BERTH_CACHE_LINE                \
                                                             : 4 * BERTH_CACHE_LINE;               \
        options.cold_bytes = (cold_size);                                                          \
        return berth_table_init(table, &options);                                                  \
    }                                                                                              \
    BERTH_INLINE int prefix##_claim(struct berth_table *table, uint32_t index, hot_type **hot)     \
    {                                                                                              \
        struct berth_slot *slot = NULL;                                                            \
        const int error = berth_table_claim(table, index, &slot);                                  \
        *hot = error ? NULL : (hot_type *)berth_slot_payload(slot);                                \
        return error;                                                                              \
    }                                                                                              \
    BERTH_INLINE hot_type *prefix##_find(struct berth_table *table, berth_token token)             \
    {                                                                                              \
        struct berth_slot *slot = berth_table_find(table, token);                                  \
        return slot == NULL ? NULL : (hot_type *)berth_slot_payload(slot);                         \
    }                                                                                              \
    BERTH_INLINE berth_token prefix##_token(hot_type *hot, uint8_t op)                             \
    {                                                                                              \
        return berth_slot_token(berth_slot_of(hot), op);                                           \
    }                                                                                              \
    BERTH_INLINE int prefix##_release(struct berth_table *table, hot_type *hot)                    \
    {                                                                                              \
        return berth_table_release(table, berth_slot_token(berth_slot_of(hot), 0));                \
    }                                                                                              \
    BERTH_STATIC_ASSERT(1, "takes a semicolon")

#endif
