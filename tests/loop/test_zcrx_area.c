/*
 * The area of zero-copy receives and the ring of what is given back, with no kernel at all: the
 * ring lies in ordinary memory, and the test is what takes entries out of it. And how the option
 * is read.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include "loop/zcrx_option.h"

#ifdef BERTH_HAVE_LIBURING

#include <pthread.h>

#include "loop/engine_uring_zcrx.h"
#include "support/faults.h"

#define PAGE 4096u
#define PAGES 256u
#define TOKEN (UINT64_C(9) << BERTH_URING_ZCRX_AREA_SHIFT)

static struct {
    struct zcrx_area *area;
    uint32_t *head, *tail;
    struct berth_uring_zcrx_entry *entries;
    uint32_t count;
} ring;

/** An area, with a ring of `count` entries whose head and tail have come to `start`. */
static void
begin(uint32_t count, uint32_t start)
{
    const struct berth_uring_zcrx_offsets offsets = {.head = 0, .tail = 128, .entries = 4096};
    ck_assert_int_eq(zcrx_area_create(&ring.area, PAGES * PAGE), 0);
    unsigned char *base = (unsigned char *)ring.area->region;
    ring.head = (uint32_t *)(void *)base;
    ring.tail = (uint32_t *)(void *)(base + 128);
    ring.entries = (struct berth_uring_zcrx_entry *)(void *)(base + 4096);
    ring.count = count;
    *ring.head = *ring.tail = start;
    ck_assert_int_eq(zcrx_area_attach(ring.area, &offsets, count, TOKEN), 0);
}

static void
end(void)
{
    zcrx_area_close(ring.area);
    ck_assert_uint_eq(zcrx_areas_left(), 0);
}

static void
give(uint32_t page, uint32_t at, uint32_t length)
{
    zcrx_area_give(ring.area, ring.area->data + (size_t)page * PAGE + at, length);
}

static uint32_t
waiting(void)
{
    return *ring.tail - *ring.head;
}

/** Takes the oldest entry, which must be about that page. */
static uint64_t
take(uint32_t page)
{
    ck_assert_uint_gt(waiting(), 0);
    const struct berth_uring_zcrx_entry entry = ring.entries[*ring.head & (ring.count - 1)];
    memset(&ring.entries[*ring.head & (ring.count - 1)], 0xee, sizeof(entry));
    ++*ring.head;
    ck_assert_uint_eq(entry.offset & ~BERTH_URING_ZCRX_OFFSET_MASK, TOKEN);
    ck_assert_uint_eq(entry.pad, 0);
    const uint64_t offset = entry.offset & BERTH_URING_ZCRX_OFFSET_MASK;
    ck_assert_uint_eq(offset / PAGE, page);
    return offset << 32 | entry.length;
}

START_TEST(entries_say_what_is_given_back)
{
    begin(64, 0);
    give(0, 0, 1);
    ck_assert_uint_eq(waiting(), 1); /* at once: the card may be waiting for it */
    give(255, 4095, 1);
    give(7, 100, 3000);
    ck_assert_uint_eq(take(0), 1);
    ck_assert_uint_eq(take(255), (uint64_t)(255 * PAGE + 4095) << 32 | 1);
    ck_assert_uint_eq(take(7), (uint64_t)(7 * PAGE + 100) << 32 | 3000);
    ck_assert_uint_eq(waiting(), 0);
    end();
}
END_TEST

/** Many times round, over the end of 32 bits: _i entries under way all the time. */
START_TEST(numbers_wrap)
{
    begin(64, UINT32_MAX - 1000);
    for (uint32_t i = 0; i < 2000; i++) {
        give(i % PAGES, i % PAGE, 1);
        if (i >= (uint32_t)_i)
            (void)take((i - (uint32_t)_i) % PAGES);
        ck_assert_uint_le(waiting(), 64);
    }
    ck_assert_uint_eq(ring.area->owed_count, 0);
    ck_assert_uint_eq(*ring.tail, UINT32_MAX - 1000 + 2000u);
    end();
}
END_TEST

