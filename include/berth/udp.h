/*
 * Datagrams on berth's loop: UDP over IPv4 and IPv6. A socket is bound, and connected to one peer
 * if you like; what arrives is lent to a callback as spans of pool buffers, many datagrams at a
 * time; what you send is queued, and goes out in batches at the end of the event.
 *
 *   engine       receives                                      sends
 *   uring        multishot recvmsg into a ring of buffers      submitted in batches with the wait
 *   epoll, poll  recvmmsg, up to 32 datagrams per call         sendmmsg, up to 32 datagrams per
 * call
 *
 * UDP promises nothing, and neither does this: a datagram may be lost, doubled or late. What berth
 * itself knows to be lost is counted and told: a datagram cut short is marked truncated, a send
 * that the kernel refused is reported to `error`, a send that finds no room is refused with
 * -ENOBUFS.
 *
 * Threads and callbacks: as in berth/loop.h. A callback may close any socket, its own included, and
 * send on any; no callback is entered from inside a call. A socket pointer is valid until its close
 * callback has returned; across turns keep a token (berth_udp_token) and ask berth_udp_find.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_UDP_H
#define BERTH_UDP_H

#include <stddef.h>
#include <stdint.h>

#include "berth/attr.h"
#include "berth/loop.h"
#include "berth/pool.h"
#include "berth/table.h"
#include "berth/token.h"

struct sockaddr;

BERTH_BEGIN_DECLS

/** A datagram socket. It is its table slot: it never moves, and 40 bytes of it are yours. */
struct berth_udp;

/** The longest datagram that can be sent: what IPv4 carries without its headers. */
#define BERTH_UDP_SEND_BYTES_MAX 65507u

/** The longest that is received whole: in a 4 KiB buffer, and in a 64 KiB buffer (`large`). The
 *  rest of the buffer, 128 bytes, is for the address and what else the kernel says. */
#define BERTH_UDP_SMALL_BYTES 3968u
#define BERTH_UDP_LARGE_BYTES 65408u

/** Datagrams that one berth_udp_send_segments may stand for: what every kernel with it takes. */
#define BERTH_UDP_SEGMENTS_MAX 64u

/** Bytes of any address here (a struct sockaddr_in6), for your own storage. */
#define BERTH_UDP_ADDRESS_BYTES 28u

/* ---- what arrives -------------------------------------------------------------------------- */

/**
 * One datagram, lent to the callback: data, address and struct are valid until it returns. Keep the
 * bytes with berth_retain (of `span`), the address by copying it. Since 0.1.
 */
struct berth_datagram {
    struct berth_span span; /**< the payload. Its length may be 0: an empty datagram is one too,
                                 though there is nothing in it to retain */
    const struct sockaddr *from; /**< who sent it: struct sockaddr_in or sockaddr_in6 */
    uint32_t from_length;        /**< bytes of that */
    uint32_t segment_bytes;      /**< 0: this is one datagram. Otherwise (`receive_merged`) several
                                      datagrams of one sender lie behind each other, each of so many
                                      bytes but for the last one, which may be shorter */
    uint32_t truncated;          /**< 1: it was longer, and its end is lost; of merged ones the
                                      last is cut short */
    uint32_t unused;
};

/** What you want to hear. Any member may be NULL. The struct must outlive the socket. Since 0.1. */
struct berth_udp_handlers {
    /** Datagrams have come: `n` of them, at least 1, in the order in which the kernel had them. */
    void (*datagrams)(struct berth_udp *udp, const struct berth_datagram *list, unsigned n);

    /** A send was refused because the queue was full, and at most half of it is waiting now. */
    void (*drained)(struct berth_udp *udp);

    /**
     * Something went wrong, and the socket goes on. `lost` 1: one queued datagram could not be
     * sent, and `error` says why (-EMSGSIZE, -ENETUNREACH, -EPERM ...). `lost` 0: the kernel passes
     * on what the network answered to an earlier one (-ECONNREFUSED, -EHOSTUNREACH ...), on a
     * connected socket only.
     */
    void (*error)(struct berth_udp *udp, int error, unsigned lost);

    /**
     * The socket is gone, exactly once for every berth_udp_open that returned 0, and nothing after
     * it. `reason`: 0 when you closed it; -ETIMEDOUT when what was queued could not be sent within
     * close_timeout_ms of the loop; -ECANCELED when the loop was destroyed; or why it cannot
     * receive any more.
     */
    void (*close)(struct berth_udp *udp, int reason);
};

