/*
 * See ways.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/ways.h"

/** Bytes after which the pattern comes again: a prime, so that no buffer's size divides it. */
#define PERIOD 65521

#define WRAPPED_ALIVE UINT32_C(0x77726170)

struct ways_count ways_wrapped;

/** As ck_assert, which makes a system call even when it holds: these are asked for each piece. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s", #condition);                                                        \
    } while (0)

/** The pattern, long enough that any piece stands in it without a break. */
static unsigned char pattern[PERIOD + WAYS_BYTES_MAX];

const void *
ways_bytes(uint32_t key, uint64_t position, size_t length)
{
    static int filled;
    MUST(length <= WAYS_BYTES_MAX);
    if (!filled) {
        uint64_t random = 1;
        for (size_t i = 0; i < sizeof(pattern); i++)
            pattern[i] = i < PERIOD ? (unsigned char)test_random(&random) : pattern[i - PERIOD];
        filled = 1;
    }
    return pattern + (position + key * UINT64_C(7919)) % PERIOD;
}

void
ways_fill(void *data, size_t length, uint32_t key, uint64_t position)
{
    unsigned char *bytes = data;
    while (length > 0) {
        const size_t part = length < WAYS_BYTES_MAX ? length : WAYS_BYTES_MAX;
        memcpy(bytes, ways_bytes(key, position, part), part);
        bytes += part;
        position += part;
        length -= part;
    }
}

int
ways_same(const void *data, size_t length, uint32_t key, uint64_t position)
{
    const unsigned char *bytes = data;
    while (length > 0) {
        const size_t part = length < WAYS_BYTES_MAX ? length : WAYS_BYTES_MAX;
        if (memcmp(bytes, ways_bytes(key, position, part), part) != 0)
            return 0;
        bytes += part;
        position += part;
        length -= part;
    }
    return 1;
}

size_t
ways_length(uint64_t *random, size_t max)
{
    const unsigned bits = (unsigned)(test_random(random) % 18);
    const size_t length = 1 + test_random(random) % (UINT64_C(1) << bits);
    return length < max ? length : max;
}

/* ---- foreign memory ------------------------------------------------------------------------- */

/** Stands before the bytes that were wrapped. */
struct wrapped {
    uint32_t alive;
    uint32_t unused;
    size_t length;
};

static void
free_wrapped(void *data, size_t length, void *context)
{
    struct wrapped *wrapped = context;
    MUST(data == wrapped + 1);
    MUST(wrapped->alive == WRAPPED_ALIVE);
    MUST(wrapped->length == length);
    wrapped->alive = 0;
    ways_wrapped.freed++;
    free(wrapped);
}

int
ways_wrap(struct berth_pool *pool, uint32_t key, uint64_t position, size_t length,
          struct berth_lease *lease)
{
    struct wrapped *wrapped = malloc(sizeof(*wrapped) + length);
    MUST(wrapped != NULL);
    wrapped->alive = WRAPPED_ALIVE;
    wrapped->length = length;
    ways_fill(wrapped + 1, length, key, position);
    const int error = berth_wrap(pool, wrapped + 1, length, free_wrapped, wrapped, lease);
    if (error)
        free(wrapped);
    else
        ways_wrapped.made++;
    return error;
}

/* ---- sending -------------------------------------------------------------------------------- */

/** A buffer with bytes of the stream in it: all of them, or what the biggest one holds. */
static int
lease_filled(struct berth_pool *pool, uint32_t key, uint64_t position, size_t length,
             struct berth_lease *lease)
{
    const size_t max = berth_class_bytes(BERTH_CLASS_64K);
    const size_t part = length < max ? length : max;
    const int size_class = berth_class_for(part);
    const int error = berth_pool_get(pool, (enum berth_class)size_class, BERTH_FOR_ACTIVE, lease);
    if (error)
        return error;
    lease->length = (uint32_t)part;
    ways_fill(berth_lease_data(pool, *lease), part, key, position);
    return 0;
}

static int
send_lease(struct berth_conn *conn, struct berth_pool *pool, struct berth_lease lease)
{
    const int error = berth_send_lease(conn, lease);
    if (error) {
        MUST(berth_lease_data(pool, lease) != NULL); /* it is still ours */
        MUST(berth_release(pool, lease) == 0);
    }
    return error;
}

