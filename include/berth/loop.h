/*
 * The bundled event loop. One contract on every engine: a receive is posted before the data comes;
 * spans of pool buffers are lent to the callback; what is not retained goes back by itself.
 *
 *   engine    how                                            where
 *   uring     multishot accept and receive into a shared     Linux with io_uring
 *             ring of pool buffers, batched sends
 *   epoll     reads into a pool buffer when epoll says so    Linux
 *   poll      the same over poll(2)                          everywhere
 *
 * An idle connection holds no buffer on any of them. Which engine was taken, and why not another,
 * is what berth_loop_explain says.
 *
 * Threads: a loop, its connections, its table and its pool belong to the thread that runs it.
 * berth_loop_stop may come from any thread and from a signal handler; other things cross by way of
 * berth/loop_cross.h. Run one loop per thread.
 *
 * A child of fork(2) cannot use its parent's loops: what names a loop returns -ECHILD there, and
 * what names a connection -EINVAL or NULL. It can make loops of its own.
 *
 * Callbacks: each may close, abort, pause or send on any connection of the loop, its own included.
 * A connection pointer is valid until its close callback has returned; across turns keep a token
 * (berth_conn_token) and ask berth_conn_find. No callback is entered from inside a berth call: they
 * come from berth_loop_turn and berth_loop_run only (and close callbacks from berth_loop_destroy).
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_H
#define BERTH_LOOP_H

#include <stddef.h>
#include <stdint.h>

#include "berth/attr.h"
#include "berth/copies.h"
#include "berth/explain.h"
#include "berth/loop_options.h"
#include "berth/pool.h"
#include "berth/stats.h"
#include "berth/table.h"
#include "berth/timer.h"
#include "berth/token.h"

BERTH_BEGIN_DECLS

struct berth_loop;
struct berth_listener;

/** A connection. It is its table slot: it never moves, and 40 bytes of it are yours. */
struct berth_conn;

/** Bytes of your own state in every connection: berth_conn_payload. */
#define BERTH_CONN_PAYLOAD_BYTES BERTH_SLOT_PAYLOAD_BYTES

/** The longest address text, with its ending zero: "unix:" and 108 bytes of path and some room. */
#define BERTH_ADDRESS_TEXT_MAX 128

/* ---- timeouts -------------------------------------------------------------------------------- */

/** What a connection may wait for only so long: berth_conn_timeout. Since 0.1. */
enum berth_timeout {
    BERTH_TIMEOUT_IDLE,   /**< no byte came or went */
    BERTH_TIMEOUT_READ,   /**< nothing came, while receiving was wanted: not paused, with credit */
    BERTH_TIMEOUT_WRITE,  /**< something is queued, and the kernel took none of it */
    BERTH_TIMEOUT_TOTAL,  /**< it lasts: counted from when the timeout was set, so set it in open */
    BERTH_TIMEOUT_CONNECT /**< berth_connect has come to no open: the same */
};
#define BERTH_TIMEOUT_KINDS 5

/** The longest timeout: twelve days. */
#define BERTH_TIMEOUT_MS_MAX (UINT32_C(1) << 30)

/* ---- the callbacks ------------------------------------------------------------------------- */

/**
 * What you want to hear. Any member may be NULL. The struct must outlive the listeners and
 * connections that were given it. `reason` is 0 or -errno.
 */
struct berth_handlers {
    /**
     * A connection was accepted, connected or adopted; `ctx` is what you gave with the handlers.
     * Return nonzero to refuse it: it is closed, and no other callback comes.
     */
    int (*open)(struct berth_conn *conn, void *ctx);

    /**
     * Bytes have come: `n` spans (at least 1) of `bytes` in all, 1 MiB at most; after a pause that
     * much may come once more, if the kernel had it already. They are lent: read them now, or
     * berth_retain what must stay. Writing into them is allowed, unless what comes may be mapped
     * (the option map_receive, berth_conn_map): mapped spans are read-only, and writing faults.
     * Where one span ends and the next begins says nothing about the stream.
     */
    void (*data)(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes);

    /** The send queue, which had passed send_high_bytes, is under send_low_bytes again. */
    void (*drained)(struct berth_conn *conn);

    /** The peer has finished sending; you may still send. NULL: the connection is closed then,
     *  after what is queued has been sent. */
    void (*eof)(struct berth_conn *conn);

