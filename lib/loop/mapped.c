/*
 * Receiving by mapping: who is received from in that way, and what a loop needs for it. How it is
 * done is mapped_pull.c's affair, and where the pages go window.c's.
 *
 *   share after share used up, segments suit --> mapped --half of a MiB was not--> copied
 *                                                  ^                                  |
 *                                                  +---- 64 MiB later, then 128, -----+
 *
 * The invariant: what the kernel has told of an error (it tells once) is not lost.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_SOCKET
#include "loop/mapped_parts.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os/sys.h"

BERTH_STATIC_ASSERT(BERTH_MAP_BYTES_MIN == WINDOW_BYTES && BERTH_MAP_BYTES_MAX == WINDOWS_BYTES_MAX,
                    "what the option allows");

/** If it did not, it is tried again after so much; doubled each time, so often at most. */
#define RETRY_KIB (UINT32_C(64) << 10)
#define RETRY_DOUBLINGS 10

/** Segments that long are made of whole pages, some of them at least (loopback). */
#define SEGMENT_MANY_PAGES 32768

/** Pages that nobody holds are unmapped at the end of a turn if they are so many bytes. */
#define UNMAP_BYTES ((size_t)512 << 10)

/** Fewer wait for more, but if no more comes for so long they are unmapped too. */
#define UNMAP_TICK_MS 10

/* ---- beginning and ending ------------------------------------------------------------------- */

static void
mapped_over(struct berth_loop *loop, struct berth_slot *slot)
{
    loop->mapper->conns--;
    free(slot_cold(loop, slot)->pull_state);
}

static int
mapped_error(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return ((const struct mapped *)slot_cold(loop, slot)->pull_state)->error;
}

static const struct puller mapped_puller = {
    .pull = mapped_pull, .error = mapped_error, .over = mapped_over};

struct mapped *
mapped_of(const struct berth_loop *loop, const struct berth_slot *slot)
{
    if (!conn_pulls(loop, slot) || slot_cold(loop, slot)->puller != &mapped_puller)
        return NULL;
    return (struct mapped *)slot_cold(loop, slot)->pull_state;
}

/** The mapper of a loop, with windows. 0 or -errno. */
static int
mapper_get(struct berth_loop *loop)
{
    if (loop->mapper == NULL)
        loop->mapper = (struct mapper *)calloc(1, sizeof(*loop->mapper));
    struct mapper *mapper = loop->mapper;
    if (mapper == NULL)
        return -ENOMEM;
    if (mapper->windows == NULL && mapper->error == 0)
        mapper->error = windows_create(&mapper->windows, loop->options.map_bytes_max, &mapper->why);
    return mapper->error;
}

static int
mapped_start(struct berth_loop *loop, struct berth_slot *slot, int always)
{
    if (loop->direct)
        return -EOPNOTSUPP;
    int error = mapper_get(loop);
    if (error)
        return error;
    struct mapped *mapped = (struct mapped *)calloc(1, sizeof(*mapped));
    if (mapped == NULL)
        return -ENOMEM;
    mapped->always = always;
    mapped->in_pages = !always; /* it receives in bulk */
    error = conn_pull_start(loop, slot, &mapped_puller, mapped);
    if (error)
        free(mapped);
    else
        loop->mapper->conns++;
    return error == -EALREADY ? -EBUSY : error;
}

static void
mapped_stop(struct berth_loop *loop, struct berth_slot *slot)
{
    struct mapped *mapped = mapped_of(loop, slot);
    if (mapped->error)
        conn_failed(loop, slot, mapped->error); /* nobody else would ever hear of it */
    conn_pull_stop(loop, slot);
    loop->mapper->conns--;
    free(mapped);
}

/** It did not pay, or could not be: another time. */
static void
put_off(struct conn_cold *cold)
{
    cold->map_wait_kib = RETRY_KIB << cold->map_failures;
    if (cold->map_failures < RETRY_DOUBLINGS)
        cold->map_failures++;
}

void
mapped_give_up(struct berth_loop *loop, struct berth_slot *slot)
{
    if (mapped_of(loop, slot) == NULL)
        return;
    put_off(slot_cold(loop, slot));
    mapped_stop(loop, slot);
}

/* ---- who is mapped -------------------------------------------------------------------------- */

