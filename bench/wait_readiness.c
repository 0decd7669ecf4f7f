/*
 * Ways of waiting, for case `waiting`: those of readiness. select and poll are told the whole list
 * with every call; epoll keeps it in the kernel. And the floor: no waiting at all.
 *
 * select's bitmaps here are our own, as long as the highest descriptor needs: the kernel takes any
 * length, it is fd_set and its macros that end at FD_SETSIZE. So this is select as it costs beyond
 * that, and not a call that portable programs may make.
 *
 * SPDX-License-Identifier: MIT
 */
#include <limits.h>
#include <linux/time_types.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "wait.h"

/* ---- floor: whoever knows which descriptors are ready just reads them --------------------------
 */

static int
floor_open(struct wait_run *run)
{
    (void)run;
    return 0;
}

static int
floor_add(struct wait_run *run, uint32_t index)
{
    (void)run;
    (void)index;
    return 0;
}

static int
floor_wait(struct wait_run *run)
{
    int error = 0;
    for (uint32_t i = 0; i < run->made_count && error == 0; i++)
        error = wait_read(run, run->made[i]);
    return error;
}

static void
floor_close(struct wait_run *run)
{
    (void)run;
}

const struct wait_way wait_floor = {
    .name = "floor",
    .open = floor_open,
    .add = floor_add,
    .wait = floor_wait,
    .close = floor_close,
};

/* ---- select -----------------------------------------------------------------------------------
 */

#define WORD_BITS ((unsigned)sizeof(unsigned long) * CHAR_BIT)

/** Two bitmaps behind each other: what to wait for, and what the kernel makes of it. */
struct select_state {
    unsigned long *wanted, *found;
    size_t words;
};

static int
select_open(struct wait_run *run)
{
    struct select_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return -ENOMEM;
    state->words = (size_t)run->set->descriptor_max / WORD_BITS + 1;
    state->wanted = calloc(2 * state->words, sizeof *state->wanted);
    if (state->wanted == NULL) {
        free(state);
        return -ENOMEM;
    }
    state->found = state->wanted + state->words;
    run->state = state;
    return 0;
}

static int
select_add(struct wait_run *run, uint32_t index)
{
    struct select_state *state = run->state;
    const unsigned descriptor = (unsigned)run->set->readers[index];
    state->wanted[descriptor / WORD_BITS] |= 1ul << (descriptor % WORD_BITS);
    return 0;
}

static int
select_wait(struct wait_run *run)
{
    struct select_state *state = run->state;
    struct __kernel_timespec lost = {.tv_sec = WAIT_LOST_MS / 1000};
    memcpy(state->found, state->wanted, state->words * sizeof *state->found);
    run->syscalls++;
    long left =
        syscall(SYS_pselect6, run->set->descriptor_max + 1, state->found, NULL, NULL, &lost, NULL);
    if (left <= 0)
        return left == 0 ? -ETIME : wait_failed(errno);
    for (size_t at = 0; left > 0 && at < state->words; at++) {
        for (unsigned long word = state->found[at]; word != 0; word &= word - 1) {
            const size_t descriptor = at * WORD_BITS + (unsigned)__builtin_ctzl(word);
            const int error = wait_read(run, run->set->index_of[descriptor]);
            if (error != 0)
                return error;
            left--;
        }
    }
    return 0;
}

static void
select_close(struct wait_run *run)
{
    struct select_state *state = run->state;
    free(state->wanted);
    free(state);
}

const struct wait_way wait_select = {
    .name = "select",
    .open = select_open,
    .add = select_add,
    .wait = select_wait,
    .close = select_close,
};

/* ---- poll -------------------------------------------------------------------------------------
 */

static int
poll_open(struct wait_run *run)
{
    struct pollfd *polled = calloc(run->set->count, sizeof *polled);
    if (polled == NULL)
        return -ENOMEM;
    run->state = polled;
    return 0;
}

static int
poll_add(struct wait_run *run, uint32_t index)
{
    struct pollfd *polled = run->state;
    polled[index] = (struct pollfd){.fd = run->set->readers[index], .events = POLLIN};
    return 0;
}

static int
poll_wait(struct wait_run *run)
{
    struct pollfd *polled = run->state;
    run->syscalls++;
    int left = poll(polled, run->set->count, WAIT_LOST_MS);
    if (left <= 0)
        return left == 0 ? -ETIME : wait_failed(errno);
    for (uint32_t i = 0; left > 0 && i < run->set->count; i++) {
        if (polled[i].revents == 0)
            continue;
        const int error = wait_read(run, i);
        if (error != 0)
            return error;
        left--;
    }
    return 0;
}

static void
poll_close(struct wait_run *run)
{
    free(run->state);
}

const struct wait_way wait_poll = {
    .name = "poll",
    .open = poll_open,
    .add = poll_add,
    .wait = poll_wait,
    .close = poll_close,
};

/* ---- epoll ------------------------------------------------------------------------------------
 */

struct epoll_state {
    int fd;
    uint32_t events;
};

static int
epoll_open_with(struct wait_run *run, uint32_t events)
{
    struct epoll_state *state = malloc(sizeof *state);
    if (state == NULL)
        return -ENOMEM;
    state->events = events;
    state->fd = epoll_create1(EPOLL_CLOEXEC);
    if (state->fd < 0) {
        const int error = -errno;
        free(state);
        return error;
    }
    run->state = state;
    return 0;
}

static int
epoll_open(struct wait_run *run)
{
    return epoll_open_with(run, EPOLLIN);
}

/** A read that returned less than it asked for has emptied the descriptor: epoll(7) needs no more.
 */
static int
epoll_open_et(struct wait_run *run)
{
    return epoll_open_with(run, EPOLLIN | EPOLLET);
}

static int
epoll_add(struct wait_run *run, uint32_t index)
{
    const struct epoll_state *state = run->state;
    struct epoll_event event = {.events = state->events, .data.u32 = index};
    const int did = epoll_ctl(state->fd, EPOLL_CTL_ADD, run->set->readers[index], &event);
    return did == 0 ? 0 : -errno;
}

static int
epoll_wait_read(struct wait_run *run)
{
    const struct epoll_state *state = run->state;
    struct epoll_event events[WAIT_BATCH];
    run->syscalls++;
    const int count = epoll_wait(state->fd, events, WAIT_BATCH, WAIT_LOST_MS);
    if (count <= 0)
        return count == 0 ? -ETIME : wait_failed(errno);
    for (int i = 0; i < count; i++) {
        const int error = wait_read(run, events[i].data.u32);
        if (error != 0)
            return error;
    }
    return 0;
}

static void
epoll_close(struct wait_run *run)
{
    struct epoll_state *state = run->state;
    close(state->fd);
    free(state);
}

const struct wait_way wait_epoll = {
    .name = "epoll",
    .open = epoll_open,
    .add = epoll_add,
    .wait = epoll_wait_read,
    .close = epoll_close,
};

const struct wait_way wait_epoll_et = {
    .name = "epoll-et",
    .open = epoll_open_et,
    .add = epoll_add,
    .wait = epoll_wait_read,
    .close = epoll_close,
};
