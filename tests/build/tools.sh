#!/bin/sh
# The tools that read the sources: tools.sh format | tidy | lint, called by make. A tool that is not
# installed is named, and fails the target: a lint that checked nothing has not passed.
#
# SPDX-License-Identifier: MIT
set -eu

: "${top_srcdir:?run this through make}" "${top_builddir:?}"
jobs=$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 1)

need()
{
    command -v "$1" > /dev/null || {
        echo "$1 is not here: install it (on Debian: apt-get install ${2:-$1})" >&2
        exit 1
    }
}

sources()
{
    find "$top_srcdir/include" "$top_srcdir/lib" "$top_srcdir/tests" "$top_srcdir/bench" \
        "$top_srcdir/docs" -name "$1" | LC_ALL=C sort
}

format()
{
    need clang-format
    sources '*.[ch]' | xargs clang-format -i
    echo "format: done; see what changed with git diff"
}

# The compiler's view of each source: the flags that matter to an analyser.
flags()
{
    echo "-std=gnu11 -D_GNU_SOURCE= -DBERTH_HAVE_EPOLL=1"
    echo "-I$top_srcdir/include -I$top_srcdir/lib -I$top_srcdir/tests -I$top_srcdir/bench"
    if pkg-config --exists 'liburing >= 2.3'; then
        echo "-DBERTH_HAVE_LIBURING=1"
    fi
    if pkg-config --exists 'jemalloc >= 5.2'; then
        echo "-DBERTH_HAVE_JEMALLOC=1"
    fi
}

# run_tidy CHECKS: over the sources named on standard input.
run_tidy()
{
    flags=$(flags | tr '\n' ' ')
    # shellcheck disable=SC2016 # the inner shell expands: $0 are the flags
    xargs -P "$jobs" -n 4 sh -c '
        clang-tidy --quiet --warnings-as-errors="*" '"$1"' "$@" -- $0 2>&1' "$flags" || {
        echo "tidy: see above" >&2
        exit 1
    }
}

# Not the tests: Check's macros hide from an analyser that a failed assertion ends the test, so that
# everything after one looks like a fault. For the examples the analyser that follows paths is off:
# it loses its way in the list macros of uthash and in what system calls fill in.
tidy()
{
    need clang-tidy
    sources '*.c' | grep -E "^$top_srcdir/(lib|bench)/" | run_tidy ''
    sources '*.c' | grep -E "^$top_srcdir/docs/" | run_tidy '--checks=-clang-analyzer-*'
    echo "tidy: clean"
}

lint()
{
    need shellcheck
    need cppcheck
    need clang-format
    status=0
    sources '*.[ch]' | xargs clang-format --dry-run --Werror || {
        echo "lint: lay these out with 'make format'" >&2
        status=1
    }
    # SC1091, SC2154: lib.sh and what it sets are found at run time. SC2317: functions that are
    # called through check(). SC2016, SC2034: sh -c scripts, and variables for who sources.
    { sources '*.sh'; echo "$top_srcdir/bootstrap"; echo "$top_srcdir/.ci/run"; } |
        while read -r script; do [ ! -f "$script" ] || echo "$script"; done |
        xargs shellcheck --shell=sh --exclude=SC1091,SC2016,SC2034,SC2154,SC2317 || status=1
    mkdir -p "$top_builddir/build-cppcheck"
    # shellcheck disable=SC2046
    cppcheck --quiet --error-exitcode=1 --std=c11 -j "$jobs" --inline-suppr \
        --cppcheck-build-dir="$top_builddir/build-cppcheck" \
        --enable=warning,performance,portability \
        --suppressions-list="$top_srcdir/tests/build/cppcheck.supp" \
        $(flags | tr ' ' '\n' | grep '^-[DI]') "$top_srcdir/lib" "$top_srcdir/bench" \
        "$top_srcdir/docs" || status=1
    "${SHELL:-sh}" "$top_srcdir/tests/build/style.sh" || status=1
    [ $status -eq 0 ] || exit 1
    echo "lint: clean"
}

case ${1:-} in
format | tidy | lint) "$1" ;;
*)
    echo "usage: tools.sh format | tidy | lint" >&2
    exit 2
    ;;
esac
