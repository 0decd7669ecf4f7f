/*
 * Every system call that the loop makes fails once, at every place: the k-th call of a kind, for
 * k = 1, 2, ... until a whole life of a loop does not get that far. Whatever fails, the loop says
 * so, loses no more connections than the call was about, calls close for each open, takes a bounded
 * number of turns, and leaves no descriptor, mapping or buffer behind.
 *
 * Not among them: munmap and uring_exit, which can fail only for a caller's mistake. close(2) is
 * special: when it reports an error, the descriptor is closed all the same. And one thing fails for
 * good: whatever an engine waits with.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_MEMORY
#include "loop/loop_rig.h"

#include "os/sys.h"
#include "support/faults.h"

/** The clients of one life, and what each sends in every round. */
#define CLIENTS 10
#define ROUNDS 3
#define LONG_BYTES 20000

/** Turns that a round may take: a listener that rests does so for two or three. */
#define TURNS_MAX 200

/** No call is made so often in one life. */
#define CALLS_MAX 2000

/** What a failing call may cost. */
enum cost {
    COST_NOTHING,    /**< the loop goes on as if nothing had happened */
    COST_TURN,       /**< one turn says so, or nothing happens */
    COST_CONNECTION, /**< one connection, or nothing */
    COST_NEWCOMERS,  /**< who waits outside is turned away */
    COST_LOOP        /**< there is no loop or no listener, and the error says why; or nothing */
};

/** On which engines a life makes the call. */
enum makers {
    PLAIN = 1,
    EPOLL = 2,
    POLL = 4,
    DIRECT = 8,
    URING = PLAIN | DIRECT,
    READY = EPOLL | POLL,
    ALL = URING | READY
};

struct fault {
    const char *call;
    int error;
    enum cost cost;
    unsigned makers;
};

static const struct fault faults[] = {
    {"mmap", -ENOMEM, COST_LOOP, ALL},
    {"mprotect", -ENOMEM, COST_LOOP, ALL}, /* or a connection */
    {"madvise", -EINVAL, COST_NOTHING, ALL},
    {"name_memory", -EINVAL, COST_NOTHING, ALL},
    {"eventfd", -EMFILE, COST_LOOP, ALL},
    {"open", -EMFILE, COST_LOOP, ALL},
    {"write", -EAGAIN, COST_NOTHING, ALL},
    {"close", -EIO, COST_NOTHING, ALL},
    {"getrlimit", -EPERM, COST_NOTHING, ALL},
    {"read", -EAGAIN, COST_NOTHING, ALL},
    {"fcntl", -EBADF, COST_CONNECTION, ALL},
    {"socket", -EMFILE, COST_LOOP, ALL},
    {"bind", -EADDRINUSE, COST_LOOP, ALL},
    {"listen", -EADDRINUSE, COST_LOOP, ALL},
    {"getsockname", -ENOBUFS, COST_LOOP, ALL},
    {"setsockopt", -ENOBUFS, COST_NOTHING, ALL},
    {"getsockopt", -ENOBUFS, COST_CONNECTION, ALL},
    {"getpeername", -ENOTCONN, COST_NOTHING, ALL},
    {"connect", -ENETUNREACH, COST_CONNECTION, ALL},
    {"shutdown", -ENOTCONN, COST_NOTHING, URING},
    {"accept4", -ECONNABORTED, COST_NOTHING, READY},
    {"accept4", -EINTR, COST_NOTHING, READY},
    {"accept4", -ENOBUFS, COST_NOTHING, READY},
    {"accept4", -EMFILE, COST_NEWCOMERS, READY},
    {"recv", -ECONNRESET, COST_CONNECTION, ALL},
    {"recv", -EINTR, COST_NOTHING, ALL},
    {"send", -EPIPE, COST_CONNECTION, READY},
    {"send", -ENOBUFS, COST_CONNECTION, READY},
    {"send", -EINTR, COST_NOTHING, READY},
    {"send", -EAGAIN, COST_NOTHING, READY},
    {"sendmsg", -ECONNRESET, COST_CONNECTION, READY},
    {"sendmsg", -EINTR, COST_NOTHING, READY},
    {"sendmsg", -EAGAIN, COST_NOTHING, READY},
    {"poll", -EINTR, COST_NOTHING, POLL},
    {"poll", -ENOMEM, COST_TURN, POLL},
#ifdef __linux__
    {"epoll_create1", -EMFILE, COST_LOOP, EPOLL},
    {"epoll_ctl", -ENOMEM, COST_LOOP, EPOLL}, /* or a connection */
    {"epoll_wait", -EINTR, COST_NOTHING, EPOLL},
    {"epoll_wait", -ENOMEM, COST_TURN, EPOLL},
#endif
#ifdef BERTH_HAVE_LIBURING
    {"uring_init", -ENOMEM, COST_LOOP, URING},
    {"uring_init", -EPERM, COST_LOOP, URING},
    {"uring_no_fork", -EINVAL, COST_NOTHING, URING},
    {"uring_knows", -ENOMEM, COST_LOOP, URING},
    {"uring_register_buffers", -ENOMEM, COST_LOOP, URING},
    {"uring_enable", -EINVAL, COST_TURN, URING},
    {"uring_register_ring_fd", -ENOMEM, COST_NOTHING, URING},
    /* Without direct descriptors the loop goes on without them; later they are one connection's. */
    {"socketpair", -EMFILE, COST_NOTHING, DIRECT},
    {"uring_register_files", -ENOMEM, COST_NOTHING, DIRECT},
    {"uring_unregister_files", -ENOMEM, COST_NOTHING, DIRECT},
    {"uring_set_file", -ENOMEM, COST_LOOP, DIRECT},
    {"uring_submit", -EAGAIN, COST_CONNECTION, DIRECT},
    {"uring_wait", -EINTR, COST_NOTHING, URING},
    {"uring_wait", -EAGAIN, COST_NOTHING, URING},
    {"uring_wait", -EBUSY, COST_NOTHING, URING},
    {"uring_wait", -ENOMEM, COST_TURN, URING},
#endif
};
#define FAULTS (sizeof(faults) / sizeof(faults[0]))

