/*
 * Drawing tables with gnuplot.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_PLOT_H
#define BENCH_PLOT_H

#include "environment.h"
#include "report.h"

/** Of one case. */
#define PLOTS_MAX 16u

/**
 * Draws each of `plots` (ended by a NULL name; may be NULL) whose table has rows: svgs[i] becomes
 * its SVG text, to be freed, and stays NULL otherwise. What could not be drawn is noted in
 * `report`.
 */
void plot_all(struct report *report, const struct environment *environment,
              const struct report_plot *plots, char **svgs);

#endif
