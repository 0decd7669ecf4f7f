/*
 * The requests of the http example; see http_request.h. Every function works on one piece of the
 * head, between a begin and an end that are known to be in the buffer.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* memmem */
#include "http_request.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

#define LENGTH_DIGITS_MAX 18 /* so that a number of bytes cannot overflow */

/* A piece of the head. */
struct piece {
    const char *data;
    size_t length;
};

static int
piece_is(struct piece piece, const char *word)
{
    return piece.length == strlen(word) && strncasecmp(piece.data, word, piece.length) == 0;
}

/* Takes what is before `separator` off the front of `rest`, and the separator too. */
static struct piece
piece_cut(struct piece *rest, char separator)
{
    const char *end = rest->length > 0 ? memchr(rest->data, separator, rest->length) : NULL;
    const size_t length = end != NULL ? (size_t)(end - rest->data) : rest->length;
    const struct piece front = {.data = rest->data, .length = length};
    const size_t taken = end != NULL ? length + 1 : length;

    rest->data += taken;
    rest->length -= taken;
    return front;
}

static struct piece
piece_trim(struct piece piece)
{
    while (piece.length > 0 && (piece.data[0] == ' ' || piece.data[0] == '\t')) {
        piece.data++;
        piece.length--;
    }
    while (piece.length > 0 &&
           (piece.data[piece.length - 1] == ' ' || piece.data[piece.length - 1] == '\t'))
        piece.length--;
    return piece;
}

/* Whether every byte may stand in a name: a method's, or a header's. */
static int
piece_is_token(struct piece piece)
{
    static const char others[] = "!#$%&'*+-.^_`|~";

    for (size_t i = 0; i < piece.length; i++) {
        const char byte = piece.data[i];
        const char lower = (char)(byte | 0x20);
        if (!((lower >= 'a' && lower <= 'z') || (byte >= '0' && byte <= '9') ||
              (byte != '\0' && strchr(others, byte) != NULL)))
            return 0;
    }
    return piece.length > 0;
}

/* Whether no byte is a control character; blanks are allowed or not. */
static int
piece_is_visible(struct piece piece, int blanks)
{
    for (size_t i = 0; i < piece.length; i++) {
        const unsigned char byte = (unsigned char)piece.data[i];
        const int is_blank = byte == ' ' || byte == '\t';
        if (byte == 0x7f || (is_blank ? !blanks : byte < ' '))
            return 0;
    }
    return 1;
}

/* ---- the head ----------------------------------------------------------------------------- */

static int
version_parse(struct piece version, struct http_request *request)
{
    if (version.length != 8 || memcmp(version.data, "HTTP/", 5) != 0 || version.data[6] != '.')
        return 400;
    if (version.data[5] != '1')
        return 505;
    if (version.data[7] < '0' || version.data[7] > '9')
        return 400;
    request->minor = version.data[7] - '0';
    request->keep_alive = request->minor >= 1;
    return 0;
}

static int
request_line_parse(struct piece line, struct http_request *request)
{
    const struct piece method = piece_cut(&line, ' ');
    const struct piece target = piece_cut(&line, ' ');

    if (!piece_is_token(method) || target.length == 0 || !piece_is_visible(target, 0))
        return 400;
    /* Method names are the one thing in a head whose case matters. */
    if (method.length == 3 && memcmp(method.data, "GET", 3) == 0)
        request->method = HTTP_GET;
    else if (method.length == 4 && memcmp(method.data, "HEAD", 4) == 0)
        request->method = HTTP_HEAD;
    else
        request->method = HTTP_OTHER;
    request->target = target.data;
    request->target_length = target.length;
    return version_parse(line, request);
}

static int
body_length_parse(struct piece value, struct http_request *request)
{
    if (request->has_body_length || value.length == 0)
        return 400;
    if (value.length > LENGTH_DIGITS_MAX)
        return 413;
    for (size_t i = 0; i < value.length; i++) {
        if (value.data[i] < '0' || value.data[i] > '9')
            return 400;
        request->body_bytes = request->body_bytes * 10 + (uint64_t)(value.data[i] - '0');
    }
    request->has_body_length = 1;
    return 0;
}

static void
connection_parse(struct piece value, struct http_request *request)
{
    int close_asked = 0;

    while (value.length > 0) {
        const struct piece word = piece_trim(piece_cut(&value, ','));
        close_asked |= piece_is(word, "close");
        request->keep_alive |= piece_is(word, "keep-alive");
    }
    if (close_asked)
        request->keep_alive = 0;
}

