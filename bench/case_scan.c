/*
 * Case `scan`: going through all connections that are live, when few or many of the 2^20 possible
 * ones are: berth's two-level bitmap against a flat bitmap, all slots in turn, an array of pointers
 * by descriptor (libuv's watchers), a linked list of objects, and a packed array of pointers (the
 * least there can be, for who keeps one packed). Once only to list them, once to read a word of
 * each.
 *
 * What it cannot show: pass follows pass, so what fits a cache is found there; a server that scans
 * once a second finds it cold. Nor what keeping each structure up to date costs: see `table`.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include <berth.h>

#include "bench.h"
#include "machine.h"
#include "random.h"

#define SLOTS BERTH_TABLE_SLOTS_DEFAULT

/** Table, arrays, and as many objects as slots: with room to spare. */
#define MEMORY_BYTES (UINT64_C(320) << 20)

/** A pass that is short is repeated until so many live slots have been seen, between two clocks. */
#define LIVE_BETWEEN_CLOCKS 16384u

/** A connection of its own on the heap: one line, like a slot. */
struct object {
    TAILQ_ENTRY(object) link;
    uint64_t index;
    unsigned char rest[40];
};

TAILQ_HEAD(objects, object);

/** What a scan has found: enough to tell that it has found all of them and nothing else. */
struct found {
    uint64_t count;
    uint64_t sum; /**< of the indices, or of the addresses */
};

static struct {
    struct berth_table table;
    uint64_t *bitmap;
    struct object **by_index; /**< NULL where nothing is live */
    struct object **packed;   /**< `live` of them, in random order */
    struct objects list;      /**< in the order of `packed` */
    uint32_t *order;          /**< every index once, in random order */
    uint32_t live;
    struct found indices, addresses; /**< what is to be found */
    bool wrong;
} on;

/* ---- scans: `visit` says whether to read a word of each as well ---------------------------------
 */

#define SCAN static inline __attribute__((always_inline)) struct found

SCAN
scan_berth(bool visit)
{
    struct found found = {0, 0};
    BERTH_TABLE_EACH_LIVE (&on.table, index) {
        uint64_t value = index;
        if (visit)
            memcpy(&value, berth_slot_payload(berth_table_slot(&on.table, index)), sizeof value);
        found.count++;
        found.sum += value;
    }
    return found;
}

SCAN
scan_bitmap(bool visit)
{
    struct found found = {0, 0};
    for (uint32_t word = 0; word < SLOTS / 64; word++) {
        for (uint64_t bits = on.bitmap[word]; bits != 0; bits &= bits - 1) {
            const uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(bits);
            uint64_t value = index;
            if (visit)
                memcpy(&value, berth_slot_payload(berth_table_slot(&on.table, index)),
                       sizeof value);
            found.count++;
            found.sum += value;
        }
    }
    return found;
}

SCAN
scan_slots(bool visit)
{
    struct found found = {0, 0};
    for (uint32_t index = 0; index < SLOTS; index++) {
        struct berth_slot *slot = berth_table_slot(&on.table, index);
        if (!(slot->flags & BERTH_SLOT_LIVE))
            continue;
        uint64_t value = index;
        if (visit)
            memcpy(&value, berth_slot_payload(slot), sizeof value);
        found.count++;
        found.sum += value;
    }
    return found;
}

SCAN
scan_pointers(bool visit)
{
    struct found found = {0, 0};
    for (uint32_t index = 0; index < SLOTS; index++) {
        const struct object *object = on.by_index[index];
        if (object == NULL)
            continue;
        found.count++;
        found.sum += visit ? object->index : (uintptr_t)object;
    }
    return found;
}

SCAN
scan_list(bool visit)
{
    struct found found = {0, 0};
    /* Written out: analysers that do not see into the macro think `object` is never set. */
    for (const struct object *object = TAILQ_FIRST(&on.list); object != NULL;
         object = TAILQ_NEXT(object, link)) {
        found.count++;
        found.sum += visit ? object->index : (uintptr_t)object;
    }
    return found;
}

