/*
 * Forwarding streams: that every byte arrives once and in order where it was to go, however slowly
 * it is read; that what waits is bounded, in bytes and in buffers; and that nothing is copied.
 * Every case runs on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/forwarding.h"

/**
 * What may be on the way at most: the mark, and what the kernel had when it was reached. That is a
 * megabyte twice: in a lane the limit of a receive may be passed by what one go brings.
 */
#define ON_THE_WAY_MAX (128 * 1024 + 2 * 1024 * 1024)

/* ---- content -------------------------------------------------------------------------------- */

/** One step of a direction: something is written, now and then something is read. */
static size_t
step(struct forwarding *all, unsigned from, unsigned to, size_t total, int reads)
{
    struct side *source = &all->sides[from];
    size_t moved = 0;
    if (source->written < total) {
        const size_t length = ways_length(&all->random, WAYS_BYTES_MAX);
        const size_t left = total - source->written;
        moved += client_writes(all, from, length < left ? length : left);
        if (source->written == total)
            ck_assert_int_eq(shutdown(source->client, SHUT_WR), 0);
    }
    if (reads) {
        const intptr_t got = client_reads(all, to, from, ways_length(&all->random, 65536));
        moved += got > 0 ? (size_t)got : 0;
        ck_assert_msg(got >= 0 || got == -EAGAIN, "%u: %s after %zu bytes, %u closes, %d", to,
                      strerror((int)-got), all->sides[to].read, all->sides[to].closes,
                      all->sides[to].reason);
    }
    return moved;
}

/** Whether both have been read to their ends, and both connections are gone. */
static int
all_is_over(const struct forwarding *all, size_t total)
{
    return all->sides[0].read == total && all->sides[1].read == total &&
           all->sides[0].closes == 1 && all->sides[1].closes == 1;
}

static void
both_ways(const char *engine, unsigned splice, const struct berth_handlers *handlers,
          unsigned flags)
{
    const size_t total = test_is_slow() ? 1 << 20 : 6 << 20;
    struct forwarding all;
    prepare(&all, engine, splice);
    begin_with(&all, handlers, 2);
    forward_both(&all, flags);
    for (unsigned idle = 0; !all_is_over(&all, total) && idle < TURNS; idle++) {
        /* Each direction is read in bursts: long pauses in between, one after the other. */
        const unsigned phase = (unsigned)(all.sides[0].read + all.sides[1].read) / 100000 % 3;
        size_t moved = step(&all, 0, 1, total, phase != 0 || idle > 100);
        moved += step(&all, 1, 0, total, phase != 1 || idle > 100);
        if (moved > 0)
            idle = 0;
        (void)rig_turn(&all.rig, moved > 0 ? 0 : 1);
        if (conn_of(&all, 0) != NULL && conn_of(&all, 1) != NULL) {
            ck_assert_uint_le(on_the_way(&all, 0, 1), ON_THE_WAY_MAX);
            ck_assert_uint_le(on_the_way(&all, 1, 0), ON_THE_WAY_MAX);
        }
    }
    ck_assert_msg(all_is_over(&all, total), "%zu and %zu of %zu read, %u and %u closes, %d and %d",
                  all.sides[0].read, all.sides[1].read, total, all.sides[0].closes,
                  all.sides[1].closes, all.sides[0].reason, all.sides[1].reason);
    ck_assert_int_eq(all.sides[0].reason, 0);
    ck_assert_int_eq(all.sides[1].reason, 0);
    ck_assert_uint_eq(all.sides[0].received + all.sides[1].received, 0);
    ck_assert_uint_eq(rig_stats(&all.rig).received_bytes, 2 * total);
    ck_assert_uint_eq(rig_stats(&all.rig).sent_bytes, 2 * total);
    end(&all);
}

TWICE(both_ways_at_once)
{
    both_ways(engine, splice, &side_callbacks, BERTH_FORWARD_CLOSE);
}

TWICE(both_ways_with_hardly_any_handlers)
{
    both_ways(engine, splice, &side_callbacks_plain, 0);
}

/* ---- slow readers --------------------------------------------------------------------------- */

