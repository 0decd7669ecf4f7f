/*
 * An exported twin, with the suffix _fn, of every inline function in the headers of libberth: for
 * languages that cannot compile C. C programs use the inline ones, so these have no prototypes in
 * a header.
 *
 * SPDX-License-Identifier: MIT
 */
#include "berth.h"

#define TWIN(type, name, parameters, arguments)                                                    \
    BERTH_API type name##_fn parameters;                                                           \
    type name##_fn parameters                                                                      \
    {                                                                                              \
        return name arguments;                                                                     \
    }

#define TWIN_VOID(name, parameters, arguments)                                                     \
    BERTH_API void name##_fn parameters;                                                           \
    void name##_fn parameters                                                                      \
    {                                                                                              \
        name arguments;                                                                            \
    }

TWIN(berth_token, berth_token_make, (uint32_t index, uint32_t generation, uint8_t op),
     (index, generation, op))
TWIN(uint32_t, berth_token_index, (berth_token token), (token))
TWIN(uint32_t, berth_token_generation, (berth_token token), (token))
TWIN(uint8_t, berth_token_op, (berth_token token), (token))
TWIN(berth_token, berth_token_with_op, (berth_token token, uint8_t op), (token, op))
TWIN(int, berth_token_same, (berth_token a, berth_token b), (a, b))

TWIN_VOID(berth_table_options_init, (struct berth_table_options * options), (options))
TWIN(uint32_t, berth_table_slots_max, (const struct berth_table *table), (table))
TWIN(uint32_t, berth_table_live_count, (const struct berth_table *table), (table))
TWIN(struct berth_slot *, berth_table_slot, (const struct berth_table *table, uint32_t index),
     (table, index))
TWIN(struct berth_slot *, berth_table_find, (struct berth_table * table, berth_token token),
     (table, token))
TWIN_VOID(berth_table_prefetch, (const struct berth_table *table, berth_token token),
          (table, token))
TWIN(berth_token, berth_slot_token, (const struct berth_slot *slot, uint8_t op), (slot, op))
TWIN(void *, berth_slot_payload, (struct berth_slot * slot), (slot))
TWIN(struct berth_slot *, berth_slot_of, (void *payload), (payload))
TWIN(int, berth_slot_fd, (const struct berth_slot *slot), (slot))
TWIN(int, berth_slot_begin, (struct berth_slot * slot), (slot))
TWIN(unsigned, berth_slot_end, (struct berth_slot * slot), (slot))
TWIN(void *, berth_table_cold, (const struct berth_table *table, uint32_t index), (table, index))
TWIN(uint32_t, berth_table_walk_next,
     (const struct berth_table *table, struct berth_table_walk *walk), (table, walk))
TWIN_VOID(berth_table_tick_set, (struct berth_table * table, uint16_t now), (table, now))
TWIN_VOID(berth_table_touch, (struct berth_table * table, uint32_t index), (table, index))

TWIN_VOID(berth_pool_options_init, (struct berth_pool_options * options), (options))
