/*
 * The sums over the copy ledger. Adding to it is done where the bytes are moved, by whoever moves
 * them; here it is only read, and the application's own copies are declared.
 *
 * SPDX-License-Identifier: MIT
 */
#include "berth/copies.h"

#include <stddef.h>

double
berth_copy_factor(const struct berth_copies *copies, enum berth_copy_direction direction,
                  enum berth_copy_bound bound)
{
    BERTH_ASSERT(copies != NULL);
    BERTH_ASSERT(direction == BERTH_COPY_RECEIVE || direction == BERTH_COPY_SEND);
    const int receive = direction == BERTH_COPY_RECEIVE;
    const uint64_t moved = receive ? copies->received : copies->sent;
    uint64_t copied = receive
                          ? copies->received_kernel + copies->received_pullup +
                                copies->received_compact + copies->received_application
                          : copies->sent_kernel + copies->sent_gather + copies->sent_application;
    /* No kernel tells which of them it put there itself, and not the card. */
    if (receive && bound == BERTH_COPY_HIGH)
        copied += copies->received_direct;
    /* Of a difference of two snapshots more may have been told than was sent. */
    if (!receive && bound == BERTH_COPY_HIGH && copies->sent_zerocopy > copies->sent_in_place)
        copied += copies->sent_zerocopy - copies->sent_in_place;
    return moved == 0 ? 0.0 : (double)copied / (double)moved;
}

BERTH_STATIC_ASSERT(sizeof(struct berth_copies) % sizeof(uint64_t) == 0, "nothing but counters");

void
berth_copies_add(struct berth_copies *sum, const struct berth_copies *more)
{
    BERTH_ASSERT(sum != NULL && more != NULL);
    uint64_t *to = &sum->received;
    const uint64_t *from = &more->received;
    for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++)
        to[i] += from[i];
}

void
berth_copies_declare(struct berth_copies *copies, enum berth_copy_direction direction,
                     uint64_t bytes)
{
    BERTH_ASSERT(copies != NULL);
    BERTH_ASSERT(direction == BERTH_COPY_RECEIVE || direction == BERTH_COPY_SEND);
    if (direction == BERTH_COPY_RECEIVE)
        copies->received_application += bytes;
    else
        copies->sent_application += bytes;
}
