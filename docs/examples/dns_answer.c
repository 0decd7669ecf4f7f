/*
 * See dns_answer.h. Each byte of a query is a stranger's. What keeps this safe: every read goes
 * through struct reader, which knows where the query ends, and every write through struct writer,
 * which knows where the answer must end. A compressed name is only skipped, never followed, so it
 * cannot go in circles; and the one name that is looked up may not be compressed, since there is
 * nothing before it to point to.
 *
 * RFC 1035 for messages, RFC 6891 for OPT, RFC 2308 for the SOA record of a negative answer.
 *
 * SPDX-License-Identifier: MIT
 */
#include "dns_answer.h"

#include <assert.h>
#include <string.h>

#define HEADER_BYTES 12
#define PLAIN_BYTES_MAX 512 /* for those who do not say that they take more */
#define OPT_BYTES 11
#define TTL_S 300
#define CLASS_IN 1
#define CLASS_ANY 255
#define POINTER 0xc0 /* the two upper bits of a length */

enum flag {
    FLAG_ANSWER = 0x8000,
    FLAG_AUTHORITY = 0x0400,
    FLAG_CUT = 0x0200,
    FLAG_RECURSION_DESIRED = 0x0100
};
#define OPCODE(flags) (((flags) >> 11) & 15)

enum status {
    STATUS_OK = 0,
    STATUS_FORMAT = 1,
    STATUS_NO_NAME = 3,
    STATUS_NOT_IMPLEMENTED = 4,
    STATUS_REFUSED = 5,
    STATUS_VERSION = 16 /* needs OPT: the upper bits are there */
};

/* ---- reading ------------------------------------------------------------------------------ */

struct reader {
    const unsigned char *data;
    size_t length, at;
    int bad; /* something did not fit: whatever was read is nothing */
};

static const unsigned char *
take(struct reader *reader, size_t bytes)
{
    if (reader->bad || bytes > reader->length - reader->at) {
        reader->bad = 1;
        return NULL;
    }
    reader->at += bytes;
    return reader->data + reader->at - bytes;
}

static unsigned
take_8(struct reader *reader)
{
    const unsigned char *data = take(reader, 1);
    return data == NULL ? 0 : data[0];
}

static unsigned
take_16(struct reader *reader)
{
    const unsigned char *data = take(reader, 2);
    return data == NULL ? 0 : (unsigned)data[0] << 8 | data[1];
}

/* The name of the question, in lower case. */
static void
take_name(struct reader *reader, struct dns_name *name)
{
    size_t used = 0;

    for (;;) {
        const unsigned label = take_8(reader);
        const unsigned char *data = take(reader, label);
        if (data == NULL || label > DNS_LABEL_BYTES_MAX || used + label + 1 > DNS_NAME_BYTES_MAX) {
            reader->bad = 1; /* a pointer is one of them */
            return;
        }
        name->bytes[used++] = (unsigned char)label;
        for (unsigned i = 0; i < label; i++) {
            const unsigned char byte = data[i];
            name->bytes[used++] =
                byte >= 'A' && byte <= 'Z' ? (unsigned char)(byte - 'A' + 'a') : byte;
        }
        if (label == 0)
            break;
    }
    name->length = (uint8_t)used;
}

/* A name that does not matter. Returns whether it is the root's. */
static int
skip_name(struct reader *reader)
{
    unsigned label = take_8(reader);
    const int root = label == 0;

    while (label != 0 && !reader->bad) {
        if ((label & POINTER) == POINTER) {
            (void)take(reader, 1);
            break; /* a pointer ends a name */
        }
        if (label > DNS_LABEL_BYTES_MAX)
            reader->bad = 1;
        (void)take(reader, label);
        label = take_8(reader);
    }
    return root && !reader->bad;
}

struct query {
    unsigned id, flags;
    struct dns_name name;
    size_t question_bytes;
    unsigned type, class_id;
    int has_opt;
    unsigned version; /* of OPT */
    size_t room;      /* bytes that the asker takes */
};

