/*
 * The windows of all loops: see window.h.
 *
 * The mapping is lent by a TCP socket that is closed at once: the kernel asks only whether it is a
 * mapping of some TCP socket. What is known about it lies in memory that a child of fork(2) finds
 * zeroed, and the mapping itself is not inherited: a child that wants windows makes its own.
 *
 * The invariants: a chunk has one loop, and a window is touched by that loop's thread alone; a
 * window that is free has no page mapped; a part is never reused before it was unmapped.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_MEMORY
#define BERTH_SYS_SOCKET
#include "loop/window.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "berth/attr.h"
#include "os/memory.h"
#include "os/sys.h"

#define CHUNKS_MAX (WINDOWS_BYTES_MAX / WINDOW_CHUNK_BYTES)
#define WINDOWS_MAX (WINDOWS_BYTES_MAX / WINDOW_BYTES)
#define WINDOWS_PER_CHUNK (WINDOW_CHUNK_BYTES / WINDOW_BYTES)
#define WORD_BITS 64
#define WORDS (WINDOWS_MAX / WORD_BITS)
#define CHUNK_WORDS (CHUNKS_MAX / WORD_BITS)

/** With less room than this a window counts as full. */
#define ROOM_MIN ((size_t)64 << 10)

#define NONE UINT32_MAX

/** The mapping of a process, or that it cannot be had. */
struct arena {
    int error;
    const char *why;
    void *mapping;
    size_t mapping_bytes;
    unsigned char *base;         /**< where the first chunk begins in it */
    size_t bytes;                /**< of all chunks */
    uint64_t taken[CHUNK_WORDS]; /**< atomic: chunks that a loop has */
};

/** A page that is zero in a child; made once, and kept. Atomic, and so is what it holds. */
static struct arena **the_arena;

struct window {
    uint32_t holders; /**< parts that somebody holds */
    uint32_t used;    /**< bytes mapped, from its beginning on */
};

struct windows {
    struct arena *arena;
    size_t limit;       /**< windows in use at once */
    size_t in_use;      /**< not free */
    size_t chunks;      /**< taken */
    uint32_t open;      /**< the window being filled, or NONE */
    size_t dirty_bytes; /**< of windows in `dirty` */
    size_t held;        /**< parts that somebody holds, of all windows */
    int closed;         /**< the loop is gone: who releases the last part frees all this */
    uint64_t free[WORDS];
    uint64_t dirty[WORDS]; /**< full, and nobody holds any of it */
    uint64_t owned[CHUNK_WORDS];
    struct window at[WINDOWS_MAX];
};

/* ---- the mapping of the process ------------------------------------------------------------- */

#ifdef __linux__

/** Maps, aligned to a chunk, what a socket lends that is gone afterwards. */
static int
arena_map(struct arena *arena, size_t bytes)
{
    int fd = (int)sys_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fd = (int)sys_socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    arena->why = "a TCP socket, to lend address space";
    if (fd < 0)
        return fd;
    arena->why = "mapping a TCP socket (Linux 4.18)";
    const intptr_t mapped = sys_mmap_file(bytes + WINDOW_CHUNK_BYTES, PROT_READ, MAP_SHARED, fd);
    (void)sys_close(fd);
    if (mapped < 0 && mapped > -4096)
        return (int)mapped;
    arena->why = "keeping the mapping from children of fork(2)";
    int error = (int)sys_madvise((void *)mapped, bytes + WINDOW_CHUNK_BYTES, MADV_DONTFORK);
    if (!error) {
        arena->why = "unmapping pages (is all memory locked?)";
        error = (int)sys_madvise((void *)mapped, bytes + WINDOW_CHUNK_BYTES, MADV_DONTNEED);
    }
    if (error) {
        (void)sys_munmap((void *)mapped, bytes + WINDOW_CHUNK_BYTES);
        return error;
    }
    (void)sys_name_memory((const void *)mapped, bytes + WINDOW_CHUNK_BYTES, "berth-windows");
    const uintptr_t align = WINDOW_CHUNK_BYTES - 1;
    arena->mapping = (void *)mapped;
    arena->mapping_bytes = bytes + WINDOW_CHUNK_BYTES;
    arena->base = (unsigned char *)(((uintptr_t)mapped + align) & ~align);
    arena->bytes = bytes;
    return 0;
}

