/*
 * Slabs from jemalloc: in use by a pool, aligned and zero; pinned while jemalloc wants to purge;
 * given back afterwards.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/pool_test.h"

#include <jemalloc/jemalloc.h>

#include "berth/jemalloc.h"

#define PAGE 4096u

static struct berth_alloc_jemalloc_info
info_of(const struct berth_alloc *source)
{
    struct berth_alloc_jemalloc_info info;
    ck_assert_int_eq(berth_alloc_jemalloc_info_get(source, &info), 0);
    return info;
}

static struct berth_alloc *
source_make(void)
{
    struct berth_alloc *source = NULL;
    ck_assert_int_eq(berth_alloc_jemalloc_create(&source), 0);
    ck_assert_ptr_nonnull(source);
    ck_assert_str_eq(source->name, "jemalloc");
    return source;
}

/** Pages of a slab that are in memory. */
static unsigned
resident_pages(void *memory)
{
    static unsigned char pages[SLAB_BYTES / PAGE];
    ck_assert_int_eq(mincore(memory, SLAB_BYTES, pages), 0);
    unsigned found = 0;
    for (size_t i = 0; i < SLAB_BYTES / PAGE; i++)
        found += pages[i] & 1;
    return found;
}

/** Tells jemalloc to give back whatever the arena does not use. */
static void
arena_purge(unsigned arena)
{
    size_t mib[3];
    size_t length = 3;
    ck_assert_int_eq(mallctlnametomib("arena.0.purge", mib, &length), 0);
    mib[1] = arena;
    ck_assert_int_eq(mallctlbymib(mib, length, NULL, NULL, NULL, 0), 0);
}

static void
check_all_bytes(const unsigned char *data, unsigned char byte)
{
    for (size_t i = 0; i < SLAB_BYTES; i++)
        if (data[i] != byte)
            ck_abort_msg("byte %zu is %u, not %u", i, data[i], byte);
}

START_TEST(bad_arguments)
{
    struct berth_alloc_jemalloc_info info;
    ck_assert_int_eq(berth_alloc_jemalloc_create(NULL), -EINVAL);
    ck_assert_int_eq(berth_alloc_jemalloc_destroy(NULL), 0);
    ck_assert_int_eq(berth_alloc_jemalloc_info_get(NULL, &info), -EINVAL);
    ck_assert_int_eq(berth_alloc_jemalloc_info_get(berth_alloc_default(), &info), -EINVAL);
    struct berth_alloc other = *berth_alloc_default();
    ck_assert_int_eq(berth_alloc_jemalloc_destroy(&other), -EINVAL);
    struct berth_alloc *source = source_make();
    ck_assert_int_eq(berth_alloc_jemalloc_info_get(source, NULL), -EINVAL);
    ck_assert_int_eq(berth_alloc_jemalloc_destroy(source), 0);
}
END_TEST

START_TEST(pool_works_on_it)
{
    enum { COUNT = 3000 };
    static struct berth_lease leases[COUNT];
    struct berth_alloc *source = source_make();
    struct berth_pool_options options;
    berth_pool_options_init(&options);
    options.alloc = source;
    struct berth_pool *pool;
    ck_assert_int_eq(berth_pool_create(&pool, &options), 0);
    for (int i = 0; i < COUNT; i++) {
        leases[i] = test_pool_get(pool, (enum berth_class)(i % 3));
        unsigned char *data = berth_lease_data(pool, leases[i]);
        data[0] = data[leases[i].length - 1] = (unsigned char)i;
    }
    ck_assert_uint_eq(info_of(source).slabs, test_pool_stats(pool).slabs);
    ck_assert_int_eq(berth_alloc_jemalloc_destroy(source), -EBUSY);
    arena_purge(info_of(source).arena);
    for (int i = 0; i < COUNT; i++) {
        const unsigned char *data = berth_lease_data(pool, leases[i]);
        ck_assert_uint_eq(data[0], (unsigned char)i);
        ck_assert_uint_eq(data[leases[i].length - 1], (unsigned char)i);
        ck_assert_int_eq(berth_release(pool, leases[i]), 0);
    }
    test_pool_end(pool);
    ck_assert_uint_eq(info_of(source).slabs, 0);
    ck_assert_uint_eq(info_of(source).blocks, 0);
    ck_assert_int_eq(berth_alloc_jemalloc_destroy(source), 0);
}
END_TEST

