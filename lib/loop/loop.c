/*
 * The loop itself: making one, choosing the engine, turning, stopping, and telling about it. What
 * happens to connections is conn.c's affair; how bytes move is an engine's.
 *
 * The invariant: outside a turn no callback runs; inside one, no second turn begins.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_MEMORY
#include "loop/cross.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loop/connect_name.h"
#include "loop/forward.h"
#include "loop/mapped.h"
#include "loop/resolve.h"
#include "loop/udp_internal.h"
#include "loop/send.h"
#include "loop/splice.h"
#include "os/memory.h"
#include "os/probes.h"
#include "os/sys.h"

/** No wait is longer than this: wake-ups have been lost by kernels as late as 7.3.3. */
#define WAIT_MS_MAX 1000

/** How long the loop waits for the kernel to let go of everything when it is destroyed. */
#define DESTROY_WAIT_MS 6000

/** Turns that may fail meanwhile: what fails for a moment must not cost anybody the close. */
#define DESTROY_FAILURES_MAX 8

/** Best first. A row is all it takes to add one. */
static const struct engine *const engines[] = {
#ifdef BERTH_HAVE_LIBURING
    &berth_engine_uring,
#endif
#ifdef __linux__
    &berth_engine_epoll,
#endif
    &berth_engine_poll,
};
#define ENGINE_COUNT (sizeof(engines) / sizeof(engines[0]))

struct berth_loop *berth_loops[LOOP_COUNT_MAX];
_Thread_local struct berth_loop *loop_turning;

/* ---- making one ----------------------------------------------------------------------------- */

static int
options_check(const struct berth_loop_options *options)
{
    if (options->abi != BERTH_LOOP_ABI)
        return -EPROTO;
    if (options->cold_bytes > CONN_COLD_USER_MAX || options->receive_buffers < 16 ||
        options->receive_buffers > 32768 || options->events_max < 16 ||
        options->events_max > 8192 || options->fairness_bytes < 4096 ||
        options->send_max_bytes == 0 || options->zerocopy_bytes == 0 ||
        options->send_low_bytes >= options->send_high_bytes ||
        options->send_high_bytes > options->send_max_bytes ||
        options->connect_timeout_ms > BERTH_TIMEOUT_MS_MAX ||
        (options->idle_park_ms != 0 && options->idle_park_ms < IDLE_MS_MIN) ||
        options->idle_park_ms > IDLE_MS_MAX || options->map_bytes_max < BERTH_MAP_BYTES_MIN ||
        options->map_bytes_max > BERTH_MAP_BYTES_MAX)
        return -EINVAL;
    return 0;
}

/** A number for this loop, by which its connections find it. */
static int
register_loop(struct berth_loop *loop)
{
    for (uint32_t id = 0; id < LOOP_COUNT_MAX; id++) {
        struct berth_loop *nobody = NULL;
        if (__atomic_compare_exchange_n(&berth_loops[id], &nobody, loop, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
            loop->id = id;
            return 0;
        }
    }
    return -EMFILE;
}

/** A page that is one in this process and zero in a child of fork(2). */
static int
create_fork_guard(struct berth_loop *loop)
{
    void *memory = NULL;
    const size_t bytes = berth_memory_page_bytes();
    const int error = berth_memory_take(&memory, bytes, "berth-fork-guard");
    if (error)
        return error;
    loop->fork_guard = memory;
    *loop->fork_guard = 1;
#ifdef MADV_WIPEONFORK
    (void)sys_madvise(memory, bytes, MADV_WIPEONFORK);
#endif
    return 0;
}

/** The descriptor that berth_loop_stop writes to, and its slot. */
static int
create_wake(struct berth_loop *loop)
{
    loop->wake_fd = (int)sys_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0)
        return loop->wake_fd;
    struct berth_slot *slot = NULL;
    const int index = descriptor_enter(loop, loop->wake_fd);
    if (index < 0)
        return index;
    const int error = berth_table_claim(loop->table, (uint32_t)index, &slot);
    if (error)
        return error;
    slot->state = (loop->id << LOOP_ID_SHIFT) | KIND_WAKE;
    loop->wake_token = berth_slot_token(slot, OP_WAKE);
    return 0;
}

