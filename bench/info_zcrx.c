/*
 * What there is for zero-copy receives of io_uring (the option zcrx of a loop), as far as it can be
 * known without changing anything: registering a queue would restart it, so the kernel is asked
 * with an interface that does not exist. What a card's driver can do, and whether it splits headers
 * now, only ethtool's netlink interface tells, which is not asked.
 *
 * SPDX-License-Identifier: MIT
 */
#include "info_parts.h"

#ifdef __linux__

#include <dirent.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than the headers this must build with: values and shapes are the kernel's (Linux 6.15). */
#define REGISTER_ZCRX_QUEUE 32
#define REGION_USER 1u
#define SETUP_CQE32 (1u << 11)
#define SETUP_SINGLE_ISSUER (1u << 12)
#define SETUP_DEFER_TASKRUN (1u << 13)
#define CAP_NET_ADMIN_BIT 12

struct area {
    uint64_t address, bytes, token, flags, reserved[2];
};
struct region {
    uint64_t address, bytes, flags, offset, reserved[4];
};
struct queue {
    uint32_t interface, queue, entries, flags;
    uint64_t area, region, offsets[4], id, reserved[3];
};

static int
register_nothing(int ring, unsigned char *memory, size_t page)
{
    struct area area = {.address = (uintptr_t)memory, .bytes = page};
    struct region region = {
        .address = (uintptr_t)(memory + page), .bytes = page, .flags = REGION_USER};
    struct queue queue = {
        .entries = 8, .area = (uintptr_t)&area, .region = (uintptr_t)&region}; /* interface 0 */
    const long error = syscall(SYS_io_uring_register, ring, REGISTER_ZCRX_QUEUE, &queue, 1);
    return error < 0 ? -errno : 0;
}

/* What the kernel says to a queue of no interface: -ENODEV if nothing else is wrong. */
static int
ask_kernel(void)
{
    struct io_uring_params params;
    memset(&params, 0, sizeof(params));
    params.flags = SETUP_CQE32 | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN;
    const int ring = (int)syscall(SYS_io_uring_setup, 8, &params);
    if (ring < 0)
        return -errno;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *memory =
        mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const int error = memory == MAP_FAILED ? -ENOMEM : register_nothing(ring, memory, page);
    if (memory != MAP_FAILED)
        munmap(memory, 2 * page);
    close(ring);
    return error;
}

static const char *
verdict(int error)
{
    switch (error) {
    case -ENODEV:
        return "";
    case -EPERM:
        return "not asked further: it takes CAP_NET_ADMIN";
    case -EOPNOTSUPP:
        return "the kernel was built without CONFIG_IO_URING_ZCRX";
    case -EINVAL:
        return "the kernel does not know it (Linux 6.15)";
    default:
        return strerror(error < 0 ? -error : EIO);
    }
}

static int
has_right(void)
{
    char line[256];
    unsigned long long effective = 0;
    FILE *file = fopen("/proc/self/status", "re");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, "CapEff:", 7) == 0)
            effective = strtoull(line + 7, NULL, 16);
    fclose(file);
    return (effective >> CAP_NET_ADMIN_BIT & 1) != 0;
}

/* How many of the entries of a directory begin so. */
static unsigned
count_entries(const char *path, const char *prefix)
{
    unsigned count = 0;
    DIR *directory = opendir(path);
    if (directory == NULL)
        return 0;
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory))
        count += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    closedir(directory);
    return count;
}

/* Interfaces with a device behind them: the others cannot have a queue of their own. */
static void
write_interfaces(struct info_report *report)
{
    static const char root[] = "/sys/class/net";
    DIR *directory = opendir(root);
    if (directory == NULL)
        return;
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        char path[sizeof(root) + sizeof(entry->d_name) + 16], text[96];
        snprintf(path, sizeof(path), "%s/%s/device", root, entry->d_name);
        if (entry->d_name[0] == '.' || access(path, F_OK) != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s/queues", root, entry->d_name);
        snprintf(text, sizeof(text), "%u receive queues; its driver and header split: not asked",
                 count_entries(path, "rx-"));
        info_text(report, entry->d_name, text);
    }
    closedir(directory);
}

void
info_zcrx(struct info_report *report)
{
    const int error = ask_kernel();
    info_section(report, "zero_copy_receive");
    info_available(report, "kernel", error == -ENODEV, verdict(error));
    info_available(report, "cap_net_admin", has_right(), "");
    info_text(report, "tried_on_hardware", "never, by those who made berth");
    write_interfaces(report);
    info_section_end(report);
}

#endif
