# shellcheck shell=sh
# What the tests of the example programs share: starting a program, learning its addresses, asking
# it how many connections it has, and stopping it. It is sourced, never run.
#
# Nothing waits by sleeping. A program says on its standard output, a FIFO, when it listens and,
# when it is sent SIGUSR1, how it stands; the shell around it adds its process id before that and
# its status after. Each wait has a deadline.
#
# SPDX-License-Identifier: MIT

: "${top_srcdir:?run this through make check}" "${top_builddir:?}"
# shellcheck source=tests/build/lib.sh
. "$top_srcdir/tests/build/lib.sh"

programs=$top_builddir/docs/examples
# shellcheck disable=SC2034 # these are for those who source this
load=$top_builddir/tests/programs/load
# shellcheck disable=SC2034
drip=$top_builddir/tests/programs/drip
deadline=120 # seconds for anything that is awaited: far more than any of it takes
# shellcheck disable=SC2034
engines=${BERTH_TEST_ENGINES:-"uring epoll poll"}

# Sanitizers are slow: the same paths with fewer repetitions.
# shellcheck disable=SC2034
thorough=yes
# shellcheck disable=SC2034
[ -z "${SANITIZE:-}" ] || thorough=no

# open_scratch NAME: a directory for this test alone, so that tests can run beside each other.
open_scratch()
{
    scratch=$top_builddir/tests/programs/scratch-$1
    rm -rf "$scratch"
    mkdir -p "$scratch"
    server=
    trap '[ -z "$server" ] || kill -KILL "$server"' EXIT
    trap 'exit 1' HUP INT TERM
}

# need TOOL...: without one of them there is no test.
need()
{
    for need_tool in "$@"; do
        if [ ! -x "$need_tool" ] && ! command -v "$need_tool" > /dev/null; then
            echo "skipped: there is no $need_tool"
            exit 77
        fi
    done
}

# The program's next line, in $line; fails when none comes in time.
read_line()
{
    # The inner shell reads byte by byte, so that it takes this line and no more.
    # shellcheck disable=SC2016
    line=$(timeout "$deadline" sh -c 'IFS= read -r line <&3 && printf "%s\n" "$line"')
}

