/*
 * Looking names up: getaddrinfo(3), which can take seconds and cannot be interrupted, on a few
 * helper threads of the loop's own. What becomes of the answers is connect_name.c's affair.
 *
 * The invariant: a look-up belongs to the resolver from resolve_begin until resolve_take hands it
 * out, or resolve_drop has been told that nobody wants it. A helper touches the resolver and the
 * look-up it works on, never the loop: it may be stuck in getaddrinfo long after the loop is gone.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_RESOLVE_H
#define BERTH_LOOP_RESOLVE_H

#include <stdint.h>

#include "berth/token.h"

#include "loop/address.h"

struct addrinfo;
struct resolver;

/** Who has a look-up. */
enum lookup_place {
    LOOKUP_WAITS = 1, /**< in the queue: no helper was free yet */
    LOOKUP_ASKED,     /**< a helper's */
    LOOKUP_ANSWERED,  /**< in the list of answers */
    LOOKUP_TAKEN      /**< whoever called resolve_take */
};

/** One question, and its answer. */
struct lookup {
    struct lookup *next, *previous;
    berth_token token;           /**< the connection that wants to know */
    struct addrinfo *addresses;  /**< the answer; NULL with an error */
    const struct addrinfo *rest; /**< those not tried yet */
    int error;                   /**< 0 or -errno */
    unsigned tries;
    enum lookup_place place;
    struct address_name name;
};

/** A look-up for that connection, which nobody has begun yet; NULL: out of memory. */
struct lookup *lookup_create(const struct address_name *name, berth_token token);

/** Frees one that the resolver does not have. */
void lookup_free(struct lookup *lookup);

/**
 * Begins to look a name up; whoever waits for `wake_fd` hears of the answer. `*resolver` is made at
 * first use. 0, and the look-up is the resolver's; or -ENOMEM, -EAGAIN (no thread), and it is not.
 */
int resolve_begin(struct resolver **resolver, struct lookup *lookup, int wake_fd);

/** Whether there are answers. NULL has none. */
int resolve_answered(const struct resolver *resolver);

/** The oldest answer, or NULL. The caller's from here on. */
struct lookup *resolve_take(struct resolver *resolver);

/** Nobody wants the answer any more. What has been taken is freed, the rest when it can be. */
void resolve_drop(struct resolver *resolver, struct lookup *lookup);

/**
 * The end: never waits for a look-up. Helpers that are in one are left to themselves, and the last
 * of them frees what is left. NULL is allowed.
 */
void resolve_destroy(struct resolver *resolver);

#endif
