/*
 * What a case of berth-bench is given, and what it gives back. A case is one file that defines one
 * `const struct bench_case`, and one row in cases.c: nothing else has to know of it.
 *
 * A case sets up what it compares as subjects, has them measured in rounds, and adds tables,
 * figures and controls to the report. Pinning, the environment, progress, Ctrl-C, hardware
 * counters, plots and output are done for it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "environment.h"
#include "report.h"
#include "slice.h"
#include "statistics.h"

#define BENCH_NUMBERS_MAX 32u
#define BENCH_SUBJECTS_MAX 192u
#define BENCH_METRICS_MAX 16u

/** Fewer rounds than this give no interval worth a claim. */
#define BENCH_ROUNDS_RELIABLE 9u

/** Options that only some cases take: bits of bench_case.options. Every case takes the others. */
enum bench_option {
    BENCH_OPTION_SIZE = 1,   /**< --size BYTES */
    BENCH_OPTION_LOAD = 2,   /**< --load uring|epoll */
    BENCH_OPTION_SERVER = 4, /**< --server COMMAND */
    BENCH_OPTION_LOOKUP = 8, /**< --between, --cachegrind and --events */
};

/** A list such as "100,1000". */
struct bench_numbers {
    uint32_t values[BENCH_NUMBERS_MAX];
    unsigned count;
};

struct bench_options {
    unsigned rounds;
    double seconds; /**< of one slice: one subject in one round */
    int cpu_server; /**< -1: chosen by the program */
    int cpu_load;
    struct bench_numbers connections;
    struct bench_numbers active; /**< what it counts is the case's affair: see its summary */
    uint32_t bytes;
    const char *variants; /**< as given; NULL: all */
    const char *load;     /**< NULL: the best there is */
    const char *server;   /**< a command, or NULL */
    const char *between;  /**< "read,none,epoll" or some of them; NULL: the case decides */
    uint64_t events;      /**< 0: measure; else handle that many and report nothing */
    bool cachegrind;
    bool full;
    bool json, csv;
    const char *json_path, *csv_path; /**< NULL: to standard output, instead of the text */
};

/** How much a run does. Options of the command line come on top. */
struct bench_preset {
    unsigned rounds;
    double seconds;
    const char *connections; /**< "1000,10000"; NULL: the case takes none */
    const char *active;      /**< likewise */
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
    /** The name of variant number `at`, NULL past the last. NULL: the case takes no --variants. */
    const char *(*variant)(unsigned at);
    unsigned options;         /**< bits of enum bench_option */
    uint32_t connections_max; /**< of --connections */
    uint32_t active_max;      /**< of --active; 0: connections_max */
    struct bench_preset normal, quick, full;
    const struct report_plot *plots; /**< ended by a NULL name; may be NULL */
};

/** Ended by NULL. */
extern const struct bench_case *const bench_cases[];

/** Whether `name` is among the variants to measure. */
bool bench_wants(const struct bench *bench, const char *name);

/**
 * As many of `wanted` things as the limit of descriptors leaves room for, at `each` descriptors
 * apiece; when that is fewer, the report says so. At least 1.
 */
uint32_t bench_descriptors_fit(struct bench *bench, uint32_t wanted, unsigned each);

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

/**
 * What one slice of a subject is measured with, whose context is a server kind and whose parameter
 * is the number of connections: slice.h.
 */
struct slice_options bench_slice_options(const struct bench *bench,
                                         const struct bench_subject *subject);

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

/** The median alone, for columns whose interval would only crowd the table. */
struct estimate bench_median(const struct bench_samples *samples, unsigned subject,
                             unsigned metric);

/** The paired ratio of two subjects. */
struct estimate bench_ratio(const struct bench_samples *samples, unsigned subject,
                            unsigned baseline, unsigned metric);

/* ---- work in this process: work.c --------------------------------------------------------------
 */

/** What bench_work_measure fills in: metrics[BENCH_WORK_NS] and what follows. */
enum bench_work_metric {
    BENCH_WORK_NS,           /**< processor time per operation */
    BENCH_WORK_CYCLES,       /**< hardware counts per operation; NAN where there are none */
    BENCH_WORK_INSTRUCTIONS, /**< ... */
    BENCH_WORK_L1_MISSES,    /**< of loads, first-level data cache */
    BENCH_WORK_LL_MISSES,    /**< last level */
    BENCH_WORK_TLB_MISSES,   /**< of loads, data TLB */
    BENCH_WORK_METRICS
};

/** Something to repeat: one call of `pass` does `operations` operations. */
struct bench_work {
    void (*pass)(void *context);
    void *context;
    uint64_t operations;
    unsigned passes_at_once; /**< between two looks at the clock; 0: 1 */
};

/** A subject's `measure` for a `struct bench_work` in its context: repeats it for a slice. */
int bench_work_measure(struct bench *bench, const struct bench_subject *subject, double *metrics);

/** Columns for BENCH_WORK_CYCLES and on, in that order, not shown on the terminal. */
#define BENCH_WORK_COLUMNS                                                                         \
    {"cycles", NULL, 1}, {"instructions", NULL, 1}, {"l1_misses", NULL, 3},                        \
        {"ll_misses", NULL, 3},                                                                    \
    {                                                                                              \
        "tlb_misses", NULL, 3                                                                      \
    }

/** The estimates for BENCH_WORK_COLUMNS: writes BENCH_WORK_METRICS - 1 of them. */
void bench_work_estimates(const struct bench_samples *samples, unsigned subject,
                          struct estimate *values);

#endif
