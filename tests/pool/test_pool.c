/*
 * The pool's life, its leases and its slabs, with good and with bad arguments, and the small leaves
 * of the library that have no test of their own. What a driver of I/O does is in test_driver.c.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/pool_test.h"

/* ---- life ---------------------------------------------------------------------------------- */

START_TEST(create_refuses_bad_options)
{
    struct berth_pool_options options;
    struct berth_pool *pool = (struct berth_pool *)&options;
    ck_assert_int_eq(berth_pool_create(NULL, NULL), -EINVAL);

    berth_pool_options_init(&options);
    options.abi++;
    ck_assert_int_eq(berth_pool_create(&pool, &options), -EPROTO);
    ck_assert_ptr_null(pool);

    const size_t bad_sizes[] = {0, 1, SLAB_BYTES - 1, (size_t)8194 * MIB, SIZE_MAX};
    for (size_t i = 0; i < sizeof(bad_sizes) / sizeof(bad_sizes[0]); i++) {
        berth_pool_options_init(&options);
        options.bytes_max = bad_sizes[i];
        ck_assert_int_eq(berth_pool_create(&pool, &options), -EINVAL);
    }
    berth_pool_options_init(&options);
    options.class_bytes_max[BERTH_CLASS_2M] = SLAB_BYTES - 1;
    ck_assert_int_eq(berth_pool_create(&pool, &options), -EINVAL);

    berth_pool_options_init(&options);
    options.zero_on_release = 1u << BERTH_CLASS_COUNT;
    ck_assert_int_eq(berth_pool_create(&pool, &options), -EINVAL);

    struct berth_alloc incomplete = *berth_alloc_default();
    incomplete.release = NULL;
    berth_pool_options_init(&options);
    options.alloc = &incomplete;
    ck_assert_int_eq(berth_pool_create(&pool, &options), -EINVAL);
    ck_assert_ptr_null(pool);
}
END_TEST

START_TEST(limits_are_accepted)
{
    const size_t sizes[] = {SLAB_BYTES, 3 * MIB, 256 * MIB, (size_t)8192 * MIB};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct berth_pool *pool = test_pool_make(sizes[i]);
        const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_512);
        ck_assert_int_eq(berth_pool_destroy(pool), -EBUSY);
        ck_assert_int_eq(berth_release(pool, lease), 0);
        test_pool_end(pool);
    }
    struct berth_pool *pool = NULL;
    ck_assert_int_eq(berth_pool_create(&pool, NULL), 0);
    test_pool_end(pool);
    ck_assert_int_eq(berth_pool_destroy(NULL), 0);
}
END_TEST

START_TEST(classes_are_told)
{
    static const uint32_t bytes[] = {512, 4096, 16384, 65536, 2097152};
    for (int i = 0; i < BERTH_CLASS_COUNT; i++) {
        ck_assert_uint_eq(berth_class_bytes((enum berth_class)i), bytes[i]);
        ck_assert_int_eq(berth_class_for(bytes[i]), i);
        ck_assert_int_eq(berth_class_for(bytes[i] - 1), i);
        ck_assert_int_eq(berth_class_for((size_t)bytes[i] + 1),
                         i + 1 < BERTH_CLASS_COUNT ? i + 1 : -EMSGSIZE);
    }
    ck_assert_int_eq(berth_class_for(0), BERTH_CLASS_512);
    ck_assert_int_eq(berth_class_for(SIZE_MAX), -EMSGSIZE);
    ck_assert_uint_eq(berth_class_bytes(BERTH_CLASS_COUNT), 0);
    ck_assert_uint_eq(berth_class_bytes((enum berth_class) - 1), 0);
}
END_TEST

