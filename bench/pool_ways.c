/*
 * Taking and giving back buffers: berth's pool, the C library's malloc (the real one, even where
 * the program itself runs on another), jemalloc, and a bare list of free indices, which is the
 * floor: no generations, no references, no other thread.
 *
 * The C library's malloc gives the end of its heap back to the kernel when more than 128 KiB of it
 * are free, which a batch of buffers given back does each time; then it is the kernel that one
 * measures. So `malloc` is told to keep what it has, by mallopt(3), and `malloc-trim` is malloc as
 * it comes.
 *
 * The patterns are written once, as macros over each contestant's own take and give, so that none
 * pays for a call that the others do not make. malloc and free are called through pointers, as a
 * dynamic linker does.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool_ways.h"

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "memory_region.h"
#include "random.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/** Buffers that the free list has: what churn holds and a batch, and some more. */
#define FREE_MAX (POOL_HELD + 4 * POOL_BATCH)

/** Slabs for the most that is held of the largest class used, 64 KiB, and then some. */
#define POOL_BYTES_MAX ((size_t)256 << 20)

/** What malloc may keep free at the end of its heap: everything, or what it keeps by default. */
#define MALLOC_KEEP_ALL (1 << 30)
#define MALLOC_KEEP_USUAL (128 * 1024)

/** Places that churn visits before it begins again. */
#define PLACES (1u << 16)

/** What belongs to all of them. */
static struct {
    enum berth_class size_class;
    uint32_t bytes;
    uint32_t *places; /**< PLACES random numbers below POOL_HELD, each batch without repetition */
    uint32_t place;
    bool holding; /**< what churn holds has been taken */
    bool failed;  /**< one of them did not get a buffer, or could not give one back */
} on;

/* ---- berth --------------------------------------------------------------------------------------
 */

static struct berth_pool *pool;
static uint32_t posted;           /**< for pool_pass_receive */
static struct berth_lease shared; /**< for pool_pass_share */

static ALWAYS_INLINE struct berth_lease
berth_take(void)
{
    struct berth_lease lease = {0, 0, 0, 0};
    if (berth_pool_get(pool, on.size_class, BERTH_FOR_NEW, &lease) != 0) {
        on.failed = true;
        return lease;
    }
    *(volatile unsigned char *)berth_lease_data(pool, lease) = 1;
    return lease;
}

static ALWAYS_INLINE void
berth_give(struct berth_lease lease)
{
    if (berth_release(pool, lease) != 0)
        on.failed = true;
}

static void
berth_turn(void)
{
    if (berth_pool_turn(pool) != POOL_BATCH)
        on.failed = true;
}

void
pool_pass_receive(void *context)
{
    (void)context;
    for (unsigned i = 0; i < POOL_BATCH; i++) {
        struct berth_span span;
        if (berth_pool_lend(pool, posted, 64, &span) != 0) {
            on.failed = true;
            return;
        }
        *(volatile unsigned char *)span.data = 1;
        if (berth_pool_settle(pool, posted) != 1)
            on.failed = true;
    }
}

void
pool_pass_receive_keep(void *context)
{
    (void)context;
    for (unsigned i = 0; i < POOL_BATCH; i++) {
        struct berth_span span;
        struct berth_lease lease = {0, 0, 0, 0};
        uint32_t buffer = 0;
        void *data = NULL;
        if (berth_pool_post(pool, on.size_class, BERTH_FOR_NEW, &buffer, &data) != 0 ||
            berth_pool_lend(pool, buffer, 64, &span) != 0 ||
            berth_retain(pool, &span, 0, 64, 0, &lease) != 0) {
            on.failed = true;
            return;
        }
        *(volatile unsigned char *)span.data = 1;
        if (berth_pool_settle(pool, buffer) != 0 || berth_release(pool, lease) != 0)
            on.failed = true;
    }
}

void
pool_pass_share(void *context)
{
    (void)context;
    for (unsigned i = 0; i < POOL_BATCH; i++) {
        if (berth_lease_share(pool, shared) != 0 || berth_release(pool, shared) != 0)
            on.failed = true;
    }
}

