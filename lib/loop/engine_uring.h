/*
 * What the files of the io_uring engine share: the ring, the ring of buffers, and their limits.
 *
 *   engine_uring.c           operations: what is submitted, and what its completions mean
 *   engine_uring_receive.c   the same for receives
 *   engine_uring_zerocopy.c  sends that the kernel reads in place
 *   engine_uring_close.c    making operations come back
 *   engine_uring_room.c     waiting for room in a full socket; files in the send queue
 *   engine_uring_lane.c      rings of buffers that bulk connections have to themselves
 *   engine_uring_park.c      what idle connections have in place of a receive
 *   engine_uring_nested.c    a descriptor for another loop
 *   engine_uring_setup.c     the ring itself, and the buffers in it
 *   engine_uring_selftest.c  what this kernel's receives can be trusted with
 *   engine_uring_direct.c    direct descriptors: the ring's own table of files
 *
 * What the files of datagrams share besides: engine_uring_udp.h; those of receives without copies:
 * engine_uring_zcrx.h.
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

/** The same of Linux 6.8. */
#define BERTH_URING_OP_FIXED_FD_INSTALL 54

/** Of a completion, and of a ring of buffers: incremental buffers (Linux 6.12). */
#define BERTH_URING_CQE_BUF_MORE (1u << 4)
#define BERTH_URING_BUF_RING_INCREMENTAL 2

/** `struct io_uring_buf_reg` with the names of newer headers. */
struct berth_uring_buf_reg {
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t group;
    uint16_t flags;
    uint64_t reserved[3];
};
BERTH_STATIC_ASSERT(sizeof(struct berth_uring_buf_reg) == sizeof(struct io_uring_buf_reg),
                    "the kernel's structure");

/** Buffers that one completion of a bundle may span, by the limit that it is posted with. */
#define BUNDLE_MAX 256

/** Leases sent by one operation. */
#define SEND_IOVECS_MAX 32

/** A gathered send's description must last until it has been submitted: this many at a time. */
#define GATHERS_MAX 64

/**
 * Lanes: so many connections at once may have a ring of buffers to themselves. Two buffers of 2 MiB
 * each: while a callback looks at the end of one the kernel may begin the other.
 */
#define LANES_MAX 8
#define LANE_BUFFERS 2
#define LANE_CLASS BERTH_CLASS_2M
#define LANE_GROUP_FIRST 16

struct lane_buffer {
    void *data; /**< NULL: no buffer behind this id */
    uint32_t buffer;
    uint32_t filled; /**< bytes that the kernel has put into it, by our own count */
    int lent;        /**< some of them were lent */
};

struct uring_lane {
    struct io_uring_buf_ring *ring; /**< NULL: this lane does not exist now */
    uint32_t owner;                 /**< 1 + index of the connection */
    uint16_t current;               /**< the id that the kernel fills now */
    int leaving;                    /**< its receive is being stopped: back to the shared ring */
    uint64_t active_ms;             /**< when it was last seen to receive */
    uint32_t received;              /**< completions since then */
    struct lane_buffer at[LANE_BUFFERS];
};

struct posted_buffer {
    void *data;
    uint32_t buffer;
    uint32_t next; /**< the id that was put into the ring behind this one: a bundle goes on there */
};

struct gather {
    struct msghdr message;
    struct iovec iov[SEND_IOVECS_MAX];
};

