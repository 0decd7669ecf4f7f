/*
 * A server of static files over HTTP/1.1: GET and HEAD, connections that stay, pipelined requests,
 * requests that come in pieces. Here are the connections and the responses; http_request.c reads
 * requests, http_files.c finds the files.
 *
 * A response is a head, copied into the send queue, and a body that is not copied: a small file is
 * a lease that all its readers share, of a big one the kernel sends the pages that it has in memory
 * anyway. Past SEND_HIGH_BYTES further requests wait for `drained`.
 *
 * Who neither completes a request nor takes what was asked for within --patience SECONDS, once more
 * for every SEND_HIGH_BYTES of it, is disconnected, be it one who sends or takes a byte now and
 * then; who takes nothing at all, the first time they are over.
 *
 * SPDX-License-Identifier: MIT
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "example.h"
#include "http_files.h"
#include "http_request.h"

#define SEND_HIGH_BYTES (256 * 1024)
#define REST_BYTES_MAX (2 * 1024 * 1024) /* of requests that wait: what comes at once, twice */
#define BODY_BYTES_MAX (64 * 1024)       /* of a request: nobody needs one, but some send one */
#define LINGER_BYTES_MAX (256 * 1024)
#define HEAD_BYTES_MAX 512
#define DATE_BYTES_MAX 32
#define PATIENCE_SECONDS "60"
#define PATIENCE_SECONDS_MAX 86400

/* The 40 bytes in the slot. */
struct client {
    struct example_input input;
    uint32_t skip;     /* bytes of a request's body still to come, which nobody wants */
    uint32_t lingered; /* bytes that came after our last word */
    uint8_t last;      /* what is being answered is the last request */
    uint8_t lingering; /* we have said all; what the peer still sends is dropped */
    uint8_t ended;     /* the peer will send no more */
    uint8_t waiting;   /* for a pool buffer: the cold record is a struct berth_waiter then */
};
_Static_assert(sizeof(struct client) <= BERTH_CONN_PAYLOAD_BYTES, "fits the slot");

static struct {
    struct berth_pool *pool;
    char date[DATE_BYTES_MAX];
    time_t date_second;
    uint32_t patience_ms;
} server;

static void client_advance(struct berth_conn *conn);

/* The peer has done its part: its time begins anew, for taking so many bytes. */
static void
patience_renew(struct berth_conn *conn, uint64_t bytes)
{
    const uint64_t times = 1 + bytes / SEND_HIGH_BYTES;
    const uint64_t times_max = BERTH_TIMEOUT_MS_MAX / server.patience_ms;

    berth_conn_timeout(conn, BERTH_TIMEOUT_TOTAL,
                       server.patience_ms * (uint32_t)(times < times_max ? times : times_max));
}

/* ---- responses ---------------------------------------------------------------------------- */

static void
date_format(time_t when, char text[DATE_BYTES_MAX])
{
    struct tm parts;

    gmtime_r(&when, &parts);
    strftime(text, DATE_BYTES_MAX, "%a, %d %b %Y %H:%M:%S GMT", &parts);
}

static const char *
date_now(void)
{
    const time_t now = time(NULL);

    if (now != server.date_second) {
        server.date_second = now;
        date_format(now, server.date);
    }
    return server.date;
}

/* Sends the head. `extra` is more header lines, each with its end. */
static int
head_send(struct berth_conn *conn, const struct http_request *request, int status, uint64_t bytes,
          const char *type, const char *extra)
{
    const struct client *client = berth_conn_payload(conn);
    const char *connection = "";
    char head[HEAD_BYTES_MAX];

    if (client->last)
        connection = "Connection: close\r\n";
    else if (request->minor == 0)
        connection = "Connection: keep-alive\r\n";
    const int length =
        snprintf(head, sizeof(head),
                 "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: %s\r\n"
                 "Content-Length: %" PRIu64 "\r\n%s%s\r\n",
                 status, http_reason(status), date_now(), type, bytes, extra, connection);
    assert(length > 0 && (size_t)length < sizeof(head));
    return berth_send(conn, head, (size_t)length);
}

/* What has no file: a line that says so. */
static int
status_send(struct berth_conn *conn, const struct http_request *request, int status)
{
    const char *extra = status == 405 ? "Allow: GET, HEAD\r\n" : "";
    char body[64];
    const int length = snprintf(body, sizeof(body), "%d %s\n", status, http_reason(status));
    const int error =
        head_send(conn, request, status, (uint64_t)length, "text/plain; charset=utf-8", extra);

    if (error != 0 || request->method == HTTP_HEAD)
        return error;
    return berth_send(conn, body, (size_t)length);
}

