/*
 * The table on your own io_uring. You keep your ring, your submissions and your handlers; each
 * submission carries a token (and what kind of operation it is) in user_data, and completions come
 * back as slots:
 *
 *     io_uring_prep_recv(sqe, fd, buffer, size, 0);
 *     berth_uring_set(sqe, slot, OP_RECV);
 *     ...
 *     BERTH_URING_EACH (at, &ring, &table)
 *         handle(at.slot, at.op, at.res, at.flags);
 *
 * The kernel holds a connection's operations long after the program has lost interest in it, and a
 * descriptor closed meanwhile would hand them to its successor. So operations are counted: one is
 * in flight from berth_uring_set until its last completion, the one without IORING_CQE_F_MORE, and
 * a slot with operations in flight is never released. berth_uring_close sees to the order.
 *
 * Works with descriptors (BERTH_INDEX_FD) and with direct descriptors (BERTH_INDEX_DIRECT) alike.
 * The ring and its table belong to one thread. Do not set IOSQE_CQE_SKIP_SUCCESS: an operation that
 * ends in silence stays in flight for ever. Everything is inline; nothing is allocated. Functions
 * return 0 or -errno.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_ADAPT_IO_URING_H
#define BERTH_ADAPT_IO_URING_H

#include <liburing.h>

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "berth/table.h"

BERTH_BEGIN_DECLS

/** The operation of the completion that berth_uring_close's own request brings; ignore it. */
#define BERTH_URING_OP_CANCEL 0xff

/** In slot->state, while closing: everything of the descriptor has been asked to stop. */
#define BERTH_URING_CANCELLED 1u

/** A walk over completions, and the current one. Made by BERTH_URING_EACH; lives on your stack. */
struct berth_uring_cursor {
    struct berth_slot *slot; /**< whose it is; valid until something may have closed it */
    berth_token token;       /**< user_data: keep this one, not the slot */
    int res;                 /**< of the completion: bytes, or -errno */
    unsigned flags;          /**< of the completion: IORING_CQE_F_... */
    uint8_t op;              /**< what you gave to berth_uring_set */
    struct io_uring *ring;
    struct berth_table *table;
    unsigned left;
};

/* ---- submitting ----------------------------------------------------------------------------- */

/**
 * Marks a prepared submission as the operation `op` (yours, not BERTH_URING_OP_CANCEL) of `slot`,
 * and counts it as in flight. Call it last, after io_uring_prep_*: and always, because a submission
 * entry keeps the user_data of whoever had it before.
 *
 * Returns 0; -EINVAL: NULL; -ESTALE: the slot is not live; -EOVERFLOW: 65,535 operations are in
 * flight. In the last two cases the entry is made a no-op with user_data 0, whose completion is
 * dropped (and counted as malformed). Since 0.1.
 */
BERTH_INLINE int
berth_uring_set(struct io_uring_sqe *sqe, struct berth_slot *slot, uint8_t op)
{
    if (sqe == NULL || slot == NULL)
        return -EINVAL;
    const int error = slot->flags & BERTH_SLOT_LIVE ? berth_slot_begin(slot) : -ESTALE;
    if (error != 0)
        io_uring_prep_nop(sqe);
    sqe->user_data = error != 0 ? BERTH_TOKEN_NONE : berth_slot_token(slot, op);
    return error;
}

/* ---- completing ----------------------------------------------------------------------------- */

/**
 * The slot that a completion belongs to, its operation counted as over if this was the last of it;
 * NULL if user_data is no token of a live slot. For a loop of your own over completions, one in
 * which other user_data occurs besides tokens; call it once per completion. Since 0.1.
 */
BERTH_INLINE struct berth_slot *
berth_uring_resolve(struct berth_table *table, berth_token token, unsigned flags)
{
    struct berth_slot *slot = berth_table_find(table, token);
    if (BERTH_LIKELY(slot != NULL) && !(flags & IORING_CQE_F_MORE))
        (void)berth_slot_end(slot);
    return slot;
}

/** Not for direct use: the completion that is `ahead` behind the queue's head. */
BERTH_INLINE const struct io_uring_cqe *
berth_uring_peek(const struct io_uring *ring, unsigned ahead)
{
    const unsigned position = *ring->cq.khead + ahead;
    return &ring->cq.cqes[io_uring_cqe_index(ring, position, ring->cq.ring_mask)];
}

/** Starts a walk over the completions that are there now, and the fetching of the first slots. */
BERTH_INLINE struct berth_uring_cursor
berth_uring_cursor_make(struct io_uring *ring, struct berth_table *table)
{
    struct berth_uring_cursor cursor;
    cursor.slot = NULL;
    cursor.token = BERTH_TOKEN_NONE;
    cursor.res = 0;
    cursor.flags = 0;
    cursor.op = 0;
    cursor.ring = ring;
    cursor.table = table;
    cursor.left = io_uring_cq_ready(ring);
    for (unsigned i = 0; i < cursor.left && i < BERTH_TABLE_AHEAD; i++)
        berth_table_prefetch(table, berth_uring_peek(ring, i)->user_data);
    return cursor;
}

/**
 * Moves to the next completion of a live slot. Returns 0 at the end.
 * Each completion is copied out and given back to the kernel before it is handled, one plain store:
 * so leaving the walk early loses none and repeats none, and a handler may walk over the rest
 * itself.
 */