/** What the self-test found out about this kernel: see engine_uring_selftest.c. */
struct uring_verdict {
    uint32_t works,
        missing;       /**< feature bits; of the others a fault is known, or they are untried */
    int untried;       /**< 0, or -errno: why some could not be tried */
    int tcp_untried;   /**< the same for TCP: then the verdict is that of a socketpair */
    const char *wrong; /**< what receives do wrong without any feature; NULL: nothing */
    struct uring_fault {
        const char *what; /**< NULL: none */
        int tcp;          /**< over TCP, not over a socketpair */
    } faults[FEATURE_COUNT];
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
    uint32_t tidy_pause;        /**< buffers to come in bundles before the pool is put in order */
    uint32_t receive_bytes_max; /**< per go of a multishot receive; 0: the kernel cannot */
    uint32_t setup_flags;
    uint32_t kernel_features; /**< that the ring was made with */
    uint32_t gathers_used;
    uint32_t reaped;            /**< completions of the last turn */
    uint32_t receivers;         /**< connections that received in this turn, roughly */
    uint32_t receivers_of_bulk; /**< of those, who receive a lot */
    uint32_t receiver;          /**< 1 + index of the last of them */
    uint32_t alone;          /**< turns in a row in which one connection received, and no other */
    uint32_t alone_receiver; /**< 1 + its index */
    struct bulk_turns bulk;  /**< whose turn it is */
    uint32_t lanes_used;
    struct uring_lane lanes[LANES_MAX];
    int ring_fd_registered;
    int refused; /**< the pool had no buffer when the ring was last refilled */
    int enabled;
    int reports_usage; /**< it says of a send in place whether it copied after all */
    int watch_due;     /**< the wake-up descriptor is not watched: there was no submission for it */
    int event_fd;      /**< -1: nobody else waits for the ring */
    uint8_t file_flag; /**< IOSQE_FIXED_FILE when slots are numbered by direct descriptors */
    char proof;        /**< what looking for errors reads, which nobody wants to know */
    uint32_t files;    /**< places in the table of direct descriptors; 0: there is none */
    uint32_t files_taken;    /**< of those, before the ring was enabled: the lowest */
    struct uring_udp *udp;   /**< rings of buffers for datagrams; NULL before the first socket */
    struct uring_zcrx *zcrx; /**< receives without copying; NULL: there are none */
    char zcrx_text[256];     /**< asked for, and why there are none */
    uint32_t features;       /**< enum loop_feature: asked for, in this kernel, and found to work */
    struct uring_verdict verdict;
    struct gather gathers[GATHERS_MAX];
};

static inline struct uring_engine *
uring_state(const struct berth_loop *loop)
{
    return (struct uring_engine *)loop->engine_state;
}

/** A completion by its number, which counts on for ever: they have 16 bytes, or with zcrx 32. */
static inline const struct io_uring_cqe *
uring_completion(const struct io_uring *ring, unsigned number)
{
    return &ring->cq.cqes[(size_t)(number & *ring->cq.kring_mask) << io_uring_cqe_shift(ring)];
}

/** Whether the engine may use a feature. */
static inline int
uring_has(const struct uring_engine *state, enum loop_feature feature)
{
    return (state->features & feature) != 0;
}

/** Aliases, in this engine, of bits that only readiness engines use. */
#define CONN_STOPPING CONN_WATCHED  /**< the posted receive (or accept) has been cancelled */
#define CONN_UNPROVEN CONN_WRITABLE /**< nothing tells yet that the posted receive sees errors */

/**
 * Of slot->flags: an idle connection, or one that is pulled. With CONN_STOPPING, whatever it has
 * posted is being cancelled; without it, what is posted is a poll request and no receive. Only one
 * that is pulled has the flag while nothing is posted; and its last receive, if the kernel would
 * not cancel it (uring_is_polled).
 */
#define SLOT_PARKED SLOT_PULLS

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

/** Says whose file a submission is about. After io_uring_prep_..., which clears the flags. */
static inline void
uring_set_file(const struct uring_engine *state, struct io_uring_sqe *submission,
               const struct berth_slot *slot)
{
    submission->fd = berth_slot_fd(slot);
    submission->flags |= state->file_flag;
}

/** Hands over what has been prepared, without waiting. */
void uring_submit(struct berth_loop *loop);

/** Cancels a posted receive or accept; its last completion clears CONN_RECEIVING. */
void uring_stop_posted(struct berth_loop *loop, struct berth_slot *slot, enum loop_op op);

/** Asks once whether the descriptor is writable. 0, or -EAGAIN: no submission just now. */
int uring_poll_writable(struct berth_loop *loop, struct berth_slot *slot, enum loop_op op);

/** The last completion of a posted operation has come. */
void uring_operation_ended(struct berth_slot *slot);

/* ---- waiting for room: engine_uring_room.c --------------------------------------------------- */

/** send, from a queue for which send_file_is_next. Always 1. */
BERTH_COLD int uring_send_file(struct berth_loop *loop, struct berth_slot *slot);

/** A send was not taken, because of `result` (-errno, or 0): waits for room, or fails. */
BERTH_COLD void uring_send_refused(struct berth_loop *loop, struct berth_slot *slot,
                                   int32_t result);

