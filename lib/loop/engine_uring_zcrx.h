/*
 * Zero-copy receives of io_uring (zcrx, Linux 6.15): the network card writes what it receives into
 * an area of ours, completions say where, and what has been read is given back through a ring.
 *
 *   engine_uring_zcrx.c        which connections receive so, and what their completions mean
 *   engine_uring_zcrx_area.c   the area, the ring of what is given back, and their registration
 *
 * The structures are the kernel's, under names of ours: liburing 2.3 and its headers lack them.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_ENGINE_URING_ZCRX_H
#define BERTH_LOOP_ENGINE_URING_ZCRX_H

#include "loop/engine_uring.h"

#define BERTH_URING_OP_RECV_ZC 58
#define BERTH_URING_REGISTER_ZCRX_IFQ 32

/** Of a region: memory of ours, and not of the kernel's. */
#define BERTH_URING_REGION_USER 1u

/** An offset in a completion or in the ring has the number of the area in its highest bits. */
#define BERTH_URING_ZCRX_AREA_SHIFT 48
#define BERTH_URING_ZCRX_OFFSET_MASK ((UINT64_C(1) << BERTH_URING_ZCRX_AREA_SHIFT) - 1)

/** The kernel takes no more entries in the ring of what is given back. */
#define ZCRX_ENTRIES_MAX 32768u
#define ZCRX_ENTRIES_MIN 64u

struct berth_uring_zcrx_entry {
    uint64_t offset;
    uint32_t length;
    uint32_t pad;
};

struct berth_uring_zcrx_offsets {
    uint32_t head, tail, entries, reserved;
    uint64_t reserved_too[2];
};

struct berth_uring_zcrx_area {
    uint64_t address, bytes;
    uint64_t token; /**< from the kernel: what offsets in the ring have besides */
    uint32_t flags, dmabuf;
    uint64_t reserved[2];
};

struct berth_uring_region {
    uint64_t address, bytes;
    uint32_t flags, id;
    uint64_t offset, reserved[4];
};

struct berth_uring_zcrx_queue {
    uint32_t interface, queue, entries, flags;
    uint64_t area, region; /**< where those structures are */
    struct berth_uring_zcrx_offsets offsets;
    uint32_t id; /**< from the kernel: what receives name */
    uint32_t buffer_bytes;
    uint64_t reserved[3];
};
BERTH_STATIC_ASSERT(sizeof(struct berth_uring_zcrx_entry) == 16 &&
                        sizeof(struct berth_uring_zcrx_area) == 48 &&
                        sizeof(struct berth_uring_region) == 64 &&
                        sizeof(struct berth_uring_zcrx_queue) == 96,
                    "the kernel's structures");

/** The second half of a completion of 32 bytes. */
struct berth_uring_zcrx_place {
    uint64_t offset, pad;
};

/* ---- the area: engine_uring_zcrx_area.c ------------------------------------------------------ */

/** A page that was given back when the ring was full: how often, and which is the next such. */
struct zcrx_owed {
    uint32_t times;
    uint32_t next; /**< 1 + page, 0: none */
};

struct zcrx_area {
    unsigned char *data;
    size_t bytes;
    uint32_t page_shift;
    uint32_t pages;

    void *region; /**< the memory of the ring */
    size_t region_bytes;
    const uint32_t *head; /**< the kernel's */
    uint32_t *tail;       /**< ours */
    struct berth_uring_zcrx_entry *entries;
    uint32_t count;      /**< of entries: a power of two */
    uint32_t given;      /**< the tail, counted without end */
    uint32_t head_known; /**< what the head was when it was last looked at */
    uint64_t token;

    struct zcrx_owed *owed;
    uint32_t owed_first, owed_last; /**< 1 + page, 0: none */
    uint64_t owed_count;

    uint64_t lent; /**< pieces that somebody has */
    int closed;    /**< the ring is gone: nothing is given back any more */
};

