/*
 * What the test programs share: running a suite with its descriptors counted, seeds that can be
 * given and are always printed, and looking at this process from outside.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_SUPPORT_H
#define BERTH_TESTS_SUPPORT_H

#include <check.h>
#include <stddef.h>
#include <stdint.h>

/** Whether this is a build whose memory figures are not its own, or whose calls are much slower. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TEST_SANITIZED 1
#endif
#endif
#ifndef TEST_SANITIZED
#define TEST_SANITIZED 0
#endif

/**
 * Runs the suite; what main returns. With CK_FORK=no it also fails if descriptors were left open.
 */
int test_run(Suite *suite);

/** A checked fixture: no descriptor may be open after a test that was not before. */
void test_descriptors_note(void);
void test_descriptors_compare(void);

/** The seed of a random test: BERTH_SEED, or always the same. Printed with the name. */
uint64_t test_seed(const char *name);

/** How many rounds: the environment's value if it is set, else `usual`. */
uint64_t test_rounds(const char *variable, uint64_t usual);

/** The next number of a sequence; `state` begins as the seed. */
uint64_t test_random(uint64_t *state);

/** Under Valgrind (RUNNING_ON_VALGRIND, if it was built to know): everything is slow. */
int test_is_slow(void);

/** Descriptors open in this process. */
unsigned test_descriptors_open(void);

/** Mappings of this process, as lines of /proc/self/maps. */
unsigned test_mappings(void);

/** Bytes resident in [start, start + size), those of them in huge pages, and what may be written.
 */
struct test_memory {
    size_t resident;
    size_t writable;
    size_t huge;
};
struct test_memory test_memory_of(const void *start, size_t size);

#endif