/**
 * A send's completion, when there was none: nodes (in_flight of the queue's head) is 0, and it is a
 * poll request's (`ended`: its last); or has SEND_IN_PLACE, and nobody asked for it.
 */
BERTH_COLD void uring_on_other_send(struct berth_loop *loop, struct berth_slot *slot,
                                    int32_t result, unsigned nodes, int ended);

/* ---- receiving: engine_uring_receive.c ------------------------------------------------------- */

/** It receives in this turn. */
static inline void
uring_count_receiver(struct uring_engine *state, const struct berth_slot *slot)
{
    if (state->receiver != slot->index + 1) {
        state->receiver = slot->index + 1;
        state->receivers++;
        state->receivers_of_bulk += (slot->flags & SLOT_BULK) != 0;
    }
}

int uring_receive_start(struct berth_loop *loop, struct berth_slot *slot);
void uring_receive_stop(struct berth_loop *loop, struct berth_slot *slot);
void uring_on_receive(struct berth_loop *loop, struct berth_slot *slot,
                      const struct io_uring_cqe *completion);

/** All completions of a turn have been seen to, which brought so much. */
void uring_receive_turn_over(struct berth_loop *loop, uint64_t bytes);

/**
 * How much a receive may bring before it ends: of `bytes`, the connection's share of a turn, what
 * credit it has left. Many small buffers are bounded by what one completion can list.
 */
uint32_t uring_receive_limit(const struct berth_loop *loop, const struct berth_slot *slot,
                             uint64_t bytes);

/**
 * Takes the buffer, or the bundle of them, that a completion brought, whatever else it says, and
 * delivers what is in it; to nobody if `slot` is NULL.
 */
void uring_take_buffer(struct berth_loop *loop, struct berth_slot *slot, int32_t result,
                       uint16_t id);

/* ---- lanes: engine_uring_lane.c ---------------------------------------------------------------
 */

/** Of slot->flags: it has a lane, and its receive is posted there. Changes only between receives.
 */
#define SLOT_LANE BERTH_SLOT_DRIVER_4

/** A receive ended because the connection had used up its share: has it earned a lane? */
void uring_lane_consider(struct berth_loop *loop, struct berth_slot *slot);

/** The buffer group to post the connection's receive with. */
uint16_t uring_lane_group(const struct berth_loop *loop, const struct berth_slot *slot);

/** Delivers what a completion brought into a lane. */
void uring_lane_take(struct berth_loop *loop, struct berth_slot *slot, int32_t result, uint16_t id);

/** The lane's receive has ended: gives the lane up if that was the purpose, or must be. */
void uring_lane_ended(struct berth_loop *loop, struct berth_slot *slot, int32_t result);

/** Gives the lane up. Nothing is posted in it. */
void uring_lane_close(struct berth_loop *loop, struct berth_slot *slot);

/** Gives up those that are still there: of zombies, which nobody will ever say are over. */
void uring_lanes_destroy(struct berth_loop *loop);

/** Once per turn with lanes: those of connections gone quiet are taken back. */
void uring_lane_tick(struct berth_loop *loop);

/** The last completion of a look at what a posted receive may have missed. */
void uring_on_prove(struct berth_loop *loop, struct berth_slot *slot, int32_t result);

/* ---- direct descriptors: engine_uring_direct.c ----------------------------------------------- */

/** Makes the table if it is wanted and can be had; if not, loop->direct_refusal says why. */
void uring_direct_create(struct berth_loop *loop);

/** Empties it: whatever is in it and nowhere else is closed. */
void uring_direct_destroy(struct berth_loop *loop);

int uring_direct_enter(struct berth_loop *loop, int fd);
int uring_direct_replace(struct berth_loop *loop, int index, int fd);
int uring_direct_install(struct berth_loop *loop, int index);
int uring_direct_shutdown(struct berth_loop *loop, struct berth_slot *slot, int how);
void uring_direct_close(struct berth_loop *loop, int index);
int uring_direct_explain(const struct berth_loop *loop, char *text, size_t size);

/* ---- parking: engine_uring_park.c ------------------------------------------------------------ */

/** Begins to exchange the posted receive for a poll request. 1, or 0 if it cannot be now. */
int uring_park(struct berth_loop *loop, struct berth_slot *slot);

/** The receive of such a connection has ended: 1 if a poll request is posted now in its place. */
int uring_park_or_not(struct berth_loop *loop, struct berth_slot *slot, int32_t result);

