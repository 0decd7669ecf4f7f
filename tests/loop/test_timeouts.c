/*
 * Timeouts of connections, each kind on every engine: never early, and late by no more than the
 * header says.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/scene.h"

#include <sys/mman.h>

/* ---- each kind ------------------------------------------------------------------------------ */

START_TEST(idle)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    prepare(&scene, engine);
    begin(&scene, &with_timeout);
    limit(&scene, BERTH_TIMEOUT_IDLE, PERIOD_MS);
    must_come(&scene, BERTH_TIMEOUT_IDLE, clock_now_ms, PERIOD_MS, 0, STEP_MS);
    must_come(&scene, BERTH_TIMEOUT_IDLE, scene.at_ms, PERIOD_MS, 0, STEP_MS); /* anew */
    for (unsigned i = 1; i < 10; i++) { /* whenever in a period a byte comes, or goes */
        must_be_quiet(&scene, PERIOD_MS * i / 11);
        client_sends(&scene);
        must_come(&scene, BERTH_TIMEOUT_IDLE, clock_now_ms, PERIOD_MS, 0, STEP_MS);
        must_be_quiet(&scene, PERIOD_MS * i / 11);
        server_sends(&scene);
        must_come(&scene, BERTH_TIMEOUT_IDLE, clock_now_ms, PERIOD_MS, 0, STEP_MS);
    }
    for (unsigned i = 0; i < 10; i++) {
        must_be_quiet(&scene, PERIOD_MS - STEP_MS);
        if (i % 2)
            client_sends(&scene);
        else
            server_sends(&scene);
    }
    limit(&scene, BERTH_TIMEOUT_IDLE, 0);
    must_be_quiet(&scene, 3 * PERIOD_MS);
    end(&scene);
}
END_TEST

START_TEST(read_only_while_wanted)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    prepare(&scene, engine);
    begin(&scene, &with_timeout);
    limit(&scene, BERTH_TIMEOUT_READ, PERIOD_MS);
    const uint64_t from_ms = clock_now_ms;
    must_be_quiet(&scene, PERIOD_MS / 2);
    server_sends(&scene); /* which is not what it waits for */
    must_come(&scene, BERTH_TIMEOUT_READ, from_ms, PERIOD_MS, 0, STEP_MS);
    client_sends(&scene);
    must_come(&scene, BERTH_TIMEOUT_READ, clock_now_ms, PERIOD_MS, 0, STEP_MS);

    for (unsigned i = 1; i < 10; i++) {
        must_be_quiet(&scene, PERIOD_MS * i / 11);
        ck_assert_int_eq(berth_conn_credit(the_conn(&scene), 0), 0);
        must_be_quiet(&scene, i % 2 ? 2 * PERIOD_MS : STEP_MS);
        ck_assert_int_eq(berth_conn_credit(the_conn(&scene), 1000), 0);
        must_come(&scene, BERTH_TIMEOUT_READ, clock_now_ms, PERIOD_MS, 0, STEP_MS);
    }
    end(&scene);
}
END_TEST

START_TEST(write_only_while_queued)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const char piece[1000];
    struct scene scene;
    prepare(&scene, engine);
    begin_pair(&scene);
    RIG_UNTIL(&scene.rig, scene.opens == 1, TURNS);
    limit(&scene, BERTH_TIMEOUT_WRITE, PERIOD_MS);
    must_be_quiet(&scene, 3 * PERIOD_MS); /* nothing is queued */
    queue_much(&scene);
    fill_sockets(&scene, 1);
    must_come(&scene, BERTH_TIMEOUT_WRITE, clock_now_ms, PERIOD_MS, 0, STEP_MS);
    must_come(&scene, BERTH_TIMEOUT_WRITE, scene.at_ms, PERIOD_MS, 0, STEP_MS);

    /* A reader that is slow, but reads: all the time, and much longer than the period. */
    for (unsigned i = 0; i < 8; i++) {
        ck_assert_uint_ge(client_reads(&scene, 4 * SOCKET_BYTES), 4 * SOCKET_BYTES);
        fill_sockets(&scene, 1);
        must_be_quiet(&scene, PERIOD_MS - STEP_MS);
    }
    while (berth_conn_queued(the_conn(&scene)) > 0)
        ck_assert_uint_gt(client_reads(&scene, QUEUED_BYTES), 0);
    must_be_quiet(&scene, 3 * PERIOD_MS);

    /* Queued at any time within a look, it is not blamed for the time before. */
    for (unsigned i = 1; i < 6; i++) {
        must_be_quiet(&scene, PERIOD_MS * i / 7);
        queue_much(&scene);
        fill_sockets(&scene, 1);
        must_come(&scene, BERTH_TIMEOUT_WRITE, clock_now_ms, PERIOD_MS, 0, STEP_MS);
        while (berth_conn_queued(the_conn(&scene)) > 0)
            ck_assert_uint_gt(client_reads(&scene, QUEUED_BYTES), 0);
    }
    /* The sockets fill up by small pieces; the first one that finds no room counts. */
    while (berth_conn_queued(the_conn(&scene)) == 0) {
        must_be_quiet(&scene, PERIOD_MS / 4 + 7 * STEP_MS); /* looked, and nothing there */
        ck_assert_int_eq(berth_send(the_conn(&scene), piece, sizeof(piece)), 0);
        fill_sockets(&scene, 0);
    }
    must_come(&scene, BERTH_TIMEOUT_WRITE, clock_now_ms, PERIOD_MS, 0, STEP_MS);
    end(&scene);
}
END_TEST

