/*
 * Nobody starves. When buffers run out, connections wait in the order in which they came and all
 * are served when buffers return; whoever cannot be answered does not hold more than its share; and
 * what callbacks do to each other's connections meanwhile is respected.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#define MIB ((size_t)1 << 20)

/** Buffers of 4 KiB in the one slab that the small pool may have of them. */
#define BUFFERS 512

/** Pieces that come in one test: of a flood, what two sockets can hold, 4 KiB at a time. */
#define HOARD_MAX (32 * BUFFERS)

/** Connections that have done nothing wrong. */
#define INNOCENTS 100

/** A pool that a single connection could use up. */
static void
small_pool(struct berth_pool_options *pool)
{
    berth_pool_options_init(pool);
    pool->bytes_max = 8 * MIB;
    for (int i = 0; i < BERTH_CLASS_COUNT; i++)
        pool->class_bytes_max[i] = 2 * MIB;
}

static uint64_t
outstanding(const struct rig *rig)
{
    struct berth_pool_stats stats;
    berth_pool_stats_get(berth_loop_pool(rig->loop), &stats);
    return stats.outstanding;
}

static void
set_small_buffers(int fd)
{
    const int size = 4096;
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
}

/* ---- hoarding ------------------------------------------------------------------------------- */

/** Keeps everything that comes, and notes who brought it. */
static struct hoard {
    struct berth_lease leases[HOARD_MAX];
    unsigned count, released;
    unsigned buffers;               /**< that they are in */
    unsigned char order[INNOCENTS]; /**< innocents, as they were served */
    unsigned served;
    unsigned ends; /**< ends of streams seen */
} hoard;

/** The flood is zeroes; an innocent sends its number, from 1. */
static void
hoard_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)bytes;
    struct berth_pool *pool = berth_loop_pool(berth_conn_loop(conn));
    for (unsigned i = 0; i < n; i++) {
        ck_assert_uint_lt(hoard.count, HOARD_MAX);
        ck_assert_int_eq(
            berth_retain(pool, &spans[i], 0, spans[i].length, 0, &hoard.leases[hoard.count++]), 0);
        hoard.buffers += (spans[i].length + 4095) / 4096;
        const unsigned char first = *(const unsigned char *)spans[i].data;
        if (first != 0) {
            ck_assert_uint_lt(hoard.served, INNOCENTS);
            hoard.order[hoard.served++] = first;
        }
    }
}

static void
hoard_eof(struct berth_conn *conn)
{
    hoard.ends++;
    (void)berth_conn_close(conn);
}

static const struct berth_handlers hoarder = {.data = hoard_data, .eof = hoard_eof};

static void
hoard_release(const struct rig *rig, unsigned count)
{
    for (; count > 0 && hoard.released < hoard.count; count--)
        ck_assert_int_eq(berth_release(berth_loop_pool(rig->loop), hoard.leases[hoard.released++]),
                         0);
}

static void
begin_hoarding(struct rig *rig, const char *engine)
{
    struct berth_pool_options pool;
    struct berth_loop_options options;
    memset(&hoard, 0, sizeof(hoard));
    small_pool(&pool);
    rig_options(&options, engine, &pool);
    options.receive_buffers = 16;
    rig_begin(rig, &options, &hoarder, NULL);
}

/** Until a connection has to wait, and nothing moves any more. */
static void
exhaust(const struct rig *rig, int client)
{
    unsigned before, turns = 0;
    do {
        before = hoard.count;
        rig_flood(client);
        for (int i = 0; i < 3; i++)
            (void)rig_turn(rig, RIG_TURN_MS);
    } while ((hoard.count > before || rig_stats(rig).starved == 0) && turns++ < 1000);
    ck_assert_uint_gt(rig_stats(rig).starved, 0);
    ck_assert_uint_ge(hoard.buffers, BUFFERS / 2);
}

