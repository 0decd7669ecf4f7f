/*
 * The table in your own kqueue loop: macOS, the BSDs, and libkqueue elsewhere. You keep your loop,
 * your kevent(2) and your handlers; each registration carries a token in place of a pointer, and
 * the events of a batch come back as slots:
 *
 *     n = kevent(set.fd, NULL, 0, events, 256, NULL);
 *     BERTH_KQUEUE_EACH (at, &set, events, n)
 *         handle(at.slot, at.events);
 *
 * On systems with 64-bit pointers udata holds the whole token, so that a timer or a user event may
 * carry a connection's token too, whatever its ident. With 32-bit pointers udata holds the
 * generation and ident, the descriptor, is the index.
 *
 * kqueue forgets a descriptor when it is closed, even if a copy of it lives on: there are no ghosts
 * here, only the leftovers of a batch, and those are dropped. A child of fork(2) has no kqueue: it
 * makes its own.
 *
 * Rules: every descriptor in the set is a slot of the table, and in one set at most (slot->state
 * holds what it waits for). The set and its table belong to one thread. Everything is inline;
 * nothing is allocated. Functions return 0 or -errno.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_ADAPT_KQUEUE_H
#define BERTH_ADAPT_KQUEUE_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/event.h>
#include <sys/time.h>
#include <unistd.h>

#include "berth/table.h"

BERTH_BEGIN_DECLS

/** 1 where udata is too narrow for a token; tests set it to run that way on any system. */
#ifndef BERTH_KQUEUE_NARROW
#define BERTH_KQUEUE_NARROW (UINTPTR_MAX <= 0xffffffffu)
#endif

/** What to wait for (READ, WRITE, EDGE), and what happened (READ, WRITE, EOF, ERROR). */
enum berth_kqueue_event {
    BERTH_KQUEUE_READ = 1,  /**< EVFILT_READ */
    BERTH_KQUEUE_WRITE = 2, /**< EVFILT_WRITE */
    BERTH_KQUEUE_EDGE = 4,  /**< EV_CLEAR: report changes, not states */
    BERTH_KQUEUE_EOF = 8,   /**< EV_EOF: the peer has finished in that direction */
    BERTH_KQUEUE_ERROR = 16 /**< EV_ERROR: cursor.event->data holds the errno */
};

/** A kqueue whose registrations are slots. Caller's storage; read `fd`, leave the rest. */
struct berth_kqueue {
    int fd;                    /**< for kevent(2) */
    struct berth_table *table; /**< must outlive the set */
};

/** Where a walk over a batch of events is. Made by BERTH_KQUEUE_EACH; lives on your stack. */
struct berth_kqueue_cursor {
    struct berth_slot *slot; /**< of the current event; valid until something may have closed it */
    const struct kevent *event; /**< the current event itself: data, fflags */
    unsigned events;            /**< enum berth_kqueue_event */
    berth_token token;          /**< the current event's token: keep this one, not the slot */
    struct berth_kqueue *set;
    const struct kevent *batch;
    int count;
    int next;
};

/* ---- the set -------------------------------------------------------------------------------- */

/**
 * Makes a set over `table`, which must be in descriptor mode. Undo with berth_kqueue_fini.
 * Returns 0; -EINVAL: NULL, or another index mode; -EMFILE, -ENFILE, -ENOMEM: as kqueue(2).
 * Since 0.1.
 */
BERTH_NODISCARD BERTH_INLINE int
berth_kqueue_init(struct berth_kqueue *set, struct berth_table *table)
{
    if (set == NULL)
        return -EINVAL;
    set->fd = -1;
    set->table = table;
    if (table == NULL || table->hot == NULL || table->index_mode != BERTH_INDEX_FD)
        return -EINVAL;
    set->fd = kqueue();
    if (set->fd < 0)
        return -errno;
    (void)fcntl(set->fd, F_SETFD, FD_CLOEXEC);
    return 0;
}

/**
 * Closes the set. Slots and their descriptors stay as they are, but count as registered: clear
 * slot->state of those you mean to put into another set. A second call does nothing. Since 0.1.
 */
BERTH_INLINE void
berth_kqueue_fini(struct berth_kqueue *set)
{
    if (set->fd >= 0)
        (void)close(set->fd);
    set->fd = -1;
}

