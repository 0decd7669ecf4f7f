/*
 * Sends that are read in place, by users and to peers who make it hard: connections that nothing
 * else is heard of, error queues with news of others, lengths past all budgets, peers that read
 * nothing when the connection is to leave. Every case runs on every engine that it concerns.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/in_place.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>

#include "berth/loop_cross.h"
#include "loop/loop_internal.h"

static struct conn_zerocopy *
inside(const struct ends *ends)
{
    const struct berth_slot *slot = (const struct berth_slot *)(const void *)the_conn(ends);
    return &slot_cold(ends->rig.loop, slot)->zerocopy;
}

static void
begin_hard(struct ends *ends, const char *engine)
{
    pieces_begin();
    prepare(ends, engine);
    ends->options.features = "+zerocopy";
    begin(ends);
    widen(ends);
}

/** Nothing is lost, and all memory comes back, even when the connection ends. */
static void
end_hard(struct ends *ends)
{
    end(ends);
    ck_assert_uint_eq(pieces.freed_count, pieces.count);
}

/* ---- who is not heard of -------------------------------------------------------------------- */

static int
open_deaf(struct berth_conn *conn, void *ctx)
{
    ck_assert_int_eq(berth_conn_credit(conn, 0), 0);
    return ends_open(conn, ctx);
}

/** Receives nothing and never waits to send: only of its sends is there anything to hear. */
START_TEST(never_received_from)
{
    static const struct berth_handlers deaf = {.open = open_deaf, .close = ends_close};
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    pieces_begin();
    prepare(&ends, engine);
    ends.options.features = "+zerocopy";
    rig_begin(&ends.rig, &ends.options, &deaf, &ends);
    ends.client = rig_client(&ends.rig);
    RIG_UNTIL(&ends.rig, ends.opens == 1, TURNS);
    widen(&ends);
    (void)piece_through(&ends);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, 1);
    RIG_UNTIL(&ends.rig, pieces.freed_count == 1, TURNS);
    end_hard(&ends);
}
END_TEST

/** Within a turn, when its events have been seen: the peer reads all, and there is more to send. */
static void
read_and_send_more(struct berth_loop *loop, void *arg)
{
    struct ends *ends = arg;
    struct pollfd client = {.fd = ends->client, .events = POLLIN};
    ck_assert_ptr_eq(loop, ends->rig.loop);
    for (unsigned i = 0; i < TURNS && ends->read < ends->queued; i++)
        if (poll(&client, 1, RIG_TURN_MS) == 1)
            (void)client_reads(ends, WAYS_BYTES_MAX);
    ck_assert_uint_eq(ends->read, ends->queued);
    (void)piece_send(ends);
}

START_TEST(room_is_looked_for)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (rig_is_uring(engine)) /* each notification is an event of its own */
        return;
    struct ends ends;
    begin_hard(&ends, engine);
    for (unsigned i = 0; inside(&ends)->sends == NULL || inside(&ends)->sends->count < 16; i++) {
        ck_assert_uint_lt(i, PIECES_MAX - 1);
        (void)piece_send(&ends);
        RIG_UNTIL(&ends.rig, berth_conn_queued(the_conn(&ends)) == 0, TURNS);
    }
    const struct berth_loop_stats before = rig_stats(&ends.rig);
    ck_assert_int_eq(berth_loop_post(ends.rig.loop, read_and_send_more, &ends), 0);
    RIG_UNTIL(&ends.rig,
              ends.read == ends.queued - PIECE_BYTES &&
                  rig_stats(&ends.rig).sent_bytes == ends.queued,
              TURNS);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_refused, before.zerocopy_refused);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, before.zerocopy_sends + 1);
    pieces_read(&ends);
    RIG_UNTIL(&ends.rig, pieces.freed_count == pieces.count, TURNS);
    end_hard(&ends);
}
END_TEST

/* ---- what others have left ------------------------------------------------------------------ */

