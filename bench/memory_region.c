/*
 * Mapping memory on pages of a chosen size. Advice is only advice: what came of it is read back
 * from smaps.
 *
 * SPDX-License-Identifier: MIT
 */
#include "memory_region.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/** A huge page of x86-64, and of the usual arm64. */
#define HUGE_BYTES ((size_t)2 << 20)

int
memory_region_map(struct memory_region *region, size_t bytes, bool huge)
{
    memset(region, 0, sizeof *region);
    const size_t wanted = (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    const size_t mapped = wanted + HUGE_BYTES;
    unsigned char *map =
        mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return -errno;
    const size_t before = (HUGE_BYTES - (uintptr_t)map % HUGE_BYTES) % HUGE_BYTES;
    if (before > 0)
        munmap(map, before);
    munmap(map + before + wanted, mapped - before - wanted);
    region->data = map + before;
    region->bytes = wanted;
    /* A kernel without huge pages refuses either: then these are small ones, as smaps will tell. */
    madvise(region->data, wanted, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return 0;
}

void
memory_region_unmap(struct memory_region *region)
{
    if (region->data != NULL)
        munmap(region->data, region->bytes);
    memset(region, 0, sizeof *region);
}

uint64_t
memory_region_huge_bytes(const struct memory_region *region)
{
    char line[512];
    uint64_t bytes = 0;
    bool inside = false;
    FILE *file = fopen("/proc/self/smaps", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        unsigned long long begin = 0, end = 0, kib = 0;
        if (sscanf(line, "%llx-%llx ", &begin, &end) == 2)
            inside =
                begin < (uintptr_t)region->data + region->bytes && end > (uintptr_t)region->data;
        else if (inside && sscanf(line, "AnonHugePages: %llu kB", &kib) == 1)
            bytes += (uint64_t)kib * 1024;
    }
    if (file != NULL)
        fclose(file);
    return bytes < region->bytes ? bytes : region->bytes;
}
