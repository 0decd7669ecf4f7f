/*
 * What the files of the loop share: its struct, the meaning of a slot's words when the loop drives
 * it, and the calls between the policies (conn.c, send.c, listen.c) and the engines.
 *
 * A connection's life is told by the bits of slot->state. conn_progress looks at all of them and
 * does what is due; everything else only sets bits. That is why callbacks may do anything at any
 * time: they set bits, and the bits are looked at when the callback has returned.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_INTERNAL_H
#define BERTH_LOOP_INTERNAL_H

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
enum conn_list_kind { LIST_STARVED, LIST_CLOSING, LIST_KIND_COUNT };

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
    unsigned char unused[50];
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
    int resting;               /**< another loop waits for this one: see loop_due */
    struct conn_list starved;  /**< first come, first served */
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

/* ---- small things everybody needs ----------------------------------------------------------- */

static inline struct berth_conn *
as_conn(struct berth_slot *slot)
{
    return (struct berth_conn *)(void *)slot;
}

static inline struct berth_slot *
as_slot(const struct berth_conn *conn)
{
    return (struct berth_slot *)(uintptr_t)conn;
}

static inline enum slot_kind
slot_kind(const struct berth_slot *slot)
{
    return (enum slot_kind)(slot->state & SLOT_KIND_MASK);
}

static inline struct berth_loop *
slot_loop(const struct berth_slot *slot)
{
    return berth_loops[slot->state >> LOOP_ID_SHIFT];
}

static inline struct conn_cold *
slot_cold(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return (struct conn_cold *)berth_table_cold(loop->table, slot->index);
}

static inline struct berth_slot *
loop_slot(const struct berth_loop *loop, uint32_t one_based)
{
    return berth_table_slot(loop->table, one_based - 1);
}

static inline struct send_node *
queue_head(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return slot->buffer == 0 ? NULL : &loop->nodes.at[slot->buffer];
}

static inline uint32_t
queue_bytes(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return slot->buffer == 0 ? 0 : loop->nodes.at[slot->buffer].bytes;
}

static inline const struct berth_handlers *
conn_handlers(const struct berth_loop *loop, const struct berth_slot *slot)
{
    if (slot->class_id == CLASS_OWN)
        return slot_cold(loop, slot)->handlers;
    return loop->classes[slot->class_id].handlers;
}

static inline void *
conn_context(const struct berth_loop *loop, const struct berth_slot *slot)
{
    if (slot->class_id == CLASS_OWN)
        return slot_cold(loop, slot)->ctx;
    return loop->classes[slot->class_id].ctx;
}

/** The counters of one connection, if the loop counts for each. */
static inline struct conn_counts *
conn_counts(const struct berth_loop *loop, const struct berth_slot *slot)
{
    BERTH_ASSERT(loop->counts_at != 0);
    return (struct conn_counts *)(void *)((unsigned char *)slot_cold(loop, slot) + loop->counts_at);
}

/** Counts for one connection, if the loop does: one test of what every event has loaded. */
#define CONN_COUNT(loop, slot, counter, amount)                                                    \
    do {                                                                                           \
        if (BERTH_UNLIKELY((loop)->counts_at != 0))                                                \
            conn_counts((loop), (slot))->stats.counter += (amount);                                \
    } while (0)

/** Enters bytes in the copy ledger: the loop's, and the connection's own if there is one. */
#define CONN_COPIES(loop, slot, counter, amount)                                                   \
    do {                                                                                           \
        (loop)->copies.counter += (amount);                                                        \
        if (BERTH_UNLIKELY((loop)->counts_at != 0))                                                \
            conn_counts((loop), (slot))->copies.counter += (amount);                               \
    } while (0)

/** Milliseconds of a clock that never goes back, read now. */
uint64_t loop_now_ms(void);

/** Reads the clock for the rest of the turn; outside a turn for the moment only. */
void loop_time_read(struct berth_loop *loop);

