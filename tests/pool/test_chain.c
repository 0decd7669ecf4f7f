/*
 * Chains of leases, and memory that is not the pool's.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/pool_test.h"

#include <sys/uio.h>

/** A lease of a 512-byte buffer that holds the text. */
static struct berth_lease
lease_of_text(struct berth_pool *pool, const char *text)
{
    struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_512);
    lease.length = (uint32_t)strlen(text);
    memcpy(berth_lease_data(pool, lease), text, lease.length);
    return lease;
}

static void
append_text(struct berth_pool *pool, struct berth_chain *chain, const char *text)
{
    ck_assert_int_eq(berth_chain_append(pool, chain, lease_of_text(pool, text)), 0);
}

/** What the chain holds is what the text says. */
static void
check_text(struct berth_pool *pool, const struct berth_chain *chain, const char *text)
{
    struct iovec iov[32];
    const unsigned n = berth_chain_iovec(pool, chain, iov, 32);
    size_t at = 0;
    ck_assert_uint_eq(n, chain->count);
    ck_assert_uint_eq(chain->bytes, strlen(text));
    for (unsigned i = 0; i < n; i++) {
        ck_assert_mem_eq(iov[i].iov_base, text + at, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    ck_assert_uint_eq(at, strlen(text));
}

START_TEST(append_pop_consume)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_chain chain = {0};
    struct berth_lease lease;
    check_text(pool, &chain, "");
    ck_assert_int_eq(berth_chain_pop(pool, &chain, &lease), -ENOENT);
    append_text(pool, &chain, "abc");
    append_text(pool, &chain, "defg");
    append_text(pool, &chain, "h");
    check_text(pool, &chain, "abcdefgh");
    ck_assert_int_eq(berth_chain_consume(pool, &chain, 0), 0);
    check_text(pool, &chain, "abcdefgh");
    ck_assert_int_eq(berth_chain_consume(pool, &chain, 1), 0);
    check_text(pool, &chain, "bcdefgh");
    ck_assert_int_eq(berth_chain_consume(pool, &chain, 4), 0);
    check_text(pool, &chain, "fgh");
    ck_assert_uint_eq(chain.count, 2);
    ck_assert_int_eq(berth_chain_consume(pool, &chain, 4), -EINVAL);
    ck_assert_int_eq(berth_chain_pop(pool, &chain, &lease), 0);
    ck_assert_uint_eq(lease.length, 2);
    ck_assert_mem_eq(berth_lease_data(pool, lease), "fg", 2);
    check_text(pool, &chain, "h");
    ck_assert_int_eq(berth_chain_consume(pool, &chain, 1), 0);
    ck_assert_uint_eq(chain.count, 0);
    ck_assert_uint_eq(chain.head | chain.tail, 0);
    append_text(pool, &chain, "again");
    check_text(pool, &chain, "again");
    berth_chain_clear(pool, &chain);
    berth_chain_clear(pool, &chain);
    check_text(pool, &chain, "");
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(empty_leases_do_no_harm)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_chain chain = {0};
    append_text(pool, &chain, "");
    append_text(pool, &chain, "ab");
    append_text(pool, &chain, "");
    ck_assert_uint_eq(chain.bytes, 2);
    ck_assert_mem_eq(berth_chain_pullup(pool, &chain, 2), "ab", 2);
    ck_assert_int_eq(berth_chain_consume(pool, &chain, 2), 0);
    ck_assert_uint_eq(chain.count, 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(iovec_is_bounded)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_chain chain = {0};
    for (int i = 0; i < 5; i++)
        append_text(pool, &chain, "x");
    struct iovec iov[3] = {{NULL, 99}, {NULL, 99}, {NULL, 99}};
    ck_assert_uint_eq(berth_chain_iovec(pool, &chain, iov, 0), 0);
    ck_assert_uint_eq(iov[0].iov_len, 99);
    ck_assert_uint_eq(berth_chain_iovec(pool, &chain, iov, 2), 2);
    ck_assert_uint_eq(iov[1].iov_len, 1);
    ck_assert_uint_eq(iov[2].iov_len, 99);
    berth_chain_clear(pool, &chain);
    test_pool_end(pool);
}
END_TEST

START_TEST(pullup_copies_only_what_is_apart)
{
    struct berth_pool *pool = test_pool_make(16 * MIB);
    const struct berth_copies *copies = berth_pool_copies(pool);
    struct berth_chain chain = {0};
    append_text(pool, &chain, "GET /");
    append_text(pool, &chain, "index");
    append_text(pool, &chain, ".html");

    void *first = berth_chain_pullup(pool, &chain, 5);
    ck_assert_mem_eq(first, "GET /", 5);
    ck_assert_uint_eq(copies->received_pullup, 0);

    void *moved = berth_chain_pullup(pool, &chain, 7);
    ck_assert_ptr_ne(moved, first);
    ck_assert_mem_eq(moved, "GET /in", 7);
    ck_assert_uint_eq(copies->received_pullup, 7);
    check_text(pool, &chain, "GET /index.html");
    ck_assert_ptr_eq(berth_chain_pullup(pool, &chain, 7), moved);
    ck_assert_uint_eq(copies->received_pullup, 7);

    ck_assert_mem_eq(berth_chain_pullup(pool, &chain, 15), "GET /index.html", 15);
    ck_assert_uint_eq(chain.count, 1);
    ck_assert_ptr_null(berth_chain_pullup(pool, &chain, 16));
    ck_assert_ptr_null(berth_chain_pullup(pool, &chain, 0));
    berth_chain_clear(pool, &chain);
    test_pool_end(pool);
}
END_TEST

START_TEST(neighbours_in_memory_need_no_copy)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_chain chain = {0};
    struct berth_lease whole = test_pool_get(pool, BERTH_CLASS_512);
    struct berth_lease next = test_pool_get(pool, BERTH_CLASS_512);
    memset(berth_lease_data(pool, whole), 'a', 512);
    memset(berth_lease_data(pool, next), 'b', 512);
    ck_assert_int_eq(berth_chain_append(pool, &chain, whole), 0);
    ck_assert_int_eq(berth_chain_append(pool, &chain, next), 0);
    char *both = berth_chain_pullup(pool, &chain, 1024);
    ck_assert_ptr_eq(both, berth_lease_data(pool, whole));
    ck_assert_int_eq(both[511], 'a');
    ck_assert_int_eq(both[512], 'b');
    ck_assert_uint_eq(chain.count, 2);
    ck_assert_uint_eq(berth_pool_copies(pool)->received_pullup, 0);
    berth_chain_clear(pool, &chain);
    test_pool_end(pool);
}
END_TEST

START_TEST(pullup_without_a_buffer_changes_nothing)
{
    struct berth_pool *pool = test_pool_make(SLAB_BYTES); /* for 512 only */
    struct berth_chain chain = {0};
    for (int i = 0; i < 3; i++) {
        struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_512);
        struct berth_lease gap = test_pool_get(pool, BERTH_CLASS_512);
        memset(berth_lease_data(pool, lease), 'a' + i, 512);
        ck_assert_int_eq(berth_chain_append(pool, &chain, lease), 0);
        ck_assert_int_eq(berth_release(pool, gap), 0);
        gap = test_pool_get(pool, BERTH_CLASS_512);
        ck_assert_int_eq(berth_chain_append(pool, &chain, gap), 0);
        ck_assert_int_eq(berth_chain_pop(pool, &chain, &lease), 0);
        ck_assert_int_eq(berth_chain_append(pool, &chain, lease), 0);
    }
    const struct berth_chain before = chain;
    ck_assert_ptr_null(berth_chain_pullup(pool, &chain, 1500)); /* no slab left for 4 KiB */
    ck_assert_mem_eq(&before, &chain, sizeof(chain));
    ck_assert_uint_eq(berth_pool_copies(pool)->received_pullup, 0);
    berth_chain_clear(pool, &chain);
    test_pool_end(pool);
}
END_TEST