/** What its numbers are is the engine's to say, which has been chosen. */
static int
create_table(struct berth_loop *loop)
{
    struct berth_table_options table;
    berth_table_options_init(&table);
    table.slots_max = loop->options.conns_max;
    table.cold_bytes = CONN_COLD_BYTES + loop->options.cold_bytes;
    if (loop->options.conn_stats) {
        loop->counts_at = (table.cold_bytes + 7) & ~7u;
        table.cold_bytes = loop->counts_at + CONN_COUNTS_BYTES;
    }
    table.index_mode = loop->direct ? BERTH_INDEX_DIRECT : BERTH_INDEX_FD;
    table.huge_pages = loop->options.huge_pages;
    const int error = berth_table_init(loop->table, &table);
    if (error)
        return error;
#ifdef MADV_WIPEONFORK
    /* So that a child finds no connection behind any pointer or token, at no cost to its parent. */
    (void)sys_madvise(loop->table->hot,
                      berth_table_slots_max(loop->table) * sizeof(struct berth_slot),
                      MADV_WIPEONFORK);
#endif
    return 0;
}

static int
create_parts(struct berth_loop *loop)
{
    if (loop->options.pool != NULL)
        loop->pool_options = *loop->options.pool;
    else
        berth_pool_options_init(&loop->pool_options);
    int error = berth_pool_create(&loop->pool, &loop->pool_options);
    if (!error)
        error = send_nodes_create(&loop->nodes);
    if (!error)
        error = create_fork_guard(loop);
    if (error)
        return error;
    loop->reserve_fd = (int)sys_open("/dev/null", O_RDONLY | O_CLOEXEC);
    return loop->reserve_fd < 0 ? loop->reserve_fd : 0;
}

static void __attribute__((format(printf, 2, 3)))
add_refusal(struct berth_loop *loop, const char *format, ...)
{
    const size_t used = strlen(loop->refusals);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(loop->refusals + used, sizeof(loop->refusals) - used, format, arguments);
    va_end(arguments);
}

/** What usually lies behind a refusal, and what cures it. */
static const char *
likely_cause(int error)
{
    switch (error) {
    case -EPERM:
        return " (forbidden: a container's seccomp filter, or sysctl kernel.io_uring_disabled; "
               "'sysctl kernel.io_uring_disabled=0' or '--security-opt seccomp=...' allows it)";
    case -ENOSYS:
        return " (this kernel has no such system call)";
    case -ENOMEM:
        return " (out of locked memory: raise 'ulimit -l')";
    case -EMFILE:
        return " (out of descriptors: raise 'ulimit -n')";
    default:
        return "";
    }
}

static int
try_engine(struct berth_loop *loop, const struct engine *engine)
{
    char why[128] = "";
    loop->engine = engine;
    const int error = engine->create(loop, why, sizeof(why));
    if (error) {
        loop->engine = NULL;
        add_refusal(loop, "not %s: %s: %s%s\n", engine->name, why, strerror(-error),
                    likely_cause(error));
    }
    return error;
}

/** The engine asked for by name, or the first that this system grants. */
static int
choose_engine(struct berth_loop *loop)
{
    const char *wanted = loop->options.engine;
    int error = -EINVAL;
    for (size_t i = 0; i < ENGINE_COUNT; i++) {
        if (strcmp(wanted, "auto") != 0 && strcmp(wanted, engines[i]->name) != 0)
            continue;
        error = try_engine(loop, engines[i]);
        if (error == 0)
            return 0;
    }
#ifndef BERTH_HAVE_LIBURING
    if (strcmp(wanted, "uring") == 0)
        return -ENOSYS; /* a good name, but this library was built without liburing */
#endif
    return error;
}

/**
 * What the close protocol did not get to: the engine never ran, or did not let go. The engine is
 * gone now, so that nothing reads their queues any more.
 */
static void
close_leftovers(struct berth_loop *loop)
{
    BERTH_TABLE_EACH_LIVE (loop->table, index) {
        struct berth_slot *slot = berth_table_slot(loop->table, index);
        if (slot_kind(slot) == KIND_WAKE)
            continue;
        /* What a zombie's socket still reads is never anybody else's: the pool is lost. */
        if (zerocopy_holds(loop, slot))
            zerocopy_abandon(loop, slot);
        else
            send_clear(loop, slot);
        if (slot_kind(slot) == KIND_DATAGRAM)
            udp_free(loop, slot);
        const int fd = loop->direct ? descriptor_kept(loop, slot) : (int)index;
        if (fd >= 0)
            (void)sys_close(fd);
    }
}

