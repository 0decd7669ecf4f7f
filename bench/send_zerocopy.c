/*
 * Sending with MSG_ZEROCOPY: the kernel takes references to the pages, numbers the calls, and says
 * on the socket's error queue which calls it is done with, and whether it copied after all (on
 * loopback it does). The copies counted are those.
 *
 * The invariant: `pending` holds the bytes of every call not yet spoken of, at most PENDING_MAX.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

/* After the C library's struct timespec, which it uses. */
#include <linux/errqueue.h>

#include "stream.h"

/** Calls under way: a power of two. A program has so many buffers, and must wait for one. */
#define PENDING_MAX 64u
/** The error queue is read after so many calls: it merges notifications. */
#define LOOK_EVERY 16u

struct sender {
    struct stream_side *side;
    uint32_t next;   /**< number of the next call; wraps, as the kernel's does */
    uint32_t oldest; /**< the first one not yet spoken of */
    uint32_t pending[PENDING_MAX];
};

static void
settle(struct sender *sender, const struct sock_extended_err *news)
{
    if (news->ee_origin != SO_EE_ORIGIN_ZEROCOPY || news->ee_errno != 0)
        return;
    const bool copied = (news->ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0;
    uint32_t count = news->ee_data - news->ee_info + 1;
    for (uint32_t at = news->ee_info; count > 0 && count <= PENDING_MAX; count--, at++) {
        const uint32_t bytes = sender->pending[at % PENDING_MAX];
        stream_notified(sender->side, bytes, copied);
        sender->pending[at % PENDING_MAX] = 0;
    }
    while (sender->oldest != sender->next && sender->pending[sender->oldest % PENDING_MAX] == 0)
        sender->oldest++;
}

/** Reads the error queue until it is empty. 0 or -errno. */
static int
news_read(struct sender *sender)
{
    for (;;) {
        char control[128];
        struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
        sender->side->counters.syscalls++;
        if (recvmsg(sender->side->fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            return errno == EAGAIN ? 0 : -errno;
        for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one != NULL;
             one = CMSG_NXTHDR(&message, one)) {
            struct sock_extended_err news;
            if (one->cmsg_level != SOL_IP || one->cmsg_type != IP_RECVERR)
                continue;
            memcpy(&news, CMSG_DATA(one), sizeof news);
            settle(sender, &news);
        }
    }
}

/** Waits for news, for a while, and reads it. An error without news is not a failure. */
static int
news_wait(struct sender *sender)
{
    struct pollfd waiting = {.fd = sender->side->fd, .events = 0};
    sender->side->counters.syscalls++;
    if (poll(&waiting, 1, STREAM_BLOCK_MS) < 0 && errno != EINTR)
        return -errno;
    if (waiting.revents & POLLHUP)
        return -ECONNRESET;
    return news_read(sender);
}

/** Over the limits of optmem_max or locked memory: wait for news, or copy if none can come. */
static int
out_of_room(struct sender *sender, size_t bytes)
{
    struct stream_side *side = sender->side;
    side->counters.enobufs++;
    if (sender->oldest != sender->next)
        return news_wait(sender);
    const ssize_t sent = send(side->fd, side->source + side->source_at, bytes, MSG_NOSIGNAL);
    side->counters.syscalls++;
    if (sent < 0)
        return stream_call_failed(-errno);
    stream_sent(side, (size_t)sent);
    stream_settled(side, (size_t)sent, (size_t)sent);
    return 0;
}

static int
send_next(struct sender *sender)
{
    struct stream_side *side = sender->side;
    if (sender->next - sender->oldest == PENDING_MAX)
        return news_wait(sender);
    const size_t bytes = stream_source_piece(side, side->path->bytes);
    const ssize_t sent =
        send(side->fd, side->source + side->source_at, bytes, MSG_ZEROCOPY | MSG_NOSIGNAL);
    side->counters.syscalls++;
    if (sent < 0)
        return errno == ENOBUFS ? out_of_room(sender, bytes) : stream_call_failed(-errno);
    stream_sent(side, (size_t)sent);
    sender->pending[sender->next++ % PENDING_MAX] = (uint32_t)sent;
    return sender->next % LOOK_EVERY == 0 ? news_read(sender) : 0;
}

int
send_zerocopy_run(struct stream_side *side)
{
    const int yes = 1;
    struct sender sender = {.side = side};
    if (setsockopt(side->fd, SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof yes) != 0)
        return -errno;
    int error = stream_source_make(side);
    if (error != 0)
        return error;
    stream_ready(side);
    while (error == 0 && stream_goes_on(side))
        error = send_next(&sender);
    return error > 0 || error == -ECONNRESET || error == -EPIPE ? 0 : error;
}
