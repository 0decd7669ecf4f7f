#!/bin/sh
# What every example program does with its arguments, its signals, and an address that is taken.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

open_scratch arguments
engine=

# refuses STATUS PROGRAM ARG...: ends at once with that status, and says why on standard error.
refuses()
{
    expected=$1
    refuses_program=$2
    shift 2
    status=0
    "$programs/$refuses_program" "$@" > "$scratch/out" 2> "$scratch/err" < /dev/null || status=$?
    check_same "status of $refuses_program $*" "$expected" "$status"
    [ -s "$scratch/err" ] || fail "$refuses_program $* says nothing on standard error"
    if [ "$expected" -eq 2 ] && ! grep -q "^usage: " "$scratch/err"; then
        fail "$refuses_program $* does not print its usage: $(cat "$scratch/err")"
    fi
}

for program in echo http kv chat; do
    [ -x "$programs/$program" ] || {
        skip "there is no $program"
        continue
    }
    refuses 2 "$program"
    refuses 2 "$program" --nonsense tcp://127.0.0.1:0
    refuses 2 "$program" --engine
    refuses 2 "$program" --engine nonsense tcp://127.0.0.1:0
    refuses 2 "$program" nonsense
    refuses 2 "$program" tcp://127.0.0.1
    refuses 2 "$program" tcp://127.0.0.1:99999
    refuses 2 "$program" tcp://127.0.0.1:0 http://127.0.0.1:0
    check "$program --help" sh -c "\"\$1\" --help | grep -q '^usage: '" sh "$programs/$program"

    if start 1 "$program" tcp://127.0.0.1:0; then
        refuses 1 "$program" "$address"
        check_stop INT
    else
        fail "$program does not start: $(cat "$scratch/complains")"
    fi
    start 1 "$program" tcp://127.0.0.1:0 && check_stop TERM

    # Several addresses, and IPv6 where there is any.
    if start 2 "$program" "unix:@berth-test-$$" tcp://127.0.0.1:0; then
        check_same "the abstract socket" "unix:@berth-test-$$" "$address_1"
        check_stop TERM
    else
        fail "$program does not listen on two addresses: $(cat "$scratch/complains")"
    fi
    if [ -e /proc/net/if_inet6 ] && start 1 "$program" 'tcp://[::1]:0'; then
        case $address in
        'tcp://[::1]:'[1-9]*) pass ;;
        *) fail "$program on [::1]: $address" ;;
        esac
        check_stop TERM
    else
        skip "$program: there is no [::1]: $(cat "$scratch/complains")"
    fi
done
refuses 1 http --root "$scratch/nothing" tcp://127.0.0.1:0
refuses 2 proxy
refuses 2 proxy tcp://127.0.0.1:0
refuses 2 proxy --idle soon tcp://127.0.0.1:0 tcp://127.0.0.1:1
refuses 2 proxy tcp://127.0.0.1 tcp://127.0.0.1:1

# The same for datagrams.
for program in udp_echo dns; do
    refuses 2 "$program"
    refuses 2 "$program" --nonsense udp://127.0.0.1:0
    refuses 2 "$program" --engine nonsense udp://127.0.0.1:0
    refuses 2 "$program" tcp://127.0.0.1:0
    refuses 2 "$program" udp://127.0.0.1:0 udp://127.0.0.1
    if start 2 "$program" udp://127.0.0.1:0 udp://localhost:0; then
        refuses 1 "$program" "$address"
        check_stop INT
    else
        fail "$program does not start: $(cat "$scratch/complains")"
    fi
done
refuses 2 udp_echo --receive nonsense udp://127.0.0.1:0
refuses 2 dns --zone "www.example MX mail" udp://127.0.0.1:0
refuses 2 echo udp://127.0.0.1:0

for program in epoll_server epoll_server_pointer; do
    [ -x "$programs/$program" ] || continue
    refuses 2 "$program"
    refuses 2 "$program" nonsense
    refuses 2 "$program" tcp://127.0.0.1:0 tcp://127.0.0.1:0
    start 1 "$program" tcp://127.0.0.1:0 && {
        refuses 1 "$program" "$address"
        check_stop INT
    }
done

finish
