/*
 * Connections in maps, keyed by descriptor: uthash, a flat hash map with open addressing, and a
 * red-black tree (the BSD one, from libbsd).
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lookup.h"
#include "machine.h"

/* ---- uthash -----------------------------------------------------------------------------------
 */

#if __has_include(<uthash.h>)

#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(element) ((element)->object.flags = 0)
#include <uthash.h>

struct lookup_hash {
    struct lookup_object object;
    int key;
    UT_hash_handle hh;
};

int
lookup_hash_build(struct lookup_set *set, const uint32_t *order)
{
    for (uint32_t i = 0; i < set->conns && !machine_interrupted; i++) {
        struct lookup_hash *node = calloc(1, sizeof *node);
        if (node == NULL)
            return -ENOMEM;
        node->key = (int)set->indices[order[i]];
        node->object.fd = node->key;
        node->object.flags = 1;
        HASH_ADD_INT(set->hash, key, node);
        if (node->object.flags == 0) {
            free(node);
            return -ENOMEM;
        }
    }
    return 0;
}

void
lookup_hash_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    for (int i = 0; i < count; i++) {
        const int key = (int)batch[i].data.u64;
        struct lookup_hash *node = NULL;
        HASH_FIND_INT(run->set->hash, &key, node);
        if (node != NULL && node->object.flags != 0)
            lookup_count(&node->object.state, lookup_read(run, (uint32_t)node->object.fd));
    }
}

uint64_t
lookup_hash_handled(const struct lookup_set *set)
{
    uint64_t sum = 0;
    for (const struct lookup_hash *node = set->hash; node != NULL; node = node->hh.next)
        sum += node->object.state.bytes / 8;
    return sum;
}

static void
hash_fini(struct lookup_set *set)
{
    struct lookup_hash *node = set->hash;
    HASH_CLEAR(hh, set->hash);
    while (node != NULL) {
        struct lookup_hash *next = node->hh.next;
        free(node);
        node = next;
    }
}

#else

int
lookup_hash_build(struct lookup_set *set, const uint32_t *order)
{
    (void)set;
    (void)order;
    return -ENOSYS;
}

void
lookup_hash_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    (void)run;
    (void)batch;
    (void)count;
}

uint64_t
lookup_hash_handled(const struct lookup_set *set)
{
    (void)set;
    return 0;
}

static void
hash_fini(struct lookup_set *set)
{
    (void)set;
}

#endif

/* ---- open addressing ---------------------------------------------------------------------------
 */

/** Linear probing, at most half full, multiplicative hashing: the values are the heap's objects. */
struct lookup_open {
    unsigned shift; /**< 64 minus the binary logarithm of the size */
    uint32_t mask;
    struct open_entry {
        struct lookup_object *object; /**< NULL: empty */
        uint32_t key;
    } entries[];
};

static inline uint32_t
open_home(const struct lookup_open *map, uint32_t key)
{
    return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> map->shift);
}

int
lookup_open_build(struct lookup_set *set)
{
    unsigned bits = 4;
    while ((UINT64_C(1) << bits) < 2 * (uint64_t)set->conns)
        bits++;
    struct lookup_open *map = calloc(1, sizeof *map + ((size_t)1 << bits) * sizeof map->entries[0]);
    if (map == NULL)
        return -ENOMEM;
    set->open = map;
    map->shift = 64 - bits;
    map->mask = (UINT32_C(1) << bits) - 1;
    for (uint32_t i = 0; i < set->conns; i++) {
        const uint32_t key = set->indices[i];
        uint32_t at = open_home(map, key);
        while (map->entries[at].object != NULL)
            at = (at + 1) & map->mask;
        map->entries[at].key = key;
        map->entries[at].object = set->objects[key];
    }
    return 0;
}

void
lookup_open_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    const struct lookup_open *map = run->set->open;
    for (int i = 0; i < count; i++) {
        const uint32_t key = (uint32_t)batch[i].data.u64;
        uint32_t at = open_home(map, key);
        while (map->entries[at].object != NULL && map->entries[at].key != key)
            at = (at + 1) & map->mask;
        struct lookup_object *object = map->entries[at].object;
        if (object != NULL && object->flags != 0)
            lookup_count(&object->state, lookup_read(run, (uint32_t)object->fd));
    }
}

/* ---- a red-black tree ---------------------------------------------------------------------------
 */

#if __has_include(<bsd/sys/tree.h>)

#include <bsd/sys/tree.h>

struct tree_node {
    RB_ENTRY(tree_node) entry;
    uint32_t key;
    struct lookup_object object;
};

/** Nodes lie in an array, but in random order: as scattered as those of a heap. */
struct lookup_tree {
    RB_HEAD(tree_head, tree_node) head;
    struct tree_node *nodes;
};

static inline int
tree_compare(const struct tree_node *a, const struct tree_node *b)
{
    return (a->key > b->key) - (a->key < b->key);
}

RB_PROTOTYPE(tree_head, tree_node, entry, tree_compare)
RB_GENERATE(tree_head, tree_node, entry, tree_compare)

int
lookup_tree_build(struct lookup_set *set, const uint32_t *order)
{
    set->tree = calloc(1, sizeof *set->tree);
    if (set->tree == NULL)
        return -ENOMEM;
    RB_INIT(&set->tree->head);
    set->tree->nodes = calloc(set->conns, sizeof *set->tree->nodes);
    if (set->tree->nodes == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < set->conns && !machine_interrupted; i++) {
        struct tree_node *node = &set->tree->nodes[i];
        node->key = set->indices[order[i]];
        node->object.fd = (int)node->key;
        node->object.flags = 1;
        RB_INSERT(tree_head, &set->tree->head, node);
    }
    return 0;
}

void
lookup_tree_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    for (int i = 0; i < count; i++) {
        struct tree_node wanted;
        wanted.key = (uint32_t)batch[i].data.u64;
        struct tree_node *node = RB_FIND(tree_head, &run->set->tree->head, &wanted);
        if (node != NULL && node->object.flags != 0)
            lookup_count(&node->object.state, lookup_read(run, (uint32_t)node->object.fd));
    }
}

uint64_t
lookup_tree_handled(const struct lookup_set *set)
{
    uint64_t sum = 0;
    struct tree_node *node;
    RB_FOREACH(node, tree_head, &set->tree->head)
    sum += node->object.state.bytes / 8;
    return sum;
}

static void
tree_fini(struct lookup_set *set)
{
    if (set->tree != NULL)
        free(set->tree->nodes);
    free(set->tree);
    set->tree = NULL;
}

#else

int
lookup_tree_build(struct lookup_set *set, const uint32_t *order)
{
    (void)set;
    (void)order;
    return -ENOSYS;
}

void
lookup_tree_pass(struct lookup_run *run, const struct epoll_event *batch, int count)
{
    (void)run;
    (void)batch;
    (void)count;
}

uint64_t
lookup_tree_handled(const struct lookup_set *set)
{
    (void)set;
    return 0;
}

static void
tree_fini(struct lookup_set *set)
{
    (void)set;
}

#endif

void
lookup_maps_fini(struct lookup_set *set)
{
    hash_fini(set);
    free(set->open);
    set->open = NULL;
    tree_fini(set);
}
