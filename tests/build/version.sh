#!/bin/sh
# One version in every place that names it: configure.ac, version.h, NEWS, the .pc files and the
# library that runs.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

version=$(sed -n 's/^AC_INIT(\[berth\], \[\([0-9.]*\)\].*/\1/p' "$top_srcdir/configure.ac")
header=$top_srcdir/include/berth/version.h

# is WHERE FOUND: it must be the version.
is()
{
    check "$1 says '$2', configure.ac '$version'" test "$2" = "$version"
}

# macro NAME: its value in version.h.
macro()
{
    sed -n "s/^#define BERTH_VERSION_$1 \"*\([0-9.]*\)\"*\$/\1/p" "$header"
}

check "configure.ac names a version of three numbers" \
    expr "$version" : '[0-9][0-9]*\.[0-9][0-9]*\.[0-9][0-9]*$'
is "version.h, as numbers" "$(macro MAJOR).$(macro MINOR).$(macro PATCH)"
is "version.h, as text" "$(macro STRING)"
is "NEWS, in its first entry" \
    "$(sed -n 's/^berth \([0-9.]*\).*/\1/p' "$top_srcdir/NEWS" | head -n 1)"
for pc in "$top_builddir"/lib/*/*.pc; do
    is "${pc##*/}" "$(sed -n 's/^Version: //p' "$pc")"
done

finish
