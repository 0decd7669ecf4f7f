/*
 * The table in your own epoll loop. You keep your loop, your epoll_wait(2) and your handlers; each
 * registration carries a token in place of a pointer, and the events of a batch come back as slots:
 *
 *     n = epoll_wait(set.fd, events, 256, -1);
 *     BERTH_EPOLL_EACH (at, &set, events, n)
 *         handle(at.slot, at.events);
 *
 * What that buys: the slots of the events to come are fetched into the cache while this one is
 * being handled; a handler may close any connection, its own included, and no event ever reaches
 * the one that took over the number; a registration that outlives its descriptor cannot spin the
 * loop.
 *
 * Three rules. Every descriptor in the set is a slot of the table (a listener or a timer too: tell
 * them apart by slot->class_id). A slot is in one set at most: slot->state holds its interest mask.
 * The set and its table belong to one thread (or to one view of a shared table).
 *
 * Everything is inline; nothing is allocated. Functions return 0 or -errno.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_ADAPT_EPOLL_H
#define BERTH_ADAPT_EPOLL_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "berth/table.h"

BERTH_BEGIN_DECLS

/** Stale tokens remembered, to know one that comes twice. */
#define BERTH_EPOLL_SUSPECTS 16

/** Ghost events let pass before the set is rebuilt, besides one for each eighth live slot. */
#define BERTH_EPOLL_STRIKES 8

/** An epoll set whose registrations are slots. Caller's storage; read `fd`, leave the rest. */
struct berth_epoll {
    int fd;                    /**< for epoll_wait(2); the number stays the same for life */
    uint32_t strikes;          /**< ghost events since the last rebuild */
    struct berth_table *table; /**< must outlive the set */
    berth_token suspects[BERTH_EPOLL_SUSPECTS];
};

/** Where a walk over a batch of events is. Made by BERTH_EPOLL_EACH; lives on your stack. */
struct berth_epoll_cursor {
    struct berth_slot *slot; /**< of the current event; valid until something may have closed it */
    uint32_t events;         /**< what happened: EPOLLIN, EPOLLOUT, EPOLLHUP ... */
    int fd;                  /**< the current event's descriptor number */
    berth_token token;       /**< the current event's token: keep this one, not the slot */
    struct berth_epoll *set;
    const struct epoll_event *batch;
    int count;
    int next;
    uint64_t released; /**< slots released before this batch was looked at */
    uint64_t stale;    /**< stale events of this batch so far */
};

#ifndef __cplusplus
/* The headers hide this and O_CLOEXEC from strict C; EPOLL_CLOEXEC is O_CLOEXEC by definition. */
int dup3(int from, int to, int flags);
#endif

/* ---- the set -------------------------------------------------------------------------------- */

/**
 * Makes a set over `table`, which must be in descriptor mode. Undo with berth_epoll_fini.
 * Returns 0; -EINVAL: NULL, or another index mode; -EMFILE, -ENFILE, -ENOMEM: as epoll_create1(2).
 * One system call. Since 0.1.
 */
BERTH_NODISCARD BERTH_INLINE int
berth_epoll_init(struct berth_epoll *set, struct berth_table *table)
{
    if (set == NULL)
        return -EINVAL;
    set->fd = -1;
    set->strikes = 0;
    set->table = table;
    for (unsigned i = 0; i < BERTH_EPOLL_SUSPECTS; i++)
        set->suspects[i] = BERTH_TOKEN_NONE;
    if (table == NULL || table->hot == NULL || table->index_mode != BERTH_INDEX_FD)
        return -EINVAL;
    set->fd = epoll_create1(EPOLL_CLOEXEC);
    return set->fd < 0 ? -errno : 0;
}

/**
 * Closes the set. Slots and their descriptors stay as they are, but count as registered: clear
 * slot->state of those you mean to put into another set. A second call does nothing. Since 0.1.
 */
