#!/bin/sh
# The static probes: the library lists each of them, with the arguments that docs/guide/tracing.md
# says it has; no argument is computed for the probe's sake; and a debugger finds them and stops at
# one. Skipped, but for the first line, where the build has none.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

make_scratch probes
cd "$scratch" || exit 1
export LC_ALL=C
guide=$top_srcdir/docs/guide/tracing.md

# probes_of FILE...: the names in them.
probes_of()
{
    grep -h -o -E 'BERTH_PROBE(_CONN|_CONN_WITH)?\([a-z_]+' "$@" | sed 's/.*(//' | sort -u
}

# What the sources have, and what the guide's table says, must be the same names.
probes_of "$top_srcdir"/lib/loop/*.[ch] > sources
sed -n 's/^| `\([a-z_]*\)` |.*/\1/p' "$guide" | sort -u > described
check "the sources have probes" test -s sources
check "docs/guide/tracing.md lists the probes, and no others" cmp sources described

so=$top_builddir/.libs/libberth-loop.so
if [ ! -f "$so" ]; then
    skip "no shared library was built"
    finish
fi
readelf -n "$so" > notes 2> /dev/null
if ! grep -q '^BERTH_DEFS = .*-DBERTH_HAVE_SDT=1' "$top_builddir/Makefile"; then
    skip "this library was built without probes: no <sys/sdt.h>, or --disable-probes"
    finish
fi

awk '$1 == "Provider:" { mine = $2 == "berth" }
    mine && $1 == "Name:" { name = $2 }
    mine && $1 == "Arguments:" { $1 = ""; print name $0 }' notes > probes
cut -d ' ' -f 1 probes | sort -u > library
if ! grep -q '^BERTH_DEFS = .*-DBERTH_HAVE_LIBURING=1' "$top_builddir/Makefile"; then
    find "$top_srcdir/lib/loop" -name '*.c' ! -name 'engine_uring*' > built
    # shellcheck disable=SC2046 # a list of files
    probes_of $(cat built) > sources
fi
check "readelf -n lists every probe of the sources" cmp sources library

# An argument is a register, a constant, or a word beside a register: SIZE@PLACE each.
while read -r name arguments; do
    for argument in $arguments; do
        case $argument in
        [1248-]*@*) pass ;;
        *) fail "$name: not an argument: $argument" ;;
        esac
    done
    # The guide's table: name, then its arguments in code marks, separated by commas.
    wanted=$(sed -n "s/^| \`$name\` | \`\([^\`]*\)\` |.*/\1/p" "$guide" | tr ',' '\n' | grep -c .)
    check "$name has $wanted arguments, as the guide says" \
        test "$(echo "$arguments" | wc -w)" -eq "$wanted"
done < probes

# In the hot functions a probe adds nops and nothing else.
count()
{
    objdump -d --no-show-raw-insn "$1" | awk -v function_name="<$2>:" '
        $2 == function_name { within = 1; next }
        /^$/ { within = 0 }
        within && NF > 1 && $2 !~ /^(nop|data16|cs|xchg)/ { n++ }
        END { print n + 0 }'
}
for place in conn:conn_deliver send:send_done loop:berth_loop_turn; do
    file=${place%:*}
    function=${place#*:}
    for with in "-DBERTH_NO_PROBES_HERE" "-DBERTH_HAVE_SDT=1"; do
        # shellcheck disable=SC2086 # CC may be several words
        $CC -std=gnu11 -O2 -fPIC -fvisibility=hidden -D_GNU_SOURCE= "$with" \
            -I"$top_srcdir/include" -I"$top_srcdir/lib" -c "$top_srcdir/lib/loop/$file.c" \
            -o "$file$with.o" || fail "$file.c does not compile $with"
    done
    without=$(count "$file-DBERTH_NO_PROBES_HERE.o" "$function")
    with=$(count "$file-DBERTH_HAVE_SDT=1.o" "$function")
    echo "$function: $without instructions without probes, $with with them, nops aside"
    check "$function was found" test "$without" -gt 20
    # A compiler may lay things out differently around it: two more is the most it may do.
    check "$function: a probe costs no instruction but a nop" test "$with" -le $((without + 2))
done

# A debugger reads the same notes as a tracer does.
if ! command -v gdb > /dev/null; then
    skip "no gdb here to stop at a probe with"
    finish
fi
cat > commands << 'END'
set pagination off
set confirm off
set breakpoint pending on
set print inferior-events off
set debuginfod enabled off
break -probe-stap berth:turn
run tcp://127.0.0.1:0 > /dev/null
printf "turn: arguments=%d\n", $_probe_argc
kill
quit
END
LD_LIBRARY_PATH=$top_builddir/.libs timeout 60 "$top_builddir/libtool" --mode=execute \
    gdb -q -batch -x commands "$top_builddir/docs/examples/echo" > stopped 2>&1
if grep -q -i 'ptrace: \|not permitted' stopped; then
    skip "gdb may not trace here"
else
    check "gdb stops at berth:turn: $(cat stopped)" grep -q '^turn: arguments=1$' stopped
fi

finish
