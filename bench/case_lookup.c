/*
 * Case `lookup`: from an event to the connection's state, N connections in memory, in every way
 * that servers do it. Events come in batches of 64 in random order, as an epoll_wait fills them;
 * each is handled alike: find the state, check it, make a system call, count.
 *
 * Between two events a real read(2) is made, of one of 64 eventfds that stay warm, so that what
 * differs is the state alone. Without a system call (--between none) the processor looks far ahead
 * and overlaps the misses of many events: then layouts hardly differ, and so they would in no real
 * server. --between epoll has as many real descriptors as the limit allows, and counts epoll_wait
 * and the kernel's own memory too.
 *
 * What it cannot show: a server does more per event, which dilutes the difference: see `claim`.
 * Layouts are compared here, not the programs that they are known from. Objects of the heap lie in
 * random order, as they do after some time; a server just started finds them in sequence.
 *
 * SPDX-License-Identifier: MIT
 */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bench.h"
#include "lookup.h"
#include "machine.h"
#include "names.h"

/** With that many connections everything is in the nearest caches: the floor. */
#define FLOOR_CONNS 1000u

#define OVER_FLOOR_NS_MAX 45
#define OVER_FLOOR_RATIO_MAX 0.25
#define PROMISED_CONNS 1000000u
/** Leaves the rest of the memory to everybody else. */
#define MEMORY_SHARE 0.7

