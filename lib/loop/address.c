/*
 * Address text to socket address and back. No look-ups, no system calls: a name other than
 * "localhost" is no address, only something to ask a resolver for.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/** The longest host text: an IPv6 address in full, with its ending zero. */
#define HOST_TEXT_MAX INET6_ADDRSTRLEN

/** The longest part of a name between two dots. */
#define LABEL_MAX 63

static int
parse_port(const char *text, uint16_t *port)
{
    unsigned value = 0;
    if (*text == '\0')
        return -EINVAL;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return -EINVAL;
        value = value * 10 + (unsigned)(*text - '0');
        if (value > UINT16_MAX)
            return -EINVAL;
    }
    *port = (uint16_t)value;
    return 0;
}

static int
parse_v6(struct address *address, const char *host, uint16_t port)
{
    address->length = sizeof(address->to.v6);
    address->to.v6.sin6_family = AF_INET6;
    address->to.v6.sin6_port = htons(port);
    return inet_pton(AF_INET6, host, &address->to.v6.sin6_addr) == 1 ? 0 : -EINVAL;
}

static int
parse_v4(struct address *address, const char *host, uint16_t port)
{
    address->length = sizeof(address->to.v4);
    address->to.v4.sin_family = AF_INET;
    address->to.v4.sin_port = htons(port);
    return inet_pton(AF_INET, host, &address->to.v4.sin_addr) == 1 ? 0 : -EINVAL;
}

/** "host:port", "[v6]:port", "localhost:port" or "*:port" (every address, both families). */
static int
parse_inet(struct address *address, const char *text)
{
    const int bracketed = *text == '[';
    const char *end = bracketed ? strchr(text, ']') : strrchr(text, ':');
    if (end == NULL || (bracketed && end[1] != ':'))
        return -EINVAL;
    const char *start = bracketed ? text + 1 : text;
    const size_t length = (size_t)(end - start);
    char host[HOST_TEXT_MAX];
    uint16_t port;
    if (length == 0 || length >= sizeof(host) || parse_port(end + (bracketed ? 2 : 1), &port) != 0)
        return -EINVAL;
    memcpy(host, start, length);
    host[length] = '\0';
    if (bracketed)
        return parse_v6(address, host, port);
    if (strcmp(host, "*") == 0)
        return parse_v6(address, "::", port);
    return parse_v4(address, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, port);
}

/** "/path" or "@abstract". */
static int
parse_unix(struct address *address, const char *text)
{
    const size_t length = strlen(text);
    struct sockaddr_un *local = &address->to.local;
    if (length < 2 || length >= sizeof(local->sun_path))
        return -EINVAL;
    local->sun_family = AF_UNIX;
    memcpy(local->sun_path, text, length);
    address->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (*text == '@')
        local->sun_path[0] = '\0';
    else
        address->length++; /* the ending zero belongs to a path, not to an abstract name */
    return 0;
}

int
address_parse(struct address *address, const char *text)
{
    memset(address, 0, sizeof(*address));
    if (text == NULL)
        return -EINVAL;
    if (strncmp(text, "tcp://", 6) == 0)
        return parse_inet(address, text + 6);
    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(address, text + 5);
    return -EINVAL;
}

int
address_parse_datagram(struct address *address, const char *text)
{
    memset(address, 0, sizeof(*address));
    address->datagram = 1;
    if (text == NULL || strncmp(text, "udp://", 6) != 0)
        return -EINVAL;
    return parse_inet(address, text + 6);
}

/* ---- names ---------------------------------------------------------------------------------- */

static int
is_name_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

/**
 * Whether a resolver may be asked for it. Not what ends in a number: that is meant as an address,
 * and resolvers take "127.1" and "0x7f.1" for addresses that nobody has checked here.
 */
static int
is_name(const char *host)
{
    const char *label = host;
    const char *last = host;
    for (const char *at = host; *at != '\0'; at++) {
        if (*at == '.') {
            if (at == label || at - label > LABEL_MAX)
                return 0;
            label = at + 1;
            continue;
        }
        if (!is_name_character(*at))
            return 0;
        last = label;
    }
    if (strlen(label) > LABEL_MAX || last[strspn(last, "0123456789.")] == '\0')
        return 0;
    return strncmp(last, "0x", 2) != 0 && strncmp(last, "0X", 2) != 0;
}

int
address_parse_name(struct address_name *name, const char *text)
{
    if (text == NULL || strncmp(text, "tcp://", 6) != 0)
        return -EINVAL;
    text += 6;
    const char *end = strrchr(text, ':');
    uint16_t port;
    if (end == NULL || end == text || (size_t)(end - text) >= sizeof(name->host) ||
        parse_port(end + 1, &port) != 0)
        return -EINVAL;
    memcpy(name->host, text, (size_t)(end - text));
    name->host[end - text] = '\0';
    (void)snprintf(name->port, sizeof(name->port), "%u", port);
    return is_name(name->host) ? 0 : -EINVAL;
}

/* ---- and back ------------------------------------------------------------------------------- */

static int
fits(int needed, size_t size)
{
    return needed >= 0 && (size_t)needed < size ? 0 : -ENOSPC;
}

static int
format_unix(const struct address *address, char *text, size_t size)
{
    const struct sockaddr_un *local = &address->to.local;
    const size_t length = address->length - offsetof(struct sockaddr_un, sun_path);
    if (address->length <= offsetof(struct sockaddr_un, sun_path))
        return fits(snprintf(text, size, "unix:"), size); /* a client's socket has no name */
    if (local->sun_path[0] == '\0')
        return fits(snprintf(text, size, "unix:@%.*s", (int)(length - 1), local->sun_path + 1),
                    size);
    return fits(snprintf(text, size, "unix:%.*s", (int)length, local->sun_path), size);
}

int
address_format(const struct address *address, char *text, size_t size)
{
    char host[HOST_TEXT_MAX];
    const char *scheme = address->datagram ? "udp" : "tcp";
    switch (address->to.base.sa_family) {
    case AF_INET:
        (void)inet_ntop(AF_INET, &address->to.v4.sin_addr, host, sizeof(host));
        return fits(
            snprintf(text, size, "%s://%s:%u", scheme, host, ntohs(address->to.v4.sin_port)), size);
    case AF_INET6:
        (void)inet_ntop(AF_INET6, &address->to.v6.sin6_addr, host, sizeof(host));
        return fits(
            snprintf(text, size, "%s://[%s]:%u", scheme, host, ntohs(address->to.v6.sin6_port)),
            size);
    case AF_UNIX:
        return format_unix(address, text, size);
    default:
        return -EAFNOSUPPORT;
    }
}