BERTH_INLINE void
berth_epoll_fini(struct berth_epoll *set)
{
    if (set->fd >= 0)
        (void)close(set->fd);
    set->fd = -1;
}

/**
 * The mask as the kernel keeps it: it always reports errors and hang-ups. So the mask of a
 * registered slot is never 0, and 0 in slot->state says "not registered".
 */
BERTH_INLINE uint32_t
berth_epoll_mask(uint32_t events)
{
    return events | (uint32_t)EPOLLERR | (uint32_t)EPOLLHUP;
}

/** Not for direct use: one epoll_ctl(2) with the slot's token. Returns 0 or -errno. */
BERTH_INLINE int
berth_epoll_ctl(int set_fd, int op, const struct berth_slot *slot, uint32_t mask)
{
    struct epoll_event event;
    event.events = mask;
    event.data.u64 = berth_slot_token(slot, 0);
    return epoll_ctl(set_fd, op, berth_slot_fd(slot), &event) < 0 ? -errno : 0;
}

/**
 * Registers the slot's descriptor for `events` (EPOLLIN | EPOLLOUT | EPOLLET | EPOLLONESHOT ...).
 * Returns 0; -EINVAL: NULL; -ESTALE: the slot is not live; -EEXIST: it is registered already;
 * -EBADF, -ENOMEM, -ENOSPC, -EPERM: as epoll_ctl(2). One system call. Since 0.1.
 */
BERTH_INLINE int
berth_epoll_add(struct berth_epoll *set, struct berth_slot *slot, uint32_t events)
{
    if (set == NULL || slot == NULL)
        return -EINVAL;
    if (!(slot->flags & BERTH_SLOT_LIVE))
        return -ESTALE;
    if (slot->state != 0)
        return -EEXIST;
    const uint32_t mask = berth_epoll_mask(events);
    int error = berth_epoll_ctl(set->fd, EPOLL_CTL_ADD, slot, mask);
    /* Left behind by an earlier incarnation that was released but not removed: take it over. */
    if (error == -EEXIST)
        error = berth_epoll_ctl(set->fd, EPOLL_CTL_MOD, slot, mask);
    if (error == 0)
        slot->state = mask;
    return error;
}

/**
 * Changes what a registered slot waits for, or arms it again after EPOLLONESHOT. No system call if
 * nothing would change (with EPOLLET it is always made: a MOD reports readiness anew).
 * Returns as berth_epoll_add; -ENOENT: the slot is not registered. Since 0.1.
 */
BERTH_INLINE int
berth_epoll_modify(struct berth_epoll *set, struct berth_slot *slot, uint32_t events)
{
    if (set == NULL || slot == NULL)
        return -EINVAL;
    if (!(slot->flags & BERTH_SLOT_LIVE))
        return -ESTALE;
    if (slot->state == 0)
        return -ENOENT;
    const uint32_t mask = berth_epoll_mask(events);
    if (slot->state == mask && !(mask & (uint32_t)EPOLLET))
        return 0;
    int error = berth_epoll_ctl(set->fd, EPOLL_CTL_MOD, slot, mask);
    if (error == -ENOENT) /* a rebuilt set leaves out what EPOLLONESHOT had disarmed */
        error = berth_epoll_ctl(set->fd, EPOLL_CTL_ADD, slot, mask);
    if (error == 0)
        slot->state = mask;
    return error;
}

/**
 * Takes the slot's descriptor out of the set; slot and descriptor stay yours. An event of it that
 * is in a batch already will still be seen. Returns 0, also if it was not registered; -EINVAL:
 * NULL; -ESTALE: the slot is not live. One system call. Since 0.1.
 */
BERTH_INLINE int
berth_epoll_remove(struct berth_epoll *set, struct berth_slot *slot)
{
    if (set == NULL || slot == NULL)
        return -EINVAL;
    if (!(slot->flags & BERTH_SLOT_LIVE))
        return -ESTALE;
    /* Kernels before 2.6.9 wanted an event here too. A failure means it is out already. */
    if (slot->state != 0)
        (void)berth_epoll_ctl(set->fd, EPOLL_CTL_DEL, slot, 0);
    slot->state = 0;
    return 0;
}

