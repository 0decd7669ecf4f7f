/*
 * The command line of berth-bench: what may be said, and what was.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

#include "bench.h"

/** What there is to do. */
enum command { COMMAND_CASE, COMMAND_ALL, COMMAND_REPORT, COMMAND_LIST, COMMAND_HELP };

enum preset { PRESET_NORMAL, PRESET_QUICK, PRESET_FULL };

/** A command line, read. */
struct request {
    enum command command;
    const struct bench_case *chosen; /**< of COMMAND_CASE */
    enum preset preset;
    const char *directory;        /**< for a page; NULL: none */
    struct bench_options options; /**< what was said; zero or NULL: nothing was */
    bool has_cpus;
};

/** Reads it. 0; -EINVAL after saying on standard error what is wrong, and how it is used. */
int request_read(struct request *request, int argc, char **argv);

/** What `one` is run with: its preset, and what was said on top of it. */
void request_options(const struct request *request, const struct bench_case *one,
                     struct bench_options *options);

void usage(FILE *out);

#endif
