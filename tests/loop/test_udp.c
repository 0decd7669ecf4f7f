/*
 * Datagrams on every engine: that each arrives once, whole and with its sender, or is said not to;
 * that what is sent arrives; and that a socket can be closed at any time.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/udp_rig.h"

#include <sys/uio.h>

#define CLIENTS 5
#define ROUNDS 12
#define PER_ROUND 16

/* ---- many ----------------------------------------------------------------------------------- */

/** What each client sent, in order: the first four bytes number the datagram. */
static struct {
    struct sockaddr_in address[CLIENTS];
    uint32_t next[CLIENTS];
} senders;

static uint32_t
length_of(uint32_t number)
{
    return 4 + number * 37 % 1400;
}

static void
fill(unsigned char *data, uint32_t client, uint32_t number)
{
    const uint32_t length = length_of(number);
    memcpy(data, &number, 4);
    for (uint32_t i = 4; i < length; i++)
        data[i] = (unsigned char)(client * 91 + number * 7 + i);
}

/** The datagram is the next one of the client whose address it bears. */
static void
look_sender(struct berth_udp *udp, const struct berth_datagram *datagram)
{
    (void)udp;
    ck_assert_uint_eq(datagram->from_length, sizeof(struct sockaddr_in));
    const struct sockaddr_in *from = (const struct sockaddr_in *)(const void *)datagram->from;
    for (uint32_t i = 0; i < CLIENTS; i++) {
        unsigned char expected[2048];
        if (from->sin_port != senders.address[i].sin_port)
            continue;
        ck_assert_uint_eq(from->sin_addr.s_addr, htonl(INADDR_LOOPBACK));
        const uint32_t number = senders.next[i]++;
        fill(expected, i, number);
        ck_assert_uint_eq(datagram->span.length, length_of(number));
        ck_assert_mem_eq(datagram->span.data, expected, length_of(number));
        return;
    }
    ck_abort_msg("a datagram of nobody");
}

/** Reads the echo of every datagram of this round. */
static void
read_echoes(const struct rig *rig, int client, uint32_t which, uint32_t first)
{
    for (uint32_t number = first; number < first + PER_ROUND; number++) {
        unsigned char expected[2048], data[2048];
        intptr_t got = -EAGAIN;
        fill(expected, which, number);
        RIG_UNTIL(rig, (got = rig_read(client, data, sizeof(data))) != -EAGAIN, 100);
        ck_assert_int_eq(got, (intptr_t)length_of(number));
        ck_assert_mem_eq(data, expected, (size_t)got);
    }
}

START_TEST(each_arrives_with_its_sender)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 1, .look = look_sender};
    int clients[CLIENTS];
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    memset(&senders, 0, sizeof(senders));
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i] = udp_client(udp);
        senders.address[i] = udp_client_where(clients[i]);
    }
    const struct berth_loop_stats before = rig_stats(&rig);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t number = round * PER_ROUND; number < (round + 1) * PER_ROUND; number++)
            for (uint32_t i = 0; i < CLIENTS; i++) {
                unsigned char data[2048];
                fill(data, i, number);
                rig_write(clients[i], data, length_of(number));
            }
        RIG_UNTIL(&rig, seen.datagrams == (round + 1) * PER_ROUND * CLIENTS, 200);
        for (uint32_t i = 0; i < CLIENTS; i++)
            read_echoes(&rig, clients[i], i, round * PER_ROUND);
    }
    const struct berth_loop_stats stats = rig_stats(&rig);
    const uint64_t all = (uint64_t)ROUNDS * PER_ROUND * CLIENTS;
    ck_assert_uint_eq(stats.datagrams_received, all);
    ck_assert_uint_eq(stats.datagrams_sent, all);
    ck_assert_uint_eq(stats.received_bytes, seen.bytes);
    ck_assert_uint_eq(stats.sent_bytes, seen.bytes);
    ck_assert_uint_eq(stats.datagrams_truncated + stats.datagrams_lost + stats.datagrams_refused,
                      0);
    ck_assert_uint_lt(seen.callbacks, seen.datagrams); /* several at a time */
    struct berth_copies copies;
    berth_loop_copies_get(rig.loop, &copies);
    ck_assert_uint_eq(copies.received_kernel, seen.bytes);
    ck_assert_uint_eq(copies.received, seen.bytes);
    ck_assert_uint_eq(copies.sent, seen.bytes);
    ck_assert_uint_eq(copies.sent_gather, seen.bytes);
    ck_assert_uint_eq(seen.errors, 0);
    ck_assert_uint_eq(berth_udp_queued(udp), 0);
    printf("%s: %.3f system calls for a datagram and its answer, %.1f datagrams in a callback\n",
           engine, (double)(stats.syscalls - before.syscalls) / (double)all,
           (double)seen.datagrams / seen.callbacks);
    udp_close(&rig, udp, &seen);
    for (unsigned i = 0; i < CLIENTS; i++)
        ck_assert_int_eq(close(clients[i]), 0);
    rig_end(&rig);
}
END_TEST

