/*
 * Sequences of leases, and memory that joins them without being the pool's. A chain lives in its
 * user's storage and names its links by number; the links live in one array of the pool that grows
 * page by page. A link owns its lease.
 *
 * The invariant kept here: whatever is released has left every list before, because a release may
 * call back into the program (berth_free_fn), and the program may use the same chain there.
 *
 * SPDX-License-Identifier: MIT
 */
#include "core/pool_internal.h"

#include <sys/uio.h>

#include "os/copy.h"

/* ---- wrapped memory ------------------------------------------------------------------------ */

/** The next entry never used, or 0 when all are in use or there is no memory. */
static uint32_t
wrap_carve(struct berth_pool *pool)
{
    if (pool->wrap_carved == POOL_WRAPS_MAX)
        return 0;
    const uint32_t index = pool->wrap_carved;
    if (index % POOL_SLAB_IDS == 0) {
        const uint32_t number = pool->slabs_max + index / POOL_SLAB_IDS;
        if (berth_pool_commit_records(pool, number) != 0 ||
            berth_memory_commit(pool->wraps + index, POOL_SLAB_IDS * sizeof(*pool->wraps)) != 0)
            return 0;
    }
    pool->wrap_carved++;
    const uint32_t buffer = (pool->slabs_max << POOL_SLAB_ID_BITS) + index;
    pool_slab_of(pool, buffer)->carved++;
    __atomic_store_n(&pool->metas[buffer].generation, pool->generation_first, __ATOMIC_RELAXED);
    return buffer + 1;
}

/** A record for foreign memory, in that state and with so many references. */
static struct buffer_meta *
wrap_take(struct berth_pool *pool, const struct wrapped *what, enum buffer_state state,
          uint32_t references, uint32_t *buffer)
{
    uint32_t link = pool->wrap_free;
    if (link != 0)
        pool->wrap_free = pool->metas[link - 1].next;
    else if ((link = wrap_carve(pool)) == 0) {
        pool->stats.refused++;
        return NULL;
    }
    *buffer = link - 1;
    struct buffer_meta *meta = &pool->metas[*buffer];
    BERTH_ASSERT(meta->stage == STATE_FREE && meta->references == 0);
    *pool_wrapped_of(pool, *buffer) = *what;
    meta->stage = state;
    meta->references = references;
    meta->length = what->length;
    pool_slab_of(pool, *buffer)->outstanding++;
    if (++pool->stats.outstanding > pool->stats.outstanding_max)
        pool->stats.outstanding_max = pool->stats.outstanding;
    return meta;
}

int
berth_wrap(struct berth_pool *pool, void *data, size_t length, berth_free_fn free_fn, void *context,
           struct berth_lease *lease)
{
    if (pool == NULL || data == NULL || lease == NULL || length == 0 || length > UINT32_MAX)
        return -EINVAL;
    BERTH_CHECK(pool_is_owner(pool));
    const struct wrapped what = {
        .data = data, .free_fn = free_fn, .context = context, .length = (uint32_t)length};
    uint32_t buffer;
    const struct buffer_meta *meta = wrap_take(pool, &what, STATE_LEASED, 1, &buffer);
    if (meta == NULL)
        return -ENOBUFS;
    pool_trace(pool, buffer, __builtin_return_address(0));
    *lease = (struct berth_lease){
        .buffer = buffer, .generation = meta->generation, .offset = 0, .length = (uint32_t)length};
    return 0;
}

int
berth_pool_lend_wrapped(struct berth_pool *pool, void *data, size_t length, berth_free_fn free_fn,
                        void *context, struct berth_span *span)
{
    if (pool == NULL || data == NULL || span == NULL || length == 0 || length > UINT32_MAX)
        return -EINVAL;
    BERTH_CHECK(pool_is_owner(pool));
    const struct wrapped what = {
        .data = data, .free_fn = free_fn, .context = context, .length = (uint32_t)length};
    uint32_t buffer;
    if (wrap_take(pool, &what, STATE_BORROWED, 0, &buffer) == NULL)
        return -ENOBUFS;
    pool_trace(pool, buffer, __builtin_return_address(0));
    *span = (struct berth_span){.data = data, .length = (uint32_t)length, .buffer = buffer};
    return 0;
}

int
berth_pool_lend_shorten(struct berth_pool *pool, struct berth_span *span, uint32_t length)
{
    if (pool == NULL || span == NULL || length == 0 || length > span->length)
        return -EINVAL;
    BERTH_CHECK(pool_is_owner(pool));
    if (span->buffer >= pool->ids || !pool_is_wrapped(pool, span->buffer))
        return -EINVAL;
    struct buffer_meta *meta = &pool->metas[span->buffer];
    if (meta_state(meta) != STATE_BORROWED || meta->references > 0 || length > meta->length)
        return -EINVAL;
    meta->length = length;
    pool_wrapped_of(pool, span->buffer)->length = length;
    span->length = length;
    return 0;
}

