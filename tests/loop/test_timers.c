/*
 * Timers: the wheel against a model that keeps every timer's time in an array and looks at all of
 * them; and what the header promises beside: never early, bounded turns, short waits, no system
 * call, any timer stopped or started from any callback.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include <time.h>

#include "loop/clock.h"
#include "support/faults.h"

#define DAY_MS (UINT64_C(24) * 60 * 60 * 1000)
#define NEVER UINT64_MAX

/** Some time that is not round in any level of a wheel. */
#define BEGIN_MS UINT64_C(123456789)

static void
loop_begin(struct berth_loop **loop, const char *engine, uint32_t events_max)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.events_max = events_max;
    clock_begin(BEGIN_MS);
    ck_assert_int_eq(berth_loop_create(loop, &options), 0);
}

static void
loop_end(struct berth_loop *loop)
{
    ck_assert_int_eq(berth_loop_destroy(loop), 0);
    clock_end();
}

static int
turn(struct berth_loop *loop)
{
    const int handled = berth_loop_turn(loop, -1);
    ck_assert_int_ge(handled, 0);
    return handled;
}

/* ---- against a model ------------------------------------------------------------------------ */

#define TIMERS 120

struct model {
    struct berth_loop *loop;
    struct berth_timer timers[TIMERS];
    uint64_t due_ms[TIMERS]; /**< NEVER: it does not run */
    uint64_t order[TIMERS];  /**< of starting */
    uint32_t repeat_ms[TIMERS];
    uint64_t started_in[TIMERS]; /**< the turn it was started in, by a callback */
    uint64_t orders;
    uint64_t random;
    uint64_t turns;
    uint64_t last_due_ms, last_order; /**< of who ran last in this turn */
    unsigned ran, ran_total;
    uint32_t events_max;
    int in_turn;
};

/** Small numbers often, big ones sometimes: of up to `bits` bits. */
static uint64_t
some(struct model *model, unsigned bits)
{
    const uint64_t width = test_random(&model->random) % (bits + 1);
    return width == 0 ? 0 : test_random(&model->random) >> (64 - width);
}

static void
model_start(struct model *model, unsigned i)
{
    const uint32_t delay_ms = (uint32_t)some(model, test_random(&model->random) % 8 ? 12 : 32);
    const uint32_t repeat_ms = test_random(&model->random) % 4 == 0 ? (uint32_t)some(model, 16) : 0;
    ck_assert_int_eq(berth_timer_start(model->loop, &model->timers[i], delay_ms, repeat_ms), 0);
    ck_assert(berth_timer_running(&model->timers[i]));
    model->due_ms[i] = clock_now_ms + delay_ms + (delay_ms > 0);
    model->repeat_ms[i] = repeat_ms;
    model->order[i] = ++model->orders;
    model->started_in[i] = model->in_turn ? model->turns : 0;
}

static void
model_stop(struct model *model, unsigned i)
{
    ck_assert_int_eq(berth_timer_stop(&model->timers[i]), model->due_ms[i] != NEVER);
    ck_assert(!berth_timer_running(&model->timers[i]));
    model->due_ms[i] = NEVER;
}

static void
model_meddle(struct model *model, unsigned times)
{
    for (unsigned n = 0; n < times; n++) {
        const unsigned i = (unsigned)(test_random(&model->random) % TIMERS);
        if (test_random(&model->random) % 3 == 0)
            model_stop(model, i);
        else
            model_start(model, i);
    }
}

