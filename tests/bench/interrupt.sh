#!/bin/sh
# Ctrl-C in the middle of a long run, in its several forms: what was measured is written, as valid
# as ever but marked, the status is 130, and no process is left behind. For every case, and for all
# of them in a row.
#
# Each run has a process group of its own, and its standard error is a FIFO: its first line says
# that it is at work, its end that nobody of that group is left to write to it.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/bench/lib.sh
. "${top_srcdir:?run this through make check}/tests/bench/lib.sh"

open_scratch interrupt
say_unjudged
command -v setsid > /dev/null || {
    echo "skipped: there is no setsid"
    exit 77
}
pid=
trap '[ -z "$pid" ] || kill -KILL -- "-$pid" 2> /dev/null' EXIT
trap 'exit 1' HUP INT TERM

# A slice so long that nothing here ends by itself.
endless="--quick --rounds 1 --seconds 600"

# next_line PATTERN: waits for a line on standard error that has it.
next_line()
{
    : > said
    timeout 120 sh -c 'while IFS= read -r line <&3; do
            printf "%s\n" "$line" >> said
            case $line in *"$1"*) exit 0 ;; esac
        done
        exit 1' sh "$1" && return 0
    fail "no line with '$1' on standard error, but: $(cat said)"
    return 1
}

# begin PATTERN ARG...: starts it and waits for that line; its process, and group, is $pid.
begin()
{
    begin_pattern=$1
    shift
    rm -f says
    mkfifo says
    setsid "$bench" "$@" > out 2> says < /dev/null &
    pid=$!
    exec 3< says
    next_line "$begin_pattern"
}

# over NAME STATUS: everything of it ends soon, with that status.
over()
{
    over_status=0
    if ! timeout 60 cat <&3 > rest; then
        fail "$1: not over after a minute"
        kill -KILL -- "-$pid"
    fi
    wait "$pid" || over_status=$?
    exec 3<&-
    check "$1: status $over_status instead of $2" test "$over_status" -eq "$2"
    # Who still has a minute to live is not one of them: all were waited for.
    [ "$2" -eq 137 ] || check "$1: no process is left" sh -c '! kill -s 0 -- "-$1"' sh "$pid"
    pid=
}

# judge_interrupted NAME FILE [WHERE.]: valid, and says what happened.
judge_interrupted()
{
    judge_json "$1" "$2"
    judge "$1: it says so" has "$2" "${3:-}interrupted" true
    judge "$1: it is not reliable" has "$2" "${3:-}reliable" false
}

# ---- each case -----------------------------------------------------------------------------------
for case in $cases; do
    # shellcheck disable=SC2086 # words
    smallest "$case" $endless
    rm -f one.json
    # shellcheck disable=SC2086 # words
    if begin "" "$case" $small --json=one.json --csv=one.csv; then
        kill -INT "$pid"
    fi
    over "$case" 130
    judge_interrupted "$case" one.json
    judge "$case: CSV" agree one.json one.csv
    check "$case: no complaint" sh -c '! grep "^berth-bench: .*: " rest'
done

# ---- all of them ---------------------------------------------------------------------------------
# all_of_them NAME SIGNAL WHOM...: "all", interrupted in its first case. WHOM: process or group.
all_of_them()
{
    name=$1
    signal=$2
    shift 2
    rm -f all.json all.csv
    # shellcheck disable=SC2086 # words
    begin "round" all $endless --json=all.json --csv=all.csv && for whom in "$@"; do
        case $whom in
        process) kill -s "$signal" "$pid" ;;
        group) kill -s "$signal" -- "-$pid" ;;
        esac
    done
    over "$name" 130
    judge_interrupted "$name" all.json 0.
    judge "$name: CSV" agree all.json all.csv
    check "$name: nothing else was begun" sh -c '! grep "case 2 of" rest'
}

all_of_them "all, SIGINT to itself" INT process
all_of_them "all, SIGTERM to itself" TERM process
all_of_them "all, Ctrl-C" INT group
# As timeout(1) does it: that is one request, not two.
all_of_them "all, SIGTERM to itself and its group" TERM process group
all_of_them "all, SIGINT to itself and its group" INT process group

# Who ignores SIGCHLD passes that on to what he starts, where children then vanish by themselves.
trap '' CHLD
all_of_them "all, with SIGCHLD ignored" INT process
trap - CHLD

# ---- a case that dies is named, and leaves no half of a report -----------------------------------
# shellcheck disable=SC2086 # words
if [ -r "/proc/$$/task/$$/children" ]; then
    begin "round" all $endless --json=dead.json --csv=dead.csv
    read -r child _ < "/proc/$pid/task/$pid/children"
    kill -KILL "$child"
    next_line "round" && check "the dead is named" grep -q 'ended by signal 9' said
    kill -INT "$pid"
    over "all, whose first case was killed" 130
    judge_interrupted "all, whose first case was killed" dead.json 0.
    judge "all, whose first case was killed" agree dead.json dead.csv
else
    skip "this kernel does not list a process's children"
fi

# ---- killed outright, it takes everybody along ---------------------------------------------------
# shellcheck disable=SC2086 # words
begin "round" all $endless && kill -KILL "$pid"
over "all, killed" 137

# ---- nobody listens any more ---------------------------------------------------------------------
# The reader is gone before the writer begins.
mkfifo gate
# shellcheck disable=SC2086 # words
{
    read -r _ < gate
    status=0
    timeout 300 "$bench" all $tiny 2> err || status=$?
    echo $status > status
} | {
    exec < /dev/null
    echo > gate
}
check "all, with nobody to read: status 1" grep -q -x 1 status
check "all, with nobody to read: it ends there" sh -c '! grep "case 2 of" err'

finish
