/*
 * Datagrams when something runs out, on every engine: buffers, room in the queue, a turn's share,
 * and peers that are not there.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/udp_rig.h"

/* ---- no room -------------------------------------------------------------------------------- */

START_TEST(the_queue_is_full)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 0};
    struct berth_udp_options options;
    berth_udp_options_init(&options);
    options.queue_max = 8;
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &seen, &options);
    const int client = udp_client(NULL);
    const int receiver = udp_client(udp);
    const struct sockaddr_in to = udp_client_where(client);
    for (unsigned round = 1; round <= 3; round++) {
        for (unsigned i = 0; i < 8; i++)
            ck_assert_int_eq(udp_send_to(udp, &to, "x", i % 2), 0);
        struct berth_lease lease;
        ck_assert_int_eq(
            berth_pool_get(berth_loop_pool(rig.loop), BERTH_CLASS_4K, BERTH_FOR_ACTIVE, &lease), 0);
        ck_assert_int_eq(udp_send_to(udp, &to, "x", 1), -ENOBUFS);
        ck_assert_int_eq(
            berth_udp_send_lease(udp, (const struct sockaddr *)&to, sizeof(to), lease, 0),
            -ENOBUFS);
        ck_assert_int_eq(berth_release(berth_loop_pool(rig.loop), lease), 0); /* ours still */
        ck_assert_uint_eq(seen.drained, round - 1);
        rig_write(receiver, "meanwhile", 9);
        RIG_UNTIL(&rig, seen.drained == round, 100);
        RIG_UNTIL(&rig, seen.datagrams == round, 100);
        RIG_UNTIL(&rig, berth_udp_queued(udp) == 0, 100);
        ck_assert_uint_eq(udp_count(client), 8);
        ck_assert_uint_eq(rig_stats(&rig).datagrams_refused, 2 * round);
    }
    udp_close(&rig, udp, &seen);
    ck_assert_int_eq(close(client), 0);
    ck_assert_int_eq(close(receiver), 0);
    rig_end(&rig);
}
END_TEST

#define KEPT_MAX 700

static uint64_t
sum_of(const void *data, uint32_t length)
{
    const unsigned char *bytes = (const unsigned char *)data;
    uint64_t sum = length;
    for (uint32_t i = 0; i < length; i++)
        sum = sum * 31 + bytes[i];
    return sum;
}

static uint64_t sums[KEPT_MAX];
static unsigned sums_count;

static void
look_sum(struct berth_udp *udp, const struct berth_datagram *datagram)
{
    (void)udp;
    if (sums_count < KEPT_MAX)
        sums[sums_count++] = sum_of(datagram->span.data, datagram->span.length);
}

/** Sends so many, numbered on from `first`, of 100 bytes each. */
static unsigned
send_some(int client, unsigned first, unsigned count)
{
    for (unsigned i = first; i < first + count; i++) {
        unsigned char data[100];
        for (unsigned at = 0; at < sizeof(data); at++)
            data[at] = (unsigned char)(i * 7 + at);
        memcpy(data, &i, sizeof(i));
        rig_write(client, data, sizeof(data));
    }
    return count;
}

START_TEST(buffers_run_out_and_come_back)
{
    RIG_ENGINE_OR_RETURN(engine);
    static struct berth_lease leases[KEPT_MAX];
    struct rig rig;
    struct seen seen = {.look = look_sum, .retain_max = KEPT_MAX, .leases = leases};
    udp_rig_begin(&rig, engine, (size_t)2 << 20); /* 512 buffers of 4 KiB */
    struct berth_pool *pool = berth_loop_pool(rig.loop);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    const int client = udp_client(udp);
    unsigned sent = 0;
    sums_count = 0;
    while (rig_stats(&rig).starved == 0 && sent < KEPT_MAX - 100) {
        sent += send_some(client, sent, 16);
        for (unsigned i = 0; i < 4; i++)
            (void)rig_turn(&rig, 1);
    }
    ck_assert_uint_gt(rig_stats(&rig).starved, 0);
    sent += send_some(client, sent, 50);
    for (unsigned i = 0; i < 3; i++)
        (void)rig_turn(&rig, RIG_TURN_MS);

    /* Nothing is to be had: it waits, and does not try again and again. */
    ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE), 0);
    const struct berth_loop_stats before = rig_stats(&rig);
    ck_assert_uint_lt(seen.datagrams, sent);
    for (unsigned i = 0; i < 10; i++)
        (void)rig_turn(&rig, RIG_TURN_MS);
    const struct berth_loop_stats after = rig_stats(&rig);
    ck_assert_uint_eq(after.enobufs, before.enobufs);
    ck_assert_uint_eq(after.datagrams_received, before.datagrams_received);
    ck_assert_uint_le(after.syscalls - before.syscalls, 20);

    for (unsigned i = 0; i < seen.retained; i++) {
        ck_assert_uint_eq(sum_of(berth_lease_data(pool, leases[i]), leases[i].length), sums[i]);
        ck_assert_int_eq(berth_release(pool, leases[i]), 0);
    }
    seen.retain_max = 0;
    RIG_UNTIL(&rig, seen.datagrams == sent, 200);
    udp_close(&rig, udp, &seen);
    ck_assert_int_eq(close(client), 0);
    rig_end(&rig);
}
END_TEST