/* ---- odd lengths ---------------------------------------------------------------------------- */

START_TEST(empty_datagrams_are_datagrams)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 1};
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    const int client = udp_client(udp);
    for (unsigned round = 1; round <= 20; round++) {
        rig_write(client, "", 0);
        rig_write(client, "x", 1);
        rig_write(client, "", 0);
        rig_write(client, "", 0);
        RIG_UNTIL(&rig, seen.datagrams == 4 * round, 100);
        static const intptr_t lengths[] = {0, 1, 0, 0};
        for (unsigned i = 0; i < 4; i++) {
            char data[8];
            intptr_t got = -EAGAIN;
            RIG_UNTIL(&rig, (got = rig_read(client, data, sizeof(data))) != -EAGAIN, 100);
            ck_assert_int_eq(got, lengths[i]);
        }
    }
    ck_assert_uint_eq(seen.empty, 60);
    ck_assert_uint_eq(seen.bytes, 20);
    ck_assert_uint_eq(seen.closes, 0);
    udp_close(&rig, udp, &seen);
    ck_assert_int_eq(close(client), 0);
    rig_end(&rig);
}
END_TEST

/** One datagram of that length; what the socket saw of it. */
static void
send_length(const struct rig *rig, int client, struct seen *seen, uint32_t length)
{
    static unsigned char data[BERTH_UDP_SEND_BYTES_MAX];
    const unsigned before = seen->datagrams;
    seen->longest = 0;
    for (uint32_t i = 0; i < length; i++)
        data[i] = (unsigned char)(i * 13 + (i >> 8));
    rig_write(client, data, length);
    RIG_UNTIL(rig, seen->datagrams == before + 1, 100);
}

static void
look_pattern(struct berth_udp *udp, const struct berth_datagram *datagram)
{
    const unsigned char *data = (const unsigned char *)datagram->span.data;
    (void)udp;
    for (uint32_t i = 0; i < datagram->span.length; i++)
        ck_assert_uint_eq(data[i], (unsigned char)(i * 13 + (i >> 8)));
}

START_TEST(what_does_not_fit_is_marked)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen small = {.look = look_pattern}, large = {.look = look_pattern};
    struct berth_udp_options options;
    berth_udp_options_init(&options);
    options.large = 1;
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *sockets[] = {udp_open(&rig, &small, NULL), udp_open(&rig, &large, &options)};
    const int clients[] = {udp_client(sockets[0]), udp_client(sockets[1])};

    send_length(&rig, clients[0], &small, BERTH_UDP_SMALL_BYTES);
    ck_assert_uint_eq(small.longest, BERTH_UDP_SMALL_BYTES);
    ck_assert_uint_eq(small.truncated, 0);
    send_length(&rig, clients[0], &small, BERTH_UDP_SMALL_BYTES + 1);
    ck_assert_uint_eq(small.longest, BERTH_UDP_SMALL_BYTES);
    ck_assert_uint_eq(small.truncated, 1);
    send_length(&rig, clients[0], &small, BERTH_UDP_SEND_BYTES_MAX);
    ck_assert_uint_eq(small.longest, BERTH_UDP_SMALL_BYTES);
    ck_assert_uint_eq(small.truncated, 2);
    send_length(&rig, clients[0], &small, 100);
    ck_assert_uint_eq(small.longest, 100);
    ck_assert_uint_eq(small.truncated, 2);

    send_length(&rig, clients[1], &large, BERTH_UDP_LARGE_BYTES);
    ck_assert_uint_eq(large.longest, BERTH_UDP_LARGE_BYTES);
    ck_assert_uint_eq(large.truncated, 0);
    send_length(&rig, clients[1], &large, BERTH_UDP_SEND_BYTES_MAX);
    ck_assert_uint_eq(large.longest, BERTH_UDP_LARGE_BYTES);
    ck_assert_uint_eq(large.truncated, 1);
    ck_assert_uint_eq(rig_stats(&rig).datagrams_truncated, 3);
    udp_close(&rig, sockets[0], &small);
    udp_close(&rig, sockets[1], &large);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(close(clients[i]), 0);
    rig_end(&rig);
}
END_TEST

