/*
 * The copy ledger in words, to the letter; and that a connection's own ledger has every byte that
 * it moved and no other, on every engine, whatever way its bytes took.
 *
 * SPDX-License-Identifier: MIT
 */
#include <locale.h>

#include "loop/record.h"

#define MESSAGE 1500u
#define KEPT_MAX 8u
#define TEXT_MAX 1024

/* ---- the sentences -------------------------------------------------------------------------- */

static void
check_text(const struct berth_copies *copies, const char *expected)
{
    char text[TEXT_MAX];
    const int needed = berth_copies_explain(copies, text, sizeof(text));
    ck_assert_str_eq(text, expected);
    ck_assert_int_eq(needed, (int)strlen(expected));
}

START_TEST(nothing_and_little)
{
    struct berth_copies copies;
    memset(&copies, 0, sizeof(copies));
    check_text(&copies, "received nothing\nsent nothing\n");
    copies.received = copies.received_kernel = 1;
    copies.sent = copies.sent_kernel = 2;
    check_text(&copies, "received 1 byte, 1.00 copies per byte (kernel to pool)\n"
                        "sent 2 bytes, 1.00 copies per byte (kernel from pool)\n");
    copies.received = copies.received_kernel = 999;
    copies.sent = copies.sent_kernel = 1000;
    check_text(&copies, "received 999 bytes, 1.00 copies per byte (kernel to pool)\n"
                        "sent 1.0 kB, 1.00 copies per byte (kernel from pool)\n");
    /* A pool without a loop: nobody says what was received, but copies were made. */
    memset(&copies, 0, sizeof(copies));
    copies.received_pullup = 1;
    copies.received_compact = 2500;
    copies.sent_application = 20;
    check_text(&copies, "received nothing (pulled up 1 byte, compacted 2.5 kB)\n"
                        "sent nothing (declared by the application 20 bytes)\n");
    /* Nobody has said how. */
    memset(&copies, 0, sizeof(copies));
    copies.received = 10;
    check_text(&copies, "received 10 bytes, 0.00 copies per byte\nsent nothing\n");
}
END_TEST

START_TEST(every_way_is_named)
{
    struct berth_copies copies;
    memset(&copies, 0, sizeof(copies));
    copies.received = 1000000;
    copies.received_kernel = 400000;
    copies.received_mapped = 300000;
    copies.received_direct = 200000;
    copies.received_spliced = 100000;
    copies.received_pullup = 1;
    copies.received_compact = 50000;
    copies.received_application = 1500000;
    copies.sent = 3400000000;
    copies.sent_kernel = 340000000;
    copies.sent_file = 170000000;
    copies.sent_spliced = 170000000;
    copies.sent_zerocopy = 2720000000;
    copies.sent_in_place = 2000000000;
    copies.sent_copied_anyway = 360000000;
    copies.sent_gather = 340000000;
    copies.sent_application = 34000000;
    check_text(&copies, "received 1.0 MB, 1.95 to 2.15 copies per byte (kernel to pool 40 %, "
                        "pages mapped 30 %, by the network card 20 %, passed on by a pipe 10 %, "
                        "pulled up under 1 %, compacted 5 %, declared by the application 150 %)\n"
                        "sent 3.4 GB, 0.21 to 0.42 copies per byte (kernel from pool 10 %, "
                        "pages of a file 5 %, passed on by a pipe 5 %, read in place 59 %, "
                        "copied anyway 11 %, not known yet 11 %, gathered by berth_send 10 %, "
                        "declared by the application 1 %)\n");
}
END_TEST

START_TEST(bounds_and_shares)
{
    struct berth_copies copies;
    memset(&copies, 0, sizeof(copies));
    copies.received = copies.received_kernel = 5000;
    copies.received_pullup = 5000;
    copies.sent = copies.sent_zerocopy = 10000; /* and the kernel has not said anything */
    check_text(&copies, "received 5.0 kB, 2.00 copies per byte (kernel to pool 100 %, "
                        "pulled up 100 %)\n"
                        "sent 10.0 kB, 0.00 to 1.00 copies per byte (not known yet)\n");
    copies.sent_in_place = 8000;
    copies.sent_copied_anyway = 2000;
    check_text(&copies, "received 5.0 kB, 2.00 copies per byte (kernel to pool 100 %, "
                        "pulled up 100 %)\n"
                        "sent 10.0 kB, 0.00 to 0.20 copies per byte (read in place 80 %, "
                        "copied anyway 20 %)\n");
    copies.sent_in_place = 9999;
    copies.sent_copied_anyway = 1;
    copies.received = copies.received_mapped = 123456;
    copies.received_kernel = copies.received_pullup = 0;
    check_text(&copies, "received 123.5 kB, 0.00 copies per byte (pages mapped)\n"
                        "sent 10.0 kB, 0.00 copies per byte (read in place over 99 %, "
                        "copied anyway under 1 %)\n");
    /* A difference of two snapshots: the kernel spoke of what was sent before the first. */
    copies.sent = copies.sent_zerocopy = 100;
    copies.sent_in_place = 200;
    copies.sent_copied_anyway = 0;
    check_text(&copies, "received 123.5 kB, 0.00 copies per byte (pages mapped)\n"
                        "sent 100 bytes, 0.00 copies per byte (read in place 200 %)\n");
}
END_TEST

