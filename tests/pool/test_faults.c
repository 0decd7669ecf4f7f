/*
 * Every call on which the pool depends fails once, at every place: the k-th mmap, mprotect, madvise
 * or slab. The pool must say so, stay consistent, work again afterwards, and leak no address space.
 * And the real limits: RLIMIT_AS, and RLIMIT_MEMLOCK under mlockall(2).
 *
 * Linked with the library that has the table of system calls. The wrappers are this file's own and
 * not those of support/faults.h, because they also add up every byte that is mapped and unmapped.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_MEMORY
#include "pool/pool_test.h"

#include "os/sys.h"

/* ---- counting and failing ------------------------------------------------------------------ */

enum fault { FAULT_MMAP, FAULT_MPROTECT, FAULT_MADVISE, FAULT_NAME, FAULT_COUNT };

static struct {
    enum fault kind;
    unsigned fail_at; /* the k-th call of that kind, from 1; 0: none */
    int for_ever;     /* and all after it */
    unsigned calls[FAULT_COUNT];
    unsigned failed;
    intptr_t mapped_bytes;
} sys;

static int
must_fail(enum fault kind)
{
    const unsigned call = ++sys.calls[kind];
    if (kind != sys.kind || sys.fail_at == 0 || call < sys.fail_at ||
        (call > sys.fail_at && !sys.for_ever))
        return 0;
    sys.failed++;
    return 1;
}

static intptr_t
counted_mmap(size_t size, int protection, int flags)
{
    if (must_fail(FAULT_MMAP))
        return -ENOMEM;
    const intptr_t result = sys_direct_mmap(size, protection, flags);
    if (result > 0 || result < -4095)
        sys.mapped_bytes += (intptr_t)size;
    return result;
}

static intptr_t
counted_munmap(void *address, size_t size)
{
    sys.mapped_bytes -= (intptr_t)size;
    return sys_direct_munmap(address, size);
}

static intptr_t
counted_mprotect(void *address, size_t size, int protection)
{
    return must_fail(FAULT_MPROTECT) ? -ENOMEM : sys_direct_mprotect(address, size, protection);
}

static intptr_t
counted_madvise(void *address, size_t size, int advice)
{
    return must_fail(FAULT_MADVISE) ? -EINVAL : sys_direct_madvise(address, size, advice);
}

static intptr_t
counted_name_memory(const void *address, size_t size, const char *name)
{
    return must_fail(FAULT_NAME) ? -EINVAL : sys_direct_name_memory(address, size, name);
}

static void
sys_begin(enum fault kind, unsigned fail_at, int for_ever)
{
    memset(&sys, 0, sizeof(sys));
    sys.kind = kind;
    sys.fail_at = fail_at;
    sys.for_ever = for_ever;
    berth_sys_mmap = counted_mmap;
    berth_sys_munmap = counted_munmap;
    berth_sys_mprotect = counted_mprotect;
    berth_sys_madvise = counted_madvise;
    berth_sys_name_memory = counted_name_memory;
}

static void
sys_end(void)
{
    ck_assert_int_eq(sys.mapped_bytes, 0);
    berth_sys_mmap = sys_direct_mmap;
    berth_sys_munmap = sys_direct_munmap;
    berth_sys_mprotect = sys_direct_mprotect;
    berth_sys_madvise = sys_direct_madvise;
    berth_sys_name_memory = sys_direct_name_memory;
}

/* ---- one of everything --------------------------------------------------------------------- */

static void
ignore_free(void *data, size_t length, void *context)
{
    (void)data, (void)length;
    ++*(unsigned *)context;
}

