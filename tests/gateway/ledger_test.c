/* The ledger, one story a test: what it refuses, and how a request goes through the line. */
#include "tests/gateway/ledger_world.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* --- refused --- */

static void refuse_pipeline(const char *name, const char *const *stages, size_t n,
                            enum status_code code, const char *words)
{
    struct ledger_config config = world_config();
    struct status st = {0};

    assert_false(ledger_config_pipeline(&config, name, stages, n, &st));
    assert_int_equal(st.code, code);
    if (!strstr(st.text, words))
        fail_msg("'%s' does not say '%s'", st.text, words);
    assert_int_equal(config.n_pipelines, 2);
}

static void test_pipelines_that_cannot_work_are_refused(void **state)
{
    (void)state;
    const char *const chat[] = {"ingest", "encode", "infer", "format"};
    const char *const alone[] = {"encode", "infer"};
    const char *const apart[] = {"encode", "infer", "check", "format"};
    const char *const bare[] = {"encode", "format"};
    const char *const after[] = {"encode", "infer", "format", "more"};
    const char *const twice[] = {"check", "check"};
    const char *const empty[] = {""};
    const char *const own[] = {"supervisor"};
    const char *const end[] = {"check", "ingest"};
    const char *const longest[] = {"a-name-of-a-stage-that-is-far-too-long"};
    const char *const many[LEDGER_PIPELINE_STAGES_MAX + 1] = {"a", "b", "c", "d", "e",
                                                              "f", "g", "h", "i"};

    refuse_pipeline("", chat, 4, STATUS_INVALID, "empty");
    refuse_pipeline("chat", chat, 4, STATUS_INVALID, "twice");
    refuse_pipeline("x", chat, 0, STATUS_LIMIT, "0 stages");
    refuse_pipeline("x", many, 9, STATUS_LIMIT, "9 stages");
    refuse_pipeline("x", alone, 2, STATUS_INVALID, "'infer' cannot be the last");
    refuse_pipeline("x", apart, 4, STATUS_INVALID, "'check' cannot follow 'infer'");
    refuse_pipeline("x", bare, 2, STATUS_INVALID, "'format' cannot follow 'encode'");
    refuse_pipeline("x", after, 4, STATUS_INVALID, "'more' cannot follow 'format'");
    refuse_pipeline("x", twice, 2, STATUS_INVALID, "'check' is there twice");
    refuse_pipeline("x", empty, 1, STATUS_INVALID, "empty");
    refuse_pipeline("x", own, 1, STATUS_INVALID, "no stage");
    refuse_pipeline("x", end, 2, STATUS_INVALID, "'ingest' cannot be the last");
    refuse_pipeline("x", longest, 1, STATUS_INVALID, "longer than 31");
}

static void test_stages_of_all_pipelines_are_limited(void **state)
{
    (void)state;
    struct ledger_config config = ledger_config_default();
    struct status st = {0};
    char names[24][4];
    const char *stages[8];

    for (size_t p = 0; p < 3; p++) {
        for (size_t i = 0; i < 8; i++) {
            (void)snprintf(names[8 * p + i], sizeof names[0], "s%zu", 8 * p + i);
            stages[i] = names[8 * p + i];
        }
        (void)snprintf(names[0], sizeof names[0], "s0");
        char name[4] = {'p', (char)('0' + p), '\0'};
        assert_int_equal(ledger_config_pipeline(&config, name, stages, 8, &st), p < 2);
    }
    assert_int_equal(st.code, STATUS_LIMIT);
}

static void test_requests_beyond_count_and_memory_are_refused(void **state)
{
    (void)state;
    struct world world;

    world_open(&world, NULL);
    for (unsigned i = 0; i < 15; i++)
        world_admit(&world, world_request(&world, i), world_text);
    struct ledger_event large = world_request(&world, 15);
    large.reserve_bytes = world.config.memory_max_bytes - 14999;
    world_admit(&world, large, world_text);
    world_assert_end(&world, 15, STATUS_BUSY);
    assert_true(world_action(&world, ACTION_END, 0)->retry_after_s >= 1);
    assert_int_equal(world_requests(&world), 15);
    large.reserve_bytes--;
    world_admit(&world, large, world_text);
    assert_null(world_action(&world, ACTION_END, 0));
    world_admit(&world, world_request(&world, 16), world_text);
    world_assert_end(&world, 16, STATUS_BUSY);
    assert_int_equal(world_requests(&world), 16);
    world_close(&world);
}

