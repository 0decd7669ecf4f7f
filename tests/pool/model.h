/*
 * The model of a pool that test_model.c holds against the real one: what it knows of every buffer
 * and every lease, and the steps that its files share.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_POOL_MODEL_H
#define BERTH_TESTS_POOL_MODEL_H

#include "pool/pool_test.h"

#define RECORDS_MAX 3000
#define LEASES_MAX 6000
#define LEASE_BYTES_MAX 700u /* of what the model writes and reads in one buffer */

enum model_state { GONE, POSTED, BORROWED, HELD };

/** One incarnation of one buffer. */
struct record {
    enum model_state state;
    uint32_t buffer;
    uint32_t length; /* lent */
    uint32_t references;
    uint32_t in_flight;
    uint32_t seed; /* byte i of the buffer is byte_of(seed, i); of a run, byte i of the run */
    uint32_t size; /* of the buffer; 0: wrapped memory */
    unsigned char *data;
    unsigned char *heap; /* wrapped memory, to be freed by the pool */
    struct berth_span span;
    uint64_t run;          /* which run it was lent in; 0: by itself */
    uint32_t place;        /* in the run */
    struct record *head;   /* the first of the run */
    struct record *behind; /* the next of the run */
    uint32_t reach;        /* so many behind it are held for leases that begin in it */
    uint32_t holders;      /* so many before it are held so */
};

struct held {
    struct berth_lease lease;
    struct record *record;
    uint32_t origin; /* where the lease's buffer would begin in the seed's bytes */
    int sending;
};

struct model {
    struct berth_pool *pool;
    struct record records[RECORDS_MAX];
    struct held leases[LEASES_MAX];
    unsigned lease_count;
    struct berth_lease over[64]; /* leases that have ended */
    unsigned over_count;
    struct berth_chain chain;
    struct held links[32];
    uint64_t out, illegal, wakes, waits_now, freed, wrapped;
    uint64_t runs, run_leases, run_slices;
    uint64_t random;
};
extern struct model m;

/** The next random number, below `bound`. */
uint32_t random_below(uint32_t bound);

/** What byte `at` of the buffer with that seed is. */
unsigned char byte_of(uint32_t seed, uint32_t at);

/** A record of a buffer that has just been taken, or NULL. */
struct record *record_new(enum model_state state, uint32_t buffer, void *data);

/** A random record in that state, or NULL. */
struct record *record_pick(enum model_state state);

/** The record is nobody's any more. */
void record_gone(struct record *record);

/** A lease that the model holds from now on; `origin` as in struct held. */
void lease_add(struct record *record, struct berth_lease lease, uint32_t origin);

/** A record for a lease of a buffer into which that was copied which `origin` tells. */
void copy_add(struct berth_lease lease, uint32_t seed, uint32_t origin);

/** Whether another buffer and another lease fit into the model. */
int room(void);

/** One reference less, and the buffer is gone with the last. */
void record_unref(struct record *record, struct berth_lease lease);

/** The model holds this lease no more. */
void lease_drop(unsigned index);

/** The lease reads what its buffer was given. */
void lease_check(const struct held *held);

/** Runs: model_run.c. */
void op_post_run(void);
void op_lend_run(void);
void op_retain_run(struct record *record);
void run_slice(const struct held *held, uint32_t offset, uint32_t length);
void run_unref(struct record *record);

/** Operations on the chain: model_chain.c. */
void op_append(void);
void op_pop(void);
void op_consume(void);
void op_pullup(void);
void op_iovec(void);
void op_clear(void);
void chain_empty(void);

#endif
