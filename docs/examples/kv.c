/*
 * A key-value server that redis-cli and other RESP2 clients can talk to: strings, counters, expiry.
 * Here are the connections; kv_resp.c parses requests, kv_commands.c answers them, kv_store.c holds
 * the data.
 *
 * Pipelined requests are answered in one go, but only while their answers find room in the send
 * queue: past SEND_HIGH_BYTES the rest waits, in this process and then in the client's, so that a
 * client that does not read cannot make the server hold more than its share.
 *
 * There is no persistence and no password: listen on addresses whose users you trust.
 *
 * SPDX-License-Identifier: MIT
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "example.h"
#include "kv_commands.h"
#include "kv_resp.h"

#define SEND_HIGH_BYTES (256 * 1024)
#define REQUEST_BYTES_MAX                                                                          \
    ((size_t)3 << 19) /* 1.5 MiB: with one span more it fits a 2 MiB buffer                        \
                       */
#define ERROR_BYTES_MAX 128
#define TICK_MS 100

/* The 40 bytes in the slot. */
struct client {
    struct example_input input;
    int ended;   /* the peer will send no more */
    int closing; /* nothing more is answered */
};
_Static_assert(sizeof(struct client) <= BERTH_CONN_PAYLOAD_BYTES, "fits the slot");

/* The request being answered: there is one at a time, and it is too big for the stack. */
static struct kv_request request;

static void
client_close(struct berth_conn *conn)
{
    struct client *client = berth_conn_payload(conn);

    client->closing = 1;
    berth_conn_close(conn);
}

static void
client_refuse(struct berth_conn *conn, const char *text)
{
    char reply[ERROR_BYTES_MAX];
    const int length = snprintf(reply, sizeof(reply), "-%s\r\n", text);

    assert(length > 0 && (size_t)length < sizeof(reply));
    berth_send(conn, reply, (size_t)length); /* refused or not, the connection ends here */
    client_close(conn);
}

static int
must_wait(const struct berth_conn *conn)
{
    return berth_conn_queued(conn) > SEND_HIGH_BYTES;
}

static size_t
requests_run(struct berth_conn *conn, const char *data, size_t length)
{
    const struct client *client = berth_conn_payload(conn);
    size_t used = 0;

    while (used < length && !must_wait(conn) && !client->closing) {
        const char *error = NULL;
        const long bytes = kv_parse(data + used, length - used, &request, &error);
        if (bytes == 0)
            break;
        if (bytes < 0)
            client_refuse(conn, error);
        else if (request.count > 0 && kv_run(conn, &request))
            client_close(conn);
        used += bytes > 0 ? (size_t)bytes : 0;
    }
    return client->closing ? length : used;
}

static void
client_feed(struct berth_conn *conn, const struct berth_span *span)
{
    struct client *client = berth_conn_payload(conn);
    const int error =
        example_input_feed(conn, &client->input, span, REQUEST_BYTES_MAX, requests_run);

    if (error == -EMSGSIZE)
        client_refuse(conn, "ERR Protocol error: request too long");
    else if (error != 0)
        berth_conn_abort(conn);
    if (client->ended && !must_wait(conn))
        client_close(conn);
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
    client_feed(conn, NULL);
}

/* Requests that wait for room in the send queue are still answered. */
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
    example_input_clear(berth_loop_pool(berth_conn_loop(conn)), &client->input);
}

static void
on_tick(struct berth_loop *loop)
{
    (void)loop;
    kv_commands_tick();
}

int
main(int argc, char **argv)
{
    static const struct berth_handlers handlers = {
        .data = on_data, .drained = on_drained, .eof = on_eof, .close = on_close};
    struct berth_loop_options options;

    berth_loop_options_init(&options);
    options.send_high_bytes = SEND_HIGH_BYTES;
    struct berth_loop *loop = example_open(argc, argv, &options, NULL);
    const int error = kv_commands_open();
    if (error != 0) {
        fprintf(stderr, "kv: random numbers: %s\n", strerror(-error));
        berth_loop_destroy(loop);
        return 1;
    }
    example_tick(TICK_MS, on_tick);
    example_listen(loop, &handlers, NULL);
    const int status = example_run(loop);
    berth_loop_destroy(loop);
    kv_commands_close();
    return status;
}
