/*
 * Which connections receive without copying, and what the completions of such receives mean.
 *
 * Every connection of a loop that has a queue of a network card tries: what comes by another way is
 * copied by the kernel into the same area, so that it is right for all of TCP, and whatever else it
 * is refused for receives in the ordinary way from then on.
 *
 * The invariants: a completion with bytes and no buffer of the pool's brought one piece of the
 * area, which is lent or given back, whatever became of its connection; only a completion without
 * F_MORE ends a receive, and it never brings bytes; the end of a receive that has brought all it
 * was to bring is not the end of the stream.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#define BERTH_SYS_URING
#include "loop/engine_uring_zcrx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os/copy.h"
#include "os/sanitize.h"
#include "os/sys.h"

/* ---- having it ------------------------------------------------------------------------------- */

/** What usually lies behind it when the kernel does not register a queue. */
static const char *
registration_refused(int error)
{
    switch (error) {
    case -EPERM:
        return "; it takes CAP_NET_ADMIN";
    case -ENODEV:
        return "; the interface has gone";
    case -EOPNOTSUPP:
        return "; the driver cannot, the interface is no hardware, or the kernel was built without "
               "CONFIG_IO_URING_ZCRX";
    case -ERANGE:
        return "; the interface has no queue of that number";
    case -EINVAL:
        return "; header split may be off: 'ethtool -G INTERFACE tcp-data-split on hds-thresh 0'";
    case -EEXIST:
    case -EBUSY:
        return "; the queue or the interface is taken by XDP, AF_XDP or another program";
    case -ENOMEM:
        return "; out of locked memory: raise 'ulimit -l', or ask for a smaller area";
    default:
        return "";
    }
}

static int
not_used(struct uring_engine *state, const char *step, int error, const char *cause)
{
    (void)snprintf(state->zcrx_text, sizeof(state->zcrx_text), "not used: %s: %s%s", step,
                   strerror(-error), cause);
    return error;
}

void
uring_zcrx_no_ring(struct uring_engine *state, int error)
{
    (void)not_used(state, "a ring with completions of 32 bytes", error, "");
}

/** The steps, up to the one that fails: a description of it to `step`. */
static int
set_up(struct uring_engine *state, const struct zcrx_wish *wish, struct uring_zcrx *zcrx,
       const char **step)
{
    *step = "the operation RECV_ZC (Linux 6.15)";
    const int known = (int)sys_uring_knows(&state->ring, BERTH_URING_OP_RECV_ZC);
    if (known <= 0)
        return known < 0 ? known : -EOPNOTSUPP;
    *step = "the interface";
    const int interface = (int)sys_interface_index(wish->interface);
    if (interface < 0)
        return interface;
    *step = "memory for the area";
    int error = zcrx_area_create(&zcrx->area, (size_t)wish->area_mib << 20);
    if (error)
        return error;
    *step = NULL; /* the registration */
    error =
        zcrx_area_register(zcrx->area, &state->ring, (uint32_t)interface, wish->queue, &zcrx->id);
    if (error)
        zcrx_area_close(zcrx->area);
    return error;
}

int
uring_zcrx_create(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    const struct zcrx_wish *wish = &loop->zcrx;
    const char *step = "memory";
    struct uring_zcrx *zcrx = (struct uring_zcrx *)calloc(1, sizeof(*zcrx));
    const int error = zcrx == NULL ? -ENOMEM : set_up(state, wish, zcrx, &step);
    if (error == 0) {
        state->zcrx = zcrx;
        return 0;
    }
    free(zcrx);
    if (step != NULL)
        return not_used(state, step, error, "");
    char registering[64];
    (void)snprintf(registering, sizeof(registering), "registering queue %u of %s", wish->queue,
                   wish->interface);
    return not_used(state, registering, error, registration_refused(error));
}

void
uring_zcrx_destroy(struct uring_engine *state)
{
    if (state->zcrx == NULL)
        return;
    zcrx_area_close(state->zcrx->area);
    free(state->zcrx);
    state->zcrx = NULL;
}