/* ---- one life ------------------------------------------------------------------------------- */

struct life {
    const char *engine;
    int error; /**< the one that is made to happen */
    struct berth_loop *loop;
    struct berth_listener *listener;
    int clients[CLIENTS]; /**< -1: closed by the loop */
    unsigned lost;        /**< clients that the loop closed */
    unsigned turns_failed;
    unsigned opens, closes, connects_failed;
    unsigned own_done; /**< the loop's own connection has had its echo */
};

static unsigned char message[LONG_BYTES];

/** Which call fails now: every failed check says so. */
static char now[64];
#define MUST(condition) ck_assert_msg((condition), "%s: " #condition, now)

static int
on_open(struct berth_conn *conn, void *ctx)
{
    struct life *life = ctx;
    char peer[BERTH_ADDRESS_TEXT_MAX];
    const int error = berth_conn_peer(conn, peer, sizeof(peer));
    MUST(error == 0 || error == life->error || error == -ENOTCONN); /* it may have left again */
    life->opens++;
    return 0;
}

static void
on_close(struct berth_conn *conn, int reason)
{
    struct life *life = berth_conn_context(conn);
    MUST(reason <= 0);
    life->closes++;
}

static const struct berth_handlers server = {.open = on_open, .data = rig_echo, .close = on_close};

static int
on_own_open(struct berth_conn *conn, void *ctx)
{
    (void)on_open(conn, ctx);
    if (berth_send(conn, "own", 3) != 0)
        (void)berth_conn_abort(conn);
    return 0;
}

static void
on_own_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct life *life = berth_conn_context(conn);
    MUST(n == 1 && bytes == 3 && memcmp(spans->data, "own", 3) == 0);
    life->own_done++;
    (void)berth_conn_close(conn);
}

/** As on_close; it may also come without an open. */
static void
on_own_close(struct berth_conn *conn, int reason)
{
    struct life *life = berth_conn_context(conn);
    if (life->own_done == 0)
        life->connects_failed++;
    life->own_done++;
    on_close(conn, reason);
}

