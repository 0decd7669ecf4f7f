/*
 * A report for programs: JSON with everything in it, CSV with the tables. Names are those of the
 * columns; an interval adds NAME_low and NAME_high. What was not measured is null, or an empty
 * field.
 *
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <string.h>

#include "environment.h"
#include "report.h"

/** Goes up when a reader of schema 1 would be misled; new members do not count. */
#define JSON_SCHEMA 1

static void
json_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text != '\0'; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < 0x20)
            fprintf(out, "\\u%04x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

static void
json_member_text(FILE *out, const char *name, const char *text)
{
    fprintf(out, "\"%s\": ", name);
    json_text(out, text);
}

static void
json_number(FILE *out, double value)
{
    if (isfinite(value))
        fprintf(out, "%.10g", value);
    else
        fputs("null", out);
}

/** "name": 1.5, and if there is an interval, "name_low": 1.4, "name_high": 1.6 */
static void
json_estimate(FILE *out, const char *name, const struct estimate *value)
{
    fprintf(out, "\"%s\": ", name);
    json_number(out, value->median);
    if (isnan(value->low))
        return;
    fprintf(out, ", \"%s_low\": ", name);
    json_number(out, value->low);
    fprintf(out, ", \"%s_high\": ", name);
    json_number(out, value->high);
}

static void
json_texts(FILE *out, const char *name, char *const *texts, unsigned count)
{
    fprintf(out, "  \"%s\": [", name);
    for (unsigned i = 0; i < count; i++) {
        fputs(i > 0 ? ", " : "", out);
        json_text(out, texts[i]);
    }
    fputs("],\n", out);
}

static void
json_environment(const struct environment *environment, FILE *out)
{
    const struct {
        const char *name, *text;
    } texts[] = {
        {"kernel", environment->kernel},
        {"cpu", environment->cpu},
        {"caches", environment->caches},
        {"huge_pages", environment->huge_pages},
        {"mitigations", environment->mitigations},
        {"congestion_control", environment->congestion},
        {"congestion_control_default", environment->congestion_default},
        {"compiler", environment->compiler},
        {"flags", environment->flags},
        {"berth_version", environment->version},
        {"commit", environment->commit},
        {"allocator", environment->allocator},
        {"pinning", environment->pinning},
        {"pmu_detail", environment->pmu},
    };
    fputs("  \"environment\": {\n", out);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        fputs("    ", out);
        json_member_text(out, texts[i].name, texts[i].text);
        fputs(",\n", out);
    }
    fprintf(out, "    \"pmu\": %s,\n    \"virtual\": %s,\n    \"cpus\": %d,\n",
            environment->has_pmu ? "true" : "false", environment->is_virtual ? "true" : "false",
            environment->cpus);
    fprintf(out, "    \"cpu_server\": %d,\n    \"cpu_load\": %d,\n    \"descriptors\": %u,\n",
            environment->cpu_server, environment->cpu_load, environment->descriptors);
    fputs("    \"load_average\": ", out);
    json_number(out, environment->load_average);
    fputs(",\n    \"others_cpus\": ", out);
    json_number(out, environment->others);
    fputs(",\n    \"steal_share\": ", out);
    json_number(out, environment->steal);
    fputs("\n  },\n", out);
}

static void
json_rows(const struct report *report, FILE *out)
{
    const char *separator = "\n";
    fputs("  \"rows\": [", out);
    for (unsigned t = 0; t < report->tables_count; t++) {
        const struct report_table *table = &report->tables[t];
        for (unsigned i = 0; i < table->rows_count; i++) {
            fprintf(out, "%s    {", separator);
            json_member_text(out, "table", table->name);
            fputs(", ", out);
            json_member_text(out, "variant", table->rows[i].variant);
            for (unsigned c = 0; c < table->columns_count; c++) {
                fputs(", ", out);
                json_estimate(out, table->columns[c].name, &table->rows[i].values[c]);
            }
            fputc('}', out);
            separator = ",\n";
        }
    }
    fputs("\n  ],\n", out);
}

