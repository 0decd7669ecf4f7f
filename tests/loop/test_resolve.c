/*
 * Connecting by name: which names are asked for, what is said of those that cannot be had, and the
 * addresses of one name, tried one after the other. A few names are looked up by the system's own
 * resolver. Every case runs on every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/names.h"

/* ---- what the system's resolver says --------------------------------------------------------- */

START_TEST(name_of_this_machine)
{
    RIG_ENGINE_OR_RETURN(engine);
    char host[256] = "", text[300];
    struct addrinfo *known = NULL;
    ck_assert_int_eq(gethostname(host, sizeof(host) - 1), 0);
    if (getaddrinfo(host, NULL, NULL, &known) != 0) {
        printf("skipped: this machine does not know its own name, %s\n", host);
        return;
    }
    freeaddrinfo(known);
    struct rig rig;
    struct record record, mine;
    struct berth_listener *everywhere = NULL;
    berth_token token = 0;
    begin(&rig, &record, &mine, engine);
    faults_reset();
    ck_assert_int_eq(berth_listen(rig.loop, "tcp://*:0", &recording, &record, &everywhere), 0);
    ck_assert_int_eq(berth_listener_address(everywhere, text, sizeof(text)), 0);
    const unsigned port = (unsigned)atoi(strrchr(text, ':') + 1);
    (void)snprintf(text, sizeof(text), "tcp://%s:%u", host, port);
    ck_assert_int_eq(berth_connect(rig.loop, text, &recording, &mine, &token), 0);
    ck_assert_int_eq(berth_send(berth_conn_find(rig.loop, token), "early", 5), 0);
    RIG_UNTIL(&rig, mine.opens == 1 && record.datas == 1, TURNS);
    close_both(&rig, &record, &mine, token);
    end(&rig, &record);
}
END_TEST

START_TEST(no_such_name)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    begin(&rig, &record, &mine, engine);
    faults_reset();
    (void)connect_to(&rig, &mine, "no-such-name.invalid");
    /* With no name server in reach the resolver takes its time. */
    RIG_UNTIL(&rig, mine.closes == 1, 6000);
    ck_assert_msg(mine.reason == -ENOENT || mine.reason == -EAGAIN, "%s", strerror(-mine.reason));
    ck_assert_str_eq(mine.events, "c");
    end(&rig, &record);
}
END_TEST

START_TEST(errors_in_our_words)
{
    (void)_i;
    static const struct {
        int resolver, system, error;
    } said[] = {
        {EAI_NONAME, 0, ENOENT},    {EAI_NODATA, 0, ENOENT},      {EAI_ADDRFAMILY, 0, ENOENT},
        {EAI_AGAIN, EINTR, EAGAIN}, {EAI_FAIL, 0, EHOSTUNREACH},  {EAI_FAMILY, 0, EAFNOSUPPORT},
        {EAI_MEMORY, 0, ENOMEM},    {EAI_SYSTEM, EMFILE, EMFILE}, {EAI_SYSTEM, EPERM, EACCES},
        {EAI_BADFLAGS, 0, EINVAL},  {EAI_SERVICE, 0, EINVAL},     {EAI_SOCKTYPE, 0, EINVAL},
        {EAI_OVERFLOW, 0, EINVAL}};
    for (unsigned i = 0; i < sizeof(said) / sizeof(said[0]); i++)
        ck_assert_int_eq(berth_resolve_errno(said[i].resolver, said[i].system), -said[i].error);
    /* EAI_BADFLAGS is -1, which must not be taken for a system call's. */
    struct addrinfo *addresses = NULL;
    ck_assert_int_eq(sys_direct_getaddrinfo("localhost", "no number", &addresses), -ENOENT);
    ck_assert_ptr_null(addresses);
}
END_TEST

/* ---- addresses, one after the other ---------------------------------------------------------- */

START_TEST(answer_wakes_the_loop_and_connects)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    begin(&rig, &record, &mine, engine);
    add_address("127.0.0.1", 0);
    const berth_token token = connect_to(&rig, &mine, "slow.example");
    struct berth_conn *conn = berth_conn_find(rig.loop, token);
    char peer[BERTH_ADDRESS_TEXT_MAX];
    const int fd = berth_conn_fd(conn);
    ck_assert_int_eq(berth_conn_peer(conn, peer, sizeof(peer)), -ENOTCONN);
    ck_assert_int_eq(berth_send(conn, "early", 5), 0);
    for (unsigned i = 0; i < 3; i++)
        (void)rig_turn(&rig, 1);
    ck_assert_uint_eq(mine.length, 0);
    ck_assert_uint_eq(told(names.woken), 0);
    open_gate(1);
    RIG_UNTIL(&rig, mine.opens == 1 && record.datas == 1, TURNS);
    ck_assert_uint_eq(told(names.woken), 1);
    ck_assert_uint_eq(mine.last, token);
    ck_assert_ptr_eq(berth_conn_find(rig.loop, token), conn);
    ck_assert_int_eq(berth_conn_fd(conn), fd);
    ck_assert_int_eq(berth_conn_peer(conn, peer, sizeof(peer)), 0);
    listen_to(names.freed, 1); /* as soon as it is connected */
    if (fd >= 0)               /* a direct descriptor is none */
        ck_assert_int_ne(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    close_both(&rig, &record, &mine, token);
    end(&rig, &record);
}
END_TEST

