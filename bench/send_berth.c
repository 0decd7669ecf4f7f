/*
 * Sending on berth's loop, as a user would who has bulk data in the pool: leases of 64 KiB that are
 * shared and queued again and again, as many as the send queue takes, and more when it has drained.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>

#include <berth.h>
#include <berth/loop.h>

#include "stream_berth.h"

#define LEASES (STREAM_SOURCE_BYTES / (64u << 10))

struct sender {
    struct stream_side *side;
    struct berth_loop *loop;
    struct berth_lease leases[LEASES]; /**< together the source, in its order */
    unsigned leases_count;
    unsigned next;
    size_t high_bytes; /**< of the send queue: `drained` comes only after it was as long */
};

static void
queue_more(struct berth_conn *conn)
{
    struct sender *sender = berth_conn_context(conn);
    struct berth_pool *pool = berth_loop_pool(sender->loop);
    while (berth_conn_queued(conn) < sender->high_bytes) {
        const struct berth_lease lease = sender->leases[sender->next];
        if (berth_lease_share(pool, lease) != 0)
            return;
        if (berth_send_lease(conn, lease) != 0) {
            berth_release(pool, lease);
            return;
        }
        sender->next = (sender->next + 1) % LEASES;
    }
}

static int
on_open(struct berth_conn *conn, void *context)
{
    (void)context;
    queue_more(conn);
    return 0;
}

static const struct berth_handlers handlers = {.open = on_open, .drained = queue_more};

/** Fills leases with the source. 0 or -errno. */
static int
leases_make(struct sender *sender)
{
    struct berth_pool *pool = berth_loop_pool(sender->loop);
    int error = stream_source_make(sender->side);
    for (unsigned i = 0; i < LEASES && error == 0; i++) {
        struct berth_lease *lease = &sender->leases[i];
        error = berth_pool_get(pool, BERTH_CLASS_64K, BERTH_FOR_NEW, lease);
        if (error != 0)
            break;
        sender->leases_count++;
        memcpy(berth_lease_data(pool, *lease), sender->side->source + (size_t)i * lease->length,
               lease->length);
    }
    return error;
}

static void
leases_release(struct sender *sender)
{
    for (unsigned i = 0; i < sender->leases_count; i++)
        berth_release(berth_loop_pool(sender->loop), sender->leases[i]);
}

int
send_berth_run(struct stream_side *side)
{
    struct sender sender = {.side = side};
    struct berth_loop_options options;
    berth_loop_options_init(&options);
    options.engine = side->path->engine;
    if (side->path->mode == STREAM_BERTH_COPIED)
        options.zerocopy_bytes = BERTH_ZEROCOPY_NEVER;
    if (side->path->mode == STREAM_BERTH_IN_PLACE)
        options.features = "+zerocopy"; /* though loopback copies after all */
    sender.high_bytes = options.send_high_bytes;
    int error = berth_loop_create(&sender.loop, &options);
    if (error != 0)
        return error;
    error = leases_make(&sender);
    if (error == 0)
        error = berth_adopt(sender.loop, side->fd, &handlers, &sender, NULL);
    if (error == 0)
        error = stream_berth_turn(side, sender.loop);
    leases_release(&sender);
    berth_loop_destroy(sender.loop);
    return error;
}
