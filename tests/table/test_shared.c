/*
 * One table, several threads: views, owners, giving and taking. Each thread writes only into slots
 * it owns, and reads nothing of the others' lines; ThreadSanitizer is the judge of that, the stamps
 * in the slots of the rest.
 *
 * SPDX-License-Identifier: MIT
 */
#include "table/table_test.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#define THREADS 3u
#define CONTESTED 512u /* slots: few, so that threads meet */
#define ROUNDS 200000u
#define HANDOVERS 20000u
#define SLOWER 10u /* under a checking tool */

static uint64_t
rounds(uint64_t usual)
{
    return test_rounds("BERTH_ROUNDS", test_is_slow() ? usual / SLOWER : usual);
}

static void
must_init_shared(struct berth_table *table, int deadlines)
{
    struct berth_table_options options;
    berth_table_options_init(&options);
    options.shared = 1;
    options.deadlines = deadlines;
    options.cold_bytes = 16;
    must_init(table, &options);
}

static void
must_attach(struct berth_table *view, const struct berth_table *table, uint8_t owner_id)
{
    ck_assert_int_eq(berth_table_attach(view, table, owner_id), 0);
}

START_TEST(views_refuse_misuse)
{
    struct berth_table table, view, alone;
    must_init_shared(&table, 0);
    must_init(&alone, NULL);
    ck_assert_int_eq(berth_table_attach(NULL, &table, 2), -EINVAL);
    ck_assert_int_eq(berth_table_attach(&view, NULL, 2), -EINVAL);
    ck_assert_int_eq(berth_table_attach(&view, &alone, 2), -EINVAL);
    ck_assert_int_eq(berth_table_attach(&view, &table, 0), -EINVAL);
    ck_assert_int_eq(berth_table_attach(&view, &table, 1), -EINVAL); /* the table itself */
    const berth_token token = must_claim_token(&alone, 4);
    ck_assert_uint_eq(berth_table_owner(&alone, 4), 0);
    ck_assert_int_eq(berth_table_give(&alone, token, 2), -EINVAL);
    ck_assert_int_eq(berth_table_take(&alone, token), -EINVAL);
    must_fini(&alone);
    must_fini(&table);
}
END_TEST

START_TEST(slots_are_found_by_their_owner_alone)
{
    struct berth_table table, view;
    struct berth_slot *slot = NULL;
    must_init_shared(&table, 0);
    must_attach(&view, &table, 2);
    const berth_token token = must_claim_token(&view, 8);
    ck_assert_uint_eq(berth_table_owner(&table, 8), 2);
    ck_assert_int_eq(berth_table_claim(&table, 8, &slot), -EEXIST);
    ck_assert_ptr_null(slot);
    ck_assert_ptr_null(berth_table_find(&table, token));
    ck_assert_uint_eq(stats_of(&table).malformed, 1); /* another thread's */
    ck_assert_int_eq(berth_table_release(&table, token), -ESTALE);
    ck_assert_ptr_nonnull(berth_table_find(&view, token));
    ck_assert_uint_eq(stats_of(&view).malformed, 0);

    ck_assert_int_eq(berth_table_release(&view, token), 0);
    ck_assert_uint_eq(berth_table_owner(&table, 8), 0);
    ck_assert_ptr_null(berth_table_find(&view, token));
    ck_assert_uint_eq(stats_of(&view).stale, 1); /* its own, and gone */
    (void)must_claim(&table, 8);                 /* free for all again */
    berth_table_fini(&view);
    must_fini(&table); /* a view gives nothing back */
}
END_TEST

START_TEST(given_slots_belong_to_nobody_until_taken)
{
    struct berth_table table, view;
    must_init_shared(&table, 0);
    must_attach(&view, &table, 9);
    struct berth_slot *slot = must_claim(&table, 77);
    const berth_token token = berth_slot_token(slot, 0);
    memset(berth_slot_payload(slot), 0x33, BERTH_SLOT_PAYLOAD_BYTES);
    ck_assert_int_eq(berth_table_give(&table, token, 0), -EINVAL);
    ck_assert_int_eq(berth_table_give(&table, token, 1), -EINVAL); /* to itself */
    ck_assert_int_eq(berth_slot_begin(slot), 0);
    ck_assert_int_eq(berth_table_give(&table, token, 9), -EBUSY);
    (void)berth_slot_end(slot);
    ck_assert_int_eq(berth_table_take(&view, token), -ESTALE); /* not given yet */
    ck_assert_int_eq(berth_table_take(&table, token), -ESTALE);

    ck_assert_int_eq(berth_table_give(&table, token, 9), 0);
    ck_assert_ptr_null(berth_table_find(&table, token));
    ck_assert_int_eq(berth_table_give(&table, token, 9), -ESTALE);
    ck_assert_int_eq(berth_table_release(&view, token), -ESTALE); /* take it first */
    ck_assert_int_eq(berth_table_give(&view, token, 1), -ESTALE);
    ck_assert_uint_eq(berth_table_live_count(&table) + berth_table_live_count(&view), 0);
    ck_assert_int_eq(berth_table_take(&view, token), 0);
    ck_assert_int_eq(berth_table_take(&view, token), -ESTALE); /* twice */
    ck_assert_uint_eq(berth_table_live_count(&view), 1);
    ck_assert_ptr_eq(berth_table_find(&view, token), slot);
    ck_assert_uint_eq(((unsigned char *)berth_slot_payload(slot))[39], 0x33);
    ck_assert_int_eq(berth_table_release(&view, token), 0);
    berth_table_fini(&view);
    must_fini(&table);
}
END_TEST

