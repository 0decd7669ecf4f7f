/*
 * Two connected stream sockets of this process: what the io_uring engine tries receives on before
 * it uses them.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_STREAM_PAIR_H
#define BERTH_LOOP_STREAM_PAIR_H

struct stream_pair {
    int receiver, sender; /**< -1 when closed */
};

/**
 * Connects two sockets: a socketpair, or TCP over loopback. They block, but no call waits for
 * longer than `timeout_ms`. 0, or -errno with nothing left open.
 */
int stream_pair_open(struct stream_pair *pair, int tcp, unsigned timeout_ms);

/** Closes both; safe to repeat. */
void stream_pair_close(struct stream_pair *pair);

#endif
