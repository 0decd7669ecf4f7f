/*
 * Every group of system calls that this build has: for the files that replace them all.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_SYS_GROUPS_H
#define BERTH_TESTS_SYS_GROUPS_H

#define BERTH_SYS_MEMORY
#define BERTH_SYS_FILE
#define BERTH_SYS_SOCKET
#define BERTH_SYS_POLL
#define BERTH_SYS_SIGNAL
#define BERTH_SYS_TIME
#define BERTH_SYS_RESOLVE
#ifdef __linux__
#define BERTH_SYS_TIMER
#define BERTH_SYS_EPOLL
#endif
#ifdef BERTH_HAVE_LIBURING
#define BERTH_SYS_URING
#endif

#include "os/sys.h"

#endif