START_TEST(sweeps_list_only_the_view_s_own)
{
    struct berth_table table, view;
    uint32_t cursor = 0, indices[8];
    must_init_shared(&table, 1);
    must_attach(&view, &table, 2);
    for (uint32_t i = 0; i < 4; i++) {
        (void)must_claim(&table, 2 * i);
        (void)must_claim(&view, 2 * i + 1);
    }
    ck_assert_int_eq(berth_table_deadline_set(&view, 3, 10), 0);
    ck_assert_int_eq(berth_table_deadline_set(&table, 4, 10), 0);
    berth_table_tick_set(&view, 100); /* each view has its own clock */
    ck_assert_uint_eq(berth_table_sweep(&view, 100, &cursor, indices, 8), 4);
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_uint_eq(indices[i], 2 * i + 1);
    ck_assert_uint_eq(berth_table_oldest(&view, indices, 8), 4);
    cursor = 0;
    ck_assert_uint_eq(berth_table_expired(&view, &cursor, indices, 8), 1);
    ck_assert_uint_eq(indices[0], 3);
    cursor = 0;
    ck_assert_uint_eq(berth_table_sweep(&table, 1, &cursor, indices, 8), 0);
    berth_table_fini(&view);
    must_fini(&table);
}
END_TEST

/* ---- threads ----------------------------------------------------------------------------------
 */

struct worker {
    struct berth_table view;
    berth_token held[CONTESTED];
    uint64_t random;
    uint64_t met; /* claims refused because another thread had the slot */
    uint64_t wrong;
    pthread_t thread;
};

static uint64_t *
stamp_of(struct berth_slot *slot)
{
    return berth_slot_payload(slot);
}

/** Claims the slot if it can, or looks at what it holds and lets go of it. */
static void
contest(struct worker *worker, uint32_t index)
{
    berth_token *held = &worker->held[index];
    if (*held == BERTH_TOKEN_NONE) {
        struct berth_slot *slot = NULL;
        const int error = berth_table_claim(&worker->view, index, &slot);
        worker->met += error == -EEXIST;
        worker->wrong += error != 0 && error != -EEXIST;
        if (error != 0)
            return;
        *held = berth_slot_token(slot, 0);
        worker->wrong += !all_zero(berth_slot_payload(slot), BERTH_SLOT_PAYLOAD_BYTES);
        worker->wrong += !all_zero(berth_table_cold(&worker->view, index), 16);
        *stamp_of(slot) = worker->view.owner_id * UINT64_C(0x100000001) + *held;
        memset(berth_table_cold(&worker->view, index), worker->view.owner_id, 16);
        return;
    }
    struct berth_slot *slot = berth_table_find(&worker->view, *held);
    worker->wrong += slot == NULL;
    if (slot != NULL)
        worker->wrong += *stamp_of(slot) != worker->view.owner_id * UINT64_C(0x100000001) + *held;
    worker->wrong += berth_table_release(&worker->view, *held) != 0;
    worker->wrong += berth_table_find(&worker->view, *held) != NULL;
    *held = BERTH_TOKEN_NONE;
}

/** Walks over everybody's slots, and lists its own, while the others go on. */
static void
look_around(struct worker *worker)
{
    uint32_t last = 0, cursor = 0, indices[CONTESTED];
    BERTH_TABLE_EACH_LIVE (&worker->view, index) {
        worker->wrong += index >= CONTESTED || (index <= last && index != 0);
        last = index;
    }
    berth_table_tick_set(&worker->view, (uint16_t)(worker->view.tick_now + 1));
    const uint32_t idle = berth_table_sweep(&worker->view, 1, &cursor, indices, CONTESTED);
    for (uint32_t i = 0; i < idle; i++) {
        worker->wrong += worker->held[indices[i]] == BERTH_TOKEN_NONE;
        berth_table_touch(&worker->view, indices[i]);
    }
}