static void test_a_stopping_gateway_takes_no_requests(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *infer = world_to_infer(&world, 1);
    world_step(&world, &(struct ledger_event){.kind = EVENT_DRAIN});
    world_admit(&world, world_request(&world, 2), world_text);
    world_assert_end(&world, 2, STATUS_UNAVAILABLE);
    world_tokens(&world, INFER, infer, 0, 0, 1, true); /* what is held is finished */
    assert_non_null(world_sent(&world, FORMAT, MSG_JOB, 0));
    world_free_msg(infer);
    world_close(&world);
}

static void test_no_time_and_too_many_parts_are_refused(void **state)
{
    (void)state;
    struct world world;
    struct piece parts[BLOBS_MAX + 1] = {{0}};

    world_open(&world, NULL);
    for (size_t i = 0; i < LEDGER_BLOBS_MAX + 1; i++)
        parts[i] = (struct piece){.name = "image", .text = "I"};
    world_admit(&world, world_request(&world, 1), parts);
    world_assert_end(&world, 1, STATUS_LIMIT);
    struct ledger_event late = world_request(&world, 2);
    late.deadline_us = world.now_us;
    world_admit(&world, late, world_text);
    world_assert_end(&world, 2, STATUS_DEADLINE);
    assert_int_equal(world_requests(&world), 0);
    world_close(&world);
}

/* --- through the line --- */

static void test_a_text_request_goes_through(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    world_admit(&world, world_request(&world, 1), world_text);
    assert_null(world_sent(&world, INGEST, MSG_JOB, 0)); /* no media: passed over */
    struct msg *encode = world_take(&world, ENCODE, MSG_JOB);
    assert_string_equal(world_names(encode), "turns");
    assert_int_equal(encode->head.ms_left, 60000);
    assert_int_equal(encode->head.fields.size, 1);

    world_result(&world, ENCODE, encode, world_prompt);
    struct msg *infer = world_take(&world, INFER, MSG_JOB);
    assert_string_equal(world_names(infer), "ids cuts");

    world_tokens(&world, INFER, infer, 0, 0, 2, false);
    struct msg *format = world_take(&world, FORMAT, MSG_JOB);
    assert_string_equal(world_names(format), "start tokens");
    assert_int_equal(format->head.skip, 0);
    assert_int_equal(format->head.blobs[1].dims[0], 2);
    world_bytes(&world, FORMAT, format, 0, 2, "ab", false);
    world_assert_bytes(&world, "ab", false);
    assert_false(world_action(&world, ACTION_BYTES, 0)->bytes_sent);

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
    world_assert_bytes(&world, "c!", true);
    assert_true(world_action(&world, ACTION_BYTES, 0)->bytes_sent);
    assert_int_equal(world_requests(&world), 0);
    world_free_msg(encode);
    world_free_msg(infer);
    world_free_msg(format);
    world_close(&world);
}

static uint64_t reserved(const struct world *world)
{
    struct ledger_counts counts;

    ledger_counts(world->ledger, &counts);
    return counts.reserved_bytes;
}

static void test_media_keep_their_order(void **state)
{
    (void)state;
    struct world world;
    const struct piece in[] = {{.name = "image", .text = "I1"}, {.name = "audio", .text = "A1"},
                               {.name = "turns", .text = "T"},  {.name = "image", .text = "I2"},
                               {.name = "tools", .text = "{}"}, {0}};
    const struct piece frames[] = {{.name = "image.rgb", .text = "F1"},
                                   {.name = "audio.pcm", .text = "S1"},
                                   {.name = "image.rgb", .text = "F2"},
                                   {0}};
    const struct piece prompt[] = {{.name = "ids", .first = 1, .n = 3},
                                   {.name = "spans", .first = 1, .n = 3},
                                   {.name = "soft", .first = 1, .n = 3},
                                   {.name = "start", .text = "0"},
                                   {0}};

    world_line(&world, NULL);
    struct ledger_event event = world_request(&world, 1);
    event.reserve_bytes = 0; /* so that what is held is seen */
    world_admit(&world, event, in);
    assert_int_equal(reserved(&world), 9);
    struct msg *job = world_take(&world, INGEST, MSG_JOB);
    assert_string_equal(world_names(job), "image audio image");
    world_result(&world, INGEST, job, frames); /* in the place of what they were made of */
    assert_int_equal(reserved(&world), 3 + 6);
    world_free_msg(job);
    job = world_take(&world, ENCODE, MSG_JOB);
    assert_string_equal(world_names(job), "turns tools image.rgb audio.pcm image.rgb");
    assert_memory_equal(blob_data(job->blobs[4]), "F2", 2);
    world_result(&world, ENCODE, job, prompt); /* the frames are let go */
    assert_int_equal(reserved(&world), 3 + 37);
    world_free_msg(job);
    job = world_take(&world, INFER, MSG_JOB);
    assert_string_equal(world_names(job), "ids spans soft");
    world_free_msg(job);
    world_close(&world);
}