START_TEST(slabs_are_aligned_zero_and_apart)
{
    enum { COUNT = 40 };
    unsigned char *slabs[COUNT];
    struct berth_alloc *source = source_make();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++) {
            slabs[i] = source->allocate(source->context, SLAB_BYTES, SLAB_BYTES);
            ck_assert_ptr_nonnull(slabs[i]);
            ck_assert_uint_eq((uintptr_t)slabs[i] % SLAB_BYTES, 0);
            check_all_bytes(slabs[i], 0);
            memset(slabs[i], i + 1, SLAB_BYTES);
        }
        ck_assert_uint_eq(info_of(source).slabs, COUNT);
        ck_assert_uint_eq(info_of(source).blocks, 3); /* of 16 each */
        for (int i = 0; i < COUNT; i++) {
            check_all_bytes(slabs[i], (unsigned char)(i + 1));
            source->release(source->context, slabs[i], SLAB_BYTES);
        }
        ck_assert_uint_eq(info_of(source).blocks, 0);
    }
    ck_assert_int_eq(berth_alloc_jemalloc_destroy(source), 0);
}
END_TEST

START_TEST(other_sizes_get_an_allocation_each)
{
    struct berth_alloc *source = source_make();
    const size_t sizes[] = {PAGE, 64 * 1024, MIB, 4 * MIB};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        unsigned char *memory = source->allocate(source->context, sizes[i], sizes[i]);
        ck_assert_ptr_nonnull(memory);
        ck_assert_uint_eq((uintptr_t)memory % sizes[i], 0);
        ck_assert_uint_eq(memory[0] | memory[sizes[i] - 1], 0);
        memset(memory, 1, sizes[i]);
        ck_assert_uint_eq(info_of(source).blocks, 0);
        source->release(source->context, memory, sizes[i]);
    }
    ck_assert_uint_eq(info_of(source).slabs, 0);
    ck_assert_int_eq(berth_alloc_jemalloc_destroy(source), 0);
}
END_TEST

/**
 * The arena has pages to purge (a freed allocation of our own, full of data) beside a pinned slab.
 * The purge must leave both; once unpinned, the same purge takes the freed pages.
 */
START_TEST(nothing_is_purged_while_pinned)
{
    struct berth_alloc *source = source_make();
    const unsigned arena = info_of(source).arena;
    const int flags = MALLOCX_ARENA(arena) | MALLOCX_TCACHE_NONE | MALLOCX_ALIGN(PAGE);
    unsigned char *slab = source->allocate(source->context, SLAB_BYTES, SLAB_BYTES);
    ck_assert_ptr_nonnull(slab);
    memset(slab, 'p', SLAB_BYTES);
    ck_assert_int_eq(source->pin(source->context, slab, SLAB_BYTES, 1), 0);
    ck_assert_uint_eq(info_of(source).pinned, 1);

    unsigned char *loose = mallocx(SLAB_BYTES, flags);
    ck_assert_ptr_nonnull(loose);
    memset(loose, 'l', SLAB_BYTES);
    sdallocx(loose, SLAB_BYTES, flags);
    const uint64_t refused = info_of(source).refused;
    arena_purge(arena);
    ck_assert_uint_gt(info_of(source).refused, refused);
    ck_assert_uint_eq(resident_pages(loose), SLAB_BYTES / PAGE);
    check_all_bytes(slab, 'p');

    ck_assert_int_eq(source->pin(source->context, slab, SLAB_BYTES, 0), 0);
    loose = mallocx(SLAB_BYTES, flags);
    ck_assert_ptr_nonnull(loose);
    memset(loose, 'l', SLAB_BYTES);
    sdallocx(loose, SLAB_BYTES, flags);
    const uint64_t refused_after = info_of(source).refused;
    arena_purge(arena);
    ck_assert_uint_eq(info_of(source).refused, refused_after);
    ck_assert_uint_eq(resident_pages(loose), 0);
    check_all_bytes(slab, 'p');
    source->release(source->context, slab, SLAB_BYTES);
    ck_assert_int_eq(berth_alloc_jemalloc_destroy(source), 0);
}
END_TEST

