/*
 * See zerocopy.h. A send is read in place if enough is queued, the connection has not been found to
 * be copied anyway, and the budgets allow it; otherwise it is copied: nothing is ever refused or
 * waited for.
 *
 * The invariants: what the kernel may read is neither released nor changed before its notification;
 * each such send counts in slot->in_flight until its last completion, so that its slot is not
 * reused; what is out of the budgets is in exactly one record.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_MEMORY
#define BERTH_SYS_SOCKET
#include "loop/loop_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loop/send.h"
#include "os/memory.h"
#include "os/sys.h"

/** After so many notifications in a row that say "copied", and for so many bytes. */
#define COPIED_MAX 8
#define REST_BYTES (64u << 20)

/** Budgets, in bytes: of one connection, and of a process that may lock what it likes. */
#define CONN_PINNED_MAX (4u << 20)
#define PROCESS_PINNED_MAX ((uint64_t)256 << 20)

/** As the kernel counts: whole pages, and one more at each end of a piece. */
#define PAGE_BYTES 4096u
#define PIECE_PAGES 2u

/** Pieces of fewer bytes than this, on average, are quicker copied than looked up. */
#define PIECE_BYTES_MIN 2048u

/** One in so many places may be taken by peers that read nothing any more. */
#define CROWD_SHARE 8

/**
 * Of all loops together, in a page that is zero in a child of fork(2): it cannot unpin what its
 * parent has pinned, and need not. Made once, and kept. Atomic, and so is what it holds.
 */
static uint64_t *process_pinned;

/** In its place, where there is no such page. */
static uint64_t inherited_pinned;

/* ---- a loop's ------------------------------------------------------------------------------- */

