/*
 * What the kernel says in a socket's error queue of sends that it reads in place: numbers that
 * wrap, ranges in any order, late; real errors among them; and what it refuses. Readiness engines,
 * over calls that tests replace.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/in_place.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <time.h>

#include "loop/loop_internal.h"
#include "support/faults.h"
#include "support/sys_groups.h"

#ifdef __linux__
/* After the C library's struct timespec, which it uses. */
#include <linux/errqueue.h>

/** News that were kept back, and how many messages may be read now. */
static struct {
    unsigned kept;    /**< calls that the kernel is done with */
    unsigned deliver; /**< entries of `ranges` from `next` on */
    unsigned next;
    int keeps; /**< nothing gets through but that */
    struct {
        uint32_t first, last;
        uint8_t code;
    } ranges[PIECES_MAX];
    uint32_t ahead; /**< added to all numbers */
    int refuse;     /**< -errno of the next calls with MSG_ZEROCOPY */
    unsigned refusals, tries;
    int so_error; /**< of the next getsockopt */
} news;

static struct sock_extended_err *
extended(struct msghdr *message)
{
    struct cmsghdr *one = CMSG_FIRSTHDR(message);
    ck_assert_ptr_nonnull(one);
    return (struct sock_extended_err *)(void *)CMSG_DATA(one);
}

/** Puts a message of ours in the place of one of the kernel's. */
static intptr_t
deliver(struct msghdr *message)
{
    struct sock_extended_err *told;
    struct cmsghdr *one = CMSG_FIRSTHDR(message);
    one->cmsg_level = 0; /* SOL_IP */
    one->cmsg_type = 11; /* IP_RECVERR */
    one->cmsg_len = CMSG_LEN(sizeof(*told));
    told = extended(message);
    memset(told, 0, sizeof(*told));
    told->ee_origin = SO_EE_ORIGIN_ZEROCOPY;
    told->ee_code = news.ranges[news.next].code;
    told->ee_info = news.ranges[news.next].first;
    told->ee_data = news.ranges[news.next].last;
    message->msg_controllen = CMSG_SPACE(sizeof(*told));
    message->msg_flags = MSG_ERRQUEUE;
    news.next++;
    news.deliver--;
    return 0;
}

static intptr_t
news_recvmsg(int fd, struct msghdr *message, int flags)
{
    const size_t room = message->msg_controllen;
    ck_assert_int_eq(flags, MSG_ERRQUEUE | MSG_DONTWAIT);
    if (news.keeps && news.deliver > 0)
        return deliver(message);
    intptr_t got;
    while ((got = sys_direct_recvmsg(fd, message, flags)) >= 0) {
        struct sock_extended_err *told = extended(message);
        if (told->ee_origin != SO_EE_ORIGIN_ZEROCOPY)
            continue;
        news.kept += told->ee_data - told->ee_info + 1;
        told->ee_info += news.ahead;
        told->ee_data += news.ahead;
        if (!news.keeps)
            return got;
        message->msg_controllen = room;
    }
    return got;
}

static intptr_t
news_sendmsg(int fd, const struct msghdr *message, int flags)
{
    if (!(flags & MSG_ZEROCOPY))
        return sys_direct_sendmsg(fd, message, flags);
    news.tries++;
    if (news.refusals > 0) {
        news.refusals--;
        return news.refuse;
    }
    return sys_direct_sendmsg(fd, message, flags);
}

static intptr_t
news_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    const intptr_t result = sys_direct_getsockopt(fd, level, name, value, size);
    if (name == SO_ERROR && news.so_error != 0)
        *(int *)value = news.so_error;
    return result;
}

static void
begin_news(struct ends *ends, const char *engine, int insists)
{
    memset(&news, 0, sizeof(news));
    pieces_begin();
    berth_sys_recvmsg = news_recvmsg;
    berth_sys_sendmsg = news_sendmsg;
    berth_sys_getsockopt = news_getsockopt;
    prepare(ends, engine);
    ends->options.features = insists ? "+zerocopy" : NULL;
    begin(ends);
    widen(ends);
}

