/*
 * The token: what a kernel event carries instead of a pointer.
 *
 *      63      56 55                            24 23                      0
 *     +----------+--------------------------------+------------------------+
 *     |    op    |           generation           |         index          |
 *     +----------+--------------------------------+------------------------+
 *
 * `index` finds the slot (a descriptor number, an io_uring direct descriptor, or a slot number:
 * see enum berth_index_mode). `generation` says which incarnation of the slot is meant, so that
 * an event which outlives its connection is recognised and dropped. `op` is free for the owner of
 * the event queue: it tells a receive completion from a send completion of the same connection.
 *
 * A token fits epoll_data.u64, io_uring user_data, kevent.udata on LP64 systems and an IOCP key.
 * Generation 0 is never given out, therefore 0 is never a valid token.
 * These are pure functions of their arguments: any thread, no memory touched, no error.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TOKEN_H
#define BERTH_TOKEN_H

#include <stdint.h>

#include "berth/attr.h"

#define BERTH_TOKEN_INDEX_BITS 24
#define BERTH_TOKEN_GENERATION_BITS 32
#define BERTH_TOKEN_OP_BITS 8

/** The most slots that a token can tell apart: 16,777,216. */
#define BERTH_TOKEN_SLOTS_MAX (UINT32_C(1) << BERTH_TOKEN_INDEX_BITS)

/** A name for one incarnation of one slot. Copy it freely; it owns nothing. */
typedef uint64_t berth_token;

/** The token that names nothing; every lookup refuses it. */
#define BERTH_TOKEN_NONE UINT64_C(0)

/** Packs a token. `index` is below BERTH_TOKEN_SLOTS_MAX; higher bits would be lost. Since 0.1. */
BERTH_INLINE BERTH_CONST berth_token
berth_token_make(uint32_t index, uint32_t generation, uint8_t op)
{
    BERTH_ASSERT(index < BERTH_TOKEN_SLOTS_MAX);
    return ((uint64_t)op << (BERTH_TOKEN_INDEX_BITS + BERTH_TOKEN_GENERATION_BITS)) |
           ((uint64_t)generation << BERTH_TOKEN_INDEX_BITS) | (index & (BERTH_TOKEN_SLOTS_MAX - 1));
}

/** The slot index in `token`: the descriptor itself in the default index mode. Since 0.1. */
BERTH_INLINE BERTH_CONST uint32_t
berth_token_index(berth_token token)
{
    return (uint32_t)token & (BERTH_TOKEN_SLOTS_MAX - 1);
}

/** The generation in `token`; 0 in no token that berth made. Since 0.1. */
BERTH_INLINE BERTH_CONST uint32_t
berth_token_generation(berth_token token)
{
    return (uint32_t)(token >> BERTH_TOKEN_INDEX_BITS);
}

/** The operation byte that the maker of `token` put there. Since 0.1. */
BERTH_INLINE BERTH_CONST uint8_t
berth_token_op(berth_token token)
{
    return (uint8_t)(token >> (BERTH_TOKEN_INDEX_BITS + BERTH_TOKEN_GENERATION_BITS));
}

/** `token` with its operation byte replaced. Since 0.1. */
BERTH_INLINE BERTH_CONST berth_token
berth_token_with_op(berth_token token, uint8_t op)
{
    const uint64_t mask =
        (UINT64_C(1) << (BERTH_TOKEN_INDEX_BITS + BERTH_TOKEN_GENERATION_BITS)) - 1;
    return (token & mask) |
           ((uint64_t)op << (BERTH_TOKEN_INDEX_BITS + BERTH_TOKEN_GENERATION_BITS));
}

/** Whether two tokens name the same incarnation of the same slot, whatever their op. Since 0.1. */
BERTH_INLINE BERTH_CONST int
berth_token_same(berth_token a, berth_token b)
{
    return ((a ^ b) << BERTH_TOKEN_OP_BITS) == 0;
}

#endif