START_TEST(null_is_refused_everywhere)
{
    struct berth_lease lease = {0};
    const struct berth_lease none = {0};
    struct berth_span span = {0};
    struct berth_slab slab;
    uint32_t buffer = 0;
    void *data = NULL;
    ck_assert_int_eq(berth_pool_get(NULL, BERTH_CLASS_4K, BERTH_FOR_NEW, &lease), -EINVAL);
    ck_assert_ptr_null(berth_lease_data(NULL, none));
    ck_assert_int_eq(berth_retain(NULL, &span, 0, 1, 0, &lease), -EINVAL);
    ck_assert_int_eq(berth_lease_share(NULL, none), -EINVAL);
    ck_assert_int_eq(berth_slice(NULL, none, 0, 1, &lease), -EINVAL);
    ck_assert_int_eq(berth_release(NULL, none), -EINVAL);
    ck_assert_int_eq(berth_pool_post(NULL, BERTH_CLASS_4K, BERTH_FOR_NEW, &buffer, &data), -EINVAL);
    ck_assert_int_eq(berth_pool_expose(NULL, 0), -EINVAL);
    ck_assert_int_eq(berth_pool_unpost(NULL, 0), -EINVAL);
    ck_assert_int_eq(berth_pool_lend(NULL, 0, 1, &span), -EINVAL);
    ck_assert_int_eq(berth_pool_settle(NULL, 0), -EINVAL);
    ck_assert_int_eq(berth_lease_send_begin(NULL, none), -EINVAL);
    ck_assert_int_eq(berth_lease_send_end(NULL, none), -EINVAL);
    ck_assert_int_eq(berth_pool_slab(NULL, 0, &slab), -EINVAL);
    ck_assert_int_eq(berth_pool_pin(NULL, 0, 1), -EINVAL);
    ck_assert_uint_eq(berth_pool_trim(NULL), 0);
    ck_assert_uint_eq(berth_pool_turn(NULL), 0);
    ck_assert_uint_eq(berth_pool_report(NULL, NULL, NULL), 0);
    ck_assert_int_eq(berth_pool_verify(NULL, NULL), -EUCLEAN);
    ck_assert_ptr_null(berth_pool_copies(NULL));
    berth_pool_adopt(NULL);

    struct berth_pool *pool = test_pool_make(8 * MIB);
    ck_assert_int_eq(berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, NULL), -EINVAL);
    ck_assert_int_eq(berth_pool_get(pool, BERTH_CLASS_COUNT, BERTH_FOR_NEW, &lease), -EINVAL);
    ck_assert_int_eq(berth_pool_get(pool, BERTH_CLASS_4K, (enum berth_purpose)3, &lease), -EINVAL);
    ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_COUNT, BERTH_FOR_NEW, &buffer, &data),
                     -EINVAL);
    ck_assert_int_eq(
        berth_pool_post(pool, BERTH_CLASS_4K, (enum berth_purpose) - 1, &buffer, &data), -EINVAL);
    ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, NULL, &data), -EINVAL);
    ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &buffer, NULL), -EINVAL);
    ck_assert_int_eq(berth_pool_lend(pool, 0, 1, NULL), -EINVAL);
    ck_assert_int_eq(berth_retain(pool, NULL, 0, 1, 0, &lease), -EINVAL);
    ck_assert_int_eq(berth_retain(pool, &span, 0, 1, 0, NULL), -EINVAL);
    ck_assert_int_eq(berth_slice(pool, none, 0, 1, NULL), -EINVAL);
    ck_assert_int_eq(berth_pool_slab(pool, 0, NULL), -EINVAL);
    berth_pool_stats_get(pool, NULL);
    berth_pool_stats_get(NULL, NULL);
    ck_assert_uint_eq(test_pool_stats(pool).illegal, 0);
    test_pool_end(pool);
}
END_TEST

/* ---- leases -------------------------------------------------------------------------------- */

