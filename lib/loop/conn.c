/*
 * What happens to a connection between open and close: the callback contract, when to receive, the
 * close protocol, and the lists of those that wait. No system interface but sockets, and of those
 * only shutdown, close and two socket options.
 *
 * The invariants: close is called exactly once per open, and nothing after it; a slot is released
 * only when the kernel holds nothing of it; close(2) comes last; a callback's wishes are carried
 * out after it has returned, never inside the call that uttered them.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#include "loop/loop_internal.h"

#include <string.h>

#include "loop/conn_lists.h"
#include "loop/connect_name.h"
#include "loop/forward.h"
#include "loop/pull.h"
#include "loop/udp_internal.h"
#include "loop/send.h"
#include "os/probes.h"
#include "os/sys.h"

/** When a cancel that was not answered is issued again, and when the connection is given up. */
#define CANCEL_AGAIN_MS_1 50
#define CANCEL_AGAIN_MS_2 500
#define ZOMBIE_AFTER_MS 5000

/** Steps that one connection may take at a time: some end only when the kernel has done its part.
 */
#define PROGRESS_STEPS_MAX 16

/** How often a list of closing connections is looked through. */
#define CLOSING_TICK_MS 50

/* ---- birth ---------------------------------------------------------------------------------- */

int
conn_create(struct berth_loop *loop, int index, uint8_t class_id, uint32_t state,
            struct berth_slot **result)
{
    struct berth_slot *slot = NULL;
    const int error = berth_table_claim(loop->table, (uint32_t)index, &slot);
    if (error)
        return error;
    slot->class_id = class_id;
    slot->state = (loop->id << LOOP_ID_SHIFT) | state;
    loop->classes[class_id].users++;
    if ((state & SLOT_KIND_MASK) == KIND_CONN) {
        slot->state |= CONN_READ_ACTIVE; /* young, whatever the table's clock said: activity.h */
        loop->conns++;
    }
    *result = slot;
    return 0;
}

void
conn_discard(struct berth_loop *loop, struct berth_slot *slot, int close_fd)
{
    const int index = (int)slot->index;
    const int kept = descriptor_kept(loop, slot);
    BERTH_ASSERT(slot->in_flight == 0 && slot->buffer == 0);
    if (forward_has_part(loop, slot)) /* it was never open: nobody was told of its end */
        forward_over(loop, slot, (slot->state & CONN_FAILED) != 0);
    class_put(loop, slot->class_id);
    if (slot_kind(slot) == KIND_CONN)
        loop->conns--;
    (void)berth_table_release(loop->table, berth_slot_token(slot, 0));
    if (close_fd)
        descriptor_close(loop, index, kept);
    else
        descriptor_leave(loop, index);
}

void
conn_open(struct berth_loop *loop, struct berth_slot *slot)
{
    const struct berth_handlers *handlers = conn_handlers(loop, slot);
    loop->current = slot;
    slot->state |= CONN_TODO;
    if (slot->class_id == CLASS_OWN)
        timeouts_opened(loop, slot);
    BERTH_PROBE_CONN(conn__open, slot);
    if (loop->counts_at != 0)
        conn_counts(loop, slot)->stats.opened_ms = loop_now_ms();
    if (handlers->open != NULL && handlers->open(as_conn(slot), conn_context(loop, slot)) != 0) {
        loop->stats.refused_open++;
        BERTH_PROBE(accept__refused, slot->index, 0);
        slot->state |= CONN_FAILED;
        return;
    }
    slot->state |= CONN_OPENED;
}

void
conn_connected(struct berth_loop *loop, struct berth_slot *slot)
{
    const int error = descriptor_error(loop, slot);
    if (!(slot->state & CONN_CONNECTING) || (slot->state & CONN_FAILED))
        return;
    if (error) {
        connect_failed(loop, slot, error);
        return;
    }
    slot->state &= ~(uint32_t)CONN_CONNECTING;
    descriptor_drop(loop, slot);
    connect_done(loop, slot);
    loop->stats.connected++;
    conn_open(loop, slot);
}