/** One link of a chain: foreign memory, a buffer, or a slice of a buffer that has more in it. */
static int
make_link(struct berth_pool *pool, uint32_t key, uint64_t position, size_t length, uint64_t *random,
          struct berth_lease *lease)
{
    const unsigned kind = (unsigned)(test_random(random) % 3);
    if (kind == 0)
        return ways_wrap(pool, key, position, length, lease);
    if (kind == 1 || length < 2)
        return lease_filled(pool, key, position, length, lease);
    struct berth_lease whole;
    const int error = lease_filled(pool, key, position, length, &whole);
    if (error)
        return error;
    const uint32_t part = 1 + (uint32_t)(test_random(random) % whole.length);
    MUST(berth_slice(pool, whole, 0, part, lease) == 0);
    return berth_release(pool, whole);
}

static int
send_chain(struct berth_conn *conn, struct berth_pool *pool, uint32_t key, uint64_t position,
           size_t length, uint64_t *random)
{
    struct berth_chain chain;
    int error = 0;
    memset(&chain, 0, sizeof(chain));
    while (error == 0 && chain.bytes < length) {
        const size_t left = length - chain.bytes;
        /* The last links are long, so that there are not thousands of them. */
        const size_t part = chain.count < 40 ? ways_length(random, left) : left;
        struct berth_lease lease;
        error = make_link(pool, key, position + chain.bytes, part, random, &lease);
        if (error == 0)
            MUST(berth_chain_append(pool, &chain, lease) == 0);
    }
    if (error == 0) {
        error = berth_send_chain(conn, &chain);
        MUST(chain.bytes == (error ? length : 0));
    }
    berth_chain_clear(pool, &chain);
    return error;
}

static int
send_in_way(struct berth_conn *conn, enum way way, uint32_t key, uint64_t position, size_t length,
            uint64_t *random)
{
    struct berth_pool *pool = berth_loop_pool(berth_conn_loop(conn));
    struct berth_lease lease;
    int error;
    if (way == WAY_LEASE && length > berth_class_bytes(BERTH_CLASS_64K))
        way = WAY_WRAPPED;
    switch (way) {
    case WAY_LEASE:
        error = lease_filled(pool, key, position, length, &lease);
        return error ? error : send_lease(conn, pool, lease);
    case WAY_WRAPPED:
        error = ways_wrap(pool, key, position, length, &lease);
        return error ? error : send_lease(conn, pool, lease);
    case WAY_CHAIN:
        return send_chain(conn, pool, key, position, length, random);
    case WAY_COPY:
    default:
        return berth_send(conn, ways_bytes(key, position, length), length);
    }
}

int
ways_send(struct berth_conn *conn, enum way way, uint32_t key, uint64_t position, size_t length,
          uint64_t *random)
{
    const size_t before = berth_conn_queued(conn);
    const int error = send_in_way(conn, way, key, position, length, random);
    MUST(berth_conn_queued(conn) == (error ? before : before + length));
    return error;
}

int
ways_send_span(struct berth_conn *conn, const struct berth_span *span, uint32_t offset,
               uint32_t length, uint32_t key, uint64_t position)
{
    const size_t before = berth_conn_queued(conn);
    struct berth_span part = *span;
    MUST(offset + length <= span->length);
    part.data = (unsigned char *)span->data + offset;
    part.length = length;
    ways_fill(part.data, length, key, position);
    const int error = berth_send_span(conn, &part);
    MUST(berth_conn_queued(conn) == (error ? before : before + length));
    return error;
}

/* ---- the end -------------------------------------------------------------------------------- */

static void
count_held(const struct berth_holding *holding, void *context)
{
    *(unsigned *)context += strcmp(holding->state, "posted") != 0;
}

unsigned
ways_held(struct rig *rig)
{
    unsigned held = 0;
    (void)berth_pool_report(berth_loop_pool(rig->loop), count_held, &held);
    return held;
}

void
ways_end(struct rig *rig)
{
    RIG_UNTIL(rig, berth_loop_conns(rig->loop) == 0, 1000);
    ck_assert_uint_eq(ways_held(rig), 0);
    ck_assert_uint_eq(ways_wrapped.freed, ways_wrapped.made);
    /* The listener, and the descriptor that wakes the loop. */
    ck_assert_uint_eq(berth_table_live_count(berth_loop_table(rig->loop)), 2);
    rig_end(rig);
}
