# shellcheck shell=sh
# An installation of the tree in a directory of its own, for the tests that use berth as a stranger
# does. Sourced after lib.sh; `stage` afterwards names the directory.
#
# It is made afresh by install.sh, and used again by those who come after it in the same run.
#
# SPDX-License-Identifier: MIT

stage=$top_builddir/tests/build/stage

# Installs the tree under $stage.
stage_install()
{
    rm -rf "$stage"
    "${MAKE:-make}" -s --no-print-directory -C "$top_builddir" install DESTDIR="$stage"
}

# Lets pkg-config, compilers and the dynamic linker find what is in $stage.
stage_use()
{
    stage_pc=$(find "$stage" -name berth.pc | head -n 1)
    stage_lib=$(dirname "$(dirname "$stage_pc")")
    # Any system root has this directory; CMake insists on it when liburing's .pc names it.
    mkdir -p "$stage/usr/include"
    export PKG_CONFIG_SYSROOT_DIR="$stage" PKG_CONFIG_PATH="${stage_pc%/*}"
    export LD_LIBRARY_PATH="$stage_lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    PATH="$(dirname "$stage_lib")/bin:$PATH"
    export PATH
}

# Programs that use a library with a sanitizer in it need the same one.
stage_cflags="-Wall -Wextra -O1 ${SANITIZE:-}"

# Archives alone do not carry what they need: pkg-config must be asked for it.
stage_static=ON
if find "$top_builddir/.libs" -name 'libberth.so*' | grep -q .; then
    stage_static=OFF
fi

# stage_flags MODULE: the flags to compile and link with.
stage_flags()
{
    if [ $stage_static = ON ]; then
        pkg-config --static --cflags --libs "$1"
    else
        pkg-config --cflags --libs "$1"
    fi
}
