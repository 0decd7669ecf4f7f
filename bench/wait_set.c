/*
 * Pairs of descriptors for case `waiting`: the ends that are waited for, and the far ends.
 *
 * A pair costs two descriptors, and a process may have only so many. So the far ends of those that
 * stay idle are handed to a child process, the holder, which keeps them open and does nothing else;
 * here they are closed as soon as the holder has them. An idle descriptor is then what it is in a
 * server: an open socket (or pipe) of its own whose peer lives elsewhere and is silent.
 *
 * The far ends that stay here are moved behind the readers, so that the readers' numbers are as
 * dense as they can be: select pays for the highest number, not for how many there are.
 *
 * SPDX-License-Identifier: MIT
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "wait.h"

/** Handed over in one message. Until then both ends are open here, beyond what was counted: well
 * below what bench_descriptors_fit leaves free. */
#define HAND_OVER 50u

/** The same order in every run. */
#define SHUFFLE_SEED 20011112u

/* ---- the holder --------------------------------------------------------------------------------
 */

union hand_over_space {
    char bytes[CMSG_SPACE(HAND_OVER * sizeof(int))];
    struct cmsghdr aligned;
};

/** Keeps what it is handed, answers each message with one byte, and ends when the other end does.
 */
__attribute__((noreturn)) static void
holder_main(int control, pid_t parent)
{
    static union hand_over_space space;
    char byte = 0;
    /* A terminal's Ctrl-C is for whoever measures; this one goes when that one is gone. */
    signal(SIGINT, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    for (;;) {
        struct iovec data = {&byte, 1};
        struct msghdr message = {
            .msg_iov = &data,
            .msg_iovlen = 1,
            .msg_control = space.bytes,
            .msg_controllen = sizeof space.bytes,
        };
        const ssize_t got = recvmsg(control, &message, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            _exit(0);
        byte = (message.msg_flags & MSG_CTRUNC) != 0; /* some did not fit its limit */
        if (send(control, &byte, 1, MSG_NOSIGNAL) != 1)
            _exit(1);
    }
}

static int
holder_start(struct wait_set *set)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return -errno;
    const pid_t parent = getpid();
    set->holder = fork();
    if (set->holder == 0) {
        close(ends[0]);
        holder_main(ends[1], parent);
    }
    const int error = set->holder < 0 ? -errno : 0;
    close(ends[1]);
    if (error != 0) {
        close(ends[0]);
        return error;
    }
    set->control = ends[0];
    return 0;
}

static void
holder_stop(struct wait_set *set)
{
    if (set->control < 0)
        return;
    close(set->control);
    set->control = -1;
    while (waitpid(set->holder, NULL, 0) < 0 && errno == EINTR)
        continue;
}

/** Hands `count` descriptors to the holder and closes them here, whatever becomes of it. */
static int
hand_over(struct wait_set *set, const int *descriptors, unsigned count)
{
    static union hand_over_space space;
    char byte = 0;
    struct iovec data = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = space.bytes,
        .msg_controllen = CMSG_SPACE(count * sizeof(int)),
    };
    if (count == 0)
        return 0;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), descriptors, count * sizeof(int));
    ssize_t did;
    do {
        did = sendmsg(set->control, &message, MSG_NOSIGNAL);
    } while (did < 0 && errno == EINTR);
    /* The answer comes before the next message: what is under way counts against a limit too. */
    while (did == 1 && (did = recv(set->control, &byte, 1, 0)) < 0 && errno == EINTR)
        did = 1;
    const int error = did < 0 ? -errno : did != 1 ? -EPIPE : byte != 0 ? -EMFILE : 0;
    for (unsigned i = 0; i < count; i++)
        close(descriptors[i]);
    return error;
}

/* ---- pairs -------------------------------------------------------------------------------------
 */

static void
shuffle(uint32_t *order, uint32_t count)
{
    uint64_t state = SHUFFLE_SEED;
    for (uint32_t i = 0; i < count; i++)
        order[i] = i;
    for (uint32_t i = count; i > 1; i--) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        const uint32_t j = (uint32_t)(state >> 33) % i;
        const uint32_t index = order[i - 1];
        order[i - 1] = order[j];
        order[j] = index;
    }
}

static int
set_allocate(struct wait_set *set)
{
    const uint32_t most = set->count;
    set->readers = malloc(most * sizeof *set->readers);
    set->writers = malloc(set->active * sizeof *set->writers);
    set->order = malloc(most * sizeof *set->order);
    set->ready = calloc(most, 1);
    for (uint32_t i = 0; i < most && set->readers != NULL; i++)
        set->readers[i] = -1;
    for (uint32_t i = 0; i < set->active && set->writers != NULL; i++)
        set->writers[i] = -1;
    const bool all = set->readers != NULL && set->writers != NULL && set->order != NULL;
    return all && set->ready != NULL ? 0 : -ENOMEM;
}

