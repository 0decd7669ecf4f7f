/*
 * Datagrams when the kernel refuses, on every engine: sends, receives, and every call that opening
 * a socket makes. And what kernels do for many datagrams at once, or will not: cut what is sent,
 * merge what is received.
 *
 * SPDX-License-Identifier: MIT
 */
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#ifdef BERTH_HAVE_LIBURING
#define BERTH_SYS_URING
#endif
#include "loop/udp_rig.h"

#include "loop/loop_internal.h"
#include "os/sys.h"
#include "support/faults.h"

/* ---- sends that fail ------------------------------------------------------------------------ */

/** Which sends are to fail: as completions on io_uring, as calls elsewhere. */
static struct {
    unsigned nth, times, seen, hit;
    int error;
} plan;

#ifdef BERTH_HAVE_LIBURING
/** Completions up to here have been looked at already, once there were any: the kernel's count. */
static unsigned looked_at;
static int has_looked;

static intptr_t
patching_wait(struct io_uring *ring, struct io_uring_cqe **completion, unsigned count,
              struct __kernel_timespec *timeout)
{
    const intptr_t result = sys_direct_uring_wait(ring, completion, count, timeout);
    const unsigned head = *ring->cq.khead, tail = head + io_uring_cq_ready(ring);
    unsigned at = has_looked && (int)(looked_at - head) > 0 ? looked_at : head;
    for (; at != tail; at++) {
        struct io_uring_cqe *entry =
            &ring->cq.cqes[(size_t)(at & *ring->cq.kring_mask) << io_uring_cqe_shift(ring)];
        if (berth_token_op(entry->user_data) != OP_DATAGRAM_SEND)
            continue;
        plan.seen++;
        if (plan.seen < plan.nth || plan.seen - plan.nth >= plan.times)
            continue;
        plan.hit++;
        entry->res = plan.error;
    }
    looked_at = tail;
    has_looked = 1;
    return result;
}
#endif

/** The nth send from now on fails, and the `times - 1` after it. On io_uring it goes out besides.
 */
static void
fail_sends(const char *engine, unsigned nth, unsigned times, int error)
{
    memset(&plan, 0, sizeof(plan));
    plan.nth = nth;
    plan.times = times;
    plan.error = error;
#ifdef BERTH_HAVE_LIBURING
    has_looked = 0; /* it may be another ring */
    if (strncmp(engine, "uring", 5) == 0) {
        berth_sys_uring_wait = patching_wait;
        return;
    }
#endif
    (void)engine;
    faults_fail("sendmmsg", nth, times, error);
}

static unsigned
sends_failed(void)
{
    const unsigned hit = plan.hit + faults_hit("sendmmsg");
    faults_reset();
    return hit;
}

START_TEST(the_kernel_is_full)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 0};
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    const int client = udp_client(NULL);
    const struct sockaddr_in to = udp_client_where(client);
    const int uring = strncmp(engine, "uring", 5) == 0;
    (void)rig_turn(&rig, 0);
    fail_sends(engine, uring ? 20 : 2, uring ? 10 : 1, -EAGAIN);
    for (unsigned i = 0; i < 100; i++)
        ck_assert_int_eq(udp_send_to(udp, &to, &i, sizeof(i)), 0);
    ck_assert_uint_eq(berth_udp_queued(udp), 100);
    RIG_UNTIL(&rig, berth_udp_queued(udp) == 0, 100);
    ck_assert_uint_eq(sends_failed(), uring ? 10 : 1);
    ck_assert_uint_eq(udp_count(client), uring ? 110 : 100);
    ck_assert_uint_eq(rig_stats(&rig).datagrams_sent, 100);
    ck_assert_uint_eq(rig_stats(&rig).datagrams_lost, 0);
    ck_assert_uint_eq(seen.errors, 0);
    /* And while it is being closed. */
    fail_sends(engine, 1, 1, -EAGAIN);
    ck_assert_int_eq(udp_send_to(udp, &to, "last", 4), 0);
    udp_close(&rig, udp, &seen);
    ck_assert_uint_eq(sends_failed(), 1);
    ck_assert_uint_eq(udp_count(client), uring ? 2 : 1);
    ck_assert_int_eq(close(client), 0);
    rig_end(&rig);
}
END_TEST

