#!/bin/sh
# The direction of dependence: which file may include which. The rules are in ARCHITECTURE.md; this
# is where they are kept. A new header needs a line here, which is the moment to think about it.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

cd "$top_srcdir" || exit 1

# Prints what FILE includes: <...> and "..." kept apart by their brackets.
includes_of()
{
    sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*\([<"][^>"]*[>"]\).*/\1/p' "$1"
}

# allow FILE ALLOWED...: every include of FILE must match one of the shell patterns.
allow()
{
    file=$1
    shift
    for included in $(includes_of "$file"); do
        allowed=no
        for pattern in "$@"; do
            # shellcheck disable=SC2254 # a pattern is meant
            case $included in
            $pattern) allowed=yes ;;
            esac
        done
        if [ $allowed = yes ]; then
            pass
        else
            fail "$file includes $included"
        fi
    done
}

# Headers of the C standard, and the few of POSIX that describe data and do nothing.
standard='<assert.h> <errno.h> <limits.h> <stdalign.h> <stdarg.h> <stdbool.h> <stddef.h> <stdint.h>'
library="$standard <stdlib.h> <string.h> <stdatomic.h>"

# Prints "berth/X.h" in quotes for each X.
own()
{
    for name in "$@"; do
        echo "\"berth/$name.h\""
    done
}

set -f
# ---- rules 1 and 4: public headers ------------------------------------------------------------
# shellcheck disable=SC2046,SC2086
public_header()
{
    case $1 in
    attr | cacheline) allow "$path" $standard ;;
    version | alloc | stats | copies | token) allow "$path" $standard $(own attr cacheline) ;;
    jemalloc) allow "$path" $standard $(own attr alloc) ;;
    table) allow "$path" $standard $(own attr cacheline stats table_type token) ;;
    table_type) allow "$path" $(own table) ;;
    pool) allow "$path" $standard '<sys/uio.h>' $(own attr cacheline alloc copies stats token) ;;
    timer) allow "$path" $standard $(own attr) ;;
    explain) allow "$path" $standard $(own attr copies) ;;
    loop)
        allow "$path" $standard \
            $(own attr cacheline copies explain loop_options pool stats table timer token)
        ;;
    loop_options) allow "$path" $standard $(own attr pool table) ;;
    forward) allow "$path" $(own attr loop) ;;
    loop_cross) allow "$path" $standard $(own attr loop token) ;;
    udp) allow "$path" $standard $(own attr loop pool table token) ;;
    *) fail "$path: no rule for this header in tests/build/includes.sh" ;;
    esac
}

# shellcheck disable=SC2046,SC2086
adapter()
{
    base="$standard <fcntl.h> <string.h> <sys/socket.h> <unistd.h>"
    base="$base $(own attr cacheline token table pool | tr '\n' ' ')"
    case $1 in
    epoll) allow "$path" $base '<sys/epoll.h>' ;;
    kqueue) allow "$path" $base '<sys/event.h>' '<sys/types.h>' '<sys/time.h>' ;;
    io_uring) allow "$path" $base '<liburing.h>' ;;
    libev) allow "$path" $base '<ev.h>' ;;
    libuv) allow "$path" $base '<uv.h>' ;;
    libevent) allow "$path" $base '<event2/*.h>' ;;
    *) fail "$path: no rule for this header in tests/build/includes.sh" ;;
    esac
}

for path in $(find include/berth -maxdepth 1 -name '*.h' | LC_ALL=C sort); do
    public_header "$(basename "$path" .h)"
done
for path in $(find include/berth/adapt -name '*.h' 2> /dev/null | LC_ALL=C sort); do
    adapter "$(basename "$path" .h)"
done
# shellcheck disable=SC2046
allow include/berth.h $(own alloc attr cacheline copies pool stats table token version)

# ---- rule 2: lib/core knows libc and nothing of sockets, threads or files ----------------------
# shellcheck disable=SC2089 # the quotes are part of the patterns
core='"berth.h" "berth/*.h" "core/*.h" "os/copy.h" "os/errors.h" "os/memory.h" "os/sanitize.h"'
for path in $(find lib/core -name '*.[ch]' | LC_ALL=C sort); do
    # shellcheck disable=SC2086,SC2090
    allow "$path" $library '<sys/uio.h>' $core
    if grep -q -E '"berth/(loop|adapt/[a-z_]*)\.h"' "$path"; then
        fail "$path includes the loop or an adapter"
    else
        pass
    fi
