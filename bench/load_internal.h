/*
 * Between load.c, which knows messages, and load_epoll.c and load_uring.c, which know how bytes are
 * waited for.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_LOAD_INTERNAL_H
#define BENCH_LOAD_INTERNAL_H

#include <stddef.h>

#include "load.h"

/** One connection: half a cache line. */
struct load_conn {
    uint64_t sent_ns; /**< when the message under way was sent; 0: not to be timed */
    int fd;
    uint32_t sequence; /**< of the message under way */
    uint32_t received; /**< bytes of its answer so far */
    uint32_t sent;     /**< bytes of it that the socket has taken */
};

struct load_io {
    const char *name;
    int (*open)(struct load *load);                 /* 0 or -errno */
    int (*add)(struct load *load, uint32_t index);  /* a connection has been made */
    int (*wait)(struct load *load, int timeout_ms); /* calls load_received for what came */
    void (*disarm)(struct load *load);              /* connections are about to be closed */
    void (*close)(struct load *load);
};

extern const struct load_io load_io_epoll;
extern const struct load_io load_io_uring;

struct load {
    struct load_options options;
    const struct load_io *io;
    void *io_state;
    struct load_conn *conns;
    uint32_t opened;
    uint32_t unfinished;       /**< sends cut short, not yet resumed */
    int quiet;                 /**< nonzero: answers are not followed by new messages */
    uint64_t answered;         /**< since the load was opened */
    struct histogram *latency; /**< NULL: not timed now */
};

/** Bytes have come on connection `index`. 0, or -errno if they are not what was sent. */
int load_received(struct load *load, uint32_t index, const unsigned char *data, size_t bytes);

#endif
