#!/bin/sh
# The http example, on every engine: with curl, with raw bytes through socat, and with wrk.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

need curl socat wrk "$drip"
open_scratch http

root=$scratch/root
mkdir -p "$root/sub/.hidden"
echo 'the index' > "$root/index.html"
echo 'a text' > "$root/sub/a text.txt"
echo 'secret' > "$root/sub/.hidden/file"
echo 'outside' > "$scratch/outside"
ln -s ../outside "$root/link"
ln -s .. "$root/up"
mkfifo "$root/fifo"
: > "$root/empty"
head -c 65536 /dev/urandom > "$root/cached.bin"
head -c 5000000 /dev/urandom > "$root/big.bin"
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    cat "$root/big.bin"
done > "$root/huge.bin"
huge_sum=$(cksum < "$root/huge.bin")

http_curl()
{
    curl -s --max-time "$deadline" "$@"
}

# check_status EXPECTED CURL-ARG...
check_status()
{
    expected=$1
    shift
    got=$(http_curl -o /dev/null -w '%{http_code}' "$@")
    check_same "status of $*" "$expected" "$got"
}

# raw: sends standard input as it is, and everything that comes back to standard output.
raw()
{
    timeout "$deadline" socat -t "$deadline" - "tcp:$host_port"
}

# check_raw NAME EXPECTED REQUEST: the status line that the bytes of a request get.
check_raw()
{
    got=$(printf '%b' "$3" | raw | head -n 1 | tr -d '\r')
    check_same "$1" "$2" "$got"
}

test_files()
{
    check_same "the index" "the index" "$(http_curl "$url/")"
    check_same "a blank in a name" "a text" "$(http_curl "$url/sub/a%20text.txt?query=1")"
    check_same "an empty file" "200 0" \
        "$(http_curl -o /dev/null -w '%{http_code} %{size_download}' "$url/empty")"
    for file in cached.bin big.bin; do
        http_curl -o "$scratch/got" "$url/$file"
        check "$engine: $file comes whole" cmp "$root/$file" "$scratch/got"
    done
    check_same "100 MB come whole" "$huge_sum" "$(http_curl "$url/huge.bin" | cksum)"
    got=$(http_curl "$url/huge.bin" | head -c 1000000 | cksum)
    check_same "a reader that goes away" "$(head -c 1000000 "$root/huge.bin" | cksum)" "$got"
    check_same "the type" "text/html; charset=utf-8" \
        "$(http_curl -o /dev/null -w '%{content_type}' "$url/")"

    head=$(http_curl -I "$url/big.bin" | tr -d '\r' | grep -i '^content-length')
    check_same "HEAD" "Content-Length: 5000000" "$head"
    date=$(http_curl -I "$url/" | tr -d '\r' | sed -n 's/^Date: //p')
    check "$engine: a date that can be read: $date" date -d "$date"

    # A file that changes is noticed, though it is kept in memory.
    echo 'changed' > "$root/changes"
    http_curl -o /dev/null "$url/changes"
    echo 'changed again' > "$root/changes"
    # shellcheck disable=SC2016
    check "$engine: a change is noticed" timeout "$deadline" sh -c '
        until curl -s --max-time 60 "$1" | grep -q "changed again"; do sleep 0.1; done' \
        sh "$url/changes"
}

test_refusals()
{
    check_status 404 "$url/nothing"
    check_status 404 "$url/sub"
    check_status 404 --path-as-is "$url/../outside"
    check_status 404 --path-as-is "$url/sub/../../outside"
    check_status 404 --path-as-is "$url/%2e%2e/outside"
    check_status 404 --path-as-is "$url/sub/..%2f..%2foutside"
    check_status 404 "$url/link"
    check_status 404 "$url/up/outside"
    check_status 404 "$url/sub/.hidden/file"
    check_status 404 "$url/fifo"
    check_status 400 "$url/a%00b"
    check_status 400 "$url/a%zz"
    check_status 405 -X POST -d x=1 "$url/"
    check_status 405 -X DELETE "$url/"
    check_status 413 -X POST -H 'Expect:' -H 'Content-Length: 99999999999' "$url/"
    check_status 431 -H "X-Long: $(head -c 9000 /dev/zero | tr '\0' x)" "$url/"

    check_raw "no Host" "HTTP/1.1 400 Bad Request" 'GET / HTTP/1.1\r\n\r\n'
    check_raw "two lengths" "HTTP/1.1 400 Bad Request" \
        'GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx'
    check_raw "a space before the colon" "HTTP/1.1 400 Bad Request" \
        'GET / HTTP/1.1\r\nHost : x\r\n\r\n'
    check_raw "a continued line" "HTTP/1.1 400 Bad Request" \
        'GET / HTTP/1.1\r\nHost: x\r\n more\r\n\r\n'
    check_raw "a line without CR" "HTTP/1.1 400 Bad Request" 'GET / HTTP/1.1\nHost: x\n\n'
    check_raw "not HTTP" "HTTP/1.1 400 Bad Request" '\0026\0003\0001\r\n\r\n'
    check_raw "another version" "HTTP/1.1 505 HTTP Version Not Supported" \
        'GET / HTTP/2.0\r\nHost: x\r\n\r\n'
    check_raw "a chunked body" "HTTP/1.1 411 Length Required" \
        'GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'
}

