/*
 * Looking names up on helper threads. The only file of the library that knows threads.
 *
 * Helpers are a loop's own: loops share nothing, and a name server that does not answer one holds
 * up no other. There are up to HELPERS_MAX of them, each started when a look-up would have to wait,
 * so that one such name holds up only itself.
 *
 * The lock protects everything in struct resolver, and each look-up that is in it; it is never held
 * during a look-up. The loop takes it only where there is something to queue or to take.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_RESOLVE
#include "loop/resolve.h"

#include <pthread.h>
#include <stdlib.h>

#include "berth/attr.h"

#include "os/sys.h"

/** Names that may be slow at the same time before one waits for another. */
#define HELPERS_MAX 4

struct helper {
    struct resolver *resolver;
    pthread_t thread;
    int busy; /**< in a look-up, which cannot be interrupted */
};

struct lookup_list {
    struct lookup *first, *last;
};

struct resolver {
    pthread_mutex_t lock;
    pthread_cond_t work; /**< something was queued, or it is over */
    struct lookup_list queue, answers;
    uint32_t queued;
    uint32_t answered; /**< atomic: the loop looks without the lock */
    int over;
    int wake_fd;         /**< the loop's: not touched once it is over */
    unsigned references; /**< the loop's, and one of each helper */
    unsigned helper_count;
    struct helper helpers[HELPERS_MAX];
};

/* ---- lists ---------------------------------------------------------------------------------- */

static void
list_append(struct lookup_list *list, struct lookup *lookup)
{
    lookup->next = NULL;
    lookup->previous = list->last;
    if (list->last != NULL)
        list->last->next = lookup;
    else
        list->first = lookup;
    list->last = lookup;
}

static void
list_remove(struct lookup_list *list, struct lookup *lookup)
{
    if (lookup->next != NULL)
        lookup->next->previous = lookup->previous;
    else
        list->last = lookup->previous;
    if (lookup->previous != NULL)
        lookup->previous->next = lookup->next;
    else
        list->first = lookup->next;
    lookup->next = lookup->previous = NULL;
}

static void
list_free(struct lookup_list *list)
{
    while (list->first != NULL) {
        struct lookup *lookup = list->first;
        list_remove(list, lookup);
        BERTH_ASSERT(list->first != lookup);
        lookup_free(lookup);
    }
}

/* ---- look-ups ------------------------------------------------------------------------------- */

struct lookup *
lookup_create(const struct address_name *name, berth_token token)
{
    struct lookup *lookup = (struct lookup *)calloc(1, sizeof(*lookup));
    if (lookup == NULL)
        return NULL;
    lookup->name = *name;
    lookup->token = token;
    return lookup;
}

void
lookup_free(struct lookup *lookup)
{
    if (lookup->addresses != NULL)
        (void)sys_freeaddrinfo(lookup->addresses);
    free(lookup);
}

/* ---- helpers -------------------------------------------------------------------------------- */

/** Gives a reference and the lock back. */
static void
put(struct resolver *resolver)
{
    BERTH_ASSERT(resolver->references > 0);
    const int last = --resolver->references == 0;
    (void)pthread_mutex_unlock(&resolver->lock);
    if (!last)
        return;
    (void)pthread_cond_destroy(&resolver->work);
    (void)pthread_mutex_destroy(&resolver->lock);
    free(resolver);
}

static void
answer(struct resolver *resolver, struct lookup *lookup)
{
    const uint64_t one = 1;
    lookup->place = LOOKUP_ANSWERED;
    lookup->rest = lookup->addresses;
    list_append(&resolver->answers, lookup);
    __atomic_fetch_add(&resolver->answered, 1, __ATOMIC_RELEASE);
    (void)sys_write(resolver->wake_fd, &one, sizeof(one));
}

/** One look-up, without the lock meanwhile. */
static void
look_up(struct helper *helper, struct lookup *lookup)
{
    struct resolver *resolver = helper->resolver;
    list_remove(&resolver->queue, lookup);
    resolver->queued--;
    lookup->place = LOOKUP_ASKED;
    helper->busy = 1;
    (void)pthread_mutex_unlock(&resolver->lock);
    lookup->error = (int)sys_getaddrinfo(lookup->name.host, lookup->name.port, &lookup->addresses);
    (void)pthread_mutex_lock(&resolver->lock);
    helper->busy = 0;
    if (resolver->over)
        lookup_free(lookup);
    else
        answer(resolver, lookup);
}

