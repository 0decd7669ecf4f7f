/*
 * The table of system calls of the test build: one pointer per call, each starting as the direct
 * call. A test that replaces one puts it back (faults_reset does).
 *
 * SPDX-License-Identifier: MIT
 */
#include "support/sys_groups.h"

#define ROW_DEFINE(name, parameters, arguments, expression)                                        \
    intptr_t(*berth_sys_##name) parameters = sys_direct_##name;
BERTH_SYS_ROWS(ROW_DEFINE)
