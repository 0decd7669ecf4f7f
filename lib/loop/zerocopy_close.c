/*
 * Connections whose memory the kernel still reads though they are being closed, or are to leave the
 * loop, or though no event tells of them. See zerocopy.h.
 *
 * The invariant: whatever is waited for has an end: a reset of the connection, which makes
 * notifications come, or a zombie; or it does not leave.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_SOCKET
#include "loop/loop_internal.h"

#include <stdlib.h>

#include "os/sys.h"

/** How often those are looked after that no event tells of, and those that are leaving. */
#define WATCH_TICK_MS 50

/** How long is waited when the loop is being destroyed, and for what was asked for in earnest. */
#define DESTROY_WAIT_MS 3000
#define HOME_WAIT_MS 5000

/**
 * How long a peer may take nothing before it is given up: as long as Linux itself goes on for a
 * socket that nobody has any more (8 retransmissions, the first after 200 ms). And how often that
 * is looked at, at most.
 */
#define ORPHAN_MS 100000
#define LOOK_MS 1000

/** How long, at least, before a connection that was to leave stays. */
#define LEAVE_WAIT_MS_MIN 1000

static struct conn_zerocopy *
known(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return &slot_cold(loop, slot)->zerocopy;
}

/* ---- those that nothing is heard of ---------------------------------------------------------- */

void
zerocopy_unwatch(struct berth_loop *loop, struct zerocopy *record)
{
    if (record->slot == 0)
        return;
    struct zerocopy **at = &loop->zerocopy.watched;
    while (*at != record)
        at = &(*at)->next;
    *at = record->next;
    record->slot = 0;
}

void
zerocopy_watch(struct berth_loop *loop, struct berth_slot *slot)
{
    if (!zerocopy_holds(loop, slot))
        return;
    struct zerocopy *record = known(loop, slot)->sends;
    if (record->slot != 0)
        return;
    record->slot = 1 + slot->index;
    record->next = loop->zerocopy.watched;
    loop->zerocopy.watched = record;
}

/* ---- closing -------------------------------------------------------------------------------- */

void
zerocopy_closing(struct berth_loop *loop, struct berth_slot *slot)
{
    if (!zerocopy_holds(loop, slot))
        return;
    const struct conn_cold *cold = slot_cold(loop, slot);
    const uint64_t now_ms = loop_time(loop);
    /* If it has waited for its queue already, then not as long again. */
    const uint64_t since_ms = slot->state & CONN_CLOSING_LISTED ? cold->closing_since_ms : now_ms;
    cold->zerocopy.sends->until_ms = since_ms + loop->options.close_timeout_ms;
    cold->zerocopy.sends->moved_ms = since_ms;
    cold->zerocopy.sends->leaving = 0;
    zerocopy_unwatch(loop, cold->zerocopy.sends);
}

void
zerocopy_bring_home(struct berth_loop *loop, struct berth_slot *slot, int fd)
{
    static const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    if (loop->engine->sends_at_once) /* what has been said until now is true */
        loop->engine->cancel(loop, slot);
    struct zerocopy *record = known(loop, slot)->sends;
    if (record == NULL)
        return;
    if (record->home_ms == 0)
        record->home_ms = loop_time(loop);
    if (record->home || fd < 0)
        return;
    slot->state |= CONN_RESET; /* which the peer is sent; nothing may forestall it */
    record->home = sys_connect(fd, &nobody, sizeof(nobody)) == 0;
    loop->stats.syscalls++;
}

/** How long a peer may stall: less if so many are closing that others may find no place. */
static uint64_t
patience_ms(const struct berth_loop *loop)
{
    const uint64_t least_ms = loop->options.close_timeout_ms;
    return loop->closing.count > loop->zerocopy.crowd || least_ms > ORPHAN_MS ? least_ms
                                                                              : ORPHAN_MS;
}

/**
 * Whether to wait on: it is not time, or the peer has acknowledged something not long ago. A copy
 * would be the kernel's to deliver, however slowly it is read; this must not be worse for that
 * peer.
 */
static int
goes_on(struct berth_loop *loop, struct zerocopy *record, int fd, uint64_t now_ms)
{
    int bytes = 0;
    const int told = sys_unacknowledged(fd, &bytes) == 0;
    loop->stats.syscalls++;
    if (told && bytes < record->unacknowledged)
        record->moved_ms = now_ms;
    if (told)
        record->unacknowledged = bytes;
    if (now_ms < record->until_ms)
        return 1;
    if (loop->drain.state == DRAIN_OVER || now_ms - record->moved_ms >= patience_ms(loop))
        return 0;
    const uint32_t again_ms = loop->options.close_timeout_ms;
    record->until_ms = now_ms + (again_ms > LOOK_MS ? again_ms : LOOK_MS);
    return 1;
}

