/*
 * What the io_uring engine finds out about its kernel: on the real one, and on one with a fault in
 * each feature, in each way. Exactly what misbehaves is switched off, the loop never uses it, and
 * echoes right all the same. And the lists of features that people may write.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ways.h"

#include <pthread.h>

#include "loop/engine_uring.h"
#include "loop/faulty_kernel.h"
#include "support/faults.h"
#include "support/sys_groups.h"

#define ECHO_BYTES (1u << 20)

static const struct berth_handlers echo = {.data = rig_echo};

/** The features that are tried, in order. */
static const char *const names[] = {"multishot", "poll-first",  "limits",
                                    "bundles",   "incremental", "incremental-bundles"};
#define FEATURES (sizeof(names) / sizeof(names[0]))

/** What cannot be tried when one of them is broken, as bits. */
static const uint32_t lost_with[FEATURES] = {
    FEATURE_POLL_FIRST | FEATURE_LIMITS | FEATURE_BUNDLES | FEATURE_INCREMENTAL |
        FEATURE_INCREMENTAL_BUNDLES,
    0,
    0,
    FEATURE_INCREMENTAL_BUNDLES,
    FEATURE_INCREMENTAL_BUNDLES,
    0,
};

static struct berth_loop *
make(const char *features)
{
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    rig_options(&options, "uring", NULL);
    options.features = features;
    ck_assert_int_eq(berth_loop_create(&loop, &options), 0);
    return loop;
}

/** What is explained of one feature, from behind its name to the end of the line. */
static const char *
said_of(const struct berth_loop *loop, const char *name)
{
    static char text[4096];
    char key[64];
    const int needed = berth_loop_explain(loop, text, sizeof text);
    ck_assert_int_gt(needed, 0);
    ck_assert_uint_eq((size_t)needed, strlen(text));
    (void)snprintf(key, sizeof key, "feature %s: ", name);
    char *line = strstr(text, key);
    ck_assert_msg(line != NULL, "nothing is said of %s", name);
    line += strlen(key);
    line[strcspn(line, "\n")] = '\0';
    return line;
}

/** The features that are said to work, as bits. */
static uint32_t
working(const struct berth_loop *loop)
{
    uint32_t bits = 0;
    for (unsigned i = 0; i < FEATURES; i++)
        bits |= strncmp(said_of(loop, names[i]), "works", 5) == 0 ? 1u << i : 0;
    return bits;
}

/** Much data there and back through a loop that exists already, every byte looked at. */
static void
must_echo(struct berth_loop *loop)
{
    struct berth_listener *listener = NULL;
    static unsigned char got[65536];
    uint64_t sent = 0, received = 0;
    ck_assert_int_eq(berth_listen(loop, "tcp://127.0.0.1:0", &echo, NULL, &listener), 0);
    const int client = rig_connect_to(listener);
    ck_assert_int_ge(client, 0);
    for (unsigned turns = 0; received < ECHO_BYTES; turns++) {
        ck_assert_uint_lt(turns, 100000);
        const size_t length = ECHO_BYTES - sent < 50000 ? (size_t)(ECHO_BYTES - sent) : 50000;
        const ssize_t wrote =
            length == 0 ? 0 : send(client, ways_bytes(1, sent, length), length, MSG_DONTWAIT);
        sent += wrote > 0 ? (uint64_t)wrote : 0;
        ck_assert_int_ge(berth_loop_turn(loop, RIG_TURN_MS), 0);
        const intptr_t count = rig_read(client, got, sizeof got);
        ck_assert(count > 0 || count == -EAGAIN);
        ck_assert(count < 0 || ways_same(got, (size_t)count, 1, received));
        received += count > 0 ? (uint64_t)count : 0;
    }
    ck_assert_int_eq(close(client), 0);
    for (unsigned turns = 0; berth_loop_conns(loop) > 0 && turns < 100; turns++)
        ck_assert_int_ge(berth_loop_turn(loop, RIG_TURN_MS), 0);
    ck_assert_uint_eq(berth_loop_conns(loop), 0);
}

