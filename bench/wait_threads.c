/*
 * Ways of waiting, for case `waiting`: threads that block in read(2). `threads` has one for each
 * descriptor, on the CPU of the thread that makes the events; `threads-apart` has them all on the
 * other CPU; `blocking` has a single one, on one descriptor: what being woken costs by itself.
 *
 * The thread that made the events sleeps until the last of them has been read; who reads it wakes
 * it. So these ways pay for going to sleep and being woken, which the others in this case do not.
 *
 * SPDX-License-Identifier: MIT
 */
#include <linux/futex.h>
#include <linux/time_types.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

#include "machine.h"
#include "wait.h"

/** Virtual; a thread that only reads touches two pages of it. Sanitizers need more than the least.
 */
#define STACK_BYTES 65536u

/** What a thread costs in RAM, kernel stack and structures included: measured, rounded up. */
#define THREAD_RAM_BYTES UINT64_C(49152)

/** Threads may take this share of the memory that is free: 1 / MEMORY_SHARE. */
#define MEMORY_SHARE 4u

/** Threads begin in such groups: thousands that want to run at once keep each other from it. */
#define BEGIN_TOGETHER 256u

/** Its handler does nothing, but without SA_RESTART a read ends when it comes. */
#define STOP_SIGNAL (SIGRTMIN + 4)
#define STOP_AGAIN_NS 10000000

struct threads_state;

struct reader {
    struct threads_state *state;
    pthread_t thread;
    uint32_t index;
};

struct threads_state {
    struct wait_run *run;
    pthread_attr_t attributes;
    atomic_uint started;
    atomic_int error;
    atomic_bool stopping;
    unsigned count, most;
    struct reader readers[];
};

