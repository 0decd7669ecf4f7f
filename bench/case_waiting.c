/*
 * Case `waiting`: what an event costs with N descriptors registered, nearly all of them idle, of
 * which M become ready at a time, for each way of waiting that Linux has. M bytes are written to M
 * descriptors; the way at hand tells which, and each byte is read. The whole of it is counted,
 * writing and reading included; `floor` is the writing and reading alone, and over_floor_ns the
 * difference to it, round by round.
 *
 * The descriptors of one N stay open for all ways, each of which registers them at the start of its
 * slice and has ended every registration at its end. Only the same few of them (ACTIVE_MIN, or 2 M)
 * are ever written to, scattered among the N: they are in the cache whatever N is, so that a curve
 * shows what the idle ones cost, and not that more sockets do not fit the cache.
 *
 * What it cannot show: going to sleep. Events are there before the wait begins, as on a busy
 * server, so nobody has to be woken. select and poll gain by that: they stop queueing on
 * descriptors at the first one that is ready, about half way on the average. Only `blocking` and
 * the `threads` sleep and are woken; compare those with each other. It does not show latency. And
 * where N is less than 2 M, `uring-read` posts some reads only when their byte is there already.
 *
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "machine.h"
#include "wait.h"

#define DESCRIPTORS_MAX 65536u

/** Descriptors that are written to, at least; some 2 KiB each: they fit any second-level cache. */
#define ACTIVE_MIN 64u

/** Rounds of events between two looks at the clock take about this long. */
#define LOOK_NS 20000u

/** The clock of a process sums up all its threads, and takes its time. A slice lasts this many
 * times as long; and if less of it was processor time than the second, it says nothing. */
#define CLOCK_COSTS_WANTED 100u
#define CLOCK_COSTS_MIN 20u

enum metric { CPU_NS, WALL_NS, SYSCALLS, OVERFLOWS, SPURIOUS, REGISTERED, REGISTER_NS, METRICS };

