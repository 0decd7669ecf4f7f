/*
 * Choosing the servers of a case, and remembering which libraries they turned out to run on: the
 * version that counts is the one found at run time.
 *
 * SPDX-License-Identifier: MIT
 */
#include "contestants.h"

#include <stdio.h>
#include <string.h>

#define KINDS_MAX BENCH_SUBJECTS_MAX
#define EXPLAIN_BYTES 64u

static char heard[KINDS_MAX][EXPLAIN_BYTES];
static bool noted[KINDS_MAX];

unsigned
contestants_choose(struct bench *bench, const struct bench_subject *like, bool baseline,
                   struct bench_subject *subjects)
{
    unsigned count = 0;
    for (unsigned i = 0; i < KINDS_MAX && server_kinds[i].name != NULL; i++) {
        const struct server_kind *kind = &server_kinds[i];
        if (!(baseline && i == 0) && !bench_wants(bench, kind->name))
            continue;
        if (kind->by_name && bench->options.variants == NULL)
            continue;
        if (kind->missing != NULL) {
            if (!noted[i])
                report_note(&bench->report, "%s was left out: %s", kind->name, kind->missing);
            noted[i] = true;
            continue;
        }
        subjects[count] = *like;
        subjects[count].name = kind->name;
        subjects[count++].context = kind;
    }
    return count;
}

void
contestants_heard(const struct server_kind *kind, const char *explain)
{
    for (unsigned i = 0; i < KINDS_MAX && server_kinds[i].name != NULL; i++) {
        if (kind == &server_kinds[i] && kind->library)
            snprintf(heard[i], EXPLAIN_BYTES, "%s", explain);
    }
}

void
contestants_note(struct bench *bench)
{
    char text[KINDS_MAX * (EXPLAIN_BYTES + 2)] = "";
    for (unsigned i = 0; i < KINDS_MAX; i++) {
        if (heard[i][0] == '\0' || strstr(text, heard[i]) != NULL)
            continue;
        const size_t length = strlen(text);
        snprintf(text + length, sizeof text - length, "%s%.*s", length > 0 ? ", " : "",
                 (int)EXPLAIN_BYTES, heard[i]);
    }
    if (text[0] != '\0')
        report_note(&bench->report, "libraries: %s", text);
}
