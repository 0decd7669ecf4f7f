/*
 * Case `copies`: how often each byte is copied, and what a gigabyte costs, on every path that bulk
 * data can take over TCP here: received, sent, sent out of a file, and passed on from one
 * connection to another; by hand, and by berth.
 *
 * The rows are the table below. Measured is the process that receives, sends or passes on; the
 * others are on another CPU (a relay's sender and receiver share it) and do what costs them little,
 * as in the cases `receive` and `send`, whose limits hold here too. Each row is compared with the
 * plain loop of its direction, 64 KiB per call, in the same rounds; each of those loops is measured
 * twice, as a control. For mapped pages the sender is another one (MSG_ZEROCOPY, a page per
 * segment), and so they have a plain loop of their own.
 *
 * Copies are counted by hand in hand-written loops: once for each time that a call moves bytes
 * between the kernel's memory and the program's; from a zero-copy send by what the kernel says of
 * it; and by berth's ledger. They are bounds: "copied" said of a zero-copy send may mean all of it,
 * or some. Copies that the other side's or the device's part of the kernel makes are nobody's.
 *
 * SPDX-License-Identifier: MIT
 */
#include "stream.h"

static const struct stream_path write_64k = {
    .name = "write-64k", .run = send_write_run, .role = STREAM_SENDS, .bytes = 64 << 10};
static const struct stream_path zerocopy_64k = {
    .name = "zerocopy-64k", .run = send_zerocopy_run, .role = STREAM_SENDS, .bytes = 64 << 10};
static const struct stream_path drain = {
    .name = "drain", .run = receive_plain_run, .bytes = 256 << 10, .mode = STREAM_SAMPLE};

/** So that a segment carries exactly a page: 4,096 bytes and 12 of timestamps. */
#define MSS_OF_A_PAGE 4108

/* What a row says besides: its name and its function, and what differs from these. */
#define RECEIVE(text, function)                                                                    \
    .name = (text), .run = (function), .role = STREAM_RECEIVES, .peer = &write_64k,                \
    .base = "recv-64k"
#define RECEIVE_PAGES(text, function)                                                              \
    .name = (text), .run = (function), .role = STREAM_RECEIVES, .peer = &zerocopy_64k,             \
    .mss = MSS_OF_A_PAGE, .base = "recv-64k-mss4108"
#define SEND(text, function)                                                                       \
    .name = (text), .run = (function), .role = STREAM_SENDS, .peer = &drain, .base = "send-64k"
#define RELAY(text, function)                                                                      \
    .name = (text), .run = (function), .role = STREAM_RELAYS, .peer = &write_64k,                  \
    .receiver = &drain, .base = "relay-64k"
#define RELAY_PAGES(text, function)                                                                \
    .name = (text), .run = (function), .role = STREAM_RELAYS, .peer = &zerocopy_64k,               \
    .receiver = &drain, .mss = MSS_OF_A_PAGE, .base = "relay-64k-mss4108"

