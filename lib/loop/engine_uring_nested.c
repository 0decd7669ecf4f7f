/*
 * The io_uring engine inside another loop. The ring's own descriptor does not do: with
 * DEFER_TASKRUN the kernel wakes nobody who polls it before the work has been run, which only a
 * turn does. An eventfd registered with the ring is written to when work arrives.
 *
 * Work that another eventfd caused may be an exception: nested.c watches the wake-up itself.
 *
 * The invariant: after uring_rest the kernel knows every submission and every buffer, and whatever
 * has happened since the eventfd was emptied has been written to it.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_URING
#include "loop/engine_uring_udp.h"
#include "loop/engine_uring_zcrx.h"

#include "os/sys.h"

int
uring_nest(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    if (state->event_fd >= 0)
        return state->event_fd;
    const int fd = (int)sys_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return fd;
    const int error = (int)sys_uring_register_eventfd(&state->ring, fd);
    if (error) {
        (void)sys_close(fd);
        return error;
    }
    state->event_fd = fd;
    return fd;
}

int
uring_rest(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    uint64_t count;
    uring_refill(loop);
    uring_publish_buffers(state);
    if (state->udp != NULL)
        uring_datagram_refill(loop);
    if (BERTH_UNLIKELY(state->zcrx != NULL))
        (void)zcrx_area_retry(state->zcrx->area);
    /* In this order: what is not written of any more is seen here. */
    (void)sys_read(state->event_fd, &count, sizeof(count));
    loop->stats.syscalls++;
    uring_run_work(loop);
    return io_uring_cq_ready(&state->ring) > 0;
}
