/*
 * See loop_rig.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include <fcntl.h>

const char *const rig_engines[RIG_ENGINES] = {"uring", "epoll", "poll", "uring-direct"};

/** A case runs for each engine, and on a loaded machine under Valgrind. */
#define CASE_TIMEOUT_S 300

int
rig_is_uring(const char *engine)
{
    return strncmp(engine, "uring", 5) == 0;
}

int
rig_conn_fd(const struct berth_conn *conn)
{
    const int fd = berth_conn_fd_install(conn);
    ck_assert_msg(fd >= 0, "installing: %s", strerror(-fd));
    return fd;
}

/** Whether the loop has direct descriptors, as asked; says why not. */
static int
is_direct(const struct berth_loop *loop)
{
    char text[4096];
    ck_assert_int_lt(berth_loop_explain(loop, text, sizeof(text)), sizeof(text));
    if (strstr(text, "descriptors: direct") != NULL)
        return 1;
    printf("skipped: no engine \"uring-direct\" here:\n%s", text);
    return 0;
}

int
rig_has(const char *engine)
{
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    rig_options(&options, engine, NULL);
    const int error = berth_loop_create(&loop, &options);
    if (error != 0) {
        ck_assert_msg(rig_is_uring(engine), "%s: %s", engine, strerror(-error));
        printf("skipped: no engine \"%s\" here: %s\n", engine, strerror(-error));
        return 0;
    }
    const int has = !options.direct_descriptors || is_direct(loop);
    ck_assert_int_eq(berth_loop_destroy(loop), 0);
    return has;
}

int
rig_uses(const struct berth_loop *loop, const char *feature)
{
    char text[4096], key[64];
    ck_assert_int_lt(berth_loop_explain(loop, text, sizeof(text)), sizeof(text));
    (void)snprintf(key, sizeof(key), "feature %s: ", feature);
    char *said = strstr(text, key);
    if (said == NULL)
        return 1;
    said += strlen(key);
    said[strcspn(said, "\n")] = '\0';
    if (strcmp(said, "works") == 0 || strstr(said, "forced") != NULL)
        return 1;
    printf("without %s: %s\n", feature, said);
    return 0;
}

void
rig_options(struct berth_loop_options *options, const char *engine,
            const struct berth_pool_options *pool)
{
    berth_loop_options_init(options);
    options->direct_descriptors = engine != NULL && strcmp(engine, "uring-direct") == 0;
    options->engine = options->direct_descriptors ? "uring" : engine;
    options->pool = pool;
}

void
rig_begin(struct rig *rig, const struct berth_loop_options *options,
          const struct berth_handlers *handlers, void *ctx)
{
    rig->descriptors = test_descriptors_open();
    rig->loop = NULL;
    ck_assert_int_eq(berth_loop_create(&rig->loop, options), 0);
    ck_assert_str_eq(berth_loop_engine(rig->loop), options->engine);
    ck_assert_int_eq(berth_listen(rig->loop, "tcp://127.0.0.1:0", handlers, ctx, &rig->listener),
                     0);
}

void
rig_verify(const struct rig *rig)
{
    const char *why = NULL;
    ck_assert_msg(berth_table_verify(berth_loop_table(rig->loop), &why) == 0, "table: %s", why);
    ck_assert_msg(berth_pool_verify(berth_loop_pool(rig->loop), &why) == 0, "pool: %s", why);
}

/* The pool goes with the loop: that it came back whole shows in the mappings, where a test cares,
 * and in the connections, which hold no buffer when they are gone. */
void
rig_end(struct rig *rig)
{
    rig_verify(rig);
    ck_assert_int_eq(berth_loop_destroy(rig->loop), 0);
    ck_assert_uint_eq(test_descriptors_open(), rig->descriptors);
}

int
rig_connect_to(const struct berth_listener *listener)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    memset(&address, 0, sizeof(address));
    if (getsockname(berth_listener_fd(listener), (struct sockaddr *)&address, &size) != 0)
        return -errno;
    const int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* The kernel completes this by itself, before anybody accepts. */
    if (connect(fd, (struct sockaddr *)&address, size) != 0 ||
        fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        const int error = -errno;
        (void)close(fd);
        return error;
    }
    return fd;
}

