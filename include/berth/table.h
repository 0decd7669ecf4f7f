/*
 * The connection table: an array of cache-line-aligned slots, found from the number that the
 * kernel hands back, that never move while the table lives.
 *
 *   HOT   one slot = one cache line: a header of 24 bytes and 40 bytes of the program's own state
 *   COLD  a parallel array with records of a size the program chooses: what no event touches
 *   SIDE  a two-level bitmap of live slots; 16-bit idle ticks; 16-bit deadlines and owners if asked
 *
 * Address space for all of it is reserved once, for `slots_max` slots, and never sized by
 * RLIMIT_NOFILE. Memory is committed in chunks of 2 MiB of slots as they are claimed, and becomes
 * resident as it is written. Memory that was never written reads as zero, and all-zero is an empty
 * slot: there is no loop over the capacity, and a lookup may read any slot in range.
 *
 * Which call may run beside which, on one table (a view of a shared one counts as its own table):
 *
 *                         claim/release/touch/sweep   find/prefetch/cold   next_live/verify/stats
 *   claim, release, ...              X                        X                      X
 *   find, prefetch, cold             X                        -                      -
 *   next_live, verify, stats         X                        -                      -
 *   X: only from the owning thread, one after the other. -: any order, any thread that keeps X out.
 *   Inside an iteration over live slots, any slot may be claimed or released.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TABLE_H
#define BERTH_TABLE_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include "berth/attr.h"
#include "berth/cacheline.h"
#include "berth/stats.h"
#include "berth/token.h"

BERTH_BEGIN_DECLS

/** Slots reserved when the options do not say: 1,048,576, which is 64 MiB of address space. */
#define BERTH_TABLE_SLOTS_DEFAULT (UINT32_C(1) << 20)

/** Fewer slots than this are never reserved: below it the table is not worth having. */
#define BERTH_TABLE_SLOTS_MIN UINT32_C(1024)

/** Bytes of slots made writable at a time, and the size of a huge page on the usual systems. */
#define BERTH_TABLE_CHUNK_BYTES (UINT32_C(2) << 20)

/** The largest cold record, in bytes. */
#define BERTH_TABLE_COLD_BYTES_MAX UINT32_C(4096)

/** The largest age that idle ticks can express; see berth_table_sweep. */
#define BERTH_TABLE_IDLE_TICKS_MAX UINT16_C(32767)

/**
 * How many events ahead the adapters prefetch. Measured from 1 to 64 the choice hardly matters, as
 * long as there is one: 8 hides a miss behind the shortest handler and wastes nothing at the end.
 */
#define BERTH_TABLE_AHEAD 8

/** "No slot", where an index is returned. */
#define BERTH_TABLE_INDEX_NONE UINT32_MAX

/** Bytes of the slot header, ahead of the program's own state. */
#define BERTH_SLOT_HEADER_BYTES 24

/** Bytes of the program's own state in a slot of the default size. */
#define BERTH_SLOT_PAYLOAD_BYTES (BERTH_CACHE_LINE - BERTH_SLOT_HEADER_BYTES)

/**
 * Bits of berth_slot.flags. The table sets LIVE, COLD_USED, and GIVEN (given to another view, which
 * has not taken it yet); whoever closes connections sets CLOSING.
 */
enum berth_slot_flag {
    BERTH_SLOT_LIVE = 1,
    BERTH_SLOT_CLOSING = 2,
    BERTH_SLOT_COLD_USED = 4,
    BERTH_SLOT_GIVEN = 8,
    BERTH_SLOT_DRIVER_1 = 16, /**< these four mean what whoever drives the table wants */
    BERTH_SLOT_DRIVER_2 = 32,
    BERTH_SLOT_DRIVER_3 = 64,
    BERTH_SLOT_DRIVER_4 = 128
};

/**
 * One slot: transparent, because the hot path is inline. The table writes `generation`, `index`
 * and the flags LIVE, COLD_USED and GIVEN. The rest belongs to whoever drives the table: berth's
 * loop, or your program. The payload starts at offset 24 and is `slot_bytes - 24` bytes long (40
 * here). A slot that was never used is all zero. Since 0.1.
 */
