/*
 * The pool against a simple model of itself: a million random operations, after each of which the
 * model knows what the answer must be, what every lease must read, and how much is out.
 *
 * The seed is printed; BERTH_SEED sets it, and BERTH_OPERATIONS how many there are. Illegal steps
 * are mixed in except under --enable-checks, where they abort (test_driver tries those one by one).
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool/model.h"

/* Under a checking tool each takes up to fifty times as long. */
#define OPERATIONS 1200000u
#define OPERATIONS_SLOW 120000u
#define VERIFY_EVERY 10000

struct model m;

uint32_t
random_below(uint32_t bound)
{
    return (uint32_t)(test_random(&m.random) >> 32) % bound;
}

unsigned char
byte_of(uint32_t seed, uint32_t at)
{
    return (unsigned char)(seed * 31 + at * 7 + (at >> 8));
}

static void
write_bytes(unsigned char *data, uint32_t seed, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++)
        data[i] = byte_of(seed, i);
}

struct record *
record_new(enum model_state state, uint32_t buffer, void *data)
{
    for (unsigned i = 0; i < RECORDS_MAX; i++) {
        if (m.records[i].state != GONE)
            continue;
        m.records[i] = (struct record){
            .state = state, .buffer = buffer, .seed = random_below(UINT32_MAX), .data = data};
        m.out++;
        return &m.records[i];
    }
    return NULL;
}

struct record *
record_pick(enum model_state state)
{
    const unsigned from = random_below(RECORDS_MAX);
    for (unsigned i = 0; i < RECORDS_MAX; i++) {
        struct record *record = &m.records[(from + i) % RECORDS_MAX];
        if (record->state == state)
            return record;
    }
    return NULL;
}

static void
over_add(struct berth_lease lease)
{
    m.over[m.over_count++ % 64] = lease;
}

void
record_unref(struct record *record, struct berth_lease lease)
{
    ck_assert_uint_gt(record->references, 0);
    if (--record->references > 0)
        return;
    if (record->state != BORROWED)
        over_add(lease);
    run_unref(record);
    if (record->state != BORROWED && record->holders == 0)
        record_gone(record);
}

void
record_gone(struct record *record)
{
    record->state = GONE;
    m.out--;
}

void
lease_add(struct record *record, struct berth_lease lease, uint32_t origin)
{
    ck_assert_uint_lt(m.lease_count, LEASES_MAX);
    record->references++;
    m.leases[m.lease_count++] = (struct held){.record = record, .lease = lease, .origin = origin};
}

void
lease_drop(unsigned index)
{
    m.leases[index] = m.leases[--m.lease_count];
}

void
lease_check(const struct held *held)
{
    const unsigned char *data = berth_lease_data(m.pool, held->lease);
    ck_assert_ptr_nonnull(data);
    const uint32_t length = held->lease.length;
    const uint32_t at = held->origin + held->lease.offset;
    ck_assert_uint_eq(data[0], byte_of(held->record->seed, at));
    ck_assert_uint_eq(data[length / 2], byte_of(held->record->seed, at + length / 2));
    ck_assert_uint_eq(data[length - 1], byte_of(held->record->seed, at + length - 1));
}

void
copy_add(struct berth_lease lease, uint32_t seed, uint32_t origin)
{
    struct record *copy = record_new(HELD, lease.buffer, berth_lease_data(m.pool, lease));
    ck_assert_ptr_nonnull(copy);
    copy->seed = seed;
    lease_add(copy, lease, origin);
}

int
room(void)
{
    return m.out < RECORDS_MAX - 8 && m.lease_count < LEASES_MAX - 8;
}

static enum berth_class
random_class(void)
{
    static const unsigned char often[] = {0, 0, 1, 1, 1, 1, 2, 2, 3, 4};
    return (enum berth_class)often[random_below(sizeof(often))];
}

/* ---- the operations ------------------------------------------------------------------------ */

static void
op_get(void)
{
    const enum berth_class size_class = random_class();
    const enum berth_purpose purpose = (enum berth_purpose)random_below(3);
    const int available = berth_pool_available(m.pool, size_class, purpose) > 0;
    struct berth_lease lease;
    const int error = berth_pool_get(m.pool, size_class, purpose, &lease);
    ck_assert_int_eq(error, available ? 0 : -ENOBUFS);
    if (error != 0)
        return;
    struct record *record = record_new(HELD, lease.buffer, berth_lease_data(m.pool, lease));
    ck_assert_ptr_nonnull(record);
    if (lease.length > LEASE_BYTES_MAX)
        lease.length = 1 + random_below(LEASE_BYTES_MAX);
    write_bytes(record->data, record->seed, lease.length);
    lease_add(record, lease, 0);
}

