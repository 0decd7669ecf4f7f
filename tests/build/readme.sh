#!/bin/sh
# Every fenced shell command in README.md and the guides works: each ```sh block is run, in the
# order of the text, in a scratch copy of the sources, with berth installed for pkg-config to find.
#
# A block that takes long or changes the machine is left out by an HTML comment on the line above:
#     <!-- not run here: the reason, and where it is run instead -->
# and each is listed, so that nothing is left out unseen. Blocks of one file share a directory and
# what earlier ones made there. Other languages (```c, ```text, ```diff ...) are not run.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"
. "$top_srcdir/tests/build/stage.sh"

make_scratch readme
cd "$scratch" || exit 1

# blocks FILE: writes each ```sh block of FILE to block-N.sh, or to left-out-N with its reason.
blocks()
{
    awk '
        /^```/ && inside { inside = 0; close(out); next }
        inside { print > out; next }
        /^```sh[ \t]*$/ {
            inside = 1; number++
            if (reason != "") {
                out = sprintf("left-out-%03d", number)
                print reason > out
            } else {
                out = sprintf("block-%03d.sh", number)
                printf "" > out
            }
            next
        }
        /^```/ { inside = 1; out = "/dev/null"; next }
        /^<!-- not run here: .* -->$/ {
            reason = $0
            gsub(/^<!-- not run here: | -->$/, "", reason)
            next
        }
        { reason = "" }' "$1"
}

if [ ! -d "$stage" ]; then
    check "make install" stage_install
    [ "$failed" -eq 0 ] || finish
fi
stage_use

# A program that uses a library with a sanitizer in it needs the same one, which README's reader
# does not: the compiler that it names has that flag added here.
mkdir -p bin
printf '#!/bin/sh\nexec %s "$@" %s\n' "$(command -v cc)" "${SANITIZE:-}" > bin/cc
chmod +x bin/cc
export PATH="$PWD/bin:$PATH"

found=0
for document in "$top_srcdir/README.md" "$top_srcdir"/docs/guide/*.md; do
    [ -f "$document" ] || continue
    name=$(basename "$document" .md)
    mkdir -p "$name/blocks"
    (cd "$name/blocks" && blocks "$document")
    # A copy of what a fresh clone has; the build tree it would make is the one we are in.
    for part in include lib docs bench tests README.md bootstrap; do
        [ ! -e "$top_srcdir/$part" ] || cp -R "$top_srcdir/$part" "$name/"
    done
    chmod -R u+w "$name"
    ln -s "$top_builddir" "$name/build"

    for block in "$name"/blocks/block-*.sh; do
        [ -f "$block" ] || continue
        found=$((found + 1))
        check "$name.md: $(head -n 1 "$block")" \
            sh -c 'cd "$1" && exec timeout 120 sh -eu "blocks/$2" < /dev/null' \
            sh "$name" "${block##*/}"
    done
    for block in "$name"/blocks/left-out-*; do
        [ -f "$block" ] || continue
        found=$((found + 1))
        skip "$name.md: $(sed -n 2p "$block"): $(head -n 1 "$block")"
    done
done
if [ "$found" -eq 0 ]; then
    skip "there is no shell command in README.md or the guides"
fi

finish