    /**
     * A timeout that was set with berth_conn_timeout is over. If you do nothing, idle, read and
     * write timeouts begin anew, total and connect are done with. A connection that is not open yet
     * (BERTH_TIMEOUT_CONNECT) can be closed, or left to go on. NULL: it is closed with a reset, and
     * the reason -ETIMEDOUT.
     */
    void (*timeout)(struct berth_conn *conn, enum berth_timeout kind);

    /**
     * The connection is over, exactly once for every open that returned 0, and nothing after it.
     * `reason`: 0 when both sides finished, -ECANCELED when you aborted it or the loop was
     * destroyed, -ECONNRESET, -EPIPE, -ETIMEDOUT ... as the kernel said. For berth_connect it may
     * come without an open: the connection could not be made, and `reason` says why.
     */
    void (*close)(struct berth_conn *conn, int reason);
};

/* ---- the loop ------------------------------------------------------------------------------- */

/**
 * Makes a loop owned by the calling thread. With engine "auto" the first of uring, epoll, poll that
 * this system grants is taken: a refusal (seccomp, sysctl, memlock, an old kernel) is not an error,
 * and berth_loop_explain tells it.
 *
 * @param options  NULL for the defaults. Not kept.
 * @return 0; -EINVAL: an argument out of range, no such engine or feature; -EPROTO: headers and
 * library differ; -ENOMEM; -EMFILE; or, with an engine asked for by name, why that one failed.
 */
BERTH_API BERTH_NODISCARD int berth_loop_create(struct berth_loop **loop,
                                                const struct berth_loop_options *options);

/**
 * Closes every connection and datagram socket (their close callbacks come with -ECANCELED) and
 * listener, and frees the loop. What those callbacks want to begin (berth_connect, berth_listen,
 * berth_adopt, berth_udp_open) is refused with -ESHUTDOWN, a post with -ECANCELED. Not from a
 * callback. NULL is allowed. Returns 0; -EBUSY inside a callback; -ECHILD in a child of fork(2),
 * which must not touch its parent's loop. Leases still held keep the pool's memory alive only if
 * released before: release them first, or their memory is leaked and counted. Names that are being
 * looked up are not waited for: their threads end by themselves, when the resolver has given up (so
 * do not unload the library before).
 */
BERTH_API int berth_loop_destroy(struct berth_loop *loop);

/**
 * Turns until berth_loop_stop. Returns 0 when stopped or drained, -EBUSY inside a callback, -ECHILD
 * in a child of fork(2), or -errno if the engine itself failed.
 */
BERTH_API int berth_loop_run(struct berth_loop *loop);

/**
 * One turn: waits up to `timeout_ms` (-1: for ever, 0: not at all) for events, and handles them.
 * Returns how many were handled, or as berth_loop_run.
 */
BERTH_API int berth_loop_turn(struct berth_loop *loop, int timeout_ms);

/**
 * Makes berth_loop_run return after the current turn, or at once if it is not running now. Any
 * thread; also from a signal handler (it makes one write(2)). Returns 0, -EINVAL or -ECHILD.
 */
BERTH_API int berth_loop_stop(struct berth_loop *loop);

/**
 * Takes the loop out of service: it stops listening at once (who waits to be accepted is turned
 * away by the kernel), and lets the connections that exist go on. berth_loop_run returns 0 when the
 * last of them has gone. At the deadline the remaining ones are closed with a reset, and the reason
 * -ETIMEDOUT. There is no way back: berth_listen is refused from now on with -ESHUTDOWN,
 * berth_connect, berth_adopt, berth_udp_open and whoever comes from another loop (berth_conn_move)
 * from the deadline on. Listeners are yours to close still, or go with the loop.
 * Datagram sockets go on as before, for those connections may need them; berth_loop_run waits for
 * what is queued in them (to the deadline at most), not for the sockets: close those yourself, or
 * leave them to berth_loop_destroy.
 *
 * @param deadline_ms  from now; 0: in the next turn. A second call can only bring it nearer.
 * @return 0; -EINVAL; -ECHILD in a child of fork(2). The loop's thread only, inside callbacks or
 *         outside: from a signal handler call berth_loop_stop, then this, then berth_loop_run
 * again. Since 0.1.
 */
BERTH_API int berth_loop_drain(struct berth_loop *loop, uint32_t deadline_ms);

/**
 * Whether berth_loop_drain was called, or the loop is being destroyed: say "Connection: close", and
 * close who is idle. Since 0.1.
 */
BERTH_API int berth_loop_draining(const struct berth_loop *loop);

