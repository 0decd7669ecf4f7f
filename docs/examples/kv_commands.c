/*
 * The commands of the kv example: what each does to the store, and what it answers. The arguments
 * are read where they arrived; an answer is copied into the connection's send queue.
 *
 * SPDX-License-Identifier: MIT
 */
#include "kv_commands.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "example.h"
#include "kv_call.h"

#define REPLY_BYTES_MAX ((size_t)8 << 20) /* of MGET and KEYS; well under send_max_bytes */
#define KEYS_REPLY_MAX 10000
#define ECHOED_BYTES_MAX 64 /* of what the client sent, in an error */
#define TICK_EXPIRE_MAX 256

static struct {
    struct kv_store store;
    struct kv_entry *keys[KEYS_REPLY_MAX]; /* too many for the stack */
    uint64_t calls;
    int64_t started_ms;
} kv;

/* ---- strings ------------------------------------------------------------------------------ */

/* `*at_ms` = now + number x unit. 0; -EINVAL: not a number; -ERANGE: past the end of time. */
static int
expiry_parse(const struct kv_call *call, unsigned index, int64_t unit_ms, int64_t *at_ms)
{
    int64_t number = 0;

    if (kv_argument_number(call, index, &number) != 0)
        return -EINVAL;
    if (__builtin_mul_overflow(number, unit_ms, &number) ||
        __builtin_add_overflow(number, call->now_ms, at_ms))
        return -ERANGE;
    return 0;
}

static void
reply_expiry_error(const struct kv_call *call, int error)
{
    if (error == -EINVAL)
        kv_reply_not_number(call);
    else
        kv_reply(call, "-ERR invalid expire time in '%s' command\r\n", call->name);
}

static void
run_get(struct kv_call *call)
{
    kv_reply_value(call, kv_argument_find(call, 1));
}

struct set_options {
    int only_new;
    int only_old;
    int64_t at_ms; /* 0: never */
};

/* Returns 0 when it has replied with what is wrong. */
static int
set_options_parse(const struct kv_call *call, struct set_options *options)
{
    for (unsigned i = 3; i < call->count; i++) {
        const struct kv_argument *word = &call->arguments[i];
        const int seconds = kv_argument_is(word, "ex");
        if (kv_argument_is(word, "nx") && !options->only_old) {
            options->only_new = 1;
        } else if (kv_argument_is(word, "xx") && !options->only_new) {
            options->only_old = 1;
        } else if ((seconds || kv_argument_is(word, "px")) && options->at_ms == 0 &&
                   i + 1 < call->count) {
            int error = expiry_parse(call, ++i, seconds ? 1000 : 1, &options->at_ms);
            if (error == 0 && options->at_ms <= call->now_ms)
                error = -ERANGE;
            if (error != 0) {
                reply_expiry_error(call, error);
                return 0;
            }
        } else {
            kv_reply_error(call, "ERR syntax error");
            return 0;
        }
    }
    return 1;
}

static void
run_set(struct kv_call *call)
{
    struct set_options options = {.at_ms = 0};

    if (!set_options_parse(call, &options))
        return;
    if (options.only_new || options.only_old) {
        const int exists = kv_argument_find(call, 1) != NULL;
        if (exists ? options.only_new : options.only_old) {
            kv_reply_value(call, NULL);
            return;
        }
    }
    struct kv_entry *entry = kv_argument_put(call, 1, 2, 0);
    if (entry == NULL) {
        kv_reply_full(call);
        return;
    }
    kv_expire_at(call->store, entry, options.at_ms);
    kv_reply_ok(call);
}

static void
run_append(struct kv_call *call)
{
    const struct kv_entry *entry = kv_argument_put(call, 1, 2, 1);

    if (entry == NULL)
        kv_reply_full(call);
    else
        kv_reply_number(call, entry->value_length);
}

static void
run_strlen(struct kv_call *call)
{
    const struct kv_entry *entry = kv_argument_find(call, 1);

    kv_reply_number(call, entry == NULL ? 0 : entry->value_length);
}

