/*
 * A client that loads an echo server and checks every byte that comes back. All connections are
 * opened before the first byte is sent, from several source addresses, so that N of them are open
 * at once. Plain sockets and epoll: nothing of berth, which is on the other side.
 *
 * Byte `o` of connection `c` is a function of both, so a byte that is lost, doubled, reordered or
 * given to another connection is seen at once.
 *
 * Prints "connections=N bytes=B" and exits with 0 if all was as it should be, with 1 and a reason
 * on standard error if not, with 2 on bad arguments.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_MAX 512
#define CONNECTING_MAX 256 /* at once: a listener's queue is not what is tested here */
#define SOURCES 8          /* 127.0.0.2 and following */
#define PIECE_BYTES 65536
#define FLOOD_BYTES_MAX ((uint64_t)256 << 20) /* a server that takes this much has no limit */
#define FLOOD_QUIET_MS 500                    /* without progress: it has stopped reading */

enum mode { MODE_ECHO, MODE_HALF_CLOSE, MODE_RESET, MODE_FLOOD };

struct peer {
    int fd;
    uint32_t events;
    int shut;
    uint64_t sent;
    uint64_t received;
};

static struct {
    enum mode mode;
    uint32_t connections;
    uint64_t message_bytes; /* sent ahead of the echo, at most */
    uint64_t total_bytes;   /* to be sent by each connection */
    int64_t deadline_ms;
    struct sockaddr_in server;
    struct peer *peers;
    int set;
    uint32_t connected;
    uint32_t finished;
    uint64_t verified;
} load;

static unsigned char pattern_period[PIECE_BYTES + 256 * 256];

/* ---- small things ------------------------------------------------------------------------- */

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static int64_t
now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The bytes of a connection from an offset on, PIECE_BYTES of them at least. */
static const unsigned char *
pattern_at(uint32_t connection, uint64_t offset)
{
    return pattern_period + (offset + (uint64_t)connection * 251) % 65521;
}

static void
pattern_fill(void)
{
    uint32_t state = 12345;

    for (size_t i = 0; i < 65521; i++) {
        state = state * 1103515245u + 12345u;
        pattern_period[i] = (unsigned char)(state >> 16);
    }
    for (size_t i = 65521; i < sizeof(pattern_period); i++)
        pattern_period[i] = pattern_period[i - 65521];
}