START_TEST(full_ring_is_tried_again)
{
    begin(64, UINT32_MAX - 30);
    for (uint32_t page = 0; page < 64; page++)
        give(page, 0, PAGE);
    for (unsigned round = 0; round < 3; round++) /* the same page three times: three references */
        for (uint32_t page = 100; page < 140; page++)
            give(page, 17, 30);
    ck_assert_uint_eq(waiting(), 64);
    ck_assert_uint_eq(ring.area->owed_count, 120);
    ck_assert_uint_eq(zcrx_area_retry(ring.area), 120);
    for (uint32_t page = 0; page < 64; page++)
        (void)take(page);
    unsigned times[PAGES] = {0};
    give(200, 0, 1); /* behind those that came before */
    for (;;) {
        (void)zcrx_area_retry(ring.area);
        ck_assert_uint_le(waiting(), 64);
        if (waiting() == 0)
            break;
        const uint64_t offset = ring.entries[*ring.head & 63].offset & BERTH_URING_ZCRX_OFFSET_MASK;
        times[offset / PAGE]++;
        (void)take((uint32_t)(offset / PAGE));
    }
    for (uint32_t page = 100; page < 140; page++)
        ck_assert_uint_eq(times[page], 3);
    ck_assert_uint_eq(times[200], 1);
    ck_assert_uint_eq(ring.area->owed_count, 0);
    give(3, 0, 1);
    (void)take(3); /* and it goes on as before */
    end();
}
END_TEST

START_TEST(places_are_looked_at)
{
    begin(64, 0);
    const uint64_t bytes = (uint64_t)PAGES * PAGE;
    ck_assert_ptr_eq(zcrx_area_place(ring.area, TOKEN, 1), ring.area->data);
    ck_assert_ptr_eq(zcrx_area_place(ring.area, TOKEN | (bytes - 1), 1),
                     ring.area->data + bytes - 1);
    ck_assert_ptr_eq(zcrx_area_place(ring.area, TOKEN, (int32_t)bytes), ring.area->data);
    ck_assert_ptr_null(zcrx_area_place(ring.area, TOKEN | (bytes - 1), 2));
    ck_assert_ptr_null(zcrx_area_place(ring.area, TOKEN | bytes, 1));
    ck_assert_ptr_null(zcrx_area_place(ring.area, TOKEN | BERTH_URING_ZCRX_OFFSET_MASK, 1));
    ck_assert_ptr_null(zcrx_area_place(ring.area, 0, 1));
    ck_assert_ptr_null(zcrx_area_place(ring.area, UINT64_MAX, 1));
    ck_assert_ptr_null(zcrx_area_place(ring.area, TOKEN, 0));
    ck_assert_ptr_null(zcrx_area_place(ring.area, TOKEN, -1));
    end();
}
END_TEST

/** What a kernel says that has lost its mind: nothing outside the ring's memory is touched. */
START_TEST(offsets_are_looked_at)
{
    begin(64, 0);
    const uint32_t bytes = (uint32_t)ring.area->region_bytes;
    const struct {
        struct berth_uring_zcrx_offsets offsets;
        uint32_t count;
    } wrong[] = {
        {{.head = bytes}, 64},
        {{.tail = bytes - 3}, 64},
        {{.head = 2}, 64},
        {{.entries = bytes + 8}, 64},
        {{.entries = bytes - 64 * 16 + 16}, 64},
        {{.entries = 4096}, 0},
        {{.entries = 4096}, 63},
        {{.entries = 4096}, UINT32_C(1) << 31},
    };
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_int_eq(zcrx_area_attach(ring.area, &wrong[i].offsets, wrong[i].count, 0),
                         -EINVAL);
    end();
}
END_TEST

/* ---- leases -----------------------------------------------------------------------------------
 */

/** What the engine does with a completion; the span is retained. */
static struct berth_lease
lend_and_retain(struct berth_pool *pool, uint32_t page, uint32_t length)
{
    struct berth_span span;
    struct berth_lease lease;
    unsigned char *data = ring.area->data + (size_t)page * PAGE;
    memset(data, (int)page, length);
    ck_assert_int_eq(
        berth_pool_lend_wrapped(pool, data, length, zcrx_area_release, ring.area, &span), 0);
    ring.area->lent++;
    ck_assert_int_eq(berth_retain(pool, &span, 0, length, 0, &lease), 0);
    ck_assert_int_eq(berth_pool_settle(pool, span.buffer), 0);
    return lease;
}

static struct berth_pool *
make_pool(void)
{
    struct berth_pool *pool = NULL;
    ck_assert_int_eq(berth_pool_create(&pool, NULL), 0);
    return pool;
}

