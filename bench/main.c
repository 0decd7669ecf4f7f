/*
 * berth-bench CASE [options]: reading the command line, running the case, writing the report.
 *
 * Exit status: 0 measured (reliable or not: the report says), 1 nothing could be measured or
 * written, 2 usage, 130 interrupted.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <berth/version.h>

#include "bench.h"
#include "load.h"
#include "machine.h"
#include "server.h"

#define STATUS_FAILED 1
#define STATUS_USAGE 2
#define STATUS_INTERRUPTED 130

#define SECONDS_MAX 600.0

enum {
    FLAG_ROUNDS = 1,
    FLAG_SECONDS,
    FLAG_CPU,
    FLAG_JSON,
    FLAG_CSV,
    FLAG_CONNECTIONS,
    FLAG_SIZE,
    FLAG_VARIANTS,
    FLAG_LOAD,
    FLAG_HELP,
};

static const struct option flags[] = {
    {"rounds", required_argument, NULL, FLAG_ROUNDS},
    {"seconds", required_argument, NULL, FLAG_SECONDS},
    {"cpu", required_argument, NULL, FLAG_CPU},
    {"json", optional_argument, NULL, FLAG_JSON},
    {"csv", optional_argument, NULL, FLAG_CSV},
    {"connections", required_argument, NULL, FLAG_CONNECTIONS},
    {"size", required_argument, NULL, FLAG_SIZE},
    {"variants", required_argument, NULL, FLAG_VARIANTS},
    {"load", required_argument, NULL, FLAG_LOAD},
    {"help", no_argument, NULL, FLAG_HELP},
    {NULL, 0, NULL, 0},
};

static void
usage(FILE *out)
{
    fputs("usage: berth-bench CASE [options]\n"
          "       berth-bench list\n"
          "\n"
          "options of every case\n"
          "  --rounds N            rounds, each measuring every variant once (to 1000)\n"
          "  --seconds S           length of one variant's slice of a round\n"
          "  --cpu SERVER[,LOAD]   CPUs to bind to; default: the second and the first\n"
          "  --json[=FILE]         JSON, to standard output unless a file is named\n"
          "  --csv[=FILE]          CSV, likewise\n"
          "\n"
          "options of some cases\n"
          "  --connections N[,N...]\n"
          "  --size BYTES          of a message, 16 to 16384; default 64\n"
          "  --variants NAME[,NAME...]\n"
          "  --load uring|epoll    what the load generator itself runs on\n",
          out);
}

static int
usage_error(const char *format, const char *what)
{
    fputs("berth-bench: ", stderr);
    fprintf(stderr, format, what);
    fputs("\n\n", stderr);
    usage(stderr);
    return STATUS_USAGE;
}

static void
list(void)
{
    for (const struct bench_case *one = bench_cases; one->name != NULL; one++)
        printf("%-8s %s\n", one->name, one->summary);
}

static const struct bench_case *
case_find(const char *name)
{
    for (const struct bench_case *one = bench_cases; one->name != NULL; one++) {
        if (strcmp(one->name, name) == 0)
            return one;
    }
    return NULL;
}

/** Reads a whole number from `low` to `high` and what follows it. False: it is not one. */
static bool
read_number(const char *text, long low, long high, long *number, const char **end)
{
    char *after = NULL;
    errno = 0;
    *number = strtol(text, &after, 10);
    if (end != NULL)
        *end = after;
    return errno == 0 && after != text && (end != NULL || *after == '\0') && *number >= low &&
           *number <= high;
}

static bool
read_connections(struct bench_options *options, const char *text)
{
    options->connections_count = 0;
    for (;;) {
        long number = 0;
        if (options->connections_count == BENCH_CONNECTIONS_MAX ||
            !read_number(text, 1, LOAD_CONNS_MAX, &number, &text))
            return false;
        options->connections[options->connections_count++] = (uint32_t)number;
        if (*text == '\0')
            return true;
        if (*text++ != ',')
            return false;
    }
}

static bool
read_cpus(struct bench_options *options, const char *text)
{
    long server = 0, load = 0;
    if (!read_number(text, 0, 4095, &server, &text))
        return false;
    load = server;
    if (*text == ',' && !read_number(text + 1, 0, 4095, &load, &text))
        return false;
    options->cpu_server = (int)server;
    options->cpu_load = (int)load;
    return *text == '\0';
}

static bool
read_seconds(struct bench_options *options, const char *text)
{
    char *end = NULL;
    options->seconds = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(options->seconds) && options->seconds > 0 &&
           options->seconds <= SECONDS_MAX;
}

static bool
read_option(struct bench_options *options, int flag, const char *text)
{
    long number = 0;
    bool good = true;
    switch (flag) {
    case FLAG_ROUNDS:
        good = read_number(text, 1, STATISTICS_ROUNDS_MAX, &number, NULL);
        options->rounds = (unsigned)number;
        return good;
    case FLAG_SECONDS:
        return read_seconds(options, text);
    case FLAG_CPU:
        return read_cpus(options, text);
    case FLAG_JSON:
        options->json = true;
        options->json_path = text;
        return true;
    case FLAG_CSV:
        options->csv = true;
        options->csv_path = text;
        return true;
    case FLAG_CONNECTIONS:
        return read_connections(options, text);
    case FLAG_SIZE:
        good = read_number(text, LOAD_BYTES_MIN, LOAD_BYTES_MAX, &number, NULL);
        options->bytes = (uint32_t)number;
        return good;
    case FLAG_VARIANTS:
        options->variants = text;
        return true;
    case FLAG_LOAD:
        options->load = text;
        return strcmp(text, "uring") == 0 || strcmp(text, "epoll") == 0;
    default:
        return false;
    }
}