static void
run_mget(struct kv_call *call)
{
    size_t bytes = 0;

    for (unsigned i = 1; i < call->count; i++) {
        const struct kv_entry *entry = kv_argument_find(call, i);
        bytes += entry == NULL ? 0 : entry->value_length;
    }
    if (bytes > REPLY_BYTES_MAX) {
        kv_reply_error(call, "ERR reply too long: ask for fewer values");
        return;
    }
    kv_reply(call, "*%u\r\n", call->count - 1);
    for (unsigned i = 1; i < call->count; i++) {
        const struct kv_argument *key = &call->arguments[i];
        kv_reply_value(call, kv_find(call->store, key->data, key->length, call->now_ms));
    }
}

static void
run_mset(struct kv_call *call)
{
    if (call->count % 2 == 0) {
        kv_reply_count_wrong(call);
        return;
    }
    for (unsigned i = 1; i < call->count; i += 2) {
        struct kv_entry *entry = kv_argument_put(call, i, i + 1, 0);
        if (entry == NULL) {
            kv_reply_full(call); /* what came before it has been set */
            return;
        }
        kv_expire_at(call->store, entry, 0);
    }
    kv_reply_ok(call);
}

static void
add_number(const struct kv_call *call, int64_t amount)
{
    const struct kv_argument *key = &call->arguments[1];
    const struct kv_entry *entry = kv_argument_find(call, 1);
    int64_t number = 0;
    char text[24];

    if (entry != NULL && kv_number(entry->value, entry->value_length, &number) != 0) {
        kv_reply_not_number(call);
        return;
    }
    if (__builtin_add_overflow(number, amount, &number)) {
        kv_reply_error(call, "ERR increment or decrement would overflow");
        return;
    }
    const int length = snprintf(text, sizeof(text), "%" PRId64, number);
    if (kv_put(call->store, key->data, key->length, text, (size_t)length, 0, call->now_ms) == NULL)
        kv_reply_full(call);
    else
        kv_reply_number(call, number);
}

static void
run_incr(struct kv_call *call)
{
    add_number(call, 1);
}

static void
run_decr(struct kv_call *call)
{
    add_number(call, -1);
}

static void
run_incrby(struct kv_call *call)
{
    int64_t amount = 0;

    if (kv_argument_number(call, 2, &amount) != 0)
        kv_reply_not_number(call);
    else
        add_number(call, amount);
}

static void
run_decrby(struct kv_call *call)
{
    int64_t amount = 0;

    if (kv_argument_number(call, 2, &amount) != 0)
        kv_reply_not_number(call);
    else if (amount == INT64_MIN)
        kv_reply_error(call, "ERR decrement would overflow");
    else
        add_number(call, -amount);
}

/* ---- keys --------------------------------------------------------------------------------- */

static void
run_del(struct kv_call *call)
{
    int64_t deleted = 0;

    for (unsigned i = 1; i < call->count; i++) {
        struct kv_entry *entry = kv_argument_find(call, i);
        if (entry == NULL)
            continue;
        kv_delete(call->store, entry);
        deleted++;
    }
    kv_reply_number(call, deleted);
}

static void
run_exists(struct kv_call *call)
{
    int64_t found = 0;

    for (unsigned i = 1; i < call->count; i++)
        found += kv_argument_find(call, i) != NULL;
    kv_reply_number(call, found);
}

static void
expire_in(const struct kv_call *call, int64_t unit_ms)
{
    int64_t at_ms = 0;
    const int error = expiry_parse(call, 2, unit_ms, &at_ms);

    if (error != 0) {
        reply_expiry_error(call, error);
        return;
    }
    struct kv_entry *entry = kv_argument_find(call, 1);
    if (entry != NULL && at_ms <= call->now_ms)
        kv_delete(call->store, entry);
    else if (entry != NULL)
        kv_expire_at(call->store, entry, at_ms);
    kv_reply_number(call, entry != NULL);
}

static void
run_expire(struct kv_call *call)
{
    expire_in(call, 1000);
}

static void
run_pexpire(struct kv_call *call)
{
    expire_in(call, 1);
}

