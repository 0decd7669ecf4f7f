/*
 * What cases are helped with besides being measured: which variants are wanted, what fits this
 * process, what to tell a person who waits.
 *
 * SPDX-License-Identifier: MIT
 */
#include "bench.h"

#include <stdarg.h>
#include <stdio.h>

#include "machine.h"
#include "names.h"

/** Descriptors left for everything that is not counted one by one. */
#define DESCRIPTORS_KEPT 100u

bool
bench_wants(const struct bench *bench, const char *name)
{
    return names_have(bench->options.variants, name);
}

uint32_t
bench_descriptors_fit(struct bench *bench, uint32_t wanted, unsigned each)
{
    const uint32_t room = machine_descriptors_free();
    const uint32_t most = room > DESCRIPTORS_KEPT + each ? (room - DESCRIPTORS_KEPT) / each : 1;
    if (wanted <= most)
        return wanted;
    report_note(&bench->report, "%u wanted, %u fit the limit of descriptors", wanted, most);
    return most;
}

struct slice_options
bench_slice_options(const struct bench *bench, const struct bench_subject *subject)
{
    const double warm_s = bench->options.seconds * 0.3;
    return (struct slice_options){
        .kind = subject->context,
        .cpu_server = bench->environment.cpu_server,
        .cpu_shared = bench->environment.cpu_server == bench->environment.cpu_load,
        .conns = subject->parameter,
        .bytes = bench->options.bytes,
        .load = bench->options.load,
        .warm_ns = (uint64_t)((warm_s < 0.5 ? warm_s : 0.5) * 1e9),
        .run_ns = (uint64_t)(bench->options.seconds * 1e9),
    };
}

void
bench_progress(const struct bench *bench, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs(bench->progress_line ? "\r\033[K" : "", stderr);
    vfprintf(stderr, format, arguments);
    fputs(bench->progress_line ? "" : "\n", stderr);
    fflush(stderr);
    va_end(arguments);
}

void
bench_progress_end(const struct bench *bench)
{
    if (bench->progress_line)
        fputs("\r\033[K", stderr);
}
