/* Workers: hello, silence, blame. */
#include "tests/gateway/ledger_world.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* --- hello --- */

static void refuse_hello(struct world *world, const struct head *head, enum status_code code,
                         const char *words)
{
    world_message(world, 40, head, NO_PIECES);
    const struct msg *refuse = world_sent(world, 40, MSG_REFUSE, 0);
    assert_non_null(refuse);
    assert_int_equal(refuse->head.code, code);
    if (!strstr(refuse->head.text, words))
        fail_msg("'%s' does not say '%s'", refuse->head.text, words);
    assert_null(world_sent(world, 40, MSG_WELCOME, 0));
    assert_int_equal(world_action(world, ACTION_FORGET, 0)->worker, 40);
}

static void test_a_hello_that_does_not_fit_is_refused_in_words(void **state)
{
    (void)state;
    struct world world;

    world_open(&world, NULL);
    struct head head = world_hello_head(40, "infer", 1);
    head.wire_min = head.wire_max = WIRE_VERSION + 1;
    refuse_hello(&world, &head, STATUS_UNSUPPORTED, "wire versions 2 to 2; this gateway speaks 1");
    head = world_hello_head(40, "paint", 1);
    refuse_hello(&world, &head, STATUS_NOT_FOUND, "no pipeline has a stage 'paint'");
    head = world_hello_head(40, "infer", 0);
    refuse_hello(&world, &head, STATUS_INVALID, "0 slots");
    head = world_hello_head(40, "infer", SLOTS_MAX + 1);
    refuse_hello(&world, &head, STATUS_INVALID, "slots");
    head = world_hello_head(40, "infer", 1);
    head.seat[0] = '\0';
    refuse_hello(&world, &head, STATUS_INVALID, "seat");

    struct head one = world_hello_head(ENCODE, "encode", 1);
    one.model = 0xabc;
    world_message(&world, ENCODE, &one, NO_PIECES);
    assert_int_equal(world_sent(&world, ENCODE, MSG_WELCOME, 0)->head.interval_ms, 200);
    head = world_hello_head(40, "infer", 1);
    head.model = 0xdef;
    refuse_hello(&world, &head, STATUS_DENIED, "model 0000000000000def; 'h/encode/2' has model");
    head.model = 0; /* does not care */
    world_message(&world, 40, &head, NO_PIECES);
    assert_non_null(world_sent(&world, 40, MSG_WELCOME, 0));
    world_close(&world);
}

static void test_who_has_not_said_hello_is_told_so(void **state)
{
    (void)state;
    struct world world;

    world_open(&world, NULL);
    for (int kind = 0; kind < MSG_KINDS; kind++) {
        struct head head = {.kind = (enum msg_kind)kind, .n = 1};
        if (kind == MSG_HELLO || kind == MSG_GONE || kind == MSG_BYE)
            continue;
        refuse_hello(&world, &head, STATUS_UNAVAILABLE, "say hello");
    }
    world_close(&world);
}

static void test_ready_means_each_stage_has_a_live_worker(void **state)
{
    (void)state;
    struct world world;
    const char *missing = NULL;

    world_line(&world, NULL);
    assert_true(ledger_ready(world.ledger, 0, &missing));
    assert_false(ledger_ready(world.ledger, 1, &missing));
    assert_string_equal(missing, "upper");
    world_message(&world, INFER, &(struct head){.kind = MSG_DRAIN}, NO_PIECES);
    assert_false(ledger_ready(world.ledger, 0, &missing));
    assert_string_equal(missing, "infer");
    world_close(&world);
}

/* --- silence --- */

