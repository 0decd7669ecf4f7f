/*
 * Collecting results and writing them down: what is kept of hostile names, when a run is reliable,
 * and CSV and JSON to the letter. Whether a whole report is well-formed is judged by report.sh.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>

#include "hostile.h"

static struct report report;
static struct environment environment;
static char *text;

enum form { TEXT, JSON, CSV, HTML };

/** The report in that form, in `text` until the next call. */
static void
write_as(enum form form)
{
    size_t bytes = 0;
    free(text);
    text = NULL;
    FILE *memory = open_memstream(&text, &bytes);
    ck_assert_ptr_nonnull(memory);
    switch (form) {
    case TEXT:
        report_write_text(&report, &environment, memory);
        break;
    case JSON:
        report_write_json(&report, &environment, memory);
        break;
    case CSV:
        report_write_csv(&report, memory);
        break;
    case HTML:
        report_write_html(&report, &environment, NULL, NULL, memory);
        break;
    }
    ck_assert_int_eq(fclose(memory), 0);
}

static void
check_has(const char *part)
{
    ck_assert_msg(strstr(text, part) != NULL, "'%s' is not in:\n%s", part, text);
}

static void
check_lacks(const char *part)
{
    ck_assert_msg(strstr(text, part) == NULL, "'%s' is in:\n%s", part, text);
}

static void
tear_down(void)
{
    report_free(&report);
    free(text);
    text = NULL;
}

START_TEST(an_empty_report_is_reliable)
{
    report.case_name = "empty";
    write_as(JSON);
    check_has("\"reliable\": true");
    check_has("\"rows\": [\n  ]");
    write_as(CSV);
    ck_assert_str_eq(text, "");
}
END_TEST

START_TEST(controls_raise_doubts)
{
    report_control(&report, "good", (struct estimate){1.01, 0.99, 1.02, 0.96, 9});
    ck_assert_uint_eq(report.doubts_count, 0);
    report_control(&report, "noisy", (struct estimate){1.02, 1.01, 1.03, 0.96, 9});
    ck_assert_uint_eq(report.doubts_count, 1);
    report_control(&report, "missing", estimate_none());
    ck_assert_uint_eq(report.doubts_count, 2);
    ck_assert_ptr_nonnull(strstr(report.doubts[1], "missing"));
    report.case_name = "controls";
    for (enum form form = TEXT; form <= HTML; form++) {
        write_as(form);
        check_lacks("nan");
    }
}
END_TEST

START_TEST(figures_are_judged)
{
    report_figure(&report, "a", "a", "ns", estimate_exact(2), true, 2);
    report_figure(&report, "b", "b", "ns", estimate_exact(2), false, 2);
    report_figure(&report, "c", "c", "ns", estimate_exact(1.99), true, 2);
    report_figure(&report, "d", "d", "ns", estimate_none(), true, 2);
    report_figure(&report, "e", "e", "ns", estimate_exact(INFINITY), true, 2); /* over nothing */
    ck_assert_str_eq(report_figure_verdict(&report.figures[0]), "over");
    ck_assert_str_eq(report_figure_verdict(&report.figures[1]), "PASS");
    ck_assert_str_eq(report_figure_verdict(&report.figures[2]), "PASS");
    ck_assert_str_eq(report_figure_verdict(&report.figures[3]), "not measured");
    ck_assert_str_eq(report_figure_verdict(&report.figures[4]), "not measured");
    report.case_name = "figures";
    write_as(JSON);
    check_lacks("\"value\": null, \"target\": 2, \"met\": false");
}
END_TEST

START_TEST(csv_is_quoted)
{
    const struct estimate values[HOSTILE_COLUMNS] = {
        estimate_exact(1), {2.5, 2, 3, 0.96, 9}, estimate_none()};
    report_table_begin(&report, "a,b", hostile_columns, HOSTILE_COLUMNS);
    report_row(&report, "plain", values);
    report_row(&report, "find, one \"after\" the other", values);
    report_table_begin(&report, "second", hostile_columns, 1);
    report_row(&report, "x", values);
    write_as(CSV);
    ck_assert_str_eq(text, "table,variant,size_bytes,size_bytes_low,size_bytes_high,"
                           "cost_ns,cost_ns_low,cost_ns_high,"
                           "hidden_ns,hidden_ns_low,hidden_ns_high\n"
                           "\"a,b\",plain,1,,,2.5,2,3,,,\n"
                           "\"a,b\",\"find, one \"\"after\"\" the other\",1,,,2.5,2,3,,,\n"
                           "\n\n"
                           "table,variant,size_bytes,size_bytes_low,size_bytes_high\n"
                           "second,x,1,,\n");
}
END_TEST

START_TEST(hostile_reports_have_no_control_characters)
{
    hostile_make(&report, &environment);
    for (enum form form = TEXT; form <= HTML; form++) {
        write_as(form);
        for (const char *at = text; *at != '\0'; at++)
            ck_assert_msg((unsigned char)*at >= 0x20 || *at == '\n', "control in form %d", form);
        check_lacks("\xe9"); /* which stood alone: no UTF-8 */
        if (form != TEXT)
            check_lacks("nan");
    }
    write_as(JSON);
    check_has("\"variant\": \"<script>alert(\\\"1\\\")</script>&\"");
    check_has("\"cost_ns\": null");
    check_has("\"load_average\": null");
    check_has("\"reliable\": false");
    check_lacks("inf");
    write_as(HTML);
    check_lacks("<script");
    check_has("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;");
    check_has("2 &lt;B&gt;</td>");
}
END_TEST

START_TEST(long_texts_are_cut)
{
    char name[2000];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    memcpy(name + REPORT_NAME_BYTES - 2, "\xc3\xbc", 2); /* where the cut comes */
    report_table_begin(&report, name, hostile_columns, HOSTILE_COLUMNS);
    ck_assert_uint_eq(strlen(report.tables[0].name), REPORT_NAME_BYTES - 2);
    report_note(&report, "%s", name);
    report_doubt(&report, "%s", name);
    report_figure(&report, name, name, name, estimate_exact(1), true, 2);
    report_control(&report, name, estimate_exact(1));
    report.case_name = "long";
    write_as(TEXT);
    write_as(HTML);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("bench/report");
    TCase *tcase = tcase_create("report");
    tcase_add_checked_fixture(tcase, test_descriptors_note, test_descriptors_compare);
    tcase_add_checked_fixture(tcase, NULL, tear_down);
    tcase_add_test(tcase, an_empty_report_is_reliable);
    tcase_add_test(tcase, controls_raise_doubts);
    tcase_add_test(tcase, figures_are_judged);
    tcase_add_test(tcase, csv_is_quoted);
    tcase_add_test(tcase, hostile_reports_have_no_control_characters);
    tcase_add_test(tcase, long_texts_are_cut);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