static const struct report_column columns[] = {
    {"descriptors", "descriptors", 0},
    {"active", "ready\nat once", 0},
    {"ns_per_event", "CPU ns\nper event", 0},
    {"over_floor_ns", "over\nfloor", 0},
    {"wall_ns_per_event", "wall ns\nper event", 0},
    {"syscalls_per_event", "system calls\nper event", 2},
    {"overflows", "overflows", 0},
    {"spurious_events", NULL, 0},
    {"register_ns_per_descriptor", NULL, 0},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

/** A way that this build lacks is known by its name all the same. */
struct contestant {
    const char *name;
    const struct wait_way *way; /**< NULL: not in this build */
};

#ifdef BERTH_HAVE_LIBURING
#define URING(way) (&(way))
#else
#define URING(way) NULL
#endif

static const struct contestant contestants[] = {
    {"floor", &wait_floor},
    {"epoll", &wait_epoll},
    {"epoll-et", &wait_epoll_et},
    {"select", &wait_select},
    {"poll", &wait_poll},
    {"sigio", &wait_sigio},
    {"sigio-fd", &wait_sigio_fd},
    {"aio", &wait_aio},
    {"aio-ring", &wait_aio_ring},
    {"uring-poll", URING(wait_uring_poll)},
    {"uring-read", URING(wait_uring_read)},
    {"uring-multi", URING(wait_uring_multi)},
    {"uring-recv", URING(wait_uring_recv)},
    {"blocking", &wait_blocking},
    {"threads", &wait_threads},
    {"threads-apart", &wait_threads_apart},
};
#define CONTESTANTS (sizeof contestants / sizeof contestants[0])

enum { FLOOR, EPOLL }; /* always measured: the difference, and the control, need them */

static const char *const kind_names[WAIT_KINDS] = {"sockets", "pipes"};

/** Starting and ending threads takes far longer than measuring them. With more than so many, they
 * are measured in every third round, the first included. */
#define THREADS_EVERY_ROUND 2000u
#define THREADS_ROUNDS_APART 3u

/** Of the combination at hand: the descriptors, and how often each way has been measured. */
static struct wait_set set;
static unsigned measured[CONTESTANTS];

/** Ways that failed once are not tried again with other numbers. */
static bool failed[WAIT_KINDS][CONTESTANTS];

/* ---- one slice --------------------------------------------------------------------------------
 */

/** A run and where it stands. */
struct slice {
    struct wait_run run;
    const struct wait_way *way;
    uint32_t at;   /**< the next of the set's order to be made ready */
    uint32_t pool; /**< how many of the order take part */
};

/** Makes the next `count` descriptors ready, then waits until all of them have been told. */
static int
round_once(struct slice *slice, uint32_t count)
{
    struct wait_run *run = &slice->run;
    if (slice->at + count > slice->pool)
        slice->at = 0;
    const uint32_t first = slice->at;
    slice->at += count;
    run->made = set.order + first;
    run->made_count = count;
    atomic_store_explicit(&run->outstanding, count, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        set.ready[run->made[i]] = 1;
        if (write(set.writers[first + i], "", 1) != 1)
            return -EPIPE;
    }
    run->syscalls += count;
    while (atomic_load_explicit(&run->outstanding, memory_order_acquire) > 0) {
        const int error = slice->way->wait(run);
        if (error != 0)
            return error;
        if (machine_interrupted)
            return -ECANCELED;
    }
    if (slice->way->options & WAIT_THREADS)
        run->syscalls += count + 1;
    return 0;
}

/** Rounds until the wall clock has advanced by `ns`. Returns how many, or -errno. */
static int64_t
rounds_for(struct slice *slice, uint32_t count, uint64_t ns, uint64_t at_once)
{
    const uint64_t begin = machine_now_ns();
    int64_t rounds = 0;
    do {
        for (uint64_t i = 0; i < at_once; i++) {
            const int error = round_once(slice, count);
            if (error != 0)
                return error;
        }
        rounds += (int64_t)at_once;
    } while (machine_now_ns() - begin < ns);
    return rounds;
}

static uint64_t
clock_cost_ns(void)
{
    const uint64_t begin = machine_now_ns();
    machine_cpu_ns();
    return machine_now_ns() - begin;
}

/** Leaves the metrics as they are if others took so much of the slice that the clock shows. */
static int
measure_rounds(const struct bench *bench, struct slice *slice, uint32_t count, double *metrics)
{
    struct wait_run *run = &slice->run;
    const uint64_t clock_ns = clock_cost_ns(), least = clock_ns * CLOCK_COSTS_WANTED;
    const uint64_t wanted = (uint64_t)(bench->options.seconds * 1e9);
    const uint64_t ns = wanted > least ? wanted : least;
    const uint64_t warm_begin = machine_now_ns();
    int64_t rounds = rounds_for(slice, count, ns / 8, 1);
    if (rounds <= 0)
        return (int)rounds;
    const uint64_t round_ns = (machine_now_ns() - warm_begin) / (uint64_t)rounds;
    const uint64_t at_once = 1 + LOOK_NS / (round_ns + 1);
    run->syscalls = run->overflows = run->spurious = 0;
    const uint64_t cpu = machine_cpu_ns(), wall = machine_now_ns();
    rounds = rounds_for(slice, count, ns, at_once);
    const uint64_t wall_ns = machine_now_ns() - wall, cpu_ns = machine_cpu_ns() - cpu;
    if (rounds < 0 || cpu_ns < clock_ns * CLOCK_COSTS_MIN)
        return rounds < 0 ? (int)rounds : 0;
    const double events = (double)rounds * count;
    metrics[CPU_NS] = (double)cpu_ns / events;
    metrics[WALL_NS] = (double)wall_ns / events;
    metrics[SYSCALLS] = (double)run->syscalls / events;
    metrics[OVERFLOWS] = (double)run->overflows;
    metrics[SPURIOUS] = (double)run->spurious;
    metrics[REGISTERED] = run->registered;
    return 0;
}

/** Registers in the set's order, so that those written to are in, if not all of them are. */
static int
register_all(struct slice *slice, double *metrics)
{
    struct wait_run *run = &slice->run;
    const uint32_t wanted = slice->way->options & WAIT_ONE ? 1 : set.count;
    const uint64_t begin = machine_now_ns();
    int error = 0;
    while (run->registered < wanted && error == 0 && !machine_interrupted) {
        error = slice->way->add(run, set.order[run->registered]);
        run->registered += error == 0;
    }
    if (error == -EAGAIN && (slice->way->options & WAIT_THREADS) && run->registered >= slice->pool)
        error = 0;
    if (error == 0 && slice->way->settle != NULL)
        error = slice->way->settle(run);
    metrics[REGISTER_NS] = (double)(machine_now_ns() - begin) / (double)run->registered;
    return error != 0 ? error : machine_interrupted ? -ECANCELED : 0;
}

static uint32_t
pool_for(uint32_t descriptors, uint32_t active)
{
    const uint32_t wanted = active > ACTIVE_MIN / 2 ? 2 * active : ACTIVE_MIN;
    return wanted < descriptors ? wanted : descriptors;
}

/** Whether to leave a way alone in this round. */
static bool
rests(const struct contestant *contestant)
{
    const unsigned round = measured[contestant - contestants]++;
    return (contestant->way->options & WAIT_THREADS) && !(contestant->way->options & WAIT_ONE) &&
           set.count > THREADS_EVERY_ROUND && round % THREADS_ROUNDS_APART != 0;
}

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const struct contestant *contestant = subject->context;
    if (rests(contestant))
        return 0;
    const uint32_t count = subject->parameter;
    const struct environment *where = &bench->environment;
    struct slice slice = {
        .run = {.set = &set, .cpu_apart = where->cpu_server},
        .way = contestant->way,
        .pool = contestant->way->options & WAIT_ONE ? 1 : pool_for(set.count, count),
    };
    int error = wait_set_mode(&set, slice.way->options & WAIT_BLOCKING);
    if (error == 0)
        error = slice.way->open(&slice.run);
    if (error == -EPERM || error == -ENOSYS) { /* not here, whatever the descriptors are */
        for (unsigned kind = 0; kind < WAIT_KINDS; kind++)
            failed[kind][contestant - contestants] = true;
    }
    if (error != 0)
        return error;
    error = register_all(&slice, metrics);
    if (error == 0)
        error = measure_rounds(bench, &slice, count, metrics);
    slice.way->close(&slice.run);
    const unsigned left = atomic_load(&slice.run.outstanding);
    if (error != 0)
        wait_set_drain(&set);
    if (error == -ETIME)
        report_doubt(&bench->report, "%s lost %u of %u events", subject->name, left, count);
    if (error == -EPROTO)
        report_doubt(&bench->report, "%s told an event that was none", subject->name);
    return error;
}