/** Two ends of a TCP connection, of which the first has sent by itself what is read in place. */
static void
used_pair(int pair[2])
{
    static char data[65536];
    const int yes = 1;
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    const int passive = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memset(&address, 0, sizeof(address));
    address.ss_family = AF_INET;
    ck_assert_int_eq(bind(passive, (struct sockaddr *)&address, sizeof(struct sockaddr_in)), 0);
    ck_assert_int_eq(listen(passive, 1), 0);
    ck_assert_int_eq(getsockname(passive, (struct sockaddr *)&address, &size), 0);
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(pair[0], (struct sockaddr *)&address, size), 0);
    pair[1] = accept(passive, NULL, NULL);
    ck_assert_int_ge(pair[1], 0);
    ck_assert_int_eq(close(passive), 0);
    ck_assert_int_eq(setsockopt(pair[0], SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof(yes)), 0);
    ck_assert_int_eq(send(pair[0], data, sizeof(data), MSG_ZEROCOPY), sizeof(data));
    ck_assert_int_eq(recv(pair[1], data, sizeof(data), MSG_WAITALL), sizeof(data));
    struct pollfd news = {.fd = pair[0]};
    ck_assert_int_eq(poll(&news, 1, 10000), 1);
    ck_assert_int_eq(news.revents, POLLERR);
}

START_TEST(news_of_others)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned way = 0; way < 2; way++) {
        struct ends ends;
        int pair[2];
        pieces_begin();
        prepare(&ends, engine);
        rig_begin(&ends.rig, &ends.options, &ends_callbacks, &ends);
        used_pair(pair);
        ends.client = pair[1];
        ck_assert_int_eq(berth_adopt(ends.rig.loop, pair[0], &ends_callbacks, &ends, NULL), 0);
        RIG_UNTIL(&ends.rig, ends.opens == 1, TURNS);
        if (way == 1)
            ck_assert_int_eq(berth_conn_credit(the_conn(&ends), 0), 0);
        for (unsigned i = 0; i < 5; i++)
            (void)rig_turn(&ends.rig, 0);
        for (unsigned i = 0; i < 5; i++) /* and nothing spins */
            ck_assert_int_eq(rig_turn(&ends.rig, 1), 0);
        ck_assert_uint_eq(ends.closes, 0);
        (void)piece_through(&ends);
        ck_assert_uint_eq(pieces.freed_count, rig_is_uring(engine) ? pieces.freed_count : 1);
        RIG_UNTIL(&ends.rig, pieces.freed_count == 1, TURNS);
        end_hard(&ends);
    }
}
END_TEST

/* ---- budgets -------------------------------------------------------------------------------- */

#define HUGE_BYTES ((1u << 30) - 1)

static void
huge_freed(void *data, size_t length, void *context)
{
    (void)data, (void)length;
    ++*(unsigned *)context;
}

/** Pieces that come to 4 GiB and a little: the budget must not take them for the little. */
START_TEST(more_than_can_be_counted)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    unsigned freed = 0;
    void *huge = mmap(NULL, HUGE_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_ptr_ne(huge, MAP_FAILED);
    pieces_begin();
    prepare(&ends, engine);
    ends.options.features = "+zerocopy";
    ends.options.send_max_bytes = UINT32_MAX;
    begin(&ends);
    for (unsigned i = 0; i < 4; i++) {
        struct berth_lease lease;
        ck_assert_int_eq(berth_wrap(berth_loop_pool(ends.rig.loop), huge, HUGE_BYTES, huge_freed,
                                    &freed, &lease),
                         0);
        ck_assert_int_eq(berth_send_lease(the_conn(&ends), lease), 0);
    }
    RIG_UNTIL(&ends.rig,
              rig_is_uring(engine) ? inside(&ends)->sends != NULL
                                   : rig_stats(&ends.rig).zerocopy_sends > 0,
              TURNS);
    const struct zerocopy *record = inside(&ends)->sends;
    ck_assert_ptr_nonnull(record);
    ck_assert_uint_eq(record->pinned, ends.rig.loop->zerocopy.pinned);
    if (rig_is_uring(engine)) /* it is submitted, as much as may be */
        ck_assert_uint_gt(record->pinned, 2u << 20);
    else
        ck_assert_uint_ge(record->pinned, copies_of(&ends).sent_zerocopy / 2);
    ck_assert_uint_le(record->pinned, 4u << 20);
    end(&ends);
    ck_assert_uint_eq(freed, 4);
    ck_assert_int_eq(munmap(huge, HUGE_BYTES), 0);
}
END_TEST

