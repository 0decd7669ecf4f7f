/*
 * The table of system calls of the test build: one pointer per call, each starting as the direct
 * call. A test that replaces one puts it back (faults_reset does).
 *
 * With BERTH_TEST_LARGE_COMPLETIONS in the environment every ring of io_uring is made with
 * completions of 32 bytes, which is otherwise done only for zero-copy receives.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/sys_groups.h"

#include <stdlib.h>

#define ROW_DEFINE(name, parameters, arguments, expression)                                        \
    intptr_t(*berth_sys_##name) parameters = sys_direct_##name;
BERTH_SYS_ROWS(ROW_DEFINE)

#ifdef BERTH_HAVE_LIBURING
unsigned berth_sys_uring_flags;

static void __attribute__((constructor)) read_environment(void)
{
    if (getenv("BERTH_TEST_LARGE_COMPLETIONS") != NULL)
        berth_sys_uring_flags = IORING_SETUP_CQE32;
}
#endif
