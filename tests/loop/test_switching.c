/*
 * Long streams in both directions, between plain sockets and connections of two loops of any
 * engines, while everything that may be switched is switched at random: credit, pauses, leases that
 * are kept, pools that run short, sizes and ways of sending, readers that stop, timeouts, the time
 * itself, and the loop that a connection belongs to. Every byte is compared where it arrives; every
 * stream ends in order, and nothing of it is missing.
 *
 * What is switched at any moment is in switches.h, and what is chosen for a whole loop is here.
 * When the test is over it says how often each was really done; in a long run that must not be
 * never.
 *
 * Each round is two loops, and repeats itself from its seed: BERTH_SEED, printed when it fails.
 * BERTH_SWITCHING_SECONDS says for how long (with a sanitizer, for minutes).
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/switches.h"

#include <netinet/in.h>
#include <time.h>

/* ---- callbacks ------------------------------------------------------------------------------ */

static struct end *
end_of(struct berth_conn *conn)
{
    struct end *end = baggage_of(conn)->end;
    MUST(end != NULL && end->opened && !end->closed);
    MUST(baggage_of(conn)->hops == end->hops && baggage_of(conn)->key == end->key);
    MUST(berth_token_same(end->token, berth_conn_token(conn)));
    MUST(berth_conn_loop(conn) == w.rigs[end->at].loop);
    return end;
}

/** Of two connections to two loops the kernel may give both the same port. */
static int
is_awaited(const struct end *end, const struct berth_conn *conn)
{
    return end->at != LOOPS && berth_conn_loop(conn) == w.rigs[end->at].loop && !end->opened &&
           end->hops == 0;
}

/** An accepted one is recognised by its peer's name; the others bring their end along, and those
 *  that have moved their payload as well. */
static int
on_open(struct berth_conn *conn, void *ctx)
{
    struct end *end = ctx;
    char peer[BERTH_ADDRESS_TEXT_MAX];
    if (end == NULL)
        MUST(berth_conn_peer(conn, peer, sizeof(peer)) == 0);
    for (unsigned i = 0; end == NULL && i < w.links; i++)
        if (strcmp(w.ends[i][1].name, peer) == 0 && is_awaited(&w.ends[i][0], conn))
            end = &w.ends[i][0];
    MUST(end != NULL && !end->opened && !end->closed && !end->leaving);
    struct baggage *baggage = baggage_of(conn);
    MUST(baggage->end == (end->hops > 0 ? end : NULL) && baggage->hops == end->hops);
    if (end->hops > 0)
        MUST(berth_token_same(end->token, berth_conn_token(conn)));
    else
        cold_arrives(end, conn);
    *baggage = (struct baggage){.end = end, .hops = end->hops, .key = end->key};
    end->opened = 1;
    end->token = berth_conn_token(conn);
    w.moved++;
    if (!w.calm && roll(8) == 0)
        (void)move(end, conn); /* before anything has been received */
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
    MUST(reason == 0 && !end->leaving && end->eof && end->shut && end->sent == end->total);
    end->closed = 1;
    w.moved++;
}

static void
on_timeout(struct berth_conn *conn, enum berth_timeout kind)
{
    (void)end_of(conn);
    printf("timeout %d after %llu ms\n", (int)kind,
           (unsigned long long)(clock_now_ms - w.began_ms));
    MUST(!"a timeout that is not over");
}

static const struct berth_handlers handlers = {.open = on_open,
                                               .data = on_data,
                                               .drained = on_drained,
                                               .eof = on_eof,
                                               .timeout = on_timeout,
                                               .close = on_close};

/* ---- features ------------------------------------------------------------------------------- */

/** What a loop on io_uring may do without, by what berth_loop_explain says of it. */
static struct {
    const char *name;
    unsigned used, off; /**< loops with it, and without because of the option */
} features[] = {{"multishot", 0, 0}, {"poll-first", 0, 0},  {"limits", 0, 0},
                {"bundles", 0, 0},   {"incremental", 0, 0}, {"incremental-bundles", 0, 0}};
#define FEATURES (sizeof(features) / sizeof(features[0]))

/** Of all rounds: loops of each engine, and those that can have lanes. */
static unsigned loops_of[RIG_ENGINES], loops_with_lanes;

/** Without some of them, or of every second loop with all that this kernel can do. Engines that
 *  have no features take the list as well. */
