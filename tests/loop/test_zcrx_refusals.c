/*
 * Zero-copy receives that cannot be had: each step of the set-up refused, and what is said of it;
 * and connections for which the kernel does not do it.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/card.h"
#include "loop/crowd.h"

#ifdef BERTH_HAVE_LIBURING

#include "support/sys_groups.h"

/** For the first line: there may be no io_uring here. */
#define URING_OR_RETURN()                                                                          \
    if (!rig_has("uring"))                                                                         \
    return

static intptr_t
knows_not(struct io_uring *ring, int op)
{
    return op == BERTH_URING_OP_RECV_ZC ? 0 : sys_direct_uring_knows(ring, op);
}

/** What is refused, and the line that says so. */
struct refusal {
    const char *interface, *call;
    int error; /**< of the call, or with no call of the registration; 1: the operation is unknown */
    const char *said;
};

static const struct refusal refusals[] = {
    {"card0:3:1", "uring_init", -EINVAL, "a ring with completions of 32 bytes: Invalid argument"},
    {"card0:3:1", "uring_init", -ENOMEM, "a ring with completions of 32 bytes: "},
    {"card0:3:1", NULL, 1, "the operation RECV_ZC (Linux 6.15): Operation not supported"},
    {"card0:3:1", "uring_knows", -ENOMEM, "the operation RECV_ZC (Linux 6.15): "},
    {"nosuch:3:1", NULL, 0, "the interface: No such device"},
    {"card0:3:1", NULL, -EPERM,
     "registering queue 3 of card0: Operation not permitted; it takes "
     "CAP_NET_ADMIN"},
    {"card0:3:1", NULL, -ENODEV, "registering queue 3 of card0: No such device"},
    {"card0:3:1", NULL, -EOPNOTSUPP, "the driver cannot, the interface is no hardware"},
    {"card0:3:1", NULL, -ERANGE, "the interface has no queue of that number"},
    {"card0:3:1", NULL, -EINVAL, "header split may be off: 'ethtool -G INTERFACE tcp-data-split"},
    {"card0:3:1", NULL, -EEXIST, "is taken by XDP, AF_XDP or another program"},
    {"card0:3:1", NULL, -EBUSY, "is taken by XDP, AF_XDP or another program"},
    {"card0:3:1", NULL, -ENOMEM, "out of locked memory: raise 'ulimit -l'"},
    {"card0:3:1", NULL, -EFAULT, "registering queue 3 of card0: Bad address\n"},
};
#define REFUSALS (sizeof(refusals) / sizeof(refusals[0]))

/** The loop runs without it, on a ring like any other, and says which step failed. */
START_TEST(each_step_may_be_refused)
{
    const struct refusal *refusal = &refusals[_i];
    char text[4096];
    URING_OR_RETURN();
    card_begin();
    card.refuses = refusal->call == NULL && refusal->error < 0 ? refusal->error : 0;
    if (refusal->error == 1)
        berth_sys_uring_knows = knows_not;
    crowd_prepare("uring");
    crowd.options.zcrx = refusal->interface;
    if (refusal->call != NULL)
        faults_fail(refusal->call, 1, 1, refusal->error);
    crowd_begin(2);
    ck_assert_int_lt(berth_loop_explain(crowd.rig.loop, text, sizeof(text)), sizeof(text));
    ck_assert_msg(strstr(text, "zero-copy receive: not used: ") != NULL, "%s", text);
    ck_assert_msg(strstr(text, refusal->said) != NULL, "%s", text);
    if (refusal->call == NULL)
        ck_assert_uint_eq(between.init_flags & IORING_SETUP_CQE32, 0);
    crowd_stream(100000);
    ck_assert_uint_eq(card.registered + card.posted, 0);
    crowd_end();
    ck_assert_uint_eq(zcrx_areas_left(), 0);
    faults_reset();
}
END_TEST