static void
wait_for(struct peer *peer, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u32 = (uint32_t)(peer - load.peers)};

    if (peer->events == events)
        return;
    const int op = peer->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (epoll_ctl(load.set, op, peer->fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
    peer->events = events;
}

/* ---- one connection ----------------------------------------------------------------------- */

static void
peer_connect(struct peer *peer, uint32_t number)
{
    const int on = 1;
    struct sockaddr_in source = {.sin_family = AF_INET,
                                 .sin_addr.s_addr = htonl(0x7f000002u + number % SOURCES)};

    peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (peer->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(peer->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (bind(peer->fd, (struct sockaddr *)&source, sizeof(source)) != 0)
        die("bind: %s", strerror(errno));
    if (connect(peer->fd, (struct sockaddr *)&load.server, sizeof(load.server)) != 0 &&
        errno != EINPROGRESS)
        die("connection %u: connect: %s", number, strerror(errno));
    wait_for(peer, EPOLLOUT);
}

static void
peer_connected(struct peer *peer)
{
    int error = 0;
    socklen_t size = sizeof(error);

    if (getsockopt(peer->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0)
        die("connection %td: connect: %s", peer - load.peers, strerror(error));
    load.connected++;
}

static void
peer_close(struct peer *peer, int reset)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    if (reset)
        setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close(peer->fd);
    peer->fd = -1;
    load.finished++;
}

/* Sends up to the limit. Returns 1 if the kernel would take no more. */
static int
peer_send(struct peer *peer, uint64_t limit)
{
    while (peer->sent < limit) {
        const uint64_t left = limit - peer->sent;
        const size_t length = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        const ssize_t sent = send(peer->fd, pattern_at((uint32_t)(peer - load.peers), peer->sent),
                                  length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            return 1;
        if (sent < 0)
            die("connection %td: send: %s", peer - load.peers, strerror(errno));
        peer->sent += (uint64_t)sent;
    }
    return 0;
}

/* Receives and compares. Returns 0 at the end of the stream. */
static int
peer_receive(struct peer *peer)
{
    unsigned char piece[PIECE_BYTES];

    for (;;) {
        const ssize_t got = recv(peer->fd, piece, sizeof(piece), 0);
        if (got < 0 && errno == EAGAIN)
            return 1;
        if (got < 0)
            die("connection %td: recv: %s", peer - load.peers, strerror(errno));
        if (got == 0)
            return 0;
        const uint32_t number = (uint32_t)(peer - load.peers);
        if (memcmp(piece, pattern_at(number, peer->received), (size_t)got) != 0)
            die("connection %u: wrong bytes after %ju", number, (uintmax_t)peer->received);
        peer->received += (uint64_t)got;
        load.verified += (uint64_t)got;
        if (peer->received > peer->sent)
            die("connection %u: more came back than was sent", number);
    }
}

static void
peer_finish_sending(struct peer *peer)
{
    if (peer->shut)
        return;
    peer->shut = 1;
    if (shutdown(peer->fd, SHUT_WR) != 0)
        die("connection %td: shutdown: %s", peer - load.peers, strerror(errno));
}

/* How far a connection may send now: a message ahead of the echo; all, before a half-close. */
static uint64_t
peer_limit(const struct peer *peer)
{
    if (load.mode == MODE_HALF_CLOSE)
        return load.total_bytes;
    const uint64_t next = peer->received + load.message_bytes;
    const uint64_t limit = next - next % load.message_bytes;
    return limit < load.total_bytes ? limit : load.total_bytes;
}

static void
peer_advance(struct peer *peer)
{
    if (!peer_receive(peer)) {
        if (peer->received != load.total_bytes || !peer->shut)
            die("connection %td: ended after %ju of %ju bytes", peer - load.peers,
                (uintmax_t)peer->received, (uintmax_t)load.total_bytes);
        peer_close(peer, 0);
        return;
    }
    const int full = peer_send(peer, peer_limit(peer));
    if (load.mode == MODE_RESET) {
        peer_close(peer, 1);
        return;
    }
    if (peer->sent == load.total_bytes &&
        (load.mode == MODE_HALF_CLOSE || peer->received == load.total_bytes))
        peer_finish_sending(peer);
    wait_for(peer, full ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* ---- all of them -------------------------------------------------------------------------- */

static void
turn(int wait_ms, void (*handle)(struct peer *))
{
    struct epoll_event events[EVENTS_MAX];

    if (now_ms() > load.deadline_ms)
        die("out of time: %u connected, %u finished, %ju bytes verified", load.connected,
            load.finished, (uintmax_t)load.verified);
    const int n = epoll_wait(load.set, events, EVENTS_MAX, wait_ms);
    for (int i = 0; i < n; i++)
        handle(&load.peers[events[i].data.u32]);
}

static void
handle_connecting(struct peer *peer)
{
    if (peer->events & EPOLLOUT) {
        peer_connected(peer);
        wait_for(peer, EPOLLIN);
    } else {
        die("connection %td: an event before anything was sent", peer - load.peers);
    }
}

static void
connect_all(void)
{
    uint32_t started = 0;

    while (load.connected < load.connections) {
        while (started < load.connections && started - load.connected < CONNECTING_MAX) {
            peer_connect(&load.peers[started], started);
            started++;
        }
        turn(1000, handle_connecting);
    }
}

/*
 * The first connection sends without ever reading; it must be made to stop, and the second must be
 * served meanwhile. In the end the first reads, and must get all its bytes.
 */
static void
flood(void)
{
    struct peer *flooder = &load.peers[0];
    struct peer *other = &load.peers[1];
    int64_t quiet_since_ms = now_ms();

    while (now_ms() - quiet_since_ms < FLOOD_QUIET_MS) {
        const uint64_t before = flooder->sent;
        peer_send(flooder, flooder->sent + PIECE_BYTES);
        if (flooder->sent > FLOOD_BYTES_MAX)
            die("the server took %ju bytes that nobody reads", (uintmax_t)flooder->sent);
        if (flooder->sent > before)
            quiet_since_ms = now_ms();
        if (other->received == other->sent)
            peer_send(other, other->sent + 1);
        struct epoll_event event;
        if (epoll_wait(load.set, &event, 1, 10) == 1 && !peer_receive(other))
            die("the other connection was closed");
    }
    if (other->received < 2)
        die("the other connection was not served: %ju bytes", (uintmax_t)other->received);
    printf("flooded=%ju other=%ju ", (uintmax_t)flooder->sent, (uintmax_t)other->received);
    load.total_bytes = flooder->sent;
    peer_finish_sending(flooder);
    wait_for(flooder, EPOLLIN);
    load.mode = MODE_HALF_CLOSE;
    other->shut = 0;
    while (flooder->fd >= 0) {
        struct epoll_event event;
        if (now_ms() > load.deadline_ms)
            die("out of time: %ju of %ju bytes came back", (uintmax_t)flooder->received,
                (uintmax_t)flooder->sent);
        if (epoll_wait(load.set, &event, 1, 1000) == 1) {
            if (event.data.u32 == 0)
                peer_advance(flooder);
            else if (!peer_receive(other))
                die("the other connection was closed");
        }
    }
    peer_close(other, 0);
}

static void
usage(void)
{
    fputs(
        "usage: load [--mode echo|half-close|reset|flood] [--connections N] [--bytes PER_MESSAGE]\n"
        "            [--rounds MESSAGES] [--seconds MAX] tcp://127.0.0.1:PORT\n",
        stderr);
    exit(2);
}

static uint64_t
number_parse(const char *text, uint64_t max)
{
    char *end = NULL;
    const unsigned long long number = strtoull(text, &end, 10);

    if (end == text || *end != '\0' || number == 0 || number > max)
        usage();
    return number;
}

static enum mode
mode_parse(const char *text)
{
    static const char *const names[] = {"echo", "half-close", "reset", "flood"};

    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(text, names[i]) == 0)
            return (enum mode)i;
    }
    usage();
    return MODE_ECHO;
}

static void
address_parse(const char *text)
{
    char host[16];
    unsigned port = 0;
    int used = 0;

    if (sscanf(text, "tcp://%15[0-9.]:%5u%n", host, &port, &used) != 2 || text[used] != '\0' ||
        port == 0 || port > UINT16_MAX || inet_pton(AF_INET, host, &load.server.sin_addr) != 1)
        usage();
    load.server.sin_family = AF_INET;
    load.server.sin_port = htons((uint16_t)port);
}

static void
arguments_parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"mode", required_argument, NULL, 'm'},    {"connections", required_argument, NULL, 'c'},
        {"bytes", required_argument, NULL, 'b'},   {"rounds", required_argument, NULL, 'r'},
        {"seconds", required_argument, NULL, 's'}, {NULL, 0, NULL, 0}};
    uint64_t rounds = 1;
    uint64_t seconds = 60;
    int letter = 0;

    load.connections = 1;
    load.message_bytes = 64;
    while ((letter = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (letter) {
        case 'm':
            load.mode = mode_parse(optarg);
            break;
        case 'c':
            load.connections = (uint32_t)number_parse(optarg, 100000);
            break;
        case 'b':
            load.message_bytes = number_parse(optarg, UINT32_MAX);
            break;
        case 'r':
            rounds = number_parse(optarg, UINT32_MAX);
            break;
        case 's':
            seconds = number_parse(optarg, 3600);
            break;
        default:
            usage();
        }
    }
    if (optind + 1 != argc)
        usage();
    address_parse(argv[optind]);
    if (load.mode == MODE_FLOOD)
        load.connections = 2;
    load.total_bytes = load.message_bytes * rounds;
    load.deadline_ms = now_ms() + (int64_t)seconds * 1000;
}

int
main(int argc, char **argv)
{
    struct rlimit limit;

    arguments_parse(argc, argv);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    pattern_fill();
    load.peers = calloc(load.connections, sizeof(*load.peers));
    load.set = epoll_create1(EPOLL_CLOEXEC);
    if (load.peers == NULL || load.set < 0)
        die("no memory or descriptors");
    connect_all();
    if (load.mode == MODE_FLOOD) {
        flood();
    } else {
        for (uint32_t i = 0; i < load.connections; i++)
            peer_advance(&load.peers[i]);
        while (load.finished < load.connections)
            turn(1000, peer_advance);
    }
    printf("connections=%u bytes=%ju\n", load.connections, (uintmax_t)load.verified);
    free(load.peers);
    close(load.set);
    return 0;
}
