/*
 * A small zone: names with their A, AAAA and TXT records, read from text once, then only looked up.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef DNS_ZONE_H
#define DNS_ZONE_H

#include <stddef.h>
#include <stdint.h>

#define DNS_NAME_BYTES_MAX 255 /* as it is in a message, lengths and the ending zero included */
#define DNS_LABEL_BYTES_MAX 63
#define DNS_RECORDS_MAX 256
#define DNS_DATA_BYTES_MAX 1024

enum dns_type { DNS_A = 1, DNS_SOA = 6, DNS_TXT = 16, DNS_AAAA = 28, DNS_OPT = 41, DNS_ANY = 255 };

/** A name as in a message, in lower case: names are equal if these bytes are. */
struct dns_name {
    unsigned char bytes[DNS_NAME_BYTES_MAX];
    uint8_t length;
};

struct dns_record {
    struct dns_name name;
    uint16_t type;
    uint16_t length;
    unsigned char data[DNS_DATA_BYTES_MAX]; /* as in a message */
};

struct dns_zone {
    struct dns_name origin; /* answers are given for it and the names below it */
    struct dns_record *records;
    unsigned count;
};

/** Reads "www.example.org" (a last dot is allowed, "." is the root). 0 or -EINVAL. */
int dns_name_parse(struct dns_name *name, const char *text);

/** Whether `name` is `origin` or below it. */
int dns_name_within(const struct dns_name *name, const struct dns_name *origin);

int dns_name_equal(const struct dns_name *a, const struct dns_name *b);

/**
 * Reads records, one after a semicolon or a line end each: "NAME A 192.0.2.1; NAME AAAA ::1; NAME
 * TXT some text". Names are below `origin`.
 * @return 0; -EINVAL with the faulty record in `*fault`; -E2BIG; -ENOMEM.
 */
int dns_zone_parse(struct dns_zone *zone, const char *origin, const char *records,
                   const char **fault);

void dns_zone_free(struct dns_zone *zone);

#endif
