/*
 * The copy ledger in words, and the ledger of one connection. Part of libberth-loop.
 *
 * A connection's ledger has what was done with its bytes alone: pull-ups and compactions are made
 * by the pool, which does not know whose bytes it moves, and what the application declares it
 * declares to the pool. They stand in the loop's ledger (berth_loop_copies_get), and are 0 here.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_EXPLAIN_H
#define BERTH_EXPLAIN_H

#include <stddef.h>

#include "berth/attr.h"
#include "berth/copies.h"

BERTH_BEGIN_DECLS

struct berth_conn;

/**
 * Writes two lines, each with its line feed: how much was received, how often each byte was copied,
 * and which share went which way; and the same of what was sent.
 *
 *     received 1.2 GB, 1.02 copies per byte (kernel to pool 100 %, pulled up 2 %)
 *     sent 3.4 GB, 0.20 to 0.50 copies per byte (kernel from pool 20 %, read in place 50 %, not
 *     known yet 30 %)          (one line)
 *
 * Of a range the first figure is BERTH_COPY_LOW, the second BERTH_COPY_HIGH. A kB is 1,000 bytes.
 * Shares are of the bytes received or sent; they add up to more than 100 % where bytes were copied
 * twice. The decimal point is a point in every locale.
 * @param copies  a snapshot; only read.
 * @return the length it needs without the ending zero, as snprintf does: under 1,024; `size` may be
 *         0, and `text` NULL then. -EINVAL: NULL. Any thread. Since 0.1.
 */
BERTH_API int berth_copies_explain(const struct berth_copies *copies, char *text, size_t size);

/**
 * A copy of the connection's own ledger; the last time to ask is its close callback. The loop's
 * thread; costs the struct copied. Returns 0; -EINVAL: NULL, or it is gone; -ENOTSUP: the loop
 * was made without the option conn_stats. Since 0.1.
 */
BERTH_API int berth_conn_copies_get(const struct berth_conn *conn, struct berth_copies *copies);

/**
 * berth_copies_explain of the connection's own ledger. Returns the length it needs; -EINVAL,
 * -ENOTSUP as berth_conn_copies_get. The loop's thread. Since 0.1.
 */
BERTH_API int berth_conn_explain(const struct berth_conn *conn, char *text, size_t size);

BERTH_END_DECLS

#endif
