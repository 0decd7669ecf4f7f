/*
 * A report as it must never come, made by report.h's own functions: names that are markup, quotes
 * and control characters, numbers that are none, a table without rows. Shared by what tests the
 * writing of reports.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_BENCH_HOSTILE_H
#define BERTH_TESTS_BENCH_HOSTILE_H

#include <math.h>
#include <string.h>

#include "environment.h"
#include "report.h"

#define HOSTILE_NAME "<script>alert(\"1\")</script>&"

static const struct report_column hostile_columns[] = {
    {"size_bytes", "size <b>\nbytes & \"more\"", 0},
    {"cost_ns", "cost\nns", 2},
    {"hidden_ns", NULL, 2},
};
#define HOSTILE_COLUMNS (sizeof hostile_columns / sizeof hostile_columns[0])

static const struct report_plot hostile_plots[] = {
    {.name = "hostile-curves",
     .title = "It's <i>lower</i> & \"better\" `touch pwned-title` \\ @x",
     .table = "hostile",
     .x = "size_bytes",
     .y = "cost_ns",
     .x_title = "size, <bytes> 'n' \"more\"",
     .y_title = "`touch pwned-axis`",
     .options = REPORT_PLOT_LOG_X,
     .cache_bytes_per_x = 64},
    {.name = "hostile-bars", .title = "bars", .table = "hostile", .y = "cost_ns", .y_title = "ns"},
    {.name = "hostile-log",
     .title = "nothing that has a logarithm",
     .table = "zeros",
     .y = "cost_ns",
     .y_title = "ns",
     .options = REPORT_PLOT_LOG_Y},
    {.name = "hostile-empty",
     .title = "no rows",
     .table = "empty",
     .x = "size_bytes",
     .y = "cost_ns"},
    {.name = "hostile-missing", .title = "no such table", .table = "other", .y = "cost_ns"},
    {.name = "hostile-column", .title = "no such column", .table = "hostile", .y = "other"},
    {.name = "hostile-nan", .title = "nothing but n/a", .table = "hostile", .y = "hidden_ns"},
    {.name = NULL},
};

static inline void
hostile_row(struct report *report, const char *name, double size, double cost)
{
    const struct estimate values[HOSTILE_COLUMNS] = {
        estimate_exact(size),
        {cost, cost - 1, cost + 1, 0.96, 9},
        estimate_none(),
    };
    report_row(report, name, values);
}

static inline void
hostile_make(struct report *report, struct environment *environment)
{
    static const char *const names[] = {
        HOSTILE_NAME,
        "it's 'quoted', with a comma",
        "`touch pwned-name` $(touch pwned-shell)",
        "END\nEND",
        "back\\slash \\n {/Bold x} #",
        "caf\xe9 \x01\033[31m \xf0\x9f",
        "ends in \"two\"",
        "",
    };
    memset(report, 0, sizeof *report);
    memset(environment, 0, sizeof *environment);
    strcpy(environment->cpu, HOSTILE_NAME);
    strcpy(environment->flags, "-DX=\"a\\b\" -g");
    strcpy(environment->version, "0.0.0");
    strcpy(environment->commit, "unknown");
    strcpy(environment->allocator, "none");
    environment->cpus = 1;
    environment->load_average = NAN;
    environment->cache_count = 3;
    environment->cache[0] = (struct environment_cache){.level = 1, .bytes = 32768, .ways = 8};
    environment->cache[1] = (struct environment_cache){.level = 2, .bytes = 1 << 20, .ways = 8};
    environment->cache[2] = (struct environment_cache){.level = 3, .bytes = 1 << 30, .ways = 16};
    report->case_name = "hostile";
    report_table_begin(report, "hostile", hostile_columns, HOSTILE_COLUMNS);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        hostile_row(report, names[i], 1000, 10.0 + (double)i);
        hostile_row(report, names[i], 100000, 20.0 + (double)i);
    }
    hostile_row(report, "not measured", 1000, NAN);
    hostile_row(report, "endless", INFINITY, -INFINITY);
    report_table_begin(report, "empty", hostile_columns, HOSTILE_COLUMNS);
    report_table_begin(report, "zeros", hostile_columns, HOSTILE_COLUMNS);
    hostile_row(report, "zero", 0, 0);
    report_figure(report, "hostile_b", HOSTILE_NAME, "<B>", estimate_exact(1), true, 2);
    report_figure(report, "unmeasured", "none", "ns", estimate_none(), false, 0.05);
    report_control(report, HOSTILE_NAME, estimate_none());
    report_control(report, "same", (struct estimate){1.0, 0.9, 1.1, 0.95, 9});
    report_note(report, "%s", HOSTILE_NAME);
    report_note(report, "two\nlines, and \xe9 \x02");
    report_doubt(report, "%s", HOSTILE_NAME);
}

#endif