int
uring_zcrx_explain(const struct berth_loop *loop, char *text, size_t size)
{
    const struct uring_engine *state = uring_state(loop);
    const struct uring_zcrx *zcrx = state->zcrx;
    if (*loop->zcrx.interface == '\0')
        return 0;
    if (zcrx == NULL)
        return snprintf(text, size, "zero-copy receive: %s\n", state->zcrx_text);
    return snprintf(text, size,
                    "zero-copy receive: from queue %u of %s into %u MiB; what of it was copied "
                    "after all the kernel does not say; %u connections refused, %llu shortages, "
                    "%llu pieces given back late\n",
                    loop->zcrx.queue, loop->zcrx.interface, loop->zcrx.area_mib, zcrx->refused,
                    (unsigned long long)zcrx->shortages,
                    (unsigned long long)zcrx->area->owed_count);
}

/* ---- receiving ------------------------------------------------------------------------------- */

/** In place of a receive, cancelled and ended like one; what it says when it is over is nothing. */
static void
post_wait(const struct berth_slot *slot, struct io_uring_sqe *submission)
{
    static struct __kernel_timespec moment = {.tv_nsec = STARVED_TICK_MS * 1000000};
    io_uring_prep_timeout(submission, &moment, 0, 0);
    uring_set_token(submission, slot, OP_RECEIVE);
}

int
uring_zcrx_post(struct berth_loop *loop, struct berth_slot *slot, struct io_uring_sqe *submission)
{
    struct uring_engine *state = uring_state(loop);
    struct conn_cold *cold = slot_cold(loop, slot);
    if (cold->zcrx == ZCRX_WAIT) {
        post_wait(slot, submission);
        cold->zcrx = ZCRX_WAITING;
        return 1;
    }
    if (cold->zcrx != ZCRX_TRY && cold->zcrx != ZCRX_SINGLE)
        return 0;
    const uint32_t most = uring_receive_limit(loop, slot, loop->options.fairness_bytes);
    io_uring_prep_rw(BERTH_URING_OP_RECV_ZC, submission, berth_slot_fd(slot), NULL, most, 0);
    uring_set_file(state, submission, slot);
    submission->ioprio = IORING_RECV_MULTISHOT;
    if (uring_has(state, FEATURE_POLL_FIRST))
        submission->ioprio |= IORING_RECVSEND_POLL_FIRST;
    submission->file_index = state->zcrx->id; /* `zcrx_ifq_idx` of newer headers */
    uring_set_token(submission, slot, OP_RECEIVE);
    cold->zcrx = ZCRX_POSTED;
    cold->zcrx_left = most;
    return 1;
}

int
uring_zcrx_single(struct berth_loop *loop, struct berth_slot *slot)
{
    struct conn_cold *cold = slot_cold(loop, slot);
    if (cold->zcrx != ZCRX_ORDINARY)
        return 0;
    cold->zcrx = ZCRX_SINGLE;
    return 1;
}

/**
 * Whether the connection's packets come by a network card at all: asked once. That the card put
 * each of its bytes into the area is not known even then: see docs/design/loop.md.
 */
static int
comes_by_card(struct berth_loop *loop, const struct berth_slot *slot, struct conn_cold *cold)
{
    if (cold->zcrx_card == 0) {
        unsigned napi = 0;
        socklen_t size = sizeof(napi);
        cold->zcrx_card = 1;
        if (!loop->direct) { /* where it would cost three calls more, nothing is claimed */
            loop->stats.syscalls++;
            if (sys_getsockopt(berth_slot_fd(slot), SOL_SOCKET, SO_INCOMING_NAPI_ID, &napi,
                               &size) == 0 &&
                napi != 0)
                cold->zcrx_card = 2;
        }
    }
    return cold->zcrx_card == 2;
}

/** The pool lends no more foreign memory: a copy in a buffer of its own does as well. */
static int
lend_copy(struct berth_loop *loop, struct berth_slot *slot, const void *data, uint32_t length,
          struct berth_span *span)
{
    uint32_t buffer;
    void *copy;
    uint64_t copied = 0;
    const int size_class = berth_class_for(length);
    if (size_class < 0 || berth_pool_post(loop->pool, (enum berth_class)size_class,
                                          BERTH_FOR_ACTIVE, &buffer, &copy) != 0)
        return -ENOBUFS;
#ifdef BERTH_POISONS
    (void)berth_pool_expose(loop->pool, buffer);
#endif
    berth_copy(&copied, copy, data, length);
    CONN_COPIES(loop, slot, received_compact, copied);
    return berth_pool_lend(loop->pool, buffer, length, span);
}

