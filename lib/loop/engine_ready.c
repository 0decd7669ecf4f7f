/*
 * The readiness engine: the loop's completion contract over any poller. A posted receive is
 * completed by reading into a pool buffer when, and only when, the poller says there is something;
 * so an idle connection holds no buffer here either.
 *
 * Descriptors stay blocking; every operation says for itself that it must not wait. The kernel
 * never holds an operation of ours, so closing needs no waiting but for what is read in place,
 * which is all that the in-flight count counts.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#include "loop/loop_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loop/engine_ready.h"
#include "loop/send.h"
#include "os/sys.h"

BERTH_STATIC_ASSERT(OP_READY == POLLER_TOKEN_OP, "pollers make the same tokens");

/** Leases sent by one system call. */
#define SEND_IOVECS_MAX 64

/** Newcomers accepted per event: the others must have their turn too. */
#define ACCEPTS_PER_EVENT_MAX 64

/* ---- interest ------------------------------------------------------------------------------- */

static uint32_t
interest_of(const struct berth_slot *slot)
{
    return (slot->state & CONN_RECEIVING || slot_kind(slot) == KIND_WAKE ? POLLER_READABLE : 0u) |
           (slot->state & CONN_WRITABLE ? POLLER_WRITABLE : 0u) |
           (slot_kind(slot) == KIND_CONN ? POLLER_EDGE : 0u);
}

/** For a poller that has to build its set anew. */
static uint32_t
interest_by_index(void *context, uint32_t index)
{
    const struct berth_loop *loop = (const struct berth_loop *)context;
    const struct berth_slot *slot = berth_table_slot(loop->table, index);
    return slot->state & CONN_WATCHED ? interest_of(slot) | POLLER_FAILED : 0;
}

/** Tells the poller what the bits of the slot say. */
int
ready_update_interest(struct berth_loop *loop, struct berth_slot *slot)
{
    struct poller *poller = ready_state(loop)->poller;
    const berth_token token = berth_slot_token(slot, OP_READY);
    const int fd = berth_slot_fd(slot);
    int error;
    if (slot->state & CONN_WATCHED) {
        error = poller->interface->modify(poller, fd, token, interest_of(slot));
    } else {
        error = poller->interface->add(poller, fd, token, interest_of(slot));
        if (error == 0)
            slot->state |= CONN_WATCHED;
    }
    return error;
}

/**
 * A hung-up connection that nobody reads from would be reported for ever: it is taken out of the
 * set until somebody wants to receive or send again.
 */
static void
park(struct berth_loop *loop, struct berth_slot *slot)
{
    struct poller *poller = ready_state(loop)->poller;
    if (slot->state & CONN_WATCHED)
        poller->interface->remove(poller, berth_slot_fd(slot));
    slot->state &= ~(uint32_t)(CONN_WATCHED | CONN_RECEIVING | CONN_WRITABLE);
}

int
ready_receive_start(struct berth_loop *loop, struct berth_slot *slot)
{
    slot->state |= CONN_RECEIVING;
    return ready_update_interest(loop, slot);
}

void
ready_receive_stop(struct berth_loop *loop, struct berth_slot *slot)
{
    slot->state &= ~(uint32_t)CONN_RECEIVING;
    (void)ready_update_interest(loop, slot);
}

/* ---- sending -------------------------------------------------------------------------------- */