static void test_three_beats_missed_no_new_jobs_ten_gone(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    world_message(&world, SUPERVISOR, &(struct head){.kind = MSG_HELLO, .stage = LEDGER_SUPERVISOR},
                  NO_PIECES);
    world_admit(&world, world_request(&world, 1), world_text);
    struct msg *first = world_take(&world, ENCODE, MSG_JOB);
    world_pass(&world, world.now_us + 3 * world.config.beat_interval_us);
    world_admit(&world, world_request(&world, 2), world_text);
    assert_null(world_sent(&world, ENCODE, MSG_JOB, 0));
    world_beat(&world, ENCODE, 1, 1); /* heard again */
    assert_non_null(world_sent(&world, ENCODE, MSG_JOB, 0));

    world_pass(&world, world.now_us + 10 * world.config.beat_interval_us - 1);
    struct ledger_counts counts;
    ledger_counts(world.ledger, &counts);
    assert_int_equal(counts.workers, 1);
    world_pass(&world, world.now_us + 1);
    ledger_counts(world.ledger, &counts);
    assert_int_equal(counts.workers, 0);
    const struct ledger_action *restart = world_action(&world, ACTION_RESTART, 0);
    assert_non_null(restart);
    assert_int_equal(restart->worker, SUPERVISOR);
    assert_int_equal(restart->msg->head.kind, MSG_GONE);
    assert_string_equal(restart->msg->head.seat, "h/encode/2");
    assert_int_equal(restart->msg->head.start, 50002);
    assert_int_equal(world_action(&world, ACTION_FORGET, 0)->worker, ENCODE);

    world_result(&world, ENCODE, first, world_prompt); /* late, and unknown by now */
    assert_non_null(world_sent(&world, ENCODE, MSG_REFUSE, 0));
    world_hello(&world, OTHER, "encode", 1);
    assert_non_null(world_sent(&world, OTHER, MSG_JOB, 0));
    world_free_msg(first);
    world_close(&world);
}

static void test_a_counter_that_stands_still_is_a_hang_only_with_work(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *infer = world_to_infer(&world, 1);
    world_tokens(&world, INFER, infer, 0, 0, 1, false);
    for (uint64_t i = 1; i < 50; i++) { /* format holds the stream, with nothing to do */
        world_pass(&world, world.now_us + world.config.beat_interval_us);
        assert_null(world_action(&world, ACTION_RESTART, 0));
        world_beat(&world, INGEST, 0, 0);
        world_beat(&world, ENCODE, 0, 0);
        world_beat(&world, FORMAT, 2, 1);
        world_beat(&world, INFER, i < 40 ? i : 40, 1);
    }
    world_pass(&world, world.now_us + world.config.beat_interval_us);
    const struct ledger_action *restart = world_action(&world, ACTION_RESTART, 0);
    assert_non_null(restart);
    assert_string_equal(restart->msg->head.seat, "h/infer/3");
    assert_null(world_action(&world, ACTION_RESTART, 1));
    world_beat(&world, FORMAT, 2, 1);

    /* But when it was told to let go of something, or has all of a stream, it must move. */
    world_step(&world, &(struct ledger_event){.kind = EVENT_CLIENT_GONE, .rid = world_rid(1)});
    for (uint64_t i = 1; i < 10; i++) {
        world_pass(&world, world.now_us + world.config.beat_interval_us);
        assert_null(world_action(&world, ACTION_RESTART, 0));
        world_beat(&world, INGEST, 0, 0);
        world_beat(&world, ENCODE, 0, 0);
        world_beat(&world, FORMAT, 2, 1);
    }
    world_pass(&world, world.now_us + world.config.beat_interval_us);
    restart = world_action(&world, ACTION_RESTART, 0);
    assert_non_null(restart);
    assert_string_equal(restart->msg->head.seat, "h/format/4");
    world_free_msg(infer);
    world_close(&world);
}

static void test_a_seat_with_another_start_ends_the_old_one(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    world_free_msg(world_to_infer(&world, 1));
    struct head head = world_hello_head(INFER, "infer", 1);
    head.start = 1;
    world_message(&world, INFER_2, &head, NO_PIECES);
    assert_int_equal(world_action(&world, ACTION_FORGET, 0)->worker, INFER);
    world_credit(&world, INFER_2, 1);
    assert_non_null(world_sent(&world, INFER_2, MSG_JOB, 0));

    struct head gone = {.kind = MSG_GONE, .start = 2};
    memcpy(gone.seat, head.seat, sizeof gone.seat);
    world_message(&world, SUPERVISOR, &gone, NO_PIECES); /* of a start long past */
    assert_null(world_action(&world, ACTION_FORGET, 0));
    gone.start = 1;
    world_message(&world, SUPERVISOR, &gone, NO_PIECES);
    assert_int_equal(world_action(&world, ACTION_FORGET, 0)->worker, INFER_2);
    world_close(&world);
}

