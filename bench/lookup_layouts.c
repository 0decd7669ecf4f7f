/*
 * Laying connections out, and handling events on each layout. The loops below are what is measured:
 * each is as its users write it, and no more.
 *
 * SPDX-License-Identifier: MIT
 */
#include "lookup.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"
#include "random.h"

_Static_assert(sizeof(struct lookup_state) <= BERTH_SLOT_PAYLOAD_BYTES, "the state fits a slot");
_Static_assert(sizeof(struct lookup_object) == 192, "three cache lines");

/* ---- laying out --------------------------------------------------------------------------------
 */

static int
build_table(struct berth_table *table, const struct lookup_set *set, enum berth_huge_pages huge)
{
    struct berth_table_options options;
    berth_table_options_init(&options);
    options.slots_max = set->index_max;
    options.huge_pages = huge;
    int error = berth_table_init(table, &options);
    if (error == 0 && berth_table_slots_max(table) < set->index_max)
        error = -ENOMEM; /* under a limit on address space it is made smaller */
    for (uint32_t i = 0; i < set->conns && error == 0 && !machine_interrupted; i++) {
        struct berth_slot *slot = NULL;
        error = berth_table_claim(table, set->indices[i], &slot);
    }
    return error;
}

static int
build_objects(struct lookup_set *set, const uint32_t *order)
{
    set->objects = calloc(set->index_max, sizeof set->objects[0]);
    if (set->objects == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < set->conns && !machine_interrupted; i++) {
        const uint32_t index = set->indices[order[i]];
        struct lookup_object *object = calloc(1, sizeof *object);
        if (object == NULL)
            return -ENOMEM;
        object->fd = (int)index;
        object->index = index;
        object->flags = 1;
        set->objects[index] = object;
    }
    return 0;
}

/** Connections in one array and events in another, a connection's event anywhere in it. */
static int
build_chain(struct lookup_set *set, const uint32_t *order)
{
    set->chain = calloc(set->conns, sizeof set->chain[0]);
    set->handlers = calloc(set->conns, sizeof set->handlers[0]);
    if (set->chain == NULL || set->handlers == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < set->conns; i++) {
        set->chain[i].fd = (int)set->indices[i];
        set->chain[i].index = set->indices[i];
        set->chain[i].handler = &set->handlers[order[i]];
        set->handlers[order[i]].flags = 1;
    }
    return 0;
}

static int
build_parts(struct lookup_set *set, const uint32_t *order)
{
    int error = 0;
    if (set->parts & LOOKUP_TABLE)
        error = build_table(&set->table, set, BERTH_HUGE_NEVER);
    if (error == 0 && (set->parts & LOOKUP_TABLE_HUGE))
        error = build_table(&set->table_huge, set, BERTH_HUGE_ALWAYS);
    if (error == 0 && (set->parts & (LOOKUP_OBJECTS | LOOKUP_OPEN)))
        error = build_objects(set, order);
    if (error == 0 && (set->parts & LOOKUP_CHAIN))
        error = build_chain(set, order);
    if (error == 0 && (set->parts & LOOKUP_HASH))
        error = lookup_hash_build(set, order);
    if (error == 0 && (set->parts & LOOKUP_OPEN))
        error = lookup_open_build(set);
    if (error == 0 && (set->parts & LOOKUP_TREE))
        error = lookup_tree_build(set, order);
    return error == 0 && machine_interrupted ? -ECANCELED : error;
}

int
lookup_set_build(struct lookup_set *set, const uint32_t *indices, uint32_t conns, unsigned parts)
{
    uint64_t random = RANDOM_SEED;
    assert(conns > 0);
    memset(set, 0, sizeof *set);
    set->indices = indices;
    set->conns = conns;
    set->parts = parts;
    for (uint32_t i = 0; i < conns; i++) {
        if (indices[i] >= set->index_max)
            set->index_max = indices[i] + 1;
    }
    if (set->index_max < BERTH_TABLE_SLOTS_MIN)
        set->index_max = BERTH_TABLE_SLOTS_MIN;
    uint32_t *order = calloc(conns, sizeof *order);
    if (order == NULL)
        return -ENOMEM;
    random_order(order, conns, &random);
    const int error = build_parts(set, order);
    free(order);
    return error;
}

