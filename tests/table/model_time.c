/*
 * The steps of the model that concern time and order: ticks, sweeps, deadlines, walks. The shadow
 * keeps 64-bit times and compares them plainly; the table has 16 bits for each, which is the point.
 *
 * SPDX-License-Identifier: MIT
 */
#include "table/model.h"

#include <stdlib.h>

/** Lists are asked for in pieces this long at most, so that cursors are tried as well. */
#define PIECE_MAX 40u

static uint64_t
age_of(const struct shadow *shadow)
{
    return m.now - shadow->touched;
}

static int
idle_for(const struct shadow *shadow, uint64_t ticks)
{
    return age_of(shadow) >= ticks;
}

static int
deadline_over(const struct shadow *shadow, uint64_t unused)
{
    (void)unused;
    return shadow->deadline != 0 && shadow->deadline <= m.now;
}

/** The next slot, from shadow number `from` on, that a view must list; BERTHS if none. */
static uint32_t
next_due(uint32_t view, uint32_t from, int (*due)(const struct shadow *, uint64_t), uint64_t ticks)
{
    while (from < BERTHS &&
           !(m.shadows[from].live && m.shadows[from].view == view && due(&m.shadows[from], ticks)))
        from++;
    return from;
}

/** A sweep sets ages past the largest one back to it, before they wrap round and look young. */
static void
cap_ages(uint32_t view)
{
    for (uint32_t i = 0; i < BERTHS; i++) {
        struct shadow *shadow = &m.shadows[i];
        if (shadow->live && shadow->view == view && age_of(shadow) > BERTH_TABLE_IDLE_TICKS_MAX)
            shadow->touched = m.now - BERTH_TABLE_IDLE_TICKS_MAX;
    }
}

/** Asks for everything that is due, in pieces, and compares it one by one. `ticks` 0: deadlines. */
static void
list_due(uint32_t view, uint16_t ticks)
{
    int (*const due)(const struct shadow *, uint64_t) = ticks != 0 ? idle_for : deadline_over;
    uint32_t indices[PIECE_MAX];
    uint32_t cursor = 0, expected = 0;
    while (cursor != BERTH_TABLE_INDEX_NONE) {
        const uint32_t room = 1 + random_below(PIECE_MAX);
        const uint32_t count =
            ticks != 0 ? berth_table_sweep(&m.tables[view], ticks, &cursor, indices, room)
                       : berth_table_expired(&m.tables[view], &cursor, indices, room);
        must(count <= room);
        if (cursor != BERTH_TABLE_INDEX_NONE)
            must_eq(count, room); /* it stopped for want of room and nothing else */
        for (uint32_t i = 0; i < count; i++) {
            expected = next_due(view, expected, due, ticks);
            must(expected < BERTHS);
            must_eq(indices[i], m.shadows[expected].index);
            if (ticks == 0)
                m.shadows[expected].deadline = 0;
            expected++;
        }
    }
    must_eq(next_due(view, expected, due, ticks), BERTHS);
    if (ticks != 0)
        cap_ages(view);
}

/** What the rules ask for every 32,767 ticks, so that no age and no deadline wraps round. */
static void
look_at_everything(void)
{
    for (uint32_t view = 0; view < m.views; view++) {
        list_due(view, BERTH_TABLE_IDLE_TICKS_MAX);
        if (m.options.deadlines)
            list_due(view, 0);
    }
    m.swept = m.now;
}

void
op_tick(void)
{
    const uint32_t step =
        random_below(16) == 0 ? random_below(BERTH_TABLE_IDLE_TICKS_MAX) : random_below(40);
    if (m.now + step > m.swept + BERTH_TABLE_IDLE_TICKS_MAX)
        look_at_everything();
    m.now += step;
    for (uint32_t view = 0; view < m.views; view++)
        berth_table_tick_set(&m.tables[view], (uint16_t)m.now);
}

void
op_touch(void)
{
    struct shadow *shadow = &m.shadows[random_below(BERTHS)];
    if (!shadow->live)
        return;
    berth_table_touch(&m.tables[shadow->view], shadow->index);
    shadow->touched = m.now;
}

void
op_sweep(void)
{
    list_due(random_below(m.views), (uint16_t)(1 + random_below(BERTH_TABLE_IDLE_TICKS_MAX)));
}

void
op_deadline(void)
{
    struct shadow *shadow = &m.shadows[random_below(BERTHS)];
    uint16_t ticks = (uint16_t)random_below(BERTH_TABLE_IDLE_TICKS_MAX + 10u);
    if (random_below(16) == 0) /* chance alone would hardly ever hit the time that is 0 */
        ticks = (uint16_t)-m.now;
    const int error = berth_table_deadline_set(&m.tables[shadow->view], shadow->index, ticks);
    if (!m.options.deadlines || !shadow->live || ticks > BERTH_TABLE_IDLE_TICKS_MAX) {
        must_eq(error, -EINVAL);
        return;
    }
    must_eq(error, 0);
    shadow->deadline = ticks == 0 ? 0 : m.now + ticks;
    if (ticks != 0 && (shadow->deadline & 0xffff) == 0)
        shadow->deadline++; /* in 16 bits that would say "none": one tick late is promised */
}

void
op_expired(void)
{
    uint32_t cursor = 0, index = 0;
    if (m.options.deadlines)
        list_due(random_below(m.views), 0);
    else
        must_eq(berth_table_expired(&m.tables[0], &cursor, &index, 1), 0);
}

static int
older_first(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

void
op_oldest(void)
{
    static uint64_t ages[BERTHS];
    static uint32_t indices[BERTHS];
    static unsigned char seen[BERTHS];
    const uint32_t view = random_below(m.views);
    const uint32_t asked = 1 + random_below(random_below(8) == 0 ? BERTHS : 16);
    uint32_t live = 0;
    for (uint32_t i = 0; i < BERTHS; i++)
        if (m.shadows[i].live && m.shadows[i].view == view)
            ages[live++] = age_of(&m.shadows[i]);
    qsort(ages, live, sizeof(ages[0]), older_first);
    memset(seen, 0, sizeof(seen));

    const uint32_t count = berth_table_oldest(&m.tables[view], indices, asked);
    must_eq(count, asked < live ? asked : live);
    for (uint32_t i = 0; i < count; i++) {
        const struct shadow *shadow = shadow_of(indices[i]);
        must(shadow != NULL);
        must(shadow->live && shadow->view == view && !seen[shadow - m.shadows]);
        seen[shadow - m.shadows] = 1;
        must_eq(age_of(shadow), ages[i]); /* slots of one age come in any order */
    }
}

/** The lowest live index that is `from` or more, whoever owns it. */
static uint32_t
live_from(uint32_t from)
{
    for (uint32_t i = 0; i < BERTHS; i++)
        if (m.shadows[i].live && m.shadows[i].index >= from)
            return m.shadows[i].index;
    return BERTH_TABLE_INDEX_NONE;
}

void
op_next_live(void)
{
    uint32_t from = m.shadows[random_below(BERTHS)].index + random_below(3);
    if (random_below(4) == 0)
        from = random_below(2 * m.options.slots_max);
    must_eq(berth_table_next_live(&m.tables[0], from), live_from(from));
}

void
op_walk(void)
{
    uint32_t expected = live_from(0);
    BERTH_TABLE_EACH_LIVE (&m.tables[random_below(m.views)], index) {
        must_eq(index, expected);
        expected = live_from(index + 1);
    }
    must_eq(expected, BERTH_TABLE_INDEX_NONE);
}
