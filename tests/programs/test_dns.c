/*
 * The dns example's reading and writing of messages: good queries, cut at every byte, and changed
 * at random. Each query is given in a block of exactly its size, so that a checking tool sees a
 * read past its end, and every answer must be one that a strict reader takes.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/support.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../docs/examples/dns_answer.h"

#define ROUNDS 300000
#define HEADER_BYTES 12
#define FLAG_CUT 0x0200

static struct dns_zone zone;

static void
zone_make(void)
{
    const char *fault = NULL;
    const char *records = "example.org A 192.0.2.1; www.example.org AAAA ::1;"
                          "t.example.org TXT one;t.example.org TXT two";
    ck_assert_int_eq(dns_zone_parse(&zone, "example.org.", records, &fault), 0);
}

static void
zone_end(void)
{
    dns_zone_free(&zone);
}

static unsigned
at_16(const unsigned char *data)
{
    return (unsigned)data[0] << 8 | data[1];
}

/* Skips a name as a strict reader does: a pointer must point backwards. */
static size_t
skip_name(const unsigned char *data, size_t length, size_t at)
{
    for (;;) {
        ck_assert_uint_lt(at, length);
        if (data[at] >= 0xc0) {
            ck_assert_uint_lt(at + 1, length);
            ck_assert_uint_lt(at_16(data + at) & 0x3fff, at);
            return at + 2;
        }
        ck_assert_uint_le(data[at], DNS_LABEL_BYTES_MAX);
        if (data[at] == 0)
            return at + 1;
        at += 1u + data[at];
    }
}

/* Every count is true, and nothing is left over. */
static void
check_answer(const unsigned char *query, const unsigned char *answer, size_t length)
{
    size_t at = HEADER_BYTES;
    ck_assert_uint_ge(length, HEADER_BYTES);
    ck_assert_uint_le(length, DNS_ANSWER_BYTES_MAX);
    ck_assert_mem_eq(answer, query, 2);
    ck_assert_uint_eq(answer[2] & 0x80, 0x80);
    ck_assert_uint_le(at_16(answer + 4), 1);
    if (at_16(answer + 4) == 1)
        at = skip_name(answer, length, at) + 4;
    const unsigned records = at_16(answer + 6) + at_16(answer + 8) + at_16(answer + 10);
    for (unsigned i = 0; i < records; i++) {
        at = skip_name(answer, length, at) + 10;
        ck_assert_uint_le(at, length);
        at += at_16(answer + at - 2);
    }
    ck_assert_uint_eq(at, length);
}

/* The answer to a copy that ends where its memory ends; its length. */
static size_t
ask(const unsigned char *query, size_t length, unsigned char *answer)
{
    unsigned char *copy = malloc(length > 0 ? length : 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, query, length);
    const size_t answered = dns_answer(&zone, copy, length, 0, answer);
    if (answered > 0)
        check_answer(copy, answer, answered);
    free(copy);
    return answered;
}

static const struct {
    const char *bytes;
    size_t length;
    unsigned status;
    unsigned answers;
} queries[] = {
#define QUERY(text) text, sizeof(text) - 1
    {QUERY("\0\1\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0\1"), 0, 1},
    {QUERY("\0\1\1\0\0\1\0\0\0\0\0\1\3wWw\7exAmple\3org\0\0\34\0\1\0\0\51\20\0\0\0\0\0\0\0"), 0, 1},
    {QUERY("\0\1\1\0\0\1\0\0\0\0\0\1\1t\7example\3org\0\0\377\0\1\0\0\51\2\0\0\0\0\0\0\0"), 0, 2},
    {QUERY("\0\1\1\0\0\1\0\0\0\0\0\0\1n\7example\3org\0\0\20\0\1"), 3, 0},
    {QUERY("\0\1\1\0\0\1\0\0\0\0\0\0\3org\0\0\1\0\1"), 5, 0},
    {QUERY("\0\1\1\0\0\1\0\0\0\0\0\0\0\0\1\0\1"), 5, 0},
    {QUERY("\0\1\1\0\0\1\0\0\0\0\0\0\300\14\0\1\0\1"), 1, 0},
    {QUERY("\0\1\1\0\0\1\0\0\0\0\0\0\7example\300\14\0\1\0\1"), 1, 0},
    {QUERY("\0\1\1\0\0\1\0\0\0\0\0\1\7example\3org\0\0\1\0\1\300\14\0\51\2\0\0\0\0\0\0\0"), 1, 0},
    {QUERY("\0\1\1\0\0\2\0\0\0\0\0\0\7example\3org\0\0\1\0\1\7example\3org\0\0\1\0\1"), 1, 0},
    {QUERY("\0\1\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0\1x"), 1, 0},
    {QUERY("\0\1\50\0\0\1\0\0\0\0\0\0\7example\3org\0\0\6\0\1"), 4, 0},
};
#define QUERIES (sizeof(queries) / sizeof(queries[0]))

START_TEST(each_query_has_its_answer)
{
    unsigned char answer[DNS_ANSWER_BYTES_MAX];
    for (size_t i = 0; i < QUERIES; i++) {
        const size_t length =
            ask((const unsigned char *)queries[i].bytes, queries[i].length, answer);
        ck_assert_uint_ge(length, HEADER_BYTES);
        ck_assert_msg((answer[3] & 15u) == queries[i].status, "query %zu: status %u", i,
                      answer[3] & 15u);
        ck_assert_msg(at_16(answer + 6) == queries[i].answers, "query %zu: %u answers", i,
                      at_16(answer + 6));
    }
}
END_TEST