/* A video becomes two or three blobs; what is said of it goes round encode and infer to format. */
static void test_a_video_becomes_several_blobs(void **state)
{
    (void)state;
    const struct piece in[] = {{.name = "turns", .text = "T"},
                               {.name = "video", .text = "V1"},
                               {.name = "video", .text = "V2"},
                               {0}};
    const struct piece frames[] = {{.name = "video.rgb", .text = "F1"},
                                   {.name = "video.times", .text = "T1"},
                                   {.name = "video.pcm", .text = "S1"},
                                   {.name = "video.rgb", .text = "F2"},
                                   {.name = "video.times", .text = "T2"},
                                   {.name = "notes", .text = "[]"},
                                   {0}};
    const struct piece wrong[][4] = {
        {{.name = "video.rgb", .text = "F1"}, {.name = "video.times", .text = "T1"}, {0}},
        {{.name = "video.times", .text = "T1"}, {.name = "video.rgb", .text = "F1"}, {0}},
        {{.name = "notes", .text = "[]"}, {.name = "video.rgb"}, {.name = "video.rgb"}, {0}},
        {{.name = "video.rgb"}, {.name = "video.rgb"}, {.name = "video.rgb"}, {0}},
        {{.name = "video.rgb"}, {.name = "video.rgb"}, {.name = "image.rgb"}, {0}}};

    for (size_t i = 0; i <= sizeof wrong / sizeof *wrong; i++) {
        struct world world;
        bool right = i == sizeof wrong / sizeof *wrong;
        world_line(&world, NULL);
        world_admit(&world, world_request(&world, 1), in);
        struct msg *job = world_take(&world, INGEST, MSG_JOB);
        assert_string_equal(world_names(job), "video video");
        world_result(&world, INGEST, job, right ? frames : wrong[i]);
        world_free_msg(job);
        if (right) {
            job = world_take(&world, ENCODE, MSG_JOB);
            assert_string_equal(world_names(job), "turns video.rgb video.times video.pcm video.rgb "
                                                  "video.times");
            world_result(&world, ENCODE, job, world_prompt);
            world_free_msg(job);
            job = world_take(&world, INFER, MSG_JOB);
            world_tokens(&world, INFER, job, 0, 0, 1, false);
            world_free_msg(job);
            job = world_take(&world, FORMAT, MSG_JOB);
            assert_string_equal(world_names(job), "notes start tokens");
            world_free_msg(job);
        } else {
            assert_null(world_sent(&world, ENCODE, MSG_JOB, 0));
        }
        world_close(&world);
    }
}

static void test_a_stage_of_its_own_replaces_what_it_names(void **state)
{
    (void)state;
    struct world world;
    const struct piece in[] = {{.name = "text", .text = "a"},
                               {.name = "image", .text = "I"},
                               {.name = "text", .text = "b"},
                               {.name = "text", .text = "c"},
                               {0}};
    const struct piece upper[] = {{.name = "text", .text = "A"},
                                  {.name = "text", .text = "B"},
                                  {.name = "note", .text = "n"},
                                  {0}};
    const struct piece nothing[] = {{.name = "text", .text = "z"}, {0}};
    const struct piece answer[] = {
        {.name = "note", .text = "x"}, {.name = "bytes", .text = "AB"}, {0}};

    world_open(&world, NULL);
    world_hello(&world, OTHER, "upper", 1);
    world_hello(&world, OTHER + 1, "lower", 1);
    struct ledger_event event = world_request(&world, 1);
    event.pipeline = 1;
    world_admit(&world, event, in);
    struct msg *job = world_take(&world, OTHER, MSG_JOB);
    assert_string_equal(world_names(job), "text image text text");
    world_result(&world, OTHER, job, upper);
    world_free_msg(job);
    job = world_take(&world, OTHER + 1, MSG_JOB);
    assert_string_equal(world_names(job), "text image text note");
    assert_memory_equal(blob_data(job->blobs[2]), "B", 1);
    world_result(&world, OTHER + 1, job, nothing); /* the last one owes the answer */
    assert_non_null(world_sent(&world, OTHER + 1, MSG_CANCEL, 0));
    world_free_msg(job);
    world_credit(&world, OTHER + 1, 1);
    job = world_take(&world, OTHER + 1, MSG_JOB);
    world_result(&world, OTHER + 1, job, answer);
    world_assert_bytes(&world, "AB", true);
    world_free_msg(job);
    world_close(&world);
}

