/*
 * Case `memory`: the machine's own curve, after Drepper ("What every programmer should know about
 * memory", 2007): what one load costs as the working set outgrows each cache. One pointer per line
 * of 64 bytes, so that no two loads share one:
 *
 *   chase     each load tells where the next one is: nothing overlaps (one random circle, Sattolo)
 *   walk      likewise, in order of address: what the hardware can guess
 *   random    the places are known beforehand: as many misses overlap as the core can have
 *   prefetch  the same, each line asked for eight loads ahead, as berth does along a batch of
 * events
 *
 * Each on small pages and, under NAME-huge, on huge ones. It is the scale for everything else: what
 * a layout can gain at most, and from what number of connections on.
 *
 * What it cannot show: `random` does nothing between two loads, so the core overlaps them by itself
 * and the prefetch gains nothing; with a system call or a handler between them it does (`lookup`).
 * The places come out of an array, which adds 4 bytes per 64 to what goes through the caches.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <berth/table.h>

#include "bench.h"
#include "machine.h"
#include "memory.h"
#include "memory_region.h"
#include "random.h"

/** Loads per pass. */
#define STEPS 8192u

/** More than this share of what is available is not taken. */
#define AVAILABLE_SHARE 0.75

/** A set larger than this many times the last cache is not read through before it is measured. */
#define WARM_CACHES 2u

/** Circles of more lines than this are not walked once to see that they are whole: it takes long.
 */
#define VERIFY_LINES_MAX (1u << 20)

/** Lines written between two looks at whether the user wants to stop. */
#define FILL_LINES (1u << 18)

/** 4 GiB of working set, in KiB. */
#define KIB_MAX (4u << 20)
#define KIB_MIN 4u

struct line {
    struct line *random, *next;
    uint64_t number;
    uint64_t rest[5];
};

_Static_assert(sizeof(struct line) == 64, "one pointer of each kind per line");

/** A working set on one kind of page. Its passes go on where the last one stopped. */
struct set {
    struct memory_region region;
    struct line *lines;
    struct line *at;
    const uint32_t *order; /**< every line once, and the first few again */
    uint32_t count;        /**< lines */
    uint32_t cursor;       /**< in `order` */
    uint64_t sum;
};

/* ---- passes -------------------------------------------------------------------------------------
 */

static void
pass_chase(void *context)
{
    struct set *set = context;
    struct line *at = set->at;
    for (unsigned i = 0; i < STEPS; i++)
        at = at->random;
    set->at = at;
}

static void
pass_walk(void *context)
{
    struct set *set = context;
    struct line *at = set->at;
    for (unsigned i = 0; i < STEPS; i++)
        at = at->next;
    set->at = at;
}

static inline __attribute__((always_inline)) void
load_random(struct set *set, uint32_t loads, bool prefetch)
{
    uint64_t sum = 0;
    while (loads > 0) {
        const uint32_t left = set->count - set->cursor;
        const uint32_t now = loads < left ? loads : left;
        const uint32_t *order = set->order + set->cursor;
        for (uint32_t i = 0; i < now; i++) {
            if (prefetch)
                __builtin_prefetch(&set->lines[order[i + BERTH_TABLE_AHEAD]], 0, 3);
            sum += set->lines[order[i]].number;
        }
        set->cursor = now == left ? 0 : set->cursor + now;
        loads -= now;
    }
    set->sum += sum;
}

static void
pass_random(void *context)
{
    load_random(context, STEPS, false);
}

static void
pass_prefetch(void *context)
{
    load_random(context, STEPS, true);
}

static const struct way {
    const char *name;
    void (*pass)(void *context);
    bool huge;
} ways[] = {
    {"chase", pass_chase, false},       {"chase-huge", pass_chase, true},
    {"walk", pass_walk, false},         {"walk-huge", pass_walk, true},
    {"random", pass_random, false},     {"random-huge", pass_random, true},
    {"prefetch", pass_prefetch, false}, {"prefetch-huge", pass_prefetch, true},
};
#define WAYS (sizeof ways / sizeof ways[0])