START_TEST(cut_at_every_byte)
{
    unsigned char answer[DNS_ANSWER_BYTES_MAX];
    for (size_t i = 0; i < QUERIES; i++)
        for (size_t length = 0; length < queries[i].length; length++) {
            const size_t answered = ask((const unsigned char *)queries[i].bytes, length, answer);
            ck_assert_int_eq(answered > 0, length >= HEADER_BYTES);
            if (answered > 0 && queries[i].status == 0)
                ck_assert_uint_ne(answer[3] & 15, 0);
        }
    /* And by the one who received it. */
    const unsigned char *first = (const unsigned char *)queries[0].bytes;
    ck_assert_uint_eq(dns_answer(&zone, first, queries[0].length, 1, answer), HEADER_BYTES);
    ck_assert_uint_eq(answer[3] & 15, 1);
}
END_TEST

START_TEST(changed_at_random)
{
    uint64_t random = test_seed("dns");
    unsigned char answer[DNS_ANSWER_BYTES_MAX];
    const uint64_t rounds = test_rounds("BERTH_DNS_ROUNDS", test_is_slow() ? ROUNDS / 30 : ROUNDS);
    for (uint64_t i = 0; i < rounds; i++) {
        unsigned char data[600];
        const size_t which = test_random(&random) % QUERIES;
        size_t length = queries[which].length;
        memcpy(data, queries[which].bytes, length);
        for (uint64_t changes = test_random(&random) % 6; changes > 0; changes--)
            data[test_random(&random) % length] = (unsigned char)test_random(&random);
        while (test_random(&random) % 4 == 0 && length < sizeof(data))
            data[length++] = (unsigned char)test_random(&random);
        (void)ask(data, length, answer);
    }
}
END_TEST

/* A name of 255 bytes is the longest; answers to it point into it, and stay in their room. */
START_TEST(the_longest_names)
{
    unsigned char query[600] = {0, 1, 0, 0, 0, 1}, answer[DNS_ANSWER_BYTES_MAX];
    static const unsigned char end[] = "\7example\3org\0\0\1\0\1";
    for (size_t extra = 0; extra < 2; extra++) {
        size_t at = HEADER_BYTES;
        for (int i = 0; i < 3; i++) {
            query[at++] = 63;
            memset(query + at, 'a', 63);
            at += 63;
        }
        const size_t last = 255 - 3 * 64 - 13 - 1 + extra;
        query[at++] = (unsigned char)last;
        memset(query + at, 'b', last);
        at += last;
        memcpy(query + at, end, sizeof(end) - 1);
        at += sizeof(end) - 1;
        ck_assert_uint_gt(ask(query, at, answer), 0);
        ck_assert_uint_eq(answer[3] & 15, extra == 0 ? 3 : 1);
    }
}
END_TEST

START_TEST(what_does_not_fit_is_left_out)
{
    struct dns_zone big;
    const char *fault = NULL;
    char records[3000];
    unsigned char answer[DNS_ANSWER_BYTES_MAX];
    size_t used = 0;
    for (int i = 0; i < 30; i++)
        used += (size_t)snprintf(records + used, sizeof(records) - used,
                                 "example.org TXT %030d-%020d;", i, i);
    ck_assert_int_eq(dns_zone_parse(&big, "example.org", records, &fault), 0);
    static const char query[] = "\0\1\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\20\0\1";
    const size_t length =
        dns_answer(&big, (const unsigned char *)query, sizeof(query) - 1, 0, answer);
    check_answer((const unsigned char *)query, answer, length);
    ck_assert_uint_eq(length, sizeof(query) - 1);
    ck_assert_uint_ne(at_16(answer + 2) & FLAG_CUT, 0);
    dns_zone_free(&big);
}
END_TEST

START_TEST(zones_that_are_refused)
{
    static const char *const records[] = {"example.org",
                                          "example.org A",
                                          "example.org A 1.2.3",
                                          "example.org AAAA 1.2.3.4",
                                          "example.org MX mail",
                                          "example.com A 1.2.3.4",
                                          "notexample.org A 1.2.3.4",
                                          "a..example.org A 1.2.3.4",
                                          "org A 1.2.3.4"};
    struct dns_zone bad;
    const char *fault = NULL;
    for (size_t i = 0; i < sizeof(records) / sizeof(records[0]); i++) {
        ck_assert_msg(dns_zone_parse(&bad, "example.org", records[i], &fault) == -EINVAL, "%s",
                      records[i]);
        ck_assert_ptr_eq(fault, records[i]);
    }
    ck_assert_int_eq(dns_zone_parse(&bad, "", " ; ;\n", &fault), 0); /* the root, and nothing */
    ck_assert_uint_eq(bad.count, 0);
    dns_zone_free(&bad);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("dns");
    TCase *tcase = tcase_create("messages");
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, zone_make, zone_end);
    tcase_add_test(tcase, each_query_has_its_answer);
    tcase_add_test(tcase, cut_at_every_byte);
    tcase_add_test(tcase, changed_at_random);
    tcase_add_test(tcase, the_longest_names);
    tcase_add_test(tcase, what_does_not_fit_is_left_out);
    tcase_add_test(tcase, zones_that_are_refused);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
