/*
 * A server that is a program of the user's own, started from a command. It knows nothing of us: it
 * is told where to listen, and watched from outside.
 *
 * Between it and the measurer stands a keeper, a process that does nothing but adopt and end
 * whatever the command leaves behind: no process outlives the measurement, not even when the
 * measurer is killed.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_SERVER_COMMAND_H
#define BENCH_SERVER_COMMAND_H

#include <stdint.h>
#include <sys/types.h>

#include "server.h"

/** How long a program may take until it accepts a connection. */
#define SERVER_COMMAND_START_NS_MAX UINT64_C(10000000000)

/** How long its processes have to end when they are asked to, before they are killed. */
#define SERVER_COMMAND_STOP_NS_MAX UINT64_C(1500000000)

/**
 * The keeper: runs `command` by /bin/sh on `cpu` (-1: anywhere), in a session of its own, with the
 * number of a free port of 127.0.0.1 in $PORT; says in `control` when connections are accepted
 * there; ends with the command, or on SIGTERM together with every process that came of it.
 *
 * Fails (control->error) with -ESRCH when the command has ended, -ETIMEDOUT when it did not listen.
 */
_Noreturn void server_command_keep(struct server_control *control, const char *command, int cpu);

/**
 * Fills in the processor time of all processes that live under the keeper, to the nanosecond where
 * the kernel tells it (schedstat), else to its tick. What has ended meanwhile is not in it. All
 * else is unknown. 0, or -ESRCH when there are none.
 */
int server_command_counters(pid_t keeper, struct server_counters *counters);

#endif
