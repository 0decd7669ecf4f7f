/*
 * What the files of the pool share: its structures, and the few steps that every one of them takes
 * (find a buffer's record, take a buffer, give it back). Not a public header.
 *
 *   pool.c           making and freeing a pool, owners, the turn, releases from other threads
 *   pool_slab.c      slabs: getting, carving, giving back, pinning
 *   pool_buffers.c   one buffer at a time: leases, and the states that a driver moves it through
 *   pool_run.c       buffers that lie one behind the other, lent as one span
 *   pool_chain.c     sequences of leases, and memory that is not the pool's
 *   pool_pressure.c  running low: reserves, waiters, watermarks, budgets
 *   pool_report.c    looking inside: counters, the leak report, the checker
 *
 * A buffer's id is its slab's number times 4,096, plus its place in the slab. So its address is one
 * load from the small slab directory and an addition: no pointer is ever followed through data.
 * Wrapped foreign memory has ids too, in 16 numbers past the last slab, and records like any other.
 *
 * The record (struct buffer_meta) is written by the owner alone. Another thread reads only its
 * generation, and writes only the parallel struct buffer_remote.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_CORE_POOL_INTERNAL_H
#define BERTH_CORE_POOL_INTERNAL_H

#include "berth/pool.h"

#include <errno.h>
#include <string.h>

#include "berth/cacheline.h"
#include "os/memory.h"
#include "os/sanitize.h"

/** Bytes in a slab: a huge page, so that one translation covers it. */
#define POOL_SLAB_BYTES BERTH_HUGE_PAGE_BYTES

/** Ids per slab: as many as the smallest class has buffers in one. */
#define POOL_SLAB_ID_BITS 12
#define POOL_SLAB_IDS (UINT32_C(1) << POOL_SLAB_ID_BITS)

/** The most slabs: 8 GiB, which keeps ids and all sums of buffers within 32 bits. */
#define POOL_SLABS_MAX 4096

/** Wrapped pieces of foreign memory at once: 65,536, as 16 more slab numbers. */
#define POOL_WRAP_SLABS 16
#define POOL_WRAPS_MAX (POOL_WRAP_SLABS * POOL_SLAB_IDS)

/** Links of all chains of a pool together. A lease more is refused, not queued without bound. */
#define POOL_NODES_MAX (UINT32_C(1) << 18)
#define POOL_NODES_PER_COMMIT 4096

/** References to one buffer: what its count of sends, of 24 bits, can follow. */
#define POOL_REFERENCES_MAX ((UINT32_C(1) << 24) - 1)

/**
 * Once the source of slabs has refused, this many turns and refused requests pass before it is
 * asked again: a system that is out of memory must not be asked once per packet.
 */
#define POOL_GROW_WAIT 64

/** The class of the slab numbers that wrapped memory has. */
#define CLASS_WRAPPED BERTH_CLASS_COUNT

#define POOL_PURPOSES 3

/** What freed memory looks like under BERTH_CHECKS, in its first so many bytes. */
#define POOL_FREE_PATTERN 0xdb
#define POOL_FREE_PATTERN_BYTES 4096u

/** A leased buffer with sends is what the public header calls IN_FLIGHT. */
enum buffer_state {
    STATE_FREE = 0, /* all-zero is free: nothing needs writing before its first use */
    STATE_POSTED,
    STATE_BORROWED,
    STATE_LEASED,
    STATE_FILLING,      /* posted, and parts of it have been delivered: it may have references */
    STATE_FILLING_LENT, /* the same, while a callback is looking at the last part */
    STATE_RUN,          /* borrowed, and the first buffer of a span of several: pool_run.c */
    STATE_RUN_REST,     /* borrowed, and a further buffer of such a span */
    STATE_LEASED_RUN    /* leased, and leases reach from it into others or from others into it */
};

/**
 * State and sends share a word, which is always written whole: a byte stored and then loaded as
 * part of a word would stall the processor for a dozen cycles.
 */
#define STAGE_STATE 0xffu /* the bits of the state */
#define STAGE_SEND 0x100u /* one send that the kernel has not finished with */

