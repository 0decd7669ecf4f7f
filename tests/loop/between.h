/*
 * A kernel that can be told to misbehave: it stands between the io_uring engine and the real one,
 * sees every submission before it is handed over and every completion before the engine does, and
 * may refuse, swallow, change, hold back, double or invent them.
 *
 * It keeps the books meanwhile, whatever a test is about, and fails the test when
 *   a buffer is put into the ring that the kernel still has, or one without an address or length;
 *   two receives are posted on one descriptor;
 *   a receive may wait for the whole of its buffer, or reports more than it delivered;
 *   a send may wait for room in its socket;
 *   a descriptor is closed on which the kernel still has an operation;
 *   a wait has no end.
 * And it scribbles over every submission and every entry of the ring of buffers that the kernel has
 * taken, so that nothing in them can be left from the last time.
 *
 * For one loop at a time. between_begin comes before the loop is created, faults_reset ends it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_BETWEEN_H
#define BERTH_TESTS_LOOP_BETWEEN_H

#include "loop/loop_rig.h"
#include "support/faults.h"

#ifdef BERTH_HAVE_LIBURING
#include <liburing.h>

/** Newer than liburing 2.3. */
#define BETWEEN_RECVSEND_BUNDLE (1u << 4)
#define BETWEEN_FEAT_BUNDLE (1u << 14)
#define BETWEEN_OP_RECV_ZC 58

/** Descriptors that are watched. */
#define BETWEEN_FDS 32768

struct between {
    /* what a test may ask for, after between_begin */

    /** Sees each submission once. It may change it, or call between_refuse or between_swallow. */
    void (*on_submission)(struct io_uring_sqe *submission);

    /** Sees each completion instead of the engine: between_post passes one on. NULL: all of them.
     */
    void (*on_completion)(const struct io_uring_cqe *completion);

    /** Comes before each wait: an error that it returns is the wait's, which is not made. */
    int (*on_wait)(void);

    /** Changes what a ring is made with. */
    void (*on_init)(unsigned *entries, struct io_uring_params *params);

    unsigned without_features; /**< what the kernel does not know: IORING_FEAT_ */
    unsigned without_setup;    /**< and which IORING_SETUP_ flags it refuses */
    unsigned patience_ms;      /**< no wait really takes longer; 0: as long as it is asked to */
    int frozen;                /**< the clock goes on by between_pass only */
    unsigned ms_per_wait;      /**< the clock is put on so much by each wait */
    int lax;                   /**< completions are invented: do not look at descriptors */

    /* what has been seen */
    struct io_uring *ring;
    const void *buffers; /**< the ring of buffers */
    unsigned init_sq, init_cq, init_flags;
    unsigned waits, submits;
    unsigned asked_ms_max;             /**< the longest wait that was asked for */
    unsigned refused;                  /**< submissions that were refused or swallowed */
    unsigned receives, cancels;        /**< submissions of these kinds */
    unsigned receives_unpolled;        /**< receives that look for data, and a buffer, at once */
    unsigned completions;              /**< that the kernel made */
    unsigned given, taken;             /**< buffers put into the ring, and taken out of it */
    unsigned out_max;                  /**< the most that were out of it at once, once given */
    unsigned flying_max;               /**< the most operations at once on one descriptor */
    unsigned char flying[BETWEEN_FDS]; /**< operations that the kernel has on each descriptor */
    unsigned char receiving[BETWEEN_FDS];
};
extern struct between between;

/** Puts it in place. */
void between_begin(void);

/** The kernel answers this submission with `result`, and does nothing else. */
void between_refuse(struct io_uring_sqe *submission, int32_t result);

/** The kernel neither does it nor answers. */
void between_swallow(struct io_uring_sqe *submission);

/** A completion for the engine to see. */
void between_post(uint64_t user_data, int32_t result, uint32_t flags);

/** The same, with a second half of 32 bytes. */
void between_post_large(uint64_t user_data, int32_t result, uint32_t flags, uint64_t more);

/** From now on the clock is so much ahead. */
void between_pass(uint64_t ms);

/** What the loop takes to be the time. */
uint64_t between_clock(void);

/** Buffers that the engine has taken out of the ring and not put back. */
unsigned between_out(void);

#endif
#endif
