/*
 * What io_uring offers here, asked of the kernel itself and not of liburing: which set-up flags it
 * takes, which features it names, which operations it knows. Every ring made for a question is
 * closed at once. Kernels back-port and forbid things one by one, so nothing is concluded from a
 * version. What works, and not only exists, the library's self-test says: that is asked of a loop.
 *
 * SPDX-License-Identifier: MIT
 */
#include "info_parts.h"

#include <berth/loop.h>

#include <errno.h>
#include <string.h>

#ifdef __linux__
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A bit and its name. The values are the kernel's: older headers lack some of the names. */
struct named_bit {
    const char *name;
    uint32_t bit;
};

static const struct named_bit features[] = {
    {"single_mmap", 1u << 0},    {"nodrop", 1u << 1},          {"submit_stable", 1u << 2},
    {"rw_cur_pos", 1u << 3},     {"cur_personality", 1u << 4}, {"fast_poll", 1u << 5},
    {"poll_32bits", 1u << 6},    {"sqpoll_nonfixed", 1u << 7}, {"ext_arg", 1u << 8},
    {"native_workers", 1u << 9}, {"rsrc_tags", 1u << 10},      {"cqe_skip", 1u << 11},
    {"linked_file", 1u << 12},   {"reg_reg_ring", 1u << 13},   {"recvsend_bundle", 1u << 14},
    {"min_timeout", 1u << 15},   {"rw_attr", 1u << 16},        {"no_iowait", 1u << 17},
};

static const struct named_bit setups[] = {
    {"cqsize", 1u << 3},         {"clamp", 1u << 4},
    {"submit_all", 1u << 7},     {"coop_taskrun", 1u << 8},
    {"single_issuer", 1u << 12}, {"single_issuer_defer_taskrun", (1u << 12) | (1u << 13)},
    {"no_sqarray", 1u << 16},    {"cqe32", 1u << 11},
};

/* Operations by number: what the loop uses, and what it would use. */
static const struct named_bit operations[] = {
    {"poll_add", 6},  {"sendmsg", 9}, {"recvmsg", 10}, {"accept", 13},     {"async_cancel", 14},
    {"connect", 16},  {"close", 19},  {"send", 26},    {"recv", 27},       {"splice", 30},
    {"shutdown", 34}, {"socket", 45}, {"send_zc", 47}, {"sendmsg_zc", 48}, {"recv_zc", 58},
};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define PROBE_ENTRIES 8u

static int
ring_open(uint32_t flags, struct io_uring_params *params)
{
    memset(params, 0, sizeof(*params));
    params->flags = flags;
    params->cq_entries = 4 * PROBE_ENTRIES;
    const long fd = syscall(SYS_io_uring_setup, PROBE_ENTRIES, params);
    return fd < 0 ? -errno : (int)fd;
}

/* The likely cause of a refusal, and what cures it. */
static const char *
refusal(int error)
{
    switch (error) {
    case -EPERM:
        return "refused (EPERM): a seccomp filter (containers), or sysctl kernel.io_uring_disabled";
    case -ENOSYS:
        return "not in this kernel, or hidden by a seccomp filter (ENOSYS)";
    case -ENOMEM:
        return "no memory (ENOMEM): RLIMIT_MEMLOCK is too low: ulimit -l";
    case -EMFILE:
        return "no descriptor left (EMFILE): ulimit -n";
    default:
        return strerror(-error);
    }
}

static void
write_setups(struct info_report *report)
{
    info_section(report, "setup_flags");
    for (size_t i = 0; i < COUNT_OF(setups); i++) {
        struct io_uring_params params;
        const int fd = ring_open(setups[i].bit, &params);
        info_available(report, setups[i].name, fd >= 0, fd >= 0 ? "" : strerror(-fd));
        if (fd >= 0)
            close(fd);
    }
    info_section_end(report);
}

static void
write_operations(struct info_report *report, int ring)
{
    /* The probe ends in an array that its struct declares without a length. */
    union {
        struct io_uring_probe probe;
        unsigned char bytes[sizeof(struct io_uring_probe) + 256 * sizeof(struct io_uring_probe_op)];
    } answer;
    memset(&answer, 0, sizeof(answer));
    const long error =
        syscall(SYS_io_uring_register, ring, IORING_REGISTER_PROBE, &answer.probe, 256);

    info_section(report, "operations");
    for (size_t i = 0; i < COUNT_OF(operations); i++) {
        const uint32_t op = operations[i].bit;
        const int known = error == 0 && op <= answer.probe.last_op &&
                          (answer.probe.ops[op].flags & IO_URING_OP_SUPPORTED) != 0;
        info_available(report, operations[i].name, known, "");
    }
    info_section_end(report);
}

/* The lines "feature NAME: VERDICT" of what a loop explains. */
static void
write_self_test(struct info_report *report)
{
    static const char prefix[] = "feature ";
    char text[EXPLANATION_BYTES];
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    berth_loop_options_init(&options);
    options.engine = "uring";
    if (berth_loop_create(&loop, &options) != 0)
        return; /* the engines' section says why */
    (void)berth_loop_explain(loop, text, sizeof(text));
    (void)berth_loop_destroy(loop);

    info_section(report, "self_test");
    char *rest = text;
    for (char *line = strsep(&rest, "\n"); line != NULL; line = strsep(&rest, "\n")) {
        char *verdict = strstr(line, ": ");
        if (strncmp(line, prefix, sizeof(prefix) - 1) != 0 || verdict == NULL)
            continue;
        *verdict = '\0';
        info_text(report, line + sizeof(prefix) - 1, verdict + 2);
    }
    info_section_end(report);
}

void
info_uring(struct info_report *report)
{
    struct io_uring_params params;
    const int ring = ring_open(1u << 3, &params);
    info_section(report, "io_uring");
    info_available(report, "ring", ring >= 0, ring >= 0 ? "" : refusal(ring));
    if (ring >= 0) {
        info_section(report, "features");
        for (size_t i = 0; i < COUNT_OF(features); i++)
            info_available(report, features[i].name, (params.features & features[i].bit) != 0, "");
        info_section_end(report);
        write_setups(report);
        write_operations(report, ring);
        write_self_test(report);
        info_zcrx(report);
        close(ring);
    }
    info_section_end(report);
}

#else

void
info_uring(struct info_report *report)
{
    info_section(report, "io_uring");
    info_available(report, "ring", 0, "only Linux has it");
    info_section_end(report);
}

#endif
