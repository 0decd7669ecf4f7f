/*
 * A real epoll set under a hail of closing and reopening. Handlers close any object, their own
 * included, and open others that take over the numbers at once, all within the batch; some are
 * closed behind the set's back while a copy of the descriptor lives on (a ghost).
 *
 * Every object has an identity that no other ever has. It is in the slot; it is what is written to
 * the object, and so what is read from it; and the test notes who had which number when the batch
 * was fetched. A delivery is wrong if any of these disagree. That the test can fail is shown by a
 * control: the same storm over bare descriptors.
 *
 * BERTH_SEED and BERTH_EVENTS (how many deliveries) are taken from the environment.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <fcntl.h>

#include "berth/adapt/epoll.h"
#include "support/support.h"

#define EVENTS UINT64_C(1000000)
#define EVENTS_SLOW UINT64_C(30000)
#define EVENTS_CONTROL UINT64_C(20000)

#define OBJECTS 96
#define READY_MIN 48 /* objects with something to read, before each wait */
#define BATCH 64
#define GHOSTS 16    /* copies kept open at once */
#define NUMBERS 1024 /* descriptors below this are noted */

enum kind { EVENTFD, PIPE, SOCKETPAIR, KINDS };

struct object {
    uint64_t id; /* 0: nobody has this number */
    int peer;    /* what to write to */
    int pending; /* written, not read yet */
};

/** What was seen. Check's own assertions are too dear for each event: these are looked at last. */
struct tally {
    uint64_t waits;
    uint64_t delivered;
    uint64_t wrong_identity; /* the slot's owner is not who had the number at the wait */
    uint64_t wrong_data;     /* nothing to read, or another's identity */
    uint64_t reopened;
    uint64_t ghosts;
};

static struct {
    struct object objects[NUMBERS];
    int numbers[OBJECTS]; /* the descriptors of those alive */
    int copies[GHOSTS];
    uint64_t random;
    uint64_t next_id;
    unsigned pending;
    int bare; /* the control: data.fd, and no table */
    int bare_set;
    struct berth_table table;
    struct berth_epoll set;
    struct tally tally;
} t;

static uint32_t
random_below(uint32_t bound)
{
    return (uint32_t)((test_random(&t.random) >> 32) * bound >> 32);
}

/** A step of the storm that cannot fail unless the system is out of something. */
static void
must(int good, const char *what)
{
    if (!good)
        ck_abort_msg("%s: errno %d, %" PRIu64 " delivered", what, errno, t.tally.delivered);
}

/* ---- objects ------------------------------------------------------------------------------- */

static int
descriptor_new(int *peer)
{
    int pair[2];
    switch ((enum kind)random_below(KINDS)) {
    case PIPE:
        must(pipe2(pair, O_NONBLOCK | O_CLOEXEC) == 0, "pipe2");
        break;
    case SOCKETPAIR:
        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0,
             "socketpair");
        break;
    default:
        pair[0] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        pair[1] = pair[0];
    }
    must(pair[0] >= 0 && pair[0] < NUMBERS, "a descriptor");
    *peer = pair[1];
    return pair[0];
}

/** The identity in a live slot. */
static uint64_t
slot_id(struct berth_slot *slot)
{
    return *(uint64_t *)berth_slot_payload(slot);
}

static void
object_write(int fd)
{
    struct object *object = &t.objects[fd];
    if (object->pending)
        return;
    must(write(object->peer, &object->id, sizeof(object->id)) == 8, "write");
    object->pending = 1;
    t.pending++;
}

