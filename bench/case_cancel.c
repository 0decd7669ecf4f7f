/*
 * Case `cancel`: what a request that waits on an idle socket costs the kernel, and what it takes to
 * cancel thousands of them: this is what exchanging the receives of idle connections for poll
 * requests rests on (docs/design/loop.md). Requests are posted on both ends of pairs of sockets, in
 * a new ring each time, and cancelled in several ways; the time is from handing over the first
 * cancel until the last request's own completion is seen.
 *
 * What it cannot show: cancelling on a machine whose other CPUs work on the same ring's sockets.
 * The bytes are growth of the whole machine's kernel objects: whatever else it allocates meanwhile
 * is in them.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"
#include "machine.h"

#ifdef BERTH_HAVE_LIBURING
#include <liburing.h>

#define REQUESTS_MAX 60000u

/** Submissions handed over at once, and completions that fit. */
#define SUBMISSIONS 512u
#define COMPLETIONS 4096u

/** The last completion must come within this. */
#define ANSWER_NS_MAX UINT64_C(20000000000)

/** Newer than some headers (Linux 6.6). */
#define CANCEL_OP (1u << 5)

/** user_data of a cancel; requests have 1 and up. */
#define CANCEL_DATA 0u

enum request { RECEIVE, POLL };
enum way { EACH, EACH_FD, ANY, OPERATION };

struct contestant {
    const char *name;
    enum request request;
    enum way way;
};

static const struct contestant contestants[] = {
    {"receive-each", RECEIVE, EACH}, {"receive-each-fd", RECEIVE, EACH_FD},
    {"receive-any", RECEIVE, ANY},   {"receive-operation", RECEIVE, OPERATION},
    {"poll-each", POLL, EACH},       {"poll-any", POLL, ANY},
};
#define CONTESTANTS (sizeof contestants / sizeof contestants[0])

enum metric { POST_NS, CANCEL_NS, CANCEL_MS, BYTES, METRICS };

static const struct report_column columns[] = {
    {"requests", "requests", 0},
    {"kernel_bytes_per_request", "kernel bytes\nper request", 0},
    {"post_ns", "to post\nns each", 0},
    {"cancel_ns", "to cancel\nns each", 0},
    {"cancel_all_ms", "all of them\nms", 1},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

static int sockets[REQUESTS_MAX];

static int
sockets_open(uint32_t count)
{
    for (uint32_t i = 0; i + 1 < count; i += 2) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, &sockets[i]) != 0) {
            const int error = -errno;
            while (i-- > 0)
                close(sockets[i]);
            return error;
        }
    }
    return 0;
}

static void
sockets_close(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        close(sockets[i]);
}

/** A submission to fill in; what is full is handed over first. */
static struct io_uring_sqe *
submission_get(struct io_uring *ring)
{
    struct io_uring_sqe *submission = io_uring_get_sqe(ring);
    if (submission == NULL) {
        io_uring_submit(ring);
        submission = io_uring_get_sqe(ring);
    }
    return submission;
}

static void
post(struct io_uring *ring, enum request request, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct io_uring_sqe *submission = submission_get(ring);
        if (request == RECEIVE) {
            /* Without data it never gets to the point where it wants a buffer: there are none. */
            io_uring_prep_recv(submission, sockets[i], NULL, 0, 0);
            submission->flags |= IOSQE_BUFFER_SELECT;
            submission->ioprio = IORING_RECV_MULTISHOT | IORING_RECVSEND_POLL_FIRST;
        } else {
            io_uring_prep_poll_add(submission, sockets[i], POLLIN | POLLRDHUP);
        }
        submission->user_data = 1 + i;
    }
    io_uring_submit(ring);
}

static void
cancel(struct io_uring *ring, const struct contestant *contestant, uint32_t count)
{
    const bool each = contestant->way == EACH || contestant->way == EACH_FD;
    for (uint32_t i = 0; i < (each ? count : 1); i++) {
        struct io_uring_sqe *submission = submission_get(ring);
        if (contestant->way == EACH)
            io_uring_prep_cancel64(submission, 1 + i, 0);
        else if (contestant->way == EACH_FD)
            io_uring_prep_cancel_fd(submission, sockets[i], 0);
        else if (contestant->way == ANY)
            io_uring_prep_cancel64(submission, 0, IORING_ASYNC_CANCEL_ANY);
        else
            io_uring_prep_cancel64(submission, 0, (int)(IORING_ASYNC_CANCEL_ALL | CANCEL_OP));
        if (contestant->way == OPERATION)
            submission->len = contestant->request == RECEIVE ? IORING_OP_RECV : IORING_OP_POLL_ADD;
        submission->user_data = CANCEL_DATA;
        submission->flags |= each ? IOSQE_CQE_SKIP_SUCCESS : 0;
    }
}

