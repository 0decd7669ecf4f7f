/*
 * The kv example's protocol and its store: requests cut at every byte and changed at random, and a
 * store driven by random operations beside a model that is too simple to be wrong.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/support.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../docs/examples/kv_resp.h"
#include "../../docs/examples/kv_store.h"

#define ROUNDS 200000
#define MODEL_KEYS 64
#define MODEL_VALUE_MAX 40

static struct kv_request request;

/* Parses a copy that ends where its memory ends. */
static long
parse(const char *data, size_t length, const char **error, char **copy)
{
    *copy = malloc(length > 0 ? length : 1);
    ck_assert_ptr_nonnull(*copy);
    memcpy(*copy, data, length);
    *error = NULL;
    return kv_parse(*copy, length, &request, error);
}

static const struct {
    const char *text;
    size_t length;
    int count; /* of arguments; -1: an error */
} requests[] = {
#define REQUEST(text, count)                                                                       \
    {                                                                                              \
        text, sizeof(text) - 1, count                                                              \
    }
    REQUEST("*1\r\n$4\r\nPING\r\n", 1),
    REQUEST("*3\r\n$3\r\nSET\r\n$3\r\na\0b\r\n$0\r\n\r\n", 3),
    REQUEST("*0\r\n", 0),
    REQUEST("*-1\r\n", 0),
    REQUEST("PING\r\n", 1),
    REQUEST("  SET\ta  b \n", 3),
    REQUEST("\r\n", 0),
    REQUEST("*1\r\n:4\r\nPING\r\n", -1),
    REQUEST("*1\r\n$-1\r\n", -1),
    REQUEST("*1\r\n$1048577\r\n", -1),
    REQUEST("*1\r\n$04\r\nPING\r\n", -1),
    REQUEST("*1\r\n$3\r\nPING\r\n", -1),
    REQUEST("*1025\r\n", -1),
    REQUEST("*99999999999999999999\r\n", -1),
    REQUEST("*1\n$4\r\nPING\r\n", -1),
    REQUEST("*\r\n", -1),
};

#define REQUESTS (sizeof(requests) / sizeof(requests[0]))

START_TEST(test_whole)
{
    const char *error = NULL;
    char *copy = NULL;
    const long result = parse(requests[_i].text, requests[_i].length, &error, &copy);

    if (requests[_i].count < 0) {
        ck_assert_int_eq(result, -EPROTO);
        ck_assert_ptr_nonnull(error);
    } else {
        ck_assert_int_eq(result, (long)requests[_i].length);
        ck_assert_int_eq((int)request.count, requests[_i].count);
    }
    free(copy);
}
END_TEST

START_TEST(test_cut)
{
    for (size_t length = 1; length < requests[_i].length; length++) {
        const char *error = NULL;
        char *copy = NULL;
        const long result = parse(requests[_i].text, length, &error, &copy);
        ck_assert(result == 0 || (requests[_i].count < 0 && result == -EPROTO));
        free(copy);
    }
}
END_TEST

START_TEST(test_random_requests)
{
    uint64_t state = test_seed("kv requests");
    const uint64_t rounds = test_rounds("BERTH_ROUNDS", test_is_slow() ? ROUNDS / 100 : ROUNDS);

    for (uint64_t round = 0; round < rounds; round++) {
        char text[64];
        const size_t from = test_random(&state) % REQUESTS;
        const size_t length = requests[from].length;
        memcpy(text, requests[from].text, length);
        for (uint64_t changes = test_random(&state) % 4; changes > 0; changes--)
            text[test_random(&state) % length] = "*$0123456789\r\n -x"[test_random(&state) % 17];
        const char *error = NULL;
        char *copy = NULL;
        const long result = parse(text, length, &error, &copy);
        ck_assert(result == -EPROTO || (result >= 0 && result <= (long)length));
        ck_assert((result < 0) == (error != NULL));
        for (unsigned i = 0; result > 0 && i < request.count; i++) {
            ck_assert(request.arguments[i].data >= copy);
            ck_assert(request.arguments[i].data + request.arguments[i].length <= copy + length);
        }
        free(copy);
    }
}
END_TEST

