/*
 * Messages: making, sending and checking them, the connections they travel on, and the closed loop.
 * How the load waits for answers is in load_epoll.c and load_uring.c, the open loop in
 * load_offer.c.
 *
 * A message is its head, the connection's index and a sequence number, and after that a piece of
 * one pseudo-random text chosen by both. So an answer that belongs to another connection, or to an
 * earlier message, or lost or doubled a byte anywhere, cannot pass.
 *
 * SPDX-License-Identifier: MIT
 */
#include "load.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load_internal.h"
#include "machine.h"
#include "server.h"

/** Source addresses: with one, the kernel's search for a free port gets slow past some thousands.
 */
#define SOURCES 64u

/** Connections made before their first answers are awaited: below any accept queue. */
#define OPEN_BATCH 128u

#define ANSWER_NS_MAX UINT64_C(5000000000)

#define TEXT_SHIFTS 64u

static unsigned char text[LOAD_BYTES_MAX + TEXT_SHIFTS];

static void
text_make(void)
{
    uint64_t state = UINT64_C(0x9e3779b97f4a7c15);
    for (size_t i = 0; i < sizeof text; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text[i] = (unsigned char)(state >> 32);
    }
}

static void
message_make(const struct load *load, uint32_t index, unsigned char *message)
{
    const uint32_t sequence = load->conns[index].sequence;
    const uint64_t head = ((uint64_t)index << 32) | sequence;
    memcpy(message, &head, sizeof head);
    memcpy(message + sizeof head, text + (index * 7u + sequence) % TEXT_SHIFTS,
           load->options.bytes - sizeof head);
}

/** Sends what is left of the connection's message. 0 or -errno. */
static int
message_send(struct load *load, uint32_t index)
{
    unsigned char message[LOAD_BYTES_MAX];
    struct load_conn *conn = &load->conns[index];
    message_make(load, index, message);
    const uint32_t left = load->options.bytes - conn->sent;
    const ssize_t sent = send(conn->fd, message + conn->sent, left, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN)
        return -errno;
    conn->sent += sent < 0 ? 0 : (uint32_t)sent;
    if (conn->sent < load->options.bytes)
        load->unfinished++;
    return 0;
}

int
load_send_next(struct load *load, uint32_t index, uint64_t from_ns)
{
    struct load_conn *conn = &load->conns[index];
    conn->sequence++;
    conn->received = 0;
    conn->sent = 0;
    conn->sent_ns = from_ns;
    load->asked++;
    return message_send(load, index);
}

int
load_received(struct load *load, uint32_t index, const unsigned char *data, size_t bytes)
{
    unsigned char expected[LOAD_BYTES_MAX];
    struct load_conn *conn = &load->conns[index];
    if (bytes == 0)
        return -ECONNRESET;
    if (bytes > conn->sent - conn->received)
        return -EPROTO;
    message_make(load, index, expected);
    if (memcmp(expected + conn->received, data, bytes) != 0)
        return -EPROTO;
    conn->received += (uint32_t)bytes;
    if (conn->received < load->options.bytes)
        return 0;
    load->answered++;
    if (load->follow == NULL && load->latency == NULL)
        return 0;
    const uint64_t now_ns = machine_now_ns();
    if (load->latency != NULL && conn->sent_ns != 0)
        histogram_add(load->latency, now_ns - conn->sent_ns);
    return load->follow != NULL ? load->follow(load, index, now_ns) : 0;
}

/** Short sends are rare enough to be found by looking at every connection. 0 or -errno. */
static int
finish_short_sends(struct load *load)
{
    load->unfinished = 0; /* whoever is short once more counts again */
    for (uint32_t i = 0; i < load->opened; i++) {
        const struct load_conn *conn = &load->conns[i];
        if (conn->sequence > 0 && conn->sent < load->options.bytes) {
            const int error = message_send(load, i);
            if (error != 0)
                return error;
        }
    }
    return 0;
}

int
load_turn(struct load *load, int timeout_ms)
{
    const int events = load->io->wait(load, timeout_ms);
    if (events < 0 || load->unfinished == 0)
        return events;
    const int error = finish_short_sends(load);
    return error != 0 ? error : events;
}

void
load_listen(struct load *load, uint64_t now_ns)
{
    load->heard_ns = now_ns;
    load->heard_answers = load->answered;
}

int
load_silence(struct load *load, uint64_t now_ns)
{
    if (load->answered != load->heard_answers)
        load_listen(load, now_ns);
    return now_ns - load->heard_ns > ANSWER_NS_MAX ? -ETIMEDOUT : 0;
}

