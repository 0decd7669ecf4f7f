/*
 * A chat room: every line that a member sends goes to all of them, over as many addresses (TCP and
 * unix sockets alike) as were given. A message is one pool buffer, written once and shared by all
 * send queues; the last of them to be done with it frees it. A member who does not read costs the
 * others nothing: when MEMBER_QUEUE_BYTES_MAX are waiting, that member is dropped and counted.
 *
 * Try it: chat tcp://127.0.0.1:7777 unix:/tmp/chat, then socat - tcp:127.0.0.1:7777
 *
 * SPDX-License-Identifier: MIT
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "example.h"

#define LINE_BYTES_MAX 1024
#define NOTICE_BYTES_MAX 128

/* What may wait for one member. Whoever talks hears it too, and is not listened to while half of
 * this waits for him: so one who floods cannot fill the queues of those who do read. */
#define MEMBER_QUEUE_BYTES_MAX (1024 * 1024)
#define MEMBER_QUEUE_BYTES_HIGH (MEMBER_QUEUE_BYTES_MAX / 2)
#define MEMBER_REST_BYTES_MAX (2 * 1024 * 1024) /* until then: twice what comes at once */

/* The 40 bytes in the slot: what a broadcast looks at. A half line is kept in the cold record. */
struct member {
    struct berth_conn *next;
    struct berth_conn *previous;
    uint32_t number;
    uint8_t dropped;
    uint8_t ended; /* has nothing more to say */
};
_Static_assert(sizeof(struct member) <= BERTH_CONN_PAYLOAD_BYTES, "fits the slot");

static struct {
    struct berth_pool *pool;
    struct berth_conn *first;
    uint32_t members;
    uint32_t last_number;
    uint64_t drops;
} room;

/* Gives one message to every member, and ends our own reference to it. */
static void
room_send(struct berth_lease message)
{
    struct berth_conn *next = NULL;

    for (struct berth_conn *conn = room.first; conn != NULL; conn = next) {
        struct member *member = berth_conn_payload(conn);
        next = member->next;
        int error = berth_lease_share(room.pool, message);
        if (error != 0)
            break;
        error = berth_send_lease(conn, message);
        if (error == 0)
            continue;
        berth_release(room.pool, message); /* not taken: the reference is still ours */
        if (error == -ENOBUFS && !member->dropped) {
            member->dropped = 1;
            room.drops++;
            berth_conn_abort(conn);
        }
    }
    berth_release(room.pool, message);
}

/* Writes the message where it will be sent from. Returns 0, or -ENOBUFS: nobody has heard it. */
static int __attribute__((format(printf, 3, 4)))
room_say(const char *text, size_t length, const char *format, ...)
{
    struct berth_lease lease;
    const int size_class = berth_class_for(length + NOTICE_BYTES_MAX);
    va_list arguments;

    assert(size_class >= 0);
    const int error =
        berth_pool_get(room.pool, (enum berth_class)size_class, BERTH_FOR_ACTIVE, &lease);
    if (error != 0)
        return error;
    char *message = berth_lease_data(room.pool, lease);
    va_start(arguments, format);
    const int used = vsnprintf(message, NOTICE_BYTES_MAX, format, arguments);
    va_end(arguments);
    assert(used >= 0 && used < NOTICE_BYTES_MAX);
    for (size_t i = 0; i < length; i++) {
        const unsigned char byte = (unsigned char)text[i];
        /* Control characters could play tricks on the terminals of the others. */
        message[(size_t)used + i] = (byte < ' ' && byte != '\t') || byte == 0x7f ? '?' : text[i];
    }
    lease.length = (uint32_t)((size_t)used + length + 1);
    message[lease.length - 1] = '\n';
    berth_copies_declare(berth_pool_copies(room.pool), BERTH_COPY_SEND, lease.length);
    room_send(lease);
    return 0;
}

