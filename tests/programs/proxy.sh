#!/bin/sh
# The proxy example: in front of redis, nginx and the http example, over TCP and over unix sockets;
# and in front of the echo example with a load that checks every byte, closes half, resets, and
# floods without reading. The proxy's own counters say that it copied nothing.
#
# The servers are the system's own programs, each in the scratch directory, on a port that was free
# a moment before: should somebody take it meanwhile, the next one is tried.
#
# SPDX-License-Identifier: MIT
set -u
# shellcheck source=tests/programs/lib.sh
. "${top_srcdir:?run this through make check}/tests/programs/lib.sh"

need "$load" curl socat
open_scratch proxy
engines=${BERTH_TEST_ENGINES:-"uring epoll"}
big_bytes=50000000
requests=10000 # of each of two kinds
[ "$thorough" = yes ] || big_bytes=5000000 requests=2000

others= # process ids, of which each is ended by its own
trap 'for pid in $server $others; do kill -KILL "$pid" 2> /dev/null; done' EXIT

mkdir "$scratch/root"
head -c "$big_bytes" /dev/urandom > "$scratch/root/big.bin"
echo 'the index' > "$scratch/root/index.html"
# A unix socket's path has to be short, and the scratch directory's is not.
sockets=$(mktemp -d "${TMPDIR:-/tmp}/berth-proxy.XXXXXX") || exit 1
trap 'for pid in $server $others; do kill -KILL "$pid" 2> /dev/null; done; rm -rf "$sockets"' EXIT

# until COMMAND...: repeats it until it succeeds; fails when that takes too long.
until_true()
{
    tries=0
    until "$@" > /dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 500 ] || return 1
        sleep 0.02 # between two questions
    done
}

# run COMMAND...: in the background; $! is its process.
run()
{
    "$@" > "$scratch/out" 2>&1 < /dev/null 3>&- &
    others="$others $!"
}

# free_port: in $free, a port that the kernel has just given out.
free_port()
{
    start 1 echo tcp://127.0.0.1:0 || return 1
    free=$port
    stop TERM
}

# ---- the servers behind it -------------------------------------------------------------------

start_redis()
{
    command -v redis-server > /dev/null && command -v redis-benchmark > /dev/null || return 1
    for attempt in 1 2 3; do
        free_port || return 1
        run redis-server --port "$free" --bind 127.0.0.1 --unixsocket "$sockets/redis" --save '' \
            --appendonly no --dir "$scratch" --daemonize no
        redis_pid=$!
        redis_port=$free
        until_true redis-cli -h 127.0.0.1 -p "$free" ping && kill -0 "$redis_pid" && return 0
        echo "attempt $attempt: $(tail -n 3 "$scratch/out")"
    done
    return 1
}

start_nginx()
{
    command -v nginx > /dev/null || return 1
    for attempt in 1 2 3; do
        free_port || return 1
        rm -f "$sockets/nginx"
        mkdir -p "$scratch/nginx"
        cat > "$scratch/nginx.conf" << END
daemon off;
master_process off;
pid $scratch/nginx/pid;
error_log $scratch/nginx/errors;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path $scratch/nginx/body;
    proxy_temp_path $scratch/nginx/proxy;
    fastcgi_temp_path $scratch/nginx/fastcgi;
    uwsgi_temp_path $scratch/nginx/uwsgi;
    scgi_temp_path $scratch/nginx/scgi;
    server {
        listen 127.0.0.1:$free;
        listen unix:$sockets/nginx;
        root $scratch/root;
    }
}
END
        run nginx -p "$scratch/nginx" -e "$scratch/nginx/errors" -c "$scratch/nginx.conf"
        nginx_pid=$!
        nginx_port=$free
        until_true curl -s "http://127.0.0.1:$free/index.html" && kill -0 "$nginx_pid" && return 0
        echo "attempt $attempt: $(cat "$scratch/out")"
    done
    return 1
}

# start_example NAME PROGRAM ARG...: one of ours, whose TCP address is in $example.
start_example()
{
    example_out=$scratch/$1
    shift
    "$programs/$1" ${2:+"$2"} ${3:+"$3"} tcp://127.0.0.1:0 "unix:$sockets/${example_out##*/}" \
        > "$example_out" 2>&1 < /dev/null 3>&- &
    others="$others $!"
    until_true grep -q "^listening on unix:" "$example_out" || return 1
    example=$(sed -n 's/^listening on tcp/tcp/p' "$example_out")
}

# ---- what is asked through it ----------------------------------------------------------------

# test_redis NAME CLIENT-ARG...: where the proxy listens.
test_redis()
{
    redis_name=$1
    shift
    for pipeline in 1 16; do
        timeout "$deadline" redis-benchmark "$@" -q -t set,get -n "$requests" -c 50 \
            -P "$pipeline" > "$scratch/benchmark" 2>&1
        # shellcheck disable=SC2016
        check "$redis_name: redis-benchmark -P $pipeline: $(tail -n 2 "$scratch/benchmark")" \
            sh -c 'tr "\r" "\n" < "$1" | grep -c "requests per second" | grep -q -x 2' \
            sh "$scratch/benchmark"
    done
    # shellcheck disable=SC2016
    check "$redis_name: a long value is set" sh -c '
        value=$1 && shift && redis-cli "$@" -x set big < "$value" | grep -q -x OK' \
        sh "$scratch/root/big.bin" "$@"
    redis-cli "$@" --raw get big | head -c "$big_bytes" | cmp - "$scratch/root/big.bin"
    check_same "$redis_name: and it is got" 0 $?
}

