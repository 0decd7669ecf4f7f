/*
 * At the limits: no descriptor left for a newcomer, a table smaller than the descriptors, a full
 * send queue, too many listeners, too many loops. Whoever is turned away learns it at once; whoever
 * is inside does not notice; nothing spins.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include <fcntl.h>

/** Clients that come at once, and how many of them find room. */
#define NEWCOMERS 12
#define ROOM 4

/** Clients stand at or above this number, out of the way of the descriptors that are counted. */
#define CLIENTS_FROM 2000

static const struct berth_handlers echo = {.data = rig_echo};

/** Descriptors that this process may have: 0 if the hard limit forbids so many. */
static int
limit_descriptors(rlim_t count)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_max < count)
        return 0;
    limit.rlim_cur = count;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

/** A limit that leaves room for so many: numbers below it may be taken here and there. */
static rlim_t
limit_for(unsigned room)
{
    int taken[ROOM + 1];
    ck_assert_uint_le(room, ROOM);
    for (unsigned i = 0; i <= room; i++)
        ck_assert_int_ge(taken[i] = dup(STDIN_FILENO), 0);
    for (unsigned i = 0; i <= room; i++)
        ck_assert_int_eq(close(taken[i]), 0);
    return (rlim_t)taken[room];
}

/** A client out of the way. */
static int
far_client(const struct rig *rig)
{
    const int near = rig_client(rig);
    const int client = fcntl(near, F_DUPFD_CLOEXEC, CLIENTS_FROM);
    ck_assert_int_ge(client, CLIENTS_FROM);
    ck_assert_int_eq(close(near), 0);
    return client;
}

static void
far_clients(const struct rig *rig, int *clients, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        clients[i] = far_client(rig);
}

/** Each of those inside gets its byte back. Returns how many there are. */
static unsigned
count_served(const struct rig *rig, const int *clients, unsigned count)
{
    unsigned served = 0;
    for (unsigned i = 0; i < count; i++) {
        if (clients[i] < 0)
            continue;
        char byte = (char)('a' + i);
        rig_write(clients[i], &byte, 1);
        byte = 0;
        RIG_UNTIL(rig, rig_read(clients[i], &byte, 1) == 1, 100);
        ck_assert_int_eq(byte, (char)('a' + i));
        served++;
    }
    return served;
}

static void
close_clients(const struct rig *rig, int *clients, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (clients[i] >= 0)
            ck_assert_int_eq(close(clients[i]), 0);
    RIG_UNTIL(rig, berth_loop_conns(rig->loop) == 0, 100);
}

/**
 * Nothing happens: a turn costs its wait, and every other one, when the listener has rested, the
 * ten calls in which io_uring finds that there is still no descriptor (it takes one before it looks
 * whether anybody is there).
 */
static void
check_quiet(const struct rig *rig)
{
    const unsigned turns = 20;
    const struct berth_loop_stats before = rig_stats(rig);
    for (unsigned i = 0; i < turns; i++)
        (void)rig_turn(rig, RIG_TURN_MS);
    ck_assert_uint_le(rig_stats(rig).syscalls - before.syscalls, 7 * turns);
}

/* ---- descriptors ---------------------------------------------------------------------------- */

