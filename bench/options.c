/*
 * Reading the command line of berth-bench. Everything is checked before anything is measured: a run
 * of an hour must not end with a word about a mistyped name.
 *
 * SPDX-License-Identifier: MIT
 */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"
#include "machine.h"
#include "names.h"

#define SECONDS_MAX 600.0
#define EVENTS_MAX 1000000000000.0

enum {
    FLAG_ROUNDS = 1,
    FLAG_SECONDS,
    FLAG_CPU,
    FLAG_JSON,
    FLAG_CSV,
    FLAG_QUICK,
    FLAG_FULL,
    FLAG_OUT,
    FLAG_CONNECTIONS,
    FLAG_ACTIVE,
    FLAG_VARIANTS,
    FLAG_SIZE,
    FLAG_LOAD,
    FLAG_SERVER,
    FLAG_CACHEGRIND,
    FLAG_EVENTS,
    FLAG_BETWEEN,
    FLAG_HELP,
    FLAGS_END,
};

_Static_assert(FLAGS_END < ' ', "a flag is told from a letter by its value");

static const struct option flags[] = {
    {"rounds", required_argument, NULL, FLAG_ROUNDS},
    {"seconds", required_argument, NULL, FLAG_SECONDS},
    {"cpu", required_argument, NULL, FLAG_CPU},
    {"json", optional_argument, NULL, FLAG_JSON},
    {"csv", optional_argument, NULL, FLAG_CSV},
    {"quick", no_argument, NULL, FLAG_QUICK},
    {"full", no_argument, NULL, FLAG_FULL},
    {"out", required_argument, NULL, FLAG_OUT},
    {"connections", required_argument, NULL, FLAG_CONNECTIONS},
    {"active", required_argument, NULL, FLAG_ACTIVE},
    {"variants", required_argument, NULL, FLAG_VARIANTS},
    {"size", required_argument, NULL, FLAG_SIZE},
    {"load", required_argument, NULL, FLAG_LOAD},
    {"server", required_argument, NULL, FLAG_SERVER},
    {"cachegrind", no_argument, NULL, FLAG_CACHEGRIND},
    {"events", required_argument, NULL, FLAG_EVENTS},
    {"between", required_argument, NULL, FLAG_BETWEEN},
    {"help", no_argument, NULL, FLAG_HELP},
    {NULL, 0, NULL, 0},
};

void
usage(FILE *out)
{
    fputs(
        "usage: berth-bench CASE [options]    measure one thing\n"
        "       berth-bench all [options]     every case, one after the other\n"
        "       berth-bench report [options]  every case, and a page with tables and plots\n"
        "       berth-bench list              the cases, and what each compares\n"
        "\n"
        "options\n"
        "  --quick, --full       less, or more, than usual\n"
        "  --rounds N            rounds, each measuring every variant once (to 1000)\n"
        "  --seconds S           length of one variant's slice of a round\n"
        "  --cpu SERVER[,LOAD]   CPUs to bind to; default: the second and the first\n"
        "  --json[=FILE]         JSON, to standard output unless a file is named\n"
        "  --csv[=FILE]          CSV, likewise\n"
        "  --out DIRECTORY       write a page with tables and plots there, JSON and CSV beside "
        "it;\n"
        "                        report always does: by default into berth-report\n"
        "\n"
        "options of some cases\n"
        "  --variants NAME[,NAME...]\n"
        "  --connections N[,N...]\n"
        "  --active N[,N...]     lookup: per cent of the connections; waiting: how many;\n"
        "                        memory: KiB of the working sets; flood: how many floods\n"
        "  --size BYTES          of a message, 16 to 16384; default 64\n"
        "  --load uring|epoll    what the load generator itself runs on\n"
        "  --server COMMAND      echo: a server of yours; it is told where to listen in $PORT\n"
        "  --cachegrind          lookup: exact counts instead of times (needs valgrind)\n"
        "  --events N            lookup: handle N events per variant and report nothing: for use\n"
        "                        under a tool that counts\n",
        out);
}

static int
usage_error(const char *format, const char *what)
{
    fputs("berth-bench: ", stderr);
    fprintf(stderr, format, what);
    fputs("\n\n", stderr);
    usage(stderr);
    return -EINVAL;
}

