/*
 * Long streams in both directions, between plain sockets and connections of two loops of any
 * engines, while everything that may be switched is switched at random: credit, pauses, leases that
 * are kept, pools that run short, sizes and ways of sending, readers that stop. Every byte is
 * compared where it arrives; every stream ends in order, and nothing of it is missing.
 *
 * What is switched is a table of rows (switches, at the end): whoever adds a way to switch the loop
 * adds a row. Each row must have been used when the test is over.
 *
 * Each round is two loops, and repeats itself from its seed: BERTH_SEED, printed when it fails.
 * BERTH_SWITCHING_SECONDS says for how long (with a sanitizer, for minutes).
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/switching.h"

#include <netinet/in.h>
#include <time.h>

/* ---- callbacks ------------------------------------------------------------------------------ */

static void switch_something(void);

static struct end *
end_of(struct berth_conn *conn)
{
    struct end *end = *(struct end **)berth_conn_payload(conn);
    MUST(end != NULL && end->opened && !end->closed);
    MUST(berth_token_same(end->token, berth_conn_token(conn)));
    MUST(berth_conn_loop(conn) == w.rigs[end->at].loop);
    return end;
}

/** An accepted one is recognised by its peer's name; the others bring their end along. */
static int
on_open(struct berth_conn *conn, void *ctx)
{
    struct end *end = ctx;
    char peer[BERTH_ADDRESS_TEXT_MAX];
    if (end == NULL)
        MUST(berth_conn_peer(conn, peer, sizeof(peer)) == 0);
    for (unsigned i = 0; end == NULL && i < w.links; i++)
        if (strcmp(w.ends[i][1].name, peer) == 0)
            end = &w.ends[i][0];
    MUST(end != NULL && !end->closed);
    end->opened = 1;
    end->token = berth_conn_token(conn);
    *(struct end **)berth_conn_payload(conn) = end;
    w.moved++;
    return 0;
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct end *end = end_of(conn);
    size_t all = 0;
    for (unsigned i = 0; i < n; i++) {
        const int held = w.hold_one_in != 0 && roll(w.hold_one_in) == 0;
        if (held)
            hold(end, &spans[i]);
        receive(end, spans[i].data, spans[i].length);
        all += spans[i].length;
        if (!held && roll(3) == 0)
            conn_sends_span(end, conn, &spans[i]);
    }
    MUST(all == bytes);
    if (roll(4) == 0)
        conn_sends(end, conn);
    if (roll(8) == 0)
        switch_something();
}

static void
on_drained(struct berth_conn *conn)
{
    struct end *end = end_of(conn);
    for (unsigned i = 0; i < 4; i++)
        conn_sends(end, conn);
}

static void
on_eof(struct berth_conn *conn)
{
    receive_end(end_of(conn));
}

static void
on_close(struct berth_conn *conn, int reason)
{
    struct end *end = end_of(conn);
    MUST(reason == 0 && end->eof && end->shut && end->sent == end->total);
    end->closed = 1;
    w.moved++;
}

static const struct berth_handlers handlers = {
    .open = on_open, .data = on_data, .drained = on_drained, .eof = on_eof, .close = on_close};

/* ---- what is switched ----------------------------------------------------------------------- */

/** Any end that is a connection now, or NULL. */
static struct berth_conn *
any_conn(struct end **end)
{
    *end = &w.ends[roll(w.links)][roll(2)];
    return conn_of(*end);
}

static void
set_credit(struct end *end, struct berth_conn *conn, size_t credit)
{
    const int error = berth_conn_credit(conn, credit);
    MUST(error == 0);
    end->paused_until =
        credit == BERTH_CREDIT_UNLIMITED ? 0 : w.step + 1 + (unsigned)roll(roll(8) ? 20 : 200);
}

static void
switch_credit(void)
{
    static const size_t credits[] = {1, 10, 1000, 4096, 4097, 30000, 1 << 20};
    struct end *end;
    struct berth_conn *conn = any_conn(&end);
    if (conn != NULL)
        set_credit(end, conn, credits[roll(7)]);
}

