/*
 * What a run of the benchmark has found: tables of rows, figures with their targets, controls,
 * notes and doubts. Cases add to it while they measure; at the end, or after Ctrl-C, it is written
 * to the terminal, as JSON or as CSV. The names are the same in all three.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "statistics.h"

#define REPORT_COLUMNS_MAX 14u
#define REPORT_NAME_BYTES 40u

struct environment;

/** A column. The unit ends the name: "cpu_ns_per_message". */
struct report_column {
    const char *name;  /**< in JSON and CSV */
    const char *title; /**< on the terminal; may hold one '\n'; NULL: not shown there */
    int decimals;
};

struct report_row {
    char variant[REPORT_NAME_BYTES];
    struct estimate values[REPORT_COLUMNS_MAX];
};

struct report_table {
    char name[REPORT_NAME_BYTES];
    const struct report_column *columns; /**< static storage */
    unsigned columns_count;
    struct report_row *rows;
    unsigned rows_count;
};

/** A number that the project has promised. Better is lower, for all of them. */
struct report_figure {
    char name[REPORT_NAME_BYTES]; /**< such as "find_warm_ns" */
    char text[96];                /**< for people */
    char unit[12];
    struct estimate value;
    double target;
    bool below; /**< must be under the target; otherwise at most the target */
};

/** The same thing measured against itself. */
struct report_control {
    char name[REPORT_NAME_BYTES];
    struct estimate ratio;
};

struct report {
    const char *case_name;
    struct report_table *tables;
    unsigned tables_count;
    struct report_figure *figures;
    unsigned figures_count;
    struct report_control *controls;
    unsigned controls_count;
    char **notes;
    unsigned notes_count;
    char **doubts; /**< why not to rely on it; none: reliable */
    unsigned doubts_count;
    bool interrupted;
};

/** Begins a table; the rows that follow belong to it. */
void report_table_begin(struct report *report, const char *name,
                        const struct report_column *columns, unsigned count);

/** Adds a row with a value for each column of the table begun last. */
void report_row(struct report *report, const char *variant, const struct estimate *values);

void report_figure(struct report *report, const char *name, const char *text, const char *unit,
                   struct estimate value, bool below, double target);

/** Adds a control, and a doubt if its interval leaves 1.00 out. */
void report_control(struct report *report, const char *name, struct estimate ratio);

void report_note(struct report *report, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void report_doubt(struct report *report, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

bool report_figure_met(const struct report_figure *figure);

void report_free(struct report *report);

/* ---- writing it: report_text.c, report_data.c -------------------------------------------------
 */

void report_write_text(const struct report *report, const struct environment *environment,
                       FILE *out);
void report_write_json(const struct report *report, const struct environment *environment,
                       FILE *out);
void report_write_csv(const struct report *report, FILE *out);

#endif