/* Large buffers are gone: that is nothing to streams, nor to sockets with small ones. */
START_TEST(large_buffers_run_out_and_others_go_on)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers echo = {.data = rig_echo};
    static struct berth_lease leases[KEPT_MAX];
    static const char data[5000];
    struct rig rig;
    struct seen seen = {.retain_max = KEPT_MAX, .leases = leases}, small = {.echo = 1};
    struct berth_loop_options options;
    struct berth_pool_options pool_options;
    struct berth_udp_options large;
    berth_pool_options_init(&pool_options);
    pool_options.bytes_max = (size_t)6 << 20; /* 32 of 64 KiB, and some others */
    pool_options.class_bytes_max[BERTH_CLASS_64K] = (size_t)2 << 20;
    rig_options(&options, engine, &pool_options);
    rig_begin(&rig, &options, &echo, NULL);
    struct berth_pool *pool = berth_loop_pool(rig.loop);
    berth_udp_options_init(&large);
    large.large = 1;
    struct berth_udp *udp = udp_open(&rig, &seen, &large), *other = udp_open(&rig, &small, NULL);
    const int client = udp_client(udp), another = udp_client(other);
    unsigned sent = 0;
    for (; rig_stats(&rig).starved == 0 && sent < 100; sent++) {
        rig_write(client, data, sizeof(data));
        (void)rig_turn(&rig, 1);
        (void)rig_turn(&rig, 1);
    }
    ck_assert_uint_gt(rig_stats(&rig).starved, 0);
    ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_64K, BERTH_FOR_ACTIVE), 0);
    for (unsigned i = 1; i <= 20; i++) {
        rig_try_echo(&rig);
        rig_write(another, "x", 1);
        RIG_UNTIL(&rig, small.datagrams == i, 100);
    }
    const unsigned came = seen.datagrams;
    ck_assert_uint_le(came, sent);
    rig_write(client, data, sizeof(data));
    const uint64_t before = rig_stats(&rig).syscalls;
    for (unsigned i = 0; i < 10; i++)
        (void)rig_turn(&rig, RIG_TURN_MS);
    ck_assert_uint_le(rig_stats(&rig).syscalls - before, 20);
    ck_assert_uint_eq(seen.datagrams, came);
    for (unsigned i = 0; i < seen.retained; i++)
        ck_assert_int_eq(berth_release(pool, leases[i]), 0);
    seen.retain_max = 0;
    RIG_UNTIL(&rig, seen.datagrams == sent + 1, 200);
    udp_close(&rig, udp, &seen);
    udp_close(&rig, other, &small);
    ck_assert_int_eq(close(client), 0);
    ck_assert_int_eq(close(another), 0);
    rig_end(&rig);
}
END_TEST

START_TEST(a_flood_leaves_room_for_others)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 0}, other = {.echo = 1};
    struct berth_udp_options options;
    berth_udp_options_init(&options);
    options.kernel_receive_bytes = 1 << 22;
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &seen, &options), *quiet = udp_open(&rig, &other, NULL);
    const int flood = udp_client(udp), client = udp_client(quiet);
    (void)rig_turn(&rig, 0);
    unsigned sent = 0;
    for (; sent < 200; sent++)
        rig_write(flood, "flood", 5);
    rig_write(client, "x", 1);
    (void)rig_turn(&rig, 0);
    (void)rig_turn(&rig, 0);
    ck_assert_uint_eq(other.datagrams, 1);
    RIG_UNTIL(&rig, seen.datagrams == sent, 100);
    udp_close(&rig, udp, &seen);
    udp_close(&rig, quiet, &other);
    ck_assert_int_eq(close(flood), 0);
    ck_assert_int_eq(close(client), 0);
    rig_end(&rig);
}
END_TEST

