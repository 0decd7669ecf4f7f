/*
 * The demonstration: an echo server on berth's loop beside the same server written by hand on plain
 * epoll, under the same load, in turns of a second each for about ten seconds. For somebody who has
 * just cloned this: real traffic, real numbers, which engine it got and why. To measure in earnest
 * there is berth-bench; this says when its own numbers should not be relied on.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <berth.h>
#include <berth/explain.h>

#include "load.h"
#include "machine.h"
#include "server.h"
#include "slice.h"
#include "statistics.h"

#define CONNS_WANTED 1000u
#define CONNS_IDLE 16000u
#define DESCRIPTORS_KEPT 100u
#define MESSAGE_BYTES 64u
#define ROUNDS 5u
#define SLICE_NS UINT64_C(600000000)
#define WARM_NS UINT64_C(150000000)
#define SETTLE_MS 150u

/** Medians of fewer rounds than this say nothing (Ctrl-C came early). */
#define ROUNDS_MIN 3u

enum contestant { BERTH, PLAIN, CONTESTANTS };

enum metric { CPU_NS, RATE, SYSCALLS, P50_US, P99_US, METRICS };

struct demo {
    const struct server_kind *kinds[CONTESTANTS];
    double values[CONTESTANTS][METRICS][ROUNDS];
    double idle_bytes[CONTESTANTS];
    unsigned rounds;
    uint32_t conns;
    int cpus;
    int cpu_server;
    int terminal;
    unsigned slice; /**< number of the slice that is running */
    char explain[1536];
    double copies_received, copies_sent;
    struct berth_copies copies; /**< of all of berth's servers */
};

/* ---- progress -------------------------------------------------------------------------------- */

static void
show_progress(void *context, const struct load_result *so_far)
{
    struct demo *demo = context;
    if (!demo->terminal || so_far->wall_ns == 0)
        return;
    const double rate = (double)so_far->messages / (double)so_far->wall_ns * 1e9;
    printf("\r  slice %2u of %u   %-12s %9.0f messages/s   p99 %6.0f us ", demo->slice,
           CONTESTANTS * ROUNDS, demo->kinds[demo->slice % 2 == 1 ? BERTH : PLAIN]->name, rate,
           histogram_percentile(&so_far->latency, 0.99) / 1e3);
    fflush(stdout);
}

static void
end_progress(const struct demo *demo, const char *name, const struct slice_result *result)
{
    printf("%s  slice %2u of %u   %-12s %9.0f messages/s   %5.0f ns of CPU each\n",
           demo->terminal ? "\r\033[K" : "", demo->slice, CONTESTANTS * ROUNDS, name,
           result->messages_per_second, result->cpu_ns_per_message);
    fflush(stdout);
}

/* ---- measuring ------------------------------------------------------------------------------- */

static int
measure_slice(struct demo *demo, enum contestant who)
{
    static struct slice_result result;
    const struct slice_options options = {
        .kind = demo->kinds[who],
        .cpu_server = demo->cpu_server,
        .conns = demo->conns,
        .bytes = MESSAGE_BYTES,
        .warm_ns = WARM_NS,
        .run_ns = SLICE_NS,
        .progress = show_progress,
        .context = demo,
    };
    demo->slice++;
    const int error = slice_measure(&options, &result);
    if (error != 0)
        return error;
    end_progress(demo, demo->kinds[who]->name, &result);
    double(*values)[ROUNDS] = demo->values[who];
    values[CPU_NS][demo->rounds] = result.cpu_ns_per_message;
    values[RATE][demo->rounds] = result.messages_per_second;
    values[SYSCALLS][demo->rounds] = result.syscalls_per_message;
    values[P50_US][demo->rounds] = histogram_percentile(&result.load.latency, 0.50) / 1e3;
    values[P99_US][demo->rounds] = histogram_percentile(&result.load.latency, 0.99) / 1e3;
    if (who == BERTH) {
        memcpy(demo->explain, result.explain, sizeof demo->explain);
        demo->copies_received = result.last.copies_received;
        demo->copies_sent = result.last.copies_sent;
        berth_copies_add(&demo->copies, &result.last.copies);
    }
    return 0;
}