/** Newcomers in threes, more than there is room for, while others come and go. */
static void
live_without_descriptors(const char *engine)
{
    struct berth_loop_options options;
    struct rig rig;
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &echo, NULL);
    /* No turn yet: an accept that io_uring has been given keeps the limit of that moment. */
    int clients[NEWCOMERS];
    far_clients(&rig, clients, NEWCOMERS);
    const rlim_t usual = CLIENTS_FROM + 100;
    ck_assert(limit_descriptors(limit_for(ROOM)));

    RIG_UNTIL(&rig, rig_count_refused(clients, NEWCOMERS) == NEWCOMERS - ROOM, 100);
    ck_assert_uint_eq(rig_stats(&rig).accepted, ROOM);
    ck_assert_uint_eq(rig_stats(&rig).refused_limit, NEWCOMERS - ROOM);
    ck_assert_uint_ge(rig_stats(&rig).accept_errors, 1);
    ck_assert_uint_eq(count_served(&rig, clients, NEWCOMERS), ROOM);
    check_quiet(&rig);

    /* They keep coming: each is told, and each costs a few calls, not a turn of its own each. */
    for (unsigned round = 0; round < 3; round++) {
        int more[3];
        ck_assert(limit_descriptors(usual));
        far_clients(&rig, more, 3);
        ck_assert(limit_descriptors(limit_for(0)));
        const struct berth_loop_stats before = rig_stats(&rig);
        RIG_UNTIL(&rig, rig_count_refused(more, 3) == 3, 100);
        ck_assert_uint_le(rig_stats(&rig).syscalls - before.syscalls, 100);
        ck_assert_uint_eq(count_served(&rig, clients, NEWCOMERS), ROOM);
    }

    /* One goes, so one may come, without anything being raised. */
    unsigned first = 0;
    while (clients[first] < 0)
        first++;
    ck_assert(limit_descriptors(usual));
    const int newcomer = far_client(&rig);
    ck_assert_int_eq(close(clients[first]), 0);
    clients[first] = newcomer;
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == ROOM, 100);
    ck_assert_uint_eq(count_served(&rig, clients, NEWCOMERS), ROOM);
    close_clients(&rig, clients, NEWCOMERS);
    rig_end(&rig);
}

/** Whether they take descriptors at all; if not, test_direct fills what they take instead. */
static int
takes_descriptors(const char *engine)
{
    if (strcmp(engine, "uring-direct") != 0)
        return 1;
    printf("skipped: connections take no descriptors on %s (test_direct: the_table_is_full)\n",
           engine);
    return 0;
}

START_TEST(descriptors_run_out)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!takes_descriptors(engine))
        return;
    if (test_is_slow() && !TEST_SANITIZED) {
        printf("skipped: Valgrind keeps this limit from the kernel\n");
        return;
    }
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (!limit_descriptors(CLIENTS_FROM + 100)) {
        printf("skipped: descriptors limited to %lu\n", (unsigned long)limit.rlim_max);
        return;
    }
    live_without_descriptors(engine);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}
END_TEST

START_TEST(descriptors_past_the_table)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!takes_descriptors(engine))
        return;
    enum { SLOTS = 1024 };
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (!limit_descriptors(CLIENTS_FROM + 100)) {
        printf("skipped: descriptors limited to %lu\n", (unsigned long)limit.rlim_max);
        return;
    }
    struct berth_loop_options options;
    struct rig rig;
    rig_options(&options, engine, NULL);
    options.conns_max = SLOTS;
    rig_begin(&rig, &options, &echo, NULL);
    int clients[NEWCOMERS];
    far_clients(&rig, clients, NEWCOMERS);
    static int taken[SLOTS];
    unsigned taken_count = 0;
    do
        ck_assert_int_ge(taken[taken_count] = dup(STDIN_FILENO), 0);
    while (taken[taken_count++] < SLOTS - ROOM - 1);
    (void)rig_turn(&rig, 0);

    RIG_UNTIL(&rig, rig_count_refused(clients, NEWCOMERS) == NEWCOMERS - ROOM, 100);
    ck_assert_uint_eq(rig_stats(&rig).accepted, ROOM);
    ck_assert_uint_eq(rig_stats(&rig).refused_limit, NEWCOMERS - ROOM);
    ck_assert_uint_eq(count_served(&rig, clients, NEWCOMERS), ROOM);
    check_quiet(&rig);
    struct berth_listener *listener = NULL;
    berth_token token = 0;
    ck_assert_int_eq(berth_listen(rig.loop, "tcp://127.0.0.1:0", &echo, NULL, &listener), -EMFILE);
    ck_assert_int_eq(berth_adopt(rig.loop, clients[0] < 0 ? clients[NEWCOMERS - 1] : clients[0],
                                 &echo, NULL, &token),
                     -EMFILE);
    char address[BERTH_ADDRESS_TEXT_MAX];
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_connect(rig.loop, address, &echo, NULL, &token), -EMFILE);

    for (unsigned i = 0; i < taken_count; i++)
        ck_assert_int_eq(close(taken[i]), 0);
    close_clients(&rig, clients, NEWCOMERS);
    rig_try_echo(&rig);
    rig_end(&rig);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}
