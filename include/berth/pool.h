/*
 * The buffer pool: page-aligned receive and transmit buffers in a few size classes, counted
 * references to them (leases), and who may touch what when.
 *
 *   FREE -> POSTED -> BORROWED -> LEASED -> IN_FLIGHT -> LEASED -> FREE
 *            |           |
 *            the kernel  a callback is      the kernel may read; the bytes must not change
 *            may write   looking at it
 *
 * A driver of I/O (berth's loop, or your program) posts buffers, lends what arrived to a callback,
 * and settles afterwards: a buffer nobody retained goes back by itself, so borrowing costs nothing.
 * berth_retain makes a lease that outlives the callback, the connection and the loop's turn.
 *
 * Every 2 MiB slab holds buffers of one class. What is known about a buffer lives in a separate
 * dense array, so data pages hold only data. One thread owns a pool; berth_release alone may come
 * from any thread. There is one pool per thread: buffers always return to the pool they came from.
 *
 *                                   beside itself    beside the others
 *   berth_release                   any thread       any thread
 *   everything else                 owner only       owner only
 *   inside a callback of the pool:  everything but berth_pool_turn and berth_pool_destroy
 *
 * After fork(2) the child must leave the pool alone, berth_pool_destroy included: slabs are not
 * inherited, and something else may be mapped where they were.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_POOL_H
#define BERTH_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "berth/alloc.h"
#include "berth/attr.h"
#include "berth/copies.h"
#include "berth/stats.h"

struct iovec;

BERTH_BEGIN_DECLS

/** Opaque: see berth_pool_create. */
struct berth_pool;

/** Size classes. Adding one is adding a row to the table in pool.c. */
enum berth_class {
    BERTH_CLASS_512 = 0, /**< small replies, and remainders moved out of big buffers */
    BERTH_CLASS_4K = 1,  /**< the usual receive buffer */
    BERTH_CLASS_16K = 2,
    BERTH_CLASS_64K = 3, /**< bulk receive */
    BERTH_CLASS_2M = 4,  /**< a whole slab */
    BERTH_CLASS_COUNT = 5
};

/** What a buffer is wanted for: who may dip into the reserves when a class runs low. */
enum berth_purpose {
    BERTH_FOR_NEW = 0,    /**< leaves both reserves alone */
    BERTH_FOR_ACTIVE = 1, /**< a connection in the middle of a request: may use 1/16 of the class */
    BERTH_FOR_LAST = 2    /**< to see an end of stream or an error: may use the last buffer */
};

/** Bytes lent to a callback: valid until it returns, unless retained. Since 0.1. */
struct berth_span {
    void *data;
    uint32_t length; /**< bytes */
    uint32_t buffer; /**< which buffer they are in; the first, if they are in several */
};

/**
 * One counted reference to part of a buffer. Passed by value; whoever holds it owes exactly one
 * berth_release. Copying the struct does not make a second reference: berth_lease_share does.
 * All-zero is "no lease". Since 0.1.
 */
struct berth_lease {
    uint32_t buffer;
    uint32_t generation; /**< of the buffer; 0 in no lease */
    uint32_t offset;     /**< bytes from the start of the buffer */
    uint32_t length;     /**< bytes; they may reach into buffers behind it: berth_pool_lend_run */
};

/** How to make a pool. Fill with berth_pool_options_init, then change what you need. Since 0.1. */
struct berth_pool_options {
    uint32_t abi;             /**< set by berth_pool_options_init; a mismatch is refused */
    uint32_t zero_on_release; /**< bit (1 << class): wipe buffers of that class when freed */
    size_t bytes_max;         /**< of slabs, all classes; 2 MiB to 8 GiB; default 256 MiB */
    size_t class_bytes_max[BERTH_CLASS_COUNT]; /**< of slabs of one class; 0: only bytes_max */
    const struct berth_alloc *alloc;           /**< NULL: berth_alloc_default() */
};

#define BERTH_POOL_ABI ((uint32_t)(0xbe020000u | (BERTH_CLASS_COUNT << 4) | (sizeof(void *) == 8)))

/** Fills `options` with the defaults. Since 0.1. */
BERTH_INLINE void
berth_pool_options_init(struct berth_pool_options *options)
{
    options->abi = BERTH_POOL_ABI;
    options->zero_on_release = 0;
    options->bytes_max = (size_t)256 << 20;
    for (int i = 0; i < BERTH_CLASS_COUNT; i++)
        options->class_bytes_max[i] = 0;
    options->alloc = NULL;
}