/** How far draining has come. Since 0.1. */
struct berth_drain_progress {
    uint32_t conns;        /**< connections that are still there, those being closed included */
    uint32_t left_ms;      /**< until the deadline; UINT32_MAX if the loop does not drain */
    uint64_t queued_bytes; /**< in their send queues */
};

/** Tells it; looks at every connection for that. 0, -EINVAL or -ECHILD. Since 0.1. */
BERTH_API int berth_loop_drain_progress(struct berth_loop *loop,
                                        struct berth_drain_progress *progress);

/**
 * Writes a few lines of text: the engine taken, the features used, and why the others were not.
 * Returns the length it needs, as snprintf does; `size` may be 0.
 */
BERTH_API int berth_loop_explain(const struct berth_loop *loop, char *text, size_t size);

/** "uring", "epoll" or "poll". */
BERTH_API const char *berth_loop_engine(const struct berth_loop *loop);

/**
 * The loop's own table and pool: the same objects that libberth offers. Theirs is the loop's life.
 * Leave the table's idle ticks to the loop: it notes in them when bytes came.
 */
BERTH_API struct berth_table *berth_loop_table(struct berth_loop *loop);
BERTH_API struct berth_pool *berth_loop_pool(struct berth_loop *loop);

/** A copy of the counters. */
BERTH_API void berth_loop_stats_get(const struct berth_loop *loop, struct berth_loop_stats *stats);

/** A copy of the copy ledger, the pool's part included. */
BERTH_API void berth_loop_copies_get(const struct berth_loop *loop, struct berth_copies *copies);

/** Connections open now, those being closed included. */
BERTH_API uint32_t berth_loop_conns(const struct berth_loop *loop);

/**
 * Parks, now, every connection that has received nothing for `idle_ms` (0: all that have nothing to
 * send): on io_uring the posted receive of each is exchanged for a poll request, which costs the
 * kernel a third of the memory, and its first byte exchanges it back. You notice nothing else.
 * The loop does the same by itself, bit by bit, with those that were idle for once to twice
 * options.idle_park_ms; with that at 0, idleness is counted from when this function last looked.
 * It frees no pool buffer: idle connections hold none.
 *
 * Also from a callback. Cost: a look at each live slot, and a submission for each that is parked.
 * @return how many are being parked; 0 on engines that post no receives; -EINVAL: NULL, or more
 *         than 3,600,000; -ECHILD in a child of fork(2). Since 0.1.
 */
BERTH_API int berth_loop_park_idle(struct berth_loop *loop, uint32_t idle_ms);

/* ---- where connections come from --------------------------------------------------------------
 *
 * Addresses: "tcp://host:port", "tcp://[::1]:port" (numeric hosts, or "localhost", or "*" for all),
 * "unix:/path", "unix:@abstract". Port 0 lets the kernel choose. berth_connect takes names as well,
 * "tcp://example.org:80": of letters, digits, "-" and "_" (others in their encoded form,
 * "xn--..."). IPv6 zones ("%eth0") are not known: link-local addresses cannot be written.
 */

/**
 * Listens. Connections it accepts get `handlers` and `ctx`. A stale unix socket file (nobody
 * listens) is replaced; the file is removed with the listener.
 * @param listener  receives the listener; may be NULL (it then lives as long as the loop).
 * @return 0; -EINVAL: not an address (names are none here); -EADDRINUSE, -EACCES, ... from the
 *         kernel; -EMFILE: the descriptor is past conns_max, or 255 listeners exist; -ENOMEM;
 *         -ESHUTDOWN.
 */
BERTH_API BERTH_NODISCARD int berth_listen(struct berth_loop *loop, const char *address,
                                           const struct berth_handlers *handlers, void *ctx,
                                           struct berth_listener **listener);

/** Stops listening. Its connections live on. NULL is allowed. */
BERTH_API void berth_listener_close(struct berth_listener *listener);

/** Writes the real address, as text that berth_connect takes. 0, or -ENOSPC. */
BERTH_API int berth_listener_address(const struct berth_listener *listener, char *text,
                                     size_t size);

/**
 * The listening descriptor, for socket options that accepted connections inherit. Do not close it.
 * -EINVAL for NULL; -EBADF when draining has closed it.
 */
BERTH_API int berth_listener_fd(const struct berth_listener *listener);