/**
 * Closes a connection in the one right order: out of the set, so that a dup'd or inherited copy of
 * the descriptor leaves no ghost; release, so that its tokens are stale; close(2) last, because
 * that frees the number for the next connection at once.
 *
 * Returns 0; -EINVAL: NULL; -ESTALE: the slot is not live; -EBUSY: operations are in flight, and
 * nothing was closed or changed; -EBADF: it is all done, but somebody had closed the descriptor
 * behind the table's back, which is a bug worth finding. Two system calls. Since 0.1.
 */
BERTH_INLINE int
berth_epoll_close(struct berth_epoll *set, struct berth_slot *slot)
{
    if (set == NULL || slot == NULL)
        return -EINVAL;
    if (!(slot->flags & BERTH_SLOT_LIVE))
        return -ESTALE;
    if (slot->in_flight != 0)
        return -EBUSY;
    const int fd = berth_slot_fd(slot);
    (void)berth_epoll_remove(set, slot);
    const int error = berth_table_release(set->table, berth_slot_token(slot, 0));
    if (error != 0)
        return error;
    return close(fd) < 0 && errno == EBADF ? -EBADF : 0;
}

/* ---- ghosts ----------------------------------------------------------------------------------
 * An epoll registration belongs to the open file, not to the descriptor: when a copy of the
 * descriptor lives on (dup(2), fork(2)), close(2) leaves the registration behind, reporting under
 * the dead token for ever. Dropping such events is not enough: a level-triggered set would return
 * at once from every epoll_wait(2). So a stale event that cannot be a mere leftover of its batch
 * makes the set take the registration out, and where the kernel offers no way to do that, start
 * anew.
 */

/** Whether this set's thread has a live slot with that number. */
BERTH_INLINE int
berth_epoll_owns(const struct berth_table *table, uint32_t index)
{
    if (table->owners != NULL &&
        __atomic_load_n(&table->owners[index], __ATOMIC_ACQUIRE) != table->owner_id)
        return 0;
    return (berth_table_slot(table, index)->flags & BERTH_SLOT_LIVE) != 0;
}

/** Registers every slot of `set` with the epoll descriptor `fresh`. Returns 0 or -errno. */
BERTH_OUTLINE int
berth_epoll_copy(const struct berth_epoll *set, int fresh)
{
    const uint32_t waiting = ~((uint32_t)EPOLLONESHOT | (uint32_t)EPOLLET);
    BERTH_TABLE_EACH_LIVE (set->table, index) {
        if (!berth_epoll_owns(set->table, index))
            continue;
        const struct berth_slot *slot = berth_table_slot(set->table, index);
        if ((slot->state & waiting) == 0)
            continue; /* not registered, or disarmed by EPOLLONESHOT */
        const int error = berth_epoll_ctl(fresh, EPOLL_CTL_ADD, slot, slot->state);
        if (error != 0 && error != -EBADF)
            return error;
    }
    return 0;
}

/**
 * Replaces the set by a new one with the same registrations and the same descriptor number: the
 * cure for ghosts (called by itself), and what a child of fork(2) must do before anything else if
 * it goes on with its parent's connections. Whoever polls set->fd itself, from another set, must
 * add it there again: stats.rebuilds tells. A rebuilt set may report readiness that was reported
 * before. Returns 0 or -errno, when the old set stays. One system call per registered slot.
 * Since 0.1.
 */
BERTH_OUTLINE int
berth_epoll_rebuild(struct berth_epoll *set)
{
    const int fresh = epoll_create1(EPOLL_CLOEXEC);
    if (fresh < 0)
        return -errno;
    int error = berth_epoll_copy(set, fresh);
    if (error == 0 && dup3(fresh, set->fd, EPOLL_CLOEXEC) < 0)
        error = -errno;
    (void)close(fresh);
    if (error == 0)
        set->table->stats.rebuilds++;
    return error;
}

