/*
 * How a loop is made: its options, their defaults, and what the longer ones of them mean. Included
 * by berth/loop.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_OPTIONS_H
#define BERTH_LOOP_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "berth/attr.h"
#include "berth/pool.h"
#include "berth/table.h"

BERTH_BEGIN_DECLS

/** How to make a loop. Fill with berth_loop_options_init, then change what you need. Since 0.1. */
struct berth_loop_options {
    uint32_t abi;         /**< set by berth_loop_options_init; a mismatch is refused */
    const char *engine;   /**< "auto", "uring", "epoll" or "poll". BERTH_ENGINE in the environment
                               overrides "auto" and NULL */
    const char *features; /**< what to do with and without, on uring: "-bundles,+limits"; NULL: all
                               that this kernel is found to do right. See below */
    uint32_t conns_max;   /**< descriptors below this number can be connections: see slots_max */
    uint32_t cold_bytes; /**< of your own cold record per connection: berth_conn_cold; 0 to 3,520 */
    uint32_t receive_buffers; /**< 4 KiB buffers posted to the kernel at most (uring): 16 to 32,768,
                                 rounded up to a power of two; default 4,096. 256 are posted to
                                 begin with, twice as many whenever a receive found none */
    uint32_t fairness_bytes; /**< a connection's share of one turn; default 64 KiB. Of those who use
                                it up, a turn sees to one, and one more for every four that wait,
                                while others receive less */
    uint32_t send_high_bytes; /**< queued bytes at which receiving pauses; default 256 KiB */
    uint32_t
        send_low_bytes; /**< and at which it resumes, and `drained` is called; default 64 KiB */
    uint32_t send_max_bytes;   /**< queued bytes at which a send is refused; default 16 MiB */
    uint32_t close_timeout_ms; /**< how long a close waits for its last bytes; default 5,000 */
    int direct_descriptors;    /**< nonzero: io_uring direct descriptors, if the kernel has what it
                                  takes: see berth_conn_fd; default 0 */
    uint32_t
        connect_timeout_ms;  /**< BERTH_TIMEOUT_CONNECT of every berth_connect, up to
                                  BERTH_TIMEOUT_MS_MAX; default 0: as long as the kernel tries */
    uint32_t events_max;     /**< events taken, and timers run, per turn: 16 to 8,192; default
                                  1,024 */
    uint32_t zerocopy_bytes; /**< from so many queued bytes on they are read in place when sent:
                                  1 to BERTH_ZEROCOPY_NEVER; default 16 KiB. See "sending" */
    uint32_t zerocopy_pinned_max; /**< bytes of memory read in place at a time, of all connections
                                       of the loop; default 64 MiB. A process without CAP_IPC_LOCK
                                       gets half of RLIMIT_MEMLOCK at most */
    uint32_t idle_park_ms;        /**< uring: from when on a connection that receives nothing is to
                                       cost less memory of the kernel: 0 (never), or 1,000 to
                                       3,600,000; default 10,000. See berth_loop_park_idle */
    int keep_receiving;           /**< nonzero: do not pause by itself at send_high_bytes */
    int reuse_port;  /**< nonzero: listeners share their TCP address with those of other loops that
                          say so too (SO_REUSEPORT): one loop per thread, and the kernel deals */
    int map_receive; /**< nonzero: map what bulk connections receive in place of copying it, where
                          that pays: see berth_conn_map. Spans may be read-only then; default 0 */
    uint32_t map_bytes_max; /**< of such pages at once; BERTH_MAP_BYTES_MIN to ..._MAX; default 32
                                 MiB. What would be more is copied */
    int conn_stats;   /**< nonzero: count for each connection, too: berth_conn_stats_get. Costs
                         the lines of its cold record that nobody else touches */
    const char *zcrx; /**< uring: the queue of a network card to receive from without copying,
                         "INTERFACE:QUEUE[:AREA-MiB]"; default NULL. See below */
    const struct berth_pool_options *pool; /**< NULL: the defaults */
    enum berth_huge_pages huge_pages;      /**< of the table */
};