/**
 * Starts to connect. `open` follows when it is done, or `close` alone if it fails.
 *
 * A name is looked up by getaddrinfo(3) on a thread of the loop's own, the first of which is
 * started with the first name; there are up to four. Its addresses are tried in the order in which
 * they come, up to 32 of them, each until the kernel gives it up; `close` has the last one's error,
 * or why there is none:
 *
 *   -ENOENT        no such name, or it has no address
 *
 *   -EAGAIN        no name server answered: it may do so later
 *
 *   -EHOSTUNREACH  the name server cannot or does not want to answer
 *
 *   -EINVAL, -ENOMEM, -EAFNOSUPPORT, or what else getaddrinfo said
 *
 * Closing or aborting meanwhile is over at once. Until `open` the descriptor of a connection by
 * name is no more than a place, and what is set on it is lost: set socket options in `open`.
 * @param token  receives the connection's token; may be NULL.
 * @return 0; -EINVAL: neither an address nor a name; -EMFILE; -ENOMEM; -ESHUTDOWN; -EAGAIN: no
 *         thread to look the name up; or what the kernel said at once.
 */
BERTH_API BERTH_NODISCARD int berth_connect(struct berth_loop *loop, const char *address,
                                            const struct berth_handlers *handlers, void *ctx,
                                            berth_token *token);

/**
 * Takes over a connected stream socket. The loop owns `fd` from a return of 0 on; on an error it is
 * still yours. `open` is called in the next turn.
 * With direct descriptors the number `fd` is closed at once: the loop has the socket elsewhere.
 * @return 0; -EBADF; -ENOTSOCK; -EPROTOTYPE: not a stream socket; -ENOTCONN; -EEXIST: the loop has
 *         it already; -EMFILE: past conns_max; -ENOMEM; -ESHUTDOWN.
 */
BERTH_API BERTH_NODISCARD int berth_adopt(struct berth_loop *loop, int fd,
                                          const struct berth_handlers *handlers, void *ctx,
                                          berth_token *token);

/* ---- sending -----------------------------------------------------------------------------------
 *
 * One ordered stream per connection. A send never blocks and never sends from inside the call: it
 * queues, and what a turn has queued for a connection goes out together at the end of its event.
 * Short sends are resumed. Every send returns 0, or:
 *   -EPIPE     the connection is closing, or its sending side has been shut down
 *   -ENOBUFS   send_max_bytes would be passed, or no buffer is free: nothing was queued
 *   -EINVAL    NULL, or a length over 1 GiB
 *
 * When zerocopy_bytes or more are queued, the kernel is asked to read them where they are instead
 * of copying them (io_uring SEND_ZC, MSG_ZEROCOPY). A lease is then held until the peer has
 * acknowledged its bytes, a wrapped one's free_fn is called only then, and the bytes must not
 * change meanwhile. Whether it did is in the copy ledger: sent_in_place, sent_copied_anyway. Where
 * it copies all the same, 8 times in a row (loopback, tunnels), the connection sends copies, and
 * tries again after 64 MiB; where it cannot (unix: sockets) likewise. No more than
 * zerocopy_pinned_max is read so at a time, and 4 MiB or a quarter of that for one connection; what
 * is beyond is copied, never refused and never waited for.
 *
 * A close waits until the kernel is done with the memory, as long as the peer acknowledges
 * something every 100 s (or close_timeout_ms, if that is more); then it resets. While more than an
 * eighth of conns_max, or of RLIMIT_NOFILE, are closing, it is every close_timeout_ms. When the
 * loop is destroyed, or a drain's deadline has passed, the wait is 3 s at most. An abort waits for
 * nothing. A socket with SO_ZEROCOPY set before it was adopted sends copies on readiness engines:
 * nobody knows how many sends the kernel has counted.
 */

/** Copies `length` bytes into the send queue (counted as sent_gather). */
BERTH_API int berth_send(struct berth_conn *conn, const void *data, size_t length);

/**
 * Queues the bytes of a span that the data callback of any connection of this loop was lent,
 * without copying them: an echo, or a proxy. Cheaper than berth_retain and berth_send_lease. Also
 * -ESTALE.
 */
BERTH_API int berth_send_span(struct berth_conn *conn, const struct berth_span *span);

/**
 * Queues leased bytes without copying. The loop owns the lease from a return of 0 on. (A piece of
 * up to 512 bytes that has to wait behind others is copied after all, so that it does not keep a
 * big buffer busy; counted as sent_gather.)
 */
BERTH_API int berth_send_lease(struct berth_conn *conn, struct berth_lease lease);

/** Queues all leases of the chain, which is empty after a return of 0 and unchanged otherwise. */
BERTH_API int berth_send_chain(struct berth_conn *conn, struct berth_chain *chain);

