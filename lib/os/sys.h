/*
 * Every system call that the library makes goes through here, as sys_NAME(...): same arguments,
 * the result or -errno (errno itself is never looked at elsewhere). In the shipped build each is a
 * direct inline call. With BERTH_SYS_TABLE (the test build) each goes through a table of function
 * pointers that a test may replace: to make the k-th call of a kind fail, or to put a simulated
 * kernel underneath.
 *
 * A file says which groups it needs before including this one, so that no file sees an interface
 * it has no business with:
 *     BERTH_SYS_MEMORY  BERTH_SYS_FILE  BERTH_SYS_SOCKET  BERTH_SYS_EPOLL  BERTH_SYS_POLL
 *     BERTH_SYS_URING  BERTH_SYS_TIME  BERTH_SYS_TIMER  BERTH_SYS_SIGNAL  BERTH_SYS_RESOLVE
 * To add a call, add a row to its group:
 *     ROW(name, parameters, arguments, expression that returns -1 and errno, or -errno)
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_OS_SYS_H
#define BERTH_OS_SYS_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

/* ---- memory ------------------------------------------------------------------------------ */

#ifdef BERTH_SYS_MEMORY
#include <sys/mman.h>

#ifdef __linux__
#include <sys/prctl.h>
/* PR_SET_VMA, PR_SET_VMA_ANON_NAME: names an anonymous mapping in /proc/PID/maps. */
#define BERTH_SYS_NAME_MEMORY(address, size, name)                                                 \
    prctl(0x53564d41, 0, (unsigned long)(address), (size), (unsigned long)(name))

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

/** Whether this process may lock memory without limit: 1 or 0, or -1 and errno. */
static inline __attribute__((unused)) int
berth_may_lock_memory(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    if (syscall(SYS_capget, &header, data) != 0)
        return -1;
    return (int)(data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective >> (CAP_IPC_LOCK % 32) & 1);
}
#else
static inline __attribute__((unused)) int
berth_may_lock_memory(void)
{
    return 0;
}
#define BERTH_SYS_NAME_MEMORY(address, size, name) ((void)(address), (void)(size), (void)(name), 0)
#endif

#define BERTH_SYS_MEMORY_ROWS(ROW)                                                                 \
    ROW(mmap, (size_t size, int protection, int flags), (size, protection, flags),                 \
        mmap(NULL, size, protection, flags, -1, 0))                                                \
    ROW(mmap_file, (size_t size, int protection, int flags, int fd),                               \
        (size, protection, flags, fd), mmap(NULL, size, protection, flags, fd, 0))                 \
    ROW(munmap, (void *address, size_t size), (address, size), munmap(address, size))              \
    ROW(mprotect, (void *address, size_t size, int protection), (address, size, protection),       \
        mprotect(address, size, protection))                                                       \
    ROW(madvise, (void *address, size_t size, int advice), (address, size, advice),                \
        madvise(address, size, advice))                                                            \
    ROW(may_lock_memory, (void), (), berth_may_lock_memory())                                      \
    ROW(name_memory, (const void *address, size_t size, const char *name), (address, size, name),  \
        BERTH_SYS_NAME_MEMORY(address, size, name))
#else
#define BERTH_SYS_MEMORY_ROWS(ROW)
#endif

/* ---- files and descriptors ------------------------------------------------------------------ */

#ifdef BERTH_SYS_FILE
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/eventfd.h>
#include <sys/sendfile.h>
#define BERTH_SYS_LINUX_FILE_ROWS(ROW)                                                             \
    ROW(eventfd, (unsigned initial, int flags), (initial, flags), eventfd(initial, flags))         \
    ROW(sendfile, (int to, int from, off_t *offset, size_t size), (to, from, offset, size),        \
        sendfile(to, from, offset, size))                                                          \
    ROW(splice, (int from, int to, size_t size, unsigned flags), (from, to, size, flags),          \
        splice(from, NULL, to, NULL, size, flags))                                                 \
    ROW(pipe2, (int *ends, int flags), (ends, flags), pipe2(ends, flags))                          \
    ROW(dup3, (int fd, int as, int flags), (fd, as, flags), dup3(fd, as, flags))
#else
#define BERTH_SYS_LINUX_FILE_ROWS(ROW)
#endif

