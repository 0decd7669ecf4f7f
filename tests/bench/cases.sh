#!/bin/sh
# Every case that berth-bench lists, as small as it can be had: it ends well, JSON and CSV are well
# formed and agree, rows name what `list` does. And with next to no descriptors, where less fits:
# it says so, or says what is missing.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/bench/lib.sh
. "${top_srcdir:?run this through make check}/tests/bench/lib.sh"

open_scratch cases
say_unjudged

# The few descriptors of the second run, and far more connections than fit them.
descriptors=64
many=1000

for case in $cases; do
    # shellcheck disable=SC2086 # words
    smallest "$case" $tiny
    echo "$case $small"
    # shellcheck disable=SC2086 # words
    ends 0 "$case" "$case" $small --json="$case.json" --csv="$case.csv" || continue
    judge_json "$case" "$case.json"
    judge "$case: CSV" agree "$case.json" "$case.csv"
    judge "$case: variants" variants "$case.json" "$case" listed
    judge "$case: case" has "$case.json" case "\"$case\""
    judge "$case: not interrupted" has "$case.json" interrupted false
    # However few the rounds, never a number that is none.
    check "$case: no NaN, no infinity" sh -c '! grep -n -w -i -E "nan|inf|infinity" "$@"' sh \
        "$case.csv" "$case.json"
    check "$case: what came out is what went in" sh -c '! grep -q "other bytes came out" out'
    check "$case: the text has the machine" grep -q '^  machine ' out
    check "$case: the text has a verdict" grep -q -E '^  reliable: (yes|no)$' out
done

for case in $cases; do
    words=$tiny
    asked=
    takes "$case" --connections "$many" && {
        words="$words --connections $many"
        asked=$many
    }
    status=0
    # shellcheck disable=SC2086 # words
    sh -c 'ulimit -n "$0"; exec timeout 300 "$@" --json=few.json' $descriptors \
        "$bench" "$case" $words > out 2> err || status=$?
    echo "$case with $descriptors descriptors: status $status"
    case $status in
    0) pass ;;
    1) check "$case with few descriptors: it says what is wrong" \
        grep -q "^berth-bench: $case: ." err ;;
    *)
        fail "$case with few descriptors: status $status"
        tail -n 20 err
        continue
        ;;
    esac
    judge_json "$case with few descriptors" few.json
    # In-process cases need no descriptors for what they call connections.
    if [ -n "$asked" ] && ! grep -q -E "\": ${many}[,}]" few.json; then
        check "$case with few descriptors: it says what fitted" \
            grep -q -E 'fit the limit|left out' out
    fi
done

# Counters that a machine does not have are null, and never 0.
for json in *.json; do
    if grep -q '"pmu": false' "$json" && grep -q '"cycles": ' "$json"; then
        check "$json: no cycles without hardware counters" \
            sh -c '! grep -E "\"(cycles|tlb_misses)\": [^n]" "$1"' sh "$json"
    fi
done

finish
