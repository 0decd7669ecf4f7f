/*
 * One wrapper and one plan per system call, generated from the rows of lib/os/sys.h, so that a call
 * added there can be made to fail without a line added here.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/faults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/sys_groups.h"

struct plan {
    const char *call;
    unsigned calls;
    unsigned hit;
    unsigned nth; /* 0: none fails */
    unsigned times;
    int error;
};

#define ROW_NUMBER(name, parameters, arguments, expression) PLAN_##name,
enum { BERTH_SYS_ROWS(ROW_NUMBER) PLANS };

#define ROW_PLAN(name, parameters, arguments, expression) {#name, 0, 0, 0, 0, 0},
static struct plan plans[] = {BERTH_SYS_ROWS(ROW_PLAN)};

/** Counts one call; its error if it is to fail now, otherwise 0. */
static int
take(struct plan *plan)
{
    plan->calls++;
    if (plan->nth == 0 || plan->calls < plan->nth || plan->calls - plan->nth >= plan->times)
        return 0;
    plan->hit++;
    return plan->error;
}

#define ROW_WRAPPER(name, parameters, arguments, expression)                                       \
    static intptr_t faulty_##name parameters                                                       \
    {                                                                                              \
        const int error = take(&plans[PLAN_##name]);                                               \
        return error != 0 ? error : sys_direct_##name arguments;                                   \
    }
BERTH_SYS_ROWS(ROW_WRAPPER)

/** Puts the wrapper of that plan in place, or the direct call. */
static void
install(unsigned number, int faulty)
{
    switch (number) {
#define ROW_INSTALL(name, parameters, arguments, expression)                                       \
    case PLAN_##name:                                                                              \
        berth_sys_##name = faulty ? faulty_##name : sys_direct_##name;                             \
        break;
        BERTH_SYS_ROWS(ROW_INSTALL)
    default:
        abort();
    }
}

static struct plan *
plan_of(const char *call)
{
    for (unsigned i = 0; i < PLANS; i++)
        if (strcmp(plans[i].call, call) == 0)
            return &plans[i];
    fprintf(stderr, "faults: no system call \"%s\" in lib/os/sys.h\n", call);
    abort();
}

void
faults_fail(const char *call, unsigned nth, unsigned times, int error)
{
    struct plan *plan = plan_of(call);
    plan->calls = 0;
    plan->hit = 0;
    plan->nth = nth;
    plan->times = times;
    plan->error = error;
    install((unsigned)(plan - plans), 1);
}

void
faults_count(const char *call)
{
    faults_fail(call, 0, 0, 0);
}

unsigned
faults_calls(const char *call)
{
    return plan_of(call)->calls;
}

unsigned
faults_hit(const char *call)
{
    return plan_of(call)->hit;
}

void
faults_reset(void)
{
    for (unsigned i = 0; i < PLANS; i++) {
        const char *call = plans[i].call;
        memset(&plans[i], 0, sizeof(plans[i]));
        plans[i].call = call;
        install(i, 0);
    }
}