START_TEST(pullup_above_the_largest_class)
{
    struct berth_pool *pool = test_pool_make(16 * MIB);
    struct berth_chain chain = {0};
    const struct berth_lease shared = test_pool_get(pool, BERTH_CLASS_2M);
    ck_assert_int_eq(berth_chain_append(pool, &chain, shared), 0);
    ck_assert_int_eq(berth_lease_share(pool, shared), 0);
    ck_assert_int_eq(berth_chain_append(pool, &chain, shared), 0);
    ck_assert_ptr_null(berth_chain_pullup(pool, &chain, SLAB_BYTES + 1));
    ck_assert_ptr_nonnull(berth_chain_pullup(pool, &chain, SLAB_BYTES));
    berth_chain_clear(pool, &chain);
    test_pool_end(pool);
}
END_TEST

START_TEST(bad_arguments)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_chain chain = {0};
    struct berth_chain broken = {.bytes = 10, .count = 1, .head = 1000000, .tail = 1000000};
    struct berth_lease lease = lease_of_text(pool, "abc");
    const struct berth_lease none = {0};
    struct iovec iov[1];
    ck_assert_int_eq(berth_chain_append(NULL, &chain, lease), -EINVAL);
    ck_assert_int_eq(berth_chain_append(pool, NULL, lease), -EINVAL);
    ck_assert_int_eq(berth_chain_append(pool, &broken, lease), -EINVAL);
    TEST_ILLEGAL(pool, berth_chain_append(pool, &chain, none));
    ck_assert_int_eq(berth_chain_pop(NULL, &chain, &lease), -EINVAL);
    ck_assert_int_eq(berth_chain_pop(pool, NULL, &lease), -EINVAL);
    ck_assert_int_eq(berth_chain_pop(pool, &chain, NULL), -EINVAL);
    ck_assert_int_eq(berth_chain_pop(pool, &broken, &lease), -EINVAL);
    ck_assert_int_eq(berth_chain_consume(NULL, &chain, 0), -EINVAL);
    ck_assert_int_eq(berth_chain_consume(pool, NULL, 0), -EINVAL);
    ck_assert_int_eq(berth_chain_consume(pool, &broken, 1), -EINVAL);
    ck_assert_uint_eq(berth_chain_iovec(NULL, &chain, iov, 1), 0);
    ck_assert_uint_eq(berth_chain_iovec(pool, NULL, iov, 1), 0);
    ck_assert_uint_eq(berth_chain_iovec(pool, &chain, NULL, 1), 0);
    ck_assert_uint_eq(berth_chain_iovec(pool, &broken, iov, 1), 0);
    ck_assert_ptr_null(berth_chain_pullup(NULL, &chain, 1));
    ck_assert_ptr_null(berth_chain_pullup(pool, NULL, 1));
    ck_assert_ptr_null(berth_chain_pullup(pool, &broken, 1));
    berth_chain_clear(NULL, &chain);
    berth_chain_clear(pool, NULL);
    berth_chain_clear(pool, &broken);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

