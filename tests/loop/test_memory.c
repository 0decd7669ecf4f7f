/*
 * Whose memory it is, and until when: what is queued without a copy belongs to the queue until the
 * kernel has it, and what was received and retained stays as it was. Every case runs on every
 * engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ends.h"

/* ---- queued --------------------------------------------------------------------------------- */

START_TEST(foreign_memory_comes_back_once)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    unsigned freed = ways_wrapped.freed;
    /* Some sent and the rest dropped by: 0 the peer's reset, 1 an abort, 2 the loop's end. */
    for (unsigned how = 0; how < 3; how++) {
        prepare(&ends, engine);
        begin(&ends);
        queue_wrapped(&ends, 40, 20000);
        ck_assert_uint_eq(ways_wrapped.freed, freed); /* not before the kernel has it */
        RIG_UNTIL(&ends.rig, (client_reads(&ends, WAYS_BYTES_MAX), ends.read >= 100000), TURNS);
        if (how == 0)
            rig_reset(ends.client);
        else
            ck_assert_int_eq(close(ends.client), 0);
        if (how == 1)
            ck_assert_int_eq(berth_conn_abort(the_conn(&ends)), 0);
        if (how < 2)
            ways_end(&ends.rig);
        else
            rig_end(&ends.rig);
        ck_assert_uint_eq(ends.closes, 1);
        ck_assert_uint_eq(ways_wrapped.freed, freed + 40);
        freed = ways_wrapped.freed;
    }
}
END_TEST

#define CROWD 40

/** Everybody who has come. */
struct crowd {
    struct berth_conn *conns[CROWD];
    unsigned count;
};

static int
join_crowd(struct berth_conn *conn, void *ctx)
{
    struct crowd *crowd = ctx;
    crowd->conns[crowd->count++] = conn;
    return 0;
}

START_TEST(one_lease_to_many)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers handlers = {.open = join_crowd};
    enum { LENGTH = 60000 };
    struct crowd crowd = {{NULL}, 0};
    struct berth_loop_options options;
    struct rig rig;
    struct berth_lease lease;
    struct ends clients[CROWD];
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &handlers, &crowd);
    memset(clients, 0, sizeof(clients));
    for (unsigned i = 0; i < CROWD; i++)
        clients[i].client = rig_client(&rig);
    RIG_UNTIL(&rig, crowd.count == CROWD, TURNS);
    struct berth_pool *pool = berth_loop_pool(rig.loop);
    const unsigned freed = ways_wrapped.freed;
    ck_assert_int_eq(ways_wrap(pool, KEY_DOWN, 0, LENGTH, &lease), 0);
    for (unsigned i = 0; i < CROWD; i++) {
        ck_assert_int_eq(berth_lease_share(pool, lease), 0);
        ck_assert_int_eq(berth_send_lease(crowd.conns[i], lease), 0);
    }
    ck_assert_int_eq(berth_release(pool, lease), 0);
    ck_assert_uint_eq(ways_wrapped.freed, freed); /* the queues hold it */
    for (unsigned i = 0; i < CROWD; i++) {
        RIG_UNTIL(&rig, (client_reads(&clients[i], WAYS_BYTES_MAX), clients[i].read >= LENGTH),
                  TURNS);
        ck_assert_uint_eq(clients[i].read, LENGTH);
    }
    RIG_UNTIL(&rig, ways_wrapped.freed == freed + 1, TURNS);
    for (unsigned i = 0; i < CROWD; i++)
        ck_assert_int_eq(close(clients[i].client), 0);
    ways_end(&rig);
}
END_TEST

/* ---- keeping what was received -------------------------------------------------------------- */

#define KEPT_MAX 64

/** What was retained, and where in the stream it stood. */
static struct {
    struct berth_lease leases[KEPT_MAX];
    uint64_t positions[KEPT_MAX];
    unsigned count;
} kept;

static void
keep_some(struct ends *ends, struct berth_conn *conn, const struct berth_span *span)
{
    if (kept.count == KEPT_MAX)
        return;
    const uint32_t offset = (uint32_t)(test_random(&ends->random) % span->length);
    const uint32_t length = 1 + (uint32_t)(test_random(&ends->random) % (span->length - offset));
    const unsigned flags = test_random(&ends->random) % 2 == 0 ? BERTH_MAY_COPY : 0;
    ck_assert_int_eq(berth_retain(berth_loop_pool(berth_conn_loop(conn)), span, offset, length,
                                  flags, &kept.leases[kept.count]),
                     0);
    kept.positions[kept.count++] = ends->received - span->length + offset;
}

static void
check_kept(struct berth_pool *pool)
{
    for (unsigned i = 0; i < kept.count; i++) {
        const void *data = berth_lease_data(pool, kept.leases[i]);
        ck_assert_ptr_nonnull(data);
        ck_assert(ways_same(data, kept.leases[i].length, KEY_UP, kept.positions[i]));
    }
}

START_TEST(kept_beyond_the_connection)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ends ends;
    prepare(&ends, engine);
    ends.options.receive_buffers = 16;
    ends.on_data = keep_some;
    kept.count = 0;
    begin(&ends);
    struct berth_pool *pool = berth_loop_pool(ends.rig.loop);
    for (unsigned i = 0; i < TURNS && kept.count < KEPT_MAX; i++) {
        client_writes(&ends, ways_length(&ends.random, 20000));
        (void)rig_turn(&ends.rig, RIG_TURN_MS);
        check_kept(pool);
    }
    ck_assert_uint_eq(kept.count, KEPT_MAX);
    const size_t kept_until = ends.received;
    client_writes(&ends, 60000); /* what comes later must not be written over it */
    RIG_UNTIL(&ends.rig, ends.received == ends.written && ends.received > kept_until, TURNS);
    ck_assert_int_eq(close(ends.client), 0);
    RIG_UNTIL(&ends.rig, ends.eofs == 1, TURNS);
    ck_assert_int_eq(berth_conn_abort(the_conn(&ends)), 0);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    check_kept(pool);
    for (unsigned i = 0; i < kept.count; i++)
        ck_assert_int_eq(berth_release(pool, kept.leases[i]), 0);
    ways_end(&ends.rig);
}
int
main(void)
{
    Suite *suite = suite_create("loop memory");
    RIG_ADD(suite, foreign_memory_comes_back_once);
    RIG_ADD(suite, one_lease_to_many);
    RIG_ADD(suite, kept_beyond_the_connection);
    return test_run(suite);
}