/**
 * Queues `length` bytes of a file, from `offset` on, in order with everything else that is queued.
 * Its pages go to the socket by reference, without a copy in user space (counted as sent_file).
 *
 * The loop owns `fd` from a return of 0 on, and closes it when the last byte was taken or the queue
 * is dropped; dup(2) to keep one. Its file position is neither used nor changed.
 *
 * The queue (berth_conn_queued, the marks, `drained`) counts what is left of it, but no more than
 * send_high_bytes, and so a file of any length is taken unless send_max_bytes are queued already.
 * As these bytes cost less than others, a connection may send 16 times fairness_bytes of them in a
 * turn. The socket is never waited for, but the disk may be: the file is read by the thread of the
 * loop. What is changed in the file meanwhile may or may not arrive changed.
 *
 * Where the kernel cannot send a file by reference, and where a loop with direct descriptors finds
 * no descriptor free, it is read into pool buffers (sent_gather, and sent_kernel). If there is none
 * the queue waits until one is given back, by whatever thread; closing and timeouts go on. After 10
 * seconds whoever has waited longest gives way: all buffers may stand behind files that wait.
 *
 * When the bytes do not come the connection is closed with a reset, and the reason -ENODATA: the
 * file has become shorter; -ENOBUFS: it must be read into a buffer, and there was none for 10
 * seconds, or no queue node is free for that; or what reading it says, as -EIO.
 *
 * A connection that leaves its loop (berth_conn_detach, berth_conn_move) goes when the file and
 * what is queued behind it have gone; files are never handed over.
 *
 * A program that ignores SIGPIPE, when it calls this and for as long as the file is under way,
 * saves two system calls per turn.
 *
 * 0, or besides the above:
 *   -EINVAL   length 0; an end that no file can have; no regular file and no block device
 *   -ERANGE   the file ends before offset + length (of a block device that shows later: -ENODATA)
 *   -EBADF    `fd` is not open, or not for reading
 *   -ENOBUFS  send_max_bytes are queued, or no queue node is free
 * Three system calls. Since 0.1.
 */
BERTH_API int berth_send_file(struct berth_conn *conn, int fd, uint64_t offset, uint64_t length);

/** Bytes queued and not yet taken by the kernel: of a file no more than send_high_bytes. */
BERTH_API size_t berth_conn_queued(const struct berth_conn *conn);

/* ---- a connection --------------------------------------------------------------------------- */

/** Sends what is queued, then ends the sending side: the peer sees the end of the stream. 0/-EPIPE.
 */
BERTH_API int berth_conn_shutdown(struct berth_conn *conn);

/**
 * Closes: no more data callbacks; what is queued is sent (for close_timeout_ms at most), and what
 * is read in place is waited for (see "sending"); then `close` is called and the descriptor closed.
 * Bytes of the peer that nobody has read make the kernel end the connection with a reset. Returns
 * 0, or -EALREADY.
 */
BERTH_API int berth_conn_close(struct berth_conn *conn);

/** Closes at once with a reset; what is queued is dropped. Returns 0, or -EALREADY when aborting.
 */
BERTH_API int berth_conn_abort(struct berth_conn *conn);

/**
 * How many more bytes may be received: 0 stops receiving, BERTH_CREDIT_UNLIMITED (the default)
 * lifts the limit. Bytes delivered use it up; what arrived before the call took effect may exceed
 * it by what the kernel had already received. An end of stream is seen only while there is credit.
 * Returns 0, or -EPIPE when the connection is closing.
 */
BERTH_API int berth_conn_credit(struct berth_conn *conn, size_t bytes);
#define BERTH_CREDIT_UNLIMITED SIZE_MAX

/**
 * Sets a timeout of `ms` milliseconds from now, or clears it with 0. Each kind has one of its own;
 * handlers.timeout hears of them. Idle, read and write timeouts of a connection that is not open
 * yet begin when it opens. They end when the connection is closed: close_timeout_ms rules then.
 *
 * A timeout of T comes between T and T + T / 8 + 2 ms after what it counts from, and then waits for
 * its turn. (Where io_uring looks for quiet connections by itself, idle and read timeouts may be up
 * to 128 ms later still.) What is received and sent pays nothing for it: the loop looks eight times
 * in the shortest period. While an idle or write timeout is set, io_uring sends queues of more than
 * 16 KiB in pieces, so that it can be seen whether the kernel takes any.
 *
 * @return 0; -EINVAL: not a connection, no such kind, or more than BERTH_TIMEOUT_MS_MAX; -EPIPE: it
 *         is closing; -EISCONN: BERTH_TIMEOUT_CONNECT of one that is connected. Since 0.1.
 */
