/*
 * Counters: that each moves when what it counts happens, by how much where that is certain, and on
 * every engine; of a loop, of one connection, and the difference of two snapshots. What no kernel
 * does by itself is forced: registrations that stay, completions that never come, or come late.
 * Those of refusals and of send queues are counted in test_limits and test_send.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/between.h"
#include "loop/record.h"

#include <sys/un.h>

#ifdef BERTH_HAVE_EPOLL
#include <sys/epoll.h>
#endif

#include "support/sys_groups.h"

#define PIECE 1000
#define PIECES 5
#define BULK_BYTES ((size_t)1024 * 1024)

static void
echo_all(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    record_data(conn, spans, n, bytes);
    rig_echo(conn, spans, n, bytes);
}

static struct berth_conn_stats last_stats;

static void
close_counted(struct berth_conn *conn, int reason)
{
    ck_assert_int_eq(berth_conn_stats_get(conn, &last_stats), 0);
    record_close(conn, reason);
}

static const struct berth_handlers echoing = {
    .open = record_open, .data = echo_all, .eof = record_eof, .close = close_counted};

static void
begin(struct rig *rig, struct record *record, const char *engine, int conn_stats)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.conn_stats = conn_stats;
    memset(record, 0, sizeof(*record));
    memset(&last_stats, 0, sizeof(last_stats));
    record->rig = rig;
    rig_begin(rig, &options, conn_stats ? &echoing : &recording, record);
}

static struct berth_conn_stats
stats_of(struct rig *rig, berth_token token)
{
    struct berth_conn_stats stats;
    memset(&stats, 0xff, sizeof(stats));
    ck_assert_int_eq(berth_conn_stats_get(berth_conn_find(rig->loop, token), &stats), 0);
    return stats;
}

START_TEST(an_exact_life)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    char text[PIECE] = "";
    begin(&rig, &record, engine, 1);
    const struct berth_loop_stats before = rig_stats(&rig);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    const berth_token token = record.last;
    ck_assert_uint_gt(stats_of(&rig, token).opened_ms, 0);
    for (unsigned i = 0; i < PIECES; i++) {
        rig_write(client, text, sizeof(text));
        size_t back = 0;
        while (back < PIECE) {
            intptr_t got = -EAGAIN;
            RIG_UNTIL(&rig, (got = rig_read(client, text, sizeof(text))) > 0, TURNS);
            back += (size_t)got;
        }
    }
    RIG_UNTIL(&rig, stats_of(&rig, token).sent_bytes == PIECES * PIECE, TURNS);
    const struct berth_conn_stats conn = stats_of(&rig, token);
    struct berth_loop_stats during = rig_stats(&rig);
    berth_stats_delta(&during, &before, &during, sizeof(during));
    ck_assert_uint_eq(conn.received_bytes, PIECES * PIECE);
    ck_assert_uint_eq(conn.receives, record.datas);
    ck_assert_uint_ge(conn.receives, PIECES);
    ck_assert_uint_ge(conn.sends, PIECES);
    ck_assert_uint_eq(conn.starved, 0);
    ck_assert_uint_eq(conn.pauses, 0);
    ck_assert_uint_eq(during.accepted, 1);
    ck_assert_uint_eq(during.receives, conn.receives);
    ck_assert_uint_eq(during.sends, conn.sends);
    ck_assert_uint_eq(during.received_bytes, conn.received_bytes);
    ck_assert_uint_eq(during.sent_bytes, conn.sent_bytes);
    ck_assert_uint_eq(during.rearms, conn.rearms);
    ck_assert_uint_eq(during.closed, 0);
    ck_assert_uint_ge(during.turns, PIECES);
    ck_assert_uint_ge(during.syscalls, PIECES);
    ck_assert_uint_eq(during.stale + during.zombies + during.overflows + during.enobufs, 0);

    /* Of two snapshots of a connection, the difference. */
    struct berth_conn_stats later = conn;
    later.receives += 3;
    berth_stats_delta(&later, &conn, &later, sizeof(later));
    ck_assert_uint_eq(later.receives, 3);
    ck_assert_uint_eq(later.received_bytes, 0);

    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, token)), 0);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_uint_eq(last_stats.received_bytes, PIECES * PIECE); /* asked in the close callback */
    ck_assert_uint_eq(rig_stats(&rig).closed - before.closed, 1);
    ck_assert_int_eq(close(client), 0);

    /* The next one under that number begins with nothing. */
    const int next = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 2, TURNS);
    if (strcmp(engine, "uring-direct") != 0) /* its numbers come back a little later */
        ck_assert_uint_eq(berth_token_index(record.last), berth_token_index(token));
    ck_assert_uint_eq(stats_of(&rig, record.last).received_bytes, 0);
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, record.last)), 0);
    RIG_UNTIL(&rig, record.closes == 2, TURNS);
    ck_assert_int_eq(close(next), 0);
    record_end(&rig, &record);
}
END_TEST

