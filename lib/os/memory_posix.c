/*
 * Memory for POSIX systems: mmap(2) and friends, and nothing else. See memory.h.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_MEMORY
#include "os/memory.h"

#include <stdint.h>
#include <unistd.h>

#include "os/sanitize.h"
#include "os/sys.h"

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

size_t
berth_memory_page_bytes(void)
{
    static size_t cached; /* a benign race: every thread would store the same number */
    size_t bytes = __atomic_load_n(&cached, __ATOMIC_RELAXED);
    if (bytes == 0) {
        bytes = (size_t)sysconf(_SC_PAGESIZE);
        __atomic_store_n(&cached, bytes, __ATOMIC_RELAXED);
    }
    return bytes;
}

static size_t
round_to_pages(size_t size)
{
    const size_t page = berth_memory_page_bytes();
    return (size + page - 1) & ~(page - 1);
}

int
berth_memory_reserve(void **memory, size_t size, size_t alignment, const char *name)
{
    BERTH_ASSERT((alignment & (alignment - 1)) == 0);
    size = round_to_pages(size);
    const size_t page = berth_memory_page_bytes();
    const size_t slack = alignment > page ? alignment - page : 0;
    if (size == 0 || size > SIZE_MAX - slack)
        return -EINVAL;

    /*
     * PROT_NONE first: under mlockall(MCL_FUTURE) a readable mapping would be filled with pages at
     * once. mprotect(2) fills only what becomes writable.
     */
    const intptr_t mapped =
        sys_mmap(size + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    if (mapped < 0 && mapped > -4096)
        return (int)mapped;

    const uintptr_t start = (uintptr_t)mapped;
    const uintptr_t aligned = (start + alignment - 1) & ~((uintptr_t)alignment - 1);
    if (aligned > start)
        (void)sys_munmap((void *)start, aligned - start);
    if (start + slack > aligned)
        (void)sys_munmap((void *)(aligned + size), start + slack - aligned);

    const int error = (int)sys_mprotect((void *)aligned, size, PROT_READ);
    if (error != 0) {
        (void)sys_munmap((void *)aligned, size);
        return error;
    }
    (void)sys_name_memory((const void *)aligned, size, name);
#ifdef BERTH_ASAN
    /* In a child of fork(2) something may have stood here that was poisoned and not inherited. */
    berth_delivered((const void *)aligned, size);
#endif
    *memory = (void *)aligned;
    return 0;
}

int
berth_memory_commit(void *memory, size_t size)
{
    BERTH_ASSERT(((uintptr_t)memory & (berth_memory_page_bytes() - 1)) == 0);
    return (int)sys_mprotect(memory, round_to_pages(size), PROT_READ | PROT_WRITE);
}

int
berth_memory_take(void **memory, size_t size, const char *name)
{
    int error = berth_memory_reserve(memory, size, berth_memory_page_bytes(), name);
    if (error)
        return error;
    error = berth_memory_commit(*memory, size);
    if (error) {
        berth_memory_release(*memory, size);
        *memory = NULL;
    }
    return error;
}

void
berth_memory_advise(void *memory, size_t size, enum berth_memory_advice advice)
{
#ifdef __linux__
    static const int advices[] = {[BERTH_MEMORY_HUGE] = MADV_HUGEPAGE,
                                  [BERTH_MEMORY_SMALL] = MADV_NOHUGEPAGE,
                                  [BERTH_MEMORY_NO_FORK] = MADV_DONTFORK,
                                  [BERTH_MEMORY_DISCARD] = MADV_DONTNEED};
    (void)sys_madvise(memory, round_to_pages(size), advices[advice]);
#else
    if (advice == BERTH_MEMORY_DISCARD)
        (void)sys_madvise(memory, round_to_pages(size), MADV_DONTNEED);
#endif
}

void
berth_memory_release(void *memory, size_t size)
{
    if (memory != NULL)
        (void)sys_munmap(memory, round_to_pages(size));
}