#define BERTH_SYS_FILE_ROWS(ROW)                                                                   \
    BERTH_SYS_LINUX_FILE_ROWS(ROW)                                                                 \
    ROW(fcntl, (int fd, int command, int argument), (fd, command, argument),                       \
        fcntl(fd, command, argument))                                                              \
    ROW(getrlimit, (int resource, struct rlimit *limit), (resource, limit),                        \
        getrlimit(resource, limit))                                                                \
    ROW(open, (const char *path, int flags), (path, flags), open(path, flags))                     \
    ROW(read, (int fd, void *data, size_t size), (fd, data, size), read(fd, data, size))           \
    ROW(pread, (int fd, void *data, size_t size, off_t offset), (fd, data, size, offset),          \
        pread(fd, data, size, offset))                                                             \
    ROW(write, (int fd, const void *data, size_t size), (fd, data, size), write(fd, data, size))   \
    ROW(set_nonblocking, (int fd, int on), (fd, on), ioctl(fd, FIONBIO, &on))                      \
    ROW(fstat, (int fd, struct stat *status), (fd, status), fstat(fd, status))                     \
    ROW(lstat, (const char *path, struct stat *status), (path, status), lstat(path, status))       \
    ROW(unlink, (const char *path), (path), unlink(path))                                          \
    ROW(close, (int fd), (fd), close(fd))
#else
#define BERTH_SYS_FILE_ROWS(ROW)
#endif

/* ---- sockets -------------------------------------------------------------------------------- */

#ifdef BERTH_SYS_SOCKET
#include <sys/socket.h>
#include <sys/uio.h>

#ifdef __linux__
#include <net/if.h>

/** The number of a network interface, or -1 and errno. */
static inline __attribute__((unused)) int
berth_interface_index(const char *name)
{
    const unsigned index = if_nametoindex(name);
    return index == 0 ? -1 : (int)index;
}

#define BERTH_SYS_LINUX_SOCKET_ROWS(ROW)                                                           \
    ROW(interface_index, (const char *name), (name), berth_interface_index(name))                  \
    ROW(accept4, (int fd, struct sockaddr *address, socklen_t *size, int flags),                   \
        (fd, address, size, flags), accept4(fd, address, size, flags))                             \
    ROW(recvmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags),                   \
        (fd, messages, count, flags), recvmmsg(fd, messages, count, flags, NULL))                  \
    ROW(sendmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags),                   \
        (fd, messages, count, flags), sendmmsg(fd, messages, count, flags))                        \
    ROW(recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags),                \
        recvmsg(fd, message, flags))
#else
#define BERTH_SYS_LINUX_SOCKET_ROWS(ROW)
#endif

#include <sys/ioctl.h>

/** Bytes that the peer of a stream socket has not acknowledged. 0, or -1 and errno. */
static inline __attribute__((unused)) int
berth_unacknowledged(int fd, int *bytes)
{
    return ioctl(fd, TIOCOUTQ, bytes);
}

#define BERTH_SYS_SOCKET_ROWS(ROW)                                                                 \
    BERTH_SYS_LINUX_SOCKET_ROWS(ROW)                                                               \
    ROW(unacknowledged, (int fd, int *bytes), (fd, bytes), berth_unacknowledged(fd, bytes))        \
    ROW(socket, (int domain, int type, int protocol), (domain, type, protocol),                    \
        socket(domain, type, protocol))                                                            \
    ROW(socketpair, (int domain, int type, int protocol, int *pair),                               \
        (domain, type, protocol, pair), socketpair(domain, type, protocol, pair))                  \
    ROW(bind, (int fd, const struct sockaddr *address, socklen_t size), (fd, address, size),       \
        bind(fd, address, size))                                                                   \
    ROW(listen, (int fd, int backlog), (fd, backlog), listen(fd, backlog))                         \
    ROW(connect, (int fd, const struct sockaddr *address, socklen_t size), (fd, address, size),    \
        connect(fd, address, size))                                                                \
    ROW(getsockname, (int fd, struct sockaddr *address, socklen_t *size), (fd, address, size),     \
        getsockname(fd, address, size))                                                            \
    ROW(getpeername, (int fd, struct sockaddr *address, socklen_t *size), (fd, address, size),     \
        getpeername(fd, address, size))                                                            \
    ROW(getsockopt, (int fd, int level, int name, void *value, socklen_t *size),                   \
        (fd, level, name, value, size), getsockopt(fd, level, name, value, size))                  \
    ROW(setsockopt, (int fd, int level, int name, const void *value, socklen_t size),              \
        (fd, level, name, value, size), setsockopt(fd, level, name, value, size))                  \
    ROW(shutdown, (int fd, int how), (fd, how), shutdown(fd, how))                                 \
    ROW(recv, (int fd, void *data, size_t size, int flags), (fd, data, size, flags),               \
        recv(fd, data, size, flags))                                                               \
    ROW(send, (int fd, const void *data, size_t size, int flags), (fd, data, size, flags),         \
        send(fd, data, size, flags))                                                               \
    ROW(sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags),          \
        sendmsg(fd, message, flags))
