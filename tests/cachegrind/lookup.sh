#!/bin/sh
# What one event costs on the way to the connection's state, in cache lines and instructions, out of
# a simulation that repeats exactly: `berth-bench lookup --cachegrind`. From token to state is one
# line; layouts that are known to need two must show two, or the gate would prove nothing.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

scratch=$top_builddir/tests/build/scratch-cachegrind-lookup
rm -rf "$scratch"
mkdir -p "$scratch"

"$top_builddir/berth-bench" lookup --cachegrind --connections 50000 --csv="$scratch/counts" \
    --variants floor,slot,slot+prefetch,slot-syscall-first,pointer-array,pointer-chain \
    2> "$scratch/said" || {
    fail "counting ended with status $?"
    cat "$scratch/said"
    finish
}

# value VARIANT COLUMN: a number of the table.
value()
{
    awk -F, -v variant="$1" -v column="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == column) at = i }
        $2 == variant { print $at }' "$scratch/counts"
}

# over VARIANT COLUMN: what it has above the floor, where events touch no state.
over()
{
    awk -v all="$(value "$1" "$2")" -v floor="$(value floor "$2")" 'BEGIN { print all - floor }'
}

# between NAME VALUE LOW HIGH
between()
{
    echo "  $1: $2 (budget $3 to $4)"
    check "$1 is $2, not in $3 to $4" \
        awk -v value="$2" -v low="$3" -v high="$4" \
        'BEGIN { exit !(value != "" && value >= low && value <= high) }'
}

for variant in slot slot+prefetch slot-syscall-first; do
    between "lines per event, $variant" "$(over $variant lines_per_event)" 0.97 1.03
done
for variant in pointer-array pointer-chain; do
    between "lines per event, $variant" "$(over $variant lines_per_event)" 1.90 2.10
done
# Above the floor, whose instructions are the harness's. Measured with gcc 12 -O2: 23, 41 and 30.
between "instructions per event, slot" "$(over slot instructions_per_event)" 1 26
between "instructions per event, slot+prefetch" "$(over slot+prefetch instructions_per_event)" 1 45
between "instructions per event, slot-syscall-first" \
    "$(over slot-syscall-first instructions_per_event)" 1 33

finish
