/*
 * The load over epoll: a batch of events per wait, one recv per answer.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load_internal.h"

#define EVENTS_MAX 1024

/** The epoll descriptor is kept in the state pointer itself. */
static int
epoll_of(const struct load *load)
{
    return (int)(intptr_t)load->io_state;
}

static int
io_open(struct load *load)
{
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    load->io_state = (void *)(intptr_t)epoll;
    return epoll < 0 ? -errno : 0;
}

static int
io_add(struct load *load, uint32_t index)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    const int fd = load->conns[index].fd;
    return epoll_ctl(epoll_of(load), EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

static int
io_wait(struct load *load, int timeout_ms)
{
    unsigned char data[LOAD_BYTES_MAX];
    struct epoll_event events[EVENTS_MAX];
    const int count = epoll_wait(epoll_of(load), events, EVENTS_MAX, timeout_ms);
    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < count; i++) {
        const uint32_t index = events[i].data.u32;
        const ssize_t got = recv(load->conns[index].fd, data, sizeof data, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN)
            continue;
        const int error = got < 0 ? -errno : load_received(load, index, data, (size_t)got);
        if (error != 0)
            return error;
    }
    return count;
}

/** Closing a descriptor that nobody else holds takes it out of the set. */
static void
io_disarm(struct load *load)
{
    (void)load;
}

static void
io_close(struct load *load)
{
    close(epoll_of(load));
}

const struct load_io load_io_epoll = {"epoll", io_open, io_add, io_wait, io_disarm, io_close};
