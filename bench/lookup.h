/*
 * From an event to the connection's state, in the ways that servers do it. What is compared are
 * layouts of memory, not the programs they were seen in.
 *
 * A `lookup_set` is one number of connections, laid out in every way that is wanted; a `lookup_run`
 * handles events on one of these layouts. An event is handled alike everywhere: find the state,
 * check that it is the right one, make the system call if there is one between events, count.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_LOOKUP_H
#define BENCH_LOOKUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <berth.h>
#include <berth/adapt/epoll.h>

struct bench;

/** Events per wait, as a busy server gets them. */
#define LOOKUP_BATCH 64

/** What every layout keeps per connection and touches per event: fits the payload of a slot. */
struct lookup_state {
    uint64_t messages;
    uint64_t bytes;
    uint64_t last;
};

/**
 * A connection as servers allocate it: what is touched per event in front, and behind it what is
 * not. (Its size is between uSockets' 80 bytes and the 248 of nginx and libuv.)
 */
struct lookup_object {
    int fd;
    uint32_t generation;
    uint32_t flags;
    uint32_t index;
    struct lookup_state state;
    unsigned char rest[152];
};

/** Two objects per connection, the second found through the first: nginx's connection and event. */
struct lookup_handler {
    uint32_t flags;
    uint32_t generation;
    struct lookup_state state;
    unsigned char rest[64];
};

struct lookup_conn {
    int fd;
    uint32_t index;
    struct lookup_handler *handler;
    unsigned char rest[112];
};

/** Hash maps and trees: lookup_maps.c. */
struct lookup_hash;
struct lookup_open;
struct lookup_tree;

/** What layouts need: bits of lookup_variant.needs. */
enum lookup_part {
    LOOKUP_TABLE = 1,
    LOOKUP_TABLE_HUGE = 2,
    LOOKUP_OBJECTS = 4,
    LOOKUP_CHAIN = 8,
    LOOKUP_HASH = 16,
    LOOKUP_OPEN = 32,
    LOOKUP_TREE = 64,
};
#define LOOKUP_PARTS 7

/** What an event carries. */
enum lookup_carried {
    LOOKUP_TOKEN,     /**< of the table; the same in both, which were filled alike */
    LOOKUP_INDEX,     /**< the descriptor */
    LOOKUP_SLOT,      /**< a pointer to a slot */
    LOOKUP_SLOT_HUGE, /**< ... of the table on huge pages */
    LOOKUP_OBJECT,
    LOOKUP_CONN,
    LOOKUP_CARRIES
};

struct lookup_set {
    uint32_t conns;
    uint32_t index_max;      /**< indices are below it */
    const uint32_t *indices; /**< of each connection: 0, 1, 2 ..., or descriptors */
    unsigned parts;          /**< that were built */
    struct berth_table table, table_huge;
    struct lookup_object **objects; /**< by index */
    struct lookup_conn *chain;      /**< one array, as nginx has them */
    struct lookup_handler *handlers;
    struct lookup_hash *hash;
    struct lookup_open *open;
    struct lookup_tree *tree;
    uint64_t *carried[LOOKUP_CARRIES]; /**< what the events carry, in their order */
    uint32_t active;                   /**< how many connections have events at all */
    uint64_t handled[LOOKUP_PARTS];    /**< events that were handed to each part's variants */
};

struct lookup_run;

struct lookup_variant {
    const char *name;
    unsigned needs;
    enum lookup_carried carried;
    /** Handles `count` events. */
    void (*pass)(struct lookup_run *run, const struct epoll_event *batch, int count);
    const char *missing; /**< why it is not there; NULL: it is */
};

/** Ended by a NULL name. The first is the floor: no state at all. */
extern const struct lookup_variant lookup_variants[];

struct lookup_run {
    const struct lookup_variant *variant;
    struct lookup_set *set;
    struct berth_epoll epoll; /**< of the variants that are handed their events by it */
    uint32_t at;              /**< the next event's place in what is carried */
    bool reads;               /**< a read(2) belongs to each event */
    int fd_first;             /**< the descriptor of index i is fd_first + (i & fd_mask) */
    uint32_t fd_mask;
};

