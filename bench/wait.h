/*
 * Ways of waiting for many descriptors, as case `waiting` compares them: what a way must do, and
 * what it is given. A way is a row of functions in one of the wait_*.c files, and its line in the
 * list of case_waiting.c.
 *
 * One event is one byte. The case writes it into the far end of a descriptor; the way waits, finds
 * out which descriptor it is, reads the byte, and accounts for it. What is not accounted for is an
 * error, never a fast result.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_WAIT_H
#define BENCH_WAIT_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

/** Events taken from the kernel with one call, at most: alike for every way that can choose. */
#define WAIT_BATCH 256u

/** What a read asks for: more than there ever is, so that one that returns less has read all. */
#define WAIT_READ_BYTES 64u

/** An event that has not been told after this long is lost. */
#define WAIT_LOST_MS 2000

/* ---- descriptors: wait_set.c -------------------------------------------------------------------
 */

enum wait_kind { WAIT_SOCKETS, WAIT_PIPES, WAIT_KINDS };

/**
 * Descriptors to wait for, each one end of a pair of its own. The far ends of those that will be
 * written to are here; the others, which stay idle, are held by a process that does nothing else:
 * so `count` may come near the limit of one process, and idle ones are as real as the active.
 */
struct wait_set {
    enum wait_kind kind;
    uint32_t count;
    int *readers;
    int *writers;         /**< of readers[order[i]], for each i below active */
    uint32_t *order;      /**< all indexes, shuffled; the first `active` are written to */
    uint32_t *index_of;   /**< by descriptor, to descriptor_max */
    unsigned char *ready; /**< by index: a byte is in it */
    uint32_t active;
    int descriptor_max; /**< of the readers */
    int mode;           /**< O_NONBLOCK or 0, of all readers; -1: mixed */
    int control;        /**< to the holder; -1: there is none */
    pid_t holder;
};

/** Makes `count` pairs, `active` of which can be written to. 0 or -errno; then nothing is left. */
int wait_set_make(struct wait_set *set, enum wait_kind kind, uint32_t count, uint32_t active);

/** Closes everything; also what was never made, if it is all zero. */
void wait_set_close(struct wait_set *set);

/** Makes reads on all of them block, or not. 0 or -errno. */
int wait_set_mode(struct wait_set *set, bool blocking);

/** Empties those that are ready, after a failure. */
void wait_set_drain(struct wait_set *set);

/* ---- ways --------------------------------------------------------------------------------------
 */

/** One way at work on a set. */
struct wait_run {
    struct wait_set *set;
    const uint32_t *made; /**< indexes that this round made ready */
    uint32_t made_count;
    atomic_uint outstanding; /**< events made and not accounted for */
    uint64_t syscalls;       /**< all of them: writing, waiting, registering again, reading */
    uint64_t overflows;      /**< times that the kernel had no room to tell an event */
    uint64_t spurious;       /**< events told with nothing to read */
    uint32_t registered;     /**< descriptors it waits for */
    int cpu_apart; /**< the other CPU, for what runs beside this thread; -1: there is none */
    void *state;   /**< the way's own, from open to close */
};

enum wait_option {
    WAIT_BLOCKING = 1, /**< wants descriptors whose reads block */
    WAIT_ONE = 2,      /**< waits for one descriptor, whatever the set holds */
    /** Reads in threads of its own. `add` may end with -EAGAIN, and then it is measured with what
     * it has; a round's reads, and the call that tells of the last one, are counted for it. */
    WAIT_THREADS = 4,
    WAIT_SOCKETS_ONLY = 8, /**< works on sockets and nothing else */
    WAIT_APART = 16,       /**< needs a second CPU */
};

struct wait_way {
    const char *name;
    unsigned options; /**< bits of enum wait_option */
    /** Makes ready to register. 0 or -errno; then nothing is left, and close is not called. */
    int (*open)(struct wait_run *run);
    /** Registers readers[index]. 0 or -errno. */
    int (*add)(struct wait_run *run, uint32_t index);
    /** After the last one: whatever still has to be done before events may come. May be NULL. */
    int (*settle)(struct wait_run *run);
    /** Waits until there is something, reads it, accounts for it. 0; -ETIME if nothing comes. */
    int (*wait)(struct wait_run *run);
    /** Ends every registration before it returns: the next way must not pay for this one. */
    void (*close)(struct wait_run *run);
};

extern const struct wait_way wait_floor, wait_select, wait_poll, wait_epoll, wait_epoll_et;
extern const struct wait_way wait_sigio, wait_sigio_fd;
extern const struct wait_way wait_aio, wait_aio_ring;
extern const struct wait_way wait_blocking, wait_threads, wait_threads_apart;
extern const struct wait_way wait_uring_poll, wait_uring_read, wait_uring_multi, wait_uring_recv;

/** Accounts for what came out of a descriptor. 0; -EPROTO: not the one byte that was due. */
static inline int
wait_account(struct wait_run *run, uint32_t index, ssize_t bytes)
{
    if (bytes != 1 || index >= run->set->count || !run->set->ready[index])
        return -EPROTO;
    run->set->ready[index] = 0;
    /* This thread alone counts, in every way but those of wait_threads.c, which do it otherwise:
     * no locked instruction. */
    const unsigned before = atomic_load_explicit(&run->outstanding, memory_order_relaxed);
    atomic_store_explicit(&run->outstanding, before - 1, memory_order_relaxed);
    return 0;
}

/** What follows when a way tells that a descriptor is ready: reads the byte, accounts for it. */
static inline int
wait_read(struct wait_run *run, uint32_t index)
{
    char bytes[WAIT_READ_BYTES];
    run->syscalls++;
    const ssize_t got = read(run->set->readers[index], bytes, sizeof bytes);
    if (got < 0 && errno == EAGAIN) {
        run->spurious++;
        return 0;
    }
    return got < 0 ? -errno : wait_account(run, index, got);
}

/** The way a wait ended that gave no events. 0: look again; an interrupt is seen by the caller. */
static inline int
wait_failed(int number)
{
    return number == EINTR ? 0 : -number;
}

#endif