static void
reply_time_left(const struct kv_call *call, int64_t unit_ms)
{
    const struct kv_entry *entry = kv_argument_find(call, 1);

    if (entry == NULL)
        kv_reply_number(call, -2);
    else if (entry->expires_ms == 0)
        kv_reply_number(call, -1);
    else
        kv_reply_number(call, (entry->expires_ms - call->now_ms + unit_ms / 2) / unit_ms);
}

static void
run_ttl(struct kv_call *call)
{
    reply_time_left(call, 1000);
}

static void
run_pttl(struct kv_call *call)
{
    reply_time_left(call, 1);
}

static void
run_persist(struct kv_call *call)
{
    struct kv_entry *entry = kv_argument_find(call, 1);
    const int had_time = entry != NULL && entry->expires_ms != 0;

    if (had_time)
        kv_expire_at(call->store, entry, 0);
    kv_reply_number(call, had_time);
}

static void
run_keys(struct kv_call *call)
{
    const struct kv_argument *pattern = &call->arguments[1];
    const unsigned found = kv_match(call->store, pattern->data, pattern->length, call->now_ms,
                                    kv.keys, KEYS_REPLY_MAX);
    size_t bytes = 0;

    for (unsigned i = 0; i < found && i < KEYS_REPLY_MAX; i++)
        bytes += kv.keys[i]->key_length;
    if (found > KEYS_REPLY_MAX || bytes > REPLY_BYTES_MAX) {
        kv_reply(call, "-ERR %u keys match: more than one reply holds\r\n", found);
        return;
    }
    kv_reply(call, "*%u\r\n", found);
    for (unsigned i = 0; i < found; i++)
        kv_reply_bulk(call, kv.keys[i]->key, kv.keys[i]->key_length);
}

static void
run_dbsize(struct kv_call *call)
{
    kv_reply_number(call, kv_count(call->store));
}

static void
run_flushall(struct kv_call *call)
{
    kv_clear(call->store);
    kv_reply_ok(call);
}

/* ---- the server itself -------------------------------------------------------------------- */

static void
run_ping(struct kv_call *call)
{
    if (call->count == 1)
        kv_reply_bytes(call, "+PONG\r\n", 7);
    else
        kv_reply_bulk(call, call->arguments[1].data, call->arguments[1].length);
}

static void
run_echo(struct kv_call *call)
{
    kv_reply_bulk(call, call->arguments[1].data, call->arguments[1].length);
}

static void
run_select(struct kv_call *call)
{
    int64_t number = 0;

    if (kv_argument_number(call, 1, &number) != 0)
        kv_reply_error(call, "ERR invalid DB index");
    else if (number != 0)
        kv_reply_error(call, "ERR DB index is out of range");
    else
        kv_reply_ok(call);
}

static void
run_info(struct kv_call *call)
{
    struct berth_loop *loop = berth_conn_loop(call->conn);
    struct berth_loop_stats stats;
    char text[KV_TEXT_BYTES_MAX];

    berth_loop_stats_get(loop, &stats);
    const int length = snprintf(
        text, sizeof(text),
        "# Server\r\nserver:berth kv example\r\nengine:%s\r\nprocess_id:%ld\r\n"
        "uptime_in_seconds:%" PRId64 "\r\n"
        "# Clients\r\nconnected_clients:%" PRIu32 "\r\n"
        "# Memory\r\ndata_bytes:%zu\r\n"
        "# Stats\r\ntotal_connections_received:%" PRIu64 "\r\ntotal_commands_processed:%" PRIu64
        "\r\nexpired_keys:%" PRIu64 "\r\nkeyspace_hits:%" PRIu64 "\r\nkeyspace_misses:%" PRIu64
        "\r\n# Keyspace\r\ndb0:keys=%u\r\n",
        berth_loop_engine(loop), (long)getpid(), (call->now_ms - kv.started_ms) / 1000,
        berth_loop_conns(loop), call->store->bytes, stats.accepted, kv.calls, call->store->expired,
        call->store->hits, call->store->misses, kv_count(call->store));
    assert(length > 0 && (size_t)length < sizeof(text));
    kv_reply_bulk(call, text, (size_t)length);
}

