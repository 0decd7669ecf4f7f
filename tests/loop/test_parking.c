/*
 * Parking: connections that receive nothing are parked after their time and not before, and come
 * back with their first byte; not a byte is lost or reordered, whenever it comes. Engines that post
 * no receives accept the option and park nobody.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_TIME
#ifdef BERTH_HAVE_LIBURING
#define BERTH_SYS_URING
#endif
#include "loop/parking.h"

#include <pthread.h>
#include <sched.h>

#include "loop/loop_internal.h"
#include "os/sys.h"

/** Of the case in which thousands wake up at once: both ends are in this process. */
#define MANY 4000

/** What the clock of the tests says, and how often it was asked. */
static uint64_t now_ms;
static unsigned clock_calls;

static intptr_t
test_clock(uint64_t *result_ms)
{
    clock_calls++;
    *result_ms = now_ms;
    return 0;
}

static void
clock_set_up(void)
{
    now_ms = 1000000;
    clock_calls = 0;
    berth_sys_clock_ms = test_clock;
}

static void
clock_tear_down(void)
{
    berth_sys_clock_ms = sys_direct_clock_ms;
}

/* ---- many connections, each with a sequence of bytes ---------------------------------------- */

static struct {
    struct rig rig;
    int clients[MANY];
    unsigned count;
    unsigned opened, closed, ends;
    uint64_t received;
} w;

/** The payload of a connection: the next byte of its sequence. */
struct sequence {
    unsigned char next;
    unsigned char resets;
};

static int
on_open(struct berth_conn *conn, void *ctx)
{
    (void)conn, (void)ctx;
    w.opened++;
    return 0;
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct sequence *sequence = berth_conn_payload(conn);
    for (unsigned i = 0; i < n; i++)
        for (uint32_t b = 0; b < spans[i].length; b++)
            ck_assert_uint_eq(((const unsigned char *)spans[i].data)[b], sequence->next++);
    w.received += bytes;
}

static void
on_eof(struct berth_conn *conn)
{
    w.ends++;
    (void)berth_conn_close(conn);
}

static void
on_close(struct berth_conn *conn, int reason)
{
    (void)conn, (void)reason;
    w.closed++;
}

static const struct berth_handlers counting = {
    .open = on_open, .data = on_data, .eof = on_eof, .close = on_close};

static void
begin_with(const struct berth_loop_options *options, const struct berth_handlers *handlers,
           unsigned count)
{
    memset(&w, 0, sizeof(w));
    rig_begin(&w.rig, options, handlers, NULL);
    w.count = count;
    for (unsigned i = 0; i < count; i++) {
        w.clients[i] = rig_client(&w.rig);
        if (i % 100 == 99)
            (void)rig_turn(&w.rig, RIG_TURN_MS);
    }
    RIG_UNTIL(&w.rig, w.opened == count, TURNS);
    turn_some(&w.rig, 2);
}

static void
begin(const char *engine, unsigned count)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    begin_with(&options, &counting, count);
}

static void
finish(void)
{
    if (w.closed < w.opened)
        rig_close_all(&w.rig, w.clients, w.count);
    ck_assert_uint_eq(w.closed, w.opened);
    ck_assert_uint_eq(rig_stats(&w.rig).zombies, 0);
    ck_assert_uint_eq(rig_stats(&w.rig).stale, 0);
    rig_end(&w.rig);
}

static void
write_byte(unsigned client, unsigned char byte)
{
    rig_write(w.clients[client], &byte, 1);
}

/* ---- when ----------------------------------------------------------------------------------- */

/** Lets `ms` pass, in which the first client sends a byte each 200 ms. */
static void
let_pass(unsigned ms, unsigned char *next)
{
    for (unsigned passed = 0; passed < ms; passed += 50) {
        now_ms += 50;
        if (passed % 200 == 0) {
            const uint64_t before = w.received;
            write_byte(0, (*next)++);
            RIG_UNTIL(&w.rig, w.received == before + 1, TURNS);
        } else {
            (void)rig_turn(&w.rig, 0);
        }
    }
}