/** What an event of connection number `at` carries. */
static uint64_t
carried(const struct lookup_set *set, enum lookup_carried what, uint32_t at)
{
    const uint32_t index = set->indices[at];
    const struct berth_table *table = set->parts & LOOKUP_TABLE ? &set->table : &set->table_huge;
    switch (what) {
    case LOOKUP_TOKEN:
        return berth_slot_token(berth_table_slot(table, index), 0);
    case LOOKUP_SLOT:
        return (uintptr_t)berth_table_slot(&set->table, index);
    case LOOKUP_SLOT_HUGE:
        return (uintptr_t)berth_table_slot(&set->table_huge, index);
    case LOOKUP_OBJECT:
        return (uintptr_t)set->objects[index];
    case LOOKUP_CONN:
        return (uintptr_t)&set->chain[at];
    case LOOKUP_INDEX:
    case LOOKUP_CARRIES:
        break;
    }
    return index;
}

/** Whether the parts that were built let an event carry that. */
static bool
can_carry(const struct lookup_set *set, enum lookup_carried what)
{
    static const unsigned needs[LOOKUP_CARRIES] = {
        [LOOKUP_TOKEN] = LOOKUP_TABLE | LOOKUP_TABLE_HUGE, /* one of them is enough */
        [LOOKUP_SLOT] = LOOKUP_TABLE,
        [LOOKUP_SLOT_HUGE] = LOOKUP_TABLE_HUGE,
        [LOOKUP_OBJECT] = LOOKUP_OBJECTS,
        [LOOKUP_CONN] = LOOKUP_CHAIN,
    };
    return what == LOOKUP_INDEX || (set->parts & needs[what]) != 0;
}

int
lookup_set_activate(struct lookup_set *set, uint32_t active)
{
    uint64_t random = RANDOM_SEED + 1; /* another order than that of the heap */
    uint32_t *order = calloc(set->conns, sizeof *order);
    if (order == NULL)
        return -ENOMEM;
    random_order(order, set->conns, &random);
    set->active = active < set->conns ? active : set->conns;
    assert(set->active > 0);
    int error = 0;
    for (unsigned what = 0; what < LOOKUP_CARRIES && error == 0; what++) {
        free(set->carried[what]);
        set->carried[what] = NULL;
        if (!can_carry(set, what))
            continue;
        set->carried[what] = calloc(set->active, sizeof set->carried[what][0]);
        error = set->carried[what] == NULL ? -ENOMEM : 0;
        for (uint32_t i = 0; i < set->active && error == 0; i++)
            set->carried[what][i] = carried(set, what, order[i]);
    }
    free(order);
    return error;
}

void
lookup_set_fini(struct lookup_set *set)
{
    berth_table_fini(&set->table);
    berth_table_fini(&set->table_huge);
    lookup_maps_fini(set);
    for (uint32_t i = 0; set->objects != NULL && i < set->index_max; i++)
        free(set->objects[i]);
    free(set->objects);
    free(set->chain);
    free(set->handlers);
    for (unsigned what = 0; what < LOOKUP_CARRIES; what++)
        free(set->carried[what]);
    memset(set, 0, sizeof *set);
}

uint64_t
lookup_bytes_per_conn(unsigned parts)
{
    /* Slots with their side arrays; objects with the allocator's share; what events carry. */
    uint64_t bytes = 6 * sizeof(uint64_t) + 2 * sizeof(uint32_t);
    bytes += parts & LOOKUP_TABLE ? 68 : 0;
    bytes += parts & LOOKUP_TABLE_HUGE ? 68 : 0;
    bytes += parts & (LOOKUP_OBJECTS | LOOKUP_OPEN) ? sizeof(struct lookup_object) + 16 : 0;
    bytes += parts & LOOKUP_CHAIN ? sizeof(struct lookup_conn) + sizeof(struct lookup_handler) : 0;
    bytes += parts & LOOKUP_HASH ? 320 : 0;
    bytes += parts & LOOKUP_OPEN ? 64 : 0;
    bytes += parts & LOOKUP_TREE ? 256 : 0;
    return bytes;
}