/* ---- events --------------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) void
deliver(struct berth_loop *loop, struct berth_slot *slot, const struct berth_span *spans,
        unsigned n, size_t bytes)
{
    BERTH_ASSERT(conn_wants_data(slot) && n > 0 && bytes > 0);
    BERTH_PROBE_CONN_WITH(receive, slot, bytes);
    slot->state |= CONN_READ_ACTIVE;
    loop->stats.receives++;
    loop->stats.received_bytes += bytes;
    loop->copies.received += bytes;
    loop->copies.received_kernel += bytes;
    conn_use_credit(loop, slot, bytes);
    const struct berth_handlers *handlers = conn_handlers(loop, slot);
    loop->current = slot;
    if (BERTH_LIKELY(handlers->data != NULL))
        handlers->data(as_conn(slot), spans, n, bytes);
}

/** The same, and counts for the connection: apart, so that nobody else saves registers for it. */
static BERTH_COLD void
deliver_counted(struct berth_loop *loop, struct berth_slot *slot, const struct berth_span *spans,
                unsigned n, size_t bytes)
{
    struct conn_counts *counts = conn_counts(loop, slot);
    counts->stats.receives++;
    counts->stats.received_bytes += bytes;
    counts->copies.received += bytes;
    counts->copies.received_kernel += bytes;
    deliver(loop, slot, spans, n, bytes);
}

void
conn_deliver(struct berth_loop *loop, struct berth_slot *slot, const struct berth_span *spans,
             unsigned n, size_t bytes)
{
    if (BERTH_UNLIKELY(loop->counts_at != 0))
        deliver_counted(loop, slot, spans, n, bytes);
    else
        deliver(loop, slot, spans, n, bytes);
}

void
conn_eof(struct berth_loop *loop, struct berth_slot *slot)
{
    if (slot->state & (CONN_EOF | CONN_FAILED) || slot->flags & BERTH_SLOT_CLOSING)
        return;
    if (conn_leaving(loop, slot))
        return; /* whoever has the socket next finds it there */
    slot->state |= CONN_EOF | CONN_TODO;
    loop->current = slot;
    if (!(slot->state & CONN_OPENED) || slot->state & CONN_CLOSE_WANTED)
        return;
    const struct berth_handlers *handlers = conn_handlers(loop, slot);
    if (handlers->eof != NULL)
        handlers->eof(as_conn(slot));
    else
        slot->state |= CONN_CLOSE_WANTED;
}

void
conn_failed(struct berth_loop *loop, struct berth_slot *slot, int reason)
{
    if (slot->state & CONN_FAILED || slot->flags & BERTH_SLOT_CLOSING)
        return;
    BERTH_ASSERT(reason < 0);
    slot->state |= CONN_FAILED;
    slot_cold(loop, slot)->reason = reason;
    conn_todo(loop, slot);
}

/** shutdown(2), which a connection may need just because descriptors have run out: 0, or -EAGAIN.
 */
static int
shut_down(struct berth_loop *loop, struct berth_slot *slot, int how)
{
    const int fd = descriptor_borrow(loop, slot);
    if (fd < 0)
        return loop->engine->direct_shutdown(loop, slot, how);
    (void)sys_shutdown(fd, how);
    loop->stats.syscalls++;
    descriptor_return(loop, slot, fd);
    return 0;
}

/* ---- death ---------------------------------------------------------------------------------- */

/** Tells the user that it is over. At most once. */
static void
call_close(struct berth_loop *loop, struct berth_slot *slot)
{
    const int owed = (slot->state & (CONN_OPENED | CONN_CONNECTING)) != 0;
    if (slot->state & CONN_CONNECTING)
        connect_done(loop, slot);
    slot->state &= ~(uint32_t)(CONN_OPENED | CONN_CONNECTING);
    if (conn_leaving(loop, slot)) {
        const int why = slot->state & CONN_FAILED ? slot_cold(loop, slot)->reason : 0;
        handover_tell(loop, slot, why < 0 ? why : -ECANCELED);
    }
    if (!owed)
        return;
    const int reason = slot->state & CONN_FAILED ? slot_cold(loop, slot)->reason : 0;
    if (slot_kind(slot) == KIND_DATAGRAM) {
        udp_call_close(loop, slot, reason);
        return;
    }
    BERTH_PROBE_CONN_WITH(conn__close, slot, reason);
    const struct berth_handlers *handlers = conn_handlers(loop, slot);
    if (handlers->close != NULL)
        handlers->close(as_conn(slot), reason);
}