/** Reads so many bytes that are there; they must be those of `data` from `*at` on. */
static void
reads_back(const struct scene *scene, const unsigned char *data, size_t *at, size_t bytes)
{
    static unsigned char text[SOCKET_BYTES];
    while (bytes > 0) {
        const intptr_t got =
            rig_read(scene->client, text, bytes < sizeof(text) ? bytes : sizeof(text));
        if (got == -EAGAIN) {
            (void)rig_turn(&scene->rig, 1);
            continue;
        }
        ck_assert_int_gt(got, 0);
        ck_assert_int_eq(memcmp(text, data + *at, (size_t)got), 0);
        *at += (size_t)got;
        bytes -= (size_t)got;
    }
}

/** Fills the connection's socket, and says with how much. */
static size_t
fill_behind_its_back(const struct scene *scene, const unsigned char *data)
{
    const int fd = rig_conn_fd(the_conn(scene));
    size_t sent = 0;
    for (ssize_t more = 0; more >= 0; sent += more > 0 ? (size_t)more : 0)
        more = send(fd, data + sent, SOCKET_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL);
    ck_assert_int_eq(close(fd), 0);
    ck_assert_uint_gt(sent, 0);
    return sent;
}

/** A send that was begun before somebody set a timeout: he sees its progress all the same. */
START_TEST(set_in_the_middle_of_a_send)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const enum berth_timeout kinds[] = {BERTH_TIMEOUT_WRITE, BERTH_TIMEOUT_IDLE};
    static unsigned char data[QUEUED_BYTES];
    uint64_t random = test_seed("set_in_the_middle_of_a_send");
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)test_random(&random);
    for (unsigned i = 0; i < 4; i++) {
        const enum berth_timeout kind = kinds[i % 2];
        struct scene scene;
        size_t at = 0, before = 0, before_at = 0;
        prepare(&scene, engine);
        begin_pair(&scene);
        RIG_UNTIL(&scene.rig, scene.opens == 1, TURNS);
        if (i >= 2) /* nothing of it is taken when it comes back */
            before = fill_behind_its_back(&scene, data);
        ck_assert_int_eq(berth_send(the_conn(&scene), data, sizeof(data)), 0);
        fill_sockets(&scene, 1);
        if (i < 2) /* some of it is */
            reads_back(&scene, data, &at, 3 * SOCKET_BYTES);
        fill_sockets(&scene, 1);
        limit(&scene, kind, PERIOD_MS);
        reads_back(&scene, data, &before_at, before);
        for (unsigned reads = 0; reads < 8; reads++) {
            reads_back(&scene, data, &at, 3 * SOCKET_BYTES);
            fill_sockets(&scene, 1);
            must_be_quiet(&scene, PERIOD_MS - STEP_MS);
        }
        must_come(&scene, kind, clock_now_ms - (PERIOD_MS - STEP_MS), PERIOD_MS, 0, STEP_MS);
        limit(&scene, kind, 0);
        reads_back(&scene, data, &at, sizeof(data) - at);
        RIG_UNTIL(&scene.rig, berth_conn_queued(the_conn(&scene)) == 0, TURNS);
        end(&scene);
    }
}
END_TEST