START_TEST(a_send_fails_and_the_socket_goes_on)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 1};
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    const int client = udp_client(udp);
    const struct sockaddr_in to = udp_client_where(client);
    /* To everybody, which needs an option that is not set: what the kernel refuses by itself. */
    struct sockaddr_in everybody = {.sin_family = AF_INET, .sin_port = htons(9)};
    everybody.sin_addr.s_addr = htonl(INADDR_BROADCAST);
    ck_assert_int_eq(udp_send_to(udp, &to, "before", 6), 0);
    ck_assert_int_eq(udp_send_to(udp, &everybody, "nobody", 6), 0);
    ck_assert_int_eq(udp_send_to(udp, &everybody, "", 0), 0);
    ck_assert_int_eq(udp_send_to(udp, &to, "after", 5), 0);
    RIG_UNTIL(&rig, berth_udp_queued(udp) == 0, 100);
    ck_assert_uint_eq(udp_count(client), 2);
    ck_assert_uint_eq(seen.errors, 2);
    ck_assert_uint_eq(seen.lost, 2);
    ck_assert_msg(seen.error == -EACCES || seen.error == -ENETUNREACH, "%d", seen.error);
    ck_assert_uint_eq(rig_stats(&rig).datagrams_lost, 2);
    ck_assert_uint_eq(rig_stats(&rig).datagrams_sent, 2);

    fail_sends(engine, 1, 1, -EPERM);
    ck_assert_int_eq(udp_send_to(udp, &to, "no", 2), 0);
    RIG_UNTIL(&rig, berth_udp_queued(udp) == 0, 100);
    ck_assert_uint_eq(sends_failed(), 1);
    ck_assert_uint_eq(seen.lost, 3);
    ck_assert_int_eq(seen.error, -EPERM);
    (void)udp_count(client);
    rig_write(client, "still here", 10);
    RIG_UNTIL(&rig, udp_count(client) == 1, 100);
    udp_close(&rig, udp, &seen);
    ck_assert_int_eq(close(client), 0);
    rig_end(&rig);
}
END_TEST

/* ---- many at once --------------------------------------------------------------------------- */

#define SEGMENTS 11
#define SEGMENT_BYTES 1000
#define SEGMENTED_BYTES ((SEGMENTS - 1) * SEGMENT_BYTES + 123)

static unsigned char segmented[SEGMENTED_BYTES];

/** The segments arrive one by one, in order. */
static void
read_segments(const struct rig *rig, int client)
{
    for (unsigned i = 0; i < SEGMENTS; i++) {
        const uint32_t expected = i + 1 < SEGMENTS ? SEGMENT_BYTES : 123;
        unsigned char data[2 * SEGMENT_BYTES];
        intptr_t got = -EAGAIN;
        RIG_UNTIL(rig, (got = rig_read(client, data, sizeof(data))) != -EAGAIN, 100);
        ck_assert_int_eq(got, (intptr_t)expected);
        ck_assert_mem_eq(data, segmented + (size_t)i * SEGMENT_BYTES, expected);
    }
}

/** `cut` 0: the socket has been made to believe that the kernel does not cut. */
static void
try_segments(const char *engine, int cut, int error)
{
    struct rig rig;
    struct seen seen = {.echo = 0};
    udp_rig_begin(&rig, engine, 0);
    if (!cut)
        faults_fail("getsockopt", 1, 1, -ENOPROTOOPT);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    faults_reset();
    const int client = udp_client(NULL);
    const struct sockaddr_in to = udp_client_where(client);
    const struct sockaddr *address = (const struct sockaddr *)&to;
    for (unsigned i = 0; i < SEGMENTED_BYTES; i++)
        segmented[i] = (unsigned char)(i * 3 + (i >> 7));
    if (error != 0)
        fail_sends(engine, 1, 1, error);
    ck_assert_int_eq(berth_udp_send_segments(udp, address, sizeof(to), segmented, SEGMENTED_BYTES,
                                             SEGMENT_BYTES),
                     0);
    const unsigned queued = berth_udp_queued(udp);
    ck_assert_uint_eq(queued, cut ? 1 : SEGMENTS);
    RIG_UNTIL(&rig, berth_udp_queued(udp) == 0, 100);
    read_segments(&rig, client);
    struct berth_loop_stats stats = rig_stats(&rig);
    ck_assert_uint_eq(stats.datagrams_sent, SEGMENTS);
    ck_assert_uint_eq(stats.datagrams_segmented, cut && error == 0 ? SEGMENTS : 0);
    if (error != 0) {
        ck_assert_uint_eq(sends_failed(), 1);
        if (strncmp(engine, "uring", 5) == 0)
            read_segments(&rig, client); /* it had gone out besides */
    }
    /* The same from a lease, and what one segment holds. */
    struct berth_lease lease;
    ck_assert_int_eq(
        berth_pool_get(berth_loop_pool(rig.loop), BERTH_CLASS_16K, BERTH_FOR_ACTIVE, &lease), 0);
    memcpy(berth_lease_data(berth_loop_pool(rig.loop), lease), segmented, SEGMENTED_BYTES);
    lease.length = SEGMENTED_BYTES;
    ck_assert_int_eq(berth_udp_send_lease(udp, address, sizeof(to), lease, SEGMENT_BYTES), 0);
    ck_assert_int_eq(
        berth_udp_send_segments(udp, address, sizeof(to), segmented, SEGMENT_BYTES, SEGMENT_BYTES),
        0);
    RIG_UNTIL(&rig, berth_udp_queued(udp) == 0, 100);
    read_segments(&rig, client);
    ck_assert_uint_eq(udp_count(client), 1);
    ck_assert_uint_eq(seen.errors, 0);
    ck_assert_uint_eq(rig_stats(&rig).datagrams_sent, 2 * SEGMENTS + 1);
    udp_close(&rig, udp, &seen);
    ck_assert_int_eq(close(client), 0);
    rig_end(&rig);
}