static void *
work(void *argument)
{
    struct worker *worker = argument;
    const uint64_t count = rounds(ROUNDS);
    for (uint64_t i = 0; i < count; i++) {
        contest(worker, (uint32_t)(test_random(&worker->random) % CONTESTED));
        if (i % 1000 == 0)
            look_around(worker);
    }
    return NULL;
}

START_TEST(threads_contend_and_never_mix)
{
    static struct worker workers[THREADS];
    struct berth_table table;
    must_init_shared(&table, 0);
    const uint64_t seed = test_seed("threads_contend_and_never_mix");
    for (unsigned i = 0; i < THREADS; i++) {
        memset(&workers[i], 0, sizeof(workers[i]));
        workers[i].random = seed + i;
        must_attach(&workers[i].view, &table, (uint8_t)(2 + i));
    }
    for (unsigned i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    uint64_t live = 0, met = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(workers[i].thread, NULL), 0);
        ck_assert_uint_eq(workers[i].wrong, 0);
        live += berth_table_live_count(&workers[i].view);
        met += workers[i].met;
    }
    ck_assert_uint_gt(met, 0); /* otherwise nothing was contested */
    must_verify(&table);
    BERTH_TABLE_EACH_LIVE (&table, index) {
        live--;
        ck_assert_uint_ne(workers[berth_table_owner(&table, index) - 2].held[index], 0);
    }
    ck_assert_uint_eq(live, 0);
    for (unsigned i = 0; i < THREADS; i++)
        berth_table_fini(&workers[i].view);
    must_fini(&table);
}
END_TEST

/** Two threads hand one slot to and fro; the mailbox is how its token travels. */
struct player {
    struct berth_table view;
    uint64_t *mailbox; /* the token for this player, or 0 */
    struct player *other;
    uint64_t wrong;
    pthread_t thread;
};

static void *
play(void *argument)
{
    struct player *player = argument;
    const uint64_t count = rounds(HANDOVERS);
    for (uint64_t i = 0; i < count; i++) {
        berth_token token;
        while ((token = __atomic_exchange_n(player->mailbox, 0, __ATOMIC_ACQUIRE)) == 0)
            sched_yield();
        player->wrong += berth_table_take(&player->view, token) != 0;
        struct berth_slot *slot = berth_table_find(&player->view, token);
        if (slot == NULL) {
            player->wrong++;
            return NULL;
        }
        ++*stamp_of(slot);
        berth_table_touch(&player->view, slot->index);
        const uint8_t to = player->other->view.owner_id;
        player->wrong += berth_table_give(&player->view, token, to) != 0;
        __atomic_store_n(player->other->mailbox, token, __ATOMIC_RELEASE);
    }
    return NULL;
}

START_TEST(slots_travel_between_threads)
{
    static struct player players[2];
    static uint64_t mailboxes[2];
    struct berth_table table;
    must_init_shared(&table, 0);
    for (unsigned i = 0; i < 2; i++) {
        players[i] = (struct player){.mailbox = &mailboxes[i], .other = &players[1 - i]};
        must_attach(&players[i].view, &table, (uint8_t)(2 + i));
    }
    const berth_token token = must_claim_token(&table, 123);
    ck_assert_int_eq(berth_table_give(&table, token, 2), 0);
    mailboxes[0] = token;
    mailboxes[1] = 0;
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&players[i].thread, NULL, play, &players[i]), 0);
    for (unsigned i = 0; i < 2; i++) {
        ck_assert_int_eq(pthread_join(players[i].thread, NULL), 0);
        ck_assert_uint_eq(players[i].wrong, 0);
        ck_assert_uint_eq(berth_table_live_count(&players[i].view), 0);
    }
    ck_assert_uint_eq(mailboxes[0], token);
    ck_assert_int_eq(berth_table_take(&players[0].view, token), 0);
    struct berth_slot *slot = berth_table_find(&players[0].view, token);
    ck_assert_uint_eq(*stamp_of(slot), 2 * rounds(HANDOVERS));
    for (unsigned i = 0; i < 2; i++)
        berth_table_fini(&players[i].view);
    must_fini(&table);
}
END_TEST

int
main(void)
{
    TCase *tests = tcase_create("shared");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, views_refuse_misuse);
    tcase_add_test(tests, slots_are_found_by_their_owner_alone);
    tcase_add_test(tests, given_slots_belong_to_nobody_until_taken);
    tcase_add_test(tests, sweeps_list_only_the_view_s_own);
    tcase_add_test(tests, threads_contend_and_never_mix);
    tcase_add_test(tests, slots_travel_between_threads);
    Suite *suite = suite_create("shared");
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
