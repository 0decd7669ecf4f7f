/*
 * The memory that a network card receives into, and the ring through which the kernel gets it back.
 *
 * Each completion is one reference to a page, and the kernel wants each back by one entry in the
 * ring, in whatever order. It looks into the ring only when the card needs pages, so that the ring
 * may be full for long: what does not go into it is noted at its page, as a number, since an entry
 * says no more than which page it is about. So there is always room for the note.
 *
 * The invariants: a piece is given back once, when nobody has it any more, and never after the ring
 * is gone; an entry is written before the tail that shows it; the tail is never more than the size
 * of the ring ahead of the head; memory of which somebody has a piece stays mapped.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_URING
#include "loop/engine_uring_zcrx.h"

#include <stdlib.h>
#include <string.h>

#include "os/memory.h"
#include "os/sys.h"

/** Space in front of the entries: the kernel puts its head and tail there, and says where. */
#define REGION_HEADER_PAGES 1

static unsigned areas_left;

static void
area_free(struct zcrx_area *area)
{
    if (area->data != NULL)
        berth_memory_release(area->data, area->bytes);
    if (area->region != NULL)
        berth_memory_release(area->region, area->region_bytes);
    if (area->owed != NULL)
        berth_memory_release(area->owed, area->pages * sizeof(*area->owed));
    free(area);
}

static uint32_t
page_shift(void)
{
    return (uint32_t)__builtin_ctzl(berth_memory_page_bytes());
}

/** One entry for each page, within what the kernel takes. */
static uint32_t
entries_for(uint32_t pages)
{
    uint32_t count = ZCRX_ENTRIES_MIN;
    while (count < pages && count < ZCRX_ENTRIES_MAX)
        count *= 2;
    return count;
}

/** Apart from all other memory: the kernel pins it, and a child of fork(2) must not have it. */
static int
take_data(struct zcrx_area *area)
{
    void *memory = NULL;
    const size_t alignment =
        area->bytes >= BERTH_HUGE_PAGE_BYTES ? BERTH_HUGE_PAGE_BYTES : berth_memory_page_bytes();
    int error = berth_memory_reserve(&memory, area->bytes, alignment, "berth-zcrx-area");
    if (error)
        return error;
    area->data = (unsigned char *)memory;
    error = berth_memory_commit(memory, area->bytes);
    if (error)
        return error;
    berth_memory_advise(memory, area->bytes, BERTH_MEMORY_HUGE);
    berth_memory_advise(memory, area->bytes, BERTH_MEMORY_NO_FORK);
    return 0;
}

int
zcrx_area_create(struct zcrx_area **result, size_t bytes)
{
    struct zcrx_area *area = (struct zcrx_area *)calloc(1, sizeof(*area));
    if (area == NULL)
        return -ENOMEM;
    area->page_shift = page_shift();
    area->bytes = bytes;
    area->pages = (uint32_t)(bytes >> area->page_shift);
    BERTH_ASSERT(area->pages > 0 && (size_t)area->pages << area->page_shift == bytes);
    area->count = entries_for(area->pages);
    const size_t page = berth_memory_page_bytes();
    area->region_bytes = REGION_HEADER_PAGES * page + area->count * sizeof(*area->entries);
    area->region_bytes = (area->region_bytes + page - 1) & ~(page - 1);
    void *owed = NULL;
    int error = take_data(area);
    if (!error)
        error = berth_memory_take(&area->region, area->region_bytes, "berth-zcrx-ring");
    if (!error)
        error = berth_memory_take(&owed, area->pages * sizeof(*area->owed), "berth-zcrx-owed");
    area->owed = (struct zcrx_owed *)owed;
    if (error) {
        area_free(area);
        return error;
    }
    berth_memory_advise(area->region, area->region_bytes, BERTH_MEMORY_NO_FORK);
    *result = area;
    return 0;
}

int
zcrx_area_attach(struct zcrx_area *area, const struct berth_uring_zcrx_offsets *offsets,
                 uint32_t entries, uint64_t token)
{
    const size_t bytes = area->region_bytes;
    unsigned char *base = (unsigned char *)area->region;
    if (entries == 0 || (entries & (entries - 1)) != 0 || offsets->head % 4 != 0 ||
        offsets->tail % 4 != 0 || offsets->entries % 8 != 0 || offsets->head > bytes - 4 ||
        offsets->tail > bytes - 4 || offsets->entries > bytes ||
        entries > (bytes - offsets->entries) / sizeof(*area->entries))
        return -EINVAL;
    area->head = (const uint32_t *)(const void *)(base + offsets->head);
    area->tail = (uint32_t *)(void *)(base + offsets->tail);
    area->entries = (struct berth_uring_zcrx_entry *)(void *)(base + offsets->entries);
    area->count = entries;
    area->token = token;
    area->given = *area->tail;
    area->head_known = __atomic_load_n(area->head, __ATOMIC_ACQUIRE);
    return 0;
}

