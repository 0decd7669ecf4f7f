/*
 * Sixty-four connections that close and abort each other, and themselves, from every callback there
 * is, in the same turn. Whoever was closed hears of no data and no end any more, and of its close
 * exactly once; every descriptor, slot and buffer comes back.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#define VICTIMS 64
#define TURNS 400

/** Turns in which callbacks kill; then the test does. */
#define KILLING_ROUNDS 20

/** Which callback it is that kills. */
enum moment { AT_OPEN, AT_DATA, AT_DRAINED, AT_EOF, AT_CLOSE, MOMENTS };

enum weapon { BY_CLOSE, BY_ABORT, BY_EITHER, WEAPONS };

struct victim {
    berth_token token;
    struct berth_conn *conn;
    unsigned closes;
    int dead; /**< somebody has closed it */
};

static struct {
    struct rig rig;
    int clients[VICTIMS];
    struct victim victims[VICTIMS];
    unsigned opened, closed, killed;
    enum moment moment;
    enum weapon weapon;
    unsigned one_in; /**< how many of the others a killer spares, but for one in so many */
    uint64_t random;
} k;

static uint64_t
roll(uint64_t below)
{
    return test_random(&k.random) % below;
}

static void
kill_one(struct victim *victim)
{
    struct berth_conn *conn = berth_conn_find(k.rig.loop, victim->token);
    if (victim->closes > 0) {
        ck_assert_ptr_null(conn);
        return;
    }
    const int abort_it = k.weapon == BY_ABORT || (k.weapon == BY_EITHER && roll(2) == 0);
    const int error = abort_it ? berth_conn_abort(victim->conn) : berth_conn_close(victim->conn);
    ck_assert_msg(error == 0 || (error == -EALREADY && (victim->dead || conn == NULL)), "%d",
                  error);
    if (abort_it)
        ck_assert_int_eq(berth_conn_abort(victim->conn), -EALREADY);
    ck_assert_int_eq(berth_send(victim->conn, "x", 1), -EPIPE);
    k.killed += victim->dead == 0;
    victim->dead = 1;
}

static void
kill_some(enum moment moment)
{
    if (moment != k.moment && k.moment != MOMENTS)
        return;
    for (unsigned i = 0; i < k.opened; i++)
        if (roll(k.one_in) == 0)
            kill_one(&k.victims[i]);
}

static struct victim *
victim_of(struct berth_conn *conn)
{
    struct victim *victim = *(struct victim **)berth_conn_payload(conn);
    ck_assert_ptr_eq(victim->conn, conn);
    ck_assert_uint_eq(victim->closes, 0);
    return victim;
}

static int
on_open(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    ck_assert_uint_lt(k.opened, VICTIMS);
    struct victim *victim = &k.victims[k.opened++];
    *(struct victim **)berth_conn_payload(conn) = victim;
    victim->conn = conn;
    victim->token = berth_conn_token(conn);
    kill_some(AT_OPEN);
    return 0;
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)n;
    ck_assert(!victim_of(conn)->dead);
    ck_assert_uint_gt(bytes, 0);
    ck_assert_int_eq(*(const char *)spans->data, 'x');
    if (k.moment != AT_DRAINED)
        (void)berth_send_span(conn, spans);
    kill_some(AT_DATA);
}

static void
on_drained(struct berth_conn *conn)
{
    ck_assert(!victim_of(conn)->dead);
    kill_some(AT_DRAINED);
}

static void
on_eof(struct berth_conn *conn)
{
    ck_assert(!victim_of(conn)->dead);
    kill_some(AT_EOF);
    (void)berth_conn_close(conn);
    victim_of(conn)->dead = 1;
}

static void
on_close(struct berth_conn *conn, int reason)
{
    struct victim *victim = victim_of(conn);
    ck_assert(reason == 0 || reason == -ECANCELED || reason == -ECONNRESET || reason == -EPIPE ||
              reason == -ETIMEDOUT);
    ck_assert_int_ne(berth_conn_abort(conn), 0);
    victim->closes++;
    victim->dead = 1;
    k.closed++;
    kill_some(AT_CLOSE);
}

static const struct berth_handlers handlers = {
    .open = on_open, .data = on_data, .drained = on_drained, .eof = on_eof, .close = on_close};

/** Fills every socket and every queue, so that reading makes them drained. */
static void
fill_queues(void)
{
    static const char filling[256 * 1024];
    for (unsigned i = 0; i < VICTIMS; i++)
        if (k.victims[i].closes == 0 && berth_conn_queued(k.victims[i].conn) == 0)
            (void)berth_send(k.victims[i].conn, filling, sizeof(filling));
    for (unsigned turn = 0; turn < 5; turn++)
        (void)rig_turn(&k.rig, 0);
}

