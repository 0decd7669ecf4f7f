/*
 * Many streams at once that do anything at any time: pieces of every size in every way, pauses,
 * half-closes, closes, resets, credit given and taken, leases kept for some turns and then sent on,
 * to whomever, parked when it is least convenient; in loops with large and small buffers, marks and
 * pools. Every byte is compared where it arrives, and when a stream has ended in order, nothing of
 * it may be missing.
 *
 * Each round is one loop, and repeats itself from its seed: BERTH_SEED, printed when it fails.
 * BERTH_SECONDS says for how long each engine is tried.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/streams.h"

#include <netinet/in.h>
#include <time.h>

/* ---- the server's side ---------------------------------------------------------------------- */

static struct stream *
stream_of(const struct berth_conn *conn)
{
    struct stream *stream;
    memcpy(&stream, berth_conn_payload((struct berth_conn *)(uintptr_t)conn), sizeof(stream));
    MUST(stream != NULL && stream->live && stream->opened && !stream->closed);
    MUST(berth_token_same(stream->token, berth_conn_token(conn)));
    return stream;
}

/** Whose client has that port. */
static struct stream *
find_by_port(const struct berth_conn *conn)
{
    struct sockaddr_in address;
    socklen_t size = sizeof(address);
    memset(&address, 0, sizeof(address));
    /* A peer that has gone already has taken its name with it: it is one of those. */
    const int fd = berth_conn_fd_install(conn);
    MUST(fd >= 0);
    const int named = getpeername(fd, (struct sockaddr *)(void *)&address, &size) == 0;
    MUST(close(fd) == 0);
    for (unsigned i = 0; i < w.count; i++) {
        struct stream *stream = &w.streams[i];
        if (stream->live && !stream->opened && stream->port != 0 &&
            (named ? stream->port == ntohs(address.sin_port) : stream->client < 0))
            return stream;
    }
    return NULL;
}

static int
on_open(struct berth_conn *conn, void *ctx)
{
    struct stream *stream = ctx != NULL ? ctx : find_by_port(conn);
    MUST(stream != NULL && !stream->opened);
    /* TCP waits for its timers when there is room for less than a segment. */
    const int bytes = ctx != NULL ? 4096 << roll(4) : 16384 << roll(3);
    if (roll(4) != 0) {
        const int fd = berth_conn_fd_install(conn);
        MUST(fd >= 0);
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
        MUST(close(fd) == 0);
    }
    stream->opened = 1;
    stream->token = berth_conn_token(conn);
    memcpy(berth_conn_payload(conn), &stream, sizeof(stream));
    w.moved++;
    return 0;
}

/** After a send: the model of the queue, and of the high mark. */
static void
after_send(struct stream *stream, const struct berth_conn *conn, int error, size_t length)
{
    if (error) {
        MUST(error == (stream->shut ? -EPIPE : -ENOBUFS));
        return;
    }
    MUST(!stream->shut);
    stream->down_queued += length;
    w.moved += length;
    if (berth_conn_queued(conn) >= w.options.send_high_bytes)
        stream->high = 1;
}

/** Whom a callback of one connection may send something to: any of them. */
static struct berth_conn *
any_conn(struct stream **stream)
{
    *stream = &w.streams[roll(w.count)];
    if (!(*stream)->live || !(*stream)->opened || (*stream)->closed || (*stream)->shut)
        return NULL;
    return berth_conn_find(w.rig.loop, (*stream)->token);
}

static size_t
down_left(const struct stream *stream, size_t length)
{
    const uint64_t left = stream->down_total - stream->down_queued;
    return left < length ? (size_t)left : length;
}

static void
send_something(struct stream *stream, struct berth_conn *conn)
{
    const size_t length = down_left(stream, ways_length(&w.random, w.bytes_max));
    if (length == 0 || stream->shut)
        return;
    const int error = ways_send(conn, (enum way)roll(WAY_COUNT), stream->down, stream->down_queued,
                                length, &w.random);
    after_send(stream, conn, error, length);
}

