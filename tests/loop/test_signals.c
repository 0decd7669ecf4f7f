/*
 * Signals as events of a loop: each comes in a turn, coalesced, with nothing blocked; and what the
 * signal did before comes back.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include "berth/loop_cross.h"

static struct {
    unsigned count;
    int signo;
} seen;

static void
on_event(struct berth_loop *loop, int signo, void *ctx)
{
    ck_assert_ptr_eq(ctx, &seen);
    ck_assert_int_eq(berth_loop_turn(loop, 0), -EBUSY); /* inside a turn, not a handler */
    seen.count++;
    seen.signo = signo;
}

static int former_count; /**< atomic */

static void
former(int signo)
{
    (void)signo;
    __atomic_fetch_add(&former_count, 1, __ATOMIC_RELAXED);
}

static void
set_former(int signo)
{
    struct sigaction action = {.sa_handler = former, .sa_flags = SA_NODEFER};
    (void)sigemptyset(&action.sa_mask);
    ck_assert_int_eq(sigaction(signo, &action, NULL), 0);
    __atomic_store_n(&former_count, 0, __ATOMIC_RELAXED);
}

static void
check_former(int signo)
{
    struct sigaction now;
    ck_assert_int_eq(sigaction(signo, NULL, &now), 0);
    ck_assert_ptr_eq((void *)(uintptr_t)now.sa_handler, (void *)(uintptr_t)former);
    ck_assert_int_ne(now.sa_flags & SA_NODEFER, 0);
    now.sa_handler = SIG_DFL;
    ck_assert_int_eq(sigaction(signo, &now, NULL), 0);
}

static void
begin(struct rig *rig, const char *engine)
{
    static const struct berth_handlers echo = {.data = rig_echo};
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    rig_begin(rig, &options, &echo, NULL);
    memset(&seen, 0, sizeof(seen));
}

START_TEST(comes_in_a_turn)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    begin(&rig, engine);
    set_former(SIGUSR1);
    set_former(SIGUSR2);
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, on_event, &seen), 0);
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR2, on_event, &seen), 0);
    (void)rig_turn(&rig, 0);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(raise(SIGUSR1), 0);
    ck_assert_uint_eq(seen.count, 0);
    RIG_UNTIL(&rig, seen.count > 0, 3);
    ck_assert_int_eq(seen.signo, SIGUSR1);
    ck_assert_int_eq(raise(SIGUSR2), 0);
    RIG_UNTIL(&rig, seen.count > 1, 3);
    ck_assert_int_eq(seen.signo, SIGUSR2);
    for (int i = 0; i < 3; i++)
        (void)rig_turn(&rig, 0);
    ck_assert_uint_eq(seen.count, 2); /* five were one, and none is told again */
    ck_assert_int_eq(former_count, 0);

    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, NULL, NULL), 0);
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, NULL, NULL), -ENOENT);
    ck_assert_int_eq(raise(SIGUSR1), 0);
    ck_assert_int_eq(former_count, 1);
    (void)rig_turn(&rig, 0);
    ck_assert_uint_eq(seen.count, 2);
    check_former(SIGUSR1);
    rig_try_echo(&rig);
    rig_end(&rig); /* gives the other one back */
    check_former(SIGUSR2);
}
END_TEST

START_TEST(belongs_to_one_loop)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    struct berth_loop *other = NULL;
    begin(&rig, engine);
    rig_options(&options, "epoll", NULL);
    ck_assert_int_eq(berth_loop_create(&other, &options), 0);
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, on_event, &seen), 0);
    ck_assert_int_eq(berth_loop_signal(other, SIGUSR1, on_event, &seen), -EBUSY);
    ck_assert_int_eq(berth_loop_signal(other, SIGUSR1, NULL, NULL), -ENOENT);
    ck_assert_int_eq(berth_loop_destroy(other), 0); /* whose it is not stays */
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, on_event, &seen), 0);
    ck_assert_int_eq(raise(SIGUSR1), 0);
    RIG_UNTIL(&rig, seen.count == 1, 3);

    static const int impossible[] = {0, -1, 65, 1000, SIGKILL, SIGSTOP, SIGSEGV, SIGFPE};
    for (size_t i = 0; i < sizeof(impossible) / sizeof(impossible[0]); i++)
        ck_assert_int_eq(berth_loop_signal(rig.loop, impossible[i], on_event, &seen), -EINVAL);
    ck_assert_int_eq(berth_loop_signal(NULL, SIGUSR1, on_event, &seen), -EINVAL);
    rig_end(&rig);
}
END_TEST

