/*
 * What the example programs share; see example.h. Signals come as events of the loop, which ends
 * the turn: all work is done between turns.
 *
 * SPDX-License-Identifier: MIT
 */
#include "example.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sysexits.h>
#include <time.h>

#include <berth/loop_cross.h>

#ifdef EXAMPLE_JEMALLOC
#include <berth/jemalloc.h>
#endif

#define OPTIONS_MAX 8          /* --help, --engine, and what a program adds */
#define EXPLAIN_BYTES_MAX 4096 /* of berth_loop_explain; more is cut */
#define STATUS_USAGE 2
#define DRAIN_MS 5000 /* for connections to finish, after SIGTERM */

static struct {
    const char *name;
    const struct example_option *own;
    char **addresses;
    int addresses_count;
    int period_ms; /* 0: no tick */
    void (*tick)(struct berth_loop *loop);
} program;

static int stop_asked;
static int report_asked;

/* ---- signals ------------------------------------------------------------------------------ */

static void
on_signal(struct berth_loop *loop, int number, void *context)
{
    (void)loop, (void)context;
    if (number == SIGUSR1)
        report_asked = 1;
    else
        stop_asked++;
}

static void
signals_set(struct berth_loop *loop)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGUSR1};
    struct sigaction ignore = {.sa_handler = SIG_IGN};

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (berth_loop_signal(loop, numbers[i], on_signal, NULL) != 0)
            abort(); /* nobody else in this program watches signals */
    sigemptyset(&ignore.sa_mask);
    sigaction(SIGPIPE, &ignore, NULL); /* a reader that went away is no reason to die */
}

/* ---- the command line --------------------------------------------------------------------- */

static void
usage_print(FILE *out)
{
    fprintf(out, "usage: %s [--engine uring|epoll|poll]", program.name);
    for (const struct example_option *own = program.own; own != NULL && own->name != NULL; own++)
        fprintf(out, own->placeholder != NULL ? " [--%s %s]" : " [--%s]", own->name,
                own->placeholder);
    fputs(" ADDRESS...\n"
          "ADDRESS is tcp://HOST:PORT, tcp://[::1]:PORT, unix:/PATH or unix:@NAME, or for datagrams"
          " udp://HOST:PORT;\nport 0 lets the kernel choose.\n",
          out);
}

void
example_usage(void)
{
    usage_print(stderr);
    exit(STATUS_USAGE);
}

static void
fail_exit(const char *what, const char *which, int error, int status)
{
    fprintf(stderr, "%s: %s %s: %s\n", program.name, what, which, strerror(-error));
    exit(status);
}

/* Keeps what getopt_long needs in step with the program's own list. */
static void
options_fill(struct option *table)
{
    int count = 0;
    table[count++] = (struct option){"help", no_argument, NULL, 'h'};
    table[count++] = (struct option){"engine", required_argument, NULL, 'e'};
    for (const struct example_option *own = program.own; own != NULL && own->name != NULL; own++) {
        assert(count < OPTIONS_MAX);
        const int has_value = own->placeholder != NULL ? required_argument : no_argument;
        table[count++] = (struct option){own->name, has_value, NULL, 'o'};
    }
    table[count] = (struct option){NULL, 0, NULL, 0};
}

/* Returns the engine asked for, or NULL. */
static const char *
options_parse(int argc, char **argv)
{
    struct option table[OPTIONS_MAX + 1];
    const char *engine = NULL;
    int position = 0;
    int letter = 0;

    options_fill(table);
    while ((letter = getopt_long(argc, argv, "h", table, &position)) != -1) {
        if (letter == 'h') {
            usage_print(stdout);
            exit(EXIT_SUCCESS);
        } else if (letter == 'e') {
            engine = optarg;
        } else if (letter == 'o') {
            /* after --help and --engine */
            *program.own[position - 2].value = optarg != NULL ? optarg : "";
        } else {
            example_usage();
        }
    }
    program.addresses = argv + optind;
    program.addresses_count = argc - optind;
    if (program.addresses_count == 0)
        example_usage();
    return engine;
}

