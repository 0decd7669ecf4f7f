/*
 * Direct descriptors: what is different with them. That everything else is the same is what the
 * other tests show, which run on "uring-direct" as on any engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include <fcntl.h>
#include <netinet/in.h>

#include "loop/direct.h"

#ifdef BERTH_HAVE_LIBURING
#include "loop/engine_uring.h"
#include "support/faults.h"
#endif

/** Descriptors that this process may have from now on; numbers above stay what they are. */
static void
limit_descriptors(rlim_t count)
{
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = count;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/** The lowest number that is free. */
static rlim_t
lowest_free(void)
{
    const int lowest = dup(STDIN_FILENO);
    ck_assert_int_ge(lowest, 0);
    ck_assert_int_eq(close(lowest), 0);
    return (rlim_t)lowest;
}

/* ---- no descriptors ------------------------------------------------------------------------- */

START_TEST(accepting_takes_no_descriptor)
{
    enum { COUNT = 100 };
    DIRECT_OR_RETURN;
    struct rig rig;
    int clients[COUNT];
    begin(&rig);
    for (unsigned i = 0; i < COUNT; i++)
        clients[i] = rig_client(&rig);
    const unsigned before = test_descriptors_open();
    RIG_UNTIL(&rig, seen.opens == COUNT, TURNS);
    ck_assert_uint_eq(test_descriptors_open(), before);
    for (unsigned i = 0; i < COUNT; i++)
        must_echo(&rig, clients[i]);
    ck_assert_uint_eq(test_descriptors_open(), before);
    rig_close_all(&rig, clients, COUNT);
    ck_assert_uint_eq(seen.closes, COUNT);
    rig_end(&rig);
}
END_TEST

/** More at once than there are buffers in the ring to begin with: none of it borrows. */
START_TEST(a_whole_life_costs_no_calls)
{
    enum { COUNT = 400 };
    DIRECT_OR_RETURN;
    struct rig rig;
    static int clients[COUNT];
    begin(&rig);
    for (unsigned i = 0; i < COUNT; i++)
        clients[i] = rig_client(&rig);
    const struct berth_loop_stats before = rig_stats(&rig);
    RIG_UNTIL(&rig, seen.opens == COUNT, TURNS);
    for (unsigned i = 0; i < COUNT; i++)
        rig_write(clients[i], "x", 1);
    for (unsigned i = 0; i < COUNT; i++) {
        char byte;
        RIG_UNTIL(&rig, rig_read(clients[i], &byte, 1) == 1, TURNS);
    }
    rig_close_all(&rig, clients, COUNT);
    const struct berth_loop_stats after = rig_stats(&rig);
    ck_assert_uint_gt(after.enobufs, before.enobufs);
    ck_assert_uint_eq(after.starved, 0);
    ck_assert_uint_le(after.syscalls - before.syscalls, COUNT / 4);
    rig_end(&rig);
}
END_TEST

/** Installs a descriptor for the connection while its first receive waits to be submitted. */
static int
install_inside_open(struct berth_conn *conn, void *ctx)
{
    int *installed = ctx;
    installed[seen.opens++] = rig_conn_fd(conn);
    return 0;
}

START_TEST(descriptors_on_demand)
{
    enum { COUNT = 30 };
    DIRECT_OR_RETURN;
    static const struct berth_handlers installing = {.open = install_inside_open, .data = rig_echo};
    struct rig rig;
    struct berth_loop_options options;
    int clients[COUNT], installed[COUNT];
    memset(&seen, 0, sizeof(seen));
    rig_options(&options, "uring-direct", NULL);
    rig_begin(&rig, &options, &installing, installed);
    for (unsigned i = 0; i < COUNT; i++)
        clients[i] = rig_client(&rig);
    RIG_UNTIL(&rig, seen.opens == COUNT, TURNS);
    for (unsigned i = 0; i < COUNT; i++) {
        /* They are accepted in the order in which they connected. */
        struct sockaddr_in peer, name;
        socklen_t size = sizeof(peer);
        ck_assert_int_eq(getpeername(installed[i], (struct sockaddr *)(void *)&peer, &size), 0);
        ck_assert_int_eq(getsockname(clients[i], (struct sockaddr *)(void *)&name, &size), 0);
        ck_assert_int_eq(peer.sin_port, name.sin_port);
        ck_assert_int_eq(fcntl(installed[i], F_GETFD), FD_CLOEXEC);
        ck_assert_int_eq(close(installed[i]), 0);
        must_echo(&rig, clients[i]); /* that was not its last descriptor */
    }
    ck_assert_int_eq(berth_conn_fd(NULL), -EINVAL);
    ck_assert_int_eq(berth_conn_fd_install(NULL), -EINVAL);
    rig_close_all(&rig, clients, COUNT);
    rig_end(&rig);
}
END_TEST

START_TEST(on_any_engine_descriptors_on_demand)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    int installed = -1;
    static const struct berth_handlers installing = {.open = install_inside_open, .data = rig_echo};
    memset(&seen, 0, sizeof(seen));
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &installing, &installed);
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, seen.opens == 1, TURNS);
    ck_assert_int_eq(fcntl(installed, F_GETFD), FD_CLOEXEC);
    ck_assert_int_eq(close(installed), 0);
    must_echo(&rig, client);
    rig_close_all(&rig, &client, 1);
    rig_end(&rig);
}
END_TEST

