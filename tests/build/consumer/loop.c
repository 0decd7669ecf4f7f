/*
 * A program of somebody else, on the bundled loop: listens, connects to itself, sends a few bytes
 * there and back. Public headers only.
 *
 * SPDX-License-Identifier: MIT
 */
#include <berth/loop.h>
#include <stdio.h>
#include <string.h>

static struct berth_loop *loop;
static size_t echoed_bytes;

static int
greet(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    return berth_send(conn, "hello", 5);
}

static void
echo(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)bytes;
    for (unsigned i = 0; i < n; i++) {
        if (berth_send(conn, spans[i].data, spans[i].length) != 0)
            berth_conn_abort(conn);
    }
}

static void
count(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)spans, (void)n;
    echoed_bytes += bytes;
    if (echoed_bytes >= 5)
        berth_conn_close(conn);
}

static void
stop(struct berth_conn *conn, int reason)
{
    (void)conn, (void)reason;
    berth_loop_stop(loop);
}

int
main(void)
{
    struct berth_handlers server, client;
    struct berth_listener *listener = NULL;
    char address[BERTH_ADDRESS_TEXT_MAX], engine[4096];
    memset(&server, 0, sizeof(server));
    memset(&client, 0, sizeof(client));
    server.data = echo;
    client.open = greet;
    client.data = count;
    client.close = stop;

    int result = berth_loop_create(&loop, NULL);
    if (result == 0)
        result = berth_listen(loop, "tcp://127.0.0.1:0", &server, NULL, &listener);
    if (result == 0)
        result = berth_listener_address(listener, address, sizeof(address));
    if (result == 0)
        result = berth_connect(loop, address, &client, NULL, NULL);
    if (result == 0)
        result = berth_loop_run(loop);
    if (result == 0 && berth_loop_explain(loop, engine, sizeof(engine)) > 0)
        printf("%zu bytes came back on the engine %s\n", echoed_bytes, berth_loop_engine(loop));
    berth_loop_destroy(loop);
    return result == 0 && echoed_bytes == 5 ? 0 : 1;
}