static void
end_news(struct ends *ends)
{
    RIG_UNTIL(&ends->rig, pieces.freed_count == pieces.count, TURNS);
    end(ends);
    faults_reset();
}

/** The first: io_uring has no error queue. */
#define READY_OR_RETURN(engine)                                                                    \
    RIG_ENGINE_OR_RETURN(engine);                                                                  \
    if (rig_is_uring(engine))                                                                      \
    return

/** Where the connection's count stands, which only the loop knows. */
static struct conn_zerocopy *
inside(const struct ends *ends)
{
    const struct berth_slot *slot = (const struct berth_slot *)(const void *)the_conn(ends);
    return &slot_cold(ends->rig.loop, slot)->zerocopy;
}

START_TEST(numbers_wrap)
{
    READY_OR_RETURN(engine);
    struct ends ends;
    begin_news(&ends, engine, 1);
    news.ahead = UINT32_MAX - 2;
    inside(&ends)->next_number = news.ahead;
    for (unsigned i = 0; i < 8; i++) {
        (void)piece_send(&ends);
        RIG_UNTIL(&ends.rig, berth_conn_queued(the_conn(&ends)) == 0, TURNS);
    }
    ck_assert_uint_eq(inside(&ends)->next_number, 5);
    pieces_read(&ends);
    RIG_UNTIL(&ends.rig, pieces.freed_count == 8, TURNS);
    ck_assert_uint_eq(copies_of(&ends).sent_copied_anyway, ends.queued);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_notifications, 8);
    end_news(&ends);
}
END_TEST

/** One more piece makes the kernel say something, which lets so many messages of ours through. */
static void
let_through(struct ends *ends, unsigned count)
{
    const unsigned kept = news.kept;
    (void)piece_through(ends);
    RIG_UNTIL(&ends->rig, news.kept > kept, TURNS);
    news.deliver = count;
    (void)piece_through(ends);
    RIG_UNTIL(&ends->rig, news.deliver == 0, TURNS);
}

START_TEST(ranges_in_any_order)
{
    READY_OR_RETURN(engine);
    struct ends ends;
    begin_news(&ends, engine, 1);
    news.keeps = 1;
    for (unsigned i = 0; i < 6; i++)
        (void)piece_through(&ends);
    RIG_UNTIL(&ends.rig, news.kept == 6, TURNS);
    ck_assert_uint_eq(pieces.freed_count, 0);
    news.ranges[0].first = news.ranges[0].last = 5;
    news.ranges[1].first = 1;
    news.ranges[1].last = 3;
    news.ranges[1].code = SO_EE_CODE_ZEROCOPY_COPIED;
    news.ranges[2].first = 100; /* nobody's */
    news.ranges[2].last = 200;
    news.ranges[3].first = news.ranges[3].last = 4; /* behind it the one from long ago again */
    news.ranges[4].first = news.ranges[4].last = 5;
    news.ranges[5].first = 0;
    news.ranges[5].last = 9;
    let_through(&ends, 1);
    ck_assert_uint_eq(pieces.freed_count, 1);
    ck_assert_int_eq(pieces.freed[5], 1);
    ck_assert_uint_eq(copies_of(&ends).sent_in_place, PIECE_BYTES);
    let_through(&ends, 1);
    ck_assert_uint_eq(pieces.freed_count, 4);
    ck_assert(pieces.freed[1] && pieces.freed[2] && pieces.freed[3]);
    ck_assert_uint_eq(copies_of(&ends).sent_copied_anyway, 3 * PIECE_BYTES);
    news.deliver = 3;
    (void)piece_through(&ends);
    RIG_UNTIL(&ends.rig, news.deliver == 0, TURNS);
    ck_assert_uint_eq(pieces.freed_count, 5);
    ck_assert_int_eq(pieces.freed[4], 1);
    news.ranges[5].last = pieces.count; /* all that there were, and the next */
    news.deliver = 1;
    (void)piece_through(&ends);
    RIG_UNTIL(&ends.rig, pieces.freed_count == pieces.count, TURNS);
    end_news(&ends);
}
END_TEST

