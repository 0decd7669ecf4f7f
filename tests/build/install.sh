#!/bin/sh
# Installed, berth is what a stranger expects: the right files and no others, found by pkg-config
# from a plain compiler, from CMake and from C++17; gone again after uninstall. The tree itself can
# be used the same way before it is installed.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"
. "$top_srcdir/tests/build/stage.sh"

make_scratch install
cd "$scratch" || exit 1
consumer=$top_srcdir/tests/build/consumer

check "make install" stage_install
[ "$failed" -eq 0 ] || finish

# ---- which files -----------------------------------------------------------------------------
(cd "$top_srcdir/include" && find . -name '*.h' | LC_ALL=C sort) > headers.source
(cd "$stage" && find . -name '*.h' | sed 's,.*/include/,./,' | LC_ALL=C sort) > headers.installed
[ -f "$top_builddir/libberth-jemalloc.la" ] || sed -i '/jemalloc\.h/d' headers.source
check "all public headers are installed, and no other header" \
    diff headers.source headers.installed
for pc in berth berth-loop; do
    check "$pc.pc is installed" test -n "$(find "$stage" -name "$pc.pc")"
done
check "no uninstalled .pc is installed" test -z "$(find "$stage" -name '*uninstalled*')"
check "berth-info is installed" test -n "$(find "$stage" -name berth-info)"

# ---- who uses it -----------------------------------------------------------------------------
# compile NAME MODULE COMPILER...: compiles and runs.
compile()
{
    program=$1 module=$2
    shift 2
    # shellcheck disable=SC2086,SC2046 # flags are words
    check "$program compiles" "$@" $stage_cflags -o "$program" $(stage_flags "$module")
    check "$program runs" "./$program"
}

use_plain()
{
    kind=$1
    compile "$kind-table" berth "$CC" -std=c11 "$consumer/table.c"
    compile "$kind-loop" berth-loop "$CC" -std=c11 "$consumer/loop.c"
    for engine in epoll poll; do
        check "$kind-loop runs on $engine" env BERTH_ENGINE=$engine "./$kind-loop"
    done
    if [ -n "$CXX" ]; then
        compile "$kind-table-c++" berth "$CXX" -std=c++17 -x c++ "$consumer/table.c" -x none
        compile "$kind-loop-c++" berth-loop "$CXX" -std=c++17 -x c++ "$consumer/loop.c" -x none
    else
        skip "$kind, from C++: no compiler"
    fi
}

if ! command -v pkg-config > /dev/null; then
    skip "no pkg-config here"
    finish
fi

(
    # Before it is installed: no library path is set, the .pc files carry it.
    for directory in core loop jemalloc; do
        path=$top_builddir/lib/$directory${path:+:$path}
    done
    export PKG_CONFIG_PATH="$path"
    check "pkg-config prefers the uninstalled tree" \
        sh -c 'pkg-config --cflags berth | grep -q -e "$1/include"' sh "$top_srcdir"
    use_plain uninstalled
    echo "$passed $failed $skipped" > uninstalled.counts
)
read -r passed failed skipped < uninstalled.counts

stage_use
use_plain installed

if command -v cmake > /dev/null; then
    # shellcheck disable=SC2086 # flags are words
    check "cmake finds it" env CC="$CC" CFLAGS="$stage_cflags" \
        cmake -S "$consumer" -B cmake -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSTATIC="$stage_static"
    check "cmake builds with it" cmake --build cmake
    check "cmake's table runs" cmake/table
    check "cmake's loop runs" cmake/loop
else
    skip "no cmake here"
fi

# ---- and gone again ----------------------------------------------------------------------------
cp -a "$stage" gone
check "make uninstall" \
    "${MAKE:-make}" -s --no-print-directory -C "$top_builddir" uninstall DESTDIR="$scratch/gone"
check "uninstall leaves no file" test -z "$(find gone ! -type d)"

finish