START_TEST(all_are_served_in_order)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    begin_hoarding(&rig, engine);
    const int flooder = rig_client(&rig);
    int clients[INNOCENTS];
    for (unsigned i = 0; i < INNOCENTS; i++)
        clients[i] = rig_client(&rig);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == INNOCENTS + 1, 100);
    exhaust(&rig, flooder);
    /* Without poll-first they wait from the time when their receives were posted. */
    const int late = rig_uses(rig.loop, "poll-first");
    if (!late)
        printf("skipped: the order, and that only who has something to say waits\n");

    for (unsigned i = 0; i < INNOCENTS; i++) {
        const unsigned char number = (unsigned char)(i + 1);
        rig_write(clients[i], &number, 1);
        const uint64_t starved = rig_stats(&rig).starved;
        if (late)
            RIG_UNTIL(&rig, rig_stats(&rig).starved > starved || hoard.served > i, 10);
        else
            (void)rig_turn(&rig, 0);
    }
    const unsigned before = hoard.served;
    ck_assert_uint_lt(before, INNOCENTS);

    /* Waiting costs little: it must not spin. */
    const struct berth_loop_stats waiting = rig_stats(&rig);
    for (int i = 0; i < 20; i++)
        (void)rig_turn(&rig, RIG_TURN_MS);
    ck_assert_uint_le(rig_stats(&rig).syscalls - waiting.syscalls, 100);

    /* A few buffers come back at a time, and each is kept again: the flooder has its turn too. */
    for (unsigned turn = 0; hoard.served < INNOCENTS && turn < INNOCENTS; turn++) {
        hoard_release(&rig, 4);
        rig_flood(flooder);
        (void)rig_turn(&rig, RIG_TURN_MS);
    }
    ck_assert_uint_eq(hoard.served, INNOCENTS);
    for (unsigned i = before; late && i + 1 < INNOCENTS; i++)
        ck_assert_uint_lt(hoard.order[i], hoard.order[i + 1]);
    hoard_release(&rig, UINT32_MAX);
    ck_assert_int_eq(close(flooder), 0);
    /* Receives that are posted one by one bring 4 KiB of the flood in a turn. */
    for (unsigned turn = 0; berth_loop_conns(rig.loop) > INNOCENTS && turn < 20000; turn++) {
        (void)rig_turn(&rig, RIG_TURN_MS);
        hoard_release(&rig, UINT32_MAX);
    }
    ck_assert_uint_eq(berth_loop_conns(rig.loop), INNOCENTS);
    rig_close_all(&rig, clients, INNOCENTS);
    hoard_release(&rig, UINT32_MAX);
    rig_end(&rig);
}
END_TEST

START_TEST(end_is_seen_without_a_buffer)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    begin_hoarding(&rig, engine);
    int clients[2];
    for (int i = 0; i < 2; i++)
        clients[i] = rig_client(&rig);
    const int flooder = rig_client(&rig);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 3, 100);
    exhaust(&rig, flooder);
    /* Who holds the buffers may be waiting for just this. */
    ck_assert_int_eq(close(clients[0]), 0);
    RIG_UNTIL(&rig, hoard.ends == 1, 20);
    rig_reset(clients[1]);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 1, 20);
    hoard_release(&rig, UINT32_MAX);
    rig_reset(flooder);
    for (unsigned turn = 0; berth_loop_conns(rig.loop) > 0 && turn < 1000; turn++) {
        (void)rig_turn(&rig, RIG_TURN_MS);
        hoard_release(&rig, UINT32_MAX);
    }
    ck_assert_uint_eq(berth_loop_conns(rig.loop), 0);
    hoard_release(&rig, UINT32_MAX);
    rig_end(&rig);
}
END_TEST

/* ---- a peer that does not read -------------------------------------------------------------- */

#define DRIPS 3000

/** The first byte of each stream is answered by so much that the peer's window is full. */
static void
drip_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    static const char filling[65536];
    unsigned *seen = berth_conn_payload(conn);
    (void)n;
    ck_assert_uint_ge(bytes, 1);
    if ((*seen)++ == 0) {
        ck_assert_int_eq(berth_send(conn, filling, sizeof(filling)), 0);
        return;
    }
    struct berth_pool *pool = berth_loop_pool(berth_conn_loop(conn));
    struct berth_lease lease;
    if (*seen % 2 == 0) {
        ck_assert_int_eq(berth_send_span(conn, spans), 0);
        return;
    }
    ck_assert_int_eq(berth_retain(pool, spans, 0, spans->length, 0, &lease), 0);
    ck_assert_int_eq(berth_send_lease(conn, lease), 0);
}

