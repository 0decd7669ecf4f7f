/*
 * What this kernel's receives can be trusted with. Kernels back-port features and faults alike, so
 * nothing follows from a version: each feature is tried, with numbered bytes over a socketpair and
 * over loopback TCP, before the first io_uring loop of a process uses it. What misbehaves is not
 * used; the rest is.
 *
 * The invariant: a feature is used only if everything it was seen to do was right, unless somebody
 * asked for it by name. What could not be tried is not used, and is tried again by the next loop.
 *
 * Threads: whoever finds no verdict tries for itself, and the first to be done leaves its verdict
 * for all. Nobody waits for anybody, so a fork(2) in the midst of it harms nobody; a child inherits
 * the verdict, which is about the kernel that both live on.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/engine_uring_selftest.h"

#include <liburing.h>
#include <stdio.h>
#include <string.h>

/** What is explained: the reserved names have no meaning yet. */
#define EXPLAINED 6

/** The features that a feature needs to be of use. */
static const struct {
    uint32_t feature, needs;
} dependences[] = {
    {FEATURE_LIMITS, FEATURE_MULTISHOT},
    {FEATURE_BUNDLES, FEATURE_LIMITS},     /* which bound the buffers that one completion brings */
    {FEATURE_INCREMENTAL, FEATURE_LIMITS}, /* which end a receive that earns its lane */
    {FEATURE_INCREMENTAL_BUNDLES, FEATURE_INCREMENTAL | FEATURE_BUNDLES},
};

/* ---- trying --------------------------------------------------------------------------------- */

static int
run_trial(const struct trial_kind *kind, uint32_t flags, int tcp, struct trial_memory *memory,
          struct uring_fault *fault, uint32_t works)
{
    struct trial trial;
    int outcome = trial_begin(&trial, memory, flags, kind->incremental, tcp);
    if (outcome != TRIAL_WORKS)
        return outcome;
    trial.features = works;
    outcome = kind->run(&trial);
    if (outcome == TRIAL_MISBEHAVES) {
        BERTH_ASSERT(trial.wrong != NULL);
        fault->what = trial.wrong;
        fault->tcp = tcp;
    }
    trial_end(&trial, memory, outcome);
    return outcome;
}

/** Tries one feature on both kinds of sockets. */
static void
try_kind(const struct trial_kind *kind, uint32_t flags, struct trial_memory *memory,
         struct uring_verdict *verdict)
{
    struct uring_fault fault = {NULL, 0};
    int outcome = run_trial(kind, flags, 0, memory, &fault, verdict->works);
    if (outcome == TRIAL_WORKS && verdict->tcp_untried == 0) {
        outcome = run_trial(kind, flags, 1, memory, &fault, verdict->works);
        if (outcome < 0 && kind->feature == 0) { /* a machine whose loopback is down */
            verdict->tcp_untried = outcome;
            outcome = TRIAL_WORKS;
        }
    }
    if (outcome < 0)
        verdict->untried = outcome;
    if (outcome == TRIAL_WORKS)
        verdict->works |= kind->feature;
    if (outcome == TRIAL_MISSING)
        verdict->missing |= kind->feature;
    if (kind->feature == 0)
        verdict->wrong = outcome == TRIAL_MISSING ? "refused" : fault.what;
    else
        verdict->faults[__builtin_ctz(kind->feature)] = fault;
}

static void
try_all(uint32_t flags, struct uring_verdict *verdict)
{
    struct trial_memory memory = {NULL};
    memset(verdict, 0, sizeof(*verdict));
    for (unsigned i = 0; i < uring_trial_count; i++) {
        const struct trial_kind *kind = &uring_trials[i];
        if ((verdict->works & kind->needs) == kind->needs)
            try_kind(kind, flags, &memory, verdict);
        if (kind->feature == 0 && (verdict->wrong != NULL || verdict->untried != 0))
            break;
    }
    trial_memory_release(&memory);
}

/* ---- once for a process --------------------------------------------------------------------- */

enum { NO_VERDICT, VERDICT_WRITTEN, VERDICT_THERE };
static struct uring_verdict verdict_found;
static int verdict_state;

