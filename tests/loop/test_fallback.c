/*
 * When io_uring is refused: by a real seccomp filter, as container engines install them, and by a
 * limit of locked memory. Asked for by name, the loop says why not; left to choose, it takes the
 * next engine, tells the reason, and works.
 *
 * Filters and limits cannot be taken back: all of this happens in children.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#ifdef __linux__
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

/** Nobody in particular. */
#define UNPRIVILEGED_UID 65534

static const struct berth_handlers echo = {.data = rig_echo};

static struct berth_loop *
make(const char *engine, int expected)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    struct berth_loop *loop = NULL;
    const int error = berth_loop_create(&loop, &options);
    if (error != expected)
        printf("engine %s: %d instead of %d\n", engine == NULL ? "NULL" : engine, error, expected);
    RIG_MUST(error == expected);
    RIG_MUST((error == 0) == (loop != NULL));
    return loop;
}

/** One message there and back, on a loop that took what it could get. */
static void
must_echo(struct berth_loop *loop)
{
    struct berth_listener *listener = NULL;
    RIG_MUST(berth_listen(loop, "tcp://127.0.0.1:0", &echo, NULL, &listener) == 0);
    const int client = rig_connect_to(listener);
    char text[8] = "";
    RIG_MUST(client >= 0 && write(client, "hello", 5) == 5);
    intptr_t got = -EAGAIN;
    for (int i = 0; i < 100 && got == -EAGAIN; i++) {
        RIG_MUST(berth_loop_turn(loop, RIG_TURN_MS) >= 0);
        got = rig_read(client, text, sizeof(text));
    }
    RIG_MUST(got == 5 && memcmp(text, "hello", 5) == 0);
    RIG_MUST(close(client) == 0);
}

/** Refused by name with that error; otherwise falls back, says why, and works. */
static void
must_fall_back(int error)
{
    const unsigned descriptors = test_descriptors_open();
    (void)unsetenv("BERTH_ENGINE");
    (void)make("uring", error);
    static const char *const leaves_it_open[] = {"auto", NULL};
    for (int i = 0; i < 2; i++) {
        struct berth_loop *loop = make(leaves_it_open[i], 0);
        char text[2048] = "";
        RIG_MUST(strcmp(berth_loop_engine(loop), "epoll") == 0);
        const int needed = berth_loop_explain(loop, text, sizeof(text));
        RIG_MUST(needed > 0 && (size_t)needed == strlen(text));
        RIG_MUST(strstr(text, "engine: epoll\n") == text);
        RIG_MUST(strstr(text, "not uring: io_uring_setup: ") != NULL);
        RIG_MUST(strstr(text, strerror(-error)) != NULL);
        RIG_MUST(strstr(text, "not epoll") == NULL);
        must_echo(loop);
        RIG_MUST(berth_loop_destroy(loop) == 0);
    }
    RIG_MUST(setenv("BERTH_ENGINE", "uring", 1) == 0);
    (void)make("auto", error); /* by name is by name, wherever the name stands */
    RIG_MUST(setenv("BERTH_ENGINE", "poll", 1) == 0);
    RIG_MUST(berth_loop_destroy(make("auto", 0)) == 0);
    RIG_MUST(test_descriptors_open() == descriptors);
}

/* ---- refusals ------------------------------------------------------------------------------- */

#if defined(__linux__) && defined(BERTH_HAVE_LIBURING)

/** From here on io_uring_setup(2) answers that error. */
static void
forbid_uring(int error)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((unsigned)error & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof(rules) / sizeof(rules[0]), rules};
    RIG_MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        RIG_SKIP("no seccomp filters here: %s\n", strerror(errno));
}

START_TEST(seccomp_refuses)
{
    static const int errors[] = {EPERM, ENOSYS, ENOMEM};
    int skipped;
    RIG_IN_CHILD(skipped, {
        forbid_uring(errors[_i]);
        must_fall_back(-errors[_i]);
    });
    (void)skipped;
}
END_TEST