/** Released behind the chain's back: nothing is read from it, and nothing is lost. */
START_TEST(stale_lease_in_a_chain)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_chain chain = {0};
    append_text(pool, &chain, "good");
    struct berth_lease bad = lease_of_text(pool, "bad");
    ck_assert_int_eq(berth_chain_append(pool, &chain, bad), 0);
    ck_assert_int_eq(berth_release(pool, bad), 0);
    struct iovec iov[4];
    ck_assert_uint_eq(berth_chain_iovec(pool, &chain, iov, 4), 1);
    ck_assert_ptr_null(berth_chain_pullup(pool, &chain, 6));
    ck_assert_uint_eq(chain.bytes, 7);
    ck_assert_ptr_nonnull(berth_chain_pullup(pool, &chain, 4));
    ck_assert_int_eq(berth_chain_consume(pool, &chain, 4), 0);
    ck_assert_int_eq(berth_chain_pop(pool, &chain, &bad), 0);
    ck_assert_ptr_null(berth_lease_data(pool, bad));
    test_pool_end(pool);
}
END_TEST

START_TEST(links_are_limited_and_come_back)
{
    enum { LINKS = 1 << 18 };
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_chain chain = {0};
    const struct berth_lease lease = lease_of_text(pool, "x");
    for (int i = 0; i < LINKS; i++) {
        if (berth_lease_share(pool, lease) != 0 || berth_chain_append(pool, &chain, lease) != 0)
            ck_abort_msg("refused at %d", i);
    }
    ck_assert_int_eq(berth_chain_append(pool, &chain, lease), -ENOBUFS);
    ck_assert_ptr_null(berth_chain_pullup(pool, &chain, 2)); /* it would need a link */
    ck_assert_uint_eq(chain.bytes, LINKS);
    ck_assert_int_eq(berth_chain_consume(pool, &chain, 1), 0);
    ck_assert_int_eq(berth_chain_append(pool, &chain, lease), 0); /* the lease is the chain's now */
    berth_chain_clear(pool, &chain);
    test_pool_end(pool);
}
END_TEST

