/*
 * Sends whose bytes the kernel reads in place: which are, how much of them at a time, and what is
 * kept until the kernel says that it is done with the memory. How they are made and how the kernel
 * says so is an engine's affair.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_ZEROCOPY_H
#define BERTH_LOOP_ZEROCOPY_H

#include <stddef.h>
#include <stdint.h>

struct berth_loop;
struct berth_slot;
struct iovec;

/** Sends of one connection that the kernel is not done with, at most: as many operation bytes. */
#define ZEROCOPY_SENDS_MAX 16

/** loop->zerocopy_from: nothing is read in place. */
#define ZEROCOPY_NEVER UINT32_MAX

/** What has become of a send. */
enum zerocopy_state {
    ZEROCOPY_FREE,      /**< there is none under this number */
    ZEROCOPY_SUBMITTED, /**< the kernel has not said yet how much of it it takes */
    ZEROCOPY_EARLY,     /**< the same, but it has said already that it is done with the memory */
    ZEROCOPY_TAKEN      /**< bytes are taken, and the memory is being read */
};

/** One send. */
struct zerocopy_send {
    uint32_t nodes;  /**< what the kernel reads, off the queue: linked by `next` */
    uint32_t bytes;  /**< of it, that were taken */
    uint32_t pinned; /**< of the budgets, rounded up to pages */
    uint32_t number; /**< the kernel's, on readiness engines */
    uint32_t state;  /**< enum zerocopy_state */
};

/** The sends of one connection: there is such a record only while there is such a send. */
struct zerocopy {
    struct zerocopy *next; /**< among those in store, or those that are looked after */
    uint64_t until_ms;     /**< closing, or leaving: it is left alone until then */
    uint64_t moved_ms;     /**< when its peer was last seen to acknowledge something */
    int unacknowledged;    /**< bytes, when that was last looked at; 0: not yet */
    uint64_t home_ms;      /**< when they were asked for in earnest; 0: not yet */
    uint32_t slot;         /**< 1 + index: in the list of those that are looked after; 0: not */
    uint32_t spare;        /**< a node for what is taken in part */
    uint32_t pinned;       /**< bytes, of all of them */
    uint16_t count;        /**< of sends that are not ZEROCOPY_FREE */
    uint8_t sending;       /**< 1 + the number of the one that is submitted; 0: none is */
    uint8_t last;          /**< the number given out last: they go round */
    uint8_t leaving;       /**< the connection waits for nothing else to leave its loop */
    uint8_t overdue;       /**< and does so no longer */
    int home;              /**< the connection was ended, and what it had to send dropped */
    struct zerocopy_send sends[ZEROCOPY_SENDS_MAX];
};

/** What a loop knows of it. */
struct zerocopy_loop {
    uint64_t pinned, pinned_max, conn_pinned_max, process_pinned_max; /**< bytes */
    uint64_t *process_pinned; /**< atomic: of all loops of this process */
    struct zerocopy *store;
    struct zerocopy *watched; /**< of connections that no event tells of, or that are leaving */
    uint64_t watched_ms;      /**< when those were last looked after */
    uint32_t crowd;           /**< so many may be closing before they have to hurry */
    int insists;              /**< goes on, though the kernel says that it copies */
    const char *why;          /**< nothing is read in place, because; NULL: it may be */
};

/** In the cold record: what was learned of one connection. All zero at first. */
struct conn_zerocopy {
    struct zerocopy *sends; /**< NULL: none is under way */
    uint32_t rest_bytes;    /**< so many bytes are to be copied before the next try */
    uint32_t next_number;   /**< the kernel's, on readiness engines */
    uint8_t copied;         /**< sends in a row of which the kernel said that it copied */
    uint8_t flags;          /**< enum zerocopy_flag */
};
enum zerocopy_flag {
    ZEROCOPY_OFF = 1,     /**< this socket cannot */
    ZEROCOPY_PROVEN = 2,  /**< the last notification said "in place" */
    ZEROCOPY_REFUSED = 4, /**< the kernel had no room: the next one is copied */
    ZEROCOPY_ASKED = 8    /**< readiness engines: the socket was prepared */
};

