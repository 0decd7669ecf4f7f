#!/bin/sh
# The kv example, on every engine: each command with redis-cli, raw requests through socat, and
# redis-benchmark.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

need "$top_builddir/docs/examples/kv" redis-cli redis-benchmark socat "$drip"
open_scratch kv

cli()
{
    timeout "$deadline" redis-cli -h 127.0.0.1 -p "$port" "$@"
}

# says EXPECTED COMMAND...: one line for each line of the answer, with a blank between.
says()
{
    expected=$1
    shift
    got=$(cli "$@" | tr '\n' ' ')
    check_same "$*" "$expected" "${got% }"
}

# raw_says NAME EXPECTED BYTES
raw_says()
{
    got=$(printf '%b' "$3" | timeout "$deadline" socat -t "$deadline" - "tcp:$host_port" |
        tr '\r\n' '~ ')
    check_same "$1" "$2" "$got"
}

test_strings()
{
    says PONG ping
    says hello ping hello
    says hello echo hello
    says OK set a 1
    says 1 get a
    says "" get nothing
    says 2 incr a
    says 1 decr a
    says 11 incrby a 10
    says 1 decrby a 10
    says -5 incrby b -5
    says "OK" set text x
    says "ERR value is not an integer or out of range " incr text
    says OK set max 9223372036854775807
    says "ERR increment or decrement would overflow " incr max
    says "ERR value is not an integer or out of range " incrby a 1.5
    says "ERR decrement would overflow " decrby a -9223372036854775808
    says OK set n x nx
    says "" set n y nx
    says x get n
    says OK set n z xx
    says "" set nothing z xx
    says 0 exists nothing
    says "ERR syntax error " set n z nx xx
    says "ERR syntax error " set n z ex
    says OK mset m1 one m2 two
    says "one  two" mget m1 nothing m2
    says "ERR wrong number of arguments for 'mset' command " mset m1 one m2
    says 3 append new abc
    says 6 append new def
    says abcdef get new
    says 6 strlen new
    says 0 strlen nothing
}

test_keys()
{
    says OK flushall
    says 0 dbsize
    says OK mset key:1 a key:2 b other c 'x[y' d
    says 4 dbsize
    check_same "keys key:*" "key:1 key:2" "$(cli keys 'key:*' | sort | tr '\n' ' ' | sed 's/ $//')"
    says "key:2" keys '?e[x-z]:[^1]'
    says 'x[y' keys 'x\[*'
    says "" keys '*no*such*'
    says 3 exists key:1 key:2 other nothing
    says 2 del key:1 other nothing
    says 2 dbsize
    says OK select 0
    says "ERR DB index is out of range " select 1
    says "ERR unknown command 'nosuch' " nosuch thing
    says "ERR wrong number of arguments for 'get' command " get
    says "save " config get save
    says "" command
    check "$engine: info" sh -c "redis-cli -p $port info | grep -q '^engine:$engine'"
}

# Whether the answer to a command is a number between two others.
check_between()
{
    low=$1
    high=$2
    shift 2
    got=$(cli "$@")
    if [ "$got" -ge "$low" ] && [ "$got" -le "$high" ]; then
        pass
    else
        fail "$engine $*: $got is not between $low and $high"
    fi
}

# until_says EXPECTED COMMAND...: asks until the answer comes.
until_says()
{
    expected=$1
    shift
    # shellcheck disable=SC2016
    check "$engine: $* becomes $expected" timeout "$deadline" sh -c '
        expected=$1
        shift
        until [ "$(redis-cli "$@")" = "$expected" ]; do sleep 0.02; done' \
        sh "$expected" -p "$port" "$@"
}

test_expiry()
{
    says OK flushall
    says OK set e v
    says -1 ttl e
    says -1 pttl e
    says -2 ttl nothing
    says -2 pttl nothing
    says 1 expire e 1000
    check_between 900 1000 ttl e
    check_between 900000 1000000 pttl e
    says 1 persist e
    says 0 persist e
    says -1 ttl e
    says 1 pexpire e 500000
    check_between 400000 500000 pttl e
    says OK set e v
    says -1 ttl e
    says OK set e v ex 100
    check_between 50 100 ttl e
    says 2 append e w
    check_between 50 100 ttl e
    says 0 expire nothing 10
    says 1 expire e -1
    says 0 exists e
    says "ERR invalid expire time in 'set' command " set e v ex 0
    says "ERR invalid expire time in 'set' command " set e v px -5
    says "ERR invalid expire time in 'set' command " set e v ex 9223372036854775807
    says "ERR value is not an integer or out of range " set e v ex soon

    says OK set short v px 1
    until_says 0 exists short
    # Nobody asks for these: they must go by themselves.
    for key in 1 2 3 4 5 6 7 8 9 10; do
        cli set "gone:$key" v px 1 > /dev/null
    done
    says OK set stays v ex 1000
    until_says 1 dbsize
    says v get stays
}

