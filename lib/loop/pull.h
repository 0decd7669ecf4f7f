/*
 * Connections whose bytes are fetched by calls of ours when there are some, in place of the receive
 * that an engine posts or makes: pages are mapped that way, and bytes spliced to another socket.
 *
 * A puller is called when the socket is readable, as far as the connection's share of a turn goes,
 * and only while data is wanted: not paused, not out of credit, not held. It delivers what it got
 * (conn_deliver_pulled), and reports an end or an error (conn_eof, conn_failed) or that it found no
 * buffer (receive_starve). Everything else about the connection is as with any other.
 *
 * On io_uring a poll request stands in the place of the receive, the same as that of an idle
 * connection (engine_uring_park.c). Loops with direct descriptors cannot pull: the socket has no
 * descriptor for the call, and borrowing one would cost more than is gained.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_PULL_H
#define BERTH_LOOP_PULL_H

#include "loop/loop_internal.h"

struct puller {
    /**
     * Fetches up to `most` bytes (at least 1; never more if there is a limit of credit, a little
     * more if it is only the share) without waiting, and delivers them. Returns how many;
     * 0 if there is no more for now: nothing there, an end, an error, no buffer. It may set
     * *emptied when it knows that the socket was empty behind what it took, which saves a call.
     */
    size_t (*pull)(struct berth_loop *loop, struct berth_slot *slot, int fd, size_t most,
                   int *emptied);

    /** -errno that the kernel has told, and that is not told yet: it would be lost. May be NULL. */
    int (*error)(const struct berth_loop *loop, const struct berth_slot *slot);

    /** The connection is over, or has left the loop: frees cold->pull_state. May be NULL. */
    void (*over)(struct berth_loop *loop, struct berth_slot *slot);
};

/**
 * From now on the puller fetches. What the engine has begun to receive is delivered before, in the
 * ordinary way. `state` is the puller's own: slot_cold(loop, slot)->pull_state.
 * @return 0; -EALREADY: it has a puller; -EPIPE: it is closing; -EOPNOTSUPP: direct descriptors, or
 *         bytes that a network card puts elsewhere, where no call finds them.
 */
int conn_pull_start(struct berth_loop *loop, struct berth_slot *slot, const struct puller *puller,
                    void *state);

/**
 * Back to ordinary receives; also from inside a pull, which is the last one then. `over` is not
 * called: the state is the caller's again.
 */
void conn_pull_stop(struct berth_loop *loop, struct berth_slot *slot);

/** While `on`, nothing is pulled, whatever the credit: nobody can take more now. Idempotent. */
void conn_pull_hold(struct berth_loop *loop, struct berth_slot *slot, int on);

/**
 * Delivers what a puller fetched, as conn_deliver does. Only `from_kernel` of it was copied by the
 * kernel: the caller enters the rest in the ledger (CONN_COPIES). With `n` 0 nobody is called: the
 * bytes went elsewhere.
 */
void conn_deliver_pulled(struct berth_loop *loop, struct berth_slot *slot,
                         const struct berth_span *spans, unsigned n, size_t bytes,
                         size_t from_kernel);

/** Whether the connection is pulled. Its cold record, untouched so far perhaps, stays so if not. */
static inline int
conn_pulls(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return BERTH_UNLIKELY(slot->flags & SLOT_PULLS) && loop->pulling > 0 &&
           slot_cold(loop, slot)->puller != NULL;
}

/** Whether its puller is to wait. */
static inline int
conn_held(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return conn_pulls(loop, slot) && slot_cold(loop, slot)->pull_held;
}

/** What came of a turn of pulling. */
enum pulled {
    PULLED_ALL,   /**< there is no more for now, or no buffer for it */
    PULLED_SHARE, /**< the share is used up: there may be more */
    PULLED_ENOUGH /**< no more is wanted now, or the puller is gone: there may be more */
};

/** For engines: the socket is readable. `to_the_end`: an end is known to stand behind the bytes. */
enum pulled pull_turn(struct berth_loop *loop, struct berth_slot *slot, size_t share,
                      int to_the_end);

/** What its puller knows of an error that nobody has been told of: -errno, or 0. */
static inline int
pull_error(const struct berth_loop *loop, const struct berth_slot *slot)
{
    if (!conn_pulls(loop, slot) || slot_cold(loop, slot)->puller->error == NULL)
        return 0;
    return slot_cold(loop, slot)->puller->error(loop, slot);
}

/** For conn.c: the connection is over. */
void pull_over(struct berth_loop *loop, struct berth_slot *slot);

#endif
