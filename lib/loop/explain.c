/*
 * The copy ledger in words, of a loop or of one connection. Nothing here changes anything, nor
 * depends on the locale of the process: figures are put together from whole numbers.
 *
 * The invariant: whatever has moved or copied a byte is named.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/loop_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

/** From so many copies per byte on, their fractions are left out. */
#define FACTOR_WHOLE 1e6

struct text {
    char *to; /**< NULL: only its length is wanted */
    size_t size;
    size_t used; /**< by all of it, whether it fits or not */
};

/** One way in which bytes moved, or were copied once more. */
struct way {
    const char *name;
    uint64_t bytes;
};

static __attribute__((format(printf, 2, 3))) void
put(struct text *text, const char *format, ...)
{
    const size_t at = text->used < text->size ? text->used : text->size;
    va_list arguments;
    va_start(arguments, format);
    const int more =
        vsnprintf(text->to == NULL ? NULL : text->to + at, text->size - at, format, arguments);
    va_end(arguments);
    text->used += more > 0 ? (size_t)more : 0;
}

static void
put_amount(struct text *text, uint64_t bytes)
{
    static const char *const units[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
    if (bytes < 1000) {
        put(text, "%u byte%s", (unsigned)bytes, bytes == 1 ? "" : "s");
        return;
    }
    uint64_t one = 1;
    uint64_t tenths = 0;
    unsigned unit = 0;
    for (;; unit++) {
        one *= 1000;
        tenths = bytes / one * 10 + (bytes % one * 10 + one / 2) / one;
        if (tenths < 10000 || unit + 1 == sizeof(units) / sizeof(units[0]))
            break;
    }
    put(text, "%u.%u %s", (unsigned)(tenths / 10), (unsigned)(tenths % 10), units[unit]);
}

static void
put_factor(struct text *text, double factor)
{
    if (factor >= FACTOR_WHOLE) {
        put(text, "%.0f", factor);
        return;
    }
    const unsigned hundredths = (unsigned)(factor * 100 + 0.5);
    put(text, "%u.%02u", hundredths / 100, hundredths % 100);
}

static void
put_share(struct text *text, uint64_t bytes, uint64_t moved)
{
    const double percent = 100.0 * (double)bytes / (double)moved;
    if (percent < 0.5)
        put(text, " under 1 %%");
    else if (percent >= 99.5 && bytes < moved)
        put(text, " over 99 %%");
    else
        put(text, " %.0f %%", percent);
}

/** In brackets, every way that moved or copied something; its share if `moved` is not 0. */
static void
put_ways(struct text *text, uint64_t moved, const struct way *ways, unsigned count)
{
    unsigned used = 0;
    for (unsigned i = 0; i < count; i++)
        used += ways[i].bytes > 0;
    const char *before = " (";
    for (unsigned i = 0; i < count; i++) {
        if (ways[i].bytes == 0)
            continue;
        put(text, "%s%s", before, ways[i].name);
        if (moved == 0) {
            put(text, " ");
            put_amount(text, ways[i].bytes);
        } else if (used > 1 || ways[i].bytes != moved) {
            put_share(text, ways[i].bytes, moved);
        }
        before = ", ";
    }
    put(text, used > 0 ? ")\n" : "\n");
}

static void
put_direction(struct text *text, const struct berth_copies *copies,
              enum berth_copy_direction direction, const struct way *ways, unsigned count)
{
    const int receive = direction == BERTH_COPY_RECEIVE;
    const uint64_t moved = receive ? copies->received : copies->sent;
    put(text, receive ? "received " : "sent ");
    if (moved == 0) {
        put(text, "nothing");
    } else {
        const double low = berth_copy_factor(copies, direction, BERTH_COPY_LOW);
        const double high = berth_copy_factor(copies, direction, BERTH_COPY_HIGH);
        put_amount(text, moved);
        put(text, ", ");
        put_factor(text, low);
        if (high - low >= 0.005) {
            put(text, " to ");
            put_factor(text, high);
        }
        put(text, " copies per byte");
    }
    put_ways(text, moved, ways, count);
}

int
berth_copies_explain(const struct berth_copies *copies, char *text, size_t size)
{
    if (copies == NULL || (text == NULL && size > 0))
        return -EINVAL;
    const uint64_t told = copies->sent_in_place + copies->sent_copied_anyway;
    const struct way received[] = {
        {"kernel to pool", copies->received_kernel},
        {"pages mapped", copies->received_mapped},
        {"by the network card", copies->received_direct},
        {"passed on by a pipe", copies->received_spliced},
        {"pulled up", copies->received_pullup},
        {"compacted", copies->received_compact},
        {"declared by the application", copies->received_application},
    };
    const struct way sent[] = {
        {"kernel from pool", copies->sent_kernel},
        {"pages of a file", copies->sent_file},
        {"passed on by a pipe", copies->sent_spliced},
        {"read in place", copies->sent_in_place},
        {"copied anyway", copies->sent_copied_anyway},
        {"not known yet", copies->sent_zerocopy > told ? copies->sent_zerocopy - told : 0},
        {"gathered by berth_send", copies->sent_gather},
        {"declared by the application", copies->sent_application},
    };
    struct text to = {.to = text, .size = size};
    put_direction(&to, copies, BERTH_COPY_RECEIVE, received, sizeof(received) / sizeof(*received));
    put_direction(&to, copies, BERTH_COPY_SEND, sent, sizeof(sent) / sizeof(*sent));
    return (int)to.used;
}

int
berth_conn_copies_get(const struct berth_conn *conn, struct berth_copies *copies)
{
    const struct berth_loop *loop = berth_conn_loop(conn);
    if (loop == NULL || copies == NULL)
        return -EINVAL;
    if (loop->counts_at == 0)
        return -ENOTSUP;
    *copies = conn_counts(loop, as_slot(conn))->copies;
    return 0;
}

int
berth_conn_explain(const struct berth_conn *conn, char *text, size_t size)
{
    struct berth_copies copies;
    const int error = berth_conn_copies_get(conn, &copies);
    return error ? error : berth_copies_explain(&copies, text, size);
}
