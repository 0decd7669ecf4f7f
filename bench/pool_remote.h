/*
 * Buffers that one thread takes and another gives back: part of case `pool`.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_POOL_REMOTE_H
#define BENCH_POOL_REMOTE_H

struct bench;
struct bench_subject;

enum pool_remote_metric {
    POOL_REMOTE_NS,      /**< all of it: taking, giving back, and the owner's turn */
    POOL_REMOTE_TAKE_NS, /**< on the owner */
    POOL_REMOTE_GIVE_NS, /**< on the other thread */
    POOL_REMOTE_TURN_NS, /**< on the owner again; 0 where there is none */
};

/** A subject's `measure`, for a `struct pool_way` in its context. 0 or -errno. */
int pool_remote_measure(struct bench *bench, const struct bench_subject *subject, double *metrics);

#endif
