/*
 * A datagram echo server: what comes in goes back to where it came from, and nobody here copies it.
 * Each datagram is retained where the kernel has put it, and sent from there.
 *
 * --receive says how: `plain` in 4 KiB buffers (longer datagrams are cut short, marked so, and not
 * sent back), `large` in 64 KiB buffers, `merged` in the same, and the kernel may merge what one
 * sender sends in a row; then one send brings all of them back.
 *
 * Not for the open internet: two such servers and one forged datagram echo to each other always.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "example.h"

static void
echo(struct berth_udp *udp, const struct berth_datagram *datagram)
{
    struct berth_pool *pool = berth_loop_pool(berth_udp_loop(udp));
    struct berth_lease lease;

    if (datagram->truncated)
        return;
    if (datagram->span.length == 0) { /* there is nothing to retain, and yet something to answer */
        berth_udp_reply(udp, datagram, NULL, 0);
        return;
    }
    if (berth_retain(pool, &datagram->span, 0, datagram->span.length, 0, &lease) != 0)
        return;
    if (berth_udp_send_lease(udp, datagram->from, datagram->from_length, lease,
                             datagram->segment_bytes) != 0)
        berth_release(pool, lease); /* no room: a datagram may get lost */
}

static void
on_datagrams(struct berth_udp *udp, const struct berth_datagram *list, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        echo(udp, &list[i]);
}

int
main(int argc, char **argv)
{
    static const struct berth_udp_handlers handlers = {.datagrams = on_datagrams};
    const char *receive = "plain";
    const struct example_option own[] = {{"receive", "plain|large|merged", &receive}, {NULL}};
    struct berth_udp_options options;
    struct berth_loop *loop = example_open(argc, argv, NULL, own);

    berth_udp_options_init(&options);
    options.large = strcmp(receive, "large") == 0;
    options.receive_merged = strcmp(receive, "merged") == 0;
    if (!options.large && !options.receive_merged && strcmp(receive, "plain") != 0) {
        fprintf(stderr, "usage: --receive is plain, large or merged, not %s\n", receive);
        berth_loop_destroy(loop);
        return 2;
    }
    example_udp_open(loop, &handlers, NULL, &options);
    const int status = example_run(loop);
    berth_loop_destroy(loop);
    return status;
}
