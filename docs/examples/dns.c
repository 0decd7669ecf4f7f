/*
 * A small name server over UDP: it answers A, AAAA and TXT for a zone given on the command line.
 * dns_zone.c holds the records, dns_answer.c makes an answer out of a query; here are the
 * datagrams.
 *
 * Try it: dns --origin example. --zone 'www.example A 192.0.2.1; example TXT hello' \
 *             udp://127.0.0.1:5353
 * then    dig @127.0.0.1 -p 5353 www.example
 *
 * There is no TCP beside it: what does not fit is marked so, and the asker can have no more. On a
 * host with several addresses give each of them, not "*": an answer must come from the address that
 * was asked.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dns_answer.h"
#include "example.h"

/* The answer is made in the buffer that it is sent from. */
static void
answer(struct berth_udp *udp, const struct berth_datagram *datagram)
{
    struct berth_pool *pool = berth_loop_pool(berth_udp_loop(udp));
    struct berth_lease lease;

    if (berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_ACTIVE, &lease) != 0)
        return; /* they will ask again */
    lease.length =
        (uint32_t)dns_answer(berth_udp_context(udp), datagram->span.data, datagram->span.length,
                             (int)datagram->truncated, berth_lease_data(pool, lease));
    if (lease.length == 0 ||
        berth_udp_send_lease(udp, datagram->from, datagram->from_length, lease, 0) != 0)
        berth_release(pool, lease);
}

static void
on_datagrams(struct berth_udp *udp, const struct berth_datagram *list, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        answer(udp, &list[i]);
}

int
main(int argc, char **argv)
{
    static const struct berth_udp_handlers handlers = {.datagrams = on_datagrams};
    const char *origin = "example.";
    const char *records = "";
    const char *fault = NULL;
    const struct example_option own[] = {
        {"origin", "NAME", &origin}, {"zone", "'NAME A|AAAA|TXT DATA; ...'", &records}, {NULL}};
    struct dns_zone zone;
    struct berth_loop *loop = example_open(argc, argv, NULL, own);

    const int error = dns_zone_parse(&zone, origin, records, &fault);
    if (error != 0) {
        fprintf(stderr, "usage: --zone: %s, at: %s\n", strerror(-error), fault);
        berth_loop_destroy(loop);
        return 2;
    }
    example_udp_open(loop, &handlers, &zone, NULL);
    const int status = example_run(loop);
    berth_loop_destroy(loop);
    dns_zone_free(&zone);
    return status;
}
