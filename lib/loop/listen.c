/*
 * Where connections come from: listening, connecting, adopting. And whom to turn away when there
 * is no room.
 *
 * The invariant: a descriptor belongs to the loop or to nobody. Running out of descriptors costs
 * the newcomers their connection; it never makes the loop spin, and never disturbs those inside.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#include "loop/loop_internal.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "loop/connect_name.h"
#include "os/probes.h"
#include "os/sys.h"

/** How long a listener rests after it ran out of descriptors, in milliseconds. */
#define ACCEPT_BACKOFF_MS 20

/** Newcomers turned away at a time. */
#define REFUSE_MAX 64

/* ---- classes -------------------------------------------------------------------------------- */

/** An unused class number, or -EMFILE. */
static int
class_get(struct berth_loop *loop, const struct berth_handlers *handlers, void *ctx)
{
    for (int i = CLASS_OWN + 1; i < CLASS_COUNT_MAX; i++) {
        struct conn_class *class = &loop->classes[i];
        if (class->users != 0)
            continue;
        class->handlers = handlers;
        class->ctx = ctx;
        class->listener = NULL;
        return i;
    }
    return -EMFILE;
}

int
conn_create_keeping(struct berth_loop *loop, int fd, uint8_t class_id, uint32_t state,
                    struct berth_slot **slot)
{
    const int index = descriptor_enter(loop, fd);
    if (index < 0)
        return index == -ENFILE ? -EMFILE : index;
    const int error = conn_create(loop, index, class_id, state, slot);
    if (error)
        descriptor_leave(loop, index);
    else
        descriptor_keep(loop, *slot, fd);
    return error;
}

void
class_put(struct berth_loop *loop, uint8_t class_id)
{
    if (class_id == CLASS_OWN)
        return;
    struct conn_class *class = &loop->classes[class_id];
    BERTH_ASSERT(class->users > 0);
    if (--class->users == 0)
        memset(class, 0, sizeof(*class));
}

/* ---- listening ------------------------------------------------------------------------------ */

static int
is_path(const struct address *address)
{
    return address->to.base.sa_family == AF_UNIX && address->to.local.sun_path[0] != '\0';
}

/** A socket file that nobody listens behind is in the way: removes it. 0 if it did. */
static int
remove_stale_path(const struct address *address)
{
    struct stat status;
    const char *path = address->to.local.sun_path;
    if (sys_lstat(path, &status) < 0 || !S_ISSOCK(status.st_mode))
        return -EADDRINUSE;
    const int fd = (int)sys_socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fd;
    const intptr_t error = sys_connect(fd, &address->to.base, address->length);
    (void)sys_close(fd);
    return error == -ECONNREFUSED ? (int)sys_unlink(path) : -EADDRINUSE;
}

/** Options that accepted sockets inherit, so that no newcomer costs a system call. */
static int
set_options(const struct berth_loop *loop, int fd, const struct address *address)
{
    const int on = 1, off = 0;
    if (address->to.base.sa_family == AF_UNIX)
        return 0;
    (void)sys_setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    (void)sys_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (address->to.base.sa_family == AF_INET6)
        (void)sys_setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    return loop->options.reuse_port
               ? (int)sys_setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on))
               : 0;
}

static int
bind_and_listen(const struct berth_loop *loop, int fd, const struct address *address)
{
    intptr_t error = set_options(loop, fd, address);
    if (error < 0)
        return (int)error;
    error = sys_bind(fd, &address->to.base, address->length);
    if (error == -EADDRINUSE && is_path(address)) {
        error = remove_stale_path(address);
        if (error == 0)
            error = sys_bind(fd, &address->to.base, address->length);
    }
    if (error == 0)
        error = sys_listen(fd, SOMAXCONN);
    return (int)error;
}

