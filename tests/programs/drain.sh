#!/bin/sh
# A program that is told to end: nobody comes in, whoever is inside finishes, or a second signal
# ends it at once. And http disconnects who sends a request so slowly that it never ends.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

need socat
open_scratch drain

# ended: waits until the program has, and says with which status.
ended()
{
    while read_line; do
        case $line in
        'ended '*)
            server=
            exec 3<&-
            echo "${line#ended }"
            return
            ;;
        esac
    done
    echo "not ended"
}

for engine in $engines; do
    start_engine echo "$engine" tcp://127.0.0.1:0 || continue
    hold
    word before
    kill -TERM "$server"
    # The signal is looked at behind the first of these at the latest, and obeyed behind the second.
    word after
    word still
    word there
    check "$engine: nobody comes in" \
        sh -c "! socat -u OPEN:/dev/null 'tcp:$host_port' 2> /dev/null"
    let_go
    check_same "$engine: it ends with the last connection" 0 "$(ended)"
    server=

    start_engine echo "$engine" tcp://127.0.0.1:0 || continue
    hold
    word before
    kill -TERM "$server"
    word after
    word still
    check_stop TERM # with its connection there
    let_go

    start_engine http "$engine" --patience 1 tcp://127.0.0.1:0 || continue
    hold
    printf 'GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ' >&4
    wait "$holder" # socat ends when the server closes; its own time is much longer
    check_same "$engine: a request without end" 0 $?
    let_go
    check_stop TERM
done

finish