/* Clients ask for their own convenience, and live with an empty answer. */
static void
run_command(struct kv_call *call)
{
    kv_reply_bytes(call, "*0\r\n", 4);
}

static void
run_config(struct kv_call *call)
{
    if (!kv_argument_is(&call->arguments[1], "get") || call->count != 3) {
        kv_reply_error(call, "ERR only CONFIG GET is known here");
        return;
    }
    kv_reply_bytes(call, "*2\r\n", 4);
    kv_reply_bulk(call, call->arguments[2].data, call->arguments[2].length);
    kv_reply_bulk(call, "", 0);
}

static void
run_quit(struct kv_call *call)
{
    kv_reply_ok(call);
    call->quit = 1;
}

/* ---- which command ------------------------------------------------------------------------ */

/* Roughly by how often they come, because they are looked up from the front. */
static const struct command {
    const char *name;
    unsigned count_min; /* the name included */
    unsigned count_max;
    void (*run)(struct kv_call *call);
} commands[] = {
    {"get", 2, 2, run_get},
    {"set", 3, KV_ARGUMENTS_MAX, run_set},
    {"incr", 2, 2, run_incr},
    {"mget", 2, KV_ARGUMENTS_MAX, run_mget},
    {"mset", 3, KV_ARGUMENTS_MAX, run_mset},
    {"del", 2, KV_ARGUMENTS_MAX, run_del},
    {"exists", 2, KV_ARGUMENTS_MAX, run_exists},
    {"expire", 3, 3, run_expire},
    {"pexpire", 3, 3, run_pexpire},
    {"ttl", 2, 2, run_ttl},
    {"pttl", 2, 2, run_pttl},
    {"persist", 2, 2, run_persist},
    {"ping", 1, 2, run_ping},
    {"echo", 2, 2, run_echo},
    {"decr", 2, 2, run_decr},
    {"incrby", 3, 3, run_incrby},
    {"decrby", 3, 3, run_decrby},
    {"append", 3, 3, run_append},
    {"strlen", 2, 2, run_strlen},
    {"keys", 2, 2, run_keys},
    {"dbsize", 1, 1, run_dbsize},
    {"flushall", 1, 2, run_flushall},
    {"info", 1, 2, run_info},
    {"select", 2, 2, run_select},
    {"command", 1, KV_ARGUMENTS_MAX, run_command},
    {"config", 2, KV_ARGUMENTS_MAX, run_config},
    {"quit", 1, 1, run_quit},
};

static const struct command *
command_find(const struct kv_argument *name)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (kv_argument_is(name, commands[i].name))
            return &commands[i];
    }
    return NULL;
}

static void
reply_unknown(const struct kv_call *call, const struct kv_argument *name)
{
    char shown[ECHOED_BYTES_MAX + 1] = {0};

    for (size_t i = 0; i < name->length && i < ECHOED_BYTES_MAX; i++)
        shown[i] = name->data[i] >= ' ' && name->data[i] <= '~' ? name->data[i] : '?';
    kv_reply(call, "-ERR unknown command '%s'\r\n", shown);
}

int
kv_run(struct berth_conn *conn, const struct kv_request *request)
{
    const struct command *command = command_find(&request->arguments[0]);
    struct kv_call call = {.conn = conn,
                           .store = &kv.store,
                           .name = command != NULL ? command->name : NULL,
                           .arguments = request->arguments,
                           .count = request->count,
                           .now_ms = example_now_ms()};

    assert(request->count > 0);
    kv.calls++;
    if (command == NULL)
        reply_unknown(&call, &request->arguments[0]);
    else if (call.count < command->count_min || call.count > command->count_max)
        kv_reply_count_wrong(&call);
    else
        command->run(&call);
    return call.quit;
}

int
kv_commands_open(void)
{
    kv.started_ms = example_now_ms();
    return kv_open(&kv.store);
}

void
kv_commands_tick(void)
{
    kv_expire_some(&kv.store, example_now_ms(), TICK_EXPIRE_MAX);
}

void
kv_commands_close(void)
{
    kv_clear(&kv.store);
}
