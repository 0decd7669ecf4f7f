#!/bin/sh
# The rules of the house that a machine can check: limits of length, no tabs, a heading in every
# file, no unfinished work, nothing that makes sense on one machine only.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

make_scratch style
cd "$top_srcdir" || exit 1
export LC_ALL=C
faults=$scratch/faults

# sources PATTERN...: what the project itself wrote, build trees left out.
sources()
{
    for directory in include lib tests bench docs; do
        for pattern in "$@"; do
            find "$directory" -name "$pattern" -type f
        done
    done | sort
}

# none NAME COMMAND...: the command must find nothing; what it finds is shown.
none()
{
    none_name=$1
    shift
    if "$@" > "$faults"; [ ! -s "$faults" ]; then
        pass
    else
        fail "$none_name"
        sed 's/^/    /' "$faults"
    fi
}

c_files=$(sources '*.c' '*.h')
scripts="$(sources '*.sh' '*.awk') bootstrap .ci/run"
texts="$(sources '*.md' '*.inc' '*.map' '*.in') configure.ac Makefile.am NEWS"
texts="$texts README.md ARCHITECTURE.md CONTRIBUTING.md SECURITY.md"
lib_files=$(find lib -name '*.[ch]' | sort)

existing()
{
    for file in "$@"; do
        [ ! -f "$file" ] || echo "$file"
    done
}
# shellcheck disable=SC2086 # lists of files
scripts=$(existing $scripts)
# shellcheck disable=SC2086
texts=$(existing $texts)

# From here on lists of files are split into words on purpose.
# shellcheck disable=SC2086
rules()
{
    # ---- limits. About 500 lines to a file: a tenth more is tolerated, so that a file is split for
    # its sense and not for its last line.
    awk -v root="$top_srcdir" -v lines_max=550 -v columns_max=100 -v function_lines_max=70 \
        -f tests/build/style.awk $c_files > "$scratch/limits"
    none "limits and headings" grep -v '^functions ' "$scratch/limits"
    # The checker must see functions: a layout that hid them from it would pass silently.
    functions=$(sed -n 's/^functions //p' "$scratch/limits")
    check "the checker finds functions ($functions)" test "$functions" -gt 50

    none "scripts: 100 columns" grep -n -E '^.{101,}$' $scripts /dev/null
    none "scripts: no tabs" grep -n "$(printf '\t')" $scripts /dev/null
    none "scripts: a licence line" grep -L 'SPDX-License-Identifier: MIT' $scripts

    # ---- nothing unfinished, nothing private. Written so that this file does not match itself.
    none "unfinished work" grep -n -w -E 'TOD[O]|FIXM[E]|XX[X]|HAC[K]' $c_files $scripts $texts
    none "paths of somebody's machine" grep -n -E \
        '(^|[^a-z.])/(wor[k]|roo[t]|hom[e]/[a-z])(/|[^a-z]|$)|/tmp/w[t]' \
        $c_files $scripts $texts

    # ---- the library is a guest in its process
    # ... except to put back what it was, in what a signal handler may call.
    none "errno is never set" errno_set
    none "a library never ends the process" grep -n -E '\b(exit|_exit)[[:space:]]*\(' $lib_files
    none "a library prints nothing" \
        grep -n -E '\b(vf|f|v)?(printf|puts|perror) ?\("|\b(stderr|stdout)\b' $lib_files
}

# shellcheck disable=SC2086
errno_set()
{
    grep -n -E '(^|[^_a-zA-Z.>(])errno[[:space:]]*=[^=]' $lib_files | grep -v 'errno = saved;'
}

rules
finish