/** What goes out of a file is progress, though what is queued stays as much as it was. */
START_TEST(write_of_a_file)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    prepare(&scene, engine);
    begin_pair(&scene);
    RIG_UNTIL(&scene.rig, scene.opens == 1, TURNS);
    limit(&scene, BERTH_TIMEOUT_WRITE, PERIOD_MS);
    const int fd = memfd_create("file", MFD_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, QUEUED_BYTES), 0);
    ck_assert_int_eq(berth_send_file(the_conn(&scene), fd, 0, QUEUED_BYTES), 0);
    fill_sockets(&scene, scene.options.send_high_bytes);
    must_come(&scene, BERTH_TIMEOUT_WRITE, clock_now_ms, PERIOD_MS, 0, STEP_MS);
    for (unsigned i = 0; i < 8; i++) {
        ck_assert_uint_ge(client_reads(&scene, 4 * SOCKET_BYTES), 4 * SOCKET_BYTES);
        fill_sockets(&scene, scene.options.send_high_bytes);
        must_be_quiet(&scene, PERIOD_MS - STEP_MS);
    }
    end(&scene);
}
END_TEST

/** The same over TCP, where big sends may be read in place: each byte comes, once. */
START_TEST(set_in_the_middle_of_a_send_over_tcp)
{
    RIG_ENGINE_OR_RETURN(engine);
    static unsigned char data[QUEUED_BYTES];
    uint64_t random = test_seed("set_in_the_middle_of_a_send_over_tcp");
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)test_random(&random);
    for (unsigned i = 0; i < 2; i++) {
        struct scene scene;
        size_t at = 0, before = 0, before_at = 0;
        prepare(&scene, engine);
        begin(&scene, &with_timeout);
        if (i == 1)
            before = fill_behind_its_back(&scene, data);
        ck_assert_int_eq(berth_send(the_conn(&scene), data, sizeof(data)), 0);
        fill_sockets(&scene, 1);
        limit(&scene, BERTH_TIMEOUT_WRITE, PERIOD_MS);
        fill_sockets(&scene, 1);
        reads_back(&scene, data, &before_at, before);
        reads_back(&scene, data, &at, sizeof(data));
        RIG_UNTIL(&scene.rig, berth_conn_queued(the_conn(&scene)) == 0, TURNS);
        ck_assert_uint_eq(scene.closes + scene.timeouts, 0);
        end(&scene);
    }
}
END_TEST

static unsigned ends_of_streams;

static void
note_eof(struct berth_conn *conn)
{
    (void)conn;
    ends_of_streams++;
}

/** The peer has finished sending before, or while a send waits for it. */
START_TEST(write_to_one_who_has_finished)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers staying = {.open = scene_open,
                                                  .data = scene_data,
                                                  .timeout = scene_timeout,
                                                  .eof = note_eof,
                                                  .close = scene_close};
    for (unsigned i = 0; i < 4; i++) {
        struct scene scene;
        prepare(&scene, engine);
        const unsigned first = i % 2;
        scene.options.send_high_bytes = i < 2 ? 2 * QUEUED_BYTES : 65536; /* then it is paused */
        scene.options.send_low_bytes = 32768;
        scene.options.send_max_bytes = 2 * QUEUED_BYTES;
        begin_pair_with(&scene, &staying);
        RIG_UNTIL(&scene.rig, scene.opens == 1, TURNS);
        ends_of_streams = 0;
        if (first)
            ck_assert_int_eq(shutdown(scene.client, SHUT_WR), 0);
        RIG_UNTIL(&scene.rig, ends_of_streams == first, TURNS);
        queue_much(&scene);
        fill_sockets(&scene, 1);
        ck_assert_int_eq(shutdown(scene.client, SHUT_WR), 0);
        limit(&scene, BERTH_TIMEOUT_WRITE, PERIOD_MS);
        for (unsigned reads = 0; reads < 4; reads++) {
            ck_assert_uint_ge(client_reads(&scene, 4 * SOCKET_BYTES), 4 * SOCKET_BYTES);
            fill_sockets(&scene, 1);
            must_be_quiet(&scene, PERIOD_MS - STEP_MS);
        }
        must_come(&scene, BERTH_TIMEOUT_WRITE, clock_now_ms - (PERIOD_MS - STEP_MS), PERIOD_MS, 0,
                  STEP_MS);
        end(&scene);
    }
}
END_TEST

START_TEST(total_whatever_happens)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    prepare(&scene, engine);
    begin(&scene, &with_timeout);
    const uint64_t from_ms = clock_now_ms;
    limit(&scene, BERTH_TIMEOUT_TOTAL, PERIOD_MS);
    for (unsigned i = 0; i < 7; i++) {
        must_be_quiet(&scene, PERIOD_MS / 8);
        client_sends(&scene);
        server_sends(&scene);
    }
    must_come(&scene, BERTH_TIMEOUT_TOTAL, from_ms, PERIOD_MS, 0, STEP_MS);
    ck_assert_uint_le(scene.at_ms, from_ms + PERIOD_MS + STEP_MS);
    must_be_quiet(&scene, 3 * PERIOD_MS); /* once */
    end(&scene);
}
END_TEST

