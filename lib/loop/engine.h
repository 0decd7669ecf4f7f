/*
 * What an engine is: the one interface between the loop's policies (conn.c, send.c, listen.c) and a
 * way of doing I/O. An engine never calls a user's callback; it reports what happened through the
 * conn_* and listener_* functions of loop_internal.h, and the loop decides.
 *
 * Adding an engine is one file and one row in the table in loop.c.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_ENGINE_H
#define BERTH_LOOP_ENGINE_H

#include <stddef.h>

struct berth_loop;
struct berth_slot;

struct engine {
    const char *name;

    /** Listening descriptors must be O_NONBLOCK (accept(2) has no MSG_DONTWAIT), or must not be. */
    int listener_nonblocking;

    /** send is done with the bytes when it returns: nothing stays in flight. */
    int sends_at_once;

    /** A posted receive goes on under the limit that it was posted with. */
    int posts_limits;

    /**
     * Sets loop->engine_state. On failure returns -errno, leaves nothing behind, and writes into
     * `why` which step failed.
     */
    int (*create)(struct berth_loop *loop, char *why, size_t why_size);
    void (*destroy)(struct berth_loop *loop);

    /**
     * The first turn is about to begin, on the thread that will run the loop. 0 or -errno. NULL:
     * nothing to do then.
     */
    int (*start)(struct berth_loop *loop);

    /** Waits up to timeout_ms (-1: no limit) and reports what happened; a count or -errno. */
    int (*turn)(struct berth_loop *loop, int timeout_ms);

    /** Reports readability of an internal descriptor (the wake-up eventfd) until the end. */
    int (*watch)(struct berth_loop *loop, struct berth_slot *slot);

    /** Accepts until told to stop. Both are idempotent. */
    int (*accept_start)(struct berth_loop *loop, struct berth_slot *slot);
    void (*accept_stop)(struct berth_loop *loop, struct berth_slot *slot);

    /** Posts a receive, or withdraws it. The loop keeps CONN_RECEIVING with the engine's help. */
    int (*receive_start)(struct berth_loop *loop, struct berth_slot *conn);
    void (*receive_stop)(struct berth_loop *loop, struct berth_slot *conn);

    /**
     * Exchanges the posted receive for something that costs less while nothing comes, and back when
     * something does. 1 if it will be, 0 if not now. NULL: nothing that is posted costs anything.
     */
    int (*park)(struct berth_loop *loop, struct berth_slot *conn);

    /**
     * The connection has got a puller (SLOT_PULLS will be set), or has none any more: then the
     * engine clears SLOT_PULLS in its own time. NULL: nothing that is posted stands in the way.
     */
    void (*pull_start)(struct berth_loop *loop, struct berth_slot *conn);
    void (*pull_stop)(struct berth_loop *loop, struct berth_slot *conn);

    /** The send queue is not empty and CONN_SENDING is not set: send from its head. */
    void (*send)(struct berth_loop *loop, struct berth_slot *conn);

    /**
     * Learns at once which sends that are read in place the kernel is done with, where an event
     * would tell of it later. NULL: each is an event of its own.
     */
    unsigned (*zerocopy_news)(struct berth_loop *loop, struct berth_slot *conn);

    /** Reports conn_connected when the descriptor is writable. */
    int (*connect_wait)(struct berth_loop *loop, struct berth_slot *conn);

    /** Makes every operation in flight on the descriptor come back. May be called again. */
    void (*cancel)(struct berth_loop *loop, struct berth_slot *slot);

    /** The descriptor is about to be closed: nothing is in flight, drop what refers to it. */
    void (*forget)(struct berth_loop *loop, struct berth_slot *slot);

    /**
     * With loop->direct only, which create sets: slots are numbered by a table of the engine's.
     * enter puts an ordinary descriptor into it, without keeping it, and returns the number;
     * replace puts one in the place of that number, of which nothing is in flight: 0 or -errno;
     * install makes an ordinary descriptor for a number and returns it; both -errno. shutdown is
     * shutdown(2) without one, in its own time; 0, or -EAGAIN: not now. close empties a place
     * before the next wait, and its number is not given out before that.
     */
    int (*direct_enter)(struct berth_loop *loop, int fd);
    int (*direct_replace)(struct berth_loop *loop, int index, int fd);
    int (*direct_install)(struct berth_loop *loop, int index);
    int (*direct_shutdown)(struct berth_loop *loop, struct berth_slot *slot, int how);
    void (*direct_close)(struct berth_loop *loop, int index);

    /**
     * A descriptor that is readable when a turn would report something, or -errno. Readable again
     * after what has been looked at and left.
     */
    int (*nest)(struct berth_loop *loop);

    /**
     * With such a descriptor, behind each turn: hands everything to the kernel, without waiting.
     * Nonzero if there is something to do at once that the descriptor does not tell of.
     */
    int (*rest)(struct berth_loop *loop);
    /** receive_start, for a slot of datagrams; it may starve instead (udp_starve). */
    int (*datagram_start)(struct berth_loop *loop, struct berth_slot *slot);

    /** send, for a slot of datagrams: from the head of its own queue. See udp_internal.h. */
    void (*datagram_send)(struct berth_loop *loop, struct berth_slot *slot);

    /** Appends lines about itself; as snprintf. */
    int (*explain)(const struct berth_loop *loop, char *text, size_t size);
};

extern const struct engine berth_engine_uring;
extern const struct engine berth_engine_epoll;
extern const struct engine berth_engine_poll;

#endif
