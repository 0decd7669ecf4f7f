#!/bin/sh
# Builds and tests the tree in one of its checking variants: variant.sh NAME, called by make. Each
# has a build directory of its own, build-NAME in the build tree, configured as the tree itself was
# and then a little differently; a second run only compiles what changed.
#
# CK_FORK=no: the tools follow one process, and a fault stops at the place where it happened.
#
# SPDX-License-Identifier: MIT
set -eu

name=${1:?}
: "${top_srcdir:?run this through make}" "${top_builddir:?}"
make=${MAKE:-make}
dir=$top_builddir/build-$name
options=
tests=

say()
{
    echo "$name: $*"
}

export CK_FORK=no CK_DEFAULT_TIMEOUT="${CK_DEFAULT_TIMEOUT:-300}"

case $name in
asan)
    # jemalloc under AddressSanitizer: libasan comes first and takes malloc; the adapter's own calls
    # still reach jemalloc, so it stays in.
    options="--enable-checks --with-sanitizer=address"
    export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:\
strict_string_checks=1:check_initialization_order=1:allocator_may_return_null=1:abort_on_error=0"
    ;;
ubsan)
    options="--enable-checks --with-sanitizer=undefined"
    export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1"
    ;;
tsan)
    # Valgrind's hooks would only hide what ThreadSanitizer looks for; it does without them.
    options="--enable-checks --with-sanitizer=thread"
    export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1:history_size=4"
    ;;
valgrind)
    command -v valgrind > /dev/null || {
        say "no valgrind here: install it (on Debian: apt-get install valgrind)" >&2
        exit 1
    }
    options="--enable-checks --with-valgrind CFLAGS=-O1\ -g"
    ;;
coverage)
    command -v gcovr > /dev/null || {
        say "no gcovr here: install it (on Debian: apt-get install gcovr)" >&2
        exit 1
    }
    # A killed child writes no counts, so Check must not fork here either.
    options="--enable-checks --enable-coverage CFLAGS=-O0\ -g"
    ;;
minimal)
    # What a system with neither liburing nor jemalloc gets.
    options="--without-liburing --without-jemalloc"
    unset CK_FORK
    ;;
static)
    options="--enable-static --disable-shared"
    unset CK_FORK
    ;;
*)
    echo "variant.sh: no variant '$name'" >&2
    exit 2
    ;;
esac

if [ -f "$top_srcdir/config.status" ]; then
    say "the source tree itself is configured: build in another directory, or 'make distclean'" >&2
    exit 1
fi

mkdir -p "$dir"
cd "$dir"
if [ ! -f Makefile ] || [ ! -x config.status ]; then
    # The user's own choices first, as configure recorded them; ours win.
    inherited=$("$top_builddir/config.status" --config)
    eval "set -- $inherited $options"
    say "configuring in $dir"
    "$top_srcdir/configure" --quiet "$@" > configure.out 2>&1 || {
        cat configure.out
        exit 1
    }
fi

# Without a job server above us, use what the machine has.
case ${MAKEFLAGS:-} in
*jobserver* | *-j*) jobs= ;;
*) jobs=-j$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 1) ;;
esac
# shellcheck disable=SC2086 # an empty $jobs is no argument
$make $jobs --no-print-directory all > make.out 2>&1 || {
    cat make.out
    exit 1
}

status=0
if [ "$name" = valgrind ]; then
    # Programs run under memcheck. Scripts run compilers, clients and other tools, and Valgrind
    # would watch the shell: they are left out by name.
    kinds=definite,indirect
    valgrind="valgrind --quiet --error-exitcode=99 --num-callers=30 --fair-sched=yes"
    valgrind="$valgrind --leak-check=full --show-leak-kinds=$kinds --errors-for-leak-kinds=$kinds"
    valgrind="$valgrind --suppressions=$top_srcdir/tests/build/valgrind.supp"
    tests=$($make -s --no-print-directory print-test-programs)
    scripts=$($make -s --no-print-directory print-test-scripts)
    say "these are scripts, and not run under Valgrind:"
    for script in $scripts; do
        echo "    $script"
    done
    set -- TESTS="$tests" LOG_COMPILER="$dir/libtool --silent --mode=execute $valgrind"
else
    set --
fi
# shellcheck disable=SC2086
$make $jobs --no-print-directory check "$@" || status=1
summary=$($make -s --no-print-directory summary "$@") || status=1
say "$summary"

if [ "$name" = coverage ]; then
    gcovr --root "$top_srcdir" --filter "$top_srcdir/(lib|include)/" --object-directory . \
        --html-details coverage.html --print-summary . || status=1
    say "page by page: $dir/coverage.html"
fi
exit $status
