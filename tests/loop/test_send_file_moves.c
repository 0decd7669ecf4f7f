/*
 * Connections that are handed over to another loop with files in their queue: the file goes first,
 * whether it had begun or not, and so does what is queued behind it; then the connection goes, and
 * its stream continues in the other loop. From every engine to every engine.
 *
 * The invariants: each byte arrives once and in order; each descriptor is closed once (rig_end).
 *
 * SPDX-License-Identifier: MIT
 */
#include "loop/files.h"

#include "berth/loop_cross.h"
#include "support/faults.h"

#define FILE_BYTES (1u << 20)

/** A connection of `ends` that moves to another loop. */
struct moving {
    struct ends ends;
    struct berth_loop *to;
    int fd; /**< the file */
    unsigned moves;
    int error;
};

static void
has_moved(struct berth_loop *to, berth_token token, int error, void *ctx)
{
    struct moving *moving = (struct moving *)((char *)ctx - offsetof(struct moving, ends));
    moving->moves++;
    moving->error = error;
    if (error == 0)
        ck_assert_ptr_eq(to, moving->to);
    (void)token; /* what open is told is noted there */
}

static void
begin_move(struct moving *moving, const char *engine, const char *to)
{
    struct berth_loop_options options;
    memset(moving, 0, sizeof(*moving));
    start(&moving->ends, engine);
    moving->fd = make_file(3 * FILE_BYTES);
    rig_options(&options, to, NULL);
    ck_assert_int_eq(berth_loop_create(&moving->to, &options), 0);
}

static void
turn_both(struct moving *moving)
{
    (void)rig_turn(&moving->ends.rig, 0);
    ck_assert_int_ge(berth_loop_turn(moving->to, 1), 0);
}

/** Reads what was queued, while the connection moves. */
static void
read_moving(struct moving *moving)
{
    struct ends *ends = &moving->ends;
    for (unsigned idle = 0;
         (ends->read < ends->queued || moving->moves == 0 || ends->opens < 2) && idle < TURNS;
         idle++) {
        const intptr_t got = client_reads(ends, WAYS_BYTES_MAX);
        ck_assert_msg(got > 0 || got == -EAGAIN, "read: %s", strerror((int)-got));
        if (got > 0)
            idle = 0;
        turn_both(moving);
    }
    ck_assert_uint_eq(ends->read, ends->queued);
    ck_assert_uint_eq(moving->moves, 1);
    ck_assert_int_eq(moving->error, 0);
    ck_assert_uint_eq(ends->opens, 2);
    ck_assert_uint_eq(ends->closes, 0);
    ck_assert_uint_eq(berth_loop_conns(ends->rig.loop), 0);
    ck_assert_uint_eq(berth_loop_conns(moving->to), 1);
}

/** The stream goes on in the other loop, both ways. */
static void
go_on_there(struct moving *moving)
{
    struct ends *ends = &moving->ends;
    struct berth_conn *conn = berth_conn_find(moving->to, ends->token);
    ck_assert_ptr_nonnull(conn);
    const int fd = rig_conn_fd(conn);
    const int copy = copy_of(moving->fd);
    ck_assert_int_eq(fcntl(fd, F_GETFL, 0) & O_NONBLOCK, 0);
    ck_assert_int_eq(close(fd), 0);
    ck_assert_int_eq(berth_send(conn, ways_bytes(KEY_DOWN, ends->queued, 100), 100), 0);
    ends->queued += 100;
    ck_assert_int_eq(berth_send_file(conn, copy, ends->queued, 200000), 0);
    ends->queued += 200000;
    client_writes(ends, 10000);
    for (unsigned idle = 0;
         (ends->read < ends->queued || ends->received < ends->written) && idle < TURNS; idle++) {
        if (client_reads(ends, WAYS_BYTES_MAX) > 0)
            idle = 0;
        turn_both(moving);
    }
    ck_assert_uint_eq(ends->read, ends->queued);
    ck_assert_uint_eq(ends->received, ends->written);
}

