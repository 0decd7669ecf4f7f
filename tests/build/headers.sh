#!/bin/sh
# Every public header compiles alone, as strict C11 and as C++11, 17 and 20, with the warnings of a
# careful user as errors, and with assertions off too.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

make_scratch headers
cd "$scratch" || exit 1
warnings="-Wall -Wextra -pedantic -Werror"
include=$top_srcdir/include

# has_header NAME: whether this system has it.
has_header()
{
    echo "#include <$1>" | $CC -D_GNU_SOURCE= -E - > /dev/null 2>&1
}

# The foreign header that each adapter is glue for, and that only it may include.
foreign_header()
{
    case $1 in
    berth/adapt/epoll.h) echo sys/epoll.h ;;
    berth/adapt/kqueue.h) echo sys/event.h ;;
    berth/adapt/io_uring.h) echo liburing.h ;;
    berth/adapt/libev.h) echo ev.h ;;
    berth/adapt/libuv.h) echo uv.h ;;
    berth/adapt/libevent.h) echo event2/event.h ;;
    esac
}

# try COMPILER STANDARD HEADER SUFFIX FLAG...
try()
{
    compiler=$1 standard=$2 header=$3 suffix=$4
    shift 4
    echo "#include <$header>" > "user.$suffix"
    echo "int main(void) { return 0; }" >> "user.$suffix"
    # shellcheck disable=SC2086 # warnings are words
    check "$header as $standard with $compiler $*" \
        "$compiler" -std="$standard" $warnings "$@" -I"$include" -fsyntax-only "user.$suffix"
}

compilers_c=$CC
compilers_cxx=$CXX
if command -v clang > /dev/null && [ "${CC##*/}" != clang ]; then
    compilers_c="$compilers_c clang"
    compilers_cxx="$compilers_cxx clang++"
fi

for path in "$include"/berth.h "$include"/berth/*.h "$include"/berth/adapt/*.h; do
    header=${path#"$include/"}
    foreign=$(foreign_header "$header")
    if [ -n "$foreign" ] && ! has_header "$foreign"; then
        skip "$header: no <$foreign> on this system"
        continue
    fi
    # liburing.h and uv.h do not compile as strict C11 by themselves: they need system extensions.
    extensions=
    case $foreign in
    liburing.h | uv.h) extensions=-D_GNU_SOURCE= ;;
    esac
    for compiler in $compilers_c; do
        # shellcheck disable=SC2086 # empty extensions are no argument
        try "$compiler" c11 "$header" c $extensions
    done
    # shellcheck disable=SC2086
    try "$CC" c11 "$header" c -DNDEBUG $extensions
    for compiler in $compilers_cxx; do
        for standard in c++11 c++17 c++20; do
            try "$compiler" $standard "$header" cpp
        done
    done
done
[ -n "$CXX" ] || skip "C++: no compiler"

finish