struct berth_slot {
    uint32_t generation; /**< of the incarnation that lives here, or the last one that did */
    uint8_t flags;       /**< enum berth_slot_flag */
    uint8_t class_id;    /**< the driver's: which set of handlers serves this connection */
    uint16_t in_flight;  /**< operations the kernel still holds: berth_slot_begin / _end */
    uint32_t index;      /**< this slot's own number: the descriptor, in descriptor mode */
    uint32_t state;      /**< the driver's */
    uint32_t buffer;     /**< the driver's */
    uint32_t queue;      /**< the driver's while live; the table's free list while not */
    unsigned char payload[BERTH_SLOT_PAYLOAD_BYTES]; /**< your state */
} BERTH_ALIGNED(BERTH_CACHE_LINE);

BERTH_STATIC_ASSERT(sizeof(struct berth_slot) == BERTH_CACHE_LINE, "a slot is one cache line");
BERTH_STATIC_ASSERT(offsetof(struct berth_slot, payload) == BERTH_SLOT_HEADER_BYTES,
                    "the slot header is 24 bytes");

/** What an index is. */
enum berth_index_mode {
    BERTH_INDEX_FD = 0, /**< a file descriptor: the kernel gives the lowest, so slots are dense */
    BERTH_INDEX_DIRECT = 1, /**< an io_uring direct (fixed file) descriptor of one ring */
    BERTH_INDEX_SLOT = 2    /**< a number the table picks (berth_table_claim_any): for handles */
};

/** When committed chunks ask for huge pages. */
enum berth_huge_pages {
    /** From the second chunk on: a table with few connections stays at a few small pages. */
    BERTH_HUGE_AUTO = 0,
    BERTH_HUGE_ALWAYS = 1,
    BERTH_HUGE_NEVER = 2
};

/**
 * How to make a table. Fill with berth_table_options_init, then change what you need. Since 0.1.
 */
struct berth_table_options {
    uint32_t abi;        /**< set by berth_table_options_init; a mismatch is refused */
    uint32_t slots_max;  /**< 1,024 to 16,777,216, rounded up to a power of two */
    uint32_t slot_bytes; /**< 64, 128 or 256 */
    uint32_t cold_bytes; /**< 0 (no cold array) to 4,096 */
    enum berth_index_mode index_mode;
    enum berth_huge_pages huge_pages;
    int deadlines; /**< nonzero: keep a 16-bit deadline per slot */
    int shared;    /**< nonzero: several threads, each with a view: berth_table_attach */
};

/** What the headers and the library must agree on. */
#define BERTH_TABLE_ABI                                                                            \
    ((uint32_t)(0xbe010000u | (BERTH_CACHE_LINE << 4) | (sizeof(void *) == 8 ? 1u : 0u)))

/**
 * A table, in the caller's own storage; its members are private but for the inline functions
 * below. The first line is read on every event and written almost never; the second holds what
 * this table's owner counts. Since 0.1.
 */
struct berth_table {
    unsigned char *hot;
    uint32_t slots_max;
    uint8_t slot_shift;
    uint8_t index_mode;
    uint8_t huge_pages;
    uint8_t owner_id; /**< of this view; 0 when the table is not shared */
    uint8_t *owners;  /**< NULL when the table is not shared */
    uint16_t *ticks;
    uint64_t *live;
    unsigned char *cold;
    uint32_t cold_stride;
    uint16_t tick_now;
    uint8_t is_view;
    uint8_t plain;       /**< not shared, one-line slots, no deadlines, not slot mode */
    uint16_t *deadlines; /**< NULL when not asked for */