START_TEST(last_reference_gives_back)
{
    struct berth_pool *pool = make_pool();
    begin(64, 0);
    struct berth_lease a = lend_and_retain(pool, 4, 100);
    struct berth_lease b = lend_and_retain(pool, 5, 100);
    ck_assert_int_eq(berth_lease_share(pool, a), 0);
    ck_assert_int_eq(berth_release(pool, a), 0);
    ck_assert_uint_eq(waiting(), 0);
    ck_assert_int_eq(berth_release(pool, b), 0);
    ck_assert_int_eq(berth_release(pool, a), 0);
    ck_assert_uint_eq(take(5) & UINT32_MAX, 100);
    ck_assert_uint_eq(take(4) & UINT32_MAX, 100);
    ck_assert_uint_eq(ring.area->lent, 0);
    end();
    ck_assert_int_eq(berth_pool_destroy(pool), 0);
}
END_TEST

struct other {
    struct berth_pool *pool;
    struct berth_lease leases[100];
};

static void *
release_elsewhere(void *argument)
{
    struct other *other = (struct other *)argument;
    for (unsigned i = 0; i < 100; i++)
        (void)berth_release(other->pool, other->leases[i]);
    return NULL;
}

/** The ring has one writer: the pool's owner. What others release comes to it in its next turn. */
START_TEST(other_threads_release)
{
    pthread_t thread;
    struct other other = {.pool = make_pool()};
    begin(128, UINT32_MAX - 7);
    for (uint32_t i = 0; i < 100; i++)
        other.leases[i] = lend_and_retain(other.pool, i, 64);
    ck_assert_int_eq(pthread_create(&thread, NULL, release_elsewhere, &other), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_uint_eq(waiting(), 0);
    (void)berth_pool_turn(other.pool);
    ck_assert_uint_eq(waiting(), 100);
    ck_assert_uint_eq(ring.area->lent, 0);
    end();
    ck_assert_int_eq(berth_pool_destroy(other.pool), 0);
}
END_TEST

/** The ring of io_uring goes while somebody has pieces: they stay, and are nobody else's. */
START_TEST(pieces_outlive_the_ring)
{
    struct berth_pool *pool = make_pool();
    begin(64, 0);
    struct berth_lease a = lend_and_retain(pool, 4, 100), b = lend_and_retain(pool, 5, 100);
    zcrx_area_close(ring.area);
    ck_assert_uint_eq(zcrx_areas_left(), 1);
    const unsigned char *data = (const unsigned char *)berth_lease_data(pool, a);
    for (unsigned i = 0; i < 100; i++)
        ck_assert_uint_eq(data[i], 4);
    ck_assert_int_eq(berth_release(pool, b), 0);
    ck_assert_uint_eq(zcrx_areas_left(), 1);
    ck_assert_uint_eq(data[99], 4);
    ck_assert_int_eq(berth_release(pool, a), 0);
    ck_assert_uint_eq(zcrx_areas_left(), 0);
    ck_assert_int_eq(berth_pool_destroy(pool), 0);
}
END_TEST

/** Each piece of memory is refused in turn: nothing is left of the others. */
START_TEST(memory_is_refused)
{
    static const char *const calls[] = {"mmap", "mprotect"};
    for (unsigned i = 0; i < 2; i++) {
        unsigned nth = 1;
        for (;; nth++) {
            struct zcrx_area *area = NULL;
            faults_fail(calls[i], nth, 1, -ENOMEM);
            faults_count("munmap");
            const int error = zcrx_area_create(&area, PAGES * PAGE);
            const unsigned unmapped = faults_calls("munmap");
            faults_reset();
            if (error == 0) {
                zcrx_area_close(area);
                break;
            }
            ck_assert_int_eq(error, -ENOMEM);
            ck_assert_ptr_null(area);
            if (i == 0)
                ck_assert_uint_eq(unmapped, nth - 1);
        }
        ck_assert_uint_ge(nth, 4); /* area, ring, notes: all three were refused once */
    }
}
END_TEST

/** Ring sizes within what the kernel takes; big areas begin at a huge page. */
START_TEST(sizes_suit_the_kernel)
{
    static const struct {
        size_t mib;
        uint32_t count;
    } rows[] = {{1, 256}, {2, 512}, {3, 1024}, {64, 16384}, {128, 32768}, {512, 32768}};
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct zcrx_area *area = NULL;
        ck_assert_int_eq(zcrx_area_create(&area, rows[i].mib << 20), 0);
        ck_assert_uint_eq(area->count, rows[i].count);
        ck_assert_uint_ge(area->region_bytes, PAGE + 16 * (size_t)area->count);
        if (rows[i].mib >= 2)
            ck_assert_uint_eq((uintptr_t)area->data % (2 << 20), 0);
        zcrx_area_close(area);
    }
}
END_TEST

