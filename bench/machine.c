/*
 * Clock, processors, memory figures and signals for the benchmark programs. Everything is read from
 * where the kernel tells it exactly; nothing is estimated here.
 *
 * SPDX-License-Identifier: MIT
 */
#include "machine.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/** Paths longer than this are cut off, and then not found. */
#define PATH_BYTES 512
/**
 * A second request is one of its own only so long after the first: timeout(1) signals a process and
 * then its group, a shell and a parent may both pass on what they got.
 */
#define INSIST_NS UINT64_C(500000000)

/** See machine_slab_settle. */
#define SETTLE_MS 150u
#define SETTLED_BYTES 65536
#define SETTLE_TRIES 30u

volatile sig_atomic_t machine_interrupted;

static void
on_interrupt(int number)
{
    static _Atomic uint64_t first_ns;
    const uint64_t now = machine_now_ns();
    if (!machine_interrupted) {
        first_ns = now;
        machine_interrupted = 1;
    } else if (now - first_ns > INSIST_NS) {
        /* Whoever asks again does not want to wait for a tidy end. It is held until we return. */
        signal(number, SIG_DFL);
        raise(number);
    }
}

void
machine_catch_interrupts(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

uint64_t
machine_cpu_ns(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

void
machine_sleep_ms(unsigned ms)
{
    const struct timespec pause = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

int
machine_cpus(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return 1;
    return CPU_COUNT(&allowed);
}

int
machine_cpu_ranked(int rank)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return -1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed) && rank-- == 0)
            return cpu;
    }
    return -1;
}

int
machine_pin(int cpu)
{
    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return -EINVAL;
    cpu_set_t wanted;
    CPU_ZERO(&wanted);
    CPU_SET(cpu, &wanted);
    return sched_setaffinity(0, sizeof wanted, &wanted) == 0 ? 0 : -errno;
}

int
machine_pin_try(int cpu)
{
    cpu_set_t before;
    if (sched_getaffinity(0, sizeof before, &before) != 0)
        return -errno;
    const int error = machine_pin(cpu);
    sched_setaffinity(0, sizeof before, &before);
    return error;
}

uint32_t
machine_descriptors_free(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    /* Logins get a low limit that they may raise themselves. */
    const rlim_t low = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        limit.rlim_cur = low;
    const uint64_t most = limit.rlim_cur < INT32_MAX ? limit.rlim_cur : INT32_MAX;
    uint64_t used = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (directory != NULL) {
        while (readdir(directory) != NULL)
            used++;
        closedir(directory);
    }
    return (uint32_t)(most > used ? most - used : 0);
}

/** The number after `key` in lines such as "Rss:      1604 kB", in bytes; 0 if it is not there. */
static uint64_t
field_kib(FILE *file, const char *key)
{
    char line[256];
    unsigned long long kib = 0;
    rewind(file);
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), "%llu", &kib) == 1)
            return (uint64_t)kib * 1024;
    }
    return 0;
}

static FILE *
process_file(pid_t pid, const char *name)
{
    char path[64];
    if (pid == 0)
        snprintf(path, sizeof path, "/proc/self/%s", name);
    else
        snprintf(path, sizeof path, "/proc/%ld/%s", (long)pid, name);
    return fopen(path, "re");
}

int
machine_memory_get(pid_t pid, struct machine_memory *memory)
{
    memset(memory, 0, sizeof *memory);
    FILE *file = process_file(pid, "smaps_rollup");
    if (file == NULL)
        return -errno;
    memory->resident_bytes = field_kib(file, "Rss:");
    memory->anonymous_bytes = field_kib(file, "Anonymous:");
    memory->huge_bytes = field_kib(file, "AnonHugePages:");
    fclose(file);
    file = process_file(pid, "status");
    if (file == NULL)
        return -errno;
    memory->page_table_bytes = field_kib(file, "VmPTE:");
    fclose(file);
    return 0;
}

static uint64_t
meminfo(const char *key)
{
    FILE *file = fopen("/proc/meminfo", "re");
    if (file == NULL)
        return 0;
    const uint64_t bytes = field_kib(file, key);
    fclose(file);
    return bytes;
}

/** The number in a file of one line; UINT64_MAX when it is no number ("max") or not there. */
static uint64_t
number_in(const char *directory, const char *name)
{
    char path[PATH_BYTES + 64], line[64] = "";
    unsigned long long number = UINT64_MAX;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", directory, name);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return UINT64_MAX;
    if (fgets(line, sizeof line, file) == NULL || sscanf(line, "%llu", &number) != 1)
        number = UINT64_MAX;
    fclose(file);
    return number;
}

/** What the control groups (version 2) of this process, from its own up to the root, leave it. */
static uint64_t
group_memory_left(void)
{
    char line[PATH_BYTES] = "";
    uint64_t left = UINT64_MAX;
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL)
        return left;
    while (fgets(line, sizeof line, file) != NULL && strncmp(line, "0::", 3) != 0)
        line[0] = '\0';
    fclose(file);
    if (line[0] == '\0')
        return left;
    char *path = line + 3;
    path[strcspn(path, "\n")] = '\0';
    for (;;) {
        const uint64_t most = number_in(path, "memory.max");
        const uint64_t used = number_in(path, "memory.current");
        if (most != UINT64_MAX && used != UINT64_MAX) {
            const uint64_t here = most > used ? most - used : 0;
            left = here < left ? here : left;
        }
        char *slash = strrchr(path, '/');
        if (slash == NULL)
            return left;
        *slash = '\0';
    }
}

uint64_t
machine_memory_available_bytes(void)
{
    const uint64_t bytes = meminfo("MemAvailable:"), left = group_memory_left();
    return bytes < left ? bytes : left;
}

uint64_t
machine_slab_bytes(void)
{
    return meminfo("Slab:");
}

static uint64_t
slab_object_bytes(void)
{
    uint64_t bytes = 0;
    char line[512];
    FILE *file = fopen("/proc/slabinfo", "re");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long long active, objects, size;
        if (sscanf(line, "%*s %llu %llu %llu", &active, &objects, &size) == 3)
            bytes += active * size;
    }
    fclose(file);
    return bytes;
}

uint64_t
machine_slab_settle(void)
{
    int64_t before, now = (int64_t)slab_object_bytes();
    unsigned tries = 0;
    do {
        before = now;
        machine_sleep_ms(SETTLE_MS);
        now = (int64_t)slab_object_bytes();
    } while ((now - before > SETTLED_BYTES || before - now > SETTLED_BYTES) &&
             ++tries < SETTLE_TRIES && !machine_interrupted);
    return (uint64_t)now;
}