int
rig_connect(const struct rig *rig)
{
    return rig_connect_to(rig->listener);
}

int
rig_client(const struct rig *rig)
{
    const int client = rig_connect(rig);
    ck_assert_msg(client >= 0, "connect: %s", strerror(-client));
    return client;
}

int
rig_turn(const struct rig *rig, int timeout_ms)
{
    const int handled = berth_loop_turn(rig->loop, timeout_ms);
    ck_assert_msg(handled >= 0, "turn: %s", strerror(-handled));
    return handled;
}

intptr_t
rig_read(int client, void *data, size_t size)
{
    const ssize_t got = recv(client, data, size, MSG_DONTWAIT);
    return got < 0 ? -errno : got;
}

void
rig_write(int client, const void *data, size_t size)
{
    const ssize_t sent = send(client, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    ck_assert_msg(sent == (ssize_t)size, "send: %zd, %s", sent, strerror(errno));
}

void
rig_flood(int client)
{
    static const char zeroes[65536];
    while (send(client, zeroes, sizeof(zeroes), MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
        ;
}

void
rig_close_all(const struct rig *rig, const int *clients, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(close(clients[i]), 0);
    RIG_UNTIL(rig, berth_loop_conns(rig->loop) == 0, 200);
}

void
rig_reset(int client)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    ck_assert_int_eq(setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
    ck_assert_int_eq(close(client), 0);
}

void
rig_echo(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)bytes;
    for (unsigned i = 0; i < n; i++)
        if (berth_send_span(conn, &spans[i]) != 0)
            (void)berth_conn_abort(conn);
}

void
rig_try_echo(const struct rig *rig)
{
    const int client = rig_client(rig);
    char text[16] = "";
    rig_write(client, "is it you?", 10);
    RIG_UNTIL(rig, rig_read(client, text, sizeof(text)) == 10, 100);
    ck_assert_mem_eq(text, "is it you?", 10);
    ck_assert_int_eq(close(client), 0);
    RIG_UNTIL(rig, berth_loop_conns(rig->loop) == 0, 100);
}

struct berth_loop_stats
rig_stats(const struct rig *rig)
{
    struct berth_loop_stats stats;
    memset(&stats, 0xff, sizeof(stats));
    berth_loop_stats_get(rig->loop, &stats);
    return stats;
}

/** A case of its own, which compares descriptors before and after each test. */
static TCase *
add_case(Suite *suite, const char *name)
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, CASE_TIMEOUT_S);
    tcase_add_checked_fixture(tcase, test_descriptors_note, test_descriptors_compare);
    suite_add_tcase(suite, tcase);
    return tcase;
}

void
rig_add(Suite *suite, const char *name, const TTest *test)
{
    TCase *tcase = add_case(suite, name);
    const char *only = getenv("BERTH_TEST_ENGINE");
    for (int i = 0; i < RIG_ENGINES; i++)
        if (only == NULL || strcmp(only, rig_engines[i]) == 0)
            tcase_add_loop_test(tcase, test, i, i + 1);
}

void
rig_add_counted(Suite *suite, const char *name, const TTest *test, int count)
{
    tcase_add_loop_test(add_case(suite, name), test, 0, count);
}

unsigned
rig_count_refused(int *clients, unsigned count)
{
    unsigned refused = 0;
    for (unsigned i = 0; i < count; i++) {
        char byte;
        const intptr_t got = clients[i] < 0 ? 0 : rig_read(clients[i], &byte, 1);
        if (got == -EAGAIN)
            continue;
        ck_assert_msg(got == 0 || got == -ECONNRESET, "read: %ld", (long)got);
        refused++;
        if (clients[i] >= 0)
            ck_assert_int_eq(close(clients[i]), 0);
        clients[i] = -1;
    }
    return refused;
}