START_TEST(pinning_through_the_pool)
{
    struct berth_alloc *source = source_make();
    struct berth_pool_options options;
    berth_pool_options_init(&options);
    options.alloc = source;
    struct berth_pool *pool;
    ck_assert_int_eq(berth_pool_create(&pool, &options), 0);
    const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_64K);
    memset(berth_lease_data(pool, lease), 'd', lease.length);
    ck_assert_int_eq(berth_pool_pin(pool, 0, 1), 0);
    ck_assert_uint_eq(info_of(source).pinned, 1);
    arena_purge(info_of(source).arena);
    const unsigned char *data = berth_lease_data(pool, lease);
    for (uint32_t i = 0; i < lease.length; i++)
        ck_assert_uint_eq(data[i], 'd');
    ck_assert_int_eq(berth_release(pool, lease), 0);
    ck_assert_uint_eq(berth_pool_trim(pool), 0);
    ck_assert_int_eq(berth_pool_pin(pool, 0, 0), 0);
    ck_assert_uint_eq(info_of(source).pinned, 0);
    ck_assert_uint_eq(berth_pool_trim(pool), SLAB_BYTES);
    test_pool_end(pool);
    ck_assert_int_eq(berth_alloc_jemalloc_destroy(source), 0);
}
END_TEST

START_TEST(released_slab_holds_no_memory)
{
    struct berth_alloc *source = source_make();
    unsigned char *kept = source->allocate(source->context, SLAB_BYTES, SLAB_BYTES);
    unsigned char *given = source->allocate(source->context, SLAB_BYTES, SLAB_BYTES);
    memset(kept, 'k', SLAB_BYTES);
    memset(given, 'g', SLAB_BYTES);
    ck_assert_uint_eq(resident_pages(given), SLAB_BYTES / PAGE);
    source->release(source->context, given, SLAB_BYTES);
    ck_assert_uint_eq(resident_pages(given), 0); /* its block lives on: `kept` is in it */
    check_all_bytes(kept, 'k');
    source->release(source->context, kept, SLAB_BYTES);
    ck_assert_int_eq(berth_alloc_jemalloc_destroy(source), 0);
}
END_TEST

static size_t
address_space_bytes(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fscanf(file, "%lu", &pages), 1);
    ck_assert_int_eq(fclose(file), 0);
    return pages * PAGE;
}

/** In a child: takes slabs until there are no more, twice. Returns how many there were. */
static int
count_slabs(size_t address_space_more)
{
    static void *slabs[256];
    struct berth_alloc *source = source_make();
    const size_t bytes = address_space_bytes() + address_space_more;
    const struct rlimit limit = {bytes, bytes};
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        return 200;
    int counts[2];
    for (int round = 0; round < 2; round++) {
        int n = 0;
        while (n < 256 &&
               (slabs[n] = source->allocate(source->context, SLAB_BYTES, SLAB_BYTES)) != NULL)
            ((char *)slabs[n++])[0] = 1;
        counts[round] = n;
        while (n > 0)
            source->release(source->context, slabs[--n], SLAB_BYTES);
    }
    const struct berth_alloc_jemalloc_info info = info_of(source);
    if (info.slabs != 0 || info.blocks != 0 || counts[1] < counts[0])
        return 201;
    return counts[0];
}

