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

#include "loop/loop_struct.h"

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
    const struct conn_cold *cold = slot_cold(loop, slot);
    return cold->credit > 0 && !cold->pull_held && cold->detached == NULL;
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

/** One that is leaving goes when the kernel has nothing of it; then it is beyond every call. */
void handover_check(struct berth_loop *loop, struct berth_slot *slot);

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

/** Who has received so much at once, by calls of the loop's own, receives a lot (SLOT_BULK). */
#define BULK_BYTES (4 * (size_t)RECEIVE_BYTES)

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
