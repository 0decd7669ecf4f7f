/*
 * Starting, asking and ending a server process, and what all servers share. How connections are
 * served is not here: see server_berth.c and the rival_*.c files.
 *
 * SPDX-License-Identifier: MIT
 */
#include "server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "machine.h"
#include "server_command.h"

/* More than a keeper gives the program that it keeps: it says better what was wrong. */
#define START_NS_MAX (SERVER_COMMAND_START_NS_MAX + UINT64_C(2000000000))
#define ANSWER_NS_MAX UINT64_C(2000000000)
#define STOP_NS_MAX (SERVER_COMMAND_STOP_NS_MAX + UINT64_C(2000000000))

/* ---- the serving side ------------------------------------------------------------------------ */

void
server_answer(struct server_control *control, const struct server_counters *counters)
{
    const uint32_t asked = atomic_load_explicit(&control->asked, memory_order_acquire);
    control->counters = *counters;
    control->counters.cpu_ns = machine_cpu_ns();
    control->counters.wall_ns = machine_now_ns();
    atomic_store_explicit(&control->answered, asked, memory_order_release);
}

void
server_ready(struct server_control *control, uint16_t port)
{
    control->port = port;
    atomic_store_explicit(&control->state, SERVER_READY, memory_order_release);
}

int
server_socket_tune(int fd)
{
    const int yes = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0)
        return -errno;
    /* Not every system has cubic, or lets everybody choose. Both ends then share what there is, and
     * the captured environment names it. */
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
    return 0;
}

int
server_listen(uint16_t *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int error = server_socket_tune(fd);
    if (error == 0 &&
        (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, SOMAXCONN) != 0 ||
         getsockname(fd, (struct sockaddr *)&address, &length) != 0))
        error = -errno;
    if (error != 0) {
        close(fd);
        return error;
    }
    *port = ntohs(address.sin_port);
    return fd;
}

static _Noreturn void
serve(struct server_control *control, const struct server_kind *kind, int cpu)
{
    /* Ctrl-C reaches the whole foreground group: only the measurer decides when servers end. And
     * none of them outlives it. */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (cpu >= 0)
        machine_pin(cpu);
    const int error = kind->serve != NULL ? kind->serve(control, kind) : -ENOSYS;
    if (error != 0) {
        control->error = error;
        atomic_store_explicit(&control->state, SERVER_FAILED, memory_order_release);
    }
    /* Without the parent's exit handlers: its half-written output is not ours to flush. */
    _exit(error == 0 ? 0 : 1);
}

/* ---- the measuring side ---------------------------------------------------------------------- */

static bool
has_died(struct server *server)
{
    if (server->pid > 0 && waitpid(server->pid, NULL, WNOHANG) == server->pid)
        server->pid = 0;
    return server->pid == 0;
}

/** Waits until `*word` is something else than `value`. 0, -ETIMEDOUT, -ESRCH or -ECANCELED. */
static int
wait_change(struct server *server, _Atomic uint32_t *word, uint32_t value, uint64_t ns_max)
{
    const uint64_t begin = machine_now_ns();
    const struct timespec pause = {0, 20000};
    while (atomic_load_explicit(word, memory_order_acquire) == value) {
        if (has_died(server))
            return atomic_load_explicit(word, memory_order_acquire) == value ? -ESRCH : 0;
        if (machine_interrupted)
            return -ECANCELED;
        if (machine_now_ns() - begin > ns_max)
            return -ETIMEDOUT;
        nanosleep(&pause, NULL);
    }
    return 0;
}

int
server_start(struct server *server, const struct server_kind *kind, int cpu)
{
    *server = (struct server){.kind = kind};
    void *page = mmap(NULL, sizeof *server->control, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return -errno;
    server->control = page;
    server->pid = fork();
    if (server->pid < 0) {
        server->pid = 0;
        const int error = -errno;
        server_stop(server);
        return error;
    }
    if (server->pid == 0 && kind->command != NULL)
        server_command_keep(server->control, kind->command, cpu);
    if (server->pid == 0)
        serve(server->control, kind, cpu);
    int error = wait_change(server, &server->control->state, SERVER_STARTING, START_NS_MAX);
    if (error == 0 && atomic_load(&server->control->state) == SERVER_FAILED)
        error = server->control->error;
    if (error != 0)
        server_stop(server);
    return error;
}

int
server_counters_get(struct server *server, struct server_counters *counters)
{
    struct server_control *control = server->control;
    if (server->kind->command != NULL)
        return has_died(server) ? -ESRCH : server_command_counters(server->pid, counters);
    const uint32_t answered = atomic_load(&control->answered);
    atomic_store_explicit(&control->asked, answered + 1, memory_order_release);
    const int error = wait_change(server, &control->answered, answered, ANSWER_NS_MAX);
    if (error == 0)
        *counters = control->counters;
    return error;
}

void
server_stop(struct server *server)
{
    if (server->control == NULL)
        return;
    atomic_store(&server->control->stop, 1);
    if (server->pid > 0 && server->kind->command != NULL)
        kill(server->pid, SIGTERM);
    const uint64_t begin = machine_now_ns();
    while (!has_died(server)) {
        if (machine_now_ns() - begin > STOP_NS_MAX) {
            kill(server->pid, SIGKILL);
            waitpid(server->pid, NULL, 0);
            server->pid = 0;
            break;
        }
        machine_sleep_ms(1);
    }
    munmap(server->control, sizeof *server->control);
    server->control = NULL;
}