/* ---- values ------------------------------------------------------------------------------------
 */

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
read_numbers(struct bench_numbers *numbers, const char *text, long high)
{
    numbers->count = 0;
    for (;;) {
        long number = 0;
        if (numbers->count == BENCH_NUMBERS_MAX || !read_number(text, 1, high, &number, &text))
            return false;
        numbers->values[numbers->count++] = (uint32_t)number;
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

/** Reads a number above 0, up to `high`, that may be written as 1e6. */
static bool
read_real(const char *text, double high, double *number)
{
    char *end = NULL;
    *number = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*number) && *number > 0 && *number <= high;
}

/** Whether every name in a list such as "slot,rbtree" is that of a variant of the case. */
static bool
variants_known(const struct bench_case *one, const char *list)
{
    for (const char *at = list, *rest; at != NULL; at = rest) {
        const size_t length = names_first(at, &rest);
        const char *name;
        bool known = false;
        for (unsigned i = 0; !known && (name = one->variant(i)) != NULL; i++)
            known = strlen(name) == length && strncmp(name, at, length) == 0;
        if (!known)
            return false;
    }
    return true;
}

/** Whether every name in `list` is in the list `known`. */
static bool
names_known(const char *list, const char *known)
{
    for (const char *at = list, *rest; at != NULL; at = rest) {
        char name[16];
        const size_t length = names_first(at, &rest);
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        if (length >= sizeof name || !names_have(known, name))
            return false;
    }
    return true;
}

static long
active_max(const struct bench_case *one)
{
    return (long)(one->active_max != 0 ? one->active_max : one->connections_max);
}

static bool
read_value(struct request *request, int flag, const char *text)
{
    struct bench_options *options = &request->options;
    const struct bench_case *one = request->chosen;
    long number = 0;
    double real = 0;
    bool good = true;
    switch (flag) {
    case FLAG_ROUNDS:
        good = read_number(text, 1, STATISTICS_ROUNDS_MAX, &number, NULL);
        options->rounds = (unsigned)number;
        return good;
    case FLAG_SECONDS:
        return read_real(text, SECONDS_MAX, &options->seconds);
    case FLAG_CPU:
        request->has_cpus = true;
        return read_cpus(options, text);
    case FLAG_CONNECTIONS:
        return read_numbers(&options->connections, text, (long)one->connections_max);
    case FLAG_ACTIVE:
        return read_numbers(&options->active, text, active_max(one));
    case FLAG_VARIANTS:
        options->variants = text;
        return variants_known(one, text);
    case FLAG_SIZE:
        good = read_number(text, LOAD_BYTES_MIN, LOAD_BYTES_MAX, &number, NULL);
        options->bytes = (uint32_t)number;
        return good;
    case FLAG_LOAD:
        options->load = text;
        return strcmp(text, "uring") == 0 || strcmp(text, "epoll") == 0;
    case FLAG_SERVER:
        options->server = text;
        return *text != '\0';
    case FLAG_BETWEEN:
        options->between = text;
        return names_known(text, "read,none,epoll");
    case FLAG_EVENTS:
        good = read_real(text, EVENTS_MAX, &real);
        options->events = (uint64_t)real;
        return good && real >= 1;
    default:
        return false;
    }
}

static bool
read_flag(struct request *request, int flag, const char *text)
{
    struct bench_options *options = &request->options;
    switch (flag) {
    case FLAG_JSON:
        options->json = true;
        options->json_path = text;
        return true;
    case FLAG_CSV:
        options->csv = true;
        options->csv_path = text;
        return true;
    case FLAG_QUICK:
    case FLAG_FULL:
        request->preset = flag == FLAG_QUICK ? PRESET_QUICK : PRESET_FULL;
        return true;
    case FLAG_OUT:
        request->directory = text;
        return *text != '\0';
    case FLAG_CACHEGRIND:
        options->cachegrind = true;
        return true;
    default:
        return read_value(request, flag, text);
    }
}

/** Whether the flag may be used with what there is to do. */
static bool
flag_allowed(const struct request *request, int flag)
{
    const struct bench_case *one = request->chosen;
    if (request->command == COMMAND_LIST || request->command == COMMAND_HELP)
        return false;
    switch (flag) {
    case FLAG_OUT:
        return request->command == COMMAND_REPORT || one != NULL;
    case FLAG_JSON:
    case FLAG_CSV:
        return request->command != COMMAND_REPORT;
    case FLAG_CONNECTIONS:
        return one != NULL && one->normal.connections != NULL;
    case FLAG_ACTIVE:
        return one != NULL && one->normal.active != NULL;
    case FLAG_VARIANTS:
        return one != NULL && one->variant != NULL;
    case FLAG_SIZE:
        return one != NULL && (one->options & BENCH_OPTION_SIZE);
    case FLAG_LOAD:
        return one != NULL && (one->options & BENCH_OPTION_LOAD);
    case FLAG_SERVER:
        return one != NULL && (one->options & BENCH_OPTION_SERVER);
    case FLAG_BETWEEN:
    case FLAG_CACHEGRIND:
    case FLAG_EVENTS:
        return one != NULL && (one->options & BENCH_OPTION_LOOKUP);
    default:
        return true;
    }
}

/** What getopt_long did not like. Of a short option it tells the letter only. */
static int
refused(char **argv)
{
    const char letter[] = {'-', (char)optopt, '\0'};
    if (optopt >= FLAGS_END)
        return usage_error("unknown option: %s", letter);
    return usage_error("unknown option, or its argument is missing or too much: %s",
                       argv[optind - 1]);
}

/** Whether JSON and CSV were sent to the same place, where neither could be read. */
static bool
outputs_clash(const struct bench_options *options)
{
    if (!options->json || !options->csv)
        return false;
    if (options->json_path == NULL || options->csv_path == NULL)
        return options->json_path == options->csv_path;
    return strcmp(options->json_path, options->csv_path) == 0;
}

static int
read_flags(struct request *request, int argc, char **argv)
{
    int flag, index = 0;
    opterr = 0; /* we have our own words */
    while ((flag = getopt_long(argc, argv, "", flags, &index)) != -1) {
        if (flag == '?')
            return refused(argv);
        if (flag == FLAG_HELP) {
            request->command = COMMAND_HELP;
            return 0;
        }
        if (!flag_allowed(request, flag))
            return usage_error("--%s does not go with this", flags[index].name);
        if (!read_flag(request, flag, optarg))
            return usage_error("bad argument of --%s", flags[index].name);
    }
    if (optind < argc)
        return usage_error("what is \"%s\"?", argv[optind]);
    if (outputs_clash(&request->options))
        return usage_error("%s", "--json and --csv to the same place");
    return 0;
}

static const struct bench_case *
case_find(const char *name)
{
    for (unsigned i = 0; bench_cases[i] != NULL; i++) {
        if (strcmp(bench_cases[i]->name, name) == 0)
            return bench_cases[i];
    }
    return NULL;
}

int
request_read(struct request *request, int argc, char **argv)
{
    static const struct {
        const char *word;
        enum command command;
    } words[] = {
        {"all", COMMAND_ALL},
        {"report", COMMAND_REPORT},
        {"list", COMMAND_LIST},
        {"--help", COMMAND_HELP},
    };
    memset(request, 0, sizeof *request);
    if (argc < 2)
        return usage_error("%s", "which case?");
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(argv[1], words[i].word) == 0) {
            request->command = words[i].command;
            if (request->command == COMMAND_REPORT)
                request->directory = "berth-report";
            return read_flags(request, argc - 1, argv + 1);
        }
    }
    request->chosen = case_find(argv[1]);
    return request->chosen == NULL ? usage_error("no such case: %s", argv[1])
                                   : read_flags(request, argc - 1, argv + 1);
}

/* ---- what a case is run with -------------------------------------------------------------------
 */

void
request_options(const struct request *request, const struct bench_case *one,
                struct bench_options *options)
{
    const struct bench_preset *preset = request->preset == PRESET_QUICK  ? &one->quick
                                        : request->preset == PRESET_FULL ? &one->full
                                                                         : &one->normal;
    *options = request->options;
    options->full = request->preset == PRESET_FULL;
    if (options->rounds == 0)
        options->rounds = preset->rounds;
    if (options->seconds <= 0)
        options->seconds = preset->seconds;
    if (options->connections.count == 0 && preset->connections != NULL)
        read_numbers(&options->connections, preset->connections, (long)one->connections_max);
    if (options->active.count == 0 && preset->active != NULL)
        read_numbers(&options->active, preset->active, active_max(one));
    if (options->bytes == 0)
        options->bytes = 64;
    if (!request->has_cpus) {
        options->cpu_load = machine_cpu_ranked(0);
        options->cpu_server = machine_cpu_ranked(machine_cpus() > 1 ? 1 : 0);
    }
}