/* ---- malloc and jemalloc ------------------------------------------------------------------------
 */

struct allocator {
    void *(*allocate)(size_t bytes);
    void (*release)(void *memory);
};

static struct allocator libc_malloc, jemalloc;
static int (*libc_mallopt)(int what, int value);

static void
malloc_keep(void)
{
    libc_mallopt(M_TRIM_THRESHOLD, MALLOC_KEEP_ALL);
}

static void
malloc_trim_as_usual(void)
{
    libc_mallopt(M_TRIM_THRESHOLD, MALLOC_KEEP_USUAL);
}

static ALWAYS_INLINE void *
heap_take(const struct allocator *allocator)
{
    void *memory = allocator->allocate(on.bytes);
    if (memory == NULL)
        on.failed = true;
    else
        *(volatile unsigned char *)memory = 1;
    return memory;
}

static ALWAYS_INLINE void *
malloc_take(void)
{
    return heap_take(&libc_malloc);
}

static ALWAYS_INLINE void
malloc_give(void *memory)
{
    libc_malloc.release(memory);
}

static ALWAYS_INLINE void *
jemalloc_take(void)
{
    return heap_take(&jemalloc);
}

static ALWAYS_INLINE void
jemalloc_give(void *memory)
{
    jemalloc.release(memory);
}

/* ---- the floor ----------------------------------------------------------------------------------
 */

static struct {
    struct memory_region region;
    uint32_t free[FREE_MAX];
    uint32_t count;
} bare;

static ALWAYS_INLINE uint32_t
bare_take(void)
{
    if (bare.count == 0) {
        on.failed = true;
        return 0;
    }
    const uint32_t index = bare.free[--bare.count];
    *(volatile unsigned char *)(bare.region.data + (size_t)index * on.bytes) = 1;
    return index;
}

static ALWAYS_INLINE void
bare_give(uint32_t index)
{
    if (bare.count < FREE_MAX)
        bare.free[bare.count++] = index;
    else
        on.failed = true;
}

/* ---- patterns -----------------------------------------------------------------------------------
 */

const char *const pool_pattern_names[POOL_PATTERNS] = {
    [POOL_PAIR] = "pair",
    [POOL_LIFO] = "lifo",
    [POOL_FIFO] = "fifo",
    [POOL_CHURN] = "churn",
};

/** Where churn works next: POOL_BATCH different places. */
static ALWAYS_INLINE const uint32_t *
next_places(void)
{
    const uint32_t *places = on.places + on.place;
    on.place = (on.place + POOL_BATCH) % PLACES;
    return places;
}

#define PATTERNS(name, handle)                                                                     \
    static handle name##_batch[POOL_BATCH];                                                        \
    static handle name##_held[POOL_HELD];                                                          \
    static void name##_pair(void *context)                                                         \
    {                                                                                              \
        (void)context;                                                                             \
        for (unsigned i = 0; i < POOL_BATCH; i++)                                                  \
            name##_give(name##_take());                                                            \
    }                                                                                              \
    static void name##_take_batch(void)                                                            \
    {                                                                                              \
        for (unsigned i = 0; i < POOL_BATCH; i++)                                                  \
            name##_batch[i] = name##_take();                                                       \
    }                                                                                              \
    static void name##_give_batch(void)                                                            \
    {                                                                                              \
        for (unsigned i = 0; i < POOL_BATCH; i++)                                                  \
            name##_give(name##_batch[i]);                                                          \
    }                                                                                              \
    static void name##_lifo(void *context)                                                         \
    {                                                                                              \
        (void)context;                                                                             \
        name##_take_batch();                                                                       \
        for (unsigned i = POOL_BATCH; i-- > 0;)                                                    \
            name##_give(name##_batch[i]);                                                          \
    }                                                                                              \
    static void name##_fifo(void *context)                                                         \
    {                                                                                              \
        (void)context;                                                                             \
        name##_take_batch();                                                                       \
        name##_give_batch();                                                                       \
    }                                                                                              \
    static void name##_churn(void *context)                                                        \
    {                                                                                              \
        (void)context;                                                                             \
        const uint32_t *places = next_places();                                                    \
        for (unsigned i = 0; i < POOL_BATCH; i++)                                                  \
            name##_give(name##_held[places[i]]);                                                   \
        for (unsigned i = 0; i < POOL_BATCH; i++)                                                  \
            name##_held[places[i]] = name##_take();                                                \
    }                                                                                              \
    static void name##_hold(void)                                                                  \
    {                                                                                              \
        for (unsigned i = 0; i < POOL_HELD; i++)                                                   \
            name##_held[i] = name##_take();                                                        \
    }                                                                                              \
    static void name##_let_go(void)                                                                \
    {                                                                                              \
        for (unsigned i = 0; i < POOL_HELD; i++)                                                   \
            name##_give(name##_held[i]);                                                           \
    }

