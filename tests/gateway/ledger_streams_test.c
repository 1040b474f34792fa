/* The stream: what infer and format may not say, resuming, slow readers. */
#include "tests/gateway/ledger_world.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* --- refused: the job counts as failed by the stage, is cancelled there and tried again --- */

static void assert_bad(const struct world *world, uint32_t peer)
{
    assert_non_null(world_sent(world, peer, MSG_CANCEL, 0));
    assert_null(world_action(world, ACTION_END, 0));
    assert_null(world_action(world, ACTION_BYTES, 0));
}

struct nonsense {
    const char *what;
    struct head head;
    struct piece pieces[3];
};

static void say_nonsense(struct world *world, uint32_t peer, const struct msg *job,
                         const struct nonsense *nonsense)
{
    struct head head = nonsense->head;

    head.kind = MSG_RESULT;
    head.rid = job->head.rid;
    head.epoch = job->head.epoch;
    world_message(world, peer, &head, nonsense->pieces);
}

/* Each twice: the first time the job is tried again, the second time its request ends. */
static void refuse_all(bool from_format, const struct nonsense *cases, size_t n)
{

    for (size_t i = 0; i < n; i++) {
        struct world world;
        uint32_t peer = from_format ? FORMAT : INFER;

        world_line(&world, NULL);
        struct msg *job = from_format ? world_to_format(&world, 1, 2) : world_to_infer(&world, 1);
        say_nonsense(&world, peer, job, &cases[i]);
        assert_bad(&world, peer);
        world_free_msg(job);
        job = world_take(&world, peer, MSG_JOB);
        say_nonsense(&world, peer, job, &cases[i]);
        world_assert_end(&world, 1, STATUS_INTERNAL);
        if (!strstr(world_action(&world, ACTION_END, 0)->text, cases[i].what))
            fail_msg("'%s' does not say '%s'", world_action(&world, ACTION_END, 0)->text,
                     cases[i].what);
        world_free_msg(job);
        world_close(&world);
    }
}

static void test_tokens_that_make_no_sense(void **state)
{
    (void)state;
    // clang-format off
    const struct nonsense cases[] = {
        { "result 1; 0 was expected", { .seq = 1 }, { { .name = "tokens", .n = 1 } } },
        { "tokens from index 1", { .index = 1 }, { { .name = "tokens", .n = 1 } } },
        { "without tokens", { 0 }, { { 0 } } },
        { "without tokens", { 0 }, { { .name = "tokens", .n = 0 } } },
        { "one blob 'tokens'", { 0 }, { { .name = "token", .n = 1 } } },
        { "one blob 'tokens'", { 0 }, { { .name = "tokens", .text = "text" } } },
        { "one blob 'tokens'", { 0 }, { { .name = "tokens", .n = 1 }, { .name = "tokens", .n = 1 } } },
        { "token -7", { 0 }, { { .name = "tokens", .first = -7, .n = 1 } } },
    };
    // clang-format on
    refuse_all(false, cases, sizeof cases / sizeof cases[0]);
}

static void test_bytes_that_make_no_sense(void **state)
{
    (void)state;
    // clang-format off
    const struct nonsense cases[] = {
        { "result 2; 0 was expected", { .seq = 2, .upto = 1 }, { { .name = "bytes", .text = "a" } } },
        { "upto token 3", { .upto = 3 }, { { .name = "bytes", .text = "a" } } },
        { "belong to no token", { 0 }, { { .name = "bytes", .text = "a" } } },
        { "before the end", { .upto = 2, .last = true }, { { .name = "bytes", .text = "a" } } },
        { "one blob 'bytes'", { .upto = 1 }, { { .name = "tokens", .n = 1 } } },
        { "one blob 'bytes'", { .upto = 1 }, { { .name = "bytes", .n = 1 } } },
        { "one blob 'bytes'", { .upto = 1 }, { { .name = "bytes", .text = "a" }, { .name = "bytes", .text = "b" } } },
    };
    // clang-format on
    refuse_all(true, cases, sizeof cases / sizeof cases[0]);
}

static void test_more_tokens_than_allowed(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct ledger_event event = world_request(&world, 1);
    event.tokens_max = 3;
    world_admit(&world, event, world_text);
    struct msg *job = world_take(&world, ENCODE, MSG_JOB);
    world_result(&world, ENCODE, job, world_prompt);
    world_free_msg(job);
    job = world_take(&world, INFER, MSG_JOB);
    world_tokens(&world, INFER, job, 0, 0, 3, false);
    assert_null(world_sent(&world, INFER, MSG_CANCEL, 0));
    world_tokens(&world, INFER, job, 1, 3, 1, false);
    assert_bad(&world, INFER);
    world_free_msg(job);
    world_close(&world);
}

