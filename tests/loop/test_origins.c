/*
 * Where connections come from: listening, connecting, adopting, and addresses of all kinds; and
 * what every call answers to arguments of nonsense. Every case runs on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/record.h"

#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/un.h>

/* ---- where connections come from
 * -------------------------------------------------------------------- */

START_TEST(adopt_checks_what_it_is_given)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    int pair[2];
    berth_token token;
    record_begin(&rig, &record, engine);
    ck_assert_int_eq(berth_adopt(rig.loop, -1, &recording, &record, NULL), -EBADF);
    ck_assert_int_eq(berth_adopt(NULL, 0, &recording, &record, NULL), -EINVAL);
    ck_assert_int_eq(berth_adopt(rig.loop, STDIN_FILENO, NULL, &record, NULL), -EINVAL);
    ck_assert_int_eq(pipe(pair), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &recording, &record, NULL), -ENOTSOCK);
    ck_assert_int_eq(close(pair[0]), 0);
    ck_assert_int_eq(close(pair[1]), 0);
    const int datagram = socket(AF_INET, SOCK_DGRAM, 0);
    ck_assert_int_eq(berth_adopt(rig.loop, datagram, &recording, &record, NULL), -EPROTOTYPE);
    ck_assert_int_eq(close(datagram), 0);
    const int lonely = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(berth_adopt(rig.loop, lonely, &recording, &record, NULL), -ENOTCONN);
    ck_assert_int_eq(close(lonely), 0);

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &recording, &record, &token), 0);
    /* With direct descriptors the number is free again: it would be a bad one even if it were not.
     */
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &recording, &record, NULL),
                     strcmp(engine, "uring-direct") == 0 ? -EBADF : -EEXIST);
    ck_assert_uint_eq(record.opens, 0); /* open comes from a turn, not from the call */
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    rig_write(pair[1], "over", 4);
    RIG_UNTIL(&rig, record.datas == 1, TURNS);
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, token)), 0);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);
    ck_assert_int_eq(close(pair[1]), 0);
    record_end(&rig, &record);
}
END_TEST

START_TEST(an_end_right_behind_the_bytes)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const char bytes[100000];
    const size_t lengths[] = {1, sizeof(bytes)};
    for (unsigned i = 0; i < 2; i++) {
        struct rig rig;
        struct record record;
        int pair[2];
        record_begin(&rig, &record, engine);
        /* All of it is there before the first receive, or before the second one. */
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        rig_write(pair[1], bytes, lengths[i]);
        ck_assert_int_eq(shutdown(pair[1], SHUT_WR), 0);
        ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &recording, &record, NULL), 0);
        RIG_UNTIL(&rig, strchr(record.events, 'e') != NULL, TURNS);
        ck_assert_uint_eq(rig_stats(&rig).received_bytes, lengths[i]);
        ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, record.last)), 0);
        RIG_UNTIL(&rig, record.closes == 1, TURNS);
        ck_assert_int_eq(close(pair[1]), 0);
        record_end(&rig, &record);
    }
}
END_TEST

START_TEST(connect_succeeds_and_fails)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    char address[BERTH_ADDRESS_TEXT_MAX];
    berth_token token = 0;
    record_begin(&rig, &record, engine);
    memset(&mine, 0, sizeof(mine));
    mine.rig = &rig;
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_connect(rig.loop, address, &recording, &mine, &token), 0);
    ck_assert_int_eq(berth_send(berth_conn_find(rig.loop, token), "early", 5), 0);
    RIG_UNTIL(&rig, mine.opens == 1 && record.datas == 1, TURNS);
    char peer[BERTH_ADDRESS_TEXT_MAX];
    ck_assert_int_eq(berth_conn_peer(berth_conn_find(rig.loop, token), peer, sizeof(peer)), 0);
    ck_assert_str_eq(peer, address);
    ck_assert_int_eq(berth_conn_peer(berth_conn_find(rig.loop, token), peer, 5), -ENOSPC);
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, token)), 0);
    RIG_UNTIL(&rig, mine.closes == 1 && strchr(record.events, 'e') != NULL, TURNS);
    ck_assert_int_eq(berth_conn_close(berth_conn_find(rig.loop, record.last)), 0);
    RIG_UNTIL(&rig, record.closes == 1, TURNS);

    berth_listener_close(rig.listener); /* nobody is there any more */
    RIG_UNTIL(&rig, berth_table_live_count(berth_loop_table(rig.loop)) == 1, TURNS);
    const int error = berth_connect(rig.loop, address, &recording, &mine, &token);
    ck_assert(error == 0 || error == -ECONNREFUSED);
    if (error == 0) {
        RIG_UNTIL(&rig, mine.closes == 2, TURNS);
        ck_assert_int_eq(mine.reason, -ECONNREFUSED);
        ck_assert_str_eq(mine.events, "occ"); /* close without open */
        mine.opens++;
    }
    ck_assert_int_eq(berth_connect(rig.loop, "unix:/nonexistent/socket", &recording, &mine, NULL),
                     -ENOENT);
    ck_assert_uint_eq(mine.opens, mine.closes);
    record_end(&rig, &record);
}
END_TEST

