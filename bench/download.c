/*
 * See download.h. The connections are blocking sockets, read when poll(2) says so: with a few of
 * them that is as cheap as anything, and this process's time is not what is measured.
 *
 * SPDX-License-Identifier: MIT
 */
#include "download.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine.h"

#define READ_BYTES ((size_t)256 << 10)

/** How long poll may sleep without a look at the clock. */
#define POLL_MS 10

static int
open_one(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    const int error = -errno;
    close(fd);
    return error;
}

int
download_open(struct download *download, uint16_t port, const char *path, unsigned count)
{
    memset(download, 0, sizeof *download);
    download->path = path;
    while (download->count < count && download->count < DOWNLOAD_CONNS_MAX) {
        const int fd = open_one(port);
        if (fd < 0) {
            download_close(download);
            return fd;
        }
        download->at[download->count++].fd = fd;
    }
    return 0;
}

static int
ask(const struct download *download, const struct download_connection *connection)
{
    char text[256];
    const int length =
        snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", download->path);
    return send(connection->fd, text, (size_t)length, MSG_NOSIGNAL) == length ? 0 : -ECONNRESET;
}

/** The head of an answer has come, perhaps: what of `data` belongs to it, or -EPROTO. */
static int
take_head(struct download_connection *connection, const char *data, size_t length)
{
    const uint32_t before = connection->head;
    const size_t room = sizeof connection->text - 1 - before;
    const size_t taken = length < room ? length : room;
    memcpy(connection->text + before, data, taken);
    connection->text[before + taken] = '\0';
    connection->head += (uint32_t)taken;
    const char *end = strstr(connection->text, "\r\n\r\n");
    if (end == NULL)
        return taken < length ? -EPROTO : (int)taken;
    const char *field = strcasestr(connection->text, "\r\nContent-Length:");
    if (strncmp(connection->text, "HTTP/1.1 200 ", 13) != 0 || field == NULL || field > end)
        return -EPROTO;
    connection->left = strtoull(field + strlen("\r\nContent-Length:"), NULL, 10);
    connection->head = 0;
    return connection->left > 0 ? (int)(end + 4 - connection->text - before) : -EPROTO;
}

static int
read_one(struct download *download, struct download_connection *connection)
{
    static char data[READ_BYTES];
    const ssize_t got = recv(connection->fd, data, sizeof data, MSG_DONTWAIT);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -ECONNRESET;
    size_t left = (size_t)got;
    if (connection->left == 0) {
        const int taken = take_head(connection, data, left);
        if (taken < 0)
            return taken;
        left -= (size_t)taken;
    }
    if (left > connection->left)
        return -EPROTO; /* more than one answer to one question */
    connection->left -= left;
    download->bytes += left;
    if (left == 0 || connection->left > 0)
        return 0;
    download->files++;
    return ask(download, connection);
}

int
download_run(struct download *download, uint64_t until_ns)
{
    static struct pollfd polls[DOWNLOAD_CONNS_MAX];
    int error = 0;
    for (unsigned i = 0; i < download->count && error == 0; i++) {
        polls[i] = (struct pollfd){.fd = download->at[i].fd, .events = POLLIN};
        error = ask(download, &download->at[i]);
    }
    while (error == 0 && machine_now_ns() < until_ns && !machine_interrupted) {
        if (poll(polls, download->count, POLL_MS) < 0 && errno != EINTR)
            return -errno;
        for (unsigned i = 0; i < download->count && error == 0; i++)
            if (polls[i].revents != 0)
                error = read_one(download, &download->at[i]);
    }
    return error;
}

void
download_close(struct download *download)
{
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    for (unsigned i = 0; i < download->count; i++) {
        setsockopt(download->at[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(download->at[i].fd);
    }
    download->count = 0;
}