/** Whether a ring is refused for want of locked memory: only some kernels charge for it. */
static void
lock_no_memory(void)
{
    const struct rlimit none = {0, 0};
    RIG_MUST(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
    if (geteuid() == 0)
        RIG_MUST(setgid(UNPRIVILEGED_UID) == 0 && setuid(UNPRIVILEGED_UID) == 0);
    struct berth_loop_options options;
    rig_options(&options, "uring", NULL);
    struct berth_loop *loop = NULL;
    const int error = berth_loop_create(&loop, &options);
    if (error == 0) {
        RIG_MUST(berth_loop_destroy(loop) == 0);
        RIG_SKIP("this kernel charges no locked memory for a ring\n");
    }
    RIG_MUST(error == -ENOMEM);
}

START_TEST(locked_memory_refuses)
{
    int skipped;
    RIG_IN_CHILD(skipped, {
        lock_no_memory();
        must_fall_back(-ENOMEM);
    });
    (void)skipped;
}
END_TEST

#else

START_TEST(not_built)
{
    printf("skipped: built without io_uring, nothing refuses it\n");
    RIG_MUST(setenv("BERTH_ENGINE", "", 1) == 0);
    (void)make("uring", -ENOSYS);
}
END_TEST

#endif

/* ---- asking by name ------------------------------------------------------------------------- */

START_TEST(environment_overrides)
{
    RIG_ENGINE_OR_RETURN(engine);
    int skipped;
    if (strcmp(engine, "uring-direct") == 0) {
        printf("skipped: \"%s\" is no name of an engine, but an option of one\n", engine);
        return;
    }
    RIG_IN_CHILD(skipped, {
        RIG_MUST(setenv("BERTH_ENGINE", engine, 1) == 0);
        struct berth_loop *loop = make("auto", 0);
        RIG_MUST(strcmp(berth_loop_engine(loop), engine) == 0);
        must_echo(loop);
        RIG_MUST(berth_loop_destroy(loop) == 0);
        loop = make(NULL, 0);
        RIG_MUST(strcmp(berth_loop_engine(loop), engine) == 0);
        RIG_MUST(berth_loop_destroy(loop) == 0);
        loop = make("poll", 0); /* the program knows what it wants */
        RIG_MUST(strcmp(berth_loop_engine(loop), "poll") == 0);
        RIG_MUST(berth_loop_destroy(loop) == 0);
    });
    ck_assert_int_eq(skipped, 0);
}
END_TEST

START_TEST(unknown_names)
{
    int skipped;
    RIG_IN_CHILD(skipped, {
        (void)unsetenv("BERTH_ENGINE");
        (void)make("kqueue2", -EINVAL);
        (void)make("AUTO", -EINVAL);
        RIG_MUST(setenv("BERTH_ENGINE", "nonsense", 1) == 0);
        (void)make("auto", -EINVAL);
        (void)make(NULL, -EINVAL);
        RIG_MUST(berth_loop_destroy(make("poll", 0)) == 0);
        RIG_MUST(setenv("BERTH_ENGINE", "", 1) == 0); /* set to nothing: not set */
        RIG_MUST(berth_loop_destroy(make("auto", 0)) == 0);
    });
    ck_assert_int_eq(skipped, 0);
}
END_TEST

START_TEST(explain_fits_what_it_is_given)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    rig_options(&options, engine, NULL);
    ck_assert_int_eq(berth_loop_create(&loop, &options), 0);
    char whole[2048], part[2048];
    const int needed = berth_loop_explain(loop, whole, sizeof(whole));
    ck_assert_int_gt(needed, 0);
    ck_assert_uint_eq(strlen(whole), (size_t)needed);
    ck_assert_int_eq(berth_loop_explain(loop, NULL, 0), needed);
    ck_assert_int_eq(berth_loop_explain(NULL, whole, 1), -EINVAL);
    ck_assert_int_eq(berth_loop_explain(loop, NULL, 1), -EINVAL);
    for (size_t size = 1; size <= (size_t)needed + 1; size++) {
        memset(part, 'x', sizeof(part));
        ck_assert_int_eq(berth_loop_explain(loop, part, size), needed);
        ck_assert_uint_eq(strlen(part), size - 1);
        ck_assert_mem_eq(part, whole, size - 1);
        ck_assert_int_eq(part[size], 'x');
    }
    ck_assert_int_eq(berth_loop_destroy(loop), 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop fallback");
    TCase *refused = tcase_create("refused");
    tcase_set_timeout(refused, 60);
    tcase_add_checked_fixture(refused, test_descriptors_note, test_descriptors_compare);
#if defined(__linux__) && defined(BERTH_HAVE_LIBURING)
    tcase_add_loop_test(refused, seccomp_refuses, 0, 3);
    tcase_add_test(refused, locked_memory_refuses);
#else
    tcase_add_test(refused, not_built);
#endif
    tcase_add_test(refused, unknown_names);
    suite_add_tcase(suite, refused);
    RIG_ADD(suite, environment_overrides);
    RIG_ADD(suite, explain_fits_what_it_is_given);
    return test_run(suite);
}
