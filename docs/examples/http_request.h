/*
 * The requests of the http example: reading the head of an HTTP/1.x request, and turning its target
 * into the name of a file. Pure functions of the bytes: no connection, no file, no memory.
 *
 * Whatever could be read in two ways is refused: two lengths, a line without CR, a space before a
 * colon. What one program takes for a body, another must not take for a request.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef HTTP_REQUEST_H
#define HTTP_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#define HTTP_HEAD_BYTES_MAX 8192 /* the request line and all headers */
#define HTTP_PATH_BYTES_MAX 1024

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_OTHER };

struct http_request {
    enum http_method method;
    int minor;      /**< of the version: HTTP/1.minor */
    int keep_alive; /**< as the peer wishes */
    int expects;    /**< the body is sent only after "100 Continue" */
    int has_body_length;
    uint64_t body_bytes;
    unsigned hosts;     /**< Host headers seen */
    const char *target; /**< as it stands in the request */
    size_t target_length;
};

/**
 * Parses the head at the front of `data`.
 * @return how many bytes it has, the empty line included; 0: its end has not come yet; or, below 0,
 *         minus the status to answer with, after which the connection must be closed.
 */
long http_parse(const char *data, size_t length, struct http_request *request);

/**
 * Writes the path of a file: decoded, relative to the root, ending with a zero, "index.html" added
 * to a directory's. Refuses whatever has a part that begins with a dot: the way up, and hidden
 * files.
 * @return 0, or the status to answer with: 400 or 404.
 */
int http_path(const struct http_request *request, char path[HTTP_PATH_BYTES_MAX]);

/** The words that belong to a status: "Not Found". Static text. */
const char *http_reason(int status);

#endif