static const struct berth_handlers own = {
    .open = on_own_open, .data = on_own_data, .close = on_own_close};

/** A turn may say what failed; nothing else. */
static void
life_turn(struct life *life)
{
    const int handled = berth_loop_turn(life->loop, RIG_TURN_MS);
    if (handled >= 0)
        return;
    MUST(handled == life->error);
    life->turns_failed++;
}

static void
close_client(struct life *life, unsigned i)
{
    MUST(close(life->clients[i]) == 0);
    life->clients[i] = -1;
}

/** Reads what is there; whether the client has had its echo, or was turned away. */
static int
client_done(struct life *life, unsigned i, size_t *have, size_t length)
{
    static unsigned char data[LONG_BYTES];
    while (life->clients[i] >= 0 && *have < length) {
        const intptr_t got = rig_read(life->clients[i], data, length - *have);
        if (got == -EAGAIN)
            return 0;
        if (got <= 0) {
            MUST(got == 0 || got == -ECONNRESET);
            life->lost++;
            close_client(life, i);
            break;
        }
        MUST(memcmp(data, message + *have, (size_t)got) == 0);
        *have += (size_t)got;
    }
    return 1;
}

/** Every client sends `length` bytes and gets them back. */
static void
play_round(struct life *life, size_t length)
{
    size_t have[CLIENTS] = {0};
    for (unsigned i = 0; i < CLIENTS; i++) {
        if (life->clients[i] < 0)
            continue;
        /* A client may have been reset by now: reading will tell. */
        const ssize_t sent = send(life->clients[i], message, length, MSG_NOSIGNAL);
        MUST(sent == (ssize_t)length || errno == EPIPE || errno == ECONNRESET);
    }
    unsigned done = 0;
    for (unsigned turn = 0; done < CLIENTS && turn < TURNS_MAX; turn++) {
        life_turn(life);
        done = 0;
        for (unsigned i = 0; i < CLIENTS; i++)
            done += client_done(life, i, &have[i], length) != 0;
    }
    MUST(done == CLIENTS);
}

/** The loop connects to itself. */
static void
play_own(struct life *life)
{
    char address[BERTH_ADDRESS_TEXT_MAX];
    MUST(berth_listener_address(life->listener, address, sizeof(address)) == 0);
    const int error = berth_connect(life->loop, address, &own, life, NULL);
    if (error != 0) {
        MUST(error == life->error);
        life->connects_failed++;
        return;
    }
    for (unsigned turn = 0; life->own_done == 0 && turn < TURNS_MAX; turn++)
        life_turn(life);
    MUST(life->own_done != 0);
}

static void
play(struct life *life)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        life->clients[i] = rig_connect_to(life->listener);
        MUST(life->clients[i] >= 0);
    }
    for (unsigned i = 0; i < ROUNDS; i++)
        play_round(life, i == ROUNDS - 1 ? LONG_BYTES : 100);
    MUST(berth_loop_stop(life->loop) == 0); /* wakes it up; only berth_loop_run stops */
    play_own(life);
    for (unsigned i = 0; i < CLIENTS; i += 2)
        if (life->clients[i] >= 0) {
            rig_reset(life->clients[i]);
            life->clients[i] = -1;
        }
    /* Two are left for destroy to close. */
    for (unsigned i = 1; i < CLIENTS - 4; i += 2)
        if (life->clients[i] >= 0)
            close_client(life, i);
    for (unsigned turn = 0; berth_loop_conns(life->loop) > 2 && turn < TURNS_MAX; turn++)
        life_turn(life);
    MUST(berth_loop_conns(life->loop) <= 2);
}

/** From create to destroy. Returns what creating or listening answered. */
static int
live(struct life *life)
{
    struct berth_loop_options options;
    rig_options(&options, life->engine, NULL);
    options.receive_buffers = 64;
    int error = berth_loop_create(&life->loop, &options);
    if (error != 0) {
        MUST(life->loop == NULL);
        return error;
    }
    error = berth_listen(life->loop, "tcp://127.0.0.1:0", &server, life, &life->listener);
    if (error == 0)
        play(life);
    struct rig rig = {.loop = life->loop};
    rig_verify(&rig);
    MUST(berth_loop_destroy(life->loop) == 0);
    for (unsigned i = 0; i < CLIENTS; i++)
        if (life->clients[i] >= 0)
            close_client(life, i);
    return error;
}

