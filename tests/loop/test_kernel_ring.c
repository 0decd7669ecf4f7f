/*
 * The ring itself: what it is made with, what a kernel may refuse of that, how waiting can fail,
 * and completions that make no sense. Over a kernel in between (between.h), where the real one
 * cannot be made to do it.
 *
 * The facts, and the tests that force them:
 *   completions are run only by a wait, and every wait ends  every_wait_ends, lost_wake_ups
 *   DEFER_TASKRUN, bundles, limits may not be known          old_kernels
 *   room for completions: four per submission, each buffer   queue_is_long_enough
 *   a multishot poll may end, with no submission left        wake_ups_are_watched_again
 *   EBUSY means take what is there and ask again             busy_is_asked_again, test_faults
 *   -ENOSPC and -ENOMEM end a multishot operation            test_kernel_receive
 *   submissions keep their old bytes                         every test (between.c scribbles)
 *   a completion with token 0 is a bug, and must not crash   nonsense_is_ignored
 *   a buffer that comes for nobody goes back                 buffers_for_nobody_come_back
 *   rings are not for children                               child_has_no_ring, test_contract
 *   locked memory may be short, operations unknown           refusals_fall_back, test_fallback
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/between.h"
#include "loop/crowd.h"

#ifdef BERTH_HAVE_LIBURING

#include <sys/mman.h>

#include "berth/loop_cross.h"

#include "support/sys_groups.h"

#define URING_OR_RETURN()                                                                          \
    if (!rig_has("uring"))                                                                         \
    return

static void
pass(const struct io_uring_cqe *completion)
{
    between_post(completion->user_data, completion->res, completion->flags);
}

static void
end_between(void)
{
    between.on_completion = NULL;
    between.on_submission = NULL;
    between.on_wait = NULL;
    (void)rig_turn(&crowd.rig, 0);
    (void)rig_turn(&crowd.rig, 0);
    ck_assert_uint_eq(between_out(), 0);
    crowd_end();
    faults_reset();
}

static void
begin_between(unsigned count)
{
    crowd_prepare("uring");
    crowd.options.receive_buffers = 64;
    crowd_begin(count);
    (void)rig_turn(&crowd.rig, 0);
}

/* ---- waiting -------------------------------------------------------------------------------- */

/** Asked to wait for ever, it waits for a second at most (between.c fails longer ones). */
START_TEST(every_wait_ends)
{
    URING_OR_RETURN();
    between_begin();
    begin_between(2);
    between.patience_ms = 1;
    const unsigned waits = between.waits;
    for (unsigned turn = 0; turn < 5; turn++)
        ck_assert_int_ge(berth_loop_turn(crowd.rig.loop, -1), 0);
    ck_assert_uint_eq(between.waits, waits + 5);
    ck_assert_uint_le(between.asked_ms_max, 1000);
    ck_assert_uint_ge(between.asked_ms_max, 500); /* idle is idle */
    end_between();
}
END_TEST

static struct io_uring_cqe late[64];
static unsigned late_count;

/** It does not wake the one who waits; the next wait finds it. */
static void
be_late(const struct io_uring_cqe *completion)
{
    ck_assert_uint_lt(late_count, 64);
    memcpy(&late[late_count++], completion, sizeof(*completion));
}

static int
late_ones_first(void)
{
    for (unsigned i = 0; i < late_count; i++)
        pass(&late[i]);
    late_count = 0;
    return 0;
}

START_TEST(lost_wake_ups)
{
    URING_OR_RETURN();
    late_count = 0;
    between_begin();
    begin_between(4);
    between.patience_ms = 1;
    between.on_completion = be_late;
    between.on_wait = late_ones_first;
    for (unsigned round = 0; round < 10; round++) {
        for (unsigned i = 0; i < 4; i++)
            (void)crowd_write(&crowd.members[i], 1000);
        for (unsigned turn = 0; turn < 3; turn++)
            ck_assert_int_ge(berth_loop_turn(crowd.rig.loop, -1), 0);
        ck_assert(crowd_settled());
    }
    (void)late_ones_first();
    end_between();
}
END_TEST

