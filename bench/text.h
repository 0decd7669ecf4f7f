/*
 * Text from outside -- what a user, a system file or a compiler calls a thing -- made fit to be
 * written anywhere: whole UTF-8 characters, no controls among them. Every writer of a report may
 * rely on it, so that none needs to know what a terminal, JSON, XML or gnuplot cannot bear.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_TEXT_H
#define BENCH_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/** Bytes of the character at `at` if it may be written; 0 if it may not, or is no UTF-8. */
static inline size_t
text_character(const char *at)
{
    /* The least that takes so many bytes: what could be said in fewer is not UTF-8. */
    static const uint32_t least[] = {0, 0xa0, 0x800, 0x10000};
    const unsigned char first = (unsigned char)*at;
    if (first < 0x80)
        return first >= 0x20 && first != 0x7f;
    const size_t more = first >= 0xf8 ? 0 : first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : first >= 0xc0;
    uint32_t code = first & (0x3fu >> more);
    for (size_t i = 1; i <= more; i++) {
        const unsigned char next = (unsigned char)at[i];
        if ((next & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (next & 0x3fu);
    }
    /* Nor halves of UTF-16 pairs, nor U+FFFE and U+FFFF and their like, which XML forbids. */
    if (more == 0 || code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ||
        (code & 0xfffe) == 0xfffe)
        return 0;
    return more + 1;
}

/** Copies as many whole characters as fit `size` bytes with the end: at least 1. */
static inline void
text_copy(char *to, size_t size, const char *from)
{
    size_t used = 0;
    while (*from != '\0') {
        const size_t bytes = text_character(from);
        if (used + (bytes > 0 ? bytes : 1) >= size)
            break;
        if (bytes > 0)
            memcpy(to + used, from, bytes);
        else
            to[used] = *from == '\n' || *from == '\t' ? ' ' : '?';
        used += bytes > 0 ? bytes : 1;
        from += bytes > 0 ? bytes : 1;
    }
    to[used] = '\0';
}

#endif