static void
on_model_timer(struct berth_loop *loop, struct berth_timer *timer, void *context)
{
    struct model *model = context;
    const unsigned i = (unsigned)(timer - model->timers);
    ck_assert_ptr_eq(loop, model->loop);
    ck_assert_uint_lt(i, TIMERS);
    ck_assert_uint_eq(berth_loop_now_ms(loop), clock_now_ms);
    ck_assert_msg(model->due_ms[i] != NEVER, "timer %u was stopped", i);
    ck_assert_msg(model->due_ms[i] <= clock_now_ms, "timer %u is early", i);
    ck_assert_msg(model->started_in[i] != model->turns, "timer %u has run in this turn", i);
    ck_assert_msg(
        model->due_ms[i] > model->last_due_ms ||
            (model->due_ms[i] == model->last_due_ms && model->order[i] > model->last_order),
        "timer %u is out of order", i);
    model->last_due_ms = model->due_ms[i];
    model->last_order = model->order[i];
    model->ran++;
    ck_assert_uint_le(model->ran, model->events_max);
    if (model->repeat_ms[i] == 0) {
        ck_assert(!berth_timer_running(timer));
        model->due_ms[i] = NEVER;
    } else {
        ck_assert(berth_timer_running(timer));
        while (model->due_ms[i] <= clock_now_ms) {
            const uint64_t behind = (clock_now_ms - model->due_ms[i]) / model->repeat_ms[i];
            model->due_ms[i] += (behind + 1) * model->repeat_ms[i];
        }
        model->order[i] = ++model->orders;
        model->started_in[i] = model->turns;
    }
    model_meddle(model, (unsigned)(test_random(&model->random) % 4));
    if (test_random(&model->random) % 4 == 0)
        model_start(model, i);
}

/** The earliest of those that run; NEVER if none does. */
static uint64_t
model_first(const struct model *model, unsigned *due)
{
    uint64_t first_ms = NEVER;
    *due = 0;
    for (unsigned i = 0; i < TIMERS; i++) {
        if (model->due_ms[i] < first_ms)
            first_ms = model->due_ms[i];
        *due += model->due_ms[i] <= clock_now_ms;
    }
    return first_ms;
}

static void
model_turn(struct model *model)
{
    unsigned due = 0;
    const uint64_t first_ms = model_first(model, &due);
    model->ran = 0;
    model->last_due_ms = model->last_order = 0;
    model->turns++;
    model->in_turn = 1;
    ck_assert_int_ge(turn(model->loop), (int)model->ran);
    model->in_turn = 0;
    model->ran_total += model->ran;
    if (first_ms <= clock_now_ms)
        ck_assert_int_eq(clock_wait_ms, 0);
    else if (first_ms != NEVER)
        ck_assert_uint_le((uint64_t)clock_wait_ms, first_ms - clock_now_ms);
    else
        ck_assert_int_eq(clock_wait_ms, 1000);

    /* Whoever was due has run, was stopped or moved, or stands behind a full turn. */
    unsigned left = 0;
    for (unsigned i = 0; i < TIMERS; i++) {
        left += model->due_ms[i] <= clock_now_ms && model->started_in[i] != model->turns;
        ck_assert_int_eq(berth_timer_running(&model->timers[i]), model->due_ms[i] != NEVER);
    }
    if (left > 0)
        ck_assert_uint_eq(model->ran, model->events_max);
}

static void
compare_with_model(uint32_t events_max, const char *name)
{
    static struct model model;
    const uint64_t rounds = test_rounds("BERTH_TIMER_ROUNDS", test_is_slow() ? 500 : 20000);
    memset(&model, 0, sizeof(model));
    model.random = test_seed(name);
    model.events_max = events_max;
    loop_begin(&model.loop, "poll", events_max);
    for (unsigned i = 0; i < TIMERS; i++) {
        berth_timer_init(&model.timers[i], on_model_timer, &model);
        model.due_ms[i] = NEVER;
    }
    for (uint64_t round = 0; round < rounds; round++) {
        model_meddle(&model, (unsigned)(test_random(&model.random) % 4));
        clock_now_ms += some(&model, test_random(&model.random) % 16 ? 9 : 33);
        model_turn(&model);
    }
    printf("%s: %u timers ran in %llu turns\n", name, model.ran_total, (unsigned long long)rounds);
    ck_assert_uint_gt(model.ran_total, rounds / 4);
    for (unsigned i = 0; i < TIMERS; i++)
        (void)berth_timer_stop(&model.timers[i]);
    loop_end(model.loop);
}

START_TEST(wheel_as_the_model)
{
    compare_with_model(1024, "wheel_as_the_model");
}
END_TEST

START_TEST(wheel_as_the_model_in_short_turns)
{
    compare_with_model(16, "wheel_as_the_model_in_short_turns");
}
END_TEST

/* ---- one by one ----------------------------------------------------------------------------- */

struct count {
    unsigned calls;
    uint64_t last_ms;
    struct berth_timer *other;
    int again; /**< starts itself with no delay */
};

