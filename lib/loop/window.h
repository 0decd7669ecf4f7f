/*
 * Windows: address space into which the kernel maps pages that have arrived, in place of copying
 * them. One mapping serves the whole process, whatever the connection; loops take chunks of it.
 *
 * A window is filled from its beginning to its end, in parts. A part is lent and released like any
 * foreign memory (berth_pool_lend_wrapped); when nobody holds any part of a window any more it is
 * unmapped, together with its neighbours, at the end of a turn, and may be filled again after that.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_WINDOW_H
#define BERTH_LOOP_WINDOW_H

#include <stddef.h>
#include <stdint.h>

/** Pages that one slow holder can keep from being unmapped. */
#define WINDOW_BYTES ((size_t)256 << 10)

/** What a loop takes at a time: as far as one page table of the lowest level goes. */
#define WINDOW_CHUNK_BYTES ((size_t)2 << 20)

/** What a loop may have of it at most: options.map_bytes_max. */
#define WINDOWS_BYTES_MAX ((size_t)256 << 20)

struct windows;

/**
 * The windows of a loop, up to `bytes_max` of pages in use at once. On an error `why` tells which
 * step of making the mapping failed; that is not tried again in this process.
 * @return 0; -errno.
 */
int windows_create(struct windows **windows, size_t bytes_max, const char **why);

/** Gives everything back: what somebody holds, when it is released. NULL is allowed. */
void windows_destroy(struct windows *windows);

/** Where the next pages can be mapped, with room for at least 64 KiB: 0; -ENOBUFS: nowhere now. */
int windows_room(struct windows *windows, unsigned char **part, size_t *room);

/** `bytes` (whole pages) have been mapped there; the part is held until windows_release. */
void windows_filled(struct windows *windows, size_t bytes);

/** Holds the part to be filled next: before windows_filled, and even if nothing is mapped. */
void windows_hold(struct windows *windows);

/** A berth_free_fn, with the windows as its context. */
void windows_release(void *part, size_t length, void *windows);

/** Bytes of pages that nobody holds and that are still mapped. */
size_t windows_dirty(const struct windows *windows);

/** Unmaps them. Returns how many calls it took; those that failed are due again. */
unsigned windows_unmap(struct windows *windows);

/** For a person who asks: bytes of the mapping, of the loop's chunks, and in use. */
struct windows_state {
    size_t process_bytes, loop_bytes, used_bytes;
};
void windows_look(const struct windows *windows, struct windows_state *state);

#ifdef BERTH_SYS_TABLE
/** Forgets the mapping, which no loop may use any more: for tests that make it fail. */
void windows_forget(void);
#endif

#endif
