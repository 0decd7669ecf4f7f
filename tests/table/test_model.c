/*
 * The table against a simple model of itself: millions of random operations, of each of which the
 * model knows what the answer must be; now and then every slot, every counter and the table's own
 * checker are compared. Each configuration is a row of one table below.
 *
 * The seed is printed; BERTH_SEED sets it, and BERTH_OPERATIONS how many operations each row gets.
 *
 * SPDX-License-Identifier: MIT
 */
#include "table/model.h"

#include <stdlib.h>

/* Of each configuration; under a checking tool each operation takes up to fifty times as long. */
#define OPERATIONS 500000u
#define OPERATIONS_SLOW 20000u
#define COMPARE_EVERY 5000u

struct model m;

uint32_t
random_below(uint32_t bound)
{
    return (uint32_t)((test_random(&m.random) >> 32) * bound >> 32);
}

static int
compare_index(const void *a, const void *b)
{
    const uint32_t x = ((const struct shadow *)a)->index, y = ((const struct shadow *)b)->index;
    return (x > y) - (x < y);
}

struct shadow *
shadow_of(uint32_t index)
{
    const struct shadow key = {.index = index};
    return bsearch(&key, m.shadows, BERTHS, sizeof(key), compare_index);
}

/* ---- contents ------------------------------------------------------------------------------ */

static int
repeats(const void *memory, uint32_t bytes, uint64_t stamp)
{
    const uint64_t *words = memory;
    for (uint32_t i = 0; i < bytes / 8; i++)
        if (words[i] != stamp)
            return 0;
    return 1;
}

static void
fill(void *memory, uint32_t bytes, uint64_t stamp)
{
    uint64_t *words = memory;
    for (uint32_t i = 0; i < bytes / 8; i++)
        words[i] = stamp;
}

static uint32_t
payload_bytes(void)
{
    return m.options.slot_bytes - BERTH_SLOT_HEADER_BYTES;
}

/** A live slot against its shadow, all of its contents included. */
static void
compare_slot(const struct shadow *shadow)
{
    struct berth_slot *slot = berth_table_slot(&m.tables[0], shadow->index);
    must_eq(slot->index, shadow->index);
    must_eq(slot->generation, shadow->generation);
    must_eq(slot->in_flight, shadow->in_flight);
    must(repeats(berth_slot_payload(slot), payload_bytes(), shadow->stamp));
    if (shadow->cold_written)
        must(repeats(berth_table_cold(&m.tables[0], shadow->index), m.options.cold_bytes,
                     shadow->stamp));
}

static void
compare_all(void)
{
    uint64_t live = 0;
    for (uint32_t i = 0; i < BERTHS; i++) {
        live += m.shadows[i].live;
        if (m.shadows[i].live)
            compare_slot(&m.shadows[i]);
        else
            must(berth_table_cold(&m.tables[0], m.shadows[i].index) == NULL);
    }
    uint64_t counted = 0;
    for (uint32_t i = 0; i < BERTHS; i++)
        counted += m.shadows[i].live && m.shadows[i].given;
    for (uint32_t view = 0; view < m.views; view++) {
        struct berth_table_stats stats;
        const char *why = "unset";
        if (berth_table_verify(&m.tables[view], &why) != 0)
            ck_abort_msg("verify: %s", why);
        berth_table_stats_get(&m.tables[view], &stats);
        must(memcmp(&stats, &m.stats[view], sizeof(stats)) == 0);
        counted += berth_table_live_count(&m.tables[view]);
    }
    must_eq(counted, live);
}

/* ---- claim, release, find ------------------------------------------------------------------ */

static void
live_more(uint32_t view)
{
    struct berth_table_stats *stats = &m.stats[view];
    if (++stats->live > stats->live_max)
        stats->live_max = stats->live;
}

