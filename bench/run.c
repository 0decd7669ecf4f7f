/*
 * Running one case, or all of them, and writing what they found. `all` gives each case a process of
 * its own, so that none lives on the memory layout that another one left behind; what it writes
 * comes back through unnamed temporary files.
 *
 * SPDX-License-Identifier: MIT
 */
#include "run.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "machine.h"
#include "plot.h"

#define CASES_MAX 64u

static FILE *
file_in(const char *directory, const char *stem, const char *suffix)
{
    char path[PATH_MAX];
    FILE *file = NULL;
    errno = ENAMETOOLONG; /* a name cut short would be that of some other file */
    if (snprintf(path, sizeof path, "%s/%s%s", directory, stem, suffix) < (int)sizeof path)
        file = fopen(path, "we");
    if (file == NULL)
        fprintf(stderr, "berth-bench: %s/%s%s: %s\n", directory, stem, suffix, strerror(errno));
    return file;
}

/** Closes a file that was written. 0 or -EIO. */
static int
file_end(FILE *file)
{
    const int bad = ferror(file);
    return (fclose(file) != 0 || bad) ? -EIO : 0;
}

/* ---- one case ----------------------------------------------------------------------------------
 */

static int
write_to_directory(const struct bench *bench, const char *directory)
{
    FILE *json = file_in(directory, bench->report.case_name, ".json");
    FILE *csv = file_in(directory, bench->report.case_name, ".csv");
    int error = json == NULL || csv == NULL ? -EIO : 0;
    if (json != NULL) {
        report_write_json(&bench->report, &bench->environment, json);
        error = file_end(json) != 0 ? -EIO : error;
    }
    if (csv != NULL) {
        report_write_csv(&bench->report, csv);
        error = file_end(csv) != 0 ? -EIO : error;
    }
    return error;
}

static int
write_page(struct bench *bench, const struct bench_case *one, const struct outputs *outputs)
{
    char *svgs[PLOTS_MAX] = {NULL};
    int error = write_to_directory(bench, outputs->directory);
    plot_all(&bench->report, &bench->environment, one->plots, svgs);
    for (unsigned i = 0; i < PLOTS_MAX; i++) {
        FILE *file =
            svgs[i] != NULL ? file_in(outputs->directory, one->plots[i].name, ".svg") : NULL;
        if (file != NULL) {
            fputs(svgs[i], file);
            error = file_end(file) != 0 ? -EIO : error;
        }
    }
    report_write_html(&bench->report, &bench->environment, one->plots, svgs, outputs->html);
    for (unsigned i = 0; i < PLOTS_MAX; i++)
        free(svgs[i]);
    return error;
}

static int
write_all(struct bench *bench, const struct bench_case *one, const struct outputs *outputs)
{
    int error = 0;
    if (outputs->html != NULL) /* first: it may have something to note */
        error = write_page(bench, one, outputs);
    if (outputs->text != NULL)
        report_write_text(&bench->report, &bench->environment, outputs->text);
    if (outputs->json != NULL)
        report_write_json(&bench->report, &bench->environment, outputs->json);
    if (outputs->csv != NULL)
        report_write_csv(&bench->report, outputs->csv);
    FILE *const files[] = {outputs->text, outputs->json, outputs->csv, outputs->html};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        if (files[i] != NULL && (fflush(files[i]) != 0 || ferror(files[i])))
            error = -EIO;
    }
    if (error != 0)
        fprintf(stderr, "berth-bench: cannot write the report: %s\n", strerror(-error));
    return error;
}

int
run_case(const struct bench_case *one, const struct bench_options *options,
         const struct outputs *outputs)
{
    static struct bench bench;
    bench.options = *options;
    bench.report.case_name = one->name;
    bench.progress_line = isatty(STDERR_FILENO);
    if (options->events > 0) { /* somebody else measures */
        const int failed = one->run(&bench);
        if (failed != 0)
            fprintf(stderr, "berth-bench: %s: %s\n", one->name, strerror(-failed));
        return failed == 0 ? 0 : STATUS_FAILED;
    }
    environment_begin(&bench.environment, options->cpu_server, options->cpu_load);
    if (options->rounds < BENCH_ROUNDS_RELIABLE && one->normal.rounds >= BENCH_ROUNDS_RELIABLE &&
        !options->cachegrind)
        report_doubt(&bench.report,
                     "only %u round%s: %u or more make a 95 %% interval worth having",
                     options->rounds, options->rounds == 1 ? "" : "s", BENCH_ROUNDS_RELIABLE);
    const int error = one->run(&bench);
    bench.report.interrupted = machine_interrupted != 0;
    /* Exact counts are the same on a machine under load. */
    environment_end(&bench.environment, options->cachegrind ? NULL : &bench.report);
    if (bench.report.interrupted) {
        report_doubt(&bench.report, "interrupted: not everything was measured");
    } else if (error != 0) {
        report_doubt(&bench.report, "not everything was measured: %s", strerror(-error));
        fprintf(stderr, "berth-bench: %s: %s%s\n", one->name, strerror(-error),
                bench.report.notes_count > 0 ? "; the notes of its report say more" : "");
    }
    const int unwritten = write_all(&bench, one, outputs);
    report_free(&bench.report);
    if (machine_interrupted)
        return STATUS_INTERRUPTED;
    if (unwritten != 0)
        return STATUS_UNWRITTEN;
    return error != 0 ? STATUS_FAILED : 0;
}

