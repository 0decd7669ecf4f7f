/*
 * Case `timers`: one timeout per connection. What an activity costs, which has it start afresh
 * (`timers-arm`), and what it costs to find those who have been idle for too long (`timers-sweep`):
 *
 *   ticks, deadlines   berth's table: two bytes per connection in an array beside it
 *   lru                a linked list by last activity: an activity moves its connection to the end
 *   swept              a linked list in any order, and the time of the last activity in each
 *   libev, libuv, libevent   a timer each, in the library's own heap
 *   libevent-common    the same in libevent's list for timeouts that many have in common
 *
 * Activities come in random order, some connections more often than others. For the libraries a
 * sweep is one turn of the loop that does not wait, a system call included; a loop makes that turn
 * anyway.
 *
 * What it cannot show: the rivals' timers lie close together in an array here, not spread over
 * larger connections, which is better than they have it. And how often one has to sweep: a heap and
 * the list by activity know when the next is due, arrays and `swept` are looked through once a
 * tick, at a resolution of a tick.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "machine.h"
#include "random.h"
#include "timers.h"

#define CONNECTIONS_MAX (1u << 22)

/** Room for all contestants' connections at once, in bytes per connection: 700 were seen. */
#define CONNECTION_BYTES 900u
#define AVAILABLE_SHARE 0.75

/** Activities per pass, and how many are drawn beforehand: more than any cache could learn. */
#define PASS_ACTIVITIES 4096u
#define ACTIVITIES (1u << 21)

/** One in so many expires in a sweep that finds some. */
#define EXPIRE_SHARE 100u

/** Sweeps that find some, at most, in a slice: their median counts. */
#define SWEEPS_MAX 256u

/** A slice may take so many times as long as it should, for what is set up between its sweeps. */
#define SLICE_STRETCH 4u

/** Passes between two looks at the clock: of a sweep that looks at the head, or at many. */
#define HEAD_SWEEPS 1024u
#define LOOKS_BETWEEN_CLOCKS 65536u

static const struct timers_way *const ways[] = {
    &timers_ticks, &timers_deadlines, &timers_lru,      &timers_swept,
    &timers_libev, &timers_libuv,     &timers_libevent, &timers_libevent_common,
};
#define WAYS (sizeof ways / sizeof ways[0])

static const char *
variant(unsigned at)
{
    return at < WAYS ? ways[at]->name : NULL;
}

struct timers_found timers_found;

__attribute__((noinline)) void
timers_expired(uint32_t connection)
{
    timers_found.count++;
    timers_found.sum += connection;
}

/** What all of them work on. */
static struct {
    uint32_t count;       /**< connections */
    uint32_t *activities; /**< ACTIVITIES of them */
    uint32_t *victims;    /**< every connection once, in random order: who expires next */
} on;

/** One contestant, with its connections. */
struct player {
    const struct timers_way *way;
    void *state;
    uint32_t cursor; /**< in on.activities */
    uint32_t victim; /**< in on.victims */
    struct bench_work arm, sweep;
};

/* ---- activities ---------------------------------------------------------------------------------
 */

static void
pass_arm(void *context)
{
    struct player *player = context;
    player->way->arm(player->state, on.activities + player->cursor, PASS_ACTIVITIES);
    player->cursor = (player->cursor + PASS_ACTIVITIES) % ACTIVITIES;
}

static int
measure_arm(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const struct player *player = subject->context;
    const struct bench_subject work = {.name = subject->name, .context = &player->arm};
    return bench_work_measure(bench, &work, metrics);
}

/* ---- sweeps -------------------------------------------------------------------------------------
 */

enum sweep_metric { NONE_NS, SOME_NS, EXPIRED_NS };

static uint32_t
expiring(void)
{
    return on.count > EXPIRE_SHARE ? on.count / EXPIRE_SHARE : 1;
}

static void
pass_sweep(void *context)
{
    const struct player *player = context;
    player->way->sweep(player->state);
}

/** What two looks at the clock take. */
static uint64_t
clock_ns(void)
{
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < 32; i++) {
        const uint64_t begin = machine_now_ns(), taken = machine_now_ns() - begin;
        least = taken < least ? taken : least;
    }
    return least;
}

