/* The ledger, one story a test: what it refuses, and how a request goes through the line. */
#include "tests/gateway/ledger_world.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { INGEST = 1, ENCODE, INFER, FORMAT, INFER_2, FORMAT_2, OTHER };

static const struct piece text_in[] = {{.name = "turns", .text = "T"}, {0}};
static const struct piece prompt[] = {{.name = "ids", .first = 1, .n = 3},
                                      {.name = "cuts", .first = 1, .n = 1},
                                      {.name = "start", .text = "0"},
                                      {0}};

static void open_line(struct world *world)
{
    struct ledger_config config = world_config();

    world_open(world, &config);
    world_hello(world, INGEST, "ingest", 4);
    world_hello(world, ENCODE, "encode", 4);
    world_hello(world, INFER, "infer", 8);
    world_hello(world, FORMAT, "format", 8);
}

/* Admit request `number` and bring it to infer; its job there. */
static struct msg *to_infer(struct world *world, unsigned number)
{
    world_admit(world, world_request(world, number), text_in);
    struct msg *job = world_take(world, ENCODE, MSG_JOB);
    world_result(world, ENCODE, job, prompt);
    world_free_msg(job);
    job = world_take(world, INFER, MSG_JOB);
    world_credit(world, ENCODE, 1);
    return job;
}

static void assert_end(const struct world *world, unsigned number, enum status_code code)
{
    const struct ledger_action *end = world_action(world, ACTION_END, 0);

    assert_non_null(end);
    assert_int_equal(end->code, code);
    assert_true(rid_equal(end->rid, world_rid(number)));
    assert_null(world_action(world, ACTION_END, 1));
}

static void assert_bytes(const struct world *world, const char *text, bool last)
{
    const struct ledger_action *action = world_action(world, ACTION_BYTES, 0);

    assert_non_null(action);
    assert_int_equal(blob_size(action->bytes), strlen(text));
    assert_memory_equal(blob_data(action->bytes), text, strlen(text));
    assert_int_equal(action->last, last);
    assert_null(world_action(world, ACTION_BYTES, 1));
}

static size_t count_requests(const struct world *world)
{
    struct ledger_counts counts;

    ledger_counts(world->ledger, &counts);
    return counts.requests;
}

static void test_a_text_request_goes_through(void **state)
{
    (void)state;
    struct world world;

    open_line(&world);
    world_admit(&world, world_request(&world, 1), text_in);
    assert_null(world_sent(&world, INGEST, MSG_JOB, 0)); /* no media: passed over */
    struct msg *encode = world_take(&world, ENCODE, MSG_JOB);
    assert_string_equal(world_names(encode), "turns");
    assert_int_equal(encode->head.ms_left, 60000);
    assert_int_equal(encode->head.fields.size, 1);

    world_result(&world, ENCODE, encode, prompt);
    struct msg *infer = world_take(&world, INFER, MSG_JOB);
    assert_string_equal(world_names(infer), "ids cuts");

    world_tokens(&world, INFER, infer, 0, 0, 2, false);
    struct msg *format = world_take(&world, FORMAT, MSG_JOB);
    assert_string_equal(world_names(format), "start tokens");
    assert_int_equal(format->head.skip, 0);
    assert_int_equal(format->head.blobs[1].dims[0], 2);
    world_bytes(&world, FORMAT, format, 0, 2, "ab", false);
    assert_bytes(&world, "ab", false);

    world_tokens(&world, INFER, infer, 1, 2, 1, false);
    struct msg *more = world_sent(&world, FORMAT, MSG_MORE_INPUT, 0);
    assert_non_null(more);
    assert_int_equal(more->head.seq, 0);
    assert_int_equal(more->head.index, 2);
    assert_int_equal(more->head.epoch, format->head.epoch);
    assert_false(more->head.last);
    int32_t token = 0;
    memcpy(&token, blob_data(more->blobs[0]), sizeof token);
    assert_int_equal(token, 102);

    world_tokens(&world, INFER, infer, 2, 3, 0, true);
    more = world_sent(&world, FORMAT, MSG_MORE_INPUT, 0);
    assert_int_equal(more->head.seq, 1);
    assert_true(more->head.last);
    assert_int_equal(more->head.n_blobs, 0);
    assert_int_equal(more->head.fields.size, 1);
    world_bytes(&world, FORMAT, format, 1, 3, "c!", true);
    assert_bytes(&world, "c!", true);
    assert_int_equal(count_requests(&world), 0);
    world_free_msg(encode);
    world_free_msg(infer);
    world_free_msg(format);
    world_close(&world);
}

