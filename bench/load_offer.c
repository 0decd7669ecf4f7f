/*
 * The open loop: message number k of a schedule is due at start + k / rate, on connection k modulo
 * their number, whatever has become of those before. Nothing is queued: which messages are due and
 * unsent follows from how many the connection has sent, and its next is sent with its own due time.
 *
 * The program spins instead of sleeping until the next is due: a timer of the kernel, with its
 * slack and the way back from idle, would be in every latency.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <sched.h>

#include "load_internal.h"
#include "machine.h"

/** What came due in time is awaited for as long again, but no longer than this. */
#define DRAIN_NS_MAX UINT64_C(1000000000)

static uint64_t
due_ns(const struct load_schedule *schedule, uint64_t number)
{
    return schedule->start_ns + (uint64_t)((double)number * schedule->interval_ns);
}

/** The number in the schedule of the next message of a connection. */
static uint64_t
number_of(const struct load *load, uint32_t index)
{
    return (uint64_t)load->conns[index].offered * load->opened + index;
}

/** Sends the next message of a connection that waits for nothing. 0 or -errno. */
static int
offer(struct load *load, uint32_t index)
{
    const uint64_t due = due_ns(&load->schedule, number_of(load, index));
    load->conns[index].offered++;
    return load_send_next(load, index, due);
}

/**
 * Sends what has come due by now, on each connection that waits for nothing: the others will when
 * they are answered. 0 or -errno.
 */
static int
offer_due(struct load *load, uint64_t now)
{
    struct load_schedule *schedule = &load->schedule;
    while (schedule->next < schedule->count) {
        const uint64_t due = due_ns(schedule, schedule->next);
        const uint32_t index = schedule->next_conn;
        if (due > now)
            break;
        schedule->next++;
        schedule->next_conn = index + 1 < load->opened ? index + 1 : 0;
        if (load->conns[index].received < load->options.bytes)
            continue;
        if (schedule->late != NULL)
            histogram_add(schedule->late, now - due);
        const int error = offer(load, index);
        if (error != 0)
            return error;
        now = machine_now_ns();
    }
    return 0;
}

/** After an answer: a message that had to wait for it, and then whatever is due by now. */
static int
offer_next(struct load *load, uint32_t index, uint64_t now)
{
    if (number_of(load, index) < load->schedule.next) {
        const int error = offer(load, index);
        if (error != 0)
            return error;
    }
    return offer_due(load, now);
}

static int
turn(struct load *load, uint64_t now)
{
    int error = offer_due(load, now);
    if (error == 0)
        error = load_turn(load, 0);
    const int events = error;
    if (error >= 0 && load->options.beside != NULL)
        error = load->options.beside(load->options.context);
    if (error == 0 && events == 0 && load->options.yields)
        sched_yield();
    return error;
}

/** Enters what is still unanswered with the age it has: it took that long at least. */
static void
count_unanswered(struct load *load, struct histogram *latency, uint64_t now)
{
    const struct load_schedule *schedule = &load->schedule;
    for (uint32_t i = 0; i < load->opened; i++) {
        const struct load_conn *conn = &load->conns[i];
        if (conn->received < load->options.bytes)
            histogram_add(latency, now - conn->sent_ns);
        for (uint64_t n = number_of(load, i); n < schedule->count; n += load->opened)
            histogram_add(latency, now - due_ns(schedule, n));
    }
}

static void
begin(struct load *load, double per_second, uint64_t ns)
{
    load->schedule = (struct load_schedule){
        .start_ns = machine_now_ns(),
        .interval_ns = 1e9 / per_second,
        .count = (uint64_t)((double)ns * 1e-9 * per_second),
    };
    for (uint32_t i = 0; i < load->opened; i++)
        load->conns[i].offered = 0;
    load_listen(load, load->schedule.start_ns);
    load->follow = offer_next;
}

/** Goes on until all that was due has been answered, for `ns` at most. 0 or -errno. */
static int
drain(struct load *load, uint64_t ns, uint64_t answers, struct load_result *result)
{
    const uint64_t from = machine_now_ns();
    uint64_t now = from;
    int error = 0;
    while (error >= 0 && load->answered < answers && now - from < ns && !machine_interrupted) {
        error = turn(load, now);
        now = machine_now_ns();
    }
    if (error >= 0)
        count_unanswered(load, &result->latency, now);
    return error < 0 ? error : 0;
}

int
load_offer(struct load *load, double per_second, uint64_t ns, struct load_result *result)
{
    if (!(per_second > 0) || ns == 0)
        return -EINVAL;
    int error = load_settle(load);
    if (error != 0)
        return error;
    const uint64_t answered = load->answered, cpu_begin = machine_cpu_ns();
    begin(load, per_second, ns);
    uint64_t now = load->schedule.start_ns;
    if (result != NULL) {
        load->latency = &result->latency;
        load->schedule.late = &result->late;
    }
    while (error >= 0 && now - load->schedule.start_ns < ns && !machine_interrupted) {
        const uint64_t before = now;
        error = turn(load, before);
        now = machine_now_ns();
        if (result != NULL)
            histogram_add(&result->turns, now - before);
        if (error >= 0)
            error = load_silence(load, now);
    }
    if (result != NULL && error >= 0) {
        result->messages += load->answered - answered;
        result->wall_ns += now - load->schedule.start_ns;
        result->cpu_ns += machine_cpu_ns() - cpu_begin;
        error = drain(load, ns < DRAIN_NS_MAX ? ns : DRAIN_NS_MAX, answered + load->schedule.count,
                      result);
    }
    load->follow = NULL;
    load->latency = NULL;
    return error < 0 ? error : 0;
}
