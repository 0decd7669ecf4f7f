/*
 * berth-info: what this machine offers to a server built on berth, and why it does not offer the
 * rest. It asks by trying: each engine is made and thrown away, each io_uring flag is passed to the
 * kernel. Nothing on the machine is changed.
 *
 * SPDX-License-Identifier: MIT
 */
#include <berth.h>
#include <berth/loop.h>

#include <stdlib.h>
#include <string.h>

#include "info_parts.h"

static void
write_engine(struct info_report *report, const char *name)
{
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    berth_loop_options_init(&options);
    options.engine = name;
    const int error = berth_loop_create(&loop, &options);
    info_available(report, name, error == 0, error == 0 ? "" : strerror(-error));
    if (error == 0)
        (void)berth_loop_destroy(loop);
}

/* The explanation is lines of text: each becomes a fact, numbered in JSON. */
static void
write_explanation(struct info_report *report, const struct berth_loop *loop)
{
    char text[EXPLANATION_BYTES];
    (void)berth_loop_explain(loop, text, sizeof(text));
    info_section(report, "explanation");
    unsigned number = 0;
    char *rest = text;
    for (char *line = strsep(&rest, "\n"); line != NULL; line = strsep(&rest, "\n")) {
        char name[16];
        if (*line == 0)
            continue;
        snprintf(name, sizeof(name), "%u", ++number);
        info_text(report, name, line);
    }
    info_section_end(report);
}

static void
write_engines(struct info_report *report)
{
    struct berth_loop *loop = NULL;
    info_section(report, "engines");
    write_engine(report, "uring");
    write_engine(report, "epoll");
    write_engine(report, "poll");

    const int error = berth_loop_create(&loop, NULL);
    if (error == 0) {
        info_text(report, "chosen", berth_loop_engine(loop));
        write_explanation(report, loop);
        (void)berth_loop_destroy(loop);
    } else {
        info_text(report, "chosen", NULL);
    }
    info_section_end(report);
}

static void
write_versions(struct info_report *report)
{
    info_section(report, "berth");
    info_text(report, "version", berth_version_string());
    info_text(report, "headers", BERTH_VERSION_STRING);
    info_number(report, "slot_bytes", sizeof(struct berth_slot));
    info_section_end(report);
}

static int
usage(FILE *out)
{
    fputs("usage: berth-info [--json]\n"
          "\n"
          "Says what this machine offers to berth: engines, io_uring, caches, memory, limits.\n"
          "\n"
          "  --json      the same for a program to read\n"
          "  --version   the version of the library\n"
          "  --help      this text\n",
          out);
    return out == stderr ? 2 : 0;
}

int
main(int argc, char **argv)
{
    int json = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0)
            return usage(stdout);
        if (strcmp(argv[i], "--version") == 0)
            return puts(berth_version_string()) == EOF;
        if (strcmp(argv[i], "--json") != 0)
            return usage(stderr);
        json = 1;
    }

    struct info_report report;
    info_begin(&report, stdout, json);
    write_versions(&report);
    write_engines(&report);
    info_uring(&report);
    info_system(&report);
    info_end(&report);
    return fflush(stdout) == 0 && !ferror(stdout) ? EXIT_SUCCESS : EXIT_FAILURE;
}