static void
end(struct berth_loop *loop)
{
    const char *why = NULL;
    ck_assert_msg(berth_pool_verify(berth_loop_pool(loop), &why) == 0, "pool: %s", why);
    ck_assert_int_eq(berth_loop_destroy(loop), 0);
}

/** What the kernel below can do; 0 without io_uring. */
static uint32_t
real_features(void)
{
    if (!rig_has("uring"))
        return 0;
    struct berth_loop *loop = make(NULL);
    const uint32_t bits = working(loop);
    end(loop);
    return bits;
}

/* ---- on this kernel ------------------------------------------------------------------------- */

/** What it says is for people to read; it must be the same every time, and cost little. */
START_TEST(verdicts_on_this_kernel)
{
    struct rusage before, after;
    uint64_t began_ms = 0, ended_ms = 0;
    const uint32_t first = real_features();
    if (!rig_has("uring"))
        return;
    ck_assert_msg(first & FEATURE_MULTISHOT, "io_uring without multishot receives");
    for (unsigned i = 0; i < 20; i++) {
        uring_selftest_forget();
        faults_count("uring_wait");
        (void)sys_clock_ms(&began_ms);
        ck_assert_int_eq(getrusage(RUSAGE_SELF, &before), 0);
        struct berth_loop *loop = make(NULL);
        ck_assert_int_eq(getrusage(RUSAGE_SELF, &after), 0);
        (void)sys_clock_ms(&ended_ms);
        ck_assert_uint_gt(faults_calls("uring_wait"), 0);
        for (unsigned k = 0; i == 0 && k < FEATURES; k++)
            printf("%s: %s\n", names[k], said_of(loop, names[k]));
        ck_assert_uint_eq(working(loop), first);
        end(loop);
    }
    printf("with the self-test a loop takes %llu ms to make, %ld us of them in user mode, %ld us "
           "in the kernel; %u waits\n",
           (unsigned long long)(ended_ms - began_ms),
           (long)(after.ru_utime.tv_usec - before.ru_utime.tv_usec),
           (long)(after.ru_stime.tv_usec - before.ru_stime.tv_usec), faults_calls("uring_wait"));
    faults_reset();
}
END_TEST

/** Not again in this process, nor in a child of it. */
START_TEST(once_in_a_process)
{
    const uint32_t real = real_features();
    int skipped;
    if (real == 0)
        return;
    faults_count("uring_wait");
    struct berth_loop *loop = make(NULL);
    ck_assert_uint_eq(faults_calls("uring_wait"), 0);
    must_echo(loop);
    end(loop);
    faults_count("uring_wait");
    RIG_IN_CHILD(skipped, {
        struct berth_loop *own = make(NULL);
        RIG_MUST(faults_calls("uring_wait") == 0);
        RIG_MUST(working(own) == real);
        RIG_MUST(berth_loop_destroy(own) == 0);
    });
    (void)skipped;
    faults_reset();
}
END_TEST

#define THREADS 4

/*
 * liburing maps and unmaps the memory of rings with system calls of its own, which ThreadSanitizer
 * does not see: a ring in the place of another thread's former one would look like a race. With
 * this lock it knows in which order they were there.
 */
static pthread_mutex_t mapping = PTHREAD_MUTEX_INITIALIZER;

static intptr_t
init_in_order(unsigned entries, struct io_uring *ring, struct io_uring_params *params)
{
    (void)pthread_mutex_lock(&mapping);
    const intptr_t result = sys_direct_uring_init(entries, ring, params);
    (void)pthread_mutex_unlock(&mapping);
    return result;
}

static intptr_t
exit_in_order(struct io_uring *ring)
{
    (void)pthread_mutex_lock(&mapping);
    const intptr_t result = sys_direct_uring_exit(ring);
    (void)pthread_mutex_unlock(&mapping);
    return result;
}

static void *
make_and_look(void *found)
{
    struct berth_loop *loop = NULL;
    struct berth_loop_options options;
    rig_options(&options, "uring", NULL);
    *(uint32_t *)found = 0;
    if (berth_loop_create(&loop, &options) != 0)
        return NULL;
    *(uint32_t *)found = ((const struct uring_engine *)loop->engine_state)->features;
    (void)berth_loop_destroy(loop);
    return NULL;
}

