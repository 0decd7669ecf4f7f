#!/bin/sh
# SIGUSR1 to each example program: it says who copied which bytes, to the byte where that is
# certain, and goes on serving, those who were connected before as well.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

need socat
open_scratch ledger
once="1\.00 copies per byte"

# says EXPECTED TEXT: what comes back for the text on a connection of its own.
says()
{
    said=$(printf '%b' "$2" | timeout "$deadline" socat -t "$deadline" - "tcp:$host_port" |
        sed -n 1p | tr -d '\r')
    check_same "an answer" "$1" "$said"
}

# hears TEXT: a datagram that comes back as it was.
hears()
{
    rm -f "$scratch/in"
    mkfifo "$scratch/in"
    exec 4<> "$scratch/in"
    printf '%s' "$1" | socat -t "$deadline" - "udp:${address#udp://}" > "$scratch/in" 3>&- 4>&- &
    hears_pid=$!
    check_same "a datagram" "$1" "$(timeout "$deadline" head -c ${#1} <&4)"
    kill "$hears_pid"
    wait "$hears_pid" 2> /dev/null
    exec 4<&-
}

# An echo over TCP, whatever it is made of: 6 bytes, again on a connection that is there, and anew.
echoes()
{
    check_ledger nothing nothing
    says hello 'hello\n'
    check_ledger "6 bytes, $once$1" "6 bytes, $once$2"
    hold
    word held
    check_ledger "11 bytes, $once$1" "11 bytes, $once$2"
    word still
    let_go
    says hello 'hello\n'
    check_ledger "23 bytes, $once$1" "23 bytes, $once$2"
}

for engine in $engines; do
    kernel=" \(kernel to pool\)" pool=" \(kernel from pool\)"

    start_engine echo "$engine" tcp://127.0.0.1:0 || continue
    echoes "$kernel" "$pool"
    check_stop TERM

    if start_engine echo_threads "$engine" --threads 3 tcp://127.0.0.1:0; then
        echoes "$kernel" "$pool"
        for i in 1 2 3 4 5 6 7 8 9; do # whichever loop each comes to
            says "line $i" "line $i\n"
        done
        check_ledger "86 bytes, $once$kernel" "86 bytes, $once$pool"
        check_stop TERM
    fi

    if start_engine udp_echo "$engine" udp://127.0.0.1:0; then
        check_ledger nothing nothing
        hears datagram
        check_ledger "8 bytes, $once$kernel" "8 bytes, $once$pool"
        hears again
        check_ledger "13 bytes, $once$kernel" "13 bytes, $once$pool"
        check_stop TERM
    fi

    if start_engine dns "$engine" --origin a --zone 'b.a A 192.0.2.1' udp://127.0.0.1:0; then
        check_ledger nothing nothing
        printf '\0\7\0\0\0\1\0\0\0\0\0\0\1b\1a\0\0\1\0\1' |
            timeout "$deadline" socat -t 1 - "udp:${address#udp://}" > "$scratch/answer"
        check "$engine: it answers" test -s "$scratch/answer"
        check_ledger "21 bytes, .*" "[1-9][0-9]* bytes, .*"
        check_stop TERM
    fi

    if start_engine http "$engine" tcp://127.0.0.1:0; then
        check_ledger nothing nothing
        says "HTTP/1.1 404 Not Found" 'GET /nothing HTTP/1.0\r\n\r\n'
        check_ledger "25 bytes, $once$kernel" "[1-9][0-9]* bytes, .*"
        says "HTTP/1.1 404 Not Found" 'GET /nothing HTTP/1.0\r\n\r\n'
        check_ledger "50 bytes, $once$kernel" "[1-9][0-9]* bytes, .*"
        check_stop TERM
    fi

    if start_engine chat "$engine" tcp://127.0.0.1:0; then
        check_ledger nothing nothing
        says "* guest-1 joined, 1 here" 'hello\n'
        check_ledger "6 bytes, $once$kernel" "[1-9][0-9]* bytes, .*"
        says "* guest-2 joined, 1 here" 'hello\n'
        check_stop TERM
    fi

    if [ -x "$programs/kv" ] && start_engine kv "$engine" tcp://127.0.0.1:0; then
        check_ledger nothing nothing
        says +PONG 'PING\r\nQUIT\r\n'
        check_ledger "12 bytes, $once$kernel" "12 bytes, .*"
        says +PONG 'PING\r\nQUIT\r\n'
        check_stop TERM
    fi
done
[ -x "$programs/kv" ] || skip "there is no kv"

for engine in epoll_server epoll_server_pointer; do
    [ -x "$programs/$engine" ] || {
        skip "there is no $engine"
        continue
    }
    start 1 "$engine" tcp://127.0.0.1:0 || {
        fail "$engine does not start: $(cat "$scratch/complains")"
        continue
    }
    echoes "" ""
    check_stop TERM
done

finish
