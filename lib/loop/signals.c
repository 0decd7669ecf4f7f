/*
 * Signals as events of a loop. The handler notes the signal and writes to the loop's wake-up
 * descriptor; the loop's next turn calls the user. Nobody has to block anything.
 *
 * The invariants: what the handler touches is static, or belongs to a loop that cannot go while a
 * handler is inside (`busy`); a signal's former disposition is back when nobody watches it.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_SIGNAL
#include "loop/cross.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "os/sys.h"

/** Signals are numbered from 1; so many fit into the mask of those that came. */
#define SIGNALS_MAX 64

/** Who watches a signal: one loop in the process. */
static struct watch {
    struct berth_loop *loop; /**< atomic; NULL: nobody */
    uint32_t busy;           /**< atomic: handlers that may be looking at the loop */
    struct sigaction former;
} watches[SIGNALS_MAX + 1];

/** What one loop calls. */
struct loop_signals {
    struct {
        berth_signal_fn fn;
        void *ctx;
    } calls[SIGNALS_MAX + 1];
};

/** In a child of fork(2) the signal is not the parent's loop's: it finds what it found before. */
static void
hand_back(int signo)
{
    (void)sys_sigaction(signo, &watches[signo].former, NULL);
    (void)raise(signo); /* delivered when this handler returns */
}

static void
on_signal(int signo)
{
    const int saved = errno;
    struct watch *watch = &watches[signo];
    __atomic_fetch_add(&watch->busy, 1, __ATOMIC_SEQ_CST);
    struct berth_loop *loop = __atomic_load_n(&watch->loop, __ATOMIC_SEQ_CST);
    if (loop != NULL && loop_is_child(loop)) {
        hand_back(signo);
    } else if (loop != NULL) {
        const uint64_t bit = UINT64_C(1) << (signo - 1);
        if (!(__atomic_fetch_or(&loop->signals_came, bit, __ATOMIC_RELEASE) & bit))
            loop_wake(loop);
    }
    __atomic_fetch_sub(&watch->busy, 1, __ATOMIC_SEQ_CST);
    errno = saved;
}

static int
can_be_watched(int signo)
{
    return signo >= 1 && signo <= SIGNALS_MAX && signo != SIGKILL && signo != SIGSTOP &&
           signo != SIGSEGV && signo != SIGBUS && signo != SIGFPE && signo != SIGILL;
}

/** Makes the loop the signal's. */
static int
take(struct watch *watch, struct berth_loop *loop)
{
    struct berth_loop *owner = NULL;
    if (__atomic_compare_exchange_n(&watch->loop, &owner, loop, 0, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST))
        return 0;
    if (!loop_is_child(owner))
        return -EBUSY;
    /* The parent's: in this process nobody watches it. Its handlers did not come along either. */
    __atomic_store_n(&watch->busy, 0, __ATOMIC_SEQ_CST);
    if (!__atomic_compare_exchange_n(&watch->loop, &owner, loop, 0, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST))
        return -EBUSY;
    (void)sys_sigaction((int)(watch - watches), &watch->former, NULL);
    return 0;
}

/** No handler looks at the loop when this returns. */
static void
let_go(struct watch *watch)
{
    __atomic_store_n(&watch->loop, (struct berth_loop *)NULL, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&watch->busy, __ATOMIC_SEQ_CST) != 0)
        (void)sched_yield(); /* another thread is inside: for a few instructions and a write(2) */
}

static int
watch_signal(struct berth_loop *loop, int signo, berth_signal_fn fn, void *ctx)
{
    struct watch *watch = &watches[signo];
    const int watched = __atomic_load_n(&watch->loop, __ATOMIC_SEQ_CST) == loop;
    if (loop->signals == NULL)
        loop->signals = (struct loop_signals *)calloc(1, sizeof(*loop->signals));
    if (loop->signals == NULL)
        return -ENOMEM;
    int error = watched ? 0 : take(watch, loop);
    if (error)
        return error;
    loop->signals->calls[signo].fn = fn;
    loop->signals->calls[signo].ctx = ctx;
    if (watched)
        return 0;
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    (void)sigemptyset(&action.sa_mask);
    error = (int)sys_sigaction(signo, &action, &watch->former);
    if (error)
        let_go(watch);
    return error;
}

static int
unwatch_signal(struct berth_loop *loop, int signo)
{
    struct watch *watch = &watches[signo];
    struct sigaction now;
    if (__atomic_load_n(&watch->loop, __ATOMIC_SEQ_CST) != loop)
        return -ENOENT;
    /* Whoever has put a handler of their own over ours meanwhile keeps it. */
    if (sys_sigaction(signo, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
        now.sa_handler == on_signal)
        (void)sys_sigaction(signo, &watch->former, NULL);
    let_go(watch);
    __atomic_fetch_and(&loop->signals_came, ~(UINT64_C(1) << (signo - 1)), __ATOMIC_ACQ_REL);
    loop->signals->calls[signo].fn = NULL;
    return 0;
}

int
berth_loop_signal(struct berth_loop *loop, int signo, berth_signal_fn fn, void *ctx)
{
    if (loop == NULL || !can_be_watched(signo))
        return -EINVAL;
    if (loop_is_child(loop))
        return -ECHILD;
    return fn != NULL ? watch_signal(loop, signo, fn, ctx) : unwatch_signal(loop, signo);
}

unsigned
signals_run(struct berth_loop *loop)
{
    uint64_t came = __atomic_exchange_n(&loop->signals_came, 0, __ATOMIC_ACQUIRE);
    unsigned count = 0;
    for (; came != 0; came &= came - 1) {
        const int signo = __builtin_ctzll(came) + 1;
        const berth_signal_fn fn = loop->signals->calls[signo].fn;
        if (fn == NULL)
            continue; /* an earlier one's callback has stopped it */
        fn(loop, signo, loop->signals->calls[signo].ctx);
        count++;
    }
    return count;
}

void
signals_close(struct berth_loop *loop)
{
    if (loop->signals == NULL)
        return;
    for (int signo = 1; signo <= SIGNALS_MAX; signo++)
        if (loop->signals->calls[signo].fn != NULL)
            (void)unwatch_signal(loop, signo);
    free(loop->signals);
    loop->signals = NULL;
}