/** Whoever comes first, they all come to the same. */
START_TEST(threads_agree)
{
    const uint32_t real = real_features();
    berth_sys_uring_init = init_in_order;
    berth_sys_uring_exit = exit_in_order;
    for (unsigned round = 0; real != 0 && round < 5; round++) {
        pthread_t threads[THREADS];
        uint32_t found[THREADS];
        uring_selftest_forget();
        for (unsigned i = 0; i < THREADS; i++)
            ck_assert_int_eq(pthread_create(&threads[i], NULL, make_and_look, &found[i]), 0);
        for (unsigned i = 0; i < THREADS; i++)
            ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        for (unsigned i = 0; i < THREADS; i++)
            ck_assert_uint_eq(found[i], real);
    }
    faults_reset();
}
END_TEST

/* ---- on kernels with a fault ---------------------------------------------------------------- */

START_TEST(what_misbehaves_is_not_used)
{
    const unsigned number = (unsigned)_i / FAULTY_WAYS;
    const enum faulty_way way = (enum faulty_way)(_i % FAULTY_WAYS);
    const uint32_t real = real_features(), feature = 1u << number;
    if (!(real & feature)) {
        printf("skipped: this kernel has no %s that could be broken\n", names[number]);
        return;
    }
    faulty_kernel_install(feature, way);
    struct berth_loop *loop = make(NULL);
    const char *said = said_of(loop, names[number]);
    printf("%s, %s: %s\n", names[number], faulty_way_names[way], said);
    ck_assert_uint_gt(faulty_kernel_trials(), 0);
    ck_assert(strncmp(said, "misbehaves (", 12) == 0 ||
              (way == FAULTY_REFUSED && strcmp(said, "missing from this kernel") == 0));
    ck_assert_uint_eq(working(loop), real & ~(feature | lost_with[number]));
    must_echo(loop);
    ck_assert_uint_eq(faulty_kernel_uses(), 0);
    end(loop);
    faulty_kernel_remove();
}
END_TEST

/** A socketpair is not all that there is. */
START_TEST(faults_of_tcp_are_found)
{
    const uint32_t real = real_features(), feature = 1u << _i;
    if (!(real & feature))
        return;
    faulty_kernel_install(feature, FAULTY_BYTE);
    faulty_kernel_only_tcp();
    struct berth_loop *loop = make(NULL);
    ck_assert_str_eq(said_of(loop, names[_i]),
                     "misbehaves (over TCP: bytes are not those that were sent)");
    ck_assert_uint_eq(working(loop), real & ~(feature | lost_with[_i]));
    must_echo(loop);
    ck_assert_uint_eq(faulty_kernel_uses(), 0);
    end(loop);
    faulty_kernel_remove();
}
END_TEST

/** A refused feature, asked for all the same. */
START_TEST(what_is_refused_can_be_forced)
{
    if (!(real_features() & FEATURE_LIMITS))
        return;
    faulty_kernel_install(FEATURE_LIMITS, FAULTY_REFUSED);
    struct berth_loop *loop = make("+limits");
    ck_assert_str_eq(said_of(loop, "limits"), "missing from this kernel; forced by option");
    must_echo(loop);
    ck_assert_uint_gt(faulty_kernel_uses(), 0);
    end(loop);
    faulty_kernel_remove();
}
END_TEST

/** Without receives that work there is no such engine; left to choose, the loop takes another. */
START_TEST(broken_receives_refuse_the_engine)
{
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    char text[2048];
    if (!rig_has("uring"))
        return;
    faulty_kernel_install(0, FAULTY_BYTE);
    rig_options(&options, "uring", NULL);
    ck_assert_int_eq(berth_loop_create(&loop, &options), -EOPNOTSUPP);
    options.engine = "auto";
    ck_assert_int_eq(berth_loop_create(&loop, &options), 0);
    ck_assert_str_eq(berth_loop_engine(loop), "epoll");
    (void)berth_loop_explain(loop, text, sizeof text);
    ck_assert_ptr_nonnull(
        strstr(text, "not uring: self-test of receives: bytes are not those that were sent"));
    must_echo(loop);
    end(loop);
    faulty_kernel_remove();
}
END_TEST

