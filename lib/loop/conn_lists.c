/*
 * The lists that connections stand in while they wait: for a buffer, for their last bytes to be
 * sent, for the kernel to let go. First come, first served, doubly linked through the cold records.
 *
 * The invariant: a bit of the state, or a byte of the cold record, says whether a connection is in
 * a list, and it is in each once.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/conn_lists.h"

#include "os/probes.h"

static void
list_append(struct berth_loop *loop, struct conn_list *list, enum conn_list_kind kind,
            struct berth_slot *slot)
{
    struct conn_link *link = &slot_cold(loop, slot)->links[kind];
    link->next = 0;
    link->previous = list->tail;
    if (list->tail != 0)
        slot_cold(loop, loop_slot(loop, list->tail))->links[kind].next = slot->index + 1;
    else
        list->head = slot->index + 1;
    list->tail = slot->index + 1;
    list->count++;
}

static void
list_remove(struct berth_loop *loop, struct conn_list *list, enum conn_list_kind kind,
            struct berth_slot *slot)
{
    struct conn_link *link = &slot_cold(loop, slot)->links[kind];
    BERTH_ASSERT(list->count > 0);
    if (link->next != 0)
        slot_cold(loop, loop_slot(loop, link->next))->links[kind].previous = link->previous;
    else
        list->tail = link->previous;
    if (link->previous != 0)
        slot_cold(loop, loop_slot(loop, link->previous))->links[kind].next = link->next;
    else
        list->head = link->next;
    link->next = link->previous = 0;
    list->count--;
}

/** It has to queue for a buffer: for what comes, or for what is to be sent. */
static void
count_starved(struct berth_loop *loop, struct berth_slot *slot)
{
    loop->stats.starved++;
    CONN_COUNT(loop, slot, starved, 1);
    BERTH_PROBE_CONN(starve, slot);
}

void
conn_starve(struct berth_loop *loop, struct berth_slot *slot)
{
    loop->stats.enobufs++;
    if (slot->state & CONN_STARVED)
        return;
    slot->state |= CONN_STARVED;
    count_starved(loop, slot);
    list_append(loop, &loop->starved, LIST_STARVED, slot);
}

void
conn_unstarve(struct berth_loop *loop, struct berth_slot *slot)
{
    if (!(slot->state & CONN_STARVED))
        return;
    slot->state &= ~(uint32_t)CONN_STARVED;
    list_remove(loop, &loop->starved, LIST_STARVED, slot);
}

struct berth_slot *
conn_next_starved(struct berth_loop *loop)
{
    if (loop->starved.head == 0)
        return NULL;
    struct berth_slot *slot = loop_slot(loop, loop->starved.head);
    conn_unstarve(loop, slot);
    return slot;
}

void
conn_file_wait(struct berth_loop *loop, struct berth_slot *slot)
{
    if (slot_cold(loop, slot)->file_waits)
        return;
    slot_cold(loop, slot)->file_waits = 1;
    slot_cold(loop, slot)->file_since_ms = (uint32_t)loop_time(loop);
    count_starved(loop, slot);
    list_append(loop, &loop->files, LIST_FILES, slot);
}

void
conn_file_unwait(struct berth_loop *loop, struct berth_slot *slot)
{
    if (!slot_cold(loop, slot)->file_waits)
        return;
    slot_cold(loop, slot)->file_waits = 0;
    list_remove(loop, &loop->files, LIST_FILES, slot);
}

struct berth_slot *
conn_next_file(struct berth_loop *loop, uint32_t least_ms)
{
    if (loop->files.head == 0)
        return NULL;
    struct berth_slot *slot = loop_slot(loop, loop->files.head);
    if ((uint32_t)loop_time(loop) - slot_cold(loop, slot)->file_since_ms < least_ms)
        return NULL;
    conn_file_unwait(loop, slot);
    return slot;
}

/** A connection is in one of the two lists of those that take time to close, or in none. */
void
closing_list_leave(struct berth_loop *loop, struct berth_slot *slot)
{
    if (!(slot->state & CONN_CLOSING_LISTED))
        return;
    slot->state &= ~(uint32_t)CONN_CLOSING_LISTED;
    struct conn_list *list = slot->flags & BERTH_SLOT_CLOSING ? &loop->closing : &loop->draining;
    list_remove(loop, list, LIST_CLOSING, slot);
}

void
closing_list_enter(struct berth_loop *loop, struct berth_slot *slot)
{
    if (slot->state & CONN_CLOSING_LISTED)
        return;
    slot->state |= CONN_CLOSING_LISTED;
    slot_cold(loop, slot)->closing_since_ms = loop_time(loop);
    struct conn_list *list = slot->flags & BERTH_SLOT_CLOSING ? &loop->closing : &loop->draining;
    list_append(loop, list, LIST_CLOSING, slot);
}
