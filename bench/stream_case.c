/*
 * What the cases `receive`, `send` and `copies` have in common: choosing paths, measuring each
 * against the other processes, and the table.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>

#include "machine.h"
#include "stream.h"

/** Of a slice, and at most: the connection has found its pace after some ms. */
#define WARM_SHARE 0.3
#define WARM_SECONDS_MAX 0.1

static const struct report_column columns[] = {
    {"cpu_ms_per_gb", "CPU ms\nper GB", 1},
    {"cpu_ratio", "ratio to\nbaseline", 3},
    {"gb_per_second", "GB per\nsecond", 2},
    {"copies_per_byte_least", "copies per byte:\nat least", 2},
    {"copies_per_byte", "at\nmost", 2},
    {"syscalls_per_mb", "system calls\nper MB", 2},
    {"other_cpu_ms_per_gb", "other side's\nCPU ms per GB", 1},
    {"busy", "busy", 2},
    {"other_busy", "other\nbusy", 2},
    {"both_cpu_ms_per_gb", NULL, 1},
    {"words_checked_per_4k", NULL, 3},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

/** Paths that others are compared with, in one case. */
#define BASES_MAX 8u

/** What is measured now. */
static const struct stream_case *current;

/** What the bare error would not tell. */
static void
explain(struct bench *bench, const struct stream_path *path, int error)
{
    if (error == -EPROTO)
        report_doubt(&bench->report, "%s: other bytes came out than went in", path->name);
    else if (error == -ENOMEM)
        report_note(&bench->report, "%s: no memory, or over the limit of locked memory (ulimit -l)",
                    path->name);
    else if (path->needs != NULL && (error == -EOPNOTSUPP || error == -EINVAL || error == -ENOSYS ||
                                     error == -EPERM || error == -ENOPROTOOPT))
        report_note(&bench->report, "%s needs %s, which is refused here", path->name, path->needs);
}

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const struct stream_path *path = subject->context;
    const double warm_s = bench->options.seconds * WARM_SHARE;
    struct stream_result result;
    const struct stream_options options = {
        .path = path,
        .cpu_measured = bench->environment.cpu_server,
        .cpu_other = bench->environment.cpu_load,
        .warm_ns = (uint64_t)((warm_s < WARM_SECONDS_MAX ? warm_s : WARM_SECONDS_MAX) * 1e9),
        .run_ns = (uint64_t)(bench->options.seconds * 1e9),
    };
    const int error = stream_measure(&options, &result);
    if (error != 0) {
        explain(bench, path, error);
        return error;
    }
    metrics[STREAM_CPU_MS] = result.cpu_ms_per_gb;
    metrics[STREAM_RATE] = result.gb_per_second;
    metrics[STREAM_COPIES] = result.copies_per_byte;
    metrics[STREAM_COPIES_LEAST] = result.copies_least;
    metrics[STREAM_SYSCALLS] = result.syscalls_per_mb;
    metrics[STREAM_OTHER_CPU_MS] = result.other_cpu_ms_per_gb;
    metrics[STREAM_BOTH_CPU_MS] = result.cpu_ms_per_gb + result.other_cpu_ms_per_gb;
    metrics[STREAM_BUSY] = result.busy;
    metrics[STREAM_OTHER_BUSY] = result.other_busy;
    metrics[STREAM_CHECKED] = result.checked;
    return 0;
}

/** What a path is compared with. */
static const char *
base_of(const struct stream_path *path)
{
    return path->base != NULL ? path->base : current->baseline;
}

static bool
is_base(const char *name)
{
    for (const struct stream_path *path = current->paths; path->name != NULL; path++) {
        if (strcmp(base_of(path), name) == 0)
            return true;
    }
    return false;
}

/** Whether it is wanted, or somebody wanted is compared with it; memcpy is with the baseline. */
static bool
is_needed(const struct bench *bench, const char *name)
{
    struct bench_subject subject;
    if (bench_wants(bench, name))
        return true;
    for (const struct stream_path *path = current->paths; path->name != NULL; path++) {
        if (strcmp(base_of(path), name) == 0 && bench_wants(bench, path->name))
            return true;
    }
    for (unsigned i = 0; stream_memcpy_subject(i, &subject); i++) {
        if (strcmp(current->baseline, name) == 0 && bench_wants(bench, subject.name))
            return true;
    }
    return false;
}