/** Nothing is in flight any more: the end of this incarnation. */
static void
finish(struct berth_loop *loop, struct berth_slot *slot)
{
    BERTH_ASSERT(slot->in_flight == 0);
    closing_list_leave(loop, slot);
    send_clear(loop, slot);
    if (BERTH_UNLIKELY(slot->flags & SLOT_PULLS))
        pull_over(loop, slot);
    if (conn_leaving(loop, slot) && !(slot->state & (CONN_CLOSE_WANTED | CONN_FAILED))) {
        if (loop->timed > 0)
            timeouts_stop(loop, slot);
        loop->engine->forget(loop, slot);
        loop->stats.detached++;
        handover_tell(loop, slot, slot_cold(loop, slot)->leaving_fd);
        conn_discard(loop, slot, 0);
        return;
    }
    call_close(loop, slot);
    loop->engine->forget(loop, slot);
    if (slot_kind(slot) == KIND_CONN) {
        loop->stats.closed++;
        loop->zombies -= (slot->state & CONN_ZOMBIE) != 0;
    } else if (slot_kind(slot) == KIND_DATAGRAM) {
        udp_free(loop, slot);
    }
    conn_discard(loop, slot, 1);
}

/**
 * Ends what may still come. A readiness engine only waits for what it sent to be read: a hang-up of
 * both sides would be reported all that time.
 */
static void
shut_down_closing(struct berth_loop *loop, struct berth_slot *slot)
{
    (void)shut_down(loop, slot, loop->engine->sends_at_once ? SHUT_WR : SHUT_RDWR);
}

/** Starts the end: from here on nothing is delivered, sent or received. */
static void
take_down(struct berth_loop *loop, struct berth_slot *slot)
{
    zerocopy_closing(loop, slot);
    closing_list_leave(loop, slot);
    conn_unstarve(loop, slot);
    if (loop->timed > 0)
        timeouts_stop(loop, slot);
    slot->flags |= BERTH_SLOT_CLOSING;
    if (slot->state & CONN_RESET) {
        const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
        if (!(slot->state & CONN_FAILED)) { /* its queue has been sent: a reset passed on */
            slot->state |= CONN_FAILED;
            slot_cold(loop, slot)->reason = -ECONNRESET;
        }
        const int fd = descriptor_borrow(loop, slot);
        (void)sys_setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        loop->stats.syscalls++;
        if (zerocopy_holds(loop, slot))
            zerocopy_bring_home(loop, slot, fd);
        descriptor_return(loop, slot, fd);
    }
    if (slot->in_flight == 0)
        return;
    /*
     * shutdown(2) ends a posted receive for certain, which close(2) would not. Not before a reset:
     * the peer would see an orderly end first. Nor where it costs a borrowed descriptor: the cancel
     * will do, and if it does not, closing_check comes by.
     */
    if (!(slot->state & CONN_RESET) && (!loop->direct || descriptor_kept(loop, slot) >= 0))
        shut_down_closing(loop, slot);
    loop->engine->cancel(loop, slot);
    slot_cold(loop, slot)->cancels = 1;
    closing_list_enter(loop, slot);
}

static void
give_up(struct berth_loop *loop, struct berth_slot *slot)
{
    slot->state |= CONN_ZOMBIE;
    loop->zombies += slot_kind(slot) == KIND_CONN;
    loop->stats.zombies++;
    BERTH_PROBE_CONN(zombie, slot);
    closing_list_leave(loop, slot);
    call_close(loop, slot);
}