END_TEST

/* ---- the send queue ------------------------------------------------------------------------- */

#define SEND_MAX 65536

static unsigned char bulk[SEND_MAX + 1];
static unsigned refusals;

/** A refusal must leave the queue, and what was to be queued, as they were. */
static void
check_refused(const struct berth_conn *conn, int error, size_t queued)
{
    ck_assert_int_eq(error, -ENOBUFS);
    ck_assert_uint_eq(berth_conn_queued(conn), queued);
    refusals++;
}

static void
send_too_much(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)n, (void)bytes;
    struct berth_pool *pool = berth_loop_pool(berth_conn_loop(conn));
    struct berth_pool_stats before, after;
    berth_pool_stats_get(pool, &before);
    check_refused(conn, berth_send(conn, bulk, SEND_MAX + 1), 0);
    ck_assert_int_eq(berth_send(conn, bulk, SEND_MAX - 1), 0);
    check_refused(conn, berth_send(conn, bulk, 2), SEND_MAX - 1);
    ck_assert_int_eq(berth_send(conn, bulk + SEND_MAX - 1, 1), 0);
    check_refused(conn, berth_send(conn, bulk, 1), SEND_MAX);
    check_refused(conn, berth_send_span(conn, spans), SEND_MAX);

    struct berth_lease lease;
    struct berth_chain chain = {0};
    ck_assert_int_eq(berth_retain(pool, spans, 0, 1, 0, &lease), 0);
    check_refused(conn, berth_send_lease(conn, lease), SEND_MAX);
    ck_assert_ptr_nonnull(berth_lease_data(pool, lease));
    ck_assert_int_eq(berth_chain_append(pool, &chain, lease), 0);
    check_refused(conn, berth_send_chain(conn, &chain), SEND_MAX);
    ck_assert_uint_eq(chain.bytes, 1);
    ck_assert_uint_eq(chain.count, 1);
    berth_chain_clear(pool, &chain);
    ck_assert_int_eq(berth_send(conn, bulk, 0), 0);
    berth_pool_stats_get(pool, &after);
    ck_assert_uint_le(after.outstanding - before.outstanding, 2);
}

/** Adds what can be read now; whether all of it is there. */
static int
read_bulk(int client, unsigned char *data, size_t *have)
{
    const intptr_t got = rig_read(client, data + *have, SEND_MAX + 1 - *have);
    if (got > 0)
        *have += (size_t)got;
    return *have >= SEND_MAX;
}

START_TEST(send_queue_is_full)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.data = send_too_much};
    static unsigned char data[SEND_MAX + 1];
    for (size_t i = 0; i < sizeof(bulk); i++)
        bulk[i] = (unsigned char)(i * 7 + (i >> 8));
    refusals = 0;
    struct berth_loop_options options;
    struct rig rig;
    rig_options(&options, engine, NULL);
    options.send_max_bytes = SEND_MAX;
    options.send_high_bytes = SEND_MAX / 2;
    options.send_low_bytes = SEND_MAX / 4;
    rig_begin(&rig, &options, &handlers, NULL);
    const int client = rig_client(&rig);
    rig_write(client, "go", 2);
    size_t have = 0;
    RIG_UNTIL(&rig, read_bulk(client, data, &have), 100);
    (void)rig_turn(&rig, RIG_TURN_MS);
    (void)read_bulk(client, data, &have);
    ck_assert_uint_eq(have, SEND_MAX); /* not a byte of what was refused */
    ck_assert_mem_eq(data, bulk, SEND_MAX);
    ck_assert_uint_eq(rig_stats(&rig).send_refused, refusals);
    ck_assert_uint_eq(refusals, 6);
    int clients[1] = {client};
    close_clients(&rig, clients, 1);
    rig_end(&rig);
}
END_TEST

