/*
 * See zcrx_option.h.
 *
 * The invariant: what has been read has an interface, a queue and an area within their limits, or
 * nothing of it is kept.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/zcrx_option.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define QUEUE_MAX 65535

/** Reads ":NUMBER", from `least` to `most`: where it ends, or NULL. */
static const char *
read_number(const char *text, uint32_t least, uint32_t most, uint32_t *number)
{
    uint32_t value = 0;
    if (*text++ != ':' || *text < '0' || *text > '9')
        return NULL;
    for (; *text >= '0' && *text <= '9'; text++) {
        value = value * 10 + (uint32_t)(*text - '0');
        if (value > most)
            return NULL;
    }
    *number = value;
    return value < least ? NULL : text;
}

int
zcrx_option_parse(struct zcrx_wish *wish, const char *text)
{
    memset(wish, 0, sizeof(*wish));
    if (text == NULL)
        return 0;
    struct zcrx_wish read = {.area_mib = ZCRX_AREA_MIB_DEFAULT};
    const size_t length = strcspn(text, ":/ \t\n");
    if (length == 0 || length >= sizeof(read.interface))
        return -EINVAL;
    (void)snprintf(read.interface, sizeof(read.interface), "%.*s", (int)length, text);
    text = read_number(text + length, 0, QUEUE_MAX, &read.queue);
    if (text != NULL && *text != '\0')
        text = read_number(text, 1, ZCRX_AREA_MIB_MAX, &read.area_mib);
    if (text == NULL || *text != '\0')
        return -EINVAL;
    *wish = read;
    return 0;
}