/** Not for direct use: one change of one filter, ready for kevent(2). */
BERTH_INLINE void
berth_kqueue_change(struct kevent *change, const struct berth_slot *slot, int filter,
                    unsigned flags)
{
    const berth_token token = berth_slot_token(slot, 0);
    const uintptr_t udata =
        BERTH_KQUEUE_NARROW ? (uintptr_t)berth_token_generation(token) : (uintptr_t)token;
    /* By hand rather than with EV_SET: udata is a pointer on most systems, an integer on others. */
    const struct kevent none = {0, 0, 0, 0, 0, 0};
    *change = none;
    change->ident = (uintptr_t)berth_slot_fd(slot);
    change->filter = (__typeof__(change->filter))filter;
    change->flags = (__typeof__(change->flags))flags;
    change->udata = (__typeof__(change->udata))udata;
}

/** Not for direct use: from what the slot waits for now to `interest`, with one kevent(2). */
BERTH_OUTLINE int
berth_kqueue_apply(struct berth_kqueue *set, struct berth_slot *slot, unsigned interest)
{
    static const int filters[2] = {EVFILT_READ, EVFILT_WRITE};
    struct kevent changes[4];
    int count = 0;
    /* What EV_ADD does to the flags of an existing filter differs: a new mode is a new filter. */
    const unsigned kept = (slot->state ^ interest) & BERTH_KQUEUE_EDGE ? 0 : slot->state & interest;
    const unsigned edge = interest & BERTH_KQUEUE_EDGE ? EV_CLEAR : 0;
    for (unsigned i = 0; i < 2; i++) {
        const unsigned bit = 1u << i;
        if ((slot->state & bit) && !(kept & bit))
            berth_kqueue_change(&changes[count++], slot, filters[i], EV_DELETE);
        if ((interest & bit) && !(kept & bit))
            berth_kqueue_change(&changes[count++], slot, filters[i], EV_ADD | edge);
    }
    if (count > 0 && kevent(set->fd, changes, count, NULL, 0, NULL) < 0) {
        const int error = -errno;
        for (unsigned i = 0; i < 2; i++) { /* half done is worse than not done */
            berth_kqueue_change(&changes[0], slot, filters[i], EV_DELETE);
            (void)kevent(set->fd, changes, 1, NULL, 0, NULL);
        }
        slot->state = 0;
        return error;
    }
    slot->state = interest & (BERTH_KQUEUE_READ | BERTH_KQUEUE_WRITE) ? interest : 0;
    return 0;
}

/** Not for direct use: 0 if `slot` can be registered with `set` for `interest`, or -errno. */
BERTH_INLINE int
berth_kqueue_refuses(const struct berth_kqueue *set, const struct berth_slot *slot,
                     unsigned interest)
{
    const unsigned known = BERTH_KQUEUE_READ | BERTH_KQUEUE_WRITE | BERTH_KQUEUE_EDGE;
    if (set == NULL || slot == NULL || (interest & ~known) != 0)
        return -EINVAL;
    return slot->flags & BERTH_SLOT_LIVE ? 0 : -ESTALE;
}

/**
 * Registers the slot's descriptor for `interest`: READ, WRITE or both, and EDGE if so wanted.
 * Returns 0; -EINVAL: NULL, or no such interest; -ESTALE: the slot is not live; -EEXIST: it is
 * registered already; -EBADF, -ENOMEM ...: as kevent(2), and it is not registered. Since 0.1.
 */
BERTH_INLINE int
berth_kqueue_add(struct berth_kqueue *set, struct berth_slot *slot, unsigned interest)
{
    const int error = berth_kqueue_refuses(set, slot, interest);
    if (error != 0)
        return error;
    if (!(interest & (BERTH_KQUEUE_READ | BERTH_KQUEUE_WRITE)))
        return -EINVAL;
    return slot->state != 0 ? -EEXIST : berth_kqueue_apply(set, slot, interest);
}

/**
 * Changes what the slot waits for; 0 means nothing. No system call if nothing changes. Returns as
 * berth_kqueue_add, but does not mind a slot that was not registered. Since 0.1.
 */
BERTH_INLINE int
berth_kqueue_modify(struct berth_kqueue *set, struct berth_slot *slot, unsigned interest)
{
    const int error = berth_kqueue_refuses(set, slot, interest);
    if (error != 0)
        return error;
    return slot->state == interest ? 0 : berth_kqueue_apply(set, slot, interest);
}

/** Takes the slot's descriptor out of the set. Returns 0; -EINVAL; -ESTALE. Since 0.1. */
BERTH_INLINE int
berth_kqueue_remove(struct berth_kqueue *set, struct berth_slot *slot)
{
    const int error = berth_kqueue_refuses(set, slot, 0);
    if (error == 0 && slot->state != 0)
        (void)berth_kqueue_apply(set, slot, 0); /* a failure means it is out already */
    return error;
}

