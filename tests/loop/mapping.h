/*
 * What the tests of mapped receives share: one connection whose peer sends in whole pages, or not,
 * and what has come of it.
 *
 * The bytes are a sequence of 4 MiB, over and over, in memory that never changes: a zero-copy send
 * may look at it for as long as it likes.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_MAPPING_H
#define BERTH_TESTS_LOOP_MAPPING_H

#include "loop/loop_rig.h"

#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "loop/loop_internal.h"
#include "loop/mapped.h"
#include "loop/pull.h"
#include "loop/window.h"

#define TURNS 400
#define MIB ((size_t)1 << 20)
#define SEQUENCE_BYTES (4 * MIB)
#define KEPT_MAX 2048

/** With time stamps, 4,096 bytes of each segment are payload. */
#define SEGMENT_PAGES 4108

static unsigned char *sequence;

static struct mapping {
    struct rig rig;
    struct berth_conn *conn;
    int client;
    int plain;               /**< the client sends without MSG_ZEROCOPY */
    uint64_t sent, received; /**< positions in the sequence */
    unsigned ends, closes, wrong;
    int reason;
    int force;     /**< berth_conn_map in open */
    int force_to;  /**< what it answered */
    unsigned keep; /**< so many spans */
    int echo;
    /** In the data callback, when all is counted. */
    void (*act)(struct berth_conn *conn, const struct berth_span *spans, unsigned n);
    struct {
        struct berth_lease lease;
        uint64_t position;
        const unsigned char *data;
    } kept[KEPT_MAX];
    unsigned kept_count;
} w;

static inline void
make_sequence(void)
{
    uint64_t state = 0x9e3779b97f4a7c15u;
    void *memory = NULL;
    if (sequence != NULL)
        return;
    ck_assert_int_eq(posix_memalign(&memory, 4096, SEQUENCE_BYTES), 0);
    sequence = memory;
    for (size_t i = 0; i < SEQUENCE_BYTES; i++) {
        if (i % 8 == 0)
            state = state * 6364136223846793005u + 1442695040888963407u;
        sequence[i] = (unsigned char)(state >> (24 + 5 * (i % 8)));
    }
}

/** Whether the bytes stand at that position of the sequence. */
static inline int
is_sequence(const unsigned char *data, uint64_t position, size_t length)
{
    while (length > 0) {
        const size_t at = (size_t)(position % SEQUENCE_BYTES);
        const size_t piece = length < SEQUENCE_BYTES - at ? length : SEQUENCE_BYTES - at;
        if (memcmp(data, sequence + at, piece) != 0)
            return 0;
        data += piece;
        position += piece;
        length -= piece;
    }
    return 1;
}

static int
on_open(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    w.conn = conn;
    if (w.force)
        w.force_to = berth_conn_map(conn, 1);
    return 0;
}

static void
keep(struct berth_conn *conn, const struct berth_span *span)
{
    w.keep--;
    ck_assert_uint_lt(w.kept_count, KEPT_MAX);
    w.kept[w.kept_count].position = w.received;
    w.kept[w.kept_count].data = span->data;
    ck_assert_int_eq(berth_retain(berth_loop_pool(berth_conn_loop(conn)), span, 0, span->length, 0,
                                  &w.kept[w.kept_count++].lease),
                     0);
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    size_t total = 0;
    for (unsigned i = 0; i < n; i++) {
        w.wrong += !is_sequence(spans[i].data, w.received, spans[i].length);
        if (w.keep > 0)
            keep(conn, &spans[i]);
        if (w.echo) {
            struct berth_lease lease;
            ck_assert_int_eq(berth_retain(berth_loop_pool(berth_conn_loop(conn)), &spans[i], 0,
                                          spans[i].length, 0, &lease),
                             0);
            ck_assert_int_eq(berth_send_lease(conn, lease), 0);
        }
        w.received += spans[i].length;
        total += spans[i].length;
    }
    ck_assert_uint_eq(total, bytes);
    if (w.act != NULL)
        w.act(conn, spans, n);
}

static void
on_eof(struct berth_conn *conn)
{
    w.ends++;
    (void)berth_conn_close(conn);
}

static void
on_close(struct berth_conn *conn, int reason)
{
    (void)conn;
    w.closes++;
    w.reason = reason;
    w.conn = NULL;
}

