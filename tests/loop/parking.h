/*
 * What the tests of parking share: parking everybody there is, and seeing that nothing is under way
 * afterwards.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_PARKING_H
#define BERTH_TESTS_LOOP_PARKING_H

#include "loop/record.h"

/** Connections of most cases. */
#define CONNS 20

static inline int
can_park(const struct rig *rig)
{
    return strcmp(berth_loop_engine(rig->loop), "uring") == 0;
}

/** Parks whoever can be, which must be `count` connections; on uring only. */
static inline void
park(const struct rig *rig, unsigned count)
{
    const uint64_t before = rig_stats(rig).demotions;
    const unsigned expected = can_park(rig) ? count : 0;
    ck_assert_int_eq(berth_loop_park_idle(rig->loop, 0), (int)expected);
    RIG_UNTIL(rig, rig_stats(rig).demotions == before + expected, TURNS);
    ck_assert_int_eq(berth_loop_park_idle(rig->loop, 0), 0); /* they are */
}

static inline void
turn_some(const struct rig *rig, unsigned turns)
{
    while (turns-- > 0)
        (void)rig_turn(rig, RIG_TURN_MS);
}

/** Nothing is under way: each of some turns waits in vain. */
static inline void
check_quiet(const struct rig *rig)
{
    turn_some(rig, 3);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(rig_turn(rig, RIG_TURN_MS), 0);
}

#endif
