/*
 * Keeping a server that is a program of the user's own: starting it, seeing whether it listens,
 * reading its processor time, and ending all of its processes.
 *
 * SPDX-License-Identifier: MIT
 */
#include "server_command.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "machine.h"

/** The kernel's own limit of processes on most systems; what is beyond is not seen. */
#define PROCESSES_MAX 32768u

/** Between two tries to connect, and between two looks at what has ended. */
#define PAUSE_NS 5000000L

/* ---- the processes that came of one ------------------------------------------------------------
 */

struct process {
    pid_t pid, parent;
    bool inside;
};

static struct process processes[PROCESSES_MAX];
static unsigned processes_count;

static int
by_pid(const void *a, const void *b)
{
    const pid_t x = ((const struct process *)a)->pid, y = ((const struct process *)b)->pid;
    return (x > y) - (x < y);
}

/** Reads a small file of /proc into `text`. False: the process is gone. */
static bool
read_text(const char *path, char *text, size_t size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    const ssize_t got = read(fd, text, size - 1);
    close(fd);
    text[got > 0 ? got : 0] = '\0';
    return got > 0;
}

/** What follows the name in /proc/PID/stat: state, parent, ... The name may hold anything. */
static bool
read_stat(pid_t pid, char *text, size_t size, const char **fields)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    if (!read_text(path, text, size))
        return false;
    const char *end = strrchr(text, ')');
    *fields = end != NULL ? end + 1 : NULL;
    return end != NULL;
}

static void
processes_read(void)
{
    char text[1024];
    const char *fields;
    const struct dirent *entry;
    processes_count = 0;
    DIR *directory = opendir("/proc");
    while (directory != NULL && processes_count < PROCESSES_MAX &&
           (entry = readdir(directory)) != NULL) {
        const pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        long parent = 0;
        if (isdigit((unsigned char)entry->d_name[0]) &&
            read_stat(pid, text, sizeof text, &fields) && sscanf(fields, " %*c %ld", &parent) == 1)
            processes[processes_count++] = (struct process){pid, (pid_t)parent, false};
    }
    if (directory != NULL)
        closedir(directory);
    qsort(processes, processes_count, sizeof processes[0], by_pid);
}

static bool
is_inside(pid_t pid)
{
    const struct process wanted = {.pid = pid};
    const struct process *found =
        bsearch(&wanted, processes, processes_count, sizeof processes[0], by_pid);
    return found != NULL && found->inside;
}

/** Marks every process that came of `root`, without itself. Each pass goes at least one deeper. */
static void
tree_find(pid_t root)
{
    processes_read();
    for (bool found = true; found;) {
        found = false;
        for (unsigned i = 0; i < processes_count; i++) {
            struct process *process = &processes[i];
            if (!process->inside && (process->parent == root || is_inside(process->parent)))
                process->inside = found = true;
        }
    }
}

/* ---- what they have used -----------------------------------------------------------------------
 */

/** By the tick of the scheduler's clock: what there is where schedstat is not compiled in. */
static uint64_t
cpu_ns_by_ticks(pid_t pid)
{
    char text[1024];
    const char *fields;
    unsigned long long user = 0, kernel = 0;
    const long per_second = sysconf(_SC_CLK_TCK);
    if (per_second <= 0 || !read_stat(pid, text, sizeof text, &fields) ||
        sscanf(fields, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &kernel) !=
            2)
        return 0;
    return (user + kernel) * (UINT64_C(1000000000) / (uint64_t)per_second);
}

/** The sum over its threads: /proc/PID/schedstat itself tells of the first one only. */
static uint64_t
cpu_ns_of(pid_t pid)
{
    char path[320], text[128];
    uint64_t sum = 0;
    bool known = false;
    const struct dirent *entry;
    snprintf(path, sizeof path, "/proc/%ld/task", (long)pid);
    DIR *directory = opendir(path);
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        unsigned long long ns = 0;
        snprintf(path, sizeof path, "/proc/%ld/task/%s/schedstat", (long)pid, entry->d_name);
        if (entry->d_name[0] != '.' && read_text(path, text, sizeof text) &&
            sscanf(text, "%llu", &ns) == 1) {
            known = true;
            sum += ns;
        }
    }
    if (directory != NULL)
        closedir(directory);
    return known ? sum : cpu_ns_by_ticks(pid);
}

