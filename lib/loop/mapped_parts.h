/*
 * What the two files of mapped receives share.
 *
 *   mapped.c       who is mapped, and what a loop needs for it
 *   mapped_pull.c  the calls that map
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_MAPPED_PARTS_H
#define BERTH_LOOP_MAPPED_PARTS_H

#include "loop/mapped.h"
#include "loop/pull.h"
#include "loop/window.h"
#include "os/memory.h"

/** What a loop needs for it. */
struct mapper {
    struct windows *windows; /**< NULL: there are none, and why not */
    const char *why;
    int error;
    int failed;  /**< the last unmapping did: no hurry to try again */
    int refusal; /**< what the kernel last refused to map a connection's bytes with */
    uint32_t conns;
    uint64_t mapped_before; /**< loop->stats.mapped when the last turn was over */
};

/** A connection that is mapped. */
struct mapped {
    size_t skip;         /**< to be read before more can be mapped */
    size_t trial_bytes;  /**< received since the trial began, */
    size_t trial_mapped; /**< and of these mapped */
    int always;          /**< it is on trial no more */
    int in_pages;        /**< pages have come lately, or it is too early to tell */
    int error;           /**< what the kernel has told; due when nothing is left to read */
};

static inline size_t
whole_pages(size_t bytes)
{
    return bytes & ~(berth_memory_page_bytes() - 1);
}

/** What the connection is mapped with, or NULL. */
struct mapped *mapped_of(const struct berth_loop *loop, const struct berth_slot *slot);

/** Mapping has not paid, or cannot be: ends it, if that has not been done, until another time. */
void mapped_give_up(struct berth_loop *loop, struct berth_slot *slot);

/** The puller's `pull`. */
size_t mapped_pull(struct berth_loop *loop, struct berth_slot *slot, int fd, size_t most,
                   int *emptied);

#endif