/* The additional records, of which OPT alone matters. */
static void
read_additional(struct reader *reader, struct query *query, unsigned count)
{
    for (; count > 0 && !reader->bad; count--) {
        const int root = skip_name(reader);
        const unsigned type = take_16(reader);
        const unsigned class_id = take_16(reader);
        const unsigned extended = take_16(reader); /* upper status, version */
        (void)take_16(reader);
        (void)take(reader, take_16(reader));
        if (reader->bad || type != DNS_OPT)
            continue;
        if (query->has_opt || !root) {
            reader->bad = 1;
            return;
        }
        query->has_opt = 1;
        query->version = extended & 0xff;
        query->room = class_id < PLAIN_BYTES_MAX ? PLAIN_BYTES_MAX : class_id;
        if (query->room > DNS_ANSWER_BYTES_MAX)
            query->room = DNS_ANSWER_BYTES_MAX;
    }
}

static enum status
read_query(struct reader *reader, struct query *query)
{
    query->room = PLAIN_BYTES_MAX;
    query->id = take_16(reader);
    query->flags = take_16(reader);
    if (OPCODE(query->flags) != 0)
        return STATUS_NOT_IMPLEMENTED;
    const unsigned questions = take_16(reader);
    const unsigned answers = take_16(reader);
    const unsigned authorities = take_16(reader);
    const unsigned additional = take_16(reader);
    if (questions != 1 || answers != 0 || authorities != 0)
        return STATUS_FORMAT;
    take_name(reader, &query->name);
    query->type = take_16(reader);
    query->class_id = take_16(reader);
    if (reader->bad)
        return STATUS_FORMAT;
    query->question_bytes = reader->at - HEADER_BYTES;
    read_additional(reader, query, additional);
    if (reader->bad || reader->at != reader->length)
        return STATUS_FORMAT;
    return query->has_opt && query->version != 0 ? STATUS_VERSION : STATUS_OK;
}

/* ---- writing ------------------------------------------------------------------------------ */

struct writer {
    unsigned char *data;
    size_t room, at;
    int full; /* something did not fit, and was left out */
};

static int
fits(struct writer *writer, size_t bytes)
{
    if (bytes <= writer->room - writer->at)
        return 1;
    writer->full = 1;
    return 0;
}

static void
put(struct writer *writer, const void *data, size_t bytes)
{
    assert(bytes <= writer->room - writer->at);
    memcpy(writer->data + writer->at, data, bytes);
    writer->at += bytes;
}

static void
put_16(struct writer *writer, unsigned value)
{
    const unsigned char bytes[] = {(unsigned char)(value >> 8), (unsigned char)value};
    put(writer, bytes, sizeof(bytes));
}

static void
put_32(struct writer *writer, uint32_t value)
{
    put_16(writer, value >> 16);
    put_16(writer, value & 0xffff);
}

/* What every record begins with; its name stands at `name_at` in the message. */
static void
put_record(struct writer *writer, size_t name_at, unsigned type, size_t data_bytes)
{
    put_16(writer, POINTER << 8 | (unsigned)name_at);
    put_16(writer, type);
    put_16(writer, CLASS_IN);
    put_32(writer, TTL_S);
    put_16(writer, (unsigned)data_bytes);
}
#define RECORD_BYTES 12

/* The zone's own record: names of its server and its keeper, and five numbers. */
static int
put_soa(struct writer *writer, const struct dns_zone *zone, const struct query *query)
{
    static const unsigned char server[] = {2, 'n', 's'};
    static const unsigned char keeper[] = {10, 'h', 'o', 's', 't', 'm', 'a', 's', 't', 'e', 'r'};
    /* The zone's name is the end of the name that was asked for. */
    const size_t origin_at = HEADER_BYTES + query->name.length - zone->origin.length;
    const size_t bytes = sizeof(server) + 2 + sizeof(keeper) + 2 + 5 * 4;

    if (!fits(writer, RECORD_BYTES + bytes))
        return 0;
    put_record(writer, origin_at, DNS_SOA, bytes);
    put(writer, server, sizeof(server));
    put_16(writer, POINTER << 8 | (unsigned)origin_at);
    put(writer, keeper, sizeof(keeper));
    put_16(writer, POINTER << 8 | (unsigned)origin_at);
    put_32(writer, 1);         /* serial */
    put_32(writer, 3600);      /* refresh */
    put_32(writer, 600);       /* retry */
    put_32(writer, 86400 * 7); /* expire */
    put_32(writer, TTL_S);     /* how long a negative answer holds */
    return 1;
}

