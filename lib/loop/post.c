/*
 * What other threads may do to a loop: wake it up, and post calls to it that its turns run. The
 * mailbox is a stack that posters push onto with compare-and-exchange, and that the loop takes as a
 * whole and turns round; so each poster's order is kept, nobody ever waits, and nothing is freed
 * that another might still read.
 *
 * The invariants: a node accepted is called exactly once; who finds the stack empty writes to the
 * wake-up descriptor, and nobody else; a closed mailbox accepts nothing.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#include "loop/cross.h"

#include <sched.h>
#include <stdlib.h>

#include "os/sys.h"

/** Stands for the stack when nothing may be pushed any more. Its address is all that matters. */
static struct berth_post closed;

/* ---- waking up ------------------------------------------------------------------------------ */

/** What a call does may end the loop before it returns: the loop waits for it, see posts_settle. */
static void
enter(struct berth_loop *loop)
{
    __atomic_fetch_add(&loop->mailbox.callers, 1, __ATOMIC_ACQUIRE);
}

static void
leave(struct berth_loop *loop)
{
    __atomic_fetch_sub(&loop->mailbox.callers, 1, __ATOMIC_RELEASE);
}

void
posts_settle(const struct berth_loop *loop)
{
    while (__atomic_load_n(&loop->mailbox.callers, __ATOMIC_ACQUIRE) != 0)
        (void)sched_yield(); /* at most for a few instructions and a write(2) */
}

int
berth_loop_stop(struct berth_loop *loop)
{
    if (loop == NULL)
        return -EINVAL;
    if (loop_is_child(loop))
        return -ECHILD;
    const int saved = errno; /* a signal handler must leave it as it was */
    enter(loop);
    __atomic_store_n(&loop->stop, 1, __ATOMIC_RELEASE);
    loop_wake(loop);
    leave(loop);
    errno = saved;
    return 0;
}

void
loop_wake(const struct berth_loop *loop)
{
    const uint64_t one = 1;
    (void)sys_write(loop->wake_fd, &one, sizeof(one));
}

/* ---- posting -------------------------------------------------------------------------------- */

/** Pushes; -ECANCELED if the mailbox is closed, else whether it was empty. */
static int
push(struct mailbox *mailbox, struct berth_post *node)
{
    struct berth_post *head = __atomic_load_n(&mailbox->stack, __ATOMIC_RELAXED);
    do {
        if (head == &closed)
            return -ECANCELED;
        node->next = head;
    } while (!__atomic_compare_exchange_n(&mailbox->stack, &head, node, 1, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
    return head == NULL;
}

int
berth_loop_post_node(struct berth_loop *loop, struct berth_post *node)
{
    if (loop == NULL || node == NULL || node->fn == NULL)
        return -EINVAL;
    if (loop_is_child(loop))
        return -ECHILD;
    enter(loop);
    const int first = push(&loop->mailbox, node);
    /* A turn of this thread looks into the mailbox before it ends or waits. */
    if (first > 0 && loop_turning != loop) {
        __atomic_fetch_add(&loop->mailbox.wakes, 1, __ATOMIC_RELAXED);
        loop_wake(loop);
    }
    leave(loop);
    return first < 0 ? first : 0;
}

/** A node of our own, with what is to be called. */
struct owned_post {
    struct berth_post node;
    berth_post_fn fn;
    void *arg;
};

static void
run_owned(struct berth_loop *loop, void *arg)
{
    struct owned_post *post = (struct owned_post *)arg;
    const berth_post_fn fn = post->fn;
    void *const own_arg = post->arg;
    free(post);
    fn(loop, own_arg);
}

int
berth_loop_post(struct berth_loop *loop, berth_post_fn fn, void *arg)
{
    if (loop == NULL || fn == NULL)
        return -EINVAL;
    struct owned_post *post = (struct owned_post *)malloc(sizeof(*post));
    if (post == NULL)
        return -ENOMEM;
    *post = (struct owned_post){.node = {.fn = run_owned, .arg = post}, .fn = fn, .arg = arg};
    const int error = berth_loop_post_node(loop, &post->node);
    if (error)
        free(post);
    return error;
}

int
posts_pending(const struct berth_loop *loop)
{
    const struct berth_post *head = __atomic_load_n(&loop->mailbox.stack, __ATOMIC_RELAXED);
    return loop->mailbox.taken != NULL || (head != NULL && head != &closed);
}

/** The whole stack, the oldest first. */
static struct berth_post *
take_all(struct mailbox *mailbox, struct berth_post *leave)
{
    struct berth_post *newest = __atomic_exchange_n(&mailbox->stack, leave, __ATOMIC_ACQUIRE);
    struct berth_post *oldest = NULL;
    while (newest != NULL) {
        struct berth_post *older = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = older;
    }
    return oldest;
}

/** Calls the oldest; the node may be gone, or posted again, as soon as that is entered. */
static void
run_one(struct berth_loop *loop, struct berth_loop *told)
{
    struct berth_post *node = loop->mailbox.taken;
    loop->mailbox.taken = node->next;
    loop->stats.posts++;
    node->fn(told, node->arg);
}

unsigned
posts_run(struct berth_loop *loop)
{
    unsigned count = 0;
    if (loop->mailbox.taken == NULL)
        loop->mailbox.taken = take_all(&loop->mailbox, NULL);
    while (loop->mailbox.taken != NULL && count < loop->options.events_max) {
        run_one(loop, loop);
        count++;
    }
    return count;
}

void
posts_close(struct berth_loop *loop)
{
    while (loop->mailbox.taken != NULL)
        run_one(loop, NULL);
    loop->mailbox.taken = take_all(&loop->mailbox, &closed);
    while (loop->mailbox.taken != NULL)
        run_one(loop, NULL);
}