START_TEST(after_its_time)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    unsigned char next = 0;
    rig_options(&options, engine, NULL);
    ck_assert_uint_eq(options.idle_park_ms, 10000);
    options.idle_park_ms = 2000;
    begin_with(&options, &counting, CONNS);
    let_pass(1800, &next);
    ck_assert_uint_eq(rig_stats(&w.rig).demotions, 0);
    let_pass(2700, &next); /* twice the time, and some for going round */
    const unsigned idle = can_park(&w.rig) ? CONNS - 1 : 0;
    ck_assert_uint_eq(rig_stats(&w.rig).demotions, idle);
    let_pass(10000, &next);
    ck_assert_uint_eq(rig_stats(&w.rig).demotions, idle);
    ck_assert_uint_eq(rig_stats(&w.rig).promotions, 0);

    /* When the last one is parked too there is nothing to look for, and not even the time is asked
     * for; a newcomer after a long time is not taken for an old one. */
    for (int i = 0; i < 90; i++) {
        now_ms += 50;
        (void)rig_turn(&w.rig, 0);
    }
    ck_assert_uint_eq(rig_stats(&w.rig).demotions, idle > 0 ? CONNS : 0);
    check_quiet(&w.rig);
    clock_calls = 0;
    const uint64_t calls_before = rig_stats(&w.rig).syscalls;
    turn_some(&w.rig, 10);
    ck_assert_uint_eq(clock_calls, 0);
    ck_assert_uint_eq(rig_stats(&w.rig).syscalls, calls_before + 10);
    now_ms += 5000000;
    const int newcomer = rig_client(&w.rig);
    RIG_UNTIL(&w.rig, w.opened == CONNS + 1, TURNS);
    for (int i = 0; i < 36; i++) {
        now_ms += 50;
        (void)rig_turn(&w.rig, 0);
    }
    ck_assert_uint_eq(rig_stats(&w.rig).demotions, idle > 0 ? CONNS : 0);
    ck_assert_int_eq(close(newcomer), 0);
    RIG_UNTIL(&w.rig, w.closed == 1, TURNS);

    /* Whoever has come back is parked again after its time. */
    const uint64_t before = w.received;
    write_byte(1, 0);
    RIG_UNTIL(&w.rig, w.received == before + 1, TURNS);
    for (int i = 0; i < 90; i++) {
        now_ms += 50;
        (void)rig_turn(&w.rig, 0);
    }
    ck_assert_uint_eq(rig_stats(&w.rig).demotions, idle > 0 ? CONNS + 1 : 0);
    finish();
}
END_TEST

START_TEST(never_if_not_wanted)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    rig_options(&options, engine, NULL);
    static const uint32_t wrong[] = {1, 999, 3600001, UINT32_MAX};
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        options.idle_park_ms = wrong[i];
        ck_assert_int_eq(berth_loop_create(&loop, &options), -EINVAL);
    }
    options.idle_park_ms = 0;
    begin_with(&options, &counting, CONNS);
    for (int i = 0; i < 100; i++) {
        now_ms += 1000;
        (void)rig_turn(&w.rig, 0);
    }
    ck_assert_uint_eq(rig_stats(&w.rig).demotions, 0);

    /* But on request, with idleness counted from the first look. */
    const unsigned all = can_park(&w.rig) ? CONNS : 0;
    ck_assert_int_eq(berth_loop_park_idle(w.rig.loop, 5000), 0);
    now_ms += 4000;
    ck_assert_int_eq(berth_loop_park_idle(w.rig.loop, 5000), 0);
    write_byte(0, 0);
    RIG_UNTIL(&w.rig, w.received == 1, TURNS);
    now_ms += 1100;
    ck_assert_int_eq(berth_loop_park_idle(w.rig.loop, 5000), (int)(all > 0 ? all - 1 : 0));
    ck_assert_int_eq(berth_loop_park_idle(w.rig.loop, 3600001), -EINVAL);
    ck_assert_int_eq(berth_loop_park_idle(NULL, 0), -EINVAL);
    turn_some(&w.rig, 5);
    finish();
}
END_TEST

/** Nothing has been posted before the first turn, and nothing is parked that has not opened. */
START_TEST(before_the_first_turn)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    memset(&w, 0, sizeof(w));
    rig_begin(&w.rig, &options, &counting, NULL);
    int pair[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ck_assert_int_eq(berth_adopt(w.rig.loop, pair[1], &counting, NULL, NULL), 0);
    ck_assert_int_eq(berth_loop_park_idle(w.rig.loop, 0), 0);
    RIG_UNTIL(&w.rig, w.opened == 1, TURNS);
    park(&w.rig, 1);
    w.clients[0] = pair[0];
    w.count = 1;
    write_byte(0, 0);
    RIG_UNTIL(&w.rig, w.received == 1, TURNS);
    finish();
}
END_TEST

/* ---- coming back ---------------------------------------------------------------------------- */