void
berth_pool_unwrap(struct berth_pool *pool, uint32_t buffer)
{
    struct buffer_meta *meta = &pool->metas[buffer];
    const struct wrapped old = *pool_wrapped_of(pool, buffer);
    BERTH_ASSERT(meta->references == 0 && meta_sends(meta) == 0 && old.data != NULL);
    *pool_wrapped_of(pool, buffer) = (struct wrapped){.data = NULL};
    meta->stage = STATE_FREE;
    meta->next = pool->wrap_free;
    pool->wrap_free = buffer + 1;
    pool_slab_of(pool, buffer)->outstanding--;
    pool->stats.outstanding--;
    if (old.free_fn == NULL)
        return;
    pool->callbacks++;
    old.free_fn(old.data, old.length, old.context);
    pool->callbacks--;
}

/* ---- links --------------------------------------------------------------------------------- */

/** A link to fill in, by index + 1; 0 when there is none. */
static uint32_t
node_take(struct berth_pool *pool)
{
    uint32_t link = pool->node_free;
    if (link != 0) {
        pool->node_free = pool->nodes[link - 1].next;
    } else {
        const uint32_t index = pool->nodes_carved;
        if (index == POOL_NODES_MAX)
            return 0;
        if (index % POOL_NODES_PER_COMMIT == 0 &&
            berth_memory_commit(pool->nodes + index,
                                POOL_NODES_PER_COMMIT * sizeof(*pool->nodes)) != 0)
            return 0;
        pool->nodes_carved++;
        link = index + 1;
    }
    pool->nodes_used++;
    return link;
}

static void
node_give(struct berth_pool *pool, uint32_t link)
{
    BERTH_ASSERT(link != 0 && link <= pool->nodes_carved && pool->nodes_used > 0);
    pool->nodes[link - 1] = (struct chain_node){.next = pool->node_free};
    pool->node_free = link;
    pool->nodes_used--;
}

/** Takes the first link out of a chain that has one, and returns its lease. */
static struct berth_lease
chain_shift(struct berth_pool *pool, struct berth_chain *chain)
{
    const uint32_t link = chain->head;
    BERTH_ASSERT(link != 0 && chain->count > 0);
    const struct berth_lease lease = pool->nodes[link - 1].lease;
    chain->head = pool->nodes[link - 1].next;
    if (chain->head == 0)
        chain->tail = 0;
    chain->count--;
    chain->bytes -= lease.length;
    node_give(pool, link);
    return lease;
}

/** A chain that could have been made by these functions; a random one must not be followed. */
static int
chain_is_sane(const struct berth_pool *pool, const struct berth_chain *chain)
{
    return (chain->count == 0) == (chain->head == 0) && (chain->head == 0) == (chain->tail == 0) &&
           chain->head <= pool->nodes_carved && chain->tail <= pool->nodes_carved;
}

/* ---- chains -------------------------------------------------------------------------------- */

int
berth_chain_append(struct berth_pool *pool, struct berth_chain *chain, struct berth_lease lease)
{
    if (pool == NULL || chain == NULL || !chain_is_sane(pool, chain))
        return -EINVAL;
    BERTH_CHECK(pool_is_owner(pool));
    if (berth_lease_data(pool, lease) == NULL)
        return berth_pool_illegal(pool);
    const uint32_t link = node_take(pool);
    if (link == 0)
        return -ENOBUFS;
    pool->nodes[link - 1] = (struct chain_node){.lease = lease, .next = 0};
    if (chain->tail != 0)
        pool->nodes[chain->tail - 1].next = link;
    else
        chain->head = link;
    chain->tail = link;
    chain->count++;
    chain->bytes += lease.length;
    return 0;
}

int
berth_chain_pop(struct berth_pool *pool, struct berth_chain *chain, struct berth_lease *lease)
{
    if (pool == NULL || chain == NULL || lease == NULL || !chain_is_sane(pool, chain))
        return -EINVAL;
    if (chain->count == 0)
        return -ENOENT;
    *lease = chain_shift(pool, chain);
    return 0;
}