/** Changes something else than bytes. Ends what has sent all it meant to. */
static void
control(struct stream *stream, struct berth_conn *conn)
{
    static const size_t credits[] = {0, 1, 1000, 4096, 30000, BERTH_CREDIT_UNLIMITED};
    if (stream->closed || stream->ended)
        return;
    if (stream->down_queued == stream->down_total && !stream->shut) {
        MUST(berth_conn_shutdown(conn) == 0);
        stream->shut = 1;
    } else if (stream->age >= CALM_AGE ? stream->limited : roll(4) == 0) {
        const size_t credit = credits[stream->age >= CALM_AGE ? 5 : roll(6)];
        MUST(berth_conn_credit(conn, credit) == 0);
        stream->limited = credit != BERTH_CREDIT_UNLIMITED;
    } else if (roll(800) == 0) {
        MUST(berth_conn_abort(conn) == 0);
        stream->shut = stream->broken = stream->ended = 1;
    } else if (roll(800) == 0) {
        MUST(berth_conn_close(conn) == 0);
        stream->shut = stream->broken = stream->ended = 1;
    }
}

/** Keeps part of a span for some turns. Returns how much of its front is kept. */
static uint32_t
hold(const struct stream *stream, const struct berth_span *span)
{
    struct held *held = &w.held[w.held_count];
    if (w.held_count == HELD_MAX)
        return 0;
    const uint32_t length = 1 + (uint32_t)roll(span->length);
    const int error = berth_retain(berth_loop_pool(w.rig.loop), span, 0, length,
                                   roll(2) ? BERTH_MAY_COPY : 0, &held->lease);
    MUST(error == 0);
    held->key = stream->up;
    held->position = stream->up_received;
    held->due = w.step + (unsigned)roll(roll(4) ? 20 : 300);
    w.held_count++;
    return length;
}

/** Sends what is left of a span, whole or in two, back or to somebody else. */
static void
pass_on(struct stream *stream, struct berth_conn *conn, const struct berth_span *span,
        uint32_t offset)
{
    for (unsigned parts = 0; parts < 3 && offset < span->length; parts++) {
        uint32_t length = span->length - offset;
        if (roll(2))
            length = 1 + (uint32_t)roll(length);
        if (roll(3) == 0)
            conn = any_conn(&stream);
        if (conn == NULL)
            return;
        length = (uint32_t)down_left(stream, length);
        if (length == 0 || stream->shut)
            return;
        const int error =
            ways_send_span(conn, span, offset, length, stream->down, stream->down_queued);
        after_send(stream, conn, error, length);
        offset += length;
    }
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct stream *stream = stream_of(conn);
    MUST(!stream->eof);
    for (unsigned i = 0; i < n; i++) {
        MUST(ways_same(spans[i].data, spans[i].length, stream->up, stream->up_received));
        const uint32_t kept = roll(4) == 0 ? hold(stream, &spans[i]) : 0;
        stream->up_received += spans[i].length;
        MUST(stream->up_received <= stream->up_written);
        if (roll(2))
            pass_on(stream, conn, &spans[i], kept);
    }
    w.moved += bytes;
    if (roll(4) == 0)
        send_something(stream, conn);
    if (roll(4) == 0)
        control(stream, conn);
    if (w.parking != 0 && roll(100) == 0)
        MUST(berth_loop_park_idle(w.rig.loop, 0) >= 0);
}

static void
on_drained(struct berth_conn *conn)
{
    struct stream *stream = stream_of(conn);
    MUST(stream->high && !stream->shut);
    MUST(berth_conn_queued(conn) <= w.options.send_low_bytes);
    stream->high = 0;
    while (!stream->high && down_left(stream, 1) > 0 && roll(8) != 0)
        send_something(stream, conn);
}

static void
on_eof(struct berth_conn *conn)
{
    struct stream *stream = stream_of(conn);
    MUST(!stream->eof && (stream->half || stream->broken));
    MUST(stream->up_received == stream->up_written || stream->broken);
    stream->eof = 1;
    w.moved++;
    control(stream, conn);
}