/* ---- the files that were asked for -------------------------------------------------------------
 */

/** Opens `path`, or takes standard output. NULL after saying why not. */
static FILE *
data_open(const char *path)
{
    FILE *file = path != NULL ? fopen(path, "we") : stdout;
    if (file == NULL)
        fprintf(stderr, "berth-bench: %s: %s\n", path, strerror(errno));
    return file;
}

/** Before anything is measured: what cannot be written later is not worth waiting for. */
static int
outputs_open(struct outputs *outputs, const struct bench_options *options)
{
    const bool data_on_stdout = (options->json && options->json_path == NULL) ||
                                (options->csv && options->csv_path == NULL);
    memset(outputs, 0, sizeof *outputs);
    outputs->text = data_on_stdout ? NULL : stdout;
    if (options->json && (outputs->json = data_open(options->json_path)) == NULL)
        return -EIO;
    if (options->csv && (outputs->csv = data_open(options->csv_path)) == NULL)
        return -EIO;
    return 0;
}

static int
outputs_close(struct outputs *outputs, int status)
{
    FILE *const files[] = {outputs->json, outputs->csv};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        if (files[i] == NULL || files[i] == stdout || file_end(files[i]) == 0)
            continue;
        if (status != STATUS_FAILED)
            fputs("berth-bench: cannot write the report\n", stderr);
        status = STATUS_FAILED;
    }
    return status;
}

/** A page with a section for `only`, or for every case. */
static int
page_open(const struct request *request, const struct bench_case *only, struct outputs *wholes)
{
    if (request->directory == NULL)
        return 0;
    if (mkdir(request->directory, 0777) != 0 && errno != EEXIST) {
        fprintf(stderr, "berth-bench: %s: %s\n", request->directory, strerror(errno));
        return -EIO;
    }
    wholes->directory = request->directory;
    wholes->html = file_in(request->directory, "index", ".html");
    if (wholes->html == NULL)
        return -EIO;
    const char *names[CASES_MAX + 1] = {NULL};
    for (unsigned i = 0; only == NULL && i < CASES_MAX && bench_cases[i] != NULL; i++)
        names[i] = bench_cases[i]->name;
    if (only != NULL)
        names[0] = only->name;
    report_html_begin(names, wholes->html);
    return 0;
}

static int
page_close(const struct request *request, struct outputs *wholes, int status)
{
    if (wholes->html == NULL)
        return status;
    report_html_end(wholes->html);
    if (file_end(wholes->html) != 0) {
        fprintf(stderr, "berth-bench: %s/index.html could not be written\n", request->directory);
        return STATUS_FAILED;
    }
    if (wholes->text != NULL)
        fprintf(wholes->text,
                "\nThe page is %s/index.html; its plots, JSON and CSV lie beside it.\n",
                request->directory);
    return status;
}

int
run_one(const struct request *request)
{
    struct bench_options options;
    struct outputs outputs;
    request_options(request, request->chosen, &options);
    if (outputs_open(&outputs, &options) != 0 || page_open(request, request->chosen, &outputs) != 0)
        return outputs_close(&outputs, STATUS_FAILED);
    machine_catch_interrupts();
    const int status = page_close(request, &outputs, run_case(request->chosen, &options, &outputs));
    return outputs_close(&outputs, status == STATUS_UNWRITTEN ? STATUS_FAILED : status);
}

/* ---- all of them -------------------------------------------------------------------------------
 */

static void
on_child(int number)
{
    (void)number; /* it is only there to end sigsuspend */
}

/**
 * Waits with the signals held that `open` lets through, so that none comes between looking and
 * waiting. Returns an exit status, or that signal, negative, which has ended the child.
 */
