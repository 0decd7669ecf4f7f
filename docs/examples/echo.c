/*
 * An echo server: what comes in goes out again, and nobody here copies it. The kernel has put the
 * bytes into a pool buffer; retaining makes the loan a lease, and the send queue takes the lease.
 *
 * SPDX-License-Identifier: MIT
 */
#include "example.h"

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct berth_pool *pool = berth_loop_pool(berth_conn_loop(conn));

    (void)bytes;
    for (unsigned i = 0; i < n; i++) {
        struct berth_lease lease;
        int error = berth_retain(pool, &spans[i], 0, spans[i].length, 0, &lease);
        if (error == 0 && (error = berth_send_lease(conn, lease)) != 0)
            berth_release(pool, lease); /* not taken: it is still ours */
        if (error != 0) {
            berth_conn_abort(conn); /* a stream with a hole is worse than none */
            return;
        }
    }
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
