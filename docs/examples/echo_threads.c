/*
 * The echo server on several threads: each has a loop, a table and a pool of its own, and listens
 * on the same address; the kernel deals the newcomers out (options.reuse_port). The threads share
 * nothing. The first loop is told of SIGTERM and SIGINT, and stops them all; on SIGUSR1 it sends a
 * sheet round the loops, on which each enters what it has received and sent, and who copied it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include <berth/loop.h>
#include <berth/loop_cross.h>

#define THREADS_MAX 64
#define STATUS_USAGE 2
#define TEXT_BYTES_MAX 1024 /* of berth_copies_explain */

static struct worker {
    pthread_t thread;
    struct berth_loop *loop;
    unsigned long served; /* connections */
    int status;
} workers[THREADS_MAX];

static unsigned workers_count = 2;
static pthread_barrier_t all_stopped;

/* ---- serving ------------------------------------------------------------------------------ */

static int
on_open(struct berth_conn *conn, void *context)
{
    struct worker *worker = context;

    (void)conn;
    worker->served++;
    return 0;
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)bytes;
    for (unsigned i = 0; i < n; i++)
        if (berth_send_span(conn, &spans[i]) != 0)
            berth_conn_abort(conn); /* a stream with a hole is worse than none */
}

static const struct berth_handlers handlers = {.open = on_open, .data = on_data};

static void
stop_all(struct berth_loop *loop, int number, void *context)
{
    (void)loop, (void)number, (void)context;
    for (unsigned i = 0; i < workers_count; i++)
        berth_loop_stop(workers[i].loop);
}

/* ---- telling ------------------------------------------------------------------------------ */

/* The sheet. It belongs to the loop that it was posted to last. */
static struct {
    struct berth_post post;
    struct berth_copies sum;
    unsigned entered; /* by so many loops */
} sheet;
static int sheet_under_way; /* the first loop's */

/* A loop's counters are its own thread's: each enters them itself, and passes the sheet on. The
 * last one gives it back to the first. */
static void
sheet_came(struct berth_loop *loop, void *context)
{
    struct berth_copies copies;
    char text[TEXT_BYTES_MAX];

    (void)context;
    if (loop == NULL)
        return; /* it is being destroyed, and so are all others */
    if (sheet.entered == workers_count) {
        berth_copies_explain(&sheet.sum, text, sizeof(text));
        fputs(text, stderr);
        sheet_under_way = 0;
        return;
    }
    berth_loop_copies_get(loop, &copies);
    berth_copies_add(&sheet.sum, &copies);
    const unsigned next = ++sheet.entered % workers_count;
    berth_loop_post_node(workers[next].loop, &sheet.post);
}

static void
tell_all(struct berth_loop *loop, int number, void *context)
{
    (void)number, (void)context;
    if (sheet_under_way)
        return; /* who asked just now is answered, too */
    sheet_under_way = 1;
    sheet.post.fn = sheet_came;
    sheet.sum = (struct berth_copies){0};
    sheet.entered = 0;
    sheet_came(loop, NULL);
}

/* ---- turning ------------------------------------------------------------------------------ */

/* A loop belongs to the thread that turns it, to its end. It is there until nobody can stop it any
 * more. */
static void *
work(void *context)
{
    struct worker *worker = context;

    worker->status = berth_loop_run(worker->loop);
    if (worker->status != 0)
        stop_all(NULL, 0, NULL); /* rather none than some */
    pthread_barrier_wait(&all_stopped);
    berth_loop_destroy(worker->loop);
    return NULL;
}

/* ---- starting ----------------------------------------------------------------------------- */

static void
fail(const char *what, int error, int status)
{
    fprintf(stderr, "echo_threads: %s: %s\n", what, strerror(-error));
    exit(status);
}

static const char *
arguments_parse(int argc, char **argv, struct berth_loop_options *options)
{
    int at = 1;

    for (; at + 1 < argc && argv[at][0] == '-'; at += 2) {
        if (strcmp(argv[at], "--engine") == 0)
            options->engine = argv[at + 1];
        else if (strcmp(argv[at], "--threads") == 0)
            workers_count = (unsigned)strtoul(argv[at + 1], NULL, 10);
        else
            break;
    }
    if (at != argc - 1 || argv[at][0] == '-' || workers_count < 1 || workers_count > THREADS_MAX) {
        fprintf(stderr,
                "usage: echo_threads [--engine uring|epoll|poll] [--threads 1 to %d] ADDRESS\n",
                THREADS_MAX);
        exit(STATUS_USAGE);
    }
    return argv[at];
}

/* The first loop's real address is everybody's: port 0 must not become many ports. */
static void
listen_everywhere(const char *wanted, const struct berth_loop_options *options)
{
    char address[BERTH_ADDRESS_TEXT_MAX] = "";

    for (unsigned i = 0; i < workers_count; i++) {
        struct berth_listener *listener = NULL;
        int error = berth_loop_create(&workers[i].loop, options);
        if (error != 0)
            fail("engine", error, EX_UNAVAILABLE);
        error = berth_listen(workers[i].loop, i == 0 ? wanted : address, &handlers, &workers[i],
                             &listener);
        if (error == 0 && i == 0)
            error = berth_listener_address(listener, address, sizeof(address));
        if (error != 0)
            fail(wanted, error, error == -EINVAL ? STATUS_USAGE : EXIT_FAILURE);
    }
    /* Before anybody can know that we listen. */
    if (berth_loop_signal(workers[0].loop, SIGTERM, stop_all, NULL) != 0 ||
        berth_loop_signal(workers[0].loop, SIGINT, stop_all, NULL) != 0 ||
        berth_loop_signal(workers[0].loop, SIGUSR1, tell_all, NULL) != 0)
        fail("signals", -EBUSY, EXIT_FAILURE);
    signal(SIGPIPE, SIG_IGN); /* a reader of what we tell that went away is no reason to die */
    printf("listening on %s\n", address);
    fflush(stdout);
}

int
main(int argc, char **argv)
{
    struct berth_loop_options options;
    int status = EXIT_SUCCESS;

    berth_loop_options_init(&options);
    options.reuse_port = 1;
    const char *wanted = arguments_parse(argc, argv, &options);
    listen_everywhere(wanted, &options);
    pthread_barrier_init(&all_stopped, NULL, workers_count);

    for (unsigned i = 1; i < workers_count; i++) {
        const int error = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        if (error != 0)
            fail("thread", -error, EXIT_FAILURE);
    }
    work(&workers[0]);
    for (unsigned i = 1; i < workers_count; i++)
        pthread_join(workers[i].thread, NULL);
    for (unsigned i = 0; i < workers_count; i++) {
        printf("thread %u served %lu\n", i, workers[i].served);
        if (workers[i].status != 0)
            status = EXIT_FAILURE;
    }
    pthread_barrier_destroy(&all_stopped);
    return status;
}
