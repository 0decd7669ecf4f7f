/*
 * Connecting by name: the connection exists before anybody knows where it leads. Until then a
 * socket that is connected to nothing keeps its descriptor number, which is its place in the table;
 * dup3(2) puts the real socket in its place, and the next one when an address does not answer.
 *
 * Addresses are tried one after the other, in the order in which the resolver gave them. Threads,
 * queues and getaddrinfo are resolve.c's affair.
 *
 * The invariant: cold->lookup is there only while CONN_CONNECTING is set, and whoever clears that
 * bit calls connect_done.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#include "loop/loop_internal.h"

#include <netdb.h>

#include "loop/connect_name.h"
#include "loop/resolve.h"
#include "os/probes.h"
#include "os/sys.h"

/** Addresses of one name that are tried: some names have hundreds. */
#define TRIES_MAX 32

/** What one try costs: socket, setsockopt, connect, twice fcntl, dup3, close. */
#define TRY_SYSCALLS 7

int
connect_by_name(struct berth_loop *loop, const char *text, const struct berth_handlers *handlers,
                void *ctx, berth_token *token)
{
    struct address_name name;
    if (address_parse_name(&name, text) != 0)
        return -EINVAL;
    const int fd = (int)sys_socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    struct berth_slot *slot = NULL;
    int error = conn_create_own(loop, fd, CONN_CONNECTING, handlers, ctx, &slot);
    if (error) {
        (void)sys_close(fd);
        return error;
    }
    struct lookup *lookup = lookup_create(&name, berth_slot_token(slot, OP_CONNECT));
    error = lookup == NULL ? -ENOMEM : resolve_begin(&loop->resolver, lookup, loop->wake_fd);
    if (error) {
        if (lookup != NULL)
            lookup_free(lookup);
        conn_discard(loop, slot, 1);
        return error;
    }
    slot_cold(loop, slot)->lookup = lookup;
    connect_begun(loop, slot, token);
    return 0;
}

/** Begins to connect there, under the connection's descriptor number. 0 or -errno. */
static int
try_address(struct berth_loop *loop, struct berth_slot *slot, const struct addrinfo *to)
{
    const int fd = connect_open(to->ai_addr, to->ai_addrlen);
    loop->stats.syscalls += TRY_SYSCALLS;
    if (fd < 0)
        return fd;
    /* What the engine knows of the descriptor is about the socket that goes now. */
    loop->engine->forget(loop, slot);
    const int place = loop->direct ? descriptor_kept(loop, slot) : berth_slot_fd(slot);
    int error = (int)sys_dup3(fd, place, O_CLOEXEC);
    (void)sys_close(fd);
    if (error >= 0 && loop->direct)
        error = loop->engine->direct_replace(loop, (int)slot->index, place);
    return error < 0 ? error : loop->engine->connect_wait(loop, slot);
}

void
connect_failed(struct berth_loop *loop, struct berth_slot *slot, int reason)
{
    struct lookup *lookup = slot_cold(loop, slot)->lookup;
    BERTH_ASSERT(slot->state & CONN_CONNECTING && slot->in_flight == 0);
    while (lookup != NULL && lookup->rest != NULL && lookup->tries < TRIES_MAX) {
        const struct addrinfo *to = lookup->rest;
        lookup->rest = to->ai_next;
        lookup->tries++;
        reason = try_address(loop, slot, to);
        if (reason == 0)
            return;
    }
    conn_failed(loop, slot, reason);
}

void
connect_done(struct berth_loop *loop, struct berth_slot *slot)
{
    struct conn_cold *cold = slot_cold(loop, slot);
    if (cold->lookup == NULL)
        return;
    resolve_drop(loop->resolver, cold->lookup);
    cold->lookup = NULL;
}

unsigned
connect_answers(struct berth_loop *loop)
{
    unsigned count = 0;
    while (count < loop->options.events_max) {
        struct lookup *lookup = resolve_take(loop->resolver);
        if (lookup == NULL)
            break;
        count++;
        loop->stats.lookups++;
        BERTH_PROBE(lookup, lookup->name.host, lookup->error);
        struct berth_slot *slot = berth_table_find(loop->table, lookup->token);
        if (slot == NULL || slot_cold(loop, slot)->lookup != lookup)
            lookup_free(lookup); /* it was closed meanwhile */
        else if (!(slot->state & CONN_FAILED))
            connect_failed(loop, slot, lookup->error != 0 ? lookup->error : -ENOENT);
    }
    return count;
}