/* ---- life ------------------------------------------------------------------------------- */

/**
 * Makes a pool owned by the calling thread. No slab is allocated until a buffer is asked for.
 * @return 0; -EINVAL; -EPROTO: headers and library differ; -ENOMEM.
 */
BERTH_API BERTH_NODISCARD int berth_pool_create(struct berth_pool **pool,
                                                const struct berth_pool_options *options);

/**
 * Frees the pool. Returns 0, or -EBUSY (and changes nothing) while any buffer is not free, a slab
 * is pinned or a waiter waits: berth_pool_report says which. NULL is allowed.
 */
BERTH_API int berth_pool_destroy(struct berth_pool *pool);

/** Makes the calling thread the owner. The previous owner must be done with it. NULL is allowed. */
BERTH_API void berth_pool_adopt(struct berth_pool *pool);

/**
 * Once per turn of your loop: takes in releases from other threads, then serves waiters in order,
 * then calls watermark callbacks. Returns how many buffers came back from other threads.
 */
BERTH_API unsigned berth_pool_turn(struct berth_pool *pool);

/**
 * Gives slabs whose buffers are all free, and which are not pinned, back to the allocator.
 * Returns the bytes given back. For quiet times: never called by berth itself.
 */
BERTH_API size_t berth_pool_trim(struct berth_pool *pool);

/* ---- buffers for the program ------------------------------------------------------------- */

/** Bytes in a buffer of that class; 0 if there is no such class. */
BERTH_API uint32_t berth_class_bytes(enum berth_class size_class);

/** The smallest class whose buffers hold `bytes`, or -EMSGSIZE above 2 MiB. */
BERTH_API int berth_class_for(size_t bytes);

/**
 * Takes a buffer to fill: a lease of the whole buffer, contents undefined (zero for classes in
 * zero_on_release). Shorten `length` to what you filled. Returns 0; -ENOBUFS: none free and no slab
 * to be had (a source of slabs that refused is asked again after 64 turns or requests); -EINVAL.
 */
BERTH_API BERTH_NODISCARD int berth_pool_get(struct berth_pool *pool, enum berth_class size_class,
                                             enum berth_purpose purpose, struct berth_lease *lease);

/** Where the leased bytes are, or NULL for a lease that is not (or no longer) held. */
BERTH_API void *berth_lease_data(const struct berth_pool *pool, struct berth_lease lease);

/** berth_retain may copy a small piece into a small buffer, so as not to hold a big one. */
#define BERTH_MAY_COPY 1u

/**
 * Keeps bytes of a borrowed span beyond the callback: `length` bytes from `offset` of the span.
 * With BERTH_MAY_COPY, a piece of less than 1/8 of its buffer is copied into a smaller buffer when
 * one is free (counted as received_compact). Of a span of several buffers, just those are held that
 * the piece lies in; the 1/8 is of them.
 * @return 0; -EINVAL: nothing, or outside the span; -ESTALE: the span is no longer lent;
 *         -EOVERFLOW: see berth_lease_share.
 */
BERTH_API BERTH_NODISCARD int berth_retain(struct berth_pool *pool, const struct berth_span *span,
                                           uint32_t offset, uint32_t length, unsigned flags,
                                           struct berth_lease *lease);

/**
 * A second reference to the same bytes: for sending one buffer to many. 0; -ESTALE; -EOVERFLOW:
 * there are 16,777,215 already.
 */
BERTH_API BERTH_NODISCARD int berth_lease_share(struct berth_pool *pool, struct berth_lease lease);

/**
 * A second reference to part of the bytes: always of the root buffer, or of bytes in several
 * buffers those that the part lies in. 0, -EINVAL or as above.
 */
BERTH_API BERTH_NODISCARD int berth_slice(struct berth_pool *pool, struct berth_lease lease,
                                          uint32_t offset, uint32_t length,
                                          struct berth_lease *slice);

/**
 * Ends a reference; the last one frees the buffer. From any thread: elsewhere than on the owner it
 * costs one atomic push, and the buffer comes back in the owner's next berth_pool_turn.
 * @return 0; -ESTALE: the lease was already over (counted in stats.illegal; aborts under checks),
 *         which from another thread may come out only in the owner's turn; -EINVAL: no pool.
 */
BERTH_API int berth_release(struct berth_pool *pool, struct berth_lease lease);