static int
measure_rounds(struct demo *demo)
{
    for (unsigned round = 0; round < ROUNDS && !machine_interrupted; round++) {
        for (unsigned who = 0; who < CONTESTANTS; who++) {
            const int error = measure_slice(demo, who);
            if (error != 0)
                return error;
        }
        demo->rounds++;
    }
    return 0;
}

/** How much a server grows by `conns` connections that say nothing (after one message each). */
static int
measure_idle_on(struct server *server, uint32_t conns, double *bytes)
{
    struct machine_memory before, after;
    struct load *load = NULL;
    struct load_options options = {
        .conns = 64, .bytes = MESSAGE_BYTES, .port = server->control->port};
    int error = load_open(&load, &options);
    if (error == 0)
        error = load_run(load, WARM_NS, NULL);
    load_close(load);
    load = NULL;
    machine_sleep_ms(SETTLE_MS);
    if (error == 0)
        error = machine_memory_get(server->pid, &before);
    options.conns = conns;
    if (error == 0)
        error = load_open(&load, &options);
    machine_sleep_ms(SETTLE_MS);
    if (error == 0)
        error = machine_memory_get(server->pid, &after);
    load_close(load);
    if (error == 0)
        *bytes = ((double)after.anonymous_bytes - (double)before.anonymous_bytes) / conns;
    return error;
}

static int
measure_idle(struct demo *demo, uint32_t conns)
{
    for (unsigned who = 0; who < CONTESTANTS; who++) {
        struct server server;
        int error = server_start(&server, demo->kinds[who], demo->cpu_server);
        if (error == 0) {
            error = measure_idle_on(&server, conns, &demo->idle_bytes[who]);
            server_stop(&server);
        }
        if (error != 0)
            return error;
    }
    return 0;
}

/* ---- telling --------------------------------------------------------------------------------- */

static void
row(const struct demo *demo, const char *what, enum metric metric, int decimals, const char *unit)
{
    const struct estimate mine = estimate_of(demo->values[BERTH][metric], demo->rounds);
    const struct estimate theirs = estimate_of(demo->values[PLAIN][metric], demo->rounds);
    const struct estimate ratio =
        estimate_of_ratio(demo->values[BERTH][metric], demo->values[PLAIN][metric], demo->rounds);
    printf("  %-28s %10.*f %14.*f %9.3f  (%.3f to %.3f)  %s\n", what, decimals, mine.median,
           decimals, theirs.median, ratio.median, ratio.low, ratio.high, unit);
}

static void
tell(const struct demo *demo, uint32_t idle)
{
    printf("\n  %-28s %10s %14s %9s\n", "", "berth", "by hand, epoll", "ratio");
    row(demo, "messages per second", RATE, 0, "");
    row(demo, "CPU per message", CPU_NS, 0, "ns");
    row(demo, "system calls per message", SYSCALLS, 3, "");
    row(demo, "latency, half are faster", P50_US, 0, "us");
    row(demo, "latency, 99 % are faster", P99_US, 0, "us");
    printf("  %-28s %10.1f %14.1f %9s  %s\n", "bytes per idle connection", demo->idle_bytes[BERTH],
           demo->idle_bytes[PLAIN], "", "resident, 40 of them yours");
    printf("  %-28s %10.2f %14s %9s  %s\n", "copies per byte received", demo->copies_received, "-",
           "", "by the kernel, into a pool buffer");
    printf("  %-28s %10.2f %14s %9s  %s\n", "copies per byte sent", demo->copies_sent, "-", "",
           "by the kernel, out of that buffer");
    printf(
        "\n  %u connections, %u idle ones, %u-byte messages, one under way on each. Ratios are\n"
        "  medians of %u paired slices, with the range they fell into; latencies are those of a\n"
        "  full system. 'build/berth-bench echo' measures with intervals and a control.\n",
        demo->conns, idle, MESSAGE_BYTES, demo->rounds);
}