static void
choose_features(unsigned i)
{
    char *text = w.features[i];
    size_t used = 0;
    if (roll(2) != 0)
        return;
    for (size_t k = 0; k < FEATURES; k++)
        if (roll(3) == 0)
            used += (size_t)snprintf(text + used, sizeof(w.features[i]) - used, "%s-%s",
                                     used ? "," : "", features[k].name);
    static const char *const others[] = {"-demotion", "+direct", "-zerocopy", "+zerocopy"};
    for (size_t k = 0; k < 4; k++)
        if (roll(3) == 0)
            used += (size_t)snprintf(text + used, sizeof(w.features[i]) - used, "%s%s",
                                     used ? "," : "", others[k]);
    MUST(used < sizeof(w.features[i]));
    w.options[i].features = text;
}

static void
note_features(unsigned i)
{
    char text[4096], line[64];
    MUST(berth_loop_explain(w.rigs[i].loop, text, sizeof(text)) < (int)sizeof(text));
    loops_of[w.engine_numbers[i]]++;
    loops_with_lanes += strstr(text, "of its own (incremental)") != NULL;
    for (size_t k = 0; k < FEATURES; k++) {
        (void)snprintf(line, sizeof(line), "feature %s: works\n", features[k].name);
        features[k].used += strstr(text, line) != NULL;
        (void)snprintf(line, sizeof(line), "feature %s: works; switched off by option\n",
                       features[k].name);
        features[k].off += strstr(text, line) != NULL;
    }
}

/* ---- rounds --------------------------------------------------------------------------------- */

static int has_engine[RIG_ENGINES];

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
    ends[1].modest = ends[1].at != LOOPS;
}

static void
make_loop(unsigned i)
{
    static const uint32_t highs[] = {2, 4096, 65536, 256 * 1024}, idle[] = {0, 1000, 10000};
    static const uint32_t in_place[] = {1, 4096, 16384, BERTH_ZEROCOPY_NEVER};
    struct berth_loop_options *options = &w.options[i];
    do
        w.engine_numbers[i] = (unsigned)roll(RIG_ENGINES);
    while (!has_engine[w.engine_numbers[i]]);
    w.engines[i] = rig_engines[w.engine_numbers[i]];
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
    options->cold_bytes = roll(2) ? 64 : 0;
    options->idle_park_ms = idle[roll(3)];
    options->conn_stats = roll(4) == 0;
    options->zerocopy_bytes = in_place[roll(4)];
    options->zerocopy_pinned_max = roll(2) ? 1 << 20 : 64 << 20;
    choose_features(i);
    rig_begin(&w.rigs[i], options, &handlers, NULL);
    note_features(i);
}

static void
begin_round(void)
{
    memset(&w, 0, sizeof(w));
    w.random = seed;
    w.bytes_max = WAYS_BYTES_MAX;
    w.ways = (1u << WAY_COUNT) - 1;
    w.handlers = &handlers;
    /* Also where the low half of the time begins anew. */
    w.began_ms = clock_now_ms = roll(2) ? 1000 : UINT32_MAX - roll(20000);
    for (unsigned i = 0; i < LOOPS; i++)
        make_loop(i);
    w.links = 1 + (unsigned)roll(test_is_slow() ? 4 : LINKS_MAX);
    for (unsigned i = 0; i < w.links; i++)
        make_link(w.ends[i]);
}

/** Whether it has a lane: asked of its slot, because no call tells. */
static void
look_for_lane(struct end *end, const struct berth_conn *conn)
{
    const struct berth_slot *slot = (const struct berth_slot *)(const void *)conn;
    const int lane = rig_is_uring(w.engines[end->at]) && (slot->flags & BERTH_SLOT_DRIVER_4) != 0;
    sum.lanes_left += end->lane && !lane;
    end->lane = lane != 0;
}