/** Reads what is there behind what it has. */
static size_t
read_more(int client, unsigned char *data, size_t size, size_t *have)
{
    intptr_t got = 1;
    while (*have < size && (got = rig_read(client, data + *have, size - *have)) > 0)
        *have += (size_t)got;
    ck_assert(got > 0 || got == -EAGAIN);
    return *have;
}

static unsigned char
drip(unsigned i)
{
    return (unsigned char)(1 + i % 255);
}

START_TEST(drips_do_not_fill_the_pool)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.data = drip_data};
    struct berth_pool_options pool;
    struct berth_loop_options options;
    struct rig rig;
    small_pool(&pool);
    rig_options(&options, engine, &pool);
    options.receive_buffers = 16;
    options.keep_receiving = 1;
    rig_begin(&rig, &options, &handlers, NULL);
    set_small_buffers(berth_listener_fd(rig.listener));
    const int client = rig_client(&rig);
    set_small_buffers(client);
    rig_write(client, "", 1);
    RIG_UNTIL(&rig, rig_stats(&rig).receives == 1, 100);
    (void)rig_turn(&rig, RIG_TURN_MS);
    const uint64_t before = outstanding(&rig);
    for (unsigned i = 0; i < DRIPS; i++) {
        const unsigned char byte = drip(i);
        rig_write(client, &byte, 1);
        RIG_UNTIL(&rig, rig_stats(&rig).receives == i + 2, 100);
    }
    /* The bytes themselves are less than one buffer of 4 KiB. */
    ck_assert_uint_le(outstanding(&rig), before + 4);
    ck_assert_uint_eq(rig_stats(&rig).starved, 0);

    static unsigned char data[65536 + DRIPS];
    size_t have = 0;
    RIG_UNTIL(&rig, read_more(client, data, sizeof(data), &have) == sizeof(data), 2000);
    for (unsigned i = 0; i < DRIPS; i++)
        ck_assert_uint_eq(data[65536 + i], drip(i));
    rig_close_all(&rig, &client, 1);
    rig_end(&rig);
}
END_TEST

/* ---- what callbacks do to others ------------------------------------------------------------ */

/** What the first that is served does to all the others. */
enum deed { DEED_CLOSE, DEED_ABORT, DEED_NO_CREDIT, DEED_COUNT };

static struct {
    struct berth_conn *conns[INNOCENTS];
    unsigned opened, closed, served, ends;
    enum deed deed;
} bully;

static int
bully_open(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    ck_assert_uint_lt(bully.opened, INNOCENTS);
    bully.conns[bully.opened++] = conn;
    return 0;
}

static void
bully_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)spans, (void)n, (void)bytes;
    if (bully.served++ > 0)
        return;
    for (unsigned i = 0; i < bully.opened; i++) {
        if (bully.conns[i] == conn)
            continue;
        if (bully.deed == DEED_CLOSE)
            ck_assert_int_eq(berth_conn_close(bully.conns[i]), 0);
        else if (bully.deed == DEED_ABORT)
            ck_assert_int_eq(berth_conn_abort(bully.conns[i]), 0);
        else
            ck_assert_int_eq(berth_conn_credit(bully.conns[i], 0), 0);
    }
}

static void
bully_eof(struct berth_conn *conn)
{
    bully.ends++;
    (void)berth_conn_close(conn);
}

static void
bully_close(struct berth_conn *conn, int reason)
{
    (void)conn, (void)reason;
    bully.closed++;
}

static const struct berth_handlers bullies = {
    .open = bully_open, .data = bully_data, .eof = bully_eof, .close = bully_close};

