/*
 * Text from outside, as berth-bench takes it: what may be written anywhere, what is replaced, how
 * it is cut; and lists of names.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

#include "names.h"
#include "text.h"

/** Copies through blocks of exactly their size, so that a checking tool sees a step past an end. */
static void
check_copy(const char *from, size_t size, const char *expected)
{
    char *source = strdup(from), *target = malloc(size);
    ck_assert(source != NULL && target != NULL);
    text_copy(target, size, source);
    ck_assert_str_eq(target, expected);
    free(source);
    free(target);
}

START_TEST(text_is_copied_as_it_is)
{
    check_copy("", 1, "");
    check_copy("berth-epoll, 1000 conns", 40, "berth-epoll, 1000 conns");
    check_copy("<script>\"'&`$", 40, "<script>\"'&`$");
    check_copy("Grüße, 世界, \xf0\x9f\x9a\xa2", 40, "Grüße, 世界, \xf0\x9f\x9a\xa2");
}
END_TEST

START_TEST(what_may_not_be_written_is_replaced)
{
    check_copy("a\nb\tc", 40, "a b c");
    check_copy("\033[31mred\033[0m\a\r\x7f", 40, "?[31mred?[0m???");
    check_copy("caf\xe9", 40, "caf?");                    /* Latin-1 */
    check_copy("\xc0\xaf \xc1\xbf", 40, "?? ??");         /* overlong */
    check_copy("\xe0\x80\xaf", 40, "???");                /* overlong */
    check_copy("\xf0\x80\x80\xaf", 40, "????");           /* overlong */
    check_copy("\xed\xa0\x80", 40, "???");                /* half of a pair */
    check_copy("\xef\xbf\xbe\xef\xbf\xbf", 40, "??????"); /* no characters */
    check_copy("\xf4\x90\x80\x80", 40, "????");           /* past the last */
    check_copy("\xf8\x88\x80\x80\x80\xff", 40, "??????");
    check_copy("\xc2\x85", 40, "??"); /* a control of the second kind */
    check_copy("\x80\xbf", 40, "??");
    check_copy("\xe4\xb8", 40, "??"); /* ends in the middle */
    check_copy("\xf0\x9f\x9a", 40, "???");
}
END_TEST

START_TEST(text_is_cut_between_characters)
{
    check_copy("abc", 1, "");
    check_copy("abc", 3, "ab");
    check_copy("abc", 4, "abc");
    check_copy("aü", 3, "a");
    check_copy("aü", 4, "aü");
    check_copy("世界", 6, "世");
    check_copy("世界", 7, "世界");
    check_copy("\xf0\x9f\x9a\xa2", 4, "");
}
END_TEST

/** Whatever the bytes, what comes out may be written, and cannot be made any cleaner. */
START_TEST(any_bytes_come_out_clean)
{
    uint64_t state = test_seed("text");
    for (unsigned round = 0; round < 20000; round++) {
        char raw[24], once[24], twice[24];
        for (size_t i = 0; i < sizeof raw - 1; i++)
            raw[i] = (char)(test_random(&state) % 4 == 0 ? 0x80 + test_random(&state) % 64
                                                         : 1 + test_random(&state) % 255);
        raw[sizeof raw - 1] = '\0';
        text_copy(once, sizeof once, raw);
        for (const char *at = once; *at != '\0'; at += text_character(at))
            ck_assert_uint_gt(text_character(at), 0);
        text_copy(twice, sizeof twice, once);
        ck_assert_str_eq(once, twice);
    }
}
END_TEST

START_TEST(lists_of_names)
{
    const char *rest = NULL;
    ck_assert_uint_eq(names_first("slot,rbtree", &rest), 4);
    ck_assert_str_eq(rest, "rbtree");
    ck_assert_uint_eq(names_first(rest, &rest), 6);
    ck_assert_ptr_null(rest);
    ck_assert_uint_eq(names_first(",", &rest), 0);
    ck_assert_str_eq(rest, "");

    ck_assert(names_have(NULL, "slot"));
    ck_assert(names_have("slot", "slot"));
    ck_assert(names_have("a,slot,b", "slot"));
    ck_assert(names_have("a,slot", "slot"));
    ck_assert(!names_have("", "slot"));
    ck_assert(!names_have("slots", "slot"));
    ck_assert(!names_have("slo", "slot"));
    ck_assert(!names_have("a, slot", "slot"));
    ck_assert(!names_have("a,,b", "slot"));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("bench/text");
    TCase *tcase = tcase_create("text");
    tcase_add_checked_fixture(tcase, test_descriptors_note, test_descriptors_compare);
    tcase_add_test(tcase, text_is_copied_as_it_is);
    tcase_add_test(tcase, what_may_not_be_written_is_replaced);
    tcase_add_test(tcase, text_is_cut_between_characters);
    tcase_add_test(tcase, any_bytes_come_out_clean);
    tcase_add_test(tcase, lists_of_names);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