/** Called when the last reference to wrapped memory ends, on the pool's owner thread. */
typedef void (*berth_free_fn)(void *data, size_t length, void *context);

/**
 * Makes a lease of memory that is not the pool's, so that it can be sent or chained like any other.
 * It must stay unchanged until `free_fn` (may be NULL) is called. At most 65,536 at once.
 * @return 0; -EINVAL: NULL, nothing, or over 4 GiB - 1; -ENOBUFS.
 */
BERTH_API BERTH_NODISCARD int berth_wrap(struct berth_pool *pool, void *data, size_t length,
                                         berth_free_fn free_fn, void *context,
                                         struct berth_lease *lease);

/**
 * Lends memory that is not the pool's, as berth_pool_lend lends a buffer of it: pages that the
 * kernel has mapped, say. It can be retained, sliced and sent like any other; it is read-only if
 * the driver's handlers are told so. When the callback has returned, berth_pool_settle it, which
 * then answers 0; `free_fn` is called (on the owner's thread) when nobody holds any of it: in that
 * settle at the earliest. It counts among the pieces of berth_wrap.
 * @return 0; -EINVAL: NULL, nothing, or over 4 GiB - 1; -ENOBUFS. Since 0.1.
 */
BERTH_API BERTH_NODISCARD int berth_pool_lend_wrapped(struct berth_pool *pool, void *data,
                                                      size_t length, berth_free_fn free_fn,
                                                      void *context, struct berth_span *span);

/**
 * There is less in it than was lent by berth_pool_lend_wrapped, which a driver may learn only when
 * it has been filled: shortens the span, and what can be retained of it or told to `free_fn`, to
 * `length` bytes. Before the span is shown to anybody. Constant time.
 * @return 0; -EINVAL: not lent so, or retained already, or `length` is 0 or more than it has. Since
 *         0.1.
 */
BERTH_API int berth_pool_lend_shorten(struct berth_pool *pool, struct berth_span *span,
                                      uint32_t length);

/* ---- chains ------------------------------------------------------------------------------ */

/** A sequence of leases, in caller's storage; all-zero is empty. Owns the leases in it. */
struct berth_chain {
    size_t bytes;   /**< in all leases together */
    uint32_t count; /**< leases */
    uint32_t head;  /**< private */
    uint32_t tail;  /**< private */
    uint32_t unused;
};

/** Adds a lease at the end; the chain owns it from here on. 0; -ENOBUFS; -ESTALE; -EINVAL. */
BERTH_API BERTH_NODISCARD int berth_chain_append(struct berth_pool *pool, struct berth_chain *chain,
                                                 struct berth_lease lease);

/** Takes the first lease out; the caller owns it. 0, or -ENOENT when the chain is empty. */
BERTH_API BERTH_NODISCARD int berth_chain_pop(struct berth_pool *pool, struct berth_chain *chain,
                                              struct berth_lease *lease);

/** Drops `bytes` from the front, releasing what is used up. 0, or -EINVAL if there are fewer. */
BERTH_API int berth_chain_consume(struct berth_pool *pool, struct berth_chain *chain, size_t bytes);

/** Describes the chain as iovecs, for writev(2): writes up to `count`, returns how many. */
BERTH_API unsigned berth_chain_iovec(const struct berth_pool *pool, const struct berth_chain *chain,
                                     struct iovec *iov, unsigned count);

/**
 * Makes the first `bytes` contiguous and returns where they are; NULL if the chain holds fewer, if
 * they exceed 2 MiB, or if no buffer is free. Copies only if they are not contiguous already
 * (counted as received_pullup).
 */
BERTH_API void *berth_chain_pullup(struct berth_pool *pool, struct berth_chain *chain,
                                   size_t bytes);

/** Releases everything in the chain. */
BERTH_API void berth_chain_clear(struct berth_pool *pool, struct berth_chain *chain);

/* ---- for those who drive I/O ------------------------------------------------------------- */

/**
 * FREE -> POSTED: a buffer for the kernel to write into. To read into it yourself, see
 * berth_pool_expose. 0; -ENOBUFS; -EINVAL.
 */
BERTH_API BERTH_NODISCARD int berth_pool_post(struct berth_pool *pool, enum berth_class size_class,
                                              enum berth_purpose purpose, uint32_t *buffer,
                                              void **data);

/**
 * Says that the calling thread itself is about to fill a posted buffer, by recv(2) say: otherwise
 * AddressSanitizer and Valgrind take that write for a mistake in a buffer that is the kernel's. In
 * an ordinary build this does nothing. 0 or -ESTALE.
 */
