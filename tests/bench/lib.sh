# shellcheck shell=sh
# What the tests of berth-bench share: running it, and judging what it wrote. They name no case:
# whatever `berth-bench list` has is tested, and whether a case takes an option is found by asking.
# It is sourced, never run.
#
# SPDX-License-Identifier: MIT

: "${top_srcdir:?run this through make check}" "${top_builddir:?}"
# shellcheck source=tests/build/lib.sh
. "$top_srcdir/tests/build/lib.sh"

# In the build tree a program may be a script around the real one, which costs time and descriptors,
# and is what a signal would meet.
bench=$top_builddir/berth-bench
if [ -x "$top_builddir/.libs/berth-bench" ]; then
    bench=$top_builddir/.libs/berth-bench
    export LD_LIBRARY_PATH="$top_builddir/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi

# Of the shortest run there is.
tiny="--quick --rounds 1 --seconds 0.001"

# open_scratch NAME: a directory of this test's own, to be in. What there is to test is in `listed`.
open_scratch()
{
    make_scratch "bench-$1"
    cd "$scratch" || exit 1
    [ -x "$bench" ] || {
        echo "skipped: there is no berth-bench on this system"
        exit 77
    }
    "$bench" list > listed || fail "berth-bench list"
    cases=$(sed -n 's/^\([^ ][^ ]*\) .*/\1/p' listed)
    [ -n "$cases" ] || fail "berth-bench list names no case"
    find_python
}

# The first variant of a case that `list` names; nothing if it names none.
first_variant()
{
    awk -v one="$1" '/^[^ ]/ { inside = $1 == one } /^ / && inside { print $1; exit }' listed
}

# ---- judging: see results.py ---------------------------------------------------------------------

# The `python3` that comes first may be one without Debian's modules.
find_python()
{
    python=
    schema=
    for found in python3 /usr/bin/python3; do
        "$found" -c 'import json' 2> /dev/null || continue
        python=${python:-$found}
        if "$found" "$top_srcdir/tests/bench/results.py" can-validate > /dev/null 2>&1; then
            python=$found
            schema=$top_srcdir/bench/schema.json
            break
        fi
    done
}

# Says aloud what will not be judged here.
say_unjudged()
{
    if [ -z "$python" ]; then
        skip "results are not judged: there is no python3"
    elif [ -z "$schema" ]; then
        skip "results are not held against bench/schema.json: no python3 here has jsonschema"
    fi
}

# judge NAME COMMAND ARG...: one command of results.py. Counts nothing without Python.
judge()
{
    judge_name=$1
    shift
    [ -z "$python" ] || check "$judge_name" "$python" "$top_srcdir/tests/bench/results.py" "$@"
}

judge_json()
{
    judge "$1: its JSON" json "$2" ${schema:+"$schema"}
}

# ---- running -------------------------------------------------------------------------------------

# ends STATUS NAME ARG...: berth-bench ends with that; what it says goes to `out` and `err`. Each
# run has a deadline, far beyond what it takes.
ends()
{
    ends_expected=$1
    ends_name=$2
    shift 2
    ends_status=0
    timeout 300 "$bench" "$@" > out 2> err < /dev/null || ends_status=$?
    if [ "$ends_status" -eq "$ends_expected" ]; then
        pass
        return 0
    fi
    fail "$ends_name: status $ends_status instead of $ends_expected"
    tail -n 20 err
    return 1
}

# refused NAME ARG...: usage on standard error, nothing on standard output, status 2.
refused()
{
    refused_name=$1
    refused_status=0
    shift
    timeout 60 "$bench" "$@" > out 2> err < /dev/null || refused_status=$?
    if [ "$refused_status" -eq 2 ] && [ ! -s out ] && grep -q '^usage: ' err; then
        pass
        return 0
    fi
    fail "$refused_name is not refused as it should be: status $refused_status"
    head -n 5 out err
}

# takes CASE OPTION...: whether the case takes that option with that value. Nothing is measured:
# where the results should go cannot be, and that is noticed first.
takes()
{
    takes_status=0
    timeout 60 "$bench" "$@" --json=nowhere/x > out 2> err < /dev/null || takes_status=$?
    [ "$takes_status" -eq 1 ]
}

# smallest CASE OPTION...: these options and those of its smallest run, in $small.
smallest()
{
    smallest_case=$1
    shift
    small=$*
    ! takes "$smallest_case" --connections 100 || small="$small --connections 100"
    ! takes "$smallest_case" --active 1 || small="$small --active 1"
}
