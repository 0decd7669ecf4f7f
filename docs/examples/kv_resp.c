/*
 * The protocol of the kv example; see kv_resp.h. A request is `*COUNT`, then for each argument
 * `$LENGTH` and that many bytes, each part followed by CR LF. What begins otherwise is a line of
 * words.
 *
 * Invariant: nothing at or past data + length is read, and every length is checked before it is
 * added to anything.
 *
 * SPDX-License-Identifier: MIT
 */
#include "kv_resp.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define NUMBER_BYTES_MAX 20 /* "-9223372036854775808" */

int
kv_number(const char *data, size_t length, int64_t *number)
{
    size_t at = 0;
    const int negative = length > 0 && data[0] == '-';
    int64_t value = 0;

    at += (size_t)negative;
    if (at == length || length > NUMBER_BYTES_MAX)
        return -EINVAL;
    if (data[at] == '0' && length > 1)
        return -EINVAL; /* "007" and "-0" are texts, not numbers: they would not come back the same
                         */
    for (; at < length; at++) {
        if (data[at] < '0' || data[at] > '9')
            return -EINVAL;
        /* Downwards, because there is one more negative number than there are positive ones. */
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_sub_overflow(value, data[at] - '0', &value))
            return -EINVAL;
    }
    if (!negative && __builtin_sub_overflow((int64_t)0, value, &value))
        return -EINVAL;
    *number = value;
    return 0;
}

/* The bytes of the line at the front, its ending included; 0: not yet; -EPROTO: too long. */
static long
line_bytes(const char *data, size_t length)
{
    const size_t visible = length < KV_LINE_BYTES_MAX ? length : KV_LINE_BYTES_MAX;
    const char *end = memchr(data, '\n', visible);

    if (end != NULL)
        return end - data + 1;
    return length < KV_LINE_BYTES_MAX ? 0 : -EPROTO;
}

/*
 * Reads `TYPE NUMBER CR LF`, the number being -1 to `max`. Returns as line_bytes; -EPROTO for any
 * other line.
 */
static long
length_parse(const char *data, size_t length, int64_t max, int64_t *number)
{
    const long used = line_bytes(data, length);

    if (used <= 0)
        return used;
    if (used < 4 || data[used - 2] != '\r')
        return -EPROTO;
    if (kv_number(data + 1, (size_t)used - 3, number) != 0 || *number < -1 || *number > max)
        return -EPROTO;
    return used;
}

static long
line_parse(const char *data, size_t length, struct kv_request *request, const char **error)
{
    const long used = line_bytes(data, length);
    const char *word = data;

    if (used < 0)
        *error = "ERR Protocol error: too big inline request";
    if (used <= 0)
        return used;
    const char *end = data + used - 1;
    if (end > data && end[-1] == '\r')
        end--;
    while (word < end) {
        const char *stop = word;
        while (stop < end && *stop != ' ' && *stop != '\t')
            stop++;
        if (stop > word) {
            if (request->count == KV_ARGUMENTS_MAX) {
                *error = "ERR Protocol error: too many arguments";
                return -EPROTO;
            }
            request->arguments[request->count++] =
                (struct kv_argument){.data = word, .length = (size_t)(stop - word)};
        }
        word = stop + 1;
    }
    return used;
}

/* One `$LENGTH` argument. Returns as kv_parse. */
static long
argument_parse(const char *data, size_t length, struct kv_argument *argument, const char **error)
{
    int64_t bytes = 0;

    if (length == 0)
        return 0;
    if (data[0] != '$') {
        *error = "ERR Protocol error: expected '$'";
        return -EPROTO;
    }
    const long used = length_parse(data, length, (int64_t)KV_ARGUMENT_BYTES_MAX, &bytes);
    if (used < 0 || (used > 0 && bytes < 0)) {
        *error = "ERR Protocol error: invalid bulk length";
        return -EPROTO;
    }
    if (used == 0 || length - (size_t)used < (size_t)bytes + 2)
        return 0;
    const char *body = data + used;
    if (body[bytes] != '\r' || body[bytes + 1] != '\n') {
        *error = "ERR Protocol error: a bulk longer than its length";
        return -EPROTO;
    }
    *argument = (struct kv_argument){.data = body, .length = (size_t)bytes};
    return used + (long)bytes + 2;
}

long
kv_parse(const char *data, size_t length, struct kv_request *request, const char **error)
{
    int64_t count = 0;

    assert(length > 0);
    request->count = 0;
    if (data[0] != '*')
        return line_parse(data, length, request, error);
    long used = length_parse(data, length, KV_ARGUMENTS_MAX, &count);
    if (used < 0)
        *error = "ERR Protocol error: invalid multibulk length";
    if (used <= 0)
        return used;
    for (; count > 0; count--) {
        const long argument = argument_parse(data + used, length - (size_t)used,
                                             &request->arguments[request->count], error);
        if (argument <= 0)
            return argument;
        used += argument;
        request->count++;
    }
    return used;
}
