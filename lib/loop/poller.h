/*
 * What a readiness poller is: about a hundred lines over one system interface. engine_ready turns
 * any of them into an engine.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_POLLER_H
#define BERTH_LOOP_POLLER_H

#include <stddef.h>
#include <stdint.h>

#include "berth/token.h"

struct berth_table;

/**
 * What to wait for, and what happened. FAILED (error or hang-up) is always waited for. With EDGE a
 * poller that can reports a change once instead of again and again, and modify looks anew; one that
 * cannot ignores it. FINISHED: the peer has finished sending, so read to the end now; never missing
 * when an edge was all that told of it. HUNG_UP, with FAILED: both directions are over.
 */
enum poller_event {
    POLLER_READABLE = 1,
    POLLER_WRITABLE = 2,
    POLLER_FAILED = 4,
    POLLER_FINISHED = 8,
    POLLER_EDGE = 16,
    POLLER_HUNG_UP = 32
};

/** The operation byte of the tokens that readiness engines register (OP_READY). */
#define POLLER_TOKEN_OP 1

/** One descriptor that is ready. */
struct poller_ready {
    berth_token token;
    uint32_t events;
    uint32_t unused;
};

/** A poller's own state begins with this. */
struct poller {
    const struct poller_interface *interface;
    /** What a live slot is registered for, 0 if it is not: for rebuilding a set. */
    uint32_t (*interest)(void *context, uint32_t index);
    void *context;
    struct berth_table *table;
    uint64_t syscalls;
};

struct poller_interface {
    const char *name;
    /** Makes one for up to `events_max` events per wait; fills in what it needs of `base`. */
    int (*create)(struct poller **poller, uint32_t events_max);
    void (*destroy)(struct poller *poller);
    int (*add)(struct poller *poller, int fd, berth_token token, uint32_t events);
    int (*modify)(struct poller *poller, int fd, berth_token token, uint32_t events);
    void (*remove)(struct poller *poller, int fd);
    /** Waits; writes up to `count` ready descriptors and prefetches their slots. */
    int (*wait)(struct poller *poller, int timeout_ms, struct poller_ready *ready, uint32_t count);
    /** An event came for a slot that is gone: get rid of its registration. */
    void (*stale)(struct poller *poller, berth_token token);
    /** A descriptor that is readable when a wait would find something, or -EOPNOTSUPP. */
    int (*descriptor)(const struct poller *poller);
};

extern const struct poller_interface berth_poller_epoll;
extern const struct poller_interface berth_poller_poll;

#endif