static void
end_move(struct moving *moving)
{
    struct ends *ends = &moving->ends;
    struct berth_conn *conn = berth_conn_find(moving->to, ends->token);
    if (conn != NULL)
        ck_assert_int_eq(berth_conn_abort(conn), 0);
    ck_assert_int_eq(close(ends->client), 0);
    ck_assert_int_eq(close(moving->fd), 0);
    for (unsigned i = 0; i < TURNS && ends->closes == 0; i++)
        turn_both(moving);
    ck_assert_uint_eq(ends->closes, 1);
    ck_assert_int_eq(berth_loop_destroy(moving->to), 0);
    ways_end(&ends->rig);
}

static void
read_some(struct ends *ends, size_t bytes)
{
    for (unsigned turns = 0; ends->read < bytes && turns < 10 * TURNS; turns++) {
        (void)client_reads(ends, 10000);
        (void)rig_turn(&ends->rig, 0);
    }
    ck_assert_uint_ge(ends->read, bytes);
}

static void
move_it(struct moving *moving)
{
    struct berth_conn *conn = the_conn(&moving->ends);
    ck_assert_int_eq(berth_conn_move(conn, moving->to, &ends_callbacks, &moving->ends, has_moved),
                     0);
}

/** When it moves: its file has not begun; it has; and it is read into buffers, and has. */
enum moment { BEFORE, IN_THE_MIDDLE, COPIED, MOMENTS };

static void
moves(const char *engine, const char *to, enum moment moment)
{
    struct moving moving;
    struct ends *ends = &moving.ends;
    begin_move(&moving, engine, to);
    if (moment == COPIED)
        faults_fail("sendfile", 1, FAULTS_FOR_EVER, -EINVAL);
    send_part(ends, moving.fd, FILE_BYTES);
    if (moment != BEFORE)
        read_some(ends, 100000);
    client_writes(ends, 5000);
    move_it(&moving);
    send_copy(ends, 3000); /* behind it, and another one behind that */
    send_part(ends, moving.fd, 70000);
    send_copy(ends, 1);
    read_moving(&moving);
    faults_reset();
    go_on_there(&moving);
    end_move(&moving);
}

START_TEST(the_file_goes_first)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int to = 0; to < RIG_ENGINES; to++)
        for (int moment = BEFORE; moment < MOMENTS; moment++)
            if (rig_has(rig_engines[to]))
                moves(engine, rig_engines[to], (enum moment)moment);
}
END_TEST

/** The peer does not read: it stays in its loop, with its file, until somebody ends it. */
START_TEST(it_waits_for_its_peer)
{
    RIG_ENGINE_OR_RETURN(engine);
    for (int resets = 0; resets < 2; resets++) {
        struct moving moving;
        struct ends *ends = &moving.ends;
        begin_move(&moving, engine, engine);
        send_part(ends, moving.fd, 2 * FILE_BYTES);
        move_it(&moving);
        for (unsigned quiet = 0, turns = 0; quiet < 5; turns++) {
            ck_assert_uint_lt(turns, TURNS);
            quiet = rig_turn(&ends->rig, 20) > 0 ? 0 : quiet + 1;
        }
        ck_assert_uint_eq(moving.moves, 0);
        if (resets)
            ck_assert_int_eq(berth_conn_abort(the_conn(ends)), 0);
        else
            faults_fail("sendfile", 1, FAULTS_FOR_EVER, -EIO); /* its disk fails */
        for (unsigned i = 0; i < TURNS && ends->closes == 0; i++) {
            (void)client_reads(ends, 1000);
            (void)rig_turn(&ends->rig, 0);
        }
        faults_reset();
        ck_assert_uint_eq(moving.moves, 1);
        ck_assert_int_eq(moving.error, resets ? -ECANCELED : -EIO);
        ck_assert_int_eq(ends->reason, moving.error);
        end_move(&moving);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("loop send_file moves");
    RIG_ADD(suite, the_file_goes_first);
    RIG_ADD(suite, it_waits_for_its_peer);
    return test_run(suite);
}