/** Without a kernel that cuts, more segments than the queue holds are not a matter of waiting. */
START_TEST(more_segments_than_a_queue_holds)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.datagrams = 0};
    struct berth_udp_options options;
    udp_rig_begin(&rig, engine, 0);
    berth_udp_options_init(&options);
    options.queue_max = 8;
    faults_fail("getsockopt", 1, 1, -ENOPROTOOPT);
    struct berth_udp *udp = udp_open(&rig, &seen, &options);
    faults_reset();
    const int client = udp_client(NULL);
    const struct sockaddr_in to = udp_client_where(client);
    const struct sockaddr *address = (const struct sockaddr *)&to;
    ck_assert_int_eq(berth_udp_send_segments(udp, address, sizeof(to), "123456789", 9, 1),
                     -EMSGSIZE);
    ck_assert_int_eq(berth_udp_send_segments(udp, address, sizeof(to), "12345", 5, 1), 0);
    ck_assert_int_eq(berth_udp_send_segments(udp, address, sizeof(to), "1234", 4, 1), -ENOBUFS);
    ck_assert_uint_eq(berth_udp_queued(udp), 5);
    RIG_UNTIL(&rig, seen.drained == 1, 100);
    ck_assert_uint_eq(udp_count(client), 5);
    udp_close(&rig, udp, &seen);
    ck_assert_int_eq(close(client), 0);
    rig_end(&rig);
}
END_TEST

/** Whether this kernel has an option of UDP's; says so if not. */
static int
kernel_has(int option, const char *name)
{
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int value = 0;
    socklen_t size = sizeof(value);
    ck_assert_int_ge(fd, 0);
    const int has = getsockopt(fd, IPPROTO_UDP, option, &value, &size) == 0;
    ck_assert_int_eq(close(fd), 0);
    if (!has)
        printf("skipped: this kernel has no %s\n", name);
    return has;
}

START_TEST(segments)
{
    RIG_ENGINE_OR_RETURN(engine);
    try_segments(engine, 0, 0);
    if (!kernel_has(103, "UDP_SEGMENT"))
        return;
    try_segments(engine, 1, 0);
    try_segments(engine, 1, -EIO);    /* a device that cannot */
    try_segments(engine, 1, -EINVAL); /* a path that is too narrow */
}
END_TEST

static void
look_segments(struct berth_udp *udp, const struct berth_datagram *datagram)
{
    (void)udp;
    ck_assert_uint_eq(datagram->span.length, SEGMENTED_BYTES);
    ck_assert_mem_eq(datagram->span.data, segmented, SEGMENTED_BYTES);
}

START_TEST(merged_datagrams_say_so)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen from = {.echo = 0}, to = {.look = look_segments};
    struct berth_udp_options options;
    struct sockaddr_in6 where;
    char text[4096];
    if (!kernel_has(103, "UDP_SEGMENT") || !kernel_has(104, "UDP_GRO"))
        return;
    berth_udp_options_init(&options);
    options.receive_merged = 1;
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *sender = udp_open(&rig, &from, NULL);
    struct berth_udp *receiver = udp_open(&rig, &to, &options);
    const uint32_t length = udp_where(receiver, &where);
    for (unsigned round = 1; round <= 50; round++) {
        for (unsigned i = 0; i < SEGMENTED_BYTES; i++)
            segmented[i] = (unsigned char)(i * round + (i >> 7));
        ck_assert_int_eq(berth_udp_send_segments(sender, (struct sockaddr *)&where, length,
                                                 segmented, SEGMENTED_BYTES, SEGMENT_BYTES),
                         0);
        RIG_UNTIL(&rig, to.datagrams == round, 100);
        ck_assert_uint_eq(to.segment_bytes, SEGMENT_BYTES);
        ck_assert_uint_eq(to.merged, round * SEGMENTS);
    }
    ck_assert_uint_eq(rig_stats(&rig).datagrams_received, 50 * SEGMENTS);
    ck_assert_uint_eq(rig_stats(&rig).datagrams_segmented, 50 * SEGMENTS);
    ck_assert_int_gt(berth_loop_explain(rig.loop, text, sizeof(text)), 0);
    ck_assert_ptr_nonnull(strstr(text, "2 sockets; 1 receive into 64 KiB buffers, for 1 of them"));
    ck_assert_ptr_nonnull(strstr(text, "cut by the kernel (UDP_SEGMENT) for 2 sockets"));
    udp_close(&rig, sender, &from);
    udp_close(&rig, receiver, &to);
    rig_end(&rig);
}
END_TEST

