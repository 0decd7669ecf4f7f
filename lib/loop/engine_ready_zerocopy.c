/*
 * Sends that readiness engines have the kernel read in place (MSG_ZEROCOPY). It numbers the calls
 * of each socket that took bytes, from 0 on, and says in the socket's error queue which numbers it
 * is done with, and whether it copied after all. The queue makes the socket look as if it had
 * failed, so it is read before anybody asks what is wrong.
 *
 * The invariants: the next number is known, or the socket is left alone; while something is under
 * way the poller watches the socket, or it is looked after from time to time.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_SOCKET
#include "loop/loop_internal.h"

#include <string.h>

#include "loop/engine_ready.h"
#include "loop/send.h"
#include "os/sys.h"

#ifdef __linux__

/** What <linux/errqueue.h> has, which is no header for an engine without an interface. */
#define NEWS_ORIGIN_ZEROCOPY 5
#define NEWS_COPIED 1
struct news {
    uint32_t error;
    uint8_t origin, type, code, unused;
    uint32_t first, last;
};

/** Messages of the error queue that are read at a time; ours are 16 at most, others may have more.
 */
#define NEWS_MAX 1024

/** Leases sent by one system call. */
#define SEND_IOVECS_MAX 32

/** Before the first: the socket must be told, and its count must be known. 0 or -errno. */
static int
ask_socket(struct berth_loop *loop, struct berth_slot *slot)
{
    struct conn_zerocopy *conn = &slot_cold(loop, slot)->zerocopy;
    const int fd = berth_slot_fd(slot);
    const int on = 1;
    int set = 0;
    socklen_t size = sizeof(set);
    intptr_t error = 0;
    if (slot->class_id == CLASS_OWN) { /* others may have sent by it before */
        error = sys_getsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &set, &size);
        loop->stats.syscalls++;
    }
    if (error == 0 && set == 0)
        error = sys_setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on));
    loop->stats.syscalls++;
    if (error == 0 && set == 0)
        conn->flags |= ZEROCOPY_ASKED;
    else
        conn->flags |= ZEROCOPY_OFF;
    return conn->flags & ZEROCOPY_OFF ? -EOPNOTSUPP : 0;
}

/** One that neither receives nor waits to send may not be in the set: then nothing would tell. */
static void
watch(struct berth_loop *loop, struct berth_slot *slot)
{
    if (!(slot->state & CONN_WATCHED) && ready_update_interest(loop, slot) != 0)
        zerocopy_watch(loop, slot);
}

int
ready_zerocopy_send(struct berth_loop *loop, struct berth_slot *slot, size_t *asked,
                    intptr_t *result)
{
    struct conn_zerocopy *conn = &slot_cold(loop, slot)->zerocopy;
    struct iovec iov[SEND_IOVECS_MAX];
    struct zerocopy_ask ask;
    struct msghdr message;
    if (!zerocopy_begin(loop, slot, iov, SEND_IOVECS_MAX, &ask))
        return 0;
    if (!(conn->flags & ZEROCOPY_ASKED) && ask_socket(loop, slot) != 0) {
        zerocopy_undo(loop, slot, &ask);
        return 0;
    }
    memset(&message, 0, sizeof(message));
    message.msg_iov = iov;
    message.msg_iovlen = ask.count;
    const intptr_t sent =
        sys_sendmsg(berth_slot_fd(slot), &message, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_ZEROCOPY);
    loop->stats.syscalls++;
    if (sent <= 0) {
        zerocopy_undo(loop, slot, &ask);
        *result = sent;
        const int refused = zerocopy_refused(loop, slot, (int)sent);
        conn->flags &= (uint8_t)~ZEROCOPY_REFUSED; /* it is copied at once */
        return !refused;
    }
    (void)berth_slot_begin(slot);
    zerocopy_submitted(loop, slot, &ask);
    conn->sends->sends[ask.send].number = conn->next_number++;
    zerocopy_taken(loop, slot, ask.send, (size_t)sent, 1);
    watch(loop, slot);
    *asked = ask.bytes;
    *result = sent;
    return 1;
}

/** The kernel is done with these calls. Returns how many of them were known. */
static unsigned
settle(struct berth_loop *loop, struct berth_slot *slot, const struct news *news)
{
    const struct conn_zerocopy *conn = &slot_cold(loop, slot)->zerocopy;
    const uint32_t more = news->last - news->first; /* the numbers wrap */
    unsigned count = 0;
    for (unsigned i = 0; i < ZEROCOPY_SENDS_MAX && conn->sends != NULL; i++) {
        const struct zerocopy_send *send = &conn->sends->sends[i];
        if (send->state != ZEROCOPY_TAKEN || send->number - news->first > more)
            continue;
        count++;
        zerocopy_done(loop, slot, i,
                      news->code & NEWS_COPIED ? ZEROCOPY_COPIED : ZEROCOPY_IN_PLACE);
    }
    return count;
}

/** What one message of the error queue says. */
static void
read_message(struct berth_loop *loop, struct berth_slot *slot, struct msghdr *message)
{
    for (struct cmsghdr *one = CMSG_FIRSTHDR(message); one != NULL;
         one = CMSG_NXTHDR(message, one)) {
        const struct news *news = (const struct news *)(const void *)CMSG_DATA(one);
        if (one->cmsg_len >= CMSG_LEN(sizeof(*news)) && news->origin == NEWS_ORIGIN_ZEROCOPY &&
            news->error == 0)
            (void)settle(loop, slot, news);
    }
}

unsigned
ready_zerocopy_news(struct berth_loop *loop, struct berth_slot *slot)
{
    unsigned count = 0;
    while (count < NEWS_MAX) {
        _Alignas(struct cmsghdr) char control[256];
        struct msghdr message;
        memset(&message, 0, sizeof(message));
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        loop->stats.syscalls++;
        if (sys_recvmsg(berth_slot_fd(slot), &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0 ||
            !(message.msg_flags & MSG_ERRQUEUE))
            break; /* sockets that have no such queue do not say so */
        if (zerocopy_holds(loop, slot))
            read_message(loop, slot, &message);
        count++;
    }
    /* It may have been all that kept the connection from leaving. */
    if (count > 0 && slot->state & CONN_CREDIT && slot->in_flight == 0)
        slot->state |= CONN_TODO;
    return count;
}

#else

int
ready_zerocopy_send(struct berth_loop *loop, struct berth_slot *slot, size_t *asked,
                    intptr_t *result)
{
    (void)loop, (void)slot, (void)asked, (void)result;
    return 0;
}

unsigned
ready_zerocopy_news(struct berth_loop *loop, struct berth_slot *slot)
{
    (void)loop, (void)slot;
    return 0;
}

#endif