static void
op_post(void)
{
    const enum berth_class size_class = random_class();
    const enum berth_purpose purpose = (enum berth_purpose)random_below(3);
    const int available = berth_pool_available(m.pool, size_class, purpose) > 0;
    uint32_t buffer;
    void *data;
    const int error = berth_pool_post(m.pool, size_class, purpose, &buffer, &data);
    ck_assert_int_eq(error, available ? 0 : -ENOBUFS);
    if (error != 0)
        return;
    struct record *record = record_new(POSTED, buffer, data);
    ck_assert_ptr_nonnull(record);
    record->size = berth_class_bytes(size_class);
}

static void
op_lend(void)
{
    struct record *record = record_pick(POSTED);
    if (record == NULL)
        return;
    record->length = 1 + random_below(512);
    record->seed = random_below(UINT32_MAX);
    ck_assert_int_eq(berth_pool_expose(m.pool, record->buffer), 0);
    write_bytes(record->data, record->seed, record->length);
    ck_assert_int_eq(berth_pool_lend(m.pool, record->buffer, record->length, &record->span), 0);
    ck_assert_ptr_eq(record->span.data, record->data);
    record->state = BORROWED;
}

static void
op_retain(void)
{
    struct record *record = record_pick(BORROWED);
    if (record == NULL)
        return;
    if (record->run != 0) {
        op_retain_run(record);
        return;
    }
    const uint32_t offset = random_below(record->length);
    const uint32_t length = 1 + random_below(record->length - offset);
    const unsigned flags = random_below(2) ? BERTH_MAY_COPY : 0;
    struct berth_lease lease;
    ck_assert_int_eq(berth_retain(m.pool, &record->span, offset, length, flags, &lease), 0);
    ck_assert_uint_eq(lease.length, length);
    if (lease.buffer == record->buffer) {
        ck_assert_uint_eq(lease.offset, offset);
        lease_add(record, lease, 0);
        return;
    }
    ck_assert_uint_eq(flags, BERTH_MAY_COPY);
    copy_add(lease, record->seed, offset);
}

static void
op_settle(void)
{
    struct record *record = record_pick(BORROWED);
    if (record == NULL)
        return;
    const int free_again = record->references == 0 && record->holders == 0;
    ck_assert_int_eq(berth_pool_settle(m.pool, record->buffer), free_again);
    record->state = free_again ? POSTED : HELD;
    if (free_again)
        record->run = 0;
}

static void
op_unpost(void)
{
    struct record *record = record_pick(POSTED);
    if (record == NULL)
        return;
    ck_assert_int_eq(berth_pool_unpost(m.pool, record->buffer), 0);
    record->state = GONE;
    m.out--;
}

static void
op_share_or_slice(void)
{
    if (m.lease_count == 0)
        return;
    const struct held *held = &m.leases[random_below(m.lease_count)];
    lease_check(held);
    struct berth_lease lease = held->lease;
    if (random_below(2)) {
        ck_assert_int_eq(berth_lease_share(m.pool, lease), 0);
    } else {
        const uint32_t offset = random_below(lease.length);
        const uint32_t length = 1 + random_below(lease.length - offset);
        if (held->record->run != 0 && lease.offset + lease.length > held->record->size) {
            run_slice(held, offset, length);
            return;
        }
        ck_assert_int_eq(berth_slice(m.pool, held->lease, offset, length, &lease), 0);
        ck_assert_uint_eq(lease.offset, held->lease.offset + offset);
    }
    lease_add(held->record, lease, held->origin);
}

static void
op_send(void)
{
    if (m.lease_count == 0)
        return;
    struct held *held = &m.leases[random_below(m.lease_count)];
    lease_check(held);
    if (held->sending) {
        ck_assert_int_eq(berth_lease_send_end(m.pool, held->lease), 0);
        held->record->in_flight--;
    } else {
        ck_assert_int_eq(berth_lease_send_begin(m.pool, held->lease), 0);
        held->record->in_flight++;
    }
    held->sending = !held->sending;
}