static void
on_count(struct berth_loop *loop, struct berth_timer *timer, void *context)
{
    struct count *count = context;
    count->calls++;
    count->last_ms = berth_loop_now_ms(loop);
    if (count->other != NULL)
        (void)berth_timer_stop(count->other);
    if (count->again)
        ck_assert_int_eq(berth_timer_start(loop, timer, 0, 0), 0);
}

START_TEST(what_is_no_timer)
{
    struct berth_loop *loop = NULL;
    struct berth_timer timer;
    memset(&timer, 0, sizeof(timer));
    loop_begin(&loop, "poll", 16);
    ck_assert(!berth_timer_running(&timer));
    ck_assert_int_eq(berth_timer_start(loop, &timer, 1, 0), -EINVAL); /* nothing to call */
    berth_timer_init(&timer, on_count, NULL);
    ck_assert_int_eq(berth_timer_start(NULL, &timer, 1, 0), -EINVAL);
    ck_assert_int_eq(berth_timer_start(loop, NULL, 1, 0), -EINVAL);
    ck_assert_int_eq(berth_timer_stop(NULL), 0);
    ck_assert_int_eq(berth_timer_stop(&timer), 0);
    ck_assert_uint_eq(berth_loop_now_ms(NULL), 0);
    loop_end(loop);
}
END_TEST

/** The loop was not turned for days, or the machine slept: nobody counts the milliseconds. */
START_TEST(long_suspensions)
{
    struct berth_loop *loop = NULL;
    struct count fast = {0}, slow = {0};
    struct berth_timer every_ms, far;
    loop_begin(&loop, "poll", 1024);
    berth_timer_init(&every_ms, on_count, &fast);
    berth_timer_init(&far, on_count, &slow);
    ck_assert_int_eq(berth_timer_start(loop, &every_ms, 1, 1), 0);
    ck_assert_int_eq(berth_timer_start(loop, &far, UINT32_MAX, 0), 0);
    for (unsigned days = 1; days <= 1000; days++) {
        clock_now_ms += DAY_MS;
        (void)turn(loop);
        ck_assert_uint_eq(fast.calls, days); /* what was missed is not made up for */
        ck_assert_uint_eq(slow.calls, days * DAY_MS > UINT32_MAX);
    }
    clock_now_ms += UINT64_C(1) << 62;
    (void)turn(loop);
    ck_assert_uint_eq(fast.calls, 1001);
    clock_now_ms += 1;
    (void)turn(loop);
    ck_assert_uint_eq(fast.calls, 1002);
    ck_assert_int_eq(berth_timer_stop(&every_ms), 1);
    loop_end(loop);
}
END_TEST

/** More at once than a turn may run, or may move to other levels: all come, in order. */
START_TEST(many_at_once)
{
    enum { MANY = 20000, PER_TURN = 100 };
    static struct berth_timer timers[MANY];
    struct berth_loop *loop = NULL;
    struct count count = {0};
    loop_begin(&loop, "poll", PER_TURN);
    for (unsigned i = 0; i < MANY; i++) {
        berth_timer_init(&timers[i], on_count, &count);
        ck_assert_int_eq(berth_timer_start(loop, &timers[i], 60000 + i % 50, 0), 0);
    }
    clock_now_ms += 60000;
    (void)turn(loop);
    ck_assert_uint_eq(count.calls, 0);
    clock_now_ms += 51;
    unsigned turns = 0, before = 0;
    while (count.calls < MANY && turns < 2 * MANY / PER_TURN) {
        before = count.calls;
        (void)turn(loop);
        turns++;
        ck_assert_uint_le(count.calls - before, PER_TURN);
        ck_assert_int_eq(clock_wait_ms, 0);
    }
    ck_assert_uint_eq(count.calls, MANY);
    (void)turn(loop);
    ck_assert_int_eq(clock_wait_ms, 1000);
    ck_assert_uint_eq(count.calls, MANY);
    loop_end(loop);
}
END_TEST

