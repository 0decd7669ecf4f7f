/*
 * Collecting results. Out of memory ends the program: a benchmark that cannot note what it measured
 * has nothing else to do.
 *
 * SPDX-License-Identifier: MIT
 */
#include "report.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

/** A list of `count` elements with room for one more. */
static void *
grown(void *list, unsigned count, size_t element_bytes)
{
    void *bigger = realloc(list, (count + 1) * element_bytes);
    if (bigger == NULL) {
        fputs("berth-bench: out of memory\n", stderr);
        exit(1);
    }
    memset((char *)bigger + count * element_bytes, 0, element_bytes);
    return bigger;
}

void
report_table_begin(struct report *report, const char *name, const struct report_column *columns,
                   unsigned count)
{
    assert(count <= REPORT_COLUMNS_MAX);
    report->tables = grown(report->tables, report->tables_count, sizeof report->tables[0]);
    struct report_table *table = &report->tables[report->tables_count++];
    text_copy(table->name, sizeof table->name, name);
    table->columns = columns;
    table->columns_count = count;
}

void
report_row(struct report *report, const char *variant, const struct estimate *values)
{
    assert(report->tables_count > 0);
    struct report_table *table = &report->tables[report->tables_count - 1];
    table->rows = grown(table->rows, table->rows_count, sizeof table->rows[0]);
    struct report_row *row = &table->rows[table->rows_count++];
    text_copy(row->variant, sizeof row->variant, variant);
    memcpy(row->values, values, table->columns_count * sizeof values[0]);
}

void
report_figure(struct report *report, const char *name, const char *text, const char *unit,
              struct estimate value, bool below, double target)
{
    report->figures = grown(report->figures, report->figures_count, sizeof report->figures[0]);
    struct report_figure *figure = &report->figures[report->figures_count++];
    text_copy(figure->name, sizeof figure->name, name);
    text_copy(figure->text, sizeof figure->text, text);
    text_copy(figure->unit, sizeof figure->unit, unit);
    figure->value = value;
    figure->below = below;
    figure->target = target;
}

static bool
keeps(const struct report_figure *figure, double value)
{
    return figure->below ? value < figure->target : value <= figure->target;
}

bool
report_figure_met(const struct report_figure *figure)
{
    return keeps(figure, figure->value.median);
}

bool
report_figure_shown(const struct report_figure *figure)
{
    return keeps(figure, isnan(figure->value.high) ? figure->value.median : figure->value.high);
}

const char *
report_figure_verdict(const struct report_figure *figure)
{
    if (!isfinite(figure->value.median))
        return "not measured";
    if (report_figure_shown(figure))
        return "PASS";
    return report_figure_met(figure) ? "by median" : "over";
}

int
report_figure_decimals(double target)
{
    return fabs(target) < 0.1 ? 4 : fabs(target) < 10 ? 3 : 1;
}

int
report_column_find(const struct report_table *table, const char *name)
{
    for (unsigned i = 0; i < table->columns_count; i++) {
        if (strcmp(table->columns[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

void
report_control(struct report *report, const char *name, struct estimate ratio)
{
    report->controls = grown(report->controls, report->controls_count, sizeof report->controls[0]);
    struct report_control *control = &report->controls[report->controls_count++];
    text_copy(control->name, sizeof control->name, name);
    control->ratio = ratio;
    if (isnan(ratio.median))
        report_doubt(report, "noise unknown: %s was not measured against itself", name);
    else if (!estimate_covers(&ratio, 1.0))
        report_doubt(report,
                     "noisy: the same thing measured twice (%s) differs by %.3f "
                     "(%.3f to %.3f)",
                     name, ratio.median, ratio.low, ratio.high);
}

const char *
report_control_verdict(const struct report_control *control)
{
    if (isnan(control->ratio.median))
        return "not measured";
    return estimate_covers(&control->ratio, 1.0) ? "includes 1.00"
                                                 : "leaves 1.00 out: noisy, not reliable";
}

static void
add_text(char ***list, unsigned *count, const char *format, va_list arguments)
{
    char raw[512], text[512];
    vsnprintf(raw, sizeof raw, format, arguments);
    text_copy(text, sizeof text, raw);
    *list = grown(*list, *count, sizeof **list);
    (*list)[*count] = strdup(text);
    if ((*list)[*count] != NULL)
        (*count)++;
}

void
report_note(struct report *report, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add_text(&report->notes, &report->notes_count, format, arguments);
    va_end(arguments);
}

void
report_doubt(struct report *report, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add_text(&report->doubts, &report->doubts_count, format, arguments);
    va_end(arguments);
}

void
report_free(struct report *report)
{
    for (unsigned i = 0; i < report->tables_count; i++)
        free(report->tables[i].rows);
    for (unsigned i = 0; i < report->notes_count; i++)
        free(report->notes[i]);
    for (unsigned i = 0; i < report->doubts_count; i++)
        free(report->doubts[i]);
    free(report->tables);
    free(report->figures);
    free(report->controls);
    free(report->notes);
    free(report->doubts);
    memset(report, 0, sizeof *report);
}