# test_http NAME URL CURL-ARG...
test_http()
{
    http_name=$1 http_url=$2
    shift 2
    # shellcheck disable=SC2016
    check "$http_name: a long file" sh -c '
        file=$1 && shift && curl -sS --max-time 60 "$@" | cmp - "$file"' \
        sh "$scratch/root/big.bin" "$@" "$http_url/big.bin"
}

test_wrk()
{
    command -v wrk > /dev/null || return 0
    wrk -t 1 -c 20 -d 1 --timeout 100 "$2/index.html" > "$scratch/wrk" 2>&1
    # shellcheck disable=SC2016
    check "$1: wrk: $(cat "$scratch/wrk")" awk '
        /Socket errors|Non-2xx/ { bad = 1 }
        /requests in/ { requests = $1 }
        END { exit bad || requests < 1 }' "$scratch/wrk"
}

# test_load ADDRESS: the echo example behind the proxy.
test_load()
{
    address=$1
    check_load --connections 500 --rounds 3
    check_load --mode half-close --connections 100 --bytes 100000
    check_load --mode reset --connections 100
    check_load --connections 20 --bytes 1 --rounds 100
    check_load --mode flood
}

# A target that nobody listens behind: its clients get a reset.
test_refused()
{
    said=$(curl -sS --max-time 60 "http://${1#tcp://}/" 2>&1)
    case $said in
    *reset* | *"connect to"*) pass ;; # as early as that
    *) fail "$engine: a target that is not there: $said" ;;
    esac
    check "$engine: and it is told" grep -q "Connection refused" "$scratch/complains"
}

# ---- all of it -------------------------------------------------------------------------------

redis=no nginx=no
if start_redis; then redis=yes; else skip "there is no redis-server that starts"; fi
if start_nginx; then nginx=yes; else skip "there is no nginx that starts"; fi
start_example http http --root "$scratch/root" || fail "http: $(cat "$scratch/http")"
http_address=$example
start_example echo echo || fail "echo: $(cat "$scratch/echo")"
echo_address=$example
free_port || fail "no port"
nobody=$free

# check_counters: nothing was copied by the library, and with splice by nobody.
check_counters()
{
    until_quiet || fail "$engine: connections stay open"
    report
    check_same "copies by the library" "0 0 0" \
        "$(counter received_pullup) $(counter received_compact) $(counter sent_gather)"
    check_same "zombies, overflows" "0 0" "$(counter zombies) $(counter overflows)"
    if [ "$way" = splice ]; then
        check_same "copies by the kernel" "0 0" \
            "$(counter received_kernel) $(counter sent_kernel)"
    fi
}

for engine in $engines; do
    for way in leases splice; do
        option=
        [ "$way" = leases ] || option=--splice
        # In front of a TCP address and a unix socket each, by TCP and by a unix socket each.
        # shellcheck disable=SC2086 # an option or none
        start 12 proxy --engine "$engine" $option \
            tcp://127.0.0.1:0 "tcp://127.0.0.1:${redis_port:-1}" \
            tcp://127.0.0.1:0 "unix:$sockets/redis" \
            "unix:$sockets/p-redis" "unix:$sockets/redis" \
            tcp://127.0.0.1:0 "tcp://127.0.0.1:${nginx_port:-1}" \
            tcp://127.0.0.1:0 "unix:$sockets/nginx" \
            "unix:$sockets/p-nginx" "unix:$sockets/nginx" \
            tcp://127.0.0.1:0 "$http_address" \
            tcp://127.0.0.1:0 "unix:$sockets/http" \
            "unix:$sockets/p-http" "$http_address" \
            tcp://127.0.0.1:0 "$echo_address" \
            tcp://127.0.0.1:0 "unix:$sockets/echo" \
            tcp://127.0.0.1:0 "tcp://127.0.0.1:$nobody" || {
            not_started proxy
            continue
        }
        # shellcheck disable=SC2086 # one word each
        set -- $addresses
        name="$engine, $way"
        if [ $redis = yes ]; then
            test_redis "$name, tcp" -h 127.0.0.1 -p "${1##*:}"
            test_redis "$name, unix" -s "$sockets/p-redis"
        fi
        if [ $nginx = yes ]; then
            test_http "$name, nginx" "http://${4#tcp://}"
            test_http "$name, nginx, unix" http://localhost --unix-socket "$sockets/p-nginx"
            test_wrk "$name, nginx" "http://${4#tcp://}"
        fi
        test_http "$name, http" "http://${7#tcp://}"
        test_http "$name, http, unix behind" "http://${8#tcp://}"
        test_http "$name, http, unix" http://localhost --unix-socket "$sockets/p-http"
        test_wrk "$name, http, unix behind" "http://${8#tcp://}"
        test_load "${10}"
        test_load "${11}"
        test_refused "${12}"
        check_counters
        stop TERM
        check_same "status" 0 "$status"
        check_same "complaints" 1 \
            "$(grep -c -v -E '^(received|sent) (nothing|[0-9])' "$scratch/complains")"
    done
done
for pid in $others; do
    kill -TERM "$pid"
done
finish
