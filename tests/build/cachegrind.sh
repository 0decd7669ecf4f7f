#!/bin/sh
# Runs the gates of exact counts: each executable tests/cachegrind/*.sh, in order. Counts of
# instructions and simulated cache misses repeat exactly on one machine type and compiler, so they
# may fail a build, as times may not. Each gate prints its own figures and budgets, and ends with 77
# where they mean nothing.
#
# SPDX-License-Identifier: MIT
set -eu

: "${top_srcdir:?run this through make}" "${top_builddir:?}"
command -v valgrind > /dev/null || {
    echo "check-cachegrind: no valgrind here: install it (on Debian: apt-get install valgrind)" >&2
    exit 1
}

gates=0
failed=0
skipped=0
for gate in "$top_srcdir"/tests/cachegrind/*.sh; do
    [ -f "$gate" ] || continue
    gates=$((gates + 1))
    echo "check-cachegrind: ${gate##*/}"
    status=0
    sh "$gate" || status=$?
    case $status in
    0) ;;
    77) skipped=$((skipped + 1)) ;;
    *) failed=$((failed + 1)) ;;
    esac
done
if [ "$gates" -eq 0 ]; then
    echo "check-cachegrind: there is no gate in tests/cachegrind yet: nothing was checked"
    exit 0
fi
echo "check-cachegrind: $((gates - failed - skipped)) passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