#define BERTH_LOOP_ABI ((uint32_t)(0xbe0a0000u | (sizeof(void *) == 8)))

/** zerocopy_bytes: nothing is read in place. */
#define BERTH_ZEROCOPY_NEVER UINT32_MAX

/** What map_bytes_max may be. */
#define BERTH_MAP_BYTES_MIN (UINT32_C(256) << 10)
#define BERTH_MAP_BYTES_MAX (UINT32_C(256) << 20)

/*
 * Features. The first io_uring loop of a process tries what this kernel's receives can do, in a few
 * milliseconds: what is missing or misbehaves is not used, and berth_loop_explain says so. A list
 * of "-name" and "+name", separated by commas, overrules that: without one that works, or with one
 * that does not (for tests only). The later word wins, and "all" names every one of them.
 * BERTH_FEATURES in the environment takes the same list and has the last word; what it names
 * wrongly is told by berth_loop_explain.
 *
 *     multishot            one posted receive brings many completions
 *     poll-first           a receive is posted without looking for bytes first
 *     limits               a connection's share of a turn is kept by the kernel
 *     bundles              one completion brings many buffers (only with limits)
 *     incremental          a buffer is filled bit by bit
 *     incremental-bundles  both
 *     demotion             an idle connection costs less of the kernel's memory: idle_park_ms
 *     direct               the option direct_descriptors: on or off, whatever it says
 *     zerocopy             sends are read in place (all engines); "+": also where it is of no use
 *     mapped               the option map_receive and berth_conn_map, on every engine: off
 */

/*
 * Zero-copy receive. NEVER RUN ON HARDWARE so far: it is made from the kernel's documentation and
 * source, and tested over a simulated kernel only.
 *
 * With zcrx, "eth1:3:256" say, the engine uring registers queue 3 of eth1 (Linux 6.15), whose card
 * then writes what it receives into 256 MiB of memory of the loop (1 to 4,096; default 64): it
 * takes CAP_NET_ADMIN, that much locked memory, a driver that can, header split, and a rule that
 * steers the wanted connections to that queue: 'ethtool -G eth1 tcp-data-split on hds-thresh 0',
 * 'ethtool -N eth1 flow-type tcp4 ... action 3'. Nothing of that is done for you. Without any part
 * of it the loop receives in the ordinary way, and berth_loop_explain says what was missing.
 *
 * Every TCP connection of such a loop receives so, its spans lying in that memory; bytes that come
 * by another way the kernel copies there. Retained spans keep their pages from the card: when none
 * is left it drops packets. Release them before the loop is destroyed: the kernel takes all pages
 * back at that moment, and might write into them once more. Their memory stays mapped until then.
 * What such a connection has not yet received cannot be read by recv(2): do not detach it.
 */

/** Fills `options` with the defaults. Since 0.1. */
BERTH_INLINE void
berth_loop_options_init(struct berth_loop_options *options)
{
    options->abi = BERTH_LOOP_ABI;
    options->engine = NULL;
    options->features = NULL;
    options->conns_max = BERTH_TABLE_SLOTS_DEFAULT;
    options->cold_bytes = 0;
    options->receive_buffers = 4096;
    options->fairness_bytes = 64 * 1024;
    options->send_high_bytes = 256 * 1024;
    options->send_low_bytes = 64 * 1024;
    options->send_max_bytes = 16 * 1024 * 1024;
    options->close_timeout_ms = 5000;
    options->connect_timeout_ms = 0;
    options->events_max = 1024;
    options->zerocopy_bytes = 16 * 1024;
    options->zerocopy_pinned_max = 64 * 1024 * 1024;
    options->direct_descriptors = 0;
    options->idle_park_ms = 10000;
    options->keep_receiving = 0;
    options->reuse_port = 0;
    options->map_receive = 0;
    options->map_bytes_max = 32 * 1024 * 1024;
    options->conn_stats = 0;
    options->zcrx = NULL;
    options->pool = NULL;
    options->huge_pages = BERTH_HUGE_AUTO;
}

BERTH_END_DECLS

#endif