/** Takes one buffer of each class in each way, tolerating the one error that a shortage gives. */
static void
use_everything(struct berth_pool *pool)
{
    static char text[] = "text";
    struct berth_chain chain = {0};
    unsigned freed = 0, wrapped = 0;
    for (int i = 0; i < BERTH_CLASS_COUNT; i++) {
        struct berth_lease lease;
        uint32_t buffer;
        void *data;
        int error = berth_pool_get(pool, (enum berth_class)i, BERTH_FOR_NEW, &lease);
        ck_assert(error == 0 || error == -ENOBUFS);
        if (error == 0) {
            memset(berth_lease_data(pool, lease), 'x', lease.length);
            error = berth_chain_append(pool, &chain, lease);
            ck_assert(error == 0 || error == -ENOBUFS);
            if (error != 0)
                ck_assert_int_eq(berth_release(pool, lease), 0);
        }
        error = berth_pool_post(pool, (enum berth_class)i, BERTH_FOR_LAST, &buffer, &data);
        ck_assert(error == 0 || error == -ENOBUFS);
        if (error == 0)
            ck_assert_int_eq(berth_pool_unpost(pool, buffer), 0);
        error = berth_wrap(pool, text, 4, ignore_free, &freed, &lease);
        ck_assert(error == 0 || error == -ENOBUFS);
        wrapped += error == 0;
        if (error == 0)
            ck_assert_int_eq(berth_release(pool, lease), 0);
        test_pool_verify(pool);
    }
    if (chain.bytes > 600)
        (void)berth_chain_pullup(pool, &chain, 600);
    berth_chain_clear(pool, &chain);
    ck_assert_uint_eq(freed, wrapped);
}

/** The whole life of a pool. Returns what creating it answered. */
static int
live(const struct berth_pool_options *options)
{
    struct berth_pool *pool = NULL;
    const int error = berth_pool_create(&pool, options);
    if (error != 0) {
        ck_assert_ptr_null(pool);
        return error;
    }
    use_everything(pool);
    (void)berth_pool_trim(pool);
    use_everything(pool);
    test_pool_end(pool);
    return 0;
}

/** Fails the k-th call of a kind, for every k there is. Returns how many lives were seen. */
static unsigned
fail_each(enum fault kind, int for_ever)
{
    unsigned k = 0;
    do {
        sys_begin(kind, ++k, for_ever);
        const int error = live(NULL);
        ck_assert_msg(error == 0 || error == -ENOMEM, "call %u: %d", k, error);
        const unsigned failed = sys.failed;
        sys_end();
        if (failed == 0)
            break;
    } while (k < 1000);
    ck_assert_uint_lt(k, 1000);
    return k - 1;
}

START_TEST(each_mmap_fails)
{
    ck_assert_uint_ge(fail_each(FAULT_MMAP, 0), 1 + BERTH_CLASS_COUNT);
    ck_assert_uint_ge(fail_each(FAULT_MMAP, 1), 1 + BERTH_CLASS_COUNT);
}
END_TEST

START_TEST(each_mprotect_fails)
{
    /* The pool's own, and per slab its records, remote words, reservation and commit. */
    ck_assert_uint_ge(fail_each(FAULT_MPROTECT, 0), 2 + 4 * BERTH_CLASS_COUNT);
    ck_assert_uint_ge(fail_each(FAULT_MPROTECT, 1), 2 + 4 * BERTH_CLASS_COUNT);
}
END_TEST

START_TEST(advice_and_names_are_only_wishes)
{
    for (int i = 0; i < 2; i++) {
        sys_begin(i == 0 ? FAULT_MADVISE : FAULT_NAME, 1, 1);
        struct berth_pool *pool = test_pool_make(16 * MIB);
        for (int j = 0; j < BERTH_CLASS_COUNT; j++)
            ck_assert_int_eq(berth_release(pool, test_pool_get(pool, (enum berth_class)j)), 0);
        ck_assert_uint_ge(sys.failed, BERTH_CLASS_COUNT);
        test_pool_end(pool);
        sys_end();
    }
}
END_TEST

START_TEST(refusal_does_not_last)
{
    sys_begin(FAULT_MMAP, 2, 0); /* the first slab */
    struct berth_pool *pool = test_pool_make(16 * MIB);
    struct berth_lease lease;
    ck_assert_int_eq(berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_LAST, &lease), -ENOBUFS);
    ck_assert_uint_eq(berth_pool_available(pool, BERTH_CLASS_4K, BERTH_FOR_NEW), 0);
    for (int i = 0; i < 64; i++)
        (void)berth_pool_turn(pool);
    ck_assert_int_eq(berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &lease), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
    sys_end();
}
END_TEST

/* ---- an allocator that fails --------------------------------------------------------------- */

struct source {
    unsigned asked, fail_at, out;
};

static void *
source_allocate(void *context, size_t size, size_t alignment)
{
    struct source *source = context;
    if (++source->asked == source->fail_at)
        return NULL;
    source->out++;
    return berth_alloc_default()->allocate(NULL, size, alignment);
}

static void
source_release(void *context, void *memory, size_t size)
{
    ((struct source *)context)->out--;
    berth_alloc_default()->release(NULL, memory, size);
}

