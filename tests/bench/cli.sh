#!/bin/sh
# The command line of berth-bench: what it says about itself, what it refuses, for every case that
# it lists, and that it finds out before measuring what it could not do afterwards.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/bench/lib.sh
. "${top_srcdir:?run this through make check}/tests/bench/lib.sh"

open_scratch cli
say_unjudged
one=${cases%%
*}

# ---- about itself --------------------------------------------------------------------------------
for words in --help "all --help" "list --help" "$one --help"; do
    # shellcheck disable=SC2086 # words
    ends 0 "$words" $words && check "$words: usage" grep -q '^usage: ' out
done
version=$(sed -n 's/^AC_INIT(\[berth\], \[\([0-9.]*\)\].*/\1/p' "$top_srcdir/configure.ac")
ends 0 "--version" --version && check "--version is $version" grep -q -x "berth-bench $version" out
for case in $cases; do
    check "$case has a summary" grep -q -E "^$case +[^ ]" listed
done

# The manual has every option and every case.
manual=$top_srcdir/docs/man/berth-bench.1
"$bench" --help > help
options=$(grep -o -E -e '--[a-z]+' help | LC_ALL=C sort -u)
for option in $options; do
    check "the manual has $option" grep -q -E "^\.(It )?Fl .*${option#-}\b" "$manual"
done
for case in $cases; do
    check "the manual has $case" grep -q -x ".It Cm $case" "$manual"
done

# ---- what makes no sense -------------------------------------------------------------------------
refused "nothing at all"
for words in nonsense "" -x --nonsense --rounds all-of-them "list nonsense" "list --rounds 1" \
    "list --json" "--help --json" "--help nonsense" "--version nonsense" "$one nonsense" \
    "$one --nonsense" "$one -x" "$one -xyz" "$one --rounds" "$one --quick=yes" "$one --json file" \
    "all nonsense" "all --out directory" "all --connections 10" \
    "all --active 10" "all --variants x" "all --size 64" "all --load epoll" "all --server x" \
    "all --events 1" "all --cachegrind" "report --json" "report --csv=x" "report nonsense" \
    "$one --json --csv" "$one --json=same --csv=same"; do
    # shellcheck disable=SC2086 # words
    refused "'$words'" $words
done
refused "report --out=" report --out=
check "of what was refused nothing was written" test ! -e same

# bad CASE OPTION VALUE...: each value is refused.
bad()
{
    bad_case=$1
    bad_option=$2
    shift 2
    for value in "$@"; do
        refused "$bad_case $bad_option '$value'" "$bad_case" "$bad_option" "$value"
    done
}

bad "$one" --rounds 0 -1 1001 x 1x '' 1.5 99999999999999999999
bad "$one" --seconds 0 -1 nan inf x '' 601 1e999 1x
bad "$one" --cpu -1 x 1x '' , 1, 1,x 1,2,3 4096 99999999999

# option CASE OPTION GOOD BAD...: either it goes with the case, and bad values are refused, or not
# at all. All bad values with the first case that takes it, one of them with the others.
options_seen=
option()
{
    option_case=$1
    option_name=$2
    good=$3
    shift 3
    if takes "$option_case" "$option_name" "$good"; then
        pass
        case $options_seen in
        *" $option_name "*) bad "$option_case" "$option_name" "$1" ;;
        *) bad "$option_case" "$option_name" "$@" ;;
        esac
        options_seen="$options_seen $option_name "
    else
        refused "$option_case $option_name" "$option_case" "$option_name" "$good"
        check "$option_case $option_name: it says why" grep -q -E 'does not go|unknown' err
    fi
}

for case in $cases; do
    check "a good word for $case" takes "$case" --quick
    option "$case" --connections 1 0 -1 x '' , 1, ,1 1,x 1,,2 99999999999 \
        "$(seq -s , 1 100)"
    option "$case" --active 1 0 -1 x '' 1, 99999999999
    option "$case" --size 64 0 15 16385 x '' 64x
    option "$case" --load epoll x '' uring,epoll
    option "$case" --server true ''
    option "$case" --between none x '' none, none,x
    option "$case" --events 1 0 0.5 -1 x '' nan 1e99
    variant=$(first_variant "$case")
    option "$case" --variants "${variant:-x}" nonsense '' "$variant," "$variant,nonsense" \
        ",$variant" "$variant "
    takes "$case" --cachegrind || {
        refused "$case --cachegrind" "$case" --cachegrind
    }
    refused "$case --cachegrind=x" "$case" --cachegrind=x
done

# ---- results that cannot be written are no reason to measure first -------------------------------
mkdir directory
touch file
for words in "--json=nowhere/x" "--csv=nowhere/x" "--json=directory" "--json=good --csv=nowhere/x" \
    "--json=" "--json=file/x"; do
    for case in $cases all; do
        # shellcheck disable=SC2086 # words
        ends 1 "$case $words" "$case" $words || continue
        if grep -q -i -E "round|case" err || [ -s out ] || ! grep -q '^berth-bench: .*: ' err; then
            fail "$case $words: this is not where it says why, and nothing else:"
            head -n 5 out err
        fi
    done
done

# Where something must be measured, it is as little as can be.
# shellcheck disable=SC2086 # words
smallest "$one" $tiny

# ---- and a full disk is an error -----------------------------------------------------------------
full()
{
    full_status=0
    # shellcheck disable=SC2086 # words
    "$bench" "$@" > /dev/full 2> err || full_status=$?
    check "'$*' on a full disk: status 1, not $full_status" test "$full_status" -eq 1
    check "'$*' on a full disk: it says so" grep -q 'cannot write' err
}
if [ -w /dev/full ]; then
    for words in list --help --version "$one $small" "$one $small --json" "$one $small --csv"; do
        # shellcheck disable=SC2086 # words
        full $words
    done
    for words in --json=/dev/full --csv=/dev/full; do
        # shellcheck disable=SC2086 # words
        ends 1 "$words" "$one" $small $words
        check "$words: it says so" grep -q 'cannot write' err
    done
else
    skip "there is no /dev/full"
fi

# ---- where results go ----------------------------------------------------------------------------
# shellcheck disable=SC2086 # words
{
    ends 0 "both to files" "$one" $small --json=a.json --csv=a.csv
    check "the text still goes to standard output" grep -q "^berth-bench $one\$" out
    judge_json "both to files" a.json
    judge "both to files" agree a.json a.csv
    ends 0 "JSON here, CSV there" "$one" $small --json --csv=b.csv
    judge_json "JSON here" out
    judge "JSON here, CSV there" agree out b.csv
    ends 0 "CSV here" "$one" $small --csv
    check "CSV here, and nothing else" grep -q '^table,variant,' out
    check "CSV begins with its head" sh -c 'head -n 1 out | grep -q ^table,variant,'
    # With standard output closed the file must not become it.
    closed=0
    "$bench" "$one" $small --json=c.json >&- 2> err || closed=$?
    check "closed standard output: status 1, not $closed" test "$closed" -eq 1
    judge_json "closed standard output" c.json
}

# ---- CPUs that are not there ---------------------------------------------------------------------
for cpus in 4095 4095,0 0,4095; do
    # shellcheck disable=SC2086 # words
    ends 0 "--cpu $cpus" "$one" $small --json --cpu "$cpus"
    judge_json "--cpu $cpus" out
    judge "--cpu $cpus: not bound" has out environment.cpu_server -1
    judge "--cpu $cpus: not reliable" has out reliable false
    check "--cpu $cpus: it says so" grep -q 'not bound to CPUs: ' out
done

finish