static void
wake_maker(struct wait_run *run)
{
    syscall(SYS_futex, &run->outstanding, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *
reader_main(void *argument)
{
    const struct reader *reader = argument;
    struct threads_state *state = reader->state;
    struct wait_run *run = state->run;
    const int fd = run->set->readers[reader->index];
    char bytes[WAIT_READ_BYTES];
    atomic_fetch_add(&state->started, 1);
    while (!atomic_load_explicit(&state->stopping, memory_order_relaxed)) {
        const ssize_t got = read(fd, bytes, sizeof bytes);
        if (got < 0 && errno == EINTR)
            continue;
        if (got != 1 || !run->set->ready[reader->index]) {
            atomic_store(&state->error, got < 0 ? -errno : -EPROTO);
            wake_maker(run);
            break;
        }
        run->set->ready[reader->index] = 0;
        if (atomic_fetch_sub(&run->outstanding, 1) == 1)
            wake_maker(run);
    }
    return NULL;
}

static void
on_stop(int number)
{
    (void)number;
}

/** How many threads the memory allows. A container's limit kills; so it counts too. */
static unsigned
threads_max(unsigned wanted)
{
    struct sysinfo info;
    unsigned long long limit = 0;
    if (sysinfo(&info) != 0)
        return wanted;
    uint64_t bytes = (uint64_t)(info.freeram + info.bufferram) * info.mem_unit;
    FILE *file = fopen("/sys/fs/cgroup/memory.max", "re");
    if (file != NULL && fscanf(file, "%llu", &limit) == 1 && limit < bytes)
        bytes = limit;
    if (file != NULL)
        fclose(file);
    const uint64_t most = bytes / MEMORY_SHARE / THREAD_RAM_BYTES;
    return most < wanted ? (unsigned)most : wanted;
}

static int
threads_open_with(struct wait_run *run, unsigned count, int cpu)
{
    struct threads_state *state = calloc(1, sizeof *state + count * sizeof state->readers[0]);
    if (state == NULL)
        return -ENOMEM;
    state->run = run;
    state->most = threads_max(count);
    int error = -pthread_attr_init(&state->attributes);
    if (error == 0)
        error = -pthread_attr_setstacksize(&state->attributes, STACK_BYTES);
    if (error == 0 && cpu >= 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(cpu, &cpus);
        error = -pthread_attr_setaffinity_np(&state->attributes, sizeof cpus, &cpus);
    }
    if (error != 0) {
        free(state);
        return error;
    }
    run->state = state;
    return 0;
}

static int
threads_open(struct wait_run *run)
{
    return threads_open_with(run, run->set->count, -1);
}

static int
threads_open_apart(struct wait_run *run)
{
    return threads_open_with(run, run->set->count, run->cpu_apart);
}

static int
blocking_open(struct wait_run *run)
{
    return threads_open_with(run, 1, -1);
}

/** Waits until all of them have begun: they are in their read then, or about to be. */
static void
begin_all(const struct threads_state *state)
{
    while (atomic_load(&state->started) < state->count && !machine_interrupted)
        machine_sleep_ms(1);
}

static int
threads_add(struct wait_run *run, uint32_t index)
{
    struct threads_state *state = run->state;
    if (state->count == state->most)
        return -EAGAIN;
    struct reader *reader = &state->readers[state->count];
    reader->state = state;
    reader->index = index;
    const int error = pthread_create(&reader->thread, &state->attributes, reader_main, reader);
    if (error != 0)
        return error == ENOMEM ? -EAGAIN : -error;
    state->count++;
    if (state->count % BEGIN_TOGETHER == 0)
        begin_all(state);
    return 0;
}

static int
threads_settle(struct wait_run *run)
{
    begin_all(run->state);
    return 0;
}

static int
threads_wait(struct wait_run *run)
{
    struct threads_state *state = run->state;
    struct __kernel_timespec lost = {.tv_sec = WAIT_LOST_MS / 1000};
    const unsigned left = atomic_load(&run->outstanding);
    int error = atomic_load(&state->error);
    if (error != 0 || left == 0)
        return error;
    run->syscalls++;
    if (syscall(SYS_futex, &run->outstanding, FUTEX_WAIT_PRIVATE, left, &lost, NULL, 0) != 0)
        error = errno == ETIMEDOUT ? -ETIME : errno == EAGAIN ? 0 : wait_failed(errno);
    return error;
}

/** A signal ends the read; again if it came just before the read, where it does nothing. */
static void
reader_stop(const struct reader *reader)
{
    struct timespec until;
    do {
        pthread_kill(reader->thread, STOP_SIGNAL);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += STOP_AGAIN_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
    } while (pthread_timedjoin_np(reader->thread, NULL, &until) == ETIMEDOUT);
}

static void
threads_close(struct wait_run *run)
{
    struct threads_state *state = run->state;
    struct sigaction action = {.sa_handler = on_stop}, before;
    sigaction(STOP_SIGNAL, &action, &before);
    atomic_store(&state->stopping, true);
    for (unsigned i = 0; i < state->count; i++)
        reader_stop(&state->readers[i]);
    sigaction(STOP_SIGNAL, &before, NULL);
    pthread_attr_destroy(&state->attributes);
    free(state);
}

const struct wait_way wait_threads = {
    .name = "threads",
    .options = WAIT_BLOCKING | WAIT_THREADS,
    .open = threads_open,
    .add = threads_add,
    .settle = threads_settle,
    .wait = threads_wait,
    .close = threads_close,
};

const struct wait_way wait_threads_apart = {
    .name = "threads-apart",
    .options = WAIT_BLOCKING | WAIT_THREADS | WAIT_APART,
    .open = threads_open_apart,
    .add = threads_add,
    .settle = threads_settle,
    .wait = threads_wait,
    .close = threads_close,
};

const struct wait_way wait_blocking = {
    .name = "blocking",
    .options = WAIT_BLOCKING | WAIT_THREADS | WAIT_ONE,
    .open = blocking_open,
    .add = threads_add,
    .settle = threads_settle,
    .wait = threads_wait,
    .close = threads_close,
};
