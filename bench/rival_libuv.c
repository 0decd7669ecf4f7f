/*
 * A rival: an echo server on libuv, as somebody who knows it writes one: one receive buffer for the
 * whole loop, uv_try_write at once, and uv_write only for what the socket did not take.
 *
 * libuv reads, writes and waits by itself, as often as it finds right: its system calls are not
 * told. Turns are counted before each wait of the loop.
 *
 * SPDX-License-Identifier: MIT
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "server.h"

struct echo {
    struct server_control *control;
    struct server_counters counters;
    uv_loop_t loop;
    uv_tcp_t listener;
    uv_prepare_t turn;
    uv_timer_t wake;
    char data[SERVER_RECEIVE_BYTES];
};

/** What a socket did not take. */
struct rest {
    uv_write_t request;
    char data[];
};

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer);
static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buffer);

static struct echo *
echo_of(const uv_stream_t *stream)
{
    return stream->loop->data;
}

static void
on_closed(uv_handle_t *handle)
{
    struct echo *echo = handle->loop->data;
    echo->counters.conns--;
    free(handle);
}

static void
conn_close(uv_stream_t *stream)
{
    uv_handle_t *handle = (uv_handle_t *)stream;
    if (!uv_is_closing(handle))
        uv_close(handle, on_closed);
}

static void
on_rest_written(uv_write_t *request, int status)
{
    uv_stream_t *stream = request->handle;
    free(request->data);
    if (status < 0 || uv_read_start(stream, on_allocate, on_read) != 0)
        conn_close(stream);
}

/** Hands the library what the socket did not take, and reads no more until that is written. */
static void
conn_write_rest(uv_stream_t *stream, const char *data, size_t bytes)
{
    struct rest *rest = malloc(sizeof *rest + bytes);
    if (rest == NULL) {
        conn_close(stream);
        return;
    }
    memcpy(rest->data, data, bytes);
    rest->request.data = rest;
    const uv_buf_t buffer = uv_buf_init(rest->data, (unsigned)bytes);
    uv_read_stop(stream);
    if (uv_write(&rest->request, stream, &buffer, 1, on_rest_written) != 0) {
        free(rest);
        conn_close(stream);
    }
}

static void
on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    struct echo *echo = handle->loop->data;
    (void)suggested;
    *buffer = uv_buf_init(echo->data, sizeof echo->data);
}

static void
on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buffer)
{
    if (got < 0)
        conn_close(stream);
    if (got <= 0)
        return;
    echo_of(stream)->counters.received_bytes += (uint64_t)got;
    const uv_buf_t answer = uv_buf_init(buffer->base, (unsigned)got);
    const int sent = uv_try_write(stream, &answer, 1);
    if (sent == got)
        return;
    if (sent < 0 && sent != UV_EAGAIN) {
        conn_close(stream);
        return;
    }
    const size_t done = sent < 0 ? 0 : (size_t)sent;
    conn_write_rest(stream, buffer->base + done, (size_t)got - done);
}

static void
on_connection(uv_stream_t *listener, int status)
{
    struct echo *echo = echo_of(listener);
    uv_tcp_t *conn = status < 0 ? NULL : malloc(sizeof *conn);
    if (conn == NULL)
        return;
    if (uv_tcp_init(listener->loop, conn) != 0) {
        free(conn);
        return;
    }
    echo->counters.conns++;
    uv_stream_t *stream = (uv_stream_t *)conn;
    if (uv_accept(listener, stream) != 0 || uv_read_start(stream, on_allocate, on_read) != 0)
        conn_close(stream);
}

/** Before each wait. */
static void
on_turn(uv_prepare_t *turn)
{
    struct echo *echo = turn->data;
    if (!server_running(echo->control))
        uv_stop(&echo->loop);
    if (server_asked(echo->control))
        server_answer(echo->control, &echo->counters);
    echo->counters.turns++;
}

static void
on_wake(uv_timer_t *wake)
{
    (void)wake;
}

static int
begin(struct echo *echo, int listener)
{
    uv_stream_t *stream = (uv_stream_t *)&echo->listener;
    int error = uv_loop_init(&echo->loop);
    echo->loop.data = echo->turn.data = echo;
    if (error == 0)
        error = uv_tcp_init(&echo->loop, &echo->listener);
    if (error == 0)
        error = uv_tcp_open(&echo->listener, listener);
    if (error == 0)
        error = uv_listen(stream, SOMAXCONN, on_connection);
    if (error == 0)
        error = uv_prepare_init(&echo->loop, &echo->turn);
    if (error == 0)
        error = uv_prepare_start(&echo->turn, on_turn);
    if (error == 0)
        error = uv_timer_init(&echo->loop, &echo->wake);
    if (error == 0)
        error = uv_timer_start(&echo->wake, on_wake, SERVER_WAIT_MS, SERVER_WAIT_MS);
    return error; /* -errno, on systems like this one */
}

int
rival_libuv_serve(struct server_control *control, const struct server_kind *kind)
{
    static struct echo echo;
    uint16_t port = 0;
    (void)kind;
    const int listener = server_listen(&port);
    if (listener < 0)
        return listener;
    signal(SIGPIPE, SIG_IGN);
    echo.control = control;
    echo.counters = server_counters_begin();
    echo.counters.syscalls = SERVER_COUNT_UNKNOWN;
    const int error = begin(&echo, listener);
    if (error != 0)
        return error;
    snprintf(control->explain, sizeof control->explain, "libuv %s", uv_version_string());
    server_ready(control, port);
    uv_run(&echo.loop, UV_RUN_DEFAULT);
    return 0;
}