/* ---- calls that fail ------------------------------------------------------------------------ */

START_TEST(a_receive_fails)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct seen seen = {.echo = 1};
    if (strncmp(engine, "uring", 5) == 0)
        return; /* no call: see nobody_listens_there and buffers_run_out_and_come_back */
    udp_rig_begin(&rig, engine, 0);
    struct berth_udp *udp = udp_open(&rig, &seen, NULL);
    const int client = udp_client(udp);
    static const int passing[] = {-EAGAIN, -EINTR, -ENOMEM, -ECONNREFUSED};
    for (unsigned i = 0; i < 4; i++) {
        const unsigned errors = seen.errors;
        faults_fail("recvmmsg", 1, 1, passing[i]);
        rig_write(client, "x", 1);
        RIG_UNTIL(&rig, udp_count(client) == 1, 100);
        ck_assert_uint_eq(faults_hit("recvmmsg"), 1);
        ck_assert_uint_eq(seen.errors - errors, i >= 2);
        faults_reset();
    }
    ck_assert_uint_eq(seen.lost, 0);
    faults_fail("recvmmsg", 1, 1, -EBADF);
    rig_write(client, "x", 1);
    RIG_UNTIL(&rig, seen.closes == 1, 100);
    faults_reset();
    ck_assert_int_eq(seen.reason, -EBADF);
    ck_assert_int_eq(close(client), 0);
    rig_end(&rig);
}
END_TEST

START_TEST(opening_fails_at_every_place)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct {
        const char *call;
        int error;
    } calls[] = {{"socket", -EMFILE},
                 {"setsockopt", -ENOPROTOOPT},
                 {"getsockopt", -ENOPROTOOPT},
                 {"bind", -EADDRINUSE},
                 {"connect", -ENETUNREACH},
                 {"getsockname", -ENOBUFS},
                 {"mmap", -ENOMEM},
                 {"mprotect", -ENOMEM},
#ifdef BERTH_HAVE_LIBURING
                 {"uring_register_buffers", -ENOMEM},
#endif
                 {"epoll_ctl", -ENOSPC}};
    const int peer = udp_client(NULL);
    const struct sockaddr_in where = udp_client_where(peer);
    char text[BERTH_ADDRESS_TEXT_MAX];
    ck_assert_int_eq(berth_udp_address_format((const struct sockaddr *)&where, sizeof(where), text,
                                              sizeof(text)),
                     0);
    struct berth_udp_options options;
    berth_udp_options_init(&options);
    options.peer = text;
    options.reuse_port = options.receive_merged = 1;
    options.kernel_receive_bytes = options.kernel_send_bytes = 65536;
    unsigned refused = 0;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        unsigned hit = 1;
        for (unsigned k = 1; hit > 0; k++) {
            struct rig rig;
            struct seen seen = {.echo = 0};
            struct berth_udp *udp = NULL;
            udp_rig_begin(&rig, engine, 0);
            (void)rig_turn(&rig, 0);
            const unsigned open = test_descriptors_open();
            faults_fail(calls[i].call, k, 1, calls[i].error);
            const int error = berth_udp_open(rig.loop, "udp://127.0.0.1:0", &seen_handlers, &seen,
                                             &options, &udp);
            hit = faults_hit(calls[i].call);
            faults_reset();
            ck_assert(error == 0 || (hit == 1 && error == calls[i].error));
            ck_assert_uint_eq(test_descriptors_open(), open + (error == 0));
            refused += error != 0;
            if (error == 0) {
                /* A source of slabs that has refused one is left in peace for some turns. */
                RIG_UNTIL(&rig, berth_udp_send(udp, NULL, 0, "x", 1) == 0, 200);
                RIG_UNTIL(&rig, udp_count(peer) == 1, 100);
                udp_close(&rig, udp, &seen);
            }
            rig_end(&rig);
        }
    }
    ck_assert_uint_ge(refused, 8);
    ck_assert_int_eq(close(peer), 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop udp faults");
    RIG_ADD(suite, the_kernel_is_full);
    RIG_ADD(suite, a_send_fails_and_the_socket_goes_on);
    RIG_ADD(suite, segments);
    RIG_ADD(suite, more_segments_than_a_queue_holds);
    RIG_ADD(suite, merged_datagrams_say_so);
    RIG_ADD(suite, a_receive_fails);
    RIG_ADD(suite, opening_fails_at_every_place);
    return test_run(suite);
}
