#!/bin/sh
# The tests of streams, bulk, starvation, credit and of what callbacks may do, on io_uring without
# each of its features and without all of them: what a loop does on older kernels, or when the
# self-test finds a fault. Every case is counted. Two combinations run at the same time, because
# they wait more than they work.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/build/lib.sh
. "${top_srcdir:?run this through make check}/tests/build/lib.sh"

make_scratch features
programs="test_streams test_bulk test_starvation test_credit test_contract"
combinations="-multishot -poll-first -limits -bundles -incremental -incremental-bundles -demotion
    +direct -zerocopy +zerocopy -all"

# run FEATURES: all the programs, one after the other, each into a file of its own.
run()
{
    for program in $programs; do
        BERTH_FEATURES=$1 BERTH_TEST_ENGINE=uring "$top_builddir/tests/loop/$program" \
            > "$scratch/$1.$program" 2>&1
        echo "status $?" >> "$scratch/$1.$program"
    done
}

# count FEATURES PROGRAM: adds up what the program's own summary says.
count()
{
    log=$scratch/$1.$2
    counted=$(grep '^[0-9]*%: Checks: [0-9]*, Failures: [0-9]*, Errors: [0-9]*$' "$log" |
        sed 's/^[0-9]*%//; s/[^0-9 ]//g')
    if [ -z "$counted" ]; then
        fail "$2 with BERTH_FEATURES=$1 did not come to an end"
        cat "$log"
        return
    fi
    # shellcheck disable=SC2086 # three numbers
    set -- "$1" "$2" $counted
    passed=$((passed + $3 - $4 - $5))
    failed=$((failed + $4 + $5))
    if [ $(($4 + $5)) -gt 0 ] || ! grep -q -x 'status 0' "$log"; then
        echo "FAIL: $2 with BERTH_FEATURES=$1"
        cat "$log"
        [ $(($4 + $5)) -gt 0 ] || failed=$((failed + 1))
    fi
    grep '^skipped: ' "$log" | sort -u | sed "s/^skipped: /skipped with $1: $2: /"
}

if ! "$top_builddir/berth-info" | grep -q -E '^  uring +yes'; then
    skip "no io_uring here"
    finish
fi

# shellcheck disable=SC2086 # lists of words
set -- $combinations
while [ $# -gt 0 ]; do
    run "$1" &
    if [ $# -gt 1 ]; then
        run "$2"
        shift
    fi
    wait
    shift
done
for combination in $combinations; do
    for program in $programs; do
        count "$combination" "$program"
    done
done
finish