static void test_an_answer_must_cover_all_tokens(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *infer = world_to_infer(&world, 1);
    world_tokens(&world, INFER, infer, 0, 0, 2, true);
    struct msg *format = world_take(&world, FORMAT, MSG_JOB);
    struct msg *more = world_sent(&world, FORMAT, MSG_MORE_INPUT, 0);
    assert_true(more->head.last);
    assert_int_equal(more->head.index, 2);
    world_bytes(&world, FORMAT, format, 0, 1, "a", true);
    assert_bad(&world, FORMAT);
    world_free_msg(infer);
    world_free_msg(format);
    world_close(&world);
}

static void test_an_old_epoch_is_dropped_also_from_the_same_worker(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *old = world_to_infer(&world, 1);
    world_tokens(&world, INFER, old, 5, 0, 1, false); /* a gap: sent again, to the same */
    struct msg *now = world_take(&world, INFER, MSG_JOB);
    world_tokens(&world, INFER, old, 0, 0, 1, true);
    assert_int_equal(world.out.n, 0);
    world_tokens(&world, INFER, now, 0, 0, 1, true);
    assert_non_null(world_sent(&world, FORMAT, MSG_JOB, 0));
    world_free_msg(old);
    world_free_msg(now);
    world_close(&world);
}

/* --- resumed --- */

static void test_a_stream_goes_on_when_format_dies(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *infer = world_to_infer(&world, 1);
    world_tokens(&world, INFER, infer, 0, 0, 3, false);
    struct msg *format = world_take(&world, FORMAT, MSG_JOB);
    world_bytes(&world, FORMAT, format, 0, 2, "ab", false);
    world_gone(&world, FORMAT);
    assert_null(world_sent(&world, INFER, MSG_CANCEL, 0)); /* infer goes on untouched */
    world_tokens(&world, INFER, infer, 1, 3, 2, false);
    world_tokens(&world, INFER, infer, 2, 5, 0, true);
    world_hello(&world, FORMAT_2, "format", 1);
    struct msg *again = world_take(&world, FORMAT_2, MSG_JOB);
    assert_int_equal(again->head.skip, 2);
    assert_string_equal(world_names(again), "start tokens");
    assert_int_equal(again->head.blobs[1].dims[0], 5);
    struct msg *more = world_sent(&world, FORMAT_2, MSG_MORE_INPUT, 0);
    assert_true(more->head.last);
    assert_int_equal(more->head.seq, 0);
    assert_int_equal(more->head.index, 5);
    assert_int_equal(more->head.fields.size, 1);
    world_bytes(&world, FORMAT, format, 1, 3, "c", false); /* late */
    assert_null(world_action(&world, ACTION_BYTES, 0));
    world_bytes(&world, FORMAT_2, again, 0, 5, "cde.", true);
    world_assert_bytes(&world, "cde.", true);
    world_free_msg(infer);
    world_free_msg(format);
    world_free_msg(again);
    world_close(&world);
}

static void test_a_stream_goes_on_when_infer_dies(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *infer = world_to_infer(&world, 1);
    world_tokens(&world, INFER, infer, 0, 0, 2, false);
    struct msg *format = world_take(&world, FORMAT, MSG_JOB);
    world_gone(&world, INFER);
    assert_null(world_sent(&world, FORMAT, MSG_CANCEL, 0)); /* format goes on untouched */
    world_hello(&world, INFER_2, "infer", 1);
    struct msg *again = world_take(&world, INFER_2, MSG_JOB);
    assert_string_equal(world_names(again), "ids cuts tokens");
    const int32_t tokens[] = {100, 101};
    assert_memory_equal(blob_data(again->blobs[2]), tokens, sizeof tokens);
    world_tokens(&world, INFER_2, again, 0, 2, 1, false);
    struct msg *more = world_sent(&world, FORMAT, MSG_MORE_INPUT, 0);
    assert_int_equal(more->head.index, 2);
    assert_int_equal(more->head.epoch, format->head.epoch);
    world_free_msg(infer);
    world_free_msg(format);
    world_free_msg(again);
    world_close(&world);
}

static void hello_other_numerics(struct world *world, uint32_t peer)
{
    struct head head = world_hello_head(peer, "infer", 4);

    (void)snprintf(head.numerics, sizeof head.numerics, "other");
    world_message(world, peer, &head, NO_PIECES);
    world_credit(world, peer, 4);
}

