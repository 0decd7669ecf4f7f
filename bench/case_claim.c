/*
 * Case `claim`: the sentence that this project began with, put to the test in a server. A pointer
 * in the event data must be followed before anything can be done; a descriptor in it can be used at
 * once, and indexes an array of cache lines. Is that worth a full per cent?
 *
 * One echo server over epoll, in several ways that differ in nothing but how it comes from the
 * event to its state: compiled from the same lines, with the layout a constant. Per message: wait,
 * find the state, recv, count, send. The ratio is processor time per message, paired, against the
 * pointer. And because prefetching is worth far more than layout, pointer and prefetch stand here
 * as well.
 *
 * What it cannot show: what a larger handler would dilute. Connections are accepted one after the
 * other, so the heap's objects lie in order of age, as they do in a young server; in an old one the
 * pointer is worse off. One machine, one kernel, loopback.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <berth.h>
#include <berth/adapt/epoll.h>

#include "bench.h"
#include "load.h"
#include "machine.h"
#include "slice.h"

#define CONNS_MAX 65536
#define AHEAD BERTH_TABLE_AHEAD

/** What the sentence claims: more than a full per cent. */
#define CLAIM_RATIO 0.99

enum layout { POINTER, POINTER_PREFETCH, DESCRIPTOR, DESCRIPTOR_PREFETCH, SYSCALL_FIRST, TABLE };

/** What is touched for each message, and what only the rare short send needs: 40 bytes. */
struct state {
    uint64_t messages;
    uint64_t bytes;
    uint64_t last_turn;
    unsigned char *rest;
    uint32_t rest_bytes, rest_sent;
};

/** As servers allocate it: the rest of what they know about a connection behind it. */
struct object {
    int fd;
    uint32_t flags;
    struct state state;
    unsigned char more[144];
};

/** As an array has it: a cache line. */
struct line {
    uint32_t flags;
    uint32_t unused;
    struct state state;
} __attribute__((aligned(BERTH_CACHE_LINE)));

_Static_assert(sizeof(struct line) == BERTH_CACHE_LINE, "one cache line");
_Static_assert(sizeof(struct state) <= BERTH_SLOT_PAYLOAD_BYTES, "what fits a slot");

struct echo {
    int listener;
    struct berth_epoll set; /**< of all layouts: its descriptor is what they wait on */
    struct berth_table table;
    struct server_counters counters;
};

static struct line lines[CONNS_MAX];
static struct object *objects[CONNS_MAX]; /**< to free them; not looked at per message */

/* ---- one connection ----------------------------------------------------------------------------
 */

static int
watch(struct echo *echo, enum layout layout, int fd, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.u64 = 0};
    if (layout == POINTER || layout == POINTER_PREFETCH)
        event.data.ptr = objects[fd];
    else if (layout == TABLE)
        event.data.u64 = berth_slot_token(berth_table_slot(&echo->table, (uint32_t)fd), 0);
    else
        event.data.fd = fd;
    echo->counters.syscalls++;
    return epoll_ctl(echo->set.fd, operation, fd, &event);
}

/** Makes the state of a new connection. 0 or -errno. */
static int
conn_make(struct echo *echo, enum layout layout, int fd)
{
    struct berth_slot *slot;
    switch (layout) {
    case POINTER:
    case POINTER_PREFETCH:
        objects[fd] = calloc(1, sizeof *objects[fd]);
        if (objects[fd] == NULL)
            return -ENOMEM;
        objects[fd]->fd = fd;
        objects[fd]->flags = 1;
        return 0;
    case TABLE:
        return berth_table_claim(&echo->table, (uint32_t)fd, &slot);
    default:
        lines[fd].flags = 1;
        return 0;
    }
}

static void
conn_close(struct echo *echo, enum layout layout, int fd, struct state *state)
{
    free(state->rest);
    switch (layout) {
    case POINTER:
    case POINTER_PREFETCH:
        free(objects[fd]);
        objects[fd] = NULL;
        break;
    case TABLE: {
        struct berth_slot *slot = berth_slot_of(state);
        berth_table_release(&echo->table, berth_slot_token(slot, 0));
        break;
    }
    default:
        memset(&lines[fd], 0, sizeof lines[fd]);
    }
    echo->counters.conns--;
    echo->counters.syscalls++;
    close(fd);
}

