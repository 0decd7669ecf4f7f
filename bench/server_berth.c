/*
 * The contestant: an echo server on berth's loop, as a user would write it: what comes in is sent
 * back from where it lies. The rest is reading counters for the measurer.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <berth.h>
#include <berth/loop.h>

#include "server.h"

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)bytes;
    for (unsigned i = 0; i < n; i++) {
        if (berth_send_span(conn, &spans[i]) != 0)
            berth_conn_abort(conn);
    }
}

static const struct berth_handlers handlers = {.data = on_data};

static void
count_posted(const struct berth_holding *holding, void *context)
{
    int64_t *posted = context;
    *posted += strcmp(holding->state, "posted") == 0;
}

static void
counters_fill(struct berth_loop *loop, struct server_counters *counters)
{
    struct berth_loop_stats stats;
    struct berth_copies copies;
    int64_t posted = 0;
    berth_loop_stats_get(loop, &stats);
    berth_loop_copies_get(loop, &copies);
    const unsigned outstanding = berth_pool_report(berth_loop_pool(loop), count_posted, &posted);
    memset(counters, 0, sizeof *counters);
    counters->syscalls = stats.syscalls;
    counters->turns = stats.turns;
    counters->received_bytes = stats.received_bytes;
    counters->conns = berth_loop_conns(loop);
    counters->enobufs = stats.enobufs;
    counters->parked = stats.demotions - stats.promotions; /* none of those has closed */
    counters->buffers_held = (int64_t)outstanding - posted;
    counters->copies = copies;
    counters->copies_received = berth_copy_factor(&copies, BERTH_COPY_RECEIVE, BERTH_COPY_HIGH);
    counters->copies_sent = berth_copy_factor(&copies, BERTH_COPY_SEND, BERTH_COPY_HIGH);
}

static int
listen_somewhere(struct berth_loop *loop, uint16_t *port)
{
    struct berth_listener *listener = NULL;
    char address[BERTH_ADDRESS_TEXT_MAX];
    int error = berth_listen(loop, "tcp://127.0.0.1:0", &handlers, NULL, &listener);
    if (error == 0)
        error = berth_listener_address(listener, address, sizeof address);
    if (error == 0)
        error = server_socket_tune(berth_listener_fd(listener)); /* connections inherit it */
    if (error == 0)
        *port = (uint16_t)strtoul(strrchr(address, ':') + 1, NULL, 10);
    return error;
}

int
server_berth_serve(struct server_control *control, const struct server_kind *kind)
{
    struct berth_loop *loop = NULL;
    struct berth_loop_options options;
    uint16_t port = 0;
    berth_loop_options_init(&options);
    options.engine = kind->engine;
    options.direct_descriptors = kind->direct;
    if (kind->share != 0)
        options.fairness_bytes = kind->share;
    int error = berth_loop_create(&loop, &options);
    if (error != 0)
        return error;
    error = listen_somewhere(loop, &port);
    berth_loop_explain(loop, control->explain, sizeof control->explain);
    if (error == 0 && kind->direct && strstr(control->explain, "descriptors: direct") == NULL)
        error = -EOPNOTSUPP; /* the loop goes on without, but under another name */
    if (error == 0)
        server_ready(control, port);
    while (error >= 0 && server_running(control)) {
        if (atomic_exchange_explicit(&control->park, 0, memory_order_relaxed) != 0)
            berth_loop_park_idle(loop, 0);
        if (server_asked(control)) {
            struct server_counters counters;
            counters_fill(loop, &counters);
            server_answer(control, &counters);
        }
        error = berth_loop_turn(loop, SERVER_WAIT_MS);
    }
    berth_loop_destroy(loop);
    return error < 0 ? error : 0;
}
