/*
 * What a slot is to a system call. On most loops it is the descriptor of its own number. On a loop
 * with direct descriptors its number is a place in a table of the ring: only the ring's operations
 * know it, and whoever needs a system call borrows a passing descriptor for it.
 *
 * The invariants: the place of a direct descriptor is emptied after its slot was released, so that
 * the kernel cannot give its number to a newcomer before; whoever borrows returns before anything
 * else happens, so that one spare descriptor is enough for all when there is no other left.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#include "loop/loop_internal.h"

#include "os/sys.h"

int
descriptor_enter(struct berth_loop *loop, int fd)
{
    return loop->direct ? loop->engine->direct_enter(loop, fd) : fd;
}

void
descriptor_leave(struct berth_loop *loop, int index)
{
    if (loop->direct)
        loop->engine->direct_close(loop, index);
}

void
descriptor_keep(struct berth_loop *loop, struct berth_slot *slot, int fd)
{
    if (loop->direct)
        slot_cold(loop, slot)->kept_fd = fd + 1;
}

int
descriptor_kept(const struct berth_loop *loop, const struct berth_slot *slot)
{
    /* Of accepted connections nothing is kept: their cold record need not be looked at. */
    if (!loop->direct || (slot_kind(slot) == KIND_CONN && slot->class_id != CLASS_OWN))
        return -1;
    return slot_cold(loop, slot)->kept_fd - 1;
}

void
descriptor_drop(struct berth_loop *loop, struct berth_slot *slot)
{
    const int kept = descriptor_kept(loop, slot);
    if (kept < 0)
        return;
    slot_cold(loop, slot)->kept_fd = 0;
    (void)sys_close(kept);
    loop->stats.syscalls++;
}

void
descriptor_close(struct berth_loop *loop, int index, int kept)
{
    const int fd = loop->direct ? kept : index;
    if (loop->direct)
        loop->engine->direct_close(loop, index);
    if (fd < 0)
        return;
    (void)sys_close(fd);
    loop->stats.syscalls++;
}

/** Somebody may have been quicker; then whoever needs it next tries again. */
static void
restore_reserve(struct berth_loop *loop)
{
    if (loop->reserve_fd < 0)
        loop->reserve_fd = (int)sys_open("/dev/null", O_RDONLY | O_CLOEXEC);
}

int
descriptor_borrow_direct(struct berth_loop *loop, const struct berth_slot *slot)
{
    const int kept = descriptor_kept(loop, slot);
    if (kept >= 0)
        return kept;
    int fd = loop->engine->direct_install(loop, (int)slot->index);
    if ((fd == -EMFILE || fd == -ENFILE) && loop->reserve_fd >= 0) {
        (void)sys_close(loop->reserve_fd);
        loop->reserve_fd = -1;
        fd = loop->engine->direct_install(loop, (int)slot->index);
        if (fd < 0)
            restore_reserve(loop);
    }
    return fd;
}

void
descriptor_return_direct(struct berth_loop *loop, const struct berth_slot *slot, int fd)
{
    if (fd == descriptor_kept(loop, slot))
        return;
    (void)sys_close(fd);
    loop->stats.syscalls++;
    restore_reserve(loop);
}

int
descriptor_error(struct berth_loop *loop, const struct berth_slot *slot)
{
    int error = 0;
    socklen_t size = sizeof(error);
    const int fd = descriptor_borrow(loop, slot);
    const intptr_t result = fd < 0 ? fd : sys_getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    descriptor_return(loop, slot, fd);
    loop->stats.syscalls++;
    return result < 0 ? (int)result : -error;
}