/** Indented, and the text is used up. */
static void
tell_lines(char *text)
{
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"))
        printf("  %s\n", line);
}

static void
tell_engine(const struct demo *demo)
{
    char text[sizeof demo->explain];
    printf("\nWhat berth runs on here, and why:\n");
    memcpy(text, demo->explain, sizeof text);
    tell_lines(text);
}

/** Who moved the bytes of berth's servers. */
static void
tell_copies(const struct demo *demo)
{
    char text[1024];
    printf("\nWho copied the bytes of berth's servers:\n");
    berth_copies_explain(&demo->copies, text, sizeof text);
    tell_lines(text);
}

/** Doubts a reader should know of. */
static void
tell_doubts(const struct demo *demo)
{
    double load[1] = {0};
    if (demo->cpus < 2)
        printf("  note: one CPU only: the load shares it with the server, all numbers are worse\n");
    else if (demo->cpu_server < 0)
        printf("  note: binding the server to a CPU of its own was not permitted\n");
    if (getloadavg(load, 1) == 1 && load[0] > demo->cpus + 1)
        printf("  note: others are busy here (load average %.1f): not reliable\n", load[0]);
    const struct estimate ratio =
        estimate_of_ratio(demo->values[BERTH][CPU_NS], demo->values[PLAIN][CPU_NS], demo->rounds);
    if (estimate_covers(&ratio, 1))
        printf(
            "  note: the range of the CPU ratio includes 1: on this evidence neither is better\n");
}

/* ---- setting up ------------------------------------------------------------------------------ */

/** As many of `wanted` connections as the limit of descriptors leaves room for. */
static uint32_t
that_fit(uint32_t wanted)
{
    const uint32_t room = machine_descriptors_free();
    const uint32_t most = room > DESCRIPTORS_KEPT ? room - DESCRIPTORS_KEPT : 1;
    if (wanted <= most)
        return wanted;
    printf("  note: %u connections wanted, %u fit the limit of descriptors (ulimit -n)\n", wanted,
           most);
    return most;
}

/** "auto": what engine that is here is asked of the library itself. */
static const struct server_kind berth = {
    .name = "berth", .serve = server_berth_serve, .engine = "auto"};
static const struct server_kind plain = {.name = "plain-epoll", .serve = rival_epoll_serve};

static int
failed(const char *doing, int error)
{
    if (error == -ECANCELED)
        return EXIT_FAILURE;
    fprintf(stderr, "berth-demo: %s: %s\n", doing, strerror(-error));
    return EXIT_FAILURE;
}

int
main(int argc, char **argv)
{
    static struct demo demo;
    if (argc > 1) {
        fprintf(stderr, "usage: %s\n", argv[0]);
        return 2;
    }
    machine_catch_interrupts();
    demo.terminal = isatty(STDOUT_FILENO);
    demo.kinds[BERTH] = &berth;
    demo.kinds[PLAIN] = &plain;
    demo.cpus = machine_cpus();
    demo.cpu_server = machine_cpu_ranked(1);
    printf("berth %s: an echo server on its loop, and the same by hand on plain epoll\n\n",
           berth_version_string());
    demo.conns = that_fit(CONNS_WANTED);
    if (machine_pin(machine_cpu_ranked(0)) != 0)
        demo.cpu_server = -1;

    int error = measure_rounds(&demo);
    if (demo.rounds < ROUNDS_MIN)
        return failed("measuring", error != 0 ? error : -ECANCELED);
    const uint32_t idle = that_fit(CONNS_IDLE);
    error = measure_idle(&demo, idle);
    if (error != 0)
        return failed("measuring idle connections", error);
    tell_engine(&demo);
    tell_copies(&demo);
    tell(&demo, idle);
    tell_doubts(&demo);
    return EXIT_SUCCESS;
}