TWICE(one_who_does_not_read_stops_one_stream)
{
    struct forwarding all;
    prepare(&all, engine, splice);
    begin(&all, 2);
    forward_both(&all, 0);
    /* Much more than may be on the way, if it could. */
    for (unsigned stalled = 0; stalled < 200 && all.sides[0].written < 4 << 20; stalled++) {
        if (client_writes(&all, 0, WAYS_BYTES_MAX) > 0)
            stalled = 0;
        (void)rig_turn(&all.rig, 1);
    }
    turn_until_quiet(&all);
    ck_assert_uint_ge(rig_stats(&all.rig).pauses, 1);
    const size_t waits = on_the_way(&all, 0, 1);
    /* Between the marks at least, and the rest has stayed with the writer. */
    ck_assert_uint_gt(waits, all.options.send_low_bytes);
    ck_assert_uint_le(waits, ON_THE_WAY_MAX);
    ck_assert_uint_gt(all.sides[0].written, waits);

    /* The other direction does not notice. */
    for (unsigned i = 0; i < 20; i++) {
        (void)client_writes(&all, 1, 10000);
        read_until(&all, 0, 1, all.sides[1].written);
    }
    ck_assert_uint_ge(on_the_way(&all, 0, 1), all.options.send_low_bytes);

    /* By reading alone it all goes on. */
    read_until(&all, 1, 0, all.sides[0].written);
    ck_assert_uint_ge(all.sides[1].drained, 1);
    (void)client_writes(&all, 0, 1000);
    read_until(&all, 1, 0, all.sides[0].written);
    end(&all);
}

/** Who has finished sending and does not read is waited for, and not asked again and again. */
TWICE(one_who_has_finished_does_not_read)
{
    struct forwarding all;
    prepare(&all, engine, splice);
    begin(&all, 2);
    forward(&all, 0, 1, 0);
    ck_assert_int_eq(shutdown(all.sides[1].client, SHUT_WR), 0);
    RIG_UNTIL(&all.rig, all.sides[1].eofs == 1, TURNS);
    for (unsigned i = 0; i < 100; i++)
        (void)(client_writes(&all, 0, WAYS_BYTES_MAX), rig_turn(&all.rig, 0));
    turn_until_quiet(&all);
    ck_assert_uint_gt(berth_conn_queued(conn_of(&all, 1)), 0);
    read_until(&all, 1, 0, all.sides[0].written);
    end(&all);
}

/** Fills the way to a client that does not read, until something stays in the queue. */
static size_t
fill(struct forwarding *all, unsigned number)
{
    struct berth_conn *conn = conn_of(all, number);
    size_t queued = 0;
    while (berth_conn_queued(conn) == 0) {
        ck_assert_int_eq(berth_send(conn, ways_bytes(1, queued, 8192), 8192), 0);
        queued += 8192;
        turn_until_quiet(all);
    }
    ck_assert_uint_lt(berth_conn_queued(conn), all->options.send_low_bytes);
    return queued;
}

START_TEST(small_pieces_hold_few_buffers)
{
    RIG_ENGINE_OR_RETURN(engine);
    const unsigned pieces = test_is_slow() ? 500 : 5000;
    const unsigned pieces_max = 128 * 1024 / 4096;
    struct forwarding all;
    prepare(&all, engine, 0);
    begin(&all, 2);
    forward_both(&all, 0);
    const size_t before = fill(&all, 1);
    const unsigned held = ways_held(&all.rig);
    all.sides[0].written = before; /* its bytes come behind those */
    for (unsigned i = 0; i < pieces; i++) {
        ck_assert_uint_eq(client_writes(&all, 0, 1), 1);
        (void)rig_turn(&all.rig, 0);
        (void)rig_turn(&all.rig, 0);
        /* The last ones may have been received together. */
        ck_assert_uint_le(ways_held(&all.rig), held + pieces_max + 16);
    }
    turn_until_quiet(&all);
    ck_assert_uint_ge(ways_held(&all.rig), pieces_max / 2);
    ck_assert_uint_lt(berth_conn_queued(conn_of(&all, 1)), all.options.send_low_bytes);
    ck_assert_uint_eq(rig_stats(&all.rig).pauses, 1);

    read_until(&all, 1, 0, before + pieces);
    struct berth_copies copies;
    berth_loop_copies_get(all.rig.loop, &copies);
    ck_assert_uint_eq(copies.sent_gather, before); /* by berth_send */
    ck_assert_uint_eq(copies.received_compact + copies.received_pullup, 0);
    end_with_copies(&all);
}
END_TEST

START_TEST(small_pieces_fill_a_pipe)
{
    RIG_ENGINE_OR_RETURN(engine);
    const unsigned pieces = test_is_slow() ? 500 : 5000;
    struct forwarding all;
    prepare(&all, engine, BERTH_FORWARD_SPLICE);
    begin(&all, 2);
    forward_both(&all, 0);
    const size_t before = fill(&all, 1);
    all.sides[0].written = before;
    for (unsigned i = 0; i < pieces; i++) {
        ck_assert_uint_eq(client_writes(&all, 0, 1), 1);
        (void)rig_turn(&all.rig, 0);
        (void)rig_turn(&all.rig, 0);
    }
    turn_until_quiet(&all); /* it waits, and does not try again and again */
    ck_assert_uint_eq(rig_stats(&all.rig).pauses, 1);
    ck_assert_uint_lt(berth_conn_queued(conn_of(&all, 1)), all.options.send_low_bytes);
    read_until(&all, 1, 0, before + pieces);
    end_with_copies(&all);
}
END_TEST