START_TEST(huge)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } amounts[] = {
        {1949, "1.9 kB"},
        {1950, "2.0 kB"},
        {999949, "999.9 kB"},
        {999950, "1.0 MB"},
        {UINT64_C(999949999), "999.9 MB"},
        {UINT64_C(999950000), "1.0 GB"},
        {UINT64_C(1234567890123), "1.2 TB"},
        {UINT64_C(7654321000000000), "7.7 PB"},
        {UINT64_MAX, "18.4 EB"},
    };
    char expected[TEXT_MAX];
    for (unsigned i = 0; i < sizeof(amounts) / sizeof(amounts[0]); i++) {
        struct berth_copies copies;
        memset(&copies, 0, sizeof(copies));
        copies.received = copies.received_kernel = amounts[i].bytes;
        (void)snprintf(expected, sizeof(expected),
                       "received %s, 1.00 copies per byte (kernel to pool)\nsent nothing\n",
                       amounts[i].text);
        check_text(&copies, expected);
    }
    struct berth_copies all;
    memset(&all, 0xff, sizeof(all));
    all.received = 1;
    all.sent = 1000000000000;
    all.sent_application = 0;
    ck_assert_int_lt(berth_copies_explain(&all, expected, sizeof(expected)), TEXT_MAX);
    ck_assert_ptr_nonnull(strstr(expected, "received 1 byte, "));
    ck_assert_ptr_null(strstr(expected, "-"));
}
END_TEST

START_TEST(like_snprintf)
{
    char text[TEXT_MAX], part[TEXT_MAX];
    struct berth_copies copies;
    memset(&copies, 0, sizeof(copies));
    copies.received = copies.received_kernel = 1500;
    copies.sent = 1000;
    copies.sent_kernel = copies.sent_gather = 500;
    const int needed = berth_copies_explain(&copies, NULL, 0);
    ck_assert_int_eq(berth_copies_explain(&copies, text, sizeof(text)), needed);
    ck_assert_uint_eq(strlen(text), (size_t)needed);
    for (size_t size = 1; size <= (size_t)needed + 1; size++) {
        memset(part, '#', sizeof(part));
        ck_assert_int_eq(berth_copies_explain(&copies, part, size), needed);
        ck_assert_uint_eq(strlen(part), size - 1);
        ck_assert_int_eq(memcmp(part, text, size - 1), 0);
        ck_assert_int_eq(part[size], '#');
    }
    ck_assert_int_eq(berth_copies_explain(NULL, text, sizeof(text)), -EINVAL);
    ck_assert_int_eq(berth_copies_explain(&copies, NULL, 1), -EINVAL);
    /* Where a comma is the decimal point, if this system has such a place. */
    if (setlocale(LC_ALL, "de_DE.UTF-8") == NULL && setlocale(LC_ALL, "fr_FR.UTF-8") == NULL)
        printf("no locale with a decimal comma here: not tried\n");
    ck_assert_int_eq(berth_copies_explain(&copies, part, sizeof(part)), needed);
    ck_assert_str_eq(part, text);
    (void)setlocale(LC_ALL, "C");
}
END_TEST

/* ---- a connection's own --------------------------------------------------------------------- */

/** What is done with the bytes that come. */
enum way { COPIED, SPANS, LEASES, KEPT, PULLED_UP };

struct ledger_test {
    struct record record;
    struct rig rig;
    enum way way;
    size_t received;
    struct berth_lease leases[KEPT_MAX]; /**< to be sent outside of the callback */
    unsigned leases_count;
    struct berth_chain chain;
    struct berth_copies last; /**< as asked in the close callback */
};