/** Whoever installs a handler later keeps it. */
START_TEST(later_handler_is_left_alone)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    begin(&rig, engine);
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, on_event, &seen), 0);
    set_former(SIGUSR1);
    rig_end(&rig);
    check_former(SIGUSR1);
}
END_TEST

/** Stops the other signal, which has come as well. */
static void
stop_other(struct berth_loop *loop, int signo, void *ctx)
{
    on_event(loop, signo, ctx);
    ck_assert_int_eq(berth_loop_signal(loop, signo == SIGUSR1 ? SIGUSR2 : SIGUSR1, NULL, NULL), 0);
}

START_TEST(stopped_from_a_callback)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    begin(&rig, engine);
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, stop_other, &seen), 0);
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR2, stop_other, &seen), 0);
    ck_assert_int_eq(raise(SIGUSR2), 0);
    ck_assert_int_eq(raise(SIGUSR1), 0);
    for (int i = 0; i < 5; i++)
        (void)rig_turn(&rig, 0);
    ck_assert_uint_eq(seen.count, 1);
    rig_end(&rig);
}
END_TEST

/* ---- with other threads --------------------------------------------------------------------- */

static struct {
    int done, running; /**< atomic */
} barrage;

/** Signals come while the loop comes and goes. */
static void *
fire(void *arg)
{
    (void)arg;
    free(malloc(1)); /* the C library opens a file for a thread's first */
    __atomic_fetch_add(&barrage.running, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&barrage.done, __ATOMIC_ACQUIRE))
        (void)pthread_kill(pthread_self(), SIGUSR1);
    return NULL;
}

START_TEST(handlers_in_other_threads)
{
    RIG_ENGINE_OR_RETURN(engine);
    pthread_t threads[2];
    set_former(SIGUSR1);
    __atomic_store_n(&barrage.done, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&barrage.running, 0, __ATOMIC_RELEASE);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, fire, NULL), 0);
    while (__atomic_load_n(&barrage.running, __ATOMIC_ACQUIRE) < 2)
        (void)poll(NULL, 0, 1);
    unsigned told = 0;
    for (unsigned round = 0; round < 30; round++) {
        struct rig rig;
        begin(&rig, engine);
        ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, on_event, &seen), 0);
        RIG_UNTIL(&rig, seen.count >= 2, 10000);
        told += seen.count;
        if (round % 2)
            ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, NULL, NULL), 0);
        rig_end(&rig); /* while handlers may be inside */
    }
    ck_assert_uint_ge(told, 60);
    __atomic_store_n(&barrage.done, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    check_former(SIGUSR1);
}
END_TEST

/** A turn that waits is woken up, by a signal that another thread's handler caught. */
static void *
signal_once(void *arg)
{
    (void)arg;
    (void)pthread_kill(pthread_self(), SIGUSR1);
    return NULL;
}

START_TEST(wakes_a_waiting_loop)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    pthread_t thread;
    begin(&rig, engine);
    ck_assert_int_eq(berth_loop_signal(rig.loop, SIGUSR1, on_event, &seen), 0);
    (void)rig_turn(&rig, 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, signal_once, NULL), 0);
    int handled = 0;
    for (int i = 0; i < 10 && seen.count == 0; i++)
        handled = rig_turn(&rig, -1);
    ck_assert_uint_eq(seen.count, 1);
    ck_assert_int_eq(handled, 2); /* the wake-up and the signal: it did not just time out */
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    rig_end(&rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("signals");
    RIG_ADD(suite, comes_in_a_turn);
    RIG_ADD(suite, belongs_to_one_loop);
    RIG_ADD(suite, later_handler_is_left_alone);
    RIG_ADD(suite, stopped_from_a_callback);
    RIG_ADD(suite, handlers_in_other_threads);
    RIG_ADD(suite, wakes_a_waiting_loop);
    return test_run(suite);
}
