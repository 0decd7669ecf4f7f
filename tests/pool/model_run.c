/*
 * The model's runs: several buffers lent as one span, leases that reach from one into others, and
 * what keeps which of them.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/model.h"

#define RUN_MAX 12

/** Several at once, in order of addresses if they can be had so. */
void
op_post_run(void)
{
    const enum berth_class size_class = random_below(2) ? BERTH_CLASS_512 : BERTH_CLASS_4K;
    (void)berth_pool_tidy(m.pool, size_class);
    for (unsigned i = random_below(RUN_MAX); i > 0 && room(); i--) {
        uint32_t buffer;
        void *data;
        const int available = berth_pool_available(m.pool, size_class, BERTH_FOR_NEW) > 0;
        const int error = berth_pool_post(m.pool, size_class, BERTH_FOR_NEW, &buffer, &data);
        ck_assert_int_eq(error, available ? 0 : -ENOBUFS);
        if (error != 0)
            return;
        struct record *record = record_new(POSTED, buffer, data);
        ck_assert_ptr_nonnull(record);
        record->size = berth_class_bytes(size_class);
    }
}

/** The posted buffers that lie right behind that one, itself the first. Returns how many. */
static unsigned
run_find(struct record *first, struct record **run)
{
    const unsigned wanted = 1 + random_below(RUN_MAX);
    unsigned count = 1;
    run[0] = first;
    for (unsigned i = 0; i < RECORDS_MAX && count < wanted; i++) {
        struct record *record = &m.records[i];
        if (record->state != POSTED || record->size != first->size ||
            record->data != run[count - 1]->data + first->size ||
            record->buffer != run[count - 1]->buffer + 1)
            continue;
        run[count++] = record;
        i = 0;
    }
    return count;
}

static void
run_note(struct record **run, unsigned count, uint32_t length)
{
    m.runs++;
    for (unsigned i = 0; i < count; i++) {
        run[i]->run = m.runs;
        run[i]->place = i;
        run[i]->head = run[0];
        run[i]->behind = i + 1 < count ? run[i + 1] : NULL;
        run[i]->reach = 0;
        run[i]->holders = 0;
        run[i]->seed = run[0]->seed;
        run[i]->length = length;
        run[i]->state = BORROWED;
    }
}

/** A lease that begins in `record` and ends `end` bytes behind its start. */
static void
run_lease_add(struct record *record, struct berth_lease lease, uint32_t end)
{
    const uint32_t reach = (end - 1) / record->size;
    struct record *behind = record->behind;
    ck_assert_uint_eq(lease.buffer, record->buffer);
    for (uint32_t i = 1; i <= reach; i++, behind = behind->behind)
        behind->holders += i > record->reach;
    if (reach > record->reach)
        record->reach = reach;
    m.run_leases += reach > 0;
    lease_add(record, lease, record->place * record->size);
}

static struct record *
run_at(struct record *record, uint32_t places)
{
    for (; places > 0; places--)
        record = record->behind;
    return record;
}

void
op_retain_run(struct record *record)
{
    struct record *head = record->head;
    const struct record *in = head;
    for (uint32_t place = 0; place <= (record->length - 1) / record->size; place++) {
        if (in->run != record->run || in->state != BORROWED)
            return; /* settled: the callback has returned */
        in = in->behind;
    }
    const uint32_t offset = random_below(record->length);
    uint32_t length = 1 + random_below(record->length - offset);
    if (random_below(2) && length > LEASE_BYTES_MAX)
        length = 1 + random_below(LEASE_BYTES_MAX);
    const unsigned flags = random_below(2) ? BERTH_MAY_COPY : 0;
    struct berth_lease lease;
    ck_assert_int_eq(berth_retain(m.pool, &head->span, offset, length, flags, &lease), 0);
    ck_assert_uint_eq(lease.length, length);
    struct record *root = run_at(head, offset / head->size);
    if (lease.buffer == root->buffer) {
        ck_assert_uint_eq(lease.offset, offset % head->size);
        run_lease_add(root, lease, lease.offset + length);
    } else {
        ck_assert_uint_eq(flags, BERTH_MAY_COPY);
        copy_add(lease, head->seed, offset);
    }
}

void
op_lend_run(void)
{
    struct record *first = record_pick(POSTED), *run[RUN_MAX];
    if (first == NULL || first->size > 4096)
        return;
    const unsigned count = run_find(first, run);
    const uint32_t length = (count - 1) * first->size + 1 + random_below(first->size);
    first->seed = random_below(UINT32_MAX);
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(berth_pool_expose(m.pool, run[i]->buffer), 0);
    for (uint32_t i = 0; i < length; i++)
        first->data[i] = byte_of(first->seed, i);
    ck_assert_int_eq(berth_pool_lend_run(m.pool, first->buffer, length, &first->span), 0);
    ck_assert_ptr_eq(first->span.data, first->data);
    ck_assert_uint_eq(first->span.length, length);
    run_note(run, count, length);
    for (unsigned i = random_below(5); i > 0 && room(); i--)
        op_retain_run(first);
}

void
run_slice(const struct held *held, uint32_t offset, uint32_t length)
{
    const uint32_t at = held->lease.offset + offset;
    struct record *root = run_at(held->record, at / held->record->size);
    struct berth_lease slice;
    ck_assert_int_eq(berth_slice(m.pool, held->lease, offset, length, &slice), 0);
    ck_assert_uint_eq(slice.offset, at % root->size);
    ck_assert_uint_eq(slice.length, length);
    run_lease_add(root, slice, slice.offset + length);
    m.run_slices++;
}

void
run_unref(struct record *record)
{
    struct record *behind = record->behind;
    for (; record->run != 0 && record->reach > 0; record->reach--) {
        struct record *next = behind->behind;
        ck_assert_uint_gt(behind->holders, 0);
        if (--behind->holders == 0 && behind->references == 0 && behind->state == HELD)
            record_gone(behind);
        behind = next;
    }
}