static void
accept_all(struct echo *echo, enum layout layout)
{
    for (;;) {
        const int fd = accept4(echo->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        echo->counters.syscalls++;
        if (fd < 0)
            return;
        if (fd >= CONNS_MAX || conn_make(echo, layout, fd) != 0 ||
            watch(echo, layout, fd, EPOLLIN, EPOLL_CTL_ADD) != 0) {
            close(fd);
            continue;
        }
        echo->counters.conns++;
    }
}

/** The rest of a short send: rare, and alike for all. */
static __attribute__((noinline)) void
conn_rest(struct echo *echo, enum layout layout, int fd, struct state *state)
{
    const ssize_t sent = send(fd, state->rest + state->rest_sent,
                              state->rest_bytes - state->rest_sent, MSG_NOSIGNAL);
    echo->counters.syscalls++;
    if (sent < 0 && errno != EAGAIN) {
        conn_close(echo, layout, fd, state);
        return;
    }
    state->rest_sent += sent < 0 ? 0 : (uint32_t)sent;
    if (state->rest_sent < state->rest_bytes)
        return;
    free(state->rest);
    state->rest = NULL;
    watch(echo, layout, fd, EPOLLIN, EPOLL_CTL_MOD);
}

static __attribute__((noinline)) void
conn_keep(struct echo *echo, enum layout layout, int fd, struct state *state,
          const unsigned char *data, size_t bytes)
{
    state->rest = malloc(bytes);
    if (state->rest == NULL) {
        conn_close(echo, layout, fd, state);
        return;
    }
    memcpy(state->rest, data, bytes);
    state->rest_bytes = (uint32_t)bytes;
    state->rest_sent = 0;
    watch(echo, layout, fd, EPOLLOUT, EPOLL_CTL_MOD);
}

/** What came in is counted and sent back. `got` and `error` are recv's. */
BERTH_INLINE void
conn_answer(struct echo *echo, enum layout layout, int fd, struct state *state,
            const unsigned char *data, ssize_t got, int error)
{
    if (got <= 0) {
        if (got == 0 || error != EAGAIN)
            conn_close(echo, layout, fd, state);
        return;
    }
    state->messages++;
    state->bytes += (uint64_t)got;
    state->last_turn = echo->counters.turns;
    echo->counters.received_bytes += (uint64_t)got;
    const ssize_t sent = send(fd, data, (size_t)got, MSG_NOSIGNAL);
    echo->counters.syscalls++;
    if (sent == got)
        return;
    if (sent < 0 && errno != EAGAIN)
        conn_close(echo, layout, fd, state);
    else
        conn_keep(echo, layout, fd, state, data + (sent < 0 ? 0 : sent),
                  (size_t)(got - (sent < 0 ? 0 : sent)));
}

BERTH_INLINE void
conn_serve(struct echo *echo, enum layout layout, int fd, struct state *state)
{
    unsigned char data[SERVER_RECEIVE_BYTES];
    if (state->rest != NULL) {
        conn_rest(echo, layout, fd, state);
        return;
    }
    const ssize_t got = recv(fd, data, sizeof data, MSG_DONTWAIT);
    echo->counters.syscalls++;
    conn_answer(echo, layout, fd, state, data, got, got < 0 ? errno : 0);
}

/* ---- one batch, in each way --------------------------------------------------------------------
 */

/** The listener is told apart by data no connection has: descriptor and token 0, and a null
 * pointer. */
BERTH_INLINE void
serve_pointers(struct echo *echo, enum layout layout, const struct epoll_event *events, int count)
{
    const bool prefetch = layout == POINTER_PREFETCH;
    for (int i = 0; prefetch && i < AHEAD && i < count; i++)
        __builtin_prefetch(events[i].data.ptr, 1, 3);
    for (int i = 0; i < count; i++) {
        struct object *object = events[i].data.ptr;
        if (prefetch && i + AHEAD < count)
            __builtin_prefetch(events[i + AHEAD].data.ptr, 1, 3);
        if (object == NULL)
            accept_all(echo, layout);
        else if (object->flags != 0)
            conn_serve(echo, layout, object->fd, &object->state);
    }
}

BERTH_INLINE void
serve_descriptors(struct echo *echo, enum layout layout, const struct epoll_event *events,
                  int count)
{
    const bool prefetch = layout == DESCRIPTOR_PREFETCH;
    for (int i = 0; prefetch && i < AHEAD && i < count; i++)
        __builtin_prefetch(&lines[events[i].data.fd], 1, 3);
    for (int i = 0; i < count; i++) {
        const int fd = events[i].data.fd;
        if (prefetch && i + AHEAD < count)
            __builtin_prefetch(&lines[events[i + AHEAD].data.fd], 1, 3);
        if (fd == 0)
            accept_all(echo, layout);
        else if (lines[fd].flags != 0)
            conn_serve(echo, layout, fd, &lines[fd].state);
    }
}

/** The call on the descriptor is made while the line is on its way. */
BERTH_INLINE void
serve_syscall_first(struct echo *echo, const struct epoll_event *events, int count)
{
    unsigned char data[SERVER_RECEIVE_BYTES];
    for (int i = 0; i < count; i++) {
        const int fd = events[i].data.fd;
        if (fd == 0) {
            accept_all(echo, SYSCALL_FIRST);
            continue;
        }
        __builtin_prefetch(&lines[fd], 1, 3);
        /* Only readable descriptors may be read first: one that waits for room must not be. */
        const ssize_t got =
            events[i].events & EPOLLIN ? recv(fd, data, sizeof data, MSG_DONTWAIT) : -1;
        const int error = got < 0 ? errno : 0;
        echo->counters.syscalls++;
        if (lines[fd].flags == 0)
            continue;
        if (lines[fd].state.rest != NULL)
            conn_rest(echo, SYSCALL_FIRST, fd, &lines[fd].state);
        else
            conn_answer(echo, SYSCALL_FIRST, fd, &lines[fd].state, data, got, error);
    }
}

/** As a user of berth's adapter writes it. The listener is a slot like all others. */
BERTH_INLINE void
serve_table(struct echo *echo, const struct epoll_event *events, int count)
{
    BERTH_EPOLL_EACH (at, &echo->set, events, count) {
        if (at.fd == echo->listener)
            accept_all(echo, TABLE);
        else
            conn_serve(echo, TABLE, at.fd, berth_slot_payload(at.slot));
    }
}

BERTH_INLINE void
turn(struct echo *echo, enum layout layout)
{
    struct epoll_event events[SERVER_EVENTS_MAX];
    const int count = epoll_wait(echo->set.fd, events, SERVER_EVENTS_MAX, SERVER_WAIT_MS);
    echo->counters.syscalls++;
    echo->counters.turns++;
    switch (layout) {
    case POINTER:
    case POINTER_PREFETCH:
        serve_pointers(echo, layout, events, count);
        break;
    case DESCRIPTOR:
    case DESCRIPTOR_PREFETCH:
        serve_descriptors(echo, layout, events, count);
        break;
    case SYSCALL_FIRST:
        serve_syscall_first(echo, events, count);
        break;
    case TABLE:
        serve_table(echo, events, count);
        break;
    }
}

/* ---- the server --------------------------------------------------------------------------------
 */

static int
watch_listener(struct echo *echo, enum layout layout)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0};
    struct berth_slot *slot;
    if (layout == TABLE) {
        const int error = berth_table_claim(&echo->table, (uint32_t)echo->listener, &slot);
        if (error != 0)
            return error;
        event.data.u64 = berth_slot_token(slot, 0);
    }
    return epoll_ctl(echo->set.fd, EPOLL_CTL_ADD, echo->listener, &event) == 0 ? 0 : -errno;
}