/** What a claim must have left, in table and shadow. */
static void
claimed(uint32_t view, struct shadow *shadow, struct berth_slot *slot)
{
    static const unsigned char zero[256];
    if (shadow->generation == 0)
        shadow->generation = 1;
    shadow->live = 1;
    shadow->view = (uint8_t)view;
    shadow->given = shadow->cold_written = 0;
    shadow->in_flight = 0;
    shadow->touched = m.now;
    shadow->deadline = 0;
    shadow->stamp = test_random(&m.random) | 1;
    m.stats[view].claimed++;
    live_more(view);

    must(slot == berth_table_slot(&m.tables[0], shadow->index));
    must_eq((uintptr_t)slot % BERTH_CACHE_LINE, 0);
    must_eq(slot->generation, shadow->generation);
    must_eq(slot->flags, BERTH_SLOT_LIVE);
    must_eq(slot->index, shadow->index);
    must_eq(slot->class_id | slot->in_flight | slot->state | slot->buffer | slot->queue, 0);
    must_eq(memcmp(berth_slot_payload(slot), zero, payload_bytes()), 0);
    fill(berth_slot_payload(slot), payload_bytes(), shadow->stamp);
    slot->state = (uint32_t)shadow->stamp; /* the driver's: release must clear them */
    slot->class_id = (uint8_t)shadow->stamp;
    slot->flags |= shadow->stamp & 2 ? BERTH_SLOT_CLOSING : 0;
}

static void
op_claim_any(void)
{
    struct berth_slot *slot = NULL;
    const int error = berth_table_claim_any(&m.tables[0], &slot);
    if (m.freed_count == 0 && m.fresh == m.options.slots_max) {
        must_eq(error, -EMFILE);
        m.stats[0].refused_full++;
        return;
    }
    must_eq(error, 0);
    const uint32_t expected = m.freed_count > 0 ? m.freed[--m.freed_count] : m.fresh++;
    must_eq(slot->index, expected);
    claimed(0, shadow_of(expected), slot);
}

static void
op_claim(void)
{
    struct shadow *shadow = &m.shadows[random_below(BERTHS)];
    const uint32_t view = random_below(m.views);
    struct berth_slot *slot = NULL;
    if (random_below(64) == 0) {
        const uint32_t beyond = m.options.slots_max + random_below(1000);
        const int slot_mode = m.options.index_mode == BERTH_INDEX_SLOT;
        must_eq(berth_table_claim(&m.tables[view], beyond, &slot), slot_mode ? -EINVAL : -EMFILE);
        m.stats[view].refused_full += !slot_mode;
    } else if (m.options.index_mode == BERTH_INDEX_SLOT) {
        op_claim_any();
    } else if (shadow->live) {
        must_eq(berth_table_claim(&m.tables[view], shadow->index, &slot), -EEXIST);
        must(slot == NULL);
    } else {
        must_eq(berth_table_claim(&m.tables[view], shadow->index, &slot), 0);
        claimed(view, shadow, slot);
    }
}

static berth_token
token_of(const struct shadow *shadow)
{
    return berth_token_make(shadow->index, shadow->generation, (uint8_t)random_below(256));
}

/** A token of any kind: current, of the future, over, malformed, or nothing but noise. */
static berth_token
random_token(void)
{
    const struct shadow *shadow = &m.shadows[random_below(BERTHS)];
    switch (random_below(16)) {
    case 0:
        return BERTH_TOKEN_NONE;
    case 1:
        return test_random(&m.random);
    case 2:
        return berth_token_make(shadow->index, 0, 0); /* a bare descriptor */
    case 3:
        return token_of(shadow) + (UINT64_C(1) << BERTH_TOKEN_INDEX_BITS);
    case 4:
        return berth_token_make((uint32_t)(test_random(&m.random) >> 40), shadow->generation, 0);
    case 5:
    case 6:
    case 7:
    case 8:
        return m.old[test_random(&m.random) % OLD_TOKENS];
    default:
        return token_of(shadow);
    }
}

/** The shadow that a view must find under a token, or NULL, which is counted as the table must. */
static struct shadow *
expect(uint32_t view, berth_token token)
{
    const uint32_t index = berth_token_index(token), generation = berth_token_generation(token);
    struct shadow *shadow = shadow_of(index);
    const int foreign = shadow != NULL && shadow->live && shadow->view != view;
    if (shadow != NULL && shadow->live && !foreign && shadow->generation == generation)
        return shadow;
    if (generation == 0 || index >= m.options.slots_max || foreign)
        m.stats[view].malformed++;
    else
        m.stats[view].stale++;
    return NULL;
}

