/*
 * What the two files of the io_uring engine share: the ring, the ring of buffers, and their limits.
 *
 *   engine_uring.c          operations: what is submitted, and what its completions mean
 *   engine_uring_receive.c  the same for receives
 *   engine_uring_setup.c    the ring itself, and the buffers in it
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_ENGINE_URING_H
#define BERTH_LOOP_ENGINE_URING_H

#include "loop/loop_internal.h"

#include <liburing.h>

/**
 * Submissions prepared before they must be handed over: 32 KiB of them, which stay in the first
 * level of the cache, and one system call for so many is as good as none.
 */
#define SUBMISSIONS_MAX 512

/** Completions that fit: four for each submission (multishot), and one for each posted buffer. */
#define COMPLETIONS_MIN (4 * SUBMISSIONS_MAX)

#define BUFFER_GROUP 0
#define BUFFER_CLASS BERTH_CLASS_4K

/** Buffers posted to begin with: 1 MiB, which a quiet server never exceeds. */
#define POSTED_FIRST 256

/** Newer than liburing 2.3, so named here; the values are the kernel's (Linux 6.10). */
#define BERTH_URING_RECVSEND_BUNDLE (1u << 4)
#define BERTH_URING_FEAT_RECVSEND_BUNDLE (1u << 14)

/** Buffers that one completion of a bundle may span, by the limit that it is posted with. */
#define BUNDLE_MAX 256

/** Leases sent by one operation. */
#define SEND_IOVECS_MAX 32

/** A gathered send's description must last until it has been submitted: this many at a time. */
#define GATHERS_MAX 64

struct posted_buffer {
    void *data;
    uint32_t buffer;
    uint32_t next; /**< the id that was put into the ring behind this one: a bundle goes on there */
};

struct gather {
    struct msghdr message;
    struct iovec iov[SEND_IOVECS_MAX];
};

struct uring_engine {
    struct io_uring ring;
    struct io_uring_buf_ring *buffers;
    struct posted_buffer *by_id; /**< what each buffer id stands for now */
    uint16_t *idle_ids;          /**< ids with no buffer behind them: the pool had none */
    uint32_t idle_count;
    uint32_t buffer_count;      /**< ids in all: a power of two */
    uint32_t given;             /**< buffers put into the ring since it was last advanced */
    uint16_t given_last;        /**< the id put into it last */
    uint32_t posted_max;        /**< buffers to post now: doubled whenever they did not suffice */
    uint32_t posted;            /**< ids with a buffer behind them */
    uint32_t receive_bytes_max; /**< per go of a multishot receive; 0: the kernel cannot */
    uint32_t setup_flags;
    uint32_t gathers_used;
    uint32_t reaped; /**< completions of the last turn */
    int ring_fd_registered;
    int bundles; /**< one completion may bring several buffers */
    struct gather gathers[GATHERS_MAX];
};

static inline struct uring_engine *
uring_state(const struct berth_loop *loop)
{
    return (struct uring_engine *)loop->engine_state;
}

/** Aliases, in this engine, of bits that only readiness engines use. */
#define CONN_STOPPING CONN_WATCHED  /**< the posted receive (or accept) has been cancelled */
#define CONN_UNPROVEN CONN_WRITABLE /**< nothing tells yet that the posted receive sees errors */

/* ---- submitting: engine_uring.c -------------------------------------------------------------- */

/** A submission to fill in, or NULL when the kernel takes none just now. */
struct io_uring_sqe *uring_get_submission(struct berth_loop *loop);

/** The same for an operation of a slot that will be in flight until its last completion. */
struct io_uring_sqe *uring_begin_operation(struct berth_loop *loop, struct berth_slot *slot);

static inline void
uring_set_token(struct io_uring_sqe *submission, const struct berth_slot *slot, enum loop_op op)
{
    submission->user_data = berth_slot_token(slot, (uint8_t)op);
}

/** Cancels a posted receive or accept; its last completion clears CONN_RECEIVING. */
void uring_stop_posted(struct berth_loop *loop, struct berth_slot *slot, enum loop_op op);

/** The last completion of a posted operation has come. */
void uring_operation_ended(struct berth_slot *slot);

/* ---- receiving: engine_uring_receive.c ------------------------------------------------------- */

int uring_receive_start(struct berth_loop *loop, struct berth_slot *slot);
void uring_receive_stop(struct berth_loop *loop, struct berth_slot *slot);
void uring_on_receive(struct berth_loop *loop, struct berth_slot *slot, int32_t result,
                      uint32_t flags);

/**
 * Takes the buffer, or the bundle of them, that a completion brought, whatever else it says, and
 * delivers what is in it; to nobody if `slot` is NULL.
 */
void uring_take_buffer(struct berth_loop *loop, struct berth_slot *slot, int32_t result,
                       uint16_t id);

/* ---- setting up: engine_uring_setup.c -------------------------------------------------------- */

/** Puts the buffer behind an id back into the ring; the kernel sees it after publish. */
void uring_give_buffer(struct uring_engine *state, uint16_t id);

/** Puts a new pool buffer behind an id that has none. 0 when the pool has none either. */
int uring_post_buffer(struct berth_loop *loop, uint16_t id);

/** Posts buffers behind idle ids, as many as the load has shown to be needed. */
void uring_refill(struct berth_loop *loop);

/** A receive found the ring empty: next time there will be twice as many buffers in it. */
void uring_grow_ring(struct uring_engine *state);

/** Shows the kernel what was given. */
void uring_publish_buffers(struct uring_engine *state);

int uring_create(struct berth_loop *loop, char *why, size_t why_size);
void uring_destroy(struct berth_loop *loop);
int uring_start(struct berth_loop *loop);
int uring_explain(const struct berth_loop *loop, char *text, size_t size);

#endif