/** A listening socket that completes no connection more: whoever comes waits. */
static int
deaf_listener(char *address, size_t size, int *filler, unsigned fillers)
{
    struct sockaddr_storage to;
    socklen_t length = sizeof(to);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(listen(fd, 0), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&to, &length), 0);
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&to;
    (void)snprintf(address, size, "tcp://127.0.0.1:%u", (unsigned)ntohs(in->sin_port));
    for (unsigned i = 0; i < fillers; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        ck_assert_int_ge(filler[i], 0);
        (void)connect(filler[i], (struct sockaddr *)&to, length);
    }
    return fd;
}

#define FILLERS 4

static void
connect_and_wait(const char *engine, uint32_t by_option_ms, const struct berth_handlers *handlers)
{
    struct scene scene;
    char address[BERTH_ADDRESS_TEXT_MAX];
    int filler[FILLERS];
    prepare(&scene, engine);
    scene.options.connect_timeout_ms = by_option_ms;
    rig_begin(&scene.rig, &scene.options, handlers, &scene);
    const int deaf = deaf_listener(address, sizeof(address), filler, FILLERS);
    const uint64_t from_ms = clock_now_ms;
    ck_assert_int_eq(berth_connect(scene.rig.loop, address, handlers, &scene, &scene.token), 0);
    ck_assert_ptr_nonnull(the_conn(&scene));
    if (by_option_ms == 0)
        limit(&scene, BERTH_TIMEOUT_CONNECT, PERIOD_MS);
    limit(&scene, BERTH_TIMEOUT_IDLE, PERIOD_MS / 2); /* which begins when it opens */
    must_be_quiet(&scene, PERIOD_MS - STEP_MS);
    if (handlers->timeout != NULL) {
        must_come(&scene, BERTH_TIMEOUT_CONNECT, from_ms, PERIOD_MS, 0, STEP_MS);
        must_be_quiet(&scene, 3 * PERIOD_MS); /* once */
        ck_assert_int_eq(berth_conn_close(the_conn(&scene)), 0);
    } else {
        pass(&scene, 2 * STEP_MS, STEP_MS);
    }
    RIG_UNTIL(&scene.rig, scene.closes == 1, TURNS);
    ck_assert_int_eq(scene.reason, handlers->timeout != NULL ? -ECANCELED : -ETIMEDOUT);
    ck_assert_uint_eq(scene.opens, 0);
    for (unsigned i = 0; i < FILLERS; i++)
        ck_assert_int_eq(close(filler[i]), 0);
    ck_assert_int_eq(close(deaf), 0);
    end(&scene);
}

START_TEST(connecting)
{
    RIG_ENGINE_OR_RETURN(engine);
    connect_and_wait(engine, 0, &without_timeout);
    connect_and_wait(engine, 0, &with_timeout);
    connect_and_wait(engine, PERIOD_MS, &without_timeout);
}
END_TEST

/** It comes to an open in time: connect's timeout is over then, the others begin. */
START_TEST(connected_in_time)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    char address[BERTH_ADDRESS_TEXT_MAX];
    prepare(&scene, engine);
    scene.options.connect_timeout_ms = PERIOD_MS;
    begin(&scene, &without_timeout);
    ck_assert_int_eq(berth_listener_address(scene.rig.listener, address, sizeof(address)), 0);
    ck_assert_int_eq(berth_connect(scene.rig.loop, address, &with_timeout, &scene, &scene.token),
                     0);
    const berth_token token = scene.token;
    limit(&scene, BERTH_TIMEOUT_IDLE, 2 * PERIOD_MS);
    clock_now_ms += PERIOD_MS - STEP_MS; /* nobody has looked yet */
    RIG_UNTIL(&scene.rig, scene.opens == 3, TURNS);
    scene.token = token;
    ck_assert_int_eq(berth_conn_timeout(the_conn(&scene), BERTH_TIMEOUT_CONNECT, 1), -EISCONN);
    must_come(&scene, BERTH_TIMEOUT_IDLE, clock_now_ms, 2 * PERIOD_MS, 0, STEP_MS);
    end(&scene);
}
END_TEST

START_TEST(adopted)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    prepare(&scene, engine);
    begin_pair(&scene);
    limit(&scene, BERTH_TIMEOUT_READ, PERIOD_MS);
    clock_now_ms += PERIOD_MS - STEP_MS;
    RIG_UNTIL(&scene.rig, scene.opens == 1, TURNS);
    must_come(&scene, BERTH_TIMEOUT_READ, clock_now_ms, PERIOD_MS, 0, STEP_MS);
    client_sends(&scene);
    must_come(&scene, BERTH_TIMEOUT_READ, clock_now_ms, PERIOD_MS, 0, STEP_MS);
    end(&scene);
}
END_TEST

