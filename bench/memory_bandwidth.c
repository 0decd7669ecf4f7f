/*
 * Bytes per second through one core: reading, writing (memset) and copying (memcpy), in buffers
 * that fit each cache and one that fits none. The C library's own routines, which is what programs
 * call; reading is a plain loop over vectors of 16 bytes. A copy counts the bytes copied, once.
 *
 * SPDX-License-Identifier: MIT
 */
#include "memory.h"

#include <errno.h>
#include <string.h>

#include "bench.h"
#include "machine.h"
#include "memory_region.h"

/** Buffers for a usual L1, L2 and L3 cache, and for none. */
static const uint64_t sizes[] = {16u << 10, 256u << 10, 4u << 20, 256u << 20};
#define SIZES (sizeof sizes / sizeof sizes[0])

/** Short passes are repeated until so many bytes went through, between two looks at the clock. */
#define BYTES_BETWEEN_CLOCKS (UINT64_C(1) << 20)

typedef uint64_t vector __attribute__((vector_size(16)));

struct buffers {
    unsigned char *from, *to;
    size_t bytes;
};

static void
pass_read(void *context)
{
    const struct buffers *buffers = context;
    const vector *at = (const vector *)(const void *)buffers->from;
    const vector *end = at + buffers->bytes / sizeof *at;
    vector a = {0, 0}, b = {0, 0}, c = {0, 0}, d = {0, 0};
    for (; at < end; at += 4) {
        a ^= at[0];
        b ^= at[1];
        c ^= at[2];
        d ^= at[3];
    }
    a ^= b ^ c ^ d;
    __asm__ volatile("" : : "r"(a[0] ^ a[1]));
}

static void
pass_write(void *context)
{
    const struct buffers *buffers = context;
    memset(buffers->to, 1, buffers->bytes);
    __asm__ volatile("" : : "r"(buffers->to) : "memory");
}

static void
pass_copy(void *context)
{
    const struct buffers *buffers = context;
    memcpy(buffers->to, buffers->from, buffers->bytes);
    __asm__ volatile("" : : "r"(buffers->to) : "memory");
}

static const struct {
    const char *name;
    void (*pass)(void *context);
} ways[] = {{"read", pass_read}, {"write", pass_write}, {"memcpy", pass_copy}};
#define WAYS (sizeof ways / sizeof ways[0])

const char *
memory_bandwidth_name(unsigned at)
{
    return at < WAYS ? ways[at].name : NULL;
}

enum { GB_PER_S };

/** bench_work_measure counts each byte as an operation: turned round, that is the rate. */
static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const int error = bench_work_measure(bench, subject, metrics);
    metrics[GB_PER_S] = 1.0 / metrics[BENCH_WORK_NS];
    return error;
}

static const struct report_column columns[] = {
    {"kib", "KiB", 0},
    {"gb_per_s", "GB per\nsecond", 1},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

/** Copies once, and looks. */
static int
verify(const struct buffers *buffers)
{
    for (size_t i = 0; i < buffers->bytes; i++)
        buffers->from[i] = (unsigned char)(i * 31 >> 3);
    pass_write((void *)(uintptr_t)buffers);
    const int written = buffers->to[0] == 1 && buffers->to[buffers->bytes - 1] == 1;
    pass_copy((void *)(uintptr_t)buffers);
    return written && memcmp(buffers->to, buffers->from, buffers->bytes) == 0 ? 0 : -EBADMSG;
}

static int
run_size(struct bench *bench, struct buffers *buffers)
{
    static struct bench_samples samples;
    struct bench_work works[WAYS];
    struct bench_subject subjects[WAYS];
    unsigned count = 0;
    const int error = verify(buffers);
    if (error != 0)
        return error;
    for (unsigned i = 0; i < WAYS; i++) {
        if (!bench_wants(bench, ways[i].name))
            continue;
        works[count] = (struct bench_work){
            .pass = ways[i].pass,
            .context = buffers,
            .operations = buffers->bytes,
            .passes_at_once = 1 + (unsigned)(BYTES_BETWEEN_CLOCKS / buffers->bytes),
        };
        subjects[count] = (struct bench_subject){
            .name = ways[i].name, .measure = measure, .context = &works[count]};
        count++;
    }
    bench_rounds(bench, subjects, count, &samples);
    for (unsigned i = 0; i < count; i++) {
        const struct estimate values[COLUMNS] = {
            estimate_exact((double)buffers->bytes / 1024),
            bench_estimate(&samples, i, GB_PER_S),
        };
        if (!isnan(values[1].median)) /* interrupted before its turn came */
            report_row(&bench->report, subjects[i].name, values);
    }
    return 0;
}

/** -ENOMEM: there is none; -EBADMSG: a copy is none. */
static int
run_buffers(struct bench *bench, uint64_t bytes)
{
    struct memory_region from = {NULL, 0}, to = {NULL, 0};
    int error = memory_region_map(&from, bytes, false);
    if (error == 0)
        error = memory_region_map(&to, bytes, false);
    if (error == 0)
        error = run_size(bench, &(struct buffers){from.data, to.data, bytes});
    memory_region_unmap(&from);
    memory_region_unmap(&to);
    return error;
}

void
memory_bandwidth(struct bench *bench, uint64_t bytes_max)
{
    int error = 0;
    bool wanted = false, last = false;
    for (unsigned i = 0; i < WAYS; i++)
        wanted = wanted || bench_wants(bench, ways[i].name);
    if (wanted)
        report_table_begin(&bench->report, "memory-bandwidth", columns, COLUMNS);
    for (unsigned i = 0; wanted && i < SIZES && error == 0 && !last && !machine_interrupted; i++) {
        last = sizes[i] >= bytes_max;
        const uint64_t bytes = last ? bytes_max : sizes[i];
        if (!memory_fits(bench, 2 * bytes, "buffers"))
            break;
        error = run_buffers(bench, bytes);
    }
    if (error == -EBADMSG)
        report_doubt(&bench->report, "bandwidth: what was copied is not what was there");
    else if (error != 0)
        report_note(&bench->report, "bandwidth ends early: %s", strerror(-error));
}
