/*
 * Where mapping ends: windows used up, refused by the kernel, released from another thread, touched
 * after their release, inherited by nobody; and connections that cannot be mapped.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_MEMORY
#define BERTH_SYS_SOCKET
#include "loop/mapping.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/un.h>

#include "os/sys.h"
#include "support/faults.h"

/* ---- want of windows ------------------------------------------------------------------------ */

START_TEST(without_windows_bytes_are_copied)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.map_receive = 1;
    options.map_bytes_max = BERTH_MAP_BYTES_MIN;
    if (options.direct_descriptors)
        return;
    begin_with(&options, SEGMENT_PAGES, 1);
    ck_assert_int_eq(w.force_to, 0);
    w.keep = 1;
    pass(4 * MIB); /* one lease keeps the only window there is */
    const struct berth_copies before = copies();
    ck_assert_uint_le(before.received_mapped, BERTH_MAP_BYTES_MIN);
    ck_assert_uint_gt(before.received_mapped, 0);
    pass(8 * MIB);
    ck_assert_uint_eq(copies().received_mapped, before.received_mapped);
    ck_assert(is_sequence(w.kept[0].data, w.kept[0].position, w.kept[0].lease.length));
    release_kept();
    turn_some(2);
    pass(16 * MIB);
    ck_assert_uint_gt(copies().received_mapped, before.received_mapped + 4 * MIB);
    finish();
}
END_TEST

START_TEST(the_budget_is_kept)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.map_receive = 1;
    options.map_bytes_max = 4 * MIB;
    if (options.direct_descriptors)
        return;
    begin_with(&options, SEGMENT_PAGES, 1);
    w.keep = KEPT_MAX;
    pass(20 * MIB);
    ck_assert_uint_le(copies().received_mapped, 4 * MIB);
    ck_assert_uint_ge(copies().received_mapped, 3 * MIB);
    w.keep = 0;
    for (unsigned i = 0; i < w.kept_count; i++)
        ck_assert(is_sequence(w.kept[i].data, w.kept[i].position, w.kept[i].lease.length));
    finish();
}
END_TEST

/* ---- after the release ---------------------------------------------------------------------- */

static sigjmp_buf faulted;

static void
on_fault(int signo)
{
    (void)signo;
    siglongjmp(faulted, 1);
}

/** Whether reading there faults. */
static int
faults_at(const volatile unsigned char *data)
{
    struct sigaction action, bus, segv;
    memset(&action, 0, sizeof(action));
    action.sa_handler = on_fault;
    ck_assert_int_eq(sigaction(SIGBUS, &action, &bus), 0);
    ck_assert_int_eq(sigaction(SIGSEGV, &action, &segv), 0);
    volatile int faulting = 1;
    if (sigsetjmp(faulted, 1) == 0) {
        (void)*data;
        faulting = 0;
    }
    ck_assert_int_eq(sigaction(SIGBUS, &bus, NULL), 0);
    ck_assert_int_eq(sigaction(SIGSEGV, &segv, NULL), 0);
    return faulting;
}

/** One mapped lease, and nothing else. */
static void
keep_one(void)
{
    w.keep = 1;
    pass(MIB);
    settle_windows();
    ck_assert_uint_eq(w.kept_count, 1);
    ck_assert_uint_ge(w.kept[0].lease.length, 4096);
    ck_assert(!faults_at(w.kept[0].data));
}

START_TEST(a_released_lease_faults)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, SEGMENT_PAGES, 1))
        return;
    keep_one();
    const unsigned char *data = w.kept[0].data;
    release_kept();
    settle_windows();
    ck_assert(faults_at(data));
    ck_assert_int_eq(mapped_tick(w.rig.loop), -1);
    finish();
}
END_TEST

START_TEST(mapped_spans_are_read_only)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, SEGMENT_PAGES, 1))
        return;
    keep_one();
    struct sigaction action, bus, segv;
    memset(&action, 0, sizeof(action));
    action.sa_handler = on_fault;
    ck_assert_int_eq(sigaction(SIGBUS, &action, &bus), 0);
    ck_assert_int_eq(sigaction(SIGSEGV, &action, &segv), 0);
    volatile int faulting = 1;
    if (sigsetjmp(faulted, 1) == 0) {
        *(volatile unsigned char *)(uintptr_t)w.kept[0].data = 1;
        faulting = 0;
    }
    ck_assert_int_eq(sigaction(SIGBUS, &bus, NULL), 0);
    ck_assert_int_eq(sigaction(SIGSEGV, &segv, NULL), 0);
    ck_assert(faulting);
    finish();
}
END_TEST