static const char *
variant(unsigned at)
{
    return at < WAYS ? ways[at].name : memory_bandwidth_name(at - WAYS);
}

/* ---- setting up ---------------------------------------------------------------------------------
 */

bool
memory_fits(struct bench *bench, uint64_t bytes, const char *what)
{
    const uint64_t available = machine_memory_available_bytes();
    if (available == 0 || (double)bytes <= (double)available * AVAILABLE_SHARE)
        return true;
    report_note(&bench->report, "%s of %llu MiB were left out: %llu MiB are available", what,
                (unsigned long long)(bytes >> 20), (unsigned long long)(available >> 20));
    return false;
}

/** Links the lines in the circle that `order` is, and in order of address. -EINTR: interrupted. */
static int
set_fill(struct set *set)
{
    for (uint32_t i = 0; i < set->count; i++) {
        if (i % FILL_LINES == 0 && machine_interrupted)
            return -EINTR;
        set->lines[i] = (struct line){
            .random = &set->lines[set->order[i]],
            .next = &set->lines[i + 1 < set->count ? i + 1 : 0],
            .number = i,
        };
    }
    set->at = set->lines;
    return 0;
}

/** Whether both circles go through every line, and the order lists every line once. */
static int
set_verify(struct set *set)
{
    const struct line *random = set->lines, *next = set->lines;
    const uint64_t count = set->count;
    if (count > VERIFY_LINES_MAX)
        return 0;
    for (uint32_t i = 1; i < count; i++) {
        random = random->random;
        next = next->next;
        if (random == set->lines || next == set->lines)
            return -EBADMSG;
    }
    load_random(set, set->count, true);
    const bool whole = random->random == set->lines && next->next == set->lines &&
                       set->sum == count * (count - 1) / 2;
    return whole ? 0 : -EBADMSG;
}

static int
set_make(struct set *set, const uint32_t *order, uint32_t count, bool huge)
{
    memset(set, 0, sizeof *set);
    int error = memory_region_map(&set->region, (size_t)count * sizeof(struct line), huge);
    if (error != 0)
        return error;
    set->lines = (struct line *)(void *)set->region.data;
    set->order = order;
    set->count = count;
    error = set_fill(set);
    return error != 0 ? error : set_verify(set);
}

/** The circle as an array, followed by its first members once more, for the prefetch. */
static uint32_t *
make_order(uint32_t count)
{
    uint64_t random = RANDOM_SEED;
    uint32_t *order = malloc(((size_t)count + BERTH_TABLE_AHEAD) * sizeof order[0]);
    if (order == NULL)
        return NULL;
    random_cycle(order, count, &random);
    memcpy(order + count, order, BERTH_TABLE_AHEAD * sizeof order[0]);
    return order;
}

/* ---- measuring ----------------------------------------------------------------------------------
 */

/** Brings into the caches what they can hold of it: the slice before was another set's. */
static void
set_warm(const struct set *set, const struct environment *environment)
{
    const unsigned caches = environment->cache_count;
    const uint64_t last = caches > 0 ? environment->cache[caches - 1].bytes : 0;
    uint64_t sum = 0;
    if (set->count * sizeof(struct line) > WARM_CACHES * last)
        return;
    for (uint32_t i = 0; i < set->count; i++)
        sum += set->lines[i].number + set->order[i];
    __asm__ volatile("" : : "r"(sum));
}

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const struct bench_work *work = subject->context;
    set_warm(work->context, &bench->environment);
    return bench_work_measure(bench, subject, metrics);
}

static const struct report_column columns[] = {
    {"kib", "KiB", 0},
    {"bytes", NULL, 0},
    {"ns_per_load", "ns\nper load", 2},
    {"ratio", "ratio to\nchase", 3},
    BENCH_WORK_COLUMNS,
};
#define COLUMNS (sizeof columns / sizeof columns[0])
#define COLUMNS_OWN (COLUMNS - (BENCH_WORK_METRICS - 1u))

