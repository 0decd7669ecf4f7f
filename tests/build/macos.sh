#!/bin/sh
# Compiles what must work on macOS for x86-64 and arm64: the public headers, the kqueue adapter and
# all of libberth; of the loop, which is Linux's as a whole, the files that make no call of Linux's
# own. `zig cc` brings Apple's headers with it, so no Mac is needed; nothing is run. Zig itself is
# fetched by ./bootstrap zig, once.
#
# SPDX-License-Identifier: MIT
set -eu

: "${top_srcdir:?run this through make}" "${top_builddir:?}"

zig=${ZIG:-$(command -v zig || true)}
[ -n "$zig" ] || zig=$("$top_srcdir/bootstrap" zig) || {
    echo "check-macos: skipped: no zig here, and it could not be fetched"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}
echo "check-macos: zig $("$zig" version)"

out=$top_builddir/build-macos
mkdir -p "$out"
export ZIG_GLOBAL_CACHE_DIR="$out/cache" ZIG_LOCAL_CACHE_DIR="$out/cache"
flags="-std=gnu11 -Wall -Wextra -Werror -Wno-unused-command-line-argument -D_GNU_SOURCE="
flags="$flags -I$top_srcdir/include -I$top_srcdir/lib"

# A user of the kqueue adapter and of every header that is not another system's.
cat > "$out/user.c" << 'END'
#include <berth.h>
#include <berth/adapt/kqueue.h>
#include <berth/loop.h>
int main(void) { return berth_version() == BERTH_VERSION ? 0 : 1; }
END

sources="$out/user.c $top_srcdir/lib/os/memory_posix.c"
for source in "$top_srcdir"/lib/core/*.c "$top_srcdir"/lib/loop/*.c \
    "$top_srcdir"/tests/adapt/*kqueue*.c; do
    case $source in
    *'*'*) ;; # nothing matched
    */engine_uring*.c | */poller_epoll.c) ;;                  # interfaces of Linux alone
    */loop/engine_ready.c | */loop/listen.c | */loop/loop.c) ;; # accept4(2), eventfd(2)
    */loop/send_file.c) ;;                                      # sendfile(2), sigtimedwait(2)
    */loop/nested.c) ;;                                        # epoll(7), timerfd_create(2)
    */loop/connect_name.c | */loop/stream_pair.c) ;;            # SOCK_CLOEXEC, dup3(2), accept4(2)
    */loop/engine_ready_udp.c | */loop/udp.c) ;;                # recvmmsg(2), SOCK_CLOEXEC
    *) sources="$sources $source" ;;
    esac
done

passed=0
failed=0
for target in x86_64-macos aarch64-macos; do
    for source in $sources; do
        name=${source#"$top_srcdir/"}
        object=$out/$target-$(basename "$source" .c).o
        # shellcheck disable=SC2086 # flags are words
        if "$zig" cc -target $target $flags -c "$source" -o "$object" 2> "$out/said"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            echo "check-macos: $target: $name does not compile:"
            cat "$out/said"
        fi
    done
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
