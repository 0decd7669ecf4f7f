/*
 * Connections that leave their loop without being closed: for the caller, or for another loop.
 *
 * Leaving is being out of credit: what is posted is withdrawn, what comes nevertheless is
 * delivered, sending goes on. It is let go when the kernel has nothing of the connection any more;
 * it stays if the peer does not acknowledge what the kernel reads in place. What arrives in the
 * other loop comes through its mailbox.
 *
 * The invariant: whoever asked for it is told exactly once, and the descriptor has one owner.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#include "loop/cross.h"

#include <stdlib.h>

#include "loop/forward.h"
#include "loop/pull.h"
#include "os/sys.h"

/* ---- detaching ------------------------------------------------------------------------------ */

int
berth_conn_detach(struct berth_conn *conn, berth_detached_fn detached, void *arg)
{
    struct berth_slot *slot = as_slot(conn);
    if (slot == NULL || detached == NULL || !(slot->flags & BERTH_SLOT_LIVE) ||
        slot_kind(slot) != KIND_CONN)
        return -EINVAL;
    if (slot->state & (CONN_CLOSE_WANTED | CONN_FAILED) || slot->flags & BERTH_SLOT_CLOSING)
        return -EPIPE;
    if (slot->state & CONN_CONNECTING)
        return -ENOTCONN;
    struct berth_loop *loop = slot_loop(slot);
    if (conn_leaving(loop, slot))
        return -EALREADY;
    forward_leave(loop, slot);
    struct conn_cold *cold = slot_cold(loop, slot);
    cold->detached = detached;
    cold->detached_arg = arg;
    if (!(slot->state & CONN_CREDIT))
        cold->credit = UINT64_MAX; /* it may have to stay: conn_may_receive knows */
    slot->state |= CONN_CREDIT;
    conn_todo(loop, slot);
    return 0;
}

static int
handover_prepare(struct berth_loop *loop, struct berth_slot *slot)
{
    const int fd =
        loop->direct ? loop->engine->direct_install(loop, (int)slot->index) : berth_slot_fd(slot);
    slot_cold(loop, slot)->leaving_fd = fd;
    return fd;
}

/** It cannot leave: the kernel still reads memory of this loop for it. */
static void
stay(struct berth_loop *loop, struct berth_slot *slot, int error)
{
    struct conn_cold *cold = slot_cold(loop, slot);
    const berth_detached_fn detached = cold->detached;
    cold->detached = NULL;
    if (cold->credit > UINT64_MAX / 2) { /* whatever was delivered meanwhile, it had no limit */
        cold->credit = BERTH_CREDIT_UNLIMITED;
        if (!conn_held(loop, slot))
            slot->state &= ~(uint32_t)CONN_CREDIT;
    }
    if (conn_may_receive(loop, slot))
        timeouts_receive_resumed(loop, slot);
    conn_todo(loop, slot);
    detached(as_conn(slot), error, cold->detached_arg);
}

void
handover_check(struct berth_loop *loop, struct berth_slot *slot)
{
    const uint32_t busy = CONN_RECEIVING | CONN_SENDING;
    if (slot->buffer != 0 || !conn_leaving(loop, slot) ||
        (slot->state & (CONN_OPENED | busy)) != CONN_OPENED ||
        (slot->state & (CONN_SHUT_WANTED | CONN_SHUT_DONE)) == CONN_SHUT_WANTED)
        return;
    if (slot->in_flight != 0) {
        if (zerocopy_leaving(loop, slot))
            stay(loop, slot, -ETIMEDOUT);
        return;
    }
    const int error = pull_error(loop, slot);
    if (error) { /* the socket does not know of it any more: its next owner would see a good end */
        conn_failed(loop, slot, error);
        return;
    }
    const int fd = handover_prepare(loop, slot);
    if (fd == -EAGAIN) /* the kernel takes nothing just now */
        conn_todo(loop, slot);
    else if (fd < 0)
        conn_failed(loop, slot, fd);
    else
        slot->flags |= BERTH_SLOT_CLOSING;
}

static void depart(struct berth_conn *conn, int fd, void *arg);

void
handover_tell(struct berth_loop *loop, struct berth_slot *slot, int fd)
{
    struct conn_cold *cold = slot_cold(loop, slot);
    const berth_detached_fn detached = cold->detached;
    cold->detached = NULL;
    /* A loop does without O_NONBLOCK, but what has sent a file may have it. */
    const int wanted = cold->was_nonblocking && detached != depart;
    if (fd >= 0 && wanted != cold->made_nonblocking) {
        (void)sys_set_nonblocking(fd, wanted);
        loop->stats.syscalls++;
    }
    detached(as_conn(slot), fd, cold->detached_arg);
}