#else
#define BERTH_SYS_SOCKET_ROWS(ROW)
#endif

/* ---- signals -------------------------------------------------------------------------------- */

#ifdef BERTH_SYS_SIGNAL
#include <signal.h>

#ifdef __linux__
#define BERTH_SYS_LINUX_SIGNAL_ROWS(ROW)                                                           \
    ROW(sigtake, (const sigset_t *set, const struct timespec *timeout), (set, timeout),            \
        sigtimedwait(set, NULL, timeout))
#else
#define BERTH_SYS_LINUX_SIGNAL_ROWS(ROW)
#endif

#define BERTH_SYS_SIGNAL_ROWS(ROW)                                                                 \
    BERTH_SYS_LINUX_SIGNAL_ROWS(ROW)                                                               \
    ROW(sigaction, (int signo, const struct sigaction *action, struct sigaction *former),          \
        (signo, action, former), sigaction(signo, action, former))                                 \
    ROW(sigmask, (int how, const sigset_t *set, sigset_t *former), (how, set, former),             \
        -pthread_sigmask(how, set, former))                                                        \
    ROW(sigpending, (sigset_t * set), (set), sigpending(set))
#else
#define BERTH_SYS_SIGNAL_ROWS(ROW)
#endif

/* ---- readiness: one group per interface ---------------------------------------------------- */

#ifdef BERTH_SYS_EPOLL
#include <sys/epoll.h>
#define BERTH_SYS_EPOLL_ROWS(ROW)                                                                  \
    ROW(epoll_create1, (int flags), (flags), epoll_create1(flags))                                 \
    ROW(epoll_ctl, (int set, int op, int fd, struct epoll_event *event), (set, op, fd, event),     \
        epoll_ctl(set, op, fd, event))                                                             \
    ROW(epoll_wait, (int set, struct epoll_event *events, int count, int timeout_ms),              \
        (set, events, count, timeout_ms), epoll_wait(set, events, count, timeout_ms))
#else
#define BERTH_SYS_EPOLL_ROWS(ROW)
#endif

#ifdef BERTH_SYS_POLL
#include <poll.h>
#define BERTH_SYS_POLL_ROWS(ROW)                                                                   \
    ROW(poll, (struct pollfd * fds, nfds_t count, int timeout_ms), (fds, count, timeout_ms),       \
        poll(fds, count, timeout_ms))
#else
#define BERTH_SYS_POLL_ROWS(ROW)
#endif

/* ---- time ----------------------------------------------------------------------------------- */

#ifdef BERTH_SYS_TIMER
#include <sys/timerfd.h>
#define BERTH_SYS_TIMER_ROWS(ROW)                                                                  \
    ROW(timerfd_create, (int clock, int flags), (clock, flags), timerfd_create(clock, flags))      \
    ROW(timerfd_settime, (int fd, int flags, const struct itimerspec *when), (fd, flags, when),    \
        timerfd_settime(fd, flags, when, NULL))
#else
#define BERTH_SYS_TIMER_ROWS(ROW)
#endif

#ifdef BERTH_SYS_TIME
#include <time.h>

/** Milliseconds of a clock that never goes back. */
static inline __attribute__((unused)) int
berth_clock_ms(uint64_t *now_ms)
{
    struct timespec now = {0, 0};
    const int result = clock_gettime(CLOCK_MONOTONIC, &now);
    *now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    return result;
}

#define BERTH_SYS_TIME_ROWS(ROW)                                                                   \
    ROW(clock_ms, (uint64_t * now_ms), (now_ms), berth_clock_ms(now_ms))
#else
#define BERTH_SYS_TIME_ROWS(ROW)
#endif

/* ---- names, and the threads that wait for them --------------------------------------------------
 */

#ifdef BERTH_SYS_RESOLVE
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

/** What getaddrinfo(3) says, in the words of everything else: -errno. Never -EPERM, which is -1. */
static inline __attribute__((unused)) int
berth_resolve_errno(int error, int system_error)
{
    switch (error) {
    case EAI_NONAME:
#ifdef EAI_NODATA
    case EAI_NODATA:
#endif
#ifdef EAI_ADDRFAMILY
    case EAI_ADDRFAMILY:
#endif
        return -ENOENT; /* there is no such name, or it has no address */
    case EAI_AGAIN:
        return -EAGAIN; /* nobody answered: another time, perhaps */
    case EAI_FAIL:
        return -EHOSTUNREACH; /* who was asked cannot or does not want to answer */
    case EAI_FAMILY:
        return -EAFNOSUPPORT;
    case EAI_MEMORY:
        return -ENOMEM;
    case EAI_SYSTEM:
        return system_error == EPERM ? -EACCES : -system_error;
    default:
        return -EINVAL;
    }
}