/** The loop's time: one reading per turn, made when it is first asked for. */
static inline uint64_t
loop_time(struct berth_loop *loop)
{
    if (!loop->now_fresh)
        loop_time_read(loop);
    return loop->now_ms;
}

/** An engine has waited: whoever asks for the time now is told a new one. */
static inline void
loop_has_waited(struct berth_loop *loop)
{
    loop->now_fresh = 0;
}

/** Whether this is a child of fork(2), which must not touch its parent's loop. Any thread. */
static inline int
loop_is_child(const struct berth_loop *loop)
{
    return *(const volatile unsigned char *)loop->fork_guard == 0;
}

/** Something became due between turns: another loop that waits for this one must hear of it. */
void nested_due(struct berth_loop *loop);

static inline void
loop_due(struct berth_loop *loop)
{
    if (BERTH_UNLIKELY(loop->resting))
        nested_due(loop);
}

/** Starts the engine on the thread that runs the loop, if it has not been. 0 or -errno. */
int loop_start(struct berth_loop *loop);

/** Between turns: sees to it that the loop's descriptor tells of what is due. */
void loop_rest(struct berth_loop *loop);

/** Sets or clears O_NONBLOCK. 1 if it was set before, 0 if not, or -errno. */
int descriptor_set_nonblocking(int fd, int on);

/* ---- conn.c: what happens to connections ---------------------------------------------------- */

/** conn_progress must look at this connection: at once after its event, or at the end of the turn.
 */
static inline void
conn_todo(struct berth_loop *loop, struct berth_slot *slot)
{
    slot->state |= CONN_TODO;
    if (slot == loop->current || (slot->state & CONN_TODO_LISTED))
        return;
    slot->state |= CONN_TODO_LISTED;
    slot->queue = 0;
    if (loop->todo_tail != 0)
        loop_slot(loop, loop->todo_tail)->queue = slot->index + 1;
    else
        loop->todo_head = slot->index + 1;
    loop->todo_tail = slot->index + 1;
    loop->todo_count++;
    loop_due(loop);
}

/** Does whatever the state of the connection calls for. It may be gone afterwards. */
void conn_progress(struct berth_loop *loop, struct berth_slot *slot);

/** Nodes that were to be sent straight from a lent span, and were not, retain it now. */
void send_retain_lent(struct berth_loop *loop, const struct berth_slot *slot);

/** Every event of a connection ends with this. */
static inline void
conn_after_event(struct berth_loop *loop, struct berth_slot *slot)
{
    if (loop->flush_due) {
        const int later = slot->state & (CONN_TODO | CONN_SENDING | CONN_CONNECTING | CONN_FAILED);
        loop->flush_due = 0;
        if (!later && loop->engine->sends_at_once && loop->batch.flush_count < BATCH_MAX) {
            loop->batch.flush[loop->batch.flush_count++] = slot;
        } else {
            if (later)
                slot->state |= CONN_TODO;
            else
                loop->engine->send(loop, slot);
            /* It is not in the batch, which takes its spans back all the same. */
            if (loop->engine->sends_at_once && slot->buffer != 0)
                send_retain_lent(loop, slot);
        }
    }
    if (slot->state & CONN_TODO || slot->flags & BERTH_SLOT_CLOSING)
        conn_progress(loop, slot);
    loop->current = NULL;
}

/** Works off the todo list, as it was at the start. Returns how many it looked at. */
unsigned conn_run_todo(struct berth_loop *loop);

/** Whether bytes that arrive now are to be delivered. */
static inline int
conn_wants_data(const struct berth_slot *slot)
{
    return (slot->state & (CONN_OPENED | CONN_NO_RECEIVE)) == CONN_OPENED;
}

/** Whether somebody else's bytes are forwarded to this connection. */
int forward_is_fed(const struct berth_loop *loop, const struct berth_slot *slot);