/* ---- listeners and loops -------------------------------------------------------------------- */

START_TEST(listeners_run_out)
{
    RIG_ENGINE_OR_RETURN(engine);
    enum { LISTENERS_MAX = 255 };
    struct berth_loop_options options;
    struct rig rig;
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &echo, NULL);
    struct berth_listener *listeners[LISTENERS_MAX] = {rig.listener};
    for (unsigned i = 1; i < LISTENERS_MAX; i++)
        ck_assert_int_eq(berth_listen(rig.loop, "tcp://127.0.0.1:0", &echo, NULL, &listeners[i]),
                         0);
    const unsigned descriptors = test_descriptors_open();
    struct berth_listener *none = NULL;
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(berth_listen(rig.loop, "tcp://127.0.0.1:0", &echo, NULL, &none), -EMFILE);
    ck_assert_ptr_null(none);
    ck_assert_uint_eq(test_descriptors_open(), descriptors);

    rig_try_echo(&rig); /* the first and the last one work */
    rig.listener = listeners[LISTENERS_MAX - 1];
    rig_try_echo(&rig);
    berth_listener_close(listeners[100]);
    RIG_UNTIL(&rig, test_descriptors_open() == descriptors - 1, 100);
    ck_assert_int_eq(berth_listen(rig.loop, "tcp://127.0.0.1:0", &echo, NULL, &rig.listener), 0);
    rig_try_echo(&rig);
    rig_end(&rig);
}
END_TEST

START_TEST(loops_run_out)
{
    RIG_ENGINE_OR_RETURN(engine);
    enum { LOOPS_MAX = 256 };
    static struct berth_loop *loops[LOOPS_MAX];
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (test_is_slow() || !limit_descriptors(4 * LOOPS_MAX)) {
        printf("skipped: hundreds of loops, for want of descriptors or of time\n");
        return;
    }
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.receive_buffers = 16;
    options.events_max = 16;
    for (unsigned i = 0; i < LOOPS_MAX; i++) {
        const int error = berth_loop_create(&loops[i], &options);
        if (error == -ENOMEM && geteuid() != 0) {
            /* Rings of a user count against RLIMIT_MEMLOCK. */
            printf("skipped: hundreds of loops, for want of memory that may be locked\n");
            while (i-- > 0)
                ck_assert_int_eq(berth_loop_destroy(loops[i]), 0);
            ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
            return;
        }
        ck_assert_int_eq(error, 0);
    }
    const unsigned descriptors = test_descriptors_open();
    struct berth_loop *none = NULL;
    ck_assert_int_eq(berth_loop_create(&none, &options), -EMFILE);
    ck_assert_ptr_null(none);
    ck_assert_uint_eq(test_descriptors_open(), descriptors);

    struct rig rig = {.loop = loops[LOOPS_MAX - 1]};
    ck_assert_int_eq(berth_listen(rig.loop, "tcp://127.0.0.1:0", &echo, NULL, &rig.listener), 0);
    rig_try_echo(&rig);
    ck_assert_int_eq(berth_loop_destroy(loops[100]), 0);
    ck_assert_int_eq(berth_loop_create(&loops[100], &options), 0);
    rig.loop = loops[100];
    ck_assert_int_eq(berth_listen(rig.loop, "tcp://127.0.0.1:0", &echo, NULL, &rig.listener), 0);
    rig_try_echo(&rig);
    for (unsigned i = 0; i < LOOPS_MAX; i++)
        ck_assert_int_eq(berth_loop_destroy(loops[i]), 0);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop limits");
    RIG_ADD(suite, descriptors_run_out);
    RIG_ADD(suite, descriptors_past_the_table);
    RIG_ADD(suite, send_queue_is_full);
    RIG_ADD(suite, listeners_run_out);
    RIG_ADD(suite, loops_run_out);
    return test_run(suite);
}
