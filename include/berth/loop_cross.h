/*
 * What crosses a loop's border: calls from other threads, connections that leave for another loop
 * or for good, signals, and a loop that is driven by another one.
 *
 * A loop belongs to the thread that runs it. Only berth_loop_post, berth_loop_post_node and
 * berth_loop_stop may be called from any thread, as long as the loop exists when the call is made.
 * What the call brings about may be the loop's end: berth_loop_destroy waits for it to return.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_CROSS_H
#define BERTH_LOOP_CROSS_H

#include <stddef.h>

#include "berth/attr.h"
#include "berth/loop.h"
#include "berth/token.h"

BERTH_BEGIN_DECLS

/* ---- posting --------------------------------------------------------------------------------- */

/**
 * Runs in a turn of the loop that it was posted to. `loop` is NULL when that loop is being
 * destroyed instead: then only free what `arg` stands for.
 */
typedef void (*berth_post_fn)(struct berth_loop *loop, void *arg);

/** Something posted, in memory of yours. `next` is the library's. Since 0.1. */
struct berth_post {
    berth_post_fn fn;
    void *arg;
    struct berth_post *next;
};

/**
 * Has `node->fn(loop, node->arg)` called in the loop's next turn, from which it may do anything a
 * callback may. Calls of one thread are run in their order; of several threads, each thread's in
 * its order. Exactly one call follows every return of 0: if the loop is destroyed first, from
 * inside berth_loop_destroy, with NULL for the loop.
 *
 * Any thread; not from a signal handler. The node is yours again when `fn` is entered. Never waits,
 * allocates nothing; makes one write(2) if nothing else was posted since the loop looked last, and
 * none from a callback of the loop itself.
 * @return 0; -EINVAL; -ECANCELED: the loop is being destroyed; -ECHILD: in a child of fork(2).
 *         Since 0.1.
 */
BERTH_API int berth_loop_post_node(struct berth_loop *loop, struct berth_post *node);

/** The same without a node: one is allocated. Also -ENOMEM. Since 0.1. */
BERTH_API int berth_loop_post(struct berth_loop *loop, berth_post_fn fn, void *arg);

/* ---- leaving --------------------------------------------------------------------------------- */

/**
 * The end of a detachment. `conn` can be read for the last time (its payload, its cold record); no
 * callback for it follows. `fd` is yours from here on, with the O_NONBLOCK it had when it was
 * adopted; accepted and connected sockets block. Its number is the loop's until this returns: do
 * not close it here if you connect or adopt in the same loop here, which would be -EEXIST.
 *
 * Or `fd` is -errno: the connection failed or was closed before it could leave, and `close` follows
 * as it would have without. (With direct descriptors it fails if there is no descriptor for it.)
 * But after -ETIMEDOUT the connection stays, and no `close` follows: the kernel still reads memory
 * of this loop (see "sending" in loop.h), as the peer has acknowledged nothing for close_timeout_ms
 * (1 s at least). It receives again, and may be detached again, or aborted, here already.
 */
typedef void (*berth_detached_fn)(struct berth_conn *conn, int fd, void *arg);

/**
 * Takes a connection out of the loop without closing it. Receiving stops; what the kernel has
 * received meanwhile is still delivered; what is queued is sent, and more may be queued (by those
 * last data callbacks, say) until the queue has once been empty. Then `detached` is called instead
 * of `close`: bytes that were not delivered are still in the socket, none is lost or doubled. An
 * end of the stream is not told any more: the socket's next owner finds it, even one that the `eof`
 * callback has told already.
 *
 * A peer that does not read what is queued holds this up as long as it likes (not what the kernel
 * has taken): berth_conn_abort ends it. From
 * `open` too (no receive is posted then). berth_conn_credit is refused meanwhile with -EALREADY.
 * @return 0: `detached` will be called exactly once; -EINVAL; -EPIPE: closing; -ENOTCONN: still
 *         connecting; -EALREADY: being detached. Since 0.1.
 */
BERTH_API int berth_conn_detach(struct berth_conn *conn, berth_detached_fn detached, void *arg);

/**
 * How a move ended, called once for each berth_conn_move that returned 0.
 *
 * Error 0: in a turn of the new loop `to`, right before `open`, with the new connection's token. Or
 * -errno, and then either in a turn of the old loop, because the connection failed or was closed
 * before it could leave: `to` is NULL, the old handlers' `close` follows, or with -ETIMEDOUT it
 * stays, as berth_detached_fn says. Or in a turn of the new
 * loop, which had no room for it or has drained (-ESHUTDOWN), or (`to` is NULL) inside the call
 * that destroys the new loop: its descriptor has been closed.
 */
typedef void (*berth_moved_fn)(struct berth_loop *to, berth_token token, int error, void *ctx);

/**
 * Hands a connection over to another loop, of any engine, in any thread: berth_conn_detach here and
 * berth_adopt there. What is queued, files included (berth_send_file), goes from the old loop
 * first, and is waited for. On the new loop `handlers->open` is called with `ctx`, and everything
 * else after it; on the old one no callback follows, not even `close`. The payload travels along,
 * and of the cold record what fits; credit, timeouts, counters and what berth_conn_map said do not.
 * A sending side that has been shut down stays so, and an end of the stream is told again. `to`
 * must not be destroyed before `moved` has been called.
 * @param moved  may be NULL.
 * @return as berth_conn_detach; -EMFILE: the descriptor is past conns_max of `to`; -ENOMEM.
 *         Since 0.1.
 */
BERTH_API int berth_conn_move(struct berth_conn *conn, struct berth_loop *to,
                              const struct berth_handlers *handlers, void *ctx,
                              berth_moved_fn moved);

/* ---- signals --------------------------------------------------------------------------------- */

typedef void (*berth_signal_fn)(struct berth_loop *loop, int signo, void *ctx);

/**
 * Calls `fn` in a turn of the loop after the signal has come; several that came meanwhile are one
 * call. A NULL `fn` stops this and gives the signal its former disposition back, as
 * berth_loop_destroy does. Watching again replaces `fn` and `ctx`. No thread has to block the
 * signal. In a child of fork(2) the signal has its former disposition again when it first comes.
 * From the thread that turns the loop.
 * @return 0; -EINVAL: no signal, or one that cannot be caught or continued from (SIGKILL, SIGSTOP,
 *         SIGSEGV, SIGBUS, SIGFPE, SIGILL); -EBUSY: another loop watches it; -ENOENT: nothing to
 *         stop; -ENOMEM; -ECHILD. Since 0.1.
 */
BERTH_API int berth_loop_signal(struct berth_loop *loop, int signo, berth_signal_fn fn, void *ctx);

/* ---- a loop inside another ------------------------------------------------------------------- */

/**
 * A descriptor that is readable when berth_loop_turn(loop, 0) has something to do: put it into
 * another event loop, and turn whenever it is readable. It is right whatever is called between
 * turns: sends, closes, timeouts that come due, posts, stops. It may be readable for nothing, once
 * in a second at least. Only poll for reading; do not read from it or close it: it is closed with
 * the loop. From the thread that turns the loop, not from a callback before the first turn.
 *
 * From then on each turn costs up to three system calls more: the kernel must hear of everything
 * before the turn returns.
 * @return the descriptor, the same each time; -EINVAL; -EOPNOTSUPP: engine "poll", whose set is
 *         known to no kernel; -EMFILE; -ECHILD; or what starting the engine said. Since 0.1.
 */
BERTH_API int berth_loop_fd(struct berth_loop *loop);

BERTH_END_DECLS

#endif