int
zcrx_area_register(struct zcrx_area *area, struct io_uring *ring, uint32_t interface,
                   uint32_t queue, uint32_t *id)
{
    struct berth_uring_zcrx_area memory;
    struct berth_uring_region region;
    struct berth_uring_zcrx_queue registration;
    memset(&memory, 0, sizeof(memory));
    memset(&region, 0, sizeof(region));
    memset(&registration, 0, sizeof(registration));
    memory.address = (uint64_t)(uintptr_t)area->data;
    memory.bytes = area->bytes;
    region.address = (uint64_t)(uintptr_t)area->region;
    region.bytes = area->region_bytes;
    region.flags = BERTH_URING_REGION_USER;
    registration.interface = interface;
    registration.queue = queue;
    registration.entries = area->count;
    registration.area = (uint64_t)(uintptr_t)&memory;
    registration.region = (uint64_t)(uintptr_t)&region;
    const int error =
        (int)sys_uring_register(ring, BERTH_URING_REGISTER_ZCRX_IFQ, &registration, 1);
    if (error < 0)
        return error;
    *id = registration.id;
    return zcrx_area_attach(area, &registration.offsets, registration.entries, memory.token);
}

void *
zcrx_area_place(const struct zcrx_area *area, uint64_t offset, int32_t length)
{
    if ((offset & ~BERTH_URING_ZCRX_OFFSET_MASK) != (area->token & ~BERTH_URING_ZCRX_OFFSET_MASK))
        return NULL;
    offset &= BERTH_URING_ZCRX_OFFSET_MASK;
    if (length <= 0 || offset >= area->bytes || (uint32_t)length > area->bytes - offset)
        return NULL;
    return area->data + offset;
}

/** Room for an entry: the head is looked at only if there seems to be none. */
static int
has_room(struct zcrx_area *area)
{
    if (BERTH_LIKELY(area->given - area->head_known < area->count))
        return 1;
    area->head_known = __atomic_load_n(area->head, __ATOMIC_ACQUIRE);
    return area->given - area->head_known < area->count;
}

static void
put_entry(struct zcrx_area *area, uint64_t offset, uint32_t length)
{
    struct berth_uring_zcrx_entry *entry = &area->entries[area->given & (area->count - 1)];
    entry->offset = offset | area->token;
    entry->length = length;
    entry->pad = 0;
    area->given++;
    __atomic_store_n(area->tail, area->given, __ATOMIC_RELEASE);
}

static void
owe(struct zcrx_area *area, uint32_t page)
{
    struct zcrx_owed *owed = &area->owed[page];
    area->owed_count++;
    if (owed->times++ > 0)
        return;
    owed->next = 0;
    if (area->owed_last != 0)
        area->owed[area->owed_last - 1].next = page + 1;
    else
        area->owed_first = page + 1;
    area->owed_last = page + 1;
}

uint64_t
zcrx_area_retry(struct zcrx_area *area)
{
    while (area->owed_first != 0 && has_room(area)) {
        const uint32_t page = area->owed_first - 1;
        struct zcrx_owed *owed = &area->owed[page];
        put_entry(area, (uint64_t)page << area->page_shift, 1u << area->page_shift);
        area->owed_count--;
        if (--owed->times > 0)
            continue;
        area->owed_first = owed->next;
        if (area->owed_first == 0)
            area->owed_last = 0;
    }
    return area->owed_count;
}

void
zcrx_area_give(struct zcrx_area *area, const void *data, uint32_t length)
{
    const uint64_t offset = (uint64_t)((const unsigned char *)data - area->data);
    BERTH_ASSERT(offset < area->bytes && length <= area->bytes - offset);
    if (area->closed)
        return;
    /* Those who came first go first, or a page could be owed for ever. */
    if (BERTH_LIKELY(area->owed_first == 0 || zcrx_area_retry(area) == 0) && has_room(area))
        put_entry(area, offset, length);
    else
        owe(area, (uint32_t)(offset >> area->page_shift));
}

void
zcrx_area_release(void *data, size_t length, void *context)
{
    struct zcrx_area *area = (struct zcrx_area *)context;
    BERTH_ASSERT(area->lent > 0);
    zcrx_area_give(area, data, (uint32_t)length);
    area->lent--;
    if (area->closed && area->lent == 0) {
        area_free(area);
        (void)__atomic_sub_fetch(&areas_left, 1, __ATOMIC_RELAXED);
    }
}

void
zcrx_area_close(struct zcrx_area *area)
{
    if (area->lent == 0) {
        area_free(area);
        return;
    }
    area->closed = 1;
    (void)__atomic_add_fetch(&areas_left, 1, __ATOMIC_RELAXED);
    berth_memory_release(area->region, area->region_bytes);
    area->region = NULL;
}

unsigned
zcrx_areas_left(void)
{
    return __atomic_load_n(&areas_left, __ATOMIC_RELAXED);
}