    struct berth_table_stats stats BERTH_ALIGNED(BERTH_CACHE_LINE);
    uint64_t *live_summary;
    uint64_t *committed;      /**< chunks of slots made writable so far */
    uint64_t *cold_committed; /**< and chunks of cold records */
    size_t reserved_bytes;
    uint32_t committed_below; /**< slots below it are writable; of a shared table: not kept */
    uint32_t free_head;       /**< slot mode: 1 + the index of the last slot released, 0 for none */
    uint32_t fresh_index;     /**< slot mode: the lowest index never claimed */
} BERTH_ALIGNED(BERTH_CACHE_LINE);

/** Fills `options` with the defaults that the comments above name. Since 0.1. */
BERTH_INLINE void
berth_table_options_init(struct berth_table_options *options)
{
    options->abi = BERTH_TABLE_ABI;
    options->slots_max = BERTH_TABLE_SLOTS_DEFAULT;
    options->slot_bytes = BERTH_CACHE_LINE;
    options->cold_bytes = 0;
    options->index_mode = BERTH_INDEX_FD;
    options->huge_pages = BERTH_HUGE_AUTO;
    options->deadlines = 0;
    options->shared = 0;
}

/**
 * Makes a table in `table` (caller's storage, contents ignored).
 *
 * @param options  NULL for the defaults. Not kept.
 * @return 0; -EINVAL: an argument is out of its range, or `table` is NULL; -EPROTO: the headers
 *         this program was compiled with do not fit this library; -ENOMEM: not even 1,024 slots'
 *         worth of address space. Under a tight RLIMIT_AS (or a locked address space) the request
 *         is halved until it fits: ask berth_table_slots_max what came of it.
 *
 * Cost: about six system calls, one page touched besides `table`. Undo with berth_table_fini.
 * Since 0.1.
 */
BERTH_API BERTH_NODISCARD int berth_table_init(struct berth_table *table,
                                               const struct berth_table_options *options);

/**
 * Gives the table's memory back; live slots are forgotten, their descriptors stay open.
 * A second call, or a call on zeroed storage or NULL, does nothing. Views of a shared table must
 * be finished before the table they were attached to. Since 0.1.
 */
BERTH_API void berth_table_fini(struct berth_table *table);

/**
 * Makes `view` this thread's own way into `shared` (made with options.shared). Each view has an
 * owner number; a slot is owned by the view that claimed it, is found only there, and moves with
 * berth_table_give / _take. `shared` itself is the view with owner number 1.
 *
 * @param owner_id  2 to 255, unique among the views; not checked against other threads' views.
 * @return 0; -EINVAL: not a shared table, or an owner number out of range.
 */
BERTH_API BERTH_NODISCARD int
berth_table_attach(struct berth_table *view, const struct berth_table *shared, uint8_t owner_id);

/** How many slots this table can hold: indices are below it. Since 0.1. */
BERTH_INLINE uint32_t
berth_table_slots_max(const struct berth_table *table)
{
    return table->slots_max;
}

/** How many slots are live now (of a shared table: claimed through this view and not released). */
BERTH_INLINE uint32_t
berth_table_live_count(const struct berth_table *table)
{
    return (uint32_t)table->stats.live;
}

/** The slot with that number, live or not: below berth_table_slots_max. Since 0.1. */
BERTH_INLINE struct berth_slot *
berth_table_slot(const struct berth_table *table, uint32_t index)
{
    BERTH_ASSERT(index < table->slots_max);
    return (struct berth_slot *)(void *)(table->hot + ((size_t)index << table->slot_shift));
}

/** Not for direct use: counts why a lookup failed, and returns NULL. */
BERTH_API struct berth_slot *berth_table_find_failed(struct berth_table *table, berth_token token);

/**
 * The live slot that `token` names, or NULL if it names none: a zero, malformed or out-of-range
 * token, a slot that is empty, has since been reused, or belongs to another thread's view. Each
 * is counted (berth_table_stats_get). The slot may be CLOSING: its completions must still arrive.
 *
 * Call it when an event is dispatched, and again after anything that may have closed the
 * connection, which every callback may. Cost: one cache line. Since 0.1.
 */