static void
switch_pause(void)
{
    struct end *end;
    for (uint64_t i = roll(2 * w.links); i-- > 0;) {
        struct berth_conn *conn = any_conn(&end);
        if (conn != NULL)
            set_credit(end, conn, roll(3) == 0 ? BERTH_CREDIT_UNLIMITED : 0);
    }
}

static void
switch_holding(void)
{
    static const unsigned one_in[] = {0, 1, 2, 10};
    w.hold_one_in = one_in[roll(4)];
}

static void
release_held(void)
{
    while (w.held_count > 0)
        let_go(w.held_count - 1);
}

static void
release_hogged(void)
{
    for (unsigned i = 0; i < LOOPS; i++)
        while (w.hogged_count[i] > 0)
            MUST(berth_release(berth_loop_pool(w.rigs[i].loop), w.hogged[i][--w.hogged_count[i]]) ==
                 0);
}

/** A pool of which few buffers are left, or none; or all come back. */
static void
switch_pool(void)
{
    const unsigned i = (unsigned)roll(LOOPS);
    struct berth_pool *pool = berth_loop_pool(w.rigs[i].loop);
    if (roll(2) == 0) {
        release_hogged();
        return;
    }
    const uint32_t left = roll(2) == 0 ? 0 : (uint32_t)roll(60);
    while (w.hogged_count[i] < HOGGED_MAX &&
           berth_pool_available(pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE) > left)
        MUST(berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE,
                            &w.hogged[i][w.hogged_count[i]++]) == 0);
}

static void
switch_sizes(void)
{
    static const size_t sizes[] = {1, 100, 4096, 5000, 65536, WAYS_BYTES_MAX};
    w.bytes_max = sizes[roll(6)];
}

static void
switch_ways(void)
{
    w.ways = 1 + (unsigned)roll((1u << WAY_COUNT) - 1);
}

static void
switch_socket_buffers(void)
{
    const struct end *end = &w.ends[roll(w.links)][1];
    const int bytes = 131072 << roll(4); /* with room for less than a segment TCP uses timers */
    if (end->fd >= 0)
        MUST(setsockopt(end->fd, SOL_SOCKET, roll(2) ? SO_SNDBUF : SO_RCVBUF, &bytes,
                        sizeof(bytes)) == 0);
}

static void
switch_readers(void)
{
    w.readers_rest_until = w.step + (unsigned)roll(30);
}

/** Idle or not: each is parked, and comes back with its next byte. */
static void
switch_parking(void)
{
    (void)berth_loop_park_idle(w.rigs[roll(LOOPS)].loop, 0);
}

static void
calm_sizes(void)
{
    w.bytes_max = WAYS_BYTES_MAX;
}

static void
calm_holding(void)
{
    w.hold_one_in = 0;
    release_held();
}

static void
calm_readers(void)
{
    w.readers_rest_until = 0;
}

/** Whatever may be switched at any moment: between turns, and in the middle of a callback. */
static const struct {
    const char *name;
    void (*flip)(void);
    void (*calm)(void); /**< from now on nobody is held up; NULL: nobody is anyway */
} switches[] = {
    {"credit", switch_credit, NULL},
    {"pause", switch_pause, NULL},
    {"leases held", switch_holding, calm_holding},
    {"leases returned", release_held, NULL},
    {"pool", switch_pool, release_hogged},
    {"sizes", switch_sizes, calm_sizes},
    {"ways", switch_ways, NULL},
    {"socket buffers", switch_socket_buffers, NULL},
    {"readers", switch_readers, calm_readers},
    {"parking", switch_parking, NULL},
};
#define SWITCHES (sizeof(switches) / sizeof(switches[0]))
static unsigned flips[SWITCHES];

static void
switch_something(void)
{
    if (w.calm)
        return;
    const uint64_t i = roll(SWITCHES);
    switches[i].flip();
    flips[i]++;
}

/* ---- rounds --------------------------------------------------------------------------------- */

