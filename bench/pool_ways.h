/*
 * The contestants of case `pool`, and what each is made to do: take and give back buffers of one
 * size in several orders. A buffer's first byte is written every time it has been taken, by all of
 * them: buffers are there to be filled, and malloc keeps its own lists in that very line.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_POOL_WAYS_H
#define BENCH_POOL_WAYS_H

#include <stdbool.h>
#include <stdint.h>

#include <berth/pool.h>

struct bench;

/** Buffers taken before the first is given back: the events of one turn of a loop. */
#define POOL_BATCH 64u

/** Buffers held while `churn` gives some back and takes others: in use, in a busy server. */
#define POOL_HELD 1024u

enum pool_pattern {
    POOL_PAIR,  /**< take one, give it back */
    POOL_LIFO,  /**< take POOL_BATCH, give the last back first */
    POOL_FIFO,  /**< take POOL_BATCH, give the first back first */
    POOL_CHURN, /**< of POOL_HELD give POOL_BATCH back, any of them, and take as many */
    POOL_PATTERNS
};

/** The words for them, in rows' names. */
extern const char *const pool_pattern_names[POOL_PATTERNS];

struct pool_way {
    const char *name;
    void (*prepare)(void); /**< called before each slice; may be NULL */
    /** Passes of POOL_BATCH operations; an operation is taking one and giving one back. */
    void (*passes[POOL_PATTERNS])(void *context);
    /** For two threads: take POOL_BATCH, and give all of them back. */
    void (*take)(void);
    void (*give)(void);
    void (*turn)(void); /**< what the owner does about the others' releases; may be NULL */
    bool absent;        /**< it is not to be had here: told in the report */
};

extern struct pool_way pool_ways[];
extern const unsigned pool_ways_count;

/** berth, which is first, and malloc, which the others are compared to. */
#define POOL_WAY_BERTH 0u
#define POOL_WAY_MALLOC 1u

/** Passes that only berth has: buffers for the kernel, as its loop uses them. */
void pool_pass_receive(void *context);      /**< post once; lend, settle */
void pool_pass_receive_keep(void *context); /**< post, lend, retain, settle, release */
void pool_pass_share(void *context);        /**< a second reference, and its release */

/** Finds the allocators; what is missing or not what it seems becomes absent, with a note. */
void pool_ways_find(struct bench *bench);

/** Makes everything ready for one size of buffers. 0 or -errno. */
int pool_ways_begin(enum berth_class size_class);

/**
 * Gives everything back. 0; -EBADMSG: a buffer was lost, refused or handed out twice; or -errno
 * from a pool that does not let itself be destroyed.
 */
int pool_ways_end(void);

#endif