static void
on_close(struct berth_conn *conn, int reason)
{
    struct stream *stream = stream_of(conn);
    MUST(stream->broken || reason == 0);
    MUST(stream->broken || (stream->eof && stream->shut));
    MUST(berth_conn_find(w.rig.loop, stream->token) == NULL);
    stream->closed = 1;
    w.moved++;
}

static const struct berth_handlers handlers = {
    .open = on_open, .data = on_data, .drained = on_drained, .eof = on_eof, .close = on_close};

/** Between turns, as a program's timer or another connection's business would. */
static void
server_acts(struct stream *stream)
{
    struct berth_conn *conn =
        stream->opened && !stream->closed ? berth_conn_find(w.rig.loop, stream->token) : NULL;
    if (conn == NULL)
        return;
    if (!stream->high && roll(3) == 0)
        send_something(stream, conn);
    if (roll(16) == 0 || stream->age >= CALM_AGE || stream->down_queued == stream->down_total)
        control(stream, conn);
}

/** A lease whose time has come: it is as it was; then it goes back, or out as something else. */
static void
let_go(const struct held *held)
{
    struct berth_pool *pool = berth_loop_pool(w.rig.loop);
    unsigned char *data = berth_lease_data(pool, held->lease);
    MUST(data != NULL && ways_same(data, held->lease.length, held->key, held->position));
    struct stream *stream;
    struct berth_conn *conn = any_conn(&stream);
    int error = -EPIPE;
    if (conn != NULL && down_left(stream, held->lease.length) == held->lease.length && roll(2)) {
        ways_fill(data, held->lease.length, stream->down, stream->down_queued);
        error = berth_send_lease(conn, held->lease);
        after_send(stream, conn, error, held->lease.length);
    }
    if (error)
        MUST(berth_release(pool, held->lease) == 0);
}

static void
let_go_of_the_due(int all)
{
    for (unsigned i = 0; i < w.held_count;) {
        if (!all && w.held[i].due > w.step) {
            i++;
            continue;
        }
        const struct held held = w.held[i];
        w.held[i] = w.held[--w.held_count];
        let_go(&held);
    }
}

/* ---- the client's side ---------------------------------------------------------------------- */

static void
client_leaves(struct stream *stream, int reset)
{
    if (reset)
        rig_reset(stream->client);
    else
        ck_assert_int_eq(close(stream->client), 0);
    stream->client = -1;
    w.moved++;
}

static void
client_writes(struct stream *stream)
{
    const uint64_t left = stream->up_total - stream->up_written;
    const size_t wanted = ways_length(&w.random, w.bytes_max);
    const size_t length = left < wanted ? (size_t)left : wanted;
    if (length > 0) {
        const ssize_t sent =
            send(stream->client, ways_bytes(stream->up, stream->up_written, length), length,
                 MSG_NOSIGNAL | MSG_DONTWAIT);
        MUST(sent > 0 || errno == EAGAIN || stream->broken);
        stream->up_written += sent > 0 ? (uint64_t)sent : 0;
        w.moved += sent > 0 ? (uint64_t)sent : 0;
    } else if (!stream->half) {
        MUST(shutdown(stream->client, SHUT_WR) == 0 || stream->broken);
        stream->half = 1;
    }
}

static void
client_reads(struct stream *stream)
{
    static unsigned char data[WAYS_BYTES_MAX];
    const intptr_t got = rig_read(stream->client, data, ways_length(&w.random, sizeof(data)));
    if (got > 0) {
        MUST(ways_same(data, (size_t)got, stream->down, stream->down_read));
        stream->down_read += (uint64_t)got;
        MUST(stream->down_read <= stream->down_queued);
        w.moved += (uint64_t)got;
    } else if (got == 0 || got != -EAGAIN) {
        MUST(stream->broken || (got == 0 && stream->shut));
        MUST(stream->broken || stream->down_read == stream->down_queued);
        if (stream->half || stream->broken)
            client_leaves(stream, 0);
    }
}

