/*
 * A report as a section of a page that needs nothing but itself: plots are embedded as pictures.
 * Doubts come first: whoever looks at a picture has stopped reading.
 *
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "environment.h"
#include "plot.h"
#include "report.h"

static void
html_text(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out); /* a line's end is white space like any other */
        }
    }
}

static void
html_element(FILE *out, const char *element, const char *text)
{
    fprintf(out, "<%s>", element);
    html_text(out, text);
    fprintf(out, "</%s>\n", element);
}

static void
html_list(FILE *out, const char *title, char *const *texts, unsigned count)
{
    if (count == 0)
        return;
    html_element(out, "h3", title);
    fputs("<ul>\n", out);
    for (unsigned i = 0; i < count; i++)
        html_element(out, "li", texts[i]);
    fputs("</ul>\n", out);
}

static void
html_estimate(FILE *out, const struct estimate *value, int decimals)
{
    fputs("<td>", out);
    if (isnan(value->median))
        fputs("n/a", out);
    else
        fprintf(out, "%.*f", decimals, value->median);
    if (!isnan(value->low))
        fprintf(out, " <small>%.*f to %.*f</small>", decimals, value->low, decimals, value->high);
    fputs("</td>", out);
}

static void
html_table(FILE *out, const struct report_table *table)
{
    fputs("<div class=\"wide\"><table>\n<tr><th>", out);
    html_text(out, table->name);
    fputs("</th>", out);
    for (unsigned c = 0; c < table->columns_count; c++) {
        if (table->columns[c].title == NULL)
            continue;
        fputs("<th>", out);
        html_text(out, table->columns[c].title);
        fputs("</th>", out);
    }
    fputs("</tr>\n", out);
    for (unsigned i = 0; i < table->rows_count; i++) {
        fputs("<tr><th>", out);
        html_text(out, table->rows[i].variant);
        fputs("</th>", out);
        for (unsigned c = 0; c < table->columns_count; c++) {
            if (table->columns[c].title != NULL)
                html_estimate(out, &table->rows[i].values[c], table->columns[c].decimals);
        }
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

static void
html_figures(FILE *out, const struct report *report)
{
    if (report->figures_count == 0)
        return;
    fputs("<table>\n<tr><th>figure</th><th>measured</th><th>aim</th><th></th></tr>\n", out);
    for (unsigned i = 0; i < report->figures_count; i++) {
        const struct report_figure *figure = &report->figures[i];
        fputs("<tr><th>", out);
        html_text(out, figure->text);
        fputs("</th>", out);
        html_estimate(out, &figure->value, report_figure_decimals(figure->target));
        fprintf(out, "<td>%s %g ", figure->below ? "&lt;" : "&le;", figure->target);
        html_text(out, figure->unit);
        fprintf(out, "</td><td>%s</td></tr>\n", report_figure_verdict(figure));
    }
    fputs("</table>\n", out);
}

static void
html_controls(FILE *out, const struct report *report)
{
    if (report->controls_count == 0)
        return;
    fputs("<table>\n<tr><th>control: against itself</th><th>ratio</th><th></th></tr>\n", out);
    for (unsigned i = 0; i < report->controls_count; i++) {
        const struct report_control *control = &report->controls[i];
        fputs("<tr><th>", out);
        html_text(out, control->name);
        fputs("</th>", out);
        html_estimate(out, &control->ratio, 3);
        fprintf(out, "<td>%s</td></tr>\n", report_control_verdict(control));
    }
    fputs("</table>\n", out);
}

/** Base 64, three bytes at a time. */
static void
base64(FILE *out, const char *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t length = strlen(text);
    for (size_t i = 0; i < length; i += 3) {
        const unsigned left = length - i < 3 ? (unsigned)(length - i) : 3;
        uint32_t bits = 0;
        for (unsigned j = 0; j < 3; j++)
            bits = (bits << 8) | (j < left ? (unsigned char)text[i + j] : 0);
        for (unsigned j = 0; j < 4; j++)
            fputc(j <= left ? digits[(bits >> (18 - 6 * j)) & 63] : '=', out);
    }
}

static void
html_plot(FILE *out, const struct report_plot *plot, const char *svg)
{
    fprintf(out, "<figure id=\"%s\"><img alt=\"", plot->name);
    html_text(out, plot->title);
    fputs("\" src=\"data:image/svg+xml;base64,", out);
    base64(out, svg);
    fputs("\"></figure>\n", out);
}

static void
html_environment(FILE *out, const struct environment *environment)
{
    fputs("<details><summary>environment</summary><pre>", out);
    char *text = NULL;
    size_t bytes = 0;
    FILE *memory = open_memstream(&text, &bytes);
    if (memory != NULL) {
        report_write_environment(environment, memory);
        fclose(memory);
        html_text(out, text);
        free(text);
    }
    fputs("</pre></details>\n", out);
}

void
report_write_html(const struct report *report, const struct environment *environment,
                  const struct report_plot *plots, char *const *svgs, FILE *out)
{
    fprintf(out, "<section id=\"%s\">\n<h2>%s%s</h2>\n", report->case_name, report->case_name,
            report->interrupted ? " (interrupted: what was measured until then)" : "");
    if (report->doubts_count == 0)
        fputs("<p class=\"good\">reliable: yes</p>\n", out);
    else
        fputs("<p class=\"bad\">reliable: no</p>\n", out);
    html_list(out, "doubts", report->doubts, report->doubts_count);
    for (unsigned i = 0; plots != NULL && plots[i].name != NULL && i < PLOTS_MAX; i++) {
        if (svgs[i] != NULL)
            html_plot(out, &plots[i], svgs[i]);
    }
    for (unsigned i = 0; i < report->tables_count; i++) {
        if (report->tables[i].rows_count > 0)
            html_table(out, &report->tables[i]);
    }
    html_figures(out, report);
    html_controls(out, report);
    html_list(out, "notes", report->notes, report->notes_count);
    html_environment(out, environment);
    fputs("</section>\n", out);
}

void
report_html_begin(const char *const *names, FILE *out)
{
    fputs(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
        "<title>berth-bench</title>\n<style>\n"
        ":root { color-scheme: light dark; }\n"
        "body { font: 16px/1.5 sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; "
        "}\n"
        "h2 { margin-top: 3rem; border-bottom: 1px solid #8888; }\n"
        "nav a { margin-right: 1rem; }\n"
        "figure { margin: 1rem 0; }\n"
        "img { width: 100%; background: #fff; border: 1px solid #8888; }\n"
        ".wide { overflow-x: auto; }\n"
        "table { border-collapse: collapse; margin: 1rem 0; font-size: 0.85rem; }\n"
        "th, td { padding: 0.15rem 0.6rem; border-bottom: 1px solid #8884; }\n"
        "th { text-align: left; }\n"
        "tr > th:first-child { white-space: nowrap; }\n"
        "td { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }\n"
        "small { opacity: 0.7; }\n"
        ".good { color: #1b7e3c; }\n.bad { color: #c22; font-weight: bold; }\n"
        "pre { white-space: pre-wrap; font-size: 0.8rem; }\n"
        "</style>\n</head>\n<body>\n<h1>berth-bench</h1>\n"
        "<p>Medians of paired, interleaved rounds, with intervals that cover the true median with "
        "at least 95 % confidence, where there were rounds enough. The control of each case is one "
        "contestant measured against itself: believe no difference of the size of its interval.</p>"
        "\n<nav>",
        out);
    for (; *names != NULL; names++)
        fprintf(out, "<a href=\"#%s\">%s</a>\n", *names, *names);
    fputs("</nav>\n", out);
}

void
report_html_end(FILE *out)
{
    fputs("</body>\n</html>\n", out);
}
