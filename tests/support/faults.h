/*
 * Making system calls fail on purpose, and counting them. A call is named as in lib/os/sys.h:
 * "mmap", "mprotect", "accept4", "uring_submit" ... Works on everything linked with the test
 * build of the library (libberth-test, libberth-loop-test). For one thread at a time.
 *
 *     faults_fail("mmap", 2, 1, -ENOMEM);      the second mmap from now on fails, once
 *     ...
 *     ck_assert_uint_eq(faults_hit("mmap"), 1);
 *     faults_reset();
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_FAULTS_H
#define BERTH_TESTS_FAULTS_H

/** For `times`: never stop failing. */
#define FAULTS_FOR_EVER (~0u)

/**
 * Lets the `nth` call (1: the next one) and the `times - 1` after it return `error` without being
 * made. Replaces what was planned for that call before, and starts its counts anew.
 */
void faults_fail(const char *call, unsigned nth, unsigned times, int error);

/** Starts counting a call without making it fail. */
void faults_count(const char *call);

/** How often the call was tried since faults_fail or faults_count, failures included. */
unsigned faults_calls(const char *call);

/** How often it was made to fail. */
unsigned faults_hit(const char *call);

/** Every call is the system's own again. */
void faults_reset(void);

#endif
