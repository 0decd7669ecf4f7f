#!/bin/sh
# The chat example, on every engine, with socat clients over TCP and a unix socket at once.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

need socat
open_scratch chat

# A socket's path must be short, and the build tree's may be long: use relative ones.
cd "$scratch" || exit 1
scratch=.

# join NUMBER ADDRESS: client 4 or 5. What it is to say is written to that descriptor; what it hears
# goes to the file heard-NUMBER.
join()
{
    rm -f "says-$1"
    mkfifo "says-$1"
    socat -t "$deadline" - "$2" < "says-$1" > "heard-$1" 3>&- 4>&- 5>&- &
    case $1 in
    4) exec 4> "says-4" ;;
    5) exec 5> "says-5" ;;
    esac
    client=$!
}

# hears NUMBER LINE: waits until the client has heard it.
hears()
{
    # shellcheck disable=SC2016
    check "$engine: client $1 hears: $2" timeout "$deadline" sh -c '
        until grep -Fxq "$2" "$1"; do sleep 0.02; done' sh "heard-$1" "$2"
}

test_talk()
{
    join 4 "$tcp"
    client_4=$client
    hears 4 "* guest-1 joined, 1 here"
    open_descriptors=$(count_descriptors)
    join 5 "unix:socket"
    client_5=$client
    hears 5 "* guest-2 joined, 2 here"

    echo "from TCP" >&4
    hears 5 "guest-1: from TCP"
    printf 'from unix\r\n\n\nnext\n' >&5
    hears 4 "guest-2: next"
    # What is typed must not play tricks on other people's terminals.
    printf 'a\033[2Jb\nc\n' >&5
    hears 4 "guest-2: a?[2Jb"

    # Nobody hears anything of a line before it is whole.
    printf 'one ' >&4
    echo "meanwhile" >&5
    hears 4 "guest-2: meanwhile"
    printf 'line\n' >&4
    hears 5 "guest-1: one line"

    exec 5>&-
    wait "$client_5"
    hears 4 "* guest-2 left, 1 here"
    check_same "descriptors after it has left" "$open_descriptors" "$(count_descriptors)"
    exec 4>&-
    wait "$client_4"

    # All heard the same, in the same order, while they were there.
    cat > expected << 'END'
* guest-1 joined, 1 here
* guest-2 joined, 2 here
guest-1: from TCP
guest-2: from unix
guest-2: next
guest-2: a?[2Jb
guest-2: c
guest-2: meanwhile
guest-1: one line
* guest-2 left, 1 here
END
    check "$engine: what the first heard" diff expected heard-4
    sed -n '2,9p' expected > expected-5
    check "$engine: what the second heard" diff expected-5 heard-5
}

# One never reads; another talks, hears itself, and goes on until it hears that the first is gone.
test_slow()
{
    until_quiet
    # It has nothing to say either: its input stays open, and empty.
    rm -f slow
    mkfifo slow
    exec 4<> slow
    socat -u - "$tcp" <&4 3>&- 4>&- &
    slow=$!
    check "$engine: the slow one is there" until_connections 1
    text=$(head -c 1000 /dev/zero | tr '\0' x)
    # shellcheck disable=SC2016
    dropped=$(timeout "$deadline" sh -c \
        'yes "$1" 2> /dev/null | socat -t 1 - "$2" 2> /dev/null | grep -a -m 1 dropped' \
        sh "$text" "$tcp")
    check_same "the slow one is dropped" \
        "* guest-3 dropped for not reading, 1 here, 1 dropped so far" "$dropped"
    kill "$slow" 2> /dev/null
    wait "$slow"
    exec 4>&-
}

test_long_line()
{
    until_quiet
    head -c 5000 /dev/zero | tr '\0' x > long
    socat -u FILE:long "$tcp" 2> /dev/null
    check "$engine: who sends a line without end is sent away" until_connections 0
}

for engine in $engines; do
    rm -f socket
    if ! start 2 chat --engine "$engine" tcp://127.0.0.1:0 unix:socket; then
        not_started chat
        continue
    fi
    check_same "the second address" "unix:socket" "$address_2"
    tcp=tcp:$host_port
    test_talk
    test_slow
    test_long_line
    until_quiet
    check_stop TERM
    check_same "the socket's file is gone" "" "$(find . -name socket)"
done

cd "$top_builddir" && scratch=$top_builddir/tests/programs/scratch-chat
finish