/* ---- moving --------------------------------------------------------------------------------- */

/** A connection between two loops. */
struct move {
    struct berth_post post;
    struct berth_loop *to;
    const struct berth_handlers *handlers;
    void *ctx;
    berth_moved_fn moved;
    int fd;
    uint32_t shut;                 /**< CONN_SHUT_DONE, or 0 */
    uint8_t was_nonblocking;       /**< it gets that back when it leaves for good */
    struct conn_zerocopy zerocopy; /**< the kernel goes on counting, and so must the loop */
    unsigned char payload[BERTH_CONN_PAYLOAD_BYTES];
    uint32_t cold_bytes;
    unsigned char cold[];
};

/** What the user keeps with a connection: nothing that was sent or received, so not for the ledger.
 */
static void
copy_state(void *to, const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)to)[i] = ((const unsigned char *)from)[i];
}

/** The end of it: tells, and frees. A descriptor that nobody took is closed. */
static void
end_move(struct move *move, struct berth_loop *to, berth_token token, int error)
{
    if (error && move->fd >= 0)
        (void)sys_close(move->fd);
    if (move->moved != NULL)
        move->moved(to, token, error, move->ctx);
    free(move);
}

static void
arrive(struct berth_loop *loop, void *arg)
{
    struct move *move = (struct move *)arg;
    if (loop == NULL) {
        end_move(move, NULL, BERTH_TOKEN_NONE, -ECANCELED);
        return;
    }
    struct berth_slot *slot = NULL;
    const int error = loop->drain.state == DRAIN_OVER
                          ? -ESHUTDOWN
                          : conn_create_own(loop, move->fd, CONN_OPEN_DUE | move->shut,
                                            move->handlers, move->ctx, &slot);
    if (error) {
        loop->stats.refused_limit++;
        loop->stats.syscalls++;
        end_move(move, loop, BERTH_TOKEN_NONE, error);
        return;
    }
    descriptor_drop(loop, slot); /* a loop with direct descriptors has its own now */
    copy_state(berth_slot_payload(slot), move->payload, sizeof(move->payload));
    copy_state(slot_cold(loop, slot) + 1, move->cold, move->cold_bytes);
    slot_cold(loop, slot)->was_nonblocking = move->was_nonblocking;
    slot_cold(loop, slot)->zerocopy = move->zerocopy;
    loop->stats.adopted++;
    conn_todo(loop, slot);
    end_move(move, loop, berth_slot_token(slot, 0), 0);
}

static void
depart(struct berth_conn *conn, int fd, void *arg)
{
    struct move *move = (struct move *)arg;
    struct berth_slot *slot = as_slot(conn);
    if (fd < 0) {
        end_move(move, NULL, BERTH_TOKEN_NONE, fd);
        return;
    }
    move->fd = fd;
    move->shut = slot->state & CONN_SHUT_DONE;
    move->was_nonblocking = slot_cold(slot_loop(slot), slot)->was_nonblocking;
    move->zerocopy = slot_cold(slot_loop(slot), slot)->zerocopy;
    BERTH_ASSERT(move->zerocopy.sends == NULL);
    copy_state(move->payload, berth_slot_payload(slot), sizeof(move->payload));
    copy_state(move->cold, slot_cold(slot_loop(slot), slot) + 1, move->cold_bytes);
    move->post = (struct berth_post){.fn = arrive, .arg = move};
    const int error = berth_loop_post_node(move->to, &move->post);
    if (error)
        end_move(move, NULL, BERTH_TOKEN_NONE, error);
}

int
berth_conn_move(struct berth_conn *conn, struct berth_loop *to,
                const struct berth_handlers *handlers, void *ctx, berth_moved_fn moved)
{
    const struct berth_loop *from = berth_conn_loop(conn);
    if (from == NULL || to == NULL || handlers == NULL)
        return -EINVAL;
    /* Nothing of `to` that is looked at here changes after it was made, in whatever thread. */
    if (!from->direct && !to->direct &&
        (uint32_t)berth_conn_fd(conn) >= berth_table_slots_max(to->table))
        return -EMFILE;
    const uint32_t cold_bytes = from->options.cold_bytes < to->options.cold_bytes
                                    ? from->options.cold_bytes
                                    : to->options.cold_bytes;
    struct move *move = (struct move *)malloc(sizeof(*move) + cold_bytes);
    if (move == NULL)
        return -ENOMEM;
    move->to = to;
    move->handlers = handlers;
    move->ctx = ctx;
    move->moved = moved;
    move->fd = -1;
    move->cold_bytes = cold_bytes;
    const int error = berth_conn_detach(conn, depart, move);
    if (error)
        free(move);
    return error;
}