/** Every address of a name that a stream can be connected to, in the order to try them in. */
static inline __attribute__((unused)) int
berth_getaddrinfo(const char *host, const char *port, struct addrinfo **addresses)
{
    struct addrinfo hints;
    memset(&hints, 0, sizeof(hints));
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    const int error = getaddrinfo(host, port, &hints, addresses);
    if (error == 0)
        return 0;
    *addresses = NULL;
    return berth_resolve_errno(error, errno);
}

/** A thread in which no signal handler of the program is ever run. */
static inline __attribute__((unused)) int
berth_thread_start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(thread, NULL, run, argument);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

#define BERTH_SYS_RESOLVE_ROWS(ROW)                                                                \
    ROW(getaddrinfo, (const char *host, const char *port, struct addrinfo **addresses),            \
        (host, port, addresses), (errno = EPERM, berth_getaddrinfo(host, port, addresses)))        \
    ROW(freeaddrinfo, (struct addrinfo * addresses), (addresses), (freeaddrinfo(addresses), 0))    \
    ROW(thread_start, (pthread_t * thread, void *(*run)(void *), void *argument),                  \
        (thread, run, argument), (errno = EPERM, berth_thread_start(thread, run, argument)))
#else
#define BERTH_SYS_RESOLVE_ROWS(ROW)
#endif

/* ---- io_uring, by way of liburing ------------------------------------------------------------
 * liburing returns -errno and leaves errno alone: so its -EPERM (a seccomp filter's answer), which
 * looks like the -1 of the others, must find EPERM in errno.
 */

#ifdef BERTH_SYS_URING
#include <liburing.h>
/* io_uring_enable_rings is declared by liburing 2.3, but not exported: hence the plain register. */

#ifdef BERTH_SYS_TABLE
/** IORING_SETUP_ flags that every ring is made with besides, so that a test can run on others. */
extern unsigned berth_sys_uring_flags;
#endif

static inline __attribute__((unused)) int
berth_uring_init(unsigned entries, struct io_uring *ring, struct io_uring_params *params)
{
#ifdef BERTH_SYS_TABLE
    params->flags |= berth_sys_uring_flags;
#endif
    return io_uring_queue_init_params(entries, ring, params);
}

/** Puts a descriptor into that place of the ring's table, or empties it (-1): 1 or -errno. */
static inline __attribute__((unused)) int
berth_uring_set_file(struct io_uring *ring, int index, int fd)
{
    return io_uring_register_files_update(ring, (unsigned)index, &fd, 1);
}

/** Whether this kernel knows an operation: 1 or 0, or -errno. */
static inline __attribute__((unused)) int
berth_uring_op_known(struct io_uring *ring, int op)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    if (probe == NULL)
        return -ENOMEM;
    const int known = io_uring_opcode_supported(probe, op);
    io_uring_free_probe(probe);
    return known;
}

/**
 * Who has no time to wait for one completion more only looks: a wait of no time would set a timer,
 * and be woken by it (15 us against 0.2, in a virtual machine).
 */
static inline __attribute__((unused)) int
berth_uring_wait(struct io_uring *ring, struct io_uring_cqe **completion, unsigned count,
                 struct __kernel_timespec *timeout)
{
    if (timeout->tv_sec == 0 && timeout->tv_nsec == 0 && count <= io_uring_cq_ready(ring) + 1)
        return io_uring_submit_and_get_events(ring);
    return io_uring_submit_and_wait_timeout(ring, completion, count, timeout, NULL);
}

