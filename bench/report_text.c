/*
 * A report for people: the environment in five lines, then tables, controls, figures beside their
 * targets, and last, where nobody overlooks it, whether to rely on any of it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <string.h>

#include "environment.h"
#include "report.h"

#define CELL_BYTES 64

/** "1.002 (0.985-1.013)", "7.9" or "n/a". */
static void
cell(char *text, size_t size, const struct estimate *value, int decimals)
{
    if (isnan(value->median))
        snprintf(text, size, "n/a");
    else if (isnan(value->low))
        snprintf(text, size, "%.*f", decimals, value->median);
    else
        snprintf(text, size, "%.*f (%.*f-%.*f)", decimals, value->median, decimals, value->low,
                 decimals, value->high);
}

static size_t
at_least(size_t width, size_t wanted)
{
    return width > wanted ? width : wanted;
}

/** The two lines of a title: `line` 0 or 1. One-line titles stand on the second. */
static int
title_line(const char *title, int line, const char **begin)
{
    const char *end = strchr(title, '\n');
    if (end == NULL) {
        *begin = title;
        return line == 1 ? (int)strlen(title) : 0;
    }
    *begin = line == 0 ? title : end + 1;
    return line == 0 ? (int)(end - title) : (int)strlen(end + 1);
}

static size_t
column_width(const struct report_table *table, unsigned column)
{
    const struct report_column *described = &table->columns[column];
    const char *begin;
    size_t width = at_least((size_t)title_line(described->title, 0, &begin),
                            (size_t)title_line(described->title, 1, &begin));
    for (unsigned i = 0; i < table->rows_count; i++) {
        char text[CELL_BYTES];
        cell(text, sizeof text, &table->rows[i].values[column], described->decimals);
        width = at_least(width, strlen(text));
    }
    return width;
}

static void
write_table(const struct report_table *table, FILE *out)
{
    size_t widths[REPORT_COLUMNS_MAX] = {0}, first = strlen(table->name);
    for (unsigned i = 0; i < table->rows_count; i++)
        first = at_least(first, strlen(table->rows[i].variant));
    for (unsigned c = 0; c < table->columns_count; c++)
        widths[c] = table->columns[c].title != NULL ? column_width(table, c) : 0;
    for (int line = 0; line < 2; line++) {
        fprintf(out, "  %-*s", (int)first, line == 1 ? table->name : "");
        for (unsigned c = 0; c < table->columns_count; c++) {
            const char *begin = "";
            if (table->columns[c].title == NULL)
                continue;
            const int length = title_line(table->columns[c].title, line, &begin);
            fprintf(out, "  %*.*s", (int)widths[c], length, begin);
        }
        fputc('\n', out);
    }
    for (unsigned i = 0; i < table->rows_count; i++) {
        fprintf(out, "  %-*s", (int)first, table->rows[i].variant);
        for (unsigned c = 0; c < table->columns_count; c++) {
            char text[CELL_BYTES];
            if (table->columns[c].title == NULL)
                continue;
            cell(text, sizeof text, &table->rows[i].values[c], table->columns[c].decimals);
            fprintf(out, "  %*s", (int)widths[c], text);
        }
        fputc('\n', out);
    }
    fputc('\n', out);
}

void
report_write_environment(const struct environment *environment, FILE *out)
{
    fprintf(out, "  machine  %s, %d CPU%s%s; %s; hardware counters %s\n", environment->cpu,
            environment->cpus, environment->cpus == 1 ? "" : "s",
            environment->is_virtual ? ", virtual" : "", environment->caches, environment->pmu);
    fprintf(out, "  kernel   %s; huge pages %s; mitigations: %s\n", environment->kernel,
            environment->huge_pages, environment->mitigations);
    fprintf(out, "  network  congestion control %s (system default %s); %u descriptors\n",
            environment->congestion, environment->congestion_default, environment->descriptors);
    fprintf(out, "  build    berth %s (%s), %s %s, %s\n", environment->version, environment->commit,
            environment->compiler, environment->flags, environment->allocator);
    char load[16] = "unknown";
    if (isfinite(environment->load_average))
        snprintf(load, sizeof load, "%.2f", environment->load_average);
    fprintf(out,
            "  run      %s; load average %s at the start; others used %.1f %% of a CPU, "
            "the host kept %.1f %%\n",
            environment->pinning, load, environment->others * 100, environment->steal * 100);
}

static void
write_figures(const struct report *report, FILE *out)
{
    if (report->figures_count == 0)
        return;
    fprintf(out, "  %-58s %22s  %-12s\n", "figure", "measured", "target");
    for (unsigned i = 0; i < report->figures_count; i++) {
        const struct report_figure *figure = &report->figures[i];
        char value[CELL_BYTES];
        cell(value, sizeof value, &figure->value, report_figure_decimals(figure->target));
        fprintf(out, "  %-58s %22s  %s %g %-6s  %s\n", figure->text, value,
                figure->below ? "< " : "<=", figure->target, figure->unit,
                report_figure_verdict(figure));
    }
    fputc('\n', out);
}

void
report_write_text(const struct report *report, const struct environment *environment, FILE *out)
{
    fprintf(out, "\nberth-bench %s%s\n\n", report->case_name,
            report->interrupted ? " (interrupted: what was measured until then)" : "");
    report_write_environment(environment, out);
    fputc('\n', out);
    for (unsigned i = 0; i < report->tables_count; i++) {
        if (report->tables[i].rows_count > 0)
            write_table(&report->tables[i], out);
    }
    for (unsigned i = 0; i < report->controls_count; i++) {
        const struct report_control *control = &report->controls[i];
        char ratio[CELL_BYTES];
        cell(ratio, sizeof ratio, &control->ratio, 3);
        fprintf(out, "  control A/A, %s against itself: %s %s\n", control->name, ratio,
                report_control_verdict(control));
    }
    if (report->controls_count > 0)
        fputc('\n', out);
    write_figures(report, out);
    for (unsigned i = 0; i < report->notes_count; i++)
        fprintf(out, "  note: %s\n", report->notes[i]);
    fprintf(out, "  reliable: %s\n", report->doubts_count == 0 ? "yes" : "no");
    for (unsigned i = 0; i < report->doubts_count; i++)
        fprintf(out, "    - %s\n", report->doubts[i]);
}
