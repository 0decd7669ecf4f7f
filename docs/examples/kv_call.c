/*
 * One request of the kv example being answered; see kv_call.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "kv_call.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- replies ------------------------------------------------------------------------------ */

void
kv_reply_bytes(const struct kv_call *call, const char *data, size_t length)
{
    if (length > 0 && berth_send(call->conn, data, length) == -ENOBUFS)
        berth_conn_abort(call->conn);
}

void
kv_reply(const struct kv_call *call, const char *format, ...)
{
    char text[KV_TEXT_BYTES_MAX];
    va_list arguments;

    va_start(arguments, format);
    const int length = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    assert(length >= 0 && (size_t)length < sizeof(text));
    kv_reply_bytes(call, text, (size_t)length);
}

void
kv_reply_ok(const struct kv_call *call)
{
    kv_reply_bytes(call, "+OK\r\n", 5);
}

void
kv_reply_error(const struct kv_call *call, const char *text)
{
    kv_reply(call, "-%s\r\n", text);
}

void
kv_reply_number(const struct kv_call *call, int64_t number)
{
    kv_reply(call, ":%" PRId64 "\r\n", number);
}

void
kv_reply_bulk(const struct kv_call *call, const char *data, size_t length)
{
    kv_reply(call, "$%zu\r\n", length);
    kv_reply_bytes(call, data, length);
    kv_reply_bytes(call, "\r\n", 2);
}

void
kv_reply_value(const struct kv_call *call, const struct kv_entry *entry)
{
    if (entry != NULL)
        kv_reply_bulk(call, entry->value, entry->value_length);
    else
        kv_reply_bytes(call, "$-1\r\n", 5);
}

void
kv_reply_full(const struct kv_call *call)
{
    kv_reply_error(call, "OOM a limit on keys, on bytes or on the length of a value is reached");
}

void
kv_reply_not_number(const struct kv_call *call)
{
    kv_reply_error(call, "ERR value is not an integer or out of range");
}

void
kv_reply_count_wrong(const struct kv_call *call)
{
    kv_reply(call, "-ERR wrong number of arguments for '%s' command\r\n", call->name);
}

/* ---- arguments ---------------------------------------------------------------------------- */

struct kv_entry *
kv_argument_find(const struct kv_call *call, unsigned index)
{
    const struct kv_argument *key = &call->arguments[index];

    return kv_find(call->store, key->data, key->length, call->now_ms);
}

struct kv_entry *
kv_argument_put(const struct kv_call *call, unsigned key, unsigned value, int append)
{
    const struct kv_argument *arguments = call->arguments;

    return kv_put(call->store, arguments[key].data, arguments[key].length, arguments[value].data,
                  arguments[value].length, append, call->now_ms);
}

int
kv_argument_is(const struct kv_argument *argument, const char *word)
{
    return argument->length == strlen(word) &&
           strncasecmp(argument->data, word, argument->length) == 0;
}

int
kv_argument_number(const struct kv_call *call, unsigned index, int64_t *number)
{
    return kv_number(call->arguments[index].data, call->arguments[index].length, number);
}