static void test_a_stream_waits_for_its_numerics_and_ends_without(void **state)
{
    (void)state;
    struct ledger_config config = world_config();
    struct world world;

    config.beat_interval_us = 60000000;
    world_line(&world, &config);
    struct msg *infer = world_to_infer(&world, 1);
    world_tokens(&world, INFER, infer, 0, 0, 2, false);
    struct msg *format = world_take(&world, FORMAT, MSG_JOB);
    world_bytes(&world, FORMAT, format, 0, 1, "a", false);
    world_gone(&world, INFER);
    world_pass(&world, world.now_us + 20000000); /* nobody there at all: it waits */
    assert_null(world_action(&world, ACTION_END, 0));
    hello_other_numerics(&world, INFER_2);
    assert_null(world_sent(&world, INFER_2, MSG_JOB, 0));
    world_pass(&world, world.now_us + 20000000);
    world_assert_end(&world, 1, STATUS_UNAVAILABLE);
    assert_true(world_action(&world, ACTION_END, 0)->bytes_sent);
    assert_non_null(world_sent(&world, FORMAT, MSG_CANCEL, 0));
    world_free_msg(infer);
    world_free_msg(format);
    world_close(&world);
}

static void test_other_numerics_do_before_the_first_token_or_when_allowed(void **state)
{
    (void)state;
    struct ledger_config config = world_config();

    for (int allowed = 0; allowed < 2; allowed++) {
        struct world world;
        config.resume_any = allowed != 0;
        world_line(&world, &config);
        struct msg *infer = world_to_infer(&world, 1);
        if (allowed)
            world_tokens(&world, INFER, infer, 0, 0, 2, false);
        world_gone(&world, INFER);
        hello_other_numerics(&world, INFER_2);
        assert_non_null(world_sent(&world, INFER_2, MSG_JOB, 0));
        world_free_msg(infer);
        world_close(&world);
    }
}

/* --- slow readers --- */

static void unsent(struct world *world, uint64_t bytes)
{
    world_step(world, &(struct ledger_event){
                          .kind = EVENT_CLIENT_UNSENT, .rid = world_rid(1), .unsent_bytes = bytes});
}

static void test_a_slow_reader_is_paused_and_goes_on(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *infer = world_to_infer(&world, 1);
    world_tokens(&world, INFER, infer, 0, 0, 2, false);
    struct msg *format = world_take(&world, FORMAT, MSG_JOB);
    unsent(&world, world.config.unsent_max_bytes);
    assert_null(world_action(&world, ACTION_PAUSE, 0));
    unsent(&world, world.config.unsent_max_bytes + 1);
    assert_non_null(world_action(&world, ACTION_PAUSE, 0));
    world_bytes(&world, FORMAT, format, 0, 2, "ab", false); /* it had these coming */
    world_assert_bytes(&world, "ab", false);
    world_tokens(&world, INFER, infer, 1, 2, 1, false);
    world_tokens(&world, INFER, infer, 2, 3, 1, true);
    assert_int_equal(world.out.n, 0);
    unsent(&world, world.config.unsent_max_bytes / 2 + 1);
    assert_int_equal(world.out.n, 0);
    unsent(&world, world.config.unsent_max_bytes / 2);
    struct msg *more = world_sent(&world, FORMAT, MSG_MORE_INPUT, 0);
    assert_non_null(more);
    assert_int_equal(more->head.index, 2);
    assert_int_equal(more->head.blobs[0].dims[0], 2);
    assert_true(more->head.last);
    world_free_msg(infer);
    world_free_msg(format);
    world_close(&world);
}

static void test_a_reader_that_stays_slow_is_cancelled(void **state)
{
    (void)state;
    struct ledger_config config = world_config();
    struct world world;

    config.beat_interval_us = 60000000;
    world_line(&world, &config);
    struct msg *format = world_to_format(&world, 1, 2);
    unsent(&world, config.unsent_max_bytes + 1);
    world_pass(&world, world.now_us + config.pause_max_us - 1);
    assert_null(world_action(&world, ACTION_END, 0));
    world_pass(&world, world.now_us + 1);
    world_assert_end(&world, 1, STATUS_CANCELLED);
    assert_non_null(world_sent(&world, INFER, MSG_CANCEL, 0));
    assert_non_null(world_sent(&world, FORMAT, MSG_CANCEL, 0));
    world_free_msg(format);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens_that_make_no_sense),
        cmocka_unit_test(test_bytes_that_make_no_sense),
        cmocka_unit_test(test_more_tokens_than_allowed),
        cmocka_unit_test(test_an_answer_must_cover_all_tokens),
        cmocka_unit_test(test_an_old_epoch_is_dropped_also_from_the_same_worker),
        cmocka_unit_test(test_a_stream_waits_for_its_numerics_and_ends_without),
        cmocka_unit_test(test_a_stream_goes_on_when_format_dies),
        cmocka_unit_test(test_a_stream_goes_on_when_infer_dies),
        cmocka_unit_test(test_other_numerics_do_before_the_first_token_or_when_allowed),
        cmocka_unit_test(test_a_slow_reader_is_paused_and_goes_on),
        cmocka_unit_test(test_a_reader_that_stays_slow_is_cancelled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
