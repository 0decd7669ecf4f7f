/*
 * Bulk data over one loopback TCP connection, from one process to another, or over two with a relay
 * between them: what the ways to receive, to send and to pass on have in common. Each side is a
 * process of its own with a page of counters (server.h), which it looks at between two calls, so
 * that processor time, bytes and system calls belong to exactly the same work.
 *
 * Every sender sends the same STREAM_SOURCE_BYTES over and over. They hold a check word every
 * STREAM_CHECK_EVERY bytes, each another one, and every receiver that gets to see the bytes
 * compares them: lost, doubled or reordered pieces are found unless they make up whole rounds of
 * the source.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_STREAM_H
#define BENCH_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "bench.h"
#include "server.h"

/** What is sent over and over: more than a second-level cache holds, less than the last level. */
#define STREAM_SOURCE_BYTES ((size_t)2 << 20)

/** A page: so a receiver that is given whole pages touches each of them once. */
#define STREAM_CHECK_EVERY 4096u

/**
 * A receiver that sleeps is woken when so much has come (SO_RCVLOWAT). With a connection to itself
 * it outpaces the sender, and would otherwise sleep and be woken for every segment, which costs
 * more than copying it: a server with other work to do does not. The sender is charged for waking
 * it.
 */
#define STREAM_WAKE_BYTES (1 << 20)

/** No call of either side blocks for longer: then it looks whether it is to stop. */
#define STREAM_BLOCK_MS 500

struct stream_side;

/** What a process does in a stream. */
enum stream_role { STREAM_RECEIVES, STREAM_SENDS, STREAM_RELAYS };
#define STREAM_ROLES 3

/** One way to receive, to send, or to pass on. */
struct stream_path {
    const char *name;
    /** Works until stream_goes_on says no, or the peer is gone. 0, or -errno if it cannot. */
    int (*run)(struct stream_side *side);
    enum stream_role role;
    const struct stream_path *peer;     /**< what the other process does meanwhile; of a relay: the
                                             sender */
    const struct stream_path *receiver; /**< of a relay: who gets what it passes on */
    const char *base;   /**< the path it is compared with; NULL: the case's baseline */
    uint32_t bytes;     /**< of one call, or of one buffer */
    unsigned mode;      /**< the affair of `run` */
    int mss;            /**< TCP_MAXSEG of both ends; 0: left alone */
    const char *engine; /**< of berth's loop */
    const char *needs;  /**< what a kernel may refuse, for people; or NULL */
};

/** One end of the connection, in its own process. */
struct stream_side {
    struct server_control *control;
    const struct stream_path *path;
    int fd;        /**< connected and blocking; calls that block end after STREAM_BLOCK_MS */
    int fd_onward; /**< of a relay: likewise, to the receiver; `fd` is from the sender. Else -1 */
    struct server_counters counters;
    unsigned char *source; /**< of senders */
    size_t source_at;      /**< what goes out next */
};

/** What one slice says. 1 GB is 1e9 bytes, 1 MB is 1e6. */
struct stream_result {
    double cpu_ms_per_gb; /**< of the side that is measured */
    double gb_per_second;
    double copies_per_byte; /**< at most; NAN: the kernel does not say */
    double copies_least;    /**< at least */
    double syscalls_per_mb;
    double other_cpu_ms_per_gb; /**< of all the other sides */
    double busy, other_busy;    /**< shares of one CPU */
    double checked;             /**< words checked per STREAM_CHECK_EVERY bytes received */
};

struct stream_options {
    const struct stream_path *path; /**< what is measured; it names the others */
    int cpu_measured, cpu_other;    /**< -1: anywhere */
    uint64_t warm_ns, run_ns;
};

/**
 * Measures one slice over a fresh connection. 0; -errno of what went wrong; -EPROTO: other bytes
 * came out than went in; -ECANCELED when interrupted.
 */
int stream_measure(const struct stream_options *options, struct stream_result *result);

/* ---- for the sides ------------------------------------------------------------------------------
 */

/** Whether to go on. Answers the measurer if he asks. */
static inline bool
stream_goes_on(struct stream_side *side)
{
    if (server_asked(side->control))
        server_answer(side->control, &side->counters);
    return server_running(side->control);
}

/** Says that everything is set up. */
void stream_ready(struct stream_side *side);

/** What a call that failed with `error` (-errno) means: 0 go on, 1 the peer is gone, or -errno. */
int stream_call_failed(int error);

/** Page-aligned memory, in huge pages where there are any, as berth's pool has it. NULL: none. */
unsigned char *stream_memory(size_t bytes);

/** Fills in side->source. 0 or -ENOMEM. */
int stream_source_make(struct stream_side *side);

/** An unnamed file in memory that holds the source. A descriptor or -errno. */
int stream_source_file(struct stream_side *side);

/** How much to send next: the wanted number of bytes, or what is left of the source. */
static inline size_t
stream_source_piece(const struct stream_side *side, size_t wanted)
{
    const size_t left = STREAM_SOURCE_BYTES - side->source_at;
    return wanted < left ? wanted : left;
}

/** `bytes` have gone out. */
static inline void
stream_sent(struct stream_side *side, size_t bytes)
{
    side->counters.received_bytes += bytes;
    side->source_at += bytes;
    if (side->source_at >= STREAM_SOURCE_BYTES)
        side->source_at -= STREAM_SOURCE_BYTES;
}