/** Descriptors to read between events: numbers in a row, so that an index names one. */
struct lookup_fds {
    int first;
    uint32_t count; /**< a power of two */
};

/** Opens as many as it should be, or as may be. 0 or -errno; close them either way. */
int lookup_fds_open(struct lookup_fds *fds);
void lookup_fds_close(struct lookup_fds *fds);

/** Events of one lookup_run_pass. */
#define LOOKUP_PASS_EVENTS (64 * LOOKUP_BATCH)

/** A run of `variant` over `set`, in which nothing is read between events until it is changed. */
void lookup_run_init(struct lookup_run *run, const struct lookup_variant *variant,
                     struct lookup_set *set);

/** Handles LOOKUP_PASS_EVENTS events. Takes the run as bench_work wants it. */
void lookup_run_pass(void *run);

/** Handles as many events as it takes until the caches hold what they would. */
void lookup_run_warm(struct lookup_run *run);

/**
 * Handles events of the set's real descriptors, from an epoll set of its own, for `slice_ns`: the
 * time of waiting and handling, per event. Making descriptors ready is not counted. 0 or -errno.
 */
int lookup_run_epoll(struct lookup_run *run, uint64_t slice_ns, double *ns_per_event);

/**
 * Lays out connections with these `indices` (kept, not copied) in the ways that `parts` asks for,
 * with the heap's objects in random order, as they lie in a server that has run for a while.
 * 0 or -errno; the set may be finished either way.
 */
int lookup_set_build(struct lookup_set *set, const uint32_t *indices, uint32_t conns,
                     unsigned parts);

/** Chooses `active` connections at random and puts them in random order: that of the events. */
int lookup_set_activate(struct lookup_set *set, uint32_t active);

/** Whether the states of each part account for every event that it was handed, and its bytes. */
bool lookup_set_agrees(const struct lookup_set *set);

void lookup_set_fini(struct lookup_set *set);

/** Bytes per connection that the parts need, roughly: to know what fits before it is built. */
uint64_t lookup_bytes_per_conn(unsigned parts);

/* ---- handling an event ------------------------------------------------------------------------
 */

/** The system call that belongs to an event. Returns the bytes read. */
static inline uint64_t
lookup_read(const struct lookup_run *run, uint32_t index)
{
    uint64_t value = 8;
    if (run->reads) {
        const ssize_t got = read(run->fd_first + (int)(index & run->fd_mask), &value, sizeof value);
        value = got == sizeof value ? 8 : 0;
    }
    return value;
}

static inline void
lookup_count(struct lookup_state *state, uint64_t bytes)
{
    state->messages++;
    state->bytes += bytes;
    state->last = state->messages;
}

/** Case `lookup` with --cachegrind: lookup_count.c. 0 or -errno. */
int lookup_count_exactly(struct bench *bench);

/* ---- maps: lookup_maps.c ----------------------------------------------------------------------
 */

int lookup_hash_build(struct lookup_set *set, const uint32_t *order);
int lookup_open_build(struct lookup_set *set);
int lookup_tree_build(struct lookup_set *set, const uint32_t *order);
void lookup_maps_fini(struct lookup_set *set);
uint64_t lookup_hash_handled(const struct lookup_set *set);
uint64_t lookup_tree_handled(const struct lookup_set *set);
void lookup_hash_pass(struct lookup_run *run, const struct epoll_event *batch, int count);
void lookup_open_pass(struct lookup_run *run, const struct epoll_event *batch, int count);
void lookup_tree_pass(struct lookup_run *run, const struct epoll_event *batch, int count);

/* What a map comes from may not be on this system: its variant is then named, and left out. */
#if __has_include(<uthash.h>)
#define LOOKUP_HASH_MISSING NULL
#else
#define LOOKUP_HASH_MISSING "uthash.h was not found when this was built"
#endif
#if __has_include(<bsd/sys/tree.h>)
#define LOOKUP_TREE_MISSING NULL
#else
#define LOOKUP_TREE_MISSING "bsd/sys/tree.h was not found when this was built"
#endif

#endif
