/*
 * See card.h.
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/card.h"

#ifdef BERTH_HAVE_LIBURING

#include "support/sys_groups.h"

#define PAGE 4096u
#define PAGES_MAX 65536u
#define FDS 1024

/** Where the kernel puts the parts of the ring; not where anybody would expect them. */
#define HEAD_AT 192
#define TAIL_AT 64
#define ENTRIES_AT 256

struct card card;

static struct {
    unsigned char *area;
    uint32_t *head;
    const uint32_t *tail;
    struct berth_uring_zcrx_entry *entries;
    uint32_t count;
    unsigned short references[PAGES_MAX];
    uint32_t free_pages[PAGES_MAX];
    uint32_t free_count;
    struct {
        uint64_t token; /**< 0: nothing posted */
        uint32_t left;
        int limited, cancelled;
    } armed[FDS];
} own;

/* ---- pages ------------------------------------------------------------------------------------
 */

static void
page_out(uint32_t page)
{
    if (own.references[page]++ == 0)
        card.out++;
}

static void
page_back(uint32_t page)
{
    ck_assert_msg(own.references[page] > 0, "page %u given back once too often", page);
    if (--own.references[page] > 0)
        return;
    memset(own.area + (size_t)page * PAGE, 0xdd, PAGE);
    own.free_pages[own.free_count++] = page;
    card.out--;
}

void
card_collect(void)
{
    const uint32_t tail = __atomic_load_n(own.tail, __ATOMIC_ACQUIRE);
    uint32_t head = *own.head;
    ck_assert_uint_le(tail - head, own.count);
    for (; head != tail; head++) {
        struct berth_uring_zcrx_entry *entry = &own.entries[head & (own.count - 1)];
        ck_assert_uint_eq(entry->pad, 0);
        ck_assert_uint_eq(entry->offset & ~BERTH_URING_ZCRX_OFFSET_MASK, CARD_TOKEN);
        const uint64_t page = (entry->offset & BERTH_URING_ZCRX_OFFSET_MASK) / PAGE;
        ck_assert_uint_lt(page, card.pages);
        ck_assert_uint_ge(entry->length, 1);
        page_back((uint32_t)page);
        memset(entry, 0xee, sizeof(*entry));
    }
    __atomic_store_n(own.head, head, __ATOMIC_RELEASE);
}

/* ---- receives ---------------------------------------------------------------------------------
 */

void
card_post(uint64_t user_data, int32_t result, uint32_t flags, uint64_t offset)
{
    between_post_large(user_data, result, flags, offset);
    card.completions++;
}

void
card_lend_page(uint64_t user_data, int32_t length)
{
    ck_assert_uint_gt(own.free_count, 0);
    const uint32_t page = own.free_pages[--own.free_count];
    page_out(page);
    card_post(user_data, length, IORING_CQE_F_MORE, CARD_TOKEN | (uint64_t)page * PAGE);
}

uint64_t
card_armed(int fd)
{
    return own.armed[fd].token;
}

static void
end_receive(int fd, int32_t result)
{
    const uint64_t token = own.armed[fd].token;
    own.armed[fd].token = 0;
    between.flying[fd]--;
    card.ended++;
    card_post(token, result, 0, UINT64_MAX);
}

/** The bytes lie in a page now: completions for them, in as many pieces as asked for. */
static void
tell_pieces(int fd, uint32_t page, uint32_t bytes)
{
    const unsigned pieces = card.pieces == 0 ? 1 : card.pieces;
    uint32_t at = 0;
    for (unsigned i = 0; i < pieces && at < bytes; i++) {
        const uint32_t length = i + 1 == pieces ? bytes - at : 1 + (bytes - at) / 2;
        page_out(page);
        card_post(own.armed[fd].token, (int32_t)length, IORING_CQE_F_MORE,
                  CARD_TOKEN | ((uint64_t)page * PAGE + at));
        at += length;
    }
}