static const struct berth_handlers handlers = {
    .open = on_open, .data = on_data, .eof = on_eof, .close = on_close};

/** A client whose segments are so long (0: as the kernel likes), and that may send zero-copy. */
static inline int
connect_client(int segment)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    const int one = 1;
    const int listener = berth_listener_fd(w.rig.listener);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    const int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    if (segment > 0) {
        ck_assert_int_eq(setsockopt(listener, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof(segment)),
                         0);
        ck_assert_int_eq(setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof(segment)), 0);
    }
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)), 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, size), 0);
    return fd;
}

static inline void
begin_with(const struct berth_loop_options *options, int segment, int force)
{
    make_sequence();
    memset(&w, 0, sizeof(w));
    w.force = force;
    rig_begin(&w.rig, options, &handlers, NULL);
    w.client = connect_client(segment);
    RIG_UNTIL(&w.rig, w.conn != NULL, TURNS);
}

/** 1 if it can be tried on that engine. */
static inline int
begin(const char *engine, int segment, int force)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.map_receive = 1;
    options.conn_stats = 1;
    if (options.direct_descriptors)
        return 0;
    begin_with(&options, segment, force);
    if (force)
        ck_assert_int_eq(w.force_to, 0);
    return 1;
}

static inline void
release_kept(void)
{
    while (w.kept_count > 0)
        ck_assert_int_eq(berth_release(berth_loop_pool(w.rig.loop), w.kept[--w.kept_count].lease),
                         0);
}

static inline void
finish(void)
{
    ck_assert_uint_eq(w.wrong, 0);
    if (w.client >= 0)
        rig_close_all(&w.rig, &w.client, 1);
    RIG_UNTIL(&w.rig, berth_loop_conns(w.rig.loop) == 0, TURNS);
    release_kept();
    (void)rig_turn(&w.rig, 0);
    ck_assert_uint_eq(w.rig.loop->pulling, 0);
    rig_end(&w.rig);
}

/** The kernel says which sends it is done with: nobody wants to know, but it must be read. */
static inline void
drop_notices(void)
{
    char control[128];
    struct msghdr message;
    do {
        memset(&message, 0, sizeof(message));
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
    } while (recvmsg(w.client, &message, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0);
}

/** Sends as much of the sequence as the socket takes, up to that position. */
static inline void
feed(uint64_t up_to)
{
    while (w.sent < up_to) {
        const size_t at = (size_t)(w.sent % SEQUENCE_BYTES);
        size_t length = SEQUENCE_BYTES - at < 256 * 1024 ? SEQUENCE_BYTES - at : 256 * 1024;
        if (up_to - w.sent < length)
            length = (size_t)(up_to - w.sent);
        const ssize_t sent = send(w.client, sequence + at, length,
                                  MSG_DONTWAIT | MSG_NOSIGNAL | (w.plain ? 0 : MSG_ZEROCOPY));
        if (sent <= 0)
            break;
        w.sent += (uint64_t)sent;
    }
    drop_notices();
}

/**
 * So many bytes on the way do not fill the receiver's window. Who runs into it has segments cut
 * wherever the window happens to end, and the rest of such a page cannot be mapped.
 */
#define ON_THE_WAY (128 * 1024)

/** Feeds and turns until all of it has come. */
static inline void
pass(uint64_t up_to)
{
    for (unsigned turns = 0; w.received < up_to; turns++) {
        ck_assert_uint_lt(turns, 40000);
        feed(up_to - w.received < ON_THE_WAY ? up_to : w.received + ON_THE_WAY);
        (void)rig_turn(&w.rig, RIG_TURN_MS);
    }
    ck_assert_uint_eq(w.received, up_to);
    ck_assert_uint_eq(w.wrong, 0);
}

static inline void
turn_some(unsigned turns)
{
    while (turns-- > 0)
        (void)rig_turn(&w.rig, 0);
}

static inline struct berth_copies
copies(void)
{
    struct berth_copies copies;
    berth_loop_copies_get(w.rig.loop, &copies);
    ck_assert_uint_eq(copies.received, copies.received_mapped + copies.received_kernel);
    ck_assert_uint_eq(copies.received, w.received);
    return copies;
}

/** Turns until nothing is left to unmap. */
static inline void
settle_windows(void)
{
    for (unsigned i = 0; i < 4; i++)
        (void)rig_turn(&w.rig, 0);
}

#endif