static void
op_find(void)
{
    const uint32_t view = random_below(m.views);
    const berth_token token = random_token();
    const struct shadow *shadow = expect(view, token);
    berth_table_prefetch(&m.tables[view], token);
    const struct berth_slot *slot = berth_table_find(&m.tables[view], token);
    if (shadow == NULL) {
        must(slot == NULL);
        return;
    }
    must(slot == berth_table_slot(&m.tables[0], shadow->index));
    must_eq(*(const uint64_t *)(const void *)slot->payload, shadow->stamp);
}

static void
op_release(void)
{
    const uint32_t view = random_below(m.views);
    const berth_token token = random_token();
    struct shadow *shadow = expect(view, token);
    const int error = berth_table_release(&m.tables[view], token);
    if (shadow == NULL || shadow->given) {
        must_eq(error, -ESTALE);
        return;
    }
    if (shadow->in_flight != 0) {
        must_eq(error, -EBUSY);
        compare_slot(shadow);
        return;
    }
    must_eq(error, 0);
    m.old[m.old_count++ % OLD_TOKENS] = token;
    shadow->live = 0;
    shadow->generation++;
    m.stats[view].live--;
    if (m.options.index_mode == BERTH_INDEX_SLOT)
        m.freed[m.freed_count++] = shadow->index;
}

/* ---- what is done to a live slot ----------------------------------------------------------- */

static void
op_begin_or_end(void)
{
    struct shadow *shadow = &m.shadows[random_below(BERTHS)];
    struct berth_slot *slot = berth_table_slot(&m.tables[0], shadow->index);
    if (!shadow->live)
        return;
    if (shadow->in_flight > 0 && random_below(3) != 0) {
        shadow->in_flight--;
        must_eq(berth_slot_end(slot), shadow->in_flight);
    } else if (random_below(4) == 0) {
        must_eq(berth_slot_begin(slot), 0);
        shadow->in_flight++;
    }
}

static void
op_cold(void)
{
    struct shadow *shadow = &m.shadows[random_below(BERTHS)];
    void *cold = berth_table_cold(&m.tables[0], shadow->index);
    if (!shadow->live || m.options.cold_bytes == 0) {
        must(cold == NULL);
        return;
    }
    must(repeats(cold, m.options.cold_bytes, shadow->cold_written ? shadow->stamp : 0));
    fill(cold, m.options.cold_bytes, shadow->stamp);
    shadow->cold_written = 1;
}

static void
op_give(void)
{
    const uint32_t view = random_below(m.views), other = 1 - view;
    const berth_token token = random_token();
    if (m.views == 1) {
        must_eq(berth_table_give(&m.tables[0], token, 2), -EINVAL);
        return;
    }
    struct shadow *shadow = expect(view, token);
    const int error = berth_table_give(&m.tables[view], token, (uint8_t)(1 + other));
    if (shadow == NULL || shadow->given || shadow->in_flight != 0) {
        must_eq(error, shadow != NULL && !shadow->given ? -EBUSY : -ESTALE);
        return;
    }
    must_eq(error, 0);
    shadow->view = (uint8_t)other;
    shadow->given = 1;
    m.stats[view].live--;
}

static void
op_take(void)
{
    const uint32_t view = random_below(m.views);
    const berth_token token = random_token();
    if (m.views == 1) {
        must_eq(berth_table_take(&m.tables[0], token), -EINVAL);
        return;
    }
    struct shadow *shadow = expect(view, token);
    const int given = shadow != NULL && shadow->given;
    must_eq(berth_table_take(&m.tables[view], token), given ? 0 : -ESTALE);
    if (!given)
        return;
    shadow->given = 0;
    live_more(view);
}

/* ---- the run ------------------------------------------------------------------------------- */

/** What is done and how often: rows of a table, in thousandths. */
static const struct {
    void (*step)(void);
    uint32_t share;
} operations[] = {
    {op_find, 330}, {op_claim, 200},   {op_release, 220}, {op_begin_or_end, 70},
    {op_cold, 40},  {op_touch, 50},    {op_tick, 20},     {op_sweep, 6},
    {op_oldest, 3}, {op_deadline, 30}, {op_expired, 6},   {op_next_live, 10},
    {op_walk, 1},   {op_give, 7},      {op_take, 7},
};