/** The other end of a link is a plain socket, or another connection. */
static void
make_link(struct end *ends)
{
    /* Some hundred full queues, so that a tiny one does not take for ever. */
    uint64_t bytes_max = roll(4) == 0 ? 16 << 20 : 2 << 20;
    for (unsigned i = 0; i < LOOPS; i++)
        if (bytes_max > 300 * (uint64_t)w.options[i].send_max_bytes)
            bytes_max = 300 * (uint64_t)w.options[i].send_max_bytes;
    for (unsigned i = 0; i < 2; i++) {
        struct end *end = &ends[i];
        end->peer = &ends[1 - i];
        end->fd = -1;
        end->key = 1 + (uint32_t)roll(1000000);
        end->total = roll(2) ? roll(bytes_max) : ways_length(&w.random, (size_t)bytes_max);
    }
    ends[0].at = (unsigned)roll(LOOPS);
    ends[1].at = roll(2) ? LOOPS : (unsigned)roll(LOOPS);
    struct sockaddr_in address;
    socklen_t size = sizeof(address);
    const int fd = rig_client(&w.rigs[ends[0].at]);
    MUST(getsockname(fd, (struct sockaddr *)(void *)&address, &size) == 0);
    (void)snprintf(ends[1].name, sizeof(ends[1].name), "tcp://127.0.0.1:%u",
                   ntohs(address.sin_port));
    if (ends[1].at == LOOPS)
        ends[1].fd = fd;
    else
        MUST(berth_adopt(w.rigs[ends[1].at].loop, fd, &handlers, &ends[1], &ends[1].token) == 0);
    ends[1].opened = ends[1].at == LOOPS;
}

static void
make_loop(unsigned i)
{
    static const uint32_t highs[] = {2, 4096, 65536, 256 * 1024};
    struct berth_loop_options *options = &w.options[i];
    do
        w.engines[i] = rig_engines[roll(RIG_ENGINES)];
    while (!rig_has(w.engines[i]));
    rig_options(options, w.engines[i], &w.pools[i]);
    berth_pool_options_init(&w.pools[i]);
    if (roll(2)) {
        w.pools[i].bytes_max = 16 << 20;
        for (int k = 0; k < BERTH_CLASS_COUNT; k++)
            w.pools[i].class_bytes_max[k] = 2 << 20;
    }
    options->receive_buffers = roll(2) ? 16 : 1024;
    options->send_high_bytes = highs[roll(4)];
    options->send_low_bytes = options->send_high_bytes / 4;
    options->send_max_bytes = options->send_high_bytes << (1 + roll(5));
    options->fairness_bytes = roll(2) ? 4096 : 65536;
    options->events_max = roll(2) ? 16 : 1024;
    options->keep_receiving = roll(3) == 0;
    rig_begin(&w.rigs[i], options, &handlers, NULL);
}

static void
begin_round(void)
{
    memset(&w, 0, sizeof(w));
    w.random = seed;
    w.bytes_max = WAYS_BYTES_MAX;
    w.ways = (1u << WAY_COUNT) - 1;
    for (unsigned i = 0; i < LOOPS; i++)
        make_loop(i);
    w.links = 1 + (unsigned)roll(test_is_slow() ? 4 : LINKS_MAX);
    for (unsigned i = 0; i < w.links; i++)
        make_link(w.ends[i]);
}

static void
be_calm(void)
{
    w.calm = 1;
    for (size_t i = 0; i < SWITCHES; i++)
        if (switches[i].calm != NULL)
            switches[i].calm();
}

/** An end does what it does between turns. Whether it is not yet through. */
static int
act(struct end *end)
{
    struct berth_conn *conn = conn_of(end);
    if (end->fd >= 0) {
        socket_sends(end);
        socket_receives(end);
        if (end->shut && end->eof) {
            MUST(close(end->fd) == 0);
            end->fd = -1;
            end->closed = 1;
        }
    } else if (conn != NULL) {
        if (end->paused_until != 0 && (w.calm || w.step >= end->paused_until))
            set_credit(end, conn, BERTH_CREDIT_UNLIMITED);
        if (roll(2) == 0)
            conn_sends(end, conn);
    }
    return !end->closed;
}

