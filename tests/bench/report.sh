#!/bin/sh
# The page that `berth-bench report` makes: from a made-up report in which everything is hostile,
# with gnuplot and without it and with one that misbehaves; and the beginning of a real one. All of
# a real one takes minutes: what its cases measure is tested by cases.sh.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/bench/lib.sh
. "${top_srcdir:?run this through make check}/tests/bench/lib.sh"

open_scratch report
say_unjudged
page=$top_builddir/tests/bench/page
command=$(command -v gnuplot || echo none)

# make_page NAME: writes it into directory NAME, and the names of what was drawn into NAME/drawn.
make_page()
{
    mkdir -p "$1"
    check "$1: it is written" sh -c '"$1" "$2" > "$2/drawn" 2> "$2/said"' sh "$page" "$1"
    judge_json "$1" "$1/hostile.json"
    judge "$1: CSV" agree "$1/hostile.json" "$1/hostile.csv"
    judge "$1: the page" page "$1/index.html" "$(wc -l < "$1/drawn")"
}

# ---- hostile names -------------------------------------------------------------------------------
if [ "$command" != none ]; then
    make_page hostile
    for plot in curves bars; do
        check "hostile-$plot is drawn" grep -q -x "hostile-$plot" hostile/drawn
    done
    for plot in empty missing column nan; do
        check "hostile-$plot is not" sh -c '! grep -x "hostile-$1" hostile/drawn' sh $plot
    done
    check "a cache is marked that lies between the points" grep -q '>L2<' hostile/hostile-curves.svg
    check "and none that does not" sh -c '! grep ">L[13]<" hostile/hostile-curves.svg'
    check "no name was run as a command" sh -c '! ls -d pwned* hostile/pwned*'
    check "what could not be drawn is noted" \
        grep -q 'the plot hostile-log could not be drawn' hostile/hostile.txt
else
    skip "no plots are drawn: there is no gnuplot"
fi

# ---- no gnuplot, or one that is of no use --------------------------------------------------------
mkdir bin-none bin-fails bin-endless bin-silent
printf '#!/bin/sh\necho half an answer\nexit 3\n' > bin-fails/gnuplot
printf '#!/bin/sh\nwhile :; do echo "and so on, until nobody listens any more"; done\n' \
    > bin-endless/gnuplot
printf '#!/bin/sh\nexit 0\n' > bin-silent/gnuplot
chmod +x bin-*/gnuplot
for kind in none fails endless silent; do
    mkdir "$kind"
    check "gnuplot $kind: the page is written" env PATH="$scratch/bin-$kind" "$page" "$kind"
    judge_json "gnuplot $kind" "$kind/hostile.json"
    judge "gnuplot $kind: the page, without pictures" page "$kind/index.html" 0
    case $kind in
    none) check "it says what is missing" grep -q 'gnuplot is not installed' none/hostile.txt ;;
    *) check "gnuplot $kind: it says so" grep -q 'could not be drawn' "$kind/hostile.txt" ;;
    esac
done

# ---- where it cannot be written ------------------------------------------------------------------
touch file
mkdir -p taken/index.html
for directory in file file/x nowhere/x taken "$(printf '%4200s' '' | tr ' ' x)"; do
    ends 1 "--out $directory" report --quick --out "$directory" || continue
    check "--out $directory: nothing was measured" sh -c '! grep -q -E "round|case" err'
    check "--out $directory: it says why" grep -q '^berth-bench: .*: ' err
done

# ---- a real one, as far as its first case --------------------------------------------------------
# In a directory whose name is longer than most: none of it may be cut off.
long=$(printf '%200s' '' | tr ' ' d)
long=$long/$long/$long
mkdir -p "$long"
if command -v setsid > /dev/null; then
    mkfifo says
    # shellcheck disable=SC2086 # words
    setsid "$bench" report --quick --rounds 1 --seconds 600 --out "$long" > out 2> says &
    pid=$!
    trap 'kill -KILL -- "-$pid" 2> /dev/null' EXIT
    exec 3< says
    timeout 120 sh -c 'while IFS= read -r line <&3; do
            case $line in *round*) exit 0 ;; esac
        done
        exit 1' || fail "report begins nothing"
    kill -INT "$pid"
    timeout 60 cat <&3 > rest || fail "report does not end"
    status=0
    wait "$pid" || status=$?
    trap - EXIT
    check "report, interrupted: status $status" test "$status" -eq 130
    judge "report: the page" page "$long/index.html"
    check "report: it says where the page is" grep -q 'The page is .*/index.html' out
    one=${cases%%
*}
    check "report: a section" grep -q "<section id=\"$one\">" "$long/index.html"
    judge_json "report: $one" "$long/$one.json"
    judge "report: $one: CSV" agree "$long/$one.json" "$long/$one.csv"
    check "report: nothing lies elsewhere" \
        sh -c 'test "$(find d* -type f ! -path "$1/*" | wc -l)" -eq 0' sh "$long"
else
    skip "no real page is made: there is no setsid"
fi

# ---- the page of one case ------------------------------------------------------------------------
"$bench" timers --quick --rounds 1 --seconds 0.001 --connections 100 --out=alone > out 2> said ||
    fail "a page of one case: status $?"
if [ "$command" != none ]; then
    judge "a page of one case" page alone/index.html "$(find alone -name '*.svg' | wc -l)"
fi
check "it has that case alone" \
    sh -c 'grep -c "<section id=" alone/index.html | grep -q -x 1'
judge_json "the JSON beside it" alone/timers.json

finish