static void
object_register(int fd, uint64_t id)
{
    if (t.bare) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        must(epoll_ctl(t.bare_set, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
        return;
    }
    struct berth_slot *slot = NULL;
    must(berth_table_claim(&t.table, (uint32_t)fd, &slot) == 0, "claim");
    *(uint64_t *)berth_slot_payload(slot) = id;
    must(berth_epoll_add(&t.set, slot, EPOLLIN) == 0, "add");
}

static void
object_open(unsigned place)
{
    int peer;
    const int fd = descriptor_new(&peer);
    const uint64_t id = ++t.next_id;
    t.objects[fd] = (struct object){id, peer, 0};
    t.numbers[place] = fd;
    object_register(fd, id);
    if (random_below(2) == 0)
        object_write(fd);
}

static void
object_close(unsigned place)
{
    const int fd = t.numbers[place];
    struct object *object = &t.objects[fd];
    const int peer = object->peer;
    t.pending -= object->pending != 0;
    object->id = 0;
    if (t.bare)
        must(close(fd) == 0, "close");
    else
        must(berth_epoll_close(&t.set, berth_table_slot(&t.table, (uint32_t)fd)) == 0, "close");
    if (peer != fd)
        must(close(peer) == 0, "close");
}

/**
 * Leaves a ghost: something to read, a copy that keeps the file open, and nobody who takes it out
 * of the set. What a fork(2), or a library that dups what it is given, does to a program.
 */
static void
object_haunt(unsigned place)
{
    const int fd = t.numbers[place];
    struct object *object = &t.objects[fd];
    int *copy = &t.copies[t.tally.ghosts++ % GHOSTS];
    object_write(fd);
    if (*copy >= 0)
        must(close(*copy) == 0, "close");
    *copy = dup(fd);
    must(*copy >= 0, "dup");
    const struct berth_slot *slot = berth_table_slot(&t.table, (uint32_t)fd);
    must(berth_table_release(&t.table, berth_slot_token(slot, 0)) == 0, "release");
    if (object->peer != fd)
        must(close(object->peer) == 0, "close");
    must(close(fd) == 0, "close");
    t.pending--;
    object->id = 0;
}

/* ---- the storm ----------------------------------------------------------------------------- */

/** What a handler does besides reading: to itself and to others of the same batch. */
static void
make_trouble(void)
{
    object_write(t.numbers[random_below(OBJECTS)]);
    if (random_below(6) != 0)
        return;
    unsigned places[3];
    const unsigned count = 1 + random_below(3);
    for (unsigned i = 0; i < count; i++) {
        places[i] = (random_below(OBJECTS / 3)) * 3 + i; /* no place twice */
        if (!t.bare && random_below(40) == 0)
            object_haunt(places[i]);
        else
            object_close(places[i]);
    }
    for (unsigned i = 0; i < count; i++) /* others than those closed take over the numbers */
        object_open(places[i]);
    t.tally.reopened += count;
}

/** One delivery: `id` is who it was delivered to, `then` who had the number at the wait. */
static void
deliver(int fd, uint64_t id, uint64_t then)
{
    uint64_t read_id = 0;
    t.tally.delivered++;
    t.tally.wrong_identity += id != then;
    const ssize_t got = read(fd, &read_id, sizeof(read_id));
    if (got == (ssize_t)sizeof(read_id)) {
        t.objects[fd].pending = 0;
        t.pending--;
    }
    t.tally.wrong_data += got != (ssize_t)sizeof(read_id) || read_id != id;
}

static int
event_fd(const struct epoll_event *event)
{
    return t.bare ? event->data.fd : (int)berth_token_index(event->data.u64);
}

/** Waits once and delivers; with `quietly` handlers do nothing but read. */
static int
turn(int quietly)
{
    struct epoll_event events[BATCH];
    uint64_t then[BATCH];
    const int count = epoll_wait(t.bare ? t.bare_set : t.set.fd, events, BATCH, 0);
    t.tally.waits++;
    for (int i = 0; i < count; i++)
        then[i] = t.objects[event_fd(&events[i])].id;
    if (!t.bare) {
        BERTH_EPOLL_EACH (at, &t.set, events, count) {
            deliver(at.fd, slot_id(at.slot), then[at.next - 1]);
            if (!quietly)
                make_trouble();
        }
        return count;
    }
    for (int i = 0; i < count; i++) {
        const int fd = event_fd(&events[i]);
        if (t.objects[fd].id == 0)
            continue;
        deliver(fd, t.objects[fd].id, then[i]);
        if (!quietly)
            make_trouble();
    }
    return count;
}

static void
storm_begin(const char *name, int bare)
{
    memset(&t, 0, sizeof(t));
    t.random = test_seed(name);
    t.bare = bare;
    for (unsigned i = 0; i < GHOSTS; i++)
        t.copies[i] = -1;
    ck_assert_int_eq(berth_table_init(&t.table, NULL), 0);
    ck_assert_int_eq(berth_epoll_init(&t.set, &t.table), 0);
    t.bare_set = epoll_create1(EPOLL_CLOEXEC);
    ck_assert_int_ge(t.bare_set, 0);
    for (unsigned i = 0; i < OBJECTS; i++)
        object_open(i);
}

static void
storm(uint64_t events)
{
    while (t.tally.delivered < events) {
        while (t.pending < READY_MIN)
            object_write(t.numbers[random_below(OBJECTS)]);
        const int count = turn(0);
        must(count > 0, "epoll_wait: an event was lost");
    }
}

static void
storm_end(void)
{
    const char *why = "unset";
    ck_assert_msg(berth_table_verify(&t.table, &why) == 0, "verify: %s", why);
    for (unsigned i = 0; i < OBJECTS; i++)
        object_close(i);
    for (unsigned i = 0; i < GHOSTS; i++)
        if (t.copies[i] >= 0)
            (void)close(t.copies[i]);
    ck_assert_uint_eq(berth_table_live_count(&t.table), 0);
    berth_epoll_fini(&t.set);
    (void)close(t.bare_set);
    berth_table_fini(&t.table);
}

static void
print_tally(const char *name, double seconds)
{
    struct berth_table_stats stats;
    berth_table_stats_get(&t.table, &stats);
    printf("%s: %" PRIu64 " delivered in %" PRIu64 " waits and %.1f s, %" PRIu64
           " wrong identities, %" PRIu64 " wrong data; %" PRIu64 " reopened, %" PRIu64
           " stale events dropped; %" PRIu64 " ghosts made, %" PRIu64 " removed, %" PRIu64
           " rebuilds\n",
           name, t.tally.delivered, t.tally.waits, seconds, t.tally.wrong_identity,
           t.tally.wrong_data, t.tally.reopened, stats.stale, t.tally.ghosts, stats.ghosts,
           stats.rebuilds);
}

static double
seconds_now(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

START_TEST(no_event_reaches_a_stranger)
{
    const uint64_t events = test_rounds("BERTH_EVENTS", test_is_slow() ? EVENTS_SLOW : EVENTS);
    storm_begin("storm", 0);
    const double start = seconds_now();
    storm(events);
    print_tally("storm", seconds_now() - start);
    ck_assert_uint_eq(t.tally.wrong_identity, 0);
    ck_assert_uint_eq(t.tally.wrong_data, 0);
    /* The storm was one: numbers did change hands within batches, and copies did haunt the set. */
    ck_assert_uint_gt(t.table.stats.stale, t.tally.delivered / 100);
    ck_assert_uint_gt(t.table.stats.ghosts + t.table.stats.rebuilds, 0);
    ck_assert_uint_eq(t.table.stats.malformed, 0);
    /* No ghost is let pass for longer than promised: what is stale is a leftover of its batch, or
     * one of the strikes before a rebuild. */
    ck_assert_uint_le(t.table.stats.stale,
                      t.tally.reopened +
                          (t.table.stats.rebuilds + 1) * (BERTH_EPOLL_STRIKES + OBJECTS / 8) +
                          2 * t.tally.ghosts);

    for (int i = 0; i < 100 && t.pending > 0; i++) /* whatever was written arrives */
        (void)turn(1);
    ck_assert_uint_eq(t.pending, 0);
    ck_assert_uint_eq(t.tally.wrong_identity + t.tally.wrong_data, 0);
    storm_end();
}
END_TEST

START_TEST(bare_descriptors_do_reach_strangers)
{
    storm_begin("control", 1);
    const double start = seconds_now();
    storm(EVENTS_CONTROL);
    print_tally("control", seconds_now() - start);
    ck_assert_uint_gt(t.tally.wrong_identity, 0);
    ck_assert_uint_gt(t.tally.wrong_data, 0);
    storm_end();
}
END_TEST

/* ---- ghosts -------------------------------------------------------------------------------- */

/** Nobody alive is ready, some ghosts are. Their number may be anything up to GHOSTS. */
static void
haunt_quiet_set(const char *name, unsigned ghosts)
{
    storm_begin(name, 0);
    while (t.pending > 0)
        (void)turn(1);
    for (unsigned i = 0; i < ghosts; i++) {
        object_haunt(i);
        object_open(i);
    }
    while (t.pending > 0)
        (void)turn(1);
    t.tally.waits = 0;
}

START_TEST(ghosts_are_laid_after_a_few_waits)
{
    static const unsigned counts[] = {1, 2, GHOSTS};
    const unsigned ghosts = counts[_i];
    haunt_quiet_set("ghosts", ghosts);
    while (turn(1) > 0)
        ck_assert_uint_le(t.tally.waits, BERTH_EPOLL_STRIKES + OBJECTS / 8 + 2);
    printf("%u ghosts: gone after %" PRIu64 " waits\n", ghosts, t.tally.waits);
    ck_assert_uint_eq(t.table.stats.rebuilds, 1);
    ck_assert_uint_eq(t.tally.wrong_identity + t.tally.wrong_data, 0);

    for (unsigned i = 0; i < OBJECTS; i++) /* and the living are all there */
        object_write(t.numbers[i]);
    while (t.pending > 0 && turn(1) > 0)
        ;
    ck_assert_uint_eq(t.pending, 0);
    ck_assert_int_eq(turn(1), 0);
    storm_end();
}
END_TEST

START_TEST(ghosts_merely_dropped_spin_for_ever)
{
    struct epoll_event event;
    haunt_quiet_set("dropped", 1);
    /* The control: what a loop does that looks tokens up and does nothing about the stale. */
    for (unsigned i = 0; i < 10000; i++) {
        ck_assert_int_eq(epoll_wait(t.set.fd, &event, 1, 0), 1);
        ck_assert_ptr_null(berth_table_find(&t.table, event.data.u64));
    }
    storm_end();
}
END_TEST

int
main(void)
{
    TCase *tests = tcase_create("torture");
    tcase_set_timeout(tests, 1200);
    tcase_add_checked_fixture(tests, test_descriptors_note, test_descriptors_compare);
    tcase_add_test(tests, no_event_reaches_a_stranger);
    tcase_add_test(tests, bare_descriptors_do_reach_strangers);
    tcase_add_loop_test(tests, ghosts_are_laid_after_a_few_waits, 0, 3);
    tcase_add_test(tests, ghosts_merely_dropped_spin_for_ever);
    Suite *suite = suite_create("epoll torture");
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
