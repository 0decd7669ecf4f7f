/*
 * The data of the kv example: a hash table from binary keys to binary values, some of which expire.
 * No connections and no protocol here, and no clock: the caller says what time it is.
 *
 * Expiry is lazy (kv_find drops what is over) and active (kv_expire_some looks at a bounded number
 * of keys each time, in turn): nothing that is over is ever seen, and nothing that is over stays.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KV_STORE_H
#define KV_STORE_H

#include <stddef.h>
#include <stdint.h>

#include <uthash.h>

#define KV_KEYS_MAX (1024 * 1024)
#define KV_DATA_BYTES_MAX                                                                          \
    ((size_t)256 << 20) /* of keys and values; what the table adds is extra                        \
                         */
#define KV_VALUE_BYTES_MAX ((size_t)1 << 20)

/** One key. Read all, but change only through the functions. */
struct kv_entry {
    UT_hash_handle hh;
    struct kv_entry *prev; /**< among those that expire */
    struct kv_entry *next;
    int64_t expires_ms; /**< 0: never */
    char *value;
    uint32_t value_length;
    uint32_t value_capacity;
    uint32_t key_length;
    char key[];
};

struct kv_store {
    struct kv_entry *entries;
    struct kv_entry *expiring; /**< whose turn it is next to be looked at */
    size_t bytes;              /**< of keys and values */
    uint64_t expired;          /**< keys that went because their time was over */
    uint64_t hits;             /**< kv_find found the key */
    uint64_t misses;           /**< or did not */
};

/** An empty store. 0, or -errno when the system has no randomness to give. */
int kv_open(struct kv_store *store);

/** Drops all keys. */
void kv_clear(struct kv_store *store);

unsigned kv_count(const struct kv_store *store);

/** The entry of that key, or NULL. Valid until the next call that may delete it. */
struct kv_entry *kv_find(struct kv_store *store, const char *key, size_t length, int64_t now_ms);

/**
 * The value of `key` becomes `value`, added at the end of the old one if `append`; a new key never
 * expires, an old one keeps its time.
 * @return the entry, or NULL: a limit above would be passed, or no memory; nothing has changed.
 */
struct kv_entry *kv_put(struct kv_store *store, const char *key, size_t key_length,
                        const char *value, size_t value_length, int append, int64_t now_ms);

void kv_delete(struct kv_store *store, struct kv_entry *entry);

/** From `expires_ms` on the key is gone; 0: never. */
void kv_expire_at(struct kv_store *store, struct kv_entry *entry, int64_t expires_ms);

/** Looks at up to `count` of the keys that expire, and drops those whose time is over. */
void kv_expire_some(struct kv_store *store, int64_t now_ms, unsigned count);

/**
 * Finds keys that match a pattern of *, ?, [a-z], [^a-z] and backslash. Writes up to `count` of
 * them and returns how many there are in all. Looks at every key: for people, not for programs.
 */
unsigned kv_match(struct kv_store *store, const char *pattern, size_t length, int64_t now_ms,
                  struct kv_entry **matches, unsigned count);

#endif