/** A socket that takes little of a long queue does not use up what others may pin. */
START_TEST(only_what_was_taken_is_counted)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (rig_is_uring(engine)) /* takes all of it, in time */
        return;
    struct ends ends;
    pieces_begin();
    prepare(&ends, engine);
    ends.options.features = "+zerocopy";
    begin(&ends);
    queue_wrapped(&ends, 4, WAYS_BYTES_MAX);
    for (unsigned i = 0; i < 10; i++)
        (void)rig_turn(&ends.rig, 1);
    const struct berth_copies copies = copies_of(&ends);
    const struct zerocopy *record = inside(&ends)->sends;
    ck_assert_ptr_nonnull(record);
    ck_assert_uint_lt(copies.sent, ends.queued);
    /* Two pages more at each piece, of which each send has one at least. */
    ck_assert_uint_le(record->pinned, copies.sent_zerocopy + 4 * 4096u * 2 * record->count);
    end(&ends);
}
END_TEST

/* ---- leaving -------------------------------------------------------------------------------- */

static struct {
    unsigned count;
    int fd;
} left;

static void
has_left(struct berth_conn *conn, int fd, void *arg)
{
    ck_assert_ptr_nonnull(conn);
    ck_assert_ptr_eq(arg, &left);
    left.count++;
    left.fd = fd;
}

START_TEST(leaving_is_not_held_up)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    memset(&left, 0, sizeof(left));
    pieces_begin();
    prepare(&ends, engine);
    ends.options.features = "+zerocopy";
    ends.options.close_timeout_ms = 0; /* then a second */
    begin(&ends);
    widen(&ends);
    for (unsigned i = 0; i < 8; i++) {
        (void)piece_send(&ends);
        RIG_UNTIL(&ends.rig, berth_conn_queued(the_conn(&ends)) == 0, TURNS);
    }
    ck_assert_uint_lt(pieces.freed_count, pieces.count);
    ck_assert_int_eq(berth_conn_detach(the_conn(&ends), has_left, &left), 0);
    RIG_UNTIL(&ends.rig, left.count == 1, TURNS);
    ck_assert_int_eq(left.fd, -ETIMEDOUT);
    /* It is as it was. */
    ck_assert_ptr_nonnull(the_conn(&ends));
    client_writes(&ends, 100);
    RIG_UNTIL(&ends.rig, ends.received == 100, TURNS);
    pieces_read(&ends);
    RIG_UNTIL(&ends.rig, pieces.freed_count == pieces.count, TURNS);
    ck_assert_uint_eq(ends.closes, 0);
    /* And now it may. */
    ck_assert_int_eq(berth_conn_detach(the_conn(&ends), has_left, &left), 0);
    RIG_UNTIL(&ends.rig, left.count == 2, TURNS);
    ck_assert_int_ge(left.fd, 0);
    ck_assert_int_eq(close(left.fd), 0);
    ck_assert_int_eq(close(ends.client), 0);
    ways_end(&ends.rig);
}
END_TEST

START_TEST(moved_with_its_count)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends, other;
    prepare(&other, engine);
    other.options.features = "+zerocopy";
    rig_begin(&other.rig, &other.options, &ends_callbacks, &other);
    begin_hard(&ends, engine);
    (void)piece_through(&ends);
    ck_assert_int_eq(
        berth_conn_move(the_conn(&ends), other.rig.loop, &ends_callbacks, &other, NULL), 0);
    for (unsigned i = 0; i < TURNS && other.opens == 0; i++) {
        (void)rig_turn(&ends.rig, 1);
        (void)rig_turn(&other.rig, 1);
    }
    ck_assert_uint_eq(other.opens, 1);
    other.client = ends.client;
    other.queued = other.read = ends.queued;
    widen(&other);
    for (unsigned i = 0; i < 2; i++) {
        (void)piece_through(&other);
        RIG_UNTIL(&other.rig, pieces.freed_count == pieces.count, TURNS);
    }
    ck_assert_uint_eq(rig_stats(&other.rig).zerocopy_sends, 2);
    ck_assert_int_eq(berth_conn_abort(the_conn(&other)), 0);
    RIG_UNTIL(&other.rig, other.closes == 1, TURNS);
    ck_assert_int_eq(close(other.client), 0);
    ways_end(&ends.rig);
    ways_end(&other.rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("zerocopy hard");
    RIG_ADD(suite, never_received_from);
    RIG_ADD(suite, room_is_looked_for);
    RIG_ADD(suite, news_of_others);
    RIG_ADD(suite, more_than_can_be_counted);
    RIG_ADD(suite, only_what_was_taken_is_counted);
    RIG_ADD(suite, leaving_is_not_held_up);
    RIG_ADD(suite, moved_with_its_count);
    return test_run(suite);
}