/** Fills one page from the socket. 1: there may be more. */
static int
fill_page(int fd)
{
    uint32_t most = card.piece_bytes == 0 ? PAGE : card.piece_bytes;
    char byte;
    if (own.armed[fd].limited && own.armed[fd].left < most)
        most = own.armed[fd].left;
    if (own.free_count == 0) {
        const ssize_t waiting = recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
        if (waiting > 0) {
            card.shortages++;
            end_receive(fd, -ENOMEM);
            return 0;
        }
    }
    const uint32_t page = own.free_count == 0 ? 0 : own.free_pages[own.free_count - 1];
    unsigned char spare[PAGE];
    unsigned char *to = own.free_count == 0 ? spare : own.area + (size_t)page * PAGE;
    const ssize_t got = recv(fd, to, most, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            end_receive(fd, got == 0 ? 0 : -errno);
        return 0;
    }
    own.free_count--;
    card.bytes += (uint64_t)got;
    tell_pieces(fd, page, (uint32_t)got);
    own.armed[fd].left -= (uint32_t)got;
    if (own.armed[fd].limited && own.armed[fd].left == 0) {
        end_receive(fd, 0);
        return 0;
    }
    if (card.full_after != 0 && card.completions % (unsigned)card.full_after == 0) {
        end_receive(fd, -ENOSPC);
        return 0;
    }
    return 1;
}

static int
card_run(void)
{
    if (own.entries != NULL && !card.sated)
        card_collect();
    for (int fd = 0; fd < FDS; fd++) {
        if (own.armed[fd].token == 0)
            continue;
        if (own.armed[fd].cancelled)
            end_receive(fd, -ECANCELED);
        else if (card.receive_refused)
            end_receive(fd, card.receive_refused);
        else if (!card.silent)
            for (unsigned i = 0; i < 20 && fill_page(fd); i++)
                ;
    }
    return 0;
}

static void
look_at_receive(struct io_uring_sqe *submission)
{
    const int fd = submission->fd;
    ck_assert(fd >= 0 && fd < FDS);
    ck_assert_msg(own.armed[fd].token == 0, "two receives on descriptor %d", fd);
    ck_assert_uint_eq(submission->flags & IOSQE_BUFFER_SELECT, 0);
    ck_assert_uint_eq(submission->addr, 0);
    ck_assert_uint_eq(submission->off, 0);
    ck_assert_uint_eq(submission->addr3, 0);
    ck_assert_uint_eq(submission->msg_flags, 0);
    ck_assert_uint_eq(submission->buf_group, 0);
    ck_assert_uint_eq(submission->file_index, CARD_ID);
    ck_assert_uint_eq(submission->ioprio & ~IORING_RECVSEND_POLL_FIRST, IORING_RECV_MULTISHOT);
    own.armed[fd].token = submission->user_data;
    own.armed[fd].limited = submission->len != 0;
    own.armed[fd].left = submission->len;
    own.armed[fd].cancelled = 0;
    if (submission->len > card.limit_max)
        card.limit_max = submission->len;
    card.posted++;
    between_swallow(submission);
}

static void
look_at_submission(struct io_uring_sqe *submission)
{
    if (submission->opcode == BERTH_URING_OP_RECV_ZC) {
        look_at_receive(submission);
        return;
    }
    card.waits += submission->opcode == IORING_OP_TIMEOUT;
    if (submission->opcode == IORING_OP_RECV && card.mixed)
        between_refuse(submission, -EFAULT);
    if (submission->opcode != IORING_OP_ASYNC_CANCEL)
        return;
    for (int fd = 0; fd < FDS; fd++)
        if (own.armed[fd].token != 0 && own.armed[fd].token == submission->addr) {
            own.armed[fd].cancelled = 1;
            between_refuse(submission, 0);
            return;
        }
}

/* ---- the calls ------------------------------------------------------------------------------- */

static intptr_t
card_knows(struct io_uring *ring, int op)
{
    return op == BERTH_URING_OP_RECV_ZC ? 1 : sys_direct_uring_knows(ring, op);
}

/** A look at what the card has put into the area shows nothing. */
static intptr_t
card_recv(int fd, void *data, size_t size, int flags)
{
    return card.mixed ? -EFAULT : sys_direct_recv(fd, data, size, flags);
}

static intptr_t
card_interface_index(const char *name)
{
    return strcmp(name, CARD_NAME) == 0 ? 77 : -ENODEV;
}