BERTH_INLINE int
serve(struct server_control *control, enum layout layout)
{
    uint16_t port = 0;
    struct echo echo;
    memset(&echo, 0, sizeof echo);
    echo.counters.buffers_held = -1;
    echo.counters.copies_received = echo.counters.copies_sent = -1;
    int error = berth_table_init(&echo.table, NULL);
    if (error == 0)
        error = berth_epoll_init(&echo.set, &echo.table);
    if (error == 0)
        error = echo.listener = server_listen(&port);
    if (error >= 0)
        error = watch_listener(&echo, layout);
    if (error < 0)
        return error;
    server_ready(control, port);
    while (server_running(control)) {
        if (server_asked(control))
            server_answer(control, &echo.counters);
        turn(&echo, layout);
    }
    return 0;
}

/** One function per layout, so that none of them asks which it is. */
#define SERVE(name, layout)                                                                        \
    static int name(struct server_control *control, const struct server_kind *kind)                \
    {                                                                                              \
        (void)kind;                                                                                \
        return serve(control, layout);                                                             \
    }
SERVE(serve_pointer, POINTER)
SERVE(serve_pointer_prefetch, POINTER_PREFETCH)
SERVE(serve_descriptor, DESCRIPTOR)
SERVE(serve_descriptor_prefetch, DESCRIPTOR_PREFETCH)
SERVE(serve_first, SYSCALL_FIRST)
SERVE(serve_berth, TABLE)

#define KIND(called, function)                                                                     \
    {                                                                                              \
        .name = called, .serve = function                                                          \
    }

/** The first is what the others are compared with. */
static const struct server_kind kinds[] = {
    KIND("pointer", serve_pointer),       KIND("pointer+prefetch", serve_pointer_prefetch),
    KIND("descriptor", serve_descriptor), KIND("descriptor+prefetch", serve_descriptor_prefetch),
    KIND("table", serve_berth),           KIND("descriptor-syscall-first", serve_first),
};
#define KINDS (sizeof kinds / sizeof kinds[0])

/* ---- the case ----------------------------------------------------------------------------------
 */

static const char *
variant_name(unsigned at)
{
    return at < KINDS ? kinds[at].name : NULL;
}