/** Opens the socket; on success it is listening and `address` is the real one. */
static int
open_listener(const struct berth_loop *loop, struct address *address)
{
    const int type =
        SOCK_STREAM | SOCK_CLOEXEC | (loop->engine->listener_nonblocking ? SOCK_NONBLOCK : 0);
    const int fd = (int)sys_socket(address->to.base.sa_family, type, 0);
    if (fd < 0)
        return fd;
    int error = bind_and_listen(loop, fd, address);
    if (error == 0 && address->to.base.sa_family != AF_UNIX) {
        address->length = sizeof(address->to);
        error = (int)sys_getsockname(fd, &address->to.base, &address->length);
    }
    if (error) {
        (void)sys_close(fd);
        return error;
    }
    return fd;
}

int
berth_listen(struct berth_loop *loop, const char *text, const struct berth_handlers *handlers,
             void *ctx, struct berth_listener **result)
{
    struct address address;
    if (loop == NULL || handlers == NULL || address_parse(&address, text) != 0)
        return -EINVAL;
    if (loop->drain.state != DRAIN_NOT)
        return -ESHUTDOWN;
    if (loop_is_child(loop))
        return -ECHILD;
    struct berth_listener *listener = (struct berth_listener *)calloc(1, sizeof(*listener));
    if (listener == NULL)
        return -ENOMEM;
    const int class_id = class_get(loop, handlers, ctx);
    if (class_id < 0) {
        free(listener);
        return class_id;
    }
    const int fd = open_listener(loop, &address);
    struct berth_slot *slot = NULL;
    int error =
        fd < 0 ? fd : conn_create_keeping(loop, fd, (uint8_t)class_id, KIND_LISTENER, &slot);
    if (error) {
        if (fd >= 0)
            (void)sys_close(fd);
        free(listener);
        return error;
    }
    listener->loop = loop;
    listener->address = address;
    listener->class_id = (uint8_t)class_id;
    listener->token = berth_slot_token(slot, OP_ACCEPT);
    loop->classes[class_id].listener = listener;
    error = loop->engine->accept_start(loop, slot);
    if (error) {
        berth_listener_close(listener);
        return error;
    }
    loop_due(loop);
    if (result != NULL)
        *result = listener;
    return 0;
}

/** Takes the socket away from its listener. */
static void
stop_listening(struct berth_listener *listener)
{
    if (listener == NULL || loop_is_child(listener->loop))
        return; /* a child must not remove its parent's socket file either */
    struct berth_loop *loop = listener->loop;
    struct berth_slot *slot = berth_table_find(loop->table, listener->token);
    BERTH_ASSERT(slot != NULL);
    if (is_path(&listener->address))
        (void)sys_unlink(listener->address.to.local.sun_path);
    loop->classes[listener->class_id].listener = NULL;
    if (slot == NULL)
        return;
    slot->state |= CONN_FAILED; /* the close protocol of connections does the rest */
    conn_todo(loop, slot);
}

void
berth_listener_close(struct berth_listener *listener)
{
    if (listener == NULL || loop_is_child(listener->loop))
        return; /* a child must not remove its parent's socket file either */
    if (listener->stopped) {
        struct berth_listener **at = &listener->loop->stopped;
        while (*at != listener)
            at = &(*at)->next;
        *at = listener->next;
    } else {
        stop_listening(listener);
    }
    free(listener);
}

void
listener_stop_all(struct berth_loop *loop)
{
    for (int i = 0; i < CLASS_COUNT_MAX; i++) {
        struct berth_listener *listener = loop->classes[i].listener;
        if (listener == NULL)
            continue;
        stop_listening(listener);
        listener->stopped = 1;
        listener->next = loop->stopped;
        loop->stopped = listener;
    }
}

void
listener_close_all(struct berth_loop *loop)
{
    listener_stop_all(loop);
    while (loop->stopped != NULL)
        berth_listener_close(loop->stopped);
}

int
berth_listener_address(const struct berth_listener *listener, char *text, size_t size)
{
    if (listener == NULL || text == NULL)
        return -EINVAL;
    return address_format(&listener->address, text, size);
}

int
berth_listener_fd(const struct berth_listener *listener)
{
    if (listener == NULL)
        return -EINVAL;
    if (listener->stopped)
        return -EBADF;
    const struct berth_loop *loop = listener->loop;
    const int index = (int)berth_token_index(listener->token);
    return loop->direct ? descriptor_kept(loop, berth_table_slot(loop->table, (uint32_t)index))
                        : index;
}

