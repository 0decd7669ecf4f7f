/*
 * The io_uring engine's ring and the ring of buffers that all its connections share: making them,
 * refilling, growing, taking them down. What is done with them is in engine_uring.c.
 *
 * The invariant: every buffer id has a posted pool buffer behind it, or is in the list of idle ids.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_URING
#include "loop/engine_uring_udp.h"
#include "loop/engine_uring_zcrx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os/memory.h"
#include "os/sys.h"

/* ---- the ring of buffers -------------------------------------------------------------------- */

void
uring_give_buffer(struct uring_engine *state, uint16_t id)
{
    state->by_id[state->given_last].next = id;
    state->given_last = id;
    io_uring_buf_ring_add(state->buffers, state->by_id[id].data, berth_class_bytes(BUFFER_CLASS),
                          id, (int)state->buffer_count - 1, (int)state->given++);
}

int
uring_replace_buffer(struct berth_loop *loop, uint16_t id)
{
    struct uring_engine *state = uring_state(loop);
    struct posted_buffer *posted = &state->by_id[id];
    if (BERTH_LIKELY(berth_pool_post(loop->pool, BUFFER_CLASS, BERTH_FOR_NEW, &posted->buffer,
                                     &posted->data) == 0))
        return 1;
    posted->data = NULL;
    state->idle_ids[state->idle_count++] = id;
    state->posted--;
    return 0;
}

int
uring_post_buffer(struct berth_loop *loop, uint16_t id)
{
    if (BERTH_UNLIKELY(!uring_replace_buffer(loop, id)))
        return 0;
    uring_give_buffer(uring_state(loop), id);
    return 1;
}

/** How many ids in a row have buffers that do not lie right behind their predecessor's. */
static unsigned
gaps(const struct uring_engine *state, const uint16_t *ids, unsigned count)
{
    unsigned n = 0;
    for (unsigned i = 1; i < count; i++)
        n += state->by_id[ids[i]].buffer != state->by_id[ids[i - 1]].buffer + 1;
    return n;
}

/** Shell sort: no memory, no recursion, and one pass over what is in order already. */
static void
sort_by_address(const struct uring_engine *state, uint16_t *ids, unsigned count)
{
    static const unsigned steps[] = {132, 57, 23, 10, 4, 1};
    for (unsigned s = 0; s < sizeof(steps) / sizeof(steps[0]); s++) {
        for (unsigned i = steps[s]; i < count; i++) {
            const uint16_t id = ids[i];
            unsigned at = i;
            for (; at >= steps[s] &&
                   state->by_id[ids[at - steps[s]]].buffer > state->by_id[id].buffer;
                 at -= steps[s])
                ids[at] = ids[at - steps[s]];
            ids[at] = id;
        }
    }
}

/**
 * Sorting can part the first and the last from neighbours given before and after: two gaps. It must
 * save more than that, or the place where addresses begin anew would wander through the ring.
 */
#define GAPS_SORTING_MAY_ADD 2

/** More than one gap for so many buffers, when sorted: others should take their places. */
#define GAPS_ONE_IN 8

/** Records that putting the pool in order may look at, for each buffer that bundles bring. */
#define TIDY_RECORDS 16

/**
 * Gives buffers that lie far apart back to the pool, and takes others that lie closer: what was
 * kept for a while, and came back in any order, has scattered them. Returns how many it has got.
 */
static unsigned
exchange(struct berth_loop *loop, uint16_t *ids, unsigned count)
{
    struct uring_engine *state = uring_state(loop);
    unsigned n = 0;
    for (unsigned i = 0; i < count; i++)
        (void)berth_pool_unpost(loop->pool, state->by_id[ids[i]].buffer);
    state->tidy_pause = berth_pool_tidy(loop->pool, BUFFER_CLASS) / TIDY_RECORDS;
    for (unsigned i = 0; i < count; i++) {
        if (uring_replace_buffer(loop, ids[i]))
            ids[n++] = ids[i];
    }
    return n;
}

void
uring_give_buffers(struct berth_loop *loop, uint16_t *ids, unsigned count)
{
    struct uring_engine *state = uring_state(loop);
    uint16_t sorted[BUNDLE_MAX];
    const unsigned before = gaps(state, ids, count);
    BERTH_ASSERT(count <= BUNDLE_MAX);
    state->tidy_pause -= count < state->tidy_pause ? count : state->tidy_pause;
    if (before > GAPS_SORTING_MAY_ADD) {
        memcpy(sorted, ids, count * sizeof(*ids));
        sort_by_address(state, sorted, count);
        const unsigned after = gaps(state, sorted, count);
        if (after + GAPS_SORTING_MAY_ADD < before)
            ids = sorted;
        if (after > GAPS_SORTING_MAY_ADD && after > count / GAPS_ONE_IN && state->tidy_pause == 0)
            count = exchange(loop, ids, count);
    }
    for (unsigned i = 0; i < count; i++)
        uring_give_buffer(state, ids[i]);
}

/**
 * Posts buffers behind idle ids, as many as the load has shown to be needed. Those who starve come
 * first: what they leave goes into the ring.
 */