/** All have something to say in the same turn, and the first one decides for the others. */
static void
be_bullied(const struct rig *rig, enum deed deed)
{
    int clients[INNOCENTS];
    memset(&bully, 0, sizeof(bully));
    bully.deed = deed;
    for (unsigned i = 0; i < INNOCENTS; i++)
        clients[i] = rig_client(rig);
    RIG_UNTIL(rig, bully.opened == INNOCENTS, 100);
    for (unsigned i = 0; i < INNOCENTS; i++)
        rig_write(clients[i], "x", 1);
    for (int i = 0; i < 10; i++)
        (void)rig_turn(rig, RIG_TURN_MS);
    if (deed != DEED_NO_CREDIT) {
        ck_assert_uint_eq(bully.served, 1);
        ck_assert_uint_eq(bully.closed, INNOCENTS - 1);
    } else { /* what had been received when the credit went may still come, no more */
        ck_assert_uint_ge(bully.served, 1);
        ck_assert_uint_eq(bully.closed, 0);
        for (unsigned i = 0; i < INNOCENTS; i++)
            ck_assert_int_eq(berth_conn_credit(bully.conns[i], BERTH_CREDIT_UNLIMITED), 0);
        RIG_UNTIL(rig, bully.served == INNOCENTS, 100);
    }
    ck_assert_uint_eq(bully.ends, 0);
    rig_close_all(rig, clients, INNOCENTS);
    ck_assert_uint_eq(bully.closed, INNOCENTS);
}

START_TEST(callbacks_of_the_same_turn_are_obeyed)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    struct rig rig;
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &bullies, NULL);
    for (int deed = 0; deed < DEED_COUNT; deed++)
        be_bullied(&rig, (enum deed)deed);
    rig_end(&rig);
}
END_TEST

/** The same, while all of them wait for a buffer. */
START_TEST(callbacks_of_the_same_pass_are_obeyed)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int deed = 0; deed < DEED_COUNT; deed++) {
        struct rig rig;
        int clients[INNOCENTS];
        begin_hoarding(&rig, engine);
        if (!rig_uses(rig.loop, "poll-first")) {
            printf("skipped: without poll-first they do not begin to wait at the same time\n");
            rig_end(&rig);
            return;
        }
        memset(&bully, 0, sizeof(bully));
        bully.deed = (enum deed)deed;
        struct berth_listener *listener = NULL;
        ck_assert_int_eq(berth_listen(rig.loop, "tcp://127.0.0.1:0", &bullies, NULL, &listener), 0);
        const int flooder = rig_client(&rig);
        for (unsigned i = 0; i < INNOCENTS; i++)
            ck_assert_int_ge(clients[i] = rig_connect_to(listener), 0);
        RIG_UNTIL(&rig, bully.opened == INNOCENTS, 100);
        exhaust(&rig, flooder);
        const uint64_t before = rig_stats(&rig).starved;
        for (unsigned i = 0; i < INNOCENTS; i++)
            rig_write(clients[i], "x", 1);
        RIG_UNTIL(&rig, rig_stats(&rig).starved >= before + INNOCENTS, 100);
        ck_assert_uint_eq(bully.served, 0);
        hoard_release(&rig, UINT32_MAX);
        for (int i = 0; i < 10; i++)
            (void)rig_turn(&rig, RIG_TURN_MS);
        ck_assert_uint_eq(bully.served, 1);
        ck_assert_uint_eq(bully.closed, deed == DEED_NO_CREDIT ? 0 : INNOCENTS - 1);
        ck_assert_uint_eq(bully.ends, 0);
        rig_reset(flooder);
        for (unsigned i = 0; i < INNOCENTS; i++)
            rig_reset(clients[i]);
        hoard_release(&rig, UINT32_MAX);
        ck_assert_int_eq(berth_loop_destroy(rig.loop), 0);
        ck_assert_uint_eq(bully.closed, INNOCENTS);
        ck_assert_uint_eq(test_descriptors_open(), rig.descriptors);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop starvation");
    RIG_ADD(suite, all_are_served_in_order);
    RIG_ADD(suite, end_is_seen_without_a_buffer);
    RIG_ADD(suite, drips_do_not_fill_the_pool);
    RIG_ADD(suite, callbacks_of_the_same_turn_are_obeyed);
    RIG_ADD(suite, callbacks_of_the_same_pass_are_obeyed);
    return test_run(suite);
}