static int
must_wait(const struct berth_conn *conn)
{
    return berth_conn_queued(conn) > MEMBER_QUEUE_BYTES_HIGH;
}

/* Says every whole line in `data`, and returns how many bytes they were. */
static size_t
lines_say(struct berth_conn *conn, const char *data, size_t length)
{
    const struct member *member = berth_conn_payload(conn);
    size_t used = 0;

    while (used < length && !must_wait(conn)) {
        const char *line = data + used;
        const char *end = memchr(line, '\n', length - used);
        if (end == NULL && length - used > LINE_BYTES_MAX) {
            berth_conn_abort(conn); /* not somebody who chats */
            return length;
        }
        if (end == NULL)
            break;
        size_t bytes = (size_t)(end - line);
        used += bytes + 1;
        if (bytes > 0 && line[bytes - 1] == '\r')
            bytes--;
        if (bytes > LINE_BYTES_MAX ||
            (bytes > 0 && room_say(line, bytes, "guest-%" PRIu32 ": ", member->number) != 0)) {
            berth_conn_abort(conn); /* too long, or no buffer: the speaker shall know it was lost */
            return length;
        }
    }
    return used;
}

static int
on_open(struct berth_conn *conn, void *context)
{
    struct member *member = berth_conn_payload(conn);

    (void)context;
    member->number = ++room.last_number;
    member->next = room.first;
    if (room.first != NULL)
        ((struct member *)berth_conn_payload(room.first))->previous = conn;
    room.first = conn;
    room.members++;
    room_say("", 0, "* guest-%" PRIu32 " joined, %" PRIu32 " here", member->number, room.members);
    return 0;
}

static void
member_feed(struct berth_conn *conn, const struct berth_span *span)
{
    const struct member *member = berth_conn_payload(conn);

    if (example_input_feed(conn, berth_conn_cold(conn), span, MEMBER_REST_BYTES_MAX, lines_say) !=
        0)
        berth_conn_abort(conn);
    if (member->ended && !must_wait(conn))
        berth_conn_close(conn);
}

static void
on_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)bytes;
    for (unsigned i = 0; i < n; i++)
        member_feed(conn, &spans[i]);
}

static void
on_drained(struct berth_conn *conn)
{
    member_feed(conn, NULL);
}

static void
on_eof(struct berth_conn *conn)
{
    struct member *member = berth_conn_payload(conn);

    member->ended = 1;
    member_feed(conn, NULL);
}

static void
on_close(struct berth_conn *conn, int reason)
{
    const struct member *member = berth_conn_payload(conn);

    (void)reason;
    example_input_clear(room.pool, berth_conn_cold(conn));
    if (member->next != NULL)
        ((struct member *)berth_conn_payload(member->next))->previous = member->previous;
    if (member->previous != NULL)
        ((struct member *)berth_conn_payload(member->previous))->next = member->next;
    else
        room.first = member->next;
    room.members--;
    if (member->dropped)
        room_say("", 0,
                 "* guest-%" PRIu32 " dropped for not reading, %" PRIu32 " here, %" PRIu64
                 " dropped so far",
                 member->number, room.members, room.drops);
    else
        room_say("", 0, "* guest-%" PRIu32 " left, %" PRIu32 " here", member->number, room.members);
}

int
main(int argc, char **argv)
{
    static const struct berth_handlers handlers = {
        .open = on_open, .data = on_data, .drained = on_drained, .eof = on_eof, .close = on_close};
    struct berth_loop_options options;

    berth_loop_options_init(&options);
    options.cold_bytes = sizeof(struct example_input);
    options.send_high_bytes = MEMBER_QUEUE_BYTES_HIGH;
    options.send_max_bytes = MEMBER_QUEUE_BYTES_MAX;
    struct berth_loop *loop = example_open(argc, argv, &options, NULL);
    room.pool = berth_loop_pool(loop);
    example_listen(loop, &handlers, NULL);
    const int status = example_run(loop);
    berth_loop_destroy(loop);
    return status;
}