START_TEST(next_address_is_tried)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    int holders[2];
    begin(&rig, &record, &mine, engine);
    (void)add_impossible();
    add_refusing(&holders[0]);
    (void)add_impossible();
    add_refusing(&holders[1]);
    add_address("127.0.0.1", 0);
    const berth_token token = connect_to(&rig, &mine, "many.example");
    struct berth_conn *conn = berth_conn_find(rig.loop, token);
    const int fd = berth_conn_fd(conn);
    ck_assert_int_eq(berth_send(conn, "early", 5), 0);
    RIG_UNTIL(&rig, mine.opens == 1 && record.datas == 1, TURNS);
    ck_assert_ptr_eq(berth_conn_find(rig.loop, token), conn);
    ck_assert_int_eq(berth_conn_fd(conn), fd);
    ck_assert_uint_eq(rig_stats(&rig).connected, 1);
    close_both(&rig, &record, &mine, token);
    ck_assert_str_eq(mine.events, "oc");
    ck_assert_int_eq(close(holders[0]), 0);
    ck_assert_int_eq(close(holders[1]), 0);
    end(&rig, &record);
}
END_TEST

START_TEST(last_error_is_the_reason)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    int holder;
    begin(&rig, &record, &mine, engine);
    (void)add_impossible();
    add_refusing(&holder);
    (void)connect_to(&rig, &mine, "nobody.example");
    RIG_UNTIL(&rig, mine.closes == 1, TURNS);
    ck_assert_int_eq(mine.reason, -ECONNREFUSED);
    const int impossible = add_impossible();
    (void)connect_to(&rig, &mine, "nobody.example");
    RIG_UNTIL(&rig, mine.closes == 2, TURNS);
    ck_assert_int_eq(mine.reason, impossible);
    names.error = -EHOSTUNREACH;
    (void)connect_to(&rig, &mine, "nobody.example");
    RIG_UNTIL(&rig, mine.closes == 3, TURNS);
    ck_assert_int_eq(mine.reason, -EHOSTUNREACH);
    names.error = 0;
    names.count = 0; /* an answer that is empty */
    (void)connect_to(&rig, &mine, "nobody.example");
    RIG_UNTIL(&rig, mine.closes == 4, TURNS);
    ck_assert_int_eq(mine.reason, -ENOENT);
    ck_assert_str_eq(mine.events, "cccc");
    ck_assert_int_eq(close(holder), 0);
    end(&rig, &record);
}
END_TEST

START_TEST(tries_have_an_end)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    int impossible = 0;
    begin(&rig, &record, &mine, engine);
    while (names.count < ADDRESSES_MAX - 1)
        impossible = add_impossible();
    add_address("127.0.0.1", 0);
    (void)connect_to(&rig, &mine, "hundreds.example");
    RIG_UNTIL(&rig, mine.closes == 1, TURNS);
    ck_assert_int_eq(mine.reason, impossible);
    end(&rig, &record);
}
END_TEST

/* ---- what goes wrong ------------------------------------------------------------------------- */