/* One descriptor per connection: ask for as many as this process may have at all. */
static void
descriptors_raise(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

struct berth_loop *
example_open(int argc, char **argv, const struct berth_loop_options *options,
             const struct example_option *own)
{
    struct berth_loop_options chosen;
    struct berth_loop *loop = NULL;

    if (options != NULL)
        chosen = *options;
    else
        berth_loop_options_init(&chosen);
    program.name = strrchr(argv[0], '/') != NULL ? strrchr(argv[0], '/') + 1 : argv[0];
    program.own = own;
    chosen.engine = options_parse(argc, argv);
    descriptors_raise();

    const int error = berth_loop_create(&loop, &chosen);
    if (error == -EINVAL)
        example_usage(); /* no engine of that name: the rest of the options is ours */
    if (error != 0)
        fail_exit("engine", chosen.engine != NULL ? chosen.engine : "auto", error, EX_UNAVAILABLE);
    signals_set(loop); /* before anybody can be told that we listen */
    return loop;
}

/* Says where it listens, or why not. */
static void
listening(struct berth_loop *loop, const char *wanted, const char *address, int error)
{
    if (error == 0) {
        printf("listening on %s\n", address);
        fflush(stdout);
        return;
    }
    fprintf(stderr, "%s: %s: %s\n", program.name, wanted, strerror(-error));
    berth_loop_destroy(loop);
    if (error == -EINVAL)
        example_usage();
    exit(EXIT_FAILURE);
}

char *
example_address(int number)
{
    return number < program.addresses_count ? program.addresses[number] : NULL;
}

void
example_listen_on(struct berth_loop *loop, const char *wanted,
                  const struct berth_handlers *handlers, void *context)
{
    struct berth_listener *listener = NULL;
    char address[BERTH_ADDRESS_TEXT_MAX];
    int error = berth_listen(loop, wanted, handlers, context, &listener);

    if (error == 0)
        error = berth_listener_address(listener, address, sizeof(address));
    listening(loop, wanted, address, error);
}

void
example_listen(struct berth_loop *loop, const struct berth_handlers *handlers, void *context)
{
    for (int i = 0; i < program.addresses_count; i++)
        example_listen_on(loop, program.addresses[i], handlers, context);
}

void
example_udp_open(struct berth_loop *loop, const struct berth_udp_handlers *handlers, void *context,
                 const struct berth_udp_options *options)
{
    for (int i = 0; i < program.addresses_count; i++) {
        struct berth_udp *udp = NULL;
        char address[BERTH_ADDRESS_TEXT_MAX];
        int error = berth_udp_open(loop, program.addresses[i], handlers, context, options, &udp);

        if (error == 0)
            error = berth_udp_address(udp, address, sizeof(address));
        listening(loop, program.addresses[i], address, error);
    }
}

/* ---- running ------------------------------------------------------------------------------ */

/* Every counter is a uint64_t, so a struct of them prints from a list of names in its order. */
static void
counters_print(const char *title, const uint64_t *values, const char *const *names, size_t count)
{
    printf("%s:", title);
    for (size_t i = 0; i < count; i++)
        printf(" %s=%llu", names[i], (unsigned long long)values[i]);
    printf("\n");
}

static const char *const stats_names[] = {"turns",
                                          "syscalls",
                                          "accepted",
                                          "connected",
                                          "adopted",
                                          "closed",
                                          "receives",
                                          "sends",
                                          "received",
                                          "sent",
                                          "sends_short",
                                          "rearms",
                                          "enobufs",
                                          "starved",
                                          "fairness_stops",
                                          "refused_limit",
                                          "refused_open",
                                          "accept_errors",
                                          "send_refused",
                                          "pauses",
                                          "stale",
                                          "overflows",
                                          "zombies",
                                          "lanes",
                                          "demotions",
                                          "promotions",
                                          "mapped",
                                          "unmaps",
                                          "posts",
                                          "wakes",
                                          "detached",
                                          "datagrams_received",
                                          "datagrams_truncated",
                                          "datagrams_sent",
                                          "datagrams_segmented",
                                          "datagrams_refused",
                                          "datagrams_lost",
                                          "zerocopy_sends",
                                          "zerocopy_notifications",
                                          "zerocopy_refused",
                                          "lookups",
                                          "ghosts",
                                          "rebuilds"};

static const char *const copies_names[] = {"received",
                                           "received_kernel",
                                           "received_mapped",
                                           "received_direct",
                                           "received_spliced",
                                           "received_pullup",
                                           "received_compact",
                                           "received_application",
                                           "sent",
                                           "sent_kernel",
                                           "sent_file",
                                           "sent_spliced",
                                           "sent_zerocopy",
                                           "sent_in_place",
                                           "sent_copied_anyway",
                                           "sent_gather",
                                           "sent_application"};

_Static_assert(sizeof(stats_names) / sizeof(char *) ==
                   sizeof(struct berth_loop_stats) / sizeof(uint64_t),
               "a name each");
_Static_assert(sizeof(copies_names) / sizeof(char *) ==
                   sizeof(struct berth_copies) / sizeof(uint64_t),
               "a name each");

/* In sentences for a person, on standard error; in counters for a program, on standard output. */
static void
report_print(struct berth_loop *loop)
{
    struct berth_loop_stats stats;
    struct berth_copies copies;
    char text[EXPLAIN_BYTES_MAX];

    berth_loop_stats_get(loop, &stats);
    berth_loop_copies_get(loop, &copies);
    berth_copies_explain(&copies, text, sizeof(text));
    fputs(text, stderr);
    berth_loop_explain(loop, text, sizeof(text));
    fputs(text, stdout);
    printf("connections: %u\n", berth_loop_conns(loop));
    counters_print("stats", (const uint64_t *)&stats, stats_names,
                   sizeof(stats_names) / sizeof(char *));
    counters_print("copies", (const uint64_t *)&copies, copies_names,
                   sizeof(copies_names) / sizeof(char *));
    fflush(stdout);
}

int64_t
example_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void
example_tick(int period_ms, void (*tick)(struct berth_loop *loop))
{
    assert(period_ms > 0);
    program.period_ms = period_ms;
    program.tick = tick;
}

/* Returns how long the next turn may wait: -1 without a tick. */
static int
tick_due(struct berth_loop *loop, int64_t *next_ms)
{
    if (program.tick == NULL)
        return -1;
    const int64_t now_ms = example_now_ms();
    if (now_ms >= *next_ms) {
        program.tick(loop);
        *next_ms = now_ms + program.period_ms;
    }
    return (int)(*next_ms - now_ms);
}

int
example_run(struct berth_loop *loop)
{
    int64_t next_ms = 0;
    int handled = 0;

    for (int stopping = 0; !stopping && handled >= 0;) {
        handled = berth_loop_turn(loop, tick_due(loop, &next_ms));
        const int asked = stop_asked; /* before reports: one asked for earlier is still given */
        if (report_asked) {
            report_asked = 0;
            report_print(loop);
        }
        if (asked > 0 && !berth_loop_draining(loop))
            berth_loop_drain(loop, DRAIN_MS);
        stopping = asked > 1 || (asked == 1 && berth_loop_conns(loop) == 0);
    }
    if (handled < 0)
        fprintf(stderr, "%s: %s\n", program.name, strerror(-handled));
    return handled < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- input in pieces ---------------------------------------------------------------------- */

/* Makes room for `length` more bytes after `end`: by moving to the front, or to a bigger buffer. */
static int
input_reserve(struct berth_pool *pool, struct example_input *input, size_t length)
{
    const uint32_t kept = input->end - input->start;
    const uint32_t capacity = input->lease.length;

    if (input->end + length <= capacity)
        return 0;
    char *from = capacity > 0 ? (char *)berth_lease_data(pool, input->lease) + input->start : NULL;
    struct berth_lease lease = input->lease;
    if (kept + length > capacity) {
        const int size_class = berth_class_for(kept + length);
        if (size_class < 0)
            return size_class;
        const int error =
            berth_pool_get(pool, (enum berth_class)size_class, BERTH_FOR_ACTIVE, &lease);
        if (error != 0)
            return error;
    }
    if (kept > 0) {
        assert(from != NULL);
        memmove(berth_lease_data(pool, lease), from, kept);
        berth_copies_declare(berth_pool_copies(pool), BERTH_COPY_RECEIVE, kept);
    }
    if (capacity > 0 && lease.buffer != input->lease.buffer)
        berth_release(pool, input->lease);
    *input = (struct example_input){.lease = lease, .start = 0, .end = kept};
    return 0;
}

static int
input_append(struct berth_pool *pool, struct example_input *input, const char *data, size_t length)
{
    if (length == 0)
        return 0;
    const int error = input_reserve(pool, input, length);
    if (error != 0)
        return error;
    memcpy((char *)berth_lease_data(pool, input->lease) + input->end, data, length);
    input->end += (uint32_t)length;
    berth_copies_declare(berth_pool_copies(pool), BERTH_COPY_RECEIVE, length);
    return 0;
}

int
example_input_feed(struct berth_conn *conn, struct example_input *input,
                   const struct berth_span *span, size_t rest_bytes_max, example_consume_fn consume)
{
    struct berth_pool *pool = berth_loop_pool(berth_conn_loop(conn));
    size_t used = 0;
    int error = 0;

    if (input->end == 0 && span != NULL) {
        used = consume(conn, span->data, span->length);
        assert(used <= span->length);
        error = input_append(pool, input, (const char *)span->data + used, span->length - used);
    } else {
        if (span != NULL)
            error = input_append(pool, input, span->data, span->length);
        if (error != 0 || input->end == 0)
            return error;
        const char *data = berth_lease_data(pool, input->lease);
        used = consume(conn, data + input->start, input->end - input->start);
        assert(used <= input->end - input->start);
        input->start += (uint32_t)used;
        if (input->start == input->end)
            example_input_clear(pool, input); /* an idle connection holds no buffer */
    }
    if (error == 0 && input->end - input->start > rest_bytes_max)
        error = -EMSGSIZE;
    return error;
}

void
example_input_clear(struct berth_pool *pool, struct example_input *input)
{
    if (input->lease.generation != 0)
        berth_release(pool, input->lease);
    *input = (struct example_input){.start = 0};
}