static void test_a_worker_that_leaves_charges_nobody(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    world_free_msg(world_to_infer(&world, 1));
    for (uint32_t i = 0; i < 5; i++) {
        uint32_t peer = i == 0 ? INFER : 20 + i - 1;
        world_message(&world, peer, &(struct head){.kind = MSG_BYE}, NO_PIECES);
        assert_null(world_action(&world, ACTION_END, 0));
        world_hello(&world, 20 + i, "infer", 1);
        assert_non_null(world_sent(&world, 20 + i, MSG_JOB, 0));
    }
    world_close(&world);
}

static void test_a_worker_that_begins_anew_charges_nobody(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    world_free_msg(world_to_infer(&world, 1));
    for (int i = 0; i < 5; i++) {
        world_hello(&world, INFER, "infer", 1); /* the same process, with nothing in its hands */
        assert_non_null(world_sent(&world, INFER, MSG_JOB, 0));
        assert_null(world_action(&world, ACTION_END, 0));
        assert_null(world_action(&world, ACTION_FORGET, 0));
    }
    world_close(&world);
}

static void test_no_more_jobs_than_slots_whatever_credit_is_given(void **state)
{
    (void)state;
    struct world world;
    size_t sent = 0;

    world_open(&world, NULL);
    world_hello(&world, ENCODE, "encode", 2);
    world_credit(&world, ENCODE, SLOTS_MAX);
    for (unsigned i = 0; i < 5; i++) {
        world_admit(&world, world_request(&world, i), world_text);
        sent += world_sent(&world, ENCODE, MSG_JOB, 0) != NULL;
        world_credit(&world, ENCODE, SLOTS_MAX);
        sent += world_sent(&world, ENCODE, MSG_JOB, 0) != NULL;
    }
    assert_int_equal(sent, 2);
    world_close(&world);
}

/* --- lost on the way --- */

static void send_failed(struct world *world, uint32_t peer, const struct msg *msg)
{
    world_step(world, &(struct ledger_event){.kind = EVENT_SEND_FAILED,
                                             .worker = peer,
                                             .rid = msg->head.rid,
                                             .head = &msg->head});
}

static void test_what_could_not_be_sent_is_sent_again(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *infer = world_to_infer(&world, 1);
    send_failed(&world, INFER, infer);
    assert_int_equal(world.out.n, 0); /* it cannot be reached now */
    world_beat(&world, INFER, 1, 0);
    struct msg *again = world_take(&world, INFER, MSG_JOB);
    assert_true(again->head.epoch > infer->head.epoch);

    world_tokens(&world, INFER, again, 0, 0, 1, false);
    struct msg *format = world_take(&world, FORMAT, MSG_JOB);
    world_tokens(&world, INFER, again, 1, 1, 1, false);
    struct msg *more = world_take(&world, FORMAT, MSG_MORE_INPUT);
    send_failed(&world, FORMAT, more); /* a gap: from the beginning */
    assert_non_null(world_sent(&world, FORMAT, MSG_CANCEL, 0));
    world_beat(&world, FORMAT, 1, 0);
    struct msg *job = world_sent(&world, FORMAT, MSG_JOB, 0);
    assert_non_null(job);
    assert_int_equal(job->head.blobs[1].dims[0], 2);
    world_free_msg(infer);
    world_free_msg(again);
    world_free_msg(format);
    world_free_msg(more);
    world_close(&world);
}

static void test_a_cancel_that_was_lost_is_said_again(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *infer = world_to_infer(&world, 1);
    world_step(&world, &(struct ledger_event){.kind = EVENT_CLIENT_GONE, .rid = world_rid(1)});
    struct msg *cancel = world_take(&world, INFER, MSG_CANCEL);
    send_failed(&world, INFER, cancel);
    assert_int_equal(world.out.n, 0);
    world_beat(&world, INFER, 1, 1);
    assert_int_equal(world_sent(&world, INFER, MSG_CANCEL, 0)->head.epoch, infer->head.epoch);
    world_beat(&world, INFER, 2, 0);
    assert_int_equal(world.out.n, 0);
    world_free_msg(infer);
    world_free_msg(cancel);
    world_close(&world);
}

/* --- blame --- */

/* infer dies as long as it holds `poison`, here and when it is back; the others give two tokens
 * and end. Returns how often it died. */
