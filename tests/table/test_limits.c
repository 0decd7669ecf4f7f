/*
 * The table and the limits of its process: what making one holds, and that it works the same under
 * any limit on descriptors, under a tight limit on address space, and with all memory locked.
 * Limits are set in children, where they cannot be taken back.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "table/table_test.h"

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define CHILD_SKIPS 77

/* ---- a getrlimit(2) that lies ---------------------------------------------------------------- */

#if defined(__GLIBC__)
typedef __rlimit_resource_t resource_type; /* an enumeration there, int elsewhere */
#else
typedef int resource_type;
#endif

static int lying;
static unsigned lies;

/* A sanitizer asks for limits itself, before anything of the program may run. */
#if !TEST_SANITIZED
/**
 * In place of the C library's, for this program and every library in it. Limits of 2^30 are what
 * containers have; who makes an array of that size is dead.
 */
int
getrlimit(resource_type resource, struct rlimit *limit)
{
    if (!lying)
        return (int)syscall(SYS_prlimit64, 0, resource, NULL, limit);
    lies++;
    limit->rlim_cur = limit->rlim_max = (rlim_t)1 << 30;
    return 0;
}
#endif

/* ---- what making a table holds --------------------------------------------------------------- */

static size_t
resident_bytes(const struct berth_table *table)
{
    return test_memory_of(table->hot, table->reserved_bytes).resident;
}

START_TEST(new_tables_hold_next_to_nothing)
{
    static const struct {
        uint32_t slots_max, slot_bytes, cold_bytes;
    } sizes[] = {{1u << 20, 64, 0}, {1u << 20, 64, 64}, {1u << 24, 64, 0}, {1u << 24, 256, 136}};
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct berth_table table;
        struct berth_table_options options;
        berth_table_options_init(&options);
        options.slots_max = sizes[i].slots_max;
        options.slot_bytes = sizes[i].slot_bytes;
        options.cold_bytes = sizes[i].cold_bytes;
        options.deadlines = 1;
        must_init(&table, &options);
        ck_assert_uint_eq(berth_table_slots_max(&table), sizes[i].slots_max);
        ck_assert_uint_lt(resident_bytes(&table), 64 * KIB);
        for (uint32_t index = 0; index < 100; index++)
            (void)must_claim(&table, index);
        /* A few small pages, of which one is the least there can be: so the figure is a figure. */
        ck_assert_uint_ge(resident_bytes(&table), 100 * sizes[i].slot_bytes);
        ck_assert_uint_lt(resident_bytes(&table), 64 * KIB);
        for (uint32_t index = 0; index < 100; index++)
            must_release(&table, index);
        berth_table_fini(&table);
    }
}
END_TEST

START_TEST(looking_up_commits_nothing)
{
    struct berth_table table;
    must_init(&table, NULL);
    const size_t writable = test_memory_of(table.hot, table.reserved_bytes).writable;
    for (uint32_t index = 0; index < 1u << 20; index += 4096) {
        berth_table_prefetch(&table, berth_token_make(index, 1, 0));
        ck_assert_ptr_null(berth_table_find(&table, berth_token_make(index, 1, 0)));
        ck_assert_int_eq(berth_table_release(&table, berth_token_make(index, 1, 0)), -ESTALE);
    }
    ck_assert_uint_eq(test_memory_of(table.hot, table.reserved_bytes).writable, writable);
    (void)must_claim(&table, 600000);
    ck_assert_uint_gt(test_memory_of(table.hot, table.reserved_bytes).writable,
                      writable + BERTH_TABLE_CHUNK_BYTES - 1);
    must_fini(&table);
}
END_TEST

/* ---- huge pages ------------------------------------------------------------------------------ */

/** Whether whoever asks for a huge page gets one: the control, without any table. */
static int
system_gives_huge_pages(void)
{
    const size_t size = 2 * BERTH_TABLE_CHUNK_BYTES;
    unsigned char *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    (void)madvise(memory, size, MADV_HUGEPAGE);
    memset(memory, 1, size);
    const size_t huge = test_memory_of(memory, size).huge;
    (void)munmap(memory, size);
    return huge >= BERTH_TABLE_CHUNK_BYTES;
}

/** Claims one slot in each of the first four chunks: how many of these are huge pages then. */
static size_t
huge_chunks_of_four(enum berth_huge_pages wish, int shared)
{
    struct berth_table table;
    struct berth_table_options options;
    berth_table_options_init(&options);
    options.huge_pages = wish;
    options.shared = shared;
    must_init(&table, &options);
    for (uint32_t chunk = 0; chunk < 4; chunk++)
        (void)must_claim(&table, chunk * (BERTH_TABLE_CHUNK_BYTES / BERTH_CACHE_LINE) + 77);
    const size_t huge = test_memory_of(table.hot, table.reserved_bytes).huge;
    must_fini(&table);
    return huge / BERTH_TABLE_CHUNK_BYTES;
}

START_TEST(chunks_that_ask_for_huge_pages_get_them)
{
    if (!system_gives_huge_pages()) {
        (void)printf("not tried: this system gives no huge pages now\n");
        return;
    }
    for (int shared = 0; shared < 2; shared++) {
        ck_assert_uint_eq(huge_chunks_of_four(BERTH_HUGE_ALWAYS, shared), 4);
        ck_assert_uint_eq(huge_chunks_of_four(BERTH_HUGE_AUTO, shared), 3);
        ck_assert_uint_eq(huge_chunks_of_four(BERTH_HUGE_NEVER, shared), 0);
    }
}
END_TEST

/* ---- children -------------------------------------------------------------------------------- */

