/*
 * The cases that berth-bench knows, in the order in which `all` runs them. To add one: write
 * case_NAME.c, which defines `bench_case_NAME`, and put its row here.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stddef.h>

#include "bench.h"

/* clang-format off */
#ifdef BERTH_HAVE_LIBURING
#define CASES_OF_URING(row) row(cancel)
#else
#define CASES_OF_URING(row)
#endif
#define CASES(row) \
    row(memory)    \
    row(lookup)    \
    row(claim)     \
    row(waiting)   \
    row(echo)      \
    row(flood)     \
    row(idle)      \
    CASES_OF_URING(row) \
    row(receive)   \
    row(send)      \
    row(copies)    \
    row(file)      \
    row(table)     \
    row(pool)      \
    row(timers)    \
    row(scan)      \
    row(sharing)
/* clang-format on */

#define DECLARE(name) extern const struct bench_case bench_case_##name;
CASES(DECLARE)

#define LIST(name) &bench_case_##name,
const struct bench_case *const bench_cases[] = {CASES(LIST) NULL};