START_TEST(calls_that_fail)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct record record, mine;
    begin(&rig, &record, &mine, engine);
    add_address("127.0.0.1", 0);
    faults_fail("socket", 1, 1, -EMFILE);
    ck_assert_int_eq(berth_connect(rig.loop, "tcp://a.example:1", &recording, &mine, NULL),
                     -EMFILE);
    faults_fail("thread_start", 1, 1, -EAGAIN);
    ck_assert_int_eq(berth_connect(rig.loop, "tcp://a.example:1", &recording, &mine, NULL),
                     -EAGAIN);
    ck_assert_uint_eq(faults_hit("thread_start"), 1);
    ck_assert_uint_eq(berth_loop_conns(rig.loop), 0);

    /* A second helper that cannot be started is done without. */
    const berth_token first = connect_to(&rig, &mine, "slow.example");
    listen_to(names.asked, 1);
    faults_fail("thread_start", 1, FAULTS_FOR_EVER, -EAGAIN);
    const berth_token second = connect_to(&rig, &mine, "quick.example");
    ck_assert_uint_eq(faults_hit("thread_start"), 1);
    open_gate(1);
    RIG_UNTIL(&rig, mine.opens == 2, TURNS);
    ck_assert_int_eq(berth_conn_abort(berth_conn_find(rig.loop, first)), 0);
    ck_assert_int_eq(berth_conn_abort(berth_conn_find(rig.loop, second)), 0);
    RIG_UNTIL(&rig, mine.closes == 2 && berth_loop_conns(rig.loop) == 0, TURNS);

    /* An address that fails for a reason of our own is an address that failed. */
    static const char *const calls[] = {"socket", "connect", "fcntl", "dup3"};
    add_address("127.0.0.1", 0);
    for (unsigned i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        const unsigned opens = mine.opens;
        const berth_token token = connect_to(&rig, &mine, "quick.example");
        faults_fail(calls[i], 1, 1, -ENOBUFS);
        RIG_UNTIL(&rig, mine.opens == opens + 1, TURNS);
        ck_assert_uint_eq(faults_hit(calls[i]), 1);
        ck_assert_int_eq(berth_conn_abort(berth_conn_find(rig.loop, token)), 0);
        RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, TURNS);
    }
    faults_fail("dup3", 1, 2, -EMFILE);
    (void)connect_to(&rig, &mine, "quick.example");
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, TURNS);
    ck_assert_int_eq(mine.reason, -EMFILE);
    end(&rig, &record);
}
END_TEST

START_TEST(names_that_are_none)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const char *const bad[] = {
        "tcp://a b:1",      "tcp://a..b:1", "tcp://.a:1",
        "tcp://127.1:1",    "tcp://0x7f:1", "tcp://a.0X7f000001:1",
        "tcp://1.2.3.4.:1", "tcp://name:",  "tcp://name",
        "tcp://name:65536", "tcp://a/b:1",  "tcp://a@b:1",
        "tcp://[name]:1",   "tcp://.:1",    "tcp://b\xc3\xbc.example:1",
        "name:1",           "udp://name:1"};
    char longest[300], text[320];
    struct rig rig;
    struct record record, mine;
    begin(&rig, &record, &mine, engine);
    names.error = -ENOENT;
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(berth_connect(rig.loop, bad[i], &recording, &mine, NULL) == -EINVAL, "%s",
                      bad[i]);
    ck_assert_int_eq(berth_connect(rig.loop, NULL, &recording, &mine, NULL), -EINVAL);
    ck_assert_int_eq(berth_listen(rig.loop, "tcp://a.example:1", &recording, &mine, NULL), -EINVAL);

    static const char *const good[] = {"a",        "a.b", "a.b.", "1.2.a", "_srv.a-b.example",
                                       "LOCALHOST"};
    for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        (void)connect_to(&rig, &mine, good[i]);
    RIG_UNTIL(&rig, mine.closes == sizeof(good) / sizeof(good[0]), TURNS);
    ck_assert_uint_eq(told(names.asked), sizeof(good) / sizeof(good[0]));

    /* Labels of 63 characters, 254 in all; then one more of each. */
    for (unsigned i = 0; i < sizeof(longest); i++)
        longest[i] = i % 64 == 63 ? '.' : 'x';
    longest[254] = '\0';
    (void)snprintf(text, sizeof(text), "tcp://%s:1", longest);
    ck_assert_int_eq(berth_connect(rig.loop, text, &recording, &mine, NULL), 0);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, TURNS);
    longest[254] = 'x';
    longest[255] = '\0';
    (void)snprintf(text, sizeof(text), "tcp://%s:1", longest);
    ck_assert_int_eq(berth_connect(rig.loop, text, &recording, &mine, NULL), -EINVAL);
    longest[63] = 'x';
    longest[70] = '\0';
    (void)snprintf(text, sizeof(text), "tcp://%s:1", longest);
    ck_assert_int_eq(berth_connect(rig.loop, text, &recording, &mine, NULL), -EINVAL);
    end(&rig, &record);
}
END_TEST

static Suite *
resolve_suite(void)
{
    Suite *suite = suite_create("resolve");
    RIG_ADD(suite, name_of_this_machine);
    RIG_ADD(suite, no_such_name);
    RIG_ADD(suite, errors_in_our_words);
    RIG_ADD(suite, answer_wakes_the_loop_and_connects);
    RIG_ADD(suite, next_address_is_tried);
    RIG_ADD(suite, last_error_is_the_reason);
    RIG_ADD(suite, tries_have_an_end);
    RIG_ADD(suite, calls_that_fail);
    RIG_ADD(suite, names_that_are_none);
    return suite;
}

int
main(void)
{
    return test_run(resolve_suite());
}
