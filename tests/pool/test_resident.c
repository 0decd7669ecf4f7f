/*
 * What a pool costs in resident memory: nothing per buffer that was never written to, whatever its
 * capacity; a page per page that was; and a trim gives it back. Asked of the kernel, by mincore(2).
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/pool_test.h"

#define PAGE 4096u

/** Bytes of the pages of a range that are in memory. */
static size_t
resident_bytes(void *memory, size_t size)
{
    static unsigned char pages[SLAB_BYTES / PAGE];
    ck_assert_uint_le(size, SLAB_BYTES);
    ck_assert_int_eq(mincore(memory, size, pages), 0);
    size_t found = 0;
    for (size_t i = 0; i < size / PAGE; i++)
        found += pages[i] & 1;
    return found * PAGE;
}

/** Of all slabs. */
static size_t
slabs_resident_bytes(const struct berth_pool *pool)
{
    struct berth_slab slab;
    size_t found = 0;
    for (unsigned i = 0; berth_pool_slab(pool, i, &slab) == 0; i++)
        if (slab.data != NULL)
            found += resident_bytes(slab.data, slab.bytes);
    return found;
}

/** Of the reservation that holds everything but the slabs. */
static size_t
records_resident_bytes(const struct berth_pool *pool)
{
    char line[512];
    unsigned long resident_kib = 0, kib, from, to;
    int inside = 0;
    FILE *file = fopen("/proc/self/smaps", "r");
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = strstr(line, "berth-pool") != NULL ||
                     ((uintptr_t)pool >= from && (uintptr_t)pool < to);
        else if (inside && sscanf(line, "Rss: %lu", &kib) == 1)
            resident_kib += kib;
    }
    ck_assert_int_eq(fclose(file), 0);
    return resident_kib * 1024;
}

START_TEST(new_pool_holds_next_to_nothing)
{
    struct berth_pool *pool = test_pool_make((size_t)8192 * MIB);
    ck_assert_uint_ge(records_resident_bytes(pool), PAGE); /* it was found */
    ck_assert_uint_le(records_resident_bytes(pool), 160 * 1024);
    ck_assert_uint_eq(test_pool_stats(pool).slabs, 0);
    ck_assert_int_eq(berth_pool_destroy(pool), 0);

    pool = test_pool_make(256 * MIB);
    ck_assert_uint_le(records_resident_bytes(pool), 16 * 1024);
    ck_assert_int_eq(berth_pool_destroy(pool), 0);
}
END_TEST

START_TEST(posted_buffers_hold_nothing_until_written)
{
    enum { POSTED = 4000, WRITTEN = 100 };
    static uint32_t buffers[POSTED];
    static void *data[POSTED];
    struct berth_pool *pool = test_pool_make(256 * MIB);
    for (int i = 0; i < POSTED; i++)
        ck_assert_int_eq(
            berth_pool_post(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &buffers[i], &data[i]), 0);
    ck_assert_uint_eq(slabs_resident_bytes(pool), 0);
    /* Records of 16 bytes, and nothing beside them: no page of theirs per buffer. */
    ck_assert_uint_le(records_resident_bytes(pool), POSTED * (16 + 40 * TEST_CHECKS) + 96 * 1024);

    for (int i = 0; i < WRITTEN; i++) {
        ck_assert_int_eq(berth_pool_expose(pool, buffers[i]), 0);
        memset(data[i], 1, PAGE);
    }
    ck_assert_uint_eq(slabs_resident_bytes(pool), WRITTEN * PAGE);
    for (int i = POSTED - 1; i >= 0; i--)
        ck_assert_int_eq(berth_pool_unpost(pool, buffers[i]), 0);
    ck_assert_uint_eq(slabs_resident_bytes(pool), WRITTEN * PAGE);
    (void)berth_pool_trim(pool);
    ck_assert_uint_eq(slabs_resident_bytes(pool), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(last_in_first_out_keeps_the_working_set_small)
{
    struct berth_pool *pool = test_pool_make(256 * MIB);
    for (int i = 0; i < 10000; i++) {
        const struct berth_span span = test_pool_receive(pool, BERTH_CLASS_4K, PAGE, 1);
        ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 1);
        ck_assert_int_eq(berth_pool_unpost(pool, span.buffer), 0);
    }
    ck_assert_uint_eq(slabs_resident_bytes(pool), PAGE);
    test_pool_end(pool);
}
END_TEST

START_TEST(few_buffers_are_not_charged_a_huge_page_each)
{
    struct berth_pool *pool = test_pool_make(256 * MIB);
    struct berth_lease leases[BERTH_CLASS_COUNT];
    for (int i = 0; i < BERTH_CLASS_COUNT; i++) {
        leases[i] = test_pool_get(pool, (enum berth_class)i);
        ((char *)berth_lease_data(pool, leases[i]))[0] = 1;
    }
    ck_assert_uint_eq(slabs_resident_bytes(pool), BERTH_CLASS_COUNT * PAGE);
    for (int i = 0; i < BERTH_CLASS_COUNT; i++)
        ck_assert_int_eq(berth_release(pool, leases[i]), 0);
    test_pool_end(pool);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pool resident");
    if (sysconf(_SC_PAGESIZE) != PAGE) {
        printf("skipped: counts pages of 4 KiB, and these are not\n");
        return 77;
    }
    TEST_ADD(suite, new_pool_holds_next_to_nothing);
    TEST_ADD(suite, posted_buffers_hold_nothing_until_written);
    TEST_ADD(suite, last_in_first_out_keeps_the_working_set_small);
    TEST_ADD(suite, few_buffers_are_not_charged_a_huge_page_each);
    return test_run(suite);
}