START_TEST(get_gives_the_whole_buffer)
{
    struct berth_pool *pool = test_pool_make(16 * MIB);
    for (int i = 0; i < BERTH_CLASS_COUNT; i++) {
        const struct berth_lease lease = test_pool_get(pool, (enum berth_class)i);
        ck_assert_uint_eq(lease.length, berth_class_bytes((enum berth_class)i));
        ck_assert_uint_eq(lease.offset, 0);
        unsigned char *data = berth_lease_data(pool, lease);
        ck_assert_ptr_nonnull(data);
        ck_assert_uint_eq((uintptr_t)data % (lease.length < 4096 ? 512 : 4096), 0);
        memset(data, 'x', lease.length);
        ck_assert_int_eq(berth_release(pool, lease), 0);
        ck_assert_ptr_null(berth_lease_data(pool, lease));
    }
    const struct berth_pool_stats stats = test_pool_stats(pool);
    ck_assert_uint_eq(stats.gets, BERTH_CLASS_COUNT);
    ck_assert_uint_eq(stats.slabs, BERTH_CLASS_COUNT);
    ck_assert_uint_eq(stats.slab_bytes, BERTH_CLASS_COUNT * SLAB_BYTES);
    ck_assert_uint_eq(stats.outstanding_max, 1);
    test_pool_end(pool);
}
END_TEST

