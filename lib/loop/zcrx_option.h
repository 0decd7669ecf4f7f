/*
 * The option `zcrx` of a loop: from which queue of which network card to receive without copying.
 * No engine is known here.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_ZCRX_OPTION_H
#define BERTH_LOOP_ZCRX_OPTION_H

#include <stdint.h>

/** IFNAMSIZ of Linux, with the ending zero. */
#define ZCRX_INTERFACE_MAX 16

/** MiB of memory for the card to fill; some kernels count its bytes in 32 bits. */
#define ZCRX_AREA_MIB_DEFAULT 64
#define ZCRX_AREA_MIB_MAX 4096

struct zcrx_wish {
    char interface[ZCRX_INTERFACE_MAX]; /**< empty: not wanted */
    uint32_t queue;
    uint32_t area_mib;
};

/**
 * Reads "INTERFACE:QUEUE[:AREA-MiB]"; NULL asks for nothing. 0; -EINVAL: anything else, a queue
 * over 65,535, an area of 0 or more than 4,096 MiB.
 */
int zcrx_option_parse(struct zcrx_wish *wish, const char *text);

#endif
