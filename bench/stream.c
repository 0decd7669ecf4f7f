/*
 * One slice of a stream: a connection, a process at each end, a warm-up, and two looks at the
 * counters of both. How bytes are received or sent is not here: see receive_*.c and send_*.c.
 *
 * SPDX-License-Identifier: MIT
 */
#include "stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine.h"

/** Of memory, as the kernel's huge pages are. */
#define HUGE_BYTES ((size_t)2 << 20)

/* ---- the sides ------------------------------------------------------------------------------- */

/** What the next process to be forked is to do. */
static struct {
    const struct stream_path *path;
    int fd, fd_of_other;
} next_side;

void
stream_ready(struct stream_side *side)
{
    server_ready(side->control, 0);
}

int
stream_call_failed(int error)
{
    switch (error) {
    case -EAGAIN:
    case -EINTR:
        return 0;
    case -ECONNRESET:
    case -EPIPE:
        return 1;
    default:
        return error;
    }
}

unsigned char *
stream_memory(size_t bytes)
{
    const size_t rounded = (bytes + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
    unsigned char *memory = mmap(NULL, rounded + HUGE_BYTES, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    memory += (size_t)(-(uintptr_t)memory & (HUGE_BYTES - 1));
    madvise(memory, rounded, MADV_HUGEPAGE); /* refused: then ordinary pages */
    memset(memory, 0, rounded);
    return memory;
}

int
stream_source_make(struct stream_side *side)
{
    side->source = stream_memory(STREAM_SOURCE_BYTES);
    if (side->source == NULL)
        return -ENOMEM;
    for (size_t at = 0; at < STREAM_SOURCE_BYTES; at++)
        side->source[at] = (unsigned char)(at * 31 + (at >> 8));
    for (size_t at = 0; at < STREAM_SOURCE_BYTES; at += STREAM_CHECK_EVERY) {
        const uint64_t word = stream_word(at / STREAM_CHECK_EVERY);
        memcpy(side->source + at, &word, sizeof word);
    }
    return 0;
}

int
stream_source_file(struct stream_side *side)
{
    int error = stream_source_make(side);
    if (error != 0)
        return error;
    const int file = memfd_create("berth-bench", MFD_CLOEXEC);
    if (file < 0)
        return -errno;
    const ssize_t written = write(file, side->source, STREAM_SOURCE_BYTES);
    if (written == (ssize_t)STREAM_SOURCE_BYTES)
        return file;
    error = written < 0 ? -errno : -ENOSPC;
    close(file);
    return error;
}

static int
serve(struct server_control *control, const struct server_kind *kind)
{
    struct stream_side side = {.control = control, .path = next_side.path, .fd = next_side.fd};
    (void)kind;
    /* sendfile(2) and splice(2) have no flag for "no signal when the peer is gone". */
    signal(SIGPIPE, SIG_IGN);
    /* While this process holds the other end too, the death of the other goes unnoticed. */
    if (next_side.fd_of_other >= 0)
        close(next_side.fd_of_other);
    return side.path->run(&side);
}

/* ---- the connection -------------------------------------------------------------------------- */

/** What both ends have alike. Buffers are left to the kernel, which sizes them as it goes. */
static int
tune(int fd, int mss)
{
    const struct timeval most = {0, STREAM_BLOCK_MS * 1000};
    int error = server_socket_tune(fd);
    if (error == 0 && (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most) != 0 ||
                       setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most) != 0 ||
                       (mss > 0 && setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &mss, sizeof mss) != 0)))
        error = -errno;
    return error;
}