static void
json_controls(const struct report *report, FILE *out)
{
    fputs("  \"controls\": [", out);
    for (unsigned i = 0; i < report->controls_count; i++) {
        const struct report_control *control = &report->controls[i];
        fputs(i > 0 ? ",\n    {" : "\n    {", out);
        json_member_text(out, "name", control->name);
        fputs(", ", out);
        json_estimate(out, "ratio", &control->ratio);
        fprintf(out, ", \"includes_one\": %s}",
                estimate_covers(&control->ratio, 1.0) ? "true" : "false");
    }
    fputs("\n  ],\n", out);
}

static void
json_figures(const struct report *report, FILE *out)
{
    fputs("  \"figures\": [", out);
    for (unsigned i = 0; i < report->figures_count; i++) {
        const struct report_figure *figure = &report->figures[i];
        fputs(i > 0 ? ",\n    {" : "\n    {", out);
        json_member_text(out, "name", figure->name);
        fputs(", ", out);
        json_member_text(out, "text", figure->text);
        fputs(", ", out);
        json_member_text(out, "unit", figure->unit);
        fputs(", ", out);
        json_estimate(out, "value", &figure->value);
        fputs(", \"target\": ", out);
        json_number(out, figure->target);
        const bool measured = isfinite(figure->value.median);
        fprintf(out, ", \"met\": %s, \"shown\": %s}",
                !measured                   ? "null"
                : report_figure_met(figure) ? "true"
                                            : "false",
                !measured                     ? "null"
                : report_figure_shown(figure) ? "true"
                                              : "false");
    }
    fputs("\n  ]\n", out);
}

void
report_write_json(const struct report *report, const struct environment *environment, FILE *out)
{
    fprintf(out, "{\n  \"program\": \"berth-bench\",\n  \"schema\": %d,\n  ", JSON_SCHEMA);
    json_member_text(out, "case", report->case_name);
    fprintf(out, ",\n  \"interrupted\": %s,\n  \"reliable\": %s,\n",
            report->interrupted ? "true" : "false", report->doubts_count == 0 ? "true" : "false");
    json_texts(out, "doubts", report->doubts, report->doubts_count);
    json_texts(out, "notes", report->notes, report->notes_count);
    json_environment(environment, out);
    json_rows(report, out);
    json_controls(report, out);
    json_figures(report, out);
    fputs("}\n", out);
}

/** Quoted where a reader would take it for more than one field. */
static void
csv_text(FILE *out, const char *text)
{
    const bool quoted = strpbrk(text, ",\"\n\r") != NULL;
    fputs(quoted ? "\"" : "", out);
    for (; *text != '\0'; text++) {
        if (*text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
    fputs(quoted ? "\"" : "", out);
}

static void
csv_number(FILE *out, double value)
{
    if (isfinite(value))
        fprintf(out, ",%.10g", value);
    else
        fputc(',', out);
}

/** One block per table, each with its own head, two empty lines between: gnuplot's `index`. */
void
report_write_csv(const struct report *report, FILE *out)
{
    for (unsigned t = 0; t < report->tables_count; t++) {
        const struct report_table *table = &report->tables[t];
        fprintf(out, "%stable,variant", t > 0 ? "\n\n" : "");
        for (unsigned c = 0; c < table->columns_count; c++)
            fprintf(out, ",%s,%s_low,%s_high", table->columns[c].name, table->columns[c].name,
                    table->columns[c].name);
        fputc('\n', out);
        for (unsigned i = 0; i < table->rows_count; i++) {
            csv_text(out, table->name);
            fputc(',', out);
            csv_text(out, table->rows[i].variant);
            for (unsigned c = 0; c < table->columns_count; c++) {
                csv_number(out, table->rows[i].values[c].median);
                csv_number(out, table->rows[i].values[c].low);
                csv_number(out, table->rows[i].values[c].high);
            }
            fputc('\n', out);
        }
    }
}