BERTH_API int berth_conn_timeout(struct berth_conn *conn, enum berth_timeout kind, uint32_t ms);

/**
 * Whether what the connection receives is mapped in place of being copied (TCP_ZEROCOPY_RECEIVE):
 * `on` 1: from now on; 0: never; -1 (at first): as the option map_receive says, if it receives in
 * bulk, in segments of whole pages or of 32 KiB and more; not for the next 64 MiB (then 128, ...)
 * if less than half of a MiB could be mapped.
 *
 * Mapped spans are whole pages, and read-only; what lies in no whole page is copied, into spans of
 * its own. A lease keeps up to 256 KiB mapped, outlives connection and sockets, and can be sent
 * like any other. Memory that nobody holds is unmapped at the end of some turn: touching it raises
 * SIGBUS. Children of fork(2) do not inherit it. It pays for who looks at little of what comes.
 *
 * @return 0; -EINVAL; -EPIPE: it is closing; -ENOTCONN: not open yet; and for 1: -EOPNOTSUPP: not
 *         TCP, not Linux, direct descriptors, or the feature is off; -EBUSY: its bytes are fetched
 *         in another way; -ENOMEM; or what the kernel said. The loop's thread. Since 0.1.
 */
BERTH_API int berth_conn_map(struct berth_conn *conn, int on);

/** Your 40 bytes, zero when the connection opens. Valid as long as `conn`. */
BERTH_INLINE void *
berth_conn_payload(struct berth_conn *conn)
{
    return berth_slot_payload((struct berth_slot *)(void *)conn);
}

/** Your cold record (options.cold_bytes), zero when the connection opens; NULL if there is none. */
BERTH_API void *berth_conn_cold(struct berth_conn *conn);

/** What outlives the connection: keep this, not the pointer. */
BERTH_INLINE berth_token
berth_conn_token(const struct berth_conn *conn)
{
    return berth_slot_token((const struct berth_slot *)(const void *)conn, 0);
}

/** The open connection that `token` names, or NULL. One cache line. */
BERTH_API struct berth_conn *berth_conn_find(struct berth_loop *loop, berth_token token);

/** The loop and the `ctx` of a connection. */
BERTH_API struct berth_loop *berth_conn_loop(const struct berth_conn *conn);
BERTH_API void *berth_conn_context(const struct berth_conn *conn);

/**
 * The descriptor of a connection. Do not close it. -1 on a loop with direct descriptors, whose
 * connections have none; -EINVAL: NULL, or it is gone. Since 0.1.
 *
 * With options.direct_descriptors, and where the kernel has what it takes (Linux 6.13; what is
 * missing is told by berth_loop_explain), connections live in a table of the ring instead of the
 * process's: accepting one touches no descriptor table, and each operation finds its file without
 * taking a reference. What only a system call can do becomes dearer, by up to four system calls
 * each: berth_conn_abort, berth_conn_shutdown, berth_conn_peer. The table has as many places as
 * conns_max and RLIMIT_NOFILE allow, of 8 bytes each; listeners and all other connections share it.
 */
BERTH_API int berth_conn_fd(const struct berth_conn *conn);

/**
 * A new descriptor for the connection's socket, which is yours to close: for socket options, on any
 * loop. What is set on the socket holds for the connection; reading, writing or shutting it down
 * behind the loop's back does not end well.
 * @return the descriptor; -EINVAL: NULL, or it is gone; -EMFILE, -ENFILE; -EAGAIN: direct
 *         descriptors, and the loop has not turned yet, or the kernel takes nothing just now.
 *
 * One system call, or up to two with direct descriptors. The loop's thread. Since 0.1.
 */
BERTH_API int berth_conn_fd_install(const struct berth_conn *conn);

/**
 * A copy of the connection's counters; the last time to ask is its close callback. Costs 64 bytes
 * copied. Returns 0; -EINVAL; -ENOTSUP: the loop was made without the option conn_stats.
 */
BERTH_API int berth_conn_stats_get(const struct berth_conn *conn, struct berth_conn_stats *stats);

/**
 * Writes the peer's address. 0, -ENOSPC, or what getpeername(2) said; with direct descriptors also
 * what berth_conn_fd_install says.
 */
BERTH_API int berth_conn_peer(const struct berth_conn *conn, char *text, size_t size);

BERTH_END_DECLS

#endif