static struct {
    unsigned polls; /**< of the wake-up descriptor */
    uint64_t token; /**< theirs */
    int full;       /**< its end comes when there is no room for submissions */
} wake;

static void
poll_once(struct io_uring_sqe *submission)
{
    if (submission->opcode != IORING_OP_POLL_ADD || !(submission->len & IORING_POLL_ADD_MULTI))
        return;
    submission->len = 0; /* one completion, and it is over: as when a completion found no memory */
    wake.token = submission->user_data;
    wake.polls++;
}

static intptr_t
submit_nothing(struct io_uring *ring)
{
    (void)ring;
    return -EBUSY;
}

/** All places are taken, by cancels of what is not there, and the kernel takes none of them. */
static void
fill_up(const struct io_uring_cqe *completion)
{
    struct io_uring_sqe *submission;
    while (wake.full && completion->user_data == wake.token &&
           (submission = io_uring_get_sqe(between.ring)) != NULL) {
        io_uring_prep_cancel64(submission, UINT64_MAX, 0);
        submission->user_data = berth_token_with_op(wake.token, 255);
        berth_sys_uring_submit = submit_nothing;
    }
    pass(completion);
}

static void
do_nothing(struct berth_loop *loop, void *arg)
{
    (void)loop;
    (*(unsigned *)arg)++;
}

START_TEST(wake_ups_are_watched_again)
{
    URING_OR_RETURN();
    unsigned posts = 0;
    memset(&wake, 0, sizeof(wake));
    between_begin();
    between.on_submission = poll_once;
    begin_between(1);
    ck_assert_uint_eq(wake.polls, 1);
    ck_assert_int_eq(berth_loop_post(crowd.rig.loop, do_nothing, &posts), 0);
    RIG_UNTIL(&crowd.rig, wake.polls == 2, 3);
    ck_assert_uint_eq(posts, 1);

    const __typeof__(berth_sys_uring_submit) submit = berth_sys_uring_submit;
    wake.full = 1;
    between.on_completion = fill_up;
    ck_assert_int_eq(berth_loop_post(crowd.rig.loop, do_nothing, &posts), 0);
    RIG_UNTIL(&crowd.rig, berth_sys_uring_submit == submit_nothing, 3);
    ck_assert_uint_eq(posts, 2);
    ck_assert_uint_eq(wake.polls, 2); /* it could not be asked for */
    between.asked_ms_max = 0;
    between.patience_ms = 1;
    ck_assert_int_ge(berth_loop_turn(crowd.rig.loop, -1), 0); /* nor at the beginning of this one */
    ck_assert_uint_eq(wake.polls, 2);
    ck_assert_uint_le(between.asked_ms_max, 10); /* but it looks soon */
    berth_sys_uring_submit = submit;
    wake.full = 0;
    (void)rig_turn(&crowd.rig, 0);
    ck_assert_uint_eq(wake.polls, 3);
    ck_assert_int_eq(berth_loop_post(crowd.rig.loop, do_nothing, &posts), 0);
    RIG_UNTIL(&crowd.rig, wake.polls == 4, 3);
    ck_assert_uint_eq(posts, 3);
    end_between();
}
END_TEST

static unsigned busy_left;
static int busy_with;

static int
be_busy(void)
{
    return busy_left > 0 && busy_left-- > 0 ? busy_with : 0;
}

START_TEST(busy_is_asked_again)
{
    URING_OR_RETURN();
    static const int errors[] = {-EBUSY, -EAGAIN, -EINTR, -ETIME};
    between_begin();
    begin_between(16);
    between.on_wait = be_busy;
    for (unsigned round = 0; round < 40; round++) {
        busy_left = 1 + round % 7;
        busy_with = errors[round % 4];
        for (unsigned i = 0; i < 16; i++) {
            (void)crowd_write(&crowd.members[i], 3000);
            const size_t credit = round % 3 == 0 ? 0 : BERTH_CREDIT_UNLIMITED;
            ck_assert_int_eq(berth_conn_credit(crowd_conn(&crowd.members[i]), credit), 0);
        }
        for (unsigned turn = 0; turn < 3; turn++)
            (void)rig_turn(&crowd.rig, 0);
    }
    for (unsigned i = 0; i < 16; i++)
        ck_assert_int_eq(berth_conn_credit(crowd_conn(&crowd.members[i]), BERTH_CREDIT_UNLIMITED),
                         0);
    RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    end_between();
}
END_TEST