static void test_a_client_that_leaves_sets_off_cancels(void **state)
{
    (void)state;
    struct world world;

    open_line(&world);
    struct msg *infer = to_infer(&world, 1);
    world_tokens(&world, INFER, infer, 0, 0, 1, false);
    struct msg *format = world_take(&world, FORMAT, MSG_JOB);
    world_step(&world, &(struct ledger_event){.kind = EVENT_CLIENT_GONE, .rid = infer->head.rid});
    struct msg *cancel = world_sent(&world, INFER, MSG_CANCEL, 0);
    assert_non_null(cancel);
    assert_int_equal(cancel->head.epoch, infer->head.epoch);
    assert_non_null(world_sent(&world, FORMAT, MSG_CANCEL, 0));
    assert_null(world_action(&world, ACTION_END, 0));
    assert_int_equal(count_requests(&world), 0);

    /* What still comes is late; what goes on is told again. */
    world_tokens(&world, INFER, infer, 1, 1, 1, false);
    assert_int_equal(world.out.n, 1);
    assert_non_null(world_sent(&world, INFER, MSG_CANCEL, 0));
    world_bytes(&world, FORMAT, format, 0, 1, "a", true);
    assert_int_equal(world.out.n, 0);
    world_free_msg(infer);
    world_free_msg(format);
    world_close(&world);
}

static void test_a_dead_worker_s_job_is_sent_again(void **state)
{
    (void)state;
    struct world world;

    open_line(&world);
    world_admit(&world, world_request(&world, 1), text_in);
    struct msg *first = world_take(&world, ENCODE, MSG_JOB);
    world_gone(&world, ENCODE);
    assert_non_null(world_action(&world, ACTION_FORGET, 0));
    world_hello(&world, OTHER, "encode", 1);
    struct msg *second = world_take(&world, OTHER, MSG_JOB);
    assert_string_equal(world_names(second), "turns");
    assert_true(second->head.epoch > first->head.epoch);

    world_result(&world, OTHER, first, prompt); /* of the old epoch */
    assert_null(world_sent(&world, INFER, MSG_JOB, 0));
    world_result(&world, OTHER, second, prompt);
    assert_non_null(world_sent(&world, INFER, MSG_JOB, 0));
    world_free_msg(first);
    world_free_msg(second);
    world_close(&world);
}

static void test_a_request_s_own_fault_ends_it(void **state)
{
    (void)state;
    struct world world;

    open_line(&world);
    world_admit(&world, world_request(&world, 1), text_in);
    struct msg *job = world_take(&world, ENCODE, MSG_JOB);
    struct head head = {.kind = MSG_FAILED,
                        .rid = job->head.rid,
                        .epoch = job->head.epoch,
                        .code = STATUS_TOO_LARGE,
                        .fault = FAULT_REQUEST,
                        .text = "the prompt has 9 tokens of 8"};
    world_message(&world, ENCODE, &head, NO_PIECES);
    assert_end(&world, 1, STATUS_TOO_LARGE);
    assert_string_equal(world_action(&world, ACTION_END, 0)->text, head.text);
    assert_false(world_action(&world, ACTION_END, 0)->bytes_sent);
    assert_int_equal(count_requests(&world), 0);
    world_free_msg(job);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_request_s_own_fault_ends_it),
        cmocka_unit_test(test_a_text_request_goes_through),
        cmocka_unit_test(test_a_client_that_leaves_sets_off_cancels),
        cmocka_unit_test(test_a_dead_worker_s_job_is_sent_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