/** What is known about one buffer. Four to a cache line; written by the owner thread alone. */
struct buffer_meta {
    uint32_t references; /* leases; never fewer than sends */
    uint32_t stage;      /* enum buffer_state, and STAGE_SEND times the sends in flight */
    uint32_t generation; /* moves on whenever the last right to the bytes ends; 0: never used */
    union {
        uint32_t next;   /* FREE: the next free buffer's id + 1 */
        uint32_t length; /* otherwise: the bytes that may hold something; of a run: pool_run.c */
    };
};
BERTH_STATIC_ASSERT(sizeof(struct buffer_meta) == 16, "four records to a cache line");

/** Where other threads leave their releases of one buffer. */
struct buffer_remote {
    uint32_t pending; /* releases not yet taken in; whoever raises it from 0 pushes the buffer */
    uint32_t next;    /* in the owner's list: id + 1 */
};

/** Who took a buffer, and when. Kept only under BERTH_CHECKS. */
struct buffer_trace {
    const void *site;
    uint64_t turn;
    uint32_t patterned; /* bytes at the start that must still hold the pattern while it is free */
};

struct slab {
    unsigned char *data;  /* NULL: no slab under this number, or wrapped memory */
    uint32_t carved;      /* buffers that were ever handed out; the rest is untouched */
    uint32_t outstanding; /* buffers that are not free */
    uint32_t next;        /* among slabs not yet carved out, of one class: number + 1 */
    uint32_t pins;
    uint8_t size_class;
    uint8_t shift;   /* of the buffer size */
    uint8_t wipe;    /* nonzero: its buffers are zeroed when freed */
    uint8_t discard; /* private to berth_pool_trim */
};
BERTH_STATIC_ASSERT(sizeof(struct slab) <= 32, "two slabs to a cache line");

/** One size class: what handing out a buffer looks at, in one line. */
struct pool_class {
    uint32_t free_head;             /* id + 1; last in, first out: the warmest buffer goes first */
    uint32_t free_count;            /* free buffers, those not carved yet included */
    uint32_t floors[POOL_PURPOSES]; /* a request needs more free ones than this */
    uint32_t capacity;              /* buffers in all its slabs */
    uint32_t slabs;
    uint32_t slabs_max;
    uint32_t carve_head; /* slabs not carved out yet: number + 1 */
    uint32_t carve_tail;
} BERTH_ALIGNED(BERTH_CACHE_LINE);

/** Waiters of one class and purpose, first come, first served. */
struct wait_queue {
    struct berth_waiter *head;
    struct berth_waiter *tail;
    uint32_t count;
};

struct watermark {
    berth_watermark_fn fn; /* NULL: none */
    void *context;
    uint32_t low;
    uint32_t high;
    int is_low;
};

/** Memory that is not the pool's. */
struct wrapped {
    void *data;
    berth_free_fn free_fn;
    void *context;
    uint32_t length;
};

/** One link of a chain; links are named by index + 1, so that an all-zero chain is empty. */
struct chain_node {
    struct berth_lease lease;
    uint32_t next;
};

struct berth_pool {
    /* Read by every thread that releases; written by berth_pool_create and _adopt only. */
    const char *owner; /* a thread-local variable's address: unique among running threads */
    struct buffer_meta *metas;
    struct buffer_remote *remotes;
    struct slab *slabs;
    struct buffer_trace *traces; /* NULL without BERTH_CHECKS */
    uint32_t ids;                /* all ids are below */
    uint32_t slabs_max;
    uint32_t generation_first; /* differs from pool to pool: a foreign lease is not found */
    uint32_t zero_on_release;

    struct pool_class classes[BERTH_CLASS_COUNT]; /* starts a line of its own */

    /* Written by other threads: a pair of lines of its own. */
    struct {
        uint64_t illegal; /* releases refused over there */
        uint32_t head;    /* the list of buffers with pending releases: id + 1 */
        unsigned char unused[BERTH_CACHE_LINE_PAIR - 12];
    } remote BERTH_ALIGNED(BERTH_CACHE_LINE_PAIR);

    struct berth_pool_stats stats;
    struct berth_copies copies;
    uint32_t slabs_used;
    uint32_t slabs_top; /* numbers at and past this one were never used */
    uint32_t grow_wait; /* see POOL_GROW_WAIT; 0: the source may be asked */
    uint32_t callbacks; /* how deep we are in callbacks of the pool */
    uint64_t turns;