/** ends[0] is to be waited for, ends[1] to be written to. */
static int
pair_make(enum wait_kind kind, int ends[2])
{
    const int did = kind == WAIT_PIPES ? pipe2(ends, O_CLOEXEC)
                                       : socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
    return did == 0 ? 0 : -errno;
}

/** Moves a descriptor to a number above all readers, if there is one free. */
static int
move_up(int descriptor, uint32_t count)
{
    const int moved = fcntl(descriptor, F_DUPFD_CLOEXEC, (int)count + 2 * (int)HAND_OVER);
    if (moved < 0)
        return descriptor;
    close(descriptor);
    return moved;
}

static int
pairs_make(struct wait_set *set)
{
    int idle[HAND_OVER];
    unsigned waiting = 0;
    int error = 0;
    /* In which place of the order each index stands: below `active` it keeps its far end here. */
    uint32_t *place = malloc(set->count * sizeof *place);
    if (place == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < set->count; i++)
        place[set->order[i]] = i;
    for (uint32_t i = 0; i < set->count && error == 0; i++) {
        int ends[2] = {-1, -1};
        error = pair_make(set->kind, ends);
        if (error != 0)
            break;
        set->readers[i] = ends[0];
        if (place[i] < set->active) {
            set->writers[place[i]] = move_up(ends[1], set->count);
            continue;
        }
        idle[waiting++] = ends[1];
        if (waiting == HAND_OVER) {
            error = hand_over(set, idle, waiting);
            waiting = 0;
        }
    }
    if (error == 0) {
        error = hand_over(set, idle, waiting);
        waiting = 0;
    }
    while (waiting > 0)
        close(idle[--waiting]);
    free(place);
    return error;
}

static int
index_make(struct wait_set *set)
{
    for (uint32_t i = 0; i < set->count; i++) {
        if (set->readers[i] > set->descriptor_max)
            set->descriptor_max = set->readers[i];
    }
    set->index_of = malloc(((size_t)set->descriptor_max + 1) * sizeof *set->index_of);
    if (set->index_of == NULL)
        return -ENOMEM;
    memset(set->index_of, 0xFF, ((size_t)set->descriptor_max + 1) * sizeof *set->index_of);
    for (uint32_t i = 0; i < set->count; i++)
        set->index_of[set->readers[i]] = i;
    return 0;
}

int
wait_set_make(struct wait_set *set, enum wait_kind kind, uint32_t count, uint32_t active)
{
    memset(set, 0, sizeof *set);
    set->kind = kind;
    set->count = count;
    set->active = active < count ? active : count;
    set->control = -1;
    int error = set_allocate(set);
    if (error == 0)
        shuffle(set->order, set->count);
    if (error == 0 && set->active < set->count)
        error = holder_start(set);
    if (error == 0)
        error = pairs_make(set);
    if (error == 0)
        error = index_make(set);
    if (error != 0)
        wait_set_close(set);
    return error;
}

void
wait_set_close(struct wait_set *set)
{
    for (uint32_t i = 0; i < set->active && set->writers != NULL; i++) {
        if (set->writers[i] >= 0)
            close(set->writers[i]);
    }
    for (uint32_t i = 0; i < set->count && set->readers != NULL; i++) {
        if (set->readers[i] >= 0)
            close(set->readers[i]);
    }
    if (set->count > 0)
        holder_stop(set);
    free(set->readers);
    free(set->writers);
    free(set->order);
    free(set->index_of);
    free(set->ready);
    memset(set, 0, sizeof *set);
    set->control = -1;
}

int
wait_set_mode(struct wait_set *set, bool blocking)
{
    const int mode = blocking ? 0 : O_NONBLOCK;
    if (set->mode == mode)
        return 0;
    set->mode = -1;
    for (uint32_t i = 0; i < set->count; i++) {
        if (fcntl(set->readers[i], F_SETFL, mode) != 0)
            return -errno;
    }
    set->mode = mode;
    return 0;
}

void
wait_set_drain(struct wait_set *set)
{
    char bytes[WAIT_READ_BYTES];
    if (wait_set_mode(set, false) != 0)
        return;
    for (uint32_t i = 0; i < set->active; i++) {
        const uint32_t index = set->order[i];
        while (read(set->readers[index], bytes, sizeof bytes) > 0)
            continue;
        set->ready[index] = 0;
    }
}
