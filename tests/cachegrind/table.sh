#!/bin/sh
# Instructions and cache misses of the table's hot paths, counted exactly, against their budgets. A
# path is run N and 2N times: the difference is N times the path and nothing else. The caches are
# those given here, whatever the machine has.
#
# When a budget is exceeded, the code has changed, or the compiler. Budgets are what was counted and
# a tenth, for GCC 12 and clang 14 with -O2.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/build/lib.sh
. "${top_srcdir:?run this through make}/tests/build/lib.sh"

make_scratch cachegrind-table
program=$top_builddir/tests/cachegrind/table_paths
caches="--D1=32768,8,64 --LL=524288,8,64"
count=131072

unable()
{
    echo "skipped: $*"
    exit 77
}

command -v valgrind > /dev/null ||
    unable "no valgrind here: install it (on Debian: apt-get install valgrind)"
[ -z "${SANITIZE:-}" ] || unable "a sanitizer's instructions would be counted"
unsuited=$("$program" suited) || unable "$unsuited"
flags=$(sed -n 's/^CFLAGS = //p' "$top_builddir/Makefile")
case " $flags " in
*" -O2 "* | *" -O3 "*) ;;
*) unable "the budgets are for -O2, not for CFLAGS=$flags" ;;
esac
compiler=gcc
"${CC:-cc}" --version 2> /dev/null | grep -q clang && compiler=clang

# counted OPERATION COUNT: sets $instructions and $misses, of the first level and $misses_last.
counted()
{
    # shellcheck disable=SC2086 # words
    "$top_builddir/libtool" --silent --mode=execute valgrind --tool=cachegrind --cache-sim=yes \
        $caches --cachegrind-out-file="$scratch/out" "$program" "$1" "$2" > "$scratch/said" 2>&1 ||
        return 1
    sed 's/,//g' "$scratch/said" > "$scratch/plain"
    instructions=$(sed -n 's/.*I *refs: *\([0-9]*\).*/\1/p' "$scratch/plain")
    misses=$(sed -n 's/.*D1 *misses: *\([0-9]*\).*/\1/p' "$scratch/plain")
    misses_last=$(sed -n 's/.*LLd *misses: *\([0-9]*\).*/\1/p' "$scratch/plain")
    [ -n "$instructions" ] && [ -n "$misses" ] && [ -n "$misses_last" ]
}

# per_operation OPERATION: the same three, for one time of it.
per_operation()
{
    counted "$1" $count || return 1
    once="$instructions $misses $misses_last"
    counted "$1" $((2 * count)) || return 1
    # shellcheck disable=SC2046,SC2086 # words
    set -- $(echo $once $instructions $misses $misses_last |
        awk -v n=$count '{ printf "%.3f %.4f %.4f", ($4 - $1) / n, ($5 - $2) / n, ($6 - $3) / n }')
    instructions=$1
    misses=$2
    misses_last=$3
}

# within WHAT VALUE LOW HIGH
within()
{
    check "$1: $2 is not from $3 to $4" \
        awk -v value="$2" -v low="$3" -v high="$4" 'BEGIN { exit !(value >= low && value <= high) }'
}

# path OPERATION FLOOR GCC CLANG MISSES_LOW MISSES_HIGH: FLOOR are the instructions of a loop around
# nothing, not the table's; GCC and CLANG the most of instructions; then the lines missed, which are
# those of the last level too where they are as many as 1.
path()
{
    case $compiler in
    clang) most=$4 ;;
    *) most=$3 ;;
    esac
    if ! per_operation "$1"; then
        fail "$1 could not be counted"
        cat "$scratch/said"
        return
    fi
    instructions=$(awk -v all="$instructions" -v floor="$2" 'BEGIN { printf "%.2f", all - floor }')
    printf '  %-14s %7s instructions (at most %s), %s lines missed, %s in the last level\n' "$1" \
        "$instructions" "$most" "$misses" "$misses_last"
    within "$1: instructions" "$instructions" 1 "$most"
    within "$1: lines missed" "$misses" "$5" "$6"
    [ "$5" != 0.97 ] || within "$1: lines missed in the last level" "$misses_last" "$5" "$6"
}

if ! counted floor 1; then
    echo "valgrind said:"
    tail -n 5 "$scratch/said"
    unable "valgrind cannot run what this compiler made"
fi
echo "table paths, each time, compiled by $compiler $flags; $caches"
per_operation floor
floor=$instructions
per_operation cold-floor
cold_floor=$instructions
#    operation      floor        gcc  clang  lines missed
path find           "$floor"      19   23    0     0.01
path touch          "$floor"       7    7    0     0.01
path claim-release  "$floor"     134  130    0     0.01
path walk           0             15.7 24.5  0     0.01
path sweep          0             33   26.1  0     0.04
# One line per event, and no other: it is what the table is for.
path cold-find      "$cold_floor" 20   17    0.97  1.03

finish