START_TEST(each_slab_fails)
{
    unsigned k = 0;
    struct source source;
    do {
        source = (struct source){.fail_at = ++k};
        const struct berth_alloc alloc = {.allocate = source_allocate,
                                          .release = source_release,
                                          .context = &source,
                                          .name = "failing"};
        struct berth_pool_options options;
        berth_pool_options_init(&options);
        options.alloc = &alloc;
        ck_assert_int_eq(live(&options), 0);
        ck_assert_uint_eq(source.out, 0);
    } while (source.asked >= k);
    ck_assert_uint_gt(k, BERTH_CLASS_COUNT);
}
END_TEST

/* ---- real limits --------------------------------------------------------------------------- */

static size_t
address_space_bytes(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%lu", &pages) != 1)
        _exit(10);
    (void)fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void
limit_address_space(size_t more)
{
    const size_t bytes = address_space_bytes() + more;
    const struct rlimit limit = {bytes, bytes};
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        _exit(11);
}

/** In a child: with little address space to spare, slabs run out cleanly and come back. */
static int
live_in(size_t more)
{
    static struct berth_lease leases[64];
    limit_address_space(more);
    struct berth_pool *pool = NULL;
    int error = berth_pool_create(&pool, NULL);
    if (error != 0)
        return error == -ENOMEM ? 1 : 12;
    const size_t before = address_space_bytes();
    for (int round = 0; round < 2; round++) {
        unsigned n = 0;
        while (n < 64 &&
               (error = berth_pool_get(pool, BERTH_CLASS_2M, BERTH_FOR_NEW, &leases[n])) == 0)
            n++;
        if (error != -ENOBUFS || n == 0)
            return 13;
        for (unsigned i = 0; i < n; i++)
            if (berth_release(pool, leases[i]) != 0)
                return 14;
        if (berth_pool_trim(pool) < n * SLAB_BYTES || address_space_bytes() >= before + MIB)
            return 15;
    }
    return berth_pool_verify(pool, NULL) != 0 || berth_pool_destroy(pool) != 0 ? 16 : 2;
}

START_TEST(address_space_runs_out)
{
    int status = 0;
    TEST_STATUS_OF(status, _exit(live_in(4 * MIB)));
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %#x", (unsigned)status);
    TEST_STATUS_OF(status, _exit(live_in(100 * MIB)));
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 2, "status %#x", (unsigned)status);
}
END_TEST

/**
 * In a child without privileges: everything mapped from here on is locked, at most 7 MiB of it. The
 * pool is made before that or after it. Returns 1: refused; 2: ran out of slabs in good order.
 */
static int
live_locked(int make_pool_first)
{
    const struct rlimit limit = {7 * MIB, 7 * MIB};
    struct berth_pool *pool = NULL;
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0)
        return 10;
    if (geteuid() == 0 && setuid(65534) != 0)
        return 11;
    if (make_pool_first && berth_pool_create(&pool, NULL) != 0)
        return 12;
    if (mlockall(MCL_FUTURE) != 0)
        return 13;
    if (!make_pool_first) {
        const int error = berth_pool_create(&pool, NULL);
        return error == -ENOMEM ? 1 : 14;
    }
    struct berth_lease lease;
    unsigned n = 0;
    while (n < 128 && berth_pool_get(pool, BERTH_CLASS_2M, BERTH_FOR_NEW, &lease) == 0)
        n++;
    return n > 0 && n < 128 && berth_pool_verify(pool, NULL) == 0 ? 2 : 15;
}

START_TEST(locked_memory_runs_out)
{
    int status = 0;
    TEST_STATUS_OF(status, _exit(live_locked(0)));
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %#x", (unsigned)status);
    TEST_STATUS_OF(status, _exit(live_locked(1)));
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 2, "status %#x", (unsigned)status);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pool faults");
    TEST_ADD(suite, each_mmap_fails);
    TEST_ADD(suite, each_mprotect_fails);
    TEST_ADD(suite, advice_and_names_are_only_wishes);
    TEST_ADD(suite, refusal_does_not_last);
    TEST_ADD(suite, each_slab_fails);
    if (TEST_SANITIZED) {
        printf("not run under a sanitizer, which needs the address space: the real limits\n");
    } else {
        TEST_ADD(suite, address_space_runs_out);
        TEST_ADD(suite, locked_memory_runs_out);
    }
    return test_run(suite);
}
