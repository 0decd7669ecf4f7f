/*
 * The words of a slot as the loop uses them: what the slot is, and where its connection's life has
 * come to. Only names and masks; what they mean together is conn.c's affair.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_CONN_STATE_H
#define BERTH_LOOP_CONN_STATE_H

#include "berth/table.h"

/* ---- slot->state ----------------------------------------------------------------------------
 * The upper 8 bits number the loop (so that a connection knows its loop without a pointer), the
 * lowest 2 say what the slot is, and the 22 between them are flags.
 */
#define LOOP_ID_SHIFT 24
#define LOOP_COUNT_MAX 256

/** What a slot is: the lowest bits of its state. */
enum slot_kind {
    KIND_CONN = 0,
    KIND_LISTENER = 1, /**< it accepts connections */
    KIND_WAKE = 2,     /**< the wake-up descriptor */
    KIND_DATAGRAM = 3  /**< a socket without connections */
};
#define SLOT_KIND_MASK 3u

enum conn_state {
    CONN_CONNECTING = 1u << 2,      /**< berth_connect, not there yet */
    CONN_OPENED = 1u << 3,          /**< open returned 0: close is owed */
    CONN_RECEIVING = 1u << 4,       /**< a receive is posted (or interest registered) */
    CONN_SENDING = 1u << 5,         /**< the kernel has the head of the queue, or is full */
    CONN_STARVED = 1u << 6,         /**< queued for a buffer */
    CONN_EOF = 1u << 7,             /**< the peer has finished sending */
    CONN_SHUT_WANTED = 1u << 8,     /**< end the sending side when the queue is empty */
    CONN_SHUT_DONE = 1u << 9,       /**< it has been ended */
    CONN_CLOSE_WANTED = 1u << 10,   /**< close when the queue is empty */
    CONN_FAILED = 1u << 11,         /**< close now, drop the queue; cold->reason says why */
    CONN_HIGH = 1u << 12,           /**< the queue passed its high mark: drained is owed */
    CONN_CREDIT = 1u << 13,         /**< credit is limited: cold->credit */
    CONN_WATCHED = 1u << 14,        /**< readiness engines: registered with the poller */
    CONN_WRITABLE = 1u << 15,       /**< readiness engines: registered for writing too */
    CONN_OPEN_DUE = 1u << 16,       /**< adopted: open is owed */
    CONN_TODO = 1u << 17,           /**< conn_progress must look at it */
    CONN_TODO_LISTED = 1u << 18,    /**< it is in the todo list */
    CONN_CLOSING_LISTED = 1u << 19, /**< it is in the list of closing connections */
    CONN_ZOMBIE = 1u << 20,         /**< the kernel does not let go: set aside */
    CONN_RESET = 1u << 21,          /**< close with a reset */
    CONN_READ_ACTIVE = 1u << 22,    /**< bytes came since whoever looks for idle ones looked last */
    CONN_WRITE_ACTIVE = 1u << 23    /**< the kernel took bytes since then */
};

/**
 * Of slot->flags: much came when it was received from last, so that engines ask for much at once.
 * Not for everybody: io_uring looks up all buffers that might be needed before each receive, and a
 * big buffer is warm in no cache.
 */
#define SLOT_BULK BERTH_SLOT_DRIVER_2

/**
 * Of slot->flags: its bytes are fetched by a puller, if its cold record names one (pull.h). On
 * io_uring this is also the flag of parked connections: a poll request in place of a receive.
 */
#define SLOT_PULLS BERTH_SLOT_DRIVER_3

/** Anything that makes a send come too late. */
#define CONN_NO_SEND                                                                               \
    (SLOT_KIND_MASK | CONN_SHUT_WANTED | CONN_SHUT_DONE | CONN_CLOSE_WANTED | CONN_FAILED)

/** Whoever waits for the send queue to become short or empty. */
#define CONN_AFTER_SEND (CONN_HIGH | CONN_SHUT_WANTED | CONN_CLOSE_WANTED | CONN_FAILED)

/** Anything that makes further data unwelcome. */
#define CONN_NO_RECEIVE (CONN_EOF | CONN_CLOSE_WANTED | CONN_FAILED | CONN_CONNECTING)

#endif