    struct wrapped *wraps;
    uint32_t wrap_free;   /* id + 1 */
    uint32_t wrap_carved; /* wrap entries ever used; the memory of the rest is not committed */
    struct chain_node *nodes;
    uint32_t node_free;
    uint32_t nodes_carved;
    uint32_t nodes_used;

    uint32_t waiting; /* in all queues */
    uint32_t watched; /* classes with a watermark callback */
    struct wait_queue queues[BERTH_CLASS_COUNT][POOL_PURPOSES];
    struct watermark watermarks[BERTH_CLASS_COUNT];
    struct berth_alloc alloc;
    int alloc_is_default;
    size_t reserved_bytes; /* of the reservation that this struct begins */
};

/* ---- pool.c -------------------------------------------------------------------------------- */

/** Bytes of a buffer of each class, as a power of two. */
extern const uint8_t berth_pool_shifts[BERTH_CLASS_COUNT];

/** Counts an illegal step, which aborts under BERTH_CHECKS. Returns -ESTALE. */
BERTH_COLD int berth_pool_illegal(struct berth_pool *pool);

/** berth_release from a thread that is not the owner. */
int berth_pool_release_remote(struct berth_pool *pool, struct berth_lease lease);

/** Takes in what other threads released. Returns how many buffers became free. */
unsigned berth_pool_drain(struct berth_pool *pool);

/** This thread's mark; its address differs from that of every other running thread. */
extern __thread char berth_pool_thread_mark __attribute__((tls_model("initial-exec")));

/* ---- pool_slab.c --------------------------------------------------------------------------- */

/**
 * Adds slabs to a class until a request for `count` buffers can be met. Returns 1, or 0 when there
 * are no more slabs to be had.
 */
int berth_pool_grow(struct berth_pool *pool, unsigned size_class, unsigned purpose, uint32_t count);

/** Hands out the next untouched buffer of a class that has one. Returns its id. */
uint32_t berth_pool_carve(struct berth_pool *pool, unsigned size_class);

/** Makes the records of one slab number writable. 0 or -ENOMEM. */
int berth_pool_commit_records(struct berth_pool *pool, uint32_t number);

/** How many buffers of `capacity` a request for `purpose` must leave. */
uint64_t berth_pool_floor(uint64_t capacity, unsigned purpose);

/** Buffers in one slab of the class. */
static inline uint32_t
pool_per_slab(unsigned size_class)
{
    return (uint32_t)(POOL_SLAB_BYTES >> berth_pool_shifts[size_class]);
}

/** How many more slabs the class may have, by its limit and the pool's. */
static inline uint32_t
pool_slabs_left(const struct berth_pool *pool, unsigned size_class)
{
    const uint32_t in_class = pool->classes[size_class].slabs_max - pool->classes[size_class].slabs;
    const uint32_t in_pool = pool->slabs_max - pool->slabs_used;
    return in_class < in_pool ? in_class : in_pool;
}

/* ---- pool_buffers.c ------------------------------------------------------------------------ */

/**
 * Tries to copy a small piece out of the `held` bytes of buffers that a lease of it would hold.
 * Nonzero: it stays where it is.
 */
int berth_pool_piece_move(struct berth_pool *pool, const unsigned char *piece, uint32_t length,
                          size_t held, const void *site, struct berth_lease *lease);

/* ---- pool_run.c: the same calls for buffers of a run, and illegal for any other ------------- */

/** berth_pool_settle. */
int berth_pool_run_settle(struct berth_pool *pool, uint32_t buffer);

/** berth_retain, its arguments looked at already but for the buffer. */
int berth_pool_run_retain(struct berth_pool *pool, const struct berth_span *span, uint32_t offset,
                          uint32_t length, unsigned flags, const void *site,
                          struct berth_lease *lease);

/** berth_slice of a held lease that ends beyond its buffer. */
int berth_pool_run_slice(struct berth_pool *pool, struct berth_lease lease, uint32_t offset,
                         uint32_t length, const void *site, struct berth_lease *slice);

/** berth_lease_data of a held lease that ends beyond its buffer. */
void *berth_pool_run_data(const struct berth_pool *pool, struct berth_lease lease);

/**
 * The last lease has ended that begins in a buffer of a run. Frees it, unless others reach into it
 * or a callback is still looking at it, and what it was the last to hold of those behind it.
 * Returns how many buffers became free.
 */
