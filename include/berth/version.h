/*
 * The version of the headers (macros) and of the library that is running (functions).
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_VERSION_H
#define BERTH_VERSION_H

#include "berth/attr.h"

#define BERTH_VERSION_MAJOR 0
#define BERTH_VERSION_MINOR 1
#define BERTH_VERSION_PATCH 0

/** "0.1.0" as a string literal. */
#define BERTH_VERSION_STRING "0.1.0"

/** One number to compare: 0x000100 for 0.1.0. */
#define BERTH_VERSION                                                                              \
    ((BERTH_VERSION_MAJOR << 16) | (BERTH_VERSION_MINOR << 8) | BERTH_VERSION_PATCH)

BERTH_BEGIN_DECLS

/** The BERTH_VERSION that the library itself was built as. Any thread. Since 0.1. */
BERTH_API unsigned berth_version(void);

/** The same as static text, such as "0.1.0". Any thread. Since 0.1. */
BERTH_API const char *berth_version_string(void);

BERTH_END_DECLS

#endif