/* ---- peers ---------------------------------------------------------------------------------- */

START_TEST(nobody_listens_there)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 0};
    struct berth_udp_options options;
    struct berth_udp *udp = NULL;
    char text[BERTH_ADDRESS_TEXT_MAX];
    int server = udp_client(NULL);
    struct sockaddr_in where = udp_client_where(server);
    ck_assert_int_eq(close(server), 0);
    ck_assert_int_eq(berth_udp_address_format((const struct sockaddr *)&where, sizeof(where), text,
                                              sizeof(text)),
                     0);
    berth_udp_options_init(&options);
    options.peer = text;
    udp_rig_begin(&rig, engine, 0);
    ck_assert_int_eq(berth_udp_open(rig.loop, NULL, &seen_handlers, &seen, &options, &udp), 0);
    for (unsigned round = 1; round <= 3; round++) { /* again and again, and it goes on */
        ck_assert_int_eq(berth_udp_send(udp, NULL, 0, "hello?", 6), 0);
        RIG_UNTIL(&rig, seen.errors == round, 100);
        ck_assert_int_eq(seen.error, -ECONNREFUSED);
        ck_assert_uint_eq(seen.lost, 0);
    }
    /* Whoever is told of it first, a send or the receive: each goes out. */
    for (unsigned i = 0; i < 50; i++)
        ck_assert_int_eq(berth_udp_send(udp, NULL, 0, &i, sizeof(i)), 0);
    RIG_UNTIL(&rig, berth_udp_queued(udp) == 0, 100);
    ck_assert_uint_eq(seen.lost, 0);
    ck_assert_uint_eq(rig_stats(&rig).datagrams_sent, 53);
    RIG_UNTIL(&rig, seen.errors > 3, 100);
    for (unsigned i = 0; i < 5; i++)
        (void)rig_turn(&rig, 1);
    server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ck_assert_int_eq(bind(server, (struct sockaddr *)&where, sizeof(where)), 0);
    ck_assert_int_eq(berth_udp_send(udp, NULL, 0, "hello!", 6), 0);
    char data[16];
    RIG_UNTIL(&rig, rig_read(server, data, sizeof(data)) == 6, 100);
    struct sockaddr_in6 own;
    const uint32_t length = udp_where(udp, &own);
    ck_assert_int_eq(sendto(server, "yes", 3, 0, (struct sockaddr *)&own, length), 3);
    RIG_UNTIL(&rig, seen.datagrams == 1, 100);
    /* A connected socket hears its peer alone. */
    const int stranger = udp_client(NULL);
    ck_assert_int_eq(sendto(stranger, "me", 2, 0, (struct sockaddr *)&own, length), 2);
    for (unsigned i = 0; i < 5; i++)
        (void)rig_turn(&rig, 1);
    ck_assert_uint_eq(seen.datagrams, 1);
    udp_close(&rig, udp, &seen);
    ck_assert_int_eq(close(stranger), 0);
    ck_assert_int_eq(close(server), 0);
    rig_end(&rig);
}
END_TEST

/** What is queued goes out before a loop that drains is done; the socket goes with the loop. */
START_TEST(draining_sends_what_is_queued)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.datagrams = 0};
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    const int client = udp_client(NULL);
    const struct sockaddr_in to = udp_client_where(client);
    for (unsigned i = 0; i < 100; i++)
        ck_assert_int_eq(udp_send_to(udp, &to, "goodbye", 7), 0);
    ck_assert_int_eq(berth_loop_drain(rig.loop, 60000), 0);
    ck_assert_int_eq(berth_loop_run(rig.loop), 0);
    ck_assert_uint_eq(berth_udp_queued(udp), 0);
    ck_assert_uint_eq(udp_count(client), 100);
    ck_assert_uint_eq(seen.closes, 0);
    ck_assert_int_eq(close(client), 0);
    rig_end(&rig);
    ck_assert_uint_eq(seen.closes, 1);
    ck_assert_int_eq(seen.reason, -ECANCELED);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop udp limits");
    RIG_ADD(suite, the_queue_is_full);
    RIG_ADD(suite, buffers_run_out_and_come_back);
    RIG_ADD(suite, large_buffers_run_out_and_others_go_on);
    RIG_ADD(suite, a_flood_leaves_room_for_others);
    RIG_ADD(suite, nobody_listens_there);
    RIG_ADD(suite, draining_sends_what_is_queued);
    return test_run(suite);
}