START_TEST(free_list_is_last_in_first_out)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease a = test_pool_get(pool, BERTH_CLASS_4K);
    const struct berth_lease b = test_pool_get(pool, BERTH_CLASS_4K);
    /* Fresh buffers come in address order, so that what the kernel fills lies side by side. */
    ck_assert_ptr_eq(berth_lease_data(pool, b), (char *)berth_lease_data(pool, a) + 4096);
    ck_assert_int_eq(berth_release(pool, a), 0);
    ck_assert_int_eq(berth_release(pool, b), 0);
    const struct berth_lease again = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_uint_eq(again.buffer, b.buffer);
    ck_assert_uint_ne(again.generation, b.generation);
    ck_assert_int_eq(berth_release(pool, again), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(stale_leases_are_refused)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease old = test_pool_get(pool, BERTH_CLASS_4K);
    struct berth_lease slice;
    ck_assert_int_eq(berth_release(pool, old), 0);
    for (int round = 0; round < 2; round++) {
        TEST_ILLEGAL(pool, berth_release(pool, old));
        TEST_ILLEGAL(pool, berth_lease_share(pool, old));
        TEST_ILLEGAL(pool, berth_slice(pool, old, 0, 1, &slice));
        TEST_ILLEGAL(pool, berth_lease_send_begin(pool, old));
        TEST_ILLEGAL(pool, berth_lease_send_end(pool, old));
        ck_assert_ptr_null(berth_lease_data(pool, old));
        if (round == 0) { /* and once more when somebody else has the buffer */
            slice = test_pool_get(pool, BERTH_CLASS_4K);
            ck_assert_uint_eq(slice.buffer, old.buffer);
        }
    }
    ck_assert_ptr_nonnull(berth_lease_data(pool, slice));
    ck_assert_int_eq(berth_release(pool, slice), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(fabricated_leases_are_refused)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease good = test_pool_get(pool, BERTH_CLASS_4K);
    const struct berth_lease none = {0};
    struct berth_lease bad[] = {none, good, good, good, good, good};
    bad[1].buffer = UINT32_MAX;
    bad[2].generation = 0;
    bad[3].generation++;
    bad[4].buffer++;          /* never handed out */
    bad[5].buffer = 3u << 12; /* a slab that does not exist */
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ck_assert_ptr_null(berth_lease_data(pool, bad[i]));
        TEST_ILLEGAL(pool, berth_release(pool, bad[i]));
        TEST_ILLEGAL(pool, berth_lease_share(pool, bad[i]));
    }
    for (uint32_t buffer = 0; buffer < 20u << 12; buffer += 1021) { /* every region of the ids */
        struct berth_lease lease = good;
        lease.buffer = buffer;
        ck_assert_int_eq(berth_lease_data(pool, lease) != NULL, buffer == good.buffer);
    }
    struct berth_lease beyond = good;
    beyond.offset = 1;
    ck_assert_ptr_null(berth_lease_data(pool, beyond));
    beyond.offset = UINT32_MAX;
    ck_assert_ptr_null(berth_lease_data(pool, beyond));
    ck_assert_int_eq(berth_slice(pool, beyond, 0, 1, &bad[0]), -EINVAL);
    ck_assert_int_eq(berth_release(pool, good), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(foreign_leases_are_refused)
{
    struct berth_pool *ours = test_pool_make(8 * MIB);
    struct berth_pool *theirs = test_pool_make(8 * MIB);
    const struct berth_lease own = test_pool_get(ours, BERTH_CLASS_4K);
    const struct berth_lease foreign = test_pool_get(theirs, BERTH_CLASS_4K);
    ck_assert_uint_eq(own.buffer, foreign.buffer);
    ck_assert_ptr_null(berth_lease_data(ours, foreign));
    TEST_ILLEGAL(ours, berth_release(ours, foreign));
    TEST_ILLEGAL(ours, berth_lease_send_begin(ours, foreign));
    ck_assert_ptr_nonnull(berth_lease_data(ours, own));
    ck_assert_int_eq(berth_release(ours, own), 0);
    ck_assert_int_eq(berth_release(theirs, foreign), 0);
    test_pool_end(ours);
    test_pool_end(theirs);
}
END_TEST

START_TEST(slices_are_of_the_root)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease root = test_pool_get(pool, BERTH_CLASS_4K);
    unsigned char *data = berth_lease_data(pool, root);
    struct berth_lease slice, slice_of_slice;
    ck_assert_int_eq(berth_slice(pool, root, 100, 50, &slice), 0);
    ck_assert_int_eq(berth_slice(pool, slice, 10, 40, &slice_of_slice), 0);
    ck_assert_ptr_eq(berth_lease_data(pool, slice_of_slice), data + 110);
    ck_assert_int_eq(berth_slice(pool, slice, 10, 41, &slice), -EINVAL);
    ck_assert_int_eq(berth_slice(pool, slice, 0, 0, &slice), -EINVAL);
    ck_assert_int_eq(berth_slice(pool, slice, UINT32_MAX, 2, &slice), -EINVAL);
    ck_assert_int_eq(berth_release(pool, root), 0);
    ck_assert_int_eq(berth_release(pool, slice), 0);
    ck_assert_ptr_eq(berth_lease_data(pool, slice_of_slice), data + 110);
    ck_assert_uint_eq(test_pool_stats(pool).outstanding, 1);
    ck_assert_int_eq(berth_release(pool, slice_of_slice), 0);
    test_pool_end(pool);
}
END_TEST

/* ---- slabs --------------------------------------------------------------------------------- */

START_TEST(slabs_are_described_and_pinned)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_slab slab;
    ck_assert_int_eq(berth_pool_slab(pool, 0, &slab), -ENOENT);
    ck_assert_int_eq(berth_pool_pin(pool, 0, 1), -ENOENT);
    const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_16K);
    ck_assert_int_eq(berth_pool_slab(pool, 0, &slab), 0);
    ck_assert_ptr_eq(slab.data, berth_lease_data(pool, lease));
    ck_assert_uint_eq(slab.bytes, SLAB_BYTES);
    ck_assert_int_eq(slab.size_class, BERTH_CLASS_16K);
    ck_assert_uint_eq(slab.outstanding, 1);
    ck_assert_uint_eq(slab.pins, 0);
    ck_assert_int_eq(berth_pool_slab(pool, 1, &slab), -ENOENT);
    ck_assert_int_eq(berth_pool_slab(pool, UINT32_MAX, &slab), -ENOENT);

    ck_assert_int_eq(berth_pool_pin(pool, 0, 0), -EINVAL);
    ck_assert_int_eq(berth_pool_pin(pool, 0, 2), -EINVAL);
    ck_assert_int_eq(berth_pool_pin(pool, 0, 1), 0);
    ck_assert_int_eq(berth_pool_pin(pool, 0, 1), 0);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    ck_assert_uint_eq(berth_pool_trim(pool), 0);
    ck_assert_int_eq(berth_pool_pin(pool, 0, 0), 0);
    ck_assert_int_eq(berth_pool_destroy(pool), -EBUSY);
    ck_assert_uint_eq(berth_pool_trim(pool), 0);
    ck_assert_int_eq(berth_pool_pin(pool, 0, 0), 0);
    ck_assert_uint_eq(berth_pool_trim(pool), SLAB_BYTES);
    ck_assert_int_eq(berth_pool_slab(pool, 0, &slab), -ENOENT);
    test_pool_end(pool);
}
END_TEST

