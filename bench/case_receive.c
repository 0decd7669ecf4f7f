/*
 * Case `receive`: bulk data over one loopback connection, received in every way there is: recv(2)
 * into buffers of several sizes, io_uring into posted buffers, into mapped pages, not at all, and
 * by berth's loop. What a gigabyte costs the receiver, and how often each byte was copied.
 *
 * Measured is the processor time of the receiving process. The sender is another process on another
 * CPU, which sends as fast as it can with 64 KiB per call (for those with `mapped` or `mss4108` in
 * their names with MSG_ZEROCOPY and a page per segment, which is what makes mapping possible). Each
 * slice has a connection of its own. A receiver that sleeps is woken for 1 MiB, whatever it is:
 * alone with one connection it would sleep after every segment, and waking up would be measured
 * (stream.h). Every receiver compares one word in each 4 KiB with what was sent there, so every
 * page is touched once; `discard` cannot.
 *
 * What it cannot show: speed. With one CPU for each side the sender saturates first, and GB per
 * second are then the sender's; CPU per GB is the claim. The application here does nothing with the
 * bytes but touch one word per page: whoever reads them all pays the cache misses that a copy has
 * already paid, and mapping looks worse. Loopback: there is no device, so what interrupts cost is
 * missing, and the kernel's work for a segment is done on the CPU of whoever sent it: mostly the
 * sender, but acknowledging may send on what waits, and then the receiver pays for that too (the
 * data has the sum of both sides as well). Time in ksoftirqd, or in softirqs where the kernel
 * accounts for them apart, belongs to no process.
 *
 * SPDX-License-Identifier: MIT
 */
#include "stream.h"

static const struct stream_path write_64k = {
    .name = "write-64k", .run = send_write_run, .bytes = 64 << 10};
static const struct stream_path zerocopy_64k = {
    .name = "zerocopy-64k", .run = send_zerocopy_run, .bytes = 64 << 10};

/** So that a segment carries exactly a page: 4,096 bytes and 12 of timestamps. */
#define MSS_OF_A_PAGE 4108

#define PLAIN(text, how, size)                                                                     \
    {                                                                                              \
        .name = (text), .run = receive_plain_run, .peer = &write_64k, .bytes = (size),             \
        .mode = (how)                                                                              \
    }
#define URING(text, how, size, kernel)                                                             \
    {                                                                                              \
        .name = (text), .run = receive_uring_run, .peer = &write_64k, .bytes = (size),             \
        .mode = (how), .needs = (kernel)                                                           \
    }
#define BERTH(text, which)                                                                         \
    {                                                                                              \
        .name = (text), .run = receive_berth_run, .peer = &write_64k, .engine = (which)            \
    }

/** The same loop, from the sender of whole pages: copying, and mapping. */
#define BERTH_PAGES(text, which, how, kernel)                                                      \
    {                                                                                              \
        .name = (text), .run = receive_berth_run, .peer = &zerocopy_64k, .engine = (which),        \
        .mode = (how), .mss = MSS_OF_A_PAGE, .needs = (kernel)                                     \
    }
#define MAPPING "TCP_ZEROCOPY_RECEIVE and MSG_ZEROCOPY"

static const struct stream_path paths[] = {
    PLAIN("recv-4k", STREAM_BLOCKING, 4 << 10),
    PLAIN("recv-16k", STREAM_BLOCKING, 16 << 10),
    PLAIN("recv-64k", STREAM_BLOCKING, 64 << 10),
    PLAIN("recv-256k", STREAM_BLOCKING, 256 << 10),
    PLAIN("epoll-4k", STREAM_EPOLL, 4 << 10),
    PLAIN("epoll-64k", STREAM_EPOLL, 64 << 10),
    BERTH("berth-epoll", "epoll"),
    BERTH_PAGES("berth-epoll-mss4108", "epoll", STREAM_BERTH, "MSG_ZEROCOPY"),
    BERTH_PAGES("berth-epoll-mapped", "epoll", STREAM_BERTH_MAPS, MAPPING),
#ifdef BERTH_HAVE_LIBURING
    BERTH("berth-uring", "uring"),
    BERTH_PAGES("berth-uring-mss4108", "uring", STREAM_BERTH, "MSG_ZEROCOPY"),
    BERTH_PAGES("berth-uring-mapped", "uring", STREAM_BERTH_MAPS, MAPPING),
    URING("posted-4k", STREAM_POSTED, 4 << 10, "multishot receive (Linux 6.1)"),
    URING("posted-16k", STREAM_POSTED, 16 << 10, "multishot receive (Linux 6.1)"),
    URING("posted-64k", STREAM_POSTED, 64 << 10, "multishot receive (Linux 6.1)"),
    URING("bundle-4k", STREAM_BUNDLE, 4 << 10, "receive bundles (Linux 6.10)"),
    URING("incremental-64k", STREAM_INCREMENTAL, 64 << 10, "incremental buffers (Linux 6.12)"),
#endif
    {.name = "recv-64k-mss4108",
     .run = receive_plain_run,
     .peer = &zerocopy_64k,
     .bytes = 64 << 10,
     .mode = STREAM_BLOCKING,
     .mss = MSS_OF_A_PAGE,
     .needs = "MSG_ZEROCOPY"},
    {.name = "mapped",
     .run = receive_mapped_run,
     .peer = &zerocopy_64k,
     .mss = MSS_OF_A_PAGE,
     .needs = MAPPING},
    PLAIN("discard", STREAM_DISCARD, 64 << 10),
    {.name = NULL},
};

static int
run(struct bench *bench)
{
    static const struct stream_case one = {
        .table = "receive", .paths = paths, .baseline = "recv-64k"};
    const int error = stream_case_run(bench, &one);
    report_note(&bench->report,
                "the sender sends 64 KiB per call, and is what limits GB per second where `other "
                "busy` is near 1; what has mss4108 in its name is what to compare mapped with: "
                "their sender is another one (MSG_ZEROCOPY, segments of one page)");
    report_note(&bench->report,
                "verified: one word in each 4 KiB against what was sent there (not for discard, "
                "which sees no bytes); posted buffers are 2 MiB in all; a receiver that sleeps is "
                "woken for 1 MiB (SO_RCVLOWAT)");
    return error;
}

static const char *
variant(unsigned at)
{
    return stream_case_variant(paths, at);
}

static const struct report_plot plots[] = {
    {
        .name = "receive-cpu",
        .title = "Receiver's processor time per GB: lower is better; memcpy is the limit of a copy",
        .table = "receive",
        .y = "cpu_ms_per_gb",
        .y_title = "ms per GB",
    },
    {
        .name = "receive-rate",
        .title = "GB per second over one loopback connection: often the sender's limit",
        .table = "receive",
        .y = "gb_per_second",
        .y_title = "GB per second",
    },
    {.name = NULL},
};

const struct bench_case bench_case_receive = {
    .name = "receive",
    .summary = "bulk data in: CPU per GB and copies per byte of each way to receive",
    .run = run,
    .variant = variant,
    .normal = {.rounds = 9, .seconds = 0.3},
    .quick = {.rounds = 3, .seconds = 0.05},
    .full = {.rounds = 21, .seconds = 0.6},
    .plots = plots,
};
