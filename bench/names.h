/*
 * Lists of names as they are written on a command line: "slot,rbtree".
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_NAMES_H
#define BENCH_NAMES_H

#include <stdbool.h>
#include <string.h>

/** The length of the first name of a list; *rest is what follows its comma, NULL at the end. */
static inline size_t
names_first(const char *list, const char **rest)
{
    const size_t length = strcspn(list, ",");
    *rest = list[length] == ',' ? list + length + 1 : NULL;
    return length;
}

/** Whether `list` holds `name`; NULL holds all. */
static inline bool
names_have(const char *list, const char *name)
{
    const size_t length = strlen(name);
    if (list == NULL)
        return true;
    for (const char *at = list, *rest; at != NULL; at = rest) {
        if (names_first(at, &rest) == length && strncmp(at, name, length) == 0)
            return true;
    }
    return false;
}

#endif