/* ---- wrapped memory ------------------------------------------------------------------------ */

struct freed {
    struct berth_pool *pool;
    unsigned times;
    void *data;
    size_t length;
    struct berth_chain *chain;
};

static void
note_free(void *data, size_t length, void *context)
{
    struct freed *freed = context;
    freed->times++;
    freed->data = data;
    freed->length = length;
}

START_TEST(wrapped_memory_is_a_lease_like_any_other)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct freed freed = {0};
    char text[] = "static text";
    struct berth_lease lease, slice;
    ck_assert_int_eq(berth_wrap(pool, text, 11, note_free, &freed, &lease), 0);
    ck_assert_ptr_eq(berth_lease_data(pool, lease), text);
    ck_assert_int_eq(berth_slice(pool, lease, 7, 4, &slice), 0);
    ck_assert_ptr_eq(berth_lease_data(pool, slice), text + 7);
    ck_assert_int_eq(berth_lease_send_begin(pool, slice), 0);
    ck_assert_int_eq(berth_lease_send_end(pool, slice), 0);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, 1);
    ck_assert_uint_eq(test_pool_stats(pool).slabs, 0);
    ck_assert_int_eq(berth_pool_destroy(pool), -EBUSY);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    ck_assert_uint_eq(freed.times, 0);
    ck_assert_int_eq(berth_release(pool, slice), 0);
    ck_assert_uint_eq(freed.times, 1);
    ck_assert_ptr_eq(freed.data, text);
    ck_assert_uint_eq(freed.length, 11);
    ck_assert_ptr_null(berth_lease_data(pool, lease));
    TEST_ILLEGAL(pool, berth_release(pool, lease));
    ck_assert_uint_eq(freed.times, 1);
    struct berth_lease beyond = lease;
    ck_assert_int_eq(berth_wrap(pool, text, 3, NULL, NULL, &beyond), 0);
    beyond.length = 4;
    ck_assert_ptr_null(berth_lease_data(pool, beyond));
    ck_assert_int_eq(berth_release(pool, beyond), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(wrap_refuses_bad_arguments)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    char text[] = "x";
    struct berth_lease lease;
    ck_assert_int_eq(berth_wrap(NULL, text, 1, NULL, NULL, &lease), -EINVAL);
    ck_assert_int_eq(berth_wrap(pool, NULL, 1, NULL, NULL, &lease), -EINVAL);
    ck_assert_int_eq(berth_wrap(pool, text, 0, NULL, NULL, &lease), -EINVAL);
    ck_assert_int_eq(berth_wrap(pool, text, (size_t)UINT32_MAX + 1, NULL, NULL, &lease), -EINVAL);
    ck_assert_int_eq(berth_wrap(pool, text, 1, NULL, NULL, NULL), -EINVAL);
    test_pool_end(pool);
}
END_TEST