/** One connection that the kernel has not let go of. */
static void
closing_check(struct berth_loop *loop, struct berth_slot *slot, uint64_t now_ms)
{
    struct conn_cold *cold = slot_cold(loop, slot);
    const uint64_t age_ms = now_ms - cold->closing_since_ms;
    const int may_wait = zerocopy_closing_step(loop, slot, now_ms);
    if (age_ms >= ZOMBIE_AFTER_MS && !may_wait) {
        give_up(loop, slot);
    } else if ((cold->cancels == 1 && age_ms >= CANCEL_AGAIN_MS_1) ||
               (cold->cancels == 2 && age_ms >= CANCEL_AGAIN_MS_2)) {
        /* For the sake of a reset, which an orderly end would forestall, the first time without. */
        if (!(slot->state & CONN_RESET) || cold->cancels > 1)
            shut_down_closing(loop, slot);
        loop->engine->cancel(loop, slot);
        cold->cancels++;
    }
}

int
conn_closing_tick(struct berth_loop *loop)
{
    if (loop->draining.count == 0 && loop->closing.count == 0)
        return -1;
    const uint64_t now_ms = loop_time(loop);
    while (loop->draining.head != 0) {
        struct berth_slot *slot = loop_slot(loop, loop->draining.head);
        if (now_ms - slot_cold(loop, slot)->closing_since_ms < loop->options.close_timeout_ms)
            break;
        closing_list_leave(loop, slot);
        slot->state |= CONN_RESET;
        conn_failed(loop, slot, -ETIMEDOUT);
    }
    for (uint32_t at = loop->closing.head; at != 0;) {
        struct berth_slot *slot = loop_slot(loop, at);
        if (now_ms - slot_cold(loop, slot)->closing_since_ms < CANCEL_AGAIN_MS_1)
            break; /* and those behind it came later */
        at = slot_cold(loop, slot)->links[LIST_CLOSING].next;
        closing_check(loop, slot, now_ms);
    }
    return CLOSING_TICK_MS;
}

/** Whether the program was told of it, and must be told of its end. */
static int
is_users(const struct berth_slot *slot)
{
    return slot_kind(slot) == KIND_CONN || slot_kind(slot) == KIND_DATAGRAM;
}

void
conn_fail_all(struct berth_loop *loop)
{
    BERTH_TABLE_EACH_LIVE (loop->table, index) {
        struct berth_slot *slot = berth_table_slot(loop->table, index);
        if (is_users(slot))
            conn_failed(loop, slot, -ECANCELED);
    }
}

void
conn_abandon_all(struct berth_loop *loop)
{
    conn_fail_all(loop); /* those too that came while the others went */
    BERTH_TABLE_EACH_LIVE (loop->table, index) {
        struct berth_slot *slot = berth_table_slot(loop->table, index);
        if (!is_users(slot))
            continue;
        slot->flags |= BERTH_SLOT_CLOSING;
        pull_over(loop, slot);
        call_close(loop, slot);
    }
}

/* ---- progress ------------------------------------------------------------------------------- */

/** The queue fell under its low mark after having passed the high one. */
static void
check_drained(struct berth_loop *loop, struct berth_slot *slot)
{
    if (!(slot->state & CONN_HIGH) || queue_bytes(loop, slot) > loop->options.send_low_bytes ||
        !forward_drained(loop, slot))
        return;
    slot->state = (slot->state & ~(uint32_t)CONN_HIGH) | CONN_TODO;
    timeouts_receive_resumed(loop, slot);
    const struct berth_handlers *handlers = conn_handlers(loop, slot);
    /* Whether the peer still sends does not matter: it still reads, and waits for the rest. */
    if (handlers->drained != NULL && (slot->state & (CONN_OPENED | CONN_NO_SEND)) == CONN_OPENED)
        handlers->drained(as_conn(slot));
}

static void
check_shutdown(struct berth_loop *loop, struct berth_slot *slot)
{
    if ((slot->state & (CONN_SHUT_WANTED | CONN_SHUT_DONE)) != CONN_SHUT_WANTED ||
        slot->buffer != 0 || slot->state & (CONN_CONNECTING | CONN_FAILED))
        return;
    if (shut_down(loop, slot, SHUT_WR) == 0)
        slot->state |= CONN_SHUT_DONE;
    else
        conn_todo(loop, slot);
}

