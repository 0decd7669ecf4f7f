#!/bin/sh
# The echo example, on every engine: with socat, and with loads that open many connections, close
# half, reset, send byte by byte, and flood without reading.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

need socat "$load"
open_scratch echo

many=10000
[ "$thorough" = yes ] || many=1000
room=$(awk '/^Max open files/ { print $5 }' /proc/self/limits)
if [ "$room" -lt $((many + 100)) ]; then
    many=$((room - 100))
    echo "only $many connections: the limit on descriptors is $room"
fi

head -c 3000000 /dev/urandom > "$scratch/data"

for engine in $engines; do
    start_engine echo "$engine" tcp://127.0.0.1:0 || continue
    said=$(echo hello | timeout "$deadline" socat -t "$deadline" - "tcp:$host_port")
    check_same "one line" hello "$said"
    open_count

    # One message at a time for each connection: nothing has to wait, and nothing is copied.
    check_load --connections "$many" --rounds 3
    report
    check_same "copies by the library" "0 0 0" \
        "$(counter received_pullup) $(counter received_compact) $(counter sent_gather)"

    timeout "$deadline" socat -t "$deadline" - "tcp:$host_port" \
        < "$scratch/data" > "$scratch/back"
    check "$engine: 3 MB come back" cmp "$scratch/data" "$scratch/back"
    check_load --mode half-close --connections 100 --bytes 100000
    check_load --mode reset --connections 300
    check_load --connections 50 --bytes 1 --rounds 100
    check_load --mode flood
    check_count
    check_stop TERM
done

finish
