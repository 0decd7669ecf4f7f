/*
 * Receiving of the readiness engine: as much as there is, into pool buffers, until a connection has
 * had its share of the turn.
 *
 * The invariant: what is left unread is asked for again, or its event stands among those put by
 * (SLOT_HELD), as the poller may have told of it once and for all.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/engine_ready.h"

#include "loop/mapped.h"
#include "loop/pull.h"
#include "loop/send.h"

/** There is a lot: fewer, bigger reads, as far as the connection's share of the turn goes. */
static enum berth_class
bulk_class(const struct berth_loop *loop, size_t share_left)
{
    for (enum berth_class big = BERTH_CLASS_64K; big > BERTH_CLASS_4K; big--)
        if (berth_class_bytes(big) <= share_left &&
            berth_pool_available(loop->pool, big, BERTH_FOR_NEW) > 0)
            return big;
    return BERTH_CLASS_4K;
}

/** What is there shall be told once more. */
static void
ask_again(struct berth_loop *loop, struct berth_slot *slot)
{
    const int error = ready_update_interest(loop, slot);
    if (error)
        conn_failed(loop, slot, error); /* or it would never be heard of again */
}

/** What a connection may receive in a turn, of those that receive a lot. */
static size_t
bulk_share(const struct berth_loop *loop)
{
    return (size_t)share_of_turn(loop->options.fairness_bytes, ready_state(loop)->alone);
}

/** The same as ready_receive below, by way of the connection's puller. */
static void
pull(struct berth_loop *loop, struct berth_slot *slot, int to_the_end)
{
    const enum pulled pulled = pull_turn(loop, slot, bulk_share(loop), to_the_end);
    if (pulled == PULLED_ENOUGH || slot->state & CONN_STARVED) {
        ready_receive_stop(loop, slot); /* conn_progress starts it again when it may */
        slot->state |= CONN_TODO;
    } else if (pulled == PULLED_SHARE) {
        ask_again(loop, slot);
    }
}

/**
 * There is probably a lot. If others may be there, its event is put by until they have been seen
 * to; another one that comes meanwhile says nothing new. Returns whether that was done.
 */
static int
hold(struct berth_loop *loop, struct berth_slot *slot, int to_the_end)
{
    struct ready_engine *state = ready_state(loop);
    if (state->held_go || (state->bulk.company == 0 && !(slot->flags & SLOT_HELD)))
        return 0;
    if (to_the_end)
        slot->flags |= SLOT_HELD_END;
    if (slot->flags & SLOT_HELD)
        return 1;
    /* In the place of an event that has been seen to: there are never more of them. */
    struct poller_ready *held = &state->ready[state->held++];
    held->token = berth_slot_token(slot, OP_READY);
    slot->flags |= SLOT_HELD;
    return 1;
}

/**
 * Reads until there is no more, or the connection has had its share of the turn. What is left must
 * be asked for again: the poller may have told of it once and for all.
 */
void
ready_receive(struct berth_loop *loop, struct berth_slot *slot, int to_the_end)
{
    size_t share = loop->options.fairness_bytes;
    const int bulk = slot->flags & (SLOT_BULK | SLOT_PULLS);
    enum berth_class size_class = BERTH_UNLIKELY(bulk) ? bulk_class(loop, share) : BERTH_CLASS_4K;
    size_t size = BERTH_UNLIKELY(bulk) ? berth_class_bytes(size_class) : RECEIVE_BYTES;
    size_t total = 0;
    if (BERTH_UNLIKELY(bulk)) {
        if (hold(loop, slot, to_the_end))
            return;
        if (bulk & SLOT_PULLS) {
            pull(loop, slot, to_the_end);
            return;
        }
        slot->flags &= (uint8_t)~SLOT_BULK;
        share = bulk_share(loop);
    } else {
        ready_state(loop)->company = 1;
    }
    for (;;) {
        /* Not even once, if another connection's callback has just closed or paused this one. */
        if (!(slot->state & CONN_RECEIVING) || !conn_may_receive(loop, slot)) {
            ready_receive_stop(loop, slot); /* conn_progress starts it again when it may */
            slot->state |= CONN_TODO;
            break;
        }
        if (total >= share) {
            loop->stats.fairness_stops++;
            ask_again(loop, slot);
            break;
        }
        if (total > 0) {
            size_class = bulk_class(loop, share - total);
            size = berth_class_bytes(size_class);
        }
        /* A read that did not fill its buffer has emptied the socket: no need to ask again, unless
         * it was not asked for as much, or the end of the stream is known to stand behind it. */
        const int may_leave_some = to_the_end || slot->state & CONN_CREDIT;
        const size_t got = receive_now(loop, slot, berth_slot_fd(slot), size_class);
        total += got;
        if (got == 0 || (got < size && !may_leave_some))
            break;
    }
    if (BERTH_UNLIKELY(total >= BULK_BYTES)) {
        slot->flags |= SLOT_BULK;
        if (total >= loop->options.fairness_bytes && slot->state & CONN_RECEIVING &&
            conn_may_receive(loop, slot))
            (void)mapped_consider(loop, slot, total);
    }
    if (slot->state & CONN_STARVED)
        ready_receive_stop(loop, slot); /* it stands in the queue now: no need to be told again */
}

/** Whose event was put by, and is not any more. NULL: it has gone meanwhile. */
static struct berth_slot *
take_held(struct berth_loop *loop, berth_token token, int *to_the_end)
{
    struct berth_slot *slot = berth_table_find(loop->table, token);
    if (slot == NULL)
        return NULL;
    *to_the_end = slot->flags & SLOT_HELD_END;
    slot->flags &= (uint8_t) ~(SLOT_HELD | SLOT_HELD_END);
    return slot;
}

static void
receive_held(struct berth_loop *loop, berth_token token)
{
    int to_the_end;
    struct berth_slot *slot = take_held(loop, token, &to_the_end);
    if (slot != NULL)
        ready_conn_event(loop, slot,
                         POLLER_READABLE | (to_the_end ? POLLER_FINISHED | POLLER_WRITABLE : 0u));
}

/** Gives an event back to the poller, which will tell of it again. */
static void
give_back(struct berth_loop *loop, berth_token token)
{
    int to_the_end;
    struct berth_slot *slot = take_held(loop, token, &to_the_end);
    if (slot == NULL || !(slot->state & CONN_RECEIVING))
        return; /* whoever starts it again asks as well */
    ask_again(loop, slot);
    conn_after_event(loop, slot);
}

unsigned
ready_receive_held(struct berth_loop *loop, uint64_t received)
{
    struct ready_engine *state = ready_state(loop);
    uint32_t gone = 0;
    state->bulk.waiting = state->held;
    bulk_turn_begin(&state->bulk, received, loop->options.fairness_bytes);
    state->held_go = 1;
    while (gone < state->held && bulk_may_go(&state->bulk)) {
        const uint64_t before = loop->stats.received_bytes;
        receive_held(loop, state->ready[gone++].token);
        bulk_went(&state->bulk, loop->stats.received_bytes - before);
        if (loop->batch.flush_count >= BATCH_MAX - 1)
            send_batch(loop);
    }
    send_batch(loop);
    while (state->held - gone > state->events_max / 2)
        give_back(loop, state->ready[--state->held].token); /* there must be room for the others */
    state->held -= gone;
    for (uint32_t i = 0; i < state->held; i++)
        state->ready[i] = state->ready[gone + i];
    state->held_go = 0;
    return gone;
}
