/*
 * How a report looks: text and JSON. See info_report.h. Nothing here knows what the facts mean.
 *
 * SPDX-License-Identifier: MIT
 */
#include "info_report.h"

#include <assert.h>
#include <inttypes.h>

/* Wide enough for the longest name; values begin in this column. */
#define NAME_COLUMNS 32

static void
write_json_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c != 0; c++) {
        if (*c == '"' || *c == '\\')
            fprintf(out, "\\%c", *c);
        else if (*c == '\n')
            fputs("\\n", out);
        else if (*c < 0x20 || *c >= 0x7f)
            fprintf(out, "\\u%04x", *c);
        else
            fputc(*c, out);
    }
    fputc('"', out);
}

/* The text form of a name: "page_bytes" is a key, "page bytes" is read. Returns its columns. */
static int
write_text_name(const struct info_report *report, const char *name)
{
    int columns = fprintf(report->out, "%*s", 2 * (int)(report->depth - 1), "");
    for (; *name != 0; name++, columns++)
        fputc(*name == '_' ? ' ' : *name, report->out);
    return columns;
}

/* Everything ahead of a value, in either form. */
static void
write_name(struct info_report *report, const char *name)
{
    assert(report->depth > 0 && report->depth < INFO_DEPTH_MAX);
    if (!report->json) {
        const int columns = write_text_name(report, name);
        fprintf(report->out, "%*s", columns < NAME_COLUMNS ? NAME_COLUMNS - columns : 1, "");
        return;
    }
    if (report->items[report->depth]++ > 0)
        fputc(',', report->out);
    fprintf(report->out, "\n%*s", 2 * (int)report->depth, "");
    write_json_string(report->out, name);
    fputs(": ", report->out);
}

void
info_begin(struct info_report *report, FILE *out, int json)
{
    *report = (struct info_report){.out = out, .json = json, .depth = 1};
    if (json)
        fputc('{', out);
}

void
info_end(struct info_report *report)
{
    assert(report->depth == 1);
    if (report->json)
        fputs("\n}\n", report->out);
}

void
info_section(struct info_report *report, const char *name)
{
    if (report->json) {
        write_name(report, name);
        fputc('{', report->out);
    } else {
        if (report->depth == 1)
            fputc('\n', report->out);
        write_text_name(report, name);
        fputc('\n', report->out);
    }
    report->depth++;
    assert(report->depth < INFO_DEPTH_MAX);
    report->items[report->depth] = 0;
}

void
info_section_end(struct info_report *report)
{
    assert(report->depth > 1);
    report->depth--;
    if (report->json)
        fprintf(report->out, "\n%*s}", 2 * (int)report->depth, "");
}

void
info_text(struct info_report *report, const char *name, const char *text)
{
    write_name(report, name);
    if (report->json && text == NULL)
        fputs("null", report->out);
    else if (report->json)
        write_json_string(report->out, text);
    else
        fprintf(report->out, "%s\n", text == NULL ? "unknown" : text);
}

void
info_number(struct info_report *report, const char *name, uint64_t number)
{
    write_name(report, name);
    fprintf(report->out, "%" PRIu64 "%s", number, report->json ? "" : "\n");
}

void
info_bytes(struct info_report *report, const char *name, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    unsigned unit = 0;
    if (bytes == UINT64_MAX) {
        info_text(report, name, report->json ? NULL : "unlimited");
        return;
    }
    if (report->json) {
        info_number(report, name, bytes);
        return;
    }
    while (unit + 1 < sizeof(units) / sizeof(units[0]) && bytes >= 1024 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    write_name(report, name);
    fprintf(report->out, "%" PRIu64 " %s\n", bytes, units[unit]);
}

void
info_available(struct info_report *report, const char *name, int available, const char *why)
{
    write_name(report, name);
    if (!report->json) {
        fprintf(report->out, "%s%s%s\n", available ? "yes" : "no", *why != 0 ? ": " : "", why);
        return;
    }
    fprintf(report->out, "{\"available\": %s, \"why\": ", available ? "true" : "false");
    write_json_string(report->out, why);
    fputc('}', report->out);
}