/** Every way, and the control. */
#define SUBJECTS (WAYS + 1)

static void
add_rows(struct bench *bench, const struct bench_samples *samples,
         const struct bench_subject *subjects, unsigned count, double bytes)
{
    for (unsigned i = 0; i < count; i++) {
        struct estimate values[COLUMNS] = {
            estimate_exact(bytes / 1024),
            estimate_exact(bytes),
            bench_estimate(samples, i, BENCH_WORK_NS),
            bench_ratio(samples, i, 0, BENCH_WORK_NS),
        };
        bench_work_estimates(samples, i, values + COLUMNS_OWN);
        if (!isnan(values[2].median)) /* interrupted before its turn came */
            report_row(&bench->report, subjects[i].name, values);
    }
}

/** `sets` are those on small pages and on huge ones; the latter may be missing. */
static void
measure_sets(struct bench *bench, struct set *sets, bool controlled)
{
    static struct bench_samples samples;
    struct bench_work works[WAYS];
    struct bench_subject subjects[SUBJECTS];
    unsigned count = 0;
    for (unsigned i = 0; i < WAYS; i++) {
        struct set *set = &sets[ways[i].huge];
        if (set->lines == NULL || (i > 0 && !bench_wants(bench, ways[i].name)))
            continue;
        works[count] = (struct bench_work){ways[i].pass, set, STEPS, 1};
        subjects[count] = (struct bench_subject){
            .name = ways[i].name, .measure = measure, .context = &works[count]};
        count++;
    }
    const unsigned measured = count;
    if (controlled) {
        subjects[count] = subjects[0];
        subjects[count++].name = "chase again";
    }
    bench_rounds(bench, subjects, count, &samples);
    const double bytes = (double)sets[0].count * sizeof(struct line);
    add_rows(bench, &samples, subjects, measured, bytes);
    if (controlled) {
        char name[REPORT_NAME_BYTES];
        snprintf(name, sizeof name, "chase, %.0f KiB", bytes / 1024);
        report_control(&bench->report, name, bench_ratio(&samples, measured, 0, BENCH_WORK_NS));
    }
}

/** Makes the set on huge pages, if it is wanted and the kernel has them. */
static int
make_huge(struct bench *bench, struct set *set, const uint32_t *order, uint32_t count)
{
    bool wanted = false;
    for (unsigned i = 0; i < WAYS; i++)
        wanted = wanted || (ways[i].huge && bench_wants(bench, ways[i].name));
    if (!wanted)
        return 0;
    const int error = set_make(set, order, count, true);
    const uint64_t huge = memory_region_huge_bytes(&set->region);
    if (error == 0 && huge < set->region.bytes) {
        report_note(&bench->report, "%u KiB on huge pages left out: the system gave %llu of %llu",
                    count / 16, (unsigned long long)(huge >> 10),
                    (unsigned long long)(set->region.bytes >> 10));
        memory_region_unmap(&set->region);
        set->lines = NULL;
    }
    return error;
}

static int
run_size(struct bench *bench, uint32_t kib, bool controlled)
{
    const uint32_t count = kib * 16;
    struct set sets[2];
    memset(sets, 0, sizeof sets);
    bench_progress(bench, "%u KiB: setting up", kib);
    uint32_t *order = make_order(count);
    int error = order != NULL ? set_make(&sets[0], order, count, false) : -ENOMEM;
    if (error == 0)
        error = make_huge(bench, &sets[1], order, count);
    if (error == 0)
        measure_sets(bench, sets, controlled);
    memory_region_unmap(&sets[0].region);
    memory_region_unmap(&sets[1].region);
    free(order);
    return error;
}