static void
close_both(int fds[2])
{
    for (int i = 0; i < 2; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

/** Connects fds[0], which receives, to fds[1] through a listener that is gone afterwards. 0 or
 * -errno. */
static int
connect_both(int fds[2], int mss)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    const int wake = STREAM_WAKE_BYTES;
    uint16_t port = 0;
    fds[0] = fds[1] = -1;
    const int listener = server_listen(&port);
    if (listener < 0)
        return listener;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    int error = tune(listener, mss);
    fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (error == 0 && fds[1] < 0)
        error = -errno;
    if (error == 0)
        error = tune(fds[1], mss);
    /* The kernel completes the connection by itself: the accept finds it done. */
    if (error == 0 && (connect(fds[1], (struct sockaddr *)&address, sizeof address) != 0 ||
                       (fds[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0))
        error = -errno;
    if (error == 0)
        error = tune(fds[0], mss);
    if (error == 0 && setsockopt(fds[0], SOL_SOCKET, SO_RCVLOWAT, &wake, sizeof wake) != 0)
        error = -errno;
    close(listener);
    if (error != 0)
        close_both(fds);
    return error;
}

/* ---- measuring ------------------------------------------------------------------------------- */

/** Both processes; those of the sender have index 1. */
struct pair {
    struct server_kind kinds[2];
    struct server sides[2];
};

static int
pair_start(struct pair *pair, const struct stream_options *options)
{
    int fds[2];
    int error = connect_both(fds, options->mss);
    for (unsigned i = 0; i < 2 && error == 0; i++) {
        const bool measured = options->sender_measured == (i == 1);
        next_side.path = i == 0 ? options->receiver : options->sender;
        next_side.fd = fds[i];
        next_side.fd_of_other = fds[!i];
        pair->kinds[i] = (struct server_kind){.name = next_side.path->name, .serve = serve};
        error = server_start(&pair->sides[i], &pair->kinds[i],
                             measured ? options->cpu_measured : options->cpu_other);
        close(fds[i]);
        fds[i] = -1;
    }
    close_both(fds);
    return error;
}

static void
pair_stop(struct pair *pair)
{
    for (unsigned i = 0; i < 2; i++) {
        if (pair->sides[i].control != NULL)
            atomic_store(&pair->sides[i].control->stop, 1);
    }
    /* The sender first: its end wakes a receiver that waits. */
    server_stop(&pair->sides[1]);
    server_stop(&pair->sides[0]);
}

static int
pair_counters(struct pair *pair, struct server_counters counters[2])
{
    int error = 0;
    for (unsigned i = 0; i < 2 && error == 0; i++) {
        error = server_counters_get(&pair->sides[i], &counters[i]);
        if (error == -ESRCH && pair->sides[i].control->error != 0)
            error = pair->sides[i].control->error;
    }
    return error;
}

/** Sleeps as long as that, unless it is interrupted. */
static void
pause_for(uint64_t ns)
{
    const uint64_t end = machine_now_ns() + ns;
    uint64_t now;
    while (!machine_interrupted && (now = machine_now_ns()) < end)
        machine_sleep_ms((unsigned)((end - now + 999999) / 1000000));
}

static double
delta(const struct server_counters counters[2], size_t member)
{
    uint64_t before, after;
    memcpy(&before, (const char *)&counters[0] + member, sizeof before);
    memcpy(&after, (const char *)&counters[1] + member, sizeof after);
    return (double)(after - before);
}
#define DELTA(counters, member) delta(counters, offsetof(struct server_counters, member))

/** `measured` and `receiver` are counters before and after; so are `other`, of the other side. */
static void
compute(const struct server_counters measured[2], const struct server_counters other[2],
        const struct server_counters receiver[2], struct stream_result *result)
{
    const double bytes = DELTA(measured, received_bytes), wall_ns = DELTA(measured, wall_ns);
    const double settled = DELTA(measured, settled_bytes);
    result->cpu_ms_per_gb = DELTA(measured, cpu_ns) * 1e-6 / (bytes * 1e-9);
    result->gb_per_second = bytes / wall_ns;
    result->copies_per_byte = settled > 0 ? DELTA(measured, copied_bytes) / settled : (double)NAN;
    result->syscalls_per_mb = DELTA(measured, syscalls) / (bytes * 1e-6);
    result->other_cpu_ms_per_gb =
        DELTA(other, cpu_ns) * 1e-6 / (DELTA(other, received_bytes) * 1e-9);
    result->busy = DELTA(measured, cpu_ns) / wall_ns;
    result->other_busy = DELTA(other, cpu_ns) / DELTA(other, wall_ns);
    result->checked =
        DELTA(receiver, words_checked) * STREAM_CHECK_EVERY / DELTA(receiver, received_bytes);
}

static int
measure_on(struct pair *pair, const struct stream_options *options, struct stream_result *result)
{
    struct server_counters before[2], after[2];
    pause_for(options->warm_ns);
    int error = pair_counters(pair, before);
    if (error == 0)
        pause_for(options->run_ns);
    if (error == 0)
        error = pair_counters(pair, after);
    if (error != 0)
        return error;
    const struct server_counters receiver[2] = {before[0], after[0]};
    const struct server_counters sender[2] = {before[1], after[1]};
    if (after[0].received_bytes == before[0].received_bytes ||
        after[1].received_bytes == before[1].received_bytes)
        return -ETIMEDOUT;
    if (after[0].words_wrong > 0)
        return -EPROTO;
    compute(options->sender_measured ? sender : receiver,
            options->sender_measured ? receiver : sender, receiver, result);
    return 0;
}

int
stream_measure(const struct stream_options *options, struct stream_result *result)
{
    struct pair pair = {0};
    int error = pair_start(&pair, options);
    if (error == 0)
        error = measure_on(&pair, options, result);
    pair_stop(&pair);
    return machine_interrupted ? -ECANCELED : error;
}