static void
check_receive(struct berth_loop *loop, struct berth_slot *slot)
{
    const int wanted = conn_may_receive(loop, slot);
    if (!wanted) {
        conn_unstarve(loop, slot);
        if (slot->state & CONN_RECEIVING)
            loop->engine->receive_stop(loop, slot);
    } else if (!(slot->state & (CONN_RECEIVING | CONN_STARVED))) {
        const int error = slot_kind(slot) == KIND_DATAGRAM
                              ? loop->engine->datagram_start(loop, slot)
                              : loop->engine->receive_start(loop, slot);
        if (error)
            conn_failed(loop, slot, error);
    }
}

static int
is_over(const struct berth_loop *loop, const struct berth_slot *slot)
{
    if (slot->state & CONN_FAILED)
        return 1;
    if (!(slot->state & CONN_CLOSE_WANTED) || slot->buffer != 0)
        return 0;
    return slot_kind(slot) != KIND_DATAGRAM || udp_of(loop, slot)->queued == 0;
}

/** What only a stream has: an opening, one queue of bytes, and two ends. */
static void
stream_step(struct berth_loop *loop, struct berth_slot *slot)
{
    if (slot->state & CONN_OPEN_DUE) {
        slot->state &= ~(uint32_t)CONN_OPEN_DUE;
        if (!(slot->state & CONN_FAILED))
            conn_open(loop, slot);
    }
    if (slot->buffer != 0 && !(slot->state & (CONN_SENDING | CONN_CONNECTING | CONN_FAILED)))
        loop->engine->send(loop, slot);
    check_drained(loop, slot);
    check_shutdown(loop, slot);
    if ((slot->state & (CONN_EOF | CONN_SHUT_DONE)) == (CONN_EOF | CONN_SHUT_DONE))
        slot->state |= CONN_CLOSE_WANTED; /* both sides have finished */
}

static void
progress_step(struct berth_loop *loop, struct berth_slot *slot)
{
    if (BERTH_UNLIKELY(slot_kind(slot) == KIND_DATAGRAM))
        udp_step(loop, slot);
    else
        stream_step(loop, slot);
    if (is_over(loop, slot)) {
        take_down(loop, slot);
        return;
    }
    if (slot->state & CONN_CLOSE_WANTED)
        closing_list_enter(loop, slot);
    check_receive(loop, slot);
    if (BERTH_UNLIKELY(slot->state & CONN_CREDIT))
        handover_check(loop, slot);
}

void
conn_progress(struct berth_loop *loop, struct berth_slot *slot)
{
    const uint64_t sent_before = loop->stats.sent_bytes;
    unsigned steps = 0;
    loop->current = slot;
    while (slot->state & CONN_TODO && !(slot->flags & BERTH_SLOT_CLOSING) &&
           steps++ < PROGRESS_STEPS_MAX) {
        slot->state &= ~(uint32_t)CONN_TODO;
        progress_step(loop, slot);
        if (loop->flush_due) {
            loop->flush_due = 0;
            slot->state |= CONN_TODO;
        }
        if (loop->put_off)
            break;
        /* A peer that reads as fast as we send must leave something of the turn to the others. */
        if (loop->stats.sent_bytes - sent_before >= loop->options.fairness_bytes)
            break;
    }
    loop->put_off = 0;
    if (slot->state & CONN_TODO && !(slot->flags & BERTH_SLOT_CLOSING)) {
        loop->current = NULL;
        conn_todo(loop, slot);
        return;
    }
    /* While it stands in the todo list its slot must not go: the list will come by. */
    if (slot->flags & BERTH_SLOT_CLOSING && slot->in_flight == 0 &&
        !(slot->state & CONN_TODO_LISTED))
        finish(loop, slot);
    loop->current = NULL;
}

unsigned
conn_run_todo(struct berth_loop *loop)
{
    const unsigned count = loop->todo_count;
    loop->todo_runs = 1;
    for (unsigned i = 0; i < count; i++) {
        struct berth_slot *slot = loop_slot(loop, loop->todo_head);
        loop->todo_head = slot->queue;
        if (loop->todo_head == 0)
            loop->todo_tail = 0;
        loop->todo_count--;
        slot->state &= ~(uint32_t)CONN_TODO_LISTED;
        conn_progress(loop, slot);
    }
    loop->todo_runs = 0;
    return count;
}