/**
 * Closes a connection in the one right order: release, so that its tokens are stale; close(2) last,
 * which takes it out of the set and frees the number for the next connection, both at once.
 *
 * Returns 0; -EINVAL: NULL; -ESTALE: the slot is not live; -EBUSY: operations are in flight, and
 * nothing was closed or changed; -EBADF: it is all done, but somebody had closed the descriptor
 * behind the table's back. One system call. Since 0.1.
 */
BERTH_INLINE int
berth_kqueue_close(struct berth_kqueue *set, struct berth_slot *slot)
{
    int error = berth_kqueue_refuses(set, slot, 0);
    if (error != 0)
        return error;
    const int fd = berth_slot_fd(slot);
    error = berth_table_release(set->table, berth_slot_token(slot, 0));
    if (error != 0)
        return error;
    return close(fd) < 0 && errno == EBADF ? -EBADF : 0;
}

/* ---- a batch of events ---------------------------------------------------------------------- */

/** The token that an event carries. Since 0.1. */
BERTH_INLINE berth_token
berth_kqueue_token(const struct kevent *event)
{
    if (!BERTH_KQUEUE_NARROW)
        return (berth_token)(uintptr_t)event->udata;
    if (event->ident >= BERTH_TOKEN_SLOTS_MAX)
        return BERTH_TOKEN_NONE;
    return berth_token_make((uint32_t)event->ident, (uint32_t)(uintptr_t)event->udata, 0);
}

/** What happened, as bits of enum berth_kqueue_event. Since 0.1. */
BERTH_INLINE unsigned
berth_kqueue_events(const struct kevent *event)
{
    unsigned events = 0;
    if (event->filter == EVFILT_READ)
        events |= BERTH_KQUEUE_READ;
    else if (event->filter == EVFILT_WRITE)
        events |= BERTH_KQUEUE_WRITE;
    if (event->flags & EV_EOF)
        events |= BERTH_KQUEUE_EOF;
    if (event->flags & EV_ERROR)
        events |= BERTH_KQUEUE_ERROR;
    return events;
}

/** Starts a walk over `count` events (0 or less: none) and the fetching of the first slots. */
BERTH_INLINE struct berth_kqueue_cursor
berth_kqueue_cursor_make(struct berth_kqueue *set, const struct kevent *batch, int count)
{
    struct berth_kqueue_cursor cursor;
    cursor.slot = NULL;
    cursor.event = NULL;
    cursor.events = 0;
    cursor.token = BERTH_TOKEN_NONE;
    cursor.set = set;
    cursor.batch = batch;
    cursor.count = count;
    cursor.next = 0;
    for (int i = 0; i < count && i < BERTH_TABLE_AHEAD; i++)
        berth_table_prefetch(set->table, berth_kqueue_token(&batch[i]));
    return cursor;
}

/** Moves to the next event whose connection is still there. Returns 0 at the end. */
BERTH_INLINE int
berth_kqueue_next(struct berth_kqueue_cursor *cursor)
{
    while (cursor->next < cursor->count) {
        const int ahead = cursor->next + BERTH_TABLE_AHEAD;
        if (ahead < cursor->count)
            berth_table_prefetch(cursor->set->table, berth_kqueue_token(&cursor->batch[ahead]));
        cursor->event = &cursor->batch[cursor->next++];
        cursor->token = berth_kqueue_token(cursor->event);
        cursor->slot = berth_table_find(cursor->set->table, cursor->token);
        if (BERTH_LIKELY(cursor->slot != NULL)) {
            cursor->events = berth_kqueue_events(cursor->event);
            return 1;
        }
    }
    return 0;
}

/**
 * Runs the following statement for each of the `count` events that kevent(2) wrote to `batch`, in
 * order, skipping those whose connection is gone: `cursor` names a struct berth_kqueue_cursor that
 * the macro declares, with slot, events, event and token in it. Inside, anything may be claimed,
 * closed or changed; a handler may call kevent(2) itself, with another array.
 */
#define BERTH_KQUEUE_EACH(cursor, set, batch, count)                                               \
    for (struct berth_kqueue_cursor cursor = berth_kqueue_cursor_make((set), (batch), (count));    \
         berth_kqueue_next(&cursor);)

/**
 * The slot of the current event if its connection is still the same one, otherwise NULL. Ask after
 * every callback that may have closed it. Since 0.1.
 */
BERTH_INLINE struct berth_slot *
berth_kqueue_alive(struct berth_kqueue_cursor *cursor)
{
    cursor->slot = berth_table_find(cursor->set->table, cursor->token);
    return cursor->slot;
}

BERTH_END_DECLS

#endif