void
uring_refill(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    uint16_t ids[BUNDLE_MAX];
    unsigned count = 0;
    while (state->posted < state->posted_max && state->idle_count > 0 && loop->starved.count == 0) {
        const uint16_t id = state->idle_ids[--state->idle_count];
        state->posted++;
        state->refused = !uring_replace_buffer(loop, id);
        if (state->refused)
            break;
        ids[count++] = id;
        if (count == BUNDLE_MAX) {
            uring_give_buffers(loop, ids, count);
            count = 0;
        }
    }
    if (count > 0)
        uring_give_buffers(loop, ids, count);
}

/** A receive found the ring empty: next time there will be twice as many buffers in it. */
void
uring_grow_ring(struct uring_engine *state)
{
    if (state->posted == state->posted_max && state->posted_max < state->buffer_count)
        state->posted_max *= 2;
}

int
uring_ring_grows(const struct berth_loop *loop)
{
    const struct uring_engine *state = uring_state(loop);
    return !state->refused && state->posted < state->posted_max &&
           berth_pool_available(loop->pool, BUFFER_CLASS, BERTH_FOR_NEW) >=
               state->posted_max - state->posted;
}

void
uring_publish_buffers(struct uring_engine *state)
{
    if (state->given == 0)
        return;
    io_uring_buf_ring_advance(state->buffers, (int)state->given);
    state->given = 0;
}

/* ---- life ----------------------------------------------------------------------------------- */

void
uring_destroy(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    if (state == NULL)
        return;
    uring_direct_destroy(loop);
    (void)sys_uring_exit(&state->ring);
    uring_zcrx_destroy(state);
    uring_lanes_destroy(loop);
    if (state->event_fd >= 0)
        (void)sys_close(state->event_fd);
    uring_datagram_destroy(loop);
    for (uint32_t id = 0; state->by_id != NULL && id < state->buffer_count; id++)
        if (state->by_id[id].data != NULL)
            (void)berth_pool_unpost(loop->pool, state->by_id[id].buffer);
    berth_memory_release(state->buffers, state->buffer_count * sizeof(struct io_uring_buf));
    free(state->by_id);
    free(state->idle_ids);
    free(state);
    loop->engine_state = NULL;
}

/** Sets the ring up with the best flags this kernel takes, and with `more`, which need the best. */
static int
init_ring(const struct berth_loop *loop, struct uring_engine *state, uint32_t more)
{
    static const uint32_t flag_sets[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_R_DISABLED, /* before 6.1 */
    };
    uint32_t completions = COMPLETIONS_MIN;
    while (completions < loop->options.receive_buffers || completions < loop->options.events_max)
        completions *= 2;
    int error = -EINVAL;
    const size_t tries = more != 0 ? 1 : sizeof(flag_sets) / sizeof(flag_sets[0]);
    for (size_t i = 0; i < tries && error == -EINVAL; i++) {
        struct io_uring_params params;
        memset(&params, 0, sizeof(params));
        params.flags = flag_sets[i] | more | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL |
                       IORING_SETUP_CLAMP;
        params.cq_entries = completions;
        error = (int)sys_uring_init(SUBMISSIONS_MAX, &state->ring, &params);
        state->setup_flags = params.flags;
        state->kernel_features = params.features;
    }
    if (error == 0) /* a child would share the queues with its parent */
        (void)sys_uring_no_fork(&state->ring);
    return error;
}

/** The ring; for receives without copying one with large completions, if those can be had. */
static int
make_ring(struct berth_loop *loop, struct uring_engine *state)
{
    if (*loop->zcrx.interface == '\0')
        return init_ring(loop, state, 0);
    const int error = init_ring(loop, state, IORING_SETUP_CQE32);
    if (error) {
        uring_zcrx_no_ring(state, error);
    } else {
        if (uring_zcrx_create(loop) == 0) {
            loop->by_card = 1;
            return 0;
        }
        (void)sys_uring_exit(&state->ring);
    }
    return init_ring(loop, state, 0);
}

/** The ring of buffers, in memory of our own, and the buffers to begin with. */
static int
init_buffers(struct berth_loop *loop, struct uring_engine *state)
{
    uint32_t count = 16;
    while (count < loop->options.receive_buffers)
        count *= 2;
    const size_t bytes = count * sizeof(struct io_uring_buf);
    void *memory = NULL;
    int error = berth_memory_take(&memory, bytes, "berth-ring");
    if (error)
        return error;
    state->buffers = (struct io_uring_buf_ring *)memory;
    state->buffer_count = count;
    berth_memory_advise(memory, bytes, BERTH_MEMORY_NO_FORK);
    state->by_id = (struct posted_buffer *)calloc(count, sizeof(*state->by_id));
    state->idle_ids = (uint16_t *)calloc(count, sizeof(*state->idle_ids));
    if (state->by_id == NULL || state->idle_ids == NULL)
        return -ENOMEM;
    io_uring_buf_ring_init(state->buffers);
    struct io_uring_buf_reg registration;
    memset(&registration, 0, sizeof(registration));
    registration.ring_addr = (uint64_t)(uintptr_t)memory;
    registration.ring_entries = count;
    registration.bgid = BUFFER_GROUP;
    error = (int)sys_uring_register_buffers(&state->ring, &registration);
    if (error)
        return error;
    state->posted_max = count < POSTED_FIRST ? count : POSTED_FIRST;
    for (uint32_t id = count; id-- > 0;)
        state->idle_ids[state->idle_count++] = (uint16_t)id;
    return 0;
}