/* ---- a combination of N and M ------------------------------------------------------------------
 */

/** The differences of two subjects, round by round. */
static struct estimate
difference(const struct bench_samples *samples, unsigned subject, unsigned from, unsigned metric)
{
    static double differences[STATISTICS_ROUNDS_MAX];
    for (unsigned r = 0; r < samples->rounds; r++)
        differences[r] = samples->values[subject][metric][r] - samples->values[from][metric][r];
    return estimate_of(differences, samples->rounds);
}

static bool
runs_here(const struct bench *bench, const struct wait_way *way, uint32_t active)
{
    const struct environment *where = &bench->environment;
    if (way == NULL || ((way->options & WAIT_ONE) && active != 1) ||
        ((way->options & WAIT_SOCKETS_ONLY) && set.kind != WAIT_SOCKETS))
        return false;
    return !(way->options & WAIT_APART) ||
           (where->cpu_server >= 0 && where->cpu_server != where->cpu_load);
}

/** Who takes part; epoll once more at the end, as the control. */
static unsigned
choose(const struct bench *bench, uint32_t active, struct bench_subject *subjects)
{
    unsigned count = 0;
    for (unsigned i = 0; i < CONTESTANTS; i++) {
        const struct contestant *one = &contestants[i];
        if ((i != FLOOR && i != EPOLL && !bench_wants(bench, one->name)) || failed[set.kind][i] ||
            !runs_here(bench, one->way, active))
            continue;
        subjects[count++] = (struct bench_subject){
            .name = one->name, .measure = measure, .context = one, .parameter = active};
    }
    subjects[count] = (struct bench_subject){.name = "epoll again",
                                             .measure = measure,
                                             .context = &contestants[EPOLL],
                                             .parameter = active};
    return count + 1;
}