/**
 * Not for direct use: removes the registration behind a ghost event. While the number belongs to a
 * live slot, a DEL would hit that slot's own registration; and when it is closed there is nothing
 * to call DEL on. Then the set is rebuilt, once the events wasted have cost about what that will.
 */
BERTH_OUTLINE void
berth_epoll_exorcise(struct berth_epoll *set, uint32_t index)
{
    struct berth_table *table = set->table;
    struct epoll_event unused;
    unused.events = 0;
    unused.data.u64 = 0;
    if (!berth_epoll_owns(table, index) &&
        epoll_ctl(set->fd, EPOLL_CTL_DEL, (int)index, &unused) == 0) {
        table->stats.ghosts++;
        return;
    }
    if (++set->strikes < BERTH_EPOLL_STRIKES + berth_table_live_count(table) / 8)
        return;
    set->strikes = 0;
    (void)berth_epoll_rebuild(set); /* on failure: the same number of strikes, then again */
}

/** Slots that have ended so far in this view, by any way. */
BERTH_INLINE uint64_t
berth_epoll_released(const struct berth_epoll *set)
{
    return set->table->stats.claimed - set->table->stats.live;
}

/**
 * Not for direct use: an event's token was refused. One stale event per connection closed since the
 * batch was fetched is in the nature of batches. More than those, or the same token a second time,
 * is a ghost. Returns the new count of stale events.
 */
BERTH_OUTLINE uint64_t
berth_epoll_stale(struct berth_epoll *set, berth_token token, uint64_t stale, uint64_t released)
{
    const uint32_t index = berth_token_index(token);
    if (berth_token_generation(token) == 0 || index >= set->table->slots_max)
        return stale; /* not one of ours: counted as malformed, and not ours to remove */
    berth_token *suspect = &set->suspects[index % BERTH_EPOLL_SUSPECTS];
    const int again = berth_token_same(*suspect, token);
    *suspect = token;
    if (again || stale + 1 > berth_epoll_released(set) - released)
        berth_epoll_exorcise(set, index);
    return stale + 1;
}

/* ---- a batch of events ---------------------------------------------------------------------- */

/** Starts a walk over `count` events (0 or less: none) and the fetching of the first slots. */
BERTH_INLINE struct berth_epoll_cursor
berth_epoll_cursor_make(struct berth_epoll *set, const struct epoll_event *batch, int count)
{
    struct berth_epoll_cursor cursor;
    cursor.slot = NULL;
    cursor.events = 0;
    cursor.fd = -1;
    cursor.token = BERTH_TOKEN_NONE;
    cursor.set = set;
    cursor.batch = batch;
    cursor.count = count;
    cursor.next = 0;
    cursor.released = berth_epoll_released(set);
    cursor.stale = 0;
    for (int i = 0; i < count && i < BERTH_TABLE_AHEAD; i++)
        berth_table_prefetch(set->table, batch[i].data.u64);
    return cursor;
}

/** Moves to the next event without looking at its slot. Returns 0 at the end. */
BERTH_INLINE int
berth_epoll_step(struct berth_epoll_cursor *cursor)
{
    if (cursor->next >= cursor->count)
        return 0;
    const int ahead = cursor->next + BERTH_TABLE_AHEAD;
    if (ahead < cursor->count)
        berth_table_prefetch(cursor->set->table, cursor->batch[ahead].data.u64);
    cursor->token = cursor->batch[cursor->next].data.u64;
    cursor->events = cursor->batch[cursor->next].events;
    cursor->fd = (int)berth_token_index(cursor->token);
    cursor->next++;
    return 1;
}

/** What EPOLLONESHOT has just disarmed is not armed by a rebuild. */
BERTH_INLINE void
berth_epoll_note_oneshot(struct berth_slot *slot)
{
    if (BERTH_UNLIKELY(slot->state & (uint32_t)EPOLLONESHOT))
        slot->state = (uint32_t)EPOLLONESHOT;
}