static const struct report_column columns[] = {
    {"connections", "connections", 0},
    {"active_percent", "active\n%", 0},
    {"ns_per_event", "ns\nper event", 1},
    {"over_floor_ns", "over its floor\nns", 1},
    {"ratio_to_pointer_malloc", "ratio to\npointer-malloc", 3},
    {"ll_misses_per_event", "LL misses\nper event", 2},
    {"tlb_misses_per_event", "TLB misses\nper event", 2},
    {"cycles_per_event", NULL, 1},
    {"instructions_per_event", NULL, 1},
    {"l1_misses_per_event", NULL, 2},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

static struct {
    struct lookup_set sets[BENCH_NUMBERS_MAX + 1];
    uint32_t conns[BENCH_NUMBERS_MAX + 1];
    unsigned sets_count;
    uint32_t floor_conns; /**< what the floor is measured with */
    struct lookup_run runs[BENCH_SUBJECTS_MAX];
    struct bench_work works[BENCH_SUBJECTS_MAX];
    struct bench_subject subjects[BENCH_SUBJECTS_MAX];
    char names[BENCH_SUBJECTS_MAX][64];
    unsigned count; /**< of runs and subjects */
    struct bench_samples samples;
    struct lookup_fds fds;
} on;

/** The list ends with a NULL name, and nobody asks beyond it. */
static const char *
variant_name(unsigned at)
{
    return lookup_variants[at].name;
}

static bool
is_wanted(const struct bench *bench, const struct lookup_variant *variant)
{
    return variant->missing == NULL && bench_wants(bench, variant->name);
}

static unsigned
parts_wanted(struct bench *bench)
{
    unsigned parts = 0;
    for (const struct lookup_variant *variant = lookup_variants; variant->name != NULL; variant++) {
        if (is_wanted(bench, variant))
            parts |= variant->needs;
        else if (variant->missing != NULL && bench_wants(bench, variant->name))
            report_note(&bench->report, "%s was left out: %s", variant->name, variant->missing);
    }
    return parts;
}

/* ---- connections -------------------------------------------------------------------------------
 */

static void
conns_add(uint32_t conns)
{
    unsigned at = 0;
    while (at < on.sets_count && on.conns[at] < conns)
        at++;
    if (at < on.sets_count && on.conns[at] == conns)
        return;
    memmove(&on.conns[at + 1], &on.conns[at], (on.sets_count - at) * sizeof on.conns[0]);
    on.conns[at] = conns;
    on.sets_count++;
}

/** Which numbers of connections to lay out, smallest first; the floor is always among them. */
static void
conns_choose(struct bench *bench, uint32_t most)
{
    on.sets_count = 0;
    on.floor_conns = FLOOR_CONNS < most ? FLOOR_CONNS : most;
    conns_add(on.floor_conns);
    for (unsigned i = 0; i < bench->options.connections.count; i++) {
        const uint32_t conns = bench->options.connections.values[i];
        conns_add(conns < most ? conns : most);
    }
}

/** How many connections fit the memory that is free. */
static uint32_t
conns_that_fit(struct bench *bench, unsigned parts)
{
    const uint64_t free_bytes = machine_memory_available_bytes();
    uint64_t all = 0;
    for (unsigned i = 0; i < bench->options.connections.count; i++)
        all += bench->options.connections.values[i];
    const uint64_t each = lookup_bytes_per_conn(parts);
    if (free_bytes == 0 || (double)(all * each) < (double)free_bytes * MEMORY_SHARE)
        return UINT32_MAX;
    /* The sum of the others is at most as much again as the largest. */
    const uint64_t most = (uint64_t)((double)free_bytes * MEMORY_SHARE / 2 / (double)each);
    report_note(&bench->report, "more connections than %llu do not fit the %llu MiB of free memory",
                (unsigned long long)most, (unsigned long long)(free_bytes >> 20));
    return most < FLOOR_CONNS ? FLOOR_CONNS : (uint32_t)most;
}

static void
sets_fini(void)
{
    for (unsigned i = 0; i < on.sets_count; i++)
        lookup_set_fini(&on.sets[i]);
}

static int
sets_build(struct bench *bench, const uint32_t *indices, unsigned parts)
{
    int error = 0;
    for (unsigned i = 0; i < on.sets_count; i++)
        memset(&on.sets[i], 0, sizeof on.sets[i]);
    for (unsigned i = 0; i < on.sets_count && error == 0 && !machine_interrupted; i++) {
        bench_progress(bench, "laying out %u connections", on.conns[i]);
        error = lookup_set_build(&on.sets[i], indices, on.conns[i], parts);
    }
    bench_progress_end(bench);
    return error;
}

/** Says so when the largest table on huge pages is not. */
static void
check_huge_pages(struct bench *bench, unsigned parts)
{
    struct machine_memory memory;
    const uint64_t wanted = (uint64_t)on.conns[on.sets_count - 1] * BERTH_CACHE_LINE;
    if ((parts & LOOKUP_TABLE_HUGE) && machine_memory_get(0, &memory) == 0 &&
        memory.huge_bytes < wanted - wanted / 8)
        report_note(&bench->report, "the system gave %llu KiB of huge pages where %llu were wanted",
                    (unsigned long long)memory.huge_bytes >> 10, (unsigned long long)wanted >> 10);
}

/** Some per cent of the connections, but enough for a batch. */
static int
sets_activate(uint32_t percent)
{
    int error = 0;
    for (unsigned i = 0; i < on.sets_count && error == 0; i++) {
        const uint64_t share = (uint64_t)on.conns[i] * percent / 100;
        error =
            lookup_set_activate(&on.sets[i], share < LOOKUP_BATCH ? LOOKUP_BATCH : (uint32_t)share);
    }
    return error;
}

/* ---- measuring ---------------------------------------------------------------------------------
 */

static int
measure_read(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const struct bench_work *work = subject->context;
    lookup_run_warm(work->context);
    return bench_work_measure(bench, subject, metrics);
}

static int
measure_epoll(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const struct bench_work *work = subject->context;
    return lookup_run_epoll(work->context, (uint64_t)(bench->options.seconds * 1e9),
                            &metrics[BENCH_WORK_NS]);
}

static void
subject_add(const struct lookup_variant *variant, struct lookup_set *set, bool reads, bool epoll,
            bool again)
{
    const unsigned at = on.count++;
    lookup_run_init(&on.runs[at], variant, set);
    on.runs[at].reads = reads;
    on.runs[at].fd_first = epoll ? 0 : on.fds.first;
    on.runs[at].fd_mask = epoll ? UINT32_MAX : on.fds.count - 1;
    on.works[at] = (struct bench_work){lookup_run_pass, &on.runs[at], LOOKUP_PASS_EVENTS, 1};
    snprintf(on.names[at], sizeof on.names[at], "%s%s, %u connections", variant->name,
             again ? " again" : "", set->conns);
    on.subjects[at] = (struct bench_subject){
        .name = on.names[at],
        .measure = epoll ? measure_epoll : measure_read,
        .context = &on.works[at],
        .parameter = set->conns,
    };
}

/** Every variant with every number of connections, and the control, which is one of them again. */
static void
subjects_choose(struct bench *bench, bool reads, bool epoll)
{
    on.count = 0;
    assert(on.sets_count > 0);
    for (unsigned i = 0; i < on.sets_count; i++) {
        for (const struct lookup_variant *variant = lookup_variants; variant->name != NULL;
             variant++) {
            if (is_wanted(bench, variant) && on.count < BENCH_SUBJECTS_MAX - 1)
                subject_add(variant, &on.sets[i], reads, epoll, false);
        }
    }
    if (on.count == 0)
        return;
    const unsigned per_set = on.count / on.sets_count;
    /* The first variant wanted besides the floor, at the largest number: where noise is worst. */
    const unsigned last = on.count - per_set + (per_set > 1 ? 1 : 0);
    subject_add(on.runs[last].variant, on.runs[last].set, reads, epoll, true);
}

/** The run of the same variant with `conns` connections; -1: there is none. */
static int
run_find(const char *variant, uint32_t conns)
{
    for (unsigned i = 0; i + 1 < on.count; i++) {
        if (on.runs[i].set->conns == conns && strcmp(on.runs[i].variant->name, variant) == 0)
            return (int)i;
    }
    return -1;
}

/** Nanoseconds above the floor, round by round, into `over`. */
static void
over_floor(unsigned at, double *over)
{
    const int floor = run_find(on.runs[at].variant->name, on.floor_conns);
    for (unsigned r = 0; r < on.samples.rounds; r++)
        over[r] = floor < 0 ? NAN
                            : on.samples.values[at][BENCH_WORK_NS][r] -
                                  on.samples.values[floor][BENCH_WORK_NS][r];
}

static void
add_row(struct bench *bench, unsigned at, uint32_t percent)
{
    static double over[STATISTICS_ROUNDS_MAX];
    const struct lookup_run *run = &on.runs[at];
    const int heap = run_find("pointer-malloc", run->set->conns);
    over_floor(at, over);
    const struct estimate values[COLUMNS] = {
        estimate_exact(run->set->conns),
        estimate_exact(percent),
        bench_estimate(&on.samples, at, BENCH_WORK_NS),
        estimate_of(over, on.samples.rounds),
        heap < 0 ? estimate_none() : bench_ratio(&on.samples, at, (unsigned)heap, BENCH_WORK_NS),
        bench_median(&on.samples, at, BENCH_WORK_LL_MISSES),
        bench_median(&on.samples, at, BENCH_WORK_TLB_MISSES),
        bench_median(&on.samples, at, BENCH_WORK_CYCLES),
        bench_median(&on.samples, at, BENCH_WORK_INSTRUCTIONS),
        bench_median(&on.samples, at, BENCH_WORK_L1_MISSES),
    };
    report_row(&bench->report, run->variant->name, values);
}

/** What the project promises, where it was measured. */
static void
add_figures(struct bench *bench)
{
    static double best_over[STATISTICS_ROUNDS_MAX], heap_over[STATISTICS_ROUNDS_MAX];
    const int best = run_find("slot+prefetch+huge", PROMISED_CONNS);
    const int heap = run_find("pointer-malloc", PROMISED_CONNS);
    if (best < 0)
        return;
    over_floor((unsigned)best, best_over);
    report_figure(&bench->report, "over_floor_ns_1000000",
                  "slot+prefetch+huge over its floor, 1 M connections", "ns",
                  estimate_of(best_over, on.samples.rounds), false, OVER_FLOOR_NS_MAX);
    if (heap < 0)
        return;
    over_floor((unsigned)heap, heap_over);
    report_figure(&bench->report, "over_floor_ratio_1000000",
                  "  and that to what pointer-malloc is over its own", "",
                  estimate_of_ratio(best_over, heap_over, on.samples.rounds), false,
                  OVER_FLOOR_RATIO_MAX);
}

/** An event that was lost, or a read that failed, would have made a variant fast. */
static void
check_handled(struct bench *bench)
{
    for (unsigned i = 0; i < on.sets_count; i++) {
        if (!lookup_set_agrees(&on.sets[i]))
            report_doubt(&bench->report, "events were lost among %u connections", on.sets[i].conns);
    }
}

/* ---- the tables ---------------------------------------------------------------------------------
 */

static void
run_share(struct bench *bench, uint32_t percent, bool reads, bool epoll)
{
    if (machine_interrupted || sets_activate(percent) != 0)
        return;
    subjects_choose(bench, reads, epoll);
    if (on.count == 0)
        return;
    bench_rounds(bench, on.subjects, on.count, &on.samples);
    for (unsigned i = 0; i + 1 < on.count; i++) {
        if (!on.subjects[i].left_out)
            add_row(bench, i, percent);
    }
    const int first =
        run_find(on.runs[on.count - 1].variant->name, on.runs[on.count - 1].set->conns);
    char name[REPORT_NAME_BYTES];
    snprintf(name, sizeof name, "%s, %u, %u %%%s", on.runs[on.count - 1].variant->name,
             on.runs[on.count - 1].set->conns, percent,
             epoll   ? ", epoll"
             : reads ? ""
                     : ", no call");
    report_control(&bench->report, name,
                   bench_ratio(&on.samples, on.count - 1, (unsigned)first, BENCH_WORK_NS));
    if (reads && !epoll && percent == 100)
        add_figures(bench);
}

static void
run_synthetic(struct bench *bench, bool reads)
{
    report_table_begin(&bench->report, reads ? "lookup" : "lookup-without-syscall", columns,
                       COLUMNS);
    for (unsigned i = 0; i < bench->options.active.count; i++)
        run_share(bench, bench->options.active.values[i], reads, false);
}

/** Counts for themselves: `on` lays out connections 0, 1, 2 ... */
static int
measure_synthetic(struct bench *bench, unsigned parts)
{
    conns_choose(bench, conns_that_fit(bench, parts));
    const uint32_t most = on.conns[on.sets_count - 1];
    uint32_t *indices = malloc(most * sizeof *indices);
    if (indices == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < most; i++)
        indices[i] = i;
    int error = lookup_fds_open(&on.fds);
    if (error == 0)
        error = sets_build(bench, indices, parts);
    if (error == 0)
        check_huge_pages(bench, parts);
    if (error == 0 && names_have(bench->options.between, "read"))
        run_synthetic(bench, true);
    if (error == 0 && names_have(bench->options.between, "none"))
        run_synthetic(bench, false);
    if (error == 0 && !machine_interrupted)
        check_handled(bench);
    sets_fini();
    lookup_fds_close(&on.fds);
    free(indices);
    return error;
}

/** Real descriptors: the connection's index is its number. */
static int
measure_real(struct bench *bench, unsigned parts)
{
    const uint32_t wanted = bench->options.connections.values[bench->options.connections.count - 1];
    conns_choose(bench, bench_descriptors_fit(bench, wanted, 1));
    const uint32_t most = on.conns[on.sets_count - 1];
    uint32_t *fds = malloc(most * sizeof *fds);
    uint32_t opened = 0;
    int error = fds == NULL ? -ENOMEM : 0;
    while (opened < most && error == 0) {
        const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        error = fd < 0 ? -errno : 0;
        if (fd >= 0)
            fds[opened++] = (uint32_t)fd;
    }
    if (error == 0)
        error = sets_build(bench, fds, parts);
    if (error == 0) {
        report_table_begin(&bench->report, "lookup-epoll", columns, COLUMNS);
        run_share(bench, 100, true, true);
        if (!machine_interrupted)
            check_handled(bench);
    }
    sets_fini();
    for (uint32_t i = 0; i < opened; i++)
        close((int)fds[i]);
    free(fds);
    return error;
}

/** Handles events under somebody else's eyes. */
static int
handle_events(struct bench *bench, unsigned parts)
{
    if (bench->options.between != NULL && names_have(bench->options.between, "epoll"))
        return -EINVAL; /* whoever counts would count the making of events as well */
    const bool reads = bench->options.between != NULL && names_have(bench->options.between, "read");
    uint32_t conns = bench->options.connections.values[0];
    uint32_t *indices = malloc(conns * sizeof *indices);
    if (indices == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < conns; i++)
        indices[i] = i;
    int error = lookup_fds_open(&on.fds);
    if (error == 0)
        error = lookup_set_build(&on.sets[0], indices, conns, parts);
    if (error == 0)
        error = lookup_set_activate(&on.sets[0], conns);
    for (const struct lookup_variant *variant = lookup_variants;
         error == 0 && variant->name != NULL; variant++) {
        if (!is_wanted(bench, variant))
            continue;
        on.count = 0;
        subject_add(variant, &on.sets[0], reads, false, false);
        for (uint64_t done = 0; done < bench->options.events; done += LOOKUP_PASS_EVENTS)
            lookup_run_pass(&on.runs[0]);
    }
    lookup_set_fini(&on.sets[0]);
    lookup_fds_close(&on.fds);
    free(indices);
    return error;
}

static int
run(struct bench *bench)
{
    struct bench_options *options = &bench->options;
    if (options->cachegrind)
        return lookup_count_exactly(bench);
    const unsigned parts = parts_wanted(bench);
    if (options->events > 0)
        return handle_events(bench, parts);
    if (options->between == NULL)
        options->between = options->full ? "read,none,epoll" : "read";
    int error = 0;
    if (names_have(options->between, "read") || names_have(options->between, "none"))
        error = measure_synthetic(bench, parts);
    if (error == 0 && !machine_interrupted && names_have(options->between, "epoll"))
        error = measure_real(bench, parts);
    report_note(&bench->report,
                "events in batches of %d, connections in random order, seeds fixed; "
                "the floor of each variant is itself with %u connections",
                LOOKUP_BATCH, on.floor_conns);
    return error;
}

static const struct report_plot plots[] = {
    {
        .name = "lookup",
        .title = "Handling one event, a system call between events: the caches are the steps",
        .table = "lookup",
        .x = "connections",
        .y = "ns_per_event",
        .x_title = "connections (lines: where slots of 64 bytes fill a cache)",
        .y_title = "ns per event",
        .only = "active_percent",
        .only_value = 100,
        .options = REPORT_PLOT_LOG_X,
        .cache_bytes_per_x = 64,
    },
    {
        .name = "lookup-active-1",
        .title = "The same when one connection in a hundred is active",
        .table = "lookup",
        .x = "connections",
        .y = "ns_per_event",
        .x_title = "connections",
        .y_title = "ns per event",
        .only = "active_percent",
        .only_value = 1,
        .options = REPORT_PLOT_LOG_X,
        .cache_bytes_per_x = 0.64,
    },
    {
        .name = "lookup-without-syscall",
        .title = "Without a system call: the processor overlaps the misses, layouts hardly differ",
        .table = "lookup-without-syscall",
        .x = "connections",
        .y = "ns_per_event",
        .x_title = "connections (lines: where slots of 64 bytes fill a cache)",
        .y_title = "ns per event",
        .only = "active_percent",
        .only_value = 100,
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,
        .cache_bytes_per_x = 64,
    },
    {
        .name = "lookup-epoll",
        .title = "With epoll_wait and as many real descriptors as there may be",
        .table = "lookup-epoll",
        .x = "connections",
        .y = "ns_per_event",
        .x_title = "descriptors",
        .y_title = "ns per event, epoll_wait included",
        .options = REPORT_PLOT_LOG_X,
    },
    {.name = NULL},
};

const struct bench_case bench_case_lookup = {
    .name = "lookup",
    .summary =
        "from an event to the connection's state: slots, pointers, maps; --active is per cent",
    .run = run,
    .variant = variant_name,
    .options = BENCH_OPTION_LOOKUP,
    .connections_max = 16000000,
    .active_max = 100,
    .normal = {.rounds = 11,
               .seconds = 0.1,
               .connections = "1000,10000,100000,1000000",
               .active = "100"},
    .quick = {.rounds = 3, .seconds = 0.02, .connections = "1000,100000", .active = "100"},
    .full = {.rounds = 11,
             .seconds = 0.06,
             .connections = "1000,4000,16000,64000,256000,1000000,4000000",
             .active = "100,10,1"},
    .plots = plots,
};
