/*
 * The limit: how fast memory itself can be copied here, in this process, with nothing else to do.
 * A mechanism that copies each byte once cannot need less processor time than that; one that beats
 * it does not copy.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sys/mman.h>

#include "machine.h"
#include "stream.h"

#define BYTES_MAX ((size_t)256 << 20)

/** What fits the second-level cache of most, the last level of most, and no cache. */
static const struct {
    const char *name;
    uint32_t bytes;
} sizes[] = {
    {"memcpy-64k", 64 << 10},
    {"memcpy-1m", 1 << 20},
    {"memcpy-256m", BYTES_MAX},
};

static struct {
    unsigned char *memory; /**< BYTES_MAX to copy from, then as many to copy to */
} on;

static int
set_up(void)
{
    if (on.memory != NULL)
        return 0;
    void *memory = mmap(NULL, 2 * BYTES_MAX, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    /* The processes of the streams have no use for it, and would pay for its page tables. */
    madvise(memory, 2 * BYTES_MAX, MADV_DONTFORK);
    on.memory = memory;
    memset(on.memory, 1, 2 * BYTES_MAX);
    return 0;
}

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const size_t bytes = subject->parameter;
    const uint64_t slice_ns = (uint64_t)(bench->options.seconds * 1e9);
    const int error = set_up();
    if (error != 0)
        return error;
    /* Some copies at once, so that the clock does not count. */
    const unsigned at_once = bytes < ((size_t)1 << 20) ? 16 : 1;
    unsigned char *to = on.memory + BYTES_MAX;
    uint64_t copies = 0, wall_ns;
    memcpy(to, on.memory, bytes);
    const uint64_t cpu_begin = machine_cpu_ns(), begin = machine_now_ns();
    do {
        for (unsigned i = 0; i < at_once; i++) {
            memcpy(to, on.memory, bytes);
            __asm__ volatile("" : : "r"(to) : "memory");
        }
        copies += at_once;
        wall_ns = machine_now_ns() - begin;
    } while (wall_ns < slice_ns && !machine_interrupted);
    const double gb = (double)copies * (double)bytes * 1e-9;
    const double cpu_ns = (double)(machine_cpu_ns() - cpu_begin);
    metrics[STREAM_CPU_MS] = cpu_ns * 1e-6 / gb;
    /* Of processor time: whoever else runs on this CPU does not make memory slower. */
    metrics[STREAM_RATE] = gb / (cpu_ns * 1e-9);
    metrics[STREAM_COPIES] = metrics[STREAM_COPIES_LEAST] = 1;
    return 0;
}

bool
stream_memcpy_subject(unsigned at, struct bench_subject *subject)
{
    if (at >= sizeof sizes / sizeof sizes[0])
        return false;
    *subject = (struct bench_subject){
        .name = sizes[at].name, .measure = measure, .parameter = sizes[at].bytes};
    return true;
}

void
stream_memcpy_end(void)
{
    if (on.memory != NULL)
        munmap(on.memory, 2 * BYTES_MAX);
    on.memory = NULL;
}