static void
add_row(struct bench *bench, const struct bench_samples *samples, unsigned at,
        const struct bench_subject *subject)
{
    const struct contestant *contestant = subject->context;
    const uint32_t registered = (uint32_t)bench_estimate(samples, at, REGISTERED).median;
    const bool one = contestant->way->options & WAIT_ONE;
    const struct estimate values[COLUMNS] = {
        estimate_exact(one ? set.count : registered),
        estimate_exact(subject->parameter),
        bench_estimate(samples, at, CPU_NS),
        contestant == &contestants[FLOOR] ? estimate_none()
                                          : difference(samples, at, FLOOR, CPU_NS),
        bench_median(samples, at, WALL_NS),
        bench_median(samples, at, SYSCALLS),
        bench_median(samples, at, OVERFLOWS),
        bench_median(samples, at, SPURIOUS),
        bench_median(samples, at, REGISTER_NS),
    };
    report_row(&bench->report, subject->name, values);
    if (registered < set.count && !one)
        report_note(&bench->report, "%s: %u of %u were granted", subject->name, registered,
                    set.count);
}

static void
run_combination(struct bench *bench, uint32_t active, struct bench_samples *samples)
{
    struct bench_subject subjects[BENCH_SUBJECTS_MAX];
    const unsigned count = choose(bench, active, subjects);
    memset(measured, 0, sizeof measured);
    bench_progress(bench, "%u %s, %u ready at once", set.count, kind_names[set.kind], active);
    bench_rounds(bench, subjects, count, samples);
    for (unsigned i = 0; i + 1 < count; i++) {
        const struct contestant *contestant = subjects[i].context;
        if (subjects[i].left_out)
            failed[set.kind][contestant - contestants] = true;
        else if (!isnan(bench_estimate(samples, i, CPU_NS).median))
            add_row(bench, samples, i, &subjects[i]);
        else if (!machine_interrupted)
            report_note(&bench->report, "%s, %u %s: no slice worth it beside what else ran here",
                        subjects[i].name, set.count, kind_names[set.kind]);
    }
    const struct estimate control = bench_ratio(samples, count - 1, EPOLL, CPU_NS);
    char name[64];
    snprintf(name, sizeof name, "epoll, %u %s, %u ready", set.count, kind_names[set.kind], active);
    if (!isnan(control.median))
        report_control(&bench->report, name, control);
}

/* ---- the case ---------------------------------------------------------------------------------
 */

static bool
is_in(const uint32_t *values, unsigned count, uint32_t value)
{
    for (unsigned i = 0; i < count; i++) {
        if (values[i] == value)
            return true;
    }
    return false;
}

static uint32_t
largest(const struct bench_numbers *numbers)
{
    uint32_t most = 1;
    for (unsigned i = 0; i < numbers->count; i++)
        most = numbers->values[i] > most ? numbers->values[i] : most;
    return most;
}

/** As many of `wanted` as there is room for: one descriptor each, one more for those written to. */
static uint32_t
count_that_fits(struct bench *bench, uint32_t wanted, uint32_t active)
{
    const uint32_t pool = pool_for(wanted, active);
    const uint32_t room = bench_descriptors_fit(bench, wanted + pool, 1);
    if (room == wanted + pool)
        return wanted;
    const uint32_t count = room > 2 * pool ? room - pool : room / 2;
    return count > 0 ? count : 1;
}

/** Every M with the set that is open. */
static void
run_with_set(struct bench *bench, struct bench_samples *samples)
{
    const struct bench_numbers *active = &bench->options.active;
    uint32_t done[BENCH_NUMBERS_MAX];
    for (unsigned i = 0; i < active->count && !machine_interrupted; i++) {
        done[i] = active->values[i] < set.count ? active->values[i] : set.count;
        if (!is_in(done, i, done[i]))
            run_combination(bench, done[i], samples);
    }
}

/** What there is room for, each number once. */
static void
choose_counts(struct bench *bench, struct bench_numbers *counts)
{
    const struct bench_numbers *wanted = &bench->options.connections;
    const uint32_t active = largest(&bench->options.active);
    counts->count = 0;
    for (unsigned i = 0; i < wanted->count; i++) {
        const uint32_t fits = count_that_fits(bench, wanted->values[i], active);
        if (!is_in(counts->values, counts->count, fits))
            counts->values[counts->count++] = fits;
    }
}

