/*
 * What the tests of direct descriptors share: a loop that has them, and handlers that count.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_DIRECT_H
#define BERTH_TESTS_LOOP_DIRECT_H

#include "loop/loop_rig.h"

#define TURNS 400
#define DIRECT_OR_RETURN                                                                           \
    if (!rig_has("uring-direct"))                                                                  \
    return

/** What the handlers below know. */
static struct {
    struct berth_conn *last;
    unsigned opens, closes;
} seen;

static inline int
on_open(struct berth_conn *conn, void *ctx)
{
    (void)ctx;
    ck_assert_int_eq(berth_conn_fd(conn), -1);
    seen.last = conn;
    seen.opens++;
    return 0;
}

static inline void
on_close(struct berth_conn *conn, int reason)
{
    (void)conn;
    ck_assert_int_le(reason, 0);
    seen.closes++;
}

static const struct berth_handlers echo = {.open = on_open, .data = rig_echo, .close = on_close};

static inline void
begin(struct rig *rig)
{
    struct berth_loop_options options;
    memset(&seen, 0, sizeof(seen));
    rig_options(&options, "uring-direct", NULL);
    rig_begin(rig, &options, &echo, NULL);
}

/** A client whose connection is open. */
static inline int
client_inside(const struct rig *rig)
{
    const unsigned before = seen.opens;
    const int client = rig_client(rig);
    RIG_UNTIL(rig, seen.opens == before + 1, TURNS);
    return client;
}

static inline void
must_echo(const struct rig *rig, int client)
{
    char text[8] = "";
    rig_write(client, "again", 5);
    RIG_UNTIL(rig, rig_read(client, text, sizeof(text)) == 5, TURNS);
    ck_assert_mem_eq(text, "again", 5);
}

/** Adds a test as a case of its own, run so many times. */
static inline void
add(Suite *suite, const char *name, const TTest *test, int times)
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, test_descriptors_note, test_descriptors_compare);
    tcase_add_loop_test(tcase, test, 0, times);
    suite_add_tcase(suite, tcase);
}
#define ADD(suite, test, times) add(suite, #test, test, times)

#endif
