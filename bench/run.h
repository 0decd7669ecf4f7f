/*
 * Running cases and writing what they found.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include "options.h"

/** Exit statuses of berth-bench besides 0. */
#define STATUS_FAILED 1
#define STATUS_USAGE 2
#define STATUS_INTERRUPTED 130

/** What run_case returns when results could not be written; a status to nobody else. */
#define STATUS_UNWRITTEN 3

/** Where results go; NULL: nowhere. */
struct outputs {
    FILE *text, *json, *csv;
    FILE *html;            /**< one section of a page */
    const char *directory; /**< for plots, and for JSON and CSV of each case; NULL: none */
};

/** Measures one case in this process and writes it. Returns an exit status. */
int run_case(const struct bench_case *one, const struct bench_options *options,
             const struct outputs *outputs);

/** `berth-bench CASE`. Returns an exit status. */
int run_one(const struct request *request);

/** `berth-bench all` and `berth-bench report`. Returns an exit status. */
int run_all(const struct request *request);

#endif
