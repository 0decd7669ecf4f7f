/*
 * berth-bench: what a program does when it is told what to do. Everything it can be told is in
 * options.c, how it is done in run.c, and what is measured in the files case_*.c.
 *
 * Exit status: 0 measured (reliable or not: the report says), 1 something could not be measured or
 * written, 2 usage, 130 interrupted.
 *
 * SPDX-License-Identifier: MIT
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <berth/version.h>

#include "bench.h"
#include "options.h"
#include "run.h"

static void
list_variants(const struct bench_case *one)
{
    const char *name;
    int column = 0;
    for (unsigned at = 0; one->variant != NULL && (name = one->variant(at)) != NULL; at++) {
        const int length = (int)strlen(name);
        if (at == 0 || column + length > 98) {
            printf("%s          ", at == 0 ? "" : "\n");
            column = 10;
        }
        printf(" %s", name);
        column += length + 1;
    }
    if (column > 0)
        putchar('\n');
}

static void
list(void)
{
    for (unsigned i = 0; bench_cases[i] != NULL; i++) {
        printf("%-9s  %s\n", bench_cases[i]->name, bench_cases[i]->summary);
        list_variants(bench_cases[i]);
    }
}

/** Whatever goes to standard output must have arrived there. */
static int
flushed(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    fputs("berth-bench: cannot write to standard output\n", stderr);
    return STATUS_FAILED;
}

/** What this program inherits may be odd: it must not make results odd, or be waited for in vain.
 */
static void
inherit(void)
{
    /* A file opened next must not become standard output because nobody gave us one. */
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDONLY) != fd)
            exit(STATUS_FAILED);
    }
    /* Where it is ignored, children vanish without being waited for. */
    signal(SIGCHLD, SIG_DFL);
}

int
main(int argc, char **argv)
{
    static struct request request;
    inherit();
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("berth-bench %s\n", berth_version_string());
        return flushed(0);
    }
    if (request_read(&request, argc, argv) != 0)
        return STATUS_USAGE;
    switch (request.command) {
    case COMMAND_HELP:
        usage(stdout);
        return flushed(0);
    case COMMAND_LIST:
        list();
        return flushed(0);
    case COMMAND_CASE:
        return flushed(run_one(&request));
    case COMMAND_ALL:
    case COMMAND_REPORT:
        return flushed(run_all(&request));
    }
    return STATUS_USAGE;
}
