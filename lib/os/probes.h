/*
 * Static probes, for bpftrace, perf, SystemTap and gdb: where they are, what each is given. A probe
 * is one nop in the code and a note beside it, and nothing at all without <sys/sdt.h> or with
 * --disable-probes. docs/guide/tracing.md lists them.
 *
 * The invariant: an argument costs nothing. It is a constant, or a variable or field that is there
 * already: the note tells where it lies. So a connection is given by the two fields of its slot
 * that its token is made of, index and generation, not by a token that would have to be put
 * together.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_OS_PROBES_H
#define BERTH_OS_PROBES_H

#ifdef BERTH_HAVE_SDT
#define SDT_USE_VARIADIC
#include <sys/sdt.h>
#define BERTH_PROBE(name, ...) STAP_PROBEV(berth, name, __VA_ARGS__)
#else
#define BERTH_PROBE(name, ...) ((void)0)
#endif

/** A probe about a connection. */
#define BERTH_PROBE_CONN(name, slot) BERTH_PROBE(name, (slot)->index, (slot)->generation)
#define BERTH_PROBE_CONN_WITH(name, slot, value)                                                   \
    BERTH_PROBE(name, (slot)->index, (slot)->generation, value)

#endif