/* ---- accepting ------------------------------------------------------------------------------ */

void
listener_accepted(struct berth_loop *loop, struct berth_slot *listener, int index)
{
    struct berth_slot *slot = NULL;
    const int error = conn_create(loop, index, listener->class_id, 0, &slot);
    if (error) {
        descriptor_close(loop, index, -1);
        loop->stats.refused_limit++;
        BERTH_PROBE(accept__refused, index, error);
        return;
    }
    loop->stats.accepted++;
    conn_open(loop, slot);
    conn_after_event(loop, slot);
}

/** Gives up the reserve descriptor for a moment, so that those who wait outside get an answer. */
static void
refuse_newcomers(struct berth_loop *loop, int listener_fd)
{
    if (loop->reserve_fd < 0)
        return;
    const intptr_t flags = sys_fcntl(listener_fd, F_GETFL, 0);
    if (flags < 0 || sys_fcntl(listener_fd, F_SETFL, (int)flags | O_NONBLOCK) < 0)
        return;
    (void)sys_close(loop->reserve_fd);
    for (unsigned i = 0; i < REFUSE_MAX; i++) {
        const int fd = (int)sys_accept4(listener_fd, NULL, NULL, SOCK_CLOEXEC);
        loop->stats.syscalls++;
        if (fd < 0)
            break;
        (void)sys_close(fd);
        loop->stats.refused_limit++;
        BERTH_PROBE(accept__refused, fd, -EMFILE);
    }
    loop->reserve_fd = (int)sys_open("/dev/null", O_RDONLY | O_CLOEXEC);
    (void)sys_fcntl(listener_fd, F_SETFL, (int)flags);
    loop->stats.syscalls += 6;
}

void
listener_accept_failed(struct berth_loop *loop, struct berth_slot *slot, int error)
{
    if (error == -EAGAIN || error == -EINTR || error == -ECONNABORTED || error == -EPROTO) {
        if (error != -EAGAIN && error != -EINTR)
            loop->stats.accept_errors++;
        return;
    }
    loop->stats.accept_errors++;
    if (error == -EMFILE || error == -ENFILE)
        refuse_newcomers(loop, descriptor_borrow(loop, slot)); /* a listener's is there */
    struct berth_listener *listener = loop->classes[slot->class_id].listener;
    if (listener == NULL)
        return;
    loop->engine->accept_stop(loop, slot);
    listener->backing_off = 1;
    if (loop->accept_resume_ms == 0)
        loop->accept_resume_ms = loop_time(loop) + ACCEPT_BACKOFF_MS;
}

int
listener_tick(struct berth_loop *loop)
{
    if (loop->accept_resume_ms == 0)
        return -1;
    const uint64_t now_ms = loop_time(loop);
    if (now_ms < loop->accept_resume_ms)
        return (int)(loop->accept_resume_ms - now_ms);
    loop->accept_resume_ms = 0;
    if (loop->reserve_fd < 0)
        loop->reserve_fd = (int)sys_open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (int i = 0; i < CLASS_COUNT_MAX; i++) {
        struct berth_listener *listener = loop->classes[i].listener;
        if (listener == NULL || !listener->backing_off)
            continue;
        struct berth_slot *slot = berth_table_find(loop->table, listener->token);
        listener->backing_off = 0;
        if (slot == NULL || loop->engine->accept_start(loop, slot) == 0)
            continue;
        listener->backing_off = 1; /* the engine has no room now either */
        loop->accept_resume_ms = now_ms + ACCEPT_BACKOFF_MS;
    }
    return loop->accept_resume_ms == 0 ? -1 : ACCEPT_BACKOFF_MS;
}

/* ---- connecting and adopting ---------------------------------------------------------------- */

int
conn_create_own(struct berth_loop *loop, int fd, uint32_t state,
                const struct berth_handlers *handlers, void *ctx, struct berth_slot **slot)
{
    const int error = conn_create_keeping(loop, fd, CLASS_OWN, state, slot);
    if (error)
        return error;
    struct conn_cold *cold = slot_cold(loop, *slot);
    cold->handlers = handlers;
    cold->ctx = ctx;
    return 0;
}