static int
step(void)
{
    int going = 0;
    w.step++;
    for (unsigned i = 0; i < w.links; i++)
        for (unsigned side = 0; side < 2; side++)
            going |= act(&w.ends[i][side]);
    if (w.step == CALM_AFTER)
        be_calm();
    else if (roll(2) == 0)
        switch_something();
    return going;
}

static void
show_links(void)
{
    for (unsigned i = 0; i < w.links; i++)
        for (unsigned side = 0; side < 2; side++) {
            const struct end *end = &w.ends[i][side];
            printf("link %u.%u, %s: sent %llu of %llu, got %llu%s%s%s%s\n", i, side,
                   end->at == LOOPS ? "socket" : w.engines[end->at], (unsigned long long)end->sent,
                   (unsigned long long)end->total, (unsigned long long)end->got,
                   end->opened ? " opened" : "", end->eof ? " eof" : "", end->shut ? " shut" : "",
                   end->closed ? " closed" : "");
        }
    (void)fflush(stdout);
}

static void
end_round(void)
{
    if (!w.calm)
        be_calm();
    for (unsigned i = 0; i < LOOPS; i++) {
        const struct berth_loop_stats stats = rig_stats(&w.rigs[i]);
        sum.bytes += stats.received_bytes + stats.sent_bytes;
        sum.starved += stats.starved;
        sum.enobufs += stats.enobufs;
        sum.rearms += stats.rearms;
        sum.fairness_stops += stats.fairness_stops;
        sum.pauses += stats.pauses;
        sum.lanes += stats.lanes;
        MUST(stats.zombies == 0);
        RIG_UNTIL(&w.rigs[i], berth_loop_conns(w.rigs[i].loop) == 0, 1000);
        RIG_UNTIL(&w.rigs[i], ways_held(&w.rigs[i]) == 0, 1000);
    }
    MUST(ways_wrapped.made == ways_wrapped.freed);
    for (unsigned i = LOOPS; i-- > 0;)
        rig_end(&w.rigs[i]);
}

static void
run_round(void)
{
    begin_round();
    unsigned idle = 0;
    uint64_t moved = w.moved;
    while (step()) {
        idle = w.moved != moved ? 0 : idle + 1;
        moved = w.moved;
        if (idle == IDLE_MAX)
            show_links();
        MUST(idle < IDLE_MAX);
        for (unsigned i = 0; i < LOOPS; i++)
            (void)rig_turn(&w.rigs[i], idle > 10 ? 1 : 0);
    }
    end_round();
}

/** However slow the machine. */
#define ROUNDS_MIN 3

START_TEST(random_switches)
{
    seed = test_seed("random_switches");
    const uint64_t seconds = test_rounds("BERTH_SWITCHING_SECONDS", 3);
    const time_t until = time(NULL) + (time_t)seconds;
    unsigned rounds = 0;
    do {
        run_round();
        seed++;
        rounds++;
    } while (rounds < ROUNDS_MIN || time(NULL) < until);
    printf("%u rounds, %llu MiB in and out; starved %llu, without buffer %llu, posted again %llu, "
           "shares used up %llu, paused %llu, lanes %llu\n",
           rounds, (unsigned long long)sum.bytes >> 20, (unsigned long long)sum.starved,
           (unsigned long long)sum.enobufs, (unsigned long long)sum.rearms,
           (unsigned long long)sum.fairness_stops, (unsigned long long)sum.pauses,
           (unsigned long long)sum.lanes);
    for (size_t i = 0; i < SWITCHES; i++) {
        printf("%s: %u times\n", switches[i].name, flips[i]);
        ck_assert_uint_gt(flips[i], 0);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop switching");
    TCase *tcase = tcase_create("random_switches");
    tcase_set_timeout(tcase, 600 + (double)test_rounds("BERTH_SWITCHING_SECONDS", 3));
    tcase_add_checked_fixture(tcase, test_descriptors_note, test_descriptors_compare);
    tcase_add_test(tcase, random_switches);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
