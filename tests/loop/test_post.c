/*
 * Posting: every call posted is made exactly once, in its poster's order, whoever posts from where,
 * and however the loop ends; and a wake-up is paid for once per batch.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_rig.h"

#include <pthread.h>

#include "berth/loop_cross.h"

#define POSTERS 4
#define POSTS 5000

static void
begin(struct rig *rig, const char *engine)
{
    static const struct berth_handlers echo = {.data = rig_echo};
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    rig_begin(rig, &options, &echo, NULL);
}

/* ---- from the loop's own thread ------------------------------------------------------------- */

static struct {
    unsigned long order[64];
    unsigned count;
    unsigned without_loop;
    struct berth_loop *loop;
    struct berth_post node;
} ran;

static void
note(struct berth_loop *loop, void *arg)
{
    ck_assert_uint_lt(ran.count, 64);
    ran.order[ran.count++] = (unsigned long)(uintptr_t)arg;
    ran.without_loop += loop == NULL;
    if (loop != NULL)
        ck_assert_ptr_eq(loop, ran.loop);
}

START_TEST(calls_come_in_order)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    begin(&rig, engine);
    memset(&ran, 0, sizeof(ran));
    ran.loop = rig.loop;
    for (uintptr_t i = 0; i < 10; i++)
        ck_assert_int_eq(berth_loop_post(rig.loop, note, (void *)i), 0);
    ck_assert_uint_eq(ran.count, 0); /* never from inside the call */
    (void)rig_turn(&rig, -1);
    ck_assert_uint_eq(ran.count, 10);
    for (unsigned i = 0; i < 10; i++)
        ck_assert_uint_eq(ran.order[i], i);
    ck_assert_uint_eq(rig_stats(&rig).posts, 10);
    ck_assert_uint_eq(rig_stats(&rig).wakes, 1); /* ten posts, one write */
    ck_assert_int_eq(berth_loop_post(NULL, note, NULL), -EINVAL);
    ck_assert_int_eq(berth_loop_post(rig.loop, NULL, NULL), -EINVAL);
    ck_assert_int_eq(berth_loop_post_node(rig.loop, NULL), -EINVAL);
    struct berth_post nothing = {NULL, NULL, NULL};
    ck_assert_int_eq(berth_loop_post_node(rig.loop, &nothing), -EINVAL);
    rig_end(&rig);
}
END_TEST

/** Posts itself again until it has been called ten times. */
static void
again(struct berth_loop *loop, void *arg)
{
    note(loop, arg);
    if (ran.count < 10)
        ck_assert_int_eq(berth_loop_post_node(loop, &ran.node), 0);
}

START_TEST(node_is_free_when_its_call_comes)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    begin(&rig, engine);
    memset(&ran, 0, sizeof(ran));
    ran.loop = rig.loop;
    ran.node = (struct berth_post){.fn = again, .arg = (void *)(uintptr_t)7};
    ck_assert_int_eq(berth_loop_post_node(rig.loop, &ran.node), 0);
    for (unsigned turn = 0; turn < 10; turn++) {
        ck_assert_uint_eq(ran.count, turn); /* one per turn: whoever posts for ever blocks nobody */
        (void)rig_turn(&rig, -1);
    }
    ck_assert_uint_eq(ran.count, 10);
    ck_assert_uint_eq(rig_stats(&rig).wakes, 1); /* none from its own callbacks */
    rig_end(&rig);
}
END_TEST

/** Posts come back from the data callback without waiting for an event. */
static void
posting_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    (void)spans, (void)n, (void)bytes;
    ck_assert_int_eq(berth_loop_post(berth_conn_loop(conn), note, (void *)(uintptr_t)1), 0);
}

START_TEST(post_from_a_callback_does_not_wait)
{
    RIG_ENGINE_OR_RETURN(engine);
    static const struct berth_handlers posting = {.data = posting_data};
    struct rig rig;
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    rig_begin(&rig, &options, &posting, NULL);
    memset(&ran, 0, sizeof(ran));
    ran.loop = rig.loop;
    const int client = rig_client(&rig);
    RIG_UNTIL(&rig, berth_loop_conns(rig.loop) == 1, 100);
    rig_write(client, "x", 1);
    RIG_UNTIL(&rig, rig_stats(&rig).receives == 1, 100);
    if (ran.count == 0)
        (void)rig_turn(&rig, -1); /* would wait a second if it waited */
    ck_assert_uint_eq(ran.count, 1);
    ck_assert_uint_eq(rig_stats(&rig).wakes, 0);
    rig_close_all(&rig, &client, 1);
    rig_end(&rig);
}
END_TEST

START_TEST(a_flood_leaves_something_to_the_next_turn)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.events_max = 16;
    static const struct berth_handlers echo = {.data = rig_echo};
    rig_begin(&rig, &options, &echo, NULL);
    memset(&ran, 0, sizeof(ran));
    ran.loop = rig.loop;
    for (uintptr_t i = 0; i < 40; i++)
        ck_assert_int_eq(berth_loop_post(rig.loop, note, (void *)i), 0);
    static const unsigned after[] = {16, 32, 40};
    for (unsigned turn = 0; turn < 3; turn++) {
        (void)rig_turn(&rig, -1);
        ck_assert_uint_eq(ran.count, after[turn]);
    }
    for (unsigned i = 0; i < 40; i++)
        ck_assert_uint_eq(ran.order[i], i);
    rig_end(&rig);
}
END_TEST

/* ---- the end of the loop -------------------------------------------------------------------- */

static struct berth_loop *refusing;
static unsigned refusals;