int
descriptor_set_nonblocking(int fd, int on)
{
    const intptr_t flags = sys_fcntl(fd, F_GETFL, 0);
    if (flags < 0)
        return (int)flags;
    const int wanted = on ? (int)flags | O_NONBLOCK : (int)flags & ~O_NONBLOCK;
    const intptr_t error = wanted == (int)flags ? 0 : sys_fcntl(fd, F_SETFL, wanted);
    return error < 0 ? (int)error : ((int)flags & O_NONBLOCK) != 0;
}

int
connect_open(const struct sockaddr *address, socklen_t length)
{
    const int fd =
        (int)sys_socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fd;
    const int on = 1;
    if (address->sa_family != AF_UNIX)
        (void)sys_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    int error = (int)sys_connect(fd, address, length);
    if (error == -EINPROGRESS)
        error = 0;
    if (error == 0) /* every operation says by itself whether it may wait */
        error = descriptor_set_nonblocking(fd, 0);
    if (error < 0) {
        (void)sys_close(fd);
        return error;
    }
    return fd;
}

void
connect_begun(struct berth_loop *loop, struct berth_slot *slot, berth_token *token)
{
    if (loop->options.connect_timeout_ms != 0)
        timeouts_set(loop, slot, BERTH_TIMEOUT_CONNECT, loop->options.connect_timeout_ms);
    loop_due(loop);
    if (token != NULL)
        *token = berth_slot_token(slot, 0);
}

int
berth_connect(struct berth_loop *loop, const char *text, const struct berth_handlers *handlers,
              void *ctx, berth_token *token)
{
    struct address address;
    if (loop == NULL || handlers == NULL)
        return -EINVAL;
    if (loop->drain.state == DRAIN_OVER)
        return -ESHUTDOWN;
    if (loop_is_child(loop))
        return -ECHILD;
    if (address_parse(&address, text) != 0)
        return connect_by_name(loop, text, handlers, ctx, token);
    const int fd = connect_open(&address.to.base, address.length);
    if (fd < 0)
        return fd;
    struct berth_slot *slot = NULL;
    int error = conn_create_own(loop, fd, CONN_CONNECTING, handlers, ctx, &slot);
    if (error) {
        (void)sys_close(fd);
        return error;
    }
    error = loop->engine->connect_wait(loop, slot);
    if (error) {
        conn_discard(loop, slot, 1);
        return error;
    }
    connect_begun(loop, slot, token);
    return 0;
}

/** Whether `fd` is a connected stream socket: 0 or -errno. */
static int
check_stream(int fd)
{
    int type = 0;
    socklen_t size = sizeof(type);
    const intptr_t error = sys_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
    if (error < 0)
        return (int)error;
    if (type != SOCK_STREAM)
        return -EPROTOTYPE;
    struct sockaddr_storage peer;
    size = sizeof(peer);
    return (int)sys_getpeername(fd, (struct sockaddr *)&peer, &size);
}

int
berth_adopt(struct berth_loop *loop, int fd, const struct berth_handlers *handlers, void *ctx,
            berth_token *token)
{
    if (loop == NULL || handlers == NULL)
        return -EINVAL;
    if (loop_is_child(loop))
        return -ECHILD;
    if (fd < 0)
        return -EBADF;
    if (loop->drain.state == DRAIN_OVER)
        return -ESHUTDOWN;
    int error = check_stream(fd);
    struct berth_slot *slot = NULL;
    if (error == 0)
        error = conn_create_own(loop, fd, CONN_OPEN_DUE, handlers, ctx, &slot);
    if (error)
        return error;
    error = descriptor_set_nonblocking(fd, 0);
    if (error < 0) {
        conn_discard(loop, slot, 0);
        return error;
    }
    descriptor_drop(loop, slot);
    slot_cold(loop, slot)->was_nonblocking = (uint8_t)error;
    loop->stats.adopted++;
    conn_todo(loop, slot);
    if (token != NULL)
        *token = berth_slot_token(slot, 0);
    return 0;
}
