/*
 * What a loop consists of, and what it knows of each connection: the structs that its files share.
 * What may be done with them is in loop_internal.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_STRUCT_H
#define BERTH_LOOP_STRUCT_H

#include "berth/loop.h"
#include "berth/loop_cross.h"

#include "loop/address.h"
#include "loop/engine.h"
#include "loop/features.h"
#include "loop/timeouts.h"
#include "loop/timers.h"
#include "loop/zerocopy.h"
#include "loop/conn_state.h"
#include "loop/queues.h"
#include "loop/zcrx_option.h"

/** The operation byte of a token: which completion of a connection this is. */
enum loop_op {
    OP_READY = 1,
    OP_ACCEPT,
    OP_RECEIVE,
    OP_SEND,
    OP_CONNECT,
    OP_WAKE,
    OP_CANCEL,
    OP_RECEIVE_LANE,
    OP_SHUTDOWN,
    OP_PROVE,          /**< a look at what a posted receive may have missed */
    OP_TABLE,          /**< of the table of direct descriptors; nobody waits for it */
    OP_PARK,           /**< the cancel of an idle connection's receive */
    OP_PARKED,         /**< the poll request in its place */
    OP_DATAGRAM,       /**< received into a small buffer */
    OP_DATAGRAM_LARGE, /**< received into a large one: the token tells where the buffer belongs */
    OP_DATAGRAM_SEND,
    OP_DATAGRAM_POLL,  /**< the socket can take more */
    OP_ZEROCOPY = 0x40 /**< a send that is read in place, and those after it: ZEROCOPY_SENDS_MAX */
};

/** A place in a doubly linked list of slots: 1 + index of the neighbours, 0 for none. */
struct conn_link {
    uint32_t next, previous;
};

/** How often to look for buffers released elsewhere while somebody waits for one. */
#define STARVED_TICK_MS 5

/** The lists a connection can be in, one place for each. */
enum conn_list_kind { LIST_STARVED, LIST_CLOSING, LIST_FILES, LIST_KIND_COUNT };

struct conn_list {
    uint32_t head, tail; /**< 1 + index, 0: none */
    uint32_t count;
};

struct puller;

/** What the loop needs of a connection only in unusual moments: ahead of the user's cold record. */
struct conn_cold {
    const struct berth_handlers *handlers; /**< class 0 (connect, adopt) only */
    void *ctx;
    uint64_t credit;           /**< bytes; with CONN_CREDIT */
    uint64_t closing_since_ms; /**< in the list of the draining or the closing */
    struct conn_link links[LIST_KIND_COUNT];
    int32_t reason;        /**< with CONN_FAILED */
    uint32_t cancels;      /**< how often the cancel was issued */
    uint64_t bulk_turn;    /**< when a receive last ended with its share used up */
    uint32_t bulk_score;   /**< how often that happened in a row */
    uint32_t lane;         /**< 1 + number of its own ring of buffers, 0: none */
    struct lookup *lookup; /**< with CONN_CONNECTING: by name, and what is known of it */
    struct conn_timeouts timeouts;
    int32_t kept_fd;            /**< 1 + the descriptor beside the direct one; 0: none */
    uint8_t was_nonblocking;    /**< O_NONBLOCK was set when it was adopted */
    uint8_t made_nonblocking;   /**< O_NONBLOCK was set since, for a file: send_file.c */
    berth_detached_fn detached; /**< the connection is leaving (with CONN_CREDIT): whom to tell */
    void *detached_arg;
    struct conn_zerocopy zerocopy;
    struct forward *forward; /**< its part in forwarding: forward.c; NULL: none */
    int32_t leaving_fd;      /**< it can go, with this */
    uint32_t zcrx_left;      /**< bytes that its receive without copying may still bring */
    uint8_t zcrx;            /**< enum zcrx_state */
    uint8_t zcrx_card;       /**< 0: not asked; 1: its packets may come by no card; 2: they do */
    uint8_t pull_held;       /**< its puller is not called for now (with CONN_CREDIT) */
    uint8_t pull_polls;      /**< uring, with a puller: what is posted is a poll request */
    const struct puller *puller; /**< with SLOT_PULLS; NULL: none */
    void *pull_state;            /**< the puller's own */
    uint32_t map_wait_kib;       /**< to be received before mapping is tried again */
    uint8_t map_wish;            /**< enum map_wish */
    uint8_t map_failures;        /**< how often it did not pay */
    uint8_t file_waits;          /**< for a buffer to read its file into: it is in loop->files */
    uint32_t file_since_ms;      /**< for how long, as loop_time says, modulo 2^32 */
    unsigned char unused[36];
};
#define CONN_COLD_BYTES 320
BERTH_STATIC_ASSERT(sizeof(struct conn_cold) == CONN_COLD_BYTES, "five cache lines");

/** What is counted for one connection, behind the user's cold record: with the option conn_stats.
 */
struct conn_counts {
    struct berth_conn_stats stats;
    struct berth_copies copies;
};
#define CONN_COUNTS_BYTES ((uint32_t)sizeof(struct conn_counts))

/** What loop.h allows of options.cold_bytes. */
#define CONN_COLD_USER_MAX 3520
BERTH_STATIC_ASSERT(CONN_COLD_BYTES + CONN_COLD_USER_MAX + sizeof(struct conn_counts) <=
                        BERTH_TABLE_COLD_BYTES_MAX,
                    "all parts fit the table's records");

