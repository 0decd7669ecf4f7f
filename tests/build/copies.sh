#!/bin/sh
# The copy ledger is true only if no payload moves past it: every copy of bytes in the library and
# in the inline functions of its headers is berth_copy's (lib/os/copy.h), or is listed here with the
# reason why it moves no payload. The search itself is tried on what it must find.
#
# SPDX-License-Identifier: MIT
set -u
. "$top_srcdir/tests/build/lib.sh"

make_scratch copies
export LC_ALL=C

# ---- what copies bytes: a function by any of its names, also as a pointer; a loop over elements; a
# store or a load through a cast, which moves whole structs; the machine's own instructions.
functions='mem(cpy|move|pcpy|ccpy)|bcopy|str(cpy|ncpy|lcpy|cat|ncat|lcat)|stpn?cpy|swab'
loops='\[([a-z_]+)\] = [^;=]*\[\1\];|\*[a-z_]+\+\+ = \*'
words='^[[:space:]]*\*\([a-zA-Z_0-9 ]+ \*+\)[^=]* = |= \*\([a-zA-Z_0-9 ]+ \*+\)'
machine='\bmovs[bwlq]\b|\b_mm[0-9]*_|__builtin_ia32'

# uncounted FILE...: FILE:LINE:CODE of what copies. Lines of comments are left out.
uncounted()
{
    grep -n -E "$loops|$functions|$words|$machine" "$@" /dev/null |
        grep -v -E '^[^:]*:[0-9]+:[[:space:]]*(/\*|\* )'
}

# ---- those that move no payload: FILE|CODE|REASON
cat > "$scratch/allowed" << 'END'
lib/os/copy.h|memcpy(to, from, size);|the counted copy itself
lib/core/stats.c|difference[i] = new[i] - old[i];|counters
lib/loop/address.c|memcpy(host, start, length);|the text of an address
lib/loop/address.c|memcpy(local->sun_path, text, length);|the path of a unix socket
lib/loop/address.c|memcpy(name->host, text, (size_t)(end - text));|a name to be looked up
lib/loop/engine_uring_setup.c|memcpy(sorted, ids, count * sizeof(*ids));|numbers of buffers
lib/loop/handover.c|[i] = ((const unsigned char *)from)[i];|a program's state of a connection
lib/loop/udp.c|= *(const int *)(const void *)CMSG_DATA(header);|a number of the kernel's
lib/loop/udp_calls.c|*(uint16_t *)(void *)CMSG_DATA(header) = |a number for the kernel
lib/loop/udp_calls.c|memcpy(&family, bytes + offsetof(struct sockaddr, sa_family), |an address
lib/loop/udp_calls.c|memcpy(&node->to.v4, to, sizeof(node->to.v4));|an address
lib/loop/udp_calls.c|memcpy(&node->to.v6, to, sizeof(node->to.v6));|an address
lib/loop/udp_calls.c|memcpy(&address.to.v4, from, sizeof(address.to.v4));|an address
lib/loop/udp_calls.c|memcpy(&address.to.v6, from, sizeof(address.to.v6));|an address
lib/loop/udp_calls.c|memcpy(result, &address.to.v4, sizeof(address.to.v4));|an address
lib/loop/udp_calls.c|memcpy(result, &address.to.v6, sizeof(address.to.v6));|an address
END

# judge ALLOWED FOUND: what was found and is not allowed, and what is allowed and was not found.
judge()
{
    awk '
        NR == FNR { file[NR] = $0; sub(/\|.*/, "", file[NR])
                    code[NR] = substr($0, length(file[NR]) + 2); sub(/\|[^|]*$/, "", code[NR])
                    rows = NR; next }
        { ok = 0
          for (i = 1; i <= rows; i++)
              if (index($0, file[i] ":") == 1 && index($0, code[i]) > 0) { ok = 1; used[i] = 1 }
          if (!ok) print "not counted: " $0 }
        END { for (i = 1; i <= rows; i++)
                  if (!used[i]) print "allowed, but not there: " file[i] ": " code[i] }
    ' "$1" "$2"
}

cd "$top_srcdir" || exit 1
# shellcheck disable=SC2046 # a list of files
uncounted $(find lib include -name '*.[ch]' | sort) > "$scratch/found"
judge "$scratch/allowed" "$scratch/found" > "$scratch/faults"
if [ -s "$scratch/faults" ]; then
    fail "copies past the ledger"
    sed 's/^/    /' "$scratch/faults"
else
    pass
fi

# ---- the search finds what it is for: each of these lines, added to a file of the library.
cat > "$scratch/samples" << 'END'
    memcpy(to, from, bytes);
    (void)memmove(to, from, bytes);
    bcopy(from, to, bytes);
    to = mempcpy(to, from, bytes);
    to = memccpy(to, from, 0, bytes);
    __builtin_memcpy(to, from, bytes);
    __builtin___memmove_chk(to, from, bytes, room);
    wmemcpy(to, from, bytes / 4);
    strncpy(to, from, bytes);
    stpcpy(to, from);
    void *(*copy)(void *, const void *, size_t) = memcpy;
        to[i] = from[i];
        ((char *)to)[at] = ((const char *)from)[at];
        *to++ = *from++;
    *(struct page *)to = *(const struct page *)from;
    *(uint64_t *)(void *)to = *word;
    *page = *(const struct page *)from;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes));
    _mm_storeu_si128(to, _mm_loadu_si128(from));
    __builtin_ia32_movntq(to, word);
END
while IFS= read -r sample; do
    { cat lib/loop/send.c; printf '%s\n' "$sample"; } > "$scratch/added.c"
    uncounted "$scratch/added.c" > "$scratch/found"
    check "found when it is added: $sample" grep -q -F "$sample" "$scratch/found"
    judge "$scratch/allowed" "$scratch/found" > "$scratch/faults"
    check "not allowed: $sample" grep -q "^not counted: .*added\.c" "$scratch/faults"
done < "$scratch/samples"

# A row of the list that nothing matches any more is told, and so is one that was used elsewhere.
echo 'lib/loop/send.c|memcpy(gone, from, 1);|no reason' > "$scratch/stale"
: > "$scratch/found"
judge "$scratch/stale" "$scratch/found" > "$scratch/faults"
check "a stale row is told" grep -q '^allowed, but not there: lib/loop/send\.c' "$scratch/faults"

finish
