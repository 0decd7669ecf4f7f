#!/bin/sh
# The echo example on several threads, on every engine: a load that checks every byte, newcomers in
# more than one thread, and a clean end of all threads when one signal comes.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

need "$load"
open_scratch echo_threads

# Keeps what the threads say when they end.
stop_and_listen()
{
    : > "$scratch/report"
    kill -s "$1" "$server"
    while read_line; do
        printf '%s\n' "$line" >> "$scratch/report"
        case $line in
        'ended '*)
            status=${line#ended }
            server=
            exec 3<&-
            return 0
            ;;
        esac
    done
    return 1
}

for engine in $engines; do
    start_engine echo_threads "$engine" --threads 4 tcp://127.0.0.1:0 || continue
    check_load --connections 200 --rounds 3
    check_load --mode half-close --connections 40 --bytes 100000
    stop_and_listen TERM
    check_same "$engine: it ends with" 0 "$status"
    check "$engine: without complaint" test -z "$(complaints)"
    check_same "$engine: threads that ended" 4 "$(grep -c '^thread [0-3] served' "$scratch/report")"
    served=$(awk '/^thread/ { sum += $4 } END { print sum }' "$scratch/report")
    check_same "$engine: connections in all" 240 "$served"
    busy=$(awk '/^thread/ && $4 > 0 { n++ } END { print n + 0 }' "$scratch/report")
    check "$engine: more than one thread served, not $busy" test "$busy" -gt 1
done

# Who does not ask for a shared address has it alone.
start 1 echo_threads --threads 1 tcp://127.0.0.1:0 || fail "one thread does not start"
stop INT
check_same "an interrupt ends it" 0 "$status"

finish