static void *
release_elsewhere(void *arg)
{
    const int error = berth_release(berth_loop_pool(w.rig.loop), w.kept[0].lease);
    *(int *)arg = error;
    return NULL;
}

START_TEST(another_thread_may_release)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, SEGMENT_PAGES, 1))
        return;
    keep_one();
    pthread_t thread;
    int error = -1;
    ck_assert_int_eq(pthread_create(&thread, NULL, release_elsewhere, &error), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(error, 0);
    w.kept_count = 0;
    ck_assert(!faults_at(w.kept[0].data)); /* until the loop has turned */
    settle_windows();
    ck_assert(faults_at(w.kept[0].data));
    finish();
}
END_TEST

START_TEST(loops_come_and_go)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned i = 0; i < 200; i++) {
        if (!begin(engine, SEGMENT_PAGES, 1))
            return;
        pass(200000);
        ck_assert_uint_gt(copies().received_mapped, 0);
        finish();
    }
}
END_TEST

/** The loop goes while a lease is held: it keeps its bytes, and its windows come back with it. */
START_TEST(a_lease_outlives_the_loop)
{
    RIG_ENGINE_OR_RETURN(engine);
    /* Were a chunk lost each time, none would be left. */
    for (unsigned i = 0; i <= WINDOWS_BYTES_MAX / WINDOW_CHUNK_BYTES; i++) {
        if (!begin(engine, SEGMENT_PAGES, 1))
            return;
        w.keep = 2;
        pass(200000);
        ck_assert_uint_eq(w.kept_count, 2);
        ck_assert_uint_gt(copies().received_mapped, 0);
        struct berth_pool *pool = berth_loop_pool(w.rig.loop);
        rig_close_all(&w.rig, &w.client, 1);
        RIG_UNTIL(&w.rig, berth_loop_conns(w.rig.loop) == 0, TURNS);
        rig_end(&w.rig);
        for (unsigned k = 0; k < 2; k++)
            ck_assert(is_sequence(w.kept[k].data, w.kept[k].position, w.kept[k].lease.length));
        for (unsigned k = 0; k < 2; k++)
            ck_assert_int_eq(berth_release(pool, w.kept[k].lease), 0);
        ck_assert(faults_at(w.kept[0].data)); /* though no loop turns any more */
        ck_assert_int_eq(berth_pool_destroy(pool), 0);
    }
}
END_TEST

/* ---- several threads ------------------------------------------------------------------------ */

static struct windows *other_windows;
static int other_error;

/** While one loop makes the mapping, another wants it. */
static intptr_t
test_mmap_file(size_t size, int protection, int flags, int fd)
{
    const char *why;
    berth_sys_mmap_file = sys_direct_mmap_file;
    other_error = windows_create(&other_windows, MIB, &why);
    return sys_direct_mmap_file(size, protection, flags, fd);
}

START_TEST(who_comes_second_shares_the_mapping)
{
    struct windows *windows = NULL;
    const char *why = NULL;
    unsigned char *part, *other_part;
    size_t room;
    windows_forget();
    other_error = -EINPROGRESS;
    berth_sys_mmap_file = test_mmap_file;
    const int error = windows_create(&windows, MIB, &why);
    if (error == -EOPNOTSUPP || error == -ENODEV)
        return;
    ck_assert_int_eq(error, 0);
    ck_assert_int_eq(other_error, 0);
    ck_assert_int_eq(windows_room(windows, &part, &room), 0);
    ck_assert_int_eq(windows_room(other_windows, &other_part, &room), 0);
    ck_assert_ptr_eq(other_part, part + WINDOW_CHUNK_BYTES);
    windows_destroy(windows);
    windows_destroy(other_windows);
}
END_TEST

#define THREADS 4

static pthread_barrier_t all_there;

static void *
use_windows(void *arg)
{
    unsigned char **parts = arg;
    struct windows *windows;
    const char *why;
    size_t room;
    (void)pthread_barrier_wait(&all_there);
    if (windows_create(&windows, MIB, &why) == 0 && windows_room(windows, parts, &room) == 0) {
        windows_hold(windows);
        windows_filled(windows, room);
        (void)pthread_barrier_wait(&all_there); /* nobody has given anything back yet */
        windows_destroy(windows);
        windows_release(*parts, room, windows);
    }
    return NULL;
}

