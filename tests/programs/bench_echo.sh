#!/bin/sh
# berth-bench's servers, its own and those on other people's loops: each serves, in the closed loop
# and in the open one, and idle. And --server: with one that echoes, and with some that do not; none
# leaves a process behind. What they need to be fast is not tested here.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

bench=$top_builddir/berth-bench
need "$bench"
open_scratch bench-echo

# measure CASE ARG...: one short round, as text in $said. Fails with the program.
measure()
{
    measure_case=$1
    shift
    said=$(timeout "$deadline" "$bench" "$measure_case" --rounds 1 --seconds 0.05 \
        --connections 16 "$@" 2> "$scratch/errors")
}

# check_rows NAME COUNT: that many rows of the tables begin with the name.
check_rows()
{
    check_rows_found=$(printf '%s\n' "$said" | grep -c "^  $1  *16 ")
    [ "$check_rows_found" -eq "$2" ] && pass && return
    fail "$check_rows_found rows of $1, expected $2"
    printf '%s\n' "$said"
}

# check_note TEXT: it is among the notes.
check_note()
{
    case $said in
    *"note: $1"*) pass ;;
    *)
        fail "no such note: $1"
        printf '%s\n' "$said"
        ;;
    esac
}

# Whoever was started for a measurement carries this in its environment.
BERTH_TEST_MARK=bench-echo-$$
export BERTH_TEST_MARK

check_nobody_left()
{
    check_nobody_found=$(grep -lsz "^BERTH_TEST_MARK=$BERTH_TEST_MARK\$" /proc/[0-9]*/environ |
        while read -r environ; do
            { tr '\0' ' ' < "${environ%environ}cmdline"; } 2> /dev/null
        done | grep -o "[s]leep 1000")
    check "nobody is left: $check_nobody_found" test -z "$check_nobody_found"
}

variants="plain-epoll berth-epoll berth-uring berth-uring-direct plain-uring berth-poll libev
    libuv libevent libevent-event"
measure echo || fail "echo: status $?"
echo_said=$said
measure idle || fail "idle: status $?"
idle_said=$said
for variant in $variants; do
    case $echo_said in
    *"note: $variant was left out:"*)
        skip "$(printf '%s\n' "$echo_said" | grep "note: $variant was left out:")"
        continue
        ;;
    esac
    said=$echo_said
    check_rows "$variant" 3
    said=$idle_said
    check_rows "$variant" 1
done

serve="exec $programs/echo tcp://127.0.0.1:\$PORT"
measure echo --variants plain-epoll --server "$serve" || fail "--server: status $?"
check_rows server 3
# shellcheck disable=SC2016 # $PORT is for the server
measure echo --variants plain-epoll --load epoll \
    --server 'exec "'"$programs"'/echo" "tcp://127.0.0.1:$PORT" & sleep 1000 & setsid sleep 1000' ||
    fail "--server with company: status $?"
check_rows server 3
check_nobody_left
measure echo --variants plain-epoll --server 'exit 3' || fail "exit 3: status $?"
check_rows server 0
check_note "--server: the command ended before it accepted a connection"
if command -v socat > /dev/null; then
    # shellcheck disable=SC2016
    measure echo --variants plain-epoll \
        --server 'socat "TCP-LISTEN:$PORT,fork" "SYSTEM:head -c 16 /dev/zero; sleep 1000"' ||
        fail "a liar: status $?"
    check_rows server 0
    check_note "--server: it answered other bytes than it was sent"
    check_nobody_left
else
    skip "a server that answers something else: there is no socat"
fi

finish
