/*
 * The names of features, and reading lists of them. No engine is known here.
 *
 * The invariant: no feature is both asked for and asked against; the last word counts.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/features.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "berth/attr.h"

static const char *const names[FEATURE_COUNT] = {
    "multishot",           "poll-first", "limits", "bundles",  "incremental",
    "incremental-bundles", "demotion",   "direct", "zerocopy", "mapped",
};

#define EVERY_FEATURE ((1u << FEATURE_COUNT) - 1)

const char *
feature_name(unsigned number)
{
    BERTH_ASSERT(number < FEATURE_COUNT);
    return names[number];
}

/** The bit of a name, all of them for "all", 0 for none. */
static uint32_t
bits_of(const char *name, size_t length)
{
    if (length == 3 && memcmp(name, "all", 3) == 0)
        return EVERY_FEATURE;
    for (unsigned i = 0; i < FEATURE_COUNT; i++) {
        if (strlen(names[i]) == length && memcmp(names[i], name, length) == 0)
            return 1u << i;
    }
    return 0;
}

static void
note_unknown(char *unknown, const char *word, size_t length)
{
    if (unknown != NULL)
        (void)snprintf(unknown, FEATURE_NAME_MAX, "%.*s", (int)length, word);
}

/** One word of a list: a sign and a name. */
static int
read_word(struct feature_wishes *wishes, const char *word, size_t length)
{
    if (length < 2 || (*word != '+' && *word != '-'))
        return -EINVAL;
    const uint32_t bits = bits_of(word + 1, length - 1);
    if (bits == 0)
        return -EINVAL;
    wishes->on = *word == '+' ? wishes->on | bits : wishes->on & ~bits;
    wishes->off = *word == '-' ? wishes->off | bits : wishes->off & ~bits;
    BERTH_ASSERT((wishes->on & wishes->off) == 0);
    return 0;
}

int
features_parse(struct feature_wishes *wishes, const char *text, char *unknown)
{
    if (text == NULL || *text == '\0')
        return 0;
    for (;;) {
        const size_t length = strcspn(text, ",");
        if (read_word(wishes, text, length) != 0) {
            note_unknown(unknown, text, length);
            return -EINVAL;
        }
        text += length;
        if (*text == '\0')
            return 0;
        text++;
    }
}

void
features_from_environment(struct feature_wishes *wishes)
{
    struct feature_wishes own;
    const char *text = getenv("BERTH_FEATURES");
    memset(&own, 0, sizeof(own));
    while (text != NULL && *text != '\0') {
        const size_t length = strcspn(text, ",");
        if (length > 0 && read_word(&own, text, length) != 0)
            note_unknown(wishes->unknown, text, length);
        text += length + (text[length] == ',');
    }
    wishes->environment = own.on | own.off;
    wishes->on = (wishes->on & ~own.off) | own.on;
    wishes->off = (wishes->off & ~own.on) | own.off;
    BERTH_ASSERT((wishes->on & wishes->off) == 0);
}