/** The same, and whether it is asked for now: not paused, not out of credit. */
static inline int
conn_may_receive(const struct berth_loop *loop, const struct berth_slot *slot)
{
    if (!conn_wants_data(slot))
        return 0;
    if (BERTH_UNLIKELY(slot->state & CONN_HIGH) && !loop->options.keep_receiving &&
        !forward_is_fed(loop, slot))
        return 0;
    if (BERTH_LIKELY(!(slot->state & CONN_CREDIT)))
        return 1;
    return slot_cold(loop, slot)->credit > 0 && !slot_cold(loop, slot)->pull_held;
}

/** Bytes were delivered: uses up credit, if there is a limit. */
static inline void
conn_use_credit(const struct berth_loop *loop, struct berth_slot *slot, size_t bytes)
{
    if (BERTH_LIKELY(!(slot->state & CONN_CREDIT)))
        return;
    struct conn_cold *cold = slot_cold(loop, slot);
    cold->credit -= bytes < cold->credit ? bytes : cold->credit;
    slot->state |= CONN_TODO;
}

/** Whether the connection is on its way out of the loop: no bit of its own, as it is rare. */
static inline int
conn_leaving(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return BERTH_UNLIKELY(slot->state & CONN_CREDIT) && slot_cold(loop, slot)->detached != NULL;
}

/** Makes leaving_fd of the cold record; -errno if there is no descriptor to be had. */
int handover_prepare(struct berth_loop *loop, struct berth_slot *slot);

/** Tells whoever asked that it has left, or (fd is -errno) why not. Once. */
void handover_tell(struct berth_loop *loop, struct berth_slot *slot, int fd);

/** Reports to the loop. Each is one event; the engine calls conn_after_event behind the last one.
 */
void conn_deliver(struct berth_loop *loop, struct berth_slot *slot, const struct berth_span *spans,
                  unsigned n, size_t bytes);
void conn_eof(struct berth_loop *loop, struct berth_slot *slot);
void conn_failed(struct berth_loop *loop, struct berth_slot *slot, int reason);
void conn_connected(struct berth_loop *loop, struct berth_slot *slot);

/** No buffer for this connection's data: it waits its turn, in the order in which they came. */
void conn_starve(struct berth_loop *loop, struct berth_slot *slot);
struct berth_slot *conn_next_starved(struct berth_loop *loop);

/* ---- receive.c: reading without waiting ----------------------------------------------------- */

/** Bytes in a buffer of the class that is read into first (BERTH_CLASS_4K). */
#define RECEIVE_BYTES 4096u

/**
 * Reads once from the slot's descriptor, without waiting, into a pool buffer of that class, and
 * delivers. Returns the bytes read, 0 when there is no more for now: end, error, starved, or just
 * empty.
 */
size_t receive_now(struct berth_loop *loop, struct berth_slot *slot, int fd,
                   enum berth_class size_class);

/** There is no buffer for what this connection has to say: it ends, or queues for one. */
void receive_starve(struct berth_loop *loop, struct berth_slot *slot);

/** A buffer that was read into, or not, is to be read into again. */
void receive_keep(struct berth_loop *loop, const struct receive_buffer *kept);

/** The turn is over: buffers at hand go back to the pool, unless the next turn will want them. */
void receive_turn_over(struct berth_loop *loop);

/** Serves those who wait for a buffer, as far as there are any. Returns how many. */
unsigned receive_starved(struct berth_loop *loop);

/**
 * Claims the slot of that number (see descriptor_enter), in that enum conn_state. Nothing is told
 * to the user yet.
 */
int conn_create(struct berth_loop *loop, int index, uint8_t class_id, uint32_t state,
                struct berth_slot **slot);

/** The same for a connection whose handlers are its own. */
int conn_create_own(struct berth_loop *loop, int fd, uint32_t state,
                    const struct berth_handlers *handlers, void *ctx, struct berth_slot **slot);

/** Undoes conn_create for one that never opened, and closes the descriptor if asked to. */
void conn_discard(struct berth_loop *loop, struct berth_slot *slot, int close_fd);

/** Calls open; starts receiving, or takes the connection down if it is refused. */
void conn_open(struct berth_loop *loop, struct berth_slot *slot);