static int
header_parse(struct piece line, struct http_request *request)
{
    const struct piece name = piece_cut(&line, ':');
    const struct piece value = piece_trim(line);

    if (name.data + name.length == line.data || !piece_is_token(name) ||
        !piece_is_visible(value, 1))
        return 400; /* no colon; a continued line; a space before the colon; a control character */
    if (piece_is(name, "content-length"))
        return body_length_parse(value, request);
    if (piece_is(name, "transfer-encoding"))
        return 411; /* a body whose length is not said beforehand: nobody who only GETs needs one */
    if (piece_is(name, "connection"))
        connection_parse(value, request);
    else if (piece_is(name, "expect"))
        request->expects = 1;
    else if (piece_is(name, "host"))
        request->hosts++;
    return 0;
}

/* Where the head ends, the empty line included; 0: not yet; -400 or -431. */
static long
head_bytes(const char *data, size_t length)
{
    const size_t visible = length < HTTP_HEAD_BYTES_MAX ? length : HTTP_HEAD_BYTES_MAX;
    const char *end = memmem(data, visible, "\r\n\r\n", 4);

    if (end != NULL)
        return end - data + 4;
    const char *line_end = memchr(data, '\n', visible);
    if (line_end != NULL && (line_end == data || line_end[-1] != '\r'))
        return -400; /* say so now: the end looked for would never come */
    return visible < HTTP_HEAD_BYTES_MAX ? 0 : -431;
}

long
http_parse(const char *data, size_t length, struct http_request *request)
{
    long skipped = 0;

    *request = (struct http_request){.method = HTTP_OTHER};
    if (length >= 2 && data[0] == '\r' && data[1] == '\n')
        skipped = 2; /* some clients end a body with a line too many */
    const long bytes = head_bytes(data + skipped, length - (size_t)skipped);
    if (bytes <= 0)
        return bytes;

    struct piece rest = {.data = data + skipped, .length = (size_t)bytes - 2};
    int status = 0;
    for (int number = 0; rest.length > 0 && status == 0; number++) {
        struct piece line = piece_cut(&rest, '\n');
        if (line.length == 0 || line.data[line.length - 1] != '\r')
            return -400;
        line.length--;
        status = number == 0 ? request_line_parse(line, request) : header_parse(line, request);
    }
    if (status == 0 && (request->hosts > 1 || (request->minor >= 1 && request->hosts == 0)))
        status = 400;
    return status != 0 ? -status : skipped + bytes;
}

/* ---- the target --------------------------------------------------------------------------- */

static int
hex_digit(char byte)
{
    const char lower = (char)(byte | 0x20);

    if (byte >= '0' && byte <= '9')
        return byte - '0';
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* Decodes up to the query. Returns the length, or -1: broken, too long, or with a zero in it. */
static long
path_decode(struct piece target, char path[HTTP_PATH_BYTES_MAX])
{
    size_t length = 0;

    for (size_t i = 0; i < target.length && target.data[i] != '?' && target.data[i] != '#'; i++) {
        int byte = (unsigned char)target.data[i];
        if (byte == '%') {
            if (target.length - i < 3)
                return -1;
            const int high = hex_digit(target.data[i + 1]);
            const int low = hex_digit(target.data[i + 2]);
            if (high < 0 || low < 0)
                return -1;
            byte = high * 16 + low;
            i += 2;
        }
        if (byte == 0 || length + 1 >= HTTP_PATH_BYTES_MAX)
            return -1;
        path[length++] = (char)byte;
    }
    path[length] = '\0';
    return (long)length;
}

int
http_path(const struct http_request *request, char path[HTTP_PATH_BYTES_MAX])
{
    static const char index_name[] = "index.html";
    struct piece target = {.data = request->target, .length = request->target_length};

    if (target.length > 7 && strncasecmp(target.data, "http://", 7) == 0) {
        const char *slash = memchr(target.data + 7, '/', target.length - 7);
        if (slash == NULL)
            return 400;
        target.length -= (size_t)(slash - target.data);
        target.data = slash;
    }
    if (target.length == 0 || target.data[0] != '/')
        return 400;
    long length = path_decode(target, path);
    if (length < 0)
        return 400;
    if (strstr(path, "/.") != NULL)
        return 404;
    if (path[length - 1] == '/') {
        if ((size_t)length + sizeof(index_name) > HTTP_PATH_BYTES_MAX)
            return 404;
        memcpy(path + length, index_name, sizeof(index_name));
        length += (long)sizeof(index_name) - 1;
    }
    const size_t slashes = strspn(path, "/");
    memmove(path, path + slashes, (size_t)length - slashes + 1);
    assert(path[0] != '/' && path[0] != '.');
    return 0;
}

const char *
http_reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 411:
        return "Length Required";
    case 413:
        return "Content Too Large";
    case 431:
        return "Request Header Fields Too Large";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return "Internal Server Error";
    }
}
