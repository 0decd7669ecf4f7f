/*
 * What a case of berth-bench is given, and what it gives back. A case is one file with one
 * function, and one row in the table in cases.c: nothing else has to know of it.
 *
 * A case sets up what it compares as subjects, has them measured in rounds, and adds tables,
 * figures and controls to the report. Pinning, the environment, progress, Ctrl-C and output are
 * done for it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "environment.h"
#include "report.h"
#include "statistics.h"

#define BENCH_CONNECTIONS_MAX 16u
#define BENCH_SUBJECTS_MAX 16u
#define BENCH_METRICS_MAX 12u

/** Fewer rounds than this give no interval worth a claim. */
#define BENCH_ROUNDS_RELIABLE 9u

/** Options that only some cases take: bits of bench_case.options. Every case takes the others. */
enum bench_option {
    BENCH_OPTION_CONNECTIONS = 1, /**< --connections N[,N...] */
    BENCH_OPTION_SIZE = 2,        /**< --size BYTES */
    BENCH_OPTION_VARIANTS = 4,    /**< --variants NAME[,NAME...] */
    BENCH_OPTION_LOAD = 8         /**< --load uring|epoll */
};

struct bench_options {
    unsigned rounds;
    double seconds; /**< of one slice: one subject in one round */
    int cpu_server; /**< -1: chosen by the program */
    int cpu_load;
    uint32_t connections[BENCH_CONNECTIONS_MAX];
    unsigned connections_count;
    uint32_t bytes;
    const char *variants; /**< as given; NULL: all */
    const char *load;     /**< NULL: the best there is */
    bool json, csv;
    const char *json_path, *csv_path; /**< NULL: to standard output, instead of the text */
};

struct bench {
    struct bench_options options;
    struct environment environment;
    struct report report;
    bool progress_line; /**< standard error is a terminal: one line that changes */
};

struct bench_case {
    const char *name;
    const char *summary;
    /** Measures. 0, or -errno when nothing at all could be measured. */
    int (*run)(struct bench *bench);
    unsigned options;
    unsigned rounds; /**< unless asked otherwise */
    double seconds;
    const char *connections; /**< --connections, unless asked otherwise; NULL: takes none */
};

/** Ended by a NULL name. */
extern const struct bench_case bench_cases[];

int bench_table_run(struct bench *bench);
int bench_idle_run(struct bench *bench);
int bench_echo_run(struct bench *bench);

/** Whether `name` is among the variants to measure. */
bool bench_wants(const struct bench *bench, const char *name);

/** Says what is going on, to whoever waits in front of a terminal. */
void bench_progress(const struct bench *bench, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void bench_progress_end(const struct bench *bench);

/* ---- rounds ------------------------------------------------------------------------------------
 */

/** One of the things compared. */
struct bench_subject {
    const char *name;
    /** Measures one slice: fills `metrics`. 0, or -errno: it is left out from then on, and named.
     */
    int (*measure)(struct bench *bench, const struct bench_subject *subject, double *metrics);
    const void *context;
    uint32_t parameter; /**< the connections, say */
    bool left_out;
};

/** A sample is NAN where nothing was measured. */
struct bench_samples {
    unsigned rounds; /**< begun */
    double values[BENCH_SUBJECTS_MAX][BENCH_METRICS_MAX][STATISTICS_ROUNDS_MAX];
};

/**
 * Measures every subject once per round, in turn, and in the opposite order every other round, so
 * that drift meets them all alike. Ends early when interrupted. `samples` may be static: it is big.
 */
void bench_rounds(struct bench *bench, struct bench_subject *subjects, unsigned count,
                  struct bench_samples *samples);

struct estimate bench_estimate(const struct bench_samples *samples, unsigned subject,
                               unsigned metric);

/** The paired ratio of two subjects. */
struct estimate bench_ratio(const struct bench_samples *samples, unsigned subject,
                            unsigned baseline, unsigned metric);

#endif