static void
handle_span(struct ledger_test *test, struct berth_conn *conn, const struct berth_span *span)
{
    struct berth_pool *pool = berth_loop_pool(test->rig.loop);
    struct berth_lease lease;
    if (test->way == COPIED) {
        ck_assert_int_eq(berth_send(conn, span->data, span->length), 0);
    } else if (test->way == SPANS) {
        ck_assert_int_eq(berth_send_span(conn, span), 0);
    } else {
        ck_assert_int_eq(berth_retain(pool, span, 0, span->length, 0, &lease), 0);
        if (test->way == LEASES) {
            ck_assert_uint_lt(test->leases_count, KEPT_MAX);
            test->leases[test->leases_count++] = lease;
        } else {
            ck_assert_int_eq(berth_chain_append(pool, &test->chain, lease), 0);
        }
    }
}

static void
take_data(struct berth_conn *conn, const struct berth_span *spans, unsigned n, size_t bytes)
{
    struct ledger_test *test = berth_conn_context(conn);
    test->received += bytes;
    for (unsigned i = 0; i < n; i++)
        handle_span(test, conn, &spans[i]);
}

static void
close_asking(struct berth_conn *conn, int reason)
{
    struct ledger_test *test = berth_conn_context(conn);
    ck_assert_int_eq(berth_conn_copies_get(conn, &test->last), 0);
    record_close(conn, reason);
}

static const struct berth_handlers handlers = {
    .open = record_open, .data = take_data, .close = close_asking};

static struct berth_copies
ledger_of(const struct ledger_test *test, berth_token token)
{
    struct berth_copies copies;
    memset(&copies, 0xff, sizeof(copies));
    ck_assert_int_eq(berth_conn_copies_get(berth_conn_find(test->rig.loop, token), &copies), 0);
    return copies;
}

/** The message is sent, and `back` bytes come back. */
static void
exchange(struct ledger_test *test, int client, berth_token token, enum way way, size_t back)
{
    static char text[2 * MESSAGE];
    struct berth_conn *conn = berth_conn_find(test->rig.loop, token);
    const size_t sent = (size_t)ledger_of(test, token).sent + back;
    test->way = way;
    test->received = 0;
    rig_write(client, text, MESSAGE);
    RIG_UNTIL(&test->rig, test->received == MESSAGE, TURNS);
    for (unsigned i = 0; i < test->leases_count; i++)
        ck_assert_int_eq(berth_send_lease(conn, test->leases[i]), 0);
    test->leases_count = 0;
    if (way == PULLED_UP) {
        struct berth_pool *pool = berth_loop_pool(test->rig.loop);
        ck_assert_ptr_nonnull(berth_chain_pullup(pool, &test->chain, 2 * MESSAGE));
        ck_assert_int_eq(berth_send_chain(conn, &test->chain), 0);
    }
    for (size_t got = 0; got < back;) {
        intptr_t more = -EAGAIN;
        RIG_UNTIL(&test->rig, (more = rig_read(client, text, sizeof(text))) > 0, TURNS);
        got += (size_t)more;
    }
    RIG_UNTIL(&test->rig, ledger_of(test, token).sent == sent, TURNS);
}

static void
check_ledger(const struct berth_copies *copies, uint64_t received, uint64_t sent, uint64_t gathered)
{
    ck_assert_uint_eq(copies->received, received);
    ck_assert_uint_eq(copies->received_kernel, received);
    ck_assert_uint_eq(copies->received_mapped + copies->received_direct, 0);
    ck_assert_uint_eq(copies->received_spliced + copies->received_application, 0);
    ck_assert_uint_eq(copies->sent, sent);
    ck_assert_uint_eq(copies->sent_kernel, sent);
    ck_assert_uint_eq(copies->sent_file + copies->sent_spliced + copies->sent_zerocopy, 0);
    ck_assert_uint_eq(copies->sent_in_place + copies->sent_copied_anyway, 0);
    ck_assert_uint_eq(copies->sent_gather, gathered);
    ck_assert_uint_eq(copies->sent_application, 0);
}

static void
begin(struct ledger_test *test, const char *engine, int conn_stats)
{
    struct berth_loop_options options;
    rig_options(&options, engine, NULL);
    options.conn_stats = conn_stats;
    memset(test, 0, sizeof(*test));
    test->record.rig = &test->rig;
    rig_begin(&test->rig, &options, conn_stats ? &handlers : &recording, test);
}

