/*
 * Handing events to a layout: made-up ones in batches like those of epoll_wait, or real ones.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>

#include "lookup.h"
#include "machine.h"

/** The descriptors that are read between events, if as many can be had. */
#define READ_FDS 64u

/** No descriptor above this is asked for: the kernel's table grows to the highest. */
#define FD_LIMIT 4096u

/** With fewer to be had than this, the numbers wanted are those of the standard files. */
#define FD_ROOM_MIN 16u

/** Enough events that a working set which fits the last-level cache has got there. */
#define WARM_EVENTS_MAX 131072u

void
lookup_run_init(struct lookup_run *run, const struct lookup_variant *variant,
                struct lookup_set *set)
{
    memset(run, 0, sizeof *run);
    run->variant = variant;
    run->set = set;
    /* Made-up events come from no set: the adapter is only asked to walk over them. */
    run->epoll.fd = -1;
    run->epoll.table = variant->needs & LOOKUP_TABLE_HUGE ? &set->table_huge : &set->table;
}

static void
handle(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    const unsigned part = run->variant->needs & ~(unsigned)LOOKUP_OPEN;
    run->variant->pass(run, batch, count);
    if (part != 0)
        run->set->handled[__builtin_ctz(part)] += (unsigned)count;
}

void
lookup_run_pass(void *context)
{
    struct lookup_run *run = context;
    const uint64_t *carried = run->set->carried[run->variant->carried];
    struct epoll_event batch[LOOKUP_BATCH];
    for (unsigned done = 0; done < LOOKUP_PASS_EVENTS; done += LOOKUP_BATCH) {
        for (unsigned i = 0; i < LOOKUP_BATCH; i++) {
            batch[i].events = EPOLLIN;
            batch[i].data.u64 = carried[run->at];
            run->at = run->at + 1 < run->set->active ? run->at + 1 : 0;
        }
        handle(run, batch, LOOKUP_BATCH);
    }
}

void
lookup_run_warm(struct lookup_run *run)
{
    const uint32_t wanted = run->set->active < WARM_EVENTS_MAX ? run->set->active : WARM_EVENTS_MAX;
    for (uint32_t done = 0; done < wanted; done += LOOKUP_PASS_EVENTS)
        lookup_run_pass(run);
}

/* ---- the descriptors read between events -------------------------------------------------------
 */

void
lookup_fds_close(struct lookup_fds *fds)
{
    for (uint32_t i = 0; i < fds->count; i++)
        close(fds->first + (int)i);
    fds->count = 0;
}

/** A semaphore at that very number: each read takes one, and there are more than will be read. */
static int
semaphore_at(int number)
{
    const int fd = eventfd(INT32_MAX, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fd == number)
        return 0;
    const int placed = fcntl(fd, F_DUPFD_CLOEXEC, number);
    const int error = placed == number ? 0 : -EMFILE;
    if (placed >= 0 && placed != number)
        close(placed);
    close(fd);
    return error;
}

int
lookup_fds_open(struct lookup_fds *fds)
{
    const uint32_t room = machine_descriptors_free();
    uint32_t wanted = READ_FDS;
    fds->count = 0;
    if (room < FD_ROOM_MIN)
        return -EMFILE;
    while (wanted > 1 && wanted * 4 > room)
        wanted /= 2;
    fds->first = (int)((room < FD_LIMIT ? room : FD_LIMIT) - wanted);
    int error = 0;
    for (fds->count = 0; fds->count < wanted && error == 0; fds->count += error == 0)
        error = semaphore_at(fds->first + (int)fds->count);
    return error;
}

/* ---- real events -------------------------------------------------------------------------------
 */

/** Registers every connection with what its variant carries. */
static int
register_all(const struct lookup_run *run, int epoll)
{
    const struct lookup_set *set = run->set;
    const uint64_t *carried = set->carried[run->variant->carried];
    const uint64_t *indices = set->carried[LOOKUP_INDEX];
    for (uint32_t i = 0; i < set->active; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = carried[i]};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, (int)indices[i], &event) != 0)
            return -errno;
    }
    return 0;
}

/** Events of one wait: different connections, so no more than are active. */
static int
batch_events(const struct lookup_run *run)
{
    return run->set->active < LOOKUP_BATCH ? (int)run->set->active : LOOKUP_BATCH;
}

/** Makes the next batch of connections ready. */
static int
make_ready(struct lookup_run *run)
{
    const uint64_t *indices = run->set->carried[LOOKUP_INDEX];
    const uint64_t one = 1;
    for (int i = 0; i < batch_events(run); i++) {
        if (write((int)indices[run->at], &one, sizeof one) != sizeof one)
            return -errno;
        run->at = run->at + 1 < run->set->active ? run->at + 1 : 0;
    }
    return 0;
}

static int
turn(struct lookup_run *run, int epoll, uint64_t *spent_ns)
{
    struct epoll_event batch[LOOKUP_BATCH];
    const int error = make_ready(run);
    if (error != 0)
        return error;
    const uint64_t begin = machine_now_ns();
    const int count = epoll_wait(epoll, batch, LOOKUP_BATCH, 0);
    if (count != batch_events(run))
        return count < 0 ? -errno : -EIO;
    handle(run, batch, count);
    *spent_ns += machine_now_ns() - begin;
    return 0;
}

int
lookup_run_epoll(struct lookup_run *run, uint64_t slice_ns, double *ns_per_event)
{
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        return -errno;
    uint64_t spent_ns = 0, turns = 0;
    int error = register_all(run, epoll);
    for (unsigned i = 0; i < 64 && error == 0; i++)
        error = turn(run, epoll, &spent_ns);
    spent_ns = 0;
    while (error == 0 && spent_ns < slice_ns && !machine_interrupted) {
        error = turn(run, epoll, &spent_ns);
        turns++;
    }
    close(epoll);
    if (error == 0)
        *ns_per_event = (double)spent_ns / (double)(turns * (uint64_t)batch_events(run));
    return error;
}
