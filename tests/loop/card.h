/*
 * A network card and the part of the kernel that serves it, as far as zero-copy receives see them,
 * simulated over the kernel in between (between.h): registering a queue, receives that name it,
 * completions of 32 bytes, and the ring of what is given back. What a receive brings is read from
 * the connection's real socket; so the test shows that this library keeps to the interface as it is
 * documented, and not that any hardware does.
 *
 * It keeps the books on pages, and fails the test when
 *   a page is given back more often than it was handed out, or one that is not in the area;
 *   an entry has another area's token, or the tail is further ahead than the ring is long;
 *   a receive has fields set that the kernel refuses, or two are posted on one descriptor.
 * A page that has come back whole is scribbled over at once, as the next packet would.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_CARD_H
#define BERTH_TESTS_LOOP_CARD_H

#include "loop/between.h"

#ifdef BERTH_HAVE_LIBURING

#include "loop/engine_uring_zcrx.h"

#define CARD_NAME "card0"
#define CARD_QUEUE 3
#define CARD_ID 5
#define CARD_TOKEN (UINT64_C(2) << BERTH_URING_ZCRX_AREA_SHIFT)

struct card {
    /* what a test may ask for, after card_begin */
    int refuses;           /**< -errno: what registering is answered with */
    int receive_refused;   /**< -errno: what the next receives end with, at once */
    unsigned pieces;       /**< completions that what fills a page comes in; 0: one */
    unsigned piece_bytes;  /**< bytes of a page that are filled; 0: all */
    int sated;             /**< looks at nothing that is given back */
    int silent;            /**< receives nothing */
    int mixed;             /**< recv(2) and ordinary receives are answered with -EFAULT */
    int full_after;        /**< completions after which the queue is full: -ENOSPC; 0: never */
    unsigned napi;         /**< what sockets say about their packets' way; 0: loopback */
    uint32_t entries_most; /**< of the ring of what is given back; 0: as many as are asked for */

    /* what has been seen */
    unsigned registered, posted, ended, completions, shortages;
    unsigned waits;     /**< operations that wait in place of a receive */
    uint32_t limit_max; /**< the most that a receive was to bring */
    uint64_t bytes;
    unsigned pages, out; /**< pages in all, and pages that somebody has */
};
extern struct card card;

/** Puts it in place of between_begin. */
void card_begin(void);

/** Options for a loop that receives from it, into `area_mib` MiB. */
void card_options(struct berth_loop_options *options, unsigned area_mib);

/** The token of a receive that is posted on that descriptor; 0: there is none. */
uint64_t card_armed(int fd);

/** A completion for the engine to see that says where the bytes are. */
void card_post(uint64_t user_data, int32_t result, uint32_t flags, uint64_t offset);

/** Hands out a page, whatever is posted. */
void card_lend_page(uint64_t user_data, int32_t length);

/** Looks at what was given back, now. */
void card_collect(void);

#endif
#endif
