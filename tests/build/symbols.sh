#!/bin/sh
# What the libraries export: exactly what their maps list, which is exactly what the public headers
# declare. Every inline function of a header has an exported twin, name_fn, so that a language which
# cannot compile C can call it. And every system call goes through lib/os/sys.h.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

make_scratch symbols
cd "$scratch" || exit 1
export LC_ALL=C

# Prints a header's code: no comments, no preprocessor lines, no line ends.
code_of()
{
    sed -e ':join' -e '/\\$/{N;s/\\\n/ /;b join' -e '}' "$@" |
        sed -e '/^[[:space:]]*#/d' | tr '\n' ' ' |
        sed -e 's,/\*,\n&,g' -e 's,\*/,&\n,g' | sed -e '/^\/\*/d' | tr '\n' ' '
}

# Prints the names of the functions whose definitions or declarations begin with WORD.
functions_after()
{
    word=$1
    shift
    { code_of "$@"; echo; } | sed "s/$word /\n&/g" |
        sed -n "s/^$word [^;{(]*\b\(berth_[a-z0-9_]*\) *(.*/\1/p"
}

# Prints what a map lists under `global`.
map_of()
{
    sed -n '/global:/,/local:/s/^[[:space:]]*\([a-z0-9_]*\);.*/\1/p' "$1" | sort
}

# same NAME A B: two sorted lists of names must be equal.
same()
{
    if cmp -s "$2" "$3"; then
        pass
    else
        fail "$1"
        comm -23 "$2" "$3" | sed "s/^/    only in $2: /"
        comm -13 "$2" "$3" | sed "s/^/    only in $3: /"
    fi
}

# library NAME DIRECTORY HEADER...
library()
{
    name=$1 map=$top_srcdir/lib/$2/$1.map
    shift 2
    so=$top_builddir/.libs/lib$name.so

    map_of "$map" > "$name.map"
    {
        functions_after BERTH_API "$@"
        functions_after BERTH_INLINE "$@" | sed 's/$/_fn/'
    } | sort -u > "$name.headers"
    [ -s "$name.headers" ] || fail "$name: no function found in $*"
    same "$name: the map lists what the headers declare, and a twin of each inline function" \
        "$name.headers" "$name.map"

    # Each library has a node name of its own, after the release in which its symbols appeared.
    node=$(echo "$name" | tr 'a-z-' 'A-Z_')_0.1
    check "$name: the map has a node $node" grep -q -x -F "$node {" "$map"
    if [ ! -f "$so" ]; then
        skip "$name: no shared library was built"
        return
    fi
    # Sanitizers and coverage add symbols of their own, which are not ours to list.
    nm -D --defined-only "$so" |
        awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' |
        grep -v -E '^(__asan_|__tsan_|__ubsan_|__odr_asan|__gcov|__sancov|_init$|_fini$)' |
        sort -u > "$name.exports"
    same "$name: the library exports what its map lists, and nothing else" \
        "$name.exports" "$name.map"
    nm -D --defined-only "$so" > "$name.nm"
    check "$name: symbols carry the version $node" grep -q "@@$node\$" "$name.nm"
    readelf -d "$so" > "$name.readelf"
    check "$name: it has a soname" grep -q "SONAME.*\[lib$name\.so\.[0-9]*\]" "$name.readelf"
}

include=$top_srcdir/include/berth
core=
for path in "$include"/*.h; do
    case ${path##*/} in
    loop*.h | explain.h | forward.h | timer.h | udp.h | jemalloc.h) ;;
    *) core="$core $path" ;;
    esac
done
# shellcheck disable=SC2086 # a list of files
library berth core $core
library berth-loop loop "$include/explain.h" "$include/forward.h" "$include/loop.h" \
    "$include/loop_options.h" "$include/loop_cross.h" "$include/timer.h" "$include/udp.h"
if [ -f "$top_builddir/libberth-jemalloc.la" ]; then
    library berth-jemalloc jemalloc "$include/jemalloc.h"
else
    skip "berth-jemalloc was not built"
fi

# ---- libberth needs libc only; nobody but the adapter needs jemalloc ----------------------------
needed()
{
    readelf -d "$top_builddir/.libs/lib$1.so" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' |
        grep -v -E '^(libasan|libubsan|libtsan|libgcov|ld-linux)'
}
if [ -f "$top_builddir/.libs/libberth.so" ]; then
    needed berth | grep -v '^libc\.' > berth.needed
    check "libberth needs libc alone, not $(cat berth.needed)" test ! -s berth.needed
    needed berth-loop | grep -v -E '^(libc\.|libpthread\.|libberth\.|liburing\.)' > loop.needed
    check "libberth-loop does not need $(cat loop.needed)" test ! -s loop.needed
fi

# ---- every system call goes through lib/os/sys.h ------------------------------------------------
# In the objects of the test build, where lib/os/sys.h calls through a table, no such call may be
# left. A direct one would show here, whatever header or macro it came through.
calls='accept|accept4|bind|close|connect|dup|dup2|dup3|epoll_create|epoll_create1|epoll_ctl'
calls="$calls|epoll_pwait|epoll_wait|eventfd|eventfd_read|eventfd_write|fcntl|fcntl64|fork"
calls="$calls|getpeername|getsockname|getsockopt|ioctl|kill|listen|lseek|lstat|madvise|mlock|mmap"
calls="$calls|mmap64|mprotect|mremap|munmap|open|open64|openat|pipe|pipe2|poll|ppoll|prctl|pread"
calls="$calls|pselect|pwrite|read|readv|recv|recvfrom|recvmmsg|recvmsg|select|send|sendfile"
calls="$calls|sendmmsg|sendmsg|sendto|setsockopt|shutdown|signalfd|socket|socketpair|splice|stat"
calls="$calls|syscall|timerfd_create|timerfd_settime|unlink|write|writev"
calls="$calls|io_uring_queue_init|io_uring_queue_init_params|io_uring_enter|io_uring_register"
calls="$calls|io_uring_register_[a-z_]*|io_uring_submit|io_uring_submit_and_wait|io_uring_setup"
calls="$calls|io_uring_submit_and_wait_timeout|io_uring_wait_cqes|io_uring_get_events"
objects=$(find "$top_builddir/lib" -name 'libberth_*test_la-*.o')
if [ -z "$objects" ]; then
    skip "system calls: the test build of the libraries is not there"
fi
for object in $objects; do
    direct=$(nm -u "$object" | awk '{ sub(/@.*/, "", $2); print $2 }' | grep -x -E "$calls" |
        tr '\n' ' ')
    if [ -z "$direct" ]; then
        pass
    else
        fail "${object#"$top_builddir"/} calls around lib/os/sys.h: $direct"
    fi
done

finish