/* ---- closing -------------------------------------------------------------------------------- */

START_TEST(closing_in_a_callback)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen one = {.echo = 1, .close_in_callback = 1}, other = {.echo = 1};
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &one, NULL);
    struct berth_udp *victim = udp_open(&rig, &other, NULL);
    const int client = udp_client(udp), another = udp_client(victim);
    one.victim = victim;
    for (unsigned i = 0; i < 100; i++) {
        rig_write(client, "for one", 7);
        rig_write(another, "for the other", 13);
    }
    RIG_UNTIL(&rig, one.closes == 1 && other.closes == 1, 200);
    ck_assert_int_eq(one.reason, 0);
    ck_assert_int_eq(other.reason, 0);
    ck_assert_uint_eq(one.callbacks, 1);
    ck_assert_uint_ge(one.datagrams, 1);
    /* What was queued before the close went out. */
    for (unsigned i = 0; i < one.datagrams; i++) {
        char data[16];
        ck_assert_int_eq(rig_read(client, data, sizeof(data)), 7);
    }
    ck_assert_int_eq(close(client), 0);
    ck_assert_int_eq(close(another), 0);
    rig_end(&rig);
}
END_TEST

START_TEST(destroying_closes)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned turns = 0; turns < 3; turns++) { /* before the first turn, and later */
        struct rig rig;
        struct seen seen = {.echo = 1};
        struct berth_udp_options options;
        berth_udp_options_init(&options);
        options.receive_merged = 1;
        udp_rig_begin(&rig, engine, 0);
        struct berth_udp *udp = udp_open(&rig, &seen, NULL);
        (void)udp_open(&rig, &seen, &options);
        const int client = udp_client(udp);
        const struct sockaddr_in to = udp_client_where(client);
        for (unsigned i = 0; i < turns; i++)
            (void)rig_turn(&rig, 0);
        rig_write(client, "x", 1);
        ck_assert_int_eq(udp_send_to(udp, &to, "y", 1), 0);
        ck_assert_int_eq(udp_send_to(udp, &to, "", 0), 0);
        ck_assert_int_eq(close(client), 0);
        rig_end(&rig);
        ck_assert_uint_eq(seen.closes, 2);
        ck_assert_int_eq(seen.reason, -ECANCELED);
    }
}
END_TEST

/* ---- addresses ------------------------------------------------------------------------------ */

START_TEST(what_cannot_be_opened)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 0};
    struct berth_udp *udp = NULL;
    struct berth_udp_options options;
    udp_rig_begin(&rig, engine, 0);
    static const char *const bad[] = {"",
                                      "udp",
                                      "udp://",
                                      "udp://127.0.0.1",
                                      "udp://127.0.0.1:",
                                      "udp://127.0.0.1:65536",
                                      "tcp://127.0.0.1:0",
                                      "unix:@x",
                                      "udp://name.example:1",
                                      "udp://[::1]",
                                      "udp://1.2.3:4"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_int_eq(berth_udp_open(rig.loop, bad[i], &seen_handlers, &seen, NULL, &udp),
                         -EINVAL);
    ck_assert_int_eq(berth_udp_open(rig.loop, NULL, &seen_handlers, &seen, NULL, &udp), -EINVAL);
    ck_assert_int_eq(berth_udp_open(NULL, "udp://*:0", &seen_handlers, &seen, NULL, &udp), -EINVAL);
    ck_assert_int_eq(berth_udp_open(rig.loop, "udp://*:0", NULL, &seen, NULL, &udp), -EINVAL);
    berth_udp_options_init(&options);
    options.queue_max = 0;
    ck_assert_int_eq(berth_udp_open(rig.loop, "udp://*:0", &seen_handlers, &seen, &options, &udp),
                     -EINVAL);
    berth_udp_options_init(&options);
    options.abi++;
    ck_assert_int_eq(berth_udp_open(rig.loop, "udp://*:0", &seen_handlers, &seen, &options, &udp),
                     -EPROTO);
    /* Streams are not datagrams. */
    ck_assert_int_eq(berth_listen(rig.loop, "udp://127.0.0.1:0", &no_handlers, NULL, NULL),
                     -EINVAL);
    ck_assert_int_eq(berth_connect(rig.loop, "udp://127.0.0.1:1", &no_handlers, NULL, NULL),
                     -EINVAL);
    rig_end(&rig);
}
END_TEST