/* ---- checking ----------------------------------------------------------------------------------
 */

static uint64_t
table_handled(const struct berth_table *table)
{
    uint64_t sum = 0;
    BERTH_TABLE_EACH_LIVE (table, index) {
        const struct lookup_state *state = berth_slot_payload(berth_table_slot(table, index));
        sum += state->bytes / 8;
    }
    return sum;
}

static uint64_t
objects_handled(const struct lookup_set *set)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < set->conns; i++)
        sum += set->objects[set->indices[i]]->state.bytes / 8;
    return sum;
}

static uint64_t
chain_handled(const struct lookup_set *set)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < set->conns; i++)
        sum += set->handlers[i].state.bytes / 8;
    return sum;
}

/** How many events one part's states say were handled, by the bytes that belong to them. */
static uint64_t
part_handled(const struct lookup_set *set, unsigned part)
{
    switch (part) {
    case LOOKUP_TABLE:
        return table_handled(&set->table);
    case LOOKUP_TABLE_HUGE:
        return table_handled(&set->table_huge);
    case LOOKUP_OBJECTS:
        return objects_handled(set);
    case LOOKUP_CHAIN:
        return chain_handled(set);
    case LOOKUP_HASH:
        return lookup_hash_handled(set);
    case LOOKUP_TREE:
        return lookup_tree_handled(set);
    default:
        return 0;
    }
}

bool
lookup_set_agrees(const struct lookup_set *set)
{
    for (unsigned i = 0; i < LOOKUP_PARTS; i++) {
        if ((set->parts & (1u << i)) && part_handled(set, 1u << i) != set->handled[i])
            return false;
    }
    return true;
}

/* ---- handling events ---------------------------------------------------------------------------
 */

static void
floor_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    uint64_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += lookup_read(run, (uint32_t)batch[i].data.u64);
    __asm__ volatile("" : : "r"(sum));
}

static inline void
slot_loop(struct lookup_run *run, struct berth_table *table, const struct epoll_event *batch,
          int count)
{
    for (int i = 0; i < count; i++) {
        struct berth_slot *slot = berth_table_find(table, batch[i].data.u64);
        if (slot != NULL)
            lookup_count(berth_slot_payload(slot),
                         lookup_read(run, berth_token_index(batch[i].data.u64)));
    }
}

static void
slot_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    slot_loop(run, &run->set->table, batch, count);
}

static void
slot_huge_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    slot_loop(run, &run->set->table_huge, batch, count);
}

static void
slot_prefetch_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    BERTH_EPOLL_EACH (at, &run->epoll, batch, count)
        lookup_count(berth_slot_payload(at.slot), lookup_read(run, (uint32_t)at.fd));
}

/** The descriptor is in the event, so the call need not wait for the slot. */
static void
slot_syscall_first_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    struct berth_table *table = &run->set->table;
    for (int i = 0; i < count; i++) {
        const berth_token token = batch[i].data.u64;
        berth_table_prefetch(table, token);
        const uint64_t bytes = lookup_read(run, berth_token_index(token));
        struct berth_slot *slot = berth_table_find(table, token);
        if (slot != NULL)
            lookup_count(berth_slot_payload(slot), bytes);
    }
}

/*
 * What will be needed some events later, as the adapters of berth do it for slots. Always inline,
 * and not for speed: GCC takes a function that only prefetches for one without effect, and drops
 * the calls of it that it did not inline early.
 */
BERTH_INLINE void
prefetch_first(const struct epoll_event *batch, int count)
{
    for (int i = 0; i < BERTH_TABLE_AHEAD && i < count; i++)
        __builtin_prefetch(batch[i].data.ptr, 1, 3);
}

BERTH_INLINE void
prefetch_ahead(const struct epoll_event *batch, int count, int at)
{
    if (at + BERTH_TABLE_AHEAD < count)
        __builtin_prefetch(batch[at + BERTH_TABLE_AHEAD].data.ptr, 1, 3);
}

