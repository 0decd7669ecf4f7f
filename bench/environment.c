/*
 * Capturing the environment. Whatever cannot be read says so in the captured text: nothing here
 * fails, because a machine that hides its caches can still be measured on.
 *
 * SPDX-License-Identifier: MIT
 */
#include "environment.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <berth/version.h>

#include "machine.h"
#include "server.h"
#include "text.h"

/** The first line of a file, without its end; "?" if there is none. */
static void
read_line(const char *path, char *text, size_t size)
{
    snprintf(text, size, "?");
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return;
    if (fgets(text, (int)size, file) == NULL)
        snprintf(text, size, "?");
    fclose(file);
    text[strcspn(text, "\n")] = '\0';
}

static void
append(char *text, size_t size, const char *separator, const char *more)
{
    const size_t used = strlen(text);
    snprintf(text + used, size - used, "%s%s", used > 0 ? separator : "", more);
}

static void
capture_cpu(struct environment *environment)
{
    char line[512];
    FILE *file = fopen("/proc/cpuinfo", "re");
    snprintf(environment->cpu, sizeof environment->cpu, "?");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && environment->cpu[0] == '?' && value != NULL) {
            line[strcspn(line, "\n")] = '\0';
            text_copy(environment->cpu, sizeof environment->cpu, value + 1 + (value[1] == ' '));
        }
        if (strncmp(line, "flags", 5) == 0 && strstr(line, " hypervisor") != NULL)
            environment->is_virtual = true;
    }
    if (file != NULL)
        fclose(file);
    environment->cpus = machine_cpus();
}

/** Reads one attribute of the first CPU's cache number `at`; "?" if there is none. */
static void
read_cache(int at, const char *attribute, char *text, size_t size)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", at, attribute);
    read_line(path, text, size);
}

/** "512K" or "32M" in bytes; 0 if it is no size. */
static uint64_t
size_of_text(const char *text)
{
    char *end = NULL;
    const uint64_t number = strtoull(text, &end, 10);
    return *end == 'K' ? number << 10 : *end == 'M' ? number << 20 : number;
}

static void
capture_caches(struct environment *environment)
{
    for (int i = 0; i < 8; i++) {
        char level[8], type[24], bytes[16], ways[16], text[64];
        read_cache(i, "level", level, sizeof level);
        read_cache(i, "type", type, sizeof type);
        read_cache(i, "size", bytes, sizeof bytes);
        read_cache(i, "ways_of_associativity", ways, sizeof ways);
        if (level[0] == '?')
            break;
        if (strcmp(type, "Instruction") == 0)
            continue;
        snprintf(text, sizeof text, "L%s%s %s", level, strcmp(type, "Data") == 0 ? "d" : "", bytes);
        append(environment->caches, sizeof environment->caches, ", ", text);
        if (environment->cache_count < ENVIRONMENT_CACHES_MAX)
            environment->cache[environment->cache_count++] = (struct environment_cache){
                .level = (unsigned)strtoul(level, NULL, 10),
                .bytes = size_of_text(bytes),
                .ways = (unsigned)strtoul(ways, NULL, 10),
            };
    }
    if (environment->caches[0] == '\0')
        snprintf(environment->caches, sizeof environment->caches, "not told");
}

/** The word in brackets of "always [madvise] never". */
static void
capture_huge_pages(struct environment *environment)
{
    char line[96];
    read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line);
    const char *begin = strchr(line, '[');
    const int length = begin != NULL ? (int)strcspn(begin + 1, "]") : 0;
    if (begin != NULL)
        snprintf(environment->huge_pages, sizeof environment->huge_pages, "%.*s", length,
                 begin + 1);
    else
        snprintf(environment->huge_pages, sizeof environment->huge_pages, "not told");
}

static void
capture_mitigations(struct environment *environment)
{
    static const char *const names[] = {
        "spectre_v1",
        "spectre_v2",
        "meltdown",
        "mds",
        "retbleed",
        "l1tf",
        "srbds",
        "taa",
        "mmio_stale_data",
        "spec_store_bypass",
        "spec_rstack_overflow",
        "gather_data_sampling",
        "indirect_target_selection",
        "tsa",
        "vmscape",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[96], line[256];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/vulnerabilities/%s", names[i]);
        read_line(path, line, sizeof line);
        if (strncmp(line, "Mitigation", 10) == 0)
            append(environment->mitigations, sizeof environment->mitigations, " ", names[i]);
    }
    if (environment->mitigations[0] == '\0')
        snprintf(environment->mitigations, sizeof environment->mitigations, "none");
}

static void
capture_congestion(struct environment *environment)
{
    socklen_t length = sizeof environment->congestion - 1;
    read_line("/proc/sys/net/ipv4/tcp_congestion_control", environment->congestion_default,
              sizeof environment->congestion_default);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(environment->congestion, sizeof environment->congestion, "?");
    if (fd < 0)
        return;
    server_socket_tune(fd);
    memset(environment->congestion, 0, sizeof environment->congestion);
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, environment->congestion, &length) != 0)
        snprintf(environment->congestion, sizeof environment->congestion, "?");
    close(fd);
}