START_TEST(abort_while_connecting)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    char address[BERTH_ADDRESS_TEXT_MAX];
    berth_token token = 0;
    record_begin(&rig, &record, engine);
    memset(&mine, 0, sizeof(mine));
    mine.rig = &rig;
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_connect(rig.loop, address, &recording, &mine, &token), 0);
    ck_assert_int_eq(berth_conn_abort(berth_conn_find(rig.loop, token)), 0);
    RIG_UNTIL(&rig, mine.closes == 1, TURNS);
    ck_assert_str_eq(mine.events, "c");
    ck_assert_int_eq(mine.reason, -ECANCELED);
    RIG_UNTIL(&rig, record.closes == 1 || record.opens == 0, TURNS);
    record_end(&rig, &record);
}
END_TEST

/** Listens there, echoes once through it, and closes. */
static void
try_address(const char *engine, const char *address, const char *expected)
{
    struct rig rig;
    struct record record, mine;
    struct berth_listener *listener = NULL;
    char text[BERTH_ADDRESS_TEXT_MAX];
    berth_token token = 0;
    record_begin(&rig, &record, engine);
    memset(&mine, 0, sizeof(mine));
    mine.rig = &rig;
    const int error = berth_listen(rig.loop, address, &recording, &record, &listener);
    if (error == -EAFNOSUPPORT || error == -EADDRNOTAVAIL) {
        printf("skipped: %s: %s\n", address, strerror(-error));
        rig_end(&rig);
        return;
    }
    ck_assert_msg(error == 0, "%s: %s", address, strerror(-error));
    ck_assert_int_eq(berth_listener_address(listener, text, sizeof(text)), 0);
    ck_assert_msg(strncmp(text, expected, strlen(expected)) == 0, "%s is not %s", text, expected);
    const int everywhere = strncmp(text, "tcp://[::]:", 11) == 0;
    if (everywhere) { /* this address too, of the other family */
        const long port = strtol(text + 11, NULL, 10);
        (void)snprintf(text, sizeof(text), "tcp://127.0.0.1:%ld", port);
    }
    ck_assert_int_eq(berth_connect(rig.loop, text, &recording, &mine, &token), 0);
    RIG_UNTIL(&rig, record.opens == 1 && mine.opens == 1, TURNS);
    rig_end(&rig);
    ck_assert_uint_eq(record.closes + mine.closes, 2);
}

START_TEST(addresses_that_work)
{
    RIG_ENGINE_OR_RETURN(engine);
    char path[96];
    (void)snprintf(path, sizeof(path), "unix:/tmp/berth-test-%ld-%s", (long)getpid(), engine);
    char name[96];
    (void)snprintf(name, sizeof(name), "unix:@berth-test-%ld-%s", (long)getpid(), engine);
    try_address(engine, "tcp://127.0.0.1:0", "tcp://127.0.0.1:");
    try_address(engine, "tcp://localhost:0", "tcp://127.0.0.1:");
    try_address(engine, "tcp://[::1]:0", "tcp://[::1]:");
    try_address(engine, "tcp://*:0", "tcp://[::]:");
    try_address(engine, path, path);
    try_address(engine, name, name);
    struct stat status;
    ck_assert_int_ne(stat(path + 5, &status), 0); /* the file goes with the listener */
}
END_TEST