/** What all loops of this process may pin: half of what it may lock, others lock memory too. */
static uint64_t
process_pinned_max(void)
{
    struct rlimit limit = {0, 0};
    if (sys_may_lock_memory() == 1)
        return PROCESS_PINNED_MAX;
    if (sys_getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
        return 0;
    return limit.rlim_cur / 2 < PROCESS_PINNED_MAX ? limit.rlim_cur / 2 : PROCESS_PINNED_MAX;
}

/** Where it is counted what the process has pinned. Any thread. */
static uint64_t *
process_pinned_get(void)
{
    uint64_t *count = __atomic_load_n(&process_pinned, __ATOMIC_ACQUIRE);
    void *page = NULL;
    if (count != NULL)
        return count;
#ifdef MADV_WIPEONFORK
    if (berth_memory_take(&page, berth_memory_page_bytes(), "berth-pinned") == 0 &&
        sys_madvise(page, berth_memory_page_bytes(), MADV_WIPEONFORK) != 0) {
        berth_memory_release(page, berth_memory_page_bytes());
        page = NULL;
    }
#endif
    uint64_t *mine = page != NULL ? (uint64_t *)page : &inherited_pinned;
    if (__atomic_compare_exchange_n(&process_pinned, &count, mine, 0, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        return mine;
    if (page != NULL)
        berth_memory_release(page, berth_memory_page_bytes());
    return count;
}

/** Places are slots, and descriptors. */
static uint32_t
crowd(const struct berth_loop *loop)
{
    struct rlimit limit = {0, 0};
    if (sys_getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > loop->options.conns_max)
        return loop->options.conns_max / CROWD_SHARE;
    return (uint32_t)limit.rlim_cur / CROWD_SHARE;
}

void
zerocopy_create(struct berth_loop *loop, const char *why)
{
    struct zerocopy_loop *of = &loop->zerocopy;
    const uint64_t most = of->process_pinned_max = process_pinned_max();
    of->process_pinned = process_pinned_get();
    of->pinned_max =
        loop->options.zerocopy_pinned_max < most ? loop->options.zerocopy_pinned_max : most;
    of->conn_pinned_max =
        of->pinned_max / 4 < CONN_PINNED_MAX ? of->pinned_max / 4 : CONN_PINNED_MAX;
    of->insists = (loop->wishes.on & FEATURE_ZEROCOPY) != 0;
    of->why = why;
    of->crowd = crowd(loop);
    if (loop->wishes.off & FEATURE_ZEROCOPY)
        of->why = loop->wishes.environment & FEATURE_ZEROCOPY ? "switched off by BERTH_FEATURES"
                                                              : "switched off by option";
    else if (loop->options.zerocopy_bytes == BERTH_ZEROCOPY_NEVER)
        of->why = "zerocopy_bytes says never";
    else if (of->pinned_max == 0)
        of->why = "no memory may be pinned";
    loop->zerocopy_from = of->why == NULL ? loop->options.zerocopy_bytes : ZEROCOPY_NEVER;
}

void
zerocopy_destroy(struct berth_loop *loop)
{
    while (loop->zerocopy.store != NULL) {
        struct zerocopy *first = loop->zerocopy.store;
        loop->zerocopy.store = first->next;
        free(first);
    }
    if (loop->zerocopy.pinned > 0)
        (void)__atomic_sub_fetch(loop->zerocopy.process_pinned, loop->zerocopy.pinned,
                                 __ATOMIC_RELAXED);
    loop->zerocopy.pinned = 0;
}

int
zerocopy_explain(const struct berth_loop *loop, char *text, size_t size)
{
    const struct zerocopy_loop *of = &loop->zerocopy;
    if (of->why != NULL)
        return snprintf(text, size, "send in place: never: %s\n", of->why);
    return snprintf(text, size,
                    "send in place: from %u queued bytes on, by %s; at most %llu bytes at a time, "
                    "%llu of one connection%s\n",
                    loop->zerocopy_from,
                    loop->engine->sends_at_once ? "MSG_ZEROCOPY" : "SEND_ZC and SENDMSG_ZC",
                    (unsigned long long)of->pinned_max, (unsigned long long)of->conn_pinned_max,
                    of->insists ? "; also where the kernel copies after all"
                                : "; not for 64 MiB where the kernel copied 8 times in a row");
}

/* ---- records -------------------------------------------------------------------------------- */

static struct conn_zerocopy *
known(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return &slot_cold(loop, slot)->zerocopy;
}

static struct zerocopy *
record_get(struct berth_loop *loop, struct conn_zerocopy *conn)
{
    if (conn->sends != NULL)
        return conn->sends;
    struct zerocopy *record = loop->zerocopy.store;
    if (record != NULL)
        loop->zerocopy.store = record->next;
    else
        record = (struct zerocopy *)malloc(sizeof(*record));
    if (record != NULL)
        memset(record, 0, sizeof(*record));
    conn->sends = record;
    return record;
}

/** With the last send goes the record. */
static void
record_put(struct berth_loop *loop, struct conn_zerocopy *conn)
{
    struct zerocopy *record = conn->sends;
    if (record->count > 0)
        return;
    BERTH_ASSERT(record->pinned == 0);
    zerocopy_unwatch(loop, record);
    if (record->spare != 0)
        node_put(&loop->nodes, record->spare);
    record->next = loop->zerocopy.store;
    loop->zerocopy.store = record;
    conn->sends = NULL;
}

/** Gives `bytes` back to the three budgets. */
static void
unpin(struct berth_loop *loop, struct zerocopy *record, uint32_t bytes)
{
    BERTH_ASSERT(record->pinned >= bytes && loop->zerocopy.pinned >= bytes);
    record->pinned -= bytes;
    loop->zerocopy.pinned -= bytes;
    (void)__atomic_sub_fetch(loop->zerocopy.process_pinned, bytes, __ATOMIC_RELAXED);
}

/** Takes them, if none of the three is exceeded. */
static int
pin(struct berth_loop *loop, struct zerocopy *record, uint32_t bytes)
{
    if (__atomic_add_fetch(loop->zerocopy.process_pinned, bytes, __ATOMIC_RELAXED) >
        loop->zerocopy.process_pinned_max) {
        (void)__atomic_sub_fetch(loop->zerocopy.process_pinned, bytes, __ATOMIC_RELAXED);
        return 0;
    }
    record->pinned += bytes;
    loop->zerocopy.pinned += bytes;
    return 1;
}

/* ---- choosing ------------------------------------------------------------------------------- */

/** A number for the next send, or -1: the kernel has not finished with so many. They go round, so
 * that a late word about one is not taken for the next. */
static int
number_get(const struct zerocopy *record)
{
    for (unsigned i = 1; i <= ZEROCOPY_SENDS_MAX; i++) {
        const unsigned number = (record->last + i) % ZEROCOPY_SENDS_MAX;
        if (record->sends[number].state == ZEROCOPY_FREE)
            return (int)number;
    }
    return -1;
}

/** Whether this connection is worth a try: it was not found out that it is copied anyway. */
static int
worth_trying(const struct berth_loop *loop, struct conn_zerocopy *conn)
{
    if (conn->flags & (ZEROCOPY_OFF | ZEROCOPY_REFUSED) || conn->rest_bytes > 0) {
        conn->flags &= (uint8_t)~ZEROCOPY_REFUSED;
        return 0;
    }
    if (conn->flags & ZEROCOPY_PROVEN || loop->zerocopy.insists)
        return 1;
    /* What is not known yet may turn out to be copied as well. */
    return conn->copied + (conn->sends == NULL ? 0 : conn->sends->count) < COPIED_MAX;
}

/** Pages that the kernel counts for a piece. */
static inline uint32_t
pages_of(uint32_t bytes)
{
    return bytes / PAGE_BYTES + PIECE_PAGES;
}

/** Writes iovecs for the head of the queue, as far as `pages` go. */
static void
describe(const struct berth_loop *loop, const struct berth_slot *slot, struct iovec *iov,
         unsigned count, uint32_t pages, struct zerocopy_ask *ask)
{
    memset(ask, 0, sizeof(*ask));
    for (uint32_t at = slot->buffer; at != 0 && ask->count < count && pages >= PIECE_PAGES;) {
        const struct send_node *node = &loop->nodes.at[at];
        uint32_t bytes = node->lease.length;
        if (BERTH_UNLIKELY(send_node_is_file(node)))
            break;
        if (pages_of(bytes) > pages)
            bytes = (pages - PIECE_PAGES) * PAGE_BYTES + PAGE_BYTES - 1;
        iov[ask->count].iov_base = send_node_data(loop, node);
        iov[ask->count++].iov_len = bytes;
        ask->bytes += bytes;
        ask->pinned += pages_of(bytes) * PAGE_BYTES;
        pages -= pages_of(bytes);
        if (bytes < node->lease.length)
            break;
        at = node->next;
    }
}

/** What the budgets of loop and connection leave, in pages. */
static uint32_t
pages_left(const struct berth_loop *loop, const struct zerocopy *record)
{
    const struct zerocopy_loop *of = &loop->zerocopy;
    const uint64_t conn =
        record->pinned < of->conn_pinned_max ? of->conn_pinned_max - record->pinned : 0;
    const uint64_t all = of->pinned < of->pinned_max ? of->pinned_max - of->pinned : 0;
    return (uint32_t)((conn < all ? conn : all) / PAGE_BYTES);
}

/** Whether there is not enough left for all of that, for want of the kernel's word. */
static int
is_short(const struct berth_loop *loop, const struct zerocopy *record,
         const struct zerocopy_ask *ask)
{
    return record != NULL &&
           (number_get(record) < 0 || ask->pinned / PAGE_BYTES > pages_left(loop, record));
}

/** Whether the queue begins with pieces that are worth it. */
static int
is_worth_it(const struct berth_loop *loop, const struct zerocopy_ask *ask)
{
    return ask->bytes >= loop->zerocopy_from &&
           (ask->count == 1 || ask->bytes >= (size_t)ask->count * PIECE_BYTES_MIN);
}

int
zerocopy_begin(struct berth_loop *loop, struct berth_slot *slot, struct iovec *iov, unsigned count,
               struct zerocopy_ask *ask)
{
    struct conn_zerocopy *conn = known(loop, slot);
    if (!worth_trying(loop, conn))
        return 0;
    /* No more than may be pinned at all: it could not be counted in 32 bits. */
    const uint32_t most = (uint32_t)(loop->zerocopy.conn_pinned_max / PAGE_BYTES);
    describe(loop, slot, iov, count, most, ask);
    if (!is_worth_it(loop, ask))
        return 0;
    if (is_short(loop, conn->sends, ask) && loop->engine->zerocopy_news != NULL) {
        (void)loop->engine->zerocopy_news(loop, slot);
        if (!worth_trying(loop, conn)) /* as has just been learned */
            return 0;
    }
    struct zerocopy *record = record_get(loop, conn);
    if (record == NULL)
        return 0;
    const int number = number_get(record);
    const uint32_t pages = pages_left(loop, record);
    if (ask->pinned / PAGE_BYTES > pages)
        describe(loop, slot, iov, count, pages, ask);
    if (record->spare == 0)
        record->spare = node_get(&loop->nodes);
    if (number < 0 || record->spare == 0 || !is_worth_it(loop, ask) ||
        !pin(loop, record, ask->pinned)) {
        loop->stats.zerocopy_refused++;
        record_put(loop, conn);
        return 0;
    }
    if (loop->engine->sends_at_once)
        send_retain_lent(loop, slot); /* what is only lent must be kept, where it is */
    ask->send = (unsigned)number;
    record->last = (uint8_t)number;
    record->count++;
    record->sends[number] =
        (struct zerocopy_send){.pinned = ask->pinned, .state = ZEROCOPY_SUBMITTED};
    send_begin(loop, slot, ask->count);
    queue_head(loop, slot)->in_flight |= SEND_IN_PLACE;
    return 1;
}

/* ---- what the kernel says ------------------------------------------------------------------- */

/** Nothing of that send is needed any more. */
static void
release(struct berth_loop *loop, struct conn_zerocopy *conn, struct zerocopy_send *send)
{
    for (uint32_t at = send->nodes; at != 0;) {
        const struct send_node *node = &loop->nodes.at[at];
        const uint32_t next = node->next;
        (void)berth_lease_send_end(loop->pool, node->lease);
        (void)berth_release(loop->pool, node->lease);
        node_put(&loop->nodes, at);
        at = next;
    }
    unpin(loop, conn->sends, send->pinned);
    memset(send, 0, sizeof(*send));
    conn->sends->count--;
    record_put(loop, conn);
}

/** Of the nodes that were given to the kernel, those that it took nothing of are ours again. */
static void
land_rest(struct berth_loop *loop, struct berth_slot *slot, size_t taken)
{
    struct send_node *head = queue_head(loop, slot);
    uint32_t at = slot->buffer;
    for (unsigned i = head->in_flight & ~SEND_IN_PLACE; i > 0; i--) {
        const struct send_node *node = &loop->nodes.at[at];
        if (taken == 0)
            (void)berth_lease_send_end(loop->pool, node->lease);
        taken -= taken < node->lease.length ? taken : node->lease.length;
        at = node->next;
    }
    head->in_flight = 0;
}

/** Moves what was taken from the queue into the record of the send. */
static void
move_taken(struct berth_loop *loop, struct berth_slot *slot, struct zerocopy *record,
           struct zerocopy_send *send, size_t taken)
{
    struct send_nodes *nodes = &loop->nodes;
    while (taken > 0) {
        struct send_node *head = queue_head(loop, slot);
        const int in_part = taken < head->lease.length;
        uint32_t index = slot->buffer;
        if (in_part && berth_lease_share(loop->pool, head->lease) == 0) {
            index = record->spare;
            record->spare = 0;
            nodes->at[index].lease = head->lease;
            nodes->at[index].lease.length = (uint32_t)taken;
            head->lease.offset += (uint32_t)taken;
            head->lease.length -= (uint32_t)taken;
            taken = 0;
        } else if (in_part) {
            /* More references than can be counted: the rest is lost, and with it the connection. */
            head->bytes -= head->lease.length - (uint32_t)taken;
            taken = 0;
            (void)send_unlink_head(loop, slot);
            conn_failed(loop, slot, -EOVERFLOW);
        } else {
            taken -= head->lease.length;
            (void)send_unlink_head(loop, slot);
        }
        nodes->at[index].next = send->nodes;
        send->nodes = index;
    }
}

/** What was not taken is not pinned. */
static void
unpin_rest(struct berth_loop *loop, struct zerocopy *record, struct zerocopy_send *send)
{
    uint32_t pinned = 0;
    for (uint32_t at = send->nodes; at != 0; at = loop->nodes.at[at].next)
        pinned += pages_of(loop->nodes.at[at].lease.length) * PAGE_BYTES;
    if (pinned < send->pinned) {
        unpin(loop, record, send->pinned - pinned);
        send->pinned = pinned;
    }
}

void
zerocopy_submitted(struct berth_loop *loop, struct berth_slot *slot, const struct zerocopy_ask *ask)
{
    known(loop, slot)->sends->sending = (uint8_t)(1 + ask->send);
}

void
zerocopy_undo(struct berth_loop *loop, struct berth_slot *slot, const struct zerocopy_ask *ask)
{
    struct conn_zerocopy *conn = known(loop, slot);
    land_rest(loop, slot, 0);
    release(loop, conn, &conn->sends->sends[ask->send]);
}

void
zerocopy_taken(struct berth_loop *loop, struct berth_slot *slot, unsigned number, size_t bytes,
               int more)
{
    struct conn_zerocopy *conn = known(loop, slot);
    struct zerocopy *record = conn->sends;
    struct zerocopy_send *send = &record->sends[number];
    const int early = send->state == ZEROCOPY_EARLY;
    BERTH_ASSERT(send->state == ZEROCOPY_SUBMITTED || early);
    record->sending = 0;
    send->state = ZEROCOPY_TAKEN;
    send->bytes = (uint32_t)bytes;
    if (slot->buffer != 0)
        land_rest(loop, slot, bytes);
    if (bytes > 0) {
        loop->stats.zerocopy_sends++;
        send_account_zerocopy(loop, slot, bytes);
        move_taken(loop, slot, record, send, bytes);
        unpin_rest(loop, record, send);
    }
    if (more && !early)
        return;
    (void)berth_slot_end(slot);
    release(loop, conn, send);
}

/** What the notifications teach about the connection. */
static void
learn(const struct berth_loop *loop, struct conn_zerocopy *conn, enum zerocopy_verdict verdict)
{
    if (verdict == ZEROCOPY_IN_PLACE) {
        conn->copied = 0;
        conn->rest_bytes = 0;
        conn->flags |= ZEROCOPY_PROVEN;
    } else if (verdict == ZEROCOPY_COPIED) {
        conn->copied = conn->copied < COPIED_MAX ? conn->copied + 1 : COPIED_MAX;
        conn->flags &= (uint8_t)~ZEROCOPY_PROVEN;
        if (conn->copied == COPIED_MAX && !loop->zerocopy.insists) {
            conn->rest_bytes = REST_BYTES;
            conn->copied = COPIED_MAX - 1; /* and one try more decides again */
        }
    }
}

void
zerocopy_done(struct berth_loop *loop, struct berth_slot *slot, unsigned number,
              enum zerocopy_verdict verdict)
{
    struct conn_zerocopy *conn = known(loop, slot);
    struct zerocopy *record = conn->sends;
    struct zerocopy_send *send = &record->sends[number];
    if (send->state == ZEROCOPY_SUBMITTED) { /* the wrong way round: how much is still to come */
        send->state = ZEROCOPY_EARLY;
        return;
    }
    loop->stats.zerocopy_notifications += send->bytes > 0;
    /* Of what was dropped nothing is known, nor of what failed. */
    if (record->home || slot->state & CONN_FAILED || send->bytes == 0)
        verdict = ZEROCOPY_UNKNOWN;
    if (verdict == ZEROCOPY_IN_PLACE)
        CONN_COPIES(loop, slot, sent_in_place, send->bytes);
    if (verdict == ZEROCOPY_COPIED)
        CONN_COPIES(loop, slot, sent_copied_anyway, send->bytes);
    learn(loop, conn, verdict);
    (void)berth_slot_end(slot);
    release(loop, conn, send);
}

void
zerocopy_rested(struct berth_loop *loop, struct berth_slot *slot, size_t bytes)
{
    struct conn_zerocopy *conn = known(loop, slot);
    conn->rest_bytes -= bytes < conn->rest_bytes ? (uint32_t)bytes : conn->rest_bytes;
}

int
zerocopy_refused(struct berth_loop *loop, struct berth_slot *slot, int error)
{
    struct conn_zerocopy *conn = known(loop, slot);
    switch (error) {
    case -ENOMEM:
    case -ENOBUFS:
        conn->flags |= ZEROCOPY_REFUSED;
        break;
    case -EOPNOTSUPP:
    case -EINVAL:
        conn->flags |= ZEROCOPY_OFF;
        break;
    default:
        return 0;
    }
    loop->stats.zerocopy_refused++;
    return 1;
}

int
zerocopy_holds(const struct berth_loop *loop, const struct berth_slot *slot)
{
    return slot_kind(slot) == KIND_CONN && slot->in_flight > 0 && known(loop, slot)->sends != NULL;
}