static intptr_t
card_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    if (level != SOL_SOCKET || name != SO_INCOMING_NAPI_ID || card.napi == 0)
        return sys_direct_getsockopt(fd, level, name, value, size);
    memcpy(value, &card.napi, sizeof(card.napi));
    return 0;
}

/** What the kernel looks at before it registers anything. */
static void
check_registration(const struct berth_uring_zcrx_queue *queue,
                   const struct berth_uring_zcrx_area *area,
                   const struct berth_uring_region *region)
{
    static const struct berth_uring_zcrx_offsets none;
    const unsigned needed =
        IORING_SETUP_CQE32 | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER;
    ck_assert_uint_eq(between.init_flags & needed, needed);
    ck_assert_uint_eq(queue->interface, 77);
    ck_assert_uint_eq(queue->queue, CARD_QUEUE);
    ck_assert_uint_eq(queue->flags | queue->id | queue->buffer_bytes, 0);
    ck_assert_uint_le(queue->entries, 32768);
    ck_assert_uint_eq(queue->reserved[0] | queue->reserved[1] | queue->reserved[2], 0);
    ck_assert_mem_eq(&queue->offsets, &none, sizeof(none));
    ck_assert_uint_eq(area->address % PAGE | area->bytes % PAGE, 0);
    ck_assert_uint_eq(area->flags | area->dmabuf | area->token, 0);
    ck_assert_uint_eq(region->address % PAGE | region->bytes % PAGE, 0);
    ck_assert_uint_eq(region->flags, 1);
    ck_assert_uint_eq(region->id | region->offset, 0);
    ck_assert_uint_ge(region->bytes, ENTRIES_AT + (uint64_t)queue->entries * 16);
}

static intptr_t
card_register(struct io_uring *ring, unsigned op, void *argument, unsigned count)
{
    if (op != BERTH_URING_REGISTER_ZCRX_IFQ)
        return sys_direct_uring_register(ring, op, argument, count);
    struct berth_uring_zcrx_queue *queue = (struct berth_uring_zcrx_queue *)argument;
    struct berth_uring_zcrx_area *area = (struct berth_uring_zcrx_area *)(uintptr_t)queue->area;
    const struct berth_uring_region *region =
        (const struct berth_uring_region *)(uintptr_t)queue->region;
    ck_assert_uint_eq(count, 1);
    check_registration(queue, area, region);
    if (card.refuses)
        return card.refuses;
    card.registered++;
    if (card.entries_most != 0 && queue->entries > card.entries_most)
        queue->entries = card.entries_most;
    unsigned char *base = (unsigned char *)(uintptr_t)region->address;
    queue->offsets.head = HEAD_AT;
    queue->offsets.tail = TAIL_AT;
    queue->offsets.entries = ENTRIES_AT;
    queue->id = CARD_ID;
    area->token = CARD_TOKEN;
    own.area = (unsigned char *)(uintptr_t)area->address;
    own.head = (uint32_t *)(void *)(base + HEAD_AT);
    own.tail = (const uint32_t *)(const void *)(base + TAIL_AT);
    own.entries = (struct berth_uring_zcrx_entry *)(void *)(base + ENTRIES_AT);
    own.count = queue->entries;
    card.pages = (unsigned)(area->bytes / PAGE);
    ck_assert_uint_le(card.pages, PAGES_MAX);
    for (uint32_t page = card.pages; page-- > 0;)
        own.free_pages[own.free_count++] = page;
    return 0;
}

void
card_begin(void)
{
    memset(&card, 0, sizeof(card));
    memset(&own, 0, sizeof(own));
    between_begin();
    between.patience_ms = 1; /* the kernel does not know what comes by the card */
    between.on_submission = look_at_submission;
    between.on_wait = card_run;
    berth_sys_uring_knows = card_knows;
    berth_sys_interface_index = card_interface_index;
    berth_sys_getsockopt = card_getsockopt;
    berth_sys_recv = card_recv;
    berth_sys_uring_register = card_register;
}

void
card_options(struct berth_loop_options *options, unsigned area_mib)
{
    static char text[64];
    (void)snprintf(text, sizeof(text), "%s:%d:%u", CARD_NAME, CARD_QUEUE, area_mib);
    options->zcrx = text;
}

#endif