static intptr_t
send_many(struct berth_loop *loop, struct berth_slot *slot, size_t *asked)
{
    struct iovec iov[SEND_IOVECS_MAX];
    struct msghdr message;
    memset(&message, 0, sizeof(message));
    message.msg_iov = iov;
    message.msg_iovlen = send_gather(loop, slot, iov, SEND_IOVECS_MAX, asked);
    return sys_sendmsg(berth_slot_fd(slot), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/** The kernel has its own copy when the call returns: nothing is in flight here. */
static intptr_t
send_some(struct berth_loop *loop, struct berth_slot *slot, size_t *asked)
{
    const struct send_node *head = queue_head(loop, slot);
    loop->stats.syscalls++;
    if (BERTH_UNLIKELY(head->next != 0))
        return send_many(loop, slot, asked);
    *asked = head->lease.length;
    return sys_send(berth_slot_fd(slot), send_node_data(loop, head), head->lease.length,
                    MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void
wait_writable(struct berth_loop *loop, struct berth_slot *slot)
{
    slot->state |= CONN_SENDING | CONN_WRITABLE;
    const int error = ready_update_interest(loop, slot);
    if (error)
        conn_failed(loop, slot, error);
}

/** Sends until the queue is empty or the kernel is full; then waits to be told that it is not. */
static void
ready_send(struct berth_loop *loop, struct berth_slot *slot)
{
    while (slot->buffer != 0) {
        size_t asked;
        intptr_t sent;
        if (BERTH_UNLIKELY(send_file_is_next(loop, slot))) {
            const enum send_file_result result = send_file_now(loop, slot);
            if (result == SEND_FILE_MORE)
                continue;
            if (result == SEND_FILE_FULL)
                wait_writable(loop, slot);
            return;
        }
        const int in_place = BERTH_UNLIKELY(queue_head(loop, slot)->bytes >= loop->zerocopy_from) &&
                             ready_zerocopy_send(loop, slot, &asked, &sent);
        if (BERTH_LIKELY(!in_place))
            sent = send_some(loop, slot, &asked);
        if (BERTH_LIKELY(sent > 0)) {
            if (BERTH_LIKELY(!in_place))
                send_done(loop, slot, (size_t)sent);
            if (sent < (intptr_t)asked)
                loop->stats.sends_short++;
            continue;
        }
        if (sent == -EINTR)
            continue;
        if (sent == -EAGAIN)
            wait_writable(loop, slot);
        else
            conn_failed(loop, slot, (int)sent);
        return;
    }
}

/** The kernel can take more. */
static void
writable(struct berth_loop *loop, struct berth_slot *slot)
{
    slot->state &= ~(uint32_t)(CONN_SENDING | CONN_WRITABLE);
    if (slot->state & CONN_CONNECTING) {
        conn_connected(loop, slot);
        if (!(slot->state & CONN_FAILED))
            (void)ready_update_interest(loop, slot);
        return;
    }
    if (slot->buffer != 0)
        ready_send(loop, slot);
    if (!(slot->state & (CONN_WRITABLE | CONN_FAILED)))
        (void)ready_update_interest(loop, slot);
    slot->state |= CONN_TODO;
}

static int
ready_connect_wait(struct berth_loop *loop, struct berth_slot *slot)
{
    slot->state |= CONN_WRITABLE;
    return ready_update_interest(loop, slot);
}

/* ---- accepting ------------------------------------------------------------------------------ */

static int
ready_accept_start(struct berth_loop *loop, struct berth_slot *slot)
{
    return ready_receive_start(loop, slot);
}

static void
ready_accept_stop(struct berth_loop *loop, struct berth_slot *slot)
{
    ready_receive_stop(loop, slot);
}

static void
accept_some(struct berth_loop *loop, struct berth_slot *listener)
{
    const berth_token token = berth_slot_token(listener, OP_READY);
    if (listener->state & CONN_FAILED)
        return; /* closed before this turn: nobody comes in any more */
    for (unsigned i = 0; i < ACCEPTS_PER_EVENT_MAX; i++) {
        const int fd = (int)sys_accept4(berth_slot_fd(listener), NULL, NULL, SOCK_CLOEXEC);
        loop->stats.syscalls++;
        if (fd < 0) {
            listener_accept_failed(loop, listener, fd);
            return;
        }
        listener_accepted(loop, listener, fd);
        /* open may have closed the listener. */
        if (berth_table_find(loop->table, token) != listener || listener->state & CONN_FAILED)
            return;
    }
}

/* ---- dispatch ------------------------------------------------------------------------------- */

static void
drain_wake(struct berth_loop *loop)
{
    uint64_t count;
    (void)sys_read(loop->wake_fd, &count, sizeof(count));
    loop->stats.syscalls++;
}

/** Error or hang-up while nobody is reading: find out which. */
static void
failed_unread(struct berth_loop *loop, struct berth_slot *slot, uint32_t events)
{
    const int error = descriptor_error(loop, slot);
    if (error)
        conn_failed(loop, slot, error);
    else if (events & POLLER_HUNG_UP || slot->in_flight == 0)
        park(loop, slot); /* else it was news that somebody has read before */
    if (BERTH_UNLIKELY(slot->in_flight > 0))
        zerocopy_watch(loop, slot);
}

/**
 * An error, or news of what is read in place, which looks like one. Returns the events that are
 * left to be seen to.
 */
static uint32_t
read_news(struct berth_loop *loop, struct berth_slot *slot, uint32_t events)
{
    const unsigned count = ready_zerocopy_news(loop, slot);
    if (slot->flags & BERTH_SLOT_CLOSING) {
        if (events & POLLER_HUNG_UP)
            park(loop, slot); /* from now on conn_closing_tick looks for news */
        return 0;
    }
    if (count == 0 || events & POLLER_HUNG_UP)
        return events;
    const int error = descriptor_error(loop, slot);
    if (error)
        conn_failed(loop, slot, error);
    return events & ~(uint32_t)POLLER_FAILED;
}

void
ready_conn_event(struct berth_loop *loop, struct berth_slot *slot, uint32_t events)
{
    /* Others may have left news there, too, which would be reported until somebody reads it. */
    if (BERTH_UNLIKELY(events & POLLER_FAILED) &&
        (slot->in_flight > 0 || !(events & POLLER_HUNG_UP)))
        events = read_news(loop, slot, events);
    if (events & (POLLER_READABLE | POLLER_FINISHED | POLLER_FAILED) &&
        slot->state & CONN_RECEIVING)
        ready_receive(loop, slot, (events & (POLLER_FINISHED | POLLER_FAILED)) != 0);
    else if (events & POLLER_FAILED && !(slot->state & (CONN_WRITABLE | CONN_CONNECTING)))
        failed_unread(loop, slot, events);
    /* Behind the end of the stream a send may fail, and with it what is still to be read. */
    if (events & (POLLER_WRITABLE | POLLER_FAILED) && slot->state & CONN_WRITABLE &&
        !(slot->flags & SLOT_HELD_END))
        writable(loop, slot);
    conn_after_event(loop, slot);
}

static void
dispatch(struct berth_loop *loop, const struct poller_ready *ready)
{
    struct berth_slot *slot = berth_table_find(loop->table, ready->token);
    if (BERTH_UNLIKELY(slot == NULL)) {
        struct poller *poller = ready_state(loop)->poller;
        loop->stats.stale++;
        poller->interface->stale(poller, ready->token);
        return;
    }
    if (BERTH_LIKELY(slot_kind(slot) == KIND_CONN))
        ready_conn_event(loop, slot, ready->events);
    else if (slot_kind(slot) == KIND_DATAGRAM)
        ready_datagram_event(loop, slot, ready->events);
    else if (slot_kind(slot) == KIND_WAKE)
        drain_wake(loop);
    else
        accept_some(loop, slot);
}

static int
ready_turn(struct berth_loop *loop, int timeout_ms)
{
    struct ready_engine *state = ready_state(loop);
    struct poller *poller = state->poller;
    const uint32_t held = state->held;
    struct poller_ready *ready = state->ready + held;
    const int count =
        poller->interface->wait(poller, held > 0 ? 0 : timeout_ms, ready, state->events_max - held);
    loop_has_waited(loop);
    state->alone = count == 1 && held == 0 ? state->alone + 1 : 0;
    const uint64_t before = loop->stats.received_bytes;
    for (int i = 0; i < count; i++) {
        dispatch(loop, &ready[i]);
        if (loop->batch.flush_count >= BATCH_MAX - 1)
            send_batch(loop);
    }
    send_batch(loop);
    bulk_turn_over(&state->bulk, state->company);
    state->company = 0;
    int handled = count;
    if (BERTH_UNLIKELY(state->held > 0)) {
        handled = (count > 0 ? count : 0) - (int)(state->held - held);
        handled += (int)ready_receive_held(loop, loop->stats.received_bytes - before);
    }
    loop->stats.syscalls += poller->syscalls;
    poller->syscalls = 0;
    return handled;
}

/* ---- closing -------------------------------------------------------------------------------- */

static void
ready_cancel(struct berth_loop *loop, struct berth_slot *slot)
{
    if (slot->state & (CONN_RECEIVING | CONN_WRITABLE)) { /* all that is left to hear is news */
        slot->state &= ~(uint32_t)(CONN_RECEIVING | CONN_WRITABLE | CONN_SENDING);
        if (slot->state & CONN_WATCHED)
            (void)ready_update_interest(loop, slot);
    }
    if (zerocopy_holds(loop, slot))
        (void)ready_zerocopy_news(loop, slot);
}

/** Before the descriptor is closed: a duplicate elsewhere would keep the registration alive. */
static void
ready_forget(struct berth_loop *loop, struct berth_slot *slot)
{
    park(loop, slot);
}

/** A poller whose set the kernel keeps has a descriptor that says what a wait would find. */
static int
ready_nest(struct berth_loop *loop)
{
    struct poller *poller = ready_state(loop)->poller;
    return poller->interface->descriptor(poller);
}

static int
ready_rest(struct berth_loop *loop)
{
    return ready_state(loop)->held > 0; /* all others stay ready, and the kernel knows it */
}

/* ---- life ----------------------------------------------------------------------------------- */

static int
ready_create(struct berth_loop *loop, const struct poller_interface *interface, char *why,
             size_t why_size)
{
    const uint32_t events_max = loop->options.events_max;
    struct ready_engine *state =
        (struct ready_engine *)calloc(1, sizeof(*state) + events_max * sizeof(state->ready[0]));
    (void)snprintf(why, why_size, "making the poller failed");
    if (state == NULL)
        return -ENOMEM;
    state->events_max = events_max;
    const int error = interface->create(&state->poller, events_max);
    if (error) {
        free(state);
        return error;
    }
    state->poller->interface = interface;
    state->poller->interest = interest_by_index;
    state->poller->context = loop;
    state->poller->table = loop->table;
    loop->engine_state = state;
#ifdef __linux__
    zerocopy_create(loop, NULL);
#else
    zerocopy_create(loop, "only Linux has MSG_ZEROCOPY");
#endif
    return 0;
}

static int
create_epoll(struct berth_loop *loop, char *why, size_t why_size)
{
#ifdef __linux__
    return ready_create(loop, &berth_poller_epoll, why, why_size);
#else
    (void)loop, (void)why, (void)why_size;
    return -ENOSYS;
#endif
}

static int
create_poll(struct berth_loop *loop, char *why, size_t why_size)
{
    return ready_create(loop, &berth_poller_poll, why, why_size);
}

static void
ready_destroy(struct berth_loop *loop)
{
    struct ready_engine *state = ready_state(loop);
    if (state == NULL)
        return;
    state->poller->interface->destroy(state->poller);
    free(state);
    loop->engine_state = NULL;
}

static int
ready_explain(const struct berth_loop *loop, char *text, size_t size)
{
    return snprintf(text, size,
                    "receive: into a 4 KiB pool buffer when %s says readable; send: at the end of "
                    "each event, up to %d leases per call\n",
                    loop->engine->name, SEND_IOVECS_MAX);
}

#define READY_ENGINE(engine_name, create_function)                                                 \
    {                                                                                              \
        .name = engine_name, .listener_nonblocking = 1, .sends_at_once = 1,                        \
        .create = create_function, .destroy = ready_destroy, .turn = ready_turn,                   \
        .watch = ready_update_interest, .accept_start = ready_accept_start,                        \
        .accept_stop = ready_accept_stop, .receive_start = ready_receive_start,                    \
        .receive_stop = ready_receive_stop, .send = ready_send,                                    \
        .zerocopy_news = ready_zerocopy_news, .connect_wait = ready_connect_wait,                  \
        .cancel = ready_cancel, .forget = ready_forget, .nest = ready_nest, .rest = ready_rest,    \
        .datagram_start = ready_datagram_start, .datagram_send = ready_datagram_send,              \
        .explain = ready_explain                                                                   \
    }

const struct engine berth_engine_epoll = READY_ENGINE("epoll", create_epoll);
const struct engine berth_engine_poll = READY_ENGINE("poll", create_poll);