PATTERNS(berth, struct berth_lease)
PATTERNS(malloc, void *)
PATTERNS(jemalloc, void *)
PATTERNS(bare, uint32_t)

#define WAY(title, own, before, turns)                                                             \
    {                                                                                              \
        .name = title, .prepare = before,                                                          \
        .passes = {own##_pair, own##_lifo, own##_fifo, own##_churn}, .take = own##_take_batch,     \
        .give = own##_give_batch, .turn = turns,                                                   \
    }

struct pool_way pool_ways[] = {
    [POOL_WAY_BERTH] = WAY("berth", berth, NULL, berth_turn),
    [POOL_WAY_MALLOC] = WAY("malloc", malloc, malloc_keep, NULL),
    WAY("malloc-trim", malloc, malloc_trim_as_usual, NULL),
    WAY("jemalloc", jemalloc, NULL, NULL),
    WAY("free-list", bare, NULL, NULL),
};

#define WAY_MALLOC_TRIM 2u
#define WAY_JEMALLOC 3u

const unsigned pool_ways_count = sizeof pool_ways / sizeof pool_ways[0];

/* ---- finding the allocators ---------------------------------------------------------------------
 */

/** There only where the program is linked with jemalloc. */
extern int mallctl(const char *name, void *old, size_t *old_bytes, void *new, size_t new_bytes)
    __attribute__((weak));

/** Both functions of one library, or of whatever the program uses. False: they are not there. */
static bool
find_allocator(void *library, struct allocator *allocator)
{
    /* POSIX lets a function's address pass through a void pointer; C has no word for it. */
    void *allocate = dlsym(library, "malloc"), *release = dlsym(library, "free");
    memcpy(&allocator->allocate, &allocate, sizeof allocate);
    memcpy(&allocator->release, &release, sizeof release);
    return allocate != NULL && release != NULL;
}

/** Whether the function lies in the C library itself. */
static bool
is_of_libc(const struct allocator *allocator)
{
    Dl_info info;
    void *address;
    memcpy(&address, &allocator->allocate, sizeof address);
    if (dladdr(address, &info) == 0 || info.dli_fname == NULL)
        return false;
    const char *slash = strrchr(info.dli_fname, '/');
    const char *name = slash != NULL ? slash + 1 : info.dli_fname;
    return strncmp(name, "libc.so", 7) == 0 || strncmp(name, "libc-", 5) == 0;
}

/** The C library's own, which everything here uses already: nothing new is loaded. */
static bool
find_libc(void)
{
    void *library = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    if (library == NULL)
        return false;
    void *option = dlsym(library, "mallopt");
    memcpy(&libc_mallopt, &option, sizeof option);
    const bool found =
        option != NULL && find_allocator(library, &libc_malloc) && is_of_libc(&libc_malloc);
    dlclose(library);
    return found;
}

void
pool_ways_find(struct bench *bench)
{
    const bool found = find_libc();
    pool_ways[POOL_WAY_MALLOC].absent = pool_ways[WAY_MALLOC_TRIM].absent = !found;
    if (!found)
        report_note(&bench->report, "malloc was left out: the C library's own was not found");
    const bool linked = mallctl != NULL && find_allocator(RTLD_DEFAULT, &jemalloc) &&
                        !is_of_libc(&jemalloc) && jemalloc.allocate != libc_malloc.allocate;
    pool_ways[WAY_JEMALLOC].absent = !linked;
    if (!linked)
        report_note(&bench->report, "jemalloc was left out: this program is not linked with it");
}

/* ---- one size -----------------------------------------------------------------------------------
 */

static int
begin_places(void)
{
    uint64_t random = RANDOM_SEED;
    uint32_t order[POOL_HELD];
    on.places = malloc(PLACES * sizeof on.places[0]);
    if (on.places == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < PLACES; i++) {
        if (i % POOL_HELD == 0)
            random_order(order, POOL_HELD, &random);
        on.places[i] = order[i % POOL_HELD];
    }
    on.place = 0;
    return 0;
}

static int
begin_berth(void)
{
    struct berth_pool_options options;
    void *data = NULL;
    berth_pool_options_init(&options);
    options.bytes_max = POOL_BYTES_MAX;
    int error = berth_pool_create(&pool, &options);
    if (error == 0)
        error = berth_pool_post(pool, on.size_class, BERTH_FOR_NEW, &posted, &data);
    if (error == 0)
        error = berth_pool_get(pool, on.size_class, BERTH_FOR_NEW, &shared);
    return error;
}

static int
begin_bare(void)
{
    const int error = memory_region_map(&bare.region, (size_t)FREE_MAX * on.bytes, true);
    for (uint32_t i = 0; i < FREE_MAX; i++)
        bare.free[i] = FREE_MAX - 1 - i;
    bare.count = FREE_MAX;
    return error;
}

int
pool_ways_begin(enum berth_class size_class)
{
    on.failed = false;
    on.size_class = size_class;
    on.bytes = berth_class_bytes(size_class);
    int error = begin_places();
    if (error == 0)
        error = begin_berth();
    if (error == 0)
        error = begin_bare();
    if (error != 0)
        return error;
    on.holding = true;
    berth_hold();
    bare_hold();
    if (!pool_ways[POOL_WAY_MALLOC].absent)
        malloc_hold();
    if (!pool_ways[WAY_JEMALLOC].absent)
        jemalloc_hold();
    return on.failed ? -ENOMEM : 0;
}

/** Everything back, and then the pool itself says whether anything is amiss. */
static int
end_berth(void)
{
    struct berth_pool_stats stats;
    int error = berth_pool_unpost(pool, posted);
    if (error == 0)
        error = berth_release(pool, shared);
    berth_pool_turn(pool);
    berth_pool_stats_get(pool, &stats);
    if (error == 0 && (stats.outstanding != 0 || stats.refused != 0 || stats.illegal != 0))
        error = -EBADMSG;
    if (error == 0)
        error = berth_pool_verify(pool, NULL);
    const int destroyed = berth_pool_destroy(pool);
    pool = NULL;
    return error != 0 ? error : destroyed;
}

/** Whether every index is free again, once. */
static int
end_bare(void)
{
    static bool seen[FREE_MAX];
    memset(seen, 0, sizeof seen);
    int error = bare.count == FREE_MAX ? 0 : -EBADMSG;
    for (uint32_t i = 0; i < bare.count; i++) {
        if (seen[bare.free[i]])
            error = -EBADMSG;
        seen[bare.free[i]] = true;
    }
    memory_region_unmap(&bare.region);
    return error;
}

static void
let_go(void)
{
    berth_let_go();
    bare_let_go();
    if (!pool_ways[POOL_WAY_MALLOC].absent)
        malloc_let_go();
    if (!pool_ways[WAY_JEMALLOC].absent)
        jemalloc_let_go();
    on.holding = false;
}

int
pool_ways_end(void)
{
    if (on.holding)
        let_go();
    const int pool_error = pool != NULL ? end_berth() : 0;
    const int floor_error = bare.region.data != NULL ? end_bare() : 0;
    free(on.places);
    on.places = NULL;
    if (pool_error != 0 || floor_error != 0)
        return pool_error != 0 ? pool_error : floor_error;
    return on.failed ? -EBADMSG : 0;
}