int
berth_chain_consume(struct berth_pool *pool, struct berth_chain *chain, size_t bytes)
{
    if (pool == NULL || chain == NULL || !chain_is_sane(pool, chain) || bytes > chain->bytes)
        return -EINVAL;
    while (chain->head != 0 && pool->nodes[chain->head - 1].lease.length <= bytes) {
        const struct berth_lease used = chain_shift(pool, chain);
        bytes -= used.length;
        (void)berth_release(pool, used);
    }
    if (bytes > 0 && chain->head != 0) {
        struct berth_lease *first = &pool->nodes[chain->head - 1].lease;
        first->offset += (uint32_t)bytes;
        first->length -= (uint32_t)bytes;
        chain->bytes -= bytes;
    }
    return 0;
}

unsigned
berth_chain_iovec(const struct berth_pool *pool, const struct berth_chain *chain, struct iovec *iov,
                  unsigned count)
{
    if (pool == NULL || chain == NULL || iov == NULL || !chain_is_sane(pool, chain))
        return 0;
    unsigned n = 0;
    for (uint32_t link = chain->head; link != 0 && n < count; link = pool->nodes[link - 1].next) {
        const struct berth_lease lease = pool->nodes[link - 1].lease;
        void *data = berth_lease_data(pool, lease);
        if (BERTH_UNLIKELY(data == NULL)) /* released behind the chain's back: stop before it */
            break;
        iov[n++] = (struct iovec){.iov_base = data, .iov_len = lease.length};
    }
    return n;
}

/** How many bytes at the front of the chain lie one behind the other in memory, up to `bytes`. */
static size_t
contiguous_bytes(const struct berth_pool *pool, const struct berth_chain *chain, size_t bytes)
{
    size_t found = 0;
    const unsigned char *expected = NULL;
    for (uint32_t link = chain->head; link != 0 && found < bytes;
         link = pool->nodes[link - 1].next) {
        const struct berth_lease lease = pool->nodes[link - 1].lease;
        const unsigned char *data = berth_lease_data(pool, lease);
        if (data == NULL || (expected != NULL && data != expected))
            break;
        found += lease.length;
        expected = data + lease.length;
    }
    return found;
}

/** Copies the first `bytes` of the chain out. Returns 0, or -ESTALE if a lease is not held. */
static int
chain_copy_out(struct berth_pool *pool, const struct berth_chain *chain, unsigned char *to,
               size_t bytes)
{
    for (uint32_t link = chain->head; bytes > 0; link = pool->nodes[link - 1].next) {
        BERTH_ASSERT(link != 0);
        const struct berth_lease lease = pool->nodes[link - 1].lease;
        const void *data = berth_lease_data(pool, lease);
        if (data == NULL)
            return -ESTALE;
        const size_t part = lease.length < bytes ? lease.length : bytes;
        berth_copy(&pool->copies.received_pullup, to, data, part);
        to += part;
        bytes -= part;
    }
    return 0;
}

/** Puts a lease in front of everything; the link was taken before. */
static void
chain_unshift(struct berth_pool *pool, struct berth_chain *chain, uint32_t link,
              struct berth_lease lease)
{
    pool->nodes[link - 1] = (struct chain_node){.lease = lease, .next = chain->head};
    chain->head = link;
    if (chain->tail == 0)
        chain->tail = link;
    chain->count++;
    chain->bytes += lease.length;
}

void *
berth_chain_pullup(struct berth_pool *pool, struct berth_chain *chain, size_t bytes)
{
    if (pool == NULL || chain == NULL || !chain_is_sane(pool, chain) || bytes == 0 ||
        bytes > chain->bytes)
        return NULL;
    BERTH_CHECK(pool_is_owner(pool));
    if (contiguous_bytes(pool, chain, bytes) >= bytes)
        return berth_lease_data(pool, pool->nodes[chain->head - 1].lease);
    const int size_class = berth_class_for(bytes);
    struct berth_lease whole;
    if (size_class < 0 ||
        berth_pool_get(pool, (enum berth_class)size_class, BERTH_FOR_ACTIVE, &whole) != 0)
        return NULL;
    whole.length = (uint32_t)bytes;
    unsigned char *data = berth_lease_data(pool, whole);
    const uint32_t link = node_take(pool);
    if (link == 0 || chain_copy_out(pool, chain, data, bytes) != 0) {
        if (link != 0)
            node_give(pool, link);
        (void)berth_release(pool, whole);
        return NULL;
    }
    (void)berth_chain_consume(pool, chain, bytes);
    chain_unshift(pool, chain, link, whole);
    return data;
}

void
berth_chain_clear(struct berth_pool *pool, struct berth_chain *chain)
{
    if (pool == NULL || chain == NULL || !chain_is_sane(pool, chain))
        return;
    for (uint32_t left = chain->count; left > 0 && chain->count > 0; left--)
        (void)berth_release(pool, chain_shift(pool, chain));
}
