/*
 * The copy ledger: who moved which bytes. Every claim about copies that berth makes is read from
 * here; every memcpy of payload inside the library adds to it.
 *
 * A plain or pre-posted receive costs one copy per byte (the kernel's, into the buffer) and is
 * counted as such: pre-posting saves a system call and a buffer, not that copy.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_COPIES_H
#define BERTH_COPIES_H

#include <stdint.h>

#include "berth/attr.h"

BERTH_BEGIN_DECLS

/**
 * All members are bytes and only grow. Owned by one thread; copy it for a snapshot. The first of
 * each direction counts every payload byte once; `received` is the sum of the four that follow it.
 * Since 0.1.
 */
struct berth_copies {
    uint64_t received;             /**< payload bytes that reached the application, or passed on */
    uint64_t received_kernel;      /**< ... copied by the kernel into memory of ours */
    uint64_t received_mapped;      /**< ... whose pages the kernel mapped: no copy */
    uint64_t received_direct;      /**< ... put into memory of ours by the network card: no copy */
    uint64_t received_spliced;     /**< ... that went on by a pipe, never in our memory: no copy */
    uint64_t received_pullup;      /**< copied again to make a prefix contiguous */
    uint64_t received_compact;     /**< copied again so that a small slice frees a big buffer */
    uint64_t received_application; /**< declared by the application: berth_copies_declare */

    uint64_t sent;               /**< payload bytes that the kernel accepted */
    uint64_t sent_kernel;        /**< ... copied by the kernel out of our memory */
    uint64_t sent_file;          /**< ... pages of a file, that the kernel refers to: no copy */
    uint64_t sent_spliced;       /**< ... that came by a pipe, never in our memory: no copy */
    uint64_t sent_zerocopy;      /**< ... that the kernel was to read in place; of these: */
    uint64_t sent_in_place;      /**< it has said that it did: no copy */
    uint64_t sent_copied_anyway; /**< it has said that it copied, all of them or some */
    uint64_t sent_gather;        /**< copied by berth_send into a pool buffer first */
    uint64_t sent_application;   /**< declared by the application */
};

enum berth_copy_direction { BERTH_COPY_RECEIVE = 0, BERTH_COPY_SEND = 1 };

/**
 * What to believe where the kernel does not say it exactly: of a zero-copy send it says "in place",
 * or that it copied "some", or nothing (yet); of zcrx not which bytes it put into the area itself,
 * in place of the card, so that received_direct is an upper bound. The low bound takes all of what
 * is not known for not copied, the high bound for copied once.
 */
enum berth_copy_bound { BERTH_COPY_LOW = 0, BERTH_COPY_HIGH = 1 };

/**
 * Copies per payload byte in one direction, everything counted; 0.0 when nothing has moved yet.
 * Any thread, on its own snapshot. Since 0.1.
 */
BERTH_API double berth_copy_factor(const struct berth_copies *copies,
                                   enum berth_copy_direction direction,
                                   enum berth_copy_bound bound);

/** Adds `more` to `sum`, member by member: for a report over several loops. Since 0.1. */
BERTH_API void berth_copies_add(struct berth_copies *sum, const struct berth_copies *more);

/** Adds copies that the application itself made, so that its own report is honest. Since 0.1. */
BERTH_API void berth_copies_declare(struct berth_copies *copies,
                                    enum berth_copy_direction direction, uint64_t bytes);

BERTH_END_DECLS

#endif