/**
 * Has some expire, sweeps, and arms them again. 0, with the nanoseconds of the sweep; -EBADMSG: it
 * did not find exactly those.
 */
static int
sweep_some(struct player *player, uint64_t *ns)
{
    const uint32_t count = expiring();
    if (player->victim + count > on.count)
        player->victim = 0;
    const uint32_t *victims = on.victims + player->victim;
    uint64_t sum = 0;
    player->victim += count;
    for (uint32_t i = 0; i < count; i++)
        sum += victims[i];
    player->way->age(player->state, victims, count);
    timers_found = (struct timers_found){0, 0};
    const uint64_t begin = machine_now_ns();
    player->way->sweep(player->state);
    *ns = machine_now_ns() - begin;
    const bool right = timers_found.count == count && timers_found.sum == sum;
    player->way->arm(player->state, victims, count);
    return right ? 0 : -EBADMSG;
}

static int
measure_some(struct bench *bench, struct player *player, double *median)
{
    double sweeps[SWEEPS_MAX];
    unsigned count = 0;
    uint64_t swept_ns = 0, ns = 0;
    const uint64_t slice_ns = (uint64_t)(bench->options.seconds * 1e9), clock = clock_ns();
    const uint64_t end = machine_now_ns() + SLICE_STRETCH * slice_ns;
    int error = sweep_some(player, &ns); /* once for nothing, as with every measurement */
    do {
        if (error == 0)
            error = sweep_some(player, &ns);
        sweeps[count++] = ns > clock ? (double)(ns - clock) : 0;
        swept_ns += ns;
    } while (error == 0 && count < SWEEPS_MAX && swept_ns < slice_ns && machine_now_ns() < end &&
             !machine_interrupted);
    *median = estimate_of(sweeps, count).median;
    return error;
}

static int
measure_sweep(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    struct player *player = (struct player *)(uintptr_t)subject->context;
    const struct bench_subject work = {.name = subject->name, .context = &player->sweep};
    double none[BENCH_METRICS_MAX];
    timers_found = (struct timers_found){0, 0};
    int error = bench_work_measure(bench, &work, none);
    if (error == 0 && timers_found.count != 0)
        error = -EBADMSG;
    if (error == 0)
        error = measure_some(bench, player, &metrics[SOME_NS]);
    if (error == -EBADMSG)
        report_doubt(&bench->report, "%s found others than those whose time was up", subject->name);
    metrics[NONE_NS] = none[BENCH_WORK_NS];
    metrics[EXPIRED_NS] = metrics[SOME_NS] / expiring();
    return error;
}

/* ---- tables -------------------------------------------------------------------------------------
 */

static const struct report_column arm_columns[] = {
    {"connections", "connections", 0},
    {"ns_per_activity", "ns per\nactivity", 2},
    {"ratio", "ratio to\nticks", 2},
    BENCH_WORK_COLUMNS,
};
#define ARM_COLUMNS (sizeof arm_columns / sizeof arm_columns[0])
#define ARM_COLUMNS_OWN (ARM_COLUMNS - (BENCH_WORK_METRICS - 1u))

static const struct report_column sweep_columns[] = {
    {"connections", "connections", 0},
    {"us_per_sweep", "us per sweep\nthat finds none", 3},
    {"us_per_sweep_some", "us per sweep\nthat finds 1 %", 3},
    {"ns_per_expired", "of it, ns\nper one found", 1},
    {"expired", NULL, 0},
};
#define SWEEP_COLUMNS (sizeof sweep_columns / sizeof sweep_columns[0])

/** All contestants, and the first once more. */
#define SUBJECTS (WAYS + 1)

#define TABLES 2u

/** The rows of both tables, as they are measured alternately. */
struct results {
    unsigned counts[TABLES];
    struct result {
        const char *name;
        struct estimate values[ARM_COLUMNS];
    } rows[TABLES][WAYS * BENCH_NUMBERS_MAX];
};

static struct estimate *
new_row(struct results *results, unsigned table, const char *name)
{
    struct result *row = &results->rows[table][results->counts[table]++];
    row->name = name;
    return row->values;
}