/** Runs `work` in a child; it returns 0, CHILD_SKIPS, or the line where it went wrong. */
static void
in_child(int (*work)(void))
{
    (void)fflush(stdout);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        /* A line number does not fit an exit status: it is printed. */
        const int line = work();
        if (line != 0 && line != CHILD_SKIPS)
            (void)dprintf(STDOUT_FILENO, "%s:%d: failed in the child\n", __FILE__, line);
        _exit(line == 0 || line == CHILD_SKIPS ? line : 1);
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == CHILD_SKIPS);
}

/* Check's assertions belong to the process that Check runs. */
#define CHILD_MUST(condition)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return __LINE__;                                                                       \
    } while (0)

/** Address space of this process, in bytes. */
static size_t
address_space(void)
{
    size_t pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm == NULL || fscanf(statm, "%zu", &pages) != 1)
        pages = 0;
    if (statm != NULL)
        (void)fclose(statm);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/** A table that can be used to its ends. */
static int
works(struct berth_table *table)
{
    const uint32_t ends[] = {0, berth_table_slots_max(table) - 1};
    for (unsigned i = 0; i < 2; i++) {
        struct berth_slot *slot = NULL;
        if (berth_table_claim(table, ends[i], &slot) != 0)
            return 0;
        memset(berth_slot_payload(slot), 1, BERTH_SLOT_PAYLOAD_BYTES);
        if (berth_table_find(table, berth_slot_token(slot, 0)) != slot)
            return 0;
    }
    return berth_table_verify(table, NULL) == 0;
}

static int
descriptors_do_not_size_it(void)
{
    static const rlim_t limits[] = {256, 20000};
    for (unsigned i = 0; i < 2; i++) {
        struct rlimit limit;
        struct berth_table table;
        CHILD_MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
        limit.rlim_cur = limits[i] < limit.rlim_max ? limits[i] : limit.rlim_max;
        CHILD_MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        CHILD_MUST(berth_table_init(&table, NULL) == 0);
        CHILD_MUST(berth_table_slots_max(&table) == BERTH_TABLE_SLOTS_DEFAULT);
        CHILD_MUST(works(&table));
        berth_table_fini(&table);
    }
    return 0;
}

START_TEST(limits_on_descriptors_do_not_matter)
{
    in_child(descriptors_do_not_size_it);
}
END_TEST

START_TEST(limits_on_descriptors_are_not_even_asked_for)
{
    struct berth_table table;
    struct rlimit limit;
    if (TEST_SANITIZED) {
        printf("not tried: getrlimit is the sanitizer's\n");
        return;
    }
    lying = 1;
    lies = 0;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert_uint_eq(limit.rlim_cur, 1u << 30);
    const unsigned before = lies;
    const int error = berth_table_init(&table, NULL);
    const unsigned after = lies;
    lying = 0;
    ck_assert_int_eq(error, 0);
    ck_assert_uint_eq(before, 1); /* the lie is told to whoever asks */
    ck_assert_uint_eq(after, before);
    ck_assert_uint_eq(berth_table_slots_max(&table), BERTH_TABLE_SLOTS_DEFAULT);
    ck_assert(works(&table));
    must_fini(&table);
}
END_TEST

static int
tight_address_space_halves_it(void)
{
    struct berth_table table;
    struct rlimit limit;
    CHILD_MUST(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = address_space() + 24 * MIB; /* the default needs 68 */
    CHILD_MUST(setrlimit(RLIMIT_AS, &limit) == 0);
    CHILD_MUST(berth_table_init(&table, NULL) == 0);
    CHILD_MUST(berth_table_slots_max(&table) == BERTH_TABLE_SLOTS_DEFAULT / 4);
    CHILD_MUST(works(&table));
    berth_table_fini(&table);

    limit.rlim_cur = address_space() + 64 * KIB; /* nothing fits */
    CHILD_MUST(setrlimit(RLIMIT_AS, &limit) == 0);
    CHILD_MUST(berth_table_init(&table, NULL) == -ENOMEM);
    berth_table_fini(&table);
    return 0;
}

START_TEST(little_address_space_makes_a_smaller_table)
{
    if (test_is_slow())
        printf("not tried: a checking tool needs the address space itself\n");
    else
        in_child(tight_address_space_halves_it);
}
END_TEST

static int
locked_memory_stays_small(void)
{
    struct berth_table table;
    if (mlockall(MCL_FUTURE) != 0) {
        (void)dprintf(STDOUT_FILENO, "not tried: mlockall: errno %d\n", errno);
        return CHILD_SKIPS;
    }
    CHILD_MUST(berth_table_init(&table, NULL) == 0);
    CHILD_MUST(berth_table_slots_max(&table) == BERTH_TABLE_SLOTS_DEFAULT);
    CHILD_MUST(resident_bytes(&table) < 64 * KIB);
    CHILD_MUST(works(&table));
    /* Two chunks with their ticks and bits, locked: not the 64 MiB that were reserved. */
    CHILD_MUST(resident_bytes(&table) < 2 * (2 * MIB + 128 * KIB) + 64 * KIB);
    berth_table_fini(&table);
    return 0;
}

START_TEST(locked_memory_is_not_all_filled)
{
    in_child(locked_memory_stays_small);
}
END_TEST

int
main(void)
{
    TCase *tests = tcase_create("limits");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, new_tables_hold_next_to_nothing);
    tcase_add_test(tests, looking_up_commits_nothing);
    tcase_add_test(tests, chunks_that_ask_for_huge_pages_get_them);
    tcase_add_test(tests, limits_on_descriptors_do_not_matter);
    tcase_add_test(tests, limits_on_descriptors_are_not_even_asked_for);
    tcase_add_test(tests, little_address_space_makes_a_smaller_table);
    tcase_add_test(tests, locked_memory_is_not_all_filled);
    Suite *suite = suite_create("table limits");
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