/* ---- rare calls, when descriptors have run out ------------------------------------------------
 */

/** Shuts down one, resets another, asks for the name of a third, with no number to be had. */
static void
rare_calls(const struct rig *rig, rlim_t limit, int name_error)
{
    struct rlimit usual;
    char peer[BERTH_ADDRESS_TEXT_MAX], byte;
    const uint32_t inside = berth_loop_conns(rig->loop);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &usual), 0);
    const int shut = client_inside(rig);
    ck_assert_int_eq(berth_conn_shutdown(seen.last), 0);
    limit_descriptors(limit);
    ck_assert_int_eq(berth_conn_peer(seen.last, peer, sizeof(peer)), name_error);
    RIG_UNTIL(rig, rig_read(shut, &byte, 1) == 0, TURNS);
    ck_assert_int_eq(berth_conn_peer(seen.last, peer, sizeof(peer)), name_error);
    limit_descriptors(usual.rlim_cur);
    ck_assert_int_eq(close(shut), 0);
    RIG_UNTIL(rig, berth_loop_conns(rig->loop) == inside, TURNS);

    const int aborted = client_inside(rig);
    ck_assert_int_eq(berth_conn_abort(seen.last), 0);
    limit_descriptors(limit);
    intptr_t got = -EAGAIN;
    RIG_UNTIL(rig, (got = rig_read(aborted, &byte, 1)) != -EAGAIN, TURNS);
    ck_assert_int_eq(got, name_error == 0 ? -ECONNRESET : 0);
    limit_descriptors(usual.rlim_cur);
    ck_assert_int_eq(close(aborted), 0);
}

START_TEST(rare_calls_use_the_reserve)
{
    DIRECT_OR_RETURN;
    struct rig rig;
    begin(&rig);
    const int first = client_inside(&rig);
    const unsigned before = test_descriptors_open();
    rare_calls(&rig, lowest_free() + 1, 0);             /* which is the client's */
    ck_assert_uint_eq(test_descriptors_open(), before); /* and the reserve is there again */
    rig_close_all(&rig, &first, 1);
    rig_end(&rig);
}
END_TEST

START_TEST(rare_calls_without_any_descriptor)
{
    DIRECT_OR_RETURN;
    struct rig rig;
    begin(&rig);
    rare_calls(&rig, 3, -EMFILE); /* the reserve has a higher number */
    rig_end(&rig);
}
END_TEST

/* ---- the table ------------------------------------------------------------------------------ */