static void
client_acts(struct stream *stream)
{
    if (stream->pause > 0 && stream->age < CALM_AGE) {
        stream->pause--;
        return;
    }
    if (roll(2))
        client_writes(stream);
    if (roll(stream->slowness) == 0 || stream->age >= CALM_AGE)
        client_reads(stream);
    if (stream->client >= 0 && roll(2000) == 0) {
        stream->broken = 1;
        client_leaves(stream, roll(2) != 0);
    }
    if (roll(50) == 0)
        stream->pause = (unsigned)roll(100);
}

/* ---- lives ---------------------------------------------------------------------------------- */

/** A new connection, accepted or adopted. */
static void
be_born(struct stream *stream)
{
    memset(stream, 0, sizeof(*stream));
    stream->live = 1;
    stream->up = w.next_key++;
    stream->down = w.next_key++;
    stream->up_total = roll(2) ? roll(4 * w.bytes_max) : ways_length(&w.random, w.bytes_max);
    stream->down_total = roll(2) ? roll(4 * w.bytes_max) : ways_length(&w.random, w.bytes_max);
    stream->slowness = 1 + (unsigned)(roll(2) * roll(40));
    const int bytes = 16384 << roll(4);
    if (roll(2)) {
        struct sockaddr_in address;
        socklen_t size = sizeof(address);
        stream->client = rig_client(&w.rig);
        MUST(getsockname(stream->client, (struct sockaddr *)(void *)&address, &size) == 0);
        stream->port = ntohs(address.sin_port);
    } else {
        int pair[2];
        berth_token token;
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        MUST(berth_adopt(w.rig.loop, pair[1], &handlers, stream, &token) == 0);
        stream->client = pair[0];
    }
    if (roll(2))
        (void)setsockopt(stream->client, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    if (roll(2))
        (void)setsockopt(stream->client, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

/** Both ends are done: nothing may be missing, unless one of them did not wait. */
static void
die(struct stream *stream)
{
    if (!stream->broken) {
        MUST(stream->up_written == stream->up_total && stream->up_received == stream->up_written);
        MUST(stream->down_queued == stream->down_total);
        MUST(stream->down_read == stream->down_queued);
    }
    MUST(berth_conn_find(w.rig.loop, stream->token) == NULL);
    stream->live = 0;
    if (w.lives > 0) {
        w.lives--;
        be_born(stream);
    }
}

/** Everybody may do something. Returns how many streams are left. */
static unsigned
step(void)
{
    unsigned live = 0;
    w.step++;
    for (unsigned i = 0; i < w.count; i++) {
        struct stream *stream = &w.streams[i];
        if (!stream->live)
            continue;
        live++;
        stream->age++;
        if (stream->client >= 0)
            client_acts(stream);
        server_acts(stream);
        if (stream->closed && stream->client < 0)
            die(stream);
    }
    let_go_of_the_due(0);
    if (w.parking != 0 && roll(w.parking) == 0)
        MUST(berth_loop_park_idle(w.rig.loop, 0) >= 0);
    return live;
}

/* ---- rounds --------------------------------------------------------------------------------- */

/** A pool of which all but some buffers of the usual class are taken. */
static void
make_scarce(void)
{
    struct berth_pool *pool = berth_loop_pool(w.rig.loop);
    const uint32_t left = 24 + (uint32_t)roll(60);
    while (berth_pool_available(pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE) > left)
        MUST(berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE, &w.hogged[w.hogged_count++]) ==
             0);
}

static void
begin_round(const char *engine)
{
    static const uint32_t highs[] = {2, 4096, 65536, 256 * 1024};
    static const unsigned parkings[] = {0, 1, 4, 30};
    memset(&w, 0, sizeof(w));
    w.random = seed;
    rig_options(&w.options, engine, &w.pool);
    berth_pool_options_init(&w.pool);
    const int small_pool = roll(2) != 0;
    if (small_pool) {
        w.pool.bytes_max = 16 << 20;
        for (int i = 0; i < BERTH_CLASS_COUNT; i++)
            w.pool.class_bytes_max[i] = 2 << 20;
    }
    w.options.receive_buffers = roll(2) ? 16 : 1024;
    w.options.send_high_bytes = highs[roll(4)];
    w.options.send_low_bytes = w.options.send_high_bytes / 4;
    w.options.send_max_bytes = w.options.send_high_bytes << (1 + roll(5));
    w.options.fairness_bytes = roll(2) ? 4096 : 65536;
    w.options.events_max = roll(2) ? 16 : 1024;
    w.options.keep_receiving = roll(3) == 0;
    w.options.close_timeout_ms = 5000; /* what is read in place is waited for so long */
    w.parking = parkings[roll(4)];
    rig_begin(&w.rig, &w.options, &handlers, NULL);
    if (small_pool && roll(2))
        make_scarce();
    w.bytes_max = (size_t)2000 << roll(test_is_slow() ? 5 : 7);
    if (w.bytes_max > WAYS_BYTES_MAX)
        w.bytes_max = WAYS_BYTES_MAX;
    w.count = 1 + (unsigned)roll(test_is_slow() ? 12 : STREAMS_MAX);
    w.lives = w.count;
    w.next_key = 1 + (uint32_t)roll(1000);
    for (unsigned i = 0; i < w.count; i++)
        be_born(&w.streams[i]);
}

static void
show_the_living(void)
{
    for (unsigned i = 0; i < w.count; i++) {
        const struct stream *s = &w.streams[i];
        if (s->live)
            printf("stream %u: up %llu/%llu/%llu down %llu/%llu/%llu%s%s%s%s%s%s%s%s client %d\n",
                   i, (unsigned long long)s->up_total, (unsigned long long)s->up_written,
                   (unsigned long long)s->up_received, (unsigned long long)s->down_total,
                   (unsigned long long)s->down_queued, (unsigned long long)s->down_read,
                   s->opened ? " opened" : "", s->eof ? " eof" : "", s->closed ? " closed" : "",
                   s->high ? " high" : "", s->shut ? " shut" : "", s->limited ? " limited" : "",
                   s->half ? " half" : "", s->broken ? " broken" : "", s->client);
    }
    (void)fflush(stdout);
}

static void
end_round(void)
{
    struct berth_pool *pool = berth_loop_pool(w.rig.loop);
    let_go_of_the_due(1);
    for (unsigned i = 0; i < w.hogged_count; i++)
        MUST(berth_release(pool, w.hogged[i]) == 0);
    MUST(rig_stats(&w.rig).zombies == 0);
    demotions += rig_stats(&w.rig).demotions;
    ways_end(&w.rig);
}

static void
run_round(const char *engine)
{
    begin_round(engine);
    unsigned idle = 0;
    uint64_t moved = w.moved;
    while (step() > 0) {
        idle = w.moved != moved ? 0 : idle + 1;
        if (idle == IDLE_MAX)
            show_the_living();
        MUST(idle < IDLE_MAX);
        (void)rig_turn(&w.rig, idle > 10 ? 1 : 0);
        if (idle == 0)
            moved = w.moved;
    }
    end_round();
}

START_TEST(random_streams)
{
    RIG_ENGINE_OR_RETURN(engine);
    engine_name = engine;
    seed = test_seed(engine);
    demotions = 0;
    const time_t until = time(NULL) + (time_t)test_rounds("BERTH_SECONDS", 2);
    unsigned rounds = 0;
    do {
        run_round(engine);
        seed++;
        rounds++;
    } while (rounds < ROUNDS_MIN || time(NULL) < until);
    printf("%s: %u rounds, %llu demotions\n", engine, rounds, (unsigned long long)demotions);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop streams");
    TCase *tcase = tcase_create("random_streams");
    tcase_set_timeout(tcase, 300 + (double)test_rounds("BERTH_SECONDS", 2));
    tcase_add_checked_fixture(tcase, test_descriptors_note, test_descriptors_compare);
    tcase_add_loop_test(tcase, random_streams, 0, RIG_ENGINES);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
