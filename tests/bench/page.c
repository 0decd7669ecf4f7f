/*
 * Writes a hostile report in every form, with plots: page DIRECTORY. What it wrote is judged by
 * report.sh. It prints the names of the plots that were drawn.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>
#include <stdlib.h>

#include "hostile.h"
#include "plot.h"

static FILE *
create(const char *directory, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    return file;
}

static int
write_drawing(const char *directory, const char *name, const char *svg)
{
    char file[64];
    puts(name);
    snprintf(file, sizeof file, "%s.svg", name);
    FILE *out = create(directory, file);
    fputs(svg, out);
    return fclose(out);
}

int
main(int argc, char **argv)
{
    static struct report report;
    static struct environment environment;
    static const char *const sections[] = {"hostile", NULL};
    char *svgs[PLOTS_MAX] = {NULL};
    if (argc != 2)
        return 2;
    hostile_make(&report, &environment);
    plot_all(&report, &environment, hostile_plots, svgs);
    FILE *html = create(argv[1], "index.html"), *json = create(argv[1], "hostile.json");
    FILE *csv = create(argv[1], "hostile.csv"), *text = create(argv[1], "hostile.txt");
    report_html_begin(sections, html);
    report_write_html(&report, &environment, hostile_plots, svgs, html);
    report_html_end(html);
    report_write_json(&report, &environment, json);
    report_write_csv(&report, csv);
    report_write_text(&report, &environment, text);
    int bad = fclose(html) | fclose(json) | fclose(csv) | fclose(text);
    for (unsigned i = 0; i < PLOTS_MAX; i++) {
        if (svgs[i] != NULL)
            bad |= write_drawing(argv[1], hostile_plots[i].name, svgs[i]);
        free(svgs[i]);
    }
    report_free(&report);
    return bad != 0;
}