static void
put_opt(struct writer *writer, enum status status)
{
    const unsigned char root = 0;
    put(writer, &root, 1);
    put_16(writer, DNS_OPT);
    put_16(writer, DNS_ANSWER_BYTES_MAX);
    put_16(writer, (unsigned)status >> 4 << 8);
    put_16(writer, 0);
    put_16(writer, 0);
}

/* ---- answering ---------------------------------------------------------------------------- */

struct counts {
    unsigned answers, authorities;
};

/* The zone's records for what was asked. */
static enum status
put_answers(struct writer *writer, const struct dns_zone *zone, const struct query *query,
            struct counts *counts)
{
    int name_exists = dns_name_equal(&query->name, &zone->origin);

    if (query->class_id != CLASS_IN && query->class_id != CLASS_ANY)
        return STATUS_REFUSED;
    if (!dns_name_within(&query->name, &zone->origin))
        return STATUS_REFUSED; /* somebody else's */
    if (name_exists && (query->type == DNS_SOA || query->type == DNS_ANY))
        counts->answers += (unsigned)put_soa(writer, zone, query);
    for (unsigned i = 0; i < zone->count; i++) {
        const struct dns_record *record = &zone->records[i];
        /* A name exists as well if there is something below it. */
        name_exists |= dns_name_within(&record->name, &query->name);
        if (!dns_name_equal(&record->name, &query->name) ||
            (query->type != record->type && query->type != DNS_ANY))
            continue;
        if (!fits(writer, RECORD_BYTES + record->length))
            break;
        put_record(writer, HEADER_BYTES, record->type, record->length);
        put(writer, record->data, record->length);
        counts->answers++;
    }
    if (counts->answers == 0 && !writer->full)
        counts->authorities += (unsigned)put_soa(writer, zone, query);
    return name_exists ? STATUS_OK : STATUS_NO_NAME;
}

size_t
dns_answer(const struct dns_zone *zone, const unsigned char *data, size_t length, int cut,
           unsigned char *answer)
{
    struct query query = {.id = 0};
    struct reader reader = {.data = data, .length = length};
    struct counts counts = {0, 0};

    if (length < HEADER_BYTES || data[2] & 0x80)
        return 0; /* answering answers, two servers would never finish */
    enum status status = read_query(&reader, &query);
    if (cut)
        status = STATUS_FORMAT;

    struct writer body = {.data = answer, .room = query.room, .at = HEADER_BYTES};
    const int has_question = status != STATUS_FORMAT && query.question_bytes > 0;
    if (query.has_opt)
        body.room -= OPT_BYTES;
    if (has_question)
        put(&body, data + HEADER_BYTES, query.question_bytes); /* as it came, capitals and all */
    const size_t question_end = body.at;
    if (status == STATUS_OK)
        status = put_answers(&body, zone, &query, &counts);
    if (body.full) { /* half an answer is none: the asker is told to use another way */
        body.at = question_end;
        counts = (struct counts){0, 0};
    }
    const int with_opt = query.has_opt && status != STATUS_FORMAT;
    body.room = query.room;
    if (with_opt)
        put_opt(&body, status);

    struct writer head = {.data = answer, .room = HEADER_BYTES};
    const unsigned authority = status == STATUS_OK || status == STATUS_NO_NAME ? FLAG_AUTHORITY : 0;
    put_16(&head, query.id);
    put_16(&head, FLAG_ANSWER | authority | (body.full ? FLAG_CUT : 0u) |
                      (query.flags & (15u << 11 | FLAG_RECURSION_DESIRED)) |
                      ((unsigned)status & 15));
    put_16(&head, has_question ? 1 : 0);
    put_16(&head, counts.answers);
    put_16(&head, counts.authorities);
    put_16(&head, with_opt ? 1 : 0);
    return body.at;
}
