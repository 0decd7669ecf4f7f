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

/** All members are bytes and only grow. Owned by one thread; copy it for a snapshot. Since 0.1. */
struct berth_copies {
    uint64_t received;             /**< payload bytes that reached the application */
    uint64_t received_kernel;      /**< ... copied by the kernel into a buffer of ours */
    uint64_t received_pullup;      /**< ... copied again to make a prefix contiguous */
    uint64_t received_compact;     /**< ... copied again so that a small slice frees a big buffer */
    uint64_t received_application; /**< ... declared by the application: berth_copies_declare */
    uint64_t sent;                 /**< payload bytes that the kernel accepted */
    uint64_t sent_kernel;          /**< ... copied by the kernel out of our buffer */
    uint64_t sent_gather;          /**< ... copied by berth_send into a pool buffer first */
    uint64_t sent_application;     /**< ... declared by the application */
};

enum berth_copy_direction { BERTH_COPY_RECEIVE = 0, BERTH_COPY_SEND = 1 };

/**
 * Copies per payload byte in one direction, everything counted; 0.0 when nothing has moved yet.
 * Any thread, on its own snapshot. Since 0.1.
 */
BERTH_API double berth_copy_factor(const struct berth_copies *copies,
                                   enum berth_copy_direction direction);

/** Adds copies that the application itself made, so that its own report is honest. Since 0.1. */
BERTH_API void berth_copies_declare(struct berth_copies *copies,
                                    enum berth_copy_direction direction, uint64_t bytes);

BERTH_END_DECLS

#endif
