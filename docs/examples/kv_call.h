/*
 * One request of the kv example being answered: its arguments, read by name, and the replies that
 * RESP2 knows. What a request means is not here: see kv_commands.c.
 *
 * A reply is whole or the connection is cut: a reply cut short would be taken for another.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KV_CALL_H
#define KV_CALL_H

#include <berth/loop.h>

#include "kv_resp.h"
#include "kv_store.h"

#define KV_TEXT_BYTES_MAX 1024 /* of a reply that is formatted */

struct kv_call {
    struct berth_conn *conn;
    struct kv_store *store;
    const char *name; /**< in lower case, for errors; NULL: no such command */
    const struct kv_argument *arguments;
    unsigned count;
    int quit; /**< set: the client asked to be disconnected */
    int64_t now_ms;
};

/* ---- replies: copied into the send queue -------------------------------------------------- */

void kv_reply_bytes(const struct kv_call *call, const char *data, size_t length);
void kv_reply(const struct kv_call *call, const char *format, ...) BERTH_PRINTF(2, 3);
void kv_reply_ok(const struct kv_call *call);
void kv_reply_error(const struct kv_call *call, const char *text);
void kv_reply_number(const struct kv_call *call, int64_t number);
void kv_reply_bulk(const struct kv_call *call, const char *data, size_t length);

/** The entry's value, or "nil" for NULL. */
void kv_reply_value(const struct kv_call *call, const struct kv_entry *entry);

void kv_reply_full(const struct kv_call *call);
void kv_reply_not_number(const struct kv_call *call);
void kv_reply_count_wrong(const struct kv_call *call);

/* ---- arguments, by their place; 0 is the name of the command ------------------------------ */

/** Whether the argument is that word, in any case. */
int kv_argument_is(const struct kv_argument *argument, const char *word);

/** 0 or -EINVAL. */
int kv_argument_number(const struct kv_call *call, unsigned index, int64_t *number);

/** The entry whose key the argument is, or NULL. */
struct kv_entry *kv_argument_find(const struct kv_call *call, unsigned index);

/** Stores the argument `value` under the argument `key`: kv_put. */
struct kv_entry *kv_argument_put(const struct kv_call *call, unsigned key, unsigned value,
                                 int append);

#endif