START_TEST(each_has_its_own_bytes)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ledger_test test;
    struct berth_copies copies;
    int clients[2];
    berth_token tokens[2];
    char text[TEXT_MAX];
    begin(&test, engine, 1);
    for (unsigned i = 0; i < 2; i++) {
        clients[i] = rig_client(&test.rig);
        RIG_UNTIL(&test.rig, test.record.opens == i + 1, TURNS);
        tokens[i] = test.record.last;
    }
    copies = ledger_of(&test, tokens[0]);
    check_ledger(&copies, 0, 0, 0);

    exchange(&test, clients[0], tokens[0], COPIED, MESSAGE);
    exchange(&test, clients[0], tokens[0], SPANS, MESSAGE);
    exchange(&test, clients[0], tokens[0], LEASES, MESSAGE);
    exchange(&test, clients[0], tokens[0], KEPT, 0);
    exchange(&test, clients[0], tokens[0], PULLED_UP, 2 * (size_t)MESSAGE);
    exchange(&test, clients[1], tokens[1], SPANS, MESSAGE);
    exchange(&test, clients[1], tokens[1], COPIED, MESSAGE);
    exchange(&test, clients[1], tokens[1], COPIED, MESSAGE);

    copies = ledger_of(&test, tokens[0]);
    check_ledger(&copies, 5 * MESSAGE, 5 * MESSAGE, MESSAGE);
    ck_assert_uint_eq(copies.received_pullup, 0); /* the pool's: nobody can say whose it was */
    copies = ledger_of(&test, tokens[1]);
    check_ledger(&copies, 3 * MESSAGE, 3 * MESSAGE, 2 * MESSAGE);
    ck_assert_int_gt(
        berth_conn_explain(berth_conn_find(test.rig.loop, tokens[1]), text, sizeof(text)), 0);
    ck_assert_str_eq(text, "received 4.5 kB, 1.00 copies per byte (kernel to pool)\n"
                           "sent 4.5 kB, 1.67 copies per byte (kernel from pool 100 %, "
                           "gathered by berth_send 67 %)\n");

    /* All of them together are the loop's, and what the pool did besides. */
    berth_loop_copies_get(test.rig.loop, &copies);
    check_ledger(&copies, 8 * MESSAGE, 8 * MESSAGE, 3 * MESSAGE);
    ck_assert_uint_gt(copies.received_pullup, 0);

    ck_assert_int_eq(berth_conn_close(berth_conn_find(test.rig.loop, tokens[0])), 0);
    RIG_UNTIL(&test.rig, test.record.closes == 1, TURNS);
    check_ledger(&test.last, 5 * MESSAGE, 5 * MESSAGE, MESSAGE);
    rig_close_all(&test.rig, clients, 2);
    record_end(&test.rig, &test.record);
}
END_TEST

START_TEST(none_without_the_option)
{
    RIG_ENGINE_OR_RETURN(engine);
    struct ledger_test test;
    struct berth_copies copies;
    char text[TEXT_MAX];
    begin(&test, engine, 0);
    const int client = rig_client(&test.rig);
    RIG_UNTIL(&test.rig, test.record.opens == 1, TURNS);
    struct berth_conn *conn = berth_conn_find(test.rig.loop, test.record.last);
    ck_assert_int_eq(berth_conn_copies_get(conn, &copies), -ENOTSUP);
    ck_assert_int_eq(berth_conn_explain(conn, text, sizeof(text)), -ENOTSUP);
    ck_assert_int_eq(berth_conn_copies_get(conn, NULL), -EINVAL);
    ck_assert_int_eq(berth_conn_copies_get(NULL, &copies), -EINVAL);
    ck_assert_int_eq(berth_conn_explain(NULL, text, sizeof(text)), -EINVAL);
    ck_assert_int_eq(berth_conn_close(conn), 0);
    RIG_UNTIL(&test.rig, test.record.closes == 1, TURNS);
    ck_assert_int_eq(close(client), 0);
    record_end(&test.rig, &test.record);
}
END_TEST

static Suite *
ledger_suite(void)
{
    Suite *suite = suite_create("ledger");
    TCase *sentences = tcase_create("sentences");
    tcase_add_test(sentences, nothing_and_little);
    tcase_add_test(sentences, every_way_is_named);
    tcase_add_test(sentences, bounds_and_shares);
    tcase_add_test(sentences, huge);
    tcase_add_test(sentences, like_snprintf);
    suite_add_tcase(suite, sentences);
    RIG_ADD(suite, each_has_its_own_bytes);
    RIG_ADD(suite, none_without_the_option);
    return suite;
}

int
main(void)
{
    return test_run(ledger_suite());
}
