/*
 * The data of the kv example; see kv_store.h. The table is uthash's; what is added to it here is a
 * hash that strangers cannot predict, limits, and expiry.
 *
 * Invariant: an entry is in the `expiring` list exactly when its expires_ms is not 0, and `bytes`
 * is the sum of all keys and values.
 *
 * SPDX-License-Identifier: MIT
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static uint32_t kv_hash(const void *key, size_t length);

/* How uthash is told to hash, and to report a lack of memory instead of ending the program. */
#define HASH_FUNCTION(key, length, result) ((result) = kv_hash((key), (length)))
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(entry) ((entry)->key_length = UINT32_MAX)

#include "kv_store.h"

#include <utlist.h>

#define APPEND_CAPACITY_FACTOR 2 /* room left for the next append */

/* ---- the hash: SipHash-1-3 ------------------------------------------------------------------ */

/* uthash passes the key alone, so the secret of the one store that a program has is kept here. */
static uint64_t hash_secret[2];

static uint64_t
rotate(uint64_t value, int bits)
{
    return (value << bits) | (value >> (64 - bits));
}

static void
hash_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

static uint32_t
kv_hash(const void *key, size_t length)
{
    const unsigned char *bytes = key;
    uint64_t v[4] = {hash_secret[0] ^ UINT64_C(0x736f6d6570736575),
                     hash_secret[1] ^ UINT64_C(0x646f72616e646f6d),
                     hash_secret[0] ^ UINT64_C(0x6c7967656e657261),
                     hash_secret[1] ^ UINT64_C(0x7465646279746573)};
    uint64_t word = 0;

    for (size_t left = length; left >= sizeof(word); left -= sizeof(word)) {
        memcpy(&word, bytes, sizeof(word));
        bytes += sizeof(word);
        v[3] ^= word;
        hash_round(v);
        v[0] ^= word;
    }
    word = 0;
    memcpy(&word, bytes, length % sizeof(word));
    word |= (uint64_t)length << 56;
    v[3] ^= word;
    hash_round(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        hash_round(v);
    return (uint32_t)(v[0] ^ v[1] ^ v[2] ^ v[3]);
}

/* ---- keys and values ------------------------------------------------------------------------ */

int
kv_open(struct kv_store *store)
{
    *store = (struct kv_store){.entries = NULL};
    if (getrandom(hash_secret, sizeof(hash_secret), 0) != (ssize_t)sizeof(hash_secret))
        return errno != 0 ? -errno : -EIO;
    return 0;
}

void
kv_clear(struct kv_store *store)
{
    struct kv_entry *entry = NULL;
    struct kv_entry *next = NULL;

    HASH_ITER(hh, store->entries, entry, next)
    {
        kv_delete(store, entry);
    }
    assert(store->bytes == 0 && store->expiring == NULL);
}

unsigned
kv_count(const struct kv_store *store)
{
    return HASH_COUNT(store->entries);
}

void
kv_delete(struct kv_store *store, struct kv_entry *entry)
{
    kv_expire_at(store, entry, 0);
    assert(store->entries != NULL);
    HASH_DEL(store->entries, entry); /* NOLINT: the analyzer does not see through the macro */
    assert(store->bytes >= entry->key_length + entry->value_length);
    store->bytes -= entry->key_length + entry->value_length;
    free(entry->value);
    free(entry);
}

struct kv_entry *
kv_find(struct kv_store *store, const char *key, size_t length, int64_t now_ms)
{
    struct kv_entry *entry = NULL;

    HASH_FIND(hh, store->entries, key, length, entry);
    if (entry != NULL && entry->expires_ms != 0 && entry->expires_ms <= now_ms) {
        kv_delete(store, entry);
        store->expired++;
        entry = NULL;
    }
    if (entry != NULL)
        store->hits++;
    else
        store->misses++;
    return entry;
}

static struct kv_entry *
entry_create(struct kv_store *store, const char *key, size_t length)
{
    if (kv_count(store) >= KV_KEYS_MAX)
        return NULL;
    struct kv_entry *entry = calloc(1, sizeof(*entry) + length);
    if (entry == NULL)
        return NULL;
    memcpy(entry->key, key, length);
    entry->key_length = (uint32_t)length;
    HASH_ADD_KEYPTR(hh, store->entries, entry->key, length, entry);
    if (entry->key_length == UINT32_MAX) { /* see uthash_nonfatal_oom */
        free(entry);
        return NULL;
    }
    store->bytes += length;
    return entry;
}

/* Writes the value in place if there is room, else into a new block. Returns 0 or -ENOMEM. */
static int
value_write(struct kv_entry *entry, uint32_t offset, const char *value, size_t length)
{
    if (offset + length > entry->value_capacity) {
        const size_t capacity = (offset + length) * (offset > 0 ? APPEND_CAPACITY_FACTOR : 1);
        char *grown = realloc(entry->value, capacity);
        if (grown == NULL)
            return -ENOMEM;
        entry->value = grown;
        entry->value_capacity = (uint32_t)capacity;
    }
    if (length > 0)
        memcpy(entry->value + offset, value, length);
    entry->value_length = (uint32_t)(offset + length);
    return 0;
}

struct kv_entry *
kv_put(struct kv_store *store, const char *key, size_t key_length, const char *value,
       size_t value_length, int append, int64_t now_ms)
{
    struct kv_entry *entry = kv_find(store, key, key_length, now_ms);
    const int is_new = entry == NULL;
    const uint32_t offset = append && !is_new ? entry->value_length : 0;
    const size_t replaced = is_new ? 0 : entry->value_length - offset;

    if (offset + value_length > KV_VALUE_BYTES_MAX ||
        store->bytes - replaced + (is_new ? key_length : 0) + value_length > KV_DATA_BYTES_MAX)
        return NULL;
    if (is_new && (entry = entry_create(store, key, key_length)) == NULL)
        return NULL;
    if (value_write(entry, offset, value, value_length) != 0) {
        if (is_new)
            kv_delete(store, entry);
        return NULL;
    }
    store->bytes += value_length - replaced;
    return entry;
}

/* ---- expiry ------------------------------------------------------------------------------- */

void
kv_expire_at(struct kv_store *store, struct kv_entry *entry, int64_t expires_ms)
{
    assert(expires_ms >= 0);
    if (entry->expires_ms != 0)
        DL_DELETE(store->expiring, entry);
    entry->expires_ms = expires_ms;
    if (expires_ms != 0)
        DL_APPEND(store->expiring, entry);
}

void
kv_expire_some(struct kv_store *store, int64_t now_ms, unsigned count)
{
    for (; count > 0 && store->expiring != NULL; count--) {
        struct kv_entry *entry = store->expiring;
        if (entry->expires_ms <= now_ms) { /* NOLINT: deleted, it is not the first any more */
            kv_delete(store, entry);
            store->expired++;
        } else {
            kv_expire_at(store, entry, entry->expires_ms); /* to the end of the queue */
        }
    }
}

/* ---- patterns ----------------------------------------------------------------------------- */

/*
 * Whether `byte` matches the one element (a byte, ?, \x or [...]) at the front of the pattern;
 * `*used` receives how long that element is. A bracket without its end is taken to end there.
 */
static int
element_matches(const char *pattern, size_t length, unsigned char byte, size_t *used)
{
    if (pattern[0] == '\\' && length > 1) {
        *used = 2;
        return (unsigned char)pattern[1] == byte;
    }
    *used = 1;
    if (pattern[0] != '[')
        return pattern[0] == '?' || (unsigned char)pattern[0] == byte;

    size_t at = 1;
    const int negated = at < length && pattern[at] == '^';
    int found = 0;
    at += (size_t)negated;
    while (at < length && pattern[at] != ']') {
        if (pattern[at] == '\\' && at + 1 < length)
            at++;
        const unsigned char low = (unsigned char)pattern[at];
        const int is_range = at + 2 < length && pattern[at + 1] == '-' && pattern[at + 2] != ']';
        at += is_range ? 2 : 0;
        found |= byte >= low && byte <= (unsigned char)pattern[at];
        at++;
    }
    *used = at < length ? at + 1 : length;
    return found != negated;
}

/*
 * On a mismatch only the last star is tried again, one byte further: an earlier star could not
 * help, since the last one can take in all that it could. So the cost is at most pattern times
 * text.
 */
static int
pattern_matches(const char *pattern, size_t pattern_length, const char *text, size_t length)
{
    size_t p = 0;
    size_t t = 0;
    size_t star = SIZE_MAX; /* where the pattern goes on after the last star */
    size_t star_text = 0;   /* and what that star has taken in so far */

    while (t < length || p < pattern_length) {
        size_t used = 0;
        if (p < pattern_length && pattern[p] == '*') {
            star = ++p;
            star_text = t;
        } else if (p < pattern_length && t < length &&
                   element_matches(pattern + p, pattern_length - p, (unsigned char)text[t],
                                   &used)) {
            p += used;
            t++;
        } else if (star != SIZE_MAX && star_text < length) {
            p = star;
            t = ++star_text;
        } else {
            return 0;
        }
    }
    return 1;
}

unsigned
kv_match(struct kv_store *store, const char *pattern, size_t length, int64_t now_ms,
         struct kv_entry **matches, unsigned count)
{
    struct kv_entry *entry = NULL;
    struct kv_entry *next = NULL;
    unsigned found = 0;

    HASH_ITER(hh, store->entries, entry, next)
    {
        if (entry->expires_ms != 0 && entry->expires_ms <= now_ms)
            continue; /* over, though nobody has dropped it yet */
        if (!pattern_matches(pattern, length, entry->key, entry->key_length))
            continue;
        if (found < count)
            matches[found] = entry;
        found++;
    }
    return found;
}