enum metric { CPU_NS, SYSCALLS, PER_TURN, BUSY };

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    static struct slice_result result;
    const struct slice_options options = bench_slice_options(bench, subject);
    const int error = slice_measure(&options, &result);
    if (error != 0)
        return error;
    metrics[CPU_NS] = result.cpu_ns_per_message;
    metrics[SYSCALLS] = result.syscalls_per_message;
    metrics[PER_TURN] = result.messages_per_turn;
    metrics[BUSY] = result.server_busy;
    return 0;
}

static const struct report_column columns[] = {
    {"connections", "connections", 0},
    {"cpu_ns_per_message", "CPU ns\nper message", 0},
    {"cpu_ratio", "ratio to\nthe pointer", 4},
    {"gain_percent", "gain\n%", 2},
    {"syscalls_per_message", "system calls\nper message", 3},
    {"messages_per_turn", "messages\nper wait", 1},
    {"server_busy", "server\nbusy", 2},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

static struct estimate
gain_percent(struct estimate ratio)
{
    return (struct estimate){
        .median = (1 - ratio.median) * 100,
        .low = (1 - ratio.high) * 100,
        .high = (1 - ratio.low) * 100,
        .confidence = ratio.confidence,
        .rounds = ratio.rounds,
    };
}

static void
add_row(struct bench *bench, const struct bench_samples *samples, unsigned at, const char *name,
        uint32_t conns)
{
    const struct estimate ratio = bench_ratio(samples, at, 0, CPU_NS);
    const struct estimate values[COLUMNS] = {
        estimate_exact(conns),
        bench_estimate(samples, at, CPU_NS),
        ratio,
        gain_percent(ratio),
        bench_median(samples, at, SYSCALLS),
        bench_median(samples, at, PER_TURN),
        bench_median(samples, at, BUSY),
    };
    report_row(&bench->report, name, values);
    if (strcmp(name, "descriptor") != 0)
        return;
    char figure[REPORT_NAME_BYTES], text[96];
    snprintf(figure, sizeof figure, "claim_ratio_%u", conns);
    snprintf(text, sizeof text, "descriptor and array, to the pointer, %u connections", conns);
    report_figure(&bench->report, figure, text, "", ratio, true, CLAIM_RATIO);
}

static void
run_with(struct bench *bench, uint32_t conns, struct bench_samples *samples)
{
    struct bench_subject subjects[KINDS + 1] = {{.name = NULL}};
    char control[REPORT_NAME_BYTES];
    unsigned count = 0;
    for (unsigned i = 0; i < KINDS; i++) {
        if (i == 0 || bench_wants(bench, kinds[i].name))
            subjects[count++] = (struct bench_subject){.name = kinds[i].name,
                                                       .measure = measure,
                                                       .context = &kinds[i],
                                                       .parameter = conns};
    }
    subjects[count] = subjects[0];
    subjects[count++].name = "pointer again";
    bench_rounds(bench, subjects, count, samples);
    for (unsigned i = 0; i < count; i++) {
        if (!subjects[i].left_out)
            add_row(bench, samples, i, subjects[i].name, conns);
    }
    snprintf(control, sizeof control, "pointer, %u connections", conns);
    report_control(&bench->report, control, bench_ratio(samples, count - 1, 0, CPU_NS));
}

static int
run(struct bench *bench)
{
    static struct bench_samples samples;
    report_table_begin(&bench->report, "claim", columns, COLUMNS);
    for (unsigned i = 0; i < bench->options.connections.count && !machine_interrupted; i++)
        run_with(bench, bench_descriptors_fit(bench, bench->options.connections.values[i], 1),
                 &samples);
    report_note(&bench->report,
                "a gain whose interval includes 0 is no gain; the control shows how "
                "small a difference this run can see");
    return bench->report.tables[0].rows_count > 0 ? 0 : -EIO;
}

static const struct report_plot plots[] = {
    {
        .name = "claim",
        .title = "Processor time per message saved, against the server with a pointer",
        .table = "claim",
        .x = "connections",
        .y = "gain_percent",
        .x_title = "connections",
        .y_title = "per cent (above 0: better; intervals that touch 0 show nothing)",
        .options = REPORT_PLOT_LOG_X | REPORT_PLOT_NEAR,
    },
    {.name = NULL},
};

const struct bench_case bench_case_claim = {
    .name = "claim",
    .summary = "one echo server with a pointer in its events, or a descriptor and an array",
    .run = run,
    .variant = variant_name,
    .options = BENCH_OPTION_SIZE | BENCH_OPTION_LOAD,
    .connections_max = LOAD_CONNS_MAX,
    .normal = {.rounds = 15, .seconds = 0.3, .connections = "100,1000,10000"},
    .quick = {.rounds = 3, .seconds = 0.15, .connections = "1000"},
    .full = {.rounds = 41, .seconds = 0.4, .connections = "100,1000,10000"},
    .plots = plots,
};
