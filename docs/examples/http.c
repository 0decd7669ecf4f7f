/*
 * A server of static files over HTTP/1.1: GET and HEAD, connections that stay, pipelined requests,
 * requests that come in pieces. Here are the connections and the responses; http_request.c reads
 * requests, http_files.c finds the files.
 *
 * A response is a head, copied into the send queue, and a body that is not copied: a small file is
 * a lease that all its readers share; a big one is read into pool buffers as fast as its reader
 * takes them, and never faster: past SEND_HIGH_BYTES it waits for `drained`, and so do further
 * requests.
 *
 * Who neither completes a request nor takes what was asked for within --patience SECONDS is
 * disconnected, be it one who sends a byte now and then.
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
#define REST_BYTES_MAX (512 * 1024) /* of requests waiting for their turn, all in all */
#define BODY_BYTES_MAX (64 * 1024)  /* of a request: nobody needs one, but some send one */
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
    uint8_t streaming; /* a file is under way: see struct stream */
    uint8_t last;      /* what is being answered is the last request */
    uint8_t lingering; /* we have said all; what the peer still sends is dropped */
    uint8_t ended;     /* the peer will send no more */
    uint8_t waiting;   /* for a pool buffer: see struct stream */
};
_Static_assert(sizeof(struct client) <= BERTH_CONN_PAYLOAD_BYTES, "fits the slot");

/* In the cold record: only a few connections at a time send a big file. */
struct stream {
    int fd;
    off_t offset;
    uint64_t left;
    struct berth_waiter waiter; /* for a pool buffer, also when no file is under way */
};

static struct {
    struct berth_pool *pool;
    char date[DATE_BYTES_MAX];
    time_t date_second;
    uint32_t patience_ms;
} server;

static void client_advance(struct berth_conn *conn);

/* The peer has done its part: its time begins anew. */
static void
patience_renew(struct berth_conn *conn)
{
    berth_conn_timeout(conn, BERTH_TIMEOUT_TOTAL, server.patience_ms);
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

static void
stream_begin(struct berth_conn *conn, int fd, uint64_t bytes)
{
    struct client *client = berth_conn_payload(conn);
    struct stream *stream = berth_conn_cold(conn);

    assert(!client->streaming);
    stream->fd = fd;
    stream->offset = 0;
    stream->left = bytes;
    client->streaming = 1;
    /* The next request can wait in the socket: it is not needed before this one is answered. */
    berth_conn_credit(conn, 0);
}

static void
stream_end(struct berth_conn *conn)
{
    struct client *client = berth_conn_payload(conn);
    struct stream *stream = berth_conn_cold(conn);

    assert(client->streaming);
    close(stream->fd);
    client->streaming = 0;
    berth_conn_credit(conn, BERTH_CREDIT_UNLIMITED);
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
    if (file->fd >= 0 && wanted)
        stream_begin(conn, file->fd, file->bytes);
    else if (file->fd >= 0)
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

/* ---- big files ---------------------------------------------------------------------------- */

static int
must_wait(const struct berth_conn *conn)
{
    return berth_conn_queued(conn) > SEND_HIGH_BYTES;
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
    struct stream *stream = berth_conn_cold(conn);

    assert(!client->waiting);
    stream->waiter = (struct berth_waiter){.ready = on_buffer_free,
                                           .context = conn, /* until close, which ends the wait */
                                           .size_class = size_class,
                                           .purpose = BERTH_FOR_ACTIVE,
                                           .count = 1};
    const int error = berth_pool_wait(server.pool, &stream->waiter);
    client->waiting = error == 0;
    return error;
}

/* Reads one buffer full and queues it. Returns 1; 0: it waits for a buffer; -errno. */
static int
stream_piece(struct berth_conn *conn, struct stream *stream)
{
    struct berth_lease lease;

    if (berth_pool_get(server.pool, BERTH_CLASS_64K, BERTH_FOR_ACTIVE, &lease) != 0)
        return buffer_wait(conn, BERTH_CLASS_64K);
    if (lease.length > stream->left)
        lease.length = (uint32_t)stream->left;
    const ssize_t got =
        pread(stream->fd, berth_lease_data(server.pool, lease), lease.length, stream->offset);
    int error = got < 0 ? -errno : 0;
    if (got == 0)
        error = -EIO; /* it has become shorter than the head had promised */
    lease.length = got > 0 ? (uint32_t)got : 0;
    if (error == 0)
        error = berth_send_lease(conn, lease);
    if (error != 0) {
        berth_release(server.pool, lease);
        return error;
    }
    stream->offset += lease.length;
    stream->left -= lease.length;
    return 1;
}

static void
stream_advance(struct berth_conn *conn)
{
    const struct client *client = berth_conn_payload(conn);
    struct stream *stream = berth_conn_cold(conn);

    while (stream->left > 0 && !client->waiting && !must_wait(conn)) {
        const int result = stream_piece(conn, stream);
        if (result < 0)
            berth_conn_abort(conn); /* the only way left to say that this is not the whole file */
        if (result <= 0)
            return;
    }
    if (stream->left == 0)
        stream_end(conn);
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

    if (client->streaming || client->waiting || must_wait(conn))
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
    patience_renew(conn);
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
        if (client->streaming)
            stream_advance(conn);
        if (client->last && !client->streaming)
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
    if (client->ended && !client->streaming && !client->waiting && !must_wait(conn))
        berth_conn_close(conn);
}

/* There is room in the send queue again: what was begun goes on, then what came meanwhile. */
static void
client_advance(struct berth_conn *conn)
{
    struct client *client = berth_conn_payload(conn);

    patience_renew(conn);
    if (client->streaming) {
        stream_advance(conn);
        if (client->last && !client->streaming)
            linger_begin(conn);
    }
    if (!client->streaming)
        client_feed(conn, NULL);
}

static int
on_open(struct berth_conn *conn, void *context)
{
    (void)context;
    patience_renew(conn);
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
        berth_pool_wait_abort(&((struct stream *)berth_conn_cold(conn))->waiter);
    if (client->streaming)
        stream_end(conn);
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
    options.cold_bytes = sizeof(struct stream);
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
