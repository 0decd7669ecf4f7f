/*
 * Forwarding from one connection to another. Whoever takes part has handlers of ours in place of
 * its own, which are kept in a record behind its cold one: so nobody else pays for forwarding, and
 * everything that the loop tells a connection comes by here.
 *
 * Receiving is paused by taking away the credit, and the user's own credit is kept meanwhile.
 *
 * The invariants: two records that name each other name connections that live, and both forget each
 * other together; a connection has a record exactly as long as it forwards or is forwarded to; who
 * is held has somebody to wait for, whose queue is long.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/forward_part.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "berth/forward.h"

/** What a piece that is forwarded holds, however small it is. */
#define PIECE_BYTES 4096u

/** Fewer pieces are never too many. */
#define PIECES_MIN 8u

/** Records allocated at a time. */
#define RECORDS_PER_BLOCK 62

struct forward_block {
    struct forward_block *next;
    struct forward records[RECORDS_PER_BLOCK];
};

/* ---- records -------------------------------------------------------------------------------- */

struct forward *
forward_part(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return forward_has_part(loop, slot) ? slot_cold(loop, slot)->forward : NULL;
}

struct berth_slot *
forward_other(const struct berth_loop *loop, berth_token token)
{
    if (token == BERTH_TOKEN_NONE)
        return NULL;
    struct berth_slot *slot = berth_table_find(loop->table, token);
    BERTH_ASSERT(slot != NULL && forward_has_part(loop, slot));
    return slot;
}

static int
get_block(struct forwarding *forwarding)
{
    struct forward_block *block = (struct forward_block *)calloc(1, sizeof(*block));
    if (block == NULL)
        return -ENOMEM;
    block->next = forwarding->blocks;
    forwarding->blocks = block;
    for (unsigned i = 0; i < RECORDS_PER_BLOCK; i++) {
        block->records[i].next = forwarding->unused;
        forwarding->unused = &block->records[i];
    }
    return 0;
}

/** The connection takes part from now on. 0 or -ENOMEM. */
static int
join(struct berth_loop *loop, struct berth_slot *slot)
{
    if (forward_has_part(loop, slot))
        return 0;
    if (loop->forwarding.unused == NULL && get_block(&loop->forwarding) != 0)
        return -ENOMEM;
    struct forward *forward = loop->forwarding.unused;
    loop->forwarding.unused = forward->next;
    memset(forward, 0, sizeof(*forward));
    forward->handlers = conn_handlers(loop, slot);
    forward->class_id = slot->class_id;
    struct conn_cold *cold = slot_cold(loop, slot);
    cold->ctx = conn_context(loop, slot);
    cold->handlers = &forward_handlers;
    cold->forward = forward;
    slot->class_id = CLASS_OWN;
    return 0;
}

/** Whoever neither forwards nor is forwarded to has its own handlers again. */
static void
part_if_idle(struct berth_loop *loop, struct berth_slot *slot)
{
    struct forward *forward = forward_part(loop, slot);
    if (forward == NULL || forward->to != BERTH_TOKEN_NONE || forward->from != BERTH_TOKEN_NONE)
        return;
    BERTH_ASSERT(!forward->held);
    struct conn_cold *cold = slot_cold(loop, slot);
    cold->handlers = forward->handlers;
    cold->forward = NULL;
    slot->class_id = forward->class_id;
    forward->next = loop->forwarding.unused;
    loop->forwarding.unused = forward;
}

void
forward_destroy(struct berth_loop *loop)
{
    while (loop->forwarding.blocks != NULL) {
        struct forward_block *block = loop->forwarding.blocks;
        loop->forwarding.blocks = block->next;
        free(block);
    }
}

/* ---- holding -------------------------------------------------------------------------------- */

/** As many pieces as that many bytes are worth in buffers. */
static uint32_t
pieces_for(uint32_t bytes)
{
    return bytes / PIECE_BYTES > PIECES_MIN ? bytes / PIECE_BYTES : PIECES_MIN;
}

/** The pieces in the queue, counted up to so many. */
static uint32_t
count_pieces(const struct berth_loop *loop, const struct berth_slot *slot, uint32_t most)
{
    uint32_t count = 0;
    for (uint32_t at = slot->buffer; at != 0 && count < most; at = loop->nodes.at[at].next)
        count++;
    return count;
}

void
forward_hold(struct berth_loop *loop, struct berth_slot *slot)
{
    struct conn_cold *cold = slot_cold(loop, slot);
    struct forward *forward = cold->forward;
    if (forward->held)
        return;
    forward->held = 1;
    forward->credit = slot->state & CONN_CREDIT ? cold->credit : UINT64_MAX;
    cold->credit = 0;
    slot->state |= CONN_CREDIT;
    conn_todo(loop, slot);
}