START_TEST(test_numbers)
{
    static const struct {
        const char *text;
        int64_t number;
        int error;
    } numbers[] = {
        {"0", 0, 0},          {"-1", -1, 0},       {"9223372036854775807", INT64_MAX, 0},
        {"10", 10, 0},        {"", 0, -EINVAL},    {"-9223372036854775808", INT64_MIN, 0},
        {"-", 0, -EINVAL},    {"-0", 0, -EINVAL},  {"9223372036854775808", 0, -EINVAL},
        {"01", 0, -EINVAL},   {"1 ", 0, -EINVAL},  {"-9223372036854775809", 0, -EINVAL},
        {"0x10", 0, -EINVAL}, {"1e3", 0, -EINVAL}, {"99999999999999999999", 0, -EINVAL},
    };

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        int64_t number = 0;
        const char *text = numbers[i].text;
        ck_assert_msg(kv_number(text, strlen(text), &number) == numbers[i].error, "%s", text);
        if (numbers[i].error == 0)
            ck_assert_int_eq(number, numbers[i].number);
    }
}
END_TEST

/* ---- the store ---------------------------------------------------------------------------- */

static struct model {
    int there;
    int64_t expires_ms;
    size_t length;
    char value[2 * MODEL_VALUE_MAX];
} model[MODEL_KEYS];

static int
model_there(const struct model *entry, int64_t now_ms)
{
    return entry->there && (entry->expires_ms == 0 || entry->expires_ms > now_ms);
}

static void
model_put(struct model *entry, const char *value, size_t length, int append, int64_t now_ms)
{
    if (!model_there(entry, now_ms))
        *entry = (struct model){.there = 1};
    if (!append)
        entry->length = 0;
    memcpy(entry->value + entry->length, value, length);
    entry->length += length;
}

static void
compare(struct kv_store *store, const char *key, size_t length, const struct model *expected,
        int64_t now_ms)
{
    const struct kv_entry *entry = kv_find(store, key, length, now_ms);

    ck_assert_int_eq(entry != NULL, model_there(expected, now_ms));
    if (entry == NULL)
        return;
    ck_assert_uint_eq(entry->value_length, expected->length);
    if (expected->length > 0)
        ck_assert_mem_eq(entry->value, expected->value, expected->length);
    ck_assert_int_eq(entry->expires_ms, expected->expires_ms);
}

/* One random operation on one random key, in both. */
static void
step(struct kv_store *store, uint64_t *state, int64_t now_ms)
{
    char value[MODEL_VALUE_MAX];
    const size_t number = test_random(state) % MODEL_KEYS;
    const size_t length = test_random(state) % sizeof(value);
    const char key[3] = {'k', '\0', (char)number}; /* any byte may stand in a key */
    struct model *expected = &model[number];
    struct kv_entry *entry = kv_find(store, key, sizeof(key), now_ms);

    memset(value, (int)(test_random(state) & 0xff), sizeof(value));
    switch (test_random(state) % 5) {
    case 0:
        ck_assert_ptr_nonnull(kv_put(store, key, sizeof(key), value, length, 0, now_ms));
        model_put(expected, value, length, 0, now_ms);
        break;
    case 1:
        if (entry != NULL && expected->length + length > sizeof(expected->value))
            break;
        ck_assert_ptr_nonnull(kv_put(store, key, sizeof(key), value, length, 1, now_ms));
        model_put(expected, value, length, 1, now_ms);
        break;
    case 2:
        if (entry != NULL)
            kv_delete(store, entry);
        expected->there = 0;
        break;
    case 3:
        if (entry == NULL)
            break;
        kv_expire_at(store, entry, now_ms + (int64_t)length);
        expected->expires_ms = now_ms + (int64_t)length;
        break;
    default:
        kv_expire_some(store, now_ms, (unsigned)length);
        break;
    }
    compare(store, key, sizeof(key), expected, now_ms);
}

START_TEST(test_model)
{
    uint64_t state = test_seed("kv store");
    const uint64_t rounds = test_rounds("BERTH_ROUNDS", test_is_slow() ? ROUNDS / 100 : ROUNDS);
    struct kv_store store;
    int64_t now_ms = 1;

    memset(model, 0, sizeof(model));
    ck_assert_int_eq(kv_open(&store), 0);
    for (uint64_t round = 0; round < rounds; round++) {
        step(&store, &state, now_ms);
        now_ms += (int64_t)(test_random(&state) % 3);
    }
    /* Far in the future only those are left that never expire. */
    now_ms += 1000000;
    unsigned left = 0;
    for (size_t i = 0; i < MODEL_KEYS; i++)
        left += (unsigned)model_there(&model[i], now_ms);
    kv_expire_some(&store, now_ms, MODEL_KEYS);
    ck_assert_uint_eq(kv_count(&store), left);
    kv_clear(&store);
    ck_assert_uint_eq(kv_count(&store), 0);
}
END_TEST