/** It is known that of `bytes`, `copied` were copied by the kernel (a byte counts each time). */
static inline void
stream_settled(struct stream_side *side, size_t bytes, size_t copied)
{
    side->counters.settled_bytes += bytes;
    side->counters.copied_bytes += copied;
    side->counters.copied_least += copied;
}

/** The kernel says of a zero-copy send of `bytes` that it did not copy, or that it did: "some". */
static inline void
stream_notified(struct stream_side *side, size_t bytes, bool copied)
{
    side->counters.settled_bytes += bytes;
    side->counters.copied_bytes += copied ? bytes : 0;
}

/** The word at place number `at` of the stream: neighbours differ in many bits. */
static inline uint64_t
stream_word(uint64_t at)
{
    const uint64_t place = at % (STREAM_SOURCE_BYTES / STREAM_CHECK_EVERY);
    return (place + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

/** `bytes` have come in and lie at `data`: checks the words in them. A word cut in two is left out.
 */
static inline void
stream_received(struct stream_side *side, const unsigned char *data, size_t bytes)
{
    struct server_counters *counters = &side->counters;
    const uint64_t offset = counters->received_bytes;
    size_t at = (size_t)(-offset & (STREAM_CHECK_EVERY - 1));
    for (; at + sizeof(uint64_t) <= bytes; at += STREAM_CHECK_EVERY) {
        uint64_t word;
        memcpy(&word, data + at, sizeof word);
        counters->words_wrong += word != stream_word((offset + at) / STREAM_CHECK_EVERY);
        counters->words_checked++;
    }
    counters->received_bytes = offset + bytes;
}

/** `bytes` have come in, and nobody has seen them. */
static inline void
stream_discarded(struct stream_side *side, size_t bytes)
{
    side->counters.received_bytes += bytes;
    stream_settled(side, bytes, 0);
}

/* ---- the ways ----------------------------------------------------------------------------------
 */

enum stream_plain_mode {
    STREAM_BLOCKING, /**< a call that waits */
    STREAM_EPOLL,    /**< epoll, then calls until there is no more */
    STREAM_DISCARD,  /**< the kernel throws the bytes away */
    STREAM_SAMPLE,   /**< the same, but for one call in STREAM_SAMPLE_EVERY */
};
#define STREAM_SAMPLE_EVERY 16u

enum stream_posted_mode { STREAM_POSTED, STREAM_BUNDLE, STREAM_INCREMENTAL };
enum stream_relay_mode {
    STREAM_RELAY_SPANS,
    STREAM_RELAY_FORWARD, /**< leases, by berth_forward */
    STREAM_RELAY_SPLICE,  /**< a pipe, by berth_forward */
    STREAM_RELAY_PAGES,   /**< leases of mapped pages, read in place, by berth_forward */
};
enum stream_uring_mode { STREAM_URING_SEND, STREAM_URING_ZC, STREAM_URING_ZC_FIXED };

/** On berth's loop: as it is; senders never in place, and always in place; receivers that map. */
enum stream_berth_mode {
    STREAM_BERTH,
    STREAM_BERTH_COPIED,
    STREAM_BERTH_IN_PLACE,
    STREAM_BERTH_MAPS,
};

int receive_plain_run(struct stream_side *side);
int receive_uring_run(struct stream_side *side);
int receive_mapped_run(struct stream_side *side);
int receive_berth_run(struct stream_side *side);
int relay_copy_run(struct stream_side *side);
int relay_splice_run(struct stream_side *side);
int relay_berth_run(struct stream_side *side);
int send_write_run(struct stream_side *side);
int send_writev_run(struct stream_side *side);
int send_read_run(struct stream_side *side);
int send_sendfile_run(struct stream_side *side);
int send_splice_run(struct stream_side *side);
int send_vmsplice_run(struct stream_side *side);
int send_zerocopy_run(struct stream_side *side);
int send_uring_run(struct stream_side *side);
int send_berth_run(struct stream_side *side);
int send_berth_file_run(struct stream_side *side);

/* ---- the cases: stream_case.c, stream_memcpy.c --------------------------------------------------
 */

struct stream_case {
    const char *table;
    const struct stream_path *paths; /**< ended by a NULL name */
    const char *baseline;            /**< of paths that name none */
    const char *compared_with;       /**< what ratios are to, for people; NULL: the baseline */
};

/**
 * Measures every path wanted, what it is compared with (that twice), and memcpy, and adds the
 * table. 0 or -EIO.
 */
int stream_case_run(struct bench *bench, const struct stream_case *one);

/** The name of variant number `at` of a case: its paths, then memcpy's. NULL past the last. */
const char *stream_case_variant(const struct stream_path *paths, unsigned at);

/** Plain copying in memory, number `at`, as a subject for bench_rounds. False past the last. */
bool stream_memcpy_subject(unsigned at, struct bench_subject *subject);

/** Gives the memory back. */
void stream_memcpy_end(void);

/** What the subjects of all these cases measure. */
enum stream_metric {
    STREAM_CPU_MS,
    STREAM_RATE,
    STREAM_COPIES,
    STREAM_COPIES_LEAST,
    STREAM_SYSCALLS,
    STREAM_OTHER_CPU_MS,
    STREAM_BOTH_CPU_MS,
    STREAM_BUSY,
    STREAM_OTHER_BUSY,
    STREAM_CHECKED,
    STREAM_METRICS
};

#endif
