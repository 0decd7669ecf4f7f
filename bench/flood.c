/*
 * The flood. It asks the kernel nothing but to send and to receive: whether a connection is ready
 * is found out by trying, which costs less than being told when nearly all of them always are.
 *
 * What is sent is one text over and over. Its length is prime: whatever a server loses, doubles or
 * exchanges in whole pages or receives puts what comes back out of step.
 *
 * SPDX-License-Identifier: MIT
 */
#include "flood.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server.h"

/** Of one system call: what the load's own connections have to wait for is one of these. */
#define STEP_BYTES 16384u
#define PERIOD_BYTES 8191u

struct flood_conn {
    int fd;
    uint32_t sent_at;     /**< where in the text the next byte to be sent is */
    uint32_t received_at; /**< ... and the next to come back */
};

struct flood {
    unsigned conns;
    unsigned next; /**< whose turn it is */
    uint64_t bytes;
    struct flood_conn conn[FLOOD_CONNS_MAX];
    /** The text, and as much of it again as a step needs that begins at its end. */
    unsigned char text[PERIOD_BYTES + STEP_BYTES];
    unsigned char data[STEP_BYTES];
};

static void
text_make(struct flood *flood)
{
    uint32_t state = UINT32_C(2463534242);
    for (size_t i = 0; i < sizeof flood->text; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        flood->text[i] =
            i < PERIOD_BYTES ? (unsigned char)(state >> 24) : flood->text[i - PERIOD_BYTES];
    }
}

static int
conn_open(uint16_t port)
{
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int error = server_socket_tune(fd);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (error == 0 && connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        error = -errno;
    if (error != 0)
        close(fd);
    return error != 0 ? error : fd;
}

int
flood_open(struct flood **made, unsigned conns, uint16_t port)
{
    *made = NULL;
    if (conns < 1 || conns > FLOOD_CONNS_MAX)
        return -EINVAL;
    struct flood *flood = calloc(1, sizeof *flood);
    if (flood == NULL)
        return -ENOMEM;
    text_make(flood);
    for (; flood->conns < conns; flood->conns++) {
        const int fd = conn_open(port);
        if (fd < 0) {
            flood_close(flood);
            return fd;
        }
        flood->conn[flood->conns].fd = fd;
    }
    *made = flood;
    return 0;
}

/** Bytes taken, 0 if there are none now, or -errno. */
static int
conn_receive(struct flood *flood, struct flood_conn *conn)
{
    const ssize_t got = recv(conn->fd, flood->data, sizeof flood->data, MSG_DONTWAIT);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (got == 0)
        return -ECONNRESET;
    if (memcmp(flood->data, flood->text + conn->received_at, (size_t)got) != 0)
        return -EPROTO;
    conn->received_at = (conn->received_at + (uint32_t)got) % PERIOD_BYTES;
    flood->bytes += (uint64_t)got;
    return (int)got;
}

/** 0, also if the socket takes nothing now, or -errno. */
static int
conn_send(const struct flood *flood, struct flood_conn *conn)
{
    const unsigned char *from = flood->text + conn->sent_at;
    const ssize_t sent = send(conn->fd, from, STEP_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    conn->sent_at = (conn->sent_at + (uint32_t)sent) % PERIOD_BYTES;
    return 0;
}

int
flood_step(void *context)
{
    struct flood *flood = context;
    struct flood_conn *conn = &flood->conn[flood->next];
    flood->next = flood->next + 1 < flood->conns ? flood->next + 1 : 0;
    const int got = conn_receive(flood, conn);
    return got != 0 ? (got < 0 ? got : 0) : conn_send(flood, conn);
}

uint64_t
flood_bytes(const struct flood *flood)
{
    return flood->bytes;
}

void
flood_close(struct flood *flood)
{
    if (flood == NULL)
        return;
    for (unsigned i = 0; i < flood->conns; i++)
        close(flood->conn[i].fd);
    free(flood);
}