START_TEST(again_and_again_without_delay)
{
    struct berth_loop *loop = NULL;
    struct count count = {.again = 1};
    struct berth_timer timer;
    loop_begin(&loop, "poll", 1024);
    berth_timer_init(&timer, on_count, &count);
    ck_assert_int_eq(berth_timer_start(loop, &timer, 0, 0), 0);
    for (unsigned turns = 1; turns <= 10; turns++) {
        (void)turn(loop);
        ck_assert_uint_eq(count.calls, turns); /* once per turn, and no turn waits */
        ck_assert_int_eq(clock_wait_ms, 0);
    }
    ck_assert_int_eq(berth_timer_stop(&timer), 1);
    loop_end(loop);
}
END_TEST

/** Due in the same turn, and stopped by one that ran before. */
START_TEST(stopped_at_the_last_moment)
{
    struct berth_loop *loop = NULL;
    struct count counts[3] = {{0}, {0}, {0}};
    struct berth_timer timers[3];
    loop_begin(&loop, "poll", 1024);
    for (unsigned i = 0; i < 3; i++) {
        berth_timer_init(&timers[i], on_count, &counts[i]);
        ck_assert_int_eq(berth_timer_start(loop, &timers[i], 5, 7), 0);
    }
    counts[0].other = &timers[1];
    counts[2].other = &timers[2]; /* itself, which repeats */
    clock_now_ms += 6;
    (void)turn(loop);
    clock_now_ms += 7;
    (void)turn(loop);
    ck_assert_uint_eq(counts[0].calls, 2);
    ck_assert_uint_eq(counts[1].calls, 0);
    ck_assert_uint_eq(counts[2].calls, 1);
    ck_assert(!berth_timer_running(&timers[1]) && !berth_timer_running(&timers[2]));
    ck_assert_int_eq(berth_timer_stop(&timers[0]), 1);
    loop_end(loop);
}
END_TEST

/* ---- on every engine ------------------------------------------------------------------------ */

/**
 * A loop that is always woken by its wait alone: each wait ends when it was to end. The timer comes
 * in its very millisecond, and hardly any wait was in vain.
 */
static void
sleep_until_due(struct berth_loop *loop, uint32_t delay_ms)
{
    struct count count = {0};
    struct berth_timer timer;
    const uint64_t due_ms = clock_now_ms + delay_ms + 1;
    unsigned turns = 0;
    berth_timer_init(&timer, on_count, &count);
    ck_assert_int_eq(berth_timer_start(loop, &timer, delay_ms, 0), 0);
    clock_sleeping = 1;
    for (; count.calls == 0 && turns < 5000; turns++)
        (void)turn(loop);
    clock_sleeping = 0;
    ck_assert_uint_eq(count.calls, 1);
    ck_assert_uint_eq(count.last_ms, due_ms);
    ck_assert_uint_le(turns, delay_ms / 1000 + 6); /* no wait is longer than a second */
}

START_TEST(waits_end_in_time)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const uint32_t delays_ms[] = {1, 2, 62, 63, 64, 500, 999, 1000, 5000, 60000, 3600000};
    struct berth_loop *loop = NULL;
    loop_begin(&loop, engine, 1024);
    for (unsigned i = 0; i < sizeof(delays_ms) / sizeof(delays_ms[0]); i++)
        sleep_until_due(loop, delays_ms[i]);
    loop_end(loop);
}
END_TEST

/** Arming a thousand costs a turn no system call, and one look at the clock. */
static unsigned armed;
static struct berth_timer crowd[1000];

static void
on_arm(struct berth_loop *loop, struct berth_timer *timer, void *context)
{
    (void)timer, (void)context;
    const unsigned readings = clock_readings;
    for (unsigned i = 0; i < 1000; i++) {
        ck_assert_int_eq(berth_timer_start(loop, &crowd[i], 1000 + i, 0), 0);
        if (i % 2)
            ck_assert_int_eq(berth_timer_stop(&crowd[i]), 1);
        armed++;
    }
    ck_assert_uint_eq(clock_readings, readings); /* the wheel had asked already */
}

static unsigned
calls_in_a_turn(struct berth_loop *loop)
{
    unsigned calls = 0;
#define CALL_COUNT(name, parameters, arguments, expression) faults_count(#name);
#define CALL_SUM(name, parameters, arguments, expression) calls += faults_calls(#name);
    BERTH_SYS_ROWS(CALL_COUNT)
    ck_assert_int_ge(berth_loop_turn(loop, 0), 0);
    BERTH_SYS_ROWS(CALL_SUM)
    faults_reset();
    return calls;
}

