/*
 * What the two epoll examples share; see epoll_net.h.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* accept4 */
#include "epoll_net.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOST_BYTES_MAX 64 /* numeric, so at most an IPv6 address */
#define BACKLOG_MAX 4096
#define STATUS_USAGE 2

volatile sig_atomic_t net_stopping;
static volatile sig_atomic_t report_asked;

/* Kept to be given up when descriptors run out: see net_accept. */
static int reserve_fd = -1;

static void
on_signal(int number)
{
    if (number == SIGUSR1)
        report_asked = 1;
    else
        net_stopping = 1;
}

static void
signals_set(sigset_t *waiting)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGUSR1};
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t blocked;

    sigemptyset(&action.sa_mask);
    sigemptyset(&blocked);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        sigaction(numbers[i], &action, NULL);
        sigaddset(&blocked, numbers[i]);
    }
    /* Blocked but while waiting: else one that came just before the wait would be slept through. */
    sigprocmask(SIG_BLOCK, &blocked, waiting);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        sigdelset(waiting, numbers[i]);
    signal(SIGPIPE, SIG_IGN); /* a reader of the report that went away is no reason to die */
}

static void
usage_exit(const char *program)
{
    fprintf(stderr, "usage: %s tcp://HOST:PORT\nHOST is a number; port 0 lets the kernel choose.\n",
            program);
    exit(STATUS_USAGE);
}

static void
fail_exit(const char *program, const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program, what, strerror(errno));
    exit(EXIT_FAILURE);
}

/* Returns the addresses to try, or NULL for what is not tcp://HOST:PORT. */
static struct addrinfo *
address_parse(const char *text)
{
    static const char scheme[] = "tcp://";
    const struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,
                                   .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char host[HOST_BYTES_MAX];

    if (strncmp(text, scheme, sizeof(scheme) - 1) != 0)
        return NULL;
    const char *start = text + sizeof(scheme) - 1;
    const char *colon = strrchr(start, ':');
    if (colon == NULL || colon == start || colon[1] == '\0')
        return NULL;
    size_t length = (size_t)(colon - start);
    if (length > 2 && start[0] == '[' && colon[-1] == ']') {
        start++;
        length -= 2;
    }
    if (length >= sizeof(host))
        return NULL;
    memcpy(host, start, length);
    host[length] = '\0';
    return getaddrinfo(host, colon + 1, &hints, &found) == 0 ? found : NULL;
}

static void
listening_print(const char *program, int listener)
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    socklen_t length = sizeof(address);
    char host[HOST_BYTES_MAX];
    char port[8];

    if (getsockname(listener, (struct sockaddr *)&address, &length) != 0 ||
        getnameinfo((struct sockaddr *)&address, length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        fail_exit(program, "own address");
    printf(address.ss_family == AF_INET6 ? "listening on tcp://[%s]:%s\n"
                                         : "listening on tcp://%s:%s\n",
           host, port);
    fflush(stdout);
}

/* One descriptor per connection: ask for as many as this process may have at all. */
static void
descriptors_raise(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int
net_listen(int argc, char **argv, sigset_t *waiting)
{
    const int on = 1;

    struct addrinfo *address = argc == 2 ? address_parse(argv[1]) : NULL;
    if (address == NULL)
        usage_exit(argv[0]);
    signals_set(waiting);
    descriptors_raise();
    reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const int listener =
        socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    if (reserve_fd < 0 || listener < 0)
        fail_exit(argv[0], "socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(listener, address->ai_addr, address->ai_addrlen) != 0 ||
        listen(listener, BACKLOG_MAX) != 0)
        fail_exit(argv[0], argv[1]);
    freeaddrinfo(address);
    listening_print(argv[0], listener);
    return listener;
}

/* What the ledger of a pool can tell: berth's loop, which this program does without, tells more. */
static void
direction_print(const char *what, uint64_t bytes, const struct berth_copies *ledger,
                enum berth_copy_direction direction)
{
    if (bytes == 0)
        fprintf(stderr, "%s nothing\n", what);
    else
        fprintf(stderr, "%s %llu bytes, %.2f copies per byte\n", what, (unsigned long long)bytes,
                berth_copy_factor(ledger, direction, BERTH_COPY_HIGH));
}

void
net_report(const struct berth_copies *ledger)
{
    if (!report_asked)
        return;
    report_asked = 0;
    direction_print("received", ledger->received, ledger, BERTH_COPY_RECEIVE);
    direction_print("sent", ledger->sent, ledger, BERTH_COPY_SEND);
}

int
net_accept(int listener)
{
    const int on = 1;
    const int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    } else if (errno == EMFILE || errno == ENFILE) {
        /* A newcomer who is left waiting would make epoll report the listener for ever: take it in
         * with the descriptor that was kept for this, and turn it away. */
        close(reserve_fd);
        close(accept(listener, NULL, NULL));
        reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    return fd;
}