START_TEST(trim_gives_back_whole_slabs_and_numbers_stay)
{
    enum { COUNT = 1000 };
    static struct berth_lease leases[COUNT];
    struct berth_pool *pool = test_pool_make(8 * MIB);
    for (int i = 0; i < COUNT; i++)
        leases[i] = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_uint_eq(test_pool_stats(pool).slabs, 3);
    for (int i = 0; i < COUNT; i++) /* all of the first slab; one of the second stays */
        if (i != 700)
            ck_assert_int_eq(berth_release(pool, leases[i]), 0);
    ck_assert_uint_eq(berth_pool_trim(pool), 2 * SLAB_BYTES);
    test_pool_verify(pool);
    struct berth_slab slab;
    ck_assert_int_eq(berth_pool_slab(pool, 0, &slab), 0);
    ck_assert_ptr_null(slab.data);
    ck_assert_uint_eq(slab.bytes, 0);
    ck_assert_int_eq(berth_pool_pin(pool, 0, 1), -ENOENT);
    ck_assert_int_eq(berth_pool_slab(pool, 1, &slab), 0);
    ck_assert_uint_eq(slab.outstanding, 1);
    ck_assert_int_eq(berth_pool_slab(pool, 2, &slab), -ENOENT);
    ck_assert_ptr_null(berth_lease_data(pool, leases[0]));
    ck_assert_ptr_nonnull(berth_lease_data(pool, leases[700]));

    /* The number is used again, with another class, and old leases of it are still stale. */
    const struct berth_lease big = test_pool_get(pool, BERTH_CLASS_2M);
    ck_assert_uint_eq(big.buffer >> 12, 0);
    ck_assert_uint_eq(big.buffer, leases[0].buffer);
    ck_assert_ptr_null(berth_lease_data(pool, leases[0]));
    TEST_ILLEGAL(pool, berth_release(pool, leases[0]));
    ck_assert_int_eq(berth_release(pool, big), 0);
    ck_assert_int_eq(berth_release(pool, leases[700]), 0);
    ck_assert_uint_eq(berth_pool_trim(pool), 2 * SLAB_BYTES);
    ck_assert_uint_eq(test_pool_stats(pool).slabs, 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(trim_leaves_pinned_slabs_beside_others)
{
    enum { COUNT = 1100 };
    static struct berth_lease leases[COUNT];
    struct berth_pool *pool = test_pool_make(8 * MIB);
    for (int i = 0; i < COUNT; i++)
        leases[i] = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_uint_eq(test_pool_stats(pool).slabs, 3);
    for (int i = 0; i < COUNT; i++)
        ck_assert_int_eq(berth_release(pool, leases[i]), 0);
    ck_assert_int_eq(berth_pool_pin(pool, 1, 1), 0);
    ck_assert_uint_eq(berth_pool_trim(pool), 2 * SLAB_BYTES);
    test_pool_verify(pool);
    struct berth_slab slab;
    ck_assert_int_eq(berth_pool_slab(pool, 1, &slab), 0);
    ck_assert_ptr_nonnull(slab.data);
    for (int i = 0; i < 400; i++) /* and its buffers are the ones in use now */
        leases[i] = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_uint_eq(test_pool_stats(pool).slabs, 1);
    for (int i = 0; i < 400; i++)
        ck_assert_int_eq(berth_release(pool, leases[i]), 0);
    ck_assert_int_eq(berth_pool_pin(pool, 1, 0), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(wiped_classes_show_nobody_elses_bytes)
{
    struct berth_pool_options options;
    berth_pool_options_init(&options);
    options.zero_on_release = 1u << BERTH_CLASS_4K;
    struct berth_pool *pool;
    ck_assert_int_eq(berth_pool_create(&pool, &options), 0);
    static const unsigned char zeroes[4096];

    struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_mem_eq(berth_lease_data(pool, lease), zeroes, 4096);
    memset(berth_lease_data(pool, lease), 's', 4096);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    lease = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_mem_eq(berth_lease_data(pool, lease), zeroes, 4096);
    ck_assert_int_eq(berth_release(pool, lease), 0);

    /* What was only lent is wiped too, when it goes back to the kernel or to the free list. */
    const struct berth_span span = test_pool_receive(pool, BERTH_CLASS_4K, 4096, 1);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 1);
    ck_assert_int_eq(berth_pool_expose(pool, span.buffer), 0);
    struct berth_span next;
    ck_assert_int_eq(berth_pool_lend(pool, span.buffer, 4096, &next), 0);
    ck_assert_mem_eq(next.data, zeroes, 4096);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 1);
    ck_assert_int_eq(berth_pool_expose(pool, span.buffer), 0);
    memset(span.data, 's', 4096);
    ck_assert_int_eq(berth_pool_unpost(pool, span.buffer), 0);
    lease = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_uint_eq(lease.buffer, span.buffer);
    ck_assert_mem_eq(berth_lease_data(pool, lease), zeroes, 4096);
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

/* ---- diagnostics --------------------------------------------------------------------------- */

static void
holding_note(const struct berth_holding *holding, void *context)
{
    struct berth_holding *found = context;
    found[(strcmp(holding->state, "posted") == 0)     ? 0
          : (strcmp(holding->state, "borrowed") == 0) ? 1
          : (strcmp(holding->state, "leased") == 0)   ? 2
                                                      : 3] = *holding;
}

START_TEST(report_names_what_is_out)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    struct berth_holding found[4];
    memset(found, 0, sizeof(found));
    uint32_t posted;
    void *data;
    ck_assert_int_eq(berth_pool_post(pool, BERTH_CLASS_512, BERTH_FOR_NEW, &posted, &data), 0);
    const struct berth_span span = test_pool_receive(pool, BERTH_CLASS_4K, 10, 0);
    const struct berth_lease sent = test_pool_get(pool, BERTH_CLASS_4K);
    ck_assert_int_eq(berth_lease_send_begin(pool, sent), 0);
    char text[] = "text";
    struct berth_lease wrapped;
    ck_assert_int_eq(berth_wrap(pool, text, 4, NULL, NULL, &wrapped), 0);
    ck_assert_int_eq(berth_lease_share(pool, wrapped), 0);
    (void)berth_pool_turn(pool);
    (void)berth_pool_turn(pool);

    ck_assert_uint_eq(berth_pool_report(pool, holding_note, found), 4);
    ck_assert_uint_eq(found[0].buffer, posted);
    ck_assert_int_eq(found[0].size_class, BERTH_CLASS_512);
    ck_assert_uint_eq(found[1].buffer, span.buffer);
    ck_assert_uint_eq(found[2].buffer, wrapped.buffer);
    ck_assert_uint_eq(found[2].references, 2);
    ck_assert_int_eq(found[2].size_class, BERTH_CLASS_COUNT);
    ck_assert_uint_eq(found[3].buffer, sent.buffer);
    ck_assert_str_eq(found[3].state, "in flight");
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(found[i].site != NULL, TEST_CHECKS);
        ck_assert_uint_eq(found[i].age_turns, TEST_CHECKS ? 2 : 0);
    }
    ck_assert_int_eq(berth_pool_unpost(pool, posted), 0);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 1);
    ck_assert_int_eq(berth_pool_unpost(pool, span.buffer), 0);
    ck_assert_int_eq(berth_lease_send_end(pool, sent), 0);
    ck_assert_int_eq(berth_release(pool, sent), 0);
    ck_assert_int_eq(berth_release(pool, wrapped), 0);
    ck_assert_int_eq(berth_release(pool, wrapped), 0);
    test_pool_end(pool);
}
END_TEST

