/*
 * Compiler attributes and the two assertion levels, for every other header.
 * Nothing here is specific to connections, and nothing here is configured at build time.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_ATTR_H
#define BERTH_ATTR_H

#include <assert.h>

#ifdef __cplusplus
#define BERTH_BEGIN_DECLS extern "C" {
#define BERTH_END_DECLS }
#define BERTH_STATIC_ASSERT(condition, text) static_assert(condition, text)
#else
#define BERTH_BEGIN_DECLS
#define BERTH_END_DECLS
#define BERTH_STATIC_ASSERT(condition, text) _Static_assert(condition, text)
#endif

/** Exported from the shared library; everything without it is hidden. */
#define BERTH_API __attribute__((visibility("default")))

/**
 * A hot function defined in a header. Each has an exported twin with the suffix `_fn`
 * (lib/core/inline_twins.c), so that a language that cannot compile C can still call it.
 */
#define BERTH_INLINE static inline __attribute__((always_inline, unused))

/** A function in a header that is called too rarely to be worth a copy at each call. */
#define BERTH_OUTLINE static __attribute__((noinline, cold, unused))

#define BERTH_NODISCARD __attribute__((warn_unused_result))
#define BERTH_PURE __attribute__((pure))
#define BERTH_CONST __attribute__((const))
#define BERTH_COLD __attribute__((cold))
#define BERTH_ALIGNED(bytes) __attribute__((aligned(bytes)))
#define BERTH_PRINTF(text, first) __attribute__((__format__(__printf__, text, first)))

#define BERTH_LIKELY(condition) __builtin_expect(!!(condition), 1)
#define BERTH_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/** A mistake in the program that calls berth. Off with NDEBUG, like assert(3) itself. */
#define BERTH_ASSERT(condition) assert(condition)

#endif
