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

#define REPORT_COLUMNS_MAX 20u
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

enum report_plot_option {
    REPORT_PLOT_LOG_X = 1,
    REPORT_PLOT_LOG_Y = 2,
    REPORT_PLOT_NEAR = 4, /**< the y axis need not reach 0: for small differences */
};

/**
 * How to draw a table, or part of it. With `x`: one curve per variant; without: one bar per row.
 * Intervals are drawn where the table has them.
 */
struct report_plot {
    const char *name;  /**< of the file; letters, digits and '-' */
    const char *title; /**< what one should see, or look for */
    const char *table; /**< of which table; the case may not have made it: then it is not drawn */
    const char *x, *y; /**< names of columns; `x` may be NULL */
    const char *x_title, *y_title;
    const char *only; /**< draw only rows where this column has `only_value`; NULL: all rows */
    double only_value;
    const char *variants; /**< "a,b": draw only these; NULL: all */
    unsigned options;     /**< bits of enum report_plot_option */
    /** Lines are drawn where x times this many bytes fill a cache of the machine; 0: none. */
    double cache_bytes_per_x;
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

/** Adds a control, and a doubt if its interval leaves 1.00 out, or there is none. */
void report_control(struct report *report, const char *name, struct estimate ratio);

void report_note(struct report *report, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void report_doubt(struct report *report, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** Whether the median keeps the target. */
bool report_figure_met(const struct report_figure *figure);

/** Whether all of the interval does: only then has the run shown it. */
bool report_figure_shown(const struct report_figure *figure);

/** "PASS" when shown, "by median" when the interval goes beyond the target, "over", "not measured".
 */
const char *report_figure_verdict(const struct report_figure *figure);

/** "includes 1.00", or why that is missing. */
const char *report_control_verdict(const struct report_control *control);

/** Enough digits to tell a value from that target, and no more. */
int report_figure_decimals(double target);

/** Finds a column by its name. -1: there is none. */
int report_column_find(const struct report_table *table, const char *name);

void report_free(struct report *report);

/* ---- writing it: report_text.c, report_data.c -------------------------------------------------
 */

void report_write_text(const struct report *report, const struct environment *environment,
                       FILE *out);
void report_write_json(const struct report *report, const struct environment *environment,
                       FILE *out);
void report_write_csv(const struct report *report, FILE *out);

/** The lines on machine, kernel, build and run that every form of a report carries. */
void report_write_environment(const struct environment *environment, FILE *out);

/** A section of a page: report_html.c. `svgs[i]` is the drawing of `plots[i]`, NULL if none. */
void report_write_html(const struct report *report, const struct environment *environment,
                       const struct report_plot *plots, char *const *svgs, FILE *out);

/** What stands before the first section and after the last. `names` of the sections, then NULL. */
void report_html_begin(const char *const *names, FILE *out);
void report_html_end(FILE *out);

#endif