/** Features that work on this kernel and are wanted; an error if not even plain receives work. */
static int
init_features(struct berth_loop *loop, struct uring_engine *state, char *why, size_t why_size)
{
    uring_selftest(state->setup_flags & ~IORING_SETUP_R_DISABLED, &state->verdict);
    if (state->verdict.wrong != NULL) {
        (void)snprintf(why, why_size, "self-test of receives: %s", state->verdict.wrong);
        return -EOPNOTSUPP;
    }
    state->features = uring_choose_features(&state->verdict, &loop->wishes);
    if (!(state->kernel_features & BERTH_URING_FEAT_RECVSEND_BUNDLE))
        state->features &= ~(uint32_t)(FEATURE_BUNDLES | FEATURE_INCREMENTAL_BUNDLES);
    if (uring_has(state, FEATURE_LIMITS))
        state->receive_bytes_max = loop->options.fairness_bytes;
    return 0;
}

int
uring_create(struct berth_loop *loop, char *why, size_t why_size)
{
    struct uring_engine *state = (struct uring_engine *)calloc(1, sizeof(*state));
    (void)snprintf(why, why_size, "io_uring_setup");
    if (state == NULL)
        return -ENOMEM;
    state->event_fd = -1;
    loop->engine_state = state;
    int error = make_ring(loop, state);
    if (error) {
        loop->engine_state = NULL;
        free(state);
        return error;
    }
    (void)snprintf(why, why_size, "multishot receive (Linux 6.0)");
    /* Multishot receive cannot be asked for; SEND_ZC came with the same release. */
    error = (int)sys_uring_knows(&state->ring, IORING_OP_SEND_ZC);
    error = error == 0 ? -EOPNOTSUPP : error > 0 ? 0 : error;
    if (!error) {
        (void)snprintf(why, why_size, "registering a ring of buffers");
        error = init_buffers(loop, state);
    }
    if (!error)
        error = init_features(loop, state, why, why_size);
    if (error)
        uring_destroy(loop);
    else
        uring_direct_create(loop);
    if (!error)
        zerocopy_create(loop, uring_zerocopy_create(loop));
    return error;
}

int
uring_start(struct berth_loop *loop)
{
    struct uring_engine *state = uring_state(loop);
    const int error = (int)sys_uring_enable(&state->ring);
    if (error)
        return error;
    state->enabled = 1;
    state->ring_fd_registered = sys_uring_register_ring_fd(&state->ring) == 1;
    loop->stats.syscalls += 2;
    return 0;
}

int
uring_explain(const struct berth_loop *loop, char *text, size_t size)
{
    const struct uring_engine *state = uring_state(loop);
    int used =
        snprintf(text, size,
                 "receive: %s into a shared ring of %u to %u buffers of %u bytes%s\n"
                 "receive in bulk: %s%s\n"
                 "receive when idle: %s\n"
                 "accept: multishot; send: submitted in batches of up to %d with the wait\n"
                 "completions: %s%s\n",
                 uring_has(state, FEATURE_MULTISHOT) ? "multishot" : "one by one",
                 state->posted_max, state->buffer_count, berth_class_bytes(BUFFER_CLASS),
                 state->receive_bytes_max ? ", limited per connection and turn" : "",
                 uring_has(state, FEATURE_BUNDLES) ? "many buffers in one completion (bundles)"
                                                   : "a completion for each buffer",
                 uring_has(state, FEATURE_INCREMENTAL) && state->receive_bytes_max
                     ? "; for whoever goes on, a ring of 2 MiB buffers of its own (incremental)"
                     : "",
                 loop->options.idle_park_ms ? "a poll request in its place after idle_park_ms"
                                            : "stays posted (idle_park_ms is 0)",
                 SUBMISSIONS_MAX,
                 state->setup_flags & IORING_SETUP_DEFER_TASKRUN
                     ? "run by the loop's own thread when it waits (DEFER_TASKRUN)"
                     : "run at any system call (COOP_TASKRUN; DEFER_TASKRUN needs Linux 6.1)",
                 state->ring_fd_registered ? "; ring descriptor registered" : "");
    const size_t at = (size_t)used < size ? (size_t)used : size;
    used += uring_direct_explain(loop, text == NULL ? NULL : text + at, size - at);
    const size_t then = (size_t)used < size ? (size_t)used : size;
    used += uring_zcrx_explain(loop, text == NULL ? NULL : text + then, size - then);
    const size_t end = (size_t)used < size ? (size_t)used : size;
    return used + uring_explain_features(loop, text == NULL ? NULL : text + end, size - end);
}
