/*
 * One slice of a stream: a connection, a process at each end, a warm-up, and two looks at the
 * counters of both; or two connections and a process between them. How bytes are received, sent and
 * passed on is not here: see receive_*.c, send_*.c and relay_*.c.
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

/** Two ends of each of two connections: from the sender, and from a relay to the receiver. */
#define ENDS 4

/** What the next process to be forked is to do. */
static struct {
    const struct stream_path *path;
    int fd, fd_onward;
    const int *ends; /**< ENDS of them: those of the others, too; -1: closed already */
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
    struct stream_side side = {
        .control = control,
        .path = next_side.path,
        .fd = next_side.fd,
        .fd_onward = next_side.fd_onward,
    };
    (void)kind;
    /* sendfile(2) and splice(2) have no flag for "no signal when the peer is gone". */
    signal(SIGPIPE, SIG_IGN);
    /* While this process holds an end of another, the death of that one goes unnoticed. */
    for (unsigned i = 0; i < ENDS; i++) {
        const int end = next_side.ends[i];
        if (end >= 0 && end != side.fd && end != side.fd_onward)
            close(end);
    }
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

/** The processes, by what they do. Without a relay the last one is not there. */
struct chain {
    const struct stream_path *paths[STREAM_ROLES];
    struct server_kind kinds[STREAM_ROLES];
    struct server sides[STREAM_ROLES];
    unsigned count;
    enum stream_role measured;
};

/** Who does what, when `path` is measured. */
static void
chain_plan(struct chain *chain, const struct stream_path *path)
{
    chain->measured = path->role;
    chain->count = path->role == STREAM_RELAYS ? 3 : 2;
    chain->paths[path->role] = path;
    if (path->role == STREAM_SENDS)
        chain->paths[STREAM_RECEIVES] = path->peer;
    else
        chain->paths[STREAM_SENDS] = path->peer;
    if (path->role == STREAM_RELAYS)
        chain->paths[STREAM_RECEIVES] = path->receiver;
}

/** Forks one side, whose ends are `*fd` and perhaps `*fd_onward`, and closes them here. */
static int
chain_start_one(struct chain *chain, enum stream_role role, int cpu, int *fd, int *fd_onward)
{
    next_side.path = chain->paths[role];
    next_side.fd = *fd;
    next_side.fd_onward = fd_onward != NULL ? *fd_onward : -1;
    chain->kinds[role] = (struct server_kind){.name = next_side.path->name, .serve = serve};
    const int error = server_start(&chain->sides[role], &chain->kinds[role], cpu);
    close(*fd);
    *fd = -1;
    if (fd_onward != NULL) {
        close(*fd_onward);
        *fd_onward = -1;
    }
    return error;
}

static int
chain_start(struct chain *chain, const struct stream_options *options)
{
    int ends[ENDS] = {-1, -1, -1, -1};
    int *from_sender = ends, *to_receiver = ends + 2;
    const bool relays = chain->count > 2;
    const int mss = options->path->mss;
    int cpus[STREAM_ROLES] = {options->cpu_other, options->cpu_other, options->cpu_other};
    cpus[chain->measured] = options->cpu_measured;
    int error = connect_both(from_sender, mss);
    if (error == 0 && relays)
        error = connect_both(to_receiver, mss);
    next_side.ends = ends;
    if (error == 0)
        error = chain_start_one(chain, STREAM_RECEIVES, cpus[STREAM_RECEIVES],
                                relays ? &to_receiver[0] : &from_sender[0], NULL);
    if (error == 0 && relays)
        error = chain_start_one(chain, STREAM_RELAYS, cpus[STREAM_RELAYS], &from_sender[0],
                                &to_receiver[1]);
    if (error == 0)
        error = chain_start_one(chain, STREAM_SENDS, cpus[STREAM_SENDS], &from_sender[1], NULL);
    close_both(from_sender);
    close_both(to_receiver);
    return error;
}

static void
chain_stop(struct chain *chain)
{
    /* The sender first: its end wakes whoever waits behind it. */
    static const enum stream_role order[] = {STREAM_SENDS, STREAM_RELAYS, STREAM_RECEIVES};
    for (unsigned i = 0; i < STREAM_ROLES; i++) {
        if (chain->sides[i].control != NULL)
            atomic_store(&chain->sides[i].control->stop, 1);
    }
    for (unsigned i = 0; i < STREAM_ROLES; i++)
        server_stop(&chain->sides[order[i]]);
}

static int
chain_counters(struct chain *chain, struct server_counters *counters)
{
    int error = 0;
    for (unsigned i = 0; i < chain->count && error == 0; i++) {
        error = server_counters_get(&chain->sides[i], &counters[i]);
        if (error == -ESRCH && chain->sides[i].control->error != 0)
            error = chain->sides[i].control->error;
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

/** How much a counter went up; the bound of what was copied may come down. */
static double
delta(const struct server_counters counters[2], size_t member)
{
    uint64_t before, after;
    memcpy(&before, (const char *)&counters[0] + member, sizeof before);
    memcpy(&after, (const char *)&counters[1] + member, sizeof after);
    return after > before ? (double)(after - before) : 0.0;
}
#define DELTA(counters, member) delta(counters, offsetof(struct server_counters, member))

/** Each side's counters before and after. */
static void compute(struct server_counters (*counters)[2], const struct chain *chain,
                    struct stream_result *result)
{
    const struct server_counters *measured = counters[chain->measured];
    const struct server_counters *receiver = counters[STREAM_RECEIVES];
    const double bytes = DELTA(measured, received_bytes), wall_ns = DELTA(measured, wall_ns);
    const double settled = DELTA(measured, settled_bytes);
    *result = (struct stream_result){0};
    result->cpu_ms_per_gb = DELTA(measured, cpu_ns) * 1e-6 / (bytes * 1e-9);
    result->gb_per_second = bytes / wall_ns;
    result->copies_per_byte = settled > 0 ? DELTA(measured, copied_bytes) / settled : (double)NAN;
    result->copies_least = settled > 0 ? DELTA(measured, copied_least) / settled : (double)NAN;
    result->syscalls_per_mb = DELTA(measured, syscalls) / (bytes * 1e-6);
    result->busy = DELTA(measured, cpu_ns) / wall_ns;
    for (unsigned i = 0; i < chain->count; i++) {
        if (i == chain->measured)
            continue;
        result->other_cpu_ms_per_gb +=
            DELTA(counters[i], cpu_ns) * 1e-6 / (DELTA(counters[i], received_bytes) * 1e-9);
        result->other_busy += DELTA(counters[i], cpu_ns) / DELTA(counters[i], wall_ns);
    }
    result->checked =
        DELTA(receiver, words_checked) * STREAM_CHECK_EVERY / DELTA(receiver, received_bytes);
}

static int
measure_on(struct chain *chain, const struct stream_options *options, struct stream_result *result)
{
    struct server_counters before[STREAM_ROLES], after[STREAM_ROLES], both[STREAM_ROLES][2];
    pause_for(options->warm_ns);
    int error = chain_counters(chain, before);
    if (error == 0)
        pause_for(options->run_ns);
    if (error == 0)
        error = chain_counters(chain, after);
    if (error != 0)
        return error;
    for (unsigned i = 0; i < chain->count; i++) {
        if (after[i].received_bytes == before[i].received_bytes)
            return -ETIMEDOUT;
        both[i][0] = before[i];
        both[i][1] = after[i];
    }
    if (after[STREAM_RECEIVES].words_wrong > 0)
        return -EPROTO;
    compute(both, chain, result);
    return 0;
}

int
stream_measure(const struct stream_options *options, struct stream_result *result)
{
    struct chain chain = {0};
    chain_plan(&chain, options->path);
    int error = chain_start(&chain, options);
    if (error == 0)
        error = measure_on(&chain, options, result);
    chain_stop(&chain);
    return machine_interrupted ? -ECANCELED : error;
}
