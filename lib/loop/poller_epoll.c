/*
 * The epoll(7) poller: the token in the event; connections edge-triggered, because a
 * level-triggered set looks at every descriptor once more in the next wait just to find that it is
 * no longer ready.
 *
 * A registration belongs to the open file, not to the descriptor: one that was duplicated or
 * inherited goes on being reported after close(2), for ever. Such a ghost cannot be removed when
 * its descriptor number is closed or taken by somebody else; then the set is built anew.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_EPOLL
#define BERTH_SYS_FILE
#include "loop/poller.h"

#include <stdlib.h>

#include "berth/table.h"
#include "os/sys.h"

/** Stale events in a row, after which the set is built anew: a few are ordinary within a batch. */
#define GHOSTS_BEFORE_REBUILD 16

struct epoll_poller {
    struct poller base;
    int set;
    uint32_t ghosts;
    uint32_t events_max;
    struct epoll_event events[];
};

static struct epoll_poller *
of(struct poller *base)
{
    return (struct epoll_poller *)(void *)base;
}

static int
poller_create(struct poller **result, uint32_t events_max)
{
    struct epoll_poller *poller =
        (struct epoll_poller *)calloc(1, sizeof(*poller) + events_max * sizeof(poller->events[0]));
    if (poller == NULL)
        return -ENOMEM;
    poller->events_max = events_max;
    poller->set = (int)sys_epoll_create1(EPOLL_CLOEXEC);
    if (poller->set < 0) {
        const int error = poller->set;
        free(poller);
        return error;
    }
    *result = &poller->base;
    return 0;
}

static void
poller_destroy(struct poller *base)
{
    (void)sys_close(of(base)->set);
    free(of(base));
}

static uint32_t
to_epoll(uint32_t events)
{
    return (events & POLLER_READABLE ? (uint32_t)EPOLLIN : 0u) |
           (events & POLLER_WRITABLE ? (uint32_t)EPOLLOUT : 0u) |
           (events & POLLER_EDGE ? (uint32_t)EPOLLET | (uint32_t)EPOLLRDHUP : 0u);
}

static uint32_t
from_epoll(uint32_t events)
{
    return (events & (uint32_t)EPOLLIN ? (uint32_t)POLLER_READABLE : 0u) |
           (events & (uint32_t)EPOLLOUT ? (uint32_t)POLLER_WRITABLE : 0u) |
           (events & (uint32_t)EPOLLRDHUP ? (uint32_t)POLLER_FINISHED : 0u) |
           (events & ((uint32_t)EPOLLERR | (uint32_t)EPOLLHUP) ? (uint32_t)POLLER_FAILED : 0u) |
           (events & (uint32_t)EPOLLHUP ? (uint32_t)POLLER_HUNG_UP : 0u);
}

static int
control(struct epoll_poller *poller, int set, int op, int fd, berth_token token, uint32_t events)
{
    struct epoll_event event = {.events = to_epoll(events), .data = {.u64 = token}};
    poller->base.syscalls++;
    return (int)sys_epoll_ctl(set, op, fd, &event);
}

static int
poller_add(struct poller *base, int fd, berth_token token, uint32_t events)
{
    return control(of(base), of(base)->set, EPOLL_CTL_ADD, fd, token, events);
}

static int
poller_modify(struct poller *base, int fd, berth_token token, uint32_t events)
{
    return control(of(base), of(base)->set, EPOLL_CTL_MOD, fd, token, events);
}

static void
poller_remove(struct poller *base, int fd)
{
    (void)control(of(base), of(base)->set, EPOLL_CTL_DEL, fd, BERTH_TOKEN_NONE, 0);
}

static int
poller_wait(struct poller *base, int timeout_ms, struct poller_ready *ready, uint32_t count)
{
    struct epoll_poller *poller = of(base);
    const uint32_t most = count < poller->events_max ? count : poller->events_max;
    const intptr_t got = sys_epoll_wait(poller->set, poller->events, (int)most, timeout_ms);
    base->syscalls++;
    if (got < 0)
        return got == -EINTR ? 0 : (int)got;
    /* While the events are turned into ours, the slots they name are already on their way. */
    for (intptr_t i = 0; i < got; i++) {
        ready[i].token = poller->events[i].data.u64;
        ready[i].events = from_epoll(poller->events[i].events);
        berth_table_prefetch(base->table, ready[i].token);
    }
    if (got == 0)
        poller->ghosts = 0;
    return (int)got;
}

/** A new set with every live registration, under the old set's number. */
static void
rebuild(struct epoll_poller *poller)
{
    const int set = (int)sys_epoll_create1(EPOLL_CLOEXEC);
    if (set < 0)
        return; /* no descriptor now: the next ghost will try again */
    BERTH_TABLE_EACH_LIVE (poller->base.table, index) {
        const uint32_t events = poller->base.interest(poller->base.context, index);
        if (events == 0)
            continue;
        const struct berth_slot *slot = berth_table_slot(poller->base.table, index);
        (void)control(poller, set, EPOLL_CTL_ADD, (int)index,
                      berth_slot_token(slot, POLLER_TOKEN_OP), events);
    }
    (void)sys_close(poller->set);
    poller->set = set;
    poller->ghosts = 0;
    poller->base.table->stats.rebuilds++;
    poller->base.syscalls += 2;
}

static void
poller_stale(struct poller *base, berth_token token)
{
    struct epoll_poller *poller = of(base);
    const uint32_t index = berth_token_index(token);
    /* The number may be somebody else's by now, whose registration must stay. */
    const int taken = index < berth_table_slots_max(base->table) &&
                      berth_table_slot(base->table, index)->flags & BERTH_SLOT_LIVE;
    if (!taken && control(poller, poller->set, EPOLL_CTL_DEL, (int)index, token, 0) == 0) {
        base->table->stats.ghosts++;
        return;
    }
    if (++poller->ghosts >= GHOSTS_BEFORE_REBUILD)
        rebuild(poller);
}

static int
poller_descriptor(const struct poller *base)
{
    return ((const struct epoll_poller *)(const void *)base)->set;
}

const struct poller_interface berth_poller_epoll = {
    .name = "epoll",
    .create = poller_create,
    .destroy = poller_destroy,
    .add = poller_add,
    .modify = poller_modify,
    .remove = poller_remove,
    .wait = poller_wait,
    .stale = poller_stale,
    .descriptor = poller_descriptor,
};