/** Who serves the connections of a class: a listener's, or (class 0) each connection's own. */
struct conn_class {
    const struct berth_handlers *handlers;
    void *ctx;
    struct berth_listener *listener; /**< NULL when it was closed */
    uint32_t users;                  /**< live connections, and the listener itself */
};
#define CLASS_OWN 0
#define CLASS_COUNT_MAX 256

struct loop_signals;
struct mapper;
struct nested;

/** A loop that goes out of service: drain.c. */
struct drain {
    enum { DRAIN_NOT, DRAIN_ON, DRAIN_OVER } state;
    uint64_t until_ms;
    struct berth_timer timer;
};

/** How far the search for idle connections has come. */
struct idle_scan {
    uint64_t stepped_ms; /**< when it last went on */
    uint32_t cursor;     /**< the index to go on with */
    int more;            /**< there was more to park than a step may */
};

/** The records of those who forward: forward.c. */
struct forwarding {
    struct forward_block *blocks; /**< all that were allocated */
    struct forward *unused;
};

/** Empty pipes that are kept for the next one to splice. */
#define PIPES_KEPT_MAX 32

struct pipe_stack {
    int at[PIPES_KEPT_MAX][2];
    uint32_t count;
    uint8_t guarded;     /**< as in struct send_file, of ... */
    uint64_t asked_turn; /**< ... 1 + this turn */
};

struct lookup;
struct resolver;

struct berth_loop {
    /* read on every event */
    struct berth_table *table;
    struct berth_pool *pool;
    const struct engine *engine;
    void *engine_state;
    struct berth_slot *current; /**< whose event is being handled: conn_progress follows */
    struct berth_span *lent;    /**< what its callback was lent, if it may be sent unretained */
    int flush_due;              /**< it has queued something, and nothing else is due */
    int lent_used;              /**< some of it was queued unretained */
    uint32_t counts_at;         /**< of conn_counts, from the cold record on; 0: nobody counts */
    uint32_t zerocopy_from;     /**< queues of so many bytes may be read in place */
    struct send_nodes nodes;
    struct batch batch;
    struct berth_loop_stats stats;
    struct berth_copies copies;

    uint32_t todo_head, todo_tail; /**< 1 + index, through slot->queue */
    uint32_t todo_count;
    int todo_runs; /**< it is being worked off */
    int put_off;   /**< the connection of now must leave the rest of its things to the next turn */
    int resting;   /**< another loop waits for this one: see loop_due */
    struct conn_list starved;  /**< first come, first served */
    struct conn_list files;    /**< with a file to be read into a buffer, of which there is none */
    struct conn_list draining; /**< to be closed when their queue is sent; oldest first */
    struct conn_list closing;  /**< waiting for the kernel to let go; oldest first */
    uint32_t conns;
    uint32_t zombies; /**< of those, the ones that the kernel does not let go of */
    uint32_t parked;  /**< of those, the ones whose receive has been exchanged for a poll request */
    uint32_t pulling; /**< those with a puller */
    struct idle_scan idle;

    struct berth_loop_options options;
    struct berth_pool_options pool_options;
    struct berth_table table_storage;
    uint32_t id;
    int wake_fd;
    berth_token wake_token;
    int reserve_fd; /**< given up for a moment to refuse a newcomer when descriptors run out */
    int stop;       /**< atomic */
    int in_turn;
    int started;
    int direct;                /**< slots are numbered by direct descriptors: descriptor.c */
    struct resolver *resolver; /**< NULL: no name was ever looked up */
    unsigned char *fork_guard; /**< a page that a child of fork(2) finds zeroed */
    uint64_t accept_resume_ms; /**< 0: no listener is backing off */
    uint64_t now_ms;           /**< through loop_time only */
    uint32_t timed;            /**< connections with a timeout */
    int now_fresh;             /**< it was read in this turn, after the wait */
    struct drain drain;
    struct berth_listener *stopped; /**< listeners that draining has stopped */
    struct udp_state *udp;          /**< of all datagram sockets; NULL before the first */
    struct conn_class classes[CLASS_COUNT_MAX];
    struct feature_wishes wishes;
    struct zerocopy_loop zerocopy;
    int by_card;           /**< a network card receives: see pull.c */
    struct zcrx_wish zcrx; /**< where to receive from without copying, if anywhere */
    char refusals[512];    /**< why other engines were not taken */
    char direct_refusal[128];
    struct timer_wheel timers;
    struct forwarding forwarding;
    struct pipe_stack pipes;

    struct mailbox mailbox;
    uint64_t signals_came;        /**< atomic: a bit each, the lowest for signal 1 */
    struct loop_signals *signals; /**< NULL: none was ever watched */
    struct nested *nested;        /**< NULL: nobody asked for a descriptor */
    struct mapper *mapper;        /**< NULL: no pages were ever to be mapped */
};

/** One listener; its slot's class is its own. */
struct berth_listener {
    struct berth_loop *loop;
    berth_token token;
    struct address address;
    uint8_t class_id;
    uint8_t backing_off;
    uint8_t stopped;             /**< it does not listen any more, and has no slot */
    struct berth_listener *next; /**< of those that are stopped */
};

extern struct berth_loop *berth_loops[LOOP_COUNT_MAX];

#endif