/* ---- a close that says it failed ------------------------------------------------------------ */

static struct {
    unsigned left, hit;
    int error;
} close_plan;

static intptr_t
failing_close(int fd)
{
    const intptr_t result = sys_direct_close(fd);
    if (close_plan.left == 0 || --close_plan.left > 0)
        return result;
    close_plan.hit = 1;
    return close_plan.error;
}

/** The k-th close from now on reports an error, and closes. */
static void
fail_close(unsigned k, int error)
{
    close_plan.left = k;
    close_plan.error = error;
    berth_sys_close = failing_close;
}

/* ---- what is left of it --------------------------------------------------------------------- */

/** Address space that the library has taken and not given back. */
static intptr_t mapped_bytes;

/** What mmap was before it was counted: it may be one that fails. */
static intptr_t (*uncounted_mmap)(size_t size, int protection, int flags);

static intptr_t
counted_mmap(size_t size, int protection, int flags)
{
    const intptr_t result = uncounted_mmap(size, protection, flags);
    if (result > 0 || result < -4095)
        mapped_bytes += (intptr_t)size;
    return result;
}

static intptr_t
counted_munmap(void *address, size_t size)
{
    mapped_bytes -= (intptr_t)size;
    return sys_direct_munmap(address, size);
}

/** From now on, over whatever has been planned to fail. faults_reset ends it. */
static void
count_mappings(void)
{
    mapped_bytes = 0;
    uncounted_mmap = berth_sys_mmap;
    berth_sys_mmap = counted_mmap;
    berth_sys_munmap = counted_munmap;
}

/** One life in which the k-th of those calls fails. Whether it came so far. */
static int
live_with(const char *engine, const struct fault *fault, unsigned k)
{
    struct life life = {.engine = engine, .error = fault->error};
    memset(life.clients, 0xff, sizeof(life.clients));
    const unsigned descriptors = test_descriptors_open();
    (void)snprintf(now, sizeof(now), "%s %d, %s %u", engine, fault->error, fault->call, k);
    faults_fail(fault->call, k, 1, fault->error);
    if (strcmp(fault->call, "close") == 0)
        fail_close(k, fault->error);
    count_mappings();
    const int error = live(&life);
    const unsigned hit = faults_hit(fault->call) + close_plan.hit;
    faults_reset();
    close_plan.hit = 0;
    MUST(error == 0 || (hit > 0 && error == fault->error));
    MUST(life.closes >= life.opens);
    MUST(life.closes <= life.opens + life.connects_failed);
    MUST(test_descriptors_open() == descriptors);
    MUST(mapped_bytes == 0);

    MUST(error == 0 || fault->cost == COST_LOOP);
    MUST(life.turns_failed <= (fault->cost == COST_TURN || fault->cost == COST_LOOP));
    const unsigned lost = life.lost + life.connects_failed;
    if (fault->cost == COST_NOTHING || fault->cost == COST_TURN)
        MUST(lost == 0);
    else if (fault->cost != COST_NEWCOMERS)
        MUST(lost <= 1);
    return hit > 0;
}

START_TEST(each_call_fails_once)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (size_t i = 0; i < sizeof(message); i++)
        message[i] = (unsigned char)(i * 31 + (i >> 7));
    const unsigned step = test_is_slow() && !TEST_SANITIZED ? 9 : 1;
    if (step > 1)
        printf("under Valgrind: one kind of call in four, and one place in %u\n", step);
    for (size_t i = 0; i < FAULTS; i++) {
        if (step > 1 && i % 4 != (size_t)_i)
            continue;
        unsigned k = 1;
        while (k < CALLS_MAX && live_with(engine, &faults[i], k))
            k += step;
        MUST(k < CALLS_MAX);
        MUST((k > 1) == ((faults[i].makers >> _i) & 1));
    }
}
END_TEST

