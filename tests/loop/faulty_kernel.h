/*
 * A kernel with a fault: what lies between liburing and the real one is tampered with, so that
 * receives which use one feature go wrong in one way. All else is the kernel's own.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_TESTS_LOOP_FAULTY_KERNEL_H
#define BERTH_TESTS_LOOP_FAULTY_KERNEL_H

#include <stdint.h>

/** What goes wrong. */
enum faulty_way {
    FAULTY_BYTE,    /**< one byte of what a completion brings is another one */
    FAULTY_ID,      /**< a completion names another buffer */
    FAULTY_END,     /**< a completion says that it is the last, and is not */
    FAULTY_SILENT,  /**< nothing ever completes */
    FAULTY_IGNORED, /**< the feature is accepted, and has no effect */
    FAULTY_REFUSED, /**< EINVAL, as from a kernel that does not have it */
    FAULTY_WAYS
};
extern const char *const faulty_way_names[FAULTY_WAYS];

/** Receives that use the feature (enum loop_feature) go wrong from now on; 0: all do. What
 * was found out about the kernel before is forgotten. */
void faulty_kernel_install(uint32_t feature, enum faulty_way way);

/** Only what is received over TCP goes wrong. */
void faulty_kernel_only_tcp(void);

/** Every call is the system's own again, and what was found out is forgotten. */
void faulty_kernel_remove(void);

/** Receives that used the feature: in trials, and on the rings of loops. */
unsigned faulty_kernel_trials(void);
unsigned faulty_kernel_uses(void);

#endif
