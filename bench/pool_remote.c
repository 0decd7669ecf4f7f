/*
 * One thread takes a batch, hands it over, the other gives it back, and the owner takes in what has
 * come back. The three follow each other and are timed apart, so that waiting for the other thread
 * is in none of them; the lines that travel from core to core because of it are.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pool_remote.h"

#include <errno.h>
#include <pthread.h>

#include "bench.h"
#include "machine.h"
#include "pool_ways.h"

/** A step that took longer than this was off its CPU meanwhile: the batch does not count. */
#define STEP_NS_MAX 1000000u

enum turn { OWNERS, OTHERS, OVER };

/** What the two hand to and fro, and what the other one tells. */
struct handover {
    enum turn turn;
    const struct pool_way *way;
    uint64_t give_ns; /**< of the last batch */
    int cpu;
    int error;
};

static enum turn
turn_of(const struct handover *handover)
{
    return __atomic_load_n(&handover->turn, __ATOMIC_ACQUIRE);
}

static void
pass_turn(struct handover *handover, enum turn turn)
{
    __atomic_store_n(&handover->turn, turn, __ATOMIC_RELEASE);
}

static void *
run_other(void *argument)
{
    struct handover *handover = argument;
    handover->error = machine_pin(handover->cpu);
    pass_turn(handover, OWNERS);
    for (;;) {
        enum turn turn;
        while ((turn = turn_of(handover)) == OWNERS)
            ;
        if (turn == OVER)
            return NULL;
        const uint64_t begin = machine_now_ns();
        handover->way->give();
        handover->give_ns = machine_now_ns() - begin;
        pass_turn(handover, OWNERS);
    }
}

struct sums {
    uint64_t batches, take_ns, give_ns, turn_ns;
};

static void
run_batch(struct handover *handover, struct sums *sums)
{
    const struct pool_way *way = handover->way;
    const uint64_t begin = machine_now_ns();
    way->take();
    const uint64_t taken = machine_now_ns();
    pass_turn(handover, OTHERS);
    while (turn_of(handover) != OWNERS)
        ;
    const uint64_t given = machine_now_ns();
    if (way->turn != NULL)
        way->turn();
    const uint64_t end = way->turn != NULL ? machine_now_ns() : given;
    if (taken - begin > STEP_NS_MAX || handover->give_ns > STEP_NS_MAX || end - given > STEP_NS_MAX)
        return;
    sums->batches++;
    sums->take_ns += taken - begin;
    sums->give_ns += handover->give_ns;
    sums->turn_ns += end - given;
}

int
pool_remote_measure(struct bench *bench, const struct bench_subject *subject, double *metrics)
{
    struct handover handover = {
        .turn = OTHERS, .way = subject->context, .cpu = bench->environment.cpu_server};
    struct sums sums = {0, 0, 0, 0};
    pthread_t other;
    if (handover.way->prepare != NULL)
        handover.way->prepare();
    const int error = pthread_create(&other, NULL, run_other, &handover);
    if (error != 0)
        return -error;
    while (turn_of(&handover) != OWNERS)
        ;
    const uint64_t end = machine_now_ns() + (uint64_t)(bench->options.seconds * 1e9);
    while (handover.error == 0 && machine_now_ns() < end && !machine_interrupted)
        run_batch(&handover, &sums);
    pass_turn(&handover, OVER);
    pthread_join(other, NULL);
    if (handover.error != 0)
        return handover.error;
    if (sums.batches == 0)
        return 0; /* never both on their CPUs: nothing measured in this round */
    const double operations = (double)sums.batches * POOL_BATCH;
    metrics[POOL_REMOTE_TAKE_NS] = (double)sums.take_ns / operations;
    metrics[POOL_REMOTE_GIVE_NS] = (double)sums.give_ns / operations;
    metrics[POOL_REMOTE_TURN_NS] = (double)sums.turn_ns / operations;
    metrics[POOL_REMOTE_NS] = (double)(sums.take_ns + sums.give_ns + sums.turn_ns) / operations;
    return 0;
}