/* ---- short and long periods ----------------------------------------------------------------- */

START_TEST(short_periods)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    /* io_uring looks for quiet connections itself, and notes what it saw by ticks of 128 ms. */
    const uint32_t more_ms = strncmp(engine, "uring", 5) == 0 ? 129 : 1;
    prepare(&scene, engine);
    begin(&scene, &with_timeout);
    for (uint32_t period_ms = 1; period_ms <= 20; period_ms++) {
        limit(&scene, BERTH_TIMEOUT_IDLE, period_ms);
        must_come(&scene, BERTH_TIMEOUT_IDLE, clock_now_ms, period_ms, more_ms, 1);
        client_sends(&scene);
        must_come(&scene, BERTH_TIMEOUT_IDLE, clock_now_ms, period_ms, more_ms, 1);
    }
    end(&scene);
}
END_TEST

/** Longer than the table's ticks reach back, and than their 16 bits. */
START_TEST(long_periods)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const uint32_t periods_ms[] = {7200000, 86400000, BERTH_TIMEOUT_MS_MAX};
    struct scene scene;
    prepare(&scene, engine);
    begin(&scene, &with_timeout);
    for (unsigned i = 0; i < 3; i++) {
        const uint32_t step_ms = 97000;
        limit(&scene, BERTH_TIMEOUT_IDLE, periods_ms[i]);
        must_come(&scene, BERTH_TIMEOUT_IDLE, clock_now_ms, periods_ms[i], 0, step_ms);
        client_sends(&scene);
        must_come(&scene, BERTH_TIMEOUT_IDLE, clock_now_ms, periods_ms[i], 0, step_ms);
    }
    end(&scene);
}
END_TEST

/** Another looks for bytes as well, and oftener: what it saw is not lost. */
START_TEST(two_who_look)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct scene scene;
    prepare(&scene, engine);
    begin(&scene, &with_timeout);
    limit(&scene, BERTH_TIMEOUT_IDLE, PERIOD_MS);
    struct berth_slot *slot = as_slot(the_conn(&scene));
    for (unsigned i = 1; i < 40; i++) {
        must_be_quiet(&scene, PERIOD_MS - STEP_MS * i);
        client_sends(&scene);
        const uint64_t from_ms = clock_now_ms;
        ck_assert_uint_eq(activity_read_idle_ms(scene.rig.loop, slot, clock_now_ms), 0);
        clock_now_ms += i;
        const uint32_t idle_ms = activity_read_idle_ms(scene.rig.loop, slot, clock_now_ms);
        ck_assert_uint_le(idle_ms, i);
        must_come(&scene, BERTH_TIMEOUT_IDLE, from_ms, PERIOD_MS, 128, STEP_MS);
    }
    /* And the other is told when it has been quiet for long, a tick more or less. */
    pass(&scene, 1000 * PERIOD_MS, PERIOD_MS);
    ck_assert_uint_eq(activity_read_idle_ms(scene.rig.loop, slot, clock_now_ms), ACTIVITY_LONG_AGO);
    client_sends(&scene);
    const uint64_t from_ms = clock_now_ms;
    limit(&scene, BERTH_TIMEOUT_IDLE, STEP_MS); /* looks at once */
    pass(&scene, 3 * STEP_MS, STEP_MS);
    pass(&scene, PERIOD_MS, STEP_MS);
    const uint32_t idle_ms = activity_read_idle_ms(scene.rig.loop, slot, clock_now_ms);
    ck_assert_uint_le(idle_ms, clock_now_ms - from_ms + 128);
    ck_assert_uint_ge(idle_ms + 3 * STEP_MS + 128, clock_now_ms - from_ms);
    end(&scene);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("timeouts");
    RIG_ADD(suite, idle);
    RIG_ADD(suite, read_only_while_wanted);
    RIG_ADD(suite, write_only_while_queued);
    RIG_ADD(suite, set_in_the_middle_of_a_send);
    RIG_ADD(suite, set_in_the_middle_of_a_send_over_tcp);
    RIG_ADD(suite, write_of_a_file);
    RIG_ADD(suite, write_to_one_who_has_finished);
    RIG_ADD(suite, total_whatever_happens);
    RIG_ADD(suite, connecting);
    RIG_ADD(suite, connected_in_time);
    RIG_ADD(suite, adopted);
    RIG_ADD(suite, short_periods);
    RIG_ADD(suite, long_periods);
    RIG_ADD(suite, two_who_look);
    return test_run(suite);
}