/** The bit of bench_case.options that a flag needs; 0 for those of every case. */
static unsigned
option_needed(int flag)
{
    switch (flag) {
    case FLAG_CONNECTIONS:
        return BENCH_OPTION_CONNECTIONS;
    case FLAG_SIZE:
        return BENCH_OPTION_SIZE;
    case FLAG_VARIANTS:
        return BENCH_OPTION_VARIANTS;
    case FLAG_LOAD:
        return BENCH_OPTION_LOAD;
    default:
        return 0;
    }
}

/** Whether every name in a list such as "plain-epoll,berth-uring" is that of a server. */
static bool
variants_known(const char *list)
{
    while (list != NULL && *list != '\0') {
        char name[REPORT_NAME_BYTES];
        const size_t length = strcspn(list, ",");
        snprintf(name, sizeof name, "%.*s", (int)length, list);
        if (server_kind_find(name) == NULL)
            return false;
        list += length + (list[length] == ',');
    }
    return true;
}

/** 0, STATUS_USAGE after saying why, or -1 when help was asked for. */
static int
read_options(struct bench_options *options, const struct bench_case *chosen, int argc, char **argv)
{
    int flag, index = 0;
    opterr = 0; /* we have our own words */
    while ((flag = getopt_long(argc, argv, "", flags, &index)) != -1) {
        if (flag == '?')
            return usage_error("unknown option, or its argument is missing: %s", argv[optind - 1]);
        if (flag == FLAG_HELP)
            return -1;
        if (option_needed(flag) & ~chosen->options)
            return usage_error("this case does not take --%s", flags[index].name);
        if (!read_option(options, flag, optarg))
            return usage_error("bad argument of --%s", flags[index].name);
    }
    if (optind < argc)
        return usage_error("what is \"%s\"?", argv[optind]);
    return variants_known(options->variants)
               ? 0
               : usage_error("no such variant in \"%s\"", options->variants);
}

bool
bench_wants(const struct bench *bench, const char *name)
{
    const size_t length = strlen(name);
    const char *at = bench->options.variants;
    if (at == NULL)
        return true;
    while (*at != '\0') {
        const size_t here = strcspn(at, ",");
        if (here == length && strncmp(at, name, here) == 0)
            return true;
        at += here + (at[here] == ',');
    }
    return false;
}

/** Writes to `path`, or to standard output if it is NULL. 0 or -errno. */
static int
write_data(const struct bench *bench, const char *path, bool json)
{
    FILE *out = path != NULL ? fopen(path, "we") : stdout;
    if (out == NULL)
        return -errno;
    if (json)
        report_write_json(&bench->report, &bench->environment, out);
    else
        report_write_csv(&bench->report, out);
    const int bad = ferror(out) || fflush(out) != 0;
    if (path != NULL && fclose(out) != 0)
        return -EIO;
    return bad ? -EIO : 0;
}

static int
write_all(const struct bench *bench)
{
    const struct bench_options *options = &bench->options;
    const bool data_on_stdout = (options->json && options->json_path == NULL) ||
                                (options->csv && options->csv_path == NULL);
    int error = 0;
    if (!data_on_stdout)
        report_write_text(&bench->report, &bench->environment, stdout);
    if (options->json)
        error = write_data(bench, options->json_path, true);
    if (error == 0 && options->csv)
        error = write_data(bench, options->csv_path, false);
    if (error != 0)
        fprintf(stderr, "berth-bench: cannot write the report: %s\n", strerror(-error));
    return error;
}

static int
run(struct bench *bench, const struct bench_case *chosen)
{
    machine_catch_interrupts();
    bench->report.case_name = chosen->name;
    bench->progress_line = isatty(STDERR_FILENO);
    environment_begin(&bench->environment, bench->options.cpu_server, bench->options.cpu_load);
    if (bench->options.rounds < BENCH_ROUNDS_RELIABLE && chosen->rounds >= BENCH_ROUNDS_RELIABLE)
        report_doubt(&bench->report,
                     "only %u rounds: %u or more make a 95 %% interval worth having",
                     bench->options.rounds, BENCH_ROUNDS_RELIABLE);
    const int error = chosen->run(bench);
    bench->report.interrupted = machine_interrupted != 0;
    environment_end(&bench->environment, &bench->report);
    if (error != 0)
        fprintf(stderr, "berth-bench: %s: %s\n", chosen->name, strerror(-error));
    const int unwritten = write_all(bench);
    report_free(&bench->report);
    if (bench->report.interrupted || machine_interrupted)
        return STATUS_INTERRUPTED;
    return error != 0 || unwritten != 0 ? STATUS_FAILED : 0;
}

int
main(int argc, char **argv)
{
    if (argc < 2)
        return usage_error("%s", "which case?");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "list") == 0) {
        if (argv[1][0] == '-')
            usage(stdout);
        else
            list();
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("berth-bench %s\n", berth_version_string());
        return 0;
    }
    const struct bench_case *chosen = case_find(argv[1]);
    if (chosen == NULL)
        return usage_error("no such case: %s", argv[1]);

    static struct bench bench;
    bench.options.rounds = chosen->rounds;
    bench.options.seconds = chosen->seconds;
    bench.options.bytes = 64;
    bench.options.cpu_load = machine_cpu_ranked(0);
    bench.options.cpu_server = machine_cpu_ranked(machine_cpus() > 1 ? 1 : 0);
    if (chosen->connections != NULL)
        read_connections(&bench.options, chosen->connections);
    const int status = read_options(&bench.options, chosen, argc - 1, argv + 1);
    if (status < 0)
        usage(stdout);
    return status < 0 ? 0 : status > 0 ? status : run(&bench, chosen);
}