START_TEST(smaller_blocks_when_room_is_short)
{
    int status = 0;
    TEST_STATUS_OF(status, _exit(count_slabs(30 * MIB))); /* less than one block */
    ck_assert(WIFEXITED(status));
    ck_assert_int_ge(WEXITSTATUS(status), 4);
    ck_assert_int_le(WEXITSTATUS(status), 14);
    TEST_STATUS_OF(status, _exit(count_slabs(1 * MIB)));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

/** In a child: locked memory cannot be dropped with MADV_DONTNEED, and yet reads as zero. */
static int
use_locked(void)
{
    struct berth_alloc *source = source_make();
    if (mlockall(MCL_FUTURE) != 0)
        return 77;
    for (int round = 0; round < 3; round++) {
        unsigned char *slab = source->allocate(source->context, SLAB_BYTES, SLAB_BYTES);
        if (slab == NULL)
            return 77;
        for (size_t i = 0; i < SLAB_BYTES; i++)
            if (slab[i] != 0)
                return 8;
        memset(slab, 1, SLAB_BYTES);
        source->release(source->context, slab, SLAB_BYTES);
    }
    return berth_alloc_jemalloc_destroy(source) == 0 ? 7 : 9;
}

START_TEST(locked_slabs_are_zero_too)
{
    int status = 0;
    TEST_STATUS_OF(status, _exit(use_locked()));
    ck_assert(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        printf("not run: so much memory may not be locked here\n");
    else
        ck_assert_int_eq(WEXITSTATUS(status), 7);
}
END_TEST

START_TEST(sources_come_and_go)
{
    size_t before = 0;
    for (int i = 0; i < 60; i++) {
        struct berth_alloc *source = source_make();
        void *slab = source->allocate(source->context, SLAB_BYTES, SLAB_BYTES);
        ck_assert_ptr_nonnull(slab);
        memset(slab, i, SLAB_BYTES);
        ck_assert_int_eq(berth_alloc_jemalloc_destroy(source), -EBUSY);
        source->release(source->context, slab, SLAB_BYTES);
        ck_assert_int_eq(berth_alloc_jemalloc_destroy(source), 0);
        if (i == 9)
            before = address_space_bytes();
    }
    ck_assert_uint_le(address_space_bytes(), before + 16 * MIB); /* each needs over 32 MiB */
}
END_TEST

#ifndef __SANITIZE_THREAD__
/** A child keeps the arena's books, but not the slabs that the kernel writes into. */
START_TEST(child_does_not_share_the_slabs)
{
    struct berth_alloc *source = source_make();
    char *slab = source->allocate(source->context, SLAB_BYTES, SLAB_BYTES);
    slab[0] = 'p';
    int status = 0;
    TEST_STATUS_OF(status, _exit(test_is_inherited(slab, 'p') ? 8 : 7));
    ck_assert_int_eq(WEXITSTATUS(status), 7);
    source->release(source->context, slab, SLAB_BYTES);
    slab = source->allocate(source->context, SLAB_BYTES, SLAB_BYTES);
    TEST_STATUS_OF(status, _exit(info_of(source).slabs == 1 ? 7 : 8));
    ck_assert_int_eq(WEXITSTATUS(status), 7);
    source->release(source->context, slab, SLAB_BYTES);
    ck_assert_int_eq(berth_alloc_jemalloc_destroy(source), 0);
}
END_TEST
#endif

int
main(void)
{
    Suite *suite = suite_create("pool on jemalloc");
    if (sysconf(_SC_PAGESIZE) != PAGE) {
        printf("skipped: counts pages of 4 KiB, and these are not\n");
        return 77;
    }
    TEST_ADD(suite, bad_arguments);
    TEST_ADD(suite, pool_works_on_it);
    TEST_ADD(suite, slabs_are_aligned_zero_and_apart);
    TEST_ADD(suite, other_sizes_get_an_allocation_each);
    TEST_ADD(suite, nothing_is_purged_while_pinned);
    TEST_ADD(suite, pinning_through_the_pool);
    TEST_ADD(suite, released_slab_holds_no_memory);
    TEST_ADD(suite, sources_come_and_go);
    if (TEST_SANITIZED) {
        printf("not run under a sanitizer, which needs the address space: the real limits\n");
    } else {
        TEST_ADD(suite, smaller_blocks_when_room_is_short);
        TEST_ADD(suite, locked_slabs_are_zero_too);
    }
#ifdef __SANITIZE_THREAD__
    printf("not run under TSan, which cannot follow jemalloc's fork handlers: the child\n");
#else
    TEST_ADD(suite, child_does_not_share_the_slabs);
#endif
    return test_run(suite);
}