static void
keep_arm(struct results *results, const struct bench_samples *samples, unsigned at,
         const char *name)
{
    struct estimate *values = new_row(results, 0, name);
    values[0] = estimate_exact(on.count);
    values[1] = bench_estimate(samples, at, BENCH_WORK_NS);
    values[2] = bench_ratio(samples, at, 0, BENCH_WORK_NS);
    bench_work_estimates(samples, at, values + ARM_COLUMNS_OWN);
}

static void
keep_sweep(struct results *results, const struct bench_samples *samples, unsigned at,
           const char *name)
{
    struct estimate *values = new_row(results, 1, name);
    values[0] = estimate_exact(on.count);
    values[1] = estimate_scaled(bench_estimate(samples, at, NONE_NS), 1e-3);
    values[2] = estimate_scaled(bench_estimate(samples, at, SOME_NS), 1e-3);
    values[3] = bench_estimate(samples, at, EXPIRED_NS);
    values[4] = estimate_exact(expiring());
}

/** Measures the players one way, and keeps a row for each that was measured. */
static void
measure_players(struct bench *bench, struct player *players, unsigned count, bool sweeps,
                struct results *results)
{
    static struct bench_samples samples;
    struct bench_subject subjects[SUBJECTS] = {{.name = NULL}};
    char name[REPORT_NAME_BYTES + 16];
    for (unsigned i = 0; i < count; i++)
        subjects[i] = (struct bench_subject){.name = players[i].way->name,
                                             .measure = sweeps ? measure_sweep : measure_arm,
                                             .context = &players[i]};
    subjects[count] = subjects[0];
    subjects[count].name = "ticks again";
    bench_rounds(bench, subjects, count + 1, &samples);
    for (unsigned i = 0; i < count; i++) {
        if (isnan(bench_estimate(&samples, i, 0).median))
            continue; /* left out, or interrupted before its turn came */
        if (sweeps)
            keep_sweep(results, &samples, i, subjects[i].name);
        else
            keep_arm(results, &samples, i, subjects[i].name);
    }
    snprintf(name, sizeof name, "%s ticks, %u", sweeps ? "sweeping" : "arming", on.count);
    report_control(&bench->report, name, bench_ratio(&samples, count, 0, 0));
}

/* ---- the case -----------------------------------------------------------------------------------
 */

static void
player_close(struct bench *bench, struct player *player, bool verified)
{
    if (verified && player->way->armed(player->state) != on.count)
        report_doubt(&bench->report, "%s lost some of %u timeouts", player->way->name, on.count);
    player->way->close(player->state);
}

/** Opens those that are wanted, the baseline always. Returns how many. */
static unsigned
players_open(struct bench *bench, struct player *players)
{
    unsigned count = 0;
    for (unsigned i = 0; i < WAYS && !machine_interrupted; i++) {
        const struct timers_way *way = ways[i];
        struct player *player = &players[count];
        if (way->missing != NULL || (i > 0 && !bench_wants(bench, way->name)))
            continue;
        bench_progress(bench, "%u connections: %s", on.count, way->name);
        *player = (struct player){.way = way};
        const bool enough = machine_descriptors_free() >= way->descriptors;
        const int error = enough ? way->open(on.count, &player->state) : -EMFILE;
        if (error != 0) {
            report_note(&bench->report, "%s was left out at %u connections: %s", way->name,
                        on.count, strerror(-error));
            continue;
        }
        player->arm = (struct bench_work){pass_arm, player, PASS_ACTIVITIES, 1};
        player->sweep = (struct bench_work){
            .pass = pass_sweep,
            .context = player,
            .operations = 1,
            .passes_at_once = way->at_head ? HEAD_SWEEPS : 1 + LOOKS_BETWEEN_CLOCKS / on.count,
        };
        count++;
    }
    return count;
}

static int
orders_make(uint32_t count)
{
    uint64_t random = RANDOM_SEED;
    on.count = count;
    on.activities = malloc(ACTIVITIES * sizeof on.activities[0]);
    on.victims = malloc(count * sizeof on.victims[0]);
    if (on.activities == NULL || on.victims == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < ACTIVITIES; i++)
        on.activities[i] = random_below(&random, count);
    random_order(on.victims, count, &random);
    return 0;
}

