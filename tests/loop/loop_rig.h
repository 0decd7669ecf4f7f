/*
 * What some tests of the loop share: a loop with one listener on any engine, plain sockets as its
 * clients, turning a bounded number of times, and looking that nothing is left when it is over.
 *
 * Clients and loop live in one thread: nothing moves but when the loop is turned.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_RIG_H
#define BERTH_TESTS_LOOP_RIG_H

#include <check.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "berth/loop.h"
#include "support/support.h"

/**
 * Every engine there is, by the number that a loop test gets; "uring-direct" is "uring" with direct
 * descriptors. The first three are what berth_loop_options.engine takes.
 */
extern const char *const rig_engines[];
#define RIG_ENGINES 4

/** How long one turn may wait: a test that waits for nothing takes this times its turns. */
#define RIG_TURN_MS 10

struct rig {
    struct berth_loop *loop;
    struct berth_listener *listener;
    unsigned descriptors; /**< open before */
};

/** Whether this build and this kernel have the engine; says so on standard output if not. */
int rig_has(const char *engine);

/** Whether it is io_uring, in either way. */
int rig_is_uring(const char *engine);

/** A descriptor for the connection's socket, on any engine. Close it. */
int rig_conn_fd(const struct berth_conn *conn);

/**
 * Whether the loop does not do without that feature: see `features` in berth/loop.h. Says so on
 * standard output if it does. Engines that know no features do without none.
 */
int rig_uses(const struct berth_loop *loop, const char *feature);

/** Options that suit tests: that engine, and a pool of `pool` (NULL: the defaults). */
void rig_options(struct berth_loop_options *options, const char *engine,
                 const struct berth_pool_options *pool);

/** Makes the loop and its listener, on TCP's loopback. `ctx` goes to the handlers. */
void rig_begin(struct rig *rig, const struct berth_loop_options *options,
               const struct berth_handlers *handlers, void *ctx);

/** Checks table and pool, destroys, and compares descriptors. Clients must be closed before. */
void rig_end(struct rig *rig);

/** Table and pool agree with themselves. */
void rig_verify(const struct rig *rig);

/** A connected client that does not block; -errno instead if there is no descriptor for it. */
int rig_connect(const struct rig *rig);

/** The same for any listener of any loop. */
int rig_connect_to(const struct berth_listener *listener);

/** The same, and it must succeed. */
int rig_client(const struct rig *rig);

/** One turn that must not fail. */
int rig_turn(const struct rig *rig, int timeout_ms);

/** Turns until the condition holds; fails after `turns_max` turns. */
#define RIG_UNTIL(rig, condition, turns_max)                                                       \
    do {                                                                                           \
        unsigned rig_turns = 0;                                                                    \
        int rig_holds;                                                                             \
        while (!(rig_holds = (condition) != 0) && rig_turns++ < (unsigned)(turns_max))             \
            (void)rig_turn((rig), RIG_TURN_MS);                                                    \
        ck_assert_msg(rig_holds, "not after %u turns: " #condition, (unsigned)(turns_max));        \
    } while (0)

/** What the client could read now: bytes, 0 at the end of the stream, -EAGAIN, -ECONNRESET ... */
intptr_t rig_read(int client, void *data, size_t size);

/** Sends all of it; it must fit into the socket. */
void rig_write(int client, const void *data, size_t size);

/** Sends zeroes, as many as the socket takes. */
void rig_flood(int client);

/** Closes the clients, and turns until the loop has no connection any more. */
void rig_close_all(const struct rig *rig, const int *clients, unsigned count);

/** Closes with a reset. */
void rig_reset(int client);

/** An echo, for handlers.data: aborts the connection when it cannot send. */
void rig_echo(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes);

/** One client, one message there and back: the loop works. */
void rig_try_echo(const struct rig *rig);

struct berth_loop_stats rig_stats(const struct rig *rig);

/**
 * Runs the statement in a child, where limits may be lowered: it must end with 0, or with 77 for
 * "cannot be tried here", which is then the value. Assertions of Check do not work in it: see
 * RIG_MUST.
 */
#define RIG_IN_CHILD(skipped, statement)                                                           \
    do {                                                                                           \
        int rig_status = 0;                                                                        \
        (void)fflush(NULL);                                                                        \
        const pid_t rig_child = fork();                                                            \
        ck_assert_int_ge(rig_child, 0);                                                            \
        if (rig_child == 0) {                                                                      \
            statement;                                                                             \
            (void)fflush(NULL);                                                                    \
            _exit(0);                                                                              \
        }                                                                                          \
        ck_assert_int_eq(waitpid(rig_child, &rig_status, 0), rig_child);                           \
        (skipped) = WIFEXITED(rig_status) && WEXITSTATUS(rig_status) == 77;                        \
        ck_assert_msg((skipped) || (WIFEXITED(rig_status) && WEXITSTATUS(rig_status) == 0),        \
                      "the child ended with status %#x", (unsigned)rig_status);                    \
    } while (0)

/** In a child: says what is wrong, and ends it. */
#define RIG_MUST(condition)                                                                        \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s:%d: must hold: %s\n", __FILE__, __LINE__, #condition);                      \
            (void)fflush(stdout);                                                                  \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

/** In a child: says why it cannot be tried here, and ends it. */
#define RIG_SKIP(...)                                                                              \
    do {                                                                                           \
        printf("skipped: " __VA_ARGS__);                                                           \
        (void)fflush(stdout);                                                                      \
        _exit(77);                                                                                 \
    } while (0)

/**
 * Adds a test as a case of its own, once for each engine, or only for the one that
 * BERTH_TEST_ENGINE in the environment names.
 */
void rig_add(Suite *suite, const char *name, const TTest *test);
#define RIG_ADD(suite, test) rig_add(suite, #test, test)

/** Adds a test that chooses its engine itself as a case of its own, for _i from 0 to `count` - 1.
 */
void rig_add_counted(Suite *suite, const char *name, const TTest *test, int count);
#define RIG_ADD_COUNTED(suite, test, count) rig_add_counted(suite, #test, test, count)

/** Those clients that were told to go are closed, and their places become -1. Returns how many. */
unsigned rig_count_refused(int *clients, unsigned count);

/** For the first line of a test that runs over all engines. */
#define RIG_ENGINE_OR_RETURN(engine)                                                               \
    const char *const engine = rig_engines[_i];                                                    \
    if (!rig_has(engine))                                                                          \
    return

#endif