static void
read_all(void)
{
    static char data[65536];
    for (unsigned i = 0; i < VICTIMS; i++)
        while (k.clients[i] >= 0 && rig_read(k.clients[i], data, sizeof(data)) > 0)
            ;
}

/** All of them are given a reason to call back, before anybody looks. */
static void
provoke(enum moment moment, unsigned round)
{
    if (moment == AT_DRAINED)
        fill_queues();
    for (unsigned i = 0; i < VICTIMS; i++) {
        if (moment == AT_DATA)
            (void)send(k.clients[i], "x", 1, MSG_NOSIGNAL);
        else if (moment == AT_EOF)
            (void)shutdown(k.clients[i], SHUT_WR);
    }
    struct victim *first = &k.victims[round % VICTIMS];
    if (moment == AT_CLOSE && berth_conn_find(k.rig.loop, first->token) != NULL) {
        ck_assert_int_eq(berth_conn_abort(first->conn), 0);
        first->dead = 1;
    }
}

static void
run_killing(const char *engine, enum moment moment, enum weapon weapon, unsigned one_in)
{
    struct berth_loop_options options;
    const uint64_t random = k.random;
    memset(&k, 0, sizeof(k));
    k.random = random;
    k.moment = moment == AT_OPEN ? AT_OPEN : MOMENTS;
    k.weapon = weapon;
    k.one_in = one_in;
    rig_options(&options, engine, NULL);
    options.close_timeout_ms = 300;
    options.send_high_bytes = 65536;
    options.send_low_bytes = 16384;
    rig_begin(&k.rig, &options, &handlers, NULL);
    const int small = 16384;
    (void)setsockopt(berth_listener_fd(k.rig.listener), SOL_SOCKET, SO_SNDBUF, &small,
                     sizeof(small));
    if (moment != AT_OPEN)
        k.one_in = UINT32_MAX; /* not yet */
    for (unsigned i = 0; i < VICTIMS; i++)
        k.clients[i] = rig_client(&k.rig);
    RIG_UNTIL(&k.rig, k.opened == VICTIMS, TURNS);
    k.moment = moment;
    k.one_in = one_in;
    for (unsigned round = 0; k.closed < VICTIMS && round < TURNS; round++) {
        provoke(moment == MOMENTS ? (enum moment)roll(MOMENTS) : moment, round);
        if (round == KILLING_ROUNDS) {
            ck_assert_msg(k.killed >= (moment == MOMENTS ? 1 : VICTIMS / 8),
                          "%s, moment %d, weapon %d, one in %u: %u killed", engine, moment, weapon,
                          one_in, k.killed);
            k.one_in = 1;
            for (unsigned i = 0; i < VICTIMS; i++)
                kill_one(&k.victims[i]);
        }
        (void)rig_turn(&k.rig, RIG_TURN_MS);
        if (round % 3 != 0)
            read_all();
    }
    ck_assert_msg(k.closed == VICTIMS, "%s, moment %d, weapon %d: %u closed", engine, moment,
                  weapon, k.closed);
    RIG_UNTIL(&k.rig, berth_loop_conns(k.rig.loop) == 0, TURNS);
    for (unsigned i = 0; i < VICTIMS; i++) {
        ck_assert_uint_eq(k.victims[i].closes, 1);
        ck_assert_int_eq(close(k.clients[i]), 0);
    }
    ck_assert_uint_eq(rig_stats(&k.rig).zombies, 0);
    rig_end(&k.rig);
}

/** The first one that is called kills all others, and itself; then some of them. */
START_TEST(from_one_kind_of_callback)
{
    RIG_ENGINE_OR_RETURN(engine);
    k.random = test_seed("from_one_kind_of_callback");
    for (int moment = 0; moment < MOMENTS; moment++)
        for (int weapon = 0; weapon < WEAPONS; weapon++)
            for (unsigned one_in = 1; one_in <= 16; one_in *= 4)
                run_killing(engine, (enum moment)moment, (enum weapon)weapon, one_in);
}
END_TEST

START_TEST(from_all_callbacks)
{
    RIG_ENGINE_OR_RETURN(engine);
    k.random = test_seed("from_all_callbacks");
    const uint64_t rounds = test_rounds("BERTH_ROUNDS", test_is_slow() ? 4 : 20);
    for (uint64_t round = 0; round < rounds; round++)
        run_killing(engine, MOMENTS, BY_EITHER, 4 + (unsigned)roll(60));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop killing");
    RIG_ADD(suite, from_one_kind_of_callback);
    RIG_ADD(suite, from_all_callbacks);
    return test_run(suite);
}
