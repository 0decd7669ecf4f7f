/*
 * Case `sharing`: what two threads pay for words that lie close together, though neither looks at
 * the other's: each has a counter of its own, and the two are 8 to 512 bytes apart.
 *
 *   atomic     both add to theirs, atomically
 *   plain      both add to theirs, by ordinary loads and stores
 *   reader     the first only reads its own, the second adds to the other by ordinary stores
 *
 * The scale for each is the same thread with the other one away. And `ping-pong`: one word that the
 * two hand to and fro, which is how long a line needs from core to core.
 *
 * What it cannot show: the loops do nothing else, some 0.3 ns a turn for plain loads and stores, so
 * the ratios are the worst there can be; a program has other work between: look at the nanoseconds.
 * Two CPUs of one socket, and in a virtual machine the host decides which cores they are.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "machine.h"

/** Operations between two looks at whether to stop. */
#define BLOCK 1024u

/** And turns of waiting for the other side. */
#define SPINS 4096u

#define ROOM_BYTES 2048u

/**
 * A slice counts when both threads ran for this share of it: when one is off its CPU, the other
 * runs undisturbed. Otherwise it is tried again, so many times in all, and the best one counts.
 */
#define TOGETHER_MIN 0.97
#define TRIES 3u

static const uint32_t strides[] = {8, 16, 32, 64, 128, 256, 512};
#define STRIDES (sizeof strides / sizeof strides[0])

/* ---- what a side does ---------------------------------------------------------------------------
 */

typedef volatile uint64_t word;