START_TEST(threads_have_windows_of_their_own)
{
    pthread_t threads[THREADS];
    for (unsigned round = 0; round < 50; round++) {
        unsigned char *parts[THREADS] = {NULL};
        windows_forget();
        ck_assert_int_eq(pthread_barrier_init(&all_there, NULL, THREADS), 0);
        for (unsigned i = 0; i < THREADS; i++)
            ck_assert_int_eq(pthread_create(&threads[i], NULL, use_windows, &parts[i]), 0);
        unsigned taken = 0;
        for (unsigned i = 0; i < THREADS; i++)
            ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        const unsigned char *lowest = parts[0];
        for (unsigned i = 1; i < THREADS; i++)
            lowest = parts[i] < lowest ? parts[i] : lowest;
        for (unsigned i = 0; i < THREADS; i++) {
            const size_t chunk = (size_t)(parts[i] - lowest) / WINDOW_CHUNK_BYTES;
            ck_assert_uint_lt(chunk, THREADS);
            taken |= 1u << chunk;
        }
        ck_assert_uint_eq(taken, (1u << THREADS) - 1);
        ck_assert_int_eq(pthread_barrier_destroy(&all_there), 0);
    }
}
END_TEST

/* ---- refusals ------------------------------------------------------------------------------- */

/** What the stand-in of getsockopt(2) answers to requests for mapping; 0: what the kernel does. */
static int refuse_mapping;
static unsigned refused_mappings;

static intptr_t
test_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    if (level == IPPROTO_TCP && name == 35 && refuse_mapping != 0) {
        refused_mappings++;
        return refuse_mapping;
    }
    return sys_direct_getsockopt(fd, level, name, value, size);
}

START_TEST(a_kernel_that_maps_nothing_is_left_alone)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int force = 0; force < 2; force++) {
        if (!begin(engine, SEGMENT_PAGES, force))
            return;
        refused_mappings = 0;
        refuse_mapping = -ENOMEM;
        berth_sys_getsockopt = test_getsockopt;
        pass(16 * MIB);
        berth_sys_getsockopt = sys_direct_getsockopt;
        ck_assert_uint_eq(refused_mappings, 1);
        ck_assert_uint_eq(copies().received_mapped, 0);
        ck_assert(!conn_pulls(w.rig.loop, as_slot(w.conn)));
        char text[4096];
        (void)berth_loop_explain(w.rig.loop, text, sizeof(text));
        ck_assert_ptr_nonnull(strstr(text, "TCP_ZEROCOPY_RECEIVE refused"));
        finish();
    }
}
END_TEST

START_TEST(no_windows_is_told)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const char *const calls[] = {"mmap_file", "socket", "madvise"};
    for (unsigned i = 0; i < 3; i++) {
        if (!begin(engine, SEGMENT_PAGES, 0))
            return;
        windows_forget();
        faults_fail(calls[i], 1, FAULTS_FOR_EVER, -ENOMEM);
        ck_assert_int_eq(berth_conn_map(w.conn, 1), -ENOMEM);
        ck_assert_uint_gt(faults_hit(calls[i]), 0);
        faults_reset();
        /* It is not tried again, and nothing else suffers. */
        const int again = berth_conn_map(w.conn, 1);
        ck_assert_int_eq(again, i < 2 ? -ENOMEM : again);
        if (again == -ENOMEM) {
            char text[4096];
            (void)berth_loop_explain(w.rig.loop, text, sizeof(text));
            ck_assert_ptr_nonnull(strstr(text, "no mapped receives: "));
        }
        pass(8 * MIB);
        finish();
        windows_forget();
    }
}
END_TEST

START_TEST(a_smaller_mapping_will_do)
{
    RIG_ENGINE_OR_RETURN(engine);
    if (!begin(engine, SEGMENT_PAGES, 0))
        return;
    windows_forget();
    faults_fail("mmap_file", 1, 6, -ENOMEM); /* 256 MiB, 128, ... 8: then 4 */
    ck_assert_int_eq(berth_conn_map(w.conn, 1), 0);
    ck_assert_uint_eq(faults_hit("mmap_file"), 6);
    faults_reset();
    w.keep = KEPT_MAX;
    pass(8 * MIB);
    ck_assert_uint_le(copies().received_mapped, 4 * MIB);
    ck_assert_uint_ge(copies().received_mapped, 3 * MIB);
    w.keep = 0;
    release_kept();
    turn_some(2);
    pass(16 * MIB);
    ck_assert_uint_gt(copies().received_mapped, 8 * MIB);
    finish();
    windows_forget();
}
END_TEST