/* ---- a socket ------------------------------------------------------------------------------ */

/** How to open one. Fill with berth_udp_options_init, then change what you need. Since 0.1. */
struct berth_udp_options {
    uint32_t abi;       /**< set by berth_udp_options_init; a mismatch is refused */
    uint32_t queue_max; /**< sends that may wait at once: 1 to 32,768; default 1,024. From a
                               refused one until `drained` the socket does not receive, unless the
                               loop's keep_receiving says so: an echo cannot drown in itself */
    const char *peer;   /**< NULL, or an address to connect to: only its datagrams are received,
                             errors from the network are told, and sends need no address */
    uint32_t kernel_receive_bytes; /**< SO_RCVBUF, which the kernel may round and limit; 0: its own
                                        default */
    uint32_t kernel_send_bytes;    /**< SO_SNDBUF; as above */
    int large;          /**< nonzero: receive into 64 KiB buffers: see BERTH_UDP_LARGE_BYTES */
    int receive_merged; /**< nonzero: let the kernel merge datagrams of one sender (UDP_GRO), where
                             it can; implies `large` */
    int reuse_port;     /**< nonzero: SO_REUSEPORT, for a socket per loop on one port */
    int unused;
};

#define BERTH_UDP_ABI ((uint32_t)(0xbe070000u | (sizeof(void *) == 8)))

/** Fills `options` with the defaults. Since 0.1. */
BERTH_INLINE void
berth_udp_options_init(struct berth_udp_options *options)
{
    options->abi = BERTH_UDP_ABI;
    options->queue_max = 1024;
    options->peer = NULL;
    options->kernel_receive_bytes = 0;
    options->kernel_send_bytes = 0;
    options->large = 0;
    options->receive_merged = 0;
    options->reuse_port = 0;
    options->unused = 0;
}

/**
 * Opens a socket and begins to receive. `datagrams` may be called from the next turn on. A kernel
 * that cannot merge or cut (`receive_merged`, berth_udp_send_segments) is no error: datagrams come
 * and go one by one then, and berth_loop_explain says so.
 *
 * A socket for all addresses ("*") does not know which of them a datagram was sent to. An answer
 * has the source address that the kernel chooses by the way to the peer: on a host with several it
 * may be another one, and a peer that is connected, or a NAT, drops it. Open a socket for each
 * address there.
 *
 * @param address  where to receive: "udp://host:port" or "udp://[::1]:port" (numeric hosts, or
 *                 "localhost", or "*" for all); port 0 lets the kernel choose. With a peer it may
 * be NULL: the kernel chooses.
 * @param options  NULL for the defaults. Not kept.
 * @param udp      receives the socket; may be NULL (it then lives as long as the loop).
 * @return 0; -EINVAL: not an address, or an option out of range; -EPROTO: headers and library
 *         differ; -EADDRINUSE, -EACCES, -ENETUNREACH, ... from the kernel; -EMFILE: out of
 *         descriptors, or past conns_max; -ENOMEM; -ESHUTDOWN: the loop has drained, or is being
 *         destroyed; -ECHILD.
 */
BERTH_API BERTH_NODISCARD int berth_udp_open(struct berth_loop *loop, const char *address,
                                             const struct berth_udp_handlers *handlers, void *ctx,
                                             const struct berth_udp_options *options,
                                             struct berth_udp **udp);

/**
 * Closes: no more datagrams; what is queued is sent (for close_timeout_ms at most); then `close` is
 * called. Returns 0; -EALREADY; -EINVAL for NULL.
 */
BERTH_API int berth_udp_close(struct berth_udp *udp);