static void
capture_pmu(struct environment *environment)
{
    struct perf_event_attr attributes = {
        .type = PERF_TYPE_HARDWARE,
        .size = sizeof attributes,
        .config = PERF_COUNT_HW_CPU_CYCLES,
        .exclude_kernel = 1,
    };
    const long fd = syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
    environment->has_pmu = fd >= 0;
    if (fd >= 0)
        close((int)fd);
    snprintf(environment->pmu, sizeof environment->pmu, "%s%s",
             fd >= 0 ? "yes" : "none: ", fd >= 0 ? "" : strerror(errno));
}

static void
capture_build(struct environment *environment)
{
    snprintf(environment->compiler, sizeof environment->compiler,
#ifdef __clang__
             "clang %s",
#else
             "gcc %s",
#endif
             __VERSION__);
    text_copy(environment->flags, sizeof environment->flags, bench_build_flags);
    text_copy(environment->commit, sizeof environment->commit, bench_build_commit);
    snprintf(environment->allocator, sizeof environment->allocator, "%s", bench_build_allocator);
    snprintf(environment->version, sizeof environment->version, "%s", berth_version_string());
}

static void
capture_ticks(struct environment_ticks *ticks)
{
    unsigned long long user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0;
    unsigned long long steal = 0;
    FILE *file = fopen("/proc/stat", "re");
    if (file != NULL) {
        const int found = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice,
                                 &system, &idle, &iowait, &irq, &softirq, &steal);
        fclose(file);
        if (found < 7)
            user = nice = system = idle = iowait = irq = softirq = steal = 0;
    }
    ticks->busy = user + nice + system + irq + softirq;
    ticks->steal = steal;
    ticks->all = ticks->busy + idle + iowait + steal;
}

/** Seconds of processor time that this process and its ended children have used. */
static double
own_seconds(void)
{
    double seconds = 0;
    struct rusage usage;
    const int whose[] = {RUSAGE_SELF, RUSAGE_CHILDREN};
    for (int i = 0; i < 2; i++) {
        getrusage(whose[i], &usage);
        seconds += (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                   (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    }
    return seconds;
}

static void
bind_to_cpus(struct environment *environment, int cpu_server, int cpu_load)
{
    environment->cpu_server = cpu_server;
    environment->cpu_load = cpu_load;
    /* Servers bind themselves, and in silence: nobody else would say that it cannot be done. */
    int error = cpu_server >= 0 ? machine_pin_try(cpu_server) : 0;
    if (error == 0 && cpu_load >= 0)
        error = machine_pin(cpu_load);
    if (cpu_load < 0) {
        snprintf(environment->pinning, sizeof environment->pinning, "not bound to CPUs");
    } else if (error != 0) {
        environment->cpu_server = environment->cpu_load = -1;
        snprintf(environment->pinning, sizeof environment->pinning, "not bound to CPUs: %s",
                 strerror(-error));
    } else {
        snprintf(environment->pinning, sizeof environment->pinning,
                 "server on CPU %d, load on CPU %d", cpu_server, cpu_load);
    }
}

void
environment_begin(struct environment *environment, int cpu_server, int cpu_load)
{
    memset(environment, 0, sizeof *environment);
    struct utsname name;
    if (uname(&name) == 0)
        snprintf(environment->kernel, sizeof environment->kernel, "%.20s %.50s %.20s", name.sysname,
                 name.release, name.machine);
    capture_cpu(environment);
    capture_caches(environment);
    capture_huge_pages(environment);
    capture_mitigations(environment);
    capture_congestion(environment);
    capture_pmu(environment);
    capture_build(environment);
    bind_to_cpus(environment, cpu_server, cpu_load);
    struct rlimit limit = {0, 0};
    getrlimit(RLIMIT_NOFILE, &limit);
    environment->descriptors = limit.rlim_cur < UINT32_MAX ? (uint32_t)limit.rlim_cur : UINT32_MAX;
    if (getloadavg(&environment->load_average, 1) != 1)
        environment->load_average = NAN;
    capture_ticks(&environment->ticks_begin);
    environment->own_begin_s = own_seconds();
    environment->wall_begin_ns = machine_now_ns();
}

void
environment_end(struct environment *environment, struct report *report)
{
    struct environment_ticks ticks;
    capture_ticks(&ticks);
    const double wall = (double)(machine_now_ns() - environment->wall_begin_ns) / 1e9;
    const double busy =
        (double)(ticks.busy - environment->ticks_begin.busy) / (double)sysconf(_SC_CLK_TCK);
    const double own = own_seconds() - environment->own_begin_s;
    const double all = (double)(ticks.all - environment->ticks_begin.all);
    environment->others = wall > 0 && busy > own ? (busy - own) / wall : 0;
    environment->steal = all > 0 ? (double)(ticks.steal - environment->ticks_begin.steal) / all : 0;

    if (report == NULL)
        return;
    if (environment->others > ENVIRONMENT_OTHERS_MAX)
        report_doubt(report, "loaded: others used %.0f %% of a CPU meanwhile (limit %.0f %%)",
                     environment->others * 100, ENVIRONMENT_OTHERS_MAX * 100);
    if (environment->steal > ENVIRONMENT_STEAL_MAX)
        report_doubt(report, "loaded: the host kept %.1f %% of the time (limit %.0f %%)",
                     environment->steal * 100, ENVIRONMENT_STEAL_MAX * 100);
    if (environment->cpu_load < 0)
        report_doubt(report, "%s", environment->pinning);
    else if (environment->cpu_server == environment->cpu_load)
        report_doubt(report, "one CPU: the load shares the server's core");
}