/** Takes the completions that are there; how many requests were cancelled, or -errno. */
static int
reap(struct io_uring *ring)
{
    struct io_uring_cqe *completion;
    unsigned head, seen = 0;
    int cancelled = 0;
    io_uring_for_each_cqe(ring, head, completion)
    {
        seen++;
        if (completion->user_data != CANCEL_DATA && completion->res == -ECANCELED)
            cancelled++;
        else if (completion->user_data != CANCEL_DATA || completion->res < 0)
            return completion->res < 0 ? completion->res : -EPROTO;
    }
    io_uring_cq_advance(ring, seen);
    return cancelled;
}

static int
cancelled_await(struct io_uring *ring, uint32_t count)
{
    const uint64_t begin = machine_now_ns();
    struct __kernel_timespec timeout = {.tv_nsec = 100000000};
    for (uint32_t done = 0; done < count;) {
        struct io_uring_cqe *first;
        io_uring_submit_and_wait_timeout(ring, &first, 1, &timeout, NULL);
        const int cancelled = reap(ring);
        if (cancelled < 0)
            return cancelled;
        done += (uint32_t)cancelled;
        if (machine_now_ns() - begin > ANSWER_NS_MAX)
            return -ETIMEDOUT;
    }
    return 0;
}

static int
measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    const struct contestant *contestant = subject->context;
    const uint32_t count = subject->parameter;
    struct io_uring ring;
    struct io_uring_params params;
    (void)bench;
    memset(&params, 0, sizeof params);
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE;
    params.cq_entries = COMPLETIONS;
    int error = io_uring_queue_init_params(SUBMISSIONS, &ring, &params);
    if (error < 0)
        return error;
    const uint64_t bytes_before = machine_slab_settle();
    const uint64_t posting = machine_now_ns();
    post(&ring, contestant->request, count);
    const uint64_t posted = machine_now_ns();
    const uint64_t bytes_after = machine_slab_settle();
    const uint64_t cancelling = machine_now_ns();
    cancel(&ring, contestant, count);
    error = cancelled_await(&ring, count);
    const uint64_t cancelled = machine_now_ns();
    io_uring_queue_exit(&ring);
    metrics[POST_NS] = (double)(posted - posting) / count;
    metrics[CANCEL_NS] = (double)(cancelled - cancelling) / count;
    metrics[CANCEL_MS] = (double)(cancelled - cancelling) / 1e6;
    metrics[BYTES] = bytes_before > 0 ? ((double)bytes_after - (double)bytes_before) / count : NAN;
    return error;
}

static void
run_with(struct bench *bench, uint32_t count, struct bench_samples *samples)
{
    struct bench_subject subjects[CONTESTANTS];
    unsigned chosen = 0;
    for (unsigned i = 0; i < CONTESTANTS; i++) {
        if (bench_wants(bench, contestants[i].name))
            subjects[chosen++] = (struct bench_subject){.name = contestants[i].name,
                                                        .measure = measure,
                                                        .context = &contestants[i],
                                                        .parameter = count};
    }
    bench_rounds(bench, subjects, chosen, samples);
    for (unsigned s = 0; s < chosen; s++) {
        const struct estimate values[COLUMNS] = {
            estimate_exact(count),
            bench_estimate(samples, s, BYTES),
            bench_estimate(samples, s, POST_NS),
            bench_estimate(samples, s, CANCEL_NS),
            bench_estimate(samples, s, CANCEL_MS),
        };
        if (!subjects[s].left_out)
            report_row(&bench->report, subjects[s].name, values);
    }
}

static int
run(struct bench *bench)
{
    static struct bench_samples samples;
    report_table_begin(&bench->report, "cancel", columns, COLUMNS);
    for (unsigned i = 0; i < bench->options.connections.count && !machine_interrupted; i++) {
        uint32_t count =
            bench_descriptors_fit(bench, bench->options.connections.values[i] & ~1u, 1) & ~1u;
        if (count == 0)
            count = 2;
        const int error = sockets_open(count);
        if (error != 0)
            return error;
        run_with(bench, count, &samples);
        sockets_close(count);
    }
    report_note(&bench->report, "kernel bytes: growth of the whole machine's objects in use");
    return bench->report.tables[0].rows_count > 0 ? 0 : -EIO;
}

static const char *
variant(unsigned at)
{
    return at < CONTESTANTS ? contestants[at].name : NULL;
}

const struct bench_case bench_case_cancel = {
    .name = "cancel",
    .summary = "io_uring requests on idle sockets: kernel bytes each, and cancelling them all",
    .run = run,
    .variant = variant,
    .connections_max = REQUESTS_MAX,
    .normal = {.rounds = 3, .seconds = 0.1, .connections = "1000,16000"},
    .quick = {.rounds = 1, .seconds = 0.1, .connections = "2000"},
    .full = {.rounds = 5, .seconds = 0.1, .connections = "1000,4000,16000"},
};

#endif