static int run_with_poison(struct world *world, uint32_t *peer, struct msg **jobs, unsigned poison)
{
    int deaths = 0;

    while (world_requests(world) > 7 || jobs[poison]) {
        assert_true(deaths < 6);
        deaths++;
        for (unsigned i = 0; i < 8; i++) {
            if (jobs[i])
                world_free_msg(jobs[i]);
            jobs[i] = NULL;
        }
        world_gone(world, *peer);
        if (world_action(world, ACTION_END, 0))
            break;
        world_hello(world, ++*peer, "infer", 8);
        /* Whatever is sent next comes on its own, until the poison comes. */
        for (struct msg *msg = world_sent(world, *peer, MSG_JOB, 0); msg;
             msg = world_sent(world, *peer, MSG_JOB, 0)) {
            assert_null(world_sent(world, *peer, MSG_JOB, 1));
            msg = world_take(world, *peer, MSG_JOB);
            unsigned number = msg->head.rid.bytes[15];
            jobs[number] = msg;
            if (number == poison)
                break;
            world_tokens(world, *peer, msg, 0, 0, 1, false);
        }
    }
    return deaths;
}

static void test_one_poisonous_request_among_eight(void **state)
{
    (void)state;
    for (unsigned poison = 0; poison < 8; poison++) {
        struct world world;
        struct msg *jobs[8];
        uint32_t peer = INFER;

        world_line(&world, NULL);
        for (unsigned i = 0; i < 8; i++)
            jobs[i] = world_to_infer(&world, i);
        int deaths = run_with_poison(&world, &peer, jobs, poison);
        world_assert_end(&world, poison, STATUS_POISON);
        assert_true(deaths == (poison == 0 ? 3 : 4)); /* together, beside others, alone, alone */
        assert_int_equal(world_requests(&world), 7);

        /* Its input is remembered for a while. */
        struct ledger_event same = world_request(&world, 9);
        same.input_hash = 7000 + poison;
        world_admit(&world, same, world_text);
        world_assert_end(&world, 9, STATUS_POISON);
        world.now_us += world.config.poison_us;
        world_step(&world, &(struct ledger_event){.kind = EVENT_TICK});
        same = world_request(&world, 9);
        same.input_hash = 7000 + poison;
        world_admit(&world, same, world_text);
        assert_null(world_action(&world, ACTION_END, 0));
        world_close(&world);
    }
}

static void test_a_death_that_was_passed_is_forgiven(void **state)
{
    (void)state;
    struct world world;
    uint32_t index = 0;

    world_line(&world, NULL);
    struct msg *job = world_to_infer(&world, 1);
    for (uint32_t death = 1; death <= 5; death++) {
        world_gone(&world, death == 1 ? INFER : 20 + death - 1);
        assert_null(world_action(&world, ACTION_END, 0));
        world_hello(&world, 20 + death, "infer", 1);
        world_free_msg(job);
        job = world_take(&world, 20 + death, MSG_JOB);
        world_tokens(&world, 20 + death, job, 0, index++, 1, false);
    }
    world_gone(&world, 25); /* but not for ever */
    world_assert_end(&world, 1, STATUS_POISON);
    world_free_msg(job);
    world_close(&world);
}

static void test_a_lost_connection_is_nobody_s_fault(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    world_free_msg(world_to_infer(&world, 1));
    for (uint32_t i = 0; i < 5; i++) {
        world_pass(&world, world.now_us + 10 * world.config.beat_interval_us);
        assert_null(world_action(&world, ACTION_END, 0));
        world_hello(&world, 20 + i, "infer", 1);
        assert_non_null(world_sent(&world, 20 + i, MSG_JOB, 0));
    }
    world_close(&world);
}

static void test_a_suspect_that_must_be_alone_gets_a_worker_emptied(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *first = world_to_infer(&world, 1);
    world_hello(&world, INFER_2, "infer", 8);
    world_admit(&world, world_request(&world, 2), world_text);
    struct msg *encode = world_take(&world, ENCODE, MSG_JOB);
    world_result(&world, ENCODE, encode, world_prompt);
    struct msg *second = world_take(&world, INFER_2, MSG_JOB); /* it holds least */
    world_gone(&world, INFER);                                 /* the first was alone in it */
    assert_null(world_sent(&world, INFER_2, MSG_JOB, 0));
    world_credit(&world, ENCODE, 1);
    world_admit(&world, world_request(&world, 3), world_text);
    world_free_msg(encode);
    encode = world_take(&world, ENCODE, MSG_JOB);
    world_result(&world, ENCODE, encode, world_prompt);
    assert_null(world_sent(&world, INFER_2, MSG_JOB, 0)); /* newcomers wait for it */
    world_tokens(&world, INFER_2, second, 0, 0, 1, true);
    struct msg *suspect = world_take(&world, INFER_2, MSG_JOB);
    assert_true(rid_equal(suspect->head.rid, world_rid(1)));
    assert_null(world_sent(&world, INFER_2, MSG_JOB, 0));
    world_tokens(&world, INFER_2, suspect, 0, 0, 1, false); /* it was not it */
    assert_non_null(world_sent(&world, INFER_2, MSG_JOB, 0));
    world_free_msg(first);
    world_free_msg(second);
    world_free_msg(encode);
    world_free_msg(suspect);
    world_close(&world);
}