unsigned berth_pool_run_over(struct berth_pool *pool, uint32_t buffer);

/* ---- pool_chain.c -------------------------------------------------------------------------- */

/** The last reference to wrapped memory has ended. */
void berth_pool_unwrap(struct berth_pool *pool, uint32_t buffer);

/* ---- pool_pressure.c ----------------------------------------------------------------------- */

/** Wakes waiters and calls watermark callbacks. Only from berth_pool_turn. */
void berth_pool_serve(struct berth_pool *pool);

/* ---- steps that every file takes ----------------------------------------------------------- */

static inline int
pool_is_owner(const struct berth_pool *pool)
{
    return __atomic_load_n(&pool->owner, __ATOMIC_RELAXED) == &berth_pool_thread_mark;
}

static inline struct slab *
pool_slab_of(const struct berth_pool *pool, uint32_t buffer)
{
    return &pool->slabs[buffer >> POOL_SLAB_ID_BITS];
}

static inline int
pool_is_wrapped(const struct berth_pool *pool, uint32_t buffer)
{
    return buffer >= pool->slabs_max << POOL_SLAB_ID_BITS;
}

static inline struct wrapped *
pool_wrapped_of(const struct berth_pool *pool, uint32_t buffer)
{
    return &pool->wraps[buffer - (pool->slabs_max << POOL_SLAB_ID_BITS)];
}

/** Where a buffer of a slab begins. */
static inline unsigned char *
pool_slab_data(const struct slab *slab, uint32_t buffer)
{
    return slab->data + ((size_t)(buffer & (POOL_SLAB_IDS - 1)) << slab->shift);
}

static inline enum buffer_state
meta_state(const struct buffer_meta *meta)
{
    return (enum buffer_state)(meta->stage & STAGE_STATE);
}

/** Whether a callback is looking at it, and may retain what it sees. */
static inline int
meta_is_lent(const struct buffer_meta *meta)
{
    const enum buffer_state state = meta_state(meta);
    return state == STATE_BORROWED || state == STATE_FILLING_LENT;
}

/** Whether it is in one of the states of pool_run.c. */
static inline int
meta_is_run(const struct buffer_meta *meta)
{
    return meta_state(meta) >= STATE_RUN;
}

/** In those states, of `length`: how far its leases reach, and how many others reach into it. */
#define RUN_HOLDER (UINT32_C(1) << 24)
BERTH_STATIC_ASSERT(POOL_SLAB_BYTES < RUN_HOLDER && BERTH_RUN_MAX <= 256, "both have room");

static inline uint32_t
run_bytes(const struct buffer_meta *meta)
{
    return meta->length % RUN_HOLDER;
}

static inline uint32_t
run_holders(const struct buffer_meta *meta)
{
    return meta->length / RUN_HOLDER;
}

/** The buffers behind it that its leases reach into. */
static inline uint32_t
run_reached(const struct buffer_meta *meta, unsigned shift)
{
    return (run_bytes(meta) - 1) >> shift;
}

/** Sends in flight. */
static inline uint32_t
meta_sends(const struct buffer_meta *meta)
{
    return meta->stage / STAGE_SEND;
}

/** The record of a lease that is held, or NULL. A fabricated or foreign lease is not held. */
static inline struct buffer_meta *
pool_held(const struct berth_pool *pool, struct berth_lease lease)
{
    if (BERTH_UNLIKELY(lease.buffer >= pool->ids))
        return NULL;
    struct buffer_meta *meta = &pool->metas[lease.buffer];
    if (BERTH_UNLIKELY(meta->generation != lease.generation || meta->references == 0))
        return NULL;
    return meta;
}

/** Ends every lease of the present incarnation. Atomic only because other threads read it. */
static inline void
pool_generation_advance(struct buffer_meta *meta)
{
    const uint32_t next = meta->generation + 1;
    __atomic_store_n(&meta->generation, next + (next == 0), __ATOMIC_RELAXED);
}

/** Notes who has the buffer, for the leak report. */
static inline void
pool_trace(struct berth_pool *pool, uint32_t buffer, const void *site)
{
#ifdef BERTH_CHECKS
    pool->traces[buffer].site = site;
    pool->traces[buffer].turn = pool->turns;
#else
    (void)pool, (void)buffer, (void)site;
#endif
}