/** In the child a slab is not mapped (MADV_DONTFORK), so the child makes the pool itself. */
static void __attribute__((unused)) write_after_release(void)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_4K);
    volatile char *data = berth_lease_data(pool, lease);
    if (berth_release(pool, lease) != 0)
        _exit(0);
    data[17] = 'x';
    (void)test_pool_get(pool, BERTH_CLASS_4K);
}

START_TEST(checks_see_a_write_after_release)
{
    int status = 0;
    TEST_STATUS_OF(status, write_after_release());
    ck_assert_int_ne(status, 0);
}
END_TEST

START_TEST(child_does_not_share_the_slabs)
{
    struct berth_pool *pool = test_pool_make(8 * MIB);
    const struct berth_lease lease = test_pool_get(pool, BERTH_CLASS_4K);
    char *data = berth_lease_data(pool, lease);
    data[0] = 'p';
    int status = 0;
    TEST_STATUS_OF(status, _exit(test_is_inherited(data, 'p') ? 8 : 7));
    ck_assert_int_eq(WEXITSTATUS(status), 7);
    ck_assert_int_eq(data[0], 'p');
    ck_assert_int_eq(berth_release(pool, lease), 0);
    test_pool_end(pool);
}
END_TEST

START_TEST(leaves)
{
    ck_assert_uint_eq(berth_version(), BERTH_VERSION);
    ck_assert_str_eq(berth_version_string(), BERTH_VERSION_STRING);
    ck_assert_str_eq(berth_alloc_default()->name, "mmap");

    struct berth_pool_stats before = {.gets = 5, .refused = 1};
    struct berth_pool_stats after = {.gets = 7, .refused = 1, .slabs = 3};
    berth_stats_delta(&after, &before, &after, sizeof(after));
    ck_assert_uint_eq(after.gets, 2);
    ck_assert_uint_eq(after.refused, 0);
    ck_assert_uint_eq(after.slabs, 3);
    berth_stats_delta(&before, &before, &before, 0);
    ck_assert_uint_eq(before.gets, 5);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pool");
    TEST_ADD(suite, create_refuses_bad_options);
    TEST_ADD(suite, limits_are_accepted);
    TEST_ADD(suite, classes_are_told);
    TEST_ADD(suite, null_is_refused_everywhere);
    TEST_ADD(suite, get_gives_the_whole_buffer);
    TEST_ADD(suite, free_list_is_last_in_first_out);
    TEST_ADD(suite, stale_leases_are_refused);
    TEST_ADD(suite, fabricated_leases_are_refused);
    TEST_ADD(suite, foreign_leases_are_refused);
    TEST_ADD(suite, slices_are_of_the_root);
    TEST_ADD(suite, slabs_are_described_and_pinned);
    TEST_ADD(suite, trim_gives_back_whole_slabs_and_numbers_stay);
    TEST_ADD(suite, trim_leaves_pinned_slabs_beside_others);
    TEST_ADD(suite, wiped_classes_show_nobody_elses_bytes);
    TEST_ADD(suite, report_names_what_is_out);
    if (TEST_CHECKS)
        TEST_ADD(suite, checks_see_a_write_after_release);
    TEST_ADD(suite, child_does_not_share_the_slabs);
    TEST_ADD(suite, leaves);
    return test_run(suite);
}
