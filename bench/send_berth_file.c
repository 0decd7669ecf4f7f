/*
 * Sending a file on berth's loop: the whole of it is queued whenever the queue is short, each time
 * with a descriptor of its own, which the loop closes.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <berth.h>
#include <berth/loop.h>

#include "stream_berth.h"

struct sender {
    int file;
    size_t high_bytes; /**< of the send queue: `drained` comes only after it was as long */
    int error;
};

static void
queue_more(struct berth_conn *conn)
{
    struct sender *sender = berth_conn_context(conn);
    while (sender->error == 0 && berth_conn_queued(conn) < sender->high_bytes) {
        const int file = fcntl(sender->file, F_DUPFD_CLOEXEC, 0);
        sender->error = file < 0 ? -errno : berth_send_file(conn, file, 0, STREAM_SOURCE_BYTES);
        if (sender->error != 0 && file >= 0)
            close(file);
    }
}

static int
on_open(struct berth_conn *conn, void *context)
{
    const struct sender *sender = context;
    queue_more(conn);
    return sender->error;
}

static const struct berth_handlers handlers = {.open = on_open, .drained = queue_more};

int
send_berth_file_run(struct stream_side *side)
{
    struct sender sender = {.file = stream_source_file(side)};
    struct berth_loop *loop = NULL;
    struct berth_loop_options options;
    if (sender.file < 0)
        return sender.file;
    berth_loop_options_init(&options);
    options.engine = side->path->engine;
    sender.high_bytes = options.send_high_bytes;
    int error = berth_loop_create(&loop, &options);
    if (error == 0)
        error = berth_adopt(loop, side->fd, &handlers, &sender, NULL);
    if (error == 0)
        error = stream_berth_turn(side, loop);
    berth_loop_destroy(loop);
    close(sender.file);
    return error != 0 ? error : sender.error;
}