/** Nobody is told anything, and yet the loop sleeps. */
static void
check_quiet(const struct rig *rig)
{
    const unsigned turns = 20;
    const struct berth_loop_stats before = rig_stats(rig);
    for (unsigned i = 0; i < turns; i++)
        (void)rig_turn(rig, RIG_TURN_MS);
    ck_assert_uint_le(rig_stats(rig).syscalls - before.syscalls, 7 * turns);
}

START_TEST(the_table_is_full)
{
    enum { PLACES = 64, CLIENTS = PLACES + 20, ROOM = PLACES - 2 };
    DIRECT_OR_RETURN;
    struct rlimit usual;
    struct rig rig;
    int clients[CLIENTS], pair[2];
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &usual), 0);
    limit_descriptors(PLACES); /* of that moment */
    begin(&rig);
    limit_descriptors(usual.rlim_cur);
    for (unsigned i = 0; i < CLIENTS; i++)
        clients[i] = rig_client(&rig);
    /* The listener and what wakes the loop have the other two. */
    RIG_UNTIL(&rig, rig_count_refused(clients, CLIENTS) == CLIENTS - ROOM, TURNS);
    ck_assert_uint_eq(rig_stats(&rig).accepted, ROOM);
    ck_assert_uint_eq(rig_stats(&rig).refused_limit, CLIENTS - ROOM);
    check_quiet(&rig);
    for (unsigned i = 0; i < CLIENTS; i++)
        if (clients[i] >= 0)
            must_echo(&rig, clients[i]);

    char address[BERTH_ADDRESS_TEXT_MAX];
    const unsigned descriptors = test_descriptors_open();
    ck_assert_int_eq(berth_listener_address(rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_listen(rig.loop, "tcp://127.0.0.1:0", &echo, NULL, NULL), -EMFILE);
    ck_assert_int_eq(berth_connect(rig.loop, address, &echo, NULL, NULL), -EMFILE);
    ck_assert_uint_eq(test_descriptors_open(), descriptors);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &echo, NULL, NULL), -EMFILE);
    ck_assert_int_ge(fcntl(pair[0], F_GETFD), 0); /* still ours */

    /* One goes, so one may come: the first place that is free is the one just left. */
    unsigned first = 0;
    while (clients[first] < 0)
        first++;
    ck_assert_int_eq(close(clients[first]), 0);
    clients[first] = -1;
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == ROOM - 1, TURNS);
    (void)rig_turn(&rig, 0);
    ck_assert_int_eq(berth_adopt(rig.loop, pair[0], &echo, NULL, NULL), 0);
    ck_assert_int_eq(fcntl(pair[0], F_GETFD), -1);
    must_echo(&rig, pair[1]);
    ck_assert_int_eq(close(pair[1]), 0);
    for (unsigned i = 0; i < CLIENTS; i++)
        if (clients[i] >= 0)
            ck_assert_int_eq(close(clients[i]), 0);
    RIG_UNTIL(&rig, seen.closes == ROOM + 1, TURNS);
    rig_end(&rig);
}
END_TEST

/** Far more connections than there are places, one after the other and in crowds. */
START_TEST(places_are_given_out_again)
{
    enum { PLACES = 64, CROWD = 40, ROUNDS = 50 };
    DIRECT_OR_RETURN;
    struct rlimit usual;
    struct rig rig;
    int clients[CROWD];
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &usual), 0);
    limit_descriptors(PLACES);
    begin(&rig);
    limit_descriptors(usual.rlim_cur);
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < CROWD; i++)
            clients[i] = rig_client(&rig);
        RIG_UNTIL(&rig, seen.opens == (round + 1) * CROWD, TURNS);
        for (unsigned i = 0; i < CROWD; i++)
            must_echo(&rig, clients[i]);
        /* The half that has the lower numbers goes first, so that they come back mixed. */
        for (unsigned i = 0; i < CROWD; i++) {
            const unsigned which = (i * 7 + round) % CROWD;
            if (i % 2 == 0)
                rig_reset(clients[which]);
            else
                ck_assert_int_eq(close(clients[which]), 0);
            if (i % 8 == 0)
                (void)rig_turn(&rig, 0);
        }
        BERTH_TABLE_EACH_LIVE (berth_loop_table(rig.loop), index)
            ck_assert_uint_lt(index, PLACES);
        RIG_UNTIL(&rig, seen.closes == (round + 1) * CROWD, TURNS);
        rig_verify(&rig);
    }
    ck_assert_uint_eq(rig_stats(&rig).refused_limit, 0);
    rig_end(&rig);
}
END_TEST