static int
file_send(struct berth_conn *conn, const struct http_request *request, struct http_file *file)
{
    char extra[64] = "Last-Modified: ";
    const int has_content = file->content.generation != 0;

    date_format(file->modified, extra + strlen(extra));
    strcat(extra, "\r\n");
    int error = head_send(conn, request, 200, file->bytes, file->type, extra);
    const int wanted = error == 0 && request->method == HTTP_GET;
    if (has_content && wanted)
        error = berth_send_lease(conn, file->content);
    if (has_content && (!wanted || error != 0))
        berth_release(server.pool, file->content);
    if (file->fd >= 0 && wanted) {
        patience_renew(conn, file->bytes);
        error = berth_send_file(conn, file->fd, 0, file->bytes);
    }
    if (file->fd >= 0 && (!wanted || error != 0))
        close(file->fd);
    return error;
}

static int
request_answer(struct berth_conn *conn, const struct http_request *request)
{
    struct http_file file;
    char path[HTTP_PATH_BYTES_MAX];

    if (request->method == HTTP_OTHER)
        return status_send(conn, request, 405);
    int status = http_path(request, path);
    if (status == 0)
        status = http_file_get(path, example_now_ms(), &file);
    return status != 0 ? status_send(conn, request, status) : file_send(conn, request, &file);
}

/* ---- waiting ------------------------------------------------------------------------------ */

static int
must_wait(const struct berth_conn *conn)
{
    return berth_conn_queued(conn) >= SEND_HIGH_BYTES;
}

static void
on_buffer_free(struct berth_waiter *waiter, void *context)
{
    struct client *client = berth_conn_payload(context);

    (void)waiter;
    client->waiting = 0;
    client_advance(context);
}

/* Goes on when the pool has a buffer of that class again. Returns 0 or -errno. */
static int
buffer_wait(struct berth_conn *conn, enum berth_class size_class)
{
    struct client *client = berth_conn_payload(conn);
    struct berth_waiter *waiter = berth_conn_cold(conn);

    assert(!client->waiting);
    *waiter = (struct berth_waiter){.ready = on_buffer_free,
                                    .context = conn, /* until close, which ends the wait */
                                    .size_class = size_class,
                                    .purpose = BERTH_FOR_ACTIVE,
                                    .count = 1};
    const int error = berth_pool_wait(server.pool, waiter);
    client->waiting = error == 0;
    return error;
}

/* ---- connections -------------------------------------------------------------------------- */

/*
 * Closing at once could destroy our last words: what the peer sends meanwhile makes the kernel
 * answer with a reset. So we end our side, and wait for the peer to end its own.
 */
static void
linger_begin(struct berth_conn *conn)
{
    struct client *client = berth_conn_payload(conn);

    client->lingering = 1;
    berth_conn_shutdown(conn);
}

static size_t
linger_drop(struct berth_conn *conn, size_t length)
{
    struct client *client = berth_conn_payload(conn);

    client->lingered += (uint32_t)length;
    if (client->lingered > LINGER_BYTES_MAX)
        berth_conn_abort(conn);
    return length;
}

/* Whether there is a buffer for the head of a response; if not, waits for one. */
static int
may_answer(struct berth_conn *conn)
{
    static const enum berth_class needed[] = {BERTH_CLASS_512, BERTH_CLASS_4K};
    const struct client *client = berth_conn_payload(conn);

    if (client->waiting || must_wait(conn))
        return 0;
    for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        if (berth_pool_available(server.pool, needed[i], BERTH_FOR_ACTIVE) > 0)
            continue;
        if (buffer_wait(conn, needed[i]) != 0)
            berth_conn_abort(conn);
        return 0;
    }
    return 1;
}

/* Answers the request at the front. Returns its bytes; 0: its end has not come yet. */
static size_t
request_serve(struct berth_conn *conn, const char *data, size_t length)
{
    struct client *client = berth_conn_payload(conn);
    struct http_request request;
    const long bytes = http_parse(data, length, &request);
    int status = bytes < 0 ? (int)-bytes : 0;

    if (bytes == 0)
        return 0;
    if (status == 0 && request.body_bytes > BODY_BYTES_MAX)
        status = 413;
    /* A peer that waits for "100 Continue" may or may not send its body after this answer. */
    client->last = status != 0 || !request.keep_alive ||
                   (request.expects && request.body_bytes > 0) ||
                   berth_loop_draining(berth_conn_loop(conn));
    client->skip = (uint32_t)request.body_bytes;
    patience_renew(conn, 0);
    const int error =
        status != 0 ? status_send(conn, &request, status) : request_answer(conn, &request);
    if (error != 0)
        berth_conn_abort(conn);
    return bytes > 0 ? (size_t)bytes : length;
}