static void
op_release(void)
{
    if (m.lease_count == 0)
        return;
    const unsigned index = random_below(m.lease_count);
    const struct held held = m.leases[index];
    if (held.sending)
        return;
    lease_check(&held);
    lease_drop(index);
    unsigned char *heap = held.record->heap;
    const int last = held.record->references == 1;
    const uint64_t freed = m.freed;
    record_unref(held.record, held.lease);
    ck_assert_int_eq(berth_release(m.pool, held.lease), 0);
    ck_assert_uint_eq(m.freed, freed + (heap != NULL && last));
}

static void
free_heap(void *data, size_t length, void *context)
{
    ck_assert_ptr_eq(context, &m);
    ck_assert_uint_ge(length, 1);
    m.freed++;
    free(data);
}

static void
op_wrap(void)
{
    const uint32_t length = 1 + random_below(300);
    unsigned char *heap = malloc(length);
    ck_assert_ptr_nonnull(heap);
    struct berth_lease lease;
    ck_assert_int_eq(berth_wrap(m.pool, heap, length, free_heap, &m, &lease), 0);
    struct record *record = record_new(HELD, lease.buffer, heap);
    ck_assert_ptr_nonnull(record);
    record->heap = heap;
    write_bytes(heap, record->seed, length);
    lease_add(record, lease, 0);
    m.wrapped++;
}

/* ---- pressure ------------------------------------------------------------------------------ */

#define WAITERS 8
static struct berth_waiter waiters[WAITERS];

static void
note_ready(struct berth_waiter *waiter, void *context)
{
    ck_assert_ptr_eq(context, &m);
    ck_assert_uint_ge(berth_pool_available(m.pool, waiter->size_class, waiter->purpose),
                      waiter->count);
    m.wakes++;
    m.waits_now--;
}

static void
op_wait(void)
{
    struct berth_waiter *waiter = &waiters[random_below(WAITERS)];
    if (random_below(3) == 0) {
        const int waits = waiter->pool != NULL;
        ck_assert_int_eq(berth_pool_wait_abort(waiter), waits ? 0 : -ENOENT);
        m.waits_now -= (unsigned)waits;
        return;
    }
    if (waiter->pool != NULL) {
        ck_assert_int_eq(berth_pool_wait(m.pool, waiter), -EALREADY);
        return;
    }
    *waiter = (struct berth_waiter){.ready = note_ready,
                                    .context = &m,
                                    .size_class = random_class(),
                                    .purpose = (enum berth_purpose)random_below(3),
                                    .count = 1 + random_below(4)};
    ck_assert_int_eq(berth_pool_wait(m.pool, waiter), 0);
    m.waits_now++;
}

static void
op_turn(void)
{
    ck_assert_uint_eq(berth_pool_turn(m.pool), 0);
}

static void
op_trim(void)
{
    if (random_below(50) != 0)
        return;
    const uint64_t before = test_pool_stats(m.pool).slab_bytes;
    const size_t given = berth_pool_trim(m.pool);
    ck_assert_uint_eq(test_pool_stats(m.pool).slab_bytes, before - given);
}

/** Now and then much is given back at once, so that slabs become empty. */
static void
op_ebb(void)
{
    if (random_below(400) != 0)
        return;
    for (unsigned i = m.lease_count * 4; i > 0; i--)
        op_release();
    for (unsigned i = 0; i < RECORDS_MAX; i++)
        op_unpost();
}

static void
op_illegal(void)
{
    if (TEST_CHECKS)
        return;
    struct berth_lease lease = {0};
    struct berth_span span;
    const struct record *record = record_pick(HELD);
    if (m.over_count > 0)
        lease = m.over[random_below(m.over_count < 64 ? m.over_count : 64)];
    ck_assert_ptr_null(berth_lease_data(m.pool, lease));
    ck_assert_int_eq(berth_release(m.pool, lease), -ESTALE);
    ck_assert_int_eq(berth_lease_share(m.pool, lease), -ESTALE);
    ck_assert_int_eq(berth_lease_send_begin(m.pool, lease), -ESTALE);
    m.illegal += 3;
    if (record != NULL) {
        ck_assert_int_eq(berth_pool_lend(m.pool, record->buffer, 1, &span), -ESTALE);
        ck_assert_int_eq(berth_pool_settle(m.pool, record->buffer), -ESTALE);
        ck_assert_int_eq(berth_pool_unpost(m.pool, record->buffer), -ESTALE);
        m.illegal += 3;
    }
    if (m.lease_count > 0) {
        const struct held *held = &m.leases[random_below(m.lease_count)];
        if (held->record->references == held->record->in_flight) {
            ck_assert_int_eq(berth_release(m.pool, held->lease), -ESTALE);
            m.illegal++;
        }
    }
}