/* ---- what a kernel has ---------------------------------------------------------------------- */

START_TEST(queue_is_long_enough)
{
    URING_OR_RETURN();
    static const struct {
        uint32_t receive_buffers, events_max;
    } sizes[] = {{16, 16}, {4096, 1024}, {32768, 16}, {16, 8192}, {5000, 8192}};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        between_begin();
        crowd_prepare("uring");
        crowd.options.receive_buffers = sizes[i].receive_buffers;
        crowd.options.events_max = sizes[i].events_max;
        crowd_begin(1);
        ck_assert_uint_ge(between.init_cq, 4 * between.init_sq);
        ck_assert_uint_ge(between.init_cq, sizes[i].receive_buffers);
        ck_assert_uint_ge(between.init_cq, sizes[i].events_max);
        end_between();
    }
}
END_TEST

static void
look_for_bundles(struct io_uring_sqe *submission)
{
    ck_assert_uint_eq(submission->ioprio & BETWEEN_RECVSEND_BUNDLE &
                          (submission->opcode == IORING_OP_RECV ? ~0u : 0u),
                      0);
}

static void
refuse_limits(struct io_uring_sqe *submission)
{
    look_for_bundles(submission);
    if (submission->opcode == IORING_OP_RECV && submission->ioprio & IORING_RECV_MULTISHOT &&
        (submission->file_index != 0 || submission->len != 0))
        between_refuse(submission, -EINVAL);
}

/** Without one thing, without the other, without all of them: Linux 6.0 to 6.16. */
START_TEST(old_kernels)
{
    URING_OR_RETURN();
    between_begin();
    if (_i & 1)
        between.without_setup = IORING_SETUP_DEFER_TASKRUN;
    if (_i & 2)
        between.without_features = BETWEEN_FEAT_BUNDLE;
    if (_i & 2)
        between.on_submission = look_for_bundles;
    if (_i == 7)
        between.on_submission = refuse_limits;
    begin_between(8);
    ck_assert_uint_eq((between.init_flags & IORING_SETUP_DEFER_TASKRUN) == 0, _i & 1);
    char text[2048];
    ck_assert_int_gt(berth_loop_explain(crowd.rig.loop, text, sizeof(text)), 0);
    ck_assert_uint_eq(strstr(text, "DEFER_TASKRUN needs Linux 6.1") != NULL, _i & 1);
    ck_assert(!(_i & 2) || strstr(text, "a completion for each buffer") != NULL);
    crowd_stream(400000);
    ck_assert(_i != 7 || between.refused > 0);
    end_between();
}
END_TEST

static intptr_t
know_nothing(struct io_uring *ring, int op)
{
    (void)ring, (void)op;
    return 0;
}