int
zerocopy_closing_step(struct berth_loop *loop, struct berth_slot *slot, uint64_t now_ms)
{
    if (!zerocopy_holds(loop, slot))
        return 0;
    struct zerocopy *record = known(loop, slot)->sends;
    if (loop->drain.state == DRAIN_OVER && record->until_ms > now_ms + DESTROY_WAIT_MS)
        record->until_ms = now_ms + DESTROY_WAIT_MS; /* it was given more before */
    if (!record->home && (now_ms >= record->until_ms || record->unacknowledged == 0)) {
        const int fd = descriptor_borrow(loop, slot);
        if (!goes_on(loop, record, fd, now_ms))
            zerocopy_bring_home(loop, slot, fd);
        descriptor_return(loop, slot, fd);
    }
    record = known(loop, slot)->sends;
    const int waits =
        record == NULL || record->home_ms == 0 || now_ms - record->home_ms < HOME_WAIT_MS;
    if (loop->engine->sends_at_once) {
        loop->engine->cancel(loop, slot); /* which looks for notifications; the record may go */
        if (slot->in_flight == 0)
            conn_todo(loop, slot);
    }
    return waits;
}

/* ---- leaving, and looking after ------------------------------------------------------------- */

/** How long a connection that is to leave waits for its peer to acknowledge something. */
static uint64_t
leave_wait_ms(const struct berth_loop *loop)
{
    const uint32_t least_ms = loop->options.close_timeout_ms;
    return least_ms < LEAVE_WAIT_MS_MIN ? LEAVE_WAIT_MS_MIN : least_ms;
}

int
zerocopy_leaving(struct berth_loop *loop, struct berth_slot *slot)
{
    if (!zerocopy_holds(loop, slot))
        return 0;
    struct zerocopy *record = known(loop, slot)->sends;
    if (record->overdue) {
        record->overdue = record->leaving = 0;
        return 1;
    }
    if (!record->leaving) {
        record->leaving = 1;
        record->unacknowledged = 0;
        record->until_ms = loop_time(loop) + leave_wait_ms(loop);
        zerocopy_watch(loop, slot);
    }
    return 0;
}

/** A peer that acknowledges something in each period is waited for. */
static void
look_at_leaving(struct berth_loop *loop, struct berth_slot *slot, struct zerocopy *record)
{
    const uint64_t now_ms = loop_time(loop);
    if (slot->buffer != 0) {
        record->leaving = 0; /* more was queued: it begins anew when that is sent */
        return;
    }
    if (record->overdue)
        return;
    int bytes = 0;
    const int fd = descriptor_borrow(loop, slot);
    const int told = sys_unacknowledged(fd, &bytes) == 0;
    descriptor_return(loop, slot, fd);
    loop->stats.syscalls++;
    if (told && bytes < record->unacknowledged)
        record->until_ms = now_ms + leave_wait_ms(loop);
    if (told)
        record->unacknowledged = bytes;
    if (now_ms < record->until_ms)
        return;
    record->overdue = 1;
    conn_todo(loop, slot);
}

int
zerocopy_tick(struct berth_loop *loop)
{
    if (BERTH_LIKELY(loop->zerocopy.watched == NULL))
        return -1;
    const uint64_t now_ms = loop_time(loop);
    if (now_ms - loop->zerocopy.watched_ms < WATCH_TICK_MS)
        return WATCH_TICK_MS;
    loop->zerocopy.watched_ms = now_ms;
    for (struct zerocopy *record = loop->zerocopy.watched, *next; record != NULL; record = next) {
        struct berth_slot *slot = loop_slot(loop, record->slot);
        next = record->next;
        if (record->leaving)
            look_at_leaving(loop, slot, record);
        if (slot->state & CONN_WATCHED || !loop->engine->sends_at_once) {
            if (!record->leaving) /* its events tell of it */
                zerocopy_unwatch(loop, record);
            continue;
        }
        loop->engine->cancel(loop, slot);
        if (slot->state & CONN_TODO)
            conn_todo(loop, slot);
    }
    return WATCH_TICK_MS;
}

void
zerocopy_abandon(struct berth_loop *loop, struct berth_slot *slot)
{
    struct conn_zerocopy *conn = known(loop, slot);
    free(conn->sends);
    conn->sends = NULL;
}