/** An end does what it does between turns. Whether it is not yet through. */
static int
act(struct end *end)
{
    struct berth_conn *conn = conn_of(end);
    if (end->fd >= 0) {
        for (unsigned more = w.step < w.burst_until ? 16 : 1; more > 0 && socket_sends(end);)
            more--;
        socket_receives(end);
        if (end->shut && end->eof) {
            MUST(close(end->fd) == 0);
            end->fd = -1;
            end->closed = 1;
        }
    } else if (conn != NULL) {
        look_for_lane(end, conn);
        if (end->paused_until != 0 && !end->leaving && (w.calm || w.step >= end->paused_until))
            (void)set_credit(end, conn, BERTH_CREDIT_UNLIMITED);
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
    (void)time_passes(1);
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
    for (unsigned i = 0; i < LOOPS; i++)
        printf("loop %u, %s: %s\n", i, w.engines[i], w.features[i]);
    for (unsigned i = 0; i < w.links; i++)
        for (unsigned side = 0; side < 2; side++) {
            const struct end *end = &w.ends[i][side];
            printf("link %u.%u, %s: sent %llu of %llu, got %llu%s%s%s%s%s\n", i, side,
                   end->at == LOOPS ? "socket" : w.engines[end->at], (unsigned long long)end->sent,
                   (unsigned long long)end->total, (unsigned long long)end->got,
                   end->opened ? " opened" : "", end->eof ? " eof" : "", end->shut ? " shut" : "",
                   end->closed ? " closed" : "", end->leaving ? " leaving" : "");
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
        sum.in_place += stats.zerocopy_sends;
        sum.demotions += stats.demotions;
        sum.promotions += stats.promotions;
        MUST(stats.zombies == 0);
        RIG_UNTIL(&w.rigs[i], (clock_now_ms += RIG_TURN_MS, berth_loop_conns(w.rigs[i].loop) == 0),
                  1000);
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

/* ---- what was done -------------------------------------------------------------------------- */

/** However slow the machine. */
#define ROUNDS_MIN 3

/** In a run of so many seconds there is nothing that does not happen. */
#define LONG_S 60

static int is_long;

/** Of something that this machine has, or has not. */
static void
report(const char *what, uint64_t times, int available)
{
    printf("%s: %llu times%s\n", what, (unsigned long long)times,
           available ? "" : ", not to be had here");
    if (is_long && available)
        ck_assert_msg(times > 0, "%s: never, in %llu rounds", what, (unsigned long long)sum.rounds);
}

static void
report_loops(void)
{
    char what[96];
    const int uring = has_engine[0];
    for (unsigned i = 0; i < RIG_ENGINES; i++) {
        (void)snprintf(what, sizeof(what), "loop on %s", rig_engines[i]);
        report(what, loops_of[i], has_engine[i]);
    }
    for (size_t k = 0; k < FEATURES; k++) {
        /* What the environment rules on, or the kernel, has only one way. */
        const int both = uring && getenv("BERTH_FEATURES") == NULL && features[k].used > 0;
        (void)snprintf(what, sizeof(what), "loop without %s", features[k].name);
        report(what, features[k].off, both);
        (void)snprintf(what, sizeof(what), "loop with %s", features[k].name);
        report(what, features[k].used, both || features[k].off > 0);
    }
    for (unsigned from = 0; from < RIG_ENGINES; from++)
        for (unsigned to = 0; to < RIG_ENGINES; to++) {
            (void)snprintf(what, sizeof(what), "moved from %s to %s", rig_engines[from],
                           rig_engines[to]);
            report(what, sum.moves[from][to], has_engine[from] && has_engine[to]);
        }
}

static void
report_all(void)
{
    const int uring = has_engine[0] || has_engine[3];
    printf("%llu rounds, %llu MiB in and out; posted again %llu times, moves outrun %llu\n",
           (unsigned long long)sum.rounds, (unsigned long long)sum.bytes >> 20,
           (unsigned long long)sum.rearms, (unsigned long long)sum.moves_outrun);
    for (size_t i = 0; i < SWITCHES; i++)
        report(switches[i].name, flips[i], strcmp(switches[i].name, "parking") != 0 || uring);
    report("starved", sum.starved, 1);
    report("without buffer", sum.enobufs, uring);
    report("shares used up", sum.fairness_stops, 1);
    report("paused by the queue", sum.pauses, 1);
    report("span kept", sum.held, 1);
    report("parked", sum.demotions, uring);
    report("parked no more", sum.promotions, uring);
    report("sent in place", sum.in_place, 1);
    report("lane opened", sum.lanes, loops_with_lanes > 0);
    report("lane given up", sum.lanes_left, loops_with_lanes > 0);
    report("lane left behind by a move", sum.lanes_moved, loops_with_lanes > 0);
    report("timeout set", sum.timeouts_set, 1);
    report("timeout cleared", sum.timeouts_cleared, 1);
    report("moved without credit", sum.moves_paused, 1);
    report("moved with one side ended", sum.moves_ended, 1);
    report("moved with a cold record", sum.moves_cold, 1);
    report_loops();
}

START_TEST(random_switches)
{
    seed = test_seed("random_switches");
    const uint64_t seconds = test_rounds("BERTH_SWITCHING_SECONDS", 3);
    const time_t until = time(NULL) + (time_t)seconds;
    is_long = seconds >= LONG_S;
    memset(&sum, 0, sizeof(sum));
    for (unsigned i = 0; i < RIG_ENGINES; i++)
        has_engine[i] = rig_has(rig_engines[i]);
    clock_begin(1000); /* what this kernel can do has been tried by now, in real time */
    do {
        run_round();
        seed++;
        sum.rounds++;
    } while (sum.rounds < ROUNDS_MIN || time(NULL) < until);
    clock_end();
    report_all();
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