START_TEST(refusals_are_copied)
{
    static const struct {
        int error, for_good;
    } rows[] = {{-ENOBUFS, 0}, {-ENOMEM, 0}, {-EOPNOTSUPP, 1}, {-EINVAL, 1}};
    READY_OR_RETURN(engine);
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct ends ends;
        begin_news(&ends, engine, 1);
        news.refuse = rows[i].error;
        news.refusals = 1;
        (void)piece_through(&ends);
        ck_assert_uint_eq(pieces.freed_count, 1);
        ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_refused, 1);
        ck_assert_uint_eq(copies_of(&ends).sent_kernel, PIECE_BYTES);
        (void)piece_through(&ends);
        ck_assert_uint_eq(news.tries, rows[i].for_good ? 1 : 2);
        ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, rows[i].for_good ? 0 : 1);
        end_news(&ends);
    }
}
END_TEST

START_TEST(no_room_for_news)
{
    READY_OR_RETURN(engine);
    struct ends ends;
    begin_news(&ends, engine, 1);
    news.refuse = -ENOBUFS; /* net.core.optmem_max is tiny */
    news.refusals = UINT32_MAX;
    for (unsigned i = 0; i < 10; i++)
        (void)piece_through(&ends);
    ck_assert_uint_eq(pieces.freed_count, 10);
    ck_assert_uint_eq(copies_of(&ends).sent_kernel, ends.queued);
    ck_assert_uint_eq(rig_stats(&ends.rig).zerocopy_sends, 0);
    end_news(&ends);
}
END_TEST

static intptr_t
no_such_option(int fd, int level, int name, const void *value, socklen_t size)
{
    return name == SO_ZEROCOPY ? -ENOPROTOOPT : sys_direct_setsockopt(fd, level, name, value, size);
}

START_TEST(sockets_without_the_option)
{
    READY_OR_RETURN(engine);
    struct ends ends;
    begin_news(&ends, engine, 1);
    berth_sys_setsockopt = no_such_option;
    for (unsigned i = 0; i < 3; i++)
        (void)piece_through(&ends);
    ck_assert_uint_eq(news.tries, 0);
    ck_assert_uint_eq(copies_of(&ends).sent_kernel, ends.queued);
    end_news(&ends);
}
END_TEST

START_TEST(somebody_has_counted_before)
{
    READY_OR_RETURN(engine);
    struct ends ends;
    const int yes = 1;
    begin_news(&ends, engine, 1);
    (void)piece_through(&ends);
    RIG_UNTIL(&ends.rig, pieces.freed_count == 1, TURNS);
    ck_assert_uint_eq(news.tries, 1);
    /* Another, that was used before it came to us: nobody knows its count. */
    const int passive = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    memset(&address, 0, sizeof(address));
    address.ss_family = AF_INET;
    ck_assert_int_eq(bind(passive, (struct sockaddr *)&address, sizeof(struct sockaddr_in)), 0);
    ck_assert_int_eq(listen(passive, 1), 0);
    ck_assert_int_eq(getsockname(passive, (struct sockaddr *)&address, &size), 0);
    const int active = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(active, (struct sockaddr *)&address, size), 0);
    ck_assert_int_eq(setsockopt(active, SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof(yes)), 0);
    const int other = accept(passive, NULL, NULL);
    ck_assert_int_ge(other, 0);
    ck_assert_int_eq(berth_conn_abort(the_conn(&ends)), 0);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ends.closes = 0;
    ck_assert_int_eq(close(ends.client), 0);
    ends.client = other;
    ends.queued = ends.read = 0;
    ck_assert_int_eq(berth_adopt(ends.rig.loop, active, &ends_callbacks, &ends, NULL), 0);
    RIG_UNTIL(&ends.rig, ends.opens == 2, TURNS);
    (void)piece_through(&ends);
    ck_assert_uint_eq(news.tries, 1);
    ck_assert_uint_eq(pieces.freed_count, 2);
    ck_assert_int_eq(close(passive), 0);
    end_news(&ends);
}
END_TEST