BERTH_INLINE int
berth_uring_next(struct berth_uring_cursor *cursor)
{
    struct io_uring *ring = cursor->ring;
    while (cursor->left > 0) {
        const unsigned ready = io_uring_cq_ready(ring);
        if (ready == 0)
            return 0; /* a handler has taken them */
        if (ready > BERTH_TABLE_AHEAD)
            berth_table_prefetch(cursor->table,
                                 berth_uring_peek(ring, BERTH_TABLE_AHEAD)->user_data);
        const struct io_uring_cqe *cqe = berth_uring_peek(ring, 0);
        cursor->token = cqe->user_data;
        cursor->res = cqe->res;
        cursor->flags = cqe->flags;
        cursor->op = berth_token_op(cursor->token);
        cursor->left--;
        io_uring_cq_advance(ring, 1);
        cursor->slot = berth_uring_resolve(cursor->table, cursor->token, cursor->flags);
        if (BERTH_LIKELY(cursor->slot != NULL))
            return 1;
    }
    return 0;
}

/**
 * Runs the following statement for each completion that is in the queue when the walk begins (those
 * that come meanwhile are for the next one), dropping what belongs to no live slot: user_data 0,
 * and anything else that is not one of the table's tokens. `cursor` names a struct
 * berth_uring_cursor that the macro declares, with slot, op, res, flags and token in it. Inside,
 * `break` is allowed, and so are submitting, claiming and closing.
 */
#define BERTH_URING_EACH(cursor, ring, table)                                                      \
    for (struct berth_uring_cursor cursor = berth_uring_cursor_make((ring), (table));              \
         berth_uring_next(&cursor);)

/**
 * The slot of the current completion if its connection is still the same one, otherwise NULL. Ask
 * after every callback that may have closed it. Since 0.1.
 */
BERTH_INLINE struct berth_slot *
berth_uring_alive(struct berth_uring_cursor *cursor)
{
    cursor->slot = berth_table_find(cursor->table, cursor->token);
    return cursor->slot;
}

/* ---- closing -------------------------------------------------------------------------------- */

/** Not for direct use: asks the kernel to stop every operation on the slot's descriptor. */
BERTH_OUTLINE int
berth_uring_cancel(struct io_uring *ring, const struct berth_table *table, struct berth_slot *slot)
{
    const int direct = table->index_mode == BERTH_INDEX_DIRECT;
    if (!direct)
        (void)shutdown(berth_slot_fd(slot), SHUT_RDWR); /* ends what a cancel cannot reach */
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    if (sqe == NULL && io_uring_submit(ring) >= 0)
        sqe = io_uring_get_sqe(ring);
    if (sqe == NULL)
        return -EAGAIN;
    io_uring_prep_cancel_fd(sqe, berth_slot_fd(slot),
                            IORING_ASYNC_CANCEL_ALL | (direct ? IORING_ASYNC_CANCEL_FD_FIXED : 0u));
    const int error = berth_uring_set(sqe, slot, BERTH_URING_OP_CANCEL);
    if (error != 0)
        return -EAGAIN;
    slot->state |= BERTH_URING_CANCELLED;
    return 0;
}

/**
 * Closes a connection in the one right order: CLOSING is set; the socket is shut down and
 * everything on it cancelled; when the last completion has come the slot is released; the
 * descriptor is closed last. A queued cancel goes out with your next io_uring_submit.
 *
 * @return 0: closed. -EINPROGRESS: completions are still to come. They are delivered as always, for
 *         the buffers in them; call this again for each (until then the slot is live and CLOSING):
 *             if (at.slot->flags & BERTH_SLOT_CLOSING) {
 *                 give_back_buffer(at.flags);
 *                 berth_uring_close(&ring, &table, at.slot);
 *                 continue;
 *             }
 *         -EAGAIN: as -EINPROGRESS, but there was no room to submit the cancel: submit and call
 *         again. -EINVAL: NULL, or the table is in slot mode. -ESTALE: the slot is not live.
 *         -EBADF: all done, but somebody had closed the descriptor behind the table's back.
 *
 * Do not start operations on a CLOSING slot. Since 0.1.
 */
BERTH_INLINE int
berth_uring_close(struct io_uring *ring, struct berth_table *table, struct berth_slot *slot)
{
    if (ring == NULL || table == NULL || slot == NULL || table->index_mode == BERTH_INDEX_SLOT)
        return -EINVAL;
    if (!(slot->flags & BERTH_SLOT_LIVE))
        return -ESTALE;
    if (!(slot->flags & BERTH_SLOT_CLOSING)) {
        slot->flags |= BERTH_SLOT_CLOSING;
        slot->state = 0;
    }
    if (slot->in_flight != 0) {
        const int error =
            slot->state & BERTH_URING_CANCELLED ? 0 : berth_uring_cancel(ring, table, slot);
        return error != 0 ? error : -EINPROGRESS;
    }
    int fd = berth_slot_fd(slot);
    const int error = berth_table_release(table, berth_slot_token(slot, 0));
    if (error != 0)
        return error;
    if (table->index_mode == BERTH_INDEX_FD)
        return close(fd) < 0 && errno == EBADF ? -EBADF : 0;
    int nothing = -1;
    const int updated = io_uring_register_files_update(ring, (unsigned)fd, &nothing, 1);
    return updated < 0 ? updated : 0;
}

BERTH_END_DECLS

#endif