/** Moves to the next event whose connection is still there. Returns 0 at the end. */
BERTH_INLINE int
berth_epoll_next(struct berth_epoll_cursor *cursor)
{
    while (berth_epoll_step(cursor)) {
        cursor->slot = berth_table_find(cursor->set->table, cursor->token);
        if (BERTH_LIKELY(cursor->slot != NULL)) {
            berth_epoll_note_oneshot(cursor->slot);
            return 1;
        }
        cursor->stale =
            berth_epoll_stale(cursor->set, cursor->token, cursor->stale, cursor->released);
    }
    return 0;
}

/**
 * Runs the following statement for each of the `count` events that epoll_wait(2) wrote to `batch`,
 * in order, skipping those whose connection is gone: `cursor` names a struct berth_epoll_cursor
 * that the macro declares, with slot, events, fd and token in it. Inside, anything may be claimed,
 * closed or changed, and `break` and `continue` do what they always do. A handler may itself call
 * epoll_wait(2), with another array, and walk over that. A count of -1 is an empty batch: look at
 * errno yourself.
 */
#define BERTH_EPOLL_EACH(cursor, set, batch, count)                                                \
    for (struct berth_epoll_cursor cursor = berth_epoll_cursor_make((set), (batch), (count));      \
         berth_epoll_next(&cursor);)

/**
 * The slot of the current event if its connection is still the same one, otherwise NULL. Ask after
 * every callback that may have closed it. Since 0.1.
 */
BERTH_INLINE struct berth_slot *
berth_epoll_alive(struct berth_epoll_cursor *cursor)
{
    cursor->slot = berth_table_find(cursor->set->table, cursor->token);
    return cursor->slot;
}

/**
 * As BERTH_EPOLL_EACH, but slots are not looked at: do the system call on cursor.fd first, while
 * the slot is on its way into the cache, then ask berth_epoll_settle for it:
 *
 *     BERTH_EPOLL_EACH_FD (at, &set, events, n) {
 *         const ssize_t got = recv(at.fd, buffer, sizeof(buffer), MSG_DONTWAIT);
 *         const int error = got < 0 ? errno : 0;
 *         if (berth_epoll_settle(&at) != NULL)
 *             handle(at.slot, buffer, got, error);
 *     }
 *
 * Only for a call that does no harm on a wrong descriptor, such as recv(2) with MSG_DONTWAIT:
 * events of connections gone are among these.
 */
#define BERTH_EPOLL_EACH_FD(cursor, set, batch, count)                                             \
    for (struct berth_epoll_cursor cursor = berth_epoll_cursor_make((set), (batch), (count));      \
         berth_epoll_step(&cursor);)

/**
 * The slot that now owns cursor.fd, or NULL. If the number was taken over since the event, that is
 * the new connection, and so are the bytes just received: they came from its socket. (Its token is
 * put into the cursor.) Call it once per event, before anything is closed. Since 0.1.
 */
BERTH_INLINE struct berth_slot *
berth_epoll_settle(struct berth_epoll_cursor *cursor)
{
    struct berth_table *table = cursor->set->table;
    cursor->slot = berth_table_find(table, cursor->token);
    if (BERTH_LIKELY(cursor->slot != NULL)) {
        berth_epoll_note_oneshot(cursor->slot);
        return cursor->slot;
    }
    cursor->stale = berth_epoll_stale(cursor->set, cursor->token, cursor->stale, cursor->released);
    const uint32_t index = berth_token_index(cursor->token);
    if (index >= table->slots_max || !berth_epoll_owns(table, index))
        return NULL;
    cursor->slot = berth_table_slot(table, index);
    cursor->token = berth_slot_token(cursor->slot, 0);
    cursor->events = 0;
    return cursor->slot;
}

BERTH_END_DECLS

#endif