static void
run_kind(struct bench *bench, enum wait_kind kind, const struct bench_numbers *counts,
         struct bench_samples *samples)
{
    const uint32_t active = largest(&bench->options.active);
    char name[REPORT_NAME_BYTES];
    snprintf(name, sizeof name, "waiting-%s", kind_names[kind]);
    report_table_begin(&bench->report, name, columns, COLUMNS);
    for (unsigned i = 0; i < counts->count && !machine_interrupted; i++) {
        const uint32_t count = counts->values[i];
        const int error = wait_set_make(&set, kind, count, pool_for(count, active));
        if (error != 0) {
            report_note(&bench->report, "%u %s cannot be had: %s", count, kind_names[kind],
                        strerror(-error));
            continue;
        }
        run_with_set(bench, samples);
        wait_set_close(&set);
    }
}

static void
add_notes(struct bench *bench, uint32_t most)
{
    const struct environment *where = &bench->environment;
    for (unsigned i = 0; i < CONTESTANTS; i++) {
        if (contestants[i].way == NULL && bench_wants(bench, contestants[i].name))
            report_note(&bench->report, "%s was left out: built without liburing",
                        contestants[i].name);
    }
    if (bench_wants(bench, wait_threads_apart.name) && !runs_here(bench, &wait_threads_apart, 1))
        report_note(&bench->report, "%s was left out: there is one CPU (%d)",
                    wait_threads_apart.name, where->cpu_load);
    if (most > THREADS_EVERY_ROUND)
        report_note(&bench->report,
                    "threads for more than %u descriptors: measured in every "
                    "third round only, for the time that starting them takes",
                    THREADS_EVERY_ROUND);
    report_note(&bench->report, "all but floor include it: writing the byte, and reading it");
    report_note(&bench->report, "events are there before the wait begins: only blocking and the "
                                "threads sleep and are woken");
    report_note(&bench->report, "select beyond FD_SETSIZE: with bitmaps of our own, given to the "
                                "system call itself");
}

static int
run(struct bench *bench)
{
    static struct bench_samples samples;
    struct bench_numbers counts;
    unsigned rows = 0;
    choose_counts(bench, &counts);
    for (unsigned kind = 0; kind < WAIT_KINDS && !machine_interrupted; kind++) {
        run_kind(bench, (enum wait_kind)kind, &counts, &samples);
        rows += bench->report.tables[kind].rows_count;
    }
    add_notes(bench, largest(&counts));
    return rows > 0 ? 0 : -EIO;
}

static const char *
variant(unsigned at)
{
    return at < CONTESTANTS ? contestants[at].name : NULL;
}

#define PLOT(plot_name, of_table, shown, ready, plot_title)                                        \
    {                                                                                              \
        .name = (plot_name), .title = (plot_title), .table = (of_table), .x = "descriptors",       \
        .y = "ns_per_event", .x_title = "registered " shown ", idle but for those ready",          \
        .y_title = "CPU ns per event", .only = "active", .only_value = (ready),                    \
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,                                          \
    }

static const struct report_plot plots[] = {
    PLOT("waiting-sockets-1", "waiting-sockets", "sockets", 1,
         "An event among idle sockets, one ready at a time: which curves rise?"),
    PLOT("waiting-sockets-64", "waiting-sockets", "sockets", 64,
         "An event among idle sockets, 64 ready at a time: one call for many"),
    PLOT("waiting-pipes-1", "waiting-pipes", "pipes", 1,
         "An event among idle pipes, one ready at a time: which curves rise?"),
    PLOT("waiting-pipes-64", "waiting-pipes", "pipes", 64,
         "An event among idle pipes, 64 ready at a time: one call for many"),
    {.name = NULL},
};

const struct bench_case bench_case_waiting = {
    .name = "waiting",
    .summary = "an event among N descriptors, M ready at once: select to io_uring, and threads",
    .run = run,
    .variant = variant,
    .connections_max = DESCRIPTORS_MAX,
    .normal = {.rounds = 9,
               .seconds = 0.01,
               .connections = "10,100,1000,4000,16000",
               .active = "1,64"},
    .quick = {.rounds = 3, .seconds = 0.005, .connections = "10,1000,4000", .active = "1"},
    .full = {.rounds = 15,
             .seconds = 0.05,
             .connections = "10,30,100,300,1000,3000,10000,19000",
             .active = "1,8,64"},
    .plots = plots,
};