/** Each step that a kernel may refuse when a ring is made: left to choose, the loop works. */
START_TEST(refusals_fall_back)
{
    URING_OR_RETURN();
    static const struct {
        const char *call;
        int error;
        const char *says;
    } rows[] = {
        {"uring_init", -ENOMEM, "not uring: io_uring_setup: "},
        {"uring_init", -EPERM, "not uring: io_uring_setup: "},
        {"uring_init", -ENOSYS, "not uring: io_uring_setup: "},
        {"uring_knows", -EOPNOTSUPP, "not uring: multishot receive (Linux 6.0): "},
        {"uring_knows", -ENOMEM, "not uring: multishot receive (Linux 6.0): "},
        {"uring_register_buffers", -ENOMEM, "not uring: registering a ring of buffers: "},
        {"uring_register_buffers", -EINVAL, "not uring: registering a ring of buffers: "},
    };
    (void)unsetenv("BERTH_ENGINE");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const unsigned mappings = test_mappings(), descriptors = test_descriptors_open();
        for (int by_name = 1; by_name >= 0; by_name--) {
            faults_fail(rows[i].call, 1, FAULTS_FOR_EVER, rows[i].error);
            if (rows[i].error == -EOPNOTSUPP)
                berth_sys_uring_knows = know_nothing;
            struct berth_loop_options options;
            struct berth_loop *loop = NULL;
            rig_options(&options, by_name ? "uring" : "auto", NULL);
            ck_assert_int_eq(berth_loop_create(&loop, &options), by_name ? rows[i].error : 0);
            faults_reset();
            if (by_name) {
                ck_assert_ptr_null(loop);
                ck_assert_uint_eq(test_descriptors_open(), descriptors);
                continue;
            }
            char text[2048];
            ck_assert_str_eq(berth_loop_engine(loop), "epoll");
            ck_assert_int_gt(berth_loop_explain(loop, text, sizeof(text)), 0);
            ck_assert_msg(strstr(text, rows[i].says) != NULL, "%s", text);
            ck_assert_ptr_nonnull(strstr(text, strerror(-rows[i].error)));
            static const struct berth_handlers echo = {.data = rig_echo};
            struct rig rig = {.loop = loop};
            ck_assert_int_eq(berth_listen(loop, "tcp://127.0.0.1:0", &echo, NULL, &rig.listener),
                             0);
            rig_try_echo(&rig);
            ck_assert_int_eq(berth_loop_destroy(loop), 0);
        }
        ck_assert_uint_eq(test_descriptors_open(), descriptors);
        /* malloc's own; a checking tool has more of them */
        ck_assert_uint_le(test_mappings(), mappings + (test_is_slow() ? 12 : 2));
    }
}
END_TEST

/* ---- nonsense ------------------------------------------------------------------------------- */

/** Completions of nothing at all, and of operations that are not in flight. */
static void
post_nonsense(uint64_t *random)
{
    static const int32_t results[] = {0, 1, -1, 4096, -ECANCELED, INT32_MAX, INT32_MIN, -ENOBUFS};
    static const uint32_t flags[] = {0, IORING_CQE_F_MORE, IORING_CQE_F_SOCK_NONEMPTY,
                                     IORING_CQE_F_NOTIF, 0xfff0fff0u & ~IORING_CQE_F_BUFFER};
    const berth_token live = crowd.members[test_random(random) % 4].token;
    const uint32_t index = berth_token_index(live), generation = berth_token_generation(live);
    const uint64_t tokens[] = {
        0,
        UINT64_MAX,
        test_random(random),
        berth_token_make(index, generation + 1, (uint8_t)test_random(random)),
        berth_token_make(index, generation - 1, (uint8_t)test_random(random)),
        berth_token_make(BERTH_TOKEN_SLOTS_MAX - 1, 1, 3),
        berth_token_make(index + 1000, generation, 3),
        berth_token_make(index, generation, 0),
        berth_token_make(index, generation, (uint8_t)(64 + test_random(random) % 192)),
    };
    for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++)
        between_post(tokens[i], results[test_random(random) % 8], flags[test_random(random) % 5]);
    /* Sending, accepting, connecting, waking: what a connection that receives is not about. */
    for (uint8_t op = 0; op < 8; op++)
        if (op != 3) /* OP_RECEIVE: see an_end_told_twice_is_one */
            between_post(berth_token_make(index, generation, op),
                         op == 2 ? -EMFILE : results[test_random(random) % 8], 0);
}

START_TEST(nonsense_is_ignored)
{
    URING_OR_RETURN();
    between_begin();
    begin_between(4);
    uint64_t random = test_seed("nonsense_is_ignored");
    const uint64_t accepted = rig_stats(&crowd.rig).accepted;
    for (unsigned round = 0; round < 200; round++) {
        post_nonsense(&random);
        (void)crowd_write(&crowd.members[round % 4], 1 + round * 10);
        (void)rig_turn(&crowd.rig, 0);
        RIG_UNTIL(&crowd.rig, crowd_settled(), CROWD_TURNS);
    }
    ck_assert_uint_eq(crowd.closed, 0);
    ck_assert_uint_eq(rig_stats(&crowd.rig).accepted, accepted);
    ck_assert_uint_gt(rig_stats(&crowd.rig).stale, 200 * 9);
    rig_verify(&crowd.rig);
    end_between();
}
END_TEST