START_TEST(wraps_are_limited_and_come_back)
{
    enum { WRAPS = 65536 };
    static struct berth_lease leases[WRAPS];
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct freed freed = {0};
    char text[] = "x";
    for (int i = 0; i < WRAPS; i++)
        if (berth_wrap(pool, text, 1, note_free, &freed, &leases[i]) != 0)
            ck_abort_msg("refused at %d", i);
    struct berth_lease lease;
    ck_assert_int_eq(berth_wrap(pool, text, 1, NULL, NULL, &lease), -ENOBUFS);
    test_pool_verify(pool);
    ck_assert_int_eq(berth_release(pool, leases[777]), 0);
    ck_assert_int_eq(berth_wrap(pool, text, 1, note_free, &freed, &lease), 0);
    ck_assert_uint_eq(lease.buffer, leases[777].buffer);
    leases[777] = lease;
    for (int i = 0; i < WRAPS; i++)
        ck_assert_int_eq(berth_release(pool, leases[i]), 0);
    ck_assert_uint_eq(freed.times, WRAPS + 1);
    test_pool_end(pool);
}
END_TEST

/** A callback that does what it may: everything but turn and destroy, which refuse. */
static void
free_and_use_the_pool(void *data, size_t length, void *context)
{
    struct freed *freed = context;
    note_free(data, length, context);
    ck_assert_uint_eq(berth_pool_turn(freed->pool), 0);
    ck_assert_int_eq(berth_pool_destroy(freed->pool), -EBUSY);
    test_pool_verify(freed->pool);
    ck_assert_int_eq(
        berth_chain_append(freed->pool, freed->chain, test_pool_get(freed->pool, BERTH_CLASS_512)),
        0);
    (void)berth_pool_trim(freed->pool);
}

START_TEST(free_callback_may_use_the_pool_and_the_chain)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_chain chain = {0};
    struct freed freed = {.pool = pool, .chain = &chain};
    char text[] = "text";
    struct berth_lease lease;
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(berth_wrap(pool, text, 4, free_and_use_the_pool, &freed, &lease), 0);
        ck_assert_int_eq(berth_chain_append(pool, &chain, lease), 0);
    }
    ck_assert_int_eq(berth_chain_consume(pool, &chain, 8), 0);
    ck_assert_uint_eq(freed.times, 2);
    ck_assert_uint_eq(chain.count, 3); /* one of three, and two that the callback added */
    ck_assert_uint_eq(chain.bytes, 4 + 2 * 512);
    berth_chain_clear(pool, &chain);
    ck_assert_uint_eq(freed.times, 3);
    ck_assert_uint_eq(chain.count, 1); /* added while it was being cleared: not swept along */
    berth_chain_clear(pool, &chain);
    test_pool_end(pool);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("chain");
    TEST_ADD(suite, append_pop_consume);
    TEST_ADD(suite, empty_leases_do_no_harm);
    TEST_ADD(suite, iovec_is_bounded);
    TEST_ADD(suite, pullup_copies_only_what_is_apart);
    TEST_ADD(suite, neighbours_in_memory_need_no_copy);
    TEST_ADD(suite, pullup_without_a_buffer_changes_nothing);
    TEST_ADD(suite, pullup_above_the_largest_class);
    TEST_ADD(suite, bad_arguments);
    TEST_ADD(suite, stale_lease_in_a_chain);
    TEST_ADD(suite, links_are_limited_and_come_back);
    TEST_ADD(suite, wrapped_memory_is_a_lease_like_any_other);
    TEST_ADD(suite, wrap_refuses_bad_arguments);
    TEST_ADD(suite, wraps_are_limited_and_come_back);
    TEST_ADD(suite, free_callback_may_use_the_pool_and_the_chain);
    return test_run(suite);
}
