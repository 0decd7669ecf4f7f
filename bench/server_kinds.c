/*
 * The servers that berth-bench compares, in the order of its tables. What this build lacks keeps
 * its name, so that a command line means the same everywhere, and says why it is not there.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stddef.h>

#include "server.h"

#define LACKS(what) .missing = what " was not there when this was built"

#ifdef BERTH_HAVE_LIBURING
#define ON_LIBURING(function) .serve = function
#else
#define ON_LIBURING(function) LACKS("liburing")
#endif

#ifdef BERTH_HAVE_LIBEV
#define ON_LIBEV(function) .serve = function
#else
#define ON_LIBEV(function) LACKS("libev")
#endif

#ifdef BERTH_HAVE_LIBUV
#define ON_LIBUV(function) .serve = function
#else
#define ON_LIBUV(function) LACKS("libuv")
#endif

#ifdef BERTH_HAVE_LIBEVENT
#define ON_LIBEVENT(function) .serve = function
#else
#define ON_LIBEVENT(function) LACKS("libevent")
#endif

const struct server_kind server_kinds[] = {
    {
        .name = "plain-epoll",
        .summary = "hand-written loop over epoll: the floor",
        .serve = rival_epoll_serve,
    },
    {
        .name = "berth-epoll",
        .summary = "berth's loop on epoll",
        .serve = server_berth_serve,
        .engine = "epoll",
    },
    {
        .name = "berth-uring",
        .summary = "berth's loop on io_uring",
        ON_LIBURING(server_berth_serve),
        .engine = "uring",
    },
    {
        .name = "berth-uring-direct",
        .summary = "berth's loop on io_uring, with direct descriptors",
        ON_LIBURING(server_berth_serve),
        .engine = "uring",
        .direct = true,
    },
    {
        .name = "berth-epoll-4k",
        .summary = "berth's loop on epoll, a connection's share of a turn being 4 KiB",
        .serve = server_berth_serve,
        .engine = "epoll",
        .share = 4096,
        .by_name = true,
    },
    {
        .name = "berth-uring-4k",
        .summary = "berth's loop on io_uring, a connection's share of a turn being 4 KiB",
        ON_LIBURING(server_berth_serve),
        .engine = "uring",
        .share = 4096,
        .by_name = true,
    },
    {
        .name = "plain-uring",
        .summary = "hand-written loop over io_uring",
        ON_LIBURING(rival_uring_serve),
    },
    {
        .name = "berth-poll",
        .summary = "berth's loop on poll",
        .serve = server_berth_serve,
        .engine = "poll",
    },
    {
        .name = "libev",
        .summary = "libev: one ev_io per connection",
        ON_LIBEV(rival_libev_serve),
        .library = true,
    },
    {
        .name = "libuv",
        .summary = "libuv: one uv_tcp_t per connection",
        ON_LIBUV(rival_libuv_serve),
        .library = true,
    },
    {
        .name = "libevent",
        .summary = "libevent: one bufferevent per connection",
        ON_LIBEVENT(rival_libevent_serve),
        .library = true,
    },
    {
        .name = "libevent-event",
        .summary = "libevent: one event per connection, plain recv and send",
        ON_LIBEVENT(rival_libevent_event_serve),
        .library = true,
    },
    {.name = NULL},
};

const char *
server_kind_name(unsigned at)
{
    return at < sizeof server_kinds / sizeof server_kinds[0] ? server_kinds[at].name : NULL;
}
