#!/bin/sh
# Adds up what a test run proved: summary.sh LOG... prints "N passed, N failed", with ", N skipped"
# if any were, and fails if any failed.
#
# Beside each LOG stands a .trs with the harness's verdict; if not, only the log's own count speaks.
# Cases are counted from the log: the lines that Check prints ("100%: Checks: 3, Failures: 0,
# Errors: 0"), or the last line of a script ("3 passed, 0 failed"). A test that says neither counts
# as one. One that was killed after its cases had passed, or that never ran, is one failure more.
#
# SPDX-License-Identifier: MIT
set -eu

[ $# -gt 0 ] || {
    echo "usage: summary.sh LOG..." >&2
    exit 2
}

for log in "$@"; do
    trs=${log%.log}.trs
    verdict=$(sed -n 's/^:test-result: \([A-Z]*\).*/\1/p' "$trs" 2> /dev/null || true)
    echo "@test ${log%.log} ${verdict:-NONE}"
    [ ! -f "$log" ] || cat "$log"
    echo
done | awk '
    function close_test() {
        if (name == "")
            return
        if (verdict == "NONE" && passes + fails + skips == 0) {
            print "did not run: " name > "/dev/stderr"
            failed++
            return
        }
        if (verdict == "SKIP") {
            total_skipped += skips > 0 ? skips : 1
            return
        }
        if (passes + fails + skips == 0) {
            if (verdict == "PASS")
                passes = 1
        }
        if (verdict != "PASS" && verdict != "NONE" && fails == 0)
            fails = 1
        if (verdict == "PASS" && fails > 0)
            print "passed, but counts failures: " name > "/dev/stderr"
        passed += passes; failed += fails; total_skipped += skips
    }
    /^@test / {
        close_test()
        name = $2; verdict = $3; passes = fails = skips = 0
        next
    }
    /^[0-9]+%: Checks: [0-9]+, Failures: [0-9]+, Errors: [0-9]+$/ {
        gsub(/,/, "")
        passes += $3 - $5 - $7; fails += $5 + $7
    }
    /^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$/ {
        passes = $1; fails = $3; skips = $5 + 0
    }
    END {
        close_test()
        line = passed + 0 " passed, " failed + 0 " failed"
        if (total_skipped)
            line = line ", " total_skipped " skipped"
        print line
        exit failed > 0
    }'
