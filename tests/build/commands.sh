#!/bin/sh
# The commands that a person runs first: that they parse, explain themselves, refuse nonsense, and
# that every target which `make help` promises is there.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

make_scratch commands
cd "$scratch" || exit 1
bootstrap=$top_srcdir/bootstrap

check "bootstrap is POSIX sh" sh -n "$bootstrap"
check "bootstrap may be run" test -x "$bootstrap"
check "bootstrap help" sh -c '"$1" help > help.out && grep -q "demo" help.out' sh "$bootstrap"
check "bootstrap without a command explains itself" sh -c '"$1" | cmp -s - help.out' sh "$bootstrap"
for command in demo check build deps zig help; do
    check "help describes $command" grep -q "^  $command" help.out
done
check "an unknown command: usage on standard error, status 2" \
    sh -c '"$1" nonsense > out 2> err; test $? -eq 2 && test ! -s out && grep -q usage: err' \
    sh "$bootstrap"
check "an unknown set of packages: status 2" \
    sh -c '"$1" deps nonsense > out 2> err; test $? -eq 2' sh "$bootstrap"

# The listing of targets is written by hand: each must exist.
${MAKE:-make} -s --no-print-directory -C "$top_builddir" help > targets.out 2>&1
for target in check check-asan check-ubsan check-tsan check-valgrind check-cachegrind check-macos \
    bench bench-quick format tidy lint coverage distcheck; do
    check "make help lists $target" grep -q "^$target " targets.out
    check "make knows $target" grep -q -E "^([a-z -]* )?$target( [a-z -]*)?:" \
        "$top_builddir/Makefile"
done

if [ -f "$top_srcdir/.ci/run" ]; then
    check ".ci/run is POSIX sh" sh -n "$top_srcdir/.ci/run"
    check ".ci/run runs the tests" grep -q '\./bootstrap check' "$top_srcdir/.ci/run"
fi

finish