static int
arena_make(struct arena *arena)
{
    int error = -ENOMEM;
    if (berth_memory_page_bytes() > WINDOW_BYTES)
        return -EOPNOTSUPP;
    for (size_t bytes = WINDOWS_BYTES_MAX; bytes >= WINDOW_CHUNK_BYTES; bytes /= 2) {
        error = arena_map(arena, bytes);
        if (error != -ENOMEM)
            break;
    }
    return error;
}

/** A page that is zero in a child. */
static struct arena **
page_take(int *error)
{
    void *memory = NULL;
    *error = berth_memory_take(&memory, berth_memory_page_bytes(), "berth-windows-arena");
    if (*error)
        return NULL;
    *error = (int)sys_madvise(memory, berth_memory_page_bytes(), MADV_WIPEONFORK);
    if (*error == 0)
        return (struct arena **)memory;
    berth_memory_release(memory, berth_memory_page_bytes());
    return NULL;
}

static void
page_release(struct arena **page)
{
    berth_memory_release(page, berth_memory_page_bytes());
}

#else

static int
arena_make(struct arena *arena)
{
    arena->why = "only Linux maps what has arrived";
    return -EOPNOTSUPP;
}

static struct arena **
page_take(int *error)
{
    static struct arena *page;
    *error = 0;
    return &page;
}

static void
page_release(struct arena **page)
{
    (void)page;
}

#endif

static void
arena_free(struct arena *arena)
{
    if (arena->mapping != NULL)
        (void)sys_munmap(arena->mapping, arena->mapping_bytes);
    berth_memory_release(arena, sizeof(*arena));
}

