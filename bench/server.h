/*
 * An echo server in a process of its own, and the page of memory through which the measuring
 * process asks it for its counters. A server answers between two turns, never inside one, so that
 * processor time, system calls and messages belong to exactly the same work.
 *
 * Every server here, berth's and the hand-written ones, is compiled alike, does the same work, and
 * looks at this page once per turn.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_SERVER_H
#define BENCH_SERVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <berth/copies.h>

/** The longest a server sleeps without looking at its control page. */
#define SERVER_WAIT_MS 10

/** The size of a receive, the same for all of them. */
#define SERVER_RECEIVE_BYTES 4096

/** Events taken per turn by the hand-written ones; libraries have their own idea of it. */
#define SERVER_EVENTS_MAX 1024

/** In place of a count that this server cannot tell exactly. */
#define SERVER_COUNT_UNKNOWN UINT64_MAX

/** What a server has done since it started. The server itself fills in all but the processor time.
 */
struct server_counters {
    uint64_t cpu_ns;         /**< user and system time of the process */
    uint64_t wall_ns;        /**< the clock at that moment */
    uint64_t syscalls;       /**< that the server's loop made; or SERVER_COUNT_UNKNOWN */
    uint64_t turns;          /**< times it waited for events; or SERVER_COUNT_UNKNOWN */
    uint64_t received_bytes; /**< or SERVER_COUNT_UNKNOWN */
    uint64_t conns;          /**< open now; or SERVER_COUNT_UNKNOWN */
    uint64_t enobufs;        /**< receives that found no buffer; or SERVER_COUNT_UNKNOWN */
    uint64_t parked;         /**< connections of berth's loop that it has parked */
    int64_t buffers_held;    /**< pool buffers neither free nor posted; -1: has no pool */
    double copies_received;  /**< copies per byte from the ledger; negative: keeps none */
    double copies_sent;
    struct berth_copies copies; /**< all of that ledger */
    /* Of streams only (stream.h), for which received_bytes is what was received or sent. */
    uint64_t settled_bytes; /**< of which it is known by now whether the kernel copied them */
    uint64_t copied_bytes;  /**< of those: copied at most, as often as they were */
    uint64_t copied_least;  /**< of those: copied for certain */
    uint64_t words_checked;
    uint64_t words_wrong;
};

enum server_state { SERVER_STARTING = 0, SERVER_READY, SERVER_FAILED };

/** The shared page. The measurer writes `asked`, `stop` and `park`, the server the rest. */
struct server_control {
    _Atomic uint32_t asked;
    _Atomic uint32_t stop;
    _Atomic uint32_t park; /**< nonzero: park all connections now, where that means something */
    _Alignas(64) _Atomic uint32_t answered;
    _Atomic uint32_t state; /**< enum server_state */
    uint32_t cpu_shared;    /**< the server could not be bound to its CPU: -errno, or 0 */
    uint16_t port;
    int error; /**< why state is SERVER_FAILED, -errno */
    struct server_counters counters;
    char explain[1536]; /**< what the server says about how it works */
};

/** A way to serve: by `serve`, or as `command`. */
struct server_kind {
    const char *name;
    const char *summary;
    /** Returns when asked to stop: 0, or -errno if it could not start. */
    int (*serve)(struct server_control *control, const struct server_kind *kind);
    const char *engine;  /**< for those that offer several */
    bool direct;         /**< io_uring: with direct descriptors, or not at all */
    const char *missing; /**< what this build lacks to have it; then there is no `serve` */
    const char *command; /**< a program that the user brought, for /bin/sh: server_command.h */
    uint32_t share;      /**< bytes of a turn for one connection (fairness_bytes); 0: as it comes */
    bool by_name;        /**< compared only when --variants asks for it */
    bool library;        /**< serves on somebody's library, and explains which one */
};

/** All kinds, ended by a NULL name; the first is the one that others are compared with. */
extern const struct server_kind server_kinds[];

/** The name of number `at`, NULL past the last. */
const char *server_kind_name(unsigned at);

/* ---- for the measuring side ------------------------------------------------------------------ */

struct server {
    pid_t pid;
    struct server_control *control;
    const struct server_kind *kind;
};

/**
 * Starts a server in a new process on `cpu` (-1: anywhere) and waits until it listens.
 * @return 0; -errno: what the server could not do, or -ETIMEDOUT.
 */
int server_start(struct server *server, const struct server_kind *kind, int cpu);

/** Asks for the counters as of the next turn. 0, -ETIMEDOUT, -ECANCELED when interrupted, or -ESRCH
 * when it has died. */
int server_counters_get(struct server *server, struct server_counters *counters);

/** Ends the process. Allowed on a server that did not start. */
void server_stop(struct server *server);

/* ---- for the serving side -------------------------------------------------------------------- */

/** Whether to go round once more. */
static inline bool
server_running(const struct server_control *control)
{
    return atomic_load_explicit(&control->stop, memory_order_relaxed) == 0;
}

/** Whether the measurer waits for counters: then call server_answer. */
static inline bool
server_asked(const struct server_control *control)
{
    return atomic_load_explicit(&control->asked, memory_order_relaxed) !=
           atomic_load_explicit(&control->answered, memory_order_relaxed);
}

/** Adds the processor time to `counters` and hands them over. */
void server_answer(struct server_control *control, const struct server_counters *counters);

/** Says that connections are accepted on `port` from now on. */
void server_ready(struct server_control *control, uint16_t port);

/** A listening, non-blocking IPv4 loopback socket, set up by server_socket_tune. Or -errno. */
int server_listen(uint16_t *port);

/**
 * The options that every socket of every contestant has: no Nagle delay, and the cubic congestion
 * control where the system grants it (with a pacing one, timers are measured). What a listener
 * accepts inherits them: setting the control later would leave pacing on. 0 or -errno.
 */
int server_socket_tune(int fd);

/** What a server without pool and ledger starts counting from. */
static inline struct server_counters
server_counters_begin(void)
{
    return (struct server_counters){.buffers_held = -1, .copies_received = -1, .copies_sent = -1};
}

int rival_epoll_serve(struct server_control *control, const struct server_kind *kind);
int rival_uring_serve(struct server_control *control, const struct server_kind *kind);
int rival_libev_serve(struct server_control *control, const struct server_kind *kind);
int rival_libuv_serve(struct server_control *control, const struct server_kind *kind);
int rival_libevent_serve(struct server_control *control, const struct server_kind *kind);
int rival_libevent_event_serve(struct server_control *control, const struct server_kind *kind);
int server_berth_serve(struct server_control *control, const struct server_kind *kind);

#endif
