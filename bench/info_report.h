/*
 * A report of named facts in sections, written as aligned text for a person or as JSON for a
 * program. The caller says each fact once; only info_report.c knows how either form looks.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_INFO_REPORT_H
#define BERTH_INFO_REPORT_H

#include <stdint.h>
#include <stdio.h>

/** The deepest nesting of sections: the report itself, a section, a part of it. */
#define INFO_DEPTH_MAX 4

/** A report being written. */
struct info_report {
    FILE *out;
    int json;
    unsigned depth;
    int items[INFO_DEPTH_MAX]; /**< facts already written at each depth, for JSON's commas */
};

/** Begins and ends the whole. */
void info_begin(struct info_report *report, FILE *out, int json);
void info_end(struct info_report *report);

/** Begins and ends a section; `name` is a JSON key, with '_' where the text shows a space. */
void info_section(struct info_report *report, const char *name);
void info_section_end(struct info_report *report);

/** One fact each. A NULL `text` is shown as unknown (null in JSON). */
void info_text(struct info_report *report, const char *name, const char *text);
void info_number(struct info_report *report, const char *name, uint64_t number);
/** UINT64_MAX is shown as unlimited (null in JSON). */
void info_bytes(struct info_report *report, const char *name, uint64_t bytes);

/**
 * Something that is there or is not, and why not: `why` is text for a person, and may be empty. In
 * JSON an object with `available` and `why`.
 */
void info_available(struct info_report *report, const char *name, int available, const char *why);

#endif
