/*
 * What the checking tools must be told, in one place: AddressSanitizer and Valgrind cannot see the
 * kernel write into a buffer, and nobody but us knows which bytes may be touched now. In an
 * ordinary build every line of this is nothing.
 *
 * BERTH_CHECKS (--enable-checks) and BERTH_VALGRIND (headers found) come from the build.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_OS_SANITIZE_H
#define BERTH_OS_SANITIZE_H

#include <stddef.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__)
#define BERTH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BERTH_ASAN 1
#endif
#endif

#ifdef BERTH_ASAN
#include <sanitizer/asan_interface.h>
#endif
#ifdef BERTH_VALGRIND
#include <valgrind/memcheck.h>
#endif

#if defined(BERTH_ASAN) || defined(BERTH_VALGRIND)
#define BERTH_POISONS 1
#endif

/** Costly invariants, and illegal steps that a release build counts and refuses: abort here. */
#ifdef BERTH_CHECKS
#define BERTH_CHECK(condition) ((condition) ? (void)0 : abort())
#else
#define BERTH_CHECK(condition) ((void)sizeof(condition))
#endif

/** Nobody in this process may touch these bytes now: they are free, or the kernel's. */
static inline void
berth_poison(const void *memory, size_t size)
{
#ifdef BERTH_ASAN
    __asan_poison_memory_region(memory, size);
#endif
#ifdef BERTH_VALGRIND
    VALGRIND_MAKE_MEM_NOACCESS(memory, size);
#endif
    (void)memory, (void)size;
}

/** These bytes may be written, and hold nothing of meaning yet. */
static inline void
berth_unpoison(const void *memory, size_t size)
{
#ifdef BERTH_ASAN
    __asan_unpoison_memory_region(memory, size);
#endif
#ifdef BERTH_VALGRIND
    VALGRIND_MAKE_MEM_UNDEFINED(memory, size);
#endif
    (void)memory, (void)size;
}

/** The kernel has written these bytes: they may be read. */
static inline void
berth_delivered(const void *memory, size_t size)
{
#ifdef BERTH_ASAN
    __asan_unpoison_memory_region(memory, size);
#endif
#ifdef BERTH_VALGRIND
    VALGRIND_MAKE_MEM_DEFINED(memory, size);
#endif
    (void)memory, (void)size;
}

#endif