START_TEST(none_without_the_option)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    struct berth_conn_stats stats;
    begin(&rig, &record, engine, 0);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
    ck_assert_int_eq(berth_conn_stats_get(conn, &stats), -ENOTSUP);
    ck_assert_int_eq(berth_conn_stats_get(conn, NULL), -EINVAL);
    ck_assert_int_eq(berth_conn_stats_get(NULL, &stats), -EINVAL);
    ck_assert_int_eq(berth_conn_close(conn), 0);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_int_eq(close(client), 0);
    record_end(&rig, &record);
}
END_TEST

START_TEST(where_they_came_from)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    int pair[2];
    char address[BERTH_ADDRESS_TEXT_MAX];
    begin(&rig, &record, engine, 0);
    memset(&mine, 0, sizeof(mine));
    mine.rig = &rig;
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &recording, &mine, NULL), 0);
    ck_assert_int_eq(berth_connect(rig.loop, address, &recording, &mine, NULL), 0);
    ck_assert_int_eq(
        berth_connect(rig.loop, "tcp://no-such-name.invalid:1", &recording, &mine, NULL), 0);
    RIG_UNTIL(&rig, mine.opens == 2 && record.opens == 1 && mine.closes == 1, 6000);
    const struct berth_loop_stats stats = rig_stats(&rig);
    ck_assert_uint_eq(stats.adopted, 1);
    ck_assert_uint_eq(stats.connected, 1);
    ck_assert_uint_eq(stats.accepted, 1);
    ck_assert_uint_eq(stats.lookups, 1);
    ck_assert_uint_eq(stats.closed, 1);
    ck_assert_int_eq(close(pair[1]), 0);
    ck_assert_int_eq(berth_loop_destroy(rig.loop), 0);
    ck_assert_uint_eq(mine.closes, 3);
    ck_assert_uint_eq(record.closes, 1);
    ck_assert_uint_eq(test_descriptors_open(), rig.descriptors);
}
END_TEST

/** More than its share of a turn: it stops, and goes on. */
START_TEST(shares_and_rearms)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    begin(&rig, &record, engine, 0);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    size_t left = BULK_BYTES;
    static const char zeroes[65536];
    for (unsigned turns = 0; left > 0 && turns < 10000; turns++) {
        const ssize_t sent = send(client, zeroes, left < sizeof(zeroes) ? left : sizeof(zeroes),
                                  MSG_NOSIGNAL | MSG_DONTWAIT);
        left -= sent > 0 ? (size_t)sent : 0;
        if (sent < 0)
            (void)rig_turn(&rig, RIG_TURN_MS);
    }
    ck_assert_uint_eq(left, 0);
    RIG_UNTIL(&rig, rig_stats(&rig).received_bytes == BULK_BYTES, TURNS);
    const struct berth_loop_stats stats = rig_stats(&rig);
    printf("%s: %u shares, %u rearms\n", engine, (unsigned)stats.fairness_stops,
           (unsigned)stats.rearms);
    /* A share is 64 KiB; who is alone may get more of them in one turn on io_uring. */
    ck_assert_uint_gt(stats.fairness_stops, 0);
    if (strncmp(engine, "uring", 5) == 0)
        ck_assert_uint_gt(stats.rearms, 0);
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, record.last)), 0);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_int_eq(close(client), 0);
    record_end(&rig, &record);
}
END_TEST

static berth_token pair_tokens[2];

static void
abort_other(struct record *record, struct berth_conn *conn)
{
    const unsigned other = berth_conn_token(conn) == pair_tokens[0];
    struct berth_conn *victim = berth_conn_find(record->rig->loop, pair_tokens[other]);
    if (victim != NULL)
        (void)berth_conn_abort(victim);
}

/** Who is closed by another's callback has an event of its own in the same batch: it is not lost.
 */
START_TEST(nothing_is_stale_by_itself)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int clients[2];
    begin(&rig, &record, engine, 0);
    for (unsigned i = 0; i < 2; i++) {
        clients[i] = rig_client(&rig);
        RIG_UNTIL(&rig, record.opens == i + 1, TURNS);
        pair_tokens[i] = record.last;
    }
    record.on_data = abort_other;
    rig_write(clients[0], "x", 1);
    rig_write(clients[1], "x", 1);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_uint_eq(record.datas, 1);
    ck_assert_int_eq(record.reason, -ECANCELED);
    ck_assert_uint_eq(rig_stats(&rig).stale, 0);
    ck_assert_uint_eq(rig_stats(&rig).ghosts + rig_stats(&rig).rebuilds, 0);
    record.on_data = NULL;
    for (unsigned i = 0; i < 2; i++) {
        struct berth_conn *conn = berth_conn_find(rig.loop, pair_tokens[i]);
        if (conn != NULL)
            ck_assert_int_eq(berth_conn_close(conn), 0);
    }
    rig_close_all(&rig, clients, 2);
    record_end(&rig, &record);
}
END_TEST

#ifdef BERTH_HAVE_EPOLL
static intptr_t
keep_registrations(int set, int op, int fd, struct epoll_event *event)
{
    return op == EPOLL_CTL_DEL ? -EIO : sys_direct_epoll_ctl(set, op, fd, event);
}