test_connections()
{
    check_same "one connection for three files" "1 0 0 " \
        "$(http_curl -o /dev/null -o /dev/null -o /dev/null -w '%{num_connects} ' \
            "$url/" "$url/empty" "$url/cached.bin")"
    check_same "a refusal that keeps the connection" "1 0 " \
        "$(http_curl -o /dev/null -o /dev/null -w '%{num_connects} ' "$url/nothing" "$url/")"
    check_same "Connection: close" "1 1 " \
        "$(http_curl -H 'Connection: close' -o /dev/null -o /dev/null -w '%{num_connects} ' \
            "$url/" "$url/")"
    check_same "HTTP/1.0 closes" "1 1 " \
        "$(http_curl --http1.0 -H 'Connection:' -o /dev/null -o /dev/null -w '%{num_connects} ' \
            "$url/" "$url/")"
    check_same "HTTP/1.0 that wants to stay" "1 0 " \
        "$(http_curl --http1.0 -H 'Connection: keep-alive' -o /dev/null -o /dev/null \
            -w '%{num_connects} ' "$url/" "$url/")"
    check_same "an absolute target" "the index" "$(printf \
        'GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n' |
        raw | tail -n 1)"
    check_same "a body that nobody wants is skipped" "2" "$(printf '%s%s' \
        "$(printf 'GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /')" \
        "$(printf 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n.')" |
        raw | grep -c '^HTTP/1.1 200')"
}

# In what a file of several responses holds; the content of one may be anything.
count_responses()
{
    grep -a -o 'HTTP/1.1 200 OK' "$1" | wc -l
}

# Many requests at once: answered all, in order, with the big file in their midst.
test_pipelining()
{
    {
        i=0
        while [ "$i" -lt 500 ]; do
            printf 'GET /%s HTTP/1.1\r\nHost: x\r\n\r\n' index.html empty
            i=$((i + 1))
        done
        printf 'GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n'
        printf 'HEAD /big.bin HTTP/1.1\r\nHost: x\r\n\r\n'
        printf 'GET /sub/a%%20text.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
        printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'
    } > "$scratch/requests"
    raw < "$scratch/requests" > "$scratch/got"
    check_same "responses to 1,003 requests" 1003 "$(count_responses "$scratch/got")"
    check_same "the last of them" "a text" "$(tail -n 1 "$scratch/got")"

    # The last of these requests again, byte by byte.
    tail -n 13 "$scratch/requests" > "$scratch/slow"
    timeout "$deadline" "$drip" "$host" "$port" < "$scratch/slow" > "$scratch/got"
    check_same "responses to a slow sender" 3 "$(count_responses "$scratch/got")"
    check_same "the last of them" "a text" "$(tail -n 1 "$scratch/got")"
}

test_wrk()
{
    for path in / /cached.bin /big.bin; do
        wrk -t 1 -c 20 -d 1 --timeout 100 "$url$path" > "$scratch/wrk" 2>&1
        # shellcheck disable=SC2016
        check "$engine: wrk $path: $(cat "$scratch/wrk")" awk '
            /Socket errors|Non-2xx/ { bad = 1 }
            /requests in/ { requests = $1 }
            END { exit bad || requests < 1 }' "$scratch/wrk"
    done
}

for engine in $engines; do
    start_engine http "$engine" --root "$root" tcp://127.0.0.1:0 || continue
    url=http://$host_port
    http_curl -o /dev/null "$url/"
    open_count
    test_files
    test_refusals
    test_connections
    test_pipelining
    test_wrk
    check_count
    check_stop TERM
done

finish