/** Bytes in the segments that come: 0 if it is not TCP. */
static uint32_t
segment_bytes(struct berth_loop *loop, const struct berth_slot *slot)
{
#ifdef __linux__
    struct tcp_info info;
    socklen_t size = sizeof(info);
    memset(&info, 0, sizeof(info));
    loop->stats.syscalls++;
    if (sys_getsockopt(berth_slot_fd(slot), IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
        return 0;
    return info.tcpi_rcv_mss;
#else
    (void)loop, (void)slot;
    return 0;
#endif
}

static int
suits(uint32_t segment)
{
    return segment >= SEGMENT_MANY_PAGES || (segment > 0 && whole_pages(segment) == segment);
}

int
mapped_consider_now(struct berth_loop *loop, struct berth_slot *slot, size_t bytes)
{
    struct conn_cold *cold = slot_cold(loop, slot);
    if (cold->map_wish == MAP_NEVER || loop->direct || conn_pulls(loop, slot))
        return 0;
    if (cold->map_wait_kib > 0) {
        const size_t kib = bytes >> 10;
        cold->map_wait_kib = kib < cold->map_wait_kib ? cold->map_wait_kib - (uint32_t)kib : 0;
        return 0;
    }
    /* Whoever has been through the wait has received enough. */
    if (cold->map_failures == 0 && bulk_again(loop, slot) < BULK_SHARES)
        return 0;
    if (suits(segment_bytes(loop, slot)) && mapped_start(loop, slot, 0) == 0)
        return 1;
    put_off(cold);
    return 0;
}

int
berth_conn_map(struct berth_conn *conn, int on)
{
    struct berth_slot *slot = as_slot(conn);
    if (slot == NULL || !(slot->flags & BERTH_SLOT_LIVE) || slot_kind(slot) != KIND_CONN ||
        on < -1 || on > 1)
        return -EINVAL;
    if (slot->state & (CONN_CLOSE_WANTED | CONN_FAILED) || slot->flags & BERTH_SLOT_CLOSING)
        return -EPIPE;
    if (slot->state & CONN_CONNECTING)
        return -ENOTCONN;
    struct berth_loop *loop = slot_loop(slot);
    struct conn_cold *cold = slot_cold(loop, slot);
    struct mapped *mapped = mapped_of(loop, slot);
    if (on == 1) {
        if (loop->wishes.off & FEATURE_MAPPED || segment_bytes(loop, slot) == 0)
            return -EOPNOTSUPP;
        if (mapped == NULL) {
            const int error = mapped_start(loop, slot, 1);
            if (error)
                return error;
        } else {
            mapped->always = 1;
        }
        cold->map_wish = MAP_ALWAYS;
        return 0;
    }
    cold->map_wish = on == 0 ? MAP_NEVER : MAP_AUTO;
    if (mapped == NULL)
        return 0;
    mapped->always = 0;
    if (on == 0 || !loop->options.map_receive)
        mapped_stop(loop, slot);
    return 0;
}

/* ---- the loop ------------------------------------------------------------------------------- */

static void
unmap(struct berth_loop *loop)
{
    struct mapper *mapper = loop->mapper;
    const unsigned calls = windows_unmap(mapper->windows);
    loop->stats.unmaps += calls;
    loop->stats.syscalls += calls;
    mapper->failed = windows_dirty(mapper->windows) > 0;
}

void
mapped_turn_over(struct berth_loop *loop)
{
    struct mapper *mapper = loop->mapper;
    if (mapper->windows == NULL)
        return;
    const size_t dirty = windows_dirty(mapper->windows);
    if (dirty >= UNMAP_BYTES || (dirty > 0 && loop->stats.mapped == mapper->mapped_before))
        unmap(loop);
    mapper->mapped_before = loop->stats.mapped;
}

int
mapped_tick(const struct berth_loop *loop)
{
    const struct mapper *mapper = loop->mapper;
    return mapper->windows != NULL && !mapper->failed && windows_dirty(mapper->windows) > 0
               ? UNMAP_TICK_MS
               : -1;
}

void
mapped_destroy(struct berth_loop *loop)
{
    if (loop->mapper == NULL)
        return;
    windows_destroy(loop->mapper->windows);
    free(loop->mapper);
    loop->mapper = NULL;
}

int
mapped_explain(const struct berth_loop *loop, char *text, size_t size)
{
    const struct mapper *mapper = loop->mapper;
    if (loop->wishes.off & FEATURE_MAPPED)
        return snprintf(text, size, "mapped receives: off (feature)\n");
    if (!loop->options.map_receive && mapper == NULL)
        return 0;
    if (loop->direct)
        return snprintf(text, size, "mapped receives: not with direct descriptors\n");
    if (mapper == NULL)
        return snprintf(text, size, "mapped receives: of no connection yet\n");
    if (mapper->windows == NULL)
        return snprintf(text, size, "no mapped receives: %s: %s\n", mapper->why,
                        strerror(-mapper->error));
    struct windows_state state;
    windows_look(mapper->windows, &state);
    int used = snprintf(text, size,
                        "mapped receives: of %u connections now; windows of %zu KiB: %zu KiB in "
                        "use, of %u at most\n",
                        mapper->conns, WINDOW_BYTES >> 10, state.used_bytes >> 10,
                        loop->options.map_bytes_max >> 10);
    if (mapper->refusal == 0)
        return used;
    const size_t at = (size_t)used < size ? (size_t)used : size;
    return used + snprintf(text == NULL ? NULL : text + at, size - at,
                           "TCP_ZEROCOPY_RECEIVE refused: %s\n", strerror(-mapper->refusal));
}
