/*
 * The model's chain: the same leases in the same order as the pool's, and the operations on both.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/model.h"

#include <sys/uio.h>

void
op_append(void)
{
    if (m.lease_count == 0 || m.chain.count == 32)
        return;
    const unsigned index = random_below(m.lease_count);
    if (m.leases[index].sending || m.leases[index].lease.length > LEASE_BYTES_MAX)
        return;
    ck_assert_int_eq(berth_chain_append(m.pool, &m.chain, m.leases[index].lease), 0);
    m.links[m.chain.count - 1] = m.leases[index];
    lease_drop(index);
}

static struct held
link_shift(unsigned count)
{
    const struct held first = m.links[0];
    memmove(m.links, m.links + 1, (count - 1) * sizeof(m.links[0]));
    return first;
}

void
op_pop(void)
{
    const unsigned count = m.chain.count;
    struct berth_lease lease;
    const int error = berth_chain_pop(m.pool, &m.chain, &lease);
    ck_assert_int_eq(error, count > 0 ? 0 : -ENOENT);
    if (error != 0)
        return;
    const struct held first = link_shift(count);
    ck_assert_mem_eq(&first.lease, &lease, sizeof(lease));
    ck_assert_uint_lt(m.lease_count, LEASES_MAX);
    m.leases[m.lease_count++] = first;
}

static void
model_consume(size_t bytes, unsigned count)
{
    while (count > 0 && m.links[0].lease.length <= bytes) {
        const struct held first = link_shift(count--);
        bytes -= first.lease.length;
        record_unref(first.record, first.lease);
    }
    if (bytes > 0) {
        m.links[0].lease.offset += (uint32_t)bytes;
        m.links[0].lease.length -= (uint32_t)bytes;
    }
}

void
op_consume(void)
{
    const size_t bytes = random_below((uint32_t)m.chain.bytes + 2);
    const unsigned count = m.chain.count;
    const int fits = bytes <= m.chain.bytes;
    if (fits)
        model_consume(bytes, count);
    ck_assert_int_eq(berth_chain_consume(m.pool, &m.chain, bytes), fits ? 0 : -EINVAL);
}

void
op_pullup(void)
{
    if (m.chain.count == 0 || !room())
        return;
    const size_t bytes = 1 + random_below((uint32_t)m.chain.bytes);
    unsigned char expected[32 * LEASE_BYTES_MAX] = {0};
    size_t at = 0;
    for (unsigned i = 0; i < m.chain.count; i++)
        for (uint32_t j = 0; j < m.links[i].lease.length; j++)
            expected[at++] =
                byte_of(m.links[i].record->seed, m.links[i].origin + m.links[i].lease.offset + j);
    ck_assert_uint_eq(at, m.chain.bytes);
    const uint64_t copied = berth_pool_copies(m.pool)->received_pullup;
    const unsigned count = m.chain.count;
    const unsigned char *data = berth_chain_pullup(m.pool, &m.chain, bytes);
    ck_assert_uint_eq(m.chain.bytes, at);
    if (data == NULL) {
        const enum berth_class size_class = (enum berth_class)berth_class_for(bytes);
        ck_assert_uint_eq(berth_pool_available(m.pool, size_class, BERTH_FOR_ACTIVE), 0);
        return;
    }
    ck_assert_mem_eq(data, expected, bytes);
    if (berth_pool_copies(m.pool)->received_pullup == copied)
        return;
    /* A new buffer stands in front. It is taken out again: its bytes come from several seeds. */
    ck_assert_uint_eq(berth_pool_copies(m.pool)->received_pullup, copied + bytes);
    model_consume(bytes, count);
    struct berth_lease lease;
    ck_assert_int_eq(berth_chain_pop(m.pool, &m.chain, &lease), 0);
    ck_assert_uint_eq(lease.length, bytes);
    ck_assert_int_eq(berth_release(m.pool, lease), 0);
}

void
op_iovec(void)
{
    struct iovec iov[32];
    const unsigned most = random_below(33);
    const unsigned n = berth_chain_iovec(m.pool, &m.chain, iov, most);
    ck_assert_uint_eq(n, most < m.chain.count ? most : m.chain.count);
    for (unsigned i = 0; i < n; i++) {
        ck_assert_ptr_eq(iov[i].iov_base, berth_lease_data(m.pool, m.links[i].lease));
        ck_assert_uint_eq(iov[i].iov_len, m.links[i].lease.length);
        lease_check(&m.links[i]);
    }
}

void
chain_empty(void)
{
    for (unsigned count = m.chain.count; count > 0; count--) {
        const struct held first = link_shift(count);
        record_unref(first.record, first.lease);
    }
    berth_chain_clear(m.pool, &m.chain);
    ck_assert_uint_eq(m.chain.bytes + m.chain.count + m.chain.head + m.chain.tail, 0);
}

void
op_clear(void)
{
    if (random_below(20) == 0)
        chain_empty();
}
