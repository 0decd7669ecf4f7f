#!/bin/sh
# The counting itself: summary.sh must see cases, crashes, skips and tests that never ran. A mistake
# here would let a failure pass unseen.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

make_scratch counting
cd "$scratch" || exit 1

# test_log NAME VERDICT LINE...
test_log()
{
    name=$1 verdict=$2
    shift 2
    printf '%s\n' "$@" > "$name.log"
    rm -f "$name.trs"
    [ "$verdict" = none ] || echo ":test-result: $verdict" > "$name.trs"
}

# counts EXPECTED STATUS LOG...
counts()
{
    expected=$1 status=$2
    shift 2
    got=$(sh "$top_srcdir/tests/build/summary.sh" "$@" 2> said)
    got_status=$?
    check "'$expected' ($status), not '$got' ($got_status), for $*" \
        test "$expected/$status" = "$got/$got_status"
}

test_log cases PASS "Running suite(s): a" "100%: Checks: 12, Failures: 0, Errors: 0"
test_log suites PASS "100%: Checks: 2, Failures: 0, Errors: 0" \
    "100%: Checks: 3, Failures: 0, Errors: 0"
test_log failing FAIL "75%: Checks: 4, Failures: 1, Errors: 0" "a.c:1:F:x:y:0: no"
test_log erring FAIL "50%: Checks: 4, Failures: 1, Errors: 1"
test_log killed FAIL "100%: Checks: 5, Failures: 0, Errors: 0" "Segmentation fault"
test_log silent PASS "nothing to count"
test_log silent-fail FAIL "nothing to count"
test_log script PASS "7 passed, 0 failed"
test_log script-skips PASS "7 passed, 0 failed, 2 skipped"
test_log script-fails FAIL "FAIL: x" "6 passed, 1 failed"
test_log skipped SKIP "no such thing here"
test_log skipped-cases SKIP "0 passed, 0 failed, 3 skipped"
test_log unharnessed none "9 passed, 0 failed"
test_log unfinished none "Running"

counts "12 passed, 0 failed" 0 cases.log
counts "5 passed, 0 failed" 0 suites.log
counts "3 passed, 1 failed" 1 failing.log
counts "2 passed, 2 failed" 1 erring.log
counts "5 passed, 1 failed" 1 killed.log
counts "1 passed, 0 failed" 0 silent.log
counts "0 passed, 1 failed" 1 silent-fail.log
counts "7 passed, 0 failed" 0 script.log
counts "7 passed, 0 failed, 2 skipped" 0 script-skips.log
counts "6 passed, 1 failed" 1 script-fails.log
counts "0 passed, 0 failed, 1 skipped" 0 skipped.log
counts "0 passed, 0 failed, 3 skipped" 0 skipped-cases.log
counts "9 passed, 0 failed" 0 unharnessed.log
counts "0 passed, 1 failed" 1 unfinished.log
counts "0 passed, 1 failed" 1 nowhere.log
counts "26 passed, 1 failed, 2 skipped" 1 cases.log script-skips.log script.log nowhere.log
check "without arguments: status 2" \
    sh -c 'sh "$1" 2> /dev/null; test $? -eq 2' sh "$top_srcdir/tests/build/summary.sh"

finish