static const struct stream_path paths[] = {
    {RECEIVE("recv-64k", receive_plain_run), .bytes = 64 << 10, .mode = STREAM_BLOCKING},
#ifdef BERTH_HAVE_LIBURING
    {RECEIVE("recv-posted-64k", receive_uring_run), .bytes = 64 << 10, .mode = STREAM_POSTED,
     .needs = "multishot receive (Linux 6.1)"},
    {RECEIVE("recv-berth-uring", receive_berth_run), .engine = "uring"},
#endif
    {RECEIVE("recv-berth-epoll", receive_berth_run), .engine = "epoll"},
    {RECEIVE_PAGES("recv-64k-mss4108", receive_plain_run), .bytes = 64 << 10,
     .mode = STREAM_BLOCKING, .needs = "MSG_ZEROCOPY"},
    {RECEIVE_PAGES("recv-mapped", receive_mapped_run),
     .needs = "TCP_ZEROCOPY_RECEIVE and MSG_ZEROCOPY"},
#ifdef BERTH_HAVE_LIBURING
    {RECEIVE_PAGES("recv-berth-mapped-uring", receive_berth_run), .engine = "uring",
     .mode = STREAM_BERTH_MAPS, .needs = "TCP_ZEROCOPY_RECEIVE and MSG_ZEROCOPY"},
#endif
    {RECEIVE_PAGES("recv-berth-mapped-epoll", receive_berth_run), .engine = "epoll",
     .mode = STREAM_BERTH_MAPS, .needs = "TCP_ZEROCOPY_RECEIVE and MSG_ZEROCOPY"},
    {RECEIVE("recv-discard", receive_plain_run), .bytes = 64 << 10, .mode = STREAM_DISCARD},

    {SEND("send-64k", send_write_run), .bytes = 64 << 10},
    {SEND("send-zerocopy-64k", send_zerocopy_run), .bytes = 64 << 10, .needs = "MSG_ZEROCOPY"},
#ifdef BERTH_HAVE_LIBURING
    {SEND("send-zc-64k", send_uring_run), .bytes = 64 << 10, .mode = STREAM_URING_ZC,
     .needs = "SEND_ZC (Linux 6.0)"},
    {SEND("send-zc-fixed-64k", send_uring_run), .bytes = 64 << 10, .mode = STREAM_URING_ZC_FIXED,
     .needs = "SEND_ZC and 2 MiB of locked memory"},
    {SEND("send-berth-uring", send_berth_run), .engine = "uring", .mode = STREAM_BERTH_COPIED},
    {SEND("send-berth-in-place-uring", send_berth_run), .engine = "uring",
     .mode = STREAM_BERTH_IN_PLACE},
#endif
    {SEND("send-berth-epoll", send_berth_run), .engine = "epoll", .mode = STREAM_BERTH_COPIED},
    {SEND("send-berth-in-place-epoll", send_berth_run), .engine = "epoll",
     .mode = STREAM_BERTH_IN_PLACE},
    {SEND("send-vmsplice-64k", send_vmsplice_run), .bytes = 64 << 10},

    {SEND("file-read-64k", send_read_run), .bytes = 64 << 10},
    {SEND("file-sendfile", send_sendfile_run)},
    {SEND("file-splice-64k", send_splice_run), .bytes = 64 << 10},
#ifdef BERTH_HAVE_LIBURING
    {SEND("file-berth-uring", send_berth_file_run), .engine = "uring"},
#endif
    {SEND("file-berth-epoll", send_berth_file_run), .engine = "epoll"},

    {RELAY("relay-64k", relay_copy_run), .bytes = 64 << 10},
    {RELAY("relay-splice", relay_splice_run), .bytes = 1 << 20},
#ifdef BERTH_HAVE_LIBURING
    {RELAY("relay-berth-uring", relay_berth_run), .engine = "uring"},
    {RELAY("relay-berth-forward-uring", relay_berth_run), .engine = "uring",
     .mode = STREAM_RELAY_FORWARD},
    {RELAY("relay-berth-splice-uring", relay_berth_run), .engine = "uring",
     .mode = STREAM_RELAY_SPLICE},
#endif
    {RELAY("relay-berth-epoll", relay_berth_run), .engine = "epoll"},
    {RELAY("relay-berth-forward-epoll", relay_berth_run), .engine = "epoll",
     .mode = STREAM_RELAY_FORWARD},
    {RELAY("relay-berth-splice-epoll", relay_berth_run), .engine = "epoll",
     .mode = STREAM_RELAY_SPLICE},
    {RELAY_PAGES("relay-64k-mss4108", relay_copy_run), .bytes = 64 << 10, .needs = "MSG_ZEROCOPY"},
    {RELAY_PAGES("relay-splice-mss4108", relay_splice_run), .bytes = 1 << 20,
     .needs = "MSG_ZEROCOPY"},
#ifdef BERTH_HAVE_LIBURING
    {RELAY_PAGES("relay-berth-pages-uring", relay_berth_run), .engine = "uring",
     .mode = STREAM_RELAY_PAGES, .needs = "TCP_ZEROCOPY_RECEIVE and MSG_ZEROCOPY"},
#endif
    {RELAY_PAGES("relay-berth-pages-epoll", relay_berth_run), .engine = "epoll",
     .mode = STREAM_RELAY_PAGES, .needs = "TCP_ZEROCOPY_RECEIVE and MSG_ZEROCOPY"},
    {.name = NULL},
};

static int
run(struct bench *bench)
{
    static const struct stream_case one = {
        .table = "copies",
        .paths = paths,
        .baseline = "recv-64k",
        .compared_with = "the plain loop of the same direction (recv-64k, send-64k for files too, "
                         "relay-64k; where pages are mapped recv-64k-mss4108, relay-64k-mss4108)",
    };
    const int error = stream_case_run(bench, &one);
    report_note(&bench->report,
                "copies are those of the measured process: in a relay both of receiving and of "
                "sending; a zero-copy send counts as copied at most once when the kernel says that "
                "it copied some (loopback always does), or has said nothing yet");
    report_note(&bench->report,
                "verified: one word in each 4 KiB of what comes out (of sends, files and relays in "
                "every 16th receive; of recv-discard nothing)");
    return error;
}

static const char *
variant(unsigned at)
{
    return stream_case_variant(paths, at);
}

static const struct report_plot plots[] = {
    {
        .name = "copies-per-byte",
        .title = "Copies per byte, at most: what the kernel or the ledger cannot rule out",
        .table = "copies",
        .y = "copies_per_byte",
        .y_title = "copies per byte",
    },
    {
        .name = "copies-cpu",
        .title = "Processor time per GB of whoever receives, sends or passes on: lower is better",
        .table = "copies",
        .y = "cpu_ms_per_gb",
        .y_title = "ms per GB",
    },
    {.name = NULL},
};

const struct bench_case bench_case_copies = {
    .name = "copies",
    .summary = "bulk data in, out, out of files and through: copies per byte, CPU per GB",
    .run = run,
    .variant = variant,
    .normal = {.rounds = 9, .seconds = 0.3},
    .quick = {.rounds = 3, .seconds = 0.05},
    .full = {.rounds = 21, .seconds = 0.6},
    .plots = plots,
};
