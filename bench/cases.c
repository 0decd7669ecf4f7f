/*
 * The cases that berth-bench knows. To add one: write case_NAME.c, declare its function in bench.h,
 * and put its row here.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stddef.h>

#include "bench.h"

const struct bench_case bench_cases[] = {
    {
        .name = "table",
        .summary = "the connection table: creating, finding, claiming and releasing, walking",
        .run = bench_table_run,
        .options = 0,
        .rounds = 21,
        .seconds = 0.02,
    },
    {
        .name = "idle",
        .summary = "bytes that an idle TCP connection costs, user memory and kernel apart",
        .run = bench_idle_run,
        .options = BENCH_OPTION_CONNECTIONS | BENCH_OPTION_VARIANTS,
        .rounds = 3,
        .seconds = 0.2,
        .connections = "16000",
    },
    {
        .name = "echo",
        .summary = "processor time, system calls and latency per echoed message",
        .run = bench_echo_run,
        .options = BENCH_OPTION_CONNECTIONS | BENCH_OPTION_SIZE | BENCH_OPTION_VARIANTS |
                   BENCH_OPTION_LOAD,
        .rounds = 9,
        .seconds = 1.0,
        .connections = "100,1000,10000",
    },
    {.name = NULL},
};
