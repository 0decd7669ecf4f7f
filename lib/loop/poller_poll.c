/*
 * The poll(2) poller: an array of descriptors, and beside it where each descriptor stands in it.
 * For systems with nothing better, and as the yardstick that needs no kernel state: a wait costs
 * time proportional to the descriptors watched.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_POLL
#include "loop/poller.h"

#include <stdlib.h>
#include <string.h>

#include "berth/table.h"
#include "os/sys.h"

struct poll_poller {
    struct poller base;
    struct pollfd *fds;
    uint32_t count, room;
    uint32_t *places; /**< by descriptor: 1 + its place in fds, 0 when it is not watched */
    uint32_t places_room;
    uint32_t next; /**< where the last wait stopped handing out */
};

static struct poll_poller *
of(struct poller *base)
{
    return (struct poll_poller *)(void *)base;
}

static int
poller_create(struct poller **result, uint32_t events_max)
{
    (void)events_max;
    struct poll_poller *poller = (struct poll_poller *)calloc(1, sizeof(*poller));
    if (poller == NULL)
        return -ENOMEM;
    *result = &poller->base;
    return 0;
}

static void
poller_destroy(struct poller *base)
{
    struct poll_poller *poller = of(base);
    free(poller->fds);
    free(poller->places);
    free(poller);
}

static uint32_t
doubled_until(uint32_t room, uint32_t needed)
{
    room = room < 64 ? 64 : room;
    while (room < needed)
        room *= 2;
    return room;
}

/** Room for one more descriptor, and for that number. */
static int
grow(struct poll_poller *poller, uint32_t fd)
{
    if (fd >= poller->places_room) {
        const uint32_t room = doubled_until(poller->places_room, fd + 1);
        uint32_t *places = (uint32_t *)realloc(poller->places, room * sizeof(*places));
        if (places == NULL)
            return -ENOMEM;
        memset(places + poller->places_room, 0, (room - poller->places_room) * sizeof(*places));
        poller->places = places;
        poller->places_room = room;
    }
    if (poller->count == poller->room) {
        const uint32_t room = doubled_until(poller->room, poller->count + 1);
        struct pollfd *fds = (struct pollfd *)realloc(poller->fds, room * sizeof(*fds));
        if (fds == NULL)
            return -ENOMEM;
        poller->fds = fds;
        poller->room = room;
    }
    return 0;
}

static short
to_poll(uint32_t events)
{
    return (short)((events & POLLER_READABLE ? POLLIN : 0) |
                   (events & POLLER_WRITABLE ? POLLOUT : 0));
}

static uint32_t
from_poll(short events)
{
    return (events & POLLIN ? (uint32_t)POLLER_READABLE : 0u) |
           (events & POLLOUT ? (uint32_t)POLLER_WRITABLE : 0u) |
           (events & (POLLERR | POLLHUP | POLLNVAL) ? (uint32_t)POLLER_FAILED : 0u) |
           (events & POLLHUP ? (uint32_t)POLLER_HUNG_UP : 0u);
}

static int
poller_add(struct poller *base, int fd, berth_token token, uint32_t events)
{
    struct poll_poller *poller = of(base);
    (void)token;
    const int error = grow(poller, (uint32_t)fd);
    if (error)
        return error;
    if (poller->places[fd] != 0)
        return -EEXIST;
    poller->fds[poller->count] = (struct pollfd){.fd = fd, .events = to_poll(events)};
    poller->places[fd] = ++poller->count;
    return 0;
}

static int
poller_modify(struct poller *base, int fd, berth_token token, uint32_t events)
{
    struct poll_poller *poller = of(base);
    (void)token;
    if ((uint32_t)fd >= poller->places_room || poller->places[fd] == 0)
        return -ENOENT;
    const uint32_t place = poller->places[fd] - 1;
    poller->fds[place].events = to_poll(events);
    return 0;
}

static void
poller_remove(struct poller *base, int fd)
{
    struct poll_poller *poller = of(base);
    if ((uint32_t)fd >= poller->places_room || poller->places[fd] == 0)
        return;
    const uint32_t place = poller->places[fd] - 1;
    const uint32_t last = --poller->count;
    poller->fds[place] = poller->fds[last]; /* the last one takes the free place */
    poller->places[poller->fds[place].fd] = place + 1;
    poller->places[fd] = 0;
}

static int
poller_wait(struct poller *base, int timeout_ms, struct poller_ready *ready, uint32_t count)
{
    struct poll_poller *poller = of(base);
    intptr_t left = sys_poll(poller->fds, poller->count, timeout_ms);
    base->syscalls++;
    if (left < 0)
        return left == -EINTR ? 0 : (int)left;
    /* Start where the last wait stopped: with more ready than `count`, all have their turn. */
    uint32_t found = 0;
    uint32_t at = poller->next;
    for (uint32_t i = 0; i < poller->count && left > 0 && found < count; i++, at++) {
        if (at >= poller->count)
            at = 0;
        if (poller->fds[at].revents == 0)
            continue;
        left--;
        /* A descriptor is forgotten here before it is closed: its slot is the one that is meant. */
        ready[found].token = berth_slot_token(
            berth_table_slot(base->table, (uint32_t)poller->fds[at].fd), POLLER_TOKEN_OP);
        ready[found].events = from_poll(poller->fds[at].revents);
        berth_table_prefetch(base->table, ready[found].token);
        found++;
    }
    poller->next = at;
    return (int)found;
}

static void
poller_stale(struct poller *base, berth_token token)
{
    /* Within a batch only: a descriptor is forgotten here before it is closed. */
    (void)base, (void)token;
}

/** The set is an array of ours: the kernel sees it only during a wait. */
static int
poller_descriptor(const struct poller *base)
{
    (void)base;
    return -EOPNOTSUPP;
}

const struct poller_interface berth_poller_poll = {
    .name = "poll",
    .create = poller_create,
    .destroy = poller_destroy,
    .add = poller_add,
    .modify = poller_modify,
    .remove = poller_remove,
    .wait = poller_wait,
    .stale = poller_stale,
    .descriptor = poller_descriptor,
};
