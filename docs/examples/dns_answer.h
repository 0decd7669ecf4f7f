/*
 * From a DNS query to its answer: bytes in, bytes out, and nothing else.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef DNS_ANSWER_H
#define DNS_ANSWER_H

#include "dns_zone.h"

/** The longest answer: what passes the internet in one piece. */
#define DNS_ANSWER_BYTES_MAX 1232

/**
 * Writes the answer to `query`, which may be anything at all, into `answer`, which has room for
 * DNS_ANSWER_BYTES_MAX. Returns its length; 0: this must not be answered (it is shorter than a
 * header, or an answer itself).
 * @param cut  nonzero: more than `length` bytes were sent; the rest is lost.
 */
size_t dns_answer(const struct dns_zone *zone, const unsigned char *query, size_t length, int cut,
                  unsigned char *answer);

#endif