static void
work_atomic(word *counter)
{
    for (unsigned i = 0; i < BLOCK; i++)
        __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

static void
work_plain(word *counter)
{
    for (unsigned i = 0; i < BLOCK; i++)
        *counter = *counter + 1;
}

static void
work_read(word *counter)
{
    for (unsigned i = 0; i < BLOCK; i++)
        (void)*counter;
}

static const struct way {
    const char *name;
    const char *alone; /**< the name of its first side without the second */
    void (*first)(word *counter);
    void (*second)(word *counter);
} ways[] = {
    {"atomic", "atomic alone", work_atomic, work_atomic},
    {"plain", "plain alone", work_plain, work_plain},
    {"reader", "reader alone", work_read, work_plain},
};
#define WAYS (sizeof ways / sizeof ways[0])

static const char *
variant(unsigned at)
{
    return at < WAYS ? ways[at].name : at == WAYS ? "ping-pong" : NULL;
}

/* ---- two threads --------------------------------------------------------------------------------
 */

/** What both look at; nothing in it is written while they are timed, but for `turn`. */
struct meeting {
    unsigned sides;
    unsigned ready;
    bool stop;
    unsigned char apart[128 - 9];
    uint64_t turn; /**< of ping-pong: whose it is, as even and odd */
} __attribute__((aligned(128)));

struct side {
    struct meeting *meeting;
    void (*work)(word *counter); /**< NULL: ping-pong */
    word *counter;
    int cpu;          /**< -1: any */
    unsigned parity;  /**< of ping-pong */
    uint64_t stop_ns; /**< by the monotonic clock; 0: the other side stops both */
    uint64_t operations;
    uint64_t ns;      /**< processor time */
    uint64_t wall_ns; /**< and how long it took */
    int error;
};

/** Processor time of this thread alone. */
static uint64_t
thread_ns(void)
{
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

static bool
is_stopped(const struct meeting *meeting)
{
    return __atomic_load_n(&meeting->stop, __ATOMIC_RELAXED);
}

/** Whether it is over; the side that has the clock says so. */
static bool
is_over(const struct side *side)
{
    if (side->stop_ns != 0 && (machine_interrupted || machine_now_ns() >= side->stop_ns))
        __atomic_store_n(&side->meeting->stop, true, __ATOMIC_RELAXED);
    return is_stopped(side->meeting);
}

static void
run_counting(struct side *side)
{
    do {
        side->work(side->counter);
        side->operations += BLOCK;
    } while (!is_over(side));
}

/** Waits for its turn, and gives it back: two of these are one way there and one back. */
static void
run_ping_pong(struct side *side)
{
    uint64_t *turn = &side->meeting->turn;
    for (;;) {
        unsigned spins = 0;
        uint64_t now;
        while ((now = __atomic_load_n(turn, __ATOMIC_ACQUIRE)) % 2 != side->parity) {
            if (++spins % SPINS == 0 && is_over(side))
                return;
        }
        __atomic_store_n(turn, now + 1, __ATOMIC_RELEASE);
        side->operations++;
        if (side->operations % BLOCK == 0 && is_over(side))
            return;
    }
}

static void *
run_side(void *argument)
{
    struct side *side = argument;
    struct meeting *meeting = side->meeting;
    side->error = side->cpu >= 0 ? machine_pin(side->cpu) : 0;
    if (side->error != 0)
        __atomic_store_n(&meeting->stop, true, __ATOMIC_RELAXED);
    __atomic_add_fetch(&meeting->ready, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&meeting->ready, __ATOMIC_ACQUIRE) < meeting->sides)
        ;
    const uint64_t begin = thread_ns(), begin_wall = machine_now_ns();
    if (side->work != NULL)
        run_counting(side);
    else
        run_ping_pong(side);
    side->ns = thread_ns() - begin;
    side->wall_ns = machine_now_ns() - begin_wall;
    return NULL;
}

/** The share of the time for which both were on their CPUs, at least. */
static double
together(const struct side *first, const struct side *second)
{
    const uint64_t wall = first->wall_ns > second->wall_ns ? first->wall_ns : second->wall_ns;
    const double share = (double)first->ns / (double)wall + (double)second->ns / (double)wall - 1;
    return share > 0 ? share : 0;
}

/** Runs the first side here and the second, if there is one, on a thread of its own. */
static int
run_sides(struct side *first, struct side *second, double seconds)
{
    pthread_t thread;
    first->stop_ns = machine_now_ns() + (uint64_t)(seconds * 1e9);
    if (second != NULL) {
        const int error = pthread_create(&thread, NULL, run_side, second);
        if (error != 0)
            return -error;
    }
    run_side(first);
    if (second != NULL)
        pthread_join(thread, NULL);
    return first->error != 0 || second == NULL ? first->error : second->error;
}

/* ---- subjects -----------------------------------------------------------------------------------
 */

enum metric { NS, OTHER_NS, TOGETHER };

/** What one subject measures. `way` NULL: ping-pong. `stride` 0: the first side alone. */
struct plan {
    const struct way *way;
    uint32_t stride;
};

/** Whether the words hold what the sides say they did. */
static bool
counted_right(const struct side *side)
{
    return *side->counter == (side->work == work_read ? 0 : side->operations);
}

static int
measure_counting(struct bench *bench, const struct plan *plan, double *metrics)
{
    static unsigned char room[ROOM_BYTES] __attribute__((aligned(1024)));
    struct meeting meeting = {.sides = plan->stride > 0 ? 2 : 1};
    memset(room, 0, sizeof room);
    struct side first = {.meeting = &meeting,
                         .work = plan->way->first,
                         .counter = (word *)(void *)room,
                         .cpu = bench->environment.cpu_load};
    struct side second = {.meeting = &meeting,
                          .work = plan->way->second,
                          .counter = (word *)(void *)(room + plan->stride),
                          .cpu = bench->environment.cpu_server};
    const int error = run_sides(&first, plan->stride > 0 ? &second : NULL, bench->options.seconds);
    if (error != 0)
        return error;
    metrics[NS] = (double)first.ns / (double)first.operations;
    if (plan->stride == 0)
        return counted_right(&first) ? 0 : -EBADMSG;
    metrics[OTHER_NS] = (double)second.ns / (double)second.operations;
    metrics[TOGETHER] = together(&first, &second);
    return counted_right(&first) && counted_right(&second) ? 0 : -EBADMSG;
}

static int
measure_ping_pong(struct bench *bench, double *metrics)
{
    struct meeting meeting = {.sides = 2};
    struct side first = {.meeting = &meeting, .cpu = bench->environment.cpu_load, .parity = 0};
    struct side second = {.meeting = &meeting, .cpu = bench->environment.cpu_server, .parity = 1};
    const int error = run_sides(&first, &second, bench->options.seconds);
    if (error != 0)
        return error;
    if (meeting.turn != first.operations + second.operations || first.operations == 0)
        return -EBADMSG;
    metrics[NS] = (double)first.ns / (double)meeting.turn;
    metrics[TOGETHER] = together(&first, &second);
    return 0;
}

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const struct plan *plan = subject->context;
    double best = -1;
    for (unsigned i = 0; i < TRIES && best < TOGETHER_MIN && !machine_interrupted; i++) {
        double tried[] = {[NS] = NAN, [OTHER_NS] = NAN, [TOGETHER] = 1};
        const int error = plan->way != NULL ? measure_counting(bench, plan, tried)
                                            : measure_ping_pong(bench, tried);
        if (error == -EBADMSG)
            report_doubt(&bench->report, "%s lost count", subject->name);
        if (error != 0)
            return error;
        if (tried[TOGETHER] > best) {
            best = tried[TOGETHER];
            memcpy(metrics, tried, sizeof tried);
        }
    }
    return 0;
}

