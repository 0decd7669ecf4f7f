/*
 * What an engine may be told to do without: features by name, and who asked for or against which.
 * The names are public (berth_loop_options.features); what an engine makes of them is its affair.
 *
 * To add a feature: a bit here, a row in features.c, a line at the option in berth/loop.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_FEATURES_H
#define BERTH_LOOP_FEATURES_H

#include <stddef.h>
#include <stdint.h>

enum loop_feature {
    FEATURE_MULTISHOT = 1u << 0,           /**< one posted receive brings many completions */
    FEATURE_POLL_FIRST = 1u << 1,          /**< a receive is posted without looking for data */
    FEATURE_LIMITS = 1u << 2,              /**< a multishot receive has limits, per go and in all */
    FEATURE_BUNDLES = 1u << 3,             /**< one completion may bring several buffers */
    FEATURE_INCREMENTAL = 1u << 4,         /**< a buffer is filled bit by bit */
    FEATURE_INCREMENTAL_BUNDLES = 1u << 5, /**< both at once */
    FEATURE_DEMOTION = 1u << 6,            /**< idle receives are exchanged for poll requests */
    FEATURE_DIRECT = 1u << 7,              /**< the option direct_descriptors */
    FEATURE_ZEROCOPY = 1u << 8,            /**< sends are read in place: zerocopy_bytes */
    FEATURE_MAPPED = 1u << 9               /**< the option map_receive, and berth_conn_map */
};
#define FEATURE_COUNT 10

/** The longest name that is quoted when it is not one. */
#define FEATURE_NAME_MAX 32

/** What was asked for and against; the environment has the last word. */
struct feature_wishes {
    uint32_t on;                    /**< even if it does not work */
    uint32_t off;                   /**< even if it works */
    uint32_t environment;           /**< of both: by BERTH_FEATURES */
    char unknown[FEATURE_NAME_MAX]; /**< in the environment, and no feature; or empty */
};

/** The name of one feature bit, by its number. */
const char *feature_name(unsigned number);

/**
 * Reads "+name,-name,...", "all" being every one; later words win. NULL and "" ask for nothing.
 * @return 0; -EINVAL: a word without a sign, or an unknown name: copied into `unknown` (may be
 *         NULL). What came before it has been read.
 */
int features_parse(struct feature_wishes *wishes, const char *text, char *unknown);

/** The same from BERTH_FEATURES, on top of what was asked before; unknown names are noted. */
void features_from_environment(struct feature_wishes *wishes);

#endif