/** Subjects: first the paths, then those that others are compared with once more, then memcpy. */
struct choice {
    struct bench_subject subjects[BENCH_SUBJECTS_MAX];
    unsigned paths, again; /**< where each of the later parts begins */
    unsigned count;
    char names[BASES_MAX][REPORT_NAME_BYTES];
};

static void
choose(const struct bench *bench, struct choice *choice)
{
    struct bench_subject *subjects = choice->subjects;
    unsigned count = 0;
    for (const struct stream_path *path = current->paths; path->name != NULL; path++) {
        if (is_needed(bench, path->name))
            subjects[count++] =
                (struct bench_subject){.name = path->name, .measure = measure, .context = path};
    }
    choice->paths = count;
    for (unsigned i = 0; i < choice->paths && count - choice->paths < BASES_MAX; i++) {
        char *name = choice->names[count - choice->paths];
        if (!is_base(subjects[i].name))
            continue;
        snprintf(name, sizeof choice->names[0], "%s again", subjects[i].name);
        subjects[count] = subjects[i];
        subjects[count++].name = name;
    }
    choice->again = count;
    for (unsigned i = 0; stream_memcpy_subject(i, &subjects[count]); i++)
        count += bench_wants(bench, subjects[count].name);
    choice->count = count;
}

/** The subject that number `at` is compared with. */
static unsigned
baseline_of(const struct choice *choice, unsigned at)
{
    const char *name =
        at < choice->again ? base_of(choice->subjects[at].context) : current->baseline;
    unsigned i = 0;
    while (i < choice->paths && strcmp(choice->subjects[i].name, name) != 0)
        i++;
    return i < choice->paths ? i : at; /* is_needed has seen to it that it is there */
}

static void
add_row(struct bench *bench, const struct bench_samples *samples, unsigned at, unsigned baseline,
        const struct bench_subject *subject)
{
    const struct estimate values[COLUMNS] = {
        bench_estimate(samples, at, STREAM_CPU_MS),
        bench_ratio(samples, at, baseline, STREAM_CPU_MS),
        bench_median(samples, at, STREAM_RATE),
        bench_median(samples, at, STREAM_COPIES_LEAST),
        bench_median(samples, at, STREAM_COPIES),
        bench_median(samples, at, STREAM_SYSCALLS),
        bench_median(samples, at, STREAM_OTHER_CPU_MS),
        bench_median(samples, at, STREAM_BUSY),
        bench_median(samples, at, STREAM_OTHER_BUSY),
        bench_median(samples, at, STREAM_BOTH_CPU_MS),
        bench_median(samples, at, STREAM_CHECKED),
    };
    report_row(&bench->report, subject->name, values);
}

int
stream_case_run(struct bench *bench, const struct stream_case *one)
{
    static struct bench_samples samples;
    static struct choice choice;
    current = one;
    choose(bench, &choice);
    bench_rounds(bench, choice.subjects, choice.count, &samples);
    stream_memcpy_end();
    report_table_begin(&bench->report, one->table, columns, COLUMNS);
    for (unsigned i = 0; i < choice.count; i++) {
        const struct bench_subject *subject = &choice.subjects[i];
        const unsigned baseline = baseline_of(&choice, i);
        if (!subject->left_out && !isnan(bench_estimate(&samples, i, STREAM_CPU_MS).median))
            add_row(bench, &samples, i, baseline, subject);
        if (i >= choice.paths && i < choice.again)
            report_control(&bench->report, choice.subjects[baseline].name,
                           bench_ratio(&samples, i, baseline, STREAM_CPU_MS));
    }
    report_note(&bench->report,
                "1 GB is 1e9 bytes; ratios are of CPU per GB, to %s; socket "
                "buffers are sized by the kernel; memcpy is the limit of whatever "
                "copies once: its GB per second are of processor time",
                one->compared_with != NULL ? one->compared_with : one->baseline);
    return bench->report.tables[0].rows_count > 0 || machine_interrupted ? 0 : -EIO;
}

const char *
stream_case_variant(const struct stream_path *paths, unsigned at)
{
    unsigned i = 0;
    for (; paths[i].name != NULL; i++) {
        if (i == at)
            return paths[i].name;
    }
    struct bench_subject subject;
    return stream_memcpy_subject(at - i, &subject) ? subject.name : NULL;
}