/** No memory for the area or the ring: as above, and the loop still has its own. */
START_TEST(memory_may_be_refused)
{
    char text[4096];
    struct rlimit before;
    URING_OR_RETURN();
    if (test_is_slow())
        return; /* a checking tool has more address space mapped than the limit */
    card_begin();
    crowd_prepare("uring");
    crowd.options.zcrx = "card0:3:4096";
    ck_assert_int_eq(getrlimit(RLIMIT_AS, &before), 0);
    const struct rlimit limit = {.rlim_cur = UINT64_C(7) << 29, .rlim_max = before.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);
    struct berth_pool_options pool;
    berth_pool_options_init(&pool);
    pool.bytes_max = 64 << 20;
    crowd.options.pool = &pool;
    crowd.options.conns_max = 4096;
    crowd_begin(1);
    ck_assert_int_lt(berth_loop_explain(crowd.rig.loop, text, sizeof(text)), sizeof(text));
    ck_assert_msg(strstr(text, "zero-copy receive: not used: memory for the area: ") != NULL, "%s",
                  text);
    crowd_stream(100000);
    crowd_end();
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &before), 0);
    faults_reset();
}
END_TEST

/** Without anything refused on purpose: what this kernel says of interfaces that it has. */
START_TEST(this_kernel_says_why)
{
    char text[4096];
    URING_OR_RETURN();
    crowd_prepare("uring");
    crowd.options.zcrx = "lo:0:1"; /* no driver behind it, on any kernel */
    crowd_begin(2);
    ck_assert_int_lt(berth_loop_explain(crowd.rig.loop, text, sizeof(text)), sizeof(text));
    ck_assert_msg(strstr(text, "zero-copy receive: not used: ") != NULL, "%s", text);
    crowd_stream(100000);
    crowd_end();
}
END_TEST

/** Not for this socket, the kernel says: it is believed once and for all, and nothing is lost. */
START_TEST(sockets_may_be_refused)
{
    static const int errors[] = {-EINVAL, -EOPNOTSUPP, -EPROTONOSUPPORT};
    char text[4096];
    URING_OR_RETURN();
    card_begin();
    card.receive_refused = errors[_i];
    crowd_prepare("uring");
    card_options(&crowd.options, 1);
    crowd_begin(3);
    RIG_UNTIL(&crowd.rig, card.ended == 3, 50);
    card.receive_refused = 0;
    crowd_stream(300000);
    ck_assert_uint_eq(card.posted, 3);
    ck_assert_uint_gt(between.receives, 0);
    ck_assert_int_lt(berth_loop_explain(crowd.rig.loop, text, sizeof(text)), sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "; 3 connections refused"));
    (void)crowd_join(); /* and asks again for the next one */
    crowd_stream(100000);
    ck_assert_uint_gt(card.posted, 3);
    crowd_end();
    faults_reset();
}
END_TEST

/** Any other error is the connection's end, with that error. */
START_TEST(errors_are_told)
{
    static const int errors[] = {-ECONNRESET, -EFAULT, -ETIMEDOUT};
    URING_OR_RETURN();
    card_begin();
    crowd_prepare("uring");
    card_options(&crowd.options, 1);
    crowd_begin(1);
    card.receive_refused = errors[_i];
    RIG_UNTIL(&crowd.rig, crowd.members[0].closes == 1, 50);
    ck_assert_int_eq(crowd.members[0].reason, errors[_i]);
    crowd_end();
    faults_reset();
}
END_TEST

/** Every ring may be made with large completions: what the other tests do with it shows that. */
START_TEST(large_completions_can_be_forced)
{
    URING_OR_RETURN();
    berth_sys_uring_flags = IORING_SETUP_CQE32;
    between_begin();
    crowd_prepare("uring");
    crowd_begin(2);
    ck_assert_uint_ne(between.init_flags & IORING_SETUP_CQE32, 0);
    crowd_stream(100000);
    crowd_end();
    faults_reset();
    berth_sys_uring_flags = 0;
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("zcrx refusals");
    RIG_ADD_COUNTED(suite, each_step_may_be_refused, (int)REFUSALS);
    RIG_ADD_COUNTED(suite, memory_may_be_refused, 1);
    RIG_ADD_COUNTED(suite, this_kernel_says_why, 1);
    RIG_ADD_COUNTED(suite, sockets_may_be_refused, 3);
    RIG_ADD_COUNTED(suite, errors_are_told, 3);
    RIG_ADD_COUNTED(suite, large_completions_can_be_forced, 1);
    return test_run(suite);
}
#endif
