/*
 * What the machine and the operating system are: read from sysconf(3), sysfs, procfs and resource
 * limits. A file that is not there means "unknown", never an error.
 *
 * SPDX-License-Identifier: MIT
 */
#include "info_parts.h"

#include <berth/cacheline.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#endif

/* The longest line worth reading from a file of the kernel's. */
#define LINE_BYTES_MAX 512

/* Reads the first line of a file, without its end. Returns NULL if there is none. */
static const char *
read_line(const char *path, char line[LINE_BYTES_MAX])
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return NULL;
    const char *got = fgets(line, LINE_BYTES_MAX, file);
    fclose(file);
    if (got == NULL)
        return NULL;
    line[strcspn(line, "\n")] = 0;
    return line;
}

/* A file whose choices are listed with the one in force in brackets: "always [madvise] never". */
static const char *
read_choice(const char *path, char line[LINE_BYTES_MAX])
{
    if (read_line(path, line) == NULL)
        return NULL;
    char *open = strchr(line, '[');
    char *close = open == NULL ? NULL : strchr(open, ']');
    if (close == NULL)
        return line;
    *close = 0;
    return open + 1;
}

static void
write_kernel(struct info_report *report)
{
    struct utsname name;
    char line[LINE_BYTES_MAX];
    info_section(report, "machine");
    if (uname(&name) == 0) {
        info_text(report, "system", name.sysname);
        info_text(report, "kernel", name.release);
        info_text(report, "architecture", name.machine);
    }
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    info_number(report, "processors", processors > 0 ? (uint64_t)processors : 0);
    info_text(report, "congestion_control",
              read_line("/proc/sys/net/ipv4/tcp_congestion_control", line));
    info_text(report, "listen_backlog_max", read_line("/proc/sys/net/core/somaxconn", line));
    info_section_end(report);
}

/* One cache of processor 0. Returns 0 when there is none with that number. */
static int
write_cache(struct info_report *report, unsigned index)
{
    char path[LINE_BYTES_MAX], line[LINE_BYTES_MAX], name[LINE_BYTES_MAX];
    static const char *const directory = "/sys/devices/system/cpu/cpu0/cache/index";
    snprintf(path, sizeof(path), "%s%u/level", directory, index);
    if (read_line(path, line) == NULL)
        return 0;
    const long level = strtol(line, NULL, 10);

    snprintf(path, sizeof(path), "%s%u/type", directory, index);
    const char *type = read_line(path, line);
    const char *kind = type == NULL || *type == 'U' ? "" : *type == 'D' ? "_data" : "_code";
    snprintf(name, sizeof(name), "level_%ld%s_bytes", level, kind);

    snprintf(path, sizeof(path), "%s%u/size", directory, index);
    if (read_line(path, line) != NULL) {
        char *unit = line;
        uint64_t bytes = strtoull(line, &unit, 10);
        bytes *= *unit == 'K' ? 1024 : *unit == 'M' ? 1024 * 1024 : 1;
        info_bytes(report, name, bytes);
    }
    return 1;
}

static void
write_caches(struct info_report *report)
{
    char line[LINE_BYTES_MAX];
    info_section(report, "cache");
    info_number(report, "line_bytes_built_for", BERTH_CACHE_LINE);
    info_text(report, "line_bytes_here",
              read_line("/sys/devices/system/cpu/cpu0/cache/index0/coherency_line_size", line));
    for (unsigned index = 0; index < 16 && write_cache(report, index); index++)
        continue;
    info_section_end(report);
}

static void
write_memory(struct info_report *report)
{
    static const char *const overcommit[] = {"0: heuristic", "1: always", "2: never"};
    char line[LINE_BYTES_MAX];
    info_section(report, "memory");
    info_bytes(report, "page_bytes", (uint64_t)sysconf(_SC_PAGESIZE));
    const char *huge = read_line("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", line);
    if (huge != NULL)
        info_bytes(report, "huge_page_bytes", strtoull(huge, NULL, 10));
    info_text(report, "transparent_huge_pages",
              read_choice("/sys/kernel/mm/transparent_hugepage/enabled", line));
    info_text(report, "huge_page_defragmentation",
              read_choice("/sys/kernel/mm/transparent_hugepage/defrag", line));
    const char *mode = read_line("/proc/sys/vm/overcommit_memory", line);
    if (mode != NULL && *mode >= '0' && *mode <= '2')
        mode = overcommit[*mode - '0'];
    info_text(report, "overcommit", mode);
    info_section_end(report);
}

/* `resource` as getrlimit(2) names it: both of its limits. */
static void
write_limit(struct info_report *report, int resource, const char *soft, const char *hard,
            void (*write)(struct info_report *, const char *, uint64_t))
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) != 0)
        return;
    write(report, soft, limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur);
    write(report, hard, limit.rlim_max == RLIM_INFINITY ? UINT64_MAX : limit.rlim_max);
}

/* A count that may be without limit. */
static void
write_count(struct info_report *report, const char *name, uint64_t count)
{
    if (count == UINT64_MAX)
        info_bytes(report, name, count); /* says "unlimited" */
    else
        info_number(report, name, count);
}

static void
write_limits(struct info_report *report)
{
    char line[LINE_BYTES_MAX];
    info_section(report, "limits");
    write_limit(report, RLIMIT_NOFILE, "descriptors_now", "descriptors_at_most", write_count);
    info_text(report, "descriptors_per_process", read_line("/proc/sys/fs/nr_open", line));
    write_limit(report, RLIMIT_MEMLOCK, "locked_memory_now", "locked_memory_at_most", info_bytes);
    write_limit(report, RLIMIT_AS, "address_space_now", "address_space_at_most", info_bytes);
    info_section_end(report);
}

/* Whether the processor's own counters can be read: what perf(1) needs, and many clouds lack. */
static void
write_counters(struct info_report *report)
{
    char line[LINE_BYTES_MAX];
    info_section(report, "measuring");
#ifdef __linux__
    struct perf_event_attr attributes;
    memset(&attributes, 0, sizeof(attributes));
    attributes.size = sizeof(attributes);
    attributes.type = PERF_TYPE_HARDWARE;
    attributes.config = PERF_COUNT_HW_CPU_CYCLES;
    attributes.exclude_kernel = 1;
    attributes.exclude_hv = 1;
    const long fd = syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
    const char *why = fd >= 0                             ? ""
                      : errno == ENOENT                   ? "the machine offers none (ENOENT)"
                      : errno == EACCES || errno == EPERM ? "sysctl kernel.perf_event_paranoid"
                                                          : strerror(errno);
    info_available(report, "hardware_counters", fd >= 0, why);
    if (fd >= 0)
        close((int)fd);
    info_text(report, "perf_event_paranoid",
              read_line("/proc/sys/kernel/perf_event_paranoid", line));
    info_text(report, "clock_source",
              read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", line));
    info_text(report, "load_averages", read_line("/proc/loadavg", line));
#else
    (void)line;
    info_available(report, "hardware_counters", 0, "not asked on this system");
#endif
    info_section_end(report);
}

void
info_system(struct info_report *report)
{
    write_kernel(report);
    write_caches(report);
    write_memory(report);
    write_limits(report);
    write_counters(report);
}