/** What a call that comes too late still posts is refused. */
static void
late_post(struct berth_loop *loop, void *arg)
{
    note(loop, arg);
    refusals += berth_loop_post(refusing, note, NULL) == -ECANCELED;
}

START_TEST(destroyed_loop_reports_what_is_left)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    begin(&rig, engine);
    (void)rig_turn(&rig, 0);
    memset(&ran, 0, sizeof(ran));
    refusing = rig.loop;
    refusals = 0;
    for (uintptr_t i = 0; i < 5; i++)
        ck_assert_int_eq(berth_loop_post(rig.loop, late_post, (void *)i), 0);
    rig_end(&rig);
    ck_assert_uint_eq(ran.count, 5);
    ck_assert_uint_eq(ran.without_loop, 5);
    ck_assert_uint_eq(refusals, 5);
    for (unsigned i = 0; i < 5; i++)
        ck_assert_uint_eq(ran.order[i], i);
}
END_TEST

/* ---- from other threads --------------------------------------------------------------------- */

struct numbered {
    struct berth_post node;
    unsigned poster, number;
};

static struct {
    struct numbered posts[POSTERS][POSTS];
    unsigned next[POSTERS]; /**< the loop's thread alone */
    unsigned total;
    struct berth_loop *loop;
} many;

static void
count_numbered(struct berth_loop *loop, void *arg)
{
    struct numbered *post = arg;
    ck_assert_ptr_eq(loop, many.loop);
    ck_assert_uint_eq(post->number, many.next[post->poster]);
    many.next[post->poster]++;
    if (++many.total == POSTERS * POSTS)
        ck_assert_int_eq(berth_loop_stop(loop), 0);
}

static void *
poster_main(void *arg)
{
    struct numbered *posts = arg;
    for (unsigned i = 0; i < POSTS; i++)
        if (berth_loop_post_node(many.loop, &posts[i].node) != 0)
            abort(); /* Check's assertions are for the main thread */
    return NULL;
}

START_TEST(posters_keep_their_order)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    pthread_t threads[POSTERS];
    begin(&rig, engine);
    memset(&many, 0, sizeof(many));
    many.loop = rig.loop;
    for (unsigned p = 0; p < POSTERS; p++)
        for (unsigned i = 0; i < POSTS; i++)
            many.posts[p][i] = (struct numbered){
                .node = {.fn = count_numbered, .arg = &many.posts[p][i]}, .poster = p, .number = i};
    for (unsigned p = 0; p < POSTERS; p++)
        ck_assert_int_eq(pthread_create(&threads[p], NULL, poster_main, many.posts[p]), 0);
    ck_assert_int_eq(berth_loop_run(rig.loop), 0);
    for (unsigned p = 0; p < POSTERS; p++)
        ck_assert_int_eq(pthread_join(threads[p], NULL), 0);
    ck_assert_uint_eq(many.total, POSTERS * POSTS);
    ck_assert_uint_eq(rig_stats(&rig).posts, POSTERS * POSTS);
    ck_assert_uint_le(rig_stats(&rig).wakes, POSTERS * POSTS);
    ck_assert_uint_ge(rig_stats(&rig).wakes, 1);
    rig_end(&rig);
}
END_TEST

/** Ping and pong: each post is answered by one, so that each must wake a loop that sleeps. */
static struct {
    struct berth_loop *loops[2];
    unsigned count;
    struct berth_post node;
} pong;

#define PONGS 2000

static void
answer(struct berth_loop *loop, void *arg)
{
    struct berth_loop *other = pong.loops[loop == pong.loops[0]];
    (void)arg;
    if (++pong.count < PONGS) {
        if (berth_loop_post_node(other, &pong.node) != 0)
            abort();
        return;
    }
    (void)berth_loop_stop(other);
    (void)berth_loop_stop(loop);
}

/** A loop belongs to the thread that turns it, to its end. */
static void *
run_loop(void *arg)
{
    const int error = berth_loop_run(arg);
    return (void *)(intptr_t)(error ? error : berth_loop_destroy(arg));
}

START_TEST(every_wake_up_arrives)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct rig rig;
    struct berth_loop_options options;
    pthread_t thread;
    void *result = &result;
    begin(&rig, engine);
    memset(&pong, 0, sizeof(pong));
    pong.node.fn = answer;
    pong.loops[0] = rig.loop;
    rig_options(&options, "epoll", NULL);
    ck_assert_int_eq(berth_loop_create(&pong.loops[1], &options), 0);
    ck_assert_int_eq(berth_loop_post_node(rig.loop, &pong.node), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, run_loop, pong.loops[1]), 0);
    ck_assert_int_eq(berth_loop_run(rig.loop), 0);
    ck_assert_int_eq(pthread_join(thread, &result), 0);
    ck_assert_ptr_null(result);
    ck_assert_uint_eq(pong.count, PONGS);
    const struct berth_loop_stats stats = rig_stats(&rig);
    printf("%s: %llu posts, %llu wake-ups, %llu turns, %llu system calls\n", engine,
           (unsigned long long)stats.posts, (unsigned long long)stats.wakes,
           (unsigned long long)stats.turns, (unsigned long long)stats.syscalls);
    rig_end(&rig);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("post");
    RIG_ADD(suite, calls_come_in_order);
    RIG_ADD(suite, node_is_free_when_its_call_comes);
    RIG_ADD(suite, post_from_a_callback_does_not_wait);
    RIG_ADD(suite, a_flood_leaves_something_to_the_next_turn);
    RIG_ADD(suite, destroyed_loop_reports_what_is_left);
    RIG_ADD(suite, posters_keep_their_order);
    RIG_ADD(suite, every_wake_up_arrives);
    return test_run(suite);
}