START_TEST(addresses_that_do_not)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const char *const bad[] = {
        "",
        "tcp",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:1x",
        "tcp://:80",
        "tcp://[::1]80",
        "tcp://[::1:80",
        "tcp://[127.0.0.1]:80",
        "tcp://999.1.1.1:80",
        "tcp://exam ple.org:80",
        "unix:",
        "unix:@",
        "http://127.0.0.1:80",
        "127.0.0.1:80",
        "tcp://1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17:1",
        "unix:/a-path-that-is-much-too-long-for-a-unix-socket-address-because-it-has-more-than-one-"
        "hundred-and-eight-characters-in-it"};
    struct rig rig;
    struct record record;
    record_begin(&rig, &record, engine);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const int listening = berth_listen(rig.loop, bad[i], &recording, &record, NULL);
        ck_assert_msg(listening == -EINVAL, "listen on \"%s\": %d", bad[i], listening);
        const int connecting = berth_connect(rig.loop, bad[i], &recording, &record, NULL);
        ck_assert_msg(connecting == -EINVAL, "connect to \"%s\": %d", bad[i], connecting);
    }
    ck_assert_int_eq(berth_listen(rig.loop, NULL, &recording, &record, NULL), -EINVAL);
    char address[BERTH_ADDRESS_TEXT_MAX];
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_listener_address(rig.listener, address, 4), -ENOSPC);
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_listen(rig.loop, address, &recording, &record, NULL), -EADDRINUSE);
    record_end(&rig, &record);
}
END_TEST

START_TEST(stale_socket_file_is_replaced)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    char address[120];
    (void)snprintf(local.sun_path, sizeof(local.sun_path), "/tmp/berth-stale-%ld-%s",
                   (long)getpid(), engine);
    (void)snprintf(address, sizeof(address), "unix:%s", local.sun_path);
    const int dead = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(dead, (struct sockaddr *)&local, sizeof(local)), 0);
    ck_assert_int_eq(close(dead), 0); /* the file stays, nobody listens */

    struct rig rig;
    struct record record;
    struct berth_listener *listener = NULL;
    record_begin(&rig, &record, engine);
    ck_assert_int_eq(berth_listen(rig.loop, address, &recording, &record, &listener), 0);
    /* Somebody does listen there now: it is not taken away. */
    ck_assert_int_eq(berth_listen(rig.loop, address, &recording, &record, NULL), -EADDRINUSE);
    record_end(&rig, &record);
    struct stat status;
    ck_assert_int_ne(stat(local.sun_path, &status), 0);
}
END_TEST

/* ---- arguments
 * ------------------------------------------------------------------------------------------ */