static void
destroy_parts(struct berth_loop *loop)
{
    nested_close(loop);
    if (loop->engine != NULL)
        loop->engine->destroy(loop);
    if (loop->pool != NULL)
        receive_turn_over(loop);
    close_leftovers(loop);
    zerocopy_destroy(loop);
    resolve_destroy(loop->resolver); /* before the descriptor that its helpers write to */
    udp_state_destroy(loop);
    if (loop->wake_fd >= 0)
        (void)sys_close(loop->wake_fd);
    if (loop->reserve_fd >= 0)
        (void)sys_close(loop->reserve_fd);
    send_nodes_destroy(&loop->nodes);
    forward_destroy(loop);
    splice_destroy(loop);
    (void)berth_pool_destroy(loop->pool);
    mapped_destroy(loop);
    berth_table_fini(&loop->table_storage);
    berth_memory_release(loop->fork_guard, berth_memory_page_bytes());
    if (berth_loops[loop->id] == loop)
        __atomic_store_n(&berth_loops[loop->id], NULL, __ATOMIC_RELEASE);
    free(loop);
}

int
berth_loop_create(struct berth_loop **result, const struct berth_loop_options *given)
{
    if (result == NULL)
        return -EINVAL;
    struct berth_loop_options options;
    struct feature_wishes wishes;
    struct zcrx_wish zcrx;
    memset(&wishes, 0, sizeof(wishes));
    if (given != NULL)
        options = *given;
    else
        berth_loop_options_init(&options);
    int error = options_check(&options);
    if (!error)
        error = features_parse(&wishes, options.features, NULL);
    if (!error)
        error = zcrx_option_parse(&zcrx, options.zcrx);
    if (error)
        return error;
    features_from_environment(&wishes);
    if (options.engine == NULL || strcmp(options.engine, "auto") == 0)
        options.engine = getenv("BERTH_ENGINE");
    if (options.engine == NULL || *options.engine == '\0')
        options.engine = "auto";

    /* Not calloc: the table in it stands on a cache line. */
    struct berth_loop *loop =
        (struct berth_loop *)aligned_alloc(_Alignof(struct berth_loop), sizeof(*loop));
    if (loop == NULL)
        return -ENOMEM;
    memset(loop, 0, sizeof(*loop));
    loop->options = options;
    loop->table = &loop->table_storage; /* empty until there is an engine */
    loop->wishes = wishes;
    loop->zcrx = zcrx;
    if (wishes.off & FEATURE_DEMOTION)
        loop->options.idle_park_ms = 0;
    if ((wishes.on | wishes.off) & FEATURE_DIRECT)
        loop->options.direct_descriptors = (wishes.on & FEATURE_DIRECT) != 0;
    if (wishes.off & FEATURE_MAPPED)
        loop->options.map_receive = 0;
    loop->wake_fd = loop->reserve_fd = -1;
    wheel_init(&loop->timers, loop_time(loop));
    error = register_loop(loop);
    if (error) {
        free(loop);
        return error;
    }
    error = create_parts(loop);
    if (!error)
        error = choose_engine(loop);
    if (!error)
        error = create_table(loop);
    if (!error)
        error = create_wake(loop);
    if (error) {
        destroy_parts(loop);
        return error;
    }
    /* The caller's text: not ours to keep. */
    loop->options.engine = loop->options.features = loop->options.zcrx = NULL;
    *result = loop;
    return 0;
}

/* ---- turning -------------------------------------------------------------------------------- */

/** The shorter of two waits, -1 being no limit. */
static int
shorter(int a_ms, int b_ms)
{
    if (a_ms < 0)
        return b_ms;
    return b_ms < 0 || a_ms < b_ms ? a_ms : b_ms;
}

int
loop_start(struct berth_loop *loop)
{
    if (loop->started)
        return 0;
    berth_pool_adopt(loop->pool);
    int error = loop->engine->start == NULL ? 0 : loop->engine->start(loop);
    if (error)
        return error;
    error = loop->engine->watch(loop,
                                berth_table_slot(loop->table, berth_token_index(loop->wake_token)));
    loop->started = error == 0;
    return error;
}

/** How long may be waited, at most timeout_ms: until something is due that no event tells of. */
static int
wait_ms(struct berth_loop *loop, int timeout_ms)
{
    if (loop->starved.count + loop->files.count > 0)
        timeout_ms = shorter(timeout_ms, STARVED_TICK_MS);
    timeout_ms = shorter(timeout_ms, udp_tick(loop));
    timeout_ms = shorter(timeout_ms, conn_closing_tick(loop));
    timeout_ms = shorter(timeout_ms, zerocopy_tick(loop));
    timeout_ms = shorter(timeout_ms, listener_tick(loop));
    timeout_ms = shorter(timeout_ms, timers_wait_ms(loop));
    timeout_ms = shorter(timeout_ms, idle_tick(loop));
    if (BERTH_UNLIKELY(loop->mapper != NULL))
        timeout_ms = shorter(timeout_ms, mapped_tick(loop));
    timeout_ms = shorter(timeout_ms, WAIT_MS_MAX);
    return loop->todo_count > 0 || posts_pending(loop) || resolve_answered(loop->resolver)
               ? 0
               : timeout_ms;
}