/* ---- when it cannot be tried ---------------------------------------------------------------- */

START_TEST(what_cannot_be_tried_is_not_used)
{
    const uint32_t real = real_features();
    if (real == 0)
        return;
    uring_selftest_forget();
    faults_fail("socketpair", 1, FAULTS_FOR_EVER, -EMFILE);
    struct berth_loop *loop = make(NULL);
    ck_assert_uint_gt(faults_hit("socketpair"), 0);
    ck_assert_uint_eq(working(loop), 0);
    ck_assert_str_eq(said_of(loop, "limits"), "not tried: Too many open files");
    must_echo(loop);
    end(loop);
    faults_reset();
    loop = make(NULL); /* nothing was concluded for ever */
    ck_assert_uint_eq(working(loop), real);
    end(loop);
}
END_TEST

START_TEST(without_loopback_the_socketpair_decides)
{
    const uint32_t real = real_features();
    char text[4096];
    if (real == 0)
        return;
    uring_selftest_forget();
    faults_fail("connect", 1, FAULTS_FOR_EVER, -ENETUNREACH);
    struct berth_loop *loop = make(NULL);
    ck_assert_uint_gt(faults_hit("connect"), 0);
    ck_assert_uint_eq(working(loop), real);
    (void)berth_loop_explain(loop, text, sizeof text);
    ck_assert_ptr_nonnull(
        strstr(text, "self-test: without loopback TCP: Network is unreachable\n"));
    must_echo(loop);
    end(loop);
    faults_reset();
}
END_TEST

/** Every call that the self-test makes fails once, here and there: there is a loop, or a reason. */
START_TEST(failing_calls_do_no_harm)
{
    static const char *const calls[] = {"mmap",
                                        "mprotect",
                                        "madvise",
                                        "socketpair",
                                        "socket",
                                        "bind",
                                        "listen",
                                        "connect",
                                        "accept4",
                                        "getsockname",
                                        "setsockopt",
                                        "send",
                                        "recv",
                                        "shutdown",
                                        "uring_init",
                                        "uring_wait",
                                        "uring_register_buffers"};
    if (real_features() == 0)
        return;
    for (unsigned i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        unsigned hit = 1;
        for (unsigned nth = 1; hit != 0; nth *= 2) {
            struct berth_loop_options options;
            struct berth_loop *loop = NULL;
            const unsigned descriptors = test_descriptors_open();
            uring_selftest_forget();
            faults_fail(calls[i], nth, 1, -ENOMEM);
            rig_options(&options, "uring", NULL);
            const int error = berth_loop_create(&loop, &options);
            hit = faults_hit(calls[i]);
            faults_reset();
            ck_assert_msg(error == 0 || error == -ENOMEM, "%s %u: %d", calls[i], nth, error);
            if (error == 0)
                end(loop);
            ck_assert_msg(test_descriptors_open() == descriptors, "%s %u leaves a descriptor",
                          calls[i], nth);
        }
    }
}
END_TEST

/* ---- lists of features ---------------------------------------------------------------------- */