/** Where the process's mapping is noted. Any thread. */
static struct arena **
page_get(int *error)
{
    struct arena **page = __atomic_load_n(&the_arena, __ATOMIC_ACQUIRE);
    if (page != NULL)
        return page;
    struct arena **mine = page_take(error);
    if (mine == NULL ||
        __atomic_compare_exchange_n(&the_arena, &page, mine, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return mine;
    page_release(mine);
    return page;
}

/** The process's mapping, made now if it is the first time. Any thread: who is first keeps his. */
static int
arena_get(struct arena **result, const char **why)
{
    int error = 0;
    *why = "memory";
    struct arena **page = page_get(&error);
    if (page == NULL)
        return error;
    struct arena *arena = __atomic_load_n(page, __ATOMIC_ACQUIRE);
    if (arena == NULL) {
        void *memory = NULL;
        error = berth_memory_take(&memory, sizeof(*arena), "berth-windows-arena");
        if (error)
            return error;
        struct arena *mine = (struct arena *)memory;
        mine->error = arena_make(mine);
        if (__atomic_compare_exchange_n(page, &arena, mine, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            arena = mine;
        else
            arena_free(mine);
    }
    *why = arena->why;
    *result = arena;
    return arena->error;
}

#ifdef BERTH_SYS_TABLE
void
windows_forget(void)
{
    struct arena **page = the_arena;
    if (page == NULL)
        return;
    if (*page != NULL)
        arena_free(*page);
    the_arena = NULL;
    page_release(page);
}
#endif

/** Takes a chunk that no loop has: its number, or NONE. */
static uint32_t
chunk_take(struct arena *arena)
{
    for (uint32_t chunk = 0; chunk < arena->bytes / WINDOW_CHUNK_BYTES; chunk++) {
        const uint64_t bit = UINT64_C(1) << chunk % WORD_BITS;
        uint64_t *word = &arena->taken[chunk / WORD_BITS];
        if (!(__atomic_load_n(word, __ATOMIC_RELAXED) & bit) &&
            !(__atomic_fetch_or(word, bit, __ATOMIC_ACQ_REL) & bit))
            return chunk;
    }
    return NONE;
}

static void
chunk_give(struct arena *arena, uint32_t chunk)
{
    (void)__atomic_fetch_and(&arena->taken[chunk / WORD_BITS], ~(UINT64_C(1) << chunk % WORD_BITS),
                             __ATOMIC_ACQ_REL);
}

/* ---- sets of windows ------------------------------------------------------------------------ */

static void
set_add(uint64_t *set, uint32_t index)
{
    set[index / WORD_BITS] |= UINT64_C(1) << index % WORD_BITS;
}

static void
set_remove(uint64_t *set, uint32_t index)
{
    set[index / WORD_BITS] &= ~(UINT64_C(1) << index % WORD_BITS);
}

static int
set_has(const uint64_t *set, uint32_t index)
{
    return (set[index / WORD_BITS] >> index % WORD_BITS & 1) != 0;
}

/** The first member from `from` on, or NONE. */
static uint32_t
set_next(const uint64_t *set, uint32_t from)
{
    for (uint32_t word = from / WORD_BITS; word < WORDS; word++) {
        uint64_t bits = set[word];
        if (word == from / WORD_BITS)
            bits &= ~UINT64_C(0) << from % WORD_BITS;
        if (bits != 0)
            return word * WORD_BITS + (uint32_t)__builtin_ctzll(bits);
    }
    return NONE;
}

/* ---- the windows of a loop ------------------------------------------------------------------ */

int
windows_create(struct windows **result, size_t bytes_max, const char **why)
{
    struct arena *arena = NULL;
    const int error = arena_get(&arena, why);
    if (error)
        return error;
    struct windows *windows = (struct windows *)calloc(1, sizeof(*windows));
    *why = "memory";
    if (windows == NULL)
        return -ENOMEM;
    windows->arena = arena;
    windows->open = NONE;
    windows->limit = bytes_max / WINDOW_BYTES;
    *result = windows;
    return 0;
}

/** Gives back each chunk of which nothing is mapped. */
static void
give_chunks(struct windows *windows)
{
    for (uint32_t chunk = 0; chunk < CHUNKS_MAX; chunk++) {
        uint64_t *word = &windows->owned[chunk / WORD_BITS];
        const uint64_t bit = UINT64_C(1) << chunk % WORD_BITS;
        uint32_t mapped = 0;
        if (!(*word & bit))
            continue;
        for (uint32_t i = 0; i < WINDOWS_PER_CHUNK; i++)
            mapped |= windows->at[chunk * WINDOWS_PER_CHUNK + i].used;
        if (mapped)
            continue;
        *word &= ~bit;
        chunk_give(windows->arena, chunk);
    }
}

/** No loop is left that would unmap anything later. */
static void
give_back(struct windows *windows)
{
    (void)windows_unmap(windows);
    give_chunks(windows);
    if (windows->held == 0)
        free(windows); /* or whoever holds a part still refers to it */
}

static unsigned char *
window_start(const struct windows *windows, uint32_t index)
{
    return windows->arena->base + index * WINDOW_BYTES;
}

/** The window being filled is as full as it gets. */
static void
window_seal(struct windows *windows)
{
    struct window *window = &windows->at[windows->open];
    if (window->holders == 0) {
        set_add(windows->dirty, windows->open);
        windows->dirty_bytes += window->used;
    }
    windows->open = NONE;
}

void
windows_destroy(struct windows *windows)
{
    if (windows == NULL)
        return;
    if (windows->open != NONE && windows->at[windows->open].used > 0)
        window_seal(windows);
    windows->open = NONE;
    windows->closed = 1;
    give_back(windows);
}

/** Another chunk, if there is one. */
static void
grow(struct windows *windows)
{
    if (windows->chunks * WINDOWS_PER_CHUNK >= windows->limit)
        return;
    const uint32_t chunk = chunk_take(windows->arena);
    if (chunk == NONE)
        return;
    windows->chunks++;
    windows->owned[chunk / WORD_BITS] |= UINT64_C(1) << chunk % WORD_BITS;
    for (uint32_t i = 0; i < WINDOWS_PER_CHUNK; i++)
        set_add(windows->free, chunk * (uint32_t)WINDOWS_PER_CHUNK + i);
}

/** A window with no page mapped, or NONE. */
static uint32_t
window_pick(struct windows *windows)
{
    uint32_t index = NONE;
    if (windows->in_use < windows->limit) {
        index = set_next(windows->free, 0);
        if (index == NONE) {
            grow(windows);
            index = set_next(windows->free, 0);
        }
    }
    if (index != NONE || windows->dirty_bytes == 0)
        return index;
    (void)windows_unmap(windows);
    return windows->in_use < windows->limit ? set_next(windows->free, 0) : NONE;
}

int
windows_room(struct windows *windows, unsigned char **part, size_t *room)
{
    if (windows->open != NONE && WINDOW_BYTES - windows->at[windows->open].used < ROOM_MIN)
        window_seal(windows);
    if (windows->open == NONE) {
        const uint32_t index = window_pick(windows);
        if (index == NONE)
            return -ENOBUFS;
        set_remove(windows->free, index);
        windows->in_use++;
        windows->open = index;
    }
    const struct window *window = &windows->at[windows->open];
    *part = window_start(windows, windows->open) + window->used;
    *room = WINDOW_BYTES - window->used;
    return 0;
}

void
windows_hold(struct windows *windows)
{
    windows->at[windows->open].holders++;
    windows->held++;
}

void
windows_filled(struct windows *windows, size_t bytes)
{
    windows->at[windows->open].used += (uint32_t)bytes;
}

void
windows_release(void *part, size_t length, void *context)
{
    struct windows *windows = (struct windows *)context;
    const size_t offset = (size_t)((unsigned char *)part - windows->arena->base);
    const uint32_t index = (uint32_t)(offset / WINDOW_BYTES);
    struct window *window = &windows->at[index];
    (void)length;
    BERTH_ASSERT(window->holders > 0 && windows->held > 0);
    windows->held--;
    if (--window->holders > 0 || index == windows->open)
        return;
    set_add(windows->dirty, index);
    windows->dirty_bytes += window->used;
    if (BERTH_UNLIKELY(windows->closed))
        give_back(windows);
}

/** The window being filled, if nobody holds any of it. */
static size_t
open_dirty(const struct windows *windows)
{
    if (windows->open == NONE || windows->at[windows->open].holders > 0)
        return 0;
    return windows->at[windows->open].used;
}

size_t
windows_dirty(const struct windows *windows)
{
    return windows->dirty_bytes + open_dirty(windows);
}

/** Windows of one run, neighbours all, have been unmapped. */
static void
cleaned(struct windows *windows, uint32_t from, uint32_t to)
{
    for (uint32_t index = from; index < to; index++) {
        windows->dirty_bytes -= windows->at[index].used;
        windows->at[index].used = 0;
        set_remove(windows->dirty, index);
        if (index == windows->open)
            windows->open = NONE;
        windows->in_use--;
        set_add(windows->free, index);
    }
}

unsigned
windows_unmap(struct windows *windows)
{
    unsigned calls = 0;
    if (open_dirty(windows) > 0)
        window_seal(windows);
    for (uint32_t from = set_next(windows->dirty, 0); from != NONE;) {
        uint32_t to = from + 1;
        while (to < WINDOWS_MAX && set_has(windows->dirty, to))
            to++;
        const size_t bytes =
            (to - from - 1) * WINDOW_BYTES + windows->at[to - 1].used; /* of the last, no more */
        if (sys_madvise(window_start(windows, from), bytes, MADV_DONTNEED) == 0)
            cleaned(windows, from, to);
        calls++;
        from = to < WINDOWS_MAX ? set_next(windows->dirty, to) : NONE;
    }
    return calls;
}

void
windows_look(const struct windows *windows, struct windows_state *state)
{
    state->process_bytes = windows->arena->bytes;
    state->loop_bytes = windows->chunks * WINDOW_CHUNK_BYTES;
    state->used_bytes = windows->in_use * WINDOW_BYTES;
}