/** What the kernel says of a send when it is done with it. */
enum zerocopy_verdict { ZEROCOPY_UNKNOWN, ZEROCOPY_IN_PLACE, ZEROCOPY_COPIED };

/** A send that is to be made. */
struct zerocopy_ask {
    unsigned send;   /**< its number */
    unsigned count;  /**< nodes, and iovecs */
    size_t bytes;    /**< in them */
    uint32_t pinned; /**< taken out of the budgets */
};

/** Reads the options and the limits of this process; `why` NULL: the engine can do it. */
void zerocopy_create(struct berth_loop *loop, const char *why);
void zerocopy_destroy(struct berth_loop *loop);

/** Appends a line; as snprintf. */
int zerocopy_explain(const struct berth_loop *loop, char *text, size_t size);

/**
 * The queue is as long as loop->zerocopy_from: is its head to be read in place? Writes up to
 * `count` iovecs. 1: `ask` says what to send, and the nodes are the kernel's from here on; 0: copy.
 */
int zerocopy_begin(struct berth_loop *loop, struct berth_slot *slot, struct iovec *iov,
                   unsigned count, struct zerocopy_ask *ask);

/** It was not even submitted: as if nothing had been. */
void zerocopy_undo(struct berth_loop *loop, struct berth_slot *slot,
                   const struct zerocopy_ask *ask);

/** The send is counted in slot->in_flight now. */
void zerocopy_submitted(struct berth_loop *loop, struct berth_slot *slot,
                        const struct zerocopy_ask *ask);

/**
 * The kernel took `bytes` of that send, which may be 0; `more`: it still reads them. Moves them
 * from the queue into the record.
 */
void zerocopy_taken(struct berth_loop *loop, struct berth_slot *slot, unsigned send, size_t bytes,
                    int more);

/** The kernel is done with the memory of a send. */
void zerocopy_done(struct berth_loop *loop, struct berth_slot *slot, unsigned send,
                   enum zerocopy_verdict verdict);

/** So many bytes went out as copies, from a connection that may be resting. */
void zerocopy_rested(struct berth_loop *loop, struct berth_slot *slot, size_t bytes);

/** The kernel refused to read in place, with -errno. 1: copy this time, or for good; 0: it is
 * something else. */
int zerocopy_refused(struct berth_loop *loop, struct berth_slot *slot, int error);

/** No event will tell of the connection's notifications: they are looked for from time to time. */
void zerocopy_watch(struct berth_loop *loop, struct berth_slot *slot);

/** They are not any more. */
void zerocopy_unwatch(struct berth_loop *loop, struct zerocopy *record);

/** Looks. Returns ms until it is due again, or -1. */
int zerocopy_tick(struct berth_loop *loop);

/** Whether the kernel still reads memory of the connection. */
int zerocopy_holds(const struct berth_loop *loop, const struct berth_slot *slot);

/* ---- closing: for conn.c --------------------------------------------------------------------- */

/** The connection is being taken down: from now on it is waited for only so long. */
void zerocopy_closing(struct berth_loop *loop, struct berth_slot *slot);

/** Ends the connection by that descriptor with a reset, and makes notifications come. */
void zerocopy_bring_home(struct berth_loop *loop, struct berth_slot *slot, int fd);

/** From time to time while it closes. 1: it may take its time. */
int zerocopy_closing_step(struct berth_loop *loop, struct berth_slot *slot, uint64_t now_ms);

/** It would leave the loop but for those sends. 1: it has waited for them long enough. */
int zerocopy_leaving(struct berth_loop *loop, struct berth_slot *slot);

/** The slot's record, of a zombie, is of no use any more; its memory stays the kernel's. */
void zerocopy_abandon(struct berth_loop *loop, struct berth_slot *slot);

#endif