static inline void
pointer_slot_handle(struct lookup_run *run, struct berth_slot *slot)
{
    if (slot->flags & BERTH_SLOT_LIVE)
        lookup_count(berth_slot_payload(slot), lookup_read(run, slot->index));
}

static void
pointer_slot_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    for (int i = 0; i < count; i++)
        pointer_slot_handle(run, batch[i].data.ptr);
}

static void
pointer_slot_prefetch_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    prefetch_first(batch, count);
    for (int i = 0; i < count; i++) {
        prefetch_ahead(batch, count, i);
        pointer_slot_handle(run, batch[i].data.ptr);
    }
}

static inline void
object_handle(struct lookup_run *run, struct lookup_object *object)
{
    if (object->flags != 0)
        lookup_count(&object->state, lookup_read(run, (uint32_t)object->fd));
}

static void
pointer_malloc_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    for (int i = 0; i < count; i++)
        object_handle(run, batch[i].data.ptr);
}

static void
pointer_malloc_prefetch_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    prefetch_first(batch, count);
    for (int i = 0; i < count; i++) {
        prefetch_ahead(batch, count, i);
        object_handle(run, batch[i].data.ptr);
    }
}

static void
pointer_array_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    for (int i = 0; i < count; i++) {
        const uint32_t index = (uint32_t)batch[i].data.u64;
        struct lookup_object *object =
            index < run->set->index_max ? run->set->objects[index] : NULL;
        if (object != NULL)
            object_handle(run, object);
    }
}

static void
pointer_chain_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    for (int i = 0; i < count; i++) {
        struct lookup_conn *conn = batch[i].data.ptr;
        struct lookup_handler *handler = conn->handler;
        if (handler->flags != 0)
            lookup_count(&handler->state, lookup_read(run, (uint32_t)conn->fd));
    }
}

const struct lookup_variant lookup_variants[] = {
    {"floor", 0, LOOKUP_INDEX, floor_pass, NULL},
    {"slot", LOOKUP_TABLE, LOOKUP_TOKEN, slot_pass, NULL},
    {"slot+prefetch", LOOKUP_TABLE, LOOKUP_TOKEN, slot_prefetch_pass, NULL},
    {"slot+huge", LOOKUP_TABLE_HUGE, LOOKUP_TOKEN, slot_huge_pass, NULL},
    {"slot+prefetch+huge", LOOKUP_TABLE_HUGE, LOOKUP_TOKEN, slot_prefetch_pass, NULL},
    {"slot-syscall-first", LOOKUP_TABLE, LOOKUP_TOKEN, slot_syscall_first_pass, NULL},
    {"pointer-slot", LOOKUP_TABLE, LOOKUP_SLOT, pointer_slot_pass, NULL},
    {"pointer-slot+prefetch", LOOKUP_TABLE, LOOKUP_SLOT, pointer_slot_prefetch_pass, NULL},
    {"pointer-slot+prefetch+huge", LOOKUP_TABLE_HUGE, LOOKUP_SLOT_HUGE, pointer_slot_prefetch_pass,
     NULL},
    {"pointer-malloc", LOOKUP_OBJECTS, LOOKUP_OBJECT, pointer_malloc_pass, NULL},
    {"pointer-malloc+prefetch", LOOKUP_OBJECTS, LOOKUP_OBJECT, pointer_malloc_prefetch_pass, NULL},
    {"pointer-array", LOOKUP_OBJECTS, LOOKUP_INDEX, pointer_array_pass, NULL},
    {"pointer-chain", LOOKUP_CHAIN, LOOKUP_CONN, pointer_chain_pass, NULL},
    {"hash-uthash", LOOKUP_HASH, LOOKUP_INDEX, lookup_hash_pass, LOOKUP_HASH_MISSING},
    {"hash-open", LOOKUP_OBJECTS | LOOKUP_OPEN, LOOKUP_INDEX, lookup_open_pass, NULL},
    {"rbtree", LOOKUP_TREE, LOOKUP_INDEX, lookup_tree_pass, LOOKUP_TREE_MISSING},
    {NULL, 0, LOOKUP_INDEX, NULL, NULL},
};
