/*
 * Forwarding: what one connection receives is sent on by another one, without a copy of berth's and
 * without a callback. A proxy is two connections that forward to each other.
 *
 * The bytes stay in the buffers that they were received into, and are queued as leases. When the
 * receiver of them is slow, its queue passes send_high_bytes (or has as many pieces as that is
 * worth in 4 KiB buffers: small pieces hold a buffer each), and nothing more is received for it
 * until the queue is short again. The two directions of a proxy do not wait for each other.
 *
 * Threads: both connections' loop, as for everything about a connection.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_FORWARD_H
#define BERTH_FORWARD_H

#include "berth/attr.h"
#include "berth/loop.h"

BERTH_BEGIN_DECLS

/**
 * One end is the other's end, too: when either connection is over, the other is closed as well,
 * after what is queued for it has been sent (for close_timeout_ms at most): in the ordinary way if
 * the first one's close had the reason 0, with a reset (and the reason -ECONNRESET) otherwise. One
 * that is still connecting is aborted.
 */
#define BERTH_FORWARD_CLOSE 1u

/**
 * Nobody needs to see the bytes: they go from socket to socket through a pipe (splice(2)), and are
 * never in memory of ours. Counted as received_spliced and sent_spliced. A pipe is there only while
 * there is something in it; where there can be none (no descriptors, a loop with direct ones, a
 * system without splice) the bytes go by leases. What is received from then on only: what the
 * engine has taken already goes by leases.
 *
 * For bulk: each piece costs five system calls or so, whatever its length.
 */
#define BERTH_FORWARD_SPLICE 2u

/**
 * From now on sends to `to` what `from` receives; `to` NULL ends that, and `from`'s data callback
 * is called again. A second call for the same `from` changes the flags, or where it goes from here
 * on: what is queued already goes where it was queued. What a data callback is being lent when it
 * calls this is still its own affair: send it first, if it belongs to the stream.
 *
 * `to` may be sent to by others meanwhile, may itself forward (to `from`, say, or to a third), and
 * may still be connecting: then its queue waits. A connection is forwarded to by one other at a
 * time. `from` and `to` may be the same: an echo.
 *
 * What is received counts in the statistics and in the copy ledger as ever, `credit` and pauses of
 * yours hold, and all callbacks but `data` are called as ever. These differ:
 *
 *   end of stream  what is queued is sent, then `to`'s sending side is shut down. Without an eof
 *                  handler `from` is not closed as long as something is forwarded to it: it is when
 *                  that has ended, too.
 *   send_max_bytes does not hold for what is forwarded: what was received is always queued. It is
 *                  not more than the kernel had for us when receiving was to stop.
 *   pauses         a long queue of a connection that is forwarded to does not pause its receiving.
 *   no room        if there is no node for the queue (1,048,576 of them per loop), `from` is closed
 *                  with a reset, and the reason -ENOBUFS: a part of the stream is missing.
 *
 * Forwarding ends by itself when one of the two is closed, leaves its loop (berth_conn_detach,
 * berth_conn_move), or when `to`'s sending side has been shut down by somebody else. Then, without
 * BERTH_FORWARD_CLOSE, `from` receives for its data callback again.
 *
 * @param from   open, or about to be.
 * @param to     of the same loop; NULL: ends it.
 * @param flags  BERTH_FORWARD_CLOSE, BERTH_FORWARD_SPLICE, both, or 0.
 * @return 0; -EINVAL: not a connection, or an unknown flag; -EXDEV: not of the same loop; -EPIPE:
 *         `from` is closing, or its end of stream has been seen, or nothing can be sent to `to` any
 *         more; -EALREADY: one of them is leaving the loop; -EBUSY: somebody else forwards to `to`;
 *         -ENOMEM. What was forwarded before is forwarded on after an error.
 *
 * Also from callbacks. Cost: a hundred bytes for each connection that takes part, which are used
 * again; for each piece that is received a reference and a node of the queue. Since 0.1.
 */
BERTH_API int berth_forward(struct berth_conn *from, struct berth_conn *to, unsigned flags);

BERTH_END_DECLS

#endif