/** Looks after connections that take long to close. Returns ms until it is due again, or -1. */
int conn_closing_tick(struct berth_loop *loop);

/** Fails every connection with -ECANCELED: the loop is being destroyed. */
void conn_fail_all(struct berth_loop *loop);

/** Calls close for those that are still there: nobody will turn the loop again. */
void conn_abandon_all(struct berth_loop *loop);

/** Frees a class that nobody uses any more. */
void class_put(struct berth_loop *loop, uint8_t class_id);

/* ---- descriptor.c: what a slot is to a system call ------------------------------------------- */

/** The number of the slot for an ordinary descriptor, which is still the caller's; or -errno. */
int descriptor_enter(struct berth_loop *loop, int fd);

/** Undoes it, if no slot was claimed. */
void descriptor_leave(struct berth_loop *loop, int index);

/** The slot has been claimed: keeps the ordinary descriptor beside a direct one. */
void descriptor_keep(struct berth_loop *loop, struct berth_slot *slot, int fd);

/** The kept descriptor has done its service. */
void descriptor_drop(struct berth_loop *loop, struct berth_slot *slot);

/** The kept descriptor, or -1. */
int descriptor_kept(const struct berth_loop *loop, const struct berth_slot *slot);

/** Closes what a slot stood for, which is empty by now; `kept` is what descriptor_kept said. */
void descriptor_close(struct berth_loop *loop, int index, int kept);

/** Takes the error that the socket has in store (SO_ERROR): 0 if there is none, or -errno. */
int descriptor_error(struct berth_loop *loop, const struct berth_slot *slot);

int descriptor_borrow_direct(struct berth_loop *loop, const struct berth_slot *slot);
void descriptor_return_direct(struct berth_loop *loop, const struct berth_slot *slot, int fd);

/**
 * A descriptor for one system call, until descriptor_return: the slot's own, or a passing one for a
 * direct descriptor, which costs three system calls more. -errno if there is none.
 */
static inline int
descriptor_borrow(struct berth_loop *loop, const struct berth_slot *slot)
{
    return BERTH_LIKELY(!loop->direct) ? berth_slot_fd(slot) : descriptor_borrow_direct(loop, slot);
}

static inline void
descriptor_return(struct berth_loop *loop, const struct berth_slot *slot, int fd)
{
    if (BERTH_UNLIKELY(loop->direct) && fd >= 0)
        descriptor_return_direct(loop, slot, fd);
}

/* ---- idle.c: who receives nothing ----------------------------------------------------------- */

/** How long a connection may be idle, as an option or an argument: what 16-bit ticks can count. */
#define IDLE_MS_MIN 1000
#define IDLE_MS_MAX 3600000

/** Parks some that have been idle for long. Returns ms until it wants to go on, or -1. */
int idle_tick(struct berth_loop *loop);

/* ---- listen.c ------------------------------------------------------------------------------- */

/** A slot for an ordinary descriptor, which is the slot's if this returns 0. */
int conn_create_keeping(struct berth_loop *loop, int fd, uint8_t class_id, uint32_t state,
                        struct berth_slot **slot);

/** A newcomer, by the number of its slot-to-be. Its descriptor is the loop's from here on. */
void listener_accepted(struct berth_loop *loop, struct berth_slot *listener, int index);

/** accept failed: out of descriptors (refuses one, backs off) or something passing. */
void listener_accept_failed(struct berth_loop *loop, struct berth_slot *listener, int error);

/** Lets listeners accept again whose time has come. Returns ms until the next one, or -1. */
int listener_tick(struct berth_loop *loop);

/** They listen no more; the structs are their owners' still. */
void listener_stop_all(struct berth_loop *loop);

void listener_close_all(struct berth_loop *loop);

/* ---- loop.c and drain.c --------------------------------------------------------------------- */

/** Whether the loop drains, and everybody has gone. */
int loop_drained(const struct berth_loop *loop);

#endif