/* ---- leaving while the kernel takes no submissions ------------------------------------------- */

#ifdef BERTH_HAVE_LIBURING
static struct {
    int shut;         /**< ask for a shutdown, too */
    unsigned refused; /**< how often the kernel refuses then */
    unsigned count;
    int fd;
} leaver;

static void
has_left(struct berth_conn *conn, int fd, void *arg)
{
    (void)conn, (void)arg;
    leaver.count++;
    leaver.fd = fd;
}

/** It leaves at once, when there is no room for a submission and the kernel makes none. */
static int
open_and_leave(struct berth_conn *conn, void *ctx)
{
    struct berth_loop *loop = berth_conn_loop(conn);
    struct io_uring_sqe *submission;
    (void)ctx;
    if (leaver.shut)
        ck_assert_int_eq(berth_conn_shutdown(conn), 0);
    ck_assert_int_eq(berth_conn_detach(conn, has_left, NULL), 0);
    while ((submission = io_uring_get_sqe(&uring_state(loop)->ring)) != NULL) {
        io_uring_prep_nop(submission);
        submission->flags |= IOSQE_CQE_SKIP_SUCCESS;
        submission->user_data = berth_token_with_op(loop->wake_token, OP_TABLE);
    }
    faults_fail("uring_submit", 1, leaver.refused, -EBUSY);
    return 0;
}

/** Whether its end is shut, and however often the kernel refuses: it leaves, and nothing is lost.
 */
START_TEST(leaving_waits_for_the_kernel)
{
    DIRECT_OR_RETURN;
    static const struct berth_handlers leaving = {.open = open_and_leave};
    struct berth_loop_options options;
    struct rig rig;
    char text[8];
    rig_options(&options, "uring-direct", NULL);
    rig_begin(&rig, &options, &leaving, NULL);
    for (unsigned i = 0; i < 12; i++) {
        memset(&leaver, 0, sizeof(leaver));
        leaver.shut = i % 2 == 0;
        leaver.refused = 1 + i / 2;
        const int client = rig_client(&rig);
        RIG_UNTIL(&rig, leaver.count == 1, TURNS);
        faults_reset();
        ck_assert_int_ge(leaver.fd, 0);
        ck_assert_int_eq((int)rig_read(client, text, sizeof(text)), leaver.shut ? 0 : -EAGAIN);
        ck_assert_int_eq(close(leaver.fd), 0);
        ck_assert_int_eq(close(client), 0);
    }
    rig_end(&rig);
}
END_TEST
#endif

int
main(void)
{
    Suite *suite = suite_create("direct descriptors");
    ADD(suite, accepting_takes_no_descriptor, 1);
    ADD(suite, a_whole_life_costs_no_calls, 1);
    ADD(suite, descriptors_on_demand, 1);
    ADD(suite, on_any_engine_descriptors_on_demand, RIG_ENGINES);
    ADD(suite, rare_calls_use_the_reserve, 1);
    ADD(suite, rare_calls_without_any_descriptor, 1);
    ADD(suite, the_table_is_full, 1);
    ADD(suite, places_are_given_out_again, 1);
#ifdef BERTH_HAVE_LIBURING
    ADD(suite, leaving_waits_for_the_kernel, 1);
#endif
    return test_run(suite);
}
