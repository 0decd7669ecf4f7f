/*
 * One trial of one feature: a private ring, a few posted buffers, a connected pair of sockets, and
 * a stream of numbered bytes of which every one is looked at. The trial keeps its own account of
 * what the kernel may do next, and notes the first thing that is otherwise.
 *
 *   engine_uring_selftest.c        which trials there are, what they say together, and when
 *   engine_uring_selftest_rig.c    what is declared here
 *   engine_uring_selftest_steps.c  what is tried of each feature
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BERTH_LOOP_ENGINE_URING_SELFTEST_H
#define BERTH_LOOP_ENGINE_URING_SELFTEST_H

#include "loop/engine_uring.h"
#include "loop/stream_pair.h"

/** Buffers as the engine posts them; ids that are not their places in the ring. */
#define TRIAL_BUFFERS 8
#define TRIAL_BUFFER_BYTES 4096u
#define TRIAL_BYTES (TRIAL_BUFFERS * TRIAL_BUFFER_BYTES)

/** No loop has a ring of buffers of this number. */
#define TRIAL_GROUP 0xbe57

/** What is at the same time under way in one direction of a socket. */
#define TRIAL_UNDER_WAY_MAX TRIAL_BYTES

/** No wait is longer; a trial that waits in vain is over. */
#define TRIAL_WAIT_MS 1000

/** How a step, and with it a trial, comes out; or -errno: it could not be tried. */
enum { TRIAL_WORKS = 0, TRIAL_MISSING = 1, TRIAL_MISBEHAVES = 2 };

struct trial {
    struct io_uring ring;
    struct io_uring_buf_ring *buffers; /**< one page of memory, then the buffers, then scratch */
    unsigned char *data, *scratch;
    struct stream_pair pair;
    int incremental;
    uint32_t kernel_features; /**< that the ring was made with */
    uint32_t features;        /**< that have been found to work */

    /* Buffers by their places in the ring, counted without end. */
    uint32_t taken, posted; /**< the first one that the kernel has, and the first that it has not */
    uint32_t used;          /**< bytes of the first one that are filled (incremental) */

    uint64_t sent, received; /**< positions in the stream */

    /* The posted receive. */
    uint32_t armed;      /**< its number, 0: there is none */
    uint32_t numbers;    /**< used up */
    uint32_t length_max; /**< bytes that one completion may bring; 0: no limit */
    uint64_t began;      /**< where in the stream it was posted */
    int bundle;
    int cancelling;

    /* The last completion, and the biggest since the receive was posted. */
    int32_t result;
    uint32_t flags, biggest;

    const char *wrong; /**< what was not as it should be */
};

/** Memory for trials: kept from one to the next, unless the kernel may still write to it. */
struct trial_memory {
    void *start; /**< NULL: none */
};

/** Makes ring, buffers and sockets. `flags` are the engine's own set-up flags. */
int trial_begin(struct trial *trial, struct trial_memory *memory, uint32_t flags, int incremental,
                int tcp);

/** Takes it all down. What the kernel did not let go of, or may not have, is not used again. */
void trial_end(struct trial *trial, struct trial_memory *memory, int outcome);
void trial_memory_release(struct trial_memory *memory);

/** Puts `count` buffers, empty, into the ring; or all that are not in it. */
void trial_post(struct trial *trial, uint32_t count);
void trial_post_all(struct trial *trial);

/** Sends the next bytes of the stream; they are in the receiver's socket when it returns. */
int trial_send(struct trial *trial, uint32_t bytes);

/** Posts a receive: at most `length` bytes in a completion, `total` in all; 0: no limit. */
int trial_arm(struct trial *trial, uint32_t ioprio, uint32_t length, uint32_t total);

/** Waits for one completion of the receive and looks at it, and at every byte it brought. */
int trial_next(struct trial *trial);

/** Nothing comes, though it is submitted and looked for. */
int trial_expect_silence(struct trial *trial, const char *what);

/** Receives until everything sent is there or the receive has ended. */
int trial_receive(struct trial *trial);

/** Receives what has been sent, however often the receive ends and the buffers with it. */
int trial_drain(struct trial *trial, uint32_t ioprio);

/** Withdraws the receive, and waits for its last completion. */
int trial_cancel(struct trial *trial);

/** Ends the sending side: the receive must say so, and nothing else. */
int trial_finish(struct trial *trial);

/** The buffers that the kernel has are as they were posted (the first one as far as filled). */
int trial_check_posted(struct trial *trial);

static inline int
trial_wrong(struct trial *trial, const char *what)
{
    trial->wrong = what;
    return TRIAL_MISBEHAVES;
}

/** Gives up a step, with what was wrong, unless the condition holds. */
#define TRIAL_EXPECT(trial, condition, what)                                                       \
    do {                                                                                           \
        if (BERTH_UNLIKELY(!(condition)))                                                          \
            return trial_wrong((trial), (what));                                                   \
    } while (0)

/** Does something that is itself an outcome: goes on only if it went well. */
#define TRIAL_DO(expression)                                                                       \
    do {                                                                                           \
        const int trial_outcome = (expression);                                                    \
        if (BERTH_UNLIKELY(trial_outcome != TRIAL_WORKS))                                          \
            return trial_outcome;                                                                  \
    } while (0)

/** What is tried, in this order; a feature's trial comes behind those it depends on. */
struct trial_kind {
    uint32_t feature; /**< 0: what the engine cannot do without */
    uint32_t needs;   /**< features without which it cannot be tried */
    int incremental;  /**< on a ring of buffers of that kind */
    int (*run)(struct trial *trial);
};
extern const struct trial_kind uring_trials[];
extern const unsigned uring_trial_count;

#endif
