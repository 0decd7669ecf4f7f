/*
 * Case `lookup` with --cachegrind: exact counts in place of times. This very program is run under
 * valgrind's simulation of two levels of cache, once to lay the connections out and once to handle
 * events as well; the difference, divided by their number, is what one event costs. Such counts
 * repeat exactly on one compiler, whatever else the machine is doing.
 *
 * What it cannot show: time, and what overlaps; the simulated caches know of no prefetching,
 * neither the processor's own nor the program's, so +prefetch has the misses it starts early. Huge
 * pages make no difference to caches.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "lookup.h"
#include "machine.h"

/** Enough that each line of 100,000 connections is asked for twice. */
#define EVENTS UINT64_C(204800)

/** Caches of the simulation where the machine does not tell: common on servers of today. */
#define L1_BYTES 32768u
#define L1_WAYS 8u
#define L2_BYTES 524288u
#define L2_WAYS 8u

/** In cachegrind's order. */
enum count {
    IR,
    I1_MISSES,
    IL_MISSES,
    DR,
    D1_READ_MISSES,
    DL_READ_MISSES,
    DW,
    D1_WRITE_MISSES,
    DL_WRITE_MISSES,
    COUNTS
};

static const struct report_column columns[] = {
    {"connections", "connections", 0},
    {"instructions_per_event", "instructions\nper event", 2},
    {"lines_per_event", "lines missed in L1\nper event", 3},
    {"l2_lines_per_event", "lines missed in L2\nper event", 3},
    {"accesses_per_event", "data accesses\nper event", 2},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

/** The geometry of the simulated caches, as valgrind's options. */
struct geometry {
    char d1[48], ll[48];
};

static void
geometry_choose(const struct environment *environment, struct geometry *geometry)
{
    uint64_t bytes[2] = {L1_BYTES, L2_BYTES};
    unsigned ways[2] = {L1_WAYS, L2_WAYS};
    for (unsigned i = 0; i < environment->cache_count; i++) {
        const struct environment_cache *cache = &environment->cache[i];
        if (cache->level >= 1 && cache->level <= 2 && cache->bytes > 0 && cache->ways > 0) {
            bytes[cache->level - 1] = cache->bytes;
            ways[cache->level - 1] = cache->ways;
        }
    }
    snprintf(geometry->d1, sizeof geometry->d1, "--D1=%" PRIu64 ",%u,64", bytes[0], ways[0]);
    snprintf(geometry->ll, sizeof geometry->ll, "--LL=%" PRIu64 ",%u,64", bytes[1], ways[1]);
}

/** Reads the line of totals that cachegrind ends its file with. 0 or -EBADMSG. */
static int
counts_read(const char *path, double *counts)
{
    char line[512];
    int found = 0;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return -errno;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "summary:", 8) == 0) {
            char *at = line + 8;
            for (found = 0; found < COUNTS; found++) {
                char *end = NULL;
                counts[found] = strtod(at, &end);
                if (end == at)
                    break;
                at = end;
            }
        }
    }
    fclose(file);
    return found == COUNTS ? 0 : -EBADMSG;
}

/** Becomes valgrind. Status 127: there is none. */
static _Noreturn void
become_valgrind(const struct geometry *geometry, const char *variant, const char *conns,
                const char *events, const char *out)
{
    char self[512], out_option[600];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (length <= 0 || null < 0)
        _exit(126);
    self[length] = '\0';
    snprintf(out_option, sizeof out_option, "--cachegrind-out-file=%s", out);
    /* jemalloc gives memory back by the clock: then counts would depend on time. */
    setenv("MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1", 1);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    execlp("valgrind", "valgrind", "--tool=cachegrind", "--cache-sim=yes", "--I1=32768,8,64",
           geometry->d1, geometry->ll, out_option, self, "lookup", "--variants", variant,
           "--connections", conns, "--between", "none", "--events", events, (char *)NULL);
    _exit(errno == ENOENT ? 127 : 126);
}

/** Counts one run. 0; -ENOENT: no valgrind; or another -errno. */
static int
count_run(const struct geometry *geometry, const char *variant, uint32_t conns, uint64_t events,
          double *counts)
{
    char path[] = "/tmp/berth-bench-XXXXXX", conns_text[16], events_text[24];
    const int fd = mkstemp(path);
    int status = 0;
    if (fd < 0)
        return -errno;
    close(fd);
    snprintf(conns_text, sizeof conns_text, "%" PRIu32, conns);
    snprintf(events_text, sizeof events_text, "%" PRIu64, events);
    const pid_t child = fork();
    if (child == 0)
        become_valgrind(geometry, variant, conns_text, events_text, path);
    while (child > 0 && waitpid(child, &status, 0) != child) {
        if (errno != EINTR)
            break;
    }
    int error = child < 0 ? -EAGAIN : 0;
    if (error == 0 && status != 0)
        error = WIFEXITED(status) && WEXITSTATUS(status) == 127 ? -ENOENT : -ECHILD;
    if (error == 0)
        error = counts_read(path, counts);
    unlink(path);
    return error;
}

static int
count_variant(struct bench *bench, const struct geometry *geometry,
              const struct lookup_variant *variant, uint32_t conns)
{
    double less[COUNTS] = {0}, more[COUNTS] = {0}, each[COUNTS];
    bench_progress(bench, "counting %s, %u connections", variant->name, conns);
    /* The first pass is made by both, so that what is done only once does not count. */
    int error = count_run(geometry, variant->name, conns, LOOKUP_PASS_EVENTS, less);
    if (error == 0)
        error = count_run(geometry, variant->name, conns, LOOKUP_PASS_EVENTS + EVENTS, more);
    if (error != 0)
        return error;
    for (unsigned i = 0; i < COUNTS; i++)
        each[i] = (more[i] - less[i]) / (double)EVENTS;
    const struct estimate values[COLUMNS] = {
        estimate_exact(conns),
        estimate_exact(each[IR]),
        estimate_exact(each[D1_READ_MISSES] + each[D1_WRITE_MISSES]),
        estimate_exact(each[DL_READ_MISSES] + each[DL_WRITE_MISSES]),
        estimate_exact(each[DR] + each[DW]),
    };
    report_row(&bench->report, variant->name, values);
    return 0;
}

int
lookup_count_exactly(struct bench *bench)
{
    struct geometry geometry = {"", ""};
    int error = 0;
    geometry_choose(&bench->environment, &geometry);
    report_table_begin(&bench->report, "lookup-counts", columns, COLUMNS);
    for (unsigned i = 0; i < bench->options.connections.count; i++) {
        for (const struct lookup_variant *variant = lookup_variants; variant->name != NULL;
             variant++) {
            if (variant->missing != NULL || !bench_wants(bench, variant->name) || error != 0 ||
                machine_interrupted)
                continue;
            error = count_variant(bench, &geometry, variant, bench->options.connections.values[i]);
        }
    }
    bench_progress_end(bench);
    if (error == -ENOENT) {
        report_note(&bench->report, "counting needs valgrind, which is not installed");
        return error;
    }
    report_note(&bench->report,
                "simulated caches: %s %s; %" PRIu64 " events in random order; the events "
                "themselves are one line in eight events; prefetching is not simulated",
                geometry.d1 + 2, geometry.ll + 2, EVENTS);
    return machine_interrupted ? 0 : error;
}