static void
resume(struct berth_loop *loop, struct berth_slot *slot)
{
    struct conn_cold *cold = slot_cold(loop, slot);
    struct forward *forward = cold->forward;
    if (!forward->held)
        return;
    forward->held = 0;
    forward->full_bytes = 0;
    if (forward->credit == UINT64_MAX)
        slot->state &= ~(uint32_t)CONN_CREDIT;
    else
        cold->credit = forward->credit;
    timeouts_receive_resumed(loop, slot);
    conn_todo(loop, slot);
}

int
forward_is_fed(const struct berth_loop *loop, const struct berth_slot *slot)
{
    const struct forward *forward = forward_part(loop, slot);
    return forward != NULL && forward->from != BERTH_TOKEN_NONE;
}

int
forward_drained(struct berth_loop *loop, const struct berth_slot *slot)
{
    const struct forward *forward = forward_part(loop, slot);
    struct berth_slot *from = forward == NULL ? NULL : forward_other(loop, forward->from);
    if (from == NULL)
        return 1;
    const uint32_t low = pieces_for(loop->options.send_low_bytes);
    const uint32_t full_bytes = slot_cold(loop, from)->forward->full_bytes;
    if (count_pieces(loop, slot, low + 1) > low ||
        (full_bytes != 0 && queue_bytes(loop, slot) > full_bytes / 2))
        return 0;
    resume(loop, from);
    return 1;
}

int
forward_keep_credit(struct berth_loop *loop, const struct berth_slot *slot, uint64_t credit)
{
    struct forward *forward = forward_part(loop, slot);
    if (forward == NULL || !forward->held)
        return 0;
    forward->credit = credit;
    return 1;
}

void
forward_mark_high(struct berth_loop *loop, struct berth_slot *to)
{
    if (to->state & CONN_HIGH)
        return;
    to->state |= CONN_HIGH;
    loop->stats.pauses++;
    CONN_COUNT(loop, to, pauses, 1);
    conn_todo(loop, to);
}

void
forward_look_at_queue(struct berth_loop *loop, struct berth_slot *from, struct berth_slot *to,
                      uint32_t added)
{
    struct forward *forward = slot_cold(loop, from)->forward;
    const uint32_t high = pieces_for(loop->options.send_high_bytes);
    forward->pieces += added;
    if (!(to->state & CONN_HIGH) && forward->pieces >= high) {
        forward->pieces = count_pieces(loop, to, high);
        if (forward->pieces >= high)
            forward_mark_high(loop, to);
    }
    if (to->state & CONN_HIGH)
        forward_hold(loop, from);
}

/* ---- ending --------------------------------------------------------------------------------- */

/** The user would have had it closed at its end of stream, but for what came by forwarding. */
static void
close_if_done(struct berth_loop *loop, struct berth_slot *slot)
{
    const struct forward *forward = forward_part(loop, slot);
    if (forward == NULL || forward->from != BERTH_TOKEN_NONE || forward->handlers->eof != NULL ||
        !(slot->state & CONN_EOF) || slot->flags & BERTH_SLOT_CLOSING)
        return;
    slot->state |= CONN_CLOSE_WANTED;
    conn_todo(loop, slot);
}

void
forward_splice_stop(struct berth_loop *loop, struct berth_slot *from)
{
    struct forward *forward = slot_cold(loop, from)->forward;
    if (forward->spliced)
        conn_pull_stop(loop, from);
    forward->spliced = 0;
}

/** `from`, which keeps its record, forwards no more to where it did. */
static void
unlink_sink(struct berth_loop *loop, struct berth_slot *from)
{
    struct forward *forward = slot_cold(loop, from)->forward;
    struct berth_slot *to = forward_other(loop, forward->to);
    if (to == NULL)
        return;
    resume(loop, from);
    forward_splice_stop(loop, from);
    forward->to = BERTH_TOKEN_NONE;
    slot_cold(loop, to)->forward->from = BERTH_TOKEN_NONE;
    close_if_done(loop, to);
    if (to != from)
        part_if_idle(loop, to);
}

void
forward_unlink(struct berth_loop *loop, struct berth_slot *from)
{
    if (!forward_has_part(loop, from))
        return;
    unlink_sink(loop, from);
    part_if_idle(loop, from);
}