/* ---- the test ------------------------------------------------------------------------------ */

static void
model_verify(void)
{
    test_pool_verify(m.pool);
    const struct berth_pool_stats stats = test_pool_stats(m.pool);
    ck_assert_uint_eq(stats.outstanding, m.out);
    ck_assert_uint_eq(stats.illegal, m.illegal);
    ck_assert_uint_eq(berth_pool_report(m.pool, NULL, NULL), m.out);
    for (unsigned i = 0; i < m.lease_count; i++)
        lease_check(&m.leases[i]);
}

static void
model_empty(void)
{
    for (unsigned i = 0; i < WAITERS; i++)
        (void)berth_pool_wait_abort(&waiters[i]);
    chain_empty();
    for (unsigned i = 0; i < m.lease_count; i++)
        if (m.leases[i].sending)
            ck_assert_int_eq(berth_lease_send_end(m.pool, m.leases[i].lease), 0);
    while (m.lease_count > 0) {
        m.leases[0].sending = 0;
        op_release();
    }
    for (unsigned i = 0; i < RECORDS_MAX; i++)
        op_settle();
    for (unsigned i = 0; i < RECORDS_MAX; i++)
        op_unpost();
    ck_assert_uint_eq(m.out, 0);
}

START_TEST(a_million_operations)
{
    static void (*const operations[])(void) = {
        op_get,    op_post,    op_post_run, op_lend,    op_lend,    op_lend_run,       op_retain,
        op_settle, op_settle,  op_settle,   op_unpost,  op_unpost,  op_share_or_slice, op_send,
        op_send,   op_release, op_release,  op_release, op_release, op_wrap,           op_append,
        op_append, op_pop,     op_consume,  op_pullup,  op_iovec,   op_clear,          op_wait,
        op_turn,   op_trim,    op_ebb,      op_illegal};
    const unsigned count = sizeof(operations) / sizeof(operations[0]);
    m.random = test_seed("pool model");
    m.pool = test_pool_make(9 * SLAB_BYTES); /* small enough to run out of */

    const uint64_t operations_max =
        test_rounds("BERTH_OPERATIONS", test_is_slow() ? OPERATIONS_SLOW : OPERATIONS);
    for (uint64_t i = 0; i < operations_max; i++) {
        const unsigned op = random_below(count);
        const int grows = operations[op] == op_get || operations[op] == op_post ||
                          operations[op] == op_post_run || operations[op] == op_lend_run ||
                          operations[op] == op_retain || operations[op] == op_wrap ||
                          operations[op] == op_share_or_slice || operations[op] == op_pop;
        if (!grows || room())
            operations[op]();
        if (i % VERIFY_EVERY == 0)
            model_verify();
    }
    model_verify();
    const struct berth_pool_stats stats = test_pool_stats(m.pool);
    printf("gets %llu, refused %llu, illegal %llu, wakes %llu, wrapped %llu, most out %llu\n",
           (unsigned long long)stats.gets, (unsigned long long)stats.refused,
           (unsigned long long)stats.illegal, (unsigned long long)m.wakes,
           (unsigned long long)m.wrapped, (unsigned long long)stats.outstanding_max);
    printf("runs %llu, leases of several of their buffers %llu, slices of those %llu\n",
           (unsigned long long)m.runs, (unsigned long long)m.run_leases,
           (unsigned long long)m.run_slices);
    /* It went where it should: into shortage, past waiters, through wrapped memory. */
    ck_assert_uint_gt(stats.refused, 100);
    ck_assert_uint_gt(m.wakes, 100);
    ck_assert_uint_gt(m.wrapped, 500);
    ck_assert_uint_gt(m.runs, 100);
    ck_assert_uint_gt(m.run_leases, 100);
    ck_assert_uint_gt(m.run_slices, 10);
    ck_assert_uint_gt(berth_pool_copies(m.pool)->received_compact, 500);
    ck_assert_uint_gt(berth_pool_copies(m.pool)->received_pullup, 500);
    model_empty();
    ck_assert_uint_eq(m.freed, m.wrapped);
    test_pool_end(m.pool);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pool model");
    TEST_ADD(suite, a_million_operations);
    return test_run(suite);
}