/** Under BERTH_CHECKS: nobody has written into the buffer while it was free. */
static inline void
pool_pattern_check(struct berth_pool *pool, uint32_t buffer, const unsigned char *data)
{
#ifdef BERTH_CHECKS
    const uint32_t bytes = pool->traces[buffer].patterned;
    berth_delivered(data, bytes);
    for (uint32_t i = 0; i < bytes; i++)
        BERTH_CHECK(data[i] == POOL_FREE_PATTERN);
    pool->traces[buffer].patterned = 0;
    berth_poison(data, bytes);
#else
    (void)pool, (void)buffer, (void)data;
#endif
}

/** Under BERTH_CHECKS: makes a use after free visible, and detectable by pool_pattern_check. */
static inline void
pool_pattern_fill(struct berth_pool *pool, uint32_t buffer, unsigned char *data, size_t size)
{
#ifdef BERTH_CHECKS
    const size_t bytes = size < POOL_FREE_PATTERN_BYTES ? size : POOL_FREE_PATTERN_BYTES;
    berth_unpoison(data, bytes);
    memset(data, POOL_FREE_PATTERN, bytes);
    pool->traces[buffer].patterned = (uint32_t)bytes;
#else
    (void)pool, (void)buffer, (void)data, (void)size;
#endif
}

/** Zeroes bytes that may be poisoned, so that the next connection never sees this one's. */
static inline void
pool_wipe(unsigned char *data, size_t bytes)
{
    berth_unpoison(data, bytes);
    memset(data, 0, bytes);
}

/**
 * Takes a free buffer, its state still to be set, or answers NULL when there is none for that
 * purpose. The common path: one comparison, one pop, three counters.
 */
static inline struct buffer_meta *
pool_take(struct berth_pool *pool, unsigned size_class, unsigned purpose, uint32_t *buffer)
{
    struct pool_class *class = &pool->classes[size_class];
    if (BERTH_UNLIKELY(class->free_count <= class->floors[purpose]) &&
        !berth_pool_grow(pool, size_class, purpose, 1)) {
        pool->stats.refused++;
        return NULL;
    }
    uint32_t id;
    struct buffer_meta *meta;
    if (BERTH_LIKELY(class->free_head != 0)) {
        id = class->free_head - 1;
        meta = &pool->metas[id];
        class->free_head = meta->next;
    } else {
        id = berth_pool_carve(pool, size_class);
        meta = &pool->metas[id];
    }
    BERTH_ASSERT(meta->stage == STATE_FREE && meta->references == 0);
    class->free_count--;
    pool_slab_of(pool, id)->outstanding++;
    pool->stats.gets++;
    if (++pool->stats.outstanding > pool->stats.outstanding_max)
        pool->stats.outstanding_max = pool->stats.outstanding;
    *buffer = id;
    return meta;
}

/** Makes a buffer of a slab free: the reverse of pool_take. */
static inline void
pool_give(struct berth_pool *pool, uint32_t buffer, struct buffer_meta *meta)
{
    struct slab *slab = pool_slab_of(pool, buffer);
    BERTH_ASSERT(meta->references == 0 && meta_sends(meta) == 0 && slab->outstanding > 0);
    struct pool_class *class = &pool->classes[slab->size_class];
    meta->stage = STATE_FREE;
    meta->next = class->free_head;
    class->free_head = buffer + 1;
    class->free_count++;
    slab->outstanding--;
    pool->stats.outstanding--;
}

/** The last lease of a buffer has ended, and nobody is looking at it. */
static inline void
pool_free(struct berth_pool *pool, uint32_t buffer, struct buffer_meta *meta)
{
    struct slab *slab = pool_slab_of(pool, buffer);
    pool_generation_advance(meta);
    if (BERTH_UNLIKELY(slab->size_class == CLASS_WRAPPED)) {
        berth_pool_unwrap(pool, buffer);
        return;
    }
    unsigned char *data = pool_slab_data(slab, buffer);
    if (BERTH_UNLIKELY(slab->wipe))
        pool_wipe(data, meta->length);
    else
        pool_pattern_fill(pool, buffer, data, (size_t)1 << slab->shift);
    berth_poison(data, (size_t)1 << slab->shift);
    pool_give(pool, buffer, meta);
}

#endif