done

# ---- rule 3: an engine or a poller knows one interface, and none of its siblings -----------------
# The system call groups of lib/os/sys.h count as the interfaces that they bring in. Sockets and
# descriptors are what every engine serves; its own interface is the one besides. <poll.h> beside
# io_uring is not counted: the kernel takes its event bits in a poll request.
harmless='assert|errno|limits|stddef|stdint|stdbool|stdlib|stdio|string|socket|uio|types'
interfaces_of()
{
    {
        sed -n 's/^#define BERTH_SYS_\([A-Z]*\)$/\1/p' "$1" | grep -v -x -E 'SOCKET|FILE'
        includes_of "$1" | grep '<' | sed 's/[<>]//g' | grep -v -x -E "(sys/)?($harmless)\.h" |
            case ${1##*/} in engine_uring*.c) grep -v -x 'poll\.h' ;; *) cat ;; esac
    } | LC_ALL=C sort -u | tr '\n' ' '
}

siblings=$(find lib/loop -name 'engine_*.c' -o -name 'poller_*.c' | LC_ALL=C sort)
for path in $siblings; do
    interfaces=$(interfaces_of "$path")
    # engine_ready has no interface of its own: its pollers have. The others have exactly one.
    case $path:$(echo "$interfaces" | wc -w) in
    */engine_ready*.c:0) pass ;;
    */engine_ready*.c:*) fail "$path has an interface of its own: $interfaces" ;;
    *:1) pass ;;
    *) fail "$path must have exactly one interface besides sockets, not: $interfaces" ;;
    esac
    for included in $(includes_of "$path"); do
        case $included in
        *engine_*.h* | *poller_*.h*)
            # An engine in several files has headers of its own, named after it: engine_NAME*.h.
            stem=$(echo "${included##*/}" | sed 's/^\([a-z]*_[a-z]*\).*/\1/')
            case ${path##*/} in
            "$stem"*) pass ;;
            *) fail "$path includes its sibling $included" ;;
            esac
            ;;
        esac
    done
done

kinds='engine_(uring|ready|iocp)|poller_(epoll|poll|select|sigio|aio|kqueue)'
# Each engine and poller is one named object. Only loop.c lists engines, and only engine_ready.c,
# which they all serve, lists pollers.
for path in $(find lib/loop -name '*.[ch]' | LC_ALL=C sort); do
    case $path in
    lib/loop/loop.c | lib/loop/engine.h | lib/loop/poller.h) continue ;;
    esac
    own_name=$(basename "$path" .c)
    named=$(grep -o -E "\bberth_($kinds)\b" "$path" |
        LC_ALL=C sort -u | sed 's/^berth_//')
    for name in $named; do
        case $own_name:$name in
        "$name"*:* | engine_ready:poller_*) pass ;;
        *) fail "$path names berth_$name: who chooses is loop.c, or engine_ready.c" ;;
        esac
    done
done

# ---- rule 6: one file of the library knows threads, and asks resolvers ---------------------------
for path in $(find lib -name '*.[ch]' | LC_ALL=C sort); do
    case $path in
    lib/loop/resolve.c | lib/os/sys.h) continue ;;
    esac
    if grep -q -E 'pthread|BERTH_SYS_RESOLVE|getaddrinfo *\([^3]' "$path"; then
        fail "$path knows threads or resolvers: that is lib/loop/resolve.c's affair"
    else
        pass
    fi
done

# ---- rule 5: examples and benches are written as a stranger would write them --------------------
for path in $(find bench docs/examples -name '*.[ch]' 2> /dev/null | LC_ALL=C sort); do
    for included in $(includes_of "$path" | grep '"'); do
        file=${included#?}
        file=${file%?}
        case $file in
        berth.h | berth/*.h) pass ;;
        */*) fail "$path includes $included, which is no public header" ;;
        *)
            if [ -f "$(dirname "$path")/$file" ]; then
                pass
            else
                fail "$path includes $included, which is no public header"
            fi
            ;;
        esac
    done
done

finish