/* ---- sending ------------------------------------------------------------------------------------
 *
 * A send never blocks and never sends from inside the call: it queues, and what an event has queued
 * goes out together at its end, in order. `to` is a struct sockaddr_in or sockaddr_in6 of
 * `to_length` bytes, which is copied; NULL and 0 on a connected socket. Every send returns 0, or:
 *
 *   -ENOBUFS       queue_max sends are waiting, or no buffer is free: nothing was queued, and (if
 *                  it was the queue) `drained` will be called
 *
 *   -EMSGSIZE      longer than BERTH_UDP_SEND_BYTES_MAX, or more than BERTH_UDP_SEGMENTS_MAX
 *                  segments, or (where the kernel does not cut) more of them than queue_max
 *
 *   -EDESTADDRREQ  no address, and the socket is not connected
 *
 *   -EAFNOSUPPORT  the address is neither IPv4 nor IPv6
 *
 *   -EPIPE         the socket is closing
 *
 *   -EINVAL        NULL where something is needed, or a length that does not fit its address
 *
 * What goes wrong afterwards is told by `error`; so is an IPv6 address on an IPv4 socket.
 */

/** Copies `length` bytes, which may be 0, into the queue (counted as sent_gather). */
BERTH_API int berth_udp_send(struct berth_udp *udp, const struct sockaddr *to, uint32_t to_length,
                             const void *data, size_t length);

/** berth_udp_send to where a datagram came from: for its callback. */
BERTH_API int berth_udp_reply(struct berth_udp *udp, const struct berth_datagram *datagram,
                              const void *data, size_t length);

/**
 * Copies `length` bytes into the queue, and sends them as datagrams of `segment_bytes` each, the
 * last of which may be shorter. Where the kernel cuts (UDP_SEGMENT, Linux 4.18) that is one trip
 * through the network stack; elsewhere it is a loop of sends, each of which takes a place in the
 * queue. Segments that do not fit the path's MTU are sent one by one and fragmented.
 */
BERTH_API int berth_udp_send_segments(struct berth_udp *udp, const struct sockaddr *to,
                                      uint32_t to_length, const void *data, size_t length,
                                      uint32_t segment_bytes);

/**
 * The same without copying: sends leased bytes, cut into segments, or as one datagram when
 * `segment_bytes` is 0. The loop owns the lease from a return of 0 on. Also -EINVAL for a lease
 * that is over.
 */
BERTH_API int berth_udp_send_lease(struct berth_udp *udp, const struct sockaddr *to,
                                   uint32_t to_length, struct berth_lease lease,
                                   uint32_t segment_bytes);

/** Sends queued and not yet taken by the kernel. */
BERTH_API uint32_t berth_udp_queued(const struct berth_udp *udp);

/* ---- about a socket ------------------------------------------------------------------------ */

/** Your 40 bytes, zero when the socket opens. Valid as long as `udp`. */
BERTH_INLINE void *
berth_udp_payload(struct berth_udp *udp)
{
    return berth_slot_payload((struct berth_slot *)(void *)udp);
}

/** What outlives the socket: keep this, not the pointer. */
BERTH_INLINE berth_token
berth_udp_token(const struct berth_udp *udp)
{
    return berth_slot_token((const struct berth_slot *)(const void *)udp, 0);
}

/** The open socket that `token` names, or NULL. One cache line. */
BERTH_API struct berth_udp *berth_udp_find(struct berth_loop *loop, berth_token token);

/** The descriptor, for socket options. Do not close it, and leave it blocking. -EINVAL for NULL. */
BERTH_API int berth_udp_fd(const struct berth_udp *udp);

/** The loop and the `ctx` of a socket. */
BERTH_API struct berth_loop *berth_udp_loop(const struct berth_udp *udp);
BERTH_API void *berth_udp_context(const struct berth_udp *udp);

/** Writes the address the socket is bound to: "udp://127.0.0.1:53". 0, -ENOSPC or -EINVAL. */
BERTH_API int berth_udp_address(const struct berth_udp *udp, char *text, size_t size);

/* ---- addresses ------------------------------------------------------------------------------ */

/**
 * Writes an address as text that berth_udp_open takes. BERTH_ADDRESS_TEXT_MAX bytes always suffice.
 * @return 0; -ENOSPC; -EAFNOSUPPORT: neither IPv4 nor IPv6; -EINVAL. Any thread.
 */
BERTH_API int berth_udp_address_format(const struct sockaddr *address, uint32_t length, char *text,
                                       size_t size);

/**
 * Reads "udp://host:port" into storage of BERTH_UDP_ADDRESS_BYTES, which need not be aligned; a
 * struct sockaddr_in6 will do.
 * @return 0 with `*length` its bytes; -EINVAL. Any thread.
 */
BERTH_API int berth_udp_address_parse(const char *text, void *address, uint32_t *length);

BERTH_END_DECLS

#endif