static void test_a_suspect_that_fails_in_words_is_none(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *job = world_to_infer(&world, 1);
    world_gone(&world, INFER);
    world_hello(&world, INFER_2, "infer", 4);
    world_free_msg(job);
    job = world_take(&world, INFER_2, MSG_JOB);
    world_no_capacity(&world, INFER_2, job);
    world_pass(&world, world.now_us + 50000);
    assert_non_null(world_sent(&world, INFER_2, MSG_JOB, 0));
    world_admit(&world, world_request(&world, 2), world_text); /* need not wait for it */
    struct msg *encode = world_take(&world, ENCODE, MSG_JOB);
    world_result(&world, ENCODE, encode, world_prompt);
    assert_non_null(world_sent(&world, INFER_2, MSG_JOB, 0));
    world_free_msg(job);
    world_free_msg(encode);
    world_close(&world);
}

/* Else whoever comes and goes as one uses up the numbers of the bus. */
static void test_a_supervisor_s_number_is_free_when_another_comes(void **state)
{
    struct world world;
    struct head hello = {.kind = MSG_HELLO, .stage = LEDGER_SUPERVISOR};
    struct head gone = {.kind = MSG_GONE, .seat = "h/nobody/1", .start = 1};

    (void)state;
    world_line(&world, NULL);
    world_message(&world, SUPERVISOR, &hello, NO_PIECES);
    assert_null(world_action(&world, ACTION_FORGET, 0));
    world_message(&world, SUPERVISOR, &gone, NO_PIECES);
    assert_null(world_action(&world, ACTION_FORGET, 0));
    world_message(&world, 100, &hello, NO_PIECES);
    assert_int_equal(world_action(&world, ACTION_FORGET, 0)->worker, SUPERVISOR);
    world_message(&world, 101, &gone, NO_PIECES);
    assert_int_equal(world_action(&world, ACTION_FORGET, 0)->worker, 100);
    world_message(&world, INFER, &hello, NO_PIECES); /* a worker that says so keeps its number */
    assert_int_equal(world_action(&world, ACTION_FORGET, 0)->worker, 101);
    world_message(&world, 102, &hello, NO_PIECES);
    assert_null(world_action(&world, ACTION_FORGET, 0));
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_hello_that_does_not_fit_is_refused_in_words),
        cmocka_unit_test(test_who_has_not_said_hello_is_told_so),
        cmocka_unit_test(test_ready_means_each_stage_has_a_live_worker),
        cmocka_unit_test(test_three_beats_missed_no_new_jobs_ten_gone),
        cmocka_unit_test(test_a_counter_that_stands_still_is_a_hang_only_with_work),
        cmocka_unit_test(test_a_seat_with_another_start_ends_the_old_one),
        cmocka_unit_test(test_a_worker_that_leaves_charges_nobody),
        cmocka_unit_test(test_a_worker_that_begins_anew_charges_nobody),
        cmocka_unit_test(test_no_more_jobs_than_slots_whatever_credit_is_given),
        cmocka_unit_test(test_what_could_not_be_sent_is_sent_again),
        cmocka_unit_test(test_a_cancel_that_was_lost_is_said_again),
        cmocka_unit_test(test_one_poisonous_request_among_eight),
        cmocka_unit_test(test_a_death_that_was_passed_is_forgiven),
        cmocka_unit_test(test_a_lost_connection_is_nobody_s_fault),
        cmocka_unit_test(test_a_suspect_that_must_be_alone_gets_a_worker_emptied),
        cmocka_unit_test(test_a_suspect_that_fails_in_words_is_none),
        cmocka_unit_test(test_a_supervisor_s_number_is_free_when_another_comes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