TWICE(with_hardly_any_buffers)
{
    const size_t total = test_is_slow() ? 1 << 20 : 4 << 20;
    struct berth_pool_options pool;
    struct forwarding all;
    prepare(&all, engine, splice);
    berth_pool_options_init(&pool);
    pool.bytes_max = 4 << 20;
    pool.class_bytes_max[BERTH_CLASS_4K] = 2 << 20; /* 512 of them, of which few are free */
    all.options.pool = &pool;
    all.options.receive_buffers = 64;
    begin(&all, 4);
    struct berth_lease taken[480];
    unsigned count = 0;
    while (count < 480 && berth_pool_get(berth_loop_pool(all.rig.loop), BERTH_CLASS_4K,
                                         BERTH_FOR_ACTIVE, &taken[count]) == 0)
        count++;
    ck_assert_uint_gt(count, 0);
    forward_both(&all, 0);
    forward(&all, 2, 3, 0);
    forward(&all, 3, 2, 0);
    size_t read = 0;
    for (unsigned idle = 0; read < 4 * total && idle < TURNS; idle++) {
        size_t moved = 0;
        read = 0;
        for (unsigned i = 0; i < 4; i++) {
            const unsigned to = i ^ 1;
            const size_t left = total - all.sides[i].written;
            if (left > 0)
                moved += client_writes(&all, i, left < 30000 ? left : 30000);
            const intptr_t got = client_reads(&all, to, i, 20000);
            moved += got > 0 ? (size_t)got : 0;
            read += all.sides[to].read;
        }
        if (moved > 0)
            idle = 0;
        (void)rig_turn(&all.rig, moved > 0 ? 0 : 1);
    }
    ck_assert_uint_eq(read, 4 * total);
    while (count > 0)
        ck_assert_int_eq(berth_release(berth_loop_pool(all.rig.loop), taken[--count]), 0);
    end(&all);
}

/* ---- the bytes of others -------------------------------------------------------------------- */

TWICE(to_itself)
{
    const size_t total = test_is_slow() ? 1 << 20 : 4 << 20;
    struct forwarding all;
    prepare(&all, engine, splice);
    begin_with(&all, &side_callbacks_plain, 1);
    forward(&all, 0, 0, BERTH_FORWARD_CLOSE);
    for (unsigned idle = 0; all.sides[0].read < total && idle < TURNS; idle++) {
        /* Not read at first, so that it must wait for itself. */
        const int reads = idle > 50 || all.sides[0].read > 0;
        if (step(&all, 0, 0, total, reads) > 0 && reads)
            idle = 0;
        (void)rig_turn(&all.rig, 1);
    }
    RIG_UNTIL(&all.rig, all.sides[0].closes == 1, TURNS);
    ck_assert_uint_ge(rig_stats(&all.rig).pauses, 1);
    ck_assert_uint_eq(all.sides[0].read, total);
    ck_assert_uint_eq(all.sides[0].closes, 1);
    ck_assert_int_eq(all.sides[0].reason, 0);
    end(&all);
}

TWICE(somewhere_else_in_the_middle)
{
    struct forwarding all;
    prepare(&all, engine, splice);
    begin(&all, 3);
    forward(&all, 0, 1, 0);
    size_t to_first = 0;
    for (unsigned i = 0; i < 100; i++)
        (void)(client_writes(&all, 0, 20000), rig_turn(&all.rig, 0));
    turn_until_quiet(&all);
    struct berth_conn_stats stats;
    ck_assert_int_eq(berth_conn_stats_get(conn_of(&all, 0), &stats), 0);
    to_first = stats.received_bytes; /* and it is held by now */
    ck_assert_uint_lt(to_first, all.sides[0].written);

    ck_assert_int_eq(berth_forward(conn_of(&all, 2), conn_of(&all, 1), 0), -EBUSY);
    forward(&all, 0, 2, 0);
    ck_assert_int_eq(berth_forward(conn_of(&all, 2), conn_of(&all, 1), 0), 0);
    all.sides[2].read = to_first; /* the stream goes on from there */
    read_until(&all, 2, 0, all.sides[0].written);
    read_until(&all, 1, 0, to_first);

    /* And nowhere at all: the data callback hears of it. */
    ck_assert_int_eq(berth_forward(conn_of(&all, 0), NULL, 0), 0);
    (void)client_writes(&all, 0, 1000);
    RIG_UNTIL(&all.rig, all.sides[0].received == 1000, TURNS);
    ck_assert_int_eq(berth_forward(conn_of(&all, 0), NULL, 0), 0);
    end(&all);
}

