/*
 * Connections that are closed while the kernel still reads their memory: a peer gets everything
 * that it would have got if the bytes had been copied, however slowly it reads, and a memory that
 * nobody reads comes back all the same. The time is the test's. Every case runs on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/stalled.h"

#include <sys/resource.h>

#include "loop/clock.h"
#include "support/sys_groups.h"

#define BEGIN_MS 1000

#define CLOSE_TIMEOUT_MS 300

/** For so long a peer may take nothing. */
#define PATIENCE_MS 100000

/** Turns that let the kernel say what it has to say. */
static void
turn_some(struct ends *ends)
{
    for (unsigned i = 0; i < 3; i++)
        (void)rig_turn(&ends->rig, 0);
}

/** Time passes, and is noticed meanwhile. */
static void
pass(struct ends *ends, unsigned ms)
{
    for (; ms >= 1000; ms -= 1000) {
        clock_now_ms += 1000;
        turn_some(ends);
    }
    clock_now_ms += ms;
    turn_some(ends);
}

static void
must_be_waiting(const struct ends *ends)
{
    ck_assert_uint_eq(ends->closes, 0);
    ck_assert_uint_lt(ways_wrapped.freed, ways_wrapped.made);
}

/** It is over, and memory is back: the client finds a reset, now or after what it had received. */
static void
must_be_reset(struct ends *ends)
{
    RIG_UNTIL(&ends->rig, (clock_now_ms += 50, ends->closes == 1), TURNS);
    ck_assert_uint_eq(ways_wrapped.freed, ways_wrapped.made);
    ck_assert_int_eq(read_what_is_left(ends), -ECONNRESET);
    ck_assert_uint_eq(rig_stats(&ends->rig).zombies, 0);
}

static void
must_get_all(struct ends *ends)
{
    read_to_the_end(ends, 20000);
    ck_assert_uint_eq(ends->read, ends->queued);
    RIG_UNTIL(&ends->rig, (clock_now_ms += 50, ends->closes == 1), TURNS);
    ck_assert_int_eq(ends->reason, 0);
    ck_assert_uint_eq(ways_wrapped.freed, ways_wrapped.made);
}

/** So few that one that is closing is one too many. */
static intptr_t
few_descriptors(int resource, struct rlimit *limit)
{
    const intptr_t error = sys_direct_getrlimit(resource, limit);
    if (resource == RLIMIT_NOFILE)
        limit->rlim_cur = 7;
    return error;
}

static void
begin_by_the_clock(struct ends *ends, const char *engine)
{
    clock_begin(BEGIN_MS);
    begin_stalled(ends, engine, CLOSE_TIMEOUT_MS);
}

static void
begin_in_a_crowd(struct ends *ends, const char *engine)
{
    berth_sys_getrlimit = few_descriptors;
    begin_by_the_clock(ends, engine);
    berth_sys_getrlimit = sys_direct_getrlimit;
}

static void
end_by_the_clock(struct ends *ends)
{
    end(ends);
    clock_end();
}

START_TEST(close_delivers_to_one_who_reads)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    begin_by_the_clock(&ends, engine);
    ck_assert_int_eq(berth_conn_close(the_conn(&ends)), 0);
    (void)rig_turn(&ends.rig, 0);
    must_get_all(&ends);
    end_by_the_clock(&ends);
}
END_TEST

START_TEST(close_delivers_to_one_who_had_stopped)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int by_both = 0; by_both < 2; by_both++) {
        struct ends ends;
        begin_by_the_clock(&ends, engine);
        if (by_both) {
            ck_assert_int_eq(shutdown(ends.client, SHUT_WR), 0);
            RIG_UNTIL(&ends.rig, ends.eofs == 1, TURNS);
            ck_assert_int_eq(berth_conn_shutdown(the_conn(&ends)), 0);
        } else {
            ck_assert_int_eq(berth_conn_close(the_conn(&ends)), 0);
        }
        turn_some(&ends);
        pass(&ends, PATIENCE_MS - 1000);
        must_be_waiting(&ends);
        must_get_all(&ends);
        end_by_the_clock(&ends);
    }
}
END_TEST

