/*
 * The parts of berth-info: each writes its sections into the report and changes nothing on the
 * machine. None fails: what cannot be found out is reported as unknown.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_INFO_PARTS_H
#define BERTH_INFO_PARTS_H

#include "info_report.h"

/** Room for what berth_loop_explain says. */
#define EXPLANATION_BYTES 4096

/** Kernel, processors, caches, memory, limits, counters: info_system.c. */
void info_system(struct info_report *report);

/** What the kernel's io_uring offers: info_uring.c. */
void info_uring(struct info_report *report);

/** What there is for zero-copy receives of io_uring, on Linux: info_zcrx.c. */
void info_zcrx(struct info_report *report);

#endif
