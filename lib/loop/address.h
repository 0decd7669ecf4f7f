/*
 * Address text to socket address and back. No look-ups, no system calls.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_ADDRESS_H
#define BERTH_LOOP_ADDRESS_H

#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

struct address {
    socklen_t length;
    int datagram; /**< of a socket for datagrams: "udp://" as text */
    union {
        struct sockaddr base;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un local;
        struct sockaddr_storage storage;
    } to;
};

/** The longest name: what DNS allows, and a dot at its end. */
#define ADDRESS_NAME_MAX 254

/** A name whose addresses are not known yet. */
struct address_name {
    char host[ADDRESS_NAME_MAX + 1];
    char port[sizeof("65535")];
};

/** "tcp://name:port": 0, or -EINVAL with `name` undefined. NULL is not a name. */
int address_parse_name(struct address_name *name, const char *text);

/** 0, or -EINVAL with `address` undefined. NULL is not an address. */
int address_parse(struct address *address, const char *text);

/** The same for "udp://" alone, which address_parse refuses. */
int address_parse_datagram(struct address *address, const char *text);

/** 0; -ENOSPC when `size` is too small; -EAFNOSUPPORT. */
int address_format(const struct address *address, char *text, size_t size);

#endif
