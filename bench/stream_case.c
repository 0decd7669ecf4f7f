/*
 * What the cases `receive` and `send` have in common: choosing paths, measuring each against the
 * other process, and the table.
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
    {"copies_per_byte", "copies\nper byte", 2},
    {"syscalls_per_mb", "system calls\nper MB", 2},
    {"other_cpu_ms_per_gb", "other side's\nCPU ms per GB", 1},
    {"busy", "busy", 2},
    {"other_busy", "other\nbusy", 2},
    {"both_cpu_ms_per_gb", NULL, 1},
    {"words_checked_per_4k", NULL, 3},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

/** What is measured now: subjects know only their path. */
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
        .receiver = current->sender_measured ? path->peer : path,
        .sender = current->sender_measured ? path : path->peer,
        .sender_measured = current->sender_measured,
        .mss = path->mss,
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
    metrics[STREAM_SYSCALLS] = result.syscalls_per_mb;
    metrics[STREAM_OTHER_CPU_MS] = result.other_cpu_ms_per_gb;
    metrics[STREAM_BOTH_CPU_MS] = result.cpu_ms_per_gb + result.other_cpu_ms_per_gb;
    metrics[STREAM_BUSY] = result.busy;
    metrics[STREAM_OTHER_BUSY] = result.other_busy;
    metrics[STREAM_CHECKED] = result.checked;
    return 0;
}

/** The paths wanted in their order, the baseline always among them and once more, then memcpy. */
static unsigned
choose(const struct bench *bench, struct bench_subject *subjects, unsigned *baseline)
{
    static char again[REPORT_NAME_BYTES];
    struct bench_subject once_more = {.name = again, .measure = measure};
    unsigned count = 0;
    snprintf(again, sizeof again, "%s again", current->baseline);
    for (const struct stream_path *path = current->paths; path->name != NULL; path++) {
        const bool is_baseline = strcmp(path->name, current->baseline) == 0;
        if (!is_baseline && !bench_wants(bench, path->name))
            continue;
        if (is_baseline) {
            *baseline = count;
            once_more.context = path;
        }
        subjects[count++] =
            (struct bench_subject){.name = path->name, .measure = measure, .context = path};
    }
    subjects[count++] = once_more;
    for (unsigned i = 0; stream_memcpy_subject(i, &subjects[count]); i++)
        count += bench_wants(bench, subjects[count].name);
    return count;
}

static void
add_row(struct bench *bench, const struct bench_samples *samples, unsigned at, unsigned baseline,
        const struct bench_subject *subject)
{
    const struct estimate values[COLUMNS] = {
        bench_estimate(samples, at, STREAM_CPU_MS),
        bench_ratio(samples, at, baseline, STREAM_CPU_MS),
        bench_median(samples, at, STREAM_RATE),
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
    struct bench_subject subjects[BENCH_SUBJECTS_MAX];
    unsigned baseline = 0, again = 0;
    current = one;
    const unsigned count = choose(bench, subjects, &baseline);
    bench_rounds(bench, subjects, count, &samples);
    stream_memcpy_end();
    report_table_begin(&bench->report, one->table, columns, COLUMNS);
    for (unsigned i = 0; i < count; i++) {
        if (subjects[i].context == subjects[baseline].context)
            again = i; /* it comes after the baseline */
        if (!subjects[i].left_out && !isnan(bench_estimate(&samples, i, STREAM_CPU_MS).median))
            add_row(bench, &samples, i, baseline, &subjects[i]);
    }
    report_control(&bench->report, one->baseline,
                   bench_ratio(&samples, again, baseline, STREAM_CPU_MS));
    report_note(&bench->report,
                "1 GB is 1e9 bytes; ratios are of CPU per GB, to %s; socket "
                "buffers are sized by the kernel; memcpy is the limit of whatever "
                "copies once: its GB per second are of processor time",
                one->baseline);
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