static uint64_t
received_of(const struct forwarding *all, unsigned side)
{
    struct berth_conn_stats stats;
    ck_assert_int_eq(berth_conn_stats_get(conn_of(all, side), &stats), 0);
    return stats.received_bytes;
}

TWICE(beside_the_programs_own_bytes)
{
    uint64_t others = 0;
    struct forwarding all;
    prepare(&all, engine, splice);
    begin(&all, 2);
    forward(&all, 0, 1, 0);
    /* One stream, of which every other piece is the program's own, behind a queue or not. */
    struct side *source = &all.sides[0];
    for (unsigned i = 0; i < 200; i++) {
        const size_t before = all.sides[1].read;
        const size_t length = client_writes(&all, 0, ways_length(&all.random, 3000));
        others += length;
        if (i % 3 == 0)
            read_until(&all, 1, 0, source->written);
        /* What comes later than that stands behind the program's own. */
        RIG_UNTIL(&all.rig, received_of(&all, 0) == others, TURNS);
        const size_t own = ways_length(&all.random, 3000);
        ck_assert_int_eq(berth_send(conn_of(&all, 1), ways_bytes(1, source->written, own), own), 0);
        source->written += own;
        ck_assert_uint_gt(length, 0);
        if (i % 5 == 0) {
            read_until(&all, 1, 0, source->written);
            ck_assert_uint_gt(all.sides[1].read, before);
        }
    }
    read_until(&all, 1, 0, source->written);
    end_with_copies(&all);
}

/* ---- credit --------------------------------------------------------------------------------- */

TWICE(credit_holds)
{
    struct forwarding all;
    prepare(&all, engine, splice);
    begin(&all, 2);
    forward(&all, 0, 1, 0);
    ck_assert_int_eq(berth_conn_credit(conn_of(&all, 0), 10000), 0);
    (void)client_writes(&all, 0, 30000);
    turn_until_quiet(&all);
    struct berth_conn_stats stats;
    ck_assert_int_eq(berth_conn_stats_get(conn_of(&all, 0), &stats), 0);
    ck_assert_uint_ge(stats.received_bytes, 10000);
    ck_assert_uint_lt(stats.received_bytes, 10000 + 4096);
    read_until(&all, 1, 0, stats.received_bytes);

    /* While it is held the credit is kept: given back, taken away, and found again. */
    ck_assert_int_eq(berth_conn_credit(conn_of(&all, 0), BERTH_CREDIT_UNLIMITED), 0);
    for (unsigned i = 0; i < 100; i++)
        (void)(client_writes(&all, 0, WAYS_BYTES_MAX), rig_turn(&all.rig, 0));
    turn_until_quiet(&all);
    const size_t waits = on_the_way(&all, 0, 1);
    ck_assert_uint_gt(waits, all.options.send_low_bytes);
    ck_assert_int_eq(berth_conn_credit(conn_of(&all, 0), BERTH_CREDIT_UNLIMITED), 0);
    turn_until_quiet(&all);
    ck_assert_int_eq(berth_conn_credit(conn_of(&all, 0), 0), 0);
    ck_assert_int_eq(berth_conn_stats_get(conn_of(&all, 0), &stats), 0);
    ck_assert_uint_lt(stats.received_bytes, all.sides[0].written);
    read_until(&all, 1, 0, stats.received_bytes);
    turn_until_quiet(&all);
    ck_assert_int_eq(client_reads(&all, 1, 0, 1), -EAGAIN);
    ck_assert_int_eq(berth_conn_credit(conn_of(&all, 0), BERTH_CREDIT_UNLIMITED), 0);
    read_until(&all, 1, 0, all.sides[0].written);
    end(&all);
}

int
main(void)
{
    Suite *suite = suite_create("loop forward");
    ADD_TWICE(suite, both_ways_at_once);
    ADD_TWICE(suite, both_ways_with_hardly_any_handlers);
    ADD_TWICE(suite, one_who_does_not_read_stops_one_stream);
    ADD_TWICE(suite, one_who_has_finished_does_not_read);
    RIG_ADD(suite, small_pieces_hold_few_buffers);
    RIG_ADD(suite, small_pieces_fill_a_pipe);
    ADD_TWICE(suite, with_hardly_any_buffers);
    ADD_TWICE(suite, to_itself);
    ADD_TWICE(suite, somewhere_else_in_the_middle);
    ADD_TWICE(suite, beside_the_programs_own_bytes);
    ADD_TWICE(suite, credit_holds);
    return test_run(suite);
}