SCAN
scan_packed(bool visit)
{
    struct found found = {0, 0};
    for (uint32_t i = 0; i < on.live; i++) {
        const struct object *object = on.packed[i];
        found.count++;
        found.sum += visit ? object->index : (uintptr_t)object;
    }
    return found;
}

static void
expect(const struct found *expected, struct found found)
{
    if (found.count != expected->count || found.sum != expected->sum)
        on.wrong = true;
}

#define PASSES(name, listed)                                                                       \
    static void list_##name(void *context)                                                         \
    {                                                                                              \
        (void)context;                                                                             \
        expect(&(listed), scan_##name(false));                                                     \
    }                                                                                              \
    static void visit_##name(void *context)                                                        \
    {                                                                                              \
        (void)context;                                                                             \
        expect(&on.indices, scan_##name(true));                                                    \
    }

PASSES(berth, on.indices)
PASSES(bitmap, on.indices)
PASSES(slots, on.indices)
PASSES(pointers, on.addresses)
PASSES(list, on.addresses)
PASSES(packed, on.addresses)

static const struct way {
    const char *name;
    void (*list)(void *context);
    void (*visit)(void *context);
    bool whole; /**< looks at all 2^20, however few are live */
} ways[] = {
    {"berth", list_berth, visit_berth, false}, {"bitmap", list_bitmap, visit_bitmap, false},
    {"slots", list_slots, visit_slots, true},  {"pointers", list_pointers, visit_pointers, true},
    {"list", list_list, visit_list, false},    {"packed", list_packed, visit_packed, false},
};
#define WAYS (sizeof ways / sizeof ways[0])

static const char *
variant(unsigned at)
{
    return at < WAYS ? ways[at].name : NULL;
}

/* ---- setting up ---------------------------------------------------------------------------------
 */

/** A table all of whose slots have been used once, as they are after a busy day. */
static int
table_begin(void)
{
    struct berth_slot *slot = NULL;
    int error = berth_table_init(&on.table, NULL);
    if (error == 0 && berth_table_slots_max(&on.table) != SLOTS)
        error = -ENOMEM;
    for (uint32_t i = 0; i < SLOTS && error == 0; i++) {
        error = berth_table_claim(&on.table, i, &slot);
        if (error == 0)
            error = berth_table_release(&on.table, berth_slot_token(slot, 0));
    }
    return error;
}

static int
begin(void)
{
    uint64_t random = RANDOM_SEED;
    TAILQ_INIT(&on.list);
    on.bitmap = calloc(SLOTS / 64, sizeof on.bitmap[0]);
    on.by_index = calloc(SLOTS, sizeof(struct object *));
    on.packed = calloc(SLOTS, sizeof(struct object *));
    on.order = calloc(SLOTS, sizeof on.order[0]);
    if (on.bitmap == NULL || on.by_index == NULL || on.packed == NULL || on.order == NULL)
        return -ENOMEM;
    random_order(on.order, SLOTS, &random);
    return table_begin();
}

static int
add_one(uint32_t index)
{
    struct berth_slot *slot = NULL;
    struct object *object = calloc(1, sizeof *object);
    const int error = object != NULL ? berth_table_claim(&on.table, index, &slot) : -ENOMEM;
    if (error != 0) {
        free(object);
        return error;
    }
    const uint64_t value = index;
    memcpy(berth_slot_payload(slot), &value, sizeof value);
    object->index = value;
    on.bitmap[index / 64] |= UINT64_C(1) << (index % 64);
    on.by_index[index] = object;
    on.packed[on.live++] = object;
    return 0;
}

/** Makes `live` slots live: the first ones, or any. */
static int
populate(uint32_t live, bool dense)
{
    uint64_t random = RANDOM_SEED;
    int error = 0;
    for (uint32_t i = 0; i < live && error == 0; i++)
        error = add_one(dense ? i : on.order[i]);
    on.indices = on.addresses = (struct found){on.live, 0};
    for (uint32_t i = 0; i < on.live; i++) {
        const uint32_t j = random_below(&random, i + 1);
        struct object *object = on.packed[i];
        on.packed[i] = on.packed[j];
        on.packed[j] = object;
        on.indices.sum += object->index;
        on.addresses.sum += (uintptr_t)object;
    }
    for (uint32_t i = 0; i < on.live; i++)
        TAILQ_INSERT_TAIL(&on.list, on.packed[i], link);
    return error;
}

static void
depopulate(void)
{
    TAILQ_INIT(&on.list);
    for (uint32_t i = 0; i < on.live; i++) {
        const uint32_t index = (uint32_t)on.packed[i]->index;
        struct berth_slot *slot = berth_table_slot(&on.table, index);
        berth_table_release(&on.table, berth_slot_token(slot, 0));
        on.bitmap[index / 64] = 0;
        on.by_index[index] = NULL;
        free(on.packed[i]);
    }
    on.live = 0;
}

static void
end(void)
{
    berth_table_fini(&on.table);
    free(on.bitmap);
    free(on.by_index);
    free(on.packed);
    free(on.order);
}

/* ---- the case -----------------------------------------------------------------------------------
 */

static const struct report_column columns[] = {
    {"live", "live of\n2^20", 0},       {"dense", "side by\nside", 0},
    {"us_per_scan", "us\nper scan", 2}, {"ns_per_live", "ns per\nlive one", 2},
    {"ratio", "ratio to\nberth", 2},    BENCH_WORK_COLUMNS,
};
#define COLUMNS (sizeof columns / sizeof columns[0])
#define COLUMNS_OWN (COLUMNS - (BENCH_WORK_METRICS - 1u))

/** All ways twice, to list and to visit, and the control. */
#define SUBJECTS (2 * WAYS + 1)

/** What has been measured, to be sorted into two tables at the end. */
struct results {
    unsigned count;
    struct {
        const char *name;
        bool visit;
        struct estimate values[COLUMNS];
    } rows[4 * WAYS * BENCH_NUMBERS_MAX];
};

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    on.wrong = false;
    const int error = bench_work_measure(bench, subject, metrics);
    if (error == 0 && on.wrong) {
        report_doubt(&bench->report, "%s found other connections than those that are live",
                     subject->name);
        return -EBADMSG;
    }
    return error;
}

static struct bench_work
work_for(const struct way *way, bool visit)
{
    return (struct bench_work){
        .pass = visit ? way->visit : way->list,
        .operations = on.live,
        .passes_at_once = way->whole ? 1 : 1 + LIVE_BETWEEN_CLOCKS / on.live,
    };
}

static void
keep_rows(struct results *results, const struct bench_samples *samples,
          const struct bench_subject *subjects, unsigned count, bool dense)
{
    for (unsigned i = 0; i < count; i++) {
        if (isnan(bench_estimate(samples, i, BENCH_WORK_NS).median))
            continue; /* left out, or interrupted before its turn came */
        const bool visit = subjects[i].parameter != 0;
        /* The first subject of either kind is berth. */
        const unsigned base = visit == (subjects[0].parameter != 0) ? 0 : 1;
        struct estimate *values = results->rows[results->count].values;
        values[0] = estimate_exact(on.live);
        values[1] = estimate_exact(dense);
        values[3] = bench_estimate(samples, i, BENCH_WORK_NS);
        values[2] = estimate_scaled(values[3], on.live / 1e3);
        values[4] = bench_ratio(samples, i, base, BENCH_WORK_NS);
        bench_work_estimates(samples, i, values + COLUMNS_OWN);
        results->rows[results->count].visit = visit;
        results->rows[results->count++].name = subjects[i].name;
    }
}

static void
run_with(struct bench *bench, bool dense, bool controlled, struct results *results)
{
    static struct bench_samples samples;
    struct bench_work works[SUBJECTS];
    struct bench_subject subjects[SUBJECTS];
    unsigned count = 0;
    for (unsigned i = 0; i < 2 * WAYS; i++) {
        const struct way *way = &ways[i / 2];
        const bool visit = i % 2 != 0;
        if (i >= 2 && !bench_wants(bench, way->name)) /* berth is what the others are compared to */
            continue;
        works[count] = work_for(way, visit);
        subjects[count] = (struct bench_subject){
            .name = way->name, .measure = measure, .context = &works[count], .parameter = visit};
        count++;
    }
    const unsigned measured = count;
    if (controlled) {
        subjects[count] = subjects[0];
        subjects[count++].name = "berth again";
    }
    bench_rounds(bench, subjects, count, &samples);
    keep_rows(results, &samples, subjects, measured, dense);
    if (controlled) {
        char name[REPORT_NAME_BYTES];
        snprintf(name, sizeof name, "berth, %u live", on.live);
        report_control(&bench->report, name, bench_ratio(&samples, measured, 0, BENCH_WORK_NS));
    }
}

static void
add_table(struct bench *bench, const struct results *results, const char *name, bool visit)
{
    report_table_begin(&bench->report, name, columns, COLUMNS);
    for (unsigned i = 0; i < results->count; i++) {
        if (results->rows[i].visit == visit)
            report_row(&bench->report, results->rows[i].name, results->rows[i].values);
    }
}

static int
run_all_sizes(struct bench *bench, struct results *results)
{
    const struct bench_numbers *lives = &bench->options.connections;
    int error = 0;
    for (unsigned i = 0; i < 2 * lives->count && error == 0 && !machine_interrupted; i++) {
        const bool dense = i >= lives->count;
        const unsigned at = i % lives->count;
        error = populate(lives->values[at], dense);
        if (error == 0)
            run_with(bench, dense, !dense && (at == 0 || at + 1 == lives->count), results);
        depopulate();
    }
    return error;
}

static int
run(struct bench *bench)
{
    static struct results results;
    const uint64_t available = machine_memory_available_bytes();
    if (available > 0 && available < MEMORY_BYTES) {
        report_note(&bench->report, "%llu MiB of memory are wanted, %llu are available",
                    (unsigned long long)(MEMORY_BYTES >> 20),
                    (unsigned long long)(available >> 20));
        return -ENOMEM;
    }
    int error = begin();
    if (error == 0)
        error = run_all_sizes(bench, &results);
    end();
    if (error != 0)
        report_note(&bench->report, "it ends early: %s", strerror(-error));
    add_table(bench, &results, "scan", false);
    add_table(bench, &results, "scan-visit", true);
    report_note(&bench->report,
                "scan lists the live ones, scan-visit reads a word of each as well; live ones lie "
                "at random among 2^20 slots that have all been used, or side by side; list and "
                "packed are in random order");
    return results.count > 0 ? 0 : error;
}

static const struct report_plot plots[] = {
    {
        .name = "scan",
        .title = "Listing the live ones among 2^20, spread at random: lower is better",
        .table = "scan",
        .x = "live",
        .y = "us_per_scan",
        .x_title = "live connections",
        .y_title = "us per scan",
        .only = "dense",
        .only_value = 0,
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,
    },
    {
        .name = "scan-visit",
        .title = "The same, and a word of each is read: lower is better",
        .table = "scan-visit",
        .x = "live",
        .y = "us_per_scan",
        .x_title = "live connections",
        .y_title = "us per scan",
        .only = "dense",
        .only_value = 0,
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,
    },
    {
        .name = "scan-dense",
        .title = "Listing the live ones among 2^20, side by side: lower is better",
        .table = "scan",
        .x = "live",
        .y = "us_per_scan",
        .x_title = "live connections",
        .y_title = "us per scan",
        .only = "dense",
        .only_value = 1,
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_LOG_Y,
    },
    {.name = NULL},
};

const struct bench_case bench_case_scan = {
    .name = "scan",
    .summary = "going through the live connections, when few or many of 2^20 are",
    .run = run,
    .variant = variant,
    .connections_max = SLOTS,
    .normal = {.rounds = 11, .seconds = 0.02, .connections = "1000,10000,100000,1000000"},
    .quick = {.rounds = 9, .seconds = 0.002, .connections = "1000,100000"},
    .full = {.rounds = 31, .seconds = 0.03, .connections = "100,1000,10000,100000,300000,1000000"},
    .plots = plots,
};
