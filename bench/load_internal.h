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
    uint32_t offered;  /**< messages sent since load_offer began */
};
_Static_assert(sizeof(struct load_conn) == 32, "half a cache line");

struct load_io {
    const char *name;
    int (*open)(struct load *load);                /* 0 or -errno */
    int (*add)(struct load *load, uint32_t index); /* a connection has been made */
    /* Calls load_received for what came; 0: looks, and does not wait. Events, or -errno. */
    int (*wait)(struct load *load, int timeout_ms);
    void (*disarm)(struct load *load); /* connections are about to be closed */
    void (*close)(struct load *load);
};

extern const struct load_io load_io_epoll;
extern const struct load_io load_io_uring;

/** Messages that are due at times of their own: see load_offer.c. */
struct load_schedule {
    uint64_t start_ns;
    double interval_ns;
    uint64_t count;         /**< of all that are due before the end */
    uint64_t next;          /**< the first that was not yet due at the last look */
    uint32_t next_conn;     /**< the connection it belongs to: next modulo their number */
    struct histogram *late; /**< how late this program itself was; or NULL */
};

struct load {
    struct load_options options;
    const struct load_io *io;
    void *io_state;
    struct load_conn *conns;
    uint32_t opened;
    uint32_t unfinished; /**< sends cut short, not yet resumed */
    /** What follows an answer on connection `index`; NULL: nothing. 0 or -errno. */
    int (*follow)(struct load *load, uint32_t index, uint64_t now_ns);
    uint64_t asked;    /**< messages begun since the load was opened */
    uint64_t answered; /**< ... and answered */
    uint64_t heard_ns; /**< when there was an answer last, as far as load_turn has looked */
    uint64_t heard_answers;
    struct histogram *latency; /**< NULL: not timed now */
    struct load_schedule schedule;
};

/** Sends the connection's next message; its latency counts from `from_ns` (0: not). 0 or -errno. */
int load_send_next(struct load *load, uint32_t index, uint64_t from_ns);

/** Waits once, up to `timeout_ms`, and finishes short sends. Events, or -errno. */
int load_turn(struct load *load, int timeout_ms);

/** Begins to watch for silence. */
void load_listen(struct load *load, uint64_t now_ns);

/** -ETIMEDOUT if for long nothing has been answered, else 0. */
int load_silence(struct load *load, uint64_t now_ns);

/** Waits until `answers` have come in all. 0, -ETIMEDOUT, -ECANCELED or what went wrong. */
int load_await(struct load *load, uint64_t answers);

/** Bytes have come on connection `index`. 0, or -errno if they are not what was sent. */
int load_received(struct load *load, uint32_t index, const unsigned char *data, size_t bytes);

#endif
