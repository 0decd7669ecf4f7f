#!/bin/sh
# berth-info: says what it should in both forms, agrees with itself, survives a machine that offers
# little, and refuses nonsense.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

make_scratch info
cd "$scratch" || exit 1
info=$top_builddir/berth-info

# In the build tree a program may be a script around the real one, which needs descriptors itself.
real=$info
if [ -x "$top_builddir/.libs/berth-info" ]; then
    real=$top_builddir/.libs/berth-info
    export LD_LIBRARY_PATH="$top_builddir/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi

check "it runs" sh -c '"$1" > text' sh "$info"
for section in berth engines "io uring" machine cache memory limits measuring; do
    check "it has the section '$section'" grep -q -x "$section" text
done
check "no line ends in white space" sh -c '! grep -n " $" text'
check "an engine was chosen" grep -q -E '^  chosen +(uring|epoll|poll)$' text
check "poll works everywhere" grep -q -E '^  poll +yes' text

check "--json runs" sh -c '"$1" --json > json' sh "$info"
if command -v jq > /dev/null; then
    check "--json is JSON" sh -c 'jq -e .berth.version json > parsed'
elif python3 -c 'import json' 2> /dev/null; then
    check "--json is JSON" python3 -m json.tool json parsed
else
    skip "--json is not parsed: neither jq nor python3 with its json module is here"
fi
chosen=$(sed -n 's/^ *"chosen": "\(.*\)",*$/\1/p' json)
check "both forms name the same engine ($chosen)" grep -q -E "^  chosen +$chosen\$" text

# An engine asked for by name in the environment is the one chosen.
check "BERTH_ENGINE=poll is obeyed" \
    sh -c 'BERTH_ENGINE=poll "$1" | grep -q -E "^  chosen +poll$"' sh "$info"

# The self-test's verdicts, and who switched something off.
if grep -q -E '^  uring +yes' text; then
    for feature in multishot limits bundles incremental; do
        check "a verdict on $feature" \
            grep -q -E "^    $feature +(works|missing|misbehaves|not tried)" text
    done
    check "what there is for zero-copy receives" grep -q -E '^    kernel +(yes|no: .)' text
    check "and that nobody has run them" grep -q -E '^    tried on hardware +never' text
    check "BERTH_FEATURES is obeyed and told" sh -c 'BERTH_FEATURES=-poll-first "$1" |
        grep -q -E "^    poll-first .*; switched off by BERTH_FEATURES$"' sh "$info"
    check "and what it names wrongly" sh -c 'BERTH_FEATURES=+nonsense "$1" |
        grep -q -E "BERTH_FEATURES: .\+nonsense. is no feature$"' sh "$info"
else
    skip "no io_uring: no self-test"
fi

# With next to no descriptors nothing can be made: it says so and still ends well.
check "without descriptors it still reports" \
    sh -c '(ulimit -n 4; exec timeout 60 "$1") > poor' sh "$real"
check "and says which engines it cannot have" grep -q -E '^  (uring|epoll|poll) +no: .' poor

check "--help explains, status 0" sh -c '"$1" --help | grep -q "^usage:"' sh "$info"
version=$(sed -n 's/^AC_INIT(\[berth\], \[\([0-9.]*\)\].*/\1/p' "$top_srcdir/configure.ac")
check "--version is $version" sh -c 'test "$("$1" --version)" = "$2"' sh "$info" "$version"
for bad in --nonsense extra -j ""; do
    check "'$bad' is refused: usage on standard error, status 2" \
        sh -c '"$1" "$2" > out 2> err; test $? -eq 2 && test ! -s out && grep -q ^usage: err' \
        sh "$info" "$bad"
done
check "a full disk is an error" sh -c '! "$1" > /dev/full' sh "$info"

finish