BERTH_INLINE struct berth_slot *
berth_table_find(struct berth_table *table, berth_token token)
{
    const uint32_t index = berth_token_index(token);
    if (BERTH_UNLIKELY(index >= table->slots_max))
        return berth_table_find_failed(table, token);
    if (BERTH_UNLIKELY(table->owners != NULL) &&
        __atomic_load_n(&table->owners[index], __ATOMIC_ACQUIRE) != table->owner_id)
        return berth_table_find_failed(table, token);
    struct berth_slot *slot = berth_table_slot(table, index);
    if (BERTH_UNLIKELY(slot->generation != berth_token_generation(token)) ||
        BERTH_UNLIKELY((slot->flags & BERTH_SLOT_LIVE) == 0))
        return berth_table_find_failed(table, token);
    return slot;
}

/**
 * Starts fetching the slot that `token` names into the cache: for the next few events of a batch,
 * or before a system call on berth_token_index(token) itself. Never faults, whatever the token
 * says; never touches memory that is not the table's. Since 0.1.
 */
BERTH_INLINE void
berth_table_prefetch(const struct berth_table *table, berth_token token)
{
    const uint32_t index = berth_token_index(token) & (table->slots_max - 1);
    __builtin_prefetch(table->hot + ((size_t)index << table->slot_shift), 1, 3);
}

/**
 * Claims the empty slot number `index` for a new connection: the next generation begins, the
 * payload is zero, nothing is in flight. Not in slot mode.
 *
 * @param slot  receives the slot; it stays at that address until the table is finished.
 * @return 0; -EMFILE: `index` is not below slots_max (close the descriptor: the table is full);
 *         -EEXIST: the slot is live; -ENOMEM: no memory for its chunk; -EINVAL: NULL, or slot mode.
 *
 * Cost: two or three cache lines; up to four system calls when it is the first in its chunk.
 * Since 0.1.
 */
BERTH_API BERTH_NODISCARD int berth_table_claim(struct berth_table *table, uint32_t index,
                                                struct berth_slot **slot);

/**
 * Claims a slot whose number the table picks: the last one released, else the lowest never used.
 * Slot mode only. Returns as berth_table_claim, -EMFILE when all are live. Since 0.1.
 */
BERTH_API BERTH_NODISCARD int berth_table_claim_any(struct berth_table *table,
                                                    struct berth_slot **slot);

/**
 * Ends the incarnation that `token` names: slot and used cold record are cleared, the generation
 * goes up, every token made before is stale from here on. Close the descriptor after this call,
 * never before it: close(2) frees the number for reuse by any thread at once.
 *
 * @return 0; -ESTALE: the token names no live slot (released twice, say); -EBUSY: operations are
 *         still in flight, nothing was changed. Since 0.1.
 */
BERTH_API int berth_table_release(struct berth_table *table, berth_token token);

/** The token that names this live slot's incarnation, with `op` in it. Since 0.1. */
BERTH_INLINE berth_token
berth_slot_token(const struct berth_slot *slot, uint8_t op)
{
    BERTH_ASSERT(slot->flags & BERTH_SLOT_LIVE);
    return berth_token_make(slot->index, slot->generation, op);
}

/** The program's own bytes in the slot: 40, 104 or 232 of them, 8-byte aligned. Since 0.1. */
BERTH_INLINE void *
berth_slot_payload(struct berth_slot *slot)
{
    return slot->payload;
}

/** The slot that holds `payload` (what berth_slot_payload returned). Since 0.1. */
BERTH_INLINE struct berth_slot *
berth_slot_of(void *payload)
{
    return (struct berth_slot *)(void *)((unsigned char *)payload - BERTH_SLOT_HEADER_BYTES);
}

/** The descriptor of a slot in descriptor mode; nothing useful in the other modes. Since 0.1. */
BERTH_INLINE int
berth_slot_fd(const struct berth_slot *slot)
{
    return (int)slot->index;
}

/**
 * Notes that the kernel now holds one more operation of this connection: the slot cannot be
 * released until as many berth_slot_end calls have come. Returns 0, or -EOVERFLOW at 65,535
 * operations, when nothing was noted. Since 0.1.
 */