START_TEST(a_socket_tells_about_itself)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 0};
    struct berth_udp *second = NULL;
    char text[BERTH_ADDRESS_TEXT_MAX];
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    ck_assert_int_eq(berth_udp_address(udp, text, sizeof(text)), 0);
    ck_assert_int_eq(strncmp(text, "udp://127.0.0.1:", 16), 0);
    ck_assert_int_eq(berth_udp_address(udp, text, 5), -ENOSPC);
    ck_assert_int_eq(berth_udp_address(udp, text, sizeof(text)), 0);
    ck_assert_int_eq(berth_udp_open(rig.loop, text, &seen_handlers, &seen, NULL, &second),
                     -EADDRINUSE);
    ck_assert_ptr_eq(berth_udp_find(rig.loop, berth_udp_token(udp)), udp);
    ck_assert_ptr_null(berth_conn_find(rig.loop, berth_udp_token(udp)));
    ck_assert_ptr_eq(berth_udp_loop(udp), rig.loop);
    ck_assert_ptr_eq(berth_udp_context(udp), &seen);
    ck_assert_int_ge(berth_udp_fd(udp), 0);
    for (unsigned i = 0; i < BERTH_CONN_PAYLOAD_BYTES; i++)
        ck_assert_uint_eq(((unsigned char *)berth_udp_payload(udp))[i], 0);
    ck_assert_uint_eq(berth_loop_conns(rig.loop), 0);
    udp_close(&rig, udp, &seen);

    struct sockaddr_in6 parsed;
    uint32_t length = 0;
    ck_assert_int_eq(berth_udp_address_parse("udp://[::1]:53", &parsed, &length), 0);
    ck_assert_uint_eq(length, sizeof(struct sockaddr_in6));
    ck_assert_int_eq(
        berth_udp_address_format((struct sockaddr *)&parsed, length, text, sizeof(text)), 0);
    ck_assert_str_eq(text, "udp://[::1]:53");
    ck_assert_int_eq(berth_udp_address_format((struct sockaddr *)&parsed, 8, text, sizeof(text)),
                     -EINVAL);
    ck_assert_int_eq(berth_udp_address_parse("tcp://[::1]:53", &parsed, &length), -EINVAL);
    /* Storage of bytes, wherever it lies: a sanitizer, or a machine that minds, sees the rest. */
    unsigned char storage[BERTH_UDP_ADDRESS_BYTES + 8];
    for (unsigned at = 0; at < 8; at++) {
        const struct sockaddr *there = (const struct sockaddr *)(const void *)(storage + at);
        ck_assert_int_eq(berth_udp_address_parse("udp://[::1]:53", storage + at, &length), 0);
        ck_assert_mem_eq(storage + at, &parsed, length);
        ck_assert_int_eq(berth_udp_address_format(there, length, text, sizeof(text)), 0);
        ck_assert_str_eq(text, "udp://[::1]:53");
    }
    rig_end(&rig);
}
END_TEST

