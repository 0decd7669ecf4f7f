/*
 * Pipes between sockets: what one connection receives goes to another one's socket without ever
 * being in memory of ours. See splice.c.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_SPLICE_H
#define BERTH_LOOP_SPLICE_H

#include "loop/loop_internal.h"

enum spliced {
    SPLICED_SOME, /**< bytes have gone into a pipe in the queue of `to` */
    SPLICED_NONE, /**< there are none for now, or an end or an error was reported */
    SPLICED_FULL, /**< the pipe takes no more: when the queue of `to` is short again */
    SPLICED_NEVER /**< not between these, or there is no pipe: the bytes are still in the socket */
};

/** Moves up to `most` bytes (at least 1) from a socket into the queue of `to`; *moved says how
 * many.
 */
enum spliced splice_receive(struct berth_loop *loop, struct berth_slot *from, int fd,
                            struct berth_slot *to, size_t most, size_t *moved);

/** Takes a pipe back, which is kept for the next one if it is empty and whole. */
void splice_pipe_put(struct berth_loop *loop, int read_fd, int write_fd, int empty);

/** Closes the pipes that are kept. */
void splice_destroy(struct berth_loop *loop);

#endif