static size_t
requests_serve(struct berth_conn *conn, const char *data, size_t length)
{
    struct client *client = berth_conn_payload(conn);
    size_t used = 0;

    while (used < length) {
        if (client->lingering)
            return used + linger_drop(conn, length - used);
        if (!may_answer(conn))
            return used;
        if (client->skip > 0) {
            const size_t left = length - used;
            const uint32_t skipped = left < client->skip ? (uint32_t)left : client->skip;
            client->skip -= skipped;
            used += skipped;
            continue;
        }
        const size_t bytes = request_serve(conn, data + used, length - used);
        if (bytes == 0)
            return used;
        used += bytes;
        if (client->last)
            linger_begin(conn);
    }
    return used;
}

static void
client_feed(struct berth_conn *conn, const struct berth_span *span)
{
    struct client *client = berth_conn_payload(conn);

    if (example_input_feed(conn, &client->input, span, REST_BYTES_MAX, requests_serve) != 0)
        berth_conn_abort(conn);
    if (client->ended && !client->waiting && !must_wait(conn))
        berth_conn_close(conn);
}

/* There is room in the send queue again, or a buffer: what came meanwhile is answered. */
static void
client_advance(struct berth_conn *conn)
{
    patience_renew(conn, 0);
    client_feed(conn, NULL);
}

static int
on_open(struct berth_conn *conn, void *context)
{
    (void)context;
    patience_renew(conn, 0);
    berth_conn_timeout(conn, BERTH_TIMEOUT_WRITE, server.patience_ms);
    return 0;
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)bytes;
    for (unsigned i = 0; i < n; i++)
        client_feed(conn, &spans[i]);
}

static void
on_drained(struct berth_conn *conn)
{
    client_advance(conn);
}

static void
on_eof(struct berth_conn *conn)
{
    struct client *client = berth_conn_payload(conn);

    client->ended = 1;
    client_feed(conn, NULL);
}

static void
on_close(struct berth_conn *conn, int reason)
{
    struct client *client = berth_conn_payload(conn);

    (void)reason;
    if (client->waiting)
        berth_pool_wait_abort(berth_conn_cold(conn));
    example_input_clear(server.pool, &client->input);
}

/* Neither a whole request nor a reader's progress for so long, however many bytes have come. */
static void
on_timeout(struct berth_conn *conn, enum berth_timeout kind)
{
    (void)kind;
    berth_conn_close(conn);
}

int
main(int argc, char **argv)
{
    static const struct berth_handlers handlers = {.open = on_open,
                                                   .data = on_data,
                                                   .drained = on_drained,
                                                   .eof = on_eof,
                                                   .timeout = on_timeout,
                                                   .close = on_close};
    const char *root = ".";
    const char *patience = PATIENCE_SECONDS;
    const struct example_option own[] = {
        {"root", "DIR", &root}, {"patience", "SECONDS", &patience}, {NULL, NULL, NULL}};
    struct berth_loop_options options;

    berth_loop_options_init(&options);
    options.cold_bytes = sizeof(struct berth_waiter);
    options.send_high_bytes = SEND_HIGH_BYTES;
    struct berth_loop *loop = example_open(argc, argv, &options, own);
    server.pool = berth_loop_pool(loop);
    const long seconds = strtol(patience, NULL, 10);
    if (seconds < 1 || seconds > PATIENCE_SECONDS_MAX) {
        fprintf(stderr, "http: --patience is 1 to %d seconds\n", PATIENCE_SECONDS_MAX);
        berth_loop_destroy(loop);
        return 2;
    }
    server.patience_ms = (uint32_t)seconds * 1000;
    const int error = http_files_open(server.pool, root);
    if (error != 0) {
        fprintf(stderr, "http: %s: %s\n", root, strerror(-error));
        berth_loop_destroy(loop);
        return 1;
    }
    example_listen(loop, &handlers, NULL);
    const int status = example_run(loop);
    http_files_close();
    berth_loop_destroy(loop);
    return status;
}