START_TEST(first_byte_brings_it_back)
{
    RIG_ENGINE_OR_RETURN(engine);
    begin(engine, CONNS);
    for (unsigned char round = 0; round < 10; round++) {
        park(&w.rig, CONNS);
        for (unsigned i = 0; i < CONNS; i++)
            write_byte(i, (unsigned char)(2 * round));
        RIG_UNTIL(&w.rig, w.received == CONNS * (2u * round + 1), TURNS);
        for (unsigned i = 0; i < CONNS; i++)
            write_byte(i, (unsigned char)(2 * round + 1));
        RIG_UNTIL(&w.rig, w.received == CONNS * (2u * round + 2), TURNS);
        check_quiet(&w.rig);
    }
    ck_assert_uint_eq(rig_stats(&w.rig).promotions, rig_stats(&w.rig).demotions);
    finish();
}
END_TEST

/** The ring and the pool have far fewer buffers than there are connections that want one. */
START_TEST(all_come_back_at_once)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    const unsigned count = test_is_slow() ? MANY / 20 : MANY;
    begin_with(&options, &counting, count);
    for (unsigned char round = 0; round < 2; round++) {
        park(&w.rig, count);
        for (unsigned i = 0; i < count; i++)
            write_byte(i, round);
        RIG_UNTIL(&w.rig, w.received == (round + 1u) * count, TURNS);
    }
    ck_assert_uint_eq(rig_stats(&w.rig).promotions, can_park(&w.rig) ? 2 * count : 0);
    check_quiet(&w.rig);
    finish();
}
END_TEST

static struct berth_lease kept[2048];
static unsigned kept_count;

static void
keep_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct berth_pool *pool = berth_loop_pool(berth_conn_loop(conn));
    for (unsigned i = 0; i < n; i++)
        ck_assert_int_eq(berth_retain(pool, &spans[i], 0, spans[i].length, 0, &kept[kept_count++]),
                         0);
    w.received += bytes;
}

static void
let_go(void)
{
    while (kept_count > 0)
        ck_assert_int_eq(berth_release(berth_loop_pool(w.rig.loop), kept[--kept_count]), 0);
}

/** Who finds no buffer when it comes back waits for one in the queue, like everybody. */
START_TEST(back_without_a_buffer)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_pool_options pool;
    struct berth_loop_options options;
    struct berth_handlers keeping = counting;
    keeping.data = keep_data;
    berth_pool_options_init(&pool);
    pool.bytes_max = 8 << 20;
    for (int i = 0; i < BERTH_CLASS_COUNT; i++)
        pool.class_bytes_max[i] = 2 << 20;
    rig_options(&options, engine, &pool);
    options.receive_buffers = 16;
    begin_with(&options, &keeping, 2 * CONNS);
    park(&w.rig, 2 * CONNS);
    uint64_t before;
    do { /* until the first one has to wait */
        before = w.received;
        rig_flood(w.clients[0]);
        turn_some(&w.rig, 3);
    } while (w.received > before);
    const uint64_t starved = rig_stats(&w.rig).starved;
    ck_assert_uint_gt(starved, 0);
    for (unsigned i = 1; i < CONNS; i++)
        write_byte(i, 0);
    RIG_UNTIL(&w.rig, rig_stats(&w.rig).starved == starved + CONNS - 1, TURNS);
    ck_assert_uint_eq(w.received, before);
    /* Waiting for a buffer is not idleness; and it must not spin. */
    ck_assert_int_eq(berth_loop_park_idle(w.rig.loop, 0), 0);
    const uint64_t calls = rig_stats(&w.rig).syscalls;
    turn_some(&w.rig, 20);
    ck_assert_uint_le(rig_stats(&w.rig).syscalls - calls, 100);

    rig_reset(w.clients[0]);
    w.clients[0] = w.clients[--w.count];
    before = w.received;
    let_go();
    for (unsigned turn = 0; w.received < before + CONNS - 1 && turn < TURNS; turn++) {
        (void)rig_turn(&w.rig, RIG_TURN_MS);
        let_go();
    }
    ck_assert_uint_ge(w.received, before + CONNS - 1);
    rig_close_all(&w.rig, w.clients, w.count);
    let_go();
    finish();
}
END_TEST

/* ---- racing --------------------------------------------------------------------------------- */

/** A byte more in every sequence, for so many rounds; from another thread, at any moment. */
struct racer {
    uint64_t random;
    unsigned rounds;
    _Atomic unsigned done;
};

static void *
race(void *context)
{
    struct racer *racer = context;
    for (unsigned round = 0; round < racer->rounds; round++) {
        for (unsigned i = 0; i < w.count; i++) {
            const unsigned char byte = (unsigned char)round;
            if (send(w.clients[i], &byte, 1, MSG_NOSIGNAL) != 1)
                return NULL;
        }
        for (uint64_t pause = test_random(&racer->random) % 8; pause > 0; pause--)
            (void)sched_yield();
    }
    racer->done = 1;
    return NULL;
}