START_TEST(pages_that_stay_mapped_are_not_used_again)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.map_receive = 1;
    options.map_bytes_max = 2 * MIB;
    if (options.direct_descriptors)
        return;
    begin_with(&options, SEGMENT_PAGES, 1);
    pass(MIB);
    settle_windows();
    faults_fail("madvise", 1, FAULTS_FOR_EVER, -EINVAL);
    const uint64_t before = copies().received_mapped;
    pass(16 * MIB);
    ck_assert_uint_gt(faults_hit("madvise"), 0);
    ck_assert_uint_le(copies().received_mapped - before, 2 * MIB);
    /* Nobody is woken up for it again and again. */
    turn_some(4);
    ck_assert_int_eq(mapped_tick(w.rig.loop), -1);
    faults_reset();
    pass(32 * MIB);
    ck_assert_uint_gt(copies().received_mapped - before, 8 * MIB);
    finish();
}
END_TEST

START_TEST(some_connections_cannot)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    begin_with(&options, 0, 0);
    ck_assert_int_eq(berth_conn_map(NULL, 1), -EINVAL);
    ck_assert_int_eq(berth_conn_map(w.conn, 2), -EINVAL);
    ck_assert_int_eq(berth_conn_map(w.conn, -2), -EINVAL);
    ck_assert_int_eq(berth_conn_map(w.conn, 0), 0);
    ck_assert_int_eq(berth_conn_map(w.conn, -1), 0);
    if (w.rig.loop->direct)
        ck_assert_int_eq(berth_conn_map(w.conn, 1), -EOPNOTSUPP);
    struct berth_conn *conn = w.conn;
    int pair[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ck_assert_int_eq(berth_adopt(w.rig.loop, pair[0], &handlers, NULL, NULL), 0);
    RIG_UNTIL(&w.rig, w.conn != conn, TURNS);
    ck_assert_int_eq(berth_conn_map(w.conn, 1), -EOPNOTSUPP);
    ck_assert_int_eq(berth_conn_close(w.conn), 0);
    ck_assert_int_eq(berth_conn_map(w.conn, 1), -EPIPE);
    ck_assert_int_eq(close(pair[1]), 0);
    finish();
}
END_TEST

START_TEST(the_feature_can_be_switched_off)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.map_receive = 1;
    options.features = "-mapped";
    begin_with(&options, SEGMENT_PAGES, 1);
    ck_assert_int_eq(w.force_to, -EOPNOTSUPP);
    pass(8 * MIB);
    ck_assert_uint_eq(copies().received_mapped, 0);
    char text[4096];
    (void)berth_loop_explain(w.rig.loop, text, sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "mapped receives: off"));
    finish();
}
END_TEST

/* ---- children ------------------------------------------------------------------------------- */

static void
life_of_a_child(const char *engine, const unsigned char *inherited)
{
    RIG_MUST(faults_at(inherited)); /* it is not */
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.map_receive = 1;
    begin_with(&options, SEGMENT_PAGES, 1);
    RIG_MUST(w.force_to == 0);
    pass(2 * MIB);
    RIG_MUST(w.wrong == 0);
    struct berth_copies now;
    berth_loop_copies_get(w.rig.loop, &now);
    RIG_MUST(now.received_mapped > MIB);
}

START_TEST(a_child_makes_its_own)
{
    RIG_ENGINE_OR_RETURN(engine);
    int skipped;
    if (!begin(engine, SEGMENT_PAGES, 1))
        return;
    keep_one();
    const unsigned char *data = w.kept[0].data;
    RIG_IN_CHILD(skipped, life_of_a_child(engine, data));
    ck_assert(!skipped);
    ck_assert(is_sequence(data, w.kept[0].position, w.kept[0].lease.length));
    pass(2 * MIB);
    finish();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("mapped ends");
    RIG_ADD(suite, without_windows_bytes_are_copied);
    RIG_ADD(suite, the_budget_is_kept);
    RIG_ADD(suite, a_released_lease_faults);
    RIG_ADD(suite, mapped_spans_are_read_only);
    RIG_ADD(suite, another_thread_may_release);
    RIG_ADD(suite, loops_come_and_go);
    RIG_ADD(suite, a_lease_outlives_the_loop);
    RIG_ADD_COUNTED(suite, who_comes_second_shares_the_mapping, 1);
    RIG_ADD_COUNTED(suite, threads_have_windows_of_their_own, 1);
    RIG_ADD(suite, a_kernel_that_maps_nothing_is_left_alone);
    RIG_ADD(suite, no_windows_is_told);
    RIG_ADD(suite, a_smaller_mapping_will_do);
    RIG_ADD(suite, pages_that_stay_mapped_are_not_used_again);
    RIG_ADD(suite, some_connections_cannot);
    RIG_ADD(suite, the_feature_can_be_switched_off);
    RIG_ADD(suite, a_child_makes_its_own);
    return test_run(suite);
}
