/*
 * The http example's reading of requests: whole, cut at every byte, and changed at random. Each
 * piece is given in a block of exactly its size, so that a checking tool sees a read past its end.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

#include "../../docs/examples/http_request.h"

#define ROUNDS 200000
#define MUTATED_BYTES_MAX 512

/* Parses a copy that ends where its memory ends. */
static long
parse(const char *data, size_t length, struct http_request *request, char **copy)
{
    *copy = malloc(length > 0 ? length : 1);
    ck_assert_ptr_nonnull(*copy);
    memcpy(*copy, data, length);
    return http_parse(*copy, length, request);
}

static long
parse_text(const char *text)
{
    struct http_request request;
    char *copy = NULL;
    const long result = parse(text, strlen(text), &request, &copy);

    free(copy);
    return result;
}

static const struct {
    const char *text;
    int status; /* 0: a good request */
} requests[] = {
    {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0},
    {"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 0},
    {"HEAD /a/b?c HTTP/1.0\r\n\r\n", 0},
    {"BREW /pot HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n", 0},
    {"GET / HTTP/1.1\r\nhost:x\r\nCONNECTION: Keep-Alive , close\r\n\r\n", 0},
    {"GET / HTTP/1.1\r\nHost: x\r\nX-Empty:\r\n\r\n", 0},
    {"GET / HTTP/1.1\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
    {"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
    {"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400},
    {"GET /\r\n\r\n", 400},
    {"G(T / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
    {"GET /\t HTTP/1.1\r\nHost: x\r\n\r\n", 400},
    {"GET / HTTP/1.x\r\nHost: x\r\n\r\n", 400},
    {"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505},
    {"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\n: no name\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\rb\r\n\r\n", 400},
    {"GET / HTTP/1.1\nHost: x\n\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999999999\r\n\r\n", 413},
    {"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 411},
};

#define REQUESTS (sizeof(requests) / sizeof(requests[0]))

START_TEST(test_whole)
{
    const char *text = requests[_i].text;
    const long expected = requests[_i].status != 0 ? -requests[_i].status : (long)strlen(text);

    ck_assert_msg(parse_text(text) == expected, "%s: %ld, not %ld", text, parse_text(text),
                  expected);
}
END_TEST

/* A good request is never taken before its last byte has come, and never for something else. */
START_TEST(test_cut)
{
    const char *text = requests[_i].text;

    for (size_t length = 0; length < strlen(text); length++) {
        struct http_request request;
        char *copy = NULL;
        const long result = parse(text, length, &request, &copy);
        free(copy);
        if (requests[_i].status == 0)
            ck_assert_int_eq(result, 0);
        else
            ck_assert_msg(result == 0 || result == -requests[_i].status, "%s, cut at %zu: %ld",
                          text, length, result);
    }
}
END_TEST

START_TEST(test_what_was_read)
{
    struct http_request request;
    const char *text = "HEAD /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                       "Content-Length: 42\r\nConnection: close\r\n\r\nmore";

    ck_assert_int_eq(http_parse(text, strlen(text), &request), (long)strlen(text) - 4);
    ck_assert_int_eq(request.method, HTTP_HEAD);
    ck_assert_uint_eq(request.body_bytes, 42);
    ck_assert_int_eq(request.minor, 1);
    ck_assert(request.expects && !request.keep_alive);
    ck_assert_uint_eq(request.target_length, 2);
    ck_assert_mem_eq(request.target, "/x", 2);
}
END_TEST

START_TEST(test_too_long)
{
    char head[HTTP_HEAD_BYTES_MAX + 1];

    memset(head, 'x', sizeof(head));
    ck_assert_int_eq(http_parse(head, HTTP_HEAD_BYTES_MAX - 1, &(struct http_request){0}), 0);
    ck_assert_int_eq(http_parse(head, HTTP_HEAD_BYTES_MAX, &(struct http_request){0}), -431);
    ck_assert_int_eq(http_parse(head, sizeof(head), &(struct http_request){0}), -431);
}
END_TEST

static const struct {
    const char *target;
    int status;
    const char *path;
} targets[] = {
    {"/", 0, "index.html"},
    {"/a/", 0, "a/index.html"},
    {"/a", 0, "a"},
    {"///a", 0, "a"},
    {"/a%20b?c=d", 0, "a b"},
    {"/%41%62", 0, "Ab"},
    {"http://host/a", 0, "a"},
    {"HTTP://host:80/a/", 0, "a/index.html"},
    {"/a#b", 0, "a"},
    {"http://host", 400, NULL},
    {"*", 400, NULL},
    {"a", 400, NULL},
    {"/%", 400, NULL},
    {"/%4", 400, NULL},
    {"/%4g", 400, NULL},
    {"/%00", 400, NULL},
    {"/..", 404, NULL},
    {"/../a", 404, NULL},
    {"/a/../b", 404, NULL},
    {"/%2e%2e/a", 404, NULL},
    {"/a%2f..%2fb", 404, NULL},
    {"/./a", 404, NULL},
    {"/.hidden", 404, NULL},
};

START_TEST(test_path)
{
    char path[HTTP_PATH_BYTES_MAX];
    const struct http_request request = {.target = targets[_i].target,
                                         .target_length = strlen(targets[_i].target)};
    const int status = http_path(&request, path);

    ck_assert_msg(status == targets[_i].status, "%s: %d", targets[_i].target, status);
    if (status == 0)
        ck_assert_str_eq(path, targets[_i].path);
}
END_TEST

START_TEST(test_path_too_long)
{
    char target[2 * HTTP_PATH_BYTES_MAX];
    char path[HTTP_PATH_BYTES_MAX];

    memset(target, 'x', sizeof(target));
    target[0] = '/';
    for (size_t length = 3; length < sizeof(target); length++) {
        const struct http_request file = {.target = target, .target_length = length};
        ck_assert_int_eq(http_path(&file, path), length < HTTP_PATH_BYTES_MAX ? 0 : 400);

        /* A directory's gets the name of its index behind it, if there is room. */
        target[length - 1] = '/';
        const int status = http_path(&file, path);
        if (length + sizeof("index.html") <= HTTP_PATH_BYTES_MAX)
            ck_assert_uint_eq(strlen(path), length - 1 + strlen("index.html"));
        else
            ck_assert_int_eq(status, length < HTTP_PATH_BYTES_MAX ? 404 : 400);
        target[length - 1] = 'x';
    }
}
END_TEST

/* Whatever comes, the answer is a length within what came, "not yet", or a status. */
START_TEST(test_changed)
{
    uint64_t state = test_seed("http_request");
    const uint64_t rounds = test_rounds("BERTH_ROUNDS", test_is_slow() ? ROUNDS / 100 : ROUNDS);

    for (uint64_t round = 0; round < rounds; round++) {
        char text[MUTATED_BYTES_MAX];
        char path[HTTP_PATH_BYTES_MAX];
        const char *from = requests[test_random(&state) % REQUESTS].text;
        size_t length = strlen(from);
        memcpy(text, from, length); /* NOLINT: not a string */
        for (uint64_t changes = test_random(&state) % 4; changes > 0; changes--)
            text[test_random(&state) % length] = (char)test_random(&state);
        length -= test_random(&state) % 8 == 0 ? test_random(&state) % length : 0;

        struct http_request request;
        char *copy = NULL;
        const long result = parse(text, length, &request, &copy);
        ck_assert(result <= (long)length);
        ck_assert(result >= 0 || (result <= -400 && result >= -505));
        if (result > 0 && http_path(&request, path) == 0) {
            ck_assert_ptr_null(strstr(path, "/."));
            ck_assert(path[0] != '/' && path[0] != '.' && path[0] != '\0');
        }
        free(copy);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("http_request");
    TCase *cases = tcase_create("all");

    tcase_set_timeout(cases, 120);
    tcase_add_loop_test(cases, test_whole, 0, (int)REQUESTS);
    tcase_add_loop_test(cases, test_cut, 0, (int)REQUESTS);
    tcase_add_test(cases, test_what_was_read);
    tcase_add_test(cases, test_too_long);
    tcase_add_loop_test(cases, test_path, 0, (int)(sizeof(targets) / sizeof(targets[0])));
    tcase_add_test(cases, test_path_too_long);
    tcase_add_test(cases, test_changed);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