BERTH_INLINE int
berth_slot_begin(struct berth_slot *slot)
{
    if (BERTH_UNLIKELY(slot->in_flight == UINT16_MAX))
        return -EOVERFLOW;
    slot->in_flight++;
    return 0;
}

/** One operation's last completion has come. Returns how many are still in flight. Since 0.1. */
BERTH_INLINE unsigned
berth_slot_end(struct berth_slot *slot)
{
    BERTH_ASSERT(slot->in_flight > 0);
    if (BERTH_LIKELY(slot->in_flight > 0))
        slot->in_flight--;
    return slot->in_flight;
}

/**
 * The cold record of a live slot: `cold_bytes` zero bytes at first, the program's until release,
 * which clears it. NULL when the table has no cold array or the slot is not live. Since 0.1.
 */
BERTH_INLINE void *
berth_table_cold(const struct berth_table *table, uint32_t index)
{
    if (BERTH_UNLIKELY(table->cold == NULL || index >= table->slots_max))
        return NULL;
    struct berth_slot *slot = berth_table_slot(table, index);
    if (BERTH_UNLIKELY((slot->flags & BERTH_SLOT_LIVE) == 0))
        return NULL;
    slot->flags |= BERTH_SLOT_COLD_USED;
    return table->cold + (size_t)index * table->cold_stride;
}

/** The lowest live index that is `from` or more, or BERTH_TABLE_INDEX_NONE. O(live), not O(max). */
BERTH_API uint32_t berth_table_next_live(const struct berth_table *table, uint32_t from);

/** Where a walk over the live slots is. Made and used by BERTH_TABLE_EACH_LIVE. */
struct berth_table_walk {
    uint64_t words; /**< words of the live bitmap still to visit, of one word of the summary */
    uint64_t bits;  /**< slots still to visit, of one word of the live bitmap */
    uint32_t next_summary;
    uint32_t word;
    int over;
};

/**
 * Not for direct use: the next live index, or BERTH_TABLE_INDEX_NONE. Each bit is looked up again
 * when its turn comes, because its slot may be gone by then.
 */
BERTH_INLINE uint32_t
berth_table_walk_next(const struct berth_table *table, struct berth_table_walk *walk)
{
    const uint32_t summary_words = (table->slots_max + 4095) / 4096;
    uint32_t bit;
    do {
        while (walk->bits == 0) {
            while (walk->words == 0) {
                if (walk->next_summary == summary_words)
                    return BERTH_TABLE_INDEX_NONE;
                walk->words =
                    __atomic_load_n(&table->live_summary[walk->next_summary++], __ATOMIC_RELAXED);
            }
            walk->word = (walk->next_summary - 1) * 64 + (uint32_t)__builtin_ctzll(walk->words);
            walk->words &= walk->words - 1;
            walk->bits = __atomic_load_n(&table->live[walk->word], __ATOMIC_RELAXED);
        }
        bit = (uint32_t)__builtin_ctzll(walk->bits);
        walk->bits &= walk->bits - 1;
    } while (!((__atomic_load_n(&table->live[walk->word], __ATOMIC_RELAXED) >> bit) & 1));
    return walk->word * 64 + bit;
}

/**
 * Runs the following statement for every live slot, in index order: `index` is a uint32_t that the
 * macro declares. Slots may be claimed and released inside: one released before its turn is not
 * listed, one claimed ahead of the walk may or may not be. In a shared table every view's slots are
 * listed: look only at your own (berth_table_owner). Costs some 2 ns per live slot.
 */