#endif

START_TEST(option_is_read)
{
    static const struct {
        const char *text;
        int result;
        const char *interface;
        uint32_t queue, mib;
    } rows[] = {
        {NULL, 0, "", 0, 0},
        {"eth0:0", 0, "eth0", 0, 64},
        {"enp1s0f0np0:65535:4096", 0, "enp1s0f0np0", 65535, 4096},
        {"a:007:1", 0, "a", 7, 1},
        {"fifteen-letters:1", 0, "fifteen-letters", 1, 64},
        {"sixteen-letters-:1", -EINVAL, "", 0, 0},
        {"", -EINVAL, "", 0, 0},
        {":1", -EINVAL, "", 0, 0},
        {"eth0", -EINVAL, "", 0, 0},
        {"eth0:", -EINVAL, "", 0, 0},
        {"eth0:x", -EINVAL, "", 0, 0},
        {"eth0:-1", -EINVAL, "", 0, 0},
        {"eth0:65536", -EINVAL, "", 0, 0},
        {"eth0:99999999999999999999", -EINVAL, "", 0, 0},
        {"eth0:1:", -EINVAL, "", 0, 0},
        {"eth0:1:0", -EINVAL, "", 0, 0},
        {"eth0:1:4097", -EINVAL, "", 0, 0},
        {"eth0:1:64:", -EINVAL, "", 0, 0},
        {"eth0:1 ", -EINVAL, "", 0, 0},
        {"eth 0:1", -EINVAL, "", 0, 0},
        {"../eth0:1", -EINVAL, "", 0, 0},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct zcrx_wish wish;
        memset(&wish, 0xee, sizeof(wish));
        ck_assert_msg(zcrx_option_parse(&wish, rows[i].text) == rows[i].result, "'%s'",
                      rows[i].text);
        ck_assert_str_eq(wish.interface, rows[i].interface);
        ck_assert_uint_eq(wish.queue, rows[i].queue);
        ck_assert_uint_eq(wish.area_mib, rows[i].mib);
    }
}
END_TEST

/** A list of its own is read before anything is made; another engine says that it has no such. */
START_TEST(other_engines_say_so)
{
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    char text[4096];
    rig_options(&options, "poll", NULL);
    options.zcrx = "eth0";
    ck_assert_int_eq(berth_loop_create(&loop, &options), -EINVAL);
    options.zcrx = "eth0:0";
    ck_assert_int_eq(berth_loop_create(&loop, &options), 0);
    ck_assert_int_lt(berth_loop_explain(loop, text, sizeof(text)), sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "zero-copy receive: not used: only io_uring has it\n"));
    ck_assert_int_eq(berth_loop_destroy(loop), 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("zcrx area");
    RIG_ADD_COUNTED(suite, option_is_read, 1);
    RIG_ADD_COUNTED(suite, other_engines_say_so, 1);
#ifdef BERTH_HAVE_LIBURING
    RIG_ADD_COUNTED(suite, entries_say_what_is_given_back, 1);
    RIG_ADD_COUNTED(suite, numbers_wrap, 64);
    RIG_ADD_COUNTED(suite, full_ring_is_tried_again, 1);
    RIG_ADD_COUNTED(suite, places_are_looked_at, 1);
    RIG_ADD_COUNTED(suite, offsets_are_looked_at, 1);
    RIG_ADD_COUNTED(suite, last_reference_gives_back, 1);
    RIG_ADD_COUNTED(suite, other_threads_release, 1);
    RIG_ADD_COUNTED(suite, pieces_outlive_the_ring, 1);
    RIG_ADD_COUNTED(suite, memory_is_refused, 1);
    RIG_ADD_COUNTED(suite, sizes_suit_the_kernel, 1);
#endif
    return test_run(suite);
}
