/*
 * A slow sender: `drip HOST PORT` sends each byte of its standard input by itself, ends its side,
 * and writes what comes back to its standard output until the other side has ended too. What comes
 * back is read all the while, and fast: it is the sending that is slow.
 *
 * SPDX-License-Identifier: MIT
 */
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE_BYTES 65536

static void
fail(const char *what)
{
    perror(what);
    exit(1);
}

static int
connect_to(const char *host, const char *port)
{
    const int on = 1;
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                                   .ai_socktype = SOCK_STREAM};
    struct addrinfo *address = NULL;

    if (getaddrinfo(host, port, &hints, &address) != 0)
        fail("address");
    const int fd = socket(address->ai_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, address->ai_addr, address->ai_addrlen) != 0)
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    freeaddrinfo(address);
    return fd;
}

/* Sends the next byte of the input, or ends our side. Returns 0 then. */
static int
send_one(int fd)
{
    const int byte = getchar();
    const char one = (char)byte;

    if (byte == EOF)
        return shutdown(fd, SHUT_WR);
    if (send(fd, &one, 1, MSG_NOSIGNAL) != 1)
        fail("send");
    return 1;
}

/* Copies what has come. Returns 0 at its end. */
static int
receive_some(int fd)
{
    char piece[PIECE_BYTES];
    const ssize_t got = recv(fd, piece, sizeof(piece), 0);

    if (got < 0)
        fail("recv");
    if (fwrite(piece, 1, (size_t)got, stdout) != (size_t)got)
        fail("write");
    return got > 0;
}

int
main(int argc, char **argv)
{
    int sending = 1;

    if (argc != 3) {
        fputs("usage: drip HOST PORT\n", stderr);
        return 2;
    }
    const int fd = connect_to(argv[1], argv[2]);
    for (int receiving = 1; receiving;) {
        struct pollfd ready = {.fd = fd, .events = (short)(sending ? POLLIN | POLLOUT : POLLIN)};
        if (poll(&ready, 1, -1) < 0)
            fail("poll");
        if (ready.revents & POLLOUT)
            sending = send_one(fd);
        if (ready.revents & ~POLLOUT)
            receiving = receive_some(fd);
    }
    close(fd);
    return 0;
}
