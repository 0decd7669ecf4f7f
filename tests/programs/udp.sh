#!/bin/sh
# The datagram examples, on every engine: udp_echo with socat, dns with dig and with raw bytes.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

need socat dig
open_scratch udp
heard=$scratch/heard
answered=$scratch/answered

# exchange FILE BYTES [SOCAT-OPTIONS]: sends the file as one datagram, and waits for so many bytes;
# they are in $answered.
exchange()
{
    rm -f "$heard"
    mkfifo "$heard"
    exec 4<> "$heard"
    socat -b 65536 -t "$deadline" - "udp:$host_port$3" < "$1" > "$heard" 4>&- 3>&- &
    exchange_pid=$!
    timeout "$deadline" head -c "$2" <&4 > "$answered"
    exchange_status=$?
    kill "$exchange_pid"
    wait "$exchange_pid" 2> /dev/null
    exec 4<&-
    return "$exchange_status"
}

# check_echo BYTES: a datagram of that length comes back as it was.
check_echo()
{
    head -c "$1" /dev/urandom > "$scratch/data"
    exchange "$scratch/data" "$1" ""
    check "$engine: $1 bytes come back" cmp "$scratch/data" "$answered"
}

echo_all()
{
    for receive in plain large merged; do
        start_engine udp_echo "$engine" --receive "$receive" udp://127.0.0.1:0 || return
        host_port=${address#udp://}
        check_echo 5
        check_echo 3968
        [ "$receive" = plain ] || check_echo 60000
        if [ "$receive" = plain ]; then
            # Cut short, and so not sent back; the next one is.
            head -c 3969 /dev/zero | socat -b 65536 -u - "udp:$host_port"
            check_echo 7
        fi
        report
        check_same "truncated ($receive)" "$([ "$receive" = plain ] && echo 1 || echo 0)" \
            "$(counter datagrams_truncated)"
        check_same "copies by the library" "0 0" \
            "$(counter received_compact) $(counter sent_gather)"
        check_same "lost and refused" "0 0" "$(counter datagrams_lost) $(counter datagrams_refused)"
        check_stop TERM
    done
}

# ---- dns --------------------------------------------------------------------------------------

long=$(head -c 900 /dev/zero | tr '\0' 'x')
zone="example.org A 192.0.2.1; www.example.org A 192.0.2.2; www.example.org A 192.0.2.3
www.example.org AAAA 2001:db8::1; text.example.org TXT hello, berth
long.example.org TXT $long; long.example.org TXT $long; deep.er.example.org A 192.0.2.9"

# ask ARG...: dig's answer, in $scratch/dig.
ask()
{
    dig @127.0.0.1 -p "$port" +tries=3 +time=5 +ignore +nocookie "$@" > "$scratch/dig" 2>&1
}

# check_short EXPECTED ARG...: the data of the answer, in one line.
check_short()
{
    expected=$1
    shift
    ask +short "$@"
    check_same "dig $*" "$expected" "$(LC_ALL=C sort "$scratch/dig" | tr '\n' ' ' | sed 's/ $//')"
}

# check_status STATUS FLAG-PATTERN ARG...
check_status()
{
    expected=$1 pattern=$2
    shift 2
    ask "$@"
    check_same "status of dig $*" "$expected" \
        "$(sed -n 's/.*status: \([A-Z]*\),.*/\1/p' "$scratch/dig")"
    check "$engine: dig $* has $pattern" grep -q -E "$pattern" "$scratch/dig"
}

dns_queries()
{
    check_short 192.0.2.1 example.org A
    check_short "192.0.2.2 192.0.2.3" www.example.org A
    check_short "192.0.2.2 192.0.2.3" WWW.eXample.ORG. A
    check_short 2001:db8::1 www.example.org AAAA
    check_short '"hello, berth"' text.example.org TXT
    check_short "192.0.2.2 192.0.2.3" +noedns www.example.org A
    check_short "192.0.2.2 192.0.2.3 2001:db8::1" +notcp www.example.org ANY
    check_short "ns.example.org. hostmaster.example.org. 1 3600 600 604800 300" example.org SOA
    check_status NOERROR 'flags: qr aa' www.example.org A
    check_status NOERROR 'ANSWER: 0, AUTHORITY: 1' text.example.org A
    check_status NOERROR 'ANSWER: 0, AUTHORITY: 1' er.example.org A
    check_status NXDOMAIN 'ANSWER: 0, AUTHORITY: 1' nothing.example.org A
    check_status NXDOMAIN 'ANSWER: 0, AUTHORITY: 1' a.www.example.org A
    check_status REFUSED 'ANSWER: 0, AUTHORITY: 0' example.com A
    check_status REFUSED 'ANSWER: 0, AUTHORITY: 0' notexample.org A
    check_status REFUSED 'ANSWER: 0' example.org CH TXT
    check_status NOTIMP 'ANSWER: 0' +opcode=STATUS example.org A
    check_status BADVERS 'EDNS: version: 0' +edns=1 +noednsneg example.org A
    check_status NOERROR 'flags: qr aa tc' long.example.org TXT
    check_status NOERROR 'flags: qr aa tc' +noedns long.example.org TXT
    check_status NOERROR 'udp: 1232' +norecurse +bufsize=4096 www.example.org A
    grep -E '^;; (Warning|WARNING)' "$scratch/dig" > "$scratch/warnings"
    check "$engine: dig warns of nothing: $(cat "$scratch/warnings")" test ! -s "$scratch/warnings"
}

# raw BYTES: sends them, as printf's escapes.
raw()
{
    # shellcheck disable=SC2059 # escapes are meant
    printf "$1" | socat -u - "udp:$host_port"
}

dns_hostile()
{
    raw ''
    raw 'x'
    raw '\0\0\0\0\0\1\0\0\0\0\0'                                # one byte short of a header
    raw '\0\1\200\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1'               # an answer
    raw '\0\1\0\0\0\1\0\0\0\0\0\0'                              # no question
    raw '\0\1\0\0\0\1\0\0\0\0\0\0\300\14\0\1\0\1'               # a name that points to itself
    raw '\0\1\0\0\0\1\0\0\0\0\0\0\1a\300\14\0\1\0\1'            # ... by way of another label
    raw '\0\1\0\0\0\1\0\0\0\0\0\0\77abc\0\0\1\0\1'              # a label past the end
    raw '\0\1\0\0\0\1\0\0\0\0\0\1\1a\0\0\1\0\1\0\0\51\377\377'  # OPT that ends early
    raw '\0\1\0\0\377\377\377\377\377\377\377\377\1a\0\0\1\0\1' # counts of what is not there
    head -c 3968 /dev/urandom | socat -b 65536 -u - "udp:$host_port"
    head -c 60000 /dev/zero | socat -b 65536 -u - "udp:$host_port"
    printf '\0\7\0\0\0\1\0\0\0\0\0\0\300\14\0\1\0\1' > "$scratch/query"
    exchange "$scratch/query" 12 ""
    printf '\0\7\200\1\0\0\0\0\0\0\0\0' > "$scratch/expected"
    check "$engine: a query that points to itself is malformed" cmp "$scratch/expected" "$answered"
    check_short 192.0.2.1 example.org A
}

dns_all()
{
    start_engine dns "$engine" --origin example.org --zone "$zone" udp://127.0.0.1:0 || return
    host_port=${address#udp://}
    port=${host_port##*:}
    dns_queries
    dns_hostile
    i=0
    while [ $i -lt 500 ]; do
        echo "www.example.org A"
        i=$((i + 1))
    done > "$scratch/queries"
    ask +short -f "$scratch/queries"
    check_same "500 queries" 1000 "$(grep -c -E '^192\.0\.2\.[23]$' "$scratch/dig")"
    report
    check_same "lost and refused" "0 0" "$(counter datagrams_lost) $(counter datagrams_refused)"
    check_same "truncated" 1 "$(counter datagrams_truncated)"
    check_stop TERM
}

for engine in $engines; do
    echo_all
    dns_all
done

finish