START_TEST(arguments_of_nonsense)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    struct berth_loop *none = NULL;
    struct berth_loop_options options;
    record_begin(&rig, &record, engine);
    ck_assert_int_eq(berth_loop_create(NULL, NULL), -EINVAL);
    rig_options(&options, "no such engine", NULL);
    ck_assert_int_eq(berth_loop_create(&none, &options), -EINVAL);
    rig_options(&options, engine, NULL);
    options.abi++;
    ck_assert_int_eq(berth_loop_create(&none, &options), -EPROTO);
    static const size_t offsets[] = {offsetof(struct berth_loop_options, receive_buffers),
                                     offsetof(struct berth_loop_options, fairness_bytes),
                                     offsetof(struct berth_loop_options, send_high_bytes),
                                     offsetof(struct berth_loop_options, events_max)};
    for (unsigned i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        rig_options(&options, engine, NULL);
        *(uint32_t *)(void *)((char *)&options + offsets[i]) = 1;
        ck_assert_int_eq(berth_loop_create(&none, &options), -EINVAL);
    }
    ck_assert_ptr_null(none);
    ck_assert_int_eq(berth_loop_destroy(NULL), 0);
    ck_assert_int_eq(berth_loop_turn(NULL, 0), -EINVAL);
    ck_assert_int_eq(berth_loop_run(NULL), -EINVAL);
    ck_assert_int_eq(berth_loop_stop(NULL), -EINVAL);
    ck_assert_int_eq(berth_loop_explain(NULL, NULL, 0), -EINVAL);
    ck_assert_int_eq(berth_loop_explain(rig.loop, NULL, 5), -EINVAL);
    ck_assert_int_gt(berth_loop_explain(rig.loop, NULL, 0), 10);
    char two[2] = "?";
    ck_assert_int_gt(berth_loop_explain(rig.loop, two, sizeof(two)), 10);
    ck_assert_str_eq(two, "e");
    ck_assert_ptr_null(berth_loop_table(NULL));
    ck_assert_ptr_null(berth_loop_pool(NULL));
    ck_assert_uint_eq(berth_loop_conns(NULL), 0);
    berth_loop_stats_get(NULL, NULL);
    berth_loop_copies_get(NULL, NULL);
    berth_listener_close(NULL);
    ck_assert_int_eq(berth_listener_fd(NULL), -EINVAL);
    ck_assert_int_eq(berth_send(NULL, "x", 1), -EINVAL);
    ck_assert_int_eq(berth_send_span(NULL, NULL), -EINVAL);
    ck_assert_int_eq(berth_send_chain(NULL, NULL), -EINVAL);
    ck_assert_int_eq(berth_conn_close(NULL), -EINVAL);
    ck_assert_int_eq(berth_conn_abort(NULL), -EINVAL);
    ck_assert_int_eq(berth_conn_shutdown(NULL), -EINVAL);
    ck_assert_int_eq(berth_conn_credit(NULL, 0), -EINVAL);
    ck_assert_ptr_null(berth_conn_cold(NULL));
    ck_assert_ptr_null(berth_conn_loop(NULL));
    ck_assert_uint_eq(berth_conn_queued(NULL), 0);
    static const berth_token bad[] = {0, 1, UINT64_MAX, UINT64_C(1) << 24};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_ptr_null(berth_conn_find(rig.loop, bad[i]));

    record_end(&rig, &record);
}
END_TEST

START_TEST(sends_of_nonsense)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record;
    char two[2] = "?";
    record_begin(&rig, &record, engine);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, record.opens == 1, TURNS);
    struct berth_conn *conn = berth_conn_find(rig.loop, record.last);
    struct berth_lease foreign = {.buffer = 12345, .generation = 7, .offset = 0, .length = 10};
    struct berth_span fake = {.data = two, .length = 2, .buffer = 99};
    ck_assert_int_eq(berth_send(conn, NULL, 1), -EINVAL);
    ck_assert_int_eq(berth_send(conn, NULL, 0), 0);
    ck_assert_int_eq(berth_send(conn, two, SIZE_MAX), -EINVAL);
    ck_assert_int_eq(berth_send_lease(conn, foreign), -EINVAL);
    ck_assert_int_eq(berth_conn_peer(conn, NULL, 0), -EINVAL);
#ifndef BERTH_CHECKS /* an illegal step of the pool, which aborts there */
    ck_assert_int_eq(berth_send_span(conn, &fake), -ESTALE);
#endif
    (void)fake;
    ck_assert_uint_eq(berth_conn_queued(conn), 0);
    ck_assert_ptr_eq(berth_conn_loop(conn), rig.loop);
    ck_assert_int_eq(berth_conn_close(conn), 0);
    ck_assert_int_eq(close(client), 0);
    record_end(&rig, &record);
}
END_TEST

static Suite *
origins_suite(void)
{
    Suite *suite = suite_create("origins");
    RIG_ADD(suite, adopt_checks_what_it_is_given);
    RIG_ADD(suite, an_end_right_behind_the_bytes);
    RIG_ADD(suite, connect_succeeds_and_fails);
    RIG_ADD(suite, abort_while_connecting);
    RIG_ADD(suite, addresses_that_work);
    RIG_ADD(suite, addresses_that_do_not);
    RIG_ADD(suite, stale_socket_file_is_replaced);
    RIG_ADD(suite, arguments_of_nonsense);
    RIG_ADD(suite, sends_of_nonsense);
    return suite;
}

int
main(void)
{
    return test_run(origins_suite());
}