/** Makes the area and the memory of a ring, for nobody yet. `bytes` are whole pages. */
int zcrx_area_create(struct zcrx_area **area, size_t bytes);

/** Where the kernel has put the parts of the ring; -EINVAL if they are not within its memory. */
int zcrx_area_attach(struct zcrx_area *area, const struct berth_uring_zcrx_offsets *offsets,
                     uint32_t entries, uint64_t token);

/** Where a completion says that `length` bytes are, or NULL if that is not in the area. */
void *zcrx_area_place(const struct zcrx_area *area, uint64_t offset, int32_t length);

/** Gives one completion's bytes back to the kernel: at once, or when the ring has room again. */
void zcrx_area_give(struct zcrx_area *area, const void *data, uint32_t length);

/** Gives back what the ring had no room for. Returns how many are still owed. */
uint64_t zcrx_area_retry(struct zcrx_area *area);

/** A berth_free_fn whose context is the area: the last reference to a piece has ended. */
void zcrx_area_release(void *data, size_t length, void *context);

/**
 * The ring of io_uring is gone. The area goes now, or with the last piece that somebody has; until
 * then its memory stays as it is, and is used for nothing else.
 */
void zcrx_area_close(struct zcrx_area *area);

/** Areas that are closed and still there. Any thread. */
unsigned zcrx_areas_left(void);

/** Registers the area for that queue of the ring: its number to `id`; or -errno as the kernel. */
int zcrx_area_register(struct zcrx_area *area, struct io_uring *ring, uint32_t interface,
                       uint32_t queue, uint32_t *id);

/* ---- connections: engine_uring_zcrx.c -------------------------------------------------------- */

/** What of a connection is known: cold->zcrx. */
enum zcrx_state {
    ZCRX_TRY = 0,  /**< its next receive is to be one without copying */
    ZCRX_POSTED,   /**< such a one is posted */
    ZCRX_ORDINARY, /**< its next receive is an ordinary one, once */
    ZCRX_SINGLE,   /**< that one is posted, or has ended */
    ZCRX_WAIT,     /**< neither can be: its next one is to wait for a moment */
    ZCRX_WAITING,  /**< it waits, by an operation in place of the receive */
    ZCRX_REFUSED   /**< the kernel does not do it for this socket */
};

struct uring_zcrx {
    struct zcrx_area *area;
    uint32_t id;
    uint32_t refused;   /**< connections that receive in the ordinary way for good */
    uint64_t shortages; /**< receives that ended because a page for a copy was wanting */
};

/**
 * Tries to register, on a ring that is not enabled yet. 0, or -errno: state->zcrx_text says which
 * step failed and why.
 */
int uring_zcrx_create(struct berth_loop *loop);

/** Behind the end of the ring itself. */
void uring_zcrx_destroy(struct uring_engine *state);

/** A ring with completions of 32 bytes could not be made. */
void uring_zcrx_no_ring(struct uring_engine *state, int error);

/**
 * Makes the submission such a receive, or what waits in its place: 1; or 0, and it is to be an
 * ordinary one.
 */
int uring_zcrx_post(struct berth_loop *loop, struct berth_slot *slot,
                    struct io_uring_sqe *submission);

/** Whether the ordinary receive is to be a single one: it is posted then. */
int uring_zcrx_single(struct berth_loop *loop, struct berth_slot *slot);

/** Delivers what a completion without a buffer of the pool's brought; to nobody if slot is NULL. */
void uring_zcrx_take(struct berth_loop *loop, struct berth_slot *slot,
                     const struct io_uring_cqe *completion);

/** Such a receive has ended, if it was one: 1 if that is all there is to do, 0 to go on. */
int uring_zcrx_ended(struct berth_loop *loop, struct berth_slot *slot, int32_t result);

/** Appends a line, if it was asked for; as snprintf. */
int uring_zcrx_explain(const struct berth_loop *loop, char *text, size_t size);

#endif