# start COUNT PROGRAM ARG...: runs it until it listens on COUNT addresses: $address, or $address_1,
# $address_2, or all of them in $addresses. If it ends before that, fails, with its status in
# $status.
start()
{
    start_count=$1
    start_program=$programs/$2
    shift 2
    rm -f "$scratch/says"
    mkfifo "$scratch/says"
    exec 3<> "$scratch/says"
    {
        start_status=0
        # shellcheck disable=SC2016
        sh -c 'echo "pid $$"; exec "$@"' sh "$start_program" "$@" 2> "$scratch/complains" 3>&- ||
            start_status=$?
        echo "ended $start_status"
    } > "$scratch/says" 3>&- &
    read_line || return 1
    server=${line#pid }
    address=
    addresses=
    while [ "$start_count" -gt 0 ]; do
        read_line || return 1
        case $line in
        'listening on '*)
            address_1=${address:-${line#listening on }}
            address=${line#listening on }
            addresses="$addresses $address"
            # shellcheck disable=SC2034 # for those who start with two addresses
            address_2=$address
            ;;
        'ended '*)
            status=${line#ended }
            server=
            return 1
            ;;
        *) echo "unexpected: $line" ;;
        esac
        start_count=$((start_count - 1))
    done
    host_port=${address_1#tcp://}
    # shellcheck disable=SC2034
    host=${host_port%:*}
    # shellcheck disable=SC2034
    port=${host_port##*:}
}

# start_engine PROGRAM ENGINE ARG...: start with one address, on an engine that this system may not
# grant: then it is a skip, said aloud, and a failure to be continued with the next engine.
start_engine()
{
    engine_program=$1
    engine=$2
    shift 2
    start 1 "$engine_program" --engine "$engine" "$@" && return 0
    not_started "$engine_program"
    return 1
}

not_started()
{
    if [ "${status:-1}" -eq 69 ]; then
        skip "$engine: $(cat "$scratch/complains")"
    else
        fail "$1 does not start on $engine: $(cat "$scratch/complains")"
    fi
}

# stop [SIGNAL]: ends it; $status says how.
stop()
{
    kill -s "${1:-TERM}" "$server"
    while read_line; do
        case $line in
        'ended '*)
            status=${line#ended }
            server=
            exec 3<&-
            return 0
            ;;
        esac
    done
    status="not ended"
    kill -KILL "$server"
    server=
    return 1
}

# complaints: what it wrote to standard error and was not asked for.
complaints()
{
    grep -v -E '^(received|sent) (nothing|[0-9])' "$scratch/complains"
}

# check_stop: it ends with status 0 and has complained of nothing.
check_stop()
{
    stop "${1:-TERM}"
    if [ "$status" = 0 ] && [ -z "$(complaints)" ]; then
        pass
    else
        fail "${engine:-} stop: status $status, $(complaints)"
    fi
}

# ledger: asks the program who copied what; its answer is in $received and $sent.
ledger()
{
    told=$(grep -c '^sent ' "$scratch/complains")
    kill -USR1 "$server" || return 1
    tries=0
    until [ "$(grep -c '^sent ' "$scratch/complains")" -gt "$told" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 2000 ] || return 1
        sleep 0.02 # between two looks
    done
    received=$(grep '^received ' "$scratch/complains" | tail -n 1)
    sent=$(grep '^sent ' "$scratch/complains" | tail -n 1)
}

# check_ledger RECEIVED SENT: patterns that the two sentences must match to the end.
check_ledger()
{
    if ledger && echo "$received" | grep -q -x -E "received $1" &&
        echo "$sent" | grep -q -x -E "sent $2"; then
        pass
    else
        fail "${engine:-} ledger: expected 'received $1', 'sent $2'; got '$received', '$sent'"
    fi
}

# report: asks the program how it stands; its answer is in $scratch/report.
report()
{
    kill -USR1 "$server" || return 1
    : > "$scratch/report"
    while read_line; do
        printf '%s\n' "$line" >> "$scratch/report"
        case $line in
        'copies: '*) return 0 ;;
        'ended '*) return 1 ;;
        esac
    done
    return 1
}

# counter NAME: a figure from the report.
counter()
{
    sed -n "s/.*[ ]$1=\([0-9]*\).*/\1/p" "$scratch/report"
}

count_descriptors()
{
    find "/proc/$server/fd" -mindepth 1 | wc -l
}

# until_connections COUNT: returns when so many connections are open.
until_connections()
{
    tries=0
    while [ "$tries" -lt 2000 ]; do
        report || return 1
        grep -q "^connections: $1\$" "$scratch/report" && return 0
        tries=$((tries + 1))
        sleep 0.02 # between two questions
    done
    cat "$scratch/report"
    return 1
}

until_quiet()
{
    until_connections 0
}

# open_count: how many descriptors it has with no connection; after a first one has come and gone.
open_count()
{
    until_quiet || fail "$engine: connections stay open"
    descriptors=$(count_descriptors)
}

# check_count: nothing has leaked since open_count.
check_count()
{
    if until_quiet && [ "$(count_descriptors)" -eq "$descriptors" ]; then
        pass
    else
        fail "$engine: $(count_descriptors) descriptors, not $descriptors;" \
            "$(grep '^connections:' "$scratch/report")"
    fi
    for counter_name in stale overflows zombies; do
        counted=$(counter "$counter_name")
        [ "$counted" = 0 ] || fail "$engine: $counted $counter_name"
    done
}

# check_load ARG...: what the load client says of the program.
check_load()
{
    check "${engine:-} load $*" "$load" "$@" "$address"
}

# check_same NAME EXPECTED GOT
check_same()
{
    if [ "$2" = "$3" ]; then
        pass
    else
        fail "${engine:-} $1: expected '$2', got '$3'"
    fi
}

# hold: a connection that stays: what is written to 4 is sent, and what comes can be read from 5.
hold()
{
    rm -f "$scratch/in" "$scratch/out"
    mkfifo "$scratch/in" "$scratch/out"
    exec 4<> "$scratch/in" 5<> "$scratch/out"
    timeout "$deadline" socat - "tcp:$host_port" < "$scratch/in" > "$scratch/out" 3>&- 4>&- 5>&- &
    holder=$!
}

let_go()
{
    exec 4>&- 5>&-
    kill "$holder" 2> /dev/null
    wait "$holder" 2> /dev/null
}

# word TEXT: it goes to the server and comes back.
word()
{
    echo "$1" >&4
    # shellcheck disable=SC2016
    got=$(timeout "$deadline" sh -c 'IFS= read -r line <&5 && printf "%s\n" "$line"')
    check_same "an answer on the connection that stayed" "$1" "$got"
}
