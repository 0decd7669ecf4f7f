# shellcheck shell=sh
# What the test scripts share: counting, saying, and a directory to write in. It is sourced, never
# run. A script counts its cases with pass, fail and skip, and ends with finish.
#
# SPDX-License-Identifier: MIT

: "${top_srcdir:?run this through make check}" "${top_builddir:?}"
# Tools that a test runs must not look for the job server of the make above.
unset MAKEFLAGS MFLAGS MAKELEVEL
passed=0
failed=0
skipped=0

pass()
{
    passed=$((passed + 1))
}

fail()
{
    failed=$((failed + 1))
    echo "FAIL: $*"
}

skip()
{
    skipped=$((skipped + 1))
    echo "skipped: $*"
}

# check NAME COMMAND...: the command must succeed; what it said is shown only when it did not.
check()
{
    check_name=$1
    shift
    if check_said=$("$@" 2>&1); then
        pass
    else
        fail "$check_name"
        printf '%s\n' "$check_said"
    fi
}

# A fresh directory of this script's own under the build tree, removed at the end if all went well.
make_scratch()
{
    scratch=$top_builddir/tests/build/scratch-$1
    rm -rf "$scratch"
    mkdir -p "$scratch"
}

# The last line is what tests/build/summary.sh adds up.
finish()
{
    [ "$failed" -ne 0 ] || [ -z "${scratch:-}" ] || rm -rf "$scratch"
    if [ "$skipped" -gt 0 ]; then
        echo "$passed passed, $failed failed, $skipped skipped"
    else
        echo "$passed passed, $failed failed"
    fi
    [ "$failed" -eq 0 ] || exit 1
    [ "$passed" -gt 0 ] || exit 77
    exit 0
}