BERTH_API int berth_pool_expose(struct berth_pool *pool, uint32_t buffer);

/** POSTED -> FREE: taken back unused. 0 or -ESTALE. */
BERTH_API int berth_pool_unpost(struct berth_pool *pool, uint32_t buffer);

/**
 * POSTED -> BORROWED: `length` bytes (at least 1) have arrived; fills the span to lend. 0; -EINVAL:
 * the length, and the buffer stays posted; -ESTALE: it was not posted.
 */
BERTH_API int berth_pool_lend(struct berth_pool *pool, uint32_t buffer, uint32_t length,
                              struct berth_span *span);

/**
 * The callback has returned. 1: nobody retained the buffer, it is POSTED again and yours to give
 * to the kernel; 0: it is leased now, post another; -ESTALE: it was not lent.
 */
BERTH_API int berth_pool_settle(struct berth_pool *pool, uint32_t buffer);

/** The most buffers in one span. */
#define BERTH_RUN_MAX 256u

/**
 * POSTED -> BORROWED for buffers that lie one behind the other, as one span: those of the ids
 * `first`, `first` + 1 and so on, as many as `length` bytes (at least 1) fill. Ids of a class count
 * upwards through a slab as addresses do, so a driver compares ids. Afterwards berth_pool_settle
 * each buffer by itself, in any order: a lease of some of the bytes holds the buffers that they lie
 * in and no others (those that begin in one buffer hold together what they reach). 0; -EINVAL: the
 * length, more than BERTH_RUN_MAX, or not all of one slab, and they stay posted; -ESTALE: one was
 * not posted, and the others stay so. Since 0.1.
 */
BERTH_API int berth_pool_lend_run(struct berth_pool *pool, uint32_t first, uint32_t length,
                                  struct berth_span *span);

/**
 * Puts the free buffers of a class in order of addresses, those first that lie in runs of 16 or
 * more: what is posted next lies one behind the other as far as it can. For a driver whose runs
 * have become short. Looks at every buffer of the class that was ever used (some 2 ns each) and
 * returns how many they are; 0 also for an argument out of range. Since 0.1.
 */
BERTH_API uint32_t berth_pool_tidy(struct berth_pool *pool, enum berth_class size_class);

/**
 * For a buffer that the kernel goes on filling (an incremental ring of io_uring, say): `length`
 * bytes (at least 1) have arrived at `offset`, behind all that was lent of it before; fills the
 * span to lend. 0; -EINVAL: the place or the length; -ESTALE: it was not posted. Since 0.1.
 */
BERTH_API int berth_pool_lend_part(struct berth_pool *pool, uint32_t buffer, uint32_t offset,
                                   uint32_t length, struct berth_span *span);

/**
 * The callback that was lent a part has returned. What it retained stays where it is; the kernel
 * may go on behind it. 0, or -ESTALE: it was not lent. Since 0.1.
 */
BERTH_API int berth_pool_settle_part(struct berth_pool *pool, const struct berth_span *span);

/**
 * The kernel writes no more into a buffer that was lent in parts. 1: nobody holds any of it, it is
 * POSTED again and yours; 0: it is leased, and free when the last lease ends; -ESTALE. Since 0.1.
 */
BERTH_API int berth_pool_filled(struct berth_pool *pool, uint32_t buffer);

/** LEASED -> IN_FLIGHT: the kernel has been told to read these bytes. Counts. 0 or -ESTALE. */
BERTH_API int berth_lease_send_begin(struct berth_pool *pool, struct berth_lease lease);

/** The kernel is done with one such send; after the last, IN_FLIGHT -> LEASED. 0 or -ESTALE. */
BERTH_API int berth_lease_send_end(struct berth_pool *pool, struct berth_lease lease);

/** A slab, for registering with the kernel. */
struct berth_slab {
    void *data;
    size_t bytes;
    enum berth_class size_class;
    unsigned pins;        /**< how often it is pinned */
    uint32_t outstanding; /**< its buffers that are not free */
};

/**
 * Describes slab number `index`, which stays its number as long as the slab lives. 0; -ENOENT past
 * the last one; a number that berth_pool_trim has made free has `data` NULL and `bytes` 0. -EINVAL.
 */
BERTH_API int berth_pool_slab(const struct berth_pool *pool, unsigned index,
                              struct berth_slab *slab);

