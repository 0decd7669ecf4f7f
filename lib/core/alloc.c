/*
 * The default source of slabs: anonymous mappings through os/memory.h. It keeps nothing, so it
 * needs no state and no lock.
 *
 * SPDX-License-Identifier: MIT
 */
#include "berth/alloc.h"

#include "os/memory.h"

static void *
slab_allocate(void *context, size_t size, size_t alignment)
{
    (void)context;
    void *memory = NULL;
    if (berth_memory_reserve(&memory, size, alignment, "berth-slab") != 0)
        return NULL;
    /*
     * Before the first write, so that no fork in between can share a page: a child that wrote to
     * one would leave the parent with a copy, while the kernel goes on writing into the original.
     */
    berth_memory_advise(memory, size, BERTH_MEMORY_NO_FORK);
    if (berth_memory_commit(memory, size) != 0) {
        berth_memory_release(memory, size);
        return NULL;
    }
    return memory;
}

static void
slab_release(void *context, void *memory, size_t size)
{
    (void)context;
    berth_memory_release(memory, size);
}

const struct berth_alloc *
berth_alloc_default(void)
{
    /* Pinning needs nothing: nobody but the pool itself ever purges or unmaps these pages. */
    static const struct berth_alloc source = {.allocate = slab_allocate,
                                              .release = slab_release,
                                              .pin = NULL,
                                              .context = NULL,
                                              .name = "mmap"};
    return &source;
}