static void
one_operation(void)
{
    uint32_t at = random_below(1000);
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        if (at < operations[i].share) {
            operations[i].step();
            return;
        }
        at -= operations[i].share;
    }
    ck_abort_msg("the shares do not add up to 1000");
}

/** Fifteen runs of 64 neighbours at places where something begins or ends, the rest anywhere. */
static void
choose_indices(void)
{
    const uint32_t max = m.options.slots_max;
    const uint32_t chunk = BERTH_TABLE_CHUNK_BYTES / m.options.slot_bytes;
    const uint32_t from[16] = {0,        64,        4096 - 32,     chunk - 32,
                               max - 64, max - 192, 2 * chunk - 1, max / 2 - 7};
    const int all = max == BERTHS;
    for (uint32_t i = 0; i < BERTHS; i++) {
        const uint32_t run = i / 64;
        const uint32_t start = run < 8 ? from[run] : 20000 + run * 3777;
        m.shadows[i].index = all ? i : start + i % 64;
    }
    qsort(m.shadows, BERTHS, sizeof(m.shadows[0]), compare_index);
    for (uint32_t i = 1; i < BERTHS; i++)
        must(m.shadows[i - 1].index < m.shadows[i].index);
    must(m.shadows[BERTHS - 1].index < max);
}

struct configuration {
    const char *name;
    enum berth_index_mode mode;
    uint32_t slots_max, slot_bytes, cold_bytes;
    int deadlines, shared;
    enum berth_huge_pages huge_pages;
};

static const struct configuration configurations[] = {
    {"descriptors", BERTH_INDEX_FD, 1u << 20, 64, 0, 0, 0, BERTH_HUGE_AUTO},
    {"small", BERTH_INDEX_FD, 1024, 64, 16, 1, 0, BERTH_HUGE_NEVER},
    {"two lines", BERTH_INDEX_FD, 1u << 17, 128, 40, 1, 0, BERTH_HUGE_NEVER},
    {"direct", BERTH_INDEX_DIRECT, 1u << 20, 256, 136, 0, 0, BERTH_HUGE_NEVER},
    {"slots", BERTH_INDEX_SLOT, 1024, 64, 8, 1, 0, BERTH_HUGE_AUTO},
    {"slots, wide", BERTH_INDEX_SLOT, 1024, 256, 4096, 0, 0, BERTH_HUGE_NEVER},
    {"shared", BERTH_INDEX_FD, 1u << 20, 64, 24, 1, 1, BERTH_HUGE_NEVER},
};
#define CONFIGURATIONS ((int)(sizeof(configurations) / sizeof(configurations[0])))

static void
model_begin(const struct configuration *row)
{
    memset(&m, 0, sizeof(m));
    m.random = test_seed(row->name);
    berth_table_options_init(&m.options);
    m.options.index_mode = row->mode;
    m.options.slots_max = row->slots_max;
    m.options.slot_bytes = row->slot_bytes;
    m.options.cold_bytes = row->cold_bytes;
    m.options.deadlines = row->deadlines;
    m.options.shared = row->shared;
    m.options.huge_pages = row->huge_pages;
    m.views = row->shared ? VIEWS : 1;
    must_eq(berth_table_init(&m.tables[0], &m.options), 0);
    must_eq(berth_table_slots_max(&m.tables[0]), row->slots_max);
    if (row->shared)
        must_eq(berth_table_attach(&m.tables[1], &m.tables[0], 2), 0);
    choose_indices();
}

START_TEST(table_agrees_with_its_model)
{
    const uint64_t usual = test_is_slow() ? OPERATIONS_SLOW : OPERATIONS;
    const uint64_t rounds = test_rounds("BERTH_OPERATIONS", usual);
    model_begin(&configurations[_i]);
    for (uint64_t i = 0; i < rounds; i++) {
        one_operation();
        if (i % COMPARE_EVERY == 0)
            compare_all();
    }
    compare_all();
    must(m.old_count > 0); /* slots were used again, or nothing was tried */
    if (m.views > 1)
        berth_table_fini(&m.tables[1]);
    berth_table_fini(&m.tables[0]);
}
END_TEST

int
main(void)
{
    TCase *tests = tcase_create("model");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, table_agrees_with_its_model, 0, CONFIGURATIONS);
    Suite *suite = suite_create("table model");
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