/* ---- what fails for good -------------------------------------------------------------------- */

/** What each engine waits with. */
static const char *const wait_calls[RIG_ENGINES] = {"uring_wait", "epoll_wait", "poll",
                                                    "uring_wait"};

START_TEST(waiting_fails_for_good)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct life life = {.engine = engine, .error = -EBADF};
    const unsigned descriptors = test_descriptors_open();
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    count_mappings();
    ck_assert_int_eq(berth_loop_create(&life.loop, &options), 0);
    ck_assert_int_eq(berth_listen(life.loop, "tcp://127.0.0.1:0", &server, &life, &life.listener),
                     0);
    for (unsigned i = 0; i < CLIENTS; i++)
        life.clients[i] = rig_connect_to(life.listener);
    for (unsigned turn = 0; life.opens < CLIENTS && turn < TURNS_MAX; turn++)
        life_turn(&life);
    for (unsigned i = 0; i < CLIENTS; i++) /* the loop will have something in its hands */
        rig_write(life.clients[i], message, LONG_BYTES);
    life_turn(&life);

    ck_assert_int_gt(mapped_bytes, 0);
    faults_fail(wait_calls[_i], 1, FAULTS_FOR_EVER, life.error);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(berth_loop_turn(life.loop, RIG_TURN_MS), life.error);
    ck_assert_int_eq(berth_loop_run(life.loop), life.error);
    ck_assert_int_eq(berth_loop_destroy(life.loop), 0);
    faults_reset();
    ck_assert_uint_eq(life.opens, CLIENTS);
    ck_assert_uint_eq(life.closes, CLIENTS);
    for (unsigned i = 0; i < CLIENTS; i++)
        close_client(&life, i);
    ck_assert_uint_eq(test_descriptors_open(), descriptors);
    ck_assert_int_eq(mapped_bytes, 0);
}
END_TEST

#ifdef BERTH_HAVE_LIBURING
START_TEST(submitting_fails_for_good)
{
    enum { MANY = 1500 }; /* more receives to post in one turn than submissions fit */
    static int clients[MANY];
    if (!rig_has("uring"))
        return;
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < 2 * MANY + 100) {
        printf("skipped: descriptors limited to %lu\n", (unsigned long)limit.rlim_cur);
        return;
    }
    static const struct berth_handlers echo = {.data = rig_echo};
    struct berth_loop_options options;
    struct rig rig;
    rig_options(&options, "uring", NULL);
    options.events_max = 4096;
    rig_begin(&rig, &options, &echo, NULL);
    for (unsigned i = 0; i < MANY; i++) {
        clients[i] = rig_client(&rig);
        rig_write(clients[i], "x", 1);
    }
    /* Only the wait hands anything over. */
    faults_fail("uring_submit", 1, FAULTS_FOR_EVER, -EBUSY);
    unsigned served = 0;
    for (unsigned turn = 0; served < MANY && turn < TURNS_MAX; turn++) {
        char byte;
        (void)rig_turn(&rig, RIG_TURN_MS);
        while (served < MANY && rig_read(clients[served], &byte, 1) == 1)
            served++;
    }
    ck_assert_uint_eq(served, MANY);
    ck_assert_uint_gt(faults_hit("uring_submit"), 0);
    faults_reset();
    for (unsigned i = 0; i < MANY; i++)
        ck_assert_int_eq(close(clients[i]), 0);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 0, TURNS_MAX);
    rig_end(&rig);
}
END_TEST
#endif

int
main(void)
{
    Suite *suite = suite_create("loop faults");
    RIG_ADD(suite, each_call_fails_once);
    RIG_ADD(suite, waiting_fails_for_good);
#ifdef BERTH_HAVE_LIBURING
    TCase *tcase = tcase_create("submitting_fails_for_good");
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, test_descriptors_note, test_descriptors_compare);
    tcase_add_test(tcase, submitting_fails_for_good);
    suite_add_tcase(suite, tcase);
#endif
    return test_run(suite);
}