int
load_await(struct load *load, uint64_t answers)
{
    const uint64_t begin = machine_now_ns();
    while (load->answered < answers) {
        const int error = load_turn(load, 10);
        if (error < 0)
            return error;
        if (machine_interrupted)
            return -ECANCELED;
        if (machine_now_ns() - begin > ANSWER_NS_MAX)
            return -ETIMEDOUT;
    }
    return 0;
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int
conn_open(const struct load *load, uint32_t index)
{
    const int yes = 1;
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + index % SOURCES);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(load->options.port);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int error = server_socket_tune(fd);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (error == 0 && (bind(fd, (struct sockaddr *)&from, sizeof from) != 0 ||
                       connect(fd, (struct sockaddr *)&to, sizeof to) != 0))
        error = -errno;
    if (error != 0)
        close(fd);
    return error != 0 ? error : fd;
}

static int
conns_open(struct load *load)
{
    for (uint32_t i = 0; i < load->options.conns; i++) {
        struct load_conn *conn = &load->conns[i];
        conn->fd = conn_open(load, i);
        if (conn->fd < 0)
            return conn->fd;
        load->opened++;
        int error = load->io->add(load, i);
        if (error == 0)
            error = load_send_next(load, i, 0);
        if (error == 0 && (load->opened % OPEN_BATCH == 0 || load->opened == load->options.conns))
            error = load_await(load, load->opened);
        if (error != 0)
            return error;
    }
    return 0;
}

static int
io_open(struct load *load, const char *engine)
{
#ifdef BERTH_HAVE_LIBURING
    if (engine == NULL || strcmp(engine, "uring") == 0) {
        load->io = &load_io_uring;
        const int error = load->io->open(load);
        if (error == 0 || engine != NULL)
            return error;
    }
#endif
    if (engine != NULL && strcmp(engine, "epoll") != 0)
        return -EINVAL;
    load->io = &load_io_epoll;
    return load->io->open(load);
}

int
load_open(struct load **made, const struct load_options *options)
{
    *made = NULL;
    if (options->conns < 1 || options->conns > LOAD_CONNS_MAX || options->bytes < LOAD_BYTES_MIN ||
        options->bytes > LOAD_BYTES_MAX)
        return -EINVAL;
    struct load *load = calloc(1, sizeof *load);
    if (load == NULL)
        return -ENOMEM;
    text_make();
    load->options = *options;
    load->conns = calloc(options->conns, sizeof load->conns[0]);
    int error = load->conns == NULL ? -ENOMEM : io_open(load, options->engine);
    if (error != 0) {
        free(load->conns);
        free(load);
        return error;
    }
    error = conns_open(load);
    if (error != 0) {
        load_close(load);
        return error;
    }
    *made = load;
    return 0;
}

void
load_close(struct load *load)
{
    if (load == NULL)
        return;
    load->io->disarm(load);
    for (uint32_t i = 0; i < load->opened; i++)
        close(load->conns[i].fd);
    load->io->close(load);
    free(load->conns);
    free(load);
}

/* ---- running --------------------------------------------------------------------------------- */

const char *
load_engine(const struct load *load)
{
    return load->io->name;
}

int
load_settle(struct load *load)
{
    return load_await(load, load->asked);
}

uint64_t
load_answered(const struct load *load)
{
    return load->answered;
}

/** Sends on every connection that waits for nothing; makes what is under way untimed. */
static int
kick(struct load *load)
{
    for (uint32_t i = 0; i < load->opened; i++) {
        struct load_conn *conn = &load->conns[i];
        conn->sent_ns = 0;
        if (conn->received == load->options.bytes) {
            const int error = load_send_next(load, i, 0);
            if (error != 0)
                return error;
        }
    }
    return 0;
}

int
load_run(struct load *load, uint64_t ns, struct load_result *result)
{
    const uint64_t begin = machine_now_ns(), cpu_begin = machine_cpu_ns();
    const uint64_t answered_before = load->answered;
    uint64_t now = begin;
    load->follow = load_send_next;
    load->latency = result != NULL ? &result->latency : NULL;
    load_listen(load, begin);
    int error = kick(load);
    while (error >= 0 && now - begin < ns && !machine_interrupted) {
        error = load_turn(load, 10);
        now = machine_now_ns();
        if (error >= 0)
            error = load_silence(load, now);
    }
    load->follow = NULL;
    load->latency = NULL;
    if (result != NULL) {
        result->messages += load->answered - answered_before;
        result->wall_ns += now - begin;
        result->cpu_ns += machine_cpu_ns() - cpu_begin;
    }
    return error < 0 ? error : 0;
}
