/*
 * What the user calls on a connection, sending aside: each call checks, sets bits, and leaves the
 * rest to conn_progress. No call here enters a callback or changes another connection.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#include "loop/loop_internal.h"

#include <string.h>

#include "loop/forward.h"
#include "loop/pull.h"
#include "os/sys.h"

/** The live slot behind a connection pointer, or NULL: a slot can be read even when it is empty. */
static struct berth_slot *
checked(const struct berth_conn *conn)
{
    struct berth_slot *slot = as_slot(conn);
    if (slot == NULL || !(slot->flags & BERTH_SLOT_LIVE) || slot_kind(slot) != KIND_CONN)
        return NULL;
    return slot;
}

int
berth_conn_shutdown(struct berth_conn *conn)
{
    struct berth_slot *slot = checked(conn);
    if (slot == NULL)
        return -EINVAL;
    if (slot->state & CONN_NO_SEND || slot->flags & BERTH_SLOT_CLOSING)
        return -EPIPE;
    slot->state |= CONN_SHUT_WANTED;
    conn_todo(slot_loop(slot), slot);
    return 0;
}

int
berth_conn_close(struct berth_conn *conn)
{
    struct berth_slot *slot = checked(conn);
    if (slot == NULL)
        return -EINVAL;
    if (slot->state & (CONN_CLOSE_WANTED | CONN_FAILED) || slot->flags & BERTH_SLOT_CLOSING)
        return -EALREADY;
    if (slot->state & CONN_CONNECTING)
        return berth_conn_abort(conn);
    slot->state |= CONN_CLOSE_WANTED;
    conn_todo(slot_loop(slot), slot);
    return 0;
}

int
berth_conn_abort(struct berth_conn *conn)
{
    struct berth_slot *slot = checked(conn);
    if (slot == NULL)
        return -EINVAL;
    if (slot->state & CONN_FAILED || slot->flags & BERTH_SLOT_CLOSING)
        return -EALREADY;
    slot->state |= CONN_RESET;
    conn_failed(slot_loop(slot), slot, -ECANCELED);
    return 0;
}

int
berth_conn_credit(struct berth_conn *conn, size_t bytes)
{
    struct berth_slot *slot = checked(conn);
    if (slot == NULL)
        return -EINVAL;
    if (slot->state & (CONN_CLOSE_WANTED | CONN_FAILED) || slot->flags & BERTH_SLOT_CLOSING)
        return -EPIPE;
    struct berth_loop *loop = slot_loop(slot);
    const int could_receive = conn_may_receive(loop, slot);
    if (conn_leaving(loop, slot))
        return -EALREADY;
    if (forward_keep_credit(loop, slot, bytes == BERTH_CREDIT_UNLIMITED ? UINT64_MAX : bytes))
        return 0;
    if (bytes == BERTH_CREDIT_UNLIMITED && !conn_held(loop, slot)) {
        slot->state &= ~(uint32_t)CONN_CREDIT;
    } else {
        struct conn_cold *cold = slot_cold(loop, slot);
        const int tighter = !(slot->state & CONN_CREDIT) || bytes < cold->credit;
        slot->state |= CONN_CREDIT;
        cold->credit = bytes;
        if (tighter && loop->engine->posts_limits && slot->state & CONN_RECEIVING)
            loop->engine->receive_stop(loop, slot); /* and it is posted again with the new limit */
    }
    if (!could_receive && conn_may_receive(loop, slot))
        timeouts_receive_resumed(loop, slot);
    conn_todo(loop, slot);
    return 0;
}

int
berth_conn_timeout(struct berth_conn *conn, enum berth_timeout kind, uint32_t ms)
{
    struct berth_slot *slot = checked(conn);
    if (slot == NULL || (unsigned)kind >= BERTH_TIMEOUT_KINDS || ms > BERTH_TIMEOUT_MS_MAX)
        return -EINVAL;
    if (slot->state & (CONN_CLOSE_WANTED | CONN_FAILED) || slot->flags & BERTH_SLOT_CLOSING)
        return -EPIPE;
    if (kind == BERTH_TIMEOUT_CONNECT && !(slot->state & CONN_CONNECTING))
        return -EISCONN;
    timeouts_set(slot_loop(slot), slot, kind, ms);
    return 0;
}

void *
berth_conn_cold(struct berth_conn *conn)
{
    struct berth_slot *slot = checked(conn);
    if (slot == NULL)
        return NULL;
    struct berth_loop *loop = slot_loop(slot);
    return loop->options.cold_bytes == 0 ? NULL : (void *)(slot_cold(loop, slot) + 1);
}

struct berth_conn *
berth_conn_find(struct berth_loop *loop, berth_token token)
{
    if (loop == NULL)
        return NULL;
    struct berth_slot *slot = berth_table_find(loop->table, token);
    if (slot == NULL || slot->flags & BERTH_SLOT_CLOSING || slot->state & CONN_FAILED ||
        slot_kind(slot) != KIND_CONN)
        return NULL;
    return as_conn(slot);
}

struct berth_loop *
berth_conn_loop(const struct berth_conn *conn)
{
    const struct berth_slot *slot = checked(conn);
    return slot == NULL ? NULL : slot_loop(slot);
}

void *
berth_conn_context(const struct berth_conn *conn)
{
    const struct berth_slot *slot = checked(conn);
    return slot == NULL ? NULL : conn_context(slot_loop(slot), slot);
}

size_t
berth_conn_queued(const struct berth_conn *conn)
{
    const struct berth_slot *slot = checked(conn);
    return slot == NULL ? 0 : queue_bytes(slot_loop(slot), slot);
}

int
berth_conn_peer(const struct berth_conn *conn, char *text, size_t size)
{
    const struct berth_slot *slot = checked(conn);
    if (slot == NULL || text == NULL)
        return -EINVAL;
    struct address address;
    memset(&address, 0, sizeof(address));
    address.length = sizeof(address.to);
    struct berth_loop *loop = slot_loop(slot);
    const int fd = descriptor_borrow(loop, slot);
    const intptr_t error = fd < 0 ? fd : sys_getpeername(fd, &address.to.base, &address.length);
    descriptor_return(loop, slot, fd);
    return error < 0 ? (int)error : address_format(&address, text, size);
}

int
berth_conn_fd(const struct berth_conn *conn)
{
    const struct berth_slot *slot = checked(conn);
    return slot == NULL ? -EINVAL : slot_loop(slot)->direct ? -1 : berth_slot_fd(slot);
}

int
berth_conn_fd_install(const struct berth_conn *conn)
{
    const struct berth_slot *slot = checked(conn);
    if (slot == NULL)
        return -EINVAL;
    struct berth_loop *loop = slot_loop(slot);
    if (loop->direct)
        return loop->engine->direct_install(loop, (int)slot->index);
    return (int)sys_fcntl(berth_slot_fd(slot), F_DUPFD_CLOEXEC, 0);
}

int
berth_conn_stats_get(const struct berth_conn *conn, struct berth_conn_stats *stats)
{
    const struct berth_slot *slot = checked(conn);
    if (slot == NULL || stats == NULL)
        return -EINVAL;
    const struct berth_loop *loop = slot_loop(slot);
    if (loop->counts_at == 0)
        return -ENOTSUP;
    *stats = conn_counts(loop, slot)->stats;
    return 0;
}