static void test_a_client_that_leaves_sets_off_cancels(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    struct msg *infer = world_to_infer(&world, 1);
    world_tokens(&world, INFER, infer, 0, 0, 1, false);
    struct msg *format = world_take(&world, FORMAT, MSG_JOB);
    world_step(&world, &(struct ledger_event){.kind = EVENT_CLIENT_GONE, .rid = infer->head.rid});
    struct msg *cancel = world_sent(&world, INFER, MSG_CANCEL, 0);
    assert_non_null(cancel);
    assert_int_equal(cancel->head.epoch, infer->head.epoch);
    assert_non_null(world_sent(&world, FORMAT, MSG_CANCEL, 0));
    assert_null(world_action(&world, ACTION_END, 0));
    assert_int_equal(world_requests(&world), 0);

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

static void test_a_request_s_own_fault_ends_it(void **state)
{
    (void)state;
    struct world world;

    world_line(&world, NULL);
    world_admit(&world, world_request(&world, 1), world_text);
    struct msg *job = world_take(&world, ENCODE, MSG_JOB);
    struct head head = {.kind = MSG_FAILED,
                        .rid = job->head.rid,
                        .epoch = job->head.epoch,
                        .code = STATUS_TOO_LARGE,
                        .fault = FAULT_REQUEST,
                        .text = "the prompt has 9 tokens of 8"};
    world_message(&world, ENCODE, &head, NO_PIECES);
    world_assert_end(&world, 1, STATUS_TOO_LARGE);
    assert_string_equal(world_action(&world, ACTION_END, 0)->text, head.text);
    assert_false(world_action(&world, ACTION_END, 0)->bytes_sent);
    assert_null(world_sent(&world, ENCODE, MSG_CANCEL, 0));
    assert_int_equal(world_requests(&world), 0);
    world_free_msg(job);
    world_close(&world);
}

static void test_deadlines_end_requests_and_say_what_was_missing(void **state)
{
    (void)state;
    struct ledger_config config = world_config();
    struct world world;

    config.beat_interval_us = 60000000; /* nobody is silent here */
    world_line(&world, &config);
    world_gone(&world, FORMAT);
    world_free_msg(world_to_infer(&world, 1));
    world_pass(&world, world.now_us + 59999999);
    assert_null(world_action(&world, ACTION_END, 0));
    world_pass(&world, world.now_us + 1);
    world_assert_end(&world, 1, STATUS_DEADLINE);
    assert_non_null(world_sent(&world, INFER, MSG_CANCEL, 0));

    struct msg *infer = world_to_infer(&world, 2);
    world_tokens(&world, INFER, infer, 0, 0, 1, true);
    world_pass(&world, world.now_us + 60000000);
    world_assert_end(&world, 2, STATUS_UNAVAILABLE);
    assert_non_null(strstr(world_action(&world, ACTION_END, 0)->text, "'format'"));
    world_free_msg(infer);
    world_close(&world);
}

static void test_a_result_that_has_no_room_ends_its_request(void **state)
{
    (void)state;
    struct ledger_config config = world_config();
    struct world world;
    char large[600];
    struct piece prompt[] = {{.name = "ids", .text = large}, {.name = "start", .text = "0"}, {0}};
    struct ledger_counts counts;
    unsigned number = 1;

    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    config.memory_max_bytes = 1500;
    world_line(&world, &config);
    for (; number <= 3; number++) {
        struct ledger_event event = world_request(&world, number);
        event.reserve_bytes = 200;
        world_admit(&world, event, world_text);
        struct msg *job = world_take(&world, ENCODE, MSG_JOB);
        world_result(&world, ENCODE, job, prompt); /* with "T": 601 bytes */
        world_free_msg(job);
        ledger_counts(world.ledger, &counts);
        assert_int_equal(counts.reserved_bytes, 601 * (number < 3 ? number : 2));
    }
    world_assert_end(&world, 3, STATUS_LIMIT);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pipelines_that_cannot_work_are_refused),
        cmocka_unit_test(test_stages_of_all_pipelines_are_limited),
        cmocka_unit_test(test_requests_beyond_count_and_memory_are_refused),
        cmocka_unit_test(test_a_stopping_gateway_takes_no_requests),
        cmocka_unit_test(test_no_time_and_too_many_parts_are_refused),
        cmocka_unit_test(test_a_request_s_own_fault_ends_it),
        cmocka_unit_test(test_a_result_that_has_no_room_ends_its_request),
        cmocka_unit_test(test_a_text_request_goes_through),
        cmocka_unit_test(test_media_keep_their_order),
        cmocka_unit_test(test_a_video_becomes_several_blobs),
        cmocka_unit_test(test_a_stage_of_its_own_replaces_what_it_names),
        cmocka_unit_test(test_a_client_that_leaves_sets_off_cancels),
        cmocka_unit_test(test_deadlines_end_requests_and_say_what_was_missing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