START_TEST(an_error_behind_the_news)
{
    READY_OR_RETURN(engine);
    struct ends ends;
    begin_news(&ends, engine, 1);
    news.so_error = ETIMEDOUT;
    (void)piece_through(&ends);
    RIG_UNTIL(&ends.rig, ends.closes == 1, TURNS);
    ck_assert_int_eq(ends.reason, -ETIMEDOUT);
    end_news(&ends);
}
END_TEST

START_TEST(news_are_no_failure)
{
    READY_OR_RETURN(engine);
    struct ends ends;
    begin_news(&ends, engine, 1);
    /* Receiving, and not receiving: neither fails, and nothing spins when all is said. */
    for (unsigned way = 0; way < 2; way++) {
        if (way == 1)
            ck_assert_int_eq(berth_conn_credit(the_conn(&ends), 0), 0);
        (void)piece_through(&ends);
        RIG_UNTIL(&ends.rig, pieces.freed_count == pieces.count, TURNS);
        for (unsigned i = 0; i < 5; i++)
            (void)rig_turn(&ends.rig, 0);
        const uint64_t before = rig_stats(&ends.rig).syscalls;
        for (unsigned i = 0; i < 10; i++)
            ck_assert_int_eq(rig_turn(&ends.rig, 1), 0);
        ck_assert_uint_le(rig_stats(&ends.rig).syscalls - before, 10);
    }
    ck_assert_uint_eq(ends.closes, 0);
    ck_assert_int_eq(berth_conn_credit(the_conn(&ends), BERTH_CREDIT_UNLIMITED), 0);
    client_writes(&ends, 100);
    RIG_UNTIL(&ends.rig, ends.received == ends.written, TURNS);
    end_news(&ends);
}
END_TEST

/* ---- the limits of the process -------------------------------------------------------------- */

static intptr_t
may_not(void)
{
    return 0;
}

static void
with_little_memory_to_lock(const char *engine)
{
    const struct rlimit little = {256 << 10, 256 << 10};
    struct berth_loop_options options;
    struct berth_loop *loop = NULL;
    char text[4096];
    berth_sys_may_lock_memory = may_not;
    RIG_MUST(setrlimit(RLIMIT_MEMLOCK, &little) == 0);
    rig_options(&options, engine, NULL);
    RIG_MUST(berth_loop_create(&loop, &options) == 0);
    RIG_MUST(berth_loop_explain(loop, text, sizeof(text)) < (int)sizeof(text));
    RIG_MUST(strstr(text, "at most 131072 bytes at a time, 32768 of one connection") != NULL);
    RIG_MUST(berth_loop_destroy(loop) == 0);
}

START_TEST(half_of_what_may_be_locked)
{
    RIG_ENGINE_OR_RETURN(engine);
    int skipped;
    RIG_IN_CHILD(skipped, with_little_memory_to_lock(engine));
    ck_assert_int_eq(skipped, 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("zerocopy news");
    RIG_ADD(suite, numbers_wrap);
    RIG_ADD(suite, ranges_in_any_order);
    RIG_ADD(suite, refusals_are_copied);
    RIG_ADD(suite, no_room_for_news);
    RIG_ADD(suite, sockets_without_the_option);
    RIG_ADD(suite, somebody_has_counted_before);
    RIG_ADD(suite, an_error_behind_the_news);
    RIG_ADD(suite, news_are_no_failure);
    RIG_ADD(suite, half_of_what_may_be_locked);
    return test_run(suite);
}

#else

int
main(void)
{
    return 77;
}

#endif