START_TEST(test_limits)
{
    struct kv_store store;
    char *big = calloc(1, KV_VALUE_BYTES_MAX + 1);

    ck_assert_ptr_nonnull(big);
    ck_assert_int_eq(kv_open(&store), 0);
    ck_assert_ptr_null(kv_put(&store, "k", 1, big, KV_VALUE_BYTES_MAX + 1, 0, 1));
    ck_assert_uint_eq(kv_count(&store), 0);
    ck_assert_ptr_nonnull(kv_put(&store, "k", 1, big, KV_VALUE_BYTES_MAX, 0, 1));
    ck_assert_ptr_null(kv_put(&store, "k", 1, "x", 1, 1, 1));
    ck_assert_uint_eq(kv_find(&store, "k", 1, 1)->value_length, KV_VALUE_BYTES_MAX);
    for (unsigned i = 0; store.bytes + KV_VALUE_BYTES_MAX + 4 <= KV_DATA_BYTES_MAX; i++)
        ck_assert_ptr_nonnull(
            kv_put(&store, (const char *)&i, sizeof(i), big, KV_VALUE_BYTES_MAX, 0, 1));
    ck_assert_ptr_null(kv_put(&store, "more", 4, big, KV_VALUE_BYTES_MAX, 0, 1));
    ck_assert_ptr_nonnull(kv_put(&store, "k", 1, big, KV_VALUE_BYTES_MAX, 0, 1)); /* no more */
    kv_clear(&store);
    free(big);
}
END_TEST

START_TEST(test_patterns)
{
    static const struct {
        const char *pattern;
        const char *key;
        int matches;
    } patterns[] = {
        {"*", "", 1},        {"*", "abc", 1},         {"", "", 1},
        {"", "a", 0},        {"a*c", "abbbc", 1},     {"a*c", "abbb", 0},
        {"?", "", 0},        {"??", "ab", 1},         {"[a-c]x", "bx", 1},
        {"[a-c]x", "dx", 0}, {"[^a-c]x", "dx", 1},    {"[^a]", "a", 0},
        {"\\*", "*", 1},     {"\\*", "a", 0},         {"[\\]]", "]", 1},
        {"[a-]", "-", 1},    {"*a*b*c", "xaybzc", 1}, {"*a*b*c", "xbyazc", 0},
        {"[abc", "b", 1},    {"a\\", "a\\", 1},       {"*?", "", 0},
        {"*?", "a", 1},      {"a*", "a", 1},          {"**", "ab", 1},
    };
    struct kv_store store;
    struct kv_entry *match = NULL;

    ck_assert_int_eq(kv_open(&store), 0);
    for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        const char *pattern = patterns[i].pattern;
        const char *key = patterns[i].key;
        ck_assert_ptr_nonnull(kv_put(&store, key, strlen(key), "", 0, 0, 1));
        const unsigned found = kv_match(&store, pattern, strlen(pattern), 1, &match, 1);
        ck_assert_msg((int)found == patterns[i].matches, "%s and %s", pattern, key);
        kv_clear(&store);
    }
    /* A pattern made to be slow: it must not be. */
    char key[4096];
    char pattern[512];
    memset(key, 'a', sizeof(key));
    for (size_t i = 0; i < sizeof(pattern); i++)
        pattern[i] = i % 2 == 0 ? '*' : 'a';
    pattern[sizeof(pattern) - 1] = 'b';
    ck_assert_ptr_nonnull(kv_put(&store, key, sizeof(key), "", 0, 0, 1));
    ck_assert_uint_eq(kv_match(&store, pattern, sizeof(pattern), 1, &match, 1), 0);
    kv_clear(&store);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("kv");
    TCase *cases = tcase_create("all");

    tcase_set_timeout(cases, 120);
    tcase_add_loop_test(cases, test_whole, 0, (int)REQUESTS);
    tcase_add_loop_test(cases, test_cut, 0, (int)REQUESTS);
    tcase_add_test(cases, test_random_requests);
    tcase_add_test(cases, test_numbers);
    tcase_add_test(cases, test_model);
    tcase_add_test(cases, test_limits);
    tcase_add_test(cases, test_patterns);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
