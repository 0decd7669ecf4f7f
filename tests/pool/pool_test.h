/*
 * What the tests of the pool share: making one, and saying that a step is illegal.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_POOL_TEST_H
#define BERTH_TESTS_POOL_TEST_H

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "berth.h"
#include "support/support.h"

#define MIB ((size_t)1 << 20)
#define SLAB_BYTES (2 * MIB)

#ifdef BERTH_CHECKS
#define TEST_CHECKS 1
#else
#define TEST_CHECKS 0
#endif

static inline struct berth_pool *
test_pool_make(size_t bytes_max)
{
    struct berth_pool_options options;
    berth_pool_options_init(&options);
    options.bytes_max = bytes_max;
    struct berth_pool *pool = NULL;
    ck_assert_int_eq(berth_pool_create(&pool, &options), 0);
    ck_assert_ptr_nonnull(pool);
    return pool;
}

static inline void
test_pool_verify(const struct berth_pool *pool)
{
    const char *why = NULL;
    const int error = berth_pool_verify(pool, &why);
    ck_assert_msg(error == 0, "berth_pool_verify: %s", why);
    ck_assert_ptr_null(why);
}

static inline struct berth_pool_stats
test_pool_stats(const struct berth_pool *pool)
{
    struct berth_pool_stats stats;
    memset(&stats, 0xff, sizeof(stats));
    berth_pool_stats_get(pool, &stats);
    return stats;
}

/** Nothing is out: checks the pool and frees it. */
static inline void
test_pool_end(struct berth_pool *pool)
{
    (void)berth_pool_turn(pool);
    ck_assert_uint_eq(berth_pool_report(pool, NULL, NULL), 0);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, 0);
    test_pool_verify(pool);
    ck_assert_int_eq(berth_pool_destroy(pool), 0);
}

static inline struct berth_lease
test_pool_get(struct berth_pool *pool, enum berth_class size_class)
{
    struct berth_lease lease = {0};
    ck_assert_int_eq(berth_pool_get(pool, size_class, BERTH_FOR_NEW, &lease), 0);
    ck_assert_uint_ne(lease.generation, 0);
    return lease;
}

/** Takes buffers until refused. Returns how many there were. */
static inline uint32_t
test_take_all(struct berth_pool *pool, enum berth_class size_class, enum berth_purpose purpose,
              struct berth_lease *leases, uint32_t count_max)
{
    uint32_t n = 0;
    int error = 0;
    while (n < count_max && (error = berth_pool_get(pool, size_class, purpose, &leases[n])) == 0)
        n++;
    ck_assert_int_eq(error, -ENOBUFS);
    return n;
}

static inline void
test_release_all(struct berth_pool *pool, const struct berth_lease *leases, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ck_assert_int_eq(berth_release(pool, leases[i]), 0);
}

/** A posted buffer into which `length` bytes have come: byte i is (first + i). */
static inline struct berth_span
test_pool_receive(struct berth_pool *pool, enum berth_class size_class, uint32_t length,
                  unsigned char first)
{
    uint32_t buffer = UINT32_MAX;
    void *data = NULL;
    ck_assert_int_eq(berth_pool_post(pool, size_class, BERTH_FOR_NEW, &buffer, &data), 0);
    ck_assert_int_eq(berth_pool_expose(pool, buffer), 0);
    for (uint32_t i = 0; i < length; i++)
        ((unsigned char *)data)[i] = (unsigned char)(first + i);
    struct berth_span span = {0};
    ck_assert_int_eq(berth_pool_lend(pool, buffer, length, &span), 0);
    ck_assert_ptr_eq(span.data, data);
    return span;
}

/**
 * In a child: whether the byte is its parent's. Where it was there may be nothing, or what the C
 * library or a sanitizer has mapped there since.
 */
static inline int
test_is_inherited(char *data, char byte)
{
    unsigned char resident;
    const uintptr_t into_page = (uintptr_t)data & (uintptr_t)(sysconf(_SC_PAGESIZE) - 1);
    return mincore(data - into_page, 1, &resident) == 0 && *data == byte;
}

static inline void
test_child_be_quiet(void)
{
    const struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)fclose(stdout);
    (void)fclose(stderr);
    (void)close(STDERR_FILENO);
    (void)signal(SIGABRT, SIG_DFL);
}

/** Runs the statement in a child and says how the child ended: 0 if it lived to the end. */
#define TEST_STATUS_OF(status, statement)                                                          \
    do {                                                                                           \
        (void)fflush(NULL);                                                                        \
        const pid_t test_child = fork();                                                           \
        ck_assert_int_ge(test_child, 0);                                                           \
        if (test_child == 0) {                                                                     \
            test_child_be_quiet();                                                                 \
            statement;                                                                             \
            _exit(0);                                                                              \
        }                                                                                          \
        ck_assert_int_eq(waitpid(test_child, &(status), 0), test_child);                           \
    } while (0)

/**
 * The call is an illegal step: refused with -ESTALE and counted once; under --enable-checks it
 * aborts instead, which is tried in a child.
 */
#define TEST_ILLEGAL(pool, call)                                                                   \
    do {                                                                                           \
        if (TEST_CHECKS) {                                                                         \
            int test_status = 0;                                                                   \
            TEST_STATUS_OF(test_status, _exit((call) != 0));                                       \
            ck_assert_msg(WIFSIGNALED(test_status) && WTERMSIG(test_status) == SIGABRT,            \
                          "did not abort: " #call);                                                \
        } else {                                                                                   \
            const uint64_t test_before = test_pool_stats(pool).illegal;                            \
            ck_assert_int_eq((call), -ESTALE);                                                     \
            ck_assert_uint_eq(test_pool_stats(pool).illegal, test_before + 1);                     \
        }                                                                                          \
    } while (0)

/** Adds a case of its own for each test, so that each has the whole time limit. */
static inline void
test_add(Suite *suite, const char *name, const TTest *test)
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, test_descriptors_note, test_descriptors_compare);
    tcase_add_test(tcase, test);
    suite_add_tcase(suite, tcase);
}
#define TEST_ADD(suite, test) test_add(suite, #test, test)

#endif