START_TEST(data_races_with_the_cancel)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct racer racer = {.random = test_seed(engine), .rounds = test_is_slow() ? 200 : 3000};
    uint64_t random = racer.random ^ 1, parked = 0;
    pthread_t thread;
    begin(engine, CONNS);
    ck_assert_int_eq(pthread_create(&thread, NULL, race, &racer), 0);
    const uint64_t expected = (uint64_t)racer.rounds * CONNS;
    for (unsigned idle = 0; w.received < expected && idle < TURNS;) {
        const uint64_t before = w.received;
        if (test_random(&random) % 3 != 0) {
            const int count = berth_loop_park_idle(w.rig.loop, 0);
            ck_assert_int_ge(count, 0);
            parked += (uint64_t)count;
        }
        (void)rig_turn(&w.rig, racer.done ? 1 : (int)(test_random(&random) % 2));
        idle = w.received == before && racer.done ? idle + 1 : 0;
    }
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_uint_eq(racer.done, 1);
    ck_assert_uint_eq(w.received, expected);
    const struct berth_loop_stats stats = rig_stats(&w.rig);
    printf("%s: %llu parked, %llu demotions, %llu promotions\n", engine, (unsigned long long)parked,
           (unsigned long long)stats.demotions, (unsigned long long)stats.promotions);
    ck_assert_uint_le(stats.demotions, parked);
    ck_assert_uint_le(stats.promotions, stats.demotions);
    if (can_park(&w.rig))
        ck_assert_uint_gt(stats.promotions, 0);
    finish();
}
END_TEST

/* ---- a kernel that refuses ------------------------------------------------------------------ */

#ifdef BERTH_HAVE_LIBURING

static unsigned refused_op, refusals;

/** Makes what is submitted with that operation in its token something that no kernel knows. */
static intptr_t
refusing_wait(struct io_uring *ring, struct io_uring_cqe **completion, unsigned count,
              struct __kernel_timespec *timeout)
{
    const unsigned mask = *ring->sq.kring_mask;
    for (unsigned at = ring->sq.sqe_head; at != ring->sq.sqe_tail; at++) {
        struct io_uring_sqe *submission = &ring->sq.sqes[at & mask];
        if (berth_token_op(submission->user_data) == refused_op) {
            submission->opcode = UINT8_MAX;
            refusals++;
        }
    }
    return sys_direct_uring_wait(ring, completion, count, timeout);
}

/** Then the receive stays posted, or is posted again, and nothing goes round in circles. */
START_TEST(refused)
{
    const char *const engine = "uring";
    static const unsigned ops[] = {OP_PARK, OP_PARKED};
    refused_op = ops[_i];
    refusals = 0;
    if (!rig_has(engine))
        return;
    begin(engine, CONNS);
    berth_sys_uring_wait = refusing_wait;
    for (unsigned char round = 0; round < 3; round++) {
        ck_assert_int_eq(berth_loop_park_idle(w.rig.loop, 0), CONNS);
        check_quiet(&w.rig);
        ck_assert_uint_eq(refusals, (round + 1u) * CONNS);
        ck_assert_uint_eq(rig_stats(&w.rig).promotions, 0);
        for (unsigned i = 0; i < CONNS; i++)
            write_byte(i, round);
        RIG_UNTIL(&w.rig, w.received == (round + 1u) * CONNS, TURNS);
        check_quiet(&w.rig);
    }
    berth_sys_uring_wait = sys_direct_uring_wait;
    park(&w.rig, CONNS);
    finish();
}
END_TEST

#endif

int
main(void)
{
    Suite *suite = suite_create("loop parking");
    RIG_ADD(suite, first_byte_brings_it_back);
    RIG_ADD(suite, all_come_back_at_once);
    RIG_ADD(suite, back_without_a_buffer);
    RIG_ADD(suite, before_the_first_turn);
    RIG_ADD(suite, data_races_with_the_cancel);
    TCase *timed = tcase_create("timed");
    tcase_set_timeout(timed, 300);
    tcase_add_checked_fixture(timed, test_descriptors_note, test_descriptors_compare);
    tcase_add_checked_fixture(timed, clock_set_up, clock_tear_down);
    tcase_add_loop_test(timed, after_its_time, 0, RIG_ENGINES);
    tcase_add_loop_test(timed, never_if_not_wanted, 0, RIG_ENGINES);
    suite_add_tcase(suite, timed);
#ifdef BERTH_HAVE_LIBURING
    TCase *refusing = tcase_create("refused");
    tcase_set_timeout(refusing, 300);
    tcase_add_checked_fixture(refusing, test_descriptors_note, test_descriptors_compare);
    tcase_add_loop_test(refusing, refused, 0, 2);
    suite_add_tcase(suite, refusing);
#endif
    return test_run(suite);
}
