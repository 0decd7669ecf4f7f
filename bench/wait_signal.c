/*
 * Ways of waiting, for case `waiting`: a queued signal per event (F_SETSIG). `sigio` takes them one
 * by one with sigtimedwait, `sigio-fd` takes many with one read of a signalfd.
 *
 * The queue of signals has an end. When it is full the kernel sends a plain SIGIO instead, which
 * says nothing but "look at everything": then what is queued is dropped, every descriptor is
 * polled, and the case counts an overflow.
 *
 * A signal says that something has happened once, like an edge: as with edge-triggered epoll, who
 * reads less than there is must remember it. Here one byte is all there is.
 *
 * SPDX-License-Identifier: MIT
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>

#include "wait.h"

/** One signal for all descriptors. The first few real-time signals belong to the C library. */
#define EVENT_SIGNAL (SIGRTMIN + 3)

struct signal_state {
    sigset_t waited; /**< the event's signal, and SIGIO */
    sigset_t before; /**< what was blocked before */
    int fd;          /**< a signalfd, or -1 */
    struct pollfd everything[];
};

/** Takes signals off the queue until there are none. */
static void
signals_drop(struct wait_run *run)
{
    const struct signal_state *state = run->state;
    const struct timespec at_once = {0, 0};
    do {
        run->syscalls++;
    } while (sigtimedwait(&state->waited, NULL, &at_once) > 0);
}

static int
signal_open_with(struct wait_run *run, bool with_fd)
{
    struct signal_state *state =
        calloc(1, sizeof *state + run->set->count * sizeof state->everything[0]);
    if (state == NULL)
        return -ENOMEM;
    sigemptyset(&state->waited);
    sigaddset(&state->waited, EVENT_SIGNAL);
    sigaddset(&state->waited, SIGIO);
    state->fd = with_fd ? signalfd(-1, &state->waited, SFD_CLOEXEC | SFD_NONBLOCK) : -1;
    if (with_fd && state->fd < 0) {
        const int error = -errno;
        free(state);
        return error;
    }
    pthread_sigmask(SIG_BLOCK, &state->waited, &state->before);
    run->state = state;
    return 0;
}

static int
signal_open(struct wait_run *run)
{
    return signal_open_with(run, false);
}

static int
signal_open_fd(struct wait_run *run)
{
    return signal_open_with(run, true);
}

static int
signal_add(struct wait_run *run, uint32_t index)
{
    struct signal_state *state = run->state;
    const int fd = run->set->readers[index];
    const struct f_owner_ex owner = {F_OWNER_TID, gettid()};
    state->everything[index] = (struct pollfd){.fd = fd, .events = POLLIN};
    if (fcntl(fd, F_SETSIG, EVENT_SIGNAL) != 0 || fcntl(fd, F_SETOWN_EX, &owner) != 0 ||
        fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC) != 0)
        return -errno;
    return 0;
}

/** After an overflow: nothing that is queued is needed, since poll finds it all. */
static int
read_everything(struct wait_run *run)
{
    struct signal_state *state = run->state;
    run->overflows++;
    signals_drop(run);
    run->syscalls++;
    int left = poll(state->everything, run->set->count, 0);
    for (uint32_t i = 0; left > 0 && i < run->set->count; i++) {
        if (state->everything[i].revents == 0)
            continue;
        const int error = wait_read(run, i);
        if (error != 0)
            return error;
        left--;
    }
    return left < 0 ? -errno : 0;
}

/** What a signal says: a descriptor, or that the queue was full. */
static int
take(struct wait_run *run, int number, int fd)
{
    if (number == SIGIO)
        return read_everything(run);
    if (fd < 0 || fd > run->set->descriptor_max)
        return -EPROTO;
    return wait_read(run, run->set->index_of[fd]);
}

static int
signal_wait(struct wait_run *run)
{
    struct signal_state *state = run->state;
    const struct timespec lost = {WAIT_LOST_MS / 1000, 0};
    siginfo_t info;
    run->syscalls++;
    const int number = sigtimedwait(&state->waited, &info, &lost);
    if (number < 0)
        return errno == EAGAIN ? -ETIME : wait_failed(errno);
    return take(run, number, info.si_fd);
}

/** Tries to read before it waits: as a server would whose events never cease. */
static int
signal_wait_fd(struct wait_run *run)
{
    const struct signal_state *state = run->state;
    struct signalfd_siginfo infos[WAIT_BATCH];
    run->syscalls++;
    ssize_t got = read(state->fd, infos, sizeof infos);
    if (got < 0 && errno == EAGAIN) {
        struct pollfd one = {.fd = state->fd, .events = POLLIN};
        run->syscalls++;
        const int count = poll(&one, 1, WAIT_LOST_MS);
        return count == 0 ? -ETIME : count < 0 ? wait_failed(errno) : 0;
    }
    if (got < 0)
        return wait_failed(errno);
    const size_t count = (size_t)got / sizeof infos[0];
    for (size_t i = 0; i < count; i++) {
        const int error = take(run, (int)infos[i].ssi_signo, infos[i].ssi_fd);
        if (error != 0)
            return error;
        if (infos[i].ssi_signo == SIGIO)
            break; /* everything has been read; the rest of the batch is old */
    }
    return 0;
}

/** The signals go first: unblocked, any that is left would end the program. */
static void
signal_close(struct wait_run *run)
{
    struct signal_state *state = run->state;
    for (uint32_t i = 0; i < run->set->count; i++)
        fcntl(run->set->readers[i], F_SETFL, O_NONBLOCK);
    signals_drop(run);
    pthread_sigmask(SIG_SETMASK, &state->before, NULL);
    if (state->fd >= 0)
        close(state->fd);
    free(state);
}

const struct wait_way wait_sigio = {
    .name = "sigio",
    .open = signal_open,
    .add = signal_add,
    .wait = signal_wait,
    .close = signal_close,
};

const struct wait_way wait_sigio_fd = {
    .name = "sigio-fd",
    .open = signal_open_fd,
    .add = signal_add,
    .wait = signal_wait_fd,
    .close = signal_close,
};