static void
deliver(struct berth_loop *loop, struct berth_slot *slot, void *data, uint32_t length)
{
    struct zcrx_area *area = uring_state(loop)->zcrx->area;
    struct berth_span span;
    int copy = 0;
    if (BERTH_LIKELY(berth_pool_lend_wrapped(loop->pool, data, length, zcrx_area_release, area,
                                             &span) == 0)) {
        area->lent++;
    } else {
        copy = lend_copy(loop, slot, data, length, &span) == 0;
        zcrx_area_give(area, data, length);
        if (!copy) {
            conn_failed(loop, slot, -ENOBUFS); /* a hole in the stream is not to be had */
            return;
        }
    }
    if (comes_by_card(loop, slot, slot_cold(loop, slot))) {
        CONN_COPIES(loop, slot, received_direct, length);
        CONN_COPIES(loop, slot, received_kernel, (uint64_t)0 - length); /* conn_deliver adds it */
    }
    conn_deliver(loop, slot, &span, 1, length);
    if (berth_pool_settle(loop->pool, span.buffer) == 1 && copy)
        (void)berth_pool_unpost(loop->pool, span.buffer);
}

void
uring_zcrx_take(struct berth_loop *loop, struct berth_slot *slot,
                const struct io_uring_cqe *completion)
{
    struct uring_engine *state = uring_state(loop);
    void *data = NULL;
    if (state->zcrx != NULL) { /* otherwise completions have no second half */
        const void *half = completion + 1;
        const struct berth_uring_zcrx_place *place = (const struct berth_uring_zcrx_place *)half;
        data = zcrx_area_place(state->zcrx->area, place->offset, completion->res);
    }
    if (BERTH_UNLIKELY(data == NULL)) { /* nonsense, but the bytes are lost to the stream */
        loop->stats.stale++;
        if (slot != NULL)
            conn_failed(loop, slot, -EIO);
        return;
    }
    const uint32_t length = (uint32_t)completion->res;
    if (slot != NULL) {
        struct conn_cold *cold = slot_cold(loop, slot);
        cold->zcrx_left -= length < cold->zcrx_left ? length : cold->zcrx_left;
    }
    if (slot == NULL || !conn_wants_data(slot))
        zcrx_area_give(state->zcrx->area, data, length);
    else
        deliver(loop, slot, data, length);
}

/**
 * The ordinary receive of what there was no page for has ended without bytes: 1 if neither way is
 * open now. -EFAULT: a packet of which only a part is the card's; recv(2) has none of it.
 */
static int
single_ended(struct conn_cold *cold, int32_t result)
{
    if (result != -EFAULT && result != -ENOBUFS)
        return 0;
    cold->zcrx = ZCRX_WAIT;
    return 1;
}

int
uring_zcrx_ended(struct berth_loop *loop, struct berth_slot *slot, int32_t result)
{
    struct uring_zcrx *zcrx = uring_state(loop)->zcrx;
    struct conn_cold *cold = slot_cold(loop, slot);
    const int was = cold->zcrx;
    if (was == ZCRX_REFUSED)
        return 0;
    cold->zcrx = ZCRX_TRY;
    if (was != ZCRX_POSTED)
        return was == ZCRX_WAITING || (was == ZCRX_SINGLE && single_ended(cold, result));
    switch (result) {
    case 0: /* the end, unless it has brought all that it was to bring */
        if (cold->zcrx_left != 0)
            return 0;
        if (!(slot->state & CONN_CREDIT))
            loop->stats.fairness_stops++;
        loop->stats.rearms++;
        CONN_COUNT(loop, slot, rearms, 1);
        return 1;
    case -ENOMEM: /* no page free for a copy: these bytes, at least, can be had in another way */
        zcrx->shortages++;
        cold->zcrx = ZCRX_ORDINARY;
        return 1;
    case -EINVAL:
    case -EOPNOTSUPP:
    case -EPROTONOSUPPORT: /* no TCP, or TCP with something on top of it */
        zcrx->refused++;
        cold->zcrx = ZCRX_REFUSED;
        return 1;
    default:
        return 0;
    }
}
