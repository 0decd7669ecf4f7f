/*
 * The protocol of the kv example: RESP2 requests, as redis-cli and its libraries send them, and
 * lines typed by a person. A pure function of the bytes: no connection, no memory of its own.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KV_RESP_H
#define KV_RESP_H

#include <stddef.h>
#include <stdint.h>

#define KV_ARGUMENTS_MAX 1024
#define KV_ARGUMENT_BYTES_MAX ((size_t)1 << 20)
#define KV_LINE_BYTES_MAX 4096 /* of an inline command, and of a length */

/** One argument, where it lies in the request. May hold any byte. */
struct kv_argument {
    const char *data;
    size_t length;
};

/** A request; the arguments are valid as long as the bytes that were parsed. */
struct kv_request {
    unsigned count; /**< 0: an empty line, to be ignored */
    struct kv_argument arguments[KV_ARGUMENTS_MAX];
};

/**
 * Parses the request at the front of `data`.
 * @return how many bytes it has; 0: its end has not come yet; -EPROTO: not a request, `*error` is
 *         the static text of the reply, after which the connection must be closed.
 */
long kv_parse(const char *data, size_t length, struct kv_request *request, const char **error);

/** Reads a whole decimal number. 0, or -EINVAL: something else, or out of the range of 64 bits. */
int kv_number(const char *data, size_t length, int64_t *number);

#endif