START_TEST(arming_makes_no_call)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop *loop = NULL;
    struct berth_timer first;
    struct count count = {0};
    armed = 0;
    loop_begin(&loop, engine, 1024);
    clock_end();
    ck_assert_int_ge(berth_loop_turn(loop, 0), 0);
    const unsigned calls_idle = calls_in_a_turn(loop);

    for (unsigned i = 0; i < 1000; i++)
        berth_timer_init(&crowd[i], on_count, &count);
    berth_timer_init(&first, on_arm, NULL);
    ck_assert_int_eq(berth_timer_start(loop, &first, 0, 0), 0);
    const unsigned calls_armed = calls_in_a_turn(loop);
    ck_assert_uint_eq(armed, 1000);
    /* The clock, once after the wait: before it, something was known to be due. */
    ck_assert_uint_eq(calls_armed, calls_idle + 1);
    ck_assert_int_eq(berth_loop_destroy(loop), 0);
    ck_assert(!berth_timer_running(&crowd[0]));
}
END_TEST

static int64_t
real_ns(void)
{
    struct timespec now;
    ck_assert_int_eq(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/** With the real clock: not a nanosecond early. */
static void
on_real(struct berth_loop *loop, struct berth_timer *timer, void *context)
{
    (void)loop, (void)timer;
    *(int64_t *)context = real_ns();
}

START_TEST(never_early)
{
    RIG_ENGINE_OR_RETURN(engine);
    enum { COUNT = 24 };
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    struct berth_timer timers[COUNT];
    int64_t from_ns[COUNT], ran_ns[COUNT] = {0};
    rig_options(&options, engine, NULL);
    ck_assert_int_eq(berth_loop_create(&loop, &options), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        berth_timer_init(&timers[i], on_real, &ran_ns[i]);
        from_ns[i] = real_ns();
        ck_assert_int_eq(berth_timer_start(loop, &timers[i], i, 0), 0);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        while (ran_ns[i] == 0)
            ck_assert_int_ge(berth_loop_turn(loop, -1), 0);
        ck_assert_int_ge(ran_ns[i] - from_ns[i], (int64_t)i * 1000000);
    }
    ck_assert_int_eq(berth_loop_destroy(loop), 0);
}
END_TEST

/** A close callback of a loop that is destroyed starts a timer, and one was running before. */
static struct berth_timer late;

static void
start_late(struct berth_conn *conn, int reason)
{
    ck_assert_int_eq(reason, -ECANCELED);
    ck_assert_int_eq(berth_timer_start(berth_conn_loop(conn), &late, 0, 1), 0);
}

START_TEST(forgotten_with_the_loop)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.close = start_late};
    struct berth_loop_options options;
    struct rig rig;
    struct count count = {0};
    struct berth_timer timer;
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &handlers, NULL);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 1, 100);
    berth_timer_init(&timer, on_count, &count);
    berth_timer_init(&late, on_count, &count);
    ck_assert_int_eq(berth_timer_start(rig.loop, &timer, 0, 1), 0);
    ck_assert_int_eq(close(client), 0); /* which nobody has seen yet */
    rig_end(&rig);
    ck_assert_uint_eq(count.calls, 0);
    ck_assert(!berth_timer_running(&timer) && !berth_timer_running(&late));
    ck_assert_int_eq(berth_timer_stop(&timer), 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("timers");
    TCase *tcase = tcase_create("wheel");
    tcase_set_timeout(tcase, 300);
    tcase_add_test(tcase, wheel_as_the_model);
    tcase_add_test(tcase, wheel_as_the_model_in_short_turns);
    tcase_add_test(tcase, what_is_no_timer);
    tcase_add_test(tcase, long_suspensions);
    tcase_add_test(tcase, many_at_once);
    tcase_add_test(tcase, again_and_again_without_delay);
    tcase_add_test(tcase, stopped_at_the_last_moment);
    suite_add_tcase(suite, tcase);
    RIG_ADD(suite, waits_end_in_time);
    RIG_ADD(suite, arming_makes_no_call);
    RIG_ADD(suite, never_early);
    RIG_ADD(suite, forgotten_with_the_loop);
    return test_run(suite);
}
