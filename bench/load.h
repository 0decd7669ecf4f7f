/*
 * The load: many real connections to an echo server, at most one message in flight on each, every
 * answer checked byte by byte. Closed loop (load_run): the next message follows the answer. Right
 * for "what does a message cost the server"; its latencies are those of a system kept full, to be
 * compared within one run and not quoted. Open loop (load_offer): messages come when they are due,
 * whether the server keeps up or not. Right for latencies.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <stdbool.h>
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
    bool yields;        /**< to a server on the same CPU, instead of spinning */
    /** Other work for this CPU, once in each turn of load_offer; may be NULL. 0 or -errno. */
    int (*beside)(void *context);
    void *context;
};

/** What has happened in the runs so far; all-zero at first, and only grows. */
struct load_result {
    uint64_t messages; /**< answers received and found right */
    uint64_t wall_ns;
    uint64_t cpu_ns; /**< of the load itself */
    struct histogram latency;
    struct histogram late; /**< of load_offer: from when a message was due until it was sent */
    /** Of load_offer: what a turn took. An answer may lie here so long before it is seen. */
    struct histogram turns;
};

/**
 * Connects, and exchanges one message on each connection, so that all are accepted and proven.
 * @return 0 or -errno: from connecting; -EPROTO: an answer was wrong; -ETIMEDOUT: none came;
 *         -ECONNRESET: the server closed; -ECANCELED: interrupted.
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

/**
 * Offers `per_second` messages a second for `ns` nanoseconds, evenly spaced, to each connection in
 * its turn, and adds to `result` (NULL: for warming up) what came of them. The latency of a message
 * counts from the moment it was due, also when its connection still waited for the answer before
 * (then it is sent as soon as that is here) or this program was late. So a server that stalls pays
 * for every message that came due meanwhile.
 *
 * `messages` counts the answers within the time. What was due in it is awaited for as long
 * again (a second at most) and enters the latencies; what is then unanswered enters them with the
 * age it has reached.
 *
 * Spins: this needs a CPU of its own (or `yields`). Returns as load_open.
 */
int load_offer(struct load *load, double per_second, uint64_t ns, struct load_result *result);

/** Waits until nothing is under way. Returns as load_open. */
int load_settle(struct load *load);

/** Answers received since the load was opened. */
uint64_t load_answered(const struct load *load);

/** Resets every connection (no TIME_WAIT is left behind). NULL is allowed. */
void load_close(struct load *load);

#endif