static int
run_with(struct bench *bench, uint32_t connections, struct results *results)
{
    struct player players[WAYS];
    int error = orders_make(connections);
    const unsigned count = error == 0 ? players_open(bench, players) : 0;
    if (error == 0 && (count == 0 || players[0].way != ways[0]))
        error = -ENOMEM; /* nothing to compare with */
    const bool going = error == 0 && !machine_interrupted;
    if (going)
        measure_players(bench, players, count, false, results);
    if (going && !machine_interrupted)
        measure_players(bench, players, count, true, results);
    for (unsigned i = 0; i < count; i++)
        player_close(bench, &players[i], going && !machine_interrupted);
    free(on.activities);
    free(on.victims);
    return machine_interrupted ? 0 : error;
}

/** Whether everybody's connections fit what is available; the report says so if not. */
static bool
fits(struct bench *bench, uint32_t connections)
{
    const uint64_t available = machine_memory_available_bytes();
    const uint64_t wanted = (uint64_t)connections * CONNECTION_BYTES;
    if (available == 0 || (double)wanted <= (double)available * AVAILABLE_SHARE)
        return true;
    report_note(&bench->report, "%u connections left out: %llu MiB wanted, %llu available",
                connections, (unsigned long long)(wanted >> 20),
                (unsigned long long)(available >> 20));
    return false;
}

static void
add_tables(struct bench *bench, const struct results *results)
{
    report_table_begin(&bench->report, "timers-arm", arm_columns, ARM_COLUMNS);
    for (unsigned i = 0; i < results->counts[0]; i++)
        report_row(&bench->report, results->rows[0][i].name, results->rows[0][i].values);
    report_table_begin(&bench->report, "timers-sweep", sweep_columns, SWEEP_COLUMNS);
    for (unsigned i = 0; i < results->counts[1]; i++)
        report_row(&bench->report, results->rows[1][i].name, results->rows[1][i].values);
}

static int
run(struct bench *bench)
{
    static struct results results;
    const struct bench_numbers *connections = &bench->options.connections;
    int error = 0;
    for (unsigned i = 0; i < WAYS; i++) {
        if (ways[i]->missing != NULL && bench_wants(bench, ways[i]->name))
            report_note(&bench->report, "%s was left out: %s", ways[i]->name, ways[i]->missing);
    }
    for (unsigned i = 0; i < connections->count && !machine_interrupted; i++) {
        const int failed = fits(bench, connections->values[i])
                               ? run_with(bench, connections->values[i], &results)
                               : -ENOMEM;
        error = failed != 0 ? failed : error;
    }
    add_tables(bench, &results);
    report_note(&bench->report,
                "activities at random, the clock looked at every %u; of libev, libuv and libevent "
                "a sweep is a turn of the loop with its system call",
                TIMERS_BATCH);
    return results.counts[0] > 0 || machine_interrupted ? 0 : error;
}

static const struct report_plot plots[] = {
    {
        .name = "timers-arm",
        .title = "An activity, which has a timeout start afresh: lower is better",
        .table = "timers-arm",
        .x = "connections",
        .y = "ns_per_activity",
        .x_title = "connections",
        .y_title = "ns per activity",
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,
    },
    {
        .name = "timers-sweep",
        .title = "A sweep that finds nobody: lower is better",
        .table = "timers-sweep",
        .x = "connections",
        .y = "us_per_sweep",
        .x_title = "connections",
        .y_title = "us per sweep",
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,
    },
    {
        .name = "timers-expire",
        .title = "A sweep that finds 1 % of them: lower is better",
        .table = "timers-sweep",
        .x = "connections",
        .y = "us_per_sweep_some",
        .x_title = "connections",
        .y_title = "us per sweep",
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,
    },
    {.name = NULL},
};

const struct bench_case bench_case_timers = {
    .name = "timers",
    .summary = "a timeout per connection: starting it afresh, and finding who was idle too long",
    .run = run,
    .variant = variant,
    .connections_max = CONNECTIONS_MAX,
    .normal = {.rounds = 11, .seconds = 0.02, .connections = "1000,10000,100000,1000000"},
    .quick = {.rounds = 9, .seconds = 0.003, .connections = "1000,100000"},
    .full = {.rounds = 25, .seconds = 0.04, .connections = "1000,10000,100000,300000,1000000"},
    .plots = plots,
};
