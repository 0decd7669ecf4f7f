#!/bin/sh
# Tests of what io_uring does, on rings with completions of 32 bytes in place of 16: what a loop has
# that receives without copying. Every case is counted.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/build/lib.sh
. "${top_srcdir:?run this through make check}/tests/build/lib.sh"

make_scratch large_completions
programs="test_streams test_contract test_bulk test_direct test_kernel_receive test_kernel_ring
    test_selftest test_udp test_udp_faults"

if ! "$top_builddir/berth-info" | grep -q -E '^    cqe32 +yes'; then
    skip "no io_uring with completions of 32 bytes here"
    finish
fi

for program in $programs; do
    log=$scratch/$program
    BERTH_TEST_LARGE_COMPLETIONS=1 "$top_builddir/tests/loop/$program" > "$log" 2>&1
    status=$?
    counted=$(grep '^[0-9]*%: Checks: [0-9]*, Failures: [0-9]*, Errors: [0-9]*$' "$log" |
        sed 's/^[0-9]*%//; s/[^0-9 ]//g')
    if [ -z "$counted" ]; then
        fail "$program did not come to an end"
        cat "$log"
        continue
    fi
    # shellcheck disable=SC2086 # three numbers
    set -- $counted
    passed=$((passed + $1 - $2 - $3))
    failed=$((failed + $2 + $3))
    if [ $status -ne 0 ]; then
        echo "FAIL: $program"
        cat "$log"
        [ $(($2 + $3)) -gt 0 ] || failed=$((failed + 1))
    fi
    grep '^skipped: ' "$log" | sort -u | sed "s/^skipped: /skipped: $program: /"
done
finish