/** Whether what a parked connection has posted is a poll request; asked while none is stopping. */
int uring_is_polled(const struct berth_loop *loop, const struct berth_slot *slot);

/** Withdraws what is posted in the way of a puller; and what to do when the puller has gone. */
void uring_pull_start(struct berth_loop *loop, struct berth_slot *slot);
void uring_pull_stop(struct berth_loop *loop, struct berth_slot *slot);

/** In place of a receive. 0, or, as uring_receive_start, later. */
int uring_pull_post(struct berth_loop *loop, struct berth_slot *slot);

/** The completion of the poll request. */
void uring_on_parked(struct berth_loop *loop, struct berth_slot *slot, int32_t result);

/** The completion of the cancel: there is one only if it failed. */
void uring_on_park_failed(const struct berth_loop *loop, struct berth_slot *slot, int32_t result);

/* ---- sending in place: engine_uring_zerocopy.c ------------------------------------------------
 */

/** Why this kernel cannot, or NULL. */
const char *uring_zerocopy_create(struct berth_loop *loop);

/** The queue is long: sends its head in place, 1; or 0: not now, copy. */
int uring_zerocopy_send(struct berth_loop *loop, struct berth_slot *slot);

/** A completion of such a send. 0: nobody waits for it. */
int uring_on_zerocopy(struct berth_loop *loop, struct berth_slot *slot,
                      const struct io_uring_cqe *completion);

/* ---- closing: engine_uring_close.c ----------------------------------------------------------- */

void uring_cancel(struct berth_loop *loop, struct berth_slot *slot);
void uring_forget(struct berth_loop *loop, struct berth_slot *slot);

/* ---- setting up: engine_uring_setup.c -------------------------------------------------------- */

/** Puts the buffer behind an id back into the ring; the kernel sees it after publish. */
void uring_give_buffer(struct uring_engine *state, uint16_t id);

/**
 * The same for up to BUNDLE_MAX; in order of addresses if they come in disorder, or others in their
 * places, so that the next bundle that fills them is one span, or few. May change `ids`.
 */
void uring_give_buffers(struct berth_loop *loop, uint16_t *ids, unsigned count);

/** Puts a new pool buffer behind an id, to be given. 0: the pool has none, and the id is idle. */
int uring_replace_buffer(struct berth_loop *loop, uint16_t id);

/** The same, and gives it. */
int uring_post_buffer(struct berth_loop *loop, uint16_t id);

/** Posts buffers behind idle ids, as many as the load has shown to be needed. */
void uring_refill(struct berth_loop *loop);

/** A receive found the ring empty: next time there will be twice as many buffers in it. */
void uring_grow_ring(struct uring_engine *state);

/** Whether the next turn begins with more buffers in the ring, out of a pool that has enough. */
int uring_ring_grows(const struct berth_loop *loop);

/** Shows the kernel what was given. */
void uring_publish_buffers(struct uring_engine *state);

/* ---- inside another loop: engine_uring_nested.c ---------------------------------------------- */

/** Submits, and runs the work that has come, without waiting: engine_uring.c. */
void uring_run_work(struct berth_loop *loop);

int uring_nest(struct berth_loop *loop);
int uring_rest(struct berth_loop *loop);

/* ---- what works: engine_uring_selftest.c ----------------------------------------------------- */

/**
 * Finds out what receives can be trusted with, the first time in a process; a few milliseconds.
 * `flags`: with which rings are set up.
 */
void uring_selftest(uint32_t flags, struct uring_verdict *verdict);

/** What the engine may use, of what works and what the loop was asked to do with and without. */
uint32_t uring_choose_features(const struct uring_verdict *verdict,
                               const struct feature_wishes *wishes);

/** Appends a line for each feature; as snprintf. */
int uring_explain_features(const struct berth_loop *loop, char *text, size_t size);

#ifdef BERTH_SYS_TABLE
/** Forgets what was found out: for tests, which put other kernels underneath. */
void uring_selftest_forget(void);
#endif

int uring_create(struct berth_loop *loop, char *why, size_t why_size);
void uring_destroy(struct berth_loop *loop);
int uring_start(struct berth_loop *loop);
int uring_explain(const struct berth_loop *loop, char *text, size_t size);

#endif
