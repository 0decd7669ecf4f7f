/*
 * What the example programs share: the command line, the signals, the report, and a buffer for
 * input that came in pieces. Nothing of what a program serves is here, and nothing here hides a
 * call that belongs to serving: connections, leases and sends are in the programs themselves.
 *
 * One loop per program, so the state behind these functions is static; main's thread only.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include <berth/loop.h>
#include <berth/udp.h>

/** An option of one program's own, `--name VALUE`. A list of them ends with a NULL name. */
struct example_option {
    const char *name;        /**< without the dashes */
    const char *placeholder; /**< how usage calls the value; NULL: it takes none */
    const char **value;      /**< receives it; keeps its default if the option is not given */
};

/**
 * Reads `[--engine NAME] [own options] ADDRESS...` and makes the loop.
 *
 * Does not return when that cannot be done: bad arguments print usage on standard error and exit
 * with status 2; an engine that this system does not grant exits with EX_UNAVAILABLE (69); anything
 * else exits with 1 and a message.
 *
 * @param options  how to make the loop (its engine comes from the command line); NULL: defaults.
 * @param own      the program's own options; NULL: none.
 */
struct berth_loop *example_open(int argc, char **argv, const struct berth_loop_options *options,
                                const struct example_option *own);

/** Listens on every ADDRESS, and prints `listening on ADDRESS` for each. Exits as example_open. */
void example_listen(struct berth_loop *loop, const struct berth_handlers *handlers, void *context);

/** The ADDRESS of that number, from 0 on; NULL behind the last one. */
char *example_address(int number);

/** Listens on one address only, as example_listen does on all of them. */
void example_listen_on(struct berth_loop *loop, const char *wanted,
                       const struct berth_handlers *handlers, void *context);

/** Prints usage on standard error, and exits with status 2. */
void example_usage(void) __attribute__((noreturn));

/** As example_listen, for datagrams. `options` NULL: the defaults. */
void example_udp_open(struct berth_loop *loop, const struct berth_udp_handlers *handlers,
                      void *context, const struct berth_udp_options *options);

/** Calls `tick` about every `period_ms` from example_run. One per program; before example_run. */
void example_tick(int period_ms, void (*tick)(struct berth_loop *loop));

/**
 * Turns the loop until SIGTERM or SIGINT, and then until the connections have finished, for a few
 * seconds; a second one of these signals ends that at once. On SIGUSR1 says on standard error who
 * copied which bytes, and prints what berth_loop_explain says, and the counters. Returns the status
 * for main. The loop is still the caller's to destroy.
 */
int example_run(struct berth_loop *loop);

/** Milliseconds on a clock that never goes back. */
int64_t example_now_ms(void);

/* ---- input in pieces --------------------------------------------------------------------------
 *
 * A message can arrive cut at any byte. While it is whole, a program reads it where the kernel put
 * it; only the rest, whose end has not come yet, is copied here. It is copied, not retained: a peer
 * that sends byte by byte would otherwise hold a whole receive buffer for each.
 */

/** Bytes kept from earlier callbacks, in a pool buffer that grows; all-zero is empty. */
struct example_input {
    struct berth_lease lease; /**< of the whole buffer; none while empty */
    uint32_t start;           /**< first byte that is not used up */
    uint32_t end;             /**< one past the last byte */
};

/** Uses bytes from the front of `data` and returns how many; the others are kept for the next time.
 */
typedef size_t (*example_consume_fn)(struct berth_conn *conn, const char *data, size_t length);

/**
 * Hands `consume` what is kept together with the span; `span` NULL: what is kept alone, to look at
 * it again.
 * @return 0; -EMSGSIZE: more than `rest_bytes_max` (2 MiB at most) would be kept; -ENOBUFS.
 */
int example_input_feed(struct berth_conn *conn, struct example_input *input,
                       const struct berth_span *span, size_t rest_bytes_max,
                       example_consume_fn consume);

/** Drops what is kept: in the close callback, at the latest. */
void example_input_clear(struct berth_pool *pool, struct example_input *input);

#endif
