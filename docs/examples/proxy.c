/*
 * A proxy for streams: every connection to a LISTEN address gets one to the TARGET address behind
 * it, and what either receives goes to the other. Nobody here looks at a byte, or copies one.
 *
 *   proxy [--engine NAME] [--idle SECONDS] [--splice] LISTEN TARGET [LISTEN TARGET]...
 *
 * berth_forward does what makes a proxy hard: a slow reader stops its own stream only, an end of
 * stream is passed on while the other direction goes on, a reset arrives as a reset. What is left
 * is to connect, and a target that cannot be reached, which is closed with a reset as well.
 *
 * SPDX-License-Identifier: MIT
 */
#include "example.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <berth/forward.h>

#define SECONDS_MAX (BERTH_TIMEOUT_MS_MAX / 1000)

static struct {
    uint32_t idle_ms; /* how long a connection may be quiet in both directions; 0: for ever */
    unsigned flags;   /* of berth_forward */
} proxy = {.flags = BERTH_FORWARD_CLOSE};

/* ---- the target --------------------------------------------------------------------------- */

/* Why there is no connection to it, or why there is none any more. The client hears of it, too. */
static void
on_target_close(struct berth_conn *conn, int reason)
{
    const char *address = berth_conn_context(conn);

    if (reason == -ECONNREFUSED || reason == -ETIMEDOUT || reason == -ENOENT)
        fprintf(stderr, "proxy: %s: %s\n", address, strerror(-reason));
}

static const struct berth_handlers target_handlers = {.close = on_target_close};

/* Connects to where that client's bytes go. What it sends meanwhile waits in the queue. */
static int
target_connect(struct berth_conn *client, void *address)
{
    struct berth_loop *loop = berth_conn_loop(client);
    berth_token token = BERTH_TOKEN_NONE;
    int error = berth_connect(loop, address, &target_handlers, address, &token);

    if (error != 0)
        return error;
    struct berth_conn *target = berth_conn_find(loop, token);
    error = berth_forward(client, target, proxy.flags);
    if (error == 0)
        error = berth_forward(target, client, proxy.flags);
    if (error != 0)
        berth_conn_abort(target);
    else if (proxy.idle_ms > 0)
        berth_conn_timeout(target, BERTH_TIMEOUT_IDLE, proxy.idle_ms);
    return error;
}

/* ---- the client --------------------------------------------------------------------------- */

static int
on_client_open(struct berth_conn *conn, void *target_address)
{
    const int error = target_connect(conn, target_address);

    if (error != 0) {
        fprintf(stderr, "proxy: %s: %s\n", (const char *)target_address, strerror(-error));
        berth_conn_abort(conn);
    } else if (proxy.idle_ms > 0) {
        berth_conn_timeout(conn, BERTH_TIMEOUT_IDLE, proxy.idle_ms);
    }
    return 0;
}

static const struct berth_handlers client_handlers = {.open = on_client_open};

/* ---- main --------------------------------------------------------------------------------- */

/* Seconds from the command line as milliseconds. */
static uint32_t
seconds_parse(const char *text)
{
    char *end = NULL;
    const unsigned long seconds = strtoul(text, &end, 10);

    if (text[0] < '0' || text[0] > '9' || *end != '\0' || seconds > SECONDS_MAX)
        example_usage();
    return (uint32_t)seconds * 1000;
}

int
main(int argc, char **argv)
{
    const char *idle = "0", *splice = NULL;
    const struct example_option own[] = {
        {"idle", "SECONDS", &idle}, {"splice", NULL, &splice}, {NULL, NULL, NULL}};
    struct berth_loop *loop = example_open(argc, argv, NULL, own);
    int count = 0;

    proxy.idle_ms = seconds_parse(idle);
    if (splice != NULL)
        proxy.flags |= BERTH_FORWARD_SPLICE;
    while (example_address(count) != NULL)
        count++;
    if (count % 2 != 0)
        example_usage();
    for (int i = 0; i < count; i += 2)
        example_listen_on(loop, example_address(i), &client_handlers, example_address(i + 1));
    const int status = example_run(loop);
    berth_loop_destroy(loop);
    return status;
}
