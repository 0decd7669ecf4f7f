/*
 * See dns_zone.h. The text is our own operator's: a mistake in it is refused, not survived.
 *
 * SPDX-License-Identifier: MIT
 */
#include "dns_zone.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BLANKS " \t"
#define STRING_BYTES_MAX 255 /* in a TXT record: longer text is several strings */

static unsigned char
lower(unsigned char byte)
{
    return byte >= 'A' && byte <= 'Z' ? (unsigned char)(byte - 'A' + 'a') : byte;
}

int
dns_name_parse(struct dns_name *name, const char *text)
{
    size_t used = 0;

    if (strcmp(text, ".") == 0)
        text = "";
    while (*text != '\0') {
        const size_t label = strcspn(text, ".");
        if (label == 0 || label > DNS_LABEL_BYTES_MAX || used + label + 2 > DNS_NAME_BYTES_MAX)
            return -EINVAL;
        name->bytes[used++] = (unsigned char)label;
        for (size_t i = 0; i < label; i++)
            name->bytes[used++] = lower((unsigned char)text[i]);
        text += label + (text[label] == '.');
    }
    name->bytes[used++] = 0;
    name->length = (uint8_t)used;
    return 0;
}

int
dns_name_equal(const struct dns_name *a, const struct dns_name *b)
{
    return a->length == b->length && memcmp(a->bytes, b->bytes, a->length) == 0;
}

int
dns_name_within(const struct dns_name *name, const struct dns_name *origin)
{
    size_t at = 0;

    while (name->length - at > origin->length) /* label by label: "notexample" is not "example" */
        at += 1u + name->bytes[at];
    return name->length - at == origin->length &&
           memcmp(name->bytes + at, origin->bytes, origin->length) == 0;
}

/* Text as strings of up to 255 bytes. */
static int
set_text(struct dns_record *record, const char *text)
{
    size_t left = strlen(text), used = 0;

    do {
        const size_t piece = left < STRING_BYTES_MAX ? left : STRING_BYTES_MAX;
        if (used + 1 + piece > DNS_DATA_BYTES_MAX)
            return -EINVAL;
        record->data[used++] = (unsigned char)piece;
        memcpy(record->data + used, text, piece);
        used += piece;
        text += piece;
        left -= piece;
    } while (left > 0);
    record->length = (uint16_t)used;
    return 0;
}

static int
set_data(struct dns_record *record, const char *type, const char *data)
{
    if (strcasecmp(type, "A") == 0) {
        record->type = DNS_A;
        record->length = 4;
        return inet_pton(AF_INET, data, record->data) == 1 ? 0 : -EINVAL;
    }
    if (strcasecmp(type, "AAAA") == 0) {
        record->type = DNS_AAAA;
        record->length = 16;
        return inet_pton(AF_INET6, data, record->data) == 1 ? 0 : -EINVAL;
    }
    record->type = DNS_TXT;
    return strcasecmp(type, "TXT") == 0 ? set_text(record, data) : -EINVAL;
}

/* One record's text, which is cut into its three words. */
static int
read_record(const struct dns_zone *zone, struct dns_record *record, char *text)
{
    char *name = text + strspn(text, BLANKS);
    char *type = name + strcspn(name, BLANKS);
    if (*type == '\0')
        return -EINVAL;
    *type++ = '\0';
    type += strspn(type, BLANKS);
    char *data = type + strcspn(type, BLANKS);
    if (*data == '\0')
        return -EINVAL;
    *data++ = '\0';
    data += strspn(data, BLANKS);
    if (dns_name_parse(&record->name, name) != 0 || !dns_name_within(&record->name, &zone->origin))
        return -EINVAL;
    return set_data(record, type, data);
}

int
dns_zone_parse(struct dns_zone *zone, const char *origin, const char *records, const char **fault)
{
    int error = 0;

    memset(zone, 0, sizeof(*zone));
    *fault = origin;
    if (dns_name_parse(&zone->origin, origin) != 0)
        return -EINVAL;
    zone->records = calloc(DNS_RECORDS_MAX, sizeof(*zone->records));
    if (zone->records == NULL)
        return -ENOMEM;
    for (const char *at = records; *at != '\0' && error == 0;) {
        const size_t length = strcspn(at, ";\n");
        *fault = at;
        if (strspn(at, BLANKS) < length) {
            char *text = strndup(at, length);
            if (text == NULL)
                error = -ENOMEM;
            else if (zone->count == DNS_RECORDS_MAX)
                error = -E2BIG;
            else
                error = read_record(zone, &zone->records[zone->count++], text);
            free(text);
        }
        at += length + (at[length] != '\0');
    }
    if (error != 0)
        dns_zone_free(zone);
    return error;
}

void
dns_zone_free(struct dns_zone *zone)
{
    free(zone->records);
    zone->records = NULL;
    zone->count = 0;
}