START_TEST(what_cannot_be_sent)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 0};
    static const char text[65];
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    struct sockaddr_in to = {.sin_family = AF_INET};
    ck_assert_int_eq(berth_udp_send(NULL, NULL, 0, "x", 1), -EINVAL);
    ck_assert_int_eq(berth_udp_send(udp, NULL, 0, "x", 1), -EDESTADDRREQ);
    ck_assert_int_eq(berth_udp_send(udp, NULL, 5, "x", 1), -EINVAL);
    ck_assert_int_eq(berth_udp_send(udp, (struct sockaddr *)&to, 1, "x", 1), -EINVAL);
    ck_assert_int_eq(berth_udp_send(udp, (struct sockaddr *)&to, 15, "x", 1), -EINVAL);
    ck_assert_int_eq(udp_send_to(udp, &to, NULL, 1), -EINVAL);
    ck_assert_int_eq(udp_send_to(udp, &to, "x", BERTH_UDP_SEND_BYTES_MAX + 1), -EMSGSIZE);
    ck_assert_int_eq(berth_udp_send_segments(udp, (struct sockaddr *)&to, sizeof(to), text, 65, 1),
                     -EMSGSIZE);
    ck_assert_int_eq(berth_udp_send_segments(udp, (struct sockaddr *)&to, sizeof(to), text, 65, 0),
                     -EINVAL);
    const struct berth_lease none = {.length = 4};
    ck_assert_int_eq(berth_udp_send_lease(udp, (struct sockaddr *)&to, sizeof(to), none, 0),
                     -EINVAL);
    to.sin_family = AF_UNIX;
    ck_assert_int_eq(udp_send_to(udp, &to, "x", 1), -EAFNOSUPPORT);
    ck_assert_int_eq(berth_udp_reply(udp, NULL, "x", 1), -EINVAL);
    ck_assert_int_eq(berth_udp_close(NULL), -EINVAL);
    ck_assert_uint_eq(berth_udp_queued(udp), 0);
    /* A stream's calls refuse it. */
    ck_assert_int_eq(berth_send((struct berth_conn *)(void *)udp, "x", 1), -EPIPE);
    ck_assert_int_eq(berth_conn_close((struct berth_conn *)(void *)udp), -EINVAL);
    udp_close(&rig, udp, &seen);
    rig_end(&rig);
}
END_TEST

START_TEST(one_port_for_two)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen first = {.echo = 1}, second = {.echo = 1};
    struct berth_udp_options options;
    struct berth_udp *shared = NULL;
    char text[BERTH_ADDRESS_TEXT_MAX];
    berth_udp_options_init(&options);
    options.reuse_port = 1;
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &first, &options);
    ck_assert_int_eq(berth_udp_address(udp, text, sizeof(text)), 0);
    ck_assert_int_eq(berth_udp_open(rig.loop, text, &seen_handlers, &second, &options, &shared), 0);
    for (unsigned i = 1; i <= 64; i++) { /* the kernel chooses by the sender's port */
        const int client = udp_client(udp);
        rig_write(client, "x", 1);
        RIG_UNTIL(&rig, first.datagrams + second.datagrams == i, 100);
        ck_assert_int_eq(close(client), 0);
    }
    ck_assert_uint_gt(first.datagrams, 0);
    ck_assert_uint_gt(second.datagrams, 0);
    udp_close(&rig, udp, &first);
    udp_close(&rig, shared, &second);
    rig_end(&rig);
}
END_TEST

START_TEST(every_address_of_both_families)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 1};
    struct berth_udp *udp = NULL;
    struct sockaddr_in6 where;
    char text[BERTH_ADDRESS_TEXT_MAX];
    udp_rig_begin(&rig, engine, 0);
    const int error = berth_udp_open(rig.loop, "udp://*:0", &seen_handlers, &seen, NULL, &udp);
    if (error == -EAFNOSUPPORT) {
        printf("skipped: no IPv6 here\n");
        rig_end(&rig);
        return;
    }
    ck_assert_int_eq(error, 0);
    (void)udp_where(udp, &where);
    const int client = udp_client(NULL);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = where.sin6_port};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(sendto(client, "four", 4, 0, (struct sockaddr *)&to, sizeof(to)), 4);
    RIG_UNTIL(&rig, rig_read(client, text, sizeof(text)) == 4, 100);
    ck_assert_int_eq(close(client), 0);
    /* An IPv4 address will do for a socket of both families. */
    const int listener = udp_client(NULL);
    const struct sockaddr_in there = udp_client_where(listener);
    ck_assert_int_eq(udp_send_to(udp, &there, "plain", 5), 0);
    RIG_UNTIL(&rig, rig_read(listener, text, sizeof(text)) == 5, 100);
    ck_assert_int_eq(close(listener), 0);
    udp_close(&rig, udp, &seen);
    rig_end(&rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop udp");
    RIG_ADD(suite, each_arrives_with_its_sender);
    RIG_ADD(suite, empty_datagrams_are_datagrams);
    RIG_ADD(suite, what_does_not_fit_is_marked);
    RIG_ADD(suite, closing_in_a_callback);
    RIG_ADD(suite, destroying_closes);
    RIG_ADD(suite, what_cannot_be_opened);
    RIG_ADD(suite, a_socket_tells_about_itself);
    RIG_ADD(suite, what_cannot_be_sent);
    RIG_ADD(suite, one_port_for_two);
    RIG_ADD(suite, every_address_of_both_families);
    return test_run(suite);
}