static int
turn(struct berth_loop *loop, int timeout_ms)
{
    timeout_ms = wait_ms(loop, loop->todo_count > 0 ? 0 : timeout_ms);
    loop->stats.turns++;
    const int handled = loop->engine->turn(loop, timeout_ms);
    BERTH_PROBE(turn, handled);
    loop->current = NULL;
    unsigned more = timers_run(loop);
    if (more > 0)
        send_batch(loop); /* before anybody it sends for can be gone */
    if (BERTH_UNLIKELY(__atomic_load_n(&loop->signals_came, __ATOMIC_RELAXED) != 0))
        more += signals_run(loop);
    if (BERTH_UNLIKELY(posts_pending(loop)))
        more += posts_run(loop);
    if (BERTH_UNLIKELY(resolve_answered(loop->resolver)))
        more += connect_answers(loop);
    more += conn_run_todo(loop);
    (void)berth_pool_turn(loop->pool);
    if (loop->starved.count > 0)
        more += receive_starved(loop);
    if (BERTH_UNLIKELY(loop->files.count > 0))
        more += send_files_waiting(loop);
    send_batch(loop);
    receive_turn_over(loop);
    if (BERTH_UNLIKELY(loop->mapper != NULL))
        mapped_turn_over(loop);
    return handled < 0 ? handled : handled + (int)more;
}

void
loop_rest(struct berth_loop *loop)
{
    if (loop->in_turn)
        return; /* the turn ends with it */
    loop->in_turn = 1;
    nested_rest(loop, wait_ms(loop, -1));
    loop->in_turn = 0;
    loop->now_fresh = 0;
}

int
berth_loop_turn(struct berth_loop *loop, int timeout_ms)
{
    if (loop == NULL)
        return -EINVAL;
    if (loop_is_child(loop))
        return -ECHILD;
    if (loop->in_turn)
        return -EBUSY;
    const int error = loop_start(loop);
    if (error)
        return error;
    struct berth_loop *outer = loop_turning;
    loop_turning = loop;
    loop->in_turn = 1;
    loop->now_fresh = 0;
    loop->resting = 0;
    const int handled = turn(loop, timeout_ms);
    if (BERTH_UNLIKELY(loop->nested != NULL))
        nested_rest(loop, wait_ms(loop, -1));
    loop->in_turn = 0;
    loop->now_fresh = 0;
    loop_turning = outer;
    return handled;
}

int
berth_loop_run(struct berth_loop *loop)
{
    int handled = 0;
    while (handled >= 0) {
        if (loop != NULL && __atomic_exchange_n(&loop->stop, 0, __ATOMIC_ACQ_REL))
            return 0;
        if (loop != NULL && loop_drained(loop))
            return 0;
        handled = berth_loop_turn(loop, -1);
    }
    return handled;
}

/** Turns until every connection is gone, or the kernel has had its time. */
static void
close_everything(struct berth_loop *loop)
{
    const uint64_t deadline_ms = loop_now_ms() + DESTROY_WAIT_MS;
    unsigned failures = 0;
    loop->in_turn = 1; /* nor may what was posted turn */
    posts_close(loop);
    loop->in_turn = 0;
    listener_close_all(loop);
    conn_fail_all(loop);
    /* One slot is the wake-up descriptor's. */
    while (berth_table_live_count(loop->table) > 1 + loop->zombies &&
           failures < DESTROY_FAILURES_MAX && loop_now_ms() < deadline_ms)
        failures += berth_loop_turn(loop, 10) < 0;
    loop->in_turn = 1; /* the last callbacks may not turn either */
    conn_abandon_all(loop);
    loop->in_turn = 0;
}

int
berth_loop_destroy(struct berth_loop *loop)
{
    if (loop == NULL)
        return 0;
    if (loop_is_child(loop))
        return -ECHILD;
    if (loop->in_turn)
        return -EBUSY;
    loop->drain.state = DRAIN_OVER; /* or whoever connects again when closed would never end */
    signals_close(loop);
    timers_forget(loop);
    close_everything(loop);
    posts_settle(loop);
    timers_forget(loop); /* those too that a close callback has started */
    signals_close(loop); /* or watched */
    destroy_parts(loop);
    return 0;
}