/**
 * pinned 1: the slab is registered with the kernel and must stay resident and mapped; 0: no longer.
 * Counts. 0; -ENOENT; -EINVAL: unpinned too often; or what the allocator's `pin` answered.
 */
BERTH_API int berth_pool_pin(struct berth_pool *pool, unsigned index, int pinned);

/* ---- running low ------------------------------------------------------------------------- */

/**
 * How many buffers of the class could be had now for that purpose, new slabs included (unless their
 * source has just refused one). 0 for an argument out of range.
 */
BERTH_API uint32_t berth_pool_available(const struct berth_pool *pool, enum berth_class size_class,
                                        enum berth_purpose purpose);

/** One who waits for buffers: the caller's storage, all-zero when not waiting. */
struct berth_waiter {
    void (*ready)(struct berth_waiter *waiter, void *context); /**< called from berth_pool_turn */
    void *context;
    enum berth_class size_class;
    enum berth_purpose purpose;    /**< for whom they must be available; all-zero: BERTH_FOR_NEW */
    uint32_t count;                /**< buffers that must be available, at least 1 */
    struct berth_waiter *next;     /**< private */
    struct berth_waiter *previous; /**< private */
    struct berth_pool *pool;       /**< private: NULL when not waiting */
};

/**
 * Queues `waiter` (first come, first served, per class and purpose; those of a request already
 * begun before newcomers). `ready` is called once, from a berth_pool_turn in which `count` buffers
 * are available; it may wait again, and is then looked at in the next turn.
 * 0; -EINVAL: more than the class can ever hold, or NULL; -EALREADY.
 */
BERTH_API int berth_pool_wait(struct berth_pool *pool, struct berth_waiter *waiter);

/** Stops waiting. 0, -ENOENT if it was not waiting, -EINVAL: NULL. */
BERTH_API int berth_pool_wait_abort(struct berth_waiter *waiter);

/**
 * Called from berth_pool_turn. `low` 1: fewer than the low mark are available to BERTH_FOR_NEW; 0:
 * the high mark is reached again.
 */
typedef void (*berth_watermark_fn)(struct berth_pool *pool, enum berth_class size_class, int low,
                                   void *context);

/** Sets a class's marks, in buffers (low < high), and whom to call. NULL fn: none. 0 or -EINVAL. */
BERTH_API int berth_pool_watermark(struct berth_pool *pool, enum berth_class size_class,
                                   uint32_t low, uint32_t high, berth_watermark_fn fn,
                                   void *context);

/** What somebody intends to hold at most, for berth_pool_budget. */
struct berth_consumer {
    const char *name;
    enum berth_class size_class;
    uint64_t buffers; /**< at most, at once */
};

/**
 * Whether all consumers can hold their maximum at once, the reserves staying untouched: a pool that
 * passes cannot deadlock on buffers.
 * @return 0; -ENOSPC: no, `*missing_bytes` (may be NULL) says by how much; -EINVAL.
 */
BERTH_API int berth_pool_budget(const struct berth_pool *pool,
                                const struct berth_consumer *consumers, unsigned count,
                                uint64_t *missing_bytes);

/* ---- looking inside ---------------------------------------------------------------------- */

/** A copy of the counters. */
BERTH_API void berth_pool_stats_get(const struct berth_pool *pool, struct berth_pool_stats *stats);

/** The pool's copy ledger (compactions and pull-ups); add your own to it. Owned by the pool. */
BERTH_API struct berth_copies *berth_pool_copies(struct berth_pool *pool);

/** One buffer that is not free. */
struct berth_holding {
    uint32_t buffer;
    enum berth_class size_class; /**< BERTH_CLASS_COUNT: wrapped memory */
    const char *state;           /**< static text: "posted", "borrowed", "leased", "in flight" */
    uint32_t references;
    const void *site;   /**< return address of the last retain; NULL without --enable-checks */
    uint64_t age_turns; /**< berth_pool_turn calls since; 0 without --enable-checks */
};

/** Calls `fn` for every buffer that is not free: the leak report. Returns how many there are. */
BERTH_API unsigned berth_pool_report(const struct berth_pool *pool,
                                     void (*fn)(const struct berth_holding *, void *context),
                                     void *context);

/**
 * Checks every invariant: free lists, counts and states agree. O(buffers).
 * @return 0 or -EUCLEAN (-EBADMSG where there is no such error), with static text in `why` (may be
 *         NULL).
 */
BERTH_API int berth_pool_verify(const struct berth_pool *pool, const char **why);

BERTH_END_DECLS

#endif
