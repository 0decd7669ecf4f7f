/*
 * Which version of the library is running: the macros as they were when it was built.
 *
 * SPDX-License-Identifier: MIT
 */
#include "berth/version.h"

#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

BERTH_STATIC_ASSERT(sizeof(BERTH_VERSION_STRING) ==
                        sizeof(TEXT(BERTH_VERSION_MAJOR) "." TEXT(BERTH_VERSION_MINOR) "." TEXT(
                            BERTH_VERSION_PATCH)),
                    "the numbers and the text of the version agree at least in length");

unsigned
berth_version(void)
{
    return BERTH_VERSION;
}

const char *
berth_version_string(void)
{
    return BERTH_VERSION_STRING;
}
