/*
 * Which servers take part in a case: those that were asked for and that this build has.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_CONTESTANTS_H
#define BENCH_CONTESTANTS_H

#include "bench.h"
#include "server.h"

/**
 * Makes `like` a subject for each server wanted, named after it and with it as context. The first
 * of all kinds is among them also when it is not wanted, if `baseline` says so. What this build
 * lacks is left out and noted, once. Returns how many.
 */
unsigned contestants_choose(struct bench *bench, const struct bench_subject *like, bool baseline,
                            struct bench_subject *subjects);

/** Remembers what a server has said of itself. */
void contestants_heard(const struct server_kind *kind, const char *explain);

/** Notes the versions of the libraries that were heard of. */
void contestants_note(struct bench *bench);

#endif
