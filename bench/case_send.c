/*
 * Case `send`: bulk data over one loopback connection, sent in every way there is: send(2) of
 * several sizes, vectors, io_uring, the two zero-copy sends, files, pages through a pipe, and
 * berth's leases. What a gigabyte costs the sender, and how often the kernel says it copied each
 * byte.
 *
 * Measured is the processor time of the sending process. The receiver is another process on another
 * CPU: it has the kernel throw the bytes away (MSG_TRUNC), except in one call of 16, which receives
 * and compares one word in each 4 KiB with what was to be sent there. So draining costs little and
 * wrong bytes are noticed all the same. It sleeps until 1 MiB has come, because on loopback it is
 * the sender who pays for waking it. Each slice has a connection of its own. Everybody sends the
 * same 2 MiB over and over, from huge pages where there are any (files: from the page cache).
 *
 * berth is measured as it is, never in place, and always in place.
 *
 * What it cannot show: zero-copy sends at their best. Loopback has no device that could read the
 * pages: MSG_ZEROCOPY and SEND_ZC take references, and then the kernel copies when it hands the
 * bytes to the receiving socket, and says so. sendfile, splice and vmsplice do pass pages through.
 * The data is in a cache, and nobody changes it between two sends: a program that may not touch
 * what is under way needs more memory than this. GB per second are those of the slower side, of two
 * CPUs; CPU per GB is the claim. The kernel's work to receive a segment is done on the CPU that
 * sent it, and counts for the sender here; with a device between them it would not.
 *
 * SPDX-License-Identifier: MIT
 */
#include "stream.h"

static const struct stream_path drain = {
    .name = "drain", .run = receive_plain_run, .bytes = 256 << 10, .mode = STREAM_SAMPLE};

#define PATH(text, function, size)                                                                 \
    {                                                                                              \
        .name = (text), .run = (function), .role = STREAM_SENDS, .peer = &drain, .bytes = (size)   \
    }
#define URING(text, how, kernel)                                                                   \
    {                                                                                              \
        .name = (text), .run = send_uring_run, .role = STREAM_SENDS, .peer = &drain,               \
        .bytes = 64 << 10, .mode = (how), .needs = (kernel)                                        \
    }
#define BERTH(text, which, how)                                                                    \
    {                                                                                              \
        .name = (text), .run = send_berth_run, .role = STREAM_SENDS, .peer = &drain,               \
        .engine = (which), .mode = (how)                                                           \
    }

static const struct stream_path paths[] = {
    PATH("write-4k", send_write_run, 4 << 10),
    PATH("write-16k", send_write_run, 16 << 10),
    PATH("write-64k", send_write_run, 64 << 10),
    PATH("write-256k", send_write_run, 256 << 10),
    PATH("writev-4k", send_writev_run, 4 << 10),
    BERTH("berth-epoll", "epoll", STREAM_BERTH),
    BERTH("berth-epoll-copied", "epoll", STREAM_BERTH_COPIED),
    BERTH("berth-epoll-in-place", "epoll", STREAM_BERTH_IN_PLACE),
#ifdef BERTH_HAVE_LIBURING
    BERTH("berth-uring", "uring", STREAM_BERTH),
    BERTH("berth-uring-copied", "uring", STREAM_BERTH_COPIED),
    BERTH("berth-uring-in-place", "uring", STREAM_BERTH_IN_PLACE),
    URING("uring-send-64k", STREAM_URING_SEND, "io_uring (Linux 6.1)"),
    URING("send-zc-64k", STREAM_URING_ZC, "SEND_ZC (Linux 6.0)"),
    URING("send-zc-fixed-64k", STREAM_URING_ZC_FIXED, "SEND_ZC and 2 MiB of locked memory"),
#endif
    {.name = "zerocopy-64k",
     .run = send_zerocopy_run,
     .role = STREAM_SENDS,
     .peer = &drain,
     .bytes = 64 << 10,
     .needs = "MSG_ZEROCOPY"},
    PATH("sendfile", send_sendfile_run, 0),
    PATH("splice", send_splice_run, 64 << 10),
    PATH("vmsplice", send_vmsplice_run, 64 << 10),
    {.name = NULL},
};

static int
run(struct bench *bench)
{
    static const struct stream_case one = {
        .table = "send", .paths = paths, .baseline = "write-64k"};
    const int error = stream_case_run(bench, &one);
    report_note(&bench->report,
                "verified: one word in each 4 KiB of what every 16th receive took; the other "
                "receives throw the bytes away, so that draining is cheap");
    report_note(&bench->report,
                "copies are the sending side's: zero-copy sends by their notifications (loopback "
                "copies after all), berth by its ledger; sendfile, splice and vmsplice pass pages "
                "and notify nobody");
    return error;
}

static const char *
variant(unsigned at)
{
    return stream_case_variant(paths, at);
}

static const struct report_plot plots[] = {
    {
        .name = "send-cpu",
        .title = "Sender's processor time per GB: lower is better; memcpy is the limit of a copy",
        .table = "send",
        .y = "cpu_ms_per_gb",
        .y_title = "ms per GB",
    },
    {
        .name = "send-rate",
        .title = "GB per second over one loopback connection",
        .table = "send",
        .y = "gb_per_second",
        .y_title = "GB per second",
    },
    {.name = NULL},
};

const struct bench_case bench_case_send = {
    .name = "send",
    .summary = "bulk data out: CPU per GB and copies per byte of each way to send",
    .run = run,
    .variant = variant,
    .normal = {.rounds = 9, .seconds = 0.3},
    .quick = {.rounds = 3, .seconds = 0.05},
    .full = {.rounds = 21, .seconds = 0.6},
    .plots = plots,
};