#define BERTH_TABLE_EACH_LIVE(table, index_name)                                                   \
    /* The outer loop runs once: it is there to declare the walk, so that `break` works. */        \
    for (struct berth_table_walk index_name##_walk = {0, 0, 0, 0, 0}; !index_name##_walk.over;     \
         index_name##_walk.over = 1)                                                               \
        for (uint32_t index_name = berth_table_walk_next((table), &index_name##_walk);             \
             index_name != BERTH_TABLE_INDEX_NONE;                                                 \
             index_name = berth_table_walk_next((table), &index_name##_walk))

/** Sets the table's clock. A tick is as long as you say: only differences matter. Since 0.1. */
BERTH_INLINE void
berth_table_tick_set(struct berth_table *table, uint16_t now)
{
    table->tick_now = now;
}

/** Notes that the slot was active in the current tick: one two-byte store. Since 0.1. */
BERTH_INLINE void
berth_table_touch(struct berth_table *table, uint32_t index)
{
    BERTH_ASSERT(index < table->slots_max);
    table->ticks[index] = table->tick_now;
}

/**
 * Lists live slots that have been idle for `idle_ticks` (1 to 32,767) or more, in index order.
 * Call it at least every 32,767 ticks: it also keeps older ages from wrapping round.
 *
 * @param cursor   in: the first index to look at, 0 to begin; out: where to go on, or
 *                 BERTH_TABLE_INDEX_NONE when the table's end was reached.
 * @param indices  receives up to `count` indices.
 * @return how many were written; 0 with *cursor at BERTH_TABLE_INDEX_NONE also for arguments out of
 *         range. Of a shared table only this view's slots are listed, by sweep, oldest and expired
 *         alike. Since 0.1.
 */
BERTH_API uint32_t berth_table_sweep(struct berth_table *table, uint16_t idle_ticks,
                                     uint32_t *cursor, uint32_t *indices, uint32_t count);

/**
 * The live slots that have been idle longest, oldest first: whom to close when room is short.
 * Writes up to `count` indices and returns how many. O(live x log count). Since 0.1.
 */
BERTH_API uint32_t berth_table_oldest(const struct berth_table *table, uint32_t *indices,
                                      uint32_t count);

/**
 * Sets the slot's deadline to `ticks` (1 to 32,767) from now, or clears it with 0. One store.
 * Returns 0; -EINVAL: the table keeps no deadlines, or an argument is out of range. Since 0.1.
 */
BERTH_API int berth_table_deadline_set(struct berth_table *table, uint32_t index, uint16_t ticks);

/**
 * Lists live slots whose deadline has passed, and clears those deadlines. As berth_table_sweep, and
 * to be called as often: a deadline that passed 32,768 ticks ago seems to lie ahead. Since 0.1.
 */
BERTH_API uint32_t berth_table_expired(struct berth_table *table, uint32_t *cursor,
                                       uint32_t *indices, uint32_t count);

/** The owner number of a slot of a shared table; 0: nobody. Any thread. Since 0.1. */
BERTH_API uint8_t berth_table_owner(const struct berth_table *table, uint32_t index);

/**
 * Gives the live slot that `token` names, and its descriptor, to the view `owner_id`. From here on
 * this view no longer finds it; the receiver must call berth_table_take before using it. How the
 * token reaches the other thread is your affair.
 * Returns 0; -EINVAL: not shared or a bad owner number; -ESTALE; -EBUSY: operations in flight.
 */
BERTH_API int berth_table_give(struct berth_table *table, berth_token token, uint8_t owner_id);

/** Accepts a slot that was given to this view. Returns 0, or -ESTALE if it was not. Since 0.1. */
BERTH_API int berth_table_take(struct berth_table *table, berth_token token);

/** A copy of this table's counters. Since 0.1. */
BERTH_API void berth_table_stats_get(const struct berth_table *table,
                                     struct berth_table_stats *stats);

/**
 * Checks every invariant that can be checked from outside, in O(slots_max / 64 + live): bitmap and
 * summary agree, live slots carry their own index and a generation, empty ones nothing in flight.
 * For tests and for a program that suspects its own stores.
 * @param why  receives static text naming the first violation; may be NULL.
 * @return 0 or -EUCLEAN (-EBADMSG where there is no such error). Since 0.1.
 */
BERTH_API int berth_table_verify(const struct berth_table *table, const char **why);

BERTH_END_DECLS

#include "berth/table_type.h"

#endif