/**
 * A registration outlives its connection, because somebody else has the socket too. It goes when it
 * can be removed by its number (a ghost), and else with the whole set.
 */
START_TEST(ghosts_and_rebuilds)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    if (strcmp(engine, "epoll") != 0)
        return;
    begin(&rig, &record, engine, 0);
    for (int removable = 1; removable >= 0; removable--) {
        const struct berth_loop_stats before = rig_stats(&rig);
        const int client = rig_client(&rig);
        RIG_UNTIL(&rig, record.opens == 2 - (unsigned)removable, TURNS);
        const int number = (int)berth_token_index(record.last);
        const int copy = dup(number);
        ck_assert_int_ge(copy, 0);
        berth_sys_epoll_ctl = keep_registrations;
        ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, record.last)), 0);
        RIG_UNTIL(&rig, record.closes == record.opens, TURNS);
        berth_sys_epoll_ctl = sys_direct_epoll_ctl;
        ck_assert_uint_eq(rig_stats(&rig).stale, before.stale);
        if (removable)
            ck_assert_int_eq(dup2(copy, number), number);
        for (unsigned i = 0; i < 200 && rig_stats(&rig).ghosts + rig_stats(&rig).rebuilds ==
                                            before.ghosts + before.rebuilds;
             i++) {
            rig_write(client, "boo", 3);
            (void)rig_turn(&rig, RIG_TURN_MS);
        }
        struct berth_loop_stats stats = rig_stats(&rig);
        berth_stats_delta(&stats, &before, &stats, sizeof(stats));
        ck_assert_uint_eq(stats.ghosts, (unsigned)removable);
        ck_assert_uint_eq(stats.rebuilds, 1 - (unsigned)removable);
        ck_assert(removable ? stats.stale == 1 : stats.stale > 1);
        rig_write(client, "boo", 3);
        (void)rig_turn(&rig, 0);
        ck_assert_uint_eq(rig_stats(&rig).stale, before.stale + stats.stale); /* it has gone */
        ck_assert_int_eq(close(copy), 0);
        if (removable)
            ck_assert_int_eq(close(number), 0);
        ck_assert_int_eq(close(client), 0);
    }
    record_end(&rig, &record);
}
END_TEST
#endif

#ifdef BERTH_HAVE_LIBURING
static struct {
    struct io_uring_cqe completion;
    unsigned count;
    unsigned receive_op;
} late;

static void
note_receives(struct io_uring_sqe *submission)
{
    if (submission->opcode == IORING_OP_RECV)
        late.receive_op = berth_token_op(submission->user_data);
}

/** A receive never ends. */
static void
hold_ends(const struct io_uring_cqe *completion)
{
    if (berth_token_op(completion->user_data) == late.receive_op &&
        !(completion->flags & IORING_CQE_F_MORE)) {
        memcpy(&late.completion, completion, sizeof(*completion));
        late.count++;
        return;
    }
    between_post(completion->user_data, completion->res, completion->flags);
}

/** One is set aside after five seconds, and what comes when it is gone is stale. */
START_TEST(zombies_and_stale_completions)
{
    struct rig rig;
    struct record record;
    if (!rig_has("uring"))
        return;
    memset(&late, 0, sizeof(late));
    between_begin();
    between.on_submission = note_receives;
    begin(&rig, &record, "uring", 0);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    (void)rig_turn(&rig, 0);
    between.on_completion = hold_ends;
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, record.last)), 0);
    RIG_UNTIL(&rig, late.count == 1, TURNS);
    between_pass(4900);
    (void)rig_turn(&rig, 0);
    ck_assert_uint_eq(rig_stats(&rig).zombies, 0);
    between_pass(200);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_uint_eq(rig_stats(&rig).zombies, 1);
    ck_assert_uint_eq(rig_stats(&rig).stale, 0);
    between.on_completion = NULL;
    for (unsigned i = 0; i < 2; i++) { /* the second time it is about nobody */
        between_post(late.completion.user_data, late.completion.res, late.completion.flags);
        (void)rig_turn(&rig, 0);
        ck_assert_uint_eq(rig_stats(&rig).stale, i);
    }
    ck_assert_uint_eq(rig_stats(&rig).zombies, 1); /* counted, not held */
    ck_assert_int_eq(close(client), 0);
    record_end(&rig, &record);
    faults_reset();
}
END_TEST
#endif

static Suite *
stats_suite(void)
{
    Suite *suite = suite_create("stats");
    RIG_ADD(suite, an_exact_life);
    RIG_ADD(suite, none_without_the_option);
    RIG_ADD(suite, where_they_came_from);
    RIG_ADD(suite, shares_and_rearms);
    RIG_ADD(suite, nothing_is_stale_by_itself);
#ifdef BERTH_HAVE_EPOLL
    RIG_ADD(suite, ghosts_and_rebuilds);
#endif
#ifdef BERTH_HAVE_LIBURING
    RIG_ADD_COUNTED(suite, zombies_and_stale_completions, 1);
#endif
    return suite;
}

int
main(void)
{
    return test_run(stats_suite());
}
