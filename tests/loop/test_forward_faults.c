/*
 * Forwarding when the system refuses something: no pipe, no splice into or out of one, no memory
 * for the queue. The bytes go another way, or the connections end and say why. On every engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/forwarding.h"

#include "support/faults.h"

static struct berth_copies
copies_of(const struct forwarding *all)
{
    struct berth_copies copies;
    berth_loop_copies_get(all->rig.loop, &copies);
    return copies;
}

/** Some bytes go through, in pieces and with pauses, and arrive. */
static void
pass_some(struct forwarding *all)
{
    for (unsigned i = 0; i < 20; i++) {
        (void)client_writes(all, 0, 20000);
        read_until(all, 1, 0, all->sides[0].written);
    }
}

START_TEST(without_pipes)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct forwarding all;
    prepare(&all, engine, BERTH_FORWARD_SPLICE);
    begin(&all, 2);
    faults_fail("pipe2", 1, FAULTS_FOR_EVER, -EMFILE);
    forward_both(&all, BERTH_FORWARD_CLOSE);
    pass_some(&all);
    ck_assert_uint_eq(faults_hit("pipe2"), all.options.direct_descriptors ? 0 : 1);
    faults_reset();
    ck_assert_uint_eq(copies_of(&all).received_spliced, 0);
    ck_assert_uint_eq(copies_of(&all).sent_gather, 0);

    /* A second call tries again. */
    forward(&all, 0, 1, 0);
    pass_some(&all);
    ck_assert_uint_eq(copies_of(&all).received_spliced > 0, !all.options.direct_descriptors);
    end_with_copies(&all);
}
END_TEST

START_TEST(without_splice)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct forwarding all;
    prepare(&all, engine, BERTH_FORWARD_SPLICE);
    begin(&all, 2);
    faults_fail("splice", 1, FAULTS_FOR_EVER, -EINVAL);
    forward_both(&all, BERTH_FORWARD_CLOSE);
    pass_some(&all);
    faults_reset();
    ck_assert_uint_eq(copies_of(&all).received_spliced, 0);
    ck_assert_uint_eq(copies_of(&all).sent_gather, 0);
    end_with_copies(&all);
}
END_TEST

START_TEST(into_a_pipe_but_not_out_of_it)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct forwarding all;
    prepare(&all, engine, BERTH_FORWARD_SPLICE);
    begin(&all, 2);
    forward_both(&all, BERTH_FORWARD_CLOSE);
    faults_fail("splice", 2, 1, -EINVAL);
    (void)client_writes(&all, 0, 20000);
    read_until(&all, 1, 0, all.sides[0].written);
    if (!all.options.direct_descriptors) {
        ck_assert_uint_eq(faults_hit("splice"), 1);
        ck_assert_uint_gt(copies_of(&all).sent_gather, 0); /* it was read out of the pipe */
        ck_assert_uint_lt(copies_of(&all).sent_spliced, copies_of(&all).sent);
    }
    faults_reset();
    pass_some(&all);
    ck_assert_uint_eq(copies_of(&all).sent_spliced > 0, !all.options.direct_descriptors);
    end_with_copies(&all);
}
END_TEST

START_TEST(out_of_a_pipe_into_a_reset)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct forwarding all;
    prepare(&all, engine, BERTH_FORWARD_SPLICE);
    begin(&all, 2);
    if (all.options.direct_descriptors) {
        end(&all);
        return;
    }
    forward_both(&all, BERTH_FORWARD_CLOSE);
    faults_fail("splice", 2, 1, -EPIPE);
    (void)client_writes(&all, 0, 20000);
    read_to_the_end(&all, 0, 1, -ECONNRESET);
    RIG_UNTIL(&all.rig, all.sides[0].closes + all.sides[1].closes == 2, TURNS);
    ck_assert_int_eq(all.sides[1].reason, -EPIPE);
    ck_assert_int_eq(all.sides[0].reason, -ECONNRESET);
    faults_reset();
    end(&all);
}
END_TEST

START_TEST(no_memory_for_the_queue)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (unsigned flags = 0; flags <= BERTH_FORWARD_CLOSE; flags++) {
        struct forwarding all;
        prepare(&all, engine, 0);
        begin(&all, 2);
        forward(&all, 0, 1, flags);
        struct berth_lease lease; /* so that there are buffers, whatever the engine */
        struct berth_pool *pool = berth_loop_pool(all.rig.loop);
        ck_assert_int_eq(berth_pool_get(pool, BERTH_CLASS_4K, BERTH_FOR_NEW, &lease), 0);
        ck_assert_int_eq(berth_release(pool, lease), 0);
        /* The first node of all is in memory that has to be committed. */
        faults_fail("mprotect", 1, FAULTS_FOR_EVER, -ENOMEM);
        (void)client_writes(&all, 0, 1000);
        RIG_UNTIL(&all.rig, all.sides[0].closes == 1, TURNS);
        ck_assert_uint_ge(faults_hit("mprotect"), 1);
        faults_reset();
        ck_assert_int_eq(all.sides[0].reason, -ENOBUFS);
        read_to_the_end(&all, 0, 1, -ECONNRESET);
        turn_until_quiet(&all);
        ck_assert_uint_eq(all.sides[1].closes, flags != 0);
        ck_assert_int_eq(all.sides[1].reason, flags != 0 ? -ECONNRESET : 0);
        end(&all);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop forward faults");
    RIG_ADD(suite, without_pipes);
    RIG_ADD(suite, without_splice);
    RIG_ADD(suite, into_a_pipe_but_not_out_of_it);
    RIG_ADD(suite, out_of_a_pipe_into_a_reset);
    RIG_ADD(suite, no_memory_for_the_queue);
    return test_run(suite);
}