/** Whoever fed this connection feeds it no more. Returns it, if it is another one, or NULL. */
static struct berth_slot *
unlink_source(struct berth_loop *loop, struct berth_slot *slot, uint32_t *flags)
{
    const struct forward *forward = forward_part(loop, slot);
    struct berth_slot *from = forward == NULL ? NULL : forward_other(loop, forward->from);
    if (from == NULL)
        return NULL;
    *flags = slot_cold(loop, from)->forward->flags;
    forward_unlink(loop, from);
    return from == slot ? NULL : from;
}

void
forward_leave(struct berth_loop *loop, struct berth_slot *slot)
{
    uint32_t flags;
    (void)unlink_source(loop, slot, &flags);
    forward_unlink(loop, slot);
}

void
forward_follow(struct berth_loop *loop, struct berth_slot *slot, int reset)
{
    if (slot->state & CONN_FAILED || slot->flags & BERTH_SLOT_CLOSING)
        return;
    if (!(slot->state & CONN_OPENED)) {
        slot->state |= CONN_RESET;
        conn_failed(loop, slot, -ECANCELED);
        return;
    }
    slot->state |= CONN_CLOSE_WANTED | (reset ? CONN_RESET : 0u);
    conn_todo(loop, slot);
}

void
forward_over(struct berth_loop *loop, struct berth_slot *slot, int reset)
{
    const struct forward *forward = forward_part(loop, slot);
    if (forward == NULL)
        return;
    uint32_t flags_in = 0;
    const uint32_t flags_out = forward->flags;
    struct berth_slot *to = forward_other(loop, forward->to);
    struct berth_slot *from = unlink_source(loop, slot, &flags_in);
    forward_unlink(loop, slot);
    if (from != NULL && flags_in & BERTH_FORWARD_CLOSE)
        forward_follow(loop, from, reset);
    if (to != NULL && to != slot && flags_out & BERTH_FORWARD_CLOSE)
        forward_follow(loop, to, reset);
}

/* ---- the call ------------------------------------------------------------------------------- */

/** The live slot behind a connection pointer, or NULL. */
static struct berth_slot *
live(const struct berth_conn *conn)
{
    struct berth_slot *slot = as_slot(conn);
    if (slot == NULL || !(slot->flags & BERTH_SLOT_LIVE) || slot_kind(slot) != KIND_CONN)
        return NULL;
    return slot;
}

/** Whether the two can be told to forward: 0 or -errno. */
static int
check_pair(const struct berth_loop *loop, const struct berth_slot *from,
           const struct berth_slot *to)
{
    if (slot_loop(to) != loop)
        return -EXDEV;
    if (from->state & (CONN_EOF | CONN_CLOSE_WANTED | CONN_FAILED) ||
        from->flags & BERTH_SLOT_CLOSING || forward_takes_no_more(to))
        return -EPIPE;
    if (conn_leaving(loop, from) || conn_leaving(loop, to))
        return -EALREADY;
    const struct forward *forward = forward_part(loop, to);
    if (forward != NULL && forward->from != BERTH_TOKEN_NONE &&
        forward->from != berth_slot_token(from, 0))
        return -EBUSY;
    return 0;
}

int
berth_forward(struct berth_conn *from_conn, struct berth_conn *to_conn, unsigned flags)
{
    struct berth_slot *from = live(from_conn);
    if (from == NULL || flags & ~(BERTH_FORWARD_CLOSE | BERTH_FORWARD_SPLICE))
        return -EINVAL;
    struct berth_loop *loop = slot_loop(from);
    if (to_conn == NULL) {
        forward_unlink(loop, from);
        return 0;
    }
    struct berth_slot *to = live(to_conn);
    if (to == NULL)
        return -EINVAL;
    int error = check_pair(loop, from, to);
    if (error)
        return error;
    error = join(loop, to);
    if (!error)
        error = join(loop, from);
    if (error) {
        part_if_idle(loop, to);
        return error;
    }
    struct forward *forward = slot_cold(loop, from)->forward;
    struct forward *sink = slot_cold(loop, to)->forward;
    if (forward->to != berth_slot_token(to, 0)) {
        unlink_sink(loop, from);
        forward->to = berth_slot_token(to, 0);
        sink->from = berth_slot_token(from, 0);
    }
    forward->pieces = 0;
    forward->flags = flags;
    if (!(flags & BERTH_FORWARD_SPLICE))
        forward_splice_stop(loop, from);
    else if (!forward->spliced) /* not with direct descriptors, or a puller of its own: leases */
        forward->spliced = conn_pull_start(loop, from, &forward_puller, NULL) == 0;
    forward_look_at_queue(loop, from, to,
                          count_pieces(loop, to, pieces_for(loop->options.send_high_bytes)));
    return 0;
}