static void *
helper_run(void *argument)
{
    struct helper *helper = (struct helper *)argument;
    struct resolver *resolver = helper->resolver;
    (void)pthread_mutex_lock(&resolver->lock);
    while (!resolver->over) {
        if (resolver->queue.first != NULL)
            look_up(helper, resolver->queue.first);
        else
            (void)pthread_cond_wait(&resolver->work, &resolver->lock);
    }
    put(resolver);
    return NULL;
}

/** One more helper, if somebody would have to wait otherwise. Only the first one is needed. */
static int
start_helper(struct resolver *resolver)
{
    unsigned idle = 0;
    for (unsigned i = 0; i < resolver->helper_count; i++)
        idle += !resolver->helpers[i].busy;
    if (resolver->queued <= idle || resolver->helper_count == HELPERS_MAX)
        return 0;
    struct helper *helper = &resolver->helpers[resolver->helper_count];
    helper->resolver = resolver;
    const int error = (int)sys_thread_start(&helper->thread, helper_run, helper);
    if (error)
        return resolver->helper_count > 0 ? 0 : error;
    resolver->helper_count++;
    resolver->references++;
    return 0;
}

/* ---- the loop's side ------------------------------------------------------------------------ */

static struct resolver *
create(int wake_fd)
{
    struct resolver *resolver = (struct resolver *)calloc(1, sizeof(*resolver));
    if (resolver == NULL)
        return NULL;
    (void)pthread_mutex_init(&resolver->lock, NULL);
    (void)pthread_cond_init(&resolver->work, NULL);
    resolver->wake_fd = wake_fd;
    resolver->references = 1;
    return resolver;
}

int
resolve_begin(struct resolver **made, struct lookup *lookup, int wake_fd)
{
    if (*made == NULL)
        *made = create(wake_fd);
    struct resolver *resolver = *made;
    if (resolver == NULL)
        return -ENOMEM;
    (void)pthread_mutex_lock(&resolver->lock);
    list_append(&resolver->queue, lookup);
    resolver->queued++;
    lookup->place = LOOKUP_WAITS;
    const int error = start_helper(resolver);
    if (error) {
        list_remove(&resolver->queue, lookup);
        resolver->queued--;
    } else {
        (void)pthread_cond_signal(&resolver->work);
    }
    (void)pthread_mutex_unlock(&resolver->lock);
    return error;
}

int
resolve_answered(const struct resolver *resolver)
{
    return resolver != NULL && __atomic_load_n(&resolver->answered, __ATOMIC_ACQUIRE) > 0;
}

struct lookup *
resolve_take(struct resolver *resolver)
{
    (void)pthread_mutex_lock(&resolver->lock);
    struct lookup *lookup = resolver->answers.first;
    if (lookup != NULL) {
        list_remove(&resolver->answers, lookup);
        __atomic_fetch_sub(&resolver->answered, 1, __ATOMIC_RELAXED);
        lookup->place = LOOKUP_TAKEN;
    }
    (void)pthread_mutex_unlock(&resolver->lock);
    return lookup;
}

void
resolve_drop(struct resolver *resolver, struct lookup *lookup)
{
    (void)pthread_mutex_lock(&resolver->lock);
    const enum lookup_place place = lookup->place;
    if (place == LOOKUP_WAITS) {
        list_remove(&resolver->queue, lookup);
        resolver->queued--;
    }
    (void)pthread_mutex_unlock(&resolver->lock);
    /* The others come out with the answers, where nobody is found to want them. */
    if (place == LOOKUP_WAITS || place == LOOKUP_TAKEN)
        lookup_free(lookup);
}

void
resolve_destroy(struct resolver *resolver)
{
    if (resolver == NULL)
        return;
    pthread_t idle[HELPERS_MAX];
    unsigned idle_count = 0;
    (void)pthread_mutex_lock(&resolver->lock);
    resolver->over = 1;
    for (unsigned i = 0; i < resolver->helper_count; i++) {
        const struct helper *helper = &resolver->helpers[i];
        if (helper->busy)
            (void)pthread_detach(helper->thread);
        else
            idle[idle_count++] = helper->thread;
    }
    list_free(&resolver->queue);
    list_free(&resolver->answers);
    (void)pthread_cond_broadcast(&resolver->work);
    (void)pthread_mutex_unlock(&resolver->lock);
    for (unsigned i = 0; i < idle_count; i++)
        (void)pthread_join(idle[i], NULL);
    (void)pthread_mutex_lock(&resolver->lock);
    put(resolver);
}
