/*
 * An echo server: what comes in goes out again, and nobody here copies it. The kernel has put the
 * bytes into a pool buffer, and they leave from where they lie.
 *
 * SPDX-License-Identifier: MIT
 */
#include "example.h"

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)bytes;
    for (unsigned i = 0; i < n; i++)
        if (berth_send_span(conn, &spans[i]) != 0)
            berth_conn_abort(conn); /* a stream with a hole is worse than none */
}

int
main(int argc, char **argv)
{
    static const struct berth_handlers handlers = {.data = on_data};
    struct berth_loop *loop = example_open(argc, argv, NULL, NULL);

    example_listen(loop, &handlers, NULL);
    const int status = example_run(loop);
    berth_loop_destroy(loop);
    return status;
}