static int
wait_for(pid_t child, const sigset_t *open)
{
    int status = 0;
    bool told = false;
    while (waitpid(child, &status, WNOHANG) == 0) {
        /* Ctrl-C reaches the child by itself; a signal to this process alone does not. */
        if (machine_interrupted && !told) {
            kill(child, SIGTERM);
            told = true;
        }
        sigsuspend(open);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/** Runs the case in a process of its own, writing to `parts`. Returns what wait_for does. */
static int
run_apart(const struct request *request, const struct bench_case *one, const struct outputs *parts)
{
    struct bench_options options;
    sigset_t held, before;
    request_options(request, one, &options);
    fflush(NULL);
    sigemptyset(&held);
    sigaddset(&held, SIGINT);
    sigaddset(&held, SIGTERM);
    sigaddset(&held, SIGCHLD);
    sigprocmask(SIG_BLOCK, &held, &before);
    const pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        signal(SIGCHLD, SIG_DFL);
        sigprocmask(SIG_SETMASK, &before, NULL);
        _exit(run_case(one, &options, parts));
    }
    int status = STATUS_FAILED;
    if (child < 0)
        fprintf(stderr, "berth-bench: %s: %s\n", one->name, strerror(errno));
    else
        status = wait_for(child, &before);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (status < 0)
        fprintf(stderr, "berth-bench: %s: ended by signal %d\n", one->name, -status);
    return status;
}

/**
 * Appends what was written to the temporary `part` if it is complete, and closes it. `separator`
 * goes before it unless it is the first.
 */
static void
append(FILE *part, bool complete, FILE *whole, const char *separator, bool *first)
{
    char block[4096];
    size_t got;
    if (part == NULL)
        return;
    fseek(part, 0, SEEK_END);
    if (complete && ftell(part) > 0) {
        fputs(*first ? "" : separator, whole);
        *first = false;
        rewind(part);
        while ((got = fread(block, 1, sizeof block, part)) > 0)
            fwrite(block, 1, got, whole);
    }
    fclose(part);
}

/** Whether nothing was appended yet, to each of the wholes. */
struct firsts {
    bool json, csv, html;
};

/** One case, and its part of each whole. Returns what run_apart does. */
static int
run_into(const struct request *request, const struct bench_case *one, const struct outputs *wholes,
         struct firsts *firsts)
{
    struct outputs parts = {
        .text = wholes->text,
        .json = wholes->json != NULL ? tmpfile() : NULL,
        .csv = wholes->csv != NULL ? tmpfile() : NULL,
        .html = wholes->html != NULL ? tmpfile() : NULL,
        .directory = wholes->directory,
    };
    int status = STATUS_FAILED;
    if ((wholes->json != NULL && parts.json == NULL) ||
        (wholes->csv != NULL && parts.csv == NULL) || (wholes->html != NULL && parts.html == NULL))
        fprintf(stderr, "berth-bench: no temporary file: %s\n", strerror(errno));
    else
        status = run_apart(request, one, &parts);
    /* Whoever was ended by a signal may have been in the middle of a sentence. */
    append(parts.json, status >= 0, wholes->json, ",\n", &firsts->json);
    append(parts.csv, status >= 0, wholes->csv, "\n\n", &firsts->csv);
    append(parts.html, status >= 0, wholes->html, "", &firsts->html);
    return status;
}

int
run_all(const struct request *request)
{
    struct outputs wholes;
    struct firsts firsts = {true, true, true};
    int status = 0;
    unsigned count = 0;
    while (bench_cases[count] != NULL)
        count++;
    if (outputs_open(&wholes, &request->options) != 0 || page_open(request, NULL, &wholes) != 0)
        return outputs_close(&wholes, STATUS_FAILED);
    machine_catch_interrupts();
    signal(SIGCHLD, on_child);
    if (wholes.json != NULL)
        fputs("[\n", wholes.json);
    for (unsigned i = 0; i < count && !machine_interrupted; i++) {
        fprintf(stderr, "berth-bench: case %u of %u: %s\n", i + 1, count, bench_cases[i]->name);
        const int one = run_into(request, bench_cases[i], &wholes, &firsts);
        if (one != 0 && status != STATUS_INTERRUPTED)
            status = one == STATUS_INTERRUPTED ? one : STATUS_FAILED;
        if (one == STATUS_UNWRITTEN || one == -SIGPIPE)
            break; /* more of it could not be written either */
    }
    if (wholes.json != NULL)
        fputs("]\n", wholes.json);
    status = page_close(request, &wholes, machine_interrupted ? STATUS_INTERRUPTED : status);
    return outputs_close(&wholes, status);
}