#define BERTH_SYS_URING_ROWS(ROW)                                                                  \
    ROW(uring_init, (unsigned entries, struct io_uring *ring, struct io_uring_params *params),     \
        (entries, ring, params), (errno = EPERM, berth_uring_init(entries, ring, params)))         \
    ROW(uring_exit, (struct io_uring * ring), (ring), (io_uring_queue_exit(ring), 0))              \
    ROW(uring_no_fork, (struct io_uring * ring), (ring),                                           \
        (errno = EPERM, io_uring_ring_dontfork(ring)))                                             \
    ROW(uring_knows, (struct io_uring * ring, int op), (ring, op),                                 \
        (errno = EPERM, berth_uring_op_known(ring, op)))                                           \
    ROW(uring_enable, (struct io_uring * ring), (ring),                                            \
        (errno = EPERM,                                                                            \
         io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0)))       \
    ROW(uring_register, (struct io_uring * ring, unsigned op, void *argument, unsigned count),     \
        (ring, op, argument, count),                                                               \
        (errno = EPERM, io_uring_register((unsigned)ring->ring_fd, op, argument, count)))          \
    ROW(uring_register_ring_fd, (struct io_uring * ring), (ring),                                  \
        (errno = EPERM, io_uring_register_ring_fd(ring)))                                          \
    ROW(uring_register_buffers, (struct io_uring * ring, struct io_uring_buf_reg * registration),  \
        (ring, registration), (errno = EPERM, io_uring_register_buf_ring(ring, registration, 0)))  \
    ROW(uring_unregister_buffers, (struct io_uring * ring, int group), (ring, group),              \
        (errno = EPERM, io_uring_unregister_buf_ring(ring, group)))                                \
    ROW(uring_register_files, (struct io_uring * ring, unsigned count), (ring, count),             \
        (errno = EPERM, io_uring_register_files_sparse(ring, count)))                              \
    ROW(uring_unregister_files, (struct io_uring * ring), (ring),                                  \
        (errno = EPERM, io_uring_unregister_files(ring)))                                          \
    ROW(uring_set_file, (struct io_uring * ring, int index, int fd), (ring, index, fd),            \
        (errno = EPERM, berth_uring_set_file(ring, index, fd)))                                    \
    ROW(uring_register_eventfd, (struct io_uring * ring, int fd), (ring, fd),                      \
        (errno = EPERM, io_uring_register_eventfd(ring, fd)))                                      \
    ROW(uring_run, (struct io_uring * ring), (ring),                                               \
        (errno = EPERM, io_uring_submit_and_get_events(ring)))                                     \
    ROW(uring_submit, (struct io_uring * ring), (ring), (errno = EPERM, io_uring_submit(ring)))    \
    ROW(uring_wait,                                                                                \
        (struct io_uring * ring, struct io_uring_cqe * *completion, unsigned count,                \
         struct __kernel_timespec *timeout),                                                       \
        (ring, completion, count, timeout),                                                        \
        (errno = EPERM, berth_uring_wait(ring, completion, count, timeout)))
#else
#define BERTH_SYS_URING_ROWS(ROW)
#endif

/* ---- the machinery ------------------------------------------------------------------------- */

#define BERTH_SYS_ROWS(ROW)                                                                        \
    BERTH_SYS_MEMORY_ROWS(ROW)                                                                     \
    BERTH_SYS_FILE_ROWS(ROW)                                                                       \
    BERTH_SYS_SOCKET_ROWS(ROW)                                                                     \
    BERTH_SYS_EPOLL_ROWS(ROW)                                                                      \
    BERTH_SYS_POLL_ROWS(ROW)                                                                       \
    BERTH_SYS_SIGNAL_ROWS(ROW)                                                                     \
    BERTH_SYS_TIMER_ROWS(ROW)                                                                      \
    BERTH_SYS_TIME_ROWS(ROW)                                                                       \
    BERTH_SYS_RESOLVE_ROWS(ROW)                                                                    \
    BERTH_SYS_URING_ROWS(ROW)

#define BERTH_SYS_ROW_DIRECT(name, parameters, arguments, expression)                              \
    static inline __attribute__((unused)) intptr_t sys_direct_##name parameters                    \
    {                                                                                              \
        const intptr_t result = (intptr_t)(expression);                                            \
        return result == -1 ? -(intptr_t)errno : result;                                           \
    }
BERTH_SYS_ROWS(BERTH_SYS_ROW_DIRECT)

#ifdef BERTH_SYS_TABLE

/*
 * One replaceable pointer per call, named berth_sys_NAME. tests/support/sys_table.c defines them
 * all, each starting as the direct call.
 */
#define BERTH_SYS_ROW_POINTER(name, parameters, arguments, expression)                             \
    extern intptr_t(*berth_sys_##name) parameters;
BERTH_SYS_ROWS(BERTH_SYS_ROW_POINTER)

#define BERTH_SYS_ROW_CALL(name, parameters, arguments, expression)                                \
    static inline __attribute__((unused)) intptr_t sys_##name parameters                           \
    {                                                                                              \
        return berth_sys_##name arguments;                                                         \
    }
#else
#define BERTH_SYS_ROW_CALL(name, parameters, arguments, expression)                                \
    static inline __attribute__((unused)) intptr_t sys_##name parameters                           \
    {                                                                                              \
        return sys_direct_##name arguments;                                                        \
    }
#endif
BERTH_SYS_ROWS(BERTH_SYS_ROW_CALL)

#endif
