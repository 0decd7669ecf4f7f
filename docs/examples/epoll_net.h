/*
 * What the two epoll examples share and do not differ in: a listening socket, accepting, and the
 * signals. Plain POSIX and Linux; of berth the sums over a copy ledger, and nothing else.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EPOLL_NET_H
#define EPOLL_NET_H

#include <signal.h>

#include <berth/copies.h>

/** Set by SIGTERM and SIGINT. */
extern volatile sig_atomic_t net_stopping;

/**
 * Listens on the one argument, `tcp://HOST:PORT`, and prints `listening on ADDRESS`. Exits with
 * usage and status 2 when that is not what the arguments are, with 1 and a message when it cannot.
 * @param waiting  receives the signal mask for epoll_pwait(2): the signals come only there.
 */
int net_listen(int argc, char **argv, sigset_t *waiting);

/**
 * If SIGUSR1 came since the last time, says on standard error what was received and sent, and how
 * many copies that took.
 */
void net_report(const struct berth_copies *ledger);

/** Accepts one connection, non-blocking. Returns its descriptor, or -1: none for now. */
int net_accept(int listener);

#endif