static bool
wants_curve(const struct bench *bench)
{
    bool wanted = false;
    for (unsigned i = 0; i < WAYS; i++)
        wanted = wanted || bench_wants(bench, ways[i].name);
    return wanted;
}

/** From the smallest to the largest, as far as memory goes. */
static void
run_curve(struct bench *bench)
{
    const struct bench_numbers *sizes = &bench->options.active;
    int error = 0;
    report_table_begin(&bench->report, "memory", columns, COLUMNS);
    for (unsigned i = 0; i < sizes->count && error == 0 && !machine_interrupted; i++) {
        const uint32_t kib = sizes->values[i] > KIB_MIN ? sizes->values[i] : KIB_MIN;
        /* Two sets, and 4 bytes for each line of 64. */
        if (!memory_fits(bench, UINT64_C(2112) * kib, "working sets"))
            continue;
        error = run_size(bench, kib, i == 0 || i + 1 == sizes->count);
        if (error == -EBADMSG)
            report_doubt(&bench->report, "the circle of %u KiB is not whole", kib);
        else if (error != 0 && error != -EINTR)
            report_note(&bench->report, "%u KiB and what follows was left out: %s", kib,
                        strerror(-error));
    }
}

static int
run(struct bench *bench)
{
    const struct bench_numbers *sizes = &bench->options.active;
    uint64_t largest = KIB_MIN;
    for (unsigned i = 0; i < sizes->count; i++)
        largest = sizes->values[i] > largest ? sizes->values[i] : largest;
    if (wants_curve(bench))
        run_curve(bench);
    if (!machine_interrupted)
        memory_bandwidth(bench, largest * 1024);
    report_note(&bench->report,
                "small pages are %ld bytes, huge ones 2 MiB; one pointer in each line of 64 bytes; "
                "bandwidth is that of one core, on small pages",
                sysconf(_SC_PAGESIZE));
    for (unsigned i = 0; i < bench->report.tables_count; i++) {
        if (bench->report.tables[i].rows_count > 0)
            return 0;
    }
    return machine_interrupted ? 0 : -ENOMEM;
}

static const struct report_plot plots[] = {
    {
        .name = "memory",
        .title = "One load, as the working set outgrows the caches: lower is better",
        .table = "memory",
        .x = "bytes",
        .y = "ns_per_load",
        .x_title = "working set, bytes",
        .y_title = "ns per load",
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,
        .cache_bytes_per_x = 1,
    },
    {
        .name = "memory-chase",
        .title = "The same, one load after the other, on small and on huge pages",
        .table = "memory",
        .x = "bytes",
        .y = "ns_per_load",
        .x_title = "working set, bytes",
        .y_title = "ns per load",
        .variants = "chase,chase-huge",
        .options = REPORT_PLOT_LOG_X,
        .cache_bytes_per_x = 1,
    },
    {
        .name = "memory-bandwidth",
        .title = "Bytes through one core: higher is better",
        .table = "memory-bandwidth",
        .x = "kib",
        .y = "gb_per_s",
        .x_title = "buffer, KiB",
        .y_title = "GB per second",
        .options = REPORT_PLOT_LOG_X,
        .cache_bytes_per_x = 1024,
    },
    {.name = NULL},
};

#define SIZES_USUAL                                                                                \
    "4,8,16,32,64,128,256,512,1024,2048,4096,8192,16384,32768,65536,131072,262144,524288,1048576"

const struct bench_case bench_case_memory = {
    .name = "memory",
    .summary = "the machine's own curve: a load in working sets of --active KiB; bandwidth",
    .run = run,
    .variant = variant,
    .connections_max = KIB_MAX,
    .normal = {.rounds = 9, .seconds = 0.015, .active = SIZES_USUAL},
    .quick = {.rounds = 9, .seconds = 0.002, .active = "4,16,64,256,1024,4096,16384,65536"},
    .full = {.rounds = 21, .seconds = 0.03, .active = SIZES_USUAL},
    .plots = plots,
};
