/*
 * The load: many real connections to an echo server, one message in flight on each (a closed loop),
 * every answer checked byte by byte. Right for "what does a message cost the server"; its latencies
 * are those of a system kept full, to be compared within one run and not quoted.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <stdint.h>

#include "statistics.h"

/** Bytes of a message: room for its head, and what fits every socket buffer. */
#define LOAD_BYTES_MIN 16u
#define LOAD_BYTES_MAX 16384u

#define LOAD_CONNS_MAX 60000u

struct load;

struct load_options {
    const char *engine; /**< NULL: io_uring where granted, else epoll; or "uring" or "epoll" */
    uint32_t conns;     /**< 1 to LOAD_CONNS_MAX */
    uint32_t bytes;     /**< of one message */
    uint16_t port;      /**< on 127.0.0.1 */
};

/** What has happened in the runs so far; all-zero at first, and only grows. */
struct load_result {
    uint64_t messages; /**< answers received and found right */
    uint64_t wall_ns;
    uint64_t cpu_ns; /**< of the load itself */
    struct histogram latency;
};

/**
 * Connects, and exchanges one message on each connection, so that all are accepted and proven.
 * @return 0 or -errno: from connecting; -EPROTO: an answer was wrong; -ETIMEDOUT: none came;
 *         -ECONNRESET: the server closed.
 */
int load_open(struct load **load, const struct load_options *options);

/** Which engine the load itself runs on. */
const char *load_engine(const struct load *load);

/**
 * Runs for `ns` nanoseconds and adds to `result` (NULL: for warming up). Answers to what was under
 * way before count as messages, not as latencies. Ends early when machine_interrupted is set.
 * Returns as load_open.
 */
int load_run(struct load *load, uint64_t ns, struct load_result *result);

/** Resets every connection (no TIME_WAIT is left behind). NULL is allowed. */
void load_close(struct load *load);

#endif
