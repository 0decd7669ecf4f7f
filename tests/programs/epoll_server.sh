#!/bin/sh
# The two epoll examples, with berth's table and with pointers: the same loads, the same answers.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

need "$programs/epoll_server" socat "$load"
open_scratch epoll_server

many=10000
[ "$thorough" = yes ] || many=1000
room=$(awk '/^Max open files/ { print $5 }' /proc/self/limits)
[ "$room" -ge $((many + 100)) ] || many=$((room - 100))

# It tells nothing of its connections: what counts is what the system says.
# shellcheck disable=SC2317
until_descriptors()
{
    tries=0
    while [ "$(count_descriptors)" -ne "$1" ] && [ "$tries" -lt 2000 ]; do
        tries=$((tries + 1))
        sleep 0.02 # between two looks
    done
    [ "$(count_descriptors)" -eq "$1" ]
}

head -c 3000000 /dev/urandom > "$scratch/data"

for engine in epoll_server epoll_server_pointer; do
    start 1 "$engine" tcp://127.0.0.1:0 || {
        fail "$engine does not start: $(cat "$scratch/complains")"
        continue
    }
    descriptors=$(count_descriptors)
    timeout "$deadline" socat -t "$deadline" - "tcp:$host_port" < "$scratch/data" > "$scratch/back"
    check "$engine: 3 MB come back" cmp "$scratch/data" "$scratch/back"
    check_load --connections "$many" --rounds 3
    check_load --mode half-close --connections 100 --bytes 100000
    check_load --mode reset --connections 300
    check_load --connections 50 --bytes 1 --rounds 100
    check_load --mode flood
    check "$engine: no descriptor stays open" until_descriptors "$descriptors"
    check_stop TERM
done

# README shows what it takes to put the table into such a server: it must stay that short.
changed=$(diff "$top_srcdir/docs/examples/epoll_server_pointer.c" \
    "$top_srcdir/docs/examples/epoll_server.c" | grep -c '^> ')
if [ "$changed" -le 25 ]; then
    pass
else
    fail "the two servers differ in $changed lines"
fi

finish