void
uring_selftest(uint32_t flags, struct uring_verdict *verdict)
{
    if (__atomic_load_n(&verdict_state, __ATOMIC_ACQUIRE) == VERDICT_THERE) {
        *verdict = verdict_found;
        return;
    }
    try_all(flags, verdict);
    int expected = NO_VERDICT;
    if (verdict->untried == 0 &&
        __atomic_compare_exchange_n(&verdict_state, &expected, VERDICT_WRITTEN, 0, __ATOMIC_ACQ_REL,
                                    __ATOMIC_RELAXED)) {
        verdict_found = *verdict;
        __atomic_store_n(&verdict_state, VERDICT_THERE, __ATOMIC_RELEASE);
    }
}

#ifdef BERTH_SYS_TABLE
void
uring_selftest_forget(void)
{
    __atomic_store_n(&verdict_state, NO_VERDICT, __ATOMIC_RELEASE);
}
#endif

/* ---- deciding ------------------------------------------------------------------------------- */

uint32_t
uring_choose_features(const struct uring_verdict *verdict, const struct feature_wishes *wishes)
{
    uint32_t features = (verdict->works & ~wishes->off) | wishes->on;
    for (unsigned i = 0; i < sizeof(dependences) / sizeof(dependences[0]); i++) {
        if ((features & dependences[i].needs) != dependences[i].needs)
            features &= ~dependences[i].feature;
    }
    return features;
}

/** "works", or what else was found out about a feature. */
static int
explain_verdict(const struct uring_verdict *verdict, unsigned number, char *text, size_t size)
{
    const uint32_t feature = 1u << number;
    const struct uring_fault *fault = &verdict->faults[number];
    if (verdict->works & feature)
        return snprintf(text, size, "works");
    if (verdict->missing & feature)
        return snprintf(text, size, "missing from this kernel");
    if (fault->what != NULL)
        return snprintf(text, size, "misbehaves (%s: %s)",
                        fault->tcp ? "over TCP" : "over a socketpair", fault->what);
    if (verdict->untried != 0)
        return snprintf(text, size, "not tried: %s", strerror(-verdict->untried));
    return snprintf(text, size, "not tried: what it needs does not work");
}

/** And what somebody wished, or what else keeps it from being used. */
static const char *
explain_use(const struct uring_engine *state, const struct feature_wishes *wishes, uint32_t feature)
{
    const int here = (wishes->environment & feature) != 0;
    const int works = (state->verdict.works & feature) != 0;
    if (wishes->off & feature)
        return here ? "; switched off by BERTH_FEATURES" : "; switched off by option";
    if (!uring_has(state, feature))
        return works ? "; not used: what it needs is off, or it was refused later" : "";
    if (works)
        return "";
    return here ? "; forced by BERTH_FEATURES" : "; forced by option";
}

int
uring_explain_features(const struct berth_loop *loop, char *text, size_t size)
{
    const struct uring_engine *state = uring_state(loop);
    const struct feature_wishes *wishes = &loop->wishes;
    char found[160];
    int used = 0;
    for (unsigned number = 0; number < EXPLAINED; number++) {
        const size_t at = (size_t)used < size ? (size_t)used : size;
        (void)explain_verdict(&state->verdict, number, found, sizeof(found));
        used += snprintf(text == NULL ? NULL : text + at, size - at, "feature %s: %s%s\n",
                         feature_name(number), found, explain_use(state, wishes, 1u << number));
    }
    const size_t at = (size_t)used < size ? (size_t)used : size;
    if (wishes->unknown[0] != '\0')
        used += snprintf(text == NULL ? NULL : text + at, size - at,
                         "BERTH_FEATURES: '%s' is no feature\n", wishes->unknown);
    if (state->verdict.tcp_untried != 0) {
        const size_t end = (size_t)used < size ? (size_t)used : size;
        used += snprintf(text == NULL ? NULL : text + end, size - end,
                         "self-test: without loopback TCP: %s\n",
                         strerror(-state->verdict.tcp_untried));
    }
    return used;
}