static uint32_t nobody_changes; /**< 0: the generation, 1: the operation */
static unsigned nobody_count;

/** Data arrives under a name that is nobody's. The stream has a hole then. */
static void
name_nobody(const struct io_uring_cqe *completion)
{
    uint64_t token = completion->user_data;
    if (completion->flags & IORING_CQE_F_BUFFER) {
        nobody_count++;
        token = nobody_changes == 0
                    ? berth_token_make(berth_token_index(token), berth_token_generation(token) + 1,
                                       berth_token_op(token))
                    : berth_token_with_op(token, 200);
    }
    between_post(token, completion->res, completion->flags);
}

START_TEST(buffers_for_nobody_come_back)
{
    URING_OR_RETURN();
    between_begin();
    begin_between(2);
    struct member *hole = &crowd.members[1];
    nobody_changes = (uint32_t)_i;
    nobody_count = 0;
    between.on_completion = name_nobody;
    for (unsigned round = 0; nobody_count < 200; round++) { /* more than there are buffers */
        ck_assert_uint_lt(round, 1000);
        rig_write(hole->client, ways_bytes(hole->key, 0, 100), 100);
        (void)rig_turn(&crowd.rig, 1);
        (void)rig_turn(&crowd.rig, 0);
        ck_assert_uint_eq(between_out(), 0);
    }
    ck_assert_uint_eq(hole->received, 0);
    ck_assert_uint_ge(rig_stats(&crowd.rig).stale, 200);
    between.on_completion = NULL;
    (void)crowd_write(&crowd.members[0], 50000);
    RIG_UNTIL(&crowd.rig, crowd_settled(), 20);
    end_between();
}
END_TEST

/* ---- fork ----------------------------------------------------------------------------------- */

static int
is_mapped(const void *address)
{
    const uintptr_t page = (uintptr_t)address & ~(uintptr_t)4095;
    unsigned char resident;
    return mincore((void *)page, 4096, &resident) == 0;
}

START_TEST(child_has_no_ring)
{
    URING_OR_RETURN();
    between_begin();
    crowd_prepare("uring");
    crowd_begin(1);
    const struct io_uring_sqe *submissions = between.ring->sq.sqes;
    const void *queues = between.ring->sq.ring_ptr;
    ck_assert(is_mapped(between.buffers) && is_mapped(submissions) && is_mapped(queues));
    int skipped;
    RIG_IN_CHILD(skipped, {
        RIG_MUST(!is_mapped(between.buffers));
        RIG_MUST(!is_mapped(submissions));
        RIG_MUST(!is_mapped(queues));
        RIG_MUST(berth_loop_turn(crowd.rig.loop, 0) == -ECHILD);
    });
    ck_assert_int_eq(skipped, 0);
    (void)crowd_write(&crowd.members[0], 50000);
    RIG_UNTIL(&crowd.rig, crowd_settled(), 20);
    crowd_end();
    faults_reset();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("kernel: ring");
    RIG_ADD_COUNTED(suite, every_wait_ends, 1);
    RIG_ADD_COUNTED(suite, lost_wake_ups, 1);
    RIG_ADD_COUNTED(suite, wake_ups_are_watched_again, 1);
    RIG_ADD_COUNTED(suite, busy_is_asked_again, 1);
    RIG_ADD_COUNTED(suite, queue_is_long_enough, 1);
    RIG_ADD_COUNTED(suite, old_kernels, 8);
    RIG_ADD_COUNTED(suite, refusals_fall_back, 1);
    RIG_ADD_COUNTED(suite, nonsense_is_ignored, 1);
    RIG_ADD_COUNTED(suite, buffers_for_nobody_come_back, 2);
    RIG_ADD_COUNTED(suite, child_has_no_ring, 1);
    return test_run(suite);
}
#endif