/* ---- the case -----------------------------------------------------------------------------------
 */

static const struct report_column columns[] = {
    {"stride_bytes", "bytes\napart", 0},
    {"ns_per_operation", "ns per\noperation", 2},
    {"ratio", "ratio to\nalone", 2},
    {"other_ns_per_operation", "ns per operation\nof the other", 2},
    {"together", NULL, 3},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

static const struct report_column line_columns[] = {{"one_way_ns", "ns\none way", 1}};

/** The first way at its nearest, where the two disturb each other, and at its farthest. */
#define CONTROLS_MAX 2u

/** Each way alone and at each distance, ping-pong, and the controls. */
#define SUBJECTS (WAYS * (1 + STRIDES) + 1 + CONTROLS_MAX)

_Static_assert(SUBJECTS <= BENCH_SUBJECTS_MAX, "they are all measured in the same rounds");

struct subjects {
    unsigned count;
    unsigned ping_pong;                /**< its number; UINT32_MAX: none */
    unsigned controls;                 /**< how many are measured once more: the last ones */
    unsigned controlled[CONTROLS_MAX]; /**< and what they repeat */
    struct plan plans[SUBJECTS];
    unsigned alone[SUBJECTS]; /**< the number of the one to compare with */
    struct bench_subject list[SUBJECTS];
};

static unsigned
add(struct subjects *subjects, const char *name, const struct way *way, uint32_t stride,
    unsigned alone)
{
    const unsigned at = subjects->count++;
    subjects->plans[at] = (struct plan){way, stride};
    subjects->alone[at] = alone;
    subjects->list[at] =
        (struct bench_subject){.name = name, .measure = measure, .context = &subjects->plans[at]};
    return at;
}

static void
choose(const struct bench *bench, struct subjects *subjects, bool two)
{
    for (unsigned i = 0; i < WAYS; i++) {
        if (!bench_wants(bench, ways[i].name))
            continue;
        const unsigned alone = add(subjects, ways[i].alone, &ways[i], 0, subjects->count);
        for (unsigned j = 0; two && j < STRIDES; j++)
            add(subjects, ways[i].name, &ways[i], strides[j], alone);
    }
    const unsigned counting = subjects->count;
    subjects->ping_pong = UINT32_MAX;
    if (two && bench_wants(bench, "ping-pong"))
        subjects->ping_pong = add(subjects, "ping-pong", NULL, 0, counting);
    if (counting == 0 && subjects->count > 0)
        subjects->controlled[subjects->controls++] = subjects->ping_pong;
    else if (counting > 0)
        subjects->controlled[subjects->controls++] = two ? 1 : 0;
    if (counting > 0 && two)
        subjects->controlled[subjects->controls++] = STRIDES;
    for (unsigned i = 0; i < subjects->controls; i++) {
        const struct plan again = subjects->plans[subjects->controlled[i]];
        add(subjects, "once more", again.way, again.stride, 0);
    }
}

static void
add_controls(struct bench *bench, const struct bench_samples *samples,
             const struct subjects *subjects)
{
    for (unsigned i = 0; i < subjects->controls; i++) {
        char name[REPORT_NAME_BYTES + 24];
        const unsigned what = subjects->controlled[i];
        const uint32_t stride = subjects->plans[what].stride;
        snprintf(name, sizeof name, "%s", subjects->list[what].name);
        if (stride > 0)
            snprintf(name, sizeof name, "%s, %u apart", subjects->list[what].name, stride);
        report_control(&bench->report, name,
                       bench_ratio(samples, subjects->count - subjects->controls + i, what, NS));
    }
}

static void
add_tables(struct bench *bench, const struct bench_samples *samples,
           const struct subjects *subjects)
{
    report_table_begin(&bench->report, "sharing", columns, COLUMNS);
    for (unsigned i = 0; i < subjects->count - subjects->controls; i++) {
        const uint32_t stride = subjects->plans[i].stride;
        if (i == subjects->ping_pong)
            continue;
        const struct estimate values[COLUMNS] = {
            stride > 0 ? estimate_exact(stride) : estimate_none(),
            bench_estimate(samples, i, NS),
            bench_ratio(samples, i, subjects->alone[i], NS),
            bench_estimate(samples, i, OTHER_NS),
            bench_estimate(samples, i, TOGETHER),
        };
        if (!isnan(values[1].median)) /* left out, or interrupted before its turn came */
            report_row(&bench->report, subjects->list[i].name, values);
    }
    if (subjects->ping_pong != UINT32_MAX) {
        const struct estimate one_way = bench_estimate(samples, subjects->ping_pong, NS);
        report_table_begin(&bench->report, "sharing-line", line_columns, 1);
        if (!isnan(one_way.median))
            report_row(&bench->report, "ping-pong", &one_way);
    }
    add_controls(bench, samples, subjects);
}

static int
run(struct bench *bench)
{
    static struct bench_samples samples;
    static struct subjects subjects;
    const int here = bench->environment.cpu_load, there = bench->environment.cpu_server;
    const bool two = here >= 0 && there >= 0 && here != there;
    if (!two)
        report_note(&bench->report, "two threads need two CPUs to be bound to: only what one "
                                    "pays alone was measured");
    memset(&subjects, 0, sizeof subjects);
    choose(bench, &subjects, two);
    if (subjects.count == 0)
        return -ENOTSUP;
    bench_rounds(bench, subjects.list, subjects.count, &samples);
    add_tables(bench, &samples, &subjects);
    if (two)
        report_note(&bench->report,
                    "the first thread on CPU %d, the other on CPU %d; processor time of each", here,
                    there);
    return 0;
}

static const struct report_plot plots[] = {
    {
        .name = "sharing",
        .title = "Two threads, each at its own word: what their distance costs; 1 is alone",
        .table = "sharing",
        .x = "stride_bytes",
        .y = "ratio",
        .x_title = "bytes from one word to the other",
        .y_title = "time per operation, to that of one alone",
        .options = REPORT_PLOT_LOG_X,
    },
    {
        .name = "sharing-ns",
        .title = "The same in nanoseconds: lower is better",
        .table = "sharing",
        .x = "stride_bytes",
        .y = "ns_per_operation",
        .x_title = "bytes from one word to the other",
        .y_title = "ns per operation",
        .options = REPORT_PLOT_LOG_X,
    },
    {.name = NULL},
};

const struct bench_case bench_case_sharing = {
    .name = "sharing",
    .summary = "what two threads pay for words that share a line; a line from core to core",
    .run = run,
    .variant = variant,
    .normal = {.rounds = 15, .seconds = 0.05},
    .quick = {.rounds = 9, .seconds = 0.008},
    .full = {.rounds = 51, .seconds = 0.1},
    .plots = plots,
};