START_TEST(close_gives_up_at_last)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    begin_by_the_clock(&ends, engine);
    ck_assert_int_eq(berth_conn_close(the_conn(&ends)), 0);
    pass(&ends, PATIENCE_MS / 2);
    must_be_waiting(&ends);
    /* Whoever takes something has as much time again. */
    for (size_t read = 0; read < 96 << 10;) {
        const intptr_t got = client_reads(&ends, 16384);
        read += got > 0 ? (size_t)got : 0;
        (void)rig_turn(&ends.rig, 1);
    }
    pass(&ends, PATIENCE_MS - 2000);
    must_be_waiting(&ends);
    pass(&ends, 4000);
    must_be_reset(&ends);
    end_by_the_clock(&ends);
}
END_TEST

START_TEST(in_a_crowd_it_waits_so_long)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    begin_in_a_crowd(&ends, engine);
    ck_assert_int_eq(berth_conn_close(the_conn(&ends)), 0);
    pass(&ends, 100);
    pass(&ends, CLOSE_TIMEOUT_MS - 101);
    must_be_waiting(&ends);
    pass(&ends, 51);
    must_be_reset(&ends);
    ck_assert_uint_lt(clock_now_ms, BEGIN_MS + 2000);
    end_by_the_clock(&ends);
}
END_TEST

START_TEST(in_a_crowd_it_waits_for_one_who_reads_slowly)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    begin_in_a_crowd(&ends, engine);
    ck_assert_int_eq(berth_conn_close(the_conn(&ends)), 0);
    intptr_t got = -EAGAIN;
    /* Some 16 KiB each 60 ms: a second in all, three times close_timeout_ms. */
    for (unsigned i = 0; got != 0 && i < TURNS; i++) {
        (void)rig_turn(&ends.rig, 1);
        pass(&ends, 60);
        for (size_t all = 0; all < 16384; all += (size_t)got) {
            got = client_reads(&ends, 16384 - all);
            ck_assert_msg(got >= 0 || got == -EAGAIN, "read: %s", strerror((int)-got));
            if (got <= 0)
                break;
        }
    }
    ck_assert_int_eq(got, 0);
    ck_assert_uint_eq(ends.read, ends.queued);
    ck_assert_uint_ge(clock_now_ms - BEGIN_MS, 2 * CLOSE_TIMEOUT_MS);
    end_by_the_clock(&ends);
}
END_TEST

/** While the loop is being destroyed nobody else moves the clock. */
static intptr_t
clock_ticks(uint64_t *now_ms)
{
    clock_now_ms += 10;
    return clock_read(now_ms);
}

/** Though it was to be left alone for longer than that takes. */
START_TEST(destroyed_while_it_waits)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    clock_begin(BEGIN_MS);
    begin_stalled(&ends, engine, PATIENCE_MS / 2);
    ck_assert_int_eq(berth_conn_close(the_conn(&ends)), 0);
    pass(&ends, 10000);
    must_be_waiting(&ends);
    berth_sys_clock_ms = clock_ticks;
    ck_assert_int_eq(berth_loop_destroy(ends.rig.loop), 0);
    ck_assert_uint_eq(ends.closes, 1);
    ck_assert_uint_eq(ways_wrapped.freed, ways_wrapped.made);
    ck_assert_int_eq(close(ends.client), 0);
    ck_assert_uint_eq(test_descriptors_open(), ends.rig.descriptors);
    clock_end();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("zerocopy close");
    RIG_ADD(suite, close_delivers_to_one_who_reads);
    RIG_ADD(suite, close_delivers_to_one_who_had_stopped);
    RIG_ADD(suite, close_gives_up_at_last);
    RIG_ADD(suite, in_a_crowd_it_waits_so_long);
    RIG_ADD(suite, in_a_crowd_it_waits_for_one_who_reads_slowly);
    RIG_ADD(suite, destroyed_while_it_waits);
    return test_run(suite);
}