test_values()
{
    says OK flushall
    head -c 1048576 /dev/urandom > "$scratch/value"
    check_same "set 1 MiB" OK "$(cli -x set big < "$scratch/value")"
    says 1048576 strlen big
    cli get big | head -c 1048576 > "$scratch/got"
    check "$engine: 1 MiB of any bytes" cmp "$scratch/value" "$scratch/got"
    says "OOM a limit on keys, on bytes or on the length of a value is reached " append big x
    printf 'a\0b' > "$scratch/key"
    check_same "a key of any bytes" OK "$(cli -x set "$(printf 'k')" < "$scratch/key")"
    says 3 strlen k

    # More answers than the send queue holds: the requests wait, and are answered.
    i=0
    while [ "$i" -lt 64 ]; do
        printf 'GET big\r\n'
        i=$((i + 1))
    done > "$scratch/requests"
    check_same "64 answers of 1 MiB" $((64 * (1048576 + 12))) "$(timeout "$deadline" \
        socat -t "$deadline" - "tcp:$host_port" < "$scratch/requests" | wc -c)"
    says "ERR reply too long: ask for fewer values " mget big big big big big big big big big
}

# The dollar signs are the protocol's, not the shell's.
# shellcheck disable=SC2016
test_protocol()
{
    says OK flushall
    raw_says "inline" '+OK~ $1~ b~ +PONG~ ' 'set a b\r\n\r\nget  a\nPING\r\n'
    raw_says "a key with a zero in it" '+OK~ ' \
        '*3\r\n$3\r\nSET\r\n$3\r\na\0000b\r\n$0\r\n\r\n*0\r\n'
    raw_says "quit" '+OK~ ' 'QUIT\r\nPING\r\n'
    raw_says "no bulk" "-ERR Protocol error: expected '\$'~ " '*1\r\n:5\r\n'
    raw_says "too many" '-ERR Protocol error: invalid multibulk length~ ' '*100000\r\n'
    raw_says "not a number" '-ERR Protocol error: invalid multibulk length~ ' '*x\r\n'
    raw_says "negative" '-ERR Protocol error: invalid bulk length~ ' '*1\r\n$-1\r\n'
    raw_says "too long" '-ERR Protocol error: invalid bulk length~ ' '*1\r\n$1048577\r\n'
    raw_says "longer than it said" '-ERR Protocol error: a bulk longer than its length~ ' \
        '*1\r\n$2\r\nPING\r\n'
    check_same "a line without end" "-ERR Protocol error: too big inline request" "$(
        head -c 4096 /dev/zero | tr '\0' x |
            timeout "$deadline" socat -t "$deadline" - "tcp:$host_port" | tr -d '\r')"

    # Pipelined, and cut at any byte.
    says OK flushall
    i=0
    while [ "$i" -lt 5000 ]; do
        printf '*3\r\n$3\r\nSET\r\n$8\r\nkey:%04d\r\n$5\r\nvalue\r\n' "$i"
        i=$((i + 1))
    done > "$scratch/requests"
    check_same "5,000 at once" "errors: 0, replies: 5000" \
        "$(cli --pipe < "$scratch/requests" | tail -n 1)"
    says 5000 dbsize
    head -n 350 "$scratch/requests" > "$scratch/slow"
    check_same "50 byte by byte" 50 "$(timeout "$deadline" "$drip" "$host" "$port" \
        < "$scratch/slow" | grep -c '^+OK')"
}

test_benchmark()
{
    for depth in 1 16; do
        redis-benchmark -p "$port" --csv -n 5000 -c 20 -P "$depth" \
            -t ping,set,get,incr,mset > "$scratch/benchmark" 2>&1
        check_same "results of redis-benchmark -P $depth: $(cat "$scratch/benchmark")" 6 \
            "$(grep -c '^"[A-Z].*","[1-9]' "$scratch/benchmark")"
    done
}

for engine in $engines; do
    start_engine kv "$engine" tcp://127.0.0.1:0 || continue
    says PONG ping
    open_count
    test_strings
    test_keys
    test_expiry
    test_values
    test_protocol
    test_benchmark
    check_count
    check_stop INT
done

finish
