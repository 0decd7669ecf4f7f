/*
 * Names of errors that not every system has, so that the library returns the same name everywhere.
 * Only what <errno.h> lacks may be defined here; nothing else.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_OS_ERRORS_H
#define BERTH_OS_ERRORS_H

#include <errno.h>

/** "Structure needs cleaning": Linux's name for a broken invariant; POSIX has a bad message. */
#ifndef EUCLEAN
#define EUCLEAN EBADMSG
#endif

#endif