int
server_command_counters(pid_t keeper, struct server_counters *counters)
{
    unsigned living = 0;
    *counters = server_counters_begin();
    counters->syscalls = counters->turns = counters->received_bytes = SERVER_COUNT_UNKNOWN;
    counters->conns = counters->enobufs = SERVER_COUNT_UNKNOWN;
    tree_find(keeper);
    counters->wall_ns = machine_now_ns();
    for (unsigned i = 0; i < processes_count; i++) {
        if (processes[i].inside) {
            counters->cpu_ns += cpu_ns_of(processes[i].pid);
            living++;
        }
    }
    return living > 0 ? 0 : -ESRCH;
}

/* ---- the keeper --------------------------------------------------------------------------------
 */

/** A port that the kernel says is free. It is not kept: somebody else may be quicker. Or -errno. */
static int
port_free(void)
{
    uint16_t port = 0;
    const int fd = server_listen(&port);
    if (fd < 0)
        return fd;
    close(fd);
    return port;
}

/**
 * Whether a connection to the port is accepted. It comes from another address than it goes to: with
 * the same one, and nobody listening, a connection can meet itself.
 */
static bool
accepts(uint16_t port)
{
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(port);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    const bool accepted = bind(fd, (struct sockaddr *)&from, sizeof from) == 0 &&
                          connect(fd, (struct sockaddr *)&to, sizeof to) == 0;
    close(fd);
    return accepted;
}

static _Noreturn void
command_exec(const char *command, uint16_t port, int cpu, const sigset_t *signals)
{
    char number[8];
    snprintf(number, sizeof number, "%u", port);
    setsid(); /* a Ctrl-C is ours to answer */
    if (cpu >= 0)
        machine_pin(cpu);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    sigprocmask(SIG_SETMASK, signals, NULL);
    /* Standard output belongs to the report. Complaints may go where ours go. */
    const int null = open("/dev/null", O_RDWR);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        if (null > STDERR_FILENO)
            close(null);
    }
    setenv("PORT", number, 1);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

/** Buries the dead. False: nobody is left. */
static bool
any_left(void)
{
    pid_t ended;
    do {
        ended = waitpid(-1, NULL, WNOHANG);
    } while (ended > 0);
    return ended == 0;
}

/** Sleeps for `ns` (negative: for ever) or until one of `signals`; which one, or -1. */
static int
sleep_until(const sigset_t *signals, long ns)
{
    const struct timespec pause = {0, ns};
    return ns < 0 ? sigwaitinfo(signals, NULL) : sigtimedwait(signals, NULL, &pause);
}

/** 0 once somebody accepts; -ESRCH: all have ended; -ETIMEDOUT; -ECANCELED: told to stop. */
static int
wait_ready(uint16_t port, const sigset_t *signals)
{
    const uint64_t begin = machine_now_ns();
    while (!accepts(port)) {
        if (sleep_until(signals, PAUSE_NS) == SIGTERM)
            return -ECANCELED;
        if (!any_left())
            return -ESRCH;
        if (machine_now_ns() - begin > SERVER_COMMAND_START_NS_MAX)
            return -ETIMEDOUT;
    }
    return 0;
}

/** Asks the session to end; then kills what is left, also what has left the session. */
static void
end_all(pid_t session, const sigset_t *signals)
{
    const uint64_t begin = machine_now_ns();
    kill(-session, SIGTERM);
    while (any_left() && machine_now_ns() - begin < SERVER_COMMAND_STOP_NS_MAX)
        sleep_until(signals, PAUSE_NS);
    while (any_left() && machine_now_ns() - begin < 2 * SERVER_COMMAND_STOP_NS_MAX) {
        tree_find(getpid());
        for (unsigned i = 0; i < processes_count; i++) {
            if (processes[i].inside)
                kill(processes[i].pid, SIGKILL);
        }
        sleep_until(signals, PAUSE_NS);
    }
}

_Noreturn void
server_command_keep(struct server_control *control, const char *command, int cpu)
{
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, &before);
    signal(SIGINT, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* what loses its parent comes to us */
    const int port = port_free();
    const pid_t child = port > 0 ? fork() : -1;
    if (child == 0)
        command_exec(command, (uint16_t)port, cpu, &before);
    int error = port < 0 ? port : child < 0 ? -errno : wait_ready((uint16_t)port, &signals);
    if (error == 0) {
        snprintf(control->explain, sizeof control->explain, "%s", command);
        server_ready(control, (uint16_t)port);
        while (any_left() && sleep_until(&signals, -1) != SIGTERM)
            continue;
    }
    if (error != 0) {
        control->error = error;
        atomic_store_explicit(&control->state, SERVER_FAILED, memory_order_release);
    }
    if (child > 0)
        end_all(child, &signals);
    _exit(error != 0);
}