START_TEST(lists_are_read)
{
    static const struct {
        const char *text;
        uint32_t on, off;
    } rows[] = {
        {NULL, 0, 0},
        {"", 0, 0},
        {"+bundles,-incremental", FEATURE_BUNDLES, FEATURE_INCREMENTAL},
        {"-all", 0, 0x3ff},
        {"-all,+limits,+multishot", FEATURE_LIMITS | FEATURE_MULTISHOT,
         0x3ff & ~(uint32_t)(FEATURE_LIMITS | FEATURE_MULTISHOT)},
        {"+limits,-limits", 0, FEATURE_LIMITS},
        {"-incremental-bundles,-poll-first,-demotion,-direct", 0,
         FEATURE_INCREMENTAL_BUNDLES | FEATURE_POLL_FIRST | FEATURE_DEMOTION | FEATURE_DIRECT},
    };
    static const char *const wrong[] = {
        "bundles",   "+",
        "-",         "+bundle",
        "+bundles ", ",",
        "+bundles,", "-bundles,,-limits",
        "+-all",     "+a-name-that-is-longer-than-any-name-of-a-feature-could-ever-be"};
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct feature_wishes wishes;
        memset(&wishes, 0, sizeof wishes);
        ck_assert_int_eq(features_parse(&wishes, rows[i].text, NULL), 0);
        ck_assert_uint_eq(wishes.on, rows[i].on);
        ck_assert_uint_eq(wishes.off, rows[i].off);
    }
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct berth_loop_options options;
        struct berth_loop *loop = NULL;
        rig_options(&options, "poll", NULL); /* names are names whatever the engine */
        options.features = wrong[i];
        ck_assert_msg(berth_loop_create(&loop, &options) == -EINVAL, "'%s'", wrong[i]);
        ck_assert_ptr_null(loop);
    }
}
END_TEST

START_TEST(options_switch_off)
{
    if (real_features() == 0)
        return;
    struct berth_loop *loop = make("-bundles,-poll-first");
    ck_assert_str_eq(said_of(loop, "bundles"), "works; switched off by option");
    ck_assert_str_eq(said_of(loop, "poll-first"), "works; switched off by option");
    ck_assert_str_eq(said_of(loop, "limits"), "works");
    must_echo(loop);
    end(loop);
    loop = make("-limits");
    ck_assert_str_eq(said_of(loop, "bundles"),
                     "works; not used: what it needs is off, or it was refused later");
    must_echo(loop);
    end(loop);
    loop = make("-all");
    must_echo(loop);
    end(loop);
}
END_TEST

START_TEST(environment_has_the_last_word)
{
    char text[4096];
    if (real_features() == 0)
        return;
    ck_assert_int_eq(setenv("BERTH_FEATURES", "-limits,nonsense,+bundles", 1), 0);
    struct berth_loop *loop = make("-bundles,-incremental");
    ck_assert_str_eq(said_of(loop, "limits"), "works; switched off by BERTH_FEATURES");
    ck_assert_str_eq(said_of(loop, "incremental"), "works; switched off by option");
    ck_assert_str_eq(said_of(loop, "bundles"),
                     "works; not used: what it needs is off, or it was refused later");
    (void)berth_loop_explain(loop, text, sizeof text);
    ck_assert_ptr_nonnull(strstr(text, "BERTH_FEATURES: 'nonsense' is no feature\n"));
    must_echo(loop);
    end(loop);
    ck_assert_int_eq(unsetenv("BERTH_FEATURES"), 0);
}
END_TEST

/* ---- all of it ------------------------------------------------------------------------------ */

static void
add(Suite *suite, const char *name, const TTest *test, int count)
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, test_descriptors_note, test_descriptors_compare);
    tcase_add_loop_test(tcase, test, 0, count);
    suite_add_tcase(suite, tcase);
}
#define ADD(suite, test, count) add(suite, #test, test, count)

int
main(void)
{
    Suite *suite = suite_create("loop self-test");
    (void)unsetenv("BERTH_FEATURES"); /* what is tried here is tried with all of them */
    ADD(suite, verdicts_on_this_kernel, 1);
    ADD(suite, once_in_a_process, 1);
    ADD(suite, threads_agree, 1);
    ADD(suite, what_misbehaves_is_not_used, (int)FEATURES * FAULTY_WAYS);
    ADD(suite, faults_of_tcp_are_found, (int)FEATURES);
    ADD(suite, what_is_refused_can_be_forced, 1);
    ADD(suite, broken_receives_refuse_the_engine, 1);
    ADD(suite, what_cannot_be_tried_is_not_used, 1);
    ADD(suite, without_loopback_the_socketpair_decides, 1);
    ADD(suite, failing_calls_do_no_harm, 1);
    ADD(suite, lists_are_read, 1);
    ADD(suite, options_switch_off, 1);
    ADD(suite, environment_has_the_last_word, 1);
    return test_run(suite);
}
