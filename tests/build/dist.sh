#!/bin/sh
# The release archive holds every file that the repository does, but for what only serves those who
# work on it. A file that is missing there is found by strangers, late.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

make_scratch dist
cd "$scratch" || exit 1

if ! git -C "$top_srcdir" rev-parse --git-dir > /dev/null 2>&1; then
    skip "no git repository here to compare the archive with"
    finish
fi
"${MAKE:-make}" -s --no-print-directory -C "$top_builddir" print-dist-files | tr ' ' '\n' |
    sed "s,^$top_srcdir/,," | LC_ALL=C sort -u > archive
for file in $(git -C "$top_srcdir" ls-files | grep -v -x -E '\.ci/.*|\.gitignore'); do
    [ ! -f "$top_srcdir/$file" ] ||
        check "$file is in the release archive" grep -q -x -F "$file" archive
done

finish
